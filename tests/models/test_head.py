"""A head that was trained on classes in an order of its own: it is kept, from the first row to the predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert
from harness.rows import tiny_pairs, tiny_tokenizer
from safetensors.torch import load_file
from transformers import BertForTokenClassification, LlamaConfig, LlamaForTokenClassification

from ftloop import TrainConfig
from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.errors import UserError
from ftloop.inference.classifier import load_classifier
from ftloop.job.fine_tune import fine_tune
from ftloop.models.head import keep_order_of_head, saved_class_names
from ftloop.models.load import head_of_another_task, load_model, load_weights
from ftloop.report.outcome import read_finished_run, read_predictions

pytestmark = pytest.mark.usefixtures("own_cache")

NAMES = ("bad", "fine", "so-so")
PERMUTED = [2, 0, 1]


def write_model(folder: Path, order: list[int], names: list[str] | None) -> str:
    """One trained head, its classes in this order and under these names."""
    model = tiny_bert(3, seed=5, dropout=0.0, id2label=dict(enumerate(names)) if names else None)
    for parameter in model.classifier.parameters():
        parameter.data = parameter.data[order].clone()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def settings(folder: Path, **others: Any) -> TrainConfig:
    for split, count in {"train": 24, "validation": 12}.items():
        rows = [row | {"label": NAMES[i % 3]} for i, row in enumerate(tiny_pairs(count))]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        others[f"{split}_file"] = str(folder / f"{split}.jsonl")
    return TrainConfig(**{"num_train_epochs": 2, "save_strategy": "epoch", "use_cpu": True, "seed": 3} | others)


def losses(folder: str) -> list[float]:
    results = json.loads((Path(folder) / "all_results.json").read_text())
    return [results[name] for name in ("train_loss", "eval_loss", "eval_accuracy", "eval_f1")]


@pytest.mark.parametrize("trainer_compat", [False, True])
def test_a_trained_head_goes_on_in_its_own_order(
    trainer_compat: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, own, again = (str(tmp_path / name) for name in ("plain", "own", "again"))
    same = {"trainer_compat": trainer_compat, "logging_steps": 1}
    fine_tune(
        settings(tmp_path, output_dir=plain, model_name_or_path=write_model(tmp_path / "a", [0, 1, 2], None), **same)
    )
    said = "Head      the model's head has no names for its classes: each taken for the class of the same number, 0=bad"
    assert said in capsys.readouterr().out
    model = write_model(tmp_path / "b", PERMUTED, ["SO-SO", "Bad", " fine"])
    fine_tune(settings(tmp_path, output_dir=own, model_name_or_path=model, **same))
    said = capsys.readouterr().out
    assert "Head      the classes keep the order of the model's head: 0=so-so, 1=bad, 2=fine" in said
    assert losses(own) == pytest.approx(losses(plain), rel=1e-5)  # sums over classes in another order
    heads = [load_file(Path(folder) / "model.safetensors")["classifier.weight"] for folder in (plain, own)]
    assert (heads[0][PERMUTED] - heads[1]).abs().max() < 1e-5

    kept = json.loads((Path(own) / "config.json").read_text())
    assert kept["id2label"] == {"0": "so-so", "1": "bad", "2": "fine"}
    assert kept["label2id"] == {"so-so": 0, "bad": 1, "fine": 2}
    predicted = [
        read_predictions(read_finished_run(each).predictions["validation"]).to_pylist() for each in (plain, own)
    ]
    assert [[(row["label"], row["prediction"]) for row in rows] for rows in predicted[:1]] == [
        [(row["label"], row["prediction"]) for row in rows] for rows in predicted[1:]
    ]
    assert [row["label"] for row in predicted[1]] == [NAMES[i % 3] for i in range(12)]
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny_pairs(12)]
    assert [each.label for each in load_classifier(own, "cpu")(pairs)] == [row["prediction"] for row in predicted[1]]

    resumed = settings(
        tmp_path, output_dir=again, model_name_or_path=model, resume_from_checkpoint=f"{own}/checkpoint-3", **same
    )
    fine_tune(resumed)
    assert (Path(again) / "model.safetensors").read_bytes() == (Path(own) / "model.safetensors").read_bytes()
    assert (Path(again) / "config.json").read_bytes() == (Path(own) / "config.json").read_bytes()


def kept(tmp_path: Path, names: list[str], labels: Labels) -> tuple[Labels, str, dict[int, str]]:
    folder = tmp_path / "model"
    tiny_bert(len(names), id2label=dict(enumerate(names))).save_pretrained(folder)
    model, new = load_model(str(folder), labels)
    labels, said = keep_order_of_head(model, saved_class_names(str(folder)), new, labels)
    assert list(model.config.id2label.values()) == list(labels.names or ("LABEL_0",))
    return labels, said, model.config.id2label


TWO = Labels(("no", "yes"), {"0": 0, "1": 1, "no": 0, "yes": 1})


def test_every_spelling_of_a_class_gets_its_new_id(tmp_path: Path) -> None:
    labels, said, _ = kept(tmp_path, ["Yes", "No"], TWO)
    assert (labels.names, labels.ids) == (("yes", "no"), {"0": 1, "1": 0, "no": 1, "yes": 0})
    assert said == "the classes keep the order of the model's head: 0=yes, 1=no; F1 is that of 'no' (positive_label)"
    assert kept(tmp_path, ["x", "X"], Labels(("X", "x"), {"X": 0, "x": 1}))[0].ids == {"X": 1, "x": 0}


@pytest.mark.parametrize(
    ("names", "labels", "told"),
    [
        (
            ["LABEL_0", "LABEL_1"],
            TWO,
            "no names for its classes: each taken for the class of the same number, 0=no, 1",
        ),
        (["LABEL_0", "LABEL_1"], Labels(("0", "1"), {"0": 0, "1": 1}), ""),
        (["LABEL_0", "LABEL_1", "LABEL_2"], TWO, ""),
        (["no", "YES"], TWO, ""),
        (["good", "bad"], TWO, "the model's head was trained on 0=good, 1=bad; the labels are 0=no, 1=yes: each taken"),
        (["yes", "no", "maybe"], TWO, "trained on 0=yes, 1=no, 2=maybe; the labels are 0=no, 1=yes: a new head"),
        (["x", "x"], Labels(("X", "x"), {"X": 0, "x": 1}), "trained on 0=x, 1=x; the labels are 0=X, 1=x: each taken"),
        (["good", "bad"], Labels((), {}, ProblemType.REGRESSION), ""),
    ],
)
def test_other_names_are_said_and_the_datas_order_stays(
    names: list[str], labels: Labels, told: str, tmp_path: Path
) -> None:
    found, said, _ = kept(tmp_path, names, labels)
    assert found is labels
    assert told in said if told else not said


def test_names_of_a_head_that_has_no_weights_do_not_count(tmp_path: Path) -> None:
    """A new head is drawn at random: its order is the data's, as it has always been."""
    model = tiny_bert(2, id2label={0: "yes", 1: "no"})
    model.bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "yes", "1": "no"}
    loaded, new = load_model(str(tmp_path), TWO)
    assert keep_order_of_head(loaded, saved_class_names(str(tmp_path)), new, TWO) == (TWO, "")


