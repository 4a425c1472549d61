"""Find the text and label columns of a data set by their names."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ftloop.config.train_config import TrainConfig
from ftloop.data.glue import TASKS
from ftloop.errors import UserError

# Looked for in this order where the columns are not named; the first one present is taken.
DEFAULT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
DEFAULT_TEXTS = ("sentence", "text", "review", "content", "sentence1", "tweet", "comment", "question")
DEFAULT_LABELS = ("label", "labels", "gold_label", "Quality", "is_duplicate", "score", "target", "class", "category")
SURE_LABELS = ("label", "labels", "gold_label")

# Where none of these is there as written, they and these are looked for in whatever case; of two, nobody knows which.
MORE_TEXTS = (
    "title",
    "body",
    "headline",
    "message",
    "sms",
    "description",
    "document",
    "comment_text",
    "review_text",
    "reviewtext",
    "utterance",
    "query",
    "post",
    "article",
    "email",
    "v2",
)
MORE_LABELS = (
    "sentiment",
    "stars",
    "rating",
    "emotion",
    "intent",
    "liked",
    "polarity",
    "topic",
    "airline_sentiment",
    "overall",
    "class_index",
    "label_id",
    "v1",
)


def find_text_columns(
    wanted: Sequence[str] | None, task_name: str | None, columns: Sequence[str], source: str
) -> tuple[str, ...]:
    """Return the one or two text columns: as `wanted`, else the task's, else the usual ones.

    Raises: UserError listing the columns of the source.
    """
    listing = f"{source} has the columns {', '.join(columns)}"
    for name in wanted or ():
        if name not in columns:
            raise UserError(f"no column {name!r}: {listing}{_way_within([name], columns)}")
    if wanted:
        return tuple(wanted)
    of_task = [TASKS[task_name].text_columns] if task_name in TASKS else []
    usual = (*of_task, *DEFAULT_PAIRS, *((name,) for name in DEFAULT_TEXTS))
    for names in usual:
        if set(names) <= set(columns):
            return names
    named = {fold_name(name): name for name in reversed(columns)}
    for names in usual:
        if {fold_name(name) for name in names} <= named.keys():
            return tuple(named[fold_name(name)] for name in names)
    found = [name for name in columns if fold_name(name) in MORE_TEXTS]
    if len(found) == 1:
        return (found[0],)
    which = _which(found or [name for name in columns if "." in name and is_usual_text(name.rpartition(".")[2])])
    raise UserError(f"which columns hold the text? {which}{listing}; name one or two with --text_column_names")


def find_columns(config: TrainConfig, columns: Sequence[str], source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the text columns and the label column, or a column for each label: as configured, else the task's, else
    the usual ones.

    Raises: UserError listing the columns of the source.
    """
    listing = f"{source} has the columns {', '.join(columns)}"
    text_columns: tuple[str, ...] = ()
    problems: list[str] = []
    try:
        text_columns = find_text_columns(config.text_column_names, config.task_name, columns, source)
    except UserError as error:
        problems += error.problems
    named = config.label_column_name
    labels = tuple([named] if isinstance(named, str) else named or _usual_labels(columns, text_columns))
    if named is None and not labels and (len(columns) == 1 or {*columns} == {*text_columns}):
        problems.append(_texts_alone(config, columns, source))
    elif named is None and len(labels) != 1:
        which = _which(labels or [name for name in columns if "." in name and is_usual_label(name.rpartition(".")[2])])
        more = "" if labels else ", or a 0/1 column for each of several labels"
        problems.append(f"which column holds the label? {which}{listing}; name it with --label_column_name{more}")
    elif missing := [name for name in labels if name not in columns]:
        problems.append(f"no column {', '.join(map(repr, missing))}: {listing}{_way_within(missing, columns)}")
    if problems:
        raise UserError(*problems)
    both = next((name for name in labels if name in text_columns), None)
    if both is not None:
        raise UserError(f"label_column_name: {both!r} is also a text column")
    return text_columns, labels


def _texts_alone(config: TrainConfig, columns: Sequence[str], source: str) -> str:
    """Say that there are texts alone, and how labels come to them."""
    told = f"which column holds the label? {source} has texts alone ({', '.join(columns)}); give the labels in a column"
    told = f"{told} of their own of the same file"
    if not config.train_file or not (config.column_names or Path(source).suffix in (".txt", ".tsv")):
        return told
    made = Path(source).with_name(f"{Path(source).name.partition('.')[0]}_labelled.tsv")
    command = f"paste {shlex.quote(source)} labels.txt > {shlex.quote(str(made))}"
    names = " ".join(map(shlex.quote, [*columns, "label"]))
    way = f"it is read with --column_names {names}" if config.column_names else "line 1 of that file is label, a header"
    return f"{told}, or put a file of them, line n for line n, beside it: {command} ({way})"


def _which(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'all could' if len(names) > 1 else 'could'}; " if names else ""


def _way_within(missing: Sequence[str], columns: Sequence[str]) -> str:
    """Return how columns are named that are no columns but fields within mappings."""
    within = [name for name in columns if any(name.endswith(f".{each}") for each in missing)]
    return f"; a field within another is named with a dot: {' or '.join(within)}" if within else ""


def _usual_labels(columns: Sequence[str], text_columns: Sequence[str]) -> list[str]:
    """Return the columns that could be the label: the first that has a usual name as written, else all in any case."""
    others = [name for name in columns if name not in text_columns]
    as_written = [name for name in DEFAULT_LABELS if name in others]
    return as_written[:1] or [name for name in others if is_usual_label(name)]


def unread_label_warning(name: str, columns: Sequence[str], texts: Sequence[str], label: str) -> str | None:
    """Return what to say where a column that may hold much else was taken for the label, and another could be it."""
    others = [each for each in columns if is_usual_label(each) and each not in (*texts, label)]
    if fold_name(label) in SURE_LABELS or not others:
        return None
    told = f"the label is {label!r}, found by its name, and {' or '.join(map(repr, others))} could be it too"
    return f"{name}: {told}; --label_column_name names the one that is meant"


def is_usual_text(name: str) -> bool:
    """Whether it is a usual name for texts, or for one of a pair, in whatever case."""
    pairs = (name for pair in DEFAULT_PAIRS for name in pair)
    return fold_name(name) in {fold_name(usual) for usual in (*DEFAULT_TEXTS, *MORE_TEXTS, *pairs)}


def is_usual_label(name: str) -> bool:
    """Whether it is a usual name for labels, in whatever case."""
    return fold_name(name) in {fold_name(usual) for usual in (*DEFAULT_LABELS, *MORE_LABELS)}


def usual_pairs(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Return the usual pairs of texts that are among the columns, in whatever case."""
    named = {fold_name(name): name for name in reversed(columns)}
    folded = [(fold_name(first), fold_name(second)) for first, second in DEFAULT_PAIRS]
    return [(named[first], named[second]) for first, second in folded if {first, second} <= named.keys()]


def fold_name(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")
