"""Fit how a finished model decides, on its validation set: a temperature, and
thresholds for a metric of choice.

ftloop calibrate DIR                   for F1, of the positive or of each label
ftloop calibrate DIR --metric accuracy
ftloop calibrate DIR --metric none     the temperature alone

Writes DIR/decision.json, which `ftloop predict` and `load_classifier` use from
then on; the test set judges it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ftloop.config.problem_type import ProblemType
from ftloop.data.decision import Decision
from ftloop.errors import UserError
from ftloop.report.outcome import MERGED, FinishedRun, read_finished_run
from ftloop.report.predictions import Predictions, load_predictions
from ftloop.report.scoring import score_predictions
from ftloop.system.atomic import write_text
from ftloop.system.console import say, write
from ftloop.system.exit import end_of
from ftloop.system.flags import CommandParser
from ftloop.system.manifest import DECISION
from ftloop.system.table import aligned
from ftloop.system.text import expand_path, pluralize

METRICS = ("f1", "accuracy", "balanced_accuracy", "matthews_correlation", "none")
SHOWN = (
    *("accuracy", "f1", "f1_macro", "balanced_accuracy", "matthews_correlation"),
    *("log_loss", "brier", "calibration_error"),
)
MIN_ROWS = 50  # of the validation set; fewer tell no temperature
MIN_OF_CLASS = 10  # rows with and without a label; fewer tell no threshold
BOUNDS = (-3.0, 3.0)  # of the temperature's logarithm: from 0.05 to 20


def fit(predictions: Predictions, metric: str = "f1") -> Decision:
    """Fit a decision to the rows of a labelled set.

    Raises: UserError for numbers, and where there are too few rows.
    """
    rows, kind = len(predictions.labels), predictions.problem_type
    if kind == ProblemType.REGRESSION:
        raise UserError("the model predicts numbers, which have no probabilities and no thresholds")
    if rows < MIN_ROWS:
        raise UserError(f"{pluralize(rows, 'validation row')} are too few to fit anything to: at least {MIN_ROWS}")
    decision = Decision(fit_temperature(predictions))
    if metric == "none":
        return decision
    shares = decision.probabilities(kind, predictions.logits.astype(np.float64))
    if kind == ProblemType.MULTI_LABEL:
        thresholds = [
            best_threshold(predictions.labels[:, i], shares[:, i], metric) for i in range(len(predictions.names))
        ]
        return replace(decision, thresholds=tuple(thresholds))
    if predictions.classes.is_binary:
        positive = predictions.classes.positive
        threshold = best_threshold(predictions.labels == positive, shares[:, positive], metric)
        both = (threshold, 1 - threshold) if positive == 0 else (1 - threshold, threshold)
        return replace(decision, thresholds=both)
    return decision


def fit_temperature(predictions: Predictions) -> float:
    """Return the temperature under which the labels are most likely: of the cross-entropy the minimum, over all labels
    where a row has several. (Guo et al., 2017.) Where no row is wrong it is 1: the likeliest would be next to 0, and
    make every new row certain.
    """
    if np.array_equal(predictions.labels, predictions.predicted):
        return 1.0
    logits, labels = predictions.logits.astype(np.float64), predictions.labels

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if predictions.problem_type == ProblemType.MULTI_LABEL:
            return float(np.logaddexp(0.0, np.where(labels, -scaled, scaled)).mean())
        return float(-log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=BOUNDS, method="bounded").x))


def best_threshold(true: np.ndarray, shares: np.ndarray, metric: str) -> float:
    """Return the threshold with the highest metric, halfway between two rows: of several the one nearest to one half,
    and that one where there are too few rows of a kind.
    """
    positives = int(true.sum())
    if min(positives, len(true) - positives) < MIN_OF_CLASS:
        return 0.5
    order = np.argsort(-shares, kind="stable")
    ordered, hits = shares[order], np.cumsum(true[order])
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # rows of one probability go together
    chosen = np.concatenate([[0], last + 1])
    found = np.concatenate([[0], hits[last]])
    edges = np.concatenate([[1.0], ordered[last], [0.0]])
    candidates = (edges[:-1] + edges[1:]) / 2
    values = _values(found, chosen, positives, len(true), metric)
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(candidates[best[np.abs(candidates[best] - 0.5).argmin()]])


def _values(found: np.ndarray, chosen: np.ndarray, positives: int, rows: int, metric: str) -> np.ndarray:
    """Score each number of `chosen` rows, of which `found` are positive."""
    rejected = rows - positives - (chosen - found)  # rightly
    if metric == "accuracy":
        return np.asarray((found + rejected) / rows)
    if metric == "balanced_accuracy":
        return np.asarray((found / positives + rejected / (rows - positives)) / 2)
    if metric == "matthews_correlation":
        above = found * rows - chosen * positives
        below = np.sqrt(1.0 * chosen * (rows - chosen) * positives * (rows - positives))
        return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    return np.asarray(2 * found / (chosen + positives))


def decided(predictions: Predictions, decision: Decision) -> Predictions:
    """Return the predictions as the decision makes them."""
    labels = decision.labels(predictions.problem_type, predictions.logits.astype(np.float64))
    return replace(predictions, logits=predictions.logits / np.float32(decision.temperature), predicted=labels)


def calibrate(run: FinishedRun, metric: str) -> dict[str, Any]:
    """Fit to the validation set and judge on the test set, if that has labels. Returns: what decision.json holds."""
    if not run.facts:
        raise UserError(f"{run.folder}: no run of ftloop train or finish() has ended here")
    fitted_on = next((name for name in run.predictions if name.startswith("validation")), None)
    if fitted_on is None:
        way = "train with --validation_file, or --validation_split 0.1"
        raise UserError(f"{run.folder}: no predictions of a labelled validation set, which it is fitted to; {way}")
    predictions = load_predictions(run, fitted_on)[1].finite()
    decision = fit(predictions, metric)
    judged_on = next((name for name in run.predictions if name.startswith("test")), fitted_on)
    judged = load_predictions(run, judged_on)[1].finite()
    before, after = (score_predictions(each)["metrics"] for each in (judged, decided(judged, decision)))
    return {
        "format": 1,
        "problem_type": str(predictions.problem_type),
        "labels": list(predictions.names),
        "temperature": decision.temperature,
        "thresholds": decision.thresholds,
        "metric": metric,
        "fitted_on": {"set": fitted_on, "rows": len(predictions.labels)},
        "judged_on": {"set": judged_on, "rows": len(judged.labels)},
        "before": {name: before[name] for name in SHOWN if name in before},
        "after": {name: after[name] for name in SHOWN if name in after},
    }


def announce(folder: Path, found: dict[str, Any], positive: int) -> None:
    decision = Decision(found["temperature"], found["thresholds"])
    fitted, judged = found["fitted_on"], found["judged_on"]
    what = decision.describe(found["labels"], positive)
    if decision.temperature == 1.0:
        say("Note", f"no row of {fitted['set']} is wrong, which tells no temperature: probabilities stay as they are")
    of_metric = "" if decision.thresholds is None else f" for {found['metric']}"
    say("Fitted", f"{what}{of_metric}, to {fitted['rows']} rows of {fitted['set']}")
    if judged["set"] == fitted["set"]:
        say("Judged", "on the rows that it was fitted to, as no test set has labels: new rows will do worse")
    else:
        say("Judged", f"on {judged['rows']} rows of {judged['set']}")
    rows = [["", "before", "95 % interval", "after", "95 % interval"]]
    for name, score in found["before"].items():
        rows.append([name, *_cells(score), *_cells(found["after"][name])])
    for line in aligned(rows):
        write(f"          {line}")
    say("Written", f"{folder / DECISION}: ftloop predict and load_classifier decide by it; without the file, as before")


def _cells(score: dict[str, Any]) -> list[str]:
    value = "" if score["value"] is None else f"{score['value']:.4f}"
    return [value, "" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="ftloop calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="the output_dir of a finished run")
    told = f"what the thresholds are for: {', '.join(METRICS)}; f1 by default"
    parser.add_argument("--metric", choices=METRICS, metavar="NAME", default="f1", help=told)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    args = parser.parse_args(argv)
    return end_of(lambda: _calibrate(args), args.traceback)


def _calibrate(args: argparse.Namespace) -> None:
    folder = expand_path(args.folder, "DIR")
    run = read_finished_run(folder)
    found = calibrate(run, args.metric)
    for each in (folder, folder / MERGED):  # of an adapter, beside the whole model too
        if each.is_dir():
            write_text(each / DECISION, json.dumps(found, indent=2) + "\n")
    positive = run.facts["data"].get("positive")
    announce(folder, found, found["labels"].index(positive) if positive in found["labels"] else 1)


if __name__ == "__main__":
    sys.exit(main())
