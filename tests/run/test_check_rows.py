"""Rows of another form are told before anything is computed, with a way that works when it is pasted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from datasets import Dataset
from harness.models import tiny_bert, tiny_lora
from harness.prepared_runs import ARGUMENTS
from harness.rows import pad, tiny_tokenizer
from harness.side_by_side import weights_digest
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from ftloop import TrainConfig, UserError, predict, prepare, train

SETTINGS: dict[str, Any] = ARGUMENTS | {"max_steps": 2}
NAMED = Dataset.from_list(
    [
        {"input_ids": [2, 5 + row, 6, 3] + [0] * 4, "attention_mask": [1] * 4 + [0] * 4, "labels": row % 2}
        for row in range(9)
    ]
)
TENSORS = TensorDataset(*(torch.tensor(NAMED[name]) for name in NAMED.column_names))


class Made:
    """The Dataset class that tutorials write: a row is made when it is asked for."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.made = rows, 0

    def __getitem__(self, row: int) -> Any:
        self.made += 1
        return self.rows[row]

    def __len__(self) -> int:
        return len(self.rows)


def run_of(tmp_path: Path, rows: Any, model: Any = None, **arguments: Any) -> Any:
    settings = {name: arguments.pop(name) for name in list(arguments) if name in TrainConfig.__dataclass_fields__}
    config = TrainConfig(output_dir=str(tmp_path), **SETTINGS | settings)
    return prepare(config, model or tiny_bert(), rows, **{"processing_class": tiny_tokenizer()} | arguments)


def told(tmp_path: Path, rows: Any, model: Any = None, **arguments: Any) -> str:
    """What is said of training rows, by `prepare` or where their first batch is made; "" if nothing."""
    try:
        train(run_of(tmp_path, rows, model, **arguments))
    except UserError as error:
        (said,) = error.problems
        return said
    return ""


