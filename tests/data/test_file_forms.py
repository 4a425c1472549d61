"""Files in the forms that people have them in: compressed, without a header, in shards, or something else."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
import subprocess
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from harness.files import COMPRESS, zipped

from ftloop.config.train_config import TrainConfig
from ftloop.data.files import read_table
from ftloop.data.load import load_text_data
from ftloop.data.readers import read_chunks
from ftloop.data.set_files import find_files
from ftloop.data.sources import find_source, make_reading
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")

ROWS = [
    {"text": f"the {word} lamp; in Lindhofen, no. {number}", "label": ("bad", "good")[number % 3 > 0]}
    for number, word in enumerate(["old", "new", "red", "odd", "tidy", "rude"])
]


def table(rows: list[dict[str, Any]], delimiter: str = ",", header: bool = True) -> bytes:
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def formats(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    lines = [json.dumps(row) for row in rows]
    frame = pandas.DataFrame(rows)
    schema = pyarrow.Table.from_pylist(rows).schema
    with pyarrow.ipc.new_stream(stream := io.BytesIO(), schema) as writer:
        writer.write_table(pyarrow.Table.from_pylist(rows))
    return {
        "csv": table(rows),
        "tsv": table(rows, "\t"),
        "txt": table(rows, "|"),
        "json": json.dumps(rows, indent=1).encode(),
        "jsonl": "\n".join(lines).encode(),
        "parquet": frame.to_parquet(index=False),
        "arrow": stream.getvalue(),
    }


def load(*files: Path | str, **settings: Any) -> Any:
    config = TrainConfig(train_file=[str(file) for file in files], eval_strategy="no", **settings)
    return load_text_data(config)


def rows_of(*files: Path | str, **settings: Any) -> list[dict[str, Any]]:
    return list(load(*files, **settings).train.to_list())


def fault(*files: Path | str, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*files, **settings)
    return str(caught.value)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compression", COMPRESS)
def test_every_format_is_read_compressed_in_training_and_in_prediction(compression: str, tmp_path: Path) -> None:
    for name, content in formats(ROWS).items():
        path = put(tmp_path / f"rows.{name}.{compression}", COMPRESS[compression](content))
        assert rows_of(path) == ROWS, name
        with find_source(str(path), None, read_twice=False) as source:
            (chunk,) = read_chunks(source)
        if name != "txt":
            assert [row.values for row in chunk.rows] == ROWS, name
        assert (chunk.total_rows or len(ROWS)) == len(ROWS)
        path.write_bytes(path.read_bytes()[:-20])
        assert str(path) in fault(path)
        assert "cannot be read" in fault(path)
    for name, other in {"ndjson": "jsonl", "jsonlines": "jsonl", "tab": "tsv", "pq": "parquet"}.items():
        path = put(tmp_path / f"rows.{name}.{compression}", COMPRESS[compression](formats(ROWS)[other]))
        assert rows_of(path) == ROWS, name
    bare = put(tmp_path / "rows.zip", zipped(table(ROWS), "rows.csv"))
    assert rows_of(bare) == ROWS, "the file in it says its format"
    put(bare, zipped(table(ROWS), "a.csv", "b.csv"))
    assert fault(bare).endswith("a zip archive of one file is read, and this holds a.csv, b.csv; unpack it")
    put(tmp_path / "two.csv.zip", bare.read_bytes())
    assert fault(tmp_path / "two.csv.zip").endswith("and this holds a.csv, b.csv; unpack it")


GROUND_TRUTH = "\n".join(json.dumps({"source-ref": "s3://a/b", **row}) for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("output.manifest", GROUND_TRUTH, "is read as jsonl, which its first lines show"),
        ("rows.jl", formats(ROWS)["jsonl"], "is read as jsonl, which its first lines show"),
        ("rows.jl.gz", gzip.compress(b"\xef\xbb\xbf\n" + formats(ROWS)["jsonl"]), "is read as jsonl, which"),
        ("rows.gz", gzip.compress(formats(ROWS)["jsonl"]), "is read as jsonl, which its first lines show"),
        ("rows.jl", formats(ROWS)["jsonl"].decode().encode("utf-16"), "is read as jsonl, which its first lines show"),
        ("rows.txt", formats(ROWS)["jsonl"], "is read as jsonl, which its first lines show"),
        ("rows.csv", formats(ROWS)["jsonl"], "is read as jsonl, which its first lines show"),
        ("part-00000", formats(ROWS)["json"], "is read as json, which its first lines show"),
        ("rows.bak", json.dumps(ROWS).encode(), "is read as json, which its first lines show"),
        ("part-00000", formats(ROWS * 2000)["json"], "is read as json, which its first lines show"),
        ("rows.0001", formats(ROWS)["parquet"], "is read as parquet, which its first bytes show"),
        ("rows.data", formats(ROWS)["csv"], "is read with --delimiter ,, which all its first lines show"),
        ("rows.dat", formats(ROWS)["tsv"], r"is read with --delimiter '\t', which all its first lines show"),
        ("rows.ldjson", formats(ROWS)["jsonl"], None),
        ("rows.ndjson.gz", gzip.compress(formats(ROWS)["jsonl"]), None),
    ],
    ids=range(15),
)
def test_a_file_whose_ending_says_nothing_is_known_by_its_lines(
    name: str, content: bytes, told: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path / "rows" / name, content)
    rows = rows_of(path)
    said = capsys.readouterr().out
    assert rows[: len(ROWS)] == ROWS
    assert said.count("is read") == (told is not None)
    assert told is None or f"{path} {told}" in said
    assert rows_of(path.parent) == rows, "a folder of nothing else"
    with find_source(str(path), None, read_twice=False) as source:
        assert source.format == find_files(str(path), "input")[0].format, "in prediction the same"


def test_a_file_that_neither_its_ending_nor_its_lines_tell_is_refused_with_a_way_out(tmp_path: Path) -> None:
    lines = b"text;label\na, b, c;x\nd, e, f;y\ng;x;\n"
    told = fault(put(tmp_path / "rows.data", lines))
    assert told.startswith(f"train_file: {tmp_path / 'rows.data'} has none of the endings .csv, .tsv, .txt, .json, ")
    way = ", and its first lines do not show what it is; give it one of these, or name what separates its columns with"
    assert f"{way} --delimiter" in told
    path = put(tmp_path / "rows.data", b"a|text;label\nb|c;x\nd|e;y\n")
    assert fault(path) == told, "two delimiters fit"
    settings: dict[str, Any] = {"delimiter": ";", "text_column_names": ["a|text"]}
    assert rows_of(path, **settings)[0] == {"a|text": "b|c", "label": "x"}, "the way out"
    assert len(rows_of(path.rename(tmp_path / "rows.csv"), **settings)) == 2, "the other"
    pickle = "rows.pkl is a pickle, which is never loaded; save it as csv, jsonl or parquet"
    assert fault(put(tmp_path / "rows.pkl", b"\x80\x04\x95\x00")).endswith(pickle)
    notes = str(put(tmp_path / "notes", b"a text\n"))
    with pytest.raises(UserError) as caught, find_source(notes, None, read_twice=False):
        pass
    assert str(caught.value).endswith("--delimiter; say which it is with --input_format (text for a text a line)")


def test_the_number_of_rows_is_told_ahead_by_the_bytes_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded in memory, a chunk at a time. Of a file that is read in blocks, so within a few hundred rows."""
    monkeypatch.setattr("ftloop.data.readers.CHUNK_ROWS", 5000)
    rows = [{"text": f"text {number} {hash(number) % 977}"} for number in range(60_001)]
    for compression in COMPRESS:
        path = put(tmp_path / f"rows.csv.{compression}", COMPRESS[compression](table(rows)))
        with find_source(str(path), None, read_twice=False) as source:
            told = [chunk.total_rows or 0 for chunk in read_chunks(source)]
        assert told[-1] == 60_001
        assert all(30_000 < total < 90_000 for total in told[6:]), (compression, told)


