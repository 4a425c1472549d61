"""Local files: the same rows from every format, and every fault told with its place."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from ftloop.errors import UserError
from ftloop.rows import FORMATS, check_file, column_names, read_table

pytestmark = pytest.mark.usefixtures("own_cache")

RECORDS = [
    {"first": "A word.", "second": 'She said "no", twice.', "label": 1},
    {"first": "", "second": "two\nlines and a\ttab", "label": 0},
    {"first": "Grüße, 世界 \u2028 ok", "second": "-", "label": 1},
]
AS_TEXT = [record | {"label": str(record["label"])} for record in RECORDS]
COLUMNS = ["first", "second"]


def read(path: Path, columns: list[str] | None = None, label: str | None = "label") -> list[dict[str, Any]]:
    return list(read_table(str(path), COLUMNS if columns is None else columns, label).to_list())


def fault(path: Path, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **kwargs)
    return str(caught.value)


def write(path: Path, text: str, **kwargs: Any) -> Path:
    path.write_text(text, newline="", **kwargs)
    return path


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    """In the format that the file's name says; `list.json` is one list, any other json one record a line."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix.lower() in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    elif path.name == "list.json":
        path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


NAMES = ("rows.csv", "rows.tsv", "list.json", "lines.json", "rows.jsonl", "rows.parquet", "ROWS.CSV")


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = write_records(tmp_path / name, RECORDS)
    assert read(path) == AS_TEXT
    assert column_names(str(path)) == ["first", "second", "label"]


def test_every_format_is_tried() -> None:
    assert {Path(name).suffix for name in NAMES} >= set(FORMATS)


@pytest.mark.parametrize("name", ["list.json", "rows.jsonl", "rows.parquet"])
def test_numbers_and_truths_become_their_text_and_what_is_missing_stays_missing(name: str, tmp_path: Path) -> None:
    values = [1.5, -2.0, float("nan"), None]
    path = write_records(tmp_path / name, [{"text": "a", "score": value} for value in values])
    assert [row["score"] for row in read(path, ["text"], "score")] == ["1.5", "-2.0", None, None]
    path = write_records(tmp_path / f"truths{path.suffix}", [{"text": "a", "score": value} for value in (True, False)])
    assert [row["score"] for row in read(path, ["text"], "score")] == ["true", "false"]


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    path = write_records(tmp_path / "rows.jsonl", [{"text": "a", "label": 1, "other": [1, 2]}])
    assert read(path, ["text"], None) == [{"text": "a"}]


GLUE = (
    "Quality\t#1 ID\t#1 String\t#2 String\n"
    '1\t70\t"I am here," he said.\tHe said he was "here\n'
    '0\t71\tIt is 5" wide.\t"All of it\n'
    '1\t72\tNothing"\tAn end"\n'
)


def test_a_tsv_file_of_glue_may_hold_bare_quotes(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "msr.tsv", GLUE), ["#1 String", "#2 String"], "Quality")
    assert [list(row.values()) for row in rows] == [[*line.split("\t")[2:], line[0]] for line in GLUE.splitlines()[1:]]


def test_bare_quotes_that_happen_to_match_do_not_make_one_row_of_two(tmp_path: Path) -> None:
    path = write(tmp_path / "msr.tsv", 'first\tsecond\tlabel\na\t"it is\t1\nb\tover"\t0\nc\td\t1\n')
    assert [row["second"] for row in read(path)] == ['"it is', 'over"', "d"]


def test_a_quoted_tsv_file_may_hold_tabs_and_line_ends_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "quoted.tsv", 'first\tsecond\tlabel\n"a\tb"\t"c\nd"\t1\n"say ""x"""\tplain "y" z\t0\n')
    assert [list(row.values()) for row in read(path)] == [["a\tb", "c\nd", "1"], ['say "x"', 'plain "y" z', "0"]]


def test_the_line_ends_inside_a_quoted_field_are_kept_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'text\r\n"one\r\ntwo\nthree"\r\n')
    assert read(path, ["text"], None) == [{"text": "one\r\ntwo\nthree"}]


