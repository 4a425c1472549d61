"""TrainConfig: every setting of a run in one frozen, flat dataclass, from Python, the command line or a recipe.

Names, defaults and meaning are those of `transformers.TrainingArguments` (5.23) and of the `run_glue` scripts. All
three sources go through the same coercion, so a wrong value in a recipe is found as surely as one on the command line,
and every problem is reported at once. (`HfArgumentParser` stops at the first ill-typed value and does not check the
types of a YAML file; argparse is used here for syntax alone.)
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
import reprlib
import shutil
import stat
import sys
import types
import typing
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from ftloop.errors import UserError, reason
from ftloop.usage import Setting, help_text

RECIPES = Path(__file__).resolve().parent / "recipes"

Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]

# What to use instead of names that older guides and scripts give, or that mean something else here.
HINTS = {
    "lr": "its name is --learning_rate",
    "epochs": "its name is --num_train_epochs",
    "batch_size": "its name is --per_device_train_batch_size",
    "model": "its name is --model_name_or_path",
    "max_length": "its name is --max_seq_length",
    "do_train": "ftloop always trains; leave it out",
    "do_eval": "evaluation follows --eval_strategy; leave it out",
    "do_predict": "a test set is evaluated or predicted whenever one is given; leave it out",
    "evaluation_strategy": "its name is --eval_strategy",
    "no_cuda": "its name is --use_cpu",
    "auto_find_batch_size": "--auto_micro_batch splits what does not fit into memory, and the run stays the same",
    "overwrite_output_dir": "use a new --output_dir, or --resume_from_checkpoint last",
    "train_sampling_strategy": "its name is --batching here, with random and sequential as there; for group_by_length "
    "take length_grouped (another order, the same on all processes, exactly resumed), for batch_rebalance token_budget",
    "group_by_length": "its name is --batching length_grouped",
    "length_column_name": "lengths are counted; leave it out",
    "pad_to_multiple_of": "its name is --padding multiple:N",
    "activation_checkpointing": "its name here is --gradient_checkpointing",
    "per_gpu_train_batch_size": "its name is --per_device_train_batch_size",
    "per_gpu_eval_batch_size": "its name is --per_device_eval_batch_size",
    "save_safetensors": "weights are always saved as safetensors; leave it out",
}


def _setting(default: Any, help: str, group: str) -> Any:
    return field(default=default, metadata={"help": help, "group": group})


_model = partial(_setting, group="model and output")
_data = partial(_setting, group="data")
_training = partial(_setting, group="training")
_optimizer = partial(_setting, group="optimizer and schedule")
_device = partial(_setting, group="device and precision")
_evaluation = partial(_setting, group="evaluation, checkpoints and the best model")
_logging = partial(_setting, group="logging")
_loader = partial(_setting, group="data loading")


@dataclass(frozen=True)
class TrainConfig:
    """All settings of one run. `TrainConfig()` has TrainingArguments' defaults.

    Mirrors: TrainingArguments, and run_glue's DataTrainingArguments and ModelArguments.
    Raises: UserError with every problem found, one message each.
    """

    output_dir: str = _model("trainer_output", "Where checkpoints, the final model and the results go.")

    model_name_or_path: str | None = _model(None, "A model folder, or a name on the model hub.")
    classifier_dropout: float | None = _model(None, "Dropout before the classifier; by default the model's own.")
    hidden_dropout: float | None = _model(
        None, "Dropout in the model's body, but for attention probabilities; by default the model's own."
    )
    freeze_embeddings: bool = _model(False, "Do not train the embeddings.")
    freeze_layers: int = _model(0, "Do not train so many of the encoder's layers, from the lowest.")

    task_name: str | None = _data(None, "A GLUE task (cola, mnli, mrpc, ...), or demo: the built-in sentence pairs.")
    dataset_name: str | None = _data(None, "A data set on the hub.")
    dataset_config_name: str | None = _data(None, "The configuration of that data set.")
    train_file: str | None = _data(None, "Training rows: csv, tsv, json, jsonl or parquet.")
    validation_file: str | None = _data(None, "Validation rows, same formats.")
    test_file: str | None = _data(None, "Test rows, same formats; without labels they are predicted and written.")
    text_column_names: list[str] | None = _data(
        None,
        "One or two text columns; else those with a usual name (sentence1 and sentence2, sentence, text, review, ...).",
    )
    label_column_name: str | None = _data(
        None, "The label column; else one with a usual name (label, labels, score, target, class, ...)."
    )
    label_delimiter: str | None = _data(
        None, "Several labels a row: what stands between them in a label that is text, such as | or a comma."
    )
    max_seq_length: int | None = _data(None, "Tokens at which inputs are cut off; by default the tokenizer's limit.")
    pad_to_max_length: bool = _data(False, "Pad every row to max_seq_length: --padding max_length.")
    padding: str = _data(
        "longest",
        "To which length a batch is padded: longest (of its rows), max_length, multiple:N, or buckets:N, the N lengths "
        "that leave the least padding in the training set.",
    )
    max_train_samples: int | None = _data(None, "Use only the first rows of the training set.")
    max_eval_samples: int | None = _data(None, "Use only the first rows of the validation set.")
    max_predict_samples: int | None = _data(None, "Use only the first rows of the test set.")
    preprocessing_num_workers: int | None = _data(None, "Processes that tokenize.")
    overwrite_cache: bool = _data(False, "Tokenize again instead of using the cached rows.")
    sample_texts: list[str] | None = _data(None, "Texts to predict at the end; for pairs, two after each other.")

    num_train_epochs: float = _training(3.0, "Passes over the training set; fractions are allowed.")
    max_steps: int = _training(-1, "Number of updates; if positive, it overrides num_train_epochs.")
    per_device_train_batch_size: int = _training(8, "Rows of one micro-batch on one device.")
    per_device_eval_batch_size: int = _training(8, "Rows of one evaluation batch on one device.")
    gradient_accumulation_steps: int = _training(1, "Micro-batches per update.")
    batching: Literal["random", "sequential", "length_grouped", "token_budget"] = _training(
        "random",
        "Which rows make a batch: in random order, in the file's, of nearly the same length, or as many as fit into "
        "max_tokens_per_batch.",
    )
    max_tokens_per_batch: int | None = _training(
        None,
        "With token_budget: tokens of a micro-batch, padding included. None: per_device_train_batch_size times the "
        "mean length.",
    )
    class_weights: dict[str, Any] | Literal["balanced"] | None = _training(
        None, "What each class counts in the loss: balanced, by its rows, or JSON of label names with a number each."
    )
    label_smoothing_factor: float = _training(0.0, "Share of the target spread evenly over the classes.")
    seed: int = _training(42, "Seeds the new head, dropout and the order of rows.")
    data_seed: int | None = _training(None, "Seeds the order of rows alone. None: seed.")
    seeds: list[int] | None = _training(
        None, "Train once for each, such as 1,2,3, into seed-N of output_dir; then mean and spread of their results."
    )
    full_determinism: bool = _training(False, "Deterministic kernels, slower; for reproducing GPU runs.")
    resume_from_checkpoint: str | None = _training(None, "`last`, or a checkpoint folder.")
    resume_with_changes: bool = _training(False, "Resume although seed, data, model or the like are others now.")
    max_train_seconds: int | None = _training(None, "Stop and save in time to be done so many seconds after the start.")
    on_nonfinite: Literal["raise", "skip", "ignore"] = _training(
        "raise",
        "Loss or gradient NaN or infinite: stop and name the rows, leave the update out (one wait for the device per "
        "update), or train on. With trainer_compat nothing is looked at.",
    )
    auto_micro_batch: bool = _training(False, "Split micro-batches that do not fit into memory; same update.")
    trainer_compat: bool = _training(False, "Reproduce transformers.Trainer bit for bit, its known defects included.")

    learning_rate: float = _optimizer(5e-5, "Peak learning rate.")
    weight_decay: float = _optimizer(0.0, "Decoupled weight decay; never on biases and normalisation weights.")
    adam_beta1: float = _optimizer(0.9, "AdamW's beta1.")
    adam_beta2: float = _optimizer(0.999, "AdamW's beta2.")
    adam_epsilon: float = _optimizer(1e-8, "AdamW's epsilon.")
    max_grad_norm: float = _optimizer(1.0, "Clip the gradient to this norm; 0 does not clip.")
    optim: Literal["adamw_torch_fused", "adamw_torch"] = _optimizer("adamw_torch_fused", "Which AdamW kernel.")
    lr_scheduler_type: Schedule = _optimizer("linear", "Shape of the learning rate after the warmup.")
    lr_scheduler_kwargs: dict[str, Any] | None = _optimizer(None, "JSON of extra arguments for the schedule.")
    warmup_steps: float = _optimizer(0.0, "Warmup updates; below 1, the share of all updates.")
    warmup_ratio: float | None = _optimizer(None, "Warmup as a share of all updates: the guide's spelling.")

    bf16: bool = _device(False, "bfloat16 autocast.")
    fp16: bool = _device(False, "float16 autocast with a gradient scaler; CUDA only.")
    tf32: bool | None = _device(None, "Allow TF32 matrix products on Ampere and newer. None: torch's setting.")
    use_cpu: bool = _device(False, "Stay on the CPU even when an accelerator is there.")
    gradient_checkpointing: bool = _device(False, "Recompute activations in the backward pass to save memory.")
    attn_implementation: Literal["eager", "sdpa"] | None = _device(
        None, "How attention is computed, by transformers' name. None: the library's choice."
    )
    fast_dropout: bool = _device(
        False, "On a CPU, draw dropout's masks several times faster: the same distribution, another random stream."
    )
    first_token_only: bool = _device(
        False, "Compute in the last layer only the first token, where the head reads no other (BERT, RoBERTa)."
    )
    keep_freed_memory: bool = _device(
        True, "On glibc, the command keeps memory that is freed for its next use: faster, the same bits."
    )
    torch_compile: bool = _device(False, "Compile the model with torch.compile (not the same bits).")
    ddp_timeout: int = _device(1800, "Seconds until a process that waits for another gives up.")
    average_tokens_across_devices: bool = _device(
        True, "Only with trainer_compat, where it multiplies the loss by the number of processes."
    )

    eval_strategy: Literal["no", "steps", "epoch"] = _evaluation("no", "When to evaluate.")
    eval_steps: float | None = _evaluation(None, "Updates between evaluations, or a share < 1. None: logging_steps.")
    eval_delay: float = _evaluation(0.0, "Epochs (or updates, by steps) before the first evaluation.")
    sort_eval: bool = _evaluation(False, "Evaluate by length, which needs less padding; results keep their order.")
    eval_on_start: bool = _evaluation(False, "Evaluate once before training.")
    save_strategy: Literal["no", "steps", "epoch", "best"] = _evaluation("steps", "When to save a checkpoint.")
    save_steps: float = _evaluation(500, "Updates between checkpoints, or a share < 1 of all updates.")
    save_total_limit: int | None = _evaluation(None, "Keep at most this many checkpoints; the best one always stays.")
    save_only_model: bool = _evaluation(False, "Checkpoints without optimizer state: smaller, not resumable.")
    load_best_model_at_end: bool = _evaluation(False, "Go back to the best checkpoint when training ends.")
    metric_for_best_model: str | None = _evaluation(None, "What makes a checkpoint the best; with the above: loss.")
    greater_is_better: bool | None = _evaluation(None, "None: true unless the metric's name ends with loss or mse.")
    early_stopping_patience: int | None = _evaluation(None, "Stop after this many evaluations without a better one.")
    early_stopping_threshold: float = _evaluation(0.0, "How much better counts as better.")

    logging_strategy: Literal["no", "steps", "epoch"] = _logging("steps", "When to log the loss.")
    logging_steps: float = _logging(500, "Updates between two log lines, or a share < 1 of all updates.")
    logging_first_step: bool = _logging(False, "Log the first update too.")
    logging_dir: str | None = _logging(None, "TensorBoard's folder; giving it turns TensorBoard on.")
    report_to: Literal["none", "tensorboard"] = _logging("none", "Where logs go besides console and files.")
    disable_tqdm: bool | None = _logging(None, "No progress bars. None: bars where the console is a terminal.")

    report: bool = _logging(
        False, "Write output_dir/report at the end: figures, tables and intervals in a report.html."
    )

    traceback: bool = _logging(False, "Show where in the code an error was raised.")

    record: str | None = _logging(None, "Write down every update into this file, for python -m ftloop.compare.")
    record_full: bool = _logging(False, "With record: digests of every parameter and its gradient too; slower.")
    explain: int | None = _logging(None, "Narrate so many updates while they happen: rows, losses, gradients, weights.")

    dataloader_drop_last: bool = _loader(False, "Drop the last, incomplete batch.")
    dataloader_num_workers: int = _loader(0, "Worker processes that collate batches.")
    dataloader_pin_memory: bool = _loader(True, "Pinned host memory, for faster copies to a GPU.")
    dataloader_persistent_workers: bool = _loader(False, "Keep the workers between epochs (other bits than without).")
    dataloader_prefetch_factor: int | None = _loader(None, "Batches each worker prepares ahead.")

    def __post_init__(self) -> None:
        ill_typed = {}
        for name, setting in SETTINGS.items():
            try:
                object.__setattr__(self, name, coerce(getattr(self, name), setting.type))
            except ValueError as error:
                ill_typed[name] = f"{name}: {error}"
                object.__setattr__(self, name, setting.default)  # so that the checks below still run
        object.__setattr__(self, "output_dir", str(Path(self.output_dir).expanduser()))
        if self.pad_to_max_length and self.padding == "longest":
            object.__setattr__(self, "padding", "max_length")
        if self.needs_metric and self.metric_for_best_model is None:
            object.__setattr__(self, "metric_for_best_model", "loss")
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            # Trainer takes any name for one to be raised but that of a loss: by `mse` it would keep the worst.
            falling = ("loss",) if self.trainer_compat else ("loss", "mse")
            object.__setattr__(self, "greater_is_better", not self.metric_for_best_model.endswith(falling))
        problems = [*_range_problems(self), *_combination_problems(self)]
        # What is said of a setting whose value could not be read would be said of its default.
        problems = [problem for problem in problems if ill_typed.keys().isdisjoint(re.findall(r"\w+", problem))]
        if ill_typed or problems:
            raise UserError(*ill_typed.values(), *problems)

    @property
    def needs_metric(self) -> bool:
        """Whether something is decided by an evaluation metric."""
        return self.load_best_model_at_end or self.save_strategy == "best" or self.early_stopping_patience is not None

    @property
    def order_seed(self) -> int:
        """What the order of rows is drawn from."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def tensorboard(self) -> bool:
        return self.report_to == "tensorboard" or self.logging_dir is not None

    @property
    def evaluation_interval(self) -> float:
        """Updates (or share of them) between evaluations: logging_steps where eval_steps is not given."""
        return self.eval_steps or self.logging_steps

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _settings() -> dict[str, Setting]:
    hints = typing.get_type_hints(TrainConfig)
    return {f.name: Setting(f.name, hints[f.name], f.default, **f.metadata) for f in dataclasses.fields(TrainConfig)}


