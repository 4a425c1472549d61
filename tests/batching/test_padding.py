"""How long rows are, what a batch is padded to, and how much of it is padding."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from harness.models import tiny_bert
from harness.rows import tiny_rows, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding

from ftloop import prepare, updates
from ftloop.batching.efficiency import ModelShape, batches_of, computed_tokens
from ftloop.batching.padding import bucket_edges, collator, padded_lengths, padding_edges, row_lengths
from ftloop.config.train_config import TrainConfig


def test_lengths_are_those_of_the_rows_however_the_data_set_holds_them() -> None:
    rows = tiny_rows(50)
    expected = [len(row) for row in rows["input_ids"]]
    assert len(set(expected)) > 5
    assert row_lengths(rows).tolist() == expected
    assert row_lengths(rows.select([3, 1, 2])).tolist() == [expected[i] for i in (3, 1, 2)]
    assert row_lengths(list(rows)).tolist() == expected
    assert row_lengths(Dataset.from_dict({"input_ids": [[1], [], [1, 2]]})).tolist() == [1, 0, 2]


@given(
    drawn=st.lists(st.integers(1, 12), min_size=1, max_size=30).map(lambda drawn: np.array(drawn, np.int32)),
    buckets=st.integers(1, 5),
)
@settings(max_examples=100, deadline=None)
def test_buckets_are_the_ones_with_the_least_padding(drawn: np.ndarray, buckets: int) -> None:
    values = sorted(set(drawn.tolist()))

    def tokens(edges: tuple[int, ...]) -> int:
        return int(padded_lengths(drawn, edges).sum())

    edges = bucket_edges(drawn, buckets)
    assert edges == tuple(sorted(set(edges)))
    assert edges[-1] == drawn.max()
    assert len(edges) == min(buckets, len(values))
    others = ((*chosen, values[-1]) for chosen in itertools.combinations(values[:-1], min(buckets, len(values)) - 1))
    assert tokens(edges) == min(map(tokens, others))


def test_buckets_of_very_long_rows_are_found_too() -> None:
    lengths = np.arange(1, 20_001, dtype=np.int32)
    edges = bucket_edges(lengths, 4)
    assert edges[-1] == 20_000
    assert np.diff((0, *edges)) == pytest.approx([5000] * 4, abs=40)  # rounded to a thousandth of the longest


@pytest.mark.parametrize(
    ("padding", "edges"),
    [
        ("longest", None),
        ("max_length", (20,)),
        ("multiple:8", (8, 16, 20)),
        ("multiple:64", (20,)),
        ("multiple:20", (20,)),
        ("buckets:2", (4, 9, 20)),
        ("buckets:9", (3, 4, 9, 20)),
    ],
)
def test_a_batch_is_padded_to_a_length_the_model_can_take(padding: str, edges: tuple[int, ...] | None) -> None:
    lengths = np.array([3, 3, 4, 4, 4, 9], np.int32)
    assert padding_edges(TrainConfig(padding=padding), 20, lengths) == edges
    pad = collator(tiny_tokenizer(), edges)
    for length in (1, 3, 8, 9, 17, 20):
        examples: list[Any] = [{"input_ids": [7] * n, "attention_mask": [1] * n, "label": 1} for n in (length, 1)]
        batch = pad(examples)
        wanted = length if edges is None else min(edge for edge in edges if edge >= length)
        assert batch["input_ids"].shape == (2, wanted)
        assert batch["attention_mask"].sum(1).tolist() == [length, 1]
        assert batch["labels"].tolist() == [1, 1]
        assert padded_lengths(np.array([length]), edges).tolist() == [wanted]


@pytest.mark.slow
def test_graphs_compiled_for_a_few_lengths_are_found_ready_in_the_next_epoch(tmp_path: Path) -> None:
    import torch._dynamo
    from torch._dynamo.utils import counters

    rows = tiny_rows(64)
    config = TrainConfig(
        output_dir=str(tmp_path),
        torch_compile=True,
        padding="buckets:2",
        batching="length_grouped",
        per_device_train_batch_size=4,
        num_train_epochs=3,
        use_cpu=True,
        disable_tqdm=True,
    )
    edges = padding_edges(config, 40, row_lengths(rows))
    assert edges is not None
    torch._dynamo.reset()
    counters.clear()
    shapes: set[tuple[int, ...]] = set()
    pad = collator(tiny_tokenizer(), edges)

    def collate(examples: list[Any]) -> Any:
        batch = pad(examples)
        shapes.add(tuple(batch["input_ids"].shape))
        return batch

    run = prepare(config, tiny_bert(), rows, data_collator=collate, padding_edges=edges)
    graphs = [counters["stats"]["unique_graphs"] for update in updates(run) if update.ends_epoch]
    assert shapes == {(4, edge) for edge in edges[:2]}
    assert graphs == [graphs[0]] * 3
    assert graphs[0] >= len(shapes)


def test_what_is_computed_without_padding_is_the_rows_own_tokens() -> None:
    lengths = np.array([2, 5, 3, 9], np.int32)
    shape = ModelShape(layers=2, hidden=8, intermediate=16)
    settings: dict[str, Any] = {"batching": "sequential", "per_device_train_batch_size": 2}
    packed, padded = (
        batches_of(TrainConfig(padding=padding, **settings), lengths, 20) for padding in ("none", "longest")
    )
    assert computed_tokens(packed.rows, packed.starts, lengths, packed.edges).tolist() == [7, 12]
    assert computed_tokens(padded.rows, padded.starts, lengths, padded.edges).tolist() == [10, 18]
    assert (packed.padding_share, padded.padding_share) == (0, pytest.approx(9 / 28))
    by_row = [shape.training_flops(1, tokens) for tokens in (2, 5, 3, 9)]
    assert packed.training_flops(shape).tolist() == [by_row[0] + by_row[1], by_row[2] + by_row[3]]
    assert padded.training_flops(shape).tolist() == [2 * by_row[1], 2 * by_row[3]]


def test_tokens_are_counted_as_the_model_sees_them() -> None:
    lengths = np.array([5, 2, 9, 4, 1], np.int32)
    rows = np.array([2, 0, 4, 1, 3])
    assert computed_tokens(rows, np.array([0, 2, 5]), lengths).tolist() == [18, 12]
    assert computed_tokens(rows, np.array([0, 2, 5]), lengths, (8, 16)).tolist() == [32, 24]


@pytest.mark.parametrize("edges", [None, (8, 24)])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "columns", [("token_type_ids", "label"), (), ("score",), ("special_tokens_mask", "label"), ("no_mask", "label")]
)
@pytest.mark.parametrize("form", ["lists", "tensors"])
def test_a_batch_is_what_transformers_makes_of_it(
    columns: tuple[str, ...], side: str, edges: tuple[int, ...] | None, form: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side, tokenizer._pad_token_type_id = side, 3  # unlike any other filler
    lengths = (5, 1, 17, 9)
    examples: list[dict[str, Any]] = [{"input_ids": [*range(5, 5 + n)], "attention_mask": [1] * n} for n in lengths]
    for k, example in enumerate(examples):
        n = lengths[k]
        values = {"token_type_ids": [1] * n, "special_tokens_mask": [0] * n, "label": k % 2}
        example |= {name: values[name] for name in columns if name in values}
        if "score" in columns:
            example["label"] = k / 2
        if "no_mask" in columns:
            del example["attention_mask"]
    if form == "tensors":
        examples = [{name: torch.tensor(value) for name, value in example.items()} for example in examples]
    found = collator(tokenizer, edges)([dict(example) for example in examples])
    width: dict[str, Any] = {} if edges is None else {"padding": "max_length", "max_length": 24}
    expected = DataCollatorWithPadding(tokenizer, **width)(examples)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
