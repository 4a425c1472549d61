"""Load and check the rows of a data set, by its name or from files.

Rows hold their texts, and the label as text or as a list of texts. The training set settles which labels there are;
every other set is held against it. Nothing here starts long work before all it can check has been checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset, Features, List, Value

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.class_tables import told_of_class_tables
from ftloop.data.columns import find_columns
from ftloop.data.contradictions import count_contradictions
from ftloop.data.conversions import told_of_labels_in_front, told_of_parallel
from ftloop.data.demo import SPLIT_SIZES, demo_rows
from ftloop.data.dialect import mistaken_names
from ftloop.data.extra_columns import DatasetColumns, ExtraColumns, FileColumns
from ftloop.data.files import column_names, file_class_names, holds_lists, name_class, read_table
from ftloop.data.find_labels import check_known_labels, check_wanted, find_labels, with_positive, with_spellings_of
from ftloop.data.first_rows import labels_left_out
from ftloop.data.glue import TASKS
from ftloop.data.header_labels import check_header_rows, warn_of_header_labels
from ftloop.data.hold_out import check_validation_set, hold_out
from ftloop.data.incomplete_rows import (
    check_labelled,
    empty_texts_remark,
    have_empty_labels,
    leave_out,
    without_secret_labels,
)
from ftloop.data.label_forms import in_one_column, in_one_form
from ftloop.data.labels import Labels
from ftloop.data.other_names import Trained, find_own_columns, with_trained_names
from ftloop.data.readers import read_rows
from ftloop.data.refused_rows import refused_warnings
from ftloop.data.remarks import Remark, contradictions_remark, label_remarks, one_class_remarks
from ftloop.data.repeated_texts import count_in_train
from ftloop.data.scan import distinct_values, list_and_class_names
from ftloop.data.set_column import places_of_rows, sets_warning, split_by_column
from ftloop.data.set_files import find_files, saved_splits
from ftloop.data.shared_labels import warn_of_unshared, with_class_names
from ftloop.data.sources import FASTTEXT, TABLES, make_reading
from ftloop.data.unread_texts import warn_of_unread
from ftloop.data.values import as_names, as_text
from ftloop.errors import UserError, summarize
from ftloop.system.console import say
from ftloop.system.hub import unavailable
from ftloop.system.row_numbers import note_places, note_rows
from ftloop.system.shell import quote
from ftloop.system.text import join_some, short_repr


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
    rows_read: dict[str, int] = field(default_factory=dict)
    """Rows of each set before max_train_samples and the like; `train` is the training set."""
    remarks: tuple[Remark, ...] = ()
    """What is to be said of the rows and labels before training."""
    in_train: dict[str, int] = field(default_factory=dict)
    """How many rows of another set have the texts of a training row; without the sets that have none."""
    extra: Mapping[str, ExtraColumns] = field(default_factory=dict)
    """The other columns of the sets."""

    def has_labels(self, dataset: Dataset) -> bool:
        return self.label_column in dataset.column_names


def load_text_data(config: TrainConfig) -> TextData:
    """Load and check the rows that a configuration names.

    Raises: UserError naming the flag, file, row or column.
    """
    if config.task_name is not None and config.task_name not in TASKS:
        raise UserError(f"task_name: {config.task_name!r} is not one of {', '.join(sorted(TASKS))}")
    wanted = ProblemType(config.problem_type) if config.problem_type else None
    sets, remarks = _settle(config, _load_from_files(config) if config.train_file else _load_by_name(config), wanted)
    train, validation, test, columns, (label_column,), names, *_ = sets
    remarks += check_validation_set(config, sets.validation, sets.splits)
    beside_empty = have_empty_labels({"train": train} | validation | test, label_column, test)
    read = train
    train = train if config.fold is None else _first(train, config.max_train_samples)
    if config.validation_split is not None or config.fold is not None:
        check_labelled(train, label_column, "the training set", names, config, beside_empty)
        labels = find_labels(train, label_column, names, wanted, test.values(), sets.train)
        train, held_out, told = hold_out(train, label_column, labels, config)
        validation, remarks = {"validation": held_out}, remarks + told
        sets = sets._replace(extra={**sets.extra, "validation": sets.extra["train"]})
    rows_read = {name: len(dataset) for name, dataset in ({"train": train} | validation | test).items()}
    if config.fold is None:
        read, train = train, _first(train, config.max_train_samples)
    else:  # which is a part of the first rows
        rows_read["train"] = len(read) - rows_read["validation"]
    validation = {name: _first(dataset, config.max_eval_samples) for name, dataset in validation.items()}
    read_test = test
    test = {name: _first(dataset, config.max_predict_samples) for name, dataset in test.items()}

    check_labelled(train, label_column, "the training set", names, config, beside_empty)
    others = [*validation.values(), *test.values()]
    try:
        if config.fold is None:  # else the same labels in every fold, by all rows
            labels = find_labels(train, label_column, names, wanted, others, sets.train)
    except UserError as error:
        cause = labels_left_out(train, read, label_column)
        raise error if cause is None else UserError(f"{error}; {cause}") from None
    labels = with_positive(with_spellings_of(labels, label_column, others), config.positive_label)
    read_test, unlabelled = without_secret_labels(read_test, label_column, labels)
    test = {name: _first(dataset, config.max_predict_samples) for name, dataset in read_test.items()}
    not_trained = {*distinct_values(read, label_column)} if len(train) < len(read) else ()
    for name, dataset in (validation | test).items():
        if label_column in dataset.column_names:
            what, files = f"the {name} set", sets.files.get(name)
            check_labelled(dataset, label_column, what)
            check_known_labels(dataset, label_column, labels, what, files, not_trained, may_lack_labels=name in test)
    task = TASKS.get(config.task_name or "")
    metrics = task.metrics if task and task.label_names == labels.names and not labels.multi_label else None
    left_out = None if labels.regression else labels_left_out(train, read, label_column)
    remarks += unlabelled + ([] if left_out is None else [("Warning", left_out)])
    remarks += label_remarks(train, label_column, labels, wanted, config.drop_unlabelled, names)
    contradictions = count_contradictions(train, columns, label_column, labels)
    remarks += contradictions_remark(contradictions["rows"], contradictions["of"])
    shortened = {name for name, rows in (validation | test).items() if len(rows) < rows_read[name]}
    remarks += one_class_remarks(validation | test, label_column, labels, shortened)
    remarks += empty_texts_remark({"train": train} | validation | test, columns)
    in_train = count_in_train(train, validation | test, columns)
    said = tuple(remarks)
    return TextData(
        train, validation, test, columns, label_column, labels, metrics, rows_read, said, in_train, sets.extra
    )


class _Sets(NamedTuple):
    """Rows as they were read."""

    train: Dataset
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    text_columns: tuple[str, ...]
    label_columns: tuple[str, ...]
    """One, or a 0/1 column for each label."""
    class_names: tuple[str, ...] | None
    """Classes that the task, the data set or the form of the labels names."""
    splits: tuple[str, ...] = ()
    """Names of all splits of a data set that is loaded by its name."""
    files: Mapping[str, str] = {}
    """What to call the files of each set."""
    extra: Mapping[str, ExtraColumns] = {}


def _settle(config: TrainConfig, sets: _Sets, wanted: ProblemType | None) -> tuple[_Sets, list[Remark]]:
    """Bring the labels of every set into one form, and leave out the rows that the configuration does not want."""
    task = TASKS.get(config.task_name or "")
    every = {"train": sets.train} | sets.validation | sets.test
    label_column, of_columns, unlabelled = sets.label_columns[0], None, list[Remark]()
    if len(sets.label_columns) > 1:
        of_columns = sets.label_columns
        label_column = next(name for name in ("labels", "label", "label_names") if name not in sets.text_columns)
        every, unlabelled = in_one_column(every, of_columns, label_column, sets.test, wanted, config.drop_unlabelled)
    every, names, said = in_one_form(every, label_column, wanted, sets.test)
    check_wanted(every["train"], label_column, wanted)
    names = of_columns or names or (task.label_names if task else sets.class_names)
    every, dropped = leave_out(config, every, sets.text_columns, label_column, names, sets.test)
    validation, test = ({name: every[name] for name in part} for part in (sets.validation, sets.test))
    settled = sets._replace(
        train=every["train"], validation=validation, test=test, label_columns=(label_column,), class_names=names
    )
    return settled, unlabelled + said + dropped


def _load_from_files(config: TrainConfig) -> _Sets:
    assert config.train_file is not None
    given = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    for split in saved_splits(config.train_file) or ():
        if split in given and given[split] is None:
            given[split] = config.train_file
    reading = make_reading(config.encoding, config.delimiter, config.column_names)
    files = {"train": find_files(config.train_file, "train_file", reading)}
    first = files["train"][0]
    for split, path in given.items():
        if path and split != "train":
            files[split] = find_files(path, f"{split}_file", reading, like=first)
    try:
        columns, labels = find_columns(config, column_names([first]), first.name)
    except UserError as error:
        hint = told_of_parallel(config.train_file, "train_file")
        hint = hint or (told_of_labels_in_front(first.path) if first.path else None) or mistaken_names(first)
        if hint is not None:
            raise UserError(hint) from None
        told = told_of_class_tables(files["train"]) if config.label_column_name is None else None
        if told is not None:
            raise UserError(*error.problems[:-1], f"{error.problems[-1]}; {told}") from None
        raise
    if config.split_column_name is not None:
        files = split_by_column(files["train"], config.split_column_name, files)
        first = files["train"][0]
    elif (warning := sets_warning(files["train"], {*columns, *labels})) is not None:
        say("Warning", warning)
    for warning in refused_warnings(files, {*columns, *labels}):
        say("Warning", warning)
    if len(names := column_names([first])) > 2:
        warn_of_unread(config, first.name, names, (row.values for row in read_rows(first)), columns, labels)
    tables, extra = dict[str, Dataset](), dict[str, ExtraColumns]()
    trained = Trained(first.name, columns, labels, column_names([first]), (), config.label_delimiter)
    for split, given_files in files.items():
        sources, has_label = find_own_columns(given_files, trained, split)
        extra[split] = FileColumns(tuple(sources), columns, labels)
        check_header_rows(sources, [*columns, *(labels if has_label else ())])
        if len(labels) > 1:
            tables[split] = read_table(sources, [*columns, *(labels if has_label else ())], None)
            continue
        decides = files["train"] if sources[0].format == FASTTEXT else sources
        if split == "train" and config.label_delimiter is None:
            sources = with_class_names(sources, labels[0])
            first = sources[0]
        lists = has_label and (holds_lists(sources, labels[0]) or holds_lists(decides, labels[0]))
        tables[split] = read_table(sources, columns, labels[0] if has_label else None, lists, config.label_delimiter)
        if split == "train":
            trained = trained._replace(values=distinct_values(tables[split], labels[0]))
            warn_of_header_labels(sources, tables[split], labels[0])
            if config.problem_type != ProblemType.REGRESSION.value:
                warn_of_unshared(sources, labels[0])
    for split, table in tables.items():
        if any(source.of_set for source in files[split]):
            note_places(table, partial(places_of_rows, files[split]))
    train = tables.pop("train")
    test = {"test": tables.pop("test")} if "test" in tables else {}
    if labels[0] in distinct_values(train, labels[0]):
        told = f"{short_repr(labels[0])} names the column of the labels and is one of them"
        if first.format in TABLES and not config.column_names:
            told += "; if line 1 is a row, not a header, name the columns with --column_names"
        say("Warning", f"{first.name}: {told}")
    class_names = file_class_names(first, labels[0]) if len(labels) == 1 else None
    places = {split: join_some([source.name for source in sources], 2) for split, sources in files.items()}
    given_names = tuple(class_names) if class_names else None
    return _Sets(train, tables, test, columns, labels, given_names, (), places, extra)


def _load_by_name(config: TrainConfig) -> _Sets:
    if config.task_name is None and config.dataset_name is None:
        raise UserError(
            "no data: name a GLUE task with --task_name, a data set on the hub with --dataset_name, "
            "or your own files with --train_file; `--task_name demo` is built in"
        )
    if config.task_name == "demo":
        splits = {split: Dataset.from_list(demo_rows(split)) for split in SPLIT_SIZES}
    else:
        splits = _hub_splits(config)
    task = TASKS.get(config.task_name or "")
    source = f"the data set {config.task_name or config.dataset_name}"
    if "train" not in splits:
        raise UserError(f"{source} has no train split, only {', '.join(splits)}")
    named = {"validation_split_name": config.validation_split_name, "test_split_name": config.test_split_name}
    for flag, name in named.items():
        if name is not None and name not in splits:
            raise UserError(f"{flag}: {source} has no split {short_repr(name)}, only {', '.join(splits)}")
        if name == "train":
            raise UserError(f"{flag}: train is what is trained on")
    if task is None or config.text_column_names is not None or config.label_column_name is not None:
        names = list(dict.fromkeys([*splits["train"].column_names, *splits["train"].features.flatten()]))
        columns, labels = find_columns(config, names, source)
        warn_of_unread(config, source, names, splits["train"], columns, labels)
        if not {*columns, *labels} <= {*splits["train"].column_names}:  # some are within mappings
            splits = {name: rows.flatten() for name, rows in splits.items()}
    else:
        columns, labels = task.text_columns, ("label",)
    _, class_names = list_and_class_names(splits["train"], labels[0])
    rows = {"train": _as_text_rows(splits["train"], columns, labels, config.label_delimiter)}
    if task is not None:
        validation, test = ({name: name for name in names} for names in (task.validation_splits, task.test_splits))
    else:
        validation = {"validation": config.validation_split_name or "validation"}
        test = {"test": config.test_split_name or "test"}
        if test["test"] == validation["validation"] and config.test_split_name is None:
            test = {}
    values = distinct_values(rows["train"], labels[0]) if len(labels) == 1 else ()
    trained = Trained("train", columns, labels, splits["train"].column_names, values, config.label_delimiter)
    for split in (*validation.values(), *test.values()):
        if split in splits:
            splits[split] = with_trained_names(splits[split], trained, split, split not in validation.values())
            rows[split] = _as_text_rows(splits[split], columns, labels, config.label_delimiter)
    used = (("train", "train"), *validation.items(), *test.items())
    extra = {name: DatasetColumns(splits[split], columns, labels) for name, split in used if split in rows}
    return _Sets(
        rows["train"],
        {name: rows[split] for name, split in validation.items() if split in rows},
        {name: rows[split] for name, split in test.items() if split in rows},
        columns,
        labels,
        tuple(class_names) if class_names else None,
        tuple(splits),
        extra=extra,
    )


def _hub_splits(config: TrainConfig) -> dict[str, Dataset]:
    path, name = config.dataset_name, config.dataset_config_name
    if path is None:
        path, name = "nyu-mll/glue", config.task_name
    try:
        if saved_splits(path) is not None:  # load_dataset knows splits by usual names alone, and joins all others
            return dict(datasets.load_from_disk(path))
        # From version 4 on, the lowest that is asked for, datasets runs no script that lies beside the data.
        return dict(datasets.load_dataset(path, name))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        what = f"the data set {path}{f' ({name})' if name else ''}"
        if Path(path).is_dir():
            if (Path(path) / "state.json").is_file():
                told = f"{path} is a data set that save_to_disk has written"
                raise UserError(f"dataset_name: {told}; give it with --train_file {quote(path)}") from None
            way = ""
            if isinstance(error, datasets.exceptions.DatasetGenerationCastError):
                way = ": its files have different columns; give them with --train_file, --validation_file, --test_file"
            raise UserError(f"{what} could not be loaded ({type(error).__name__}: {summarize(error)}){way}") from error
        raise unavailable(what, error) from error


def _as_text_rows(dataset: Dataset, columns: Sequence[str], labels: Sequence[str], delimiter: str | None) -> Dataset:
    """Keep the columns used, as files give them: all text, a class by its name, a number with its point; and a list of
    such where a row has several labels. Of a column for each label they are numbers.
    """
    used = [name for name in [*columns, *labels] if name in dataset.column_names]
    label_column = labels[0] if len(labels) == 1 else ""
    delimiter = delimiter if label_column else None
    lists, names = list_and_class_names(dataset, label_column)
    features: dict[str, Any] = {name: Value("string") for name in used}
    if label_column in used and (lists or delimiter is not None):
        features[label_column] = List(Value("string"))
    return dataset.select_columns(used).map(
        _as_text_batch,
        fn_kwargs={
            "label_column": label_column,
            "names": names,
            "delimiter": delimiter,
            "split": lists or delimiter is not None,
        },
        batched=True,
        with_indices=True,
        features=Features(features),
        desc="Reading",
    )


def _as_text_batch(
    batch: dict[str, list[Any]],
    indices: list[int],
    label_column: str,
    names: list[str] | None,
    delimiter: str | None,
    split: bool,
) -> dict[str, list[Any]]:
    def text(value: Any, column: str, index: int) -> Any:
        where = f"the data set, row {index + 1}: column {column}"
        if column != label_column:
            return as_text(value, where)
        value = value if names is None else name_class(value, names)
        return as_names(value, where, delimiter) if split else as_text(value, where)

    return {
        column: [text(value, column, index) for value, index in zip(values, indices, strict=True)]
        for column, values in batch.items()
    }


def _first(dataset: Dataset, count: int | None) -> Dataset:
    return dataset if count is None else note_rows(dataset.select(range(min(count, len(dataset)))), dataset)
