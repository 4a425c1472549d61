"""One process under torchrun, by NCCL on a GPU: python benchmarks/gpu_check/launched.py JOB.json FOUND.json

The command on a tiny folder, by itself and by torchrun, to the same loss (DDP lays gradients out otherwise, which is a
rounding); then by torchrun once more, stopped by a SIGTERM and resumed, to the same weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / part) for part in ("", "tests")]

from harness.models import write_tiny_folder

from benchmarks.common import ROOT, has_gpu
from ftloop.errors import ExitCode

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_tiny_folder(root)
        words = ["ftloop/train.py", "--model_name_or_path", f"{root}/model", "--train_file", f"{root}/train.jsonl"]
        words += ["--max_steps", "40", "--per_device_train_batch_size", "4", "--logging_steps", "1"]
        words += ["--full_determinism", "--resume_from_checkpoint", "last"]
        found: dict[str, Any] = {"alone": run([*words, "--output_dir", f"{root}/alone"])}
        found["launched"] = run([*TORCHRUN, *words, "--output_dir", f"{root}/launched"])
        stopped = [*TORCHRUN, *words, "--output_dir", f"{root}/stopped"]
        found["stopped"] = run(stopped, stop=True)
        found["saved"] = sorted(path.name for path in (root / "stopped").glob("checkpoint-*"))
        found["resumed"] = run(stopped)
        found["weights"] = {name: digest(root / name) for name in ("launched", "stopped")}
        found["losses"] = {name: last_loss(root / name) for name in ("alone", "launched")}
    Path(sys.argv[2]).write_text(json.dumps(found, indent=1))
    problems = [name for name in ("alone", "launched", "resumed") if found[name] != ExitCode.DONE]
    problems += [] if found["stopped"] in (1, ExitCode.STOPPED) and found["saved"] else ["stopped"]
    problems += [] if len(set(found["weights"].values())) == 1 else ["weights"]
    alone, launched = found["losses"].values()
    problems += [] if abs(alone - launched) <= 1e-4 * abs(alone) else ["losses"]
    verdict = f"NOT as expected: {', '.join(problems)}" if problems else "resumed to the same weights"
    print(f"stopped with {', '.join(found['saved']) or 'nothing saved'}; {verdict}")
    return int(bool(problems))


def run(words: list[str], stop: bool = False) -> int:
    """Return the exit code; with `stop`, a SIGTERM comes after the third update."""
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    environment |= {} if has_gpu() else {"ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="")
        if stop and line.startswith("Update 3/"):
            process.send_signal(signal.SIGTERM)
    return process.wait()


def last_loss(folder: Path) -> float:
    """The mean of the whole training; NaN where it did not come to its end."""
    results = folder / "train_results.json"
    return float(json.loads(results.read_text())["train_loss"]) if results.is_file() else float("nan")


def digest(folder: Path) -> str:
    weights = folder / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else f"none in {folder.name}"


if __name__ == "__main__":
    sys.exit(main())
