"""A run that is asked to stop is left where it can be taken up again, in every phase, and ends in the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness.command import CHECKOUT, TRAIN_PY, WORKERS, run_cases
from harness.output_dirs import difference, what_is_left

from ftloop.errors import ExitCode

pytestmark = pytest.mark.slow
WORKER = WORKERS / "signals.py"

# 8 micro-batches in windows of 3: 3 updates an epoch, 9 in all; an update is evaluated that ends no epoch, and an epoch
# ends at an update that is not saved.
ARGUMENTS = {
    "num_train_epochs": "3",
    "per_device_train_batch_size": "4",
    "per_device_eval_batch_size": "4",
    "gradient_accumulation_steps": "3",
    "learning_rate": "1e-3",
    "logging_steps": "5",
    "eval_strategy": "steps",
    "eval_steps": "2",
    "save_steps": "4",
    "save_total_limit": "1",
    "load_best_model_at_end": "true",
    "resume_from_checkpoint": "last",
    "output_dir": "out",
}
BY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch"}


def at(point: str, count: int = 1, *signals: str, to_all: bool = False) -> dict[str, Any]:
    return {"point": point, "count": count, "signals": signals or ("SIGTERM",), "to_all": to_all}


# Name: what is different, where the signals come in one run after the other, how each of these runs ends.
CASES: dict[str, tuple[dict[str, str], list[dict[str, Any]], list[int]]] = {
    "while rows are read": ({}, [at("reading")], [75]),
    "while rows are tokenized": ({"overwrite_cache": "true"}, [at("tokenizing", 2)], [75]),
    "in the first batch": ({}, [at("forward", 1)], [75]),
    "in mid-window": ({}, [at("forward", 8)], [75]),
    "in mid-window, by SIGINT": ({}, [at("forward", 8, "SIGINT")], [75]),
    "in mid-window, by SIGUSR1": ({}, [at("forward", 8, "SIGUSR1")], [75]),
    "in mid-window, by SIGHUP": ({}, [at("forward", 8, "SIGHUP")], [75]),
    "in an epoch's last, partial window": ({}, [at("forward", 15)], [75]),
    "in an evaluation": ({}, [at("evaluation", 6)], [75]),
    "in an evaluation at an epoch's end": (BY_EPOCH, [at("evaluation", 6)], [75]),
    "in an evaluation at the end of epochs of other updates": (
        BY_EPOCH | {"save_strategy": "steps", "load_best_model_at_end": "false", "logging_strategy": "epoch"},
        [at("evaluation", 6)],
        [75],
    ),
    "in the evaluation before the start": ({"eval_on_start": "true"}, [at("evaluation", 2)], [75]),
    "in the last evaluation of the training": ({}, [at("evaluation", 18)], [75]),
    "while a checkpoint is saved": ({}, [at("saving")], [75]),
    "while a checkpoint is put in place": ({}, [at("committing", 2)], [75]),
    "while old ones are deleted": ({}, [at("rotating", 2)], [75]),
    "while a checkpoint is loaded": ({}, [at("forward", 8), at("loading")], [75, 75]),
    "while the best is loaded": ({}, [at("loading the best")], [75]),
    "in the final save": ({}, [at("final save")], [75]),
    "in the final evaluation": ({}, [at("evaluation", 23)], [75]),
    "when all is done but the record": ({}, [at("record")], [0]),
    "after every update": ({}, [at("forward", 1)] * 9, [75] * 9),
    "in one evaluation after the other": ({}, [at("evaluation", 1)] * 5, [75] * 5),
    # where the checkpoint of the stop, if it counted, would drive out the one before it
    "between the last two saves": (
        {"save_steps": "3", "save_total_limit": "2", "load_best_model_at_end": "false"},
        [at("forward", 22)],
        [75],
    ),
    "in runs that save nothing else": (
        {"save_strategy": "no", "load_best_model_at_end": "false"},
        [at("forward", 8), at("evaluation", 2), at("final save")],
        [75, 75, 75],
    ),
    "with loader processes": ({"dataloader_num_workers": "2"}, [at("forward", 8), at("evaluation", 2)], [75, 75]),
    "with loader processes that get the signal too": (
        {"dataloader_num_workers": "2"},
        [at("forward", 2, name, to_all=True) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")]
        + [at("evaluation", 2)],
        [75, 75, 75, 75, 75],
    ),
    "with loader processes that persist": (
        {"dataloader_num_workers": "2", "dataloader_persistent_workers": "true"},
        [at("forward", 8), at("evaluation", 2), at("forward", 5)],
        [75, 75, 75],
    ),
    "in bf16": ({"bf16": "true"}, [at("forward", 8), at("evaluation", 2)], [75, 75]),
    "when patience runs out": (
        {"early_stopping_patience": "1", "early_stopping_threshold": "9", "num_train_epochs": "5"},
        [at("forward", 11), at("evaluation", 2)],
        [75, 75],
    ),
    "by a second SIGINT": ({}, [at("saving", 2, "SIGINT", "SIGINT")], [130]),
    "by a SIGTERM and a SIGINT": ({}, [at("forward", 14, "SIGTERM", "SIGINT")], [75]),
    "by a SIGTERM and two SIGINTs": ({}, [at("forward", 14, "SIGTERM", "SIGINT", "SIGINT")], [130]),
}


@pytest.fixture(scope="module")
def found(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("signals")
    files = {f"{split}_file": str(tiny_folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    cases: dict[str, Any] = {}
    for name, (different, signals, _) in CASES.items():
        settings = {"model_name_or_path": str(tiny_folder / "model"), **files, **ARGUMENTS, **different}
        argv = [word for flag, value in settings.items() for word in (f"--{flag}", value)]
        cases[name] = {"argv": argv, "signals": signals}
        cases[whole(different)] = {"argv": argv, "signals": []}
    return run_cases(WORKER, folder, cases)


def whole(different: dict[str, str]) -> str:
    return f"uninterrupted {json.dumps(different)}"


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_ends_with_its_code_and_resumes_to_the_same_bytes(name: str, found: dict[str, Any]) -> None:
    different, _, codes = CASES[name]
    runs = found[name]["runs"]
    said = "\n".join(run["said"] for run in runs)
    assert [run["status"] for run in runs] == [*codes, 0][: len(runs)], said
    assert len(runs) == len([code for code in codes if code]) + 1, said
    assert "Traceback" not in said
    for run, code in zip(runs, codes, strict=False):
        if code == ExitCode.STOPPED:
            assert "--resume_from_checkpoint last continues" in run["said"]
    expected = found[whole(different)]
    assert [run["status"] for run in expected["runs"]] == [0]
    assert difference(expected["left"], found[name]["left"]) is None, said


def test_it_is_said_which_signal_came_and_where_the_run_was_left(found: dict[str, Any]) -> None:
    assert "Stopped   by SIGTERM after update 3, saved as checkpoint-3" in found["in mid-window"]["runs"][0]["said"]
    assert "Stopped   by SIGUSR1 after update 3" in found["in mid-window, by SIGUSR1"]["runs"][0]["said"]
    assert "Stopped   by SIGTERM before training" in found["while rows are tokenized"]["runs"][0]["said"]
    assert "at once by a second SIGINT" in found["by a second SIGINT"]["runs"][0]["said"]


def test_a_run_stops_in_time_for_a_limit(tiny_folder: Path, tmp_path: Path) -> None:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
    words = ["--model_name_or_path", str(tiny_folder / "model"), *files, "--output_dir", str(tmp_path / "out")]
    words += ["--max_steps", "1000000", "--max_train_seconds", "10", "--resume_from_checkpoint", "last"]
    steps = []
    for _ in range(2):
        done = subprocess.run([sys.executable, TRAIN_PY, *words], capture_output=True, text=True, cwd=CHECKOUT)
        assert done.returncode == ExitCode.STOPPED, done.stderr
        assert "Stopped   by max_train_seconds after update" in done.stderr
        steps.append(max(int(folder.name.split("-")[1]) for folder in (tmp_path / "out").glob("checkpoint-*")))
    assert 0 < steps[0] < steps[1]


CHILD = """
import os, signal, sys, time
from ftloop.system.signals import SignalHandler
from ftloop.system.stopping import StopRequest
with SignalHandler(StopRequest()) as signals:
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(0.05)
    for name in ("SIGINT", "SIGUSR1", "SIGHUP", "SIGTERM"):
        time.sleep(0.5)
        print(os.waitpid(pid, os.WNOHANG))
        os.kill(pid, getattr(signal, name))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), signals.stop.reason)
