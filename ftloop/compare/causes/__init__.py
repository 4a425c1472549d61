"""Likely causes of a difference between two runs, by stage; `texts.yaml` holds what each of them says."""

from ftloop.compare.causes import batch, logs, step
from ftloop.compare.causes.case import Cause, explain

__all__ = ["Cause", "batch", "explain", "logs", "step"]
