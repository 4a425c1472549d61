"""What is said where nobody can read it any more: what stops a run may end its terminal too, or a `tee`."""

from __future__ import annotations

import os
import select
import sys
from typing import Any


class Unread:
    """A stream like another one, of which no line fails for want of somebody who reads it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            leave_closed_streams()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            leave_closed_streams()


def let_readers_go() -> None:
    """Let both streams of this process outlive whoever reads them."""
    leave_closed_streams()
    if not isinstance(sys.stdout, Unread):
        sys.stdout, sys.stderr = Unread(sys.stdout), Unread(sys.stderr)


def leave_closed_streams() -> None:
    """Let what is written go nowhere where a stream is closed at its other end."""
    if hasattr(select, "poll"):  # not on Windows
        streams = select.poll()
        for stream in (1, 2):
            streams.register(stream, 0)
        for stream, _ in streams.poll(0):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
