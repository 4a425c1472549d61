"""The settings of a run that are not the defaults, and the command that makes the run again."""

from __future__ import annotations

import json
import re
import shutil
import sys
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from ftloop.config.train_config import SETTINGS, TrainConfig
from ftloop.errors import UserError
from ftloop.system.shell import quote


def non_default_settings(config: dict[str, Any], full_paths: bool = True) -> dict[str, Any]:
    """Return the settings that somebody gave: neither defaults, nor what follows from others, nor of one start alone.
    Without `full_paths`, paths are as others may see them.
    """
    part_of_run = {name: setting for name, setting in SETTINGS.items() if setting.on_resume != "start"}
    given = {name: value for name, value in config.items() if name in part_of_run}
    given = {name: value for name, value in given.items() if value != SETTINGS[name].default}
    everything = _completed(given)
    for name in list(given) if everything else ():
        rest = {other: value for other, value in given.items() if other != name}
        if _completed(rest) == everything:
            given = rest
    if full_paths:
        return given
    return {name: _without_folder(value) if SETTINGS[name].path else value for name, value in given.items()}


def _without_folder(paths: str | list[str]) -> str | list[str]:
    return list(map(path_without_folder, paths)) if isinstance(paths, list) else path_without_folder(paths)


def _completed(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return all settings that result from these; None if they are not valid, as another version's may be."""
    try:
        config = TrainConfig(**settings)
    except UserError:
        return None
    return config.to_dict() | {"greater_is_better": config.metric_rises}


def path_without_folder(path: str) -> str:
    """Return a path as it may be shown to others: where an absolute one lies on a machine is nobody else's business,
    so only its name; a relative one, or a name on the hub, as it is."""
    return PurePath(path).name if PurePath(path).is_absolute() or path.startswith("~") else path


def names_its_data(config: dict[str, Any]) -> bool:
    """Whether a command can make the run again: the data of one prepared in Python are named by no setting."""
    return bool(config.get("train_file") or config.get("task_name") or config.get("dataset_name"))


def reproducing_command(
    config: dict[str, Any], processes: int, device: dict[str, Any], full_paths: bool = True
) -> list[str]:
    """Return the words of a command line that makes the run again, beside the first: into `<output_dir>-again`.

    `device` is that of the run's facts: the number of threads and what a launcher may have chosen.
    """
    given = non_default_settings(config, full_paths)
    given["output_dir"] = given.get("output_dir", SETTINGS["output_dir"].default) + "-again"
    words = []
    on_cpu, precision = device.get("name") == "cpu", device.get("precision", "fp32")
    if on_cpu and device.get("threads"):
        words.append(f"OMP_NUM_THREADS={device['threads']}")  # sums, and so the last digits, depend on it
    if on_cpu and processes > 1 and not config.get("use_cpu"):
        words.append("ACCELERATE_USE_CPU=true")
    if precision != "fp32" and not config.get(precision):
        words.append(f"ACCELERATE_MIXED_PRECISION={precision}")
    words += ["torchrun", "--nproc_per_node", str(processes)] if processes > 1 else ["python"]
    words += ["-m", "ftloop.train"]
    return words + [word for name, value in given.items() for word in _flag(name, value)]


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    text = value if isinstance(value, str) else json.dumps(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def shell_line(words: list[str], width: int = 76) -> str:
    """Join words as they are typed into a shell, in several lines broken before flags; on Windows variables first."""
    if sys.platform == "win32":  # where cmd and PowerShell have no common sign that a line goes on
        variables = [*takewhile(lambda word: re.match("[A-Z_]+=", word), words)]
        return "\n".join([*(f"set {each}" for each in variables), " ".join(map(quote, words[len(variables) :]))])
    pieces: list[str] = []  # each a flag with its values
    for word in words:
        if word.startswith("--") or not pieces:
            pieces.append(quote(word))
        else:
            pieces[-1] += f" {quote(word)}"
    lines = pieces[:1]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) > width:
            lines.append(f"    {piece}")
        else:
            lines[-1] += f" {piece}"
    return " \\\n".join(lines)


def _typed(program: Path, name: str = "ftloop") -> str:
    """Return a program of this environment as short as it can be typed: by its name alone none is found that belongs to
    an environment that is not activated."""
    on_path = shutil.which(name)
    if on_path is not None and Path(on_path).parent == program.parent:
        return name
    return quote(str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program))


def python_command() -> str:
    """Return the interpreter that runs this, as it can be typed here."""
    return _typed(Path(sys.executable), "python")


def ftloop_command(*words: str | Path) -> str:
    """Return a command of ours as it can be typed here: by its own name, or by Python where it is not installed."""
    script = Path(sys.executable).with_name("ftloop.exe" if sys.platform == "win32" else "ftloop")
    start = _typed(script) if script.is_file() else f"{python_command()} -m ftloop"
    return " ".join([start, *(quote(str(word)) for word in words)])
