"""ftloop and transformers.Trainer side by side: time, memory, and what the fast recipe gains and costs.

    python benchmarks/throughput.py                               every row; hours on two cores
    python benchmarks/throughput.py --rows loop-cost first-update
    python benchmarks/throughput.py --continue                    goes on with what an earlier call has left undone
    python benchmarks/throughput.py --quick                       few rows and updates: to see that it works

Each run is a process of its own: `python ftloop/train.py ...` against `python benchmarks/trainer_script.py ...`, the
script a user writes, with the same arguments. Sides alternate, and their order is turned round at every repeat. A row's
ratio is that of the medians, ftloop's to Trainer's; min and max are of the ratios within a repeat. Before anything is
timed, each side has tokenized the data and cached it. The data is GLUE MRPC where FTLOOP_MRPC_DIR names a folder with
its train, validation and test.jsonl, else the built-in sentence pairs.

Finished runs are kept as lines of JSON beside the result, which is written anew from them after every run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from ftloop.demo_data import demo_rows
from ftloop.hub import PACKAGED_MODEL, local_model_folder

SPLITS = ("train", "validation", "test")
FTLOOP = [sys.executable, "ftloop/train.py"]
TRAINER = [sys.executable, "benchmarks/trainer_script.py"]
# The guide's job; for both sides.
GUIDE: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": "true",
    "metric_for_best_model": "f1",
    "logging_steps": 50,
    "disable_tqdm": "true",
}
# What ftloop tunes by itself without changing a bit, and Trainer does not; off where all else is to be equal.
PLAIN = {"keep_freed_memory": "false"}


@dataclass(frozen=True)
class Sizes:
    """How much is run: as asked, or `--quick`."""

    train_rows: int | None
    """Of the rows where one run is like another; None: all. The fast recipe's rows take all."""
    eval_rows: int | None
    epochs: int
    whole_train_rows: int | None
    whole_epochs: int
    loop_steps: int
    matmul_seconds: float
    cuda_steps: int


FULL = Sizes(600, 200, 1, None, 3, 1000, 3.0, 130)
QUICK = Sizes(48, 32, 1, 48, 1, 30, 0.2, 60)


@dataclass(frozen=True)
class Row:
    name: str
    ours: str
    theirs: str
    """Names of variants."""
    value: str
    """What is compared, of a finished run."""
    target: float
    """Ratio of ours to theirs, at most."""
    told: str
    same_weights: bool = False
    """The comparison is void unless both sides end in the same bytes."""
    same_accuracy: bool = False
    """Repeated over seeds, and accuracy and F1 of the best checkpoint on the test set compared too."""
    needs: tuple[str, ...] = ()
    """Other variants to be run."""


def _rows() -> list[Row]:
    rows = []
    for p in ("fp32", "bf16"):
        plain, ours, theirs = f"ftloop-plain-{p}", f"ftloop-{p}", f"trainer-{p}"
        same = "guide's arguments, all else equal: the whole command"
        rows.append(Row(f"identical-{p}", plain, theirs, "seconds", 1.0, same, same_weights=True))
        part = "of the same runs train(): in ftloop's, scikit-learn is imported too, in the script's it is before"
        rows.append(Row(f"train-{p}", plain, theirs, "train_seconds", 1.0, part, same_weights=True))
        as_used = "the same arguments, each as a user runs it: the whole command"
        rows.append(Row(f"defaults-{p}", ours, theirs, "seconds", 0.9, as_used, same_weights=True))
        rows.append(Row(f"memory-{p}", ours, theirs, "peak_mb", 1.0, "largest resident set of these runs"))
        rows.append(Row(f"memory-plain-{p}", plain, theirs, "peak_mb", 1.0, "the same, freed memory given back"))
    loop = ("loop-ftloop", "loop-trainer", "ms_above_bare", 0.35)
    rows.append(Row("loop-cost", *loop, "tiny model: ms per step above a bare loop", True, needs=("loop-bare",)))
    start = ("start-ftloop", "start-trainer", "first_update_seconds", 0.6)
    rows.append(Row("first-update", *start, "command to first finished update; tokens cached on both sides"))
    best = "Trainer in bf16 with train_sampling_strategy=group_by_length"
    for name, theirs, target, told in (
        ("fast-vs-guide", "guide-trainer", 1 / 3.0, "the guide's job in Trainer, fp32"),
        ("fast-vs-best", "best-trainer", 1 / 1.5, best),
    ):
        rows.append(Row(name, "fast-ftloop", theirs, "seconds", target, f"fast recipe: {told}", same_accuracy=True))
    for p, theirs, target in (("fp32", "guide-trainer", 1 / 2.0), ("bf16", "best-trainer", 1 / 1.3)):
        told = f"evaluation of the test set by the fast recipe and by Trainer in {p}; of the same runs"
        rows.append(Row(f"evaluation-{p}", "fast-ftloop", theirs, "test_seconds", target, told))
    for p in ("fp16", "bf16"):
        for size in (16, 32):
            theirs, guides = f"cuda-trainer-{p}-{size}", f"cuda-trainer-fp16-{size}"
            told = f"GPU, bert-base's shape, {p}, {size} rows"
            rows.append(Row(f"cuda-{p}-{size}", f"cuda-ftloop-{p}-{size}", theirs, "ms_per_step", 0.9, told))
            fast = f"cuda-ftloop-fast-{p}-{size}"
            rows.append(
                Row(f"cuda-fast-{p}-{size}", fast, guides, "ms_per_step", 1 / 3.0, f"{told}, fast: Trainer fp16")
            )
    return rows