def shown(value: Any) -> str:
    """A value as a message shows it: short, however large it is. A few lines of YAML aliases make one of gigabytes."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def user_path(path: str | Path, what: str) -> Path:
    """A path that a user wrote, with `~` replaced. Raises: UserError where that is the home of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{what}: no such home folder: {shown(str(path))}") from None


def read_json(text: str) -> Any:
    """Raises: ValueError for whatever is wrong with it; a name that an object has twice is."""
    try:
        return json.loads(text, object_pairs_hook=_no_name_twice)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is there twice in one object")
    return values


def coerce(value: Any, wanted: Any) -> Any:
    """Return `value` as the type `wanted`; strings come from the command line, the rest from YAML or Python.

    Raises: ValueError that says what was expected.
    """
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):  # a Literal makes the older kind
        inner, *word_or_mapping = [t for t in typing.get_args(wanted) if t is not type(None)]
        word = value[0] if isinstance(value, list) and len(value) == 1 else value  # `--sample_texts none`
        if word is None or (isinstance(word, str) and word.lower() in ("none", "null")):
            return None
        if word_or_mapping and not (isinstance(value, dict) or str(value).lstrip().startswith("{")):
            return coerce(value, word_or_mapping[0])
        return coerce(value, inner)
    origin = typing.get_origin(wanted)
    if origin is Literal:
        choices = typing.get_args(wanted)
        if value is False:  # YAML 1.1 reads a bare `no` as false
            value = "no"
        if value not in choices:
            near = _nearest(str(value), choices) if isinstance(value, str) else ""
            raise ValueError(f"{shown(value)} is not one of {', '.join(choices)}{near}")
        return choices[choices.index(value)]  # plain text, also where transformers' enum member was given
    if origin is list and typing.get_args(wanted) == (int,):
        words = value if isinstance(value, (list, tuple)) else [value]
        words = [part for word in words for part in (word.split(",") if isinstance(word, str) else [word])]
        return [typing.cast(int, _number(word, int)) for word in words]
    if origin is list:
        if not isinstance(value, (list, tuple)):
            value = [value]
        if not value or not all(isinstance(item, str) and item for item in value):
            raise ValueError(f"expected one or more texts, not {shown(value)}")
        return [plain_text(item) for item in value]
    if origin is dict:
        if isinstance(value, str):
            try:
                value = read_json(value)
            except ValueError as error:
                raise ValueError(f"{shown(value)} is not JSON ({error})") from None
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping, not {shown(value)}")
        for name, item in value.items():
            if not isinstance(name, str) or not isinstance(item, (str, int, float, bool, types.NoneType)):
                raise ValueError(f"expected names with a number or a text each, not {shown(name)}: {shown(item)}")
        return dict(value)
    if wanted is bool:
        if isinstance(value, str) and value.lower() in ("true", "yes", "1", "false", "no", "0"):
            return value.lower() in ("true", "yes", "1")
        if not isinstance(value, bool):
            raise ValueError(f"{shown(value)} is neither true nor false")
        return value
    if wanted is str:
        if not isinstance(value, (str, Path)) or not str(value):
            raise ValueError(f"expected text, not {shown(value)}")
        text = plain_text(str(value))
        if text.startswith("~"):
            try:
                Path(text).expanduser()
            except RuntimeError:
                raise ValueError(f"no such home folder: {shown(text)}") from None
        return text
    return _number(value, wanted)


