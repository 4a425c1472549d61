"""Whether as many processes run as were asked for, and whether what the launcher says lets them meet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env

from ftloop.errors import UserError
from ftloop.system.launcher import environment_number, launched_local_rank, launched_processes
from ftloop.system.text import pluralize

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TORCHRUN = "torchrun --nproc_per_node N ftloop/train.py ..."


def check_launched() -> None:
    """Raises: UserError when the environment speaks of several processes, and not of all that lets them meet."""
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    wrong = [f"{name}={given[name]}" for name in VARIABLES[:3] if not given.get(name, "0").isdecimal()]
    missing = [name for name in VARIABLES if name not in given]
    if wrong or (missing and ("LOCAL_RANK" in given or given.get("WORLD_SIZE", "1") != "1")):
        variables = ", ".join(f"{name}={value}" for name, value in given.items())
        problem = f"{', '.join(wrong)} is no number" if wrong else f"{', '.join(missing)} missing"
        raise UserError(
            f"the environment has {variables}, which a launcher sets, and {problem}: unset them for one process, or "
            "start several with torchrun (docs/guides/several-processes.md)"
        )


def check_gpus() -> None:
    """Raises: UserError when this machine has fewer GPUs than processes. Two that share one would fail in the first
    exchange ("Duplicate GPU detected"), and DDP asks each for the GPU of its own number.
    """
    devices, processes = (
        torch.cuda.device_count(),
        max(environment_number("LOCAL_WORLD_SIZE"), launched_local_rank() + 1),
    )
    # With this flag Accelerate hands DDP no device: for several processes on one GPU, which exchange by gloo.
    if launched_processes() == 1 or processes <= devices or parse_flag_from_env("ACCELERATE_BYPASS_DEVICE_MAP"):
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    raise UserError(
        f"{processes} processes were started on this machine, which has {pluralize(devices, 'GPU')} for them"
        f"{'' if visible is None else f' (CUDA_VISIBLE_DEVICES={visible})'}: each needs one of its own; start as many "
        f"as there are GPUs, with torchrun --nproc_per_node {devices} or accelerate launch --num_processes {devices}"
        ", or stay on the CPU with --use_cpu"
    )


def launch_problem(accelerator: Accelerator) -> str | None:
    """Explain why fewer processes run than were asked for, with the way out; None if nothing says that."""
    running = accelerator.num_processes
    if environment_number("WORLD_SIZE") > running:
        asked = f"WORLD_SIZE in the environment says {environment_number('WORLD_SIZE')}"
        return f"{running}, and {asked}: start them all with {TORCHRUN}"
    if running > 1:
        return None
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        if environment_number(name) > 1:
            return (
                f"one, and {name} says {environment_number(name)}: each of these is a run by itself; start one a "
                f"machine, and in it {TORCHRUN} (docs/guides/several-processes.md)"
            )
    # A task that srun starts knows the number of its step; outside of one, the job's tasks have not been started.
    if environment_number("SLURM_NTASKS") > 1 and not environment_number("SLURM_STEP_NUM_TASKS"):
        return (
            f"one, and the SLURM job has {environment_number('SLURM_NTASKS')} tasks: srun starts one a machine, and in "
            f"it {TORCHRUN} as many as there are GPUs (docs/guides/several-processes.md)"
        )
    # accelerate launch says nowhere how many it was asked for; it sets this address only for more than one.
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        return f"one: with --cpu, accelerate launch starts no more; ACCELERATE_USE_CPU=true {TORCHRUN} starts N"
    devices = torch.cuda.device_count() if accelerator.device.type == "cuda" else 1
    if devices > 1:
        return (
            f"one, and {devices} CUDA devices are there: torchrun --nproc_per_node {devices} ftloop/train.py ... uses "
            "all of them; CUDA_VISIBLE_DEVICES=0 says that one is meant"
        )
    return None


def launcher_flag(name: str) -> str | None:
    """Return the value of a flag that `accelerate launch` was given, also one that it hands to no script; None without
    it, and on systems that do not show the command of another process."""
    words: list[str] = []
    with suppress(OSError):
        text = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace")
        words = before_the_script(text.split("\0")[:-1], sys.orig_argv)
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            return value if equals else following
    return None


def before_the_script(words: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return the launcher's own words of the command that started a process; none where `accelerate` did not. `own`:
    the command of that process, which ends like the launcher's."""
    shared = 0
    while shared < min(len(words), len(own)) and words[-1 - shared] == own[-1 - shared]:
        shared += 1
    given = list(words[: len(words) - shared])
    names = [Path(word).name for word in given[:4]]
    is_accelerate = ("accelerate", "launch") in pairwise(names)
    return given if is_accelerate or {"accelerate-launch", "accelerate.commands.launch"} & {*names} else []
