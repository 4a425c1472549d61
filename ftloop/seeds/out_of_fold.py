"""The rows of a cross-validation together, each as the one model predicts it that was not trained on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ftloop.config.problem_type import ProblemType
from ftloop.errors import UserError
from ftloop.metrics import score
from ftloop.report.label_doubts import LabelDoubts, doubt_labels
from ftloop.report.predictions import Predictions, load_predictions, parse_predictions
from ftloop.seeds.summary import SeedRuns
from ftloop.system.text import join_some, pluralize

OURS = ("fold", "probabilities", "label_score", "doubted")  # beside the columns of a fold's own predictions


@dataclass(frozen=True)
class OutOfFold:
    table: pa.Table
    """What is written: `row` in the training file, `fold`, texts, `label`, `prediction`, `score`, `probabilities` of
    the classes in their order, `label_score` and `doubted` (see LabelDoubts), `logits`; in the training file's order.
    """
    predictions: Predictions
    doubts: LabelDoubts
    metrics: dict[str, float]
    """The scores of all rows at once, under the names that those of a fold have, without `eval_`."""
    never: int
    """How many training rows no fold has held out."""
    repeated: int
    """How many rows have the texts of a row that their model was trained on."""

    @property
    def is_weak(self) -> bool:
        """Whether the models are right no more often than the largest class is, so that their doubts mean little."""
        labels, is_one = self.predictions.labels, self.predictions.problem_type == ProblemType.SINGLE_LABEL
        return is_one and bool((self.predictions.predicted == labels).sum() <= np.bincount(labels).max())


def read_out_of_fold(runs: SeedRuns) -> OutOfFold:
    """Raises: UserError where folds are missing, keep no predictions, or are not those of the same rows."""
    count = runs.config.get("folds")
    if not count:
        raise UserError(f"{runs.folder}: its runs do not say how many folds there are")
    missing = [str(number) for number in range(1, count + 1) if number not in runs.runs]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(f"{pluralize(len(missing), 'fold')} of {count} {are} missing: {join_some(missing, 5)}")
    first = next(iter(runs.runs.values()))
    data, parts = first.facts.get("data", {}), []
    for run in runs.runs.values():
        if "validation" not in run.predictions:
            raise UserError(f"{run.folder} has no predictions of its rows")
        if run.facts.get("data", {}).get("labels") != data.get("labels"):
            raise UserError(f"{run.folder} has other classes than {first.folder}")
        table, _ = load_predictions(run, "validation")
        if "row" not in table.column_names:
            raise UserError(f"{run.folder}: its predictions do not say which rows of the training file they are of")
        parts.append(table)
    # Of another format than a fold that was complete before, lists have another type.
    whole = pa.concat_tables(part.cast(parts[0].schema) for part in parts)
    order = np.argsort(whole["row"].to_numpy(), kind="stable")
    whole = whole.take(order).combine_chunks()
    folds = np.repeat(np.array([*runs.runs], np.int32), [part.num_rows for part in parts])[order]
    rows = whole["row"].to_numpy()
    twice = rows[1:][np.diff(rows) == 0]
    if len(twice):
        raise UserError(f"row {twice[0]} is in several folds: these were cut from other rows")
    predictions = parse_predictions(whole, data["problem_type"], data["labels"], data.get("positive"))
    doubts = doubt_labels(predictions)
    names = [name.removeprefix("eval_") for name in runs.scores() if name.startswith("eval_")]
    scored = {name: score(name, predictions.labels, predictions.predicted, predictions.classes) for name in names}
    sets = [run.facts["data"]["sets"] for run in runs.runs.values()]
    return OutOfFold(
        _columns(whole, folds, predictions, doubts),
        predictions,
        doubts,
        {name: value for name, value in scored.items() if value is not None},
        sets[0]["train"]["rows"] + sets[0]["validation"]["rows"] - len(rows),
        sum(each["validation"].get("in_train", 0) for each in sets),
    )


def _columns(whole: pa.Table, folds: np.ndarray, predictions: Predictions, doubts: LabelDoubts) -> pa.Table:
    names = whole.column_names
    texts = [name for name in names[: names.index("label")] if name != "row"]
    columns = {"row": whole["row"], "fold": pa.array(folds)}
    columns |= {f"{name}_text" if name in OURS else name: whole[name] for name in texts}
    columns |= {name: whole[name] for name in ("label", "prediction")}
    if predictions.problem_type == ProblemType.SINGLE_LABEL:
        columns["score"] = pa.array(predictions.probabilities().max(axis=1).astype(np.float32))
    if predictions.problem_type != ProblemType.REGRESSION:
        flat = predictions.probabilities().astype(np.float32).reshape(-1)
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), len(predictions.names))
        doubted = np.zeros(len(predictions.labels), bool)
        doubted[doubts.rows] = True
        columns |= {"label_score": pa.array(doubts.scores, from_pandas=True), "doubted": pa.array(doubted)}
    return pa.table(columns | {"logits": whole["logits"]})
