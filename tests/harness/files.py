"""Data files: rows that are written and loaded as the command does it, and the real MRPC's."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import TextData, load_text_data
from ftloop.errors import UserError

Rows = list[dict[str, Any]]

MRPC = os.environ.get("FTLOOP_MRPC_DIR")
needs_mrpc = pytest.mark.skipif(MRPC is None, reason="FTLOOP_MRPC_DIR does not name a folder with MRPC's jsonl files")


def zipped(content: bytes, *names: str) -> bytes:
    """Return a zip archive that has a file of this content under each name."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return written.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": lambda content: zipped(content, "__MACOSX/._rows", "rows"),
}


class Files:
    """Writes rows as jsonl and loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(
        self, train: Rows, validation: Rows | None = None, test: Rows | None = None, **settings: Any
    ) -> TrainConfig:
        for split, rows in {"train": train, "validation": validation, "test": test}.items():
            if rows is not None:
                path = self.folder / f"{split}.jsonl"
                path.write_text("\n".join(json.dumps(row) for row in rows))
                settings[f"{split}_file"] = str(path)
        return TrainConfig(**settings)

    def load(self, *args: Any, **settings: Any) -> TextData:
        return load_text_data(self.config(*args, **settings))

    def fault(self, *args: Any, **settings: Any) -> str:
        with pytest.raises(UserError) as caught:
            self.load(*args, **settings)
        return "\n".join(caught.value.problems)


def labelled(*labels: Any, text: str = "a b") -> Rows:
    return [{"sentence": text, "label": label} for label in labels]
