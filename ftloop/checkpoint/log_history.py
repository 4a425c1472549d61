"""What Trainer's checkpoint tells of its run beyond the state that it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftloop.system.console import say

if TYPE_CHECKING:
    from ftloop.run.run import Run
    from ftloop.run.state import TrainerState


def read_own_state(run: Run) -> dict[str, Any]:
    """Return what `ftloop_state.json` would have held, as far as the log history in Trainer's checkpoint tells it.

    An evaluation that has been done is logged; one that is not is still due. Lost is the loss since the last log line:
    the next line and `train_loss` are means over the other updates.
    """
    config, state = run.config, run.state
    total, logged_at, evaluated_at = 0.0, 0, set()
    for entry in state.log_history:
        if "loss" in entry:
            # The line is a float32 sum divided by the updates it tells of: rounded again, it is that sum to the bit.
            total += float(np.float32(entry["loss"] * (entry["step"] - logged_at)))
            logged_at = entry["step"]
        if any(name.startswith("eval_") for name in entry):
            evaluated_at.add(entry["step"])
    nothing = [0.0] * run.accelerator.num_processes
    is_due = config.eval_strategy == "epoch" and config.eval_delay <= state.epoch
    return {
        "eval_workers_persist": config.dataloader_persistent_workers and bool(evaluated_at),
        "epoch_began_at": state.global_step,
        "epoch_losses": nothing,
        "grad_norm": None,
        "learning_rate": None,
        "logged_at": state.global_step,
        "phase": "update" if is_due and state.global_step not in evaluated_at else "epoch",
        "lost_updates": state.global_step - logged_at,
        "total_loss": total,
        "window_losses": nothing,
    }


def warn_of_other_epochs(run: Run, folder: Path, state: TrainerState, way: str) -> None:
    """Tell of a checkpoint of Trainer's whose epochs had another number of updates, with which Trainer goes on."""
    here = run.plan.updates_per_epoch
    # In an epoch, whose micro-batches Trainer counts, an update may be more or less.
    if state.epoch and abs(state.epoch * here - state.global_step) > 1 + here / 100:
        there = f"had {state.global_step / state.epoch:.0f} updates an epoch, and this one has {here}"
        say("Warning", f"the run that saved {folder} {there}: other rows, or other batches. {way}")
