"""What a run writes of each row: what the model predicts, beside the row's number and its file's own columns."""

from __future__ import annotations

import csv
import datetime
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from harness.command import run
from harness.models import tiny_bert
from harness.rows import tiny_pairs, tiny_tokenizer

from ftloop import finish, prepare, train
from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data import arrow_rows
from ftloop.data.extra_columns import FileColumns
from ftloop.data.labels import Labels
from ftloop.data.load import load_text_data
from ftloop.data.sources import file_source
from ftloop.errors import ExitCode
from ftloop.evaluation import Predictions
from ftloop.inference.__main__ import main as predict_main
from ftloop.job import prediction_files
from ftloop.job.fine_tune import fine_tune
from ftloop.report import outcome
from ftloop.report.calibrate import calibrate
from ftloop.report.predictions import load_predictions
from ftloop.report.report import make_report
from ftloop.system.manifest import MANIFEST, read_manifest, write_manifest

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")

FORMATS = ("parquet", "csv", "jsonl")
Rows = list[dict[str, Any]]


def read(path: Path) -> Rows:
    """Return the rows of a file as anybody would read them."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))


def write(path: Path, rows: Rows) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return str(path)


def rows(count: int, **more: Any) -> Rows:
    """Rows with an id in front of the texts and `more` behind the label."""
    behind = [{name: of(i) for name, of in more.items()} for i in range(count)]
    return [{"id": f"{i:04d}", **row, **behind[i]} for i, row in enumerate(tiny_pairs(count))]


@pytest.fixture
def job(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(tiny_folder / "model"),
        "train_file": write(tmp_path / "train.jsonl", rows(24)),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "disable_tqdm": True,
    }


# --- the file's own columns ------------------------------------------------------------------------------------------

DAY = datetime.datetime(2024, 2, 29, 12, 30)
OTHERS: dict[str, Any] = {
    "url": lambda i: f'https://example.org/?q="{i}", {i}',
    "pages": lambda i: None if i % 4 == 1 else 2**60 + i,
    "price": lambda i: i / 4,
    "kept": lambda i: i % 2 == 0,
    "tags": lambda i: ["a", "b, c"][: i % 3],
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_files_own_columns_stand_in_its_predictions_in_their_order_and_as_they_were(
    ending: str, format: str, job: dict[str, Any], tmp_path: Path
) -> None:
    others = OTHERS if ending != "csv" else {"url": OTHERS["url"], "price": lambda i: f"{i}.50"}
    others = others | ({"when": lambda i: DAY + datetime.timedelta(days=i)} if ending == "parquet" else {})
    given = rows(9, **others)
    path = write(tmp_path / f"dev.{ending}", given)
    fine_tune(TrainConfig(**job, validation_file=path, test_file=path, predictions_format=format))
    for name in ("validation", "test"):
        found = read(tmp_path / "out" / f"{name}_predictions.{format}")
        columns = ["row", "id", "sentence1", "sentence2", *others, "label", "prediction", "score", "logits"]
        assert list(found[0]) == columns
        assert [int(row["row"]) for row in found] == list(range(1, 10))
        for row, was in zip(found, given, strict=True):
            for column in ("id", "sentence1", "sentence2", *others):
                assert row[column] == written(was[column], format), column
            assert row["label"] == str(was["label"])


def written(value: Any, format: str) -> Any:
    """Return how a value of a data file stands in predictions."""
    if format == "parquet":
        return value
    if isinstance(value, datetime.datetime):
        return str(value)
    if format == "jsonl" or isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def test_ids_without_meaning_to_arrow_are_kept_too(job: dict[str, Any], tmp_path: Path) -> None:
    """Values of several kinds in a column, mappings, and columns that only later rows have."""
    odd = [1, "two", 3.5, None, [1], {"a": 1}, 2**70, True, "nine"]
    given = [row | {"odd": value} for row, value in zip(rows(9), odd, strict=True)]
    given[4]["late"] = "x"
    path = write(tmp_path / "dev.jsonl", given)
    for format in FORMATS:
        settings = job | {"output_dir": str(tmp_path / format), "predictions_format": format}
        fine_tune(TrainConfig(**settings, validation_file=path))
        found = read(tmp_path / format / f"validation_predictions.{format}")
        texts = ["1", "two", "3.5", None, "[1]", '{"a": 1}', str(2**70), "true", "nine"]
        wanted = {"parquet": texts, "csv": [text or "" for text in texts], "jsonl": odd}[format]
        assert [row["odd"] for row in found] == wanted
        assert [row["late"] or None for row in found] == [None] * 4 + ["x"] + [None] * 4


def test_rows_keep_their_numbers_and_columns_when_others_are_left_out(job: dict[str, Any], tmp_path: Path) -> None:
    given = rows(12)
    given[2]["sentence2"], given[5]["label"] = "", None
    path = write(tmp_path / "dev.jsonl", given)
    settings = {"validation_file": path, "drop_empty_texts": True, "drop_unlabelled": True, "max_eval_samples": 7}
    fine_tune(TrainConfig(**job, **settings))
    found = read(tmp_path / "out" / "validation_predictions.parquet")
    assert [row["row"] for row in found] == [1, 2, 4, 5, 7, 8, 9]
    assert [row["id"] for row in found] == [f"{number - 1:04d}" for number in (1, 2, 4, 5, 7, 8, 9)]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_that_are_held_out_or_of_a_set_that_a_column_names_bring_their_columns(
    ending: str, job: dict[str, Any], tmp_path: Path
) -> None:
    parts = [rows(30), [row | {"id": f"b{row['id']}"} for row in rows(30)]]
    files = [write(tmp_path / f"part{i}.{ending}", part) for i, part in enumerate(parts)]
    fine_tune(TrainConfig(**job | {"train_file": files}, validation_split=0.2))
    found = read(tmp_path / "out" / "validation_predictions.parquet")
    every = [*parts[0], *parts[1]]
    assert len(found) == 12
    assert {row["id"][0] for row in found} == {"0", "b"}
    for row in found:
        was = every[row["row"] - 1]
        assert (row["id"], row["sentence2"]) == (was["id"], was["sentence2"])

    names = ("train", "train", "dev", "test", "train")
    sets = [[row | {"split": names[i % 5]} for i, row in enumerate(part)] for part in parts]
    files = [write(tmp_path / f"sets{i}.{ending}", part) for i, part in enumerate(sets)]
    again = job | {"train_file": files, "output_dir": str(tmp_path / "sets")}
    fine_tune(TrainConfig(**again, split_column_name="split"))
    for name, place in (("validation", 2), ("test", 3)):
        found = read(tmp_path / "sets" / f"{name}_predictions.parquet")
        assert [row["row"] for row in found] == [number for number in range(1, 61) if (number - 1) % 30 % 5 == place]
        assert [row["id"] for row in found] == [every[row["row"] - 1]["id"] for row in found]
        assert {row["split"] for row in found} == {names[place]}


def test_a_column_that_is_called_as_one_of_ours_gets_another_name_which_is_said(
    job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = {name: (lambda i, name=name: f"{name} {i}") for name in ("score", "prediction", "row", "original_score")}
    path = write(tmp_path / "dev.csv", rows(5, **taken))
    fine_tune(TrainConfig(**job, validation_file=path))
    said = capsys.readouterr().out
    found = read(tmp_path / "out" / "validation_predictions.parquet")
    renamed = {"score": "original_score_", "prediction": "original_prediction", "row": "original_row"}
    for column, name in (renamed | {"original_score": "original_score"}).items():
        assert [row[name] for row in found] == [f"{column} {i}" for i in range(5)]
    told = "written to validation_predictions.parquet under other names, as theirs are taken: "
    told += ", ".join(f"{column} as {name}" for column, name in renamed.items())
    assert f"Columns   {told}\n" in said


def test_a_report_reads_the_texts_whatever_else_has_the_name_that_they_get(job: dict[str, Any], tmp_path: Path) -> None:
    given = [{"row": row["sentence1"], "row_text": row["id"], "label": row["label"]} for row in rows(9)]
    path = write(tmp_path / "dev.csv", given)
    fine_tune(TrainConfig(**job | {"train_file": path}, validation_file=path, text_column_names=["row"]))
    found = read(tmp_path / "out" / "validation_predictions.parquet")
    assert list(found[0])[:3] == ["row", "row_text", "row_text_"]
    assert [(row["row_text"], row["row_text_"]) for row in found] == [(row["row"], row["row_text"]) for row in given]
    table, _ = load_predictions(outcome.read_finished_run(tmp_path / "out"), "validation")
    assert table["row_text"].to_pylist() == [row["row"] for row in given]


def test_rows_without_labels_have_their_columns_behind_what_glues_server_reads(
    job: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "test.csv", [{k: v for k, v in row.items() if k != "label"} for row in rows(6, url=str)])
    fine_tune(TrainConfig(**job, test_file=path))
    found = read(tmp_path / "out" / "test_predictions.tsv")
    assert list(found[0]) == ["index", "prediction", "score", "id", "url"]
    assert [(row["index"], row["id"], row["url"]) for row in found] == [(str(i), f"{i:04d}", str(i)) for i in range(6)]
    for format in FORMATS:
        again = TrainConfig(**job, test_file=path, predictions_format=format, resume_from_checkpoint="last")
        fine_tune(again)
        one = read(tmp_path / "out" / f"test_predictions.{format}")
        assert list(one[0]) == ["row", "id", "sentence1", "sentence2", "url", "prediction", "score"]
        assert [row["prediction"] for row in one] == [row["prediction"] for row in found]
        assert [float(row["score"]) for row in one] == pytest.approx([float(row["score"]) for row in found], abs=1e-6)
        assert len(list((tmp_path / "out").glob("test_predictions.*"))) == 1, "that of the format before is gone"
        assert outcome.read_finished_run(tmp_path / "out").predictions == {}, "nothing can be scored by it"


def test_glues_idx_is_kept(job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({n: Value("string") for n in ("sentence1", "sentence2")})
    features |= {"label": ClassLabel(names=["not_equivalent", "equivalent"]), "idx": Value("int32")}
    hub = {
        split: Dataset.from_list([row | {"idx": 7 * i + len(split)} for i, row in enumerate(tiny_pairs(9))], features)
        for split in ("train", "validation", "test")
    }
    hub["test"] = hub["test"].map(lambda row: {"label": -1})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict(hub))
    fine_tune(TrainConfig(**job | {"train_file": None}, task_name="mrpc"))
    table = pq.read_table(tmp_path / "out" / "validation_predictions.parquet")
    assert table["idx"].to_pylist() == [7 * i + 10 for i in range(9)]
    assert table.schema.field("idx").type == pa.int32()
    assert [row["idx"] for row in read(tmp_path / "out" / "test_predictions.tsv")] == [str(7 * i + 4) for i in range(9)]


def test_a_data_set_prepared_in_python_brings_its_columns_and_no_tokens(tmp_path: Path) -> None:
    tokenizer, data = tiny_tokenizer(), Dataset.from_list(rows(9, url=str))
    data = data.map(lambda row: tokenizer(row["sentence1"], row["sentence2"], return_special_tokens_mask=True))
    config = TrainConfig(
        output_dir=str(tmp_path), max_steps=1, disable_tqdm=True, text_column_names=["sentence1", "sentence2"]
    )
    prepared = prepare(config, tiny_bert(), data, data, tokenizer)
    train(prepared)
    finish(prepared)
    found = read(tmp_path / "validation_predictions.parquet")
    columns = ["row", "id", "sentence1", "sentence2", "url", "label", "prediction", "score", "logits"]
    assert list(found[0]) == columns
    assert [(row["id"], row["url"]) for row in found] == [(f"{i:04d}", str(i)) for i in range(9)]


def test_the_other_columns_change_neither_what_is_cached_nor_what_a_resumed_run_compares(
    job: dict[str, Any], tmp_path: Path
) -> None:
    config = TrainConfig(**job, validation_file=write(tmp_path / "dev.jsonl", rows(9, url=str)), save_steps=1)
    fine_tune(config)
    bare = [{k: v for k, v in row.items() if k not in ("id", "url")} for row in rows(24)]
    without = replace(config, train_file=write(tmp_path / "bare.jsonl", bare), output_dir=str(tmp_path / "bare"))
    fine_tune(without)
    one, other = (json.loads((tmp_path / name / MANIFEST).read_text())["data"] for name in ("out", "bare"))
    assert one == other
    for checkpoint in (tmp_path / "out" / "checkpoint-1", tmp_path / "out"):  # as before there was such a setting
        manifest = read_manifest(checkpoint)
        assert manifest is not None
        del manifest["config"]["predictions_format"]
        write_manifest(checkpoint, manifest)
    resumed = replace(config, max_steps=2, resume_from_checkpoint="last")
    assert fine_tune(resumed) is not None
    assert fine_tune(resumed) is None, "finished already"


def test_a_run_is_complete_without_the_columns_of_data_that_are_others_by_now(
    job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = rows(9)
    path = Path(write(tmp_path / "dev.csv", given))
    data = load_text_data(TrainConfig(**job, validation_file=str(path)))
    logits = np.zeros((9, 2), np.float32)
    made = SimpleNamespace(config=TrainConfig(output_dir=str(tmp_path)))
    for changed in (given[1:], given[:-1], None, [*given[:4], given[5], given[4], *given[6:]]):
        if changed is None:
            path.unlink()
        else:
            write(path, changed)
        prediction_files.save_predictions(made, data, "validation", Predictions(logits, np.zeros(9, int), {}))
        said = capsys.readouterr().out
        assert "Warning   validation_predictions.parquet lacks the other columns of the rows: " in said
        assert str(path) in said
        found = read(tmp_path / "validation_predictions.parquet")
        assert [row["sentence2"] for row in found] == [row["sentence2"] for row in given]
        assert "id" not in found[0]
    write(path, given)
    prediction_files.save_predictions(made, data, "validation", Predictions(logits, np.zeros(9, int), {}))
    assert [row["id"] for row in read(tmp_path / "validation_predictions.parquet")] == [row["id"] for row in given]


def test_predict_writes_the_same_columns_with_the_same_values(job: dict[str, Any], tmp_path: Path) -> None:
    given = rows(9, **OTHERS)
    given[3]["sentence1"] = "a\rb"
    path = write(tmp_path / "dev.jsonl", given)
    fine_tune(TrainConfig(**job, test_file=path, predictions_format="csv"))
    output = tmp_path / "predicted.csv"
    assert predict_main(["--model", str(tmp_path / "out"), "--input", path, "--output", str(output)]) == ExitCode.DONE
    ours, theirs = read(tmp_path / "out" / "test_predictions.csv"), read(output)
    columns = ["id", "sentence1", "sentence2", *OTHERS]
    assert [name for name in theirs[0] if name in columns] == [name for name in ours[0] if name in columns] == columns
    assert [[row[name] for name in columns] for row in ours] == [[row[name] for name in columns] for row in theirs]


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "several labels", "numbers"])
def test_report_and_calibration_are_the_same_by_whichever_format(
    kind: str, job: dict[str, Any], tmp_path: Path
) -> None:
    label = {"classes": lambda i: ["no, or", "[1]"][i % 3 > 0], "numbers": lambda i: i % 3 / 4}.get(kind)
    label = label or (lambda i: [["a|b", "c"], ["c"], []][i % 3])
    given = [row | {"label": label(i)} for i, row in enumerate(rows(60, score=str))]
    dev = write(tmp_path / "dev.jsonl", given)
    job |= {"train_file": write(tmp_path / "train.jsonl", given), "validation_file": dev, "test_file": dev}
    found = {}
    for format in FORMATS:
        folder = tmp_path / format
        fine_tune(TrainConfig(**job | {"output_dir": str(folder)}, predictions_format=format))
        left = outcome.read_finished_run(folder)
        assert all(path.name == f"{name}_predictions.{format}" for name, path in left.predictions.items())
        assert set(left.predictions) == {"validation", "test"}
        decision = None if kind == "numbers" else calibrate(left, "f1")
        made = make_report(left)
        tables = [outcome.read_predictions(path) for path in left.predictions.values()]
        columns = ["row", "sentence1", "label", "prediction", "logits"]
        found[format] = (made["sets"], decision, [table.select(columns).to_pylist() for table in tables])
    assert found["csv"] == found["parquet"]
    assert found["jsonl"] == found["parquet"]


def test_the_report_numbers_mistakes_as_the_file_does(job: dict[str, Any], tmp_path: Path) -> None:
    given = rows(30)
    given[0]["sentence2"] = ""
    path = write(tmp_path / "dev.jsonl", given)
    fine_tune(TrainConfig(**job, validation_file=path, drop_empty_texts=True))
    mistakes = make_report(outcome.read_finished_run(tmp_path / "out"))["sets"]["validation"]["mistakes"]
    assert mistakes
    for mistake in mistakes:
        assert mistake["texts"] == {name: given[mistake["row"] - 1][name] for name in ("sentence1", "sentence2")}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_predictions_of_any_number_of_rows_and_columns_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, format: str
) -> None:
    monkeypatch.setattr(prediction_files, "ROWS_AT_ONCE", 2)
    texts = Dataset.from_dict({"label": [f"text {i}" for i in range(count)]}, Features({"label": Value("string")}))
    logits = np.arange(3 * count, dtype=np.float32).reshape(count, 3) % 5 / 7
    labels = Labels(("a", "b", "c"), {"a": 0, "b": 1, "c": 2})
    save(tmp_path, texts, labels, Predictions(logits, np.arange(count) % 3, {}), format)
    if not count and format != "parquet":
        return
    table = outcome.read_predictions(tmp_path / f"test_predictions.{format}")
    assert table.column_names == ["row", "label_text", "label", "prediction", "score", "logits"]
    assert table["row"].to_pylist() == [*range(1, count + 1)]
    assert table["label_text"].to_pylist() == texts["label"][:]
    assert table["label"].to_pylist() == [labels.names[i % 3] for i in range(count)]
    assert table["logits"].to_pylist() == logits.tolist(), "to the last bit"


def save(folder: Path, texts: Dataset, labels: Labels, predicted: Predictions, format: str | None = None) -> None:
    made: Any = SimpleNamespace(config=TrainConfig(output_dir=str(folder), predictions_format=format))
    data: Any = SimpleNamespace(
        validation={}, test={"test": texts}, text_columns=tuple(texts.column_names), labels=labels, extra={}
    )
    prediction_files.save_predictions(made, data, "test", predicted)


@pytest.mark.parametrize("format", FORMATS)
def test_numbers_are_predicted_without_a_score(tmp_path: Path, format: str) -> None:
    texts = Dataset.from_dict({"text": ["a", "b"]})
    predicted = Predictions(np.float32([[0.1], [float("nan")]]), np.float32([0.25, 2.0]), {})
    save(tmp_path, texts, Labels((), {}, ProblemType.REGRESSION), predicted, format)
    table = outcome.read_predictions(tmp_path / f"test_predictions.{format}")
    assert table.column_names == ["row", "text", "label", "prediction", "logits"]
    assert table["label"].to_pylist() == [0.25, 2.0]
    assert table["prediction"].to_numpy()[0] == np.float32(0.1)
    assert np.isnan(table["prediction"].to_numpy()[1])


def test_only_the_rows_of_a_set_are_read_of_its_files(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "all.csv", rows(40)))
    columns = FileColumns((file_source(path),), ("sentence1",), ("label",))
    places = np.array([0, 7, 39])
    texts = Dataset.from_list([{"sentence1": tiny_pairs(40)[place]["sentence1"]} for place in places])
    (part,) = columns.read(places, texts)
    assert part[0] == 3
    assert part[1]["id"] == ["0000", "0007", "0039"]


def test_of_a_parquet_file_the_texts_alone_become_values_of_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings beside the texts would take minutes and gigabytes so."""
    path = Path(write(tmp_path / "all.parquet", rows(9, tags=lambda i: [i / 2])))
    columns, become = FileColumns((file_source(path),), ("sentence1",), ("label",)), list[Any]()
    read_values = arrow_rows.python_values
    monkeypatch.setattr(
        arrow_rows, "python_values", lambda column, strict: become.append(column.type) or read_values(column, strict)
    )
    ((count, found),) = columns.read(np.array([2, 5]), Dataset.from_list(tiny_pairs(9)).select([2, 5]))
    assert (count, found["tags"].to_pylist(), found["id"].to_pylist()) == (2, [[1.0], [2.5]], ["0002", "0005"])
    assert become == [pa.string()]


