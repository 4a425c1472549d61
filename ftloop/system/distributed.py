"""Several processes: which of them goes first, and what all take from the main one."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ftloop.errors import LostContact, UserError, is_lost_contact, summarize

QUIET_SECONDS = 10.0  # a wait that is over by then is not worth a line
# What is waited for may take hours. A process that has died ends the wait by its connection; only a machine that is
# gone without a packet ends it by the clock.
LONGEST_WAIT = timedelta(days=1)
# At its end a process lets gloo's threads have Python's lock for so long: what they wait to do takes microseconds.
LAST_SECONDS = 0.1
TURNS = ("the main process", "the first process of each other machine", "the other processes")

T = TypeVar("T")


@contextmanager
def gloo_told() -> Iterator[None]:
    """Say, where gloo cannot connect the processes, what chooses the network that it takes: for NCCL it is another
    variable. Raises: UserError where there is no such network, LostContact where a process does not answer on it.
    """
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error).lower():
            raise
        kind = LostContact if is_lost_contact(error) else UserError
        now = os.environ.get("GLOO_SOCKET_IFNAME")
        raise kind(
            f"the processes cannot meet by gloo, which joins their CPUs ({summarize(error)[:200]}): set "
            f"GLOO_SOCKET_IFNAME{f', now {now},' if now else ''} to the network interface that all machines are on, as "
            "`ip -brief address` names it (NCCL has NCCL_SOCKET_IFNAME)"
        ) from error


def let_gloo_end(accelerator: Accelerator) -> None:
    """Have Python's exit wait for a moment in a process of several.

    After the last exchange a thread of gloo still frees the tensors of it, for which it needs Python's lock. Were it
    given none before the interpreter is torn down, it would abort the process ("terminate called without an active
    exception"), and the launcher would end the others.
    """
    if accelerator.num_processes > 1:
        atexit.unregister(_leave_lock)  # once, however many runs there were
        atexit.register(_leave_lock)


def _leave_lock() -> None:
    time.sleep(LAST_SECONDS)


@gloo_told()
def new_cpu_group(accelerator: Accelerator, timeout: timedelta = LONGEST_WAIT) -> Any:
    """Return a gloo group of all processes for messages between their CPUs, by default to wait for each other as long
    as it takes; None for one process. Every process calls it."""
    return dist.new_group(backend="gloo", timeout=timeout) if accelerator.num_processes > 1 else None


def destroy_group(group: Any) -> None:
    """Close the connections of a group that is needed no more: a process has one to each other."""
    if group is not None:
        dist.destroy_process_group(group)


@contextmanager
def main_process_first(accelerator: Accelerator, group: Any, what: str) -> Iterator[None]:
    """Do `what` in the main process first, then in the first of each other machine, which may have a cache of its own,
    then in the rest, which read what has been cached. If one fails, those after it do not start.

    Not by Accelerate's function of this name: its processes wait for at most ddp_timeout, do not say what for, and do
    not learn of a failure.
    Raises: LostContact in the others when one has failed.
    """
    if group is None:
        yield
        return
    mine = 0 if accelerator.is_main_process else 1 if accelerator.is_local_main_process else 2
    error: Exception | None = None
    for turn, who in enumerate(TURNS):
        if turn == mine:
            try:
                yield
            except Exception as failure:
                error = failure
        try:
            has_failed = _wait(accelerator, group, f"{who}: {what}", error is not None)
        except Exception:
            if error is None:
                raise
        if error is not None:
            raise error  # also where the others are gone
        if has_failed:
            raise LostContact(f"{who} failed ({what})")


def _wait(accelerator: Accelerator, group: Any, awaited: str, has_failed: bool) -> bool:
    """Wait for all processes; say what for, once, if it takes long. Returns: whether one `has_failed`."""
    flag = torch.tensor(int(has_failed))
    line = f"Waiting   process {accelerator.process_index} waits for {awaited}"  # not only the main process says it
    timer = threading.Timer(QUIET_SECONDS, print, (line,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    if accelerator.local_process_index <= 1:  # a line from two processes of a machine, one of which is waiting always
        timer.start()
    try:
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=group)
    finally:
        timer.cancel()
    return bool(flag)


def broadcast_from_main(accelerator: Accelerator, value: T) -> T:
    """Return the main process's value in every process: what they decide by must not differ in a digit, a clock, or a
    folder seen too late. Every process calls it."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]  # type: ignore[no-any-return]


def check_same_on_all_ranks(facts: dict[str, Any]) -> None:
    """Compare by name what each process is about to do with the main process. Every process calls it.

    Raises: UserError in all of them, naming the first that differs, and in what: each would train on, or wait for ever.
    """
    first, *others = gather_object([facts])
    for process, other in enumerate(others, start=1):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            differences = ", ".join(f"{name} ({first.get(name)}; there {other.get(name)})" for name in names)
            raise UserError(f"process {process} has a different configuration from the main process: {differences}")
