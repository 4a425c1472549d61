"""The three kinds of task a sequence classifier is trained for."""

from __future__ import annotations

from enum import StrEnum


class ProblemType(StrEnum):
    """Transformers' `problem_type`, with its values: what a row's label is, and with it the loss and the scores."""

    SINGLE_LABEL = "single_label_classification"
    MULTI_LABEL = "multi_label_classification"
    REGRESSION = "regression"
