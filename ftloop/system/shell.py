"""Words as a person types them into the shell of this system."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys


def quote(word: str) -> str:
    """Return a word as the shell takes it. On Windows the quotes are double: cmd knows no others."""
    if sys.platform != "win32":
        return shlex.quote(word)
    if re.fullmatch(r"[\w@%+=:,./\\~-]+", word):
        return word
    escaped = subprocess.list2cmdline([word])
    if escaped.startswith('"'):
        return escaped
    return '"' + escaped + "\\" * (len(word) - len(word.rstrip("\\"))) + '"'
