"""Rows of a set to be scored that have the texts of training rows are counted, and said on the line `Data`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from ftloop.config.train_config import TrainConfig
from ftloop.data import repeated_texts
from ftloop.data.load import load_text_data
from ftloop.data.repeated_texts import count_in_train
from ftloop.job.console import announce_data


def texts(*values: Any) -> Dataset:
    return Dataset.from_dict({"text": list(values), "other": list(range(len(values)))})


@pytest.mark.parametrize("at_once", [1, 2, 20_000])
def test_equal_texts_are_counted_and_empty_ones_are_not(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_texts, "ROWS_AT_ONCE", at_once)
    train = texts("a", "b", "b", "", None, "c")
    found = count_in_train(train, {"validation": texts("b", "b", "B", "b ", "", None), "test": texts("x")}, ["text"])
    assert found == {"validation": 2}
    assert count_in_train(train, {}, ["text"]) == {}


def test_both_texts_of_a_pair_have_to_be_equal() -> None:
    train = Dataset.from_dict({"a": ["x", "x y", ""], "b": ["y", "z", ""]})
    test = Dataset.from_dict({"a": ["x", "x", "y", ""], "b": ["y", "y z", "x", ""]})
    assert count_in_train(train, {"test": test}, ["a", "b"]) == {"test": 1}


def test_the_line_data_counts_the_rows_whose_texts_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for other in ("a", "z"):
        (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\nc,0\n")
        (tmp_path / "test.csv").write_text(f"text,label\n{other},0\nb,1\n")
        files = {"train_file": str(tmp_path / "train.csv"), "test_file": str(tmp_path / "test.csv")}
        config = TrainConfig(**files, eval_strategy="no")  # type: ignore[arg-type]
        announce_data(SimpleNamespace(config=config), load_text_data(config), {}, 9)  # type: ignore[arg-type]
        told.append(capsys.readouterr().out.splitlines()[0])
    assert told[0] == "Data      train 3, test 2 rows; with the texts of training rows: 2 of test"
    assert told[1].endswith(": 1 of test")
