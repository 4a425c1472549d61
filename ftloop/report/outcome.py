"""Read what the command leaves of a finished run beside the model.

`ftloop_run.json` holds what is known of model, data and plan; `<set>_predictions.parquet` the rows of a labelled set
with their texts, label, prediction and logits. Both are the same bytes each time the same run is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.data.glue import EVALUATED
from ftloop.errors import UserError, summarize
from ftloop.system.manifest import RUN_FACTS, read_json, read_manifest
from ftloop.system.text import join_some

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS_FILE = "_predictions.parquet"
REPORT = "report"  # a folder
MERGED = "merged"  # a folder, with the whole model beside an adapter


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
    files = {name: root / f"{name}{PREDICTIONS_FILE}" for name in reversed(EVALUATED)}
    return FinishedRun(
        folder=root,
        config=manifest.get("config", {}),
        versions=manifest.get("versions", {}),
        num_processes=manifest.get("num_processes", 1),
        facts=optional[RUN_FACTS],
        history=history,
        state=state,
        results=optional["all_results.json"],
        predictions={name: path for name, path in files.items() if path.is_file()},
    )


def describe_labels(labels: dict[str, Any] | None, show: Callable[[str], str] = str, most: int = 8) -> str:
    """Say how many rows of a set have each label, as the facts of the run have it; of numbers mean and deviation."""
    if labels is None:
        return "without labels"
    ordered = sorted(labels.items(), key=lambda pair: -pair[1] if isinstance(pair[1], int) else 0)
    counts = [f"{show(name)} {count:,}" if isinstance(count, int) else f"{name} {count:.4g}" for name, count in ordered]
    return ", ".join(counts[:most]) + (f", ... ({len(counts)} in all)" if len(counts) > most else "")


def read_predictions(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read all columns, or some: the texts under their own names, `label`, `prediction`, `score` (where a row has one
    class), `logits`.

    Raises: UserError when the file cannot be read.
    """
    import pyarrow.parquet as pq  # a training that predicts nothing needs none of it

    try:
        return pq.read_table(path, columns=columns, pre_buffer=False)
    except Exception as error:
        raise UserError(f"{path}: not readable ({summarize(error)})") from error
