"""The report of a finished run, from its files alone: `ftloop report DIR`, or `--report` when training.

It is `DIR/report/`: `report.json` with everything as numbers, the figures as PNG, and `report.html`, one file that
needs no other. The folder is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.config.reproduce import names_its_data, non_default_settings, reproducing_command, shell_line
from ftloop.data.decision import read_decision
from ftloop.errors import UserError
from ftloop.report.advice import advise
from ftloop.report.html import render_page
from ftloop.report.outcome import FinishedRun
from ftloop.report.predictions import Predictions, load_predictions
from ftloop.report.scoring import score_predictions
from ftloop.system.atomic import REPLACED, STAGING, atomic_write, commit_folder, remove, retry_once
from ftloop.system.console import say
from ftloop.system.manifest import DECISION, read_json
from ftloop.system.scalars import is_timing
from ftloop.system.text import nan_to_none
from ftloop.system.writable import check_writable

if TYPE_CHECKING:
    import pyarrow as pa

MAX_MISTAKES = 20
MAX_TEXT = 2000  # characters

Figures = dict[str, dict[str, bytes]]
"""PNGs by style, `light` and `dark`, and name."""


def make_report(run: FinishedRun, sets: str = "both") -> dict[str, Any]:
    """Return all that the report says, as plain values for JSON: the same for the same files. Raises: UserError."""
    facts, missing = run.facts, []
    wanted = [name for name in sorted(run.predictions) if sets == "both" or name.startswith(sets)]  # the test set first
    if not facts:
        missing.append("the model and its data: only `ftloop train` writes ftloop_run.json")
        missing += [f"{name}: which classes there are" for name in wanted]
    if not wanted:
        named = "" if sets == "both" else f" named {sets}"
        missing.append(
            f"scores, tables and curves of single rows: there are no predictions of a labelled set{named}; the command "
            "writes them of its validation and test set"
        )
    command = reproducing_command(run.config, run.num_processes, facts.get("device", {}))
    report = {
        "format": 1,
        "name": run.folder.resolve().name,
        "facts": facts,
        "processes": run.num_processes,
        "versions": run.versions,
        "settings": non_default_settings(run.config) if run.config else {},
        "command": shell_line(command) if names_its_data(run.config) else None,
        "went_on_with_changes": bool(run.config.get("resume_with_changes")),
        "results": run.results,
        "speed": _speed(run),
        "history": read_history(run),
        "sets": {name: _score_set(run, name) for name in wanted} if facts else {},
        "decision": _decision(run),
        "advice": [{"topic": advice.topic, "text": advice.text} for advice in advise(run)],
        "missing": missing,
    }
    plain: dict[str, Any] = nan_to_none(report)
    return plain


def _score_set(run: FinishedRun, name: str) -> dict[str, Any]:
    table, predictions = load_predictions(run, name)
    words = (run.facts.get("words") or {}).get("sets", {}).get(name)
    return score_predictions(predictions) | {"mistakes": worst_mistakes(predictions, table), "words": words}


def _decision(run: FinishedRun) -> dict[str, Any] | None:
    """Return what `ftloop calibrate` has fitted to this run, if it has. Raises: UserError where it cannot be read."""
    names = run.facts.get("data", {}).get("labels", [])
    if not (run.folder / DECISION).is_file() or not names:
        return None
    read_decision(run.folder, names)  # says what is wrong with it
    return read_json(run.folder / DECISION) | {"positive": run.facts["data"].get("positive")}


def _speed(run: FinishedRun) -> dict[str, Any]:
    """Return the speed of the last start's training, evaluations and saves within it included."""
    rows, tokens = run.results.get("train_samples_per_second"), run.facts.get("padding", {}).get("tokens_per_row")
    speed = {
        "seconds": run.results.get("train_runtime"),
        "rows_per_second": rows,
        "tokens_per_second": rows * tokens if rows and tokens else None,
    }
    return {name: value for name, value in speed.items() if value is not None}


def read_history(run: FinishedRun) -> dict[str, Any]:
    """Return what was logged as curves: points of [update, epoch, value]."""
    training: dict[str, list[Any]] = {"loss": [], "learning_rate": [], "grad_norm": []}
    evaluation: dict[str, list[Any]] = {}
    for line in run.history:
        at = [line.get("step"), line.get("epoch")]
        for name, value in line.items():
            if not isinstance(value, (int, float)):
                continue
            if name in training:
                training[name].append([*at, value])
            elif name.startswith("eval_") and not is_timing(name):
                evaluation.setdefault(name.removeprefix("eval_"), []).append([*at, value])
    best = {
        "update": run.state.get("best_global_step"),
        "value": run.state.get("best_metric"),
        "metric": (run.config.get("metric_for_best_model") or "").removeprefix("eval_") or None,
    }
    return {
        "training": training,
        "evaluation": evaluation,
        "best": best if best["update"] else None,
        "updates": run.state.get("global_step"),
        "updates_per_epoch": run.facts.get("plan", {}).get("updates_per_epoch"),
    }


