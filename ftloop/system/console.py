"""The console: what a run says, once for all its processes and above its progress bars."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TextIO

from ftloop.system.launcher import is_main_process
from ftloop.system.text import escape_control_chars


def say(topic: str, text: object, file: TextIO | None = None, is_command: bool = False) -> None:
    """Print `Topic     text`. What `text` quotes may come from a file: control characters are shown, not obeyed."""
    write(f"{topic:<9} {escape_control_chars(text)}", file, is_command)


def write(line: str, file: TextIO | None = None, is_command: bool = False) -> None:
    """Print a line, in the main process alone: on a terminal broken between words, but for a command to be copied."""
    if is_main_process():
        from tqdm import tqdm  # not at the top: a run can be recorded where there is no tqdm

        stream = file or sys.stdout
        width = shutil.get_terminal_size().columns
        if len(line) > width and not is_command and getattr(stream, "isatty", bool)():  # a user's may only write
            topic, text, gap = line[:10], line[10:], " " * 10  # a long path stays beside its topic
            line = textwrap.fill(
                text, width, initial_indent=topic, subsequent_indent=gap, break_long_words=False, break_on_hyphens=False
            )
        encoding = getattr(stream, "encoding", None) or "utf-8"  # what a console cannot show ends no run
        tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()
