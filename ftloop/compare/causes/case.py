"""The case that causes are asked about: the first difference between two recordings, seen from one side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ftloop.compare.differences import Comparison, Difference, Line, Recording

TEXTS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text(encoding="utf-8"))

T = TypeVar("T")


@dataclass(frozen=True)
class Cause:
    """A likely cause: `name` is for programs and tests, `text` says what was found and what it means."""

    name: str
    text: str


@dataclass(frozen=True)
class Case:
    """The first difference, with one run as the suspect. Every cause is tried both ways."""

    comparison: Comparison
    suspect: Recording
    reference: Recording

    @property
    def first(self) -> Difference:
        return self.comparison.first

    @property
    def update(self) -> int:
        return self.first.update

    @property
    def processes(self) -> int:
        return self.suspect.processes

    @property
    def is_first_update(self) -> bool:
        return self.update == min(self.comparison.updates, default=0)

    @property
    def ratio(self) -> float | None:
        """The suspect's value divided by the reference's, where both are finite numbers."""
        ratio = self.first.ratio
        return ratio if self.suspect is self.comparison.a else 1 / ratio if ratio else None

    @property
    def values(self) -> tuple[Any, Any]:
        pair = (self.first.a, self.first.b)
        return pair if self.suspect is self.comparison.a else pair[::-1]

    def both(self, value: Callable[[Recording], T]) -> tuple[T, T]:
        """Return the value of the suspect and that of the reference."""
        return value(self.suspect), value(self.reference)

    def was_resumed(self, side: Recording) -> bool:
        """Whether this run was resumed right before the update that differs."""
        return self.update - 1 in side.resumed_at

    def line(self, side: Recording, update: int | None = None, process: int | None = None) -> Line:
        """Return the line of an update and a process, by default of those that differ first."""
        lines = side.updates[self.update if update is None else update]
        return lines[self.first.process if process is None else process]

    def micro_batches(self, side: Recording) -> list[Line]:
        lines: list[Line] = self.line(side)["micro_batches"]
        return lines

    def micro_batch(self, side: Recording) -> Line:
        return self.micro_batches(side)[self.first.micro_batch or 0]

    def rows_of(self, side: Recording, update: int | None = None, process: int | None = None) -> list[list[str]]:
        """Return the rows of each micro-batch."""
        return [micro["rows"] for micro in self.line(side, update, process)["micro_batches"]]

    def cause(self, name: str, **values: Any) -> Cause:
        text = TEXTS[name].format(suspect=self.suspect, reference=self.reference, **values)
        if "transformers.Trainer" in self.both(lambda side: side.header["by"]):
            text = f"{text} {TEXTS.get(f'{name} by Trainer', '')}".rstrip()
        return Cause(name, text)


Check = Callable[[Case], Iterator[Cause]]
CHECKS: dict[str, list[Check]] = {}
"""Checks of each stage, the most specific first."""


def cause_of(*stages: str) -> Callable[[Check], Check]:
    """Register a check for differences at these stages. It yields the causes that the evidence supports."""

    def register(check: Check) -> Check:
        for stage in stages:
            CHECKS.setdefault(stage, []).append(check)
        return check

    return register


def explain(comparison: Comparison) -> list[Cause]:
    """Return the causes that the evidence supports, the most certain first; an empty list means unknown."""
    if comparison.same:
        return []
    a, b = comparison.a, comparison.b
    for check in CHECKS.get(comparison.first.stage, []):
        causes: dict[str, Cause] = {}
        for case in (Case(comparison, a, b), Case(comparison, b, a)):
            for cause in check(case):
                causes.setdefault(cause.name, cause)  # one that fits both ways is reported from A's side
        if causes:
            return list(causes.values())
    return []


def is_close(ratio: float, wanted: float, tolerance: float = 1e-6) -> bool:
    """Compare relatively, by default as exactly as a factor between two float32 losses can be met."""
    return math.isclose(ratio, wanted, rel_tol=tolerance)


def usual_window(side: Recording) -> int:
    """Return the number of micro-batches per update, but for an epoch's last."""
    return max(len(lines[0]["micro_batches"]) for lines in side.updates.values())


def differing_arguments(*names: str) -> Check:
    """Make a check that tells which of these settings both sides have recorded with different values."""

    def check(case: Case) -> Iterator[Cause]:
        mine, theirs = case.both(lambda side: side.header.get("arguments", {}))
        shared = [name for name in names if name in mine and name in theirs and mine[name] != theirs[name]]
        if shared:
            yield case.cause("arguments", arguments="; ".join(f"{n} {mine[n]} and {theirs[n]}" for n in shared))

    return check
