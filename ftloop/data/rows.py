"""Rows of a file: each with its number, its values and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ftloop.data.values import is_utf8

MAX_DEPTH = 8
HEAD_ROWS = 200


def value_at(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column or, by a name with dots such as `data.text`, of a field within mappings; None where
    there is none. A column whose own name has a dot comes first.
    """
    if name in values:
        return values[name]
    column, _, field = name.partition(".")
    within = values.get(column)
    return value_at(within, field) if field and isinstance(within, dict) else None


def field_names(values: Mapping[str, Any], depth: int = MAX_DEPTH) -> list[str]:
    """Return the names by which `value_at` reads the fields within mappings."""
    names = []
    for column, within in values.items():
        if depth and isinstance(within, dict) and "." not in column:
            fields = [name for name in within if name and is_utf8(name) and "\0" not in name]
            names += [f"{column}.{name}" for name in [*fields, *field_names(within, depth - 1)]]
    return [name for name in names if name not in values]


@dataclass(slots=True)
class Row:
    number: int
    """Line in which the row begins, or its position where the file has no lines, from 1."""
    values: dict[str, Any]
    """Value of each column; for a bad row, whatever could be read."""
    error: str | None = None


def fields_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of the fields within mappings of the first rows: the first may have null for one."""
    return list(dict.fromkeys(name for row in islice(rows, HEAD_ROWS) for name in field_names(row.values)))


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file."""

    header: tuple[str, ...] | None
    """Columns of the file; None for json, where each row names its own."""
    rows: list[Row]
    total_rows: int | None = None
    """Number of rows in the whole file: exact for parquet, elsewhere estimated from the share read, if known."""
    arrow: Any = None
    """The same rows as an Arrow batch, for parquet."""

    @property
    def columns(self) -> tuple[str, ...]:
        if self.header is not None:
            return self.header
        return tuple(dict.fromkeys(name for row in self.rows for name in row.values))

    @property
    def fields(self) -> list[str]:
        """Names of the fields within mappings of the first rows."""
        return fields_of(self.rows)

    def split(self, max_rows: int) -> Iterator[Chunk]:
        for start in range(0, len(self.rows), max_rows):
            arrow = None if self.arrow is None else self.arrow.slice(start, max_rows)
            yield replace(self, rows=self.rows[start : start + max_rows], arrow=arrow)
