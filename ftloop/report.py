"""The report of a finished run, from its files alone: `python -m ftloop.report DIR`, or `--report` when training.

It is `DIR/report/`: `report.json` with everything as numbers, the figures as PNG, and `report.html`, one file that
needs no other. The folder is there whole or not at all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.advice import advise
from ftloop.config import user_path
from ftloop.durable import REPLACED, STAGING, check_writable, put_in_place, remove, retried
from ftloop.errors import ExitCode, UserError, first_line, tell
from ftloop.outcome import REPORT, Outcome, read_outcome, read_predictions
from ftloop.pace import TIMINGS
from ftloop.reproduce import given_settings, reproducing_command, shell_line
from ftloop.scoring import Answers, probabilities, read_answers, score_set
from ftloop.words import for_json

if TYPE_CHECKING:
    import pyarrow as pa

MISTAKES = 20
LONGEST_TEXT = 2000  # characters
Pictures = dict[str, dict[str, bytes]]
"""By style, `light` and `dark`, and name: PNGs."""


def make_report(outcome: Outcome, sets: str = "both") -> dict[str, Any]:
    """All that the report says, as plain values for JSON: the same for the same files. Raises: UserError."""
    facts, data = outcome.facts, outcome.facts.get("data", {})
    missing = []
    if not facts:
        missing.append(
            "what the model is and what it was trained on: only `python -m ftloop.train` writes ftloop_run.json"
        )
    named = sorted(outcome.predictions)  # the test set first
    wanted = {name: outcome.predictions[name] for name in named if sets == "both" or name.startswith(sets)}
    if not wanted:
        missing.append(
            "scores, tables and curves of single rows: there are no predictions of a labelled set"
            + ("" if sets == "both" else f" named {sets}")
            + "; the command writes them of its validation and test set"
        )
    scored = {}
    for name, path in wanted.items():
        if not facts:
            missing.append(f"{name}: which classes there are")
            continue
        table = read_predictions(path)
        try:
            answers = read_answers(table, data["kind"], data["labels"])
        except (UserError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not the predictions of this run ({first_line(error)})") from error
        scored[name] = score_set(answers) | {"mistakes": mistakes(answers, table)}
    command = reproducing_command(outcome.config, outcome.num_processes, facts.get("device", {}))
    report = {
        "format": 1,
        "name": outcome.folder.resolve().name,
        "facts": facts,
        "processes": outcome.num_processes,
        "versions": outcome.versions,
        "settings": given_settings(outcome.config) if outcome.config else {},
        "command": shell_line(command) if outcome.config else None,
        "went_on_with_changes": bool(outcome.config.get("resume_with_changes")),
        "results": outcome.results,
        "speed": _speed(outcome),
        "history": curves_of(outcome),
        "sets": scored,
        "advice": [{"topic": advice.topic, "text": advice.text} for advice in advise(outcome)],
        "missing": missing,
    }
    plain: dict[str, Any] = for_json(report)
    return plain


def _speed(outcome: Outcome) -> dict[str, Any]:
    """Of the last start's training, evaluations and saves within it included."""
    rows = outcome.results.get("train_samples_per_second")
    tokens = outcome.facts.get("padding", {}).get("tokens_per_row")
    known = {"seconds": outcome.results.get("train_runtime"), "rows_per_second": rows}
    if rows and tokens:
        known["tokens_per_second"] = rows * tokens
    return {name: value for name, value in known.items() if value is not None}


def curves_of(outcome: Outcome) -> dict[str, Any]:
    """What was logged, as curves: points of [update, epoch, value]."""
    training: dict[str, list[Any]] = {"loss": [], "learning_rate": [], "grad_norm": []}
    evaluation: dict[str, list[Any]] = {}
    for line in outcome.history:
        at = [line.get("step"), line.get("epoch")]
        for name in training:
            if isinstance(line.get(name), (int, float)):
                training[name].append([*at, line[name]])
        for name, value in line.items():
            short = name.removeprefix("eval_")
            if short != name and short not in TIMINGS and isinstance(value, (int, float)):
                evaluation.setdefault(short, []).append([*at, value])
    state, config = outcome.state, outcome.config
    best = {"update": state.get("best_global_step"), "value": state.get("best_metric")}
    best["metric"] = (config.get("metric_for_best_model") or "").removeprefix("eval_") or None
    return {
        "training": training,
        "evaluation": evaluation,
        "best": best if best["update"] else None,
        "updates": state.get("global_step"),
        "updates_per_epoch": outcome.facts.get("plan", {}).get("updates_per_epoch"),
    }


