"""Rows of csv, tsv and txt files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from io import TextIOWrapper
from itertools import chain, islice
from operator import methodcaller
from typing import Any

from ftloop.data.encoding import undecodable, without_bad_bytes
from ftloop.data.recognize import STAND_IN, are_named_rows
from ftloop.data.rows import HEAD_ROWS, Row
from ftloop.data.sources import TABLES, Source
from ftloop.data.values import as_text, is_utf8
from ftloop.errors import UserError, summarize
from ftloop.system.text import pluralize, short_repr

HEADER_AGAIN = "the header again, as where files were put together, and no row"

ROW_NAMES = "(row names)"
"""The column in front to which R's `write.table` gives no name."""


def read_table(source: Source, text: TextIOWrapper) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Read the header, and return it with the rows to come. Raises: UserError when the header cannot be read."""
    return _read_table(source, text, *dialect_of(source), escapes_quotes(source), skips_blanks(source))


def dialect_of(source: Source) -> tuple[str, Any]:
    """Return the delimiter and the quoting of a table. Quotes say nothing of a delimiter of several characters."""
    delimiter = source.delimiter
    if len(delimiter) > 1:
        return delimiter, csv.QUOTE_NONE
    if delimiter == "," or source.path is None or not source.is_file or escapes_quotes(source):
        return delimiter, csv.QUOTE_MINIMAL
    return delimiter, _choose_quoting(source, source.path.stat().st_mtime_ns)


def escapes_quotes(source: Source) -> bool:
    """Whether a backslash stands before quotes inside fields, as Spark and MySQL write them: only if no row is bad so,
    and some are else.
    """
    if source.path is None or not source.is_file or source.format not in TABLES or len(source.delimiter) > 1:
        return False
    return _escapes_quotes(source, source.path.stat().st_mtime_ns)


@cache  # it reads the whole file
def _escapes_quotes(source: Source, modified: int) -> bool:
    """Beside tabs quotes may be text, all of them: there each field that begins with one has to end with it, and those
    within have a backslash; or lines and tabs within quotes make bad rows of it else.
    """
    if not _holds(source, b'\\"') or _quality(source, csv.QUOTE_MINIMAL)[0]:
        return False
    is_good, rows = _quality(source, csv.QUOTE_MINIMAL, escaped=True)
    if not is_good or source.delimiter != "\t" or _begins_quoted(source):
        return is_good
    is_good, others = _quality(source, csv.QUOTE_NONE)
    return _are_closed(source) if is_good else others <= rows


def skips_blanks(source: Source) -> bool:
    """Whether blanks behind a comma are no part of a field: where the header has one behind each, as people and
    language models write csv, and no row that is good else is bad so.
    """
    is_table = source.path is not None and source.is_file and source.format in TABLES
    if not is_table or source.delimiter != "," or source.reading.column_names:
        return False
    assert source.path is not None
    return _skips_blanks(source, source.path.stat().st_mtime_ns)


@cache
def _skips_blanks(source: Source, modified: int) -> bool:
    with source.open() as file, source.text(file) as text:
        try:
            header = text.readline()
        except UnicodeError:  # which is told when it is read
            return False
    if not 0 < header.count(",") == header.count(", "):
        return False
    return _quality(source, csv.QUOTE_MINIMAL, blanks=True)[1] >= _quality(source, csv.QUOTE_MINIMAL)[1]


def _quality(source: Source, quoting: Any, escaped: bool = False, blanks: bool = False) -> tuple[bool, int]:
    """Return whether a reading makes no bad row of a file, and how many good ones."""
    with source.open() as file, source.text(file) as text:
        try:
            rows = _read_table(source, text, source.delimiter, quoting, escaped, blanks)[1]
            errors = [row.error not in (None, HEADER_AGAIN) for row in rows]
        except UserError:  # about the header
            return False, 0
    return not any(errors), errors.count(False)


def _are_closed(source: Source) -> bool:
    """Whether each field with a quote in front or behind a backslash is a whole one in quotes."""
    closed = re.compile(r'"(?:[^"\\]|\\.|"")*"')
    with source.open() as file, source.text(file) as text:
        fields = (field for line in text for field in line.rstrip("\r\n").split(source.delimiter))
        return all(closed.fullmatch(field) for field in fields if field.startswith('"') or '\\"' in field)


def _begins_quoted(source: Source) -> bool:
    with source.open() as file, source.text(file) as text:
        try:
            return text.read(1) == '"'
        except UnicodeError:  # which is told when it is read
            return False


def _holds(source: Source, searched: bytes) -> bool:
    with source.open() as file:
        # Block by block, each to the end of a line, so that no pair is cut in two: much faster than line by line.
        blocks = iter(lambda: file.read(2**20) + file.readline(), b"")
        return any(searched in block for block in blocks)


@cache  # it reads the whole file, and where bare quotes are possible twice
def _choose_quoting(source: Source, modified: int) -> Any:
    """Tell whether a file is quoted like csv, or holds bare quotes, as GLUE's own files do, and sentences with an @
    behind them. Commas are not asked about: texts hold them, so that quotes are needed.

    The reading without any bad row is the right one. Of tabs, which texts hardly hold, it is else the one with more
    good rows. Where both get through, bare quotes that happen to match have made one row of several, and the reading
    with more rows is right; if there are as many, the quotes stand around whole fields.
    """
    if not _holds(source, b'"'):
        return csv.QUOTE_MINIMAL

    if source.delimiter == "\t":
        return max((csv.QUOTE_MINIMAL, csv.QUOTE_NONE), key=partial(_quality, source))
    are_bare = not _quality(source, csv.QUOTE_MINIMAL)[0] and _quality(source, csv.QUOTE_NONE)[0]
    return csv.QUOTE_NONE if are_bare else csv.QUOTE_MINIMAL


def _read_table(
    source: Source, text: TextIOWrapper, delimiter: str, quoting: Any, escaped: bool = False, blanks: bool = False
) -> tuple[tuple[str, ...], Iterator[Row]]:
    encoding, names = source.reading.encoding, source.reading.column_names
    lines = _read_lines(source, text, delimiter, quoting, escaped, blanks)
    first = next(lines, (0, [], None))
    if delimiter.join(first[1]) == f"sep={delimiter}":  # a line of Excel's own
        first = next(lines, (0, [], None))
    if names:
        cells = [field.strip().casefold() for field in first[1]]
        named = [name for name, cell in zip(names, cells, strict=False) if name.casefold() == cell]
        if named:
            has = f"{source.name} has one: line {first[0]} names {', '.join(named)}"
            raise UserError(f"column_names: only for files without a header, and {has}; leave it out")
        if first[2] is None and first[1] and len(cells) != len(names):
            has = f"{source.name}, line {first[0]} has {pluralize(len(cells), 'column')}"
            raise UserError(f"column_names: {has}, and {pluralize(len(names), 'name')} given: {', '.join(names)}")
        return names, _rows(names, chain([first], lines) if first[0] else iter(()), encoding, "--column_names", names)
    number, header, error = first
    if error is None and (not all(map(is_utf8, header)) or "\0" in "".join(header)):
        error = undecodable("".join(header), encoding)
    if error is not None:
        raise UserError(f"{source.name}, line {number}: the header is unreadable: {error}")
    if not header:
        raise UserError(f"{source.name}: no rows, and not even a header")
    ahead = list(islice(lines, 1)) if source.is_file else []
    if ahead and len(ahead[0][1]) == len(header) + 1:
        ahead += islice(lines, HEAD_ROWS - 1)
    named_by = "the header"
    if are_named_rows([fields for _, fields, _ in ahead], len(header)):
        header, named_by = [ROW_NAMES, *header], "the header with the names of the rows"
    names = numbered(header)
    check_names(names, source.name)
    return names, _rows(names, chain(ahead, lines), encoding, named_by, header)


def way_of_fields(source: Source, number: int, error: str) -> str:
    """Return why a row may have too many fields, and what to do; nothing for another error."""
    counted = re.match(r"(\d+) fields where .* has (\d+)$", error)
    if counted is None or int(counted[1]) <= int(counted[2]):
        return ""
    if number == 2 and int(counted[1]) == int(counted[2]) + 1:
        shown = short_repr(source.delimiter)
        told = f"the names of rows need a name in front of line 1, an empty last field an end of line 1 with {shown}"
        return f"; {told}, a text that holds {shown} quotes around it"
    if len(source.delimiter) > 1:
        return f"; a text cannot hold {short_repr(source.delimiter)}"
    if source.delimiter != "\t":
        return f"; a text that holds {short_repr(source.delimiter)} has to stand in quotes"
    command = source.copied_by(f"cut -f1-{counted[2]}")
    return f"; {command} leaves out what is beyond the first {counted[2]}" if command and not _is_quoted(source) else ""


def _is_quoted(source: Source) -> bool:
    """Whether a tab may be part of a text."""
    return dialect_of(source)[1] == csv.QUOTE_MINIMAL and _holds(source, b'"')


def numbered(header: Sequence[str]) -> tuple[str, ...]:
    """Return names of which each is there once: one that several columns have is followed by each one's number."""
    if len(set(header)) == len(header):
        return tuple(header)
    names = [
        f"{name} (column {number})".lstrip() if header.count(name) > 1 else name
        for number, name in enumerate(header, start=1)
    ]
    return tuple(names)


