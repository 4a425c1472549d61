"""A prepared run of the base job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.models import tiny_bert
from harness.rows import pad
from harness.side_by_side import Job

from ftloop import (
    Run,
    TrainConfig,
    prepare,
)

ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}


def prepared(tmp_path: Path, model: Any = None, rows: int = 29, **arguments: Any) -> Run:
    job = Job(train_rows=rows)
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | arguments)
    train_rows, eval_rows = job.data()
    return prepare(config, model or tiny_bert(), train_rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)
