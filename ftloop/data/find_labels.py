"""Decide what the labels of a training set are, and hold those of other sets against them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from decimal import Decimal

from datasets import Dataset

from ftloop.config.problem_type import ProblemType
from ftloop.data.first_rows import SHUFFLE
from ftloop.data.incomplete_rows import LEAVE_OUT, is_mark, way_of_empty
from ftloop.data.joined_labels import find_joined
from ftloop.data.labels import Labels
from ftloop.data.remarks import MAX_FLOAT_CLASSES
from ftloop.data.scan import MAX_SHOWN, distinct_values, has_lists, list_items, rows_with
from ftloop.data.values import TRUTHS, plain_number
from ftloop.errors import UserError
from ftloop.system.text import join_some, pluralize, short_repr

MAX_NUMBER = 3.4e38  # float32, as which a number is learned


def find_labels(
    train: Dataset,
    column: str,
    task_names: tuple[str, ...] | None,
    wanted: ProblemType | None = None,
    others: Iterable[Dataset] = (),
    read: Dataset | None = None,
) -> Labels:
    """Decide what the labels are, over all of them: as `wanted`, else as the data seem.

    All whole numbers, or any texts: classes. Numbers, at least one with a fraction or a point: regression, unless they
    are a few whole ones, here and in the `others`, that come again and again; where `train` is a part of the rows
    `read`, these decide, so that it is the same for every part. The names that the task or the data set has for its
    classes are used, in its order, where the labels are those names or their numbers. Lists of them: any number of
    classes for each row.
    """
    raw = distinct_values(train, column)
    if has_lists(train, column):
        return _find_multi_labels(train, column, raw, task_names)
    if wanted == ProblemType.REGRESSION:
        return _find_numbers(train, column, raw)
    odd = {label for label in raw if _is_not_finite(label)}
    read = train if read is None else read
    numbers = [label for label in distinct_values(read, column) if label and is_number(label)]
    whole = all(map(_is_whole, [*raw, *numbers]))
    if wanted is None and odd and not whole and all(label in odd or is_number(label) for label in raw):
        first = next(label for label in raw if label in odd)
        where = rows_with(train, column, first)
        raise UserError(
            f"the training set: the label {short_repr(first)} in {where} is no finite number; all others are"
        )
    if wanted is None and all(map(is_number, raw)):
        names_fit = whole or set(raw) <= set(task_names or ())
        if task_names == () or not (names_fit or _are_a_few_whole_numbers(read, column, numbers, others)):
            return Labels((), {}, ProblemType.REGRESSION)
    classes = list(dict.fromkeys(_plain_spellings(raw).values()))
    if len(classes) < 2:
        only = f"all {len(train)} rows have the label {short_repr(raw[0])}"
        raise UserError(f"the training set: {only}; at least two are needed")
    return with_spellings(_classes(classes, task_names, ProblemType.SINGLE_LABEL), raw)


def check_wanted(train: Dataset, column: str, wanted: ProblemType | None) -> None:
    """Raises: UserError where `problem_type` asks for lists of labels and there are none, or the other way round."""
    holds_lists = has_lists(train, column)
    if wanted is None or holds_lists == (wanted == ProblemType.MULTI_LABEL):
        return
    if holds_lists:
        raise UserError(
            f"problem_type: column {column!r} holds lists of labels, for which it is {ProblemType.MULTI_LABEL}"
        )
    joined = find_joined(label for label in distinct_values(train, column) if label is not None)
    way = joined.told if joined else "--label_delimiter says what separates several"
    told = f"{ProblemType.MULTI_LABEL} learns lists of labels, and column {column!r} holds one text each"
    raise UserError(f"problem_type: {told}; {way}")


def _find_numbers(train: Dataset, column: str, raw: list[str]) -> Labels:
    """Raises: UserError naming the first label that is no number."""
    odd = next((label for label in raw if not is_number(label)), None)
    if odd is not None:
        where = rows_with(train, column, odd)
        way = f"; {LEAVE_OUT}" if is_mark(odd) else ""
        told = f"problem_type: regression learns numbers, and the label {short_repr(odd)} in {where} is none"
        raise UserError(f"{told}{way}")
    return Labels((), {}, ProblemType.REGRESSION)


def _are_a_few_whole_numbers(read: Dataset, column: str, raw: list[str], others: Iterable[Dataset]) -> bool:
    """Whether numbers written with a point are classes all the same: few values, each many times, none a fraction."""
    if len(raw) > MAX_FLOAT_CLASSES or len(read) < 2 * len(raw):
        return False
    labelled = [each for each in others if column in each.column_names and not has_lists(each, column)]
    everywhere = [*raw, *(label for each in labelled for label in distinct_values(each, column) if label)]
    return all(_is_whole(plain_number(label)) for label in everywhere if is_number(label))


def _plain_spellings(raw: Iterable[str]) -> dict[str, str]:
    """Return one spelling for each label: 1 for 1.0 among whole numbers, and true for True beside true."""
    as_they_are = {label: label for label in raw}
    numbers = {label: plain_number(label) for label in raw}
    truths = {label: label.strip().lower() for label in raw}
    if all(map(_is_whole, numbers.values())):
        return numbers
    return truths if len(truths) > 2 and set(truths.values()) == {"true", "false"} else as_they_are


def with_spellings(labels: Labels, raw: Iterable[str]) -> Labels:
    """Let the classes be found under other spellings too, where these leave no doubt."""
    truths = {TRUTHS.get(name.lower()): id for id, name in enumerate(labels.names)}
    ids = dict(labels.ids)
    for label in raw:
        plain = plain_number(label)
        if label in ids:
            continue
        if plain in ids:
            ids[label] = ids[plain]
        elif labels.count == 2 and truths.keys() == {True, False} and plain.strip().lower() in TRUTHS:
            ids[label] = truths[TRUTHS[plain.strip().lower()]]
    return labels if ids == labels.ids else replace(labels, ids=ids)


def with_spellings_of(labels: Labels, column: str, others: Iterable[Dataset]) -> Labels:
    """Let the classes be found as other sets spell them: 1 and 1.0, or true, True and 1."""
    if labels.problem_type != ProblemType.SINGLE_LABEL:
        return labels
    for dataset in others:
        if column in dataset.column_names and not has_lists(dataset, column):
            labels = with_spellings(labels, (label for label in distinct_values(dataset, column) if label))
    return labels


def with_positive(labels: Labels, name: str | None) -> Labels:
    """Choose the class whose F1 is given. Raises: UserError for a name that is none of two classes."""
    if name is None:
        return labels
    if not labels.is_binary:
        what = "numbers" if labels.regression else f"{labels.count} {'labels' if labels.multi_label else 'classes'}"
        raise UserError(f"positive_label: only where there are two classes, and these are {what}; leave it out")
    id = labels.names.index(name) if name in labels.names else labels.ids.get(name)
    if id is None:
        either = " or ".join(map(short_repr, labels.names))
        raise UserError(f"positive_label: {short_repr(name)} is none of the classes; give {either}")
    return replace(labels, positive_name=labels.names[id])


def _classes(raw: list[str], task_names: tuple[str, ...] | None, problem_type: ProblemType) -> Labels:
    """Take the names of the task or data set if the labels are these or their numbers; else the labels, in order."""
    numbered = {str(id): id for id in range(len(task_names or ()))}
    named = {name: id for id, name in enumerate(task_names or ())}
    if task_names and (set(raw) <= set(numbered) or set(raw) <= set(named)):
        return Labels(task_names, numbered | named, problem_type)
    are_numbers = all(map(_is_whole, raw)) or all(map(is_number, raw))
    ordered = sorted(raw, key=Decimal) if are_numbers else sorted(raw)  # int() reads 4300 digits at most
    return Labels(tuple(ordered), {label: id for id, label in enumerate(ordered)}, problem_type)


def _find_multi_labels(train: Dataset, column: str, raw: list[str], task_names: tuple[str, ...] | None) -> Labels:
    """Find the classes of which each row has a list. Raises: UserError where they tell no rows apart."""
    fraction = next((label for label in raw if not _is_whole(label)), None)
    if fraction is not None and all(is_number(label) or _is_not_finite(label) for label in raw):
        raise UserError(
            f"the training set: {short_repr(fraction)} in the list of {rows_with(train, column, fraction)} is not a "
            "name; lists of names are learned, not lists of numbers (of probabilities, write the most likely class)"
        )
    if len(raw) < 2:
        only = f"only the label {short_repr(raw[0])} occurs" if raw else "no row has a label"
        raise UserError(
            f"the training set: {only} in its lists; at least two are needed (whether a row has a single one are two "
            "classes: give each row one of two texts)"
        )
    if list_items(train, column)[1] == len(raw) * len(train):
        raise UserError(f"the training set: all {len(train)} rows have the same {len(raw)} labels")
    return _classes(raw, task_names, ProblemType.MULTI_LABEL)


def check_known_labels(
    dataset: Dataset,
    column: str,
    labels: Labels,
    what: str,
    files: str | None,
    not_trained: Collection[str],
    may_lack_labels: bool = False,
) -> None:
    """Raises: UserError for labels that the training set does not have, or of another kind.

    `what` names the set, `files` what it is read from. `not_trained`: the labels of all training rows, where
    `max_train_samples` leaves some out.
    """
    if has_lists(dataset, column) != labels.multi_label:
        forms = ("one label a row", "lists of labels")
        ours, theirs = forms[not labels.multi_label], forms[labels.multi_label]
        raise UserError(f"{what}: column {column!r} holds {ours}, and the training set's {theirs}")
    fits: Callable[[str], bool] = is_number if labels.regression else labels.ids.__contains__
    raw = distinct_values(dataset, column)
    unknown = [label for label in raw if not fits(label)]
    if not unknown:
        return
    trained = "numbers" if labels.regression else join_some(list(map(short_repr, labels.names)), 2 * MAX_SHOWN)
    found = [f"{short_repr(label)} in {rows_with(dataset, column, label)}" for label in unknown[:MAX_SHOWN]]
    more = f" and {len(unknown) - MAX_SHOWN} more" if len(unknown) > MAX_SHOWN else ""
    there = files or "it"
    ways = [f"write the labels of {there} as the training set's", f"take these rows out of {there}"]
    ways += [] if labels.regression else ["train on rows that have them too"]
    ways += (
        [f"leave the column out of {there} to predict it without labels"] if may_lack_labels and unknown == raw else []
    )
    way = f"{', '.join(ways[:-1])}, or {ways[-1]}"
    joined = find_joined(labels.names) if labels.problem_type == ProblemType.SINGLE_LABEL else None
    if {*unknown} <= {*not_trained}:
        told = "training rows that have them are left out by --max_train_samples, as where they are sorted by class"
        way = f"{told}: {SHUFFLE}, raise it, or leave it out"
    elif all(map(is_mark, unknown)):
        way = way_of_empty(joined)
    elif joined is not None:
        way = f"{joined.told}; else {way}"
    raise UserError(
        f"{what}{f' ({files})' if files else ''}: column {column!r} holds {pluralize(len(unknown), 'label')} that the "
        f"training set does not have: {', '.join(found)}{more}; the training set's are {trained}; {way}"
    )


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", text) is not None


def is_number(text: str) -> bool:
    # float() alone would also take "nan", "inf" and "1_000".
    written = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None
    return written and abs(float(text)) <= MAX_NUMBER


def _is_not_finite(text: str) -> bool:
    try:
        return not math.isfinite(float(text)) or abs(float(text)) > MAX_NUMBER
    except ValueError:
        return False
