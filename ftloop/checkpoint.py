"""Saving: checkpoints with Trainer's files under Trainer's names, and the final model.

A checkpoint folder is either whole or not there. What Trainer's files have no room for stands in `ftloop_state.json`,
and whose run it is and what bytes its files have in `ftloop_manifest.json`; Trainer ignores both.
"""

from __future__ import annotations

import json
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.torch import save_file

import ftloop
from ftloop.durable import (
    FACTS,
    MANIFEST,
    STAGING,
    clear_leftovers,
    file_facts,
    move_files,
    put_in_place,
    read_json,
    read_manifest,
    remove,
    retried,
    write_manifest,
    write_text,
)
from ftloop.errors import UserError, first_line
from ftloop.glue import EVALUATED
from ftloop.ranks import from_main
from ftloop.rng import rng_files, rng_state
from ftloop.run import Run
from ftloop.state import TRAINER_STATE

PREFIX = "checkpoint-"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
SCALER = "scaler.pt"
FTLOOP_STATE = "ftloop_state.json"
# What a run writes of its sets; a user's own predictions may lie beside them.
PREDICTIONS = tuple(f"{name}_predictions.{ending}" for name in EVALUATED for ending in ("parquet", "tsv"))
RESULTS = (*(f"{name}_results.json" for name in ("all", "train", "eval", "test")), *PREDICTIONS, FACTS)


def save_checkpoint(run: Run, phase: str = "update", on_request: bool = False) -> Path:
    """Save `checkpoint-<global_step>` and delete what is over save_total_limit. Every process calls it.

    `phase` is how far this update has been seen to: `none`, `update`, or `epoch` when its epoch's end has been too.
    One saved `on_request`, because the run is to stop, is not of the schedule: the next one of the schedule takes its
    place.

    Raises: SaveError in every process when it could not be written, twice; the checkpoints before it are untouched.
    Mirrors: Trainer._save_checkpoint. Differs: atomic.
    """
    final = Path(run.config.output_dir) / f"{PREFIX}{run.state.global_step}"
    started = time.monotonic()
    if not on_request:  # several processes round their sum to float32: an addition more would show
        store_flos(run)
    own_state = _own_state(run, phase) | {"on_request": on_request}
    best = from_main(run.accelerator, _best_checkpoint(run, final, on_request))
    if best is not None:
        run.state.best_model_checkpoint = str(best)
    with_optimizer = on_request or not run.config.save_only_model
    retried(final.name, lambda: _write_checkpoint(run, final, own_state, with_optimizer), run.say)
    delete_surplus(run, final)
    run.accelerator.wait_for_everyone()
    run.saved_at = run.state.global_step
    run.stop.save_seconds = max(run.stop.save_seconds, time.monotonic() - started)
    return final


def _write_checkpoint(run: Run, final: Path, own_state: dict[str, Any], with_optimizer: bool) -> None:
    """Everything beside its place, then into it. A process that fails takes the others with it."""
    staging = final.with_name(f"{STAGING}{final.name}")

    def begin() -> None:
        clear_leftovers(final.parent)
        staging.mkdir(parents=True)
        _write_model(run, staging)
        if with_optimizer:
            _save_optimizer(run, staging)

    def random_state() -> None:
        name = rng_files(run.accelerator.num_processes)[run.accelerator.process_index]
        torch.save(rng_state(run.accelerator.use_distributed), staging / name)

    def commit() -> None:
        write_text(staging / FTLOOP_STATE, json.dumps(own_state, indent=2, sort_keys=True) + "\n")
        write_text(staging / TRAINER_STATE, run.state.to_json(run.config))
        write_manifest(staging, identity(run) | {"files": file_facts(staging)})
        put_in_place(staging, final)

    _together(run, begin if run.is_main else None)
    _together(run, random_state if with_optimizer else None)
    _together(run, commit if run.is_main else None)


