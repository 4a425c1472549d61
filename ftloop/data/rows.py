"""Rows of a file: each with its number, its values and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any


@dataclass(slots=True)
class Row:
    number: int
    """Line in which the row begins, or its position where the file has no lines, from 1."""
    values: dict[str, Any]
    """Value of each column; for a bad row, whatever could be read."""
    error: str | None = None


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

    def split(self, max_rows: int) -> Iterator[Chunk]:
        for start in range(0, len(self.rows), max_rows):
            arrow = None if self.arrow is None else self.arrow.slice(start, max_rows)
            yield replace(self, rows=self.rows[start : start + max_rows], arrow=arrow)
