"""Score the predictions of a labelled set: metrics with intervals, tables, curves, calibration.

Everything is plain values for JSON; what is not defined is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import entropy, pearsonr, rankdata
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import FALLING
from ftloop.data.constant_answers import best_of, constant_answers
from ftloop.data.labels import Labels
from ftloop.report.bootstrap import Scores, count_intervals, row_intervals
from ftloop.report.curves import areas, calibration_bins, calibration_error, curve_points
from ftloop.report.predictions import MAX_CLASSES_SHOWN, Predictions
from ftloop.system.text import nan_to_none

LOWER_IS_BETTER = {"log_loss", "brier", "calibration_error", "mse", "mae"}


def score_predictions(predictions: Predictions, with_probabilities: bool = True) -> dict[str, Any]:
    """Score a set. Without probabilities, as a model card needs it: no curves, nothing that takes seconds, and so fewer
    resamples where single rows have to be drawn.
    """
    finite = predictions.finite()
    scored: dict[str, Any] = {
        "rows": len(predictions.labels),
        "problem_type": predictions.problem_type,
        "not_finite": len(predictions.labels) - len(finite.labels),
        "metrics": {},
    }
    if not scored["rows"]:
        return scored
    if predictions.problem_type == ProblemType.REGRESSION:
        scored |= _score_numbers(finite, quick=not with_probabilities)
    elif predictions.problem_type == ProblemType.MULTI_LABEL:
        scored |= _score_multi_label(predictions, quick=not with_probabilities)
    else:
        scored |= _score_classes(predictions)
    if with_probabilities and predictions.problem_type != ProblemType.REGRESSION:
        scored["metrics"] |= _score_probabilities(finite) if len(finite.labels) else {}
        scored |= {"calibration": calibration_bins(finite), "curves": curve_points(finite)}
    plain: dict[str, Any] = nan_to_none(scored)
    return plain


def _with_best_constant(metrics: dict[str, Any], always: dict[str, Any]) -> dict[str, Any]:
    """Set beside each metric what the best constant answer has; name these answers and the metrics they are for."""
    plain = {name: {key: float(np.squeeze(value)) for key, value in each.items()} for name, each in always.items()}
    best, answers = best_of(plain, (*FALLING, "mae"))
    named = [{"answer": answer, "metrics": names} for answer, names in answers.items()]
    return {"metrics": _with_baseline(metrics, best), "baseline": named}


def _with_baseline(metrics: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    return {name: values | {"baseline": float(baseline[name])} for name, values in metrics.items()}


def safe_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by, as scikit-learn's scores have it."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _class_table(predictions: Predictions, chosen: np.ndarray, **options: Any) -> list[dict[str, Any]]:
    """`chosen`: how many predictions there are of each class. A score with nothing to divide by is not a number."""
    labels, predicted, names = predictions.labels, predictions.predicted, predictions.names
    columns = (*precision_recall_fscore_support(labels, predicted, zero_division=np.nan, **options), chosen)
    keys = ("name", "precision", "recall", "f1", "support", "predicted")
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in rows]


# --- one of several classes ------------------------------------------------------------------------------------------


def _score_classes(predictions: Predictions) -> dict[str, Any]:
    names, count = predictions.names, len(predictions.names)
    cells, counts = np.unique(predictions.labels * count + predictions.predicted, return_counts=True)
    support = np.bincount(predictions.labels, minlength=count)
    classes, there = predictions.classes, np.flatnonzero(support)
    kinds = support[None, there].astype(np.float64)
    always = {
        answer.name: count_scores(there, np.full(len(there), answer.value), classes)(kinds)
        for answer in constant_answers(classes, predictions.labels)
    }
    metrics = count_intervals(count_scores(*np.divmod(cells, count), classes), counts)
    return {
        **_with_best_constant(metrics, always),
        "classes": _class_table(predictions, np.bincount(predictions.predicted, minlength=count), labels=range(count)),
        "confusion": _confusion(predictions, cells, counts),
    } | ({"positive": names[classes.positive]} if classes.is_binary else {})


def count_scores(labels: np.ndarray, predicted: np.ndarray, classes: Labels) -> Callable[[np.ndarray], Scores]:
    """Score kinds of rows (`labels`, `predicted`) by how many there are of each: resamples x kinds.

    F1 is that of the positive class where there are two, else the mean over all, as ftloop.metrics has it: a class that
    no kind has counts 0. One that only a resample lacks does not, or else all resamples of small classes would score
    less than the rows themselves.
    """
    count, binary, there = classes.count, classes.is_binary, len(np.unique(labels))
    right, ones, kinds = labels == predicted, np.ones(len(labels)), np.arange(len(labels))
    of_label, of_prediction = (csr_array((ones, (kinds, ids)), (len(ids), count)) for ids in (labels, predicted))

    def scores(weights: np.ndarray) -> Scores:
        total, support, chosen = weights.sum(axis=1), weights @ of_label, weights @ of_prediction
        hits = (weights * right) @ of_label
        f1, recall, drawn = safe_ratio(2 * hits, support + chosen), safe_ratio(hits, support), (support > 0).sum(axis=1)
        covariance = hits.sum(axis=1) * total - (support * chosen).sum(axis=1)
        variances = [total**2 - (each**2).sum(axis=1) for each in (support, chosen)]
        of_positive = {"precision": safe_ratio(hits, chosen), "recall": recall} if binary else {}
        return {
            "accuracy": hits.sum(axis=1) / total,
            "f1": f1[:, classes.positive] if binary else f1.mean(axis=1) * (there / drawn),
            **{name: values[:, classes.positive] for name, values in of_positive.items()},
            "balanced_accuracy": recall.sum(axis=1) / drawn,
            "matthews_correlation": safe_ratio(covariance, np.sqrt(np.maximum(variances[0] * variances[1], 0.0))),
        }

    return scores


def probability_samples(predictions: Predictions) -> tuple[np.ndarray, ...]:
    """Return the log loss and the Brier score of each row, of several labels the means over them; of two classes also
    which rows are positive, and their scores.
    """
    losses, shares, count = predictions.row_losses(), predictions.probabilities(), len(predictions.names)
    if predictions.problem_type == ProblemType.MULTI_LABEL:
        return losses, ((shares - predictions.labels) ** 2).mean(axis=1)
    squares = ((shares - np.eye(count)[predictions.labels]) ** 2).sum(axis=1)
    curves = predictions.one_vs_rest().values() if count == 2 else ()
    # Of two classes, the usual Brier score is that of one of them.
    return (losses, squares / (2 if count == 2 else 1), *(each for pair in curves for each in pair))


def probability_scores(losses: np.ndarray, brier: np.ndarray, *positive_and_score: np.ndarray) -> Scores:
    """Return mean log loss and Brier score, and of two classes the areas under their curves, along the last axis."""
    means = {"log_loss": losses.mean(axis=-1), "brier": brier.mean(axis=-1)}
    return (areas(*positive_and_score) if positive_and_score else {}) | means


def _score_probabilities(predictions: Predictions) -> dict[str, Any]:
    """Log loss, Brier score and calibration error; of two classes also areas under curves. The baseline gives each
    class, or each of several labels, its share.
    """
    labels = predictions.labels
    if predictions.problem_type == ProblemType.MULTI_LABEL:
        shares = labels.mean(axis=0)
        baseline = {"log_loss": entropy([shares, 1 - shares]).mean(), "brier": (shares * (1 - shares)).mean()}
    else:
        shares = np.bincount(labels, minlength=len(predictions.names)) / len(labels)
        halves = 2 if len(shares) == 2 else 1
        baseline = {
            "roc_auc": 0.5,
            "average_precision": shares[predictions.classes.positive if halves == 2 else -1],
            "log_loss": entropy(shares),
            "brier": (1 - (shares**2).sum()) / halves,
        }
    metrics = row_intervals(probability_scores, probability_samples(predictions))

    # No resamples of the calibration error: they add noise to each bin's gap, a mean of absolute gaps only grows by
    # that, and so the percentiles lie above what they should hold, often above the value itself.
    error = calibration_error(calibration_bins(predictions))
    return _with_baseline(metrics, baseline) | {
        "calibration_error": {"value": error, "low": None, "high": None, "resamples": 0, "baseline": None}
    }


def _confusion(predictions: Predictions, cells: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Return the confusion matrix; of many classes, the pairs most often confused."""
    names, count = predictions.names, len(predictions.names)
    if count <= MAX_CLASSES_SHOWN:
        return {"counts": confusion_matrix(predictions.labels, predictions.predicted, labels=range(count)).tolist()}
    labels, predicted = np.divmod(cells, count)
    support = np.bincount(labels, weights=counts, minlength=count)
    wrong = np.flatnonzero(labels != predicted)
    worst = wrong[np.argsort(-counts[wrong], kind="stable")][:MAX_CLASSES_SHOWN]
    return {
        "pairs": [
            {
                "label": names[labels[i]],
                "prediction": names[predicted[i]],
                "rows": int(counts[i]),
                "share": float(counts[i] / support[labels[i]]),
            }
            for i in worst
        ]
    }


