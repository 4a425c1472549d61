"""Rows with lists of labels: what is read of them, what is learned of them, and every fault told with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from harness.files import Files, labelled
from harness.labels import THREE, SeveralLabels
from harness.models import tiny_bert
from harness.side_by_side import BASE, assert_same_run, run_ftloop, run_trainer
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerFast

from ftloop.batching.padding import collator
from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.labels import label_ids
from ftloop.data.load import load_text_data
from ftloop.data.tokenization import tokenize
from ftloop.errors import UserError
from ftloop.metrics import argmax_predictions, check_metric, metrics_for

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ([["b", "a"], [], ["c"]], ("a", "b", "c")),
        ([[10, 2], [1], []], ("1", "2", "10")),
        ([[True], [False, True]], ("false", "true")),
    ],
)
def test_lists_are_any_number_of_classes_in_their_order(raw: Any, names: tuple[str, ...], files: Files) -> None:
    loaded = files.load(labelled(*raw), labelled(*raw), labelled([], *raw))
    labels = loaded.labels
    assert (labels.names, labels.multi_label, labels.regression, labels.count) == (names, True, False, len(names))
    for row, texts in zip(raw, loaded.train["label"], strict=True):
        hot = labels.encode(texts)
        assert hot.dtype == np.float32  # type: ignore[union-attr]
        assert {names[i] for i in np.flatnonzero(hot)} == {str(name).lower() for name in row}
    assert loaded.test["test"]["label"][0] == []
    assert files.load(labelled(*raw), labelled(*raw)).labels == labels, "what is kept of the first start is the same"


def test_a_delimiter_splits_labels_that_are_text(files: Files, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nx,a | b\ny,\nz,c\n")
    for flags in ({"label_delimiter": "|"}, {"label_delimiter": "|", "max_train_samples": 3}):
        loaded = load_text_data(TrainConfig(train_file=str(tmp_path / "train.csv"), **flags))  # type: ignore[arg-type]
        assert loaded.labels == THREE
        assert loaded.train["label"] == [["a", "b"], [], ["c"]]
    assert files.load(labelled("a|b", ["c"]), label_delimiter="|").labels == THREE
    single = labelled("a|b", "c")
    assert files.load(single).labels.names == ("a|b", "c"), "without the flag it is a name"


def test_lists_of_parquet_and_of_the_hub_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({"text": ["x", "y", "z"], "label": [["b", "a"], [], ["c"]]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert load_text_data(TrainConfig(train_file=str(tmp_path / "train.parquet"))).labels == THREE
    named = Features({"text": Value("string"), "labels": List(ClassLabel(names=["z", "y", "x"]))})
    plain = Features({"text": Value("string"), "labels": List(Value("string"))})
    for kinds, rows, names in ((named, [[0, 2], [], [1]], ("z", "y", "x")), (plain, [["b"], ["a"], []], ("a", "b"))):
        hub = DatasetDict(train=Dataset.from_dict({"text": ["x", "y", "z"], "labels": rows}, features=kinds))
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, hub=hub: hub)
        loaded = load_text_data(TrainConfig(dataset_name="any/name"))
        assert (loaded.labels.names, loaded.labels.multi_label) == (names, True)
        assert [len(row) for row in loaded.train["labels"]] == [len(row) for row in rows]


TWO = labelled(["a"], ["b", "a"], [])


@pytest.mark.parametrize(
    ("train", "validation", "told"),
    [
        (TWO, labelled(["a"], ["c"]), "'c' in row 2; the training set's are 'a', 'b'; write"),
        (TWO, labelled("a", "b"), "the validation set: column 'label' holds one label a row, and the training set's "
         "lists of labels"),
        (labelled("a", "b"), TWO, "the validation set: column 'label' holds lists of labels, and the training set's "
         "one label a row"),
        (labelled(["a"], None), None, "the training set: column 'label' has no value in row 2"),
        (labelled(["a"], ["a", None]), None, "line 2: column label: name 2 of its list is empty"),
        (labelled(["a"], ["b", ""]), None, "line 2: column label: name 2 of its list is empty"),
        (labelled(["a"], ["b", "b"]), None, "line 2: column label: 'b' is there twice"),
        (labelled([1, 2], [0.5]), None, "'0.5' in the list of row 2 is not a name; lists of names are "
         "learned, not lists of numbers"),
        (labelled([1, 2], "b"), None, "line 2: column label holds a text, where others hold a list of names"),
        (labelled("a", [1]), None, "line 2: column label holds a list, not a text or a number"),
        (labelled(["a"], [["b"]]), None, "line 2: column label holds a list, not a text or a number"),
        (labelled(["a"], []), None, "only the label 'a' occurs in its lists; at least two are needed"),
        (labelled([], []), None, "the training set: no row has a label in its lists; at least two are needed"),
        (labelled(["a", "b"], ["b", "a"]), None, "the training set: all 2 rows have the same 2 labels"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_lists_is_told_with_set_and_row(
    train: Any, validation: Any, told: str, files: Files
) -> None:
    assert told in files.fault(train, validation)


def test_a_test_set_whose_lists_are_all_empty_is_one_without_labels(files: Files) -> None:
    loaded = files.load(TWO, None, labelled([], []))
    assert not loaded.has_labels(loaded.test["test"])


def test_what_the_model_is_given_are_vectors_of_float32(files: Files, word_tokenizer: PreTrainedTokenizerFast) -> None:
    data = files.load(labelled(["a"], ["c", "b"], []))
    encoded, _ = tokenize(data, data.train, word_tokenizer, 16, TrainConfig(), "train")
    wanted = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert label_ids(encoded).tolist() == wanted
    assert label_ids(encoded.select([2, 0])).tolist() == [wanted[2], wanted[0]]
    rows = [encoded[i] for i in range(3)]
    for batch in (collator(word_tokenizer)(rows), DataCollatorWithPadding(word_tokenizer)(rows)):
        assert batch["labels"].dtype == torch.float32
        assert batch["labels"].tolist() == wanted


def test_scores_of_several_labels_are_those_worked_out_by_hand() -> None:
    true = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    logits = np.array([[2.0, -0.1, 3], [-1, -1, -1], [1, -1, -1], [1, 0.1, -9]], np.float32)
    # Rows 1, 2 and 4 are right. Of a: found 2 of 2, 1 false; of b: 1 of 2; of c: 1 of 1. In all: 4 found of 5, 1 false.
    wanted = {"accuracy": 3 / 4, "f1": 8 / 10, "f1_macro": pytest.approx((4 / 5 + 2 / 3 + 1) / 3)}
    compute = metrics_for(THREE)
    assert compute(EvalPrediction(predictions=logits, label_ids=true)) == wanted
    kept = argmax_predictions(torch.from_numpy(logits), torch.from_numpy(true)).numpy()
    assert kept.dtype == np.int8
    assert compute(EvalPrediction(predictions=kept, label_ids=true)) == wanted
    config = SimpleNamespace(metric_for_best_model="eval_f1_macro", label_smoothing_factor=0.0, class_weights=None)
    check_metric(config, THREE, None)  # type: ignore[arg-type]
    config.label_smoothing_factor = 0.1
    with pytest.raises(UserError, match="label_smoothing_factor: only where a row has one label"):
        check_metric(config, THREE, None)  # type: ignore[arg-type]
    config.metric_for_best_model, config.label_smoothing_factor = "f1_macro", 0.0
    with pytest.raises(UserError, match="'f1_macro' is none of this data's: loss, accuracy, f1"):
        check_metric(config, replace(THREE, problem_type=ProblemType.SINGLE_LABEL), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_is_trainers_run(bf16: bool, tmp_path: Path) -> None:
    job = SeveralLabels(model=lambda: tiny_bert(3))
    arguments = BASE | {"num_train_epochs": 1, "gradient_accumulation_steps": 2, "bf16": bf16, "trainer_compat": True}
    theirs = run_trainer(job, tmp_path / "trainer", **arguments)
    ours = run_ftloop(job, tmp_path / "ftloop", **arguments)
    assert_same_run(theirs, ours)
    assert "eval_f1_macro" in ours.history[-2] | ours.history[-1]
