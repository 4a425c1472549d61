"""A number for each class where a label is wanted: refused with its row, and with a way out that is followed here."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from harness.files import Files, labelled

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data
from ftloop.data.probabilities import numbers_of_classes

pytestmark = pytest.mark.usefixtures("own_cache")

ONE_LABEL, SEVERAL, NUMBERS = "single_label_classification", "multi_label_classification", "regression"
THREE = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.0, 0.0, 1.0]]
NAMED = [{"pos": 0.7, "neg": 0.3}, {"pos": 0.2, "neg": 0.8}]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def follow(told: str, labels: list[Any]) -> list[Any]:
    """Return the labels as pandas makes them by the message."""
    (way,) = re.findall(r"pandas' (.*) takes the most likely one of each row", told)
    return list(eval(f"labels{way}", {"ast": ast, "labels": pandas.Series(labels)}))


@pytest.mark.parametrize("wanted", [None, ONE_LABEL, SEVERAL, NUMBERS])
@pytest.mark.parametrize(
    ("labels", "likely", "place"),
    [
        (THREE, [0, 1, 2], "line 1: column label holds [0.7, 0.2, 0.1]"),
        ([[0, 1, 0], *THREE], [1, 0, 1, 2], "line 2: column label holds [0.7, 0.2, 0.1]"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 0], "line 1: column label holds [0.5, 0.5]"),
        ([[0.9, 0.8], [0.1, 0.9]], [0, 1], "line 1: column label holds [0.9, 0.8]"),
        (NAMED, ["pos", "neg"], "line 1: column label holds {'neg': 0.3, 'pos': 0.7}"),
        ([{"pos": 1, "neg": 0}, NAMED[1]], ["pos", "neg"], "line 2: column label holds {'neg': 0.8, 'pos': 0.2}"),
        ([str(row) for row in THREE], [0, 1, 2], "label' holds '[0.7, 0.2, 0.1]' in row 1"),
        (["[0. 1. 0.]", "[0.3 0.4 0.3]"], [1, 1], "label' holds '[0.3 0.4 0.3]' in row 2"),
        ([str(row) for row in NAMED], ["pos", "neg"], "label' holds \"{'pos': 0.7, 'neg': 0.3}\" in row 1"),
        (['{"1": 1, "2": 0}', '{"1": 2e-1, "2": .8}'], ["1", "2"], 'label\' holds \'{"1": 2e-1, "2": .8}\' in row 2'),
        (["0.7,0.3", "0.4, 0.6"], [0, 1], "label' holds '0.7,0.3' in row 1"),
        (["0.7 0.3", "0.4 0.6"], [0, 1], "label' holds '0.7 0.3' in row 1"),
    ],
)
def test_a_number_for_each_class_is_refused_and_the_most_likely_class_trains(
    labels: list[Any], likely: list[Any], place: str, wanted: str | None, files: Files
) -> None:
    settings = {} if wanted is None else {"problem_type": wanted}
    told = files.fault(labelled(*labels), **settings)
    assert f"{place}, a number for each class as probabilities are; classes are learned, and pandas' " in told
    assert follow(told, labels) == likely
    if wanted is None and len({*likely}) > 1:
        assert files.load(labelled(*likely)).labels.count == len({*likely})
        assert place.partition("in row")[0] in files.fault(labelled(*likely), labelled(*labels))


@pytest.mark.parametrize("delimiter", [",", "|", " "])
def test_a_delimiter_between_probabilities_makes_no_names_of_them(delimiter: str, files: Files) -> None:
    for labels in ([str(row) for row in THREE], [delimiter.join(map(str, row)) for row in THREE]):
        told = files.fault(labelled("a", *labels), label_delimiter=delimiter)
        assert f"line 2: column label holds {labels[0]!r}, a number for each class" in told
        assert follow(told, labels) == [0, 1, 2]


def test_lists_of_parquet_and_of_the_hub_are_refused_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"text": ["a", "b", "c"], "label": THREE}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "train.parquet")
    frame = pandas.read_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"row 1: column label holds \[0.7, 0.2, 0.1\], a number for") as caught:
        load_text_data(TrainConfig(train_file=str(tmp_path / "train.parquet")))
    frame["label"] = follow(str(caught.value), list(frame["label"]))  # arrays of NumPy
    frame.to_parquet(tmp_path / "classes.parquet")
    assert load_text_data(TrainConfig(train_file=str(tmp_path / "classes.parquet"))).train["label"] == ["0", "1", "2"]
    hub = DatasetDict(train=Dataset.from_dict(rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: hub)
    with pytest.raises(ValueError, match=r"the data set, row 1: column label holds \[0.7, 0.2, 0.1\], a number for"):
        load_text_data(TrainConfig(dataset_name="any/name"))


def test_probabilities_in_a_column_for_each_label_have_two_ways_out(files: Files) -> None:
    settings: dict[str, Any] = {"label_column_name": ["late", "dear"]}
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "late": [0.7, 0.2, 1e-5], "dear": [0.6, 0.3, 0.6]})
    told = files.fault(frame.to_dict("records"), **settings)
    assert "column 'late' holds '0.7' in row 1" in told
    ((bits, one),) = re.findall(r"pandas' (.*) makes these, and (.*) one column with a class of each row", told)
    frame["label"], frame[["late", "dear"]] = eval(one, {"df": frame}), eval(bits, {"df": frame})
    several = files.load(frame.to_dict("records"), **settings)
    assert several.train["labels"] == [["late", "dear"], [], ["dear"]]
    assert files.load(frame.to_dict("records"), label_column_name="label").train["label"] == ["late", "dear", "dear"]
    assert "pandas" not in files.fault([{"text": "a", "late": 2, "dear": 0}], **settings)
    small = [{"text": "a", "late": 1e-5, "dear": 0}]
    assert ">= 0.5).astype(int)" in files.fault(small, **settings)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification", "regression"])
def test_several_columns_of_numbers_are_learned_one_at_a_time(problem_type: str | None, files: Files) -> None:
    """As of essays with a score for each of several things."""
    rows = [{"text": "a", "syntax": 1.0 + n % 3, "the words": 2.5 - n % 2} for n in range(12)]
    settings = {"problem_type": problem_type, "eval_strategy": "no"}
    told = files.fault(rows, label_column_name=["the words", "syntax"], **settings)
    if problem_type == "regression":
        assert told.startswith("problem_type: regression learns one label a row, and there are 2 label columns; ")
    else:
        assert "column 'the words' holds '2.5' in rows 1, 3, 5, 7, 9, ... (6 in all)" in told
        assert "several numbers a row are not learned" in told
        assert "probabilities" not in told
    assert "learn one column at a time, as with --label_column_name 'the words'" in told
    assert files.load(rows, label_column_name="the words", eval_strategy="no").labels.regression

    test = [{"text": "a", "syntax": 7, "the words": 0}]
    rows = [row | {"syntax": n % 2, "the words": 1} for n, row in enumerate(rows)]
    told = files.fault(rows, None, test, label_column_name=["the words", "syntax"], eval_strategy="no")
    assert "'syntax' holds '7' in row 1" in told
    assert told.endswith("leave these columns out of the file")


def test_what_is_no_number_for_each_class_is_read_as_before(files: Files) -> None:
    one_hot = files.load(labelled([0.0, 1.0, 0.0], [1.0, 0.0, 0.0]))
    assert one_hot.train["label"] == [["LABEL_1"], ["LABEL_0"]]
    assert files.load(labelled([1, 2], [1])).labels.names == ("1", "2")
    assert files.load(labelled([0.5], [2.0]), problem_type=NUMBERS).labels.regression
    assert files.load(labelled({"pos": 1.0, "neg": 0.0}, {"neg": 1})).train["label"] == [["pos"], ["neg"]]
    names = files.load(labelled(["3.10", "3.11"], ["a", "3.10"]))
    assert names.labels.names == ("3.10", "3.11", "a")
    for labels in (
        ["[0.0, 0.5]", "[0.5, 1.0]"],
        ["1.5 2.5", "0.5 1.5"],
        ["0.7 0.3", "a"],
        ["0.123,45", "0.1,2"],
        ["1 0", "0 1"],
        ["{'a': 0.5}", "{'b': 0.5}"],
    ):
        assert files.load(labelled(*labels), problem_type=ONE_LABEL).labels.names == tuple(sorted(labels))
    assert "lists of numbers (of probabilities, write the most likely class)" in files.fault(labelled([0.5], [2.0]))


def test_a_text_of_many_digits_is_looked_at_quickly() -> None:
    for text in ("1" * 100_000 + "x", "[" + "0.1 " * 50_000 + "x", "{" + "'a': 1, " * 20_000, " " * 100_000):
        assert numbers_of_classes(text) is None
    assert numbers_of_classes([10**400, 0.5]) is None
    assert numbers_of_classes([float("nan"), 0.5]) is None
