"""What each class counts in the loss: with `class_weights`, rare ones more than frequent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.config import TrainConfig, shown
from ftloop.data import label_ids
from ftloop.errors import UserError
from ftloop.words import listed

if TYPE_CHECKING:
    from torch import Tensor


def weight_problems(config: TrainConfig, names: Sequence[str]) -> list[str]:
    """What is wrong with `class_weights` for these classes; none are numbers to learn."""
    given = config.class_weights
    if given is None:
        return []
    if not names:
        return ["class_weights: only for classes, and these labels are numbers"]
    if not isinstance(given, dict):
        return []
    there = _listed(names)
    problems = [f"class_weights: {shown(name)} is none of the labels: {there}" for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if missing:
        problems.append(f"class_weights: gives no weight to {_listed(missing)}")
    return problems


def class_weights(config: TrainConfig, train_dataset: Any, model: Any) -> Tensor:
    """The weight of each class in the order of their ids, float32.

    `balanced` is scikit-learn's: rows / (classes * rows of the class), counted in the training set, so that all classes
    have the same weight in sum and the mean over the training rows is 1. Of several labels a row, each is a question of
    its own, and its weight is that of the rows that have it: rows without / rows with, as `pos_weight` of
    `BCEWithLogitsLoss`.

    Raises: UserError for labels that are numbers, for a name that is no label's and for a label that no row has.
    """
    import torch

    model_config = getattr(model, "config", None)
    if model_config is None or getattr(model_config, "id2label", None) is None:
        raise UserError(f"class_weights: {type(model).__name__} has no config that names its labels")
    names = [str(model_config.id2label[id]) for id in range(model_config.num_labels)]
    is_number = model_config.problem_type == "regression" or model_config.num_labels == 1
    problems = weight_problems(config, () if is_number else names)
    if problems:
        raise UserError(*problems)
    if isinstance(config.class_weights, dict):
        return torch.tensor([float(config.class_weights[name]) for name in names])
    if train_dataset is None:
        raise UserError("class_weights: balanced is counted in a training set, and there is none; give the weights")
    return torch.from_numpy(_balanced(_labels_of(train_dataset), names).astype(np.float32))


def settle_problem_type(model: Any, train_dataset: Any) -> None:
    """Into the model's config, where it is not there, goes what the model finds out where it makes the loss itself."""
    if model.config.problem_type is None:
        kind = "multi" if np.ndim(train_dataset[0][_label_column(train_dataset)]) else "single"
        model.config.problem_type = "regression" if model.config.num_labels == 1 else f"{kind}_label_classification"


def _label_column(dataset: Any) -> str:
    """Raises: UserError where there is none."""
    for name in ("label", "labels", "label_ids"):
        if name in dataset[0]:
            return name
    raise UserError("class_weights: the training set has no column label, labels or label_ids")


def _labels_of(dataset: Any) -> np.ndarray:
    """Ids, or rows x classes."""
    name = _label_column(dataset)
    if name == "label" and hasattr(dataset, "with_format"):
        return label_ids(dataset)
    return np.asarray([dataset[row][name] for row in range(len(dataset))])


def _balanced(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    several = labels.ndim == 2
    counts = labels.sum(axis=0, dtype=np.int64) if several else np.bincount(labels, minlength=len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if absent:
        raise UserError(
            f"class_weights: balanced has no weight for {_listed(absent)}: no training row has this label; give a "
            "weight for every label, as JSON, or leave it out"
        )
    everywhere = [name for name, count in zip(names, counts, strict=True) if several and count == len(labels)]
    if everywhere:
        raise UserError(
            f"class_weights: balanced would weigh {_listed(everywhere)} with 0: every training row has this label; "
            "give a weight for every label, as JSON, or leave it out"
        )
    balanced: np.ndarray = (len(labels) - counts) / counts if several else len(labels) / (len(names) * counts)
    return balanced


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """The loss of each row times the weight of its class, summed, and divided by the number of rows.

    Divided by rows, not by the sum of their weights as `CrossEntropyLoss(weight)` does: then a row counts the same
    whichever rows it meets, so that k micro-batches of b are one batch of k * b, on any number of processes and however
    memory splits it; a batch of a single class is weighted too; and over an epoch the mean is that of the weighted
    training set. A smoothed loss is weighted as a whole. Of several labels a row (`labels` as wide as `logits`), each
    weight is that of the label where the row has it.
    """
    from torch.nn import functional as F

    logits = logits.float()
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights)
    labels = labels.view(-1)
    each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    loss: Tensor = (each * weights[labels]).mean()
    return loss


def weights_in_words(weights: Tensor, names: Sequence[str], most: int = 20) -> str:
    told = [f"{name} {weight:.3g}" for name, weight in zip(names[:most], weights.tolist()[:most], strict=True)]
    return ", ".join(told) + (" ..." if len(names) > most else "")


def _listed(names: Sequence[str]) -> str:
    return listed([shown(name) for name in names], 10)
