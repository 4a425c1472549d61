"""Data files nobody trusts: any content ends in exactly the rows written, or in one message with file and place.

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
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from harness.files import COMPRESS
from harness.untrusted import (
    ANY_TEXT,
    DAMAGE,
    KEYS,
    NUMBERS,
    VALUES,
    examples,
    expected_text,
    few_and_many,
    fresh,
    is_text,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from ftloop.config.train_config import TrainConfig
from ftloop.data.files import column_names, read_table
from ftloop.data.load import load_text_data
from ftloop.data.set_files import find_files
from ftloop.data.sources import FORMATS
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")
SUFFIXES = [f".{name}" for name in FORMATS]


# Rows: exactly those written, or a message with file and place


def read(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Read a file as `load_text_data` does: checked, its columns looked at, read."""
    files = find_files(str(path), "train_file")
    there = column_names(files)
    table = read_table(files, there if columns is None else columns, None)
    rows = list(table.to_list())
    shutil.rmtree(Path(table.cache_files[0]["filename"]).parent)  # thousands of them would be in the way
    return rows


PLACE = re.compile(
    r"line \d+|row \d+|no rows|is empty|the header names|the name of column|not JSON|not a parquet|not an Arrow"
    r"|what separates the columns|cannot be read|is (a|an|compressed) |unpack it"
)


def rows_or_place(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]] | None:
    """The rows; or None, where a UserError has named file and place. Any other exception is a failure."""
    try:
        return read(path, columns)
    except UserError as error:
        (problem,) = error.problems
        assert str(path) in problem
        assert PLACE.search(problem.replace(str(path), "")), problem
        assert len(problem) < 1500, "a message is no place for a file's content"
        return None


def records_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    def rows_of(names: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
        row = st.tuples(*[values] * len(names)).map(lambda fields: dict(zip(names, fields, strict=True)))
        return st.lists(row, min_size=1, max_size=6)

    return st.lists(KEYS, min_size=1, max_size=4, unique=True).flatmap(rows_of)


@few_and_many(20, 250)
@pytest.mark.parametrize("name", ["rows.jsonl", "lines.json", "list.json"])
def test_rows_of_json_are_exactly_those_written_or_the_fault_is_named(
    name: str, count: int, tmp_path: Path, tried: dict[str, int]
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

    holds()


@few_and_many(20, 250)
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_rows_of_csv_are_exactly_those_written_or_the_fault_is_named(
    name: str, count: int, tmp_path: Path, tried: dict[str, int]
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
        bare = [[text.strip('\ufeff" \t') for text in line] for line in (records[0], *(r.values() for r in records))]
        assume(bare[0] not in bare[1:] or not any(bare[0]))  # the header once more is no row
        tried["data files"] += 1
        written = io.StringIO()
        delimiter = "\t" if name == "rows.tsv" else ","
        # Python's csv module leaves a carriage return unquoted where lines do not end in one.
        lone = any("\r" in text for record in records for text in record.values()) and "\r" not in style["end"]
        quoting = csv.QUOTE_ALL if lone else style["quoting"]
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

    holds()


def by_lines(text: str) -> list[dict[str, str]]:
    """A tsv file whose quotes are characters like any other, and whose lines are its rows."""
    lines = [line.split("\t") for line in re.split("\r\n|\r|\n", text.removeprefix("\ufeff")) if line]
    return [dict(zip(lines[0], fields, strict=True)) for fields in lines[1:]]


VALID = [{"text": "Grüße, 世界", "label": 1}, {"text": 'two\nlines, "quoted"', "label": 0}, {"text": "-", "label": 1}]


def valid_file(suffix: str) -> bytes:
    if suffix == ".parquet":
        written = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(VALID), written)
        return written.getvalue()
    if suffix == ".arrow":
        table = pyarrow.Table.from_pylist(VALID)
        with pyarrow.ipc.new_file(written := io.BytesIO(), table.schema) as file:
            file.write_table(table)
        return written.getvalue()
    if suffix == ".json":
        return json.dumps(VALID, ensure_ascii=False, indent=1).encode()
    if suffix == ".jsonl":
        return "\n".join(json.dumps(record, ensure_ascii=False) for record in VALID).encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"], delimiter="," if suffix == ".csv" else "\t")
    writer.writeheader()
    writer.writerows(VALID)
    return text.getvalue().encode()


@few_and_many(15, 500)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".csv.gz", ".json.bz2", ".jsonl.xz", ".parquet.zip"])
def test_a_damaged_file_is_read_or_its_fault_is_named(
    suffix: str, count: int, tmp_path: Path, tried: dict[str, int]
) -> None:
    format, _, compression = suffix[1:].partition(".")
    whole = COMPRESS.get(compression, bytes)(valid_file(f".{format}"))
    assert rows_or_place(fresh(tmp_path, f"rows{suffix}", whole)) is not None

    @examples(count)
    @given(DAMAGE)
    def holds(damage: list[tuple[float, int, bytes]]) -> None:
        tried["data files"] += 1
        content = whole
        for where, cut, put in damage:
            at = int(where * len(content))
            content = content[:at] + put + content[at + cut :]
        rows_or_place(fresh(tmp_path, f"rows{suffix}", content))

    holds()


