"""Write files and folders so that they are there whole or not at all, whenever the process dies.

A folder is written beside its place, under a name that nobody reads, with a manifest of the size and sha256 of every
file; synced to the disk; and put in place by one rename. What a process that died has left behind is cleared away at
the next start.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ftloop.errors import FtloopError, SaveError, is_lost_contact, summarize
from ftloop.system.console import say

# Names of folders on their way; none may start with `checkpoint-`: Trainer would take the folder for a checkpoint.
STAGING, REPLACED, DELETED = ".staging-", ".replaced-", ".deleted-"
BROKEN = "broken-"

T = TypeVar("T")


def retry_once(what: str, work: Callable[[], T]) -> T:
    """Do `work`, which writes something; if it fails, once more. Raises: SaveError when it fails again.

    Nearly any exception counts as a failure to write: tokenizers raises a bare `Exception`, torch a RuntimeError.
    """
    try:
        return work()
    except Exception as error:
        if _is_final(error):
            raise
        say("Saving", f"{what} failed ({summarize(error)}); trying once more")
    try:
        return work()
    except Exception as error:
        if _is_final(error):
            raise
        raise SaveError(f"{what} could not be saved, twice: {summarize(error)}") from error


def _is_final(error: Exception) -> bool:
    """Whether trying again is of no use: a bug, an error already explained, or another process is gone."""
    is_bug = isinstance(error, (TypeError, AttributeError, NameError, LookupError, AssertionError))
    return is_bug or isinstance(error, FtloopError) or is_lost_contact(error)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system


def save_text(path: Path, text: str) -> None:
    """Write a small file as `write_text` does; if that fails, once more. Raises: SaveError."""
    retry_once(path.name, lambda: write_text(path, text))


def replace(source: Path, target: Path) -> None:
    """Rename. Windows refuses it while a scanner looks at what is new: there it is tried again for some seconds."""
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6) if sys.platform == "win32" else ():
        with suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(pause)
    os.replace(source, target)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write to, which takes its place when all is written; after an error it is gone."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        replace(partial, path)
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def commit_folder(staging: Path, final: Path) -> None:
    """Make a staged folder the folder `final`, by one rename, with what it holds safely on the disk.

    A folder that is there already is replaced: it goes aside first, and `remove_partial_saves` brings it back if the
    process dies between the two renames. A file in the way is no folder of ours and is set aside for good.
    """
    sync_all(staging)
    aside = final.with_name(f"{REPLACED}{final.name}")
    if final.is_dir() and not final.is_symlink():
        replace(final, aside)
    elif final.is_symlink() or final.exists():
        quarantine(final)
    try:
        replace(staging, final)
        sync(final.parent)
    except OSError:
        if aside.exists() and not final.exists():
            replace(aside, final)
        raise
    remove(aside)


def move_files(staging: Path, folder: Path) -> list[str]:
    """Put the files of a staged folder among others, one rename each. Returns: their names."""
    sync_all(staging)
    names = files_in(staging)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        replace(staging / name, folder / name)
    for within in {folder, *((folder / name).parent for name in names)}:
        sync(within)
    _delete(staging)
    return names


def files_in(folder: Path) -> list[str]:
    """Return the files of a folder and of those within, as a tokenizer has with several chat templates; with `/`."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def remove(path: Path) -> None:
    """Delete a folder in one step, so that none is ever seen half deleted."""
    if not path.exists():
        return
    if not path.name.startswith((DELETED, REPLACED)):
        doomed = path.with_name(f"{DELETED}{path.name}")
        _delete(doomed)
        replace(path, doomed)
        path = doomed
    _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def quarantine(path: Path) -> Path:
    """Rename what cannot be used to `broken-<name>`, where it is out of the way and can be looked at."""
    aside = path.with_name(f"{BROKEN}{path.name}")
    number = 1
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = path.with_name(f"{BROKEN}{path.name}-{number}")
    replace(path, aside)
    sync(path.parent)
    return aside


def remove_partial_saves(root: Path) -> None:
    """Finish or undo what a process that died in the middle of a save or a deletion has left in `root`."""
    for aside in root.glob(f"{REPLACED}*"):
        final = root / aside.name.removeprefix(REPLACED)
        if not final.exists():
            replace(aside, final)
    for pattern in (f"{STAGING}*", f"{REPLACED}*", f"{DELETED}*", ".*.partial"):
        for path in root.glob(pattern):
            _delete(path)


def sync(path: Path) -> None:
    """Force a file or a folder to the disk: a rename lasts through a power cut only once its folder is there too. Where
    the system or its file system syncs no folders, that is left to them."""
    is_windows = sys.platform == "win32"
    if is_windows and path.is_dir():  # it opens none
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)  # there it syncs what it may write
    try:
        if sys.platform == "darwin":  # where fsync goes no further than to the cache of the drive
            import fcntl

            with suppress(OSError):  # not every file system has it
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Sync every file and folder in a folder, and the folder itself."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)
