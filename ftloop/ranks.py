"""Several processes: who does a thing first, what all of them take from the main one, and whether there are as many as
were asked for.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ftloop.errors import LostContact, UserError

QUIET_SECONDS = 10.0
"""A wait that is over by then is not worth a line."""
# What is waited for may take hours. A process that has died ends the wait by its connection; only a machine that is
# gone without a packet ends it by the clock.
LONGEST_WAIT = timedelta(days=1)

T = TypeVar("T")


def waiting_group(accelerator: Accelerator) -> Any:
    """The processes once more, over their CPUs, to wait for each other as long as it takes; None for one process.
    Every process calls it."""
    return dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if accelerator.num_processes > 1 else None


def leave(group: Any) -> None:
    """Close the connections of a group that is needed no more: a process has one to each other."""
    if group is not None:
        dist.destroy_process_group(group)


@contextmanager
def in_turns(accelerator: Accelerator, group: Any, what: str) -> Iterator[None]:
    """Do `what` in the main process first, then in the first of each other machine, which may have a cache of its own,
    then in the rest, which read what has been cached. Where one fails, none after it begins.

    Raises: LostContact in the others when one has failed.
    """
    if group is None:
        yield
        return
    mine = 0 if accelerator.is_main_process else 1 if accelerator.is_local_main_process else 2
    who = ("the main process", "the first process of each other machine", "the other processes")
    error: Exception | None = None
    for turn in range(3):
        if turn == mine:
            try:
                yield
            except Exception as failure:
                error = failure
        try:
            has_failed = _agree(accelerator, group, f"{who[turn]}: {what}", error is not None)
        except Exception:
            if error is None:
                raise
        if error is not None:
            raise error  # also where the others are gone
        if has_failed:
            raise LostContact(f"{who[turn]} failed ({what})")


def _agree(accelerator: Accelerator, group: Any, awaited: str, has_failed: bool) -> bool:
    """Wait for all processes; say what for, once, where it takes long. Returns: whether one `has_failed`."""
    flag = torch.tensor(int(has_failed))
    line = f"Waiting   process {accelerator.process_index} waits for {awaited}"
    timer = threading.Timer(QUIET_SECONDS, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    if accelerator.local_process_index <= 1:  # a line from two processes of a machine, one of which is waiting always
        timer.start()
    try:
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=group)
    finally:
        timer.cancel()
    return bool(flag)


def from_main(accelerator: Accelerator, value: T) -> T:
    """The main process's value, in every process: what they decide by must not differ in a digit, a clock, or a folder
    seen too late. Every process calls it."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]  # type: ignore[no-any-return]


def check_launched() -> None:
    """Raises: UserError when the environment speaks of several processes, and not of all that lets them meet."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    wrong = [f"{name}={given[name]}" for name in names[:3] if not given.get(name, "0").isdecimal()]
    missing = [name for name in names if name not in given]
    if wrong or (missing and ("LOCAL_RANK" in given or given.get("WORLD_SIZE", "1") != "1")):
        there = ", ".join(f"{name}={value}" for name, value in given.items())
        what = f"{', '.join(wrong)} is no number" if wrong else f"{', '.join(missing)} missing"
        raise UserError(
            f"the environment has {there}, which a launcher sets, and {what}: unset them for one process, or start "
            "several with torchrun (README.md, Several processes)"
        )


def check_alike(facts: dict[str, Any]) -> None:
    """Hold against the main process's what each is about to do, by name. Every process calls it.

    Raises: UserError in all of them, naming the first that differs, and in what: each would train on, or wait for ever.
    """
    first, *others = gather_object([facts])
    for process, other in enumerate(others, start=1):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            told = ", ".join(f"{name} ({first.get(name)}; there {other.get(name)})" for name in names)
            raise UserError(f"process {process} is about to do something else than the main process: {told}")


def too_few(accelerator: Accelerator) -> str | None:
    """What tells that more processes were asked for than there are, and the way out; None where nothing does."""
    there = accelerator.num_processes
    torchrun = "torchrun --nproc_per_node N ftloop/train.py ..."
    asked = _number("WORLD_SIZE")
    if asked > there:
        return f"{there}, and WORLD_SIZE in the environment says {asked}: start them all with {torchrun}"
    if there > 1:
        return None
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        if _number(name) > 1:
            return (
                f"one, and {name} says {_number(name)}: each of these is a run by itself; start one a machine, and in "
                f"it {torchrun} (README.md, Several processes)"
            )
    # A task that srun starts knows the number of its step; outside of one, the job's tasks have not been started.
    if _number("SLURM_NTASKS") > 1 and not _number("SLURM_STEP_NUM_TASKS"):
        return (
            f"one, and the SLURM job has {_number('SLURM_NTASKS')} tasks: srun starts one a machine, and in it "
            f"{torchrun} as many as there are GPUs (README.md, Several processes)"
        )
    # accelerate launch says nowhere how many it was asked for; it sets this address only for more than one.
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        return f"one: with --cpu, accelerate launch starts no more; ACCELERATE_USE_CPU=true {torchrun} starts N"
    devices = torch.cuda.device_count() if accelerator.device.type == "cuda" else 1
    if devices > 1:
        return (
            f"one, and {devices} CUDA devices are there: torchrun --nproc_per_node {devices} ftloop/train.py ... uses "
            "all of them; CUDA_VISIBLE_DEVICES=0 says that one is meant"
        )
    return None


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0
