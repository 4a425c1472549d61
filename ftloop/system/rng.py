"""The state of a process's random number generators: Python's, NumPy's, torch's on the CPU and on its own device."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

DEVICES = ("cuda", "xpu", "mps", "npu", "hpu", "mlu", "musa")
"""Kinds of devices with a generator of their own, by their names in torch and in a checkpoint."""


def _devices() -> dict[str, Any]:
    """Torch's modules of the devices in use. A run on the CPU leaves the GPUs beside it alone; MPS does not say."""
    found = {name: getattr(torch, name) for name in DEVICES if hasattr(torch, name)}
    return {name: of for name, of in found.items() if getattr(of, "is_initialized", of.is_available)()}


def rng_state() -> dict[str, Any]:
    """Return the state of every generator that this process draws from. Draws nothing."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    return state | {name: device.get_rng_state() for name, device in _devices().items()}


def restore_rng_state(state: dict[str, Any]) -> None:
    """Set every generator of this process, whatever the number of GPUs was where the state was saved."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    for name, device in _devices().items():
        if name in state:
            device.set_rng_state(state[name])


def save_rng_state(path: Path, distributed: bool, fetches: dict[str, Any] | None = None) -> None:
    """Save the generators of this process, with a list of a state for each visible GPU where the run is distributed;
    and what the fetches of its loader have to be repeated with, where they draw.

    Mirrors: Trainer._save_rng_state. Differs: every place of the list holds the state of this process's own GPU, so
    that it is found wherever the processes then are; a run on the CPU saves no GPU's; and XPU and MPS are saved too.
    """
    state = rng_state()
    if distributed:
        state |= {name: [state[name]] * device.device_count() for name, device in _devices().items()}
    torch.save(state if fetches is None else state | {"fetches": fetches}, path)


def own_rng_state(saved: Any, rank: int) -> dict[str, Any] | None:
    """Return what the process `rank` has saved, ours or Trainer's; None where it is not the state of generators.

    Of Trainer's list of all visible GPUs its own is taken: processes are counted on from one machine to the next.
    """
    if not isinstance(saved, dict) or not {"python", "numpy", "cpu"} <= saved.keys():
        return None
    lists = {name: states for name, states in saved.items() if isinstance(states, list)}
    return saved | {name: states[rank % len(states)] for name, states in lists.items()} if all(lists.values()) else None


def rng_files(num_processes: int) -> list[str]:
    """Return the names of the files in a checkpoint, one for each process. Mirrors: Trainer._save_rng_state."""
    return [f"rng_state_{rank}.pth" for rank in range(num_processes)] if num_processes > 1 else ["rng_state.pth"]
