"""The same job with several seeds: what their results say together, and against others.

ftloop seeds DIR    the table of DIR/seed-1, DIR/seed-2, ..., as `--seeds` leaves them, or of runs with one
                    seed each in folders of other names; also into seeds.json
ftloop seeds A B    whether the runs of B are better than those of A, seed by seed
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ftloop.errors import UserError
from ftloop.seeds.significance import compare_seeds, describe
from ftloop.seeds.summary import SEEDS, read_seeds, summary, table
from ftloop.system.atomic import write_text
from ftloop.system.exit import end_of
from ftloop.system.flags import CommandParser


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(
        prog="ftloop seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="A", help="the output_dir of a command with --seeds")
    parser.add_argument("other", type=Path, metavar="B", nargs="*", help="another, to be compared with it")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    args = parser.parse_args(argv)
    return end_of(lambda: _show(args), args.traceback)


def _show(args: argparse.Namespace) -> None:
    if len(args.other) > 1:
        way = f"runs of one seed each are read from the folder that they lie in: ftloop seeds {args.folder.parent}"
        raise UserError(f"one folder is read, or two are compared; {way}")
    runs = read_seeds(args.folder)
    if args.other:
        print(describe(compare_seeds(runs, read_seeds(args.other[0]))))
    else:
        write_text(runs.folder / SEEDS, json.dumps(summary(runs), indent=2) + "\n")
        print(table(runs))


if __name__ == "__main__":
    sys.exit(main())
