"""What `prepare` is given is looked at once: a line says what is wanted, before anything is computed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from harness.models import build, tiny_bert
from harness.prepared_runs import ARGUMENTS
from harness.rows import pad, tiny_rows, tiny_tokenizer
from harness.side_by_side import weights_digest
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from ftloop import TrainConfig, UserError, evaluate, predict, prepare, train, updates
from ftloop.run.column_values import ROWS_AT_ONCE


def problem(tmp_path: Path, rows: Any, model: Any = None, **arguments: Any) -> str:
    """What `prepare` says of training rows, "" if nothing."""
    settings = {name: arguments.pop(name) for name in list(arguments) if name in TrainConfig.__dataclass_fields__}
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | settings)
    try:
        prepare(config, model or tiny_bert(), rows, **{"processing_class": tiny_tokenizer()} | arguments)
    except UserError as error:
        (said,) = error.problems
        return said
    return ""


ROWS = tiny_rows(6)
LISTS = ROWS.to_list()


def labelled(*labels: Any, column: str = "label") -> Dataset:
    rows = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in LISTS]
    return Dataset.from_list([row | {column: label} for row, label in zip(rows, labels, strict=False)])


def stream() -> Any:
    yield from LISTS


KINDS: dict[str, tuple[Any, str]] = {
    "path": ("train.csv", "'train.csv' is a path"),
    "dict of sets": (DatasetDict(train=ROWS, test=ROWS), "a DatasetDict holds several data sets ('train', 'test')"),
    "columns": (ROWS.to_dict(), "a dict of columns ('input_ids', "),
    "DataFrame": (ROWS.to_pandas(), "a DataFrame of pandas is no list of rows; datasets.Dataset.from_pandas"),
    "streaming": (ROWS.to_iterable_dataset(), "an IterableDataset can only be read through"),
    "generator": (stream(), "a generator can only be read through"),
    "loader": (DataLoader(ROWS), "a DataLoader makes batches; give the data set that it reads, its .dataset"),
    "part of rows not tokenized": (
        Subset(Dataset.from_dict({"text": ["a"], "label": [0]}), [0]),
        "none of its columns",
    ),
    "texts": (["a text", "another"], "its rows are texts; a tokenizer makes"),
    "not tokenized": (Dataset.from_dict({"text": ["a"], "label": [0]}), "none of its columns text, label is"),
    "rows not tokenized": ([{"text": "a", "label": 0}], "none of its columns text, label is an argument of BertForSeq"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_data_set_of_another_kind_is_told_what_is_wanted(name: str, tmp_path: Path) -> None:
    rows, said = KINDS[name]
    assert said in problem(tmp_path, rows).removeprefix("train_dataset: ")


class Inputs(nn.Module):
    """As notebooks write it: one argument, a dict of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(120, 2)

    def forward(self, inputs: Any) -> Any:
        return self.embedding(inputs["input_ids"])


class Ids(Inputs):
    def forward(self, ids: Any, mask: Any, token_type_ids: Any = None, labels: Any = None) -> Any:  # type: ignore[override]
        return self.embedding(ids)


class Usual(Inputs):
    """As the message says."""

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:  # type: ignore[override]
        return self.embedding(input_ids)


def test_a_forward_whose_arguments_are_called_otherwise_is_told_how_to_call_them(tmp_path: Path) -> None:
    way = ": name the arguments of forward as the columns, such as (self, input_ids, attention_mask, labels=None)"
    for model, what in (
        (Inputs(), "is an argument of Inputs, which takes inputs"),
        (Ids(), "hold no ids, mask, arguments of Ids, which takes ids, mask, token_type_ids"),
    ):
        assert problem(tmp_path, ROWS, model, compute_loss_func=lambda *a, **k: 0).endswith(what + way)
    without_mask = ROWS.remove_columns("attention_mask")  # which the collator makes
    assert not problem(tmp_path, without_mask, Usual(), compute_loss_func=lambda *a, **k: 0)


