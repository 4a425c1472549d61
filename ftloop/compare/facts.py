"""What a recording says of a model and of an optimizer: size, type, groups and settings, autocast; and the versions."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch
from torch import nn

OPTIMIZER_SETTINGS = ("lr", "initial_lr", "betas", "eps", "weight_decay", "amsgrad", "fused", "foreach", "momentum")
WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "DeepSpeedEngine"}
LIBRARIES = ("torch", "transformers", "accelerate")


def loaded_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the run has loaded: not all that are installed."""
    loaded = {name: sys.modules[name].__version__ for name in LIBRARIES if name in sys.modules}
    return {"python": platform.python_version(), **loaded}


def unwrap(model: Any) -> nn.Module:
    """Return the model itself, by which its tensors have the same names whatever is wrapped around it."""
    while True:
        if (compiled := getattr(model, "_orig_mod", None)) is not None:
            model = compiled
        elif WRAPPERS & {each.__name__ for each in type(model).__mro__}:  # by name: two are seldom installed
            model = model.module
        else:
            return model  # type: ignore[no-any-return]


def describe_model(model: nn.Module, tensors: int) -> dict[str, Any]:
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tensors": tensors,
        "dtype": _name(next(model.parameters()).dtype),
    }


def describe_optimizer(optimizer: Any) -> dict[str, Any]:
    groups = []
    for group in optimizer.param_groups:
        settings = {name: group[name] for name in OPTIMIZER_SETTINGS if name in group}
        trained = [p for p in group["params"] if p.requires_grad]  # it steps over what is frozen
        groups.append({"tensors": len(trained), "elements": sum(p.numel() for p in trained)} | settings)
    return {"class": type(optimizer).__name__, "groups": groups}


class AutocastWatch:
    """Notes within a forward pass, where alone it shows, to which type autocast is on.

    A hook of this kind can be copied and pickled with the model. A compiled model is left alone: it would be compiled
    again for the hook's sake.
    """

    def __init__(self, model: nn.Module) -> None:
        self.type: str | None = None
        modules = list(model.modules())
        is_compiled = any(hasattr(each, "_orig_mod") or each._compiled_call_impl for each in modules)
        inner = [] if is_compiled else [each for each in modules if isinstance(each, nn.Linear)]
        self.handles = [each.register_forward_pre_hook(self) for each in inner[:1]]

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        device = next(module.parameters()).device.type
        if hasattr(torch, "get_autocast_dtype"):  # from torch 2.4 on
            self.type = _name(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None

    def __deepcopy__(self, memo: Any) -> AutocastWatch:
        return self


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
