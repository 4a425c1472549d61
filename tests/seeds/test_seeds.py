"""The same job with several seeds, each in a process of its own; what the runs say together, and against others."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.command import Started
from harness.kill_harness import difference, what_is_left
from scipy import stats

import ftloop.job.seeds
import ftloop.seeds.__main__
from ftloop.config.command_line import parse_args
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, UserError
from ftloop.job.fine_tune import fine_tune
from ftloop.job.seeds import train_several
from ftloop.seeds.significance import PairedRows, compare_seeds, describe, interval, leave_one_out, sign_flip_p
from ftloop.seeds.summary import SeedRuns, SeedSummary, read_seeds, summarize, summary, table
from ftloop.system.stopping import StopRequest
from ftloop.train import main

# --- the flag --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["1,2,3"], ["1", "2", "3"], ["1,2", "3"]])
def test_seeds_are_whole_numbers_between_commas_or_blanks(words: list[str]) -> None:
    assert parse_args(["demo", "--seeds", *words]).seeds == [1, 2, 3]
    assert TrainConfig(seeds=[1, 2, 3]).seeds == TrainConfig(seeds="1, 2, 3").seeds == [1, 2, 3]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": "1,2,1"}, "seeds: 1 is there twice"),
        ({"seeds": "7"}, "at least two, such as 1,2,3; one alone is --seed"),
        ({"seeds": "1,-2"}, "must not be negative"),
        ({"seeds": f"1,{2**32}"}, r"below 2\*\*32"),
        ({"seeds": "1,two"}, "seeds: 'two' is not a whole number"),
        ({"seeds": "1,2.5"}, "seeds: '2.5' is not a whole number"),
        ({"seeds": [1, 2], "record": "r.jsonl"}, "record: not with seeds"),
        ({"seeds": [1, 2], "resume_from_checkpoint": "runs/checkpoint-5"}, "with seeds only `last`"),
    ],
)
def test_a_wrong_choice_of_seeds_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_several_processes_of_one_training_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["demo", "--seeds", "1,2", "--output_dir", str(tmp_path / "my out")]) == ExitCode.USER_ERROR
    text = capsys.readouterr().err
    assert "seeds: 2 processes were started for one training" in text
    words = shlex.split(text.split("Start one for each seed, with ")[1])
    assert words[:4] == ["--seed", "N", "--output_dir", f"{tmp_path}/my out/seed-N,"]
    assert words[-2:] == ["seeds", f"{tmp_path}/my out"]


def test_several_seeds_from_python_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        model_name_or_path=str(tiny_folder / "model"),
        train_file=str(tiny_folder / "train.jsonl"),
        output_dir=str(tmp_path),
        seeds=[1, 2],
    )
    with pytest.raises(UserError, match="seeds: the command trains several"):
        fine_tune(config)


# --- starting one after the other ------------------------------------------------------------------------------------

SAYS = "import sys; print('ran', *sys.argv[1:], flush=True); "


def started(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    codes: dict[int, str],
    stop: StopRequest | None = None,
    **settings: Any,
) -> ExitCode:
    """`train_several` with, in place of a training, a process that runs a line of Python for each seed."""
    real = ftloop.job.seeds._command

    def command(config: TrainConfig, words: list[str], seed: int, stop: StopRequest) -> list[str]:
        return [sys.executable, "-c", SAYS + codes[seed], *real(config, words, seed, stop)[2:]]

    monkeypatch.setattr(ftloop.job.seeds, "_command", command)
    config = TrainConfig(output_dir=str(tmp_path / "out"), seeds=list(codes), **settings)
    return train_several(config, ["guide", "--seeds", "1,2"], stop or StopRequest())


def test_each_seed_gets_the_same_words_and_its_own_after_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    alone = "import os; sys.exit(2 if {'RANK', 'TORCHELASTIC_RUN_ID'} & os.environ.keys() else 0)"
    with pytest.raises(UserError, match="no folder seed-N or fold-N"):  # nothing has been trained
        started(monkeypatch, tmp_path, {1: alone, 2: alone}, logging_dir=str(tmp_path / "board"))
    said = capfd.readouterr().out
    for place, seed in ((1, 1), (2, 2)):
        assert f"Seed      {seed}, {place} of 2 (1, 2): {tmp_path}/out/seed-{seed}\n" in said
        own = f"--seeds none --seed {seed} --output_dir {tmp_path}/out/seed-{seed}"
        own += f" --logging_dir {tmp_path}/board/seed-{seed}"
        assert f"ran guide --seeds 1,2 {own}\n" in said
    given = parse_args(["guide", "--seeds", "1,2", "--seeds", "none", "--seed", "2"])
    assert (given.seeds, given.seed) == (None, 2)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (
            "sys.exit(2)",
            ExitCode.USER_ERROR,
            "error: seed 2, 2 of 3; complete: 1: it ended with code 2, as said above; the",
        ),
        ("sys.exit(9)", ExitCode.BUG, "ended with code 9"),
        (
            "import os; os.kill(os.getpid(), 9)",
            ExitCode.FAILED,
            "it was killed by SIGKILL; the same command with --res",
        ),
        (
            "sys.exit(75)",
            ExitCode.STOPPED,
            "Stopped   in seed 2, 2 of 3; complete: 1; the same command with --resume_f",
        ),
    ],
)
def test_a_seed_that_fails_ends_all_with_its_exit_code(
    line: str,
    code: ExitCode,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert started(monkeypatch, tmp_path, {1: "", 2: line, 3: ""}) == code
    out, err = capfd.readouterr()
    assert said in err
    assert out.count("ran guide") == 2


def test_the_time_limit_is_that_of_all_seeds_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop = StopRequest(deadline=time.monotonic() + 99.5)
    started(monkeypatch, tmp_path, {1: "", 2: "sys.exit(75)"}, stop)
    limits = [
        int(line.split("--max_train_seconds ")[1]) for line in capfd.readouterr().out.splitlines() if "ran " in line
    ]
    assert len(limits) == 2
    assert 60 < limits[1] <= limits[0] <= 99


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_is_passed_on_once_and_ends_all(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second process signals its parent as soon as it listens itself, and counts what comes back."""
    listens = (
        "import os, signal, time; got = []; "
        f"signal.signal(signal.{name}, lambda *_: got.append(1)); os.kill(os.getppid(), signal.{name}); "
        "time.sleep(0.3); "
        "sys.exit(75 if len(got) == 1 and os.getpgid(0) == os.getpid() else 1)"
    )
    before = signal.getsignal(getattr(signal, name))
    assert started(monkeypatch, tmp_path, {1: "", 2: listens, 3: ""}) == ExitCode.STOPPED
    assert capfd.readouterr().out.count("ran guide") == 2
    assert signal.getsignal(getattr(signal, name)) == before


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_summary_of_seeds_is_scipys() -> None:
    values = [0.81, 0.84, 0.79, 0.86, 0.83]
    found = summarize(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert [found.mean, found.std] == pytest.approx([np.mean(values), stats.tstd(values)], rel=1e-12)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], rel=1e-12)
    assert (found.n, found.min, found.max) == (5, 0.79, 0.86)
    two = summarize([0.5, 0.7])
    assert (two.n, two.low, two.high) == (2, None, None)
    assert two.std == pytest.approx(0.02**0.5)
    assert summarize([0.5]) == SeedSummary(1, 0.5, None, None, None, 0.5, 0.5, 0.5)