def plain_text(text: str) -> str:
    """Raises: ValueError for what neither a tokenizer nor a file that is written could hold."""
    if "\0" in text:
        raise ValueError(f"{shown(text)} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)} is not UTF-8; rename it") from None
    return text


def _number(value: Any, wanted: type[int] | type[float]) -> int | float:
    kind = "a whole number" if wanted is int else "a number"
    if isinstance(value, bool):
        raise ValueError(f"expected {kind}, not {shown(value)}")
    try:
        number = float(value)  # also YAML's `5e-5`, which YAML 1.1 reads as text
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{shown(value)} is not {kind}") from None
    if not math.isfinite(number):
        raise ValueError(f"{shown(value)} is not a finite number")
    if wanted is int:
        if number != int(number):
            raise ValueError(f"{shown(value)} is not {kind}")
        return int(value) if isinstance(value, (int, str)) and str(value).lstrip("+-").isdigit() else int(number)
    return number


SETTINGS = _settings()

_POSITIVE = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "adam_epsilon",
    "max_seq_length",
    "max_train_samples",
    "max_eval_samples",
    "max_predict_samples",
    "max_tokens_per_batch",
    "preprocessing_num_workers",
    "dataloader_prefetch_factor",
    "early_stopping_patience",
    "save_total_limit",
    "ddp_timeout",
    "max_train_seconds",
    "explain",
)
_NOT_NEGATIVE = (
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "warmup_steps",
    "eval_delay",
    "dataloader_num_workers",
    "early_stopping_threshold",
    "seed",
    "data_seed",
    "freeze_layers",
)
_BELOW_ONE = ("adam_beta1", "adam_beta2", "label_smoothing_factor", "classifier_dropout", "hidden_dropout")
_COUNTED = ("num_train_epochs", "warmup_steps", "eval_delay", "eval_steps", "save_steps", "logging_steps")
_PROCESSES = ("dataloader_num_workers", "preprocessing_num_workers")
_MOST_PROCESSES = 1024
_MOST = 3.4e38  # of float32