def test_a_delimiter_that_all_lines_show_is_taken_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, delimiter in {
        "a.csv": ";",
        "b.csv": "|",
        "c.csv": "\t",
        "d.tsv": "|",
        "e.txt": "\t",
        "f.txt": ";",
    }.items():
        rows = [{"text": row["text"].replace(";", ""), "label": row["label"]} for row in ROWS]
        path = put(tmp_path / name, table(rows, delimiter))
        assert rows_of(path) == rows
        written = repr(delimiter).replace("\\\\", "\\")
        assert (
            f"Delimiter {path} is read with --delimiter {written}, which all its first lines show"
            in capsys.readouterr().out
        )
        assert rows_of(path, delimiter=delimiter.replace("\t", "\\t")) == rows
        assert "Delimiter" not in capsys.readouterr().out
    excel = put(tmp_path / "excel.csv", b"\xef\xbb\xbfsep=;\r\n" + table(ROWS, ";"))
    assert rows_of(excel) == rows_of(excel, delimiter=";") == ROWS, "Excel's own way to say it"
    later = put(tmp_path / "later.csv", table(rows, ";") + b"a;b;c\n" * 2)
    assert "which columns hold the text? " in fault(later), "where a line has other columns it is not taken"
    told = "later.csv, line 8: 3 fields where the header has 2; a text that holds ';' has to stand in quotes"
    assert fault(later, delimiter=";").endswith(told)
    plain, table_file = put(tmp_path / "plain.txt", b"one text\nanother\n"), put(tmp_path / "table.csv", table(ROWS))
    assert "what separates the columns of this txt file? Its lines do not show it; name it with --delim" in fault(plain)
    plain.write_bytes(b"text,other\na,b\nc\n")
    lines = put(tmp_path / "lines.jsonl", formats(ROWS)["jsonl"])
    assert "its lines do not show it" in fault(lines, test_file=str(plain)).lower(), "a header, and a bad row"
    assert fault(table_file, test_file=str(plain)) == f"{plain}, line 3: 1 fields where the header has 2"
    plain.write_bytes(b'a text, "and\r\n\r\nanother\tone')
    found = load(table_file, test_file=str(plain)).test["test"]
    assert found["text"] == ['a text, "and', "", "another\tone"], "a test set may be a text a line"
    assert f"Lines     {plain} is read as a text a line, the first line too" in capsys.readouterr().out
    plain.write_bytes(b'{"text": a}\n')
    assert "plain.txt, line 1: it looks like JSON; give the file the ending .json, or .jsonl" in fault(plain)
    assert "--delimiter: only for csv, tsv, txt" in fault(put(tmp_path / "x.jsonl", b'{"text": "a"}'), delimiter=";")


