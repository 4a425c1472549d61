"""The ways to pad and to batch that are held against each other, and which of their steps are timed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ftloop.batching.efficiency import Batches, ModelShape, batches_of, computed_tokens
from ftloop.config.train_config import TrainConfig
from ftloop.errors import UserError

UNPADDED = "padding not computed"
"""The batches of dynamic padding, of which only the tokens are computed."""


@dataclass
class Strategy:
    """One way to pad and to batch; and what was measured of it."""

    name: str
    flags: str
    config: TrainConfig
    max_length: int
    batches: Batches
    rows_truncated: int
    sample: Sample
    seconds: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """Seconds of each sampled step: passes x parts."""
    waited: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    peak_bytes: int | None = None
    bytes_before: int | None = None


@dataclass(frozen=True)
class Sample:
    """Steps of an epoch that are timed, and how many times its own time each of them stands for; passes x parts."""

    steps: np.ndarray
    weights: np.ndarray

    def epoch(self, seconds: np.ndarray) -> np.ndarray:
        """Estimate the whole epoch from each pass."""
        total: np.ndarray = (seconds * self.weights).sum(axis=1)
        return total


def sample_steps(cost: np.ndarray, parts: int, passes: int, left_over: float = 0.0) -> Sample:
    """The steps of an epoch, sorted by cost, cut into `parts` equal parts, and of each `passes` steps, evenly spread.

    A step stands for the cost of its part, and for its share of `left_over`, the cost of steps that cannot be timed.
    """
    groups = np.array_split(np.argsort(cost, kind="stable"), min(parts, len(cost)))
    places = [[group[int((k + 0.5) / passes * len(group))] for group in groups] for k in range(passes)]
    steps = np.array(places)
    weights = np.array([cost[group].sum() for group in groups]) / cost[steps] * (1 + left_over / cost.sum())
    return Sample(steps, weights)


def step_costs(batches: Batches, shape: ModelShape, processes: int) -> tuple[np.ndarray, float]:
    """FLOPs of each step of all processes, which is that of its largest batch; and of a last step that not every
    process has a batch for."""
    flops = batches.training_flops(shape)
    full = len(flops) // processes
    if not full:
        raise UserError(f"{len(flops)} batches are too few for {processes} processes; use more rows")
    rest = flops[full * processes :]
    return flops[: full * processes].reshape(full, processes).max(axis=1), float(rest.max(initial=0.0))


def strategies(
    base: TrainConfig,
    lengths: np.ndarray,
    limit: int,
    shape: ModelShape,
    processes: int = 1,
    parts: int = 8,
    passes: int = 3,
) -> list[Strategy]:
    """Make the strategies that are compared. `lengths` are cut at `limit`, the longest input of model and tokenizer."""
    plain: dict[str, Any] = {"batching": "random", "padding": "longest", "pad_to_max_length": False}
    plain |= {"max_tokens_per_batch": None, "max_seq_length": base.max_seq_length}
    longest = int(lengths.max())
    fixed = {min(512, limit): "", longest: ", the longest row", 128: ""}
    chosen: dict[str, dict[str, Any]] = {
        f"global {length}{what}": {"padding": "max_length", "max_seq_length": length}
        for length, what in fixed.items()
        if length <= limit
    }
    chosen |= {
        "dynamic": {},
        UNPADDED: {"padding": "none"},
        "dynamic, multiple of 8": {"padding": "multiple:8"},
        "dynamic, 4 buckets": {"padding": "buckets:4"},
        "length_grouped": {"batching": "length_grouped"},
        "token_budget": {"batching": "token_budget", "max_tokens_per_batch": base.max_tokens_per_batch},
    }
    made = []
    for name, changes in chosen.items():
        config = replace(base, **plain | changes)
        flags = " ".join(f"--{setting} {value}" for setting, value in changes.items() if value is not None)
        max_length = config.max_seq_length or limit
        batches = batches_of(config, lengths, max_length, processes)
        cost, left_over = step_costs(batches, shape, processes)
        sample = sample_steps(cost, parts, passes, left_over)
        truncated = int((lengths > max_length).sum())
        made.append(Strategy(name, flags, config, max_length, batches, truncated, sample))
    return made


def largest_batch(batches: Batches) -> tuple[int, int]:
    """Rows and tokens of each row; of the most tokens, then of the longest rows. Where no padding is computed, the mean
    tokens of a row.
    """
    sizes, padded = batches.sizes, batches.padded_to.astype(np.int64)
    computed = computed_tokens(batches.rows, batches.starts, batches.lengths, batches.edges)
    place = np.lexsort((padded, computed))[-1]
    return int(sizes[place]), -(-int(computed[place]) // int(sizes[place]))
