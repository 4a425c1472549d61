"""Two environments' Trainers are recorded and compared; here it is the same environment twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness.command import CHECKOUT, run

SCRIPT = str(CHECKOUT / "benchmarks" / "fidelity" / "compare_versions.py")


@pytest.mark.slow
def test_the_same_version_twice_is_the_same_run_until_one_divides(tiny_folder: Path, tmp_path: Path) -> None:
    words = ("--model", str(tiny_folder / "model"), "--output", "versions")
    printed = run(sys.executable, SCRIPT, sys.executable, sys.executable, *words, cwd=tmp_path).stdout
    jobs = printed.split("\n=== ")[1:]
    assert [job.splitlines()[0] for job in jobs] == [
        "accumulation 1",
        "accumulation 4",
        "accumulation 4, and B's model has accepts_loss_kwargs = False",
    ]
    assert "THE SAME RUN, 15 updates" in jobs[0]
    assert "THE SAME RUN, 6 updates" in jobs[1]
    assert "A's loss is 4 times B's" in jobs[2]
    assert "A  versions/old-4.jsonl: transformers.Trainer" in jobs[2]


def test_an_environment_that_cannot_run_the_script_is_told_with_its_words(tmp_path: Path) -> None:
    """`false` is a python that fails at once."""
    words = ("--model", str(tmp_path), "--output", "versions")
    failed = run(sys.executable, SCRIPT, "/bin/false", sys.executable, *words, cwd=tmp_path, expect=1)
    assert "/bin/false benchmarks/fidelity/trainer_script.py --model_name_or_path" in failed.stderr
    assert not list((tmp_path / "versions").glob("*-1.jsonl"))