def several() -> Any:
    return tiny_bert(3, problem_type="multi_label_classification")


def named(*names: str) -> Any:
    return tiny_bert(len(names), id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


LABELS: dict[str, tuple[Any, Any, str]] = {
    "texts": (tiny_bert, labelled("good", "bad"), "row 1 has the label 'good'; dataset.class_encode_column"),
    "numbers as texts": (
        tiny_bert,
        labelled("0", "1", column="labels"),
        "row 1 has the label '0'; dataset.cast_column('labels', datasets.Value('int64')) makes numbers of such texts",
    ),
    "the model's names": (
        lambda: named("good", "bad"),
        labelled("good", "bad"),
        "dataset.class_encode_column('label'), and then dataset.align_labels_with_mapping({name: id for id, name in ",
    ),
    "none": (tiny_bert, labelled(1, None), "row 2 has the label None; a row without a label"),
    "out of range": (tiny_bert, labelled(0, 1, 2), "row 3 has the label 2; the model's 2 classes are 0 to 1: number"),
    "minus one": (tiny_bert, labelled(0, -1), "row 2 has the label -1; the model's 2 classes are 0 to 1; if -1 means"),
    "in a list": (tiny_bert, [*LISTS, LISTS[0] | {"label": 7}], "row 7 has the label 7"),
    "floats": (tiny_bert, labelled(0.0, 1.0), "row 1 has the label 0.0; the model's 2 classes are 0 to 1, whole"),
    "booleans": (tiny_bert, labelled(True, False), "row 1 has the label True; the model's 2 classes"),
    "one for several": (several, labelled(1, 2), "row 1 has the label 1; the model's problem_type is multi_label"),
    "whole numbers for several": (several, labelled([1, 0, 0], [0, 1, 1]), "1.0 and 0.0 are wanted, with a point"),
    "too few for several": (several, labelled([1.0, 0.0, 1.0], [0.0, 1.0]), "row 2 has the label [0.0, 1.0]; 3 num"),
    "a text for a number": (lambda: tiny_bert(1), labelled("3.5"), "row 1 has the label '3.5'; a number is wanted"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_the_model_cannot_learn_are_told_by_row(name: str, tmp_path: Path) -> None:
    model, rows, said = LABELS[name]
    found = problem(tmp_path, rows, model())
    assert found.startswith("train_dataset: row ")
    assert said in found
    assert found.endswith("For a loss of your own, give compute_loss_func or a data_collator")


INTENTS = [f"intent {letter}" for letter in "abcdefghijkl"]


def test_a_column_of_texts_gets_the_numbers_of_the_model_by_the_way_that_is_told(tmp_path: Path) -> None:
    """Encoded by their text, 10 would be the third class."""
    rows = Dataset.from_list([dict(LISTS[0]) | {"label": str(id)} for id in range(12)])
    model = named(*INTENTS)
    assert "; dataset.cast_column('label', datasets.Value('int64'))" in problem(tmp_path, rows, model)
    cast = rows.cast_column("label", Value("int64"))
    assert cast["label"] == [*range(12)]
    prepare(TrainConfig(output_dir=str(tmp_path), use_cpu=True), named(*INTENTS), cast, data_collator=pad)
    said = problem(tmp_path, rows.class_encode_column("label"), named(*INTENTS))
    assert "its class '10' is number 2 in the column 'label', and the model's number 10 by its id2label" in said
    assert "in place of class_encode_column, dataset.cast_column('label', datasets.Value('int64')) keeps them" in said
    prepare(
        TrainConfig(output_dir=str(tmp_path), use_cpu=True),
        tiny_bert(12),  # without names of its own the model takes any numbers
        rows.class_encode_column("label"),
        data_collator=pad,
    )


def test_names_that_contradict_the_models_are_told_before_training(tmp_path: Path) -> None:
    rows = labelled("Good", "Bad", "Good").class_encode_column("label")
    said = problem(tmp_path, rows, named("good", "bad"))
    assert (
        "its class 'Bad' is number 0 in the column 'label', and the model's number 1 by its id2label (good, bad)"
        in said
    )
    model = named("good", "bad")
    way = "dataset.align_labels_with_mapping({name: id for id, name in model.config.id2label.items()}, 'label')"
    assert way in said
    aligned = eval(way, {"dataset": rows, "model": model})
    assert aligned["label"] == [0, 1, 0]
    for fitting, given in ((model, aligned), (named("other", "names"), rows), (tiny_bert(), rows)):
        prepare(TrainConfig(output_dir=str(tmp_path), use_cpu=True), fitting, given, data_collator=pad)


def beyond(column: str, number: int) -> Dataset:
    """The fourth row has this number in its column."""
    rows = [dict(row) for row in LISTS]
    rows[3] = rows[3] | {column: [*rows[3][column][:-1], number]}
    return Dataset.from_list(rows)


WAY = "model.resize_token_embeddings(len(tokenizer)), where tokens were added to the tokenizer; else take the tokenizer"


@pytest.mark.parametrize("form", ["Dataset", "list", "part", "in order"])
def test_tokens_that_the_model_does_not_know_are_told_by_row(form: str, tmp_path: Path) -> None:
    for column, number, said in (
        ("input_ids", 120, f"row 4 has the token 120, and the model knows only 120: {WAY}"),
        (
            "token_type_ids",
            2,
            "row 4 has the token type 2, and the model knows only 2: tokenize with return_token",
        ),
    ):
        rows: Any = beyond(column, number)
        places = [*range(len(rows))]
        forms = {"list": rows.to_list(), "part": Subset(rows, places), "in order": rows.select(places[::-1])}
        found = said.replace("row 4", "row 3") if form == "in order" else said
        assert found in problem(tmp_path, forms.get(form, rows))
        for name, sets in (("eval_dataset", rows), ("eval_dataset['b']", {"a": ROWS, "b": rows})):
            arguments = {"eval_dataset": sets, "eval_strategy": "epoch"}
            assert problem(tmp_path, ROWS, **arguments).startswith(f"{name}: {said}")
    long = [row | {name: [row[name][0]] * 65 for name in row if name != "label"} for row in LISTS]
    said = "row 1 has 65 tokens, and the model takes only 64: tokenize with truncation=True, max_length=64"
    assert problem(tmp_path, long if form == "list" else Dataset.from_list(long)) == f"train_dataset: {said}"
    of_roberta = problem(tmp_path, Dataset.from_list(long).remove_columns("token_type_ids"), build("roberta"))
    assert of_roberta.endswith("the model takes only 63: tokenize with truncation=True, max_length=63")
    model = tiny_bert()
    model.resize_token_embeddings(121)
    assert problem(tmp_path, beyond("input_ids", 120), model) == ""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"input_ids": [5, 120]}, "has the token 120, and the model knows only 120"),
        ({"token_type_ids": [0, 2]}, "has the token type 2, and the model knows only 2"),
        ({"input_ids": [5] * 65}, "has 65 tokens, and the model takes only 64"),
        ({"label": 2}, "has the label 2; the model's 2 classes are 0 to 1"),
    ],
)
def test_a_row_is_counted_from_the_first_of_all_though_rows_are_looked_at_in_parts(
    fault: dict[str, Any], said: str, tmp_path: Path
) -> None:
    row = {"input_ids": [5, 6], "token_type_ids": [0, 0], "label": 1}
    columns = {name: [value] * (2 * ROWS_AT_ONCE + 9) for name, value in row.items()}
    for name, value in fault.items():
        columns[name][2 * ROWS_AT_ONCE + 6] = value
    assert problem(tmp_path, Dataset.from_dict(columns)).startswith(f"train_dataset: row 200007 {said}")


