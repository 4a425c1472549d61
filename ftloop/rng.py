"""The state of the random number generators of a process, and how far they have moved: Python's, NumPy's, torch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_WORDS = 2**29  # that are made again to count how many were drawn: two seconds
BLOCK = 624  # words that the Mersenne Twister makes at a time


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


def words_drawn(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int | None]:
    """By how many numbers each generator has moved: of the CPU's in words of 32 bits, of a GPU's as its offset counts;
    of Python's and NumPy's, 1 where it has moved at all.
    """
    a, b = before["numpy"], after["numpy"]
    words: dict[str, int | None] = {
        "cpu": words_between(before["cpu"], after["cpu"]),
        "python": int(before["python"] != after["python"]),
        "numpy": int(a[2:] != b[2:] or not np.array_equal(a[1], b[1])),
    }
    if isinstance(before.get("cuda"), Tensor):
        words["cuda"] = _offset(after["cuda"]) - _offset(before["cuda"])
    return words


def words_between(before: Tensor, after: Tensor) -> int | None:
    """Numbers of 32 bits that torch's CPU generator has made between two of its states; None where the one does not
    follow from the other. It is a Mersenne Twister, as NumPy has one, which is moved on until it stands where torch's
    does. Where the state holds what is no promise of torch's; it only serves to narrate.
    """
    (key, position), (there, end) = _twister(before), _twister(after)
    if np.array_equal(key, there):
        return end - position if end >= position else None
    twister, goal = np.random.MT19937(), np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": BLOCK}}
    goal.state = {"bit_generator": "MT19937", "state": {"key": there, "pos": 0}}
    wanted = goal.random_raw(BLOCK)
    made = BLOCK - position
    blocks = 1
    while made < MOST_WORDS:
        several = twister.random_raw(BLOCK * blocks).reshape(blocks, BLOCK)
        for found in np.flatnonzero(several[:, 0] == wanted[0]):
            if np.array_equal(several[found], wanted):
                return made + int(found) * BLOCK + end
        made += blocks * BLOCK
        blocks = min(2 * blocks, 2048)
    return None


def _twister(state: Tensor) -> tuple[np.ndarray, int]:
    """The block of numbers that torch's generator is in, and how many of it have been given out."""
    held = state.numpy().tobytes()
    left = int.from_bytes(held[8:12], "little")
    return np.frombuffer(held, np.uint64, BLOCK, offset=24).astype(np.uint32), BLOCK + 1 - left


def _offset(state: Tensor) -> int:
    return int.from_bytes(state.numpy().tobytes()[8:16], "little")
