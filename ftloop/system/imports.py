"""Import a library in the midst of a run."""

from __future__ import annotations

import random
from importlib import import_module
from types import ModuleType


def import_without_drawing(name: str) -> ModuleType:
    """Import a module, and leave Python's random generator as it was: rich, which scikit-learn imports where it is
    installed, draws from it. A resumed run imports once more than one that was not interrupted.
    """
    before = random.getstate()
    module = import_module(name)
    random.setstate(before)
    return module
