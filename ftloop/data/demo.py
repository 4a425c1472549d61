"""The built-in demo data set: pairs of generated news sentences, labelled paraphrase (1) or not (0).

It has the shape of MRPC, and needs no network. `benchmarks/make_demo_data.py` made the rows, and says how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPLIT_SIZES: dict[str, int] = {"train": 560, "validation": 200, "test": 300}


def demo_rows(split: str) -> list[dict[str, Any]]:
    """Return the rows of one split: sentence1, sentence2, label and idx. Raises: KeyError for an unknown split."""
    lines = Path(__file__).with_name("demo.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row.pop("split") == split]
    if len(rows) != SPLIT_SIZES[split]:
        raise ValueError(f"demo.jsonl holds {len(rows)} rows of {split}, not {SPLIT_SIZES[split]}")
    return rows
