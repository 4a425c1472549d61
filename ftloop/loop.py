"""The training loop. `updates()` trains; `train()` says what happens after each update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import skip_first_batches
from torch import Tensor
from transformers.trainer_utils import speed_metrics

from ftloop.checkpoint import keep_only_best, save_checkpoint, store_flos
from ftloop.durable import in_use
from ftloop.evaluation import evaluate
from ftloop.guard import guarded_step, stop_if_not_finite
from ftloop.logs import Logs
from ftloop.loss import count_items, forward, loss_divisor
from ftloop.memory import within_memory
from ftloop.resume import choose_checkpoint, load_checkpoint, load_weights
from ftloop.rng import restore_rng_state, rng_state
from ftloop.run import Inputs, Run, first_rows
from ftloop.state import after_epoch, after_update, count_patience, note_best
from ftloop.stopping import SLOW_DISK, Stopped, signals_wait

TrainingStep = Callable[[Run, Inputs, float, Tensor | None], Tensor]


@dataclass(frozen=True)
class Update:
    """One optimizer step, just done."""

    global_step: int
    epoch: float
    losses: tuple[Tensor, ...]
    """What each micro-batch of this process adds to the update's loss; scalars on the device."""
    grad_norm: Tensor | float | None
    """Before clipping."""
    learning_rate: float | None
    """That this update was made with."""
    rows: int
    """Distinct rows, over all micro-batches and processes."""
    ends_epoch: bool
    phases_due: tuple[str, ...] | None = None
    """Only of an update done before the checkpoint this run was resumed from: what `train()` still owes it."""

    @property
    def loss(self) -> Tensor:
        """This process's loss of the update; with one process, the mean over its rows."""
        return sum(self.losses[1:], start=self.losses[0])


@dataclass(frozen=True)
class TrainResult:
    """Mirrors: TrainOutput."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


@within_memory
def training_step(run: Run, inputs: Inputs, divisor: float, num_items: Tensor | None) -> Tensor:
    """Forward and backward of one micro-batch; its gradients add to those already there.

    Returns: its share of the update's loss, a scalar on the device.
    Mirrors: Trainer.training_step.
    """
    if not run.unwrapped_model.training:
        run.model.train()  # after an evaluation; every time, it would cost a tenth of a tiny model's step
    loss, _ = forward(run, run.model, inputs, num_items)
    loss = loss / divisor
    run.accelerator.backward(loss)
    return loss.detach()


def updates(run: Run, step: TrainingStep = training_step) -> Iterator[Update]:
    """Train, and yield after every update; what else is to happen goes into the body of the `for`.

    Continues where `run.state` is. The next batches are fetched only when the body has run, so an evaluation in the
    body draws its random numbers where Trainer's does.
    Mirrors: Trainer._run_epoch.
    """
    config, plan, state, accelerator, model = run.config, run.plan, run.state, run.accelerator, run.model
    if state.control.should_training_stop:
        return
    model.train()
    model.zero_grad()
    parameters = list(model.parameters())
    for epoch in range(state.global_step // plan.updates_per_epoch, plan.num_train_epochs):
        for index, batch_samples in _windows(run, epoch):
            num_items, rows = count_items(run, batch_samples), plan.rows_in_window(epoch, index)
            losses = []
            for inputs, rows_here, is_last in _micro_batches(run, epoch, index, batch_samples):
                divisor = loss_divisor(run, rows_here, rows, len(batch_samples), num_items)
                accelerator.sync_gradients = is_last  # lets the optimizer step and fp16 gradients be unscaled
                with nullcontext() if is_last else accelerator.no_sync(model):
                    losses.append(step(run, inputs, divisor, num_items))
            grad_norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm or math.inf)
            weights_moved = _optimizer_step(run, losses, grad_norm)
            learning_rate = run.scheduler.get_last_lr()[0]
            if weights_moved:
                run.scheduler.step()
            for parameter in parameters:
                parameter.grad = None
            state.global_step += 1
            steps_done = index * plan.gradient_accumulation_steps + len(batch_samples)
            state.epoch = epoch + steps_done / plan.steps_in_epoch
            is_over = steps_done == plan.steps_in_epoch or state.global_step >= plan.max_steps
            yield Update(state.global_step, state.epoch, tuple(losses), grad_norm, float(learning_rate), rows, is_over)
            if state.global_step >= plan.max_steps:
                return


def _windows(run: Run, epoch: int) -> Iterator[tuple[int, list[Inputs]]]:
    """The micro-batches of each update of an epoch still to be done, with the update's index in the epoch."""
    plan, loader = run.plan, run.train_loader
    done = run.state.global_step - epoch * plan.updates_per_epoch
    skip = done * plan.gradient_accumulation_steps
    if skip and not _keeps_workers(run):
        loader, skip = skip_first_batches(loader, skip), 0
    elif not skip and (epoch == 0 or not _keeps_workers(run)):
        _restore_rng(run)
    loader.set_epoch(epoch)  # Accelerate's own counter only moves when a loader is read to its very end
    run.sampler.epoch = epoch  # Accelerate's call does not reach one below what it wraps around it
    batches = iter(loader)
    for _ in range(skip):
        next(batches)
    for index in range(done, plan.updates_per_epoch):
        batch_samples = [next(batches) for _ in range(plan.window_size(index))]
        _restore_rng(run)  # after the fetch: in the run that was interrupted, these batches came before the checkpoint
        yield index, batch_samples


