"""The rows whose padding is measured: a data set's, as ftloop loads it, or made ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ftloop.batching.efficiency import ModelShape
from ftloop.batching.padding import row_lengths
from ftloop.config.train_config import TrainConfig
from ftloop.data.labels import Labels
from ftloop.data.load import load_text_data
from ftloop.data.tokenization import tokenize
from ftloop.models.load import load_shape, load_tokenizer, longest_input

MADE_ROWS = 4000


@dataclass
class Data:
    """Tokenized rows, as they would be trained on."""

    name: str
    dataset: Any
    lengths: np.ndarray
    max_length: int
    """The longest input: longer rows have been cut."""
    truncated: int
    tokenizer: Any
    labels: Any


def made_lengths(kind: str, rows: int, seed: int, limit: int) -> np.ndarray:
    """`long-tail`: log-normal around 45 tokens, the longest at the limit. `near-uniform`: 62 to 66 tokens."""
    draw = np.random.default_rng(seed)
    if kind == "near-uniform":
        return np.minimum(draw.integers(62, 67, rows), limit).astype(np.int32)
    return np.clip(draw.lognormal(np.log(45), 0.75, rows), 8, limit).astype(np.int32)


def made_rows(lengths: np.ndarray, vocabulary: int, seed: int) -> Any:
    """Rows of random tokens, with a random label of two."""
    draw = np.random.default_rng(seed)
    ids = [draw.integers(vocabulary // 10, vocabulary, length).tolist() for length in lengths]
    masks = [[1] * int(length) for length in lengths]
    labels = draw.integers(0, 2, len(lengths)).tolist()
    return Dataset.from_dict({"input_ids": ids, "attention_mask": masks, "label": labels})


def data_name(config: TrainConfig, made: str | None) -> str:
    if made is not None:
        return f"made, {made}"
    if config.task_name == "demo":
        return "the built-in pairs"
    return config.task_name or Path(str(config.train_file or config.dataset_name or "")).name


def load_data(config: TrainConfig, made: str | None) -> tuple[Data, ModelShape]:
    """Rows as ftloop itself loads them, or made ones; nothing of the model but its shape."""
    assert config.model_name_or_path is not None
    tokenizer, model = load_tokenizer(config.model_name_or_path), load_shape(config.model_name_or_path)
    limit = longest_input(model, tokenizer, config.max_seq_length)
    name = data_name(config, made)
    if made is not None:
        lengths = made_lengths(made, config.max_train_samples or MADE_ROWS, config.seed, limit)
        rows = made_rows(lengths, model.config.vocab_size, config.seed)
        data = Data(name, rows, lengths, limit, 0, tokenizer, Labels(("0", "1"), {"0": 0, "1": 1}))
    else:
        texts = load_text_data(config)
        rows, truncated = tokenize(texts, texts.train, tokenizer, limit, config, "train")
        data = Data(name, rows, row_lengths(rows), limit, truncated, tokenizer, texts.labels)
    return data, ModelShape.of(model.config)
