"""What a run is advised: each situation is planted in a run that trains, and a healthy one is advised nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.finished_runs import left_by_a_run

from ftloop.config.train_config import TrainConfig
from ftloop.job.fine_tune import fine_tune
from ftloop.report.advice import _more_log_lines, advice_lines, advise
from ftloop.report.outcome import FinishedRun, read_finished_run, read_predictions

Rows = list[dict[str, Any]]


def rows(count: int, seed: int = 0, share: float = 0.5, wrong: float = 0.0, words: tuple[int, int] = (8, 8)) -> Rows:
    """Texts whose first word tells the label, `wrong` of the labels turned over."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        label, length = int(draw.random() < share), draw.randint(*words)
        text = ["yes" if label else "no", *(f"word{draw.randrange(100)}" for _ in range(length - 1))]
        made.append({"text": " ".join(text), "label": label if draw.random() >= wrong else 1 - label})
    return made


def mute(made: Rows) -> Rows:
    """The same without the word that tells the label."""
    return [row | {"text": "word0 " + row["text"].partition(" ")[2]} for row in made]


def contradicting(made: Rows, count: int) -> Rows:
    return made + [row | {"label": 1 - row["label"]} for row in made[:count]]


VALIDATION = rows(300, 1)
Numbers = Callable[[FinishedRun], list[str]]


@dataclasses.dataclass(frozen=True)
class Planted:
    train: Rows
    topics: list[str]
    texts: Numbers
    """What has to stand in the advice, from what the run has left."""
    validation: Rows = dataclasses.field(default_factory=lambda: VALIDATION)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def losses(outcome: FinishedRun) -> list[float]:
    return [each["loss"] for each in outcome.history if "loss" in each]


def evaluations(outcome: FinishedRun, name: str = "eval_loss") -> list[float]:
    return [each[name] for each in outcome.history if name in each]


def mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3g}"


def overfitted(outcome: FinishedRun) -> list[str]:
    each = evaluations(outcome)
    best = each.index(min(each))
    f1 = evaluations(outcome, "eval_f1")
    return [
        f"from epoch {best + 2} on: since epoch {best + 1} the validation loss rose from {each[best]:.3g} to",
        f" to {each[-1]:.3g} while the training loss fell from",
        f"f1 went from {f1[best]:.3g} to {f1[-1]:.3g}",
        f"--num_train_epochs {best + 1}",
    ]


PLANTED = {
    "healthy": Planted(rows(500), [], lambda _: []),
    "the learning rate is too high": Planted(
        rows(300),
        ["training loss"],
        lambda out: [
            f"{losses(out)[0]:.3g} at first, {losses(out)[-1]:.3g} at the end",
            "the learning rate, 1, is too high. Try --learning_rate 2e-05 and --warmup_ratio 0.1",
            f"below {math.log(2):.3g}, that of a model that ignores the texts",
        ],
        settings={"learning_rate": 1.0, "num_train_epochs": 2},
    ),
    "the learning rate is too low": Planted(
        rows(300),
        ["training loss"],
        lambda _: ["35 updates at up to 1e-07", "by 2e-06 at most", "too low. Try --learning_rate 5e-5"],
        settings={"learning_rate": 1e-7, "num_train_epochs": 2},
    ),
    "too few updates": Planted(
        rows(64),
        ["training loss"],
        lambda out: [f"{mean(losses(out)[:2])} at first, {mean(losses(out)[-2:])} at the end", "8 updates", "too few"],
        settings={"learning_rate": 5e-5, "num_train_epochs": 2, "logging_steps": 1},
    ),
    "labels that no text tells": Planted(
        rows(300, wrong=0.5),
        ["training loss"],
        lambda _: ["nothing was found in text that label depends on", "--label_column_name"],
        validation=rows(300, 1, wrong=0.5),
        settings={"num_train_epochs": 2},
    ),
    "one answer to all, and little logged": Planted(
        rows(64),
        ["training loss"],
        lambda _: [
            "All 300 predictions on validation are '1', as are 53% of its labels",
            "4 updates are too few to say why",
        ],
        settings={"learning_rate": 1e-7, "logging_steps": 500, "num_train_epochs": 1},
    ),
    "equal texts with two labels": Planted(
        contradicting(rows(500), 20),
        ["labels"],
        lambda _: ["40 of 520 training rows (8%)"],
    ),
    "overfitting, and the last is kept": Planted(
        rows(64, wrong=0.3),
        ["overfitting"],
        lambda out: [*overfitted(out), "The last model was kept", "--load_best_model_at_end"],
        validation=rows(400, 1, wrong=0.3),
        settings={"num_train_epochs": 16},
    ),
    "overfitting, and the best is kept": Planted(
        rows(64, wrong=0.3),
        ["overfitting"],
        lambda out: [*overfitted(out), "The best model by loss, of epoch", "nothing is lost but time"],
        validation=rows(400, 1, wrong=0.3),
        settings={
            "num_train_epochs": 16,
            "save_strategy": "best",
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
        },
    ),
    "truncated rows": Planted(
        rows(500, words=(12, 12)),
        ["truncation"],
        lambda _: ["500 of 500 training rows (100%) are cut off at 8 tokens", "--max_seq_length 16"],
        settings={"max_seq_length": 8},
    ),
    "padding": Planted(
        rows(500, words=(2, 40)),
        ["padding"],
        lambda out: [
            f"{out.facts['padding']['share']:.0%} of the computed tokens were padding",
            "Try --padding none",
        ],
    ),
}