def check_names(names: Iterable[str], source_name: str) -> None:
    """Raises: UserError for the name of a column that is not text."""
    for name in names:
        as_text(name, f"{source_name}: the name of column {short_repr(name)}")
        if "\0" in name:
            raise UserError(f"{source_name}: the name of column {short_repr(name)} holds a NUL character")


def _read_lines(
    source: Source, text: TextIOWrapper, delimiter: str, quoting: Any, escaped: bool, blanks: bool
) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield number, fields and error of every line that is not blank. A quoted field may span several lines; the number
    is that of the first.

    Raises: UserError where nothing more can be decoded.
    """
    csv.field_size_limit(2**31 - 1)
    content: Iterable[str] = map(_double_quotes, text) if escaped else text
    if len(delimiter) > 1:
        content, delimiter = map(methodcaller("replace", delimiter, STAND_IN), text), STAND_IN
    reader = csv.reader(content, delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=blanks)
    while True:
        number = reader.line_num + 1
        try:
            for fields in reader:
                if fields:
                    yield number, fields, None
                number = reader.line_num + 1
            return
        except csv.Error as error:
            yield number, [], _csv_error(str(error))
        except UnicodeError as error:  # surrogates stand for single bytes; UTF-16 and others end at a bad one
            raise source.error(number, f"not {text.encoding} from here on ({summarize(error)})") from None


def _double_quotes(line: str) -> str:
    """Write quotes behind a backslash as csv has them, doubled; no other backslash is touched."""
    return re.sub(r'\\\\(?=")|\\"', lambda found: '""' if found[0][-1] == '"' else "\\", line)


def _csv_error(message: str) -> str:
    if "expected after" in message:
        return f"{message}: inside quotes a quote is written twice, or in all rows behind a backslash"
    if "unexpected end" in message:
        return "a quote is opened here and never closed: the rest of the file is taken for this row"
    return "a line end outside of quotes in the middle of it" if "new-line character" in message else message


def _rows(
    header: tuple[str, ...],
    lines: Iterator[tuple[int, list[str], str | None]],
    encoding: str | None,
    named_by: str,
    names: Sequence[str],
) -> Iterator[Row]:
    """Yield the rows below a header, whose `names` are as the file writes them."""
    bare_names = list(map(_bare, names))
    has_names = any(bare_names) and len(names) > 1  # a text may be what its only column is called
    for number, fields, error in lines:
        if error is None and len(fields) != len(header):
            error = f"{len(fields)} fields where {named_by} has {len(header)}"
        if error is not None:
            yield Row(number, {}, error)
            continue
        # An empty field is an empty text, which is valid; an empty label is treated as missing later.
        row = Row(number, dict(zip(header, fields, strict=True)))
        if has_names and bare_names[-1] in fields[-1] and bare_names[0] in fields[0]:  # a label is soon looked at
            row.error = HEADER_AGAIN if list(map(_bare, fields)) == bare_names else None
        if not all(map(str.isascii, fields)) and not all(map(is_utf8, fields)):
            bad = {name: value for name, value in row.values.items() if not is_utf8(value)}
            row.error = f"column {', '.join(map(short_repr, bad))} is {undecodable(''.join(bad.values()), encoding)}"
            for name, value in bad.items():
                row.values[name] = without_bad_bytes(value)
        yield row


def _bare(name: str) -> str:
    """Return the name of a column without what stands around it where a file was put behind another: its byte order
    mark, and the quotes that are none behind that.
    """
    return name.strip('\ufeff" \t')
