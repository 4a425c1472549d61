"""Run by torchrun: Trainer and a hand-written loop with each fault named, all recorded into FOLDER.

torchrun --nproc_per_node 2 tests/worker_compare.py FOLDER FAULT [FAULT ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch.distributed as dist
from hand_loop import hand_loop
from side_by_side import Job
from test_compare import divided, record_ftloop, record_trainer

# 45 rows: with 2 processes of 4 rows 6 micro-batches, with accumulation 2 windows of 2; the last round is filled up.
JOB = Job(train_rows=45, eval_rows=16)


def main(folder: str, *faults: str) -> None:
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
                hand_loop(JOB, file, fault, accumulation=accumulation)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
