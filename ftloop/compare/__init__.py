"""Record two runs and say where and why they differ. Recording changes no bit of a run."""

from ftloop.compare.causes import Cause, also_different, explain
from ftloop.compare.description import describe
from ftloop.compare.differences import Comparison, Difference, Recording, compare, read
from ftloop.compare.plots import draw
from ftloop.compare.recorder import Recorder, record
from ftloop.compare.replay import Replay, replay

__all__ = ["Cause", "Comparison", "Difference", "Recorder", "Recording", "Replay"]
__all__ += ["also_different", "compare", "describe", "draw", "explain", "read", "record", "replay"]
