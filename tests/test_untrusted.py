"""Input nobody trusts: files, configurations and folders of any content end in rows, a model, or one clear message.

The property tests count what they tried, and the sum stands at the end of pytest's output. Each runs twice: with a few
examples in the fast tier, with many in the slow one; always the same ones.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import math
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import tiny_bert

import ftloop
from ftloop import load_checkpoint, prepare
from ftloop.config import SETTINGS, TrainConfig, parse_args
from ftloop.data import Labels, load_text_data, tokenize
from ftloop.durable import MANIFEST, file_facts, read_manifest, write_manifest
from ftloop.errors import ExitCode, UserError
from ftloop.inference import classify, load_classifier
from ftloop.model import check_token_ids, load_model, load_tokenizer, longest_input
from ftloop.optim import check_schedule
from ftloop.plan import make_plan
from ftloop.predict import main as predict_main
from ftloop.rows import FORMATS, blank_lines, check_file, column_names, read_table
from ftloop.run import mixed_precision
from ftloop.train import main

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")
for function in ("predict", "train"):  # so that `from ftloop import train` is the function again, for other tests
    vars(ftloop).pop(function, None)


@pytest.fixture(scope="module")
def quiet_data() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def tried(record_property: Callable[[str, Any], None]) -> dict[str, int]:
    """How many inputs of each kind a test has tried; `conftest.py` prints the sums."""
    # a plain dictionary is all that pytest-xdist sends
    counts = dict.fromkeys(("configurations", "data files", "model folders", "planted code", "planted pickles"), 0)
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
    table = read_table(str(path), there if columns is None else columns, None)
    rows = list(table.to_list())
    shutil.rmtree(Path(table.cache_files[0]["filename"]).parent)  # thousands of them would be in the way
    return rows


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
    path = folder / name
    """A file of another age than any before it under its name, so that no cache takes one example for another."""
    path.write_bytes(content)
    age = next(AGES)
    os.utime(path, ns=(age, age))
    return path


AGES = itertools.count(10**18)


ODD_TEXTS = [
    *("", " ", '"', '""', '"a" b', "a\tb", "a,b", "a\nb", "a\r\nb", "a\rb", "\0", "\ufeff", "\u2028", "\x85", "\x1c"),
    *(
        "NA",
        "nan",
        "null",
        "👩\u200d👧 😀",
        "שלום עולם",
        "\u202eabc",
        "e\u0301",
        "\ud83d",
        "\udcff",
        "[",
        "{",
        "#",
        "\\n",
    ),
]
ANY_TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(ODD_TEXTS)
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
        blank = text.count("\n\n") + text.count("\n \n") if name != "list.json" else 0
        assert blank_lines(str(path)) == blank

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


VALID = [{"text": "Grüße, 世界", "label": 1}, {"text": 'two\nlines, "quoted"', "label": 0}, {"text": "-", "label": 1}]


def valid_file(suffix: str) -> bytes:
    if suffix == ".parquet":
        written = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(VALID), written)
        return written.getvalue()
    if suffix == ".json":
        return json.dumps(VALID, ensure_ascii=False, indent=1).encode()
    if suffix == ".jsonl":
        return "\n".join(json.dumps(record, ensure_ascii=False) for record in VALID).encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"], delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(VALID)
    return text.getvalue().encode()


SPLINTERS = st.binary(max_size=6) | st.sampled_from(
    [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b'"', b",", b"\t", b"{", b"}", b"[", b"]",
     b"\\ud800", b"NaN", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"text": 1,', b"\n\n\n", b"\xe2\x80\xa8"]
)  # fmt: skip
# Where, how much is cut out there, and what is put in its place.
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), SPLINTERS), min_size=1, max_size=3)


@few_and_many(15, 500)
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_file_is_read_or_its_fault_is_named(
    suffix: str, count: int, tmp_path: Path, tried: dict[str, int]
) -> None:
    whole = valid_file(suffix)
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
@pytest.mark.parametrize("suffix", FORMATS)
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
    "decimal": pyarrow.array([1, None]).cast(pyarrow.decimal128(30, 2)),
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
    with pytest.raises(UserError, match="the header names 'text' more than once"):
        column_names(str(path))


def test_a_column_whose_name_has_a_point_is_not_taken_for_a_part_of_another(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [{"b": "inner"}], "a.b": ["outer"]}), path)
    assert read(path, ["a.b"]) == [{"a.b": "outer"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "lines.json", "list.json"])
def test_an_object_that_names_a_column_twice_is_named_and_not_half_dropped(name: str, tmp_path: Path) -> None:
    rows = ['{"text": "a"}', '{"text": "b", "text": "c"}']
    path = fresh(tmp_path, name, (f"[{','.join(rows)}]" if name == "list.json" else "\n".join(rows)).encode())
    with pytest.raises(UserError, match=r"not JSON \('text' is there twice in one object\)"):
        read(path)


def test_a_carriage_return_in_the_middle_of_a_bare_field_does_not_make_two_rows_of_one(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix", FORMATS)
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
        folder: f"train_file: {folder} is a folder, not a file",
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


@pytest.mark.parametrize("suffix", FORMATS)
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


def test_a_path_of_bytes_that_are_no_text_is_read_or_told_by_the_reader_itself(tmp_path: Path) -> None:
    path = tmp_path / "r\udcff.jsonl"
    path.write_text('{"text": "a"}\n')
    assert read(path) == [{"text": "a"}]


# Labels


@few_and_many(20, 250)
def test_labels_of_any_kind_are_classes_or_finite_numbers_or_the_fault_is_named(
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


# Configurations


def config_or_problems(make: Callable[[], TrainConfig]) -> TrainConfig | None:
    """A configuration that can be carried through to a plan and a schedule; or None, where a UserError has told why."""
    try:
        config = make()
        mixed_precision(config)
        check_schedule(config)
        for rows, processes in ((1, 1), (7, 2), (10**9, 8)):
            steps = math.ceil(rows / config.per_device_train_batch_size / processes)
            plan = make_plan(config, rows, steps, processes)
            check_schedule(config, plan.warmup_steps, plan.max_steps)
        return config
    except UserError as error:
        for problem in error.problems:
            assert problem
            assert len(problem) < 1000, "a message is no place for a file's content"
        return None


def test_numbers_beyond_reason_are_told_before_they_overflow_anything(tried: dict[str, int]) -> None:
    for name, setting in SETTINGS.items():
        if setting.type in (int, int | None, float, float | None):
            tried["configurations"] += 1
            with pytest.raises(UserError) as caught:
                TrainConfig(**{"eval_strategy": "steps", "dataloader_num_workers": 1, name: "1e308"})
            assert re.search(f"{name}\\b.* (too large|must)", str(caught.value))
    for name in ("dataloader_num_workers", "preprocessing_num_workers"):
        with pytest.raises(UserError, match=f"{name}: 1025 is too large"):
            TrainConfig(**{name: 1025})


ABSURD = st.sampled_from(
    ["0", "-1", "1e308", "-1e308", "1e-320", "nan", "inf", "9" * 400, "9" * 5000, "2147483648", "1e10", "0x10", "1_000",
     "", " ", "none", "true", "no", "~", "~no-such-person/x", "a\0b", "\udcff", "😀", "[" * 5000, "{}", '{"a": [1]}',
     '{"lr_end": NaN}', '{"num_cycles": 1e308}', '{"power": -1, "power": 2}', '{"\\ud800": 1}', "/", "..", "-", "last"]
)  # fmt: skip
NAMES = st.sampled_from(sorted(SETTINGS))


@few_and_many(30, 1000)
def test_any_command_line_is_a_configuration_or_is_told_what_is_wrong(count: int, tried: dict[str, int]) -> None:
    flags = st.tuples(NAMES | st.text(max_size=6), ABSURD | st.text(max_size=6), st.booleans())
    starts = st.sampled_from(
        [[], ["guide"], ["demo"], ["no-such"], ["-x"], ["--"], ["="], ["a\0b"], ["n" * 5000], ["~nobody-here"]]
    )

    @examples(count)
    @given(starts, st.lists(flags, max_size=4))
    def holds(start: list[str], given: list[tuple[str, str, bool]]) -> None:
        tried["configurations"] += 1
        words = [[f"--{name}={value}"] if joined else [f"--{name}", value] for name, value, joined in given]
        with contextlib.suppress(SystemExit):  # of --help, should it be drawn
            config_or_problems(lambda: parse_args([*start, *(word for pair in words for word in pair)]))

    holds()


@few_and_many(50, 1500)
def test_any_values_from_python_are_a_configuration_or_are_told(count: int, tried: dict[str, int]) -> None:
    anything = st.recursive(
        VALUES | st.binary(max_size=3) | ABSURD,
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(VALUES.filter(lambda key: key == key), inner, max_size=2)
        ),
        max_leaves=4,
    )

    @examples(count)
    @given(st.dictionaries(NAMES, anything, max_size=4))
    def holds(given: dict[str, Any]) -> None:
        tried["configurations"] += 1
        config = config_or_problems(lambda: TrainConfig(**given))
        if config is not None:
            assert TrainConfig(**config.to_dict()) == config

    holds()


RECIPE_LINES = [
    *("seed: 1", "seed: 1", "seed: [1]", "seed: {a: b}", "seed: 2001-01-01", "seed: 0o17", "seed: 1:30", "seed:\t1"),
    *("bf16: 1", "output_dir: 5", "lr_scheduler_kwargs: {1: 2}", "lr_scheduler_kwargs: {a: 1, a: 2}", "? [a]\n: 1"),
    *("a: &a [*a]", "b: &b {c: *b}", "seed: *b", "<<: {seed: 3}", "<<: 3", "<<: *b", "sample_texts: ['\\0', a]"),
    'sample_texts: ["\\ud800"]',
    *('output_dir: "a\\0b"', "max_steps: " + "9" * 5000, "seed: !!int ''", "seed: !!bool x"),
    *("seed: !!timestamp 2001-99-99", "seed: !!binary '*'", "seed: !!float x", "seed: !!set {a}", "seed: !!omap [1]"),
    *("seed: !!python/object/apply:os.system [touch MARKER]", "seed: !!python/name:os.system", "seed: !no-such x"),
    *("--- ", "...", "%YAML 9.9", "%TAG ! x", "@", "`", "{", "[", "&", "*", "|", ">", "- a", "\x07", "\ufeff", "\x85"),
    *("text_column_names: a", "text_column_names: [[a]]", "eval_strategy: no", "eval_strategy: [no]", "seed: .inf"),
    "seed: " + "[" * 1000,
    "k: " + "x" * 100_000,
]  # fmt: skip


@few_and_many(30, 500)
def test_any_recipe_is_a_configuration_or_is_told_what_is_wrong(
    count: int, tmp_path: Path, tried: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    @examples(count)
    @given(st.lists(st.sampled_from(RECIPE_LINES) | st.text(max_size=8), max_size=5) | st.binary(max_size=40))
    def holds(lines: list[str] | bytes) -> None:
        tried["configurations"] += 1
        content = lines if isinstance(lines, bytes) else "\n".join(lines).encode("utf-8", "surrogatepass")
        recipe = fresh(tmp_path, "recipe.yaml", content)
        config_or_problems(lambda: parse_args([str(recipe)]))
        assert os.listdir(tmp_path) == ["recipe.yaml"], "a recipe has run something"

    holds()


# Model folders


PAIR = Labels(("no", "yes"), {"no": 0, "yes": 1})


def load_all(folder: Path) -> tuple[Any, Any]:
    """Whatever a run loads of a model folder before it trains."""
    tokenizer = load_tokenizer(str(folder))
    model, _ = load_model(str(folder), PAIR)
    longest_input(model, tokenizer, None)
    return model, tokenizer


def loads_or_is_told(folder: Path) -> bool:
    try:
        load_all(folder)
        load_classifier(folder)
        return True
    except UserError as error:
        (problem,) = error.problems
        assert str(folder) in problem
        assert "\n" not in problem
        return False


@pytest.fixture
def model_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder / "model", tmp_path / "model")
    return tmp_path / "model"


VALUES_OF_JSON = st.sampled_from([-1, 0, 1.5, 10**12, 2**63, "a", "(((", None, True, [], {}, [1], math.nan])
HUGE = {"num_hidden_layers"}  # a number of layers beyond reason would be built, layer by layer


@few_and_many(4, 120)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_setting_of_a_model_that_makes_no_sense_is_taken_or_told(
    name: str, count: int, model_folder: Path, tried: dict[str, int]
) -> None:
    whole = json.loads((model_folder / name).read_text())
    places = list(places_in(whole))
    assert loads_or_is_told(model_folder)

    @examples(count)
    @given(st.sampled_from(places), VALUES_OF_JSON)
    def holds(place: tuple[Any, ...], value: Any) -> None:
        if place[-1] in HUGE and value in (10**12, 2**63):
            return
        tried["model folders"] += 1
        changed = json.loads(json.dumps(whole))
        inner = changed
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
        (model_folder / name).write_text(json.dumps(changed))
        loads_or_is_told(model_folder)

    holds()


def places_in(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value))[:40]:
        yield (*above, key)
        if isinstance(inner, (dict, list)):
            yield from places_in(inner, (*above, key))


@few_and_many(4, 120)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_damaged_file_of_a_model_folder_is_read_or_told(
    name: str, count: int, model_folder: Path, tried: dict[str, int]
) -> None:
    whole = (model_folder / name).read_bytes()

    @examples(count)
    @given(DAMAGE)
    def holds(damage: list[tuple[float, int, bytes]]) -> None:
        tried["model folders"] += 1
        content = whole
        for where, cut, put in damage:
            at = int(where**4 * len(content))  # more of it in the header of the weights
            content = content[:at] + put + content[at + cut :]
        (model_folder / name).write_bytes(content)
        loads_or_is_told(model_folder)

    holds()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""),
        ("config.json", b"[]"),
        ("config.json", b"null"),
        ("config.json", b"{}"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"model_type": "no-such-model"}'),
        ("config.json", b'{"model_type": ["bert"]}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 1000),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../../etc/passwd"}}'),
        ("model.safetensors.index.json", b"[]"),
        ("pytorch_model.bin", b"no such thing"),
        ("pytorch_model.bin.index.json", b'{"weight_map": {"a": "none.bin"}, "metadata": {}}'),
    ],
)
def test_a_model_folder_of_which_nothing_can_be_made_is_told(
    name: str, content: bytes, model_folder: Path, tried: dict[str, int]
) -> None:
    tried["model folders"] += 1
    if name.startswith(("pytorch", "model.safetensors.")):
        (model_folder / "model.safetensors").unlink()
    (model_folder / name).write_bytes(content)
    assert not loads_or_is_told(model_folder)


def test_a_model_folder_that_cannot_be_reached_is_told(tmp_path: Path, tried: dict[str, int]) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for folder in (tmp_path, loop, tmp_path / "none", "/dev/null", "n" * 300, "/" + "n" * 300, "~no-such-person/m"):
        tried["model folders"] += 1
        with pytest.raises(UserError):
            load_tokenizer(str(folder))


@pytest.mark.parametrize("other", ["distilbert", "gpt2"])
def test_the_weights_of_another_architecture_are_refused_and_not_drawn_at_random(
    other: str, model_folder: Path
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    for changed in (config | {"model_type": other}, config | {"hidden_size": 16}, config | {"num_hidden_layers": 3}):
        (model_folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"not those of its config\.json: .* would be drawn at random"):
            load_model(str(model_folder), PAIR)


def test_a_missing_pooler_and_head_are_new_as_after_pretraining(model_folder: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not re.search("pooler|classifier", name)}
    save_file(kept, model_folder / "model.safetensors", metadata={"format": "pt"})
    _, new = load_model(str(model_folder), PAIR)
    assert new == sorted(weights.keys() - kept.keys())
    with pytest.raises(UserError, match=r"holds no fine-tuned classifier: its weights lack bert\.pooler\.dense\.bias"):
        load_classifier(model_folder)


def test_a_tokenizer_with_more_tokens_than_the_model_knows_is_refused_where_a_row_has_one(
    model_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    smaller = tiny_bert().bert.embeddings.word_embeddings.num_embeddings - 20
    config = json.loads((model_folder / "config.json").read_text()) | {"vocab_size": smaller}
    (model_folder / "config.json").write_text(json.dumps(config))
    weights = load_file(model_folder / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name][:smaller].clone()}, model_folder / "model.safetensors", {"format": "pt"})
    model, tokenizer = load_all(model_folder)
    data = load_text_data(TrainConfig(train_file=str(tiny_folder / "train.jsonl")))
    rows, _ = tokenize(data, data.train, tokenizer, 64, TrainConfig(), "train")
    check_token_ids(model, tokenizer, {"train": rows})
    with pytest.raises(UserError, match="the tokenizer gives tokens beyond the 100"):
        classify(model, tokenizer, ["yes word112"])
    (tmp_path / "far.jsonl").write_text("".join(f'{{"text": "word{row}", "label": {row % 2}}}\n' for row in range(113)))
    data = load_text_data(TrainConfig(train_file=str(tmp_path / "far.jsonl")))
    rows, _ = tokenize(data, data.train, tokenizer, 64, TrainConfig(), "train")
    with pytest.raises(UserError, match="the tokenizer gives the train set token 119, and the model knows only 100"):
        check_token_ids(model, tokenizer, {"train": rows})


# Nothing that lies in a file is run


def planted(marker: Path, form: str) -> bytes:
    """A pickle that makes a folder when it is loaded, alone or in one of torch's two wrappings."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    if form == "pickle":
        return pickle.dumps(Trap())
    written = io.BytesIO()
    torch.save({"state": Trap()}, written, _use_new_zipfile_serialization=form == "zip")
    return written.getvalue()


