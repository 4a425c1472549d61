"""ftloop: the training loop inside transformers.Trainer, written out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> module. Imported when first used: the command line answers a wrong flag without waiting for torch.
_PUBLIC = {
    "Predictions": "evaluation",
    "Run": "run",
    "TrainConfig": "config",
    "TrainResult": "loop",
    "Update": "loop",
    "UserError": "errors",
    "classify": "inference",
    "evaluate": "evaluation",
    "SaveError": "errors",
    "Stopped": "stopping",
    "TrainingError": "errors",
    "find_checkpoint": "checkpoint",
    "load_checkpoint": "resume",
    "load_classifier": "inference",
    "predict": "evaluation",
    "prepare": "run",
    "save_checkpoint": "checkpoint",
    "save_model": "checkpoint",
    "seed_everything": "run",
    "train": "loop",
    "training_step": "loop",
    "updates": "loop",
}
__all__ = [
    "Predictions",
    "Run",
    "SaveError",
    "Stopped",
    "TrainConfig",
    "TrainResult",
    "TrainingError",
    "Update",
    "UserError",
    "classify",
    "evaluate",
    "find_checkpoint",
    "load_checkpoint",
    "load_classifier",
    "predict",
    "prepare",
    "save_checkpoint",
    "save_model",
    "seed_everything",
    "train",
    "training_step",
    "updates",
]

if TYPE_CHECKING:
    from ftloop.checkpoint import find_checkpoint, save_checkpoint, save_model
    from ftloop.config import TrainConfig
    from ftloop.errors import SaveError, TrainingError, UserError
    from ftloop.evaluation import Predictions, evaluate, predict
    from ftloop.inference import classify, load_classifier
    from ftloop.loop import TrainResult, Update, train, training_step, updates
    from ftloop.resume import load_checkpoint
    from ftloop.run import Run, prepare, seed_everything
    from ftloop.stopping import Stopped


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    # Importing a module binds its name here: `from ftloop import classify, predict` would give the module `predict`.
    for function in ("predict", "train"):
        globals().pop(function, None)
    return value
