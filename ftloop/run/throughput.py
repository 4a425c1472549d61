"""Padding share and tokens per second between two log lines, from the lengths of the rows alone.

Nothing of a batch is looked at, and the device is not waited for.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ftloop.batching.efficiency import computed_tokens
from ftloop.batching.order import batch_starts
from ftloop.batching.padding import row_lengths
from ftloop.errors import UserError
from ftloop.run.check_rows import lies_ready

if TYPE_CHECKING:
    from ftloop.run.run import Run


@dataclass
class Throughput:
    """Measures from where the run is when it is made."""

    run: Run
    lengths: np.ndarray | None
    """Tokens of each training row; None where they are not known, or only by making the rows: then nothing is
    measured."""
    measured_at: int
    """`global_step` up to which has been measured."""
    since: float
    """Seconds of a clock that stands still while an evaluation runs."""
    _epoch: tuple[int, np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    @staticmethod
    def of(run: Run) -> Throughput:
        lengths = None
        if lies_ready(run.train_dataset):  # what is made when it is asked for may draw random numbers
            with suppress(UserError):
                lengths = row_lengths(run.train_dataset, quiet=True)
        return Throughput(run, lengths, run.state.global_step, time.monotonic())

    def exclude(self, seconds: float) -> None:
        self.since += seconds

    def measure(self) -> dict[str, float]:
        """Padding share and real tokens per second of the updates since the last call, over all processes. Saves are
        counted in, evaluations are not.
        """
        step, now = self.run.state.global_step, time.monotonic()
        real, computed = self._tokens(self.measured_at, step)
        seconds, self.measured_at, self.since = now - self.since, step, now
        if not computed:
            return {}
        values = {"padding_share": 1 - real / computed}
        return values | ({"tokens_per_second": real / seconds} if seconds > 0 else {})

    def _tokens(self, first: int, last: int) -> tuple[int, int]:
        """Real and computed tokens of the updates from `first` up to `last`."""
        if self.lengths is None:
            return 0, 0
        real = computed = 0
        per_epoch = self.run.plan.updates_per_epoch
        while first < last:
            epoch, begin = divmod(first, per_epoch)
            end = min(begin + last - first, per_epoch)
            batches = self._until(epoch, end) - self._until(epoch, begin)
            real, computed, first = real + int(batches[0]), computed + int(batches[1]), first + end - begin
        return real, computed

    def _until(self, epoch: int, update: int) -> np.ndarray:
        """Real and computed tokens of an epoch before its `update`-th update."""
        assert self.lengths is not None
        run, plan = self.run, self.run.plan
        if self._epoch is None or self._epoch[0] != epoch:
            if plan.budget is None:
                rows, starts = run.row_order(epoch), batch_starts(len(self.lengths), plan.per_device_train_batch_size)
            else:
                batches_of_epoch = plan.budget.of_epoch(epoch)
                rows, starts = batches_of_epoch.rows, batches_of_epoch.batch_starts
            real = np.add.reduceat(self.lengths[rows].astype(np.int64), starts[:-1])
            both = np.stack([real, computed_tokens(rows, starts, self.lengths, run.padding_edges)])
            self._epoch = epoch, starts, np.concatenate([np.zeros((2, 1), np.int64), both.cumsum(axis=1)], axis=1)
        _, starts, tokens = self._epoch
        before = int(np.searchsorted(starts, plan.rows_before(epoch, update)))
        return np.asarray(tokens[:, min(before, tokens.shape[1] - 1)])
