"""What the command leaves of a run beside the model, and reads again for reports: facts, and predictions of each row.

`ftloop_run.json` holds what is known of model, data and plan; `<set>_predictions.parquet` the rows of a labelled set
with their texts, label, prediction and logits. Both are the same bytes each time the same run is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.durable import FACTS, read_json, read_manifest, retried, write_file, write_text
from ftloop.errors import UserError, first_line
from ftloop.glue import EVALUATED

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from ftloop.data import Labels, TextData
    from ftloop.evaluation import Predictions
    from ftloop.run import Run

PREDICTIONS = "_predictions.parquet"
REPORT = "report"  # a folder
MOST_LOGITS = 50_000_000  # 200 MB of float32; of a larger set only the metrics are kept
ROWS_AT_ONCE = 10_000
CONTRADICTIONS_OF = 200_000  # rows looked through for equal texts with different labels


@dataclass(frozen=True)
class Outcome:
    """What a finished run has left in its output_dir."""

    folder: Path
    config: dict[str, Any]
    """TrainConfig's settings; empty for a run that was not made by the command, as are the next three."""
    versions: dict[str, str]
    num_processes: int
    facts: dict[str, Any]
    """Of `run_facts`."""
    history: list[dict[str, Any]]
    """Trainer's log_history: losses, evaluations, and at the end the figures of the training."""
    state: dict[str, Any]
    """Trainer's trainer_state.json."""
    results: dict[str, Any]
    """all_results.json: `eval_accuracy`, `test_f1`, `train_runtime`, ..."""
    predictions: dict[str, Path]
    """The labelled sets that were predicted at the end, `validation` and `test` as a rule, and their files."""


def read_outcome(folder: str | Path) -> Outcome:
    """Raises: UserError when no run has ended there, or a file of it is damaged."""
    root = Path(folder)
    state = root / "trainer_state.json"
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the output_dir of a finished run")
    if not state.is_file():
        raise UserError(f"{root}: no run has ended here (there is no trainer_state.json); name a run's output_dir")
    manifest = read_manifest(root) or {}
    known = read_json(state)
    history = known.get("log_history", [])
    if not isinstance(history, list) or not all(isinstance(line, dict) for line in history):
        raise UserError(f"{state}: not readable (its log_history is no list of log lines)")
    optional = {name: read_json(root / name) if (root / name).is_file() else {} for name in (FACTS, "all_results.json")}
    return Outcome(
        folder=root,
        config=manifest.get("config", {}),
        versions=manifest.get("versions", {}),
        num_processes=manifest.get("num_processes", 1),
        facts=optional[FACTS],
        history=history,
        state=known,
        results=optional["all_results.json"],
        predictions={
            name: root / f"{name}{PREDICTIONS}"
            for name in reversed(EVALUATED)
            if (root / f"{name}{PREDICTIONS}").is_file()
        },
    )


