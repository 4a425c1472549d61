"""Rows of similar lengths as groups, of which each is padded to one length: so bf16 attends on a CPU, where a product
of two small matrices costs more to prepare than to compute. One group of all rows is slower: most of it is padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGER = 1.6
"""How many times as long as a group's shortest row its longest may be."""
MULTIPLE = 16
"""What a group's length is a multiple of: for each new shape of a product oneDNN makes code, which takes longer than to
run it."""
MOST_WEIGHTS = 2**18
"""Attention weights of a group's head, in its rows together: of long rows each is a group, which stays in the cache."""


@dataclass(frozen=True, eq=False)
class Places:
    """The cells of the groups in which numbers lie that are packed one behind the other."""

    source: Tensor
    """For each cell of all groups, which of the numbers it takes; as padding, some number of its row."""
    cell: Tensor
    """For each number, its cell."""
    cells: list[int]
    """How many a group has."""

    def spread(self, x: Tensor) -> tuple[Tensor, ...]:
        """Lay out numbers x ... as cells x ... of each group. What comes of padding must have no gradient."""
        spread: Tensor = _Spread.apply(x, self.source, self.cell)
        return spread.split(self.cells)

    def gather(self, groups: list[Tensor]) -> Tensor:
        """Take numbers x ... out of cells x ... of each group."""
        gathered: Tensor = _Gather.apply(torch.cat(groups), self.cell)
        return gathered


@dataclass(frozen=True, eq=False)
class RowGroups:
    rows: list[int]
    """How many each group has."""
    masks: list[Tensor | None]
    """Rows x 1 x 1 x cells: which of them are tokens; None where all are."""
    tokens: Places
    first_tokens: Places
    """The same of numbers of which there is one for each row."""

    @staticmethod
    @lru_cache(maxsize=2)  # all layers of a batch ask for the same
    @torch.inference_mode(False)  # a training may ask for what a prediction made
    def of(lengths: tuple[int, ...]) -> RowGroups:
        """Group rows whose tokens are packed one behind the other."""
        groups = _similar(lengths)
        every = torch.tensor(lengths)
        starts = every.cumsum(0) - every
        source, is_token, masks = [], [], []
        for group in groups:
            rows = torch.tensor(group)
            cells = torch.arange(_padded(lengths[group[-1]]))
            lasts = every[rows, None] - 1
            source.append((starts[rows, None] + cells.minimum(lasts)).flatten())
            mask = cells <= lasts
            is_token.append(mask.flatten())
            masks.append(None if bool(mask.all()) else mask[:, None, None])
        order = torch.tensor([row for group in groups for row in group])
        places = torch.cat(source)
        taken = torch.cat(is_token).nonzero().flatten()
        sizes = [len(group) for group in groups]
        return RowGroups(
            sizes,
            masks,
            Places(places, taken[places[taken].argsort()], [len(each) for each in source]),
            Places(order, order.argsort(), sizes),
        )


def _similar(lengths: tuple[int, ...]) -> list[list[int]]:
    """The rows of each group, the shortest first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        shortest = lengths[groups[-1][0]] if groups else 0
        is_similar = lengths[row] <= LONGER * shortest
        if is_similar and (len(groups[-1]) + 1) * _padded(lengths[row]) ** 2 <= MOST_WEIGHTS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _padded(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


class _Spread(torch.autograd.Function):
    """`index_select`, whose own way back adds up number by number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, cell: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        return x.index_select(0, source)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (cell,) = ctx.saved_tensors
        return gradient.index_select(0, cell), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cell: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        ctx.cells = len(x)
        return x.index_select(0, cell)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (cell,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.cells, *gradient.shape[1:]).index_copy_(0, cell, gradient), None
