"""The guide's job by two versions of transformers' Trainer, recorded in an environment of each, and compared.

    python benchmarks/fidelity/compare_versions.py OLD NEW     the two environments' pythons

`make compare-versions OLD=4.57.6 NEW=5.23.0` builds the environments and calls this. The job is the guide's, by
`trainer_script.py`, on the first rows of the built-in pairs, with accumulation 1 and 4; and with accumulation 4 once
more where the new side's model has `accepts_loss_kwargs = False`. Nothing of ftloop but its recorder is loaded in
either environment. The recordings are left in the folder `--output`. Exit code 1 when two of them could not be
compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.common import finish
from benchmarks.speed.throughput_rows import GUIDE
from ftloop.compare.__main__ import main as compare
from ftloop.data.demo import demo_rows
from ftloop.system.hub import PACKAGED_MODEL, local_model_folder

ROWS = {"train": 72, "validation": 24, "test": 8}  # 5 micro-batches, the last of 8 rows
EVERY_UPDATE = GUIDE | {"num_train_epochs": 3, "logging_steps": 1, "seed": 42}
DIVIDED = {"accepts_loss_kwargs": "false"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="python of the one environment")
    parser.add_argument("new", help="python of the other")
    parser.add_argument("--model", default=PACKAGED_MODEL, help="a model's folder")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "compare-versions")
    given = parser.parse_args(argv)
    model = local_model_folder(given.model)
    if model is None:
        parser.error(f"--model: {given.model} is no folder")
    folder = given.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    flags: dict[str, Any] = {"model_name_or_path": model.resolve()} | EVERY_UPDATE
    for split, count in ROWS.items():
        file = flags[f"{split}_file"] = folder / f"{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in demo_rows(split)[:count]), encoding="utf-8")
    codes = []
    for accumulation in (1, 4):
        flags["gradient_accumulation_steps"] = accumulation
        old = recorded(given.old, folder / f"old-{accumulation}.jsonl", flags)
        new = recorded(given.new, folder / f"new-{accumulation}.jsonl", flags)
        codes.append(told(f"accumulation {accumulation}", old, new))
    divided = recorded(given.new, folder / "new-4-divided.jsonl", flags | DIVIDED)
    codes.append(told("accumulation 4, and B's model has accepts_loss_kwargs = False", old, divided))
    return int(max(codes) > 1)


def recorded(python: str, file: Path, flags: dict[str, Any]) -> Path:
    """Run the script in an environment, which need not have ftloop. Returns: its recording."""
    flags = flags | {"record": file, "output_dir": file.with_suffix("")}
    shutil.rmtree(file.with_suffix(""), ignore_errors=True)  # an earlier run there would be gone on with
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    seconds, *_ = finish([os.path.abspath(python), "benchmarks/fidelity/trainer_script.py", *words], environment)
    print(f"Recorded {os.path.relpath(file)} in {seconds:.0f} s", flush=True)
    return file


def told(job: str, old: Path, new: Path) -> int:
    print(f"\n=== {job}\n")
    code = compare([os.path.relpath(old), os.path.relpath(new)])
    print(flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