def _range_problems(config: TrainConfig) -> list[str]:
    problems = []
    for name in _POSITIVE:
        value = getattr(config, name)
        if value is not None and value <= 0:
            problems.append(f"{name}: {value} must be greater than 0")
    for name in _NOT_NEGATIVE:
        value = getattr(config, name)
        if value is not None and value < 0:
            problems.append(f"{name}: {value} must not be negative")
    for name in _BELOW_ONE:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            problems.append(f"{name}: {value} must be at least 0 and below 1")
    for kind in ("logging", "eval", "save"):
        steps = config.evaluation_interval if kind == "eval" else getattr(config, f"{kind}_steps")
        if getattr(config, f"{kind}_strategy") != "steps":
            continue
        if steps <= 0:
            problems.append(f"{kind}_steps: {steps} must be greater than 0")
        elif steps > 1 and steps != int(steps):
            problems.append(f"{kind}_steps: {steps} must be a whole number, or a share below 1")
    if config.max_steps == 0 or config.max_steps < -1:
        problems.append(f"max_steps: {config.max_steps} must be greater than 0, or -1 to train by epochs")
    if config.warmup_ratio is not None and not 0 <= config.warmup_ratio <= 1:
        problems.append(f"warmup_ratio: {config.warmup_ratio} must lie between 0 and 1")
    for name, setting in SETTINGS.items():
        value = getattr(config, name)
        if setting.type not in (int, int | None, float, float | None) or value is None or "seed" in name:
            continue
        is_count = setting.type in (int, int | None) or name in _COUNTED
        most = _MOST_PROCESSES + 1 if name in _PROCESSES else 2**31 if is_count else _MOST
        if value >= most:
            problems.append(f"{name}: {value} is too large")
    if config.seed >= 2**32 or (config.data_seed or 0) >= 2**32:
        problems.append("seed and data_seed must be below 2**32")
    return problems


