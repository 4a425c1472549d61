"""Write what the model predicts for the rows of a set: `<set>_predictions.parquet`, or .csv, .jsonl, .tsv.

Each row has its number where it was read, its file's own columns, then those of the prediction. The same run writes the
same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftloop.data.arrow_rows import READ_ERRORS, python_values
from ftloop.data.decode import label_names, label_scores, predicted_labels, probabilities
from ftloop.data.extra_columns import ROWS_AT_ONCE, Columns, ExtraColumns
from ftloop.data.labels import Labels
from ftloop.data.load import TextData
from ftloop.errors import UserError, summarize
from ftloop.evaluation import Predictions
from ftloop.inference.writers import as_cell, json_line, row_writer, storable
from ftloop.report.outcome import PREDICTIONS_FILE, RESERVED, name_in_predictions
from ftloop.run.run import Run
from ftloop.system.atomic import atomic_write, retry_once
from ftloop.system.console import say
from ftloop.system.row_numbers import row_numbers

if TYPE_CHECKING:
    from datasets import Dataset

MAX_LOGITS = 50_000_000  # 200 MB of float32; of a larger set only the metrics are kept
Ours = Callable[[slice], dict[str, Any]]
"""Returns the columns of the prediction for some rows: lists, arrays or Arrow arrays."""


def keeps_predictions(rows: Dataset, labels: Labels) -> bool:
    return len(rows) * labels.count <= MAX_LOGITS


def save_predictions(run: Run, data: TextData, name: str, predicted: Predictions) -> None:
    """Write a labelled set's predictions, with the label and the logits of each row."""
    true, labels = predicted.label_ids, data.labels
    assert true is not None

    def ours(part: slice) -> dict[str, Any]:
        logits = np.asarray(predicted.predictions[part], np.float32).reshape(-1, labels.count)
        return prediction_columns(labels, logits, true[part]) | {"logits": logits}

    # With trainer_compat, drop_last leaves the last rows out.
    _save(run, name, run.config.predictions_format or "parquet", _Rows.of(data, name, len(true)), ours)


def save_unlabelled(run: Run, data: TextData, name: str, logits: np.ndarray) -> Path:
    """Write the predictions of a set without labels: by default into a tsv without the texts, where a row's place, from
    0, comes first, as GLUE's server reads it. Between the labels of a row that has several, and their probabilities,
    stands `label_delimiter` there, or a bar.

    Returns: the file.
    """
    labels, kind, format = data.labels, data.labels.problem_type, run.config.predictions_format or "tsv"
    ids = predicted_labels(kind, logits)
    shares = probabilities(kind, logits if format == "tsv" else logits.astype(np.float64))
    names, scores = label_names(kind, labels.names, ids), label_scores(kind, ids, shares)
    columns: dict[str, Any] = {"prediction": names} | ({} if scores is None else {"score": scores})
    if format == "tsv":
        join = (run.config.label_delimiter or "|").join
        if scores is None:
            columns = {"prediction": [f"{value:.6g}" for value in names]}
        elif labels.multi_label:
            columns = {"prediction": list(map(join, names)), "score": [join(map(_shares, row)) for row in scores]}
        else:
            columns = {"prediction": names, "score": list(map(_shares, scores))}
    elif labels.multi_label:
        types = {"prediction": pa.list_(pa.string()), "score": pa.list_(pa.float64())}
        columns = {name: pa.array(values, types[name]) for name, values in columns.items()}
    elif scores is None:
        columns = {"prediction": ids}
    else:
        columns = {"prediction": names, "score": np.asarray(scores, np.float32)}
    rows = _Rows.of(data, name, len(logits))
    return _save(run, name, format, rows, lambda part: {name: values[part] for name, values in columns.items()})


def _shares(share: float) -> str:
    return f"{share:.6f}"


def prediction_columns(labels: Labels, logits: np.ndarray, label_ids: np.ndarray) -> dict[str, Any]:
    """Return of each row its label, the predicted one, and its probability; lists of names where a row has several."""
    predicted = predicted_labels(labels.problem_type, logits)
    if labels.regression:
        return {"label": label_ids.astype(np.float32).reshape(-1), "prediction": predicted}
    if labels.multi_label:
        return {"label": _names(labels, label_ids > 0), "prediction": _names(labels, predicted)}
    names = np.asarray(labels.names, object)
    score = probabilities(labels.problem_type, logits)[np.arange(len(predicted)), predicted]
    return {"label": names[label_ids], "prediction": names[predicted], "score": score.astype(np.float32)}


def _names(labels: Labels, hot: np.ndarray) -> pa.Array:
    """Return a list of names for each row of rows x classes."""
    return pa.array(label_names(labels.problem_type, labels.names, hot), pa.list_(pa.string()))


@dataclass(frozen=True)
class _Rows:
    """The rows of a set, in the order predicted, as they were read."""

    texts: Dataset
    places: np.ndarray
    """The place of each where it was read, from 0."""
    extra: ExtraColumns | None

    @classmethod
    def of(cls, data: TextData, name: str, count: int) -> _Rows:
        rows = (data.validation | data.test)[name]
        places = np.array(row_numbers(rows, range(count)), np.int64) - 1
        texts = rows.select_columns(list(data.text_columns)).select(range(count))
        return cls(texts, places, data.extra.get(name))

    def parts(self, has_extra: bool) -> Iterator[tuple[slice, Columns]]:
        """Yield which rows, some at a time, and their other columns; one part at least, for the types in it."""
        done, count = 0, len(self.places)
        if self.extra is None or not has_extra or not count:
            for start in range(0, max(count, 1), ROWS_AT_ONCE):
                yield slice(start, start + ROWS_AT_ONCE), {}
            return
        for size, values in self.extra.read(self.places, self.texts):
            yield slice(done, done + size), values
            done += size


