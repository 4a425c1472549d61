"""Numbers of what a model said of a labelled set: metrics with bootstrap intervals, tables, curves, calibration.

All of it plain values for JSON; what is not defined is None. The intervals are percentiles over resamples of the rows,
drawn with replacement, by a fixed seed: of what is counted, from the counts of each (label, prediction), which is the
same distribution whatever the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

RESAMPLES, FEWEST_RESAMPLES = 2000, 200
SEED = 0
AT_ONCE = 200_000  # numbers, that they stay near the processor
MOST_DRAWS = 20_000_000  # of rows, over all resamples: some seconds
QUICK_DRAWS = 2_000_000  # of which the model card, at the end of every run, makes do: some tenths of a second
MOST_ROWS = 200_000  # of more, only what is counted has intervals
BINS = 10
SHOWN_CLASSES = 20  # of more, the most confused pairs in place of the matrix, and no curve for each
CURVE_POINTS = 200

Weights = np.ndarray
"""How often each row (or each kind of row) is in a resample: resamples x rows."""
Statistics = Callable[[Weights], dict[str, np.ndarray]]
"""From weights to named numbers, one for each resample."""


@dataclass(frozen=True)
class Answers:
    """What is true of each row of a set, and what the model said."""

    kind: str
    """`classes`, `multi_label` or `regression`."""
    names: tuple[str, ...]
    true: np.ndarray
    """Ids of classes; rows x labels, true or false; or numbers."""
    said: np.ndarray
    """Likewise."""
    logits: np.ndarray
    """Rows x classes, as they were read: of a large set no copy is made of them."""

    @property
    def is_finite(self) -> np.ndarray:
        """Rows whose logits are all numbers."""
        return np.asarray(np.isfinite(self.logits).all(axis=1))


def read_answers(table: pa.Table, kind: str, names: list[str]) -> Answers:
    """From a table as `outcome.read_predictions` gives it. Raises: UserError where it is not of these classes."""
    width = len(names) or 1
    logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(logits) != table.num_rows * width:
        raise UserError(f"the predictions have other classes than ftloop_run.json names ({', '.join(names[:5])}, ...)")
    columns = [table[name].combine_chunks() for name in ("label", "prediction")]
    if kind == "regression":
        true, said = (np.asarray(column.to_numpy(zero_copy_only=False), np.float64) for column in columns)
    elif kind == "multi_label":
        true, said = (_several(column, names) for column in columns)
    else:
        true, said = (_ids(column, names) for column in columns)
    return Answers(kind, tuple(names), true, said, logits.reshape(-1, width))


def _ids(column: pa.Array, names: list[str]) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(column, value_set=pa.array(names, pa.string()))
    if found.null_count:
        row = int(np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"row {row + 1} of the predictions: {column[row].as_py()!r} is none of the classes")
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _several(column: pa.Array, names: list[str]) -> np.ndarray:
    import pyarrow.compute as pc

    hot = np.zeros((len(column), len(names)), bool)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    hot[np.repeat(np.arange(len(column)), lengths), _ids(column.flatten(), names)] = True
    return hot


def score_set(answers: Answers, full: bool = True) -> dict[str, Any]:
    """All there is to say of a set, by name. Not `full`, what a model card needs: nothing of probabilities, no curves,
    and where single rows have to be drawn, fewer resamples, or none of so many rows that it would take seconds.
    """
    rows, finite = len(answers.true), answers.is_finite
    told: dict[str, Any] = {"rows": rows, "kind": answers.kind, "not_finite": int((~finite).sum())}
    if not rows:
        return told | {"metrics": {}}
    sure = answers
    if told["not_finite"]:
        sure = Answers(answers.kind, answers.names, answers.true[finite], answers.said[finite], answers.logits[finite])
    if answers.kind == "regression":
        return told | _score_numbers(sure, full)
    if answers.kind == "multi_label":
        return told | _score_several(answers, sure, full)
    return told | _score_classes(answers, sure, full)


# Resamples


def intervals(statistics: Statistics, draws: Iterator[Weights], ones: Weights) -> dict[str, dict[str, Any]]:
    """Each statistic's value, from the weights `ones`, and its 95 % interval, from the `draws`."""
    with np.errstate(all="ignore"):
        values = statistics(ones)
        parts = [statistics(weights) for weights in draws]
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        drawn = np.concatenate([part[name] for part in parts]) if parts else np.array([])
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (math.nan, math.nan)
        if low == high:  # of rows that are all alike, resamples say nothing of others
            low, high = wilson(float(value[0]), int(ones.sum())) if name == "accuracy" else (math.nan, math.nan)
        found[name] = {"value": number(value[0]), "low": number(low), "high": number(high), "resamples": len(drawn)}
    return found


