"""The state of a process's random number generators: Python's, NumPy's, torch's on the CPU and on its own GPU."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """Return the state of every generator that this process draws from. Draws nothing."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    if torch.cuda.is_initialized():  # a run on the CPU leaves the GPUs beside it alone
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Any]) -> None:
    """Set every generator of this process, whatever the number of GPUs was where the state was saved."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    if torch.cuda.is_initialized() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def save_rng_state(path: Path, distributed: bool) -> None:
    """Save the generators of this process, with a list of a state for each visible GPU where the run is distributed.

    Mirrors: Trainer._save_rng_state. Differs: every place of the list holds the state of this process's own GPU, so
    that it is found wherever the processes then are; a run on the CPU saves no GPU's.
    """
    state = rng_state()
    if distributed and "cuda" in state:
        state["cuda"] = [state["cuda"]] * torch.cuda.device_count()
    torch.save(state, path)


def own_rng_state(saved: Any, rank: int) -> dict[str, Any] | None:
    """Return what the process `rank` has saved, ours or Trainer's; None where it is not the state of generators.

    Of Trainer's list of all visible GPUs its own is taken: processes are counted on from one machine to the next.
    """
    if not isinstance(saved, dict) or not {"python", "numpy", "cpu"} <= saved.keys() or saved.get("cuda") == []:
        return None
    cuda = saved.get("cuda")
    return saved | {"cuda": cuda[rank % len(cuda)]} if isinstance(cuda, list) else saved


def rng_files(num_processes: int) -> list[str]:
    """Return the names of the files in a checkpoint, one for each process. Mirrors: Trainer._save_rng_state."""
    return [f"rng_state_{rank}.pth" for rank in range(num_processes)] if num_processes > 1 else ["rng_state.pth"]
