"""The micro-batches of an update, as the loop takes them: fetched, cut to the rows that count, with their divisor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelerate import skip_first_batches
from torch import Tensor

from ftloop.system.rng import restore_rng_state

if TYPE_CHECKING:
    from ftloop.run.run import Run

Inputs = dict[str, Any]
"""A collated batch: tensors by name, the first dimension of each the rows."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and one backward pass of one process take."""

    inputs: Inputs
    rows: int
    """Distinct rows in it; 0 where it only repeats a row of another process."""
    divisor: float
    """What its mean loss is divided by before the backward pass."""
    num_items: Tensor | None
    """Labels of the whole update over all processes, only where Trainer hands them to the model."""
    is_last: bool
    """Whether it is its update's last: gradients are exchanged between processes in its backward pass."""


@dataclass(frozen=True)
class Window:
    """The micro-batches of one update."""

    epoch: int
    index: int
    """Position of the update in its epoch."""
    rows: int
    """Distinct rows, over all micro-batches and processes."""
    micro_batches: tuple[MicroBatch, ...]


def epochs_left(run: Run) -> range:
    return range(run.state.global_step // run.plan.updates_per_epoch, run.plan.num_train_epochs)


def windows(run: Run, epoch: int) -> Iterator[Window]:
    """The updates of an epoch still to be done. All micro-batches of an update are fetched before the first is used.

    Mirrors: Trainer.get_batch_samples and the part of Trainer._run_epoch that skips what a resumed run has done.
    """
    plan, loader = run.plan, run.train_loader
    fetches, done = loader.fetches, run.state.global_step - epoch * plan.updates_per_epoch
    skip = done * plan.gradient_accumulation_steps
    if skip and not (workers_persist(run) or fetches.reads_again()):
        loader, skip = skip_first_batches(loader, skip), 0
    elif not skip and (epoch == 0 or not workers_persist(run)):
        restore_rng(run)
    loader.set_epoch(epoch)  # Accelerate's own counter only moves when a loader is read to its very end
    run.sampler.epoch = epoch  # Accelerate's call does not reach one below what it wraps around it
    fetches.begin_epoch(epoch, done > 0, lambda: restore_rng(run))
    batches = iter(loader)
    for _ in range(skip):
        next(batches)
    for index in range(done, plan.updates_per_epoch):
        fetched = [next(batches) for _ in range(plan.window_size(index))]
        restore_rng(run)  # after the fetch: in the run that was interrupted, these batches came before the checkpoint
        yield _window(run, epoch, index, fetched)


def _window(run: Run, epoch: int, index: int, batches: Sequence[Inputs]) -> Window:
    plan, rules, accelerator = run.plan, run.rules, run.accelerator
    processes = accelerator.num_processes
    num_items, window_rows = rules.num_items(run, batches), plan.rows_in_window(epoch, index)
    micro_batches = []
    for i, inputs in enumerate(batches):
        step = index * plan.gradient_accumulation_steps + i
        rows = plan.rows_in_step(epoch, step, accelerator.process_index)
        inputs = rules.own_rows(inputs, rows, processes)
        if "input_ids" in inputs:
            run.current_flos += float(inputs["input_ids"].numel() * run.flos_per_token)
        divisor = rules.divisor(rows, window_rows, len(batches), processes, num_items)
        micro_batches.append(MicroBatch(inputs, rows, divisor, num_items, is_last=i == len(batches) - 1))
    return Window(epoch, index, window_rows, tuple(micro_batches))


def workers_persist(run: Run) -> bool:
    """Whether a resumed run reads on with the loader it has. Workers that persist draw a random number in the first
    epoch alone, so their loader is not exchanged for another, and the number it draws is forgotten.

    Differs: Trainer resumes to other bits there.
    """
    return run.config.dataloader_persistent_workers and run.rules.resumes_exactly


def restore_rng(run: Run) -> None:
    """Restore the random state of the checkpoint the run was resumed from, once, at the moment that makes it exact."""
    if run.resume is not None and run.resume.rng_state is not None:
        restore_rng_state(run.resume.rng_state)
        run.resume.rng_state = None
        run.train_loader.fetches.tell()


def rows_of_update(run: Run, global_step: int) -> list[int]:
    """The training rows of an update over all processes, counted from 0, in the order in which they were assigned.

    An epoch's order depends on nothing but the lengths, the seed and the epoch, and an update takes the next of it.
    """
    epoch, index = divmod(global_step - 1, run.plan.updates_per_epoch)
    first = run.plan.rows_before(epoch, index)
    rows: list[int] = run.row_order(epoch)[first : first + run.plan.rows_in_window(epoch, index)].tolist()
    return rows


def num_rows(inputs: Inputs) -> int:
    """Rows of a batch. Accelerate's `find_batch_size` refuses batches that hold a number without rows."""
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim)


def rows_between(inputs: Inputs, start: int, stop: int) -> Inputs:
    return {name: v[start:stop] if isinstance(v, Tensor) and v.ndim else v for name, v in inputs.items()}
