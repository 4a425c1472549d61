"""Rows with their predictions: csv, tsv, jsonl and parquet, written a chunk at a time, to a file that is there whole or
not at all, or to a stream.

The input's columns are kept as they are, those of the prediction come after them.
"""

from __future__ import annotations

import io
import json
import math
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ftloop.chunks import FORMATS, Chunk, Row, Source, format_of
from ftloop.config import shown, user_path
from ftloop.durable import whole_file
from ftloop.errors import UserError, reason
from ftloop.words import for_json

_ARROW_TYPES: dict[type, str] = {bool: "bool", int: "int64", float: "double", str: "string"}


@dataclass(frozen=True)
class Names:
    """What the columns are called that a prediction adds."""

    label: str
    score: str | None
    """None for regression, whose number is the label."""
    error: str
    classes: dict[str, str]
    """From a class to the column of its probability; empty where they are not asked for."""
    probabilities: str
    """The entry of jsonl in which they all are, or empty."""

    @property
    def shown(self) -> list[str]:
        return [name for name in (self.label, self.score, self.probabilities, *self.classes.values()) if name]


@dataclass(frozen=True)
class Added:
    """What is predicted of the rows of a chunk; None for a row with a fault."""

    labels: list[Any]
    """The name of a class, a list of them, or a number."""
    scores: list[Any] | None
    """A probability, or a list of them; None for regression."""
    probabilities: list[list[float] | None] | None
    """In the order of the classes; None where they are not asked for."""


Write = Callable[[Chunk, Added], None]


@dataclass(frozen=True)
class Table:
    """What is written: the input's columns, then those of the prediction."""

    format: str
    columns: tuple[str, ...]
    names: Names
    schema: Any
    """Of the columns, where parquet is read and written."""
    types: dict[str, str]
    """Of the columns, where something else is read and parquet written: by the rows of the first chunk."""
    several_labels: bool
    label_delimiter: str
    """Between them in csv and tsv."""

    def note_faults(self, rows: Sequence[Row]) -> None:
        """Rows that have what the columns, as the first chunk has settled them, have no place for. Only JSON can."""
        names, known = self.names, set(self.columns)
        ours = {names.label, names.score, names.error, names.probabilities, *names.classes.values()} - {""}
        for row in rows:
            for name in row.values.keys() - known:
                if name in ours or self.format != "jsonl":
                    why = "predictions are written under that name" if name in ours else "there is no column for it"
                    row.fault = row.fault or f"has {shown(name)}, which the rows before have not; {why}"
            for name, wanted in self.types.items():
                value = row.values.get(name)
                if not _fits(value, wanted):
                    told = f"column {name} holds {shown(value)}, which is no {wanted} as in the rows before"
                    row.fault = row.fault or told


def _fits(value: Any, wanted: str) -> bool:
    if value is None or wanted == "string":
        return True
    if wanted == "double":
        return type(value) in (int, float)
    return _ARROW_TYPES.get(type(value)) == wanted and (wanted == "bool" or abs(value) < 2**63)


def make_table(
    format: str,
    first: Chunk,
    classes: Sequence[str] | None,
    with_score: bool,
    several_labels: bool = False,
    label_delimiter: str = "|",
) -> Table:
    """Settle, by the first chunk, what the columns are. `classes`: those whose probabilities are wanted."""
    taken = set(first.columns)

    def free(name: str) -> str:
        while name in taken:
            name = f"predicted_{name}"
        taken.add(name)
        return name

    names = Names(
        label=free("label"),
        score=free("score") if with_score else None,
        error=free("error"),
        classes={name: free(f"probability_{name}") if format != "jsonl" else "" for name in classes or ()},
        probabilities=free("probabilities") if format == "jsonl" and classes else "",
    )
    parquet = format == "parquet"
    schema = first.arrow.schema if parquet and first.arrow is not None else None
    types = _types_of(first) if parquet and schema is None else {}
    return Table(format, first.columns, names, schema, types, several_labels, label_delimiter)


