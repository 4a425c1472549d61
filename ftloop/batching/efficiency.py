"""Padding overhead: the share of computed tokens that is padding, and what other batches would have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.batching.order import batch_starts, make_row_order
from ftloop.batching.padding import padded_lengths, padding_edges

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig


def padding_share(
    rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, edges: tuple[int, ...] | None = None
) -> float:
    """Share of padding among all tokens that go through the model, 0 to 1."""
    return 1 - float(lengths[rows].sum(dtype=np.int64) / computed_tokens(rows, starts, lengths, edges).sum())


def computed_tokens(
    rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, edges: tuple[int, ...] | None = None
) -> np.ndarray:
    """Tokens of each batch, with the padding that is computed: `rows` in their order, cut at `starts`, one more than
    batches.
    """
    if edges == ():
        return np.add.reduceat(lengths[rows].astype(np.int64), starts[:-1])
    longest = np.maximum.reduceat(lengths[rows], starts[:-1])
    return padded_lengths(longest, edges).astype(np.int64) * np.diff(starts)


@dataclass(frozen=True)
class ModelShape:
    """Sizes that decide how much an encoder computes for a token. Embeddings are looked up, not multiplied."""

    layers: int
    hidden: int
    intermediate: int

    @staticmethod
    def of(config: Any) -> ModelShape:
        """Read the sizes from a model's configuration. DistilBERT calls the last one hidden_dim."""
        hidden = int(config.hidden_size)
        intermediate = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * hidden
        return ModelShape(int(config.num_hidden_layers), hidden, int(intermediate))

    def training_flops(self, rows: Any, tokens: Any) -> Any:
        """Operations of forward and backward of `rows` rows padded to `tokens` tokens each: numbers, or arrays of them.

        A token costs the same in every matrix of weights, two operations for each of them: four of hidden x hidden
        around the attention, two of hidden x intermediate after it. In the attention itself it is compared with every
        other token of its row, and takes part in the sum over them: two products of tokens x tokens x hidden. The
        backward pass is twice the forward pass. Norms, activations and softmax are left out.
        """
        weights = 8.0 * self.hidden**2 + 4.0 * self.hidden * self.intermediate
        return 3.0 * self.layers * rows * (tokens * weights + 4.0 * self.hidden * np.square(tokens, dtype=np.float64))


@dataclass(frozen=True)
class Batches:
    """Batches of one epoch, in the order in which they are assigned to the processes."""

    rows: np.ndarray
    starts: np.ndarray
    """Start of each batch among the rows, and their number at the end: one entry more than batches."""
    lengths: np.ndarray
    """Tokens of each row of the data set, as truncated."""
    edges: tuple[int, ...] | None
    """Lengths to which batches are padded, as `padding_edges` returns them."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows_of(self, batch: int) -> np.ndarray:
        return self.rows[self.starts[batch] : self.starts[batch + 1]]

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each batch."""
        return np.diff(self.starts)

    @property
    def padded_to(self) -> np.ndarray:
        """Tokens of each row of each batch, padding included."""
        return padded_lengths(np.maximum.reduceat(self.lengths[self.rows], self.starts[:-1]), self.edges)

    @property
    def real_tokens(self) -> int:
        return int(self.lengths[self.rows].sum(dtype=np.int64))

    @property
    def computed_tokens(self) -> int:
        return int(computed_tokens(self.rows, self.starts, self.lengths, self.edges).sum())

    @property
    def padding_share(self) -> float:
        return padding_share(self.rows, self.starts, self.lengths, self.edges)

    def training_flops(self, shape: ModelShape) -> np.ndarray:
        """Operations of each batch."""
        flops: np.ndarray
        if self.edges == ():
            flops = np.add.reduceat(shape.training_flops(1, self.lengths[self.rows]), self.starts[:-1])
        else:
            flops = shape.training_flops(self.sizes, self.padded_to)
        return flops


def batches_of(
    config: TrainConfig, lengths: np.ndarray, max_length: int, num_processes: int = 1, epoch: int = 0
) -> Batches:
    """Batches that a run with this configuration makes, from the lengths of its rows alone.

    `lengths` may be longer than `max_length`, the longest input: they are cut. Several processes get a batch each in
    turn, without what Accelerate repeats in the last round.
    """
    lengths = np.minimum(lengths, max_length).astype(np.int32)
    edges = padding_edges(config, max_length, lengths)
    order, budget = make_row_order(config, len(lengths), num_processes, lengths, padded_lengths(lengths, edges))
    if budget is not None:
        batches = budget.of_epoch(epoch)
        return Batches(batches.rows, batches.batch_starts, lengths, edges)
    starts = batch_starts(len(lengths), config.per_device_train_batch_size)
    return Batches(order(epoch), starts, lengths, edges)


def padding_shares(
    config: TrainConfig, lengths: np.ndarray, max_length: int, num_processes: int
) -> tuple[float, float | None]:
    """Share of padding in the first epoch, and the share with batches grouped by length, where those could be had
    instead.
    """
    share = batches_of(config, lengths, max_length, num_processes).padding_share
    if config.padding == "none" or config.batching not in ("random", "sequential") or config.trainer_compat:
        return share, None
    better = replace(config, batching="length_grouped", padding="longest", pad_to_max_length=False)
    return share, batches_of(better, lengths, max_length, num_processes).padding_share
