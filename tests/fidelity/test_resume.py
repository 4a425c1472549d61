"""A run that stops and continues is the run that was not interrupted; so is one that crosses to Trainer or back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.cross_resume import CASES, SIDES, assert_continues, assert_crossings_are_trainers, assert_default_continues
from harness.cross_resume import RESUME_ARGUMENTS as ARGUMENTS
from harness.models import tiny_bert
from harness.rows import pad
from harness.side_by_side import Job, run_ftloop, run_trainer

from ftloop import TrainConfig, UserError, load_checkpoint, prepare, updates

# Of the cases, that of the fast tests; all of them, in fp32 and bf16, are the slow ones'.
FAST = ["evaluated by epoch, accumulated"]
every_case = pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=() if name in FAST and precision == "fp32" else pytest.mark.slow)
        for precision in ("fp32", "bf16")
        for name in CASES
    ],
)


@pytest.mark.slow
@every_case
def test_either_side_resumes_the_others_run_as_trainer_does(name: str, precision: str, tmp_path: Path) -> None:
    """After every update. Trainer's own exceptions are named in the case, and Trainer is seen to make them."""
    assert_crossings_are_trainers(CASES[name], tmp_path, bf16=precision == "bf16")


@every_case
@pytest.mark.parametrize("saved_by", SIDES)
def test_by_default_ftloop_resumes_either_sides_run_exactly(
    saved_by: str, name: str, precision: str, tmp_path: Path
) -> None:
    """After every update, Trainer's exceptions included."""
    assert_default_continues(CASES[name], saved_by, tmp_path, bf16=precision == "bf16")


