"""The fuzz runs, says how to run a draw again, and finds faults that are planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.command import CHECKOUT

from benchmarks.fidelity.fuzz import fuzz
from benchmarks.fidelity.planted_bugs import FAULTS, plant


def test_a_fault_can_be_planted_and_the_source_knows_its_names(tmp_path: Path) -> None:
    """A name that is not there would be an error in every draw, and the fault found by none of its own doing."""
    planted = []
    for name, fault in FAULTS.items():
        package = plant(name, tmp_path / name) / "ftloop"
        for file, _, _ in fault.changes:
            assert (package / file).read_text() != (CHECKOUT / "ftloop" / file).read_text()
            planted.append(str(package / file))
    words = ["ruff", "check", "--isolated", "--no-cache", "--select", "F821", "--output-format", "concise"]
    done = subprocess.run([sys.executable, "-m", *words, *planted], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_fault_for_each_of_the_eighteen_traps() -> None:
    assert {fault.trap for fault in FAULTS.values()} == set(range(1, 19))


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--choice", "evaluation=no", "load-best=on"], "needs an evaluation"), (["--plant", "nothing"], "is none of")],
)
def test_what_cannot_be_run_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        fuzz(argv, {})


def parity(*argv: str, code: int) -> str:
    done = subprocess.run(
        [sys.executable, "benchmarks/fidelity/parity.py", *argv],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_random_configurations_are_trainers_runs(tmp_path: Path) -> None:
    parity("--fuzz", "12", "--seed", "7", "--output", str(tmp_path / "fuzz.json"), code=0)
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert result["draws"] == sum(result["counts"]["processes"].values()) == 12
    assert min(result["counts"]["processes"].values()) >= 1
    assert result["updates"] > 50
    assert result["resumed"] > 1
    assert result["different"] == []


@pytest.mark.slow
def test_planted_faults_are_found_and_one_that_cannot_show_is_missed(tmp_path: Path) -> None:
    output = tmp_path / "faults.json"
    # Nothing is clipped in draws that do not clip, and one process has no process beside it to be seeded apart from.
    parity("--choice", "--plant", "no-set-epoch", "no-clipping", "seed-by-process", "--output", str(output), code=1)
    faults = json.loads(output.read_text())["faults"]
    assert {name for name, fault in faults.items() if fault["found_after"] is None} == {"seed-by-process"}
    assert "update 9" in faults["no-set-epoch"]["difference"]
    assert "update" in faults["no-clipping"]["difference"]


@pytest.mark.slow
def test_a_configuration_is_run_again_by_its_description() -> None:
    said = parity("--choice", "processes=2", "architecture=electra", "accumulation=3", code=0)
    assert "same  4 updates" in said
    assert "processes=2 architecture=electra accumulation=3" in said
