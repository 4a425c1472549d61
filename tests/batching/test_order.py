"""The order of rows: every row once, the same everywhere, in batches of nearly equal length, and rightly counted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import Job, run_ftloop
from hypothesis import given, settings
from hypothesis import strategies as st

from ftloop import Run, TrainConfig, UserError, evaluate, predict, prepare, updates
from ftloop.batching.efficiency import computed_tokens, padding_share
from ftloop.batching.order import POOL, batch_starts, length_grouped_rows, random_rows
from ftloop.batching.padding import row_lengths
from ftloop.batching.token_budget import BudgetSampler, TokenBudget
from ftloop.run.micro_batches import rows_of_update

PLAIN = Job(lambda: tiny_bert(dropout=0.0))
OURS = ("length_grouped", "token_budget")
lengths_of = st.lists(st.integers(1, 60), min_size=1, max_size=200).map(lambda drawn: np.array(drawn, np.int32))


def made_lengths(count: int = 1000) -> np.ndarray:
    return np.random.default_rng(1).integers(5, 60, count).astype(np.int32)


@given(lengths=lengths_of, rows_per_update=st.integers(1, 20), epoch=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_grouped_by_length_every_row_is_there_once_and_the_longest_update_comes_first(
    lengths: np.ndarray, rows_per_update: int, epoch: int
) -> None:
    rows = length_grouped_rows(lengths, rows_per_update, seed=7, epoch=epoch)
    assert sorted(rows) == list(range(len(lengths)))
    full = len(rows) // rows_per_update * rows_per_update
    if full:
        assert lengths[rows[:rows_per_update]].max() == lengths.max()
    for start in range(0, full, rows_per_update):
        assert (np.diff(lengths[rows[start : start + rows_per_update]]) <= 0).all(), "longest first within an update"


def test_the_longest_row_is_never_among_those_that_fill_no_update() -> None:
    """270 rows in updates of 16: pools of 64, and 14 rows that would be a pool of their own."""
    lengths = np.arange(270, dtype=np.int32)
    for seed in range(100):
        assert length_grouped_rows(lengths, 16, seed, 0)[0] == 269


@given(lengths=lengths_of, budget=st.integers(60, 400), processes=st.integers(1, 4), epoch=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_a_token_budget_is_kept_by_every_batch_and_every_row_is_there_once(
    lengths: np.ndarray, budget: int, processes: int, epoch: int
) -> None:
    plan = TokenBudget(lengths, budget, processes, seed=7)
    dealt = plan.of_epoch(epoch)
    batches = [[dealt.of_process(step, process) for process in range(processes)] for step in range(len(plan))]
    assert sorted(row for step in batches for batch in step for row in batch) == list(range(len(lengths)))
    sizes = [len(batch) for step in batches for batch in step if len(batch)]
    assert np.diff(dealt.batch_starts).tolist() == sizes
    assert lengths[batches[0][0]].max() == lengths.max(), "the longest first"
    for step in batches:
        longest = max(lengths[batch].max() for batch in step if len(batch))
        for batch in step:
            assert len(batch) * (lengths[batch].max() if len(batch) else 0) <= budget
        # As many rows in all of them; the step of the shortest rows may have fewer.
        counts = {len(batch) for batch in step}
        assert counts == {budget // longest} or lengths[np.concatenate(step)].min() == lengths.min()


@given(drawn=st.lists(st.sampled_from((4, 8, 16)), min_size=1, max_size=150), epoch=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_updates_of_a_token_budget_are_the_same_however_they_are_split(drawn: list[int], epoch: int) -> None:
    """64 tokens over two processes, two steps, or both; lengths of which each share of it holds its share."""
    lengths = np.array(drawn, np.int32)

    def rows_of_updates(max_tokens: int, processes: int, steps: int) -> list[list[int]]:
        dealt = TokenBudget(lengths, max_tokens, processes, 7, steps).of_epoch(epoch)
        ends = [*dealt.starts[:-1:steps], dealt.starts[-1]]
        return [dealt.rows[start:end].tolist() for start, end in itertools.pairwise(ends)]

    whole = rows_of_updates(64, 1, 1)
    for split in ((32, 2, 1), (32, 1, 2), (16, 4, 1), (16, 2, 2), (16, 1, 4)):
        assert rows_of_updates(*split) == whole


def test_batches_of_a_token_budget_are_as_full_as_they_can_be() -> None:
    lengths = made_lengths()
    plan = TokenBudget(lengths, 400, 1, seed=7)
    dealt = plan.of_epoch(0)
    tokens = computed_tokens(dealt.rows, dealt.batch_starts, lengths)
    longest = lengths[dealt.rows[dealt.starts[:-1]]]
    assert ((tokens + longest > 400).sum()) >= len(plan) - 1, "one row more would not fit, but into the last"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_processes_of_a_token_budget_make_the_same_number_of_steps_in_every_epoch(processes: int) -> None:
    plan = TokenBudget(made_lengths(101), 200, processes, seed=7)
    samplers = [BudgetSampler(plan, process) for process in range(processes)]
    for epoch in range(3):
        for sampler in samplers:
            sampler.epoch = epoch
        dealt = [list(sampler) for sampler in samplers]
        assert {len(batches) for batches in dealt} == {len(plan)} == {len(sampler) for sampler in samplers}
        assert all(batch for batches in dealt for batch in batches), "a process without a row is given another's"
        rows = [row for batches in dealt for batch in batches for row in batch]
        assert set(rows) == set(range(101))


@pytest.mark.parametrize("kind", OURS)
def test_each_epoch_has_an_order_of_its_own_that_seed_and_lengths_decide(kind: str) -> None:
    lengths = made_lengths()

    def order(seed: int, epoch: int) -> list[int]:
        torch.rand(5)  # nothing but the arguments counts
        if kind == "length_grouped":
            return length_grouped_rows(lengths, 8, seed, epoch).tolist()
        return TokenBudget(lengths, 400, 2, seed).of_epoch(epoch).rows.tolist()

    orders = [order(seed, epoch) for seed, epoch in itertools.product((1, 11), (0, 1, 2))]
    assert orders == [order(seed, epoch) for seed, epoch in itertools.product((1, 11), (0, 1, 2))]
    assert len({tuple(each) for each in orders}) == 6


def test_rows_meet_others_in_every_epoch() -> None:
    """Grouping takes a part of the randomness, and not all: of the pairs of one epoch's updates few are in the next."""
    lengths = made_lengths()

    def pairs(epoch: int) -> set[frozenset[int]]:
        rows = length_grouped_rows(lengths, 8, 1, epoch).reshape(-1, 8)
        return {frozenset(pair) for update in rows.tolist() for pair in itertools.combinations(update, 2)}

    assert len(pairs(0) & pairs(1)) < 0.2 * len(pairs(0))


