"""What macOS and Windows do not have is not asked for. Tried on Linux, with those functions taken away."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness.command import CHECKOUT, WORKERS, run
from harness.fake_gpus import FakeGPUs
from harness.other_systems import OtherSystem, open_files, windows

import ftloop.inference.__main__
import ftloop.job.fine_tune
import ftloop.job.seeds
import ftloop.report.report
from ftloop import UserError
from ftloop.checkpoint.resume import find_best
from ftloop.config.problem_type import ProblemType
from ftloop.data.sources import find_source
from ftloop.errors import ExitCode
from ftloop.explain.narrator import moved_since, random_states
from ftloop.inference import command, writers
from ftloop.inference.writers import find_output
from ftloop.logs import Logs
from ftloop.run.state import Phase
from ftloop.system import atomic, signals
from ftloop.system.console import say
from ftloop.system.hub import local_model_folder
from ftloop.system.lock import FAR, LOCK, lock_folder
from ftloop.system.stopping import StopRequest
from ftloop.system.writable import check_writable
from ftloop.train import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which files are open")


def words(tiny_folder: Path, output_dir: Path) -> list[str]:
    settings = {
        "model_name_or_path": tiny_folder / "model",
        "train_file": tiny_folder / "train.jsonl",
        "validation_file": tiny_folder / "validation.jsonl",
        "test_file": tiny_folder / "test.jsonl",
        "output_dir": output_dir,
        "num_train_epochs": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 3,
        "load_best_model_at_end": "true",
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def test_a_run_is_saved_killed_resumed_and_predicts_where_posix_and_glibc_are_missing(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_folder, tmp_path / "here")) == 0
    with windows(tmp_path):
        assert main(words(tiny_folder, tmp_path / "there")) == 0
        assert not (tmp_path / "there" / LOCK).exists()
        weights = (tmp_path / "there" / "model.safetensors").read_bytes()
        assert weights == (tmp_path / "here" / "model.safetensors").read_bytes()
        killed = tmp_path / "killed"  # as one leaves it that dies while it saves for the last time
        shutil.copytree(tmp_path / "there" / "checkpoint-6", killed / "checkpoint-6")
        (killed / ".staging-checkpoint-8").mkdir()
        (killed / ".trainer_state.json.partial").write_text("{")
        (killed / LOCK).write_text("process 1 on it\n")
        assert main([*words(tiny_folder, killed), "--resume_from_checkpoint", "last"]) == 0
        assert not [path.name for path in killed.iterdir() if path.name.startswith(".")]
        assert (killed / "model.safetensors").read_bytes() == weights
        said = capsys.readouterr()
        assert "Resuming  after update 6 of 8" in said.out
        assert "failed" not in said.out + said.err
        predictions = tmp_path / "predictions.csv"
        predict = ["--model", str(killed), "--input", str(tiny_folder / "test.jsonl"), "--output", str(predictions)]
        assert ftloop.inference.__main__.main(predict) == 0
    assert len(predictions.read_text().splitlines()) == 12


def test_a_model_is_fine_tuned_into_the_folder_that_it_came_from_on_windows(tiny_folder: Path, tmp_path: Path) -> None:
    """Windows replaces no file that is mapped into memory, as the weights that were loaded from it are."""
    shutil.copytree(tiny_folder / "model", tmp_path / "mine")
    before = (tmp_path / "mine" / "model.safetensors").read_bytes()
    model = ["--model_name_or_path", str(tmp_path / "mine"), "--max_steps", "2"]
    with windows(tmp_path):
        assert main([*words(tiny_folder, tmp_path / "mine"), *model]) == 0
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() != before


def test_what_is_taken_away_is_missed(tmp_path: Path) -> None:
    """Else this file would show nothing."""
    with windows(tmp_path):
        for missing in ("os.pread(0, 1, 0)", "os.sched_getaffinity(0)", "os.open('.', os.O_RDONLY)"):
            with pytest.raises((AttributeError, PermissionError)):
                eval(missing)
        with pytest.raises(ImportError):
            import fcntl  # noqa: F401


def test_a_file_that_is_open_is_neither_moved_nor_deleted_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with windows(tmp_path), open(tmp_path / "file") as file:
        assert str(tmp_path / "file") in open_files()
        for change in (lambda: os.replace(tmp_path / "file", tmp_path / "other"), (tmp_path / "file").unlink):
            with pytest.raises(PermissionError):
                change()
        file.close()
        os.replace(tmp_path / "file", tmp_path / "other")


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_is_written_to(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(file: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(error, "fsync")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_text(tmp_path / "file", "text\n")
    assert (tmp_path / "file").read_bytes() == b"text\n"
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.EIO, "the disk is broken")))
    with pytest.raises(OSError, match="the disk is broken"):
        atomic.write_text(tmp_path / "other", "text")


def test_a_second_run_is_kept_out_there_too_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("process 4711 on it\n")
    code = (
        f"import fcntl, time; file = open({str(tmp_path / LOCK)!r}, 'r+')\n"
        f"fcntl.lockf(file, fcntl.LOCK_EX, 1, {FAR}); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with windows(tmp_path):
        with pytest.raises(UserError, match=r"another run is using .*\(process 4711 on it\)"), lock_folder(tmp_path):
            pass
        os.kill(holder.pid, 9)
        holder.wait()
        with lock_folder(tmp_path):
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
        assert not (tmp_path / LOCK).exists()


def test_a_console_of_another_encoding_ends_no_run_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    say("Labels", "schön, 良い")
    console.flush()
    assert console.buffer.getvalue().decode("cp1252") == "Labels    schön, \\u826f\\u3044\n"  # type: ignore[attr-defined]


def test_a_stream_that_only_writes_in_the_place_of_the_console_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As people write them who want what is printed in a file, too."""
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    say("Labels", "0=no, 1=yes")
    assert "".join(written) == "Labels    0=no, 1=yes\n"


