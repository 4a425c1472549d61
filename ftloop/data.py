"""From a data set's name or files to what the model eats: load, check, tokenize, collate.

Raw rows hold their texts, and the label as text or as a list of texts. The training set settles which labels there are;
every other set is held against it. Nothing here starts long work before all it can check has been checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop import rows
from ftloop.config import TrainConfig, shown, user_path
from ftloop.errors import UserError, first_line
from ftloop.facts import file_of, known, rows_of
from ftloop.glue import TASKS
from ftloop.hub import unavailable

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Looked for in this order where the columns are not named; the first that is there is taken.
USUAL_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
USUAL_TEXTS = ("sentence", "text", "review", "content", "sentence1", "tweet", "comment", "question")
USUAL_LABELS = ("label", "labels", "gold_label", "Quality", "is_duplicate", "score", "target", "class", "category")
NO_LABEL = "-1"  # GLUE's mark for a test row whose label is kept secret
SHOWN = 5  # rows or values named in one message
LARGEST = 3.4e38  # of float32, as which a number is learned


@dataclass(frozen=True)
class Labels:
    """What the model predicts: one of several classes, or any number of them, or one number when `names` is empty."""

    names: tuple[str, ...]
    ids: dict[str, int]
    """From a raw label, as text, to its id."""
    multi_label: bool = False
    """Whether a row has a list of them, which may be empty."""

    @property
    def regression(self) -> bool:
        return not self.names

    @property
    def count(self) -> int:
        """Width of the model's output."""
        return len(self.names) or 1

    def encode(self, raw: Any) -> int | float | np.ndarray:
        """What is learned of a raw label; of a list, 1 for each class that is in it and 0 for the others, float32."""
        if self.multi_label:
            hot = np.zeros(self.count, np.float32)
            hot[[self.ids[name] for name in raw]] = 1.0
            return hot
        return float(raw) if self.regression else self.ids[raw]


@dataclass(frozen=True)
class SetRead:
    """How a set came to the rows it has."""

    rows: int
    """Before max_train_samples and the like."""
    blank_lines: int
    """Of its file; they are no rows."""


@dataclass(frozen=True)
class TextData:
    """Checked rows, not yet tokenized. The first validation set decides which checkpoint is the best."""

    train: Dataset
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    text_columns: tuple[str, ...]
    label_column: str
    labels: Labels
    metrics: tuple[str, ...] | None
    """Names of the task's own metrics; None: the usual ones for its labels."""
    read: dict[str, SetRead] = field(default_factory=dict)
    """By set; `train` is the training set."""

    def has_labels(self, dataset: Dataset) -> bool:
        return self.label_column in dataset.column_names


def load_text_data(config: TrainConfig) -> TextData:
    """Load and check the rows a configuration names.

    Raises: UserError naming the flag, file, row or column.
    """
    if config.task_name is not None and config.task_name not in TASKS:
        raise UserError(f"task_name: {config.task_name!r} is not one of {', '.join(sorted(TASKS))}")
    train, validation, test, columns, label_column, label_names = (
        _load_from_files(config) if config.train_file else _load_by_name(config)
    )
    if config.eval_strategy != "no" and not validation:
        remedy = "give --validation_file" if config.train_file else "the data set has none"
        raise UserError(
            f"eval_strategy is {config.eval_strategy}, but there is no validation set: {remedy}, "
            "or evaluate never with --eval_strategy no"
        )
    paths = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    read = {
        name: SetRead(len(dataset), _blank_lines(paths[name]) if config.train_file else 0)
        for name, dataset in ({"train": train} | validation | test).items()
    }
    train = _first(train, config.max_train_samples)
    validation = {name: _first(dataset, config.max_eval_samples) for name, dataset in validation.items()}
    test = {name: _first(dataset, config.max_predict_samples) for name, dataset in test.items()}

    task = TASKS.get(config.task_name or "")
    _check_complete(train, [*columns, label_column], "the training set")
    labels = _find_labels(train, label_column, task.label_names if task else label_names)
    for name, dataset in validation.items():
        _check_complete(dataset, [*columns, label_column], f"the {name} set")
        _check_known(dataset, label_column, labels, f"the {name} set")
    test = {name: _without_secret_labels(dataset, label_column, labels) for name, dataset in test.items()}
    for name, dataset in test.items():
        _check_complete(dataset, dataset.column_names, f"the {name} set")
        if label_column in dataset.column_names:
            _check_known(dataset, label_column, labels, f"the {name} set")
    metrics = task.metrics if task and task.label_names == labels.names and not labels.multi_label else None
    return TextData(train, validation, test, columns, label_column, labels, metrics, read)


