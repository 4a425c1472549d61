"""How long the rows are, to how many tokens their batches are padded, and how much of that is padding."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ftloop.config import TrainConfig
from ftloop.errors import UserError
from ftloop.sampling import batch_starts, order_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_ONCE = 100_000
MOST_LENGTHS = 1000
Collator = Callable[[list[Any]], dict[str, Any]]


def row_lengths(dataset: Any, desc: str = "Reading lengths", quiet: bool | None = None) -> np.ndarray:
    """Tokens of each row, int32. Of a `datasets.Dataset` they are known without reading a token.

    `quiet`: as tqdm's `disable`.
    Raises: UserError where rows have no `input_ids`.
    """
    bar = tqdm(total=len(dataset), desc=desc, unit="row", leave=False, disable=quiet, delay=1.0)
    lengths = np.zeros(len(dataset), np.int32)
    with bar:
        if "input_ids" in getattr(dataset, "column_names", ()) and hasattr(dataset, "with_format"):
            import pyarrow.compute as pc

            tables = dataset.select_columns("input_ids").with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
            for table in tables:
                lengths[bar.n : bar.n + len(table)] = pc.list_value_length(table["input_ids"]).to_numpy()
                bar.update(len(table))
            return lengths
        for row in range(len(dataset)):
            example = dataset[row]
            if not hasattr(example, "get") or example.get("input_ids") is None:
                known = "its length is not known: use --batching random, and no --sort_eval"
                raise UserError(f"row {row + 1} has no input_ids, so {known}")
            lengths[row] = len(example["input_ids"])
            bar.update()
    return lengths


def padding_edges(config: TrainConfig, max_length: int, lengths: np.ndarray) -> tuple[int, ...] | None:
    """The lengths to which a batch may be padded, ascending, the last at least as long as any row; None: to its
    longest row. `lengths` are the training rows', from which `buckets:N` chooses; `max_length` is the longest input.
    """
    kind, _, number = config.padding.partition(":")
    if kind == "longest":
        return None
    if kind == "max_length":
        return (max_length,)
    if kind == "multiple":
        return (*range(int(number), max_length, int(number)), max_length)
    edges = bucket_edges(lengths, int(number))
    return edges if edges[-1] == max_length else (*edges, max_length)


def bucket_edges(lengths: np.ndarray, buckets: int) -> tuple[int, ...]:
    """The `buckets` lengths for which rows, each padded to the nearest above it, have the least padding in all."""
    coarse = -(-int(lengths.max()) // MOST_LENGTHS)  # what is tried below grows with the square of their number
    rounded = np.minimum(-(-lengths // coarse) * coarse, lengths.max())
    values, counts = np.unique(rounded.astype(np.int64), return_counts=True)
    rows = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: padded tokens of all rows up to values[j] with the buckets so far, the last of which ends there.
    cost = values * rows[1:]
    came_from = []
    for _ in range(1, min(buckets, len(values))):
        # One bucket more: it holds the values after i up to j.
        split = cost[:, None] + values[None, :] * (rows[None, 1:] - rows[1:, None])
        split[np.tril_indices(len(values))] = np.iinfo(np.int64).max
        came_from.append(split.argmin(axis=0))
        cost = np.minimum(split.min(axis=0), cost)
    edges, end = [len(values) - 1], len(values) - 1
    for before in reversed(came_from):
        if end == 0:
            break
        end = int(before[end])
        edges.append(end)
    return tuple(int(values[edge]) for edge in reversed(edges))


def padded_lengths(lengths: np.ndarray, edges: tuple[int, ...] | None) -> np.ndarray:
    """To how many tokens each row's batch is padded when it is the longest in it."""
    return lengths if edges is None else np.asarray(edges, np.int32)[np.searchsorted(edges, lengths)]


def collator(tokenizer: PreTrainedTokenizerBase, edges: tuple[int, ...] | None = None) -> Collator:
    """Pads a batch to its longest row, or to the nearest of a few lengths above that. What it makes of a batch are the
    tensors of transformers' DataCollatorWithPadding.
    """
    return partial(_pad, tokenizer=tokenizer, edges=edges)


def _pad(
    examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, edges: tuple[int, ...] | None
) -> dict[str, Any]:
    first, length = examples[0], max(len(example["input_ids"]) for example in examples)
    if edges is not None:
        length = edges[bisect_left(edges, length)]
    fillers = {"input_ids": getattr(tokenizer, "pad_token_id", None), "token_type_ids": 0, "attention_mask": 0}
    usual = {"input_ids", "attention_mask"} <= first.keys() <= {*fillers, "label"}
    usual &= isinstance(first["input_ids"], list) and fillers["input_ids"] is not None
    if not usual or tokenizer.padding_side != "right" or tokenizer.pad_token_type_id:
        return _pad_as_transformers(examples, tokenizer, None if edges is None else length)
    # Transformers also looks at every token, whether it is a number: two thirds of its time.
    batch = {
        name: torch.tensor([example[name] + [filler] * (length - len(example[name])) for example in examples])
        for name, filler in fillers.items()
        if name in first
    }
    if "label" in first:
        batch["labels"] = torch.tensor([example["label"] for example in examples])
    return batch


