"""What a checkpoint holds of a model, whatever model it is: all its weights, or those of a PEFT adapter and of the head
that is trained with it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ftloop.errors import UserError
from ftloop.system.manifest import read_json

WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
BASE_CONFIG = "ftloop_base_config.json"
"""The configuration of an adapter's base model, with the classes. Not `config.json`: beside one, transformers looks for
the base model's weights in the folder of the adapter."""


def is_adapter(model: Any) -> bool:
    """Tell a PEFT model from others, without importing PEFT: where there is such a model, it has been imported."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def base_model(model: Any) -> Any:
    """The model within what torch.compile or adapters have put around it. Mirrors: unwrap_peft_model."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def holds_adapter(folder: Path) -> bool:
    """Tell a folder with a PEFT adapter from one with a whole model, whose own adapter would lie beside it."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def weights_file(model: Any) -> str:
    """Return the name of the file that the weights of a model are saved in."""
    return ADAPTER_WEIGHTS if is_adapter(model) else WEIGHTS


def save_weights(model: Any, folder: Path) -> None:
    """Write the model's weights and configuration, under the names that Trainer gives them."""
    if is_adapter(model):
        _save_adapter(model, folder)
    elif hasattr(model, "save_pretrained"):
        with _quiet_weight_bar():
            model.save_pretrained(folder)
    else:
        save_file(_each_once(model.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})


def load_weights(model: Any, folder: Path | str) -> list[str]:
    """Load what `save_weights`, or Trainer, has written.

    Returns: the names there that are not the model's own, but old ones of its weights, or of parts of them.
    Raises: UserError when these are another model's weights.
    """
    path = Path(folder) / weights_file(model)
    try:
        weights = load_file(path)
        wrong = _load_adapter(model, weights) if is_adapter(model) else _load_model(model, weights)
    except (RuntimeError, SafetensorError) as error:  # shapes that differ; a file that is not whole
        raise UserError(f"{path}: not this model's weights ({' '.join(str(error).split())[:200]})") from error
    if wrong:
        raise UserError(f"{path}: not this model's weights ({len(wrong)} names differ, {wrong[0]} is one)")
    own = weights.keys() if is_adapter(model) else model.state_dict().keys()
    return [name for name in weights if name not in own]


def saved_config(folder: Path) -> dict[str, Any]:
    """Return the model's configuration that a folder holds; empty for a model without, and Trainer's adapters."""
    path = next((folder / name for name in (BASE_CONFIG, "config.json") if (folder / name).is_file()), None)
    return {} if path is None else read_json(path)


def _save_adapter(model: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        # Said at each checkpoint of a base model from the hub while the hub is out of reach.
        warnings.filterwarnings("ignore", message="Could not find a config file in")
        model.save_pretrained(folder)
    path = folder / ADAPTER_CONFIG
    values = json.loads(path.read_text(encoding="utf-8"))
    # PEFT writes them from a set, in an order that differs from process to process.
    values |= {name: sorted(values[name]) for name in ("target_modules",) if isinstance(values.get(name), list)}
    path.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8", newline="\n")
    config: Any = getattr(base_model(model), "config", None)
    if hasattr(config, "to_json_file"):
        config.to_json_file(folder / BASE_CONFIG)


def _load_adapter(model: Any, weights: dict[str, torch.Tensor]) -> list[str]:
    """Return the names that are there and should not be, or the other way round."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict  # is there, or there were no such model

    wrong = sorted(weights.keys() ^ get_peft_model_state_dict(model).keys())
    if not wrong:
        set_peft_model_state_dict(model, weights)
    return wrong


def _each_once(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return each tensor under its first name alone: safetensors refuses tied weights under two."""
    names: dict[Any, str] = {}
    for name, weight in weights.items():
        names.setdefault(_place(weight), name)
    return {name: weights[name].contiguous() for name in names.values()}


def _place(weight: torch.Tensor) -> Any:
    return weight.data_ptr(), weight.shape, weight.stride()


def _load_model(model: Any, weights: dict[str, torch.Tensor]) -> list[str]:
    """Return the names that are there and should not be, or the other way round."""
    own = model.state_dict()
    if isinstance(model, PreTrainedModel) and not weights.keys() <= own.keys():
        from ftloop.models.saved_names import with_own_names  # seldom needed

        with _quiet_weight_bar():
            weights = with_own_names(model, weights)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or getattr(model, "_tied_weights_keys", None) or ())
    loaded = {_place(own[name]) for name in weights.keys() & own.keys()}
    return [*unexpected, *(name for name in missing if name not in tied and _place(own[name]) not in loaded)]


@contextmanager
def _quiet_weight_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
