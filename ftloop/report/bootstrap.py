"""95 % confidence intervals: percentiles of bootstrap resamples of the rows, drawn by a fixed seed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

RESAMPLES, MIN_RESAMPLES = 2000, 200
MAX_DRAWS = 20_000_000  # rows drawn, over all resamples: some seconds
QUICK_DRAWS = 2_000_000  # the same for the model card, made at the end of every run: some tenths of a second
BATCH = 200_000  # numbers computed at once, so that they stay in the processor's cache
SEED = 0

Scores = dict[str, np.ndarray]
"""Named scores, each an array with one number for each resample."""


def row_intervals(
    scores: Callable[..., Scores], samples: tuple[np.ndarray, ...], quick: bool = False
) -> dict[str, dict[str, Any]]:
    """Score the rows, and give each score its interval: none where too many rows would have to be drawn.

    Rows are the last axis of the `samples`. `scores` works along that axis, of the samples or of resamples of them.
    """
    rows, numbers = samples[0].shape[-1], max(sample.size for sample in samples)
    resamples = (QUICK_DRAWS if quick else MAX_DRAWS) // max(rows, numbers // 20, 1)  # to draw costs 20 times adding

    def stacked(drawn_rows: np.ndarray, axis: int) -> np.ndarray:
        return np.stack(list(scores(*(sample[..., drawn_rows] for sample in samples)).values()))

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a resample whose rows are all alike a correlation is not defined
        values = scores(*samples)
        drawn = np.empty((len(values), 0))
        if rows > 1 and resamples >= MIN_RESAMPLES:
            options = {"n_resamples": min(resamples, RESAMPLES), "batch": max(BATCH // numbers, 1), "rng": SEED}
            sample = (np.arange(rows),)
            drawn = bootstrap(sample, stacked, vectorized=True, method="percentile", **options).bootstrap_distribution
    return {name: _interval(name, value, each, rows) for (name, value), each in zip(values.items(), drawn, strict=True)}


def count_intervals(scores: Callable[[np.ndarray], Scores], counts: np.ndarray) -> dict[str, Any]:
    """Do as `row_intervals`, for scores that need only the `counts` of the kinds of rows there are.

    The counts in a resample are multinomial: with few kinds, a million rows cost no more than a hundred. `scores` takes
    resamples x kinds.
    """
    generator, rows, batch = np.random.default_rng(SEED), int(counts.sum()), max(BATCH // len(counts), 1)
    parts = []
    for start in range(0, RESAMPLES, batch):
        weights = generator.multinomial(rows, counts / rows, size=min(batch, RESAMPLES - start))
        parts.append(scores(weights.astype(np.float64)))
    values = scores(counts[None].astype(np.float64))
    return {
        name: _interval(name, value[0], np.concatenate([part[name] for part in parts]), rows)
        for name, value in values.items()
    }


def _interval(name: str, value: Any, drawn: np.ndarray, rows: int) -> dict[str, Any]:
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) else (None, None)
    if low is not None and low == high:  # resamples of rows that are all alike say nothing about other rows
        low, high = wilson(round(value * rows), rows) if name == "accuracy" else (None, None)
    value = float(value) if math.isfinite(value) else None
    return {"value": value, "low": low, "high": high, "resamples": len(drawn)}


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    interval = binomtest(right, rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
