"""Rows of parquet files, and of the Arrow files of which `Dataset.save_to_disk` makes a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from ftloop.data.csv_rows import check_names, numbered
from ftloop.data.rows import Chunk, Row
from ftloop.data.sources import Source
from ftloop.errors import UserError, summarize

READ_ERRORS = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
"""What damage and values that are not what they say raise: texts that are none, dates."""


class _Table(NamedTuple):
    schema: Any
    total_rows: int | None
    bytes: int
    """Size of all rows in memory, where it is known; else 0."""
    content: Any
    """A `ParquetFile`, or a reader of record batches."""


def read_chunks(
    source: Source,
    columns: Sequence[str] | None,
    strict: bool,
    chunk_rows: int,
    chunk_bytes: int,
    valued: Sequence[str] | None = None,
) -> Iterator[Chunk]:
    """Read `columns`, or all of them. `strict`: values for which Python has no type, such as nanoseconds, are an error;
    else they become text. `valued`: of these columns alone the rows have values, of the others only the Arrow batch.

    Raises: UserError when nothing more can be read.
    """
    number = 0
    with _opened(source) as table:
        header = _names(table.schema)
        check_names(header, source.name)
        columns, valued = (_whole(names, header) for names in (columns, valued))
        rows_at_once = max(1, min(chunk_rows, chunk_bytes * (table.total_rows or 0) // max(table.bytes, 1)))
        try:
            for batch in _batches(table, columns, rows_at_once if table.bytes else chunk_rows):
                names = header if columns is None else batch.schema.names
                taken = {name: i for i, name in enumerate(names) if valued is None or name in valued}
                names = tuple(taken)
                values = zip(*(python_values(batch.column(i), strict) for i in taken.values()), strict=True)
                rows = [Row(number + i, dict(zip(names, row, strict=True))) for i, row in enumerate(values, start=1)]
                number += len(rows)
                yield Chunk(header, rows, table.total_rows, batch)
        except READ_ERRORS as error:
            told = f"not readable as {source.format} after row {number} ({summarize(error)})"
            raise UserError(f"{source.name}: {told}") from None
        if not number:
            yield Chunk(header, [], 0, table.schema.empty_table())


def _whole(columns: Sequence[str] | None, header: Sequence[str]) -> list[str] | None:
    """Return the columns that these are or are within: a field within a struct comes with its column."""
    if columns is None:
        return None
    return list(dict.fromkeys(name if name in header else name.partition(".")[0] for name in columns))


def read_schema(source: Source) -> Any:
    """Return the Arrow schema. Raises: UserError when it cannot be read."""
    with _opened(source) as table:
        return table.schema


def read_names(source: Source) -> tuple[str, ...]:
    """Return the names of the columns. Raises: UserError when they cannot be read."""
    return _names(read_schema(source))


def read_structs(source: Source) -> dict[str, Any]:
    """Return the columns that are structs, each with the fields that it has, as mappings of names."""
    return _structs(read_schema(source))


def _structs(fields: Any) -> dict[str, Any]:
    return {field.name: _structs(field.type) if pyarrow.types.is_struct(field.type) else None for field in fields}


def _names(schema: Any) -> tuple[str, ...]:
    return numbered([str(name) for name in schema.names])


@contextmanager
def _opened(source: Source) -> Iterator[_Table]:
    with source.open() as file:  # what the system has against it is reported as for any file
        source.check_content(file)
        if source.compression is None:
            yield _open(source, source.path)
            return
        with tempfile.TemporaryFile() as copy:  # it is read from its end
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield _open(source, copy)


def _open(source: Source, place: Any) -> _Table:
    try:
        if source.format == "parquet":
            parquet = pyarrow.parquet.ParquetFile(place, pre_buffer=False)  # or it would hold the file
            metadata = parquet.metadata
            size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
            return _Table(parquet.schema_arrow, metadata.num_rows, size, parquet)
        file = pyarrow.memory_map(str(place)) if source.compression is None else pyarrow.PythonFile(place)
        is_stream = file.read(6) != b"ARROW1"
        file.seek(0)
        reader = pyarrow.ipc.open_stream(file) if is_stream else pyarrow.ipc.open_file(file)
        return _Table(reader.schema, None, 0, reader)
    except READ_ERRORS as error:  # ValueError: a name in it is not UTF-8
        kind = "a parquet file" if source.format == "parquet" else "an Arrow file"
        raise UserError(f"{source.name}: not {kind} ({summarize(error)})") from None


def _batches(table: _Table, columns: Sequence[str] | None, rows: int) -> Iterator[Any]:
    reader = table.content
    if isinstance(reader, pyarrow.parquet.ParquetFile):
        yield from reader.iter_batches(batch_size=rows, columns=columns)
        return
    is_file = isinstance(reader, pyarrow.ipc.RecordBatchFileReader)
    for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
        chosen = batch if columns is None else batch.select(columns)
        chosen.validate(full=True)  # unlike parquet, it is mapped as it is: damaged offsets would lead anywhere
        for start in range(0, len(chosen), rows):
            yield chosen.slice(start, rows)


def python_values(column: Any, strict: bool) -> list[Any]:
    """Return the values of an Arrow column. `strict`: those for which Python has no type raise one of READ_ERRORS; else
    they become text.
    """
    try:
        values: list[Any] = column.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError):
        if strict:
            raise
        values = column.cast(pyarrow.string()).to_pylist()
    return values