def _save(run: Run, name: str, format: str, rows: _Rows, ours: Ours) -> Path:
    """Write a file of predictions. That the data are gone or others by now fails no run that is trained: the other
    columns are left out then, which is said.
    """
    path = Path(run.config.output_dir) / f"{name}{PREDICTIONS_FILE}{format}"
    try:
        columns = _Columns.of(rows, format, {} if rows.extra is None else rows.extra.types())
        retry_once(path.name, lambda: _write(path, rows, columns, ours))
    except UserError as error:
        say("Warning", f"{path.name} lacks the other columns of the rows: {summarize(error)}")
        columns = _Columns.of(rows, format, {})
        retry_once(path.name, lambda: _write(path, rows, columns, ours))
    told = [f"{column} as {name}" for column, name in columns.names.items() if column != name]
    if told:
        say("Columns", f"written to {path.name} under other names, as theirs are taken: {', '.join(told)}")
    return path


@dataclass(frozen=True)
class _Columns:
    """The columns of a file of predictions that were read with its rows."""

    format: str
    names: dict[str, str]
    """The columns in their order, each with its name in the file: another where that is one of ours."""
    texts: tuple[str, ...]
    types: Mapping[str, Any]
    """Arrow types of those that are no texts."""

    @property
    def has_extra(self) -> bool:
        return any(column not in self.texts for column in self.names)

    @classmethod
    def of(cls, rows: _Rows, format: str, types: Mapping[str, Any]) -> _Columns:
        texts = () if format == "tsv" else tuple(rows.texts.column_names)
        columns = [name for name, kind in types.items() if kind is not None or name in texts]
        columns += [name for name in texts if name not in types]
        names: dict[str, str] = {}
        for column in sorted(columns, key=lambda column: column not in texts):  # which reports find by these names
            name = name_in_predictions(column, column in texts, RESERVED[format])
            while name in names.values() or (column not in texts and name != column and name in columns):
                name += "_"
            names[column] = name
        return cls(format, {column: names[column] for column in columns}, texts, types)

    def values(self, read: Columns, texts: Columns, count: int) -> dict[str, Any]:
        """Return the values of some rows by the names that the columns have in the file. Raises: UserError."""
        found = {}
        for column, name in self.names.items():
            if column in self.texts:
                found[name] = texts[column]
                continue
            values = read.get(column, [None] * count)
            try:
                found[name] = self._in_type(values, self.types[column]) if self.format == "parquet" else _listed(values)
            except READ_ERRORS as error:
                raise UserError(f"column {column}: {summarize(error)}") from None
        return found

    def _in_type(self, values: Any, kind: pa.DataType) -> Any:
        if isinstance(values, (pa.Array, pa.ChunkedArray)) and values.type == kind:
            return values
        values = _listed(values)
        if pa.types.is_string(kind):
            values = [None if value is None else storable(as_cell(value)) for value in values]
        return pa.array(values, kind)


def _write(path: Path, rows: _Rows, columns: _Columns, ours: Ours) -> None:
    def tables() -> Iterator[dict[str, Any]]:
        texts = rows.texts.with_format("arrow")
        for part, read in rows.parts(columns.has_extra):
            places = rows.places[part]
            theirs = columns.values(read, texts[part] if columns.texts else {}, len(places))
            in_front = columns.format == "tsv"
            yield {"index": places, **ours(part), **theirs} if in_front else {"row": places + 1, **theirs, **ours(part)}

    with atomic_write(path) as partial:
        if columns.format == "parquet":
            _write_parquet(partial, tables())
        else:
            _write_text(partial, columns.format, tables())


def _write_parquet(path: Path, parts: Iterator[dict[str, Any]]) -> None:
    tables = (pa.table({name: _in_arrow(values) for name, values in part.items()}) for part in parts)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _in_arrow(values: Any) -> Any:
    """Return an array of logits, rows x classes, as lists of numbers."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return values


def _write_text(path: Path, format: str, parts: Iterator[dict[str, Any]]) -> None:
    # Half a surrogate pair, which JSON can name and another column may hold, is named again.
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write = row_writer(file, "\t" if format == "tsv" else ",")
        for number, part in enumerate(parts):
            if format != "jsonl" and not number:
                write(list(part))
            for row in zip(*map(_listed, part.values()), strict=True):
                if format == "jsonl":
                    file.write(json_line(dict(zip(part, row, strict=True))) + "\n")
                else:
                    write(list(map(as_cell, row)))


def _listed(values: Any) -> Sequence[Any]:
    """Return values as Python's own; a float32 of ours with no more digits than it has."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return python_values(values, strict=False)
    if isinstance(values, np.ndarray):
        return values.astype(str).astype(np.float64).tolist() if values.dtype == np.float32 else values.tolist()
    return values
