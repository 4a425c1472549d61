"""`max_train_samples` on rows sorted by class: what the first rows lack is told, and the ways out are followed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from harness.files import Files, Rows

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import TextData, load_text_data

pytestmark = pytest.mark.usefixtures("own_cache")

WAYS = "shuffle the rows of the training file, as pandas' .sample(frac=1) does, raise it to {} or more, with which all"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def rows(*labels: Any) -> Rows:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def warnings(loaded: TextData) -> list[str]:
    return [text for topic, text in loaded.remarks if topic == "Warning"]


@pytest.mark.parametrize(
    ("labels", "first", "fault", "lacking", "is_sorted", "enough"),
    [
        ("aaabbb", 3, "all 3 rows have the label 'a'", "1 of 2 labels, not 'b'", True, 4),
        ("aaabba", 2, "all 2 rows have the label 'a'", "1 of 2 labels, not 'b'", False, 4),
        ([1, 1, 0, 0, 2], 2, "all 2 rows have the label '1'", "1 of 3 labels, not '0', '2'", True, 5),
        ([["a"], ["a"], [], ["b", "a"]], 3, "only the label 'a' occurs", "1 of 2 labels, not 'b'", False, 4),
        ("aabbcc", 3, None, "2 of 3 labels, not 'c'", True, 5),
        ("abcabd", 3, None, "3 of 4 labels, not 'd'", False, 6),
        ([["a"], ["b"], ["c", "a"]], 2, None, "2 of 3 labels, not 'c'", False, 3),
    ],
)
def test_labels_that_the_first_rows_lack_are_told_with_the_cause_and_ways_out(
    labels: Any, first: int, fault: str | None, lacking: str, is_sorted: bool, enough: int, files: Files
) -> None:
    train = rows(*labels)
    if fault is None:
        loaded = files.load(train, max_train_samples=first)
        assert loaded.train["text"] == [f"text {number}" for number in range(first)], "the first rows, as ever"
        told = next(text for text in warnings(loaded) if "--max_train_samples" in text)
    else:
        told = files.fault(train, max_train_samples=first)
        assert told.startswith(f"the training set: {fault}")
    taken = f"the first {first} training rows, which --max_train_samples takes, have"
    why = f"as the rows {'are' if is_sorted else 'may be'} sorted by class"
    assert f"{taken} {lacking}, {why}: {WAYS.format(enough)} occur, or leave it out" in told
    for way in ({"max_train_samples": enough}, {}):
        assert not any("--max_train_samples" in text for text in warnings(files.load(train, **way)))
    if fault is None:
        assert any("--max_train_samples" in text for text in warnings(files.load(train, max_train_samples=enough - 1)))


def test_rows_that_pandas_has_shuffled_have_all_labels_among_the_first(files: Files) -> None:
    frame = pandas.DataFrame(rows(*"a" * 50, *"b" * 50))
    files.fault(frame.to_dict("records"), max_train_samples=20)
    loaded = files.load(frame.sample(frac=1, random_state=0).to_dict("records"), max_train_samples=20)
    assert (loaded.labels.names, len(loaded.train)) == (("a", "b"), 20)


def test_folders_of_texts_are_read_class_by_class(tmp_path: Path) -> None:
    for name in "ab":
        for number in range(3):
            path = tmp_path / "texts" / name / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {number}")
    config: dict[str, Any] = {"train_file": str(tmp_path / "texts")}
    with pytest.raises(ValueError, match=r"not 'b', as the rows are sorted by class: .* raise it to 4 or more") as told:
        load_text_data(TrainConfig(**config, max_train_samples=3))
    (enough,) = re.findall(r"raise it to (\d+)", str(told.value))
    assert load_text_data(TrainConfig(**config, max_train_samples=int(enough))).labels.names == ("a", "b")


def test_nothing_is_said_where_the_first_rows_have_all_labels_or_labels_are_numbers(files: Files) -> None:
    for labels in ("abab", [1.0, 0.0, 1, 0], ["True", "False", "true", "false"], [0.5, 1.5, 2.5, 3.5]):
        assert not warnings(files.load(rows(*labels), max_train_samples=2))
    only = files.fault(rows(*"aaa"), max_train_samples=2)
    assert only == "the training set: all 2 rows have the label 'a'; at least two are needed", "more rows help nothing"
    loaded = files.load(rows("a", "b", "", " "), max_train_samples=2)
    assert not loaded.remarks, "an empty label is none"


def test_rows_are_counted_behind_those_that_are_held_out(files: Files) -> None:
    train = rows(*"a" * 20, *"b" * 20)
    told = files.fault(train, validation_split=0.2, max_train_samples=10)
    assert "raise it to 17 or more" in told
    assert files.load(train, validation_split=0.2, max_train_samples=17).labels.names == ("a", "b")
