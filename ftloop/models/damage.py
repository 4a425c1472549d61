"""Files of a model that are not what their names say, as a download can leave them: told before they are read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ftloop.data.recognize import recognize_stand_in
from ftloop.errors import UserError
from ftloop.models.folder import FLAG, TOKENIZERS, WEIGHTS
from ftloop.models.weights import ADAPTER_WEIGHTS, holds_adapter

_LONGEST_HEADER = 10**8
"""Bytes of the longest header that the library of safetensors reads."""
_AGAIN = "download it again"


def check_files(folder: Path, weights: bool = True) -> None:
    """Look at the beginnings of the weights and of the tokenizer that would be read, and whether they are whole.
    Without `weights`, at those of the tokenizer alone.

    Raises: UserError naming the file, what it is and the way out.
    """
    for path in [*(_weights(folder) if weights else ()), *_tokenizer(folder)]:
        problem = _problem(path)
        if problem is not None:
            raise UserError(f"{FLAG}: {path} {problem}")


def _weights(folder: Path) -> Iterator[Path]:
    """Yield the files that transformers would read, which passes over others of the same content."""
    weights = (ADAPTER_WEIGHTS,) if holds_adapter(folder) else WEIGHTS
    first = next((folder / name for name in weights if (folder / name).is_file()), None)
    if first is not None:
        yield first
        if first.suffix == ".json":
            with suppress(OSError, ValueError, AttributeError, KeyError, TypeError):  # whoever reads it says so
                yield from (folder / name for name in sorted({*json.loads(first.read_bytes())["weight_map"].values()}))


def _tokenizer(folder: Path) -> Iterator[Path]:
    whole = folder / "tokenizer.json"
    yield from [whole] if whole.is_file() else (path for name in TOKENIZERS for path in sorted(folder.glob(name)))


def _problem(path: Path) -> str | None:
    if not path.is_file():
        return f"is missing, one of the parts of the weights; {_AGAIN}"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        if not head:
            return f"is empty; {_AGAIN}"
        if what := recognize_stand_in(head):
            return f"is {what}"
        if path.suffix == ".safetensors":
            length = int.from_bytes(head[:8], "little")
            if length > _LONGEST_HEADER or len(head) < 8:
                return f"is no file of safetensors: it begins with {head[:24]!r}; {_AGAIN}"
            file.seek(8)
            wanted = 8 + length + (_length_of_data(file.read(length)) if size >= 8 + length else 1)
            if size < wanted:
                return f"is cut off after {size} bytes; {_AGAIN}"
    if path.suffix == ".bin" and head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return f"is cut off after {size} bytes; {_AGAIN}"
    return None


def _length_of_data(header: bytes) -> int:
    with suppress(ValueError, AttributeError, KeyError, TypeError, IndexError):  # whoever reads it says so
        tensors = json.loads(header)
        return max((each["data_offsets"][1] for name, each in tensors.items() if name != "__metadata__"), default=0)
    return 0
