"""Models that fail on purpose: losses and gradients that are not finite, and too little memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import BASE, QUIET
from transformers import BertForSequenceClassification

from ftloop import Run, TrainConfig, prepare

POISON = 3  # a token that tiny_rows never draws
NAN, INF = float("nan"), float("inf")
ARGUMENTS: dict[str, Any] = QUIET | BASE | {"eval_strategy": "no", "save_strategy": "no"}


def poisoned_loss(model: Any, loss: torch.Tensor) -> torch.Tensor:
    """The gradient is as it was."""
    return loss + INF


def poisoned_gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    """Make one parameter's gradient NaN, not the loss: the root of 0 has an infinite slope, 0 times that is NaN."""
    return loss + (0 * model.classifier.bias.sum()).sqrt()


def poisoned_both(model: Any, loss: torch.Tensor) -> torch.Tensor:
    return loss * NAN


class PoisonedBert(BertForSequenceClassification):
    """Not finite for batches in which POISON occurs."""

    poison: Callable[[Any, torch.Tensor], torch.Tensor] = staticmethod(poisoned_both)

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        outputs = super().forward(input_ids, attention_mask, labels=labels, **kwargs)
        if outputs.loss is not None and (input_ids == POISON).any():
            outputs.loss = self.poison(self, outputs.loss)
        return outputs


def poisoned_bert(poison: Callable[[Any, torch.Tensor], torch.Tensor] = poisoned_both) -> PoisonedBert:
    model = PoisonedBert(tiny_bert().config)
    model.load_state_dict(tiny_bert().state_dict())
    model.poison = poison
    return model


def poisoned_rows(*rows: int) -> Dataset:
    """29 of them, of which the named ones hold POISON."""
    examples = list(tiny_rows(29, seed=1))
    for row in rows:
        examples[row]["input_ids"][2] = POISON
    return Dataset.from_list(examples)


def poisoned_run(folder: Path, *rows: int, model: Any = None, **arguments: Any) -> Run:
    """A run of the base job, ready for its first update, whose named training rows hold POISON."""
    config = TrainConfig(output_dir=str(folder), **ARGUMENTS | arguments)
    return prepare(config, model or poisoned_bert(), poisoned_rows(*rows), tiny_rows(13, seed=2), data_collator=pad)


MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"


@dataclass
class SmallMemory:
    """Make a model raise what CUDA raises on more than so many tokens, padding included."""

    tokens: int = 10**9
    rows: int = 10**9
    where: str = "forward"
    """Or `backward`: then the gradients of the layers above have been added already."""
    only_training: bool = True
    failures: list[tuple[int, ...]] = field(default_factory=list)
    """The shapes that did not fit."""
    held: list[Any] = field(default_factory=list)
    """Weak references to what an attempt that failed had computed."""

    def of(self, model: Any) -> Any:
        model.bert.encoder.layer[0].register_forward_hook(self._after_the_first_layer)
        model.bert.register_forward_pre_hook(self._before, with_kwargs=True)
        self.model = model
        return model

    def _before(self, module: Any, args: Any, kwargs: Any) -> None:
        assert not any(tensor() is not None for tensor in self.held), "what failed is still held"

    def _after_the_first_layer(self, module: Any, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        shape = tuple(hidden.shape[:2])
        fits = shape[0] <= self.rows and shape[0] * shape[1] <= self.tokens
        if fits or (self.only_training and not module.training):
            return
        self.held = [weakref.ref(hidden)]
        if self.where == "forward":
            self._fail(shape)
        hidden.register_hook(lambda gradient: self._fail(shape))

    def _fail(self, shape: tuple[int, ...]) -> None:
        if self.where == "backward":
            assert self.model.classifier.weight.grad is not None, "in the middle of the backward pass"
        self.failures.append(shape)
        raise torch.OutOfMemoryError(MESSAGE)
