"""A device that is not there: torch's `meta`, whose tensors have shapes and no values.

A value that is asked of it, for which the host would wait on a GPU, is an error; so is a tensor of the CPU beside its
own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from ftloop import nonfinite


@contextmanager
def meta_device() -> Iterator[Accelerator]:
    """Yield what `prepare` takes to train on it, also with the fused AdamW."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    PartialState().device = accelerator.state.device = torch.device("meta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nonfinite, "FLAG_IS_HEEDED_ON", (*nonfinite.FLAG_IS_HEEDED_ON, "meta"))
        supported = ["cpu", "meta"]
        patch.setattr(import_module("torch.optim.optimizer"), "_get_fused_kernels_supported_devices", lambda: supported)
        yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)
