"""Rows without a label or a text, of files and of data sets by name: said with their number, or left out when asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from harness.files import Files, Rows

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import TextData, load_text_data

pytestmark = pytest.mark.usefixtures("own_cache")

ONE_LABEL = "single_label_classification"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def said(loaded: TextData) -> str:
    return "\n".join(f"{topic} {text}" for topic, text in loaded.remarks)


def rows(*labels: Any) -> Rows:
    return [{"sentence": f"text {number}", "label": label} for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "mark", "names"),
    [
        (["a", "b", "c"], "-", ("a", "b", "c")),
        (["a", "b", "c"], "", ("a", "b", "c")),
        (["a", "b", "c"], " ", ("a", "b", "c")),
        (["a", "b", "c"], None, ("a", "b", "c")),
        ([0, 1, 2], -1, ("0", "1", "2")),
        ([0.0, 1.0, 2.0, 0.0], -1.0, ("0", "1", "2")),
        ([0, 1, 2], float("nan"), ("0", "1", "2")),
        ([["a"], ["a", "b"], []], None, ("a", "b")),
        ([0.5, 1.5, -1.0], "-", ()),
        ([0.5, 1.5, -1.0], None, ()),
        (["a", "b", "c"], "NULL", ("a", "b", "c")),
        (["a", "b", "None"], "\\N", ("None", "a", "b")),
        (["a", "b"], "<NA>", ("a", "b")),
        ([0, 1, -1], "#N/A", ("-1", "0", "1")),
        ([0, 1, 2], "nil", ("0", "1", "2")),
        ([0.5, 1.5, -1.0], "NaN", ()),
    ],
)
def test_rows_without_a_label_are_refused_or_left_out_and_counted(
    labels: list[Any], mark: Any, names: tuple[str, ...], files: Files
) -> None:
    train, validation, test = rows(*labels, mark, *labels, mark), rows(mark, *labels), rows(labels[0], mark)
    told = files.fault(train, validation, test)
    assert told.startswith("the training set: ")
    assert f"in rows {len(labels) + 1}, {2 * len(labels) + 2}" in told
    assert "--drop_unlabelled leaves such rows out" in told
    for sets in ((rows(*labels, *labels), validation), (rows(*labels, *labels), None, test)):
        assert "--drop_unlabelled leaves such rows out" in files.fault(*sets)
    loaded = files.load(train, validation, test, drop_unlabelled=True)
    assert (loaded.labels.names, len(loaded.train)) == (names, 2 * len(labels))
    assert loaded.validation["validation"]["sentence"] == [f"text {1 + i}" for i in range(len(labels))]
    assert loaded.test["test"]["sentence"] == ["text 0"]
    why = "without a label" if mark is None or mark != mark or not str(mark).strip() else f"with the label {mark}"
    assert said(loaded).startswith(
        f"Dropped train: 2 of {len(train)} rows (2 {why}); validation: 1 of {len(validation)} rows "
        f"(1 {why}); test: 1 of 2 rows (1 {why})"
    )
    unlabelled = files.load(train, validation, rows(mark, mark), drop_unlabelled=True)
    assert not unlabelled.has_labels(unlabelled.test["test"])
    assert len(unlabelled.test["test"]) == 2


@pytest.mark.parametrize(
    ("labels", "settings", "names"),
    [
        ([0, 1, -1], {}, ("-1", "0", "1")),
        ([1, -1], {"drop_unlabelled": True}, ("-1", "1")),
        ([-2, -1, 0, 1], {"drop_unlabelled": True}, ("-2", "-1", "0", "1")),
        (["+", "-", "0"], {"drop_unlabelled": True}, ("+", "-", "0")),
        (["x", "-"], {}, ("-", "x")),
        ([0, 1, 2, -1], {"problem_type": ONE_LABEL}, ("-1", "0", "1", "2")),
        (["a", "b", "-"], {"problem_type": ONE_LABEL}, ("-", "a", "b")),
    ],
)
def test_marks_that_are_classes_stay(
    labels: list[Any], settings: dict[str, Any], names: tuple[str, ...], files: Files
) -> None:
    loaded = files.load(rows(*labels), rows(*labels), rows(*labels), **settings)
    assert loaded.labels.names == names
    for dataset in (loaded.train, loaded.validation["validation"], loaded.test["test"]):
        assert len(dataset) == len(labels)


@pytest.mark.parametrize(
    ("labels", "mark", "names", "part", "empty"),
    [
        ([0, 1, -1], "-1", ("-1", "0", "1"), "train", float("nan")),
        ([0, 1, 2, -1], "-1", ("-1", "0", "1", "2"), "validation", None),
        (["a", "b", "-"], "-", ("-", "a", "b"), "train", ""),
    ],
)
def test_a_mark_is_a_class_where_other_labels_are_empty(
    labels: list[Any], mark: str, names: tuple[str, ...], part: str, empty: Any, files: Files
) -> None:
    sets = {"train": rows(*labels), "validation": rows(*labels)}
    sets[part] = rows(*labels, empty, empty)
    test = rows(empty, empty)  # unlabelled as a whole, so it tells nothing of the others
    told = files.fault(*sets.values(), test)
    assert told.startswith(f"the {'training' if part == 'train' else part} set: column 'label'")
    assert "in rows" in told
    assert told.endswith("; --drop_unlabelled leaves such rows out")
    loaded = files.load(*sets.values(), test, drop_unlabelled=True)
    assert loaded.labels.names == names
    assert len(loaded.train) == len(loaded.validation["validation"]) == len(labels)
    count = len(labels) + 2
    assert said(loaded).startswith(
        f"Dropped {part}: 2 of {count} rows (2 without a label)\nLabels {mark} is a class, as "
    )
    assert "leaves its rows out" not in said(loaded)
    without = files.load(rows(*labels), rows(*labels), test, drop_unlabelled=True)
    assert without.labels.names == names[1:]
    assert said(without).startswith(f"Dropped train: 1 of {len(labels)} rows (1 with the label {mark})")


def test_a_mark_beside_empty_labels_is_no_class_among_fractions_or_known_classes(files: Files) -> None:
    made = rows(0.5, 1.5, "-", "")
    loaded = files.load(made, made, drop_unlabelled=True)
    assert loaded.labels.regression
    assert said(loaded).startswith("Dropped train: 2 of 4 rows (1 with the label -, 1 without a label)")
    assert files.load(rows(0, 1, -1, None), task_name="mrpc", drop_unlabelled=True).metrics == ("accuracy", "f1")
    different = files.load(
        rows(*[0.0, 1.0, -1.0] * 2, None), rows(0, 1, -1), drop_unlabelled=True
    )  # -1.0 and -1 are one
    assert len(different.validation["validation"]) == 3


@pytest.mark.parametrize("mark", ["N/A", "None", "NA", "-", "NULL"])
@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        ([0.5, 1.5, -1], {"problem_type": "regression"}),
        ([1, 2, 3], {"problem_type": "regression"}),
        ([1, 1, 1, 2], {"problem_type": "regression"}),
        ([0.5, 1.5, 2.5], {}),
        ([1, 2, 3], {"task_name": "stsb"}),
    ],
)
def test_no_mark_is_a_class_where_numbers_are_learned(
    labels: list[Any], settings: dict[str, Any], mark: str, files: Files
) -> None:
    made = rows(*labels, mark, "", None)
    assert files.fault(made, made, **settings).endswith("; --drop_unlabelled leaves such rows out")
    loaded = files.load(made, made, drop_unlabelled=True, **settings)
    assert loaded.labels.regression
    for held in (loaded.train, loaded.validation["validation"]):
        assert held["label"][:] == [str(label) for label in labels]
    assert f"1 with the label {mark}" in said(loaded)
    assert "is a class" not in said(loaded)


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        ([-0.8, 0.3, 0.9], {}),
        ([1e-5, -0.75], {}),
        ([-0.8, 0.3, 0.9], {"problem_type": "regression"}),
        ([1, 2, 3], {"problem_type": "regression"}),
        ([0, 1, 2], {"task_name": "stsb"}),
    ],
)
def test_minus_one_is_a_number_where_numbers_are_learned(
    labels: list[Any], settings: dict[str, Any], files: Files
) -> None:
    for number in (-1, -1.0):
        other = rows(number, 0.2, "")
        loaded = files.load(rows(*labels, ""), other, other, drop_unlabelled=True, **settings)
        assert loaded.labels.regression
        for held in (loaded.validation["validation"], loaded.test["test"]):
            assert held["label"][:] == [str(number), "0.2"]
        assert said(loaded).startswith("Dropped train: 1 of ")
        assert "with the label" not in said(loaded)
        for test in (rows(number, number), rows(number, "")):
            loaded = files.load(rows(*labels, ""), other, test, drop_unlabelled=True, **settings)
            assert (loaded.test["test"].column_names, len(loaded.test["test"])) == (["sentence"], 2), "none is told"


def test_minus_one_between_two_classes_is_left_out_when_asked_and_else_said_to_be_one(files: Files) -> None:
    assert (
        said(files.load(rows(0, 1, -1))) == "Labels -1 is a class beside 0 and 1; --drop_unlabelled leaves its rows out"
    )
    assert files.load(rows(0, 1, -1), drop_unlabelled=True).labels.names == ("0", "1")
    assert "label '-1' in row 3 seems to say" in files.fault(rows(0, 1, -1), task_name="mrpc")
    assert files.load(rows(0, 1, -1), task_name="mrpc", drop_unlabelled=True).metrics == ("accuracy", "f1")


def test_a_data_set_by_name_lacks_labels_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    made = Dataset.from_dict({"text": ["a", None, "c", "d"], "label": [0, 1, -1, None]}, features=features)
    hub = DatasetDict(train=made, validation=made)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: hub)
    with pytest.raises(ValueError, match=r"no value in rows 3, 4; --drop_unlabelled"):
        load_text_data(TrainConfig(dataset_name="any/name"))
    loaded = load_text_data(TrainConfig(dataset_name="any/name", drop_unlabelled=True))
    assert loaded.train["text"] == loaded.validation["validation"]["text"] == ["a", ""]
    assert loaded.rows_read == {"train": 2, "validation": 2}


@pytest.mark.parametrize("empty", [None, "", " \t", float("nan")])
def test_empty_texts_are_said_or_left_out_however_they_are_written(empty: Any, files: Files) -> None:
    made = rows("a", "b", "b", "b")
    made[1]["sentence"] = empty
    del made[3]["sentence"]  # as json leaves out what is not there
    loaded = files.load(made, made[:2], made)
    assert loaded.train["sentence"] == ["text 0", empty if isinstance(empty, str) else "", "text 2", ""]
    assert said(loaded) == (
        "Warning rows with an empty text: 2 of train (rows 2, 4), 1 of validation (row 2), 2 of test (rows 2, 4); "
        "--drop_empty_texts leaves them out"
    )
    loaded = files.load(made, made[:2], made, drop_empty_texts=True, max_train_samples=2)
    assert (loaded.train["sentence"], loaded.rows_read["train"]) == (["text 0", "text 2"], 2)
    assert said(loaded).count("with an empty text") == 3
    both = {"drop_empty_texts": True, "drop_unlabelled": True}
    made[0]["label"] = None
    assert "train: 3 of 5 rows (1 without a label, 2 with an empty text)" in said(
        files.load([*made, *rows("a")], **both)
    )
    assert (
        files.fault(made[:2], **both) == "the training set: --drop_unlabelled and --drop_empty_texts leave no row of it"
    )


@pytest.mark.parametrize(
    ("labels", "settings", "marks"),
    [
        (["a", "b"], {}, ["NONE", "None", "?", "-", "-1", -1, "unknown", " N/A ", "null"]),
        ([0, 1], {}, ["NONE", "-", -1]),
        ([0.5, 1.5], {}, ["None", "?"]),
        ([["a"], ["a", "b"]], {}, ["NONE", "-1"]),
        (["a|b", "c"], {"label_delimiter": "|"}, ["NONE", "-"]),
        (["['a', 'b']", "['a']"], {}, ["unknown"]),
    ],
)
def test_a_test_set_with_a_mark_as_the_label_of_every_row_is_without_labels(
    labels: list[Any], settings: dict[str, Any], marks: list[Any], files: Files
) -> None:
    for mark in marks:
        for test in (rows(mark, mark), rows(mark, None)):
            loaded = files.load(rows(*labels), rows(*labels), test, **settings)
            assert (loaded.test["test"].column_names, len(loaded.test["test"])) == (["sentence"], 2)
            is_usual = mark in ("-", "-1", -1)
            told = f"the test set holds {mark!r} as the label of every row, so it is without labels"
            assert [text for _, text in loaded.remarks if "test set" in text] == ([] if is_usual else [told])
    nothing_to_evaluate_on = files.fault(rows(*labels), rows(marks[0], marks[0]), **settings)
    assert nothing_to_evaluate_on.startswith("the validation set")


def test_a_mark_beside_labels_in_a_training_set_or_of_a_class_is_a_label(files: Files) -> None:
    unknown = "column 'label' holds 1 label that the training set does not have: 'NONE' in row"
    assert unknown in files.fault(rows("a", "b"), None, rows("a", "NONE"))
    assert unknown in files.fault(rows("none", "a"), None, rows("NONE", "NONE")), "a class in another case"
    assert "all 2 rows have the label 'NONE'" in files.fault(rows("NONE", "NONE"))
    for labels in (["a", "unknown"], ["None", "a"], ["!", "?"], ["-", "x"], ["-1", "1"]):
        for label in labels:
            loaded = files.load(rows(*labels), None, rows(label, label))
            assert (list(loaded.labels.names), loaded.test["test"]["label"]) == (labels, [label] * 2)


def test_labels_of_a_test_set_that_nobody_knows_may_be_left_out(files: Files) -> None:
    train, other = rows("a", "b"), rows("x", "x")
    assert files.fault(train, None, other).endswith("test.jsonl to predict it without labels"), "perhaps a mark too"
    assert "without labels" not in files.fault(train, other)
    assert "without labels" not in files.fault(train, None, [*train, *other])


@pytest.mark.parametrize("labels", [["happy", "sad"], ["DE", "FR", "FR"], [0, 1]])
@pytest.mark.parametrize("mark", ["None", "N/A", "NA", "none"])
def test_what_may_be_no_label_is_a_class_of_which_is_warned_and_flags_decide(
    labels: list[Any], mark: str, files: Files
) -> None:
    made = rows(*labels, mark, *labels)
    names = tuple(sorted({*map(str, labels), mark}))
    loaded = files.load(made, made)
    assert sorted(loaded.labels.names) == sorted(names)
    told = f"Warning {mark!r} is a class beside 2 others; if it means that there is none, --drop_unlabelled leaves its "
    assert said(loaded).count("Warning") == 1
    assert f"{told}rows out; if it is a class, --problem_type {ONE_LABEL} says so" in said(loaded)
    dropped = files.load(made, made, drop_unlabelled=True)
    assert dropped.labels.names == tuple(sorted(set(map(str, labels))))
    assert said(dropped) == (
        f"Dropped train: 1 of {len(made)} rows (1 with the label {mark}); "
        f"validation: 1 of {len(made)} rows (1 with the label {mark})"
    )
    for drop in (False, True):
        kept = files.load(made, made, drop_unlabelled=drop, problem_type=ONE_LABEL)
        assert (sorted(kept.labels.names), kept.remarks) == (sorted(names), ())
    beside = files.load([*made, *rows("", "NULL")], made, drop_unlabelled=True)
    assert sorted(beside.labels.names) == sorted(names)
    assert f"Labels {mark} is a class, as rows without a label are marked otherwise here" in said(beside)


def test_nulls_that_are_classes_stay(files: Files) -> None:
    for labels in (["a", "NULL"], ["a", "b", "NULL", "NaN"]):
        kept = files.load(rows(*labels), rows(*labels), problem_type=ONE_LABEL)
        assert (set(kept.labels.names), kept.remarks) == (set(labels), ())
    assert "'NULL' is a class beside one other; if it means that there is no label, label these" in said(
        files.load(rows("a", "NULL"))
    )
    assert files.load(rows("none", "toxic")).remarks == (), "of two classes one is often a none of the other"
    table = Dataset.from_dict(
        {"text": ["a", "b", "c"], "label": [0, 1, 2]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["NULL", "None", "x"])}),
    )
    table.to_parquet(files.folder / "t.parquet")
    named = load_text_data(TrainConfig(train_file=str(files.folder / "t.parquet"), eval_strategy="no"))
    assert (named.labels.names, named.remarks) == (("NULL", "None", "x"), ())


def test_nulls_beside_lists_and_label_columns_and_numbers(files: Files) -> None:
    lists = rows("['a', 'b']", "['a']", "NULL")
    assert "has no value in row 3; --drop_unlabelled leaves such rows out" in files.fault(lists)
    assert files.load(lists, drop_unlabelled=True).train["label"][:] == [["a", "b"], ["a"]]
    names = files.load(rows(["a"], ["b", "a"], ["NULL"], ["None"]))
    told = "Warning names of labels in the lists: 'NULL', 'None'; if a row has none of the labels, make its list empty"
    assert told in said(names)
    columns: Rows = [{"text": f"t {i}", "x": i % 2, "y": i % 3 % 2} for i in range(6)]
    columns.append({"text": "t", "x": "\\N", "y": "\\N"})
    settings = {"label_column_name": ("x", "y"), "text_column_names": ("text",)}
    assert "no value in row 7; --drop_unlabelled leaves such rows out" in files.fault(columns, **settings)
    assert len(files.load(columns, drop_unlabelled=True, **settings).train) == 6
    commas = rows("1,5", "2,5", "NULL")
    numbers = {"problem_type": "regression"}
    assert "label 'NULL' in row 3 is none; --drop_unlabelled leaves such rows out" in files.fault(commas, **numbers)
    assert files.load(commas, drop_unlabelled=True, **numbers).train["label"][:] == ["1.5", "2.5"]


@pytest.mark.parametrize("labels", [[3, 4], [3, 4.5, 2], [0, 1, 2, 0]])
def test_a_text_among_numbers_is_a_line_and_its_ways_out_work(labels: list[Any], files: Files) -> None:
    made = rows(*labels, "unknown")
    told = (
        f"Warning the labels are numbers but for 'unknown' in row {len(made)}: all are classes; if that is no label, "
    )
    assert f"{told}make it empty and --drop_unlabelled leaves its rows out; if it is a class, --problem_type" in said(
        files.load(made)
    )
    assert not files.load(made, problem_type=ONE_LABEL).remarks
    made[-1]["label"] = ""
    assert len(files.load(made, drop_unlabelled=True).train) == len(labels)
    assert not files.load(rows("1", "2", "a", "b")).remarks, "names of both kinds"
    assert not files.load(rows("1", "x")).remarks
