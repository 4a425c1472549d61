"""Write rows with their predictions, as csv, tsv, jsonl or parquet, a chunk at a time: to a file that is there whole or
not at all, or to a stream.

The input's columns are kept as they are, those of the prediction come after them.
"""

from __future__ import annotations

import csv
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

import pyarrow
import pyarrow.parquet

from ftloop.config.problem_type import ProblemType
from ftloop.data.compression import OUTPUT_COMPRESSIONS, compressing, split_endings
from ftloop.data.rows import Chunk, Row
from ftloop.data.sources import OUTPUT_FORMATS, Source, format_of
from ftloop.errors import UserError, os_reason
from ftloop.system.atomic import replace, sync
from ftloop.system.text import expand_path, nan_to_none, short_repr

ARROW_TYPES = {bool: "bool", int: "int64", float: "double", str: "string"}

Added = dict[str, list[Any]]
"""Columns that a prediction adds to a chunk, by name; None for a bad row."""
Write = Callable[[Chunk, Added], None]


@dataclass(frozen=True)
class Table:
    """What is written: the input's columns, then those of the prediction."""

    format: str
    columns: tuple[str, ...]
    added: dict[str, str]
    """Name of each added column, by what it holds: label, score, probabilities, error."""
    label_delimiter: str
    """Stands between several labels of a row in csv and tsv."""
    types: dict[str, str]
    """Arrow types of the input's columns, where only the output is parquet: those of the values in the first chunk."""
    schema: Any
    """Arrow schema of all columns, for parquet."""

    def become_text(self, rows: Sequence[Row]) -> list[str]:
        """Return the columns of a parquet file that are text though these rows have other values in them."""
        names = [name for name, kind in self.types.items() if kind == "string"]
        return [name for name in names if any(type(row.values.get(name)) not in (str, type(None)) for row in rows)]

    def flag_bad_rows(self, rows: Sequence[Row]) -> None:
        """Note rows with values that do not fit the columns as the first chunk has settled them. Only JSON has such."""
        known, added = set(self.columns), set(self.added.values())
        for row in rows:
            for name in row.values.keys() - known:
                if name in added or self.format != "jsonl":
                    why = (
                        "predictions are written under that name"
                        if name in added
                        else "there is no column for it; jsonl needs none"
                    )
                    row.error = row.error or f"has {short_repr(name)}, which the rows before have not; {why}"
            for name, wanted in self.types.items():
                value = row.values.get(name)
                if not _fits(value, wanted):
                    why = f"column {name} holds {short_repr(value)}, which is no {wanted} as in the rows before"
                    row.error = row.error or why


def make_table(
    format: str,
    first: Chunk,
    problem_type: ProblemType,
    classes: Sequence[str] = (),
    label_delimiter: str = "|",
) -> Table:
    """Settle, by the first chunk, what the columns are. `classes`: those whose probabilities are wanted."""
    label, score = pyarrow.string(), pyarrow.float64()
    if problem_type == ProblemType.MULTI_LABEL:
        label, score = pyarrow.list_(label), pyarrow.list_(score)
    kinds = {"label": score} if problem_type == ProblemType.REGRESSION else {"label": label, "score": score}
    if classes and format == "jsonl":
        kinds["probabilities"] = None
    else:
        kinds |= {f"probability_{name}": pyarrow.float64() for name in classes}
    kinds["error"] = pyarrow.string()
    added: dict[str, str] = {}
    for kind in kinds:
        name = kind
        while name in first.columns or name in added.values():
            name = f"predicted_{name}"
        added[kind] = name
    types, schema = {}, None
    if format == "parquet":
        if first.arrow is None:
            types = {name: _type_of([row.values.get(name) for row in first.rows]) for name in first.columns}
        fields = [(name, pyarrow.type_for_alias(kind)) for name, kind in types.items()]
        fields = fields if first.arrow is None else list(first.arrow.schema)
        # Without the metadata of the input, which would speak of other columns.
        schema = pyarrow.schema([*fields, *((added[kind], arrow_type) for kind, arrow_type in kinds.items())])
    return Table(format, first.columns, added, label_delimiter, types, schema)


