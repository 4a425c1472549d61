"""The report as one HTML file: styles and figures inside it, nothing fetched, nothing run, for a phone or a desk.

The page is `templates/report.html.j2`, that of two runs `comparison.html.j2`. Texts, names and paths come from files:
each is escaped, and its line ends, control characters and marks that turn the direction of writing are shown instead of
obeyed.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from ftloop.data.decision import Decision
from ftloop.report.outcome import describe_collapsed, describe_labels
from ftloop.report.scoring import LOWER_IS_BETTER
from ftloop.system.text import escape_control_chars


def render_page(report: dict[str, Any], figures: dict[str, dict[str, bytes]], kind: str = "report") -> str:
    """`figures`: PNGs by style, `light` and `dark`, and name; empty where none could be drawn. `kind`: `report`, or
    `comparison` of two runs.
    """
    encoded = {
        name: {style: Markup(base64.b64encode(figures[style][name]).decode()) for style in ("light", "dark")}
        for name in figures.get("light", {})
    }
    template = ENVIRONMENT.get_template(f"{kind}.html.j2")
    return template.render(report=report, figures=encoded).strip() + "\n"


def visible(value: Any) -> Any:
    """Show what a text would have the browser do; jinja2 escapes the rest."""
    return (
        escape_control_chars(value.replace("\n", " ⏎ "))
        if isinstance(value, str) and not hasattr(value, "__html__")
        else value
    )


def flags(text: str) -> Markup:
    """Keep each flag of a text on one line: browsers break lines after hyphens."""
    parts = re.split(r"(--\w[\w-]*)", str(visible(text)))
    kept = [Markup('<span class="flag">{}</span>').format(part) if i % 2 else part for i, part in enumerate(parts)]
    return Markup("").join(kept)


def code(text: str) -> Markup:
    """Set what stands between backticks as code."""
    parts = [visible(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def cut(value: Any, longest: int) -> str:
    text = str(value)
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


def number(value: float | None, sign: str = "") -> str:
    """`sign`: "+" shows that of a number above 0 too."""
    return "–" if value is None else f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign}.4g}"


def rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def seconds(value: float) -> str:
    return tqdm.format_interval(value) if round(value) >= 60 else f"{value:.1f} s"


def labels(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def compared_to_baseline(metric: str, score: dict[str, Any]) -> str:
    """Say where the interval lies, seen from the baseline; nothing where one of them is missing."""
    low, high, baseline = score["low"], score["high"], score["baseline"]
    if None in (low, high, baseline):
        return ""
    above, below = ("worse", "better") if metric in LOWER_IS_BETTER else ("better", "worse")
    return above if low > baseline else below if high < baseline else "no different"


def bar_of(metric: str, score: dict[str, Any]) -> dict[str, float] | None:
    """Return value, interval and baseline in percent of a line from 0 to 1; None where that is not their range."""
    percent = {name: 100 * score[name] for name in ("value", "low", "high", "baseline") if score[name] is not None}
    if metric in LOWER_IS_BETTER or not {"value", "low", "high"} <= percent.keys():
        return None
    return percent if all(0 <= each <= 100 for each in percent.values()) else None


def resamples(metrics: dict[str, Any]) -> str:
    """Return the numbers of resamples that the intervals were made of, as text; empty where there are none."""
    return " or ".join(f"{count:,}" for count in sorted({m["resamples"] for m in metrics.values()} - {0}, reverse=True))


def describe_calibration(bins: list[dict[str, Any]]) -> str:
    total = sum(each["rows"] for each in bins)
    confidence, accuracy = (sum(each[name] * each["rows"] for each in bins) / total for name in ("confidence", "right"))
    verdict = f": {'over' if confidence > accuracy else 'under'}confident" if abs(confidence - accuracy) > 0.02 else ""
    return f"Mean confidence {confidence:.1%}, accuracy {accuracy:.1%}{verdict}."


def describe_decision(fitted: dict[str, Any]) -> str:
    positive = fitted["labels"].index(fitted["positive"]) if fitted.get("positive") in fitted["labels"] else 1
    text = Decision(fitted["temperature"], fitted["thresholds"]).describe(fitted["labels"], positive)
    return f"{text[0].upper()}{text[1:]}"


def evaluations(history: dict[str, Any]) -> list[tuple[int, float, list[float | None]]]:
    """Return a line for each update after which there was an evaluation: the update, the epoch, the scores."""
    curves = history["evaluation"].values()
    times = sorted({(update, epoch or 0) for points in curves for update, epoch, _ in points})
    scores = [{update: value for update, _, value in points} for points in curves]
    return [(update, epoch, [each.get(update) for each in scores]) for update, epoch in times]


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=visible,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(code=code, cut=cut, flags=flags, number=number, rows=rows, seconds=seconds, labels=labels)
FUNCTIONS = (
    *(compared_to_baseline, bar_of, resamples, evaluations),
    *(describe_calibration, describe_collapsed, describe_decision, describe_labels),
)
ENVIRONMENT.globals.update({function.__name__: function for function in FUNCTIONS})
