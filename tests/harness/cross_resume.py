"""Runs that are saved on their way, to be continued by either side; and where Trainer does not continue its own."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from harness.models import tiny_bert
from harness.side_by_side import Job, Trace, assert_same_run, run_ftloop, run_trainer
from torch import nn

SIDES = {"ftloop": run_ftloop, "trainer": run_trainer}


def assert_continues(resumed: Trace, whole: Trace) -> None:
    """Assert that the resumed run is the end of the other, and its whole log the other's log.

    The log's last entry is left out: Trainer's `train_loss` there is of the resumed call, and over other updates from
    version to version.
    """
    before = len(whole.losses) - len(resumed.losses)
    assert before >= 0, f"{-before} micro-batches too many"
    assert resumed.losses == whole.losses[before:]
    assert resumed.history[:-1] == whole.history[:-1]
    assert resumed.weights == whole.weights
    assert resumed.best == whole.best
    assert resumed.total_flos == whole.total_flos
    for folder, files in resumed.checkpoints.items():
        assert files == whole.checkpoints[folder], folder


# How Trainer's resume of its own checkpoint may fall short: of the resumed run, the uninterrupted one, and the update.
Shortfall = Callable[[Trace, Trace, int], bool]


def forgets_the_evaluation(resumed: Trace, whole: Trace, step: int) -> bool:
    """Saved by steps on an epoch's last update, before the evaluation that the epoch's end brings: it never comes."""
    return _evaluations(whole, step) == 1 and _evaluations(resumed, step) == 0


def trains_on(resumed: Trace, whole: Trace, step: int) -> bool:
    """A run that has ended in mid-epoch makes one update more."""
    return resumed.history[-1]["step"] == whole.history[-1]["step"] + 1 == step + 1


def forgets_losses(resumed: Trace, whole: Trace, step: int) -> bool:
    """The losses since the last log line are missing from the next one, or make none; training is the same."""
    before = len(whole.losses) - len(resumed.losses)
    same = resumed.losses == whole.losses[before:] and resumed.weights == whole.weights
    missing = [entry for entry in whole.history[:-1] if entry not in resumed.history]
    return same and len(missing) == 1 and "loss" in missing[0] and missing[0]["step"] >= step


def evaluates_again(resumed: Trace, whole: Trace, step: int) -> bool:
    """`eval_on_start` evaluates at the start of the resumed call too."""
    return _evaluations(whole, step) == 1 and _evaluations(resumed, step) == 2


def forgets_patience(resumed: Trace, whole: Trace, step: int) -> bool:
    """Early stopping counts from zero again, so that the run ends later."""
    return resumed.history[-1]["step"] > whole.history[-1]["step"] >= step


def _evaluations(trace: Trace, step: int) -> int:
    return sum("eval_loss" in entry for entry in trace.history if entry["step"] == step)


@dataclass(frozen=True)
class Case:
    """A run, the updates after which it is saved, and those after which Trainer does not continue its own exactly."""

    job: Job
    arguments: dict[str, Any]
    saved_at: list[int]
    exceptions: dict[int, Shortfall] = field(default_factory=dict)

    def run(self, side: str, folder: Path, **arguments: Any) -> Trace:
        shared = {"num_train_epochs": 2, "per_device_eval_batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1}
        trace = SIDES[side](self.job, folder, **shared | {"logging_steps": 1} | self.arguments | arguments)
        return replace(trace, updates=_comparable(trace.updates), history=_comparable(trace.history))


def _comparable(entries: list[dict[str, Any]]) -> Any:
    """Turn NaN, an overflow's gradient norm, which equals nothing, into a word."""
    return json.loads(json.dumps(entries), parse_constant=str)


def assert_crossings_are_trainers(case: Case, root: Path, **arguments: Any) -> None:
    """With trainer_compat, after every update and in all four directions. Where the continuation is not the
    uninterrupted run, Trainer continues its own checkpoint to the same end, bit for bit, and in the way named.
    """
    whole = {side: case.run(side, root / side, trainer_compat=True, **arguments) for side in SIDES}
    assert_same_run(whole["trainer"], whole["ftloop"])
    assert _saved_at(whole["trainer"]) == case.saved_at
    for step in case.saved_at:
        runs = {
            f"{resumed_by} after update {step} of {saved_by}": case.run(
                resumed_by,
                root / f"{step}-{saved_by}-{resumed_by}",
                resume=str(root / saved_by / f"checkpoint-{step}"),
                trainer_compat=True,
                **arguments,
            )
            for saved_by in SIDES
            for resumed_by in SIDES
        }
        trainers_own = runs.pop(f"trainer after update {step} of trainer")
        if step in case.exceptions:
            assert case.exceptions[step](trainers_own, whole["trainer"], step), (
                f"update {step} is no exception any more"
            )
        else:
            assert_continues(trainers_own, whole["trainer"])
        for crossing, resumed in runs.items():
            assert len(resumed.losses) == len(trainers_own.losses), crossing
            assert_continues(resumed, trainers_own)


def assert_default_continues(case: Case, saved_by: str, root: Path, **arguments: Any) -> None:
    """By default, after every update: ftloop's continuation is the uninterrupted run, without exception. What Trainer's
    files do not hold cannot be had: the losses since its last log line, for the next line and for `train_loss`.
    """
    whole = case.run(saved_by, root / "whole", **arguments)
    assert _saved_at(whole) == case.saved_at
    for step in case.saved_at:
        checkpoint = root / "whole" / f"checkpoint-{step}"
        resumed = case.run("ftloop", root / f"{step}", resume=str(checkpoint), **arguments)
        assert checkpoint.name not in resumed.checkpoints, "saved a second time"
        if saved_by == "trainer" and case.exceptions.get(step) is forgets_losses:
            assert forgets_losses(resumed, whole, step)
        else:
            assert_continues(resumed, whole)
        logged = step if saved_by == "ftloop" else _last_logged(checkpoint)
        if logged == step:
            assert resumed.train_loss == whole.train_loss
        elif not dist.is_initialized():  # with several processes, the losses at hand are not the means over them
            known = [sum(each["losses"]) for each in whole.updates if not logged < each["global_step"] <= step]
            assert len(known) < len(whole.updates)
            assert resumed.train_loss == pytest.approx(statistics.mean(known), rel=1e-6)  # float32 against float64 sums


