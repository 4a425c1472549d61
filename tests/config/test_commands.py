"""`ftloop COMMAND`: one command for all that the modules do, and what it says to a word that is none."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from harness.command import CHECKOUT
from harness.other_systems import OtherSystem

from ftloop.__main__ import COMMANDS, main
from ftloop.config import reproduce
from ftloop.config.recipe import SHIPPED
from ftloop.config.reproduce import ftloop_command, shell_line
from ftloop.errors import ExitCode
from ftloop.system import shell
from ftloop.version import __version__


def run_module(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "80"}
    command = [sys.executable, "-m", "ftloop", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_every_command_is_listed_and_has_a_help_of_its_own(tmp_path: Path) -> None:
    listed = run_module("--help", folder=tmp_path)
    assert listed.returncode == ExitCode.DONE
    assert run_module(folder=tmp_path).stdout == listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80
    for name in COMMANDS:
        assert f"\n  {name} " in listed.stdout
        told = run_module(name, "--help", folder=tmp_path)
        assert told.returncode == ExitCode.DONE
        assert told.stdout.startswith(f"usage: ftloop {name} "), name
        assert max(map(len, told.stdout.splitlines())) <= 80, name


def test_a_command_that_is_installed_is_this_one() -> None:
    (script,) = entry_points(group="console_scripts", name="ftloop")
    assert script.load() is main


def test_the_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    done = run_module("report", "nowhere", folder=tmp_path)
    assert done.returncode == ExitCode.USER_ERROR
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("word", [*SHIPPED, "my.yaml", "--train_file"])
def test_what_is_for_training_is_sent_there(word: str, stderr_of: Callable[..., str]) -> None:
    assert f"is for the command train: ftloop train {word} ..." in stderr_of(main, [word])


def test_a_word_that_is_no_command_is_told_with_those_there_are(stderr_of: Callable[..., str]) -> None:
    told = stderr_of(main, ["predcit"])
    every = "train, predict, report, seeds, runs, calibrate, compare"
    assert f"'predcit': no such command, which are {every}; did you mean predict?" in told


def test_commands_are_printed_as_they_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "my env"
    (environment / "bin").mkdir(parents=True)
    for name in ("python", "ftloop"):
        (environment / "bin" / name).touch(0o755)
    monkeypatch.setattr("sys.executable", str(environment / "bin" / "python"))
    monkeypatch.setenv("PATH", str(environment / "bin"))
    assert ftloop_command("report", "runs/it's mine") == """ftloop report 'runs/it'"'"'s mine'"""
    monkeypatch.setenv("PATH", os.defpath)
    assert shlex.split(ftloop_command("report")) == [str(environment / "bin" / "ftloop"), "report"]
    monkeypatch.chdir(tmp_path)
    assert shlex.split(ftloop_command("report")) == ["my env/bin/ftloop", "report"]
    (environment / "bin" / "ftloop").unlink()
    assert shlex.split(ftloop_command("report")) == ["my env/bin/python", "-m", "ftloop", "report"]


def test_commands_are_printed_as_windows_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (shell, reproduce):
        monkeypatch.setattr(module, "sys", OtherSystem("win32"))
    for name in ("python.exe", "ftloop.exe"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python.exe"))
    monkeypatch.chdir(tmp_path)
    assert ftloop_command("report", r"runs\mine") == r"ftloop.exe report runs\mine"
    quoted = {"my runs": '"my runs"', ";": '";"', "|": '"|"', "": '""', 'say "a"': r'"say \"a\""', "a;\\": '"a;\\\\"'}
    assert {word: shell.quote(word) for word in quoted} == quoted
    words = ["OMP_NUM_THREADS=8", "ACCELERATE_USE_CPU=true", "python", "-m", "ftloop.train", "--output_dir", "my runs"]
    line = 'python -m ftloop.train --output_dir "my runs"'
    assert shell_line(words) == f"set OMP_NUM_THREADS=8\nset ACCELERATE_USE_CPU=true\n{line}"


@pytest.mark.parametrize("word", ["eval", "evaluate", "test", "score"])
def test_whoever_wants_to_score_a_model_is_sent_to_predict(word: str, stderr_of: Callable[..., str]) -> None:
    told = stderr_of(main, [word])
    assert "ftloop predict --model DIR --input FILE --output FILE --label_column_name NAME" in told


def test_versions_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out.startswith(f"ftloop {__version__} (Python 3.")


@pytest.mark.parametrize("words", [["-m", "ftloop", "--version"], [str(CHECKOUT / "ftloop" / "train.py"), "demo"]])
def test_a_python_without_what_is_needed_is_told_in_a_line(words: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "80"}
    command = [sys.executable, "-S", *words]  # -S: without its installed packages
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert ended.returncode == ExitCode.USER_ERROR
    assert ended.stderr.startswith(f"error: this Python, {sys.executable}, has no ")
    assert ended.stderr.count("\n") == 1
    assert "torch" in ended.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="Windows has no SIGPIPE, a signal of POSIX")
def test_a_help_that_nobody_reads_to_its_end_ends_in_silence(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "ftloop", "--help"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, cwd=tmp_path, env=environment)
    os.close(writing)
    assert ended.returncode == -signal.SIGPIPE
    assert ended.stderr == b""
