"""Progress of a run, and what is due after an update."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.errors import UserError

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig
    from ftloop.run.plan import TrainingPlan


class Phase(StrEnum):
    """How far an update has been seen to after its optimizer step."""

    NONE = "none"
    UPDATE = "update"
    """What is due after the update is done."""
    EPOCH = "epoch"
    """So is what is due after its epoch, or the update did not end one."""


@dataclass(frozen=True)
class Due:
    """What is due at the end of an update, or of an epoch, in this order. Mirrors: TrainerControl."""

    phase: Phase = Phase.UPDATE
    log: bool = False
    evaluate: bool = False
    save: bool = False


@dataclass
class ResumePoint:
    """The checkpoint a run was resumed from, and what the loop still has to do because of it."""

    folder: Path
    rng_state: dict[str, Any] | None
    """Random state to restore, once, at the moment that makes the continuation exact."""


@dataclass
class TrainerState:
    """Progress of a run. The fields are those of Trainer's file of the same name, so either side reads the other's."""

    global_step: int = 0
    """Updates done."""
    epoch: float = 0
    """Epochs done, never rounded."""
    max_steps: int = 0
    num_train_epochs: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    total_flos: float = 0
    num_input_tokens_seen: int = 0
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)

    should_training_stop: bool = False
    """Mirrors: TrainerControl.should_training_stop."""
    evaluations_without_better: int = 0
    """Early stopping's counter."""


def init_from_plan(
    state: TrainerState, config: TrainConfig, plan: TrainingPlan, is_local_main: bool, is_main: bool
) -> None:
    """Take this run's arithmetic into the state, fresh or resumed. Mirrors: TrainerState.init_training_references."""
    state.max_steps = plan.max_steps
    state.num_train_epochs = plan.num_train_epochs
    state.train_batch_size = plan.per_device_train_batch_size
    state.logging_steps = plan.logging_steps
    if config.eval_steps or config.eval_strategy == "steps":
        state.eval_steps = plan.eval_steps
    state.save_steps = plan.save_steps
    state.is_local_process_zero = is_local_main
    state.is_world_process_zero = is_main


def due_after_update(config: TrainConfig, plan: TrainingPlan, step: int) -> Due:
    """What is due after update `step`. Mirrors: DefaultFlowCallback.on_step_end."""
    is_last = step >= plan.max_steps  # it is evaluated and saved wherever it falls
    by_steps = config.logging_strategy == "steps" and step % plan.logging_steps == 0
    evaluates = config.eval_strategy == "steps" and config.eval_delay <= step
    return Due(
        Phase.UPDATE,
        log=by_steps or (config.logging_first_step and step == 1),
        evaluate=evaluates and (step % plan.eval_steps == 0 or is_last),
        save=config.save_strategy == "steps" and (step % plan.save_steps == 0 or is_last),
    )


def due_after_epoch(config: TrainConfig, epoch: float) -> Due:
    """What is due at the end of an epoch, also of one cut short. Mirrors: DefaultFlowCallback.on_epoch_end."""
    return Due(
        Phase.EPOCH,
        log=config.logging_strategy == "epoch",
        evaluate=config.eval_strategy == "epoch" and config.eval_delay <= epoch,
        save=config.save_strategy == "epoch",
    )


def update_early_stopping(config: TrainConfig, state: TrainerState, metrics: dict[str, Any]) -> None:
    """Early stopping: stop after enough evaluations without a better one. Compares with the best before this one.

    Mirrors: EarlyStoppingCallback.on_evaluate.
    """
    if config.early_stopping_patience is None:
        return
    value, best = metric_value(config, metrics), state.best_metric
    if best is None or (_is_better(config, value, best) and abs(value - best) > config.early_stopping_threshold):
        state.evaluations_without_better = 0
    else:
        state.evaluations_without_better += 1
    if is_out_of_patience(config, state):
        state.should_training_stop = True


def is_out_of_patience(config: TrainConfig, state: TrainerState) -> bool:
    patience = config.early_stopping_patience
    return patience is not None and state.evaluations_without_better >= patience


def update_best(config: TrainConfig, state: TrainerState, metrics: dict[str, Any]) -> bool:
    """Remember the best evaluation. Returns: whether this is it; a tie keeps the first, NaN never wins.

    Mirrors: Trainer._determine_best_metric.
    """
    if config.metric_for_best_model is None:
        return False
    value = metric_value(config, metrics)
    if state.best_metric is None:
        state.best_metric = -math.inf if config.metric_rises else math.inf
    if not _is_better(config, value, state.best_metric):
        return False
    state.best_metric = value
    if config.save_strategy != "no":
        state.best_global_step = state.global_step
    return True


def _is_better(config: TrainConfig, value: float, than: float) -> bool:
    return value > than if config.metric_rises else value < than


def metric_value(config: TrainConfig, metrics: dict[str, Any]) -> float:
    """The evaluation's metric_for_best_model. Raises: UserError when there is none of that name."""
    name = config.metric_for_best_model or "loss"
    name = name if name.startswith("eval_") else f"eval_{name}"
    if name not in metrics:
        existing = ", ".join(key.removeprefix("eval_") for key in metrics if key.startswith("eval_"))
        raise UserError(f"metric_for_best_model: {config.metric_for_best_model!r} is none of {existing}")
    if not isinstance(metrics[name], (int, float)):
        raise UserError(f"metric_for_best_model: {config.metric_for_best_model!r} is no number but {metrics[name]!r}")
    return float(metrics[name])
