"""The commands, whatever they are given: a message for a mistake, a traceback for a bug."""

from __future__ import annotations

import csv
import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.untrusted import fresh, words_of

import ftloop
from ftloop.errors import ExitCode
from ftloop.inference.__main__ import main as predict_main
from ftloop.train import main

vars(ftloop).pop("train", None)  # so that `from ftloop import train` is the function again, for other tests
pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")


def test_a_mistake_has_no_traceback_but_on_request(stderr_of: Any, tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path / "out"), "--model_name_or_path", str(tmp_path)]
    told = stderr_of(main, words)
    assert told.startswith(f"error: model_name_or_path: {tmp_path} is not a model folder (it has no config.json)")
    shown = stderr_of(main, [*words, "--traceback"])
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.endswith(told)


def test_what_argparse_has_to_say_is_an_error_like_any_other(stderr_of: Any) -> None:
    assert stderr_of(main, ["--seed"]) == "error: argument --seed: expected one argument; --help-all lists every flag\n"


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.ELOOP, errno.EDQUOT, errno.EISDIR]
)
def test_what_the_system_has_against_a_file_is_one_line_with_its_name(
    code: int, stderr_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any) -> None:
        raise OSError(code, os.strerror(code), "some/file")

    monkeypatch.setattr(importlib.import_module("ftloop.job.fine_tune"), "fine_tune", fail)
    assert stderr_of(main, ["guide"]) == f"error: some/file: {os.strerror(code)}\n"


@pytest.mark.parametrize("fault", [RuntimeError("a\nb"), AssertionError(), OSError(errno.ENOTCONN, "x"), KeyError("k")])
def test_a_fault_keeps_its_traceback_and_is_said_to_be_one(
    fault: Exception, stderr_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any) -> None:
        raise fault

    monkeypatch.setattr(importlib.import_module("ftloop.job.fine_tune"), "fine_tune", fail)
    printed = stderr_of(main, ["guide"], code=ExitCode.BUG)
    assert printed.startswith("Traceback (most recent call last)")
    assert printed.endswith(f"error: a fault in ftloop or in a library below it: {type(fault).__name__}\n")


