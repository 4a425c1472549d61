"""Columns that are not read, beside those of the same kind that were found by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from ftloop.config.train_config import TrainConfig
from ftloop.data.columns import unread_label_warning
from ftloop.data.rows import HEAD_ROWS
from ftloop.errors import UserError
from ftloop.system.console import say

MANY_WORDS = 4
"""So many words a row, on average, make a column of texts."""


def warn_of_unread(
    config: TrainConfig,
    name: str,
    names: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    labels: Sequence[str],
) -> None:
    """Say where the text, or the label, that was found by its name is perhaps not the one that is meant."""
    found = config.label_column_name is None and config.task_name is None
    if found and (warning := unread_label_warning(name, names, columns, labels[0])) is not None:
        say("Warning", warning)
    if config.text_column_names is None and config.task_name is None and len(columns) == 1:
        with suppress(UserError):  # which is told when all rows are read
            if (warning := unread_warning(name, rows, columns[0], labels)) is not None:
                say("Warning", warning)


def unread_warning(name: str, rows: Iterable[Mapping[str, Any]], text: str, labels: Sequence[str]) -> str | None:
    """Return what to say where another column of the first rows holds longer texts than the one that was found, as the
    passages that questions are about, and abstracts beside titles.
    """
    head = list(islice(rows, HEAD_ROWS))
    found = _mean_length([row.get(text) for row in head], least_words=0)
    columns = dict.fromkeys(column for row in head for column in row if column not in (text, *labels))
    lengths = {column: _mean_length([row.get(column) for row in head], MANY_WORDS) for column in columns}
    longer = [column for column, length in lengths.items() if length > found]
    if not longer:
        return None
    longest = max(longer, key=lambda column: lengths[column])
    told = f"the text is {text!r}, found by its name, and column {longest!r}, of longer texts, is not read"
    return f"{name}: {told}; --text_column_names names the one or two that are meant"


def _mean_length(values: Sequence[Any], least_words: int) -> float:
    """Return the mean number of characters of texts that differ; 0 of anything else, and of fewer words."""
    texts = [value for value in values if isinstance(value, str)]
    if 2 * len(set(texts)) <= len(values) or sum(len(text.split()) for text in texts) < least_words * len(values):
        return 0.0
    return sum(map(len, texts)) / len(values)