ROWS = {row.name: row for row in _rows()}
EXTRA = "arithmetic"  # no comparison of two: how far each side is from the machine's peak


class Bench:
    """Where the runs take place, and what has been run."""

    def __init__(self, sizes: Sizes, folder: Path, kept: Path, go_on: bool) -> None:
        self.sizes, self.folder, self.kept = sizes, folder, kept
        self.mrpc = os.environ.get("FTLOOP_MRPC_DIR")
        self.model = str(local_model_folder(PACKAGED_MODEL))
        self.cached: set[tuple[bool, bool]] = set()
        """Sides, and whether of all rows, whose tokens are cached."""
        folder.mkdir(parents=True, exist_ok=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not go_on:
            kept.write_text("")
        lines = kept.read_text().splitlines() if kept.is_file() else []
        self.done: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.key = {
            "data": "MRPC" if self.mrpc else "built-in pairs",
            "sizes": vars(sizes),
            "code": _digest_of_code(),
            **versions(),
        }
        others = [run for run in self.done if run["key"] != self.key]
        if others:
            raise SystemExit(f"{kept}: {len(others)} runs of other data, code or versions; leave --continue out")
        self.commands = {run["variant"]: run["command"] for run in self.done}
        self.short = self._data("short", sizes.train_rows)
        self.whole = self._data("whole", sizes.whole_train_rows)

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
        told = {"variant": variant, "number": number, "load_before": before[0], "command": self.commands[variant]}
        self.done.append(told | {"key": self.key} | found)
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
    command = [sys.executable, "benchmarks/one_run.py", str(given), str(result)]
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
    bench.commands[variant] = shlex.join(["python", *words[1:]])
    words += ["--output_dir", str(output_dir)]
    cached = ("ftloop" in variant, bench.whole[1] in words)
    if cached not in bench.cached:
        _first_update([*words, "--logging_first_step", "true"])
        bench.cached.add(cached)
        shutil.rmtree(output_dir, ignore_errors=True)
    if variant.startswith("start"):
        return {"first_update_seconds": _first_update(words)}
    seconds, peak_mb, cpu_seconds = finish(words, dict(os.environ))
    results = {name: json.loads((output_dir / f"{name}_results.json").read_text()) for name in ("train", "test")}
    weights = hashlib.sha256((output_dir / "model.safetensors").read_bytes()).hexdigest()
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
    }


