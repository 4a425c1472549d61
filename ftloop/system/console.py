"""The console: what a run says, once for all its processes and above its progress bars."""

from __future__ import annotations

import sys
from typing import TextIO

from ftloop.system.launcher import is_main_process
from ftloop.system.text import escape_control_chars


def say(topic: str, text: object, file: TextIO | None = None) -> None:
    """Print `Topic     text`. What `text` quotes may come from a file: control characters are shown, not obeyed."""
    write(f"{topic:<9} {escape_control_chars(text)}", file)


def write(line: str, file: TextIO | None = None) -> None:
    """Print a line as it is, to stdout unless another `file` is given; in the main process alone."""
    if is_main_process():
        from tqdm import tqdm  # not at the top: a run can be recorded where there is no tqdm

        stream = file or sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"  # what a console cannot show ends no run
        tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()
