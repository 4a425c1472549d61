"""Checkpoints: Trainer's files under Trainer's names, written beside and put in place by one rename.

A checkpoint folder is either whole or not there. What Trainer's files have no room for stands in `ftloop_state.json`,
which Trainer ignores.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ftloop.errors import UserError
from ftloop.run import Run, eval_loader
from ftloop.state import TRAINER_STATE, TrainerState, begin, has_run_out_of_patience

PREFIX = "checkpoint-"
DELETED = ".deleted-"
STAGING = ".staging-"  # must not start with PREFIX: Trainer would take it for a checkpoint
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
SCALER = "scaler.pt"
FTLOOP_STATE = "ftloop_state.json"
OWN_STATE = {
    "data",
    "epoch_began_at",
    "epoch_losses",
    "eval_workers_persist",
    "grad_norm",
    "learning_rate",
    "logged_at",
    "lost_updates",
    "phase",
    "total_loss",
    "window_losses",
}


def save_checkpoint(run: Run, phase: str = "update") -> Path:
    """Save `checkpoint-<global_step>` and delete what is over save_total_limit. Every process calls it.

    `phase` is `update` when the end of the epoch, if this is one, has still to be seen to, else `epoch`.
    Mirrors: Trainer._save_checkpoint. Differs: atomic.
    """
    root = Path(run.config.output_dir)
    final = root / f"{PREFIX}{run.state.global_step}"
    staging = root / f"{STAGING}{final.name}"
    accelerator, state = run.accelerator, run.state
    store_flos(run)
    own_state = _own_state(run, phase)
    if run.is_main:
        _remove_leftovers(root)
        staging.mkdir(parents=True)
    accelerator.wait_for_everyone()
    if run.is_main:
        save_model(run, staging)
    if not run.config.save_only_model:
        if run.is_main:
            _save_optimizer(run, staging)
        torch.save(rng_state(accelerator.use_distributed), staging / _rng_files(run)[accelerator.process_index])
    best = _best_checkpoint(run, final)
    if best is not None:
        state.best_model_checkpoint = str(best)
    accelerator.wait_for_everyone()
    if run.is_main:
        write_text(staging / FTLOOP_STATE, json.dumps(own_state, indent=2, sort_keys=True) + "\n")
        write_text(staging / TRAINER_STATE, state.to_json(run.config))
        _sync(staging)
        _remove(final)  # of this very step, from a run that was resumed before it
        os.replace(staging, final)
        _sync_folder(root)
        rotate_checkpoints(final, run.config.save_total_limit, state.best_model_checkpoint)
    accelerator.wait_for_everyone()
    return final


def _best_checkpoint(run: Run, final: Path) -> Path | None:
    """Where the weights of the best step are; a run resumed into another folder may have left them in the first.

    Differs: Trainer, and trainer_compat, look in the output_dir alone, and so forget it there.
    """
    if not run.state.best_global_step:
        return None
    name = f"{PREFIX}{run.state.best_global_step}"
    if name == final.name:
        return final
    roots = [final.parent]
    if run.resumed_from is not None and not run.config.trainer_compat:
        roots.append(run.resumed_from.parent)
    return next((root / name for root in roots if (root / name).is_dir()), None)


def save_model(run: Run, output_dir: str | Path | None = None) -> None:
    """Weights, configuration and tokenizer, as `from_pretrained` reads them; by default into the run's output_dir.

    Mirrors: Trainer.save_model.
    """
    if not run.is_main:
        return
    folder = Path(output_dir or run.config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = run.unwrapped_model
    if hasattr(model, "save_pretrained"):
        with _quiet_weight_bar():
            model.save_pretrained(folder)
    else:
        save_file(model.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
    if run.processing_class is not None:
        run.processing_class.save_pretrained(folder)


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


def _save_optimizer(run: Run, folder: Path) -> None:
    torch.save(run.optimizer.state_dict(), folder / OPTIMIZER)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please also save or load the state of the optimizer")
        torch.save(run.scheduler.state_dict(), folder / SCHEDULER)
    if run.accelerator.scaler is not None:
        torch.save(run.accelerator.scaler.state_dict(), folder / SCALER)


def store_flos(run: Run) -> None:
    """Add what every process has computed since to the state's total. Mirrors: Trainer.store_flos."""
    if run.accelerator.use_distributed:
        # float32, as Trainer sends it: the total in trainer_state.json is then its total to the last bit.
        flos = torch.tensor([run.current_flos], dtype=torch.float32, device=run.accelerator.device)
        run.state.total_flos += run.accelerator.gather(flos).sum().item()
    else:
        run.state.total_flos += run.current_flos
    run.current_flos = 0.0


