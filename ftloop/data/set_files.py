"""Find the files of a set: those named, those of a pattern, or those in a folder."""

from __future__ import annotations

import glob
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from ftloop.data.class_tables import told_of_class_folders
from ftloop.data.compression import split_endings
from ftloop.data.conversions import SETS, UnknownForm, told_of_files, told_of_folders
from ftloop.data.dialect import settle, shows_columns
from ftloop.data.recognize import recognize
from ftloop.data.sources import (
    AS_NAMED,
    FASTTEXT,
    FOLDERS,
    FORMATS,
    INPUT_FORMATS,
    TABLES,
    TEXTS,
    Reading,
    Source,
    file_source,
    find_file,
    find_format,
    no_ending,
    way_of_address,
)
from ftloop.data.text_folders import class_files
from ftloop.errors import UserError
from ftloop.system.console import say
from ftloop.system.text import expand_path, join_some


def find_files(
    given: str | Sequence[str],
    flag: str,
    reading: Reading = AS_NAMED,
    format: str | None = None,
    console: TextIO | None = None,
    like: Source | None = None,
) -> list[Source]:
    """Return the files of a set: those named, in their order; those of a pattern or a folder by their names. `format`:
    of all of them, whatever their names say. A table that leaves a doubt is read as `like`, of the training set, is.

    Raises: UserError when there is none, or one is missing, empty or of a format not read here.
    """
    try:
        return _find_files(given, flag, reading, format, console, like)
    except UnknownForm:
        told = told_of_files(given, flag)
        if told is None and flag != "input":
            told = told_of_class_folders(given, flag, reading)
        if told is None:
            raise
        raise UserError(f"{flag}: {told}") from None


def _find_files(
    given: str | Sequence[str],
    flag: str,
    reading: Reading,
    format: str | None,
    console: TextIO | None,
    like: Source | None,
) -> list[Source]:
    found = []
    paths = [given] if isinstance(given, str) else given
    for path in paths:
        if format is None and (folders := _class_folders(path, flag, reading, console)) is not None:
            found.append(folders)
            continue
        files = _expand(path, flag)
        if files != [path]:
            say("Files", f"{flag} {path}: {join_some([os.path.basename(file) for file in files], 5)}", console)
        for file in files:
            check_file(file, flag, format, reading)
            source = file_source(expand_path(file, flag), reading)
            source = settle(source if format is None else replace(source, format=format), flag, console, like)
            if format is None and source.format == TEXTS and len(files) + len(paths) > 2:
                _ask_for_texts(path, flag, like)
            found.append(source)
    places = [source.path for source in found]
    twice = next((source.name for source in found if places.count(source.path) > 1), None)
    if twice is not None:
        raise UserError(f"{flag}: {twice} is there twice; its rows would count double")
    extra = [f"--{name}" for name in ("delimiter", "column_names") if getattr(reading, name) is not None]
    if extra and not any(source.format in (*TABLES, TEXTS) for source in found):
        raise UserError(f"{', '.join(extra)}: only for {', '.join(TABLES)}, and {found[0].name} is {found[0].format}")
    return found


def _ask_for_texts(path: str, flag: str, like: Source | None) -> None:
    """Raises: UserError where several files may be a text each, as those of the class folders that they are `like`."""
    told = f"{flag}: {path}: is each of several files one text, or each line of it?"
    if flag == "input":
        other = "for a text a file put them into a folder within another, such as texts/all, and name texts"
        raise UserError(f"{told} --input_format {TEXTS} reads a text a line; {other}")
    if like is not None and like.format == FOLDERS:
        other = "for a text a file put the files into a folder within another, as texts/unknown, and name texts"
        raise UserError(f"{told} For a text a line put all lines into one file; {other}")


def names_several(path: str, flag: str) -> bool:
    """Whether a path may be that of more than one file: a folder or a pattern."""
    place = str(expand_path(path, flag))
    try:
        return os.path.isdir(place) or (glob.has_magic(place) and not os.path.lexists(place))
    except ValueError:  # a NUL in it
        return False


