"""AdamW in two groups and its schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

from ftloop.errors import UserError, summarize
from ftloop.system.console import say
from ftloop.system.text import join_some

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate.optimizer import AcceleratedOptimizer

    from ftloop.config.train_config import TrainConfig


# Parameters that are never decayed, by lower-case name: biases and whatever a family calls its normalisation.
NO_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
ENDS = {CosineAnnealingLR: ("T_max", "rises again"), PolynomialLR: ("total_iters", "is 0")}
"""Schedules that can be stepped beyond their end: the argument that sets the end, and what happens after it."""


def decayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to.

    Mirrors: Trainer.get_decay_parameter_names.
    """
    from transformers.trainer_pt_utils import get_parameter_names

    return set(get_parameter_names(model, [nn.LayerNorm], list(NO_DECAY)))


def create_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW over two groups, decayed and not, each in the order of `named_parameters()`.

    The order is what makes `optimizer.pt` interchangeable with Trainer's.
    Mirrors: Trainer.create_optimizer.
    """
    decayed = decayed_parameters(model)
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trainable if name in decayed], "weight_decay": config.weight_decay},
        {"params": [p for name, p in trainable if name not in decayed], "weight_decay": 0.0},
    ]
    return AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True if config.optim == "adamw_torch_fused" else None,
    )


def make_optimizer(model: nn.Module, config: TrainConfig, given: Optimizer | None) -> Optimizer:
    """The optimizer given, else the configuration's. It tells once of parameters with a gradient that it does not hold,
    such as those frozen until now: a gradient shows at a step alone, and to look costs nothing where it holds all.
    """
    optimizer = given or create_optimizer(model, config)
    outside = _not_held(optimizer, dict(model.named_parameters()))

    def look(*_: Any) -> None:
        if any(parameter.grad is not None for parameter in outside.values()):
            missing = _not_held(optimizer, outside)  # a group may have been added
            found = [name for name, parameter in missing.items() if parameter.grad is not None]
            if found:
                say("Warning", _untrained(found))
                hook.remove()

    if outside:
        hook = optimizer.register_step_pre_hook(look)
    return optimizer


def _not_held(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in parameters.items() if id(parameter) not in held}


def _untrained(names: list[str]) -> str:
    have = "has a gradient and is" if len(names) == 1 else "have gradients and are"
    return (
        f"{join_some(names, 1)} {have} in no optimizer: nothing of that is trained, while clipping counts it. The "
        "optimizer holds what was not frozen at prepare(...): to train such parts later, freeze them after prepare(...)"
        ", or give it optimizers=(one of all parameters, None); to leave them as they are, set requires_grad=False"
    )


def check_optimizers(model: nn.Module, optimizers: Any) -> None:
    """Raises: UserError for an optimizer or a schedule of the user's that would not train this model."""
    if not isinstance(optimizers, (tuple, list)) or len(optimizers) != 2:
        raise UserError("optimizers: a tuple of two is wanted, (optimizer, schedule); (optimizer, None) is one alone")
    optimizer, scheduler = optimizers
    if optimizer is None:
        if scheduler is not None:
            raise UserError("optimizers: a schedule belongs to an optimizer: give both, or an optimizer and None")
        return
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizers: an optimizer and a schedule are wanted, not {type(optimizer).__name__}")
    own = {id(parameter) for parameter in model.parameters()}
    if not all(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise UserError("optimizers: the optimizer holds parameters of another model; make it of this model's own")
    if needed := _needed_by_step(optimizer):
        raise UserError(
            f"optimizers: the step of {type(optimizer).__name__} needs a {needed}, and the loop, which computes the "
            "gradients once for each update, calls it without; take one that steps without, such as AdamW or SGD"
        )
    if scheduler is None:
        return
    if not (callable(getattr(scheduler, "step", None)) and callable(getattr(scheduler, "get_last_lr", None))):
        kind = getattr(scheduler, "__name__", type(scheduler).__name__)
        raise UserError(f"optimizers: {kind} is no schedule; of a function, LambdaLR(optimizer, function) makes one")
    if needed := _needed_by_step(scheduler):
        raise UserError(
            f"optimizers: the step of {type(scheduler).__name__} needs {needed}, and a schedule is stepped after "
            "each update without. Give ConstantLR(optimizer, factor=1) in its place, which leaves the learning rate "
            "alone, and step yours in the body of a loop over updates(run), with what evaluate(run) returns"
        )
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise UserError("optimizers: the schedule is that of another optimizer")


def _needed_by_step(stepped: Any) -> str:
    """Return the name of an argument that `step` cannot be called without; empty where there is none to be known of."""
    try:
        # Not of the instance: what a schedule puts around an optimizer's own hides that it is bound.
        _, *parameters = inspect.signature(type(stepped).step).parameters.values()
    except (TypeError, ValueError):  # it is not written in Python
        return ""
    return next((each.name for each in parameters if each.default is each.empty and each.kind not in VARIADIC), "")


def create_scheduler(
    optimizer: Optimizer | AcceleratedOptimizer, config: TrainConfig, warmup_steps: int, max_steps: int
) -> LRScheduler:
    """The schedule, one step per update. It is never given to `accelerator.prepare`, which would step it once per
    process and so run through it that many times too fast.

    Raises: UserError for `lr_scheduler_kwargs` the schedule does not take.
    Mirrors: Trainer.create_scheduler.
    """
    from transformers import get_scheduler

    try:
        return get_scheduler(
            config.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=warmup_steps,
            num_training_steps=max_steps,
            scheduler_specific_kwargs=config.lr_scheduler_kwargs,
        )
    except (TypeError, ValueError, ArithmeticError, KeyError) as error:
        raise _refused(config, error) from error


def check_schedule(
    config: TrainConfig, warmup_steps: int = 1, max_steps: int = 10, given: LRScheduler | None = None
) -> None:
    """Raises: UserError when the schedule, the configuration's or the one given, cannot be built or not followed to its
    end; before any data is read, or any update made."""
    if given is not None:
        check_length(given, max_steps)
        for part, steps in _parts(given, max_steps):
            name, what = ENDS.get(type(part), ("", ""))
            if name and steps - 1 > (length := getattr(part, name)):
                kind, fits = type(part).__name__, f"it is stepped {steps} times, once after each update"
                say("Warning", f"optimizers: with {name}={length} the rate of {kind} {what} before the end: {fits}")
        return
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = create_scheduler(optimizer, config, warmup_steps, max_steps)
    try:
        for rate in getattr(scheduler, "lr_lambdas", []):
            factors = [rate(step) for step in sorted({0, 1, warmup_steps, warmup_steps + 1, max_steps - 1, max_steps})]
            if not all(math.isfinite(factor) for factor in factors):
                raise ValueError("the learning rate would not be a finite number")
    except (TypeError, ValueError, ArithmeticError, KeyError) as error:
        raise _refused(config, error) from error


def check_length(scheduler: Any, updates: int, resumed_from: Path | None = None) -> None:
    """Raises: UserError when a schedule of the user's cannot be stepped so many times more, once after each update."""
    for part, steps in _parts(scheduler, updates):
        kind = type(part).__name__
        if isinstance(part, OneCycleLR) and steps > part.total_steps:
            way = f"make it with total_steps={steps}, or the run shorter with max_steps"
            if resumed_from is not None:  # whose total_steps it has taken over
                way = f"it goes on as {resumed_from} has it: resume with fewer updates, or train anew from its weights"
            raise UserError(
                f"optimizers: {kind} ends after total_steps={part.total_steps}, and the {updates} updates of this run "
                f"step it to {steps}; {way}"
            )
        for rate in getattr(part, "lr_lambdas", []):
            try:
                rate(steps)
            except Exception as error:
                asked = f"the {updates} updates of this run ask the function of {kind} for 0 to {steps}"
                fault = f"{type(error).__name__}: {summarize(error)}"
                raise UserError(f"optimizers: {asked}, where it fails ({fault})") from error


def _parts(scheduler: Any, updates: int) -> Iterator[tuple[Any, int]]:
    """Yield the schedules that one is made of, each with how often it will have been stepped so many updates on."""
    done = max(getattr(scheduler, "last_epoch", 0), 0)
    if isinstance(scheduler, ChainedScheduler):
        for part in scheduler._schedulers:
            yield from _parts(part, updates)
    elif isinstance(scheduler, SequentialLR):
        begins, last = [0, *scheduler._milestones], done + updates
        for part, begin, end in zip(scheduler._schedulers, begins, [*scheduler._milestones, last + 1], strict=True):
            if begin <= last and done < end:
                yield from _parts(part, min(end - 1, last) - max(begin, done))
    else:
        yield scheduler, done + updates


def _refused(config: TrainConfig, error: Exception) -> UserError:
    return UserError(
        f"lr_scheduler_type: {config.lr_scheduler_type} cannot be followed with lr_scheduler_kwargs "
        f"{config.lr_scheduler_kwargs} ({error})"
    )
