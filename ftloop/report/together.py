"""The report of one job that was trained several times, with several seeds or on several folds: the scores of each run
and of all, and of folds what they say of every training row, and whose label they doubt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from ftloop.config.problem_type import ProblemType
from ftloop.config.reproduce import (
    ftloop_command,
    names_its_data,
    non_default_settings,
    reproducing_command,
    shell_line,
)
from ftloop.config.train_config import SETTINGS
from ftloop.errors import UserError, summarize
from ftloop.report.label_doubts import doubt_labels
from ftloop.report.outcome import (
    OUT_OF_FOLD,
    REPORT,
    SERIES,
    FinishedRun,
    against_collapse,
    numbered_runs,
    read_finished_run,
    read_predictions,
)
from ftloop.report.predictions import Predictions, parse_predictions
from ftloop.report.report import shorten, worst_mistakes
from ftloop.report.scoring import score_predictions
from ftloop.system.manifest import read_json
from ftloop.system.text import nan_to_none

SET = "out-of-fold"
MAX_DOUBTS = 1000  # in the report; the file of the predictions marks all


def kind_of_series(folder: Path) -> str | None:
    """Return `seed` or `fold` where this is the folder of a job trained several times; None for any other.

    Raises: UserError where the runs have no table yet, or are of both kinds.
    """
    if (folder / "trainer_state.json").is_file():
        return None
    kinds = [kind for kind, name in SERIES.items() if (folder / name).is_file()]
    if len(kinds) > 1:
        both = " and ".join(SERIES.values())
        raise UserError(f"{folder}: {both} are both in it; name one of the runs, or move either")
    if not kinds and any(numbered_runs(folder, kind) for kind in SERIES):
        way = f"{ftloop_command('seeds', folder)} makes it of those that have ended; then ask again for the report"
        raise UserError(f"{folder}: there are several runs in it, and no table of them yet; {way}")
    return kinds[0] if kinds else None


def make_joint_report(folder: Path, kind: str, final: Path) -> dict[str, Any]:
    """Return what the report says that will lie in `final`, in the form of `make_report`, with `series` beside it.

    Raises: UserError where files are damaged, or the table is not that of the runs any more.
    """
    found = read_json(folder / SERIES[kind])
    runs = _read_runs(folder, kind, found)
    first = next(iter(runs.values()))
    config = first.config | {kind: SETTINGS[kind].default, "seeds": None, "output_dir": str(folder)}
    if config.get("logging_dir"):
        config["logging_dir"] = str(Path(config["logging_dir"]).parent)
    series = {
        "kind": kind,
        "scores": list(found["together"]),
        "collapsed": found.get("collapsed", {}),
        "against_collapse": against_collapse(first.config),
        "runs": [
            {"number": number, "scores": found["runs"][str(number)], "report": _link(run, final)}
            for number, run in runs.items()
        ],
        "together": found["together"],
        "out_of_fold": found.get("out_of_fold"),
        "doubts": [],
    }
    missing = [f"{name}: {why}" for name, why in found.get("dropped", {}).items()]
    report = {
        "format": 1,
        "name": folder.resolve().name,
        "facts": first.facts,
        "processes": first.num_processes,
        "versions": first.versions,
        "settings": non_default_settings(config) if first.config else {},
        "command": _command(folder, kind, runs, config) if names_its_data(config) else None,
        "went_on_with_changes": False,
        "results": {},
        "speed": {},
        "history": {
            "training": {"loss": [], "learning_rate": [], "grad_norm": []},
            "evaluation": {},
            "best": None,
            "updates": None,
            "updates_per_epoch": None,
        },
        "sets": {},
        "advice": [],
        "missing": missing,
        "series": series,
    }
    if series["out_of_fold"] is not None:
        table, predictions = _read_rows(folder, first)
        rows = {"mistakes": worst_mistakes(predictions, table), "words": None}
        report["sets"] = {SET: score_predictions(predictions) | rows}
        series["doubts"] = _doubts(predictions, table)
    elif kind == "fold":
        missing.append(f"the rows, and whose label the folds doubt: there is no {OUT_OF_FOLD} of all folds")
    plain: dict[str, Any] = nan_to_none(report)
    return plain


def _command(folder: Path, kind: str, runs: dict[int, FinishedRun], config: dict[str, Any]) -> str:
    """Return the command that makes all runs again; where one command cannot, that of each, a line below the other."""
    first = next(iter(runs.values()))
    device = first.facts.get("device", {})
    if first.num_processes == 1 and len(runs) > 1:
        of_seeds = ["--seeds", *map(str, runs)] if kind == "seed" else []
        return shell_line([*reproducing_command(config, 1, device), *of_seeds])
    lines = []
    for number, run in runs.items():
        words = reproducing_command(run.config | {"output_dir": str(folder)}, first.num_processes, device)
        words[words.index("--output_dir") + 1] += f"/{kind}-{number}"
        lines.append(shell_line(words))
    return "\n".join(lines)


def _read_runs(folder: Path, kind: str, found: dict[str, Any]) -> dict[int, FinishedRun]:
    file, again = folder / SERIES[kind], ftloop_command("seeds", folder)
    try:
        names = found.get("folders", {})
        folders = {int(number): names.get(str(number), f"{kind}-{number}") for number in found[f"{kind}s"]}
        runs = {number: read_finished_run(folder / name) for number, name in folders.items()}
        scores = {number: found["runs"][str(number)] for number in runs}
        if not runs or not isinstance(found["together"], dict):
            raise KeyError("together")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not readable as a table ({summarize(error)}); {again} makes it anew") from error
    for number, run in runs.items():
        if any(value is not None and run.results.get(name) != value for name, value in scores[number].items()):
            raise UserError(f"{file}: {run.folder} has other scores by now; {again} makes the table anew")
    return runs


def _link(run: FinishedRun, final: Path) -> str | None:
    """Return how a page in `final` names the report of a run; None where that has none."""
    page = run.folder / REPORT / "report.html"
    if not page.is_file():
        return None
    try:
        return quote(os.path.relpath(page, final).replace(os.sep, "/"))
    except ValueError:  # on another drive of Windows
        return page.resolve().as_uri()


def _read_rows(folder: Path, first: FinishedRun) -> tuple[pa.Table, Predictions]:
    path, data = folder / OUT_OF_FOLD, first.facts.get("data", {})
    table = read_predictions(path)
    try:
        table = table.select([*(name for name in table.column_names if name not in ("row", "fold")), "row", "fold"])
        return table, parse_predictions(table, data["problem_type"], data["labels"], data.get("positive"))
    except (UserError, KeyError, ValueError, TypeError) as error:
        again = f"{ftloop_command('seeds', folder)} makes it anew"
        raise UserError(f"{path}: not the predictions of these folds ({summarize(error)}); {again}") from error


def _doubts(predictions: Predictions, table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows whose label is doubted, the most doubtful first; of numbers, the largest errors."""
    if predictions.problem_type == ProblemType.REGRESSION:
        found = doubt_labels(predictions)
        rows, shares = found.rows, [{"error": float(found.scores[row])} for row in found.rows]
    else:
        scores = table["label_score"].to_numpy()
        doubted = np.flatnonzero(table["doubted"].to_numpy())
        rows = doubted[np.argsort(scores[doubted], kind="stable")][:MAX_DOUBTS]
        shares = [{"label_score": float(scores[row])} for row in rows]
    names = table.column_names
    texts = names[: names.index("label")]
    wanted = [*texts, "label", "prediction", "row", "fold", *(["score"] if "score" in names else [])]
    return [
        {
            "row": row["row"],
            "fold": row["fold"],
            "texts": {name: shorten(str(row[name])) for name in texts},
            "label": row["label"],
            "prediction": row["prediction"],
            "probability": row.get("score"),
            **share,
        }
        for row, share in zip(table.select(wanted).take(rows).to_pylist(), shares, strict=True)
    ]
