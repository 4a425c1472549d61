"""Whether a checkpoint is whole: its files are held against its manifest."""

from __future__ import annotations

import os
from pathlib import Path

from ftloop.checkpoint.folders import FTLOOP_STATE
from ftloop.errors import UserError
from ftloop.system.manifest import MANIFEST, read_manifest, verify_files


def refuse_broken(folder: Path) -> None:
    """Raises: UserError naming what is wrong with a checkpoint."""
    wrong = checkpoint_problems(folder)
    if wrong:
        raise UserError(f"{folder}: is broken: {'; '.join(wrong)}. Resume from another one, or from `last`")


def checkpoint_problems(folder: Path) -> list[str]:
    """The faults of a checkpoint, held against its manifest; none for Trainer's, which has no manifest."""
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return [str(error).removeprefix(f"{folder}{os.sep}")]
    if manifest is None:
        return [f"{MANIFEST} is missing"] if (folder / FTLOOP_STATE).exists() else []
    return verify_files(folder, manifest["files"])
