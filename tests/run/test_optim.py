"""Decay groups, AdamW and its schedules, held against Trainer's."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert
from harness.prepared_runs import ARGUMENTS
from harness.rows import pad, tiny_rows
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

from ftloop import Run, evaluate, load_checkpoint, prepare, save_checkpoint, train, updates
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


UPDATES = 8  # of a run that is prepared below
Schedules = Callable[[torch.optim.Optimizer], Any]


def prepared(folder: Path, schedule: Schedules | None, optimizer: Any = torch.optim.AdamW, **settings: Any) -> Run:
    """A run with an optimizer and a schedule of the user's."""
    model = tiny_bert()
    given = optimizer(model.parameters(), lr=1e-3)
    config = TrainConfig(output_dir=str(folder), **ARGUMENTS | {"num_train_epochs": 1} | settings)
    parts = (given, None if schedule is None else schedule(given))
    return prepare(config, model, tiny_rows(29), tiny_rows(5), data_collator=pad, optimizers=parts)


def one_cycle(total_steps: int) -> Schedules:
    return lambda optimizer: OneCycleLR(optimizer, 1e-3, total_steps=total_steps)


def after_warmup(schedule: Schedules) -> Schedules:
    return lambda optimizer: SequentialLR(optimizer, [LinearLR(optimizer, total_iters=3), schedule(optimizer)], [3])


def chained(schedule: Schedules) -> Schedules:
    return lambda optimizer: ChainedScheduler([LinearLR(optimizer, total_iters=3), schedule(optimizer)], optimizer)


def by_table(length: int) -> Schedules:
    return lambda optimizer: LambdaLR(optimizer, lambda step: [1.0 / (1 + i) for i in range(length)][step])


TOO_SHORT: dict[str, tuple[Schedules, Schedules, str]] = {
    "one cycle": (one_cycle(7), one_cycle(8), "ends after total_steps=7, and the 8 updates of this run step it to 8;"),
    "after a warmup": (after_warmup(one_cycle(4)), after_warmup(one_cycle(5)), "total_steps=4, .* step it to 5; .*=5,"),
    "chained": (chained(one_cycle(7)), chained(one_cycle(8)), "ends after total_steps=7, .* to 8; .*total_steps=8,"),
    "a table": (by_table(8), by_table(9), r"ask the function of LambdaLR for 0 to 8, where it fails \(IndexError: "),
}