@few_and_many(10, 400)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_random_bytes_are_read_or_their_fault_is_named(
    suffix: str, count: int, tmp_path: Path, tried: dict[str, int]
) -> None:
    @examples(count)
    @given(st.binary(max_size=60), st.sampled_from([b"", b"PAR1", b"text,label\n", b'{"text": "a", "label": 1}\n']))
    def holds(content: bytes, start: bytes) -> None:
        tried["data files"] += 1
        path = fresh(tmp_path, f"rows{suffix}", start + content + (b"PAR1" if start == b"PAR1" else b""))
        found = rows_or_place(path)
        if found is not None and suffix == ".jsonl":
            lines = re.split("\r\n|\r|\n", path.read_text("utf-8-sig"))
            assert len(found) == len([line for line in lines if line.strip()])

    holds()


A_DAY = 86_400
PARQUET = {
    "int8": pyarrow.array([1, None], pyarrow.int8()),
    "uint64": pyarrow.array([2**64 - 1, 0], pyarrow.uint64()),
    "half": pyarrow.array([1.5, None], pyarrow.float32()).cast(pyarrow.float16()),
    "large": pyarrow.array(["größe", None], pyarrow.large_string()),
    "view": pyarrow.array(["a", None], pyarrow.string_view()),
    "dictionary": pyarrow.array(["a", None]).dictionary_encode(),
    "null": pyarrow.nulls(2),
    "struct": pyarrow.array([{"text": "a"}, None]),
    "list": pyarrow.array([["a"], None]),
    "map": pyarrow.array([[("a", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int32())),
    "bytes": pyarrow.array([b"\xff", None]),
    "decimal": pyarrow.array([Decimal("100.00"), None], pyarrow.decimal128(30, 2)),
    "long decimal": pyarrow.array([Decimal("12345678901234567890.50"), None], pyarrow.decimal128(30, 2)),
    "second": pyarrow.array([A_DAY, None], pyarrow.timestamp("s")),
    "nanosecond": pyarrow.array([2**62 + 1, None], pyarrow.timestamp("ns")),
    "year 300000": pyarrow.array([2**62, None], pyarrow.timestamp("us")),
    "date": pyarrow.array([2**31 - 1, None], pyarrow.date32()),
    "time": pyarrow.array([2**40, None], pyarrow.time64("ns")),
    "span": pyarrow.array([2**62, None], pyarrow.duration("us")),
    "no text": pyarrow.array([b"\xff\xfe", None]).view(pyarrow.string()),
    "zone": pyarrow.array([1, None], pyarrow.timestamp("us", tz="No/Such")),
}
AS_TEXT = {
    "int8": ["1", None],
    "uint64": [str(2**64 - 1), "0"],
    "half": ["1.5", None],
    "large": ["größe", None],
    "view": ["a", None],
    "dictionary": ["a", None],
    "null": [None, None],
    "decimal": ["100", None],
    "long decimal": ["12345678901234567890.5", None],
}


@pytest.mark.parametrize("kind", PARQUET)
def test_every_type_of_parquet_is_read_or_its_column_is_named(kind: str, tmp_path: Path, tried: dict[str, int]) -> None:
    tried["data files"] += 1
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], kind: PARQUET[kind]}), path)
    found = rows_or_place(path)
    assert (None if found is None else [row[kind] for row in found]) == AS_TEXT.get(kind)
    assert read(path, ["text"]) == [{"text": "a"}, {"text": "b"}], "a column that is not asked for does no harm"


