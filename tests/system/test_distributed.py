"""What one process does and the others do not: they wait, agree, and end together, whatever happens to one of them."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from harness.command import WORKERS, run_cases
from harness.output_dirs import difference

from ftloop.errors import ExitCode

pytestmark = pytest.mark.slow
WORKER = WORKERS / "ranks.py"

# 29 rows in 4 updates an epoch, the last round of each filled up; evaluated, saved and logged at different updates.
ARGUMENTS = {
    "num_train_epochs": "4",
    "per_device_train_batch_size": "4",
    "per_device_eval_batch_size": "2",
    "learning_rate": "1e-3",
    "logging_steps": "3",
    "eval_strategy": "steps",
    "eval_steps": "2",
    "save_steps": "2",
    "save_total_limit": "2",
    "load_best_model_at_end": "true",
    "early_stopping_patience": "2",
    "early_stopping_threshold": "0.02",
    "max_train_seconds": "3600",
    "ddp_timeout": "60",
    "resume_from_checkpoint": "last",
    "output_dir": "out",
}
BY_ACCURACY = {"metric_for_best_model": "accuracy", "early_stopping_threshold": "0"}
TWO_MACHINES = [0, 1, 1]


def one(*plans: str, **different: Any) -> dict[str, Any]:
    return {"plans": plans, **different}


# Name: other arguments, and the runs of it, one after the other.
CASES: dict[str, tuple[dict[str, str], list[dict[str, Any]]]] = {
    "whole": ({}, [one()]),
    "different timings": ({}, [one("sleeps")]),
    "a stop asked of one": ({}, [one("sleeps", "stopped_on_one"), one("sleeps")]),
    "late by the clock of one": ({}, [one("sleeps", "late_on_one"), one("sleeps")]),
    "metrics that differ": (BY_ACCURACY, [one("metrics_that_differ")]),
    "a fault in a collator": ({}, [one("in_collator_of_one")]),
    "a fault in the first's collator": ({}, [one("in_collator_of_the_first")]),
    "a fault in an evaluation": ({}, [one("in_evaluation_of_one")]),
    "a fault while saving": ({}, [one("in_saving_of_one")]),
    "one is killed": ({}, [one("killed_in_training")]),
    "one is killed and nobody ends the other": ({}, [one("killed_in_training", launcher=False), one()]),
    "tokenized slowly": (
        {"ddp_timeout": "6", "max_steps": "1", "disable_tqdm": "false"},
        [one("said_early", "tokenized_slowly", machines=TWO_MACHINES, own_caches=True)],
    ),
    "tried slowly": (
        {"ddp_timeout": "6", "learning_rate": "1e30", "max_grad_norm": "0"},
        [one("said_early", "tried_slowly")],
    ),
    "killed while tokenizing": ({"overwrite_cache": "true"}, [one("killed_while_tokenizing", launcher=False)]),
    "no shared folder": ({}, [one("elsewhere")]),
    "a disk full for one": ({}, [one("full_for_one")]),
    "another seed": ({}, [one("with_another_seed")]),
    "other rows": ({"overwrite_cache": "true"}, [one("with_other_rows", machines=[0, 1], own_caches=True)]),
    "failing to tokenize": (
        {"overwrite_cache": "true"},
        [one("failing_to_tokenize", machines=TWO_MACHINES, launcher=False)],
    ),
}


@pytest.fixture(scope="module")
def found(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    files = {f"{split}_file": str(tiny_folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    cases = {}
    for name, (different, runs) in CASES.items():
        settings = {"model_name_or_path": str(tiny_folder / "model"), **files, **ARGUMENTS, **different}
        words = [word for flag, value in settings.items() if value for word in (f"--{flag}", value)]
        cases[name] = [{"words": words} | run for run in runs]
    return run_cases(WORKER, folder, cases)


def only_run(found: dict[str, Any], name: str) -> tuple[list[int], list[float], str]:
    (run,) = found[name]["runs"]
    return run["statuses"], run["seconds"], run["said"]


def test_the_run_stops_early_which_the_tests_below_build_on(found: dict[str, Any]) -> None:
    statuses, _, said = only_run(found, "whole")
    assert statuses == [0, 0], said
    assert "Stopped   early" in said
    assert said.count("eval_loss=") >= 3


@pytest.mark.parametrize("name", ["different timings", "a stop asked of one", "late by the clock of one"])
def test_processes_of_different_speed_end_alike_and_as_without_it(name: str, found: dict[str, Any]) -> None:
    runs = found[name]["runs"]
    said = "\n".join(run["said"] for run in runs)
    stopped = [[ExitCode.STOPPED, ExitCode.STOPPED]] * (len(runs) - 1)
    assert [run["statuses"] for run in runs] == [*stopped, [0, 0]], said
    if len(runs) > 1:
        assert runs[0]["said"].count("Stopped   by ") == 1
        assert "Resuming  after update" in runs[1]["said"]
    assert difference(found["whole"]["left"], found[name]["left"]) is None, said


def test_the_main_process_decides_best_and_early_stopping(found: dict[str, Any]) -> None:
    """Its accuracy rises at every evaluation, and so the run goes on to its end; that of process 1 falls."""
    statuses, _, said = only_run(found, "metrics that differ")
    assert statuses == [0, 0], said
    assert "Update 16/16: eval_loss" in said
    assert "Best      checkpoint-16" in said


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("a fault in a collator", 1),
        ("a fault in the first's collator", 0),
        ("a fault in an evaluation", 1),
        ("a fault while saving", 1),
    ],
)
def test_a_bug_in_one_process_ends_all_with_its_message_first(name: str, rank: int, found: dict[str, Any]) -> None:
    statuses, seconds, said = only_run(found, name)
    assert statuses[rank] == ExitCode.BUG, said
    assert statuses[1 - rank] not in (0, ExitCode.BUG), said
    assert abs(seconds[0] - seconds[1]) < 20, said
    assert said.count("Traceback (most recent call last)") == 1, "one process has a fault, the other its consequence"
    who = "error in process 1" if rank else "error"
    assert f"\n{who}: a fault in ftloop or in a library below it: KeyError" in said
    told = said[said.index("Traceback") :]
    assert told.index("KeyError: 'planted'") < told.index(f"{who}: a fault")
    assert "error" not in said[: said.index("Traceback")]
    errors = [line for line in said.splitlines() if line.startswith("error")]
    assert not [line for line in errors[1:] if "contact with another process" not in line], said


def test_a_killed_process_ends_the_other_through_the_launcher_silently(
    found: dict[str, Any],
) -> None:
    statuses, _, said = only_run(found, "one is killed")
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] not in (0, ExitCode.BUG), said
    assert "Traceback" not in said
    assert "error" not in said


def test_without_a_launcher_lost_contact_is_reported_and_resumable(
    found: dict[str, Any],
) -> None:
    killed, again = found["one is killed and nobody ends the other"]["runs"]
    assert killed["statuses"] == [ExitCode.FAILED, -signal.SIGKILL], killed["said"]
    assert "Traceback" not in killed["said"]
    (line,) = [line for line in killed["said"].splitlines() if line.startswith("error")]
    assert line.startswith("error: contact with another process was lost")
    for words in ("--ddp_timeout 60", "--resume_from_checkpoint last continues"):
        assert words in line
    assert again["statuses"] == [0, 0], again["said"]
    left = found["one is killed and nobody ends the other"]["left"]
    assert difference(found["whole"]["left"], left) is None, again["said"]


def test_other_ranks_wait_for_tokenization_beyond_ddp_timeout(
    found: dict[str, Any],
) -> None:
    statuses, _, said = only_run(found, "tokenized slowly")
    assert statuses == [0, 0, 0], said
    who = re.findall(r"process \d tokenizes", said)
    assert who == ["process 0 tokenizes", "process 1 tokenizes"]
    assert "Tokenizing train" in said[: said.index(who[1])], "the main process draws its bar"
    assert "Tokenizing" not in said[said.index(who[1]) :], "and nobody else"
    first, second = "the main process: tokenizing the data", "the first process of each other machine: tokenizing"
    for rank, awaited in ((1, first), (2, first), (0, second), (2, second)):
        assert said.count(f"Waiting   process {rank} waits for {awaited}") == 1, said
    assert len(re.findall("Waiting .*: tokenizing the data", said)) == 4, said
    assert "Processes" not in said, "as many as were asked for"


def test_other_ranks_wait_beyond_ddp_timeout_for_the_rows_that_are_not_finite(found: dict[str, Any]) -> None:
    statuses, _, said = only_run(found, "tried slowly")
    assert statuses[0] == ExitCode.FAILED, said
    assert said.count("Waiting   process 1 waits for the main process: trying the rows of update ") == 1, said
    assert said.count("error") == 1, "the launcher ends the other"
    assert "the loss or the gradient is not finite; training stops" in said
    assert "contact with another process" not in said


def test_a_short_wait_is_quiet(found: dict[str, Any]) -> None:
    assert "Waiting" not in found["whole"]["runs"][0]["said"]


def test_a_main_process_that_dies_while_it_tokenizes_ends_the_wait_at_once(found: dict[str, Any]) -> None:
    statuses, seconds, said = only_run(found, "killed while tokenizing")
    assert statuses == [-signal.SIGKILL, ExitCode.FAILED], said
    assert seconds[1] - seconds[0] < 20
    assert "error in process 1: contact with another process was lost" in said
    assert "Traceback" not in said


def test_where_the_main_process_fails_the_others_do_not_begin(found: dict[str, Any]) -> None:
    statuses, seconds, said = only_run(found, "failing to tokenize")
    assert statuses == [ExitCode.BUG, ExitCode.FAILED, ExitCode.FAILED], said
    assert max(seconds) - min(seconds) < 20
    assert re.findall(r"process \d tokenizes", said) == ["process 0 tokenizes"]


def test_an_output_dir_that_is_not_shared_is_reported_first(
    found: dict[str, Any],
) -> None:
    statuses, _, said = only_run(found, "no shared folder")
    assert statuses[0] == ExitCode.USER_ERROR, said
    assert 0 not in statuses
    (line,) = said.splitlines()
    assert "out is not the same folder everywhere: process 1 on " in line


def test_processes_that_differ_stop_before_the_first_update(found: dict[str, Any]) -> None:
    for name, told in (("another seed", r"seed \(42; there 7\)"), ("other rows", r"train data \(\{.*digest.*; there ")):
        statuses, _, said = only_run(found, name)
        assert statuses[0] == ExitCode.USER_ERROR, said
        assert 0 not in statuses
        lines = [line for line in said.splitlines() if line.startswith("error")]
        assert re.match(f"error: process 1 has a different configuration from the main process: {told}", lines[0]), said
        assert "Epoch" not in said


def test_a_mistake_of_one_process_is_reported_and_not_lost_contact(found: dict[str, Any]) -> None:
    statuses, _, said = only_run(found, "a disk full for one")
    assert statuses[1] == ExitCode.USER_ERROR, said
    assert 0 not in statuses
    (line,) = said.splitlines()
    assert line == "error in process 1: No space left on device"
