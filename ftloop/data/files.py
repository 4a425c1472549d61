"""Read the files of a set for training. Every error names its file and row.

Rows go through Arrow on disk, so a large file is never held in memory (a json list is, while it is read). Every value
is kept as text, a list of labels as a list of texts: what a label means (a class or a number) is decided over all rows,
in find_labels.py, not by the first ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import datasets

from ftloop.data.arrow_rows import read_schema
from ftloop.data.cache import cached, file_key
from ftloop.data.csv_rows import HEADER_AGAIN
from ftloop.data.readers import read_chunks, read_columns, read_rows
from ftloop.data.sources import (
    COLUMNAR,
    FASTTEXT,
    FOLDERS,
    TABLES,
    Source,
    file_source,
)
from ftloop.data.text_folders import folders_key
from ftloop.data.values import (
    BesideLists,
    as_label,
    as_names,
    as_text,
    is_missing,
    plain_number,
    texts_within,
    way_to_text,
)
from ftloop.errors import UserError
from ftloop.system.console import say
from ftloop.system.text import expand_path, join_some, pluralize
from ftloop.version import __version__

MAX_LABELS = 100
"""More of one file are not compared with those of another."""
T = TypeVar("T")
Files = str | Sequence[Source]
"""One path, or the files of a set in their order."""


def column_names(files: Files) -> list[str]:
    """Return the columns of the first file, from its header or, for json, its first rows, and the fields within them;
    as `read_columns`.
    """
    source = _sources(files)[0]
    return cached(_key(source), f"columns and fields {source.reading}", lambda: read_columns(source, fields=True))


def file_class_names(source: Source, column: str) -> list[str] | None:
    """Return the names of the classes in a column that the file's features list, as data sets of the hub have them, or
    that it has from another file.
    """
    if source.class_names is not None:
        return list(source.class_names)
    if source.format not in COLUMNAR:
        return None
    try:
        feature = datasets.Features.from_arrow_schema(read_schema(source)).get(column)
    except Exception:  # features that are none, or of a later version of datasets: then there are no names
        return None
    return getattr(getattr(feature, "feature", feature), "names", None)


def holds_lists(files: Files, column: str) -> bool:
    """Whether the values of a column are lists, or mappings of names to 0 or 1, going by the first one. Later values of
    another kind are an error.
    """
    source = _sources(files)[0]
    column = source.own_name(column)
    if source.format in TABLES:
        return False

    def first_is_list() -> bool:
        values = (row.values.get(column) for row in read_rows(source, [column]))
        first = next((value for value in values if not is_missing(value)), None)
        return isinstance(first, list) or (isinstance(first, dict) and texts_within(first) is None)

    return cached(_key(source), f"lists: {column}", first_is_list)


def read_table(
    files: Files,
    text_columns: Sequence[str],
    label_column: str | None,
    lists: bool = False,
    label_delimiter: str | None = None,
) -> Any:
    """Return the rows of files as a `datasets.Dataset` of strings: the text columns and, if there is one, the label, a
    class by its name. Where labels are `lists`, or are split at `label_delimiter`, each is a list of strings; beside
    texts, lists are texts too.

    Raises: UserError when there is no row, or naming file, line and column of the first error.
    """
    sources = _sources(files)
    columns = [*text_columns, *([label_column] if label_column else [])]
    list_column = label_column if lists or label_delimiter is not None else None
    types: dict[str, Any] = {name: datasets.Value("string") for name in columns}
    if list_column is not None:
        types[list_column] = datasets.List(datasets.Value("string"))
    try:
        table = datasets.Dataset.from_generator(
            _text_rows,
            features=datasets.Features(types),
            # The keys make a changed file, or another version's reading, miss the cache, which knows the arguments
            # alone. Tuples, because a list would be taken for shards, one call of the generator for each.
            gen_kwargs={
                "sources": sources,
                "columns": tuple(columns),
                "keys": (__version__, *map(_key, sources)),
                "label_column": label_column,
                "list_column": list_column,
                "delimiter": label_delimiter,
            },
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, (UserError, OSError)):  # OSError: of the cache, as on a full disk
            if isinstance(error.__cause__, BesideLists):
                with suppress(UserError):
                    return read_table(files, text_columns, label_column)
            raise error.__cause__ from None
        raise
    for source in sources:
        if repeated := _repeated_headers(source):
            lines = f"{pluralize(len(repeated), 'line')} ({join_some(list(map(str, repeated)), 5)})"
            verb = "repeats" if len(repeated) == 1 else "repeat"
            say("Header", f"{source.name}: {lines} {verb} the header, as where files were put together: left out")
    return table


def _repeated_headers(source: Source, found: list[int] | None = None) -> list[int]:
    """Return the lines that repeat the header: those `found`, which are kept, else those that were kept."""

    def look() -> list[int]:
        if found is None:
            return [row.number for chunk in read_chunks(source) for row in chunk.rows if row.error == HEADER_AGAIN]
        return found

    return cached(_key(source), f"header again {source.reading}", look) if source.format in TABLES else []


def labels_of(source: Source, column: str, found: list[str] | None = None) -> list[str]:
    """Return the different labels of a file, and of the lists in it, up to one more than MAX_LABELS: those `found`,
    which are kept, else those that were kept.
    """

    def look() -> list[str]:
        if found is not None:
            return found
        own, labels = source.own_name(column), dict[str, None]()
        names = file_class_names(source, own)
        for row in read_rows(source, [own]):
            value = row.values.get(own)
            value = value if names is None else name_class(value, names)
            items = value if isinstance(value, list) else [value]
            labels |= {str(item): None for item in items if not is_missing(item)}
            if len(labels) > MAX_LABELS:
                break
        return list(labels)

    return cached(_key(source), f"labels: {column} {source.other_names} {source.class_names} {source.reading}", look)


def _text_rows(
    sources: tuple[Source, ...],
    columns: tuple[str, ...],
    keys: tuple[Any, ...],
    label_column: str | None,
    list_column: str | None,
    delimiter: str | None,
) -> Iterator[dict[str, str | list[str] | None]]:
    del keys
    row = None
    for source in sources:
        own_names = [source.own_name(name) for name in columns]
        places = [(name, own, f"column {own}") for name, own in zip(columns, own_names, strict=True)]
        names = file_class_names(source, source.own_name(label_column)) if label_column else None
        repeated: list[int] = []
        labels: dict[str, None] = {}
        for row in read_rows(source, own_names, repeated):
            texts: dict[str, str | list[str] | None] = {}
            try:
                for name, own, place in places:
                    value = row.values.get(own)
                    if source.format == FASTTEXT and name == list_column and isinstance(value, str):
                        value = [value]  # several in a row of another set
                    if names is not None and name == label_column:
                        value = name_class(value, names)
                    if name == list_column:
                        texts[name] = as_names(value, place, delimiter)
                    else:
                        texts[name] = (as_label if name == label_column else as_text)(value, place)
            except BesideLists as error:
                raise BesideLists(str(source.error(row.number, str(error)))) from None
            except UserError as error:
                way = "" if name == label_column else way_to_text(value, own)
                raise source.error(row.number, f"{error}{way}") from None
            yield texts
            if label_column is not None and len(sources) > 1 and len(labels) <= MAX_LABELS:
                value = texts[label_column]
                labels |= dict.fromkeys(value if isinstance(value, list) else [value or ""])
        if label_column is not None and len(sources) > 1:
            labels_of(source, label_column, list(labels))
        _repeated_headers(source, repeated)
    if row is None:
        raise UserError(f"{sources[0].name}: no rows")


def name_class(value: Any, names: Sequence[str]) -> Any:
    """Return the name of a class, or of each in a list. GLUE and others mark a missing one with -1."""
    if isinstance(value, list):
        return [name_class(item, names) for item in value]
    if isinstance(value, (str, float)) and re.fullmatch(r"-1|\d{1,9}", text := plain_number(str(value))):
        value = int(text)
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None if value == -1 else value


def _sources(files: Files) -> tuple[Source, ...]:
    return (file_source(expand_path(files, "file")),) if isinstance(files, str) else tuple(files)


def cached_of_file(source: Source, name: str, compute: Callable[[], T]) -> T:
    """Return `compute()`, or its result when the file was looked at before, as it is now and was read so."""
    return cached(_key(source), f"{name} {source.reading}", compute)


def _key(source: Source) -> tuple[Any, ...]:
    if source.format == FOLDERS:
        return folders_key(source)
    assert source.path is not None
    with source.open():  # an error of the system is reported as it is for reading
        return (*file_key(source.path), *(source.of_set or ()))