"""


def test_a_forked_process_is_ended_by_sigterm_and_not_by_what_a_terminal_sends() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "(0, 0)\n" * 4 + f"-{int(signal.SIGTERM)} None\n", done.stderr


IN_TERMINAL = """
import os, sys, time
from ftloop.system.signals import SignalHandler
from ftloop.system.stopping import StopRequest
stop = StopRequest()
with SignalHandler(stop) as signals, signals.deferred():
    print("ready", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), 1)
    print("more", flush=True)
    print("more", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    file.write(str(stop.reason))
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals are needed")
@pytest.mark.parametrize(("nohup", "reason"), [([], "SIGHUP"), (["nohup"], "None")])
def test_a_terminal_that_is_closed_stops_the_run_where_it_can_be_resumed(
    nohup: list[str], reason: str, tmp_path: Path
) -> None:
    """Without an error of what is said from then on; started by nohup it goes on."""
    ours, theirs = os.openpty()
    output = subprocess.PIPE if nohup else theirs
    words = [*nohup, sys.executable, "-c", IN_TERMINAL, str(tmp_path / "found")]
    with subprocess.Popen(words, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=output, stderr=output) as process:
        assert process.stdin is not None
        os.close(theirs)
        if not nohup:
            said = b""
            while not said.endswith(b"\n"):
                said += os.read(ours, 100)
            time.sleep(0.1)  # for the end of its call
        os.close(ours)
        process.communicate(b"\n", timeout=60)
    assert (process.returncode, (tmp_path / "found").read_text()) == (0, reason)


UNREAD = """
import os, sys
from ftloop.system.console import say
from ftloop.system.signals import SignalHandler
from ftloop.system.stopping import StopRequest
stop = StopRequest()
with SignalHandler(stop) as signals, signals.deferred():
    say("Ready", "now")
    sys.stdin.readline()
    os.kill(os.getpid(), 2)
    sys.stdin.readline()
    say("Saved", "checkpoint")
    say("Stopped", "by SIGINT", sys.stderr)
sys.exit(75)
"""


@pytest.mark.parametrize("is_gone_first", [False, True])
def test_a_tee_that_the_same_signal_ends_fails_no_run_that_stops(is_gone_first: bool) -> None:
    """The reader of both streams is gone after the signal, or already when it comes."""
    words, pipe = [sys.executable, "-c", UNREAD], subprocess.PIPE
    with subprocess.Popen(words, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"Ready     now\n"
        if is_gone_first:
            process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.flush()
        if not is_gone_first:
            assert process.stdout.readline() == b"\n"
            assert process.stdout.readline().startswith(b"Stopping  by SIGINT")
            process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait(60) == ExitCode.STOPPED


def torchrun(folder: Path, words: list[str], stop: bool) -> tuple[int, str]:
    """Two processes; with `stop`, torchrun gets a SIGTERM when the first epoch is over, and hands it to both."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", TRAIN_PY]
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*launcher, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if stop and line.startswith("Epoch 1/"):
            process.send_signal(signal.SIGTERM)
    return process.wait(), said


def test_two_processes_agree_on_the_update_after_which_they_stop(tiny_folder: Path, tmp_path: Path) -> None:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    words = ["--model_name_or_path", str(tiny_folder / "model"), *files, "--output_dir", "out", "--max_steps", "60"]
    words += ["--per_device_train_batch_size", "4", "--logging_steps", "7", "--eval_strategy", "epoch"]
    words += ["--resume_from_checkpoint", "last"]
    code, said = torchrun(tmp_path / "whole", words, stop=False)
    assert code == 0, said
    code, said = torchrun(tmp_path / "stopped", words, stop=True)
    assert code == 1, "torchrun makes 1 of every code"
    assert said.count("Stopped   by ") == 1, said
    (checkpoint,) = (tmp_path / "stopped" / "out").glob("checkpoint-*")
    assert int(checkpoint.name.split("-")[1]) < 60, "it was not stopped on its way"
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in checkpoint.iterdir()}
    code, said = torchrun(tmp_path / "stopped", words, stop=False)
    assert code == 0, said
    assert f"from out/{checkpoint.name}" in said
    assert difference(what_is_left(tmp_path / "whole" / "out"), what_is_left(tmp_path / "stopped" / "out")) is None
