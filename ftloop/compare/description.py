"""Describe a comparison as text: the verdict, the first difference and its likely cause."""

from __future__ import annotations

import textwrap

from ftloop.compare.causes import Cause, also_different, explain
from ftloop.compare.differences import CURVES, STAGES, Comparison, Difference, Recording
from ftloop.system.text import pluralize


def describe(comparison: Comparison) -> str:
    """Return what a person reads: the verdict, the first difference, its likely cause, and how far the runs drift."""
    lines = [_summary(comparison.a), _summary(comparison.b), *(f"note: {note}" for note in comparison.notes), ""]
    count = pluralize(len(comparison.updates), "update")
    if comparison.same:
        return "\n".join([*lines, f"THE SAME RUN, {count}: every recorded bit is equal."])
    first, in_training = comparison.first, comparison.first_in_training
    before = sum(update < first.update for update in comparison.updates)
    lines += [
        f"THE RUNS DIFFER at update {first.update}, stage: {first.stage}  ({before} of {count} before it equal)",
        f"  {first.what}{_place(comparison, first)}",
        f"  A  {first.a}",
        f"  B  {first.b}",
    ]
    if first.ratio is not None and first.a != first.b:
        lines.append(f"  A / B = {first.ratio:.9g}")
    if in_training is None:
        lines.append("  The training itself is equal: in these runs the difference has no effect on it.")
    elif in_training is not first:
        lines.append(f"  The training itself first differs at update {in_training.update}, stage: {in_training.stage}.")
    lines += [_wrapped(_stages(comparison, first.update)), "", "Likely cause:"]
    lines += map(_told, explain(comparison))
    if lines[-1] == "Likely cause:":
        lines.append("  unknown: the evidence fits none of the known causes")
    if also := also_different(comparison):
        lines += ["", "Also different, whatever the rows:", *map(_told, also)]
    drifts = {name: drift for name in CURVES if (drift := comparison.drift(name)) is not None and drift[1] > 0}
    if drifts:
        lines += ["", "Largest difference from there on:"]
    for name, (update, absolute, relative) in drifts.items():
        lines.append(f"  {name:<14} {absolute:.6g} ({relative:.3g} relative) at update {update}")
    return "\n".join(lines)


def _told(cause: Cause) -> str:
    return _wrapped(f"{cause.name}: {cause.text}")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  ")


def _summary(recording: Recording) -> str:
    header = recording.header
    processes = pluralize(recording.processes, "process", "processes")
    return (
        f"{recording}  {recording.path}: {header['by']}, {header['model']['class']}, {len(recording.updates)} updates\n"
        f"   {processes}, {header['device']}, threads {header['threads']}, "
        f"seed {header['seed']}; {', '.join(f'{name} {version}' for name, version in header['versions'].items())}"
    )


def _place(comparison: Comparison, difference: Difference) -> str:
    place = f", process {difference.process}" if comparison.a.processes > 1 else ""
    lines = comparison.a.updates.get(difference.update)
    if difference.micro_batch is not None and lines and len(lines[0]["micro_batches"]) > 1:
        place += f", micro-batch {difference.micro_batch + 1} of {len(lines[0]['micro_batches'])}"
    return place


def _stages(comparison: Comparison, update: int) -> str:
    """Say which stages of an update differ: what has followed from the first difference, and what has not."""
    differing = {each.stage for each in comparison.differences if each.update == update}
    different, equal = (", ".join(s for s in STAGES if (s in differing) == differs) for differs in (True, False))
    return f"In this update: different {different}; equal {equal.removesuffix(', end')}."
