"""Exceptions and exit codes of a failed run."""

from __future__ import annotations

import re
import signal
import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python ftloop/train.py`. A launcher makes its own code of them, most often 1."""

    DONE = 0
    BUG = 1
    """A fault in ftloop or a library below it; the traceback is shown."""
    USER_ERROR = 2
    """Something the user can mend: a flag, a file, a row."""
    FAILED = 3
    """Training cannot go on: numbers that are not finite, not enough memory, or contact with another process lost."""
    SAVE_FAILED = 4
    """A file could not be written, twice. The last good checkpoint is untouched."""
    STOPPED = 75
    """Stopped on request and saved: resumed by the same command with --resume_from_checkpoint last. (EX_TEMPFAIL.)"""
    INTERRUPTED = 128 + signal.SIGINT
    """Ended by a second Ctrl-C, without waiting for a save."""


def summarize(error: BaseException) -> str:
    """Return the first line of an error of a library; its name if it says nothing."""
    text = str(error).strip()
    if text.startswith("Weights only load failed"):  # and advises to run what the file holds
        reason = re.search(r"WeightsUnpickler error:\s*(.+?)(\. Please|\n|$)", text)
        text = f"it is no file of weights alone{f': {reason[1]}' if reason else ''}"
    elif re.search(r"unexpected pos \d|PytorchStreamWriter failed writing", text):  # torch drops the system's reason
        text = f"a file could not be written whole, as on a full disk or over a quota: {text}"
    lines = text.splitlines()
    return lines[0][:500] if lines else type(error).__name__


def os_reason(error: Exception) -> str:
    """Return what the system says, without the file, which the message around it names."""
    return (error.strerror if isinstance(error, OSError) else None) or summarize(error)


class FtloopError(Exception):
    """An error explained in a few lines without a traceback. Carries every problem found."""

    exit_code = ExitCode.BUG
    is_of_one_process = False
    """Whether other processes do not know of it, so that this one has to report it, main process or not."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class UserError(FtloopError, ValueError):
    """Something the user can mend: a flag, a file, a row."""

    exit_code = ExitCode.USER_ERROR


class TrainingError(FtloopError, RuntimeError):
    """Training cannot go on: numbers that are not finite, or not enough memory."""

    exit_code = ExitCode.FAILED


class SaveError(FtloopError, RuntimeError):
    """A file could not be written, in two attempts."""

    exit_code = ExitCode.SAVE_FAILED


class LostContact(FtloopError):
    """Another process has failed, or does not answer: that one may know why."""

    exit_code = ExitCode.FAILED


_OF_THE_OTHER_SIDE = re.compile(r"closed|reset|refused|broken pipe|time[d]?[ -]?out|remote|unreachable|recv", re.I)
# The place in its source, as its errors name it (a folder of the user's may be called gloo too), but for one of them:
# what is left of an exchange whose partner let the time run out.
_IN_GLOO = re.compile(r"\[[^\]\s]*[/\\]gloo[/\\][^\]\s]*:\d+\]|^Application timeout caused pair closure")


def is_lost_contact(error: BaseException) -> bool:
    """Whether an exchange between processes failed because of the other side: torch's and gloo's errors too."""
    distributed = sys.modules.get("torch.distributed")  # not imported: then there was no exchange
    if isinstance(error, LostContact):
        return True
    if distributed is not None and isinstance(error, distributed.DistError):
        return _OF_THE_OTHER_SIDE.search(str(error)) is not None  # its other errors are of this side's own making
    is_ours = isinstance(error, FtloopError)
    return isinstance(error, RuntimeError) and not is_ours and _IN_GLOO.search(str(error)) is not None
