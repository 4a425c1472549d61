"""Rows from local files: csv, tsv, json, jsonl, parquet. Every fault is told with its file and line.

Rows go through Arrow on disk, so a large file is never held in memory (a json list is, while it is read). Every value
is kept as text: what a label means (a class or a number) is decided over all rows, in data.py, not by the first ones.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ftloop.errors import UserError

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
Record = dict[str, Any]


def check_file(path: str, flag: str) -> None:
    """Raises: UserError when the file is missing, empty or of a format not read here."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{flag}: no such file: {path}")
    if file.suffix.lower() not in FORMATS:
        raise UserError(f"{flag}: {path} has none of the endings {', '.join(FORMATS)}")
    if file.stat().st_size == 0:
        raise UserError(f"{flag}: {path} is empty")


def column_names(path: str) -> list[str]:
    """The columns of a file, from its header or, in json, its first row.

    Raises: UserError when there are none, they cannot be read, or one is named twice.
    """
    path = str(Path(path).expanduser())
    if _suffix(path) == ".parquet":
        return [str(name) for name in _parquet(path).schema_arrow.names]
    if _suffix(path) in (".csv", ".tsv"):
        with _told_if_not_utf8(path):
            return _header(path)
    first = next(_records(path), None)
    if first is None:
        raise UserError(f"{path}: no rows")
    return list(first[1])


def read_table(path: str, text_columns: Sequence[str], label_column: str | None) -> Any:
    """The rows of a file as a `datasets.Dataset` of strings: the text columns and, if there is one, the label.

    Raises: UserError when there is no row, or naming file, line and column of the first fault.
    """
    import datasets

    path = str(Path(path).expanduser())
    columns = [*text_columns, *([label_column] if label_column else [])]
    stat = Path(path).stat()
    try:
        return datasets.Dataset.from_generator(
            _text_rows,
            features=datasets.Features({name: datasets.Value("string") for name in columns}),
            # The stamp makes a changed file miss the cache, which knows the arguments alone. A tuple, because a list
            # would be taken for shards, one call of the generator for each.
            gen_kwargs={"path": path, "columns": tuple(columns), "stamp": (stat.st_size, stat.st_mtime_ns)},
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _text_rows(path: str, columns: tuple[str, ...], stamp: tuple[int, int]) -> Iterator[dict[str, str | None]]:
    del stamp
    place = None
    for place, record in _records(path):
        yield {name: as_text(record.get(name), f"{path}, {place}: column {name}") for name in columns}
    if place is None:
        raise UserError(f"{path}: no rows")


def as_text(value: Any, where: str) -> str | None:
    """A value as text; None where it is missing. Raises: UserError for what is neither text nor number."""
    if isinstance(value, float) and math.isnan(value):
        return None  # how pandas writes a missing value
    if isinstance(value, float) and math.isinf(value):
        raise UserError(f"{where} holds an infinite number")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where} holds half a surrogate pair, which is no text") from None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    raise UserError(f"{where} holds {type(value).__name__}, not a text or a number")


def _records(path: str) -> Iterator[tuple[str, Record]]:
    """Place (a line of the file, or a row where it has no lines, from 1) and record, one by one."""
    suffix = _suffix(path)
    readers = {".csv": _csv_records, ".tsv": _tsv_records, ".jsonl": _jsonl_records, ".json": _json_records}
    if suffix == ".parquet":
        yield from _parquet_records(path)
        return
    with _told_if_not_utf8(path):
        yield from readers[suffix](path)


@contextmanager
def _told_if_not_utf8(path: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        line = _first_line_not_utf8(path)
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _first_line_not_utf8(path: str) -> int:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError("every line of the file is UTF-8")


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


def _open(path: str) -> Any:
    return open(path, encoding="utf-8-sig", newline="")


def _csv_records(path: str, delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> Iterator[tuple[str, Record]]:
    lines = _csv_lines(path, delimiter, quoting)
    _, header = next(lines, ("", []))
    for place, fields in lines:
        if len(fields) != len(header):
            raise UserError(f"{path}, {place}: {len(fields)} fields where the header has {len(header)}")
        # An empty field is an empty text, which is valid; data.py treats an empty label as missing.
        yield place, dict(zip(header, fields, strict=True))


def _csv_lines(path: str, delimiter: str, quoting: Any) -> Iterator[tuple[str, list[str]]]:
    """The fields of every line that is not blank, the header's first. A quoted field may go over several lines; the
    place is where its line begins.
    """
    csv.field_size_limit(2**31 - 1)
    with _open(path) as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        line = 1
        try:
            for fields in reader:
                if fields:
                    yield f"line {line}", fields
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}, line {line}: {error}") from None


def _header(path: str) -> list[str]:
    lines = _csv_lines(path, ",", csv.QUOTE_MINIMAL) if _suffix(path) == ".csv" else _tsv_lines(path)
    _, header = next(lines, ("", []))
    if not header:
        raise UserError(f"{path}: no rows")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the header names {', '.join(map(repr, twice))} more than once")
    return header


def _tsv_lines(path: str) -> Iterator[tuple[str, list[str]]]:
    return _csv_lines(path, "\t", _tsv_quoting(path, Path(path).stat().st_mtime_ns))


def _tsv_records(path: str) -> Iterator[tuple[str, Record]]:
    return _csv_records(path, "\t", _tsv_quoting(path, Path(path).stat().st_mtime_ns))


@cache  # it reads the whole file, twice
def _tsv_quoting(path: str, modified: int) -> Any:
    """Whether a tsv file is quoted like csv, or holds bare quotes, as GLUE's own files do.

    The reading that gets through the file, or further into it, is the right one. Where both get through, bare quotes
    that happen to match have made one row of several, and the reading with more rows is; if there are as many, the
    quotes stand around whole fields.
    """

    def gets_through(quoting: Any) -> tuple[bool, int]:
        count = 0
        try:
            for _ in _csv_records(path, "\t", quoting):
                count += 1
        except UserError:
            return False, count
        return True, count

    return max((csv.QUOTE_MINIMAL, csv.QUOTE_NONE), key=gets_through)


def _jsonl_records(path: str) -> Iterator[tuple[str, Record]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from None
            yield f"line {number}", _checked(record, path, f"line {number}")


def _json_records(path: str) -> Iterator[tuple[str, Record]]:
    """A list of objects, or one object a line."""
    with _open(path) as file:
        start = file.read(4096).lstrip()[:1]
        file.seek(0)
        if start != "[":
            yield from _jsonl_records(path)
            return
        try:
            records = json.load(file)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({error})") from None
    for number, record in enumerate(records, start=1):
        yield f"row {number}", _checked(record, path, f"row {number}")


def _checked(record: Any, path: str, place: str) -> Record:
    if not isinstance(record, dict):
        raise UserError(f"{path}, {place}: expected an object of columns, found {type(record).__name__}")
    return record


def _parquet(path: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(Path(path).expanduser())
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a parquet file ({error})") from None


def _parquet_records(path: str) -> Iterator[tuple[str, Record]]:
    import pyarrow

    number = 0
    try:
        for batch in _parquet(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as parquet after row {number} ({error})") from None
