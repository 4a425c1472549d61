"""The job and arguments that a choice of config_space.py stands for, and both sides compared on them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config_space import AXES, Choice
from harness.models import TWO_TOKEN_TYPES, build
from harness.side_by_side import Job, Trace, first_difference, run_ftloop, run_trainer
from torch import nn

BATCH = 4
LABELS = {"2": 2, "5": 5, "regression": 1}


def resolve(choice: Choice) -> tuple[Job, dict[str, Any]]:
    """The job, and the arguments of both sides."""
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "learning_rate": 1e-3,
    }
    for axis, value in choice.items():
        arguments |= AXES[axis][value]
    if choice["length"] == "max-steps":
        arguments["max_steps"] = updates_per_epoch(choice) + max(updates_per_epoch(choice) // 2, 1)
    if choice["delay"] == "on":
        # In epochs where evaluations come by epoch, in updates where they come by steps.
        arguments["eval_delay"] = 1.5 if choice["evaluation"] == "epoch" else 3
    train_rows, eval_rows = rows(choice)
    job = Job(
        model=_model(choice),
        train_rows=train_rows,
        eval_rows=eval_rows,
        num_labels=2 if choice["labels"] == "regression" else LABELS[choice["labels"]],
        regression=choice["labels"] == "regression",
        two_sentences=choice["sentences"] == "two" and choice["architecture"] in TWO_TOKEN_TYPES,
    )
    return job, arguments


def _model(choice: Choice) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        built = build(choice["architecture"], LABELS[choice["labels"]])
        if choice["head"] == "plain":
            built.accepts_loss_kwargs = False
        return built

    return model


def rows(choice: Choice) -> tuple[int, int]:
    """For training and for evaluation."""
    processes = int(choice["processes"])
    if choice["rows"] == "short-batch":
        return 29, 13
    return {"short-window": 5, "even": 6}[choice["rows"]] * BATCH * processes, 2 * BATCH * processes


def updates_per_epoch(choice: Choice) -> int:
    count = math.floor if choice["drop-last"] == "on" else math.ceil
    batches = count(count(rows(choice)[0] / BATCH) / int(choice["processes"]))
    return math.ceil(batches / int(choice["accumulation"]))


@dataclass
class Outcome:
    """The result of both sides of one choice."""

    difference: str | None
    updates: int
    resumed_at: int | None = None


def compare(choice: Choice, folder: Path, trainer: Callable[[Choice, Path], Trace] | None = None) -> Outcome:
    """Run both sides, and a resumed run where the choice wants one. `folder` must be new; every process calls it."""
    job, arguments = resolve(choice)
    theirs = (trainer or trainer_side)(choice, folder / "trainer")
    ours = run_ftloop(job, folder / "ftloop", **arguments)
    outcome = Outcome(first_difference(theirs, ours, left_out(choice)), len(theirs.updates))
    if not theirs.updates:
        outcome.difference = "nothing was trained"
    if outcome.difference is None and choice["resume"] != "no":
        saved = folder / {"own": "ftloop", "trainers": "trainer"}[choice["resume"]]
        step = _to_resume_at(choice, theirs)
        if step is not None:
            checkpoint = str(saved / f"checkpoint-{step}")
            resumed = run_ftloop(job, folder / "resumed", resume=checkpoint, **arguments)
            outcome.resumed_at = step
            outcome.difference = _difference_of_the_rest(choice, ours, resumed, step)
    return outcome


def trainer_side(choice: Choice, folder: Path) -> Trace:
    job, arguments = resolve(choice)
    return run_trainer(job, folder, **arguments)


def left_out(choice: Choice) -> frozenset[str]:
    """Values that differ on purpose: into `train_loss`, the updates after the last log line go with the mean over all
    processes by default, with Trainer as process 0 saw them.
    """
    return frozenset({"train_loss"} if choice["mode"] == "default" and choice["processes"] != "1" else ())


def nothing_is_lost(choice: Choice) -> bool:
    """Whether a resumed run is the uninterrupted one to the last log line, from wherever it stood."""
    return choice["resume"] == "own" and choice["mode"] == "default"


def _to_resume_at(choice: Choice, whole: Trace) -> int | None:
    """The update of the middle one of the checkpoints that can be continued exactly, if there is one.

    As Trainer resumes, the evaluation that was still due at the end of an epoch is lost, and with it a random number.
    """
    steps = sorted(int(name.split("-")[1]) for name in whole.checkpoints)
    steps = [step for step in steps if step < whole.updates[-1]["global_step"]]
    if choice["mode"] == "compat" and choice["evaluation"] == "epoch" and choice["saving"].startswith("every"):
        steps = [step for step in steps if step % updates_per_epoch(choice)]
    return steps[len(steps) // 2] if steps else None


def _difference_of_the_rest(choice: Choice, whole: Trace, resumed: Trace, step: int) -> str | None:
    place = f"resumed at update {step}: "
    if resumed.updates != whole.updates[step:]:
        for a, b in zip(whole.updates[step:], resumed.updates, strict=False):
            if a != b:
                name = next(name for name in a if a[name] != b.get(name))
                return f"{place}update {a['global_step']}, {name}: {a[name]!r} uninterrupted, {b.get(name)!r} resumed"
        return f"{place}{len(whole.updates) - step} updates uninterrupted, {len(resumed.updates)} resumed"
    if nothing_is_lost(choice):
        for name in ("history", "train_loss", "best", "total_flos"):
            if getattr(resumed, name) != getattr(whole, name):
                return f"{place}{name}: {getattr(whole, name)!r} uninterrupted, {getattr(resumed, name)!r} resumed"
    if resumed.weights != whole.weights:
        return f"{place}weights: {whole.weights[:16]} uninterrupted, {resumed.weights[:16]} resumed"
    return None


def tidy(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
