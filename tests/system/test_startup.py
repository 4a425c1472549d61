"""What a start imports, and when the garbage collector begins its work; in processes that have imported nothing yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.command import CHECKOUT

pytestmark = pytest.mark.slow

# The command as the script runs it, then what it has left behind.
PROBE = """
import gc, json, sys
sys.path.insert(0, {checkout!r})
from ftloop.train import main
code = main()
modules = sorted(name for name in {names!r} if name in sys.modules)
print(json.dumps([code, modules, gc.isenabled(), gc.get_freeze_count()]))
"""
LATE = ["sklearn", "scipy.stats", "tensorboard", "torch.utils.tensorboard", "matplotlib"]


def started(*words: str) -> tuple[list[str], bool, int]:
    """Which late modules a finished command has imported, whether garbage is collected, and how much is passed over."""
    probe = PROBE.format(checkout=str(CHECKOUT), names=LATE)
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    code, modules, collects, passed_over = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr[-3000:]
    assert "Update 1/" in done.stdout
    return modules, collects, passed_over


def job(tiny_folder: Path, output_dir: Path, **settings: Any) -> list[str]:
    settings = {
        "model_name_or_path": tiny_folder / "model",
        "train_file": tiny_folder / "train.jsonl",
        "output_dir": output_dir,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": "true",
        "use_cpu": "true",
    } | settings
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def test_training_alone_imports_no_sklearn_tensorboard_or_matplotlib(tiny_folder: Path, tmp_path: Path) -> None:
    modules, collects, passed_over = started(*job(tiny_folder, tmp_path / "out"))
    assert modules == []
    assert collects
    assert passed_over > 100_000  # what the start has made


def test_evaluation_imports_sklearn_and_logging_dir_tensorboard(tiny_folder: Path, tmp_path: Path) -> None:
    evaluated = {"validation_file": tiny_folder / "validation.jsonl", "eval_strategy": "epoch"}
    modules, _, _ = started(*job(tiny_folder, tmp_path / "out", **evaluated))
    assert "sklearn" in modules
    assert not {"torch.utils.tensorboard", "matplotlib"} & set(modules)
    modules, _, _ = started(*job(tiny_folder, tmp_path / "watched", **evaluated, logging_dir=tmp_path / "board"))
    assert {"sklearn", "torch.utils.tensorboard", "matplotlib"} <= set(modules)


def test_every_public_name_is_there_and_imported_only_when_it_is_used() -> None:
    code = """
import sys, ftloop
assert not {"torch", "transformers"} & set(sys.modules)
missing = [name for name in ftloop.__all__ if name != "__version__" and getattr(ftloop, name).__name__ != name]
from ftloop import *
print(missing, callable(train), callable(predict), sorted(set(ftloop.__all__) - set(globals())))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=240)
    assert done.stdout == "[] True True []\n", done.stderr


def test_a_wrong_flag_is_answered_without_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(CHECKOUT / "ftloop" / "train.py"), "--seed", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "error: seed: 'x' is not a whole number" in done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "transformers", "datasets", "accelerate", "numpy"}
