"""Two models on the same rows: the difference of each score with its 95 % interval, and a test of the rows they split.

Both are scored on the same resamples of the rows, so that rows that are hard for both cancel out of the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import binomtest, wilcoxon

from ftloop.config.problem_type import ProblemType
from ftloop.report.bootstrap import Scores, count_intervals, row_intervals
from ftloop.report.predictions import Predictions
from ftloop.report.scoring import (
    LOWER_IS_BETTER,
    count_scores,
    multi_label_samples,
    multi_label_scores,
    number_scores,
    probability_samples,
    probability_scores,
)

A, B, DIFFERENCE = "A ", "B ", "B - A "  # stand before a score's name


def pair_scores(a: Predictions, b: Predictions) -> dict[str, Any]:
    """Score two models on the same rows, which have the same classes in the same order.

    Returns: `metrics`, each with the values of both, the difference B - A, its interval, and which of the two is better
    where that leaves out 0; and `rows_apart`, how many rows one of them alone has right, or nearer.
    """
    kind, finite = a.problem_type, a.are_finite & b.are_finite
    both = (a.keep(finite), b.keep(finite))
    metrics: dict[str, Any] = {}
    if kind == ProblemType.REGRESSION:
        if finite.any():
            metrics = _from_rows(number_scores, *((each.labels, each.predicted) for each in both))
    elif kind == ProblemType.MULTI_LABEL:
        samples = [multi_label_samples(each.labels, each.predicted) for each in (a, b)]
        metrics = _from_rows(multi_label_scores(a.labels), *samples) if len(a.labels) else {}
    else:
        metrics = _from_counts(a, b) if len(a.labels) else {}
    if kind != ProblemType.REGRESSION and finite.any():
        metrics |= _from_rows(probability_scores, *(probability_samples(each) for each in both))
    return {
        "rows": len(a.labels),
        "not_finite": int((~finite).sum()),
        "metrics": metrics,
        "rows_apart": _nearer(*both) if kind == ProblemType.REGRESSION else mcnemar(_right(a), _right(b)),
        "same_predictions": bool(np.array_equal(a.predicted, b.predicted)),
    }


def rows_won(a: Predictions, b: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows A alone has right, and which B alone; of numbers, those that it predicts better."""
    if a.problem_type == ProblemType.REGRESSION:
        errors_a, errors_b = (np.abs(each.predicted - each.labels) for each in (a, b))
        return errors_a < errors_b, errors_b < errors_a
    right_a, right_b = (_right(each) for each in (a, b))
    return right_a & ~right_b, right_b & ~right_a


def _right(predictions: Predictions) -> np.ndarray:
    right = predictions.labels == predictions.predicted
    return np.asarray(right.all(axis=1) if right.ndim == 2 else right)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    """Count the rows that each has right, and test by McNemar's exact test whether those that one alone has right might
    as well be the other's.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    both = int((right_a & right_b).sum())
    return {
        "test": "mcnemar",
        "only_a": only_a,
        "only_b": only_b,
        "both": both,
        "neither": len(right_a) - only_a - only_b - both,
        "p": p,
    }


def _nearer(a: Predictions, b: Predictions) -> dict[str, Any]:
    """Count the rows whose number each predicts better, and test by Wilcoxon's signed ranks of the absolute errors."""
    gaps = np.abs(a.predicted - a.labels) - np.abs(b.predicted - b.labels)
    return {
        "test": "wilcoxon",
        "only_a": int((gaps < 0).sum()),
        "only_b": int((gaps > 0).sum()),
        "equal": int((gaps == 0).sum()),
        "p": float(wilcoxon(gaps).pvalue) if gaps.any() else 1.0,
    }


def _from_counts(a: Predictions, b: Predictions) -> dict[str, Any]:
    """Score the kinds of rows that there are: a label, what A predicts, what B predicts."""
    shape = (len(a.names),) * 3
    kinds, counts = np.unique(np.ravel_multi_index((a.labels, a.predicted, b.predicted), shape), return_counts=True)
    labels, of_a, of_b = np.unravel_index(kinds, shape)
    scores_a, scores_b = (count_scores(labels, predicted, a.classes) for predicted in (of_a, of_b))
    return _by_metric(count_intervals(lambda weights: _named(scores_a(weights), scores_b(weights)), counts))


def _from_rows(
    scores: Callable[..., Scores], of_a: tuple[np.ndarray, ...], of_b: tuple[np.ndarray, ...]
) -> dict[str, Any]:
    def of_both(*samples: np.ndarray) -> Scores:
        return _named(scores(*samples[: len(of_a)]), scores(*samples[len(of_a) :]))

    return _by_metric(row_intervals(of_both, (*of_a, *of_b)))


def _named(a: Scores, b: Scores) -> Scores:
    return {
        f"{what}{name}": values
        for name in a
        for what, values in ((A, a[name]), (B, b[name]), (DIFFERENCE, b[name] - a[name]))
    }


def _by_metric(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    metrics = {}
    for key, difference in found.items():
        name = key.removeprefix(DIFFERENCE)
        if name != key:
            values = {"a": found[A + name]["value"], "b": found[B + name]["value"], "difference": difference["value"]}
            interval = {each: difference[each] for each in ("low", "high", "resamples")}
            metrics[name] = values | interval | {"better": _better(name, difference["low"], difference["high"])}
    return metrics


def _better(metric: str, low: float | None, high: float | None) -> str | None:
    if low is None or high is None or low <= 0 <= high:
        return None
    return "B" if (low > 0) != (metric in LOWER_IS_BETTER) else "A"
