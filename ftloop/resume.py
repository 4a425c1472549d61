"""Going on from a checkpoint: which one, whether it is whole, and putting the run there."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file

from ftloop.changes import FREE, USES_OF_THE_MODEL, changed_settings, check_same_data, refuse_another_run, told_changes
from ftloop.checkpoint import (
    FTLOOP_STATE,
    OPTIMIZER,
    SCALER,
    SCHEDULER,
    WEIGHTS,
    delete_surplus,
    find_checkpoint,
    list_checkpoints,
)
from ftloop.config import TrainConfig
from ftloop.durable import LOCK, MANIFEST, faults, read_json, read_manifest, set_aside
from ftloop.errors import FtloopError, UserError, first_line
from ftloop.ranks import from_main
from ftloop.rng import rng_files
from ftloop.run import Run, eval_loader
from ftloop.state import TRAINER_STATE, TrainerState, begin, has_run_out_of_patience

SECONDS_TO_BE_SEEN = 70.0
"""A network file system may remember for a minute that a folder was not there."""


def choose_checkpoint(config: TrainConfig, accelerator: Accelerator) -> Path | None:
    """The checkpoint to resume from, None to start afresh; every process calls it and gets the same.

    With `last`, the newest that is whole. A broken one is named with what is wrong, and set aside.
    Raises: UserError when the named one is not there or is broken, or it is that of another run; or when output_dir is
    not one folder for all.
    """
    answer: list[Any] = [None, ()]
    if accelerator.is_main_process:
        try:
            answer[0] = _choose(config)
        except FtloopError as error:
            answer[1] = error.problems
    checkpoint, problems = broadcast_object_list(answer)
    if problems:
        raise UserError(*problems)
    _check_shared(config, accelerator)  # whatever save_strategy says: a run that is stopped saves
    if checkpoint is not None:
        refuse_another_run(config, checkpoint, accelerator.num_processes)
    return checkpoint  # type: ignore[no-any-return]


def _check_shared(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raises: UserError in every process when one does not see the output_dir that the main process holds: it could not
    save there, which would come out an epoch later.
    """
    lock = Path(config.output_dir) / LOCK
    is_held = from_main(accelerator, lock.exists())
    deadline = time.monotonic() + min(SECONDS_TO_BE_SEEN, config.ddp_timeout / 2)
    while is_held and not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    where = f"process {accelerator.process_index} on {socket.gethostname()}"
    blind = [each for each in gather_object([None if lock.exists() or not is_held else where]) if each]
    if blind:
        raise UserError(
            f"output_dir: {config.output_dir} is not the same folder everywhere: {', '.join(blind)} cannot see what "
            "the main process has in it; several machines need one that they share"
        )


def _choose(config: TrainConfig) -> Path | None:
    root = Path(config.output_dir)
    named = find_checkpoint(config.output_dir, config.resume_from_checkpoint)
    if named is None:
        return None
    if config.resume_from_checkpoint != "last":
        _refuse_broken(named)
        return named
    broken: dict[Path, str] = {}
    for folder in reversed(list_checkpoints(root)):
        wrong = what_is_wrong(folder)
        if not wrong:
            for other, why in broken.items():
                print(f"Broken    {other.name}: {why}; set aside as {set_aside(other).name}", flush=True)
            return folder
        broken[folder] = "; ".join(wrong)
    told = [f"{folder}: is broken: {why}" for folder, why in broken.items()]
    raise UserError(*told, f"output_dir: no checkpoint in {root} is whole; begin anew in another --output_dir")


def _refuse_broken(folder: Path) -> None:
    wrong = what_is_wrong(folder)
    if wrong:
        raise UserError(f"{folder}: is broken: {'; '.join(wrong)}. Resume from another one, or from `last`")


def what_is_wrong(folder: Path) -> list[str]:
    """The faults of a checkpoint, held against its manifest; none for Trainer's, which has no manifest."""
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return [str(error).removeprefix(f"{folder}{os.sep}")]
    if manifest is None:
        return [f"{MANIFEST} is missing"] if (folder / FTLOOP_STATE).exists() else []
    return faults(folder, manifest["files"])


def finished_run(config: TrainConfig) -> bool | None:
    """Whether output_dir holds this run, going by its settings, complete; None when it does not even hold its final
    model, so that there is training to be done.

    What the run has left is looked at before any checkpoint: those may have been deleted.
    Raises: UserError when a final model is there, of other settings or broken, and no checkpoint to go on from.
    """
    root = Path(config.output_dir)
    if config.resume_from_checkpoint is None or not (root / MANIFEST).is_file():
        return None
    changed: dict[str, tuple[Any, Any]] = {}
    try:
        manifest = read_manifest(root) or {}
        if "complete" not in manifest:
            return None  # a checkpoint's
        changed = changed_settings(manifest["config"], config)
        wrong = faults(root, manifest["files"])
    except UserError as error:
        wrong = [str(error)]
    wrong += [f"{name} ({then} then, {now} now)" for name, (then, now) in changed.items() if name not in FREE]
    if wrong:
        if config.resume_from_checkpoint == "last" and not list_checkpoints(root):
            raise UserError(
                f"output_dir: {root} holds a finished run that differs: {'; '.join(wrong)}; and there is no checkpoint "
                "to go on from. Choose another --output_dir"
            )
        return None
    results = faults(root, manifest.get("results", {}))
    if results and os.environ.get("RANK", "0") == "0":
        print(f"Broken    the results in {root}: {'; '.join(results)}; they are made again", flush=True)
    return bool(manifest["complete"]) and not results and not changed.keys() & USES_OF_THE_MODEL


