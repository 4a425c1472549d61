"""Digests of batches, tensors and random states: equal where every bit is equal. They need torch alone, not NumPy."""

from __future__ import annotations

import base64
import ctypes
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

try:
    import xxhash
except ImportError:  # it comes with datasets; without it digests are several times as slow
    xxhash = None  # type: ignore[assignment]

KIND = "sha256" if xxhash is None else "xxh3_64"
"""The kind of the digests made here; those of two kinds cannot be compared."""


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
    return _digest(part for name in sorted(tensors) for part in _parts(name, tensors[name]))


def _parts(name: str, tensor: Tensor) -> Iterable[Any]:
    tensor = tensor.detach().to_dense().cpu().contiguous()
    yield f"{name}{tuple(tensor.shape)}".encode()
    yield _bits(tensor)


def _bits(tensor: Tensor) -> Any:
    """Return a view of the memory of a contiguous tensor on the CPU, which it does not keep alive."""
    return (ctypes.c_char * (tensor.numel() * tensor.element_size())).from_address(tensor.data_ptr())


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256() if xxhash is None else xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    text: str = digest.hexdigest()
    return text[:16]


def random_states() -> dict[str, list[Any]]:
    """Return, per generator that dropout may draw from, a digest of its state and its position in the present block.

    Two generators of one seed whose positions are 2 apart are one 64-bit number apart: what a DataLoader's iterator
    draws. Torch does not promise where its state holds the position; it only serves explanations.
    """
    states = {"cpu": (torch.get_rng_state(), 16)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = (torch.cuda.get_rng_state(), 8)
    return {
        device: [digest_state(state), int.from_bytes(bytes(state[begin : begin + 8].tolist()), "little")]
        for device, (state, begin) in states.items()
    }


def whole_states() -> dict[str, str]:
    """Return the states themselves, in text: what a generator can be set to."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return {device: base64.b64encode(_bits(state)).decode() for device, state in states.items()}


def digest_state(state: Tensor) -> str:
    return _digest([_bits(state)])
