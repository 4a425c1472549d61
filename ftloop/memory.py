"""Batches that do not fit into memory: split with `auto_micro_batch`, else told with what to do about them.

A training step here is another `training_step`: the loop and whoever wraps its step know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from ftloop.errors import TrainingError, first_line
from ftloop.rng import restore_rng_state, rng_state
from ftloop.run import Inputs, Run, num_rows, rows_between

Step = Callable[[Run, Inputs, float, Tensor | None], Tensor]
PredictionStep = Callable[[Run, Any, Inputs, int], tuple[Tensor | None, Tensor]]
Result = TypeVar("Result")


@dataclass
class MicroBatch:
    """One of the update under way, with all that it takes to do it once more."""

    inputs: Inputs
    divisor: float
    rows_at_once: int
    random_state: dict[str, Any]
    """Before it, of every random number generator."""
    loss: Tensor | None = None


def within_memory(step: Step) -> Step:
    """A training step that with `auto_micro_batch` goes on in parts where the memory does not suffice.

    The update is then done over from the random state it began with: its gradients are added up anew, and the
    micro-batches that had fitted draw the same dropout and give the same bits. Every row counts as before.

    Raises: TrainingError without `auto_micro_batch`, and where not even one row fits.
    """

    @wraps(step)
    def step_within_memory(run: Run, inputs: Inputs, divisor: float, num_items: Tensor | None) -> Tensor:
        if run.config.auto_micro_batch:
            return _train_in_parts(run, step, inputs, divisor)
        try:
            return step(run, inputs, divisor, num_items)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise _told(run, inputs, "train", error) from error

    return step_within_memory


def evaluated_within_memory(step: PredictionStep) -> PredictionStep:
    """A prediction step that does the same: the loss is the mean over the same rows, the logits keep their order."""

    @wraps(step)
    def step_within_memory(run: Run, model: Any, inputs: Inputs, rows: int) -> tuple[Tensor | None, Tensor]:
        if run.config.auto_micro_batch:
            return _predict_in_parts(run, step, model, inputs)
        try:
            return step(run, model, inputs, rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise _told(run, inputs, "eval", error) from error

    return step_within_memory


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _train_in_parts(run: Run, step: Step, inputs: Inputs, divisor: float) -> Tensor:
    rows, mishaps, so_far = num_rows(inputs), run.mishaps, run.update_so_far
    if all(parameter.grad is None for parameter in run.model.parameters()):
        so_far.clear()  # an update begins here, perhaps after one that was broken off
    at_once = min(rows, mishaps.micro_batch_rows or rows)
    this = MicroBatch(inputs, divisor, at_once, rng_state(run.accelerator.use_distributed))
    so_far.append(this)
    to_do = [this]
    while (too_large := _first_that_does_not_fit(run, step, to_do)) is not None:
        too_large.rows_at_once = _half(too_large.rows_at_once)
        mishaps.micro_batch_rows = min(too_large.rows_at_once, mishaps.micro_batch_rows or rows)
        # Part of a gradient may have been added already, and nothing tells it from what was there before.
        run.model.zero_grad()
        clear_device_cache(garbage_collection=True)
        restore_rng_state(so_far[0].random_state, run.accelerator.use_distributed)
        to_do = so_far
    if to_do is so_far:
        _say(run, f"update {run.state.global_step + 1}", rows, {"micro_batch_rows": mishaps.micro_batch_rows})
    assert this.loss is not None
    return this.loss


def _first_that_does_not_fit(run: Run, step: Step, micro_batches: list[MicroBatch]) -> MicroBatch | None:
    """Forward and backward of micro-batches, each in its parts."""
    for each in micro_batches:
        rows = num_rows(each.inputs)

        def train_on(part: Inputs, each: MicroBatch = each, rows: int = rows) -> Tensor:
            return step(run, part, each.divisor * (rows / num_rows(part)), None)

        parts = _in_parts(run, train_on, each.inputs, each.rows_at_once, "train")
        if parts is None:
            return each
        loss = sum(parts[1:], start=parts[0])
        # One that is done over keeps its tensor: the loop has it already.
        each.loss = loss if each.loss is None else each.loss.copy_(loss)
    return None


def _predict_in_parts(run: Run, step: PredictionStep, model: Any, inputs: Inputs) -> tuple[Tensor | None, Tensor]:
    rows, mishaps = num_rows(inputs), run.mishaps
    at_once = before = min(rows, mishaps.eval_batch_rows or rows)

    def predict(part: Inputs) -> tuple[Tensor | None, Tensor, float]:
        return *step(run, model, part, num_rows(part)), num_rows(part) / rows

    while (parts := _in_parts(run, predict, inputs, at_once, "eval")) is None:
        at_once = mishaps.eval_batch_rows = _half(at_once)
        clear_device_cache(garbage_collection=True)
    if at_once < before:
        _say(run, "evaluation", rows, {"eval_batch_rows": at_once})
    losses = [loss * share for loss, _, share in parts if loss is not None]
    return sum(losses[1:], start=losses[0]) if losses else None, torch.cat([logits for _, logits, _ in parts])


def _in_parts(
    run: Run, do: Callable[[Inputs], Result], inputs: Inputs, rows_at_once: int, kind: str
) -> list[Result] | None:
    """What is made of the parts of a batch; None where the memory does not suffice, and then no traceback holds any of
    it any more.

    Raises: TrainingError where a part is one row.
    """
    starts = range(0, num_rows(inputs), rows_at_once)
    try:
        return [do(rows_between(inputs, start, start + rows_at_once)) for start in starts]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if rows_at_once == 1:
            raise _told(run, rows_between(inputs, 0, 1), kind, error) from error
        return None


def _half(rows: int) -> int:
    return -(-rows // 2)


def _say(run: Run, where: str, rows: int, found: dict[str, int | None]) -> None:
    """Once for every split: on the console and in the log history."""
    state = run.state
    state.log_history.append(found | {"epoch": state.epoch, "step": state.global_step})
    (at_once,) = found.values()
    run.say(f"Memory    {where}: {rows} rows at once did not fit; {at_once} do, and so it goes on")


def _told(run: Run, inputs: Inputs, kind: str, error: Exception) -> TrainingError:
    """`kind`: train or eval."""
    config, rows = run.config, num_rows(inputs)
    tokens = inputs["input_ids"].shape[1] if "input_ids" in inputs else None
    shape = f"{rows} row{'' if rows == 1 else 's'}{f' of {tokens} tokens' if tokens else ''}"
    where = f"update {run.state.global_step + 1}: a micro-batch of" if kind == "train" else "evaluation: a batch of"
    lines = [f"{where} {shape} did not fit into memory ({first_line(error)[:200]})"]
    if rows > 1:
        budget = getattr(run.plan, "budget", None)  # no plan where there is no training
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
    told = TrainingError("\n  ".join(lines))
    told.is_of_one_process = True
    return told
