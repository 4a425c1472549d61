"""A system without what POSIX, Linux or glibc alone have: functions are taken away, and files behave as on Windows.

The rest is this machine's: it shows what ftloop asks of a system, not that Windows or macOS give it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TAKEN_AWAY: dict[Any, tuple[str, ...]] = {
    os: ("fork", "forkpty", "getpgid", "getuid", "killpg", "mkfifo", "pread", "pwrite", "sched_getaffinity", "setsid"),
    signal: ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2", "alarm", "setitimer"),
    select: ("poll", "epoll"),
}
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
LK_NBLCK = 2


class OtherSystem:
    """The module `sys` as ftloop sees it, with the name of another system."""

    def __init__(self, platform: str) -> None:
        self.__dict__["platform"] = platform

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(sys, name, value)


@contextmanager
def windows(folder: Path) -> Iterator[None]:
    """Run ftloop as on Windows within. Of `folder` nothing that is open can be moved or deleted."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, names in TAKEN_AWAY.items():
            for name in names:
                patch.delattr(owner, name, raising=False)
        for name in MODULES:
            patch.setitem(sys.modules, name, None)
        patch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=LK_NBLCK, locking=_locking))
        for name, module in [*sys.modules.items()]:
            if name.split(".")[0] == "ftloop" and getattr(module, "sys", None) is sys:
                patch.setattr(module, "sys", OtherSystem("win32"))
        patch.setattr(os, "open", _refusing_folders(os.open))
        patch.setattr(os, "fsync", _of_what_may_be_written(os.fsync))
        patch.setattr(os, "replace", _of_closed_files(os.replace, folder))
        patch.setattr(os, "unlink", _of_closed_files(os.unlink, folder))
        patch.setattr(shutil, "rmtree", _of_closed_files(shutil.rmtree, folder))
        yield


def _locking(file: int, mode: int, length: int) -> None:
    assert (mode, length) == (LK_NBLCK, 1)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, os.lseek(file, 0, os.SEEK_CUR))
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


def _refusing_folders(real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if "dir_fd" not in kwargs and os.path.isdir(path) and not flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *args, **kwargs)

    return opened


def _of_what_may_be_written(real: Callable[[int], None]) -> Callable[[int], None]:
    def sync(file: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(file)

    return sync


def _of_closed_files(real: Callable[..., None], folder: Path) -> Callable[..., None]:
    def change(*paths: Any, **kwargs: Any) -> None:
        watched = [path for path in paths if not kwargs and folder in Path(path).parents]
        if len(watched) == 2 and Path(watched[1]).is_dir():
            raise PermissionError(errno.EACCES, "Access is denied", str(watched[1]))
        held = open_files() if watched else set()
        for path in watched:
            whole = os.path.realpath(path)
            if any(file == whole or file.startswith(whole + os.sep) for file in held):
                raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
        real(*paths, **kwargs)

    return change


def open_files() -> set[str]:
    """Return the files that this process has open or mapped."""
    held = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            held.add(os.readlink(link))
        except OSError:  # that of the listing itself
            continue
    for line in Path("/proc/self/maps").read_text().splitlines():
        held.add(line.partition("/")[1] + line.partition("/")[2])
    return held
