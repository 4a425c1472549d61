"""Trainer's bits over the whole space of configurations: every two values that can occur together do."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from harness.config_space import (
    AXES,
    IMPOSSIBLE,
    IN_SEVERAL_PROCESSES,
    complete,
    describe,
    draw,
    in_processes,
    pairs,
    parse,
)

CHUNKS = 6


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_with_one_process_every_configuration_is_trainers_run(
    chunk: int, tmp_path: Path, record_property: pytest.RecordProperty, capfd: pytest.CaptureFixture[str]
) -> None:
    from harness.space_runs import compare, tidy

    ran: Counter[str] = Counter()
    different = []
    for choice in in_processes(1)[chunk::CHUNKS]:
        outcome = compare(choice, tmp_path / "both")
        tidy(tmp_path / "both")
        ran.update(f"{axis}={choice[axis]}" for axis in AXES)
        ran.update(
            {"configurations": 1, "updates": outcome.updates, "resumed runs": int(outcome.resumed_at is not None)}
        )
        if outcome.difference is not None:
            different.append(f"{outcome.difference}\n    benchmarks/fidelity/parity.py --choice {describe(choice)}")
    record_property("ran", dict(ran))
    assert ran["configurations"] > 10
    assert not different, "\n".join(different)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_pair_of_values_that_can_occur_together_does(processes: int) -> None:
    fixed = {"processes": str(processes)}
    axes = IN_SEVERAL_PROCESSES.get(processes, {axis: (*values,) for axis, values in AXES.items() if axis not in fixed})
    every = {frozenset({(a, x), (b, y)}) for a, b in combinations(axes, 2) for x in axes[a] for y in axes[b]}
    left_out = every - set().union(*map(pairs, in_processes(processes)))
    assert len(left_out) < 0.03 * len(every)
    for pair in left_out:
        assert complete(fixed | dict(pair), lambda axis, _: AXES[axis]) is None, sorted(pair)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_no_choice_is_an_impossible_one(processes: int) -> None:
    for choice in in_processes(processes):
        assert choice.keys() == AXES.keys()
        for reason, excluded in IMPOSSIBLE:
            assert not all(choice[axis] in values for axis, values in excluded.items()), reason


def test_with_one_process_every_value_occurs() -> None:
    choices = in_processes(1)
    for axis in AXES.keys() - {"processes"}:
        assert {choice[axis] for choice in choices} == set(AXES[axis])


def test_the_array_and_the_draws_are_the_same_every_time() -> None:
    assert in_processes(1) == in_processes(1)
    assert [draw(random.Random(f"1/{k}")) for k in range(20)] == [draw(random.Random(f"1/{k}")) for k in range(20)]


def test_a_description_reads_back_as_the_choice() -> None:
    for choice in in_processes(1):
        assert parse(describe(choice)) == choice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architecture=gpt", "the axes are"),
        ("colour=red", "the axes are"),
        ("evaluation=no load-best=on", "needs an evaluation"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_draws_reach_every_value() -> None:
    drawn = [draw(random.Random(f"reach/{k}")) for k in range(300)]
    for axis, values in AXES.items():
        counts = Counter(choice[axis] for choice in drawn)
        assert set(counts) == set(values)
        assert min(counts.values()) >= 300 * 0.02, (axis, counts)