def trained(planted: Planted, model: Path, folder: Path) -> FinishedRun:
    files = {}
    for split in ("train", "validation"):
        files[f"{split}_file"] = str(folder / f"{split}.jsonl")
        Path(files[f"{split}_file"]).write_text("\n".join(map(json.dumps, getattr(planted, split))))
    settings = {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 100,
        "learning_rate": 2e-3,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_steps": 5,
        "disable_tqdm": True,
        "use_cpu": True,
    } | planted.settings
    fine_tune(TrainConfig(model_name_or_path=str(model), output_dir=str(folder / "out"), **files, **settings))
    return read_finished_run(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_problem_is_named_with_its_numbers_alone(
    name: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = PLANTED[name]
    outcome = trained(planted, tiny_folder / "model", tmp_path)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Advice ")]
    found = advise(outcome)
    assert printed == [f"Advice    {advice.text}" for advice in found]
    # A single word tells these labels, and words alone find it as surely as a model does.
    found = [advice for advice in found if advice.topic != "words"]
    assert [advice.topic for advice in found] == planted.topics, found
    for words in planted.texts(outcome):
        assert words in found[0].text


# --- made outcomes: each threshold from both sides -------------------------------------------------------------------


def made(
    folder: Path,
    training: list[float],
    validation: list[tuple[float, float]] = (),  # type: ignore[assignment]
    confusion: tuple[tuple[int, int], tuple[int, int]] = ((180, 20), (20, 180)),
    counts: tuple[int, int] = (400, 400),
    contradictions: int = 0,
    truncated: int = 0,
    padding: tuple[float, float | None] = (0.1, 0.05),
    can_be_left_out: bool = False,
    parameters: int = 100_000_000,
    trained_parameters: int | None = None,
    adapter: str | None = None,
    eval_loss: float | None = None,
    kind: str = "single_label_classification",
    **config: Any,
) -> FinishedRun:
    """A run of 50 updates an epoch, as it would have been left: a log line every 10, an evaluation every epoch, of loss
    and F1. `confusion`: by label and prediction, of the validation set at the end.
    """
    rate = config.setdefault("learning_rate", 5e-5)
    history: list[dict[str, Any]] = [
        {"loss": loss, "grad_norm": 0.9, "learning_rate": rate / 2, "epoch": (i + 1) / 5, "step": 10 * (i + 1)}
        for i, loss in enumerate(training)
    ]
    for i, (loss, f1) in enumerate(validation):
        history.append({"eval_loss": loss, "eval_f1": f1, "eval_accuracy": f1, "epoch": i + 1.0, "step": 50 * (i + 1)})
    history.sort(key=lambda each: each["step"])
    pairs = [(a, b) for a in (0, 1) for b in (0, 1) for _ in range(confusion[a][b])]
    table = pa.table(
        {name: [("no", "yes")[pair[i]] for pair in pairs] for i, name in enumerate(("label", "prediction"))}
    )
    pq.write_table(table, folder / "validation_predictions.parquet")
    train = {"rows": sum(counts), "truncated": truncated, "labels": {"no": counts[0], "yes": counts[1]}}
    facts = {
        "model": {
            "parameters": parameters,
            "trained_parameters": parameters if trained_parameters is None else trained_parameters,
            **({} if adapter is None else {"adapter": adapter}),
        },
        "data": {
            "problem_type": kind,
            "labels": ["no", "yes"],
            "text_columns": ["text"],
            "label_column": "label",
            "contradictions": {"rows": contradictions, "of": sum(counts)},
            "longest_input": 128,
            "sets": {"train": train},
        },
        "padding": {"share": padding[0], "length_grouped": padding[1], "can_be_left_out": can_be_left_out},
    }
    state = {"epoch": float(len(validation)), "best_global_step": config.pop("best", None)}
    defaults = {"max_grad_norm": 1.0, "max_steps": -1, "metric_for_best_model": "f1", "padding": "longest"}
    files = {"validation": folder / "validation_predictions.parquet"}
    results = {} if eval_loss is None else {"eval_loss": eval_loss}
    return FinishedRun(folder, defaults | config, {}, 1, facts, history, state, results, files)


FALLING = [0.69, 0.66, 0.6, 0.55, 0.5, 0.45, 0.42, 0.38, 0.36, 0.34, 0.3, 0.31, 0.28, 0.29, 0.27]
GOOD = [(0.5, 0.8), (0.4, 0.87), (0.39, 0.9)]
FLAT = [0.69, 0.70, 0.69, 0.69] * 4
CONSTANT = ((200, 0), (200, 0))
RATE_FIRST = (
    "The learning rate, {}, is far above those with which a whole pretrained transformer is fine-tuned. Try "
    "--learning_rate 2e-5, and no more than 5e-5"
)

# What is made, the topics of the advice, and words of the first.
MADE: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "one that learns": ({"training": FALLING, "validation": GOOD}, [], ""),
    "one that was not logged nor evaluated": ({"training": []}, [], ""),
    "one with three log lines": ({"training": FLAT[:3], "confusion": ((100, 100), (100, 100))}, [], ""),
    "one that learns a little": ({"training": [0.69] * 10 + [0.65] * 5}, [], ""),
    "one whose loss is that of the classes' shares, but which knows more": ({"training": FLAT}, [], ""),
    "one with a bad day in between": ({"training": [*FALLING[:6], 0.9, *FALLING[6:]], "validation": GOOD}, [], ""),
    "one of 68 to 32 rows, none of whose loss is far below its entropy": (
        {"training": [0.66, 0.64, 0.63, 0.6, 0.59, 0.59], "counts": (256, 544), "confusion": ((60, 69), (50, 229))},
        [],
        "",
    ),
    "a flat loss, and one answer": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 5e-4},
        ["training loss"],
        "A learning rate too high for a pretrained model ends so, and 0.0005 is high. Try --learning_rate 2e-05",
    ),
    "the same of a tiny model, which may want such a rate": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 5e-4, "parameters": 90_000},
        ["training loss"],
        "nothing was found in text that label depends on",
    ),
    "a flat loss after enough updates": (
        {"training": FLAT, "confusion": ((100, 100), (100, 100))},
        ["training loss"],
        "--learning_rate 0.0001 and 2e-05",
    ),
    "a flat loss after few": (
        {
            "training": FLAT[:4],
            "confusion": ((100, 100), (100, 100)),
            "learning_rate": 2e-5,
            "validation": [(0.7, 0.5)],
        },
        ["training loss"],
        "40 updates at up to 2e-05 can have moved a weight by 0.0004 at most: too few updates. Try --num_train_epochs",
    ),
    "the same where max_steps counts": (
        {"training": FLAT[:4], "confusion": ((100, 100), (100, 100)), "learning_rate": 2e-5, "max_steps": 40},
        ["training loss"],
        "too few updates. Try --max_steps 400",
    ),
    "a rate far too high, one answer, and nothing logged": (
        {"training": [], "confusion": CONSTANT, "learning_rate": 1.1e-3},
        ["training loss"],
        f"as are 50% of its labels. {RATE_FIRST.format('0.0011')}",
    ),
    "one that is not far too high, and nothing logged": (
        {"training": [], "confusion": CONSTANT, "learning_rate": 1e-3},
        ["training loss"],
        "too few to say why",
    ),
    "a rate far too high that does well": (
        {"training": FALLING, "validation": GOOD, "learning_rate": 2e-3},
        [],
        "",
    ),
    "the same, logged": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 2e-3},
        ["training loss"],
        f"as are 50% of its labels. {RATE_FIRST.format('0.002')}",
    ),
    "the same with weights, of which no loss to beat is known": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 2e-3, "class_weights": {"no": 1, "yes": 9}},
        ["training loss"],
        f"as are 50% of its labels. {RATE_FIRST.format('0.002')}",
    ),
    "a flat loss at a rate far too high, and several answers": (
        {"training": FLAT, "confusion": ((100, 100), (100, 100)), "learning_rate": 0.01},
        ["training loss"],
        f"at the end. {RATE_FIRST.format('0.01')}",
    ),
    "such a rate for an adapter": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 2e-3, "adapter": "LoRA", "trained_parameters": 9},
        ["training loss"],
        "nothing was found in text that label depends on",
    ),
    "such a rate for a head on a frozen body": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 2e-3, "trained_parameters": 49_000_000},
        ["training loss"],
        "nothing was found in text that label depends on",
    ),
    "such a rate beside frozen embeddings": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 2e-3, "trained_parameters": 70_000_000},
        ["training loss"],
        RATE_FIRST.format("0.002"),
    ),
    "such a rate for a tiny model": (
        {"training": [], "confusion": CONSTANT, "learning_rate": 0.01, "parameters": 90_000},
        ["training loss"],
        "too few to say why",
    ),
    "a rate far too high for a tiny model, too": (
        {"training": [], "confusion": CONSTANT, "learning_rate": 0.011, "parameters": 90_000},
        ["training loss"],
        RATE_FIRST.format("0.011"),
    ),
    "one answer to few rows, and a loss that knows nothing": (
        {"training": [], "confusion": ((8, 0), (2, 0)), "counts": (640, 160), "eval_loss": 0.48},
        ["training loss"],
        "All 10 predictions on validation are 'no', as are 80% of its labels. 0 updates are too few to say why",
    ),
    "one answer to few rows, and a loss that knows more": (
        {"training": [], "confusion": ((8, 0), (2, 0)), "counts": (640, 160), "eval_loss": 0.47},
        [],
        "",
    ),
    "one answer to too few rows": (
        {"training": [], "confusion": ((7, 0), (2, 0)), "counts": (640, 160), "eval_loss": 0.6},
        [],
        "",
    ),
    "one answer to few rows, of which one is of another class": (
        {"training": [], "confusion": ((12, 0), (1, 0)), "counts": (640, 160), "eval_loss": 0.6},
        [],
        "",
    ),
    "a rate below all that are used": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 5e-6},
        ["training loss"],
        "too low",
    ),
    "a loss that ends above a coin's": (
        {"training": [0.69, 0.8, 0.78, 0.77], "confusion": CONSTANT, "learning_rate": 1e-3},
        ["training loss"],
        "It ended worse than unlearned: the learning rate, 0.001, is too high",
    ),
    "weights, and a loss above that of the classes' shares": (
        {"training": [0.69, 0.66, 0.6, 0.6], "counts": (720, 80), "class_weights": "balanced"},
        [],
        "",
    ),
    "smoothing, and a loss above that of the classes' shares": (
        {"training": [0.5] * 8, "counts": (736, 64), "label_smoothing_factor": 0.2},
        [],
        "",
    ),
    "weights, of which no loss to beat is known, and a loss that did not fall": (
        {"training": [0.69] * 12, "confusion": ((200, 160), (20, 20)), "class_weights": {"no": 1, "yes": 9}},
        [],
        "",
    ),
    "the same, and one answer": (
        {"training": [0.69] * 12, "confusion": CONSTANT, "class_weights": {"no": 1, "yes": 9}},
        ["training loss"],
        "All 400 predictions on validation are 'no', as are 50% of its labels",
    ),
    "a rise of the validation loss just too small": (
        {"training": FALLING, "validation": [(0.5, 0.8), (0.4, 0.87), (0.439, 0.88)]},
        [],
        "",
    ),
    "a rise just large enough, of a kept best by F1": (
        {
            "training": FALLING,
            "validation": [(0.5, 0.8), (0.45, 0.87), (0.501, 0.88)],
            "load_best_model_at_end": True,
            "best": 150,
        },
        ["overfitting"],
        "Overfitting from epoch 3 on: since epoch 2 the validation loss rose from 0.45 to 0.501 while the training "
        "loss fell from 0.39 to 0.29, and f1 went from 0.87 to 0.88. The best model by f1, of epoch 3, was kept. Try "
        "--num_train_epochs 2, or --metric_for_best_model loss",
    ),
    "a rise of a tiny loss": ({"training": FALLING, "validation": [(0.5, 0.8), (0.01, 0.99), (0.05, 0.99)]}, [], ""),
    "a rise while the training loss does not fall": (
        {"training": [*FALLING[:10], *[0.38] * 5], "validation": [(0.5, 0.8), (0.4, 0.87), (0.6, 0.8)]},
        [],
        "",
    ),
    "contradictions, just enough": (
        {"training": FALLING, "contradictions": 16},
        ["labels"],
        "16 of 800 training rows (2%) have texts that also occur with another label",
    ),
    "contradictions, one too few": ({"training": FALLING, "contradictions": 15}, [], ""),
    "half of the rows truncated, by hand": (
        {"training": FALLING, "truncated": 400, "max_seq_length": 128},
        ["truncation"],
        "400 of 800 training rows (50%) are cut off at 128 tokens: the rest is not read. Try --max_seq_length 256",
    ),
    "half of the rows truncated, by the model": (
        {"training": FALLING, "truncated": 400, "max_seq_length": None},
        ["truncation"],
        "a model with longer inputs",
    ),
    "not quite half": ({"training": FALLING, "truncated": 399}, [], ""),
    "padding that would save a fifth": (
        {"training": FALLING, "padding": (0.25, 0.05), "batching": "random"},
        ["padding"],
        "25% of the computed tokens were padding; grouping rows by length would cut padding to 5% and computing by 21%",
    ),
    "padding to a fixed length": (
        {"training": FALLING, "padding": (0.6, 0.05)},
        ["padding"],
        "computing by 58%. Try --batching length_grouped",
    ),
    "padding that need not be computed": (
        {"training": FALLING, "padding": (0.25, 0.05), "can_be_left_out": True},
        ["padding"],
        "25% of the computed tokens were padding. Try --padding none: the same rows, and no padding",
    ),
    "padding that would save less": ({"training": FALLING, "padding": (0.22, 0.05)}, [], ""),
    "padding that nothing saves": ({"training": FALLING, "padding": (0.6, None)}, [], ""),
}


