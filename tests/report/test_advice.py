"""What a run is advised: each line is planted in a run as it would have been left, and is silent in one beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.finished_runs import NAMES, left_by_a_run
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error

from ftloop.report.advice import advice_lines, advise
from ftloop.report.course import _more_log_lines
from ftloop.report.outcome import FinishedRun, read_finished_run, read_predictions

# --- made outcomes: each threshold from both sides -------------------------------------------------------------------


def made(
    folder: Path,
    training: list[float],
    validation: list[tuple[float, float]] = (),  # type: ignore[assignment]
    confusion: tuple[tuple[int, int], tuple[int, int]] = ((180, 20), (20, 180)),
    margins: tuple[float, float] = (2.0, 2.0),
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
    words: float | None = None,
    input_limit: int | None = None,
    evaluated_at: tuple[float, ...] = (1.0, 2.0, 3.0),
    **config: Any,
) -> FinishedRun:
    """A run of 50 updates an epoch, as it would have been left: a log line every 10 of 8 rows, an evaluation every
    epoch, of loss and F1. `confusion`: by label and prediction, of the validation set at the end; `margins`: of its
    logits, where they are right and where wrong; `words`: the accuracy that words alone have there.
    """
    rate, is_class = config.setdefault("learning_rate", 5e-5), kind.startswith("single")
    history: list[dict[str, Any]] = [
        {
            "loss": loss,
            "grad_norm": 0.9,
            "learning_rate": rate / 2,
            "epoch": (i + 1) / 5,
            "step": 10 * (i + 1),
        }
        for i, loss in enumerate(training)
    ]
    for epoch, (loss, f1) in zip(evaluated_at, validation, strict=False):
        at = {"epoch": epoch, "step": int(50 * epoch)}
        history.append({"eval_loss": loss, "eval_f1": f1, "eval_accuracy": f1, **at})
    history.sort(key=lambda each: each["step"])
    pairs = np.array([(a, b) for a in (0, 1) for b in (0, 1) for _ in range(confusion[a][b])]).reshape(-1, 2)
    labels, predicted = pairs.T
    margin = np.where(predicted == 1, 1, -1) * np.where(labels == predicted, *margins)
    losses = np.logaddexp(0, np.where(labels == 1, -margin, margin))
    names = np.array(["no", "yes"])
    logits = pa.FixedSizeListArray.from_arrays(np.column_stack([-margin / 2, margin / 2]).astype(np.float32).ravel(), 2)
    table = pa.table({"text": names[labels], "label": names[labels], "prediction": names[predicted], "logits": logits})
    pq.write_table(table, folder / "validation_predictions.parquet")
    train = {"rows": sum(counts), "truncated": truncated, "labels": {"no": counts[0], "yes": counts[1]}}
    in_validation = {"no": int((labels == 0).sum()), "yes": int((labels == 1).sum())}
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
            "longest_input": config.get("max_seq_length") or 128,
            "input_limit": input_limit,
            "sets": {"train": train, "validation": {"rows": len(pairs), "truncated": 0, "labels": in_validation}},
        },
        "padding": {"share": padding[0], "length_grouped": padding[1], "can_be_left_out": can_be_left_out},
        "words": {} if words is None else {"rows": sum(counts), "sets": {"validation": {"accuracy": words}}},
    }
    ended = evaluated_at[len(validation) - 1] if validation else 0.0
    state = {"epoch": ended, "best_global_step": config.pop("best", None)}
    defaults = {"max_grad_norm": 1.0, "max_steps": -1, "metric_for_best_model": "f1", "padding": "longest"}
    files = {"validation": folder / "validation_predictions.parquet"} if is_class else {}
    results = {"eval_loss": float(losses.mean()) if eval_loss is None else eval_loss} if is_class else {}
    results |= {} if words is None else {"eval_accuracy": float((labels == predicted).mean())}
    return FinishedRun(folder, defaults | config, {}, 1, facts, history, state, results, files)


FALLING = [0.69, 0.66, 0.6, 0.55, 0.5, 0.45, 0.42, 0.38, 0.36, 0.34, 0.3, 0.31, 0.28, 0.29, 0.27]
GOOD = [(0.5, 0.8), (0.4, 0.87), (0.39, 0.9)]
FLAT = [0.69, 0.70, 0.69, 0.69] * 5
CONSTANT = ((200, 0), (200, 0))
CHANCE = ((100, 100), (100, 100))
WEAK: dict[str, Any] = {"margins": (1.0, 1.0)}
UNSURE: dict[str, Any] = {"margins": (0.2, 0.2)}
MANY = ((1800, 200), (200, 1800))
RATE_FIRST = (
    "The learning rate, {}, is far above those with which a whole pretrained transformer is fine-tuned. Try "
    "--learning_rate 2e-5, and no more than 5e-5"
)

# What is made, the topics of the advice, and words of the first.
MADE: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "one that learns": ({"training": FALLING, "validation": GOOD}, [], ""),
    "one that was not logged nor evaluated": ({"training": []}, [], ""),
    "one with three log lines": ({"training": FLAT[:3], "confusion": CHANCE, **UNSURE}, [], ""),
    "one that learns a little": ({"training": [0.69] * 10 + [0.65] * 5}, [], ""),
    "one whose loss is that of the classes' shares, but which knows more": ({"training": FLAT}, [], ""),
    "one with a bad day in between": ({"training": [*FALLING[:6], 0.9, *FALLING[6:]], "validation": GOOD}, [], ""),
    "one of 68 to 32 rows, none of whose loss is far below its entropy": (
        {
            "training": [0.66, 0.64, 0.63, 0.6, 0.59, 0.59],
            "counts": (256, 544),
            "confusion": ((60, 69), (50, 229)),
            **WEAK,
        },
        [],
        "",
    ),
    "a flat loss, and one answer": (
        {"training": FLAT, "confusion": CONSTANT, **UNSURE, "learning_rate": 5e-4},
        ["training loss"],
        "A learning rate too high for a pretrained model often ends so, and 0.0005 is high. Try --learning_rate 2e-05",
    ),
    "the same of a tiny model, which may want such a rate": (
        {"training": FLAT, "confusion": CONSTANT, **UNSURE, "learning_rate": 5e-4, "parameters": 90_000},
        ["training loss"],
        "nothing was found in text that label depends on",
    ),
    "a flat loss after enough updates": (
        {"training": FLAT, "confusion": CHANCE, **UNSURE},
        ["training loss"],
        "--learning_rate 0.0001 and 2e-05",
    ),
    "a flat loss after few": (
        {
            "training": FLAT[:4],
            "confusion": CHANCE,
            **UNSURE,
            "learning_rate": 2e-5,
            "validation": [(0.7, 0.5)],
        },
        ["training loss"],
        "40 updates at up to 2e-05 can have moved a weight by about 0.0004: too few updates. Try --num_train_epochs",
    ),
    "the same where max_steps counts": (
        {"training": FLAT[:4], "confusion": CHANCE, **UNSURE, "learning_rate": 2e-5, "max_steps": 40},
        ["training loss"],
        "too few updates. Try --max_steps 300",
    ),
    "a rate far too high, one answer, and nothing logged": (
        {"training": [], "confusion": CONSTANT, **UNSURE, "learning_rate": 1.1e-3},
        ["training loss"],
        f"as are 50% of its labels. {RATE_FIRST.format('0.0011')}",
    ),
    "one that is not far too high, and nothing logged": (
        {"training": [], "confusion": CONSTANT, **UNSURE, "learning_rate": 1e-3},
        ["training loss"],
        "too few to say why",
    ),
    "a rate far too high that does well": (
        {"training": FALLING, "validation": GOOD, "learning_rate": 2e-3},
        [],
        "",
    ),
    "the same, logged": (
        {"training": FLAT, "confusion": CONSTANT, **UNSURE, "learning_rate": 2e-3},
        ["training loss"],
        f"as are 50% of its labels. {RATE_FIRST.format('0.002')}",
    ),
    "the same with weights, of which no loss to beat is known": (
        {
            "training": FLAT,
            "confusion": CONSTANT,
            **UNSURE,
            "learning_rate": 2e-3,
            "class_weights": {"no": 1, "yes": 9},
        },
        ["training loss"],
        f"as are 50% of its labels. {RATE_FIRST.format('0.002')}",
    ),
    "a flat loss at a rate far too high, and several answers": (
        {"training": FLAT, "confusion": CHANCE, **UNSURE, "learning_rate": 0.01},
        ["training loss"],
        f"at the end. {RATE_FIRST.format('0.01')}",
    ),
    "such a rate for an adapter": (
        {
            "training": FLAT,
            "confusion": CONSTANT,
            **UNSURE,
            "learning_rate": 2e-3,
            "adapter": "LoRA",
            "trained_parameters": 9,
        },
        ["training loss"],
        "nothing was found in text that label depends on",
    ),
    "such a rate for a head on a frozen body": (
        {"training": FLAT, "confusion": CONSTANT, **UNSURE, "learning_rate": 2e-3, "trained_parameters": 49_000_000},
        ["training loss"],
        "nothing was found in text that label depends on",
    ),
    "such a rate beside frozen embeddings": (
        {"training": FLAT, "confusion": CONSTANT, **UNSURE, "learning_rate": 2e-3, "trained_parameters": 70_000_000},
        ["training loss"],
        RATE_FIRST.format("0.002"),
    ),
    "such a rate for a tiny model": (
        {"training": [], "confusion": CONSTANT, **UNSURE, "learning_rate": 0.01, "parameters": 90_000},
        ["training loss"],
        "too few to say why",
    ),
    "a rate far too high for a tiny model, too": (
        {"training": [], "confusion": CONSTANT, **UNSURE, "learning_rate": 0.011, "parameters": 90_000},
        ["training loss"],
        RATE_FIRST.format("0.011"),
    ),
    "one answer to few rows, and a loss that knows nothing": (
        {"training": [], "confusion": ((8, 0), (2, 0)), "counts": (640, 160), "margins": (1.3, 1.3)},
        ["training loss"],
        "All 10 predictions on validation are 'no', as are 80% of its labels. 0 updates are too few to say why",
    ),
    "one answer to few rows, and a loss that knows more": (
        {"training": [], "confusion": ((8, 0), (2, 0)), "counts": (640, 160), "margins": (2.0, 0.5)},
        [],
        "",
    ),
    "one answer to too few rows": (
        {"training": [], "confusion": ((7, 0), (2, 0)), "counts": (640, 160), "margins": (1.3, 1.3)},
        [],
        "",
    ),
    "one answer to few rows, of which one is of another class": (
        {"training": [], "confusion": ((12, 0), (1, 0)), "counts": (640, 160), "margins": (1.3, 1.3)},
        [],
        "",
    ),
    "a rate below all that are used": (
        {"training": FLAT, "confusion": CONSTANT, **UNSURE, "learning_rate": 5e-6},
        ["training loss"],
        "too low",
    ),
    "a loss that ends above a coin's": (
        {"training": [0.69, 0.8, 0.78, 0.77], "confusion": CONSTANT, **UNSURE, "learning_rate": 1e-3},
        ["training loss"],
        "It rose: the learning rate, 0.001, is probably too high. Try --learning_rate 2e-05 and --warmup_ratio 0.1",
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
        {"training": [0.69] * 12, "confusion": CONSTANT, **UNSURE, "class_weights": {"no": 1, "yes": 9}},
        ["training loss"],
        "All 400 predictions on validation are 'no', as are 50% of its labels. 120 updates may be too few. Try "
        "--num_train_epochs 2",
    ),
    "a rise of the validation loss just too small": (
        {"training": FALLING, "validation": [(0.5, 0.8), (0.4, 0.87), (0.449, 0.88)], "confusion": MANY},
        [],
        "",
    ),
    "a rise just large enough, of a kept best by F1": (
        {
            "training": FALLING,
            "validation": [(0.5, 0.8), (0.45, 0.87), (0.501, 0.88)],
            "confusion": MANY,
            "load_best_model_at_end": True,
            "best": 150,
        },
        ["overfitting"],
        "Overfitting from epoch 3 on: since epoch 2 the validation loss rose from 0.45 to 0.501 while the training "
        "loss fell from 0.39 to 0.29, and f1 went from 0.87 to 0.88: the predictions are no worse, but more certain "
        "than they should be. The best model by f1, of epoch 3, was kept. Try --num_train_epochs 2, or "
        "--metric_for_best_model loss",
    ),
    "such a rise of few rows, where it may be chance": (
        {"training": FALLING, "validation": [(0.5, 0.8), (0.45, 0.87), (0.501, 0.88)], "confusion": ((45, 5), (5, 45))},
        [],
        "",
    ),
    "a rise, and worse predictions, in a run by updates": (
        {
            "training": FALLING,
            "validation": [(0.5, 0.8), (0.45, 0.87), (0.601, 0.85)],
            "confusion": MANY,
            "max_steps": 150,
        },
        ["overfitting"],
        "and f1 went from 0.87 to 0.85. The last model was kept. Try --max_steps 100, or --load_best_model_at_end",
    ),
    "a rise within the last epoch, which no shorter run of whole epochs leaves out": (
        {
            "training": FALLING,
            "validation": [(0.5, 0.8), (0.45, 0.87), (0.601, 0.85)],
            "confusion": MANY,
            "evaluated_at": (0.5, 1.1, 1.5),
        },
        ["overfitting"],
        "The last model was kept. Try --load_best_model_at_end --eval_strategy epoch --save_strategy epoch, which",
    ),
    "a rise of a tiny loss": ({"training": FALLING, "validation": [(0.5, 0.8), (0.01, 0.99), (0.05, 0.99)]}, [], ""),
    "a rise while the training loss does not fall": (
        {"training": [*FALLING[:10], *[0.38] * 5], "validation": [(0.5, 0.8), (0.4, 0.87), (0.6, 0.8)]},
        [],
        "",
    ),
    "both losses that still fall": (
        {"training": FALLING, "validation": [(0.6, 0.7), (0.5, 0.8), (0.4, 0.85)], "confusion": MANY},
        ["not finished"],
        "Not finished: from epoch 2 to 3 the training loss still fell, from 0.39 to 0.29, and so did the validation "
        "loss, from 0.5 to 0.4; f1 went from 0.8 to 0.85. Try --num_train_epochs 6",
    ),
    "the same in a run by updates": (
        {
            "training": FALLING,
            "validation": [(0.6, 0.7), (0.5, 0.8), (0.4, 0.85)],
            "confusion": MANY,
            "max_steps": 150,
        },
        ["not finished"],
        "Try --max_steps 300",
    ),
    "the same of few rows, where it may be chance": (
        {"training": FALLING, "validation": [(0.6, 0.7), (0.5, 0.8), (0.4, 0.85)], "confusion": ((18, 2), (2, 18))},
        [],
        "",
    ),
    "the same where no row is wrong any more": (
        {"training": FALLING, "validation": [(0.6, 0.7), (0.5, 1), (0.4, 1)], "confusion": ((2000, 0), (0, 2000))},
        [],
        "",
    ),
    "a validation loss that falls while the training loss stays": (
        {
            "training": [*FALLING[:10], *[0.38] * 5],
            "validation": [(0.6, 0.7), (0.5, 0.8), (0.4, 0.85)],
            "confusion": MANY,
        },
        [],
        "",
    ),
    "a flat loss after 26 updates": (
        {"training": [0.69, 0.70, 0.69, 0.69, 0.7, 0.69], "confusion": CHANCE, **UNSURE},
        ["training loss"],
        "60 updates may be too few. Try --num_train_epochs 4",
    ),
    "a flat loss of texts that words alone can tell apart": (
        {"training": FLAT, "confusion": CHANCE, **UNSURE, "words": 0.56},
        ["training loss", "words"],
        "Words alone predict the label better than that, so the texts tell it. Try --learning_rate 0.0001",
    ),
    "a flat loss of texts that words alone cannot tell apart": (
        {"training": FLAT, "confusion": CHANCE, **UNSURE, "words": 0.49},
        ["training loss"],
        "nothing was found in text that label depends on, nor by words alone: check whether",
    ),
    "a loss just below that of the classes' shares that goes on falling": (
        {"training": [0.72, 0.715, 0.71, 0.705, 0.7, 0.695, 0.68, 0.665], "confusion": CHANCE, **UNSURE},
        ["training loss"],
        "and is not yet clearly below 0.693, that of a model that ignores the texts. Try --num_train_epochs 3",
    ),
    "a flat loss of few rows of a rare class, which shows nothing": (
        {"training": [0.2, 0.3, 0.1, 0.25, 0.2, 0.22], "counts": (760, 40), "confusion": ((15, 0), (1, 0))},
        [],
        "",
    ),
    "a loss of the run's own, of which no loss to beat is known": (
        {"training": [2.1] * 20, "confusion": CHANCE, **UNSURE, "eval_loss": 2.1},
        [],
        "",
    ),
    "Trainer's own logged loss, which accumulation multiplies": (
        {
            "training": [2.6] * 20,
            "confusion": CHANCE,
            **UNSURE,
            "gradient_accumulation_steps": 4,
            "trainer_compat": True,
        },
        [],
        "",
    ),
    "one answer, and probabilities that know more": (
        {"training": FALLING, "counts": (700, 100), "confusion": ((350, 0), (50, 0)), "margins": (3.0, 0.5)},
        ["one class"],
        "All 400 predictions on validation are 'no', as are 88% of its labels, though its probabilities tell the "
        "classes apart better than chance: few rows are of the others. Try ftloop calibrate, which fits the threshold, "
        "--class_weights balanced or --num_train_epochs 2",
    ),
    "the same of too few rows for a threshold, and with weights": (
        {
            "training": FALLING,
            "counts": (700, 100),
            "confusion": ((63, 0), (9, 0)),
            "margins": (3.0, 0.5),
            "class_weights": "balanced",
        },
        ["one class"],
        "better than chance: few rows are of the others. Try --num_train_epochs 2",
    ),
    "the same where as many rows are of the other class": (
        {"training": FALLING, "confusion": ((200, 0), (200, 0)), "margins": (1.0, 0.1)},
        ["one class"],
        "better than chance: it has only begun to learn. Try --num_train_epochs 2",
    ),
    "a validation loss above that of knowing nothing, of a model that knows": (
        {"training": FALLING, "confusion": ((160, 40), (40, 160)), "margins": (6.0, 6.0)},
        ["validation loss"],
        "The validation loss, 1.2, is above 0.693, that of a model that ignores the texts (400 rows), while the "
        "training loss fell to 0.28: it is overfitted, more certain than it is right. Try fewer epochs",
    ),
    "the same of a model that knows nothing of other rows": (
        {"training": FALLING, "confusion": CHANCE, "margins": (4.0, 4.0), "words": 0.49},
        ["validation loss"],
        "it seems to have learned its training rows by heart, and nothing that holds for others. Try more rows, or",
    ),
    "the same of words that tell": (
        {"training": FALLING, "confusion": CHANCE, "margins": (4.0, 4.0), "words": 0.6},
        ["validation loss", "words"],
        "by heart. Try more rows, or fewer epochs (--num_train_epochs)",
    ),
    "a validation loss that is above it by chance": (
        {"training": FALLING, "confusion": ((10, 3), (3, 10)), "margins": (3.5, 3.5)},
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
        {"training": FALLING, "truncated": 400, "max_seq_length": 128, "input_limit": 512},
        ["truncation"],
        "400 of 800 training rows (50%) are cut off at 128 tokens: the rest is not read. Try --max_seq_length 256",
    ),
    "half of the rows truncated, and less than twice as much would fit": (
        {"training": FALLING, "truncated": 400, "max_seq_length": 400, "input_limit": 512},
        ["truncation"],
        "Try --max_seq_length 512",
    ),
    "half of the rows truncated, by hand, where the model ends": (
        {"training": FALLING, "truncated": 400, "max_seq_length": 512, "input_limit": 512},
        ["truncation"],
        "a model with longer inputs",
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
    for rate in (5e-5, 1e-4, 3e-4, 5e-4, 1e-3, 3e-3, 1e-2, 1e-1):
        run = made(
            tmp_path,
            FLAT,
            confusion=CHANCE,
            margins=(0.2, 0.2),
            learning_rate=rate,
            adapter=adapter,
            parameters=parameters,
        )
        (advice,) = advise(run)
        tried = [float(each) for each in re.findall(r"\d[\d.e-]*", advice.text.partition("--learning_rate ")[2])]
        usual = 1e-4 if adapter is None and parameters > 10_000_000 else 1e-3
        assert tried, advice.text
        assert max(tried) <= max(usual, rate / 2), advice.text


def test_no_flag_is_advised_that_the_run_would_refuse(tmp_path: Path) -> None:
    assert advise(made(tmp_path, FALLING, padding=(0.6, 0.05), trainer_compat=True)) == []
    for kind in ("regression", "multi_label_classification"):
        run = made(tmp_path, [], contradictions=16, kind=kind)
        run.facts["data"]["sets"]["train"]["labels"] |= {"mean": 2.5, "std": 1.4}
        (advice,) = advise(run)
        assert advice.topic == "labels"
        assert "--" not in advice.text


def test_a_run_that_pads_to_more_is_given_both_flags(tmp_path: Path) -> None:
    outcome = made(tmp_path, FALLING, padding=(0.6, 0.05))
    outcome.config["padding"] = "max_length"
    assert advise(outcome)[0].text.endswith("--batching length_grouped --padding longest")


def numbers(folder: Path, training: list[float], std: float, mean: float = 2.5) -> FinishedRun:
    outcome = made(folder, training, kind="regression")
    outcome.facts["data"]["sets"]["train"]["labels"] = {"mean": mean, "std": std}
    return outcome


def test_numbers_to_learn_are_held_against_their_spread(tmp_path: Path) -> None:
    (advice,) = advise(numbers(tmp_path, [2.2, 2.1, 2.0, 2.1] * 10, 1.4))
    assert "below 1.96, that of always answering the mean: 2.11 at first, 2.09 at the end" in advice.text
    assert advise(numbers(tmp_path, [2.2, 2.1, 2.0, 2.1] * 10, 1.5)) == []
    assert advise(numbers(tmp_path, [2.2, 2.1, 2.0, 2.1], 1.4)) == [], "32 rows a line do not show that"
    # Numbers far from 0, of which a new head knows nothing: a falling loss above their spread is no rate too high.
    far = advise(numbers(tmp_path, [7.54, 7.5, 7.45, 7.34], 1.1))
    assert "too high" not in "".join(advice.text for advice in far)


def test_a_loss_that_still_falls_above_the_constant_answer_is_not_finished(tmp_path: Path) -> None:
    falling = [10.9, 9.9, 8.8, 8.1, 7.4, 6.87]
    (advice,) = advise(numbers(tmp_path, falling, 1.1))
    assert advice.text == (
        "Not finished: the training loss still falls, 10.9 at first and 6.87 at the end. It is above 1.21, that of "
        "always answering the mean. Try --num_train_epochs 3"
    )
    (flat,) = advise(numbers(tmp_path, [*falling, *[6.9, 6.8, 6.9, 6.8] * 9], 1.1))
    assert "the training loss has fallen, but not far enough, 7.94 at first and 6.85 at the end" in flat.text
    (never,) = advise(numbers(tmp_path, [6.9, 6.8, 6.9, 6.8] * 10, 1.1))
    assert "did not fall clearly below 1.21" in never.text
    assert "Not finished" not in never.text
    assert advise(numbers(tmp_path, [*falling, 4, 2, 1.1, 0.9, 0.8, 0.8], 1.1)) == []


def test_rare_labels_are_held_against_their_own_shares(tmp_path: Path) -> None:
    several = {"kind": "multi_label_classification", "counts": (80, 40)}
    falling = [0.69, 0.66, 0.6, 0.57, 0.52, 0.48, 0.45, 0.42, 0.4, 0.385, 0.37, 0.36]
    outcome = made(tmp_path, falling, **several)  # type: ignore[arg-type]
    outcome.facts["data"]["sets"]["train"]["rows"] = 800
    (advice,) = advise(outcome)
    assert "still falls, 0.65 at first and 0.372 at the end. It is above 0.262, that of a model that" in advice.text
    learned = made(tmp_path, [0.69, 0.5, 0.35, 0.24, 0.21, 0.2], **several)  # type: ignore[arg-type]
    learned.facts["data"]["sets"]["train"]["rows"] = 800
    assert advise(learned) == []


def test_a_run_without_a_labelled_set_is_told_that_its_quality_is_unknown(tmp_path: Path) -> None:
    outcome = made(tmp_path, FALLING)
    assert advise(outcome) == []
    sets = {"train": outcome.facts["data"]["sets"]["train"], "test": {"rows": 9, "truncated": 0, "labels": None}}
    outcome.facts["data"]["sets"] = sets
    (advice,) = advise(replace(outcome, predictions={}, results={}))
    assert advice.text == (
        "How good the model is remains unknown: no validation or test set has labels, and the training loss does not "
        "show it. Try --validation_split 0.1, or --validation_file"
    )
    # Several evaluation sets from Python stand in the history alone.
    assert advise(replace(outcome, predictions={}, history=[{"step": 5, "eval_a_loss": 0.5}])) == []
    outcome.facts["data"]["sets"]["test"]["labels"] = {"no": 5, "yes": 4}
    assert advise(replace(outcome, predictions={}, results={})) == []


def test_a_run_that_early_stopping_ended_is_not_called_unfinished(tmp_path: Path) -> None:
    outcome = made(tmp_path, FALLING, validation=[(0.6, 0.7), (0.5, 0.8), (0.4, 0.85)], confusion=MANY)
    assert [advice.topic for advice in advise(outcome)] == ["not finished"]
    outcome.state.update(global_step=150, max_steps=500)
    assert advise(outcome) == []


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
        (0.95, 0.8, "reach accuracy 0.95 on test, and this model 0.8."),
        (0.9, 0.9, "reach accuracy 0.9 on test, the same as this model."),
        (0.8, 0.9, ""),
        (None, 0.9, ""),
    ],
)
def test_words_alone_that_do_as_well_are_told(words: float | None, model: float, told: str, tmp_path: Path) -> None:
    found = words_beside(tmp_path, "accuracy", words, model, rows=120)
    assert [told in text for text in found] == ([True] if told else [])


def test_of_an_error_less_is_better_and_of_few_rows_nothing_is_said(tmp_path: Path) -> None:
    assert words_beside(tmp_path / "a", "mse", 0.5, 0.6, rows=120, kind="regression")
    assert not words_beside(tmp_path / "b", "mse", 0.6, 0.5, rows=120, kind="regression")
    assert not words_beside(tmp_path / "c", "accuracy", 0.9, 0.8, rows=99)
    assert words_beside(tmp_path / "d", "accuracy", 1.0, 0.9, rows=99)[0].endswith("Take the simple one")


def f1_of_the_second(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(f1_score(true, predicted, pos_label=1))


@pytest.mark.parametrize(
    ("kind", "count", "metric", "score"),
    [
        ("single_label_classification", 2, "accuracy", accuracy_score),
        ("single_label_classification", 2, "f1", f1_of_the_second),
        ("single_label_classification", 3, "f1", partial(f1_score, average="macro")),
        ("multi_label_classification", 3, "f1", partial(f1_score, average="micro")),
        ("regression", 0, "mse", mean_squared_error),
        ("regression", 0, "spearmanr", lambda true, predicted: spearmanr(true, predicted).statistic),
    ],
)
def test_words_that_may_be_better_by_chance_are_said_to_be(
    kind: str, count: int, metric: str, score: Callable[..., float], tmp_path: Path
) -> None:
    rows, draw = 200, np.random.default_rng(3)
    folder = left_by_a_run(tmp_path / "scored", kind, count, rows)
    table = pq.read_table(folder / "test_predictions.parquet")
    true, predicted = (_as_numbers(table[name].to_pylist()) for name in ("label", "prediction"))
    model = score(true, predicted)
    resamples = [draw.integers(0, rows, rows) for _ in range(1000)]
    error = float(np.std([score(true[each], predicted[each]) for each in resamples]))
    better = -1 if metric == "mse" else 1
    hedge = f"({rows} rows, of which this may be chance)"
    for errors, is_said in ((2.2, True), (3.6, False)):
        words = model + better * errors * error
        (found,) = words_beside(tmp_path / str(errors), metric, words, model, rows, kind, count)
        assert (hedge in found) == is_said, found


def _as_numbers(values: list[Any]) -> np.ndarray:
    """Class ids in the order of NAMES, rows x labels, or the numbers as they are."""
    if isinstance(values[0], list):
        return np.array([[name in row for name in NAMES[:3]] for row in values])
    return np.array([NAMES.index(value) if isinstance(value, str) else value for value in values])


def words_beside(
    root: Path,
    metric: str,
    words: float | None,
    model: float,
    rows: int,
    kind: str = "single_label_classification",
    count: int = 3,
) -> list[str]:
    folder = left_by_a_run(root / "run", kind, count, rows)
    facts = json.loads((folder / "ftloop_run.json").read_text())
    facts["words"] = {"rows": 100, "sets": {"test": {metric: words}}}
    (folder / "ftloop_run.json").write_text(json.dumps(facts))
    run = replace(read_finished_run(folder), results={f"test_{metric}": model}, config={})
    return [each.text for each in advise(run) if each.topic == "words"]
