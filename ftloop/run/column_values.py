"""The values in a column of a data set, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
from torch.utils.data import Subset

ROWS_AT_ONCE = 100_000


def column_chunks(dataset: Any, column: str) -> Iterator[tuple[int, pa.Array]]:
    """Yield the values with the number of their first row, counted from 0; nothing of those of several kinds, which
    whatever collates them may know."""
    whole: Any = getattr(dataset, "dataset", None)
    if isinstance(dataset, Subset) and hasattr(whole, "select_columns"):
        dataset = whole.select(dataset.indices)
    if hasattr(dataset, "select_columns"):
        start = 0
        for table in dataset.select_columns(column).with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
            yield start, table[column].combine_chunks()
            start += len(table)
        return
    values: list[Any] = [row.get(column) if isinstance(row, Mapping) else None for row in dataset]
    with suppress(pa.ArrowException):
        yield 0, pa.array([each.tolist() if hasattr(each, "tolist") else each for each in values])


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
