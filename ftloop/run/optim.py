"""AdamW in two groups and its schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ftloop.errors import UserError

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer

    from ftloop.config.train_config import TrainConfig


# Parameters that are never decayed, by lower-case name: biases and whatever a family calls its normalisation.
NO_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")


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
    if isinstance(scheduler, ReduceLROnPlateau):
        raise UserError("optimizers: ReduceLROnPlateau waits for a metric that no schedule is given here; take another")
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise UserError("optimizers: the schedule is that of another optimizer")


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


def check_schedule(config: TrainConfig, warmup_steps: int = 1, max_steps: int = 10) -> None:
    """Raises: UserError when the schedule cannot be built, or not followed to its end; before any data is read."""
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = create_scheduler(optimizer, config, warmup_steps, max_steps)
    try:
        for rate in getattr(scheduler, "lr_lambdas", []):
            factors = [rate(step) for step in sorted({0, 1, warmup_steps, warmup_steps + 1, max_steps - 1, max_steps})]
            if not all(math.isfinite(factor) for factor in factors):
                raise ValueError("the learning rate would not be a finite number")
    except (TypeError, ValueError, ArithmeticError, KeyError) as error:
        raise _refused(config, error) from error


def _refused(config: TrainConfig, error: Exception) -> UserError:
    return UserError(
        f"lr_scheduler_type: {config.lr_scheduler_type} cannot be followed with lr_scheduler_kwargs "
        f"{config.lr_scheduler_kwargs} ({error})"
    )
