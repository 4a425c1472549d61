"""What several runs of one job leave beside their folders, and what is said when the last has ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from ftloop.config.problem_type import ProblemType
from ftloop.errors import UserError
from ftloop.metrics import metric_titles
from ftloop.report.outcome import OUT_OF_FOLD, SERIES
from ftloop.seeds.out_of_fold import OutOfFold, read_out_of_fold
from ftloop.seeds.summary import SeedRuns, summary, table
from ftloop.system.atomic import atomic_write, write_text
from ftloop.system.text import nan_to_none, pluralize, short_repr

MAX_SHOWN = 3  # of the rows whose label is doubted


def write_together(runs: SeedRuns) -> str:
    """Write `seeds.json` or `folds.json`, and of folds the predictions of all rows. Returns: what is to be printed."""
    found, lines = summary(runs), [table(runs)]
    if runs.kind == "fold":
        path = runs.folder / OUT_OF_FOLD
        try:
            rows = read_out_of_fold(runs)
        except UserError as error:
            path.unlink(missing_ok=True)  # that of earlier folds
            lines.append(f"Left out  {OUT_OF_FOLD}: {error}")
        else:
            with atomic_write(path) as file:
                pq.write_table(rows.table, file, compression="zstd")
            found["out_of_fold"] = nan_to_none(_facts(rows))
            lines += [*_told(rows), f"Written   {path}"]
    write_text(runs.folder / SERIES[runs.kind], json.dumps(found, indent=2) + "\n")
    return "\n".join(lines)


def _facts(rows: OutOfFold) -> dict[str, Any]:
    return {
        "rows": rows.table.num_rows,
        "never_held_out": rows.never,
        "repeated": rows.repeated,
        "metrics": rows.metrics,
        "doubts": {"method": rows.doubts.method, "rows": len(rows.doubts.rows), "is_weak": rows.is_weak},
    }


def _told(rows: OutOfFold) -> Iterator[str]:
    count, titles = rows.table.num_rows, metric_titles(rows.predictions.classes)
    if rows.metrics:
        values = ", ".join(f"{titles.get(name, name)}={value:.4f}" for name, value in rows.metrics.items())
        yield f"Pooled    {pluralize(count, 'row')}, each by the model that was not trained on it: {values}"
    if rows.never:
        yield f"Unheld    {pluralize(rows.never, 'row')}, always trained on: else a label would be lost"
    if rows.repeated:
        told = "have the texts of rows that their model was trained on, which it may remember"
        yield f"Repeated  {rows.repeated} of {count} rows {told}"
    some = rows.table.take(rows.doubts.rows[:MAX_SHOWN]).to_pylist()
    shown = "; ".join(
        f"row {row['row']} is {short_repr(row['label'])}, predicted {short_repr(row['prediction'])}" for row in some
    )
    if rows.predictions.problem_type == ProblemType.REGRESSION:
        yield "Doubted   the labels farthest from what was predicted" if some else "Doubted   none"
    else:
        first = ", the least likely first" if some else ""
        yield f"Doubted   {pluralize(len(rows.doubts.rows), 'label')} of {count}, by {rows.doubts.method}{first}"
    if some:
        yield f"          {shown}"
    if some and rows.is_weak:
        yield "          but the models are no better than one answer to all, so that their doubts mean little"
