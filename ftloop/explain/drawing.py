"""Draw on the terminal: wrapped text, tables, rows of tokens and curves.

`rich` is no replacement: where the terminal cannot encode a glyph, or rich's own ellipsis, it raises.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from ftloop.run.run import Run
from ftloop.system.console import write
from ftloop.system.text import escape_control_chars

INDENT = 10  # a topic of 9 characters and a space, as everywhere on the console
MIN_WIDTH, MAX_WIDTH = 60, 120


@dataclass(frozen=True)
class Glyphs:
    """The characters that are drawn with."""

    token: str = "█"
    second: str = "▓"
    padding: str = "░"
    levels: str = "▁▂▃▄▅▆▇█"
    marker: str = "▲"
    rule: str = "─"
    ellipsis: str = "…"


ASCII = Glyphs("#", "=", ".", "_.-:=+*#", "^", "-", "...")


def glyphs_for(encoding: str) -> Glyphs:
    try:
        "".join(astuple(Glyphs())).encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return Glyphs()


@dataclass(frozen=True)
class Console:
    """The terminal at its width. Lines are printed above the progress bars."""

    write: Callable[[str], None]
    width: int
    glyphs: Glyphs

    @classmethod
    def of(cls, run: Run) -> Console:
        width = min(max(shutil.get_terminal_size((100, 24)).columns, MIN_WIDTH), MAX_WIDTH)
        return cls(write, width, glyphs_for(getattr(sys.stdout, "encoding", None) or "ascii"))

    @property
    def text_width(self) -> int:
        return self.width - INDENT

    def say(self, topic: str, *sentences: str) -> None:
        """Print a topic and its wrapped text."""
        for i, line in enumerate(textwrap.wrap(" ".join(sentences), self.text_width, break_on_hyphens=False)):
            self.write(f"{topic if i == 0 else '':<{INDENT - 1}} {line}")

    def line(self, text: str) -> None:
        """Print one truncated line. It may hold a user's texts and labels, so control characters are escaped."""
        self.write(f"{'':<{INDENT}}{self.truncate(escape_control_chars(text), self.text_width)}".rstrip())

    def truncate(self, text: str, width: int, keep_end: bool = False) -> str:
        if len(text) <= width:
            return text
        ellipsis = self.glyphs.ellipsis
        kept = max(width - len(ellipsis), 0)
        return f"{ellipsis}{text[len(text) - kept :]}" if keep_end else f"{text[:kept]}{ellipsis}"

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Print rows of a label, the name of a parameter, which is truncated at its beginning, and a number."""
        labels, numbers = (max((len(row[i]) for row in rows), default=0) for i in (0, 2))
        names = [self.truncate(name, self.text_width - labels - numbers - 4, keep_end=True) for _, name, _ in rows]
        for (label, _, number), name in zip(rows, names, strict=True):
            self.line(f"{label:<{labels}}  {name:<{max(map(len, names))}}  {number}"[0 if labels else 2 :])


def draw_tokens(kinds: np.ndarray, cells: int, glyphs: Glyphs) -> str:
    """Draw a row's tokens in so many cells: 0 is padding, 1 a token, 2 one of the second text. A cell that stands for
    several tokens shows its middle one."""
    middles = ((np.arange(cells) + 0.5) * len(kinds) / cells).astype(int)
    return "".join((glyphs.padding, glyphs.token, glyphs.second)[kinds[i]] for i in middles)


def sparkline(values: Sequence[float], levels: str) -> str:
    top = max(values, default=0.0) or 1.0
    return "".join(levels[min(int(max(value, 0.0) / top * len(levels)), len(levels) - 1)] for value in values)


def cell_of_step(step: int, steps: int, cells: int) -> int:
    """Return the cell of a curve in which a step of the schedule is; its first cell, where it has several."""
    return -(-step * cells // steps) if cells >= steps else step * cells // steps
