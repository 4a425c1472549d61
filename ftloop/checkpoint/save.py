"""Saving: checkpoints with Trainer's files under Trainer's names, and the final model.

A checkpoint folder is either whole or not there. What Trainer's files have no room for stands in `ftloop_state.json`,
and whose run it is and what bytes its files have in `ftloop_manifest.json`; Trainer ignores both.
"""

from __future__ import annotations

import json
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from ftloop.checkpoint.folders import FTLOOP_STATE, PREFIX, delete_surplus, was_on_request
from ftloop.checkpoint.trainer_state import TRAINER_STATE, trainer_state_json
from ftloop.errors import TrainingError, summarize
from ftloop.models.weights import save_weights
from ftloop.run.meter import store_flos
from ftloop.run.state import Due, Phase
from ftloop.system.atomic import STAGING, commit_folder, move_files, remove_partial_saves, retry_once, write_text
from ftloop.system.distributed import broadcast_from_main
from ftloop.system.manifest import MANIFEST, file_digests, write_manifest
from ftloop.system.rng import rng_files, save_rng_state
from ftloop.version import __version__

if TYPE_CHECKING:
    from ftloop.run.run import Run

OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
SCALER = "scaler.pt"


def save_checkpoint(run: Run, due: Due | str = Phase.UPDATE, on_request: bool = False) -> Path:
    """Save `checkpoint-<global_step>` and delete what is over save_total_limit. Every process calls it.

    `due` is what is being seen to, or only its phase: how far this update has come, `none`, `update` or `epoch`.
    One saved `on_request`, because the run is to stop, is not of the schedule, whose next one takes its place; but
    where the schedule has just saved the model alone, it completes that one.

    Raises: SaveError in every process when it could not be written, twice; the checkpoints before it are untouched.
    TrainingError where a loss or gradient was not finite and `on_nonfinite` is `raise`.
    Mirrors: Trainer._save_checkpoint. Differs: atomic.
    """
    due = due if isinstance(due, Due) else Due(Phase(due))
    if run.config.on_nonfinite == "raise" and (update := int(run.counters.first_nonfinite)):
        told = f"update {update}: the loss or the gradient is not finite, and what comes after it is not saved"
        raise TrainingError(f"{told}; raise_if_nonfinite(run) of ftloop.nonfinite says why")
    final = Path(run.config.output_dir) / f"{PREFIX}{run.state.global_step}"
    started = time.monotonic()
    if not on_request:  # several processes round their sum to float32: an addition more would show
        store_flos(run)
    is_extra = on_request and not (run.config.save_only_model and final.is_dir())
    own_state = _own_state(run, due.phase) | {"on_request": is_extra}
    best = broadcast_from_main(run.accelerator, _best_checkpoint(run, final, on_request))
    if best is not None:
        run.state.best_model_checkpoint = str(best)
    with_optimizer = on_request or not run.config.save_only_model
    retry_once(final.name, lambda: _write_checkpoint(run, final, due, own_state, with_optimizer))
    delete_surplus(run, final)
    run.accelerator.wait_for_everyone()
    if with_optimizer:
        run.saved_at = run.state.global_step
    run.stop.save_seconds = max(run.stop.save_seconds, time.monotonic() - started)
    return final


def _write_checkpoint(run: Run, final: Path, due: Due, own_state: dict[str, Any], with_optimizer: bool) -> None:
    """Everything beside its place, then into it. A process that fails takes the others with it."""
    staging = final.with_name(f"{STAGING}{final.name}")

    def begin() -> None:
        remove_partial_saves(final.parent)
        staging.mkdir(parents=True)
        _write_model(run, staging)
        if with_optimizer:
            _save_optimizer(run, staging)

    def random_state() -> None:
        name = rng_files(run.accelerator.num_processes)[run.accelerator.process_index]
        save_rng_state(staging / name, run.accelerator.use_distributed, run.train_loader.fetches.state())

    def commit() -> None:
        write_text(staging / FTLOOP_STATE, json.dumps(own_state, indent=2, sort_keys=True) + "\n")
        write_text(staging / TRAINER_STATE, trainer_state_json(run.state, run.config, due))
        write_manifest(staging, run_manifest(run) | {"files": file_digests(staging)})
        commit_folder(staging, final)

    _together(begin if run.is_main else None)
    _together(random_state if with_optimizer else None)
    _together(commit if run.is_main else None)


