"""The predictions of one labelled set as arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit, log_softmax, softmax

from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.errors import UserError, summarize
from ftloop.report.outcome import REQUIRED, FinishedRun, name_in_predictions, read_predictions

MAX_CLASSES_SHOWN = 20  # of more, the most confused pairs stand in place of the matrix, and no class has a curve
PREDICTED = ("row", "prediction", "score", "logits")  # the columns in which two models on the same rows may differ


@dataclass(frozen=True)
class Predictions:
    """The labels of a set and what the model predicted for each row."""

    problem_type: ProblemType
    names: tuple[str, ...]
    """The classes or labels; empty for numbers."""
    labels: np.ndarray
    """Class ids; rows x labels, true or false; or numbers."""
    predicted: np.ndarray
    """In the form of `labels`."""
    logits: np.ndarray
    """Rows x classes, without a copy of what was read: a set may be large."""
    positive: str | None = None
    """The class, of two, whose F1 and curve are given; None: the second."""

    @property
    def classes(self) -> Labels:
        return Labels(self.names, {}, self.problem_type, self.positive)

    def finite(self) -> Predictions:
        """Return the rows whose logits are all finite."""
        return self.keep(self.are_finite)

    @property
    def are_finite(self) -> np.ndarray:
        """Which rows have finite logits alone."""
        return np.asarray(np.isfinite(self.logits).all(axis=1))

    def keep(self, rows: np.ndarray) -> Predictions:
        """Return some of the rows, by a mask."""
        if rows.all():
            return self
        return replace(self, labels=self.labels[rows], predicted=self.predicted[rows], logits=self.logits[rows])

    def in_classes_of(self, other: Predictions) -> Predictions:
        """Return the same predictions with the other's ids and positive class; both have the same classes."""
        if self.names == other.names:
            return replace(self, positive=other.positive)
        order = np.array([self.names.index(name) for name in other.names])
        labels, predicted = (
            ids[:, order] if self.problem_type == ProblemType.MULTI_LABEL else np.argsort(order)[ids]
            for ids in (self.labels, self.predicted)
        )
        logits, positive = self.logits[:, order], other.positive
        return replace(self, names=other.names, labels=labels, predicted=predicted, logits=logits, positive=positive)

    def probabilities(self) -> np.ndarray:
        """Return rows x classes as float64: one distribution per row, or one probability per label of a row."""
        logits = self.logits.astype(np.float64)
        return np.asarray(expit(logits) if self.problem_type == ProblemType.MULTI_LABEL else softmax(logits, axis=1))

    def row_losses(self) -> np.ndarray:
        """Return the cross-entropy of each row, of several labels their mean, or the squared error of a number."""
        logits = self.logits.astype(np.float64)
        if self.problem_type == ProblemType.REGRESSION:
            return np.asarray((logits[:, 0] - self.labels) ** 2)
        if self.problem_type == ProblemType.MULTI_LABEL:
            return np.asarray(np.logaddexp(0.0, np.where(self.labels, -logits, logits)).mean(axis=1))
        return np.asarray(-log_softmax(logits, axis=1)[np.arange(len(logits)), self.labels])

    def one_vs_rest(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return, for each class that has a curve, which rows are positive and their scores: of two the positive class,
        of up to MAX_CLASSES_SHOWN each, of more (and of numbers) none.
        """
        count, multi_label = len(self.names), self.problem_type == ProblemType.MULTI_LABEL
        if not 2 <= count <= MAX_CLASSES_SHOWN:
            return {}
        scores = self.probabilities()
        return {
            self.names[index]: (self.labels[:, index] if multi_label else self.labels == index, scores[:, index])
            for index in ([self.classes.positive] if self.classes.is_binary else range(count))
        }


def labelled_rows(table: pa.Table) -> pa.Table:
    """Return the texts and labels of a table of predictions: what it shares with another model's on the same rows."""
    return table.select([name for name in table.column_names if name not in PREDICTED])


def load_predictions(run: FinishedRun, name: str) -> tuple[pa.Table, Predictions]:
    """Read a set's predictions, as they are in their file and as arrays: `row`, the texts and what is ours, but none of
    the other columns of the data. Raises: UserError where they are damaged or of another run.
    """
    data = run.facts.get("data", {})
    texts = [name_in_predictions(column, is_text=True) for column in data.get("text_columns", [])]
    table = read_predictions(run.predictions[name], ["row", *texts, *REQUIRED] if texts else None)
    try:
        return table, parse_predictions(table, data["problem_type"], data["labels"], data.get("positive"))
    except (UserError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{run.predictions[name]}: not the predictions of this run ({summarize(error)})") from error


def parse_predictions(table: pa.Table, problem_type: str, names: list[str], positive: str | None = None) -> Predictions:
    """Raises: UserError when the table does not fit these classes."""
    width = len(names) or 1
    logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(logits) != table.num_rows * width:
        raise UserError(f"the predictions have other classes than ftloop_run.json names ({', '.join(names[:5])}, ...)")
    columns = [table[name].combine_chunks() for name in ("label", "prediction")]
    if problem_type == ProblemType.REGRESSION:
        labels, predicted = (np.asarray(column.to_numpy(zero_copy_only=False), np.float64) for column in columns)
    else:
        read = _multi_hot if problem_type == ProblemType.MULTI_LABEL else _class_ids
        labels, predicted = (read(column, names) for column in columns)
    return Predictions(ProblemType(problem_type), tuple(names), labels, predicted, logits.reshape(-1, width), positive)


def _class_ids(column: pa.Array, names: list[str]) -> np.ndarray:
    ids = pc.index_in(column, value_set=pa.array(names, pa.string()))
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"row {row + 1} of the predictions: {column[row].as_py()!r} is none of the classes")
    return np.asarray(ids.to_numpy(zero_copy_only=False), np.int64)


def _multi_hot(column: pa.Array, names: list[str]) -> np.ndarray:
    hot = np.zeros((len(column), len(names)), bool)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    hot[np.repeat(np.arange(len(column)), lengths), _class_ids(column.flatten(), names)] = True
    return hot
