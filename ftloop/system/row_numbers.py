"""The numbers that rows have where they were read, from which some were taken out since.

A message that names a row has to name it as a person finds it in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

_PLACES: dict[str, Callable[[], np.ndarray]] = {}
"""By the fingerprint of a `datasets.Dataset`, the places of its rows, from 0. Worked out when a row is named."""


def note_places(dataset: Any, places: Callable[[], np.ndarray]) -> None:
    """Remember where the rows of a data set stood."""
    _PLACES[dataset._fingerprint] = cache(places)


def note_rows(dataset: Any, of: Any, rows: np.ndarray | None = None) -> Any:
    """Remember that a data set holds these rows of another; by default the first ones, or all. Returns: `dataset`."""
    before = _PLACES.get(of._fingerprint)
    if before is not None:
        note_places(dataset, before if rows is None else lambda: before()[rows])
    elif rows is not None:
        note_places(dataset, lambda: rows)
    return dataset


def row_numbers(dataset: Any, rows: Iterable[int]) -> list[int]:
    """Return the numbers, from 1, that these rows of a data set had where they were read."""
    places = _PLACES.get(getattr(dataset, "_fingerprint", ""))
    return [row + 1 for row in rows] if places is None else [int(places()[row]) + 1 for row in rows]
