"""Runs whose loader's workers are forked, as on Linux, and spawned, as on macOS and Windows; one resumed. Prints the
digests of their weights.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[number]) for number in (3, 2)]
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import weights_digest

from ftloop import TrainConfig, load_checkpoint, prepare, train


def masking(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = pad(examples)
    ids = [[4 if x > 4 and random.random() < 0.3 else x for x in row] for row in batch["input_ids"].tolist()]
    return batch | {"input_ids": torch.tensor(ids)}


def run(folder: Path, resume: Path | None = None) -> str:
    arguments: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
    arguments |= {"save_strategy": "steps", "save_steps": 2, "dataloader_num_workers": 1, "use_cpu": True}
    config = TrainConfig(output_dir=str(folder), disable_tqdm=True, **arguments)
    prepared = prepare(config, tiny_bert(), tiny_rows(20), data_collator=masking)
    if resume is not None:
        load_checkpoint(prepared, resume)
    train(prepared)
    return weights_digest(prepared.model)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    digests = {}
    for method in ("fork", "spawn"):
        multiprocessing.set_start_method(method, force=True)
        digests[method] = run(folder / method)
    digests["resumed"] = run(folder / "resumed", folder / "spawn" / "checkpoint-2")
    print(json.dumps(digests))