def leave(
    folder: Path,
    results: dict[str, float],
    config: dict[str, Any] | None = None,
    rows: dict[str, Any] | None = None,
    kind: str = "single_label_classification",
) -> None:
    """What a finished run leaves, as far as it is read here."""
    from ftloop.system.manifest import write_manifest

    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": []}))
    (folder / "all_results.json").write_text(json.dumps(results))
    if config is not None:
        facts = {"config": config, "versions": {}, "num_processes": 1, "data": {}, "files": {}, "complete": True}
        write_manifest(folder, facts | config.pop("manifest", {}))
    labels = ["no", "yes"] if kind == "single_label_classification" else []
    if rows is not None:
        sets = {"test": {"rows": len(rows["label"])}}
        (folder / "ftloop_run.json").write_text(
            json.dumps({"data": {"problem_type": kind, "labels": labels, "sets": sets}})
        )
        pq.write_table(pa.table(rows), folder / "test_predictions.parquet")


def test_unfinished_and_other_runs_are_dropped_and_named(tmp_path: Path) -> None:
    def config(seed: int, **changed: Any) -> dict[str, Any]:
        return {"seed": seed, "learning_rate": 1e-4, "logging_steps": seed} | changed

    scores = {"eval_loss": 0.5, "eval_accuracy": 0.8, "eval_runtime": 3.0, "train_loss": 0.1, "epoch": 3.0}
    leave(tmp_path / "seed-10", scores | {"eval_accuracy": 0.9}, config(10))
    leave(tmp_path / "seed-2", scores, config(2))
    leave(tmp_path / "seed-3", scores, config(3, learning_rate=5e-5))
    leave(tmp_path / "seed-4", scores, config(4, manifest={"complete": False}))
    leave(tmp_path / "seed-5", {"train_loss": 0.1}, config(5))
    leave(tmp_path / "seed-6", scores, config(16))
    leave(tmp_path / "seed-7", scores, config(7, manifest={"data": {"train": {"digest": "other"}}}))
    (tmp_path / "seed-8").mkdir()
    (tmp_path / "seed-x").mkdir()
    runs = read_seeds(tmp_path)
    assert list(runs.runs) == [2, 10]
    assert runs.scores() == {"eval_loss": {2: 0.5, 10: 0.5}, "eval_accuracy": {2: 0.8, 10: 0.9}}
    assert runs.dropped.pop("seed-8").startswith("no run has ended here")
    assert runs.dropped == {
        "seed-3": "differs from the others in learning_rate",
        "seed-4": "not finished",
        "seed-5": "not finished",
        "seed-6": "trained with seed 16",
        "seed-7": "differs from the others in the data",
    }
    assert "Dropped   seed-3: differs from the others in learning_rate; seed-4" in table(runs)


