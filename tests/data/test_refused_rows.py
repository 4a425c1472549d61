"""A column by which an annotation tool says that a row is not to be used."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")

ANSWERS = ["accept", "accept", "reject", "accept", "ignore", "accept", "reject"]
Rows = list[dict[str, Any]]


def rows(values: list[Any] = ANSWERS, name: str = "answer", **more: Any) -> Rows:
    texts = [f'the {n} "lamp", 00{n}\nis null' for n in range(len(values))]
    return [
        {"text": text, "label": "ab"[n // 2 % 2], name: value, **more}
        for n, (text, value) in enumerate(zip(texts, values, strict=True))
    ]


def write(path: Path, rows: Rows) -> Path:
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix in (".csv", ".tsv"):
        written = io.StringIO()
        delimiter = "\t" if path.suffix == ".tsv" else ";" if path.stem.endswith("excel") else ","
        writer = csv.DictWriter(written, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(written.getvalue(), newline="")
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)
    return path


def load(*files: Path, **settings: Any) -> Any:
    return load_text_data(TrainConfig(train_file=list(map(str, files)), eval_strategy="no", **settings))


@pytest.mark.parametrize("name", ["an export.jsonl", "it's.csv", "of excel.csv", "all.parquet"])
@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("answer", ANSWERS, "3 rows as not to be used (accept 4, reject 2, ignore 1)"),
        (
            "was_cancelled",
            [False, True, False, False, True, False, False],
            "2 rows as not to be used (False 5, True 2)",
        ),
        ("cancelled", [0, 1, 0, 0, 0, 0, 0], "1 row as not to be used (0 6, 1 1)"),
    ],
)
def test_rows_that_an_annotation_tool_refuses_are_told_and_the_command_leaves_them_out(
    name: str, column: str, values: list[Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_rows = rows(values, column, annotator=1)
    path = write(tmp_path / name, all_rows)
    for _ in ("read", "from the cache"):
        read = load(path).train.to_list()
        assert len(read) == len(values), "nothing else is read than before"
        out = capsys.readouterr().out
        assert f"Warning   {path}: column {column} marks {told}, and all are trained on; in a shell, this" in out
    made = path.with_name(f"{path.stem}_kept{path.suffix}")
    command = re.search(r"this makes (.*) without them: python (-c .*)\n", out)
    assert command is not None
    assert command[1] == made.name
    subprocess.run(f"{sys.executable} {command[2]}", shell=True, check=True, cwd="/")
    refused = ("reject", "ignore", True, 1)
    kept = [row for row, value in zip(read, values, strict=True) if value not in refused]
    assert load(made).train.to_list() == kept
    assert "not to be used" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["all.tsv", "all.json", "all.jsonl.gz"])
def test_a_file_of_another_form_is_told_what_to_do(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(write(tmp_path / name, rows()))
    out = capsys.readouterr().out
    assert "column answer marks 3 rows as not to be used (accept 4, reject 2, ignore 1)" in out
    assert 'leave them out of the file, as pandas\' d[~d["answer"].isin(["reject", "ignore"])] does of a frame d' in out


def test_every_set_and_all_its_files_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = [write(tmp_path / f"{n}.jsonl", rows()) for n in "ab"] + [write(tmp_path / "c.jsonl", rows(["accept"]))]
    other = write(tmp_path / "other.jsonl", rows(["accept", "ignore"]))
    load(*train, validation_file=str(other))
    out = capsys.readouterr().out
    assert f"{train[0]}: column answer marks 6 rows as not to be used (accept 9, reject 4, ignore 2)" not in out
    assert f"{train[0]}: column answer marks 6 rows as not to be used (accept 8, reject 4, ignore 2)" in out
    assert "and all are trained on, as in 1 other file; in a shell, this makes a_kept.jsonl" in out
    told = "column answer marks 1 row as not to be used (accept 1, ignore 1), and all are predicted and scored"
    assert f"{other}: {told}; in a shell" in out


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (["accept"] * 7, "answer"),
        (["accept", "reject", "maybe"] * 3, "answer"),
        (["accept", "reject", 3] * 3, "answer"),
        (["accept", "reject", ["reject"]] * 3, "answer"),
        (["accept", "reject"] * 4, "decision"),
        ([True, False] * 4, "cancelled"),
        ([False] * 8, "was_cancelled"),
        (["by the buyer", "true"] * 4, "was_cancelled"),
    ],
)
def test_other_columns_are_not_taken_for_one_that_refuses_rows(
    values: list[Any], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(write(tmp_path / "all.jsonl", rows(values, name)))
    assert "not to be used" not in capsys.readouterr().out


def test_the_column_that_is_learned_refuses_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(write(tmp_path / "all.jsonl", rows()), label_column_name="answer")
    assert "not to be used" not in capsys.readouterr().out


def test_a_column_that_python_has_no_values_for_is_left_alone(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    times = pyarrow.array([10**15] * 2, pyarrow.timestamp("s"))
    pyarrow.parquet.write_table(table.append_column("answer", times), tmp_path / "all.parquet")
    assert len(load(tmp_path / "all.parquet").train) == 2
