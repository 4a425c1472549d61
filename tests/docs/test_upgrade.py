"""The page on upgrades prints what the comparison says today, of the versions that the Makefile compares."""

from __future__ import annotations

import re

import yaml
from harness.command import CHECKOUT
from harness.pages import BOOK

PAGE = BOOK["upgrade.md"]
PRINTED = [block for block in PAGE.split("```")[1::2] if block.startswith("\n")]
TEXTS = yaml.safe_load((CHECKOUT / "ftloop/compare/causes/texts.yaml").read_text(encoding="utf-8"))


def as_pattern(text: str) -> str:
    """A cause's text, with anything where the evidence stands."""
    return r"\S+".join(map(re.escape, re.split(r"\{[^}]+\}", text.strip())))


def test_every_cause_printed_is_worded_as_it_is_told_now() -> None:
    named = []
    for block in PRINTED:
        name, told = re.search(r"Likely cause:\n  ([\w-]+): (.*?)(?:\n\n|\Z)", block, re.DOTALL).groups()  # type: ignore[union-attr]
        pattern = as_pattern(TEXTS[name]) + " " + as_pattern(TEXTS[f"{name} by Trainer"])
        assert re.fullmatch(pattern, " ".join(told.split())), (name, told)
        named.append(name)
    assert named == ["log-rounded", "accumulation", "log-rounded"]


def test_the_versions_are_those_that_make_compares() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    (old,) = re.findall(r"^OLD \?= (.+)$", makefile, re.MULTILINE)
    (new,) = re.findall(r"^NEW \?= (.+)$", makefile, re.MULTILINE)
    assert f"make compare-versions OLD={old} NEW={new}" in PAGE
    assert f"## From {old} to {new}" in PAGE
    assert set(re.findall(r"transformers ([\d.]+\d)", "".join(PRINTED))) == {old, new}


def test_every_name_in_its_table_is_a_causes() -> None:
    table = re.findall(r"\| ([\w-]+) \|$", PAGE.split("## From 4.40.2")[1], re.MULTILINE)
    assert len(table) == 6
    assert set(table) - {"called"} <= {"fused", *TEXTS}
