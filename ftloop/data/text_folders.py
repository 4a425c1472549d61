"""Folders of texts: a folder for each class, and in it a text a file, as film reviews and newsgroups are published."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ftloop.data.encoding import find_codec, undecodable, without_bad_bytes
from ftloop.data.recognize import recognize
from ftloop.data.rows import Row
from ftloop.data.sources import Source
from ftloop.data.values import is_utf8
from ftloop.errors import UserError, os_reason, summarize

COLUMNS = ("text", "label", "file")
UNLABELLED = {"unsup", "unsupervised", "unlabeled", "unlabelled"}
"""Folders of texts that have no class, as IMDb's reviews have one beside the classes."""


def class_files(folder: Path) -> dict[str, list[str]]:
    """Return the names of the texts in each folder that is a class, both sorted.

    Raises: UserError for a class that holds anything else beside its texts, or a folder that cannot be read.
    """
    found, mixed = {}, []
    try:
        for each in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if each.name.startswith((".", "__")) or each.name.lower() in UNLABELLED or not each.is_dir():
                continue
            entries = sorted((entry.name, _is_text(entry)) for entry in os.scandir(each) if entry.name[0] != ".")
            others = [name for name, is_text in entries if not is_text]
            if entries and not others:
                found[each.name] = [name for name, _ in entries]
            elif any(name.lower().endswith(".txt") for name, _ in entries):
                mixed.append(f"{each.path} holds texts and {others[0]}; the folder of a class holds .txt files alone")
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({os_reason(error)})") from None
    if found and mixed:
        raise UserError(*mixed)
    return found


def _is_text(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and os.path.splitext(entry.name)[1].lower() in (".txt", "")


def folders_key(source: Source) -> tuple[str, str]:
    """Identify all files of the classes as they are now."""
    assert source.path is not None
    digest = hashlib.sha256()
    for label, names in class_files(source.path).items():
        for name in names:
            stat = os.stat(source.path / label / name)
            digest.update(f"{label}/{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
    return os.path.abspath(source.path), digest.hexdigest()


def read_folders(source: Source) -> Iterator[Row]:
    """Read a row for each file, by class and name."""
    assert source.path is not None
    files = [(label, name) for label, names in class_files(source.path).items() for name in names]
    for number, (label, name) in enumerate(files, start=1):
        text, error = _read_text(source.path / label / name, source.reading.encoding)
        file = f"{label}/{name}"
        yield Row(number, {"text": text, "label": label, "file": file}, error and f"{file} {error}")


def _read_text(path: Path, encoding: str | None) -> tuple[str, str | None]:
    """Return the text of a file without its last line end, and what is wrong with it."""
    try:
        content = path.read_bytes()
        text = content.decode(find_codec(content[:4], encoding), "surrogateescape").rstrip("\r\n")
    except UnicodeError as error:  # surrogates stand for single bytes; UTF-16 and others end at a bad one
        return "", f"cannot be decoded ({summarize(error)})"
    except OSError as error:
        return "", f"cannot be read ({os_reason(error)})"
    if (what := recognize(content[:4096])) is not None:
        return "", f"is {what}"
    if not is_utf8(text):
        return without_bad_bytes(text), f"is {undecodable(text, encoding)}"
    return text, None
