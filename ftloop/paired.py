"""Two sets of runs, with the same seeds and on the same rows: is one better, or is it chance?

What is asked is whether B would be better than A with other seeds and on other rows of the same kind. So the difference
B - A of a score, the mean over the seeds that both have, is given an interval that takes both for drawn by chance:

* seeds: how far the differences of single seeds lie apart (a paired t: what a seed does to both cancels out);
* rows: how much the mean difference changes when rows are left out (a jackknife of at most 100 groups of them). They
  are the same for both, so that rows which are hard for both cancel out too;
* what each seed does to each row is in either, and is counted once.

Their variances add up; the degrees of freedom of Student's t are Satterthwaite's. Where the rows' predictions are not
there, or do not give the score, the interval is the seeds' alone and holds for these rows alone: it is told which. Of
seeds that then all differ by the same there is no interval.

Beside it stands the exact test by sign flips, of seeds alone, which assumes next to nothing: were A and B the same,
each seed's difference might as well have the other sign. With n seeds it cannot go below 2 / 2**n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ftloop.errors import UserError, first_line
from ftloop.metrics import score
from ftloop.outcome import read_predictions
from ftloop.scoring import read_answers, row_losses
from ftloop.spread import SETS, SeedRuns, aligned, t_quantile

GROUPS = 100
SAME = 1e-9  # of differences, the room for rounding: scores are noted as means of floats
MOST_FLIPPED = 16  # seeds; beyond, t is as good and 2**n many
POINTS = ("accuracy", "f1", "f1_macro")  # told in hundredths


@dataclass(frozen=True)
class Difference:
    """Of one score: B - A, the mean over the seeds."""

    name: str
    """`test_accuracy`, ..."""
    each: dict[int, float]
    """By seed."""
    mean_a: float
    mean_b: float
    low: float
    high: float
    """95 % interval; infinite where nothing tells chance: with one seed, or seeds that agree, and no rows."""
    p: float
    p_flips: float | None
    rows: int | None
    """As many rows are taken for drawn by chance; None: none are."""

    @property
    def mean(self) -> float:
        return self.mean_b - self.mean_a

    @property
    def noise(self) -> float:
        """A difference smaller than that is not told from chance."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class OfSeeds:
    """What the runs of one side said of the rows of a set: seeds x rows."""

    predicted: np.ndarray
    """Ids of classes, or numbers."""
    losses: np.ndarray

    def score(self, name: str, seed: int, labels: np.ndarray, num_labels: int, kept: Any = slice(None)) -> float | None:
        if name == "loss":
            return float(self.losses[seed][kept].mean())
        return score(name, labels[kept], self.predicted[seed][kept], num_labels)


@dataclass(frozen=True)
class RowsOfBoth:
    """The same rows of one set, as A and B answered them."""

    labels: np.ndarray
    a: OfSeeds
    b: OfSeeds
    num_labels: int

    def only_right(self) -> tuple[list[int], list[int]]:
        """Of each seed: rows right only with A, and only with B."""
        a, b = (each.predicted == self.labels for each in (self.a, self.b))
        return (a & ~b).sum(axis=1).tolist(), (b & ~a).sum(axis=1).tolist()


@dataclass(frozen=True)
class Paired:
    a: SeedRuns
    b: SeedRuns
    seeds: list[int]
    differences: list[Difference]
    primary: str
    """The score of `differences` that the verdict is about."""
    rows: dict[str, RowsOfBoth]
    """By `eval` and `test`."""
    notes: list[str] = field(default_factory=list)


