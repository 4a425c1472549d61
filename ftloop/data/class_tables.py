"""Tables that hold a class each, which their names or those of their folders tell, and one that holds them all."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ftloop.data.columns import is_usual_label
from ftloop.data.compression import split_endings
from ftloop.data.conversions import SETS
from ftloop.data.csv_rows import dialect_of, escapes_quotes
from ftloop.data.dialect import settle
from ftloop.data.encoding import find_codec
from ftloop.data.files import column_names
from ftloop.data.sources import AS_NAMED, TABLES, Reading, Source, file_source
from ftloop.errors import UserError
from ftloop.system.shell import quote
from ftloop.system.text import expand_path, join_some, short_repr

MAX_FILES = 50
MAX_NAMED = 5


def told_of_class_folders(given: str | Sequence[str], flag: str, reading: Reading = AS_NAMED) -> str | None:
    """Say that a folder holds a folder of tables for each class, as `told_of_class_tables`; None for anything else."""
    paths = [given] if isinstance(given, str) else given
    try:
        folder = expand_path(paths[0], flag)
        files = sorted(file for file in folder.glob("*/*") if split_endings(file)[0] in TABLES and file.is_file())
        if len(paths) > 1 or not folder.is_dir() or len(files) > MAX_FILES:
            return None
        told = told_of_class_tables([settle(file_source(file, reading), flag) for file in files])
    except (OSError, UserError):
        return None
    return told and f"the folder {folder} holds folders of tables without a label; {told}"


def told_of_class_tables(sources: Sequence[Source]) -> str | None:
    """Say how several tables with the same columns, of which none could be the label, are made one that has their names
    for labels; None where the columns differ, or the names are those of sets or parts.
    """
    paths = [source.path for source in sources if source.path is not None and source.format in TABLES]
    if not 2 <= len(sources) <= MAX_FILES or len(paths) < len(sources):
        return None
    columns = [column_names([source]) for source in sources]
    dialects = {_dialect(source) for source in sources}
    names = _class_names(paths)
    differ = any(each != columns[0] for each in columns) or len(dialects) > 1 or len(sources[0].delimiter) > 1
    if names is None or differ or any(map(is_usual_label, columns[0])):
        return None
    kind, classes = names
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    made = folder / ("labelled.tsv" if sources[0].delimiter == "\t" else "labelled.csv")
    command = f"python -c {quote(_code(dict(zip(paths, classes, strict=True)), made, *dialects.pop()))}"
    shown = join_some([short_repr(name) for name in dict.fromkeys(classes)], MAX_NAMED)
    leave = "; leave out --column_names then" if sources[0].reading.column_names else ""
    told = f"if each {kind} holds a class ({shown}), this makes {made.name} of them, with its name in a column label"
    return f"{told}, which is read{leave}: {command}"


def _class_names(paths: Sequence[Path]) -> tuple[str, list[str]] | None:
    """Return what names the classes, file or folder, and for each file its class."""
    folders = [path.absolute().parent.name for path in paths]
    kind, names = "folder", folders
    if len({path.absolute().parent for path in paths}) == 1:
        kind, names = "file", [path.name.partition(".")[0] for path in paths]
        if len(set(names)) < len(names):
            return None
    are_numbered = len({re.sub(r"\d+", "", name) for name in names}) < 2
    sets = {word for words in SETS.values() for word in words.split()}
    are_sets = any(sets & {*re.split("[^a-z]+", name.lower())} for name in names)
    return None if are_numbered or are_sets else (kind, names)


def _dialect(source: Source) -> tuple[tuple[str, str], ...]:
    """Return what pandas has to be told of a table to read it as it is read here, and what to write it."""
    with source.open() as file:
        codec = find_codec(file.read(4), source.reading.encoding)
    reads, both = ["dtype=str", "keep_default_na=False"], []
    if source.delimiter != ",":
        both.append(f"sep={json.dumps(source.delimiter)}")
    if codec.lower() not in ("utf-8", "utf-8-sig", "utf8"):
        both.append(f"encoding={json.dumps(codec)}")
    if dialect_of(source)[1] == csv.QUOTE_NONE:
        reads.append(f"quoting={csv.QUOTE_NONE}")
    if escapes_quotes(source):
        reads.append(r'escapechar="\\"')
    if source.reading.column_names:
        reads.append(f"names={json.dumps(source.reading.column_names, ensure_ascii=False)}")
    return tuple([("read", each) for each in [*reads, *both]] + [("write", each) for each in ["index=False", *both]])


def _code(classes: dict[Path, str], made: Path, *dialect: tuple[str, str]) -> str:
    reads, writes = (", ".join(what for for_, what in dialect if for_ == kind) for kind in ("read", "write"))
    pairs = json.dumps({str(path): name for path, name in classes.items()}, ensure_ascii=False)
    each = f"pd.read_csv(f, {reads}).assign(label=c) for f, c in {pairs}.items()"
    return f"import pandas as pd; pd.concat({each}).to_csv({json.dumps(str(made), ensure_ascii=False)}, {writes})"
