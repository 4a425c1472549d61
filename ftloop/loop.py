"""The training loop. `updates()` trains; `train()` says what happens after each update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.trainer_utils import speed_metrics

from ftloop.checkpoint.choose import choose_checkpoint
from ftloop.checkpoint.folders import keep_only_best, warn_of_another_run
from ftloop.checkpoint.resume import load_checkpoint, load_saved_weights
from ftloop.checkpoint.save import save_checkpoint
from ftloop.evaluation import evaluate
from ftloop.logs import Logs
from ftloop.loss import forward
from ftloop.nonfinite import choose_optimizer_step, raise_if_nonfinite
from ftloop.oom import train_in_memory
from ftloop.run.meter import store_flos
from ftloop.run.micro_batches import MicroBatch, Window, epochs_left, restore_rng, windows, workers_persist
from ftloop.run.state import Due, Phase, due_after_epoch, due_after_update, update_best, update_early_stopping
from ftloop.system.console import say
from ftloop.system.lock import lock_folder
from ftloop.system.out_of_memory import memory_told
from ftloop.system.rng import rng_state
from ftloop.system.stopping import SLOW_DISK, Stopped

if TYPE_CHECKING:
    from ftloop.run.run import Run

TrainingStep = Callable[["Run", MicroBatch], Tensor]
BESIDE_BATCHES = "training, outside of forward and backward (optimizer, clipping, copies),"


@dataclass(frozen=True)
class Update:
    """One optimizer step, just done."""

    global_step: int
    epoch: float
    losses: tuple[Tensor, ...]
    """Share of each micro-batch of this process in the update's loss; scalars on the device."""
    grad_norm: Tensor | float | None
    """Gradient norm before clipping."""
    learning_rate: float | None
    """Learning rate used for this update."""
    rows: int
    """Distinct rows, over all micro-batches and processes."""
    ends_epoch: bool
    pending: tuple[Phase, ...] = (Phase.UPDATE,)
    """Phases `train()` still has to handle; fewer or others only for an update made before a resume."""

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


def forward_backward(run: Run, micro_batch: MicroBatch) -> Tensor:
    """Forward and backward of one micro-batch; its gradients add to those already there.

    Returns: its share of the update's loss, a scalar on the device.
    """
    loss, _ = forward(run, run.model, micro_batch.inputs, micro_batch.num_items)
    loss = loss / micro_batch.divisor
    run.accelerator.backward(loss)
    return loss.detach()


def training_step(run: Run, micro_batch: MicroBatch) -> Tensor:
    """`forward_backward`, in as many slices as the memory needs. Mirrors: Trainer.training_step."""
    return train_in_memory(run, forward_backward, micro_batch)


def updates(run: Run, step: TrainingStep = training_step) -> Iterator[Update]:
    """Train, and yield after every update; what else is to happen goes into the body of the `for`.

    Continues where `run.state` is, or from the checkpoint that `resume_from_checkpoint` asks for. The next batches are
    fetched only when the body has run, so an evaluation in the body draws its random numbers where Trainer's does.
    Mirrors: Trainer._run_epoch.
    """
    resume_if_asked(run, else_refuse=False)
    parameters, optimizer_step = list(run.model.parameters()), choose_optimizer_step(run)
    if run.state.should_training_stop:
        return
    run.model.zero_grad()
    for epoch in epochs_left(run):
        for window in windows(run, epoch):  # the micro-batches of one update
            run.model.train()  # however it came, or the body has left it
            losses = []
            for micro_batch in window.micro_batches:
                with gradient_sync(run, micro_batch.is_last):
                    losses.append(step(run, micro_batch))  # forward, loss / divisor, backward
            grad_norm = run.accelerator.clip_grad_norm_(parameters, run.config.max_grad_norm or math.inf)
            stepped = optimizer_step(run, losses, grad_norm)  # False: skipped, not finite or overflowed in fp16
            learning_rate = run.scheduler.get_last_lr()[0]
            if stepped:
                run.scheduler.step()
            for parameter in parameters:  # those that no optimizer holds too
                parameter.grad = None
            yield advance(run, window, losses, grad_norm, learning_rate)
            if run.state.global_step >= run.plan.max_steps:
                return


