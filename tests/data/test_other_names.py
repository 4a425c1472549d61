"""Sets whose columns have other names than the training set's: found where that leaves no doubt, and never silently."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from harness.files import Files, Rows

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import TextData, load_text_data
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def rows(text: str, label: str | None, labels: tuple[Any, ...] = ("good", "bad", "good")) -> Rows:
    return [{text: f"t{i}"} | ({} if label is None else {label: each}) for i, each in enumerate(labels)]


TRAIN = rows("text", "label")


def raw(data: TextData, split: str) -> list[dict[str, Any]]:
    return list((data.validation | data.test)[split].to_list())


def test_the_only_usual_name_is_taken_where_its_values_are_the_training_sets(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    data = files.load(TRAIN, rows("sentence", "label"), rows("review", "sentiment"))
    assert raw(data, "validation") == raw(data, "test") == TRAIN
    said = capsys.readouterr().out
    names = f"has other names than {files.folder}/train.jsonl: "
    assert f"validation.jsonl {names}sentence is read as text\n" in said
    assert f"test.jsonl {names}review is read as text, sentiment is read as label\n" in said
    assert "Warning" not in said


@pytest.mark.parametrize("header", ["index\tsentence", "label\ttext", "Label\tbody"])
def test_a_set_with_a_header_beside_a_training_set_without_one_is_read_by_its_own(
    header: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As GLUE has the files of CoLA."""
    (tmp_path / "train.tsv").write_text("gj04\t1\t\tt0 is here.\ngj04\t0\t*\tt1 is here.\nbc01\t1\t\tt2 is here.\n")
    (tmp_path / "dev.tsv").write_text("gj04\t1\t\tthe text\n")
    (tmp_path / "test.tsv").write_text(f"{header}\n1\tt0 is here.\n0\tt1 is here.\n")
    config = TrainConfig(
        train_file=str(tmp_path / "train.tsv"),
        validation_file=str(tmp_path / "dev.tsv"),
        test_file=str(tmp_path / "test.tsv"),
        column_names=["source", "label", "mark", "text"],
    )
    data = load_text_data(config)
    assert raw(data, "validation") == [{"text": "the text", "label": "1"}]
    labels = [{}, {}] if header.startswith("index") else [{"label": "1"}, {"label": "0"}]
    expected = [{"text": f"t{n} is here."} | label for n, label in enumerate(labels)]
    assert raw(data, "test") == expected
    said = capsys.readouterr().out
    told = f"Header    {tmp_path}/test.tsv: line 1 is a header, so --column_names is not for this file\n"
    assert said.count("Header  ") == said.count(told) == 1


def test_a_first_line_that_is_a_row_is_no_header_though_it_holds_a_usual_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("good,some words\nbad,other words\n")
    (tmp_path / "test.csv").write_text("good,review\nbad,title\ngood,sentence\n")
    given = {f"{split}_file": str(tmp_path / f"{split}.csv") for split in ("train", "test")}
    data = load_text_data(TrainConfig(**given, column_names=["label", "text"], eval_strategy="no"))
    assert len(raw(data, "test")) == 3


