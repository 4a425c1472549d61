"""Labels: which kind they are, their names and ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.config.problem_type import ProblemType

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Labels:
    """What the model predicts: one of several classes, or any number of them, or one number."""

    names: tuple[str, ...]
    """Names of the classes, in the order of their ids; empty for regression."""
    ids: dict[str, int]
    """Id of each raw label, as text."""
    problem_type: ProblemType = ProblemType.SINGLE_LABEL
    positive_name: str | None = None
    """The class, of two, whose F1, precision and recall are given; None: the second."""

    def __post_init__(self) -> None:
        if self.regression == bool(self.names):
            raise ValueError(f"{self.problem_type} with {len(self.names)} names: classes have names, numbers have none")

    @property
    def regression(self) -> bool:
        return self.problem_type == ProblemType.REGRESSION

    @property
    def multi_label(self) -> bool:
        """Whether a row has a list of labels, which may be empty."""
        return self.problem_type == ProblemType.MULTI_LABEL

    @property
    def count(self) -> int:
        """Width of the model's output."""
        return len(self.names) or 1

    @property
    def is_binary(self) -> bool:
        """Whether a row has one of two classes."""
        return self.count == 2 and not self.multi_label

    @property
    def positive(self) -> int:
        """The id of the class, of two, whose F1, precision and recall are given."""
        return 1 if self.positive_name is None else self.names.index(self.positive_name)

    def encode(self, raw: Any) -> int | float | np.ndarray:
        """Return what is learned of a raw label; of a list, 1 for each class in it and 0 for the others, float32."""
        if self.multi_label:
            hot = np.zeros(self.count, np.float32)
            hot[[self.ids[name] for name in raw]] = 1.0
            return hot
        return float(raw) if self.regression else self.ids[raw]


def label_ids(encoded: Dataset) -> np.ndarray:
    """Return what is learned of all tokenized rows: one number each, or rows x classes."""
    name = "label" if "label" in encoded.column_names else "labels"
    values = encoded.with_format("arrow")[:][name].combine_chunks()
    is_list = hasattr(values, "flatten")
    ids: np.ndarray = (values.flatten() if is_list else values).to_numpy()
    return ids.reshape(len(encoded), -1) if is_list else ids