def test_a_padding_token_that_the_model_does_not_know_is_told_where_batches_are_padded(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[A PADDING OF ITS OWN]"})
    arguments = {"processing_class": tokenizer}
    said = f"train_dataset: its batches are padded with the token 120, and the model knows only 120: {WAY}"
    assert problem(tmp_path, ROWS, **arguments).startswith(said)
    collate = DataCollatorWithPadding(tokenizer)
    assert problem(tmp_path, ROWS, data_collator=collate).startswith(said)
    as_long = [row | {"input_ids": [5] * 4, "attention_mask": [1] * 4, "token_type_ids": [0] * 4} for row in LISTS]
    assert problem(tmp_path, as_long, **arguments) == ""
    assert problem(tmp_path, ROWS, per_device_train_batch_size=1, **arguments) == ""
    assert problem(tmp_path, ROWS, data_collator=lambda rows: pad(rows), **arguments) == ""


RIGHT: dict[str, tuple[Any, Any]] = {
    "classes": (tiny_bert, labelled(0, 1, -100, column="labels")),
    "numbers": (lambda: tiny_bert(1), labelled(1, 2)),
    "several": (several, labelled([1.0, 0.0, 0.0], [0.0, 1.0, 1.0])),
    "several, cast as told": (
        several,
        labelled([1, 0, 0], [0, 1, 1]).cast_column("label", List(Value("float32"))),
    ),
    "a list": (tiny_bert, LISTS),
}


@pytest.mark.parametrize("name", RIGHT)
def test_labels_that_are_right_train(name: str, tmp_path: Path) -> None:
    model, rows = RIGHT[name]
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | {"max_steps": 1})
    assert train(prepare(config, model(), rows, processing_class=tiny_tokenizer())).training_loss > 0


