"""Look at all values of a column."""

from __future__ import annotations

import pyarrow.compute as pc
from datasets import Dataset, LargeList, List

from ftloop.data.cache import cached, dataset_key
from ftloop.system.row_numbers import row_numbers

MAX_SHOWN = 5  # rows or values named in one message
ROWS_AT_ONCE = 100_000


def list_and_class_names(dataset: Dataset, column: str) -> tuple[bool, list[str] | None]:
    """Tell whether a column holds lists, and the names of its classes if it has them."""
    feature = dataset.features.get(column)
    lists = isinstance(feature, (List, LargeList))
    return lists, getattr(feature.feature if lists else feature, "names", None)  # only a ClassLabel has them


def has_lists(dataset: Dataset, column: str) -> bool:
    return list_and_class_names(dataset, column)[0]


def missing(dataset: Dataset, column: str) -> tuple[int, list[int]]:
    """Return the number of rows without a value, and the first of them."""
    return cached(dataset_key(dataset), f"missing: {column}", lambda: count_missing(dataset, column))


def count_missing(dataset: Dataset, column: str) -> tuple[int, list[int]]:
    rows = pc.indices_nonzero(dataset.with_format("arrow")[:][column].is_null())
    return len(rows), rows[:MAX_SHOWN].to_pylist()


def distinct_values(dataset: Dataset, column: str) -> list[str]:
    """Return the different values of a column, or of the lists in it, in the order of their first rows."""
    if has_lists(dataset, column):
        return cached(dataset_key(dataset), f"distinct in lists: {column}", lambda: list_items(dataset, column)[0])
    return cached(dataset_key(dataset), f"distinct: {column}", lambda: dataset.unique(column))


def single_values(dataset: Dataset, column: str) -> int:
    """Return how many values stand in one row alone."""
    return cached(dataset_key(dataset), f"single rows: {column}", lambda: count_single(dataset, column))


def count_single(dataset: Dataset, column: str) -> int:
    counts = dataset.with_format("arrow")[:][column].value_counts().field("counts")
    return int(pc.sum(pc.equal(counts, 1)).as_py() or 0)


def list_items(dataset: Dataset, column: str) -> tuple[list[str], int]:
    """Return the different items of the lists in a column, and the number of all items."""
    items = pc.list_flatten(dataset.with_format("arrow")[:][column])
    return pc.unique(items).to_pylist(), len(items)


def largest_number(dataset: Dataset, column: str) -> int:
    """Return the largest of the numbers in the lists of a column, such as token ids; 0 where there is none."""
    if column not in dataset.column_names:
        return 0
    return cached(dataset_key(dataset), f"largest of {column}", lambda: find_largest(dataset, column))


def find_largest(dataset: Dataset, column: str) -> int:
    tables = dataset.select_columns([column]).with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
    return max((int(pc.max(pc.list_flatten(table[column])).as_py() or 0) for table in tables), default=0)


def rows_with(dataset: Dataset, column: str, value: str) -> str:
    """Name the rows with this value."""
    lists = has_lists(dataset, column)
    rows = [row for row, label in enumerate(dataset[column]) if (value in (label or ()) if lists else label == value)]
    return name_rows(dataset, rows[:MAX_SHOWN], len(rows))


def set_name(name: str) -> str:
    """Name a set as messages do."""
    return "the training set" if name == "train" else f"the {name} set"


def name_rows(dataset: Dataset, first: list[int], count: int) -> str:
    """Name rows by the numbers that they have in the file, which a message counts from 1."""
    more = f", ... ({count} in all)" if count > len(first) else ""
    return f"{'row' if count == 1 else 'rows'} {', '.join(map(str, row_numbers(dataset, first)))}{more}"
