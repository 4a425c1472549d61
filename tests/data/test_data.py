"""Data sets: labels, columns, what is missing, tokens; from files and, with its loading replaced, from the hub."""

from __future__ import annotations

import dataclasses
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from harness.files import Files, Rows, labelled
from transformers import CanineTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ftloop.config import offline
from ftloop.config.train_config import TrainConfig
from ftloop.data import load as data_module
from ftloop.data.glue import TASKS
from ftloop.data.labels import Labels
from ftloop.data.load import TextData, load_text_data
from ftloop.data.tokenization import tokenize
from ftloop.errors import UserError
from ftloop.system import hub

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# What the labels are


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ([3, 1, 10, 1], ("1", "3", "10")),
        ([1, 0, -1], ("-1", "0", "1")),
        (["2", "10", "1"], ("1", "2", "10")),
        (["yes", "no", "yes"], ("no", "yes")),
        ([True, False], ("false", "true")),
        (["1", "one"], ("1", "one")),
        (["-inf", "inf", "other"], ("-inf", "inf", "other")),
        (["9" * 5000, "3"], ("3", "9" * 5000)),
    ],
)
def test_whole_numbers_texts_and_truths_are_classes_in_their_order(
    raw: list[Any], names: tuple[str, ...], files: Files
) -> None:
    loaded = files.load(labelled(*raw))
    assert loaded.labels.names == names
    assert not loaded.labels.regression
    assert loaded.labels.count == len(names)
    texts = [str(label).lower() if isinstance(label, bool) else str(label) for label in raw]
    assert [names[int(loaded.labels.encode(text))] for text in texts] == texts


@pytest.mark.parametrize("raw", [[1.0, 0.5], [1.0, 2.0], ["0.5", "1"], [1, 2.5, "1e-3"], [1.5]])
def test_numbers_with_a_point_are_regression(raw: list[Any], files: Files) -> None:
    loaded = files.load(labelled(*raw), labelled(7, -1.5))
    assert loaded.labels.regression
    assert (loaded.labels.count, loaded.labels.names, loaded.metrics) == (1, (), None)
    assert loaded.labels.encode("-1.5") == -1.5


@pytest.mark.parametrize("odd", ["inf", "-inf", "1e999", 1e39])
@pytest.mark.parametrize("others", [[1.0, 0.5], [1, 0]])
def test_a_label_that_is_not_finite_among_numbers_is_named(odd: Any, others: list[Any], files: Files) -> None:
    """1e39 is infinite in float32, as which it would be learned."""
    assert files.fault(labelled(*others, odd)) == (
        f"the training set: the label {str(odd)!r} in row 3 is no finite number; all others are"
    )


def test_a_tasks_own_names_are_used_where_the_labels_fit(files: Files) -> None:
    def names(*raw: Any, task: str = "mrpc") -> tuple[str, ...]:
        return files.load(labelled(*raw), task_name=task).labels.names

    assert names(1, 0) == ("not_equivalent", "equivalent")
    assert names("equivalent", "not_equivalent") == ("not_equivalent", "equivalent")
    assert names(0, 2, task="mnli") == ("entailment", "neutral", "contradiction")
    assert names(1, 2) == ("1", "2")
    assert names("same", "other") == ("other", "same")


def test_a_tasks_own_metrics_are_used_where_its_names_are(files: Files) -> None:
    assert files.load(labelled(1, 0), task_name="cola").metrics == ("matthews_correlation",)
    assert files.load(labelled(1, 2), task_name="cola").metrics is None
    assert files.load(labelled(1, 0)).metrics is None
    assert files.load(labelled(1, 3), task_name="stsb").metrics == ("pearson", "spearmanr")
    assert files.load(labelled(1, 3), task_name="stsb").labels.regression


def test_a_task_accepts_numbers_in_one_set_and_names_in_another(files: Files) -> None:
    loaded = files.load(labelled(1, 0), labelled("equivalent", "not_equivalent"), task_name="mrpc")
    assert [loaded.labels.encode(raw) for raw in loaded.validation["validation"]["label"]] == [1, 0]