def read_predictions(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Columns: the texts as they are named in the data, `label`, `prediction`, `score` (one class a row), `logits`; or
    of these some.

    Raises: UserError when the file cannot be read.
    """
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=columns, pre_buffer=False)
    except Exception as error:
        raise UserError(f"{path}: not readable ({first_line(error)})") from error


def save_facts(run: Run, facts: dict[str, Any]) -> None:
    path, text = Path(run.config.output_dir) / FACTS, json.dumps(facts, indent=2, sort_keys=True) + "\n"
    retried(path.name, partial(write_text, path, text), run.say)


def run_facts(
    run: Run, data: TextData, encoded: dict[str, Dataset], truncated: dict[str, int], longest: int
) -> dict[str, Any]:
    """What is known of model, data and plan when training begins; nothing that another start would find different."""
    import torch

    from ftloop.padding import padding_shares, row_lengths
    from ftloop.run import MANY_ROWS

    model: Any = run.unwrapped_model
    device, plan = run.accelerator.device, run.plan
    sets = {"train": data.train} | data.validation | data.test
    lengths = row_lengths(encoded["train"], quiet=True)
    some = lengths[:: -(-len(lengths) // MANY_ROWS)]
    share, grouped = padding_shares(run.config, some, longest, run.accelerator.num_processes)
    return {
        "format": 1,
        "model": {
            "name": run.config.model_name_or_path,
            "class": type(model).__name__,
            "parameters": model.num_parameters(),
            "trained_parameters": model.num_parameters(only_trainable=True),
        },
        "data": {
            "kind": kind_of_labels(data.labels),
            "labels": list(data.labels.names),
            "text_columns": list(data.text_columns),
            "label_column": data.label_column,
            "contradictions": _contradictions(data),
            "longest_input": longest,
            "sets": {
                name: {
                    "rows": len(rows),
                    "truncated": truncated[name],
                    "labels": _label_counts(encoded[name], data.labels) if data.has_labels(rows) else None,
                }
                for name, rows in sets.items()
            },
        },
        "padding": {"share": share, "length_grouped": grouped, "tokens_per_row": float(some.mean())},
        "plan": {
            "updates": plan.max_steps,
            "updates_per_epoch": plan.updates_per_epoch,
            "warmup_updates": plan.warmup_steps,
            "rows_per_update": plan.num_examples / plan.updates_per_epoch if plan.budget else plan.rows_in_window(0, 0),
        },
        "device": {
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": {"no": "fp32"}.get(run.accelerator.mixed_precision, run.accelerator.mixed_precision),
            "threads": torch.get_num_threads(),
        },
    }


def kind_of_labels(labels: Labels) -> str:
    return "regression" if labels.regression else "multi_label" if labels.multi_label else "classes"


def _label_counts(rows: Dataset, labels: Labels) -> dict[str, float] | dict[str, int]:
    """Rows of each class; of numbers mean and standard deviation."""
    from ftloop.data import label_ids

    values = label_ids(rows)
    if labels.regression:
        return {"mean": float(np.mean(values)), "std": float(np.std(values))}
    several = labels.multi_label
    counts = values.sum(axis=0, dtype=np.int64) if several else np.bincount(values, minlength=labels.count)
    return {name: int(count) for name, count in zip(labels.names, counts, strict=True)}


def _contradictions(data: TextData) -> dict[str, int]:
    """Training rows whose texts stand there with another class too, of those that were looked through. Numbers do not
    contradict each other: two people's grades of one text may both be right.
    """
    columns = list(data.text_columns)
    table = data.train.with_format("arrow")[: min(len(data.train), CONTRADICTIONS_OF)]
    if data.labels.regression:
        return {"rows": 0, "of": table.num_rows}
    raw, ids = table[data.label_column].to_pylist(), data.labels.ids  # several raw labels may be one class
    classes: list[Any] = (
        [json.dumps(sorted({ids[name] for name in names})) for names in raw]
        if data.labels.multi_label
        else [ids[name] for name in raw]
    )
    table = table.set_column(table.column_names.index(data.label_column), data.label_column, [classes])
    found = table.group_by(columns).aggregate([(data.label_column, "count_distinct"), (data.label_column, "count")])
    labels = found[f"{data.label_column}_count_distinct"].to_numpy()
    rows = found[f"{data.label_column}_count"].to_numpy()
    return {"rows": int(rows[labels > 1].sum()), "of": table.num_rows}


def keeps_predictions(rows: Dataset, labels: Labels) -> bool:
    return len(rows) * labels.count <= MOST_LOGITS


def save_predictions(run: Run, name: str, texts: Dataset, labels: Labels, predicted: Predictions) -> None:
    """Write `<name>_predictions.parquet`. `texts` are the set's rows as they were read, in the order predicted."""
    assert predicted.label_ids is not None
    texts = texts.select(range(len(predicted.label_ids)))  # with trainer_compat, drop_last leaves the last ones out
    path = Path(run.config.output_dir) / f"{name}{PREDICTIONS}"
    retried(path.name, lambda: write_file(path, partial(_write, _tables(texts, labels, predicted))), run.say)


def _write(tables: Iterator[pa.Table], path: Path) -> None:
    import pyarrow.parquet as pq

    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _tables(texts: Dataset, labels: Labels, predicted: Predictions) -> Iterator[pa.Table]:
    import pyarrow as pa

    assert predicted.label_ids is not None
    columns = texts.column_names
    for start in range(0, max(len(texts), 1), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        logits = np.asarray(predicted.predictions[part], np.float32).reshape(-1, labels.count)
        read = texts.with_format("arrow")[part]
        values = {_free(column): read[column] for column in columns}
        values |= decided(labels, logits, predicted.label_ids[part])
        values["logits"] = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), labels.count)
        yield pa.table(values)


def _free(column: str) -> str:
    """A text column's name, which may be one of ours."""
    return f"{column}_text" if column in ("label", "prediction", "score", "logits") else column


def decided(labels: Labels, logits: np.ndarray, label_ids: np.ndarray) -> dict[str, Any]:
    """Of each row: its label, what the logits say, and with what probability; lists of names where there are several
    labels a row."""
    if labels.regression:
        return {"label": label_ids.astype(np.float32).reshape(-1), "prediction": logits.reshape(-1)}
    if labels.multi_label:
        return {"label": _names(labels, label_ids > 0), "prediction": _names(labels, logits > 0)}
    names = np.asarray(labels.names, object)
    chosen = logits.argmax(axis=-1)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    score = shares[np.arange(len(shares)), chosen] / shares.sum(axis=-1)
    return {"label": names[label_ids], "prediction": names[chosen], "score": score.astype(np.float32)}


def _names(labels: Labels, hot: np.ndarray) -> pa.Array:
    """Of rows x classes, a list of names for each row."""
    import pyarrow as pa

    rows = [[labels.names[label] for label in np.flatnonzero(row)] for row in hot]
    return pa.array(rows, pa.list_(pa.string()))
