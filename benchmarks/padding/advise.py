"""What `benchmarks/padding/measure.py --advise` recommends, and why: from the rows' lengths and the model's shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ftloop.batching.efficiency import Batches, ModelShape, batches_of, computed_tokens
from ftloop.batching.order import batch_starts, longest_first
from ftloop.batching.token_budget import default_token_budget
from ftloop.config.train_config import TrainConfig

WORTH = 0.05
"""Share of the FLOPs that a change has to save to be recommended."""
LONG_TAIL = 3.0
"""From so many times the mean on, the longest row decides how much memory a fixed number of rows needs."""
CUT_AT = 99
"""Percentile of the lengths at which a long tail might be cut."""
CHUNK = 10_000


@dataclass(frozen=True)
class Advice:
    """Recommended changes, and what they save. `flags` is empty where nothing is worth changing."""

    lines: tuple[str, ...]
    flags: tuple[str, ...]
    tokens_saved: float
    """Share of the tokens computed in an epoch of training, 0 to 1; predicted."""
    flops_saved: float
    optional: tuple[str, ...] = ()
    """Truncates rows, so it is the user's to decide."""
    rows_cut: float = 0.0
    """Share of the rows that `optional` truncates."""
    flops_saved_with_optional: float = 0.0


def text_lengths(texts: list[list[str]], tokenizer: Any) -> np.ndarray:
    """Tokens of each row, not truncated; `texts`: one column, or two of pairs. No token is looked at."""
    rows = list(zip(*texts, strict=True))
    lengths = np.zeros(len(rows), np.int32)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    for start in tqdm(range(0, len(rows), CHUNK), desc="Reading lengths", leave=False, disable=None, delay=1.0):
        chunk = rows[start : start + CHUNK]
        if tokenizer.is_fast:
            encoded = tokenizer.backend_tokenizer.encode_batch_fast(chunk if len(texts) == 2 else [r[0] for r in chunk])
        else:
            encoded = tokenizer(*map(list, zip(*chunk, strict=True)), verbose=False)["input_ids"]
        lengths[start : start + len(chunk)] = [len(each) for each in encoded]
    return lengths


