"""Tokenize a data set, cached on disk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import tokenizers

from ftloop.config.train_config import TrainConfig
from ftloop.data.cache import cached, dataset_key
from ftloop.data.labels import Labels
from ftloop.data.special_tokens import encode_texts
from ftloop.errors import UserError
from ftloop.system.row_numbers import note_rows
from ftloop.version import __version__

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ftloop.data.load import TextData


def tokenize(
    data: TextData,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    config: TrainConfig,
    name: str,
) -> tuple[Dataset, int]:
    """Tokenize rows in their order, cached on disk; and count those that were longer than `max_length` tokens.

    Returns: a Dataset of `input_ids`, `attention_mask`, what else the tokenizer gives, and `label` where there is one.
    """
    check_max_length(tokenizer, max_length, pair=len(data.text_columns) == 2)
    settings: dict[str, Any] = {
        "columns": data.text_columns,
        "label_column": data.label_column if data.has_labels(dataset) else None,
        "labels": data.labels,
        "max_length": max_length,
    }
    encoded = dataset.map(
        partial(_encode_batch, tokenizer=tokenizer, **settings),
        batched=True,
        new_fingerprint=_fingerprint(dataset, tokenizer, settings),
        num_proc=config.preprocessing_num_workers,
        remove_columns=dataset.column_names,
        load_from_cache_file=not config.overwrite_cache,
        desc=f"Tokenizing {name}",
    )
    _reset_truncation_and_padding(tokenizer)
    truncated = cached(dataset_key(encoded), "truncated", lambda: _count_true(encoded, "truncated"))
    return note_rows(encoded.remove_columns("truncated"), dataset), truncated


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, pair: bool) -> None:
    """Raises: UserError when no text fits into `max_length` tokens."""
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise UserError(f"max_seq_length: {max_length} leaves no room for text beside {special} special tokens")


def _count_true(dataset: Dataset, column: str) -> int:
    return int(pc.sum(dataset.with_format("arrow")[:][column]).as_py() or 0)


def _reset_truncation_and_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a fast tokenizer forget its last call, with which it would be saved: unlike where the cache had the rows."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


def _fingerprint(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> str | None:
    """Identify the tokenized rows in the cache. `datasets` would do so by pickling everything, a fast tokenizer's whole
    vocabulary twice, once per set; its JSON, which holds the vocabulary too, is there in a fiftieth of the time. None
    leaves it to `datasets`, for a tokenizer that has no JSON.
    """
    from datasets.fingerprint import Hasher  # here, because prediction comes by this file and needs no data sets

    if not tokenizer.is_fast:
        return None
    _reset_truncation_and_padding(tokenizer)
    ignored = ("_tokenizer", "_vocab", "deprecation_warnings")
    state = {name: value for name, value in vars(tokenizer).items() if name not in ignored}
    try:
        tokenizer_json = tokenizer.backend_tokenizer.to_str()
    except Exception:  # a part of it that is Python code
        return None
    versions = (__version__, tokenizers.__version__)
    return Hasher.hash((dataset._fingerprint, type(tokenizer), state, tokenizer_json, versions, settings))


def _encode_batch(
    batch: dict[str, list[str]],
    tokenizer: PreTrainedTokenizerBase,
    columns: tuple[str, ...],
    label_column: str | None,
    labels: Labels,
    max_length: int,
) -> dict[str, list[Any]]:
    texts = [batch[name] for name in columns]
    inputs, cut, _ = encode_texts(tokenizer, texts, truncation=True, max_length=max_length)
    result = inputs | {"truncated": cut}
    if label_column is not None:
        result["label"] = [labels.encode(raw) for raw in batch[label_column]]
    return result
