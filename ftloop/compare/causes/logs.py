"""Causes of different log lines, evaluations, checkpoints and final models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np

from ftloop.compare.causes.case import Case, Cause, cause_of, differing_arguments, is_close, whatever_the_rows
from ftloop.compare.causes.step import is_clipped
from ftloop.compare.differences import Recording
from ftloop.system.text import join_some

MOST_DIGITS = 8
"""After the point: a float32 that nobody has rounded has more, but for rare ones."""


@whatever_the_rows("log")
@cause_of("log")
def moment_of_logging(case: Case) -> Iterator[Cause]:
    """The learning rate is logged after the scheduler's step, or the norm after clipping."""
    what, (mine, theirs) = case.first.what, case.values
    if case.update not in case.comparison.updates:
        return
    line = case.line(case.suspect)
    if what == "grad_norm" and is_clipped(line) and mine == line["clipped_norm"]:
        yield case.cause("logged-after-clipping")
    if what == "learning_rate" and theirs == case.line(case.reference)["lr"][0]:
        following = case.suspect.updates.get(case.update + 1)
        # After the last update a schedule has come down to 0.
        if mine == (0 if following is None else following[0]["lr"][0]):
            yield case.cause("logged-after-step")


@cause_of("log", "evaluation")
def rounded(case: Case) -> Iterator[Cause]:
    """All that the suspect logs by this name has few digits, and here they are those of the reference's value."""
    what, (mine, theirs) = case.first.what, case.values
    if not (what == "grad_norm" or what.endswith("loss")) or not all(map(is_finite, case.values)):
        return  # a score or a learning rate may well have few digits
    logged = [values[what] for values in case.suspect.logs.values() if is_finite(values.get(what))]
    digits = max(-int(Decimal(str(value)).as_tuple().exponent) for value in logged)
    if 2 <= digits <= MOST_DIGITS and mine == round(theirs, digits):
        yield case.cause("log-rounded", what=what, digits=digits, mine=mine, theirs=theirs)


@cause_of("log")
def logged_loss(case: Case) -> Iterator[Cause]:
    """The sum over the micro-batches can be computed again from the recorded losses, with one process."""
    mine, theirs = case.values
    recorded = logged_losses(case, case.suspect)
    losses, updates = [loss for _, loss in recorded], len({update for update, _ in recorded})
    broken = [loss for loss in losses if not math.isfinite(loss)]
    if case.first.what != "loss" or not losses:
        return
    single = 0.0
    for loss in losses:
        single = float(np.float32(single + loss))
    if broken and math.isfinite(mine) and not math.isfinite(theirs):
        yield case.cause("nan-filter", loss=broken[0], mine=mine)
    elif case.processes == 1 and (mine, theirs) == (sum(losses) / updates, single / updates):
        yield case.cause("log-precision")
    elif case.processes == 1 and mine == losses[-1] and len(losses) > 1:
        yield case.cause("logs-last-loss", updates=updates)


@whatever_the_rows("evaluation", "checkpoint")
@cause_of("evaluation", "checkpoint")
def nothing_at_the_end(case: Case) -> Iterator[Cause]:
    last = max(case.comparison.updates, default=0)
    if case.update == last == max(case.suspect.updates, default=0) and case.values == ("none", "there"):
        verb = "evaluate" if case.first.stage == "evaluation" else "save"
        yield case.cause("nothing-at-the-end", verb=verb, last=last)


@whatever_the_rows("evaluation", "checkpoint")
@cause_of("evaluation", "checkpoint")
def cadence(case: Case) -> Iterator[Cause]:
    if "none" not in case.values:
        return
    is_evaluation = case.first.stage == "evaluation"
    setting = "eval" if is_evaluation else "save"
    yield from differing_arguments(f"{setting}_strategy", f"{setting}_steps", "eval_delay", "eval_on_start")(case)

    def updates(side: Recording) -> str:
        steps = [step for step, kind in side.logs if kind == "evaluation"] if is_evaluation else side.checkpoints
        return join_some([str(step) for step in sorted(steps)], 5)

    mine, theirs = case.both(updates)
    yield case.cause("cadence", stage=case.first.stage.capitalize(), mine=mine, theirs=theirs)


@cause_of("evaluation")
def mean_of_the_evaluation_loss(case: Case) -> Iterator[Cause]:
    """The weights are equal, and so is every metric: then it is how the losses are put together."""
    if case.first.what != "eval_loss" or not case.ratio:
        return
    mine, theirs = case.both(lambda side: side.logs[case.update, "evaluation"])
    metrics = [name for name in mine if name in theirs and name not in ("eval_loss", "epoch")]
    if any(mine[name] != theirs[name] for name in metrics):
        return
    if case.processes > 1 and is_close(case.ratio, case.processes):
        yield case.cause("world-size", what="eval_loss", processes=case.processes)
    elif metrics and is_close(case.ratio, 1, 0.1):
        yield case.cause("evaluation-average")


@whatever_the_rows("end")
@cause_of("end")
def other_final_weights(case: Case) -> Iterator[Cause]:
    last = max(case.reference.updates, default=0)
    if case.first.what != "weights left by the run" or last not in case.reference.updates:
        return
    end = max(case.suspect.updates, default=0)
    if end in case.suspect.updates and case.suspect.updates[end][0]["weights"] == case.values[0]:
        return  # nothing was gone back to
    same = [u for u, lines in case.suspect.updates.items() if u < last and lines[0]["weights"] == case.values[0]]
    if same and case.reference.updates[last][0]["weights"] == case.values[1]:
        yield case.cause("best-model", best=same[-1])


def is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def logged_losses(case: Case, side: Recording) -> list[tuple[int, float]]:
    """Return update and loss of each micro-batch, of process 0, that this log line is about."""
    earlier = [step for step, kind in side.logs if kind == "loss" and step < case.update]
    since = max(earlier, default=min(side.updates, default=1) - 1)
    updates = [update for update in side.updates if since < update <= case.update]
    return [(u, float(micro["loss"])) for u in updates for micro in side.updates[u][0]["micro_batches"]]