def _together(run: Run, work: Callable[[], None] | None) -> None:
    """Do `work` where it is this process's, and wait for the others. Raises: in all of them when it failed in one."""
    failure: Exception | None = None
    try:
        if work is not None:
            work()
    except Exception as error:
        failure = error
    failures = [each for each in gather_object([failure and first_line(failure)]) if each]
    if failures:
        raise failure or OSError(failures[0])


def identity(run: Run) -> dict[str, Any]:
    """Whose run this is and where it stands: what a manifest says beside its files."""
    return {
        "format": 1,
        "global_step": run.state.global_step,
        "rows_consumed": run.plan.rows_after(run.state.global_step),
        "num_processes": run.plan.num_processes,
        "config": run.config.to_dict(),
        "data": run.data_digests,
        "versions": {
            "ftloop": ftloop.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in ("transformers", "accelerate")},
        },
    }


def _best_checkpoint(run: Run, final: Path, on_request: bool) -> Path | None:
    """Where the weights of the best step are; a run resumed into another folder may have left them in the first.

    Differs: Trainer, and trainer_compat, look in the output_dir alone, and so forget it there.
    """
    if not run.state.best_global_step:
        return None
    name = f"{PREFIX}{run.state.best_global_step}"
    if name == final.name and not on_request:
        return final
    roots = [final.parent]
    if run.resumed_from is not None and not run.config.trainer_compat:
        roots.append(run.resumed_from.parent)
    there = [root / name for root in roots if (root / name).is_dir() and not was_on_request(root / name)]
    return next(iter(there), None)


def save_model(run: Run, output_dir: str | Path | None = None) -> list[str]:
    """Weights, configuration and tokenizer, as `from_pretrained` reads them; by default into the run's output_dir.

    Returns: the names of the files. Only the main process writes.
    Raises: SaveError when it could not be written, twice. Mirrors: Trainer.save_model.
    """
    if not run.is_main:
        return []
    return retried("the model", lambda: _replace_model(run, Path(output_dir or run.config.output_dir)), run.say)


def _replace_model(run: Run, folder: Path) -> list[str]:
    """A model that is there already stays until the new one is whole; its manifest counts for nothing from then on."""
    staging = folder / f"{STAGING}model"
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    staging.mkdir()
    _write_model(run, staging)
    (folder / MANIFEST).unlink(missing_ok=True)
    return move_files(staging, folder)


