"""What is not trained, and dropout as asked for: in every architecture, and as Trainer has it with the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.labels import PAIR
from harness.models import ARCHITECTURES, build, tiny_bert
from harness.rows import pad
from harness.side_by_side import BASE, Job, assert_same_run, run_ftloop, run_trainer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    CanineConfig,
    CanineForSequenceClassification,
    FlaubertConfig,
    XLMConfig,
)

from ftloop import TrainConfig, UserError, prepare
from ftloop.models.freeze import freeze, trained_parameters
from ftloop.models.load import dropout_settings, load_model

LAYERS_NOT_KNOWN = {"albert"}  # one, shared by all


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_and_lowest_layers_are_found_in(architecture: str) -> None:
    model = build(architecture)
    layers = 0 if architecture in LAYERS_NOT_KNOWN else 1
    freeze(model, TrainConfig(freeze_embeddings=True, freeze_layers=layers))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    wanted = {
        name
        for name, _ in model.named_parameters()
        if ".embeddings." in name or (layers and (".layer.0." in name or ".layers.0." in name))
    }
    assert frozen == wanted
    assert any("word_embeddings" in name or "tok_embeddings" in name for name in frozen)
    assert any("classifier" in name or "out_proj" in name for name, p in model.named_parameters() if p.requires_grad)
    trained, there = trained_parameters(model)
    assert there - trained == sum(p.numel() for name, p in model.named_parameters() if name in wanted)


def test_what_cannot_be_frozen_is_told() -> None:
    with pytest.raises(UserError, match="freeze_layers: 3 is more than the 2 layers of this model"):
        freeze(tiny_bert(), TrainConfig(freeze_layers=3))
    with pytest.raises(UserError, match="freeze_layers: the layers of AlbertForSequenceClassification are not known"):
        freeze(build("albert"), TrainConfig(freeze_layers=1))
    with pytest.raises(UserError, match=r"no embeddings were found in Linear\nfreeze_layers: the layers of Linear"):
        freeze(nn.Linear(2, 2), TrainConfig(freeze_embeddings=True, freeze_layers=1))
    with pytest.raises(UserError, match="freeze_layers: -1 must not be negative"):
        TrainConfig(freeze_layers=-1)


def frozen_by_hand() -> nn.Module:
    model = tiny_bert()
    for part in (model.bert.embeddings, model.bert.encoder.layer[0]):
        for parameter in part.parameters():
            parameter.requires_grad = False
    return model


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_frozen_run_is_trainers_with_a_model_frozen_by_hand(checkpointing: bool, tmp_path: Path) -> None:
    """With gradient checkpointing too, where the first layers' input needs no gradient."""
    arguments = BASE | {"num_train_epochs": 1, "gradient_accumulation_steps": 2, "trainer_compat": True}
    arguments["gradient_checkpointing"] = checkpointing
    if checkpointing:
        arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    theirs = run_trainer(Job(frozen_by_hand), tmp_path / "trainer", **arguments)
    arguments.pop("gradient_checkpointing_kwargs", None)
    ours = run_ftloop(Job(), tmp_path / "ftloop", freeze_embeddings=True, freeze_layers=1, **arguments)
    assert_same_run(theirs, ours)


@pytest.mark.slow
def test_what_is_frozen_stays_and_the_rest_is_trained_and_taken_up_again(tmp_path: Path) -> None:
    job, before = Job(), {name: weight.clone() for name, weight in tiny_bert().named_parameters()}
    made: list[Any] = []

    def model() -> nn.Module:
        made.append(tiny_bert())
        return made[-1]

    job.model = model
    arguments = BASE | {"freeze_embeddings": True, "freeze_layers": 1, "gradient_checkpointing": True}
    whole = run_ftloop(job, tmp_path / "whole", **arguments)
    for name, weight in made[0].named_parameters():
        is_frozen = "embeddings" in name or "layer.0." in name
        assert torch.equal(weight, before[name]) == is_frozen, name
    state = torch.load(tmp_path / "whole" / "checkpoint-8" / "optimizer.pt", weights_only=True)["state"]
    assert len(state) == sum(parameter.requires_grad for parameter in made[0].parameters()) > 0
    without = run_ftloop(job, tmp_path / "without", **arguments | {"gradient_checkpointing": False})
    assert without.weights == whole.weights
    again = run_ftloop(job, tmp_path / "again", resume=str(tmp_path / "whole" / "checkpoint-8"), **arguments)
    assert again.updates == whole.updates[8:]
    assert again.weights == whole.weights