def test_a_head_of_another_task_makes_way_for_a_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = Labels(("a", "b", "c"), {"a": 0, "b": 1, "c": 2})
    config = tiny_bert(3).config
    tagger = BertForTokenClassification(config)
    torch.nn.init.ones_(tagger.classifier.weight)
    tagger.save_pretrained(tmp_path / "tagger")
    tagger.bert.save_pretrained(tmp_path / "body")  # without a pooler, as a tagger has none
    drawn = []
    for name in ("tagger", "body"):
        torch.manual_seed(1)
        model, new = load_model(str(tmp_path / name), labels)
        drawn.append(model.state_dict())
        assert {"classifier.bias", "classifier.weight"} < set(new)
    assert all(torch.equal(each, drawn[1][name]) for name, each in drawn[0].items()), "as from the body alone"
    said = (
        f"Head      {tmp_path}/tagger is a BertForTokenClassification: its head, of another task, makes way for a new"
    )
    assert capsys.readouterr().out == f"{said} one\n"


def test_a_head_of_another_task_classifies_no_texts(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=120, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_labels=3)
    config.num_attention_heads = config.num_key_value_heads = 2
    tiny_tokenizer().save_pretrained(tmp_path)
    LlamaForTokenClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no fine-tuned classifier of texts: it is a LlamaForTokenClassification"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], "x", 5, [7], ["BertForMaskedLM"], ["T5ForTokenClassification"]])
def test_a_classifier_is_one_whatever_class_its_configuration_names(architectures: Any, tmp_path: Path) -> None:
    """`BertForMaskedLM` beside a classifier's weights, as people copy configurations: it has no such head."""
    trained = load_file(Path(write_model(tmp_path, [0, 1, 2], None)) / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": architectures}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, _ = load_weights(str(tmp_path))
    assert head_of_another_task(model, architectures, []) == []
    assert torch.equal(model.state_dict()["classifier.weight"], trained["classifier.weight"])
