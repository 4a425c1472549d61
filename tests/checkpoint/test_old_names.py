"""A model in the form bert-base-uncased has: transformers saves it under its old names again, and it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert, with_old_names
from harness.rows import pad, tiny_pairs, tiny_tokenizer
from harness.side_by_side import QUIET, Job, assert_same_run, run_ftloop, run_trainer, weights_digest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed

from ftloop.errors import ExitCode
from ftloop.inference.classifier import load_classifier
from ftloop.train import main

BY_EPOCH: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 5e-3,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "metric_for_best_model": "loss",
}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = with_old_names(tmp_path / "bert-old", tiny_bert())

    def model() -> Any:
        set_seed(42)
        return AutoModelForSequenceClassification.from_pretrained(folder)

    return Job(model=model)


def test_it_is_trainers_run(job: Job, tmp_path: Path) -> None:
    arguments = BY_EPOCH | {"trainer_compat": True}
    assert_same_run(run_trainer(job, tmp_path / "a", **arguments), run_ftloop(job, tmp_path / "b", **arguments))


def test_the_best_checkpoint_is_loaded_whole(job: Job, tmp_path: Path) -> None:
    run = run_ftloop(job, tmp_path / "out", **BY_EPOCH | {"greater_is_better": True, "load_best_model_at_end": True})
    newest = max((tmp_path / "out").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    best = Path(json.loads((newest / "trainer_state.json").read_text())["best_model_checkpoint"])
    assert best != newest, "or the last LayerNorms would be the best ones"
    assert "bert.embeddings.LayerNorm.gamma" in load_file(best / "model.safetensors"), "saved under its old names"
    assert weights_digest(AutoModelForSequenceClassification.from_pretrained(best)) == run.weights


def test_trainer_keeps_the_last_layernorms_and_ftloop_the_best_ones(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The walkthrough's row, with its numbers."""
    model = job.model()
    train_rows, eval_rows = job.data()
    best = {"load_best_model_at_end": True, "greater_is_better": False}
    args = TrainingArguments(output_dir=str(tmp_path / "trainer"), **QUIET | BY_EPOCH | best)
    trainer = Trainer(model=model, args=args, train_dataset=train_rows, eval_dataset=eval_rows, data_collator=pad)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    kept = AutoModelForSequenceClassification.from_pretrained(trainer.state.best_model_checkpoint).state_dict()
    others = [name for name, weight in model.state_dict().items() if not torch.equal(weight, kept[name])]
    assert (len(others), len(kept)) == (10, 41)
    assert all("LayerNorm" in name for name in others)
    assert trainer.state.best_metric == pytest.approx(0.6924, abs=5e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(0.6928, abs=5e-5)

    capsys.readouterr()
    ours = run_ftloop(job, tmp_path / "ftloop", **BY_EPOCH | best | {"trainer_compat": True})
    assert ours.best[:2] == (trainer.state.best_metric, trainer.state.best_global_step)
    checkpoint = tmp_path / "ftloop" / Path(trainer.state.best_model_checkpoint).name
    assert ours.weights == weights_digest(AutoModelForSequenceClassification.from_pretrained(checkpoint))
    line = (
        f"Differs   from Trainer's weights, from here on: it leaves out those of {checkpoint.name} with other names, 10"
    )
    assert capsys.readouterr().out.count(line) == 1
    run_ftloop(job, tmp_path / "right", **BY_EPOCH | best)
    assert "Differs" not in capsys.readouterr().out


def test_a_resumed_run_ends_in_the_same_bytes(job: Job, tmp_path: Path) -> None:
    whole = run_ftloop(job, tmp_path / "whole", **BY_EPOCH)
    resumed = run_ftloop(job, tmp_path / "resumed", resume=tmp_path / "whole" / "checkpoint-16", **BY_EPOCH)
    assert resumed.weights == whole.weights


def test_the_command_ends_with_a_model_that_predicts(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(with_old_names(tmp_path / "bert-old", tiny_bert()))
    for name, count in (("train", 29), ("validation", 13)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, tiny_pairs(count))) + "\n")
    words = ["guide", "--model_name_or_path", str(tmp_path / "bert-old"), "--output_dir", str(tmp_path / "out")]
    words += [f"--{name}_file={tmp_path / name}.jsonl" for name in ("train", "validation")]
    assert main([*words, "--use_cpu", "true", "--num_train_epochs", "2", "--report_to", "none"]) == ExitCode.DONE
    classifier = load_classifier(str(tmp_path / "out"))
    assert torch.isfinite(classifier.model.classifier.weight).all()
