"""Constant answers to a labelled set: the same for every row. What a model scores is read against the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.system.text import join_some

MAX_NAMED = 5


class ConstantAnswer(NamedTuple):
    name: str
    """As a person reads it: a class, several, or a number."""
    value: Any
    """A class id, one number, or of each label whether it is given."""


def constant_answers(labels: Labels, true: np.ndarray) -> list[ConstantAnswer]:
    """Return the answers among which the best is for each metric here, the most usual one first.

    Of classes: the most frequent (accuracy, macro F1), and of two also the positive one (F1, precision and recall). Of
    several labels a row: the most frequent combination (accuracy), the most frequent labels that together have the
    highest micro F1, and all labels (macro F1). Of numbers: the mean (squared error) and the median (absolute error).

    Args:
        true: class ids, rows x labels, or numbers; at least one row.
    """
    if labels.regression:
        answers = {f"{value:.4g}": float(value) for value in (np.mean(true), np.median(true))}
        return [ConstantAnswer(name, value) for name, value in answers.items()]
    if labels.problem_type != ProblemType.MULTI_LABEL:
        ids = [int(np.bincount(true, minlength=labels.count).argmax())]
        ids += [labels.positive] if labels.is_binary else []
        return [ConstantAnswer(labels.names[id], id) for id in dict.fromkeys(ids)]
    combinations, counts = np.unique(true > 0, axis=0, return_counts=True)
    frequent = _most_frequent(true > 0)
    usual = [combinations[counts.argmax()], frequent, np.ones(labels.count, bool)]
    rows = {tuple(each.tolist()): each for each in usual}
    return [ConstantAnswer(_names(labels, row, row is frequent), row) for row in rows.values()]


def _most_frequent(true: np.ndarray) -> np.ndarray:
    """Return the labels that, given to every row, have the highest micro F1: the k most frequent, for some k."""
    support = true.sum(axis=0)
    order = np.argsort(-support, kind="stable")
    given = np.arange(1, len(order) + 1)
    f1 = 2 * np.cumsum(support[order]) / np.maximum(len(true) * given + support.sum(), 1)
    row = np.zeros(len(order), bool)
    row[order[: int(f1.argmax()) + 1]] = True
    return row


def _names(labels: Labels, row: np.ndarray, are_frequent: bool) -> str:
    names = [labels.names[i] for i in np.flatnonzero(row)]
    if len(names) == labels.count > 1:
        return "all labels"
    if are_frequent and len(names) > MAX_NAMED:
        return f"the {len(names)} most frequent labels"
    return join_some(names, MAX_NAMED) or "no label"


def best_of(
    scored: Mapping[str, Mapping[str, float]], falling: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Choose the best constant answer for each metric, of equals the first.

    Args:
        scored: each answer's metrics, by its name.
        falling: metrics of which less is better.
    Returns: the best value of each metric; and the metrics of each answer that is the best for some.
    """
    best: dict[str, float] = {}
    answers: dict[str, list[str]] = {}
    first = next(iter(scored.values()))
    for metric in first:
        ways = {name: -values[metric] if metric in falling else values[metric] for name, values in scored.items()}
        chosen = max(ways, key=lambda name: (not np.isnan(ways[name]), ways[name]))
        best[metric] = scored[chosen][metric]
        answers.setdefault(chosen, []).append(metric)
    return best, answers