def test_the_first_process_reports_mistakes_and_each_its_own_bug(
    stderr_of: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")

    def ended(seconds: float) -> None:
        raise SystemExit(-15)  # by the launcher, because the first process has failed

    monkeypatch.setattr("ftloop.system.exit.time.sleep", ended)
    with pytest.raises(SystemExit):
        main(["no-such-recipe"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("ftloop.system.exit.time.sleep", lambda seconds: None)
    assert stderr_of(main, ["no-such-recipe"]).startswith("error in process 1: recipe 'no-such-recipe'")
    monkeypatch.setattr(importlib.import_module("ftloop.job.fine_tune"), "fine_tune", lambda *_: 1 / 0)
    assert stderr_of(main, ["guide"], ExitCode.BUG).splitlines()[-1].startswith("error in process 1: a fault")


def test_an_output_dir_where_nothing_can_be_written_is_told(
    stderr_of: Any, tiny_folder: Path, tmp_path: Path, tried: dict[str, int]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "below")
    for output_dir in (
        tmp_path / "file",
        tmp_path / "file" / "below",
        tmp_path / "loop",
        tmp_path / "loop" / "below",
        tmp_path / "dangling",
        tmp_path / ("n" * 300),
        tmp_path / "/".join(["n" * 200] * 30),
        "/proc/none",
        "~no-such-person/out",
    ):
        tried["configurations"] += 1
        printed = stderr_of(main, words_of(tiny_folder, Path(output_dir)))
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert "Traceback" not in printed


def test_predict_tells_a_mistake_without_a_traceback(
    stderr_of: Any, model_folder: Path, tmp_path: Path, tried: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(model_folder)]
    (model_folder / "not.json").write_text("")
    for words, told in {
        ("--model", str(tmp_path), "a"): "is no model itself, and holds one; give ",
        ("--model", "no-such-model", "a"): "no model folder at no-such-model",
        ("--model", "~no-such-person/x", "a"): "no such home folder",
        ("--model", "n" * 300, "a"): "cannot be read (File name too long)",
        ("--model", "a\0b", "a"): "holds a NUL",
        (*model, "--pairs", "a"): "are not pairs",
        (*model, "--max_seq_length", "-1", "a"): "leaves no room",
        (*model, "--max_seq_length", "2", "a"): "leaves no room",
        (*model, "--max_seq_length", "1000", "a"): "longer than the 64 tokens",
        (*model, "a\udcff"): "is not UTF-8",
    }.items():
        tried["configurations"] += 1
        printed = stderr_of(predict_main, list(words))
        assert told in printed
        assert printed.count("\n") == 1
    assert "Traceback" in stderr_of(predict_main, ["--model", str(tmp_path), "a", "--traceback"])
    assert predict_main([*model, "", "yes word1 😀 שלום", "yes " * 1000]) == ExitCode.DONE
    assert [json.loads(line)["text"][:3] for line in capsys.readouterr().out.splitlines()] == ["", "yes", "yes"]


def test_rows_read_but_not_used_are_counted_on_the_console(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (tiny_folder / "train.jsonl").read_text().splitlines()
    train = fresh(tmp_path, "train.jsonl", "\n\n".join([*rows, ""]).encode())
    words = [*words_of(tiny_folder, tmp_path / "out"), "--train_file", str(train), "--max_steps", "1"]
    words += ["--test_file", str(tiny_folder / "test.jsonl"), "--per_device_train_batch_size", "8"]
    limits = ["--max_train_samples", "20", "--max_eval_samples", "12", "--max_predict_samples", "10"]
    assert main([*words, *limits, "--dataloader_drop_last", "--trainer_compat"]) == ExitCode.DONE
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Dropped")]
    assert line.split("; ") == [
        "Dropped   train: 9 of 29 rows (max_train_samples), 4 rows of each epoch (dataloader_drop_last)",
        "validation: 1 of 13 rows (max_eval_samples), 4 rows (dataloader_drop_last)",
        "test: 1 of 11 rows (max_predict_samples), 2 rows (dataloader_drop_last)",
    ]


def test_nothing_is_said_to_be_dropped_where_nothing_was(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words_of(tiny_folder, tmp_path / "out"), "--max_steps", "1", "--max_train_samples", "29"]
    assert main([*words, "--dataloader_drop_last", "--per_device_train_batch_size", "29"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "Data      train 29, validation 13 rows" in printed
    assert "Dropped" not in printed


def test_names_from_files_cannot_command_the_console(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "a", "label": label} for label in ("\x1b[2J", "a\tb\nc", "😀", "\u202eabc")]
    train = fresh(tmp_path, "train.jsonl", "\n".join(map(json.dumps, rows)).encode())
    test = fresh(tmp_path, "test.jsonl", b'{"text": "yes"}\n{"text": "no"}')
    words = words_of(tiny_folder, tmp_path / "out")
    words = [word for word in words if "_file=" not in word] + ["--train_file", str(train), "--test_file", str(test)]
    assert main([*words, "--max_steps", "1"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert r"(0=\x1b[2J, 1=a\tb\nc, 2=\u202eabc, 3=😀)" in printed
    assert "\x1b" not in printed
    with (tmp_path / "out" / "test_predictions.tsv").open(newline="") as file:
        table = list(csv.reader(file, delimiter="\t"))
    assert table[0] == ["index", "prediction", "score"]
    assert [len(line) for line in table] == [3, 3, 3]
    assert {line[1] for line in table[1:]} <= {row["label"] for row in rows}


@pytest.mark.slow
def test_a_mistake_is_told_once_by_two_processes_and_odd_sizes_train(tiny_folder: Path, tmp_path: Path) -> None:
    """Two training rows and one to evaluate: fewer than a batch, and than there are processes."""

    def launch(*words: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*launcher, str(Path(ftloop.__file__).parent / "train.py"), "--use_cpu", "--save_strategy=no", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    bad = fresh(tmp_path, "bad.jsonl", b'{"text": "a", "label": 0}\n{"text":\n')
    two = fresh(tmp_path, "two.jsonl", b'{"text": "yes", "label": 0}\n{"text": "no", "label": 1}\n')
    one = fresh(tmp_path, "one.jsonl", b'{"text": "yes", "label": 0}')
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--output_dir", str(tmp_path / "out")]
    for faulty in (["--train_file", str(bad)], ["--train_file", str(two), "--seed", "many"]):
        failed = launch(*words, *faulty)
        assert failed.returncode != 0
        assert failed.stderr.count("error: ") == 1, failed.stderr
        assert "error in process" not in failed.stderr
        assert failed.stderr.count("Traceback") == 1, "the launcher's own"
    files = [f"--train_file={two}", f"--validation_file={one}", f"--test_file={one}", "--num_train_epochs=1"]
    done = launch(*words, *files)
    assert done.returncode == 0, done.stderr
    assert "Data      train 2, validation 1, test 1 rows" in done.stdout
    assert json.loads((tmp_path / "out" / "test_results.json").read_text())["test_accuracy"] in (0.0, 1.0)


@pytest.mark.slow
def test_a_console_that_knows_ascii_alone_ends_no_run(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in ("😀", "größe")]
    train = fresh(tmp_path, "train.jsonl", "\n".join(map(json.dumps, rows)).encode())
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--train_file", str(train), "--use_cpu"]
    command = [sys.executable, str(Path(ftloop.__file__).parent / "train.py"), *words, "--max_steps=1"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "größe")], capture_output=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert rb"(0=gr\xf6\xdfe, 1=\U0001f600)" in done.stdout
