"""The figures of padding/measure.py: as JSON, on the console and as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from benchmarks.padding.strategies import Strategy, largest_batch
from ftloop.batching.efficiency import ModelShape

HOW = {
    "padding": "exact, over the first epoch, from the lengths of its rows",
    "step": "forward, backward, clipping and AdamW of one micro-batch as an update, dropout on; batches were collated "
    "before. The strategies take turns step by step in one process, after a step of each that is not counted. Median, "
    "minimum and maximum are over the sampled steps, whose batches differ in size",
    "epoch": "estimated: the steps of the epoch are sorted by their FLOPs and cut into equal parts; one step of each "
    "part is timed and stands for the FLOPs of its part. That is done in passes, each with other steps: median, "
    "minimum and maximum over the passes. To dynamic: its ratio to dynamic padding's in the same pass",
    "memory": "of a process of its own that makes two updates with the batch of the most tokens: its largest resident "
    "set, imports and model included (CUDA: largest allocation)",
    "wait": "each sampled batch once more without the exchange of gradients: from the end of a process's own forward "
    "and backward until all have come to a barrier; the mean over processes",
}


def figures(strategy: Strategy, dynamic: Strategy, shape: ModelShape, processes: int) -> dict[str, Any]:
    """Return the figures of a strategy that are written down."""
    batches, sample = strategy.batches, strategy.sample
    epoch = sample.epoch(strategy.seconds)
    rows, tokens = largest_batch(batches)
    told: dict[str, Any] = {
        "flags": strategy.flags,
        "padding_share": batches.padding_share,
        "computed_tokens": batches.computed_tokens,
        "real_tokens": batches.real_tokens,
        "rows_truncated": strategy.rows_truncated,
        "batches": len(batches),
        "largest_batch": [rows, tokens],
        "flops_to_dynamic": float(batches.training_flops(shape).sum() / dynamic.batches.training_flops(shape).sum()),
        "steps_timed": int(strategy.seconds.size),
        "seconds_of_each": strategy.seconds.tolist(),
        "step_seconds": spread(strategy.seconds),
        "epoch_seconds": spread(epoch),
        "epoch_to_dynamic": spread(epoch / dynamic.sample.epoch(dynamic.seconds)),
        "real_tokens_per_second": batches.real_tokens / statistics.median(epoch),
        "peak_bytes": strategy.peak_bytes,
        "bytes_before_the_first_step": strategy.bytes_before,
    }
    if processes > 1:
        told["wait_seconds"] = spread(strategy.waited)
        told["wait_share"] = float(sample.epoch(strategy.waited).sum() / epoch.sum())
    return told


def spread(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}


def table(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The rows of the printed table, its head first. A column that is not measured is left out."""
    several = "wait_share" in found["dynamic"]
    head = ["strategy", "padding", "rows cut", "batches", "step, ms", "epoch, s", "to dynamic", "real tokens/s"]
    lines = [[*head, "peak, MiB", *(["wait per step, ms", "share"] if several else [])]]
    for name, row in found.items():
        peak = row["peak_bytes"]
        line = [
            name,
            f"{row['padding_share']:.1%}",
            str(row["rows_truncated"]),
            str(row["batches"]),
            _spread(row["step_seconds"], 1e3, 0),
            _spread(row["epoch_seconds"], 1, 1),
            _spread(row["epoch_to_dynamic"], 1, 2),
            f"{row['real_tokens_per_second']:.0f}",
            "not measured" if peak is None else f"{peak / 2**20:.0f}",
        ]
        lines.append([*line, *([_spread(row["wait_seconds"], 1e3, 0), f"{row['wait_share']:.0%}"] if several else [])])
    return lines


def _spread(row: dict[str, float], unit: float, digits: int) -> str:
    median, least, most = (f"{row[key] * unit:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def on_console(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_markdown(result: dict[str, Any], lines: list[list[str]], stem: str, pictures: list[str]) -> str:
    """The section for results/README.md."""
    conditions = result["conditions"]
    versions = ", ".join(f"{name} {conditions[name]}" for name in ("python", "torch", "transformers", "accelerate"))
    told = [
        f"{result['data']['described']}. {conditions['model']}, {conditions['precision']}, batches of "
        f"{conditions['rows_per_batch']} rows, {conditions['where']}; {versions}. `{conditions['command']}`, "
        f"{conditions['steps']} steps timed of each. "
        f"[{stem}.json]({stem}.json)",
        "",
        "| " + " | ".join(lines[0]) + " |",
        "|" + "---|" * len(lines[0]),
        *("| " + " | ".join(line) + " |" for line in lines[1:]),
        "",
        *(f"* {name}: {text}." for name, text in result["how"].items()),
    ]
    told += ["", *(f"![{name}]({name})" for name in pictures)]
    return "\n".join(told) + "\n"
