"""The numbers of a report: held against scikit-learn and SciPy, and the intervals against what they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as theirs
from scipy import stats

import ftloop.scoring as scoring
from ftloop.errors import UserError
from ftloop.scoring import Answers, read_answers, score_set


def classes(rows: int, count: int, seed: int = 0, rounded: bool = False) -> Answers:
    draw = np.random.default_rng(seed)
    true = draw.integers(0, count, rows)
    logits = draw.normal(size=(rows, count))
    logits[np.arange(rows), true] += 1.0
    logits = np.round(logits, 1) if rounded else logits  # many rows with equal scores
    return Answers("classes", tuple(f"class {i}" for i in range(count)), true, logits.argmax(axis=1), logits)


def numbers(rows: int, seed: int = 0) -> Answers:
    draw = np.random.default_rng(seed)
    true = np.round(draw.normal(size=rows) * 3 + 1000, 1)
    said = true + draw.normal(size=rows)
    return Answers("regression", (), true, said, said[:, None])


def several(rows: int, count: int, seed: int = 0) -> Answers:
    draw = np.random.default_rng(seed)
    true = draw.random((rows, count)) < 0.3
    logits = draw.normal(size=(rows, count)) + 2 * true - 1
    return Answers("multi_label", tuple(f"label {i}" for i in range(count)), true, logits > 0, logits)


def values(scored: dict[str, Any]) -> dict[str, float]:
    return {name: each["value"] for name, each in scored["metrics"].items()}


@pytest.mark.parametrize("rounded", [False, True])
def test_two_classes_have_the_scores_that_scikit_learn_gives(rounded: bool) -> None:
    answers = classes(300, 2, rounded=rounded)
    true, said = answers.true, answers.said
    share = scoring.probabilities(answers)
    # The same sums in another order: equal to rounding.
    assert values(score_set(answers)) == pytest.approx(
        {
            "accuracy": theirs.accuracy_score(true, said),
            "f1": theirs.f1_score(true, said),
            "precision": theirs.precision_score(true, said),
            "recall": theirs.recall_score(true, said),
            "balanced_accuracy": theirs.balanced_accuracy_score(true, said),
            "matthews_correlation": theirs.matthews_corrcoef(true, said),
            "roc_auc": theirs.roc_auc_score(true, share[:, 1]),
            "average_precision": theirs.average_precision_score(true, share[:, 1]),
            "log_loss": theirs.log_loss(true, share),
            "brier": theirs.brier_score_loss(true, share[:, 1]),
            "calibration_error": by_hand_calibration_error(share.max(axis=1), said == true),
        },
        abs=1e-12,
    )


def by_hand_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    order = np.argsort(confidence, kind="stable")
    parts = [order[i * len(order) // 10 : (i + 1) * len(order) // 10] for i in range(10)]
    return sum(len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts) / len(order)


def test_many_classes_one_of_them_absent_have_the_scores_that_scikit_learn_gives() -> None:
    answers = classes(400, 150)
    answers.true[answers.true == 7] = 8
    true, said = answers.true, answers.said
    scored = score_set(answers)
    found = values(scored)
    # The same sums in another order: equal to rounding.
    assert found["f1"] == pytest.approx(
        theirs.f1_score(true, said, labels=range(150), average="macro", zero_division=0.0), abs=1e-12
    )
    assert found["matthews_correlation"] == pytest.approx(theirs.matthews_corrcoef(true, said), abs=1e-12)
    there = np.unique(true)
    assert found["balanced_accuracy"] == pytest.approx(
        theirs.recall_score(true, said, labels=there, average="macro"), abs=1e-12
    )
    table = scored["classes"]
    assert table[7]["support"] == 0
    assert table[7]["recall"] is None
    assert [each["support"] for each in table] == np.bincount(true, minlength=150).tolist()
    pairs = scored["confusion"]["pairs"]
    assert len(pairs) == scoring.SHOWN_CLASSES
    matrix = theirs.confusion_matrix(true, said, labels=range(150))
    np.fill_diagonal(matrix, 0)
    assert pairs[0]["rows"] == matrix.max()
    assert [pair["rows"] for pair in pairs] == sorted(matrix.reshape(-1).tolist(), reverse=True)[: len(pairs)]


def test_few_classes_have_the_matrix_and_a_curve_each() -> None:
    answers = classes(200, 4)
    scored = score_set(answers)
    assert scored["confusion"]["counts"] == theirs.confusion_matrix(answers.true, answers.said).tolist()
    share = scoring.probabilities(answers)
    areas = {name: curve["roc_auc"] for name, curve in scored["curves"]["classes"].items()}
    assert areas == {name: theirs.roc_auc_score(answers.true == i, share[:, i]) for i, name in enumerate(answers.names)}
    assert scored["curves"]["mean_roc_auc"] == pytest.approx(
        theirs.roc_auc_score(answers.true, share, multi_class="ovr"), abs=1e-12
    )


def test_numbers_have_the_scores_that_scikit_learn_and_scipy_give() -> None:
    answers = numbers(300)
    true, said = answers.true, answers.said
    scored = score_set(answers)
    # The same sums in another order, of centred numbers: equal to rounding.
    assert values(scored) == pytest.approx(
        {
            "mse": theirs.mean_squared_error(true, said),
            "mae": theirs.mean_absolute_error(true, said),
            "r2": theirs.r2_score(true, said),
            "pearson": stats.pearsonr(true, said).statistic,
            "spearmanr": stats.spearmanr(true, said).statistic,
        },
        rel=1e-9,
    )
    assert scored["metrics"]["r2"]["baseline"] == pytest.approx(0.0, abs=1e-12)
    assert scored["metrics"]["pearson"]["baseline"] is None


def test_several_labels_a_row_have_the_scores_that_scikit_learn_gives() -> None:
    answers = several(200, 5)
    true, said = answers.true, answers.said
    scored = score_set(answers)
    assert values(scored) == pytest.approx(
        {
            "accuracy": theirs.accuracy_score(true, said),
            "f1": theirs.f1_score(true, said, average="micro"),
            "f1_macro": theirs.f1_score(true, said, average="macro"),
        },
        abs=1e-12,  # the same sums in another order
    )
    assert [each["support"] for each in scored["classes"]] == true.sum(axis=0).tolist()
    assert len(scored["curves"]["classes"]) == 5


@pytest.mark.parametrize("answers", [classes(80, 2), numbers(80), several(80, 3)], ids=lambda a: a.kind)
def test_an_interval_is_the_percentiles_of_the_score_over_resampled_rows(answers: Answers) -> None:
    """Drawn here row by row, and scored anew each time, with other random numbers."""
    metric, score = {
        "classes": ("matthews_correlation", lambda true, said: np.corrcoef(true, said)[0, 1]),  # the same of two
        "regression": ("spearmanr", lambda true, said: stats.spearmanr(true, said).statistic),
        "multi_label": ("f1", lambda true, said: 2 * (true & said).sum() / (true.sum() + said.sum())),
    }[answers.kind]
    draw, drawn = np.random.default_rng(5), []
    for _ in range(400):
        rows = draw.integers(0, 80, 80)
        drawn.append(score(answers.true[rows], answers.said[rows]))
    found = score_set(answers)["metrics"][metric]
    # A quantile at 2.5 % of 400 draws is off by about 2.7 standard errors of 0.06 to 0.17 spreads; half a spread is
    # what no correct bootstrap comes near.
    room = 0.5 * np.std(drawn)
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=room)
    assert found["resamples"] == scoring.RESAMPLES


def test_of_a_hundred_intervals_about_ninety_five_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The true accuracy of these answers is 0.7; of 200 sets of 150 rows each, seeded."""
    monkeypatch.setattr(scoring, "RESAMPLES", 500)
    draw, held = np.random.default_rng(3), 0
    for _ in range(200):
        true = draw.integers(0, 2, 150)
        said = np.where(draw.random(150) < 0.7, true, 1 - true)
        cells, counts = np.unique(true * 2 + said, return_counts=True)
        statistics = scoring.count_statistics(*np.divmod(cells, 2), 2)
        found = scoring.intervals(statistics, scoring.count_draws(counts), counts[None].astype(float))["accuracy"]
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
    ],
    ids=["two classes", "twenty classes", "numbers", "thirty labels"],
)
def test_every_interval_holds_its_own_value(make: Callable[[int], Answers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "RESAMPLES", 300)
    monkeypatch.setattr(scoring, "_curves", lambda _: None)  # they have no intervals, and take time
    held = 0
    for seed in range(10):
        for name, found in score_set(make(seed))["metrics"].items():
            if found["low"] is not None:
                assert found["low"] <= found["value"] <= found["high"], (seed, name)
                held += 1
    assert held >= 30


def test_what_a_model_card_needs_is_had_without_probabilities_and_with_a_bounded_number_of_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [classes(50, 2), numbers(50), several(50, 3)]
    whole = [score_set(answers) for answers in made]
    monkeypatch.setattr(scoring, "QUICK_DRAWS", 200 * 50)
    monkeypatch.delattr(scoring, "probabilities")
    monkeypatch.delattr(scoring, "row_losses")
    for answers, expected in zip(made, whole, strict=True):
        found = score_set(answers, full=False)
        assert values(found).items() <= values(expected).items()
        assert found == score_set(answers, full=False)
        drawn = scoring.RESAMPLES if answers.kind == "classes" else 200
        assert {each["resamples"] for each in found["metrics"].values()} == {drawn}
    for answers in (numbers(51), several(25, 41)):
        assert {each["low"] for each in score_set(answers, full=False)["metrics"].values()} == {None}


def test_the_same_answers_give_the_same_numbers() -> None:
    assert score_set(classes(120, 2)) == score_set(classes(120, 2))


def test_one_row_and_no_row_and_all_right() -> None:
    one = score_set(classes(1, 2))
    assert one["metrics"]["accuracy"]["value"] in (0.0, 1.0)
    assert one["metrics"]["roc_auc"]["value"] is None
    assert one["curves"] is None
    assert score_set(classes(0, 2))["metrics"] == {}
    assert score_set(numbers(1))["metrics"]["pearson"]["value"] is None
    logits = np.eye(2)[[0, 1, 1] * 10] * 20
    right = score_set(Answers("classes", ("a", "b"), logits.argmax(axis=1), logits.argmax(axis=1), logits))
    accuracy = right["metrics"]["accuracy"]
    # Wilson's interval of 30 of 30; resamples of rows that are all right would say 1 to 1.
    assert [accuracy["low"], accuracy["high"]] == pytest.approx([30 / (30 + 1.959964**2), 1.0])
    assert right["metrics"]["f1"]["low"] is None
    assert right["confusion"]["counts"] == [[10, 0], [0, 20]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_without_finite_numbers_are_counted_and_left_out_of_probabilities(bad: float) -> None:
    answers = classes(50, 2)
    clean = Answers(answers.kind, answers.names, answers.true[3:], answers.said[3:], answers.logits[3:].copy())
    answers.logits[:3] = bad
    scored = score_set(answers)
    assert scored["not_finite"] == 3
    assert scored["rows"] == 50
    assert scored["metrics"]["accuracy"]["value"] == theirs.accuracy_score(answers.true, answers.said)
    assert scored["metrics"]["log_loss"] == score_set(clean)["metrics"]["log_loss"]
    assert sum(each["rows"] for each in scored["calibration"]) == 47
    off = numbers(40)
    off.logits[0] = off.said[0] = bad
    assert score_set(off)["metrics"]["mse"]["value"] == pytest.approx(np.mean((off.said - off.true)[1:] ** 2))


def test_more_rows_than_can_be_drawn_have_fewer_resamples_or_none_but_the_counted_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "MOST_DRAWS", 300 * 1000)
    drawn = {name: each["resamples"] for name, each in score_set(classes(1000, 2))["metrics"].items()}
    assert drawn["accuracy"] == scoring.RESAMPLES
    assert drawn["log_loss"] == 300
    monkeypatch.setattr(scoring, "MOST_ROWS", 999)
    found = score_set(classes(1000, 2))["metrics"]
    assert found["log_loss"]["resamples"] == 0
    assert found["log_loss"]["low"] is None
    assert found["log_loss"]["value"] is not None
    assert found["f1"]["resamples"] == scoring.RESAMPLES


def test_predictions_are_read_as_what_they_are_and_others_are_refused() -> None:
    logits = pa.FixedSizeListArray.from_arrays(pa.array([0.0, 1.0, 2.0, -1.0], pa.float32()), 2)
    table = pa.table({"text": ["x", "y"], "label": ["b", "b"], "prediction": ["b", "a"], "logits": logits})
    answers = read_answers(table, "classes", ["a", "b"])
    assert (answers.true.tolist(), answers.said.tolist()) == ([1, 1], [1, 0])
    assert answers.logits.tolist() == [[0, 1], [2, -1]]
    with pytest.raises(UserError, match="row 1 of the predictions: 'b' is none of the classes"):
        read_answers(table, "classes", ["a", "c"])
    with pytest.raises(UserError, match="other classes"):
        read_answers(table, "classes", ["a", "b", "c"])
    lists = pa.table({"label": [["a", "b"], []], "prediction": [["b"], ["a"]], "logits": logits})
    both = read_answers(lists, "multi_label", ["a", "b"])
    assert both.true.tolist() == [[True, True], [False, False]]
    assert both.said.tolist() == [[False, True], [True, False]]