def test_a_collator_of_ones_own_may_take_any_labels(tmp_path: Path) -> None:
    def numbered(examples: list[Any]) -> dict[str, Any]:
        return pad([example | {"label": int(example["label"] == "good")} for example in examples])

    rows = [row | {"label": "good"} for row in LISTS]
    assert problem(tmp_path, rows, data_collator=numbered) == ""


def test_a_set_that_is_evaluated_later_is_looked_at_too(tmp_path: Path) -> None:
    run = prepare(TrainConfig(output_dir=str(tmp_path), **ARGUMENTS), tiny_bert(), processing_class=tiny_tokenizer())
    for rows, said in ((labelled(-1, -1), "if -1 means none"), ({"a": [1]}, "its rows are numbers")):
        with pytest.raises(UserError, match=said):
            evaluate(run, rows)
    assert evaluate(run, ROWS)["eval_loss"] > 0


def test_weights_in_half_precision_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem(tmp_path, ROWS, tiny_bert().to(torch.bfloat16)) == ""
    assert "Warning   the model's own weights are bfloat16, in which small updates are lost" in capsys.readouterr().out
    assert problem(tmp_path, ROWS) == ""
    assert "Warning" not in capsys.readouterr().out


def test_a_metric_that_nothing_computes_is_told_first(tmp_path: Path) -> None:
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "eval_dataset": ROWS}
    said = "metric_for_best_model: nothing computes 'accuracy'"
    assert problem(tmp_path, ROWS, metric_for_best_model="accuracy", **best).startswith(said)
    assert problem(tmp_path, ROWS, **best) == ""


def test_settings_of_older_guides_are_answered_in_python_as_by_the_command() -> None:
    with pytest.raises(UserError) as told:
        TrainConfig(evaluation_strategy="epoch", lerning_rate=1.0, output_dir="here")  # type: ignore[call-arg]
    assert told.value.problems == (
        "evaluation_strategy: its name is --eval_strategy",
        "lerning_rate: no such setting; did you mean learning_rate?",
    )


