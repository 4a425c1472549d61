"""Permutations of rows, drawn from a generator of their own."""

from __future__ import annotations

import numpy as np
import torch


def seeded_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + epoch)


def shuffled(count: int, generator: torch.Generator) -> np.ndarray:
    """A permutation as torch.randperm draws it, whatever the type: in half the memory, which counts for many rows."""
    small = count < 2**31
    return torch.randperm(count, generator=generator, dtype=torch.int32 if small else torch.int64).numpy()