def _blank_lines(path: str | None) -> int:
    assert path is not None
    return known(file_of(user_path(path, "file")), "blank lines", lambda: rows.blank_lines(path))


def _holds_lists(path: str, column: str) -> bool:
    return known(file_of(user_path(path, "file")), f"lists: {column}", lambda: rows.holds_lists(path, column))


def _column_names(path: str) -> list[str]:
    return known(file_of(user_path(path, "file")), "columns", lambda: rows.column_names(path))


# Training, validation and test sets, text columns, label column, and the classes where the data set lists them.
Loaded = tuple["Dataset", dict[str, "Dataset"], dict[str, "Dataset"], tuple[str, ...], str, tuple[str, ...] | None]


def _load_from_files(config: TrainConfig) -> Loaded:
    assert config.train_file is not None
    files = {"train": config.train_file}
    if config.validation_file:
        files["validation"] = config.validation_file
    if config.test_file:
        files["test"] = config.test_file
    for split, path in files.items():
        rows.check_file(path, f"{split}_file")
    columns, label_column = find_columns(config, _column_names(config.train_file), config.train_file)
    tables = {}
    for split, path in files.items():
        there = _column_names(path)
        missing = [name for name in columns if name not in there]
        label_is_there = label_column in there
        if missing or not (label_is_there or split == "test"):
            missing = missing or [label_column]
            raise UserError(f"{path}: no column {', '.join(missing)}; it has {', '.join(there)}")
        lists = label_is_there and _holds_lists(path, label_column)
        label = label_column if label_is_there else None
        tables[split] = rows.read_table(path, columns, label, lists, config.label_delimiter)
    train = tables.pop("train")
    test = {"test": tables.pop("test")} if "test" in tables else {}
    return train, tables, test, columns, label_column, None


def _load_by_name(config: TrainConfig) -> Loaded:
    if config.task_name is None and config.dataset_name is None:
        raise UserError(
            "no data: name a GLUE task with --task_name, a data set on the hub with --dataset_name, "
            "or your own files with --train_file; `--task_name demo` is built in"
        )
    splits = _demo_splits() if config.task_name == "demo" else _hub_splits(config)
    task = TASKS.get(config.task_name or "")
    source = f"the data set {config.task_name or config.dataset_name}"
    if "train" not in splits:
        raise UserError(f"{source} has no train split, only {', '.join(splits)}")
    if task is not None and config.text_column_names is None and config.label_column_name is None:
        columns, label_column = task.text_columns, "label"
    else:
        columns, label_column = find_columns(config, splits["train"].column_names, source)
    _, label_names = _list_and_class_names(splits["train"], label_column)
    splits = {
        name: _as_text_rows(dataset, columns, label_column, config.label_delimiter) for name, dataset in splits.items()
    }
    validation = task.validation_splits if task else ("validation",)
    test = task.test_splits if task else ("test",)
    return (
        splits["train"],
        {name: splits[name] for name in validation if name in splits},
        {name: splits[name] for name in test if name in splits},
        columns,
        label_column,
        tuple(label_names) if label_names else None,
    )


def _demo_splits() -> dict[str, Dataset]:
    from datasets import Dataset

    from ftloop.demo_data import SPLIT_SIZES, demo_rows

    return {split: Dataset.from_list(demo_rows(split)) for split in SPLIT_SIZES}


