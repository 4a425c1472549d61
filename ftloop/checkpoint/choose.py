"""Choose the checkpoint to resume from: the newest one that is whole."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ftloop.checkpoint.changed_settings import refuse_another_run
from ftloop.checkpoint.folders import find_checkpoint, list_checkpoints
from ftloop.checkpoint.verify import checkpoint_problems, refuse_broken
from ftloop.errors import FtloopError, UserError
from ftloop.system.atomic import quarantine
from ftloop.system.console import say
from ftloop.system.distributed import broadcast_from_main
from ftloop.system.lock import LOCK
from ftloop.system.manifest import MANIFEST

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig

SECONDS_TO_BE_SEEN = 70.0
"""A network file system may remember for a minute that a folder was not there."""


def choose_checkpoint(config: TrainConfig, accelerator: Accelerator) -> Path | None:
    """The checkpoint to resume from, None to start afresh; every process calls it and gets the same.

    With `last`, the newest that is whole; output_dir itself where it holds this run's final model. A broken one is
    named with what is wrong, and set aside.
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
    if checkpoint is not None and checkpoint != Path(config.output_dir):
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
    if config.resume_from_checkpoint == "last" and (root / MANIFEST).is_file():
        from ftloop.checkpoint.finished import finished_run  # as few as load it: the command has asked already

        if finished_run(config) is not None:
            return root
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