def test_the_fault_in_a_tsv_file_is_that_of_the_reading_that_gets_further(tmp_path: Path) -> None:
    quoted = write(tmp_path / "quoted.tsv", 'first\tsecond\tlabel\n"a\tb"\tc\t1\n"d\te"\tf\t1\ng\t1\n')
    assert fault(quoted) == f"{quoted}, line 4: 2 fields where the header has 3"
    bare = write(tmp_path / "bare.tsv", 'first\tsecond\tlabel\n"a," b\tc\t1\n"d\te\t1\nf\t1\n')
    assert fault(bare) == f"{bare}, line 4: 2 fields where the header has 3"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "list.json", "rows.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(name: str, tmp_path: Path) -> None:
    path = write_records(tmp_path / name, RECORDS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert column_names(str(path)) == ["first", "second", "label"]
    assert read(path) == AS_TEXT


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system_and_blank_ones_are_no_rows(end: str, tmp_path: Path) -> None:
    rows = [{"first": "a", "second": "b", "label": "1"}, {"first": "c", "second": "d", "label": "0"}]
    for name, lines in {
        "rows.csv": ["", "first,second,label", "a,b,1", "", "c,d,0", "", ""],
        "rows.tsv": ["", "first\tsecond\tlabel", "a\tb\t1", "", "c\td\t0", ""],
        "rows.jsonl": ["", json.dumps(rows[0]), "  ", json.dumps(rows[1]), ""],
        "lines.json": ["", json.dumps(rows[0]), "", json.dumps(rows[1])],
    }.items():
        path = write(tmp_path / name, end.join(lines))
        assert read(path) == rows, name
        assert column_names(str(path)) == ["first", "second", "label"], name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "first,second,label\na,b,1\n\nc,d\n", "line 4: 2 fields where the header has 3"),
        ("rows.csv", "first,second,label\na,b,1\nc,d,1,2\n", "line 3: 4 fields where the header has 3"),
        ("rows.csv", 'first,second,label\na,b,1\n"c,d,1\ne,f,1\n', "line 3: unexpected end of data"),
        ("rows.csv", 'first,second,label\n"a\nb",b,1\n"c" d,e,1\n', "line 4: ',' expected after '\"'"),
        ("rows.tsv", "first\tsecond\tlabel\na\tb\t1\nc d\t1\n", "line 3: 2 fields where the header has 3"),
        ("rows.jsonl", '{"first": "a", "second": "b", "label": 1}\n\n{"first": \n', "line 3: not JSON ("),
        ("rows.jsonl", '{"first": "a", "second": "b", "label": 1}\n[1]\n', "line 2: expected an object of columns"),
        ("lines.json", '{"first": "a", "second": "b", "label": 1}\n{"first"}\n', "line 2: not JSON ("),
        ("list.json", '[\n{"first": "a", "second": "b", "label": 1},\n{"first": }\n]', "line 3: not JSON ("),
        ("list.json", '[\n\n{"first": "a", "second": "b", "label": 1},\n3]', "row 2: expected an object of columns"),
        ("list.json", "[" * 100_000, "not JSON ("),
    ],
)
def test_a_broken_row_is_named_with_its_file_and_place(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, text)
    assert fault(path).startswith(str(path))
    assert message in fault(path)


