"""How a run may end other than well: one exception for each way, and the exit code that `main()` makes of it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import traceback
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


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__


def reason(error: Exception) -> str:
    """What the system says, without the file, which the message around it names."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


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


# What a system has against a file that a user named, or against the disk it is on.
_OF_FILES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO),
    *(errno.EMFILE, errno.ENFILE, errno.EPIPE),
}


# For a process that is not the first: by then the launcher has ended it, if the first has failed too.
_SECONDS_TO_LISTEN = 5.0


def tell(error: Exception, show_traceback: bool) -> ExitCode:
    """The end of a command that failed: what it says on stderr, and its exit code.

    A fault has a traceback, another error only where that is asked for. Of several processes the first tells what all
    have found; another speaks only where the first has found nothing.
    """
    rank = os.environ.get("RANK", "0")
    who = "error" if rank == "0" else f"error in process {rank}"
    if isinstance(error, FtloopError):
        problems, code = error.problems, error.exit_code
    elif isinstance(error, OSError) and error.errno in _OF_FILES:
        files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        problems, code = (f"{files}: {reason(error)}" if files else reason(error),), ExitCode.MISTAKE
    else:
        problems = (f"a fault in ftloop or in a library below it: {type(error).__name__}",)
        code = ExitCode.FAULT
    alone = code == ExitCode.FAULT or (isinstance(error, FtloopError) and error.is_of_one_process)
    if rank != "0" and not alone:
        time.sleep(_SECONDS_TO_LISTEN)
    if code == ExitCode.FAULT or show_traceback:
        traceback.print_exception(error)
    for problem in problems:
        print(f"{who}: {problem}", file=sys.stderr)
    return code