@pytest.mark.parametrize("settings", [{}, {"task_name": "mrpc"}, {"max_train_samples": 2}])
def test_one_class_alone_is_refused(settings: dict[str, Any], files: Files) -> None:
    rows = labelled(1, 1, 0) if "max_train_samples" in settings else labelled(1, 1)
    told = files.fault(rows, **settings)
    assert (
        told.partition("; the first 2")[0] == "the training set: all 2 rows have the label '1'; at least two are needed"
    )


# Which columns


@pytest.mark.parametrize(
    ("there", "texts", "label"),
    [
        (["sentence1", "sentence2", "label"], ("sentence1", "sentence2"), "label"),
        (["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ("#1 String", "#2 String"), "Quality"),
        (["id", "question1", "question2", "is_duplicate"], ("question1", "question2"), "is_duplicate"),
        (["question", "sentence", "label"], ("question", "sentence"), "label"),
        (["premise", "hypothesis", "gold_label", "genre"], ("premise", "hypothesis"), "gold_label"),
        (["text", "label"], ("text",), "label"),
        (["sentence1", "score"], ("sentence1",), "score"),
        (["review", "text", "labels", "label"], ("text",), "label"),
    ],
)
def test_columns_are_inferred_from_the_usual_names(
    there: list[str], texts: tuple[str, ...], label: str, files: Files
) -> None:
    loaded = files.load([dict.fromkeys(there, "x") | {label: id} for id in (0, 1)])
    assert (loaded.text_columns, loaded.label_column) == (texts, label)
    assert loaded.train.column_names == [*texts, label]


def test_a_tasks_own_columns_come_before_the_usual_ones(files: Files) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "sentence": "c", "label": id} for id in (0, 1)]
    assert files.load(rows).text_columns == ("sentence1", "sentence2")
    assert files.load(rows, task_name="cola").text_columns == ("sentence",)


def test_columns_can_be_named(files: Files) -> None:
    rows = [{"text": "a", "label": -stars, "title": "b", "body": "c", "stars": stars} for stars in (1, 2)]
    loaded = files.load(rows, text_column_names=["title", "body"], label_column_name="stars")
    assert (loaded.text_columns, loaded.label_column) == (("title", "body"), "stars")
    assert files.load(rows, text_column_names=["body"]).label_column == "label"
    assert files.load(rows, label_column_name="stars").text_columns == ("text",)
    assert files.load(rows, text_column_names=["label"], label_column_name="stars").text_columns == ("label",)


def test_a_text_column_is_not_inferred_to_be_the_label(files: Files) -> None:
    rows = [{"target": "a", "category": id} for id in (0, 1)]
    assert files.load(rows, text_column_names=["target"]).label_column == "category"


@pytest.mark.parametrize(
    ("there", "texts", "label"),
    [
        (["Review", "Liked"], ("Review",), "Liked"),
        (["review", "sentiment"], ("review",), "sentiment"),
        (["Id", "Score", "Time", "Summary", "Text"], ("Text",), "Score"),
        (["v1", "v2"], ("v2",), "v1"),
        (["Sentence1", "SENTENCE2", "Label"], ("Sentence1", "SENTENCE2"), "Label"),
        (["Class Index", "Title", "link"], ("Title",), "Class Index"),
        (["text", "label", "Sentiment", "rating", "Title"], ("text",), "label"),
        (["text", "score", "sentiment"], ("text",), "score"),
    ],
)
def test_more_names_in_any_case_are_found_where_the_usual_ones_are_not_there(
    there: list[str], texts: tuple[str, ...], label: str, files: Files
) -> None:
    loaded = files.load([dict.fromkeys(there, "x") | {label: id} for id in (0, 1)])
    assert (loaded.text_columns, loaded.label_column) == (texts, label)


def test_of_two_columns_that_could_be_meant_it_is_asked(files: Files) -> None:
    rows = [{"title": "a", "body": "b", "stars": 1, "Sentiment": "x"}]
    there = f"{files.folder / 'train.jsonl'} has the columns title, body, stars, Sentiment"
    assert files.fault(rows).splitlines() == [
        f"which columns hold the text? title, body all could; {there}; name one or two with --text_column_names",
        f"which column holds the label? stars, Sentiment all could; {there}; name it with --label_column_name",
    ]