def load_checkpoint(run: Run, folder: Path, is_whole: bool = False) -> None:
    """Put a prepared run where the checkpoint was saved, ours or Trainer's. Every process calls it. Its files are held
    against its manifest, unless it is known that it `is_whole`.

    The random number generators are not restored here but by the loop, at the one moment that makes the continuation
    exact: after the first batches are fetched in mid-epoch, before the iterator is made at an epoch's beginning.

    Raises: UserError naming every file that is missing, or what makes this another run than the one that was saved.
    Trainer starts a new optimizer or schedule there in silence.
    Mirrors: Trainer._load_from_checkpoint, _init_training_state, _load_optimizer_and_scheduler, _load_rng_state.
    """
    folder = Path(folder)
    accelerator, config = run.accelerator, run.config
    if not is_whole:
        _refuse_broken(folder)
    refuse_another_run(config, folder, accelerator.num_processes)
    manifest = read_manifest(folder)
    own, processes = _check_resumable(run, folder, manifest)
    settings = [{name: value for name, value in group.items() if name != "params"} for group in _groups(run)]
    load_weights(run, folder)
    _take_problem_type(run, folder)
    _restore(run.optimizer, folder / OPTIMIZER)
    _restore(run.scheduler, folder / SCHEDULER)
    if accelerator.scaler is not None:
        _restore(accelerator.scaler, folder / SCALER)
    rng_file = folder / rng_files(processes)[accelerator.process_index % processes]
    run.rng_to_restore = _load(rng_file)
    if not isinstance(run.rng_to_restore, dict) or not {"python", "numpy", "cpu"} <= run.rng_to_restore.keys():
        raise UserError(f"{rng_file}: is not what its name says (no state of random number generators)")
    run.state = TrainerState.from_json(folder / TRAINER_STATE)
    run.resumed_from = folder
    is_here = folder.parent.resolve() == Path(config.output_dir).resolve()
    if is_here:
        run.saved_at = run.state.global_step
    state = run.state
    begin(state, config, run.plan, accelerator.is_local_main_process, accelerator.is_main_process)
    if state.best_model_checkpoint is not None:
        state.best_model_checkpoint = _find_best(folder, Path(state.best_model_checkpoint), config.trainer_compat)
    if config.trainer_compat:
        run.meter.logged_at = run.meter.epoch_began_at = state.global_step
        state.evaluations_without_better = 0  # Trainer's early stopping starts counting anew
    else:
        _follow_settings(run, settings)
        _restore_own_state(run, _read_from_log_history(run) if own is None else own)
    if is_here and folder.name == list_checkpoints(folder.parent)[-1].name:
        delete_surplus(run, folder)  # the process may have died before it did
    run.say(f"Resuming  after update {state.global_step} of {run.plan.max_steps}, from {folder}")
    for line in [] if manifest is None else told_changes(run, manifest):
        run.say(line)


def _find_best(folder: Path, best: Path, trainer_compat: bool) -> str | None:
    """Where the best checkpoint is now: beside the one resumed from, wherever both have been moved to, or as it was.

    Differs: Trainer, and trainer_compat, look where it was alone.
    """
    places = [best] if trainer_compat else [folder.parent / best.name, best]
    return next((str(place) for place in places if place.is_dir()), None)


def _take_problem_type(run: Run, folder: Path) -> None:
    """The model has found it out in its first forward pass; a run that is over makes none before it saves."""
    config: Any = getattr(run.unwrapped_model, "config", None)
    if config is not None and (folder / "config.json").is_file():
        config.problem_type = read_json(folder / "config.json").get("problem_type")


def _groups(run: Run) -> list[dict[str, Any]]:
    return run.optimizer.param_groups  # type: ignore[no-any-return]


