"""A process that has imported everything and computed nothing, and forks the processes of one run after the other.

So a run costs its own second and not the seconds of the imports. `ForkServer` starts this file as a process; it takes
a run a line as JSON from stdin and answers with a line on stdout when all processes of the run have ended. With
kill_shim.c loaded before libc (kill_harness.py), the runs can be killed and lied to.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
WHEN = ("before", "middle", "after")
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for the others, once one process of several is dead; torchrun gives 30."""
TOO_LONG = 120.0
"""Seconds that a run may take, unless it asks for more."""
IMPORTED = [
    "sklearn.metrics",
    "tensorboard",
    "transformers.models.bert.modeling_bert",
    "transformers.models.auto.tokenization_auto",
    "transformers.trainer",
    "datasets.packaged_modules.json.json",
    "torch._dynamo",
    "scipy.stats",
]
"""And every module of ftloop."""


@dataclass
class ForkServer:
    """This file, running as a process; its answers come in the order of the questions."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, **environment: str) -> ForkServer:
        """Start it, and do not wait until it has imported everything."""
        path = os.pathsep.join(str(ROOT / place) for place in (".", "tests", "benchmarks/fidelity"))
        common = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, __file__]
        return cls(subprocess.Popen(command, text=True, env=os.environ | common | environment, **pipes))

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run the job. Returns: what `run` below does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the fork server has ended with {self.process.wait()}")
        return dict(json.loads(answer))

    def end(self) -> None:
        self.process.communicate()  # closes its stdin, at which it ends


def main() -> None:
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"]) if "LD_PRELOAD" in os.environ else None
    ours = [module.name for module in pkgutil.walk_packages([str(ROOT / "ftloop")], "ftloop.")]
    for name in [*IMPORTED, *(name for name in ours if not name.endswith("__main__"))]:
        importlib.import_module(name)
    gc.freeze()  # or a child's first collection copies the memory that it shares
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), shim)), file=answers, flush=True)


def run(job: dict[str, Any], shim: ctypes.CDLL | None) -> dict[str, Any]:
    """Fork the processes of one run and see them end. Returns: `statuses`, as `waitpid` gives them, and `seconds`.

    `job`: `command` is `module:function`, called with `argv` in `folder`; what process N of `processes` says goes to
    `NAME.N.out` and `NAME.N.err` there.
    """
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
        if (first_death is not None and now > first_death + GRACE) or now > started + job.get("seconds", TOO_LONG):
            send(signal.SIGKILL, children)
        time.sleep(0.002)
    seconds = time.monotonic() - started
    return {"statuses": [statuses[rank] for rank in range(job["processes"])], "seconds": seconds}


def send(number: int, pids: Any) -> None:
    for pid in pids:
        os.kill(pid, number)


def child(job: dict[str, Any], rank: int, port: int, shim: ctypes.CDLL | None) -> NoReturn:
    """Run the command as `python -m` would; with a shim seen by it and, if it is to be, killed or lied to."""
    code = 1
    try:
        os.chdir(job["folder"])
        for descriptor, suffix in ((1, "out"), (2, "err")):
            file = os.open(f"{job['name']}.{rank}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
        if job["processes"] > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["processes"])}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        if "cache" in job:
            import datasets

            datasets.config.HF_DATASETS_CACHE = Path(job["cache"])
        module, _, function = job["command"].partition(":")
        command = getattr(importlib.import_module(module), function)
        if shim is not None:
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