def _keeps_workers(run: Run) -> bool:
    """Workers that persist draw a random number in the first epoch alone. So in a resumed run their loader is not
    exchanged for another, and the number it draws is forgotten. Differs: Trainer resumes to other bits there.
    """
    return run.config.dataloader_persistent_workers and not run.config.trainer_compat


def _micro_batches(run: Run, epoch: int, index: int, batch_samples: list[Inputs]) -> Iterator[tuple[Inputs, int, bool]]:
    """Each micro-batch, how many of its rows count, and whether it is the update's last.

    The last round is filled with rows that another process has too. They are cut off, one is left where there is no
    other: it counts nothing, but its process must take part in the backward pass. Differs: Trainer trains on them.
    """
    plan = run.plan
    for i, inputs in enumerate(batch_samples):
        step = index * plan.gradient_accumulation_steps + i
        rows = plan.rows_in_step(epoch, step, run.accelerator.process_index)
        if run.accelerator.num_processes > 1 and not run.config.trainer_compat:
            inputs = first_rows(inputs, max(rows, 1))
        if "input_ids" in inputs:
            run.current_flos += float(inputs["input_ids"].numel() * run.flos_per_token)
        yield inputs, rows, i == len(batch_samples) - 1


def _optimizer_step(run: Run, losses: list[Tensor], grad_norm: Tensor | float | None) -> bool:
    """Returns: whether the weights moved. They do not where the numbers are not finite, or a gradient overflowed."""
    if run.config.trainer_compat:
        run.optimizer.step()
        return not run.accelerator.optimizer_step_was_skipped
    return guarded_step(run, losses, grad_norm)


def _restore_rng(run: Run) -> None:
    if run.rng_to_restore is not None:
        restore_rng_state(run.rng_to_restore, run.accelerator.use_distributed)
        run.rng_to_restore = None


def _update_not_seen_to(run: Run) -> Iterator[Update]:
    """The last update before the checkpoint this run was resumed from, if something is still due after it."""
    due, run.phases_due = run.phases_due, ()
    if due:
        _restore_rng(run)
        state, meter = run.state, run.meter
        ends_epoch = "epoch" in due
        yield Update(state.global_step, state.epoch, (), meter.grad_norm, meter.learning_rate, 0, ends_epoch, due)
        if _keeps_workers(run) or state.global_step % run.plan.updates_per_epoch:
            # Otherwise than in the run that was interrupted, an iterator is made next, which draws a number.
            run.rng_to_restore = rng_state(run.accelerator.use_distributed)