def mistakes(answers: Answers, table: pa.Table) -> list[dict[str, Any]]:
    """The rows answered wrongly with the most confidence; of numbers, those furthest off. Rows are counted from 1."""
    wrong, size = _how_wrong(answers)
    worst = wrong[np.argsort(-size[wrong], kind="stable")][:MISTAKES]
    rows = table.take(worst)
    names = rows.column_names[: rows.column_names.index("label")]
    found = []
    for index, row in zip(worst.tolist(), rows.select([*names, "label", "prediction"]).to_pylist(), strict=True):
        texts = {name: _cut(row[name]) for name in names}
        told = {"row": index + 1, "texts": texts, "label": row["label"], "prediction": row["prediction"]}
        found.append(told | {"error" if answers.kind == "regression" else "probability": float(size[index])})
    return found


def _how_wrong(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are wrong, and how much or how surely; for rows whose logits are no numbers, 0."""
    with np.errstate(all="ignore"):
        if answers.kind == "regression":
            size = np.abs(answers.said - answers.true)
            wrong = size > 0
        elif answers.kind == "multi_label":
            share = probabilities(answers)
            missed = answers.said != answers.true
            size = np.where(missed, np.maximum(share, 1 - share), 0.0).max(axis=1, initial=0.0)
            wrong = missed.any(axis=1)
        else:
            size = probabilities(answers).max(axis=1, initial=0.0)
            wrong = answers.said != answers.true
    return np.flatnonzero(wrong), np.nan_to_num(size, nan=0.0, posinf=0.0)


def _cut(text: Any) -> str:
    text = str(text)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"


def write_report(report: dict[str, Any], final: Path, say: Callable[[str], None] = print) -> Path:
    """Make the folder `final` of a report, in place of one that is there. Returns: its report.html.

    Raises: UserError when nothing can be written there, SaveError.
    """
    from ftloop.page import page

    check_replaceable(final)
    pictures = _pictures(report, say)
    files: dict[str, str | bytes] = {
        "report.json": json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
        "report.html": page(report, pictures),
        **{f"{name}.png": image for name, image in pictures.get("light", {}).items()},
    }
    retried(str(final), lambda: _write(files, final), say)
    return final / "report.html"


def _pictures(report: dict[str, Any], say: Callable[[str], None]) -> Pictures:
    try:
        from ftloop.figures import draw_all
    except ImportError:
        say("Report    without pictures: matplotlib is not installed; pip install 'ftloop[plots]'")
        return {}
    return {style: draw_all(report, style) for style in ("light", "dark")}


def check_replaceable(final: Path) -> None:
    """Raises: UserError for what is no report of ours, which is not written over."""
    check_writable(str(final), "output")
    if final.is_dir() and any(final.iterdir()) and not (final / "report.json").is_file():
        raise UserError(f"output: {final} holds other files than a report; choose another folder")
    if final.exists() and not final.is_dir():
        raise UserError(f"output: {final} is a file; name a folder")


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # of another user
        return True
    return True


def _write(files: dict[str, str | bytes], final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = final.with_name(f"{STAGING}{final.name}-{os.getpid()}")  # another may be making one now
    for leftover in final.parent.glob(f"{STAGING}{final.name}-*"):
        if not _is_alive(leftover.name.rpartition("-")[2]):
            remove(leftover)  # no other: a run may be saving in this folder
    remove(final.with_name(f"{REPLACED}{final.name}"))
    staging.mkdir()
    for name, content in files.items():
        if isinstance(content, bytes):
            (staging / name).write_bytes(content)
        else:
            (staging / name).write_text(content, encoding="utf-8")
    put_in_place(staging, final)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ftloop.report", allow_abbrev=False, description="Write the report of a finished run."
    )
    parser.add_argument("folder", metavar="DIR", help="the output_dir of a run")
    parser.add_argument("--set", choices=("validation", "test", "both"), default="both", help="which labelled sets")
    parser.add_argument("--output", metavar="DIR", help="where to write it; by default DIR/report")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    words = sys.argv[1:] if argv is None else list(argv)
    given = parser.parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        folder = user_path(given.folder, "DIR")
        final = folder / REPORT if given.output is None else user_path(given.output, "output")
        check_replaceable(final)
        print(f"Report    {write_report(make_report(read_outcome(folder), given.set), final)}")
    except Exception as error:
        return tell(error, "--traceback" in words)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
