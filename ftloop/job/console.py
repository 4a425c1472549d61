"""What a run says before it trains and when it is over: what is trained on what, on which device, in how many updates;
and what to do next."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction

from ftloop.config.problem_type import ProblemType
from ftloop.config.reproduce import ftloop_command, python_command
from ftloop.config.train_config import FALLING, TrainConfig
from ftloop.data.class_weights import describe_weights
from ftloop.data.constant_answers import best_of, constant_answers
from ftloop.data.glue import TASKS
from ftloop.data.labels import label_ids
from ftloop.data.load import TextData
from ftloop.job.inputs import Inputs, Padding
from ftloop.logs import format_numbers, scores
from ftloop.metrics import metric_names, metric_titles
from ftloop.models.adapters import describe_adapter
from ftloop.models.freeze import trained_parameters
from ftloop.models.published import WEIGHTS_INTO_MODEL, loading_in_python
from ftloop.models.weights import base_model, is_adapter
from ftloop.report.outcome import MERGED
from ftloop.run.precision import bf16_warning, tf32_hint
from ftloop.run.run import Run
from ftloop.system.console import say
from ftloop.system.hub import PACKAGED_MODEL
from ftloop.system.shell import quote
from ftloop.system.text import pluralize

SHOWN_CLASSES = 20


def announce(run: Run, inputs: Inputs) -> None:
    """Say what will be trained on what. In the main process alone: it computes for it."""
    if run.is_main:
        assert run.config.model_name_or_path is not None
        announce_model(run, run.config.model_name_or_path, inputs.new_weights)
        announce_data(run, inputs.data, inputs.truncated, inputs.max_length)
        announce_padding(run, inputs.padding)
        announce_plan(run)
        announce_baseline(run, inputs)


def announce_data(run: Run, data: TextData, truncated: Mapping[str, int | None], max_length: int) -> None:
    sets = {"train": data.train} | data.validation | data.test
    counts = ", ".join(f"{name} {len(dataset)}" for name, dataset in sets.items())
    unlabelled = [name for name, dataset in data.test.items() if not data.has_labels(dataset)]
    names = [f"{i}={name}" for i, name in enumerate(data.labels.names[:SHOWN_CLASSES])]
    more = [f"... {data.labels.count} classes"] if data.labels.count > SHOWN_CLASSES else []
    target = "a number" if data.labels.regression else ", ".join(names + more)
    target = f"any number of {data.labels.count} labels: {target}" if data.labels.multi_label else target
    repeated = ", ".join(f"{count} of {name}" for name, count in data.in_train.items())
    told = f"; with the texts of training rows: {repeated}" if repeated else ""
    say("Data", f"{counts} rows{f' ({unlabelled[0]} without labels)' if unlabelled else ''}{told}")
    if run.config.validation_split is not None or run.config.fold is not None:
        say("Split", _describe_split(run.config, data))
    dropped = [f"{name}: {text}" for name, rows in sets.items() if (text := _dropped(run, data, name, len(rows)))]
    if dropped:
        say("Dropped", "; ".join(dropped))
    say("Columns", f"{' + '.join(data.text_columns)} -> {data.label_column} ({target})")
    for topic, text in data.remarks:
        say(topic, text)
    metric, of_recipe = run.config.metric_for_best_model, run.config.from_recipe.get("metric_for_best_model")
    if metric != of_recipe and of_recipe is not None:
        have = ", ".join(("loss", *metric_names(data.labels, data.metrics)))
        say("Metric", f"{metric} tells the best model: the recipe's {of_recipe} is none of this data's ({have})")
    weights = run.class_weights if run.config.class_weights is not None else None
    if weights is not None:
        say("Weights", describe_weights(weights, data.labels.names, SHOWN_CLASSES))
    task = TASKS.get(run.config.task_name or "")
    if (
        task is not None
        and task.label_names
        and not data.labels.regression
        and set(data.labels.names) != set(task.label_names)
    ):
        usual = {*task.label_names, *map(str, range(len(task.label_names)))}
        other = next((repr(raw) for raw in data.labels.ids if raw not in usual), "names and numbers")
        names_of_task = ", ".join(f"{i}={name}" for i, name in enumerate(task.label_names))
        say("Labels", f"not those of {run.config.task_name} ({names_of_task}), by {other}: so classes of their own")
    cut = ", ".join(f"{count} of {name}" for name, count in truncated.items() if count)
    say("Lengths", f"at most {max_length} tokens; {f'truncated: {cut}' if cut else 'none truncated'}")


def _describe_split(config: TrainConfig, data: TextData) -> str:
    held_out, numbers = data.rows_read["validation"], data.labels.regression
    if config.fold is None:
        how = "at random" if numbers else "class by class"
        return f"validation: {held_out} of the training rows, {how}, by seed {config.split_seed}"
    part = f"{held_out} of {held_out + len(data.train)} training rows"
    how = "quantile by quantile" if numbers else "class by class"
    return f"validation: fold {config.fold} of {config.folds}, {part}, {how}, by seed {config.split_seed}"


def _dropped(run: Run, data: TextData, name: str, used: int) -> str:
    """Describe the rows of a set that were read but are not used; empty if there are none."""
    config, rows, is_train = run.config, data.rows_read[name], name == "train"
    limit = "max_train_samples" if is_train else "max_predict_samples" if name in data.test else "max_eval_samples"
    parts = [f"{rows - used} of {rows} rows ({limit})"] if used < rows else []
    if config.dataloader_drop_last and (is_train or config.trainer_compat):
        size = config.per_device_train_batch_size if is_train else config.per_device_eval_batch_size
        rest = used % (size * run.accelerator.num_processes)
        each = " of each epoch" if is_train else ""
        parts += [f"{pluralize(rest, 'row')}{each} (dataloader_drop_last)"] if rest else []
    return ", ".join(parts)


def announce_padding(run: Run, padding: Padding) -> None:
    """Say how much of the first epoch is padding, and how little of it there could be."""
    config, edges, about = run.config, padding.edges, "about " if padding.is_estimate else ""
    if padding.left_out is not None:
        say("Padding", f"{config.batching} batches; their padding, {about}{padding.left_out:.1%}, is not computed")
        return
    to = "its longest row" if edges is None else f"{edges[0]} tokens" if len(edges) == 1 else config.padding
    text = f"{config.batching} batches, each padded to {to}: {about}{padding.share:.1%} of the tokens are padding"
    if padding.can_be_left_out and padding.share > 0.01:
        text += "; --padding none computes none of it"
    elif padding.length_grouped is not None and padding.length_grouped < padding.share - 0.01:
        flags = f"--batching length_grouped{'' if edges is None else ' --padding longest'}"
        text += f"; {flags} leaves {padding.length_grouped:.1%}"
    say("Padding", text)


def announce_baseline(run: Run, inputs: Inputs) -> None:
    """Say what the best constant answers score on the set that decides, so that the run's scores can be read against
    them."""
    name, labels = next(iter(inputs.data.validation), None), inputs.data.labels
    if name is None and not any(inputs.data.has_labels(rows) for rows in inputs.data.test.values()):
        way = "--validation_split 0.1 holds rows of the training set out"
        say("Unscored", f"no validation or test set has labels, so nothing will tell how good the model is; {way}")
    if name is None or run.compute_metrics is None:
        return
    ids, titles = label_ids(inputs.encoded[name]), metric_titles(labels)
    scored = {}
    for answer in constant_answers(labels, ids):
        constant = np.repeat(np.asarray(answer.value)[None], len(ids), axis=0)
        scored[answer.name] = run.compute_metrics(EvalPrediction(predictions=constant, label_ids=ids))
    best, metrics_of = best_of(scored, FALLING)
    parts: list[str] = []
    for always, metrics in metrics_of.items():
        told = repr(always) if labels.problem_type == ProblemType.SINGLE_LABEL else always
        values = format_numbers({titles.get(metric, metric): best[metric] for metric in metrics})
        parts.append(f"always {told}{'' if parts else f' on {name}'}: {values}")
    say("Baseline", "; ".join(parts))


def announce_model(run: Run, name: str, new_weights: list[str]) -> None:
    model: Any = run.unwrapped_model
    heads = f"; new: {', '.join(new_weights)}" if new_weights else ""
    say("Model", f"{name} ({type(base_model(model)).__name__}, {model.num_parameters() / 1e6:.1f} M parameters{heads})")
    trained, parameters = trained_parameters(model)
    if trained < parameters:
        frozen = ["the embeddings"] if run.config.freeze_embeddings else []
        frozen += [f"the {pluralize(run.config.freeze_layers, 'lowest layer')}"] if run.config.freeze_layers else []
        parts = [describe_adapter(model)] if is_adapter(model) else []
        parts += [f"{'frozen: ' if parts else ''}{' and '.join(frozen)}"] if frozen else []
        parts.append(f"{trained / 1e6:.3g} of {parameters / 1e6:.3g} M parameters are trained")
        say("Adapter" if is_adapter(model) else "Frozen", "; ".join(parts))


def announce_plan(run: Run) -> None:
    config, plan, accelerator = run.config, run.plan, run.accelerator
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    device, processes = accelerator.device, accelerator.num_processes
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    many, threads = pluralize(processes, "process", "processes"), pluralize(torch.get_num_threads(), "CPU thread")
    say("Device", f"{where}, {precision}, {many}, {threads}{' each' if processes > 1 else ''}")
    warning = bf16_warning(device.type) if precision == "bf16" else None
    if warning is not None:
        say("Warning", warning)
    hint = tf32_hint(device.type) if precision == "fp32" else None
    if hint is not None:
        say("", hint)
    if config.fast_dropout and device.type != "cpu":
        say("", f"fast_dropout is for CPUs: it does nothing on {device.type}")
    idle = len(os.sched_getaffinity(0)) // processes if hasattr(os, "sched_getaffinity") else 1
    if device.type == "cpu" and torch.get_num_threads() < idle:
        say("", f"cores lie idle: OMP_NUM_THREADS={idle}, or accelerate launch --num_cpu_threads_per_process {idle}")
    rows = plan.per_device_train_batch_size * plan.gradient_accumulation_steps * plan.num_processes
    micro_batches = pluralize(plan.gradient_accumulation_steps, "micro-batch", "micro-batches")
    epochs = plan.max_steps / plan.updates_per_epoch
    length = f"{epochs:.3g} epoch{'' if epochs == 1 else 's'} of {plan.updates_per_epoch}"
    if plan.budget is None:
        update = pluralize(rows, "row")
        if rows != plan.per_device_train_batch_size:
            update += f": {plan.per_device_train_batch_size} x {micro_batches} x {many}"
    else:
        mean = plan.num_examples / plan.updates_per_epoch
        update = f"{mean:.1f} rows on average: up to {plan.budget.max_tokens} tokens x {micro_batches} x {many}"
    say("Plan", f"{pluralize(plan.max_steps, 'update')}: {length}; an update is {update}")
    warmup = f"after {pluralize(plan.warmup_steps, 'update')} of warmup" if plan.warmup_steps else "no warmup"
    say("Schedule", f"{config.lr_scheduler_type}, peak {config.learning_rate:g}, {warmup}")


def print_next_steps(config: TrainConfig, pairs: bool, model: Any = None) -> None:
    """Print commands to go on with, as they can be typed here. `pairs`: whether the model takes pairs of texts.
    `model`: the one that was trained, where its class may be another than the commands would load.
    """
    texts = '--pairs "A text." "Another one."' if pairs else '"A text."'
    loading = None if model is None else loading_in_python(model)
    if loading is None:
        say("Next", f"{ftloop_command('predict', '--model', config.output_dir)} {texts}", is_command=True)
    else:
        some = '[("A text.", "Another one.")]' if pairs else '["A text."]'
        why, code = loading
        say("Next", f"in Python: from ftloop import classify; classify(model, tokenizer, {some})")
        again = "" if is_adapter(model) else f"; it is loaded again by {code.format(json.dumps(config.output_dir))}"
        if code == WEIGHTS_INTO_MODEL:
            again += ", into a model built as this one was: from ftloop.models.weights import load_weights"
        say("", f"ftloop predict cannot load {type(base_model(model)).__name__}, {why}{again}")
    if loading is None and config.lora_r is not None and not config.lora_merge:
        folder, whole = json.dumps(config.output_dir), json.dumps(str(Path(config.output_dir) / MERGED))
        code = f"from ftloop import load_classifier; load_classifier({folder}).save({whole})"
        say(
            "",
            f"{python_command()} -c {quote(code)}  # the whole model, which transformers.pipeline reads",
            is_command=True,
        )
    if not config.report:
        say("", ftloop_command("report", config.output_dir), is_command=True)
    if loading is None:
        say("", "hf upload, optimum-cli export onnx: both are in docs/guides/share.md")
    if config.task_name == "demo":
        files = ("--train_file", "YOURS.csv", "--validation_file", "MORE.csv", "--output_dir", "runs/yours")
        say("", ftloop_command("train", "guide", "--model_name_or_path", PACKAGED_MODEL, *files), is_command=True)


def format_scores(run: Run, metrics: dict[str, float], prefix: str = "eval") -> str:
    """Write loss and scores as a person reads them, the loss first where there is one."""
    loss = {"loss": metrics[f"{prefix}_loss"]} if f"{prefix}_loss" in metrics else {}
    return format_numbers(loss | scores(metrics, run.compute_metrics, prefix))
