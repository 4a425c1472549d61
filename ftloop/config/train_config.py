"""TrainConfig: every setting of a run in one frozen, flat dataclass, from Python, the command line or a recipe.

Names, defaults and meaning are those of `transformers.TrainingArguments` (5.23) and of the `run_glue` scripts. All
three sources go through the same conversion, so a wrong value in a recipe is found as surely as one on the command
line, and every problem is reported at once. (`HfArgumentParser` stops at the first ill-typed value and does not check
the types of a YAML file.)
"""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ftloop.config.checks import combination_problems
from ftloop.config.parse_value import parse_value
from ftloop.config.setting import MAX_COUNT, MAX_PROCESSES, MAX_SEED, Schedule, Setting, make_setting
from ftloop.config.unknown import explains_unknown_names
from ftloop.errors import UserError

FALLING = ("loss", "mse")
"""Metrics of which less is better."""

# The groups of --help-all, and what a change on resume means where a setting does not say otherwise (see OnResume).
_model = partial(make_setting, group="model and output", on_resume="refused")
_data = partial(make_setting, group="data", on_resume="data")
_train = partial(make_setting, group="training", on_resume="refused")
_optim = partial(make_setting, group="optimizer and schedule", on_resume="refused")
_device = partial(make_setting, group="device and precision", on_resume="bits")
_eval = partial(make_setting, group="evaluation, checkpoints and the best model", on_resume="bits")
_log = partial(make_setting, group="logging", on_resume="free")
_load = partial(make_setting, group="data loading", on_resume="free")