def test_runs_of_one_seed_each_are_read_from_folders_of_any_name(tmp_path: Path, stderr_of: Callable[..., str]) -> None:
    """As a loop of the shell leaves them, or an array of jobs."""
    for seed in (1, 2):
        leave(tmp_path / f"job_{9 - seed}", {"eval_loss": seed / 10}, {"seed": seed})
    (tmp_path / "logs").mkdir()
    assert read_seeds(tmp_path).scores() == {"eval_loss": {1: 0.1, 2: 0.2}}
    told = stderr_of(ftloop.seeds.__main__.main, [str(tmp_path / name) for name in ("job_7", "job_8", "logs")])
    assert told.endswith(f"ftloop seeds {tmp_path}\n")
    leave(tmp_path / "lr", {"eval_loss": 0.3}, {"seed": 2, "learning_rate": 1.0})
    with pytest.raises(UserError, match="job_7 and lr are both of seed 2"):
        read_seeds(tmp_path)


def test_of_two_kinds_of_runs_those_that_were_asked_for_are_counted(tmp_path: Path) -> None:
    """A second command with other seeds and another learning rate, into the folder of the first."""
    for seed, rate in ((1, 1e-4), (2, 1e-4), (3, 1e-4), (6, 5e-5), (7, 5e-5)):
        leave(tmp_path / f"seed-{seed}", {"eval_loss": 0.5}, {"seed": seed, "learning_rate": rate})
    assert read_seeds(tmp_path).runs.keys() == {1, 2, 3}
    asked_for = read_seeds(tmp_path, "seed", [6, 7])
    assert asked_for.runs.keys() == {6, 7}
    assert asked_for.dropped == dict.fromkeys(
        ("seed-1", "seed-2", "seed-3"), "differs from the others in learning_rate"
    )


def test_the_way_out_can_be_typed_as_it_is(tmp_path: Path, stderr_of: Callable[..., str]) -> None:
    root = tmp_path / "my runs"
    told = stderr_of(ftloop.seeds.__main__.main, [str(root / name) for name in ("a", "b", "c")])
    assert shlex.split(told.rpartition(": ")[2])[-2:] == ["seeds", str(root)]


def test_a_folder_without_finished_seeds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder seed-N or fold-N in it; name the output_dir"):
        read_seeds(tmp_path)
    (tmp_path / "seed-1").mkdir()
    with pytest.raises(UserError, match=r"no finished run in it \(seed-1: no run has ended here"):
        read_seeds(tmp_path)


def test_the_table_and_seeds_json_hold_each_run_and_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracies = {1: 0.8, 2: 0.85, 3: 0.9}
    for seed, accuracy in accuracies.items():
        scores = {"eval_accuracy": accuracy, "eval_loss": 0.5, "test_loss": float("nan"), "test_runtime": 1.0}
        leave(tmp_path / f"seed-{seed}", scores)
    assert ftloop.seeds.__main__.main([str(tmp_path)]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert printed.startswith(f"Seeds     3 runs in {tmp_path}\n")
    lines = [line.split() for line in printed.splitlines()]
    assert lines[1:4] == [
        ["validation", "validation", "test"],
        ["seed", "loss", "accuracy", "loss"],
        ["1", "0.5000", "0.8000", "nan"],
    ]
    half = 4.302652729696 * 0.05 / np.sqrt(3)  # Student's t of 2 degrees of freedom
    for line in (["mean", "0.5000", "0.8500", "nan"], ["deviation", "0.0000", "0.0500", "nan"]):
        assert line in lines
    assert ["95", "%", "from", "0.5000", f"{0.85 - half:.4f}", "nan"] in lines
    kept = json.loads((tmp_path / "seeds.json").read_text())
    assert kept["runs"]["2"] == {"eval_loss": 0.5, "eval_accuracy": 0.85, "test_loss": None}
    assert kept["together"]["eval_accuracy"]["high"] == pytest.approx(0.85 + half, rel=1e-10)
    assert kept == summary(read_seeds(tmp_path))
    shutil.rmtree(tmp_path / "seed-2")
    shutil.rmtree(tmp_path / "seed-3")
    assert "one run has no deviation: train more seeds" in table(read_seeds(tmp_path))


def test_runs_with_one_answer_to_all_are_named_and_the_rest_is_averaged(tmp_path: Path) -> None:
    labels = ["no", "yes", "yes", "yes"]
    answers = {1: labels, 2: ["yes"] * 4, 3: ["no", "yes", "yes", "no"]}
    for seed, predicted in answers.items():
        accuracy = float(np.mean([one == other for one, other in zip(labels, predicted, strict=True)]))
        rows = {"label": labels, "prediction": predicted, "logits": [[0.0, 1.0]] * 4}
        leave(tmp_path / f"seed-{seed}", {"test_accuracy": accuracy}, {"seed": seed}, rows)
    runs = read_seeds(tmp_path)
    assert runs.collapsed == {2: "yes"}
    found = summary(runs)
    assert found["collapsed"] == {"2": "yes"}
    assert found["together"]["test_accuracy"]["median"] == 0.75
    assert found["without_collapsed"]["test_accuracy"]["mean"] == 0.875
    told = "Collapsed 1 of 3 runs gives one answer to all rows, 'yes': seed 2; the mean without: test_accuracy=0.8750"
    assert told in table(runs).splitlines()
    for seed in (1, 3):
        shutil.rmtree(tmp_path / f"seed-{seed}")
    told = "Collapsed 1 of 1 run gives one answer to all rows, 'yes': seed 2"
    assert told in table(read_seeds(tmp_path)).splitlines()
    rows = {"label": ["yes"] * 4, "prediction": ["yes"] * 4, "logits": [[0.0, 1.0]] * 4}
    leave(tmp_path / "other" / "seed-1", {"test_accuracy": 1.0}, {"seed": 1}, rows)
    assert read_seeds(tmp_path / "other").collapsed == {}, "all its rows have that label"


def collapsed_runs(root: Path, answers: dict[int, str], kind: str = "seed", **config: Any) -> SeedRuns:
    for number, answer in answers.items():
        rows = {"label": ["no", "yes"], "prediction": [answer] * 2, "logits": [[0.0, 1.0]] * 2}
        leave(root / f"{kind}-{number}", {"test_accuracy": 0.5}, {kind: number} | config, rows)
    return read_seeds(root)


def test_the_one_answer_of_all_collapsed_runs_is_said_once(tmp_path: Path) -> None:
    told = "Collapsed 3 of 3 runs give one answer to all rows, 'no': seeds 1, 2, 3"
    assert told in table(collapsed_runs(tmp_path / "same", dict.fromkeys((1, 2, 3), "no"))).splitlines()
    told = "Collapsed 2 of 2 runs give one answer to all rows, 'yes': folds 1, 2"
    assert told in table(collapsed_runs(tmp_path / "folds", {1: "yes", 2: "yes"}, "fold")).splitlines()
    told = "Collapsed 2 of 2 runs give one answer to all rows: seed 1 ('no'), seed 2 ('yes')"
    assert told in table(collapsed_runs(tmp_path / "other", {1: "no", 2: "yes"})).splitlines()
    long = "a" * 41
    assert f"'{'a' * 37}...': seed 1" in table(collapsed_runs(tmp_path / "long", {1: long}))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({}, "`ftloop train few`, for some hundreds of rows, and `ftloop train stable` are made against that"),
        ({"num_train_epochs": 10.0}, "`ftloop train stable` is made against that"),
        ({"num_train_epochs": 20.0}, None),
        ({"max_steps": 5000}, None),
    ],
)
def test_runs_that_have_collapsed_are_told_of_the_recipes_that_train_longer(
    config: dict[str, Any], line: str | None, tmp_path: Path
) -> None:
    told = table(collapsed_runs(tmp_path, {1: "no", 2: "no"}, **config)).splitlines()
    place = next(i for i, each in enumerate(told) if each.startswith("Collapsed "))
    assert told[place + 1 :] == ([f"          {line}"] if line else [])


