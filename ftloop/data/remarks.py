"""What is said of the labels before training: how doubtful ones are read, and what looks wrong with them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from datasets import Dataset

from ftloop.config.problem_type import ProblemType
from ftloop.data.contradictions import are_many
from ftloop.data.joined_labels import find_joined
from ftloop.data.labels import Labels
from ftloop.data.scan import distinct_values, rows_with, set_name, single_values
from ftloop.data.values import DOUBTFUL_NULLS, LIST_BEGUN, is_null
from ftloop.system.text import join_some, short_repr

Remark = tuple[str, str]
"""Topic and text of a line on the console."""

MAX_NAMED = 5
MAX_FLOAT_CLASSES = 10
"""Whole numbers written with a point are classes up to here: pandas writes 0.0 and 1.0 where another row is empty."""
FEW_ROWS = 10
"""Fewer may all be of one class by chance."""
FEW_TEXTS = 3
IS_A_CLASS = f"if it is a class, --problem_type {ProblemType.SINGLE_LABEL} says so"
MANY_CLASSES = 6
"""Number of classes from which whole numbers with gaps look like a quantity, and classes of single rows like an id."""


def label_remarks(
    train: Dataset,
    column: str,
    labels: Labels,
    wanted: ProblemType | None,
    drop_unlabelled: bool,
    class_names: Sequence[str] | None,
) -> list[Remark]:
    """Say what a person would want to know before hours of training; nothing where the labels leave no doubt, as where
    the data list the `class_names` themselves.
    """
    raw = distinct_values(train, column)
    if labels.regression:
        return [] if wanted or class_names == () else _many_whole_numbers(raw, len(train))
    remarks = [] if wanted else _doubtful_readings(raw, labels, drop_unlabelled)
    warnings = _alike(labels.names) + ([] if wanted else _lists_as_text(labels))
    if not class_names and (wanted is None or labels.multi_label):
        warnings += _nulls(labels, drop_unlabelled)
        warnings += [] if labels.multi_label else _texts_among_numbers(train, column, labels.names, drop_unlabelled)
    if not labels.multi_label:
        warnings += _joined(labels.names)
        warnings += _single_rows(single_values(train, column), labels.names, column)
    return remarks + [("Warning", text) for text in warnings]


def contradictions_remark(rows: int, total: int) -> list[Remark]:
    """Say how many rows have texts that occur with another label too, where these are many."""
    if not are_many(rows, total):
        return []
    told = f"{rows} of {total} training rows ({rows / total:.0%}) have texts that also occur with another label"
    return [("Warning", f"{told}: no model can get all of these right")]


def one_class_remarks(sets: Mapping[str, Dataset], column: str, labels: Labels, first_rows: set[str]) -> list[Remark]:
    """Say of a set to be scored that all its rows have one class, as the `first_rows` have of a file that is sorted."""
    if labels.regression or labels.multi_label or len(labels.names) < 2:
        return []
    remarks = []
    others = "class" if len(labels.names) == 2 else f"{len(labels.names) - 1} classes"
    for name, dataset in sets.items():
        values = distinct_values(dataset, column) if column in dataset.column_names else []
        if len(dataset) >= FEW_ROWS and len(values) == 1:
            why = "; they are the first rows of a set that may be sorted by class" if name in first_rows else ""
            told = f"{set_name(name)}: all {len(dataset)} rows have the label {short_repr(values[0])}{why}"
            remarks.append(("Warning", f"{told}: its scores say nothing of the other {others}"))
    return remarks


def _many_whole_numbers(raw: Sequence[str], rows: int) -> list[Remark]:
    """Say that whole numbers written with a point are learned as numbers, where they come again and again."""
    if not MAX_FLOAT_CLASSES < len(raw) <= rows // 2:
        return []
    if not all(re.fullmatch(r"\s*[+-]?\d+(\.0*)?\s*", label or "") for label in raw):
        return []
    told = f"{len(raw)} whole numbers written as {_listed(raw)} are learned as numbers"
    return [("Labels", f"{told}; --problem_type {ProblemType.SINGLE_LABEL} makes them classes")]


def _doubtful_readings(raw: Sequence[str], labels: Labels, drop_unlabelled: bool) -> list[Remark]:
    """Say which of two possible readings is taken, and which flag takes the other."""
    remarks = []
    other = f"--problem_type {ProblemType.REGRESSION} learns them as numbers"
    if any(label not in labels.names and re.fullmatch(r"[+-]?\d+\.0*", label) for label in raw):
        remarks.append(("Labels", f"a few whole numbers written as {_listed(raw)} are classes; {other}"))
    elif _has_gaps(labels.names):
        remarks.append(("Labels", f"whole numbers such as {_listed(labels.names)} are classes; {other}"))
    if not drop_unlabelled and len(raw) == 3 and "-1" in labels.names and labels.names[1:] == ("0", "1"):
        remarks.append(("Labels", "-1 is a class beside 0 and 1; --drop_unlabelled leaves its rows out"))
    if len(raw) > 2 and set(labels.names) == {"false", "true"}:
        remarks.append(("Labels", f"{_listed(raw)} are read as true and false"))
    return remarks


def _nulls(labels: Labels, drop_unlabelled: bool) -> list[str]:
    """Name classes that may say that there is none; of two classes one may be a none of the other, but no null."""
    nulls = [name for name in labels.names if is_null(name)]
    doubtful = [name for name in labels.names if is_null(name, DOUBTFUL_NULLS)]
    if labels.multi_label:
        if not nulls + doubtful:
            return []
        told = f"names of labels in the lists: {_listed(nulls + doubtful)}"
        return [f"{told}; if a row has none of the labels, make its list empty, and if nobody has labelled it, null"]
    remarks = []
    if nulls:
        remarks.append(f"{_listed(nulls)} is a class beside one other; if it means that there is no label, label these")
    if doubtful and not drop_unlabelled and len(labels.names) - len(doubtful) >= 2:
        ways = f"if it means that there is none, --drop_unlabelled leaves its rows out; {IS_A_CLASS}"
        remarks.append(f"{_listed(doubtful)} is a class beside {len(labels.names) - len(doubtful)} others; {ways}")
    return remarks


def _texts_among_numbers(train: Dataset, column: str, names: Sequence[str], drop_unlabelled: bool) -> list[str]:
    """Name the few classes that are no numbers where the others are, such as an `unknown` among ratings."""
    texts = [name for name in names if not re.fullmatch(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?", name.strip())]
    odd = [name for name in texts if not is_null(name) and (drop_unlabelled or not is_null(name, DOUBTFUL_NULLS))]
    if not odd or len(texts) > FEW_TEXTS or len(names) - len(texts) < 2 * len(texts):
        return []
    shown = [f"{short_repr(name)} in {rows_with(train, column, name)}" for name in odd]
    ways = f"if that is no label, make it empty and --drop_unlabelled leaves its rows out; {IS_A_CLASS}"
    return [f"the labels are numbers but for {join_some(shown, MAX_NAMED)}: all are classes; {ways}"]


def _has_gaps(names: Sequence[str]) -> bool:
    """Whether classes are whole numbers that nobody has counted from 0 or 1: a quantity, perhaps, or an id."""
    if len(names) < MANY_CLASSES or not all(re.fullmatch(r"[+-]?\d{1,15}", name) for name in names):
        return False
    numbers = sorted(map(int, names))
    return numbers[-1] - numbers[0] >= len(numbers)


def _alike(names: Sequence[str]) -> list[str]:
    """Name classes that differ only by case or surrounding spaces."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.strip().casefold()].append(name)
    several = [" and ".join(map(short_repr, group)) for group in groups.values() if len(group) > 1]
    if not several:
        return []
    return [f"classes that differ only by case or spaces: {join_some(several, MAX_NAMED)}; make them one in the file"]


