"""PEFT adapters: small trained matrices beside the weights of a base model that stays as it is.

PEFT is an optional dependency: it is imported where an adapter is asked for, or met.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from ftloop.config.train_config import TrainConfig
from ftloop.errors import UserError, summarize
from ftloop.models import weights
from ftloop.models.load import load_config, load_weights
from ftloop.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_CONFIG, base_model, is_adapter
from ftloop.system.console import say
from ftloop.system.manifest import read_json
from ftloop.system.text import join_some

INSTALL = 'which is not installed: pip install peft, or pip install "ftloop[peft]"'
WRAP = 'peft.get_peft_model(model, LoraConfig(task_type="SEQ_CLS", ...))'
MAX_NAMED = 5


def check_peft(config: TrainConfig) -> None:
    """Raises: UserError when a setting asks for PEFT and it is not installed."""
    if config.lora_r is not None and importlib.util.find_spec("peft") is None:
        raise UserError(f"lora_r: LoRA is PEFT's, {INSTALL}")


def add_lora(config: TrainConfig, model: Any, new_weights: list[str]) -> Any:
    """Put a LoRA adapter around a model, as the settings ask. Its head is trained and saved with it, and so are
    `new_weights`, the names of those that the base model's folder does not have.

    Its matrices are drawn from the global random generator.
    Raises: UserError naming the flag, with modules to choose from.
    """
    check_peft(config)
    from peft import LoraConfig, get_peft_model

    targets = _target_modules(config, model)
    body = getattr(model, "base_model_prefix", "")
    head = {name for name, part in model.named_children() if name != body and any(True for _ in part.parameters())}
    head |= {name.rpartition(".")[0] for name in new_weights if name.startswith(f"{body}.")}
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=config.lora_r or 8,
        lora_alpha=config.lora_alpha or 8,  # PEFT's default
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        modules_to_save=sorted(head),
    )
    try:
        with _quiet():
            adapter = get_peft_model(model, lora)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"lora_target_modules: {summarize(error)}; {_candidates(model)}") from error
    name = str(model.name_or_path)
    # A folder by its full path, so that the adapter is found to be its own from any working directory.
    adapter.peft_config["default"].base_model_name_or_path = os.path.abspath(name) if os.path.isdir(name) else name
    return adapter


def _target_modules(config: TrainConfig, model: Any) -> list[str] | str | None:
    """Return the modules as PEFT wants them; None: its own for the architecture. Raises: UserError."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    wanted = config.lora_target_modules
    if wanted == ["all-linear"]:
        return "all-linear"
    if wanted is None:
        family = model.config.model_type
        if family not in KNOWN:
            raise UserError(f"lora_target_modules: PEFT has no default for {family}; {_candidates(model)}")
        return None
    names = [name for name, _ in model.named_modules()]
    unknown = [each for each in wanted if not any(name == each or name.endswith(f".{each}") for name in names)]
    if unknown:  # PEFT says nothing as long as one of them is there
        raise UserError(f"lora_target_modules: there is no {' and no '.join(unknown)}; {_candidates(model)}")
    return wanted