def train(run: Run, step: TrainingStep = training_step) -> TrainResult:
    """Train the prepared run to its end: log, evaluate, save; go back to the best checkpoint if asked.

    Mirrors: Trainer.train, _maybe_log_save_evaluate, _finalize_training.
    """
    with _resumable(run), Logs(run) as logs:
        config, state, control, meter = run.config, run.state, run.state.control, run.meter
        started, first_step = time.time(), state.global_step
        if config.eval_on_start and (first_step == 0 or config.trainer_compat):
            metrics = evaluate(run)
            logs.record(metrics)
            count_patience(config, state, metrics)
        for update in chain(_update_not_seen_to(run), updates(run, step)):
            metrics = {}
            meter.add(update.losses, update.grad_norm, update.learning_rate, update.global_step)
            logs.advance()
            for phase in _phases(run, update):
                if control.anything_due:
                    stop_if_not_finite(run)
                if control.should_log and state.global_step > meter.logged_at:
                    logs.losses()
                if control.should_evaluate:
                    metrics = evaluate(run)
                    logs.evaluation(metrics, phase)
                    control.should_evaluate = False
                    count_patience(config, state, metrics)
                    is_best = note_best(config, state, metrics)
                    if config.save_strategy == "best":
                        control.should_save = is_best
                if phase == "epoch":
                    logs.epoch(metrics)
                if control.should_save:
                    save_checkpoint(run, phase)
                    control.should_save = False
            if control.should_training_stop:
                logs.stopped_early()
                break
            run.stop.check()
        result = _result(run, started, first_step)
        logs.record(result.metrics)
        if config.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_weights(run, Path(state.best_model_checkpoint))
            logs.best()
        keep_only_best(run)
    return result


@contextmanager
def _resumable(run: Run) -> Iterator[None]:
    """Continue where resume_from_checkpoint says, unless a checkpoint has been loaded already, with the output_dir to
    ourselves; asked to stop, save where the run can be taken up again.

    Raises: UserError when the output_dir holds another run's checkpoints: they are not trained over. Stopped.
    """
    with in_use(Path(run.config.output_dir)) if run.is_main else nullcontext(), signals_wait():
        checkpoint = choose_checkpoint(run.config, run.accelerator) if run.state.global_step == 0 else None
        if checkpoint is not None:
            load_checkpoint(run, checkpoint, is_whole=True)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in run.model.parameters())
        if run.stop.deadline is None and run.config.max_train_seconds is not None:
            run.stop.deadline = time.monotonic() + run.config.max_train_seconds
        run.stop.save_seconds = run.stop.save_seconds or 3 * weights / SLOW_DISK  # AdamW keeps two numbers for each
        try:
            yield
        except Stopped as stopped:
            step = run.state.global_step
            if step and run.saved_at != step:
                stop_if_not_finite(run)
                save_checkpoint(run, run.phase, on_request=True)
            saved = f"after update {step}, saved as checkpoint-{step}" if step else "before the first update"
            raise Stopped(f"{stopped} {saved}") from None


def _phases(run: Run, update: Update) -> Iterator[str]:
    """After an update `update`, and `epoch` when that ends an epoch or training stops; sets what is due in each."""
    due = ("update",) if update.phases_due is None else update.phases_due
    run.phase = "none"
    if "update" in due:
        after_update(run.config, run.plan, run.state)
        yield "update"
    run.phase = "update"
    if update.ends_epoch or run.state.control.should_training_stop:
        after_epoch(run.config, run.state)
        yield "epoch"
        run.phase = "epoch"


def _result(run: Run, started: float, first_step: int) -> TrainResult:
    """The run's figures. `train_loss` is the mean over all updates whose loss is known, also those before a resume.

    Differs: with trainer_compat, over the updates since the resume, with this process's own unlogged remainder.
    """
    state, meter, compat = run.state, run.meter, run.config.trainer_compat
    new_steps = state.global_step - first_step
    remainder = (meter.window if compat else run.accelerator.gather(meter.window).mean()).item()
    steps = max(new_steps, 0.001) if compat else state.global_step - meter.lost
    train_loss = (meter.total + remainder) / steps if steps else math.nan
    store_flos(run)
    samples = run.plan.num_train_samples * new_steps / max(state.max_steps, 1)
    metrics: dict[str, Any] = speed_metrics("train", started, num_samples=samples, num_steps=new_steps)
    metrics |= {"total_flos": state.total_flos, "train_loss": train_loss} | run.mishaps.counted()
    return TrainResult(state.global_step, train_loss, metrics)
