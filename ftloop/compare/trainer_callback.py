"""The callback of a recorded `transformers.Trainer`; apart, for it alone needs transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback


class Closes(Protocol):
    def close(self) -> None: ...


class CloseRecording(TrainerCallback):
    """Close a Trainer's recording when its training ends."""

    def __init__(self, file: Path, recording: Closes) -> None:
        self._file, self._recording = file, recording

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._file.unlink(missing_ok=True)  # an earlier recording must not pass for this run's

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._recording.close()
