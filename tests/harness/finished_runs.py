"""Folders such as finished runs leave, made by hand: of any kind, without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftloop.config.train_config import TrainConfig
from ftloop.system.manifest import write_manifest

TEXTS = ["an ordinary text", "<script>alert(1)</script>", "</style><img src=http://x/y onerror=alert(1)>"]
TEXTS += ["turned \u202e around", "a NUL \0 and a line\nend", "long " * 2000]
NAMES = ["plain", "<script>alert(2)</script>", "$\\frac{x}", "back`tick | bar", "名前 \u202e x"]


def left_by_a_run(
    root: Path,
    kind: str,
    count: int,
    rows: int,
    sets: tuple[str, ...] = ("validation", "test"),
    seed: int = 0,
    model: int = 0,
) -> Path:
    """`count`: classes or labels; the first names and texts are those that nobody should obey. `seed`: of
    the rows; `model`: of what is predicted of them.
    """
    root.mkdir(parents=True)
    names = [NAMES[i] if i < len(NAMES) else f"class {i}" for i in range(count if kind != "regression" else 0)]
    for number, name in enumerate(sets):
        pq.write_table(predictions(kind, names, rows, seed + number, model), root / f"{name}_predictions.parquet")
    labels: Any = {"mean": 0.5, "std": 1.0} if kind == "regression" else dict.fromkeys(names, rows)
    each = {"rows": rows, "truncated": 1, "labels": labels}
    facts = {
        "format": 1,
        "model": {"name": str(root / "model"), "class": "Bert", "parameters": 9, "trained_parameters": 9},
        "data": {
            "problem_type": kind,
            "labels": names,
            "text_columns": ["text"],
            "label_column": "label",
            "contradictions": {"rows": 0, "of": rows},
            "longest_input": 64,
            "sets": dict.fromkeys(("train", *sets), each),
        },
        "padding": {"share": 0.3, "length_grouped": 0.1, "tokens_per_row": 20.0},
        "plan": {"updates": 20, "updates_per_epoch": 10, "warmup_updates": 0, "rows_per_update": 8},
        "device": {"name": "cpu", "precision": "fp32", "threads": 2},
    }
    (root / "ftloop_run.json").write_text(json.dumps(facts))
    config = TrainConfig(
        output_dir=str(root),
        model_name_or_path=str(root / "model"),
        train_file="rows.csv",
        learning_rate=1e-3,
        eval_strategy="epoch",
        metric_for_best_model="loss",
        load_best_model_at_end=True,
        save_strategy="epoch",
    )
    write_manifest(root, {"files": {}, "config": config.to_dict(), "versions": {"torch": "2"}, "num_processes": 2})
    history = [
        {"step": 10 * i, "epoch": float(i), "loss": 1 / i, "grad_norm": float("nan"), "learning_rate": 1e-3 / i}
        for i in (1, 2)
    ]
    history += [{"step": 10 * i, "epoch": float(i), "eval_loss": 0.5 * i, "eval_runtime": 1.0} for i in (1, 2)]
    state = {"global_step": 20, "log_history": history, "best_global_step": 10, "best_metric": 0.5}
    (root / "trainer_state.json").write_text(json.dumps(state))
    results = {"train_runtime": 10.0, "train_samples_per_second": 16.0, "eval_loss": 0.5}
    (root / "all_results.json").write_text(json.dumps(results))
    return root


def predictions(kind: str, names: list[str], rows: int, seed: int, model: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    noise = np.random.default_rng([seed, model]) if model else draw
    texts = [TEXTS[i % len(TEXTS)] for i in range(rows)]
    if kind == "regression":
        true = draw.normal(size=rows)
        logits = (true + noise.normal(size=rows))[:, None]
        columns = {"label": true.astype(np.float32), "prediction": logits[:, 0].astype(np.float32)}
    elif kind == "multi_label_classification":
        hot = draw.random((rows, len(names))) < 0.3
        logits = noise.normal(size=hot.shape) + 2 * hot - 1
        lists = [[[names[i] for i in np.flatnonzero(row)] for row in each] for each in (hot, logits > 0)]
        columns = {
            name: pa.array(each, pa.list_(pa.string()))
            for name, each in zip(("label", "prediction"), lists, strict=True)
        }
    else:
        true = draw.integers(0, len(names), rows)
        logits = noise.normal(size=(rows, len(names)))
        logits[np.arange(rows), true] += 1.0
        chosen = np.asarray(names, object)
        columns = {"label": chosen[true], "prediction": chosen[logits.argmax(axis=1)]}
    flat = pa.array(logits.astype(np.float32).reshape(-1))
    return pa.table({"text": texts, **columns, "logits": pa.FixedSizeListArray.from_arrays(flat, logits.shape[1])})