@pytest.mark.parametrize("logging_steps", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_nothing_is_lost_wherever_the_run_stopped(logging_steps: int, tmp_path: Path) -> None:
    """Update 3 ends an epoch whose evaluation is still pending, update 6 the run; a loss window of 4 straddles both."""
    arguments = ARGUMENTS | {"logging_steps": logging_steps}
    whole = run_ftloop(Job(), tmp_path / "whole", **arguments)
    for step in (1, 2, 3, 4, 5, 6):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        resumed = run_ftloop(Job(), tmp_path / f"{step}", resume=str(checkpoint), **arguments)
        assert_continues(resumed, whole)
        assert resumed.history == whole.history
        assert resumed.train_loss == whole.train_loss


@pytest.mark.slow
@pytest.mark.parametrize("saved_by", ["ftloop", "trainer"])
def test_workers_that_persist_lose_nothing_either(saved_by: str, tmp_path: Path) -> None:
    """They draw a random number in the first epoch and the first evaluation alone; so must those of a resumed run.
    A third epoch feels whether the second evaluation drew one.
    """
    workers = {"num_train_epochs": 3, "dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    case = replace(CASES["evaluated by epoch"], arguments=CASES["evaluated by epoch"].arguments | workers)
    whole = case.run(saved_by, tmp_path / "whole")
    for step in (2, 3, 5, 6):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        assert_continues(case.run("ftloop", tmp_path / f"{step}", resume=str(checkpoint)), whole)


@pytest.mark.parametrize("patience", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_early_stopping_remembers_its_patience(patience: int, tmp_path: Path) -> None:
    arguments = ARGUMENTS | {
        "num_train_epochs": 7,
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "spread",
        "greater_is_better": False,
        "early_stopping_patience": patience,
    }
    whole = run_ftloop(Job(), tmp_path / "whole", **arguments)
    stops = sorted(int(folder.name.split("-")[1]) for folder in (tmp_path / "whole").glob("checkpoint-*"))
    assert stops[-1] < 7 * 3, "the run has to stop early for this test to mean something"
    for step in stops:
        resumed = run_ftloop(
            Job(), tmp_path / f"resumed-{step}", resume=str(tmp_path / "whole" / f"checkpoint-{step}"), **arguments
        )
        assert resumed.history == whole.history
        assert resumed.weights == whole.weights


def test_a_run_resumed_into_another_folder_still_knows_its_best(tmp_path: Path) -> None:
    """Checkpoint 3 is saved before the evaluation that finds update 3 the best: the next save says where it is."""
    arguments = ARGUMENTS | {"metric_for_best_model": "spread", "greater_is_better": True}
    whole = run_ftloop(Job(), tmp_path / "whole", **arguments)
    assert whole.best[1:] == (3, "checkpoint-3")
    checkpoint = str(tmp_path / "whole" / "checkpoint-3")
    assert run_ftloop(Job(), tmp_path / "resumed", resume=checkpoint, **arguments).best == whole.best
    compat = arguments | {"trainer_compat": True}
    run_ftloop(Job(), tmp_path / "compat", **compat)
    checkpoint = str(tmp_path / "compat" / "checkpoint-3")
    lost = [side(Job(), tmp_path / name, resume=checkpoint, **compat).best for name, side in SIDES.items()]
    assert lost[0] == lost[1] != whole.best


def resume_without(tmp_path: Path, *names: str, saved_by: str = "ftloop") -> None:
    SIDES[saved_by](Job(), tmp_path, **ARGUMENTS | {"num_train_epochs": 1})
    for name in names:
        (tmp_path / "checkpoint-2" / name).unlink()
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, **ARGUMENTS)
    train_rows, eval_rows = Job().data()
    run = prepare(config, Job().model(), train_rows, eval_rows, data_collator=pad)
    load_checkpoint(run, tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"]
)
def test_a_missing_file_is_an_error_that_names_it_never_a_fresh_start(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=name):
        resume_without(tmp_path, name)


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.pt is missing; scheduler\.pt is missing"):
        resume_without(tmp_path, "optimizer.pt", "scheduler.pt")


def test_an_incomplete_checkpoint_of_trainers_is_refused_with_reasons(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.pt, scheduler\.pt, rng_state\.pth missing"):
        resume_without(tmp_path, "optimizer.pt", "scheduler.pt", "rng_state.pth", saved_by="trainer")


def test_a_checkpoint_is_loaded_without_running_code_in_it(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    run_ftloop(Job(), tmp_path, **ARGUMENTS | {"num_train_epochs": 1})
    torch.save(Planted(), tmp_path / "checkpoint-2" / "optimizer.pt")
    train_rows, eval_rows = Job().data()
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, **ARGUMENTS)
    run = prepare(config, Job().model(), train_rows, eval_rows, data_collator=pad)
    with pytest.raises(UserError, match="optimizer"):
        load_checkpoint(run, tmp_path / "checkpoint-2")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    run_ftloop(Job(), tmp_path, **ARGUMENTS | {"num_train_epochs": 1})
    train_rows, eval_rows = Job().data()
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, **ARGUMENTS)
    run = prepare(config, tiny_bert(num_labels=3), train_rows, eval_rows, data_collator=pad)
    with pytest.raises(UserError, match="weights"):
        load_checkpoint(run, tmp_path / "checkpoint-2")


def test_a_resumed_run_does_not_evaluate_on_start_again(tmp_path: Path) -> None:
    arguments = ARGUMENTS | {"eval_on_start": True}
    whole = run_ftloop(Job(), tmp_path / "whole", **arguments)
    resumed = run_ftloop(Job(), tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-2"), **arguments)
    assert resumed.history == whole.history
    assert resumed.weights == whole.weights


@pytest.mark.parametrize(
    ("saved_by", "changed", "named"),
    [
        ("ftloop", {"per_device_train_batch_size": 2}, r"per_device_train_batch_size \(4 then, 2 now\)"),
        ("ftloop", {"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps \(3 then, 2 now\)"),
        # Trainer's checkpoints do not say how many micro-batches an update had
        ("trainer", {"per_device_train_batch_size": 2}, r"per_device_train_batch_size \(4 then, 2 now\)"),
    ],
)
def test_a_run_that_would_see_other_rows_does_not_continue(
    saved_by: str, changed: dict[str, int], named: str, tmp_path: Path
) -> None:
    SIDES[saved_by](Job(), tmp_path, **ARGUMENTS | {"num_train_epochs": 1})
    with pytest.raises(UserError, match=named):
        run_ftloop(Job(), tmp_path, resume=str(tmp_path / "checkpoint-2"), **ARGUMENTS | changed)


def test_a_checkpoint_of_more_processes_is_refused(tmp_path: Path) -> None:
    run_trainer(Job(), tmp_path, **ARGUMENTS | {"num_train_epochs": 1})
    folder = tmp_path / "checkpoint-2"
    for rank in range(2):
        (folder / f"rng_state_{rank}.pth").write_bytes((folder / "rng_state.pth").read_bytes())
    with pytest.raises(UserError, match=r"num_processes \(2 then, 1 now\)"):
        run_ftloop(Job(), tmp_path, resume=str(folder), **ARGUMENTS)


def test_a_body_of_the_users_own_resumes_without_repeating_an_update(tmp_path: Path) -> None:
    """Checkpoint 3 ends an epoch whose end was still due: that is `train()`'s business."""
    run_ftloop(Job(), tmp_path, **ARGUMENTS)
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, **ARGUMENTS)
    train_rows, eval_rows = Job().data()
    run = prepare(config, tiny_bert(), train_rows, eval_rows, data_collator=pad)
    load_checkpoint(run, tmp_path / "checkpoint-3")
    assert [(update.global_step, update.loss.item() > 0) for update in updates(run)] == [
        (4, True),
        (5, True),
        (6, True),
    ]


def test_from_python_too_last_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    whole = run_ftloop(Job(), tmp_path, **ARGUMENTS)
    for step in (5, 6):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    resumed = run_ftloop(Job(), tmp_path, resume_from_checkpoint="last", **ARGUMENTS)
    assert len(resumed.losses) == 5
    assert resumed.history == whole.history
    assert resumed.weights == whole.weights


def test_a_checkpoint_beyond_the_end_of_the_run_is_refused(tmp_path: Path) -> None:
    run_ftloop(Job(), tmp_path, **ARGUMENTS)
    with pytest.raises(UserError, match="is at update 6, and this run ends at 4; raise num_train_epochs or max_steps"):
        run_ftloop(Job(), tmp_path, resume_from_checkpoint="last", **ARGUMENTS | {"max_steps": 4})


def test_another_trainers_checkpoint_that_does_not_fit_names_its_weights_as_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_ftloop(Job(), tmp_path, **ARGUMENTS)
    folder = tmp_path / "checkpoint-6"
    for name in ("ftloop_manifest.json", "ftloop_state.json"):
        (folder / name).unlink()
    way = rf"\. To start from its weights: --model_name_or_path {folder}, and no --resume_from_checkpoint$"
    resume = {"resume_from_checkpoint": folder}
    with pytest.raises(UserError, match=f"is at update 6, and this run ends at 4; only the run that saved it.*{way}"):
        run_ftloop(Job(), tmp_path / "other", **ARGUMENTS | resume | {"max_steps": 4})
    path = folder / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epoch": 0.1}))
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    torch.save(optimizer | {"param_groups": optimizer["param_groups"][:1]}, folder / "optimizer.pt")
    with pytest.raises(UserError, match=f"different number of parameter groups.*{way}"):
        run_ftloop(Job(), tmp_path / "other", **ARGUMENTS | resume)
    assert "had 60 updates an epoch, and this one has" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "other"), [("optimizer.pt", "rng_state.pth"), ("rng_state.pth", "scheduler.pt")])
def test_a_file_in_the_place_of_another_is_an_error_that_names_it(name: str, other: str, tmp_path: Path) -> None:
    run_trainer(Job(), tmp_path, **ARGUMENTS)  # Trainer's have no manifest, which would have told it first
    shutil.copy(tmp_path / "checkpoint-6" / other, tmp_path / "checkpoint-6" / name)
    with pytest.raises(UserError, match=f"{name}: is not what its name says.*To start from its weights: --model"):
        run_ftloop(Job(), tmp_path, resume_from_checkpoint="last", **ARGUMENTS)
