"""Decay groups, AdamW and its schedules, held against Trainer's."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

from ftloop.config.train_config import Schedule, TrainConfig
from ftloop.errors import UserError
from ftloop.run.optim import check_schedule, create_optimizer, create_scheduler, decayed_parameters

# Without these, get_scheduler itself refuses.
NEEDED = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-6},
    "warmup_stable_decay": {"num_decay_steps": 3},
}
SCHEDULES = typing.get_args(Schedule)


def trainer(model: nn.Module, folder: Path, **settings: Any) -> Trainer:
    return Trainer(model, TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, **settings))


def names(model: nn.Module, group: dict[str, Any]) -> list[str]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(parameter)] for parameter in group["params"]]


class OddlyNamed(nn.Module):
    """Whatever families call their biases and normalisation weights."""

    def __init__(self) -> None:
        super().__init__()
        self.normaliser = nn.LayerNorm(2)
        self.LayerNormLike = nn.Linear(2, 2)
        self.rmsnorm = nn.Linear(2, 2)
        self.norm = nn.Linear(2, 2)
        self.input_norm = nn.Linear(2, 2)
        self.relative_attention_bias = nn.Embedding(2, 2)
        self.normal = nn.Linear(2, 2)
        self.enormous = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(("build", "count"), [(tiny_bert, 17), (OddlyNamed, 3)])
def test_the_decayed_parameters_are_trainers(build: Any, count: int, tmp_path: Path) -> None:
    model = build()
    theirs = trainer(model, tmp_path).get_decay_parameter_names(model)
    assert decayed_parameters(model) == set(theirs)
    assert len(theirs) == count


def test_the_optimizer_is_trainers_group_by_group_and_in_its_order(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "learning_rate": 3e-4,
        "weight_decay": 0.02,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-6,
    }
    for optim in ("adamw_torch_fused", "adamw_torch"):
        model = tiny_bert()
        model.bert.embeddings.requires_grad_(False)
        ours = create_optimizer(model, TrainConfig(optim=optim, **settings))
        theirs = trainer(model, tmp_path, optim=optim, **settings).create_optimizer()
        assert type(ours) is type(theirs) is torch.optim.AdamW
        assert len(ours.param_groups) == len(theirs.param_groups) == 2
        for our, their in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert names(model, our) == names(model, their)
            assert len(names(model, our)) > 10
            ignored = ("params",)
            assert {k: v for k, v in our.items() if k not in ignored} == {
                k: v for k, v in their.items() if k not in ignored
            }
        assert [group["weight_decay"] for group in ours.param_groups] == [0.02, 0.0]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_is_built_and_is_that_of_transformers(kind: str) -> None:
    config = TrainConfig(lr_scheduler_type=kind, lr_scheduler_kwargs=NEEDED.get(kind))  # type: ignore[arg-type]
    check_schedule(config)
    rates = []
    for build in (
        lambda optimizer: create_scheduler(optimizer, config, 2, 10),
        lambda optimizer: get_scheduler(
            kind, optimizer, num_warmup_steps=2, num_training_steps=10, scheduler_specific_kwargs=NEEDED.get(kind)
        ),
    ):
        optimizer = create_optimizer(nn.Linear(1, 1), config)
        schedule = build(optimizer)
        rates.append([])
        for _ in range(10):
            rates[-1].append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert rates[0] == rates[1]
    assert max(rates[0]) == 5e-5


def test_every_schedule_that_needs_no_metric_is_offered() -> None:
    assert set(SCHEDULES) == {kind.value for kind in SchedulerType} - {"reduce_lr_on_plateau", "greedy"}


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("linear", {"num_cycles": 2}),
        ("cosine", {"cycles": 2}),
        ("cosine", {"num_cycles": "two"}),
        ("cosine_with_min_lr", None),
        ("cosine_with_min_lr", {"min_lr": 1e-6, "min_lr_rate": 0.1}),
        ("warmup_stable_decay", None),
        ("warmup_stable_decay", {"num_decay_steps": 3, "decay_type": "steep"}),
        ("polynomial", {"lr_end": 1.0}),
    ],
)
def test_arguments_that_a_schedule_does_not_take_are_refused_before_any_work(kind: Any, extra: Any) -> None:
    with pytest.raises(UserError, match=rf"^lr_scheduler_type: {kind} cannot be followed with .*\(.+\)"):
        check_schedule(TrainConfig(lr_scheduler_type=kind, lr_scheduler_kwargs=extra))


def test_the_schedule_is_checked_with_the_runs_own_learning_rate() -> None:
    def config(learning_rate: float) -> TrainConfig:
        return TrainConfig(
            learning_rate=learning_rate, lr_scheduler_type="polynomial", lr_scheduler_kwargs={"lr_end": 5e-3}
        )

    check_schedule(config(1e-2))
    with pytest.raises(UserError, match="must be smaller than initial lr"):
        check_schedule(config(1e-3))


def test_a_learning_rate_of_zero_is_no_crash() -> None:
    check_schedule(TrainConfig(learning_rate=0))
    with pytest.raises(UserError, match="lr_scheduler_type: cosine_with_min_lr cannot be followed"):
        check_schedule(
            TrainConfig(learning_rate=0, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 0.1})
        )
