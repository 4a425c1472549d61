"""`finish` leaves of a run that was prepared in Python what the command leaves of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset
from harness.models import tiny_bert
from harness.rows import pad, tiny_pairs, tiny_rows, tiny_tokenizer
from harness.side_by_side import weights_digest
from torch.utils.data import TensorDataset
from transformers import AutoConfig

from ftloop import Run, TrainConfig, UserError, finish, load_classifier, predict, prepare, train, updates
from ftloop.job.fine_tune import fine_tune
from ftloop.report.outcome import read_predictions
from ftloop.system.manifest import MANIFEST

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 2,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "use_cpu": True,
    "disable_tqdm": True,
    "report": True,
}


def tokenized(count: int) -> Dataset:
    tokenizer, rows = tiny_tokenizer(), Dataset.from_list(tiny_pairs(count))
    return rows.map(lambda row: tokenizer(row["sentence1"], row["sentence2"], truncation=True))


def trained(output_dir: Path, train_rows: Any, eval_rows: Any, model: Any = None, **settings: Any) -> Run:
    def accuracy(evaluated: Any) -> dict[str, float]:
        return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}

    config = TrainConfig(output_dir=str(output_dir), **SETTINGS | settings)
    model = model or tiny_bert(id2label={0: "no", 1: "yes"})
    run = prepare(config, model, train_rows, eval_rows, tiny_tokenizer(), compute_metrics=accuracy)
    train(run)
    return run


def test_a_run_is_finished_as_by_the_command(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "python", tokenized(29), tokenized(13), sample_texts=["yes word1", "word2"])
    finish(run, tokenized(11))
    printed = capsys.readouterr().out
    assert "Validation loss=" in printed
    assert "Predicted " in printed
    files = {f"{name}_file": str(tiny_folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    settings = SETTINGS | files | {"model_name_or_path": str(tiny_folder / "model")}
    fine_tune(TrainConfig(output_dir=str(tmp_path / "command"), **settings))
    ours, theirs = ({path.name for path in (tmp_path / who).iterdir()} for who in ("python", "command"))
    assert ours == theirs
    assert {path.name for path in (tmp_path / "python" / "report").iterdir()} >= {"report.html", "report.json"}
    results = json.loads((tmp_path / "python" / "all_results.json").read_text())
    assert {"train_loss", "eval_loss", "eval_accuracy", "test_accuracy", "epoch"} <= results.keys()
    table = read_predictions(tmp_path / "python" / "test_predictions.parquet").to_pydict()
    assert table["sentence2"] == [row["sentence2"] for row in tiny_pairs(11)]
    assert table["label"] == [("no", "yes")[row["label"]] for row in tiny_pairs(11)]
    assert table["logits"] == predict(run, tokenized(11)).predictions.tolist()
    card = (tmp_path / "python" / "README.md").read_text()
    assert "from `sentence1` and `sentence2`: `no`, `yes`" in card
    assert "The same run again" not in card, "no command could name its data"
    assert "The same run again" in (tmp_path / "command" / "README.md").read_text()
    classifier = load_classifier(tmp_path / "python")
    assert weights_digest(classifier.model) == weights_digest(run.unwrapped_model)
    assert classifier.takes_pairs


class Encodings:
    """The rows of the Dataset class that tutorials write: tensors, without the texts."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows.select_columns(["input_ids", "attention_mask", "label"]).with_format("torch")

    def __getitem__(self, row: int) -> dict[str, Any]:
        found = dict(self.rows[row])
        return {"labels": found.pop("label")} | found

    def __len__(self) -> int:
        return len(self.rows)


