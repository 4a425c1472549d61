"""The fuzz runs, says how to run a draw again, and finds faults that are planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

from faults import FAULTS, plant  # noqa: E402
from fuzz import fuzz  # noqa: E402


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_can_be_planted_and_the_source_is_still_python(name: str, tmp_path: Path) -> None:
    package = plant(name, tmp_path) / "ftloop"
    for file, _, _ in FAULTS[name].changes:
        source = (package / file).read_text()
        assert source != (BENCHMARKS.parent / "ftloop" / file).read_text()
        compile(source, file, "exec")


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
        [sys.executable, str(BENCHMARKS / "parity.py"), *argv],
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
def test_planted_faults_are_found_and_one_that_cannot_show_is_said_to_be_missing(tmp_path: Path) -> None:
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
