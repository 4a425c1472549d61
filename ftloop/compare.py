"""Where, and why, two recorded runs part: `python -m ftloop.compare A.jsonl B.jsonl [--png FILE] [--tensorboard DIR]`.

The recordings come from `--record FILE`, from `record(trainer, FILE)` or from three calls in a loop of your own: see
`ftloop.record`. Exit code 0: the same run; 1: they part; 2: they cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from ftloop.causes import Cause, explain
from ftloop.diff import DRIFTING, STAGES, Comparison, Parting, Recorded, compare, read
from ftloop.errors import UserError
from ftloop.overlay import draw, write_tensorboard
from ftloop.record import Recorder, record

__all__ = [
    "Cause",
    "Comparison",
    "Parting",
    "Recorded",
    "Recorder",
    "compare",
    "describe",
    "draw",
    "explain",
    "read",
    "record",
]


def describe(comparison: Comparison) -> str:
    """What a person reads: the verdict, the first difference, its likely cause, and how far the runs drift."""
    a, b = comparison.a, comparison.b
    lines = [f"{name}  {_summary(each)}" for name, each in (("A", a), ("B", b))]
    lines += [f"note: {note}" for note in comparison.notes]
    count = f"{len(comparison.updates)} update{'s' if len(comparison.updates) != 1 else ''}"
    if comparison.same:
        return "\n".join([*lines, "", f"THE SAME RUN, {count}: every recorded bit is equal."])
    first, felt = comparison.first, comparison.felt
    before = sum(update < first.update for update in comparison.updates)
    lines += [
        "",
        f"THE RUNS PART at update {first.update}, stage: {first.stage}  ({before} of {count} before it equal)",
    ]
    lines += [f"  {first.what}{_place(comparison, first)}", f"  A  {first.a}", f"  B  {first.b}"]
    if first.ratio is not None:
        lines.append(f"  A / B = {first.ratio:.9g}")
    if felt is None:
        lines.append("  The training is equal all the same: nothing comes of it in these runs.")
    elif felt is not first:
        lines.append(f"  First felt in the training at update {felt.update}, stage: {felt.stage}.")
    lines += [_wrapped(_stage_marks(comparison, first.update)), "", "Likely cause:"]
    causes = explain(comparison)
    lines += [_wrapped(cause.text) for cause in causes] or [
        "  unknown: the evidence fits none of the causes known here"
    ]
    drifts = [(name, found) for name in DRIFTING if (found := comparison.drift(name)) is not None and found[1] > 0]
    if drifts:
        lines += ["", "From there on, furthest apart:"]
        for name, (update, absolute, relative) in drifts:
            lines.append(f"  {name:<14} {absolute:.6g} ({relative:.3g} relative) at update {update}")
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  ")


def _summary(recorded: Recorded) -> str:
    header = recorded.header
    processes = f"{recorded.processes} process{'es' if recorded.processes > 1 else ''}"
    return (
        f"{recorded.path}: {header['by']}, {header['model']['class']}, {len(recorded.updates)} updates\n"
        f"   {processes}, {header['device']}, threads {header['threads']}, torch {header['versions']['torch']}, "
        f"seed {header['seed']}"
    )


def _place(comparison: Comparison, parting: Parting) -> str:
    place = f", process {parting.process}" if comparison.a.processes > 1 else ""
    lines = comparison.a.updates.get(parting.update)
    if parting.micro_batch is not None and lines and len(lines[0]["micro_batches"]) > 1:
        place += f", micro-batch {parting.micro_batch + 1} of {len(lines[0]['micro_batches'])}"
    return place


def _stage_marks(comparison: Comparison, update: int) -> str:
    """Which stages of an update differ: what has followed from the first difference, and what has not."""
    parted = {each.stage for each in comparison.partings if each.update == update}
    names = [", ".join(stage for stage in STAGES if (stage in parted) == differs) for differs in (True, False)]
    return f"In this update: different {names[0]}; equal {names[1].removesuffix(', end')}."


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ftloop.compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("a", type=Path, help="a recording")
    parser.add_argument("b", type=Path, help="another")
    parser.add_argument(
        "--png", type=Path, help="draw loss, learning rate and gradient norm of both, and the difference"
    )
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write both, so that TensorBoard overlays them")
    given = parser.parse_args(argv)
    try:
        comparison = compare(read(given.a), read(given.b))
        print(describe(comparison))
        if given.png is not None:
            draw(comparison, given.png)
        if given.tensorboard is not None:
            write_tensorboard(comparison, given.tensorboard)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        print(f"error: {given.a} or {given.b} is damaged, or not of this version ({error!r})", file=sys.stderr)
        return 2
    return 0 if comparison.same else 1


if __name__ == "__main__":
    sys.exit(main())