@pytest.mark.parametrize("delimiter", [";", "|", ","])
@pytest.mark.parametrize("columns", [["id", "text", "label"], ["text", "label"]])
def test_texts_of_several_lines_do_not_hide_the_delimiter_of_a_long_file(
    delimiter: str, columns: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first characters end within quotes."""
    text = "one; two | three, and\n" * 15
    rows = [{"id": str(n), "text": f"{n}\n{text}", "label": ("bad", "good")[n % 2]} for n in range(400)]
    rows = [{name: row[name] for name in columns} for row in rows]
    for name in ("rows.csv", "rows.txt", "rows.tsv"):
        path = put(tmp_path / name, table(rows, delimiter))
        assert rows_of(path) == [{"text": row["text"], "label": row["label"]} for row in rows]
        told = f"Delimiter {path} is read with --delimiter {shlex.quote(delimiter)}, which all its first lines show\n"
        assert (told in capsys.readouterr().out) == ((name, delimiter) != ("rows.csv", ",")), name


def test_a_quote_that_stays_open_below_a_few_lines_makes_no_table_of_texts(tmp_path: Path) -> None:
    train, lines = put(tmp_path / "train.csv", table(ROWS)), ["a;b", "c;d", '"e', "f"]
    found = load(train, test_file=str(put(tmp_path / "test.txt", "\n".join(lines).encode()))).test["test"]
    assert found["text"] == lines


def test_lines_between_those_with_tabs_are_left_out_by_the_command_that_is_given(tmp_path: Path) -> None:
    """As PubMed RCT has the number of an abstract above its sentences, and a blank line below."""
    put(tmp_path / "other" / "notes.txt", b"a folder beside it, as that of another class would be\n")
    folder = tmp_path / "PubMed_20k_RCT"
    path = put(folder / "train.txt", b"".join(b"###%d\nGOAL\ta, b\nRESULT\tc\n\n" % number for number in range(4)))
    told = fault(path)
    assert "name it with --delimiter; tabs make 2 of most lines, and `awk" in told
    subprocess.run(told.partition("`")[2].partition("`")[0], shell=True, check=True)
    rows = [{"label": "GOAL", "text": "a, b"}, {"label": "RESULT", "text": "c"}]
    found = rows_of(folder / "train_rows.txt", column_names=["label", "text"])
    assert sorted(found, key=str) == sorted(rows * 4, key=str)
    assert "awk" not in fault(put(tmp_path / "few.txt", b"one text\nanother\ta\nof words\n"))


@pytest.mark.parametrize("names", [None, ["label", "text"]])
def test_commas_in_texts_do_not_hide_what_separates_the_columns_of_every_line(
    names: list[str] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["Good, in all", "one", "two, three, four", "five"]
    lines = "".join(f"{'xy'[number % 2]};{text}\n" for number, text in enumerate(texts))
    path = put(tmp_path / "rows.csv", lines.encode() if names else f"label;text, as said\n{lines}".encode())
    settings: dict[str, Any] = {"column_names": names} if names else {"text_column_names": ["text, as said"]}
    assert [row[settings.get("text_column_names", ["text"])[0]] for row in rows_of(path, **settings)] == texts
    assert f"Delimiter {path} is read with --delimiter ';', which all its first lines show" in capsys.readouterr().out
    bad = put(tmp_path / "bad.csv", b"text,label\na,x\nb,c,y\n")
    assert fault(bad).startswith(f"{bad}, line 3: 3 fields where the header has 2")


def test_a_first_row_that_holds_a_value_twice_is_shown_as_it_is(tmp_path: Path) -> None:
    lines = "".join(f"text of some words {number},0,{number % 2},0\n" for number in range(8))
    told = fault(put(tmp_path / "rows.csv", lines.encode()))
    assert "not a header ('text of some words 0', '0', '0', '0')" in told
    assert "--column_names text column2 label column4;" in told, "no column of one and the same value"


@pytest.mark.parametrize(
    ("train", "delimiter", "test", "column", "lines"),
    [
        ("train.txt", "\t", "test.txt", "a;text", "a;text\tid\nx;y\t1\nz;w\t2\n"),
        ("train.txt", "\t", "test.txt", "satz", "satz\tid\nx\t1\nz\t2\t\n"),
        ("train.csv", ";", "dev.tsv", "a|text", "a|text;label;id\nx|y;a;1\nz|w;b;2\n"),
        ("train.csv", ";", "test.csv", "text", "text\nx,y\nz, w\n"),
    ],
    ids=["two fit", "a header, and a bad row", "two fit, and not that of the ending", "one column that commas cut"],
)
def test_another_set_that_leaves_a_doubt_has_the_training_sets_delimiter(
    train: str, delimiter: str, test: str, column: str, lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{column: f"{number}", "label": "ab"[number % 2], "id": str(number)} for number in range(6)]
    first, other = put(tmp_path / train, table(rows, delimiter)), put(tmp_path / test, lines.encode())
    settings: dict[str, Any] = {"text_column_names": [column], "label_column_name": "label"}
    flag = "validation_file" if test == "dev.tsv" else "test_file"
    if column == "satz":
        told = fault(first, test_file=str(other), **settings)
        assert told.startswith(f"{other}, line 3: 3 fields where the header has 2; `cut -f1-2 ")
    else:
        data = load(first, **settings, **{flag: str(other)})
        (found,) = [*data.validation.values(), *data.test.values()]
        assert found[column][:] == [line.split(delimiter)[0] for line in lines.splitlines()[1:]]
    written = repr(delimiter).replace("\\\\", "\\")
    told = f"Delimiter {other} is read with --delimiter {written}, as {first} is: its own lines leave a doubt\n"
    assert told in capsys.readouterr().out


RAGGED = """g\t01\t2.5\tthe lamp is old, so it is\tthe lamp was new, they say
g\t02\t1.5\tthe "tidy" lamp is red, and old\t"the rude lamp is odd
g\t03\t0.5\tthe odd lamp, they say\tthe old lamp, they say\thttp://a\tCC-BY
g\t04\t0.5\t"the lamp is old they say\tthe lamp is not very old
g\t05\t4.5\tthe lamp is not so odd"\tit was, they say, an odd one
"""


@pytest.mark.parametrize("ending", ["csv", "tsv", "txt"])
def test_tabs_that_most_lines_have_are_named_and_longer_rows_have_a_way_out(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the STS benchmark was published: no header, bare quotes, and a source behind some rows."""
    path = put(tmp_path / f"sts train.{ending}", RAGGED.encode())
    names = "column1 column2 label sentence1 sentence2"
    assert f"such as --column_names {names};" in fault(path)
    told = f"Delimiter {path} is read with --delimiter '\\t', which most of its first lines show\n"
    assert (told in capsys.readouterr().out) == (ending != "tsv")
    settings = {"column_names": names.split(), "text_column_names": ["sentence1", "sentence2"]}
    assert "line 1 has 5 columns, and 2 names given" in fault(path, column_names=["text", "label"])
    message = fault(path, **settings)
    assert message.startswith(f"{path}, line 3: 7 fields where --column_names has 5; `cut -f1-5 ")
    assert message.endswith("` leaves out what is beyond the first 5")
    subprocess.run(message.split("`")[1], shell=True, check=True)
    rows = rows_of(tmp_path / f"sts train_rows.{ending}", **settings)
    cells = [line.split("\t") for line in RAGGED.splitlines()]
    assert [list(row.values()) for row in rows] == [[first, second, label] for _, _, label, first, second, *_ in cells]
    assert rows_of(path.with_name(f"sts train_rows.{ending}"), delimiter="\\t", **settings) == rows


@pytest.mark.parametrize("delimiter", ["@", ";", "|"])
def test_quotes_in_texts_as_they_stand_are_text_where_csv_has_them_doubled(
    delimiter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the sentences of news that were published with an @ before the label."""
    texts = ['" This is a gain , " said the head of it .', '" A quote that is opened only .', 'The "odd" lamp .'] * 2
    labels = ["good", "bad", "good", "bad", "good", "good"]
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    lines = "\n".join(f"{row['text']}{delimiter}{row['label']}" for row in rows)
    path = put(tmp_path / "sentences.txt", lines.encode())
    assert rows_of(path, delimiter=delimiter, column_names=["text", "label"]) == rows
    told = f"Quotes    {path} has quotes in texts as they stand, not doubled as in csv; they are read as text\n"
    assert capsys.readouterr().out == told
    assert rows_of(put(path, table(rows, delimiter)), delimiter=delimiter) == rows
    assert capsys.readouterr().out == "", "doubled, they are csv's"
    longer = put(path, f"{lines}\none{delimiter}two{delimiter}three\n".encode())
    told = fault(longer, delimiter=delimiter, column_names=["text", "label"])
    assert "inside quotes a quote is written twice" in told, "a doubt that is left"


def test_a_longer_row_is_not_to_be_cut_where_texts_may_hold_tabs(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.csv", b'text\tlabel\n"a\tb"\tx\n"c\td"\ty\te\n')
    assert fault(path, delimiter="\\t") == f"{path}, line 3: 3 fields where the header has 2"


def test_a_text_a_line_and_one_column_stay_so_though_some_hold_tabs(tmp_path: Path) -> None:
    train, texts = (
        put(tmp_path / "train.jsonl", formats(ROWS)["jsonl"]),
        put(tmp_path / "a.txt", b"a\tb\nc\td\te\nf\tg\n"),
    )
    assert load(train, test_file=str(texts)).test["test"]["text"][:] == ["a\tb", "c\td\te", "f\tg"]
    column = put(tmp_path / "column.csv", b"text\na\tb\nc\td\n")
    assert load(train, test_file=str(column)).test["test"]["text"][:] == ["a\tb", "c\td"]


@pytest.mark.parametrize("text", ["the {} lamp", 'the {} lamp, "she" said', "the {} \"lamp, 5' wide"])
@pytest.mark.parametrize(
    "name", ["a.txt: ", "b.csv: ", "c.tsv: ", "d.txt:\t", "e.tsv:\t", "f.csv:\t", "g.csv:,", "h.csv:;"]
)
def test_the_names_of_rows_that_r_writes_without_a_name_are_no_column(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `write.table` writes by default, and with each of its usual separators."""
    file, delimiter = name.split(":")
    rows = [{"text": text.format(number), "label": ("bad", "good")[number % 3 > 0]} for number in range(12)]
    cells = [[row["text"].replace('"', '\\"'), row["label"]] for row in rows]
    lines = [["text", "label"], *([str(number), *row] for number, row in enumerate(cells, 1) if number != 7)]
    del rows[6]
    written = "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines) + "\n"
    path = put(tmp_path / file, written.encode())
    assert rows_of(path) == rows
    told = (
        f"Header    {path}: the header has a name fewer than every row has fields; the first is read as the row's name"
    )
    assert told in capsys.readouterr().out
    assert rows_of(path, delimiter=delimiter.replace("\t", "\\t")) == rows
    capsys.readouterr()
    unnamed = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in [lines[0], *cells])
    assert len(rows_of(put(path, unnamed.encode()))) == 12, "row.names = FALSE"
    assert "Header" not in capsys.readouterr().out


def test_other_names_of_rows_are_read_too_and_what_only_looks_so_is_not(tmp_path: Path) -> None:
    cars = put(tmp_path / "cars.csv", b"text,label\nfiat 128,an old car,a\nhonda,a red car,b\nmazda,a car,a\n")
    assert rows_of(cars)[1] == {"text": "a red car", "label": "b"}
    lines = "".join(f"{number},a,b\n" for number in range(200))
    bad = put(tmp_path / "bad.csv", f"text,label\n{lines}x,y\n".encode())
    assert fault(bad) == f"{bad}, line 202: 2 fields where the header with the names of the rows has 3"
    one = put(tmp_path / "one.csv", b"text\n1,a\n2,b\n")
    assert load(cars, test_file=str(one)).test["test"]["text"][:] == ["a", "b"]
    way = "; the names of rows need a name in front of line 1, an empty last field an end of line 1 with ','"
    for header, *lines in [
        ("text,label", "Yes, good,a", "No, bad,b", "Well, so,a"),  # texts that a comma cuts
        ("text,label", "good,a,", "bad,b,", "odd,a,"),  # a comma behind each row
        ("label,text", "3,5,good", "2,0,bad", "4,5,odd"),  # a decimal comma
        ("label,text", "a,b,c", "a,d,e", "f,g,h"),  # names that come again
        ("label,text", "a,b,c", "b,d,e"),  # too few to tell
    ]:
        path = put(tmp_path / "not.csv", "\n".join([header, *lines]).encode())
        assert fault(path).startswith(f"{path}, line 2: 3 fields where the header has 2{way}")


HEADLESS = {
    "sms.tsv": ("\t", [(row["label"], row["text"]) for row in ROWS], "label text"),
    "news.csv": (",", [(str(1 + n % 4), f"News {n}", row["text"]) for n, row in enumerate(ROWS)], "label column2 text"),
    "dates.csv": (
        ",",
        [(str(n % 2), "Mon Apr 06 22:19:45 PDT 2009", f"the {n}th of some tweets") for n in range(12)],
        "label column2 text",
    ),
    "chinese.tsv": ("\t", [(str(n % 2), f"第{n}部电影很好，我喜欢。") for n in range(12)], "label text"),
    "pairs.tsv": (
        "\t",
        [(str(n % 2), r["text"], r["text"] + "!") for n, r in enumerate(ROWS)],
        "label sentence1 sentence2",
    ),
}


@pytest.mark.parametrize("name", HEADLESS)
def test_a_file_without_a_header_is_recognised_and_its_columns_named(name: str, tmp_path: Path) -> None:
    delimiter, rows, names = HEADLESS[name]
    path = put(tmp_path / name, table([dict(enumerate(row)) for row in rows], delimiter, header=False))
    told = fault(path)
    assert f"{path}: line 1 seems to be a row, not a header (" in told
    assert f"such as --column_names {names};" in told
    found = rows_of(path, column_names=names.split())
    assert len(found) == len(rows), "the first line is a row"
    assert found[0]["label"] == rows[0][0]
    assert f"line 1 has {len(rows[0])} columns, and 1 name given: text" in fault(path, column_names=["text"])
    headed = put(tmp_path / f"headed.{name[-3:]}", table(ROWS, delimiter))
    assert "line 1 names text, label; leave it out" in fault(headed, column_names=["text", "label"])


@pytest.mark.parametrize("first", ["1,abc", "a,one two three four", "c,one two three four", "b,abc"])
def test_a_number_a_text_and_a_value_that_comes_again_are_no_names(first: str, tmp_path: Path) -> None:
    path = put(tmp_path / "rows.csv", f"{first}\nb,def\na,ghi\n".encode())
    assert "line 1 seems to be a row" in fault(path)
    assert "which columns hold the text?" in fault(put(path, b"x,y\nb,def\na,ghi\n"))


def test_a_header_of_long_names_is_one_where_a_column_below_a_name_has_few_values(tmp_path: Path) -> None:
    """As complaints and questionnaires have: a name that is none of the few values below it was written as a name."""
    header = "Issue,What did we do well in your view?,Company response to consumer"
    lines = [f"{('loan', 'card')[n % 2]},you sent the form no. {n},Closed with explanation {n}" for n in range(12)]
    told = fault(put(tmp_path / "rows.csv", "\n".join([header, *lines]).encode()))
    assert "which columns hold the text?" in told
    assert "line 1" not in told
    text = "loan,you sent the form at last,Closed with explanation"
    assert "line 1 seems to be a row" in fault(put(tmp_path / "rows.csv", "\n".join([text, *lines]).encode()))


def test_a_header_that_is_among_its_labels_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "sms.tsv", b"spam\tfirst\nham\ta\nspam\tb\nham\tc\n")
    assert len(rows_of(path, text_column_names=["first"], label_column_name="spam")) == 3
    told = (
        "'spam' names the column of the labels and is one of them; if line 1 is a row, not a header, name the columns"
    )
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_header_that_comes_again_is_no_row_and_is_said(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that were put together have such lines, each with its byte order mark."""
    delimiter = "," if ending == "csv" else "\t"
    one = b"\xef\xbb\xbf" + table(ROWS, delimiter).replace(b"text", b'"text"', 1)
    spaced = one.replace(delimiter.encode() + b"label", delimiter.encode() + b" label ", 1)
    path = put(tmp_path / f"rows.{ending}", one + one + spaced)
    for _ in ("read", "from the cache"):
        found = load(path)
        assert found.train.to_list() == ROWS * 3
        assert found.labels.names == ("bad", "good")
        told = f"Header    {path}: 2 lines (8, 15) repeat the header, as where files were put together: left out"
        assert told in capsys.readouterr().out
    assert len(rows_of(path, validation_file=str(put(tmp_path / f"headless.{ending}", one)))) == 18
    with find_source(str(path), None, read_twice=False) as source:
        rows = [row for chunk in read_chunks(source) for row in chunk.rows]
    assert [row.number for row in rows if row.error] == [8, 15], "in prediction each keeps its place"
    assert rows[6].error == "the header again, as where files were put together, and no row"
    alone = put(tmp_path / f"alone.{ending}", b"text\na\ntext\n")
    with find_source(str(alone), None, read_twice=False) as source:
        rows = [row for chunk in read_chunks(source) for row in chunk.rows]
    assert [row.error for row in rows] == [None, None], "a text that is called as its only column is"
    jsonl = put(tmp_path / "rows.jsonl", b'{"text": "a", "label": "label"}\n{"text": "b", "label": "x"}\n')
    load(jsonl)
    assert f"Warning   {jsonl}: 'label' names the column of the labels and is one of them\n" in capsys.readouterr().out


def test_quotes_behind_a_backslash_are_read_where_they_are_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spark and MySQL write them so; no other backslash is touched."""
    rows = [{"text": '"what" they said, a\\b', "label": "x"}, {"text": "c\nd\\", "label": "y"}]
    path = put(tmp_path / "part.csv", b'text,label\n"\\"what\\" they said, a\\b",x\n"c\nd\\\\",y\n')
    assert rows_of(path) == rows
    assert f"Quotes    {path} has a backslash before quotes inside fields" in capsys.readouterr().out
    plain = put(tmp_path / "plain.csv", b'text,label\n"ends in \\",x\na,y\n')
    assert rows_of(plain) == [{"text": "ends in \\", "label": "x"}, {"text": "a", "label": "y"}]
    assert "Quotes" not in capsys.readouterr().out
    both = put(tmp_path / "both.csv", path.read_bytes() + b'"e "f" g",y\n')
    assert "both.csv, line 2: ',' expected after '\"': inside quotes a quote is written twice, or in all" in fault(both)


def test_blanks_behind_the_delimiters_of_a_header_are_no_part_of_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As people and language models write csv: quotes behind such a blank are quotes."""
    path = put(tmp_path / "rows.csv", b'label, text\nx, "Good, in all"\ny,   plain\nz,"bare"\n')
    texts = {"x": "Good, in all", "y": "plain", "z": "bare"}
    assert rows_of(path) == [{"text": text, "label": label} for label, text in texts.items()]
    told = f"Blanks    {path} has a blank behind each ',' of its header; blanks there are left out\n"
    assert told in capsys.readouterr().out
    with find_source(str(path), None, read_twice=True) as source:
        (chunk,) = read_chunks(source)
        assert chunk.rows[0].values == {"label": "x", "text": texts["x"]}
    plain = put(tmp_path / "plain.csv", b"label,text\nx, a\ny,b\n")
    assert rows_of(plain) == [{"text": " a", "label": "x"}, {"text": "b", "label": "y"}]
    bare = put(tmp_path / "bare.csv", b'label, text\nx, "Good" they said\ny, a\n')
    assert [row[" text"] for row in rows_of(bare)] == [' "Good" they said', " a"], "no quotes around a field"
    assert "Blanks" not in capsys.readouterr().out


@pytest.mark.parametrize("header", ["id\tlabel\ttext", '"id"\t"label"\t"text"', None])
@pytest.mark.parametrize("ending", ["tsv", "txt"])
def test_quotes_behind_a_backslash_beside_tabs(
    ending: str, header: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Kaggle's reviews of films have them, whose header has no quotes; in training and prediction alike."""
    texts = ['"What" they said, a\\b', "ends in \\", 'It is a "lamp"', "plain", '"', 'He said ""so""', "it's"] * 3
    written = [re.sub(r'(\\(?=")|\\$|")', r"\\\1", text) for text in texts]  # no other backslash is touched
    made = [f'"7_{n}"\t{n % 2}\t"{text}"' for n, text in enumerate(written)]
    path = put(tmp_path / f"rows.{ending}", "\n".join([*([header] if header else []), *made, ""]).encode())
    names = None if header else ["id", "label", "text"]
    assert rows_of(path, column_names=names) == [{"text": text, "label": str(n % 2)} for n, text in enumerate(texts)]
    assert f"Quotes    {path} has a backslash before quotes inside fields; it is read so\n" in capsys.readouterr().out
    reading = make_reading(None, "\t", names)
    with find_source(str(path), None, read_twice=False, reading=reading) as source:
        rows = [row for chunk in read_chunks(source) for row in chunk.rows]
    assert [(row.values["id"], row.values["text"]) for row in rows] == [(f"7_{n}", t) for n, t in enumerate(texts)]


def test_tabs_and_lines_within_quotes_beside_those_behind_a_backslash(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.tsv", b'text\tlabel\n"a \\"b\\" c\nd\te"\tx\n"e \\"f\\""\ty\ng\tx\n')
    assert [row["text"] for row in rows_of(path)] == ['a "b" c\nd\te', 'e "f"', "g"]


@pytest.mark.parametrize(
    "texts",
    [
        ['"He said \\"so\\""', '"So," he said'],
        ['"He said \\"so\\""', 'so \\"so\\" so'],
        ['"He said \\"so\\"" and left', "so"],
        ['"He said \\"so', 'so"', "so"],
        ['a \\"b\\"', "c", "d"],
    ],
)
def test_bare_quotes_beside_tabs_stay_text_with_their_backslashes(texts: list[str], tmp_path: Path) -> None:
    """As in GLUE's own files."""
    lines = [f"{text}\t{'xy'[n % 2]}" for n, text in enumerate(texts)]
    path = put(tmp_path / "rows.tsv", "\n".join(["text\tlabel", *lines, ""]).encode())
    assert [row["text"] for row in rows_of(path)] == texts


@pytest.mark.parametrize("name", ["posts.train", "posts.txt", "posts.csv", "posts.train.gz"])
def test_labels_in_front_as_fasttext_has_them_are_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"__label__{row['label']} {row['text']}" for row in ROWS]
    pack = gzip.compress if name.endswith("gz") else bytes
    path = put(tmp_path / name, pack("\n".join([*lines, ""]).encode()))
    assert rows_of(path) == [{"text": row["text"], "label": row["label"]} for row in ROWS]
    assert f"Lines     {path} is read as fastText's" in capsys.readouterr().out
    several = put(tmp_path / "tags.train", pack("\n".join([*lines, "__label__good\t__label__bad  both"]).encode()))
    several = several if pack is bytes else several.rename(tmp_path / "tags.train.gz")
    found = load(several, validation_file=str(path))
    assert found.train.to_list()[-1] == {"text": "both", "label": ["good", "bad"]}
    assert found.validation["validation"][0]["label"] == [ROWS[0]["label"]]
    path.write_bytes(pack("\n".join([*lines, "a text without a label"]).encode()))
    with find_source(str(path), None, read_twice=False) as source:
        rows = [row for chunk in read_chunks(source) for row in chunk.rows]
    unlabelled = {"text": "a text without a label", "label": None}
    assert [row.values for row in rows] == [*ROWS, unlabelled], "in prediction the same"
    listed = put(tmp_path / "listed.csv", b"text,label\na,__label__x\nb,__label__y\n")
    assert load(listed).labels.names == ("__label__x", "__label__y")


@pytest.mark.parametrize("address", ["https://host.org/rows.csv", "https://host.org/export?format=csv", "hf://a/b.csv"])
def test_an_address_of_the_web_is_not_fetched_and_said_to_be_none_of_the_files(address: str) -> None:
    told = fault(address)
    assert address in told
    assert told.endswith("; from an address nothing is fetched: download it, and name the file")
    with pytest.raises(UserError, match="download it, and name the file"), find_source(address, None, read_twice=False):
        pass


def test_a_set_is_several_files_a_pattern_or_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (2, 0, 1):
        put(tmp_path / "shards" / f"part-{number}.csv", table(ROWS[2 * number : 2 * number + 2]))
    first, last = tmp_path / "shards" / "part-0.csv", tmp_path / "shards" / "part-2.csv"
    assert fault(first, last, first) == f"train_file: {first} is there twice; its rows would count double"
    assert rows_of(last, first) == [*ROWS[4:], *ROWS[:2]], "in the order given"
    assert rows_of(f"{tmp_path}/shards/*.csv") == rows_of(f"{tmp_path}/shards") == ROWS, "by their names"
    assert f"{tmp_path}/shards: part-0.csv, part-1.csv, part-2.csv" in capsys.readouterr().out
    assert TrainConfig(train_file=[str(first)]).train_file == TrainConfig(train_file=first).train_file == str(first)
    put(last, b"text,label\na,b\nc\n")
    assert fault(tmp_path / "shards").endswith("shards/part-2.csv, line 3: 1 fields where the header has 2")
    put(last, b"a text of many words,b\n")
    assert "part-2.csv: line 1 seems to be a row, not a header" in fault(tmp_path / "shards")
    put(last, b"text,other\na,b\n")
    assert "part-2.csv: no column label; it has text, other; the names in this file" in fault(tmp_path / "shards")
    assert fault(f"{tmp_path}/*.parquet") == f"train_file: no file matches {tmp_path}/*.parquet"
    for name in ("train.csv", "dev.csv"):
        put(tmp_path / "both" / name, table(ROWS))
    assert "holds files of several sets or formats (dev.csv, train.csv); name some, or a pattern" in fault(
        tmp_path / "both"
    )
    assert rows_of(f"{tmp_path}/both/train*") == ROWS


def named(names: list[str], labels: list[int]) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"text": [f"t {label}" for label in labels], "label": labels}, features)


