"""What a model asks of a batch's mask, told from the CPU, where the batch was made: whether all of it is set, and how
many tokens each row has. To read it from a GPU, the host would wait for all that was launched before, in every forward.

The lengths go with the batch to the device and stay with its mask there. Where they are lost on the way, as in a part
of a batch, the model asks its device as it always did.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn


@dataclass(frozen=True)
class Told:
    """A batch on the CPU with the lengths of its rows: whoever moves it to a device gets just the batch."""

    batch: MutableMapping[str, Any]
    row_lengths: tuple[int, ...]

    def pin_memory(self) -> Told:
        batch = copy(self.batch)  # of its own kind, as torch pins a batch
        batch.update({name: x.pin_memory() if isinstance(x, Tensor) else x for name, x in self.batch.items()})
        return replace(self, batch=batch)

    def to(self, device: Any, non_blocking: bool = False) -> Any:
        batch = send_to_device(self.batch, device, non_blocking=non_blocking)
        keep(batch["attention_mask"], self.row_lengths)
        return batch


def telling(collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """Return a collator whose batches are `Told`, those that have a mask and whose rows begin with a token."""
    return partial(_collate, collate=collate)


def _collate(examples: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    batch = collate(examples)
    mask = batch.get("attention_mask") if isinstance(batch, MutableMapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.device.type != "cpu" or not mask[:, 0].all():
        return batch
    return Told(batch, tuple(mask.bool().sum(dim=1).tolist()))


def keep(mask: Tensor, row_lengths: tuple[int, ...]) -> Tensor:
    """Have a mask know the lengths of its rows."""
    mask.row_lengths = row_lengths  # type: ignore[attr-defined]
    return mask


def known(mask: Any) -> tuple[int, ...] | None:
    """The lengths of a mask's rows, where they need not be read from its device."""
    return None if torch.compiler.is_compiling() else getattr(mask, "row_lengths", None)


def ask_no_mask(model: nn.Module) -> None:
    """Have a model of transformers, whose attention is torch's `sdpa`, not look whether all of a mask is set: where it
    is, its layers get none, and else one that is ready, as transformers would make it. What is computed is the same.
    """
    body = getattr(model, "base_model", model)
    if body is not model and type(body).__module__.startswith("transformers."):
        body.register_forward_pre_hook(_ready, with_kwargs=True)


def _ready(body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask: Any = kwargs.get("attention_mask")
    lengths = known(mask)
    if lengths is None or body.config._attn_implementation != "sdpa" or getattr(body.config, "is_decoder", False):
        return None
    rows, cells = mask.shape
    ready = None if min(lengths) == cells else mask.bool()[:, None, None].expand(rows, 1, cells, cells).contiguous()
    return args, kwargs | {"attention_mask": ready}
