"""The columns of a set beside its texts and labels: ids, addresses, dates.

Training has no use for them, so they take no part in what is tokenized, cached or compared when a run is resumed. They
are read when the predictions of the set are written, from where its rows came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ftloop.data.arrow_rows import read_schema
from ftloop.data.csv_rows import HEADER_AGAIN
from ftloop.data.readers import read_chunks, read_columns
from ftloop.data.rows import Chunk, Row, value_at
from ftloop.data.sources import COLUMNAR, Source
from ftloop.data.values import as_text
from ftloop.errors import UserError

ROWS_AT_ONCE = 10_000
# The Arrow types of columns that hold values of these kinds alone; all others become text.
_TYPES: tuple[tuple[set[Any], Any], ...] = (
    ({"str"}, pa.string()),
    ({"int", "large"}, pa.int64()),
    ({"int", "float"}, pa.float64()),
    ({"bool"}, pa.bool_()),
)

Columns = Mapping[str, Any]
"""Values of some rows by column: lists, or Arrow arrays where they are such."""


class ExtraColumns(Protocol):
    """The other columns of a set."""

    def types(self) -> dict[str, pa.DataType | None]:
        """Return all columns but the labels, in their order, each with the Arrow type that holds all its values; the
        texts, by the names that the training set has for them, with None. Raises: UserError when they cannot be read.
        """
        ...

    def read(self, places: np.ndarray, texts: Dataset) -> Iterator[tuple[int, Columns]]:
        """Read the rows at these places, from 0 and ascending, some at a time, and yield how many and their columns.
        `texts` holds the texts that the rows had when they were first read. Raises: UserError when they can no longer
        be read, or have other texts.
        """
        ...


@dataclass(frozen=True)
class FileColumns:
    """Those of a set that was read from files."""

    sources: tuple[Source, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def types(self) -> dict[str, pa.DataType | None]:
        found: dict[str, set[Any] | None] = {}
        for source in self.sources:
            texts = {source.own_name(name): name for name in self.texts}
            labels = {source.own_name(name) for name in self.labels}
            for name, kinds in _kinds_of_columns(source).items():
                if name in texts:
                    found[texts[name]] = None
                elif name not in labels:
                    known = found.setdefault(name, set())
                    found[name] = None if known is None else known | kinds
        return {name: None if kinds is None else _type_of(kinds) for name, kinds in found.items()}

    def read(self, places: np.ndarray, texts: Dataset) -> Iterator[tuple[int, Columns]]:
        before = done = 0
        for source in self.sources:
            texts_here = list(map(source.own_name, self.texts))
            for chunk in read_chunks(replace(source, of_set=None), valued=texts_here):
                rows = [row for row in chunk.rows if row.error != HEADER_AGAIN]
                first, last = np.searchsorted(places, (before, before + len(rows)))
                chosen, before = places[first:last] - before, before + len(rows)
                if len(chosen):
                    self._check(source, [rows[place] for place in chosen], texts[done : done + len(chosen)])
                    yield len(chosen), _columns(chunk, rows, chosen)
                    done += len(chosen)
                if done == len(places):
                    return
        raise UserError(f"{self.sources[-1].name} has fewer rows than when it was read")

    def _check(self, source: Source, rows: Sequence[Row], texts: Mapping[str, Sequence[str]]) -> None:
        """Raises: UserError where rows are bad, or have other texts than they had."""
        for name in self.texts:
            own = source.own_name(name)
            for row, text in zip(rows, texts[name], strict=True):
                if row.error is not None:
                    raise source.error(row.number, row.error)
                if (as_text(value_at(row.values, own), f"column {own}") or "") != (text or ""):
                    raise source.error(row.number, "has another text than when it was read")


@dataclass(frozen=True)
class DatasetColumns:
    """Those of a set that is a `datasets.Dataset`."""

    rows: Dataset
    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def types(self) -> dict[str, pa.DataType | None]:
        fields = {field.name: field.type for field in self.rows.features.arrow_schema}
        return {name: None if name in self.texts else kind for name, kind in fields.items() if name not in self.labels}

    def read(self, places: np.ndarray, texts: Dataset) -> Iterator[tuple[int, Columns]]:
        rows = self.rows.with_format("arrow")
        for start in range(0, len(places), ROWS_AT_ONCE):
            table = rows[places[start : start + ROWS_AT_ONCE].tolist()]
            yield table.num_rows, {name: table[name] for name in table.column_names}


def _columns(chunk: Chunk, rows: Sequence[Row], chosen: np.ndarray) -> Columns:
    if chunk.arrow is not None:
        return dict(zip(chunk.columns, chunk.arrow.take(pa.array(chosen)).columns, strict=True))
    some = [rows[place].values for place in chosen]
    names = dict.fromkeys(name for values in some for name in values)
    return {name: [values.get(name) for values in some] for name in names}


def _kinds_of_columns(source: Source) -> dict[str, set[Any]]:
    """Return the columns of a file, each with the kinds of its values: an Arrow type, or those of `_kind`."""
    if source.format in COLUMNAR:
        types = [field.type for field in read_schema(source)]
        return {name: {kind} for name, kind in zip(read_columns(source), types, strict=True)}
    if source.format not in ("json", "jsonl"):
        return {name: {"str"} for name in read_columns(source)}
    found: dict[str, set[Any]] = {}
    for chunk in read_chunks(replace(source, of_set=None)):
        for row in chunk.rows:
            for name, value in row.values.items():
                found.setdefault(name, set()).add(_kind(value))
    return found


def _kind(value: Any) -> Any:
    """Return what a value of JSON is: of a list, what its items are."""
    if isinstance(value, list):
        return ("list", frozenset(map(_kind, value)))
    if type(value) is int:  # a larger one is no exact float64, or no int64
        return "int" if abs(value) <= 2**53 else "large" if -(2**63) <= value < 2**63 else "other"
    return {type(None): "null", bool: "bool", float: "float", str: "str"}.get(type(value), "other")


def _type_of(kinds: Iterable[Any]) -> pa.DataType:
    """Return the Arrow type that holds values of all these kinds as they are; else text."""
    left = {*kinds} - {"null"}
    lists = [each for each in left if isinstance(each, tuple)]
    if lists and len(lists) == len(left):
        items = frozenset().union(*(of for _, of in lists))
        within = _simple_type(items - {"null"})
        return pa.string() if within is None else pa.list_(within)
    return _simple_type(left) or pa.string()


def _simple_type(kinds: Iterable[Any]) -> pa.DataType | None:
    schemas = [pa.schema([("", each)]) for each in kinds if isinstance(each, pa.DataType)]
    if schemas and len(schemas) == len({*kinds}):
        with suppress(pa.ArrowException):
            return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        return None
    return next((arrow_type for known, arrow_type in _TYPES if {*kinds} <= known), None)
