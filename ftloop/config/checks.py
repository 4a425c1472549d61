"""Settings that do not go together, each with the way out."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ftloop.system.flags import nearest_name
from ftloop.system.text import short_repr

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig


def combination_problems(config: TrainConfig) -> Iterator[str]:
    """Yield every problem of a configuration whose settings are each of the right type."""
    yield from _length_problems(config)
    if config.fp16 and config.bf16:
        yield "fp16 and bf16: choose one"
    elif config.mixed_precision in ("no", "fp16", "bf16"):
        other = next((name for name in ("fp16", "bf16") if getattr(config, name)), "no")
        if other != config.mixed_precision:
            yield f"mixed_precision: {config.mixed_precision} conflicts with {other}; choose one"
    if config.trainer_compat:
        yield from _compat_problems(config)
    if config.fast_dropout and config.attn_implementation is not None:
        yield "attn_implementation: fast_dropout brings its own attention; leave one of them out"
    if config.warmup_ratio is not None and config.warmup_steps:
        yield "warmup_ratio and warmup_steps: choose one"
    if config.load_best_model_at_end and config.save_strategy != "best":
        yield from _best_model_problems(config)
    if config.needs_metric and config.eval_strategy == "no":
        reasons = "load_best_model_at_end, save_strategy=best and early_stopping_patience"
        yield f"eval_strategy: {reasons} decide by an evaluation; set it to epoch or steps"
    yield from _tracker_problems(config.trackers)
    if config.seeds is not None:
        yield from _seeds_problems(config.seeds)
    if config.folds is not None:
        yield from _folds_problems(config, config.folds)
    if config.several is not None:
        yield from _several_problems(config, config.several)
    if isinstance(config.class_weights, dict):
        for name, weight in config.class_weights.items():
            if isinstance(weight, (bool, str)) or weight is None or not 1e-30 <= weight <= 1e30:
                what = f"the weight of {short_repr(name)} must be a number from 1e-30 to 1e30"
                yield f"class_weights: {what}, not {short_repr(weight)}"
    yield from _batching_problems(config)
    if config.torch_compile_mode in CUDA_GRAPHS:
        yield from _cuda_graph_problems(config)
    yield from reading_problems(config.encoding, config.delimiter, config.column_names)
    columns = config.text_column_names or []
    if len(set(columns)) < len(columns):
        yield f"text_column_names: {columns[0]!r} is named twice"
    labels = config.label_column_name
    if isinstance(labels, list) and len(set(labels)) < len(labels):
        yield f"label_column_name: {max(labels, key=labels.count)!r} is named twice"
    if len(columns) > 2:
        yield f"text_column_names: one or two columns, not {len(columns)}"
    if config.validation_split is not None and (config.validation_file or config.validation_split_name):
        yield "validation_split: there is a validation set already; leave it, or --validation_split, out"
    if config.dataset_name is not None and (config.train_file or config.task_name):
        yield "dataset_name: choose between it and --task_name or --train_file"


def reading_problems(encoding: str | None, delimiter: str | None, column_names: Sequence[str] | None) -> Iterator[str]:
    """Yield what is wrong with the settings by which files are read, in training and in prediction."""
    try:
        is_text = encoding is None or codecs.lookup(encoding)._is_text_encoding
    except (LookupError, ValueError):  # ValueError: a NUL in it
        is_text = False
    if not is_text:
        yield f"encoding: {short_repr(encoding)} is none that Python knows, such as windows-1252, utf-16, gb18030"
    if delimiter is not None and (not delimiter or {*delimiter} & {*'"\r\n\0'}):
        yield f"delimiter: {short_repr(delimiter)} is not one character or several, such as ; or \\t or ::"
    names = list(column_names or ())
    if len(set(names)) < len(names):
        yield f"column_names: {max(names, key=names.count)!r} is named twice"


TRACKERS = ("tensorboard", "wandb", "mlflow", "comet_ml", "trackio", "aim", "clearml", "dvclive", "swanlab")
"""Accelerate's names, which are those of the packages."""


def _tracker_problems(names: list[str]) -> Iterator[str]:
    for name in names:
        if name not in TRACKERS:
            near = nearest_name(name, TRACKERS)
            yield f"report_to: {short_repr(name)} is not one of {', '.join(TRACKERS)}, or none by itself{near}"
        elif find_spec(name) is None:
            package = name.replace("_", "-")
            yield f"report_to: {name} is not installed; pip install {package} does that, or leave it out"


def _length_problems(config: TrainConfig) -> Iterator[str]:
    if config.max_steps == 0 or config.max_steps < -1:
        yield f"max_steps: {config.max_steps} must be greater than 0, or -1 to train by epochs"
    intervals = {"logging": config.logging_steps, "eval": config.evaluation_interval, "save": config.save_steps}
    for kind, steps in intervals.items():
        if getattr(config, f"{kind}_strategy") == "steps" and (steps <= 0 or (steps > 1 and steps != int(steps))):
            yield f"{kind}_steps: {steps} must be a whole number greater than 0, or a share below 1"


