"""A run without a training set."""

from __future__ import annotations

from typing import Any

from ftloop.errors import UserError
from ftloop.run.run import EvaluationRun, Run


class EvaluationOnly(EvaluationRun):
    """A run that was prepared without a training set: it evaluates and predicts, and says so where it is to train."""

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there. Raises: UserError where a training run has it."""
        if name in Run.__dataclass_fields__ or hasattr(Run, name):
            way = "load_weights(run.unwrapped_model, folder) of ftloop.models.weights loads what another run has left"
            raise UserError(
                "train_dataset: this run was prepared without one, so it evaluates and predicts, but does not train, "
                f"resume or finish: give prepare a train_dataset; {way}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
