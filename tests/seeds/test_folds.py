"""Cross-validation: the folds of one job, each row as the model predicts it that was not trained on it, and the labels
that are doubted."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.command import Started
from harness.finished_runs import left_by_a_run
from harness.kill_harness import difference, what_is_left

import ftloop.job.seeds
import ftloop.seeds.__main__
from ftloop.config.command_line import parse_args
from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, UserError
from ftloop.job.seeds import train_several
from ftloop.report import report
from ftloop.report.__main__ import main as report_main
from ftloop.report.label_doubts import confidently_other, doubt_labels
from ftloop.report.predictions import Predictions
from ftloop.report.runs import read_runs
from ftloop.seeds.significance import compare_seeds
from ftloop.seeds.summary import read_seeds
from ftloop.system.manifest import MANIFEST, write_manifest
from ftloop.system.stopping import StopRequest
from ftloop.train import main

# --- the flags -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "folds: 1 must be greater than 1"),
        ({"folds": 3, "fold": 4}, "fold: 4 is none of 3 folds"),
        ({"fold": 1}, "fold: only together with --folds"),
        ({"folds": 3, "seeds": [1, 2]}, "seeds: not with folds; give each seed a command"),
        ({"folds": 3, "validation_split": 0.1}, "folds: each is validated on its own part"),
        ({"folds": 3, "train_file": "a.csv", "validation_file": "b.csv"}, "leave the validation set out"),
        ({"folds": 3, "max_eval_samples": 9}, "max_eval_samples: not with folds"),
        ({"folds": 3, "record": "r.jsonl"}, "record: not with folds"),
        ({"folds": 3, "resume_from_checkpoint": "runs/checkpoint-5"}, "with folds only `last`"),
        ({"folds": 3, "trainer_compat": True, "dataloader_drop_last": True}, "dataloader_drop_last: not with folds"),
    ],
)
def test_what_does_not_go_with_folds_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)
    of_one = settings | {"fold": 1}
    if {"record", "resume_from_checkpoint"} & settings.keys():  # of one fold alone they mean something
        assert TrainConfig(**of_one).several is None


def test_the_names_that_other_tools_use_lead_to_the_flag() -> None:
    for name in ("k_folds", "kfold", "n_folds", "n_splits", "cv", "cross_validation"):
        with pytest.raises(UserError, match=f"{name}: its name is --folds"):
            parse_args(["guide", f"--{name}", "5"])


def test_several_processes_are_told_to_start_each_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["demo", "--folds", "3", "--output_dir", str(tmp_path / "my out")]) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "folds: 2 processes were started for one training. Start one for each fold, with --fold N " in told
    words = shlex.split(told.split("each fold, with ")[1].split(" beside ")[0].replace("N", "2"))
    config = parse_args(["demo", "--folds", "3", *words])
    assert (config.several, config.fold, config.output_dir) == (None, 2, f"{tmp_path}/my out/fold-2")


SAYS = "import sys; print('ran', *sys.argv[1:], flush=True); "


def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str], **settings: Any) -> ExitCode:
    """`train_several` with, in place of a training, a process that runs a line of Python for each fold."""
    real = ftloop.job.seeds._command

    def command(config: TrainConfig, words: list[str], number: int, stop: StopRequest) -> list[str]:
        return [sys.executable, "-c", SAYS + lines[number - 1], *real(config, words, number, stop)[2:]]

    monkeypatch.setattr(ftloop.job.seeds, "_command", command)
    config = TrainConfig(output_dir=str(tmp_path / "out"), folds=len(lines), **settings)
    return train_several(config, ["guide", "--folds", str(len(lines))], StopRequest())


def test_each_fold_gets_the_same_words_and_its_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = ["", "sys.exit(2)", ""]
    assert started(monkeypatch, tmp_path, failing, logging_dir=str(tmp_path / "board")) == ExitCode.USER_ERROR
    out, err = capfd.readouterr()
    for fold in (1, 2):
        assert f"Fold      {fold}, {fold} of 3 (1, 2, 3): {tmp_path}/out/fold-{fold}\n" in out
        own = f"--fold {fold} --output_dir {tmp_path}/out/fold-{fold} --logging_dir {tmp_path}/board/fold-{fold}"
        assert f"ran guide --folds 3 {own}\n" in out
    assert out.count("ran ") == 2
    assert "error: fold 2, 2 of 3; complete: 1: it ended with code 2, as said above; the same command" in err
    config = parse_args(["guide", "--folds", "3", "--fold", "2"])
    assert (config.several, config.folds, config.fold) == (None, 3, 2)


# --- labels that are doubted -----------------------------------------------------------------------------------------


def judged(labels: np.ndarray, probabilities: np.ndarray) -> Predictions:
    names = tuple("abcdefgh"[: probabilities.shape[1]])
    logits = np.log(probabilities).astype(np.float32)
    return Predictions(ProblemType.SINGLE_LABEL, names, labels, logits.argmax(axis=1), logits)


def noisy(seed: int, rows: int = 400, classes: int = 4, wrong: int = 20) -> tuple[Predictions, np.ndarray]:
    """What a fair model says of rows, and which of their labels are wrong."""
    draw = np.random.default_rng(seed)
    true = draw.integers(0, classes, rows)
    logits = draw.normal(size=(rows, classes))
    logits[np.arange(rows), true] += 6.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    planted = draw.permutation(rows)[:wrong]
    labels = true.copy()
    labels[planted] = (true[planted] + draw.integers(1, classes, wrong)) % classes
    return judged(labels, probabilities), planted


@pytest.fixture
def without_cleanlab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)


def test_planted_wrong_labels_come_first(without_cleanlab: None) -> None:
    for seed in range(5):
        predictions, planted = noisy(seed)
        doubts = doubt_labels(predictions)
        assert "threshold" in doubts.method
        found = doubts.rows.tolist()
        assert len({*found} & {*planted.tolist()}) >= 15
        assert len(found) <= 40
        assert len({*found[:15]} & {*planted.tolist()}) >= 14
        assert np.all(np.diff(doubts.scores[doubts.rows]) >= 0)
        own = predictions.probabilities()[np.arange(400), predictions.labels]
        assert doubts.scores == pytest.approx(own)


def test_a_row_is_doubted_only_above_the_other_classes_own_mean() -> None:
    """Of `b`, whose rows get 0.9 on average, 0.8 is not sure; of `a`, whose rows get 0.6, it is."""
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9], [0.1, 0.9], [0.8, 0.2]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # a: (0.6 + 0.6 + 0.2) / 3 = 0.467; b: (0.9 + 0.9 + 0.2) / 3 = 0.667
    assert confidently_other(labels, probabilities).tolist() == [False, False, True, False, False, True]
    labels, probabilities = np.delete(labels, 5), np.delete(probabilities, 5, axis=0)  # b: 0.9
    assert confidently_other(labels, probabilities).tolist() == [False] * 5


def test_rows_without_numbers_and_classes_without_rows_are_never_doubted(without_cleanlab: None) -> None:
    predictions, _ = noisy(1)
    predictions.logits[7] = np.nan
    predictions.labels[predictions.labels == 3] = 2
    doubts = doubt_labels(predictions)
    assert 7 not in doubts.rows
    assert np.isnan(doubts.scores[7])
    assert (predictions.predicted[doubts.rows] != 3).all()


def test_several_labels_a_row_are_doubted_label_by_label(without_cleanlab: None) -> None:
    draw = np.random.default_rng(0)
    true = draw.random((300, 3)) < 0.4
    logits = np.where(true, 3.0, -3.0) + draw.normal(size=true.shape)
    labels = true.copy()
    labels[[5, 17], 1] ^= True
    predictions = Predictions(ProblemType.MULTI_LABEL, ("x", "y", "z"), labels, logits > 0, logits.astype(np.float32))
    doubts = doubt_labels(predictions)
    assert {5, 17} <= {*doubts.rows[:4].tolist()}
    expected = np.where(labels, predictions.probabilities(), 1 - predictions.probabilities()).min(axis=1)
    assert doubts.scores == pytest.approx(expected)


def test_of_numbers_the_largest_errors_are_listed() -> None:
    labels = np.arange(50.0)
    predicted = labels.copy()
    predicted[[3, 30]] += [9.0, -20.0]
    predictions = Predictions(ProblemType.REGRESSION, (), labels, predicted, predicted[:, None].astype(np.float32))
    doubts = doubt_labels(predictions)
    assert doubts.rows.tolist() == [30, 3]
    assert doubts.method == "the largest errors"


def test_that_cleanlab_fails_is_said_and_the_threshold_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    import cleanlab.filter

    def fails(*args: Any, **settings: Any) -> None:
        raise ValueError("no such rows")

    monkeypatch.setattr(cleanlab.filter, "find_label_issues", fails)
    doubts = doubt_labels(noisy(0)[0])
    assert "ValueError: no such rows" in doubts.method
    assert len(doubts.rows) > 10


def test_the_threshold_is_cleanlabs_confident_learning() -> None:
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    from cleanlab.filter import find_label_issues

    for seed in range(10):
        predictions, planted = noisy(seed, classes=2 + seed % 4)
        theirs = find_label_issues(
            predictions.labels, predictions.probabilities(), filter_by="confident_learning", n_jobs=1
        )
        assert confidently_other(predictions.labels, predictions.probabilities()).tolist() == theirs.tolist()
        doubts = doubt_labels(predictions)
        assert doubts.method.startswith("cleanlab ")
        assert len({*doubts.rows[:10].tolist()} & {*planted.tolist()}) >= 9


# --- the folds together ----------------------------------------------------------------------------------------------


def left_by_folds(root: Path, kind: str = "single_label_classification", classes: int = 2, rows: int = 60) -> Path:
    """What three folds leave, of rows dealt in turn; the rows 11 and 42 have a label that is wrong."""
    draw = np.random.default_rng(0)
    names = [f"class {i}" for i in range(classes)] if kind != "regression" else []
    texts = [f"text {row}" for row in range(1, rows + 1)]
    true = np.arange(rows) % max(classes, 1)
    logits = draw.normal(size=(rows, max(classes, 1))) * 0.5
    if kind == "regression":
        label = logits[:, 0] + draw.normal(size=rows) * 0.1
        label[[10, 41]] += 9
        columns: dict[str, Any] = {"label": label.astype(np.float32), "prediction": logits[:, 0].astype(np.float32)}
    elif kind == "multi_label_classification":
        hot = draw.random((rows, classes)) < 0.5
        logits += np.where(hot, 4.0, -4.0)
        wrong = hot.copy()
        wrong[[10, 41], 0] ^= True
        lists = [[[names[i] for i in np.flatnonzero(row)] for row in each] for each in (wrong, logits > 0)]
        columns = {
            name: pa.array(each, pa.list_(pa.string()))
            for name, each in zip(("label", "prediction"), lists, strict=True)
        }
    else:
        logits[np.arange(rows), true] += 5.0
        predicted = logits.argmax(axis=1)
        true[[10, 41]] = (predicted[[10, 41]] + 1) % classes
        columns = {"label": np.asarray(names, object)[true], "prediction": np.asarray(names, object)[predicted]}
        columns["score"] = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float32).reshape(-1)), logits.shape[1])
    whole = pa.table({"row": np.arange(1, rows + 1), "text": texts, **columns, "logits": flat})
    for fold in (1, 2, 3):
        folder = left_by_a_run(root / f"fold-{fold}", kind, classes, 5, sets=("validation",))
        part = whole.take(np.arange(fold - 1, rows, 3))
        pq.write_table(part, folder / "validation_predictions.parquet")
        facts = json.loads((folder / "ftloop_run.json").read_text())
        facts["data"]["labels"] = names
        held_out = {"rows": part.num_rows, "truncated": 0, "labels": {}}
        facts["data"]["sets"] = {"train": held_out | {"rows": rows - part.num_rows}, "validation": held_out}
        facts["data"]["sets"]["validation"]["in_train"] = fold
        (folder / "ftloop_run.json").write_text(json.dumps(facts))
        with_settings(folder, folds=3, fold=fold, output_dir=str(folder), model_name_or_path="bert")
        score = "eval_mse" if kind == "regression" else "eval_accuracy"
        (folder / "all_results.json").write_text(json.dumps({score: 0.8 + fold / 100, "eval_loss": 0.5}))
    return root


def spoil(path: Path, number: float) -> None:
    """Make a number of each row's prediction and logit."""
    table = pq.read_table(path)
    flat = pa.array(np.full(table.num_rows, number, np.float32))
    table = table.set_column(table.column_names.index("prediction"), "prediction", flat)
    logits = pa.FixedSizeListArray.from_arrays(flat, 1)
    pq.write_table(table.set_column(table.column_names.index("logits"), "logits", logits), path)


