"""Rows that lack a text or a label: counted and said, or left out where that is asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.cache import cached, dataset_key
from ftloop.data.joined_labels import Joined, find_joined
from ftloop.data.labels import Labels
from ftloop.data.remarks import Remark
from ftloop.data.scan import MAX_SHOWN, distinct_values, has_lists, missing, name_rows, rows_with, set_name
from ftloop.data.values import DOUBTFUL_NULLS, NULLS, is_null
from ftloop.errors import UserError
from ftloop.system.row_numbers import note_rows
from ftloop.system.text import join_some, short_repr

MINUS_ONE = frozenset(("-1", "-1.0"))
NO_LABEL = MINUS_ONE | {"-"}
"""Marks of a row without a label, beside empty ones: SNLI's and GLUE's. Where they are not classes themselves."""
SECRET = NULLS | DOUBTFUL_NULLS | {"?", "unk", "unknown", "unlabelled", "unlabeled", "missing", "hidden"}
"""What test sets hold in the label of every row to say that it is not told, in whatever case."""
LEAVE_OUT = "--drop_unlabelled leaves such rows out"


def leave_out(
    config: TrainConfig,
    sets: Mapping[str, Dataset],
    columns: Sequence[str],
    label_column: str,
    class_names: Sequence[str] | None,
    may_lack_labels: Collection[str],
) -> tuple[dict[str, Dataset], list[Remark]]:
    """Leave out of each set what `drop_unlabelled` and `drop_empty_texts` ask for; a missing text is an empty one, as
    csv files cannot tell them apart.

    Of the sets named in `may_lack_labels`, one without any label is kept, to be predicted.
    Returns: the sets, and what is to be said. Raises: UserError where nothing is left of one.
    """
    left, said, remarks = {}, [], list[Remark]()
    kept_labels: set[Any] = set()
    beside_empty = have_empty_labels(sets, label_column, may_lack_labels)
    for name, dataset in sets.items():
        dataset = _fill_missing_texts(dataset, columns)
        reasons: dict[str, np.ndarray] = {}
        if config.drop_unlabelled and label_column in dataset.column_names:
            raw = _texts(dataset, label_column)
            values = {label for label in raw if is_mark(label)}
            if name == "train":
                values = marks_of_no_label(raw, class_names, config, beside_empty)
                kept_labels = set(raw) - values
                doubtful = marks_of_no_label(raw, class_names, config) - values
                remarks += [("Labels", _kept(mark)) for mark in sorted(doubtful)]
            values -= kept_labels | (MINUS_ONE if kept_labels & MINUS_ONE else set())
            lacking = _without_label(dataset, label_column, values)
            if not (name in may_lack_labels and lacking.all()):
                if _are_numbers(kept_labels, class_names, config):  # of which -1 is one
                    values -= MINUS_ONE
                    lacking = _without_label(dataset, label_column, values)
                for mark in sorted((values & set(raw)) - _blank(raw)):
                    reasons[f"with the label {mark}"] = _with_label(dataset, label_column, {mark})
                    lacking = lacking & ~reasons[f"with the label {mark}"]
                reasons["without a label"] = lacking
        if config.drop_empty_texts:
            reasons["with an empty text"] = _with_empty_text(dataset, columns)
        dropped = reduce(np.logical_or, reasons.values(), np.zeros(len(dataset), bool))
        if dropped.any():
            counts = ", ".join(f"{mask.sum()} {reason}" for reason, mask in reasons.items() if mask.any())
            said.append(f"{name}: {dropped.sum()} of {len(dataset)} rows ({counts})")
            # An index in memory would hide from the cache which rows these are; so they are written.
            kept = np.flatnonzero(~dropped)
            dataset = note_rows(dataset.select(kept).flatten_indices(), dataset, kept)
        if not len(dataset):
            flags = " and ".join(
                f"--{flag}" for flag in ("drop_unlabelled", "drop_empty_texts") if getattr(config, flag)
            )
            raise UserError(f"{set_name(name)}: {flags} leave no row of it")
        left[name] = dataset
    return left, ([("Dropped", "; ".join(said))] if said else []) + remarks


def have_empty_labels(sets: Mapping[str, Dataset], column: str, may_lack_labels: Collection[str]) -> bool:
    """Whether some label is empty, missing or a null, but for a set of `may_lack_labels` that has none at all."""
    for name, dataset in sets.items():
        if column in dataset.column_names:
            raw = _texts(dataset, column)
            empty = _without_label(dataset, column, _blank(raw) | _nulls(raw))
            if empty.any() and not (name in may_lack_labels and empty.all()):
                return True
    return False


def _kept(mark: str) -> str:
    return (
        f"{mark} is a class, as rows without a label are marked otherwise here; if it means that there is none, make "
        "it empty in the files"
    )


def marks_of_no_label(
    raw: Collection[str], class_names: Sequence[str] | None, config: TrainConfig, beside_empty: bool = False
) -> set[str]:
    """Return those values of the training set's labels that mean there is none.

    `-` and -1 may be classes too. They are where the data say so: by their own list of classes, by a `+`, by too few
    others or, of -1, by others that are not counted from 0; and `beside_empty` labels, which are what is missing then,
    unless the classes are known or the others are numbers with a fraction. With `problem_type`, they are unless
    `drop_unlabelled` says no. Nulls of a database are no classes beside two others; None and the like are, unless
    `drop_unlabelled` alone says no. Where that is given and numbers are learned, all are but -1.
    """
    found, others = _blank(raw), set(raw) - _blank(raw) - NO_LABEL - _nulls(raw)
    wanted, drop, names = config.problem_type, config.drop_unlabelled, set(class_names or ())
    if wanted is not None and not drop:
        return found
    if drop and _are_numbers({label for label in raw if not is_mark(label)}, class_names, config):
        return {label for label in raw if is_mark(label)} - MINUS_ONE
    nulls, doubtful = _nulls(raw) - names, _nulls(raw, DOUBTFUL_NULLS) - names
    found |= nulls if len(others) >= 2 else set()
    if drop and wanted != ProblemType.SINGLE_LABEL.value and not beside_empty and len(others - doubtful) >= 2:
        found |= doubtful
    if beside_empty and not names and not _are_fractions(others):
        return found
    if "-" in raw and "-" not in names and "+" not in others and len(others) >= 2:
        found.add("-")
    minus_one = MINUS_ONE & set(raw)
    if minus_one and not names & NO_LABEL:
        numbers = {int(written[1]) for each in others if (written := re.fullmatch(r"\+?(\d{1,15})(\.0*)?", each))}
        are_counted = len(numbers) == len(others) and numbers == set(range(len(numbers)))
        few = 2 if drop or class_names else 3  # -1, 0 and 1 are classes of their own right as often as not
        fit = are_counted or (bool(names) and others <= names)
        if fit and len(others) >= few:
            found |= minus_one
    return found


def check_labelled(
    dataset: Dataset,
    column: str,
    what: str,
    class_names: Sequence[str] | None = None,
    config: TrainConfig | None = None,
    beside_empty: bool = False,
) -> None:
    """Raises: UserError for a label that is missing and, with the `config` of a training set, for marks of that."""
    joined = find_joined(_texts(dataset, column)) if config is None or config.problem_type is None else None
    count, first = missing(dataset, column)
    if count:
        way = LEAVE_OUT
        if joined is not None or has_lists(dataset, column):
            way += "; a row with none of the labels has an empty list or text, or 0 in every label column"
        told = "" if joined is None else f"; {joined.told}"
        raise UserError(f"{what}: column {column!r} has no value in {name_rows(dataset, first, count)}{told}; {way}")
    if config is None or config.drop_unlabelled:  # what is left then are classes
        return
    for mark in sorted(marks_of_no_label(_texts(dataset, column), class_names, config, beside_empty)):
        where = rows_with(dataset, column, mark)
        if not mark.strip():
            raise UserError(f"{what}: column {column!r} is empty in {where}; {way_of_empty(joined)}")
        raise UserError(
            f"{what}: the label {short_repr(mark)} in {where} seems to say that there is none: {LEAVE_OUT}; if it is a "
            f"class, --problem_type {ProblemType.SINGLE_LABEL} says so"
        )


def without_secret_labels(
    sets: Mapping[str, Dataset], column: str, labels: Labels
) -> tuple[dict[str, Dataset], list[Remark]]:
    """Drop the label column of sets whose labels are all missing, all marked so (unless that is a class), or all empty
    lists. Returns: the sets, and what is to be said.
    """
    left, said = dict(sets), list[Remark]()
    classes = {name.strip().casefold() for name in labels.ids}
    for name, dataset in sets.items():
        raw = [label for label in distinct_values(dataset, column) if label] if column in dataset.column_names else []
        secret = [label for label in raw if label.strip().casefold() in SECRET - classes]
        marked = {*secret, *_blank(raw), *NO_LABEL} - labels.ids.keys()
        if column in dataset.column_names and marked.issuperset(raw):
            left[name] = note_rows(dataset.remove_columns(column), dataset)
            if not raw and has_lists(dataset, column) and missing(dataset, column)[0] < len(dataset):
                said.append(("Labels", f"{set_name(name)}: no row has any of the labels, so it is without labels"))
            if secret:
                shown = join_some(list(map(short_repr, secret)), MAX_SHOWN)
                told = f"{set_name(name)} holds {shown} as the label of every row"
                said.append(("Labels", f"{told}, so it is without labels"))
    return left, said


def way_of_empty(joined: Joined | None) -> str:
    """Return what to do where labels are empty texts: where the others are several `joined`, nothing is missing."""
    if joined is None:
        return LEAVE_OUT
    return f"{joined.told}, an empty one as none; if these are single classes, {LEAVE_OUT}"


def empty_texts_remark(sets: Mapping[str, Dataset], columns: Sequence[str]) -> list[Remark]:
    """Say how many rows have an empty text, and which."""
    found = []
    for name, dataset in sets.items():
        key = f"empty texts: {list(columns)}"
        count, first = cached(dataset_key(dataset), key, partial(_count_empty, dataset, columns))
        if count:
            found.append(f"{count} of {name} ({name_rows(dataset, first, count)})")
    if not found:
        return []
    return [("Warning", f"rows with an empty text: {', '.join(found)}; --drop_empty_texts leaves them out")]


def _count_empty(dataset: Dataset, columns: Sequence[str]) -> tuple[int, list[int]]:
    rows = np.flatnonzero(_with_empty_text(dataset, columns))
    return len(rows), rows[:MAX_SHOWN].tolist()


def _with_empty_text(dataset: Dataset, columns: Sequence[str]) -> np.ndarray:
    """Return for each row whether one of its texts holds nothing but spaces."""
    table = dataset.with_format("arrow")[:]
    empty = np.zeros(len(dataset), bool)
    for column in columns:
        written = pc.match_substring_regex(table[column], r"\S")
        empty |= ~pc.fill_null(written, False).to_numpy()
    return empty


def _fill_missing_texts(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    lacking = [name for name in columns if missing(dataset, name)[0]]
    if not lacking:
        return dataset
    filled = dataset.map(_fill_batch, batched=True, fn_kwargs={"columns": lacking}, desc="Filling in empty texts")
    return note_rows(filled, dataset)


def _fill_batch(batch: dict[str, list[str | None]], columns: Sequence[str]) -> dict[str, list[str]]:
    return {name: [text or "" for text in batch[name]] for name in columns}


def _texts(dataset: Dataset, column: str) -> list[str]:
    """Return the different labels of a set whose labels are texts; nothing of lists, whose empty ones are labels."""
    return [] if has_lists(dataset, column) else [each for each in distinct_values(dataset, column) if each is not None]


def _blank(raw: Iterable[str]) -> set[str]:
    return {label for label in raw if not label.strip()}


def is_mark(label: str) -> bool:
    """Whether `drop_unlabelled` leaves out rows with this label where it is no class."""
    return not label.strip() or label in NO_LABEL or is_null(label, NULLS | DOUBTFUL_NULLS)


def _nulls(raw: Iterable[str], nulls: Collection[str] = NULLS) -> set[str]:
    return {label for label in raw if is_null(label, nulls)}


def _without_label(dataset: Dataset, column: str, values: set[str]) -> np.ndarray:
    lacking: np.ndarray = dataset.with_format("arrow")[:][column].is_null().to_numpy()
    if values and not has_lists(dataset, column):
        lacking = lacking | _with_label(dataset, column, values)
    return lacking


def _with_label(dataset: Dataset, column: str, values: set[str]) -> np.ndarray:
    labels = dataset.with_format("arrow")[:][column]
    found: np.ndarray = pc.is_in(labels, value_set=pa.array(sorted(values), labels.type)).to_numpy()
    return found


def _are_numbers(labels: Collection[str], class_names: Sequence[str] | None, config: TrainConfig) -> bool:
    """Whether numbers are learned: as `problem_type` or the task, which names no classes then, or the labels say."""
    if config.problem_type is not None:
        return config.problem_type == ProblemType.REGRESSION.value
    return class_names == () or (class_names is None and _are_fractions(labels))


def _are_fractions(labels: Collection[str]) -> bool:
    """Whether labels are numbers and some have a fraction, so that they are no classes."""
    written = [re.fullmatch(r"[+-]?\d*(\.\d*)?([eE][+-]?\d+)?", label) for label in labels]
    return all(written) and any(each and ((each[1] or ".").strip(".0") or each[2]) for each in written)