def words_of(rows: Any) -> Any:
    """Rows of text, to be tokenized when one is asked for."""
    return Dataset.from_list([{"words": " ".join(map(str, row["input_ids"])), "label": row["label"]} for row in rows])


def encode(batch: Any) -> dict[str, Any]:
    ids = [[int(word) for word in words.split()] for words in batch["words"]]
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "label": batch["label"], "n": ids}


def test_columns_stay_for_a_transform_and_for_a_collator_that_needs_them(tmp_path: Path) -> None:
    """Each way of giving the same rows trains to the same weights."""

    def from_words(examples: list[Any]) -> dict[str, Any]:
        table = {name: [example[name] for example in examples] for name in examples[0]}
        encoded = encode(table)
        del encoded["n"]
        return pad([dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)])

    rows = tiny_rows(13, seed=1).remove_columns("token_type_ids")
    ways: dict[str, tuple[Any, Any, bool]] = {
        "encoded": (rows, pad, True),
        "transform": (words_of(rows).with_transform(encode), pad, True),
        "collator": (words_of(rows), from_words, False),
        "list": (words_of(rows).to_list(), from_words, False),
    }
    digests = {}
    for name, (data, collate, remove) in ways.items():
        settings = ARGUMENTS | {"remove_unused_columns": remove, "eval_strategy": "epoch"}
        config = TrainConfig(output_dir=str(tmp_path / name), **settings)
        run = prepare(config, tiny_bert(), data, data, data_collator=collate)
        train(run)
        digests[name] = weights_digest(run.model)
    assert len(set(digests.values())) == 1, digests
    config = TrainConfig(output_dir=str(tmp_path / "dropped"), **ARGUMENTS)
    more = words_of(rows).add_column("input_ids", rows["input_ids"])
    run = prepare(config, tiny_bert(), more, data_collator=from_words)
    with pytest.raises(UserError, match=r"data_collator: asks for the column 'words': .* remove_unused_columns=False"):
        train(run)


def test_a_wrapped_model_is_asked_what_its_base_model_takes(tmp_path: Path) -> None:
    class Adapted(nn.Module):
        """A wrapper like PEFT's, whose own `forward` does not name the segments."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_bert()
            self.config = self.inner.config

        def get_base_model(self) -> nn.Module:
            return self.inner

        def forward(self, input_ids: Any = None, labels: Any = None, **more: Any) -> Any:
            seen.append(set(more))
            return self.inner(input_ids=input_ids, labels=labels, **more)

    seen: list[set[str]] = []
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | {"max_steps": 1})
    train(prepare(config, Adapted(), ROWS, processing_class=tiny_tokenizer()))
    assert seen == [{"token_type_ids", "attention_mask"}]
    assert problem(tmp_path, labelled("good"), Adapted()).startswith("train_dataset: row 1")


def test_a_config_and_a_model_of_another_kind_are_told(tmp_path: Path) -> None:
    for config, model, said in (
        ({"output_dir": "x"}, tiny_bert(), "config: a TrainConfig is wanted, .* not a dict"),
        (TrainConfig(output_dir=str(tmp_path)), "bert-base-uncased", "model: a model is wanted, .* not a str"),
        (TrainConfig(output_dir=str(tmp_path)), type(tiny_bert()), "not the class BertForSequenceClassification"),
    ):
        with pytest.raises(UserError, match=said):
            prepare(config, model, ROWS)  # type: ignore[arg-type]


def test_a_model_spread_by_a_device_map_is_told_and_one_on_a_single_device_trains(tmp_path: Path) -> None:
    """By hooks of Accelerate's, which stay where its weights are gathered on one device."""
    tiny_bert().save_pretrained(tmp_path)
    load = partial(AutoModelForSequenceClassification.from_pretrained, tmp_path)
    places = {"bert": "cpu", "dropout": "cpu", "classifier": "disk"}
    said = problem(tmp_path, ROWS, load(device_map=places, offload_folder=tmp_path / "offloaded"))
    assert said.startswith("model: its device_map spreads it over cpu, disk, and training takes a whole model on one")
    assert said.endswith("load it without device_map")
    whole = load()
    whole.hf_device_map = dict.fromkeys(places, 0)  # without hooks, as on a machine with one GPU
    assert problem(tmp_path, ROWS, whole) == ""


