"""A PEFT adapter trains to Trainer's digits, and each side resumes the other's checkpoints of one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness.cross_resume import (
    BEST,
    EVERY_UPDATE,
    PLAIN,
    Case,
    assert_crossings_are_trainers,
    assert_default_continues,
)
from harness.models import tiny_lora
from harness.side_by_side import Job, assert_same_run, run_ftloop, run_trainer
from safetensors.torch import load_file

pytest.importorskip("peft", reason="PEFT is not installed: pip install ftloop[peft]")

LORA = Job(model=tiny_lora, two_sentences=True)
BY_EPOCH: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "weight_decay": 0.01,
    "logging_steps": 1,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,  # so that the best checkpoint is not the last
}


@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 3, "bf16": True}], ids=["plain", "accumulated"])
def test_it_is_trainers_run_with_its_segments_and_its_best_checkpoint(tmp_path: Path, more: dict[str, Any]) -> None:
    arguments = BY_EPOCH | more | {"trainer_compat": True}
    trainer, ours = (run(LORA, tmp_path / run.__name__, **arguments) for run in (run_trainer, run_ftloop))
    assert_same_run(trainer, ours)
    assert ours.best[-1] != max(ours.checkpoints, key=lambda name: int(name.split("-")[1])), "or nothing was loaded"
    names = {"adapter_model.safetensors", "adapter_config.json"}
    assert all(names <= files.keys() and "config.json" not in files for files in ours.checkpoints.values())
    plain = Job(model=tiny_lora)
    assert run_ftloop(plain, tmp_path / "no segments", **arguments).losses != ours.losses, "segments count"


def test_the_trained_head_of_the_best_checkpoint_is_back(tmp_path: Path) -> None:
    models: list[Any] = []

    def model() -> Any:
        models.append(tiny_lora())
        return models[-1]

    run = run_ftloop(Job(model=model, two_sentences=True), tmp_path, **BY_EPOCH)
    heads = {
        folder.name: load_file(folder / "adapter_model.safetensors")["base_model.model.classifier.weight"]
        for folder in tmp_path.glob("checkpoint-*")
    }
    best = heads.pop(run.best[-1])
    assert torch.equal(models[0].base_model.model.classifier.modules_to_save.default.weight, best)
    assert not any(torch.equal(best, other) for other in heads.values())


BY_STEPS = Case(
    LORA,
    PLAIN
    | EVERY_UPDATE
    | BEST
    | {"eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": 1, "learning_rate": 1e-2},
    [1, 2, 3],
)


@pytest.mark.parametrize("saved_by", ["ftloop", "trainer"])
def test_a_run_resumed_after_any_update_ends_in_the_same_bytes(saved_by: str, tmp_path: Path) -> None:
    assert_default_continues(BY_STEPS, saved_by, tmp_path)


def test_either_side_resumes_the_others_checkpoints(tmp_path: Path) -> None:
    assert_crossings_are_trainers(BY_STEPS, tmp_path)
