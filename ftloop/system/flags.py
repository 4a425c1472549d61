"""The flags of a command, and an answer to a name that is none of them."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Suggest the name that is spelt nearly so, or else the only one that begins so."""
    names = list(known)
    match = difflib.get_close_matches(name[:100], names, n=1)
    if not match and len(begins := [each for each in names if each.startswith(name) and len(name) > 2]) == 1:
        match = begins
    return f"; did you mean {match[0]}?" if match else ""


class CommandParser(argparse.ArgumentParser):
    """Answers flags that the command does not have, all of them together, with what to use instead: by `hints`, else by
    the nearest name. Flags are not abbreviated.
    """

    def __init__(self, hints: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.hints = hints or {}

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(takewhile(lambda word: word != "--", sys.argv[1:] if args is None else args))
        names = [word.split("=")[0] for word in words if word.startswith("--") and " " not in word]
        unknown = [name for name in names if name not in self._option_string_actions]
        if unknown:
            self.exit(2, "".join(f"error: {self._instead_of(name)}\n" for name in unknown))
        return super().parse_args(args, namespace)

    def _instead_of(self, name: str) -> str:
        word = name[2:].replace("-", "_")
        if word in self.hints:
            return f"{name}: {self.hints[word]}"
        near = nearest_name(f"--{word}", self._option_string_actions)
        return f"{name[:100]}: {self.prog} has no such flag{near or '; --help lists those it has'}"