@pytest.mark.parametrize("name", TOO_SHORT)
def test_a_schedule_that_ends_before_the_run_is_told_before_any_update(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_short, fits, said = TOO_SHORT[name]
    with pytest.raises(UserError, match=f"^optimizers: .*{said}"):
        prepared(tmp_path, too_short)
    run = prepared(tmp_path, fits)
    train(run)
    assert run.state.global_step == run.plan.max_steps == UPDATES
    assert "Warning" not in capsys.readouterr().out


def test_the_first_of_schedules_in_a_row_need_not_reach_the_end(tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        return SequentialLR(optimizer, [one_cycle(3)(optimizer), LinearLR(optimizer), one_cycle(1)(optimizer)], [4, 20])

    train(prepared(tmp_path, schedule))


def test_a_schedule_taken_over_from_a_checkpoint_is_held_against_the_updates_that_are_left(tmp_path: Path) -> None:
    run = prepared(tmp_path, one_cycle(8))
    next(updates(run))
    save_checkpoint(run)
    saved = tmp_path / "checkpoint-1"
    longer = prepared(tmp_path / "longer", one_cycle(9), max_steps=9)
    with pytest.raises(UserError, match=r"ends after total_steps=8, and the 8 updates of this run step it to 9; it"):
        load_checkpoint(longer, saved)
    same = prepared(tmp_path / "same", one_cycle(8))
    load_checkpoint(same, saved)
    train(same)
    assert same.state.global_step == UPDATES


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (lambda optimizer: CosineAnnealingLR(optimizer, 6), "with T_max=6 the rate of CosineAnnealingLR rises again"),
        (lambda optimizer: CosineAnnealingLR(optimizer, 7), None),
        (lambda optimizer: PolynomialLR(optimizer, 6), "with total_iters=6 the rate of PolynomialLR is 0 before"),
        (lambda optimizer: PolynomialLR(optimizer, 7), None),
        (lambda optimizer: LinearLR(optimizer, total_iters=2), None),
        (after_warmup(lambda optimizer: CosineAnnealingLR(optimizer, 3)), "T_max=3 .*: it is stepped 5 times"),
    ],
)
def test_a_schedule_that_goes_on_otherwise_than_it_began_is_warned_of(
    schedule: Schedules, said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepared(tmp_path, schedule)
    warned = capsys.readouterr().out
    assert warned.count("Warning") == len(re.findall(f"Warning   optimizers: .*{said}", warned)) == bool(said)
    rates = [update.learning_rate or 0.0 for update in updates(run)]
    assert len(rates) == UPDATES
    assert (rates[-1] > rates[-2] or rates[-2] == 0) == bool(said)


class Sam(torch.optim.SGD):
    """Looks at the loss of other weights too."""

    def step(self, first: Any, /, *more: Any, **others: Any) -> None:  # type: ignore[override]
        raise AssertionError("is not called")


@pytest.mark.parametrize(("optimizer", "needed"), [(torch.optim.LBFGS, "closure"), (Sam, "first")])
@pytest.mark.parametrize("schedule", [None, one_cycle(8)])
def test_an_optimizer_that_needs_more_than_gradients_is_told(
    optimizer: Any, needed: str, schedule: Any, tmp_path: Path
) -> None:
    said = f"^optimizers: the step of {optimizer.__name__} needs a {needed}, .*such as AdamW or SGD"
    with pytest.raises(UserError, match=said):
        prepared(tmp_path, schedule if optimizer is Sam else None, optimizer)


class Wrapped(torch.optim.SGD):
    """Hands on whatever its step is given."""

    def step(self, *given: Any, **named: Any) -> Any:
        return super().step(*given, **named)


def test_an_optimizer_that_can_take_more_than_gradients_steps_without(tmp_path: Path) -> None:
    run = prepared(tmp_path, one_cycle(8), Wrapped)
    train(run)
    assert run.state.global_step == UPDATES


def test_a_function_is_no_schedule(tmp_path: Path) -> None:
    def halved(step: int) -> float:
        return 0.5

    with pytest.raises(UserError, match=r"optimizers: halved is no schedule; of a function, LambdaLR\(optimizer, func"):
        prepared(tmp_path, lambda optimizer: halved)
    run = prepared(tmp_path, lambda optimizer: LambdaLR(optimizer, halved))
    assert next(updates(run)).learning_rate == 5e-4


def test_a_schedule_that_waits_for_a_metric_is_stepped_in_a_loop_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ReduceLROnPlateau needs metrics, .* Give ConstantLR\(optimizer, factor=1\)"):
        prepared(tmp_path, lambda optimizer: ReduceLROnPlateau(optimizer))
    run = prepared(tmp_path, lambda optimizer: ConstantLR(optimizer, factor=1))
    plateau = ReduceLROnPlateau(run.optimizer.optimizer, mode="max", factor=0.5, patience=0)
    rates = []
    for update in updates(run):
        rates.append(run.optimizer.param_groups[0]["lr"])
        if update.global_step % 2 == 0:
            plateau.step(-evaluate(run)["eval_loss"] - update.global_step)  # worse each time but the first
        if update.global_step == 5:
            save_checkpoint(run)
    assert rates == [1e-3] * 4 + [5e-4] * 2 + [2.5e-4] * 2
    resumed = prepared(tmp_path, lambda optimizer: ConstantLR(optimizer, factor=1))
    load_checkpoint(resumed, tmp_path / "checkpoint-5")
    assert [resumed.optimizer.param_groups[0]["lr"] for _ in updates(resumed)] == [5e-4] * 3


def frozen(thawed: bool = False) -> Any:
    model: Any = tiny_bert()
    model.bert.requires_grad_(thawed)
    return model


def prepared_with(folder: Path, model: Any, optimizer: Any = None, schedule: Any = None) -> Run:
    config = TrainConfig(output_dir=str(folder), **ARGUMENTS | {"num_train_epochs": 1})
    return prepare(config, model, tiny_rows(29), data_collator=pad, optimizers=(optimizer, schedule))


def trained_with(run: Run, thawed_at: int = 0, body: Callable[[Run], None] = lambda run: None) -> None:
    """Thaw the body after that update; `body` is what else is done then."""
    for update in updates(run):
        if update.global_step == thawed_at:
            run.model.requires_grad_(True)
            body(run)


def test_a_gradient_that_no_optimizer_takes_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_with(prepared_with(tmp_path, frozen()), thawed_at=3)
    told = capsys.readouterr().out
    assert told.count("Warning") == 1
    assert "Warning   bert.embeddings.word_embeddings.weight and 38 more have gradients and are in no optimizer" in told
    assert "freeze them after prepare(...), or give it optimizers=(one of all parameters, None)" in told
    model = frozen(thawed=True)
    trained_with(prepared_with(tmp_path, model, torch.optim.SGD(model.classifier.parameters(), lr=0.1)))
    assert capsys.readouterr().out.count("have gradients and are in no optimizer") == 1


def test_frozen_parts_and_the_ways_out_are_not_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def moved(model: Any, run: Run, **thawed: Any) -> bool:
        before = model.bert.pooler.dense.weight.detach().clone()
        trained_with(run, **thawed)
        return not torch.equal(before, model.bert.pooler.dense.weight)

    model = frozen()
    assert not moved(model, prepared_with(tmp_path, model)), "frozen to the end"
    model = frozen(thawed=True)
    after = prepared_with(tmp_path, model)
    model.bert.requires_grad_(False)
    assert moved(model, after, thawed_at=3)
    model = frozen()
    assert moved(model, prepared_with(tmp_path, model, torch.optim.AdamW(model.parameters(), lr=1e-3)), thawed_at=3)

    def add(run: Run) -> None:
        run.optimizer.optimizer.add_param_group({"params": list(model.bert.parameters())})

    model = frozen()
    head = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    assert moved(model, prepared_with(tmp_path, model, head, ConstantLR(head, factor=1)), thawed_at=3, body=add)
    assert "Warning" not in capsys.readouterr().out
