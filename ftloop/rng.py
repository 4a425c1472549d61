"""The state of the random number generators of a process: Python's, NumPy's, torch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def rng_state(distributed: bool) -> dict[str, Any]:
    """Of every generator of this process. Draws nothing. Mirrors: Trainer._save_rng_state."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        cuda = torch.cuda.random
        state["cuda"] = cuda.get_rng_state_all() if distributed else cuda.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Any], distributed: bool) -> None:
    """Mirrors: Trainer._load_rng_state. Differs: a run of one process is continued by several, and the other way round;
    the state of one GPU then goes to each process's own.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    if not torch.cuda.is_available() or "cuda" not in state:
        return
    cuda: Any = torch.cuda.random
    of_all = isinstance(state["cuda"], list)
    if of_all and distributed:
        cuda.set_rng_state_all(state["cuda"])
    else:
        cuda.set_rng_state(state["cuda"][0] if of_all else state["cuda"])


def rng_files(num_processes: int) -> list[str]:
    """The names of the files in a checkpoint, one of each process. Mirrors: Trainer._save_rng_state."""
    return [f"rng_state_{rank}.pth" for rank in range(num_processes)] if num_processes > 1 else ["rng_state.pth"]
