"""The command `ftloop report DIR`: make the report of a finished run from its files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ftloop.errors import UserError
from ftloop.report.model_card import write_missing_card
from ftloop.report.outcome import REPORT, read_finished_run
from ftloop.report.report import check_replaceable, make_report, write_report
from ftloop.report.together import kind_of_series, make_joint_report
from ftloop.system.console import say
from ftloop.system.exit import end_of
from ftloop.system.flags import CommandParser
from ftloop.system.text import expand_path


def main(argv: Sequence[str] | None = None) -> int:
    hints = dict.fromkeys(("model", "model_name_or_path", "run"), "the run follows without a flag: ftloop report DIR")
    description = "Write the report of a finished run, or of one with several seeds or folds."
    parser = CommandParser(hints, prog="ftloop report", description=description)
    parser.add_argument(
        "folder", metavar="DIR", help="the output_dir of a run, or of a command with --seeds or --folds"
    )
    parser.add_argument("--set", choices=("validation", "test", "both"), default="both", help="which labelled sets")
    parser.add_argument("--output", metavar="DIR", help="where to write it; by default DIR/report")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    args = parser.parse_args(argv)
    return end_of(lambda: _report(args), args.traceback)


def _report(args: argparse.Namespace) -> None:
    folder = expand_path(args.folder, "DIR")
    final = folder / REPORT if args.output is None else expand_path(args.output, "output")
    kind = kind_of_series(folder)
    if kind is None:
        run = read_finished_run(folder)
        check_replaceable(final)
        report = make_report(run, args.set)
    else:
        run = None
        if args.set != "both":
            runs = sorted(file.parent for file in folder.glob("*/trainer_state.json"))
            such_as = f", such as {runs[0]}" if runs else ""
            raise UserError(f"set: {folder} has no sets of its own; name one of its runs{such_as}")
        check_replaceable(final)
        report = make_joint_report(folder, kind, final)
    say("Report", write_report(report, final))
    for missing in report["missing"]:
        say("Missing", missing)
    if run is not None and run.facts:  # the card is of these
        write_missing_card(run)


if __name__ == "__main__":
    sys.exit(main())
