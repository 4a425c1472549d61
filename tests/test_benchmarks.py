"""That a benchmark runs to its end and tells what it promises; its figures are not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).resolve().parent.parent


def throughput(output: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "benchmarks/throughput.py", "--quick", "--output", str(output), *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told: dict[str, Any] = json.loads(output.read_text())
    for name in told["rows"]:
        assert name in done.stdout
    return told


def test_throughput_compares_both_sides_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    output = tmp_path / "throughput.json"
    told = throughput(output, "--rows", "identical-fp32", "memory-fp32", "loop-cost", "first-update", "cuda-fp16-16")
    assert told["rows"].pop("cuda-fp16-16").keys() >= {"not_measured"}
    for name, row in told["rows"].items():
        assert "void" not in row, name  # the weights of both sides are the same bytes
        assert {"ratio", "ratio_min", "ratio_max", "target", "reached", "n", "ftloop", "trainer"} <= row.keys()
        assert row["n"] == 1
        assert row["trainer"]["median"] > 0
    needed = {"python", "torch", "transformers", "device", "threads", "data", "command", "both_sides", "sizes"}
    assert needed <= told["conditions"].keys()
    assert all("python" in command or "one_run" in command for command in told["commands"].values())
    assert output.with_suffix(".png").stat().st_size > 0

    runs = output.with_suffix(".runs.jsonl")
    lines = runs.read_text().splitlines()
    assert {json.loads(line)["variant"] for line in lines} == {
        *("trainer-fp32", "ftloop-plain-fp32", "ftloop-fp32"),
        *("loop-bare", "loop-trainer", "loop-ftloop", "start-trainer", "start-ftloop"),
    }
    runs.write_text("\n".join(lines[1:]) + "\n")  # one is missing
    told = throughput(output, "--rows", "identical-fp32", "--continue")
    assert runs.read_text().splitlines()[: len(lines) - 1] == lines[1:]
    assert len(runs.read_text().splitlines()) == len(lines)
    assert told["rows"]["identical-fp32"]["ratio"] > 0
