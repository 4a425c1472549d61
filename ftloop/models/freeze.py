"""Freeze the embeddings and the lowest encoder layers. They take part in every forward pass as before, dropout too, and
get no gradient, no optimizer state and no step.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch import nn

from ftloop.config.train_config import TrainConfig
from ftloop.errors import UserError


def freeze(model: Any, config: TrainConfig) -> None:
    """Freeze what `freeze_embeddings` and `freeze_layers` name, by `requires_grad`: before the optimizer is made, as is
    done by hand for Trainer.

    Raises: UserError where the model has no such parts, or fewer layers.
    """
    problems = []
    if config.freeze_embeddings:
        embeddings = embedding_modules(model)
        if not embeddings:
            problems.append(f"freeze_embeddings: no embeddings were found in {type(model).__name__}")
        for module in embeddings:
            module.requires_grad_(False)
    if config.freeze_layers:
        layers = encoder_layers(model)
        if not layers:
            problems.append(
                f"freeze_layers: the layers of {type(model).__name__} are not known: it has no list of as many as its "
                "configuration says (ALBERT's share their weights, so that none can be frozen alone); leave it out"
            )
        elif config.freeze_layers > len(layers[0]):
            problems.append(
                f"freeze_layers: {config.freeze_layers} is more than the {len(layers[0])} layers of this model"
            )
        else:
            for parts in layers:
                parts[: config.freeze_layers].requires_grad_(False)
    if problems:
        raise UserError(*problems)


def encoder_layers(model: Any) -> list[nn.ModuleList]:
    """Return the first list of modules that is as long as the model's configuration says it has layers, and others of
    this length beside it: XLM and Flaubert have a list for each part of a layer. Empty where there is none.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for module in _base(model).modules():
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList) and len(child) == count]
        if lists:
            return lists
    return []


def embedding_modules(model: Any) -> list[nn.Module]:
    """Return the modules that turn token ids into the first layer's input: the largest part around the token embeddings
    that has no layers in it, and the other embeddings beside that.

    So BERT's `embeddings` with their norm, and GPT-2's `wte` and `wpe`. What projects them to another width (ELECTRA),
    and relative positions within the layers (DeBERTa), are trained.
    """
    tokens = None
    with suppress(NotImplementedError):  # CANINE, which has no table of tokens
        tokens = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    layers = encoder_layers(model)
    module: nn.Module = _base(model)
    while tokens is not None:
        inner = next((child for child in module.children() if tokens in child.modules()), None)
        if inner is None:
            return []
        if inner is tokens or not layers or layers[0] not in inner.modules():
            return [inner, *(c for c in module.children() if isinstance(c, nn.Embedding) and c is not inner)]
        module = inner
    return []


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """Count the numbers that are trained, and all numbers."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _base(model: Any) -> nn.Module:
    base: nn.Module = getattr(model, "base_model", model)
    return base
