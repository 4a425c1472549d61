"""The same job with several seeds, or on several folds: what their results say
together, and against others.

ftloop seeds DIR  The table of DIR/seed-1, DIR/seed-2, ..., as `--seeds` leaves
                  them, or of runs with one seed each in folders of other names;
                  also into seeds.json. Of DIR/fold-1, ..., as `--folds` leaves
                  them: into folds.json, with the predictions of all rows beside
                  it.
ftloop seeds A B  Whether the runs of B are better than those of A, by seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ftloop.config.reproduce import ftloop_command
from ftloop.errors import UserError
from ftloop.seeds.significance import compare_seeds, describe
from ftloop.seeds.summary import read_seeds
from ftloop.seeds.together import write_together
from ftloop.system.console import write
from ftloop.system.exit import end_of
from ftloop.system.flags import CommandParser


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(
        prog="ftloop seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="A", help="the output_dir of a command with --seeds or --folds")
    parser.add_argument("other", type=Path, metavar="B", nargs="*", help="another, to be compared with it")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    args = parser.parse_args(argv)
    return end_of(lambda: _show(args), args.traceback)


def _show(args: argparse.Namespace) -> None:
    if len(args.other) > 1:
        way = ftloop_command("seeds", args.folder.parent)
        told = f"runs of one seed each are read from the folder that they lie in: {way}"
        raise UserError(f"one folder is read, or two are compared; {told}")
    runs = read_seeds(args.folder)
    text = describe(compare_seeds(runs, read_seeds(args.other[0]))) if args.other else write_together(runs)
    for line in text.split("\n"):
        write(line)


if __name__ == "__main__":
    sys.exit(main())
