"""Gradients of a model by the names of its parameters, and their norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def named_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of each parameter that has one."""
    return {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}


def total_norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm over all floating-point tensors, by the function that `clip_grad_norm_` uses; 0 for none."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    return float(_get_total_norm(floating)) if floating else 0.0


def _get_total_norm(tensors: list[Tensor]) -> Tensor:
    get_total_norm = getattr(nn.utils, "get_total_norm", None)
    if get_total_norm is None:  # before torch 2.6 the same sum was written within `clip_grad_norm_`
        norms = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])
        return torch.linalg.vector_norm(norms)
    norm: Tensor = get_total_norm(tensors)
    return norm
