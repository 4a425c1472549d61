"""What counts how much: the two semantics of a run, side by side. `trainer_compat` chooses one when it is prepared.

Where an update has one micro-batch and one process the two are the same bits. Deleting `AsTrainer` would leave a plain
loop; reading one class after the other shows every place where ftloop differs from Trainer in what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ftloop.run.micro_batches import num_rows, rows_between

if TYPE_CHECKING:
    from ftloop.run.micro_batches import Inputs
    from ftloop.run.run import EvaluationRun, Run


class EveryRowOnce:
    """Every row of an update and of an evaluation counts once. Nothing is lost by a resume, and a NaN is shown."""

    checks_numbers = True
    """`on_nonfinite` is followed, and the schedule waits when fp16 skips an update."""
    hides_non_finite_losses = False
    drops_last_eval_batch = False
    resumes_exactly = True
    """The losses since the last log line, early stopping's counter and persistent workers survive a resume."""

    def num_items(self, run: EvaluationRun, batches: Sequence[Inputs]) -> Tensor | None:
        return None

    def divisor(self, rows: int, window_rows: int, window_size: int, processes: int, num_items: Any) -> float:
        """Divisor applied to a micro-batch's mean loss so that every row of the update has equal weight.

        The gradients of an update are summed over its micro-batches and averaged over W processes, so a row counts
        1 / `window_rows` when its micro-batch's mean is weighted by rows * W / window_rows. With equal micro-batches
        the divisor is exactly their number. Class weights do not change that: a weighted loss is still a row's loss.
        """
        return window_rows / (rows * processes) if rows else math.inf

    def own_rows(self, inputs: Inputs, rows: int, processes: int) -> Inputs:
        """The rows of a batch that no other process or batch has.

        The last round is filled with rows that another process has too; they are cut off. Where that leaves none, one
        stays: it counts nothing, but its process must take part in the exchange of gradients.
        """
        return inputs if processes == 1 or rows == num_rows(inputs) else rows_between(inputs, 0, max(rows, 1))

    def mean_eval_loss(self, per_row: np.ndarray) -> float:
        """The float32 NumPy mean over rows of their batch's mean loss: any other way differs in the last digits."""
        return float(per_row.mean().item())

    def train_loss(self, run: Run, new_steps: int) -> float:
        """The mean over all updates whose loss is known, those before a resume included."""
        meter = run.meter
        updates = run.state.global_step - meter.unlogged_updates
        remainder = run.accelerator.gather(meter.since_log).mean().item()
        return (meter.logged_sum + remainder) / updates if updates else math.nan


@dataclass(frozen=True)
class AsTrainer:
    """Transformers' Trainer bit for bit, its known defects included."""

    own_loss: bool = False
    """Whether there is a compute_loss_func, which Trainer takes to divide by the items of the whole update."""
    checks_numbers = False
    hides_non_finite_losses = True
    """Mirrors: `logging_nan_inf_filter`."""
    drops_last_eval_batch = True
    resumes_exactly = False

    def num_items(self, run: EvaluationRun, batches: Sequence[Inputs]) -> Tensor | None:
        """Labels of an update over all processes; None unless the model, or a loss of the user's own, takes them.

        Mirrors: Trainer._get_num_items_in_batch.
        """
        if not ((run.accepts_loss_kwargs or self.own_loss) and "labels" in batches[0]):
            return None
        count = sum((inputs["labels"] != -100).sum() for inputs in batches)
        assert isinstance(count, Tensor)
        if run.config.average_tokens_across_devices and run.accelerator.num_processes > 1:
            count = run.accelerator.gather(count.to(run.accelerator.device)).sum()
        return count.to(run.accelerator.device, torch.float32)

    def divisor(self, rows: int, window_rows: int, window_size: int, processes: int, num_items: Any) -> float:
        """Nothing where the model accepts loss kwargs, so that k micro-batches give k times the loss (transformers
        #47688); else the number of micro-batches, whatever their rows.
        """
        return 1.0 if num_items is not None or self.own_loss else float(window_size)

    def own_rows(self, inputs: Inputs, rows: int, processes: int) -> Inputs:
        """All of them: Trainer trains and evaluates on the repeated rows too."""
        return inputs

    def mean_eval_loss(self, per_row: np.ndarray) -> float:
        finite = np.isfinite(per_row)
        return float((per_row[finite] if finite.any() else per_row).mean().item())

    def train_loss(self, run: Run, new_steps: int) -> float:
        """The mean over the updates since a resume, with this process's own unlogged remainder."""
        return float((run.meter.logged_sum + run.meter.since_log.item()) / max(new_steps, 0.001))


Rules = EveryRowOnce | AsTrainer