def with_settings(folder: Path, processes: int = 1, **settings: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["digest"]
    config = manifest["config"] | settings
    write_manifest(folder, manifest | {"config": config, "num_processes": processes})


def test_the_rows_of_all_folds_are_written_in_the_files_order(
    tmp_path: Path, without_cleanlab: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = left_by_folds(tmp_path / "out")
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert said.startswith(f"Folds     3 runs in {root}\n")
    assert "95 %" not in said
    assert re.search(r"^fold +loss +accuracy$", said, re.MULTILINE)
    assert re.search(r"^mean +0\.5000 +0\.8200$", said, re.MULTILINE)
    table = pq.read_table(root / "out_of_fold_predictions.parquet")
    assert table.column_names == [
        *("row", "fold", "text", "label", "prediction", "score", "probabilities", "label_score", "doubted", "logits")
    ]
    assert table["row"].to_pylist() == list(range(1, 61))
    assert table["fold"].to_pylist() == [1, 2, 3] * 20
    assert table["text"].to_pylist() == [f"text {row}" for row in range(1, 61)]
    assert np.sum(table["probabilities"].to_pylist(), axis=1) == pytest.approx(np.ones(60))
    doubted = table.filter(table["doubted"])
    assert {11, 42} <= {*doubted["row"].to_pylist()}
    right = np.mean([row["label"] == row["prediction"] for row in table.to_pylist()])
    assert f"each by the model that was not trained on it: accuracy={right:.4f}" in said
    assert "Repeated  6 of 60 rows have the texts of rows that their model was trained on" in said
    method = "by the threshold of confident learning, without cleanlab, the least likely first"
    assert re.search(rf"Doubted   \d labels? of 60, {method}\n          row (11|42) is 'class", said)
    found = json.loads((root / "folds.json").read_text())
    assert found["folds"] == [1, 2, 3]
    assert found["out_of_fold"]["metrics"]["accuracy"] == pytest.approx(right)
    assert found["together"]["eval_accuracy"]["low"] is None


def test_on_a_terminal_what_the_folds_say_is_broken_between_words(
    tmp_path: Path, without_cleanlab: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    root = left_by_folds(tmp_path / "out")
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, (line for line in lines if str(root) not in line))) <= 80
    assert any(line.startswith("Doubted   2 labels of 60, by the threshold of confident") for line in lines)


def test_folds_of_other_rows_and_missing_ones_give_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = left_by_folds(tmp_path / "out")
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    rows = root / "out_of_fold_predictions.parquet"
    assert rows.is_file()
    (root / "fold-2").rename(tmp_path / "aside")
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert "Left out  out_of_fold_predictions.parquet: 1 fold of 3 is missing: 2" in capsys.readouterr().out
    assert not rows.exists(), "it would be that of earlier folds"
    (tmp_path / "aside").rename(root / "fold-2")
    facts = json.loads((root / "fold-2" / "ftloop_run.json").read_text())
    facts["data"]["sets"]["train"]["rows"] += 1
    (root / "fold-2" / "ftloop_run.json").write_text(json.dumps(facts))
    assert read_seeds(root).dropped == {"fold-2": "differs from the others in the data"}
    facts["data"]["sets"]["train"]["rows"] -= 1
    (root / "fold-2" / "ftloop_run.json").write_text(json.dumps(facts))
    (root / "fold-2" / "validation_predictions.parquet").write_bytes(
        (root / "fold-1" / "validation_predictions.parquet").read_bytes()
    )
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert "row 1 is in several folds: these were cut from other rows" in capsys.readouterr().out
    with_settings(root / "fold-3", fold=1)
    assert read_seeds(root).dropped == {"fold-3": "trained with fold 1"}


@pytest.mark.parametrize("name", ["of_fold", "fold", "doubted"])
def test_a_text_column_may_have_any_name(name: str, tmp_path: Path) -> None:
    root = left_by_folds(tmp_path / "out")
    for fold in (1, 2, 3):
        path = root / f"fold-{fold}" / "validation_predictions.parquet"
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([name if each == "text" else each for each in table.column_names]), path)
        facts = json.loads((root / f"fold-{fold}" / "ftloop_run.json").read_text())
        facts["data"]["text_columns"] = [name]
        (root / f"fold-{fold}" / "ftloop_run.json").write_text(json.dumps(facts))
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    rows = pq.read_table(root / "out_of_fold_predictions.parquet").to_pylist()
    assert [row["row"] for row in rows] == [*range(1, 61)]
    assert [row["fold"] for row in rows] == [1, 2, 3] * 20
    assert [row[name if name == "of_fold" else f"{name}_text"] for row in rows] == [f"text {i}" for i in range(1, 61)]


