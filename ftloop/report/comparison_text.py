"""Two finished runs side by side as text, for a console of 80 columns."""

from __future__ import annotations

import textwrap
from typing import Any

from ftloop.report.html import number, rows, seconds
from ftloop.system.table import aligned
from ftloop.system.text import escape_control_chars

WIDTH = 80
LONGEST = 22  # characters of a value in a table; a longer one has lines of its own


def describe_comparison(comparison: dict[str, Any]) -> str:
    """Return what `ftloop compare A B` prints."""
    sides = [comparison[side] for side in ("a", "b")]
    lines = [f"{name:<9} {side['folder']}" for name, side in zip("AB", sides, strict=True)]
    for note in comparison["notes"]:
        lines += _wrapped("Note", note)
    for name, found in comparison["sets"].items():
        lines += ["", *_set(name, found)]
    lines += ["", *_wrapped("Verdict", comparison["verdict"])]
    training = {name: [_rounded(side["training"][name]) for side in sides] for name in sides[0]["training"]}
    training["time, last start"] = [value and seconds(float(value)) for value in training.pop("seconds")]
    lines += _values("training", {name: values for name, values in training.items() if values != [None, None]})
    for title, differing in comparison["differences"].items():
        lines += _values(title, differing)
    same = [title for title, differing in comparison["differences"].items() if not differing]
    if same and not comparison["notes"]:
        lines += ["", *_wrapped("The same", ", ".join(same))]
    return "\n".join(map(escape_control_chars, lines))


def _wrapped(topic: str, text: str, indent: int = 10) -> list[str]:
    """Wrap a text behind its topic; one with a long path is not wrapped, so that it can be copied."""
    line = f"{topic:<{indent - 1}} {text}"
    if max(map(len, text.split()), default=0) > WIDTH - indent:
        return [line]
    return textwrap.wrap(line, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def _set(name: str, found: dict[str, Any]) -> list[str]:
    heading = f"{name.capitalize()} set"
    heading += f", {rows(found['rows'])}" if "rows" in found else ""
    table = [["", "A", "B", "B - A", "95 % interval", ""]]
    for metric, score in found["metrics"].items():
        interval = "" if score["low"] is None else f"{number(score['low'], '+')} to {number(score['high'], '+')}"
        better = f"{score['better']} better" if score["better"] else ""
        values = [number(score["a"]), number(score["b"]), number(score["difference"], "+")]
        table.append([metric, *values, interval, better])
    if found["unpaired"] is not None:
        table = [row[:4] for row in table]
    lines = [heading, *aligned(table)]
    if found["unpaired"] is None:
        lines += _wrapped("Rows", found["rows_apart"]["text"])
    else:
        lines += _wrapped("Unpaired", f"no intervals: {found['unpaired']}")
    return lines + [line for note in found["notes"] for line in _wrapped("Note", note)]


def _values(title: str, differing: dict[str, list[Any]]) -> list[str]:
    """Return a table of what differs, with its title as its head; nothing where nothing does."""
    if not differing:
        return []
    shown = {name: [_shown(value) for value in values] for name, values in differing.items()}
    short = {name: values for name, values in shown.items() if max(map(len, values)) <= LONGEST}
    lines = ["", *aligned([[title.capitalize(), "A", "B"], *([name, *values] for name, values in short.items())])]
    for name, values in shown.items():
        if name not in short:
            lines.append(name)
            for side, value in zip("AB", values, strict=True):
                lines += _wrapped(f"  {side}", value, indent=5)
    return lines


def _rounded(value: Any) -> str | None:
    return None if value is None else f"{value:.6g}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
