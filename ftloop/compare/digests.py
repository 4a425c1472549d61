"""Digests of batches, tensors and random states: equal where every bit is equal."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor


def digest_inputs(inputs: Mapping[str, Any]) -> tuple[list[str], str, list[int]]:
    """Return a digest of each row without its padding, one of the whole batch with it, and the batch's shape.

    A row's digest does not depend on the length or the side of its padding, so the same row is recognised anywhere.
    """
    tensors = {name: value.detach().cpu() for name, value in inputs.items()}
    if not tensors:
        return [], "", []
    mask = tensors.get("attention_mask")
    main = next(tensors[name] for name in ("input_ids", "inputs_embeds", *tensors) if name in tensors)
    rows = []
    for i in range(len(main)):
        kept = {}
        for name, value in tensors.items():
            if len(value) != len(main):
                kept[name] = value  # not by row, as positions that all rows share
            elif mask is not None and value.ndim > 1 and value.shape[:2] == mask.shape:
                kept[name] = value[i][mask[i].bool()]
            else:
                kept[name] = value[i]
        kept.pop("attention_mask", None)
        rows.append(digest_tensors(kept)[:12])
    return rows, digest_tensors(tensors), list(main.shape)


def named_tensors(inputs: Any) -> dict[str, Tensor]:
    """Return the tensors that have rows; a model may be called with a mapping, one tensor, or several by position."""
    if not isinstance(inputs, Mapping):
        inputs = dict(enumerate(inputs if isinstance(inputs, (tuple, list)) else [inputs]))
    return {str(name): value for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim}


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, shapes and every bit, in the order of the names."""
    digest = xxhash.xxh3_64()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to_dense().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def random_states() -> dict[str, list[Any]]:
    """Return, per generator that dropout may draw from, a digest of its state and its position in the present block.

    Two generators of one seed whose positions are 2 apart are one 64-bit number apart: what a DataLoader's iterator
    draws. Torch does not promise where its state holds the position; it only serves explanations.
    """
    states = {"cpu": (torch.get_rng_state(), 16)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = (torch.cuda.get_rng_state(), 8)
    return {
        device: [digest_state(state), int.from_bytes(state.numpy()[begin : begin + 8].tobytes(), "little")]
        for device, (state, begin) in states.items()
    }


def whole_states() -> dict[str, str]:
    """Return the states themselves, in text: what a generator can be set to."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return {device: base64.b64encode(state.numpy().tobytes()).decode() for device, state in states.items()}


def digest_state(state: Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(state.numpy().tobytes())
