"""Recognise files that are not what their names say, by their first bytes."""

from __future__ import annotations

import re

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


def is_fasttext(head: bytes) -> bool:
    """Whether all the first lines have labels in front as fastText writes them; of a table they would be in a cell."""
    lines = [line for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    whole = lines[:-1] if len(lines) > 1 else lines
    return bool(whole) and all(re.match(rb"__label__[^\s,;|]+[ \t]", line) for line in whole)
