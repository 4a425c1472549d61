"""Turn a value from the command line, a recipe or Python into the type of its setting."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ftloop.system.flags import nearest_name
from ftloop.system.strict_json import read_json
from ftloop.system.text import check_utf8, short_repr


def parse_value(value: Any, wanted: Any) -> Any:
    """Return `value` as the type `wanted`; strings come from the command line, the rest from YAML or Python.

    Raises: ValueError that says what was expected.
    """
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):  # a Literal makes the older kind
        word = value[0] if isinstance(value, list) and len(value) == 1 else value  # `--sample_texts none`
        is_none = word is None or (isinstance(word, str) and word.lower() in ("none", "null"))
        if is_none and types.NoneType in typing.get_args(wanted):
            return None
        kinds = [kind for kind in typing.get_args(wanted) if kind is not types.NoneType]
        if kinds == [list[str], str]:
            return _one_or_more(value)
        is_mapping = isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith("{"))
        return parse_value(value, kinds[0] if is_mapping else kinds[-1])  # where there are two: a mapping, or a word
    if typing.get_origin(wanted) is Literal:
        return _choice(value, typing.get_args(wanted))
    return _CONVERTERS[wanted](value)


def _choice(value: Any, choices: tuple[str, ...]) -> str:
    if isinstance(value, list) and len(value) < 2:  # as TrainingArguments takes report_to
        value = value[0] if value else "none"
    if value is False:  # YAML 1.1 reads a bare `no` as false
        value = "no"
    if value not in choices:
        near = nearest_name(str(value), choices) if isinstance(value, str) else ""
        raise ValueError(f"{short_repr(value)} is not one of {', '.join(choices)}{near}")
    return choices[choices.index(value)]  # plain text, also where transformers' enum member was given


def _number(value: Any, whole: bool) -> int | float:
    try:
        number = None if isinstance(value, bool) else float(value)  # also YAML's `5e-5`, which YAML 1.1 reads as text
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{short_repr(value)} is not a finite number")
    if number is None or (whole and number != int(number)):
        raise ValueError(f"{short_repr(value)} is not a {'whole ' if whole else ''}number")
    return int(number) if whole else number  # exact: no setting may be as large as 2**53


def _switch(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "yes", "1", "false", "no", "0"):
        return value.lower() in ("true", "yes", "1")
    if not isinstance(value, bool):
        raise ValueError(f"{short_repr(value)} is neither true nor false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"expected text, not {short_repr(value)}")
    text = check_utf8(str(value))
    if text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            raise ValueError(f"no such home folder: {short_repr(text)}") from None
    return text


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or not all(isinstance(item, str) and item for item in items):
        raise ValueError(f"expected one or more texts, not {short_repr(items)}")
    return [check_utf8(item) for item in items]


def _one_or_more(value: Any) -> str | list[str]:
    """Return one text as itself, as settings were that took no second one."""
    texts = [_text(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    if not texts:
        raise ValueError("expected one or more texts, not []")
    return texts[0] if len(texts) == 1 else texts


def _whole_numbers(value: Any) -> list[int]:
    items = value if isinstance(value, (list, tuple)) else [value]
    words = [word for item in items for word in (item.split(",") if isinstance(item, str) else [item])]
    return [int(_number(word, whole=True)) for word in words]


def _mapping(value: Any) -> dict[str, Any]:
    try:
        mapping = read_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{short_repr(value)} is not JSON ({error})") from None
    if not isinstance(mapping, dict):
        raise ValueError(f"expected a mapping, not {short_repr(mapping)}")
    for name, item in mapping.items():
        if not isinstance(name, str) or not isinstance(item, (str, int, float, bool, types.NoneType)):
            raise ValueError(f"expected names with a number or a text each, not {short_repr(name)}: {short_repr(item)}")
    return dict(mapping)


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: _switch,
    int: partial(_number, whole=True),
    float: partial(_number, whole=False),
    str: _text,
    list[str]: _texts,
    list[int]: _whole_numbers,
    dict[str, Any]: _mapping,
}