def test_a_missing_column_is_answered_with_those_there_are(files: Files) -> None:
    rows = [{"lyrics": "a", "mood": 1}]
    path = files.folder / "train.jsonl"
    there = f"{path} has the columns lyrics, mood"
    no_text = f"which columns hold the text? {there}; name one or two with --text_column_names"
    no_label = f"which column holds the label? {there}; name it with --label_column_name, or a 0/1 column for each"
    several = " of several labels"
    assert files.fault(rows).splitlines() == [no_text, no_label + several]
    assert files.fault(rows, text_column_names=["lyrics"]) == no_label + several
    assert files.fault(rows, text_column_names=["title"], label_column_name="mood") == f"no column 'title': {there}"
    assert files.fault(rows, text_column_names=["lyrics"], label_column_name="y") == f"no column 'y': {there}"
    assert files.fault(rows, text_column_names=["mood"], label_column_name="mood") == (
        "label_column_name: 'mood' is also a text column"
    )


def test_a_validation_or_test_file_without_a_needed_column_is_refused(files: Files) -> None:
    train = labelled(0, 1)
    place, beside = (
        f"{files.folder}/validation.jsonl",
        f"the names in this file have to be those in {files.folder}/train.jsonl",
    )
    assert files.fault(train, [{"lyrics": "a", "label": 1}]) == (
        f"{place}: no column sentence; it has lyrics, label; {beside}: 'sentence' for the texts"
    )
    assert files.fault(train, [{"sentence": "a"}]) == (
        f"{place}: no column label; it has sentence; {beside}: 'label' for the labels"
    )
    assert "test.jsonl: no column sentence; it has label" in files.fault(train, None, [{"label": 1}])


def test_a_file_without_rows_is_refused(files: Files) -> None:
    for name, text in {"a.csv": "sentence,label\n", "b.tsv": "\n\n", "c.json": "[]", "d.jsonl": " \n"}.items():
        path = files.folder / name
        path.write_text(text)
        with pytest.raises(UserError, match=f"{name}: no rows"):
            load_text_data(TrainConfig(train_file=str(path)))
    path = files.folder / "e.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"sentence": ["a"], "label": [1]}).slice(0, 0), path)
    with pytest.raises(UserError, match="parquet: no rows"):
        load_text_data(TrainConfig(train_file=str(path)))


def test_files_that_are_missing_are_named_with_their_flag(files: Files) -> None:
    config = files.config(labelled(0, 1), validation_file="no/such.csv")
    with pytest.raises(UserError, match=r"validation_file: no such file: no/such\.csv"):
        load_text_data(config)


# What is missing or unknown


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_missing_labels_are_told_with_their_rows(split: str, files: Files) -> None:
    sets = {name: labelled(0, 1, 0, 1, 0, 1, 0, 1, 0) for name in ("train", "validation", "test")}
    for row in (1, 3, 4, 5, 6, 8):
        sets[split][row]["label"] = None
    what = {"train": "the training set"}.get(split, f"the {split} set")
    told = f"{what}: column 'label' has no value in rows 2, 4, 5, 6, 7, ... (6 in all)"
    assert files.fault(*sets.values()) == f"{told}; --drop_unlabelled leaves such rows out"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_empty_labels_are_told_with_their_rows(split: str, files: Files) -> None:
    sets = {name: labelled(0, 1, 0) for name in ("train", "validation", "test")}
    sets[split][1]["label"] = ""
    told = files.fault(*sets.values())
    assert ("column 'label' is empty in row 2;" if split == "train" else ": '' in row 2;") in told
    assert told.endswith("; --drop_unlabelled leaves such rows out")
    sets["train"] += labelled(1)
    assert files.load(*sets.values(), drop_unlabelled=True).rows_read["validation"] == 3 - (split == "validation")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_training_never_had_is_named_with_its_rows(split: str, files: Files) -> None:
    bad = labelled("no", "maybe", "yes", "No", "maybe")
    sets = [bad, None] if split == "validation" else [None, bad]
    file = f"{files.folder}/{split}.jsonl"
    assert files.fault(labelled("yes", "no"), *sets) == (
        f"the {split} set ({file}): column 'label' holds 2 labels that the training set does not have: 'maybe' in rows "
        f"2, 5, 'No' in row 4; the training set's are 'no', 'yes'; write the labels of {file} as the "
        f"training set's, take these rows out of {file}, or train on rows that have them too"
    )
    many = files.fault(labelled("yes", "no"), labelled(*"abcdefg"))
    assert "holds 7 labels" in many
    assert "'e' in row 5 and 2 more; the training set's" in many
    assert "holds 1 label that" in files.fault(labelled(["a"], ["b", "a"]), labelled(["b"], ["a", "c"]))