FORMS: dict[str, Any] = {
    "tensors": TENSORS,
    "a part": Subset(TENSORS, range(9)),
    "several": ConcatDataset([Subset(TENSORS, range(4)), Subset(TENSORS, range(4, 9))]),
    "tuples": [*TENSORS],
    "lists": [[*row] for row in TENSORS],
    "numbers": [tuple(row.values()) for row in NAMED],
    "of several lengths": [
        (row["input_ids"][:length], row["attention_mask"][:length], row["labels"])
        for row, length in zip(NAMED, [4, 5, 6] * 3, strict=True)
    ],
    "without a mask": [(row["input_ids"], row["labels"]) for row in NAMED],
    "mapping and label": [({"input_ids": row["input_ids"]}, row["labels"]) for row in NAMED],
    "text and label": [("yes word1", 1), ("no", 0)] * 4,
    "made": Made(TENSORS),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("tokenizer", ["a tokenizer", "none"])
def test_rows_without_names_are_told_and_the_way_that_is_told_trains(name: str, tokenizer: str, tmp_path: Path) -> None:
    dataset = FORMS[name]
    given = {} if tokenizer == "a tokenizer" else {"processing_class": None}
    said = told(tmp_path, dataset, **given)
    where = "data set: in a batch of it, row 1 is " if name == "made" else "train_dataset: row 1 is "
    assert said.startswith(where)
    assert "has to be a mapping by name (input_ids, attention_mask, labels): " in said
    known = {"torch": torch, "datasets": datasets, "dataset": dataset, "tokenizer": tiny_tokenizer()}
    if collate := re.search(r"give prepare data_collator=(.*), with the names", said):
        run = run_of(tmp_path, dataset, data_collator=eval(collate[1], known), **given)
    else:
        (made,) = re.findall(r"datasets\.Dataset\.from_list.*(?= makes such rows)", said)
        run = run_of(tmp_path, eval(made, known))
    train(run)
    if len(dataset) == len(NAMED) and name not in ("of several lengths", "without a mask", "mapping and label"):
        direct = run_of(tmp_path, NAMED)
        train(direct)
        assert weights_digest(run.model) == weights_digest(direct.model)


def test_rows_that_are_no_rows_at_all_are_told(tmp_path: Path) -> None:
    for row, said in (("a text", "is a text"), (7, "is a number"), (torch.ones(4), "is a Tensor")):
        assert f"row 1 {said}, and has to be a mapping by name" in told(tmp_path, Made([row] * 4))
    some = [*NAMED.to_list(), (1, 2, 3)]
    assert told(tmp_path, some).startswith("train_dataset: row 10 is a tuple of 3 values")


def test_a_collator_of_ones_own_reads_rows_of_any_form(tmp_path: Path) -> None:
    def named(rows: list[Any]) -> dict[str, Any]:
        ids, masks, labels = map(torch.stack, zip(*rows, strict=True))
        return {"input_ids": ids, "attention_mask": masks, "labels": labels}

    for rows in (TENSORS, Made(TENSORS)):
        for remove in (True, False):
            assert told(tmp_path, rows, data_collator=named, remove_unused_columns=remove) == ""


def test_rows_are_only_made_when_they_are_asked_for(tmp_path: Path) -> None:
    rows = Made(NAMED)
    run_of(tmp_path, rows)
    assert rows.made == 0


def shaped(*parts: int) -> Dataset:
    """Rows whose tokens are in a list of such lists."""
    return NAMED.map(lambda row: {name: [row[name]] * parts[0] for name in ("input_ids", "attention_mask")})


SQUEEZE = "leave out return_tensors where rows are tokenized, or take .squeeze(0) of what it makes"


@pytest.mark.parametrize("kind", ["Dataset", "torch", "list", "part", "made", "transform", "made, all columns"])
def test_tokens_in_a_list_of_lists_are_told_by_row_and_shape(kind: str, tmp_path: Path) -> None:
    for parts, way in ((1, SQUEEZE), (3, "make 3 rows of it, each with the label")):
        rows: Any = shaped(parts)
        forms: dict[str, Any] = {
            "torch": rows.with_format("torch"),
            "list": rows.to_list(),
            "part": Subset(rows, range(9)),
            "made": Made(rows),
            "made, all columns": Made(rows.with_format("torch")),
            "transform": rows.with_transform(lambda batch: batch),
        }
        is_made = kind in ("made", "made, all columns", "transform")
        where = "data set: in a batch of it" if is_made else "train_dataset"
        said = f"row 1 has input_ids of the shape [{parts}, 8], and the model takes one list of tokens a row: {way}"
        found = told(tmp_path, forms.get(kind, rows), remove_unused_columns=kind != "made, all columns")
        assert found == f"{where}{',' if is_made else ':'} {said}"
    with pytest.raises(UserError, match=r"row 1 has input_ids of the shape \[1, 8\]"):
        predict(run_of(tmp_path, NAMED), Made(shaped(1)))


def test_a_model_of_another_kind_may_take_tokens_of_any_shape(tmp_path: Path) -> None:
    """One for multiple choice takes several lists of tokens a row; and of a class of one's own nobody knows."""

    class Squeezes(type(tiny_bert())):  # type: ignore[misc]
        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> Any:
            return super().forward(input_ids[:, 0], attention_mask[:, 0], labels=labels)

    config = tiny_bert().config
    assert told(tmp_path, shaped(2), transformers.BertForMultipleChoice(config), processing_class=None) == ""
    assert told(tmp_path, shaped(1), Squeezes(config), processing_class=None) == ""

    def flat(rows: list[Any]) -> dict[str, Any]:
        return pad([{"input_ids": row["input_ids"][0], "label": row["labels"]} for row in rows])

    assert told(tmp_path, shaped(1).to_list(), data_collator=flat) == ""


SMALL = tiny_bert().config
FAMILIES: dict[str, Any] = {
    "tokens": lambda: transformers.BertForMaskedLM(SMALL),
    "tags": lambda: transformers.BertForTokenClassification(SMALL),
    "next token": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=120, n_embd=32, n_layer=1, n_head=2)
    ),
    "another text": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=120, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    ),
    "places": lambda: transformers.BertForQuestionAnswering(SMALL),
    "pretraining": lambda: transformers.BertForPreTraining(SMALL),
    "bare": lambda: transformers.BertModel(SMALL),
    "bare, as a base of PEFT": lambda: tiny_lora(lambda: transformers.BertModel(SMALL), task_type="FEATURE_EXTRACTION"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_a_head_for_texts_is_told_with_the_class_that_has_one(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name]()
    inner = model.get_base_model() if "PEFT" in name else model
    said = told(tmp_path, NAMED, model, eval_dataset=NAMED)
    assert said.startswith(f"model: {type(inner).__name__} has no head that classifies texts; AutoModelForSequenceCl")
    inner.save_pretrained(tmp_path / "saved")
    loaded = type(inner).from_pretrained(tmp_path / "saved")
    said = told(tmp_path, NAMED.to_list(), loaded)
    (way,) = re.findall(r"AutoModelForSequenceClassification\.from_pretrained\(.*\)(?= loads it with)", said)
    known = {"AutoModelForSequenceClassification": transformers.AutoModelForSequenceClassification, "N": 2}
    fitting = eval(way, known)
    if fitting.config.pad_token_id is None:  # of GPT-2
        fitting.config.pad_token_id = 0
    if fitting.config.model_type != "t5":  # whose classifier wants an end in each text
        train(run_of(tmp_path, NAMED, fitting))


def test_what_a_model_of_another_task_learns_is_left_alone(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return torch.nn.functional.cross_entropy(outputs[0][:, 0, :2], labels)

    class Own(transformers.BertForMaskedLM):
        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> Any:
            logits = super().forward(input_ids, attention_mask).logits[:, 0, :2]
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    of_tokens = NAMED.remove_columns("labels").map(lambda row: {"labels": row["input_ids"]})
    no_tags = of_tokens.map(lambda row: {"labels": [token % 2 for token in row["labels"]]})
    places = NAMED.map(lambda row: {"start_positions": 1, "end_positions": 2})
    of_pretraining = of_tokens.add_column("next_sentence_label", [0] * 9)
    given: list[tuple[Any, Any, dict[str, Any]]] = [
        (FAMILIES["bare"](), NAMED, {"compute_loss_func": loss}),
        (FAMILIES["tokens"](), NAMED, {"compute_loss_func": loss}),
        (FAMILIES["tokens"](), Made(NAMED), {"compute_loss_func": loss}),
        (Own(SMALL), NAMED, {}),
        (FAMILIES["tokens"](), of_tokens, {}),
        (FAMILIES["tokens"](), Made(of_tokens), {}),
        (FAMILIES["tags"](), no_tags, {}),
        (FAMILIES["next token"](), of_tokens, {}),
        (FAMILIES["another text"](), of_tokens, {}),
        (FAMILIES["places"](), places, {}),
        (FAMILIES["pretraining"](), of_pretraining, {}),
        (transformers.BertForNextSentencePrediction(SMALL), NAMED, {}),
    ]
    for model, rows, more in given:
        assert told(tmp_path, rows, model, **{"processing_class": None} | more) == "", type(model).__name__


def test_a_head_of_tokens_is_told_where_only_the_made_row_knows_its_label(tmp_path: Path) -> None:
    said = told(tmp_path, Made(NAMED), FAMILIES["tokens"]())
    assert said.startswith(
        "data set: in a batch of it, row 1 has one label; BertForMaskedLM has no head that classifies"
    )


def test_a_set_to_evaluate_needs_the_head_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model: BertForMaskedLM has no head"):
        run_of(tmp_path, None, FAMILIES["tokens"](), eval_dataset={"a": NAMED})
    with pytest.raises(UserError, match="the data set to evaluate: row 1 has one label; BertForMaskedLM has no head"):
        predict(run_of(tmp_path, None, FAMILIES["tokens"]()), NAMED)


def test_where_no_class_has_a_head_another_model_is_the_way(tmp_path: Path) -> None:
    config = transformers.DPRConfig(vocab_size=120, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    said = told(tmp_path, NAMED, transformers.DPRQuestionEncoder(config))
    assert "DPRQuestionEncoder has no head that classifies texts; transformers has none for its type dpr: take" in said
