"""Two recorded runs are told apart at the update and the stage where they part, and the known traps by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hand_loop import hand_loop
from side_by_side import BASE, QUIET, Job
from tiny import pad, tiny_bert
from transformers import Trainer, TrainingArguments

from ftloop.compare import Comparison, compare, describe, explain, read, record


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


def long_head() -> Any:
    """Its gradients are large enough for clipping to act on all updates."""
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.weight.mul_(40)
    return model


PLAIN, DIVIDED, STEEP = Job(), Job(divided), Job(long_head)
# 29 rows: 8 micro-batches of 4, the last of 1; with accumulation 3 the last window of an epoch has 2 of them.
K1 = ({}, {"accumulation": 1})
K3 = ({"gradient_accumulation_steps": 3}, {"accumulation": 3})
BY_STEPS = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"}
K1_STEPS = (BY_STEPS, {"eval_steps": 3})
NO_EVAL = {"eval_strategy": "no", "save_strategy": "no"}
K1_NO_EVAL = (NO_EVAL, {"eval_steps": 0})
K3_NO_EVAL = (K3[0] | NO_EVAL, K3[1] | {"eval_steps": 0})
ONE_WORKER = (NO_EVAL | {"dataloader_num_workers": 1}, {"eval_steps": 0, "workers": 1})

# The fault; the job, Trainer's arguments and the loop's; the update and the stage where they part; the cause.
# With the number of the row in section 10 of the list of traps, where it has one.
FAULTS: list[tuple[str, Job, Any, int, str, str]] = [
    ("divides by accumulation", PLAIN, K3, 1, "loss", "accumulation"),
    ("plain shuffle", PLAIN, K1, 1, "rows", "sampler"),
    ("no shuffle", PLAIN, K1, 1, "rows", "not-shuffled"),
    ("no reseed", PLAIN, K1, 1, "random state", "not-reseeded"),
    ("no set_epoch", PLAIN, K3, 4, "rows", "set-epoch"),
    ("evaluation without an iterator", PLAIN, K1_STEPS, 4, "random state", "evaluation-draw"),
    ("unfused", PLAIN, K1, 1, "weights", "fused"),
    ("decay on everything", PLAIN, K1, 1, "weights", "decay-groups"),
    ("no clipping", STEEP, K1, 1, "clipping", "no-clipping"),
    ("learning rate logged late", PLAIN, K3, 1, "log", "logged-after-step"),
    ("losses added in Python", PLAIN, ({"logging_steps": 4}, {"logging_steps": 4}), 4, "log", "log-precision"),
    ("mean of batch means", PLAIN, K1, 8, "evaluation", "evaluation-average"),
    ("fixed divisor", DIVIDED, K3, 3, "loss", "fixed-divisor"),
    ("no final evaluation", PLAIN, K1_STEPS, 16, "evaluation", "nothing-at-the-end"),
    ("persistent workers", PLAIN, ONE_WORKER, 9, "random state", "persistent-workers"),
    # those that are not in that section
    ("steps after the first micro-batch", PLAIN, K3, 1, "rows", "step-modulo"),
    ("last window carried on", PLAIN, K3_NO_EVAL, 3, "rows", "window-carried"),
    ("last window dropped", PLAIN, K3_NO_EVAL, 3, "rows", "window-dropped"),
    ("drop last", PLAIN, K3_NO_EVAL, 3, "rows", "drop-last"),
    ("drop last", PLAIN, K1_NO_EVAL, 8, "rows", "drop-last"),
    ("no zero_grad", PLAIN, K1, 2, "gradient", "zero-grad"),
    ("never back to training mode", PLAIN, K1_STEPS, 4, "loss", "eval-mode"),
    ("scheduler first", PLAIN, K1, 1, "learning rate", "scheduler-first"),
    ("scheduler per micro-batch", PLAIN, K3, 1, "learning rate", "scheduler-per-micro-batch"),
    ("last loss logged", PLAIN, ({"logging_steps": 4}, {"logging_steps": 4}), 4, "log", "logs-last-loss"),
    ("norm logged late", STEEP, K1, 1, "log", "logged-after-clipping"),
    ("another max_grad_norm", STEEP, K1, 1, "clipping", "max-grad-norm"),
    ("another epsilon", PLAIN, K1, 1, "weights", "eps"),
    ("global padding", PLAIN, K1, 1, "padding", "padding-global"),
    ("other seed", PLAIN, K1, 1, "random state", "seed"),
    ("other labels", PLAIN, K1, 1, "rows", "data"),
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trainer's recording of a job, made once."""
    made: dict[str, Path] = {}

    def recording(job: Job, arguments: dict[str, Any]) -> Path:
        key = repr((job, sorted(arguments.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("trainer") / "trainer.jsonl"
            record_trainer(job, made[key], **arguments)
        return made[key]

    return recording


def compared(a: Path, b: Path) -> Comparison:
    return compare(read(a), read(b))


@pytest.mark.parametrize(("job", "case"), [(PLAIN, K1), (PLAIN, K3), (DIVIDED, K3), (STEEP, K1), (PLAIN, K1_STEPS)])
def test_a_loop_of_ones_own_without_a_fault_is_trainers_run(job: Job, case: Any, theirs: Any, tmp_path: Path) -> None:
    """Without this, the faults below would not be what makes the runs part."""
    hand_loop(job, tmp_path / "mine.jsonl", **case[1])
    comparison = compared(theirs(job, case[0]), tmp_path / "mine.jsonl")
    assert comparison.same, describe(comparison)
    assert len(comparison.updates) == (6 if case is K3 else 16)
    assert "THE SAME RUN" in describe(comparison)


@pytest.mark.parametrize(
    ("fault", "job", "case", "update", "stage", "cause"), FAULTS, ids=[f"{f[0]}-{f[3]}" for f in FAULTS]
)
def test_each_trap_is_found_where_it_is_and_called_by_its_name(
    fault: str, job: Job, case: Any, update: int, stage: str, cause: str, theirs: Any, tmp_path: Path
) -> None:
    hand_loop(job, tmp_path / "mine.jsonl", fault, **case[1])
    for files in ((theirs(job, case[0]), tmp_path / "mine.jsonl"), (tmp_path / "mine.jsonl", theirs(job, case[0]))):
        comparison = compared(*files)
        assert not comparison.same
        assert (comparison.first.update, comparison.first.stage) == (update, stage), describe(comparison)
        assert [each.name for each in explain(comparison)] == [cause], describe(comparison)
