"""The pictures of `benchmarks/padding/measure.py`. Colours are of Okabe and Ito's palette, for the colour-blind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

REAL, PADDING, NEXT, MARK = "#0072B2", "#E69F00", "#56B4E9", "#000000"


def draw_lengths(result: dict[str, Any], path: Path) -> None:
    """Draw how many rows have how many tokens, with mean, p95 and maximum."""
    lengths = np.array([int(length) for length in result["data"]["rows_of_length"]])
    rows = np.array(list(result["data"]["rows_of_length"].values()))
    each = np.repeat(lengths, rows)
    width = max(-(-int(np.ptp(lengths) + 1) // 60), 1)
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.hist(each, bins=np.arange(lengths.min(), lengths.max() + width + 1, width) - 0.5, color=REAL, alpha=0.75)
    marks = {"mean": each.mean(), "95 % of the rows": np.percentile(each, 95), "longest row": each.max()}
    for (name, value), style in zip(marks.items(), ("-", "--", ":"), strict=True):
        axes.axvline(value, color=MARK, linestyle=style, linewidth=1.6, label=f"{name}: {value:.1f}".removesuffix(".0"))
    axes.set(xlabel="tokens of a row", ylabel="rows" if width == 1 else f"rows, {width} lengths a bar")
    axes.set_title(f"Lengths of {len(each)} rows: {result['data']['name']}, tokens of {_model(result)}")
    axes.legend()
    _save(figure, path)


def draw_strategies(result: dict[str, Any], path: Path) -> None:
    """Padding share, time of a step and of an epoch of each strategy; lines from minimum to maximum."""
    found, conditions = result["strategies"], result["conditions"]
    names = list(found)
    places = np.arange(len(names))[::-1]
    figure, panels = pyplot.subplots(1, 3, sharey=True, figsize=(14, 1.6 + 0.45 * len(names)), layout="constrained")
    figure.suptitle(
        f"{result['data']['name']}, {conditions['rows_per_batch']} rows a batch, {_model(result)}, "
        f"{conditions['precision']}, {conditions['where']}; {conditions['steps']} steps timed of each"
    )
    shares = [100 * row["padding_share"] for row in found.values()]
    panels[0].barh(places, shares, color=PADDING)
    _label(panels[0], places, shares, [f"{share:.1f} %" for share in shares])
    panels[0].set_title("tokens that are padding, of all computed")
    panels[0].set(xlabel="%", yticks=places, yticklabels=names)
    times = (
        ("step_seconds", 1e3, "ms", "one step: median, min to max"),
        ("epoch_seconds", 1, "s", "epoch, estimated: median, min to max"),
    )
    for axes, (key, unit, name, title) in zip(panels[1:], times, strict=True):
        median, least, most = (
            np.array([row[key][which] * unit for row in found.values()]) for which in ("median", "min", "max")
        )
        axes.barh(places, median, color=REAL)
        reach = np.stack([median - least, most - median])
        axes.errorbar(median, places, xerr=reach, fmt="none", ecolor=MARK, capsize=3, linewidth=1.2)
        _label(axes, places, most, [f"{value:.0f}" if value >= 10 else f"{value:.2g}" for value in median])
        axes.set(xlabel=name, title=title)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _label(axes: Any, places: Any, ends: Any, texts: list[str]) -> None:
    """Behind the end of each bar, with room for it."""
    for place, end, text in zip(places, ends, texts, strict=True):
        axes.annotate(text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, 1.15 * max(max(ends), 1e-9))


def draw_batches(result: dict[str, Any], strategies: list[dict[str, Any]], path: Path) -> None:
    """The first batches of an epoch under each strategy, side by side: one line a row, one cell a token."""
    count = max(len(each["masks"]) for each in strategies)
    widest = max(mask.shape[1] for each in strategies for mask in each["masks"])
    figure, grid = pyplot.subplots(
        count, len(strategies), sharex=True, squeeze=False, figsize=(4.6 * len(strategies), 1.7 * count + 1.3)
    )
    colours = ListedColormap([PADDING, REAL, NEXT])
    for column, each in enumerate(strategies):
        for number in range(count):
            axes = grid[number, column]
            if number >= len(each["masks"]):
                axes.set_visible(False)
                continue
            mask = each["masks"][number]
            axes.pcolormesh(mask, cmap=colours, vmin=0, vmax=2, rasterized=True)
            axes.set(xlim=(0, widest), ylim=(len(mask), 0), yticks=[])
            axes.spines[["top", "right", "left"]].set_visible(False)
            is_packed = np.ma.isMaskedArray(mask)
            share = f"{len(mask)} x {mask.shape[1]} tokens, {1 - mask.mean():.0%} padding"
            share = f"{mask.count()} tokens, one behind the other" if is_packed else share
            above = f"{each['name']}\n{each['share']:.1%} padding in the epoch\n\n" if number == 0 else ""
            axes.set_title(f"{above}Batch {number + 1}: {share}", fontsize=10)
            if column == 0 or is_packed:
                axes.set_ylabel("lines" if is_packed else "rows")
            if number == count - 1:
                axes.set_xlabel("tokens")
    names = {
        REAL: "a real token",
        NEXT: "a token of the next row, where rows follow one another",
        PADDING: "padding, computed all the same",
    }
    colour_of = [Patch(color=color, label=label) for color, label in names.items()]
    figure.suptitle(
        f"What a batch holds: {result['data']['name']}, tokens of {_model(result)}; the first batches of epoch 0, "
        f"seed {result['conditions']['seed']}"
    )
    figure.legend(handles=colour_of, loc="outside lower center", ncols=3, frameon=False)
    figure.set_layout_engine("constrained")
    _save(figure, path)


def _model(result: dict[str, Any]) -> str:
    return Path(result["conditions"]["model"]).name


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
