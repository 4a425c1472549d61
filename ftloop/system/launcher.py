"""What the launcher of several processes says in the environment of each: torchrun, accelerate launch, srun."""

from __future__ import annotations

import os


def launched_rank() -> int:
    """Return this process's number among all that were launched; 0 without a launcher."""
    return environment_number("RANK")


def launched_local_rank() -> int:
    """Return this process's number among those of its machine."""
    return environment_number("LOCAL_RANK")


def launched_processes() -> int:
    """Return how many processes were launched on all machines."""
    return environment_number("WORLD_SIZE", 1)


def is_main_process() -> bool:
    return launched_rank() == 0


def spans_machines() -> bool:
    """Whether other machines have processes of this run too."""
    return environment_number("LOCAL_WORLD_SIZE", launched_processes()) != launched_processes()


def environment_number(name: str, default: int = 0) -> int:
    """Return a variable's number. One that holds no number counts as not set: `check_launched` refuses it."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
