"""What the walkthrough says of 8, 64 and 1,000 GPUs is what at_scale.py computes, and that is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from harness.files import MRPC, needs_mrpc
from harness.pages import BOOK
from torch.utils.data import BatchSampler, SequentialSampler

from benchmarks.padding import at_scale
from benchmarks.padding.at_scale import Assumptions, Scale
from ftloop.batching.order import random_rows


def test_the_walkthrough_says_what_the_script_computes() -> None:
    page = BOOK["walkthrough/at-scale.md"]
    given, lengths = Assumptions(), at_scale.read_lengths()
    tables = [*at_scale.assumptions(given), *at_scale.by_gpus(given, lengths), *at_scale.by_model(given)]
    assert [line for line in page.splitlines() if line.startswith("|")] == tables
    sentences = " ".join(page.split())
    told = at_scale.facts(given, lengths)
    assert len(told) > 15
    for name, fact in told.items():
        assert fact in sentences, name


def test_what_is_waited_for_is_what_a_count_batch_by_batch_gives() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 37).astype(np.int32)
    rows, gpus = 3, 4
    order = random_rows(len(lengths), 42, 0)  # 13 batches: three steps of four, and one more
    computed = taken = 0.0
    for step in range(3):
        batches = [order[start : start + rows] for start in range(step * gpus * rows, (step + 1) * gpus * rows, rows)]
        flops = [at_scale.BERT_BASE.training_flops(rows, int(lengths[batch].max())) for batch in batches]
        computed += sum(flops)
        taken += gpus * max(flops)
    waited = Scale(gpus, Assumptions(rows=rows), lengths).waiting("random", 1)
    assert waited == pytest.approx(1 - computed / taken, rel=1e-12)  # sums in another order
    assert Scale(14, Assumptions(rows=rows), lengths).waiting("random", 1) is None
    assert Scale(gpus, Assumptions(rows=rows), np.full(37, 20, np.int32)).waiting("random", 1) == 0


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_an_evaluation_is_filled_up_as_accelerate_fills_it(gpus: int) -> None:
    batches = BatchSampler(SequentialSampler(range(408)), 16, drop_last=False)
    shards = [list(BatchSamplerShard(batches, gpus, process)) for process in range(gpus)] if gpus > 1 else [[*batches]]
    rounds, filled = Scale(gpus, Assumptions(), np.array([])).evaluation(408)
    assert {len(shard) for shard in shards} == {rounds}
    assert sum(len(batch) for shard in shards for batch in shard) - 408 == filled


@pytest.mark.parametrize("gpus", [1, 8, 64, 1000])
def test_the_slowest_of_many_is_as_slow_as_it_is_when_drawn(gpus: int) -> None:
    drawn = np.random.default_rng(0).normal(1, 0.05, (4000, gpus)).max(axis=1)
    # Their deviation is at most 0.05, so their mean is off by 0.05 / sqrt(4000) = 0.0008, and three times that passes.
    assert Scale(gpus, Assumptions(), np.array([])).slowest == pytest.approx(drawn.mean() - 1, abs=0.0024)


def test_no_other_interval_between_saves_loses_less_than_youngs() -> None:
    scale = Scale(1000, Assumptions(), np.array([]))
    best = scale.save_interval
    assert all(scale.lost(best * factor) > scale.lost(best) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_in_a_ring_of_two_each_sends_its_half_and_then_the_others_sum() -> None:
    assert [Scale(gpus, Assumptions(), np.array([])).exchanged_bytes for gpus in (1, 2)] == [0, 4 * 109.5e6]


@needs_mrpc
def test_the_lengths_kept_are_those_of_mrpc() -> None:
    from transformers import AutoTokenizer

    from benchmarks.padding.advise import text_lengths
    from ftloop.system.hub import PACKAGED_MODEL, local_model_folder

    rows = [json.loads(line) for line in (Path(str(MRPC)) / "train.jsonl").read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(local_model_folder(PACKAGED_MODEL))
    lengths = text_lengths([[row["sentence1"] for row in rows], [row["sentence2"] for row in rows]], tokenizer)
    assert np.array_equal(np.sort(lengths), at_scale.read_lengths())
