"""Run in several processes, forked or by torchrun: every direction of a resume at every update, in several
processes. Process 0 writes what it found.

torchrun --nproc_per_node 2 tests/harness/workers/resume.py OUT.json FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path; forked, it finds all this done
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 3)]

import torch.distributed as dist
from harness.cross_resume import SIDES, TWO_PROCESSES, Case

# transformers before 5.23 asks torch to restore a random state onto a device `cpu:0`.
CANNOT = "don't know how to restore data location"


def main(words: list[str]) -> int:
    output, folder = words
    found = {
        f"{name}, {precision}": crossings(case, Path(folder) / name / precision, bf16=precision == "bf16")
        for name, case in TWO_PROCESSES.items()
        for precision in ("fp32", "bf16")
    }
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    return 0


def crossings(case: Case, root: Path, bf16: bool) -> dict[str, Any]:
    """`whole` by side, and `resumed` by update and direction; null where the installed Trainer cannot resume."""
    compat, default = {"bf16": bf16, "trainer_compat": True}, {"bf16": bf16}
    whole = {side: case.run(side, root / side, **compat) for side in SIDES}
    whole["default"] = case.run("ftloop", root / "default", **default)
    directions = {f"{a} -> {b}": (a, b, compat) for a in SIDES for b in SIDES}
    directions |= {f"{a} -> default": (a, "ftloop", default) for a in ("trainer", "default")}
    resumed: dict[int, dict[str, Any]] = {step: {} for step in case.saved_at}
    for step in case.saved_at:
        for direction, (saved_by, resumed_by, arguments) in directions.items():
            checkpoint, target = root / saved_by / f"checkpoint-{step}", root / f"{step} {direction}"
            try:
                trace = case.run(resumed_by, target, resume=str(checkpoint), **arguments)
            except RuntimeError as error:
                if resumed_by == "ftloop" or CANNOT not in str(error):
                    raise
                resumed[step][direction] = None
            else:
                resumed[step][direction] = dataclasses.asdict(trace)
    return {"whole": {side: dataclasses.asdict(trace) for side, trace in whole.items()}, "resumed": resumed}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
