"""Columns that a set has under other names than the training set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset

from ftloop.data.columns import fold_name, is_usual_label, is_usual_text, usual_pairs
from ftloop.data.dialect import mistaken_names
from ftloop.data.files import column_names, file_class_names, name_class
from ftloop.data.incomplete_rows import NO_LABEL
from ftloop.data.label_forms import parse_list
from ftloop.data.readers import read_rows
from ftloop.data.scan import list_and_class_names
from ftloop.data.sources import FASTTEXT, TEXTS, Source
from ftloop.data.values import TRUTHS, as_names, as_text, is_written, plain_spelling
from ftloop.errors import UserError
from ftloop.system.console import say
from ftloop.system.text import join_some, short_repr

MAX_NAMED = 5


class Trained(NamedTuple):
    """What the training set has."""

    name: str
    """What it is called in messages: its first file."""
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    """One column, or a 0/1 column for each label."""
    columns: Collection[str]
    """All of its columns. None of them has another meaning in another set."""
    values: Collection[str]
    """The different values of its labels, and of the lists among them."""
    delimiter: str | None = None
    """What separates the labels of a row."""


class _Part(NamedTuple):
    """A file of a set, or a split of a data set."""

    name: str
    what: str
    """`file` or `split`."""
    columns: Sequence[str]
    read: Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
    """Reads the rows, and of these columns at least."""
    class_names: Callable[[str], Sequence[str] | None]
    """Returns the names of the classes that a column of numbers has, if any."""
    header_fault: Callable[[], str | None] = lambda: None
    """Says what is wrong with the names of the columns themselves, if anything."""
    has_names: bool = True
    """Whether its columns have names of their own."""


def find_own_columns(sources: Sequence[Source], trained: Trained, split: str) -> tuple[list[Source], bool]:
    """Find the training set's columns in the files of another set, or in more files of its own, by their names.

    Another name is taken, and said, where it leaves no doubt: the same in another case, the only usual one for texts,
    the only usual one for labels if it holds classes of the training set alone.

    Returns: the files, each with the names that it has for these columns, and whether they have labels, which a test
    set may lack. Raises: UserError when a file lacks a column, naming the way out.
    """
    parts = [_of_file(source) for source in sources]
    own = [_own_names(part, trained, is_training=split == "train") for part in parts]
    has_label = _check(parts, own, trained, may_lack_label=split == "test")
    named = zip(sources, own, strict=True)
    return [replace(source, other_names=tuple(names.items())) for source, names in named], has_label


def with_trained_names(dataset: Dataset, trained: Trained, split: str, may_lack_label: bool) -> Dataset:
    """Give the columns of another split of a data set the names that the training set has for them, found as
    `find_own_columns` finds those of files.

    Raises: UserError when it lacks a column, naming the way out.
    """

    def read(columns: Sequence[str]) -> Iterable[Mapping[str, Any]]:
        rows: Iterable[Mapping[str, Any]] = dataset.select_columns(list(columns))
        return rows

    part = _Part(
        f"split {split}",
        "split",
        dataset.column_names,
        read,
        lambda name: list_and_class_names(dataset, name)[1],
    )
    own = _own_names(part, trained, is_training=False)
    _check([part], [own], trained, may_lack_label)
    return dataset.rename_columns({theirs: name for name, theirs in own.items()})


def _of_file(source: Source) -> _Part:
    def read(columns: Sequence[str]) -> Iterable[Mapping[str, Any]]:
        return (row.values for row in read_rows(source, columns))

    return _Part(
        source.name,
        "file",
        column_names([source]),
        read,
        partial(file_class_names, source),
        partial(mistaken_names, source),
        source.format not in (TEXTS, FASTTEXT),
    )


def _check(parts: Sequence[_Part], own: Sequence[Mapping[str, str]], trained: Trained, may_lack_label: bool) -> bool:
    """Say which other names are taken, and where there are no labels what could be them.

    Returns: whether there are labels. Raises: UserError when a part lacks a column.
    """
    has = [
        [name for name in trained.labels if names.get(name, name) in part.columns]
        for part, names in zip(parts, own, strict=True)
    ]
    has_label = not may_lack_label or any(has)
    for part, names, there in zip(parts, own, has, strict=True):
        lacking = [name for name in trained.texts if names.get(name, name) not in part.columns]
        unlabelled = [name for name in trained.labels if name not in there]
        if lacking or (unlabelled and has_label):
            raise _lacks(part, names, trained, lacking, unlabelled if has_label else [])
        if names and part.has_names:
            taken = ", ".join(f"{theirs} is read as {name}" for name, theirs in names.items())
            say("Columns", f"{part.name} has other names than {trained.name}: {taken}")
        if unlabelled:
            for told in _other_labels(part, names, trained):
                say("Warning", f"{part.name}: no column {', '.join(unlabelled)}, so without labels; {told}")
    return has_label


def _own_names(part: _Part, trained: Trained, is_training: bool) -> dict[str, str]:
    """Return the columns that have other names here: the training set's name of each, and that."""
    wanted = [name for name in (*trained.texts, *trained.labels) if name not in part.columns]
    free = [name for name in part.columns if name not in trained.columns]
    own: dict[str, str] = {}
    for name in wanted:
        alike = [each for each in free if fold_name(each) == fold_name(name)]
        if len(alike) == 1 and alike[0] not in own.values():
            own[name] = alike[0]
    if not is_training:
        texts = [name for name in trained.texts if name in wanted and name not in own]
        if len(texts) == len(trained.texts):
            left = [name for name in free if name not in own.values()]
            own |= dict(zip(texts, _usual_texts(left, len(texts)), strict=False))
        if len(trained.labels) == 1 and trained.labels[0] in wanted and trained.labels[0] not in own:
            usual = [name for name in free if is_usual_label(name) and name not in own.values()]
            if len(usual) == 1 and _odd_values(part, usual, trained)[usual[0]] is None:
                own[trained.labels[0]] = usual[0]
    return own


