"""Two finished runs side by side: numbers held against scikit-learn and SciPy, and runs that do not match."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics as theirs
from harness.finished_runs import left_by_a_run
from harness.html_page import read_inert
from scipy import stats

from ftloop.compare.__main__ import main
from ftloop.errors import ExitCode
from ftloop.report import bootstrap, paired, report
from ftloop.report.comparison import compare_runs
from ftloop.report.comparison_text import describe_comparison
from ftloop.report.outcome import read_finished_run
from ftloop.report.paired import mcnemar, pair_scores
from ftloop.report.predictions import Predictions
from ftloop.system.manifest import MANIFEST, write_manifest

CLASSES, LABELS, NUMBERS = "single_label_classification", "multi_label_classification", "regression"


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    facts = json.loads(path.read_text())
    if name == MANIFEST:
        del facts["digest"]
        write_manifest(folder, facts | values)
    else:
        path.write_text(json.dumps(facts | values))


def with_settings(folder: Path, **settings: Any) -> Path:
    change(folder, MANIFEST, config=json.loads((folder / MANIFEST).read_text())["config"] | settings)
    return folder


def two_runs(root: Path, kind: str = CLASSES, count: int = 2, rows: int = 60, **both: Any) -> tuple[Path, Path]:
    """Two models of the same kind, judged on the same rows."""
    a, b = (left_by_a_run(root / name, kind, count, rows, model=model, **both) for name, model in (("a", 1), ("b", 2)))
    for folder in (a, b):
        with_settings(folder, model_name_or_path="bert")
    return a, b


def compared(a: Path, b: Path, sets: str = "both") -> dict[str, Any]:
    return compare_runs(read_finished_run(a), read_finished_run(b), sets)


# --- numbers ---


def pair(kind: str, rows: int = 120, count: int = 3, seed: int = 0) -> tuple[Predictions, Predictions]:
    """Two models that tend to err on the same rows."""
    draw = np.random.default_rng(seed)
    names = tuple(f"class {i}" for i in range(count)) if kind != NUMBERS else ()
    if kind == NUMBERS:
        labels = draw.normal(size=rows)
        hard = draw.normal(size=rows)
        guesses = [labels + hard + scale * draw.normal(size=rows) for scale in (0.3, 0.6)]
        of_a, of_b = (Predictions(kind, (), labels, each, each[:, None]) for each in guesses)
        return of_a, of_b
    labels = draw.integers(0, count, rows) if kind == CLASSES else draw.random((rows, count)) < 0.4
    truth = np.eye(count)[labels] if kind == CLASSES else 2.0 * labels - 1
    hard = draw.normal(size=(rows, count))
    logits = [truth + hard + 0.7 * draw.normal(size=(rows, count)) for _ in range(2)]
    of_a, of_b = (
        Predictions(kind, names, labels, each.argmax(axis=1) if kind == CLASSES else each > 0, each) for each in logits
    )
    return of_a, of_b


def by_scikit_learn(metric: str, kind: str, count: int) -> Callable[..., float]:
    """A score of the columns of two arrays: labels, and what is predicted."""
    macro = {"average": "binary" if count == 2 else "macro", "zero_division": 0.0}
    found: dict[str, Callable[..., float]] = {
        "accuracy": theirs.accuracy_score,
        "f1": lambda true, said: theirs.f1_score(true, said, **macro),
        "matthews_correlation": theirs.matthews_corrcoef,
        "mse": theirs.mean_squared_error,
        "mae": theirs.mean_absolute_error,
        "spearmanr": lambda true, said: stats.spearmanr(true, said).statistic,
    }
    return found[metric]


@pytest.mark.parametrize(
    ("kind", "count", "metric"),
    [
        (CLASSES, 2, "accuracy"),
        (CLASSES, 2, "f1"),
        (CLASSES, 4, "f1"),
        (CLASSES, 4, "matthews_correlation"),
        (NUMBERS, 0, "mse"),
        (NUMBERS, 0, "mae"),
        (NUMBERS, 0, "spearmanr"),
    ],
)
def test_a_difference_and_its_interval_are_scipys_paired_bootstrap(kind: str, count: int, metric: str) -> None:
    a, b = pair(kind, count=count)
    score = by_scikit_learn(metric, kind, count)

    def difference(labels: np.ndarray, of_a: np.ndarray, of_b: np.ndarray) -> float:
        return score(labels, of_b) - score(labels, of_a)

    data, options = (a.labels, a.predicted, b.predicted), {"n_resamples": 500, "method": "percentile", "rng": 7}
    expected = stats.bootstrap(data, difference, paired=True, vectorized=False, **options)
    found = pair_scores(a, b)["metrics"][metric]
    assert found["a"] == pytest.approx(score(a.labels, a.predicted), abs=1e-12)
    assert found["b"] == pytest.approx(score(b.labels, b.predicted), abs=1e-12)
    assert found["difference"] == pytest.approx(found["b"] - found["a"], abs=1e-12)
    # A quantile at 2.5 % of 500 draws is off by about 2.7 standard errors of 0.12 spreads at most, and accuracies lie
    # on a grid of 1/120.
    room = 0.4 * expected.standard_error
    interval = expected.confidence_interval
    assert [found["low"], found["high"]] == pytest.approx([interval.low, interval.high], abs=room)
    assert found["resamples"] == bootstrap.RESAMPLES


def test_scores_that_need_probabilities_are_scikit_learns_with_a_paired_interval() -> None:
    a, b = pair(CLASSES, count=2)
    found = pair_scores(a, b)["metrics"]
    shares = [each.probabilities() for each in (a, b)]
    for name, score in {
        "log_loss": lambda share: theirs.log_loss(a.labels, share),
        "brier": lambda share: theirs.brier_score_loss(a.labels, share[:, 1]),
        "roc_auc": lambda share: theirs.roc_auc_score(a.labels, share[:, 1]),
        "average_precision": lambda share: theirs.average_precision_score(a.labels, share[:, 1]),
    }.items():
        values = [found[name][side] for side in ("a", "b")]
        assert values == pytest.approx([score(share) for share in shares], abs=1e-12), name
        assert found[name]["low"] < found[name]["difference"] < found[name]["high"], name
    losses = [each.row_losses() for each in (a, b)]
    expected = stats.bootstrap((losses[1] - losses[0],), np.mean, n_resamples=2000, method="percentile", rng=7)
    interval = expected.confidence_interval
    room = 0.3 * expected.standard_error
    limits = [found["log_loss"][name] for name in ("low", "high")]
    assert limits == pytest.approx([interval.low, interval.high], abs=room)
    # Rows that are hard for both cancel out: were the two resampled apart, the interval would be this wide.
    apart = 1.96 * 2 * np.sqrt(sum(each.var() / len(each) for each in losses))
    assert limits[1] - limits[0] < 0.8 * apart


def test_scores_of_several_labels_are_scikit_learns_with_a_paired_interval() -> None:
    a, b = pair(LABELS)
    found = pair_scores(a, b)
    for name, average in (("f1", "micro"), ("f1_macro", "macro")):
        expected = [theirs.f1_score(each.labels, each.predicted, average=average) for each in (a, b)]
        score = found["metrics"][name]
        assert [score["a"], score["b"]] == pytest.approx(expected, abs=1e-12)
        assert score["low"] < score["difference"] < score["high"]
    expected = [theirs.log_loss(each.labels.ravel(), each.probabilities().ravel()) for each in (a, b)]
    score = found["metrics"]["log_loss"]
    assert [score["a"], score["b"]] == pytest.approx(expected, abs=1e-12)
    assert score["low"] < score["difference"] < score["high"]
    right = [(each.labels == each.predicted).all(axis=1) for each in (a, b)]
    assert found["rows_apart"]["only_a"] == sum(x and not y for x, y in zip(*right, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_mcnemars_counts_and_p_are_those_of_the_binomial_test(seed: int) -> None:
    a, b = pair(CLASSES, rows=80, seed=seed)
    right = [(each.labels == each.predicted).tolist() for each in (a, b)]
    cells = list(zip(*right, strict=True))
    found = pair_scores(a, b)["rows_apart"]
    only_a, only_b = cells.count((True, False)), cells.count((False, True))
    assert (found["only_a"], found["only_b"]) == (only_a, only_b)
    assert (found["both"], found["neither"]) == (cells.count((True, True)), cells.count((False, False)))
    assert found["p"] == pytest.approx(stats.binomtest(only_b, only_a + only_b, 0.5).pvalue)
    # As statsmodels' mcnemar(exact=True) has it.
    assert found["p"] == pytest.approx(min(1, 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def test_two_models_that_are_right_on_the_same_rows_are_not_told_apart() -> None:
    right = np.array([True, False, True])
    assert mcnemar(right, right) == {"test": "mcnemar", "only_a": 0, "only_b": 0, "both": 2, "neither": 1, "p": 1.0}
    a, _ = pair(CLASSES)
    found = pair_scores(a, a)
    assert found["same_predictions"]
    assert {score["difference"] for score in found["metrics"].values()} == {0.0}
    # Wilson's interval is one of a share, and no difference has it.
    assert {score["low"] for score in found["metrics"].values()} == {None}


def test_the_absolute_errors_of_numbers_are_tested_as_scipy_does() -> None:
    a, b = pair(NUMBERS)
    errors = [np.abs(each.predicted - each.labels) for each in (a, b)]
    found = pair_scores(a, b)["rows_apart"]
    assert (found["only_a"], found["only_b"]) == ((errors[0] < errors[1]).sum(), (errors[1] < errors[0]).sum())
    assert found["p"] == stats.wilcoxon(*errors).pvalue
    assert pair_scores(a, a)["rows_apart"]["p"] == 1.0


def test_less_is_better_of_losses_and_errors() -> None:
    a, b = pair(NUMBERS, rows=400)  # B's errors are the larger
    found = pair_scores(a, b)["metrics"]
    assert found["mse"]["low"] > 0
    assert {found[name]["better"] for name in ("mse", "mae", "r2")} == {"A"}
    turned = pair_scores(b, a)["metrics"]
    assert {turned[name]["better"] for name in ("mse", "mae", "r2")} == {"B"}
    logits = 4 * np.eye(3)[a.labels.astype(int) % 3] + np.random.default_rng(1).normal(size=(400, 3)) / 3
    sure = Predictions(CLASSES, ("x", "y", "z"), logits.argmax(axis=1), logits.argmax(axis=1), logits)
    found = pair_scores(sure, replace(sure, logits=logits / 8))["metrics"]
    assert found["log_loss"]["difference"] > 0
    assert found["log_loss"]["better"] == found["brier"]["better"] == "A"
    assert found["accuracy"]["better"] is None


def test_95_of_100_paired_intervals_hold_the_true_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A is right in 0.75 of all rows, B in 0.8, both err on the same rows for the most part; 200 sets of 200 rows."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    draw, held = np.random.default_rng(5), 0
    for _ in range(200):
        labels, luck = draw.integers(0, 2, 200), draw.random(200)
        right = (luck < 0.75, (luck < 0.7) | (luck > 0.9))
        said = [np.where(each, labels, 1 - labels) for each in right]
        a, b = (Predictions(CLASSES, ("x", "y"), labels, each, np.zeros((200, 2))) for each in said)
        found = paired._from_counts(a, b)["accuracy"]
        held += found["low"] <= 0.05 <= found["high"]
    # 190 are expected; three standard deviations of a binomial, and some for how percentiles fall short at 200 rows.
    assert 178 <= held <= 199


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_without_finite_numbers_from_one_model_are_left_out_of_both(bad: float) -> None:
    a, b = pair(NUMBERS)
    off = replace(b, logits=b.logits.copy(), predicted=b.predicted.copy())
    off.logits[:3] = bad
    off.predicted[:3] = bad
    found, clean = pair_scores(a, off), pair_scores(*(each.keep(np.arange(120) >= 3) for each in (a, b)))
    assert found["not_finite"] == 3
    assert found["metrics"] == clean["metrics"]
    a, b = pair(CLASSES)
    off = replace(b, logits=b.logits.copy())
    off.logits[:3] = bad
    metrics = pair_scores(a, off)["metrics"]
    clean = pair_scores(*(each.keep(np.arange(120) >= 3) for each in (a, b)))
    assert metrics["log_loss"] == clean["metrics"]["log_loss"]
    assert metrics["accuracy"] == pair_scores(a, b)["metrics"]["accuracy"]


@pytest.mark.parametrize("kind", [CLASSES, LABELS])
def test_classes_in_another_order_are_the_same_predictions(kind: str, tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, kind, 4)
    expected = compared(a, b)["sets"]["test"]["metrics"]
    facts = json.loads((b / "ftloop_run.json").read_text())
    names = facts["data"]["labels"]
    order = [2, 0, 3, 1]
    change(b, "ftloop_run.json", data=facts["data"] | {"labels": [names[i] for i in order]})
    for name in ("validation", "test"):
        table = pq.read_table(b / f"{name}_predictions.parquet")
        logits = np.array(table["logits"].to_pylist(), np.float32)[:, order]
        moved = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), 4)
        pq.write_table(table.drop_columns("logits").append_column("logits", moved), b / f"{name}_predictions.parquet")
    found = compared(a, b)["sets"]["test"]
    assert found["unpaired"] is None
    for name, score in expected.items():
        assert [found["metrics"][name][key] for key in ("a", "b")] == pytest.approx([score["a"], score["b"]]), name


@pytest.mark.parametrize(("kind", "count"), [(CLASSES, 3), (LABELS, 3), (NUMBERS, 0)])
def test_the_mistakes_of_each_are_those_that_the_other_does_not_make(kind: str, count: int, tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, kind, count, rows=18)
    found = compared(a, b)["sets"]["test"]
    rows = [pq.read_table(folder / "test_predictions.parquet").to_pylist() for folder in (a, b)]

    def error(row: dict[str, Any]) -> float:
        return abs(row["prediction"] - row["label"]) if kind == NUMBERS else float(row["prediction"] != row["label"])

    worse = {"A": set[int](), "B": set[int]()}
    for number, (of_a, of_b) in enumerate(zip(*rows, strict=True), 1):
        if error(of_a) != error(of_b):
            worse["A" if error(of_a) > error(of_b) else "B"].add(number)
    assert all(worse.values())
    for side, mistakes in found["mistakes"].items():
        assert {each["row"] for each in mistakes} == worse[side]
        assert [each["prediction"] for each in mistakes] == [
            rows["AB".index(side)][each["row"] - 1]["prediction"] for each in mistakes
        ]
    assert found["rows_apart"]["only_a"] == len(worse["B"])


# --- what differs ---


def test_what_differs_is_listed_without_noise(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    with_settings(b, learning_rate=5e-5, seed=7, logging_steps=3, record="x.jsonl", traceback=True)
    facts = json.loads((b / "ftloop_run.json").read_text())
    more = facts["data"]["sets"] | {"train": facts["data"]["sets"]["train"] | {"rows": 99}}
    change(b, "ftloop_run.json", data=facts["data"] | {"sets": more}, device=facts["device"] | {"threads": 8})
    change(a, MANIFEST, data={"train": {"rows": 60, "digest": "1" * 64}}, versions={"torch": "2.12"})
    change(b, MANIFEST, data={"train": {"rows": 99, "digest": "2" * 64}}, versions={"torch": "2.13"})
    found = compared(a, b)["differences"]
    assert found["settings"] == {"learning_rate": [1e-3, 5e-5], "seed": [42, 7]}
    assert found["data and model"] == {"train rows": [60, 99], "train tokens, digest": ["1" * 12, "2" * 12]}
    assert found["versions and machine"] == {"torch": ["2.12", "2.13"], "CPU threads": [2, 8]}


def test_a_setting_that_an_earlier_version_lacks_had_its_default(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    config = json.loads((a / MANIFEST).read_text())["config"]
    del config["fast_dropout"]
    change(a, MANIFEST, config=config)
    assert compared(a, b)["differences"]["settings"] == {}
    with_settings(b, fast_dropout=True)
    assert compared(a, b)["differences"]["settings"] == {"fast_dropout": [False, True]}


@pytest.mark.parametrize(("kind", "count"), [(CLASSES, 2), (CLASSES, 5), (LABELS, 3), (NUMBERS, 0)])
def test_the_text_fits_80_columns_and_names_every_score(kind: str, count: int, tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, kind, count)
    with_settings(b, train_file=f"/somewhere/{'deep/' * 30}rows.csv", learning_rate=5e-5)
    made = compared(a, b)
    made["a"]["folder"], made["b"]["folder"] = "runs/a", "runs/b"
    text = describe_comparison(made)
    assert [line for line in text.splitlines() if len(line) > 80] == [f"  B  /somewhere/{'deep/' * 30}rows.csv"]
    for name in made["sets"]["test"]["metrics"]:
        assert text.count(f"\n{name} ") == 2, name
    assert text.splitlines()[:2] == ["A         runs/a", "B         runs/b"]
    assert "\u202e" not in text
    assert "learning_rate" in text
    assert "output_dir" not in text
    assert f"rows.csv\n  B  /somewhere/{'deep/' * 30}rows.csv" in text
    assert "\nVerdict   test " in text


def test_the_verdict_is_of_the_score_that_chose_the_checkpoint_and_of_the_test_set(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, rows=300)
    verdict = compared(a, b)["verdict"]
    assert verdict.startswith("test accuracy, B - A ")
    assert "chosen on these rows" not in verdict
    with_settings(a, metric_for_best_model="eval_f1")
    verdict = compared(a, b, "validation")["verdict"]
    assert verdict.startswith("validation f1, B - A ")
    assert "The best checkpoint was chosen on these rows" in verdict
    assert verdict.endswith("ftloop seeds shows")
    score = compared(a, b, "validation")["sets"]["validation"]["metrics"]["f1"]
    assert ("no difference is shown" in verdict) == (score["better"] is None)


def test_the_same_files_give_the_same_comparison(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    assert json.dumps(compared(a, b), allow_nan=False) == json.dumps(compared(a, b))
    assert list(compared(a, b)["sets"]) == ["test", "validation"]
    assert list(compared(a, b, "test")["sets"]) == ["test"]


def test_f1_is_that_of_the_same_class_for_both(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    facts = json.loads((b / "ftloop_run.json").read_text())["data"]
    change(a, "ftloop_run.json", data=facts | {"positive": facts["labels"][1]})
    change(b, "ftloop_run.json", data=facts | {"positive": facts["labels"][0]})
    found = compared(a, b)
    table = pq.read_table(b / "test_predictions.parquet").to_pydict()
    scores = np.subtract(*np.transpose(table["logits"])[::-1])
    area = theirs.average_precision_score(np.array(table["label"]) == facts["labels"][1], scores)
    expected = theirs.f1_score(table["label"], table["prediction"], pos_label=facts["labels"][1])
    assert found["sets"]["test"]["metrics"]["f1"]["b"] == pytest.approx(expected)
    assert found["sets"]["test"]["metrics"]["average_precision"]["b"] == pytest.approx(area)
    assert f"B itself was judged by the F1 of {facts['labels'][0]!r}" in found["sets"]["test"]["notes"]
    assert found["differences"]["data and model"]["positive"] == facts["labels"][::-1]


def test_a_model_with_one_answer_to_all_rows_is_named(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    table = pq.read_table(b / "test_predictions.parquet")
    place = table.column_names.index("prediction")
    constant = table.set_column(place, "prediction", pa.array(["plain"] * 60))
    pq.write_table(constant, b / "test_predictions.parquet")
    sets = compared(a, b)["sets"]
    assert "B predicts 'plain' for every row" in sets["test"]["notes"]
    assert not any("every row" in note for note in sets["validation"]["notes"])


# --- runs that do not match ---


def test_other_rows_have_scores_and_no_interval(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    fewer = left_by_a_run(tmp_path / "fewer", CLASSES, 2, 50)
    relabelled = left_by_a_run(tmp_path / "relabelled", CLASSES, 2, 60, seed=9)
    other_text = left_by_a_run(tmp_path / "other", CLASSES, 2, 60, model=2)
    for name in ("validation", "test"):
        table = pq.read_table(other_text / f"{name}_predictions.parquet")
        texts = table["text"].to_pylist()
        texts[6] = "another text"
        pq.write_table(table.set_column(0, "text", pa.array(texts)), other_text / f"{name}_predictions.parquet")
    three = left_by_a_run(tmp_path / "three", CLASSES, 3, 60)
    for other, why in (
        (fewer, "60 rows in A, 50 in B"),
        (relabelled, "the same texts have other labels (row "),
        (other_text, "they are not the same rows (row 7 is the first with another text)"),
        (three, "their classes differ: only B has '$\\\\frac{x}'"),
    ):
        made = compared(a, other)
        found = made["sets"]["test"]
        assert found["unpaired"].startswith(why)
        assert found["metrics"]["accuracy"]["a"] == compared(a, b)["sets"]["test"]["metrics"]["accuracy"]["a"]
        assert {score["low"] for score in found["metrics"].values()} == {None}
        assert made["verdict"].startswith("none, as the runs cannot be compared row by row on the test set: ")
        text = describe_comparison(made)
        assert "95 %" not in text
        assert "Unpaired  no intervals: " in text


def test_a_row_is_named_by_its_number_in_the_data_of_a(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    tables = [pq.read_table(folder / "test_predictions.parquet") for folder in (a, b)]
    texts = [*tables[1]["text"].to_pylist()[:6], "another text", *tables[1]["text"].to_pylist()[7:]]
    numbers = pa.array(range(11, 71), pa.int64())  # the first ten were dropped when they were read
    pq.write_table(tables[0].add_column(0, "row", numbers), a / "test_predictions.parquet")
    pq.write_table(tables[1].set_column(0, "text", pa.array(texts)), b / "test_predictions.parquet")
    unpaired = compared(a, b)["sets"]["test"]["unpaired"]
    assert unpaired == "they are not the same rows (row 17 is the first with another text)"


def test_a_column_that_one_model_alone_reads_does_not_make_other_rows(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    for name in ("validation", "test"):
        table = pq.read_table(b / f"{name}_predictions.parquet")
        pq.write_table(table.add_column(0, "second", pa.array(["x"] * 60)), b / f"{name}_predictions.parquet")
    facts = json.loads((b / "ftloop_run.json").read_text())["data"]
    change(b, "ftloop_run.json", data=facts | {"text_columns": ["second", "text"]})
    assert compared(a, b)["sets"]["test"]["unpaired"] is None


def test_without_predictions_the_recorded_scores_stand_side_by_side(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    (b / "validation_predictions.parquet").unlink()
    for folder in (a, b):
        change(folder, "all_results.json", eval_accuracy=0.7 if folder == a else 0.9, eval_runtime=3.0, test_mine=0.25)
    made = compared(a, b)
    found = made["sets"]["validation"]
    assert found["unpaired"] == "B does not have the predictions of single rows"
    assert set(found["metrics"]) == {"loss", "accuracy"}
    assert found["metrics"]["accuracy"]["difference"] == pytest.approx(0.2)
    # A score of one's own stands beside those that the predictions give.
    assert made["sets"]["test"]["metrics"]["mine"]["a"] == 0.25
    assert made["sets"]["test"]["metrics"]["accuracy"]["low"] is not None
    for folder in (a, b):
        for file in ("ftloop_run.json", MANIFEST, "test_predictions.parquet", "validation_predictions.parquet"):
            (folder / file).unlink(missing_ok=True)
    made = compared(a, b)
    assert list(made["sets"]) == ["test", "validation"]
    assert made["sets"]["test"]["unpaired"] == "neither run has the predictions of single rows"
    assert made["notes"][0].startswith("A: settings and versions and data and machine are not known")
    assert made["verdict"].startswith("none, as ")
    (a / "all_results.json").unlink()
    (b / "all_results.json").unlink()
    assert compared(a, b)["verdict"] == "none: there is no set with scores of both runs"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda a, b: [a, a], "are the same run; name two"),
        (lambda a, b: [a, b.parent / "nowhere"], "no folder "),
        (lambda a, b: [b.parent / "nowhere", b], "no folder "),
        (lambda a, b: [a.parent, b], "no run has ended here"),
        (lambda a, b: [a, b / "all_results.json"], "is a folder and "),
        (lambda a, b: [a, b, "--tensorboard", "x"], "tensorboard: it is written of recordings"),
        (lambda a, b: [a, b, "--output", a], "holds other files than a comparison; choose another folder"),
        (lambda a, b: [a, b, "--png", a], "a is a folder; name a file"),
        (lambda a, b: change(b, MANIFEST, complete=False) or [a, b], "b: trained, but not evaluated to the end"),
        (
            lambda a, b: (a.parent / "s").mkdir() or [a, b.rename(a.parent / "s" / "seed-1").parent],
            "/s/seed-1; ftloop seeds compares all those of two such folders",
        ),
        (
            lambda a, b: (b / "test_predictions.parquet").write_bytes(b"x") and [a, b],
            "test_predictions.parquet: not readable",
        ),
        (lambda a, b: [a, left_by_a_run(a.parent / "c", NUMBERS, 0, 60)], "predicts one of 2 classes and "),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(
    spoil: Callable[[Path, Path], list[Any]], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = spoil(*two_runs(tmp_path))
    assert main(list(map(str, words))) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_flags_of_finished_runs_are_refused_of_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("{}\n")
    assert main([str(file), str(file), "--output", str(tmp_path / "x")]) == ExitCode.USER_ERROR
    assert "output: only with finished runs" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# --- the page and the curves ---


@pytest.mark.parametrize(
    ("kind", "count", "rows"), [(CLASSES, 2, 40), (CLASSES, 5, 40), (CLASSES, 3, 1), (LABELS, 3, 40), (NUMBERS, 0, 40)]
)
def test_a_page_of_two_runs_is_whole_fetches_nothing_and_obeys_no_text(
    kind: str,
    count: int,
    rows: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = {"light": {"loss": b"png"}, "dark": {"loss": b"png"}}
    monkeypatch.setattr(report, "_draw_figures", lambda *_: drawn)
    a, b = two_runs(tmp_path, kind, count, rows)
    with_settings(b, train_file=["<script>alert(3)</script>", "b.csv"])
    output = tmp_path / "both"
    assert main([str(a), str(b), "--output", str(output)]) == ExitCode.DONE
    assert f"Written   {output / 'comparison.html'}\n" in capsys.readouterr().out
    page = read_inert((output / "comparison.html").read_text(encoding="utf-8"))
    shown = "".join(page.texts)
    assert "<script>alert(3)</script>, b.csv" in shown
    assert {path.name for path in output.iterdir()} == {"comparison.html", "comparison.json", "loss.png"}
    numbers = json.loads((output / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert numbers["sets"]["test"]["rows"] == rows
    assert main([str(a), str(b), "--output", str(output)]) == ExitCode.DONE  # in place of the first


def test_curves_are_drawn_over_epochs_where_updates_are_of_other_sizes(tmp_path: Path) -> None:
    from ftloop.report.plots import _wanted_of_both

    a, b = two_runs(tmp_path)
    wanted = {name: draw.args for name, _, draw in _wanted_of_both(compared(a, b))}
    assert list(wanted) == ["loss", "learning_rate", "grad_norm"]
    _, losses, by_epoch = wanted["loss"]
    assert list(losses) == ["A, training", "B, training", "A, validation", "B, validation"]
    assert losses["A, validation"] == [[10, 1.0, 0.5], [20, 2.0, 1.0]]
    assert not by_epoch
    plan = json.loads((b / "ftloop_run.json").read_text())["plan"]
    change(b, "ftloop_run.json", plan=plan | {"updates_per_epoch": 5})
    assert {draw.args[2] for _, _, draw in _wanted_of_both(compared(a, b))} == {True}


def test_the_curves_of_both_are_drawn_into_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = two_runs(tmp_path)
    history = json.loads((b / "trainer_state.json").read_text())["log_history"]
    change(b, "trainer_state.json", log_history=[*history, {"step": 20, "epoch": 2.0, "eval_a/b $x": 0.5}])
    assert main([str(a), str(b), "--png", str(tmp_path / "deep" / "both.png")]) == ExitCode.DONE
    assert (tmp_path / "deep" / "both.png").read_bytes().startswith(b"\x89PNG")
    assert f"Written   {tmp_path / 'deep' / 'both.png'}\n" in capsys.readouterr().out
    for folder in (a, b):
        change(folder, "trainer_state.json", log_history=[])
    assert main([str(a), str(b), "--png", str(tmp_path / "none.png")]) == ExitCode.USER_ERROR
    assert "neither run has logged a number" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_of_two_runs_are_drawn_whatever_the_names(tmp_path: Path) -> None:
    from ftloop.report.plots import draw_all

    a, b = two_runs(tmp_path)
    history = json.loads((b / "trainer_state.json").read_text())["log_history"]
    change(b, "trainer_state.json", log_history=[*history, {"step": 20, "epoch": 2.0, "eval_a/b $x": 0.5}])
    images = draw_all(compared(a, b), "dark", "comparison")
    assert list(images) == ["loss", "a_b__x", "learning_rate", "grad_norm"]
    assert all(image.startswith(b"\x89PNG") for image in images.values())
