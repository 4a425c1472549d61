"""Rows from local files: csv, tsv, json, jsonl, parquet. Every fault is told with its file and line.

Rows go through Arrow on disk, so a large file is never held in memory (a json list is, while it is read). Every value
is kept as text, a list of labels as a list of texts: what a label means (a class or a number) is decided over all rows,
in data.py, not by the first ones.
"""

from __future__ import annotations

import csv
import json
import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ftloop.config import read_json, shown, user_path
from ftloop.errors import UserError, first_line, reason
from ftloop.facts import file_of

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
Record = dict[str, Any]


def check_file(path: str, flag: str) -> None:
    """Raises: UserError when the file is missing, empty or of a format not read here."""
    file = user_path(path, flag)
    try:
        found = file.stat()
    except FileNotFoundError:
        raise UserError(f"{flag}: no such file: {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UserError(f"{flag}: {shown(path)} cannot be read ({reason(error)})") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{flag}: {path} is {'a folder' if file.is_dir() else 'a pipe or a device'}, not a file")
    if file.suffix.lower() not in FORMATS:
        raise UserError(f"{flag}: {path} has none of the endings {', '.join(FORMATS)}")
    if found.st_size == 0:
        raise UserError(f"{flag}: {path} is empty")


def column_names(path: str) -> list[str]:
    """The columns of a file, from its header or, in json, its first row.

    Raises: UserError when there are none, they cannot be read, or one is named twice.
    """
    path = str(user_path(path, "file"))
    with _told_if_unreadable(path):
        if _suffix(path) == ".parquet":
            names = [str(name) for name in open_parquet(path).schema_arrow.names]
        elif _suffix(path) in (".csv", ".tsv"):
            names = _header(path)
        else:
            first = next(_records(path, None), None)
            if first is None:
                raise UserError(f"{path}: no rows")
            names = list(first[1])
    check_names(names, path)
    return names


