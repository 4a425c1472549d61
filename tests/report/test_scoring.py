"""The numbers of a report: held against scikit-learn and SciPy, and the intervals against what they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as theirs
from scipy import stats
from sklearn.calibration import calibration_curve

from ftloop.data.labels import Labels
from ftloop.errors import UserError
from ftloop.report import bootstrap, scoring
from ftloop.report.curves import BINS, calibration_bins, calibration_error
from ftloop.report.predictions import MAX_CLASSES_SHOWN, Predictions, parse_predictions
from ftloop.report.scoring import score_predictions


def classes(rows: int, count: int, seed: int = 0, rounded: bool = False) -> Predictions:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, count, rows)
    logits = draw.normal(size=(rows, count))
    logits[np.arange(rows), labels] += 1.0
    logits = np.round(logits, 1) if rounded else logits  # many rows with equal scores
    return Predictions(
        "single_label_classification", tuple(f"class {i}" for i in range(count)), labels, logits.argmax(axis=1), logits
    )


def numbers(rows: int, seed: int = 0) -> Predictions:
    draw = np.random.default_rng(seed)
    labels = np.round(draw.normal(size=rows) * 3 + 1000, 1)
    predicted = labels + draw.normal(size=rows)
    return Predictions("regression", (), labels, predicted, predicted[:, None])


def several(rows: int, count: int, seed: int = 0) -> Predictions:
    draw = np.random.default_rng(seed)
    labels = draw.random((rows, count)) < 0.3
    logits = draw.normal(size=(rows, count)) + 2 * labels - 1
    return Predictions(
        "multi_label_classification", tuple(f"label {i}" for i in range(count)), labels, logits > 0, logits
    )


def few_rows_each(count: int, rows: int, seed: int = 0) -> Predictions:
    """Of as many `rows` of each class nine in ten are right."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), rows)
    predicted = np.where(draw.random(len(labels)) < 0.9, labels, draw.integers(0, count, len(labels)))
    return replace(classes(0, count), labels=labels, predicted=predicted, logits=np.eye(count)[predicted])


def rare_labels(rows: int, count: int, seed: int = 0) -> Predictions:
    draw = np.random.default_rng(seed)
    labels = draw.random((rows, count)) < 0.03
    logits = draw.normal(size=(rows, count)) + 5 * labels - 2.5
    return replace(several(1, count), labels=labels, predicted=logits > 0, logits=logits)


def values(scored: dict[str, Any]) -> dict[str, float]:
    return {name: each["value"] for name, each in scored["metrics"].items()}


@pytest.mark.parametrize("rounded", [False, True])
def test_scores_of_two_classes_are_scikit_learns(rounded: bool) -> None:
    predictions = classes(300, 2, rounded=rounded)
    labels, predicted = predictions.labels, predictions.predicted
    share = predictions.probabilities()
    # The same sums in another order: equal to rounding.
    assert values(score_predictions(predictions)) == pytest.approx(
        {
            "accuracy": theirs.accuracy_score(labels, predicted),
            "f1": theirs.f1_score(labels, predicted),
            "precision": theirs.precision_score(labels, predicted),
            "recall": theirs.recall_score(labels, predicted),
            "balanced_accuracy": theirs.balanced_accuracy_score(labels, predicted),
            "matthews_correlation": theirs.matthews_corrcoef(labels, predicted),
            "roc_auc": theirs.roc_auc_score(labels, share[:, 1]),
            "average_precision": theirs.average_precision_score(labels, share[:, 1]),
            "log_loss": theirs.log_loss(labels, share),
            "brier": theirs.brier_score_loss(labels, share[:, 1]),
            "calibration_error": by_hand_calibration_error(share.max(axis=1), predicted == labels),
        },
        abs=1e-12,
    )


