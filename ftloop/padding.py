"""How long the rows are, to how many tokens their batches are padded, and how much of that is padding."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ftloop.config import TrainConfig
from ftloop.errors import UserError

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
                raise UserError(f"row {row + 1} has no input_ids, so its length is not known: use --batching random")
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


def collator(tokenizer: PreTrainedTokenizerBase, edges: tuple[int, ...] | None) -> Collator:
    """Transformers' DataCollatorWithPadding, which pads a batch to its longest row; or to the nearest of a few lengths
    above that.
    """
    from transformers import DataCollatorWithPadding

    if edges is None:
        return DataCollatorWithPadding(tokenizer)
    return partial(_pad_to_edge, tokenizer=tokenizer, edges=edges)


def _pad_to_edge(
    examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, edges: tuple[int, ...]
) -> dict[str, Any]:
    from transformers import DataCollatorWithPadding

    edge = edges[bisect_left(edges, max(len(example["input_ids"]) for example in examples))]
    batch: dict[str, Any] = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=edge)(examples)
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
