"""Recognise files that are not what their names say, or whose names say nothing, by their first bytes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ftloop.data.encoding import find_codec
from ftloop.data.rows import HEAD_ROWS

HEAD = 2**16
"""Size of the first bytes, which is enough to know a file by."""
DELIMITERS = (",", "\t", ";", "|")
SEVERAL = (" ::: ", ":::", " :: ", "::", " || ", "||", "\t\t")
"""Delimiters of several characters, as MovieLens has them; of those that fit, the first is meant."""
STAND_IN = "\ufdd0"
"""In the place of such a delimiter, which Python's csv does not take: a character that no text may hold."""
MANY_LINES = 4
BEGINNINGS = {"parquet": b"PAR1", "arrow": b"ARROW1"}

_UNPACK = "give it the ending of its compression too, as in rows.csv{ending}"
EXCEL = "an Excel workbook; save it as CSV UTF-8, or use pandas.read_excel(...).to_csv(..., index=False)"
_SHEET = "a spreadsheet of OpenDocument; save it as csv"
_PICKLE = "a pickle, which is never loaded; save it as csv, jsonl or parquet"

_SIGNATURES = (
    (b"\x1f\x8b", "compressed with gzip; " + _UNPACK.format(ending=".gz")),
    (b"BZh", "compressed with bzip2; " + _UNPACK.format(ending=".bz2")),
    (b"\xfd7zXZ\0", "compressed with xz; " + _UNPACK.format(ending=".xz")),
    (b"(\xb5/\xfd", "compressed with zstd; unpack it, or use gz, bz2, xz or zip"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a rar archive; unpack it"),
    (b"\xd0\xcf\x11\xe0", EXCEL),
    (b"PAR1", "a parquet file; give it the ending .parquet"),
    (b"ARROW1", "an Arrow file; save it as parquet, or name the folder that `save_to_disk` made"),
    (b"SQLite format 3", "an SQLite database; export the table as csv"),
    (b"%PDF", "a PDF document"),
    (b"{\\rtf", "a document of a word processor; save it as plain text"),
    (b"\x80\x04\x95", _PICKLE),
    (b"\x80\x05\x95", _PICKLE),
)


def recognize_stand_in(head: bytes) -> str | None:
    """Return what a download has left in the place of a file, of whatever kind, and the way out; else None."""
    if head.startswith(b"version https://git-lfs.github.com"):
        return "a pointer of Git LFS, not the file itself; fetch it with git lfs pull"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a page of the web, not the file itself; download that (on GitHub and the hub: the raw file)"
    return None


def recognize(head: bytes) -> str | None:
    """Return what a file is, and the way out, where its first bytes show that it is not a text of rows; else None."""
    if head.startswith(b"PK\x03\x04"):
        if b"opendocument" in head[:200]:
            return _SHEET
        is_office = any(name in head for name in (b"[Content_Types]", b"docProps/", b"xl/"))
        return EXCEL if is_office else f"a zip archive; {_UNPACK.format(ending='.zip')}, or unpack it"
    of_any_kind = recognize_stand_in(head)
    return of_any_kind or next((what for signature, what in _SIGNATURES if head.startswith(signature)), None)


def recognize_markup(head: bytes) -> str | None:
    """Return what a text is, and the way out, where its first line shows that it is no table and no JSON; else None.
    Where a whole file is a text, it may be one all the same."""
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].strip()
    if re.match(rb"<\?xml[^>]*\?>($|<)", first):
        return "XML; write csv or jsonl of it, as pandas.read_xml(...).to_csv(..., index=False) does of plain rows"
    if re.fullmatch(rb"```\w*", first):
        return "rows between the marks of a code block (```), as in a chat; leave out the lines that begin with them"
    return None


def is_fasttext(head: bytes) -> bool:
    """Whether all the first lines have labels in front as fastText writes them; of a table they would be in a cell."""
    lines = [line for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    whole = lines[:-1] if len(lines) > 1 else lines
    return bool(whole) and all(re.match(rb"__label__[^\s,;|]+[ \t]", line) for line in whole)


def find_shown_format(head: bytes, encoding: str | None) -> str | None:
    """Return the format that the first bytes show, of a table `txt`; None where they leave a doubt."""
    columnar = next((name for name, beginning in BEGINNINGS.items() if head.startswith(beginning)), None)
    if columnar is not None or recognize(head) is not None:
        return columnar
    text = whole_lines(head.decode(find_codec(head, encoding), "replace"), len(head) == HEAD)
    if (of_json := find_json_format(text)) is not None:
        return of_json
    return "txt" if len(fitting_delimiters(text)) == 1 else None


def whole_lines(head: str, has_more: bool) -> str:
    """Return the first lines of a file without one that is cut off."""
    return head[: head.rfind("\n") + 1] if has_more else head


def find_json_format(head: str) -> str | None:
    """Return whether the first lines are an object each, or the beginning of one document; None if neither."""
    text = head.lstrip("\ufeff \t\r\n")
    if not re.match(r'\{\s*"|\[\s*\{', text):
        return None
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):  # a document longer than this, or a fault, which is told when it is read
        return "json" if text.partition("\n")[0].strip() in ("{", "[", "[{") else None
    rest = re.match(r"[ \t\r]*\n\s*\{", text[end:])
    return "jsonl" if rest else None if text[end:].strip() else "json"


