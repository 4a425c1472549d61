"""What a file does not say of itself: what separates its columns, and whether its first line names them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TextIO

from ftloop.data.columns import find_text_columns, is_usual_text
from ftloop.data.compression import split_endings
from ftloop.data.conversions import UnknownForm, told_of_labels_in_front
from ftloop.data.csv_rows import ROW_NAMES, dialect_of, escapes_quotes, read_table, skips_blanks
from ftloop.data.encoding import is_utf8_codec
from ftloop.data.json_rows import told_of_no_columns
from ftloop.data.readers import read_columns
from ftloop.data.recognize import DELIMITERS, HEAD, field_counts, fitting_delimiters, is_mostly_tabs, whole_lines
from ftloop.data.sources import COLUMNAR, FASTTEXT, TABLES, TEXTS, Source, find_format
from ftloop.data.text_folders import class_files
from ftloop.errors import UserError
from ftloop.system.console import say
from ftloop.system.shell import quote
from ftloop.system.text import short_repr

HEAD_ROWS = 200
MANY_WORDS = 4
"""So many words in a cell make it a text, and no name of a column, but in the header of a questionnaire."""
MANY_ROWS = 8


def settle(source: Source, flag: str, console: TextIO | None = None, like: Source | None = None) -> Source:
    """Return the source with the delimiter that its lines show, and say so, where that of its ending makes a single
    column of the first line. A txt file that shows none is a text a line where the flag that names it wants no labels.

    Taken without asking, because a file with one column is of no use, and the first thousands of characters leave no
    doubt: a single other delimiter makes the same number of columns of every line. A later line that has another number
    is an error, as ever. A file that leaves a doubt is read `like` one of the training set, if its first line can be.
    Raises: UserError for a txt file that leaves one still.
    """
    if like is not None and source.reading.column_names is not None and _has_own_header(source, flag, like):
        told = "line 1 is a header, so --column_names is not for this file"
        say("Header", f"{source.name}: {told}", console)
        source = replace(source, reading=replace(source.reading, column_names=None))
    _warn_of_encoding(source, console)
    _tell_format(source, console)
    settled = _with_delimiter(source, flag, console, like)
    if escapes_quotes(settled):
        say("Quotes", f"{source.name} has a backslash before quotes inside fields; it is read so", console)
    if skips_blanks(settled):
        told = "has a blank behind each ',' of its header; blanks there are left out"
        say("Blanks", f"{source.name} {told}", console)
    if (
        settled.format in TABLES
        and settled.delimiter != "\t"
        and len(settled.delimiter) == 1
        and dialect_of(settled)[1] == csv.QUOTE_NONE
    ):
        told = "has quotes in texts as they stand, not doubled as in csv; they are read as text"
        say("Quotes", f"{source.name} {told}", console)
    with suppress(UserError):  # which is told when it is read
        if _is_file_of_table(settled) and read_columns(settled)[0] == ROW_NAMES:
            told = (
                "the header has a name fewer than every row has fields; the first is read as the row's name, as R does"
            )
            say("Header", f"{source.name}: {told}", console)
    return settled


def _has_own_header(source: Source, flag: str, like: Source) -> bool:
    """Whether the first line names columns, where those of the training set have no header."""
    names = source.reading.column_names or ()
    with suppress(UserError):  # which is told when it is read
        source = replace(source, reading=replace(source.reading, column_names=None))
        source = _with_delimiter(source, flag, io.StringIO(), like)
        header = read_columns(source) if _is_file_of_table(source) else []
        known = {name.casefold() for name in names}
        if any(is_usual_text(name) or name.strip().casefold() in known for name in header):
            return mistaken_names(source) is None
    return False


def _tell_format(source: Source, console: TextIO | None) -> None:
    """Say what a file is read as where its lines have told it, and not its name. Of a table that its delimiter says."""
    if source.format in (*TABLES, TEXTS, FASTTEXT) or source.path is None:
        return
    if split_endings(source.path)[0] != source.format == find_format(source.path, source.reading):
        lines = "bytes" if source.format in COLUMNAR else "lines"
        say("Format", f"{source.name} is read as {source.format}, which its first {lines} show", console)


def _with_delimiter(source: Source, flag: str, console: TextIO | None, like: Source | None) -> Source:
    if source.format == FASTTEXT:
        say("Lines", f"{source.name} is read as fastText's: the __label__ in front, without that, are labels", console)
    if source.reading.delimiter is not None or not _is_file_of_table(source):
        return source
    head, names = _head(source), source.reading.column_names
    counts = field_counts(head, source.delimiter)
    first = counts[:1]
    has_tabs = is_mostly_tabs(head) and source.delimiter != "\t"
    wanted = len(names) if names else None
    fitting = fitting_delimiters(head, wanted)
    cuts_texts = len(set(counts)) > 1 and (has_tabs or len(fitting) == 1)
    if source.format != "txt" and not cuts_texts and (first in ([], [len(names)]) if names else first != [1]):
        return source
    said = re.match(r"sep=(.)\r?\n", head)  # a line of Excel's own
    if said:
        fitting = [said[1]]
    why = "which all its first lines show"
    may_be_texts = source.format == "txt" and flag in ("input", "test_file") and not fitting and wanted in (None, 1)
    may_be_texts = may_be_texts and not _names_columns(head)
    if len(fitting) != 1 and like is not None and _may_be_like(source, like, head, may_be_texts):
        fitting, why = [like.delimiter], f"as {like.name} is: its own lines leave a doubt"
    if not fitting and has_tabs and not may_be_texts:
        fitting, why = ["\t"], "which most of its first lines show"
    if len(fitting) == 1:
        written = quote(fitting[0].replace("\t", "\\t"))
        how = "; quotes are text" if len(fitting[0]) > 1 else ""
        say("Delimiter", f"{source.name} is read with --delimiter {written}, {why}{how}", console)
        return replace(source, reading=replace(source.reading, delimiter=fitting[0]))
    if source.format != "txt":
        return source
    if re.match(r'\s*(\{\s*"|\[\s*\{)', head):
        raise source.error(1, "it looks like JSON; give the file the ending .json, or .jsonl for an object a line")
    if may_be_texts:
        say("Lines", f"{source.name} is read as a text a line, the first line too; --delimiter makes columns", console)
        if source.path is not None and (told := told_of_labels_in_front(source.path)) is not None:
            say("Warning", told, console)
        return replace(source, format=TEXTS)
    shown = f"Its lines show {' and '.join(map(repr, fitting))}" if fitting else "Its lines do not show it"
    way = f"; for a text a line --input_format {TEXTS}" if flag == "input" else ""
    assert source.path is not None
    folder = source.path.parent
    with suppress(UserError):
        classes = class_files(folder.parent)
        if folder.name in classes and len(classes) > 1:
            way = f"; if each file is a text and its folder the class, name {folder.parent}"
    counted = Counter(field_counts(head, "\t"))
    columns = max(counted, key=lambda count: counted[count], default=0)
    command = source.copied_by(f"awk -F'\\t' 'NF == {columns}'")
    if columns > 1 and 2 * counted[columns] > counted.total() and command is not None:
        way = f"; tabs make {columns} of most lines, and {command} leaves out the other lines"
    raise UnknownForm(
        f"{source.name}: what separates the columns of this txt file? {shown}; name it with --delimiter{way}"
    )


def _may_be_like(source: Source, like: Source, head: str, may_be_texts: bool) -> bool:
    """Whether another file's delimiter makes columns of the first line: as many as are named, and of a file that may be
    of texts alone some that the other has; or leaves one column whole, which that of the ending cuts.
    """
    if like.format not in TABLES:
        return False
    counts, names = field_counts(head, like.delimiter), source.reading.column_names
    if counts[:1] == [1]:
        return source.format != "txt" and set(counts) == {1} != set(field_counts(head, source.delimiter))
    cells = {cell.strip('" \r') for cell in head.partition("\n")[0].split(like.delimiter)}
    if may_be_texts and not cells & set(read_columns(like)):
        return False
    return bool(counts) and (names is None or counts[0] == len(names))


def _names_columns(head: str) -> bool:
    """Whether the first line is a header, though the lines below do not all have its columns."""
    for delimiter in DELIMITERS:
        cells = head.partition("\n")[0].split(delimiter)
        with suppress(UserError):
            if len(cells) > 1:
                find_text_columns(None, None, [cell.strip('" \r') for cell in cells], "")
                return True
    return False


def shows_columns(source: Source) -> bool:
    """Whether the first lines of a txt file are those of a table."""
    return bool(fitting_delimiters(_head(source)))


def _warn_of_encoding(source: Source, console: TextIO | None = None) -> None:
    """Say where a file is UTF-8 and is to be read as something else, which makes other letters of some."""
    if source.format in COLUMNAR or is_utf8_codec(source.reading.encoding) or not source.is_file:
        return
    with source.open() as file:
        head = file.read(HEAD)
    try:
        is_utf8 = not codecs.getincrementaldecoder("utf-8")().decode(head).isascii()
    except UnicodeDecodeError:
        return
    if is_utf8:
        told = f"its letters are valid UTF-8, which --encoding {source.reading.encoding} makes others of"
        say("Warning", f"{source.name}: {told}; leave it out if texts look wrong", console)


def _is_file_of_table(source: Source) -> bool:
    """Whether it is a table, and can be read twice."""
    return source.format in TABLES and source.is_file


def _head(source: Source) -> str:
    """Return the first lines, whole."""
    with source.open() as file:
        source.check_content(file)
        with source.text(file) as text:
            try:
                head = text.read(HEAD)
            except UnicodeError:  # which is told when it is read
                return ""
    return whole_lines(head, len(head) == HEAD)


def mistaken_names(source: Source) -> str | None:
    """Return what to say where what was taken for the names of columns seems to be none: the first line of a table with
    a number in it, a cell that comes again in its column, or a text of many words where no column shows a name; the
    names of texts in a JSON object, and conversations.
    """
    if source.format in ("json", "jsonl"):
        return told_of_no_columns(source)
    if source.reading.column_names is not None or not _is_file_of_table(source):
        return None
    with source.open() as file, source.text(file) as text:
        numbered, rows = read_table(source, text)
        header = [re.sub(r" ?\(column \d+\)$", "", name) for name in numbered]  # where a cell comes again
        columns = list(zip(*(row.values.values() for row in islice(rows, HEAD_ROWS) if row.error is None), strict=True))
    columns = columns or [()] * len(header)  # a file of one line
    by_column = list(zip(header, columns, strict=True))
    are_texts = any(len(name.split()) >= MANY_WORDS for name in header)
    if not any(_is_cell(*column) for column in by_column) and (not are_texts or any(_is_name(*c) for c in by_column)):
        return None
    names = " ".join(_propose_names([(name, *values) for name, values in by_column]))
    cells = ", ".join(map(short_repr, header))
    return (
        f"{source.name}: line 1 seems to be a row, not a header ({cells}); name the columns of a file without one, "
        f"such as --column_names {names}; else name its columns with --text_column_names and --label_column_name"
    )


def _is_cell(name: str, values: Sequence[str]) -> bool:
    is_number = re.fullmatch(r"[+-]?\d+([.,]\d+)?", name.strip()) is not None
    return is_number or bool(name and name in values)


def _is_name(name: str, values: Sequence[str]) -> bool:
    """Whether a column has a few values that come again and again, and this is none of them."""
    written = [value for value in values if value]
    return len(written) >= MANY_ROWS and len(set(written)) <= len(written) / 4 and name not in written


def _count_words(text: str) -> int:
    """Count words of letters: dates and addresses of the web have few."""
    return sum(word.strip(".,;:!?\"'()").isalpha() for word in text.split())


def _propose_names(columns: Sequence[Sequence[str]]) -> list[str]:
    """Return a name for each column: text for the longest, or sentence1 and sentence2 for two that are texts; label for
    the one with the fewest values.
    """
    names = [f"column{number}" for number in range(1, len(columns) + 1)]
    words = [sum(map(_count_words, column)) / len(column) for column in columns]
    characters = [sum(map(len, column)) / len(column) for column in columns]  # decides where no spaces are written
    order = sorted(range(len(columns)), key=lambda place: (words[place], characters[place]), reverse=True)
    is_pair = len(order) > 2 and words[order[1]] >= MANY_WORDS and words[order[1]] > words[order[0]] / 2
    texts = sorted(order[: 1 + is_pair])
    for place, name in zip(texts, ("sentence1", "sentence2") if is_pair else ("text",), strict=True):
        names[place] = name
    others = [place for place in order if place not in texts and "" not in columns[place]]
    others = [place for place in others if len(set(columns[place])) > 1]
    if others:
        names[min(others, key=lambda place: len(set(columns[place])))] = "label"
    return names
