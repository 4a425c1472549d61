"""Run transformers.Trainer and ftloop on the same job and keep everything that can be compared."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import pad, tiny_bert, tiny_rows
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from ftloop import TrainConfig, load_checkpoint, prepare, train
from ftloop.loop import training_step

# 29 rows in batches of 4 leave a batch of 1, 8 batches in windows of 3 a window of 2, 13 evaluation rows a batch of 1.
BASE: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "logging_steps": 1,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
}

QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}


@dataclass
class Job:
    """Model, rows and metrics of both sides."""

    model: Callable[[], nn.Module] = tiny_bert
    train_rows: int = 29
    eval_rows: int = 13
    num_labels: int = 2
    regression: bool = False

    def data(self) -> tuple[Any, Any]:
        return (
            tiny_rows(self.train_rows, self.num_labels, seed=1, regression=self.regression),
            tiny_rows(self.eval_rows, self.num_labels, seed=2, regression=self.regression),
        )

    def metrics(self, evaluated: Any) -> dict[str, float]:
        logits, labels = evaluated
        predicted = logits[:, 0] if self.regression else np.argmax(logits, axis=-1)
        return {"accuracy": float((predicted == labels).mean()), "spread": float(np.abs(logits).mean())}


@dataclass
class Trace:
    """What one side did."""

    losses: list[float]
    """Of every micro-batch, as it goes into the log."""
    history: list[dict[str, Any]]
    """The log history without timings."""
    weights: str
    best: tuple[Any, ...]
    checkpoints: dict[str, dict[str, str]]
    """Digest of every file of every checkpoint left."""
    train_loss: float
    total_flos: float


def run_trainer(job: Job, output_dir: Path, resume: str | None = None, **arguments: Any) -> Trace:
    """The stock Trainer."""
    patience = arguments.pop("early_stopping_patience", None)
    threshold = arguments.pop("early_stopping_threshold", 0.0)
    arguments.pop("trainer_compat", None)
    model = job.model()
    train_rows, eval_rows = job.data()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(output_dir), **QUIET | arguments),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=pad,
        compute_metrics=job.metrics,
        callbacks=[EarlyStoppingCallback(patience, threshold)] if patience else None,
    )
    losses: list[float] = []
    stock_step = trainer.training_step

    def recorded_step(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = stock_step(*args, **kwargs)
        losses.append(loss.item())
        return loss

    trainer.training_step = recorded_step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = trainer.train(resume_from_checkpoint=resume)
    return _trace(model, losses, trainer.state, output_dir, result.training_loss)


def run_ftloop(job: Job, output_dir: Path, resume: str | None = None, **arguments: Any) -> Trace:
    """ftloop with the same arguments."""
    model = job.model()
    train_rows, eval_rows = job.data()
    config = TrainConfig(output_dir=str(output_dir), **QUIET | arguments)
    run = prepare(config, model, train_rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)
    if resume is not None:
        load_checkpoint(run, Path(resume))
    losses: list[float] = []

    def recorded_step(*args: Any) -> torch.Tensor:
        loss = training_step(*args)
        losses.append(loss.item())
        return loss

    result = train(run, recorded_step)
    return _trace(model, losses, run.state, output_dir, result.training_loss)


def _trace(model: nn.Module, losses: list[float], state: Any, output_dir: Path, train_loss: float) -> Trace:
    history = [{name: value for name, value in entry.items() if not _is_timing(name)} for entry in state.log_history]
    best = state.best_model_checkpoint
    return Trace(
        losses=losses,
        history=history,
        weights=weights_digest(model),
        best=(state.best_metric, state.best_global_step, Path(best).name if best else None),
        checkpoints={
            folder.name: {path.name: file_digest(path) for path in sorted(folder.iterdir()) if _is_shared(path)}
            for folder in sorted(output_dir.glob("checkpoint-*"))
        },
        train_loss=train_loss,
        total_flos=state.total_flos,
    )


def _is_timing(name: str) -> bool:
    return name.endswith(("_runtime", "_per_second"))


def _is_shared(path: Path) -> bool:
    return path.name not in ("training_args.bin", "ftloop_state.json")


def weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Of a file's bytes; in trainer_state.json, timings and the folder's own place are left out."""
    if path.name != "trainer_state.json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    state = json.loads(path.read_text(), parse_constant=str)
    state["log_history"] = [{k: v for k, v in entry.items() if not _is_timing(k)} for entry in state["log_history"]]
    best = state["best_model_checkpoint"]
    state["best_model_checkpoint"] = Path(best).name if best else None
    return json.dumps(state, sort_keys=True)


def assert_same_run(theirs: Trace, ours: Trace) -> None:
    """Per micro-batch first, then per log line, then the end: the first difference is the telling one."""
    assert theirs.losses, "nothing was trained"
    assert ours.losses == theirs.losses
    assert ours.history == theirs.history
    assert ours.weights == theirs.weights
    assert ours.best == theirs.best
    assert ours.train_loss == theirs.train_loss
    assert ours.total_flos == theirs.total_flos
    assert ours.checkpoints.keys() == theirs.checkpoints.keys()
    for folder, files in theirs.checkpoints.items():
        assert ours.checkpoints[folder] == files, folder