def _rows_of(head: str, delimiter: str) -> list[list[str]]:
    """Return the fields of each line, of those readings of quotes that may be meant by which most lines are alike."""
    if len(delimiter) > 1:
        lines = io.StringIO(head.replace(delimiter, STAND_IN), newline="")
        return [fields for fields in csv.reader(lines, delimiter=STAND_IN, quoting=csv.QUOTE_NONE) if fields]
    readings = [_quoted_rows(head, delimiter)]
    if head.startswith('"') and '\\"' in head:
        escaped = _quoted_rows(head.replace('\\"', '""'), delimiter)
        readings = [escaped, *readings] if delimiter == " " else [*readings, escaped]  # R writes it so
    if delimiter == "\t" and '"' in head:
        readings += [iter(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, quoting=csv.QUOTE_NONE))]
    found: list[list[list[str]]] = [[]]
    for reading in readings:
        with suppress(csv.Error):
            found.append([fields for fields in reading if fields])
    return max(found, key=lambda rows: _share(list(map(len, rows))))


def _quoted_rows(head: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the fields of each row, without one that is within quotes where the lines end, as the first lines of a file
    with texts of several lines do, if enough rows are left. Beside tabs, where quotes may be text, all.
    """
    is_over = False

    def lines() -> Iterator[str]:
        nonlocal is_over
        yield from io.StringIO(head, newline="")
        is_over = True

    for number, fields in enumerate(csv.reader(lines(), delimiter=delimiter)):
        if not is_over or number < MANY_LINES or delimiter == "\t":
            yield fields


def _share(counts: list[int]) -> float:
    """Return how many of the lines have the number of fields that most of them have."""
    return max(Counter(counts).values()) / len(counts) if counts else 0.0


def field_counts(head: str, delimiter: str) -> list[int]:
    """Return the number of fields of each line."""
    return list(map(len, _rows_of(head, delimiter)))


def is_mostly_tabs(head: str) -> bool:
    """Whether most lines have as many tabs as the first, which are hardly ever in texts."""
    counts = field_counts(head, "\t")
    return len(counts) > 1 and counts[0] > 1 and 2 * counts.count(counts[0]) > len(counts)


def separates(head: str, delimiter: str, columns: int | None = None) -> bool:
    """Whether a delimiter makes the same number of columns of each line, such as the one wanted."""
    if head.count(delimiter) == head.count(f"{delimiter} "):  # as in sentences
        return False
    header, *rows = _rows_of(head, delimiter) or [[]]
    counts = set(map(len, rows))
    if counts == {len(header)}:
        return len(header) > 1 and columns in (None, len(header))
    return columns is None and len(counts) == 1 and are_named_rows(rows[:HEAD_ROWS], len(header))


def fitting_delimiters(head: str, columns: int | None = None) -> list[str]:
    """Return the delimiters that separate columns. Spaces only where every line begins with a quote, as R's do; of
    several characters one that leaves none of them alone, as a column without any text would, but for colons.
    """
    is_quoted = all(line.startswith('"') for line in head.split("\n") if line.strip("\r"))
    fitting = [each for each in (*DELIMITERS, *(" " if is_quoted else "")) if separates(head, each, columns)]
    for each in SEVERAL if head.count("\n") >= MANY_LINES else ():
        character = each.strip(" ")[0]
        is_whole = character == ":" or character not in head.replace(each, "")
        if each in head and is_whole and separates(head, each, columns):
            return [*(other for other in fitting if other != character), each]
    return fitting


def are_named_rows(rows: Sequence[Sequence[str]], columns: int) -> bool:
    """Whether each row has a field more than the header, and that is a name of its own in front, to which R's
    `write.table` gives none. Texts or numbers that a delimiter cuts, and one behind each row, are something else.
    """
    if not rows or any(len(fields) != columns + 1 for fields in rows) or not any(fields[-1] for fields in rows):
        return False
    names = [fields[0] for fields in rows]
    numbers = [int(name) for name in names if re.fullmatch(r"\d{1,15}", name)]
    if numbers:
        return len(numbers) == len(names) and numbers == sorted(set(numbers))
    is_cut = any(fields[1].startswith(" ") for fields in rows)
    return columns > 1 and len(rows) > 2 and len({*names, ""}) == len(names) + 1 and not is_cut
