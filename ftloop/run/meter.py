"""Running sums of a run: the loss between log lines, faults, floating point operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ftloop.run.run import Run


@dataclass
class LossMeter:
    """Running sums of the loss, float32 and on the device, so that no update waits for the host.

    Micro-batch losses are added one by one: adding in another order, or in float64, changes the last digits.
    """

    since_log: Tensor
    """Sum since the last log line."""
    since_epoch: Tensor
    """Sum since the epoch began."""
    logged_at: int = 0
    """`global_step` of the last log line."""
    skip_non_finite: bool = False
    """Put the mean so far in place of NaN and inf, as Trainer's `logging_nan_inf_filter` does."""
    epoch_began_at: int = 0
    logged_sum: float = 0.0
    """Sum over all logged updates, the mean over processes."""
    unlogged_updates: int = 0
    """Updates whose loss is in no sum: skipped, or not logged before a checkpoint of Trainer's, which does not say."""
    grad_norm: Tensor | float | None = None
    """Gradient norm of the last update, before clipping; a log line at the end of an epoch shows it too."""
    learning_rate: float | None = None
    skipped_at: int = 0
    """`global_step` of the last update that `on_nonfinite=skip` skipped: its loss is not added."""
    skipped_since_log: int = 0
    skipped_since_epoch: int = 0

    @classmethod
    def zero(cls, device: torch.device, skip_non_finite: bool) -> LossMeter:
        return cls(torch.zeros((), device=device), torch.zeros((), device=device), skip_non_finite=skip_non_finite)

    def begin_epoch(self, global_step: int) -> None:
        """Add up anew; `global_step` counts the updates before the epoch."""
        self.since_epoch.zero_()
        self.skipped_since_epoch = 0
        self.epoch_began_at = global_step

    def add(
        self, losses: Sequence[Tensor], grad_norm: Tensor | float | None, learning_rate: float | None, global_step: int
    ) -> None:
        """Add an update's micro-batch losses; `global_step` counts the update itself."""
        if losses and global_step == self.skipped_at:
            losses = ()
            self.unlogged_updates += 1
            self.skipped_since_log += 1
            self.skipped_since_epoch += 1
        for loss in losses:
            if self.skip_non_finite:
                loss = torch.where(torch.isfinite(loss), loss, self.since_log / (global_step - self.logged_at))
            self.since_log += loss
            self.since_epoch += loss
        self.grad_norm, self.learning_rate = grad_norm, learning_rate


@dataclass
class FaultCounters:
    """Numbers not finite and memory that did not suffice, counted over the whole run, its part before a resume too."""

    nonfinite_updates: Tensor
    """Updates with a loss or a gradient that was not finite. On the device, like the next field."""
    first_nonfinite: Tensor
    """`global_step` of the first of them since this process began; 0 if there is none."""
    overflows: int = 0
    """Updates that the gradient scaler of fp16 has skipped."""
    overflows_in_a_row: int = 0
    micro_batch_rows: int | None = None
    """Rows that fit through the model at once in training, found by `auto_micro_batch`; None: a whole micro-batch."""
    eval_batch_rows: int | None = None

    @classmethod
    def zero(cls, device: torch.device) -> FaultCounters:
        counter = torch.zeros((), dtype=torch.int64, device=device)
        return cls(nonfinite_updates=counter, first_nonfinite=counter.clone())

    def nonzero(self) -> dict[str, int]:
        """The counts a log line shows. The host waits for the device."""
        counts = {"nonfinite_updates": int(self.nonfinite_updates), "overflows": self.overflows}
        return {name: count for name, count in counts.items() if count}

    def to_dict(self) -> dict[str, Any]:
        return {
            "eval_batch_rows": self.eval_batch_rows,
            "micro_batch_rows": self.micro_batch_rows,
            "nonfinite_updates": int(self.nonfinite_updates),
            "overflows": self.overflows,
            "overflows_in_a_row": self.overflows_in_a_row,
        }

    def restore(self, values: dict[str, Any]) -> None:
        """Restore from `to_dict`; a count that an older checkpoint lacks is 0."""
        self.nonfinite_updates.fill_(values.get("nonfinite_updates", 0))
        self.overflows = values.get("overflows", 0)
        self.overflows_in_a_row = values.get("overflows_in_a_row", 0)
        self.micro_batch_rows = values.get("micro_batch_rows")
        self.eval_batch_rows = values.get("eval_batch_rows")


def store_flos(run: Run) -> None:
    """Add the operations of every process since the last call to the state's total. Mirrors: Trainer.store_flos."""
    if run.accelerator.use_distributed:
        # float32, as Trainer sends it: the total in trainer_state.json is then its total to the last bit.
        flos = torch.tensor([run.current_flos], dtype=torch.float32, device=run.accelerator.device)
        run.state.total_flos += run.accelerator.gather(flos).sum().item()
    else:
        run.state.total_flos += run.current_flos
    run.current_flos = 0.0
