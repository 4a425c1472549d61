"""What each part of the recipe `fast` gains: the kinds are the recipe's, and the page has the last result."""

from __future__ import annotations

import itertools
import json

import pytest
from harness.pages import BOOK

from benchmarks.common import RESULTS
from benchmarks.speed import fast_steps
from ftloop.config.recipe import SHIPPED, read_recipe


def test_the_parts_add_up_to_the_recipe() -> None:
    recipe = read_recipe(str(SHIPPED["fast"]))
    kinds = list(fast_steps.KINDS.values())
    assert kinds[0] == {}
    parts = ("padding", "fast_dropout", "first_token_only")
    for precision in ({}, {"bf16": True}):
        assert {name: recipe[name] for name in parts} | precision in kinds
    for before, after in itertools.pairwise(kinds):  # one part more, or the next precision
        assert len(set(after.items()) - set(before.items())) <= 2


def test_ratios_are_of_medians_and_their_ends_of_single_updates() -> None:
    first, *others = fast_steps.KINDS
    seconds = {name: [1.0, 1.0, 4.0] for name in others} | {first: [2.0, 4.0, 4.0]}
    told = fast_steps.summarized(seconds)[others[0]]
    assert told == {"median_ms": 1000, "mean_ms": 2000, "ratio": 0.25, "ratio_min": 0.25, "ratio_max": 1.0, "n": 3}


def test_the_walkthrough_has_the_last_result() -> None:
    result = json.loads((RESULTS / "fast_steps.json").read_text(encoding="utf-8"))
    assert result["kinds"] == fast_steps.summarized(result["seconds"])
    page = BOOK["walkthrough/padding.md"]
    assert fast_steps.written(page, fast_steps.table(result)) == page


def test_the_guide_says_the_medians_of_the_recipe() -> None:
    kinds = json.loads((RESULTS / "fast_steps.json").read_text(encoding="utf-8"))["kinds"]
    bf16, fp32 = (kinds[f"{name}, and `first_token_only`"]["ratio"] for name in ("bf16", "fp32"))
    told = " ".join(BOOK["guides/speed.md"].split())
    assert f"takes {bf16:.2f} of the guide's processor time with bf16 units, {fp32:.2f} in fp32" in told


@pytest.mark.slow
def test_the_script_times_every_kind(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"{tmp_path}/steps.json"
    assert fast_steps.main(["--updates", "1", "--output", output]) == 0
    assert capsys.readouterr().out.count("\n| ") == len(fast_steps.KINDS) + 1
