"""Weights of the classes in the loss: with `class_weights`, rare classes count more than frequent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.labels import label_ids
from ftloop.errors import UserError
from ftloop.system.text import join_some, short_repr

if TYPE_CHECKING:
    from torch import Tensor


def weight_problems(config: TrainConfig, names: Sequence[str]) -> list[str]:
    """Say what is wrong with `class_weights` for these classes; with none, the labels are numbers."""
    given = config.class_weights
    if given is None:
        return []
    if not names:
        return ["class_weights: only for classes, and these labels are numbers"]
    if not isinstance(given, dict):
        return []
    unknown = [name for name in given if name not in names]
    problems = [f"class_weights: {short_repr(name)} is none of the labels: {_listed(names)}" for name in unknown]
    missing = [name for name in names if name not in given]
    if missing:
        problems.append(f"class_weights: gives no weight to {_listed(missing)}")
    return problems


def class_weights(config: TrainConfig, train_dataset: Any, model: Any) -> Tensor:
    """Return the weight of each class in the order of their ids, float32.

    `balanced` is scikit-learn's: rows / (classes * rows of the class), counted in the training set, so that all classes
    have the same weight in sum and the mean over the training rows is 1. Where a row may have several labels, each
    label is weighted by itself: rows without it / rows with it, as `pos_weight` of `BCEWithLogitsLoss`.

    Raises: UserError for labels that are numbers, for a name that is no label's and for a label that no row has.
    """
    import torch

    model_config = getattr(model, "config", None)
    if model_config is None or getattr(model_config, "id2label", None) is None:
        raise UserError(f"class_weights: {type(model).__name__} has no config that names its labels")
    names = [str(model_config.id2label[id]) for id in range(model_config.num_labels)]
    is_number = model_config.problem_type == ProblemType.REGRESSION or model_config.num_labels == 1
    problems = weight_problems(config, () if is_number else names)
    if problems:
        raise UserError(*problems)
    if isinstance(config.class_weights, dict):
        return torch.tensor([float(config.class_weights[name]) for name in names])
    if train_dataset is None:
        raise UserError("class_weights: balanced is counted in a training set, and there is none; give the weights")
    return torch.from_numpy(_balanced(_labels_of(train_dataset), names).astype(np.float32))


def settle_problem_type(model: Any, train_dataset: Any) -> None:
    """Set the problem type in the model's config if it is not there, as the model does when it computes the loss."""
    if model.config.problem_type is None:
        several = np.ndim(train_dataset[0][_label_column(train_dataset)])
        classes = ProblemType.MULTI_LABEL if several else ProblemType.SINGLE_LABEL
        model.config.problem_type = (ProblemType.REGRESSION if model.config.num_labels == 1 else classes).value


def _label_column(dataset: Any) -> str:
    """Raises: UserError where there is none."""
    for name in ("label", "labels", "label_ids"):
        if name in dataset[0]:
            return name
    raise UserError("class_weights: the training set has no column label, labels or label_ids")


def _labels_of(dataset: Any) -> np.ndarray:
    """Return ids, or rows x classes."""
    name = _label_column(dataset)
    if name == "label" and hasattr(dataset, "with_format"):
        return label_ids(dataset)
    return np.asarray([dataset[row][name] for row in range(len(dataset))])


def _balanced(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    several = labels.ndim == 2
    counts = labels.sum(axis=0, dtype=np.int64) if several else np.bincount(labels, minlength=len(names))
    for bad, weight, why in (
        (counts == 0, "has no weight for {}", "no training row has this label"),
        ((counts == len(labels)) & several, "would weigh {} with 0", "every training row has this label"),
    ):
        if bad.any():
            labels_named = _listed([name for name, is_bad in zip(names, bad, strict=True) if is_bad])
            way_out = "give a weight for every label, as JSON, or leave it out"
            raise UserError(f"class_weights: balanced {weight.format(labels_named)}: {why}; {way_out}")
    balanced: np.ndarray = (len(labels) - counts) / counts if several else len(labels) / (len(names) * counts)
    return balanced


def describe_weights(weights: Tensor, names: Sequence[str], max_names: int = 20) -> str:
    parts = [f"{name} {weight:.3g}" for name, weight in zip(names[:max_names], weights.tolist(), strict=False)]
    return ", ".join(parts) + (" ..." if len(names) > max_names else "")


def _listed(names: Sequence[str]) -> str:
    return join_some([short_repr(name) for name in names], 10)