FORMS = ("pickle", "zip", "legacy")
NAMES_IN_FOLDERS = [
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_config.json", "adapter_model.bin"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "vocab.pkl", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    *("chat_template.jinja", "preprocessor_config.json", "training_args.bin", "optimizer.pt", "optimizer.bin"),
    *("scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth", "trainer_state.json", "ftloop_state.json"),
    *("tf_model.h5", "flax_model.msgpack", "model.npy", "model.joblib", "ftloop_manifest.json", "README.md"),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_trap_springs_where_it_is_unpickled(form: str, tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    torch.load(io.BytesIO(planted(tmp_path / "sprung", form)), weights_only=False) if form != "pickle" else (
        pickle.loads(planted(tmp_path / "sprung", form))
    )
    assert (tmp_path / "sprung").is_dir()


NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin", "model.safetensors.index.json")


@pytest.mark.parametrize(
    "name",
    [*NEEDED, "all others", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES_IN_FOLDERS if n not in NEEDED)],
)
def test_a_pickle_in_a_model_folder_is_not_run(
    name: str, model_folder: Path, tmp_path: Path, tried: dict[str, int]
) -> None:
    marker = tmp_path / "sprung"
    if name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (model_folder / "model.safetensors").unlink()
    for form in FORMS:
        for planted_in in [name] if name != "all others" else set(NAMES_IN_FOLDERS) - {*NEEDED}:
            tried["planted pickles"] += 1
            (model_folder / planted_in).write_bytes(planted(marker, form))
        loaded = loads_or_is_told(model_folder)
        assert not marker.exists()
        assert not (loaded and name in NEEDED), "what is needed and is no model is told"


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize(
    "shard", ["shard.bin", *(pytest.param(f"shard{n}", marks=pytest.mark.slow) for n in (".safetensors", ".pt", ""))]
)
def test_a_pickle_that_an_index_of_weights_points_to_is_not_run(
    index: str, shard: str, model_folder: Path, tmp_path: Path, tried: dict[str, int]
) -> None:
    marker = tmp_path / "sprung"
    names = load_file(model_folder / "model.safetensors")
    (model_folder / "model.safetensors").unlink()
    (model_folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))
    for form in FORMS:
        tried["planted pickles"] += 1
        (model_folder / shard).write_bytes(planted(marker, form))
        assert not loads_or_is_told(model_folder)
        assert not marker.exists()


