"""One setting: its type and range, its help, and what another value means to a run that is resumed."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

# What another value than the checkpoint's means to the run that goes on from it.
OnResume = Literal[
    "free",  # the training stays the same
    "start",  # free, and of a single start of the command: no part of what the run is
    "results",  # free, but results made with the old value are made again
    "bits",  # the same job, but no longer the bits of a run that was never stopped
    "data",  # free where the training rows have the same digest, else refused
    "length",  # free where the learning rates and evaluations so far are the same, else other bits
    "split",  # other bits where an update has as many rows as before, else refused
    "refused",  # another run, unless --resume_with_changes insists
    "never",  # refused even then
]
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]
MAX_COUNT = 2**31 - 1
MAX_FLOAT = 3.4e38  # of float32
MAX_PROCESSES = 1024
MAX_SEED = 2**32 - 1  # NumPy's

SCORES = (
    "a finished model is scored on labelled rows by ftloop predict --model DIR --input FILE --output FILE "
    "--label_column_name NAME"
)
LABELLED = ("validation_file", "test_file")


@dataclass(frozen=True)
class Setting:
    """One field of TrainConfig, with all that is to be known about it."""

    name: str
    type: Any
    default: Any
    help: str
    group: str
    on_resume: OnResume
    common: bool = False
    """Whether the short `--help` lists it."""
    path: bool = False
    """Whether it names, or may name, a file or folder."""
    per_machine: bool = False
    """Whether it may differ between processes: it changes nothing that they do together."""
    needs: str | None = None
    """Another setting, without which this one is a mistake."""
    above: float | None = None
    at_least: Literal[0] | None = None
    at_most: float | None = None
    below: float | None = None
    """And not negative."""

    @property
    def kind(self) -> Any:
        """The type without None."""
        if typing.get_origin(self.type) not in (types.UnionType, typing.Union):  # a Literal makes the older kind
            return self.type
        return next(inner for inner in typing.get_args(self.type) if inner is not type(None))

    @property
    def is_free(self) -> bool:
        """Whether every value gives the same training."""
        return self.on_resume in ("free", "start", "results")

    @property
    def may_differ_between_processes(self) -> bool:
        """A path names what lies on its own machine; the rows that are read there are compared."""
        return self.path or self.per_machine

    def problems(self, config: Any) -> Iterator[str]:
        """Yield what is wrong with its value in a configuration, which is of the right type."""
        value = getattr(config, self.name)
        if self.needs and value and not getattr(config, self.needs):
            yield f"only together with --{self.needs}{f'; {SCORES}' if self.name in LABELLED else ''}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        at_most = self.at_most or (MAX_COUNT if self.kind is int else MAX_FLOAT)
        if self.above is not None and value <= self.above:
            yield f"{value} must be greater than {self.above}"
        elif self.below is not None and not 0 <= value < self.below:
            yield f"{value} must be at least 0 and below {self.below}"
        elif self.at_least is not None and value < self.at_least:
            yield f"{value} must not be negative"
        elif value > at_most:
            yield f"{value} is too large (at most {at_most})"


def make_setting(default: Any, help: str, **meaning: Any) -> Any:
    """Make a field of TrainConfig; `meaning` is the rest of its `Setting`."""
    return field(default=default, metadata={"help": help, **meaning})
