"""The runs of one job with several seeds, or on several folds, together: each one's scores, their mean and how they
spread."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import SETTINGS
from ftloop.errors import UserError
from ftloop.report.outcome import (
    SERIES,
    FinishedRun,
    against_collapse,
    describe_collapsed,
    numbered_runs,
    read_finished_run,
    read_predictions,
)
from ftloop.system.manifest import read_manifest
from ftloop.system.scalars import is_timing
from ftloop.system.table import aligned
from ftloop.system.text import nan_to_none, pluralize

MIN_RUNS = 3  # that an interval is made of
SETS = {"eval": "validation", "test": "test"}
NOTES = {
    "seed": "deviation: of single runs (n - 1); 95 %: where their mean lies, by Student's t, for these rows",
    "fold": "deviation: of single folds (n - 1); no interval: they share most of what they train on",
}


@dataclass(frozen=True)
class SeedRuns:
    """The finished runs of one job, by seed, or by fold, in rising order."""

    folder: Path
    runs: dict[int, FinishedRun]
    dropped: dict[str, str]
    """Folders of other runs, and why they are not counted."""
    kind: str = "seed"
    """Or `fold`: what makes them differ."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the first run; the others differ in what their seed or fold makes different."""
        return next(iter(self.runs.values())).config

    def scores(self) -> dict[str, dict[int, float]]:
        """Return `eval_loss`, `test_accuracy`, ... of each run; only those that all of them have."""
        by_seed = {seed: _scores(run.results) for seed, run in self.runs.items()}
        names = [name for name in next(iter(by_seed.values())) if all(name in each for each in by_seed.values())]
        return {name: {seed: scores[name] for seed, scores in by_seed.items()} for name in names}

    def summarize(self, values: Iterable[float]) -> SeedSummary:
        """Summarize a score; of folds without an interval, which takes runs for independent."""
        found = summarize(values)
        return found if self.kind == "seed" else replace(found, low=None, high=None)

    @cached_property
    def collapsed(self) -> dict[int, str]:
        """Return the seeds whose model gives one answer to all rows of a set with several labels, and that answer: such
        a training has failed, and a mean over it and others describes neither. (Mosbach et al., 2021.)"""
        answers = {seed: _only_answer(run) for seed, run in self.runs.items()}
        return {seed: answer for seed, answer in answers.items() if answer is not None}


def _only_answer(run: FinishedRun) -> str | None:
    if run.facts.get("data", {}).get("problem_type") != ProblemType.SINGLE_LABEL:
        return None
    name = next(
        (name for prefix in ("test", "validation") for name in run.predictions if name.startswith(prefix)), None
    )
    if name is None:
        return None
    try:
        rows = read_predictions(run.predictions[name], ["label", "prediction"])
    except UserError:  # damaged: the scores are there without
        return None
    answers = rows["prediction"].unique().to_pylist()
    return str(answers[0]) if len(answers) == 1 and len(rows["label"].unique()) > 1 else None


def _scores(results: dict[str, Any]) -> dict[str, float]:
    """Return loss and metrics of validation and test, without the timings; the loss first."""
    names = [
        name
        for prefix in SETS
        for name in sorted(results, key=lambda name: not name.startswith(f"{prefix}_loss"))
        if name.startswith(f"{prefix}_") and not is_timing(name)
    ]
    return {name: float(results[name]) for name in names if isinstance(results[name], (int, float))}


def read_seeds(folder: str | Path, kind: str | None = None, asked_for: Collection[int] = ()) -> SeedRuns:
    """Read the folders `seed-N`, or `fold-N`, or else runs of one seed each in folders of other names. Unfinished ones,
    and those of other settings or data than most, are dropped. `kind`: `seed` or `fold`, whichever there is by default.
    `asked_for`: the numbers whose settings count, in place of most.

    Raises: UserError where none is left.
    """
    root = Path(folder)
    paths, kind = _numbered(root, kind)
    runs: dict[int, FinishedRun] = {}
    kinds: dict[int, dict[str, Any]] = {}
    dropped = {}
    for number, path in sorted(paths.items()):
        try:
            run, manifest = read_finished_run(path), read_manifest(path) or {}
            if not manifest.get("complete", True) or not _scores(run.results):
                raise UserError("not finished")
            if run.config.get(kind, number) != number:
                raise UserError(f"trained with {kind} {run.config[kind]}")
            runs[number], kinds[number] = run, _kind(run, manifest, kind)
        except UserError as error:
            dropped[path.name] = error.problems[0].removeprefix(f"{path}: ")
    texts = {number: json.dumps(each, sort_keys=True) for number, each in kinds.items()}
    counted = Counter([texts[number] for number in texts if number in asked_for] or texts.values())
    most = counted.most_common(1)
    for number in [number for number, text in texts.items() if text != most[0][0]]:
        del runs[number]
        dropped[paths[number].name] = f"differs from the others in {_differing(kinds[number], json.loads(most[0][0]))}"
    if not runs:
        raise UserError(f"{root}: no finished run in it ({_reasons(dropped)})")
    return SeedRuns(root, runs, dropped, kind)


def _numbered(root: Path, kind: str | None) -> tuple[dict[int, Path], str]:
    """Return the folders by number, and what that is of. Raises: UserError where there are none, or both kinds."""
    found = {each: paths for each in SERIES if kind in (None, each) and (paths := numbered_runs(root, each))}
    if len(found) > 1:
        raise UserError(f"{root}: seed-N and fold-N are both in it; move either into a folder of its own")
    if found:
        return next((paths, each) for each, paths in found.items())
    paths = _by_their_settings(root)
    if not paths:
        way = "name the output_dir of a command with --seeds or --folds, or a folder of runs with one seed each"
        raise UserError(f"{root}: no folder seed-N or fold-N in it; {way}")
    return paths, "seed"