def _saved_at(trace: Trace) -> list[int]:
    return sorted(int(name.split("-")[1]) for name in trace.checkpoints)


def _last_logged(checkpoint: Path) -> int:
    """Up to which update its log tells the losses."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return max((entry["step"] for entry in state["log_history"] if "loss" in entry), default=0)


def fair_bert() -> nn.Module:
    """Trainer divides its loss by the micro-batches of an update, as ftloop does by default."""
    model = tiny_bert()
    model.accepts_loss_kwargs = False
    return model


# 3 updates an epoch, 6 in all: of 3, 3 and 2 equal micro-batches, where Trainer's run is ftloop's default ...
ACCUMULATED = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
EQUAL = Job(fair_bert, train_rows=32)
# ... and of one each, the epoch's last with fewer rows.
PLAIN = {"per_device_train_batch_size": 10}
EVERY_UPDATE = {"save_strategy": "steps", "save_steps": 1}
BY_EPOCH = {"save_strategy": "epoch", "eval_strategy": "epoch"}
EVALUATED_BY_EPOCH = EVERY_UPDATE | {"eval_strategy": "epoch"}
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
ALL = [1, 2, 3, 4, 5, 6]

CASES = {
    "evaluated by epoch, accumulated": Case(
        EQUAL,
        ACCUMULATED | EVALUATED_BY_EPOCH,
        ALL,
        {3: forgets_the_evaluation, 6: forgets_the_evaluation},
    ),
    "evaluated by epoch": Case(
        Job(),
        PLAIN | EVALUATED_BY_EPOCH,
        ALL,
        {3: forgets_the_evaluation, 6: forgets_the_evaluation},
    ),
    "evaluated from the second epoch on": Case(
        Job(), PLAIN | EVALUATED_BY_EPOCH | {"eval_delay": 2}, ALL, {6: forgets_the_evaluation}
    ),
    "saved and evaluated by epoch, best at the end": Case(Job(), PLAIN | BY_EPOCH | BEST, [3, 6]),
    "saved by epoch, evaluated from the second on": Case(Job(), PLAIN | BY_EPOCH | {"eval_delay": 2}, [3, 6]),
    "saved when best": Case(Job(), PLAIN | BEST | {"save_strategy": "best", "eval_strategy": "epoch"}, [3, 6]),
    "evaluated by steps, accumulated": Case(
        EQUAL, ACCUMULATED | EVERY_UPDATE | {"eval_strategy": "steps", "eval_steps": 2}, ALL
    ),
    "saved and evaluated by steps, best at the end": Case(
        Job(), PLAIN | EVERY_UPDATE | BEST | {"eval_strategy": "steps", "eval_steps": 1}, ALL
    ),
    "ended in mid-epoch": Case(
        EQUAL,
        ACCUMULATED | EVERY_UPDATE | {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 5},
        [1, 2, 3, 4, 5],
        {5: trains_on},
    ),
    "ended in mid-epoch, evaluated by epoch": Case(
        Job(),
        PLAIN | EVALUATED_BY_EPOCH | {"max_steps": 5},
        [1, 2, 3, 4, 5],
        {3: forgets_the_evaluation, 5: trains_on},
    ),
    "ended in mid-epoch, saved by epoch": Case(Job(), PLAIN | BY_EPOCH | {"max_steps": 5}, [3, 5], {5: trains_on}),
    "a log line for four updates": Case(
        Job(),
        PLAIN | EVERY_UPDATE | {"logging_steps": 4},
        ALL,
        dict.fromkeys((1, 2, 3), forgets_losses),
    ),
    "a log line for an epoch": Case(
        EQUAL,
        ACCUMULATED | EVERY_UPDATE | {"logging_strategy": "epoch"},
        ALL,
        dict.fromkeys(ALL, forgets_losses),
    ),
    "evaluated before the start": Case(
        Job(), PLAIN | BY_EPOCH | {"eval_on_start": True}, [3, 6], {3: evaluates_again, 6: evaluates_again}
    ),
    "stopped early": Case(
        Job(),
        # accuracy cannot rise by more than 1, so no evaluation after the first resets the counter
        PLAIN
        | BY_EPOCH
        | BEST
        | {"num_train_epochs": 5, "early_stopping_patience": 2, "early_stopping_threshold": 1.0},
        [3, 6, 9],
        {6: forgets_patience, 9: forgets_patience},
    ),
}

# In each of two processes 8 micro-batches, so again 3 updates an epoch. Trainer's run is ftloop's default only where
# all micro-batches are equal, in evaluation too; the other case has rounds to fill up, and Trainer's sums for means.
HALVED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
TWO_PROCESSES = {
    name: Case(job, HALVED | EVALUATED_BY_EPOCH, ALL, {3: forgets_the_evaluation, 6: forgets_the_evaluation})
    for name, job in {"equal micro-batches": replace(EQUAL, eval_rows=16), "remainders": Job()}.items()
}


# 8 micro-batches in windows of 3: 3 updates an epoch, the last window partial; 6 updates in all.
RESUME_ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 3,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "eval_strategy": "epoch",
    "save_strategy": "steps",
    "save_steps": 1,
}
