"""Labels that tests share, and a job with several labels a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from harness.rows import tiny_rows
from harness.side_by_side import Job

from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.metrics import metrics_for

PAIR = Labels(("different", "same"), {"different": 0, "same": 1})
THREE = Labels(("a", "b", "c"), {"a": 0, "b": 1, "c": 2}, ProblemType.MULTI_LABEL)


class SeveralLabels(Job):
    """Rows of several labels, the model left to find that out by itself, as Trainer leaves it."""

    def _rows(self, count: int, seed: int) -> Dataset:
        rows = tiny_rows(count, 3, seed)
        hot = [np.float32([label == 0, label != 1, label == 2]) for label in rows["label"]]
        return rows.remove_columns("label").add_column("label", hot)

    def metrics(self, evaluated: Any) -> dict[str, float]:
        return metrics_for(THREE)(evaluated)