def test_asking_whether_a_process_lives_sends_it_nothing_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *signal: sent.append(signal))
    monkeypatch.setattr(ftloop.report.report, "sys", OtherSystem("win32"))
    assert ftloop.report.report._is_alive("4711")
    assert not ftloop.report.report._is_alive(str(os.getpid()))
    assert not sent


def test_a_pipe_is_copied_to_a_file_that_can_be_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a NamedTemporaryFile cannot."""
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", None)
    os.mkfifo(tmp_path / "rows.csv")
    writer = threading.Thread(target=(tmp_path / "rows.csv").write_text, args=("text\nyes\n",))
    writer.start()
    with find_source(str(tmp_path / "rows.csv"), "csv", read_twice=True) as source:
        for _ in range(2):
            with source.open() as file:
                assert file.read() == b"text\nyes\n"
        assert source.path is not None
    writer.join()
    assert not source.path.exists()


def test_the_best_checkpoint_of_a_run_that_was_made_on_windows_is_found_beside_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    run: Any = SimpleNamespace(rules=SimpleNamespace(resumes_exactly=True))
    for best in (r"C:\runs\mine\checkpoint-3", "runs/mine/checkpoint-3"):
        assert find_best(run, tmp_path, best) == str(tmp_path / "checkpoint-3")


def test_a_path_of_windows_is_no_name_on_the_hub() -> None:
    with pytest.raises(UserError, match="no model folder at"):
        local_model_folder(r"models\mine", "model_name_or_path")


STARTED = """
import multiprocessing, os, signal, sys
from ftloop.system.signals import WorkerContext, ignore_signals_in_worker

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    context = WorkerContext()
    queue = context.Queue()  # as a loader makes one first
    workers = [context.Process(target=ignore_signals_in_worker, args=(0,)) for _ in range(3)]
    for worker in workers:
        worker.start()
        for name in sys.argv[2:]:
            os.kill(worker.pid, getattr(signal, name))
    for worker in workers:
        worker.join()
    print([worker.exitcode for worker in workers])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_no_signal_to_all_of_a_group_ends_a_worker_that_is_being_started(method: str, tmp_path: Path) -> None:
    """On macOS and Windows it has to start Python and import torch before it can ignore one."""
    (tmp_path / "start.py").write_text(STARTED)
    done = run(sys.executable, str(tmp_path / "start.py"), method, *signals.SIGNALS, PYTHONPATH=str(CHECKOUT))
    assert done.stdout == "[0, 0, 0]\n"