def compare_seeds(a: SeedRuns, b: SeedRuns) -> Paired:
    """Raises: UserError when there is no seed, or no score, that both have."""
    seeds = [seed for seed in a.outcomes if seed in b.outcomes]
    if not seeds:
        raise UserError(
            f"{a.folder} has seeds {_list(a.outcomes)} and {b.folder} {_list(b.outcomes)}: none in both, so that "
            "nothing can be paired"
        )
    notes = [
        f"only in {name}, left out: seed {_list(only)}"
        for name, one, other in (("A", a, b), ("B", b, a))
        if (only := [seed for seed in one.outcomes if seed not in other.outcomes])
    ]
    scores_a, scores_b = a.scores(), b.scores()
    names = [name for name in scores_a if name in scores_b]
    for name in [
        name for name in names if not np.isfinite([each[name][s] for each in (scores_a, scores_b) for s in seeds]).all()
    ]:
        notes.append(f"{name}, not compared: no number with every seed")
        names.remove(name)
    rows, differences = {}, []
    for prefix, told in SETS.items():
        of_set = [name for name in names if name.startswith(f"{prefix}_") and not name.endswith("_mm")]
        if of_set:
            try:
                rows_of_both = _rows_of_both(a, b, seeds, prefix)
            except _OtherRows as other:
                notes.append(f"{told}, not compared: {other}")
                names = [name for name in names if not name.startswith(f"{prefix}_")]
                continue
            if rows_of_both is not None:
                rows[prefix] = rows_of_both
            else:
                without = [
                    f"{runs.folder}/seed-{s}" for runs in (a, b) for s in seeds if not _predictions(runs, s, prefix)
                ]
                notes += (
                    [f"{told}: no predictions in {_list(without)}: chance is that of seeds alone"] if without else []
                )
    for name in names:
        values_a, values_b = ([scores[name][seed] for seed in seeds] for scores in (scores_a, scores_b))
        both = rows.get(name.partition("_")[0])
        differences.append(_difference(name, seeds, values_a, values_b, both))
    if not differences:
        raise UserError(f"{a.folder} and {b.folder}: no score that both have on the same rows ({'; '.join(notes)})")
    return Paired(a, b, seeds, differences, _primary(a, differences), rows, notes)


def _list(seeds: Any) -> str:
    return ", ".join(map(str, seeds))


def _primary(a: SeedRuns, differences: list[Difference]) -> str:
    """What the best checkpoint was chosen by, on the test set if there is one: no choice was made on that."""
    names = [each.name for each in differences]
    wanted = str(next(iter(a.outcomes.values())).config.get("metric_for_best_model") or "").removeprefix("eval_")
    for prefix in ("test", "eval"):
        of_set = [name for name in names if name.startswith(f"{prefix}_")]
        if of_set:
            chosen = [name for name in of_set if wanted != "loss" and name == f"{prefix}_{wanted}"]
            return [*chosen, *(name for name in of_set if "loss" not in name), *of_set][0]
    return names[0]


# --- statistics ------------------------------------------------------------------------------------------------------


def _difference(name: str, seeds: list[int], a: list[float], b: list[float], both: RowsOfBoth | None) -> Difference:
    each = np.subtract(b, a)
    left_out = None if both is None else without_rows(name.partition("_")[2], both, a, b)
    low, high, p = interval(each, left_out)
    rows = None if both is None or left_out is None else len(both.labels)
    by_seed = dict(zip(seeds, each.tolist(), strict=True))
    return Difference(name, by_seed, float(np.mean(a)), float(np.mean(b)), low, high, p, sign_flips(each), rows)


def interval(each: np.ndarray, left_out: np.ndarray | None = None) -> tuple[float, float, float]:
    """The 95 % interval of the mean of differences, and p of the difference 0.

    `each`: of the seeds. `left_out`: seeds x groups, the same without one group of rows; None: seeds alone.
    """
    seeds, mean = len(each), float(each.mean())
    if left_out is None and seeds > 1 and np.ptp(each) <= SAME * np.abs(each).max():
        # Seeds that agree to the last row do not say how far others would lie apart.
        return (mean, mean, 1.0) if mean == 0 else (-math.inf, math.inf, 1.0)
    parts = [] if seeds == 1 else [(float(each.var(ddof=1)) / seeds, seeds - 1)]
    shared = 0.0
    if left_out is not None:
        groups = left_out.shape[1]
        of_rows = float(_jackknife(left_out.mean(axis=0)))
        parts.append((of_rows, groups - 1))
        if seeds > 1:  # what a seed does to a row, seen in the rows of one seed and evened out over the seeds
            shared = max(float(np.mean(_jackknife(left_out))) - of_rows, 0.0) / (seeds - 1)
    if not parts:
        return -math.inf, math.inf, 1.0
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    degrees = total**2 / sum(variance**2 / freedom for variance, freedom in parts)
    error = math.sqrt(max(total - shared, *(variance for variance, _ in parts)))
    from scipy.stats import t

    half = t_quantile(degrees) * error
    return mean - half, mean + half, float(2 * t.sf(abs(mean) / error, degrees))


