"""The report of a finished run: what is in it, and that nothing of it is fetched, run or obeyed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.finished_runs import left_by_a_run
from harness.html_page import Page, read_inert

from ftloop.config.command_line import parse_args
from ftloop.config.reproduce import non_default_settings, reproducing_command, shell_line
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, UserError
from ftloop.job.finish import report_at_the_end
from ftloop.report import report
from ftloop.report.__main__ import main as report_main
from ftloop.report.calibrate import main as calibrate_main
from ftloop.report.html import render_page
from ftloop.report.outcome import read_finished_run, read_predictions
from ftloop.system.atomic import commit_folder
from ftloop.train import main

KINDS = [
    ("single_label_classification", 2, 40),
    ("single_label_classification", 150, 300),
    ("single_label_classification", 5, 40),
    ("regression", 0, 40),
    ("multi_label_classification", 3, 40),
]


@pytest.mark.parametrize(
    ("kind", "count", "rows"), [*KINDS, ("single_label_classification", 3, 1), ("regression", 0, 1)]
)
def test_a_page_is_whole_fetches_nothing_and_obeys_no_text(
    kind: str, count: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        report, "_draw_figures", lambda *_: {"light": {"test_roc": b"png"}, "dark": {"test_roc": b"png"}}
    )
    folder = left_by_a_run(tmp_path / "run", kind, count, rows)
    written = report.write_report(report.make_report(read_finished_run(folder)), folder / "report")
    text = written.read_text(encoding="utf-8")
    page = read_inert(text)
    shown = "".join(page.texts)
    if kind == "single_label_classification" and count == 5:
        assert "<script>alert(2)</script>" in shown
        assert "名前 \\u202e x" in shown
    if kind == "regression" and rows > 1:
        assert "</style><img src=http://x/y onerror=alert(1)>" in shown
    assert max(map(len, page.texts)) < 600  # of ten thousand characters of a text, the first
    numbers = json.loads((folder / "report" / "report.json").read_text(), parse_constant=pytest.fail)  # NaN, Infinity
    assert list(numbers["sets"]) == ["test", "validation"]
    assert numbers["sets"]["test"]["rows"] == rows


def test_a_page_fits_a_phone() -> None:
    """By what its style says; what a browser makes of it was looked at by eye and measured, at 320 to 1280 pixels."""
    style = (Path(report.__file__).parent / "templates" / "style.css").read_text()
    empty = {"sets": {}, "facts": {}, "advice": [], "missing": [], "settings": {}, "speed": {}, "name": "x"}
    history = {"training": {}, "evaluation": {}, "best": None, "updates": 1}
    text = render_page(empty | {"history": history, "command": None}, {})
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    fixed = [int(size) for size in re.findall(r"(?<!max-)width: (\d+)px", style.replace("(max-width: 480px)", ""))]
    fixed += [16 * float(size) for size in re.findall(r"min-width: ([\d.]+)rem", style)]
    assert fixed
    assert max(fixed) <= 300
    assert style.strip() in text
    assert "overflow-x: auto" in style
    assert "prefers-color-scheme: dark" in style
    assert re.search(r"img \{ max-width: 100%", style)


def test_mistakes_are_listed_most_confident_first(tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 60)
    found = report.make_report(read_finished_run(folder))["sets"]["test"]["mistakes"]
    rows = read_predictions(folder / "test_predictions.parquet").to_pylist()
    wrong = [(i, row) for i, row in enumerate(rows) if row["label"] != row["prediction"]]
    assert len(found) == min(len(wrong), report.MAX_MISTAKES)
    sure = {i + 1: 1 / (1 + np.exp(-abs(row["logits"][0] - row["logits"][1]))) for i, row in wrong}
    assert [each["row"] for each in found] == sorted(sure, key=lambda i: -sure[i])[: len(found)]
    # float64 here, by another formula
    assert [each["probability"] for each in found] == pytest.approx([sure[each["row"]] for each in found])
    for each in found:
        row = rows[each["row"] - 1]
        assert (each["label"], each["prediction"]) == (row["label"], row["prediction"])
        assert each["texts"]["text"][:2000] == row["text"][:2000]
        assert len(each["texts"]["text"]) < 2100
    assert any(len(row["text"]) > 2100 for row in rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_no_mistakes_and_leave_a_page(bad: float, tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "regression", 0, 10)
    for name, rows in (("test", 3), ("validation", 10)):
        path = folder / f"{name}_predictions.parquet"
        table = read_predictions(path)
        flat = table["prediction"].to_numpy().copy()
        flat[:rows] = bad
        table = table.set_column(table.column_names.index("prediction"), "prediction", pa.array(flat))
        logits = pa.FixedSizeListArray.from_arrays(pa.array(flat), 1)
        pq.write_table(table.set_column(table.column_names.index("logits"), "logits", logits), path)
    made = report.make_report(read_finished_run(folder))
    assert sorted(each["row"] for each in made["sets"]["test"]["mistakes"]) == [4, 5, 6, 7, 8, 9, 10]
    assert made["sets"]["validation"]["mistakes"] == []
    page = render_page(made, {})
    assert "Of 10 rows the model gave no finite numbers" in page
    assert "every row is predicted right" not in page


def test_the_best_evaluation_is_marked_and_nan_is_none(tmp_path: Path) -> None:
    made = report.make_report(read_finished_run(left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)))
    assert made["history"]["best"] == {"update": 10, "value": 0.5, "metric": "loss"}
    assert made["history"]["evaluation"] == {"loss": [[10, 1.0, 0.5], [20, 2.0, 1.0]]}
    assert made["history"]["training"]["grad_norm"] == [[10, 1.0, None], [20, 2.0, None]]
    assert made["speed"]["tokens_per_second"] == 320.0
    assert '<b class="good">best</b>' in report_page(made)


@pytest.mark.parametrize(("count", "is_many"), [(3, False), (20, True)])
def test_the_confusion_matrix_has_numbered_columns(count: int, is_many: bool, tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", count, 300)
    made = report.make_report(read_finished_run(folder))
    page = render_page(made, {})
    (matrix,) = re.findall(r'<table class="matrix.*?</table>', page, re.DOTALL)[:1]
    assert re.findall(r'<th scope="col"[^>]*>(\d+)</th>', matrix) == [str(number + 1) for number in range(count)]
    assert len(re.findall(r'<th scope="row">', matrix)) == count
    cells = [text.strip() for text in re.findall(r"<td[^>]*>([^<]*)", matrix)]
    counts = [each for row in made["sets"]["test"]["confusion"]["counts"] for each in row]
    assert cells == ["" if is_many and not each else str(each) for each in counts]
    assert ("<small>" in matrix) != is_many


def test_the_page_explains_baseline_and_missing_intervals(tmp_path: Path) -> None:
    made = report.make_report(read_finished_run(left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)))
    assert "; as probabilities it gives each class its share. The interval" in report_page(made)
    assert "2,000 resamples of the rows. The calibration error has none" in report_page(made)
    numbers = report.make_report(read_finished_run(left_by_a_run(tmp_path / "numbers", "regression", 0, 20)))
    assert "as probabilities" not in report_page(numbers)
    assert "calibration error" not in report_page(numbers)


def test_a_decision_that_was_fitted_is_in_the_report(tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 200)
    assert "Decision fitted" not in report_page(report.make_report(read_finished_run(folder)))
    assert calibrate_main([str(folder)]) == ExitCode.DONE
    fitted = json.loads((folder / "decision.json").read_text())
    made = report.make_report(read_finished_run(folder))
    assert made["decision"]["temperature"] == fitted["temperature"]
    shown = "".join(Page(report_page(made)).texts)
    assert f"Temperature {fitted['temperature']:.4g}, threshold of" in shown
    assert "fitted for F1 to 200 rows of the validation set" in " ".join(shown.split())
    for name in ("before", "after"):
        assert f"{fitted[name]['f1']['value']:.4f}" in shown
    (folder / "decision.json").write_text("{}")
    with pytest.raises(UserError, match=r"decision\.json: not readable"):
        report.make_report(read_finished_run(folder))


def test_a_flag_is_never_broken_after_its_hyphens(tmp_path: Path) -> None:
    made = report.make_report(read_finished_run(left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)))
    made["advice"] = [{"topic": "padding", "text": "Try <b> --padding none, or --batching length_grouped"}]
    text = report_page(made)
    Page(text)
    style = (Path(report.__file__).parent / "templates" / "style.css").read_text()
    assert ".flag { white-space: nowrap; }" in style
    advised = re.findall(r"<p>Try .*</p>", text)
    kept = '<span class="flag">--padding</span> none, or <span class="flag">--batching</span> length_grouped'
    assert advised == [f"<p>Try &lt;b&gt; {kept}</p>"]
    command = text.partition("<pre>")[2].partition("</pre>")[0]
    assert command.count("--") == command.count('<span class="flag">--') > 5


def report_page(made: dict[str, object]) -> str:
    return render_page(made, {})


def test_a_run_from_python_has_a_report_that_names_what_it_lacks(tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20, sets=())
    for name in ("ftloop_run.json", "ftloop_manifest.json", "all_results.json"):
        (folder / name).unlink()
    made = report.make_report(read_finished_run(folder))
    assert made["sets"] == {}
    assert made["command"] is None
    assert len(made["missing"]) == 2
    assert "ftloop_run.json" in made["missing"][0]
    assert "no predictions of a labelled set" in made["missing"][1]
    page = "".join(Page(report_page(made)).texts)
    assert "Not in this report: the model and its data" in page
    assert "Training" in page


def test_the_command_names_what_a_report_lacks_and_the_run_to_name_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20, sets=())
    assert report_main([str(folder), "--set", "test"]) == ExitCode.DONE
    assert "Missing   scores, tables and curves of single rows" in capsys.readouterr().out
    checkpoint = tmp_path / "run" / "checkpoint-4"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    assert report_main([str(checkpoint)]) == ExitCode.USER_ERROR
    assert f"{checkpoint} is a checkpoint; name the output_dir of its run, {folder}" in capsys.readouterr().err
    assert report_main([str(tmp_path)]) == ExitCode.USER_ERROR
    assert f"name a run's output_dir, such as {folder}" in capsys.readouterr().err
    (folder / "trainer_state.json").unlink()  # a run that was stopped: what its checkpoint has logged
    assert report_main([str(checkpoint)]) == ExitCode.DONE
    assert "Missing   the model and its data" in capsys.readouterr().out
    assert not (checkpoint / "README.md").exists()


def test_the_same_files_give_the_same_report(tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 3, 30)
    first, second = (report.make_report(read_finished_run(folder)) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert list(report.make_report(read_finished_run(folder), "validation")["sets"]) == ["validation"]
    (folder / "test_predictions.parquet").unlink()
    assert "named test" in report.make_report(read_finished_run(folder), "test")["missing"][0]


def test_without_matplotlib_there_is_a_report_without_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ftloop.report.plots", None)
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)
    assert report_main([str(folder)]) == ExitCode.DONE
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "Report    without figures: matplotlib is not installed; pip install 'ftloop[plots]'",
        f"Report    {folder / 'report' / 'report.html'}",
        f"Card      {folder / 'README.md'}",
    ]
    assert {path.name for path in (folder / "report").iterdir()} == {"report.json", "report.html"}
    assert "Areas under the curves" in (folder / "report" / "report.html").read_text()


def test_a_report_replaces_a_report_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)
    (folder / ".staging-checkpoint-7").mkdir()  # of a run that is saving at this moment
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert report_main([str(folder), "--output", str(other)]) == ExitCode.USER_ERROR
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    assert "holds other files than a report" in capsys.readouterr().err
    (folder / ".staging-report-999999999").mkdir()  # of one that was killed
    for _ in range(2):
        assert report_main([str(folder)]) == ExitCode.DONE
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == {".staging-checkpoint-7"}
    assert report_main([str(tmp_path / "nowhere")]) == ExitCode.USER_ERROR
    assert "no folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert report_main([str(tmp_path / "file")]) == ExitCode.USER_ERROR
    assert "file is a file: name the output_dir of a finished run" in capsys.readouterr().err


def test_predictions_of_another_run_are_refused(tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)
    shutil.copy(
        left_by_a_run(tmp_path / "b", "single_label_classification", 3, 20) / "test_predictions.parquet", folder
    )
    with pytest.raises(UserError, match=r"test_predictions\.parquet: not the predictions of this run"):
        report.make_report(read_finished_run(folder))
    table = pq.read_table(folder / "validation_predictions.parquet").drop_columns(["logits"])
    pq.write_table(table, folder / "test_predictions.parquet")
    with pytest.raises(UserError, match=r"test_predictions\.parquet: not the predictions of this run"):
        report.make_report(read_finished_run(folder))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_given_makes_the_same_configuration(processes: int) -> None:
    config = TrainConfig(
        output_dir="a folder/with 'quotes'",
        model_name_or_path="bert",
        sample_texts=["it's $HOME", "-- two"],
        lr_scheduler_kwargs={"num_cycles": 2},
        warmup_ratio=0.1,
        pad_to_max_length=True,
        max_seq_length=64,
        load_best_model_at_end=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        keep_freed_memory=False,
        max_steps=7,
    )
    of_this_start: dict[str, Any] = {"resume_from_checkpoint": "last", "explain": 2, "disable_tqdm": True}
    of_this_start |= {"record": "a.jsonl", "record_full": True, "max_train_seconds": 60, "report": True}
    started = replace(config, **of_this_start)
    words = reproducing_command(started.to_dict(), processes, {"name": "cpu", "precision": "bf16", "threads": 3})
    typed = shlex.split(shell_line(words).replace("\\\n", " "))
    flags = typed[typed.index("ftloop.train") + 1 :]
    again = parse_args(flags).to_dict()
    assert again == config.to_dict() | {"output_dir": f"{config.output_dir}-again"}
    assert typed[:1] == ["OMP_NUM_THREADS=3"]
    assert "ACCELERATE_MIXED_PRECISION=bf16" in typed
    assert ("torchrun" in typed) == (processes == 2)
    assert ("ACCELERATE_USE_CPU=true" in typed) == (processes == 2)
    # What follows from other settings is not said again.
    assert not {"padding", "metric_for_best_model", "greater_is_better"} & non_default_settings(config.to_dict()).keys()


@pytest.mark.slow
def test_figures_are_drawn_of_every_kind_whatever_the_names(tmp_path: Path) -> None:
    from ftloop.report.plots import draw_all

    drawn: set[str] = set()
    for kind, count, rows in KINDS:
        folder = left_by_a_run(tmp_path / f"{kind}{count}", kind, count, rows, sets=("test",))
        images = draw_all(report.make_report(read_finished_run(folder)), "dark")
        assert all(image.startswith(b"\x89PNG") for image in images.values())
        drawn |= images.keys()
    assert drawn == {
        *("loss", "learning_rate", "grad_norm", "test_confusion", "test_roc", "test_pr", "test_calibration"),
        *("test_scatter", "test_residuals"),
    }


def test_a_report_that_fails_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "make_report", lambda *_: 1 / 0)
    folder = left_by_a_run(tmp_path / "my run", "single_label_classification", 2, 20)
    report_at_the_end(TrainConfig(output_dir=str(folder), report=True))
    said, _, command = capsys.readouterr().out.rstrip().partition("; try ")
    assert said == "Report    could not be made (ZeroDivisionError: division by zero)"
    assert shlex.split(command)[-3:] == ["report", str(folder), "--traceback"]
    assert not (folder / "report").exists()


@pytest.mark.slow
def test_report_when_training_is_written_and_in_tensorboard(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output_dir, board = tmp_path / "out", tmp_path / "board"
    words = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    words += ["--model_name_or_path", str(tiny_folder / "model"), "--use_cpu", "--eval_strategy", "epoch"]
    words += ["--logging_steps", "2", "--output_dir", str(output_dir), "--report", "--disable_tqdm"]
    words += ["--resume_from_checkpoint", "last", "--logging_dir", str(board)]
    assert main(words) == ExitCode.DONE
    said = capsys.readouterr().out
    assert f"Report    {output_dir / 'report' / 'report.html'}\n" in said
    names = {path.name for path in (output_dir / "report").iterdir()}
    assert {"report.json", "report.html", "loss.png", "test_confusion.png"} <= names
    made = json.loads((output_dir / "report" / "report.json").read_text())
    results = json.loads((output_dir / "all_results.json").read_text())
    assert made["sets"]["test"]["metrics"]["accuracy"]["value"] == results["test_accuracy"]

    read: dict[str, set[str]] = {}
    for file in board.iterdir():
        events = EventAccumulator(str(file), {"tensors": 0}).Reload()
        for kind in ("scalars", "images", "tensors"):
            read.setdefault(kind, set()).update(events.Tags()[kind])
        if "train/padding_share" in events.Tags()["scalars"]:
            shares = [event.value for event in events.Scalars("train/padding_share")]
            assert len(shares) == 6
            assert all(0 < share < 1 for share in shares)
            assert all(event.value > 0 for event in events.Scalars("train/tokens_per_second"))
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "eval/loss", "test/accuracy"} <= read["scalars"]
    assert {"report/test_confusion", "report/loss"} <= read["images"]
    assert {"test/1", "validation/1", "args/text_summary"} <= read["tensors"]
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    assert not any("padding_share" in line or "tokens_per_second" in line for line in history)

    # Killed before it was made, it is made by the same command; a complete run is not touched.
    shutil.rmtree(output_dir / "report")
    assert main(words) == ExitCode.DONE
    assert (output_dir / "report" / "report.html").is_file()
    before = (output_dir / "report" / "report.html").stat().st_mtime_ns
    assert main(words) == ExitCode.DONE
    assert (output_dir / "report" / "report.html").stat().st_mtime_ns == before


def test_a_report_that_could_not_be_put_in_place_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tries = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20), []

    def fails_once(staging: Path, final: Path) -> None:
        tries.append(staging)
        if len(tries) == 1:
            raise OSError(5, "Input/output error")
        commit_folder(staging, final)

    monkeypatch.setattr(report, "_draw_figures", lambda *_: {})
    monkeypatch.setattr(report, "commit_folder", fails_once)
    assert report_main([str(folder)]) == ExitCode.DONE
    assert len(tries) == 2
    assert (folder / "report" / "report.html").is_file()
    assert not list(folder.glob(".staging-*"))
