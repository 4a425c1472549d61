"""A decision fitted after training: how logits become probabilities and labels, beside the model in `decision.json`.

Without it probabilities are those of the logits as they are, and a label is the most likely class or, where a row may
have several, each with a probability above one half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.data.decode import predicted_labels, probabilities
from ftloop.errors import UserError, summarize
from ftloop.system.atomic import write_text
from ftloop.system.manifest import DECISION


@dataclass(frozen=True)
class Decision:
    """A temperature that the logits are divided by, and thresholds of the probabilities that follow."""

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    """The probability above which a label is given, where a row may have several, or a class of two is chosen (they add
    up to 1 then), for each. None: one half, or the most likely class."""

    def probabilities(self, problem_type: ProblemType, logits: np.ndarray) -> np.ndarray:
        """Return rows x classes."""
        is_number = problem_type == ProblemType.REGRESSION or self.temperature == 1.0
        return probabilities(problem_type, logits if is_number else logits / self.temperature)

    def labels(self, problem_type: ProblemType, logits: np.ndarray) -> np.ndarray:
        """Return class ids, rows x labels, or numbers."""
        if self.thresholds is None:
            return predicted_labels(problem_type, logits)
        shares, thresholds = self.probabilities(problem_type, logits), np.asarray(self.thresholds)
        if problem_type == ProblemType.MULTI_LABEL:
            return np.asarray(shares > thresholds)
        return np.asarray((shares - thresholds).argmax(axis=-1))

    def describe(self, names: Sequence[str], positive: int = 1) -> str:
        """Write it as a person reads it, with the thresholds that are not one half."""
        parts = [f"temperature {self.temperature:.4g}"]
        if self.thresholds is not None:
            shown = [positive] if len(names) == 2 and abs(sum(self.thresholds) - 1) < 1e-9 else range(len(names))
            moved = [f"{names[i]} {self.thresholds[i]:.3g}" for i in shown if self.thresholds[i] != 0.5]
            more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
            parts.append(f"threshold of {', '.join(moved[:5])}{more}" if moved else "thresholds at one half")
        return ", ".join(parts)


PLAIN = Decision()


def read_decision(folder: Path, names: Sequence[str]) -> Decision:
    """Read the decision of a model's folder; the plain one where there is none.

    Raises: UserError where the file is damaged, or of a model with other classes.
    """
    path = folder / DECISION
    if not path.is_file():
        return PLAIN
    way = f"make it again with ftloop calibrate, or delete {path}"
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        thresholds = values["thresholds"]
        decision = Decision(float(values["temperature"]), None if thresholds is None else tuple(map(float, thresholds)))
        labels = list(values["labels"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not readable ({type(error).__name__}: {summarize(error)}); {way}") from None
    if labels != list(names):
        raise UserError(f"{path} belongs to a model with other classes; {way}")
    fits = thresholds is None or len(thresholds) == len(names)
    if not (0 < decision.temperature < np.inf) or not fits or not all(0 <= each <= 1 for each in thresholds or ()):
        raise UserError(f"{path}: this is not a valid temperature or threshold; {way}")
    return decision


def write_decision(folder: Path, decision: Decision, names: Sequence[str]) -> None:
    """Leave the decision beside a model that was saved; of the plain one no file, also not one of an earlier model."""
    if decision == PLAIN:
        (folder / DECISION).unlink(missing_ok=True)
        return
    values = {"labels": list(names), "temperature": decision.temperature, "thresholds": decision.thresholds}
    write_text(folder / DECISION, json.dumps(values, indent=2) + "\n")
