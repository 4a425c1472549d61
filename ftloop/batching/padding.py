"""Row lengths, the lengths batches are padded to, and the collator that pads them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ftloop.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftloop.config.train_config import TrainConfig


ROWS_AT_ONCE = 100_000
MAX_LENGTHS = 1000

Collator = Callable[[list[Any]], dict[str, Any]]


def row_lengths(dataset: Any, desc: str = "Reading lengths", quiet: bool | None = None) -> np.ndarray:
    """Tokens of each row, int32. A `datasets.Dataset` knows them without reading a token.

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
    """Lengths to which a batch may be padded, ascending, the last at least as long as any row; None: to its
    longest row; none at all: to that too, but the model computes no padding. `lengths` are the training rows', from
    which `buckets:N` chooses; `max_length` is the longest input.
    """
    kind, _, number = config.padding.partition(":")
    if kind in ("longest", "none"):
        return () if kind == "none" else None
    if kind == "max_length":
        return (max_length,)
    if kind == "multiple":
        return (*range(int(number), max_length, int(number)), max_length)
    edges = bucket_edges(lengths, int(number))
    return edges if edges[-1] == max_length else (*edges, max_length)


def bucket_edges(lengths: np.ndarray, buckets: int) -> tuple[int, ...]:
    """The `buckets` lengths for which rows, each padded to the nearest above it, have the least padding in all."""
    coarse = -(-int(lengths.max()) // MAX_LENGTHS)  # what is tried below grows with the square of their number
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
    """Padded length of a batch whose longest row has this length."""
    return np.asarray(edges, np.int32)[np.searchsorted(edges, lengths)] if edges else lengths


def collator(tokenizer: PreTrainedTokenizerBase, edges: tuple[int, ...] | None = None) -> Collator:
    """Make a collator that pads a batch to its longest row, or to the nearest of a few lengths above that. Its tensors
    are those of transformers' DataCollatorWithPadding.
    """
    return partial(_pad, tokenizer=tokenizer, edges=edges)


def is_padding_collator(collate: Any) -> bool:
    """Whether a collator is one that `collator` has made."""
    return isinstance(collate, partial) and collate.func is _pad


def _pad(
    examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, edges: tuple[int, ...] | None
) -> dict[str, Any]:
    first, length = examples[0], max(len(example["input_ids"]) for example in examples)
    if edges:
        length = edges[bisect_left(edges, length)]
    fillers = {"input_ids": getattr(tokenizer, "pad_token_id", None), "token_type_ids": 0, "attention_mask": 0}
    usual = {"input_ids", "attention_mask"} <= first.keys() <= {*fillers, "label"}
    usual &= isinstance(first["input_ids"], list) and fillers["input_ids"] is not None
    if not usual or tokenizer.padding_side != "right" or tokenizer.pad_token_type_id:
        return _pad_as_transformers(examples, tokenizer, length if edges else None)
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
