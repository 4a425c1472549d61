"""The finished runs below a folder, side by side: the settings in which they
differ, and their scores; several seeds or folds have a line for their mean too.

ftloop runs FOLDER                       a table of all of them
ftloop runs FOLDER --sort test_accuracy  the best first
ftloop runs FOLDER --output runs.csv     the same for a spreadsheet, with every
                                         number in full
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ftloop.config.train_config import FALLING, SETTINGS
from ftloop.errors import UserError, summarize
from ftloop.report.outcome import SERIES, FinishedRun, read_finished_run
from ftloop.system.atomic import write_text
from ftloop.system.console import say
from ftloop.system.exit import end_of
from ftloop.system.flags import CommandParser, nearest_name
from ftloop.system.scalars import is_number, is_timing
from ftloop.system.table import aligned
from ftloop.system.text import expand_path, join_some, pluralize

STATE = "trainer_state.json"
LONGEST = 32  # characters of a setting in the table


@dataclass(frozen=True)
class Table:
    """Runs by their folders below the one that was named, in order."""

    folder: Path
    settings: list[str]
    """Those of the training in which the runs differ."""
    scores: list[str]
    rows: dict[str, dict[str, Any]]
    broken: dict[str, str]
    """Folders that hold a run that cannot be read, and why."""
    count: int
    """Number of runs; `rows` has means besides."""


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the folders of finished runs, in order; checkpoints are none."""
    for root, folders, files in os.walk(folder):
        if STATE in files:
            yield Path(root)
        folders[:] = sorted(each for each in folders if not each.startswith((".", "checkpoint-", "broken-")))


def read_runs(folder: Path) -> Table:
    """Raises: UserError where there is no run."""
    runs: dict[str, FinishedRun] = {}
    broken: dict[str, str] = {}
    for path in find_runs(folder):
        name = str(path.relative_to(folder))
        try:
            runs[name] = read_finished_run(path)
        except UserError as error:
            broken[name] = summarize(error)
    if not runs:
        found = f"; {join_some([f'{name}: {why}' for name, why in broken.items()], 3)}" if broken else ""
        raise UserError(f"no finished run in or below {folder}{found}; name a folder that holds output_dirs")
    every = {name: run.config for name, run in runs.items()}
    differ = differing_settings(list(every.values()))
    scores = {name: _scores(run) for name, run in runs.items()}
    every_score = dict.fromkeys(key for each in scores.values() for key in each)
    shown = [key for prefix in ("eval_", "test_") for key in every_score if key.startswith(prefix)]
    rows = {name: {key: every[name].get(key) for key in differ} | scores[name] for name in runs}
    return Table(folder, differ, shown, _with_means(rows, folder.resolve().name), broken, len(runs))


def _with_means(rows: dict[str, dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """Add, below the runs of several seeds or folds, a line for their mean, with the settings that they share. `name`:
    what to call the folder of all.
    """
    series: dict[tuple[Path, str], list[str]] = {}
    for run in rows:
        kind, _, number = Path(run).name.rpartition("-")
        if kind in SERIES and number.isdecimal():
            series.setdefault((Path(run).parent, kind), []).append(run)
    below = {runs[-1]: place for place, runs in series.items() if len(runs) > 1}
    found = {}
    for run, values in rows.items():
        found[run] = values
        if run in below:
            parent, kind = below[run]
            members = [rows[member] for member in series[below[run]]]
            title = f"{name if parent == Path() else parent}: mean of {len(members)} {kind}s"
            found[title] = {key: _mean(key, [each.get(key) for each in members]) for key in values}
    return found


def _mean(name: str, values: list[Any]) -> Any:
    """Return a score's mean, or the setting that all have; None where there is none."""
    if name not in SETTINGS and all(map(is_number, values)):
        return fmean(values)
    return values[0] if len({*map(repr, values)}) == 1 else None


def differing_settings(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the settings of the training in which runs differ, those that most people set first.

    One that a run of an earlier version does not have had its default there.
    """
    trained = [setting for name, setting in SETTINGS.items() if not setting.is_free or name == "test_file"]
    values = {
        each.name: [config.get(each.name, each.default) if config else None for config in configs] for each in trained
    }
    differ = [each for each in trained if len(set(map(repr, values[each.name]))) > 1]
    return [each.name for each in sorted(differ, key=lambda each: not each.common)]


def _scores(run: FinishedRun) -> dict[str, Any]:
    return {name: value for name, value in run.results.items() if is_number(value) and not is_timing(name)}


def sort(table: Table, name: str) -> Table:
    """Sort by a score, the best first, or by a setting; runs without it come last. Raises: UserError."""
    if name not in (*table.settings, *table.scores):
        columns = (*table.scores, *table.settings)
        raise UserError(f"sort: no column {name!r}, but {join_some(columns, 12)}{nearest_name(name, columns)}")
    rising = name in table.settings or name.removesuffix("_mm").endswith((*FALLING, "mae"))
    having = {run: values[name] for run, values in table.rows.items() if values.get(name) is not None}
    having = {run: value for run, value in having.items() if value == value}  # nothing is above or below a NaN

    def key(run: str) -> tuple[bool, Any]:
        return (False, having[run]) if is_number(having[run]) else (True, str(having[run]))

    ordered = [*sorted(having, key=key, reverse=not rising), *(run for run in table.rows if run not in having)]
    return replace(table, rows={run: table.rows[run] for run in ordered})


def as_text(table: Table, width: int | None = None) -> str:
    """Write the table with the columns that fit into `width` characters, scores first; those left out are named."""
    head = ["run", *table.scores, *table.settings]
    rows = [[run, *(_cell(values.get(name)) for name in head[1:])] for run, values in table.rows.items()]
    shown, used = 0, 0
    for column in zip(head, *rows, strict=True):
        used += max(map(len, column)) + 2
        if width is not None and used - 2 > width and shown > 1:
            break
        shown += 1
    lines, left = aligned([row[:shown] for row in [head, *rows]]), head[shown:]
    lines += [f"Left out  {join_some(left, 4)}: --output FILE.csv has all columns"] if left else []
    return "\n".join(lines)


def as_csv(table: Table) -> str:
    head, text = ["run", *table.scores, *table.settings], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([run, *(values.get(name) for name in head[1:])] for run, values in table.rows.items())
    return text.getvalue()


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"...{text[3 - LONGEST :]}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="ftloop runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="where the output_dirs of the runs lie, at any depth")
    parser.add_argument("--sort", metavar="COLUMN", help="a score, the best first, or a setting")
    parser.add_argument("--output", metavar="FILE", help="write the table there, as csv")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    args = parser.parse_args(argv)
    return end_of(lambda: _show(args), args.traceback)


def _show(args: argparse.Namespace) -> None:
    folder = expand_path(args.folder, "FOLDER")
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name one that holds the output_dirs of finished runs")
    table = read_runs(folder)
    if args.sort is not None:
        table = sort(table, args.sort)
    for name, why in table.broken.items():
        say("Left out", f"{name}: {why}")
    if args.output is None:
        print(as_text(table, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    else:
        output = expand_path(args.output, "output")
        write_text(output, as_csv(table))
        say("Runs", f"{pluralize(table.count, 'run')} in {output}")


if __name__ == "__main__":
    sys.exit(main())