@pytest.mark.parametrize("column", ["label", "idx"])
def test_a_test_set_of_no_rows_is_refused_when_the_model_is_saved(column: str, tmp_path: Path) -> None:
    rows = tokenized(9).add_column("idx", [*range(9)])
    with pytest.raises(UserError, match=r"^test_dataset: has no rows; leave it out$"):
        finish(trained(tmp_path, rows, rows, report=False), rows.select([]).remove_columns(column))
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["pairs", "single", "of torch"])
def test_texts_that_were_left_out_are_read_from_the_tokens(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["sentence1"] if kind == "single" else ["sentence1", "sentence2"]
    tokenizer, pairs = tiny_tokenizer(), tiny_pairs(9)
    rows = Dataset.from_list(pairs).map(lambda row: tokenizer(*(row[name] for name in columns)))
    without: Any = Encodings(rows) if kind == "of torch" else rows.remove_columns(["sentence1", "sentence2"])
    whole = rows if kind != "single" else rows.remove_columns("sentence2")
    for folder, data in (("with", whole), ("without", without)):
        finish(trained(tmp_path / folder, data, data, report=False), data)
        assert ("Texts     the data sets hold none" in capsys.readouterr().out) == (folder == "without")
    for name in ("with", "without"):
        found = read_predictions(tmp_path / name / "test_predictions.parquet").to_pydict()
        texts = [found[column] for column in found if column in ("text", "sentence1", "sentence2")]
        assert texts == [[pair[column] for pair in pairs] for column in columns]
        assert found["label"] == [("no", "yes")[pair["label"]] for pair in pairs]
        assert load_classifier(tmp_path / name).takes_pairs == (len(columns) == 2)


def test_a_collator_may_make_the_tokens(tmp_path: Path) -> None:
    tokenizer, rows = tiny_tokenizer(), Dataset.from_list(tiny_pairs(9))

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        texts = [[row[name] for row in batch] for name in ("sentence1", "sentence2")]
        return {
            **tokenizer(*texts, padding=True, return_tensors="pt"),
            "labels": torch.tensor([r["label"] for r in batch]),
        }

    settings = SETTINGS | {"report": False, "remove_unused_columns": False, "output_dir": str(tmp_path)}
    run = prepare(TrainConfig(**settings), tiny_bert(), rows, rows, data_collator=collate)
    train(run)
    finish(run)
    facts = json.loads((tmp_path / "ftloop_run.json").read_text())
    lengths = [len(tokenizer(row["sentence1"], row["sentence2"])["input_ids"]) for row in tiny_pairs(9)]
    assert facts["padding"]["tokens_per_row"] == pytest.approx(sum(lengths) / 9)
    assert facts["data"]["longest_input"] == max(lengths)


@pytest.mark.parametrize("more", [["label_text"], ["id", "author"]])
def test_other_columns_of_text_are_not_taken_for_a_pair(more: list[str], tmp_path: Path) -> None:
    """The name of a class beside its number, as SetFit's data sets have it; and what else a table holds."""
    rows = tokenized(9).remove_columns("sentence2").rename_column("sentence1", "text")
    for name in more:
        rows = rows.add_column(name, [f"{name} {i}" for i in range(9)])
    finish(trained(tmp_path, rows, rows, report=False))
    assert json.loads((tmp_path / "ftloop_run.json").read_text())["data"]["text_columns"] == ["text"]


@pytest.mark.parametrize("kind", ["Dataset", "tuples"])
def test_where_nothing_reads_texts_all_else_is_left_and_a_line_says_what_is_not(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [tiny_rows(9), tiny_rows(5), tiny_rows(4)]
    given: list[Any] = sets if kind == "Dataset" else [as_tensors(rows) for rows in sets]
    config = TrainConfig(output_dir=str(tmp_path), **SETTINGS | {"report": False})
    run = prepare(config, tiny_bert(), *given[:2], data_collator=pad if kind == "Dataset" else stacked)
    train(run)
    finish(run, given[2])
    said = capsys.readouterr().out
    assert "Left out  predictions of each row, model card and report: the columns input_ids, " in said
    assert "hold no texts; keep the texts beside the tokens, or give prepare the tokenizer as processing_class" in said
    assert "Evaluated test: loss=0." in said
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert {"train_loss", "eval_loss", "test_loss", "epoch"} <= results.keys()
    assert json.loads((tmp_path / MANIFEST).read_text())["complete"]
    assert not (tmp_path / "validation_predictions.parquet").exists()
    assert "model.safetensors" in {path.name for path in tmp_path.iterdir()}


def as_tensors(rows: Dataset) -> TensorDataset:
    padded = pad(rows.to_list())
    return TensorDataset(padded["input_ids"], padded["attention_mask"], padded["labels"])


def stacked(rows: list[Any]) -> dict[str, Any]:
    return dict(zip(["input_ids", "attention_mask", "labels"], map(torch.stack, zip(*rows, strict=True)), strict=True))


def test_rows_that_only_a_collator_names_are_finished_as_rows_with_names(tmp_path: Path) -> None:
    pairs = tiny_pairs(9)
    rows = tokenized(9)
    tuples = as_tensors(rows.remove_columns([c for c in rows.column_names if c not in TAKEN]))
    padded = Dataset.from_list([stacked_row(row) for row in tuples])
    for folder, data, more in (("tuples", tuples, {"data_collator": stacked}), ("named", padded, {})):
        config = TrainConfig(output_dir=str(tmp_path / folder), **SETTINGS | {"report": False})
        run = prepare(config, tiny_bert(id2label={0: "no", 1: "yes"}), data, data, tiny_tokenizer(), **more)
        train(run)
        finish(run, data)
    ours, theirs = (
        read_predictions(tmp_path / who / "test_predictions.parquet").to_pydict() for who in ("tuples", "named")
    )
    assert ours == theirs
    assert ours["sentence2"] == [pair["sentence2"] for pair in pairs]
    assert {path.name for path in (tmp_path / "tuples").iterdir()} == {
        path.name for path in (tmp_path / "named").iterdir()
    }


TAKEN = ("input_ids", "attention_mask", "label")


def stacked_row(row: Any) -> dict[str, Any]:
    return {name: value[0].tolist() for name, value in stacked([row]).items()}


def test_what_a_loop_of_ones_own_was_asked_and_only_train_does_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"output_dir": str(tmp_path), "report": False, "num_train_epochs": 1}
    run = prepare(TrainConfig(**settings), tiny_bert(), tokenized(9), tokenized(5), tiny_tokenizer())
    for _ in updates(run):
        pass
    finish(run)
    assert capsys.readouterr().out.count("Warning   updates(run) only trains: the best checkpoint or early stop") == 1
    finish(trained(tmp_path / "trained", tokenized(9), tokenized(5), report=False))
    assert "only trains" not in capsys.readouterr().out


def test_several_evaluation_sets_and_a_test_set_without_labels(tmp_path: Path) -> None:
    sets = {"a": tokenized(7), "b": tokenized(5)}
    run = trained(tmp_path, tokenized(9), sets, metric_for_best_model="b_loss", report=False)
    finish(run, tokenized(4).remove_columns("label"))
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert {"eval_a_accuracy", "eval_b_loss", "epoch"} <= results.keys()
    assert len((tmp_path / "test_predictions.tsv").read_text().splitlines()) == 1 + 4


@pytest.mark.parametrize("kind", ["regression", "several labels"])
def test_numbers_and_several_labels(kind: str, tmp_path: Path) -> None:
    count = 1 if kind == "regression" else 3
    value = (lambda i: i / 7) if count == 1 else (lambda i: [float(i % 2), 1.0, 0.0])
    rows = tokenized(9).remove_columns("label").add_column("labels", [value(i) for i in range(9)])
    config = TrainConfig(output_dir=str(tmp_path), **SETTINGS | {"report": False, "num_train_epochs": 1})
    run = prepare(config, tiny_bert(count), rows, rows, tiny_tokenizer())
    train(run)
    finish(run)
    table = read_predictions(tmp_path / "validation_predictions.parquet").to_pydict()
    expected = [i / 7 for i in range(9)] if count == 1 else [["LABEL_0", "LABEL_1"][1 - i % 2 :] for i in range(9)]
    assert table["label"] == (pytest.approx(expected) if count == 1 else expected)


@pytest.mark.parametrize("named", [False, True])
def test_classes_without_names_get_those_of_the_data_set(
    named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the tutorials, whose model is built with num_labels alone; one that has names keeps them."""
    rows = tokenized(9).cast_column("label", ClassLabel(names=["different", "equal"]))
    model = tiny_bert(id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}) if named else tiny_bert()
    finish(trained(tmp_path, rows, rows, model, report=False))
    config = AutoConfig.from_pretrained(tmp_path)
    names = ["no", "yes"] if named else ["different", "equal"]
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: id for id, name in enumerate(names)}
    assert ("LABEL_0 is 'different': different, equal" in capsys.readouterr().out) != named
    assert load_classifier(str(tmp_path), device="cpu")([("yes word1", "word2")])[0].label in names
    facts = json.loads((tmp_path / "ftloop_run.json").read_text())
    assert facts["data"]["numbers_are_ids"], "which the rows hold, and the files that are predicted may"


def test_the_positive_class_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    run = trained(tmp_path, tokenized(29), tokenized(13), positive_label="no", num_train_epochs=1)
    finish(run)
    assert json.loads((tmp_path / "ftloop_run.json").read_text())["data"]["positive"] == "no"
    assert "F1, precision and recall are those of `no`." in (tmp_path / "README.md").read_text()