def test_the_class_names_that_a_file_carries_are_its_labels(tmp_path: Path) -> None:
    """A file names its classes in its own order; one with another order means the same classes."""
    train, other = tmp_path / "train.parquet", tmp_path / "other.parquet"
    named(["worse", "better"], [0, 1, 1]).to_parquet(train)
    named(["better", "worse"], [0, 1, -1]).to_parquet(other)
    data = load(train, test_file=str(other), max_predict_samples=2)
    assert data.labels.names == ("worse", "better")
    assert data.train["label"][:] == ["worse", "better", "better"]
    assert data.test["test"]["label"][:] == ["better", "worse"]
    assert read_table(find_files(str(other), "test_file"), ["text"], "label")["label"][:] == ["better", "worse", None]


def test_what_save_to_disk_has_written_is_a_data_set(tmp_path: Path) -> None:
    rows = named(["worse", "better"], [0, 1, 1, 0, 1])
    rows.select([4, 3, 2, 1]).save_to_disk(tmp_path / "one", num_shards=2)
    assert rows_of(tmp_path / "one")[0] == {"text": "t 1", "label": "better"}
    assert len(rows_of(tmp_path / "one")) == 4
    splits = {"train": rows, "validation": rows.select([0, 1]), "test": rows.select([2])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "dict")
    data = load(tmp_path / "dict")
    assert (len(data.train), len(data.validation["validation"]), len(data.test["test"])) == (5, 2, 1)
    assert data.labels.names == ("worse", "better")
    other = load(tmp_path / "one", validation_file=str(tmp_path / "dict"))
    assert len(other.validation["validation"]) == 2
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "alone")
    assert "has no split test, only train" in fault(tmp_path / "dict", test_file=str(tmp_path / "alone"))