def _jackknife(left_out: np.ndarray) -> np.ndarray:
    """The variance over rows, of the values that are left without each group of them (the last axis)."""
    groups = left_out.shape[-1]
    return np.asarray((groups - 1) * left_out.var(axis=-1))


def sign_flips(each: np.ndarray) -> float | None:
    """p of the mean among all choices of signs, exactly; None for more seeds than it is made for."""
    if len(each) > MOST_FLIPPED:
        return None
    signs = 1 - 2 * ((np.arange(2 ** len(each))[:, None] >> np.arange(len(each))) & 1)
    sums = np.abs(signs @ each)
    rounding = 1e-12 * np.abs(each).sum()
    return float(np.mean(sums >= sums[0] - rounding))  # the first has no sign flipped


def least_p(seeds: int) -> float:
    return 2.0 / 2**seeds


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact p of one seed: were A and B the same, a row that one alone has right might as well be the other's."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def without_rows(name: str, both: RowsOfBoth, a: list[float], b: list[float]) -> np.ndarray | None:
    """The score's differences, seeds x groups, each without one group of rows; None where the predictions do not give
    the scores that the runs have noted, as where classes are weighed in the loss.
    """
    labels, num_labels, groups = both.labels, both.num_labels, min(len(both.labels), GROUPS)
    close = 1e-4 if name == "loss" else 1e-6  # the runs' own is a float32 mean of batches' means
    for noted, side in ((a, both.a), (b, both.b)):
        for seed, then in enumerate(noted):
            found = side.score(name, seed, labels, num_labels)
            if found is None or not math.isclose(found, then, rel_tol=close, abs_tol=close):
                return None
    if groups < 2:
        return None
    group = np.random.default_rng(0).permutation(len(labels)) % groups
    left_out = np.empty((len(a), groups))
    for place in range(groups):
        kept = group != place
        for seed in range(len(a)):
            one, other = (side.score(name, seed, labels, num_labels, kept) for side in (both.a, both.b))
            assert one is not None
            assert other is not None
            left_out[seed, place] = other - one
    return left_out


# --- rows ------------------------------------------------------------------------------------------------------------


class _OtherRows(Exception):
    """A and B were evaluated on other rows, so that no difference between them means anything."""


def _rows_of_both(a: SeedRuns, b: SeedRuns, seeds: list[int], prefix: str) -> RowsOfBoth | None:
    """None where not all runs have kept their predictions, or rows have several labels. Raises: _OtherRows."""
    paths = [_predictions(runs, seed, prefix) for runs in (a, b) for seed in seeds]
    facts = [runs.outcomes[seeds[0]].facts.get("data", {}) for runs in (a, b)]
    counts = [each.get("sets", {}).get(SETS[prefix], {}).get("rows") for each in facts]
    if counts[0] != counts[1]:
        raise _OtherRows(f"{counts[0]} rows in A, {counts[1]} in B")
    if None in paths or any(each.get("kind") not in ("classes", "regression") for each in facts):
        return None
    if facts[0].get("labels") != facts[1].get("labels"):
        raise _OtherRows("their classes are others")
    names: list[str] = facts[0]["labels"]
    first, answers = None, []
    for path in paths:
        table = read_predictions(path)
        read = table.drop_columns([name for name in ("prediction", "score", "logits") if name in table.column_names])
        first = read if first is None else first
        if not read.equals(first):
            raise _OtherRows("their texts or labels are others")
        try:
            answers.append(read_answers(table, facts[0]["kind"], names))
        except UserError as error:
            raise UserError(f"{path}: not the predictions of this run ({first_line(error)})") from error
    of_a, of_b = (
        OfSeeds(np.stack([each.said for each in part]), np.stack([row_losses(each) for each in part]))
        for part in (answers[: len(seeds)], answers[len(seeds) :])
    )
    return RowsOfBoth(answers[0].true, of_a, of_b, len(names) or 1)


def _predictions(runs: SeedRuns, seed: int, prefix: str) -> Any:
    kept = runs.outcomes[seed].predictions
    names = [name for name in kept if name.startswith(SETS[prefix])]
    return kept[min(names)] if names else None


# --- in words --------------------------------------------------------------------------------------------------------


