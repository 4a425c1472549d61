"""A longer text that is not read beside the one that was found by its name is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from harness.files import Files, Rows

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data

pytestmark = pytest.mark.usefixtures("own_cache")

PASSAGES: Rows = [
    {"question": f"is lamp {n} red", "passage": f"Lamp {n} is red on all of its sides.", "label": n % 2}
    for n in range(12)
]


def told(folder: str) -> str:
    what = "the text is 'question', found by its name, and column 'passage', of longer texts, is not read"
    return f"Warning   {folder}: {what}; --text_column_names names the one or two that are meant\n"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_passages_beside_questions_are_told_of_unless_the_texts_were_named(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As BoolQ has them."""
    path = tmp_path / f"train.{ending}"
    rows = datasets.Dataset.from_list(PASSAGES)
    getattr(rows, {"jsonl": "to_json"}.get(ending, f"to_{ending}"))(path)
    for named in (None, ["question"], ["question", "passage"]):
        load_text_data(TrainConfig(train_file=str(path), text_column_names=named, eval_strategy="no"))
        assert (told(str(path)) in capsys.readouterr().out) == (named is None)


def test_beside_several_label_columns_too(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """As of papers by their titles and abstracts; a label column of many words would be no text that is not read."""
    rows = [row | {"b": 1 - row["label"], "c": 1} for row in PASSAGES]
    files.load(rows, label_column_name=["label", "b"], eval_strategy="no")
    assert told(str(files.folder / "train.jsonl")) in capsys.readouterr().out


def test_a_data_set_by_name_is_told_of_likewise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets.Dataset.from_list(PASSAGES).to_json(tmp_path / "set" / "train.jsonl")
    load_text_data(TrainConfig(dataset_name=str(tmp_path / "set"), eval_strategy="no"))
    assert told(f"the data set {tmp_path}/set") in capsys.readouterr().out


@pytest.mark.parametrize(
    "other",
    [
        "yes{}",
        "a b c {}",
        "https://lamps.example/of/every/house/and/of/every/tower/in/the/whole/of/the/land/{}",
        "a note of many words that is in all of the rows the same",
        None,
        ["a list of words that are many more than the question has in it", "and one"],
    ],
)
def test_names_notes_addresses_and_shorter_texts_are_not_told_of(
    other: Any, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"passage": other.format(n) if isinstance(other, str) else other} for n, row in enumerate(PASSAGES)]
    files.load(rows)
    assert "is not read" not in capsys.readouterr().out


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["text", "sentiment", "score"], "the label is 'score', found by its name, and 'sentiment' could be it too"),
        (
            ["text", "rating", "intent", "target"],
            "is 'target', found by its name, and 'rating' or 'intent' could be it too",
        ),
        (["text", "label", "score"], None),
        (["text", "score", "id"], None),
    ],
)
def test_another_column_that_could_be_the_label_is_told_of(
    columns: list[str], told: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.csv"
    rows = [",".join([f"a b {n}", *(str(n % 2) for _ in columns[1:])]) for n in range(8)]
    path.write_text("\n".join([",".join(columns), *rows]))
    loaded = load_text_data(TrainConfig(train_file=str(path), eval_strategy="no"))
    out = capsys.readouterr().out
    assert ("could be it too" in out) == (told is not None)
    if told is not None:
        assert told in out
        named = TrainConfig(train_file=str(path), eval_strategy="no", label_column_name=loaded.label_column)
        load_text_data(named)
        assert "could be it too" not in capsys.readouterr().out
