"""Batches that do not fit into memory: split with `auto_micro_batch`, else reported with what to do about them.

`training_step` and the evaluation hand their forward pass over to `train_in_memory` and `predict_in_memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from ftloop.errors import TrainingError, summarize
from ftloop.run.micro_batches import Inputs, MicroBatch, num_rows, rows_between
from ftloop.system.console import say
from ftloop.system.out_of_memory import is_out_of_memory
from ftloop.system.rng import restore_rng_state, rng_state

if TYPE_CHECKING:
    from ftloop.loop import TrainingStep
    from ftloop.run.run import EvaluationRun, Run

PredictionStep = Callable[[Inputs, int], tuple[Tensor | None, Tensor]]
Result = TypeVar("Result")


@dataclass
class Attempt:
    """A micro-batch of the update under way, with all that it takes to do it once more."""

    micro_batch: MicroBatch
    rows_at_once: int
    random_state: dict[str, Any]
    """State of every random number generator before it."""
    loss: Tensor | None = None


def train_in_memory(run: Run, step: TrainingStep, micro_batch: MicroBatch) -> Tensor:
    """Do a training step; with `auto_micro_batch`, in slices where the memory does not suffice.

    The update is then done over from the random state it began with: its gradients are added up anew, and the
    micro-batches that had fitted draw the same dropout and give the same bits. Every row counts as before.

    Raises: TrainingError without `auto_micro_batch`, and where not even one row fits.
    """
    if run.config.auto_micro_batch:
        return _train_in_slices(run, step, micro_batch)
    try:
        return step(run, micro_batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _does_not_fit(run, micro_batch.inputs, "train", error) from error


def predict_in_memory(
    run: EvaluationRun, step: PredictionStep, inputs: Inputs, rows: int
) -> tuple[Tensor | None, Tensor]:
    """Do a prediction step likewise: the loss is the mean over the same rows, the logits keep their order."""
    if run.config.auto_micro_batch:
        return _predict_in_slices(run, step, inputs)
    try:
        return step(inputs, rows)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _does_not_fit(run, inputs, "eval", error) from error


def _train_in_slices(run: Run, step: TrainingStep, micro_batch: MicroBatch) -> Tensor:
    rows, counters, attempts = num_rows(micro_batch.inputs), run.counters, run.attempts
    if all(parameter.grad is None for parameter in run.model.parameters()):
        attempts.clear()  # an update begins here, perhaps after one that was broken off
    at_once = min(rows, counters.micro_batch_rows or rows)
    this = Attempt(micro_batch, at_once, rng_state())
    attempts.append(this)
    to_do = [this]
    while (too_large := _first_that_does_not_fit(run, step, to_do)) is not None:
        too_large.rows_at_once = _half(too_large.rows_at_once)
        counters.micro_batch_rows = min(too_large.rows_at_once, counters.micro_batch_rows or rows)
        # Part of a gradient may have been added already, and nothing tells it from what was there before.
        run.model.zero_grad()
        clear_device_cache(garbage_collection=True)
        restore_rng_state(attempts[0].random_state)
        to_do = attempts
    if to_do is attempts:
        _say(run, f"update {run.state.global_step + 1}", rows, {"micro_batch_rows": counters.micro_batch_rows})
    assert this.loss is not None
    return this.loss


def _first_that_does_not_fit(run: Run, step: TrainingStep, attempts: list[Attempt]) -> Attempt | None:
    """Do forward and backward of micro-batches, each in slices, up to the first that does not fit."""
    for attempt in attempts:
        whole = attempt.micro_batch
        rows = num_rows(whole.inputs)

        def train_on(part: Inputs, whole: MicroBatch = whole, rows: int = rows) -> Tensor:
            return step(run, replace(whole, inputs=part, divisor=whole.divisor * (rows / num_rows(part))))

        parts = _in_slices(run, train_on, whole.inputs, attempt.rows_at_once, "train")
        if parts is None:
            return attempt
        loss = sum(parts[1:], start=parts[0])
        # One that is done over keeps its tensor: the loop has it already.
        attempt.loss = loss if attempt.loss is None else attempt.loss.copy_(loss)
    return None


def _predict_in_slices(run: EvaluationRun, step: PredictionStep, inputs: Inputs) -> tuple[Tensor | None, Tensor]:
    rows, counters = num_rows(inputs), run.counters
    at_once = before = min(rows, counters.eval_batch_rows or rows)

    def predict(part: Inputs) -> tuple[Tensor | None, Tensor, float]:
        return *step(part, num_rows(part)), num_rows(part) / rows

    while (parts := _in_slices(run, predict, inputs, at_once, "eval")) is None:
        at_once = counters.eval_batch_rows = _half(at_once)
        clear_device_cache(garbage_collection=True)
    if at_once < before:
        _say(run, "evaluation", rows, {"eval_batch_rows": at_once})
    losses = [loss * share for loss, _, share in parts if loss is not None]
    return sum(losses[1:], start=losses[0]) if losses else None, torch.cat([logits for _, logits, _ in parts])


def _in_slices(
    run: EvaluationRun, do: Callable[[Inputs], Result], inputs: Inputs, rows_at_once: int, kind: str
) -> list[Result] | None:
    """The result for each slice of a batch; None where the memory does not suffice, and then no traceback holds any of
    it any more.

    Raises: TrainingError where a slice is one row.
    """
    starts = range(0, num_rows(inputs), rows_at_once)
    try:
        return [do(rows_between(inputs, start, start + rows_at_once)) for start in starts]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if rows_at_once == 1:
            raise _does_not_fit(run, rows_between(inputs, 0, 1), kind, error) from error
        return None


def _half(rows: int) -> int:
    return -(-rows // 2)


def _say(run: EvaluationRun, where: str, rows: int, found: dict[str, int | None]) -> None:
    """Say so for every split, on the console and in the log history."""
    state = run.state
    state.log_history.append(found | {"epoch": state.epoch, "step": state.global_step})
    (at_once,) = found.values()
    say("Memory", f"{where}: {rows} rows did not fit in memory; continuing with {at_once} at a time")


def _does_not_fit(run: EvaluationRun, inputs: Inputs, kind: str, error: Exception) -> TrainingError:
    """`kind`: train or eval."""
    config, rows = run.config, num_rows(inputs)
    tokens = inputs["input_ids"].shape[1] if "input_ids" in inputs else None
    shape = f"{rows} row{'' if rows == 1 else 's'}{f' of {tokens} tokens' if tokens else ''}"
    where = f"update {run.state.global_step + 1}: a micro-batch of" if kind == "train" else "evaluation: a batch of"
    lines = [f"{where} {shape} did not fit into memory ({summarize(error)[:200]})"]
    if rows > 1:
        plan = getattr(run, "plan", None)  # there is none where only an evaluation runs
        budget = None if plan is None else plan.budget
        smaller = f"a --per_device_{kind}_batch_size below {getattr(config, f'per_device_{kind}_batch_size')}"
        if kind == "train" and budget is not None:
            smaller = f"a --max_tokens_per_batch below {budget.max_tokens}"
        elif kind == "train":
            smaller += " with as many times more --gradient_accumulation_steps, which is the same update"
        split = "" if budget is not None else "; or, on one process, --auto_micro_batch, which splits what does not fit"
        lines.append(f"what to try: {smaller}{split}")
    precision = "" if run.accelerator.mixed_precision != "no" else ", --bf16 or --fp16"
    checkpointing = "" if config.gradient_checkpointing or kind == "eval" else ", --gradient_checkpointing"
    lines.append(f"and what makes every row smaller: --max_seq_length{precision}{checkpointing}")
    problem = TrainingError("\n  ".join(lines))
    problem.is_of_one_process = True
    return problem
