"""The settings of a run that are not the defaults, and the command that makes the run again."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path, PurePath
from typing import Any

from ftloop.config import SETTINGS, TrainConfig
from ftloop.errors import UserError

# What leaves the run as it is, or belongs to one start of it.
OF_ONE_START = {
    *("resume_from_checkpoint", "resume_with_changes", "overwrite_cache", "max_train_seconds", "seeds"),
    *("report", "explain", "record", "record_full", "disable_tqdm", "traceback"),
}
PATHS = {
    *("output_dir", "model_name_or_path", "dataset_name", "train_file", "validation_file", "test_file"),
    "logging_dir",
}


def given_settings(config: dict[str, Any], whole_paths: bool = True) -> dict[str, Any]:
    """The settings that somebody gave: not the defaults, nor what follows from others. Without `whole_paths`, of an
    absolute path, or one below a home folder, the name alone: where it lies on a machine is nobody else's.
    """
    known = {name: value for name, value in config.items() if name in SETTINGS and name not in OF_ONE_START}
    given = {name: value for name, value in known.items() if value != SETTINGS[name].default}
    try:
        everything = TrainConfig(**given).to_dict()
        for name in list(given):
            rest = {other: value for other, value in given.items() if other != name}
            if _config(rest) == everything:
                given = rest
    except UserError:  # of another version of ftloop
        pass
    if whole_paths:
        return given
    return {name: shared_path(value) if name in PATHS else value for name, value in given.items()}


def _config(settings: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return TrainConfig(**settings).to_dict()
    except UserError:
        return None


def shared_path(path: str) -> str:
    """As it can be shown to others: a name on the hub or a relative path as it is, of an absolute one the name."""
    return PurePath(path).name if PurePath(path).is_absolute() or path.startswith("~") else path


def reproducing_command(
    config: dict[str, Any], processes: int, device: dict[str, Any], whole_paths: bool = True
) -> list[str]:
    """The words of a command line that makes the run again, beside the first: into `<output_dir>-again`.

    `device` is that of the run's facts: the number of threads and what a launcher may have chosen.
    """
    given = given_settings(config, whole_paths)
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
    for name, value in given.items():
        words += _flag(name, value)
    return words


def python_here() -> str:
    """The one that runs this, as short as it can be typed here: that of an environment that is not activated is not
    found by its name."""
    here, on_path = Path(sys.executable), shutil.which("python")
    if on_path is not None and Path(on_path).parent == here.parent:
        return "python"
    is_below = here.is_relative_to(Path.cwd())
    return shlex.quote(str(here.relative_to(Path.cwd()) if is_below else here))


def module_here(module: str, *words: str | Path) -> str:
    """The command that starts a module of ours, as it can be typed here."""
    return " ".join([python_here(), "-m", f"ftloop.{module}", *(shlex.quote(str(word)) for word in words)])


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    if value is None:
        text = "none"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, dict):
        text = json.dumps(value)
    else:
        text = str(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def shell_line(words: list[str], width: int = 76) -> str:
    """As it is typed into a shell, broken where a flag begins."""
    lines, line = [], ""
    pieces: list[str] = []
    for word in words:
        quoted = _quoted(word)
        if word.startswith("--"):
            pieces.append(quoted)
        elif pieces:
            pieces[-1] += f" {quoted}"
        else:
            pieces = [quoted]
    for piece in pieces:
        if line and len(line) + len(piece) > width:
            lines.append(line)
            line = f"    {piece}"
        else:
            line = f"{line} {piece}" if line else piece
    return " \\\n".join([*lines, line])


def _quoted(word: str) -> str:
    name, equals, value = word.partition("=")
    if equals and name.replace("_", "").isalnum():
        return f"{name}={shlex.quote(value)}"
    return shlex.quote(word)
