"""The tables of check.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu_check.steps import Step


def as_markdown(result: dict[str, Any], todo: Sequence[Step]) -> str:
    told, found = result["conditions"], result["steps"]
    quick = ", `--quick`: no figure means anything" if told["quick"] else ""
    versions = ", ".join(f"{name} {told[name]}" for name in ("torch", "transformers", "accelerate"))
    lines = [f"# {told['device']}{quick}", "", f"Python {told['python']}, {versions}; {told['cpu']}", ""]
    if told["quick"]:
        lines += ["Tiny models, updates of 2 rows; on a CPU nothing is compiled, and fp16 is bf16.", ""]
    lines += _speed(found)
    lines += ["", "| step | | seconds | what it said last |", "|---|---|---|---|"]
    for step in todo:
        each = found.get(step.name)
        if each is None:
            lines.append(f"| {step.name} | not done | | |")
        else:
            is_in_a_table = each["ok"] and step.name.startswith(("memory", *kinds(found)))
            said = "" if is_in_a_table else each["said"].replace("|", "/")
            lines.append(f"| {step.name} | {'ok' if each['ok'] else each['failed']} | {each['seconds']} | {said} |")
    return "\n".join(lines) + "\n"


def kinds(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The runs that were timed, by their kind: its repeats."""
    timed: dict[str, list[dict[str, Any]]] = {}
    for name, told in found.items():
        if told["ok"] and "ms_per_step" in told.get("found", {}):
            timed.setdefault(name.removesuffix("-2"), []).append(told["found"])
    return timed


def _speed(found: dict[str, Any]) -> list[str]:
    """One line for each kind of run; a ratio to Trainer's in the same precision."""
    timed = kinds(found)
    lines = ["| updates of 16 rows | ms, median (min to max) | n | to Trainer | waits an update | peak, MB |"]
    lines.append("|---|---|---|---|---|---|")
    for kind, runs in timed.items():
        times = [run["ms_per_step"] for run in runs]
        precision = kind.partition("-")[2] if kind.startswith(("trainer", "ftloop")) else "bf16"
        theirs = [run["ms_per_step"] for run in timed.get(f"trainer-{precision}", [])]
        ratio = f"{statistics.median(times) / statistics.median(theirs):.3f}" if theirs else "-"
        waits = {f"{run['syncs_per_micro_batch']:.2g}" for run in runs if "syncs_per_micro_batch" in run}
        label = kind if kind.startswith(("trainer", "ftloop")) else f"ftloop-bf16, {kind}"
        spread = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) | {len(times)}"
        peak = max(run["peak_mb"] for run in runs)
        lines.append(f"| {label} | {spread} | {ratio} | {', '.join(sorted(waits)) or 'not counted'} | {peak:.0f} |")
    peaks = {name: told["found"] for name, told in found.items() if told["ok"] and name.startswith("memory-")}
    rows = []
    for precision in ("fp32", "bf16"):
        theirs_mb, ours_mb = (
            peaks.get(f"memory-{side}-{precision}", {}).get("peak_mb") for side in ("trainer", "ftloop")
        )
        if theirs_mb and ours_mb:
            rows.append(f"| {precision} | {theirs_mb:.0f} | {ours_mb:.0f} | {ours_mb / theirs_mb:.3f} |")
    heads = [
        "",
        "| peak of bert-large's shape, 8 rows of 128 tokens, MB | Trainer | ftloop | ratio |",
        "|---|---|---|---|",
    ]
    return lines + (heads + rows if rows else [])