def _hub_splits(config: TrainConfig) -> dict[str, Dataset]:
    import datasets

    path, name = (
        (config.dataset_name, config.dataset_config_name) if config.dataset_name else ("nyu-mll/glue", config.task_name)
    )
    try:
        # From version 4 on, the lowest that is asked for, datasets runs no script that lies beside the data.
        return dict(datasets.load_dataset(path, name))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        what = f"the data set {path}{f' ({name})' if name else ''}"
        if path is not None and Path(path).is_dir():
            raise UserError(f"{what} could not be loaded ({type(error).__name__}: {first_line(error)})") from error
        raise unavailable(what, error) from error


def _as_text_rows(dataset: Dataset, columns: Sequence[str], label_column: str, delimiter: str | None) -> Dataset:
    """Keep the columns used, as files give them: all text, a class by its name, a number with its point; and a list of
    such where a row has several labels.
    """
    from datasets import Features, List, Value

    keep = [name for name in [*columns, label_column] if name in dataset.column_names]
    lists, names = _list_and_class_names(dataset, label_column)
    several = lists or delimiter is not None
    kinds = {name: List(Value("string")) if several and name == label_column else Value("string") for name in keep}
    return dataset.select_columns(keep).map(
        partial(
            _as_text_batch, label_column=label_column, class_names=names, several=several, label_delimiter=delimiter
        ),
        batched=True,
        with_indices=True,
        features=Features(kinds),
        desc="Reading",
    )


def _list_and_class_names(dataset: Dataset, column: str) -> tuple[bool, list[str] | None]:
    """Whether a column holds lists, and the names of its classes where it has them."""
    from datasets import LargeList, List

    kind = dataset.features.get(column)
    lists = isinstance(kind, (List, LargeList))
    return lists, getattr(kind.feature if lists else kind, "names", None)  # only a ClassLabel has them


def _as_text_batch(
    batch: dict[str, list[Any]],
    indices: list[int],
    label_column: str,
    class_names: list[str] | None,
    several: bool,
    label_delimiter: str | None,
) -> dict[str, list[Any]]:
    def named(value: Any) -> Any:
        if class_names is None or value is None:
            return value
        return None if value == -1 else class_names[value]  # GLUE and others mark a missing class with -1

    def text(value: Any, column: str, index: int) -> Any:
        where = f"the data set, row {index + 1}: column {column}"
        if column != label_column:
            return rows.as_text(value, where)
        value = [named(item) for item in value] if isinstance(value, list) else named(value)
        return rows.as_names(value, where, label_delimiter) if several else rows.as_text(value, where)

    return {
        column: [text(value, column, index) for value, index in zip(values, indices, strict=True)]
        for column, values in batch.items()
    }


def find_text_columns(
    wanted: Sequence[str] | None, task_name: str | None, there: Sequence[str], source: str
) -> tuple[str, ...]:
    """The one or two text columns: as `wanted`, else the task's, else the usual ones.

    Raises: UserError listing the columns that are there.
    """
    listing = f"{source} has the columns {', '.join(there)}"
    for name in wanted or ():
        if name not in there:
            raise UserError(f"no column {name!r}: {listing}")
    task = TASKS.get(task_name or "")
    pairs = [*([task.text_columns] if task else []), *USUAL_PAIRS, *((name,) for name in USUAL_TEXTS)]
    columns = tuple(wanted) if wanted else next((usual for usual in pairs if set(usual) <= set(there)), None)
    if columns is None:
        raise UserError(f"which columns hold the text? {listing}; name one or two with --text_column_names")
    return columns


def find_columns(config: TrainConfig, there: Sequence[str], source: str) -> tuple[tuple[str, ...], str]:
    """The text columns and the label column: as named by the configuration, else the task's, else the usual ones.

    Raises: UserError listing the columns that are there.
    """
    listing = f"{source} has the columns {', '.join(there)}"
    columns: tuple[str, ...] = ()
    problems: list[str] = []
    try:
        columns = find_text_columns(config.text_column_names, config.task_name, there, source)
    except UserError as error:
        problems += error.problems
    usual_labels = (usual for usual in USUAL_LABELS if usual in there and usual not in columns)
    label_column = config.label_column_name or next(usual_labels, None)
    if label_column is None:
        problems.append(f"which column holds the label? {listing}; name it with --label_column_name")
    elif label_column not in there:
        problems.append(f"no column {label_column!r}: {listing}")
    if label_column is None or problems:
        raise UserError(*problems)
    if label_column in columns:
        raise UserError(f"label_column_name: {label_column!r} is also a text column")
    return columns, label_column