def test_a_ctrl_c_while_a_worker_is_being_started_comes_to_the_run_a_moment_later() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    with signals._signals_held():
        signal.raise_signal(signal.SIGINT)  # to this thread: of a process's own, another thread may take it
        assert not came
    assert came == [signal.SIGINT]
    signal.signal(signal.SIGINT, before)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_windows_lets_workers_that_are_being_started_ignore_a_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, bool]] = []
    kernel = SimpleNamespace(SetConsoleCtrlHandler=lambda *words: asked.append(words))
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(signals, "sys", OtherSystem("win32"))
    with signals._signals_held():
        assert asked == [(None, True)]
    assert asked == [(None, True), (None, False)]


def held(times: int, real: Any = os.replace) -> Any:
    """Refuse a rename so many times, as Windows does while another program looks at a file."""
    refusals = [PermissionError(errno.EACCES, "Access is denied")] * times

    def replace(*paths: Any) -> None:
        if refusals:
            raise refusals.pop()
        real(*paths)

    return replace


def test_a_file_that_a_scanner_holds_for_a_moment_is_renamed_after_it_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(atomic.time, "sleep", slept.append)
    monkeypatch.setattr(atomic, "sys", OtherSystem("win32"))
    monkeypatch.setattr(os, "replace", held(4))
    (tmp_path / ".staging-checkpoint-1").mkdir()
    atomic.commit_folder(tmp_path / ".staging-checkpoint-1", tmp_path / "checkpoint-1")
    assert (tmp_path / "checkpoint-1").is_dir()
    assert slept == [0.1, 0.2, 0.4, 0.8]
    monkeypatch.setattr(os, "replace", held(6))
    with pytest.raises(PermissionError):
        atomic.write_text(tmp_path / "file", "text")
    monkeypatch.setattr(atomic, "sys", sys)  # elsewhere it is no passing matter
    monkeypatch.setattr(os, "replace", held(1))
    with pytest.raises(PermissionError):
        atomic.write_text(tmp_path / "file", "text")
    assert len(slept) == 9


def test_macos_is_asked_for_more_than_the_cache_of_the_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    asked: list[str] = []

    def control(file: int, command: int) -> None:
        assert command == 51
        asked.append(os.readlink(f"/proc/self/fd/{file}"))
        raise OSError(errno.ENOTSUP, "a file system without it")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(atomic, "sys", OtherSystem("darwin"))
    atomic.write_text(tmp_path / "file", "text")
    assert asked == [str(tmp_path / ".file.partial"), str(tmp_path)]


def test_a_drive_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with pytest.raises(UserError, match=r"^record: runs cannot be written .there is no drive /.$"):
        check_writable("runs", "record")
    with pytest.raises(UserError, match=r"^output: new/p.csv cannot be written .there is no drive /.$"):
        find_output("new/p.csv", None, [])


def test_an_output_that_another_program_holds_is_told_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.csv").write_text("text\n")
    assert find_output(str(tmp_path / "p.csv"), None, []).path == tmp_path / "p.csv"

    def refusing(path: Path, mode: str) -> None:
        assert mode == "r+b"  # which leaves what is in it
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(writers, "open", refusing, raising=False)
    assert find_output(str(tmp_path / "p.csv"), None, []).path == tmp_path / "p.csv"
    monkeypatch.setattr(writers, "sys", OtherSystem("win32"))
    with pytest.raises(UserError, match=r"p.csv' cannot be written .Permission denied.; is it open in another program"):
        find_output(str(tmp_path / "p.csv"), None, [])
    assert (tmp_path / "p.csv").read_text() == "text\n"


def test_predictions_whose_place_cannot_be_taken_are_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = writers.find_output(str(tmp_path / "p.csv"), None, [])
    monkeypatch.setattr(os, "replace", held(9))
    told = r"replaced .Access is denied.; every prediction is in .*/\.p\.csv\.writing, under"
    with pytest.raises(UserError, match=told), writers._opened_to_write(output) as file:
        file.write(b"text,label\n")
    assert [path.name for path in tmp_path.iterdir()] == [".p.csv.writing"]
    assert (tmp_path / ".p.csv.writing").read_bytes() == b"text,label\n"


