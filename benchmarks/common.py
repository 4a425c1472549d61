"""What several benchmarks share: places, versions, the machine, a process run to its end.

torch is imported where it is asked for and not at the top: a process begins with the peak memory of the one that
started it, so a benchmark that measures the memory of others stays small itself.
"""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FTLOOP = [sys.executable, "ftloop/train.py"]
TRAINER = [sys.executable, "benchmarks/fidelity/trainer_script.py"]
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
"""Variables by which torch and oneDNN leave newer instructions unused: `avx2` and `AVX2` stand in for an older
processor."""


def finish(
    words: list[str], environment: dict[str, str], watch: Callable[[int], None] | None = None
) -> tuple[float, float, float]:
    """Seconds, peak resident megabytes and seconds of CPU of a process that must end well.

    `watch`: given its id, in a thread; to return when the process has ended.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
        watching = threading.Thread(target=watch, args=(process.pid,)) if watch else None
        if watching:
            watching.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if watching:
            watching.join()
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{shlex.join(words)}\nfailed:\n{said.read()[-3000:]}")
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return seconds, kilobytes / 1024, used.ru_utime + used.ru_stime


def has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a run's figures depend on."""
    packages = ("torch", "transformers", "accelerate", "datasets", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def machine() -> dict[str, Any]:
    """Name the processor and count the cores this process may use."""
    model = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def device() -> dict[str, Any]:
    """Name the device, the number of threads that torch uses on it, and the processor's instructions."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if has_gpu() else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "instructions": instructions(),
    }


def instructions() -> str:
    """Name the vector instructions that torch uses, the processor's bf16 units, or what holds libraries back."""
    import torch

    used = torch.backends.cpu.get_cpu_capability()
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    flags = next((line.split() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags")), [])
    units = [unit for unit in ("avx512_bf16", "amx_bf16") if unit in flags]
    if limits:
        return f"{used}, held there by {', '.join(limits)}"
    return f"{used} with {', '.join(units)}" if units else f"{used}, no bf16 units"


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""


def conditions() -> dict[str, Any]:
    """What a result was measured with: versions, threads, device, and the command."""
    import torch

    script = Path(sys.argv[0]).resolve()
    name = str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "accelerate")},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "command": shlex.join(["python", name, *sys.argv[1:]]),
    }


def peak_bytes(run: Any) -> int:
    """The largest memory of this process so far: on the device of `run` if that is a GPU, else its resident set."""
    import torch

    if run.accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # where ru_maxrss is handed on: a program begins with the peak of the one that started it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
