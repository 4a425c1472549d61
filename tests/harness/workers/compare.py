"""Run in several processes, forked or by torchrun: Trainer and a hand-written loop with each fault named, all
recorded into FOLDER.

torchrun --nproc_per_node 2 tests/harness/workers/compare.py FOLDER FAULT [FAULT ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":  # started by its path; forked, it finds all this done
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 3)]

import torch.distributed as dist
from harness.handwritten_loop import handwritten_loop
from harness.recordings import divided, record_ftloop, record_trainer
from harness.side_by_side import Job

# 45 rows: with 2 processes of 4 rows 6 micro-batches, with accumulation 2 windows of 2; the last round is filled up.
JOB = Job(train_rows=45, eval_rows=16)


def main(words: list[str]) -> int:
    folder, *faults = words
    for accumulation in (1, 2):
        record_trainer(JOB, Path(folder) / f"trainer-{accumulation}.jsonl", gradient_accumulation_steps=accumulation)
    for fault in faults:
        for accumulation in (1, 2):
            file = Path(folder) / f"{fault.replace(' ', '-') or 'none'}-{accumulation}.jsonl"
            if fault == "ftloop":
                arguments = {"gradient_accumulation_steps": accumulation}
                record_ftloop(JOB, file, **arguments)
                divided_job = Job(divided, JOB.train_rows, JOB.eval_rows)
                record_trainer(divided_job, Path(folder) / f"divided-{accumulation}.jsonl", **arguments)
            else:
                handwritten_loop(JOB, file, fault, accumulation=accumulation)
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
