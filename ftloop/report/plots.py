"""The figures of a report or a comparison, from its numbers: PNGs for a phone, in a light and a dark style."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ftloop.system.text import escape_control_chars

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, HEIGHT, DPI = 4.6, 3.3, 150  # inches: as wide as a phone at the size of its own letters
SQUARE = WIDTH * 0.85
LEGEND = 0.22  # inches for a line of it
COLOURS, BLUE = 6, "C0"  # of the style
CLASSES_WITH_COUNTS = 8  # up to so many, counts are written into the confusion matrix
REFERENCE: dict[str, Any] = {"color": "#82909e", "linewidth": 1, "linestyle": ":"}

Wanted = Iterator[tuple[str, float, Callable[[Axes], None]]]


def draw_all(report: dict[str, Any], style: str, kind: str = "report") -> dict[str, bytes]:
    """Return PNGs by name: `loss`, `learning_rate`, `test_confusion`, ... as far as there are numbers for them. `kind`:
    `report`, or `comparison` of two runs.
    """
    drawn = {}
    with _style(style):
        for name, height, draw in (_wanted if kind == "report" else _wanted_of_both)(report):
            figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
            draw(figure.add_subplot())
            drawn[name] = _png(figure)
    return drawn


def draw_curves(comparison: dict[str, Any]) -> bytes | None:
    """Return the curves of two runs as one PNG; None where neither has any."""
    with _style("light"):
        wanted = list(_wanted_of_both(comparison))
        if not wanted:
            return None
        rows = (len(wanted) + 1) // 2
        figure = Figure(figsize=(2 * WIDTH, rows * HEIGHT), dpi=DPI, layout="constrained")
        places = list(figure.subplots(rows, 2, squeeze=False).flat)
        for axes in places:
            axes.set_visible(False)
        for axes, (_, _, draw) in zip(places, wanted, strict=False):
            axes.set_visible(True)
            draw(axes)
        return _png(figure)


@contextmanager
def _style(name: str) -> Iterator[None]:
    styles = [TEMPLATES / "figures.mplstyle", TEMPLATES / f"{name}.mplstyle"]
    with matplotlib.style.context(styles), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # it is drawn as a box
        yield


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _wanted_of_both(comparison: dict[str, Any]) -> Wanted:
    """Yield the figures of two runs: each curve of A with that of B over it."""
    histories = {side: comparison[side.lower()]["history"] for side in "AB"}
    # Updates of other numbers of rows are not alike; epochs are.
    by_epoch = len({history["updates_per_epoch"] for history in histories.values()}) > 1

    def curves(part: str, name: str, label: str = "") -> dict[str, list[Any]]:
        return {f"{side}{label}": history[part].get(name, []) for side, history in histories.items()}

    losses = curves("training", "loss", ", training") | curves("evaluation", "loss", ", validation")
    if any(losses.values()):
        yield "loss", HEIGHT + 2 * LEGEND, partial(_two_curves, "Loss", losses, by_epoch)
    for name in dict.fromkeys(name for history in histories.values() for name in history["evaluation"]):
        if name != "loss":
            scores = curves("evaluation", name, ", validation")
            yield (
                re.sub(r"\W", "_", name),
                HEIGHT + LEGEND,
                partial(_two_curves, f"Validation {name}", scores, by_epoch),
            )
    for name, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm, before clipping")):
        if any(curves("training", name).values()):
            yield name, HEIGHT * 0.75 + LEGEND, partial(_two_curves, title, curves("training", name), by_epoch)


def _two_curves(title: str, curves: dict[str, list[Any]], by_epoch: bool, axes: Axes) -> None:
    """Draw A broad and pale, so that it is seen below a B that is the same; what comes of evaluations is dashed."""
    for name, points in curves.items():
        if not points:
            continue
        updates, epochs, values = zip(*points, strict=True)
        is_a, evaluated = name.startswith("A"), name.endswith("validation")
        axes.plot(
            epochs if by_epoch else updates,
            [np.nan if value is None else value for value in values],
            color="C0" if is_a else "C1",
            alpha=0.5 if is_a else 1,
            linewidth=4 if is_a else 1.6,
            linestyle="--" if evaluated else "-",
            marker="o" if evaluated or len(points) < 3 else "",
            markersize=8 if is_a else 5,
            label=name,
        )
    axes.set(title=shortened(title, 40), xlabel="epoch" if by_epoch else "update")
    if "A" in curves:  # a rate or a norm
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(axes.figure.axes) == 1:
        _legend_below(axes, 2)
    else:
        axes.legend()


def _wanted(report: dict[str, Any]) -> Wanted:
    history = report["history"]
    training, evaluation = history["training"], history["evaluation"]
    losses = {"training": training["loss"], "validation": evaluation.get("loss", [])}
    scores = {name: points for name, points in evaluation.items() if name != "loss"}
    if any(losses.values()):
        yield "loss", HEIGHT + LEGEND, partial(_curves, "Loss", losses, _best(history, {"loss": losses["validation"]}))
    if scores:
        yield (
            "metrics",
            HEIGHT + LEGEND * math.ceil(len(scores) / 3),
            partial(_curves, "Validation", scores, _best(history, scores)),
        )
    for name, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm, before clipping")):
        if training[name]:
            yield name, HEIGHT * 0.75, partial(_curves, title, {"": training[name]}, None)
    for name, scored in report["sets"].items():
        confusion, curves = scored.get("confusion", {}), scored.get("curves")
        if "counts" in confusion:
            names = [shortened(each["name"], 14) for each in scored["classes"]]
            height = min(max(0.42 * len(names) + 1.3, 2.8), 5.2)
            yield f"{name}_confusion", height, partial(_confusion, name, names, confusion["counts"])
        if confusion.get("pairs"):
            yield f"{name}_confusion", 4.6, partial(_pairs, name, confusion["pairs"][11::-1])
        if curves:
            height = SQUARE + (LEGEND * len(curves["classes"]) if len(curves["classes"]) <= COLOURS else 0)
            yield f"{name}_roc", height, partial(_class_curves, f"ROC, {name}", curves, "roc")
            yield f"{name}_pr", height, partial(_class_curves, f"Precision and recall, {name}", curves, "pr")
        if scored.get("calibration"):
            yield f"{name}_calibration", SQUARE + 2 * LEGEND, partial(_calibration, name, scored["calibration"])
        if scored.get("points"):
            labels, predicted = np.transpose(scored["points"])
            yield f"{name}_scatter", SQUARE, partial(_scatter, name, labels, predicted)
            yield f"{name}_residuals", HEIGHT, partial(_residuals, name, predicted - labels)


def shortened(name: str, longest: int = 18) -> str:
    name = escape_control_chars(name)
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[len(name) - longest // 2 + 1 :]}"


def _best(history: dict[str, Any], curves: dict[str, list[Any]]) -> tuple[int, float | None] | None:
    """Return the update of the best evaluation, and its value where it was chosen by one of the curves."""
    best = history["best"]
    if best is None:
        return None
    values = {update: value for update, _, value in curves.get(best["metric"], [])}
    return best["update"], values.get(best["update"])


def _curves(title: str, curves: dict[str, list[Any]], best: tuple[int, float | None] | None, axes: Axes) -> None:
    """Draw points of (update, epoch, value)."""
    for name, points in curves.items():
        if points:
            updates, _, values = zip(*points, strict=True)
            marker = "o" if len(points) < 3 or name not in ("", "training") else ""
            axes.plot(updates, [np.nan if v is None else v for v in values], marker=marker, label=shortened(name))
    if best is not None:
        axes.axvline(best[0], **REFERENCE)
    if best is not None and best[1] is not None:
        ink = matplotlib.rcParams["text.color"]
        axes.plot([best[0]], [best[1]], "o", markersize=11, fillstyle="none", color=ink, label="best")
    axes.set(title=title, xlabel="update")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if "" in curves:
        axes.set_ylim(bottom=0)
    else:
        _legend_below(axes, 3)


def _legend_below(axes: Axes, columns: int = 1) -> None:
    """Beside the curves: within the axes it would hide some of them."""
    axes.figure.legend(loc="outside lower center", ncols=columns)


def _confusion(name: str, names: list[str], counts: list[list[int]], axes: Axes) -> None:
    matrix = np.array(counts, float)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ramp = LinearSegmentedColormap.from_list("share", [matplotlib.rcParams["axes.facecolor"], to_hex(BLUE)])
    axes.imshow(shares, cmap=ramp, vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(title=f"Confusion matrix, {name}", xlabel="prediction", ylabel="label")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) <= CLASSES_WITH_COUNTS:
        for (row, column), share in np.ndenumerate(shares):
            percent = f"\n{share:.0%}" if len(names) <= 5 else ""
            axes.text(column, row, f"{counts[row][column]}{percent}", ha="center", va="center")


def _pairs(name: str, pairs: list[dict[str, Any]], axes: Axes) -> None:
    texts = [f"{shortened(pair['label'], 13)} → {shortened(pair['prediction'], 13)}" for pair in pairs]
    axes.barh(range(len(pairs)), [pair["rows"] for pair in pairs])
    axes.set_yticks(range(len(pairs)), texts, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(title=f"Most confused classes, {name}", xlabel="rows")


def _class_curves(title: str, curves: dict[str, Any], kind: str, axes: Axes) -> None:
    """Name the curves where there are few; of many, give the mean area alone."""
    few, area = len(curves["classes"]) <= COLOURS, "roc_auc" if kind == "roc" else "ap"
    if kind == "roc":
        axes.plot([0, 1], [0, 1], **REFERENCE)
    elif len(curves["classes"]) == 1:
        axes.axhline(next(iter(curves["classes"].values()))["share"], **REFERENCE)
    for name, curve in curves["classes"].items():
        label = f"{shortened(name, 30)}: area {curve[area]:.3f}" if few else None
        # Along a precision-recall curve, precision holds down to the next recall.
        style = "steps-post" if kind == "pr" else "default"
        axes.plot(*np.transpose(curve[kind]), label=label, alpha=1 if few else 0.6, drawstyle=style, linewidth=1.8)
    mean = "" if few else f" (mean area {curves[f'mean_{area}']:.3f})"
    axes.set(title=f"{title}{mean}", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if kind == "roc":
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
    else:
        axes.set(xlabel="recall", ylabel="precision")
    if few:
        _legend_below(axes)


def _calibration(name: str, bins: list[dict[str, Any]], axes: Axes) -> None:
    confidence, accuracy, low, high = ([b[key] for b in bins] for key in ("confidence", "right", "low", "high"))
    sizes = sorted({b["rows"] for b in bins})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    axes.plot([0, 1], [0, 1], **REFERENCE, label="perfectly calibrated")
    axes.vlines(confidence, low, high, color=BLUE, alpha=0.5)
    axes.plot(confidence, accuracy, "o", color=BLUE, label=f"{size} rows each, 95 % interval")
    limits = max(min([*confidence, *low]) - 0.05, -0.02), 1.02
    axes.set(title=f"Reliability diagram, {name}", xlabel="confidence", ylabel="accuracy", xlim=limits, ylim=limits)
    _legend_below(axes)


def _scatter(name: str, labels: np.ndarray, predicted: np.ndarray, axes: Axes) -> None:
    ends = [min(labels.min(), predicted.min()), max(labels.max(), predicted.max())]
    axes.plot(ends, ends, **REFERENCE)
    axes.scatter(labels, predicted, s=9, alpha=0.5, linewidths=0)
    axes.set(title=f"Predictions, {name}", xlabel="label", ylabel="prediction")


def _residuals(name: str, errors: np.ndarray, axes: Axes) -> None:
    axes.hist(errors, bins=min(40, max(len(errors) // 5, 5)))
    axes.axvline(0, **REFERENCE)
    axes.set(title=f"Residuals, {name}", xlabel="prediction - label", ylabel="rows")
