"""Read a recipe: a YAML file of settings, one of the shipped ones or the user's own."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from ftloop.errors import UserError, os_reason
from ftloop.system.flags import nearest_name
from ftloop.system.text import expand_path, short_repr

SHIPPED = {path.stem: path for path in sorted((Path(__file__).resolve().parent / "recipes").glob("*.yaml"))}


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """Return the settings of a recipe, by the name of a shipped one or the path of a YAML file.

    Raises: UserError when there is none, or it is not a mapping.
    """
    path = SHIPPED[name_or_path] if name_or_path in SHIPPED else expand_path(name_or_path, "recipe")
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
        text = path.read_text(encoding="utf-8-sig") if is_file else ""
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path}: not readable as YAML: not UTF-8 ({error.reason})") from None
    except FileNotFoundError:
        names = f"no such file, and not one of the shipped recipes ({', '.join(SHIPPED)})"
        raise UserError(f"recipe {name_or_path!r}: {names}{nearest_name(name_or_path, SHIPPED)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UserError(f"recipe {short_repr(str(path))}: cannot be read ({os_reason(error)})") from None
    if not is_file:
        raise UserError(f"recipe {path}: is {'a folder' if path.is_dir() else 'not a regular file'}")
    try:
        loader = _Loader(text)
        settings = loader.get_single_data()
    except Exception as error:  # also KeyError, IndexError and RecursionError come of what a file can hold
        raise UserError(f"recipe {path}: not readable as YAML: {str(error) or type(error).__name__}") from None
    if loader.repeated:
        raise UserError(
            *(f"recipe {path}, line {line}: {short_repr(key)} is there twice" for line, key in loader.repeated)
        )
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise UserError(f"recipe {path}: expected lines of the form `name: value`")
    return settings


class _Loader(yaml.SafeLoader):
    """YAML's safe loader (no tag makes anything but plain values), which would silently take a repeated key's last
    value. Here the lines and names of repeated keys are collected."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[int, str]] = []

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in keys:
                self.repeated.append((key.start_mark.line + 1, key.value))
            keys.add((key.tag, key.value))
        return node
