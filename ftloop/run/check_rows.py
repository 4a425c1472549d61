"""Look at single rows that `prepare` is given: those that lie ready before training, others when they are made."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from transformers.models.auto import modeling_auto

from ftloop.models.weights import base_model

LABELS = ("label", "label_ids", "labels")
NAMES = {
    1: ["input_ids"],
    2: ["input_ids", "labels"],
    3: ["input_ids", "attention_mask", "labels"],
    4: ["input_ids", "attention_mask", "token_type_ids", "labels"],
}
HEADS_OF_TOKENS = (
    "MODEL_FOR_MASKED_LM",
    "MODEL_FOR_CAUSAL_LM",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM",
    "MODEL_FOR_TOKEN_CLASSIFICATION",
)
"""Tasks with a label for each token: one label a text is an error of torch."""
OTHER_HEADS = ("MODEL_FOR_QUESTION_ANSWERING", "MODEL_FOR_PRETRAINING")
"""Tasks of whose models one label a text gets no loss."""
WANTED = "a mapping by name (input_ids, attention_mask, labels)"


@dataclass(frozen=True)
class RowCheck:
    """What is asked of rows that a collator of ours or transformers' reads. Workers of a loader get it too."""

    one_list: bool
    """Whether the tokens of a row have to be one list, as classifiers of texts take them."""
    no_head: str | None = None
    """What is said of a model to which a text cannot have one label; None of another."""

    def problem(self, rows: Iterable[Any]) -> str | None:
        """Return what is wrong with the first row with which something is, counted from 1."""
        for number, row in enumerate(rows, 1):
            if problem := _unnamed(row, rows) or self._other_shape(row):
                return f"row {number} {problem}"
            if self.no_head and _has_one_label(row):
                return f"row {number} has one label; {self.no_head}"
        return None

    def _other_shape(self, row: Any) -> str | None:
        shape = _shape(row.get("input_ids")) if self.one_list and isinstance(row, Mapping) else ()
        if len(shape) < 2:
            return None
        way = "leave out return_tensors where rows are tokenized, or take .squeeze(0) of what it makes"
        if shape[0] != 1:
            way = f"make {shape[0]} rows of it, each with the label"
        return f"has input_ids of the shape {[*shape]}, and the model takes one list of tokens a row: {way}"


def row_check(model: Any, reads_labels: bool) -> RowCheck:
    is_of_tokens = _class_name(model) in _names(*HEADS_OF_TOKENS)
    return RowCheck(
        one_list=_class_name(model) in _names("MODEL_FOR_SEQUENCE_CLASSIFICATION"),
        no_head=_no_head(model) if is_of_tokens and reads_labels else None,
    )


def head_problem(model: Any, train_dataset: Any, eval_sets: Iterable[Any]) -> str | None:
    """Return that a model of transformers' has no head for one label a text, where rows have that, or where it learns
    no labels at all. Of other models nobody knows, nor of rows that are only made in training."""
    name, rows = _class_name(model), [*islice(ready_rows(train_dataset), 1)]
    is_of_tokens = name in _names(*HEADS_OF_TOKENS)
    if train_dataset is not None and name in _names("MODEL", "MODEL_FOR_TEXT_ENCODING") and not _names_labels(model):
        return f"model: {_no_head(model)}"
    if is_of_tokens:
        rows += [row for dataset in eval_sets for row in islice(ready_rows(dataset), 1)]
    elif name not in _names(*OTHER_HEADS):
        return None
    return f"model: {_no_head(model)}" if any(map(_has_one_label, rows)) else None


def _no_head(model: Any) -> str:
    model = base_model(model)
    way = f"AutoModelForSequenceClassification.from_pretrained({model.name_or_path or 'name'!r}, num_labels=N) loads it"
    way = f"{way} with one for N classes"
    if model.config.model_type not in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        way = f"transformers has none for its type {model.config.model_type}: take another model"
    own = "For a loss of your own, give compute_loss_func or a data_collator"
    return f"{type(model).__name__} has no head that classifies texts; {way}. {own}"