def _seeds_problems(config: TrainConfig) -> list[str]:
    seeds = config.seeds
    if seeds is None:
        return []
    problems = []
    if len(set(seeds)) < len(seeds):
        problems.append(f"seeds: {max(seeds, key=seeds.count)} is there twice")
    if len(seeds) < 2:
        problems.append("seeds: give at least two, such as 1,2,3; one alone is --seed")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        problems.append("seeds: each must not be negative, and be below 2**32")
    if config.record is not None:
        problems.append("record: not with seeds, which would all be written into one file")
    if config.resume_from_checkpoint not in (None, "last"):
        problems.append("resume_from_checkpoint: with seeds only `last`, which is another checkpoint for each")
    return problems


def _combination_problems(config: TrainConfig) -> list[str]:
    problems = []
    if config.fp16 and config.bf16:
        problems.append("fp16 and bf16: choose one")
    if config.trainer_compat and config.on_nonfinite == "skip":
        problems.append("on_nonfinite: skip is not what Trainer does; leave trainer_compat or it out")
    if config.trainer_compat and config.auto_micro_batch:
        problems.append(
            "auto_micro_batch: not with trainer_compat; where the memory does not suffice, Trainer stops, or with "
            "auto_find_batch_size starts another run with smaller batches"
        )
    if config.fast_dropout and config.attn_implementation is not None:
        problems.append("attn_implementation: fast_dropout brings its own attention; leave one of them out")
    if config.fast_dropout and config.torch_compile:
        problems.append("fast_dropout and torch_compile: choose one; each dropout would break the compiled graph")
    if config.trainer_compat and (config.fast_dropout or config.first_token_only):
        problems.append("fast_dropout and first_token_only: not with trainer_compat; they do not give Trainer's bits")
    if config.warmup_ratio is not None and config.warmup_steps:
        problems.append("warmup_ratio and warmup_steps: choose one")
    if config.load_best_model_at_end and config.save_strategy != "best":
        problems += _best_model_problems(config)
    if config.needs_metric and config.eval_strategy == "no":
        reasons = "load_best_model_at_end, save_strategy=best and early_stopping_patience"
        problems.append(f"eval_strategy: {reasons} decide by an evaluation; set it to epoch or steps")
    problems += [*_seeds_problems(config), *_weight_problems(config), *_batching_problems(config)]
    if config.text_column_names is not None and len(set(config.text_column_names)) < len(config.text_column_names):
        problems.append(f"text_column_names: {config.text_column_names[0]!r} is named twice")
    if config.text_column_names is not None and len(config.text_column_names) > 2:
        problems.append(f"text_column_names: one or two columns, not {len(config.text_column_names)}")
    if config.dataloader_num_workers == 0:
        if config.dataloader_prefetch_factor is not None:
            problems.append("dataloader_prefetch_factor: only with --dataloader_num_workers above 0")
        if config.dataloader_persistent_workers:
            problems.append("dataloader_persistent_workers: only with --dataloader_num_workers above 0")
    if config.record_full and config.record is None:
        problems.append("record_full: say into which file with --record")
    if config.dataset_config_name is not None and config.dataset_name is None:
        problems.append("dataset_config_name: belongs to --dataset_name, which is missing")
    if config.dataset_name is not None and (config.train_file or config.task_name):
        problems.append("dataset_name: choose between it and --task_name or --train_file")
    if config.train_file is None and (config.validation_file or config.test_file):
        problems.append("train_file: validation_file and test_file need it beside them")
    return problems