def test_a_data_set_that_save_to_disk_has_written_is_no_dataset_name_unless_it_has_splits(tmp_path: Path) -> None:
    rows, folder = named(["worse", "better"], [0, 1, 1, 0, 1]), tmp_path / "my rows"
    rows.save_to_disk(folder)
    with pytest.raises(UserError) as caught:
        load_text_data(TrainConfig(dataset_name=str(folder), eval_strategy="no"))
    told = f"dataset_name: {folder} is a data set that save_to_disk has written; give it with --train_file '{folder}'"
    assert str(caught.value) == told
    datasets.DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(tmp_path / "dict")
    data = load_text_data(TrainConfig(dataset_name=str(tmp_path / "dict"), eval_strategy="no"))
    assert data.train.to_list() == rows_of(folder), "the way out"
    assert len(data.test["test"]) == 1


def test_the_splits_of_a_saved_data_set_keep_their_names(tmp_path: Path) -> None:
    """Trained on must not be what is to be validated on."""
    rows = named(["worse", "better"], [0, 1, 1, 0, 1])
    splits = {"train": rows, "held_out": rows.select([0, 1, 2]), "fremd": rows.select([3])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "dict")
    data = load_text_data(
        TrainConfig(dataset_name=str(tmp_path / "dict"), validation_split_name="held_out", test_split_name="fremd")
    )
    assert len(data.train) == 5
    assert data.validation["validation"]["text"][:] == ["t 0", "t 1", "t 1"]
    assert data.test["test"]["text"][:] == ["t 0"]


