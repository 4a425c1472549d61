"""Names that are no setting: what to use instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ftloop.config.setting import SCORES
from ftloop.errors import UserError
from ftloop.system.flags import nearest_name

P = ParamSpec("P")
T = TypeVar("T")

# What to use instead of names that older guides and scripts give, or that mean something else here.
HINTS = {
    "lr": "its name is --learning_rate",
    "epochs": "its name is --num_train_epochs",
    "batch_size": "its name is --per_device_train_batch_size",
    "model": "its name is --model_name_or_path",
    "base_model": "its name is --model_name_or_path",
    "optimizer": "its name is --optim",
    "scheduler": "its name is --lr_scheduler_type",
    "project_name": "its name is --output_dir",
    "log": "its name is --report_to",
    "resume": "its name is --resume_from_checkpoint",
    "max_length": "its name is --max_seq_length",
    "do_train": "ftloop always trains; leave it out",
    "do_eval": f"evaluation follows --eval_strategy; leave it out; {SCORES}",
    "do_predict": "a test set is evaluated or predicted whenever one is given; leave it out",
    "do_regression": "its name is --problem_type regression",
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
    "config": (_RECIPE := "a recipe, YAML or JSON, is the first word, without a flag: ftloop train FILE ..."),
    "config_file": _RECIPE,
    "recipe": _RECIPE,
    "device": "a GPU is used where there is one; --use_cpu leaves it alone, CUDA_VISIBLE_DEVICES in the environment "
    "chooses among several",
    "trust_remote_code": "leave it out: ftloop runs no code that comes with a model, and most models need none. If you "
    "trust the code of one that does, load it in Python, AutoModelForSequenceClassification.from_pretrained(NAME, "
    "num_labels=2, trust_remote_code=True), and give it to prepare (docs/guides/python.md)",
    **dict.fromkeys(("k_folds", "kfold", "n_folds", "n_splits", "cv", "cross_validation"), "its name is --folds"),
    "save_safetensors": "weights are always saved as safetensors; leave it out",
}

# Words for the same thing, of which the settings' names have one.
_SAME = {"dev": "validation", "val": "validation", "valid": "validation", "eval": "validation"}
_SAME |= {"data": "file", "path": "file", "csv": "file"}


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return what to say about a name that is not one of ours: renamed, not implemented, or misspelt."""
    if name in HINTS:
        return f"{name}: {HINTS[name]}"
    from transformers import TrainingArguments  # only now: it takes seconds

    if name in {f.name for f in dataclasses.fields(TrainingArguments)}:
        return f"{name}: this TrainingArguments field is not implemented in ftloop; leave it out"
    in_our_words = "_".join(_SAME.get(word, word) for word in name.replace("-", "_").split("_"))
    return f"{name[:100]}: no such setting{nearest_name(in_our_words if in_our_words in known else name, known)}"


# What Trainer takes and `prepare` does not.
TRAINERS_ARGUMENTS = {
    "args": "settings are the first argument, config: a TrainConfig, whose names are those of TrainingArguments",
    "tokenizer": "its name is processing_class",
    "callbacks": "early_stopping_patience is EarlyStoppingCallback, report_to TensorBoardCallback, disable_tqdm "
    "ProgressCallback; what another would do is written into the body of `for update in updates(run)`",
    "model_init": "give the model itself, made after seed_everything(config)",
    "optimizer_cls_and_kwargs": "give optimizers=(optimizer, None)",
}


def explains_trainers_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function answer arguments of Trainer that it does not have with what to use instead."""

    @wraps(function)
    def checked(*args: P.args, **settings: P.kwargs) -> T:
        unknown = [f"{name}: {hint}" for name, hint in TRAINERS_ARGUMENTS.items() if name in settings]
        if unknown:
            raise UserError(*unknown)
        return function(*args, **settings)

    return checked


def explains_unknown_names(config: type[T]) -> type[T]:
    """Let a dataclass answer names that it does not have as the command does, with what to use instead."""
    init = config.__init__

    @wraps(init)
    def checked(self: T, *args: Any, **settings: Any) -> None:
        known = init.__annotations__
        unknown = [unknown_setting(name, known) for name in settings if name not in known]
        if unknown:
            raise UserError(*unknown)
        init(self, *args, **settings)

    setattr(config, "__init__", checked)  # noqa: B010 - a type checker takes no assignment to it
    return config
