"""Other settings than the run had that saved a checkpoint: what stays the same training, what is other bits of the same
job, and what is another run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ftloop.config import SETTINGS, TrainConfig
from ftloop.durable import read_manifest
from ftloop.errors import UserError
from ftloop.optim import create_scheduler
from ftloop.plan import TrainingPlan, make_plan
from ftloop.run import Run

# What another value means for a run that goes on. Of what is in none of these sets, a change is another run.
FREE = {  # the training is the same
    "ddp_timeout",
    "disable_tqdm",
    "explain",
    "keep_freed_memory",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "logging_dir",
    "logging_first_step",
    "logging_steps",
    "logging_strategy",
    "max_predict_samples",
    "max_train_seconds",
    "on_nonfinite",
    "output_dir",
    "overwrite_cache",
    "preprocessing_num_workers",
    "record",
    "record_full",
    "report",
    "report_to",
    "resume_from_checkpoint",
    "resume_with_changes",
    "sample_texts",
    "save_only_model",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "seeds",
    "test_file",
    "traceback",
}
USES_OF_THE_MODEL = {"max_predict_samples", "sample_texts", "test_file"}  # of FREE: what comes after the training
OTHER_BITS = {  # the same job, but no longer the bits of one run that was never interrupted
    "attn_implementation",
    "auto_micro_batch",
    "dataloader_persistent_workers",
    "early_stopping_patience",
    "early_stopping_threshold",
    "eval_delay",
    "eval_on_start",
    "eval_steps",
    "eval_strategy",
    "fast_dropout",
    "first_token_only",
    "full_determinism",
    "gradient_checkpointing",
    "greater_is_better",
    "load_best_model_at_end",
    "max_eval_samples",
    "metric_for_best_model",
    "pad_to_max_length",
    "padding",
    "per_device_eval_batch_size",
    "sort_eval",
    "tf32",
    "torch_compile",
    "use_cpu",
    "validation_file",
}
# Judged by what comes of them: the rows of an update, the number of updates, the digest of the training data.
BY_RESULT = {
    "dataset_config_name",
    "dataset_name",
    "gradient_accumulation_steps",
    "label_column_name",
    "label_delimiter",
    "max_seq_length",
    "max_steps",
    "max_train_samples",
    "num_train_epochs",
    "per_device_train_batch_size",
    "task_name",
    "text_column_names",
    "train_file",
}

FROZEN = {"freeze_embeddings", "freeze_layers"}


def changed_settings(saved: dict[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Name -> value then and now, of the settings that are others than in the saved configuration."""
    now = config.to_dict()
    then = {name: saved.get(name, setting.default) for name, setting in SETTINGS.items()}
    return {name: (then[name], now[name]) for name in now if not _same(name, then[name], now[name])}


def _same(name: str, then: Any, now: Any) -> bool:
    if name == "model_name_or_path" and (then is None or now is None):
        return True  # made in Python: its weights are those of the checkpoint, or do not fit
    if name == "model_name_or_path" and os.path.isdir(then) and os.path.isdir(now):
        return os.path.realpath(then) == os.path.realpath(now)
    return bool(then == now)


