"""Two sets of runs, with the same seeds and on the same rows: is one better, or is it chance?

The question is whether B would be better than A with other seeds and on other rows of the same kind. So the difference
B - A of a score, the mean over the seeds that both have, is given a 95 % interval that takes both as drawn by chance:

* seeds: how far the differences of single seeds lie apart (a paired t-test: what a seed does to both cancels out);
* rows: how much the mean difference changes when rows are left out (a jackknife of at most 100 groups of them; rows
  that are hard for both cancel out too);
* what a seed does to a row is in either, and is counted once.

Their variances add up; the degrees of freedom of Student's t are Satterthwaite's. (A bootstrap over seeds and rows
would be shorter, but where seeds differ much its intervals hold the truth in 74 of 100 cases with three of them.)

Where there are no predictions of the rows, or they do not give the score, the interval is over seeds alone, for these
rows alone. Beside it stands the sign-flip test over seeds alone, which assumes next to nothing: were A and B the same,
each seed's difference might as well have the other sign. With n seeds its p cannot go below 2 / 2**n, and beyond 13,
where not all signs are tried, not below 2 / 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import permutation_test, t

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import SETTINGS
from ftloop.errors import UserError
from ftloop.metrics import score
from ftloop.report.outcome import describe_collapsed
from ftloop.report.predictions import labelled_rows, load_predictions
from ftloop.report.runs import differing_settings
from ftloop.seeds.summary import SETS, SeedRuns
from ftloop.system.table import aligned
from ftloop.system.text import pluralize, short_repr

if TYPE_CHECKING:
    from ftloop.data.labels import Labels

GROUPS = 100
SIGNS = 9_999  # tried at random where there are more
OF_THE_LOSS = ("label_smoothing_factor", "class_weights")  # settings that make another loss of it
ROUNDING = 1e-9  # of differences: scores are recorded as means of floats
POINTS = ("accuracy", "f1", "f1_macro")  # given in hundredths


@dataclass(frozen=True)
class Difference:
    """The difference B - A of one score, the mean over the seeds."""

    name: str
    """`test_accuracy`, ..."""
    a: np.ndarray
    b: np.ndarray
    """The score of each seed."""
    low: float
    high: float
    """95 % interval; infinite where chance cannot be estimated: with one seed, or seeds that agree, and no rows."""
    p: float
    p_sign_flip: float
    rows: int | None
    """Number of rows taken as drawn by chance, or None if only the seeds are."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.b - self.a))

    @property
    def noise(self) -> float:
        """Half the interval: a smaller difference is not told from chance."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class PairedRows:
    """The rows of one set, as both sides' runs predicted them."""

    labels: np.ndarray
    predicted: np.ndarray
    """A and B x seeds x rows: class ids, or numbers."""
    losses: np.ndarray
    classes: Labels

    def score(self, name: str, side: int, seed: int, kept: Any = slice(None)) -> float:
        """Return a score of one run, not a number where predictions do not give it. `kept`: of which rows."""
        if name in ("loss", "log_loss"):
            return float(self.losses[side, seed, kept].mean())
        value = score(name, self.labels[kept], self.predicted[side, seed, kept], self.classes)
        return math.nan if value is None else value


@dataclass(frozen=True)
class Comparison:
    a: SeedRuns
    b: SeedRuns
    seeds: list[int]
    differences: list[Difference]
    notes: list[str]

    @property
    def primary(self) -> Difference:
        """The score by which the best checkpoint was chosen; on the test set if there is one, on which no choice was
        made."""
        metric = str(self.a.config.get("metric_for_best_model") or "").removeprefix("eval_")
        tested = any(each.name.startswith("test_") for each in self.differences)
        of_set = [each for each in self.differences if each.name.startswith("test_") or not tested]
        chosen = [each for each in of_set if metric != "loss" and each.name.partition("_")[2] == metric]
        return (chosen or [each for each in of_set if "loss" not in each.name] or of_set)[0]