def _weight_problems(config: TrainConfig) -> list[str]:
    given = config.class_weights
    if given is not None and config.trainer_compat:
        return ["class_weights: not with trainer_compat; no argument of Trainer weighs classes"]
    return [
        f"class_weights: the weight of {shown(name)} must be a number from 1e-30 to 1e30, not {shown(weight)}"
        for name, weight in (given.items() if isinstance(given, dict) else ())
        if isinstance(weight, (bool, str)) or weight is None or not 1e-30 <= weight <= 1e30
    ]


def _batching_problems(config: TrainConfig) -> list[str]:
    problems = []
    if not re.fullmatch(r"longest|max_length|(multiple|buckets):[1-9]\d{0,4}", config.padding):
        problems.append(f"padding: {shown(config.padding)} is not one of longest, max_length, multiple:N, buckets:N")
    if config.pad_to_max_length and config.max_seq_length is None:
        problems.append("pad_to_max_length: say to which length with --max_seq_length")
    if config.pad_to_max_length and config.padding not in ("longest", "max_length"):
        problems.append("pad_to_max_length and padding: choose one")
    if config.trainer_compat and config.batching in ("length_grouped", "token_budget"):
        problems.append(
            f"batching: {config.batching} is not with trainer_compat; Trainer's own grouping, which this is not, gives "
            "each process another order and is not exactly resumed"
        )
    if config.trainer_compat and config.sort_eval:
        problems.append("sort_eval: is not what Trainer does; leave trainer_compat or it out")
    if config.max_tokens_per_batch is not None and config.batching != "token_budget":
        problems.append("max_tokens_per_batch: only with --batching token_budget")
    if config.batching == "token_budget" and config.auto_micro_batch:
        problems.append(
            "auto_micro_batch: not with token_budget, where a lower --max_tokens_per_batch bounds the memory"
        )
    if config.batching == "token_budget" and config.dataloader_drop_last:
        problems.append("dataloader_drop_last: with token_budget no batch is incomplete; leave it out")
    return problems


