"""Rows to predict: csv, tsv, json, jsonl and parquet, as files or as streams, a chunk at a time.

rows.py ends at the first fault of a file, as training must; here a row keeps its fault and those after it are read.
What is a row, a text and a missing value is the same in both.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ftloop.config import read_json, shown, user_path
from ftloop.errors import UserError, first_line, reason
from ftloop.rows import as_text, check_names, csv_reader, is_list, open_parquet

FORMATS = ("csv", "tsv", "jsonl", "parquet")
CHUNK_ROWS = 16_384
CHUNK_CHARACTERS = 2**25
"""Of the texts in a chunk, about, where rows are long."""
CHUNK_BYTES = 2**26
"""Of a chunk of parquet, about."""


@dataclass(slots=True)
class Row:
    number: int
    """The line it begins in, or in parquet the row, from 1."""
    values: dict[str, Any]
    """By column; of a row with a fault, what could be read."""
    fault: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Rows that follow each other in a file."""

    columns: tuple[str, ...]
    """As the header has them; in jsonl those of these rows."""
    rows: list[Row]
    rows_in_all: int | None
    """Of the file, as far as it can be told: in parquet exactly, else by the share that has been read."""
    arrow: Any = None
    """The same rows as they are in parquet."""

    def in_parts(self, most_rows: int) -> Iterator[Chunk]:
        for start in range(0, len(self.rows), most_rows):
            arrow = None if self.arrow is None else self.arrow.slice(start, most_rows)
            yield replace(self, rows=self.rows[start : start + most_rows], arrow=arrow)


@dataclass(frozen=True)
class Source:
    path: Path | None
    """None: standard input."""
    name: str
    """As messages call it."""
    format: str
    """One of FORMATS, or json."""

    @property
    def unit(self) -> str:
        """What its rows are counted in."""
        is_listed = self.format == "json" and is_list(str(self.path))
        return "row" if is_listed or self.format == "parquet" else "line"


@contextmanager
def find_source(path: str, format: str | None, read_twice: bool) -> Iterator[Source]:
    """What a user named as input: a file, a pipe, or `-`. A pipe that has to be read more than once is copied to the
    disk first.

    Raises: UserError when it is not there, or of no known format.
    """
    if path == "-":
        source = Source(None, "standard input", format or "jsonl")
    else:
        file = user_path(path, "input")
        try:
            mode = file.stat().st_mode
        except FileNotFoundError:
            raise UserError(f"input: no such file: {path}") from None
        except OSError as error:
            raise UserError(f"input: {shown(path)} cannot be read ({reason(error)})") from None
        if stat.S_ISDIR(mode):
            raise UserError(f"input: {path} is a folder, not a file")
        source = Source(file, path, format or format_of(file, "input", (*FORMATS, "json")))
        if stat.S_ISREG(mode):
            yield source
            return
    if not read_twice and source.format in ("csv", "jsonl"):
        yield source
        return
    with tempfile.NamedTemporaryFile(suffix=f".{source.format}") as copy:
        with _opened(source) as stream:
            shutil.copyfileobj(stream, copy)
        copy.flush()
        yield replace(source, path=Path(copy.name))


def format_of(file: Path, flag: str, formats: Sequence[str]) -> str:
    ending = file.suffix.lower().removeprefix(".")
    if ending not in formats:
        endings = ", ".join(f".{name}" for name in formats)
        raise UserError(f"{flag}: {file} has none of the endings {endings}; say which it is with --{flag}_format")
    return ending


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    if source.path is None:
        yield sys.stdin.buffer
        return
    with open(source.path, "rb") as file:
        yield file


