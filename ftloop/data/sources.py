"""Sources of rows: files, pipes and standard input, compressed or not, as bytes and as text."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO

from ftloop.data.compression import COMPRESSIONS, DAMAGED, OUTPUT_COMPRESSIONS, Decompressed, split_endings, zip_problem
from ftloop.data.encoding import find_codec
from ftloop.data.recognize import BEGINNINGS, EXCEL, HEAD, find_shown_format, is_fasttext, recognize, recognize_markup
from ftloop.errors import UserError, os_reason, summarize
from ftloop.system.strict_json import read_json
from ftloop.system.text import expand_path, short_repr

FORMATS = ("csv", "tsv", "txt", "json", "jsonl", "parquet", "arrow")
TABLES = ("csv", "tsv", "txt")
"""Those of lines, whose columns a delimiter separates."""
COLUMNAR = ("parquet", "arrow")
TEXTS = "text"
"""The format of a text a line, which no ending names."""
FASTTEXT = "fasttext"
"""The format of `__label__x text` a line, which is known by its lines."""
INPUT_FORMATS = (*FORMATS, TEXTS, FASTTEXT)
FOLDERS = "folders of texts"
"""A folder for each class, and in it a text a file."""
OUTPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet")
"""Those that can be written a chunk at a time: a json list cannot."""


@dataclass(frozen=True)
class Reading:
    """What a user says of a file beyond its name."""

    encoding: str | None = None
    """None: UTF-8, or as its byte order mark says."""
    delimiter: str | None = None
    column_names: tuple[str, ...] | None = None
    """Names for the columns of a file without a header."""


AS_NAMED = Reading()


def make_reading(encoding: str | None, delimiter: str | None, column_names: Sequence[str] | None) -> Reading:
    """Return what these flags say. A tab may be written as `\\t`, also one of several."""
    return Reading(encoding, delimiter and delimiter.replace("\\t", "\t"), tuple(column_names or ()) or None)


@dataclass(frozen=True)
class Source:
    """A file or stream of rows."""

    path: Path | None
    """None: standard input."""
    name: str
    """Name used in messages."""
    format: str
    """One of INPUT_FORMATS, or FOLDERS."""
    compression: str | None = None
    """One of COMPRESSIONS."""
    reading: Reading = AS_NAMED
    other_names: tuple[tuple[str, str], ...] = ()
    """Columns of the training set, each with the name that it has here, where that is another."""

    of_set: tuple[str, tuple[str, ...]] | None = None
    """A column and the values of it that the rows of the set have; None: all rows are the set's."""

    class_names: tuple[str, ...] | None = None
    """Names of the classes that its labels are the numbers of, where another file of the set carries them."""

    def own_name(self, column: str) -> str:
        """Return the name that a column of the training set has here."""
        return dict(self.other_names).get(column, column)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open its content for reading. Raises: UserError when the system refuses or it is damaged, now or later."""
        try:
            if self.path is None:
                yield sys.stdin.buffer
            else:
                with open(self.path, "rb", buffering=2**16) as file:
                    yield file if self.compression is None else self._decompressed(file, self.compression)
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read ({os_reason(error)})") from None
        except DAMAGED as error:
            raise UserError(f"{self.name}: cannot be read as {self.compression} ({summarize(error)})") from None

    def _decompressed(self, file: IO[bytes], compression: str) -> IO[bytes]:
        try:
            return Decompressed(file, compression)
        except ValueError as error:
            raise UserError(f"{self.name}: {error}") from None

    @contextmanager
    def text(self, file: IO[bytes]) -> Iterator[io.TextIOWrapper]:
        """Decode its content. Bytes of another encoding become surrogates, by which the row that holds them is found.

        Where the lines of a table or of texts end in "\\n", a lone "\\r" ends none: one row is not made two. In a table
        it is an error outside quotes.
        """
        head = file.peek(1) if isinstance(file, io.BufferedReader) else b""
        newline = "\n" if self.format in (*TABLES, TEXTS, FASTTEXT) and b"\n" in head else ""
        codec = find_codec(head, self.reading.encoding)
        text = io.TextIOWrapper(file, encoding=codec, errors="surrogateescape", newline=newline)
        try:
            yield text
        finally:
            if not file.closed:
                text.detach()  # closing is left to whoever opened it

    def check_content(self, file: IO[bytes]) -> None:
        """Raises: UserError for what is no file of rows, whatever its name says."""
        head = file.peek(1) if isinstance(file, io.BufferedReader) else b""
        what = recognize(head) or (recognize_markup(head) if self.format in (*TABLES, "json", "jsonl") else None)
        if what is not None and what != recognize(BEGINNINGS.get(self.format, b"")):
            raise UserError(f"{self.name} is {what}")

    @property
    def is_file(self) -> bool:
        """Whether it can be read more than once, which a pipe cannot."""
        return self.path is not None and self.path.is_file()

    @property
    def delimiter(self) -> str:
        return self.reading.delimiter or ("\t" if self.format == "tsv" else ",")

    @property
    def unit(self) -> str:
        """What row numbers count."""
        return "row" if self.format in (*COLUMNAR, FOLDERS) or self.is_document else "line"

    @property
    def is_document(self) -> bool:
        """Whether a json file is to be parsed as a whole, such as a list of objects: not one object a line."""
        if self.format != "json" or self.path is None:
            return False
        return _is_document(self, self.path.stat().st_mtime_ns)

    def copied_by(self, command: str) -> str | None:
        """Return a line of the shell by which a command that goes by lines makes another file of it, which is named
        behind it; None where no such command reads it.
        """
        if self.path is None or self.compression is not None:
            return None
        other = Path(self.name).with_name(f"{self.path.stem}_rows{self.path.suffix}")
        return f"`{command} {shlex.quote(self.name)} > {shlex.quote(str(other))}`"

    def error(self, number: int, message: str | None) -> UserError:
        return UserError(f"{self.name}, {self.unit} {number}: {message}")


@cache
def _is_document(source: Source, modified: int) -> bool:
    with source.open() as file, source.text(file) as text:
        try:
            lines = islice((line.strip() for line in text if line.strip()), 2)
            line, has_more = next(lines, ""), any(lines)
        except UnicodeError:  # which is told when it is read
            return False
    if not line.startswith("{"):
        return line.startswith("[")
    try:
        values = list(read_json(line).values())
    except ValueError:
        return not line.endswith("}")  # an object over several lines
    if not values or has_more:  # a document that ends on its first line is all there is
        return False
    return all(isinstance(value, (dict, list)) for value in values) or "data" in read_json(line)


def file_source(path: Path, reading: Reading = AS_NAMED) -> Source:
    return Source(path, str(path), find_format(path, reading), split_endings(path)[1], reading)


def find_format(file: Path, reading: Reading = AS_NAMED) -> str:
    """Return the format that a file's ending names; where that is none, or that of a table which the lines are not, the
    one that its first lines show, if they do.
    """
    ending, compression = split_endings(file)
    is_bare_table = ending in TABLES and reading.delimiter is None and reading.column_names is None
    if not file.is_file() or (ending in FORMATS and not is_bare_table):
        return ending
    head = b""
    with suppress(UserError), Source(file, str(file), ending, compression).open() as content:
        head = content.read(HEAD)
    if is_fasttext(head):
        return FASTTEXT
    shown = find_shown_format(head, reading.encoding) if ending not in (TEXTS, FASTTEXT) else None
    if ending in TABLES:
        return shown if shown in ("json", "jsonl") else ending
    is_table = shown is None and reading.delimiter is not None and recognize(head) is None
    return "txt" if is_table else shown or ending


def way_of_address(path: str) -> str:
    """Return what to say where a path that leads nowhere is an address of the web."""
    return "; from an address nothing is fetched: download it, and name the file" if "://" in path else ""


def find_file(path: str, flag: str) -> tuple[Path, os.stat_result]:
    """Look up a path that a user wrote. Raises: UserError when it is missing, unreachable or a folder."""
    file = expand_path(path, flag)
    try:
        found = file.stat()
    except FileNotFoundError:
        raise UserError(f"{flag}: no such file: {path}{way_of_address(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UserError(f"{flag}: {short_repr(path)} cannot be read ({os_reason(error)})") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{flag}: {path} is a folder, not a file")
    return file, found


@contextmanager
def find_source(path: str, format: str | None, read_twice: bool, reading: Reading = AS_NAMED) -> Iterator[Source]:
    """Find what a user named as `--input`: a file, a pipe, or `-`. A pipe that has to be read more than once is copied
    to the disk first.

    Raises: UserError when it is missing, or of no known format.
    """
    if path == "-":
        source = Source(None, "standard input", format or "jsonl", None, reading)
    else:
        file, found = find_file(path, "input")
        compression = split_endings(file)[1]
        shown = find_format(file, reading)
        format = format or (shown if shown == FASTTEXT or shown in FORMATS else format_of(file, "input", FORMATS))
        source = Source(file, path, format, compression, reading)
        if stat.S_ISREG(found.st_mode):
            yield source
            return
    if not read_twice and source.format in ("csv", "jsonl", TEXTS) and source.compression != "zip":
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, f"input.{source.format}")
        with replace(source, compression=None).open() as stream, open(copied, "wb") as copy:
            shutil.copyfileobj(stream, copy)
        yield replace(source, path=copied)


def format_of(file: Path, flag: str, formats: Sequence[str]) -> str:
    """Return the format that a file's ending names, that of its compression aside. Raises: UserError when it is none of
    `formats`.
    """
    ending = split_endings(file)[0]
    if ending not in formats:
        if flag == "output" and ending == "json":
            raise UserError(f"output: {file} would be one list, and is not written; .jsonl is, an object a line")
        texts = f" ({TEXTS} for a text a line)" if flag == "input" else ""
        raise UserError(f"{flag}: {no_ending(file, formats, f'; say which it is with --{flag}_format{texts}')}")
    return ending


def no_ending(file: Path, formats: Sequence[str], way: str = "") -> str:
    """Return what to say of a file that has none of the endings; `way` is the way out where its name says nothing."""
    is_read, ending = "json" in formats, file.suffix.lower()
    if ending in (".xls", ".xlsx"):
        unwritten = "would be an Excel workbook, and none is written; name a csv file, of which this Python makes one: "
        unwritten += "import pandas; pandas.read_csv('FILE.csv').to_excel('FILE.xlsx', index=False)"
        return f"{file} {f'is {EXCEL}' if is_read else unwritten}"
    if ending == ".zip" and (problem := zip_problem(file)) is not None:
        return f"{file}: {problem}"
    if is_read and file.is_file():
        with Source(file, str(file), "").open() as content:
            head = content.read(HEAD)
        if (what := recognize(head) or recognize_markup(head)) is not None:
            return f"{file} is {what}"
        doubt = ", and its first lines do not show what it is; give it one of these"
        way = f"{doubt}, or name what separates its columns with --delimiter{way}"
    endings, compressions = (", .".join(names) for names in (formats, COMPRESSIONS if is_read else OUTPUT_COMPRESSIONS))
    return f"{file} has none of the endings .{endings}, with or without .{compressions}{way}"