def _own_state(run: Run, phase: str) -> dict[str, Any]:
    """The loss since the last log line, per process; and how far the end of this epoch has got."""
    meter, accelerator = run.meter, run.accelerator
    sums = accelerator.gather(torch.stack([meter.window, meter.epoch])).reshape(-1, 2).tolist()
    return {
        "data": run_shape(run),
        "eval_workers_persist": bool(run.eval_loaders),
        "epoch_began_at": meter.epoch_began_at,
        "epoch_losses": [epoch for _, epoch in sums],
        "grad_norm": None if meter.grad_norm is None else float(meter.grad_norm),
        "learning_rate": meter.learning_rate,
        "logged_at": meter.logged_at,
        "lost_updates": meter.lost,
        "phase": phase,
        "total_loss": meter.total,
        "window_losses": [window for window, _ in sums],
    }


def run_shape(run: Run) -> dict[str, int]:
    """What settles which rows an update sees; a run can only be continued with the same."""
    plan = run.plan
    return {
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "num_processes": plan.num_processes,
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "training rows": plan.num_examples,
    }


def rotate_checkpoints(newest: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beside `newest` that are over `limit`; never itself, never the best.

    Those of later steps go first: they are from before this run was resumed at an earlier one.
    Mirrors: transformers.trainer_utils.rotate_checkpoints. Differs: by step number, not by modification time.
    """
    if limit is None:
        return
    there = list_checkpoints(newest.parent)
    later = there[there.index(newest) + 1 :]
    checkpoints = later + there[: len(there) - len(later)]
    protected = {newest, *([Path(best)] if best else [])}
    surplus = len(checkpoints) - max(limit, len(protected))
    for folder in [folder for folder in checkpoints if folder not in protected][: max(surplus, 0)]:
        _remove(folder)


def keep_only_best(run: Run) -> None:
    """With a limit of one, the best checkpoint alone is left at the end. Mirrors: Trainer._finalize_training."""
    best = run.state.best_model_checkpoint
    is_here = best is not None and Path(best).parent == Path(run.config.output_dir)
    if run.is_main and best is not None and is_here and run.config.save_total_limit == 1:
        for folder in list_checkpoints(Path(run.config.output_dir)):
            if folder != Path(best):
                _remove(folder)
    run.accelerator.wait_for_everyone()


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders of an output_dir, oldest first."""
    folders = [path for path in root.glob(f"{PREFIX}*") if path.is_dir() and _step(path) is not None]
    return sorted(folders, key=lambda folder: _step(folder) or 0)


def _step(folder: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX}(\d+)", folder.name)
    return int(match[1]) if match else None


def check_writable(folder: str, flag: str) -> None:
    """Raises: UserError when nothing can be written there. Leaves nothing behind."""
    path = Path(folder)
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists() or each.is_symlink())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be written ({error.strerror})") from None


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None) -> Path | None:
    """The checkpoint to resume from, or None to start afresh.

    Raises: UserError when the named one is not there, or when checkpoints are there and resuming was not asked.
    """
    there = list_checkpoints(Path(output_dir))
    if resume_from_checkpoint is None:
        if there:
            raise UserError(
                f"output_dir: {output_dir} holds checkpoints ({there[-1].name} is the newest). Continue that run with "
                "--resume_from_checkpoint last, or choose another --output_dir"
            )
        return None
    if resume_from_checkpoint == "last":
        return there[-1] if there else None
    folder = Path(resume_from_checkpoint).expanduser()
    if not folder.is_dir():
        listing = f"; {output_dir} has {', '.join(path.name for path in there)}" if there else ""
        raise UserError(f"resume_from_checkpoint: no checkpoint at {folder}{listing}")
    return folder


def load_checkpoint(run: Run, folder: Path) -> None:
    """Put a prepared run where the checkpoint was saved, ours or Trainer's. Every process calls it.

    The random number generators are not restored here but by the loop, at the one moment that makes the continuation
    exact: after the first batches are fetched in mid-epoch, before the iterator is made at an epoch's beginning.

    Raises: UserError naming every file that is missing. Trainer starts a new optimizer or schedule there in silence.
    Mirrors: Trainer._load_from_checkpoint, _init_training_state, _load_optimizer_and_scheduler, _load_rng_state.
    """
    own = _check_resumable(run, folder)
    load_weights(run, folder)
    _restore(run.optimizer, folder / OPTIMIZER)
    _restore(run.scheduler, folder / SCHEDULER)
    if run.accelerator.scaler is not None:
        _restore(run.accelerator.scaler, folder / SCALER)
    rng_file = folder / _rng_files(run)[run.accelerator.process_index]
    run.rng_to_restore = _load(rng_file)
    if not isinstance(run.rng_to_restore, dict) or not {"python", "numpy", "cpu"} <= run.rng_to_restore.keys():
        raise UserError(f"{rng_file}: is not what its name says (no state of random number generators)")
    run.state = TrainerState.from_json(folder / TRAINER_STATE)
    run.resumed_from = folder
    accelerator, state = run.accelerator, run.state
    begin(state, run.config, run.plan, accelerator.is_local_main_process, accelerator.is_main_process)
    if state.best_model_checkpoint is not None and not Path(state.best_model_checkpoint).is_dir():
        state.best_model_checkpoint = None
    if run.config.trainer_compat:
        run.meter.logged_at = run.meter.epoch_began_at = state.global_step
        state.evaluations_without_better = 0  # Trainer's early stopping starts counting anew
    else:
        _restore_own_state(run, _read_from_log_history(run) if own is None else own)