def compare_seeds(a: SeedRuns, b: SeedRuns) -> Comparison:
    """Raises: UserError when there is no seed, or no score, that both have."""
    for side in (a, b):
        if side.kind == "fold":
            why = "they share their training rows, so that no test of a difference holds"
            raise UserError(f"{side.folder}: folds are not compared: {why}; compare commands with --seeds")
    seeds = [seed for seed in a.runs if seed in b.runs]
    if not seeds:
        both = f"{a.folder} has seeds {_list(a.runs)} and {b.folder} {_list(b.runs)}"
        raise UserError(f"{both}: none in both, so that nothing can be paired")
    only = {"A": [seed for seed in a.runs if seed not in seeds], "B": [seed for seed in b.runs if seed not in seeds]}
    notes = [f"only in {side}, dropped: seed {_list(dropped)}" for side, dropped in only.items() if dropped]
    for letter, runs in (("A", a), ("B", b)):
        if collapsed := {seed: answer for seed, answer in runs.collapsed.items() if seed in seeds}:
            notes.append(f"collapsed in {letter}: {describe_collapsed('seed', collapsed, len(seeds))}")
    differences, scores_a, scores_b, other_loss = [], a.scores(), b.scores(), _other_loss(a, b)
    for prefix, set_name in SETS.items():
        names = [name for name in scores_a if name in scores_b and name.startswith(f"{prefix}_")]
        try:
            rows = _paired_rows(a, b, seeds, prefix, notes) if names else None
        except _OtherRows as reason:
            notes.append(f"{set_name}, not compared: {reason}")
            continue
        for name in names:
            values_a, values_b = (np.array([scores[name][seed] for seed in seeds]) for scores in (scores_a, scores_b))
            if other_loss and name.removesuffix("_mm") == f"{prefix}_loss":
                in_its_place = rows is not None and not name.endswith("_mm")
                told = f"; {prefix}_log_loss, from the predictions, is" if in_its_place else ""
                notes.append(f"{name}, not compared, as it is another loss in B: {other_loss}{told}")
                if rows is None or not in_its_place:
                    continue
                name, (values_a, values_b) = f"{prefix}_log_loss", rows.losses.mean(axis=-1)
            if np.isfinite(values_b - values_a).all():
                differences.append(_difference(name, values_a, values_b, rows))
            else:
                notes.append(f"{name}, not compared: no number with every seed")
    if not differences:
        raise UserError(f"{a.folder} and {b.folder}: no score that both have on the same rows ({'; '.join(notes)})")
    return Comparison(a, b, seeds, differences, notes)


def _other_loss(a: SeedRuns, b: SeedRuns) -> str:
    """Say by which settings the two are trained, and evaluated, by different losses; nothing where they are not."""
    both = (a.config, b.config)
    names = [name for name in OF_THE_LOSS if name in differing_settings(both)] if all(both) else []
    values = {name: [short_repr(config.get(name, SETTINGS[name].default)) for config in both] for name in names}
    return ", ".join(f"{name} {in_a} in A, {in_b} in B" for name, (in_a, in_b) in values.items())


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


# --- statistics ------------------------------------------------------------------------------------------------------


def _difference(name: str, a: np.ndarray, b: np.ndarray, rows: PairedRows | None) -> Difference:
    without_rows = None if rows is None else leave_one_out(name.partition("_")[2], rows, a, b)
    low, high, p = interval(b - a, without_rows)
    count = None if rows is None or without_rows is None else len(rows.labels)
    return Difference(name, a, b, low, high, p, sign_flip_p(b - a), count)


