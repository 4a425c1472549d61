"""The command `ftloop COMMAND ...`, installed or as `python -m ftloop`; each command is the `main()` of a module."""

from __future__ import annotations

import platform
import signal
import sys
from importlib import import_module
from importlib.metadata import version

import ftloop.system.environment  # noqa: F401 - first: it says what is missing before that is imported
from ftloop.config.recipe import SHIPPED
from ftloop.config.setting import SCORES
from ftloop.errors import ExitCode, UserError
from ftloop.system.exit import report_error
from ftloop.system.flags import nearest_name
from ftloop.version import __version__

# Imported only when it is called: none should wait for what another needs.
COMMANDS = {
    "train": ("ftloop.train", "fine-tune a model: a recipe and flags, or flags alone"),
    "predict": ("ftloop.inference.__main__", "classify texts or files of them with a finished model"),
    "report": ("ftloop.report.__main__", "write the report of a finished run, or of its seeds or folds"),
    "seeds": ("ftloop.seeds.__main__", "the table of several seeds or folds; two of seeds compared"),
    "runs": ("ftloop.report.runs", "the finished runs below a folder, side by side"),
    "calibrate": ("ftloop.report.calibrate", "fit temperature and thresholds of a finished run"),
    "compare": ("ftloop.compare.__main__", "hold two runs against each other, or two recordings"),
}
USAGE = """\
usage: ftloop COMMAND ...

{commands}

`ftloop COMMAND --help` says what each takes. Several processes, with what
`ftloop train` takes: `accelerate launch ftloop/train.py ...`, or
`torchrun --nproc_per_node N -m ftloop.train ...`."""


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns: its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None and words[:1] not in (["train"], ["predict"], ["report"]) and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever has read enough, as `head`, ends what only prints
    if not words or words[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<11}{what}" for name, (_, what) in COMMANDS.items()]
        print(USAGE.format(commands="\n".join(lines)))
        return ExitCode.DONE
    if words[0] in ("--version", "version"):
        parts = [f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate")]
        print(f"ftloop {__version__} (Python {platform.python_version()}, {', '.join(parts)})")
        return ExitCode.DONE
    name, *rest = words
    if name not in COMMANDS:
        return report_error(UserError(_no_command(name)), show_traceback=False)
    sys.argv = [f"ftloop {name}", *rest]
    code: int = import_module(COMMANDS[name][0]).main()
    return code


def _no_command(word: str) -> str:
    if word in SHIPPED or word.startswith("-") or word.endswith((".yaml", ".yml")):
        return f"{word!r} is for the command train: ftloop train {word} ..."
    way = f"; {SCORES}" if word in ("eval", "evaluate", "score", "test") else nearest_name(word, COMMANDS)
    return f"{word!r}: no such command, which are {', '.join(COMMANDS)}{way}"


if __name__ == "__main__":
    sys.exit(main())
