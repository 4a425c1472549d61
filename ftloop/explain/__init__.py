"""Narrate the first updates of a run. The narration only watches."""

from ftloop.explain.narrator import explain

__all__ = ["explain"]