def check_names(names: Sequence[str], path: str) -> None:
    """Raises: UserError for two columns of one name, and for a name that is no text."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the header names {', '.join(map(shown, twice))} more than once")
    for name in names:
        as_text(name, f"{path}: the name of column {shown(name)}")
        if "\0" in name:
            raise UserError(f"{path}: the name of column {shown(name)} holds a NUL character")


def holds_lists(path: str, column: str) -> bool:
    """Whether the values of a column are lists, going by the first that is there. One of the other kind is a fault."""
    path = str(user_path(path, "file"))
    if _suffix(path) in (".csv", ".tsv"):
        return False
    values = (record.get(column) for _, record in _records(path, [column]))
    return isinstance(next((value for value in values if not _is_missing(value)), None), list)


def read_table(
    path: str,
    text_columns: Sequence[str],
    label_column: str | None,
    lists: bool = False,
    label_delimiter: str | None = None,
) -> Any:
    """The rows of a file as a `datasets.Dataset` of strings: the text columns and, if there is one, the label. Where
    labels are `lists`, or are split at `label_delimiter`, each is a list of strings.

    Raises: UserError when there is no row, or naming file, line and column of the first fault.
    """
    import datasets

    path = str(user_path(path, "file"))
    columns = [*text_columns, *([label_column] if label_column else [])]
    several = label_column if lists or label_delimiter is not None else None
    kinds = {name: datasets.Value("string") for name in columns}
    if several is not None:
        kinds[several] = datasets.List(datasets.Value("string"))
    with _told_if_unreadable(path):
        stamp = file_of(path)
    try:
        return datasets.Dataset.from_generator(
            _text_rows,
            features=datasets.Features(kinds),
            # The stamp makes a changed file miss the cache, which knows the arguments alone. A tuple, because a list
            # would be taken for shards, one call of the generator for each.
            gen_kwargs={
                "path": path,
                "columns": tuple(columns),
                "stamp": stamp,
                "several": several,
                "delimiter": label_delimiter,
            },
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, (UserError, OSError)):  # OSError: of the cache, as on a full disk
            raise error.__cause__ from None
        raise


def _text_rows(
    path: str, columns: tuple[str, ...], stamp: tuple[Any, ...], several: str | None, delimiter: str | None
) -> Iterator[dict[str, str | list[str] | None]]:
    del stamp
    place = None
    for place, record in _records(path, columns):
        row: dict[str, str | list[str] | None] = {}
        for name in columns:
            value, where = record.get(name), f"{path}, {place}: column {name}"
            row[name] = as_names(value, where, delimiter) if name == several else as_text(value, where)
        yield row
    if place is None:
        raise UserError(f"{path}: no rows")


def as_text(value: Any, where: str) -> str | None:
    """A value as text; None where it is missing. Raises: UserError for what is neither text nor number."""
    if _is_missing(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise UserError(f"{where} holds an infinite number")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where} holds half a surrogate pair, which is no text") from None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    raise UserError(f"{where} holds {type(value).__name__}, not a text or a number")


def as_names(value: Any, where: str, delimiter: str | None) -> list[str] | None:
    """A label of several names: a list, or a text split at the delimiter, where an empty one is of no name. None where
    it is missing. Raises: UserError.
    """
    if _is_missing(value):
        return None
    if isinstance(value, list):
        names = [as_text(item, where) for item in value]
    elif delimiter is None:
        raise UserError(f"{where} holds {type(value).__name__}, where others hold a list of names")
    else:
        text = as_text(value, where) or ""
        names = [name.strip() for name in text.split(delimiter)] if text.strip() else []
    for number, name in enumerate(names):
        if not name:
            raise UserError(f"{where}: name {number + 1} of its list is empty")
        if name in names[:number]:
            vector = "; names are wanted, not a vector of 0 and 1" if name in ("0", "1", "0.0", "1.0") else ""
            raise UserError(f"{where}: {shown(name)} is there twice{vector}")
    return [name for name in names if name is not None]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # NaN is how pandas writes it


def blank_lines(path: str) -> int:
    """Lines of a readable file that are no rows. In a list of objects and in parquet there are none."""
    path = str(user_path(path, "file"))
    if _suffix(path) == ".parquet" or (_suffix(path) == ".json" and is_list(path)):
        return 0
    if _suffix(path) in (".json", ".jsonl"):
        with _open(path) as file:
            return sum(not line.strip() for line in file)
    is_tsv = _suffix(path) == ".tsv"
    quoting = _tsv_quoting(path, Path(path).stat().st_mtime_ns) if is_tsv else csv.QUOTE_MINIMAL
    with _open_csv(path) as file:
        return sum(not fields for fields in csv_reader(file, "\t" if is_tsv else ",", quoting))


def _records(path: str, columns: Sequence[str] | None) -> Iterator[tuple[str, Record]]:
    """Place (a line of the file, or a row where it has no lines, from 1) and record, one by one.

    `columns`: those that are needed; parquet then reads no others.
    """
    readers = {".csv": _csv_records, ".tsv": _tsv_records, ".jsonl": _jsonl_records, ".json": _json_records}
    with _told_if_unreadable(path):
        yield from _parquet_records(path, columns) if _suffix(path) == ".parquet" else readers[_suffix(path)](path)


@contextmanager
def _told_if_unreadable(path: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        line = _first_line_not_utf8(path)
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None


def _first_line_not_utf8(path: str) -> int:
    with open(path, encoding="latin-1", newline="") as file:  # every byte is a character of latin-1
        for number, line in enumerate(file, start=1):
            try:
                line.encode("latin-1").decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError("every line of the file is UTF-8")


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


def _open(path: str, newline: str = "") -> Any:
    return open(path, encoding="utf-8-sig", newline=newline)


def csv_reader(file: Any, delimiter: str, quoting: Any) -> Any:
    csv.field_size_limit(2**31 - 1)
    return csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)


def _open_csv(path: str) -> Any:
    """Where lines end in "\\n", a lone "\\r" outside of quotes ends none: it is an error, not one row made two."""
    with _open(path) as file:
        return _open(path, newline="\n" if "\n" in file.read(2**16) else "")


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
    with _open_csv(path) as file:
        reader = csv_reader(file, delimiter, quoting)
        line = 1
        try:
            for fields in reader:
                if fields:
                    yield f"line {line}", fields
                line = reader.line_num + 1
        except csv.Error as error:
            what = "a line end outside of quotes in the middle of it" if "new-line character" in str(error) else error
            raise UserError(f"{path}, line {line}: {what}") from None


def _header(path: str) -> list[str]:
    lines = _csv_lines(path, ",", csv.QUOTE_MINIMAL) if _suffix(path) == ".csv" else _tsv_lines(path)
    _, header = next(lines, ("", []))
    if not header:
        raise UserError(f"{path}: no rows")
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
                record = read_json(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from None
            yield f"line {number}", _checked(record, path, f"line {number}")


def _json_records(path: str) -> Iterator[tuple[str, Record]]:
    """A list of objects, or one object a line."""
    if not is_list(path):
        yield from _jsonl_records(path)
        return
    with _open(path) as file:
        try:
            records = read_json(file.read())
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error})") from None
    for number, record in enumerate(records, start=1):
        yield f"row {number}", _checked(record, path, f"row {number}")


def is_list(path: str) -> bool:
    with _open(path) as file:
        while part := file.read(4096):
            if part.strip():
                return bool(part.lstrip()[0] == "[")
    return False


def _checked(record: Any, path: str, place: str) -> Record:
    if not isinstance(record, dict):
        raise UserError(f"{path}, {place}: expected an object of columns, found {type(record).__name__}")
    return record


def open_parquet(path: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    with open(path, "rb"):
        pass  # what the system has against it is told as for any file
    try:
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False)  # or it would hold the file
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: a name in it is not UTF-8
        raise UserError(f"{path}: not a parquet file ({first_line(error)})") from None


def _parquet_records(path: str, columns: Sequence[str] | None) -> Iterator[tuple[str, Record]]:
    import pyarrow

    number = 0
    try:
        for batch in open_parquet(path).iter_batches(columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # texts that are none, dates
        raise UserError(f"{path}: not readable as parquet after row {number} ({first_line(error)})") from None
