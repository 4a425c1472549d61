"""What a job reads before it trains: rows, tokenizer and model, checked and put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.batching.efficiency import padding_shares
from ftloop.batching.padding import padding_edges, row_lengths
from ftloop.config.train_config import TrainConfig
from ftloop.data.load import TextData, load_text_data
from ftloop.data.special_tokens import count_special, framing_tokens
from ftloop.data.tokenization import tokenize
from ftloop.inference.texts import make_pairs
from ftloop.metrics import check_metric, fit_metric
from ftloop.models.adapters import add_lora
from ftloop.models.folder import FLAG, naming, place_of_model
from ftloop.models.head import keep_order_of_head, saved_class_names
from ftloop.models.load import (
    check_token_ids,
    embed_added_tokens,
    input_limit,
    load_config,
    load_model,
    load_tokenizer,
    longest_input,
)
from ftloop.models.match import match, set_side
from ftloop.models.transform import fit_speed_ups
from ftloop.models.unpadding import can_unpad
from ftloop.models.weights import base_model
from ftloop.run.prepare import MANY_ROWS, seed_everything
from ftloop.system.distributed import destroy_group, main_process_first, new_cpu_group

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset


@dataclass(frozen=True)
class Padding:
    """How much of the first epoch's tokens is padding."""

    edges: tuple[int, ...] | None
    """Lengths to which batches are padded; None: each to its longest row."""
    share: float
    length_grouped: float | None
    """The share in batches of rows of like length, where such could be had instead."""
    left_out: float | None
    """With `padding=none`, the share if each batch were padded to its longest row."""
    can_be_left_out: bool
    """Whether `padding=none` would do with this model and these settings."""
    tokens_per_row: float
    is_estimate: bool
    """Measured on some of very many rows."""


@dataclass(frozen=True)
class Inputs:
    """Rows, tokenizer and model of a job."""

    config: TrainConfig
    """With what a recipe chose replaced where the data or the model do not have it."""
    data: TextData
    tokenizer: Any
    model: Any
    new_weights: list[str]
    """Randomly initialised weights: the new head."""
    encoded: dict[str, Dataset]
    """Tokenized rows by set; `train` is the training set."""
    truncated: Mapping[str, int | None]
    """How many rows of each set were cut to `max_length`; None where that is not known."""
    max_length: int
    samples: list[Any]
    """Texts or pairs of texts to predict at the end."""
    padding: Padding
    given: Mapping[str, Any] = field(default_factory=dict)
    """Sets that Python code gave in another class than `datasets.Dataset`, as its collator wants their rows."""

    def rows_to_predict(self, name: str) -> Any:
        return self.given.get(name, self.encoded[name])


def read_inputs(config: TrainConfig, accelerator: Accelerator) -> Inputs:
    """Load and check everything the configuration names. Raises: UserError naming the flag, file, row or column."""
    model_name = config.model_name_or_path
    assert model_name is not None
    tokenizer_name, flag = config.tokenizer_name or model_name, "tokenizer_name" if config.tokenizer_name else FLAG
    group = new_cpu_group(accelerator)
    with main_process_first(accelerator, group, "reading the data"):
        data = load_text_data(config)
        model_config = load_config(model_name) if config.tokenizer_name else None
        with naming(flag):
            tokenizer = load_tokenizer(tokenizer_name, model_config=model_config)
    config = fit_metric(config, data.labels, data.metrics)
    if config.truncation_side is not None:
        set_side(tokenizer, truncation_side=config.truncation_side)
    check_metric(config, data.labels, data.metrics)
    samples = make_pairs(config.sample_texts or [], pairs=len(data.text_columns) == 2)
    seed_everything(config)  # the new head is drawn here
    model, new_weights = load_model(model_name, data.labels, config)
    head = saved_class_names(model_name)
    labels, remark = keep_order_of_head(model, head, new_weights, data.labels)
    data = replace(data, labels=labels)
    max_length = longest_input(model, tokenizer, config.max_seq_length)
    with naming(flag):
        padded = match(model, tokenizer, tokenizer_name, max_length, pair=len(data.text_columns) == 2)
    config, given_up = fit_speed_ups(config, model, tokenizer)
    if config.lora_r is not None:
        model = add_lora(config, model, new_weights)
    once = config if accelerator.is_local_main_process else replace(config, overwrite_cache=False)  # on each machine
    with main_process_first(accelerator, group, "tokenizing the data"), naming(flag):
        sets = {"train": data.train} | data.validation | data.test
        tokenized = {name: tokenize(data, rows, tokenizer, max_length, once, name) for name, rows in sets.items()}
        encoded = {name: rows for name, (rows, _) in tokenized.items()}
        special = _special_remark(data, sets, tokenizer)
        added = embed_added_tokens(config, model, tokenizer, encoded, samples)
        texts = {name: rows.select_columns(list(data.text_columns)) for name, rows in sets.items()}
        check_token_ids(model, tokenizer, encoded, texts)
        if added:
            padded = match(model, tokenizer, tokenizer_name, max_length, pair=len(data.text_columns) == 2)
    destroy_group(group)
    limit = input_limit(model, tokenizer)
    if limit is not None and not config.trainer_compat:  # Trainer saves a tokenizer without one as it is
        tokenizer.model_max_length = limit  # is saved too: whoever loads the model can cut texts to what it takes
    remarks = [
        ("Taken", place_of_model(model_name)),
        ("Recipe", given_up),
        ("Head", remark),
        ("Added", added),
        ("Special", special),
        *(("Padded", each) for each in padded),
    ]
    data = replace(data, remarks=(*data.remarks, *((topic, text) for topic, text in remarks if text)))
    truncated = {name: cut for name, (_, cut) in tokenized.items()}
    lengths = row_lengths(encoded["train"], quiet=True)
    padding = measure_padding(config, model, tokenizer, lengths, max_length, accelerator.num_processes)
    return Inputs(config, data, tokenizer, model, new_weights, encoded, truncated, max_length, samples, padding)


def _special_remark(data: TextData, sets: dict[str, Dataset], tokenizer: Any) -> str:
    counts = {name: count_special(rows, data.text_columns, tokenizer) for name, rows in sets.items()}
    rows = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
    tokens = ", ".join(framing_tokens(tokenizer))
    return rows and f"{tokens} are text where a text holds them, not the tokens: in {rows}"


def padding_unneeded(config: TrainConfig, model: Any, tokenizer: Any) -> bool:
    """Whether `padding=none` would do with this model and these settings."""
    refuses = config.trainer_compat or config.torch_compile or config.attn_implementation is not None
    return not refuses and can_unpad(model, tokenizer)


def measure_padding(
    config: TrainConfig, model: Any, tokenizer: Any, lengths: np.ndarray, max_length: int, num_processes: int
) -> Padding:
    """Measure the padding of the first epoch, and how little of it there could be."""
    edges = padding_edges(config, max_length, lengths)
    every = -(-len(lengths) // MANY_ROWS)
    sample = lengths[::every]
    share, length_grouped = padding_shares(config, sample, max_length, num_processes)
    left_out = None
    if config.padding == "none":
        left_out, _ = padding_shares(replace(config, padding="longest"), sample, max_length, num_processes)
    can_be_left_out = padding_unneeded(config, base_model(model), tokenizer)
    mean = float(sample.mean())
    return Padding(edges, share, length_grouped, left_out, can_be_left_out, mean, is_estimate=every > 1)
