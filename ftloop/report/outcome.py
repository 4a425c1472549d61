"""Read what the command leaves of a finished run beside the model.

`ftloop_run.json` holds what is known of model, data and plan; `<set>_predictions.parquet`, .csv or .jsonl the rows of a
labelled set with their texts, label, prediction and logits. Both are the same bytes each time the same run is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.config.train_config import SETTINGS
from ftloop.data.glue import EVALUATED
from ftloop.errors import UserError, summarize
from ftloop.system.manifest import RUN_FACTS, read_json, read_manifest
from ftloop.system.text import join_some, pluralize, short_repr

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS_FILE = "_predictions."  # and the format
OURS = ("row", "label", "prediction", "score", "logits")
REQUIRED = ("label", "prediction", "logits")
LABELLED = ("parquet", "csv", "jsonl")
"""The formats of predictions of rows with labels."""
RESERVED = {**dict.fromkeys(LABELLED, OURS), "tsv": ("index", "prediction", "score")}
"""The names of columns that are ours in each format."""
REPORT = "report"  # a folder
MERGED = "merged"  # a folder, with the whole model beside an adapter
SERIES = {"seed": "seeds.json", "fold": "folds.json"}  # what one job leaves that was trained several times
OUT_OF_FOLD = "out_of_fold_predictions.parquet"


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run has left in its output_dir."""

    folder: Path
    config: dict[str, Any]
    """TrainConfig's settings; empty for a run that was not made by the command, as are the next three."""
    versions: dict[str, str]
    num_processes: int
    facts: dict[str, Any]
    """ftloop_run.json."""
    history: list[dict[str, Any]]
    """Trainer's log_history: losses, evaluations, and at the end the figures of the training."""
    state: dict[str, Any]
    """Trainer's trainer_state.json."""
    results: dict[str, Any]
    """all_results.json: `eval_accuracy`, `test_f1`, `train_runtime`, ..."""
    predictions: dict[str, Path]
    """The labelled sets that were predicted at the end, `validation` and `test` as a rule, and their files."""
    data_digests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Number and digest of the tokenized rows of `train` and `eval`."""
    is_complete: bool = True
    """False between the end of the training and that of its evaluation."""


def read_finished_run(folder: str | Path) -> FinishedRun:
    """Raises: UserError when no run has ended there, or a file of it is damaged."""
    root = Path(folder)
    state_file = root / "trainer_state.json"
    if not root.is_dir():
        what = f"{root} is a file" if root.is_file() else f"no folder {root}"
        raise UserError(f"{what}: name the output_dir of a finished run")
    if not state_file.is_file():
        within = sorted(file.parent for file in root.glob(f"*/{state_file.name}"))
        there = f", such as {join_some(list(map(str, within)), 3)}" if within else ""
        raise UserError(
            f"{root}: no run has ended here (there is no trainer_state.json); name a run's output_dir{there}"
        )
    if root.resolve().name.startswith("checkpoint-") and (root.resolve().parent / state_file.name).is_file():
        raise UserError(f"{root} is a checkpoint; name the output_dir of its run, {root.resolve().parent}")
    manifest, state = read_manifest(root) or {}, read_json(state_file)
    history = state.get("log_history", [])
    if not isinstance(history, list) or not all(isinstance(line, dict) for line in history):
        raise UserError(f"{state_file}: not readable (its log_history is no list of log lines)")
    optional = {
        name: read_json(root / name) if (root / name).is_file() else {} for name in (RUN_FACTS, "all_results.json")
    }
    return FinishedRun(
        folder=root,
        config=manifest.get("config", {}),
        versions=manifest.get("versions", {}),
        num_processes=manifest.get("num_processes", 1),
        facts=optional[RUN_FACTS],
        history=history,
        state=state,
        results=optional["all_results.json"],
        predictions=_labelled_predictions(root, optional[RUN_FACTS]),
        data_digests=manifest.get("data", {}),
        is_complete=manifest.get("complete", True),
    )


def _labelled_predictions(root: Path, facts: dict[str, Any]) -> dict[str, Path]:
    """Return the files of predictions by set: of those without labels none, which nothing can be scored by."""
    sets = facts.get("data", {}).get("sets", {})
    labelled = [name for name in reversed(EVALUATED) if sets.get(name, {}).get("labels", {}) is not None]
    paths = [(name, root / f"{name}{PREDICTIONS_FILE}{ending}") for name in labelled for ending in LABELLED]
    return {name: path for name, path in paths if path.is_file()}


def numbered_runs(root: Path, kind: str) -> dict[int, Path]:
    """Return the folders `seed-N`, or `fold-N`, by number in rising order."""
    named = re.compile(rf"{kind}-(0|[1-9][0-9]*)")
    found = {int(match[1]): path for path in root.glob(f"{kind}-*") if (match := named.fullmatch(path.name))}
    return dict(sorted(found.items()))


def describe_collapsed(kind: str, collapsed: dict[Any, str], of: int) -> str:
    """Name the runs, `of` so many, that give one answer to all rows, by number, and their answers. `kind`: `seed` or
    `fold`."""
    one = len(collapsed) == 1
    told = f"{len(collapsed)} of {pluralize(of, 'run')} {'gives' if one else 'give'} one answer to all rows"
    answers = [short_repr(each if len(each) <= 40 else f"{each[:37]}...") for each in collapsed.values()]
    if len(set(collapsed.values())) > 1:
        each_one = [f"{kind} {number} ({answer})" for number, answer in zip(collapsed, answers, strict=True)]
        return f"{told}: {', '.join(each_one)}"
    return f"{told}, {answers[0]}: {kind if one else f'{kind}s'} {', '.join(map(str, collapsed))}"


def against_collapse(config: dict[str, Any]) -> str:
    """Say which recipes train longer than runs of these settings, which have collapsed; nothing where none does, or the
    settings do not tell."""
    if not config or config.get("max_steps", -1) > 0:
        return ""
    epochs = config.get("num_train_epochs", SETTINGS["num_train_epochs"].default)
    if epochs < 10:
        return "`ftloop train few`, for some hundreds of rows, and `ftloop train stable` are made against that"
    return "`ftloop train stable` is made against that" if epochs < 20 else ""


def describe_labels(labels: dict[str, Any] | None, show: Callable[[str], str] = str, most: int = 8) -> str:
    """Say how many rows of a set have each label, as the facts of the run have it; of numbers mean and deviation."""
    if labels is None:
        return "without labels"
    ordered = sorted(labels.items(), key=lambda pair: -pair[1] if isinstance(pair[1], int) else 0)
    counts = [f"{show(name)} {count:,}" if isinstance(count, int) else f"{name} {count:.4g}" for name, count in ordered]
    return ", ".join(counts[:most]) + (f", ... ({len(counts)} in all)" if len(counts) > most else "")


def name_in_predictions(column: str, is_text: bool, ours: Collection[str] = OURS) -> str:
    """Return the name that a column of the data has in a file of predictions: another where its own is one of ours."""
    if column not in ours:
        return column
    return f"{column}_text" if is_text else f"original_{column}"


def read_predictions(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all columns, or those of some that are there: the number of the `row`, the texts and what else the data have
    under their own names, `label`, `prediction`, `score` (where a row has one class), `logits`.

    Raises: UserError when the file cannot be read, or lacks a column of REQUIRED that is asked for.
    """
    import pyarrow.parquet as pq  # a training that predicts nothing needs none of it

    def chosen(names: Sequence[str]) -> list[str]:
        wanted = names if columns is None else columns
        if lacking := [name for name in wanted if name in REQUIRED and name not in names]:
            raise UserError(f"{path}: not the predictions of this run (no column {', '.join(lacking)})")
        return [name for name in wanted if name in names]

    try:
        if path.suffix != ".parquet":
            return _read_text(path, chosen)
        return pq.read_table(path, columns=chosen(pq.read_schema(path).names), pre_buffer=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not readable ({summarize(error)})") from error


def _read_text(path: Path, chosen: Callable[[Sequence[str]], list[str]]) -> pa.Table:
    """Read csv or jsonl. Labels are numbers or lists where a row has no score."""
    import pyarrow as pa

    from ftloop.data.readers import read_columns, read_rows
    from ftloop.data.sources import file_source

    source = file_source(path)
    all_names = read_columns(source)
    columns: dict[str, Any] = {name: [] for name in chosen(all_names)}
    for row in read_rows(source):
        for name, values in columns.items():
            values.append(row.values.get(name))
    numbers = {"row", "score", "logits", *(() if "score" in all_names else ("label", "prediction"))}
    for name in columns.keys() & numbers if source.format == "csv" else ():
        columns[name] = [_number_or_list(value) for value in columns[name]]
    for name, values in columns.items():
        if name == "row":
            columns[name] = pa.array(values, pa.int64())
        elif name == "logits":
            columns[name] = pa.array(values, pa.list_(pa.float32()))
        elif name in REQUIRED:
            first = next((value for value in values if value is not None), None)
            kind = pa.list_(pa.string()) if isinstance(first, list) else pa.float32()
            columns[name] = pa.array(values, pa.string() if isinstance(first, str) else kind)
        elif name not in OURS and not all(isinstance(value, (str, type(None))) for value in values):
            columns[name] = [None if value is None else str(value) for value in values]
    return pa.table(columns)


def _number_or_list(cell: str) -> Any:
    return json.loads(cell) if cell.startswith("[") else float(cell) if cell else None
