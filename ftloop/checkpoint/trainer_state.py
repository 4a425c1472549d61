"""`trainer_state.json`: Trainer's file, which either side reads from the other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.errors import UserError
from ftloop.run.state import Due, TrainerState
from ftloop.system.manifest import read_json

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig

TRAINER_STATE = "trainer_state.json"
OURS = {"should_training_stop", "evaluations_without_better"}  # fields the file has elsewhere


def trainer_state_json(state: TrainerState, config: TrainConfig, due: Due | None = None) -> str:
    """Byte for byte what `TrainerState.save_to_json` writes for the same run when `due` is what is left to do."""
    due = due or Due()
    values = {name: value for name, value in dataclasses.asdict(state).items() if name not in OURS}
    control = {
        "should_training_stop": state.should_training_stop,
        "should_epoch_stop": False,
        "should_save": due.save,
        "should_evaluate": due.evaluate,
        "should_log": due.log,
    }
    callbacks: dict[str, Any] = {"TrainerControl": {"args": control, "attributes": {}}}
    if config.early_stopping_patience is not None:
        callbacks["EarlyStoppingCallback"] = {
            "args": {
                "early_stopping_patience": config.early_stopping_patience,
                "early_stopping_threshold": config.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": state.evaluations_without_better},
        }
    # As text, what a user's `compute_metrics` has put into the log and JSON does not have.
    return json.dumps(values | {"stateful_callbacks": callbacks}, indent=2, sort_keys=True, default=str) + "\n"


def read_trainer_state(path: Path) -> TrainerState:
    """Raises: UserError when the file is missing or broken."""
    try:
        values = read_json(path)
        known = {f.name for f in dataclasses.fields(TrainerState)} - OURS
        # Fields that another version of transformers adds are left behind; none is needed to continue.
        state = TrainerState(**{name: value for name, value in values.items() if name in known})
        early = values.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
        state.evaluations_without_better = early.get("attributes", {}).get("early_stopping_patience_counter", 0)
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable trainer state ({error})") from None
    return state
