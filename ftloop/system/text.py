"""Values and names as readable text."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftloop.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def short_repr(value: Any) -> str:
    """Return a value as messages show it: short, however large it is. A few YAML aliases make one of gigabytes."""
    return _SHORT.repr(value)


def expand_path(path: str | Path, what: str) -> Path:
    """Return a user's path with `~` replaced. Raises: UserError if that is the home of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{what}: no such home folder: {short_repr(str(path))}") from None


def check_utf8(text: str) -> str:
    """Return the text. Raises: ValueError for what neither a tokenizer nor a file that is written could hold."""
    if "\0" in text:
        raise ValueError(f"{short_repr(text)} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{short_repr(text)} is not UTF-8; rename it") from None
    return text


def escape_control_chars(text: object) -> str:
    """Return a text whose line ends, control characters and marks that turn the direction of writing are shown, and not
    obeyed: texts come from files. Joiners stay, of which some scripts and emoji are made.
    """
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else ascii(c)[1:-1] for c in str(text))


def pluralize(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def join_some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def nan_to_none(value: Any) -> Any:
    """Return a value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {str(name): nan_to_none(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_to_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
