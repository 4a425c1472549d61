"""The finished runs below a folder, side by side."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from harness.finished_runs import left_by_a_run

from ftloop.errors import ExitCode, UserError
from ftloop.report.runs import as_text, main, read_runs, sort
from ftloop.system.manifest import MANIFEST, write_manifest


def planted(root: Path, name: str, accuracy: float | None, **settings: Any) -> Path:
    folder = left_by_a_run(root / name, "single_label_classification", 2, 5)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["digest"]
    config = manifest["config"] | {"model_name_or_path": "bert"} | settings
    write_manifest(folder, manifest | {"config": config})
    scores = {} if accuracy is None else {"test_accuracy": accuracy, "test_loss": 1 - accuracy, "test_runtime": 3.5}
    (folder / "all_results.json").write_text(json.dumps(scores | {"train_loss": 0.5}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    planted(tmp_path, "a", 0.7, learning_rate=2e-5)
    planted(tmp_path, "deep/er/b", 0.9, learning_rate=5e-5, batching="token_budget")
    planted(tmp_path, "c", None, learning_rate=5e-5)
    checkpoint = tmp_path / "a" / "checkpoint-4"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text((tmp_path / "a" / "trainer_state.json").read_text())
    return tmp_path


def test_runs_at_any_depth_are_rows_and_what_differs_is_columns(runs: Path) -> None:
    table = read_runs(runs)
    assert list(table.rows) == ["a", "c", "deep/er/b"]
    assert table.settings == ["batching", "learning_rate"]
    assert table.scores == ["test_accuracy", "test_loss"]
    assert table.rows["deep/er/b"]["learning_rate"] == 5e-5
    assert table.rows["c"].get("test_accuracy") is None


def test_the_best_comes_first_and_runs_without_the_score_last(runs: Path) -> None:
    table = read_runs(runs)
    assert list(sort(table, "test_accuracy").rows) == ["deep/er/b", "a", "c"]
    assert list(sort(table, "test_loss").rows) == ["deep/er/b", "a", "c"]
    assert next(iter(sort(table, "learning_rate").rows)) == "a"
    with pytest.raises(UserError, match=r"no column 'test_acuracy', .*did you mean test_accuracy\?"):
        sort(table, "test_acuracy")


@pytest.mark.parametrize("failed", ["a", "b", "c", "d"])
def test_a_run_whose_score_is_no_number_comes_last(failed: str, tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.5), ("b", 0.9), ("c", 0.1), ("d", 0.7)):
        planted(tmp_path, name, math.nan if name == failed else accuracy)
    expected = [name for name in ("b", "d", "a", "c") if name != failed]
    assert list(sort(read_runs(tmp_path), "test_accuracy").rows) == [*expected, failed]
    assert list(sort(read_runs(tmp_path), "test_loss").rows) == [*expected, failed]


def test_columns_that_do_not_fit_are_named(runs: Path) -> None:
    table = read_runs(runs)
    whole = as_text(table).splitlines()
    assert whole[0].split() == ["run", "test_accuracy", "test_loss", "batching", "learning_rate"]
    assert whole[3].split() == ["deep/er/b", "0.9", "0.1", "token_budget", "5e-05"]
    narrow = as_text(table, 40).splitlines()
    assert all(len(line) <= 40 for line in narrow[:-1])
    assert narrow[-1] == "Left out  batching, learning_rate: --output FILE.csv has all columns"


def test_the_csv_holds_every_number_in_full(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = runs / "runs.csv"
    assert main([str(runs), "--sort", "test_accuracy", "--output", str(file)]) == ExitCode.DONE
    rows = list(csv.DictReader(file.open()))
    assert [row["run"] for row in rows] == ["deep/er/b", "a", "c"]
    assert float(rows[0]["test_loss"]) == 1 - 0.9
    assert rows[2]["test_accuracy"] == ""
    assert capsys.readouterr().out == f"Runs      3 runs in {file}\n"


def test_a_run_that_cannot_be_read_is_named_and_no_run_is_an_error(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "c" / "trainer_state.json").write_text("{")
    assert main([str(runs)]) == ExitCode.DONE
    told = capsys.readouterr().out
    assert told.startswith("Left out  c: ")
    assert "deep/er/b" in told
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == ExitCode.USER_ERROR
    assert "no finished run in or below" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == ExitCode.USER_ERROR
