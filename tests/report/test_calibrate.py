"""A temperature and thresholds: fitted as scikit-learn fits them, judged on other rows, decided by afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.finished_runs import left_by_a_run
from scipy.special import expit, softmax
from sklearn import metrics as theirs
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from ftloop.config.problem_type import ProblemType
from ftloop.data.decision import PLAIN, Decision, read_decision
from ftloop.errors import ExitCode, UserError
from ftloop.report.calibrate import best_threshold, decided, fit, fit_temperature, main
from ftloop.report.curves import calibration_bins, calibration_error
from ftloop.report.predictions import Predictions
from ftloop.system.manifest import DECISION

SINGLE, SEVERAL = ProblemType.SINGLE_LABEL, ProblemType.MULTI_LABEL


class Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Gives what it is given, as a model whose logits are known."""

    def fit(self, X: Any, y: Any) -> Logits:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Any) -> Any:
        return X[:, 1] - X[:, 0] if len(self.classes_) == 2 else X

    def predict(self, X: Any) -> Any:
        return X.argmax(axis=1)


def overconfident(count: int, rows: int = 400, factor: float = 2.5) -> Predictions:
    """Labels drawn from the probabilities of logits that are then made `factor` times as large."""
    draw = np.random.default_rng(count)
    logits = draw.normal(0, 1.5, (rows, count))
    labels = np.array([draw.choice(count, p=share) for share in softmax(logits, axis=1)])
    logits = (factor * logits).astype(np.float32)
    return Predictions(SINGLE, tuple(f"class {i}" for i in range(count)), labels, logits.argmax(axis=1), logits)


@pytest.mark.parametrize("count", [2, 5])
def test_the_temperature_is_scikit_learns(count: int) -> None:
    rows = overconfident(count)
    temperature = fit_temperature(rows)
    assert temperature == pytest.approx(2.5, rel=0.2)
    model = FrozenEstimator(Logits().fit(rows.logits, rows.labels))
    reference = CalibratedClassifierCV(model, method="temperature").fit(rows.logits, rows.labels)
    expected = reference.predict_proba(rows.logits)
    found = Decision(temperature).probabilities(SINGLE, rows.logits.astype(np.float64))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_of_several_labels_the_temperature_is_the_most_likely_too() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, (500, 4))
    labels = draw.random((500, 4)) < expit(logits)
    rows = Predictions(SEVERAL, tuple("abcd"), labels, logits > 0, (3 * logits).astype(np.float32))
    temperature = fit_temperature(rows)
    tried = {t: theirs.log_loss(labels.ravel(), expit(3 * logits / t).ravel()) for t in (temperature, 1.0, 2.5, 3.5)}
    assert min(tried, key=tried.__getitem__) == temperature


@pytest.mark.parametrize("metric", ["f1", "accuracy", "balanced_accuracy", "matthews_correlation"])
def test_no_other_threshold_has_a_higher_metric(metric: str) -> None:
    function = getattr(theirs, {"matthews_correlation": "matthews_corrcoef"}.get(metric, f"{metric}_score"))
    for seed in range(10):
        draw = np.random.default_rng(seed)
        true = draw.random(120) < 0.25
        shares = np.round(np.clip(0.3 * true + draw.random(120) * 0.6, 0, 1), 2)  # with ties
        threshold = best_threshold(true, shares, metric)
        best = max(function(true, shares > each) for each in np.linspace(-0.005, 1.005, 203))
        assert function(true, shares > threshold) == pytest.approx(best)


def test_few_rows_of_a_kind_leave_one_half() -> None:
    true = np.arange(200) < 9
    assert best_threshold(true, np.where(true, 0.4, 0.1), "f1") == 0.5
    assert best_threshold(np.arange(200) < 10, np.where(np.arange(200) < 10, 0.4, 0.1), "f1") == pytest.approx(0.25)


def test_a_threshold_of_two_classes_is_that_of_the_positive_one() -> None:
    rows = overconfident(2, 600)
    for positive in rows.names:
        of_class = Predictions(SINGLE, rows.names, rows.labels, rows.predicted, rows.logits, positive)
        decision = fit(of_class, "f1")
        assert decision.thresholds is not None
        assert sum(decision.thresholds) == pytest.approx(1.0)
        index = rows.names.index(positive)
        shares = decision.probabilities(SINGLE, rows.logits.astype(np.float64))[:, index]
        chosen = decided(of_class, decision).predicted
        np.testing.assert_array_equal(chosen == index, shares > decision.thresholds[index])
        assert theirs.f1_score(rows.labels, chosen, pos_label=index) >= theirs.f1_score(
            rows.labels, rows.predicted, pos_label=index
        )


def test_more_classes_and_the_metric_none_have_a_temperature_alone() -> None:
    assert fit(overconfident(4), "f1").thresholds is None
    assert fit(overconfident(2), "none").thresholds is None


def test_numbers_and_few_rows_are_refused() -> None:
    with pytest.raises(UserError, match="49 validation rows are too few to fit anything to: at least 50"):
        fit(overconfident(2, rows=49))
    number = np.zeros(99)
    with pytest.raises(UserError, match="predicts numbers"):
        fit(Predictions(ProblemType.REGRESSION, (), number, number, number[:, None]))