def _class_folders(path: str, flag: str, reading: Reading, console: TextIO | None) -> Source | None:
    """Return a folder that holds a folder for each class, and say so; None for anything else. Texts that lie beside two
    classes or more and show no columns are left out.
    """
    folder = expand_path(path, flag)
    if not os.path.isdir(folder):  # False also for a name that is none, which is told later
        return None
    plain = [find_format(file) == "txt" and not shows_columns(file_source(file)) for file in _data_files(folder)]
    classes = class_files(folder) if all(plain) else {}
    if len(classes) < (2 if plain else 1) or all(_set_of(Path(name)) for name in classes):
        return None
    counts = [f"{label} ({len(files)})" for label, files in classes.items()]
    others = sorted(each.name for each in folder.iterdir() if each.name not in classes)
    left_out = f"; left out: {join_some(others, 5)}" if others else ""
    say("Files", f"{flag} {path}: a folder for each class, a text a file: {join_some(counts, 5)}{left_out}", console)
    if flag != "input" and (told := told_of_folders(folder, classes)) is not None:
        say("Warning", told, console)
    return Source(folder, path, FOLDERS, None, reading)


def check_file(path: str, flag: str, format: str | None = None, reading: Reading = AS_NAMED) -> None:
    """Raises: UserError when the file is missing, empty or of a format not read here, which `format` may name."""
    file, found = find_file(path, flag)
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{flag}: {path} is a pipe or a device, not a file")
    if (format or find_format(file, reading)) not in INPUT_FORMATS:
        raise UnknownForm(f"{flag}: {no_ending(file, FORMATS)}")
    if found.st_size == 0:
        raise UserError(f"{flag}: {path} is empty")


def _expand(path: str, flag: str) -> list[str]:
    """Return the files that a path, a pattern or a folder names."""
    place = str(expand_path(path, flag))
    if not names_several(path, flag):
        return [path]
    if os.path.isdir(place):
        return _files_in(Path(place), flag)
    files = sorted(file for file in glob.glob(place, recursive=True) if os.path.isfile(file))
    if not files:
        raise UserError(f"{flag}: no file matches {path}{way_of_address(path)}")
    return files


def _files_in(folder: Path, flag: str) -> list[str]:
    """Return the files of a folder, or of the data set that `save_to_disk` has written there."""
    splits = saved_splits(str(folder))
    if splits is not None:
        split = flag.removesuffix("_file")
        if split not in splits:
            raise UserError(f"{flag}: {folder} has no split {split}, only {', '.join(splits)}; name the folder of one")
        folder /= split
    if (folder / "state.json").is_file():
        try:
            saved = json.loads((folder / "state.json").read_text("utf-8"))
            return [str(folder / os.path.basename(file["filename"])) for file in saved["_data_files"]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{flag}: {folder}/state.json is not that of a data set ({type(error).__name__})") from None
    files = _data_files(folder) or sorted(file for file in folder.iterdir() if _shows_format(file))
    names = join_some([file.name for file in files], 5)
    if not files:
        told = f"the folder {folder} holds no file with one of the endings {', '.join(FORMATS)}"
        raise UnknownForm(f"{flag}: {told}{_what_is_in(folder)}")
    if len({_set_of(file) for file in files} - {None}) > 1 or len({split_endings(file) for file in files}) > 1:
        way = f"name some, or a pattern such as '{folder}/train*'"
        raise UnknownForm(f"{flag}: the folder {folder} holds files of several sets or formats ({names}); {way}")
    return list(map(str, files))


def _what_is_in(folder: Path) -> str:
    """Return what to say of a folder without files that are read: what a file in it is, or else the names."""
    entries = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    for file in entries:
        if file.is_file():
            with Source(file, str(file), "").open() as content:
                what = recognize(content.read(2**16))
            if what is not None:
                return f"; {file.name} in it is {what}"
    folders = [each.name for each in entries if each.is_dir()]
    if folders:
        return f"; it holds the folders {join_some(folders, 5)}: name one"
    return f"; it holds {join_some([each.name for each in entries], 5) or 'nothing'}"


def _data_files(folder: Path) -> list[Path]:
    """Return the files of a folder that have the ending of a format."""
    files = sorted(file for file in folder.iterdir() if split_endings(file)[0] in FORMATS and file.is_file())
    return [file for file in files if not re.match(r"\.|dataset_infos?\.json$", file.name)]


def _shows_format(file: Path) -> bool:
    return not file.name.startswith(".") and find_format(file) in (*FORMATS, FASTTEXT)


def _set_of(file: Path) -> str | None:
    words = set(re.split(r"[^a-z]+", file.name.lower()))
    return next((name for name, known in SETS.items() if words & set(known.split())), None)


def saved_splits(path: str | Sequence[str] | None) -> list[str] | None:
    """Return the splits of a folder that `DatasetDict.save_to_disk` has written; None for anything else."""
    if not isinstance(path, str):
        return None
    try:
        return list(json.loads((Path(path).expanduser() / "dataset_dict.json").read_text("utf-8"))["splits"])
    except (OSError, ValueError, LookupError, TypeError, RuntimeError):
        return None
