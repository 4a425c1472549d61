"""Judge the settings that differ from the checkpoint's: the run continues, or it is refused.

What another value means is said of each setting itself, by `Setting.on_resume`.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.checkpoint.trainer_state import TRAINER_STATE
from ftloop.errors import UserError
from ftloop.system.manifest import read_json, read_manifest

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig
    from ftloop.run.run import Run

Changes = dict[str, tuple[Any, Any]]
"""Values then and now, by name."""

# Schedules whose learning rate after an update does not depend on how many updates follow.
LENGTHLESS = ("constant", "constant_with_warmup", "inverse_sqrt")


def changed_settings(saved: dict[str, Any], config: TrainConfig) -> Changes:
    """Return the settings that differ from a saved configuration."""
    now = config.to_dict()
    then = {name: saved.get(name, setting.default) for name, setting in config.settings.items()}
    models = [values["model_name_or_path"] for values in (then, now)]
    tokenizers = [values["tokenizer_name"] or values["model_name_or_path"] for values in (then, now)]
    for name, places in (("model_name_or_path", models), ("tokenizer_name", tokenizers)):
        if None in places or len(set(map(os.path.realpath, places))) == 1:  # None: made in Python; it fits, or not
            now[name] = then[name]
    chosen = saved.get("from_recipe", {})  # some of it gave way to the data and the model, which may not be read yet
    now |= {name: then[name] for name, value in config.from_recipe.items() if chosen.get(name) == value}
    for values in (then, now):  # an earlier version saved what None came to
        direction = {name: values[name] for name in ("metric_for_best_model", "greater_is_better")}
        values["greater_is_better"] = replace(config, **direction).metric_rises
    return {name: (then[name], now[name]) for name in then if then[name] != now[name]}


def in_words(changes: Changes) -> str:
    return ", ".join(f"{name} ({then} then, {now} now)" for name, (then, now) in changes.items())


def refuse_another_run(config: TrainConfig, folder: Path, num_processes: int) -> None:
    """Raises: UserError naming the settings that make this another run than the one that saved the checkpoint."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    changed = changed_settings(manifest["config"], config)
    never = {name: values for name, values in changed.items() if config.settings[name].on_resume == "never"}
    if never:  # the optimizer knows nothing of the rest
        way = "what is trained cannot change on the way: resume with the same, or start anew from that run's model"
        raise UserError(f"{folder}: saved by a run with other {in_words(never)}; {way} (--model_name_or_path)")
    if config.resume_with_changes:
        return
    refused = {name: values for name, values in changed.items() if config.settings[name].on_resume == "refused"}
    if config.batching == "token_budget" and "padding" in changed:
        refused["padding"] = changed["padding"]  # it decides which rows fit
    split, way = _changed_updates(config, manifest, num_processes)
    if refused or split:
        raise _another_run(folder, refused | split, way)


def _another_run(folder: Path, changes: Changes, way: str = "") -> UserError:
    ways = f"resume with the same{way}, or insist with --resume_with_changes"
    return UserError(f"{folder}: saved by a run with other {in_words(changes)}; {ways}")


def _changed_updates(config: TrainConfig, manifest: dict[str, Any], num_processes: int) -> tuple[Changes, str]:
    """Return what gives an update other rows than before, and how so many processes would give it as many."""
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_processes")
    then = [int((manifest["config"] | manifest)[name]) for name in names]
    now = [config.per_device_train_batch_size, config.gradient_accumulation_steps, num_processes]
    # An update of a token budget is made of batches, whatever number of rows each has.
    may_be_split = not config.trainer_compat and (config.batching != "token_budget" or then[0] == now[0])
    if then == now or (may_be_split and math.prod(then) == math.prod(now)):
        return {}, ""
    changes = {name: (a, b) for name, a, b in zip(names, then, now, strict=True) if a != b}
    micro_batches, left = divmod(math.prod(then), now[0] * num_processes)
    way = f", or with --gradient_accumulation_steps {micro_batches}, which makes updates of as many rows"
    return changes, way if may_be_split and micro_batches > 0 and left == 0 else ""


def check_same_data(run: Run, folder: Path) -> None:
    """Raises: UserError when what a folder holds was trained on other rows."""
    manifest = read_manifest(folder)
    assert manifest is not None
    both = (manifest["data"]["train"], run.data_digests["train"])
    then, now = (f"{data['rows']} rows, digest {data['digest']}" for data in both)
    if now != then and not run.config.resume_with_changes:
        settings = changed_settings(manifest["config"], run.config)
        reasons = {name: values for name, values in settings.items() if run.config.settings[name].on_resume == "data"}
        raise _another_run(folder, {"training data": (then, now)} | reasons)


def describe_changes(run: Run, folder: Path) -> list[str]:
    """Return what has changed since a checkpoint was saved: a line each for what is exact and for other bits."""
    manifest = read_manifest(folder)
    if manifest is None:
        return []
    changed = changed_settings(manifest["config"], run.config)
    meaning_of = {name: setting.on_resume for name, setting in run.config.settings.items()}
    changed = {name: changed[name] for name in changed if meaning_of[name] != "start" and name != "output_dir"}
    processes = (manifest["num_processes"], run.plan.num_processes)
    changed |= {"num_processes": processes} if processes[0] != processes[1] else {}
    names = [*run.data_digests, *(name for name in manifest["data"] if name not in run.data_digests)]
    digests = {name: (manifest["data"].get(name), run.data_digests.get(name)) for name in names}
    changed |= {f"{name} data": ("others", "these") for name, (then, now) in digests.items() if then != now}
    exact_meanings = {"free", "results"}
    exact_meanings |= {"data"} if "train data" not in changed else set()
    exact_meanings |= {"length"} if _same_so_far(run, read_json(folder / TRAINER_STATE)["max_steps"]) else set()
    exact = {name for name in changed.keys() & meaning_of if meaning_of[name] in exact_meanings}
    if run.config.eval_strategy == "steps" and not run.config.eval_steps:
        exact.discard("logging_steps")  # it is the evaluation's interval too
    if run.train_loader.fetches.other_workers:
        exact.discard("dataloader_num_workers")
    same = {name: changed[name] for name in changed if name in exact}
    other = {name: changed[name] for name in changed if name not in exact}
    lines = [f"Changed   {in_words(same)}: the training stays the same"] if same else []
    if other:
        lines.append(f"Changed   {in_words(other)}: from here on no longer the bits of a run that was never stopped")
    return lines


def _same_so_far(run: Run, saved_max_steps: int) -> bool:
    """Whether the run had the same learning rates and evaluations until now as one of `saved_max_steps` updates. Told
    by the settings, so False too where the rates only happen to be equal."""
    config, plan, step = run.config, run.plan, run.state.global_step
    by_steps = config.eval_strategy == "steps"
    interval = plan.eval_steps if by_steps else plan.updates_per_epoch
    # The last update of a run is evaluated wherever it falls.
    ended_between = config.eval_strategy != "no" and step == saved_max_steps and step % interval != 0
    shares = [config.warmup_ratio or 0, config.warmup_steps, config.evaluation_interval if by_steps else 0]
    is_lengthless = config.lr_scheduler_type in LENGTHLESS and not any(0 < share < 1 for share in shares)
    return plan.max_steps == saved_max_steps or (is_lengthless and not ended_between)
