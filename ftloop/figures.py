"""The figures of a report, from its numbers. Each is a PNG that can be read on a phone, in a light and a dark style."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ftloop.words import printable

STYLES = {
    "light": {"page": "#ffffff", "ink": "#1c2733", "soft": "#6b7785", "grid": "#e3e8ee"},
    "dark": {"page": "#171c22", "ink": "#e6eaef", "soft": "#97a3b0", "grid": "#2b333d"},
}
# Told apart by people who see fewer colours too, on both grounds (after Okabe and Ito).
COLOURS = ["#3b82c4", "#d9822b", "#2a9d78", "#c2567f", "#8a6fd1", "#a08a2c"]
WIDTH, HEIGHT, DPI = 4.6, 3.3, 150  # inches: as wide as a phone at the size of its own letters
NAMED_CELLS = 8  # classes, up to which counts are written into the confusion matrix

# What a figure is drawn of, and with what colours.
Draw = Callable[[Axes, Any, dict[str, str]], None]


def draw_all(report: dict[str, Any], style: str) -> dict[str, bytes]:
    """PNGs by name: `loss`, `learning_rate`, `test_confusion`, ... as far as there are numbers for them."""
    colours = STYLES[style]
    drawn = {}
    for name, (draw, values, height) in _wanted(report).items():
        with matplotlib.rc_context(_settings(colours)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # it is drawn as a box
            figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
            draw(figure.add_subplot(), values, colours)
            image = io.BytesIO()
            figure.savefig(image, format="png", metadata={"Software": None})
        drawn[name] = image.getvalue()
    return drawn


def _settings(colours: dict[str, str]) -> Any:
    return {
        "text.parse_math": False,  # a name with dollars in it is no formula
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS),
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "lines.linewidth": 2,
        "grid.color": colours["grid"],
        "axes.edgecolor": colours["soft"],
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), colours["page"]),
        **dict.fromkeys(("text.color", "axes.titlecolor", "legend.labelcolor"), colours["ink"]),
        **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), colours["soft"]),
    }


def _wanted(report: dict[str, Any]) -> dict[str, tuple[Draw, Any, float]]:
    history = report["history"]
    training, evaluation = history["training"], history["evaluation"]
    wanted: dict[str, tuple[Draw, Any, float]] = {}
    if training["loss"] or evaluation.get("loss"):
        wanted["loss"] = _losses, history, HEIGHT
    if any(name != "loss" for name in evaluation):
        wanted["metrics"] = _evaluations, history, HEIGHT
    for name, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm, before clipping")):
        if training[name]:
            wanted[name] = _one_curve, (title, training[name]), HEIGHT * 0.75
    for name, scored in report["sets"].items():
        names = [each["name"] for each in scored.get("classes", [])]
        if "counts" in scored.get("confusion", {}):
            height = min(max(0.42 * len(names) + 1.3, 2.8), 5.2)
            wanted[f"{name}_confusion"] = _confusion, (name, names, scored["confusion"]["counts"]), height
        if "pairs" in scored.get("confusion", {}) and scored["confusion"]["pairs"]:
            wanted[f"{name}_confusion"] = _pairs, (name, scored["confusion"]["pairs"]), 4.6
        if scored.get("curves"):
            wanted[f"{name}_roc"] = _roc, (name, scored["curves"]), WIDTH * 0.85
            wanted[f"{name}_pr"] = _precision_recall, (name, scored["curves"]), WIDTH * 0.85
        if scored.get("calibration"):
            wanted[f"{name}_calibration"] = _calibration, (name, scored["calibration"]), WIDTH * 0.85
        if scored.get("points"):
            wanted[f"{name}_scatter"] = _scatter, (name, scored["points"]), WIDTH * 0.85
            wanted[f"{name}_residuals"] = _residuals, (name, scored["points"]), HEIGHT
    return wanted


def short(name: str, longest: int = 18) -> str:
    name = printable(name)
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[len(name) - longest // 2 + 1 :]}"


def _losses(axes: Axes, history: dict[str, Any], colours: dict[str, str]) -> None:
    for name, points, marker in (
        ("training", history["training"]["loss"], ""),
        ("validation", history["evaluation"].get("loss", []), "o"),
    ):
        if points:
            axes.plot(*_updates(points), marker=marker or ("." if len(points) == 1 else ""), label=name)
    _mark_best(axes, history, "loss", colours)
    axes.set(title="Loss", xlabel="update")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend()


def _evaluations(axes: Axes, history: dict[str, Any], colours: dict[str, str]) -> None:
    for name, points in history["evaluation"].items():
        if name != "loss":
            axes.plot(*_updates(points), marker="o", label=short(name))
    best = history["best"]
    if best is not None and best["metric"] != "loss":
        _mark_best(axes, history, best["metric"], colours)
    axes.set(title="Validation after so many updates", xlabel="update")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend()


def _mark_best(axes: Axes, history: dict[str, Any], metric: str, colours: dict[str, str]) -> None:
    best = history["best"]
    if best is None:
        return
    at = [value for update, _, value in history["evaluation"].get(metric, []) if update == best["update"]]
    axes.axvline(best["update"], color=colours["soft"], linewidth=1, linestyle=":")
    if at and at[0] is not None:
        axes.plot([best["update"]], [at[0]], "o", markersize=11, fillstyle="none", color=colours["ink"], label="best")


def _one_curve(axes: Axes, told: tuple[str, list[Any]], colours: dict[str, str]) -> None:
    title, points = told
    axes.plot(*_updates(points), marker="." if len(points) < 3 else "")
    axes.set(title=title, xlabel="update")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _updates(points: list[Any]) -> tuple[list[Any], list[float]]:
    return [update for update, _, _ in points], [np.nan if value is None else value for _, _, value in points]


def _confusion(axes: Axes, told: tuple[str, list[str], list[list[int]]], colours: dict[str, str]) -> None:
    name, names, counts = told
    matrix = np.array(counts, float)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ramp = LinearSegmentedColormap.from_list("share", [colours["page"], COLOURS[0]])
    axes.imshow(shares, cmap=ramp, vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    several = len(names) > 4
    axes.set_xticks(range(len(names)), [short(each, 14) for each in names], rotation=90 if several else 0)
    axes.set_yticks(range(len(names)), [short(each, 14) for each in names])
    axes.set(title=f"Confusion matrix, {name}", xlabel="prediction", ylabel="label")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) <= NAMED_CELLS:
        for row in range(len(names)):
            for column in range(len(names)):
                share = f"\n{shares[row, column]:.0%}" if len(names) <= 5 else ""
                axes.text(column, row, f"{counts[row][column]}{share}", ha="center", va="center", color=colours["ink"])


def _pairs(axes: Axes, told: tuple[str, list[dict[str, Any]]], colours: dict[str, str]) -> None:
    name, pairs = told
    pairs = pairs[:12][::-1]
    texts = [f"{short(pair['label'], 13)} → {short(pair['prediction'], 13)}" for pair in pairs]
    axes.barh(range(len(pairs)), [pair["rows"] for pair in pairs])
    axes.set_yticks(range(len(pairs)), texts, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(title=f"Most confused, {name}", xlabel="rows")


def _roc(axes: Axes, told: tuple[str, dict[str, Any]], colours: dict[str, str]) -> None:
    name, curves = told
    axes.plot([0, 1], [0, 1], color=colours["soft"], linewidth=1, linestyle=":")
    _class_curves(axes, curves, "roc", "roc_auc", f"ROC, {name}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")


def _precision_recall(axes: Axes, told: tuple[str, dict[str, Any]], colours: dict[str, str]) -> None:
    name, curves = told
    if len(curves["classes"]) == 1:
        (curve,) = curves["classes"].values()
        axes.axhline(curve["share"], color=colours["soft"], linewidth=1, linestyle=":")
    _class_curves(axes, curves, "pr", "ap", f"Precision and recall, {name}")
    axes.set(xlabel="recall", ylabel="precision")


def _class_curves(axes: Axes, curves: dict[str, Any], kind: str, area: str, title: str) -> None:
    """Named where there are few; of many, only the mean area is told."""
    few = len(curves["classes"]) <= len(COLOURS)
    for name, curve in curves["classes"].items():
        label = f"{short(name)} {curve[area]:.3f}" if few else None
        # Along a precision-recall curve, precision holds down to the next recall.
        style = "steps-post" if kind == "pr" else "default"
        axes.plot(*np.transpose(curve[kind]), label=label, alpha=1 if few else 0.6, drawstyle=style, linewidth=1.8)
    axes.set(title=title, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    title_of_legend = "area" if few else f"mean area {curves[f'mean_{area}']:.3f}"
    handles = axes.get_legend_handles_labels()[0]
    axes.legend(handles=handles, title=title_of_legend, loc="lower right" if kind == "roc" else "lower left")


def _calibration(axes: Axes, told: tuple[str, list[dict[str, Any]]], colours: dict[str, str]) -> None:
    name, bins = told
    confidence = [each["confidence"] for each in bins]
    axes.plot([0, 1], [0, 1], color=colours["soft"], linewidth=1, linestyle=":", label="as sure as right")
    right = [each["right"] for each in bins]
    axes.vlines(
        confidence, [each["low"] for each in bins], [each["high"] for each in bins], color=COLOURS[0], alpha=0.5
    )
    axes.plot(confidence, right, "o", color=COLOURS[0], label=f"{bins[0]['rows']} rows each, 95 % interval")
    low = min([*confidence, *(each["low"] for each in bins)])
    axes.set(
        title=f"Calibration, {name}",
        xlabel="how sure it was (probability)",
        ylabel="how often it was right",
        xlim=(max(low - 0.05, -0.02), 1.02),
        ylim=(max(low - 0.05, -0.02), 1.02),
    )
    axes.legend(loc="best")


def _scatter(axes: Axes, told: tuple[str, list[list[float]]], colours: dict[str, str]) -> None:
    name, points = told
    true, said = np.transpose(points)
    ends = [min(true.min(), said.min()), max(true.max(), said.max())]
    axes.plot(ends, ends, color=colours["soft"], linewidth=1, linestyle=":")
    axes.scatter(true, said, s=9, alpha=0.5, linewidths=0)
    axes.set(title=f"Predictions, {name}", xlabel="label", ylabel="prediction")


def _residuals(axes: Axes, told: tuple[str, list[list[float]]], colours: dict[str, str]) -> None:
    name, points = told
    true, said = np.transpose(points)
    axes.hist(said - true, bins=min(40, max(len(true) // 5, 5)))
    axes.axvline(0, color=colours["soft"], linewidth=1, linestyle=":")
    axes.set(title=f"Residuals, {name}", xlabel="prediction - label", ylabel="rows")
