"""Equal texts with different labels: how many, and whether these are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftloop.data.cache import cached, dataset_key
from ftloop.data.labels import Labels

if TYPE_CHECKING:
    from datasets import Dataset

LOOKED_THROUGH = 200_000
"""Rows of a larger training set that are looked through."""
MANY, MANY_OF = 10, 0.02
"""Rows, and their share, from which they are worth a word: one or two duplicates are in any data."""


def count_contradictions(train: Dataset, columns: Sequence[str], label_column: str, labels: Labels) -> dict[str, int]:
    """Count training rows whose texts stand there with another class too, of those that were looked through. Numbers do
    not contradict each other: two people's grades of one text may both be right.
    """
    if labels.regression:
        return {"rows": 0, "of": min(len(train), LOOKED_THROUGH)}
    key = f"contradictions: {list(columns)} {label_column} {sorted(labels.ids.items())}"
    return cached(dataset_key(train), key, lambda: _count(train, columns, label_column, labels))


def _count(train: Dataset, columns: Sequence[str], label_column: str, labels: Labels) -> dict[str, int]:
    column, ids = label_column, labels.ids  # several raw labels may be one class
    table = train.with_format("arrow")[: min(len(train), LOOKED_THROUGH)]
    raw = table[column].to_pylist()
    classes = [str(sorted({ids[name] for name in names})) for names in raw] if labels.multi_label else map(ids.get, raw)
    table = table.set_column(table.column_names.index(column), column, [list(classes)])
    counts = table.group_by(list(columns)).aggregate([(column, "count_distinct"), (column, "count")])
    contradict = counts[f"{column}_count_distinct"].to_numpy() > 1
    return {"rows": int(counts[f"{column}_count"].to_numpy()[contradict].sum()), "of": table.num_rows}


def are_many(rows: int, total: int) -> bool:
    return rows >= MANY and rows >= MANY_OF * total