def test_a_label_of_training_rows_that_are_left_out_names_the_flag(files: Files) -> None:
    rows = labelled("yes", "no", "yes", "maybe")
    told = "training rows that have them are left out by --max_train_samples, as where they are sorted by class: "
    way = f"{told}shuffle the rows of the training file, as pandas' .sample(frac=1) does, raise it, or leave it out"
    assert files.fault(rows, rows, max_train_samples=3).endswith(
        f"'maybe' in row 4; the training set's are 'no', 'yes'; {way}"
    )
    assert files.load(rows, rows, max_train_samples=4).labels.count == 3


def test_a_text_among_numbers_is_named(files: Files) -> None:
    told = files.fault(labelled(0.5, 1.5), labelled(1.5, "inf"))
    assert "'inf' in row 2; the training set's are numbers; write the labels" in told


@pytest.mark.parametrize(
    "test",
    [
        [{"sentence": "a"}, {"sentence": "b"}],
        labelled(None, None),
        labelled("", ""),
        labelled(-1, -1),
        labelled(-1.0, -1.0),
    ],
)
def test_a_test_set_without_labels_is_one_to_predict(test: Rows, files: Files) -> None:
    loaded = files.load(labelled(0, 1), None, test)
    assert not loaded.has_labels(loaded.test["test"])
    assert loaded.test["test"].column_names == ["sentence"]


def test_minus_one_is_a_label_like_any_other_where_it_is_a_class(files: Files) -> None:
    loaded = files.load(labelled(-1, 0, 1), None, labelled(-1, -1))
    assert loaded.has_labels(loaded.test["test"])


@pytest.mark.parametrize("label", [None, "", -1])
def test_a_test_set_with_some_of_its_labels_missing_is_refused(label: Any, files: Files) -> None:
    assert "in row 2" in files.fault(labelled(0, 1), None, labelled(0, label, 1))


def test_an_evaluation_without_a_validation_set_is_refused(files: Files) -> None:
    assert "--validation_file" in files.fault(labelled(0, 1), eval_strategy="epoch")
    files.load(labelled(0, 1), labelled(0), eval_strategy="epoch")


def test_an_unknown_task_is_refused_with_files_too(files: Files) -> None:
    assert files.fault(labelled(0, 1), task_name="mprc") == (
        f"task_name: 'mprc' is not one of {', '.join(sorted(TASKS))}"
    )


def test_no_data_at_all_is_refused() -> None:
    with pytest.raises(UserError, match=r"no data: name a GLUE task with --task_name.*demo"):
        load_text_data(TrainConfig())


def test_only_the_first_rows_are_used_where_that_is_asked_for(files: Files) -> None:
    def rows(count: int) -> Rows:
        return [{"sentence": str(row), "label": row % 2} for row in range(count)]

    loaded = files.load(rows(9), rows(8), rows(7), max_train_samples=4, max_eval_samples=3, max_predict_samples=100)
    assert loaded.train["sentence"] == ["0", "1", "2", "3"]
    assert loaded.validation["validation"]["sentence"] == ["0", "1", "2"]
    assert len(loaded.test["test"]) == 7


# Tokens


def encode(
    loaded: TextData, tokenizer: PreTrainedTokenizerBase, max_length: int = 16, **settings: Any
) -> tuple[Dataset, int]:
    return tokenize(loaded, loaded.train, tokenizer, max_length, TrainConfig(**settings), "train")