def test_the_recipes_against_collapse_train_as_long_as_is_said_of_them() -> None:
    """`against_collapse` names them by these numbers of epochs."""
    recipes = (parse_args([name]) for name in ("few", "stable"))
    assert [config.num_train_epochs for config in recipes] == [10, 20]


# --- statistics of pairs ---------------------------------------------------------------------------------------------

A = np.array([0.81, 0.84, 0.79, 0.86, 0.83])
B = np.array([0.82, 0.86, 0.78, 0.89, 0.86])


def test_the_interval_over_seeds_alone_is_the_paired_t_test() -> None:
    expected = stats.ttest_rel(B, A)
    bounds = expected.confidence_interval(0.95)
    assert interval(B - A) == pytest.approx((bounds.low, bounds.high, expected.pvalue), rel=1e-9)
    low, high, p = interval(np.array([0.02]))
    assert (low, high, p) == (-np.inf, np.inf, 1.0)
    assert interval(np.zeros(3)) == (0, 0, 1)
    for agreeing in (np.full(4, 0.25), np.array([0.8625, 0.8750]) - np.array([0.8600, 0.8725])):
        assert interval(agreeing) == (-np.inf, np.inf, 1.0)


def test_the_sign_flip_test_tries_all_signs() -> None:
    signs = 1 - 2 * ((np.arange(2**5)[:, None] >> np.arange(5)) & 1)
    expected = np.mean(np.abs(signs @ (B - A)) >= abs((B - A).sum()) - 1e-12)
    assert sign_flip_p(B - A) == expected
    assert sign_flip_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == 2 / 32
    assert sign_flip_p(np.array([0.1, 0.2, -0.3])) == 1  # a mean of 0, but for rounding
    assert sign_flip_p(np.array([0.1])) == 1
    assert sign_flip_p(np.ones(13)) == 2 / 2**13
    assert sign_flip_p(np.ones(14)) == 2 / 10_000  # among random signs


def test_rows_drawn_by_chance_widen_the_interval_by_their_variance() -> None:
    """Accuracy is a mean over rows: its jackknife variance is that of the rows' differences, by their number."""
    draw = np.random.default_rng(1)
    right = np.stack([draw.random((1, 80)) < share for share in (0.8, 0.7)])
    rows = PairedRows(np.ones(80, int), right.astype(int), np.zeros(right.shape), 2)
    score_a, score_b = right.mean(axis=-1)
    without_rows = leave_one_out("accuracy", rows, score_a, score_b)
    assert without_rows is not None
    expected = stats.ttest_rel(right[1, 0].astype(float), right[0, 0].astype(float))
    bounds = expected.confidence_interval(0.95)
    found = interval(score_b - score_a, without_rows)
    assert found == pytest.approx((bounds.low, bounds.high, expected.pvalue), rel=1e-9)
    assert leave_one_out("accuracy", rows, np.array([0.5]), score_b) is None  # not what the run has recorded
    assert leave_one_out("bleu", rows, np.array([0.5]), np.array([0.5])) is None