@contextmanager
def _as_text(file: IO[bytes], newline: str = "") -> Iterator[io.TextIOWrapper]:
    """Bytes that are not UTF-8 become surrogates, by which the row that has them is found."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    try:
        yield text
    finally:
        if not file.closed:
            text.detach()  # whoever opened it closes it


def _as_csv(file: IO[bytes]) -> AbstractContextManager[io.TextIOWrapper]:
    """As in rows.py: where lines end in "\\n", a lone "\\r" outside of quotes ends none."""
    head = file.peek(1) if isinstance(file, io.BufferedReader) else b""
    return _as_text(file, newline="\n" if b"\n" in head else "")


def chunks(source: Source, most_rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """All rows in their order, at least one chunk. Lines that are blank are no rows.

    Raises: UserError when there is no header, or nothing more can be read.
    """
    if source.format == "parquet":
        yield from _parquet_chunks(source, most_rows)
        return
    with _opened(source) as file:
        try:
            if source.format == "csv":
                yield from _csv_chunks(source, file, ",", csv.QUOTE_MINIMAL, most_rows)
            elif source.format == "tsv":
                yield from _csv_chunks(source, file, "\t", _tsv_quoting(source), most_rows)
            else:
                is_whole = source.unit == "row"
                rows = _list_rows(source, file) if is_whole else _jsonl_rows(file)
                yield from _grouped(None, rows, most_rows, file)
        except OSError as error:
            if error.filename is not None:  # of another file
                raise
            raise UserError(f"{source.name}: cannot be read ({reason(error)})") from None


def _grouped(columns: tuple[str, ...] | None, rows: Iterator[Row], most_rows: int, file: IO[bytes]) -> Iterator[Chunk]:
    """`columns`: None, where each row names its own."""
    so_far: list[Row] = []
    before, characters = 0, 0

    def chunk(expected: int | None) -> Chunk:
        names = columns if columns is not None else tuple(dict.fromkeys(name for row in so_far for name in row.values))
        return Chunk(names, so_far, expected)

    for row in rows:
        so_far.append(row)
        characters += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if len(so_far) >= most_rows or characters >= CHUNK_CHARACTERS:
            share = _share_read(file)
            before += len(so_far)
            yield chunk(None if share is None else round(before / share))
            so_far, characters = [], 0
    if so_far or not before:
        yield chunk(before + len(so_far))


def _share_read(file: IO[bytes]) -> float | None:
    try:
        return file.tell() / os.fstat(file.fileno()).st_size
    except (OSError, ValueError, ZeroDivisionError):  # a pipe
        return None


def _csv_chunks(source: Source, file: IO[bytes], delimiter: str, quoting: Any, most_rows: int) -> Iterator[Chunk]:
    with _as_csv(file) as text:
        reader = csv_reader(text, delimiter, quoting)
        try:
            header = next((fields for fields in reader if fields), None)
        except csv.Error as error:
            raise UserError(f"{source.name}: the header cannot be read ({error})") from None
        if header is None:
            raise UserError(f"{source.name} is empty: it has not even a header")
        if not all(map(_is_utf8, header)):
            raise UserError(f"{source.name}: the header is not UTF-8; save the file as UTF-8")
        check_names(header, source.name)
        yield from _grouped(tuple(header), _csv_rows(reader, header), most_rows, file)


def _csv_rows(reader: Any, header: list[str]) -> Iterator[Row]:
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield Row(number, {}, _csv_fault(str(error)))
            continue
        if fields is None:
            return
        if not fields:
            continue
        if len(fields) != len(header):
            yield Row(number, {}, f"{len(fields)} fields where the header has {len(header)}")
            continue
        values = dict(zip(header, fields, strict=True))
        broken = [name for name, value in values.items() if not _is_utf8(value)]
        if broken:
            told = f"column {', '.join(map(shown, broken))} is not UTF-8"
            yield Row(number, values | {name: _shown_bytes(values[name]) for name in broken}, told)
        else:
            yield Row(number, values)


def _csv_fault(told: str) -> str:
    if "unexpected end" in told:
        return "a quote is opened here and never closed: the rest of the file is taken for this row"
    return "a line end outside of quotes in the middle of it" if "new-line character" in told else told


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown_bytes(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _tsv_quoting(source: Source) -> Any:
    """Whether a tsv file is quoted like csv or holds bare quotes, as GLUE's do: by which of the two more of its lines
    are rows. If there are as many, the quotes stand around whole fields.
    """

    def rows(quoting: Any) -> int:
        with _opened(source) as file, _as_csv(file) as text:
            reader = csv_reader(text, "\t", quoting)
            try:
                header: list[str] = next((fields for fields in reader if fields), [])
            except csv.Error:
                return 0
            return sum(row.fault is None for row in _csv_rows(reader, header))

    return max((csv.QUOTE_MINIMAL, csv.QUOTE_NONE), key=rows)


def _jsonl_rows(file: IO[bytes]) -> Iterator[Row]:
    with _as_text(file) as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            if not _is_utf8(line):
                yield Row(number, {}, "not UTF-8")
                continue
            try:
                record = read_json(line)
            except ValueError as error:
                what = f"{error.msg}, character {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                yield Row(number, {}, f"not JSON ({what})")
                continue
            yield _json_row(number, record)


def _list_rows(source: Source, file: IO[bytes]) -> Iterator[Row]:
    """Of one JSON list, which is read whole."""
    try:
        records = read_json(file.read().decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{source.name}: not JSON ({error})") from None
    yield from (_json_row(number, record) for number, record in enumerate(records, start=1))


def _json_row(number: int, record: Any) -> Row:
    if isinstance(record, dict):
        return Row(number, record)
    return Row(number, {}, f"expected an object of columns, found {type(record).__name__}")


def _parquet_chunks(source: Source, most_rows: int) -> Iterator[Chunk]:
    import pyarrow

    file = open_parquet(str(source.path))
    columns = tuple(str(name) for name in file.schema_arrow.names)
    check_names(columns, source.name)
    in_all, number = file.metadata.num_rows, 0
    size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
    batch_size = max(1, min(most_rows, CHUNK_BYTES * in_all // max(size, 1)))
    try:
        for batch in file.iter_batches(batch_size=batch_size):
            values = zip(*(_python_values(column) for column in batch.columns), strict=True)
            rows = [Row(number + i, dict(zip(columns, row, strict=True))) for i, row in enumerate(values, start=1)]
            number += len(rows)
            yield Chunk(columns, rows, in_all, batch)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{source.name}: not readable as parquet after row {number} ({first_line(error)})") from None
    if not number:
        yield Chunk(columns, [], 0, file.schema_arrow.empty_table())


def _python_values(column: Any) -> list[Any]:
    """Of an Arrow array; those that Python has no type for, such as nanoseconds, as text."""
    import pyarrow

    try:
        values: list[Any] = column.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError):
        values = column.cast(pyarrow.string()).to_pylist()
    return values


def texts_of(row: Row, columns: Sequence[str]) -> list[str]:
    """The texts of a row; if one is missing or is no text, the row has a fault from now on."""
    texts = []
    for name in columns:
        try:
            text = as_text(row.values.get(name), f"column {name}")
        except UserError as error:
            row.fault = row.fault or str(error)
            continue
        if text is None:
            row.fault = row.fault or f"column {name} is missing"
        else:
            texts.append(text)
    return texts
