"""The traps that only several processes (gloo) can fall into, planted in a hand-written loop and found."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.command import WORKERS, fork

from ftloop.compare import compare, explain, read
from ftloop.compare.description import describe

pytestmark = pytest.mark.slow

# Number of processes, fault, accumulation; the update and the stage where they part, the cause.
FAULTS: list[tuple[int, str, int, int, str, str]] = [
    (2, "leaves the mean", 1, 1, "loss", "world-size"),
    (2, "leaves the mean", 2, 1, "loss", "world-size"),
    (2, "evaluation leaves the mean", 1, 6, "evaluation", "world-size"),
    (2, "divides by accumulation", 2, 1, "loss", "accumulation"),
    (2, "divides by accumulation and leaves the mean", 2, 1, "loss", "accumulation-and-world-size"),
    (2, "device specific seeds", 1, 1, "random state", "device-specific-seed"),
    (2, "prepared scheduler", 1, 2, "learning rate", "prepared-scheduler"),
    (2, "no no_sync", 2, 1, "gradient", "no-sync"),
    (2, "no DDP", 1, 1, "gradient", "not-exchanged"),
    (2, "rows dealt singly", 1, 1, "order", "rows-dealt"),
    (2, "ftloop", 1, 6, "rows", "repeated-rows"),
    (3, "no search for unused", 1, 2, "gradient", "find-unused-parameters"),
    (3, "leaves the mean", 2, 1, "loss", "world-size"),
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {}
    for processes in (2, 3):
        folders[processes] = tmp_path_factory.mktemp(f"processes-{processes}")
        faults = sorted({fault for count, fault, *_ in FAULTS if count == processes})
        fork(processes, folders[processes], WORKERS / "compare.py", [str(folders[processes]), "", *faults])
    return folders


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("processes", [2, 3])
def test_a_loop_of_ones_own_is_trainers_run_on_every_process(
    processes: int, accumulation: int, recordings: dict[int, Path]
) -> None:
    folder = recordings[processes]
    comparison = compare(read(folder / f"trainer-{accumulation}.jsonl"), read(folder / f"none-{accumulation}.jsonl"))
    assert comparison.same, describe(comparison)
    assert comparison.a.processes == processes
    assert len(comparison.updates) == {(2, 1): 12, (2, 2): 6, (3, 1): 8, (3, 2): 4}[processes, accumulation]


@pytest.mark.parametrize(
    ("processes", "fault", "accumulation", "update", "stage", "cause"),
    FAULTS,
    ids=["-".join(map(str, f[:3])) for f in FAULTS],
)
def test_each_trap_of_several_processes_is_found_and_named(
    processes: int, fault: str, accumulation: int, update: int, stage: str, cause: str, recordings: dict[int, Path]
) -> None:
    folder = recordings[processes]
    reference = "divided" if fault == "ftloop" else "trainer"  # its default is held against a Trainer that divides
    files = [folder / f"{reference}-{accumulation}.jsonl", folder / f"{fault.replace(' ', '-')}-{accumulation}.jsonl"]
    for order in (files, files[::-1]):
        comparison = compare(*map(read, order))
        assert (comparison.first.update, comparison.first.stage) == (update, stage), describe(comparison)
        assert [each.name for each in explain(comparison)] == [cause], describe(comparison)