def test_grouping_sorts_as_many_updates_together_as_the_pool_holds() -> None:
    lengths = np.arange(100_000, dtype=np.int32)
    rows = length_grouped_rows(lengths, 10, 1, 0)
    shuffled = random_rows(100_000, 1, 0)
    pools = {frozenset(pool) for pool in shuffled.reshape(-1, 10 * POOL).tolist()}
    updates_of = [frozenset(update) for update in rows.reshape(-1, 10).tolist()]
    assert all(any(update <= pool for pool in pools) for update in updates_of[:200])


def test_grouping_leaves_little_padding_and_a_budget_less() -> None:
    lengths = made_lengths(4000)
    starts = batch_starts(4000, 16)
    random_share = padding_share(random_rows(4000, 1, 0), starts, lengths)
    grouped = padding_share(length_grouped_rows(lengths, 16, 1, 0), starts, lengths)
    dealt = TokenBudget(lengths, 500, 1, 1).of_epoch(0)
    budget = padding_share(dealt.rows, dealt.batch_starts, lengths)
    assert random_share > 0.35
    assert grouped < 0.05
    assert budget < 0.02


def run_of(tmp_path: Path, job: Job = PLAIN, **arguments: Any) -> Run:
    train_rows, eval_rows = job.data()
    defaults = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "num_train_epochs": 2, "save_strategy": "no"}
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, **defaults | arguments)
    return prepare(config, job.model(), train_rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)


@pytest.mark.parametrize("batching", ["random", "sequential", *OURS])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_row_of_an_update_counts_once_in_its_loss(batching: str, accumulation: int, tmp_path: Path) -> None:
    """Held against the mean of its rows' losses, each computed alone, with the weights that the update found."""
    run = run_of(tmp_path, batching=batching, gradient_accumulation_steps=accumulation)
    rows = run.train_dataset
    seen: list[int] = []

    def mean_of_rows(update: int) -> float:
        numbers = rows_of_update(run, update)
        seen.extend(numbers)
        with torch.no_grad():
            losses = [float(run.model(**pad([rows[number]])).loss) for number in numbers]  # type: ignore[index]
        return sum(losses) / len(losses)

    expected, sizes = mean_of_rows(1), set()
    for update in updates(run):
        assert float(update.loss) == pytest.approx(expected, rel=1e-5)  # float32, in another order
        sizes.add(update.rows)
        if update.global_step < run.plan.max_steps:
            expected = mean_of_rows(update.global_step + 1)
    assert sorted(seen) == sorted([*range(29)] * 2), "each epoch has every row once"
    if batching == "token_budget":
        assert len(sizes) > 2, "updates of different sizes, or this shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["sequential", *OURS])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_anywhere_deals_the_rows_that_were_left(batching: str, workers: int, tmp_path: Path) -> None:
    """After every update of two epochs, windows of two batches, the last of them partial; to the same bits."""
    arguments = {
        "batching": batching,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "logging_steps": 3,
        "learning_rate": 1e-3,
        "eval_strategy": "epoch",
        "sort_eval": True,
        "save_steps": 1,
        "dataloader_num_workers": workers,
    }
    whole = run_ftloop(Job(), tmp_path / "whole", **arguments)
    last = len(whole.updates)
    assert last >= 6
    for step in range(1, last):
        checkpoint = str(tmp_path / "whole" / f"checkpoint-{step}")
        resumed = run_ftloop(Job(), tmp_path / f"{step}", resume=checkpoint, **arguments)
        assert resumed.updates == whole.updates[step:]
        assert (resumed.weights, resumed.history) == (whole.weights, whole.history)


