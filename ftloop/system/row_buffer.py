"""A tensor that rows are appended to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class RowBuffer:
    """Some numbers of each row, in one tensor on the device, allocated with the first batch.

    A small tensor of each batch would lie between the large ones of the forward passes, and keep what is freed there
    from being used again: 1.2 MB a batch, measured.
    """

    size: int
    values: Tensor | None = None
    count: int = 0

    def add(self, batch: Tensor) -> None:
        end = self.count + len(batch)
        if self.values is None:
            self.values = batch.new_empty((max(self.size, end), *batch.shape[1:]))
        # Labels collated as they come are integers in one batch and have fractions in the next.
        self.values = self.values.to(torch.promote_types(self.values.dtype, batch.dtype))
        while end > len(self.values):  # a collator may make several rows of one
            self.values = torch.cat([self.values, torch.empty_like(self.values)])
        self.values[self.count : end] = batch
        self.count = end

    def to_numpy(self) -> Any:
        """The rows as float32 or integers; None if none were added."""
        if self.values is None:
            return None
        values = self.values[: self.count].cpu()
        return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
