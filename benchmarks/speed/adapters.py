"""What training a LoRA adapter costs against training the whole model: time, memory, and what a checkpoint holds.

    python benchmarks/speed/adapters.py                  bert-base's shape, 3 runs of each; a quarter of an hour
    python benchmarks/speed/adapters.py --quick          a tiny shape: to see that it works

Each run is a process of its own with one thread: the same random weights, rows that are all equally long, a few updates
and one checkpoint. Sides take turns. Time is that which the process was given by its processors, of each update but the
first, from the end of one to the end of the next; memory is the peak of its resident set, libraries included. Reported
are medians with minimum and maximum, and ratios of medians to the whole model's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, ROOT, conditions, instructions, machine, peak_bytes

SIDES = ("whole", "lora")
ROWS, TOKENS = 8, 64
RANK = 8


def one(side: str, updates: int, shape: dict[str, int]) -> dict[str, Any]:
    """Train one side. Returns: processor seconds of each update but the first, peak bytes, bytes of the checkpoint."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification, default_data_collator, set_seed

    from ftloop import TrainConfig, prepare, save_checkpoint
    from ftloop.loop import updates as update_by_update
    from ftloop.system.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    set_seed(42)
    model: Any = BertForSequenceClassification(BertConfig(**shape))
    if side == "lora":
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=RANK))
    ids = torch.randint(5, 500, (ROWS * updates, TOKENS)).tolist()
    rows = Dataset.from_list([{"input_ids": row, "label": row[0] % 2} for row in ids])
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            output_dir=folder, per_device_train_batch_size=ROWS, num_train_epochs=1, use_cpu=True, disable_tqdm=True
        )
        run = prepare(config, model, rows, data_collator=default_data_collator)
        ends = [time.process_time() for _ in update_by_update(run)]
        saved = save_checkpoint(run)
        return {
            "seconds": [after - before for before, after in itertools.pairwise(ends)],
            "peak_megabytes": peak_bytes(run) / 2**20,
            "checkpoint_megabytes": sum(path.stat().st_size for path in saved.iterdir()) / 2**20,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "adapters.json")
    given = parser.parse_args()
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2} if given.quick else {}
    if given.one:
        print(json.dumps(one(given.one, given.updates, shape)))
        return 0
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(given.repeats):
        for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
            words = [sys.executable, __file__, "--one", side, "--updates", str(given.updates)]
            words += ["--quick"] if given.quick else []
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
    table: dict[str, Any] = {}
    for side in SIDES:
        every = {
            "seconds_per_update": [second for run in runs[side] for second in run["seconds"]],
            "peak_megabytes": [run["peak_megabytes"] for run in runs[side]],
            "checkpoint_megabytes": [run["checkpoint_megabytes"] for run in runs[side]],
        }
        table[side] = {
            name: {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}
            for name, values in every.items()
        }
        for name, row in table[side].items():
            row["ratio"] = row["median"] / table["whole"][name]["median"]
            told = f"{row['median']:9.3f} ({row['min']:.3f} to {row['max']:.3f}, n={row['n']})"
            print(f"{side:<6} {name:<22} {told}  ratio {row['ratio']:.3f}")
    told = {"machine": machine(), "instructions": instructions(), "rows": ROWS, "tokens": TOKENS, "rank": RANK}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(
        json.dumps({"conditions": conditions() | told | {"shape": shape}, **table}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
