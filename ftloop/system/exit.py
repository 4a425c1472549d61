"""The end of a command that failed or was stopped: what it says, its exit code, and what the launcher is told."""

from __future__ import annotations

import atexit
import errno
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ftloop.errors import ExitCode, FtloopError, is_lost_contact, os_reason, summarize
from ftloop.system.console import say
from ftloop.system.launcher import launched_local_rank, launched_rank, spans_machines
from ftloop.system.out_of_memory import describe, is_out_of_memory
from ftloop.system.stopping import Stopped, StopRequest
from ftloop.system.text import escape_control_chars

# Errors of the operating system about a file that a user named, or about the disk it is on.
_FILE_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO),
    *(errno.EMFILE, errno.ENFILE, errno.EPIPE),
}
_SECONDS_TO_LISTEN = 5.0  # by then the launcher has ended this process, if another one has failed and said why


def exit_code(error: Exception) -> ExitCode:
    """Return the exit code of a command that ended with this error."""
    if is_out_of_memory(error) or is_lost_contact(error):
        return ExitCode.FAILED
    if isinstance(error, FtloopError):
        return error.exit_code
    if _has_unused_parameters(error):
        return ExitCode.USER_ERROR
    return ExitCode.USER_ERROR if isinstance(error, OSError) and error.errno in _FILE_ERRORS else ExitCode.BUG


def _has_unused_parameters(error: Exception) -> bool:
    """Whether DDP ended the run for a parameter that it was told not to look for."""
    return isinstance(error, RuntimeError) and "finished reduction in the prior iteration" in str(error)


def is_reported_elsewhere(error: Exception, told_to_end: bool) -> bool:
    """Give other processes time to report first. Returns: whether one has, so that this process says nothing.

    Of several processes the first reports what all have found; another speaks only where the first has found nothing.
    That contact was lost is reported last of all. `told_to_end`: by the launcher, already before.
    """
    if is_lost_contact(error) and not is_out_of_memory(error):
        return _launcher_ends_us(told_to_end)
    found_by_one = isinstance(error, FtloopError) and error.is_of_one_process
    found_by_one |= is_out_of_memory(error) or exit_code(error) == ExitCode.BUG
    if launched_rank() != 0 and not found_by_one:
        time.sleep(_SECONDS_TO_LISTEN)
    return False


def end_of(work: Callable[[], None], show_traceback: bool) -> ExitCode:
    """Do the work of a command that prints, and report what ends it. Returns: the exit code.

    A console that cannot show a character shows its number.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        work()
    except Exception as error:
        return report_error(error, show_traceback)
    return ExitCode.DONE


def report_error(error: Exception, show_traceback: bool, ddp_timeout: int | None = None) -> ExitCode:
    """Print what ended the command to stderr: a bug with its traceback, another error only if that is asked for.

    Returns: the exit code.
    """
    code, is_bug = exit_code(error), exit_code(error) == ExitCode.BUG
    if is_out_of_memory(error):
        problems: tuple[str, ...] = (f"{describe('what was to be done', error)}; --traceback shows what asked for it",)
    elif is_lost_contact(error):
        problems = (_lost_contact(error, ddp_timeout),)
    elif isinstance(error, FtloopError):
        problems = error.problems
    elif _has_unused_parameters(error):
        problems = (
            "a parameter of the model got no gradient, for which DDP waits unless it looks for such parameters: "
            "--ddp_find_unused_parameters true (where --gradient_checkpointing is off)",
        )
    elif isinstance(error, OSError) and code == ExitCode.USER_ERROR:
        files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        problems = ((f"{files}: {os_reason(error)}" if files else os_reason(error)) + _way_to_cache(error),)
    else:
        problems = (f"a fault in ftloop or in a library below it: {type(error).__name__}",)
    if is_bug or show_traceback:
        traceback.print_exception(error)
    who = f"error in process {launched_rank()}" if launched_rank() else "error"
    for problem in problems:
        print(f"{who}: " + "\n".join(map(escape_control_chars, problem.split("\n"))), file=sys.stderr)
    _tell_torchrun("\n".join(problems) + (f": {summarize(error)}" if is_bug else ""), is_lost_contact(error))
    return code


def _way_to_cache(error: OSError) -> str:
    """Return what moves the cache of data sets and models, where the error is of its folder or of one above it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    for variable in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HOME"):
        place = home if variable == "HF_HOME" else os.environ.get(variable)
        if place and isinstance(error.filename, str):
            cache, failed = (Path(os.path.abspath(os.path.expanduser(each))) for each in (place, error.filename))
            if cache == failed or cache in failed.parents or failed in cache.parents:
                way = f"{variable}=/a/writable/folder in the environment moves it"
                return f". The cache of data sets and models, {cache}, is wanted there: {way}"
    return ""