# Dropout


def dropouts(model: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_goes_where_the_architecture_has_it(architecture: str) -> None:
    before = dropouts(build(architecture))
    for asked in ("classifier_dropout", "hidden_dropout"):
        model_config = ARCHITECTURES[architecture]()
        if (architecture, asked) == ("mpnet", "classifier_dropout"):
            with pytest.raises(UserError, match="classifier_dropout: mpnet has no such setting"):
                dropout_settings(TrainConfig(classifier_dropout=0.37), model_config)
            continue
        settings = dropout_settings(TrainConfig(**{asked: 0.37}), model_config)
        assert settings
        for name, value in settings.items():
            setattr(model_config, name, value)
        model: Any = type(build(architecture))(model_config)
        changed = {name for name, p in dropouts(model).items() if p != before[name]}
        assert changed
        assert all(p in (0.37, before[name]) for name, p in dropouts(model).items())
        body = f"{model.base_model_prefix}."
        if asked == "classifier_dropout":
            assert not any(name.startswith(body) for name in changed)
        else:
            assert any(name.startswith(body) for name in changed)
            assert not any("att" in name for name in settings)


def test_dropout_asked_for_is_in_the_model_and_saved_with_it(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "model")
    asked = TrainConfig(classifier_dropout=0.0, hidden_dropout=0.3, output_dir=str(tmp_path / "out"), use_cpu=True)
    model, _ = load_model(str(tmp_path / "model"), PAIR, asked)
    found = dropouts(model)
    assert found["dropout"] == 0.0
    assert found["bert.embeddings.dropout"] == found["bert.encoder.layer.0.output.dropout"] == 0.3
    assert found["bert.encoder.layer.0.attention.self.dropout"] == 0.1
    prepare(asked, model, data_collator=pad)
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (saved["classifier_dropout"], saved["hidden_dropout_prob"]) == (0.0, 0.3)


def test_a_model_that_was_built_with_other_dropout_is_refused(tmp_path: Path) -> None:
    """From Python; it would silently train without it."""
    config = TrainConfig(hidden_dropout=0.3, output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(UserError, match=r"hidden_dropout_prob: the model was built with 0\.1, not 0\.3: build it so"):
        prepare(config, tiny_bert(), Job().data()[0], data_collator=pad)


@pytest.mark.parametrize("name", ["classifier_dropout", "hidden_dropout"])
def test_dropout_is_a_share(name: str) -> None:
    for value in (1, -0.1):
        with pytest.raises(UserError, match=f"{name}: {float(value)} must be at least 0 and below 1"):
            TrainConfig(**{name: value})


@pytest.mark.parametrize("family", [FlaubertConfig, XLMConfig])
def test_a_layer_in_several_lists_is_frozen_in_all_of_them(family: Any) -> None:
    config = family(emb_dim=32, n_heads=2, n_layers=2, n_words=60, max_position_embeddings=64, num_labels=2)
    model = AutoModelForSequenceClassification.from_config(config)
    freeze(model, TrainConfig(freeze_layers=1))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"attentions", "layer_norm1", "ffns", "layer_norm2"}
    assert frozen == {name for name, _ in model.named_parameters() if name.split(".")[2:3] == ["0"]}


def test_a_model_without_a_table_of_tokens_is_told() -> None:
    config = CanineConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.num_hash_buckets = 16
    model = CanineForSequenceClassification(config)
    with pytest.raises(UserError, match="freeze_embeddings: no embeddings were found in CanineForSequence"):
        freeze(model, TrainConfig(freeze_embeddings=True))


@pytest.mark.parametrize("family", ["gpt_neo", "gpt_neox"])
def test_a_dropout_that_only_the_head_of_a_tagger_reads_is_no_setting(family: str) -> None:
    with pytest.raises(UserError, match=f"classifier_dropout: {family} has no such setting"):
        dropout_settings(TrainConfig(classifier_dropout=0.37), AutoConfig.for_model(family))
