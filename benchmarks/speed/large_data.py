"""What a start, the planning of an epoch and an evaluation cost, from 50 thousand rows to 5 million.

    python benchmarks/speed/large_data.py   all; the first start of 5 million rows takes long
        --sizes 50000 500000 --parts start
        --cached                            without the first start where its cache is still there
        --quick                             few rows: to see that it works

The rows are pairs of short texts, made from a seed, parquet; the model is a tiny BERT, so that what is measured is
what the rows cost and not what the model does. Every figure is of a process of its own (large_data_run.py).

`start`: `ftloop train ... --max_steps 20`, as a user runs it, first with an empty cache and then, for each way of
batching, with all rows in it. What is cached does not depend on the batching: there is one first start for each size.
The pages of the files are in the system's memory by then: this is not the first start after a reboot.
`plan`: the functions that put rows in order, alone.
`evaluate`: `ftloop.evaluate`, with two classes and with a hundred.

Memory is what the process had at most, seen every 50 ms: `resident` holds the pages of mapped files too, which the
system takes back when it needs them; `anonymous` is what the process itself has allocated. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, ROOT, finish, machine, versions

PARTS = ("start", "plan", "evaluate")
BATCHING = ("random", "length_grouped", "token_budget")
CLASSES = (2, 100)
EVERY = 0.05  # seconds between two looks at a process's memory
MB = 1e6
# What the steps of a start are summed up to in the table.
GROUPS = {
    "read": ("reading",),
    "tokenize": ("tokenizing",),
    "check": ("token check",),
    "plan": ("lengths", "order", "preparing", "padding told"),
    "first update": ("first update",),
}


@dataclass(frozen=True)
class Sizes:
    """Amount of work of the benchmark: in full, or `--quick`."""

    train_rows: tuple[int, ...]
    validation_rows: int
    eval_rows: tuple[int, ...]
    updates: int
    rows_per_update: int
    eval_batch: int
    plan_repeats: int


FULL = Sizes((50_000, 500_000, 5_000_000), 1000, (50_000, 1_000_000), 20, 16, 256, 3)
QUICK = Sizes((200, 1000), 50, (100, 300), 4, 16, 32, 1)


@dataclass(frozen=True)
class Memory:
    """Bytes of a process at one moment."""

    at: float
    """By `time.monotonic()`, the same clock for all processes."""
    anonymous: int
    resident: int


def of_process(pid: int | str) -> Memory | None:
    """None when the process has ended."""
    at = time.monotonic()
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    kilobytes = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    if len(kilobytes) < 2:
        return None
    return Memory(at, int(kilobytes["RssAnon"]) * 1024, int(kilobytes["VmRSS"]) * 1024)


def anonymous() -> int:
    """Return the anonymous memory of this process."""
    seen = of_process("self")
    assert seen is not None
    return seen.anonymous


@dataclass
class Finished:
    """A process that has ended well."""

    result: dict[str, Any]
    began: float
    seconds: float
    peak_resident: int
    """Peak resident set as the system counts it, which misses nothing."""
    seen: list[Memory] = field(default_factory=list)

    def peak(self, began: float, ended: float) -> int:
        """Peak of the anonymous memory meanwhile; what it was just before, where there was no time to look."""
        within = [memory.anonymous for memory in self.seen if began <= memory.at <= ended]
        return max(within or [memory.anonymous for memory in self.seen if memory.at < began][-1:])


class Bench:
    def __init__(self, given: argparse.Namespace, sizes: Sizes, folder: Path) -> None:
        self.given, self.sizes, self.folder = given, sizes, folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, kind: str, environment: dict[str, str] | None = None, **job: Any) -> Finished:
        """A job of large_data_run.py."""
        asked, result = self.folder / "job.json", self.folder / "result.json"
        asked.write_text(json.dumps({"kind": kind, **job}))
        seen: list[Memory] = []

        def watch(pid: int) -> None:
            while (memory := of_process(pid)) is not None:
                seen.append(memory)
                time.sleep(EVERY)

        words = [sys.executable, "benchmarks/speed/large_data_run.py", str(asked), str(result)]
        began = time.monotonic()
        # A tiny model is faster on one thread, and its times are steadier.
        seconds, peak_mb, _ = finish(words, {"OMP_NUM_THREADS": "1"} | os.environ | (environment or {}), watch)
        return Finished(json.loads(result.read_text()), began, seconds, int(peak_mb * 2**20), seen)

    def file(self, name: str, rows: int, kind: str) -> str:
        return str(self.folder / f"{name}-{rows}-seed-{self.given.seed}.{kind}")

    def make(self) -> None:
        tokens = {*(self.sizes.train_rows if "plan" in self.given.parts else ())}
        tokens |= {*(self.sizes.eval_rows if "evaluate" in self.given.parts else ())}
        self.run(
            "make",
            folder=str(self.folder),
            train_rows=self.sizes.train_rows if "start" in self.given.parts else [],
            validation_rows=self.sizes.validation_rows,
            token_rows=sorted(tokens),
            seed=self.given.seed,
        )


def start(bench: Bench, rows: int, batching: str, is_first: bool) -> dict[str, Any]:
    sizes, output_dir, cache = bench.sizes, bench.folder / "out", bench.folder / f"cache-{rows}"
    shutil.rmtree(output_dir, ignore_errors=True)
    if is_first:
        shutil.rmtree(cache, ignore_errors=True)
    flags: dict[str, Any] = {
        "model_name_or_path": bench.folder / "model",
        "train_file": bench.file("train", rows, "parquet"),
        "validation_file": bench.file("validation", sizes.validation_rows, "parquet"),
        "output_dir": output_dir,
        "batching": batching,
        "per_device_train_batch_size": sizes.rows_per_update,
        "per_device_eval_batch_size": sizes.eval_batch,
        "max_steps": sizes.updates,
        "seed": bench.given.seed,
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    before = time.time()
    done = bench.run("train", {"HF_DATASETS_CACHE": str(cache)}, words=words)
    steps, (first, *_, last) = done.result["steps"], done.result["updates_at"]
    names = list(dict.fromkeys(step["name"] for step in steps))
    alone = {name: sum(s["alone"] for s in steps if s["name"] == name and s["ended"] <= first) for name in names}
    told: dict[str, Any] = {
        "rows": rows,
        "start": "first" if is_first else "cached",
        "batching": batching,
        "first_update_seconds": first - done.began,
        "seconds": {
            **{name: sum(alone.get(step, 0.0) for step in group) for name, group in GROUPS.items()},
            "rest": first - done.began - sum(seconds for name, seconds in alone.items() if name in _grouped()),
        },
        "seconds_of_steps": alone,
        "seconds_of_checkpoint": sum(s["ended"] - s["began"] for s in steps if s["name"] == "checkpoint"),
        "seconds_of_digest": sum(s["alone"] for s in steps if s["name"] == "digest"),
        "seconds_per_update": (last - first) / (len(done.result["updates_at"]) - 1),
        "whole_seconds": done.seconds,
        "peak_resident_bytes": done.peak_resident,
        "peak_anonymous_bytes": max(memory.anonymous for memory in done.seen),
        "anonymous_bytes_in_steps": {
            name: max(done.peak(s["began"], s["ended"]) for s in steps if s["name"] == name) for name in names
        },
        "anonymous_bytes_after_steps": {step["name"]: step["anonymous_after"] for step in steps},
        "cache_bytes": bytes_of(cache),
        "cache_bytes_written": bytes_of(cache, since=before),
        "checkpoint_bytes": bytes_of(output_dir / f"checkpoint-{sizes.updates}"),
    }
    shutil.rmtree(output_dir)
    return told


def _grouped() -> set[str]:
    return {step for group in GROUPS.values() for step in group}


def bytes_of(folder: Path, since: float = 0.0) -> int:
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(file.st_size for file in files if file.st_mtime >= since)


def plan(bench: Bench, rows: int) -> list[dict[str, Any]]:
    tokens, sizes = bench.file("tokens", rows, "arrow"), bench.sizes
    repeats = {"rows_per_update": sizes.rows_per_update, "repeats": sizes.plan_repeats}
    found = bench.run("plan", tokens=tokens, seed=bench.given.seed, **repeats).result
    return [
        {
            "rows": rows,
            "function": name,
            "seconds": statistics.median(each["seconds"] for each in runs),
            "seconds_of_each": [each["seconds"] for each in runs],
            "anonymous_bytes_at_most": max(each["grew_at_most"] for each in runs),
            "anonymous_bytes_kept": max(each["grew"] for each in runs),
            "result": runs[0]["result"],
        }
        for name, runs in found.items()
    ]


def evaluate(bench: Bench, rows: int, classes: int) -> dict[str, Any]:
    tokens = bench.file("tokens", rows, "arrow")
    done = bench.run("evaluate", tokens=tokens, classes=classes, batch=bench.sizes.eval_batch)
    found = done.result
    peak = done.peak(found["began"], found["ended"])
    return {
        "rows": rows,
        "classes": classes,
        "seconds": found["ended"] - found["began"],
        "anonymous_bytes_before": found["before"],
        "anonymous_bytes_grown_at_most": max(peak, found["after"]) - found["before"],
        "anonymous_bytes_kept": found["after"] - found["before"],
        "peak_resident_bytes": done.peak_resident,
        "metrics": found["metrics"],
    }


def measure(bench: Bench, report: Callable[[str, Iterable[dict[str, Any]]], None]) -> None:
    given, sizes = bench.given, bench.sizes
    if "start" in given.parts:
        for rows in sizes.train_rows:
            if not (given.cached and (bench.folder / f"cache-{rows}").is_dir()):
                report("start", [start(bench, rows, given.batching[0], is_first=True)])
            for batching in given.batching:
                report("start", [start(bench, rows, batching, is_first=False)])
    if "plan" in given.parts:
        for rows in sizes.train_rows:
            report("plan", plan(bench, rows))
    if "evaluate" in given.parts:
        for classes in CLASSES:
            for rows in sizes.eval_rows:
                report("evaluate", [evaluate(bench, rows, classes)])


def tables(result: dict[str, Any]) -> dict[str, list[list[str]]]:
    """By part: the head, then a line for each figure. Seconds and megabytes."""
    made = {}
    if "start" in result:
        head = ["rows", "start", "batching", "to 1st update, s", *(f"{name}, s" for name in [*GROUPS, "rest"])]
        head += ["resident, MB", "anonymous, MB", "cache, MB", "checkpoint, MB", "saving it, s"]
        made["start"] = [
            head,
            *(
                [
                    *(f"{row['rows']:,}", row["start"], row["batching"], f"{row['first_update_seconds']:.1f}"),
                    *(f"{seconds:.2f}" for seconds in row["seconds"].values()),
                    *(_mb(row[f"{kind}_bytes"]) for kind in ("peak_resident", "peak_anonymous", "cache")),
                    f"{row['checkpoint_bytes'] / MB:.1f}",
                    f"{row['seconds_of_checkpoint']:.2f}",
                ]
                for row in result["start"]
            ),
        ]
    if "plan" in result:
        made["plan"] = [
            ["function", "rows", "seconds", "min to max", "grows at most, MB", "kept, MB"],
            *(
                [
                    *(row["function"], f"{row['rows']:,}", f"{row['seconds']:.2f}"),
                    f"{min(row['seconds_of_each']):.2f} to {max(row['seconds_of_each']):.2f}",
                    *(_mb(row[f"anonymous_bytes_{kind}"]) for kind in ("at_most", "kept")),
                ]
                for row in sorted(result["plan"], key=lambda row: row["function"])
            ),
        ]
    if "evaluate" in result:
        made["evaluate"] = [
            ["classes", "rows", "seconds", "grows at most, MB", "kept, MB", "resident, MB"],
            *(
                [
                    *(f"{row['classes']}", f"{row['rows']:,}", f"{row['seconds']:.1f}"),
                    *(_mb(row[f"anonymous_bytes_{kind}"]) for kind in ("grown_at_most", "kept")),
                    _mb(row["peak_resident_bytes"]),
                ]
                for row in result["evaluate"]
            ),
        ]
    return made


def _mb(count: int) -> str:
    return f"{count / MB:,.0f}"


def show(result: dict[str, Any]) -> None:
    for part, lines in tables(result).items():
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(f"\n{part}")
        for line in lines:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    parser.add_argument("--sizes", nargs="+", type=int, help="rows of the training set (50000 500000 5000000)")
    parser.add_argument("--eval_rows", nargs="+", type=int, help="rows that are evaluated (50000 1000000)")
    parser.add_argument("--batching", nargs="+", choices=BATCHING, default=list(BATCHING))
    parser.add_argument("--cached", action="store_true", help="no first start where the cache of an earlier call is")
    parser.add_argument("--quick", action="store_true", help="few rows")
    parser.add_argument("--seed", type=int, default=1, help="of the rows and the runs")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "large_data", help="of rows and caches")
    parser.add_argument("--output", type=Path, default=RESULTS / "large_data.json")
    given = parser.parse_args()
    if of_process("self") is None:
        parser.error("needs Linux, whose /proc/PID/status tells a process's anonymous memory")
    usual = QUICK if given.quick else FULL
    train_rows, eval_rows = given.sizes or usual.train_rows, given.eval_rows or usual.eval_rows
    sizes = Sizes(**vars(usual) | {"train_rows": tuple(train_rows), "eval_rows": tuple(eval_rows)})
    bench = Bench(given, sizes, given.folder.resolve())
    words, places = sys.argv[1:], ("--folder", "--output")  # of this machine, which nobody else has
    shown = [word for i, word in enumerate(words) if not {word, *words[max(i - 1, 0) : i]} & {*places}]
    told = {**versions(), **machine(), "threads": os.environ.get("OMP_NUM_THREADS", "1"), "sizes": vars(sizes)}
    told |= {"seed": given.seed, "command": shlex.join(["python", "benchmarks/speed/large_data.py", *shown])}
    result: dict[str, Any] = {"conditions": told}
    print(json.dumps(told, indent=1), flush=True)
    bench.make()

    def report(part: str, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            result.setdefault(part, []).append(row)
            print(f"{time.strftime('%H:%M:%S')} {part} {json.dumps(row)}", flush=True)
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(result, indent=2) + "\n")

    measure(bench, report)
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
