"""Record a job as Trainer and as ftloop run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.models import tiny_bert
from harness.rows import pad
from harness.side_by_side import BASE, QUIET, Job
from transformers import Trainer, TrainingArguments

from ftloop import TrainConfig, load_checkpoint, prepare, train
from ftloop.compare import record
from ftloop.run.run import Run


def record_trainer(job: Job, file: Path, resume: str | None = None, **arguments: Any) -> Trainer:
    train_rows, eval_rows = job.data()
    trainer = Trainer(
        model=job.model(),
        args=TrainingArguments(output_dir=str(file.with_suffix("")), **QUIET | BASE | arguments),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=pad,
        compute_metrics=job.metrics,
    )
    record(trainer, file)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def divided() -> Any:
    """A model whose micro-batches' losses Trainer divides by their number."""
    model = tiny_bert()
    model.accepts_loss_kwargs = False
    return model


def record_ftloop(job: Job, file: Path, full: bool = False, resume: Path | None = None, **arguments: Any) -> Run:
    train_rows, eval_rows = job.data()
    config = TrainConfig(output_dir=str(file.with_suffix("")), **QUIET | BASE | arguments)
    run = prepare(config, job.model(), train_rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)
    if resume is not None:
        load_checkpoint(run, resume)
    with record(run, file, full) as recording:
        train(run, recording.training_step)
    return run
