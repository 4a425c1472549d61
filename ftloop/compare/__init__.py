"""Record two runs and say where and why they differ. Recording changes no bit of a run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftloop.compare.causes import Cause, also_different, explain
    from ftloop.compare.description import describe
    from ftloop.compare.differences import Comparison, Difference, Recording, compare, read
    from ftloop.compare.plots import draw
    from ftloop.compare.recorder import Recorder, record
    from ftloop.compare.replayed import Replay, replay

__all__ = ["Cause", "Comparison", "Difference", "Recorder", "Recording", "Replay"]
__all__ += ["also_different", "compare", "describe", "draw", "explain", "read", "record", "replay"]

# Each name is imported when it is first used: a run is recorded where torch is all there is. No module has the name of
# what is in it, which would hide it.
_NAMES_IN = {
    "causes": ("Cause", "also_different", "explain"),
    "description": ("describe",),
    "differences": ("Comparison", "Difference", "Recording", "compare", "read"),
    "plots": ("draw",),
    "recorder": ("Recorder", "record"),
    "replayed": ("Replay", "replay"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES_IN.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
