"""Padding and tokens per second, as TensorBoard gets them: counted from lengths, as the batches really are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.models import tiny_bert
from harness.rows import RowsThatDraw, pad, tiny_rows
from harness.side_by_side import weights_digest

import ftloop.run.throughput as throughput
from ftloop import TrainConfig, prepare, train, updates
from ftloop.loop import training_step
from ftloop.run.throughput import Throughput


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"batching": "token_budget"},
        {"dataloader_drop_last": True},
        {"padding": "none"},
    ],
    ids=str,
)
def test_it_is_the_share_of_padding_in_the_batches_that_were_trained_on(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(output_dir=str(tmp_path), num_train_epochs=2.5, per_device_train_batch_size=4, **settings)
    run = prepare(config, tiny_bert(), tiny_rows(29), data_collator=pad)
    clock = [100.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: clock[0])
    counts, told, seen = [0, 0], Throughput.of(run), 0

    def step(run: Any, micro_batch: Any) -> Any:
        inputs = micro_batch.inputs
        real, computed = int(inputs["attention_mask"].sum()), inputs["attention_mask"].numel()
        counts[0] += real
        counts[1] += real if config.padding == "none" else computed
        return training_step(run, micro_batch)

    for update in updates(run, step):
        if update.global_step % 5 == 0 or update.global_step == run.plan.max_steps:
            clock[0] += 6.0
            told.exclude(2.0)  # an evaluation
            assert told.measure() == {"padding_share": 1 - counts[0] / counts[1], "tokens_per_second": counts[0] / 4.0}
            counts[:] = [0, 0]
            seen += 1
    assert seen >= 2
    assert told.measure() == {}


def test_where_lengths_are_not_known_nothing_is_told(tmp_path: Path) -> None:
    run = prepare(TrainConfig(output_dir=str(tmp_path)), tiny_bert(), tiny_rows(8), data_collator=pad)
    run.train_dataset = [{"pixels": 1}]  # type: ignore[assignment]
    told = Throughput.of(run)
    run.state.global_step = 1
    assert told.measure() == {}


@pytest.mark.parametrize("batching", ["random", "token_budget"])
def test_a_data_set_that_makes_its_rows_is_read_and_trained_on_as_without_a_tracker(
    batching: str, tmp_path: Path
) -> None:
    found = []
    for board in (None, str(tmp_path / "board")):
        rows = RowsThatDraw(tiny_rows(12))
        settings: dict[str, Any] = {"batching": batching, "logging_dir": board, "logging_steps": 1}
        config = TrainConfig(
            output_dir=str(tmp_path / "out"), max_steps=3, save_strategy="no", use_cpu=True, **settings
        )
        run = prepare(config, tiny_bert(), rows, data_collator=pad)
        train(run)
        found.append((rows.reads, weights_digest(run.model)))
    assert found[0] == found[1]
