"""Read rows from files of every format, for training and for prediction.

`read_chunks` yields rows a chunk at a time, in bounded memory (a json list is held whole while it is read): each row
with its number, its values and what is wrong with it, and the rows after a bad one are read too. `read_rows` raises at
the first bad row, as training must. What is a row, a line and a column is decided here alone.

Another way of storing bytes belongs in `Source.open`, another encoding in `Source.text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO

from ftloop.data import arrow_rows
from ftloop.data.compression import share_read
from ftloop.data.csv_rows import HEADER_AGAIN, check_names, read_table, way_of_fields
from ftloop.data.json_rows import read_document, read_lines
from ftloop.data.line_rows import read_plain_lines
from ftloop.data.rows import HEAD_ROWS, Chunk, Row, field_names, fields_of, value_at
from ftloop.data.sources import COLUMNAR, FASTTEXT, FOLDERS, TABLES, TEXTS, Source
from ftloop.data.text_folders import COLUMNS, read_folders
from ftloop.errors import UserError

CHUNK_ROWS = 16_384
CHUNK_CHARACTERS = 2**25
"""Text in a chunk, roughly, where rows are long."""
CHUNK_BYTES = 2**26
"""Size of a chunk of parquet or Arrow, roughly."""


def read_rows(source: Source, columns: Sequence[str] | None = None, repeated: list[int] | None = None) -> Iterator[Row]:
    """Read all rows in order; of parquet and Arrow only `columns`, of which those with dots may be within mappings.
    Blank lines are skipped, and those that repeat the header, whose numbers are put into `repeated`.

    Raises: UserError at the first bad row, when there is no header, or when nothing more can be read.
    """
    set_column, of_set = source.of_set or (None, ())
    if columns is not None and set_column is not None and set_column not in columns:
        columns = [*columns, set_column]
    fields = [name for name in columns or () if "." in name]
    for row in _read_rows(source, columns, repeated):
        for name in fields:
            row.values[name] = value_at(row.values, name)
        if set_column is None or row.values.get(set_column) in of_set:
            yield row


def _read_rows(source: Source, columns: Sequence[str] | None, repeated: list[int] | None) -> Iterator[Row]:
    if source.format in COLUMNAR:
        chunks = arrow_rows.read_chunks(source, columns, True, CHUNK_ROWS, CHUNK_BYTES)
        yield from (row for chunk in chunks for row in chunk.rows)
        return
    with _open_rows(source) as (_, rows, _file):
        for row in rows:
            if row.error == HEADER_AGAIN:
                if repeated is not None:
                    repeated.append(row.number)
                continue
            if row.error is not None:
                raise source.error(row.number, f"{row.error}{way_of_fields(source, row.number, row.error)}")
            yield row


def read_chunks(source: Source, valued: Sequence[str] | None = None) -> Iterator[Chunk]:
    """Read all rows in order, at least one chunk, with their errors. Blank lines are skipped. `valued`: of parquet and
    Arrow, the rows have the values of these columns alone; what else there is stays in the Arrow batch.

    Raises: UserError when there is no header, or nothing more can be read.
    """
    if source.format in COLUMNAR:
        yield from arrow_rows.read_chunks(source, None, False, CHUNK_ROWS, CHUNK_BYTES, valued)
        return
    group: list[Row] = []
    before, characters = 0, 0
    with _open_rows(source) as (header, rows, file):
        for row in rows:
            group.append(row)
            values = row.values.values()
            texts = values if source.format in TABLES else [value for value in values if isinstance(value, str)]
            characters += sum(map(len, texts))
            if len(group) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                before += len(group)
                share = None if file is None else share_read(file)
                yield Chunk(header, group, None if share is None else round(before / share))
                group, characters = [], 0
    if group or not before:
        yield Chunk(header, group, before + len(group))


def read_columns(source: Source, fields: bool = False) -> list[str]:
    """Read the names of the columns, from the header or, for json, the first rows; with `fields` those within mappings
    too, as `value_at` reads them.

    Raises: UserError when there are none, or they cannot be read.
    """
    if source.format in COLUMNAR:
        names, within = arrow_rows.read_names(source), field_names(arrow_rows.read_structs(source))
    else:
        with _open_rows(source) as (header, rows, _file):
            head = list(islice(rows, HEAD_ROWS)) if header is None else [Row(0, dict.fromkeys(header))]
        if not head:
            raise UserError(f"{source.name}: no rows")
        if head[0].error is not None:
            raise source.error(head[0].number, head[0].error)
        names = tuple(dict.fromkeys(name for row in head for name in row.values))
        within = fields_of(head)
    check_names(names, source.name)
    return [*names, *(name for name in within if fields and name not in names)]


@contextmanager
def _open_rows(source: Source) -> Iterator[tuple[tuple[str, ...] | None, Iterator[Row], IO[bytes] | None]]:
    """Open a source of text: its header, None for json, its rows, and the file if it is one, to see how far it is."""
    if source.format == FOLDERS:
        yield COLUMNS, read_folders(source), None
        return
    with source.open() as file:
        source.check_content(file)
        with source.text(file) as text:
            if source.format in TABLES:
                yield *read_table(source, text), file
            elif source.format in (TEXTS, FASTTEXT):
                yield *read_plain_lines(source, text), file
            elif source.is_document:
                yield None, read_document(source, text), file
            else:
                yield None, read_lines(source, text), file
