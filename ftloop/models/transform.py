"""Change a model as the settings ask, before a run is made of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from transformers import PretrainedConfig

from ftloop.config.train_config import SETTINGS, TrainConfig
from ftloop.errors import UserError
from ftloop.models.adapters import check_adapter
from ftloop.models.freeze import freeze
from ftloop.models.load import dropout_settings
from ftloop.models.match import align_special_tokens
from ftloop.models.row_lengths import ask_no_mask
from ftloop.models.speedups import check_first_token_only, speed_up
from ftloop.models.unpadding import ENCODERS, check_unpadding, unpad
from ftloop.models.weights import base_model
from ftloop.system.console import say
from ftloop.system.out_of_memory import memory_told


def fit_speed_ups(config: TrainConfig, model: Any, tokenizer: Any) -> tuple[TrainConfig, str]:
    """Return the configuration without what a shipped recipe chose and this model cannot have, and what is to be said
    of it, if anything. What the user chose stays, and is refused.
    """
    base = base_model(model)
    checks = {
        "padding": lambda: check_unpadding(base.config, tokenizer),
        "first_token_only": lambda: check_first_token_only(base),
    }
    given_up = {}
    for name, check in checks.items():
        default = SETTINGS[name].default
        if config.from_recipe.get(name, default) != default:
            try:
                check()
            except UserError:
                given_up[name] = default
    said = " and ".join(f"{name} {config.from_recipe[name]}".lower() for name in given_up)
    return replace(config, **given_up), said and f"without its {said}, which {base.config.model_type} cannot have"


def transform_model(config: TrainConfig, model: Any, device: torch.device, processing_class: Any) -> None:
    """Put the model on its device and change it as the settings ask, before DDP wraps it.

    Whether or not an evaluation comes first: Trainer's `evaluate()` before `train()` leaves the model unwrapped, and
    its processes then train apart.
    """
    check_adapter(config, model)
    extract_model_from_parallel(model, keep_fp32_wrapper=False)  # of a run before, in whose precision it computes
    vars(model).pop("_is_accelerate_prepared", None)
    with memory_told("the model", model.parameters()):
        model.to(device)
    if config.attn_implementation is not None:
        if not hasattr(model, "set_attn_implementation"):
            raise UserError(f"attn_implementation: {type(model).__name__} has no set_attn_implementation()")
        model.set_attn_implementation(config.attn_implementation)
    model_config = getattr(model, "config", None)
    for name, value in dropout_settings(config, model_config).items():
        if getattr(model_config, name, None) != value:
            raise UserError(
                f"{name}: the model was built with {getattr(model_config, name, None)}, not {value}: build it so, "
                "with ftloop.models.load.load_model or its own configuration"
            )
    freeze(model, config)
    fast_dropout = config.fast_dropout and device.type == "cpu"
    speed_up(base_model(model), fast_dropout, config.first_token_only)
    if config.padding == "none":
        check_unpadding(base_model(model).config, processing_class)
        unpad(base_model(model), fast_dropout)
    elif device.type != "cpu" and getattr(model_config, "model_type", None) in ENCODERS:
        ask_no_mask(base_model(model))
    _align_config(model, processing_class)
    if config.gradient_checkpointing:
        _enable_gradient_checkpointing(model)
    of_a_run_before = vars(model).pop("_ftloop_own_loss", None)
    if of_a_run_before is not None:
        of_a_run_before.remove()
    weighing = [name for name in ("class_weights", "label_smoothing_factor") if getattr(config, name)]
    if weighing:
        hook = _OwnLoss(" and ".join(weighing))
        vars(model)["_ftloop_own_loss"] = model.register_forward_pre_hook(hook, with_kwargs=True)


@dataclass
class _OwnLoss:
    """Warns once of a training step that has the model compute the loss: `loss.forward` gives it no labels where
    settings weigh them, and the model knows nothing of these."""

    settings: str
    is_told: bool = False

    def __call__(self, model: Any, args: Any, inputs: dict[str, Any]) -> None:
        if model.training and inputs.get("labels") is not None and not self.is_told:
            self.is_told = True
            way = "loss, outputs = ftloop.loss.forward(run, run.model, micro_batch.inputs) does"
            say("Warning", f"{self.settings}: the loss that this step has the model compute does not have it; {way}")


def _align_config(model: Any, processing_class: Any) -> None:
    """What Trainer writes into the model's configuration before training, and so into `config.json`."""
    if isinstance(getattr(model, "config", None), PretrainedConfig):
        model.config.use_cache = False
        align_special_tokens(model.config, processing_class)


def _enable_gradient_checkpointing(model: Any) -> None:
    if not hasattr(model, "gradient_checkpointing_enable"):
        raise UserError(f"gradient_checkpointing: {type(model).__name__} has no gradient_checkpointing_enable()")
    try:
        with warnings.catch_warnings():
            # Its name in transformers 6 is another; the oldest supported version has only this one.
            warnings.filterwarnings("ignore", message="`gradient_checkpointing_enable` is deprecated")
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"gradient_checkpointing: {error}") from error
