"""Rows of a training file that are further headers: without a doubt, or by labels that no other row has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pyarrow.compute as pc
from datasets import Dataset

from ftloop.data.files import cached_of_file
from ftloop.data.header_rows import MAX_ROWS, Head, head_of, marked_headers, told_of
from ftloop.data.readers import read_rows
from ftloop.data.scan import distinct_values, has_lists, single_values
from ftloop.data.sources import Source
from ftloop.errors import UserError
from ftloop.system.console import say
from ftloop.system.text import join_some, short_repr

_NUMBER = re.compile(r"\s*[+-]?\d+([.,]\d*)?\s*")


def check_header_rows(sources: Sequence[Source], columns: Sequence[str]) -> None:
    """Raises: UserError for rows that are headers without a doubt."""
    for source in sources:
        told = marked_headers(source, _first_rows(source, columns))
        if told is not None:
            raise UserError(told)


def warn_of_header_labels(sources: Sequence[Source], train: Dataset, column: str) -> None:
    """Say where the first row or two of each file have labels that no other row has, though all others come again, or
    are numbers.
    """
    if has_lists(train, column):
        return
    heads = [_first_rows(source, [column]) for source in sources]
    values = train.with_format("arrow")[:][column]
    for height in (2, 1):
        first = next((place for place, head in enumerate(heads) if len(head) >= height), None)
        if first is None:
            continue
        labels = Counter(texts[0] for head in heads for _, texts in head[:height])
        if any(pc.sum(pc.equal(values, label)).as_py() != count for label, count in labels.items()):
            continue
        others = [value for value in distinct_values(train, column) if value and value not in labels]
        come_again = single_values(train, column) == sum(count == 1 for count in labels.values())
        are_numbers = not any(map(_NUMBER.fullmatch, labels)) and all(map(_NUMBER.fullmatch, others))
        if len(others) > 1 and (come_again or are_numbers):
            shown = join_some(list(map(short_repr, labels)), MAX_ROWS)
            what = f"perhaps no data, but the header's: no other row has the label {shown}; if so, "
            say("Warning", told_of(sources[first], heads[first], height, what))
            return


def _first_rows(source: Source, columns: Sequence[str]) -> Head:
    names = [source.own_name(name) for name in columns]
    return cached_of_file(source, f"first rows of {names}", lambda: head_of(read_rows(source, names), names))
