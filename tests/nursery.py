"""A process that has imported everything and computed nothing, and forks a child for each run that is to be killed.

So a run costs its own second and not the seconds of the imports. Started by killing.py with shim.c loaded before libc;
takes a run a line as JSON from stdin and answers with a line on stdout when all its processes have ended.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

WHEN = ("before", "middle", "after")
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for the others, once one process of several is dead; torchrun gives 30."""
TOO_LONG = 120.0
IMPORTED = [
    "sklearn.metrics",
    "tensorboard",
    "transformers.models.bert.modeling_bert",
    "transformers.models.auto.tokenization_auto",
    "transformers.trainer",
    "datasets.packaged_modules.json.json",
    *(f"ftloop.{name}" for name in ("announce", "checkpoint", "data", "evaluation", "logs", "loop", "metrics")),
    *(f"ftloop.{name}" for name in ("model", "optim", "predict", "run", "train")),
]


def main() -> None:
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # or a child's first collection copies the memory that it shares
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), shim)), file=answers, flush=True)


def run(job: dict[str, Any], shim: ctypes.CDLL) -> dict[str, Any]:
    """Fork the processes of one run and see them end. Returns: `statuses`, as `waitpid` gives them, and `seconds`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    children: dict[int, int] = {}
    for rank in range(job["processes"]):
        pid = os.fork()
        if pid == 0:
            child(job, rank, port, shim)
        children[pid] = rank
    statuses: dict[int, int] = {}
    kill = job.get("kill") or {}
    kill_at = started + kill["seconds"] if "seconds" in kill else None
    first_death: float | None = None
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        now = time.monotonic()
        if pid:
            statuses[children.pop(pid)] = status
            if status != 0 and first_death is None:
                first_death = now
                send(signal.SIGTERM, children)
            continue
        if kill_at is not None and now >= kill_at:
            send(signal.SIGKILL, [pid for pid, rank in children.items() if rank == kill["rank"]])
            kill_at = None
        if (first_death is not None and now > first_death + GRACE) or now > started + TOO_LONG:
            send(signal.SIGKILL, children)
        time.sleep(0.002)
    seconds = time.monotonic() - started
    return {"statuses": [statuses[rank] for rank in range(job["processes"])], "seconds": seconds}


def send(number: int, pids: Any) -> None:
    for pid in pids:
        os.kill(pid, number)


def child(job: dict[str, Any], rank: int, port: int, shim: ctypes.CDLL) -> NoReturn:
    """Run the command as `python -m` would, seen by the shim and, if it is to be, killed or lied to by it."""
    code = 1
    try:
        os.chdir(job["folder"])
        for descriptor, suffix in ((1, "out"), (2, "err")):
            file = os.open(f"{job['name']}.{rank}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
        if job["processes"] > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["processes"])}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(job["cache"])
        module, _, function = job["command"].partition(":")
        command = getattr(importlib.import_module(module), function)
        arm(job, rank, shim)
        code = command(job["argv"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def arm(job: dict[str, Any], rank: int, shim: ctypes.CDLL) -> None:
    log = os.open(f"{job['name']}.{rank}.operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    kill, fault, clock = job.get("kill") or {}, job.get("fault"), job.get("clock")
    if "operation" in kill and kill["rank"] == rank:
        shim.shim_kill(ctypes.c_long(kill["operation"]), WHEN.index(kill["when"]))
    if fault is not None and fault["rank"] == rank:
        first, times = ctypes.c_long(fault["operation"]), ctypes.c_long(fault["times"])
        shim.shim_fail(first, ctypes.c_uint(fault["kinds"]), times, fault["error"], fault["path"].encode())
    if clock is not None:
        shim.shim_shift_clock(ctypes.c_long(clock["operation"]), ctypes.c_long(clock["seconds"]))
    shim.shim_watch(os.path.realpath(job["watched"]).encode(), log)


if __name__ == "__main__":
    main()
