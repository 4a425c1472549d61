"""Rows are named by their numbers in the file, also where others were taken out before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from harness.files import Files
from harness.zoo import write_member

from ftloop.errors import TrainingError, UserError
from ftloop.job.fine_tune import fine_tune

PLACES = [17, 18, 37]
"""Rows of 40, from 1, that have something of which a message tells."""


@pytest.fixture
def files(tmp_path: Path, own_cache: None, quiet_data: None) -> Files:
    return Files(tmp_path)


def rows_with(column: str, value: Any, **columns: list[Any]) -> list[dict[str, Any]]:
    """Of 40 rows two are the first without a label or a text, and half are of other sets, to be taken out."""
    rows: list[dict[str, Any]] = [{"sentence": f"lamp {n}", "label": "ab"[n % 2]} for n in range(1, 41)]
    for number, row in enumerate(rows, 1):
        row |= {name: values[number % len(values)] for name, values in columns.items()}
        if number in PLACES:
            row[column] = value
    return rows


def named(text: str) -> list[int]:
    return [int(number) for each in re.findall(r"rows? (\d+(?:, \d+)*)", text) for number in each.split(", ")]


def test_a_warning_of_empty_texts_after_rows_are_held_out(files: Files) -> None:
    data = files.load(rows_with("sentence", " "), validation_split=0.5, max_train_samples=18)
    told = next(text for _, text in data.remarks if "empty text" in text)
    assert sorted(named(told)) == PLACES, told
    assert len(data.train) == 18


def test_a_warning_of_empty_texts_after_rows_without_a_label_are_dropped(files: Files) -> None:
    rows = rows_with("sentence", "")
    for row in rows[:4]:
        row["label"] = None
    data = files.load(rows, drop_unlabelled=True, validation_split=0.2, label_column_name="label")
    told = next(text for _, text in data.remarks if "empty text" in text)
    assert sorted(named(told)) == PLACES, told


def test_an_error_of_labels_after_empty_texts_are_dropped(files: Files) -> None:
    rows = rows_with("label", None)
    rows[2]["sentence"] = rows[5]["sentence"] = ""
    told = files.fault(rows, drop_empty_texts=True, eval_strategy="no")
    assert named(told) == PLACES, told


@pytest.mark.parametrize("value", [None, "-", "?", "['1', '2']"])
def test_an_error_of_labels_where_a_column_names_the_sets(value: str | None, files: Files) -> None:
    rows = rows_with("label", value, split=["train", "test"])
    for number, row in enumerate(rows, 1):
        row |= {"split": "train"} if number in PLACES else {"label": f"{number % 3}.5"}
    told = files.fault(rows, split_column_name="split", eval_strategy="no", problem_type="regression")
    assert named(told) in (PLACES, PLACES[:1]), told


def test_of_several_label_columns_where_a_column_names_the_sets(files: Files) -> None:
    rows = rows_with("b", 7, a=[0, 1], b=[1, 0, 1], split=["train", "dev", "train"])
    for row in rows:
        row.pop("label")
        row["split"] = "dev" if row["b"] == 7 else row["split"]
    told = files.fault(rows, split_column_name="split", label_column_name=["a", "b"])
    assert "'b' holds '7'" in told
    assert named(told) == PLACES, told


def test_rows_that_are_explained_and_rows_that_make_a_loss_no_number(
    files: Files, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"sentence": f"lamp {n}" if n % 5 else "", "label": "ab"[n % 2]} for n in range(1, 41)]
    settings: dict[str, Any] = {"model_name_or_path": str(model_folder), "output_dir": str(files.folder / "run")}
    settings |= {"validation_split": 0.25, "drop_empty_texts": True, "learning_rate": 1e38, "max_grad_norm": 0}
    with pytest.raises(TrainingError) as caught:
        fine_tune(files.config(rows, explain=1, use_cpu=True, logging_steps=1, eval_strategy="epoch", **settings))
    told, said = str(caught.value), capsys.readouterr().out
    quoted = re.findall(r"row (\d+).*: sentence 'lamp (\d+)'", told)
    assert len(quoted) > 2, told
    assert all(number == text for number, text in quoted), told
    assert set(dict(quoted)) <= set(map(str, named(told.replace("from 1:", "")))), told
    drawn = [int(number) for number in re.findall(r"row +(\d+)  ", said)]
    assert len(drawn) == 8, said
    assert all(number % 5 for number in drawn), "none of those that were left out"
    assert max(drawn) > 24, "of which there are 24 after that"


def test_a_row_without_tokens_where_rows_are_held_out(files: Files) -> None:
    folder = write_member(files.folder / "model", "gpt2")
    rows = [{"sentence": "" if n == 31 else "yes", "label": "ab"[n % 2]} for n in range(1, 41)]
    settings: dict[str, Any] = {"model_name_or_path": str(folder), "output_dir": str(files.folder / "run")}
    with pytest.raises(UserError, match="set, row 31: no tokens"):
        fine_tune(files.config(rows, validation_split=0.5, use_cpu=True, **settings))
