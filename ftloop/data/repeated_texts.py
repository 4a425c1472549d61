"""Rows to be scored whose texts stand in the training set too: what a model remembers, and does not generalise to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 20_000
BETWEEN = "\x1f\x1e"  # two texts: no text has this


def count_in_train(train: Dataset, others: Mapping[str, Dataset], columns: Sequence[str]) -> dict[str, int]:
    """Count, of each of the other sets, the rows all of whose texts are those of a training row, letter by letter.

    Returns: the sets that have such rows. Rows without any text are not counted. In memory are the texts of one other
    set, and of the training set as many rows at once.
    """
    counts = {}
    for name, rows in others.items():
        texts = pa.chunked_array(_texts(rows, columns, max(len(rows), 1)), pa.large_string())
        parts = (
            pc.filter(part, pc.is_in(part, texts)) for part in _texts(train, columns, max(len(rows), ROWS_AT_ONCE))
        )
        repeated = pa.chunked_array(parts, pa.large_string()).unique()
        empty = pa.array([BETWEEN * (len(columns) - 1)], pa.large_string())
        found = pc.and_not(pc.is_in(texts, repeated), pc.is_in(texts, empty))
        counts[name] = int(pc.sum(found).as_py() or 0)
    return {name: count for name, count in counts.items() if count}


def _texts(rows: Dataset, columns: Sequence[str], at_once: int) -> Iterator[pa.Array]:
    """Yield the rows' texts, those of a pair as one."""
    for table in rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=at_once):
        parts = [pc.fill_null(table[name].cast(pa.large_string()), "") for name in columns]
        joined = pc.binary_join_element_wise(*parts, pa.scalar(BETWEEN, pa.large_string()))
        yield joined.combine_chunks()