BY_NAME = (
    "rows.json: it is one object of 6 texts by their names, each of which would be a row, such as "
    '{"id": "id0", "text": "..."}, and a list of objects is wanted, or an object a line: '
)


def test_the_forms_of_json_that_pandas_writes_are_read_or_named(tmp_path: Path) -> None:
    frame, path = pandas.DataFrame(ROWS), tmp_path / "rows.json"
    for orient in ("records", "table"):
        assert rows_of(put(path, frame.to_json(orient=orient).encode())) == ROWS
    for indent in (None, 1):
        assert rows_of(put(path, json.dumps({"version": 1, "data": ROWS}, indent=indent).encode())) == ROWS
    assert rows_of(put(path, frame.to_json(orient="records", lines=True).encode())) == ROWS
    for orient in ("columns", "index", "split", "values"):
        for indent in (None, 1):
            told = fault(put(path, frame.to_json(orient=orient, indent=indent).encode()))
            assert f'pandas\' orient="{orient}"' in told
            assert told.endswith('DataFrame.to_json(path, orient="records", lines=True)')
    by_id = {f"id{number}": row["text"] for number, row in enumerate(ROWS)}
    for content, what in {
        '{"data": []}': "rows.json: no rows",
        json.dumps({"text": ["a"], "label": [1]}): 'it is a list for each column (orient="list")',
        json.dumps({"a b": ROWS, "test": ROWS}): "it holds lists of rows ('a b', 'test'): a file for each",
        json.dumps(ROWS[0], indent=1): "it is a single object",
        json.dumps(dict.fromkeys(by_id, ROWS[0])): "it is an object of 6 rows by their names, as pandas' orient=",
        json.dumps(by_id): BY_NAME,
        json.dumps(by_id, indent=1): BY_NAME,
        json.dumps(ROWS[0], indent=1) * 2: "not JSON (Extra data); several objects stand on one line each",
    }.items():
        assert what in fault(put(path, content.encode()))
    many = {f"column{n}": "x" for n in range(9)} | ROWS[0]
    assert "all 1 rows have the label" in fault(put(path, json.dumps(many).encode())), "a row, as it has a text"
    data = load(
        put(tmp_path / "a.csv", table(ROWS)), test_file=str(put(path, json.dumps(list(by_id.values())).encode()))
    )
    assert data.test["test"].to_list() == [{"text": row["text"]} for row in ROWS]
    assert 'row 2: expected an object of columns, found str, and a text is {"text": "..."}' in fault(
        put(path, json.dumps([ROWS[0], "a"]).encode())
    )
    assert "an object stands on one line" in fault(put(tmp_path / "a.jsonl", json.dumps(ROWS[0], indent=1).encode()))
    assert "one list of rows has the ending .json" in fault(
        put(tmp_path / "a.jsonl", json.dumps(ROWS, indent=1).encode())
    )


