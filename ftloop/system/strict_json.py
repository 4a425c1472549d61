"""JSON as it is read from a user: what could be meant in two ways is refused."""

from __future__ import annotations

import json
from typing import Any

from ftloop.system.text import short_repr


def read_json(text: str) -> Any:
    """Parse JSON. Raises: ValueError for whatever is wrong with it; a name that an object has twice is."""
    try:
        return json.loads(text, object_pairs_hook=_no_name_twice)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{short_repr(name)} is there twice in one object")
        values[name] = value
    return values
