"""Labels that a model which was not trained on them doubts: rows that may be labelled wrong.

By confident learning (Northcutt et al., 2021): of each class, the mean probability of rows with this label, by models
that did not see them, is how sure these are when they are right. A row is doubted that is given another class than its
label with at least that class's own mean. What is doubted is read again first where the probability of its label is
least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.errors import summarize
from ftloop.report.predictions import Predictions

ROUNDING = 1e-6  # of probabilities, from logits in float32
MAX_ERRORS = 20  # of numbers: there is no threshold, only the largest


@dataclass(frozen=True)
class LabelDoubts:
    method: str
    """The rule by which rows were chosen, as a person reads it."""
    scores: np.ndarray
    """The probability that each row's label has; where a row has several, the least of each label that is there or not
    there; of numbers, how far the prediction is off. Not a number where the model gave none."""
    rows: np.ndarray
    """Positions of the doubted rows, the most doubtful first."""


def doubt_labels(predictions: Predictions) -> LabelDoubts:
    """Find the rows whose labels are to be doubted, by cleanlab where it is installed. `predictions` must be of models
    that were not trained on these rows.
    """
    finite = predictions.are_finite
    scores = np.full(len(finite), np.nan)
    known = predictions.keep(finite)
    if predictions.problem_type == ProblemType.REGRESSION:
        scores[finite] = np.abs(known.predicted - known.labels)
        rows = np.argsort(np.where(finite, -scores, np.inf), kind="stable")[: min(MAX_ERRORS, int(finite.sum()))]
        return LabelDoubts("the largest errors", scores, rows[scores[rows] > 0])
    probabilities = known.probabilities()
    if predictions.problem_type == ProblemType.MULTI_LABEL:
        scores[finite] = np.where(known.labels, probabilities, 1 - probabilities).min(axis=1, initial=1.0)
    else:
        scores[finite] = probabilities[np.arange(len(probabilities)), known.labels]
    method, doubted = _by_cleanlab(known, probabilities)
    if doubted is None:
        doubted = _by_threshold(known, probabilities)
    rows = np.flatnonzero(finite)[doubted]
    return LabelDoubts(method, scores, rows[np.argsort(scores[rows], kind="stable")])


def _by_cleanlab(predictions: Predictions, probabilities: np.ndarray) -> tuple[str, np.ndarray | None]:
    """Return what chooses the rows, and which; None where that is not cleanlab."""
    try:
        import cleanlab
        from cleanlab.filter import find_label_issues
        from cleanlab.multilabel_classification.filter import find_label_issues as find_multilabel_issues
    except ImportError:
        return "the threshold of confident learning, without cleanlab", None
    try:
        if predictions.problem_type == ProblemType.MULTI_LABEL:
            labels = [np.flatnonzero(row).tolist() for row in predictions.labels]
            found = find_multilabel_issues(labels, probabilities, n_jobs=1)
        else:
            found = find_label_issues(predictions.labels, probabilities, n_jobs=1)
    except Exception as error:
        why = f"{type(error).__name__}: {summarize(error)}"
        return f"the threshold of confident learning, as cleanlab {cleanlab.__version__} fails ({why})", None
    return f"cleanlab {cleanlab.__version__}", np.asarray(found, bool)


def _by_threshold(predictions: Predictions, probabilities: np.ndarray) -> np.ndarray:
    if predictions.problem_type != ProblemType.MULTI_LABEL:
        return confidently_other(predictions.labels, probabilities)
    doubted = np.zeros(len(probabilities), bool)
    for label, probability in zip(predictions.labels.T, probabilities.T, strict=True):
        doubted |= confidently_other(label.astype(int), np.column_stack([1 - probability, probability]))
    return doubted


def confidently_other(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return which rows are predicted, and confidently so, as another class than their label. `probabilities`: rows x
    classes."""
    rows, count = np.arange(len(labels)), probabilities.shape[1]
    own, support = probabilities[rows, labels], np.bincount(labels, minlength=count)
    means = np.bincount(labels, weights=own, minlength=count) / np.maximum(support, 1)
    thresholds = np.where(support > 0, means, np.inf)  # of a class without rows nobody knows how sure is sure
    confident = probabilities >= thresholds - ROUNDING
    guess = np.where(confident, probabilities, -1.0).argmax(axis=1)
    return np.asarray(confident.any(axis=1) & (guess != labels) & (probabilities.argmax(axis=1) != labels))
