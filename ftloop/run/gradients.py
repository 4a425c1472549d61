"""Gradients of a model by the names of its parameters, and their norm."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def named_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of each parameter that has one."""
    return {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}


def total_norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm over all floating-point tensors, by the function that `clip_grad_norm_` uses; 0 for none."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    return float(get_total_norm(floating)) if floating else 0.0