@contextmanager
def gradient_sync(run: Run, is_last: bool) -> Iterator[None]:
    """Exchange gradients between processes only in the backward pass of an update's last micro-batch."""
    run.accelerator.sync_gradients = is_last  # lets the optimizer step and fp16 gradients be unscaled
    run.accelerator.gradient_accumulation_steps = 1  # `backward` divides by it, and any Accelerator sets it for all
    with nullcontext() if is_last else run.accelerator.no_sync(run.model):
        yield


def advance(run: Run, window: Window, losses: list[Tensor], grad_norm: Any, learning_rate: Any) -> Update:
    """Count an update that is done, and its loss."""
    state, plan = run.state, run.plan
    if window.index == 0:
        run.meter.begin_epoch(state.global_step)
    state.global_step += 1
    run.phase = Phase.EPOCH  # what is due now is for the body to say
    learning_rate = float(learning_rate)
    run.meter.add(losses, grad_norm, learning_rate, state.global_step)
    steps_done = window.index * plan.gradient_accumulation_steps + len(losses)
    state.epoch = window.epoch + steps_done / plan.steps_in_epoch
    ends_epoch = steps_done == plan.steps_in_epoch or state.global_step >= plan.max_steps
    return Update(state.global_step, state.epoch, tuple(losses), grad_norm, learning_rate, window.rows, ends_epoch)


def train(run: Run, step: TrainingStep = training_step) -> TrainResult:
    """Train the prepared run to its end: log, evaluate, save; go back to the best checkpoint if asked.

    Raises: UserError when the output_dir holds another run's checkpoints: they are not trained over. Stopped.
    Mirrors: Trainer.train, _maybe_log_save_evaluate, _finalize_training.
    """
    config, meter = run.config, run.meter
    with exclusive(run), saved_when_stopped(run), memory_told(BESIDE_BATCHES, run.model.parameters()):
        resume_if_asked(run)
        state, started, first_step = run.state, time.time(), run.state.global_step
        with Logs(run) as logs:
            if config.eval_on_start and (first_step == 0 or not run.rules.resumes_exactly):
                logs.evaluation(metrics := evaluate(run), Phase.NONE)
                update_early_stopping(config, state, metrics)
            for update in chain(pending_update(run), updates(run, step)):
                metrics = {}
                logs.advance()
                for due in events_due(run, update):  # at the end of the update; at the end of its epoch
                    if due.log or due.evaluate or due.save or state.should_training_stop:
                        raise_if_nonfinite(run)
                    if due.log and state.global_step > meter.logged_at:
                        logs.losses()
                        due = replace(due, log=False)
                    if due.evaluate:
                        metrics = evaluate(run)
                        logs.evaluation(metrics, due.phase)
                        update_early_stopping(config, state, metrics)
                        is_best = update_best(config, state, metrics)
                        due = Due(due.phase, save=is_best if config.save_strategy == "best" else due.save)
                    if due.phase == Phase.EPOCH:
                        logs.epoch(metrics)
                    if due.save:
                        save_checkpoint(run, due)
                if state.should_training_stop:
                    logs.stopped_early()
                    break
                run.stop.check()
            result = training_result(run, started, first_step)
            if not any("train_runtime" in entry for entry in state.log_history):  # else it was trained already
                logs.record(result.metrics)
            if config.load_best_model_at_end and state.best_model_checkpoint is not None:
                load_saved_weights(run, Path(state.best_model_checkpoint))
                logs.best()
            keep_only_best(run)
    run.model.eval()  # whoever calls it next wants answers without dropout
    return result


