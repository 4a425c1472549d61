"""The files that a finished run leaves in output_dir."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftloop.checkpoint.folders import delete_folders, list_checkpoints, was_on_request
from ftloop.checkpoint.save import run_manifest
from ftloop.checkpoint.trainer_state import TRAINER_STATE, trainer_state_json
from ftloop.data.contradictions import count_contradictions
from ftloop.data.glue import EVALUATED
from ftloop.data.labels import Labels, label_ids
from ftloop.errors import UserError
from ftloop.job.inputs import Inputs
from ftloop.models.adapters import describe_adapter
from ftloop.models.freeze import trained_parameters
from ftloop.models.load import input_limit
from ftloop.models.published import loading_in_python
from ftloop.models.weights import base_model, is_adapter
from ftloop.report.outcome import PREDICTIONS_FILE, RESERVED
from ftloop.run.run import Run
from ftloop.system.atomic import retry_once, save_text
from ftloop.system.console import say
from ftloop.system.manifest import DECISION, MANIFEST, RUN_FACTS, file_digests, read_json, read_manifest, write_manifest

if TYPE_CHECKING:
    from datasets import Dataset


ALL_RESULTS = "all_results.json"
# What a run writes of its sets; a user's own predictions may lie beside them.
PREDICTIONS = tuple(f"{name}{PREDICTIONS_FILE}{ending}" for name in EVALUATED for ending in RESERVED)
RESULTS = (ALL_RESULTS, *(f"{name}_results.json" for name in ("train", "eval", "test")), *PREDICTIONS, RUN_FACTS)


def record_trained(run: Run, files: list[str]) -> None:
    """Write into output_dir that the run is trained, with the named files as they are now; it is looked at before any
    checkpoint when the run is started again.
    """
    if run.is_main:
        root = Path(run.config.output_dir)
        if (root / DECISION).exists():  # an earlier model's
            (root / DECISION).unlink()
        facts = run_manifest(run) | {"complete": False, "files": file_digests(root, files)}
        retry_once(MANIFEST, lambda: write_manifest(root, facts))


def record_complete(run: Run) -> None:
    """Write into output_dir that the run is complete, with its result files as they are now. The checkpoint of a stop
    has then done its work and goes.
    """
    if not run.is_main:
        return
    root = Path(run.config.output_dir)
    trained = (read_manifest(root) or {"files": {}})["files"]
    results = file_digests(root, [name for name in RESULTS if name not in trained and (root / name).is_file()])
    facts = run_manifest(run) | {"complete": True, "files": trained, "results": results}
    retry_once(MANIFEST, lambda: write_manifest(root, facts))
    delete_folders([folder for folder in list_checkpoints(root) if was_on_request(folder)])


def save_metrics(run: Run, split: str, metrics: dict[str, Any]) -> None:
    """Write `<split>_results.json` and add to `all_results.json`. Mirrors: Trainer.save_metrics."""
    if not run.is_main:
        return
    root = Path(run.config.output_dir)
    before: dict[str, Any] = {}
    try:
        before = read_json(root / ALL_RESULTS) if (root / ALL_RESULTS).is_file() else {}
    except UserError as error:
        say("Broken", f"{error}; it is begun anew")
    save_text(root / f"{split}_results.json", results_text(metrics))
    save_text(root / ALL_RESULTS, results_text(before | metrics))


def results_text(values: dict[str, Any]) -> str:
    """Return the text of a results file as Trainer writes it."""
    return json.dumps(values, indent=4, sort_keys=True) + "\n"


def save_state(run: Run) -> None:
    """Write `trainer_state.json` into the output_dir. Mirrors: Trainer.save_state."""
    if run.is_main:
        save_text(Path(run.config.output_dir) / TRAINER_STATE, trainer_state_json(run.state, run.config))


def save_facts(run: Run, inputs: Inputs, words: dict[str, Any]) -> None:
    """Write what is known of the run into `ftloop_run.json`. `words`: what they alone tell."""
    text = json.dumps(run_facts(run, inputs) | {"words": words}, indent=2, sort_keys=True) + "\n"
    save_text(Path(run.config.output_dir) / RUN_FACTS, text)


def run_facts(run: Run, inputs: Inputs) -> dict[str, Any]:
    """Return what is known of model, data and plan when training begins; nothing that differs in another start."""
    model: Any = run.unwrapped_model
    device, plan, data, padding = run.accelerator.device, run.plan, inputs.data, inputs.padding
    sets = {"train": data.train} | data.validation | data.test
    trained, parameters = trained_parameters(model)
    loading = loading_in_python(model)
    return {
        "format": 1,
        "model": {
            "name": run.config.model_name_or_path or getattr(model.config, "_name_or_path", None) or None,
            "class": type(base_model(model)).__name__,
            "parameters": parameters,
            "trained_parameters": trained,
            **({"adapter": describe_adapter(model)} if is_adapter(model) else {}),
            **(dict(zip(("unlike_its_class", "loading"), loading, strict=True)) if loading else {}),
        },
        "data": {
            "problem_type": data.labels.problem_type,
            "labels": list(data.labels.names),
            "text_columns": list(data.text_columns),
            "label_column": data.label_column,
            "numbers_are_ids": "0" not in data.labels.names and "0" in data.labels.ids,
            **({"positive": data.labels.names[data.labels.positive]} if data.labels.is_binary else {}),
            "contradictions": count_contradictions(data.train, data.text_columns, data.label_column, data.labels),
            "longest_input": inputs.max_length,
            "input_limit": None if inputs.tokenizer is None else input_limit(model, inputs.tokenizer),
            "sets": {
                name: {
                    "rows": len(rows),
                    "truncated": inputs.truncated[name],
                    **({"in_train": data.in_train[name]} if name in data.in_train else {}),
                    "labels": _label_counts(inputs.encoded[name], data.labels) if data.has_labels(rows) else None,
                }
                for name, rows in sets.items()
            },
        },
        "padding": {
            "share": padding.share,
            "length_grouped": padding.length_grouped,
            "can_be_left_out": padding.can_be_left_out,
            "tokens_per_row": padding.tokens_per_row,
        },
        "plan": {
            "updates": plan.max_steps,
            "updates_per_epoch": plan.updates_per_epoch,
            "warmup_updates": plan.warmup_steps,
            "rows_per_update": plan.num_examples / plan.updates_per_epoch if plan.budget else plan.rows_in_window(0, 0),
        },
        "device": {
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": {"no": "fp32"}.get(run.accelerator.mixed_precision, run.accelerator.mixed_precision),
            "threads": torch.get_num_threads(),
        },
    }


def _label_counts(rows: Dataset, labels: Labels) -> dict[str, float] | dict[str, int]:
    """Count the rows of each class; of numbers return mean and standard deviation."""
    values = label_ids(rows)
    if labels.regression:
        return {"mean": float(np.mean(values)), "std": float(np.std(values))}
    several = labels.multi_label
    counts = values.sum(axis=0, dtype=np.int64) if several else np.bincount(values, minlength=labels.count)
    return {name: int(count) for name, count in zip(labels.names, counts, strict=True)}
