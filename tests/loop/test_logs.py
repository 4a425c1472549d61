"""How long a run takes, by a clock of the test's own: said once, and at the end of each epoch."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness.prepared_runs import prepared
from harness.side_by_side import weights_digest

from ftloop import Run, train
from ftloop.logs import Logs, scores
from ftloop.run.state import TrainerState


class Clock:
    """Logs of a run that is not made, and whose updates are done when the test says so."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, max_steps: int, first_step: int = 0, compiles: bool = False
    ) -> None:
        self.now = 0.0
        monkeypatch.setattr("ftloop.logs.time", SimpleNamespace(monotonic=lambda: self.now))
        self.state = TrainerState(global_step=first_step, max_steps=max_steps)
        config = SimpleNamespace(disable_tqdm=True, tensorboard=False, trackers=[], torch_compile=compiles)
        plan = SimpleNamespace(max_steps=max_steps)
        self.logs = Logs(SimpleNamespace(state=self.state, config=config, plan=plan, is_main=True))  # type: ignore[arg-type]

    def update(self, now: float, step: int) -> None:
        self.now, self.state.global_step = now, step
        self.logs.advance()

    def end_of_epoch(self, now: float) -> str:
        self.now = now
        return self.logs._time_of_epoch()


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_many_short_updates_are_waited_for_and_few_long_ones_are_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first takes 30 s, which does not come again."""
    short = Clock(monkeypatch, max_steps=511)
    lines = []
    for step in range(1, 30):
        short.update(30 + 0.125 * step, step)
        lines.append(said(capsys))
    assert lines[10] == ["Time      about 01:02 for the 500 updates left"]
    assert [*itertools.chain(*lines)] == lines[10]
    long = Clock(monkeypatch, max_steps=500)
    for step in range(1, 6):
        long.update(60.0 * step, step)
    assert said(capsys) == ["Time      about 8:16:00 for the 496 updates left"]


def test_updates_that_compile_a_graph_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of the first four meets a length that has no graph yet, which takes 35 s; later ones take one."""
    clock, lines = Clock(monkeypatch, max_steps=100, first_step=20, compiles=True), []
    for step in range(1, 31):
        clock.update(35.0 * min(step, 4) + max(step - 4, 0), 20 + step)
        lines.append(said(capsys))
        if step == 9:
            assert "left" not in clock.end_of_epoch(clock.now)
    assert lines[12] == ["Time      about 01:07 for the 67 updates left"]
    assert [*itertools.chain(*lines)] == lines[12]


def test_a_resumed_run_is_counted_from_the_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed after update 40 of 100, whose epoch's end was still due; the rate is that of the updates made here."""
    clock = Clock(monkeypatch, max_steps=100, first_step=40)
    clock.update(3.0, 40)
    assert clock.end_of_epoch(4.0) == ""
    for step in range(41, 61):
        clock.update(5.0 + step - 40, step)
    assert clock.end_of_epoch(25.0) == " (00:21; about 00:40 left)"


def test_an_epoch_line_has_the_time_it_took_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, lines = Clock(monkeypatch, max_steps=30), []
    for epoch in range(3):
        for step in range(1, 11):
            clock.update(100.0 * epoch + 9.0 * step, 10 * epoch + step)
        lines.append(clock.end_of_epoch(100.0 * (epoch + 1)))
    assert lines == [" (01:40; about 03:22 left)", " (01:40; about 01:40 left)", " (01:40)"]


def test_an_evaluation_before_the_first_update_is_not_the_first_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, max_steps=2)
    clock.now = 50.0
    clock.logs.record({"eval_loss": 1.0})
    clock.update(60.0, 1)
    clock.logs.record({"eval_loss": 1.0})
    clock.update(70.0, 2)
    assert clock.end_of_epoch(70.0) == " (00:20)"


def test_nothing_is_foretold_of_a_short_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch, max_steps=40)
    for step in range(1, 41):
        clock.update(0.2 * step, step)
    assert clock.end_of_epoch(8.0) == ""
    assert said(capsys) == []


def test_what_measures_speed_is_no_score() -> None:
    metrics = {"eval_loss": 1.0, "eval_f1": 0.5, "eval_runtime": 2.0, "eval_samples_per_second": 3.0, "eval_note": "x"}
    assert scores(metrics, None) == {"f1": 0.5}


@pytest.mark.parametrize("resumes", [False, True], ids=["fresh", "resumed"])
def test_a_run_says_once_how_long_it_takes_and_not_in_its_history(
    resumes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of 8 updates; a clock by which every look at it takes 3 s, two of them for an evaluation or a save."""
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_steps": 100}
    whole = prepared(tmp_path, **settings)
    train(whole)
    assert not re.search(r"^Time|left\)|\d\d\)", capsys.readouterr().out, re.MULTILINE), "it took no time"
    clock = itertools.count(0, 3)
    monkeypatch.setattr("ftloop.logs.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    if resumes:
        shutil.rmtree(tmp_path / "checkpoint-16")
        settings["resume_from_checkpoint"] = "last"
    run = prepared(tmp_path if resumes else tmp_path / "timed", **settings)
    train(run)
    lines = capsys.readouterr().out.splitlines()
    about, left = ("00:12", 4) if resumes else ("00:36", 12)
    (told,) = [line for line in lines if line.startswith("Time ")]
    assert told == f"Time      about {about} for the {left} updates left"
    ends = [line.partition(" (")[2] for line in lines if line.startswith("Epoch ")]
    assert ends == (["00:27)"] if resumes else ["00:27; about 00:27 left)", "00:27)"])

    def without_timings(run: Run) -> list[dict[str, object]]:
        timings = ("runtime", "samples_per_second", "steps_per_second")
        return [{n: v for n, v in entry.items() if not n.endswith(timings)} for entry in run.state.log_history]

    assert without_timings(run) == without_timings(whole)
    assert weights_digest(run.model) == weights_digest(whole.model)


def test_where_a_bar_is_before_ones_eyes_the_estimate_is_not_said_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for is_terminal, without_bar in ((True, False), (True, True), (False, False)):
        clock = itertools.count(0, 3)
        monkeypatch.setattr("ftloop.logs.time", SimpleNamespace(monotonic=lambda clock=clock: float(next(clock))))
        monkeypatch.setattr("ftloop.logs.sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda t=is_terminal: t)))
        train(prepared(tmp_path / f"{is_terminal}{without_bar}", disable_tqdm=without_bar))
        said.append("Time " in capsys.readouterr().out)
    assert said == [False, True, True]


def test_the_bar_shows_the_loss_at_log_lines_and_at_the_ends_of_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of 8 updates."""
    run = prepared(tmp_path, logging_steps=3, disable_tqdm=False)
    train(run)
    told = capsys.readouterr()
    shown = re.findall(r"(\d+)/16 [^\r\n]*?loss=(\d\.\d{4})", told.err)
    logged = [(str(line["step"]), f"{line['loss']:.4f}") for line in run.state.log_history if "loss" in line]
    ends = re.findall(r"^Epoch (\d)/2: loss=(\d\.\d{4})", told.out, re.MULTILINE)
    assert [step for step, _ in logged] == ["3", "6", "9", "12", "15"]
    assert set(logged) <= set(shown)
    assert {(str(8 * int(epoch)), loss) for epoch, loss in ends} <= set(shown)
