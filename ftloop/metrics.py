"""From logits and labels to named scores, by scikit-learn and SciPy."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.config import TrainConfig
from ftloop.data import Labels
from ftloop.errors import UserError
from ftloop.weights import weight_problems

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EvalPrediction

ComputeMetrics = Callable[["EvalPrediction"], dict[str, float]]
PreprocessLogits = Callable[["Tensor", "Tensor"], "Tensor"]


def metric_names(labels: Labels, names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The task's own `names`, or the usual ones."""
    if labels.multi_label:
        return names or ("accuracy", "f1", "f1_macro")
    return names or (("mse", "pearson", "spearmanr") if labels.regression else ("accuracy", "f1"))


def check_metric(config: TrainConfig, labels: Labels, names: tuple[str, ...] | None) -> None:
    """Raises: UserError for a metric_for_best_model that no evaluation will give, and for smoothing numbers."""
    problems = []
    wanted, there = config.metric_for_best_model, ("loss", *metric_names(labels, names))
    if wanted is not None and wanted.removeprefix("eval_") not in there:
        problems.append(f"metric_for_best_model: {wanted!r} is none of this data's: {', '.join(there)}")
    if config.label_smoothing_factor and labels.regression:
        problems.append("label_smoothing_factor: only for classes, and these labels are numbers")
    if config.label_smoothing_factor and labels.multi_label:
        problems.append("label_smoothing_factor: only where a row has one label, and these are lists of labels")
    problems += weight_problems(config, labels.names)
    if problems:
        raise UserError(*problems)


def metrics_for(labels: Labels, names: tuple[str, ...] | None = None) -> ComputeMetrics:
    """The `compute_metrics` of a task: accuracy and F1 for classes, MSE and correlations for numbers.

    F1 is that of class 1 where there are two classes, the macro average beyond. Of several labels a row, those count as
    predicted whose probability is above 0.5; accuracy is the share of rows all of whose labels are right, F1 the micro
    average, and the macro average is given too. `names` picks others (GLUE's own). Predictions are logits, or what
    `answers` has made of them.
    """
    chosen = metric_names(labels, names)

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        logits = evaluated.predictions[0] if isinstance(evaluated.predictions, tuple) else evaluated.predictions
        decided = labels.regression or np.ndim(logits) == 1
        predicted = np.reshape(logits, -1) if decided else np.argmax(logits, axis=-1)
        if labels.multi_label:
            predicted = (np.asarray(logits) > 0).astype(np.int8)
        return {name: _SCORES[name](evaluated.label_ids, predicted, labels.count) for name in chosen}

    return compute_metrics


def answers(logits: Tensor, label_ids: Tensor) -> Tensor:
    """What the scores here need of a batch's logits, for `preprocess_logits_for_metrics`: one number a row, the class
    or, of a regression, the number itself. Where a row has several labels, 1 for each that is predicted, else 0."""
    if label_ids.ndim == 2:
        return (logits > 0).char()
    return logits.reshape(-1) if logits.shape[-1] == 1 else logits.argmax(dim=-1)


def _imported(name: str) -> Any:
    """A module, imported when it is first used, for that takes long. What it imports in turn draws from Python's random
    generator, on which a training may depend: its state, and NumPy's, are as before.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        return importlib.import_module(name)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _accuracy(true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    return float(_imported("sklearn.metrics").accuracy_score(true, predicted))


def _f1(true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    f1_score = _imported("sklearn.metrics").f1_score
    if np.ndim(true) == 2:
        return float(f1_score(true, predicted, average="micro", zero_division=0.0))
    if num_labels == 2:
        return float(f1_score(true, predicted, average="binary", pos_label=1, zero_division=0.0))
    # All classes count, also those that this set happens not to hold.
    return float(f1_score(true, predicted, labels=range(num_labels), average="macro", zero_division=0.0))


def _f1_macro(true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    """Of several labels a row; each counts alike, also one that this set happens not to hold."""
    return float(_imported("sklearn.metrics").f1_score(true, predicted, average="macro", zero_division=0.0))


def _matthews(true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    matthews_corrcoef = _imported("sklearn.metrics").matthews_corrcoef
    with warnings.catch_warnings():
        # Of one class on both sides: it is 0 then, and the line `Baseline` shows that there is one.
        warnings.filterwarnings("ignore", message="A single label was found")
        return float(matthews_corrcoef(true, predicted))


def _mse(true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    return float(np.mean((np.asarray(predicted, np.float64) - true) ** 2))


def _pearson(true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    varies = _varies(true, predicted)
    return float(_imported("scipy.stats").pearsonr(true, predicted).statistic) if varies else float("nan")


def _spearman(true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    varies = _varies(true, predicted)
    return float(_imported("scipy.stats").spearmanr(true, predicted).statistic) if varies else float("nan")


def _varies(true: np.ndarray, predicted: np.ndarray) -> bool:
    """A correlation with a constant is not defined."""
    return len(true) > 1 and bool(np.ptp(true) > 0) and bool(np.ptp(predicted) > 0)


_SCORES: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "matthews_correlation": _matthews,
    "mse": _mse,
    "pearson": _pearson,
    "spearmanr": _spearman,
}


def score(name: str, true: np.ndarray, predicted: np.ndarray, num_labels: int) -> float | None:
    """One of the scores by its name; None for a name that is none. `predicted` are classes, or numbers."""
    return _SCORES[name](true, predicted, num_labels) if name in _SCORES else None