def refuse_another_run(config: TrainConfig, folder: Path, num_processes: int) -> None:
    """Raises: UserError naming the settings that make this another run than the one that saved the checkpoint."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    changed = changed_settings(manifest["config"], config)
    frozen = [f"{name} ({then} then, {now} now)" for name, (then, now) in changed.items() if name in FROZEN]
    if frozen:
        raise UserError(
            f"{folder}: saved by a run with other {', '.join(frozen)}; what is trained cannot change on the way, its "
            "optimizer knows nothing of the rest: resume with the same, or start anew from the model of that run "
            "(--model_name_or_path)"
        )
    if config.resume_with_changes:
        return
    wrong = {name: values for name, values in changed.items() if name not in FREE | OTHER_BITS | BY_RESULT}
    if config.batching == "token_budget" and "padding" in changed:
        wrong["padding"] = changed["padding"]  # it decides which rows fit
    split = ("per_device_train_batch_size", "gradient_accumulation_steps")
    then = [*(manifest["config"][name] for name in split), manifest["num_processes"]]
    now = [*(getattr(config, name) for name in split), num_processes]
    same_updates = np.prod(then) == np.prod(now) and not config.trainer_compat
    if config.batching == "token_budget":  # an update is made of batches, whatever number of rows each has
        same_updates &= then[0] == now[0]
    way = ""
    if then != now and not same_updates:
        way = _way_to_the_same_rows(config, then, num_processes)
        for name, before, value in zip((*split, "num_processes"), then, now, strict=True):
            if before != value:
                wrong[name] = (before, value)
    if wrong:
        raise _another_run(folder, wrong, way)


def _another_run(folder: Path, changed: dict[str, tuple[Any, Any]], way: str = "") -> UserError:
    named = ", ".join(f"{name} ({then} then, {now} now)" for name, (then, now) in changed.items())
    return UserError(
        f"{folder}: saved by a run with other {named}; resume with the same{way}, or insist with --resume_with_changes"
    )


def _way_to_the_same_rows(config: TrainConfig, then: list[int], num_processes: int) -> str:
    """How so many processes make updates of as many rows as `then`, one of rows x micro-batches x processes."""
    micro_batches, left = divmod(int(np.prod(then)), config.per_device_train_batch_size * num_processes)
    other_batches = config.batching == "token_budget" and then[0] != config.per_device_train_batch_size
    if left or micro_batches == 0 or config.trainer_compat or other_batches:
        return ""
    return f", or with --gradient_accumulation_steps {micro_batches}, which makes updates of as many rows"


def told_changes(run: Run, manifest: dict[str, Any]) -> list[str]:
    """What has been changed since the checkpoint was saved, and what it means: a line for each meaning."""
    config = run.config
    changed = changed_settings(manifest["config"], config)
    quiet = {"output_dir", "resume_from_checkpoint", "resume_with_changes", "traceback"}
    if manifest["num_processes"] != run.plan.num_processes:
        changed["num_processes"] = (manifest["num_processes"], run.plan.num_processes)
    length = {"num_train_epochs", "max_steps"}
    exact = FREE | (BY_RESULT - {"per_device_train_batch_size", "gradient_accumulation_steps"})
    if not _was_of_this_length(run, manifest):
        exact -= length
    same = {name: values for name, values in changed.items() if name in exact - quiet}
    other = {name: values for name, values in changed.items() if name not in exact | quiet}
    if run.data_digests.get("eval") != manifest["data"].get("eval"):
        other["validation data"] = ("others", "these")
    lines = []
    for meaning, settings in (
        ("the training stays the same", same),
        ("from here on no longer the bits of a run that was never stopped", other),
    ):
        if settings:
            named = ", ".join(f"{name} ({then} then, {now} now)" for name, (then, now) in settings.items())
            lines.append(f"Changed   {named}: {meaning}")
    return lines


def _was_of_this_length(run: Run, manifest: dict[str, Any]) -> bool:
    """Whether the updates done so far had the learning rates that this run's own schedule gives them, and the same
    evaluations after them: the last update of a run is evaluated wherever it falls.
    """
    then = {name: value for name, value in manifest["config"].items() if name in SETTINGS}
    saved_config = TrainConfig(**then)
    plan = run.plan
    steps_in_epoch = plan.updates_per_epoch * saved_config.gradient_accumulation_steps  # however they are split now
    saved_plan = make_plan(saved_config, plan.num_examples, steps_in_epoch, plan.num_processes)
    steps = run.state.global_step
    by_steps = run.config.eval_strategy == "steps"
    interval = plan.eval_steps if by_steps else plan.updates_per_epoch
    ended_between = run.config.eval_strategy != "no" and steps == saved_plan.max_steps and steps % interval != 0
    return (
        not ended_between
        and (not by_steps or saved_plan.eval_steps == plan.eval_steps)
        and _rates(saved_config, saved_plan, steps) == _rates(run.config, plan, steps)
    )


def _rates(config: TrainConfig, plan: TrainingPlan, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler: Any = create_scheduler(optimizer, config, plan.warmup_steps, plan.max_steps)
    return [scheduler.lr_lambdas[0](step) for step in range(steps)]


def check_same_data(run: Run, folder: Path) -> None:
    """Raises: UserError when what a folder holds was trained on other rows."""
    manifest = read_manifest(folder)
    assert manifest is not None
    data, saved = run.data_digests["train"], manifest["data"]["train"]
    if data != saved and not run.config.resume_with_changes:
        raise _another_run(folder, _changed_data(manifest, run.config, data, saved))


def _changed_data(
    manifest: dict[str, Any], config: TrainConfig, data: dict[str, Any], saved: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The training data, and the settings that may be why they are others."""
    settings = changed_settings(manifest["config"], config)
    named = {name: values for name, values in settings.items() if name in BY_RESULT and "steps" not in name}
    if data["rows"] != saved["rows"]:
        return {"training rows": (saved["rows"], data["rows"])} | named
    return {"training data": (f"digest {saved['digest']}", data["digest"])} | named
