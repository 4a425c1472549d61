"""A file that holds all sets, with a column that names the set of each row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")

WORDS = ["TRAIN", "TRAIN", "TRIAL", "TRAIN", "TEST", "TRAIN", "TRAIN", "TRIAL", "TEST"]
Rows = list[dict[str, Any]]


def rows(words: list[Any] = WORDS, name: str = "SemEval_set") -> Rows:
    return [{"text": f"the {n} lamp", "label": "ab"[n // 2 % 2], name: word} for n, word in enumerate(words)]


def write(path: Path, rows: Rows) -> Path:
    if path.suffix == ".parquet":
        table = pyarrow.Table.from_pylist(rows)  # and beside it years that Python has no date for
        times = pyarrow.array([10**15] * len(rows), pyarrow.timestamp("s"))
        pyarrow.parquet.write_table(table.append_column("when", times), path)
        return path
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]), delimiter="\t" if path.suffix == ".txt" else ",")
    writer.writeheader()
    writer.writerows(rows)
    lines = "\n".join(map(json.dumps, rows))
    path.write_text(lines if path.suffix == ".jsonl" else written.getvalue(), newline="")
    return path


def load(*files: Path, **settings: Any) -> Any:
    return load_text_data(TrainConfig(train_file=list(map(str, files)), eval_strategy="no", **settings))


def fault(*files: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*files, **settings)
    return str(caught.value)


def texts(dataset: Any) -> list[int]:
    return [int(text.split()[1]) for text in dataset["text"]]


@pytest.mark.parametrize("name", ["all.txt", "all.csv", "all.jsonl", "all.parquet"])
def test_a_column_that_names_the_sets_is_told_and_its_way_out_keeps_them_apart(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / name, rows())
    for _ in ("read", "from the cache"):
        assert len(load(path).train) == len(WORDS), "nothing else is read than before"
        told = "column SemEval_set seems to name the set of each row (TRAIN 5, TRIAL 2, TEST 2), and all are trained on"
        way = "--split_column_name SemEval_set keeps the sets apart\n"
        assert f"Warning   {path}: {told}; {way}" in capsys.readouterr().out
        data = load(path, split_column_name="SemEval_set")
        assert texts(data.train) == [0, 1, 3, 5, 6]
        assert texts(data.validation["validation"]) == [2, 7]
        assert texts(data.test["test"]) == [4, 8]
        assert "Warning" not in capsys.readouterr().out


def test_several_files_and_fields_within_mappings_may_name_the_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    within = [{"meta": {"Split": row.pop("SemEval_set").title()}, **row} for row in rows()]
    first = write(tmp_path / "a.jsonl", within[:4])
    second = write(tmp_path / "b.jsonl", within[4:])
    load(first, second)
    assert "column meta.Split seems to name the set of each row (Train 5, Trial 2, Test 2)" in capsys.readouterr().out
    data = load(first, second, split_column_name="meta.Split")
    assert [texts(each) for each in (data.train, *data.validation.values(), *data.test.values())] == [
        [0, 1, 3, 5, 6],
        [2, 7],
        [4, 8],
    ]
    other = write(tmp_path / "c.jsonl", rows(WORDS[:2]))
    assert f"no column 'meta.Split': {other} has text, label, SemEval_set" in fault(
        first, other, split_column_name="meta.Split"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["train"] * 9,
        ["test", "dev", "test"] * 3,
        ["train", "test", "bus"] * 3,
        ["train", None, "test"] * 3,
        ["a train", "a test", "a"] * 3,
        ["train", "TRAIN", "Train", "test", "Test"] * 2,
        [0, 1, 2] * 3,
    ],
)
def test_other_columns_are_not_taken_for_one_that_names_the_sets(
    words: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(write(tmp_path / "all.jsonl", rows(words)))
    load(write(tmp_path / "labels.jsonl", rows(["train", "test"] * 5, name="x")), label_column_name="x")
    assert "seems to name the set" not in capsys.readouterr().out


def test_a_column_that_does_not_name_the_sets_is_refused_with_the_row(tmp_path: Path) -> None:
    path, name = write(tmp_path / "all.csv", rows([*WORDS, "bus"])), "SemEval_set"
    told = f"{path}, line 11: column SemEval_set holds 'bus', which names no set (train, training, validation, "
    assert fault(path, split_column_name=name).startswith(told)
    assert "no column 'sets'" in fault(path, split_column_name="sets")
    write(path, rows(["test", "dev"] * 5))
    assert "split_column_name: column SemEval_set of " in fault(path, split_column_name=name)
    assert fault(path, split_column_name=name).endswith("names no training rows")
    write(path, rows())
    other = str(write(tmp_path / "dev.csv", rows(["dev"] * 3)))
    told = fault(path, split_column_name=name, validation_file=other)
    assert told == f"validation_file: column {name} of {path} has validation rows too; leave one of them out"
    write(path, rows(["train", "test"] * 5))
    data = load(path, split_column_name=name, validation_file=other)
    assert [len(each) for each in (data.train, *data.validation.values(), *data.test.values())] == [5, 3, 5]