def advise(
    config: TrainConfig,
    lengths: np.ndarray,
    max_length: int,
    shape: ModelShape,
    eval_lengths: np.ndarray | None = None,
    num_processes: int = 1,
    can_be_left_out: bool = False,
) -> Advice:
    """Hold the configuration as it is against what suits these lengths: no padding at all where `can_be_left_out`, as
    a run's own advice has it; else other batches.

    `lengths`, `eval_lengths`: tokens of the training and evaluation rows before truncation. `max_length`: the longest
    input.
    """
    now = batches_of(config, lengths, max_length, num_processes)
    cut_now = int((lengths > max_length).sum())
    lines = [f"Lengths   {describe_lengths(lengths)}; {_rows(cut_now)} truncated at {max_length}"]
    lines.append(f"Now       {_describe(config, now)}")

    capped = np.minimum(lengths, max_length)
    has_tail = bool(capped.max() > LONG_TAIL * capped.mean())
    better = _unpadded(config) if can_be_left_out else _better(config, capped, has_tail)
    best = batches_of(better, lengths, max_length, num_processes)
    saved = _saved(now, best, shape)
    flags: list[str] = []
    optional: list[str] = []
    rows_cut = saved_cut = 0.0
    if saved < WORTH:
        lines.append(
            f"Training  there is little padding to remove: {' '.join(_flags(config, better))} would save "
            f"{max(saved, 0):.1%} of the FLOPs, which is not worth a change"
        )
        saved, best = 0.0, now
    else:
        flags += _flags(config, better)
        lines.append(f"Training  {_describe(better, best)}")
        lines.append(f"          saves {_tokens_saved(now, best):.1%} of the tokens, {saved:.1%} of the FLOPs")
        lines.append(f"          {_why(config, better, capped, has_tail)}")
        cut = -(-int(np.percentile(capped, CUT_AT)) // 8) * 8
        if has_tail and cut * 1.5 <= capped.max():
            shorter = replace(better, max_seq_length=cut)
            saved_cut = _saved(now, batches_of(shorter, lengths, cut, num_processes), shape)
            rows_cut = float((lengths > cut).mean())
            optional.append(f"--max_seq_length {cut}")
            lines.append(
                f"Long tail the longest row has {capped.max() / capped.mean():.1f} times the mean: "
                f"--max_seq_length {cut} would truncate {rows_cut:.2%} of the rows and save {saved_cut:.1%} of the "
                f"FLOPs in all, instead of {saved:.1%}"
            )
    if "none" in (config.padding, *(flag.removeprefix("--padding ") for flag in flags)):
        return _advised(lines, flags, optional, _tokens_saved(now, best), saved, rows_cut, saved_cut)
    stand_in = eval_lengths is None
    evaluated = np.minimum(lengths if eval_lengths is None else eval_lengths, max_length).astype(np.int32)
    sort_saves = _sorting_saves(config, evaluated, shape)
    if not config.sort_eval and sort_saves >= WORTH:
        flags.append("--sort_eval")
        guess = " (guessed from the training rows)" if stand_in else ""
        lines.append(f"Evaluate  --sort_eval saves {sort_saves:.1%} of its FLOPs{guess}; the results keep their order")
    return _advised(lines, flags, optional, _tokens_saved(now, best), saved, rows_cut, saved_cut)


def _advised(
    lines: list[str],
    flags: list[str],
    optional: list[str],
    tokens_saved: float,
    saved: float,
    rows_cut: float,
    saved_cut: float,
) -> Advice:
    lines.append(f"Flags     {' '.join(flags) or 'none: leave the settings as they are'}")
    if optional:
        lines.append(f"          and, where truncating {rows_cut:.2%} of the rows is acceptable, {' '.join(optional)}")
    return Advice(tuple(lines), tuple(flags), tokens_saved, saved, tuple(optional), rows_cut, saved_cut)


def _unpadded(config: TrainConfig) -> TrainConfig:
    return replace(config, padding="none", pad_to_max_length=False)


def _better(config: TrainConfig, capped: np.ndarray, has_tail: bool) -> TrainConfig:
    """Keep the rows per update; with a long tail, as many tokens per micro-batch as they have on average."""
    changes: dict[str, Any] = {"padding": "longest", "pad_to_max_length": False, "batching": "length_grouped"}
    changes["max_tokens_per_batch"] = None
    if has_tail:
        changes["batching"] = "token_budget"
        changes["max_tokens_per_batch"] = default_token_budget(config.per_device_train_batch_size, capped)
    return replace(config, **changes)


def _why(config: TrainConfig, better: TrainConfig, capped: np.ndarray, has_tail: bool) -> str:
    rows = config.per_device_train_batch_size
    if better.padding == "none":
        return "Gives up nothing: the same rows meet in the same order; evaluation computes no padding either"
    if has_tail:
        return (
            f"{rows} of the longest rows together would be {rows * int(capped.max())} tokens; a budget caps every "
            f"micro-batch at {better.max_tokens_per_batch}. Gives up: updates have unequal numbers of rows, all of "
            "like length"
        )
    return "Gives up: the rows of an update are of like length, no longer any rows (another choice in each epoch)"


def _flags(config: TrainConfig, better: TrainConfig) -> list[str]:
    if better.padding == "none":
        return ["--padding none"]
    flags = [f"--batching {better.batching}"]
    if config.padding != better.padding:
        flags.append(f"--padding {better.padding}")
    if better.max_tokens_per_batch is not None:
        return [*flags, f"--max_tokens_per_batch {better.max_tokens_per_batch}"]
    return [*flags, f"--per_device_train_batch_size {better.per_device_train_batch_size}"]


def _sorting_saves(config: TrainConfig, lengths: np.ndarray, shape: ModelShape) -> float:
    starts = batch_starts(len(lengths), config.per_device_eval_batch_size)
    orders = np.arange(len(lengths)), longest_first(lengths)
    unsorted, by_length = (Batches(rows, starts, lengths, None) for rows in orders)
    return _saved(unsorted, by_length, shape)


def _saved(now: Batches, then: Batches, shape: ModelShape) -> float:
    return 1 - float(then.training_flops(shape).sum() / now.training_flops(shape).sum())


def _tokens_saved(now: Batches, then: Batches) -> float:
    return 1 - then.computed_tokens / now.computed_tokens


def _describe(config: TrainConfig, batches: Batches) -> str:
    sizes = batches.sizes
    rows = f"up to {sizes.max()} rows" if config.batching != "token_budget" else f"{sizes.min()} to {sizes.max()} rows"
    longest = int(computed_tokens(batches.rows, batches.starts, batches.lengths, batches.edges).max())
    padded = "without padding" if config.padding == "none" else f"padded to {config.padding}"
    return (
        f"{config.batching}, {padded}: {len(batches)} batches of {rows}, at most {longest} tokens; "
        f"{batches.padding_share:.1%} of the tokens are padding"
    )


def describe_lengths(lengths: np.ndarray) -> str:
    p50, p95, p99 = np.percentile(lengths, [50, 95, 99])
    spread = f"mean {lengths.mean():.1f}, median {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f}, max {lengths.max()}"
    return f"{len(lengths)} rows, tokens: {spread}"


def _rows(count: int) -> str:
    return f"{count or 'no'} {'row is' if count == 1 else 'rows are'}"