def test_doubts_of_models_that_know_nothing_are_said_to_mean_little(
    tmp_path: Path, without_cleanlab: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root, told = left_by_folds(tmp_path / "out"), "no better than one answer to all"
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert told not in capsys.readouterr().out
    for fold in (1, 2, 3):
        path = root / f"fold-{fold}" / "validation_predictions.parquet"
        table = pq.read_table(path)
        is_first = np.asarray(table["label"].to_pylist(), object) == "class 0"
        logits = np.column_stack([~is_first, is_first]).astype(float)  # wrong in every row
        names = np.asarray(["class 0", "class 1"], object)[logits.argmax(axis=1)]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float32).reshape(-1)), 2)
        table = table.set_column(table.column_names.index("logits"), "logits", flat)
        pq.write_table(table.set_column(table.column_names.index("prediction"), "prediction", pa.array(names)), path)
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert told in capsys.readouterr().out


def test_folds_are_not_compared_and_not_mixed_with_seeds(tmp_path: Path) -> None:
    runs = read_seeds(left_by_folds(tmp_path / "out"))
    with pytest.raises(UserError, match="folds are not compared"):
        compare_seeds(runs, runs)
    left_by_a_run(tmp_path / "out" / "seed-1", "single_label_classification", 2, 5)
    with pytest.raises(UserError, match="seed-N and fold-N are both in it"):
        read_seeds(tmp_path / "out")


