"""Calibration, precision-recall and ROC curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from ftloop.config.problem_type import ProblemType
from ftloop.report.bootstrap import Scores, wilson
from ftloop.report.predictions import Predictions

BINS = 10
CURVE_POINTS = 200


def areas(positive: np.ndarray, score: np.ndarray) -> Scores:
    """Return the area under the ROC curve and the average precision, along the last axis.

    scikit-learn's functions do one resample in a millisecond or two, and so would take 6 seconds for 2,000 of them.
    """
    positives = positive.sum(axis=-1)
    negatives = positive.shape[-1] - positives
    ranks = np.where(positive, rankdata(score, axis=-1), 0.0).sum(axis=-1)
    retrieved = rankdata(-score, method="max", axis=-1)  # rows with at least the score of this one ...
    hits = rankdata(np.where(positive, -score, np.inf), method="max", axis=-1)  # ... and how many are positive
    return {
        "roc_auc": (ranks - positives * (positives + 1) / 2) / (positives * negatives),
        "average_precision": np.where(positive, hits / retrieved, 0.0).sum(axis=-1) / positives,
    }


def calibration_bins(predictions: Predictions) -> list[dict[str, Any]]:
    """Return the mean confidence and the share of right predictions in bins of equally many rows. Confidence is the
    probability of what is predicted, below one half where a threshold has been moved. Rows of equal confidence stay in
    one bin, so that their order changes nothing. Of several labels a row, each label is a prediction of its own.

    Not scikit-learn's `calibration_curve`: it does not return the rows of a bin, which its interval and the calibration
    error need.
    """
    probabilities, predicted = predictions.probabilities(), predictions.predicted
    right = (predicted == predictions.labels).reshape(-1)
    if predictions.problem_type == ProblemType.MULTI_LABEL:
        confidence = np.where(predicted, probabilities, 1 - probabilities).reshape(-1)
    else:
        confidence = probabilities[np.arange(len(predicted)), predicted]
    order, bins = np.argsort(confidence, kind="stable"), []
    edges = np.unique([confidence[part[0]] for part in np.array_split(order, BINS) if len(part)])
    for part in np.split(order, np.searchsorted(confidence[order], edges[1:])):
        if len(part):
            low, high = wilson(int(right[part].sum()), len(part))
            means = {"confidence": float(confidence[part].mean()), "right": float(right[part].mean())}
            bins.append(means | {"low": low, "high": high, "rows": len(part)})
    return bins


def calibration_error(bins: list[dict[str, Any]]) -> float:
    """Return the mean distance of confidence and accuracy over the bins' rows (the expected calibration error)."""
    gaps = [abs(each["confidence"] - each["right"]) for each in bins]
    return float(np.average(gaps, weights=[each["rows"] for each in bins]))


def curve_points(predictions: Predictions) -> dict[str, Any] | None:
    """Return the ROC and the precision-recall curve of each class against the rest, and the mean areas."""
    curves = {
        name: _curve(positive, score)
        for name, (positive, score) in predictions.one_vs_rest().items()
        if 0 < positive.sum() < len(positive)
    }
    if not curves:
        return None
    means = {f"mean_{name}": float(np.mean([each[name] for each in curves.values()])) for name in ("roc_auc", "ap")}
    return {"classes": curves, **means}


def _curve(positive: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    false_rate, true_rate, _ = roc_curve(positive, score)
    precision, recall, _ = precision_recall_curve(positive, score)
    return {
        "roc_auc": float(roc_auc_score(positive, score)),
        "ap": float(average_precision_score(positive, score)),
        "roc": _thinned(false_rate, true_rate),
        "pr": _thinned(recall, precision),
        "share": float(positive.mean()),
    }


def _thinned(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    chosen = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return np.round(np.column_stack([x[chosen], y[chosen]]), 6).tolist()
