"""A run that is over: what its output_dir holds of it, and a run put where it ended."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.checkpoint.changed_settings import Changes, changed_settings, check_same_data, in_words
from ftloop.checkpoint.folders import list_checkpoints
from ftloop.checkpoint.resume import find_best, take_problem_type
from ftloop.checkpoint.trainer_state import TRAINER_STATE, read_trainer_state
from ftloop.errors import UserError
from ftloop.models.weights import load_weights
from ftloop.run.state import init_from_plan
from ftloop.system.console import say
from ftloop.system.manifest import MANIFEST, read_manifest, verify_files

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig
    from ftloop.run.run import Run


def saved_settings(config: TrainConfig) -> dict[str, Any] | None:
    """Return the settings of the run that is resumed, from its checkpoint or its final model; None where there is none,
    or nothing of it can be read.
    """
    if config.resume_from_checkpoint is None:
        return None
    root = Path(config.output_dir)
    named = list_checkpoints(root) if config.resume_from_checkpoint == "last" else [Path(config.resume_from_checkpoint)]
    for folder in [root, *reversed(named)]:
        with suppress(UserError):
            manifest = read_manifest(folder)
            if manifest is not None:
                return dict(manifest["config"])
    return None


def finished_run(config: TrainConfig) -> bool | None:
    """Whether output_dir holds this run, going by its settings, complete; None when it does not even hold its final
    model, so that there is training to be done.

    What the run has left is looked at before any checkpoint: those may have been deleted.
    Raises: UserError when a final model is there, of other settings or broken, and no checkpoint to go on from.
    """
    root = Path(config.output_dir)
    if config.resume_from_checkpoint is None or not (root / MANIFEST).is_file():
        return None
    changed: Changes = {}
    try:
        manifest = read_manifest(root) or {}
        if "complete" not in manifest:
            return None  # a checkpoint's
        changed = changed_settings(manifest["config"], config)
        wrong = verify_files(root, manifest["files"])
    except UserError as error:
        wrong = [str(error)]
    differs = {name: values for name, values in changed.items() if not config.settings[name].is_free}
    wrong += [in_words(differs)] if differs else []
    if wrong:
        if config.resume_from_checkpoint == "last" and not list_checkpoints(root):
            raise UserError(
                f"output_dir: {root} holds a finished run that differs: {'; '.join(wrong)}; and there is no checkpoint "
                "to go on from. Choose another --output_dir"
            )
        return None
    results = verify_files(root, manifest.get("results", {}))
    if results:
        say("Broken", f"the results in {root}: {'; '.join(results)}; they are made again")
    has_other_uses = any(config.settings[name].on_resume == "results" for name in changed)
    return bool(manifest["complete"]) and not results and not has_other_uses


def load_finished(run: Run) -> None:
    """Put a prepared run where the finished one in its output_dir ended: there is nothing left to train, and what
    follows, evaluations and `finish`, is as it was then. Every process calls it.

    Raises: UserError when it was trained on other rows.
    """
    root, accelerator = Path(run.config.output_dir), run.accelerator
    check_same_data(run, root)
    load_weights(run.unwrapped_model, root)
    take_problem_type(run, root)
    run.state = state = read_trainer_state(root / TRAINER_STATE)
    init_from_plan(state, run.config, run.plan, accelerator.is_local_main_process, accelerator.is_main_process)
    state.should_training_stop, run.saved_at = True, state.global_step
    if state.best_model_checkpoint is not None:
        state.best_model_checkpoint = find_best(run, root, state.best_model_checkpoint)
    # The loss that train() has noted is what the train() that finds nothing to do gives again. Trainer's is 0 then.
    noted = [entry["train_loss"] for entry in state.log_history if "train_loss" in entry][:1]
    if run.rules.resumes_exactly:
        run.meter.logged_sum, run.meter.unlogged_updates = sum(noted), state.global_step - len(noted)
    say("Trained", f"already: {root} holds the final model, of update {state.global_step}; it is loaded")