def describe(paired: Paired) -> str:
    n = len(paired.seeds)
    lines = [
        f"A         {paired.a.folder}",
        f"B         {paired.b.folder}",
        f"Paired    {n} seed{'s' if n > 1 else ''} that both have: {_list(paired.seeds)}",
        *(f"Note      {note}" for note in paired.notes),
    ]
    rows = [["score", "A", "B", "B - A", "95 % from", "to", "p", "by flips", "of chance"]]
    for each in paired.differences:
        prefix, _, name = each.name.partition("_")
        numbers = [
            f"{each.mean_a:.4f}",
            f"{each.mean_b:.4f}",
            f"{each.mean:+.4f}",
            f"{each.low:+.4f}",
            f"{each.high:+.4f}",
        ]
        flips = "-" if each.p_flips is None else f"{each.p_flips:.3f}"
        drawn = "seeds" if each.rows is None else "seeds, rows"
        rows.append([f"{SETS[prefix]} {name}", *numbers, f"{each.p:.3f}", flips, drawn])
    lines += [*aligned(rows), _how(n)]
    for prefix, both in paired.rows.items():
        if both.num_labels > 1:
            lines.append(_row_by_row(SETS[prefix], both))
    return "\n".join([*lines, f"Verdict   {_verdict(paired)}"])


def _how(seeds: int) -> str:
    least = (
        f"with {seeds} seeds never below {least_p(seeds):.3g}"
        if seeds <= MOST_FLIPPED
        else "for so many seeds not made"
    )
    return (
        "p: of this difference or a larger one where there is none; by flips: the same, exactly, over seeds alone, "
        f"{least}; of chance: what is taken for drawn by chance"
    )


def _row_by_row(told: str, both: RowsOfBoth) -> str:
    only_a, only_b = both.only_right()
    values = [mcnemar(*pair) for pair in zip(only_a, only_b, strict=True)]
    return (
        f"Rows      of {len(both.labels)} of {told}, right only with A {np.mean(only_a):.1f}, only with B "
        f"{np.mean(only_b):.1f} (mean of the seeds); taken one by one, {sum(p < 0.05 for p in values)} of "
        f"{len(values)} seeds show a difference (McNemar's exact test, p {min(values):.2g} to {max(values):.2g})"
    )


def _verdict(paired: Paired) -> str:
    """The primary score in plain words."""
    each = next(each for each in paired.differences if each.name == paired.primary)
    prefix, _, name = each.name.partition("_")
    n, points = len(paired.seeds), name.removesuffix("_mm") in POINTS
    if each.noise == 0:
        same = "the same" if each.mean == 0 else "apart by the same"
        return f"{SETS[prefix]} {name} is {same} with every seed{'' if each.rows is None else ' and row'}"
    if not math.isfinite(each.noise):
        seen = "one seed" if n == 1 else f"{n} seeds that differ by the same"
        return f"none: with {seen}, and no predictions of the same rows, chance cannot be told; {_MORE}"
    told = f"{SETS[prefix]} {name}, B - A {_size(each.mean, points, sign=True)}"
    told += f", 95 % interval {_size(each.low, points, sign=True, unit='')} to {_size(each.high, points, sign=True)}: "
    falls = name.removesuffix("_mm").endswith(("loss", "mse"))
    if each.low > 0 or each.high < 0:
        told += f"{'A' if (each.mean > 0) == falls else 'B'} is better"
    else:
        told += "no difference is shown"
    among = f"{n} seed{'s' if n > 1 else ''}" + (f" and {each.rows} rows" if each.rows is not None else "")
    told += f". With {among} one below about {_size(each.noise, points)} is not seen"
    if each.rows is None:
        told += "; for these rows alone"
    if n == 1:
        told += f"; of one seed, so for these two models alone: {_MORE}"
    if prefix == "eval" and any(out.config.get("load_best_model_at_end") for out in paired.a.outcomes.values()):
        told += ". The best checkpoint was chosen on these rows: a test set would be the better judge"
    return told


_MORE = "train more seeds"


def _size(value: float, points: bool, sign: bool = False, unit: str = " points") -> str:
    number = f"{100 * value:{'+' if sign else ''}.1f}" if points else f"{value:{'+' if sign else ''}.4f}"
    return number + (unit if points else "")
