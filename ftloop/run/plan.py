"""The step arithmetic of a run: how many updates, how many micro-batches in each, how many rows in each of those.

Derived once from the configuration and the length of the loader, frozen, and printed before training starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftloop.errors import UserError

if TYPE_CHECKING:
    from ftloop.batching.token_budget import TokenBudget
    from ftloop.config.train_config import TrainConfig


@dataclass(frozen=True)
class TrainingPlan:
    """Counts of one run. A *step* is a micro-batch of one process within an epoch; an *update* is what
    `global_step` counts.
    """

    num_examples: int
    num_processes: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    steps_in_epoch: int
    """Micro-batches of each process in one epoch."""
    updates_per_epoch: int
    num_train_epochs: int
    """Epochs begun, the last perhaps not finished."""
    max_steps: int
    """Updates of the whole run."""
    warmup_steps: int
    logging_steps: int
    eval_steps: int
    save_steps: int
    num_train_samples: float
    """Rows that the whole run sees."""
    budget: TokenBudget | None = field(default=None, repr=False, compare=False)
    """Set for `batching=token_budget`, whose batches vary in row count."""

    def window_size(self, update: int) -> int:
        """Micro-batches of the `update`-th update of an epoch; the last may have fewer."""
        left = self.steps_in_epoch - update * self.gradient_accumulation_steps
        return min(self.gradient_accumulation_steps, left)

    def rows_in_window(self, epoch: int, update: int) -> int:
        """Distinct rows of the `update`-th update of an epoch, over all its micro-batches and processes."""
        last = update * self.gradient_accumulation_steps + self.window_size(update)
        return self._rows_of_steps(epoch, last) - self.rows_before(epoch, update)

    def rows_before(self, epoch: int, update: int) -> int:
        """Distinct rows that an epoch has assigned before its `update`-th update."""
        return self._rows_of_steps(epoch, update * self.gradient_accumulation_steps)

    def rows_after(self, global_step: int) -> int:
        """Rows that the run has seen after so many updates; those of every epoch are counted anew."""
        epoch, update = divmod(global_step, self.updates_per_epoch)
        return epoch * self._rows_of_steps(0, self.steps_in_epoch) + self.rows_before(epoch, update)

    def _rows_of_steps(self, epoch: int, steps: int) -> int:
        if self.budget is not None and steps < self.steps_in_epoch:
            return int(self.budget.of_epoch(epoch).starts[steps])
        rows = steps * self.num_processes * self.per_device_train_batch_size
        return min(rows, self.num_examples) if self.budget is None else self.num_examples

    def rows_in_step(self, epoch: int, step: int, process_index: int) -> int:
        """Distinct rows of a process's micro-batch; the rest of it repeats rows so that all processes have as many."""
        if self.budget is not None:
            return len(self.budget.of_epoch(epoch).of_process(step, process_index))
        return real_rows(self.num_examples, self.per_device_train_batch_size, self.num_processes, step, process_index)


def real_rows(num_examples: int, batch_size: int, num_processes: int, step: int, process_index: int) -> int:
    """How many rows of batch `step` on one process are not there a second time.

    Accelerate assigns batches to processes in turn and fills the last round with rows from the beginning
    (`even_batches`); those come after the real ones.
    """
    first = (step * num_processes + process_index) * batch_size
    return max(0, min(batch_size, num_examples - first))


def make_plan(
    config: TrainConfig,
    num_examples: int,
    steps_in_epoch: int,
    num_processes: int,
    budget: TokenBudget | None = None,
) -> TrainingPlan:
    """Mirrors: Trainer.set_initial_training_values, TrainingArguments.get_warmup_steps, TrainerState.compute_steps.

    Raises: UserError when there is nothing to train on.
    """
    if steps_in_epoch == 0:
        raise UserError(
            f"dataloader_drop_last leaves no full batch of {config.per_device_train_batch_size} rows "
            f"on {num_processes} process(es) out of {num_examples}"
        )
    accumulation = config.gradient_accumulation_steps
    updates_per_epoch = math.ceil(steps_in_epoch / accumulation)
    rows_per_update = config.per_device_train_batch_size * accumulation * num_processes
    if config.max_steps > 0:
        max_steps = config.max_steps
        num_train_epochs = math.ceil(max_steps / updates_per_epoch)
        num_train_samples: float = max_steps * rows_per_update
        if budget is not None:
            num_train_samples = num_examples * max_steps / updates_per_epoch
    else:
        max_steps = math.ceil(config.num_train_epochs * updates_per_epoch)
        num_train_epochs = math.ceil(config.num_train_epochs)
        num_train_samples = num_examples * config.num_train_epochs

    def updates(interval: float) -> int:
        return math.ceil(max_steps * interval) if interval < 1 else int(interval)

    return TrainingPlan(
        num_examples=num_examples,
        num_processes=num_processes,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=accumulation,
        steps_in_epoch=steps_in_epoch,
        updates_per_epoch=updates_per_epoch,
        num_train_epochs=num_train_epochs,
        max_steps=max_steps,
        warmup_steps=_warmup_steps(config, max_steps),
        logging_steps=updates(config.logging_steps),
        eval_steps=updates(config.evaluation_interval),
        save_steps=updates(config.save_steps),
        num_train_samples=num_train_samples,
        budget=budget,
    )


def _warmup_steps(config: TrainConfig, max_steps: int) -> int:
    """A share is rounded up to whole updates; `warmup_steps` from 1 on is a count, `warmup_ratio` always a share."""
    if config.warmup_ratio is not None:
        return math.ceil(max_steps * config.warmup_ratio)
    if config.warmup_steps >= 1:
        return int(config.warmup_steps)
    return math.ceil(max_steps * config.warmup_steps)
