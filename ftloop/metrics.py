"""Compute named scores from logits and labels, by scikit-learn and SciPy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.config.train_config import FALLING, TrainConfig
from ftloop.data.class_weights import weight_problems
from ftloop.data.decode import predicted_labels
from ftloop.data.labels import Labels
from ftloop.errors import UserError
from ftloop.system.imports import import_without_drawing

LONGEST_NAME = 24  # of a class, in the title of its score

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EvalPrediction

    from ftloop.run.run import ComputeMetrics


def metric_names(labels: Labels, names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Return the task's own `names`, or the usual ones."""
    if labels.multi_label:
        return names or ("accuracy", "f1", "f1_macro")
    return names or (("mse", "pearson", "spearmanr") if labels.regression else ("accuracy", "f1"))


def fit_metric(config: TrainConfig, labels: Labels, names: tuple[str, ...] | None) -> TrainConfig:
    """Return the configuration with the data's first metric in place of a shipped recipe's that these data do not have.
    What the user chose stays.
    """
    if "metric_for_best_model" not in config.from_recipe or has_metric(config.metric_for_best_model, labels, names):
        return config
    first = metric_names(labels, names)[0]
    return replace(config, metric_for_best_model=first, greater_is_better=not first.endswith(FALLING))


def has_metric(wanted: str | None, labels: Labels, names: tuple[str, ...] | None) -> bool:
    return wanted is None or wanted.removeprefix("eval_") in ("loss", *metric_names(labels, names))


def check_metric(config: TrainConfig, labels: Labels, names: tuple[str, ...] | None) -> None:
    """Raises: UserError for a metric_for_best_model that no evaluation gives, and for settings that are for classes."""
    problems = []
    wanted, available = config.metric_for_best_model, ("loss", *metric_names(labels, names))
    if not has_metric(wanted, labels, names):
        problems.append(f"metric_for_best_model: {wanted!r} is none of this data's: {', '.join(available)}")
    if config.label_smoothing_factor and labels.regression:
        problems.append("label_smoothing_factor: only for classes, and these labels are numbers")
    if config.label_smoothing_factor and labels.multi_label:
        problems.append("label_smoothing_factor: only where a row has one label, and these are lists of labels")
    problems += weight_problems(config, labels.names)
    if problems:
        raise UserError(*problems)


def metrics_for(labels: Labels, names: tuple[str, ...] | None = None) -> ComputeMetrics:
    """Make the `compute_metrics` of a task: accuracy and F1 for classes, MSE and correlations for numbers.

    F1 is that of the positive class where there are two, the macro average beyond; the function's `titles` say so. Of
    several labels a row, those count as predicted whose probability is above 0.5; accuracy is the share of rows all of
    whose labels are right, F1 the micro average, and the macro average is given too. `names` picks others (GLUE's own).
    Predictions are logits, or what `argmax_predictions` has made of them.

    Call it before `prepare()`: it imports scikit-learn, which draws from Python's random generator, and `prepare()`
    seeds that.
    """
    scores = {name: _SCORES[name]() for name in metric_names(labels, names)}

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        logits = evaluated.predictions[0] if isinstance(evaluated.predictions, tuple) else evaluated.predictions
        is_decided = np.ndim(logits) == 1
        predicted = logits if is_decided else predicted_labels(labels.problem_type, np.asarray(logits))
        return {name: each(evaluated.label_ids, predicted, labels) for name, each in scores.items()}

    compute_metrics.titles = metric_titles(labels)  # type: ignore[attr-defined]
    return compute_metrics


def metric_titles(labels: Labels) -> dict[str, str]:
    """Return what a person reads in place of a metric's key where the key alone leaves open whose score it is."""
    if labels.multi_label:
        return {"f1": "f1(micro)", "f1_macro": "f1(macro)"}
    if labels.regression:
        return {}
    return {"f1": f"f1({_shortened(labels.names[labels.positive])})" if labels.is_binary else "f1(macro)"}


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def argmax_predictions(logits: Tensor, label_ids: Tensor) -> Tensor:
    """Reduce a batch's logits to what the scores here need, for `preprocess_logits_for_metrics`: one number a row, the
    class or, of a regression, the number itself. Where a row has several labels, 1 for each that is predicted, else 0.
    """
    if label_ids.ndim == 2:
        return (logits > 0).char()
    return logits.reshape(-1) if logits.shape[-1] == 1 else logits.argmax(dim=-1)


def score(name: str, true: np.ndarray, predicted: np.ndarray, labels: Labels) -> float | None:
    """Compute one of the scores by its name; None for an unknown name. `predicted` are classes, or numbers."""
    return _SCORES[name]()(true, predicted, labels) if name in _SCORES else None


Score = Callable[[np.ndarray, np.ndarray, Labels], float]

# Each entry makes a score, and only then imports what that needs: a run that evaluates nothing does without the second
# or two that scikit-learn takes.
_SCORES: dict[str, Callable[[], Score]] = {
    "accuracy": lambda: _sklearn_score("accuracy_score"),
    "f1": lambda: _f1(),
    # For several labels a row; each counts alike, also one that this set happens not to hold.
    "f1_macro": lambda: _sklearn_score("f1_score", average="macro", zero_division=0.0),
    "matthews_correlation": lambda: _sklearn_score("matthews_corrcoef"),
    "mse": lambda: lambda true, predicted, _: float(np.mean((np.asarray(predicted, np.float64) - true) ** 2)),
    "pearson": lambda: _correlation("pearsonr"),
    "spearmanr": lambda: _correlation("spearmanr"),
}


def _sklearn_score(name: str, **settings: Any) -> Score:
    function = getattr(import_without_drawing("sklearn.metrics"), name)

    def score(true: np.ndarray, predicted: np.ndarray, labels: Labels) -> float:
        with warnings.catch_warnings():
            # One class on both sides: matthews_corrcoef is 0 then, and the line `Baseline` shows that there is one.
            warnings.filterwarnings("ignore", message="A single label was found")
            return float(function(true, predicted, **settings))

    return score


def _f1() -> Score:
    f1_score = import_without_drawing("sklearn.metrics").f1_score

    def score(true: np.ndarray, predicted: np.ndarray, labels: Labels) -> float:
        if np.ndim(true) == 2:
            return float(f1_score(true, predicted, average="micro", zero_division=0.0))
        # All classes count, also those that this set happens not to hold.
        each = f1_score(true, predicted, labels=range(labels.count), average=None, zero_division=0.0)
        return float(each[labels.positive] if labels.is_binary else each.mean())

    return score


def _correlation(name: str) -> Score:
    function = getattr(import_without_drawing("scipy.stats"), name)

    def score(true: np.ndarray, predicted: np.ndarray, labels: Labels) -> float:
        # A correlation with a constant is not defined.
        varies = len(true) > 1 and bool(np.ptp(true) > 0) and bool(np.ptp(predicted) > 0)
        return float(function(true, predicted).statistic) if varies else float("nan")

    return score
