"""What must survive a restart: Trainer's `trainer_state.json`, and what that file has no room for."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftloop.config import TrainConfig
from ftloop.durable import read_json
from ftloop.errors import UserError
from ftloop.plan import TrainingPlan

TRAINER_STATE = "trainer_state.json"


@dataclass
class Control:
    """What is to be done now. Mirrors: TrainerControl."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    @property
    def anything_due(self) -> bool:
        """Something for which the host waits for the device."""
        return self.should_log or self.should_evaluate or self.should_save or self.should_training_stop


@dataclass
class TrainerState:
    """Where a run stands. The fields are those of Trainer's file of the same name, so either side reads the other's."""

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

    control: Control = field(default_factory=Control)
    evaluations_without_better: int = 0
    """Early stopping's counter."""

    def to_json(self, config: TrainConfig) -> str:
        """Byte for byte what `TrainerState.save_to_json` writes for the same run."""
        values = dataclasses.asdict(self)
        callbacks: dict[str, Any] = {"TrainerControl": {"args": values.pop("control"), "attributes": {}}}
        counter = values.pop("evaluations_without_better")
        if config.early_stopping_patience is not None:
            callbacks["EarlyStoppingCallback"] = {
                "args": {
                    "early_stopping_patience": config.early_stopping_patience,
                    "early_stopping_threshold": config.early_stopping_threshold,
                },
                "attributes": {"early_stopping_patience_counter": counter},
            }
        return json.dumps(values | {"stateful_callbacks": callbacks}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> TrainerState:
        """Raises: UserError when the file is missing or broken."""
        try:
            values = read_json(path)
            known = {f.name for f in dataclasses.fields(cls)} - {"control", "evaluations_without_better"}
            # Fields that another version of transformers adds are left behind; none is needed to continue.
            state = cls(**{name: value for name, value in values.items() if name in known})
            early = values.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
            state.evaluations_without_better = early.get("attributes", {}).get("early_stopping_patience_counter", 0)
        except (TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a readable trainer state ({error})") from None
        return state


def begin(state: TrainerState, config: TrainConfig, plan: TrainingPlan, is_local_main: bool, is_main: bool) -> None:
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


def after_update(config: TrainConfig, plan: TrainingPlan, state: TrainerState) -> None:
    """Set what is due now that an update is done. Mirrors: DefaultFlowCallback.on_step_end."""
    control, step = state.control, state.global_step
    is_last = step >= plan.max_steps
    control.should_log = (config.logging_first_step and step == 1) or (
        config.logging_strategy == "steps" and step % plan.logging_steps == 0
    )
    control.should_evaluate = (
        config.eval_strategy == "steps"
        and config.eval_delay <= step
        and (step % plan.eval_steps == 0 or is_last)  # the last update is evaluated and saved wherever it falls
    )
    control.should_save = config.save_strategy == "steps" and (step % plan.save_steps == 0 or is_last)
    if is_last:
        control.should_training_stop = True


def after_epoch(config: TrainConfig, state: TrainerState) -> None:
    """Set what is due now that an epoch is done, or cut short. Mirrors: DefaultFlowCallback.on_epoch_end."""
    control = state.control
    control.should_log |= config.logging_strategy == "epoch"
    control.should_evaluate |= config.eval_strategy == "epoch" and config.eval_delay <= state.epoch
    control.should_save |= config.save_strategy == "epoch"


def count_patience(config: TrainConfig, state: TrainerState, metrics: dict[str, Any]) -> None:
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
    if has_run_out_of_patience(config, state):
        state.control.should_training_stop = True


def has_run_out_of_patience(config: TrainConfig, state: TrainerState) -> bool:
    patience = config.early_stopping_patience
    return patience is not None and state.evaluations_without_better >= patience


def note_best(config: TrainConfig, state: TrainerState, metrics: dict[str, Any]) -> bool:
    """Remember the best evaluation. Returns: whether this is it; a tie keeps the first, NaN never wins.

    Mirrors: Trainer._determine_best_metric.
    """
    if config.metric_for_best_model is None:
        return False
    value = metric_value(config, metrics)
    if state.best_metric is None:
        state.best_metric = -math.inf if config.greater_is_better else math.inf
    if not _is_better(config, value, state.best_metric):
        return False
    state.best_metric = value
    if config.save_strategy != "no":
        state.best_global_step = state.global_step
    return True


def _is_better(config: TrainConfig, value: float, than: float) -> bool:
    return value > than if config.greater_is_better else value < than


def metric_value(config: TrainConfig, metrics: dict[str, Any]) -> float:
    """The evaluation's metric_for_best_model. Raises: UserError when there is none of that name."""
    name = config.metric_for_best_model or "loss"
    name = name if name.startswith("eval_") else f"eval_{name}"
    if name not in metrics:
        there = ", ".join(key.removeprefix("eval_") for key in metrics if key.startswith("eval_"))
        raise UserError(f"metric_for_best_model: {config.metric_for_best_model!r} is none of {there}")
    return float(metrics[name])


@dataclass
class LossMeter:
    """Running sums of the loss, float32 and on the device, so that no update waits for the host.

    Micro-batch losses are added one by one: adding in another order, or in float64, changes the last digits.
    """

    window: Tensor
    """Since the last log line."""
    epoch: Tensor
    """Since the epoch began."""
    logged_at: int = 0
    """`global_step` of the last log line."""
    skip_non_finite: bool = False
    """Put the mean so far in place of NaN and inf, as Trainer's `logging_nan_inf_filter` does."""
    epoch_began_at: int = 0
    total: float = 0.0
    """Sum over all logged updates, the mean over processes."""
    lost: int = 0
    """Updates whose loss is in no sum: left out, or not logged before a checkpoint of Trainer's, which does not say."""
    grad_norm: Tensor | float | None = None
    """Of the last update, before clipping; with the learning rate, what a log line at the epoch's end will say."""
    learning_rate: float | None = None
    left_out_at: int = 0
    """`global_step` of the last update that `on_nonfinite=skip` left out: its loss is not added."""
    left_out_of_window: int = 0
    """Updates left out since the last log line."""
    left_out_of_epoch: int = 0

    @classmethod
    def zero(cls, device: torch.device, skip_non_finite: bool) -> LossMeter:
        return cls(torch.zeros((), device=device), torch.zeros((), device=device), skip_non_finite=skip_non_finite)

    def add(
        self, losses: Sequence[Tensor], grad_norm: Tensor | float | None, learning_rate: float | None, global_step: int
    ) -> None:
        """Add an update's micro-batch losses; `global_step` counts the update itself."""
        if losses and global_step == self.left_out_at:
            self.lost, losses = self.lost + 1, ()
            self.left_out_of_window, self.left_out_of_epoch = self.left_out_of_window + 1, self.left_out_of_epoch + 1
        for loss in losses:
            if self.skip_non_finite:
                loss = torch.where(torch.isfinite(loss), loss, self.window / (global_step - self.logged_at))
            self.window += loss
            self.epoch += loss
        self.grad_norm, self.learning_rate = grad_norm, learning_rate


@dataclass
class Mishaps:
    """What went wrong with numbers and memory and was dealt with, over the whole run, its part before a resume too."""

    nonfinite_updates: Tensor
    """How many updates had a loss or a gradient that was not finite. On the device, as is the next."""
    first_nonfinite: Tensor
    """`global_step` of the first of them since this process began; 0: none."""
    overflows: int = 0
    """Updates that fp16's gradient scaler has skipped."""
    overflows_in_a_row: int = 0
    micro_batch_rows: int | None = None
    """Rows that go through the model at once in training, as `auto_micro_batch` has found out; None: a micro-batch."""
    eval_batch_rows: int | None = None

    @classmethod
    def none(cls, device: torch.device) -> Mishaps:
        counter = torch.zeros((), dtype=torch.int64, device=device)
        return cls(nonfinite_updates=counter, first_nonfinite=counter.clone())

    def counted(self) -> dict[str, int]:
        """What a log line has to say of them. The host waits for the device."""
        counts = {"nonfinite_updates": int(self.nonfinite_updates), "overflows": self.overflows}
        return {name: count for name, count in counts.items() if count}

    def to_dict(self) -> dict[str, Any]:
        return {
            "eval_batch_rows": self.eval_batch_rows,
            "micro_batch_rows": self.micro_batch_rows,
            "nonfinite_updates": int(self.nonfinite_updates),
            "overflows": self.overflows,
            "overflows_in_a_row": self.overflows_in_a_row,
        }

    def restore(self, values: dict[str, Any]) -> None:
        """From `to_dict`; what an older checkpoint does not hold did not happen."""
        self.nonfinite_updates.fill_(values.get("nonfinite_updates", 0))
        self.overflows = values.get("overflows", 0)
        self.overflows_in_a_row = values.get("overflows_in_a_row", 0)
        self.micro_batch_rows = values.get("micro_batch_rows")
        self.eval_batch_rows = values.get("eval_batch_rows")
