"""Two processes on one device, which exchange by gloo (NCCL takes one GPU a process), against one process:
python benchmarks/gpu_check/two_processes.py JOB.json FOUND.json

The same rows an update, dropout off: losses to 1e-5 of one process's. Saved in the middle by two, resumed by two to the
same weights, and by one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / part) for part in ("", "tests")]

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import BASE, QUIET, weights_digest

from benchmarks.common import ROOT, has_gpu
from benchmarks.gpu_check.steps import on_device
from ftloop import Run, TrainConfig, evaluate, prepare, train
from ftloop.system.launcher import launched_processes

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def prepared(folder: str, precision: str, rows: int, **arguments: Any) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)
    by_gloo: list[Any] = [
        InitProcessGroupKwargs(backend="gloo"),
        DistributedDataParallelKwargs(find_unused_parameters=True),
    ]
    accelerator = Accelerator(
        cpu=not has_gpu(),
        mixed_precision="no" if precision == "fp32" else on_device(precision),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=by_gloo if launched_processes() > 1 else [],
    )
    given = QUIET | BASE | {"eval_strategy": "no", "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    given |= {"use_cpu": not has_gpu(), "per_device_train_batch_size": rows, "gradient_accumulation_steps": 3}
    given |= {} if precision == "fp32" else {on_device(precision): True}
    config = TrainConfig(output_dir=folder, **given | arguments)
    data = tiny_rows(48, seed=1), tiny_rows(13, seed=2)
    return prepare(config, tiny_bert(dropout=0.0), *data, data_collator=pad, accelerator=accelerator)


def worker(root: Path, precision: str, processes: int) -> dict[str, Any]:
    """What this process has found: losses, the evaluation, and the weights at the end, resumed or not."""
    folder = str(root / f"{precision}-{processes}")
    run = prepared(folder, precision, 4 // processes)
    train(run)
    found = {"losses": [entry["loss"] for entry in run.state.log_history if "loss" in entry]}
    found |= {"eval_loss": evaluate(run)["eval_loss"], "weights": weights_digest(run.model)}
    resumed = prepared(f"{folder}-resumed", precision, 4 // processes, resume_from_checkpoint=f"{folder}/checkpoint-3")
    train(resumed)
    found["resumed"] = weights_digest(resumed.model)
    if processes == 1:  # of two processes' run, in other micro-batches
        theirs = f"{root}/{precision}-2/checkpoint-3"
        by_one = prepared(f"{folder}-of-two", precision, 4, resume_from_checkpoint=theirs, resume_with_changes=True)
        train(by_one)
        found["by_one"] = [entry["loss"] for entry in by_one.state.log_history if "loss" in entry]
    return found


def main() -> int:
    if "RANK" in os.environ or sys.argv[1] == "--worker":
        root, processes = Path(sys.argv[2]), launched_processes()
        found = {precision: worker(root, precision, processes) for precision in ("fp32", "fp16")}
        (root / f"{processes}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))
        return 0
    problems = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for launcher in (TORCHRUN, []):
            words = [sys.executable, *launcher, __file__, "--worker", place]
            environment = os.environ | {"ACCELERATE_BYPASS_DEVICE_MAP": "true", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
            environment |= {} if has_gpu() else {"ACCELERATE_USE_CPU": "true"}
            if subprocess.run(words, cwd=ROOT, env=environment).returncode:
                problems.append(f"{2 if launcher else 1} process(es) did not end well")
        found = {path.stem: json.loads(path.read_text()) for path in sorted(root.glob("?-?.json"))}
    if not problems:
        problems = compared(found)
    Path(sys.argv[2]).write_text(json.dumps({"found": found, "problems": problems}, indent=1))
    print("; ".join(problems) if problems else "losses of two and one the same to 1e-5; resumed by two exactly, by one")
    return int(bool(problems))


def compared(found: dict[str, Any]) -> list[str]:
    problems = []
    for precision, tolerance in (("fp32", 1e-5), ("fp16", 1e-2)):
        one, two, other = (found[name][precision] for name in ("1-0", "2-0", "2-1"))
        if two["weights"] != other["weights"]:
            problems.append(f"{precision}: the two have other weights")
        for name, side in (("one", one), ("two", two)):
            if side["weights"] != side["resumed"]:
                problems.append(f"{precision}: {name} resumed to other weights")
        for name in ("losses", "eval_loss", "by_one"):
            a, b = (torch.tensor(one[name]), torch.tensor(two["losses" if name == "by_one" else name]))
            most = float(((a - b).abs() / b.abs()).max())
            if most > tolerance:
                problems.append(f"{precision}: {name} differ by {most:.1e}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