def _first(dataset: Dataset, count: int | None) -> Dataset:
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


def _without_secret_labels(dataset: Dataset, label_column: str, labels: Labels) -> Dataset:
    """A set whose labels are all missing, or all GLUE's -1, is a set without labels; unless -1 is a class. So is one
    whose lists are all empty."""
    secret = {None, "", NO_LABEL, "-1.0"} - labels.ids.keys()
    if label_column in dataset.column_names and set(_distinct(dataset, label_column)) <= secret:
        return dataset.remove_columns(label_column)
    return dataset


def _check_complete(dataset: Dataset, columns: Sequence[str], what: str) -> None:
    for name in columns:
        count, first = known(rows_of(dataset), f"missing: {name}", partial(_missing, dataset, name))
        if count:
            where = ", ".join(str(row + 1) for row in first) + (" ..." if count > len(first) else "")
            raise UserError(f"{what}: column {name!r} is missing in {count} rows (row {where}, from 1)")


def _missing(dataset: Dataset, column: str) -> tuple[int, list[int]]:
    """How many rows have no value there, and the first of them."""
    import pyarrow.compute as pc

    found = pc.indices_nonzero(dataset.with_format("arrow")[:][column].is_null())
    return len(found), found[:SHOWN].to_pylist()


def _distinct(dataset: Dataset, column: str) -> list[str]:
    """The different values of a column, or of the lists in it, in the order of their first rows."""
    if has_lists(dataset, column):
        return known(rows_of(dataset), f"distinct in lists: {column}", lambda: _names_in(dataset, column)[0])
    return known(rows_of(dataset), f"distinct: {column}", lambda: dataset.unique(column))


def has_lists(dataset: Dataset, column: str) -> bool:
    return _list_and_class_names(dataset, column)[0]


def _names_in(dataset: Dataset, column: str) -> tuple[list[str], int]:
    """The different names in lists, and how many names there are in all."""
    import pyarrow.compute as pc

    names = pc.list_flatten(dataset.with_format("arrow")[:][column])
    return pc.unique(names).to_pylist(), len(names)


def _find_labels(train: Dataset, column: str, task_names: tuple[str, ...] | None) -> Labels:
    """Decide what the labels are, over all of them.

    All whole numbers, or any texts: classes. Numbers, at least one with a fraction or a point: regression. The names
    that the task or the data set has for its classes are used, in its order, where the labels are those names or their
    numbers. Lists of them: any number of classes for each row.
    """
    raw = _distinct(train, column)
    if has_lists(train, column):
        return _find_multi_labels(train, column, raw, task_names)
    if "" in raw:
        raise UserError(f"the training set: column {column!r} is empty in {_rows_with(train, column, '')}")
    odd = {label for label in raw if _is_not_finite(label)}
    whole = all(re.fullmatch(r"[+-]?\d+", label) for label in raw)
    if odd and not whole and all(label in odd or _is_number(label) for label in raw):
        first = next(label for label in raw if label in odd)
        where = _rows_with(train, column, first)
        raise UserError(f"the training set: the label {shown(first)} in {where} is no finite number; all others are")
    if task_names == () and all(_is_number(label) for label in raw):
        return Labels((), {})
    if not whole and not set(raw) <= set(task_names or ()) and all(_is_number(label) for label in raw):
        return Labels((), {})
    if len(raw) < 2:
        only = f"all {len(train)} rows have the label {shown(raw[0])}"
        raise UserError(f"the training set: {only}; at least two are needed")
    return _classes(raw, task_names)