@pytest.mark.parametrize("form", ["objects", "texts first", "labels first"])
def test_the_command_that_is_told_makes_a_file_of_each_set_in_an_object(form: str, tmp_path: Path) -> None:
    """As CLINC150 was published: `{"train": [["a text", "its label"], ...], "val": ...}`."""
    path = tmp_path / "the full data.json"
    lists = {"texts first": ("text", "label"), "labels first": ("label", "text")}
    rows = [[row[name] for name in lists[form]] for row in ROWS] if form in lists else ROWS
    for indent in (None, 1):
        put(path, json.dumps({"train": rows, "oos_val": rows[:2], "oos": []}, indent=indent).encode())
        told = fault(path)
        start = f"{tmp_path}/the full data_"
        assert f"this makes {start}train.json, {start}oos_val.json, {start}oos.json of it, which are read: " in told
        subprocess.run(told.partition("which are read: ")[2], shell=True, check=True)
        assert rows_of(f"{start}train.json") == ROWS
        assert rows_of(f"{start}train.json", f"{start}oos_val.json") == [*ROWS, *ROWS[:2]]
    for other in ({"train": rows, "labels": ["a"]}, {"train": rows, "n": 1}, {"train": rows, "../x": rows}):
        assert "python -c" not in fault(put(path, json.dumps(other).encode()))


@pytest.mark.parametrize(
    ("column", "who", "what"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_the_command_that_is_given_makes_rows_of_conversations(
    column: str, who: str, what: str, tmp_path: Path
) -> None:
    """As OpenAI and ShareGPT have them, to tune chat models with."""
    chats = [[{who: "a", what: row["text"]}, {who: "b", what: row["label"]}] for row in ROWS]
    chats[0].insert(0, {who: "system", what: "You are a classifier."})
    path = tmp_path / "it's.jsonl"
    put(path, "\n".join(json.dumps({"id": 1, column: chat}) for chat in chats).encode() + b"\n\n")
    told = fault(path)
    assert f"'{column}' holds a conversation, and columns of texts and labels are wanted" in told
    subprocess.run(told.partition("which is read: ")[2], shell=True, check=True)
    assert rows_of(tmp_path / "it's.rows.jsonl") == ROWS
    other = put(tmp_path / "other.jsonl", json.dumps({"tags": [{who: "a"}, {who: "b"}]}).encode())
    assert "conversation" not in fault(other)
    assert "conversation" in fault(put(tmp_path / "c.jsonl.gz", gzip.compress(path.read_bytes())))


WORKBOOK = zipped(b"", "[Content_Types].xml", "xl/workbook.xml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (WORKBOOK, "is an Excel workbook; save it as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook"),
        (zipped(b"a", "rows.csv"), "is a zip archive; give it the ending of its compression too, as in rows.csv.zip"),
        (gzip.compress(b"a", mtime=0), "is compressed with gzip; give it the ending of its compression too"),
        (formats(ROWS)["parquet"], "is a parquet file; give it the ending .parquet"),
        (b"\n<!DOCTYPE html><html>", "is a page of the web, not the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS, not the file itself"),
        (b"\x80\x04\x95\x00", "is a pickle, which is never loaded"),
        (b'<?xml version="1.0" encoding="UTF-8"?>\n<rows><row/></rows>', "is XML; write csv or jsonl of it, as pandas"),
        (b"```json\n[]\n```\n", "is rows between the marks of a code block (```), as in a chat; leave out the lines"),
    ],
    ids=range(10),
)
def test_what_is_something_else_than_its_name_says_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.tsv", "rows.jsonl", "rows.json"):
        assert f"{tmp_path / name} {told}" in fault(put(tmp_path / name, content))
    assert "is an Excel workbook" in fault(put(tmp_path / "rows.xlsx", WORKBOOK))
    assert "rows.xml is XML; write csv or jsonl of it" in fault(
        put(tmp_path / "rows.xml", b'<?xml version="1.0"?><a/>')
    )


def test_an_encoding_that_makes_other_letters_of_utf8_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path / "rows.csv", "text,label\nGrüße,a\nb,b\n".encode())
    assert rows_of(path, encoding="windows-1252")[0]["text"] == "GrÃ¼ÃŸe"
    assert "letters are valid UTF-8, which --encoding windows-1252 makes others of" in capsys.readouterr().out
    assert rows_of(path, encoding="utf-8")[0]["text"] == "Grüße"
    assert "Warning" not in capsys.readouterr().out


def test_a_compressed_parquet_file_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert rows_of(put(tmp_path / "rows.parquet.gz", gzip.compress(formats(ROWS)["parquet"]))) == ROWS
    assert list((tmp_path / "temporary").iterdir()) == []


def class_folders(root: Path, ending: str = ".txt", **texts: list[str]) -> Path:
    """Write a folder for each class and a text a file."""
    for label, of_class in texts.items():
        for number, text in enumerate(of_class):
            put(root / label / f"{number}{ending}", text.encode())
    return root