def _types_of(chunk: Chunk) -> dict[str, str]:
    """Of columns whose values are all of one type, that type; of others text."""
    types = {}
    for name in chunk.columns:
        values = [value for row in chunk.rows if (value := row.values.get(name)) is not None]
        kinds = {type(value) for value in values}
        if kinds == {int, float}:
            kinds = {float}
        (kind,) = kinds if len(kinds) == 1 else (str,)
        is_large = kind is int and any(abs(value) >= 2**63 for value in values)
        types[name] = "string" if is_large else _ARROW_TYPES.get(kind, "string")
    return types


@dataclass(frozen=True)
class Output:
    path: Path | None
    """None: standard output."""
    name: str
    """As messages call it."""
    format: str
    is_stream: bool
    """Written as it comes; a file is there whole or not at all."""


def find_output(path: str, format: str | None, source: Source) -> Output:
    """What a user named as output. Raises: UserError when it cannot be written there, or would replace the input."""
    if path == "-":
        if format == "parquet" and sys.stdout.isatty():
            raise UserError("output_format: parquet is not for a terminal; give --output")
        return Output(None, "standard output", format or "jsonl", is_stream=True)
    file = user_path(path, "output")
    try:
        mode = file.stat().st_mode if file.exists() else stat.S_IFREG
        file = file.resolve() if stat.S_ISREG(mode) else file  # what a link leads to is replaced, not the link
        is_input = source.path is not None and file.exists() and file.samefile(source.path)
        there = next(each for each in file.absolute().parents if each.exists())
        if stat.S_ISREG(mode):
            with tempfile.TemporaryFile(dir=there):
                pass
    except OSError as error:
        raise UserError(f"output: {shown(path)} cannot be written ({reason(error)})") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"output: {path} is a folder; name a file in it")
    if is_input:
        raise UserError(f"output: {path} is the input; name another file")
    return Output(file, path, format or format_of(file, "output", FORMATS), not stat.S_ISREG(mode))


@contextmanager
def writing(output: Output, table: Table) -> Iterator[Write]:
    """Gives what writes one chunk after another. Raises: UserError when nothing more can be written."""
    kinds = {"jsonl": _writing_jsonl, "parquet": _writing_parquet}
    with _opened_to_write(output) as file, kinds.get(table.format, _writing_csv)(file, table) as write:
        yield write


@contextmanager
def _opened_to_write(output: Output) -> Iterator[IO[bytes]]:
    try:
        if output.path is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif output.is_stream:
            with open(output.path, "wb") as file:
                yield file
        else:
            output.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(output.path) as partial, open(partial, "wb") as file:
                yield file
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"output: {output.name} could not be written ({reason(error)})") from None


@contextmanager
def _text_to_write(file: IO[bytes]) -> Iterator[io.TextIOWrapper]:
    # Half a surrogate pair, which JSON can name and a column that is not predicted may hold, is named again.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield text
    finally:
        text.detach()


@contextmanager
def _writing_jsonl(file: IO[bytes], table: Table) -> Iterator[Write]:
    names = table.names
    with _text_to_write(file) as text:

        def write(chunk: Chunk, added: Added) -> None:
            for i, row in enumerate(chunk.rows):
                entries = row.values | {names.label: added.labels[i]}
                if names.score is not None and added.scores is not None:
                    entries[names.score] = added.scores[i]
                if added.probabilities is not None:
                    each = added.probabilities[i]
                    entries[names.probabilities] = each and dict(zip(names.classes, each, strict=True))
                if row.fault is not None:
                    entries[names.error] = row.fault
                text.write(_json(entries) + "\n")
            text.flush()

        yield write


