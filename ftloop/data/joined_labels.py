"""Labels that look like several in one text, such as `sport|politics`, and the flag that reads them so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ftloop.data.values import is_cut, split_names
from ftloop.system.text import short_repr

LISTING = "|;"
"""What people write between the items of a list, and hardly ever within a name."""
JOINTS = LISTING + ",#/+&"


class Joined(NamedTuple):
    """Labels that look like several, and what separates these."""

    labels: list[str]
    separator: str

    @property
    def way(self) -> str:
        return f'--label_delimiter "{self.separator}" reads several labels a row'

    @property
    def told(self) -> str:
        return f"labels such as {short_repr(self.labels[0])} look like several joined, and {self.way}"


def find_joined(labels: Iterable[str]) -> Joined | None:
    """Return those of a column's labels that look like several; None if none does.

    What stands between the items of lists is enough. A comma stands within names too, so each part has to come again
    in another label; and other separators make names of parts, as in news/sport, so each part has to be a label.
    """
    names = [label for label in labels if label.strip()]
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