def number(value: Any) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def row_draws(rows: int, labels: int = 1, full: bool = True) -> Iterator[Weights]:
    """Resamples of single rows; fewer of very many rows or labels, and none of more than MOST_ROWS. Not `full`, fewer
    still, and none where they would be too few to say anything.
    """
    generator = np.random.default_rng(SEED)
    left = (MOST_DRAWS if full else QUICK_DRAWS) // max(rows, rows * labels // 20, 1)  # to draw costs 20 times counting
    left = min(RESAMPLES, max(left, FEWEST_RESAMPLES) if full else left)
    if not 0 < rows <= MOST_ROWS or left < FEWEST_RESAMPLES:
        return
    while left:
        count = min(left, max(AT_ONCE // rows, 1))
        drawn = generator.integers(0, rows, (count, rows), dtype=np.int32)
        drawn += (np.arange(count, dtype=np.int32) * rows)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=count * rows).reshape(count, rows).astype(np.float64)
        left -= count


def count_draws(counts: np.ndarray) -> Iterator[Weights]:
    """Resamples of rows of which only the kind matters: how many of each kind there are then."""
    generator, left = np.random.default_rng(SEED), RESAMPLES
    while left:
        count = min(left, max(AT_ONCE // len(counts), 1))
        yield generator.multinomial(counts.sum(), counts / counts.sum(), size=count).astype(np.float64)
        left -= count


# One of several classes


def _score_classes(answers: Answers, sure: Answers, full: bool) -> dict[str, Any]:
    from sklearn.metrics import precision_recall_fscore_support

    count = len(answers.names)
    cells, counts = np.unique(answers.true * count + answers.said, return_counts=True)
    true, said = np.divmod(cells, count)
    metrics = intervals(count_statistics(true, said, count), count_draws(counts), counts[None].astype(np.float64))
    support = np.bincount(answers.true, minlength=count)
    usual = int(support.argmax())
    always = count_statistics(np.arange(count), np.full(count, usual), count)
    with np.errstate(all="ignore"):
        baseline = {name: number(value[0]) for name, value in always(support[None].astype(np.float64)).items()}
    if full and len(sure.true):
        metrics |= intervals(probability_statistics(sure), row_draws(len(sure.true)), np.ones((1, len(sure.true))))
        # No resamples of it: they add noise to each bin's gap, a mean of absolute gaps only grows by that, and so the
        # percentiles lie above what they are to hold, often above the value itself.
        metrics["calibration_error"] = {"value": calibration_error(sure), "low": None, "high": None, "resamples": 0}
        baseline |= _baseline_probabilities(sure)
    scores = precision_recall_fscore_support(answers.true, answers.said, labels=range(count), zero_division=0.0)
    table = [
        {
            "name": name,
            "precision": number(precision) if predicted else None,
            "recall": number(recall) if total else None,
            "f1": number(f1) if total or predicted else None,
            "support": int(total),
            "predicted": int(predicted),
        }
        for name, precision, recall, f1, total, predicted in zip(
            answers.names, *scores, np.bincount(answers.said, minlength=count), strict=True
        )
    ]
    told = {
        "metrics": {name: values | {"baseline": baseline.get(name)} for name, values in metrics.items()},
        "baseline": {"answer": answers.names[usual]},
        "classes": table,
        "confusion": _confusion(answers, cells, counts),
    }
    if full:
        told |= {"calibration": calibration(sure), "curves": _curves(sure)}
    if count == 2:
        told["positive"] = answers.names[1]
    return told


def count_statistics(true: np.ndarray, said: np.ndarray, count: int) -> Statistics:
    """Of the rows of each kind (`true`, `said`): accuracy, F1 and their like. F1 is that of class 1 where there are two
    classes, else the mean over all, as ftloop.metrics has it; a class without any row counts 0 there.
    """
    hits = true == said

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        total = weights.sum(axis=1)
        right = _grouped(weights[:, hits], true[hits], count)
        of_class, of_answer = _grouped(weights, true, count), _grouped(weights, said, count)
        f1 = _ratio(2 * right, of_class + of_answer)
        there = of_class > 0
        recall = np.where(there, right / of_class, 0.0)
        spread = [total**2 - (each**2).sum(axis=1) for each in (of_class, of_answer)]
        matthews = right.sum(axis=1) * total - (of_class * of_answer).sum(axis=1)
        found = {
            "accuracy": right.sum(axis=1) / total,
            "f1": f1[:, 1] if count == 2 else f1.mean(axis=1),
        }
        if count == 2:
            found |= {"precision": _ratio(right, of_answer)[:, 1], "recall": _ratio(right, of_class)[:, 1]}
        return found | {
            "balanced_accuracy": recall.sum(axis=1) / there.sum(axis=1),
            "matthews_correlation": _ratio(matthews, np.sqrt(np.maximum(spread[0] * spread[1], 0.0))),
        }

    return statistics


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where there is nothing to divide by, as scikit-learn's scores have it."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _grouped(weights: Weights, groups: np.ndarray, count: int) -> np.ndarray:
    """Summed over the columns of each group: resamples x `count`."""
    sums = np.zeros((len(weights), count))
    order = np.argsort(groups, kind="stable")
    there, starts = np.unique(groups[order], return_index=True)
    if len(there):
        sums[:, there] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def probabilities(answers: Answers) -> np.ndarray:
    """Rows x classes, float64; of a row with several labels, that of each label."""
    logits = answers.logits.astype(np.float64)
    if answers.kind == "multi_label":
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def row_losses(answers: Answers) -> np.ndarray:
    """Cross-entropy of each row, or of numbers the squared error."""
    logits = answers.logits.astype(np.float64)
    if answers.kind == "regression":
        return np.asarray((logits[:, 0] - answers.true) ** 2)
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), answers.true])