def _by_their_settings(root: Path) -> dict[int, Path]:
    """Return the runs that commands with one seed each have left in folders of any name.

    Raises: UserError for two of one seed.
    """
    paths: dict[int, Path] = {}
    for path in sorted(root.glob("*/")):
        manifest = None
        with suppress(UserError):
            manifest = read_manifest(path)
        if manifest is None or "complete" not in manifest:  # a checkpoint's
            continue
        seed = manifest["config"].get("seed", 42)
        if seed in paths:
            both = f"{paths[seed].name} and {path.name} are both of seed {seed}"
            raise UserError(f"{root}: {both}; a table is made of runs that differ in their seed alone")
        paths[seed] = path
    return paths


def _kind(outcome: FinishedRun, manifest: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return what has to be equal in runs that differ in their seed alone, or that are folds of the same rows."""
    free = {name for name, setting in SETTINGS.items() if setting.is_free}
    settings = {name: value for name, value in outcome.config.items() if name not in free | {kind}}
    return settings | {"the data": manifest.get("data") if kind == "seed" else _whole(outcome)}


def _whole(fold: FinishedRun) -> dict[str, Any]:
    """Return what is known of all the rows of which a fold was cut: how many there are, and how many of each label."""
    sets = fold.facts.get("data", {}).get("sets", {})
    train, held_out = (sets.get(name, {}) for name in ("train", "validation"))
    counts = Counter({"": train.get("rows", 0) + held_out.get("rows", 0)})
    for each in (train, held_out):
        labels = each.get("labels") or {}
        counts.update({f"label {name}": count for name, count in labels.items() if isinstance(count, int)})
    return dict(counts)


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))


def _reasons(dropped: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in sorted(dropped.items()))


@dataclass(frozen=True)
class SeedSummary:
    """One score over the seeds. A single run has no deviation, two have no interval: it would be wider than all values
    that a score can have."""

    n: int
    mean: float
    std: float | None
    """Standard deviation of single runs: divided by n - 1."""
    low: float | None
    high: float | None
    """The 95 % interval of the mean, by Student's t."""
    min: float
    median: float
    max: float


def summarize(values: Iterable[float]) -> SeedSummary:
    scores = np.asarray(list(values), np.float64)
    mean, n = float(scores.mean()), len(scores)
    std = float(scores.std(ddof=1)) if n > 1 else None
    low = high = None
    if std is not None and n >= MIN_RUNS:
        half = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)
        low, high = mean - half, mean + half
    return SeedSummary(n, mean, std, low, high, float(scores.min()), float(np.median(scores)), float(scores.max()))


def summary(runs: SeedRuns) -> dict[str, Any]:
    """Return what seeds.json or folds.json holds, of each run and of all together: the same for the same runs."""
    scores, numbers = runs.scores(), list(runs.runs)
    collapsed = runs.collapsed
    found = {
        "format": 1,
        f"{runs.kind}s": numbers,
        "folders": {str(number): run.folder.name for number, run in runs.runs.items()},
        "dropped": runs.dropped,
        "runs": {str(number): {name: values[number] for name, values in scores.items()} for number in numbers},
        "together": {name: asdict(runs.summarize(values.values())) for name, values in scores.items()},
        "collapsed": {str(number): answer for number, answer in collapsed.items()},
    }
    if 0 < len(collapsed) < len(numbers):
        found["without_collapsed"] = {
            name: asdict(runs.summarize(value for number, value in values.items() if number not in collapsed))
            for name, values in scores.items()
        }
    plain: dict[str, Any] = nan_to_none(found)
    return plain


def table(runs: SeedRuns) -> str:
    scores, n, kind = runs.scores(), len(runs.runs), runs.kind
    summaries = [runs.summarize(values.values()) for values in scores.values()]
    names = {
        "mean": "mean",
        "std": "deviation",
        "low": "95 % from",
        "high": "95 % to",
        "min": "lowest",
        "median": "median",
        "max": "highest",
    }
    if kind == "fold":
        del names["low"], names["high"]
    rows = [
        ["", *(SETS[name.partition("_")[0]] for name in scores)],
        [kind, *(name.partition("_")[2] for name in scores)],
        *([str(number), *(_number(values[number]) for values in scores.values())] for number in runs.runs),
        *([name, *(_number(getattr(each, field)) for each in summaries)] for field, name in names.items()),
    ]
    lines = [f"{f'{kind.capitalize()}s':<9} {pluralize(n, 'run')} in {runs.folder}", *aligned(rows)]
    lines += [f"one run has no deviation: train more {kind}s"] if n == 1 else [NOTES[kind]]
    lines += ["two runs have no interval: train more seeds"] if n == 2 and kind == "seed" else []
    lines += _told_of_collapsed(runs, scores)
    lines += [f"Dropped   {_reasons(runs.dropped)}"] if runs.dropped else []
    return "\n".join(lines)


def _told_of_collapsed(runs: SeedRuns, scores: dict[str, dict[int, float]]) -> list[str]:
    collapsed = runs.collapsed
    if not collapsed:
        return []
    rest = {
        name: [value for number, value in values.items() if number not in collapsed] for name, values in scores.items()
    }
    means = ", ".join(f"{name}={np.mean(values):.4f}" for name, values in rest.items() if values)
    told = f"Collapsed {describe_collapsed(runs.kind, collapsed, len(runs.runs))}"
    way = against_collapse(runs.config)
    return [f"{told}; the mean without: {means}" if means else told, *([f"          {way}"] if way else [])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
