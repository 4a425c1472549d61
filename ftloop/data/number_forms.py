"""Labels that are numbers, in the forms that spreadsheets and csv files have them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from datasets import Dataset

from ftloop.config.problem_type import ProblemType
from ftloop.data.incomplete_rows import is_mark
from ftloop.data.probabilities import are_numbers
from ftloop.data.scan import distinct_values, has_lists, rows_with
from ftloop.data.values import is_written
from ftloop.errors import UserError
from ftloop.system.text import short_repr

_COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)?")


def have_blanks_around(sets: Mapping[str, Dataset], column: str) -> bool:
    """Whether the labels of the training set are numbers, beside marks of a missing one, and a label of any set has
    blanks around it, as where a csv file has them behind its commas."""
    labels = {
        name: [label for label in distinct_values(dataset, column) if label]
        for name, dataset in sets.items()
        if column in dataset.column_names and not has_lists(dataset, column)
    }
    numbers = [label for label in labels.get("train", ()) if not is_mark(label.strip())]
    return (
        bool(numbers) and are_numbers(numbers) and any(each != each.strip() for raw in labels.values() for each in raw)
    )


def without_blanks(text: str | None) -> str | None:
    return None if text is None else text.strip()


def decimal_comma(dataset: Dataset, column: str, wanted: ProblemType | None) -> str | None:
    """Return one of the labels, for a message, if all are numbers with a decimal comma and to be learned as such.

    Raises: UserError where they could be something else.
    """
    if wanted not in (None, ProblemType.REGRESSION) or has_lists(dataset, column):
        return None
    texts = [text.strip() for text in distinct_values(dataset, column) if is_written(text)]
    commas = [text for text in texts if "," in text]
    if not commas or not all(_COMMA_NUMBER.fullmatch(text) for text in texts):
        return None
    shown, where = short_repr(commas[0]), rows_with(dataset, column, commas[0])
    if all(re.search(r",\d{3}$", text) for text in commas):
        raise UserError(
            f"column {column!r} holds {shown} in {where}: a decimal comma, or one between thousands? Write such "
            "numbers with a point, or without a comma"
        )
    if wanted is None:
        raise UserError(
            f"column {column!r} holds {shown} in {where}, and only such texts: --problem_type {ProblemType.REGRESSION} "
            f"reads numbers with a decimal comma, --label_delimiter , several labels a row, --problem_type "
            f"{ProblemType.SINGLE_LABEL} a class of each text"
        )
    return shown


def with_point(text: str | None) -> str | None:
    return text.strip().replace(",", ".") if text is not None and _COMMA_NUMBER.fullmatch(text.strip()) else text