def probability_statistics(answers: Answers) -> Statistics:
    """Of single rows: areas under the curves (of two classes), log loss, Brier score."""
    share, losses = probabilities(answers), row_losses(answers)
    hot = np.eye(len(answers.names))[answers.true]
    # Of two classes, the usual Brier score is that of one of them.
    brier = ((share - hot) ** 2).sum(axis=1) / (2 if len(answers.names) == 2 else 1)
    area = areas(answers.true == 1, share[:, 1]) if len(answers.names) == 2 else None

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        total = weights.sum(axis=1)
        found = {"log_loss": weights @ losses / total, "brier": weights @ brier / total}
        return (area(weights) if area is not None else {}) | found

    return statistics


def areas(positive: np.ndarray, score: np.ndarray) -> Statistics:
    """Under the ROC curve and the precision-recall curve (as average precision), rows with equal scores together."""
    order = np.argsort(-score, kind="stable")
    _, starts = np.unique(-score[order], return_index=True)
    is_positive = positive[order].astype(np.float64)

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        in_order = weights[:, order]
        hits = np.add.reduceat(in_order * is_positive, starts, axis=1)
        misses = np.add.reduceat(in_order, starts, axis=1) - hits
        hits_so_far, misses_so_far = hits.cumsum(axis=1), misses.cumsum(axis=1)
        all_hits, all_misses = hits_so_far[:, -1:], misses_so_far[:, -1:]
        roc = (misses * (hits_so_far - hits / 2)).sum(axis=1) / (all_hits * all_misses)[:, 0]
        precision = _ratio(hits_so_far, hits_so_far + misses_so_far)
        return {"roc_auc": roc, "average_precision": (precision * hits).sum(axis=1) / all_hits[:, 0]}

    return statistics


def _baseline_probabilities(answers: Answers) -> dict[str, float | None]:
    """What says of each row the classes' shares has for scores."""
    shares = np.bincount(answers.true, minlength=len(answers.names)) / len(answers.true)
    some = shares[shares > 0]
    found = {"log_loss": -float((some * np.log(some)).sum()), "brier": float(1 - (shares**2).sum())}
    if len(shares) == 2:
        found |= {"brier": found["brier"] / 2, "average_precision": float(shares[1]), "roc_auc": 0.5}
    return {name: number(value) for name, value in found.items()}