def _json(value: Any) -> str:
    """On one line; what JSON has no value for as text, and a number that is not finite as null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(for_json(value), ensure_ascii=False, allow_nan=False, default=str)


@contextmanager
def _writing_csv(file: IO[bytes], table: Table) -> Iterator[Write]:
    names = table.names
    with _text_to_write(file) as text:
        delimiter = "\t" if table.format == "tsv" else ","

        def write_line(fields: list[str]) -> None:
            text.write(delimiter.join(_quoted(field, delimiter) for field in fields) + "\n")

        missing: list[float | None] = [None] * len(names.classes)
        score_name = [] if names.score is None else [names.score]
        write_line([*table.columns, names.label, *score_name, *names.classes.values(), names.error])

        def joined(value: Any) -> str:
            return table.label_delimiter.join(map(_cell, value)) if isinstance(value, list) else _cell(value)

        def write(chunk: Chunk, added: Added) -> None:
            for i, row in enumerate(chunk.rows):
                fields = [_cell(row.values.get(name)) for name in table.columns]
                fields.append(joined(added.labels[i]))
                if added.scores is not None:
                    fields.append(joined(added.scores[i]))
                if added.probabilities is not None:
                    fields += map(_cell, added.probabilities[i] or missing)
                write_line([*fields, row.fault or ""])
            text.flush()

        yield write


def _storable(text: str) -> str:
    """With half a surrogate pair, which JSON can name, named as it is there."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _quoted(field: str, delimiter: str) -> str:
    """As the csv module does, which leaves a lone "\\r" without quotes, and reads that as a fault."""
    needed = '"' in field or delimiter in field or "\n" in field or "\r" in field
    return '"' + field.replace('"', '""') + '"' if needed else field


def _cell(value: Any) -> str:
    """A value as text: a missing one empty, what is neither text nor number as JSON."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return _json(value) if isinstance(value, (dict, list)) else str(value)


@contextmanager
def _writing_parquet(file: IO[bytes], table: Table) -> Iterator[Write]:
    import pyarrow
    import pyarrow.parquet

    names = table.names

    def kind(alias: str) -> Any:
        return pyarrow.list_(pyarrow.type_for_alias(alias)) if table.several_labels else pyarrow.type_for_alias(alias)

    text = pyarrow.string()
    kept = table.schema or [(name, pyarrow.type_for_alias(table.types[name])) for name in table.columns]
    fields = [*kept, (names.label, kind("string") if names.score is not None else pyarrow.float64())]
    fields += [] if names.score is None else [(names.score, kind("double"))]
    fields += [(name, pyarrow.float64()) for name in names.classes.values()]
    schema = pyarrow.schema([*fields, (names.error, text)])  # without metadata, which would speak of other columns

    def column(chunk: Chunk, name: str) -> list[Any]:
        wanted = table.types[name]
        values = [row.values.get(name) for row in chunk.rows]
        if wanted == "string":
            return [None if value is None else _storable(_cell(value)) for value in values]
        return [value if _fits(value, wanted) else None for value in values]

    missing: list[float | None] = [None] * len(names.classes)

    def array(values: Any, kind: Any) -> Any:
        is_arrow = isinstance(values, (pyarrow.Array, pyarrow.ChunkedArray))
        return values if is_arrow else pyarrow.array(values, kind)

    with pyarrow.parquet.ParquetWriter(file, schema) as writer:

        def write(chunk: Chunk, added: Added) -> None:
            if chunk.arrow is not None and table.schema is not None:
                columns = list(chunk.arrow.columns)
            else:
                columns = [column(chunk, name) for name in table.columns]
            columns.append(added.labels)
            if added.scores is not None:
                columns.append(added.scores)
            if added.probabilities is not None:
                rows = [each or missing for each in added.probabilities]
                columns += map(list, zip(*rows, strict=True)) if rows else [[] for _ in names.classes]
            columns.append([row.fault for row in chunk.rows])
            arrays = [array(values, each.type) for values, each in zip(columns, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

        yield write