def _names_labels(model: Any) -> bool:
    arguments = inspect.signature(base_model(model).forward).parameters
    return any("label" in name or "loss" in name for name in arguments)


def _has_one_label(row: Any) -> bool:
    """Whether a row has one label, and not one for each token, nor a place to find."""
    if not isinstance(row, Mapping) or "start_positions" in row:
        return False
    label = next((row[name] for name in LABELS if name in row), None)
    return label is not None and not _shape(label)


def ready_rows(dataset: Any) -> Iterable[Any]:
    """Return the rows of a list, and of other data sets whose rows lie ready the first. Those that are made when they
    are asked for are left alone: that may draw random numbers, or open what the workers of a loader may not share."""
    if isinstance(dataset, (list, tuple)):
        return dataset
    return [dataset[0]] if lies_ready(dataset) and len(dataset) else []


def _class_name(model: Any) -> str:
    """Return the name of a class of transformers' own, whose rows are known; "" of another."""
    kind = type(base_model(model))
    return kind.__name__ if kind.__module__.startswith("transformers.models.") else ""


def _names(*tasks: str) -> set[str]:
    """Return the names of transformers' classes for tasks."""
    tables = [getattr(modeling_auto, f"{task}_MAPPING_NAMES", {}) for task in tasks]
    return {
        name for table in tables for names in table.values() for name in ([names] if isinstance(names, str) else names)
    }


def lies_ready(dataset: Any) -> bool:
    """Whether rows are only looked up when they are asked for: reading them draws no random numbers."""
    if isinstance(dataset, Mapping):
        return False
    if type(dataset) is Subset:
        return lies_ready(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(lies_ready, dataset.datasets))
    if isinstance(dataset, Dataset):
        return not has_transform(dataset)
    return type(dataset) in (TensorDataset, list, tuple)


def has_transform(dataset: Any) -> bool:
    """Whether a `datasets.Dataset` makes its rows when they are asked for, of columns that it needs all."""
    return getattr(dataset, "format", {}).get("type") == "custom" if hasattr(dataset, "with_transform") else False


def _unnamed(row: Any, rows: Iterable[Any]) -> str | None:
    """Return that the values of a row have no names, and the line of code that names them."""
    if isinstance(row, (str, int, float, torch.Tensor, np.ndarray, np.generic)):
        what = "a text" if isinstance(row, str) else "a number" if isinstance(row, (int, float)) else _kind(row)
        return f"is {what}, and has to be {WANTED}, as a tokenizer makes them"
    if not isinstance(row, (tuple, list)):
        return None
    names = NAMES.get(len(row), ["input_ids", "...", "labels"])
    named = f"dict(zip({names}, dataset[i]))"
    if len(row) == 2 and isinstance(row[0], str):
        named = "{**tokenizer(dataset[i][0], truncation=True), 'label': dataset[i][1]}"
    elif len(row) == 2 and isinstance(row[0], Mapping):
        named = "{**dataset[i][0], 'label': dataset[i][1]}"
    way = f"datasets.Dataset.from_list([{named} for i in range(len(dataset))]) makes such rows"
    if len(shapes := {_shapes(each) for each in rows}) == 1 and () not in shapes:
        collate = f"data_collator=lambda rows: dict(zip({names}, map(torch.stack, zip(*rows))))"
        way = f"give prepare {collate}, with the names in the order of the row"
    return f"is {_kind(row)} of {len(row)} values, and has to be {WANTED}: {way}"


def _shapes(row: Any) -> tuple[torch.Size, ...]:
    """Return the shapes of the tensors that a row consists of; none of another."""
    tensors = isinstance(row, (tuple, list)) and all(isinstance(value, torch.Tensor) for value in row)
    return tuple(value.shape for value in row) if tensors else ()


def _kind(row: Any) -> str:
    name = type(row).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _shape(value: Any) -> tuple[int, ...]:
    if hasattr(value, "shape"):
        return tuple(value.shape)
    if not isinstance(value, (list, tuple)):
        return ()
    return (len(value), *_shape(value[0])) if value else (0,)
