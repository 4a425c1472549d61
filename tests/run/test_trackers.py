"""Experiment trackers get the log under Trainer's tags, by Accelerate's interface, and cannot end a training."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from harness.command import python, run
from harness.prepared_runs import prepared
from torch.utils.tensorboard import SummaryWriter

from ftloop import train
from ftloop.errors import UserError


class Kept(tracking.GeneralTracker):  # type: ignore[misc]
    """Keeps all it is told."""

    name, requires_logging_directory = "mlflow", False
    made: Kept
    broken_at: int | None = None
    has_no_server = False

    def __init__(self, project: str, **given: Any) -> None:
        super().__init__()
        self.project, self.given, self.finished, self.logged = project, given, 0, list[tuple[int, dict[str, Any]]]()
        type(self).made = self

    @property
    def tracker(self) -> Kept:
        return self

    def start(self) -> None:
        if self.has_no_server:
            raise ConnectionError("no server at localhost")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if step == self.broken_at:
            raise ConnectionError("gone")
        assert step is not None
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    fresh = type("Fresh", (Kept,), {})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "mlflow", fresh)
    monkeypatch.setattr("ftloop.config.checks.find_spec", lambda name: object())
    return fresh


def test_the_log_goes_there_under_trainers_tags_with_the_settings(
    kind: type[Kept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my project")
    monkeypatch.setenv("WANDB_PROJECT", "of another tracker")
    run = prepared(tmp_path / "run-7", eval_strategy="epoch", report_to=["mlflow"])
    train(run)
    kept = kind.made
    assert (kept.project, kept.given, kept.finished) == ("my project", {"run_name": "run-7"}, 1)
    assert kept.settings["learning_rate"] == run.config.learning_rate
    assert all(isinstance(each, (str, int, float, bool)) or each is None for each in kept.settings.values())
    losses = [(step, values["train/loss"]) for step, values in kept.logged if "train/loss" in values]
    assert losses == [(line["step"], line["loss"]) for line in run.state.log_history if "loss" in line]
    scored = [values["eval/accuracy"] for _, values in kept.logged if "eval/accuracy" in values]
    assert scored == [line["eval_accuracy"] for line in run.state.log_history if "eval_accuracy" in line]
    assert all(values["train/global_step"] == step for step, values in kept.logged)


def test_without_a_variable_the_project_is_trainers(kind: type[Kept], tmp_path: Path) -> None:
    train(prepared(tmp_path, report_to=["mlflow"], max_steps=1))
    assert kind.made.project == "huggingface"


def test_a_tracker_that_fails_amid_a_training_is_told_and_left_out(
    kind: type[Kept], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind.broken_at = 3
    run = prepared(tmp_path, report_to=["mlflow"], max_steps=6)
    train(run)
    told = "Tracker   mlflow failed, and nothing more is sent to it (ConnectionError: gone)\n"
    assert capsys.readouterr().out.count(told) == 1
    assert {step for step, _ in kind.made.logged} == {1, 2}
    plain = prepared(tmp_path / "plain", max_steps=6)
    train(plain)
    assert [x.get("loss") for x in run.state.log_history] == [x.get("loss") for x in plain.state.log_history]


@pytest.mark.parametrize("broken", ["add_scalar", "close"])
def test_a_tensorboard_that_cannot_be_written_any_more_is_told_and_left_out(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = getattr(SummaryWriter, broken)

    def full(board: Any, *values: Any, **_: Any) -> None:
        if broken == "close" or values[2] >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(board, *values)

    monkeypatch.setattr(SummaryWriter, broken, full)
    run = prepared(tmp_path, logging_dir=str(tmp_path / "board"), max_steps=6)
    train(run)
    told = (
        "Tracker   tensorboard failed, and nothing more is written to it (OSError: [Errno 28] No space left on device)"
    )
    assert " ".join(capsys.readouterr().out.split()).count(" ".join(told.split())) == 1
    plain = prepared(tmp_path / "plain", max_steps=6)
    train(plain)
    assert [x.get("loss") for x in run.state.log_history] == [x.get("loss") for x in plain.state.log_history]


def test_a_tracker_that_cannot_start_is_told_before_the_first_update(kind: type[Kept], tmp_path: Path) -> None:
    kind.has_no_server = True
    run = prepared(tmp_path, report_to=["mlflow"])
    with pytest.raises(UserError, match=r"report_to: mlflow could not be started \(ConnectionError: no server"):
        train(run)
    assert run.state.global_step == 0


READ_BACK = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([SQLiteStorage.get_logs(*sys.argv[1:]), SQLiteStorage.get_run_config(*sys.argv[1:])], default=str))
"""


@pytest.mark.slow
def test_trackio_itself_keeps_the_log_in_its_local_store(tiny_folder: Path, tmp_path: Path) -> None:
    """In processes of their own: it reads where its store is when it is imported."""
    pytest.importorskip("trackio", reason="Trackio is not installed: pip install trackio")
    place = {"TRACKIO_DIR": str(tmp_path / "store"), "TRACKIO_PROJECT": "of-a-test"}
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--train_file", str(tiny_folder / "train.jsonl")]
    words += ["--validation_file", str(tiny_folder / "validation.jsonl"), "--output_dir", str(tmp_path / "run-7")]
    words += [
        "--max_steps",
        "3",
        "--logging_steps",
        "1",
        "--eval_strategy",
        "epoch",
        "--use_cpu",
        "--save_strategy",
        "no",
    ]
    done = python(*words, "--report_to", "trackio", **place)
    assert "Tracker " not in done.stdout
    read = run(sys.executable, "-c", READ_BACK, "of-a-test", "run-7", **place)
    kept, settings = json.loads(read.stdout.splitlines()[-1])
    history = json.loads((tmp_path / "run-7" / "trainer_state.json").read_text())["log_history"]
    losses = [(line["step"], line["train/loss"]) for line in kept if "train/loss" in line]
    assert losses == [(line["step"], line["loss"]) for line in history if "loss" in line]
    assert len(losses) == 3
    scored = [line["eval/accuracy"] for line in kept if "eval/accuracy" in line]
    assert scored == [line["eval_accuracy"] for line in history if "eval_accuracy" in line]
    assert len(scored) == 1
    assert settings["learning_rate"] == 5e-5