def worst_mistakes(predictions: Predictions, table: pa.Table, among: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Return the most confident wrong predictions; of numbers, the largest errors. Rows are numbered as in the
    data. `among`: which of them are looked at; by default all. A number that is not finite has no error.
    """
    is_number = predictions.problem_type == ProblemType.REGRESSION
    missed = predictions.predicted != predictions.labels
    with np.errstate(all="ignore"):
        if is_number:
            sizes = np.abs(predictions.predicted - predictions.labels)
            missed &= np.isfinite(sizes)
        elif predictions.problem_type == ProblemType.MULTI_LABEL:
            probabilities = predictions.probabilities()
            sizes = np.where(missed, np.maximum(probabilities, 1 - probabilities), 0.0).max(axis=1, initial=0.0)
            missed = missed.any(axis=1)
        else:
            sizes = predictions.probabilities().max(axis=1, initial=0.0)
    sizes = np.nan_to_num(sizes, nan=0.0, posinf=0.0)
    wrong = np.flatnonzero(missed if among is None else missed & among)
    worst = wrong[np.argsort(-sizes[wrong], kind="stable")][:MAX_MISTAKES]
    before = table.column_names[: table.column_names.index("label")]
    text_columns = [name for name in before if name != "row"]
    return [
        {
            "row": row.get("row", index + 1),  # earlier runs wrote no numbers
            "texts": {name: shorten(str(row[name])) for name in text_columns},
            "label": row["label"],
            "prediction": row["prediction"],
            "error" if is_number else "probability": float(sizes[index]),
        }
        for index, row in zip(worst.tolist(), table.take(worst).drop_columns("logits").to_pylist(), strict=True)
    ]


def shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"


def write_report(report: dict[str, Any], final: Path, kind: str = "report") -> Path:
    """Make the folder `final` of a report, in place of an earlier one. Returns: its page. `kind`: `report`, or
    `comparison` of two runs.

    Raises: UserError when nothing can be written there, SaveError.
    """
    check_replaceable(final, kind)
    figures = _draw_figures(report, kind)
    files = {
        f"{kind}.json": (json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode(),
        f"{kind}.html": render_page(report, figures, kind).encode(),
        **{f"{name}.png": image for name, image in figures.get("light", {}).items()},
    }
    retry_once(str(final), lambda: _write(files, final))
    return final / f"{kind}.html"


def _draw_figures(report: dict[str, Any], kind: str) -> Figures:
    try:
        from ftloop.report.plots import draw_all  # matplotlib is optional
    except ImportError:
        say("Report", "without figures: matplotlib is not installed; pip install 'ftloop[plots]'")
        return {}
    return {style: draw_all(report, style, kind) for style in ("light", "dark")}


def save_curves(comparison: dict[str, Any], path: Path) -> None:
    """Draw the curves of two runs into one PNG. Raises: UserError without matplotlib, or curves."""
    try:
        from ftloop.report.plots import draw_curves
    except ImportError:
        raise UserError("png: needs matplotlib: pip install matplotlib (the extra `plots`)") from None
    image = draw_curves(comparison)
    if image is None:
        raise UserError("png: neither run has logged a number that could be drawn")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(image)
    say("Written", path)


def check_replaceable(final: Path, kind: str = "report") -> None:
    """Raises: UserError for a folder that is no report of ours: it is not written over."""
    check_writable(str(final), "output")
    if final.exists() and not final.is_dir():
        raise UserError(f"output: {final} is a file; name a folder")
    if final.is_dir() and any(final.iterdir()) and not (final / f"{kind}.json").is_file():
        raise UserError(f"output: {final} holds other files than a {kind}; choose another folder")


def _write(files: dict[str, bytes], final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = final.with_name(f"{STAGING}{final.name}-{os.getpid()}")  # another process may be making one now
    for leftover in final.parent.glob(f"{STAGING}{final.name}-*"):
        if leftover == staging or not _is_alive(leftover.name.rpartition("-")[2]):
            remove(leftover)  # and no other: a run may be saving in this folder
    remove(final.with_name(f"{REPLACED}{final.name}"))
    staging.mkdir()
    for name, content in files.items():
        (staging / name).write_bytes(content)
    commit_folder(staging, final)


def _is_alive(process: str) -> bool:
    if sys.platform == "win32":  # where this question would be a Ctrl-C
        return process != str(os.getpid())
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # a process of another user
        return True
    return True
