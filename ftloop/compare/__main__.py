"""Say where, and why, two recorded runs differ: `ftloop compare A.jsonl B.jsonl`.

The recordings come from `--record FILE`, from `record(trainer, FILE)` or from three calls in a loop of your own: see
`ftloop.compare.recorder`. Exit code 0: the same run; 1: they differ; 2: they cannot be compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ftloop.compare.description import describe
from ftloop.compare.differences import compare, read
from ftloop.compare.plots import draw, write_tensorboard
from ftloop.errors import UserError
from ftloop.system.flags import CommandParser


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="ftloop compare", description=__doc__)
    parser.add_argument("a", type=Path, help="a recording")
    parser.add_argument("b", type=Path, help="another recording")
    parser.add_argument("--png", type=Path, help="draw loss, learning rate and gradient norm of both, and A - B")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write both, so that TensorBoard overlays them")
    arguments = parser.parse_args(argv)
    try:
        comparison = compare(read(arguments.a), read(arguments.b))
        print(describe(comparison))
        if arguments.png is not None:
            draw(comparison, arguments.png)
        if arguments.tensorboard is not None:
            write_tensorboard(comparison, arguments.tensorboard)
        return 0 if comparison.same else 1
    except UserError as error:
        problems = list(error.problems)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        problems = [f"{arguments.a} or {arguments.b} is damaged, or from another version ({error!r})"]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
