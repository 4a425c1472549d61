"""Models whose weights transformers splits, joins or renames as it saves them: what was saved is loaded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_split_or_joined
from safetensors.torch import load_file, save_file
from torch import nn

from ftloop.errors import UserError
from ftloop.models.weights import WEIGHTS, load_weights, save_weights

KINDS = ("nomic_bert", "gte", "jina_embeddings_v3", "mixtral", "qwen3_moe", "jamba")


def saved(kind: str, folder: Path) -> Any:
    model = tiny_split_or_joined(kind, seed=1)
    save_weights(model, folder)
    assert not load_file(folder / WEIGHTS).keys() <= model.state_dict().keys()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_comes_back(kind: str, tmp_path: Path) -> None:
    model, other = saved(kind, tmp_path), tiny_split_or_joined(kind, seed=2)
    parameters = list(other.parameters())
    names = load_weights(other, tmp_path)
    assert all(a is b for a, b in zip(other.parameters(), parameters, strict=True)), "which the optimizer holds"
    weights = other.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert names
    assert not {*names} & weights.keys(), "those that Trainer leaves out"


def test_a_head_of_ones_own_comes_back_too_and_no_random_number_is_drawn(tmp_path: Path) -> None:
    def with_own_head(seed: int) -> Any:
        model = tiny_split_or_joined("nomic_bert", seed)
        model.classifier = nn.Sequential(nn.Linear(32, 7), nn.Tanh(), nn.Linear(7, 2))
        return model

    model, other = with_own_head(1), with_own_head(2)
    save_weights(model, tmp_path)
    state = torch.get_rng_state()
    load_weights(other, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("fault", ["missing", "more", "shape"])
def test_the_weights_of_another_model_are_refused(fault: str, tmp_path: Path) -> None:
    saved("mixtral", tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    if fault == "missing":
        for name in [name for name in weights if ".experts." in name and ".layers.0." in name]:
            del weights[name]
    elif fault == "more":
        weights["model.layers.7.mlp.other"] = torch.ones(2)
    else:
        weights = {name: w[:, :3].clone() if ".experts." in name else w for name, w in weights.items()}
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not this model's weights"):
        load_weights(tiny_split_or_joined("mixtral", seed=2), tmp_path)