def test_texts_that_stay_need_a_collator_that_reads_them(tmp_path: Path) -> None:
    rows = ROWS.add_column("text", ["a"] * len(ROWS))
    said = "with remove_unused_columns=False the columns text stay, texts of which no tensors can be made"
    for kind in (rows, rows.to_list()):
        assert said in problem(tmp_path, kind, remove_unused_columns=False)
    assert problem(tmp_path, rows, remove_unused_columns=False, data_collator=pad) == ""


def test_all_that_is_wrong_is_told_together(tmp_path: Path) -> None:
    config = SimpleNamespace(output_dir=str(tmp_path), eval_strategy="epoch", use_cpu=True)
    with pytest.raises(UserError) as told:
        prepare(TrainConfig(**vars(config)), tiny_bert(), "train.csv", data_collator=pad)  # type: ignore[arg-type]
    assert [said.split(":")[0].split(" ")[0] for said in told.value.problems] == ["train_dataset", "eval_strategy"]


def test_rows_without_a_column_of_labels_are_told_before_training(tmp_path: Path) -> None:
    other = labelled(0, 1, 0, column="sentiment")
    assert problem(tmp_path, other) == (
        "train_dataset: no column of labels (label, label_ids, labels) among input_ids, attention_mask, sentiment: "
        "dataset.rename_column(name, 'label') makes one of yours"
    )
    assert problem(tmp_path, other.rename_column("sentiment", "label")) == ""
    hidden = labelled(0, 1, 0).with_format("torch", columns=["input_ids", "attention_mask"])
    assert problem(tmp_path, hidden).endswith("among input_ids, attention_mask: set_format hides 'label'")
    scored = {"eval_dataset": other, "compute_metrics": lambda evaluated: {"a": 1.0}}
    assert problem(tmp_path, labelled(0, 1, 0), **scored).startswith("eval_dataset: no column of labels")


def test_evaluation_rows_without_labels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = prepare(TrainConfig(output_dir=str(tmp_path), **ARGUMENTS), tiny_bert(), processing_class=tiny_tokenizer())
    evaluate(run, labelled(0, 1, 0))
    assert "no labels" not in capsys.readouterr().out
    evaluate(run, labelled(0, 1, 0).remove_columns("label"))
    assert "Warning   eval: its rows have no labels, so no loss and no metric" in capsys.readouterr().out


def test_classes_that_another_set_numbers_otherwise_are_told(tmp_path: Path) -> None:
    train_rows = labelled(0, 1, 2).cast_column("label", ClassLabel(names=["negative", "neutral", "positive"]))
    others = labelled(0, 1, 1).cast_column("label", ClassLabel(names=["negative", "positive"]))
    said = problem(tmp_path, train_rows, tiny_bert(num_labels=3), eval_dataset=others)
    assert said.startswith(
        "eval_dataset: its classes are negative, positive, and those of the first data set negative, neutral, positive"
    )
    mapping = {name: id for id, name in enumerate(train_rows.features["label"].names)}
    aligned = others.align_labels_with_mapping(mapping, "label")
    assert aligned["label"] == [0, 2, 2]
    assert problem(tmp_path, train_rows, tiny_bert(num_labels=3), eval_dataset=aligned) == ""


def test_trainers_other_arguments_are_answered_with_ours(tmp_path: Path) -> None:
    config = TrainConfig(output_dir=str(tmp_path))
    with pytest.raises(UserError) as error:
        prepare(config, tiny_bert(), ROWS, tokenizer=tiny_tokenizer(), callbacks=[])  # type: ignore[call-arg]
    assert error.value.problems == (
        "tokenizer: its name is processing_class",
        "callbacks: early_stopping_patience is EarlyStoppingCallback, report_to TensorBoardCallback, disable_tqdm "
        "ProgressCallback; what another would do is written into the body of `for update in updates(run)`",
    )


