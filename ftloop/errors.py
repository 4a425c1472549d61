"""How a run may end other than well: one exception for each way, and the exit code that `main()` makes of it."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """What `python ftloop/train.py` exits with. A launcher makes its own code of it, most often 1."""

    DONE = 0
    FAULT = 1
    """A fault in ftloop or a library below it; the traceback is shown."""
    MISTAKE = 2
    """Something the user can mend: a flag, a file, a row."""
    FAILED = 3
    """Training cannot go on: numbers that are not finite, or not enough memory."""
    UNSAVED = 4
    """A file could not be written, twice. The last good checkpoint is untouched."""
    STOPPED = 75
    """Stopped on request and saved: the same command with --resume_from_checkpoint last goes on. (EX_TEMPFAIL.)"""
    INTERRUPTED = 128 + signal.SIGINT
    """A second Ctrl-C, without waiting for a save."""


class FtloopError(Exception):
    """The end of a run, for reasons told in a few lines without a traceback. Carries every problem found."""

    exit_code = ExitCode.FAULT
    is_of_one_process = False
    """The others do not know of it, so that this one has to tell it whichever it is."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class UserError(FtloopError, ValueError):
    """Something the user can mend: a flag, a file, a row."""

    exit_code = ExitCode.MISTAKE


class TrainingError(FtloopError, RuntimeError):
    """Training cannot go on: numbers that are not finite, or not enough memory."""

    exit_code = ExitCode.FAILED


class SaveError(FtloopError, RuntimeError):
    """A file could not be written, at the second attempt either."""

    exit_code = ExitCode.UNSAVED