def test_weights_in_a_bin_file_that_holds_tensors_alone_are_taken(model_folder: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    torch.save(weights, model_folder / "pytorch_model.bin")
    (model_folder / "model.safetensors").unlink()
    assert torch.equal(load_model(str(model_folder), PAIR)[0].classifier.weight, weights["classifier.weight"])


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_code_that_a_model_folder_names_is_neither_run_nor_asked_about(
    model_type: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: dict[str, int]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    tried["planted code"] += 1
    (model_folder / "evil.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n"
        "from transformers import BertConfig as Config, BertForSequenceClassification as Model\n"
        "from transformers import BertTokenizerFast as Tokenizer\n"
    )
    config = json.loads((model_folder / "config.json").read_text())
    kinds = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForSequenceClassification": "evil.Model"}
    (model_folder / "config.json").write_text(json.dumps(config | {"model_type": model_type, "auto_map": kinds}))
    assert loads_or_is_told(model_folder) == (model_type == "bert"), "a known architecture needs no code of the folder"
    tokenizer = json.loads((model_folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}}
    (model_folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    loads_or_is_told(model_folder)
    assert not asked
    assert not (tmp_path / "sprung").exists()


def test_a_data_set_folder_with_a_script_does_not_run_it(tmp_path: Path, tried: dict[str, int]) -> None:
    tried["planted code"] += 1
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    with pytest.raises(UserError, match=r"the data set .* could not be loaded"):
        load_text_data(TrainConfig(dataset_name=str(tmp_path / "data")))
    assert not (tmp_path / "sprung").exists()


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of the command, with a checkpoint after each of its two updates."""
    output_dir = tmp_path_factory.mktemp("finished") / "out"
    assert main([*words_of(tiny_folder, output_dir), "--max_steps", "2"]) == ExitCode.DONE
    return output_dir


def words_of(tiny_folder: Path, output_dir: Path) -> list[str]:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
    options = ["--use_cpu", "--save_strategy", "steps", "--save_steps", "1", "--num_train_epochs", "1"]
    return [*options, "--model_name_or_path", str(tiny_folder / "model"), *files, "--output_dir", str(output_dir)]


@pytest.mark.parametrize("form", ["pickle", pytest.param("zip", marks=pytest.mark.slow)])
def test_a_pickle_in_any_file_of_a_checkpoint_is_not_run(
    form: str,
    tiny_folder: Path,
    finished: Path,
    tmp_path: Path,
    tried: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    marker = tmp_path / "sprung"
    names = {path.name for path in (finished / "checkpoint-1").iterdir()} | {*NAMES_IN_FOLDERS}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
    data = load_text_data(TrainConfig(train_file=str(tiny_folder / "train.jsonl")))
    rows, _ = tokenize(data, data.train, load_tokenizer(str(tiny_folder / "model")), 64, TrainConfig(), "train")
    config = TrainConfig(output_dir=str(tmp_path / "loaded"), max_steps=2, use_cpu=True)
    run = prepare(config, tiny_bert(), rows, processing_class=load_tokenizer(str(tiny_folder / "model")))
    load_checkpoint(run, finished / "checkpoint-1")
    assert run.state.global_step == 1, "untouched, it can be resumed from"
    manifest = read_manifest(finished / "checkpoint-1")
    assert manifest is not None
    for name in sorted(names):
        tried["planted pickles"] += 1
        checkpoint = tmp_path / name / "checkpoint-1"
        shutil.copytree(finished / "checkpoint-1", checkpoint)
        (checkpoint / name).write_bytes(planted(marker, form))
        # Once as it is, once with a manifest that whoever planted it has written anew, once without, as Trainer's.
        for alike in ("as it is", "forged", "Trainer's"):
            if alike == "forged" and name != MANIFEST:
                write_manifest(checkpoint, manifest | {"files": file_facts(checkpoint)})
            if alike == "Trainer's":
                (checkpoint / MANIFEST).unlink()
                (checkpoint / "ftloop_state.json").unlink()
            with contextlib.suppress(UserError):
                load_checkpoint(run, checkpoint)
            assert not marker.exists(), (name, alike)


@pytest.mark.parametrize("name", ["optimizer.pt", pytest.param("all at once", marks=pytest.mark.slow)])
def test_the_command_runs_no_pickle_of_the_checkpoint_it_resumes(
    name: str,
    tiny_folder: Path,
    finished: Path,
    tmp_path: Path,
    tried: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    marker, output_dir = tmp_path / "sprung", tmp_path / "out"
    shutil.copytree(finished / "checkpoint-1", output_dir / "checkpoint-1")
    for planted_in in [name] if name != "all at once" else NAMES_IN_FOLDERS:
        tried["planted pickles"] += 1
        (output_dir / "checkpoint-1" / planted_in).write_bytes(planted(marker, "zip"))
    code = main([*words_of(tiny_folder, output_dir), "--max_steps", "2", "--resume_from_checkpoint", "last"])
    assert code in (ExitCode.DONE, ExitCode.MISTAKE), "started afresh or refused, as the loading of checkpoints has it"
    assert "Traceback" not in capsys.readouterr().err
    assert not marker.exists()


# The commands: a message for a mistake, a traceback for a fault


@pytest.fixture
def stderr_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(command: Callable[[list[str]], int], words: list[str], code: ExitCode = ExitCode.MISTAKE) -> str:
        capsys.readouterr()
        assert command(words) == code
        return capsys.readouterr().err

    return run


def test_a_mistake_has_no_traceback_but_on_request(stderr_of: Any, tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path / "out"), "--model_name_or_path", str(tmp_path)]
    told = f"error: model_name_or_path: {tmp_path} is not a model folder (it has no config.json)\n"
    assert stderr_of(main, words) == told
    shown = stderr_of(main, [*words, "--traceback"])
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.endswith(told)


def test_what_argparse_has_to_say_is_an_error_like_any_other(stderr_of: Any) -> None:
    assert stderr_of(main, ["--seed"]) == "error: argument --seed: expected one argument; --help-all lists every flag\n"


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.ELOOP, errno.EDQUOT, errno.EISDIR]
)
def test_what_the_system_has_against_a_file_is_one_line_with_its_name(
    code: int, stderr_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any) -> None:
        raise OSError(code, os.strerror(code), "some/file")

    monkeypatch.setattr(sys.modules["ftloop.train"], "fine_tune", fail)
    assert stderr_of(main, ["guide"]) == f"error: some/file: {os.strerror(code)}\n"


@pytest.mark.parametrize("fault", [RuntimeError("a\nb"), AssertionError(), OSError(errno.ENOTCONN, "x"), KeyError("k")])
def test_a_fault_keeps_its_traceback_and_is_said_to_be_one(
    fault: Exception, stderr_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any) -> None:
        raise fault

    monkeypatch.setattr(sys.modules["ftloop.train"], "fine_tune", fail)
    printed = stderr_of(main, ["guide"], code=ExitCode.FAULT)
    assert printed.startswith("Traceback (most recent call last)")
    assert printed.endswith(f"error: a fault in ftloop or in a library below it: {type(fault).__name__}\n")


def test_of_several_processes_the_first_tells_the_mistake_and_each_its_own_fault(
    stderr_of: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")

    def ended(seconds: float) -> None:
        raise SystemExit(-15)  # by the launcher, because the first process has failed

    monkeypatch.setattr("ftloop.errors.time.sleep", ended)
    with pytest.raises(SystemExit):
        main(["no-such-recipe"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("ftloop.errors.time.sleep", lambda seconds: None)
    assert stderr_of(main, ["no-such-recipe"]).startswith("error in process 1: recipe 'no-such-recipe'")
    monkeypatch.setattr(sys.modules["ftloop.train"], "fine_tune", lambda *_: 1 / 0)
    assert stderr_of(main, ["guide"], ExitCode.FAULT).splitlines()[-1].startswith("error in process 1: a fault")


# A few lines that stand for 2**60 texts.
BOMB = b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 61))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"seed: 1\nbf16: yes\nseed: 2\n", "line 3: 'seed' is there twice"),
        (b"lr_scheduler_kwargs: {power: 1, power: 2}", "line 1: 'power' is there twice"),
        (b"seed: !!python/object/apply:os.mkdir [sprung]", "not readable as YAML"),
        (BOMB + b"seed: *a60\n", "seed: [[[[[["),
        (BOMB + b"output_dir: *a60\n", "output_dir: expected text, not [[[[[["),
        (BOMB + b"lr_scheduler_kwargs: {power: *a60}\n", "expected names with a number or a text each"),
        (b"lr_scheduler_kwargs: &a {power: *a}", "expected names with a number or a text each"),
        (b"\x00\x01\x02\xff", "not UTF-8"),
        (b"seed: " + b"[" * 1000, "not readable as YAML"),
        (b"output_dir: \"a\\0b\"", "holds a NUL"),
        (b"sample_texts: [\"\\ud83d\"]", "not"),
    ],
)  # fmt: skip
def test_a_recipe_that_is_a_trap_is_told(
    content: bytes, told: str, stderr_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: dict[str, int]
) -> None:
    tried["configurations"] += 1
    monkeypatch.chdir(tmp_path)
    printed = stderr_of(main, [str(fresh(tmp_path, "recipe.yaml", content))])
    assert told in printed
    assert "Traceback" not in printed
    assert len(printed) < 20_000
    assert not (tmp_path / "sprung").exists()


def test_a_recipe_that_is_no_file_is_told(stderr_of: Any, tmp_path: Path, tried: dict[str, int]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for recipe, told in {
        str(tmp_path): f"error: recipe {tmp_path}: is a folder\n",
        "/dev/null": "error: recipe /dev/null: is not a regular file\n",
        str(tmp_path / "pipe"): "is not a regular file",
        str(tmp_path / "loop"): "cannot be read (Too many levels of symbolic links)",
        "n" * 5000: "cannot be read (File name too long)",
        "a\0b": "cannot be read (embedded null byte)",
        "~no-such-person/recipe.yaml": "recipe: no such home folder",
        "": "is a folder",
    }.items():
        tried["configurations"] += 1
        assert told in stderr_of(main, [recipe])


def test_an_output_dir_where_nothing_can_be_written_is_told(
    stderr_of: Any, tiny_folder: Path, tmp_path: Path, tried: dict[str, int]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "below")
    for output_dir in (
        tmp_path / "file",
        tmp_path / "file" / "below",
        tmp_path / "loop",
        tmp_path / "loop" / "below",
        tmp_path / "dangling",
        tmp_path / ("n" * 300),
        tmp_path / "/".join(["n" * 200] * 30),
        "/proc/none",
        "~no-such-person/out",
    ):
        tried["configurations"] += 1
        printed = stderr_of(main, words_of(tiny_folder, Path(output_dir)))
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert "Traceback" not in printed


def test_predict_tells_a_mistake_without_a_traceback(
    stderr_of: Any, model_folder: Path, tmp_path: Path, tried: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(model_folder)]
    (model_folder / "not.json").write_text("")
    for words, told in {
        ("--model", str(tmp_path), "a"): "is not a model folder",
        ("--model", "no-such-model", "a"): "no model folder at no-such-model",
        ("--model", "~no-such-person/x", "a"): "no such home folder",
        ("--model", "n" * 300, "a"): "cannot be read (File name too long)",
        ("--model", "a\0b", "a"): "holds a NUL",
        (*model, "--pairs", "a"): "are not pairs",
        (*model, "--max_seq_length", "-1", "a"): "leaves no room",
        (*model, "--max_seq_length", "2", "a"): "leaves no room",
        (*model, "--max_seq_length", "1000", "a"): "longer than the 64 tokens",
        (*model, "a\udcff"): "is not UTF-8",
    }.items():
        tried["configurations"] += 1
        printed = stderr_of(predict_main, list(words))
        assert told in printed
        assert printed.count("\n") == 1
    assert "Traceback" in stderr_of(predict_main, ["--model", str(tmp_path), "a", "--traceback"])
    assert predict_main([*model, "", "yes word1 😀 שלום", "yes " * 1000]) == ExitCode.DONE
    assert [json.loads(line)["text"][:3] for line in capsys.readouterr().out.splitlines()] == ["", "yes", "yes"]


def test_what_was_read_and_is_not_used_is_counted_on_the_console(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (tiny_folder / "train.jsonl").read_text().splitlines()
    train = fresh(tmp_path, "train.jsonl", "\n\n".join([*rows, ""]).encode())
    words = [*words_of(tiny_folder, tmp_path / "out"), "--train_file", str(train), "--max_steps", "1"]
    words += ["--test_file", str(tiny_folder / "test.jsonl"), "--per_device_train_batch_size", "8"]
    limits = ["--max_train_samples", "20", "--max_eval_samples", "12", "--max_predict_samples", "10"]
    assert main([*words, *limits, "--dataloader_drop_last", "--trainer_compat"]) == ExitCode.DONE
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out")]
    assert line.split("; ") == [
        "Left out  train: 9 of 29 rows (max_train_samples), 29 blank lines, "
        "4 rows of each epoch (dataloader_drop_last)",
        "validation: 1 of 13 rows (max_eval_samples), 4 rows (dataloader_drop_last)",
        "test: 1 of 11 rows (max_predict_samples), 2 rows (dataloader_drop_last)",
    ]


def test_nothing_is_said_to_be_left_out_where_nothing_was(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words_of(tiny_folder, tmp_path / "out"), "--max_steps", "1", "--max_train_samples", "29"]
    assert main([*words, "--dataloader_drop_last", "--per_device_train_batch_size", "29"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "Data      train 29, validation 13 rows" in printed
    assert "Left out" not in printed


def test_names_from_files_cannot_command_the_console(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "a", "label": label} for label in ("\x1b[2J", "a\tb\nc", "😀", "\u202eabc")]
    train = fresh(tmp_path, "train.jsonl", "\n".join(map(json.dumps, rows)).encode())
    test = fresh(tmp_path, "test.jsonl", b'{"text": "yes"}\n{"text": "no"}')
    words = words_of(tiny_folder, tmp_path / "out")
    words = [word for word in words if "_file=" not in word] + ["--train_file", str(train), "--test_file", str(test)]
    assert main([*words, "--max_steps", "1"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert r"(0=\x1b[2J, 1=a\tb\nc, 2=\u202eabc, 3=😀)" in printed
    assert "\x1b" not in printed
    with (tmp_path / "out" / "test_predictions.tsv").open(newline="") as file:
        table = list(csv.reader(file, delimiter="\t"))
    assert table[0] == ["index", "prediction", "score"]
    assert [len(line) for line in table] == [3, 3, 3]
    assert {line[1] for line in table[1:]} <= {row["label"] for row in rows}


@pytest.mark.slow
def test_a_mistake_is_told_once_by_two_processes_and_odd_sizes_train(tiny_folder: Path, tmp_path: Path) -> None:
    """Two training rows and one to evaluate: fewer than a batch, and than there are processes."""

    def launch(*words: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*launcher, str(Path(ftloop.__file__).parent / "train.py"), "--use_cpu", "--save_strategy=no", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    bad = fresh(tmp_path, "bad.jsonl", b'{"text": "a", "label": 0}\n{"text":\n')
    two = fresh(tmp_path, "two.jsonl", b'{"text": "yes", "label": 0}\n{"text": "no", "label": 1}\n')
    one = fresh(tmp_path, "one.jsonl", b'{"text": "yes", "label": 0}')
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--output_dir", str(tmp_path / "out")]
    for faulty in (["--train_file", str(bad)], ["--train_file", str(two), "--seed", "many"]):
        failed = launch(*words, *faulty)
        assert failed.returncode != 0
        assert failed.stderr.count("error: ") == 1, failed.stderr
        assert "error in process" not in failed.stderr
        assert failed.stderr.count("Traceback") == 1, "the launcher's own"
    files = [f"--train_file={two}", f"--validation_file={one}", f"--test_file={one}", "--num_train_epochs=1"]
    done = launch(*words, *files)
    assert done.returncode == 0, done.stderr
    assert "Data      train 2, validation 1, test 1 rows" in done.stdout
    assert json.loads((tmp_path / "out" / "test_results.json").read_text())["test_accuracy"] in (0.0, 1.0)


@pytest.mark.slow
def test_a_console_that_knows_ascii_alone_ends_no_run(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in ("😀", "größe")]
    train = fresh(tmp_path, "train.jsonl", "\n".join(map(json.dumps, rows)).encode())
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--train_file", str(train), "--use_cpu"]
    command = [sys.executable, str(Path(ftloop.__file__).parent / "train.py"), *words, "--max_steps=1"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "größe")], capture_output=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert rb"(0=gr\xf6\xdfe, 1=\U0001f600)" in done.stdout