def by_hand_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    ordered = np.sort(confidence)
    edges = np.unique(ordered[np.arange(10) * len(ordered) // 10])  # equal ones stay together
    bins = np.digitize(confidence, edges)
    parts = [bins == i for i in np.unique(bins)]
    return sum(part.sum() * abs(confidence[part].mean() - right[part].mean()) for part in parts) / len(ordered)


def test_the_bins_of_the_calibration_are_scikit_learns_quantiles() -> None:
    predictions = classes(300, 2)  # as many rows in each bin, and no two with the same confidence
    confidence = predictions.probabilities().max(axis=1)
    right = predictions.predicted == predictions.labels
    expected = calibration_curve(right, confidence, n_bins=BINS, strategy="quantile")
    bins = calibration_bins(predictions)
    found = [[each[name] for each in bins] for name in ("right", "confidence")]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-12)
    assert {each["rows"] for each in bins} == {30}
    assert all(each["low"] < each["right"] < each["high"] or each["right"] == 1 for each in bins)


@pytest.mark.parametrize("steps", [1, 7, 2000])
def test_the_calibration_does_not_depend_on_the_order_of_rows(steps: int) -> None:
    """Of confidences that are all equal, or often."""
    draw = np.random.default_rng(2)
    confidence = 0.55 + 0.4 * draw.integers(0, steps, 1000) / steps
    labels = (np.arange(1000) >= 500).astype(int)  # sorted by class
    logits = np.stack([np.zeros(1000), np.log(confidence / (1 - confidence))], axis=1)
    predictions = Predictions("single_label_classification", ("a", "b"), labels, logits.argmax(axis=1), logits)
    bins, order = calibration_bins(predictions), draw.permutation(1000)
    shuffled = replace(predictions, labels=labels[order], logits=logits[order])
    for one, other in zip(bins, calibration_bins(shuffled), strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    assert sum(each["rows"] for each in bins) == 1000
    assert len(bins) <= min(steps, BINS)
    if steps == 1:
        assert calibration_error(bins) == pytest.approx(0.05)


def test_scores_of_many_classes_with_one_absent_are_scikit_learns() -> None:
    predictions = classes(400, 150)
    predictions.labels[predictions.labels == 7] = 8
    labels, predicted = predictions.labels, predictions.predicted
    scored = score_predictions(predictions)
    found = values(scored)
    # The same sums in another order: equal to rounding.
    assert found["f1"] == pytest.approx(
        theirs.f1_score(labels, predicted, labels=range(150), average="macro", zero_division=0.0), abs=1e-12
    )
    assert found["matthews_correlation"] == pytest.approx(theirs.matthews_corrcoef(labels, predicted), abs=1e-12)
    there = np.unique(labels)
    assert found["balanced_accuracy"] == pytest.approx(
        theirs.recall_score(labels, predicted, labels=there, average="macro"), abs=1e-12
    )
    table = scored["classes"]
    assert table[7]["support"] == 0
    assert table[7]["recall"] is None
    assert [each["support"] for each in table] == np.bincount(labels, minlength=150).tolist()
    pairs = scored["confusion"]["pairs"]
    assert len(pairs) == MAX_CLASSES_SHOWN
    matrix = theirs.confusion_matrix(labels, predicted, labels=range(150))
    np.fill_diagonal(matrix, 0)
    assert pairs[0]["rows"] == matrix.max()
    assert [pair["rows"] for pair in pairs] == sorted(matrix.reshape(-1).tolist(), reverse=True)[: len(pairs)]


def test_few_classes_have_a_confusion_matrix_and_a_curve_each() -> None:
    predictions = classes(200, 4)
    scored = score_predictions(predictions)
    assert scored["confusion"]["counts"] == theirs.confusion_matrix(predictions.labels, predictions.predicted).tolist()
    share = predictions.probabilities()
    areas = {name: curve["roc_auc"] for name, curve in scored["curves"]["classes"].items()}
    assert areas == {
        name: theirs.roc_auc_score(predictions.labels == i, share[:, i]) for i, name in enumerate(predictions.names)
    }
    assert scored["curves"]["mean_roc_auc"] == pytest.approx(
        theirs.roc_auc_score(predictions.labels, share, multi_class="ovr"), abs=1e-12
    )


def test_scores_of_numbers_are_scikit_learns_and_scipys() -> None:
    predictions = numbers(300)
    labels, predicted = predictions.labels, predictions.predicted
    scored = score_predictions(predictions)
    # The same sums in another order, of centred numbers: equal to rounding.
    assert values(scored) == pytest.approx(
        {
            "mse": theirs.mean_squared_error(labels, predicted),
            "mae": theirs.mean_absolute_error(labels, predicted),
            "r2": theirs.r2_score(labels, predicted),
            "pearson": stats.pearsonr(labels, predicted).statistic,
            "spearmanr": stats.spearmanr(labels, predicted).statistic,
        },
        rel=1e-9,
    )
    assert scored["metrics"]["r2"]["baseline"] == pytest.approx(0.0, abs=1e-12)
    assert scored["metrics"]["pearson"]["baseline"] is None


def test_scores_of_several_labels_are_scikit_learns() -> None:
    predictions = several(200, 5)
    labels, predicted, shares = predictions.labels, predictions.predicted, predictions.probabilities()
    scored, each_label = score_predictions(predictions), list(zip(labels.T, shares.T, strict=True))
    assert values(scored) == pytest.approx(
        {
            "accuracy": theirs.accuracy_score(labels, predicted),
            "f1": theirs.f1_score(labels, predicted, average="micro"),
            "f1_macro": theirs.f1_score(labels, predicted, average="macro"),
            "log_loss": np.mean([theirs.log_loss(*pair) for pair in each_label]),
            "brier": np.mean([theirs.brier_score_loss(*pair) for pair in each_label]),
            "calibration_error": by_hand_calibration_error(
                np.maximum(shares, 1 - shares).ravel(), (predicted == labels).ravel()
            ),
        },
        abs=1e-12,  # the same sums in another order
    )
    always = np.broadcast_to(labels.mean(axis=0), labels.shape).T
    for name, function in (("log_loss", theirs.log_loss), ("brier", theirs.brier_score_loss)):
        found = scored["metrics"][name]
        assert found["low"] < found["value"] < found["high"] < found["baseline"]
        expected = np.mean([function(*pair) for pair in zip(labels.T, always, strict=True)])
        assert found["baseline"] == pytest.approx(expected, abs=1e-12)
    assert [each["support"] for each in scored["classes"]] == labels.sum(axis=0).tolist()
    assert len(scored["curves"]["classes"]) == 5


@pytest.mark.parametrize(
    "predictions", [classes(80, 2), numbers(80), several(80, 3)], ids=lambda each: each.problem_type
)
def test_an_interval_is_the_percentiles_over_resampled_rows(predictions: Predictions) -> None:
    """Drawn here row by row, and scored anew each time, with other random numbers."""
    metric, score = {
        "single_label_classification": (
            "matthews_correlation",
            lambda labels, predicted: np.corrcoef(labels, predicted)[0, 1],
        ),  # the same of two
        "regression": ("spearmanr", lambda labels, predicted: stats.spearmanr(labels, predicted).statistic),
        "multi_label_classification": (
            "f1",
            lambda labels, predicted: 2 * (labels & predicted).sum() / (labels.sum() + predicted.sum()),
        ),
    }[predictions.problem_type]
    draw, drawn = np.random.default_rng(5), []
    for _ in range(400):
        rows = draw.integers(0, 80, 80)
        drawn.append(score(predictions.labels[rows], predictions.predicted[rows]))
    found = score_predictions(predictions)["metrics"][metric]
    # A quantile at 2.5 % of 400 draws is off by about 2.7 standard errors of 0.06 to 0.17 spreads; half a spread is
    # what no correct bootstrap comes near.
    room = 0.5 * np.std(drawn)
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=room)
    assert found["resamples"] == bootstrap.RESAMPLES


def test_95_of_100_intervals_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The true accuracy of these predictions is 0.7; of 200 sets of 150 rows each, seeded."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    draw, held = np.random.default_rng(3), 0
    for _ in range(200):
        labels = draw.integers(0, 2, 150)
        predicted = np.where(draw.random(150) < 0.7, labels, 1 - labels)
        cells, counts = np.unique(labels * 2 + predicted, return_counts=True)
        scores = scoring.count_scores(*np.divmod(cells, 2), Labels(("a", "b"), {}))
        found = bootstrap.count_intervals(scores, counts)["accuracy"]
        held += found["low"] <= 0.7 <= found["high"]
    # 190 are expected; three standard deviations of a binomial, and some for how percentiles fall short at 150 rows.
    assert 178 <= held <= 199


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: classes(300, 2, seed),
        lambda seed: classes(60, 20, seed),
        lambda seed: numbers(300, seed),
        lambda seed: several(300, 30, seed),
        lambda seed: few_rows_each(77, 2, seed),
        lambda seed: rare_labels(60, 40, seed),
    ],
    ids=["two classes", "twenty classes", "numbers", "thirty labels", "two rows of each class", "rare labels"],
)
def test_every_interval_holds_its_own_value(
    make: Callable[[int], Predictions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    monkeypatch.setattr(scoring, "curve_points", lambda _: None)  # they have no intervals, and take time
    held = 0
    for seed in range(10):
        for name, found in score_predictions(make(seed))["metrics"].items():
            if found["low"] is not None:
                assert found["low"] <= found["value"] <= found["high"], (seed, name)
                held += 1
    assert held >= 30


@pytest.mark.parametrize("make", [lambda: few_rows_each(77, 2), lambda: rare_labels(60, 40)])
def test_macro_f1_in_a_resample_is_that_of_the_classes_it_has(make: Callable[[], Predictions]) -> None:
    """Drawn here row by row, scored by scikit-learn, with other random numbers. A class that the rows themselves do not
    have counts 0 all the same."""
    predictions = make()
    labels, predicted = predictions.labels, predictions.predicted
    name = "f1" if labels.ndim == 1 else "f1_macro"
    labels[(labels == 7) if labels.ndim == 1 else (slice(None), 7)] = 0

    def there(rows: Any) -> np.ndarray:
        return np.unique(labels[rows]) if labels.ndim == 1 else np.flatnonzero(labels[rows].any(axis=0))

    share, draw, drawn = len(there(slice(None))) / len(predictions.names), np.random.default_rng(5), []
    assert share < 1
    for _ in range(300):
        rows = draw.integers(0, len(labels), len(labels))
        options = {"labels": there(rows), "average": "macro", "zero_division": 0.0}
        drawn.append(share * theirs.f1_score(labels[rows], predicted[rows], **options))
    found = score_predictions(predictions, with_probabilities=False)["metrics"][name]
    expected = theirs.f1_score(
        labels, predicted, labels=range(len(predictions.names)), average="macro", zero_division=0
    )
    assert found["value"] == pytest.approx(expected, abs=1e-12)
    room = 0.5 * np.std(drawn)  # as above
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=room)


def test_a_model_card_needs_no_probabilities_and_few_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [classes(50, 2), numbers(50), several(50, 3)]
    whole = [score_predictions(predictions) for predictions in made]
    monkeypatch.setattr(bootstrap, "QUICK_DRAWS", 200 * 50)
    monkeypatch.delattr(Predictions, "probabilities")
    monkeypatch.delattr(Predictions, "row_losses")
    for predictions, expected in zip(made, whole, strict=True):
        found = score_predictions(predictions, with_probabilities=False)
        assert values(found).items() <= values(expected).items()
        assert found == score_predictions(predictions, with_probabilities=False)
        drawn = bootstrap.RESAMPLES if predictions.problem_type == "single_label_classification" else 200
        assert {each["resamples"] for each in found["metrics"].values()} == {drawn}
    for predictions in (numbers(51), several(25, 41)):
        assert {
            each["low"] for each in score_predictions(predictions, with_probabilities=False)["metrics"].values()
        } == {None}


def test_the_same_predictions_give_the_same_numbers() -> None:
    assert score_predictions(classes(120, 2)) == score_predictions(classes(120, 2))


def test_one_row_no_row_and_all_rows_right() -> None:
    one = score_predictions(classes(1, 2))
    assert one["metrics"]["accuracy"]["value"] in (0.0, 1.0)
    assert one["metrics"]["roc_auc"]["value"] is None
    assert one["curves"] is None
    assert score_predictions(classes(0, 2))["metrics"] == {}
    assert score_predictions(numbers(1))["metrics"]["pearson"]["value"] is None
    logits = np.eye(2)[[0, 1, 1] * 10] * 20
    right = score_predictions(
        Predictions("single_label_classification", ("a", "b"), logits.argmax(axis=1), logits.argmax(axis=1), logits)
    )
    accuracy = right["metrics"]["accuracy"]
    # Wilson's interval of 30 of 30; resamples of rows that are all right would say 1 to 1.
    assert [accuracy["low"], accuracy["high"]] == pytest.approx([30 / (30 + 1.959964**2), 1.0])
    assert right["metrics"]["f1"]["low"] is None
    assert right["confusion"]["counts"] == [[10, 0], [0, 20]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_counted_and_dropped(bad: float) -> None:
    predictions = classes(50, 2)
    clean = Predictions(
        predictions.problem_type,
        predictions.names,
        predictions.labels[3:],
        predictions.predicted[3:],
        predictions.logits[3:].copy(),
    )
    predictions.logits[:3] = bad
    scored = score_predictions(predictions)
    assert scored["not_finite"] == 3
    assert scored["rows"] == 50
    assert scored["metrics"]["accuracy"]["value"] == theirs.accuracy_score(predictions.labels, predictions.predicted)
    assert scored["metrics"]["log_loss"] == score_predictions(clean)["metrics"]["log_loss"]
    assert sum(each["rows"] for each in scored["calibration"]) == 47
    off = numbers(40)
    off.logits[0] = off.predicted[0] = bad
    assert score_predictions(off)["metrics"]["mse"]["value"] == pytest.approx(
        np.mean((off.predicted - off.labels)[1:] ** 2)
    )


def test_many_rows_have_fewer_resamples_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "MAX_DRAWS", 300 * 1000)
    drawn = {name: each["resamples"] for name, each in score_predictions(classes(1000, 2))["metrics"].items()}
    assert drawn["accuracy"] == bootstrap.RESAMPLES
    assert drawn["log_loss"] == 300
    monkeypatch.setattr(bootstrap, "MAX_DRAWS", 199 * 1000)
    found = score_predictions(classes(1000, 2))["metrics"]
    assert found["log_loss"]["resamples"] == 0
    assert found["log_loss"]["low"] is None
    assert found["log_loss"]["value"] is not None
    assert found["f1"]["resamples"] == bootstrap.RESAMPLES


def test_predictions_of_other_classes_are_refused() -> None:
    logits = pa.FixedSizeListArray.from_arrays(pa.array([0.0, 1.0, 2.0, -1.0], pa.float32()), 2)
    table = pa.table({"text": ["x", "y"], "label": ["b", "b"], "prediction": ["b", "a"], "logits": logits})
    predictions = parse_predictions(table, "single_label_classification", ["a", "b"])
    assert (predictions.labels.tolist(), predictions.predicted.tolist()) == ([1, 1], [1, 0])
    assert predictions.logits.tolist() == [[0, 1], [2, -1]]
    with pytest.raises(UserError, match="row 1 of the predictions: 'b' is none of the classes"):
        parse_predictions(table, "single_label_classification", ["a", "c"])
    with pytest.raises(UserError, match="other classes"):
        parse_predictions(table, "single_label_classification", ["a", "b", "c"])
    lists = pa.table({"label": [["a", "b"], []], "prediction": [["b"], ["a"]], "logits": logits})
    both = parse_predictions(lists, "multi_label_classification", ["a", "b"])
    assert both.labels.tolist() == [[True, True], [False, False]]
    assert both.predicted.tolist() == [[False, True], [True, False]]


def test_scores_and_curve_of_two_classes_are_those_of_the_positive_one() -> None:
    second = classes(200, 2)
    first = replace(second, positive="class 0")
    scored, other = score_predictions(first), score_predictions(second)
    assert (scored["positive"], other["positive"]) == ("class 0", "class 1")
    assert list(scored["curves"]["classes"]) == ["class 0"]
    by_class = {each["name"]: each for each in scored["classes"]}
    for name in ("precision", "recall", "f1"):
        assert values(scored)[name] == pytest.approx(by_class["class 0"][name])
        assert values(other)[name] == pytest.approx(by_class["class 1"][name])
    share = float((first.labels == 0).mean())
    assert scored["metrics"]["average_precision"]["baseline"] == pytest.approx(share)
