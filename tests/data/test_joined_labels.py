"""Labels that are several in one text: seen over the whole column, and told before rows are called unlabelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.files import Files, labelled

from ftloop.data.joined_labels import find_joined

pytestmark = pytest.mark.usefixtures("own_cache")

ONE_LABEL, SEVERAL = "single_label_classification", "multi_label_classification"
LEAVE_OUT = "--drop_unlabelled leaves such rows out"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    ("labels", "separator", "joined"),
    [
        (["a|b", ""], "|", ["a|b"]),
        (["", "c", "a ; b", "d"], ";", ["a ; b"]),
        (["a,b", "", "a"], None, []),
        (["a,b", "b, c", "c,a", "d"], ",", ["a,b", "b, c", "c,a"]),
        (["a,b", "a", "b"], ",", ["a,b"]),
        (["a;b;", "c;", ""], ";", ["a;b;"]),
        (["c;", "d;"], None, []),
        (["a||b", "|"], None, []),
        (["Yes, often", "Yes, rarely", "No"], None, []),
        (["news/sport", "news/law", "world/law", "world/sport"], None, []),
        (["sport", "sport#food", "food"], "#", ["sport#food"]),
        (["a", "b", " "], None, []),
        (["<python><pandas>", "<python>", "<c#><.net>"], "><", ["<python><pandas>", "<c#><.net>"]),
        (["<python>", "<pandas>", "a <b> c"], None, []),
        (["|python|pandas|", "|python|"], "|", ["|python|pandas|"]),
        (["{a,b}", "{c}", "{b,c}"], ",", ["{a,b}", "{b,c}"]),
        (["[a, b]", "[c, d]"], ",", ["[a, b]", "[c, d]"]),
        (["{a,b}", "c", "{c,d}"], None, []),
        (["[18, 25]", '["a", "b"]', '{"a": 1, "b": 2}'], None, []),
        ([], None, []),
    ],
)
def test_labels_that_look_like_several_are_seen(labels: list[str], separator: str | None, joined: list[str]) -> None:
    found = find_joined(labels)
    assert (found and found.separator, found.labels if found else []) == (separator, joined)


@pytest.mark.parametrize("separator", ["|", ",", ";"])
def test_an_empty_label_beside_several_a_row_is_a_row_of_none(separator: str, files: Files) -> None:
    rows = labelled(f"a{separator}b", "", "b", f"a{separator}c", " ", f"c{separator}a")
    way = f'look like several joined, and --label_delimiter "{separator}" reads several labels a row, an empty one as'
    told = files.fault(rows)
    assert told.startswith("the training set: column 'label' is empty in row ")
    assert f"; labels such as 'a{separator}b' {way} none; if these are single classes, {LEAVE_OUT}" in told
    loaded = files.load(rows, rows[:2], rows[1:3], label_delimiter=separator)
    lists = [["a", "b"], [], ["b"], ["a", "c"], [], ["c", "a"]]
    assert (loaded.train["label"], loaded.labels.names) == (lists, ("a", "b", "c"))
    assert loaded.validation["validation"]["label"] == lists[:2]
    assert loaded.test["test"]["label"] == lists[1:3]
    dropping = files.load(rows, label_delimiter=separator, drop_unlabelled=True)
    assert dropping.train["label"] == lists, "an empty text is no row without a label"
    of_classes = files.load(rows, drop_unlabelled=True)
    assert {*of_classes.labels.names} == {"b", *(separator.join(two) for two in ("ab", "ac", "ca"))}
    (dropped, warning) = of_classes.remarks
    assert dropped == ("Dropped", "train: 2 of 6 rows (2 without a label)")
    assert f'--label_delimiter "{separator}" reads several labels a row' in warning[1]


def test_who_says_what_labels_are_is_told_no_other_reading(files: Files) -> None:
    rows = labelled("a|b", "", "b", "c|a")
    told = files.fault(rows, problem_type=ONE_LABEL)
    assert told == f"the training set: column 'label' is empty in row 2; {LEAVE_OUT}"
    told = files.fault(rows, problem_type=SEVERAL)
    assert told.startswith(f"problem_type: {SEVERAL} learns lists of labels, and column 'label' holds one text each; ")
    assert told.endswith('look like several joined, and --label_delimiter "|" reads several labels a row')
    told = files.fault(labelled("a", "", "b"), problem_type=SEVERAL)
    assert told.endswith("--label_delimiter says what separates several"), "not that a row lacks a label"


def test_no_value_is_told_with_what_a_row_of_none_has_instead(files: Files) -> None:
    rows = labelled("a|b", None, "b")
    ways = f"{LEAVE_OUT}; a row with none of the labels has an empty list or text, or 0 in every label column"
    told = files.fault(rows)
    assert told.startswith("the training set: column 'label' has no value in row 2; labels such as 'a|b' look like")
    assert told.endswith(f'--label_delimiter "|" reads several labels a row; {ways}')
    assert files.fault(rows, label_delimiter="|").endswith(f"has no value in row 2; {ways}")
    assert files.load(rows, label_delimiter="|", drop_unlabelled=True).train["label"] == [["a", "b"], ["b"]]
    empty = [row | {"label": row["label"] or ""} for row in rows]
    assert files.load(empty, label_delimiter="|").train["label"] == [["a", "b"], [], ["b"]]
    assert files.fault(labelled("a", None, "b")).endswith(f"has no value in row 2; {LEAVE_OUT}")


@pytest.mark.parametrize(("label", "ending"), [("", f"; if these are single classes, {LEAVE_OUT}"), ("c|b", "")])
def test_another_set_whose_labels_are_joined_otherwise_is_told_it_too(label: Any, ending: str, files: Files) -> None:
    train, other = labelled("a|b", "c", "c|a"), labelled("c", label)
    for sets in ((train, other), (train, None, other)):
        told = files.fault(*sets)
        assert f"holds 1 label that the training set does not have: {label!r} in row 2" in told
        assert "; labels such as 'a|b' look like several joined, and --label_delimiter \"|\" reads several" in told
        assert told.endswith(ending)
        files.load(*sets, label_delimiter="|")


def test_a_separator_at_the_end_of_a_label_begins_no_other(files: Files) -> None:
    loaded = files.load(labelled("a;b;", "b;", ""), label_delimiter=";")
    assert loaded.train["label"] == [["a", "b"], ["b"], []]
    for wrong in ("a;;b", ";a", "a;;", ";"):
        assert "of its list is empty" in files.fault(labelled("a;b", wrong), label_delimiter=";")


def test_names_that_are_written_with_a_separator_around_them_too_are_read(files: Files) -> None:
    """As Stack Overflow writes tags."""
    lists = [["python", "pandas"], ["python"], [], ["c#", "python"]]
    forms = {
        "><": ["<python><pandas>", "<python>", "", " <c#><python> "],
        "|": ["|python|pandas|", "|python|", "", "|c#|python|"],
    }
    for delimiter, texts in forms.items():
        loaded = files.load(labelled(*texts), label_delimiter=delimiter, eval_strategy="no")
        assert (loaded.train["label"], loaded.labels.names) == (lists, ("c#", "pandas", "python"))
    assert "name 2 of its list is empty" in files.fault(labelled("|a||b|"), label_delimiter="|", eval_strategy="no")


@pytest.mark.parametrize(
    ("texts", "way"),
    [
        (["<a><b>", "<b><c>", "<c>"], '--label_delimiter "><" reads several labels a row'),
        (["|a|b|", "|b|c|", "|c|"], '--label_delimiter "|" reads several labels a row'),
        (["{a,b}", "{b,c}", "{c}"], 'without their brackets, --label_delimiter "," reads several labels a row'),
    ],
)
def test_classes_that_are_several_between_brackets_are_told(texts: list[str], way: str, files: Files) -> None:
    remarks = files.load(labelled(*texts), eval_strategy="no").remarks
    told = f"classes that look like several joined: '{texts[0]}', '{texts[1]}'; {way}"
    assert ("Warning", told) in remarks