def _classes(raw: list[str], task_names: tuple[str, ...] | None, multi_label: bool = False) -> Labels:
    """Those of the task or the data set where the labels are these or their numbers; else the labels, in order."""
    numbered = {str(id): id for id in range(len(task_names or ()))}
    named = {name: id for id, name in enumerate(task_names or ())}
    if task_names and (set(raw) <= set(numbered) or set(raw) <= set(named)):
        return Labels(task_names, numbered | named, multi_label)
    whole = all(re.fullmatch(r"[+-]?\d+", label) for label in raw)
    ordered = sorted(raw, key=Decimal) if whole else sorted(raw)  # int() reads 4300 digits at most
    return Labels(tuple(ordered), {label: id for id, label in enumerate(ordered)}, multi_label)


def _find_multi_labels(train: Dataset, column: str, raw: list[str], task_names: tuple[str, ...] | None) -> Labels:
    """The classes of which each row has a list. Raises: UserError where there is nothing to be told apart by them."""
    fraction = next((label for label in raw if not re.fullmatch(r"[+-]?\d+", label)), None)
    if fraction is not None and all(_is_number(label) or _is_not_finite(label) for label in raw):
        where = _rows_with(train, column, fraction)
        raise UserError(
            f"the training set: {shown(fraction)} in the list of {where} is no name; lists of names are learned, "
            "not lists of numbers"
        )
    if len(raw) < 2:
        only = f"only the label {shown(raw[0])} occurs" if raw else "no row has a label"
        raise UserError(
            f"the training set: {only} in its lists; at least two are needed (whether a row has a single one are two "
            "classes: give each row one of two texts)"
        )
    if _names_in(train, column)[1] == len(raw) * len(train):
        raise UserError(f"the training set: all {len(train)} rows have the same {len(raw)} labels")
    return _classes(raw, task_names, multi_label=True)


def _is_number(text: str) -> bool:
    # float() alone would also take "nan", "inf" and "1_000".
    written = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None
    return written and abs(float(text)) <= LARGEST


def _is_not_finite(text: str) -> bool:
    try:
        return not math.isfinite(float(text)) or abs(float(text)) > LARGEST
    except ValueError:
        return False


def _rows_with(dataset: Dataset, column: str, value: str) -> str:
    lists = has_lists(dataset, column)
    found = [n for n, label in enumerate(dataset[column], 1) if (value in (label or ()) if lists else label == value)]
    return f"{len(found)} rows (row {', '.join(map(str, found[:SHOWN]))}{' ...' if len(found) > SHOWN else ''}, from 1)"


def _check_known(dataset: Dataset, column: str, labels: Labels, what: str) -> None:
    if has_lists(dataset, column) != labels.multi_label:
        kinds = ("one label a row", "lists of labels")
        ours, theirs = kinds[not labels.multi_label], kinds[labels.multi_label]
        raise UserError(f"{what}: column {column!r} holds {ours}, and the training set's {theirs}")
    fits: Callable[[str], bool] = _is_number if labels.regression else labels.ids.__contains__
    for label in _distinct(dataset, column):
        if not fits(label):
            training = "numbers" if labels.regression else ", ".join(map(shown, labels.names[: 2 * SHOWN]))
            raise UserError(
                f"{what}: the label {shown(label)} in {_rows_with(dataset, column, label)} "
                f"is not one of the training set's: {training}"
            )


def label_ids(encoded: Dataset) -> np.ndarray:
    """What is learned, of all tokenized rows: one number each, or rows x classes."""
    values = encoded.with_format("arrow")[:]["label"].combine_chunks()
    if has_lists(encoded, "label"):
        hot: np.ndarray = values.flatten().to_numpy().reshape(len(encoded), -1)
        return hot
    numbers: np.ndarray = values.to_numpy()
    return numbers


def digest_rows(dataset: Any) -> dict[str, Any]:
    """How many rows, and what tells them from others: a digest of all values in their order, for a `datasets.Dataset`;
    None for any other data set, whose rows may be made when they are asked for.
    """
    if not hasattr(dataset, "with_format"):
        return {"rows": len(dataset), "digest": None}
    return {"rows": len(dataset), "digest": known(rows_of(dataset), "digest", lambda: _digest(dataset))}


