"""Texts and labels in mappings within a row, named with a dot, as jq and pandas' json_normalize name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from ftloop.config.train_config import TrainConfig
from ftloop.data.files import column_names
from ftloop.data.load import load_text_data
from ftloop.data.readers import read_chunks, read_rows
from ftloop.data.rows import field_names, value_at
from ftloop.data.sources import file_source
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")

ROWS = [
    {"data": {"text": f"the {number} lamp", "n": number}, "meta": {"job": {"label": "ab"[number % 2], "sure": 0.5}}}
    for number in range(6)
]
NAMED: dict[str, Any] = {"text_column_names": ["data.text"], "label_column_name": "meta.job.label"}
READ = [{"data.text": row["data"]["text"], "meta.job.label": row["meta"]["job"]["label"]} for row in ROWS]


def write(folder: Path) -> dict[str, Path]:
    lines = "\n".join(map(json.dumps, ROWS))
    for name, content in {"lines.jsonl": lines, "lines.json": lines, "list.json": json.dumps(ROWS, indent=1)}.items():
        (folder / name).write_text(content)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
    with pyarrow.OSFile(str(folder / "rows.arrow"), "wb") as file:
        table = pyarrow.Table.from_pylist(ROWS)
        with pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return {path.name: path for path in sorted(folder.iterdir())}


def load(path: Path, **settings: Any) -> Any:
    return load_text_data(TrainConfig(train_file=str(path), eval_strategy="no", **settings))


def fault(path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **settings)
    return str(caught.value)


def test_a_field_within_mappings_is_read_by_a_name_with_dots_in_every_format_that_has_them(tmp_path: Path) -> None:
    files = write(tmp_path)
    assert len(files) == 5
    for name, path in files.items():
        assert load(path, test_file=str(path), **NAMED).train.to_list() == READ, name
        assert column_names(str(path))[2:] == ["data.text", "data.n", "meta.job", "meta.job.label", "meta.job.sure"]
    rows = pandas.json_normalize(ROWS)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert load(files["list.json"], test_file=str(tmp_path / "rows.csv"), **NAMED).test["test"].to_list() == READ
    (tmp_path / "by_name").mkdir()
    files["lines.jsonl"].rename(tmp_path / "by_name" / "train.jsonl")
    by_name = TrainConfig(dataset_name=str(tmp_path / "by_name"), eval_strategy="no", **NAMED)
    assert load_text_data(by_name).train.to_list() == READ


def test_a_column_whose_own_name_has_a_dot_comes_before_a_field() -> None:
    values = {"a.b": 1, "a": {"b": 2, "c.d": 3, "e": {"f": 4}}, "g.h": {"i": 5}}
    read = {name: value_at(values, name) for name in ("a.b", "a.c.d", "a.e.f", "a.e", "a.x", "a.b.c", "x.y", "g.h.i")}
    assert read == dict(zip(read, [1, 3, 4, {"f": 4}, None, None, None, None], strict=True))
    assert field_names(values) == ["a.c.d", "a.e", "a.e.f"], "and is not there twice"


def test_what_is_within_a_mapping_is_named_where_it_is_missed(tmp_path: Path) -> None:
    path = write(tmp_path)["lines.jsonl"]
    listing = "has the columns data, meta, data.text, data.n, meta.job, meta.job.label, meta.job.sure"
    told = fault(path)
    assert f"which columns hold the text? data.text could; {path} {listing}; name one or two with --text" in told
    assert f"which column holds the label? meta.job.label could; {path} {listing}; name it with --label_col" in told
    told = fault(path, text_column_names=["text"], label_column_name="label")
    assert f"no column 'text': {path} {listing}; a field within another is named with a dot: data.text" in told
    assert f"no column 'label': {path} {listing}; a field within another is named with a dot: meta.job.label" in told
    told = fault(path, text_column_names=["data"], label_column_name="meta.job.label")
    dotted = "a mapping, not a text or a number; a field of it is named with a dot, such as 'data.text'"
    assert told == f"{path}, line 1: column data holds {dotted}"
    told = fault(path, text_column_names=["data.text"], label_column_name="meta.job")
    assert "line 1: column meta.job maps 'label' to 'a'; 0 or 1 is wanted of each label, and a field of it is" in told
    assert told.endswith("named with a dot: 'meta.job.label'")


def test_a_row_without_the_field_is_one_without_a_value(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [*ROWS, {"data": None, "meta": {"job": {"label": "a"}}}, {"data": {"text": "x"}, "meta": {}}]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = [row.values["data.text"] for row in read_rows(file_source(path), ["data.text"])]
    assert found == [*(row["data"]["text"] for row in ROWS), None, "x"]
    assert "column 'meta.job.label' has no value in row 8" in fault(path, **NAMED)
    path.write_text("\n".join(map(json.dumps, [rows[6], *ROWS])))
    assert len(load(path, **NAMED).train) == 7, "the first one too"


def test_rows_that_are_read_without_a_dotted_name_are_as_they_were(tmp_path: Path) -> None:
    for path in write(tmp_path).values():
        (chunk,) = read_chunks(file_source(path))
        assert [row.values for row in chunk.rows] == ROWS
        assert chunk.columns == ("data", "meta"), "those that prediction writes again"
        assert chunk.fields[0] == "data.text"


def test_the_columns_of_json_are_those_of_all_its_first_rows(tmp_path: Path) -> None:
    labelled = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(6)]
    rows = [{"text": "x"}, *labelled]
    lines, document, whole = (tmp_path / name for name in ("train.jsonl", "train.json", "whole.jsonl"))
    lines.write_text("\n".join(map(json.dumps, rows)))
    document.write_text(json.dumps(rows, indent=1))
    whole.write_text("\n".join(map(json.dumps, labelled)))
    for path in (lines, document):
        assert column_names(str(path)) == ["text", "label"]
        assert "column 'label' has no value in row 1; --drop_unlabelled leaves such rows out" in fault(path)
        assert load(path, drop_unlabelled=True).train.to_list() == labelled
        with pytest.raises(UserError, match="the test set: column 'label' has no value in row 1; --drop_unlabelled"):
            load(whole, test_file=str(path))
        with pytest.raises(UserError, match="the validation set: column 'label' has no value in row 1; --drop_unlab"):
            load(whole, validation_file=str(path))
        kept = load(whole, test_file=str(path), validation_file=str(path), drop_unlabelled=True)
        assert kept.test["test"].to_list() == kept.validation["validation"].to_list() == labelled


def test_a_row_of_json_that_is_refused_names_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*map(json.dumps, [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]), "[1]"]))
    assert column_names(str(path)) == ["text", "label"]
    assert "line 3: expected an object of columns, found list" in fault(path)
    path.write_text("[1]\n" + json.dumps({"text": "a", "label": "x"}))
    with pytest.raises(UserError, match="line 1: expected an object of columns, found list"):
        column_names(str(path))
