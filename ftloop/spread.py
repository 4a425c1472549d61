"""What the runs of one job with several seeds say together: each one's scores, their mean and how they spread."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftloop.durable import read_manifest
from ftloop.errors import UserError
from ftloop.outcome import Outcome, read_outcome
from ftloop.pace import TIMINGS
from ftloop.words import for_json

FEWEST = 3  # runs that an interval is made of
SETS = {"eval": "validation", "test": "test"}


@dataclass(frozen=True)
class SeedRuns:
    """The finished runs of one job, by seed in rising order."""

    folder: Path
    outcomes: dict[int, Outcome]
    left_out: dict[str, str]
    """Folders of other runs, and why they are not counted."""

    def scores(self) -> dict[str, dict[int, float]]:
        """By name (`eval_loss`, `test_accuracy`, ...), of each seed; only what all of them have."""
        each = {seed: _scores(outcome.results) for seed, outcome in self.outcomes.items()}
        first = next(iter(each.values()))
        names = [name for name in first if all(name in scores for scores in each.values())]
        return {name: {seed: scores[name] for seed, scores in each.items()} for name in names}


def _scores(results: dict[str, Any]) -> dict[str, float]:
    """Loss and metrics of validation and test, without the timings; the loss first."""
    names = [
        name
        for prefix in SETS
        for name in sorted(results, key=lambda name: not name.startswith(f"{prefix}_loss"))
        if name.startswith(f"{prefix}_") and not name.removesuffix("_mm").endswith(TIMINGS)
    ]
    return {name: float(results[name]) for name in names if isinstance(results[name], (int, float))}


def read_seeds(folder: str | Path) -> SeedRuns:
    """What is there of the form `seed-N`. Unfinished runs, and those of other settings or data than most, are left out.

    Raises: UserError where none is left.
    """
    root = Path(folder)
    found = {
        int(path.name[5:]): path for path in root.glob("seed-*") if re.fullmatch(r"seed-(0|[1-9][0-9]*)", path.name)
    }
    if not found:
        raise UserError(f"{root}: no folder seed-N in it; name the output_dir of a command with --seeds")
    outcomes: dict[int, Outcome] = {}
    left_out = {}
    kinds: dict[int, dict[str, Any]] = {}
    for seed, path in sorted(found.items()):
        try:
            outcome, manifest = read_outcome(path), read_manifest(path) or {}
            if not manifest.get("complete", True) or not _scores(outcome.results):
                raise UserError(f"{path}: not finished")
            if outcome.config.get("seed", seed) != seed:
                raise UserError(f"{path}: trained with seed {outcome.config['seed']}")
        except UserError as error:
            left_out[path.name] = error.problems[0].removeprefix(f"{path}: ")
            continue
        outcomes[seed], kinds[seed] = outcome, _kind(outcome, manifest)
    if outcomes:
        texts = {seed: json.dumps(kind, sort_keys=True) for seed, kind in kinds.items()}
        most = Counter(texts.values()).most_common(1)[0][0]
        usual = next(kinds[seed] for seed, text in texts.items() if text == most)
        for seed in [seed for seed, text in texts.items() if text != most]:
            left_out[found[seed].name] = f"other {_differing(kinds[seed], usual)} than the rest"
            del outcomes[seed]
    if not outcomes:
        raise UserError(f"{root}: no finished run in it ({_told(left_out)})")
    return SeedRuns(root, outcomes, left_out)


def _kind(outcome: Outcome, manifest: dict[str, Any]) -> dict[str, Any]:
    """What has to be equal in runs that differ in their seed alone."""
    from ftloop.changes import FREE

    settings = {name: value for name, value in outcome.config.items() if name not in FREE | {"seed"}}
    return settings | {"the data": manifest.get("data")}


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))


def _told(left_out: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in sorted(left_out.items()))


@dataclass(frozen=True)
class Spread:
    """Of one score over the seeds. A single run has no deviation, two have no interval: it would be wider than all
    values that a score can have."""

    n: int
    mean: float
    std: float | None
    """Of single runs: divided by n - 1."""
    low: float | None
    high: float | None
    """The 95 % interval of the mean, by Student's t."""
    min: float
    max: float


def spread(values: Iterable[float]) -> Spread:
    import numpy as np

    each = np.asarray(list(values), np.float64)
    mean, n = float(each.mean()), len(each)
    if n == 1:
        return Spread(1, mean, None, None, None, mean, mean)
    std = float(each.std(ddof=1))
    if n < FEWEST:
        return Spread(n, mean, std, None, None, float(each.min()), float(each.max()))
    half = t_quantile(n - 1) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half, float(each.min()), float(each.max()))


def t_quantile(degrees: float) -> float:
    """Within so many standard errors lies the truth in 95 of 100 cases."""
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


def summary(runs: SeedRuns) -> dict[str, Any]:
    """What seeds.json holds: of each run and of all together, nothing that another start would find different."""
    scores = runs.scores()
    seeds = list(runs.outcomes)
    together = {name: asdict(spread(values.values())) for name, values in scores.items()}
    found = {
        "format": 1,
        "seeds": seeds,
        "left_out": runs.left_out,
        "runs": {str(seed): {name: values[seed] for name, values in scores.items()} for seed in seeds},
        "together": together,
    }
    told: dict[str, Any] = for_json(found)
    return told


def table(runs: SeedRuns) -> str:
    scores = runs.scores()
    spreads = {name: spread(values.values()) for name, values in scores.items()}
    rows = [["", *(SETS[name.partition("_")[0]] for name in scores)], ["seed", *(n.partition("_")[2] for n in scores)]]
    rows += [[str(seed), *(_shown(values[seed]) for values in scores.values())] for seed in runs.outcomes]
    lines = {
        "mean": "mean",
        "deviation": "std",
        "95 % from": "low",
        "95 % to": "high",
        "lowest": "min",
        "highest": "max",
    }
    rows += [[told, *(_shown(getattr(each, name)) for each in spreads.values())] for told, name in lines.items()]
    n = len(runs.outcomes)
    said = [f"Seeds     {n} run{'s' if n > 1 else ''} in {runs.folder}", *aligned(rows)]
    said += ["one run has no deviation: train more seeds"] if n == 1 else [NOTE]
    said += ["two runs have no interval: train more seeds"] if n == 2 else []
    if runs.left_out:
        said.append(f"Left out  {_told(runs.left_out)}")
    return "\n".join(said)


NOTE = "deviation: of single runs (n - 1); 95 %: where their mean lies, by Student's t, for these rows"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def aligned(rows: list[list[str]]) -> list[str]:
    """A table's lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
