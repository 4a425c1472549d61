"""Whether a folder can be written to, asked before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ftloop.errors import UserError


def check_writable(folder: str, flag: str) -> None:
    """Raises: UserError when nothing can be written to the folder, or where it would be made. Leaves nothing behind."""
    path = Path(folder)
    try:
        existing = next((p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink()), None)
        if existing is None:  # on Windows
            raise UserError(f"{flag}: {folder} cannot be written (there is no drive {path.absolute().anchor})")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be written ({error.strerror})") from None
