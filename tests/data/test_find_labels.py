"""What labels are where the data leave two readings: said before training, and decided by a flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.files import Files, labelled

from ftloop.config.problem_type import ProblemType
from ftloop.config.unknown import unknown_setting
from ftloop.data.load import TextData

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def said(loaded: TextData) -> str:
    return "\n".join(f"{topic} {text}" for topic, text in loaded.remarks)


def test_a_few_whole_numbers_with_a_point_are_classes_and_it_is_said(files: Files) -> None:
    rows = labelled(1.0, 0.0, 1.0, 0.0)
    loaded = files.load(rows, labelled(0, 1.0), labelled("1"))
    assert loaded.labels.names == ("0", "1")
    assert [loaded.labels.encode(raw) for raw in loaded.validation["validation"]["label"]] == [0, 1]
    assert "Labels a few whole numbers written as '1.0', '0.0' are classes; --problem_type regression" in said(loaded)
    as_numbers = files.load(rows, labelled(0, 1.0), problem_type="regression")
    assert as_numbers.labels.regression
    assert not as_numbers.remarks
    task = files.load(rows, task_name="mrpc")
    assert (task.labels.names, task.metrics) == (("not_equivalent", "equivalent"), ("accuracy", "f1"))


def test_many_whole_numbers_with_a_point_are_numbers_and_it_is_said(files: Files) -> None:
    """As pandas writes 28 classes where one row was empty."""
    ids = [float(n) for n in range(28)]
    shown = "'0.0', '1.0', '2.0', '3.0', '4.0' and 23 more"
    told = f"Labels 28 whole numbers written as {shown} are learned as numbers; --problem_type"
    loaded = files.load(labelled(*ids * 3))
    assert loaded.labels.regression
    assert said(loaded) == f"{told} single_label_classification makes them classes"
    assert files.load(labelled(*ids * 3), problem_type="single_label_classification").labels.count == 28
    assert "Labels 11 whole numbers" in said(files.load(labelled(*(float(n % 11) for n in range(44)))))
    for quiet in (labelled(*ids), labelled(*ids * 3, 1.5)):
        assert not said(files.load(quiet))
    assert not said(files.load(labelled(*ids * 3), problem_type="regression"))


FLOATS, PART = [1.0, 2.0, 3.0, 4.0, 5.0], {"max_train_samples": 8}


@pytest.mark.parametrize(
    ("labels", "settings", "names"),
    [
        (FLOATS * 20, PART, ("1", "2", "3", "4", "5")),
        (FLOATS * 20, PART | {"folds": 2, "fold": 1}, ("1", "2", "3", "4", "5")),
        (FLOATS * 2, {"validation_split": 0.2}, ("1", "2", "3", "4", "5")),
        ([*FLOATS * 20, ""], PART, ("1", "2", "3", "4", "5")),
        ([*[1, 2] * 4, 1.5], PART, ()),
        ([*[1.0, 2.0] * 4, 1.5], PART, ()),
        ([*[1.0, 2.0] * 4, *(float(n) for n in range(20))], PART, ()),
    ],
)
def test_what_the_labels_are_is_decided_over_all_rows_read_and_not_those_of_a_part(
    labels: list[Any], settings: dict[str, Any], names: tuple[str, ...], files: Files
) -> None:
    loaded = files.load(labelled(*labels), **settings)
    assert len(loaded.train) <= 8
    assert (loaded.labels.names, loaded.labels.regression) == (names, not names)
    if labels[-1] != "":
        assert files.load(labelled(*labels)).labels == loaded.labels


@pytest.mark.parametrize(
    ("train", "validation", "settings"),
    [
        ([1.0, 2.0, 2.5, 1.0, 2.0, 2.5], None, {}),
        ([1.0, 2.0, 1.0, 2.0], [1.5], {}),
        ([1.0, 2.0, 3.0], None, {}),
        ([1.0, 2.0, 1.0, 2.0], None, {"task_name": "stsb"}),
    ],
)
def test_numbers_with_a_fraction_or_many_values_stay_numbers(
    train: list[float], validation: list[float] | None, settings: dict[str, Any], files: Files
) -> None:
    loaded = files.load(labelled(*train), labelled(*validation) if validation else None, **settings)
    assert loaded.labels.regression
    assert not loaded.remarks


def test_blanks_around_numbers_are_no_part_of_them(files: Files) -> None:
    """As a csv file has them whose commas are followed by a blank."""
    for settings in ({}, {"problem_type": "regression"}):
        loaded = files.load(labelled(" 0.5", " 1.5", "2.5 "), labelled("1", " 2"), labelled(" 3"), **settings)
        assert (loaded.labels.regression, said(loaded)) == (True, "")
        assert [loaded.labels.encode(raw) for raw in loaded.train["label"]] == [0.5, 1.5, 2.5]
        assert loaded.validation["validation"]["label"] == ["1", "2"]
        assert loaded.test["test"]["label"] == ["3"]
    for settings in ({}, {"problem_type": "single_label_classification"}):
        for train, other in (([" 0", " 1", " 0"], ["0", "1"]), (["0", "1", "0"], [" 0", "1 "])):
            loaded = files.load(labelled(*train), labelled(*other), labelled(" ?", " ?"), **settings)
            assert loaded.labels.names == ("0", "1")
            assert [loaded.labels.encode(raw) for raw in loaded.validation["validation"]["label"]] == [0, 1]
            assert not loaded.has_labels(loaded.test["test"])
    lacking = labelled(" 0.5", " 1.5", " -1", " ", " -", " NULL")
    assert "is empty in row 4; --drop_unlabelled leaves such rows out" in files.fault(lacking)
    assert files.load(lacking, lacking, drop_unlabelled=True).train["label"] == ["0.5", "1.5", "-1"]
    assert files.load(labelled(" 0,5", "1,5 "), problem_type="regression").train["label"] == ["0.5", "1.5"]
    assert files.load(labelled(" 1", " good", " 2")).labels.names == (" 1", " 2", " good")


def test_problem_type_decides(files: Files) -> None:
    tens = labelled(*range(10, 70, 10), *range(10, 70, 10))
    loaded = files.load(tens)
    assert loaded.labels.names == ("10", "20", "30", "40", "50", "60")
    assert "Labels whole numbers such as '10', '20', '30', '40', '50' and 1 more are classes; --problem" in said(loaded)
    assert files.load(tens, problem_type="regression").labels.encode("30") == 30.0
    stars = files.load(labelled(2.5, 10.0, 1.5, 2.5), problem_type="single_label_classification")
    assert stars.labels.names == ("1.5", "2.5", "10.0")
    assert files.load(labelled(1, 0), task_name="stsb", problem_type="single_label_classification").labels.count == 2
    lists = labelled(["a"], ["b", "a"])
    several = "multi_label_classification"
    assert files.load(lists, problem_type=several).labels.problem_type == ProblemType.MULTI_LABEL
    assert files.fault(labelled(1, "x"), problem_type="regression") == (
        "problem_type: regression learns numbers, and the label 'x' in row 2 is none"
    )
    assert "--label_delimiter says what separates several" in files.fault(labelled("a", "b"), problem_type=several)
    fault = files.fault(lists, problem_type="regression")
    assert "has several labels, which only multi_label_classification learns" in fault
    assert unknown_setting("do_regression", ()) == "do_regression: its name is --problem_type regression"


@pytest.mark.parametrize("other", [["True", "false"], [True, False], ["TRUE", "FALSE"], [1, 0], [1.0, 0.0]])
def test_truths_are_the_same_however_another_file_spells_them(other: list[Any], files: Files) -> None:
    for train, names in ((["True", "False"], ("False", "True")), ([False, True], ("false", "true"))):
        loaded = files.load(labelled(*train), labelled(*other), labelled(*other))
        assert loaded.labels.names == names
        for rows in (*loaded.validation.values(), *loaded.test.values()):
            assert [loaded.labels.encode(raw) for raw in rows["label"]] == [1, 0]


def test_truths_of_several_spellings_in_one_file_are_two_classes(files: Files) -> None:
    loaded = files.load(labelled("True", "false", "FALSE", "true"))
    assert loaded.labels.names == ("false", "true")
    assert [loaded.labels.encode(raw) for raw in loaded.train["label"]] == [1, 0, 0, 1]
    assert said(loaded) == "Labels 'True', 'false', 'FALSE', 'true' are read as true and false"
    assert files.load(labelled("1.0", "beta", "1", "2.0")).labels.names == ("1", "1.0", "2.0", "beta")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (["good", "bad", "GOOD", " bad"], "classes that differ only by case or spaces: ' bad' and 'bad', 'GOOD' and"),
        (
            ["['a']", "['a', 'b'", "c"],
            "classes that look like lists or JSON: \"['a', 'b'\", \"['a']\"; they are texts, as",
        ),
        (range(100, 107), "7 of the 7 classes in 'label' have a single row: an id, or a quantity?"),
        (["a", "b", "c", "d", "e", "f", "f"], "5 of the 6 classes in 'label' have a single row"),
    ],
)
def test_what_looks_wrong_with_classes_is_a_line_before_training(raw: Any, told: str, files: Files) -> None:
    assert f"Warning {told}" in said(files.load(labelled(*raw)))


@pytest.mark.parametrize("raw", [["good", "bad"], range(5), [*range(9)] * 2, [1, 5, 20], ["a", "b", "c"], ["[x]", "y"]])
def test_ordinary_classes_are_not_remarked_upon(raw: Any, files: Files) -> None:
    rows = [row | {"sentence": f"text {i}"} for i, row in enumerate(labelled(*raw))]
    assert not files.load(rows).remarks


def test_a_set_of_one_class_is_told_before_its_scores(files: Files) -> None:
    """As the first rows of a file that is sorted by class are."""
    both, one = labelled(*"ab" * 10), labelled(*"a" * 10)  # the same text, which is another remark
    told = "all 10 rows have the label 'a'"
    data = files.load(both, one, labelled(*"a" * 12, *"b" * 12), max_predict_samples=10)
    assert data.remarks[1:] == (
        ("Warning", f"the validation set: {told}: its scores say nothing of the other class"),
        (
            "Warning",
            f"the test set: {told}; they are the first rows of a set that may be sorted by class: its scores say "
            "nothing of the other class",
        ),
    )
    assert len(files.load(both, one[:9], labelled(*"ab" * 10)).remarks) == 1


def test_equal_texts_with_different_labels_are_told_before_training(files: Files) -> None:
    rows = [{"sentence": f"text {i // 2}" if i < 12 else f"other {i}", "label": i % 2} for i in range(60)]
    told = "Warning 12 of 60 training rows (20%) have texts that also occur with another label: no model"
    assert said(files.load(rows)).startswith(told)
    assert not files.load(rows, problem_type="regression").remarks
    assert not files.load(rows[4:]).remarks, "8 rows are few"