# --- the page and the list -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "classes"),
    [("single_label_classification", 3), ("multi_label_classification", 3), ("regression", 0)],
)
def test_the_page_of_folds_lists_the_doubted_rows_first_the_worst(
    kind: str,
    classes: int,
    tmp_path: Path,
    without_cleanlab: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    root = left_by_folds(tmp_path / "out", kind, classes)
    assert report_main([str(root)]) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert f"seeds {root} makes it of those that have ended" in told
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert report_main([str(root / "fold-1")]) == ExitCode.DONE
    assert report_main([str(root)]) == ExitCode.DONE
    made = json.loads((root / "report" / "report.json").read_text())
    assert {each["row"] for each in made["series"]["doubts"][:2]} == {11, 42}
    assert made["series"]["doubts"][0]["texts"] == {"text": f"text {made['series']['doubts'][0]['row']}"}
    assert made["sets"]["out-of-fold"]["rows"] == 60
    assert "--folds 3" in made["command"]
    assert "--fold " not in made["command"]
    page = (root / "report" / "report.html").read_text()
    assert '<a href="../fold-1/report/report.html">1</a>' in page
    assert "fold-2/report" not in page
    assert page.index("row 11, fold 2:") < page.index("All folds together")
    assert "6 rows have the texts of rows that their model was trained on" in page
    assert report_main([str(root), "--set", "test"]) == ExitCode.USER_ERROR
    assert f"name one of its runs, such as {root}/fold-1" in capsys.readouterr().err


def test_folds_whose_models_predict_no_numbers_have_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    root = left_by_folds(tmp_path / "out", "regression", 0)
    spoil(root / "fold-2" / "validation_predictions.parquet", np.nan)
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert report_main([str(root)]) == ExitCode.DONE
    doubts = json.loads((root / "report" / "report.json").read_text())["series"]["doubts"]
    assert doubts
    assert {each["fold"] for each in doubts} == {1, 3}
    for fold in (1, 3):
        spoil(root / f"fold-{fold}" / "validation_predictions.parquet", np.nan)
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert report_main([str(root)]) == ExitCode.DONE
    assert json.loads((root / "report" / "report.json").read_text())["series"]["doubts"] == []
    page = (root / "report" / "report.html").read_text()
    assert "Labels farthest from what the folds predict" in page
    assert "every row is predicted right" not in page


def test_a_fold_that_was_complete_may_have_another_format_of_predictions(tmp_path: Path) -> None:
    root = left_by_folds(tmp_path / "out", "multi_label_classification", 3)
    path = root / "fold-1" / "validation_predictions.parquet"
    lines = "".join(json.dumps(row) + "\n" for row in pq.read_table(path).to_pylist())
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    before = pq.read_table(root / "out_of_fold_predictions.parquet")
    path.unlink()
    path.with_suffix(".jsonl").write_text(lines)
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert pq.read_table(root / "out_of_fold_predictions.parquet").to_pylist() == before.to_pylist()


def test_the_page_names_what_is_dropped_and_what_gave_one_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    root = left_by_folds(tmp_path / "out")
    (root / "fold-3" / "all_results.json").unlink()
    path = root / "fold-2" / "validation_predictions.parquet"
    table = pq.read_table(path)
    answer = pa.array(["class 1"] * table.num_rows)
    pq.write_table(table.set_column(table.column_names.index("prediction"), "prediction", answer), path)
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    assert report_main([str(root)]) == ExitCode.DONE
    page = (root / "report" / "report.html").read_text()
    assert "Not in this report: fold-3: not finished." in page
    assert "1 of 2 runs gives one answer to all rows, &#39;class 1&#39;: fold 2." in page
    assert "<code>ftloop train stable</code> are made against that." in page


@pytest.mark.parametrize("kind", ["fold", "seed"])
def test_runs_of_several_processes_have_a_command_each(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command for all is refused where several processes are started."""
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    for number in (1, 2):
        folder = left_by_a_run(tmp_path / f"{kind}-{number}", "single_label_classification", 2, 20)
        own = {"folds": 2, "fold": number} if kind == "fold" else {"seed": number}
        with_settings(folder, processes=2, model_name_or_path="bert", output_dir=str(folder), **own)
    assert ftloop.seeds.__main__.main([str(tmp_path)]) == ExitCode.DONE
    assert report_main([str(tmp_path)]) == ExitCode.DONE
    made = json.loads((tmp_path / "report" / "report.json").read_text())
    assert kind not in made["settings"]
    commands = shlex.split(made["command"].replace("\\\n", " "))
    starts = [place for place, word in enumerate(commands) if word == "torchrun"]
    assert len(starts) == 2
    for number, start in enumerate(starts, 1):
        words = commands[start : starts[1] if number == 1 else None]
        config = parse_args([word for word in words[words.index("ftloop.train") + 1 :] if "=" not in word])
        assert config.several is None
        assert (config.output_dir, getattr(config, kind)) == (f"{tmp_path}-again/{kind}-{number}", number)


def test_a_page_of_a_table_that_is_out_of_date_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = left_by_folds(tmp_path / "out")
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    (root / "fold-2" / "all_results.json").write_text(json.dumps({"eval_accuracy": 0.1, "eval_loss": 0.5}))
    assert report_main([str(root)]) == ExitCode.USER_ERROR
    assert f"{root / 'fold-2'} has other scores by now; " in capsys.readouterr().err
    (root / "folds.json").write_text('{"folds": [1]}')
    assert report_main([str(root)]) == ExitCode.USER_ERROR
    assert "folds.json: not readable as a table" in capsys.readouterr().err


def test_the_page_of_seeds_has_the_table_and_leads_to_each_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    for seed in (1, 2, 3):
        folder = left_by_a_run(tmp_path / f"seed-{seed}", "single_label_classification", 2, 20)
        with_settings(folder, seed=seed, model_name_or_path="bert")
    assert ftloop.seeds.__main__.main([str(tmp_path)]) == ExitCode.DONE
    assert report_main([str(tmp_path / "seed-2")]) == ExitCode.DONE
    assert report_main([str(tmp_path)]) == ExitCode.DONE
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<a href="../seed-2/report/report.html">2</a>' in page
    assert "95 % from" in page
    assert "--seeds 1 2 3" in json.loads((tmp_path / "report" / "report.json").read_text())["command"]


def test_the_page_on_another_drive_leads_to_each_report_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    for seed in (42, 43):
        folder = left_by_a_run(tmp_path / f"seed-{seed}", "single_label_classification", 2, 20)
        with_settings(folder, seed=seed, model_name_or_path="bert")
    assert ftloop.seeds.__main__.main([str(tmp_path)]) == ExitCode.DONE
    assert report_main([str(tmp_path / "seed-43")]) == ExitCode.DONE

    def on_another_drive(*_: Any) -> str:
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("ftloop.report.together.os.path.relpath", on_another_drive)
    assert report_main([str(tmp_path)]) == ExitCode.DONE
    link = (tmp_path / "seed-43" / "report" / "report.html").resolve().as_uri()
    assert f'<a href="{link}">43</a>' in (tmp_path / "report" / "report.html").read_text()
    assert report_main([str(tmp_path), "--set", "test"]) == ExitCode.USER_ERROR
    assert f"name one of its runs, such as {tmp_path}/seed-42" in capsys.readouterr().err


def test_the_list_of_runs_has_a_line_for_the_mean_of_folds(tmp_path: Path) -> None:
    left_by_folds(tmp_path / "a")
    left_by_a_run(tmp_path / "b", "single_label_classification", 2, 5)
    table = read_runs(tmp_path)
    assert list(table.rows) == ["a/fold-1", "a/fold-2", "a/fold-3", "a: mean of 3 folds", "b"]
    mean = table.rows["a: mean of 3 folds"]
    assert (mean["eval_accuracy"], mean["fold"], mean["folds"]) == (pytest.approx(0.82), None, 3)
    assert table.count == 4
    assert list(read_runs(tmp_path / "a").rows)[-1] == "a: mean of 3 folds"


# --- the command -----------------------------------------------------------------------------------------------------


def words(tiny_folder: Path, output_dir: Path, folds: int = 3) -> list[str]:
    flags = {
        "model_name_or_path": str(tiny_folder / "model"),
        "train_file": str(tiny_folder / "train.jsonl"),
        "output_dir": str(output_dir),
        "resume_from_checkpoint": "last",
        "folds": str(folds),
        "disable_tqdm": "true",
        "use_cpu": "true",
    }
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def test_folds_of_a_real_training_hold_each_row_out_once(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "out"
    short = ["--max_steps", "2"]
    for fold in (1, 2, 3):
        argv = [*words(tiny_folder, root / f"fold-{fold}"), *short, "--fold", str(fold)]
        assert main(argv) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Split     validation: fold 2 of 3, 10 of 29 training rows, class by class, by seed 42\n" in said
    assert ftloop.seeds.__main__.main([str(root)]) == ExitCode.DONE
    table = pq.read_table(root / "out_of_fold_predictions.parquet").to_pylist()
    given = [json.loads(line) for line in (tiny_folder / "train.jsonl").read_text().splitlines()]
    assert [row["row"] for row in table] == list(range(1, 30))
    assert [row["sentence1"] for row in table] == [row["sentence1"] for row in given]
    assert {row["fold"] for row in table} == {1, 2, 3}
    assert main([*words(tiny_folder, root / "fold-1"), *short, "--fold", "1"]) == ExitCode.DONE
    assert "Finished  already" in capsys.readouterr().out


@pytest.mark.slow
def test_stopped_and_killed_folds_end_as_if_they_were_not(tiny_folder: Path, tmp_path: Path) -> None:
    longer = ["--max_steps", "100", "--logging_steps", "10", "--save_steps", "50", "--save_total_limit", "1"]
    out = tmp_path / "out"
    argv = [*words(tiny_folder, out, 2), *longer]
    stopped = Started(argv)
    stopped.until("Fold      2, 2 of 2 (1, 2)")
    stopped.until("Update 20/")
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.end() == ExitCode.STOPPED, stopped.said
    assert "Stopped   in fold 2, 2 of 2; complete: 1; the same command with --resume_from" in stopped.said
    assert not (out / "folds.json").exists()
    killed = Started(argv)
    killed.until("Resuming  after update")
    killed.until("Update ")
    assert "Finished  already" in killed.said
    os.kill(killed.child(), signal.SIGKILL)
    assert killed.end() == ExitCode.FAILED, killed.said
    ended = Started(argv)
    assert ended.end() == ExitCode.DONE, ended.said
    assert f"report {out}\n" in ended.said
    names = ("out_of_fold_predictions.parquet", "folds.json")
    files, left = [(out / name).read_bytes() for name in names], [what_is_left(out / f"fold-{fold}") for fold in (1, 2)]
    shutil.rmtree(out)
    assert main(argv) == ExitCode.DONE
    assert [(out / name).read_bytes() for name in names] == files
    for fold in (1, 2):
        assert difference(what_is_left(out / f"fold-{fold}"), left[fold - 1]) is None
