"""ftloop: the training loop inside transformers.Trainer, written out."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

from ftloop.version import __version__ as __version__

# The public names stand once, in __init__.pyi, as the imports that a type checker reads. Here each is imported when it
# is first used: the command line answers a wrong flag without waiting for torch.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULE_OF = {name.name: node.module for node in _STUB.body if isinstance(node, ast.ImportFrom) for name in node.names}
__all__ = [*_MODULE_OF]  # with __version__, which is imported above


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(str(_MODULE_OF[name])), name)
    globals().pop("train", None)  # importing the module `train` binds its name here: it would hide the function
    return value