def test_no_rate_is_told_where_the_clock_has_not_moved() -> None:
    job: Any = SimpleNamespace(rows=2, bad=0, truncated=0, special=0)
    assert command._summary(job, SimpleNamespace(), "p.csv", 0.0) == "2 rows into p.csv in 0.0 s"  # type: ignore[arg-type]
    assert command._summary(job, SimpleNamespace(), "p.csv", 0.5) == "2 rows into p.csv in 0.5 s (4 rows/s)"  # type: ignore[arg-type]


def test_an_evaluation_within_one_tick_of_the_clock_is_in_the_log_history() -> None:
    logs: Any = Logs.__new__(Logs)
    logged: list[Any] = []
    logs.run, logs.record = SimpleNamespace(eval_sets=lambda: {"eval_a": [], "eval_b": []}), logged.append
    a = {"eval_a_loss": 1.0, "eval_a_runtime": 0.0}
    b = {"eval_b_loss": 2.0, "eval_b_runtime": 0.0, "eval_b_samples_per_second": 1.0, "eval_b_steps_per_second": 1.0}
    logs.evaluation(a | b, Phase.NONE)
    assert logged == [a, b]


def test_json_on_a_console_of_another_encoding_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction: Any = SimpleNamespace(label="schön", score=0.5, probabilities={})
    for encoding in ("cp1252", "utf-8"):
        console = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
        monkeypatch.setattr(sys, "stdout", console)
        print(command._as_json("Great 😀", prediction, ProblemType.SINGLE_LABEL, False))
        console.flush()
        written = console.buffer.getvalue()  # type: ignore[attr-defined]
        assert json.loads(written) == {"text": "Great 😀", "label": "schön", "score": 0.5}
        assert ("😀".encode() in written) == (encoding == "utf-8")


def test_a_narrated_run_on_an_apple_gpu_tells_that_its_generator_moved() -> None:
    with FakeGPUs(visible=1, own=0, kind="mps").in_use() as gpus:
        before = random_states()
        gpus.draw(3)
        assert moved_since(before) == {"GPU"}


@pytest.mark.parametrize("code", [0xC000013A, -signal.SIGTERM])
def test_a_seed_that_a_ctrl_c_ends_while_it_starts_is_stopped(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    seeds, asked, unasked = ftloop.job.seeds, StopRequest(reason="SIGINT"), StopRequest()
    assert seeds._report_unfinished("seed", [1, 2], 2, code, asked) == ExitCode.STOPPED
    assert "Stopped   in seed 2, 2 of 2; complete: 1" in capsys.readouterr().err
    assert seeds._report_unfinished("seed", [1, 2], 2, code, unasked) != ExitCode.STOPPED


def test_a_seed_that_is_ended_on_windows_before_it_can_listen_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, sent = StopRequest(), []

    class Process:
        def __init__(self, *words: Any, **settings: Any) -> None:
            stop.request("SIGINT")

        send_signal = sent.append

        def wait(self) -> int:
            return 1

    monkeypatch.setattr(ftloop.job.seeds, "sys", OtherSystem("win32"))
    monkeypatch.setattr(subprocess, "Popen", Process)
    assert ftloop.job.seeds._train_one(["train"], stop) == ExitCode.STOPPED
    assert sent == [signal.SIGTERM]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_ctrl_c_while_the_workers_of_an_epoch_start_saves_the_run(method: str, tmp_path: Path) -> None:
    done = run(sys.executable, str(WORKERS / "starting_workers.py"), method, str(tmp_path))
    assert "Stopped by SIGINT after update 6, saved as checkpoint-6" in done.stdout.splitlines()
    assert (tmp_path / "checkpoint-6" / "model.safetensors").is_file()


@pytest.mark.slow
def test_workers_that_are_spawned_as_on_macos_and_windows_draw_what_forked_ones_do(tmp_path: Path) -> None:
    done = run(sys.executable, str(WORKERS / "spawned.py"), str(tmp_path))
    digests = json.loads(done.stdout.splitlines()[-1])
    assert list(digests) == ["fork", "spawn", "resumed"]
    assert len(set(digests.values())) == 1
    assert "Reading   this epoch again from its beginning" in done.stdout
