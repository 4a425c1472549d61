"""A lock on a folder, released by the system when its process ends."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftloop.errors import UserError
from ftloop.system.atomic import remove_partial_saves, sync
from ftloop.system.console import say

LOCK = ".ftloop.lock"
FAR = 2**20  # behind all that is written
_held: set[str] = set()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run alone, cleared of what one that died in the middle of a save has left. A folder made
    for that is gone again if nothing was put into it. Nested calls of one process are one.

    Not by filelock: it leaves its file in the folder, does not name the holder, and falls back to a lock that outlives
    a killed process; and which of its versions let go of a lock that a forked child has inherited is not documented.
    Raises: UserError when another run holds it, or nothing can be written there.
    """
    name = os.path.realpath(folder)
    if name in _held:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            sync(path.parent)
        lock = _lock(folder)
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror})") from None
    _held.add(name)
    try:
        remove_partial_saves(folder)
        yield
    finally:
        _held.remove(name)
        with suppress(OSError):  # what is left is no lock, only a file
            (folder / LOCK).unlink()  # before the lock is let go: whoever comes next makes a file anew
        os.close(lock)
        with suppress(OSError):
            if sys.platform == "win32":  # where no file goes that is open
                (folder / LOCK).unlink()
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _lock(folder: Path) -> int:
    """Return the descriptor of the locked file. The lock is this process's: the kernel lifts it however the process
    ends, and child processes, which may outlive it, do not inherit it.
    """
    while True:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(lock)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                say("Locking", f"not possible in {folder}: nothing keeps a second run out of it")
                return lock
            os.lseek(lock, 0, os.SEEK_SET)
            holder = os.read(lock, 200).decode(errors="replace").strip() or "it has just begun"
            os.close(lock)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"output_dir: another run is using {folder} ({holder}); "
                    "wait for it or stop it, or choose another --output_dir"
                ) from None
            raise
        if sys.platform == "win32" or _is_same(folder / LOCK, lock):
            os.truncate(lock, 0)
            os.lseek(lock, 0, os.SEEK_SET)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return lock
        os.close(lock)  # its holder has just ended and taken the file away


def _take(lock: int) -> None:
    """Lock a file. Raises: OSError at once where another process has locked it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(lock, FAR, os.SEEK_SET)  # what is locked nobody else can read
        msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_same(path: Path, file: int) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file), os.stat(path))
