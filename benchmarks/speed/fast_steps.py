"""What each part of the recipe `fast` gains: processor time of the same updates, one part more at a time.

    python benchmarks/speed/fast_steps.py            three to five minutes on one core
    python benchmarks/speed/fast_steps.py --quick    a few updates: to see that it works
    python benchmarks/speed/fast_steps.py --write    and the table of docs/walkthrough/padding.md

All kinds train side by side in one process with one thread: an update of each in turn, of the same 16 rows (of others
where rows are grouped by length), so that what the machine does besides falls on all. Time is that which the processor
gave to the process. An update is forward, backward, clipping and AdamW, as `updates()` makes it. The model is
all-MiniLM-L6-v2, the data GLUE MRPC where FTLOOP_MRPC_DIR names its folder, else the built-in sentence pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, ROOT, device, machine, versions

KINDS: dict[str, dict[str, Any]] = {"fp32: the guide's": {}}
"""Settings of each kind, by what it is called; every one has those of the one before it too."""
for _precision, _first in (("fp32", {}), ("bf16", {"bf16": True})):
    _so_far: dict[str, Any] = dict(_first)
    if _first:
        KINDS["bf16"] = dict(_so_far)
    for _name, _part in (
        ("`padding: none`", {"padding": "none"}),
        ("`fast_dropout`", {"fast_dropout": True}),
        ("`first_token_only`", {"first_token_only": True}),
    ):
        _so_far |= _part
        KINDS[f"{_precision}, and {_name}"] = dict(_so_far)
    KINDS[f"{_precision}, in place of `padding: none` rows grouped by length"] = _so_far | {
        "padding": "longest",
        "batching": "length_grouped",
    }
FIRST = next(iter(KINDS))
PAGE = ROOT / "docs" / "walkthrough" / "padding.md"
BEGIN, END = "<!-- written by benchmarks/speed/fast_steps.py -->", "<!-- end -->"
WARM_UP = 2


def updates_of(settings: dict[str, Any], rows: Any, tokenizer: Any, folder: Path) -> Iterator[Any]:
    from transformers import AutoModelForSequenceClassification

    from ftloop import TrainConfig, prepare, seed_everything, updates
    from ftloop.system.hub import PACKAGED_MODEL, local_model_folder

    config = TrainConfig(
        output_dir=str(folder), use_cpu=True, per_device_train_batch_size=16, disable_tqdm=True, **settings
    )
    seed_everything(config)
    model = AutoModelForSequenceClassification.from_pretrained(local_model_folder(PACKAGED_MODEL), num_labels=2)
    return updates(prepare(config, model, rows, processing_class=tokenizer))


def measure(count: int) -> dict[str, list[float]]:
    """Return processor seconds of `count` updates of each kind."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from transformers.utils import logging
    from transformers.utils.logging import disable_progress_bar

    from ftloop.data.demo import demo_rows
    from ftloop.system.hub import PACKAGED_MODEL, local_model_folder
    from ftloop.system.memory import keep_freed_memory

    logging.set_verbosity_error()  # each model has a new head, which is said at length
    disable_progress_bar()
    torch.set_num_threads(1)
    keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(local_model_folder(PACKAGED_MODEL))
    folder = os.environ.get("FTLOOP_MRPC_DIR")
    text = (Path(folder) / "train.jsonl").read_text("utf-8") if folder else ""
    given = [json.loads(line) for line in text.splitlines()] if folder else demo_rows("train")
    rows = [
        {**tokenizer(row["sentence1"], row["sentence2"], truncation=True), "label": int(row["label"])} for row in given
    ]
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as out:
        data = Dataset.from_list(rows)
        runs = {name: updates_of(settings, data, tokenizer, Path(out)) for name, settings in KINDS.items()}
        for number in range(WARM_UP + count):
            for name, run in runs.items():
                started = time.process_time()
                next(run)
                if number >= WARM_UP:
                    seconds[name].append(time.process_time() - started)
    return seconds


def summarized(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Milliseconds, and the ratio of medians to the first kind's; its least and most over single updates."""
    told = {}
    for name, values in seconds.items():
        ratios = [value / first for value, first in zip(values, seconds[FIRST], strict=True)]
        told[name] = {
            "median_ms": 1000 * statistics.median(values),
            "mean_ms": 1000 * statistics.mean(values),
            "ratio": statistics.median(values) / statistics.median(seconds[FIRST]),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "n": len(values),
        }
    return told


def table(result: dict[str, Any]) -> list[str]:
    found, on = result["kinds"], result["conditions"]
    lines = [
        f"Milliseconds of processor time of an update of 16 rows of {on['data']}, one thread, n = {found[FIRST]['n']}; "
        f"{on['cpu']}, {on['instructions']}; torch {on['torch']}.",
        "",
        "| | median | to the first (min to max of single updates) |",
        "|---|---|---|",
    ]
    for name, row in found.items():
        spread = "1" if name == FIRST else f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        lines.append(f"| {name} | {row['median_ms']:.0f} | {spread} |")
    return lines


def written(page: str, lines: list[str]) -> str:
    """Return the page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return "\n".join([f"{before}{BEGIN}", *lines, END]) + rest.partition(END)[2]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, help="of each kind (24; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="a few updates")
    parser.add_argument("--write", action="store_true", help="write the table into the walkthrough")
    parser.add_argument("--output", type=Path, default=RESULTS / "fast_steps.json")
    given = parser.parse_args(argv)
    seconds = measure(given.updates or (2 if given.quick else 24))
    on = versions() | machine() | device() | {"threads": 1}
    on |= {"data": "MRPC" if os.environ.get("FTLOOP_MRPC_DIR") else "built-in pairs"}
    result = {"conditions": on, "kinds": summarized(seconds), "seconds": seconds}
    given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(result)))
    if given.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), table(result)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