@pytest.mark.parametrize(
    ("of_seed", "of_row", "held_by_seeds_alone"),
    [(0.02, 0.3, (0.5, 0.9)), (0.1, 0.3, (0.7, 0.93)), (0.1, 0.03, (0.93, 0.98))],
    ids=["rows differ most", "both differ", "seeds differ most"],
)
def test_the_interval_holds_the_truth_in_95_of_100_cases(
    of_seed: float, of_row: float, held_by_seeds_alone: tuple[float, float]
) -> None:
    """Differences with an effect of the seed, of the row, and of the seed on the row; groups of rows as they are made.

    Seeds alone hold it more rarely where rows differ: the rows were drawn too.
    """
    draw, seeds, rows, truth = np.random.default_rng(0), 4, 60, 0.02
    held, held_by_seeds, cases = 0, 0, 1500
    for _ in range(cases):
        differences = truth + of_seed * draw.normal(size=(seeds, 1)) + of_row * draw.normal(size=(1, rows))
        differences = differences + of_row * draw.normal(size=(seeds, rows))
        without_rows = (differences.sum(axis=1, keepdims=True) - differences) / (rows - 1)
        by_seed = differences.mean(axis=1)
        low, high, _ = interval(by_seed, without_rows)
        held += low <= truth <= high
        low, high, _ = interval(by_seed)
        held_by_seeds += low <= truth <= high
    assert 0.93 < held / cases < 0.98
    assert held_by_seeds_alone[0] < held_by_seeds / cases < held_by_seeds_alone[1]


# --- two sets of runs ------------------------------------------------------------------------------------------------


def logits_of(predicted: list[int]) -> pa.Array:
    flat = np.array([[0.0, 1.0] if yes else [1.0, 0.0] for yes in predicted], np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), 2)


def rows_of(labels: list[int], predicted: list[int]) -> dict[str, Any]:
    names = ("no", "yes")
    return {
        "text": [f"text {i}" for i in range(len(labels))],
        "label": [names[label] for label in labels],
        "prediction": [names[label] for label in predicted],
        "score": [0.73] * len(labels),
        "logits": logits_of(predicted),
    }


LABELS = [0, 1] * 30


def set_of_runs(root: Path, wrong: dict[int, list[int]], labels: list[int] | None = None, **config: Any) -> Path:
    """Return for each seed which rows are wrong."""
    labels = LABELS if labels is None else labels
    for seed, places in wrong.items():
        predicted = [1 - label if i in places else label for i, label in enumerate(labels)]
        right = np.equal(predicted, labels)
        loss = float(np.where(right, np.log1p(np.exp(-1)), np.log1p(np.exp(1))).mean())
        scores = {"test_accuracy": float(right.mean()), "test_loss": loss}
        leave(root / f"seed-{seed}", scores, {"seed": seed} | config, rows_of(labels, predicted))
    return root


