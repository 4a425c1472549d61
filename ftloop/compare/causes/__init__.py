"""Likely causes of a difference between two runs, by stage; `texts.yaml` holds what each of them says."""

from ftloop.compare.causes import batch, logs, step
from ftloop.compare.causes.case import Cause, also_different, explain

__all__ = ["Cause", "also_different", "batch", "explain", "logs", "step"]