def test_a_parquet_file_that_names_a_column_twice_is_refused(tmp_path: Path, tried: dict[str, int]) -> None:
    tried["data files"] += 1
    path = tmp_path / "rows.parquet"
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, path)
    assert column_names(str(path)) == ["text (column 1)", "text (column 2)"]
    with pytest.raises(UserError, match="which columns hold the text"):
        load_text_data(TrainConfig(train_file=str(path)))


def test_a_column_with_a_point_in_its_name_is_not_part_of_another(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [{"b": "inner"}], "a.b": ["outer"]}), path)
    assert read(path, ["a.b"]) == [{"a.b": "outer"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "lines.json", "list.json"])
def test_an_object_that_names_a_column_twice_is_named_and_not_half_dropped(name: str, tmp_path: Path) -> None:
    rows = ['{"text": "a"}', '{"text": "b", "text": "c"}']
    path = fresh(tmp_path, name, (f"[{','.join(rows)}]" if name == "list.json" else "\n".join(rows)).encode())
    with pytest.raises(UserError, match=r"not JSON \('text' is there twice in one object\)"):
        read(path)


def test_a_lone_carriage_return_does_not_make_two_rows_of_one(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.tsv"):
        path = fresh(tmp_path, name, b"text\none\rtwo\nthree\n")
        with pytest.raises(UserError, match="line 2: a line end outside of quotes in the middle of it"):
            read(path)


LONG = [".csv", ".jsonl", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".tsv", ".json", ".parquet"))]


@pytest.mark.parametrize("suffix", LONG)
def test_a_line_of_ten_megabytes_is_a_row_like_any_other(suffix: str, tmp_path: Path, tried: dict[str, int]) -> None:
    tried["data files"] += 1
    rows = [{"text": "a"}, {"text": "wörd " * 1_700_000}, {"text": "b"}]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix in (".csv", ".tsv"):
        path.write_text("\n".join(["text", *(row["text"] for row in rows)]))
    else:
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert path.stat().st_size > 10_000_000 or suffix == ".parquet"
    assert read(path) == rows


@pytest.mark.parametrize("suffix", LONG)
def test_a_fault_behind_a_line_of_ten_megabytes_is_told_in_few_words(suffix: str, tmp_path: Path) -> None:
    long = b"x" * 10_000_000
    starts = {".csv": b"text,label\n", ".tsv": b"text\tlabel\n", ".json": b'[{"text": "'}
    path = fresh(tmp_path, f"rows{suffix}", starts.get(suffix, b'{"text": "') + long)
    assert rows_or_place(path) is None


# Files that are none


