"""Imported first by the commands: ends in one line a command run by a Python that ftloop is not installed for.

It needs nothing but that Python itself, an old one too.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

OLDEST_PYTHON = (3, 11)
# What the commands cannot do without, by the names that are imported.
NEEDED = (
    "accelerate",
    "datasets",
    "huggingface_hub",
    "numpy",
    "scipy",
    "sklearn",
    "torch",
    "tqdm",
    "transformers",
    "yaml",
)


def environment_problem() -> str | None:
    """Say what this Python lacks, and the way out; None where it has all that is needed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if sys.version_info < OLDEST_PYTHON:
        lacks = f"is {sys.version_info[0]}.{sys.version_info[1]}, and ftloop needs 3.11 or newer"
    elif missing:
        lacks = f"has no {', '.join(missing)}"
    else:
        return None
    return (
        f"this Python, {sys.executable}, {lacks}. Use the one that ftloop is installed into (in a checkout "
        "`make install` makes .venv/bin/python), or activate its environment, or install it: pip install . in the "
        "checkout"
    )


if problem := environment_problem():
    print(f"error: {problem}", file=sys.stderr)
    raise SystemExit(2)