def _best_model_problems(config: TrainConfig) -> list[str]:
    """Mirrors: TrainingArguments._validate_args (load_best_model_at_end needs a checkpoint of the best step)."""
    if config.eval_strategy != config.save_strategy:
        return [
            "load_best_model_at_end: eval_strategy and save_strategy must match (they are "
            f"{config.eval_strategy} and {config.save_strategy}), or use --save_strategy best"
        ]
    if config.eval_strategy != "steps":
        return []
    eval_steps, save_steps = config.evaluation_interval, config.save_steps
    same_kind = (eval_steps < 1) == (save_steps < 1)
    # Shares such as 0.3 and 0.1 are compared in millionths: 0.3 % 0.1 is not 0 in binary.
    if eval_steps > 0 and not (same_kind and round(save_steps * 1e6) % (round(eval_steps * 1e6) or 1) == 0):
        return [
            f"load_best_model_at_end: save_steps ({save_steps:g}) must be a multiple of eval_steps ({eval_steps:g}), "
            "so that the best step has a checkpoint; or use --save_strategy best"
        ]
    return []


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    match = difflib.get_close_matches(name[:100], list(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""


def unknown_setting(name: str) -> str:
    """What to say about a name that is not one of ours: renamed, not implemented, or misspelt."""
    if name in HINTS:
        return f"{name}: {HINTS[name]}"
    # Only now, because importing transformers takes seconds.
    from transformers import TrainingArguments

    if name in {f.name for f in dataclasses.fields(TrainingArguments)}:
        return f"{name}: this TrainingArguments field is not implemented in ftloop; leave it out"
    return f"{name[:100]}: no such setting{_nearest(name, SETTINGS)}"


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The settings of a recipe, by the name of a shipped one or the path of a YAML file.

    Raises: UserError when there is none, or it is not a mapping.
    """
    shipped = _shipped_recipes()
    path = RECIPES / f"{name_or_path}.yaml" if name_or_path in shipped else user_path(name_or_path, "recipe")
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
        text = path.read_text(encoding="utf-8-sig") if is_file else ""
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path}: not readable as YAML: not UTF-8 ({error.reason})") from None
    except FileNotFoundError:
        raise UserError(
            f"recipe {name_or_path!r}: no such file, and not one of the shipped recipes ({', '.join(shipped)})"
            + _nearest(name_or_path, shipped)
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UserError(f"recipe {shown(str(path))}: cannot be read ({reason(error)})") from None
    if not is_file:
        raise UserError(f"recipe {path}: is {'a folder' if path.is_dir() else 'not a regular file'}")
    try:
        # safe_load's own two steps: no tag of it makes anything but plain values.
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        twice = _keys_there_twice(node)
        settings = loader.construct_document(node) if node is not None and not twice else None
    except Exception as error:  # also KeyError, IndexError and RecursionError come of what a file can hold
        raise UserError(f"recipe {path}: not readable as YAML: {str(error) or type(error).__name__}") from None
    if twice:
        raise UserError(*(f"recipe {path}, line {line}: {shown(key)} is there twice" for line, key in twice))
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise UserError(f"recipe {path}: expected lines of the form `name: value`")
    return settings


def _keys_there_twice(root: Any) -> list[tuple[int, str]]:
    """Lines and keys, of which YAML would silently take the last. Each node is looked at once, whatever aliases it."""
    found: list[tuple[int, str]] = []
    seen, left = set(), [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                left.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        found.append((key.start_mark.line + 1, key.value))
                    keys.add((key.tag, key.value))
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
    return sorted(found)


def _shipped_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipes() -> dict[str, str]:
    """The shipped ones, and what each is: the first sentence of its first comment."""
    told = {}
    for name in _shipped_recipes():
        lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
        told[name] = comment.split(". ")[0].rstrip(".") + "."
    return told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.error = _not_understood  # type: ignore[assignment]
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--help-all", "--help_all", action="store_true")
    for setting in SETTINGS.values():
        nargs = "?" if setting.kind is bool else "+" if typing.get_origin(setting.kind) is list else None
        # Every value stays a string: `coerce` turns it into its type and reports all ill-typed ones together.
        parser.add_argument(f"--{setting.name}", nargs=nargs, const="true" if nargs == "?" else None)
    return parser


def _show_help(everything: bool) -> NoReturn:
    """Once, however many processes a launcher has started. Raises: SystemExit."""
    if os.environ.get("RANK", "0") == "0":
        command = "ftloop" if Path(sys.argv[0]).stem == "ftloop" else "python ftloop/train.py"
        width = min(shutil.get_terminal_size().columns, 100)
        print(help_text(SETTINGS.values(), _recipes(), command, everything, width), end="")
    raise SystemExit(0)


def _not_understood(message: str) -> NoReturn:
    """In place of argparse's own, which prints in every process and exits."""
    raise UserError(f"{message}; --help-all lists every flag")


def _without_its_data(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What a shipped recipe says of its own data, a task's name and texts to predict, is no word on the user's."""
    others = "task_name" not in given and bool({"train_file", "dataset_name"} & given.keys())
    if not others and given.get("task_name", recipe.get("task_name")) == recipe.get("task_name"):
        return recipe
    return {name: value for name, value in recipe.items() if name not in ("task_name", "sample_texts")}


def parse_args(argv: list[str]) -> TrainConfig:
    """The configuration of a command line: `[RECIPE] [--flag value ...]`, where a flag overrides the recipe.

    Raises: UserError with all problems; SystemExit for --help and --help-all.
    """
    argv = argv or ["guide"]
    recipe = None if argv[0].startswith("-") else argv[0]
    given, rest = _parser().parse_known_args(argv if recipe is None else argv[1:])
    if "help" in given or "help_all" in given:
        _show_help(everything="help_all" in given)
    problems = [unknown_setting(word.lstrip("-").split("=")[0]) for word in rest if word.startswith("--")]
    if rest and not problems:
        problems = [f"{rest[0]!r}: not understood; one RECIPE first, then flags of the form --name value"]
    settings = read_recipe(recipe) if recipe is not None else {}
    problems += [f"{unknown_setting(name)} (in the recipe {recipe})" for name in settings if name not in SETTINGS]
    if recipe in _shipped_recipes():
        settings = _without_its_data(settings, vars(given))
    settings = {name: value for name, value in (settings | vars(given)).items() if name in SETTINGS}
    try:
        config = TrainConfig(**settings)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(*problems)
    return config
