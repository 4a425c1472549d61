"""The generator of the built-in demo data: it makes the very file that is shipped, and tells stories as it says."""

from __future__ import annotations

import random
import runpy
import sys
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks import make_demo_data
from benchmarks.make_demo_data import EVENTS, NAMES, SPLIT_SIZES, Event, draw_facts, make_rows, pools_of, tell


def test_it_writes_the_very_file_that_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_demo_data.py", str(tmp_path / "demo.jsonl")])
    runpy.run_path(make_demo_data.__file__, run_name="__main__")
    assert (tmp_path / "demo.jsonl").read_bytes() == make_demo_data.DEMO_FILE.read_bytes()


def test_its_rows_do_not_depend_on_the_global_random_state() -> None:
    random.seed(5)
    first = make_rows("validation")
    assert make_rows("validation") == first


@pytest.mark.parametrize("kind", NAMES)
def test_no_name_serves_two_splits(kind: str) -> None:
    pools = [set(pools_of(split)[kind]) for split in SPLIT_SIZES]
    assert all(pools)
    assert all(one.isdisjoint(other) for one, other in combinations(pools, 2))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.source)
def test_every_telling_shows_every_fact_that_can_change(event: Event) -> None:
    facts = draw_facts(event, pools_of("train"), random.Random(0)) | {"outcome": "true", "report": "confirmed"}
    changing = [fact for change in event.changes for fact in change.split(" <-> ")]
    assert changing
    for telling in event.tellings:
        for fact in changing:
            changed = facts | {fact: "false" if fact == "outcome" else "[something else]"}
            wordings = {tell(event, telling, facts, random.Random(seed)) for seed in range(12)}
            other_wordings = {tell(event, telling, changed, random.Random(seed)) for seed in range(12)}
            assert wordings.isdisjoint(other_wordings), (fact, telling)


def test_at_least_a_dozen_kinds_of_news_are_told_in_three_ways() -> None:
    assert len(EVENTS) >= 12
    assert all(len(event.tellings) >= 3 for event in EVENTS)
