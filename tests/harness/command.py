"""Run the command, a benchmark or a worker in processes of its own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.fork_server import ForkServer

CHECKOUT = Path(__file__).resolve().parents[2]
TRAIN_PY = str(CHECKOUT / "ftloop" / "train.py")
WORKERS = Path(__file__).resolve().parent / "workers"
BIN = Path(sys.executable).parent
TOO_LONG = 1200
"""Seconds that a worker may take."""


def arguments(tiny_folder: Path, output_dir: Path) -> list[str]:
    """Words of the command: the guide's job with a tiny model."""
    words = ["guide", "--task_name", "mrpc", "--model_name_or_path", str(tiny_folder / "model")]
    words += [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    return [*words, "--output_dir", str(output_dir)]


def run(
    *command: str, cwd: Path | None = None, expect: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "PYTHONPATH"))}
    done = subprocess.run(
        command,
        cwd=cwd or CHECKOUT,
        capture_output=True,
        text=True,
        timeout=240,
        env=clean | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
    )
    if expect is not None:
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def python(*words: str, expect: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, TRAIN_PY, *words, expect=expect, **environment)


def weights(output_dir: Path) -> bytes:
    return (output_dir / "model.safetensors").read_bytes()


def launch(
    processes: int,
    tmp_path: Path,
    *cases: str,
    worker: Path = WORKERS / "parity.py",
    folder: Path | None = None,
    torchrun: bool = False,
) -> dict[str, Any]:
    """Run cases of a worker, in a folder of their own unless one is given. Returns: what its process 0 found.

    The processes are forked from one that has imported everything, or started by torchrun.
    """
    output = tmp_path / f"found-{processes}.json"
    words = [str(output), str(folder or tmp_path / str(processes)), *cases]
    if torchrun:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        _run_to_its_end(*command, str(worker), *words)
    else:
        fork(processes, tmp_path, worker, words)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def run_cases(worker: Path, folder: Path, cases: dict[str, Any]) -> dict[str, Any]:
    """Run all cases in one process of a worker. Returns: what it found, by case."""
    found, given = folder / "found.json", folder / "cases.json"
    given.write_text(json.dumps(cases))
    _run_to_its_end(sys.executable, str(worker), str(found), str(folder / "runs"), str(given))
    return dict(json.loads(found.read_text()))


def fork(processes: int, folder: Path, worker: Path, words: list[str]) -> None:
    """Run a worker to its end in processes forked from one that has imported everything."""
    name = f"{worker.stem}-{processes}"
    job = {"command": f"harness.workers.{worker.stem}:main", "argv": words, "processes": processes}
    statuses = _fork_server().ask(job | {"folder": str(folder), "name": name, "seconds": TOO_LONG})["statuses"]
    if any(statuses):
        said = [(folder / f"{name}.{rank}.err").read_text(errors="replace") for rank in range(processes)]
        raise AssertionError(f"the processes ended with {statuses}:\n" + "\n".join(each[-6000:] for each in said))


@functools.cache
def _fork_server() -> ForkServer:
    """One for all tests of this process."""
    server = ForkServer.start()
    atexit.register(server.end)
    return server


def benchmark(script: str, output: Path, *words: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, f"benchmarks/{script}.py", "--quick", "--output", str(output), *words]
    printed = _run_to_its_end(*command, HF_HUB_OFFLINE="1")
    told: dict[str, Any] = json.loads(output.read_text())
    return told, printed


def _run_to_its_end(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=TOO_LONG,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


class Started:
    """The command in a process of its own, with its lines as they come."""

    def __init__(self, argv: list[str]) -> None:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, TRAIN_PY, *argv], stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.said = ""

    def until(self, beginning: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith(beginning):
                return
        raise AssertionError(self.said)

    def child(self) -> int:
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def end(self) -> int:
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        return self.process.wait(60)
