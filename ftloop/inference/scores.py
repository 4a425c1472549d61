"""Hold predictions against the labels of a file: the run's own scores, without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import EvalPrediction

from ftloop.config.problem_type import ProblemType
from ftloop.data.decision import Decision
from ftloop.data.glue import TASKS
from ftloop.data.label_forms import items_or_name, parse_list
from ftloop.data.labels import Labels
from ftloop.data.rows import Row, value_at
from ftloop.data.sources import Source
from ftloop.data.values import BITS, ONE, as_names, as_text, is_missing, is_written, plain_number
from ftloop.errors import UserError
from ftloop.inference.classifier import RunSettings, class_names, find_problem_type
from ftloop.metrics import metric_titles, metrics_for
from ftloop.system.text import join_some, pluralize, short_repr


@dataclass
class Scorer:
    """Labels and predicted labels of all rows: of each row a number, or a byte for each of several labels."""

    labels: Labels
    columns: tuple[str, ...]
    """One, or a 0/1 column for each label."""
    delimiter: str | None
    metrics: tuple[str, ...] | None
    """Those of the task; None for the usual ones."""
    true: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)
    unlabelled: int = 0
    """Rows that were predicted, and not scored."""

    @staticmethod
    def of(config: Any, settings: RunSettings, columns: list[str]) -> Scorer:
        kind = find_problem_type(config)
        names = () if kind == ProblemType.REGRESSION else tuple(class_names(config))
        # Where classes have names, their numbers are read too, as in training.
        numbers = {str(id): id for id in range(len(names))}
        positive = settings.positive if len(names) == 2 and settings.positive in names else None
        labels = Labels(names, numbers | {name: id for id, name in enumerate(names)}, kind, positive)
        task = TASKS.get(settings.task_name or "")
        metrics = task.metrics if task and task.label_names == names and not labels.multi_label else None
        return Scorer(labels, tuple(columns), settings.label_delimiter, metrics)

    def read(self, source: Source, row: Row) -> Any:
        """Return what a row's label is in numbers; None where it has none: empty, a null, and -1 or - where that is no
        class. Raises: UserError for one that the model does not know.
        """
        if all(self._is_missing(value_at(row.values, name)) for name in self.columns):
            return None
        try:
            return self._encode(row)
        except UserError as error:
            raise source.error(row.number, str(error)) from None

    def _is_missing(self, value: Any) -> bool:
        if is_missing(value):
            return True
        if self.labels.multi_label and len(self.columns) == 1:  # an empty list, or cell, says that it has none of them
            return False
        text = str(value).strip()
        is_sign = text in ("-1", "-1.0", "-") and text not in self.labels.ids and not self.labels.regression
        return is_sign or (isinstance(value, str) and not is_written(value))

    def _encode(self, row: Row) -> Any:
        where = f"column {join_some(self.columns, 3)}"
        if len(self.columns) > 1:
            bits = [as_text(value_at(row.values, name), f"column {name}") for name in self.columns]
            odd = next(
                (name for name, bit in zip(self.columns, bits, strict=True) if (bit or "").lower() not in BITS), ""
            )
            if odd:
                value = value_at(row.values, odd)
                has = "has no value" if is_missing(value) else f"holds {short_repr(str(value))}, neither 0 nor 1"
                raise UserError(f"column {odd} {has}")
            raw: Any = [name for name, bit in zip(self.columns, bits, strict=True) if str(bit).lower() in ONE]
        else:
            raw = value_at(row.values, self.columns[0])
            if self.labels.multi_label:
                if isinstance(raw, str) and (self.delimiter is None or parse_list(raw)):
                    raw = items_or_name(raw)
                raw = as_names(raw, where, self.delimiter)
            else:
                raw = as_text(raw, where)
        names = [raw] if isinstance(raw, str) else raw
        if self.labels.regression:
            try:
                return np.float64(raw)
            except ValueError:
                raise UserError(f"{where} holds {short_repr(raw)}, and the model predicts numbers") from None
        known = [name if name in self.labels.ids else plain_number(name) for name in names]
        for name, plain in zip(names, known, strict=True):
            if plain not in self.labels.ids:
                classes = join_some(list(map(short_repr, self.labels.names)), 10)
                way = "write the label as the model has it, or take the row out"
                raise UserError(f"{where} holds {short_repr(name)}, which the model does not know: {classes}; {way}")
        coded: Any = self.labels.encode(known if self.labels.multi_label else known[0])
        return coded.astype(np.int8) if self.labels.multi_label else coded

    def add(self, true: list[Any], logits: np.ndarray, decision: Decision) -> None:
        """Count predictions against labels, and rows without one."""
        has_label = [label is not None for label in true]
        self.unlabelled += has_label.count(False)
        if any(has_label):
            true, logits = [label for label in true if label is not None], logits[has_label]
            predicted = decision.labels(self.labels.problem_type, logits)
            self.true.append(np.asarray(true))
            self.predicted.append(predicted.astype(np.int8) if self.labels.multi_label else predicted)

    def scores(self) -> dict[str, float]:
        true, predicted = np.concatenate(self.true), np.concatenate(self.predicted)
        return metrics_for(self.labels, self.metrics)(EvalPrediction(predicted, true))

    def told(self) -> str:
        if not self.true:
            return f"none: not one row has a label in {join_some(self.columns, 3)}"
        titles = metric_titles(self.labels)
        scores = ", ".join(f"{titles.get(name, name)}={value:.4f}" for name, value in self.scores().items())
        unlabelled = f"; {pluralize(self.unlabelled, 'row')} without a label not scored" if self.unlabelled else ""
        return f"{scores} of {sum(map(len, self.true))} rows{unlabelled}"