def _follow_settings(run: Run, settings: list[dict[str, Any]]) -> None:
    """What the optimizer and the schedule have loaded, but with this configuration's settings: the same values to the
    bit, unless they have been changed. Differs: Trainer goes on with those of the checkpoint, whatever is asked.
    """
    scheduler: Any = run.scheduler
    for group, wanted in zip(_groups(run), settings, strict=True):
        group |= {name: value for name, value in wanted.items() if name != "lr"}
    scheduler.base_lrs = [wanted["initial_lr"] for wanted in settings]
    if hasattr(scheduler, "lr_lambdas"):
        scheduler._last_lr = [
            base * rate(scheduler.last_epoch)
            for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, learning_rate in zip(_groups(run), scheduler._last_lr, strict=True):
            group["lr"] = learning_rate


def _check_resumable(run: Run, folder: Path, manifest: dict[str, Any] | None) -> tuple[dict[str, Any] | None, int]:
    """Our own state of a checkpoint (None for Trainer's), and how many processes saved it. Every process looks at all
    files, so all of them agree.

    Raises: UserError naming what is missing, or what differs from the run that saved it.
    """
    there = len(list(folder.glob("rng_state_*.pth")))
    processes = run.plan.num_processes if manifest is None else manifest["num_processes"]
    needed = [WEIGHTS, TRAINER_STATE, OPTIMIZER, SCHEDULER, *rng_files(processes)]
    needed += [SCALER] if run.accelerator.scaler is not None else []
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: not a checkpoint to resume from: {', '.join(missing)} missing "
            "(saved with save_only_model, or by another number of processes, or only in part)"
        )
    if manifest is not None:
        check_same_data(run, folder)
    state = TrainerState.from_json(folder / TRAINER_STATE)
    if state.global_step > run.plan.max_steps:
        raise UserError(
            f"{folder}: is at update {state.global_step}, and this run ends at {run.plan.max_steps}; "
            "raise num_train_epochs or max_steps to train on"
        )
    if manifest is not None:
        return read_json(folder / FTLOOP_STATE), processes
    changed = {}
    if max(there, 1) != processes:
        changed["num_processes"] = (max(there, 1), processes)
    if state.train_batch_size not in (None, run.plan.per_device_train_batch_size):
        changed["per_device_train_batch_size"] = (state.train_batch_size, run.plan.per_device_train_batch_size)
    if changed:
        raise UserError(
            f"{folder}: saved by a run with other "
            + ", ".join(f"{name} ({then} then, {now} now)" for name, (then, now) in changed.items())
            + "; resume with the same"
        )
    return None, processes


def _restore(part: Any, path: Path) -> None:
    try:
        part.load_state_dict(_load(path))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: is not what its name says ({error!r})") from error


def _read_from_log_history(run: Run) -> dict[str, Any]:
    """What `_own_state` would have said, as far as the log history in Trainer's checkpoint tells it.

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


def _restore_own_state(run: Run, own: dict[str, Any]) -> None:
    meter, processes = run.meter, run.accelerator.num_processes
    for total, losses in ((meter.window, own["window_losses"]), (meter.epoch, own["epoch_losses"])):
        # What is logged is the mean over processes: another number of them goes on from that.
        same = len(losses) == processes
        total.fill_(losses[run.accelerator.process_index] if same else sum(losses) / len(losses))
    flos = own.get("current_flos", [0.0])
    run.current_flos = flos[run.accelerator.process_index] if len(flos) == processes else sum(flos) / processes
    meter.logged_at, meter.epoch_began_at = own["logged_at"], own["epoch_began_at"]
    meter.total, meter.lost = own["total_loss"], own["lost_updates"]
    meter.grad_norm, meter.learning_rate = own["grad_norm"], own["learning_rate"]
    # Not in Trainer's.
    meter.left_out_of_window = own.get("left_out_of_window", 0)
    meter.left_out_of_epoch = own.get("left_out_of_epoch", 0)
    run.mishaps.restore(own.get("mishaps", {}))
    if own["eval_workers_persist"] and run.eval_dataset is not None:
        for _ in eval_loader(run, run.eval_dataset):
            pass  # as in the run that was interrupted, its workers are there now, and no evaluation draws a number
    state, plan = run.state, run.plan
    stopped = has_run_out_of_patience(run.config, state) or state.global_step >= plan.max_steps
    state.control.should_training_stop = stopped
    epoch_is_over = stopped or state.global_step % plan.updates_per_epoch == 0
    due = ["update"] if own["phase"] == "none" else []
    due += ["epoch"] if own["phase"] != "epoch" and epoch_is_over else []
    run.phases_due = tuple(due)


def load_weights(run: Run, folder: Path) -> None:
    """Load a checkpoint's weights into the run's model. Raises: UserError when they are another model's."""
    model, path = run.unwrapped_model, folder / WEIGHTS
    try:
        missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    except (RuntimeError, SafetensorError) as error:  # shapes that differ; a file that is not whole
        raise UserError(f"{path}: not this model's weights ({' '.join(str(error).split())[:200]})") from error
    tied = set(getattr(model, "all_tied_weights_keys", None) or getattr(model, "_tied_weights_keys", None) or ())
    wrong = [*unexpected, *(name for name in missing if name not in tied)]
    if wrong:
        raise UserError(f"{path}: not this model's weights ({len(wrong)} names differ, {wrong[0]} is one)")


def _load(path: Path) -> Any:
    """A checkpoint file, without running any code it may hold. NumPy's state needs four harmless names."""
    from transformers.trainer_pt_utils import safe_globals

    try:
        with safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not readable ({first_line(error)})") from error