def _digest(dataset: Any) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for table in dataset.with_format("arrow").iter(batch_size=10_000):
        for name in table.column_names:
            digest.update(name.encode())
            for values in table[name].chunks:
                _add_values(digest, values)
    return str(digest.hexdigest())


def _add_values(digest: Any, values: Any) -> None:
    """Those of an Arrow array, however it is laid out in memory."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        _add_values(digest, pc.list_value_length(values))
        _add_values(digest, values.flatten())
    elif pa.types.is_primitive(values.type) and not values.null_count:
        digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)))
    else:
        digest.update(repr(values.to_pylist()).encode("utf-8", "surrogatepass"))


def tokenize(
    data: TextData,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    config: TrainConfig,
    name: str,
) -> tuple[Dataset, int]:
    """Token ids, in the rows' order, cached on disk; and how many rows were longer than `max_length` tokens.

    Returns: a Dataset of `input_ids`, `attention_mask`, what else the tokenizer gives, and `label` where there is one.
    """
    check_room(tokenizer, max_length, pair=len(data.text_columns) == 2)
    settings: dict[str, Any] = {
        "columns": data.text_columns,
        "label_column": data.label_column if data.has_labels(dataset) else None,
        "labels": data.labels,
        "max_length": max_length,
    }
    encoded = dataset.map(
        partial(_tokenize_batch, tokenizer=tokenizer, **settings),
        batched=True,
        new_fingerprint=_fingerprint(dataset, tokenizer, settings),
        num_proc=config.preprocessing_num_workers,
        remove_columns=dataset.column_names,
        load_from_cache_file=not config.overwrite_cache,
        desc=f"Tokenizing {name}",
    )
    _forget_last_use(tokenizer)
    truncated = known(rows_of(encoded), "truncated", lambda: _count_true(encoded, "truncated"))
    return encoded.remove_columns("truncated"), truncated


def _count_true(dataset: Dataset, column: str) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(dataset.with_format("arrow")[:][column]).as_py() or 0)


def _forget_last_use(tokenizer: PreTrainedTokenizerBase) -> None:
    """A fast one remembers how it was, and would be saved with that: otherwise than where the cache had the rows."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


def _fingerprint(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> str | None:
    """By what the cache knows tokenized rows again. `datasets` would find it by pickling everything, a fast tokenizer's
    whole vocabulary twice, once per set; its JSON, which holds the vocabulary too, is there in a fiftieth of the time.
    None: as `datasets` finds it, for a tokenizer that has no JSON.
    """
    if not tokenizer.is_fast:
        return None
    import tokenizers
    from datasets.fingerprint import Hasher

    import ftloop

    _forget_last_use(tokenizer)
    left_out = ("_tokenizer", "_vocab", "deprecation_warnings")
    state = {name: value for name, value in vars(tokenizer).items() if name not in left_out}
    try:
        tokenizer_json = tokenizer.backend_tokenizer.to_str()
    except Exception:  # a part of it that is Python code
        return None
    made_by = (ftloop.__version__, tokenizers.__version__)
    return Hasher.hash((dataset._fingerprint, type(tokenizer), state, tokenizer_json, made_by, settings))


def check_room(tokenizer: PreTrainedTokenizerBase, max_length: int, pair: bool) -> None:
    """Raises: UserError when no text fits into `max_length` tokens."""
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise UserError(f"max_seq_length: {max_length} leaves no room for text beside {special} special tokens")


def _tokenize_batch(
    batch: dict[str, list[str]],
    tokenizer: PreTrainedTokenizerBase,
    columns: tuple[str, ...],
    label_column: str | None,
    labels: Labels,
    max_length: int,
) -> dict[str, list[Any]]:
    texts = [batch[name] for name in columns]
    # One token over the limit is enough to know that a row was cut, and a fast tokenizer keeps what it cut off.
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    cut = [bool(row.overflowing) for row in encoded.encodings] if encoded.is_fast else [False] * len(texts[0])
    columns_out = dict(encoded) | {"truncated": cut}
    if label_column is not None:
        columns_out["label"] = [labels.encode(raw) for raw in batch[label_column]]
    return columns_out