def told(path: str | Path, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        load_text_data(TrainConfig(train_file=str(path)))
    (problem,) = caught.value.problems
    assert "\n" not in problem


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root reads any file; so it is put aside for a moment, where it is."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_readable_file_is_told_with_its_flag_and_name(
    suffix: str, tmp_path: Path, tried: dict[str, int]
) -> None:
    folder, pipe, loop = (tmp_path / f"{name}{suffix}" for name in ("folder", "pipe", "loop"))
    folder.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    device = tmp_path / f"device{suffix}"
    device.symlink_to("/dev/null")
    (tmp_path / f"dangling{suffix}").symlink_to("/no/such/target")
    cases = {
        folder: f"train_file: the folder {folder} holds no file with one of the endings csv",
        pipe: f"train_file: {pipe} is a pipe or a device, not a file",
        device: "is a pipe or a device, not a file",
        loop: "cannot be read \\(Too many levels of symbolic links\\)",
        tmp_path / f"dangling{suffix}": "no such file",
        tmp_path / f"{'n' * 300}{suffix}": "cannot be read \\(File name too long\\)",
        tmp_path / f"folder{suffix}" / f"below{suffix}": "no such file",
        f"~no-such-person/rows{suffix}": "train_file: no such home folder",
        f"ro\0ws{suffix}": "train_file: .* holds a NUL",
        f"ro\udcffws{suffix}": "train_file: .* is not UTF-8",
    }
    for path, what in cases.items():
        tried["data files"] += 1
        told(path, what)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_permission_is_told(suffix: str, tmp_path: Path, tried: dict[str, int]) -> None:
    tried["data files"] += 2
    with tempfile.TemporaryDirectory() as open_to_all:
        os.chmod(open_to_all, 0o755)
        path = fresh(Path(open_to_all), f"rows{suffix}", valid_file(suffix))
        path.chmod(0)
        with as_nobody():
            told(path, f"{path}: cannot be read \\(Permission denied\\)")
        path.parent.chmod(0)
        with as_nobody():
            told(path, "train_file: .* cannot be read \\(Permission denied\\)")
        path.parent.chmod(stat.S_IRWXU)


def test_a_path_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r\udcff.jsonl"
    path.write_text('{"text": "a"}\n')
    assert read(path) == [{"text": "a"}]


# Labels


@few_and_many(20, 250)
def test_labels_of_any_kind_are_classes_or_numbers_or_an_error(
    count: int, tmp_path: Path, tried: dict[str, int]
) -> None:
    """Mixed ones, huge ones, and those that are no numbers."""
    close = st.sampled_from([0, 1, "0", "1", True, "a", 1.0, 0.5, "nan", "-inf", "1e999", "", " ", None, math.nan, "٣"])
    kinds = [VALUES, NUMBERS, close, st.integers(), st.floats(allow_infinity=False), ANY_TEXT.filter(is_text)]
    labels = st.one_of([st.lists(kind, min_size=1, max_size=5) for kind in kinds])

    @examples(count)
    @given(st.tuples(labels, st.none() | labels, st.none() | labels))
    def holds(sets: tuple[list[Any] | None, ...]) -> None:
        tried["data files"] += 1
        given = {}
        for split, raw in zip(("train", "validation", "test"), sets, strict=True):
            if raw is not None:
                rows = [json.dumps({"text": str(number), "label": label}) for number, label in enumerate(raw)]
                given[f"{split}_file"] = str(fresh(tmp_path, f"{split}.jsonl", "\n".join(rows).encode()))
        try:
            data = load_text_data(TrainConfig(**given))
        except UserError as error:
            (problem,) = error.problems
            assert re.search("the (training|validation|test) set|(train|validation|test).jsonl, line", problem)
            return
        loaded = {"train": data.train} | data.validation | data.test
        for split, raw in zip(("train", "validation", "test"), sets, strict=True):
            if raw is None:
                continue
            assert loaded[split]["text"] == [str(number) for number in range(len(raw))]
            if not data.has_labels(loaded[split]):
                assert split == "test"
                continue
            assert loaded[split]["label"] == [expected_text(label) for label in raw]
            for label in loaded[split]["label"]:
                target = data.labels.encode(label)
                if data.labels.regression:
                    assert np.isfinite(np.float32(target))
                else:
                    assert data.labels.ids[label] == target < data.labels.count

    holds()


def test_a_data_set_folder_with_a_script_does_not_run_it(tmp_path: Path, tried: dict[str, int]) -> None:
    tried["planted code"] += 1
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    with pytest.raises(UserError, match=r"the data set .* could not be loaded"):
        load_text_data(TrainConfig(dataset_name=str(tmp_path / "data")))
    assert not (tmp_path / "sprung").exists()
