"""Local files: the same rows from every format, and every fault told with its place."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from ftloop.data.encoding import guess_encoding
from ftloop.data.files import column_names, read_table
from ftloop.data.set_files import check_file, find_files
from ftloop.data.sources import FORMATS, Reading
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

RECORDS = [
    {"first": "A word.", "second": 'She said "no", twice.', "label": 1},
    {"first": "", "second": "two\nlines and a\ttab", "label": 0},
    {"first": "Grüße, 世界 \u2028 ok", "second": "-", "label": 1},
]
AS_TEXT = [record | {"label": str(record["label"])} for record in RECORDS]
COLUMNS = ["first", "second"]


def read(path: Path, columns: list[str] | None = None, label: str | None = "label") -> list[dict[str, Any]]:
    table = read_table(find_files(str(path), "train_file"), COLUMNS if columns is None else columns, label)
    return list(table.to_list())


def read_all(paths: Any, columns: list[str] | None = None, **reading: Any) -> list[dict[str, Any]]:
    """Read files as the command reads those of a set."""
    names = reading.pop("column_names", None)
    files = find_files(
        str(paths) if isinstance(paths, Path) else paths, "train_file", Reading(**reading, column_names=names)
    )
    return list(read_table(files, COLUMNS if columns is None else columns, "label").to_list())


def fault(path: Path, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **kwargs)
    return str(caught.value)


def write(path: Path, text: str, **kwargs: Any) -> Path:
    path.write_text(text, newline="", **kwargs)
    return path


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    """The file's name says the format; `list.json` is one list, any other json one record a line."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(records)
        kind = pyarrow.ipc.new_stream if path.stem == "stream" else pyarrow.ipc.new_file
        with kind(path, table.schema) as file:
            file.write_table(table)
    elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = {".tsv": "\t", ".txt": "|"}.get(path.suffix, ",")
            writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(records)
    elif path.name == "list.json":
        path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


NAMES = (
    *("rows.csv", "rows.tsv", "rows.txt", "list.json", "lines.json", "rows.jsonl", "rows.parquet", "ROWS.CSV"),
    *("rows.arrow", "stream.arrow"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = write_records(tmp_path / name, RECORDS)
    assert read(path) == AS_TEXT
    assert column_names(find_files(str(path), "train_file")) == ["first", "second", "label"]


def test_every_format_is_tried() -> None:
    assert {Path(name).suffix for name in NAMES} >= {f".{name}" for name in FORMATS}


@pytest.mark.parametrize("name", ["list.json", "rows.jsonl", "rows.parquet"])
def test_numbers_and_booleans_become_text_and_missing_stays_missing(name: str, tmp_path: Path) -> None:
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
        ("rows.csv", 'first,second,label\na,b,1\n"c,d,1\ne,f,1\n', "line 3: a quote is opened here and never closed"),
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
@pytest.mark.parametrize("value", [["a", "b"], ["a text", "b"], {"text": "a"}])
def test_a_value_that_is_a_list_or_an_object_is_named_with_row_and_column(
    name: str, place: str, value: Any, tmp_path: Path
) -> None:
    path = write_records(tmp_path / name, [{"first": "a", "second": None}, {"first": "a", "second": value}])
    kind = "a mapping" if isinstance(value, dict) else "a list"
    told = f"{path}, {place}: column second holds {kind}, not a text or a number"
    way = "; pandas' .str.join(' ') makes texts of a column of lists of words"
    if "a text" in value:
        way = "; pandas' .explode('second') makes a row of each text of a list"
    if isinstance(value, dict):
        way = "; a field of it is named with a dot, such as 'second.text'"
        assert "second.text" in column_names(str(path))
    assert fault(path, label=None) == told + way


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "lines.json", "list.json"])
def test_another_encoding_is_named_and_read_when_it_is_given(name: str, tmp_path: Path) -> None:
    records = [{"first": "a", "second": text, "label": "1"} for text in ("b", "é", "c")]
    path = write_records(tmp_path / name, records)
    text = path.read_text(encoding="utf-8")
    line = text[: text.index("é")].count("\n") + 1
    path.write_text(text, encoding="latin-1")
    assert fault(path).startswith(f"{path}, line {line}: ")
    assert fault(path).endswith(
        "not UTF-8 but, it seems, windows-1252: give --encoding windows-1252, or save the file as UTF-8"
    )
    assert read_all(path, encoding="windows-1252") == records
    path.write_text(text, encoding="utf-16")
    assert read(path) == records, "its byte order mark says it"
    path.write_bytes(path.read_bytes()[:-1])
    assert "not utf-16 " in fault(path)
    path.write_text(text, encoding="utf-16-le")
    assert re.search("line 1: .*it seems, utf-16-le: give --encoding utf-16-le", fault(path))
    assert read_all(path, encoding="utf-16-le") == records


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("windows-1252", "déjà vu, £5 – naïve"),
        ("gb18030", "这家餐厅的服务非常好，我们下次还会再来。"),
        ("big5", "這家餐廳的服務非常好，我們下次還會再來。"),
        ("shift_jis", "このレストランはとても美味しかったです。"),
        ("euc_kr", "이 식당의 서비스는 매우 좋았습니다."),
        ("windows-1251", "Очень хороший ресторан, придём ещё раз."),
        ("koi8-r", "Очень хороший ресторан, придём ещё раз."),
        ("utf-16-le", "text,label"),
        ("utf-16-be", "text,label"),
    ],
)
def test_the_likely_encoding_is_guessed_by_its_usual_letters(encoding: str, text: str) -> None:
    assert guess_encoding(text.encode(encoding)) == encoding


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
def test_only_a_name_that_is_asked_for_has_to_be_there_once(name: str, tmp_path: Path) -> None:
    """The header of a well-known file of text messages."""
    path = write(tmp_path / name, "v1,v2,,,\nham,a,,,\n".replace(",", "," if name == "rows.csv" else "\t"))
    assert column_names(str(path)) == ["v1", "v2", "(column 3)", "(column 4)", "(column 5)"]
    assert read(path, ["v2"], "v1") == [{"v2": "a", "v1": "ham"}]
    path = write(tmp_path / name, "text,label,text\na,1,b\n".replace(",", "," if name == "rows.csv" else "\t"))
    assert column_names(str(path)) == ["text (column 1)", "label", "text (column 3)"]
    assert read(path, ["text (column 3)"], "label") == [{"text (column 3)": "b", "label": "1"}]


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
        "rows.log": "none of the endings",
        "rows.csv.Z": "none of the endings",
        "rows.xlsx": "is an Excel workbook; save it as CSV UTF-8",
    }.items():
        path = tmp_path / name
        if name != "none.csv":
            write(path, "" if name == "empty.csv" else "a")
        with pytest.raises(UserError, match=f"train_file: .*{message}|train_file: {message}"):
            check_file(str(path), "train_file")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in NAMES:
        write_records(tmp_path / name, RECORDS)
        assert column_names(find_files(f"~/{name}", "train_file")) == ["first", "second", "label"]
        assert read_table(find_files(f"~/{name}", "train_file"), COLUMNS, "label").num_rows == len(RECORDS)


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
