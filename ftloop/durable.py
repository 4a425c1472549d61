"""Files and folders that are there whole or not at all, whenever the process dies; and that are known to be whole.

A folder is written beside its place, under a name that nobody reads, with a manifest of the size and sha256 of every
file; synced to the disk; and put in place by one rename. What a process that died has left behind is cleared away at
the next start.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ftloop.errors import FtloopError, SaveError, UserError, first_line, is_lost_contact

if sys.platform != "win32":
    import fcntl

MANIFEST = "ftloop_manifest.json"
FACTS = "ftloop_run.json"
LOCK = ".ftloop.lock"
STAGING = ".staging-"  # none of these may start with `checkpoint-`: Trainer would take the folder for a checkpoint
REPLACED = ".replaced-"
DELETED = ".deleted-"
BROKEN = "broken-"

# A fault of the program's, whatever it was about to write.
FAULTS = (TypeError, AttributeError, NameError, LookupError, AssertionError)
T = TypeVar("T")


def retried(what: str, work: Callable[[], T], say: Callable[[str], None]) -> T:
    """Do `work`, which writes something; where that fails, once more. Raises: SaveError when it fails again.

    Nearly any exception counts as a failure to write: tokenizers raises a bare `Exception`, torch a RuntimeError.
    """
    for is_last in (False, True):
        try:
            return work()
        except (FtloopError, *FAULTS):
            raise
        except Exception as error:
            if is_lost_contact(error):
                raise
            if is_last:
                raise SaveError(f"{what} could not be saved, twice: {first_line(error)}") from error
            say(f"Saving    {what} failed ({first_line(error)}); trying once more")
    raise AssertionError("not reached")


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    write_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` make a file, so that it is at `path` whole or not at all."""
    with whole_file(path) as partial:
        write(partial)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when all is written; after an error it is gone."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def put_in_place(staging: Path, final: Path) -> None:
    """Make a staged folder the folder `final`, by one rename, with what it holds safely on the disk.

    A folder that is there already is replaced: it goes aside first, and `clear_leftovers` brings it back should the
    process die between the two renames. A file in the way is no folder of ours and is set aside for good.
    """
    sync_all(staging)
    aside = final.with_name(f"{REPLACED}{final.name}")
    if final.is_dir() and not final.is_symlink():
        os.replace(final, aside)
    elif final.is_symlink() or final.exists():
        set_aside(final)
    try:
        os.replace(staging, final)
        sync(final.parent)
    except OSError:
        if aside.exists() and not final.exists():
            os.replace(aside, final)
        raise
    remove(aside)


def move_files(staging: Path, folder: Path) -> list[str]:
    """Put the files of a staged folder among others, one rename each. Returns: their names."""
    sync_all(staging)
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        os.replace(staging / name, folder / name)
    sync(folder)
    staging.rmdir()
    return names


def remove(path: Path) -> None:
    """Take a folder away in one step, so that none is ever seen half deleted."""
    if not path.exists():
        return
    doomed = path if path.name.startswith((DELETED, REPLACED)) else path.with_name(f"{DELETED}{path.name}")
    if doomed != path:
        _delete(doomed)
        os.replace(path, doomed)
    _delete(doomed)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename what cannot be used to `broken-<name>`, where it is out of the way and can be looked at."""
    aside = path.with_name(f"{BROKEN}{path.name}")
    number = 1
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = path.with_name(f"{BROKEN}{path.name}-{number}")
    os.replace(path, aside)
    sync(path.parent)
    return aside


def clear_leftovers(root: Path) -> None:
    """Finish or undo what a process that died in the middle of a save or a deletion has left in `root`."""
    for aside in root.glob(f"{REPLACED}*"):
        final = root / aside.name.removeprefix(REPLACED)
        if not final.exists():
            os.replace(aside, final)
    for pattern in (f"{STAGING}*", f"{REPLACED}*", f"{DELETED}*", ".*.partial"):
        for path in root.glob(pattern):
            _delete(path)


def sync(path: Path) -> None:
    """Have a file on the disk, or a folder: a rename lasts through a power cut only once its folder is there too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Sync every file of a folder, and the folder itself."""
    for path in sorted(folder.iterdir()):
        sync(path)
    sync(folder)


def file_facts(folder: Path, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of the named files of a folder; by default of all but the manifest."""
    if names is None:
        names = [path.name for path in folder.iterdir() if path.name != MANIFEST]
    return {name: _facts(folder / name) for name in sorted(names)}


def _facts(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `facts`, with `files` among them, and a digest that tells whether the manifest itself is whole."""
    write_text(folder / MANIFEST, _canonical(facts | {"digest": _digest(facts)}))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none. Raises: UserError when it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    facts = read_json(path)
    if facts.pop("digest", None) != _digest(facts) or not isinstance(facts.get("files"), dict):
        raise UserError(f"{path}: is damaged (its digest differs)")
    return facts


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of ours holds. Raises: UserError when it cannot be read, or is no object of names and values."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not readable ({first_line(error)})") from error


def _canonical(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, sort_keys=True) + "\n"


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(facts).encode()).hexdigest()


def faults(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with the files of a folder, held against the `files` of its manifest; one phrase each."""
    found = []
    for name, facts in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != facts["size"]:
                found.append(f"{name} has {size} bytes instead of {facts['size']}")
            elif _facts(path) != facts:
                found.append(f"{name} is not what was written (its sha256 differs)")
        except FileNotFoundError:
            found.append(f"{name} is missing")
        except OSError as error:
            found.append(f"{name} cannot be read ({error.strerror})")
    return found


def check_writable(folder: str, flag: str) -> None:
    """Raises: UserError when nothing can be written there. Leaves nothing behind."""
    path = Path(folder)
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists() or each.is_symlink())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be written ({error.strerror})") from None


_held: set[str] = set()


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run alone, cleared of what one that died in the middle of a save has left. A folder made
    for that is gone again if nothing was put into it.

    Raises: UserError when another run holds it, or nothing can be written there.
    """
    name = os.path.realpath(folder)
    if name in _held:
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in made:
            sync(each.parent)
        lock = _lock(folder)
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror})") from None
    _held.add(name)
    try:
        clear_leftovers(folder)
        yield
    finally:
        _held.remove(name)
        with suppress(OSError):  # what is left is no lock, only a file
            (folder / LOCK).unlink()  # before the lock is let go: whoever comes next makes a file anew
        os.close(lock)
        with suppress(OSError):
            for each in made:
                each.rmdir()


def _lock(folder: Path) -> int:
    """The descriptor of the locked file. The lock is this process's: the kernel lifts it however the process ends, and
    child processes, which may outlive it, do not inherit it.
    """
    while True:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if sys.platform != "win32":
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                print(f"Locking   not possible in {folder}: nothing keeps a second run out of it", flush=True)
                return lock
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
            os.close(lock)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"output_dir: another run is using {folder} ({holder or 'it has just begun'}); "
                    "wait for it or stop it, or choose another --output_dir"
                ) from None
            raise
        if (folder / LOCK).exists() and os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return lock
        os.close(lock)  # its holder has just ended and taken the file away