def _write_model(run: Run, folder: Path) -> None:
    model: Any = run.unwrapped_model
    if hasattr(model, "save_pretrained"):
        with _quiet_weight_bar():
            model.save_pretrained(folder)
    else:
        save_file(model.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
    if run.processing_class is not None:
        run.processing_class.save_pretrained(folder)


def record_trained(run: Run, files: list[str]) -> None:
    """Write into output_dir that the run is trained, with the named files as they are now; it is looked at before any
    checkpoint when the run is started again.
    """
    if not run.is_main:
        return
    root = Path(run.config.output_dir)
    facts = identity(run) | {"complete": False, "files": file_facts(root, files)}
    retried(MANIFEST, lambda: write_manifest(root, facts), run.say)


def record_complete(run: Run) -> None:
    """Write into output_dir that the run is complete, with its result files as they are now. The checkpoint of a stop
    has then done its work and goes.
    """
    if not run.is_main:
        return
    root = Path(run.config.output_dir)
    trained = read_manifest(root) or {"files": {}}
    names = {name for name in RESULTS if (root / name).is_file()}
    results = file_facts(root, sorted(names - trained["files"].keys()))
    facts = identity(run) | {"complete": True, "files": trained["files"], "results": results}
    retried(MANIFEST, lambda: write_manifest(root, facts), run.say)
    _delete(run, [folder for folder in list_checkpoints(root) if was_on_request(folder)])


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
    """The loss since the last log line, and the operations not yet added up, per process; and how far this update has
    been seen to.
    """
    meter, accelerator = run.meter, run.accelerator
    sums = accelerator.gather(torch.stack([meter.window, meter.epoch])).reshape(-1, 2).tolist()
    return {
        "current_flos": gather_object([run.current_flos]),
        "eval_workers_persist": bool(run.eval_loaders),
        "epoch_began_at": meter.epoch_began_at,
        "epoch_losses": [epoch for _, epoch in sums],
        "grad_norm": None if meter.grad_norm is None else float(meter.grad_norm),
        "learning_rate": meter.learning_rate,
        "left_out_of_epoch": meter.left_out_of_epoch,
        "left_out_of_window": meter.left_out_of_window,
        "logged_at": meter.logged_at,
        "lost_updates": meter.lost,
        "mishaps": run.mishaps.to_dict(),
        "phase": phase,
        "total_loss": meter.total,
        "window_losses": [window for window, _ in sums],
    }


def delete_surplus(run: Run, newest: Path) -> None:
    """What the newest checkpoint makes superfluous: those of stops; if it is none itself, what is over the limit."""
    if not run.is_main:
        return
    there = list_checkpoints(newest.parent)
    _delete(run, [folder for folder in there if folder != newest and was_on_request(folder)])
    if not was_on_request(newest):
        _delete(run, surplus(newest, run.config.save_total_limit, run.state.best_model_checkpoint))


def _delete(run: Run, folders: list[Path]) -> None:
    """One that cannot be deleted is told, and stops nothing."""
    for folder in folders:
        try:
            remove(folder)
        except OSError as error:
            run.say(f"Deleting  {folder.name} failed ({first_line(error)}); it is left")


def was_on_request(folder: Path) -> bool:
    """Whether a checkpoint was saved because its run was asked to stop."""
    try:
        return bool(read_json(folder / FTLOOP_STATE).get("on_request", False))
    except UserError:
        return False


def surplus(newest: Path, limit: int | None, best: str | None) -> list[Path]:
    """The oldest checkpoints beside `newest` that are over `limit`, to be deleted; never itself, never the best.

    Those of later steps go first: they are from before this run was resumed at an earlier one.
    Mirrors: transformers.trainer_utils.rotate_checkpoints. Differs: by step number, not by modification time.
    """
    if limit is None:
        return []
    there = list_checkpoints(newest.parent)
    later = there[there.index(newest) + 1 :]
    checkpoints = later + there[: len(there) - len(later)]
    protected = {newest, *([Path(best)] if best else [])}
    too_many = len(checkpoints) - max(limit, len(protected))
    return [folder for folder in checkpoints if folder not in protected][: max(too_many, 0)]


def keep_only_best(run: Run) -> None:
    """With a limit of one, the best checkpoint alone is left at the end. Mirrors: Trainer._finalize_training."""
    best = run.state.best_model_checkpoint
    is_here = best is not None and Path(best).parent == Path(run.config.output_dir)
    if run.is_main and best is not None and is_here and run.config.save_total_limit == 1:
        there = list_checkpoints(Path(run.config.output_dir))
        _delete(run, [folder for folder in there if folder != Path(best)])
    run.accelerator.wait_for_everyone()


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders of an output_dir, oldest first."""
    folders = [path for path in root.glob(f"{PREFIX}*") if path.is_dir() and _step(path) is not None]
    return sorted(folders, key=lambda folder: _step(folder) or 0)


def _step(folder: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX}(\d+)", folder.name)
    return int(match[1]) if match else None


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None) -> Path | None:
    """The checkpoint that is meant, unverified: the named one, or the newest by its number; None to start afresh.

    Raises: UserError when the named one is not there, or when checkpoints are there and resuming was not asked.
    """
    there = list_checkpoints(Path(output_dir))
    if resume_from_checkpoint is None:
        if there or (Path(output_dir) / MANIFEST).is_file():
            what = f"checkpoints ({there[-1].name} is the newest)" if there else "a finished run"
            raise UserError(
                f"output_dir: {output_dir} holds {what}. Continue that run with "
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
