"""What model folders are published with and cannot be used at once, and the way out."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path


def sentencepiece_problem(folder: Path | None, error: BaseException) -> str | None:
    """Tell what a tokenizer lacks that is published as sentencepiece's model alone, as DeBERTa-v3's is.

    transformers takes a model that it cannot read for one of tiktoken, and asks for that. None: it is another fault.
    """
    files = [] if folder is None else [path.name for path in sorted(folder.glob("*.model")) if _is_sentencepiece(path)]
    asks_for_it = re.search("sentencepiece|protobuf|tiktoken", str(error), re.IGNORECASE)
    if not asks_for_it or (folder is not None and not files):
        return None
    what = f"is a model of sentencepiece ({files[0]})" if files else "seems to be a model of sentencepiece"
    missing = [name for name in ("sentencepiece", "protobuf") if not _is_installed(name)]
    if missing:
        return f"{what} and needs {' and '.join(missing)} to be read: pip install 'ftloop[sentencepiece]'"
    return f"{what} and cannot be read: the file is damaged" if files else None


def _is_sentencepiece(path: Path) -> bool:
    """Whether it begins as such a file does; one of tiktoken's is text."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\n"
    except OSError:
        return False


def _is_installed(name: str) -> bool:
    try:
        return find_spec({"protobuf": "google.protobuf"}.get(name, name)) is not None
    except ModuleNotFoundError:  # not even `google`
        return False
