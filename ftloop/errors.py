"""How a run may end other than well: one exception for each way, and the exit code that `main()` makes of it."""

from __future__ import annotations

import atexit
import errno
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from enum import IntEnum


class ExitCode(IntEnum):
    """What `python ftloop/train.py` exits with. A launcher makes its own code of it, most often 1."""

    DONE = 0
    FAULT = 1
    """A fault in ftloop or a library below it; the traceback is shown."""
    MISTAKE = 2
    """Something the user can mend: a flag, a file, a row."""
    FAILED = 3
    """Training cannot go on: numbers that are not finite, not enough memory, or contact with another process lost."""
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


class LostContact(FtloopError):
    """Another process has failed, or does not answer. Why, that one knows, if anybody does."""

    exit_code = ExitCode.FAILED


def is_lost_contact(error: BaseException) -> bool:
    """Whether an exchange between processes failed because of the other side: torch's and gloo's errors too."""
    distributed = sys.modules.get("torch.distributed")  # not imported: then there was no exchange
    if isinstance(error, LostContact):
        return True
    if distributed is not None and isinstance(error, distributed.DistError):
        return _OF_THE_OTHER_SIDE.search(str(error)) is not None  # its other errors are of this side's own making
    is_ours = isinstance(error, FtloopError)
    return isinstance(error, RuntimeError) and not is_ours and _IN_GLOO.search(str(error)) is not None


_OF_THE_OTHER_SIDE = re.compile(r"closed|reset|refused|broken pipe|time[d]?[ -]?out|remote|unreachable|recv", re.I)
# The place in its source, as its errors name it; a folder of the user's may be called gloo too.
_IN_GLOO = re.compile(r"\[[^\]\s]*[/\\]gloo[/\\][^\]\s]*:\d+\]")


# What a system has against a file that a user named, or against the disk it is on.
_OF_FILES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO),
    *(errno.EMFILE, errno.ENFILE, errno.EPIPE),
}


# By then the launcher has ended this process, if another one has failed that tells why.
_SECONDS_TO_LISTEN = 5.0


def tell(error: Exception, show_traceback: bool, ddp_timeout: int | None = None, told_to_end: bool = False) -> ExitCode:
    """The end of a command that failed: what it says on stderr, and its exit code.

    A fault has a traceback, another error only where that is asked for. Of several processes the first tells what all
    have found; another speaks only where the first has found nothing. That contact was lost is told last of all.
    """
    rank = os.environ.get("RANK", "0")
    who = "error" if rank == "0" else f"error in process {rank}"
    is_consequence = is_lost_contact(error)
    problems: tuple[str, ...]
    if is_consequence:
        problems, code = (_lost_contact(error, ddp_timeout),), ExitCode.FAILED
    elif isinstance(error, FtloopError):
        problems, code = error.problems, error.exit_code
    elif isinstance(error, OSError) and error.errno in _OF_FILES:
        files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        problems, code = (f"{files}: {reason(error)}" if files else reason(error),), ExitCode.MISTAKE
    else:
        problems = (f"a fault in ftloop or in a library below it: {type(error).__name__}",)
        code = ExitCode.FAULT
    alone = code == ExitCode.FAULT or (isinstance(error, FtloopError) and error.is_of_one_process)
    if is_consequence:
        if _launcher_speaks(told_to_end):
            return code
    elif rank != "0" and not alone:
        time.sleep(_SECONDS_TO_LISTEN)
    if code == ExitCode.FAULT or show_traceback:
        traceback.print_exception(error)
    for problem in problems:
        lines = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in problem.split("\n"))
        print(f"{who}: " + "\n".join(lines), file=sys.stderr)
    text = "\n".join(problems) + (f": {first_line(error)}" if code == ExitCode.FAULT else "")
    _tell_torchrun(text, is_consequence)
    return code


def part(code: ExitCode) -> None:
    """End this process, if it is one of several; else return. Such a one aborted now and then while Python shut down
    ("terminate called without an active exception"), and its exit code was lost; by which thread is not known. So what
    Python itself has to do at the end is done, and the rest left to the system.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    # After a failure NCCL might wait for exchanges that nobody takes part in any more.
    if code in (ExitCode.DONE, ExitCode.STOPPED) or distributed.get_backend() == "gloo":
        with suppress(Exception):  # of connections that are broken
            distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _launcher_speaks(told_to_end: bool) -> bool:
    """Give the launcher time to end this process, because another one of this machine has told why. Returns: whether it
    has, already before (`told_to_end`).

    With several machines a launcher also ends its processes when it has lost the one it met the others at: then one of
    them tells, since nobody else has.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    several = os.environ.get("LOCAL_WORLD_SIZE", processes) != processes
    tells = several and os.environ.get("LOCAL_RANK", "0") == "0"
    if not told_to_end:
        ended = threading.Event()
        if tells:
            signal.signal(signal.SIGTERM, lambda *_: ended.set())
        ended.wait(2 * _SECONDS_TO_LISTEN)  # the one that knows why may be listening itself
    return told_to_end and not tells


def _lost_contact(error: BaseException, ddp_timeout: int | None) -> str:
    patience = "" if ddp_timeout is None else f" (the limit is --ddp_timeout {ddp_timeout}, in seconds)"
    return (
        "contact with another process was lost: it may have failed or been killed, or its machine is gone, or it did "
        f"not answer in time{patience}. The same command with --resume_from_checkpoint last goes on from the newest "
        f"checkpoint. What was seen here: {first_line(error)}"
    )


def _tell_torchrun(text: str, is_consequence: bool) -> None:
    """Into the file that torchrun reads when a process has failed: its summary then says why, below our own lines."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    # The earliest is its root cause, in whole seconds, in which it may have ended the others already.
    failed_at = int(time.time()) - (0 if is_consequence else 1)
    told = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(failed_at)}}
    with suppress(OSError), open(path, "w", encoding="utf-8") as file:
        json.dump({"message": told}, file)
