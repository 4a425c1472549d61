"""Labels of several training files that name the same classes in other ways, or none in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import TextData, load_text_data

pytestmark = pytest.mark.usefixtures("own_cache")


def put(path: Path, labels: list[Any]) -> str:
    rows = [{"text": f"{path.name} {i}", "label": label} for i, label in enumerate(labels)]
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def named(path: Path, labels: list[int], names: list[str]) -> str:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_dict({"text": [f"t {i}" for i in range(len(labels))], "label": labels}, features).to_parquet(path)
    return str(path)


def load(*files: str, **settings: Any) -> TextData:
    return load_text_data(TrainConfig(train_file=list(files), eval_strategy="no", **settings))


@pytest.mark.parametrize(("name", "labels"), [("b.csv", [0, 1, 1]), ("b.jsonl", [0, 1.0, "1"]), ("b.csv", [1, 1, 1])])
def test_numbers_beside_a_file_that_names_the_classes_are_these(
    name: str, labels: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = named(tmp_path / "a.parquet", [1, 0], ["worse", "better"]), put(tmp_path / name, labels)
    expected = ["better", "worse", *(("worse", "better")[int(label)] for label in labels)]
    for _ in ("read", "from the cache"):
        found = load(first, second)
        assert (found.labels.names, found.train["label"][:]) == (("worse", "better"), expected)
        out = capsys.readouterr().out
        assert f"Labels    {second}: numbers of the classes that {first} names: " in out
        assert "1 is 'better'" in out
        assert "Warning" not in out
    other_order = load(second, first)
    swapped = expected[2:] + expected[:2]
    assert (other_order.labels.names, other_order.train["label"][:]) == (("worse", "better"), swapped)


def test_numbers_that_are_none_of_the_classes_stay_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = named(tmp_path / "a.parquet", [1, 0], ["worse", "better"])
    second = put(tmp_path / "b.csv", [0, 1, 2])
    assert load(first, second).labels.names == ("0", "1", "2", "better", "worse")
    told = f"training files without a label in common: {first} has 'better', 'worse', and {second} '0', '1', '2'"
    assert f"Warning   {told}; if they mean the same, write them alike" in capsys.readouterr().out
    other = named(tmp_path / "c.parquet", [1, 0], ["better", "worse"])
    assert load(first, other, put(tmp_path / "d.csv", [0, 1])).labels.names == ("0", "1", "better", "worse")
    assert "Warning   training files without a label in common" in capsys.readouterr().out, "of which of the two?"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([["pos", "neg"], [1, 0]], True),
        ([["pos", "neg"], ["POS", "NEG", ""]], True),
        ([["a", "b"], ["b", "c"], ["x", "y"]], True),
        ([["pos", "neg"], [1, 1]], True),
        ([["pos", "pos"], ["neg", "neg"]], False),
        ([[1, 1], [0, 0]], False),
        ([["a", "b"], ["b", "c"], ["c", "d"]], False),
        ([["a", "b"], ["c"]], False),
        ([[0, 1], [0.0, 1.0]], False),
        ([[0.5, 1.25], [0.75, 1.5]], False),
        ([["x", "y"], ["", ""], ["y", "x"]], False),
        ([[f"c{i}" for i in range(150)], [f"d{i}" for i in range(150)]], False),
    ],
)
def test_files_without_a_label_in_common_are_told(
    files: list[list[Any]], told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [put(tmp_path / f"{number}.csv", labels) for number, labels in enumerate(files)]
    for _ in ("read", "from the cache"):
        load(*paths, drop_unlabelled=True)
        assert ("training files without a label in common" in capsys.readouterr().out) is told
    if files[0] == ["pos", "neg"] and files[1] == [1, 0]:
        with pytest.raises(ValueError, match="regression learns numbers"):
            load(*paths, problem_type="regression")
        assert "without a label in common" not in capsys.readouterr().out
