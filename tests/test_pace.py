"""How long a run takes, told from made times of its updates."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from side_by_side import weights_digest
from test_loop import prepared

from ftloop import Run, train
from ftloop.pace import Pace, duration, roughly, time_line


def test_an_update_is_told_by_its_median_without_the_first_one_and_what_lies_between() -> None:
    """The first takes 30 s, and after the third comes an evaluation of 100 s."""
    pace = Pace(began=1000.0, step=0, max_steps=50)
    told = [pace.advance(now, step) for step, now in enumerate([1030.0, 1030.5, 1031.0, 1131.5, 1132.0, 1132.5], 1)]
    assert told == [None, None, None, 0.5, None, None]


def test_many_short_updates_are_waited_for_and_few_long_ones_are_enough() -> None:
    pace = Pace(began=0.0, step=0, max_steps=500)
    told = [pace.advance(1 + 0.125 * step, step) for step in range(1, 30)]
    assert [(i, each) for i, each in enumerate(told, 1) if each is not None] == [(11, 0.125)]
    long = Pace(began=0.0, step=0, max_steps=500)
    assert [long.advance(60.0 * step, step) for step in (1, 2, 3, 4)] == [None, None, None, 60.0]


def test_a_resumed_run_is_counted_from_the_resume() -> None:
    """Resumed after update 40 of 100, whose epoch's end was still due; the rate is that of the updates made here."""
    pace = Pace(began=0.0, step=40, max_steps=100)
    assert pace.advance(3.0, 40) is None
    assert pace.end_of_epoch(4.0, 40) == ""
    for step in range(41, 61):
        pace.advance(5.0 + step - 40, step)
    assert pace.end_of_epoch(25.0, 60) == " (21 s; about 40 s left)"


def test_an_epoch_has_what_it_took_with_its_evaluation_and_the_last_one_nothing_left() -> None:
    pace = Pace(began=0.0, step=0, max_steps=30)
    lines = []
    for epoch in range(3):
        for step in range(1, 11):
            pace.advance(100.0 * epoch + 9.0 * step, 10 * epoch + step)
        lines.append(pace.end_of_epoch(100.0 * (epoch + 1), 10 * (epoch + 1)))
    assert lines == [" (1 min 40 s; about 3 min 20 s left)", " (1 min 40 s; about 1 min 40 s left)", " (1 min 40 s)"]


def test_an_evaluation_before_the_first_update_is_not_the_first_epochs() -> None:
    pace = Pace(began=0.0, step=0, max_steps=2)
    pace.not_yet(50.0)
    pace.advance(60.0, 1)
    pace.not_yet(61.0)
    pace.advance(70.0, 2)
    assert pace.end_of_epoch(70.0, 2) == " (20 s)"


def test_nothing_is_foretold_of_a_short_run() -> None:
    pace = Pace(began=0.0, step=0, max_steps=40)
    for step in range(1, 21):
        pace.advance(0.2 * step, step)
    assert pace.end_of_epoch(4.0, 20) == ""
    assert time_line(0.2, 40, []) is None


def test_what_is_said_of_one_epoch_is_said_of_those_after_it() -> None:
    """The first seems to take so long that there is something to say, the others take no time."""
    pace = Pace(began=0.0, step=0, max_steps=6)
    lines = []
    for step, now in enumerate([1.0, 4.0, 4.5, 4.5, 4.5, 4.5], 1):
        pace.advance(now, step)
        if step % 2 == 0:
            lines.append(pace.end_of_epoch(now, step))
    assert lines == [" (4 s; about 12 s left)", " (0 s; about 2 s left)", " (0 s)"]


@pytest.mark.parametrize(
    ("each", "updates", "besides", "line"),
    [
        (0.4523, 264, ["evaluation", "saving"], "2 min for the 264 updates left (0.45 s each), besides evaluation and"),
        (0.0312, 400, ["saving"], "12 s for the 400 updates left (0.031 s each), besides saving"),
        (12.34, 1000, [], "3 h 25 min for the 1000 updates left (12 s each)"),
    ],
)  # fmt: skip
def test_the_estimate_is_one_line(each: float, updates: int, besides: list[str], line: str) -> None:
    told = time_line(each, updates, besides)
    assert told is not None
    assert told.startswith(f"Time      about {line}")


def test_a_duration_has_its_two_largest_units() -> None:
    seconds = (0.2, 41.4, 59.6, 82, 120, 7500, 7200, 97200, 86400)
    shown = ["0 s", "41 s", "1 min", "1 min 22 s", "2 min", "2 h 5 min", "2 h", "1 d 3 h", "1 d"]
    assert [duration(s) for s in seconds] == shown
    assert [roughly(s) for s in (13.4, 47, 118, 119.6)] == ["13 s", "45 s", "2 min", "2 min"]


@pytest.mark.parametrize("resumes", [False, True], ids=["fresh", "resumed"])
def test_a_run_says_once_how_long_it_will_take_and_its_history_does_not_know(
    resumes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of 8 updates; a clock by which every look at it takes 3 s, two of them for an evaluation or a save."""
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_steps": 100}
    whole = prepared(tmp_path, **settings)
    train(whole)
    assert not re.search(r"^Time|left\)| s\)", capsys.readouterr().out, re.MULTILINE), "it took no time"
    clock = itertools.count(0, 3)
    monkeypatch.setattr("ftloop.logs.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    if resumes:
        shutil.rmtree(tmp_path / "checkpoint-16")
        settings["resume_from_checkpoint"] = "last"
    run = prepared(tmp_path if resumes else tmp_path / "timed", **settings)
    train(run)
    lines = capsys.readouterr().out.splitlines()
    about, left = ("12 s", 4) if resumes else ("35 s", 12)
    (told,) = [line for line in lines if line.startswith("Time ")]
    assert told == f"Time      about {about} for the {left} updates left (3 s each), besides evaluation and saving"
    ends = [line.partition(" (")[2] for line in lines if line.startswith("Epoch ")]
    assert ends == (["30 s)"] if resumes else ["30 s; about 30 s left)", "30 s)"])

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