def _usual_texts(columns: Sequence[str], count: int) -> tuple[str, ...]:
    """Return as many columns as the training set has for texts, if their names are usual and no others are."""
    usual = [name for name in columns if is_usual_text(name)]
    if count == 2:
        pairs = usual_pairs(columns)
        return pairs[0] if len(pairs) == 1 and set(pairs[0]) == set(usual) else ()
    return tuple(usual) if len(usual) == 1 else ()


def _lacks(
    part: _Part, own: Mapping[str, str], trained: Trained, texts: Sequence[str], labels: Sequence[str]
) -> UserError:
    if (fault := part.header_fault()) is not None:
        return UserError(fault)
    told = f"{part.name}: no column {', '.join([*texts, *labels])}; it has {', '.join(part.columns)}"
    of = {"texts": texts, "labels": labels}
    ways = [f"{' and '.join(map(short_repr, names))} for the {what}" for what, names in of.items() if names]
    way = f"; the names in this {part.what} have to be those in {trained.name}: {', '.join(ways)}"
    way += "; dataset.rename_column and save_to_disk make a folder for --train_file" if part.what == "split" else ""
    doubts = _other_labels(part, own, trained) if labels else []
    return UserError(f"{told}{way}{''.join(f'; {doubt}' for doubt in doubts)}")


def _other_labels(part: _Part, own: Mapping[str, str], trained: Trained) -> list[str]:
    """Tell columns that could be the labels: with the training set's classes, or by a usual name."""
    if len(trained.labels) > 1:
        return []
    used = [own.get(name, name) for name in trained.texts]
    fields = [name for name in part.columns if "." in name and name.partition(".")[0] in part.columns]
    others = _odd_values(part, [name for name in part.columns if name not in (*used, *fields)], trained)
    told = []
    holding = [name for name, odd in others.items() if odd is None]
    if holding:
        verb = "holds" if len(holding) == 1 else "hold"
        told.append(
            f"column {join_some(holding, MAX_NAMED)} {verb} the training set's labels: if it is meant, name it "
            f"{trained.labels[0]!r} there"
        )
    for name, odd in others.items():
        if odd and is_usual_label(name) and name not in trained.columns:
            told.append(
                f"column {name} could be its labels, but holds {short_repr(odd)}, which the training set's do not"
            )
    return told


def _odd_values(part: _Part, columns: Sequence[str], trained: Trained) -> dict[str, str | None]:
    """Return of each column the first value that is no label of the training set's: None where all are, and an empty
    text where there is no value at all.

    Nothing is held, and a column is left at the first such value: in most files after a few rows.
    """
    known = {name for value in trained.values if value is not None for name in _spelled(value)}
    known |= TRUTHS.keys() if known and known <= TRUTHS.keys() else set()
    odd: dict[str, str | None] = dict.fromkeys(columns, "")
    left = {name: part.class_names(name) for name in columns}
    for row in part.read(columns) if columns else ():
        for name, classes in list(left.items()):
            values = _label_values(row.get(name), classes, trained.delimiter)
            first = next((value for value in values if value not in known), None)
            odd[name] = first if first is not None else None if values else odd[name]
            if first is not None:
                del left[name]
        if not left:
            break
    return odd


def _label_values(value: Any, classes: Sequence[str] | None, delimiter: str | None) -> list[str]:
    """Return what the cell of a label holds; nothing where it is empty or says that there is none."""
    value = value if classes is None else name_class(value, classes)
    try:
        is_list = isinstance(value, (list, dict)) or delimiter is not None
        names = as_names(value, "", delimiter) if is_list else [as_text(value, "") or ""]
    except UserError:  # a column of something else
        return [str(value)]
    return [plain for name in names or () for plain in _spelled(name) if is_written(plain) and plain not in NO_LABEL]


def _spelled(value: str) -> list[str]:
    """Return the names in a label, spelled so that those of another file are known by them."""
    return [plain_spelling(name) for name in parse_list(value) or [value]]
