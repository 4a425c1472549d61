"""Metrics, worked out by hand on few rows."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harness.command import CHECKOUT
from transformers import EvalPrediction

from ftloop.config.problem_type import ProblemType
from ftloop.data.glue import TASKS
from ftloop.data.labels import Labels
from ftloop.logs import scores
from ftloop.metrics import metric_titles, metrics_for


def classes(count: int) -> Labels:
    names = tuple(f"class {id}" for id in range(count))
    return Labels(names, {name: id for id, name in enumerate(names)})


NUMBER = Labels((), {}, ProblemType.REGRESSION)


def score(
    labels: Labels, true: Sequence[float], predicted: Sequence[float], names: tuple[str, ...] | None = None
) -> dict[str, float]:
    logits: Any = np.array([[value] for value in predicted], np.float32)
    if not labels.regression:
        logits = np.array([[5.0 if id == label else -1.0 for id in range(labels.count)] for label in predicted])
    return metrics_for(labels, names)(EvalPrediction(predictions=logits, label_ids=np.array(true)))


def test_two_classes_have_accuracy_and_the_f1_of_class_one() -> None:
    # Of class 1: two found of three, one falsely; precision 2/3, recall 2/3.
    found = score(classes(2), [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0])
    assert found == {"accuracy": 6 / 8, "f1": pytest.approx(2 / 3)}


def test_more_classes_have_the_macro_average_over_all_of_them() -> None:
    # F1 of the classes: 2/3 (precision 1/2, recall 1), 0, 1; class 3 is in neither and counts as 0.
    found = score(classes(4), [0, 1, 2, 2], [0, 0, 2, 2])
    assert found == {"accuracy": 3 / 4, "f1": pytest.approx((2 / 3 + 0 + 1 + 0) / 4)}


def test_a_set_that_holds_two_of_three_classes_is_no_set_of_two() -> None:
    assert score(classes(3), [0, 1], [0, 1])["f1"] == pytest.approx(2 / 3)


def test_numbers_have_the_squared_error_and_both_correlations() -> None:
    found = score(NUMBER, [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 8.0])
    assert list(found) == ["mse", "pearson", "spearmanr"]
    assert found["mse"] == pytest.approx(4.0)
    assert found["spearmanr"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 2, 3, 8])[0, 1])


def test_every_task_of_glue_has_its_own() -> None:
    true, predicted = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    counted = 0
    for task in TASKS.values():
        labels = classes(len(task.label_names)) if task.label_names else NUMBER
        found = score(labels, true, predicted, task.metrics)
        assert tuple(found) == task.metrics
        assert all(math.isfinite(value) and type(value) is float for value in found.values())
        counted += 1
    assert counted == 10
    # True positives 2, false 1, true negatives 1, false 1.
    assert score(classes(2), true, predicted, ("matthews_correlation",))["matthews_correlation"] == pytest.approx(
        (2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2)
    )


@pytest.mark.filterwarnings("error")
def test_a_constant_answer_is_scored_and_its_correlation_is_undefined() -> None:
    assert score(classes(2), [1, 1, 0], [0, 0, 0]) == {"accuracy": 1 / 3, "f1": 0.0}
    assert score(classes(2), [1, 1, 0], [1, 1, 1]) == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(0.8)}
    assert score(classes(2), [1, 0], [1, 1], ("matthews_correlation",)) == {"matthews_correlation": 0.0}
    assert score(classes(2), [1, 1], [1, 1], ("matthews_correlation",)) == {"matthews_correlation": 0.0}
    assert score(classes(3), [0, 1, 2], [0, 0, 0])["f1"] == pytest.approx(0.5 / 3)
    for true, predicted in (([1.0, 2.0], [1.5, 1.5]), ([2.0, 2.0], [1.0, 2.0]), ([1.0], [1.0])):
        found = score(NUMBER, true, predicted)
        assert math.isfinite(found["mse"])
        assert math.isnan(found["pearson"])
        assert math.isnan(found["spearmanr"])


def test_logits_may_come_with_further_outputs() -> None:
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    evaluated = EvalPrediction(predictions=(logits, np.zeros((2, 3))), label_ids=np.array([1, 0]))
    assert metrics_for(classes(2))(evaluated) == {"accuracy": 1.0, "f1": 1.0}


LATE = """
import random, sys
import numpy as np
from ftloop.config.train_config import TrainConfig
from ftloop.data.labels import Labels
from ftloop.metrics import check_metric, metrics_for
labels = Labels(("no", "yes"), {"no": 0, "yes": 1})
check_metric(TrainConfig(), labels, None)
assert not {"sklearn", "scipy.stats"} & sys.modules.keys(), "a run that evaluates nothing does without"
compute = metrics_for(labels)
assert "sklearn" in sys.modules
random.seed(1), np.random.seed(1)
before = random.getstate(), str(np.random.get_state())
class Evaluated:
    predictions, label_ids = np.array([0, 1]), np.array([0, 1])
assert compute(Evaluated()) == {"accuracy": 1.0, "f1": 1.0}
assert (random.getstate(), str(np.random.get_state())) == before, "an evaluation draws random numbers"
"""


def test_metrics_for_imports_scikit_learn_and_evaluating_draws_nothing() -> None:
    """What scikit-learn imports draws from Python's generator; after the seed, that would be another run."""
    done = subprocess.run([sys.executable, "-c", LATE], cwd=CHECKOUT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_titles_say_whose_f1_it_is() -> None:
    several = Labels(("a", "b"), {}, ProblemType.MULTI_LABEL)
    long = Labels(("no", "x" * 40), {})
    assert metric_titles(classes(2)) == {"f1": "f1(class 1)"}
    assert metric_titles(replace(classes(2), positive_name="class 0")) == {"f1": "f1(class 0)"}
    assert metric_titles(long) == {"f1": f"f1({'x' * 21}...)"}
    assert metric_titles(classes(3)) == {"f1": "f1(macro)"}
    assert metric_titles(several) == {"f1": "f1(micro)", "f1_macro": "f1(macro)"}
    assert metric_titles(NUMBER) == {}
    compute = metrics_for(classes(2))
    metrics = {"eval_loss": 1.0, "eval_accuracy": 0.5, "eval_f1": 0.25, "eval_runtime": 3.0}
    assert scores(metrics, compute) == {"accuracy": 0.5, "f1(class 1)": 0.25}
    assert scores(metrics, None) == scores(metrics, lambda _: {}) == {"accuracy": 0.5, "f1": 0.25}


def test_the_f1_of_two_classes_is_that_of_the_positive_one() -> None:
    true, predicted = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]
    first = replace(classes(2), positive_name="class 0")
    assert score(first, true, predicted)["f1"] == pytest.approx(4 / 5)  # four found of five, one falsely
