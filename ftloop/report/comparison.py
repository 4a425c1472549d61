"""Two finished runs side by side, from their files alone: `ftloop compare A B`.

The scores of both on the same rows, with paired intervals, and what else differs: settings, data, versions, machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import SETTINGS
from ftloop.data.glue import EVALUATED
from ftloop.errors import UserError
from ftloop.report.html import number, rows
from ftloop.report.outcome import FinishedRun, describe_labels
from ftloop.report.paired import pair_scores, rows_won
from ftloop.report.predictions import Predictions, labelled_rows, load_predictions
from ftloop.report.report import read_history, worst_mistakes
from ftloop.report.runs import differing_settings
from ftloop.report.scoring import score_predictions
from ftloop.system.scalars import is_number, is_timing
from ftloop.system.text import join_some, nan_to_none, short_repr

if TYPE_CHECKING:
    import pyarrow as pa

PREFIXES = {"test": "test", "validation": "eval"}  # of a set's scores in all_results.json
DIGITS = 12  # of a digest
ROW_BY_ROW = ("log_loss", "mse", "f1_macro")  # scores whose resamples are drawn so, and that any resample has

Sides = tuple[FinishedRun, FinishedRun]
Differences = dict[str, list[Any]]
"""The values of A and of B by name."""


def compare_runs(a: FinishedRun, b: FinishedRun, sets: str = "both") -> dict[str, Any]:
    """Return what is said of both, as plain values for JSON: the same for the same files.

    Raises: UserError where there is nothing to compare, or a file of theirs is damaged.
    """
    both = (a, b)
    _check(both)
    found = {name: _compare_set(both, name) for name in _set_names(both, sets)}
    settings = {
        name: [run.config.get(name, SETTINGS[name].default) for run in both]
        for name in differing_settings([run.config for run in both])
    }
    comparison = {
        "format": 1,
        "a": _describe(a),
        "b": _describe(b),
        "sets": {name: each for name, each in found.items() if each["metrics"]},
        "differences": {
            "settings": settings if a.config and b.config else {},
            "data and model": _differing(_data_and_model(a), _data_and_model(b)),
            "versions and machine": _differing(_versions_and_machine(a), _versions_and_machine(b)),
        },
        "notes": list(_notes(both)),
    }
    plain: dict[str, Any] = nan_to_none(comparison)
    return plain | {"verdict": _verdict(both, plain["sets"])}


def _check(both: Sides) -> None:
    """Raises: UserError."""
    if both[0].folder.resolve() == both[1].folder.resolve():
        raise UserError(f"{both[0].folder} and {both[1].folder} are the same run; name two")
    for run in both:
        if not run.is_complete:
            way = "the same command with --resume_from_checkpoint last completes it"
            raise UserError(f"{run.folder}: trained, but not evaluated to the end; {way}")
    kinds = [run.facts.get("data", {}).get("problem_type") for run in both]
    if None not in kinds and kinds[0] != kinds[1]:
        told = " and ".join(f"{run.folder} {_task(run)}" for run in both)
        raise UserError(f"{told}: two such models have no score in common")


def _task(run: FinishedRun) -> str:
    data = run.facts["data"]
    if data["problem_type"] == ProblemType.REGRESSION:
        return "predicts a number"
    chosen = "any of" if data["problem_type"] == ProblemType.MULTI_LABEL else "one of"
    return f"predicts {chosen} {len(data['labels'])} {'labels' if chosen == 'any of' else 'classes'}"


def _describe(run: FinishedRun) -> dict[str, Any]:
    training = {
        "updates": run.state.get("global_step"),
        "epochs": run.state.get("epoch"),
        "best update": run.state.get("best_global_step"),
        "seconds": run.results.get("train_runtime"),
        "rows a second": run.results.get("train_samples_per_second"),
    }
    return {"folder": str(run.folder), "training": training, "history": read_history(run)}


def _notes(both: Sides) -> Iterator[str]:
    for side, run in zip("AB", both, strict=True):
        unknown = [] if run.config else ["settings and versions"]
        unknown += [] if run.facts else ["data and machine"]
        if unknown:
            yield f"{side}: {' and '.join(unknown)} are not known, as it was not made by ftloop train or finish()"


# --- what differs ----------------------------------------------------------------------------------------------------


def _differing(a: dict[str, Any], b: dict[str, Any]) -> Differences:
    """Return what both have and is not the same; nothing where all of one side is unknown."""
    names = dict.fromkeys([*a, *b]) if a and b else {}
    return {name: [a.get(name), b.get(name)] for name in names if a.get(name) != b.get(name)}


def _data_and_model(run: FinishedRun) -> dict[str, Any]:
    if not run.facts:
        return {}
    model, data = run.facts.get("model", {}), run.facts.get("data", {})
    found = {name: model.get(name) for name in ("class", "parameters", "trained_parameters", "adapter")}
    found |= {name: data.get(name) for name in ("text_columns", "label_column", "labels", "positive", "longest_input")}
    for name, each in data.get("sets", {}).items():
        found |= {f"{name} rows": each.get("rows"), f"{name} rows truncated": each.get("truncated")}
        found[f"{name} labels"] = describe_labels(each.get("labels"))
    found = {name.replace("_", " "): value for name, value in found.items()}
    for name, digest in run.data_digests.items():
        found[f"{name.replace('eval', 'validation', 1)} tokens, digest"] = str(digest.get("digest"))[:DIGITS]
    return found


def _versions_and_machine(run: FinishedRun) -> dict[str, Any]:
    device = run.facts.get("device", {})
    machine = {"device": device.get("name"), "precision": device.get("precision"), "CPU threads": device.get("threads")}
    return run.versions | machine | {"processes": run.num_processes} if device and run.versions else {}


# --- sets ------------------------------------------------------------------------------------------------------------


def _set_names(both: Sides, sets: str) -> list[str]:
    """Return the sets of which anything is known, the test set first."""
    known = {name for run in both for name in (*run.predictions, *run.facts.get("data", {}).get("sets", {}))}
    for name, prefix in PREFIXES.items():
        if not any(each.startswith(name) for each in known):
            known |= {name} if any(key.startswith(f"{prefix}_") for run in both for key in run.results) else set()
    return [name for name in EVALUATED if name in known and (sets == "both" or name.startswith(sets))]


def _compare_set(both: Sides, name: str) -> dict[str, Any]:
    """Compare the scores on a set: from the predictions of single rows, or where there are none as they were recorded.

    `unpaired` says why there are no intervals; None where there are. `mistakes`: those of each that the other does not
    make.
    """
    recorded = _recorded(both, name)
    lacking = [side for side, run in zip("AB", both, strict=True) if name not in run.predictions or not run.facts]
    if lacking:
        who = "neither run has" if len(lacking) == 2 else f"{lacking[0]} does not have"
        return {"metrics": recorded, "unpaired": f"{who} the predictions of single rows", "notes": []}
    (table_a, a), (table_b, b) = (load_predictions(run, name) for run in both)
    notes, reason = list[str](), _other_classes(a, b)
    if reason is None:
        notes += _whose_f1(a, b)
        b = b.in_classes_of(a)
        reason = _other_rows(table_a, table_b, a, b)
    if reason is None:
        found = pair_scores(a, b)
        found["rows_apart"]["text"] = _rows_apart(found, a.problem_type)
        notes += [*_one_answer(a, b), *_without(found, a.problem_type)]
        of_a, of_b = rows_won(a, b)
        found["mistakes"] = {"A": worst_mistakes(a, table_a, of_b), "B": worst_mistakes(b, table_b, of_a)}
    else:
        found = {"metrics": _side_by_side(a, b)}
    others = {metric: each for metric, each in recorded.items() if metric not in (*found["metrics"], "loss")}
    return found | {"metrics": found["metrics"] | others, "unpaired": reason, "notes": notes}


def _positive(predictions: Predictions) -> str | None:
    return predictions.names[predictions.classes.positive] if predictions.classes.is_binary else None


def _whose_f1(a: Predictions, b: Predictions) -> Iterator[str]:
    if a.classes.is_binary:
        yield f"F1, precision, recall and average precision are those of {_positive(a)!r}"
        if _positive(b) != _positive(a):
            yield f"B itself was judged by the F1 of {_positive(b)!r}"
    elif a.problem_type == ProblemType.SINGLE_LABEL:
        yield "F1 is the mean over all classes"


def _one_answer(a: Predictions, b: Predictions) -> Iterator[str]:
    for side, each in zip("AB", (a, b), strict=True):
        if each.problem_type == ProblemType.SINGLE_LABEL and len(np.unique(each.labels)) > 1:
            answers = np.unique(each.predicted)
            if len(answers) == 1:
                yield f"{side} predicts {each.names[answers[0]]!r} for every row"


def _without(found: dict[str, Any], kind: ProblemType) -> Iterator[str]:
    """Say what intervals and scores are without."""
    if found["not_finite"]:
        what = "everything" if kind == ProblemType.REGRESSION else "what needs a probability"
        yield f"of {rows(found['not_finite'])} a model gave no finite numbers: they are left out of {what}"
    if found["rows"] > 1 and any(found["metrics"].get(name, {}).get("resamples") == 0 for name in ROW_BY_ROW):
        yield "no intervals where so many rows would have to be drawn one by one"


def _recorded(both: Sides, name: str) -> dict[str, Any]:
    """Return the scores in all_results.json."""
    prefix = f"{PREFIXES[name.partition('_')[0]]}_"
    second = name.endswith("_mismatched")  # MNLI's
    found: dict[str, list[Any]] = {}
    for side, run in enumerate(both):
        for key, value in run.results.items():
            if key.startswith(prefix) and key.endswith("_mm") == second and is_number(value) and not is_timing(key):
                found.setdefault(key.removeprefix(prefix).removesuffix("_mm"), [None, None])[side] = value
    return {metric: _beside(*values) for metric, values in found.items()}


def _side_by_side(a: Predictions, b: Predictions) -> dict[str, Any]:
    scored_a, scored_b = (score_predictions(each)["metrics"] for each in (a, b))
    names = [name for name in scored_a if name in scored_b and name != "calibration_error"]
    return {name: _beside(scored_a[name]["value"], scored_b[name]["value"]) for name in names}


def _beside(a: float | None, b: float | None) -> dict[str, Any]:
    difference = None if a is None or b is None else b - a
    return {"a": a, "b": b, "difference": difference, "low": None, "high": None, "resamples": 0, "better": None}


def _other_classes(a: Predictions, b: Predictions) -> str | None:
    only = {
        "A": [each for each in a.names if each not in b.names],
        "B": [each for each in b.names if each not in a.names],
    }
    told = [f"only {side} has {join_some(list(map(short_repr, names)), 3)}" for side, names in only.items() if names]
    return f"their classes differ: {', '.join(told)}" if told else None


def _other_rows(table_a: pa.Table, table_b: pa.Table, a: Predictions, b: Predictions) -> str | None:
    """Say why these are not the same rows in the same order; None where they are. Texts are compared in the columns
    that both have, so that a model of one text can be held against one of two.
    """
    if len(a.labels) != len(b.labels):
        return f"{len(a.labels)} rows in A, {len(b.labels)} in B"
    columns_a, columns_b = (labelled_rows(table).drop_columns("label").column_names for table in (table_a, table_b))
    shared = [(name, name) for name in columns_a if name in columns_b]
    for name_a, name_b in shared or zip(columns_a, columns_b, strict=False):
        if not table_a[name_a].equals(table_b[name_b]):
            texts = zip(table_a[name_a].to_pylist(), table_b[name_b].to_pylist(), strict=True)
            index = next((index for index, (text_a, text_b) in enumerate(texts) if text_a != text_b), None)
            if index is not None:
                return f"they are not the same rows (row {_number_of(table_a, index)} is the first with another text)"
    differ = np.flatnonzero((a.labels != b.labels).reshape(len(a.labels), -1).any(axis=1))
    return (
        f"the same texts have other labels (row {_number_of(table_a, differ[0])} is the first)" if len(differ) else None
    )


def _number_of(table: pa.Table, index: int) -> int:
    """Return a row's number in A's data; earlier runs wrote none."""
    return int(table["row"][int(index)].as_py()) if "row" in table.column_names else int(index) + 1


# --- in words --------------------------------------------------------------------------------------------------------


def _rows_apart(found: dict[str, Any], kind: ProblemType) -> str:
    apart = found["rows_apart"]
    p = "p < 0.001" if apart["p"] < 0.001 else f"p = {apart['p']:.3f}"
    if kind == ProblemType.REGRESSION:
        text = f"A is nearer to the label in {apart['only_a']:,}, B in {apart['only_b']:,}"
        return f"{text}, both alike in {apart['equal']:,}. Wilcoxon's signed-rank test of the absolute errors: {p}"
    right = "all labels right" if kind == ProblemType.MULTI_LABEL else "right"
    text = f"{right} in A alone {apart['only_a']:,}, in B alone {apart['only_b']:,}, in both {apart['both']:,}"
    return f"{text}, in neither {apart['neither']:,}. McNemar's exact test: {p}"


def _verdict(both: Sides, sets: dict[str, Any]) -> str:
    """Judge by one score that was chosen before: that by which the best checkpoint was."""
    if not sets:
        return "none: there is no set with scores of both runs"
    name = next((name for name, found in sets.items() if found["unpaired"] is None), next(iter(sets)))
    found = sets[name]
    metric = str(both[0].config.get("metric_for_best_model") or "").removeprefix("eval_")
    metric = metric if metric in found["metrics"] and metric != "loss" else next(iter(found["metrics"]))
    score = found["metrics"][metric]
    if found["unpaired"] is not None:
        return f"none, as the runs cannot be compared row by row on the {name} set: {found['unpaired']}"
    if found["same_predictions"]:
        return f"both predict the same for each row of the {name} set"
    if score["low"] is None:
        return f"none: the difference in {name} {metric} has no interval"
    better = f"{score['better']} is better" if score["better"] else "no difference is shown"
    limits = f"{number(score['low'], '+')} to {number(score['high'], '+')}"
    text = f"{name} {metric}, B - A {number(score['difference'], '+')}, 95 % interval {limits}: {better}"
    if name.startswith("validation") and any(run.config.get("load_best_model_at_end") for run in both):
        text += ". The best checkpoint was chosen on these rows: a test set would be the better judge"
    return f"{text}. It is about these two models alone: how much another seed changes either, ftloop seeds shows"