def _candidates(model: Any) -> str:
    body = getattr(model, model.base_model_prefix, model)
    linear = [name for name, module in body.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    return f"name some of {join_some(names, 20)}, or all-linear"


def describe_adapter(model: Any) -> str:
    """Say in a phrase what adapter a PEFT model has."""
    config = model.peft_config["default"]
    kind = str(getattr(config.peft_type, "value", config.peft_type)).replace("LORA", "LoRA")
    if kind != "LoRA":
        return kind
    targets = config.target_modules
    names = sorted({name.rpartition(".")[2] for name in targets}) if not isinstance(targets, str) else [targets]
    return f"LoRA of rank {config.r}, scaled by {config.lora_alpha / config.r:.3g}, on {join_some(names, MAX_NAMED)}"


def check_adapter(config: TrainConfig, model: Any) -> None:
    """Say in a line when a model's head is no part of its adapter: it is then neither trained nor saved.

    Raises: UserError for adapters that would not be saved and loaded as a whole.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(
            "model: add_adapter() has put an adapter into it, and neither Trainer nor ftloop loads its checkpoints "
            f"back; use {WRAP} instead"
        )
    if not is_adapter(model):
        if config.lora_r is not None:
            raise UserError(f"lora_r: the model has no adapter; in Python, {WRAP} makes it, with r={config.lora_r}")
        return
    names = list(model.peft_config)
    if names != ["default"]:
        raise UserError(
            f"model: one adapter with PEFT's own name, `default`, can be trained, and this model has "
            f"{join_some(names, MAX_NAMED)}; make it without an adapter_name"
        )
    base = base_model(model)
    body = f"{getattr(base, 'base_model_prefix', '')}."
    head = {name: weight for name, weight in base.named_parameters() if not name.startswith(body)}
    lost = [name for name, weight in head.items() if not weight.requires_grad]
    lost = [name for name in lost if ".original_module." not in name and ".base_layer." not in name]
    if lost:
        say(
            "Warning",
            f"{join_some(lost, MAX_NAMED)}: neither trained nor saved with the adapter. Unless the base model has been "
            'fine-tuned already: LoraConfig(task_type="SEQ_CLS", modules_to_save=[...]) trains and saves them',
        )


def merged(model: Any) -> Any:
    """Return a copy of the model, on the CPU, whose weights have the adapter added to them, a model without one as it
    is. The GPU on which it was trained need not have room for its weights twice.

    Raises: UserError for adapters that cannot be added to weights, such as prompts.
    """
    if not is_adapter(model):
        return model
    if not hasattr(model, "merge_and_unload"):
        raise UserError(f"merge: PEFT's {model.peft_config['default'].peft_type} is no part of the weights")
    copies: dict[int, Any] = {}
    if all(weight.is_floating_point() for weight in model.parameters()):  # quantized ones are more than their numbers
        for weight in (*model.parameters(), *model.buffers()):
            there = weight.detach().to("cpu", copy=True)
            copies[id(weight)] = (
                nn.Parameter(there, weight.requires_grad) if isinstance(weight, nn.Parameter) else there
            )
    return copy.deepcopy(model, copies).merge_and_unload()


def load_adapter(folder: Path) -> tuple[Any, list[str]]:
    """Load the adapter of a folder with its base model, and add it to the weights where it can be.

    Returns: the model, and the names of weights that neither the base model nor the adapter has.
    Raises: UserError where PEFT or the base model is not there, or the two do not belong together.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"{folder} holds an adapter of PEFT, {INSTALL}")
    from peft import PeftConfig, get_peft_model

    place = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(place, str) or not place:
        raise UserError(f"{folder}: its {ADAPTER_CONFIG} names no base model; write one at base_model_name_or_path")
    try:
        shapes = _shapes(folder / ADAPTER_WEIGHTS)
        config = _classifier_config(folder, place, shapes)
        with _quiet():
            base, new = load_weights(place, config=config, ignore_mismatched_sizes=True)
            model = get_peft_model(base, PeftConfig.from_pretrained(str(folder)))
        weights.load_weights(model, folder)
    except UserError as error:
        reason = str(error).removeprefix("model_name_or_path: ")
        raise UserError(
            f"{folder} holds an adapter for the base model {place}: {reason}. If that model lies elsewhere, write "
            f"where at base_model_name_or_path in {folder / ADAPTER_CONFIG}"
        ) from error
    except Exception as error:
        raise UserError(
            f"{folder}: its adapter could not be loaded ({type(error).__name__}: {summarize(error)})"
        ) from error
    lost = [name for name in new if f"base_model.model.{name}" not in shapes]
    return (model.merge_and_unload() if hasattr(model, "merge_and_unload") else model), lost


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, it is no dictionary


def _classifier_config(folder: Path, base: str, shapes: dict[str, list[int]]) -> Any:
    """The base model's configuration with the adapter's classes; of Trainer's adapters only their number is known."""
    if (folder / BASE_CONFIG).is_file():
        return AutoConfig.for_model(**read_json(folder / BASE_CONFIG))
    unknown = "the names of its classes are not known, and several labels a row are taken for one"
    say("Warning", f"{folder} has no {BASE_CONFIG}: {unknown}", sys.stderr)
    config = load_config(base)
    heads = [shape[0] for name, shape in shapes.items() if re.search(r"\.(classifier|score|out_proj)\.weight$", name)]
    if heads and heads[-1] != config.num_labels:
        config.num_labels = heads[-1]
    return config


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what PEFT warns of and does right (GPT-2's Conv1D), and what transformers says of a new head."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
