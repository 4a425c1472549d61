"""In which order the rows of an epoch are trained on, and which of them make a batch: a function of the rows' lengths,
the seed and the epoch, so every process finds the same and a resumed run goes on in the middle of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch

from ftloop.config import TrainConfig
from ftloop.errors import UserError

RowOrder = Callable[[int], np.ndarray]
"""From an epoch to its rows, each once, in the order in which they are dealt to the processes."""

POOL = 50
"""Updates whose rows are sorted together by `length_grouped`, as many as Trainer's group_by_length sorts: more would
leave less padding and fewer rows for a row to meet."""


def order_rows(
    config: TrainConfig,
    num_examples: int,
    num_processes: int,
    lengths: np.ndarray | None = None,
    padded: np.ndarray | None = None,
) -> tuple[RowOrder, TokenBudget | None]:
    """The order that `batching` asks for; and for a token budget, the batches.

    `lengths`: tokens of each row, for `length_grouped`; `padded`: as padded when it is the longest of its batch, for
    `token_budget`.
    Raises: UserError when the budget is less than the longest row.
    """
    seed = config.order_seed
    if config.batching == "random":
        return partial(random_rows, num_examples, seed), None
    if config.batching == "sequential":
        return lambda epoch: np.arange(num_examples, dtype=np.int32), None
    if config.batching == "length_grouped":
        assert lengths is not None
        per_update = config.per_device_train_batch_size * config.gradient_accumulation_steps * num_processes
        return partial(length_grouped_rows, lengths, per_update, seed), None
    assert padded is not None
    longest = int(padded.max())
    max_tokens = config.max_tokens_per_batch or usual_budget(config.per_device_train_batch_size, padded)
    if max_tokens < longest:
        raise UserError(
            f"max_tokens_per_batch: {max_tokens} is less than the longest row, padded to {longest} tokens; raise it, "
            "or truncate with --max_seq_length"
        )
    budget = TokenBudget(padded, max_tokens, num_processes, seed, config.gradient_accumulation_steps)
    return lambda epoch: budget.of_epoch(epoch).rows, budget


def usual_budget(rows: int, padded: np.ndarray) -> int:
    """`max_tokens_per_batch` where none is given: as many tokens as `rows` rows have, and never less than the longest
    row. `padded`: tokens of each row, as padded when it is the longest of its batch."""
    return max(round(rows * float(padded.mean())), int(padded.max()))


def random_rows(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Mirrors: SeedableRandomSampler of Accelerate, which makes a list of Python's numbers of them, 36 bytes a row."""
    return _shuffled(num_examples, _generator(seed, epoch))


def length_grouped_rows(lengths: np.ndarray, rows_per_update: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffled, then sorted by length within pools, then cut into updates, whose order is shuffled too: an update has
    rows of nearly the same length, longest first, and which they are is another choice in each epoch.

    The update of the longest row comes first, so that what does not fit into memory shows at once; rows that do not
    fill an update come last. Only the rows of an update count, not how they are split over micro-batches and processes.
    Differs: Trainer draws from each process's global generator, so that its processes train on different orders.
    """
    generator = _generator(seed, epoch)
    rows = _shuffled(len(lengths), generator)
    pool = rows_per_update * min(max(len(rows) // (4 * rows_per_update), 1), POOL)
    pools = np.arange(len(rows), dtype=rows.dtype) // pool
    if 0 < len(rows) % pool < rows_per_update < len(rows):
        pools = np.minimum(pools, pools[-1] - 1)  # or the longest row of all might be among those that fill no update
    rows = rows[np.lexsort((-lengths[rows], pools))]
    full = len(rows) // rows_per_update
    updates = rows[: full * rows_per_update].reshape(full, rows_per_update)
    updates = updates[_shuffled(full, generator)]
    if full:
        longest = int(lengths[updates[:, 0]].argmax())
        updates[[0, longest]] = updates[[longest, 0]]
    return np.concatenate([updates.reshape(-1), rows[full * rows_per_update :]])


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
    _last: dict[int, DealtEpoch] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Where updates begin among the sorted rows, and where the last one ends; and the rows of a step of each."""
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

    def of_epoch(self, epoch: int) -> DealtEpoch:
        """The last epoch asked for is kept."""
        if epoch not in self._last:
            self._last.clear()
            self._last[epoch] = self._deal(epoch)
        return self._last[epoch]

    def _deal(self, epoch: int) -> DealtEpoch:
        generator = _generator(self.seed, epoch)
        rows = _shuffled(len(self.lengths), generator)
        rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        starts, rows_of_step = self._cuts
        updates = len(rows_of_step)
        # The longest first, and that of the shortest last, which may have no row for some process.
        between = 1 + _shuffled(max(updates - 2, 0), generator)
        order = np.concatenate([[0], between, range(1, updates)[-1:]]).astype(np.int64)
        sizes, rows_of_step = np.diff(starts)[order], rows_of_step[order]
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        moved = np.arange(len(rows)) + np.repeat(starts[order] - begins, sizes)
        steps = np.repeat(rows_of_step, -(-sizes // rows_of_step))
        ends = np.minimum(np.cumsum(steps), len(rows))  # only the last may have fewer
        return DealtEpoch(rows[moved], np.concatenate([[0], ends]), self.num_processes)


@dataclass(frozen=True)
class DealtEpoch:
    """The rows of an epoch, and where each step of all processes begins among them."""

    rows: np.ndarray
    starts: np.ndarray
    """One more than steps: the last is the number of rows."""
    num_processes: int

    @property
    def batch_starts(self) -> np.ndarray:
        """Where each process's batch begins among the rows, step by step; the last is the number of rows."""
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
class OrderSampler:
    """For a DataLoader: the rows of the epoch that is set, one by one."""

    order: RowOrder
    num_examples: int
    epoch: int = 0

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        return map(int, self.order(self.epoch))


@dataclass
class BudgetSampler:
    """For a DataLoader: one process's batches of the epoch that is set. A process without a row of its own in the last
    step is given one of another's, which counts nothing: it has to take part in the exchange of gradients.
    """

    budget: TokenBudget
    process_index: int
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.budget)

    def __iter__(self) -> Iterator[list[int]]:
        dealt = self.budget.of_epoch(self.epoch)
        for step in range(len(self)):
            rows = dealt.of_process(step, self.process_index)
            yield (rows if len(rows) else dealt.of_process(step, 0)[:1]).tolist()


def batch_starts(num_examples: int, rows: int) -> np.ndarray:
    """Where batches of `rows` rows each begin, the last perhaps with fewer; and the number of rows."""
    return np.append(np.arange(0, num_examples, rows), num_examples)


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """The rows by length, in the data set's order where lengths are equal: how `sort_eval` evaluates."""
    return np.argsort(-lengths, kind="stable")


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + epoch)


def _shuffled(count: int, generator: torch.Generator) -> np.ndarray:
    """As torch.randperm draws them, whatever the type: in half the memory, which counts where rows are millions."""
    small = count < 2**31
    return torch.randperm(count, generator=generator, dtype=torch.int32 if small else torch.int64).numpy()