def _check_resumable(run: Run, folder: Path) -> dict[str, Any] | None:
    """Our own state of a checkpoint, None for Trainer's. Every process looks at all files, so all of them agree.

    Raises: UserError naming what is missing, or what differs from the run that saved it.
    """
    needed = [WEIGHTS, TRAINER_STATE, OPTIMIZER, SCHEDULER, *_rng_files(run)]
    needed += [SCALER] if run.accelerator.scaler is not None else []
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: not a checkpoint to resume from: {', '.join(missing)} missing "
            "(saved with save_only_model, or by another number of processes, or only in part)"
        )
    state, own = TrainerState.from_json(folder / TRAINER_STATE), None
    if state.global_step > run.plan.max_steps:
        raise UserError(
            f"{folder}: is at update {state.global_step}, and this run ends at {run.plan.max_steps}; "
            "raise num_train_epochs or max_steps to train on"
        )
    if (folder / FTLOOP_STATE).is_file():
        own = _read_own_state(folder / FTLOOP_STATE)
        saved = own["data"]
    else:
        saved = {"num_processes": max(len(list(folder.glob("rng_state_*.pth"))), 1)}
        if state.train_batch_size is not None:
            saved["per_device_train_batch_size"] = state.train_batch_size
    now = run_shape(run)
    changed = [f"{name} ({value} then, {now[name]} now)" for name, value in saved.items() if now[name] != value]
    if changed:
        raise UserError(f"{folder}: saved by a run with other {', '.join(changed)}; resume with the same")
    return own


def _restore(part: Any, path: Path) -> None:
    try:
        part.load_state_dict(_load(path))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: is not what its name says ({error!r})") from error


def _read_own_state(path: Path) -> dict[str, Any]:
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
        if not own.keys() >= OWN_STATE:
            raise ValueError(f"it lacks {', '.join(sorted(OWN_STATE - own.keys()))}")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not readable ({error})") from error
    return dict(own)


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
    meter, rank = run.meter, run.accelerator.process_index
    meter.window.fill_(own["window_losses"][rank])
    meter.epoch.fill_(own["epoch_losses"][rank])
    meter.logged_at, meter.epoch_began_at = own["logged_at"], own["epoch_began_at"]
    meter.total, meter.lost = own["total_loss"], own["lost_updates"]
    meter.grad_norm, meter.learning_rate = own["grad_norm"], own["learning_rate"]
    if own["eval_workers_persist"] and run.eval_dataset is not None:
        for _ in eval_loader(run, run.eval_dataset):
            pass  # as in the run that was interrupted, its workers are there now, and no evaluation draws a number
    state, plan = run.state, run.plan
    stopped = has_run_out_of_patience(run.config, state) or state.global_step >= plan.max_steps
    state.control.should_training_stop = stopped
    epoch_is_over = stopped or state.global_step % plan.updates_per_epoch == 0
    run.epoch_end_pending = own["phase"] == "update" and epoch_is_over


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


def rng_state(distributed: bool) -> dict[str, Any]:
    """The state of every random number generator of this process. Mirrors: Trainer._save_rng_state."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        cuda = torch.cuda.random
        state["cuda"] = cuda.get_rng_state_all() if distributed else cuda.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Any], distributed: bool) -> None:
    """Mirrors: Trainer._load_rng_state."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and "cuda" in state:
        set_state: Any = torch.cuda.random.set_rng_state_all if distributed else torch.cuda.random.set_rng_state
        set_state(state["cuda"])


def _rng_files(run: Run) -> list[str]:
    """One of each process."""
    processes = run.accelerator.num_processes
    return [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]


def _load(path: Path) -> Any:
    """A checkpoint file, without running any code it may hold. NumPy's state needs four harmless names."""
    from transformers.trainer_pt_utils import safe_globals

    try:
        with safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not readable ({str(error).splitlines()[0] if str(error) else error!r})") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync_folder(path.parent)


def _sync(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """A rename lasts through a power cut only once its folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(root: Path) -> None:
    """Of a save or a deletion that was cut off."""
    for folder in [*root.glob(f"{STAGING}*"), *root.glob(f"{DELETED}*")]:
        shutil.rmtree(folder)


def _remove(folder: Path) -> None:
    """Take a checkpoint away in one step, so that none is ever seen half deleted."""
    if not folder.exists():
        return
    doomed = folder.with_name(f"{DELETED}{folder.name}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)
