"""Hold predictions against the labels of a file: the run's own scores, without training."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import EvalPrediction

from ftloop.config.problem_type import ProblemType
from ftloop.data.decision import Decision
from ftloop.data.files import file_class_names, name_class
from ftloop.data.find_labels import is_number, with_spellings
from ftloop.data.glue import TASKS
from ftloop.data.label_forms import items_or_name, parse_list
from ftloop.data.labels import Labels
from ftloop.data.number_forms import with_point
from ftloop.data.probabilities import are_numbers
from ftloop.data.rows import Row, value_at
from ftloop.data.sources import Source
from ftloop.data.values import BITS, ONE, as_label, as_names, as_text, is_missing, is_written, texts_within
from ftloop.errors import UserError
from ftloop.inference.classifier import RunSettings, class_names, find_problem_type
from ftloop.metrics import metric_titles, metrics_for
from ftloop.system.text import join_some, pluralize, short_repr

MAY_BE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")


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

    numbers_told: dict[str, str] = field(default_factory=dict)
    """Numbers that were read as ids, with their classes, where the run does not say that they are."""
    is_told_of_numbers: bool = True
    class_names_of: dict[str, list[str] | None] = field(default_factory=dict)
    """The classes that each file names itself."""

    @staticmethod
    def of(config: Any, settings: RunSettings, columns: list[str]) -> Scorer:
        kind = find_problem_type(config)
        names = () if kind == ProblemType.REGRESSION else tuple(class_names(config))
        ids = {name: id for id, name in enumerate(names)}
        # Of a model whose run is not known the ids are what its own configuration says.
        if settings.numbers_are_ids is not False and not any(are_numbers([name]) for name in names):
            ids = {str(id): id for id in range(len(names))} | ids
        positive = settings.positive if len(names) == 2 and settings.positive in names else None
        labels = Labels(names, ids, kind, positive)
        task = TASKS.get(settings.task_name or "")
        metrics = task.metrics if task and task.label_names == names and not labels.multi_label else None
        scorer = Scorer(labels, tuple(columns), settings.label_delimiter, metrics)
        scorer.is_told_of_numbers = settings.numbers_are_ids is None and not scorer.lacks_names
        return scorer

    @property
    def lacks_names(self) -> bool:
        """Whether the classes have no names but those that transformers gives them."""
        return self.labels.names == tuple(f"LABEL_{id}" for id in range(self.labels.count))

    def read(self, source: Source, row: Row) -> Any:
        """Return what a row's label is in numbers; None where it has none: empty, a null, and -1 or - where that is no
        class. Raises: UserError for one that the model does not know, without its place.
        """
        values = [value_at(row.values, name) for name in self.columns]
        if all(map(self._is_missing, values)):
            return None
        if len(values) > 1:
            return self._encode(self._names_of_columns(values))
        names = self._class_names(source)
        value = values[0] if names is None else name_class(values[0], names)
        where = f"column {self.columns[0]}"
        if self.labels.multi_label:
            if isinstance(value, str) and (self.delimiter is None or parse_list(value)):
                value = items_or_name(value)
            listed = as_names(value, where, self.delimiter)
            return None if listed is None else self._encode(self._names_of(listed, where))
        label = self._only(value, where)
        return None if label is None or self._is_missing(label) else self._encode([label])

    def _is_missing(self, value: Any) -> bool:
        if is_missing(value):
            return True
        if self.labels.multi_label and len(self.columns) == 1:  # an empty list, or cell, says that it has none of them
            return False
        text = str(value).strip()
        is_sign = text in ("-1", "-1.0", "-") and text not in self.labels.ids and not self.labels.regression
        return is_sign or (isinstance(value, str) and not is_written(value))

    def _class_names(self, source: Source) -> list[str] | None:
        """Return the classes that a file names itself; None where the model has no names to look for."""
        if source.name not in self.class_names_of:
            names = None if self.lacks_names or self.labels.regression else file_class_names(source, self.columns[0])
            self.class_names_of[source.name] = names
        return self.class_names_of[source.name]

    def _names_of_columns(self, values: list[Any]) -> list[str]:
        names = []
        for name, value in zip(self.columns, values, strict=True):
            bit = (as_text(value, f"column {name}") or "").strip().lower()
            if bit not in BITS:
                has = "has no value" if is_missing(value) else f"holds {short_repr(str(value))}, neither 0 nor 1"
                raise UserError(f"column {name} {has}")
            names += [name] if bit in ONE else []
        return names

    def _names_of(self, listed: list[str], where: str) -> list[str]:
        """Return the names in a list, or those that a vector of 0 and 1 stands for; by the same rules as in training.

        Raises: UserError for a vector of another length than there are labels.
        """
        may_be_vector = bool(listed) and BITS.issuperset(listed) and BITS.isdisjoint(self.labels.names)
        if may_be_vector and len(listed) == self.labels.count:
            return [name for name, bit in zip(self.labels.names, listed, strict=True) if bit in ONE]
        by_number = "0" in self.labels.ids and not self.lacks_names and not self.is_told_of_numbers
        if may_be_vector and not by_number:
            shown = f"[{', '.join(listed)}]"
            told = f"{where} holds {short_repr(shown)}, and a vector of 0 and 1 has one for each of the model's"
            raise UserError(f"{told} {self.labels.count} labels; write names, or a vector of that length")
        twice = next((name for number, name in enumerate(listed) if name in listed[:number]), None)
        if twice is not None:
            raise UserError(f"{where}: {short_repr(twice)} is there twice")
        return listed

    def _only(self, value: Any, where: str) -> str | None:
        """Return the label of a row that has one; of a list of one that is no class itself, what it holds."""
        if isinstance(value, list) and len(value) < 2 and texts_within(value) is None:
            value = value[0] if value else None
        label = as_label(value, where)
        items = None if label in self.labels.ids else parse_list(label)
        return label if items is None or len(items) > 1 else items[0] if items else None

    def _encode(self, names: list[str]) -> Any:
        where = f"column {join_some(self.columns, 3)}"
        if self.labels.regression:
            return self._number(names[0], where)
        for name in names:
            if name not in self.labels.ids:
                self.labels = with_spellings(self.labels, [name])
            if name not in self.labels.ids:
                classes = join_some(list(map(short_repr, self.labels.names)), 10)
                way = "write the label as the model has it, or take the row out"
                raise UserError(f"{where} holds {short_repr(name)}, which the model does not know: {classes}; {way}")
            if self.is_told_of_numbers and are_numbers([name]):
                self.numbers_told[name] = self.labels.names[self.labels.ids[name]]
        coded: Any = self.labels.encode(names if self.labels.multi_label else names[0])
        return coded.astype(np.int8) if self.labels.multi_label else coded

    @staticmethod
    def _number(text: str, where: str) -> float:
        if MAY_BE_THOUSANDS.fullmatch(text.strip()):
            told = "a decimal comma, or one between thousands? Write it with a point, or without a comma"
            raise UserError(f"{where} holds {short_repr(text)}: {told}")
        number = str(with_point(text)).strip()
        if not is_number(number):
            raise UserError(f"{where} holds {short_repr(text)}, and the model predicts numbers")
        return float(number)

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
        named = [f"{number} as {short_repr(name)}" for number, name in sorted(self.numbers_told.items())]
        read = f"; read by the model's ids: {join_some(named, 3)}" if named else ""
        return f"{scores} of {sum(map(len, self.true))} rows{unlabelled}{read}"
