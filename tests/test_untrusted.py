"""Input nobody trusts: files, configurations and folders of any content end in rows, a model, or one clear message.

The property tests count what they tried, and the sum stands at the end of pytest's output. Each runs twice: with a few
examples in the fast tier, with many in the slow one; always the same ones.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftloop.config import TrainConfig
from ftloop.data import load_text_data
from ftloop.errors import UserError
from ftloop.rows import FORMATS, blank_lines, check_file, column_names, read_table

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")


@pytest.fixture(scope="module")
def quiet_data() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def tried(record_property: Callable[[str, Any], None]) -> Counter[str]:
    """How many inputs of each kind a test has tried; `conftest.py` prints the sums."""
    counts: Counter[str] = Counter()
    record_property("tried", counts)
    return counts


def few_and_many(few: int, many: int) -> Any:
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def examples(count: int) -> Any:
    """The same examples every time, and as long as they take: this is no place for luck or clocks."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=quiet)


# Rows: exactly those written, or a message with file and place


def read(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """As `load_text_data` reads a file: checked, its columns looked at, read."""
    check_file(str(path), "train_file")
    there = column_names(str(path))
    return list(read_table(str(path), there if columns is None else columns, None).to_list())


PLACE = re.compile(r"line \d+|row \d+|no rows|is empty|the header names|the name of column|not JSON|not a parquet file")


def rows_or_place(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]] | None:
    """The rows; or None, where a UserError has named file and place. Any other exception is a failure."""
    try:
        return read(path, columns)
    except UserError as error:
        (problem,) = error.problems
        assert str(path) in problem
        assert PLACE.search(problem.replace(str(path), "")), problem
        assert len(problem) < 1000, "a message is no place for a file's content"
        return None


def fresh(folder: Path, name: str, content: bytes) -> Path:
    """Written under a new name each time, so that no example meets the cache of another."""
    path = Path(tempfile.mkdtemp(dir=folder)) / name
    path.write_bytes(content)
    return path


ANY_TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["", " ", '"', '""', '"a" b', "a\tb", "a,b", "a\nb", "a\r\nb", "a\rb", "\0", "\ufeff", "\u2028", "\x85", "\x1c", "NA",
     "nan", "👩‍👩‍👧 😀", "שלום עולם", "\u202eabc", "e\u0301", "\ud83d", "\udcff", "[", "{", "#", "\\", "\\n", "'", "null"]
)  # fmt: skip
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, -(10**400), 2**63, 1e308, math.nan, math.inf, -0.0])
VALUES = ANY_TEXT | NUMBERS | st.booleans() | st.none()
KEYS = st.sampled_from(["text", "label", "", "a,b", "a.b", 'say "x"', "größe", "😀", " text", "a\tb", "\0", "idx"])


def records_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    def rows_of(names: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
        row = st.tuples(*[values] * len(names)).map(lambda fields: dict(zip(names, fields, strict=True)))
        return st.lists(row, min_size=1, max_size=6)

    return st.lists(KEYS, min_size=1, max_size=4, unique=True).flatmap(rows_of)


def is_text(value: Any) -> bool:
    """Whether it can be read at all; a lone surrogate and an infinite number cannot."""
    if isinstance(value, float):
        return not math.isinf(value)
    return not isinstance(value, str) or not any("\ud800" <= character <= "\udfff" for character in value)


def expected_text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


@few_and_many(120, 4000)
@pytest.mark.parametrize("name", ["rows.jsonl", "lines.json", "list.json"])
def test_rows_of_json_are_exactly_those_written_or_the_fault_is_named(
    name: str, count: int, tmp_path: Path, tried: Counter[str]
) -> None:
    styles = st.fixed_dictionaries(
        {"bom": st.booleans(), "ascii": st.booleans(), "end": st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \n"])}
    )

    @examples(count)
    @given(records_of(VALUES), styles)
    def holds(records: list[dict[str, Any]], style: dict[str, Any]) -> None:
        tried["data files"] += 1
        readable = all(is_text(value) for record in records for value in record.values())
        lines = [json.dumps(record, ensure_ascii=style["ascii"] or not readable) for record in records]
        text = f"[{','.join(lines)}]" if name == "list.json" else style["end"].join(lines)
        path = fresh(tmp_path, name, text.encode("utf-8-sig" if style["bom"] else "utf-8"))
        if not readable or "\0" in records[0]:
            assert rows_or_place(path) is None
            return
        found = rows_or_place(path)
        assert found == [{key: expected_text(value) for key, value in record.items()} for record in records]
        blank = text.count("\n\n") + text.count("\n \n") if name != "list.json" else 0
        assert blank_lines(str(path)) == blank

    holds()


@few_and_many(120, 4000)
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_rows_of_csv_are_exactly_those_written_or_the_fault_is_named(
    name: str, count: int, tmp_path: Path, tried: Counter[str]
) -> None:
    styles = st.fixed_dictionaries(
        {
            "bom": st.booleans(),
            "quoting": st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
            "end": st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
        }
    )

    @examples(count)
    @given(records_of(ANY_TEXT.filter(is_text)), styles)
    def holds(records: list[dict[str, str]], style: dict[str, Any]) -> None:
        tried["data files"] += 1
        written = io.StringIO()
        delimiter = "\t" if name == "rows.tsv" else ","
        # Python's csv module leaves a carriage return unquoted where lines do not end in one.
        bare = any("\r" in text for record in records for text in record.values()) and "\r" not in style["end"]
        quoting = csv.QUOTE_ALL if bare else style["quoting"]
        writer = csv.writer(written, delimiter=delimiter, quoting=quoting, lineterminator=style["end"])
        writer.writerow(records[0])
        writer.writerows(record.values() for record in records)
        path = fresh(tmp_path, name, written.getvalue().encode("utf-8-sig" if style["bom"] else "utf-8"))
        if "\0" in records[0]:
            assert rows_or_place(path) is None
            return
        found = rows_or_place(path)
        if found is None and style["end"] == "\r" and any("\n" in text for row in records for text in row.values()):
            return  # nobody can tell which of the two ends the lines
        if name == "rows.tsv" and found != records:
            # A tab-separated file with quotes can be read in two ways, and then nobody knows which was meant.
            assert found == by_lines(written.getvalue()), "neither reading"
            return
        assert found == records
        assert blank_lines(str(path)) == (len(records) + 1 if style["end"] == "\n\n" else 0)

    holds()


def by_lines(text: str) -> list[dict[str, str]]:
    """A tsv file whose quotes are characters like any other, and whose lines are its rows."""
    lines = [line.split("\t") for line in re.split("\r\n|\r|\n", text.removeprefix("\ufeff")) if line]
    return [dict(zip(lines[0], fields, strict=True)) for fields in lines[1:]]