@explains_unknown_names
@dataclass(frozen=True)
class TrainConfig:
    """All settings of one run. `TrainConfig()` has TrainingArguments' defaults.

    Mirrors: TrainingArguments, and run_glue's DataTrainingArguments and ModelArguments.
    Raises: UserError with every problem found, one message each.
    """

    output_dir: str = _model("trainer_output", "Where model and results go.", common=True, path=True, on_resume="free")
    model_name_or_path: str | None = _model(None, "A model folder, or a name on the model hub.", common=True, path=True)
    tokenizer_name: str | None = _model(None, "The tokenizer, likewise. None: that of the model.", path=True)
    classifier_dropout: float | None = _model(None, "Dropout before the classifier. None: the model's own.", below=1)
    hidden_dropout: float | None = _model(None, "Dropout in the body, not on attention. None: the model's.", below=1)
    freeze_embeddings: bool = _model(False, "Do not train the embeddings.", on_resume="never")
    freeze_layers: int = _model(
        0, "Do not train this many of the lowest encoder layers.", common=True, at_least=0, on_resume="never"
    )
    lora_r: int | None = _model(
        None, "Train a LoRA adapter of this rank and the head, not the whole model.", above=0, on_resume="never"
    )
    lora_alpha: int | None = _model(None, "LoRA's scale is this / lora_r. None: PEFT's 8.", above=0, needs="lora_r")
    lora_dropout: float = _model(0.0, "Dropout before LoRA's matrices.", below=1, needs="lora_r")
    lora_target_modules: list[str] | None = _model(
        None,
        "Modules that get LoRA's matrices, such as query value, or all-linear; by default PEFT's for the architecture.",
        needs="lora_r",
        on_resume="never",
    )
    lora_merge: bool = _model(
        False, "Save in output_dir/merged the whole model, too: the adapter added.", needs="lora_r", on_resume="results"
    )

    task_name: str | None = _data(None, "A GLUE task (cola, mrpc, ...), or demo: the built-in pairs.", common=True)
    dataset_name: str | None = _data(None, "A data set on the hub.", common=True, path=True)
    dataset_config_name: str | None = _data(None, "The configuration of that data set.", needs="dataset_name")
    validation_split_name: str | None = _data(None, "Its split to validate on.", needs="dataset_name", on_resume="bits")
    test_split_name: str | None = _data(None, "Its split to test on.", needs="dataset_name", on_resume="results")
    train_file: list[str] | str | None = _data(
        None, "Training rows: files, a pattern or a folder.", common=True, path=True
    )
    validation_file: list[str] | str | None = _data(
        None, "Validation rows, likewise.", common=True, path=True, needs="train_file", on_resume="bits"
    )
    test_file: list[str] | str | None = _data(
        None, "Test rows, labelled or not.", needs="train_file", common=True, path=True, on_resume="results"
    )
    split_column_name: str | None = _data(
        None, "The column of train_file that names each row's set: train, dev, test, ...", needs="train_file"
    )
    validation_split: float | None = _data(
        None,
        "Share of the training rows to validate on instead, class by class, drawn by data_seed (42 if there is none).",
        common=True,
        above=0,
        below=1,
    )
    folds: int | None = _data(None, "Cross-validation with so many folds.", common=True, above=1)
    fold: int | None = _data(None, "Of the folds, train this one alone, from 1.", needs="folds", above=0)
    encoding: str | None = _data(None, "Of the files; by default UTF-8, or by a byte order mark.", needs="train_file")
    delimiter: str | None = _data(None, "Of csv, tsv and txt columns: ; or \\t or ::, say.", needs="train_file")
    column_names: list[str] | None = _data(None, "Of csv, tsv and txt without a header.", needs="train_file")
    text_column_names: list[str] | None = _data(
        None, "One or two text columns; by default sentence1 and sentence2, ...", common=True
    )
    label_column_name: list[str] | str | None = _data(None, "The label column, or one for each label.", common=True)
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = _data(
        None, "What is learned, by transformers' names. None: what the labels seem to be."
    )
    label_delimiter: str | None = _data(
        None, "Several labels a row: what separates them in a label that is text, such as | or a comma."
    )
    drop_unlabelled: bool = _data(
        False,
        "Leave out rows without a label: none, empty or a null as \\N; without any of these, also -, -1, None, NA "
        "that are no class.",
    )
    drop_empty_texts: bool = _data(False, "Leave out rows with an empty text.")
    max_seq_length: int | None = _data(
        None, "Tokens at which inputs are cut; by default the tokenizer's limit.", common=True, above=0
    )
    truncation_side: Literal["right", "left"] | None = _data(None, "Where long rows are cut. None: the tokenizer's.")
    pad_to_max_length: bool = _data(
        False, "Pad every row to max_seq_length: --padding max_length.", needs="max_seq_length", on_resume="bits"
    )
    padding: str = _data(
        "longest",
        "To which length a batch is padded: longest (of its rows), max_length, multiple:N, or buckets:N, the N lengths "
        "that leave the least padding in the training set; with none, padding is not computed (BERT and its kin).",
        on_resume="bits",
    )
    max_train_samples: int | None = _data(None, "Use only the first training rows.", common=True, above=0)
    max_eval_samples: int | None = _data(None, "Use only the first validation rows.", above=0, on_resume="bits")
    max_predict_samples: int | None = _data(None, "Use only the first test rows.", above=0, on_resume="results")
    preprocessing_num_workers: int | None = _data(
        None, "Processes that tokenize.", above=0, at_most=MAX_PROCESSES, per_machine=True, on_resume="free"
    )
    overwrite_cache: bool = _data(False, "Tokenize again, without the cache.", per_machine=True, on_resume="start")
    sample_texts: list[str] | None = _data(
        None, "Texts to predict at the end; for pairs, two after each other.", on_resume="results"
    )

    num_train_epochs: float = _train(
        3.0, "Epochs to train; fractions are allowed.", common=True, above=0, at_most=MAX_COUNT, on_resume="length"
    )
    max_steps: int = _train(-1, "Number of updates; if positive, it overrides num_train_epochs.", on_resume="length")
    per_device_train_batch_size: int = _train(
        8, "Rows of one micro-batch on one device.", common=True, above=0, on_resume="split"
    )
    per_device_eval_batch_size: int = _train(
        8, "Rows of one evaluation batch on one device.", common=True, above=0, on_resume="bits"
    )
    gradient_accumulation_steps: int = _train(1, "Micro-batches per update.", common=True, above=0, on_resume="split")
    batching: Literal["random", "sequential", "length_grouped", "token_budget"] = _train(
        "random",
        "Which rows make a batch: in random order, in the file's, of nearly the same length, or as many as fit into "
        "max_tokens_per_batch.",
        common=True,
    )
    max_tokens_per_batch: int | None = _train(
        None,
        "With token_budget: tokens of a micro-batch, padding included. None: per_device_train_batch_size times the "
        "mean length.",
        above=0,
    )
    class_weights: dict[str, Any] | Literal["balanced"] | None = _train(
        None, "Weight of each class in the loss: balanced, by its rows, or JSON of names and numbers.", common=True
    )
    label_smoothing_factor: float = _train(0.0, "Share of the target spread over the classes.", below=1)
    seed: int = _train(42, "Seeds the new head, dropout and row order.", common=True, at_least=0, at_most=MAX_SEED)
    data_seed: int | None = _train(None, "Seeds the order of rows alone. None: seed.", at_least=0, at_most=MAX_SEED)
    seeds: list[int] | None = _train(
        None, "Train once for each of several: 1,2,3, say.", common=True, on_resume="start"
    )
    full_determinism: bool = _train(False, "Deterministic kernels, slower; for reproducing GPU runs.", on_resume="bits")
    resume_from_checkpoint: str | None = _train(
        None, "`last` (or true), or a checkpoint folder.", common=True, path=True, on_resume="start"
    )
    resume_with_changes: bool = _train(False, "Resume although seed, data, model, ... have changed.", on_resume="start")
    max_train_seconds: int | None = _train(
        None, "Stop and save in time to be done this many seconds after the start.", above=0, on_resume="start"
    )
    on_nonfinite: Literal["raise", "skip", "ignore"] = _train(
        "raise",
        "Loss or gradient NaN or infinite: stop and name the rows, skip the update (one wait for the device per "
        "update), or train on. With trainer_compat nothing is checked.",
        on_resume="free",
    )
    auto_micro_batch: bool = _train(False, "Split micro-batches too large for memory; same update.", on_resume="bits")
    trainer_compat: bool = _train(False, "Reproduce transformers.Trainer bit for bit, its known defects included.")

    learning_rate: float = _optim(5e-5, "Peak learning rate.", common=True, at_least=0)
    weight_decay: float = _optim(0.0, "Decoupled weight decay, not of biases and norms.", common=True, at_least=0)
    adam_beta1: float = _optim(0.9, "AdamW's beta1.", below=1)
    adam_beta2: float = _optim(0.999, "AdamW's beta2.", below=1)
    adam_epsilon: float = _optim(1e-8, "AdamW's epsilon.", above=0)
    max_grad_norm: float = _optim(1.0, "Clip the gradient to this norm; 0 does not clip.", at_least=0)
    optim: Literal["adamw_torch_fused", "adamw_torch"] = _optim("adamw_torch_fused", "Which AdamW kernel.")
    lr_scheduler_type: Schedule = _optim("linear", "Shape of the learning rate after the warmup.")
    lr_scheduler_kwargs: dict[str, Any] | None = _optim(None, "JSON of extra arguments for the schedule.")
    warmup_steps: float = _optim(0.0, "Warmup updates; below 1, a share of all.", at_least=0, at_most=MAX_COUNT)
    warmup_ratio: float | None = _optim(None, "Warmup as a share of all updates.", common=True, at_least=0, at_most=1)

    mixed_precision: Literal["no", "fp16", "bf16", "auto"] | None = _device(
        None,
        "Accelerate's name for bf16 and fp16; auto: half precision where this device multiplies faster in it.",
        common=True,
        on_resume="start",
    )
    bf16: bool = _device(False, "bfloat16 autocast.", common=True, on_resume="refused")
    fp16: bool = _device(False, "float16 autocast with a gradient scaler; CUDA only.", common=True, on_resume="refused")
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
    keep_freed_memory: bool = _device(True, "On glibc, keep freed memory: faster, the same bits.", on_resume="free")
    torch_compile: bool = _device(False, "Compile the model with torch.compile (not the same bits).")
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = (
        _device(None, "Its mode; reduce-overhead takes CUDA graphs. Giving it turns torch_compile on.")
    )
    ddp_find_unused_parameters: bool | None = _device(
        None, "With several processes, look in each forward pass for parameters that get no gradient. None: as Trainer."
    )
    ddp_timeout: int = _device(1800, "Seconds until a process waiting for another gives up.", above=0, on_resume="free")
    average_tokens_across_devices: bool = _device(
        True, "Only with trainer_compat, where it multiplies the loss by the number of processes.", on_resume="refused"
    )

    eval_strategy: Literal["no", "steps", "epoch"] = _eval("no", "When to evaluate.", common=True)
    eval_steps: float | None = _eval(
        None, "Updates between evaluations, or a share < 1. None: logging_steps.", at_most=MAX_COUNT
    )
    eval_delay: float = _eval(0.0, "Epochs (or updates) before the first evaluation.", at_least=0, at_most=MAX_COUNT)
    sort_eval: bool = _eval(False, "Evaluate by length, which needs less padding; results keep their order.")
    eval_on_start: bool = _eval(False, "Evaluate once before training.")
    save_strategy: Literal["no", "steps", "epoch", "best"] = _eval(
        "steps", "When to save a checkpoint.", common=True, on_resume="free"
    )
    save_steps: float = _eval(
        500, "Updates between checkpoints, or a share < 1 of all updates.", at_most=MAX_COUNT, on_resume="free"
    )
    save_total_limit: int | None = _eval(
        None, "Keep at most this many checkpoints; the best one always stays.", above=0, on_resume="free"
    )
    save_only_model: bool = _eval(False, "Checkpoints without optimizer state: not resumable.", on_resume="free")
    load_best_model_at_end: bool = _eval(False, "Go back to the best checkpoint when training ends.", common=True)
    metric_for_best_model: str | None = _eval(None, "What makes a checkpoint the best; by default loss.", common=True)
    positive_label: str | None = _eval(
        None, "Of two classes, the one whose F1, precision and recall are given. None: the second.", on_resume="bits"
    )
    greater_is_better: bool | None = _eval(None, "None: true unless the metric's name ends with loss or mse.")
    early_stopping_patience: int | None = _eval(
        None, "Stop after this many evaluations without a better one.", common=True, above=0
    )
    early_stopping_threshold: float = _eval(0.0, "How much better counts as better.", at_least=0)

    logging_strategy: Literal["no", "steps", "epoch"] = _log("steps", "When to log the loss.")
    logging_steps: float = _log(500, "Updates between two log lines, or a share < 1 of all updates.", at_most=MAX_COUNT)
    logging_first_step: bool = _log(False, "Log the first update too.")
    logging_dir: str | None = _log(None, "TensorBoard's folder; giving it turns TensorBoard on.", path=True)
    report_to: list[str] | str = _log(
        "none", "Where logs go besides: tensorboard, wandb, mlflow, trackio, ...", common=True
    )
    disable_tqdm: bool | None = _log(
        None, "No progress bars. None: bars where the console is a terminal.", per_machine=True, on_resume="start"
    )
    report: bool = _log(
        False, "Write output_dir/report at the end: figures, tables, intervals.", common=True, on_resume="start"
    )
    traceback: bool = _log(False, "Show where in the code an error was raised.", per_machine=True, on_resume="start")
    record: str | None = _log(
        None, "Record every update in this file, for ftloop compare.", path=True, on_resume="start"
    )
    record_full: bool = _log(
        False, "Digests of all parameters, gradients and random states too; slower.", needs="record", on_resume="start"
    )
    predictions_format: Literal["parquet", "csv", "jsonl"] | None = _log(
        None, "Of the predictions of each row. None: parquet; tsv where rows have no labels.", on_resume="results"
    )
    explain: int | None = _log(
        None, "Narrate this many updates: rows, losses, gradients, weights.", common=True, above=0, on_resume="start"
    )

    remove_unused_columns: bool = _load(
        True, "From Python: drop columns that the model's forward does not take.", on_resume="bits"
    )
    dataloader_drop_last: bool = _load(False, "Drop the last, incomplete batch.", on_resume="refused")
    dataloader_num_workers: int = _load(0, "Worker processes that collate batches.", at_least=0, at_most=MAX_PROCESSES)
    dataloader_pin_memory: bool = _load(True, "Pinned host memory, for faster copies to a GPU.")
    dataloader_persistent_workers: bool = _load(
        False, "Keep the workers between epochs (not the same bits).", needs="dataloader_num_workers", on_resume="bits"
    )
    dataloader_prefetch_factor: int | None = _load(
        None, "Batches each worker prepares ahead.", needs="dataloader_num_workers", above=0
    )

    from_recipe: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """No setting: what a shipped recipe chose and the user did not, of what gives way to the data and the model."""

    def __post_init__(self) -> None:
        ill_typed = {}
        if str(self.resume_from_checkpoint).lower() in ("true", "false"):  # of the newest, or of none, as to Trainer
            last = str(self.resume_from_checkpoint).lower() == "true"
            object.__setattr__(self, "resume_from_checkpoint", "last" if last else None)
        if self.report_to == []:  # as TrainingArguments takes it
            object.__setattr__(self, "report_to", "none")
        for name, setting in SETTINGS.items():
            try:
                object.__setattr__(self, name, parse_value(getattr(self, name), setting.type))
            except ValueError as error:
                ill_typed[name] = f"{name}: {error}"
                object.__setattr__(self, name, setting.default)  # so that the checks below still run
        object.__setattr__(self, "output_dir", str(Path(self.output_dir).expanduser()))
        if self.pad_to_max_length and self.padding == "longest":
            object.__setattr__(self, "padding", "max_length")
        if self.torch_compile_mode is not None:
            object.__setattr__(self, "torch_compile", True)
        if self.mixed_precision in ("fp16", "bf16") and not (self.fp16 or self.bf16):
            object.__setattr__(self, self.mixed_precision, True)
            object.__setattr__(self, "mixed_precision", None)  # said once, so that `replace` can take it back
        if self.needs_metric and self.metric_for_best_model is None:
            object.__setattr__(self, "metric_for_best_model", "loss")
        problems = [f"{name}: {problem}" for name, setting in SETTINGS.items() for problem in setting.problems(self)]
        problems += combination_problems(self)
        # What is said of a setting whose value could not be read would be said of its default.
        problems = [problem for problem in problems if ill_typed.keys().isdisjoint(re.findall(r"\w+", problem))]
        if ill_typed or problems:
            raise UserError(*ill_typed.values(), *problems)

    @property
    def needs_metric(self) -> bool:
        """Whether something is decided by an evaluation metric."""
        return self.load_best_model_at_end or self.save_strategy == "best" or self.early_stopping_patience is not None

    @property
    def metric_rises(self) -> bool | None:
        """Whether more of metric_for_best_model is better: greater_is_better, or what it comes to where it is None."""
        if self.greater_is_better is not None or self.metric_for_best_model is None:
            return self.greater_is_better
        # Trainer takes any name for one to be raised but that of a loss: by `mse` it would keep the worst.
        falling = FALLING[:1] if self.trainer_compat else FALLING
        return not self.metric_for_best_model.endswith(falling)

    @property
    def several(self) -> str | None:
        """The setting by which the command trains several times, each in a process of its own; None: it trains once."""
        return "seeds" if self.seeds is not None else "folds" if self.folds is not None and self.fold is None else None

    @property
    def order_seed(self) -> int:
        """Seed of the row order."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def split_seed(self) -> int:
        """Seed of the rows held out: not `seed`, so that runs of several are judged by the same rows."""
        return SETTINGS["seed"].default if self.data_seed is None else self.data_seed

    @property
    def tensorboard(self) -> bool:
        return "tensorboard" in self.trackers or self.logging_dir is not None

    @property
    def trackers(self) -> list[str]:
        """Accelerate's names of all that is reported to."""
        given = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        names = [name.strip() for each in given for name in each.split(",")]
        return [name for name in dict.fromkeys(names) if names != ["none"]]

    @property
    def evaluation_interval(self) -> float:
        """Updates (or share of them) between evaluations: logging_steps where eval_steps is not given."""
        return self.eval_steps or self.logging_steps

    @property
    def settings(self) -> dict[str, Setting]:
        """What is to be known about each field, for those who have a configuration and not this module."""
        return SETTINGS

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, and beside them `from_recipe` if something of that gave way."""
        values = dataclasses.asdict(self)
        if self.from_recipe.items() <= values.items():
            del values["from_recipe"]
        return values


def _settings() -> dict[str, Setting]:
    hints, fields = typing.get_type_hints(TrainConfig), dataclasses.fields(TrainConfig)
    return {f.name: Setting(f.name, hints[f.name], f.default, **f.metadata) for f in fields if f.metadata}


SETTINGS = _settings()
