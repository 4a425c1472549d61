"""Numbers, names and texts as a person can read them, and values as JSON can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def printable(text: Any) -> str:
    """Texts come from files: line ends, control characters and marks that turn the direction of writing are shown, and
    not obeyed. Joiners stay, of which some scripts and emoji are made.
    """
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else ascii(c)[1:-1] for c in str(text))


def counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def for_json(value: Any) -> Any:
    """JSON has no NaN and no infinity: None stands for them."""
    if isinstance(value, dict):
        return {str(name): for_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
