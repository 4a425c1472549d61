"""Rows of files with a text a line and no columns: plain, or with labels in front as fastText has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from io import TextIOWrapper
from typing import Any

from ftloop.data.encoding import undecodable, without_bad_bytes
from ftloop.data.rows import Row
from ftloop.data.sources import FASTTEXT, Source
from ftloop.data.values import is_utf8
from ftloop.errors import summarize

_LABELS = re.compile(r"\s*((?:__label__\S+(?:\s+|$))*)(.*)", re.DOTALL)


def read_plain_lines(source: Source, text: TextIOWrapper) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Return the names of the columns, and the rows. Of texts alone each line is one, a blank one too: row n is line n.

    With labels in front, blank lines are none, and each row has a list of labels if one has several.
    """
    if source.format == FASTTEXT:
        several = _has_several(source, source.path.stat().st_mtime_ns) if source.path is not None else True
        return ("label", "text"), _labelled_rows(source, text, several)
    names = source.reading.column_names or ("text",)
    return names, (Row(number, {names[0]: line}, error) for number, line, error in _lines(source, text))


def _lines(source: Source, text: TextIOWrapper) -> Iterator[tuple[int, str, str | None]]:
    """Yield the number of each line, the line and what is wrong with it.

    Raises: UserError where nothing more can be decoded.
    """
    number = 0
    try:
        for number, ended in enumerate(text, start=1):
            line = ended.rstrip("\r\n")
            if is_utf8(line):
                yield number, line, None
            else:
                yield number, without_bad_bytes(line), undecodable(line, source.reading.encoding)
    except UnicodeError as error:  # surrogates stand for single bytes; UTF-16 and others end at a bad one
        raise source.error(number + 1, f"not {text.encoding} from here on ({summarize(error)})") from None


def _labelled_rows(source: Source, text: TextIOWrapper, several: bool) -> Iterator[Row]:
    for number, line, error in _lines(source, text):
        if line.strip():
            labels, rest = _split_labels(line)
            label: Any = labels or None
            yield Row(number, {"label": label if several or not labels else labels[0], "text": rest}, error)


def _split_labels(line: str) -> tuple[list[str], str]:
    found = _LABELS.fullmatch(line)
    assert found is not None
    return [name.removeprefix("__label__") for name in found[1].split()], found[2]


@cache  # it reads the whole file
def _has_several(source: Source, modified: int) -> bool:
    """Whether one of the rows has more than one label."""
    with source.open() as file, source.text(file) as text:
        return any(len(_split_labels(line)[0]) > 1 for _, line, _ in _lines(source, text))
