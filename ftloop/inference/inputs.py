"""Find the rows to predict: in a file, a pipe or standard input; or in several files, as training finds them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ftloop.data.arrow_rows import read_schema
from ftloop.data.dialect import mistaken_names, settle
from ftloop.data.readers import read_columns
from ftloop.data.set_files import find_files, names_several
from ftloop.data.sources import COLUMNAR, Reading, Source, find_source
from ftloop.errors import UserError


@contextmanager
def find_inputs(given: Sequence[str], format: str | None, read_twice: bool, reading: Reading) -> Iterator[list[Source]]:
    """Find what a user named as `--input`. Several files have one format and the same columns.

    Raises: UserError when one is missing, of no known format, or other than the first.
    """
    if len(given) == 1 and not names_several(given[0], "input"):
        with find_source(given[0], format, read_twice, reading) as source:
            yield [settle(source, "input", sys.stderr)]
        return
    sources = find_files(given, "input", reading, format, sys.stderr)
    for source in sources[1:]:
        _check_alike(sources[0], source)
    yield sources


def _check_alike(first: Source, other: Source) -> None:
    if other.format != first.format:
        formats = f"{first.name} is {first.format}, and {other.name} is {other.format}"
        raise UserError(f"input: {formats}; predict the files of each format by themselves")
    if first.format in ("json", "jsonl"):  # each row names its own columns
        return
    columns, wanted = read_columns(other), read_columns(first)
    if set(columns) != set(wanted):
        told = f"{other.name} has the columns {', '.join(columns)}, and {first.name} {', '.join(wanted)}"
        raise UserError(mistaken_names(other) or f"input: {told}; predict files with other columns by themselves")


def check_types(sources: Sequence[Source]) -> None:
    """Raises: UserError where one parquet file cannot hold the columns of all that are to be predicted."""
    if len(sources) == 1 or sources[0].format not in COLUMNAR:
        return
    first = read_schema(sources[0])
    for source in sources[1:]:
        schema = read_schema(source)
        if not schema.equals(first):
            odd = next((field for field in schema if field not in first), schema[0])
            told = f"column {odd.name} of {source.name} is not of the type or in the place of {sources[0].name}'s"
            raise UserError(f"output: {told}, and parquet has one for all; csv, tsv and jsonl hold them")