def _pad_as_transformers(examples: list[Any], tokenizer: PreTrainedTokenizerBase, length: int | None) -> dict[str, Any]:
    from transformers import DataCollatorWithPadding

    padding = "longest" if length is None else "max_length"
    batch: dict[str, Any] = DataCollatorWithPadding(tokenizer, padding=padding, max_length=length)(examples)
    return batch


def padding_share(
    rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, edges: tuple[int, ...] | None = None
) -> float:
    """How much of all tokens that go through the model is padding, 0 to 1."""
    return 1 - float(lengths[rows].sum(dtype=np.int64) / computed_tokens(rows, starts, lengths, edges).sum())


def computed_tokens(
    rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, edges: tuple[int, ...] | None = None
) -> np.ndarray:
    """Tokens, padding included, of each batch: `rows` in their order, cut at `starts`, one more than batches."""
    longest = np.maximum.reduceat(lengths[rows], starts[:-1])
    return padded_lengths(longest, edges).astype(np.int64) * np.diff(starts)


@dataclass(frozen=True)
class ModelShape:
    """What decides how much a transformer encoder computes for a token. Embeddings are looked up, not multiplied."""

    layers: int
    hidden: int
    intermediate: int

    @staticmethod
    def of(config: Any) -> ModelShape:
        """From a model's configuration. DistilBERT calls the last one hidden_dim."""
        hidden = int(config.hidden_size)
        intermediate = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * hidden
        return ModelShape(int(config.num_hidden_layers), hidden, int(intermediate))

    def training_flops(self, rows: Any, tokens: Any) -> Any:
        """Of forward and backward of `rows` rows padded to `tokens` tokens each: numbers, or arrays of them.

        A token costs the same in every matrix of weights, two operations for each of them: four of hidden x hidden
        around the attention, two of hidden x intermediate after it. In the attention itself it is compared with every
        other token of its row, and takes part in the sum over them: two products of tokens x tokens x hidden. The
        backward pass is twice the forward pass. Norms, activations and softmax are left out.
        """
        weights = 8.0 * self.hidden**2 + 4.0 * self.hidden * self.intermediate
        return 3.0 * self.layers * rows * (tokens * weights + 4.0 * self.hidden * np.square(tokens, dtype=np.float64))


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch, in the order in which they are dealt to the processes."""

    rows: np.ndarray
    starts: np.ndarray
    """Where each batch begins among the rows; one more than batches."""
    lengths: np.ndarray
    """Tokens of each row of the data set, as truncated."""
    edges: tuple[int, ...] | None
    """As of `padding_edges`."""

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
        """Of each batch."""
        flops: np.ndarray = shape.training_flops(self.sizes, self.padded_to)
        return flops


def batches_of(
    config: TrainConfig, lengths: np.ndarray, max_length: int, num_processes: int = 1, epoch: int = 0
) -> Batches:
    """The batches that a run with this configuration deals, from the lengths of its rows alone.

    `lengths` may be longer than `max_length`, the longest input: they are cut. Of several processes each has a batch in
    turn, without what Accelerate repeats in the last round.
    """
    lengths = np.minimum(lengths, max_length).astype(np.int32)
    edges = padding_edges(config, max_length, lengths)
    order, budget = order_rows(config, len(lengths), num_processes, lengths, padded_lengths(lengths, edges))
    if budget is not None:
        dealt = budget.of_epoch(epoch)
        return Batches(dealt.rows, dealt.batch_starts, lengths, edges)
    starts = batch_starts(len(lengths), config.per_device_train_batch_size)
    return Batches(order(epoch), starts, lengths, edges)


def padding_shares(
    config: TrainConfig, lengths: np.ndarray, max_length: int, num_processes: int
) -> tuple[float, float | None]:
    """The share of padding in the first epoch's tokens; and in those of batches grouped by length, where that could be
    had instead.
    """
    share = batches_of(config, lengths, max_length, num_processes).padding_share
    if config.batching not in ("random", "sequential") or config.trainer_compat:
        return share, None
    better = replace(config, batching="length_grouped", padding="longest", pad_to_max_length=False)
    return share, batches_of(better, lengths, max_length, num_processes).padding_share
