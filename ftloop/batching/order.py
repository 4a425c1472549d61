"""Row order and batching: a deterministic function of row lengths, seed and epoch, so every process finds the same
order and a resumed run continues in the middle of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ftloop.batching.shuffle import seeded_generator, shuffled
from ftloop.batching.token_budget import TokenBudget, default_token_budget
from ftloop.errors import UserError

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig

RowOrder = Callable[[int], np.ndarray]
"""Maps an epoch to its rows, each once, in the order in which they are assigned to the processes."""


POOL = 50
"""Updates whose rows are sorted together by `length_grouped`, as many as Trainer's group_by_length sorts: more would
leave less padding and fewer rows for a row to meet."""


def make_row_order(
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
    max_tokens = config.max_tokens_per_batch or default_token_budget(config.per_device_train_batch_size, padded)
    if max_tokens < longest:
        raise UserError(
            f"max_tokens_per_batch: {max_tokens} is less than the longest row, padded to {longest} tokens; raise it, "
            "or truncate with --max_seq_length"
        )
    budget = TokenBudget(padded, max_tokens, num_processes, seed, config.gradient_accumulation_steps)
    return lambda epoch: budget.of_epoch(epoch).rows, budget


def random_rows(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Mirrors: SeedableRandomSampler of Accelerate, which makes a list of Python's numbers of them, 36 bytes a row."""
    return shuffled(num_examples, seeded_generator(seed, epoch))


def length_grouped_rows(lengths: np.ndarray, rows_per_update: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffled, then sorted by length within pools, then cut into updates, whose order is shuffled too: an update has
    rows of nearly the same length, longest first, and which they are is another choice in each epoch.

    The update of the longest row comes first, so that what does not fit into memory shows at once; rows that do not
    fill an update come last. Only the rows of an update count, not how they are split over micro-batches and processes.
    Differs: Trainer draws from each process's global generator, so that its processes train on different orders.
    """
    generator = seeded_generator(seed, epoch)
    rows = shuffled(len(lengths), generator)
    pool = rows_per_update * min(max(len(rows) // (4 * rows_per_update), 1), POOL)
    pools = np.arange(len(rows), dtype=rows.dtype) // pool
    if 0 < len(rows) % pool < rows_per_update < len(rows):
        pools = np.minimum(pools, pools[-1] - 1)  # or the longest row of all might be among those that fill no update
    rows = rows[np.lexsort((-lengths[rows], pools))]
    full = len(rows) // rows_per_update
    updates = rows[: full * rows_per_update].reshape(full, rows_per_update)
    updates = updates[shuffled(full, generator)]
    if full:
        longest = int(lengths[updates[:, 0]].argmax())
        updates[[0, longest]] = updates[[longest, 0]]
    return np.concatenate([updates.reshape(-1), rows[full * rows_per_update :]])


@dataclass
class OrderSampler:
    """Sampler that yields the rows of the epoch that is set, one by one."""

    order: RowOrder
    num_examples: int
    epoch: int = 0

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        return map(int, self.order(self.epoch))


def batch_starts(num_examples: int, rows: int) -> np.ndarray:
    """Starts of batches of `rows` rows each, the last perhaps with fewer; and the number of rows."""
    return np.append(np.arange(0, num_examples, rows), num_examples)


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """Rows sorted by length, longest first, equal ones in the data set's order: how `sort_eval` evaluates."""
    return np.argsort(-lengths, kind="stable")
