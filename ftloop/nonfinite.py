"""Numbers that are not finite: kept from the weights, counted, and named with the rows and parameters they come from.

A NaN is looked for on the device, and the host reads the flag where it waits for the device anyway. Which of the steps
below a run takes is chosen once, by `choose_optimizer_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from ftloop.checkpoint.folders import list_checkpoints
from ftloop.checkpoint.verify import checkpoint_problems
from ftloop.errors import TrainingError
from ftloop.loss import forward
from ftloop.run.micro_batches import rows_of_update
from ftloop.system.distributed import destroy_group, main_process_first, new_cpu_group
from ftloop.system.rng import restore_rng_state, rng_state
from ftloop.system.text import join_some

if TYPE_CHECKING:
    from ftloop.run.run import Run

    OptimizerStep = Callable[[Run, Sequence[Tensor], Tensor | float | None], bool]

MAX_OVERFLOWS = 20
"""In a row. Each halves the gradient's scale, which begins at 2**16: after 16 nothing is scaled up any more, and what
still overflows after a few more is not the scale's doing."""
FLAG_IS_HEEDED_ON = ("cpu", "cuda")
"""Devices on which the fused kernels leave the weights alone when told so; Apple's takes the flag and ignores it."""
MAX_SHOWN = 5  # rows quoted, parameters named
MAX_QUOTED = 60  # characters of a text


def choose_optimizer_step(run: Run) -> OptimizerStep:
    """The optimizer's step for this run: it takes the losses and the gradient's norm of an update, and returns whether
    the weights moved as far as the schedule is concerned.

    With `on_nonfinite=raise` and the fused optimizer nothing waits: its kernel is given the flag and leaves the weights
    alone, from the first such update on, so that its rows can be looked at with the weights they met. `skip`, and the
    optimizer that is not fused, cost one wait for the device per update, and several processes one exchange of a single
    number, so that they all skip the same updates.
    """
    if not run.rules.checks_numbers:
        return _step_as_trainer
    if run.accelerator.scaler is not None:
        return _step_scaled
    if run.config.on_nonfinite == "ignore":
        return _step_always
    is_fused = getattr(run.optimizer.optimizer, "_step_supports_amp_scaling", False)
    is_left_to_kernel = is_fused and run.accelerator.device.type in FLAG_IS_HEEDED_ON
    return _step_unless_flagged if is_left_to_kernel and run.config.on_nonfinite == "raise" else _step_if_finite


def _step_as_trainer(run: Run, losses: Sequence[Tensor], grad_norm: Tensor | float | None) -> bool:
    run.optimizer.step()
    return not run.accelerator.optimizer_step_was_skipped


def _step_always(run: Run, losses: Sequence[Tensor], grad_norm: Tensor | float | None) -> bool:
    _count(run, losses, grad_norm)
    run.optimizer.optimizer.step()  # Accelerate's own looks for a package on the disk at every step
    return True


def _step_if_finite(run: Run, losses: Sequence[Tensor], grad_norm: Tensor | float | None) -> bool:
    """Raises: TrainingError before a step that would ruin the weights, unless it is to be skipped."""
    if _count(run, losses, grad_norm):
        raise_if_nonfinite(run)
        run.meter.skipped_at = run.state.global_step + 1
        return False
    run.optimizer.optimizer.step()
    return True


def _step_unless_flagged(run: Run, losses: Sequence[Tensor], grad_norm: Tensor | float | None) -> bool:
    """Raises: TrainingError at the next log step, also where the body of the `for` is the user's own."""
    _count(run, losses, grad_norm)
    optimizer, update = run.optimizer.optimizer, run.state.global_step + 1
    # What torch's gradient scaler and its fused kernels agree on: with the flag set the weights are left alone.
    optimizer.found_inf = (run.counters.first_nonfinite > 0).float()
    optimizer.step()
    del optimizer.found_inf
    if update % run.plan.logging_steps == 0 or update >= run.plan.max_steps:
        raise_if_nonfinite(run)
    return True


def _step_scaled(run: Run, losses: Sequence[Tensor], grad_norm: Tensor | float | None) -> bool:
    """Under fp16 the gradient's scaler skips what overflowed; that is its way to find the scale, and no error.

    Before it clips, Accelerate unscales the gradients and finds what overflowed: the host waits for that alone.
    Differs: Trainer's schedule runs on where the fused optimizer's kernel skips the step.
    """
    counters, mode, update = run.counters, run.config.on_nonfinite, run.state.global_step + 1
    scaler: Any = run.accelerator.scaler
    if not any(scaler._found_inf_per_device(run.optimizer.optimizer).values()):
        run.optimizer.optimizer.step()
        scaler.update()
        counters.overflows_in_a_row = 0
        return True
    scaler.update()
    counters.overflows += 1
    counters.overflows_in_a_row += 1
    # A scale that has come down to 0 never rises again.
    if counters.overflows_in_a_row >= MAX_OVERFLOWS and (mode == "raise" or not scaler.get_scale()):
        before = counters.overflows_in_a_row - 1
        raise _diagnose(run, update, f"the gradient overflowed, as in the {before} updates before it")
    if mode == "skip" and _flag(run, sum(losses[1:], start=losses[0])):
        run.meter.skipped_at = update
    return False


