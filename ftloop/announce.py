"""What a run says before it trains: what is trained on what, on which device, and how many updates that will be; and
what to do next when it is over."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction

from ftloop.config import TrainConfig
from ftloop.data import Labels, TextData
from ftloop.freeze import trained_parameters
from ftloop.glue import TASKS
from ftloop.hub import PACKAGED_MODEL
from ftloop.logs import format_numbers, scores
from ftloop.metrics import ComputeMetrics
from ftloop.padding import padding_edges, padding_shares
from ftloop.reproduce import module_here, python_here
from ftloop.run import MANY_ROWS, Run
from ftloop.weights import weights_in_words
from ftloop.words import counted, printable

SHOWN_CLASSES = 20


def quiet_libraries(config: TrainConfig) -> None:
    """No tables and bars of the libraries where ours say the same, and none at all without a terminal.

    What transformers would warn of (not Python's own warnings, which stay) is here told in a line of ours, or nobody's
    to mend: weights that are new or of another size are on the line `Model`, texts that are too long on `Lengths`, and
    heads of a pretraining are not used.
    """
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    bars = sys.stderr.isatty() if config.disable_tqdm is None else not config.disable_tqdm
    if not bars or os.environ.get("RANK", "0") != "0":
        datasets.disable_progress_bars()


def announce_data(run: Run, data: TextData, truncated: dict[str, int], max_length: int) -> None:
    sets = {"train": data.train} | data.validation | data.test
    counts = ", ".join(f"{name} {len(dataset)}" for name, dataset in sets.items())
    unlabelled = [name for name, dataset in data.test.items() if not data.has_labels(dataset)]
    names = [f"{i}={name}" for i, name in enumerate(data.labels.names[:SHOWN_CLASSES])]
    more = [f"... {data.labels.count} classes"] if data.labels.count > SHOWN_CLASSES else []
    target = "a number" if data.labels.regression else ", ".join(names + more)
    target = f"any number of {data.labels.count} labels: {target}" if data.labels.multi_label else target
    _say("Data", f"{counts} rows{f' ({unlabelled[0]} without labels)' if unlabelled else ''}")
    left_out = [f"{name}: {told}" for name, rows in sets.items() if (told := _left_out(run, data, name, len(rows)))]
    if left_out:
        _say("Left out", "; ".join(left_out))
    _say("Columns", f"{' + '.join(data.text_columns)} -> {data.label_column} ({target})")
    weights = run.class_weights if run.config.class_weights is not None else None
    if weights is not None:
        _say("Weights", weights_in_words(weights, data.labels.names, SHOWN_CLASSES))
    task = TASKS.get(run.config.task_name or "")
    if task is not None and task.label_names and not data.labels.regression and data.labels.names != task.label_names:
        usual = {*task.label_names, *map(str, range(len(task.label_names)))}
        other = next((repr(raw) for raw in data.labels.ids if raw not in usual), "names and numbers")
        names_of_task = ", ".join(f"{i}={name}" for i, name in enumerate(task.label_names))
        _say("Labels", f"not those of {run.config.task_name} ({names_of_task}), by {other}: so classes of their own")
    cut = ", ".join(f"{count} of {name}" for name, count in truncated.items() if count)
    _say("Lengths", f"at most {max_length} tokens; {f'truncated: {cut}' if cut else 'none truncated'}")


def _left_out(run: Run, data: TextData, name: str, used: int) -> str:
    """What was in a set's file and is not learned from or evaluated; nothing where that is nothing."""
    config, read, is_train = run.config, data.read[name], name == "train"
    limit = "max_train_samples" if is_train else "max_predict_samples" if name in data.test else "max_eval_samples"
    told = [f"{read.rows - used} of {read.rows} rows ({limit})"] if used < read.rows else []
    if read.blank_lines:
        told.append(counted(read.blank_lines, "blank line"))
    if config.dataloader_drop_last and (is_train or config.trainer_compat):
        size = config.per_device_train_batch_size if is_train else config.per_device_eval_batch_size
        batches = used // size // run.accelerator.num_processes * run.accelerator.num_processes
        dropped = used - batches * size
        each = " of each epoch" if is_train else ""
        told += [f"{counted(dropped, 'row')}{each} (dataloader_drop_last)"] if dropped else []
    return ", ".join(told)


def announce_padding(run: Run, lengths: np.ndarray, max_length: int) -> None:
    """How much of the first epoch is padding, and how little of it there could be; of millions of rows, about."""
    config, processes = run.config, run.accelerator.num_processes
    every = -(-len(lengths) // MANY_ROWS)
    lengths, about = lengths[::every], "about " if every > 1 else ""
    share, grouped = padding_shares(config, lengths, max_length, processes)
    edges = padding_edges(config, max_length, lengths)
    to = "its longest row" if edges is None else f"{edges[0]} tokens" if len(edges) == 1 else config.padding
    told = f"{config.batching} batches, each padded to {to}: {about}{share:.1%} of the tokens are padding"
    if grouped is not None and grouped < share - 0.01:
        flags = f"--batching length_grouped{'' if edges is None else ' --padding longest'}"
        told += f"; {flags} leaves {grouped:.1%}"
    _say("Padding", told)


def with_baseline(run: Run, labels: Labels, name: str, label_ids: np.ndarray) -> ComputeMetrics:
    """The run's own metrics; before the first, what a constant answer scores on the set that decides is told, so that
    they can be read against it. Not at the start, where scikit-learn would have to be imported for it.
    """
    compute_metrics = run.compute_metrics
    assert compute_metrics is not None
    if labels.regression:
        constant = np.full(len(label_ids), np.mean(label_ids))
        answer = f"{np.mean(label_ids):.3g}"
    elif labels.multi_label:
        combinations, counts = np.unique(label_ids, axis=0, return_counts=True)
        usual = combinations[counts.argmax()]
        constant = np.tile(usual, (len(label_ids), 1))
        answer = f"{[labels.names[i] for i in np.flatnonzero(usual)] or 'no label'}"
    else:
        counts = np.bincount(label_ids, minlength=labels.count)
        constant = np.full(len(label_ids), counts.argmax())
        answer = repr(labels.names[int(counts.argmax())])
    told: list[str] = []

    def compute_and_tell(evaluated: EvalPrediction) -> dict[str, float]:
        if not told:
            metrics = compute_metrics(EvalPrediction(predictions=constant, label_ids=label_ids))
            told.append(f"Baseline  {printable(f'always {answer} on {name}: {format_scores(metrics)}')}")
            run.say(told[0])
        return compute_metrics(evaluated)

    return compute_and_tell


def announce_model(run: Run, name: str, new_weights: list[str]) -> None:
    model: Any = run.unwrapped_model
    heads = f"; new: {', '.join(new_weights)}" if new_weights else ""
    _say("Model", f"{name} ({type(model).__name__}, {model.num_parameters() / 1e6:.1f} M parameters{heads})")
    trained, parameters = trained_parameters(model)
    if trained < parameters:
        frozen = ["the embeddings"] if run.config.freeze_embeddings else []
        frozen += [f"the {counted(run.config.freeze_layers, 'lowest layer')}"] if run.config.freeze_layers else []
        what = f"{' and '.join(frozen)}; " if frozen else ""
        _say("Frozen", f"{what}{trained / 1e6:.3g} of {parameters / 1e6:.3g} M parameters are trained")


def announce_plan(run: Run) -> None:
    config, plan, accelerator = run.config, run.plan, run.accelerator
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    device, processes = accelerator.device, accelerator.num_processes
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    many, threads = counted(processes, "process", "processes"), counted(torch.get_num_threads(), "CPU thread")
    _say("Device", f"{where}, {precision}, {many}, {threads}{' each' if processes > 1 else ''}")
    idle = len(os.sched_getaffinity(0)) // processes if hasattr(os, "sched_getaffinity") else 1
    if device.type == "cpu" and torch.get_num_threads() < idle:
        _say("", f"cores lie idle: OMP_NUM_THREADS={idle}, or accelerate launch --num_cpu_threads_per_process {idle}")
    rows = plan.per_device_train_batch_size * plan.gradient_accumulation_steps * plan.num_processes
    micro_batches = counted(plan.gradient_accumulation_steps, "micro-batch", "micro-batches")
    epochs = plan.max_steps / plan.updates_per_epoch
    length = f"{epochs:.3g} epoch{'' if epochs == 1 else 's'} of {plan.updates_per_epoch}"
    if plan.budget is None:
        update = counted(rows, "row")
        if rows != plan.per_device_train_batch_size:
            update += f": {plan.per_device_train_batch_size} x {micro_batches} x {many}"
    else:
        mean = plan.num_examples / plan.updates_per_epoch
        update = f"{mean:.1f} rows on average: up to {plan.budget.max_tokens} tokens x {micro_batches} x {many}"
    _say("Plan", f"{counted(plan.max_steps, 'update')}: {length}; an update is {update}")
    warmup = f"after {counted(plan.warmup_steps, 'update')} of warmup" if plan.warmup_steps else "no warmup"
    _say("Schedule", f"{config.lr_scheduler_type}, peak {config.learning_rate:g}, {warmup}")


def announce_next(config: TrainConfig, pairs: bool) -> None:
    """Commands to go on with, as they can be typed here. `pairs`: whether the model takes pairs of texts."""
    train = Path(__file__).with_name("train.py")
    texts = '--pairs "A text." "Another one."' if pairs else '"A text."'
    _say("Next", f"{module_here('predict', '--model', config.output_dir)} {texts}")
    if not config.report:
        _say("", module_here("report", config.output_dir))
    if config.task_name == "demo":
        here = train.is_relative_to(Path.cwd())
        script = train.relative_to(Path.cwd()) if here else train
        command = f"{python_here()} {shlex.quote(str(script))}" if here else module_here("train")
        files = "--train_file YOURS.csv --validation_file MORE.csv"
        _say("", f"{command} guide --model_name_or_path {PACKAGED_MODEL} {files} --output_dir runs/yours")


def format_scores(metrics: dict[str, float], prefix: str = "eval") -> str:
    return format_numbers(scores(metrics, prefix))


def _say(topic: str, text: str) -> None:
    print(f"{topic:<9} {printable(text)}", flush=True)
