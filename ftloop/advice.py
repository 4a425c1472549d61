"""What the run's own evidence advises."""

from __future__ import annotations

from dataclasses import dataclass

from ftloop.outcome import Outcome


@dataclass(frozen=True)
class Advice:
    topic: str
    text: str


def advise(outcome: Outcome) -> list[Advice]:
    return []
