"""Constant answers, worked out by hand: which is the best for which metric, and what it scores."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from transformers import EvalPrediction

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import FALLING, TrainConfig
from ftloop.data.constant_answers import best_of, constant_answers
from ftloop.data.find_labels import with_positive
from ftloop.data.labels import Labels
from ftloop.errors import UserError
from ftloop.metrics import metrics_for

TWO = Labels(("ham", "spam"), {"ham": 0, "spam": 1})
NUMBER = Labels((), {}, ProblemType.REGRESSION)


def best(labels: Labels, true: Any) -> tuple[dict[str, float], dict[str, list[str]]]:
    compute, rows = metrics_for(labels), len(true)
    scored = {
        name: compute(EvalPrediction(np.repeat(np.asarray(value)[None], rows, axis=0), np.asarray(true)))
        for name, value in constant_answers(labels, np.asarray(true))
    }
    return best_of(scored, FALLING)


def test_of_two_classes_the_usual_one_has_the_accuracy_and_the_positive_one_the_f1() -> None:
    values, answers = best(TWO, [0, 0, 0, 1])
    assert values == {"accuracy": 0.75, "f1": pytest.approx(2 * 0.25 / 1.25)}
    assert answers == {"ham": ["accuracy"], "spam": ["f1"]}
    assert best(TWO, [0, 1, 1, 1])[1] == {"spam": ["accuracy", "f1"]}


def test_the_positive_class_can_be_chosen() -> None:
    ham = with_positive(TWO, "ham")
    assert (ham.positive, TWO.positive) == (0, 1)
    values, answers = best(ham, [0, 0, 0, 1])
    assert values["f1"] == pytest.approx(2 * 0.75 / 1.75)
    assert answers == {"ham": ["accuracy", "f1"]}
    numbered = Labels(("ham", "spam"), {"0": 0, "1": 1, "ham": 0, "spam": 1})
    assert with_positive(numbered, "0").positive_name == "ham"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (TWO, "positive_label: 'eggs' is none of the classes; give 'ham' or 'spam'"),
        (Labels(("a", "b", "c"), {}), "positive_label: only where there are two classes, and these are 3 classes"),
        (NUMBER, "positive_label: only where there are two classes, and these are numbers"),
        (Labels(("a", "b"), {}, ProblemType.MULTI_LABEL), "and these are 2 labels"),
    ],
)
def test_a_positive_class_that_is_none_is_refused(labels: Labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_positive(labels, TrainConfig(positive_label="eggs").positive_label)


def test_of_numbers_the_mean_has_the_squared_error() -> None:
    values, answers = best(NUMBER, np.array([1.0, 1.0, 4.0]))
    assert values["mse"] == pytest.approx(2.0)
    assert answers["2"] == ["mse", "pearson", "spearmanr"]  # correlations with a constant are not defined
    assert [each.name for each in constant_answers(NUMBER, np.array([1.0, 1.0, 4.0]))] == ["2", "1"]


def test_no_constant_set_of_labels_is_better_than_those_that_are_tried() -> None:
    draw = np.random.default_rng(0)
    labels = Labels(tuple("abcde"), {}, ProblemType.MULTI_LABEL)
    for _ in range(20):
        true = (draw.random((30, 5)) < draw.random(5) * 0.6).astype(np.float32)
        values, _ = best(labels, true)
        for average, metric in (("micro", "f1"), ("macro", "f1_macro")):
            every = [
                f1_score(true, np.tile(row, (30, 1)), average=average, zero_division=0.0)
                for row in itertools.product((0, 1), repeat=5)
            ]
            assert values[metric] == pytest.approx(max(every))


def test_many_labels_are_counted_and_not_named() -> None:
    labels = Labels(tuple("abcdefghij"), {}, ProblemType.MULTI_LABEL)
    true = np.zeros((10, 10), np.float32)
    true[:, :8] = 1
    true[0, 8:] = true[1, :] = 1
    true[2, 0] = 0
    assert [each.name for each in constant_answers(labels, true)] == ["the 8 most frequent labels", "all labels"]
    true[5:, :] = 0
    assert constant_answers(labels, true)[0].name == "no label"
