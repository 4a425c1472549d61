"""The step arithmetic, held against batches that are dealt out one by one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from transformers import TrainingArguments

from ftloop.config.recipe import SHIPPED, read_recipe
from ftloop.config.train_config import TrainConfig
from ftloop.errors import UserError
from ftloop.run.plan import TrainingPlan, make_plan, real_rows


def dealt(rows: int, batch_size: int, processes: int, drop_last: bool = False) -> list[list[list[int]]]:
    """What Accelerate deals to each process: its batches of row numbers."""
    sampler = BatchSampler(range(rows), batch_size, drop_last)
    return [list(BatchSamplerShard(sampler, processes, process)) for process in range(processes)]


def plan(rows: int, processes: int = 1, steps: int | None = None, **settings: Any) -> TrainingPlan:
    config = TrainConfig(**settings)
    size, drop_last = config.per_device_train_batch_size, config.dataloader_drop_last
    return make_plan(config, rows, steps or len(dealt(rows, size, processes, drop_last)[0]), processes)


ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 23, 24, 25)
SHAPES = list(itertools.product(ROWS, (1, 2, 3, 4), (1, 2, 3, 4)))


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_rows_of_every_micro_batch_are_those_not_dealt_before(drop_last: bool) -> None:
    checked = repeated = 0
    for rows, size, processes in SHAPES:
        batches = dealt(rows, size, processes, drop_last)
        seen: set[int] = set()
        for step, process in itertools.product(range(len(batches[0])), range(processes)):
            batch = batches[process][step]
            new = list(dict.fromkeys(row for row in batch if row not in seen))
            seen |= set(batch)
            assert real_rows(rows, size, processes, step, process) == len(new)
            assert batch[: len(new)] == new  # they come first
            checked += 1
            repeated += len(batch) - len(new)
    assert checked > 1000
    assert (repeated > 0) is not drop_last


@pytest.mark.parametrize("accumulation", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_windows_of_an_epoch_are_those_counted_one_by_one(accumulation: int, drop_last: bool) -> None:
    checked = 0
    for rows, size, processes in SHAPES:
        batches = dealt(rows, size, processes, drop_last)
        steps = len(batches[0])
        if steps == 0:
            continue
        made = plan(
            rows,
            processes,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            dataloader_drop_last=drop_last,
        )
        windows = [range(steps)[first : first + accumulation] for first in range(0, steps, accumulation)]
        assert (made.steps_in_epoch, made.updates_per_epoch) == (steps, len(windows))
        assert [made.window_size(update) for update in range(len(windows))] == [len(window) for window in windows]
        total = 0
        for update, window in enumerate(windows):
            in_steps = sum(made.rows_in_step(0, step, process) for step in window for process in range(processes))
            assert made.rows_in_window(0, update) == in_steps
            so_far = sum(made.rows_in_window(0, earlier) for earlier in range(update))
            assert made.rows_after(made.updates_per_epoch + update) == made.rows_after(made.updates_per_epoch) + so_far
            total += in_steps
        assert total == len({row for share in batches for batch in share for row in batch})
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("rows", "settings", "updates", "epochs", "samples"),
    [
        (29, {}, 12, 3, 87.0),  # 4 batches of 8 an epoch
        (29, {"gradient_accumulation_steps": 3}, 6, 3, 87.0),  # windows of 3 and 1
        (29, {"gradient_accumulation_steps": 9}, 3, 3, 87.0),
        (29, {"num_train_epochs": 0.5}, 2, 1, 14.5),
        (29, {"num_train_epochs": 0.1}, 1, 1, 2.9),
        (29, {"num_train_epochs": 1.3}, 6, 2, 37.7),
        (29, {"num_train_epochs": 2.5, "gradient_accumulation_steps": 3}, 5, 3, 72.5),
        (29, {"max_steps": 1}, 1, 1, 8),
        (29, {"max_steps": 4}, 4, 1, 32),
        (29, {"max_steps": 5}, 5, 2, 40),
        (29, {"max_steps": 5, "num_train_epochs": 0.1}, 5, 2, 40),
        (29, {"max_steps": 5, "gradient_accumulation_steps": 2}, 5, 3, 80),
        (29, {"dataloader_drop_last": True}, 9, 3, 87.0),
    ],
)
def test_updates_and_epochs_are_those_of_trainer(
    rows: int, settings: dict[str, Any], updates: int, epochs: int, samples: float
) -> None:
    made = plan(rows, **settings)
    assert (made.max_steps, made.num_train_epochs) == (updates, epochs)
    assert made.num_train_samples == pytest.approx(samples)


def test_rows_of_all_processes_count() -> None:
    made = plan(29, processes=3, max_steps=2, gradient_accumulation_steps=2)
    assert (made.steps_in_epoch, made.updates_per_epoch, made.num_train_samples) == (2, 1, 96)
    assert (made.num_processes, made.num_examples) == (3, 29)


@pytest.mark.parametrize(
    ("updates", "settings", "warmup"),
    [
        (95, {}, 0),
        (95, {"warmup_steps": 10}, 10),
        (95, {"warmup_steps": 1}, 1),
        (95, {"warmup_steps": 1.7}, 1),
        (95, {"warmup_steps": 0.1}, 10),
        (95, {"warmup_steps": 0.001}, 1),
        (100, {"warmup_steps": 0.1}, 10),
        (5, {"warmup_steps": 100}, 100),
    ],
)
def test_warmup_is_counted_as_trainer_counts_it(updates: int, settings: dict[str, Any], warmup: int) -> None:
    made = plan(800, max_steps=updates, **settings)
    assert made.warmup_steps == warmup
    assert type(made.warmup_steps) is int
    assert TrainingArguments(**settings).get_warmup_steps(updates) == warmup


@pytest.mark.parametrize(("ratio", "warmup"), [(0, 0), (0.1, 10), (0.01, 1), (1, 95)])
def test_warmup_ratio_is_always_a_share(ratio: float, warmup: int) -> None:
    assert plan(800, max_steps=95, warmup_ratio=ratio).warmup_steps == warmup


def test_intervals_are_counts_or_shares_of_all_updates() -> None:
    shares = {"logging_steps": 0.1, "eval_steps": 0.25, "save_steps": 0.5, "eval_strategy": "steps"}
    made = plan(800, max_steps=95, **shares)
    assert (made.logging_steps, made.eval_steps, made.save_steps) == (10, 24, 48)
    made = plan(800, max_steps=95, logging_steps=1, eval_steps=7.0, save_steps=20)
    assert (made.logging_steps, made.eval_steps, made.save_steps) == (1, 7, 20)
    assert type(made.eval_steps) is int
    assert plan(800, logging_steps=30).eval_steps == 30


@pytest.mark.parametrize("recipe", SHIPPED)
def test_a_recipe_logs_twenty_to_forty_lines_of_a_run_however_long(recipe: str) -> None:
    share = read_recipe(recipe)["logging_steps"]
    for updates in (*range(20, 200), 690, 1_000, 12_345):
        lines = updates // plan(8, max_steps=updates, logging_steps=share).logging_steps
        assert 20 <= lines <= 40, f"{updates} updates"


def test_a_loader_without_a_full_batch_is_refused() -> None:
    config = TrainConfig(dataloader_drop_last=True)
    with pytest.raises(UserError, match=r"no full batch of 8 rows on 2 process\(es\) out of 7"):
        make_plan(config, 7, 0, 2)
