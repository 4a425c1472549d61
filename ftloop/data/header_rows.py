"""Further header rows below the first line, as surveys are exported with them: the questions, and marks of the tool."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from ftloop.data.rows import Row
from ftloop.data.sources import Source

MAX_ROWS = 3
_MARK = re.compile(r'\s*\{\s*"ImportId"\s*:|Open-Ended Response$')
"""What Qualtrics and SurveyMonkey write there."""

Head = list[tuple[int, list[str]]]
"""Number and texts of the first rows, one more than can be headers."""


def head_of(rows: Iterable[Row], columns: Sequence[str]) -> Head:
    found = [(row.number, [row.values.get(name) for name in columns]) for row in islice(rows, MAX_ROWS + 1)]
    return [(number, [text if isinstance(text, str) else "" for text in texts]) for number, texts in found]


def marked_headers(source: Source, head: Head) -> str | None:
    """Return what to say of first rows that are headers without a doubt; None where there are none."""
    marked = [height for height, (_, texts) in enumerate(head[:MAX_ROWS], 1) if any(map(_MARK.match, texts))]
    return (
        told_of(source, head, marked[-1], "no data, but the header's, as survey tools write them; ") if marked else None
    )


def told_of(source: Source, head: Head, height: int, what: str) -> str:
    """Name the first rows and the way to leave them out: by lines, to the one in which the next row begins."""
    first = head[0][0]
    last = head[height][0] - 1 if len(head) > height else head[height - 1][0]
    places = f"{source.unit} {first} is" if first == last else f"{source.unit}s {first} to {last} are"
    lines = f"{first}d" if first == last else f"{first},{last}d"
    command = source.copied_by(f"sed {lines}") if source.unit == "line" else None
    way = f"{command} leaves it out" if command else "leave it out of the file"
    return f"{source.name}: {places} {what}{way if first == last else way.replace(' it ', ' them ')}"