def test_a_folder_for_each_class_is_read_with_a_text_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As film reviews are published (with a folder of unlabelled ones and lists beside), and the 20 newsgroups."""
    texts = {"pos": ["good, yes\n", "two\r\nlines;\n\n"], "neg": ["", "\ufeffbad\t'x"], "unsup": ["?"]}
    folder = class_folders(tmp_path / "train", **texts)
    put(folder / "urls_pos.txt", b"http://a/b\nhttp://c/d\n")
    put(folder / "counts.feat", b"1 0:9")
    put(folder / "pos" / ".DS_Store", b"x")
    expected = [("", "neg"), ("bad\t'x", "neg"), ("good, yes", "pos"), ("two\r\nlines;", "pos")]
    for _ in ("read", "from the cache"):
        data = load(folder, test_file=str(class_folders(tmp_path / "test", "", neg=["no"], pos=["yes"])))
        assert [(row["text"], row["label"]) for row in data.train.to_list()] == expected
        assert data.test["test"].to_list() == [{"text": "no", "label": "neg"}, {"text": "yes", "label": "pos"}]
        said = f"Files     train_file {folder}: a folder for each class, a text a file: neg (2), pos (2); left out: "
        assert f"{said}counts.feat, unsup, urls_pos.txt\n" in capsys.readouterr().out
    put(folder / "pos" / "0.txt", b"other")
    assert rows_of(folder)[2] == {"text": "other", "label": "pos"}, "a changed file is read anew"
    put(folder / "pos" / "0.txt", "café".encode("latin-1"))
    assert fault(folder).endswith(
        "train, row 3: pos/0.txt is not UTF-8 but, it seems, windows-1252: give --encoding "
        "windows-1252, or save the file as UTF-8"
    )
    assert rows_of(folder, encoding="windows-1252")[2]["text"] == "café"
    way = f"if each file is a text and its folder the class, name {folder}"
    assert fault(folder / "pos").endswith(way)
    assert fault(f"{folder}/[p]*/*.txt").endswith(way)
    assert fault(tmp_path).endswith("; it holds the folders test, train: name one")
    put(folder / "neg" / "x.csv", b"a")
    assert fault(folder) == f"{folder / 'neg'} holds texts and x.csv; the folder of a class holds .txt files alone"
    put(folder / "urls_pos.txt", b"text\tlabel\na\tx\nb\ty\n")
    assert len(rows_of(folder)) == 2, "a table is what it was"


def test_whether_several_files_of_a_test_set_are_a_text_each_is_asked_beside_class_folders(tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", ham=["one\ntwo", "three"], spam=["four", "five\nsix"])
    texts = ["Dear all,\nyes", "Hello!\nno\nno", "Bye"]
    flat = class_folders(tmp_path / "mails", unlabelled=texts) / "unlabelled"
    files = [str(file) for file in sorted(flat.iterdir())]
    for given in (str(flat), f"{flat}/*.txt", files):
        told = fault(train, test_file=given)
        first = given if isinstance(given, str) else files[0]
        assert told.startswith(
            f"test_file: {first}: is each of several files one text, or each line of it? For a text "
        )
    way = "for a text a file put the files into a folder within another, as texts/unknown, and name texts"
    assert told.endswith(f"a line put all lines into one file; {way}")
    within = class_folders(tmp_path / "within", unknown=texts)
    test = load(train, test_file=str(within)).test["test"]
    assert test.to_list() == [{"text": text} for text in texts], "the way out: without labels"
    joined = put(tmp_path / "all.txt", "\n".join(texts).encode())
    lines = "\n".join(texts).split("\n")
    assert load(train, test_file=str(joined)).test["test"]["text"][:] == lines, "and the other"
    table_file = put(tmp_path / "train.csv", table(ROWS))
    assert load(table_file, test_file=files).test["test"]["text"][:] == lines, "no doubt where rows are lines"


def test_what_lies_in_a_folder_without_a_file_that_is_read_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a" / "dev.xlsx", WORKBOOK)
    assert "parquet, arrow; dev.xlsx in it is an Excel workbook; save it as CSV UTF-8" in fault(tmp_path / "a")
    put(tmp_path / "b" / "rows.doc", b"rows")
    assert fault(tmp_path / "b").endswith("parquet, arrow; it holds rows.doc")


@pytest.mark.parametrize(
    ("numbers", "names", "ids"),
    [
        (["1", "2", "1"], ("1", "2"), [0, 1, 0]),
        (["1.00", "2.00", "1.00"], ("1", "2"), [0, 1, 0]),
        (["0.5", "1.25", "2.75"], (), [0.5, 1.25, 2.75]),
    ],
)
def test_a_decimal_number_of_a_database_is_a_number(
    numbers: list[str], names: tuple[str, ...], ids: list[Any], tmp_path: Path
) -> None:
    labels = pyarrow.array([Decimal(number) for number in numbers], pyarrow.decimal128(10, 2))
    table = pyarrow.table({"text": ["a", "b", "c"], "priority": labels})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    config = TrainConfig(train_file=str(tmp_path / "train.parquet"), label_column_name="priority")
    data = load_text_data(config)
    assert data.labels.regression == (not names)
    assert names in ((), data.labels.names)
    assert [data.labels.ids[label] if names else float(label) for label in data.train["priority"]] == ids


FILMS = [
    {"id": str(n), "text": f'"Star {n}": one, two; it\'s 12:30', "label": ("bad", "good", "odd")[n % 3]}
    for n in range(1, 10)
]


@pytest.mark.parametrize("ending", ["txt", "csv", "dat"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("delimiter", [" ::: ", "::", " || ", "||", "\t\t"])
def test_delimiters_of_several_characters(
    delimiter: str, header: bool, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As MovieLens has them; they are found, or named, and no quotes are read."""
    lines = [delimiter.join(row.values()) for row in [*([{name: name for name in FILMS[0]}] if header else []), *FILMS]]
    path = put(tmp_path / f"rows.{ending}", "\r\n".join([*lines, ""]).encode())
    names = None if header else list(FILMS[0])
    rows = [{"text": row["text"], "label": row["label"]} for row in FILMS]
    written = shlex.quote(delimiter.replace("\t", "\\t"))
    if ending != "csv" or header:
        assert rows_of(path, column_names=names) == rows
        told = f"Delimiter {path} is read with --delimiter {written}, which all its first lines show; quotes are text\n"
        assert told in capsys.readouterr().out
    named = delimiter.replace("\t", "\\t")
    assert rows_of(path, column_names=names, delimiter=named) == rows
    assert "Quotes" not in capsys.readouterr().out
    reading = make_reading(None, named, names)
    with find_source(str(path), None, read_twice=False, reading=reading) as source:
        assert [row.values for chunk in read_chunks(source) for row in chunk.rows] == FILMS
    path.write_bytes(path.read_bytes() + delimiter.join("abcd").encode())
    line = len(lines) + 1
    told = fault(path, column_names=names, delimiter=named)
    assert (
        f"line {line}: 4 fields where {'the header' if header else '--column_names'} has 3; a text cannot hold" in told
    )


def test_what_only_looks_like_a_delimiter_of_several_characters(tmp_path: Path) -> None:
    """An empty column between single ones, lines with more than one of them, and few lines."""
    tabs = put(tmp_path / "rows.txt", b"text\tnote\tlabel\n" + b"a\t\tx\nb\t\ty\n" * 3)
    assert rows_of(tabs) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 3
    bars = put(tmp_path / "bars.txt", b"text||label|n\n" + b"a||x|1\nb||y|2\n" * 3)
    assert rows_of(bars) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 3
    uneven = put(tmp_path / "uneven.txt", b"a::x\nb::y\nc::d::x\ne::y\nf::x\n")
    assert "what separates the columns of this txt file? Its lines do not show it" in fault(uneven)
    few = put(tmp_path / "few.txt", b"std::vector\nstd::map\n")
    assert "Its lines do not show it" in fault(few)
    both = put(tmp_path / "both.txt", b"a, 1,b::x\n" * 3 + b"c,2,d::y\n" * 3)
    assert "Its lines show ',' and '::'; name it with --delimiter" in fault(both)