def _lists_as_text(labels: Labels) -> list[str]:
    """Name classes that look like lists or JSON's objects, or like pieces of a list that was split."""
    ended = re.compile(r"['\"]\s*\]$")
    lists = [name for name in labels.names if LIST_BEGUN.match(name) or ended.search(name)]
    if not lists:
        return []
    way = "without --label_delimiter they are lists"
    if not labels.multi_label:
        way = "they are texts, as not every label is a name or a list of different names"
        way += f'; write ["a", "b"] for several, or --problem_type {ProblemType.SINGLE_LABEL} says they are classes'
    return [f"classes that look like lists or JSON: {_listed(lists)}; {way}"]


def _joined(names: Sequence[str]) -> list[str]:
    """Name classes that look like several."""
    joined = find_joined(names)
    if joined is None:
        return []
    return [f"classes that look like several joined: {_listed(joined.labels)}; {joined.way}"]


def _single_rows(single: int, names: Sequence[str], column: str) -> list[str]:
    """Tell labels that hardly come twice: an id, a date, or a text of its own in each row."""
    if len(names) < MANY_CLASSES or 2 * single <= len(names):
        return []
    flags = "--label_column_name names another column, --problem_type regression learns numbers"
    return [f"{single} of the {len(names)} classes in {column!r} have a single row: an id, or a quantity? {flags}"]


def _listed(names: Sequence[str]) -> str:
    return join_some([short_repr(name) for name in names], MAX_NAMED)
