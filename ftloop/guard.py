"""Numbers that are not finite: kept from the weights, counted, and named with the rows and parameters they come from.

A NaN is looked for on the device, and the host reads what was found where it waits for the device anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from ftloop.checkpoint import list_checkpoints
from ftloop.errors import TrainingError
from ftloop.loss import forward
from ftloop.resume import what_is_wrong
from ftloop.rng import restore_rng_state, rng_state
from ftloop.run import Run
from ftloop.words import listed

MANY_OVERFLOWS = 20
"""In a row. Each halves the gradient's scale, which begins at 2**16: after 16 nothing is scaled up any more, and what
still overflows after a few more is not the scale's doing."""
SHOWN = 5  # rows quoted, parameters named
QUOTED = 60  # characters of a text


def guarded_step(run: Run, losses: Sequence[Tensor], grad_norm: Tensor | float | None) -> bool:
    """The optimizer's step, without the weights being ruined where the loss or the gradient is not finite.

    With `on_nonfinite=raise` and the fused optimizer nothing waits: its kernel is given the flag and leaves the weights
    alone, from the first such update on, so that its rows can be looked at with the weights they met. `skip`, and the
    optimizer that is not fused, cost one wait for the device per update, and several processes one exchange of a single
    number, so that they all leave out the same updates.

    Returns: whether the weights moved, as far as the schedule is concerned.
    Raises: TrainingError with `on_nonfinite=raise`.
    """
    if run.accelerator.scaler is not None:
        return _scaled_step(run, losses)
    mishaps, mode, update = run.mishaps, run.config.on_nonfinite, run.state.global_step + 1
    optimizer: Any = run.optimizer.optimizer  # Accelerate's looks for a package on the disk at every step
    flag = _flag(run, sum(losses[1:], start=losses[0]) + (0.0 if grad_norm is None else grad_norm))
    mishaps.nonfinite_updates += flag
    mishaps.first_nonfinite += update * flag * (mishaps.first_nonfinite == 0)
    if mode == "raise" and getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = (mishaps.first_nonfinite > 0).float()
        optimizer.step()
        del optimizer.found_inf
        if update % run.plan.logging_steps == 0 or update >= run.plan.max_steps:
            stop_if_not_finite(run)  # also where the body of the `for` is the user's own
        return True
    if mode != "ignore" and flag:
        if mode == "raise":
            stop_if_not_finite(run)
        run.meter.left_out_at = update
        return False
    optimizer.step()
    return True


def _flag(run: Run, number: Tensor) -> Tensor:
    """1 where a number is not finite in any process, else 0, on the device."""
    flag: Tensor = run.accelerator.gather((~torch.isfinite(number)).int()).max()
    return flag


def _scaled_step(run: Run, losses: Sequence[Tensor]) -> bool:
    """Under fp16 the gradient's scaler leaves out what overflowed; that is its way to find the scale, and no error.

    Differs: with the fused optimizer the step is skipped inside its kernel, Accelerate reports none, and Trainer's
    schedule runs on; here the gradient scale tells, which is one wait for the device per update under fp16.
    """
    mishaps, mode, update = run.mishaps, run.config.on_nonfinite, run.state.global_step + 1
    scaler: Any = run.accelerator.scaler
    scale = scaler.get_scale()
    run.optimizer.step()
    if scaler.get_scale() >= scale:
        mishaps.overflows_in_a_row = 0
        return True
    mishaps.overflows += 1
    mishaps.overflows_in_a_row += 1
    if mode == "raise" and mishaps.overflows_in_a_row >= MANY_OVERFLOWS:
        raise _diagnosed(run, update, f"the gradient overflowed, as in the {MANY_OVERFLOWS - 1} updates before it")
    if mode == "skip" and _flag(run, sum(losses[1:], start=losses[0])):
        run.meter.left_out_at = update
    return False


def stop_if_not_finite(run: Run) -> None:
    """Look at the flag, for which the host waits. Every process calls it, before anything is logged or saved.

    Raises: TrainingError with `on_nonfinite=raise`.
    """
    update = int(run.mishaps.first_nonfinite)
    if update and run.config.on_nonfinite == "raise":
        raise _diagnosed(run, update, "the loss or the gradient is not finite")


def rows_of_update(run: Run, global_step: int) -> list[int]:
    """The training rows of an update over all processes, from 0, in the order in which they were dealt.

    An epoch's order depends on nothing but the lengths, the seed and the epoch, and an update takes the next of it.
    """
    epoch, index = divmod(global_step - 1, run.plan.updates_per_epoch)
    first = run.plan.rows_before(epoch, index)
    rows: list[int] = run.row_order(epoch)[first : first + run.plan.rows_in_window(epoch, index)].tolist()
    return rows