def _compat_problems(config: TrainConfig) -> Iterator[str]:
    """Yield what is asked for beside trainer_compat and is not what Trainer does."""
    if config.on_nonfinite == "skip":
        yield "on_nonfinite: skip is not what Trainer does; leave trainer_compat or it out"
    if config.auto_micro_batch:
        yield "auto_micro_batch: not with trainer_compat; where memory does not suffice, Trainer stops or starts anew"
    if config.fast_dropout or config.first_token_only:
        yield "fast_dropout and first_token_only: not with trainer_compat; they do not give Trainer's bits"
    if config.padding == "none":
        yield "padding: none is not with trainer_compat; it does not give Trainer's bits"
    if config.class_weights is not None:
        yield "class_weights: not with trainer_compat; no argument of Trainer weighs classes"
    if config.batching in ("length_grouped", "token_budget"):
        why = "Trainer's own grouping, which this is not, gives each process another order and is not exactly resumed"
        yield f"batching: {config.batching} is not with trainer_compat; {why}"
    if config.sort_eval:
        yield "sort_eval: is not what Trainer does; leave trainer_compat or it out"


def _batching_problems(config: TrainConfig) -> Iterator[str]:
    if not re.fullmatch(r"none|longest|max_length|(multiple|buckets):[1-9]\d{0,4}", config.padding):
        yield f"padding: {short_repr(config.padding)} is not one of none, longest, max_length, multiple:N, buckets:N"
    if config.padding == "none" and config.torch_compile:
        yield "padding and torch_compile: with none each batch has a shape of its own, to be compiled anew; choose one"
    if config.padding == "none" and config.attn_implementation is not None:
        yield "attn_implementation: padding none brings its own attention; leave one of them out"
    if config.pad_to_max_length and config.padding not in ("longest", "max_length"):
        yield "pad_to_max_length and padding: choose one"
    if config.batching != "token_budget" and config.max_tokens_per_batch is not None:
        yield "max_tokens_per_batch: only with --batching token_budget"
    if config.batching == "token_budget" and config.auto_micro_batch:
        yield "auto_micro_batch: not with token_budget, where a lower --max_tokens_per_batch bounds the memory"
    if config.batching == "token_budget" and config.dataloader_drop_last:
        yield "dataloader_drop_last: with token_budget no batch is incomplete; leave it out"


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that take CUDA graphs."""


def _cuda_graph_problems(config: TrainConfig) -> Iterator[str]:
    """Yield what adds up gradients: a graph writes those of each micro-batch into the same memory."""
    steps = config.gradient_accumulation_steps
    summed = [f"gradient_accumulation_steps {steps}"] if steps > 1 else []
    summed += ["auto_micro_batch"] if config.auto_micro_batch else []
    if summed:
        yield (
            f"torch_compile_mode: {config.torch_compile_mode} takes CUDA graphs, which lose the gradients of all "
            f"micro-batches but one: not with {' or '.join(summed)}; default and max-autotune-no-cudagraphs take none"
        )


def _seeds_problems(seeds: list[int]) -> Iterator[str]:
    if len(set(seeds)) < len(seeds):
        yield f"seeds: {max(seeds, key=seeds.count)} is there twice"
    if len(seeds) < 2:
        yield "seeds: give at least two, such as 1,2,3; one alone is --seed"
    if any(not 0 <= seed < 2**32 for seed in seeds):
        yield "seeds: each must not be negative, and be below 2**32"


def _folds_problems(config: TrainConfig, folds: int) -> Iterator[str]:
    if config.fold is not None and config.fold > folds:
        yield f"fold: {config.fold} is none of {folds} folds, which are counted from 1"
    if config.seeds is not None:
        yield "seeds: not with folds; give each seed a command and an output_dir of its own, with --seed and --folds"
    if config.validation_file or config.validation_split_name or config.validation_split is not None:
        yield "folds: each is validated on its own part of the training rows; leave the validation set out"
    if config.max_eval_samples is not None:
        yield "max_eval_samples: not with folds, in which each row is predicted; --max_train_samples leaves rows out"
    if config.trainer_compat and config.dataloader_drop_last:
        yield "dataloader_drop_last: not with folds and trainer_compat; it leaves out rows that are to be predicted"


def _several_problems(config: TrainConfig, several: str) -> Iterator[str]:
    if config.record is not None:
        yield f"record: not with {several}, which would all be written into one file"
    if config.resume_from_checkpoint not in (None, "last"):
        yield f"resume_from_checkpoint: with {several} only `last`, which is another checkpoint for each"


def _best_model_problems(config: TrainConfig) -> Iterator[str]:
    """Mirrors: TrainingArguments._validate_args (load_best_model_at_end needs a checkpoint of the best step)."""
    eval_steps, save_steps = config.evaluation_interval, config.save_steps
    same_kind = (eval_steps < 1) == (save_steps < 1)
    # Shares such as 0.3 and 0.1 are compared in millionths: 0.3 % 0.1 is not 0 in binary.
    is_multiple = same_kind and round(save_steps * 1e6) % (round(eval_steps * 1e6) or 1) == 0
    problem = None
    if config.eval_strategy != config.save_strategy:
        they_are = f"they are {config.eval_strategy} and {config.save_strategy}"
        problem = f"eval_strategy and save_strategy must match ({they_are})"
    elif config.eval_strategy == "steps" and eval_steps > 0 and not is_multiple:
        problem = f"save_steps ({save_steps:g}) must be a multiple of eval_steps ({eval_steps:g})"
    if problem:
        yield f"load_best_model_at_end: {problem}, to save the best step; or use --save_strategy best"
