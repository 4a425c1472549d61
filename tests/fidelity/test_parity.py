"""With the same arguments, ftloop makes the run that transformers.Trainer makes: every bit, dropout on.

`trainer_compat` is held against the stock Trainer; the default against Trainer without its scaling defect, which is
what a model class with `accepts_loss_kwargs = False` gives. With one micro-batch per update all of them are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from harness.models import tiny_bert
from harness.side_by_side import BASE, Job, Trace, assert_same_run, run_ftloop, run_trainer
from torch import nn

CASES: dict[str, dict[str, Any]] = {
    "the base job": {},
    "accumulation 2, best at the end, one checkpoint kept, warmup by ratio": {
        "gradient_accumulation_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "save_total_limit": 1,
        "warmup_steps": 0.1,
    },
    "accumulation 3 with a remainder, a loss window of 4 updates, cosine": {
        "gradient_accumulation_steps": 3,
        "logging_steps": 4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
    },
    "bf16": {"bf16": True},
    "bf16, accumulation 3": {"bf16": True, "gradient_accumulation_steps": 3},
    "everything by steps, a fraction of an epoch": {
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 4,
        "load_best_model_at_end": True,
        "num_train_epochs": 1.5,
        "save_total_limit": 2,
    },
    "steps as shares of the run": {
        "eval_strategy": "steps",
        "eval_steps": 0.3,
        "save_strategy": "steps",
        "save_steps": 0.3,
        "logging_steps": 0.2,
    },
    "save when best, evaluate on start, max_steps in mid-epoch": {
        "save_strategy": "best",
        "metric_for_best_model": "spread",
        "eval_on_start": True,
        "max_steps": 13,
    },
    "label smoothing with accumulation": {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    "early stopping": {
        "early_stopping_patience": 1,
        "metric_for_best_model": "spread",
        "greater_is_better": False,
        "load_best_model_at_end": True,
        "num_train_epochs": 4,
    },
    "worker processes that persist": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    "no clipping, last batch dropped, the other AdamW, logs by epoch, data_seed": {
        "max_grad_norm": 0,
        "dataloader_drop_last": True,
        "optim": "adamw_torch",
        "logging_strategy": "epoch",
        "logging_first_step": True,
        "data_seed": 7,
    },
    "rows in the file's order": {"batching": "sequential", "gradient_accumulation_steps": 2},
    "clipping always active": {"max_grad_norm": 0.01},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "full determinism, another seed": {"full_determinism": True, "seed": 7},
    "evaluation delayed": {"eval_delay": 2, "save_only_model": True},
}


@pytest.fixture(autouse=True)
def quiet_trainer(capfd: pytest.CaptureFixture[str]) -> None:
    """Trainer prints every log line; pytest shows them where a test fails."""


def sides(tmp_path: Path, job: Job, trainer_job: Job | None = None, **arguments: Any) -> tuple[Trace, Trace]:
    arguments = BASE | arguments
    theirs = run_trainer(trainer_job or job, tmp_path / "trainer", **arguments)
    return theirs, run_ftloop(job, tmp_path / "ftloop", **arguments)


# Left to the slow tier, whose matrix has each of them in many combinations.
ONLY_SLOW = {"worker processes that persist", "gradient checkpointing", "full determinism, another seed"}
ONLY_SLOW |= {"steps as shares of the run", "clipping always active", "evaluation delayed", "bf16, accumulation 3"}


def by_tier(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in ONLY_SLOW else []) for name in names]


@pytest.mark.parametrize("name", by_tier(CASES))
def test_trainer_compat_makes_the_stock_trainers_run(name: str, tmp_path: Path) -> None:
    assert_same_run(*sides(tmp_path, Job(), trainer_compat=True, **CASES[name]))


@pytest.mark.parametrize(
    "job",
    [Job(lambda: tiny_bert(5), num_labels=5), Job(lambda: tiny_bert(1), regression=True)],
    ids=["five classes", "regression"],
)
def test_trainer_compat_makes_the_stock_trainers_run_for(job: Job, tmp_path: Path) -> None:
    assert_same_run(*sides(tmp_path, job, trainer_compat=True, gradient_accumulation_steps=2))


ONE_MICRO_BATCH = {
    name: arguments
    for name, arguments in CASES.items()
    if "gradient_accumulation_steps" not in arguments and "dataloader_drop_last" not in arguments
}


@pytest.mark.parametrize(
    "name",
    [
        "the base job",
        pytest.param("bf16", marks=pytest.mark.slow),
        pytest.param("everything by steps, a fraction of an epoch", marks=pytest.mark.slow),
        "early stopping",
    ],
)
def test_with_one_micro_batch_per_update_the_default_is_the_same_run(name: str, tmp_path: Path) -> None:
    assert_same_run(*sides(tmp_path, Job(), **ONE_MICRO_BATCH[name]))


def model_without_the_scaling_defect() -> nn.Module:
    model = tiny_bert()
    model.accepts_loss_kwargs = False  # Trainer then divides by the micro-batches of the update
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accumulation", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_default_is_trainers_run_without_its_scaling_defect(
    accumulation: int, precision: str, tmp_path: Path
) -> None:
    # 32 rows: all micro-batches are equal, and with accumulation 3 the last window is shorter. Elsewhere Trainer
    # counts a row of a short micro-batch for more than the others.
    theirs, ours = sides(
        tmp_path,
        Job(train_rows=32),
        Job(model_without_the_scaling_defect, train_rows=32),
        gradient_accumulation_steps=accumulation,
        bf16=precision == "bf16",
    )
    assert_same_run(theirs, ours)


def test_the_stock_trainer_has_the_scaling_defect(tmp_path: Path) -> None:
    """If this fails, transformers has mended #47688, and trainer_compat has to follow."""
    arguments = BASE | {"gradient_accumulation_steps": 2}
    stock = run_trainer(Job(), tmp_path / "stock", **arguments)
    ours = run_ftloop(Job(), tmp_path / "ftloop", **arguments)
    assert stock.history[0]["loss"] == pytest.approx(2 * ours.history[0]["loss"], rel=1e-6)