def _words(bench: Bench, variant: str, number: int) -> list[str]:
    """The command of a variant; `number` is the seed where runs are repeated over seeds."""
    kind = variant.split("-")[0]
    ours = "ftloop" in variant
    whole = kind in ("fast", "guide", "best")
    model = PACKAGED_MODEL if ours else bench.model
    flags = dict(GUIDE) | {"num_train_epochs": bench.sizes.whole_epochs if whole else bench.sizes.epochs, "seed": 42}
    if kind == "fast":
        flags = {"num_train_epochs": bench.sizes.whole_epochs, "disable_tqdm": "true"}
    if whole:
        flags |= {"seed": number}
    if variant.endswith("-bf16") or kind == "best":
        flags |= {"bf16": "true"}
    if kind == "best":
        flags |= {"train_sampling_strategy": "group_by_length"}
    if "plain" in variant:
        flags |= PLAIN
    if kind == "start":
        flags |= {"logging_first_step": "true"}  # the line that is waited for
    words = [*(FTLOOP if ours else TRAINER), *(["fast"] if kind == "fast" else []), "--model_name_or_path", model]
    words += bench.whole if whole else bench.short
    return words + [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def finish(
    words: list[str], environment: dict[str, str], watch: Callable[[int], None] | None = None
) -> tuple[float, float, float]:
    """Seconds, peak resident megabytes and seconds of CPU of a process that must end well.

    `watch`: given its id, in a thread; to return when the process has ended.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
        watching = threading.Thread(target=watch, args=(process.pid,)) if watch else None
        if watching:
            watching.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if watching:
            watching.join()
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{shlex.join(words)}\nfailed:\n{said.read()[-3000:]}")
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return seconds, kilobytes / 1024, used.ru_utime + used.ru_stime


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


def measure(bench: Bench, rows: list[str], repeats: int, seeds: list[int], report: Callable[[], None]) -> None:
    """Every variant that the rows need, in turn."""
    variants: dict[str, None] = {}
    for name in rows:
        if name == EXTRA:
            variants |= dict.fromkeys(("matmul-fp32", "matmul-bf16"))
        elif not name.startswith("cuda") or has_gpu():
            row = ROWS[name]
            variants |= dict.fromkeys((*row.needs, row.theirs, row.ours))
    over_seeds = [name for name in variants if name.split("-")[0] in ("fast", "guide", "best")]
    repeated = [name for name in variants if name not in over_seeds]
    for names, numbers in ((repeated, list(range(repeats))), (over_seeds, seeds)):
        for turn, number in enumerate(numbers):
            for name in names if turn % 2 == 0 else names[::-1]:  # neither side is always the first
                bench.run(name, number)
                report()


def judged(bench: Bench, row: Row) -> dict[str, Any]:
    """A row's figures, or why there are none."""
    told: dict[str, Any] = {"what": row.told, "ours": row.ours, "theirs": row.theirs, "value": row.value}
    told["target"] = row.target
    ours, theirs = (_values(bench, side, row.value) for side in (row.ours, row.theirs))
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        gpu = row.name.startswith("cuda") and not has_gpu()
        return told | {"not_measured": "no CUDA GPU" if gpu else "no finished pair of runs"}
    told["n"] = len(both)
    for side, values in (("ftloop", ours), ("trainer", theirs)):
        used = [values[number] for number in both]
        told[side] = {"median": statistics.median(used), "min": min(used), "max": max(used), "all": used}
    ratios = [ours[number] / theirs[number] for number in both]
    told["ratio"] = told["ftloop"]["median"] / told["trainer"]["median"]
    told["ratio_min"], told["ratio_max"] = min(ratios), max(ratios)
    told["reached"] = told["ratio"] <= row.target
    if row.same_weights:
        weights = [set(bench.values(side, "weights").values()) for side in (row.ours, row.theirs, *row.needs)]
        if len(set.union(*weights)) != 1:
            told |= {"void": "the sides did not end in the same weights", "reached": False}
    if row.same_accuracy:
        told["accuracy"] = {score: _paired(bench, row, both, score) for score in ("accuracy", "f1")}
    for name in ("syncs_per_micro_batch", "peak_mb"):
        if row.name.startswith("cuda"):
            told[name] = {side: [*bench.values(side, name).values()] for side in (row.ours, row.theirs)}
    return told


def _values(bench: Bench, variant: str, value: str) -> dict[int, float]:
    if value != "ms_above_bare":
        return bench.values(variant, value)
    bare = bench.values("loop-bare", "ms_per_step")
    return {number: ms - bare[number] for number, ms in bench.values(variant, "ms_per_step").items() if number in bare}


def _paired(bench: Bench, row: Row, seeds: list[int], score: str) -> dict[str, Any]:
    """A score of both sides over the same seeds, in points, and whether their difference is more than chance."""
    ours, theirs = ([100 * bench.values(side, score)[seed] for seed in seeds] for side in (row.ours, row.theirs))
    told: dict[str, Any] = {"seeds": seeds, "ftloop": ours, "trainer": theirs}
    told["difference_of_means"] = statistics.mean(ours) - statistics.mean(theirs)
    told["within_one_point"] = abs(told["difference_of_means"]) <= 1
    if len(seeds) > 1 and ours != theirs:
        from scipy.stats import ttest_rel, wilcoxon

        told["p_ttest_rel"] = float(ttest_rel(ours, theirs).pvalue)
        told["p_wilcoxon"] = float(wilcoxon(ours, theirs).pvalue)
    return told


def arithmetic(bench: Bench) -> dict[str, Any]:
    """What part of the machine's peak in matrix products each side's training reaches.

    Counted are the products that the job needs: forward and backward of the real tokens of the training rows, and the
    evaluations' forward; not padding, which is the sides' own waste, and nothing but products.
    """
    told: dict[str, Any] = {}
    config = json.loads((Path(bench.model) / "config.json").read_text())
    for variant in sorted({run["variant"] for run in bench.done if "train_seconds" in run}):
        whole = variant.split("-")[0] in ("fast", "guide", "best")
        files, epochs = (bench.whole, bench.sizes.whole_epochs) if whole else (bench.short, bench.sizes.epochs)
        train, validation = (_product_flops(config, _lengths(bench, path)) for path in (files[1], files[3]))
        flops = epochs * (3 * train + validation)  # backward: two products for each of forward
        precision = "bf16" if variant.endswith("bf16") or variant.startswith(("fast", "best")) else "fp32"
        peaks = bench.values(f"matmul-{precision}", "flops").values()
        seconds = statistics.median(bench.values(variant, "train_seconds").values())
        told[variant] = {"flops": flops, "flops_per_second": flops / seconds}
        if peaks:
            peak = max(peaks)
            told[variant] |= {"peak": peak, "of_peak": flops / seconds / peak, "least_seconds": flops / peak}
    return told


def _lengths(bench: Bench, path: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(bench.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return [len(each.ids) for each in tokenizer.encode_batch([(row["sentence1"], row["sentence2"]) for row in rows])]


def _product_flops(config: dict[str, Any], lengths: list[int]) -> float:
    """Of forward: per token and layer four products with hidden x hidden, two with hidden x intermediate, and two of
    the row's length in attention; per row the pooler.
    """
    hidden, between, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    per_token = layers * (4 * hidden * hidden + 2 * hidden * between)
    products = sum(n * per_token + layers * 2 * n * n * hidden + hidden * hidden for n in lengths)
    return 2.0 * products  # a multiplication and an addition each


def has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _digest_of_code() -> str:
    """What runs; not this file, which starts it and judges."""
    runs = ("ftloop/*.py", "ftloop/recipes/*.yaml", "benchmarks/one_run.py", "benchmarks/trainer_script.py")
    files = [path for kind in runs for path in ROOT.glob(kind)]
    files.sort()
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "accelerate", "datasets", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def machine() -> dict[str, Any]:
    """Without torch, which a process that only starts others does not want in its memory."""
    model = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def device() -> dict[str, Any]:
    import torch

    return {
        "device": torch.cuda.get_device_name() if has_gpu() else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
    }


def conditions(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    return {
        **versions(),
        **machine(),
        **device(),
        "data": "MRPC" if bench.mrpc else "built-in pairs",
        "sizes": vars(bench.sizes),
        "repeats": given.repeats,
        "seeds": given.seeds,
        "both_sides": GUIDE,
        "ftloop_plain": PLAIN,
        "command": shlex.join(["python", "benchmarks/throughput.py", *sys.argv[1:]]),
    }


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""


def show(result: dict[str, Any]) -> None:
    print(f"\n{'row':<17} {'ftloop':>10} {'Trainer':>10} {'ratio':>7}  {'min to max':<15} {'target':>7}   n")
    for name, row in result["rows"].items():
        if "not_measured" in row:
            print(f"{name:<17} not measured: {row['not_measured']}")
            continue
        ours, theirs, spread = row["ftloop"]["median"], row["trainer"]["median"], (row["ratio_min"], row["ratio_max"])
        verdict = row.get("void") or ("" if row["reached"] else "missed")
        print(
            f"{name:<17} {ours:>10.2f} {theirs:>10.2f} {row['ratio']:>7.3f}  {spread[0]:.3f} to {spread[1]:.3f}  "
            f"{row['target']:>7.3f} {row['n']:>3}  {verdict}   {row['value']}"
        )
        for score, told in row.get("accuracy", {}).items():
            p = ", ".join(f"{key} {told[key]:.3f}" for key in ("p_ttest_rel", "p_wilcoxon") if key in told)
            ours, theirs = (statistics.mean(told[side]) for side in ("ftloop", "trainer"))
            print(
                f"{'':<17} {score:<9} {ours:.2f} against {theirs:.2f}: {told['difference_of_means']:+.2f} points  {p}"
            )
    for variant, told in result["arithmetic"].items():
        if "of_peak" in told:
            print(
                f"{variant:<17} {told['flops_per_second'] / 1e9:.0f} GFLOP/s, {told['of_peak']:.1%} of the peak in "
                f"products ({told['peak'] / 1e9:.0f}), which would take {told['least_seconds']:.1f} s"
            )


def draw(result: dict[str, Any], path: Path) -> str | None:
    """Ratios with min and max, and the targets. Returns: what was in the way."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed (the extra `plots`)"
    rows = {name: row for name, row in result["rows"].items() if "ratio" in row and "void" not in row}
    if not rows:
        return "no picture: no row is finished"
    figure = Figure(figsize=(8, 0.45 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        low, high = (abs(row["ratio"] - row[end]) for end in ("ratio_min", "ratio_max"))
        error = [[low if row["ratio_min"] < row["ratio"] else 0], [high if row["ratio_max"] > row["ratio"] else 0]]
        axes.barh(place, row["ratio"], color="tab:green" if row["reached"] else "tab:orange", xerr=error, height=0.6)
        axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color="black")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{name} (n={row['n']})" for name, row in rows.items()])
    axes.invert_yaxis()
    axes.set_xlabel("ftloop / Trainer, medians with min and max; black: the target")
    told = result["conditions"]
    axes.set_title(f"{told['cpu']}, {told['threads']} threads, torch {told['torch']}, {told['data']}", fontsize=9)
    figure.savefig(path, dpi=120)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", choices=[*ROWS, EXTRA], help=f"of {', '.join([*ROWS, EXTRA])}"
    )
    parser.add_argument("--repeats", type=int, help="of rows that are not over seeds (5; with --quick 1)")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the fast recipe's rows (1 2 3 4 5; with --quick 1 2)")
    parser.add_argument("--quick", action="store_true", help="few rows and updates")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="keep the runs that are there")
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json", help="beside it: .runs.jsonl, .png")
    given = parser.parse_args()
    given.repeats = given.repeats or (1 if given.quick else 5)
    given.seeds = given.seeds or ([1, 2] if given.quick else [1, 2, 3, 4, 5])
    rows = given.rows or [*ROWS, EXTRA]
    sizes, kept = QUICK if given.quick else FULL, given.output.with_suffix(".runs.jsonl")
    bench = Bench(sizes, ROOT / "runs" / "throughput", kept, given.go_on)
    result: dict[str, Any] = {"conditions": conditions(bench, given)}
    print(json.dumps(result["conditions"], indent=1))

    def report() -> None:
        result["rows"] = {name: judged(bench, ROWS[name]) for name in rows if name != EXTRA}
        result["arithmetic"] = arithmetic(bench) if EXTRA in rows else {}
        result["commands"] = bench.commands
        given.output.write_text(json.dumps(result, indent=2) + "\n")

    measure(bench, rows, given.repeats, given.seeds, report)
    report()
    show(result)
    problem = draw(result, given.output.with_suffix(".png"))
    if problem:
        print(problem)
    return 1 if any("void" in row for row in result["rows"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
