"""Labels of several training files: numbers in one that are the classes which another names, and files that have none
in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ftloop.data.files import MAX_LABELS, file_class_names, labels_of
from ftloop.data.sources import Source
from ftloop.data.values import is_written, plain_spelling
from ftloop.system.console import say
from ftloop.system.text import join_some, short_repr

MAX_NAMED = 5


def with_class_names(sources: Sequence[Source], column: str) -> list[Source]:
    """Give the names of the classes that a file carries to the others whose labels are nothing but their numbers, and
    say so."""
    of_files = [file_class_names(source, source.own_name(column)) for source in sources]
    names = next((each for each in of_files if each), None)
    if names is None or any(each not in (None, names) for each in of_files) or None not in of_files:
        return list(sources)
    given = []
    for source, own in zip(sources, of_files, strict=True):
        labels = [] if own else [label for label in labels_of(source, column) if is_written(label)]
        numbers = {int(text) for label in labels if re.fullmatch(r"-1|\d{1,9}", text := plain_spelling(label))}
        if labels and len(numbers) == len({*map(plain_spelling, labels)}) and max(numbers) < len(names):
            origin = sources[of_files.index(names)].name
            named = ", ".join(f"{id} is {short_repr(names[id])}" for id in sorted(numbers - {-1})[:MAX_NAMED])
            say("Labels", f"{source.name}: numbers of the classes that {origin} names: {named}")
            source = replace(source, class_names=tuple(names))
        given.append(source)
    return given


def warn_of_unshared(sources: Sequence[Source], column: str) -> None:
    """Say where a file has no label that another has; of files with one label each this is usual, if all or none are
    numbers.
    """
    if len(sources) < 2:
        return
    of_files = [{*map(plain_spelling, filter(is_written, labels_of(source, column)))} for source in sources]
    if any(len(labels) > MAX_LABELS for labels in of_files) or any(map(_is_fraction, set().union(*of_files))):
        return
    for place, labels in enumerate(of_files):
        others = [each for at, each in enumerate(of_files) if at != place and each]
        beside = set().union(*others)
        if not labels or not beside or labels & beside:
            continue
        of_two_kinds = {*map(_is_number, labels)} ^ {*map(_is_number, beside)} == {True, False}
        if of_two_kinds or (len(labels) > 1 and any(len(each) > 1 for each in others)):
            places = [source.name for at, source in enumerate(sources) if at != place and of_files[at]]
            told = f"{sources[place].name} has {_listed(labels)}, and {join_some(places, 2)} {_listed(beside)}"
            say("Warning", f"training files without a label in common: {told}; if they mean the same, write them alike")
            return


def _is_number(label: str) -> bool:
    return label.lstrip("+-").isdecimal()


def _is_fraction(label: str) -> bool:
    return re.fullmatch(r"[+-]?\d*[.,]\d+([eE][+-]?\d+)?", label) is not None


def _listed(labels: set[str]) -> str:
    return join_some(list(map(short_repr, sorted(labels))), MAX_NAMED)