# --- any number of labels --------------------------------------------------------------------------------------------


def _score_multi_label(predictions: Predictions, quick: bool) -> dict[str, Any]:
    labels, predicted = predictions.labels, predictions.predicted
    always = {
        answer.name: multi_label_scores(labels)(*multi_label_samples(labels, answer.value))
        for answer in constant_answers(predictions.classes, labels)
    }
    metrics = row_intervals(multi_label_scores(labels), multi_label_samples(labels, predicted), quick)
    return {
        **_with_best_constant(metrics, always),
        "classes": _class_table(predictions, predicted.sum(axis=0)),
    }


def multi_label_samples(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return which rows are right in all labels, and, labels x rows, the labels and the predictions."""
    return (labels == predicted).all(axis=1), labels.T, np.broadcast_to(predicted, labels.shape).T


def multi_label_scores(labels: np.ndarray) -> Callable[..., Scores]:
    """Score the samples of rows whose `labels`, rows x labels, are these, or resamples of them, along the last axis.

    Accuracy is the share of rows all of whose labels are right; F1 is that of all labels together (micro), and the mean
    of each label's, as ftloop.metrics has them: a label that no row has counts 0. One that only a resample lacks does
    not, as in `count_scores`.
    """
    there = labels.any(axis=0).sum()

    def scores(exact: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> Scores:
        support = true.sum(axis=-1)
        hits, both = 2.0 * (true & predicted).sum(axis=-1), support + predicted.sum(axis=-1)
        f1, by_label = safe_ratio(hits.sum(axis=0), both.sum(axis=0)), safe_ratio(hits, both)
        f1_macro = by_label.mean(axis=0) * (there / np.maximum((support > 0).sum(axis=0), 1))
        return {"accuracy": exact.mean(axis=-1), "f1": f1, "f1_macro": f1_macro}

    return scores


# --- numbers ---------------------------------------------------------------------------------------------------------


def _score_numbers(predictions: Predictions, quick: bool) -> dict[str, Any]:
    labels, predicted = predictions.labels, predictions.predicted
    if not len(labels):
        return {"metrics": {}, "baseline": []}
    errors = predicted - labels
    always = {}
    for answer in constant_answers(predictions.classes, labels):
        squared, distance = ((labels - answer.value) ** 2).mean(), np.abs(labels - answer.value).mean()
        r2 = 1 - squared / labels.var() if labels.var() else 0.0
        always[answer.name] = {"mse": squared, "mae": distance, "r2": r2, "pearson": math.nan, "spearmanr": math.nan}
    some = np.unique(np.linspace(0, len(labels) - 1, 2000).astype(int))
    return {
        **_with_best_constant(row_intervals(number_scores, (labels, predicted), quick), always),
        "points": np.column_stack([labels[some], predicted[some]]).tolist(),
        "residuals": {
            "mean": float(errors.mean()),
            "std": float(errors.std()),
            "quantiles": {f"{q:g}": float(np.quantile(errors, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        },
    }


def number_scores(labels: np.ndarray, predicted: np.ndarray) -> Scores:
    """Return errors, R2 and correlations along the last axis. Those with a constant are not defined."""
    squared = ((predicted - labels) ** 2).mean(axis=-1)
    return {
        "mse": squared,
        "mae": np.abs(predicted - labels).mean(axis=-1),
        "r2": 1 - squared / labels.var(axis=-1),
        "pearson": _correlation(labels, predicted),
        "spearmanr": _correlation(rankdata(labels, axis=-1), rankdata(predicted, axis=-1)),
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(pearsonr(x, y, axis=-1).statistic if x.shape[-1] > 1 else np.full(x.shape[:-1], np.nan))
