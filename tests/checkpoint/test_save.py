"""Checkpoints on disk: whole or not there, rotated, found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.side_by_side import Job, run_ftloop

from ftloop import SaveError, UserError, find_checkpoint
from ftloop.checkpoint import save as checkpoint_module
from ftloop.checkpoint.folders import list_checkpoints, surplus

ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 4,
}


def folders(root: Path, *steps: int) -> None:
    for step in steps:
        (root / f"checkpoint-{step}").mkdir()


def steps(root: Path) -> list[int]:
    return [int(folder.name.split("-")[1]) for folder in list_checkpoints(root)]


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [5, 9, 10, 100]),
        (2, None, [10, 100]),
        (1, None, [100]),
        (1, 5, [5, 100]),
        (2, 5, [5, 100]),
        (3, 5, [5, 10, 100]),
        (3, 100, [9, 10, 100]),
        (9, 5, [5, 9, 10, 100]),
    ],
)
def test_the_oldest_go_first_and_never_the_newest_or_the_best(
    limit: int | None, best: int | None, left: list[int], tmp_path: Path
) -> None:
    folders(tmp_path, 100, 9, 10, 5)  # by number: not by name, not by time
    best_folder = None if best is None else str(tmp_path / f"checkpoint-{best}")
    gone = surplus(tmp_path / "checkpoint-100", limit, best_folder)
    assert [step for step in (5, 9, 10, 100) if tmp_path / f"checkpoint-{step}" not in gone] == left


def test_later_checkpoints_of_an_abandoned_continuation_go_first(tmp_path: Path) -> None:
    folders(tmp_path, 2, 4, 6, 8)
    assert surplus(tmp_path / "checkpoint-4", 2, None) == [tmp_path / "checkpoint-6", tmp_path / "checkpoint-8"]


def test_last_is_the_highest_number(tmp_path: Path) -> None:
    folders(tmp_path, 100, 9)
    (tmp_path / "checkpoint-200").write_text("a file, not a folder")
    (tmp_path / ".staging-checkpoint-300").mkdir()
    assert find_checkpoint(str(tmp_path), "last") == tmp_path / "checkpoint-100"


def test_last_without_a_checkpoint_starts_afresh(tmp_path: Path) -> None:
    assert find_checkpoint(str(tmp_path / "new"), "last") is None


def test_checkpoints_where_none_were_expected_are_an_error_that_names_the_flag(tmp_path: Path) -> None:
    folders(tmp_path, 3)
    with pytest.raises(UserError, match="--resume_from_checkpoint last"):
        find_checkpoint(str(tmp_path), None)


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    folders(tmp_path, 3, 6)
    with pytest.raises(UserError, match=r"checkpoint-7.*checkpoint-3, checkpoint-6"):
        find_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-7"))


def test_a_save_that_fails_midway_leaves_no_checkpoint_and_the_old_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint_module._save_optimizer
    saves = []

    def full_disk(run: Any, folder: Path) -> None:
        saves.append(folder)
        if len(saves) >= 2:
            raise OSError(28, "No space left on device")
        real(run, folder)

    monkeypatch.setattr(checkpoint_module, "_save_optimizer", full_disk)
    with pytest.raises(SaveError, match=r"checkpoint-8 could not be saved, twice: .*No space left"):
        run_ftloop(Job(), tmp_path, save_total_limit=1, **ARGUMENTS)
    assert steps(tmp_path) == [4]
    monkeypatch.undo()
    resumed = run_ftloop(Job(), tmp_path, resume=str(tmp_path / "checkpoint-4"), save_total_limit=1, **ARGUMENTS)
    assert list(resumed.checkpoints) == ["checkpoint-8"]
    assert not list(tmp_path.glob(".*")), "the next save clears what the failed one left"


def test_a_save_that_fails_once_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_ftloop(Job(), tmp_path / "whole", **ARGUMENTS)
    real = checkpoint_module._save_optimizer
    saves = []

    def bad_sector(run: Any, folder: Path) -> None:
        saves.append(folder)
        real(run, folder)
        if len(saves) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_module, "_save_optimizer", bad_sector)
    assert run_ftloop(Job(), tmp_path / "again", **ARGUMENTS).checkpoints == whole.checkpoints
    assert len(saves) == 3
    assert "checkpoint-4 failed ([Errno 5] Input/output error); trying once more" in capsys.readouterr().out


def test_a_checkpoint_has_trainers_files_and_two_of_ours(tmp_path: Path) -> None:
    run_ftloop(Job(), tmp_path, **ARGUMENTS)
    names = {path.name for path in (tmp_path / "checkpoint-8").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "ftloop_state.json",
        "ftloop_manifest.json",
    }
    own = json.loads((tmp_path / "checkpoint-8" / "ftloop_state.json").read_text())
    assert own["phase"] == "update"


def test_save_only_model_leaves_the_optimizer_out(tmp_path: Path) -> None:
    run_ftloop(Job(), tmp_path, save_only_model=True, **ARGUMENTS)
    names = {path.name for path in (tmp_path / "checkpoint-8").iterdir()}
    assert "model.safetensors" in names
    assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth"} & names
