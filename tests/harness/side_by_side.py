"""Run transformers.Trainer and ftloop on the same job and keep everything that can be compared."""

from __future__ import annotations

import gc
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from datasets import Dataset
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
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
    two_sentences: bool = False
    """The second half of a row has token type 1."""
    eval_names: tuple[str, ...] = ()
    """Return several evaluation sets, each a row smaller than the one before."""
    loss: Callable[..., torch.Tensor] | None = None
    """`compute_loss_func`."""
    optimizers: Callable[[nn.Module], tuple[Any, Any]] = lambda model: (None, None)

    def data(self) -> tuple[Any, Any]:
        sets = {name: self._rows(self.eval_rows - i, seed=2 + i) for i, name in enumerate(self.eval_names)}
        return self._rows(self.train_rows, seed=1), sets or self._rows(self.eval_rows, seed=2)

    def _rows(self, count: int, seed: int) -> Dataset:
        rows = tiny_rows(count, self.num_labels, seed, self.regression)
        if not self.two_sentences:
            return rows
        types = [[int(i >= len(row) // 2) for i in range(len(row))] for row in rows["input_ids"]]
        return rows.remove_columns("token_type_ids").add_column("token_type_ids", types)

    def metrics(self, evaluated: Any) -> dict[str, float]:
        logits, labels = evaluated
        predicted = logits.reshape(-1) if self.regression else np.argmax(logits, axis=-1)
        return {"accuracy": float((predicted == labels).mean()), "spread": float(np.abs(logits).mean())}


@dataclass
class Trace:
    """Everything one side did that can be compared."""

    losses: list[float]
    """The loss of every micro-batch, as it goes into the log."""
    updates: list[dict[str, Any]]
    """Every update, logged or not: losses of its micro-batches, grad_norm, learning_rate, epoch, global_step."""
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
    if "batching" in arguments:
        arguments["train_sampling_strategy"] = arguments.pop("batching")
    model = job.model()
    train_rows, eval_rows = job.data()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(output_dir), **QUIET | arguments),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=pad,
        compute_metrics=job.metrics,
        compute_loss_func=job.loss,
        optimizers=job.optimizers(model),
        callbacks=[EarlyStoppingCallback(patience, threshold)] if patience else None,
    )
    losses: list[float] = []
    stock_step = trainer.training_step

    def recorded_step(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = stock_step(*args, **kwargs)
        losses.append(loss.item())
        return loss

    trainer.training_step = recorded_step
    with gpus_hidden(arguments), warnings.catch_warnings(), watched(losses, lambda: trainer.state) as updates:
        warnings.simplefilter("ignore")
        result = trainer.train(resume_from_checkpoint=resume)
    if arguments.get("dataloader_persistent_workers"):
        _end_workers()
    return _trace(model, losses, updates, trainer.state, output_dir, result.training_loss)


def _end_workers() -> None:
    """Left to the garbage collector in Trainer's reference cycle, each of them would be waited for for five seconds."""
    for iterator in [each for each in gc.get_objects() if type(each) is _MultiProcessingDataLoaderIter]:
        iterator._shutdown_workers()


def run_ftloop(job: Job, output_dir: Path, resume: str | None = None, **arguments: Any) -> Trace:
    """ftloop with the same arguments."""
    model = job.model()
    train_rows, eval_rows = job.data()
    config = TrainConfig(output_dir=str(output_dir), **QUIET | arguments)
    run = prepare(
        config,
        model,
        train_rows,
        eval_rows,
        data_collator=pad,
        compute_metrics=job.metrics,
        compute_loss_func=job.loss,
        optimizers=job.optimizers(model),
    )
    if resume is not None:
        load_checkpoint(run, Path(resume))
    losses: list[float] = []

    def recorded_step(*args: Any) -> torch.Tensor:
        loss = training_step(*args)
        losses.append(loss.item())
        return loss

    with gpus_hidden(arguments), watched(losses, lambda: run.state) as updates:
        result = train(run, recorded_step)
    return _trace(model, losses, updates, run.state, output_dir, result.training_loss)


@contextmanager
def gpus_hidden(arguments: dict[str, Any]) -> Iterator[None]:
    """Hide the GPUs from a run on the CPU: Trainer starts CUDA there all the same, to save generators nobody uses."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("is_available", "is_initialized") if (QUIET | arguments)["use_cpu"] else ():
            patch.setattr(torch.cuda, name, lambda: False)
        yield


@contextmanager
def watched(losses: list[float], state: Callable[[], Any]) -> Iterator[list[dict[str, Any]]]:
    """Every update of either side, seen from below: where Accelerate clips and the optimizer steps.

    `losses` grows by every micro-batch; `state` gives what holds `epoch` and `global_step`.
    """
    updates: list[dict[str, Any]] = []
    norms: list[float] = []
    clip = Accelerator.clip_grad_norm_

    def clip_and_note(*args: Any, **kwargs: Any) -> Any:
        norm = clip(*args, **kwargs)
        norms.append(float(norm))
        return norm

    def note_where_the_last_one_ended() -> None:
        if updates:
            updates[-1] |= {"epoch": state().epoch, "global_step": state().global_step}

    def before_a_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        note_where_the_last_one_ended()
        done = sum(len(update["losses"]) for update in updates)
        rate = optimizer.param_groups[0]["lr"]
        updates.append({"losses": losses[done:], "grad_norm": norms[-1] if norms else None, "learning_rate": rate})
        norms.clear()

    hook = register_optimizer_step_pre_hook(before_a_step)
    Accelerator.clip_grad_norm_ = clip_and_note
    try:
        yield updates
    finally:
        Accelerator.clip_grad_norm_ = clip
        hook.remove()
    note_where_the_last_one_ended()


def _trace(
    model: nn.Module,
    losses: list[float],
    updates: list[dict[str, Any]],
    state: Any,
    output_dir: Path,
    train_loss: float,
) -> Trace:
    if dist.is_initialized():
        dist.barrier()  # Trainer does not wait for the process that saves
    history = [{name: value for name, value in entry.items() if not _is_timing(name)} for entry in state.log_history]
    best = state.best_model_checkpoint
    return Trace(
        losses=losses,
        updates=updates,
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
    return path.name != "training_args.bin" and not path.name.startswith("ftloop_")


def weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Digest a file's bytes; in trainer_state.json, timings and the folder's own place are left out, and in
    adapter_config.json the order of names, which PEFT takes from a set.
    """
    if path.name == "adapter_config.json":
        values = json.loads(path.read_text())
        return json.dumps({k: sorted(v) if isinstance(v, list) else v for k, v in values.items()}, sort_keys=True)
    if path.name != "trainer_state.json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    state = json.loads(path.read_text(), parse_constant=str)
    state["log_history"] = [{k: v for k, v in entry.items() if not _is_timing(k)} for entry in state["log_history"]]
    best = state["best_model_checkpoint"]
    state["best_model_checkpoint"] = Path(best).name if best else None
    return json.dumps(state, sort_keys=True)


def first_difference(theirs: Trace, ours: Trace, left_out: frozenset[str] = frozenset()) -> str | None:
    """Per update first, then per log line, then the end: the first difference is the telling one. None: the same.

    `left_out` names values that are not compared.
    """
    for number, (a, b) in enumerate(zip(theirs.updates, ours.updates, strict=False), start=1):
        if a != b:
            return _where(f"update {number}", a, b)
    if len(theirs.updates) != len(ours.updates):
        return _said("updates", len(theirs.updates), len(ours.updates))
    for a, b in zip(_without(left_out, theirs.history), _without(left_out, ours.history), strict=False):
        if a != b:
            return _where(f"log line of update {a['step']}", a, b)
    if len(theirs.history) != len(ours.history):
        return _said("log lines", len(theirs.history), len(ours.history))
    for name in ("losses", "weights", "best", "train_loss", "total_flos"):
        if name not in left_out and getattr(theirs, name) != getattr(ours, name):
            return _said(name, getattr(theirs, name), getattr(ours, name))
    if theirs.checkpoints.keys() != ours.checkpoints.keys():
        return _said("checkpoints", [*theirs.checkpoints], [*ours.checkpoints])
    for folder, files in theirs.checkpoints.items():
        if files != ours.checkpoints[folder]:
            return _where(folder, files, ours.checkpoints[folder])
    return None


def _without(left_out: frozenset[str], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name not in left_out} for entry in history]


def _where(place: str, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    name = next(name for name in [*theirs, *ours] if theirs.get(name) != ours.get(name))
    return _said(f"{place}, {name}", theirs.get(name), ours.get(name))


def _said(what: str, theirs: Any, ours: Any) -> str:
    return f"{what}: Trainer {theirs!r}, ftloop {ours!r}"


def assert_same_run(theirs: Trace, ours: Trace) -> None:
    assert theirs.updates, "nothing was trained"
    difference = first_difference(theirs, ours)
    assert difference is None, difference
