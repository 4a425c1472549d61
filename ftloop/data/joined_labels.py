"""Labels that look like several in one text, such as `sport|politics`, and the flag that reads them so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ftloop.data.values import LIST_BEGUN, TAGS, is_cut, split_names
from ftloop.system.text import short_repr

LISTING = "|;"
"""What people write between the items of a list, and hardly ever within a name."""
JOINTS = LISTING + ",#/+&"
_TAGS = re.compile(r"\s*(<[^<>]+>){2,}\s*")
_BRACKETS = re.compile(r"\s*(\[.*\]|\{.*\})\s*")
_IN_BRACKETS = re.compile(r"\s*(\[[^\[\]{},]+(,[^\[\]{},]+)+\]|\{[^\[\]{},:]+(,[^\[\]{},:]+)+\})\s*")


class Joined(NamedTuple):
    """Labels that look like several, and what separates these."""

    labels: list[str]
    separator: str
    in_brackets: bool = False

    @property
    def way(self) -> str:
        first = "without their brackets, " if self.in_brackets else ""
        return f'{first}--label_delimiter "{self.separator}" reads several labels a row'

    @property
    def told(self) -> str:
        return f"labels such as {short_repr(self.labels[0])} look like several joined, and {self.way}"


def find_joined(labels: Iterable[str]) -> Joined | None:
    """Return those of a column's labels that look like several; None if none does.

    Tags such as `<a><b>` do, and lists such as `{a,b}`.

    What stands between the items of lists is enough. A comma stands within names too, so each part has to come again
    in another label; and other separators make names of parts, as in news/sport, so each part has to be a label.
    """
    names = [label for label in labels if label.strip()]
    tags = [name for name in names if _TAGS.fullmatch(name)]
    if tags:
        return Joined(tags, TAGS)
    lists = [name for name in names if _IN_BRACKETS.fullmatch(name) and not LIST_BEGUN.match(name)]
    if len(lists) > 1 and all(_BRACKETS.fullmatch(name) for name in names):
        return Joined(lists, ",", in_brackets=True)
    for separator in JOINTS:
        parts = {name: split_names(name, separator) for name in names if separator in name}
        counts = Counter(part for name in names for part in {*parts.get(name, [name.strip()])})
        alone = {name.strip() for name in names if name not in parts}
        known = {part for part, count in counts.items() if count > 1} if separator == "," else alone
        joined = [
            name
            for name, split in parts.items()
            if len(split) > 1
            and all(split)
            and not is_cut(name, split)
            and (separator in LISTING or known.issuperset(split))
        ]
        if joined:
            return Joined(joined, separator)
    return None
