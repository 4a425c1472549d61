"""Look at the labels that `prepare` is given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ftloop.config.problem_type import ProblemType
from ftloop.models.weights import base_model
from ftloop.run.column_values import column_chunks, is_list
from ftloop.system.text import join_some, short_repr

IGNORED = -100  # by torch's cross entropy


def other_ids(names: Sequence[str], column: str, model: Any) -> Iterator[str]:
    """Yield that a data set numbers the model's own names, or the numbers of its classes, otherwise: what is learned
    would bear other names. Names that are neither, and a model whose names nobody has given, say nothing.
    """
    ours = _own_names(getattr(model, "config", None))
    ids = {name.casefold(): id for id, name in enumerate(ours)}
    if {*names} == {str(id) for id in range(len(names))} and not {*names} & {*ours}:
        ids, way = {str(id): id for id in range(len(names))}, _back_to_numbers(column)
    else:
        way = _by_the_models(column)
    for id, name in enumerate(names if ours else ()):
        known = ids.get(name.casefold())
        if known not in (None, id):
            yield (
                f"its class {short_repr(name)} is number {id} in the column {column!r}, and the model's number {known} "
                f"by its id2label ({join_some(ours, 6)}): what is learned would bear other names; {way}"
            )
            return


def _back_to_numbers(column: str) -> str:
    return (
        "the column held numbers as texts, which sort otherwise; in place of class_encode_column, "
        f"dataset.cast_column({column!r}, datasets.Value('int64')) keeps them"
    )


def _by_the_models(column: str) -> str:
    mapping = "{name: id for id, name in model.config.id2label.items()}"
    return f"dataset.align_labels_with_mapping({mapping}, {column!r}) numbers them as the model does"


def _own_names(config: Any) -> list[str]:
    """Return the names of the classes that somebody has given the model, by id."""
    given = getattr(config, "id2label", None) or {}
    names = [str(name) for _, name in sorted(given.items())]
    return [] if names == [f"LABEL_{id}" for id in range(len(names))] else names


def config_of_classes(model: Any) -> Any:
    """Return the configuration that says which labels a model takes; None of models of which nobody knows."""
    config = getattr(model, "config", None)
    is_known = type(base_model(model)).__name__.endswith("ForSequenceClassification")
    return config if is_known and getattr(config, "num_labels", None) is not None else None


def label_problems(dataset: Any, column: str, config: Any) -> Iterator[str]:
    """Yield what torch would say of a label in mid-training, and without its row. `config`: `config_of_classes`."""
    if config is None:
        return
    count, kind = config.num_labels, getattr(config, "problem_type", None)
    for start, values in column_chunks(dataset, column):
        examine = _problem_of_list if is_list(values.type) else _problem
        problem, wrong = examine(values, count, kind)
        if count > 1 and _is_text(values):
            problem = _way_to_numbers(dataset, column, config)
        if problem is not None:
            row = pc.index(wrong, True).as_py()
            label = f"row {start + row + 1} has the label {short_repr(values[row].as_py())}"
            yield f"{label}; {problem}. For a loss of your own, give compute_loss_func or a data_collator"
            return


Found = tuple[str | None, pa.Array]
"""What is wanted, None if nothing is wrong; and which labels are wrong."""


def _problem(values: pa.Array, count: int, kind: str | None) -> Found:
    """Return what is wrong with labels that are single values."""
    every, classes = values.is_valid(), f"the model's {count} classes are 0 to {count - 1}"
    if values.null_count:
        return "a row without a label cannot be learned: filter such rows out", values.is_null()
    if _is_text(values):
        return "a number is wanted", every
    if count == 1 or kind == ProblemType.REGRESSION:
        return None, every
    if kind == ProblemType.MULTI_LABEL:
        wanted = f"a list of {count} numbers, 1.0 for each label of the row and 0.0 for the others"
        return f"the model's problem_type is {kind}, which takes {wanted}", every
    if not pa.types.is_integer(values.type):
        return f"{classes}, whole numbers: cast the column; to learn a number, build the model with num_labels=1", every
    outside = pc.or_(pc.less(values, 0), pc.greater_equal(values, count))
    wrong = pc.and_(outside, pc.not_equal(values, IGNORED))
    if not pc.any(wrong).as_py():
        return None, every
    if pc.min(values).as_py() == -1:
        return f"{classes}; if -1 means none, filter such rows out, or remove the column to predict them", wrong
    return f"{classes}: number them from 0, and build the model with num_labels as many", wrong


def _problem_of_list(values: pa.Array, count: int, kind: str | None) -> Found:
    """Return what is wrong with labels that are lists."""
    every, lengths, inner = values.is_valid(), pc.list_value_length(values), values.type.value_type
    if values.null_count or pa.types.is_nested(inner) or kind == ProblemType.REGRESSION or count == 1:
        return None, every
    if pa.types.is_integer(inner) and pc.all(pc.equal(lengths, 1)).as_py() and kind != ProblemType.MULTI_LABEL:
        return None, every  # classes, each in a list of its own
    several = pc.greater(lengths, 1)
    if kind == ProblemType.SINGLE_LABEL and pc.any(several).as_py():
        return f"the model's problem_type is {kind}, which takes one class a row", several
    wrong = pc.not_equal(lengths, count)
    if pc.any(wrong).as_py():
        return f"{count} numbers are wanted, 1.0 for each of the model's labels that the row has, else 0.0", wrong
    if not pa.types.is_floating(inner):
        way = "dataset.cast_column(name, datasets.List(datasets.Value('float32'))) makes them so"
        return f"of several labels a row, 1.0 and 0.0 are wanted, with a point: {way}", every
    return None, every


def _is_text(values: pa.Array) -> bool:
    return pa.types.is_string(values.type) or pa.types.is_large_string(values.type)


def _way_to_numbers(dataset: Any, column: str, config: Any) -> str:
    """Return how a column of texts becomes one of numbers. Whole numbers keep what they are (to number them anew goes
    by their text: 0, 1, 10, 2), and the model's own names get the model's numbers."""
    texts: set[str] = set()
    for _, values in column_chunks(dataset, column):
        texts.update(pc.unique(values).to_pylist())
    if all(re.fullmatch(r"[+-]?[0-9]+", text) for text in texts):
        return f"dataset.cast_column({column!r}, datasets.Value('int64')) makes numbers of such texts"
    if texts <= {*_own_names(config)}:
        return f"dataset.class_encode_column({column!r}), and then {_by_the_models(column)}"
    return f"dataset.class_encode_column({column!r}) numbers classes"