def test_a_model_of_which_nothing_is_trained_is_told(tmp_path: Path) -> None:
    assert problem(tmp_path, ROWS, tiny_bert().requires_grad_(False)).startswith("the model: none of its parameters is")


def test_a_loss_that_is_a_module_is_asked_what_its_forward_takes(tmp_path: Path) -> None:
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, max_steps=1)
    loss: Any = torch.nn.CrossEntropyLoss()
    with pytest.raises(UserError, match="lambda outputs, labels, num_items_in_batch=None: loss"):
        prepare(config, tiny_bert(), tiny_rows(5), data_collator=pad, compute_loss_func=loss)
    run = prepare(
        config,
        tiny_bert(),
        tiny_rows(5),
        data_collator=pad,
        compute_loss_func=lambda outputs, labels, num_items_in_batch=None: loss(outputs.logits, labels),
    )
    assert next(updates(run)).loss > 0


def test_a_loss_with_the_arguments_of_trainers_method_is_told(tmp_path: Path) -> None:
    def compute_loss(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        raise AssertionError

    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(
        UserError, match=r"compute_loss_func: is called with \(outputs, labels, .* of Trainer.compute_loss"
    ):
        prepare(config, tiny_bert(), tiny_rows(5), data_collator=pad, compute_loss_func=compute_loss)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_that_only_its_row_knows_is_told_when_the_row_is_made(workers: int, tmp_path: Path) -> None:
    """The Dataset of PyTorch that tutorials write; stars from 1 to 5 are the classes 0 to 4."""

    class Stars(torch.utils.data.Dataset[Any]):
        def __init__(self, first: int) -> None:
            self.first, self.rows = first, tiny_rows(10).remove_columns("label").with_format("torch")

        def __getitem__(self, row: int) -> dict[str, Any]:
            return dict(self.rows[row]) | {"labels": torch.tensor(self.first + row % 5)}

        def __len__(self) -> int:
            return len(self.rows)

    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, max_steps=2, dataloader_num_workers=workers)
    with pytest.raises(UserError, match=r"in a batch of it, row \d has the label 5; the model's 5 classes are"):
        train(prepare(config, tiny_bert(5), Stars(1), processing_class=tiny_tokenizer()))
    with pytest.raises(UserError, match="number them from 0, and build the model with num_labels as many"):
        predict(prepare(config, tiny_bert(5), Stars(0), processing_class=tiny_tokenizer()), Stars(1))
    train(prepare(config, tiny_bert(5), Stars(0), processing_class=tiny_tokenizer()))


def test_a_tokenizer_without_a_padding_token_is_told_where_batches_are_padded(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    said = "train_dataset: its rows differ in length, and the tokenizer has no padding token: tokenizer.pad_token = "
    assert problem(tmp_path, ROWS, processing_class=tokenizer).startswith(said)
    assert problem(tmp_path, ROWS, data_collator=DataCollatorWithPadding(tokenizer)).startswith(said)
    tokenizer.pad_token = tokenizer.sep_token
    assert problem(tmp_path, ROWS, processing_class=tokenizer) == ""


def test_a_quantized_model_is_trained_with_an_adapter_alone(tmp_path: Path) -> None:
    model = tiny_bert()
    model.is_quantized = True
    model.config.quantization_config = {"quant_method": "fp8"}
    said = "the model: it cannot be trained as a whole; its weights are quantized (fp8), so give the model that they"
    assert problem(tmp_path, ROWS, model=model).startswith(said)
    model.hf_quantizer = SimpleNamespace(is_qat_trainable=True)
    assert problem(tmp_path, ROWS, model=model) == ""