def test_texts_become_tokens_in_their_order_with_the_label_beside_them(
    files: Files, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ["c b a", "", "z z", "?"]
    rows = [{"sentence": text, "label": label} for text, label in zip(texts, ["x", "y", "y", "x"], strict=True)]
    encoded, truncated = encode(files.load(rows), word_tokenizer)
    assert encoded["input_ids"] == [[2, 6, 5, 4, 3], [2, 3], [2, 29, 29, 3], [2, 1, 3]]
    assert encoded["label"] == [0, 1, 1, 0]
    assert sorted(encoded.column_names) == ["attention_mask", "input_ids", "label"]
    assert truncated == 0
    batch = DataCollatorWithPadding(word_tokenizer)([encoded[row] for row in range(4)])
    assert batch["labels"].tolist() == [0, 1, 1, 0]
    assert batch["input_ids"].shape == (4, 5)


def test_labels_of_a_regression_are_numbers(files: Files, word_tokenizer: PreTrainedTokenizerFast) -> None:
    encoded, _ = encode(files.load(labelled(0.5, 2, "3e0")), word_tokenizer)
    assert encoded["label"] == [0.5, 2.0, 3.0]
    assert str(DataCollatorWithPadding(word_tokenizer)([encoded[0]])["labels"].dtype) == "torch.float32"


def test_a_set_without_labels_gets_none(files: Files, word_tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = files.load(labelled(0, 1), None, [{"sentence": "a"}])
    encoded, _ = tokenize(loaded, loaded.test["test"], word_tokenizer, 16, TrainConfig(), "test")
    assert "label" not in encoded.column_names


@pytest.mark.parametrize("lengths", [(14, 15, 16, 3)])
def test_overlong_texts_are_cut_and_counted(
    lengths: Sequence[int], files: Files, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"sentence": "a " * length, "label": row % 2} for row, length in enumerate(lengths)]
    encoded, truncated = encode(files.load(rows), word_tokenizer)
    assert [len(ids) for ids in encoded["input_ids"]] == [16, 16, 16, 5]
    assert truncated == 2
    assert encode(files.load(rows), word_tokenizer, max_length=5)[1] == 3


def test_rows_that_a_tokenizer_in_python_cuts_are_counted(files: Files) -> None:
    rows = [{"sentence": "a" * length, "label": row % 2} for row, length in enumerate((14, 15, 16, 3))]
    encoded, truncated = encode(files.load(rows), CanineTokenizer())
    assert [len(ids) for ids in encoded["input_ids"]] == [16, 16, 16, 5]
    assert truncated == 2


def test_overlong_pairs_are_cut_and_counted_whichever_text_is_long(
    files: Files, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    lengths = [(6, 7), (7, 7), (20, 1), (1, 20), (20, 20), (0, 13), (0, 14), (1, 1)]
    rows = [
        {"sentence1": "a " * one, "sentence2": "b " * two, "label": row % 2} for row, (one, two) in enumerate(lengths)
    ]
    encoded, truncated = encode(files.load(rows), word_tokenizer)
    assert [len(ids) for ids in encoded["input_ids"]] == [min(one + two + 3, 16) for one, two in lengths]
    assert truncated == sum(one + two + 3 > 16 for one, two in lengths) == 5
    assert encoded[4]["input_ids"] == [2, *[4] * 6, 3, *[5] * 7, 3]


def test_a_length_that_leaves_no_room_for_text_is_refused(
    files: Files, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    single = files.load(labelled(0, 1))
    assert encode(single, word_tokenizer, max_length=3)[1] == 2
    with pytest.raises(UserError, match="max_seq_length: 2 leaves no room for text beside 2 special tokens"):
        encode(single, word_tokenizer, max_length=2)
    pairs = files.load([{"sentence1": "a", "sentence2": "b", "label": id} for id in (0, 1)])
    with pytest.raises(UserError, match="max_seq_length: 3 leaves no room for text beside 3 special tokens"):
        encode(pairs, word_tokenizer, max_length=3)


def test_tokens_are_cached_until_told_otherwise(
    files: Files, word_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = files.config(labelled(0, 1, 1), labelled(0, 1))

    def encode_all(**settings: Any) -> list[tuple[list[list[int]], int]]:
        loaded = load_text_data(config)
        sets = [loaded.train, loaded.validation["validation"]]
        done = [tokenize(loaded, rows, word_tokenizer, 16, TrainConfig(**settings), "x") for rows in sets]
        return [(encoded["input_ids"], cut) for encoded, cut in done]

    calls = []
    real = PreTrainedTokenizerFast.__call__
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "__call__", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    first = encode_all()
    assert len(calls) == 2
    assert encode_all() == first
    assert len(calls) == 2
    assert encode_all(overwrite_cache=True) == first
    assert len(calls) == 4


def test_other_lengths_and_labels_are_not_served_from_the_cache(
    files: Files, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = labelled(0, 1, text="a b c d")
    loaded = files.load(rows)
    assert [len(encode(loaded, word_tokenizer, n)[0][0]["input_ids"]) for n in (16, 4)] == [6, 4]
    turned = dataclasses.replace(loaded, labels=Labels(("1", "0"), {"1": 0, "0": 1}))
    assert [encode(each, word_tokenizer)[0]["label"] for each in (loaded, turned)] == [[0, 1], [1, 0]]
    assert encode(files.load(rows, task_name="mrpc"), word_tokenizer)[0]["label"] == [0, 1]
    assert encode(files.load(labelled(1, 0, text="a b c d")), word_tokenizer)[0]["label"] == [1, 0]


@pytest.mark.parametrize("change", ["a word", "a setting", "the class"])
def test_tokens_of_another_tokenizer_are_not_served_from_the_cache(
    files: Files, word_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    class Another(PreTrainedTokenizerFast):
        pass

    loaded, calls = files.load(labelled(0, 1, text=f"a {change}")), []
    real = PreTrainedTokenizerFast.__call__
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "__call__", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    encode(loaded, word_tokenizer)
    encode(loaded, word_tokenizer)
    assert len(calls) == 1
    if change == "a word":
        word_tokenizer.add_tokens(["another"])
    elif change == "a setting":
        word_tokenizer.model_input_names = ["input_ids"]
    else:
        word_tokenizer.__class__ = Another
    encode(loaded, word_tokenizer)
    assert len(calls) == 2


# By name


Loaded = list[tuple[str, str | None]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the hub serve these splits; returns the names that were asked for."""

    def serve(splits: dict[str, Dataset]) -> Loaded:
        asked: Loaded = []

        def load_dataset(path: str, name: str | None = None) -> DatasetDict:
            asked.append((path, name))
            return DatasetDict(splits)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


def as_on_the_hub(columns: Sequence[str], labels: list[Any], names: Sequence[str]) -> Dataset:
    """Rows in GLUE's form: labels as a ClassLabel, an index column beside them."""
    kind = ClassLabel(names=list(names)) if names else Value("float32")
    features = Features({name: Value("string") for name in columns} | {"label": kind, "idx": Value("int32")})
    rows = {name: [f"{name} {row}" for row in range(len(labels))] for name in columns}
    return Dataset.from_dict(rows | {"label": labels, "idx": list(range(len(labels)))}, features=features)


# As `datasets.load_dataset("nyu-mll/glue", task)` gives them.
GLUE = {
    "cola": (["sentence"], ["unacceptable", "acceptable"], ["matthews_correlation"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"], ["accuracy"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"], ["accuracy", "f1"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"], ["accuracy"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"], ["accuracy", "f1"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"], ["accuracy"]),
    "sst2": (["sentence"], ["negative", "positive"], ["accuracy"]),
    "stsb": (["sentence1", "sentence2"], [], ["pearson", "spearmanr"]),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"], ["accuracy"]),
}


def test_every_task_of_glue_is_known() -> None:
    assert TASKS.keys() == GLUE.keys() | {"demo"}


@pytest.mark.parametrize("task", GLUE)
def test_every_task_of_glue_has_its_columns_labels_and_metrics(
    task: str, served: Any, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    columns, names, metrics = GLUE[task]
    ids = list(range(len(names))) or [3.8, 0.0]
    suffixes = ("_matched", "_mismatched") if task == "mnli" else ("",)
    splits = {"train": as_on_the_hub(columns, ids, names)}
    for suffix in suffixes:
        splits[f"validation{suffix}"] = as_on_the_hub(columns, ids[:1], names)
        splits[f"test{suffix}"] = as_on_the_hub(columns, [-1, -1], names)
    asked = served(splits)
    loaded = load_text_data(TrainConfig(task_name=task))
    assert asked == [("nyu-mll/glue", task)]
    assert loaded.text_columns == tuple(columns)
    assert loaded.labels.names == tuple(names)
    assert list(loaded.metrics or ()) == metrics
    assert list(loaded.validation) == [f"validation{suffix}" for suffix in suffixes]
    assert list(loaded.test) == [f"test{suffix}" for suffix in suffixes]
    for test in loaded.test.values():
        assert not loaded.has_labels(test)
    assert encode(loaded, word_tokenizer)[0]["label"] == pytest.approx(ids, abs=1e-6)  # stsb holds float32


def test_the_matched_validation_set_of_mnli_comes_first(served: Any) -> None:
    columns, names, _ = GLUE["mnli"]
    order = ["validation_mismatched", "validation_matched", "train"]
    served({name: as_on_the_hub(columns, [0, 1, 2], names) for name in order})
    assert next(iter(load_text_data(TrainConfig(task_name="mnli")).validation)) == "validation_matched"


def test_a_data_set_of_the_hub_keeps_its_own_order_of_classes(
    served: Any, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    names = ["world", "sports", "business"]
    rows = as_on_the_hub(["text"], [1, 0, 1], names)
    asked = served({"train": rows, "validation": rows})
    loaded = load_text_data(TrainConfig(dataset_name="some/news", dataset_config_name="en"))
    assert asked == [("some/news", "en")]
    assert loaded.labels.names == tuple(names)
    assert encode(loaded, word_tokenizer)[0]["label"] == [1, 0, 1]


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [("int64", [2, 1], ("1", "2")), ("bool", [True, False], ("false", "true")), ("string", ["b", "a"], ("a", "b"))],
)
def test_labels_of_any_kind_are_classes_on_the_hub_too(kind: str, values: list[Any], names: Any, served: Any) -> None:
    features = Features({"text": Value("string"), "label": Value(kind)})
    served({"train": Dataset.from_dict({"text": ["a", "b"], "label": values}, features=features)})
    assert load_text_data(TrainConfig(dataset_name="some/set")).labels.names == names


def test_a_data_set_without_a_needed_split_is_refused(served: Any) -> None:
    rows = as_on_the_hub(["text"], [0, 1], ["a", "b"])
    served({"test": rows})
    with pytest.raises(UserError, match="the data set some/set has no train split, only test"):
        load_text_data(TrainConfig(dataset_name="some/set"))
    served({"train": rows, "test": rows})
    with pytest.raises(UserError, match="no validation set: name the split to use with --validation_split_name"):
        load_text_data(TrainConfig(dataset_name="some/set", eval_strategy="epoch"))


def test_the_demo_needs_no_hub_and_has_three_labelled_sets() -> None:
    loaded = load_text_data(TrainConfig(task_name="demo"))
    assert loaded.labels.names == ("not_equivalent", "equivalent")
    assert list(loaded.validation) == ["validation"]
    assert loaded.has_labels(loaded.test["test"])
    assert offline.names_on_the_hub(TrainConfig(task_name="demo", model_name_or_path=hub.PACKAGED_MODEL)) == []


# The hub's silence


@pytest.mark.parametrize("settings", [{"task_name": "mrpc"}, {"dataset_name": "no-such-owner/no-such-data"}])
def test_an_unavailable_data_set_is_one_message_with_the_offline_ways(settings: Any) -> None:
    with pytest.raises(UserError) as caught:
        load_text_data(TrainConfig(**settings))
    (problem,) = caught.value.problems
    assert "could not be loaded" in problem
    assert "`make demo`" in problem
    assert "--train_file" in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "error",
    [
        OSError("first line\nsecond line"),
        ValueError("BuilderConfig 'x' not found"),
        datasets.exceptions.DatasetNotFoundError("gone"),
        datasets.exceptions.DatasetGenerationError("broken"),
        ConnectionError(),
    ],
)
def test_whatever_the_hub_raises_is_told_the_same_way(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match="`make demo`") as caught:
        data_module.load_text_data(TrainConfig(task_name="rte"))
    assert f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else type(error).__name__})" in str(
        caught.value
    )
    assert caught.value.__cause__ is error


NEEDS_HUB = TrainConfig(model_name_or_path="bert-base-uncased", task_name="mrpc")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("HF_HUB_OFFLINE", "to be removed, and put back after the test")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return monkeypatch


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def seconds_to_decide(config: TrainConfig) -> float:
    start = time.monotonic()
    offline.use_cache_if_hub_is_silent(config)
    return time.monotonic() - start


def test_a_hub_that_refuses_leaves_the_cache(online: pytest.MonkeyPatch) -> None:
    online.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert seconds_to_decide(NEEDS_HUB) < 6
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_hub_that_says_nothing_leaves_the_cache_within_six_seconds(
    online: pytest.MonkeyPatch, silent_port: int
) -> None:
    assert hub.ANSWER_WITHIN_SECONDS + 1 <= 6
    online.setattr(hub, "ANSWER_WITHIN_SECONDS", 0.3)
    online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent_port}")
    assert 0.2 < seconds_to_decide(NEEDS_HUB) < 3
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_hub_that_answers_is_used(status: int, online: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        offline.use_cache_if_hub_is_silent(NEEDS_HUB)
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_something_else_at_the_hubs_address_is_no_hub(online: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail ready\r\n")

        threading.Thread(target=answer, daemon=True).start()
        online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        offline.use_cache_if_hub_is_silent(NEEDS_HUB)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_hub_is_not_asked_where_nothing_is_needed_of_it(
    online: pytest.MonkeyPatch, silent_port: int, tmp_path: Path
) -> None:
    online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent_port}")
    local = TrainConfig(model_name_or_path=str(tmp_path), train_file="train.csv", task_name="mrpc")
    folder = TrainConfig(model_name_or_path=str(tmp_path), dataset_name=str(tmp_path))
    for config in (local, folder, TrainConfig()):
        assert offline.names_on_the_hub(config) == []
        assert seconds_to_decide(config) < 0.5
    assert "HF_HUB_OFFLINE" not in os.environ
    online.setenv("HF_HUB_OFFLINE", "0")
    assert seconds_to_decide(NEEDS_HUB) < 0.5
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_what_the_hub_is_needed_for_is_named() -> None:
    assert offline.names_on_the_hub(NEEDS_HUB) == ["the model bert-base-uncased", "the data set glue/mrpc"]
    assert offline.names_on_the_hub(TrainConfig(dataset_name="some/set")) == ["the data set some/set"]


def test_a_class_of_minus_one_is_a_missing_label(served: Any) -> None:
    """Where classes have names, as in SNLI, -1 is none of them, and no class more."""
    served({"train": as_on_the_hub(("premise", "hypothesis"), [0, -1, 1], ["yes", "no"])})
    with pytest.raises(UserError, match=r"column 'label' has no value in row 2"):
        load_text_data(TrainConfig(dataset_name="snli"))


def test_whole_numbers_in_a_column_of_floats_are_regression(served: Any) -> None:
    served({"train": Dataset.from_dict({"text": ["a", "b", "c"], "label": [1.0, 2.0, 3.0]})})
    assert load_text_data(TrainConfig(dataset_name="stars")).labels.regression


def test_labels_that_the_task_does_not_know_are_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe `guide` names a task; one label mistyped makes three classes of its two."""
    from ftloop.job.console import announce_data

    told = []
    for wrong in ("1", "maybe"):
        path = tmp_path / f"{wrong}.csv"
        path.write_text(f"sentence1,sentence2,label\na,b,0\nc,d,1\ne,f,{wrong}\n")
        config = TrainConfig(task_name="mrpc", train_file=str(path), eval_strategy="no")
        announce_data(SimpleNamespace(config=config), load_text_data(config), {}, 9)  # type: ignore[arg-type]
        told.append(capsys.readouterr().out)
    assert "Labels" not in told[0]
    assert (
        "Labels    not those of mrpc (0=not_equivalent, 1=equivalent), by 'maybe': so classes of their own" in told[1]
    )
