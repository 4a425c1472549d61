"""GPUs that are not there: the generators of those that a process sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

SEED = 42


@dataclass
class FakeGPUs:
    """What one process sees of a machine's GPUs: a generator for each, of which it draws from its own alone."""

    visible: int
    own: int
    """Its own, the device that is current."""
    drawn: list[int] = field(default_factory=list)
    """How often each generator was drawn from since it was seeded."""
    kind: str = "cuda"

    def __post_init__(self) -> None:
        self.drawn = self.drawn or [0] * self.visible

    def draw(self, times: int) -> None:
        self.drawn[self.own] += times

    def state(self, device: Any = None) -> Tensor:
        number = self.own if device in (None, self.kind) else device
        return torch.tensor([SEED, self.drawn[number]]).view(torch.uint8)

    def set_state(self, state: Tensor, device: Any = None) -> None:
        seed, drawn = state.view(torch.int64).tolist()
        assert seed == SEED
        self.drawn[self.own if device in (None, self.kind) else device] = drawn

    def seed(self, seed: int) -> None:
        assert seed == SEED
        self.drawn = [0] * self.visible

    @contextmanager
    def in_use(self) -> Iterator[FakeGPUs]:
        """Put them in the place of torch's."""
        with pytest.MonkeyPatch.context() as patch:
            module = getattr(torch, self.kind)
            is_used, seed = (
                ("is_available", "manual_seed") if self.kind == "mps" else ("is_initialized", "manual_seed_all")
            )
            for place in (module, getattr(module, "random", module)):
                patch.setattr(place, is_used, lambda: True, raising=False)
                patch.setattr(place, "device_count", lambda: self.visible)
                patch.setattr(place, "get_rng_state", self.state)
                patch.setattr(place, "set_rng_state", self.set_state)
                patch.setattr(place, seed, self.seed)
            yield self