def interval(by_seed: np.ndarray, without_rows: np.ndarray | None = None) -> tuple[float, float, float]:
    """Return the 95 % interval of the mean of the seeds' differences, and p of the difference 0.

    `without_rows`: seeds x groups, the differences without one group of rows; None: seeds alone.
    """
    seeds, mean = len(by_seed), float(by_seed.mean())
    if without_rows is None and np.ptp(by_seed) <= ROUNDING * np.abs(by_seed).max():
        # One seed, or seeds that agree to the last row, do not show how far others would lie apart.
        return (0.0, 0.0, 1.0) if seeds > 1 and mean == 0 else (-math.inf, math.inf, 1.0)
    parts = [(float(by_seed.var(ddof=1)) / seeds, seeds - 1)] if seeds > 1 else []
    counted_twice = 0.0
    if without_rows is not None:
        others = without_rows.shape[1] - 1
        of_rows = others * float(without_rows.mean(axis=0).var())
        parts.append((of_rows, others))
        if seeds > 1:  # what a seed does to a row, seen in the rows of one seed and evened out over the seeds
            of_one_seed = others * float(without_rows.var(axis=1).mean())
            counted_twice = max(of_one_seed - of_rows, 0.0) / (seeds - 1)
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    degrees = total**2 / sum(variance**2 / freedom for variance, freedom in parts)
    error = math.sqrt(max(total - counted_twice, *(variance for variance, _ in parts)))
    half = float(t.ppf(0.975, degrees)) * error
    return mean - half, mean + half, float(2 * t.sf(abs(mean) / error, degrees))


def sign_flip_p(by_seed: np.ndarray) -> float:
    """Return p of the mean among all choices of signs; beyond 13 seeds, among SIGNS random ones."""
    if len(by_seed) == 1:
        return 1.0
    options: dict[str, Any] = {"permutation_type": "samples", "vectorized": True, "n_resamples": SIGNS, "rng": 0}
    return float(permutation_test((by_seed,), np.mean, **options).pvalue)