def _together(work: Callable[[], None] | None) -> None:
    """Do `work` where it is this process's, and wait for the others. Raises: in all of them when it failed in one."""
    failure: Exception | None = None
    try:
        if work is not None:
            work()
    except Exception as error:
        failure = error
    failures = [each for each in gather_object([failure and summarize(failure)]) if each]
    if failures:
        raise failure or OSError(failures[0])


def run_manifest(run: Run) -> dict[str, Any]:
    """Whose run this is and where it stands: what a manifest says beside its files."""
    return {
        "format": 1,
        "global_step": run.state.global_step,
        "rows_consumed": run.plan.rows_after(run.state.global_step),
        "num_processes": run.plan.num_processes,
        "config": run.config.to_dict(),
        "data": run.data_digests,
        "versions": {
            "ftloop": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in ("transformers", "accelerate")},
        },
    }


def _best_checkpoint(run: Run, final: Path, on_request: bool) -> Path | None:
    """Find the weights of the best step; a run resumed into another folder may have left them in the first.

    Differs: Trainer, and trainer_compat, look in the output_dir alone, and so forget it there.
    """
    if not run.state.best_global_step:
        return None
    name = f"{PREFIX}{run.state.best_global_step}"
    if name == final.name and not on_request:
        return final
    roots = [final.parent]
    if run.resume is not None and run.rules.resumes_exactly:
        roots.append(run.resume.folder.parent)
    there = [root / name for root in roots if (root / name).is_dir() and not was_on_request(root / name)]
    return next(iter(there), None)


def save_model(run: Run, output_dir: str | Path | None = None, merge: bool = False) -> list[str]:
    """Weights, configuration and tokenizer, as `from_pretrained` reads them; by default into the run's output_dir.

    Of a PEFT model the adapter is saved; with `merge`, instead, a whole model with the adapter added to its weights.

    Returns: the names of the files. Only the main process writes.
    Raises: SaveError when it could not be written, twice. Mirrors: Trainer.save_model.
    """
    if not run.is_main:
        return []
    return retry_once("the model", lambda: _replace_model(run, Path(output_dir or run.config.output_dir), merge))


def _replace_model(run: Run, folder: Path, merge: bool = False) -> list[str]:
    """A model that is there already stays until the new one is whole; its manifest counts for nothing from then on."""
    staging = folder / f"{STAGING}model"
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_saves(folder)
    staging.mkdir()
    _write_model(run, staging, merge)
    (staging / "README.md").unlink(missing_ok=True)  # PEFT's is an empty form, in the place of a card of the run
    (folder / MANIFEST).unlink(missing_ok=True)
    return move_files(staging, folder)


def _write_model(run: Run, folder: Path, merge: bool = False) -> None:
    model = run.unwrapped_model
    if merge:
        from ftloop.models.adapters import merged

        model = merged(model)
    save_weights(model, folder)
    if run.processing_class is not None:
        run.processing_class.save_pretrained(folder)


def _save_optimizer(run: Run, folder: Path) -> None:
    torch.save(run.optimizer.state_dict(), folder / OPTIMIZER)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please also save or load the state of the optimizer")
        torch.save(run.scheduler.state_dict(), folder / SCHEDULER)
    if run.accelerator.scaler is not None:
        torch.save(run.accelerator.scaler.state_dict(), folder / SCALER)


def _own_state(run: Run, phase: Phase) -> dict[str, Any]:
    """The loss since the last log line, and the operations not yet added up, per process; and how far this update has
    been seen to.
    """
    meter, accelerator = run.meter, run.accelerator
    sums = accelerator.gather(torch.stack([meter.since_log, meter.since_epoch])).reshape(-1, 2).tolist()
    return {
        "current_flos": gather_object([run.current_flos]),
        "eval_workers_persist": bool(run.eval_loaders.used),
        "epoch_began_at": meter.epoch_began_at,
        "epoch_losses": [epoch for _, epoch in sums],
        "grad_norm": None if meter.grad_norm is None else float(meter.grad_norm),
        "learning_rate": meter.learning_rate,
        "left_out_of_epoch": meter.skipped_since_epoch,
        "left_out_of_window": meter.skipped_since_log,
        "logged_at": meter.logged_at,
        "lost_updates": meter.unlogged_updates,
        "mishaps": run.counters.to_dict(),
        "phase": phase,
        "total_loss": meter.logged_sum,
        "window_losses": [window for window, _ in sums],
    }