def events_due(run: Run, update: Update) -> Iterator[Due]:
    """What is due at the end of an update, and, where it ends an epoch or training stops, at the end of that."""
    state = run.state
    run.phase = Phase.NONE
    state.should_training_stop |= state.global_step >= run.plan.max_steps
    if Phase.UPDATE in update.pending:
        yield due_after_update(run.config, run.plan, state.global_step)
    run.phase = Phase.UPDATE
    if update.ends_epoch or state.should_training_stop:
        yield due_after_epoch(run.config, state.epoch)
    run.phase = Phase.EPOCH


def pending_update(run: Run) -> Iterator[Update]:
    """The last update before a checkpoint, or before an exception in `train()`, if something is still due after it."""
    resume, state, meter = run.resume, run.state, run.meter
    ends_epoch = state.should_training_stop or state.global_step % run.plan.updates_per_epoch == 0
    is_due = {Phase.UPDATE: run.phase == Phase.NONE, Phase.EPOCH: run.phase != Phase.EPOCH and ends_epoch}
    pending = tuple(phase for phase, due in is_due.items() if due)
    if pending:
        restore_rng(run)
        yield Update(state.global_step, state.epoch, (), meter.grad_norm, meter.learning_rate, 0, ends_epoch, pending)
        if resume is not None and (workers_persist(run) or state.global_step % run.plan.updates_per_epoch):
            # Unlike in the interrupted run, an iterator is made next, which draws a number.
            resume.rng_state = rng_state()


def exclusive(run: Run) -> AbstractContextManager[None]:
    """Lock the output_dir, so that no other run writes into it."""
    return lock_folder(Path(run.config.output_dir)) if run.is_main else nullcontext()


def resume_if_asked(run: Run, else_refuse: bool = True) -> None:
    """Load the checkpoint that `resume_from_checkpoint` asks for, unless one has been loaded already. Where it asks for
    none, other checkpoints are refused; but not by a loop of one's own, which may not save at all.
    """
    if run.state.global_step == 0 and (else_refuse or run.config.resume_from_checkpoint is not None):
        checkpoint = choose_checkpoint(run.config, run.accelerator)
        if checkpoint is not None:
            load_checkpoint(run, checkpoint, is_whole=True)
    elif run.state.global_step == 0:
        warn_of_another_run(run.config.output_dir)
    elif run.state.should_training_stop and run.phase == Phase.EPOCH and else_refuse:
        say("Trained", f"already: this run is complete, at update {run.state.global_step}; prepare another to go on")


@contextmanager
def saved_when_stopped(run: Run) -> Iterator[None]:
    """Asked to stop, save where the run can be taken up again. Raises: Stopped, saying where that is."""
    stop, config = run.stop, run.config
    limit = config.max_train_seconds if stop.deadline is None else None  # the command counts from its own start
    if limit is not None:
        stop.deadline = time.monotonic() + limit
    weights = sum(parameter.numel() * parameter.element_size() for parameter in run.model.parameters())
    stop.save_seconds = stop.save_seconds or 3 * weights / SLOW_DISK  # AdamW keeps two numbers for each
    try:
        yield
    except Stopped as stopped:
        step = run.state.global_step
        if step and run.saved_at != step:
            raise_if_nonfinite(run)
            save_checkpoint(run, Due(run.phase), on_request=True)
        saved = f"after update {step}, saved as checkpoint-{step}" if step else "before the first update"
        if limit is not None:  # it was that of the training, which is over
            stop.reason = stop.deadline = None
        raise Stopped(f"{stopped} {saved}") from None


def training_result(run: Run, started: float, first_step: int) -> TrainResult:
    state = run.state
    new_steps = state.global_step - first_step
    train_loss = run.rules.train_loss(run, new_steps)
    store_flos(run)
    samples = run.plan.num_train_samples * new_steps / max(state.max_steps, 1)
    metrics: dict[str, Any] = speed_metrics("train", started, num_samples=samples, num_steps=new_steps)
    metrics |= {"total_flos": state.total_flos, "train_loss": train_loss} | run.counters.nonzero()
    return TrainResult(state.global_step, train_loss, metrics)
