"""Checkpoint folders: listing, finding and rotating them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ftloop.errors import UserError, summarize
from ftloop.system.atomic import remove
from ftloop.system.console import say
from ftloop.system.manifest import MANIFEST, read_json

if TYPE_CHECKING:
    from ftloop.run.run import Run

PREFIX = "checkpoint-"
FTLOOP_STATE = "ftloop_state.json"


def delete_surplus(run: Run, newest: Path) -> None:
    """Delete what the newest checkpoint makes superfluous: those saved for a stop and, unless it is one itself, those
    over the limit.
    """
    if not run.is_main:
        return
    there = list_checkpoints(newest.parent)
    delete_folders([folder for folder in there if folder != newest and was_on_request(folder)])
    if not was_on_request(newest):
        delete_folders(surplus(newest, run.config.save_total_limit, run.state.best_model_checkpoint))


def delete_folders(folders: list[Path]) -> None:
    """Delete checkpoints; a failure is reported but not fatal."""
    for folder in folders:
        try:
            remove(folder)
        except OSError as error:
            say("Deleting", f"{folder.name} failed ({summarize(error)}); it is left")


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
    """Leave the best checkpoint alone at the end, with a limit of one. Mirrors: Trainer._finalize_training."""
    best, root = run.state.best_model_checkpoint, Path(run.config.output_dir)
    if run.is_main and best is not None and Path(best).parent == root and run.config.save_total_limit == 1:
        delete_folders([folder for folder in list_checkpoints(root) if folder != Path(best)])
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
        if what := _held(output_dir):
            raise UserError(
                f"output_dir: {output_dir} holds {what}. Continue that run with "
                "--resume_from_checkpoint last, or choose another --output_dir"
            )
        return None
    if resume_from_checkpoint == "last":
        return there[-1] if there else None
    folder = Path(resume_from_checkpoint).expanduser()
    if within := list_checkpoints(folder):
        raise UserError(f"resume_from_checkpoint: {folder} is a run's folder; its newest checkpoint is {within[-1]}")
    if not folder.is_dir():
        listing = f"; {output_dir} has {', '.join(path.name for path in there)}; or say `last`" if there else ""
        raise UserError(f"resume_from_checkpoint: no checkpoint at {folder}{listing}")
    return folder


def warn_of_another_run(output_dir: str) -> None:
    """Warn a loop of the user's own, which may not save at all and so is not refused, of what it would replace."""
    if what := _held(output_dir):
        way = "choose another output_dir, or TrainConfig(resume_from_checkpoint='last') to go on with that run"
        say("Warning", f"output_dir: {output_dir} holds {what}, which this run replaces where it saves; {way}")


def _held(output_dir: str) -> str:
    """Name what output_dir holds of a run; empty where that is nothing."""
    if there := list_checkpoints(Path(output_dir)):
        return f"checkpoints ({there[-1].name} is the newest)"
    return "a finished run" if (Path(output_dir) / MANIFEST).is_file() else ""
