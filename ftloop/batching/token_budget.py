"""Batches of as many rows as fit into a number of tokens: `batching=token_budget`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ftloop.batching.shuffle import seeded_generator, shuffled


def default_token_budget(rows: int, padded: np.ndarray) -> int:
    """`max_tokens_per_batch` where none is given: as many tokens as `rows` rows have, and never less than the longest
    row. `padded`: tokens of each row, as padded when it is the longest of its batch."""
    return max(round(rows * float(padded.mean())), int(padded.max()))


@dataclass(frozen=True)
class TokenBudget:
    """`batching=token_budget`: each process's batch takes as many rows as fit into `max_tokens`, padding included, were
    all as long as the longest of its update.

    Rows are sorted by length, longest first, and cut into updates, these into steps of `num_processes` batches with as
    many rows each. So which rows an update has depends on the batches it is made of, and not on how these are split
    over steps and processes. Where the cuts fall depends on the sorted lengths alone, so the number of steps is known
    before the first epoch and the same in each; which rows of one length go together, and in which order the updates
    come, is drawn anew. The update of the longest rows comes first, that of the shortest last. No row is left out or
    repeated; only the last update may have fewer rows, and fewer steps.
    """

    lengths: np.ndarray = field(repr=False)
    """Tokens of each row, as padded when it is the longest of its batch."""
    max_tokens: int
    num_processes: int
    seed: int
    steps_per_update: int = 1
    _last: dict[int, EpochBatches] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts of the updates among the sorted rows, with the end of the last; and the rows of a step of each."""
        lengths = np.sort(self.lengths)[::-1]
        starts, rows = [0], []
        while starts[-1] < len(lengths):
            rows.append(max(self.max_tokens // max(int(lengths[starts[-1]]), 1), 1) * self.num_processes)
            starts.append(min(starts[-1] + rows[-1] * self.steps_per_update, len(lengths)))
        return np.array(starts), np.array(rows)

    def __len__(self) -> int:
        """Steps of an epoch."""
        starts, rows = self._cuts
        return int((-(-np.diff(starts) // rows)).sum())

    def of_epoch(self, epoch: int) -> EpochBatches:
        """The last epoch asked for is kept."""
        if epoch not in self._last:
            self._last.clear()
            self._last[epoch] = self._draw(epoch)
        return self._last[epoch]

    def _draw(self, epoch: int) -> EpochBatches:
        generator = seeded_generator(self.seed, epoch)
        rows = shuffled(len(self.lengths), generator)
        rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        starts, rows_of_step = self._cuts
        updates = len(rows_of_step)
        # The longest first, and that of the shortest last, which may have no row for some process.
        between = 1 + shuffled(max(updates - 2, 0), generator)
        order = np.concatenate([[0], between, range(1, updates)[-1:]]).astype(np.int64)
        sizes, rows_of_step = np.diff(starts)[order], rows_of_step[order]
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        moved = np.arange(len(rows)) + np.repeat(starts[order] - begins, sizes)
        steps = np.repeat(rows_of_step, -(-sizes // rows_of_step))
        ends = np.minimum(np.cumsum(steps), len(rows))  # only the last may have fewer
        return EpochBatches(rows[moved], np.concatenate([[0], ends]), self.num_processes)


@dataclass(frozen=True)
class EpochBatches:
    """The rows of an epoch, and where each step of all processes begins among them."""

    rows: np.ndarray
    starts: np.ndarray
    """One more than steps: the last is the number of rows."""
    num_processes: int

    @property
    def batch_starts(self) -> np.ndarray:
        """Start of each process's batch among the rows, step by step; the last entry is the number of rows."""
        shares = -(-np.diff(self.starts) // self.num_processes)
        of_step = self.starts[:-1, None] + shares[:, None] * np.arange(self.num_processes)
        return np.unique(np.append(np.minimum(of_step, self.starts[1:, None]), self.starts[-1]))

    def of_process(self, step: int, process: int) -> np.ndarray:
        """The rows of one batch: an equal share of the step's; of the last ones, the first processes' may be larger,
        and there may be none."""
        rows = self.rows[self.starts[step] : self.starts[step + 1]]
        share = -(-len(rows) // self.num_processes)
        return rows[process * share : (process + 1) * share]


@dataclass
class BudgetSampler:
    """Sampler that yields one process's batches of the epoch that is set. A process without a row of its own in the
    last step is given one of another's, which counts nothing: it has to take part in the exchange of gradients.
    """

    budget: TokenBudget
    process_index: int
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.budget)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.budget.of_epoch(self.epoch)
        for step in range(len(self)):
            rows = batches.of_process(step, self.process_index)
            yield (rows if len(rows) else batches.of_process(step, 0)[:1]).tolist()
