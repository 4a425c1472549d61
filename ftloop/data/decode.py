"""Decode logits into labels, names and probabilities: for evaluation, for the files of a run, and for prediction.

With NumPy alone: reports are made without torch, and scipy.special takes half a second to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftloop.config.problem_type import ProblemType


def probabilities(problem_type: ProblemType, logits: np.ndarray) -> np.ndarray:
    """Return rows x classes, in the type of the logits: of a row with several labels, that of each. For regression
    the numbers themselves.
    """
    if problem_type == ProblemType.REGRESSION:
        return logits
    if problem_type == ProblemType.MULTI_LABEL:
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)))  # the logistic function; exp(-logits) would overflow
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def predicted_labels(problem_type: ProblemType, logits: np.ndarray) -> np.ndarray:
    """Return the id of each row's most likely class; for several labels rows x classes, true above one half; or the
    numbers.
    """
    if problem_type == ProblemType.REGRESSION:
        return logits.reshape(-1)
    return np.asarray(logits > 0 if problem_type == ProblemType.MULTI_LABEL else logits.argmax(axis=-1))


def label_names(problem_type: ProblemType, names: Sequence[str], labels: np.ndarray) -> list[Any]:
    """Return the name of each row's label, or a list of names; for regression the numbers."""
    if problem_type == ProblemType.REGRESSION:
        return labels.tolist()
    if problem_type == ProblemType.MULTI_LABEL:
        return [[names[index] for index in np.flatnonzero(row).tolist()] for row in labels]
    return [names[index] for index in labels.tolist()]


def label_scores(problem_type: ProblemType, labels: np.ndarray, shares: np.ndarray) -> list[Any] | None:
    """Return the probability of each row's predicted label, or a list of them; None for regression."""
    if problem_type == ProblemType.REGRESSION:
        return None
    if problem_type == ProblemType.MULTI_LABEL:
        return [row[hot].tolist() for row, hot in zip(shares, labels, strict=True)]
    return shares[np.arange(len(labels)), labels].tolist()