@pytest.mark.parametrize("batching", OURS)
def test_micro_batches_of_a_length_group_are_the_group(batching: str, tmp_path: Path) -> None:
    """The rows of an update, and the first update's loss, do not depend on how an update is split."""
    whole = run_of(tmp_path / "8", batching="length_grouped", per_device_train_batch_size=8)
    split = run_of(
        tmp_path / "4", batching="length_grouped", per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    assert [rows_of_update(whole, i) for i in range(1, 9)] == [rows_of_update(split, i) for i in range(1, 9)]
    first, second = next(updates(whole)), next(updates(split))
    assert float(first.loss) == pytest.approx(float(second.loss), rel=1e-6)


def test_the_plan_of_a_token_budget_is_told_before_training(tmp_path: Path) -> None:
    run = run_of(tmp_path, batching="token_budget", gradient_accumulation_steps=2)
    plan, budget = run.plan, run.plan.budget
    assert budget is not None
    assert budget.max_tokens == round(4 * float(row_lengths(run.train_dataset).mean()))
    assert plan.steps_in_epoch == len(budget) == len(run.train_loader)
    assert plan.max_steps == 2 * plan.updates_per_epoch
    done = list(updates(run))
    assert len(done) == plan.max_steps
    assert [update.rows for update in done] == [
        plan.rows_in_window(*divmod(step, plan.updates_per_epoch)) for step in range(plan.max_steps)
    ]
    assert [plan.rows_after(step) for step in range(plan.max_steps + 1)] == list(
        itertools.accumulate((update.rows for update in done), initial=0)
    )


def test_a_budget_below_the_longest_row_is_refused_with_its_length(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_tokens_per_batch: 12 is less than the longest row, padded to 19 tokens"):
        run_of(tmp_path, batching="token_budget", max_tokens_per_batch=12)


def test_rows_without_tokens_cannot_be_grouped(tmp_path: Path) -> None:
    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"pixels": [1, 2], "label": 0}

    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, batching="length_grouped")
    with pytest.raises(UserError, match=r"row 1 has no input_ids.*--batching random"):
        prepare(config, tiny_bert(), Rows(), data_collator=pad)


@pytest.mark.parametrize(
    ("settings_given", "message"),
    [
        ({"batching": "length_grouped", "trainer_compat": True}, "batching: length_grouped is not with trainer_compat"),
        ({"sort_eval": True, "trainer_compat": True}, "sort_eval: is not what Trainer does"),
        ({"max_tokens_per_batch": 100}, "max_tokens_per_batch: only with --batching token_budget"),
        ({"batching": "token_budget", "dataloader_drop_last": True}, "dataloader_drop_last: with token_budget"),
        ({"batching": "token_budget", "auto_micro_batch": True}, "auto_micro_batch: not with token_budget"),
        ({"padding": "multiple:0"}, "padding: 'multiple:0' is not one of none, longest, max_length, multiple:N"),
        ({"padding": "multiple:8", "pad_to_max_length": True, "max_seq_length": 9}, "pad_to_max_length and padding"),
    ],
)
def test_what_does_not_go_together_is_said(settings_given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings_given)


def test_from_python_padding_is_not_silently_left_to_a_collator_that_does_none(tmp_path: Path) -> None:
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, padding="buckets:2")
    with pytest.raises(UserError, match="padding: buckets:2 is what a data_collator does"):
        prepare(config, tiny_bert(), tiny_rows(9), data_collator=pad)


def evaluated(tmp_path: Path, sort_eval: bool, seen: list[int] | None = None) -> tuple[Any, dict[str, float]]:
    job = Job()
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, sort_eval=sort_eval)

    def collate(examples: list[Any]) -> Any:
        if seen is not None:
            seen.extend(len(example["input_ids"]) for example in examples)
        return pad(examples)

    run = prepare(config, job.model(), eval_dataset=tiny_rows(45, seed=5), data_collator=collate)
    run.compute_metrics = job.metrics
    return predict(run, run.eval_dataset), evaluate(run)  # type: ignore[arg-type]


def test_sorted_evaluation_gives_back_the_rows_in_their_order(tmp_path: Path) -> None:
    plain, metrics = evaluated(tmp_path, sort_eval=False)
    seen: list[int] = []
    by_length, metrics_by_length = evaluated(tmp_path, sort_eval=True, seen=seen)
    assert seen[:45] == sorted(seen[:45], reverse=True), "evaluated longest first"
    assert len(set(seen)) > 5
    assert (by_length.label_ids == plain.label_ids).all()
    assert len(set(plain.label_ids.tolist())) == 2
    assert (by_length.predictions.argmax(-1) == plain.predictions.argmax(-1)).all()
    # A row padded to another length is the same row, but for rounding.
    assert by_length.predictions == pytest.approx(plain.predictions, abs=1e-5)
    assert metrics_by_length["eval_accuracy"] == metrics["eval_accuracy"]
    assert metrics_by_length["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