def _confusion(answers: Answers, cells: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Counts of all (label, prediction); of many classes, the pairs most often confused."""
    count = len(answers.names)
    if count <= SHOWN_CLASSES:
        matrix = np.zeros(count * count, np.int64)
        matrix[cells] = counts
        return {"counts": matrix.reshape(count, count).tolist()}
    true, said = np.divmod(cells, count)
    of_class = np.bincount(true, weights=counts, minlength=count)
    wrong = np.flatnonzero(true != said)
    worst = wrong[np.argsort(-counts[wrong], kind="stable")][:SHOWN_CLASSES]
    return {
        "pairs": [
            {
                "label": answers.names[true[i]],
                "prediction": answers.names[said[i]],
                "rows": int(counts[i]),
                "share": float(counts[i] / of_class[true[i]]),
            }
            for i in worst
        ]
    }


# Calibration and curves


def equal_mass(confidence: np.ndarray) -> np.ndarray:
    """A bin for each row, 0 to BINS - 1, in the order of confidence, as many rows in each as can be."""
    bins = np.empty(len(confidence), np.int64)
    bins[np.argsort(confidence, kind="stable")] = np.arange(len(confidence)) * BINS // max(len(confidence), 1)
    return bins


def calibration_error(answers: Answers) -> float:
    """How far confidence and share of right answers are apart, the mean over the bins."""
    share = probabilities(answers).max(axis=1)
    gaps = np.bincount(equal_mass(share), weights=share - (answers.said == answers.true), minlength=BINS)
    return float(np.abs(gaps).sum()) / len(share)


def calibration(answers: Answers) -> list[dict[str, Any]]:
    """How sure the model was, and how often right, in bins with as many rows each. Of several labels a row, each label
    is an answer of its own.
    """
    chances = probabilities(answers)
    if answers.kind == "multi_label":
        confidence = np.maximum(chances, 1 - chances).reshape(-1)
        right = (answers.said == answers.true).reshape(-1)
    else:
        confidence, right = chances.max(axis=1, initial=0.0), answers.said == answers.true
    bins = equal_mass(confidence)
    found = []
    for index in range(BINS):
        rows = int((bins == index).sum())
        if rows:
            share = float(right[bins == index].mean())
            low, high = wilson(share, rows)
            sure = float(confidence[bins == index].mean())
            found.append({"confidence": sure, "right": share, "low": low, "high": high, "rows": rows})
    return found


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many rows, after Wilson."""
    z = 1.959964
    centre, room = share + z**2 / (2 * rows), z * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    low, high = ((centre + sign * room) / (1 + z**2 / rows) for sign in (-1, 1))
    return max(min(low, share), 0.0), min(max(high, share), 1.0)  # of 0 and 1, rounding would leave the share outside


def _curves(answers: Answers) -> dict[str, Any] | None:
    """ROC and precision-recall: of class 1 of two; of few more, each class against the rest, and the mean area."""
    count, share = len(answers.names), probabilities(answers)
    if not 2 <= count <= SHOWN_CLASSES or not len(share):
        return None
    several = answers.kind == "multi_label"
    found = {}
    for index in [1] if count == 2 and not several else range(count):
        positive = answers.true[:, index] if several else answers.true == index
        if 0 < positive.sum() < len(positive):
            found[answers.names[index]] = _curve(positive, share[:, index])
    if not found:
        return None
    means = {f"mean_{name}": float(np.mean([each[name] for each in found.values()])) for name in ("roc_auc", "ap")}
    return {"classes": found, **means}


def _curve(positive: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    false_rate, true_rate, _ = roc_curve(positive, score)
    precision, recall, _ = precision_recall_curve(positive, score)
    return {
        "roc_auc": float(roc_auc_score(positive, score)),
        "ap": float(average_precision_score(positive, score)),
        "roc": _thinned(false_rate, true_rate),
        "pr": _thinned(recall, precision),
        "share": float(positive.mean()),
    }


def _thinned(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    chosen = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return [[round(float(a), 6), round(float(b), 6)] for a, b in zip(x[chosen], y[chosen], strict=True)]


# Any number of labels


def _score_several(answers: Answers, sure: Answers, full: bool) -> dict[str, Any]:
    from sklearn.metrics import precision_recall_fscore_support

    count = len(answers.names)
    combinations, counts = np.unique(answers.true, axis=0, return_counts=True)
    usual = combinations[counts.argmax()]
    ones = np.ones((1, len(answers.true)))
    draws = row_draws(len(answers.true), count, full)
    metrics = intervals(several_statistics(answers.true, answers.said), draws, ones)
    with np.errstate(all="ignore"):
        always = several_statistics(answers.true, np.broadcast_to(usual, answers.true.shape))(ones)
    scores = precision_recall_fscore_support(answers.true, answers.said, zero_division=0.0, average=None)
    predicted = answers.said.sum(axis=0)
    told = {
        "metrics": {name: values | {"baseline": number(always[name][0])} for name, values in metrics.items()},
        "baseline": {"answer": ", ".join(answers.names[i] for i in np.flatnonzero(usual)) or "no label"},
        "classes": [
            {
                "name": name,
                "precision": number(precision) if said else None,
                "recall": number(recall) if total else None,
                "f1": number(f1) if total or said else None,
                "support": int(total),
                "predicted": int(said),
            }
            for name, precision, recall, f1, total, said in zip(answers.names, *scores, predicted, strict=True)
        ],
    }
    return told | ({"calibration": calibration(sure), "curves": _curves(sure)} if full else {})


def several_statistics(true: np.ndarray, said: np.ndarray) -> Statistics:
    """Accuracy is the share of rows all of whose labels are right; F1 over all labels together (micro), and the mean of
    each label's, as ftloop.metrics has them."""
    exact = (true == said).all(axis=1).astype(np.float64)
    hits, of_label, of_answer = ((each).astype(np.float64) for each in (true & said, true, said))

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        right, both = weights @ hits, weights @ of_label + weights @ of_answer
        return {
            "accuracy": weights @ exact / weights.sum(axis=1),
            "f1": _ratio(2 * right.sum(axis=1), both.sum(axis=1)),
            "f1_macro": _ratio(2 * right, both).mean(axis=1),
        }

    return statistics


# Numbers


def _score_numbers(answers: Answers, full: bool) -> dict[str, Any]:
    true, said = answers.true, answers.said
    if not len(true):
        return {"metrics": {}, "baseline": None}
    mean = float(true.mean())
    ones = np.ones((1, len(true)))
    metrics = intervals(number_statistics(true, said), row_draws(len(true), full=full), ones)
    with np.errstate(all="ignore"):
        always = number_statistics(true, np.full(len(true), mean))(ones)
    some = np.unique(np.linspace(0, len(true) - 1, 2000).astype(int))
    return {
        "metrics": {name: values | {"baseline": number(always[name][0])} for name, values in metrics.items()},
        "baseline": {"answer": f"{mean:.4g}"},
        "points": [[float(true[i]), float(said[i])] for i in some],
        "residuals": {
            "mean": float((said - true).mean()),
            "std": float((said - true).std()),
            "quantiles": {f"{q:g}": float(np.quantile(said - true, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        },
    }


def number_statistics(true: np.ndarray, said: np.ndarray) -> Statistics:
    """R2, errors and correlations. Those with a constant are not defined."""
    centre, spread = float(true.mean()), float(true.std()) or 1.0
    x, y = (true - centre) / spread, (said - centre) / spread  # or large numbers would cancel out
    orders = [_ties(x), _ties(y)]

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        total = weights.sum(axis=1)
        squared = weights @ ((y - x) ** 2)
        variance = weights @ (x**2) - (weights @ x) ** 2 / total
        ranks = [_ranks(weights, *order) for order in orders]
        return {
            "mse": squared / total * spread**2,
            "mae": weights @ np.abs(y - x) / total * spread,
            "r2": 1 - squared / _positive(variance),
            "pearson": _correlation(weights, np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape)),
            "spearmanr": _correlation(weights, *ranks),
        }

    return statistics


def _ties(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the index of its value among the distinct ones, in order; and the order of the rows by it."""
    _, groups = np.unique(values, return_inverse=True)
    return groups, np.argsort(groups, kind="stable")


def _ranks(weights: Weights, groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Each row's rank in each resample; equal values share the mean of theirs. Counted from the middle."""
    starts = np.unique(groups[order], return_index=True)[1]
    sums = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = sums.cumsum(axis=1) - sums / 2 - weights.sum(axis=1, keepdims=True) / 2
    return np.asarray(ranks[:, groups])


def _correlation(weights: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=1)

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sums = [np.einsum("ij,ij->i", weights, each) for each in (a, b)]
        return np.einsum("ij,ij,ij->i", weights, a, b) - sums[0] * sums[1] / total

    return product(x, y) / np.sqrt(_positive(product(x, x)) * _positive(product(y, y)))


def _positive(values: np.ndarray) -> np.ndarray:
    """Not a number where rounding alone makes it other than 0."""
    return np.where(values > 1e-12, values, np.nan)
