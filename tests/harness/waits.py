"""Count how often the host asks for a value, for which it would wait on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class WaitsCounted(TorchDispatchMode):
    """How often a tensor's value is fetched to the host: `.item()`, `bool()`, `if tensor:` and the like."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.count = 0
        self.in_model = 0
        """Those within the model's forward pass, which are its own."""
        self._is_in_model = False
        if model is not None:
            model.register_forward_pre_hook(lambda *_: self._enter(True))
            model.register_forward_hook(lambda *_: self._enter(False))

    def _enter(self, is_in_model: bool) -> None:
        self._is_in_model = is_in_model

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_wait = func is torch.ops.aten._local_scalar_dense.default
        self.count += is_wait
        self.in_model += is_wait and self._is_in_model
        return func(*args, **kwargs or {})

    def taken(self) -> tuple[int, int]:
        """Return what was counted since the last call: without the model's own, and those."""
        counts = self.count - self.in_model, self.in_model
        self.count = self.in_model = 0
        return counts