def _type_of(values: list[Any]) -> str:
    """Return the Arrow type of values that are all of one type; of others text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return "double"
    kind = ARROW_TYPES.get(kinds.pop(), "string") if len(kinds) == 1 else "string"
    return kind if all(_fits(value, kind) for value in values) else "string"


def _fits(value: Any, wanted: str) -> bool:
    if value is None or wanted == "string":
        return True
    if wanted == "double":
        return type(value) in (int, float)
    return ARROW_TYPES.get(type(value)) == wanted and (wanted == "bool" or abs(value) < 2**63)


@dataclass(frozen=True)
class Output:
    path: Path | None
    """None: standard output."""
    name: str
    """Name used in messages."""
    format: str
    is_stream: bool
    """Written as it comes; a file is there whole or not at all."""
    compression: str | None = None
    """One of OUTPUT_COMPRESSIONS."""


def find_output(path: str, format: str | None, sources: Sequence[Source]) -> Output:
    """Find what a user named as output. Raises: UserError when it cannot be written, or would replace an input."""
    if path == "-":
        if format == "parquet" and sys.stdout.isatty():
            raise UserError("output_format: parquet is not for a terminal; give --output")
        return Output(None, "standard output", format or "jsonl", is_stream=True)
    file = expand_path(path, "output")
    try:
        mode = file.stat().st_mode if file.exists() else stat.S_IFREG
        file = file.resolve() if stat.S_ISREG(mode) else file  # what a link leads to is replaced, not the link
        is_input = file.exists() and any(each.path is not None and file.samefile(each.path) for each in sources)
        folder = next((parent for parent in file.absolute().parents if parent.exists()), None)
        if folder is None:  # on Windows
            raise UserError(f"output: {path} cannot be written (there is no drive {file.absolute().anchor})")
        if stat.S_ISREG(mode):
            with tempfile.TemporaryFile(dir=folder):
                pass
        if sys.platform == "win32" and file.is_file():  # another program, as Excel, may hold it
            with open(file, "r+b"):
                pass
    except OSError as error:
        way = "; is it open in another program?" if sys.platform == "win32" and file.is_file() else ""
        raise UserError(f"output: {short_repr(path)} cannot be written ({os_reason(error)}){way}") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"output: {path} is a folder; name a file in it")
    if is_input:
        raise UserError(f"output: {path} is the input; name another file")
    compression = split_endings(file)[1]
    found = Output(file, path, format or format_of(file, "output", OUTPUT_FORMATS), not stat.S_ISREG(mode), compression)
    if compression is not None and (compression not in OUTPUT_COMPRESSIONS or found.format == "parquet"):
        ways = f"csv, tsv and jsonl are compressed, into .{', .'.join(OUTPUT_COMPRESSIONS)}; parquet is within itself"
        raise UserError(f"output: {path} is not written; {ways}")
    return found


@contextmanager
def writing(output: Output, table: Table) -> Iterator[Write]:
    """Yield a function that writes one chunk after another. Raises: UserError when nothing more can be written."""
    with _opened_to_write(output) as stored, _compressed(stored, output.compression) as file:
        if table.format == "parquet":
            with pyarrow.parquet.ParquetWriter(file, table.schema) as writer:
                yield lambda chunk, added: writer.write_table(_arrow_table(table, chunk, added))
            return
        # Half a surrogate pair, which JSON can name and a column that is not predicted may hold, is named again.
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        try:
            yield _jsonl_writer(text, table) if table.format == "jsonl" else _csv_writer(text, table)
        finally:
            text.detach()


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
            # Not ".partial": what has that name a run that saves in this folder takes for its own, and deletes.
            partial = output.path.with_name(f".{output.path.name}.writing")
            try:
                with open(partial, "wb") as file:
                    yield file
                sync(partial)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            _put_in_place(partial, output.path, output.name)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"output: {output.name} could not be written ({os_reason(error)})") from None


def _put_in_place(partial: Path, path: Path, name: str) -> None:
    try:
        replace(partial, path)
        sync(path.parent)
    except OSError as error:
        told = f"output: {name} could not be replaced ({os_reason(error)})"
        raise UserError(f"{told}; every prediction is in {partial}, under another name") from None


@contextmanager
def _compressed(file: IO[bytes], compression: str | None) -> Iterator[IO[bytes]]:
    if compression is None:
        yield file
        return
    with compressing(file, compression) as content:
        yield content


def _jsonl_writer(text: IO[str], table: Table) -> Write:
    def write(chunk: Chunk, added: Added) -> None:
        for row, *values in zip(chunk.rows, *added.values(), strict=True):
            entries = row.values | dict(zip(added, values, strict=True))
            if row.error is None:
                del entries[table.added["error"]]
            text.write(json_line(entries) + "\n")
        text.flush()

    return write


def json_line(value: Any) -> str:
    """Return one line of JSON; what JSON has no value for as text, and a number that is not finite as null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(nan_to_none(value), ensure_ascii=False, allow_nan=False, default=str)


def _csv_writer(text: IO[str], table: Table) -> Write:
    write_row = row_writer(text, "\t" if table.format == "tsv" else ",")

    def joined(value: Any) -> str:
        return table.label_delimiter.join(map(as_cell, value)) if isinstance(value, list) else as_cell(value)

    def write(chunk: Chunk, added: Added) -> None:
        for row, *values in zip(chunk.rows, *added.values(), strict=True):
            write_row([*(as_cell(row.values.get(name)) for name in table.columns), *map(joined, values)])
        text.flush()

    write_row([*table.columns, *table.added.values()])
    return write


def row_writer(text: IO[str], delimiter: str) -> Callable[[Sequence[str]], None]:
    """Return a function that writes the cells of a row of csv or tsv, or its header."""
    plain, quoting_all = (
        csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\n")
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )

    def write(cells: Sequence[str]) -> None:
        # Before Python 3.13 the csv module leaves a lone "\r" without quotes, and reads that as an error.
        (quoting_all if any("\r" in cell for cell in cells) else plain).writerow(cells)

    return write


def as_cell(value: Any) -> str:
    """Return a value as text: a missing one empty, what is neither text nor number as JSON."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json_line(value) if isinstance(value, (dict, list)) else str(value)


def _arrow_table(table: Table, chunk: Chunk, added: Added) -> Any:
    columns = list(chunk.arrow.columns) if chunk.arrow is not None else []
    for name, wanted in table.types.items():
        values = [row.values.get(name) for row in chunk.rows]
        if wanted == "string":
            values = [None if value is None else storable(as_cell(value)) for value in values]
        columns.append([value if _fits(value, wanted) else None for value in values])
    arrays = [
        pyarrow.array(values, field.type) if isinstance(values, list) else values
        for values, field in zip([*columns, *added.values()], table.schema, strict=True)
    ]
    return pyarrow.Table.from_arrays(arrays, schema=table.schema)


def storable(text: str) -> str:
    """Name half a surrogate pair, which JSON can name and parquet cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