def test_two_sets_of_runs_are_paired_by_seed_and_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = set_of_runs(tmp_path / "a", {1: list(range(12)), 2: list(range(10)), 3: list(range(11)), 4: []})
    b = set_of_runs(tmp_path / "b", {1: list(range(8)), 2: [*range(7), 30], 3: list(range(9)), 9: []})
    assert ftloop.seeds.__main__.main([str(a), str(b)]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "3 seeds that both have: 1, 2, 3" in printed
    assert "only in A, dropped: seed 4" in printed
    assert "only in B, dropped: seed 9" in printed
    paired = compare_seeds(read_seeds(a), read_seeds(b))
    accuracy = next(each for each in paired.differences if each.name == "test_accuracy")
    assert paired.primary is accuracy
    assert paired.seeds == [1, 2, 3]
    assert accuracy.b - accuracy.a == pytest.approx(np.array([4 / 60, 2 / 60, 2 / 60]), abs=1e-9)
    assert accuracy.mean == pytest.approx(8 / 180)
    assert (accuracy.rows, accuracy.p_sign_flip) == (60, 2 / 8)
    assert accuracy.low < interval(accuracy.b - accuracy.a)[0]
    loss = next(each for each in paired.differences if each.name == "test_loss")
    assert loss.rows == 60
    for words in (
        "with 3 seeds never below 0.25",
        f"test accuracy, B - A +4.4 points, 95 % interval {100 * accuracy.low:+.1f} to ",
        f" to {100 * accuracy.high:+.1f} points: ",
        "no difference is shown. With 3 seeds and 60 rows ",
        f"a difference below about {100 * accuracy.noise:.1f} points is not seen",
    ):
        assert words in printed


@pytest.mark.parametrize(("seeds", "least"), [(13, "0.000244"), (14, "0.0002"), (20, "0.0002")])
def test_a_small_p_is_told_as_no_zero_and_how_small_it_can_get(seeds: int, least: str, tmp_path: Path) -> None:
    for name, gained in (("a", 0.0), ("b", 0.1)):
        for seed in range(1, seeds + 1):
            scores = {"test_accuracy": 0.5 + 0.001 * (seed % 3) * (1 + gained) + gained}
            leave(tmp_path / name / f"seed-{seed}", scores, {"seed": seed})
    text = describe(compare_seeds(*(read_seeds(tmp_path / name) for name in ("a", "b"))))
    assert f"with {seeds} seeds never below {least}\n" in text
    assert text.count("  <0.001") == 2
    assert "0.000 " not in text
    header, row = (next(line for line in text.splitlines() if line.startswith(each)) for each in ("score", "test acc"))
    assert len(header) - len("  noise from") == row.rindex("<0.001") + len("<0.001")


def test_a_collapsed_seed_is_named_on_its_side(tmp_path: Path) -> None:
    ones = [i for i, label in enumerate(LABELS) if label == 1]
    a = read_seeds(set_of_runs(tmp_path / "a", {1: [0], 2: [1], 9: ones}))
    b = read_seeds(set_of_runs(tmp_path / "b", {1: [0], 2: ones}))
    lines = describe(compare_seeds(a, b)).splitlines()
    assert "Note      collapsed in B: 1 of 2 runs gives one answer to all rows, 'no': seed 2" in lines
    assert not [line for line in lines if "collapsed in A" in line], "seed 9 is not compared"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor 0.0 in A, 0.1 in B"),
        ({"class_weights": {"no": 2.0, "yes": 1.0}}, "class_weights None in A, {'no': 2.0, 'yes': 1.0} in B"),
    ],
)
def test_losses_of_different_kinds_are_not_compared(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    a = set_of_runs(tmp_path / "a", {1: [0, 1], 2: [1, 5], 3: [0]})
    b = set_of_runs(tmp_path / "b", {1: [0], 2: [1], 3: []}, **changed)
    for file in (*a.rglob("all_results.json"), *b.rglob("all_results.json")):  # in B those of the other loss
        losses = {"test_loss_mm": 0.4} if a in file.parents else {"test_loss": 0.9, "test_loss_mm": 0.9}
        file.write_text(json.dumps(json.loads(file.read_text()) | losses))
    paired = compare_seeds(read_seeds(a), read_seeds(b))
    assert [each.name for each in paired.differences] == ["test_log_loss", "test_accuracy"]
    log_loss = paired.differences[0]
    assert log_loss.rows == 60
    assert log_loss.b - log_loss.a == pytest.approx(-np.ones(3) / 60, abs=1e-7)  # a wrong row costs 1 more; float32
    why = f"test_loss, not compared, as it is another loss in B: {told}"
    assert f"Note      {why}; test_log_loss, from the predictions, is" in describe(paired).splitlines()
    assert f"Note      test_loss_mm{why.removeprefix('test_loss')}" in describe(paired).splitlines()
    for file in b.rglob("test_predictions.parquet"):
        file.unlink()
    paired = compare_seeds(read_seeds(a), read_seeds(b))
    assert [each.name for each in paired.differences] == ["test_accuracy"]
    assert f"Note      {why}" in describe(paired).splitlines()
    same = compare_seeds(read_seeds(b), read_seeds(b))
    assert [each.name for each in same.differences] == ["test_loss", "test_loss_mm", "test_accuracy"]


def test_which_is_better_depends_on_the_scores_direction(tmp_path: Path) -> None:
    worse = {seed: list(range(20 + seed % 2)) for seed in range(1, 6)}
    better = {seed: [0] for seed in range(1, 6)}
    runs = [read_seeds(set_of_runs(tmp_path / name, wrong)) for name, wrong in (("a", worse), ("b", better))]
    assert "B is better. With 5 seeds and 60 rows" in describe(compare_seeds(*runs))
    assert "A is better. With" in describe(compare_seeds(*runs[::-1]))
    for run in runs:
        for seed in run.runs:
            results = run.folder / f"seed-{seed}" / "all_results.json"
            results.write_text(json.dumps({"test_loss": json.loads(results.read_text())["test_loss"]}))
    losses = [read_seeds(tmp_path / name) for name in ("a", "b")]
    assert "test loss, B - A -0.3" in describe(compare_seeds(*losses))
    assert "B is better" in describe(compare_seeds(*losses))


def test_numbers_are_compared_by_their_errors(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    labels = draw.normal(size=70).astype(np.float32)
    for name, error in (("a", 0.5), ("b", 0.1)):
        for seed in (1, 2, 3):
            predicted = (labels + error * draw.normal(size=70)).astype(np.float32)
            logits = pa.FixedSizeListArray.from_arrays(pa.array(predicted), 1)
            rows = {"text": [str(i) for i in range(70)], "label": labels, "prediction": predicted, "logits": logits}
            mse = float(np.mean((predicted.astype(np.float64) - labels) ** 2))
            pearson = float(stats.pearsonr(labels.astype(np.float64), predicted.astype(np.float64)).statistic)
            scores = {"test_loss": mse, "test_mse": mse, "test_pearson": pearson}
            leave(tmp_path / name / f"seed-{seed}", scores, {"seed": seed}, rows, kind="regression")
    paired = compare_seeds(read_seeds(tmp_path / "a"), read_seeds(tmp_path / "b"))
    assert {each.name: each.rows for each in paired.differences} == dict.fromkeys(
        ("test_loss", "test_mse", "test_pearson"), 70
    )
    text = describe(paired)
    assert "test mse, B - A -0.2" in text
    assert "B is better" in text


def test_the_f1_of_one_class_is_not_compared_with_that_of_another(tmp_path: Path) -> None:
    sides = [set_of_runs(tmp_path / name, {1: [0], 2: [1], 3: [0, 1]}) for name in ("a", "b")]
    for file in sides[1].rglob("ftloop_run.json"):
        facts = json.loads(file.read_text())
        facts["data"]["positive"] = "no"
        file.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"test, not compared: F1 is that of another class \(positive_label\)"):
        compare_seeds(*map(read_seeds, sides))


def test_other_rows_are_not_compared(tmp_path: Path) -> None:
    a = read_seeds(set_of_runs(tmp_path / "a", {1: [0], 2: [1], 3: [0, 1]}))
    turned = read_seeds(set_of_runs(tmp_path / "turned", {1: [0], 2: [2], 3: []}, labels=[1, 0] * 30))
    with pytest.raises(
        UserError, match=r"no score that both have on the same rows \(test, not compared: their texts or"
    ):
        compare_seeds(a, turned)
    fewer = read_seeds(set_of_runs(tmp_path / "fewer", {1: [0], 2: [2], 3: []}, labels=[0, 1] * 20))
    with pytest.raises(UserError, match="60 rows in A, 40 in B"):
        compare_seeds(a, fewer)
    other = read_seeds(set_of_runs(tmp_path / "other", {7: [0], 8: [2]}))
    with pytest.raises(UserError, match=r"has seeds 1, 2, 3 and .* 7, 8: none in both"):
        compare_seeds(a, other)
    set_of_runs(tmp_path / "b", {1: [5], 2: [], 3: [7]})
    (tmp_path / "b" / "seed-2" / "test_predictions.parquet").unlink()
    text = describe(compare_seeds(a, read_seeds(tmp_path / "b")))
    assert "for these rows alone" in text
    assert f"test: no predictions in {tmp_path}/b/seed-2: chance is that of seeds alone" in text
    assert "With 3 seeds a difference below" in text
    one = read_seeds(set_of_runs(tmp_path / "one", {2: [3, 4]}))
    assert "of one seed, so for these two models alone" in describe(compare_seeds(a, one))
    (tmp_path / "one" / "seed-2" / "test_predictions.parquet").unlink()
    assert "none: with one seed, and no predictions" in describe(compare_seeds(a, read_seeds(tmp_path / "one")))
    assert "is the same with every seed and row" in describe(compare_seeds(a, a))


def test_of_several_labels_the_rows_and_the_classes_are_compared_too(tmp_path: Path) -> None:
    def left(name: str, labels: list[str], texts: str) -> Any:
        chosen = pa.array([[labels[0]], labels] * 20, pa.list_(pa.string()))
        rows = {"text": [f"{texts} {i}" for i in range(40)], "label": chosen, "prediction": chosen}
        rows |= {"logits": logits_of([1, 0] * 20)}
        for seed in (1, 2, 3):
            folder, scores = tmp_path / name / f"seed-{seed}", {"test_accuracy": 0.5 + seed / 100 + len(name) / 10}
            leave(folder, scores, {"seed": seed}, rows, kind="multi_label_classification")
            facts = json.loads((folder / "ftloop_run.json").read_text())
            facts["data"]["labels"] = labels
            (folder / "ftloop_run.json").write_text(json.dumps(facts))
        return read_seeds(tmp_path / name)

    a = left("a", ["news", "sport"], "text")
    with pytest.raises(UserError, match="test, not compared: their classes differ"):
        compare_seeds(a, left("other classes", ["red", "blue"], "text"))
    with pytest.raises(UserError, match="test, not compared: their texts or labels differ"):
        compare_seeds(a, left("other texts", ["news", "sport"], "another"))
    (difference,) = compare_seeds(a, left("bb", ["news", "sport"], "text")).differences
    assert difference.rows is None
    assert difference.mean == pytest.approx(0.1)


def test_a_score_that_some_rows_alone_define_is_judged_by_the_seeds(tmp_path: Path) -> None:
    """Without the one row that differs, a correlation has nothing to go with."""
    labels, draw = np.array([0.0] * 59 + [5.0], np.float32), np.random.default_rng(5)
    for name, error in (("a", 1.0), ("b", 0.1)):
        for seed in (1, 2, 3):
            predicted = (labels + error * draw.normal(size=60)).astype(np.float32)
            logits = pa.FixedSizeListArray.from_arrays(pa.array(predicted), 1)
            rows = {"text": [str(i) for i in range(60)], "label": labels, "prediction": predicted, "logits": logits}
            found = float(stats.pearsonr(labels.astype(np.float64), predicted.astype(np.float64)).statistic)
            leave(tmp_path / name / f"seed-{seed}", {"test_pearson": found}, {"seed": seed}, rows, kind="regression")
    paired = compare_seeds(read_seeds(tmp_path / "a"), read_seeds(tmp_path / "b"))
    (difference,) = paired.differences
    assert difference.rows is None
    assert (difference.low, difference.high) == interval(difference.b - difference.a)[:2]
    assert "nan" not in describe(paired)
    assert "for these rows alone" in describe(paired)


def test_a_choice_on_the_same_rows_is_told_of_either_side(tmp_path: Path) -> None:
    for name, chosen in (("a", False), ("b", True)):
        for seed, accuracy in ((1, 0.86), (2, 0.8725), (3, 0.88 + 0.01 * chosen)):
            config = {"seed": seed, "load_best_model_at_end": chosen}
            leave(tmp_path / name / f"seed-{seed}", {"eval_accuracy": accuracy}, config)
    a, b = (read_seeds(tmp_path / name) for name in ("a", "b"))
    for pair in ((a, b), (b, a)):
        assert "The best checkpoint was chosen on these rows" in describe(compare_seeds(*pair))
    assert "was chosen on these rows" not in describe(compare_seeds(a, a))


def test_seeds_that_differ_by_the_same_are_no_evidence(tmp_path: Path) -> None:
    for name, gained in (("a", 0.0), ("b", 0.0025)):
        for seed, accuracy in ((1, 0.86), (2, 0.8725)):
            leave(tmp_path / name / f"seed-{seed}", {"eval_accuracy": accuracy + gained}, {"seed": seed})
    a, b = (read_seeds(tmp_path / name) for name in ("a", "b"))
    text = describe(compare_seeds(a, b))
    assert "Verdict   none: with 2 seeds that differ by the same, and no predictions of the same rows" in text
    assert "is better" not in text
    assert describe(compare_seeds(a, a)).endswith("validation accuracy is the same with every seed")


def test_predictions_of_other_classes_are_refused(tmp_path: Path) -> None:
    a = set_of_runs(tmp_path / "a", {1: [0], 2: [1]})
    path = a / "seed-2" / "test_predictions.parquet"
    rows = rows_of(LABELS, LABELS)
    rows["prediction"][3] = "maybe"
    pq.write_table(pa.table(rows), path)
    with pytest.raises(UserError, match=r"seed-2/test_predictions.parquet: .*row 4 .* 'maybe' is none of the classes"):
        compare_seeds(read_seeds(a), read_seeds(a))


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ftloop.seeds.__main__.main([str(tmp_path), str(tmp_path)]) == ExitCode.USER_ERROR
    assert "error: " in capsys.readouterr().err


# --- the command -----------------------------------------------------------------------------------------------------


def words(tiny_folder: Path, output_dir: Path) -> list[str]:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    flags = {
        "model_name_or_path": str(tiny_folder / "model"),
        "output_dir": str(output_dir),
        "resume_from_checkpoint": "last",
        "max_steps": "400",
        "logging_steps": "10",
        "save_steps": "50",
        "save_total_limit": "1",
        "disable_tqdm": "true",
        "use_cpu": "true",
    }
    return [*(word for name, value in flags.items() for word in (f"--{name}", value)), *files]


@pytest.mark.slow
def test_stopped_and_killed_seeds_end_as_single_runs(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = [*words(tiny_folder, tmp_path / "out"), "--seeds", "5,3"]
    stopped = Started(argv)
    stopped.until("Seed      3, 2 of 2 (5, 3)")
    stopped.until("Update 60/")
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.end() == ExitCode.STOPPED, stopped.said
    assert "Stopped   by SIGTERM after update" in stopped.said
    assert (
        "Stopped   in seed 3, 2 of 2; complete: 5; the same command with --resume_from_checkpoint last" in stopped.said
    )
    assert not (tmp_path / "out" / "seeds.json").exists()

    killed = Started(argv)
    killed.until("Resuming  after update")
    killed.until("Update ")
    assert "Finished  already" in killed.said
    os.kill(killed.child(), signal.SIGKILL)
    assert killed.end() == ExitCode.FAILED, killed.said
    assert "error: seed 3, 2 of 2; complete: 5: it was killed by SIGKILL; the same command" in killed.said

    assert Started(argv).end() == ExitCode.DONE
    together = json.loads((tmp_path / "out" / "seeds.json").read_text())
    assert together["seeds"] == [3, 5]
    for seed in (3, 5):
        folder = tmp_path / "out" / f"seed-{seed}"
        found = what_is_left(folder)
        results = json.loads((folder / "all_results.json").read_text())
        assert together["runs"][str(seed)] == {
            name: results[name]
            for name in ("eval_loss", "eval_accuracy", "eval_f1", "test_loss", "test_accuracy", "test_f1")
        }
        shutil.rmtree(folder)
        assert main([*words(tiny_folder, folder), "--seed", str(seed)]) == ExitCode.DONE
        assert difference(what_is_left(folder), found) is None
    assert results["eval_loss"] != together["runs"]["3"]["eval_loss"]
    capfd.readouterr()
    command = [sys.executable, "-m", "ftloop", "seeds", str(tmp_path / "out")]
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "Seeds     2 runs in" in again.stdout
    assert json.loads((tmp_path / "out" / "seeds.json").read_text()) == together