def test_where_no_row_is_wrong_probabilities_stay_as_they_are() -> None:
    rows = overconfident(2)
    right = Predictions(SINGLE, rows.names, rows.predicted, rows.predicted, rows.logits)
    assert fit_temperature(right) == 1.0


def test_what_is_judged_are_the_probabilities_of_the_decision() -> None:
    rows = overconfident(3)
    decision = fit(rows)
    judged = decided(rows, decision).probabilities()
    np.testing.assert_allclose(judged, decision.probabilities(SINGLE, rows.logits.astype(np.float64)), atol=1e-6)
    before, after = (theirs.log_loss(rows.labels, each) for each in (rows.probabilities(), judged))
    assert after < before


@pytest.mark.parametrize("kind", [SINGLE, SEVERAL])
def test_confidence_is_the_probability_of_the_label_that_the_decision_gives(kind: ProblemType) -> None:
    draw = np.random.default_rng(4)
    scores = draw.normal(-2.5, 1.5, 3000)
    positive = draw.random(3000) < expit(scores)
    logits = scores[:, None] if kind == SEVERAL else np.stack([np.zeros(3000), scores], axis=1)
    labels = positive[:, None] if kind == SEVERAL else positive.astype(int)
    predicted = logits > 0 if kind == SEVERAL else logits.argmax(axis=1)
    rows = Predictions(kind, ("spam",) if kind == SEVERAL else ("ham", "spam"), labels, predicted, logits)
    given = scores > np.log(0.24 / 0.76)
    found = calibration_bins(decided(rows, Decision(1.0, (0.24,) if kind == SEVERAL else (0.76, 0.24))))
    confidence = np.sort(np.where(given, expit(scores), expit(-scores)))
    assert confidence[0] < 0.25
    assert [each["confidence"] for each in found] == pytest.approx(confidence.reshape(10, 300).mean(axis=1))
    # The labels were drawn from these probabilities: what is left is chance, of 300 rows in each bin.
    assert calibration_error(found) < 0.03


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [(SINGLE, 2), (SINGLE, 5), (SEVERAL, 3)])
def test_the_command_judges_on_the_test_set_and_writes_the_decision(
    kind: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = left_by_a_run(tmp_path / "run", kind, count, 300)
    assert main([str(folder)]) == ExitCode.DONE
    told = capsys.readouterr().out
    found = json.loads((folder / DECISION).read_text())
    assert f"temperature {found['temperature']:.4g}" in told
    assert "to 300 rows of validation\nJudged    on 300 rows of test\n" in told
    of_probabilities = {"log_loss", "brier", "calibration_error"}
    assert found["before"].keys() == found["after"].keys() >= {"accuracy", "f1"} | of_probabilities
    decision = read_decision(folder, found["labels"])
    assert decision.temperature == found["temperature"]
    assert (decision.thresholds is None) == (kind == SINGLE and count > 2)


def test_without_a_test_set_it_says_so_and_without_a_validation_set_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(left_by_a_run(tmp_path / "a", SINGLE, 2, 60, ("validation",)))]) == ExitCode.DONE
    assert "on the rows that it was fitted to" in capsys.readouterr().out
    folder = left_by_a_run(tmp_path / "b", SINGLE, 2, 60, ("test",))
    assert main([str(folder)]) == ExitCode.USER_ERROR
    assert "train with --validation_file, or --validation_split 0.1" in capsys.readouterr().err
    assert not (folder / DECISION).exists()


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable"),
        ('{"temperature": 1, "labels": ["a", "b"]}', "not readable"),
        ('{"temperature": 0, "thresholds": null, "labels": ["a", "b"]}', "not a valid temperature or threshold"),
        ('{"temperature": 1, "thresholds": [0.5], "labels": ["a", "b"]}', "not a valid temperature or threshold"),
        ('{"temperature": 1, "thresholds": [0.5, 2], "labels": ["a", "b"]}', "not a valid temperature or threshold"),
        ('{"temperature": 1, "thresholds": null, "labels": ["b", "a"]}', "belongs to a model with other classes"),
    ],
)
def test_a_damaged_decision_is_refused_with_the_way_out(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / DECISION).write_text(text)
    with pytest.raises(UserError, match=rf"{message}.*ftloop calibrate, or delete"):
        read_decision(tmp_path, ["a", "b"])


def test_without_a_file_the_decision_is_the_plain_one(tmp_path: Path) -> None:
    assert read_decision(tmp_path, ["a", "b"]) is PLAIN
    logits = np.array([[1.0, 2.0], [3.0, -1.0]])
    np.testing.assert_array_equal(PLAIN.labels(SINGLE, logits), [1, 0])
    np.testing.assert_array_equal(PLAIN.labels(SEVERAL, logits), logits > 0)
    np.testing.assert_allclose(PLAIN.probabilities(SINGLE, logits), softmax(logits, axis=1))
    assert Decision(1.5, (0.69, 0.31)).describe(["ham", "spam"]) == "temperature 1.5, threshold of spam 0.31"
    assert Decision(2, (0.5, 0.2, 0.5)).describe(["a", "b", "c"]) == "temperature 2, threshold of b 0.2"
