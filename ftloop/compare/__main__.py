"""Hold two finished runs against each other, or two recorded ones.

ftloop compare DIR DIR    Two output_dirs of finished runs: the scores of both
                          with 95 % intervals of the difference on the same
                          rows; settings, data and versions that differ.
ftloop compare FILE FILE  Two recordings: the same run, or the update and stage
                          at which they part, and the likely cause.

Recordings come from `--record FILE`, from `record(trainer, FILE)` or from three
calls in a loop of your own: see `ftloop.compare.recorder`. Exit code 0: two
runs were compared, or the recordings are of the same run; 1: the recordings
differ; 2: they cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ftloop.errors import UserError
from ftloop.system.console import say
from ftloop.system.exit import end_of
from ftloop.system.flags import CommandParser
from ftloop.system.text import expand_path

SETS = ("validation", "test", "both")


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(
        prog="ftloop compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", help="the output_dir of a finished run, or a recording")
    parser.add_argument("b", metavar="B", help="another of the same kind")
    parser.add_argument("--png", metavar="FILE", help="draw the curves of both over each other")
    parser.add_argument("--output", metavar="DIR", help="of runs: write a page, its figures and all numbers there")
    parser.add_argument("--set", choices=SETS, help="of runs: which labelled sets; both by default")
    parser.add_argument("--tensorboard", metavar="DIR", help="of recordings: write both for TensorBoard to overlay")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    arguments = parser.parse_args(argv)
    differ = False

    def compare() -> None:
        nonlocal differ
        a, b = expand_path(arguments.a, "A"), expand_path(arguments.b, "B")
        if _are_runs(a, b):
            _compare_runs(a, b, arguments)
        else:
            differ = _compare_recordings(a, b, arguments)

    return end_of(compare, arguments.traceback) or int(differ)


def _are_runs(a: Path, b: Path) -> bool:
    """Raises: UserError for a run and a recording."""
    for run, other in ((a, b), (b, a)):
        if run.is_dir() and other.is_file():
            way = "name two output_dirs of finished runs, or two recordings, which --record FILE writes in training"
            raise UserError(f"{run} is a folder and {other} a file; {way}")
    return a.is_dir() or b.is_dir()


def _compare_runs(a: Path, b: Path, arguments: argparse.Namespace) -> None:
    from ftloop.report.comparison import compare_runs
    from ftloop.report.comparison_text import describe_comparison
    from ftloop.report.outcome import read_finished_run
    from ftloop.report.report import check_replaceable, save_curves, write_report
    from ftloop.report.runs import STATE
    from ftloop.system.writable import check_writable

    if arguments.tensorboard is not None:
        way = "runs trained with --report_to tensorboard are overlaid by tensorboard --logdir alone"
        raise UserError(f"tensorboard: it is written of recordings; {way}")
    for folder in (a, b):
        single = min(folder.glob(f"seed-*/{STATE}"), default=None)
        if single is not None and not (folder / STATE).is_file():
            way = f"name one of them, such as {single.parent}; ftloop seeds compares all those of two such folders"
            raise UserError(f"{folder} holds runs of several seeds: {way}")
    output, png = (
        None if path is None else expand_path(path, name)
        for name, path in (("output", arguments.output), ("png", arguments.png))
    )
    if output is not None:
        check_replaceable(output, "comparison")
    if png is not None:
        check_writable(str(png.parent), "png")
        if png.is_dir():
            raise UserError(f"png: {png} is a folder; name a file")
    comparison = compare_runs(read_finished_run(a), read_finished_run(b), arguments.set or "both")
    print(describe_comparison(comparison))
    if output is not None:
        say("Written", write_report(comparison, output, "comparison"))
    if png is not None:
        save_curves(comparison, png)


def _compare_recordings(a: Path, b: Path, arguments: argparse.Namespace) -> bool:
    """Returns: whether they differ."""
    from ftloop.compare.description import describe
    from ftloop.compare.differences import compare, read
    from ftloop.compare.plots import draw, write_tensorboard

    for name in ("output", "set"):
        if getattr(arguments, name) is not None:
            raise UserError(f"{name}: only with finished runs, and {a} and {b} are no folders")
    try:
        comparison = compare(read(a), read(b))
        print(describe(comparison))
        if arguments.png is not None:
            draw(comparison, expand_path(arguments.png, "png"))
        if arguments.tensorboard is not None:
            write_tensorboard(comparison, expand_path(arguments.tensorboard, "tensorboard"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{a} or {b} is damaged, or from another version ({error!r})") from error
    return not comparison.same


if __name__ == "__main__":
    sys.exit(main())
