"""The steps of check.py, in the order in which they are done: what is quick and tells most comes first."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from benchmarks.common import ROOT, has_gpu
from benchmarks.padding.at_scale import read_lengths

TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "vocab_size": 500,
}
LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
FOLDER = "benchmarks/gpu_check"
COMPILED = {"torch_compile": True, "padding": "buckets:4", "batching": "length_grouped"}
RECIPE = yaml.safe_load((ROOT / "ftloop" / "config" / "recipes" / "fast.yaml").read_text(encoding="utf-8"))
FAST = {name: RECIPE[name] for name in ("batching", "padding", "first_token_only") if name in RECIPE}
"""Of the recipe `fast`, what changes an update on a GPU; the precision is given."""
# By name: ftloop's own settings.
WAYS: dict[str, dict[str, Any]] = {
    "fast": FAST,
    "padding-none": {"padding": "none"},
    "length-grouped": {"batching": "length_grouped"},
    "compile-default": COMPILED,
    "compile-reduce-overhead": COMPILED | {"torch_compile_mode": "reduce-overhead"},
}


@dataclass(frozen=True)
class Step:
    name: str
    words: tuple[str, ...]
    limit: int
    """Seconds."""
    job: dict[str, Any] | None = None
    """What the command is given as a file of JSON; another file for what it finds follows."""
    environment: dict[str, str] = field(default_factory=dict)
    says: str = ""
    """What its last line must hold beside an exit code of 0."""


def steps(quick: bool) -> list[Step]:
    return list(_steps(quick))


def _steps(quick: bool) -> Iterator[Step]:
    python = (sys.executable,)
    yield Step("environment", (*python, f"{FOLDER}/environment.py"), 120 if quick else 60, {})
    tests = (*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/fidelity/test_gpu.py")
    several = ("-n", "6") if importlib.util.find_spec("xdist") and has_gpu() else ()
    # Where all are skipped pytest ends well.
    yield Step("tests", (*tests, *several), 180, says="passed" if has_gpu() else "")
    yield Step("faults", (*python, f"{FOLDER}/faults.py"), 90, {})
    yield Step("launched", (*python, f"{FOLDER}/launched.py"), 120, {})
    yield Step("two-processes", (*python, f"{FOLDER}/two_processes.py"), 120, {})
    yield from _speed(quick)
    yield from _memory(quick)


def _speed(quick: bool) -> Iterator[Step]:
    job: dict[str, Any] = {"kind": "cuda", "rows_per_step": 16, "steps": 400, "lengths": read_lengths().tolist()}
    if quick:
        job |= {"rows_per_step": 2, "steps": 6, "warm_up": 2, "shape": TINY}
    words = (sys.executable, "benchmarks/speed/one_run.py")
    for precision in ("bf16", "fp16"):
        for repeat in range(1 if quick else 2):
            for side in ("trainer", "ftloop") if repeat % 2 == 0 else ("ftloop", "trainer"):
                name = f"{side}-{precision}{'' if repeat == 0 else f'-{repeat + 1}'}"
                yield Step(name, words, 60, job | {"side": side, "precision": on_device(precision)})
    # A compiler of CPU code takes minutes for what is tried here alone.
    compiler = {} if has_gpu() else {"TORCH_COMPILE_DISABLE": "1"}
    for name, settings in WAYS.items():
        of_way = job | {"side": "ftloop", "precision": "bf16", "settings": settings}
        yield Step(name, words, 180 if name.startswith("compile") else 60, of_way, compiler)


def _memory(quick: bool) -> Iterator[Step]:
    """Peaks of bert-large's shape."""
    words = (sys.executable, "benchmarks/speed/one_run.py")
    folder = str(ROOT / "runs" / f"gpu-check-model{'-quick' if quick else ''}")
    yield Step("memory-model", words, 60, {"kind": "model", "shape": TINY if quick else LARGE, "folder": folder})
    job: dict[str, Any] = {"kind": "large", "folder": folder, "updates": 2}
    job |= {"rows_per_update": 2, "length": 16} if quick else {"rows_per_update": 8, "length": 128}
    for precision in ("fp32", "bf16"):
        for side in ("trainer", "ftloop"):
            settings = {precision: True} if precision == "bf16" else {}
            kind = {"side": "ftloop-plain" if side == "ftloop" else side, "settings": settings}
            yield Step(f"memory-{side}-{precision}", words, 60, job | kind)


def on_device(precision: str) -> str:
    """fp16 is for GPUs alone; in its place a CPU computes in bf16."""
    return precision if has_gpu() else "bf16"