def _count(run: Run, losses: Sequence[Tensor], grad_norm: Tensor | float | None) -> Tensor:
    """Count the update where its loss or gradient is not finite. Returns: 1 then, else 0, on the device."""
    counters = run.counters
    flag = _flag(run, sum(losses[1:], start=losses[0]) + (0.0 if grad_norm is None else grad_norm))
    counters.nonfinite_updates += flag
    counters.first_nonfinite += (run.state.global_step + 1) * flag * (counters.first_nonfinite == 0)
    return flag


def _flag(run: Run, number: Tensor) -> Tensor:
    """1 where a number is not finite in any process, else 0, on the device."""
    flag: Tensor = run.accelerator.gather((~torch.isfinite(number)).int()).max()
    return flag


def raise_if_nonfinite(run: Run) -> None:
    """Look at the flag, for which the host waits. Every process calls it, before anything is logged or saved.

    Raises: TrainingError with `on_nonfinite=raise`.
    """
    if run.config.on_nonfinite == "raise" and (update := int(run.counters.first_nonfinite)):
        raise _diagnose(run, update, "the loss or the gradient is not finite")


def _diagnose(run: Run, update: int, what: str) -> TrainingError:
    """What is known of an update, from the main process; the others wait on their CPUs. Every process calls it."""
    lines, group = [f"update {update} of {run.plan.max_steps}: {what}; training stops"], new_cpu_group(run.accelerator)
    with main_process_first(run.accelerator, group, f"trying the rows of update {update} one by one"):
        lines += [*_causes(run, update), _newest_checkpoint(run), _remedies(run)] if run.is_main else []
    destroy_group(group)
    return TrainingError("\n  ".join(lines))


def _causes(run: Run, update: int) -> list[str]:
    """Lines that name the weights, rows and parameters concerned."""
    from ftloop.system.row_numbers import row_numbers  # here, where alone it is needed: the loop is to load little

    model = run.unwrapped_model
    lines = []
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        lines.append(f"weights that were not finite before it: {join_some(broken, MAX_SHOWN)}")
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
    numbers = row_numbers(run.source_rows, named)
    lines.append(
        f"its {len(rows)} rows, from 1{', of which these lead to it' if losses else ''}: {', '.join(map(str, numbers))}"
    )
    for number, row in list(zip(numbers, named, strict=True))[:MAX_SHOWN]:
        loss = f" (loss {losses[row]:.4g})" if row in losses else ""
        lines.append(f"row {number}{loss}: {_quoted(run, row)}")
    if gradients:
        lines.append(f"parameters whose gradient is not finite: {join_some(gradients, MAX_SHOWN)}")
    return lines


def _replay(run: Run, rows: Sequence[int]) -> tuple[dict[int, float], list[str]]:
    """Each row alone through forward and backward, as in training; the random generators are left as they were.

    Returns: the loss of each row whose loss or gradient is not finite, and the parameters with such a gradient.
    """
    model, loader = run.unwrapped_model.train(), run.train_loader
    random_state = rng_state()
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
    restore_rng_state(random_state)
    return losses, list(gradients)


def _quoted(run: Run, row: int) -> str:
    """A training row for a person to read: its columns as they were read, else its tokens as text, else as numbers."""
    if run.source_rows is not None:
        return ", ".join(f"{name} {_short(str(value))}" for name, value in run.source_rows[row].items())
    example: Any = run.train_dataset[row]
    tokens = example.get("input_ids") if hasattr(example, "get") else None
    if tokens is None:
        return _short(str(example))
    decode = getattr(run.processing_class, "decode", None)
    return _short(decode(tokens) if decode is not None else f"tokens {' '.join(map(str, tokens))}")


def _short(text: str) -> str:
    return repr(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}...")


def _newest_checkpoint(run: Run) -> str:
    """The newest whole checkpoint. It is finite too, as that is checked before every save."""
    existing = reversed(list_checkpoints(Path(run.config.output_dir)))
    resumed_from = run.resume.folder if run.resume is not None else None
    newest = next((folder for folder in existing if not checkpoint_problems(folder)), resumed_from)
    return f"the newest good checkpoint: {newest}" if newest else f"no checkpoint in {run.config.output_dir} yet"


def _remedies(run: Run) -> str:
    config = run.config
    norm = f"a --max_grad_norm below {config.max_grad_norm:g}" if config.max_grad_norm else "--max_grad_norm 1"
    precision = ", --bf16 in place of --fp16" if run.accelerator.mixed_precision == "fp16" else ""
    skip = "; --on_nonfinite skip skips such updates and trains on" if config.on_nonfinite == "raise" else ""
    return f"what to try: look at these rows; a --learning_rate below {config.learning_rate:g}, {norm}{precision}{skip}"
