"""Choose the checkpoint to resume from: the newest one that is whole."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ftloop.checkpoint.changed_settings import Changes, changed_settings, in_words, refuse_another_run
from ftloop.checkpoint.folders import find_checkpoint, list_checkpoints
from ftloop.checkpoint.verify import checkpoint_problems, refuse_broken
from ftloop.errors import FtloopError, UserError
from ftloop.system.atomic import quarantine
from ftloop.system.console import say
from ftloop.system.distributed import broadcast_from_main
from ftloop.system.lock import LOCK
from ftloop.system.manifest import MANIFEST, read_manifest, verify_files

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig

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
    is_held = broadcast_from_main(accelerator, lock.exists())
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
        refuse_broken(named)
        return named
    broken: dict[Path, str] = {}
    for folder in reversed(list_checkpoints(root)):
        wrong = checkpoint_problems(folder)
        if not wrong:
            for other, why in broken.items():
                say("Broken", f"{other.name}: {why}; set aside as {quarantine(other).name}")
            return folder
        broken[folder] = "; ".join(wrong)
    problems = [f"{folder}: is broken: {why}" for folder, why in broken.items()]
    raise UserError(*problems, f"output_dir: no checkpoint in {root} is whole; begin anew in another --output_dir")


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
