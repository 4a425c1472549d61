"""The runs of throughput.py: each a process of its own, kept as a line of JSON as soon as it has ended."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import FTLOOP, ROOT, TRAINER, finish, has_gpu, versions
from benchmarks.speed.throughput_rows import GUIDE, PLAIN, WHOLE, Sizes
from ftloop.data.demo import demo_rows
from ftloop.system.hub import PACKAGED_MODEL, local_model_folder
from ftloop.system.manifest import RUN_FACTS

SPLITS = ("train", "validation", "test")


class Bench:
    """The folder in which runs take place, and the runs that are finished."""

    def __init__(self, sizes: Sizes, folder: Path, kept: Path, go_on: bool, busy: bool = False) -> None:
        self.sizes, self.folder, self.kept, self.busy = sizes, folder, kept, busy
        self.mrpc = os.environ.get("FTLOOP_MRPC_DIR")
        self.cached: set[tuple[bool, bool]] = set()
        """Sides, and whether of all rows, whose tokens are cached."""
        folder.mkdir(parents=True, exist_ok=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not go_on:
            kept.write_text("")
        lines = kept.read_text().splitlines() if kept.is_file() else []
        self.done: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.keys = {side: self._key(side) for side in ("ftloop", "trainer")}
        others = [run for run in self.done if run["key"] != self.key(run["variant"])]
        if others:
            raise SystemExit(f"{kept}: {len(others)} runs of other data, code or versions; leave --continue out")
        self.commands = {run["variant"]: run["command"] for run in self.done}
        self.short = self._data("short", sizes.train_rows)
        self.whole = self._data("whole", sizes.whole_train_rows)

    def key(self, variant: str) -> dict[str, Any]:
        """What a finished run must have in common with this call to be counted."""
        return self.keys["ftloop" if "ftloop" in variant or _is_one_run(variant) else "trainer"]

    def _key(self, side: str) -> dict[str, Any]:
        data = {"data": "MRPC" if self.mrpc else "built-in pairs", "sizes": vars(self.sizes)}
        return {**data, "code": _digest_of_code(side), **versions()}

    @property
    def model(self) -> str:
        """A folder; only looked for by the rows that train it, and not by those of random weights."""
        return str(local_model_folder(PACKAGED_MODEL))

    def _data(self, name: str, train_rows: int | None) -> list[str]:
        """Flags that name the files, cut to size; left alone where they are there, so that caches know them again."""
        flags = []
        for split in SPLITS:
            limit = train_rows if split == "train" else None if train_rows is None else self.sizes.eval_rows
            if self.mrpc is None:
                rows = demo_rows(split)
            else:
                text = (Path(self.mrpc) / f"{split}.jsonl").read_text("utf-8")
                rows = [json.loads(line) for line in text.splitlines()]
            path = self.folder / f"{name}-{split}.jsonl"
            text = "".join(json.dumps(row) + "\n" for row in rows[:limit])
            if not path.is_file() or path.read_text("utf-8") != text:
                path.write_text(text, "utf-8")
            flags += [f"--{split}_file", str(path)]
        return flags

    def values(self, variant: str, value: str) -> dict[int, Any]:
        """By repeat or seed."""
        return {run["number"]: run[value] for run in self.done if run["variant"] == variant and value in run}

    def run(self, variant: str, number: int) -> None:
        """One run, unless it is there already; its line is kept at once."""
        if any(run["variant"] == variant and run["number"] == number for run in self.done):
            return
        before = os.getloadavg()
        print(f"{time.strftime('%H:%M:%S')} {variant}, {number} (load {before[0]:.1f})", flush=True)
        found = _one_run(self, variant) if _is_one_run(variant) else _command(self, variant, number)
        if self.busy:
            found = {name: value for name, value in found.items() if not name.endswith("seconds")}
        told = {"variant": variant, "number": number, "load_before": before[0], "command": self.commands[variant]}
        self.done.append(told | {"key": self.key(variant)} | found)
        with self.kept.open("a") as file:
            file.write(json.dumps(self.done[-1]) + "\n")


def _is_one_run(variant: str) -> bool:
    return variant.split("-")[0] in ("loop", "matmul", "cuda")


def _one_run(bench: Bench, variant: str) -> dict[str, Any]:
    """By one_run.py."""
    kind, *rest = variant.split("-")
    job: dict[str, Any] = {"kind": kind}
    if kind == "loop":
        job |= {"side": rest[0], "steps": bench.sizes.loop_steps}
    elif kind == "matmul":
        job |= {"precision": rest[0], "seconds": bench.sizes.matmul_seconds}
    else:
        *side, precision, size = rest
        lengths = sorted(len(row["sentence1"] + row["sentence2"]) // 4 for row in demo_rows("train"))
        job |= {"side": "-".join(side), "precision": precision, "rows_per_step": int(size)}
        job |= {"lengths": lengths, "steps": bench.sizes.cuda_steps}
    given, result = bench.folder / "job.json", bench.folder / "result.json"
    given.write_text(json.dumps(job))
    # A tiny model is faster on one thread, and its times are steadier.
    threads = {"OMP_NUM_THREADS": "1"} if kind == "loop" else {}
    command = [sys.executable, "benchmarks/speed/one_run.py", str(given), str(result)]
    job.pop("lengths", None)
    bench.commands[variant] = f"{shlex.join(command[1:2])} with {json.dumps(job)}"
    finish(command, os.environ | threads)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _command(bench: Bench, variant: str, number: int) -> dict[str, Any]:
    """By the command of a side; what it measured itself is read from the files it leaves."""
    output_dir = bench.folder / "out"
    shutil.rmtree(output_dir, ignore_errors=True)
    words = _words(bench, variant, number)
    shown = [word.replace(bench.model, PACKAGED_MODEL).replace(f"{ROOT}/", "") for word in words[1:]]
    bench.commands[variant] = shlex.join(["python", *shown])
    words += ["--output_dir", str(output_dir)]
    cached = ("ftloop" in variant, bench.whole[1] in words)
    if cached not in bench.cached:
        _first_update([*words, "--logging_first_step", "true"])
        bench.cached.add(cached)
        shutil.rmtree(output_dir, ignore_errors=True)
    if variant.startswith("start"):
        return {"first_update_seconds": _first_update(words)}
    seconds, peak_mb, cpu_seconds = finish(words, os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":16:8"})
    results = {name: json.loads((output_dir / f"{name}_results.json").read_text()) for name in ("train", "test")}
    weights = hashlib.sha256((output_dir / "model.safetensors").read_bytes()).hexdigest()
    precision = "bf16" if "--bf16" in words else "fp32"
    if (output_dir / RUN_FACTS).is_file():  # ours, which may have chosen by the machine
        precision = json.loads((output_dir / RUN_FACTS).read_text())["device"]["precision"]
    shutil.rmtree(output_dir)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mb": peak_mb,
        "train_seconds": results["train"]["train_runtime"],
        "test_seconds": results["test"]["test_runtime"],
        "accuracy": results["test"]["test_accuracy"],
        "f1": results["test"]["test_f1"],
        "weights": weights,
        "precision": precision,
    }


def _words(bench: Bench, variant: str, number: int) -> list[str]:
    """The command of a variant; `number` is the seed where runs are repeated over seeds."""
    kind = variant.split("-")[0]
    ours = "ftloop" in variant
    whole = kind in WHOLE
    model = PACKAGED_MODEL if ours else bench.model
    flags = dict(GUIDE) | {"num_train_epochs": bench.sizes.whole_epochs if whole else bench.sizes.epochs, "seed": 42}
    is_fast = "fast" in variant or kind == "grouped"
    if is_fast:
        flags = {name: flags[name] for name in ("num_train_epochs", "seed", "disable_tqdm")}
    if kind == "grouped":
        flags |= {"batching": "length_grouped", "padding": "longest"}
    if whole:
        flags |= {"seed": number}
    if variant.endswith("-bf16") or kind == "best":
        flags |= {"bf16": "true"}
    if kind == "best":
        flags |= {"train_sampling_strategy": "group_by_length"}
    if "plain" in variant:
        flags |= PLAIN
    if "unpadded" in variant:
        flags |= {"padding": "none"}
    if not whole and has_gpu():  # runs whose weights are compared
        flags |= {"full_determinism": "true"}
    if kind == "start":
        flags |= {"logging_first_step": "true"}  # the line that is waited for
    words = [
        *(FTLOOP if ours else TRAINER),
        *(["fast"] if is_fast else []),
        "--model_name_or_path",
        model,
    ]
    words += bench.whole if whole else bench.short
    return words + [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def _first_update(words: list[str]) -> float:
    """Seconds until the first log line, that of update 1; the process is then ended."""
    started = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    said = b""
    try:
        for line in process.stdout:
            said += line
            if line.startswith((b"Update 1/", b"{'loss'")):
                return time.perf_counter() - started
        raise SystemExit(f"{shlex.join(words)}\nmade no update:\n{said.decode()[-3000:]}")
    finally:
        process.kill()
        process.wait()


def _digest_of_code(side: str) -> str:
    """Digest what runs; not the files that start it and judge it. Trainer's script has nothing of ftloop in it."""
    runs = ["benchmarks/speed/one_run.py", "benchmarks/fidelity/trainer_script.py"]
    if side == "ftloop":
        runs += ["ftloop/**/*.py", "ftloop/config/recipes/*.yaml"]
    files = [path for kind in runs for path in ROOT.glob(kind)]
    files.sort()
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