def report_stop(stop: StopRequest, stopped: BaseException) -> ExitCode:
    """Say where a run was stopped and how it is continued. Returns: the exit code of a stopped run."""
    is_saved = isinstance(stopped, Stopped)
    where = str(stopped).removeprefix("Stopped ") if is_saved else f"by {stop.reason} before training"
    say("Stopped", f"{where}; the same command with --resume_from_checkpoint last continues", sys.stderr)
    if is_saved:
        stop.wait_for_everyone()  # a launcher ends the others as soon as one has left
    return ExitCode.STOPPED


def hard_exit(code: ExitCode) -> None:
    """End a process of a multi-process run without Python's shutdown; return from any other.

    Gloo's threads may hold tensors, and to free them while the interpreter is torn down aborts the process ("terminate
    called without an active exception"), now and then: its exit code is lost. `destroy_process_group` does not end
    those threads where something still refers to the group (github.com/pytorch/pytorch/pull/179291). So what Python
    itself has to do at its end is done here, and the rest left to the system.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    # After a failure NCCL might wait for exchanges that nobody takes part in any more.
    if code in (ExitCode.DONE, ExitCode.STOPPED) or distributed.get_backend() == "gloo":
        with suppress(Exception):  # of connections that are broken
            distributed.destroy_process_group()
    atexit._run_exitfuncs()  # as multiprocessing ends its own children
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _launcher_ends_us(told_to_end: bool) -> bool:
    """Give the launcher time to end this process, because another one of this machine has said why. Returns: whether it
    has, already before (`told_to_end`).

    With several machines a launcher also ends its processes when it has lost the one it met the others at: then one of
    them reports, since nobody else has.
    """
    reports = spans_machines() and launched_local_rank() == 0
    if not told_to_end:
        ended = threading.Event()
        if reports:
            signal.signal(signal.SIGTERM, lambda *_: ended.set())
        ended.wait(2 * _SECONDS_TO_LISTEN)  # the one that knows why may be listening itself
    return told_to_end and not reports


def _lost_contact(error: BaseException, ddp_timeout: int | None) -> str:
    patience = "" if ddp_timeout is None else f" (the limit is --ddp_timeout {ddp_timeout}, in seconds)"
    return (
        "contact with another process was lost: it may have failed or been killed, or its machine is gone, or it did "
        f"not answer in time{patience}. The same command with --resume_from_checkpoint last continues from the newest "
        f"checkpoint. What was seen here: {summarize(error)}"
    )


def _tell_torchrun(text: str, is_consequence: bool) -> None:
    """Write the file from which torchrun's summary takes why a process failed. Not by torch elastic's `record`: it
    shows a traceback in place of our message, for a user's mistake too."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    # The earliest is its root cause, in whole seconds, in which it may have ended the others already.
    failed_at = int(time.time()) - (0 if is_consequence else 1)
    message = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(failed_at)}}
    with suppress(OSError), open(path, "w", encoding="utf-8") as file:
        json.dump({"message": message}, file)
