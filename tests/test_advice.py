"""What a run is advised: each situation is planted in a run that trains, and a healthy one is advised nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftloop.advice import _more_log_lines, advise, told
from ftloop.config import TrainConfig
from ftloop.outcome import Outcome, read_outcome, read_predictions
from ftloop.train import fine_tune

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
Numbers = Callable[[Outcome], list[str]]


@dataclasses.dataclass(frozen=True)
class Planted:
    train: Rows
    topics: list[str]
    told: Numbers
    """What has to stand in the advice, from what the run has left."""
    validation: Rows = dataclasses.field(default_factory=lambda: VALIDATION)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def losses(outcome: Outcome) -> list[float]:
    return [each["loss"] for each in outcome.history if "loss" in each]


def evaluations(outcome: Outcome, name: str = "eval_loss") -> list[float]:
    return [each[name] for each in outcome.history if name in each]


def mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3g}"


def overfitted(outcome: Outcome) -> list[str]:
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
            f"one has {math.log(2):.3g}",
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
        lambda _: ["Nothing was found in text that label depends on", "--label_column_name"],
        validation=rows(300, 1, wrong=0.5),
        settings={"num_train_epochs": 2},
    ),
    "one answer to all, and little logged": Planted(
        rows(64),
        ["training loss"],
        lambda _: [
            "All 300 predictions on validation are '1', as 53% of its labels are",
            "4 updates are too few to say why",
        ],
        settings={"learning_rate": 1e-7, "logging_steps": 500, "num_train_epochs": 1},
    ),
    "equal texts with two labels": Planted(
        contradicting(rows(500), 20),
        ["labels"],
        lambda _: ["40 of 520 training rows (8%)"],
    ),
    "wrong labels in training": Planted(
        rows(700, 2, wrong=0.25),
        ["labels"],
        lambda out: [f"the validation loss, of rows that were not trained on, is {evaluations(out)[-1]:.3g}"],
    ),
    "overfitting, and the last is kept": Planted(
        rows(64, wrong=0.3),
        ["overfitting"],
        lambda out: [*overfitted(out), "Kept was the last", "--load_best_model_at_end"],
        validation=rows(400, 1, wrong=0.3),
        settings={"num_train_epochs": 16},
    ),
    "overfitting, and the best is kept": Planted(
        rows(64, wrong=0.3),
        ["overfitting"],
        lambda out: [*overfitted(out), "Kept was the best by loss", "nothing is lost but time"],
        validation=rows(400, 1, wrong=0.3),
        settings={
            "num_train_epochs": 16,
            "save_strategy": "best",
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
        },
    ),
    "a rare class": Planted(
        mute(rows(500, share=0.05)),
        ["imbalance"],
        lambda _: ["95% of the training rows are '0'", "'1' (24 training rows) none of 8 validation rows", "balanced"],
        validation=mute(rows(300, 1, share=0.05)),
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
            f"it would be {out.facts['padding']['length_grouped']:.0%}",
            "--batching length_grouped",
        ],
    ),
    "clipping": Planted(
        rows(500),
        ["clipping"],
        lambda out: [f"all {len(losses(out))} logged gradients were longer than --max_grad_norm 0.01"],
        settings={"max_grad_norm": 0.01},
    ),
    "few validation rows": Planted(
        rows(500, wrong=0.2),
        ["validation rows"],
        lambda _: ["Validation has 60 rows", "up to 12 points in 19 of 20", "--seeds 1,2,3,4,5"],
        validation=rows(60, 1, wrong=0.2),
    ),
    "ended while it got better": Planted(
        rows(320),
        ["epochs"],
        lambda out: [
            "the validation loss fell from {:.3g} to {:.3g}".format(*evaluations(out)[-2:]),
            "f1 rose from {:.3g} to {:.3g}. Try --max_steps 72".format(*evaluations(out, "eval_f1")[-2:]),
        ],
        settings={
            "max_steps": 36,
            "eval_strategy": "steps",
            "eval_steps": 12,
            "lr_scheduler_type": "constant",
            "learning_rate": 1.5e-3,
        },
    ),
}


def trained(planted: Planted, model: Path, folder: Path) -> Outcome:
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
    return read_outcome(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_situation_is_told_with_its_numbers_and_nothing_else_is(
    name: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = PLANTED[name]
    outcome = trained(planted, tiny_folder / "model", tmp_path)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Advice ")]
    found = advise(outcome)
    assert [advice.topic for advice in found] == planted.topics, found
    assert printed == [f"Advice    {advice.text}" for advice in found]
    for words in planted.told(outcome):
        assert words in found[0].text


# --- made outcomes: each threshold from both sides -------------------------------------------------------------------


def made(
    folder: Path,
    training: list[float],
    validation: list[tuple[float, float]] = (),  # type: ignore[assignment]
    confusion: tuple[tuple[int, int], tuple[int, int]] = ((180, 20), (20, 180)),
    counts: tuple[int, int] = (400, 400),
    norm: float = 0.9,
    contradictions: int = 0,
    truncated: int = 0,
    padding: tuple[float, float | None] = (0.1, 0.05),
    parameters: int = 100_000_000,
    kind: str = "classes",
    **config: Any,
) -> Outcome:
    """A run of 50 updates an epoch, as it would have been left: a log line every 10, an evaluation every epoch, of loss
    and F1. `confusion`: by label and prediction, of the validation set at the end.
    """
    rate = config.setdefault("learning_rate", 5e-5)
    history: list[dict[str, Any]] = [
        {"loss": loss, "grad_norm": norm, "learning_rate": rate / 2, "epoch": (i + 1) / 5, "step": 10 * (i + 1)}
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
        "model": {"parameters": parameters},
        "data": {
            "kind": kind,
            "labels": ["no", "yes"],
            "text_columns": ["text"],
            "label_column": "label",
            "contradictions": {"rows": contradictions, "of": sum(counts)},
            "longest_input": 128,
            "sets": {"train": train},
        },
        "padding": {"share": padding[0], "length_grouped": padding[1]},
    }
    state = {"epoch": float(len(validation)), "best_global_step": config.pop("best", None)}
    defaults = {"max_grad_norm": 1.0, "max_steps": -1, "metric_for_best_model": "f1", "padding": "longest"}
    files = {"validation": folder / "validation_predictions.parquet"}
    return Outcome(folder, defaults | config, {}, 1, facts, history, state, {}, files)


FALLING = [0.69, 0.66, 0.6, 0.55, 0.5, 0.45, 0.42, 0.38, 0.36, 0.34, 0.3, 0.31, 0.28, 0.29, 0.27]
GOOD = [(0.5, 0.8), (0.4, 0.87), (0.39, 0.9)]
FLAT = [0.69, 0.70, 0.69, 0.69] * 4
CONSTANT = ((200, 0), (200, 0))

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
        "So ends a learning rate too high for a pretrained model, and 0.0005 is high. Try --learning_rate 2e-05",
    ),
    "the same of a tiny model, which may want such a rate": (
        {"training": FLAT, "confusion": CONSTANT, "learning_rate": 5e-4, "parameters": 90_000},
        ["training loss"],
        "Nothing was found in text that label depends on",
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
    "weights of classes: the loss of equal shares is the one to beat": (
        {"training": [0.69, 0.66, 0.6, 0.6], "counts": (720, 80), "class_weights": "balanced"},
        [],
        "",
    ),
    "weights of classes by hand: of 90 to 10 rows weighed 1 to 9, 1.25 is the loss to beat": (
        {
            "training": [1.25, 1.2, 1.15, 1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.85],
            "counts": (720, 80),
            "confusion": ((320, 40), (8, 32)),
            "class_weights": {"yes": 9, "no": 1},
        },
        ["imbalance"],  # an accuracy of 0.88
        "class weights or not",
    ),
    "smoothing: of 92 to 8 rows, 0.45 is the loss to beat": (
        {
            "training": [0.4, 0.39, 0.38, 0.36, 0.34, 0.33, 0.31, 0.31],
            "counts": (736, 64),
            "confusion": ((362, 6), (24, 8)),
            "label_smoothing_factor": 0.2,
        },
        [],
        "",
    ),
    "weights and smoothing, and a loss that did not fall": (
        {
            "training": [1.3, 1.26, 1.25, 1.25] * 3,
            "counts": (720, 80),
            "confusion": ((200, 160), (20, 20)),
            "class_weights": {"no": 1, "yes": 9},
            "label_smoothing_factor": 0.1,
        },
        ["training loss", "imbalance"],
        "1.25 at the end; without reading a text one has 1.25",
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
        "loss fell from 0.39 to 0.29, and f1 went from 0.87 to 0.88. Kept was the best by f1, of epoch 3. Try "
        "--num_train_epochs 2, or --metric_for_best_model loss",
    ),
    "a rise of a tiny loss": ({"training": FALLING, "validation": [(0.5, 0.8), (0.01, 0.99), (0.05, 0.99)]}, [], ""),
    "a rise while the training loss does not fall": (
        {"training": [*FALLING[:10], *[0.38] * 5], "validation": [(0.5, 0.8), (0.4, 0.87), (0.6, 0.8)]},
        [],
        "",
    ),
    "a class of which none is right": (
        {"training": [0.4, 0.3, 0.2, 0.2, 0.2], "counts": (720, 80), "confusion": ((360, 0), (40, 0))},
        ["imbalance"],
        "90% of the training rows are 'no', and of 'yes' (80 training rows) none of 40 validation rows is right: "
        "recall 0. Try --class_weights balanced, judge by F1, and find more rows of the rare classes",
    ),
    "the same with weights, and where F1 is the frequent class's": (
        {
            "training": [0.4, 0.3, 0.2, 0.2, 0.2],
            "counts": (80, 720),
            "confusion": ((0, 40), (0, 360)),
            "class_weights": "balanced",
        },
        ["imbalance"],
        "class weights or not. Judge by the recall of 'no', since f1 is that of 'yes'",
    ),
    "a class that is missed, but has few rows to be right in": (
        {"training": FALLING, "counts": (720, 80), "confusion": ((396, 0), (4, 0))},
        ["imbalance"],
        "accuracy of 0.990 is no better than always saying so, 0.990",
    ),
    "a majority of 90 % that is beaten": (
        {"training": FALLING, "counts": (720, 80), "confusion": ((355, 5), (20, 20))},
        [],
        "",
    ),
    "a majority of 74 % that is not": (
        {"training": FALLING, "counts": (592, 208), "confusion": ((290, 6), (98, 6))},
        [],
        "",
    ),
    "contradictions, just enough": (
        {"training": FALLING, "contradictions": 16},
        ["labels"],
        "16 of 800 training rows (2%) have texts that stand there with another label too",
    ),
    "contradictions, one too few": ({"training": FALLING, "contradictions": 15}, [], ""),
    "a training loss that settles above validation's": (
        {"training": [0.69, 0.6, 0.5, 0.5, 0.5, 0.49, 0.5, 0.5], "validation": [(0.32, 0.9)]},
        ["labels"],
        "The training loss has settled at 0.5 while the validation loss, of rows that were not trained on, is 0.32",
    ),
    "one that is not so far above": (
        {"training": [0.69, 0.6, 0.5, 0.5, 0.5, 0.49, 0.5, 0.5], "validation": [(0.34, 0.9)]},
        [],
        "",
    ),
    "one that still falls": (
        {"training": [0.69, 0.66, 0.64, 0.62, 0.6, 0.58, 0.52, 0.46], "validation": [(0.3, 0.9)]},
        [],
        "",
    ),
    "one that is smoothed": (
        {"training": [0.69, *[0.5] * 7], "validation": [(0.3, 0.9)], "label_smoothing_factor": 0.1},
        [],
        "",
    ),
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
        "25% of the computed tokens were padding; with rows of like lengths in a batch it would be 5%, and 21% less to",
    ),
    "padding to a fixed length": (
        {"training": FALLING, "padding": (0.6, 0.05)},
        ["padding"],
        "58% less to compute. Try --batching length_grouped",
    ),
    "padding that would save less": ({"training": FALLING, "padding": (0.22, 0.05)}, [], ""),
    "padding that nothing saves": ({"training": FALLING, "padding": (0.6, None)}, [], ""),
    "gradients four times the limit": (
        {"training": FALLING, "norm": 4.1},
        ["clipping"],
        "all 15 logged gradients were longer than --max_grad_norm 1, half of them than 4.1",
    ),
    "gradients of three times the limit": ({"training": FALLING, "norm": 3.9}, [], ""),
    "no limit": ({"training": FALLING, "norm": 50.0, "max_grad_norm": 0.0}, [], ""),
    "large gradients, seen nine times": ({"training": FALLING[:9], "norm": 50.0}, [], ""),
    "a validation set of 150 rows at 0.85": (
        {"training": FALLING, "validation": GOOD, "confusion": ((63, 12), (11, 64))},
        ["validation rows"],
        "up to 8 points in 19 of 20 cases, less as far as they err on the "
        "same rows; this run's evaluations lie 10 apart, which may be in good part chance",
    ),
    "a validation set of 408 rows at 0.7": ({"training": FALLING, "confusion": ((60, 69), (53, 226))}, [], ""),
    "still falling, not so fast": (
        {"training": FALLING, "validation": [(0.6, 0.7), (0.5, 0.8), (0.46, 0.85)]},
        [],
        "",
    ),
    "still falling, and no better for it": (
        {"training": FALLING, "validation": [(0.6, 0.7), (0.5, 0.85), (0.4, 0.85)]},
        [],
        "",
    ),
    "still falling fast": (
        {"training": FALLING, "validation": [(0.6, 0.7), (0.5, 0.8), (0.44, 0.85)]},
        ["epochs"],
        "the validation loss fell from 0.5 to 0.44, and f1 rose from 0.8 to 0.85. Try --num_train_epochs 6",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_a_made_run_is_advised_at_the_thresholds_and_not_before(name: str, tmp_path: Path) -> None:
    settings, topics, words = MADE[name]
    found = advise(made(tmp_path, **settings))
    assert [advice.topic for advice in found] == topics, found
    assert not topics or words in found[0].text, found[0].text


def test_no_flag_is_advised_that_the_run_would_refuse(tmp_path: Path) -> None:
    missed: dict[str, Any] = {"counts": (720, 80), "confusion": ((360, 0), (40, 0)), "metric_for_best_model": "loss"}
    outcome = made(tmp_path, [0.4, 0.3, 0.2, 0.2, 0.2], **missed)
    assert "Try --class_weights balanced, judge by F1, and find" in advise(outcome)[0].text
    outcome.results["eval_f1"] = 0.0
    assert "judge by F1 (--metric_for_best_model f1)" in advise(outcome)[0].text
    outcome.config["trainer_compat"] = True
    assert "recall 0. Judge by F1 (--metric_for_best_model f1), and find" in advise(outcome)[0].text
    padded = made(tmp_path, FALLING, padding=(0.6, 0.05), trainer_compat=True)
    assert advise(padded) == []
    for kind in ("regression", "multi_label"):
        outcome = made(tmp_path, [], contradictions=16, kind=kind)
        outcome.facts["data"]["sets"]["train"]["labels"] = {"mean": 2.5, "std": 1.4}
        (advice,) = advise(outcome)
        assert advice.topic == "labels"
        assert "--" not in advice.text


def test_classes_are_counted_under_their_own_names(tmp_path: Path) -> None:
    """ftloop_run.json has its names sorted, and the classes their own order."""
    outcome = made(tmp_path, [0.4, 0.3, 0.2, 0.2, 0.2], counts=(720, 80), confusion=((360, 0), (40, 0)))
    train = outcome.facts["data"]["sets"]["train"]
    train["labels"] = dict(reversed(train["labels"].items()))
    assert advise(outcome)[0].text.startswith(
        "90% of the training rows are 'no', and of 'yes' (80 training rows) none of"
    )


def test_the_padding_of_a_run_that_pads_to_more_is_told_both_flags(tmp_path: Path) -> None:
    outcome = made(tmp_path, FALLING, padding=(0.6, 0.05))
    outcome.config["padding"] = "max_length"
    assert advise(outcome)[0].text.endswith("--batching length_grouped --padding longest")


def test_numbers_to_learn_are_held_against_their_spread(tmp_path: Path) -> None:
    outcome = made(tmp_path, [2.2, 2.1, 2.0, 2.1], kind="regression")
    outcome.facts["data"]["sets"]["train"]["labels"] = {"mean": 2.5, "std": 1.4}
    (advice,) = advise(outcome)
    assert "2.2 at first, 2.1 at the end; without reading a text one has 1.96" in advice.text
    outcome.facts["data"]["sets"]["train"]["labels"]["std"] = 1.5
    assert advise(outcome) == []
    # Numbers far from 0, of which a new head knows nothing: a falling loss above their spread is no rate too high.
    far = made(tmp_path, [7.54, 7.5, 7.45, 7.34], kind="regression")
    far.facts["data"]["sets"]["train"]["labels"] = {"mean": 2.4, "std": 1.1}
    assert "too high" not in "".join(advice.text for advice in advise(far))


def test_a_run_that_left_little_is_advised_nothing(tmp_path: Path) -> None:
    assert advise(Outcome(tmp_path, {}, {}, 1, {}, [], {}, {}, {})) == []


def test_what_cannot_be_read_is_told_in_a_line_and_fails_no_run(tmp_path: Path) -> None:
    assert [line[:16] for line in told(tmp_path)] == ["Advice    none: "]
    outcome = made(tmp_path, FALLING)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": outcome.history}))
    (tmp_path / "ftloop_run.json").write_text(json.dumps(outcome.facts))
    assert list(told(tmp_path)) == []
    read_predictions(outcome.predictions["validation"])
    (tmp_path / "validation_predictions.parquet").write_bytes(b"no parquet")
    (line,) = told(tmp_path)
    assert "could not be read as it was expected" in line


@pytest.mark.parametrize(
    ("updates", "told"),
    [
        (4, "4 updates are too few to say why: train longer"),
        (8, "Too little was logged to say why: --logging_steps 1 would"),
        (16, "Too little was logged to say why: --logging_steps 2 would"),
        (500, "Too little was logged to say why: --logging_steps 10 would"),
    ],
)
def test_lines_of_the_log_that_are_asked_for_are_some_that_such_a_run_has(updates: int, told: str) -> None:
    assert _more_log_lines(SimpleNamespace(outcome=SimpleNamespace(state={"global_step": updates}))) == told