def _diagnosed(run: Run, update: int, what: str) -> TrainingError:
    """What is known of an update, from the main process; the others wait for it. Every process calls it."""
    lines = [f"update {update} of {run.plan.max_steps}: {what}; training stops"]
    try:
        if run.is_main:
            lines += [*_causes(run, update), _newest_checkpoint(run), _remedies(run)]
    finally:
        run.accelerator.wait_for_everyone()
    return TrainingError("\n  ".join(lines))


def _causes(run: Run, update: int) -> list[str]:
    """Lines that name the weights, rows and parameters concerned."""
    model = run.unwrapped_model
    lines = []
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        lines.append(f"weights that were not finite before it: {listed(broken, SHOWN)}")
    rows = rows_of_update(run, update)
    try:
        losses, gradients = _replay(run, rows)
    except Exception as error:  # whatever goes wrong here must not hide what went wrong there
        losses, gradients = {}, []
        lines.append(f"its rows could not be tried one by one ({error!r})")
    else:
        if not losses:
            lines.append("not reproduced row by row with the weights as they are now")
    named = list(losses) or rows
    numbers = ", ".join(str(row + 1) for row in named)
    lines.append(f"its {len(rows)} rows, from 1{', of which these lead to it' if losses else ''}: {numbers}")
    for row in named[:SHOWN]:
        loss = f" (loss {losses[row]:.4g})" if row in losses else ""
        lines.append(f"row {row + 1}{loss}: {_quoted(run, row)}")
    if gradients:
        lines.append(f"parameters whose gradient is not finite: {listed(gradients, SHOWN)}")
    return lines


def _replay(run: Run, rows: Sequence[int]) -> tuple[dict[int, float], list[str]]:
    """Each row alone through forward and backward, as in training; the random generators are left as they were.

    Returns: the loss of each row whose loss or gradient is not finite, and the parameters with such a gradient.
    """
    model, loader = run.unwrapped_model.train(), run.train_loader
    random_state = rng_state(run.accelerator.use_distributed)
    losses: dict[int, float] = {}
    gradients: dict[str, None] = {}
    for row in rows:
        model.zero_grad()
        inputs = send_to_device(loader.collate_fn([loader.dataset[row]]), run.accelerator.device)
        loss, _ = forward(run, model, inputs)
        loss.backward()
        parameters = model.named_parameters()
        found = [name for name, p in parameters if p.grad is not None and not p.grad.isfinite().all()]
        if found or not loss.isfinite():
            losses[row] = float(loss.detach())
            gradients |= dict.fromkeys(found)
    model.zero_grad()
    restore_rng_state(random_state, run.accelerator.use_distributed)
    return losses, list(gradients)


def _quoted(run: Run, row: int) -> str:
    """A training row as a person knows it: its columns as they were read, else its tokens as text, else as numbers."""
    if run.source_rows is not None:
        return ", ".join(f"{name} {_short(str(value))}" for name, value in run.source_rows[row].items())  # type: ignore[attr-defined]
    example: Any = run.train_dataset[row]
    tokens = example.get("input_ids") if hasattr(example, "get") else None
    if tokens is None:
        return _short(str(example))
    decode = getattr(run.processing_class, "decode", None)
    return _short(decode(tokens) if decode is not None else f"tokens {' '.join(map(str, tokens))}")


def _short(text: str) -> str:
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}...")


def _newest_checkpoint(run: Run) -> str:
    """Whole, and finite: that is looked at before every save."""
    there = (folder for folder in reversed(list_checkpoints(Path(run.config.output_dir))) if not what_is_wrong(folder))
    newest = next(there, run.resumed_from)
    return f"the newest good checkpoint: {newest}" if newest else f"no checkpoint in {run.config.output_dir} yet"


def _remedies(run: Run) -> str:
    config = run.config
    norm = f"a --max_grad_norm below {config.max_grad_norm:g}" if config.max_grad_norm else "--max_grad_norm 1"
    precision = ", --bf16 in place of --fp16" if run.accelerator.mixed_precision == "fp16" else ""
    return (
        f"what to try: look at these rows; a --learning_rate below {config.learning_rate:g}, {norm}{precision}; "
        "--on_nonfinite skip leaves such updates out and trains on"
    )
