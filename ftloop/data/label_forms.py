"""Bring labels, in whatever form people keep them, into one: a text, or a list of names, for each row."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from ftloop.config.problem_type import ProblemType
from ftloop.data.cache import cached, dataset_key
from ftloop.data.number_forms import decimal_comma, have_blanks_around, with_point, without_blanks
from ftloop.data.probabilities import (
    are_numbers,
    are_shares,
    have_fraction,
    numbers_of_classes,
    one_at_a_time,
    told_of,
    way_of_columns,
)
from ftloop.data.remarks import Remark
from ftloop.data.scan import MAX_SHOWN, distinct_values, has_lists, name_rows, rows_with, set_name
from ftloop.data.values import BITS, LIST_BEGUN, ONE, is_utf8, is_written
from ftloop.errors import UserError
from ftloop.system.row_numbers import note_rows
from ftloop.system.text import short_repr

_TEXT = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ITEM = rf"{_TEXT}|[+-]?\d+(?:\.\d*)?|[Tt]rue|[Ff]alse"
_TUPLE = rf"\(\s*(?:(?:{_TEXT}|[01])\s*,\s*)+(?:{_TEXT}|[01])?\s*\)"  # of other numbers, an interval as (18, 25)
_LIST = re.compile(rf"\s*(?:\[\s*(?:(?:{_ITEM})(?:\s*,\s*|\s+|(?=\])))*\]|{_TUPLE})\s*")
_LIST_IN_MAPPING = re.compile(rf"\s*\{{\s*(?:{_TEXT})\s*:\s*(\[\s*(?:(?:{_TEXT})(?:\s*,\s*|\s*(?=\])))*\])\s*\}}\s*")
NO_BIT = ("-", "-1", "-1.0")
Sets = dict[str, Dataset]


def in_one_form(
    sets: Mapping[str, Dataset], column: str, wanted: ProblemType | None, may_lack_labels: Collection[str]
) -> tuple[Sets, tuple[str, ...] | None, list[Remark]]:
    """Read lists that are text as lists, vectors of 0 and 1 as lists of names, and lists of one as that one where
    `wanted` is one label a row. The training set decides, the others follow; of those in `may_lack_labels`, one of
    empty lists is without labels.

    Returns: the sets, the names of the classes where the form gives them, and what is to be said.
    Raises: UserError for a row that is of another form than the rest.
    """
    left, names, said = dict(sets), None, list[Remark]()
    for name, dataset in left.items():
        _check_no_probabilities(dataset, column, wanted, set_name(name))
    found = _find_lists_as_text(left["train"], column, wanted)
    if found is not None:
        told = f"texts such as {short_repr(found.shown)} are read as lists"
        told += (
            "" if found.name is None else f", and names beside them such as {short_repr(found.name)} as lists of one"
        )
        is_in_doubt = found.name is not None and wanted is None and found.has_several
        told += f"; --problem_type {ProblemType.SINGLE_LABEL} makes a class of each text" if is_in_doubt else ""
        said.append(("Labels", told))
        left["train"] = _map_labels(left["train"], column, items_or_name, List(Value("string")))
    if has_lists(left["train"], column):
        for name, dataset in left.items():
            if has_lists(dataset, column):
                continue
            are_lists = _are_empty_lists(dataset, column) or _find_lists_as_text(dataset, column, wanted) is not None
            if are_lists or (found and found.name is not None):
                left[name] = _map_labels(dataset, column, items_or_name, List(Value("string")))
    width = _width_of_vectors(left["train"], column)
    if width is not None:
        names = tuple(f"LABEL_{id}" for id in range(width))
        said.append(("Labels", f"vectors of 0 and 1 are read as lists of {width} labels, {names[0]} to {names[-1]}"))
        for name, dataset in left.items():
            lengths = _lengths(dataset, column) if has_lists(dataset, column) else set()
            if not lengths or (name in may_lack_labels and lengths == {0}):  # without a label as a whole
                continue
            if _width_of_vectors(dataset, column) != width:
                where = _first_row(dataset, column, lambda row: len(row) != width or not set(row) <= BITS)
                raise UserError(f"{set_name(name)}: column {column!r} has no vector of {width} times 0 or 1 in {where}")
            left[name] = _map_labels(dataset, column, _names_of_vector, List(Value("string")))
    for name, dataset in left.items():
        _check_names(dataset, column, set_name(name))
    if wanted in (ProblemType.SINGLE_LABEL, ProblemType.REGRESSION):
        left = {name: _without_lists(dataset, column, name) for name, dataset in left.items()}
    elif wanted is None and has_lists(left["train"], column) and _lengths(left["train"], column) <= {0, 1}:
        told = "lists of any number of labels, though no training row has more than one"
        told += f"; --problem_type {ProblemType.SINGLE_LABEL} learns one class a row"
        empty = [
            f"{count} of {name} ({rows})" for name, dataset in left.items() for count, rows in _empty(dataset, column)
        ]
        if empty:
            told += f", and --drop_unlabelled beside it leaves out the rows whose list is empty: {', '.join(empty)}"
            told += "; annotation tools write [] of a row that nobody has labelled yet"
        said.append(("Labels", told))
    if have_blanks_around(left, column):
        left = {name: _map_labels(dataset, column, without_blanks, Value("string")) for name, dataset in left.items()}
    with_comma = decimal_comma(left["train"], column, wanted)
    if with_comma is not None:
        said.append(("Labels", f"numbers such as {with_comma} are read with a decimal comma"))
        left = {name: _map_labels(dataset, column, with_point, Value("string")) for name, dataset in left.items()}
    return left, names, said


def in_one_column(
    sets: Mapping[str, Dataset],
    columns: Sequence[str],
    into: str,
    may_lack_labels: Collection[str],
    wanted: ProblemType | None,
    drop_unlabelled: bool,
) -> tuple[Sets, list[Remark]]:
    """Make of a 0/1 column for each label one column that lists the labels of a row; None where one of them is empty or
    -1, as for rows that nobody has labelled. A set without these columns stays without a label, and so does one of
    `may_lack_labels` that holds one and the same other text in all of them.

    Returns: the sets, and what is to be said. Raises: UserError for a value that is neither 0 nor 1, naming column and
    row, and where numbers are `wanted`.
    """
    if wanted == ProblemType.REGRESSION:
        told = f"{wanted} learns one label a row, and there are {len(columns)} label columns"
        raise UserError(f"problem_type: {told}; {one_at_a_time(columns)}")
    left, said = dict(sets), list[Remark]()
    for name, dataset in sets.items():
        if set(columns) <= set(dataset.column_names):
            may_lack = name in may_lack_labels
            values = {each for column in columns for each in distinct_values(dataset, column)} if may_lack else set()
            only = values.pop() if len(values) == 1 else None
            if only is not None and only.strip().lower() not in BITS:
                told = f"{set_name(name)} holds {short_repr(only)} in every label column of every row"
                said.append(("Labels", f"{told}, so it is without labels"))
                left[name] = note_rows(dataset.remove_columns(list(columns)), dataset)
                continue
            kept = {each: kind for each, kind in dataset.features.items() if each not in columns}
            _check_bits(dataset, columns, set_name(name), may_lack)
            if not drop_unlabelled:
                _check_filled(dataset, columns, set_name(name))
            listed = dataset.map(
                _columns_batch,
                batched=True,
                fn_kwargs={"columns": tuple(columns), "into": into},
                remove_columns=list(columns),
                features=Features({**kept, into: List(Value("string"))}),
                desc="Reading labels",
            )
            left[name] = note_rows(listed, dataset)
    return left, said


def _check_bits(dataset: Dataset, columns: Sequence[str], what: str, may_lack: bool) -> None:
    """Raises: UserError for a value of a label column that is neither 0 nor 1, naming column and row."""
    for column in columns:
        odd = next(
            (each for each in distinct_values(dataset, column) if not (_is_mark(each) or _is_in(each, BITS))), ""
        )
        if not odd:
            continue
        way = "; of a test set without labels, leave these columns out of the file" if may_lack else ""
        every = (each for name in columns for each in distinct_values(dataset, name) if not _is_mark(each))
        may_be_shares = re.fullmatch(r"0?\.\d+|\d(\.\d+)?e-\d+", odd) is not None
        if may_be_shares or (not may_lack and are_numbers(every)):
            way = way_of_columns(columns, may_be_shares)
        raise UserError(
            f"{what}: column {column!r} holds {short_repr(odd)} in {rows_with(dataset, column, odd)}; of several label "
            f"columns each has 0 or 1, for whether the row has this label{way}"
        )


def _is_mark(bit: str | None) -> bool:
    """Whether a value of a label column says that nobody has labelled the row."""
    return not is_written(bit) or bit.strip() in NO_BIT


def _is_in(bit: str | None, bits: Collection[str]) -> bool:
    return bit is not None and bit.strip().lower() in bits


def _check_filled(dataset: Dataset, columns: Sequence[str], what: str) -> None:
    """Raises: UserError for a row that has 1 in one label column and nothing in another, as spreadsheets are filled."""
    if all(is_written(each) for column in columns for each in distinct_values(dataset, column)):
        return
    start = 0
    for batch in dataset.select_columns(list(columns)).with_format("arrow").iter(batch_size=10_000):
        for number, bits in enumerate(zip(*(batch[column].to_pylist() for column in columns), strict=True), start):
            has = next((at for at, bit in enumerate(bits) if _is_in(bit, ONE)), None)
            blank = next((at for at, bit in enumerate(bits) if not is_written(bit)), None)
            if has is not None and blank is not None:
                row, ways = name_rows(dataset, [number], 1), "write 0 for a label that a row does not have"
                told = f"{what}: column {columns[blank]!r} is empty in {row}, where {columns[has]!r} has 1"
                raise UserError(f"{told}: {ways}; if nobody has labelled such rows, --drop_unlabelled leaves them out")
        start += len(batch)


def _columns_batch(batch: dict[str, list[Any]], columns: tuple[str, ...], into: str) -> dict[str, list[Any]]:
    rows = []
    for bits in zip(*(batch[column] for column in columns), strict=True):
        has = [column for column, bit in zip(columns, bits, strict=True) if _is_in(bit, ONE)]
        rows.append(None if any(map(_is_mark, bits)) else has)
    return {into: rows}


def parse_list(text: str | None) -> list[str] | None:
    """Return the items of a list or tuple as Python, NumPy or JSON write it, or of the list of texts that a mapping of
    one name holds, as Label Studio's `{"choices": ["a", "b"]}`; None for any other text.

    `ast.literal_eval` would make one name of NumPy's `['a' 'b']`.
    """
    if text is None:
        return None
    within = _LIST_IN_MAPPING.fullmatch(text)
    text = within[1] if within else text
    if not _LIST.fullmatch(text):
        return None
    try:
        items = [_item(written) for written in re.findall(_ITEM, text)]
    except (SyntaxError, ValueError):  # an escape that is none
        return None
    is_list = all(items) and all(map(is_utf8, items)) and len(set(items)) in (len(items), len(set(items) & BITS))
    return items if is_list else None


def items_or_name(text: str | None) -> list[str] | None:
    """Return the items of a list as text, and any other text as the only one; None where it says nothing."""
    items = parse_list(text)
    return [text] if items is None and is_written(text) else items


def _item(written: str) -> str:
    if written[0] == '"':
        with suppress(ValueError):  # what JSON escapes, Python reads otherwise: a slash, a pair of surrogates
            return str(json.loads(written, strict=False))
    if written[0] in "'\"":
        with warnings.catch_warnings(action="ignore"):  # of a backslash before a letter without a meaning
            return str(ast.literal_eval(written))
    return f"{written}0" if written.endswith(".") else written.lower()


def _check_no_probabilities(dataset: Dataset, column: str, wanted: ProblemType | None, what: str) -> None:
    """Raises: UserError where every label is a text of several numbers, such as `[0.7, 0.3]`, with fractions. Where
    such texts may be something else, as intervals are that are to be classes, only if they are parts of one."""
    if column not in dataset.column_names or has_lists(dataset, column):
        return
    first = None
    for text in distinct_values(dataset, column):
        if not is_written(text):
            continue
        numbers = numbers_of_classes(text)
        in_brackets = wanted is None and text.strip()[0] in "[{"
        if numbers is None or not (in_brackets or are_shares(numbers)):
            return
        first = text if first is None and have_fraction(numbers) else first
    if first is not None:
        raise UserError(f"{what}: column {column!r} {told_of(first, f' in {rows_with(dataset, column, first)}')}")


class _ListsAsText(NamedTuple):
    shown: str
    """One of them."""
    has_several: bool
    """Whether one of them holds several."""
    name: str | None
    """A label beside them that is a name by itself; None where all are lists."""


def _find_lists_as_text(dataset: Dataset, column: str, wanted: ProblemType | None) -> _ListsAsText | None:
    """Return what shows that the labels of a column are lists as text, and names beside lists of such; None where they
    are not. Where one label a row is `wanted`, lists of several are texts like others.

    Raises: UserError where lists are `wanted` and some labels are neither.
    """
    if column not in dataset.column_names or has_lists(dataset, column):
        return None
    written = [text for text in distinct_values(dataset, column) if is_written(text)]
    if not any(text.lstrip()[0] in "[{(" for text in written):  # not each of very many numbers
        return None
    lists = {text: parse_list(text) for text in written}
    shown = next((text for text, items in lists.items() if items), None)
    if shown is None:
        return None
    names = [text for text, items in lists.items() if items is None]
    hold_names = any(items and ("'" in text or '"' in text) for text, items in lists.items())
    odd = next((text for text in names if not hold_names or _looks_like_a_list(text)), None)
    has_several = any(len(items or ()) > 1 for items in lists.values())
    if wanted == ProblemType.MULTI_LABEL and odd is not None:
        where = rows_with(dataset, column, odd)
        told = f"column {column!r} holds {short_repr(odd)} in {where}, and lists as text in other rows"
        raise UserError(f"{told}; write it as a list of different names too, such as {short_repr(shown)}")
    if odd is not None or (wanted == ProblemType.SINGLE_LABEL and has_several):
        return None
    return _ListsAsText(shown, has_several, next(iter(names), None))


def _are_empty_lists(dataset: Dataset, column: str) -> bool:
    texts = distinct_values(dataset, column) if column in dataset.column_names else []
    written = [text for text in texts if is_written(text)]
    return bool(written) and all(parse_list(text) == [] for text in written)


def _looks_like_a_list(text: str) -> bool:
    return LIST_BEGUN.match(text) is not None or text.strip()[0] + text.strip()[-1] in ("[]", "{}")


def _width_of_vectors(dataset: Dataset, column: str) -> int | None:
    """Return how many labels there are if all lists are as long and hold nothing but 0 and 1; else None.

    As names, the same two in every row would tell no rows apart.
    """
    if not has_lists(dataset, column) or not set(distinct_values(dataset, column)) <= BITS:
        return None
    lengths = _lengths(dataset, column)
    return lengths.pop() if len(lengths) == 1 and max(lengths) > 1 else None


def _lengths(dataset: Dataset, column: str) -> set[int]:
    lengths = pc.unique(pc.list_value_length(dataset.with_format("arrow")[:][column])).to_pylist()
    return {length for length in lengths if length is not None}


def _empty(dataset: Dataset, column: str) -> list[tuple[int, str]]:
    """Return the number of empty lists, and which rows they are in, where only some are empty."""
    if not has_lists(dataset, column):
        return []
    rows = pc.indices_nonzero(pc.equal(pc.list_value_length(dataset.with_format("arrow")[:][column]), 0))
    return (
        [(len(rows), name_rows(dataset, rows[:MAX_SHOWN].to_pylist(), len(rows)))]
        if 0 < len(rows) < len(dataset)
        else []
    )


def _names_of_vector(row: list[str] | None) -> list[str] | None:
    return None if row is None else [f"LABEL_{id}" for id, bit in enumerate(row) if bit in ONE]


def _without_lists(dataset: Dataset, column: str, name: str) -> Dataset:
    """Make of a list of one label this label, and of an empty one a missing label. Raises: UserError for others."""
    if not has_lists(dataset, column):
        return dataset
    if not _lengths(dataset, column) <= {0, 1}:
        where = _first_row(dataset, column, lambda row: len(row) > 1)
        raise UserError(
            f"problem_type: the list of {where} in column {column!r} of {set_name(name)} has several labels, which "
            f"only {ProblemType.MULTI_LABEL} learns"
        )
    return _map_labels(dataset, column, _only_item, Value("string"))


def _only_item(row: list[str] | None) -> str | None:
    return row[0] if row else None


def _check_names(dataset: Dataset, column: str, what: str) -> None:
    """Raises: UserError for a list that names a label twice. Of 0 and 1 it is known only here that they are names."""
    if not has_lists(dataset, column) or BITS.isdisjoint(distinct_values(dataset, column)):
        return

    def first() -> str | None:
        return _first_row(dataset, column, lambda row: len(set(row)) < len(row))

    where = cached(dataset_key(dataset), f"twice: {column}", first)
    if where is not None:
        raise UserError(
            f"{what}: column {column!r} names a label twice in the list of {where}; as vectors of 0 and 1 all lists "
            "would have the same length"
        )


def _first_row(dataset: Dataset, column: str, is_meant: Callable[[list[str]], bool]) -> str | None:
    """Name the first row whose list is meant; None if there is none."""
    start = 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        for number, row in enumerate(table[column].to_pylist(), start=start):
            if row is not None and is_meant(row):
                return name_rows(dataset, [number], 1)
        start += len(table)
    return None


def _map_labels(dataset: Dataset, column: str, change: Callable[[Any], Any], kind: Any) -> Dataset:
    if column not in dataset.column_names:
        return dataset
    changed = dataset.map(
        _change_batch,
        batched=True,
        fn_kwargs={"column": column, "change": change},
        features=Features(dataset.features | {column: kind}),
        desc="Reading labels",
    )
    return note_rows(changed, dataset)


def _change_batch(batch: dict[str, list[Any]], column: str, change: Callable[[Any], Any]) -> dict[str, list[Any]]:
    return {column: [change(value) for value in batch[column]]}
