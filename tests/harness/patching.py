"""Replace a function of ftloop wherever it is used, under whatever name a module has imported it."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from typing import Any


def replace_everywhere(place: str, make: Callable[[Any], Any]) -> None:
    """Replace `ftloop.<place>` by `make(it)`: a method, or a function in every loaded module that has imported it.

    Raises: AttributeError or ImportError where there is no such thing.
    """
    owner_path, _, name = f"ftloop.{place}".rpartition(".")
    owner = pkgutil.resolve_name(owner_path)
    real = getattr(owner, name)
    replacement = make(real)
    if isinstance(owner, type):
        setattr(owner, name, replacement)
        return
    for loaded in [module for name, module in sys.modules.items() if name.split(".")[0] == "ftloop"]:
        for bound, value in [*vars(loaded).items()]:
            if value is real:
                setattr(loaded, bound, replacement)


def call_before(place: str, do: Callable[[int], None]) -> None:
    """Have `do` called, with the number of the call, before each call of a function of ftloop."""

    def make(real: Any) -> Any:
        calls: list[int] = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            do(len(calls))
            return real(*args, **kwargs)

        return watched

    replace_everywhere(place, make)
