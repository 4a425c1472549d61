"""Labels that are a number for each class, such as the probabilities of another model or the shares of annotators."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from ftloop.system.shell import quote
from ftloop.system.text import short_repr

_TOO_LARGE = 1e300
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_BETWEEN = r"(?:\s*[,;|]\s*|\s+)"
_LIST = re.compile(rf"\[?\s*{_NUMBER}(?:{_BETWEEN}{_NUMBER})+\s*\]?")
_NAME = r"""(?:'[^'\\]*'|"[^"\\]*"|[+-]?\d+)"""
_MAPPING = re.compile(rf"\{{\s*{_NAME}\s*:\s*{_NUMBER}(?:\s*,\s*{_NAME}\s*:\s*{_NUMBER})*\s*\}}")


def numbers_of_classes(value: Any) -> list[float] | None:
    """Return the numbers in a label that holds several and nothing else, as a list, a mapping of names, or the text of
    either; None for any other label."""
    items: Any = ()
    if isinstance(value, str):
        text = value.strip()
        if _MAPPING.fullmatch(text):
            items = re.findall(rf":\s*({_NUMBER})", re.sub(rf"{_NAME}\s*:", ":", text))
        elif _LIST.fullmatch(text):
            items = re.findall(_NUMBER, text)
        items = [float(item) for item in items]
    elif isinstance(value, (dict, list)):
        items = [*(value.values() if isinstance(value, dict) else value)]
    are_numbers = all(isinstance(item, (int, float, Decimal)) for item in items)
    if len(items) < 2 or not are_numbers or not all(abs(item) < _TOO_LARGE for item in items):  # NaN is not less
        return None
    return [float(item) for item in items]


def have_fraction(numbers: Sequence[float]) -> bool:
    return any(not number.is_integer() for number in numbers)


def are_shares(numbers: Sequence[float]) -> bool:
    """Whether numbers are parts of one."""
    return all(0 <= number <= 1 for number in numbers) and abs(sum(numbers) - 1) < 0.02


def told_of(value: Any, where: str = "") -> str:
    """Say what a label of numbers is, and the way to one that is learned."""
    if isinstance(value, dict):
        way = ".map(lambda p: max(p, key=p.get))"
    elif isinstance(value, list):
        way = ".map(lambda p: list(p).index(max(p)))"
    elif value.strip().startswith("{"):
        way = ".map(ast.literal_eval).map(lambda p: max(p, key=p.get))"
    else:
        way = r".str.findall(r'[^\s,;|\[\]]+').map(lambda p: p.index(max(p, key=float)))"
    return (
        f"holds {short_repr(value)}{where}, a number for each class as probabilities are; classes are learned, and "
        f"pandas' {way} takes the most likely one of each row; where a row may have several, write 0 or 1 for each"
    )


def are_numbers(labels: Iterable[str | None]) -> bool:
    return all(label is not None and re.fullmatch(_NUMBER, label.strip()) for label in labels)


def way_of_columns(columns: Sequence[str], may_be_shares: bool) -> str:
    """Return the ways to what is learned from a column of numbers for each label."""
    way = f"; several numbers a row are not learned: {one_at_a_time(columns)}"
    if not may_be_shares:
        return way
    table = f"df[[{', '.join(map(repr, columns))}]]"
    return (
        f"{way}; of probabilities, pandas' ({table} >= 0.5).astype(int) makes these, and {table}.idxmax(axis=1) one "
        "column with a class of each row"
    )


def one_at_a_time(columns: Sequence[str]) -> str:
    """Return how each of several label columns is learned by itself."""
    return f"learn one column at a time, as with --label_column_name {quote(columns[0])}, each in a run of its own"