@pytest.mark.slow
def test_two_processes_write_what_one_does(job: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "dev.csv", rows(13, url=str))
    settings = {"validation_file": path, "test_file": path, "predictions_format": "csv", "use_cpu": True}
    names = ("model_name_or_path", "train_file", "max_steps")
    words = [f"--{name}={value}" for name, value in (settings | {name: job[name] for name in names}).items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run(*launcher, "-m", "ftloop.train", *words, f"--output_dir={tmp_path / 'two'}")
    for name in ("validation", "test"):
        found = read(tmp_path / "two" / f"{name}_predictions.csv")
        assert [(row["row"], row["id"], row["url"]) for row in found] == [
            (str(i + 1), f"{i:04d}", str(i)) for i in range(13)
        ]


@pytest.mark.parametrize("format", FORMATS)
def test_several_labels_of_unlabelled_rows_are_lists(format: str, job: dict[str, Any], tmp_path: Path) -> None:
    given = [row | {"label": ["a", "b"][: i % 3]} for i, row in enumerate(rows(24))]
    test = [{"id": row["id"], "sentence1": row["sentence1"], "sentence2": row["sentence2"]} for row in given[:5]]
    files = {"train_file": write(tmp_path / "train.jsonl", given), "test_file": write(tmp_path / "test.jsonl", test)}
    fine_tune(TrainConfig(**job | files, predictions_format=format))
    for row in read(tmp_path / "out" / f"test_predictions.{format}"):
        labels, scores = (row[n] if format != "csv" else json.loads(row[n]) for n in ("prediction", "score"))
        assert set(labels) <= {"a", "b"}
        assert [score > 0.5 for score in scores] == [True] * len(labels)
