"""Compressed files: .gz, .bz2, .xz, and .zip archives of one file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ftloop.system.text import join_some

_OPEN: dict[str, Callable[..., Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
COMPRESSIONS = (*_OPEN, "zip")
OUTPUT_COMPRESSIONS = tuple(_OPEN)
_OTHER_ENDINGS = {
    "ndjson": "jsonl",
    "jsonlines": "jsonl",
    "ldjson": "jsonl",
    "tab": "tsv",
    "pq": "parquet",
    "feather": "arrow",
}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, NotImplementedError)
"""What reading a damaged file raises, beside OSError; the last also for a compression that Python does not know."""


class Decompressed(io.BufferedReader):
    """The content of a compressed file."""

    def __init__(self, stored: IO[bytes], compression: str) -> None:
        """Raises: ValueError for an archive that is not one of one file, or has a password."""
        content = _zip_content(stored) if compression == "zip" else _OPEN[compression](stored, "rb")
        super().__init__(content, buffer_size=2**16)
        self.stored = stored


def compressing(file: IO[bytes], compression: str) -> Any:
    """Return a file whose content is written compressed into another."""
    return _OPEN[compression](file, "wb")


def share_read(file: IO[bytes]) -> float | None:
    """Return which share of a file has been read, by its bytes on the disk; None for a pipe."""
    stored = file.stored if isinstance(file, Decompressed) else file
    try:
        return stored.tell() / os.fstat(stored.fileno()).st_size
    except (OSError, ValueError, ZeroDivisionError):
        return None


def split_endings(path: Path) -> tuple[str, str | None]:
    """Return the format and the compression that a file's endings name: `csv` and `gz` of `rows.csv.gz`."""
    ending = _format(path)
    if ending not in COMPRESSIONS:
        return ending, None
    inner = _format(Path(path.stem))
    return inner or _zip_ending(path) if ending == "zip" else inner, ending


def _format(path: Path) -> str:
    ending = path.suffix.lower().removeprefix(".")
    return _OTHER_ENDINGS.get(ending, ending)


def _zip_ending(path: Path) -> str:
    """Return the ending of the file in an archive; none where that cannot be seen."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _format(Path(_only_member(archive).filename))
    except (OSError, ValueError, *DAMAGED):
        return ""


def zip_problem(path: Path) -> str | None:
    """Return why the file in an archive cannot be seen, if it cannot."""
    try:
        with zipfile.ZipFile(path) as archive:
            _only_member(archive)
    except (ValueError, *DAMAGED) as error:
        return str(error)
    return None


def _zip_content(stored: IO[bytes]) -> Any:
    archive = zipfile.ZipFile(stored)
    member = _only_member(archive)
    if member.flag_bits & 1:
        raise ValueError("the zip archive has a password; unpack it")
    return archive.open(member)


def _only_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    members = [member for member in members if not member.filename.startswith("__MACOSX/")]  # macOS adds them
    if len(members) != 1:
        names = join_some([member.filename for member in members], 5) or "none"
        raise ValueError(f"a zip archive of one file is read, and this holds {names}; unpack it")
    return members[0]