@pytest.mark.parametrize("name", MADE)
def test_a_made_run_is_advised_at_the_thresholds(name: str, tmp_path: Path) -> None:
    settings, topics, words = MADE[name]
    found = advise(made(tmp_path, **settings))
    assert [advice.topic for advice in found] == topics, found
    assert not topics or words in found[0].text, found[0].text


@pytest.mark.parametrize("parameters", [90_000, 100_000_000])
@pytest.mark.parametrize("adapter", [None, "LoRA"])
def test_no_rate_is_advised_above_those_that_are_used(adapter: str | None, parameters: int, tmp_path: Path) -> None:
    confusion = ((100, 100), (100, 100))
    for rate in (5e-5, 1e-4, 3e-4, 5e-4, 1e-3, 3e-3, 1e-2, 1e-1):
        run = made(tmp_path, FLAT, confusion=confusion, learning_rate=rate, adapter=adapter, parameters=parameters)
        (advice,) = advise(run)
        tried = [float(each) for each in re.findall(r"\d[\d.e-]*", advice.text.partition("--learning_rate ")[2])]
        usual = 1e-4 if adapter is None and parameters > 10_000_000 else 1e-3
        assert tried, advice.text
        assert max(tried) <= max(usual, rate / 2), advice.text


def test_no_flag_is_advised_that_the_run_would_refuse(tmp_path: Path) -> None:
    assert advise(made(tmp_path, FALLING, padding=(0.6, 0.05), trainer_compat=True)) == []
    for kind in ("regression", "multi_label_classification"):
        run = made(tmp_path, [], contradictions=16, kind=kind)
        run.facts["data"]["sets"]["train"]["labels"] = {"mean": 2.5, "std": 1.4}
        (advice,) = advise(run)
        assert advice.topic == "labels"
        assert "--" not in advice.text