def test_a_name_in_another_case_is_taken_whatever_it_is(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    train = [{"lyrics": "a", "dear": 1, "late": 0}, {"lyrics": "b", "dear": 0, "late": 1}]
    there = [{"Lyrics": "a", "Dear": 1, "LATE": 0}]
    data = files.load(train, there, there, text_column_names=["lyrics"], label_column_name=["dear", "late"])
    assert raw(data, "validation") == raw(data, "test") == [{"lyrics": "a", "labels": ["dear"]}]
    assert "Lyrics is read as lyrics, Dear is read as dear, LATE is read as late" in capsys.readouterr().out


def test_pairs_are_taken_as_pairs_and_a_pair_is_no_single_text(files: Files) -> None:
    train = [{"premise": "a", "hypothesis": str(i), "label": i} for i in range(2)]
    pairs = [{"sentence1": "a", "sentence2": str(i), "gold_label": i} for i in range(2)]
    assert raw(files.load(train, pairs), "validation") == [row | {"label": str(row["label"])} for row in train]
    assert "no column text; it has sentence1, sentence2, label" in files.fault(
        TRAIN, [{"sentence1": "a", "sentence2": "b", "label": "good"}]
    )
    assert "no column premise, hypothesis; it has text, label" in files.fault(train, [{"text": "a", "label": 1}])


@pytest.mark.parametrize("column", ["review", "tweet"])
def test_a_column_that_the_training_set_has_too_means_the_same_in_both(column: str, files: Files) -> None:
    train = [row | {"review": "of another kind", "tweet": "x"} for row in TRAIN]
    settings: dict[str, Any] = {"text_column_names": ["text"]}
    assert "no column text; it has" in files.fault(train, rows(column, "label"), **settings)


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (
            [{"text": "a", "sentiment": "good"}, {"text": "b", "sentiment": "awful"}],
            "column sentiment could be its labels, but holds 'awful', which the training set's do not",
        ),
        (rows("text", "mood"), "column mood holds the training set's labels: if it is meant, name it 'label' there"),
        (
            [row | {"rating": row["sentiment"]} for row in rows("text", "sentiment")],
            "column sentiment, rating hold the training set's labels: if it is meant, name it 'label' there",
        ),
    ],
)
def test_labels_under_a_doubtful_name_are_never_left_out_silently(
    there: Rows, told: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.fault(TRAIN, there).endswith(f"those in {files.folder}/train.jsonl: 'label' for the labels; {told}")
    capsys.readouterr()
    assert raw(files.load(TRAIN, None, there), "test") == [{"text": row["text"]} for row in there]
    assert capsys.readouterr().out.endswith(f"test.jsonl: no column label, so without labels; {told}\n")
    as_told = [{"label" if name == told.split()[1].strip(",") else name: row[name] for name in row} for row in there]
    if "awful" not in told:
        assert "label" in files.load(TRAIN, as_told, as_told).test["test"].column_names


def test_nothing_is_said_of_a_test_set_without_labels(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    train = rows("text", "label", (0, 1, 2, 0))
    there = [{"id": i, "text": "a", "meta": {"x": [1]}, "stars": None, "score": -1} for i in range(9)]
    assert raw(files.load(train, None, there), "test") == [{"text": "a"}] * 9
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("trained", "there"),
    [
        ((0, 1, 0), (0.0, 1.0, 1.0)),
        ((0, 1, 0), (True, False, True)),
        (("true", "false"), ("True", "False")),
        ((["a"], ["a", "b"], ["b"]), ("['a']", "['b']")),
        ((0.5, 1.5, 2.5), (0.5, 2.5)),
        (("good", "bad", "good"), ("bad", "-", None)),
    ],
)
def test_values_are_known_however_they_are_spelled(
    trained: tuple[Any, ...], there: tuple[Any, ...], files: Files
) -> None:
    test = rows("text", "sentiment", there)
    data = files.load(rows("text", "label", trained), None, test, drop_unlabelled=True)
    labels = data.test["test"]["label"]
    assert len([data.labels.encode(label) for label in labels]) == sum(each not in ("-", None) for each in there)


def test_in_every_format_and_in_several_files_that_name_them_differently(tmp_path: Path) -> None:
    table = {"label": ["bad", "good"], "text": ["t1", "t0"]}
    for split, text, label in (("train", "text", "label"), ("a", "Text", "Label"), ("b", "review", "liked")):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([(label, text), *zip(table["label"], table["text"], strict=True)])
    pyarrow.parquet.write_table(
        pyarrow.table({"liked": table["label"], "body": table["text"]}), tmp_path / "test.parquet"
    )
    config = TrainConfig(
        train_file=str(tmp_path / "train.csv"),
        validation_file=[str(tmp_path / "a.csv"), str(tmp_path / "b.csv")],
        test_file=str(tmp_path / "test.parquet"),
    )
    data = load_text_data(config)
    assert data.validation["validation"].to_dict() == {name: [*values, *values] for name, values in table.items()}
    assert data.test["test"].to_dict() == table


def test_splits_of_a_data_set_by_name_are_held_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = Dataset.from_list(rows("text", "label")).cast_column("label", ClassLabel(names=["good", "bad"]))

    def load(**splits: Dataset) -> TextData:
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict(train=train, **splits))
        return load_text_data(TrainConfig(dataset_name="any/name"))

    others = train.rename_columns({"text": "review", "label": "sentiment"})
    data = load(validation=others, test=others, unused=Dataset.from_dict({"x": [1]}))
    assert raw(data, "validation") == raw(data, "test") == TRAIN
    assert "split test has other names than train: review is read as text, sentiment is" in capsys.readouterr().out
    mood = train.rename_column("label", "mood")
    assert raw(load(test=mood), "test") == [{"text": row["text"]} for row in TRAIN]
    doubt = "column mood holds the training set's labels: if it is meant, name it 'label' there"
    assert f"split test: no column label, so without labels; {doubt}\n" in capsys.readouterr().out
    for lacking, said in (
        (mood, "label; it has text, mood"),
        (train.rename_column("text", "x"), "text; it has x, label"),
    ):
        with pytest.raises(UserError, match=f"split validation: no column {said}; the names in this split have to be"):
            load(validation=lacking)
    with_header(tmp_path / "train.csv", "text,label")
    with_header(tmp_path / "test.csv", "text,sentiment")
    monkeypatch.undo()
    with pytest.raises(UserError, match="its files have different columns; give them with --train_file"):
        load_text_data(TrainConfig(dataset_name=str(tmp_path)))


def with_header(path: Path, header: str) -> None:
    path.write_text(f"{header}\na,good\nb,bad\n")
