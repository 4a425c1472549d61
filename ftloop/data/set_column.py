"""A column that names the set of each row, as SICK's `SemEval_set` and many a file of all sets have one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow

from ftloop.data.arrow_rows import read_schema
from ftloop.data.files import cached_of_file, column_names
from ftloop.data.readers import read_rows
from ftloop.data.sources import COLUMNAR, Source
from ftloop.errors import UserError
from ftloop.system.text import short_repr

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "trial"),
    "test": ("test", "testing"),
}
SETS = {word: name for name, words in _WORDS.items() for word in words}
"""The set that each word names, in whatever case."""
MAX_VALUES = 4


def split_by_column(
    sources: Sequence[Source], column: str, files: Mapping[str, Sequence[Source]]
) -> dict[str, list[Source]]:
    """Return the files of every set: those of the training set, each with the rows that the column says are the set's,
    and the other sets' own `files`.

    Raises: UserError for a value that names no set, a set that has files of its own too, or no training rows.
    """
    found: dict[str, list[Source]] = {}
    for source in sources:
        names = column_names([source])
        if column not in names:
            raise UserError(f"split_column_name: no column {column!r}: {source.name} has {', '.join(names)}")
        counts = cached_of_file(source, f"sets in {column}", partial(_count, source, column, strict=True))
        for name in _WORDS:
            values = tuple(sorted(value for value in counts or () if SETS[_word(value)] == name))
            if values:
                found.setdefault(name, []).append(replace(source, of_set=(column, values)))
    for name in found.keys() & files.keys() - {"train"}:
        raise UserError(f"{name}_file: column {column} of {sources[0].name} has {name} rows too; leave one of them out")
    if "train" not in found:
        raise UserError(f"split_column_name: column {column} of {sources[0].name} names no training rows")
    return {name: found[name] for name in _WORDS if name in found} | {
        name: list(own) for name, own in files.items() if name not in found and name != "train"
    }


def places_of_rows(sources: Sequence[Source]) -> np.ndarray:
    """Return where the rows of a set stand among those of all sets in its files, from 0."""
    places, before = list[int](), 0
    for source in sources:
        column, values = source.of_set or (None, ())
        for row in read_rows(replace(source, of_set=None), [column] if column else None):
            if column is None or row.values.get(column) in values:
                places.append(before)
            before += 1
    return np.array(places, dtype=int)


def sets_warning(sources: Sequence[Source], others: Iterable[str]) -> str | None:
    """Return what to say where a column beside the `others` names the sets of the rows, of which all are trained on."""
    columns = cached_of_file(sources[0], "columns that begin with a set", partial(_candidates, sources[0]))
    for column in (name for name in columns if name not in others):
        counts: Counter[str] = Counter()
        for source in sources:
            of_file = cached_of_file(source, f"sets named in {column}", partial(_count, source, column))
            if of_file is None:
                break
            counts.update(of_file)
        else:
            sets = {SETS[_word(value)] for value in counts}
            if "train" in sets and len(sets) > 1:
                told = ", ".join(f"{value} {count}" for value, count in counts.items())
                what = f"column {column} seems to name the set of each row ({told}), and all are trained on"
                return f"{sources[0].name}: {what}; --split_column_name {column} keeps the sets apart"
    return None


def _candidates(source: Source) -> list[str]:
    """Return the columns whose first value names a set, as those of hardly any file do."""
    columns = _readable(source)
    first = next((row.values for row in read_rows(source, columns)), {})
    return [name for name in columns if isinstance(first.get(name), str) and _word(first[name]) in SETS]


def _readable(source: Source) -> list[str]:
    """Return the columns that may hold words: of parquet and Arrow no others, of which some cannot be read."""
    names = column_names([source])
    if source.format not in COLUMNAR:
        return names
    is_text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_dictionary)
    texts = {field.name for field in read_schema(source) if any(check(field.type) for check in is_text)}
    return [name for name in names if name in texts]


def _count(source: Source, column: str, strict: bool = False) -> dict[str, int] | None:
    """Count the values of a column; None where one names no set, or there are too many, which `strict` tells.

    Raises: UserError.
    """
    counts: Counter[str] = Counter()
    for row in read_rows(source, [column]):
        value = row.values.get(column)
        if not isinstance(value, str) or _word(value) not in SETS:
            if not strict:
                return None
            told = f"column {column} holds {short_repr(value)}, which names no set ({', '.join(SETS)})"
            raise source.error(row.number, f"{told}; split_column_name wants one in each row")
        counts[value] += 1
        if len(counts) > MAX_VALUES and not strict:
            return None
    return dict(counts)


def _word(value: str) -> str:
    return value.strip().casefold()