def test_a_run_that_pads_to_more_is_given_both_flags(tmp_path: Path) -> None:
    outcome = made(tmp_path, FALLING, padding=(0.6, 0.05))
    outcome.config["padding"] = "max_length"
    assert advise(outcome)[0].text.endswith("--batching length_grouped --padding longest")


def test_numbers_to_learn_are_held_against_their_spread(tmp_path: Path) -> None:
    outcome = made(tmp_path, [2.2, 2.1, 2.0, 2.1], kind="regression")
    outcome.facts["data"]["sets"]["train"]["labels"] = {"mean": 2.5, "std": 1.4}
    (advice,) = advise(outcome)
    assert "below 1.96, that of a model that ignores the texts: 2.2 at first, 2.1 at the end" in advice.text
    outcome.facts["data"]["sets"]["train"]["labels"]["std"] = 1.5
    assert advise(outcome) == []
    # Numbers far from 0, of which a new head knows nothing: a falling loss above their spread is no rate too high.
    far = made(tmp_path, [7.54, 7.5, 7.45, 7.34], kind="regression")
    far.facts["data"]["sets"]["train"]["labels"] = {"mean": 2.4, "std": 1.1}
    assert "too high" not in "".join(advice.text for advice in advise(far))


def test_a_run_that_left_little_is_advised_nothing(tmp_path: Path) -> None:
    assert advise(FinishedRun(tmp_path, {}, {}, 1, {}, [], {}, {}, {})) == []