@pytest.mark.parametrize(
    ("name", "place"),
    [("rows.jsonl", "line 2"), ("list.json", "row 2"), ("lines.json", "line 2"), ("a.parquet", "row 2")],
)
@pytest.mark.parametrize("value", [["a", "b"], {"text": "a"}])
def test_a_value_that_is_a_list_or_an_object_is_named_with_row_and_column(
    name: str, place: str, value: Any, tmp_path: Path
) -> None:
    path = write_records(tmp_path / name, [{"first": "a", "second": None}, {"first": "a", "second": value}])
    kind = type(value).__name__
    assert fault(path, label=None) == f"{path}, {place}: column second holds {kind}, not a text or a number"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "lines.json", "list.json"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named_with_file_and_line(name: str, encoding: str, tmp_path: Path) -> None:
    records = [{"first": "a", "second": text, "label": 1} for text in ("b", "é", "c")]
    path = write_records(tmp_path / name, records)
    text = path.read_text(encoding="utf-8")
    line = 1 if encoding == "utf-16" else text[: text.index("é")].count("\n") + 1
    path.write_text(text, encoding=encoding)
    assert fault(path).startswith(f"{path}, line {line}: not UTF-8 (")
    with pytest.raises(UserError, match=f"line {line}: not UTF-8 "):
        column_names(str(path))


def test_a_parquet_file_that_is_none_or_is_damaged_is_named(tmp_path: Path) -> None:
    path = write_records(tmp_path / "rows.parquet", RECORDS)
    whole = path.read_bytes()
    path.write_bytes(b"no such thing")
    assert fault(path).startswith(f"{path}: not a parquet file (")
    with pytest.raises(UserError, match="not a parquet file"):
        column_names(str(path))
    path.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
    assert fault(path).startswith(f"{path}: not readable as parquet after row 0 (")


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_header_that_names_a_column_twice_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "text,label,text\na,1,b\n".replace(",", "," if name == "rows.csv" else "\t"))
    with pytest.raises(UserError, match="the header names 'text' more than once"):
        column_names(str(path))


def test_a_quoted_header_is_read_as_its_rows_are(tmp_path: Path) -> None:
    path = write(tmp_path / "quoted.tsv", '"first"\t"second"\t"label"\n"a"\t"b\tc"\t1\n')
    assert column_names(str(path)) == [*COLUMNS, "label"]
    assert read(path) == [{"first": "a", "second": "b\tc", "label": "1"}]


def test_fields_may_be_as_long_as_they_like(tmp_path: Path) -> None:
    long = "word " * 50_000
    assert read(write_records(tmp_path / "rows.csv", [{"text": long}]), ["text"], None) == [{"text": long}]
    assert column_names(str(write_records(tmp_path / "wide.csv", [{long: "a", "b": "c"}]))) == [long, "b"]


def test_a_missing_an_empty_and_an_unknown_file_are_refused(tmp_path: Path) -> None:
    for name, message in {
        "none.csv": "no such file",
        "empty.csv": "is empty",
        "rows.txt": "none of the endings",
    }.items():
        path = tmp_path / name
        if name != "none.csv":
            write(path, "" if name == "empty.csv" else "a")
        with pytest.raises(UserError, match=f"train_file: .*{message}|train_file: {message}"):
            check_file(str(path), "train_file")
    with pytest.raises(UserError, match="is a folder, not a file"):
        check_file(str(tmp_path), "train_file")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in NAMES:
        write_records(tmp_path / name, RECORDS)
        check_file(f"~/{name}", "train_file")
        assert column_names(f"~/{name}") == ["first", "second", "label"]
        assert len(read(Path(f"~/{name}"))) == len(RECORDS)


def test_a_changed_file_is_not_served_from_the_cache(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text\na\n")
    assert read(path, ["text"], None) == [{"text": "a"}]
    stat = path.stat()
    write(path, "text\nb\n")  # as long as before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert read(path, ["text"], None) == [{"text": "b"}]
    write(path, "text\nb\nc\n")  # as old as before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert read(path, ["text"], None) == [{"text": "b"}, {"text": "c"}]


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    path = write_records(tmp_path / "rows.jsonl", RECORDS)
    first = read_table(str(path), COLUMNS, "label")
    written = Path(first.cache_files[0]["filename"]).stat().st_mtime_ns
    again = read_table(str(path), COLUMNS, "label")
    assert first.cache_files == again.cache_files
    assert Path(again.cache_files[0]["filename"]).stat().st_mtime_ns == written
    assert Path(first.cache_files[0]["filename"]).is_relative_to(datasets.config.HF_DATASETS_CACHE)
