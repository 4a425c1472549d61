"""The case that causes are asked about: a difference between two recordings, seen from one side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ftloop.compare.differences import BATCH_STAGES, STAGES, Comparison, Difference, Line, Recording

TEXTS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text(encoding="utf-8"))

T = TypeVar("T")


@dataclass(frozen=True)
class Cause:
    """A likely cause: `name` is for programs and tests, `text` says what was found and what it means."""

    name: str
    text: str


@dataclass(frozen=True)
class Case:
    """A difference, with one run as the suspect. Every cause is tried both ways."""

    comparison: Comparison
    suspect: Recording
    reference: Recording
    first: Difference
    """The first in the comparison, or the first of its stage."""

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
STANDING: dict[str, list[Check]] = {}
"""Those whose evidence holds whatever has differed before."""
IMPLIED = {
    "sampler": {"seed", "not-shuffled", "data", "arguments"},
    "data": {"inputs"},
    "precision": {"arguments"},
    "cadence": {"nothing-at-the-end", "rows-per-update", "step-modulo"}
    | {"window-carried", "window-dropped", "drop-last"},
}
"""What is not told once one of these has been."""


def cause_of(*stages: str) -> Callable[[Check], Check]:
    """Register a check for differences at these stages. It yields the causes that the evidence supports."""
    return _register(CHECKS, stages)


def whatever_the_rows(*stages: str) -> Callable[[Check], Check]:
    """Register a check that needs no equal updates before the difference: its evidence is in each recording alone."""
    return _register(STANDING, stages)


def _register(checks: dict[str, list[Check]], stages: tuple[str, ...]) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        for stage in stages:
            checks.setdefault(stage, []).append(check)
        return check

    return register


def explain(comparison: Comparison, difference: Difference | None = None) -> list[Cause]:
    """Return the causes that the evidence supports, the most certain first; an empty list means unknown.

    `difference`: None for the first. Any other has to be one that follows from none before it.
    """
    if comparison.same:
        return []
    difference = difference or comparison.first
    asked = (_ask(check, comparison, difference) for check in CHECKS.get(difference.stage, []))
    return next((causes for causes in asked if causes), [])


def also_different(comparison: Comparison) -> list[Cause]:
    """Return the causes, beside those of the first difference, of what does not follow from it: a schedule, an
    optimizer, clipping and the like can be told apart whatever rows the runs have seen.
    """
    told = {cause.name for cause in explain(comparison)}
    found: dict[str, Cause] = {}
    firsts: dict[tuple[str, str], Difference] = {}
    for difference in comparison.differences:
        if difference.update > 0:
            firsts.setdefault((difference.stage, difference.what.partition(",")[0]), difference)
    for stage in STAGES:
        for difference in (each for (of, _), each in firsts.items() if of == stage):
            causes = explain(comparison, difference) if _follows_from_nothing(comparison, difference) else []
            for check in STANDING.get(stage, []):
                causes += _ask(check, comparison, difference)
            for cause in causes:
                found.setdefault(cause.name, cause)
    known = told | found.keys()
    return [each for each in found.values() if each.name not in told and not IMPLIED.get(each.name, set()) & known]


def _ask(check: Check, comparison: Comparison, difference: Difference) -> list[Cause]:
    a, b = comparison.a, comparison.b
    causes: dict[str, Cause] = {}
    for case in (Case(comparison, a, b, difference), Case(comparison, b, a, difference)):
        for cause in check(case):
            causes.setdefault(cause.name, cause)  # one that fits both ways is reported from A's side
    return list(causes.values())


def _follows_from_nothing(comparison: Comparison, difference: Difference) -> bool:
    """Whether no earlier difference can have made this one: rows and schedules depend on nothing that is computed,
    what is drawn before a forward pass on the batches before it.
    """
    if difference.stage in ("rows", "learning rate"):
        return True
    place = (difference.update, difference.micro_batch or 0)
    batches = [each for each in comparison.differences if each.update > 0 and each.stage in BATCH_STAGES]
    before = [each for each in batches if each != difference and (each.update, each.micro_batch or 0) < place]
    return difference.stage in BATCH_STAGES and not before


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