def test_what_cannot_be_read_is_a_line_and_fails_no_run(tmp_path: Path) -> None:
    assert [line[:16] for line in advice_lines(tmp_path)] == ["Advice    none: "]
    outcome = made(tmp_path, FALLING)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": outcome.history}))
    (tmp_path / "ftloop_run.json").write_text(json.dumps(outcome.facts))
    assert list(advice_lines(tmp_path)) == []
    read_predictions(outcome.predictions["validation"])
    (tmp_path / "validation_predictions.parquet").write_bytes(b"no parquet")
    (line,) = advice_lines(tmp_path)
    assert "could not be read as expected" in line


@pytest.mark.parametrize(
    ("updates", "text"),
    [
        (1, "1 update is too few to say why: train longer"),
        (4, "4 updates are too few to say why: train longer"),
        (8, "Too little was logged to say why: --logging_steps 1 would"),
        (16, "Too little was logged to say why: --logging_steps 2 would"),
        (500, "Too little was logged to say why: --logging_steps 10 would"),
    ],
)
def test_logging_steps_that_are_advised_fit_the_run(updates: int, text: str) -> None:
    assert _more_log_lines(SimpleNamespace(state={"global_step": updates})) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "model", "told"),
    [
        (0.9, 0.8, "reach accuracy 0.9 on test, and this model 0.8."),
        (0.9, 0.9, "reach accuracy 0.9 on test, the same as this model."),
        (0.8, 0.9, ""),
        (None, 0.9, ""),
    ],
)
def test_words_alone_that_do_as_well_are_told(words: float | None, model: float, told: str, tmp_path: Path) -> None:
    found = words_beside(tmp_path, "accuracy", words, model, rows=120)
    assert [told in text for text in found] == ([True] if told else [])


def test_of_an_error_less_is_better_and_of_few_rows_nothing_is_said(tmp_path: Path) -> None:
    assert words_beside(tmp_path / "a", "mse", 0.5, 0.6, rows=120)
    assert not words_beside(tmp_path / "b", "mse", 0.6, 0.5, rows=120)
    assert not words_beside(tmp_path / "c", "accuracy", 0.9, 0.8, rows=99)
    assert words_beside(tmp_path / "d", "accuracy", 1.0, 0.9, rows=99)[0].endswith("Take the simple one")


def words_beside(root: Path, metric: str, words: float | None, model: float, rows: int) -> list[str]:
    kind = "regression" if metric == "mse" else "single_label_classification"
    folder = left_by_a_run(root / "run", kind, 3, rows)
    facts = json.loads((folder / "ftloop_run.json").read_text())
    facts["words"] = {"rows": 100, "sets": {"test": {metric: words}}}
    (folder / "ftloop_run.json").write_text(json.dumps(facts))
    run = replace(read_finished_run(folder), results={f"test_{metric}": model}, config={})
    return [each.text for each in advise(run) if each.topic == "words"]