def leave_one_out(name: str, rows: PairedRows, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Return the differences of a score, seeds x groups, each without one group of rows; None where the predictions do
    not give the scores that the runs have recorded, as where classes are weighted in the loss, or a score is not
    defined without some rows.
    """
    groups = min(len(rows.labels), GROUPS)
    found = [[rows.score(name, side, seed) for seed in range(len(a))] for side in range(2)]
    tolerance = 1e-4 if name == "loss" else 1e-6  # the recorded one is a float32 mean of batches' means
    if groups < 2 or not np.allclose(found, [a, b], rtol=tolerance, atol=tolerance):
        return None
    group = np.random.default_rng(0).permutation(len(rows.labels)) % groups
    scores_a, scores_b = (
        [[rows.score(name, side, seed, group != left_out) for left_out in range(groups)] for seed in range(len(a))]
        for side in range(2)
    )
    differences = np.subtract(scores_b, scores_a)
    return differences if np.isfinite(differences).all() else None


# --- rows ------------------------------------------------------------------------------------------------------------


class _OtherRows(Exception):
    """A and B were evaluated on other rows, so that no difference between them means anything."""


def _paired_rows(a: SeedRuns, b: SeedRuns, seeds: list[int], prefix: str, notes: list[str]) -> PairedRows | None:
    """None where not all runs have kept their predictions, which is noted, or rows have several labels, whose scores
    are not recomputed here.

    Raises: _OtherRows.
    """
    runs = [side.runs[seed] for side in (a, b) for seed in seeds]
    data_a, data_b = (run.facts.get("data", {}) for run in (runs[0], runs[-1]))
    count_a, count_b = (data.get("sets", {}).get(SETS[prefix], {}).get("rows") for data in (data_a, data_b))
    if count_a != count_b:
        raise _OtherRows(f"{count_a} rows in A, {count_b} in B")
    # MNLI's mismatched set, the last of two, has no rows here.
    names = [min((name for name in run.predictions if name.startswith(SETS[prefix])), default="") for run in runs]
    if missing := [str(run.folder) for run, name in zip(runs, names, strict=True) if not name]:
        notes.append(f"{SETS[prefix]}: no predictions in {_list(missing)}: chance is that of seeds alone")
        return None
    if "problem_type" not in data_a or "problem_type" not in data_b:
        return None
    if data_a.get("labels") != data_b.get("labels"):
        raise _OtherRows("their classes differ")
    if data_a.get("positive") != data_b.get("positive"):
        raise _OtherRows("F1 is that of another class (positive_label)")
    first, loaded = None, []
    for run, name in zip(runs, names, strict=True):
        table, predictions = load_predictions(run, name)
        rows = labelled_rows(table)
        first = rows if first is None else first
        if not rows.equals(first):
            raise _OtherRows("their texts or labels differ")
        loaded.append(predictions)
    if loaded[0].problem_type == ProblemType.MULTI_LABEL:
        return None
    shape = (2, len(seeds), -1)
    predicted, losses = np.stack([p.predicted for p in loaded]), np.stack([p.row_losses() for p in loaded])
    return PairedRows(loaded[0].labels, predicted.reshape(shape), losses.reshape(shape), loaded[0].classes)


# --- in words --------------------------------------------------------------------------------------------------------


def describe(comparison: Comparison) -> str:
    seeds = comparison.seeds
    table = [["score", "A", "B", "B - A", "95 % from", "to", "p", "p (sign-flip)", "noise from"]]
    for each in comparison.differences:
        prefix, _, name = each.name.partition("_")
        scores = [f"{each.a.mean():.4f}", f"{each.b.mean():.4f}"]
        differences = [f"{value:+.4f}" for value in (each.mean, each.low, each.high)]
        source = "seeds" if each.rows is None else "seeds, rows"
        p_values = ["<0.001" if p < 0.001 else f"{p:.3f}" for p in (each.p, each.p_sign_flip)]
        table.append([f"{SETS[prefix]} {name}", *scores, *differences, *p_values, source])
    return "\n".join(
        [
            f"A         {comparison.a.folder}",
            f"B         {comparison.b.folder}",
            f"Paired    {pluralize(len(seeds), 'seed')} that both have: {_list(seeds)}",
            *(f"Note      {note}" for note in comparison.notes),
            *aligned(table),
            "p: the chance of such a difference, or a larger one, were A and B the same; sign-flip: over seeds alone, "
            f"with {pluralize(len(seeds), 'seed')} never below {2 / min(2 ** len(seeds), SIGNS + 1):.3g}",
            f"Verdict   {_verdict(comparison)}",
        ]
    )


def _verdict(comparison: Comparison) -> str:
    each, seeds, more = comparison.primary, len(comparison.seeds), "train more seeds"
    prefix, _, name = each.name.partition("_")
    of_score, metric = f"{SETS[prefix]} {name}", name.removesuffix("_mm")
    points, lower_is_better = metric in POINTS, metric.endswith(("loss", "mse"))
    if each.noise == 0:
        same = "the same" if each.mean == 0 else "apart by the same"
        return f"{of_score} is {same} with every seed{'' if each.rows is None else ' and row'}"
    if not math.isfinite(each.noise):
        seen = "one seed" if seeds == 1 else f"{seeds} seeds that differ by the same"
        return f"none: with {seen}, and no predictions of the same rows, chance cannot be estimated; {more}"

    unit = " points" if points else ""

    def size(value: float, sign: str = "+") -> str:
        return f"{100 * value:{sign}.1f}" if points else f"{value:{sign}.4f}"

    better = f"{'A' if (each.mean > 0) == lower_is_better else 'B'} is better"
    found = better if each.low > 0 or each.high < 0 else "no difference is shown"
    among = pluralize(seeds, "seed") + ("" if each.rows is None else f" and {each.rows} rows")
    limits = f"{size(each.low)} to {size(each.high)}{unit}"
    text = f"{of_score}, B - A {size(each.mean)}{unit}, 95 % interval {limits}: {found}. "
    text += f"With {among} a difference below about {size(each.noise, '')}{unit} is not seen"
    text += "; for these rows alone" if each.rows is None else ""
    text += f"; of one seed, so for these two models alone: {more}" if seeds == 1 else ""
    if prefix == "eval" and any(side.config.get("load_best_model_at_end") for side in (comparison.a, comparison.b)):
        text += ". The best checkpoint was chosen on these rows: a test set would be the better judge"
    return text
