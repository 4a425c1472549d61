"""What a folder that was given as a model is, and the way out where it is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ftloop.errors import UserError
from ftloop.models.weights import ADAPTER_CONFIG, holds_adapter
from ftloop.system.hub import local_model_folder
from ftloop.system.manifest import read_json
from ftloop.system.shell import quote

FLAG = "model_name_or_path"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MODULES = "modules.json"
"""What sentence-transformers puts together to a model, in order."""

_WANTED = "a model folder holds config.json, the weights (model.safetensors) and the tokenizer"
_OTHER_FORMS = (
    (("*.onnx", "onnx/*.onnx"), "the model for ONNX alone", "which cannot be trained or read here"),
    (("openvino_model.*",), "the model for OpenVINO alone", "which cannot be trained or read here"),
    (("*.gguf",), "the model for llama.cpp alone", "which is no classifier"),
    (
        ("tf_model*.h5", "*.ckpt.index", "model.ckpt*", "saved_model.pb"),
        "weights of TensorFlow alone",
        "which transformers 4 converts where TensorFlow is installed too (from_pretrained(..., from_tf=True))",
    ),
    (
        ("flax_model*.msgpack",),
        "weights of Flax alone",
        "which transformers 4 converts where Flax is installed too (from_pretrained(..., from_flax=True))",
    ),
)
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer_config.json", "*.model")
_DATA = ("*.csv", "*.tsv", "*.jsonl", "*.parquet", "*.arrow", "dataset_info.json", "dataset_dict.json")


@contextmanager
def naming(flag: str) -> Iterator[None]:
    """Have errors name `flag` where the model is given by another name than that of training."""
    try:
        yield
    except UserError as error:
        problems = (re.sub(rf"^({FLAG}|model_dir): ", f"{flag}: ", problem) for problem in error.problems)
        raise UserError(*problems) from error.__cause__


def model_in(folder: Path, adapters: bool = False) -> Path:
    """Return the folder that the model lies in: this one, or the transformer's own within one of sentence-transformers.
    `adapters`: a PEFT adapter will do.

    Raises: UserError that says what the folder is instead, and what to give.
    """
    if holds_adapter(folder):
        if not adapters:
            raise _is_adapter(folder)
        return folder
    if holds_model(folder):
        return folder
    if (folder / MODULES).is_file() and (within := _transformer(folder)) is not None:
        return within
    raise UserError(f"{FLAG}: {_what_else(folder)}")


def place_of_model(name_or_path: str) -> str:
    """Say in a phrase where the model lies, where that is not the folder that was given; empty elsewhere."""
    given = local_model_folder(name_or_path)
    place = None if given is None else model_in(given, adapters=True)
    return f"the transformer in {place}: {given} is a folder of sentence-transformers" if place != given else ""


def holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS)


def _transformer(folder: Path) -> Path | None:
    """The first module that is a whole model of transformers; the others pool what it gives, or scale it."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        places = [folder / each["path"] for each in modules]
        return next((place for place in places if holds_model(place)), None)
    return None


def _is_adapter(folder: Path) -> UserError:
    base = "its base model"
    with suppress(UserError):
        base = (
            f"its base model, {read_json(folder / ADAPTER_CONFIG).get('base_model_name_or_path') or 'not named there'}"
        )
    return UserError(
        f"{FLAG}: {folder} holds a PEFT adapter, not a whole model. Train {base}, with --lora_r for a new "
        "adapter; or train on from a merged copy, which this Python writes: "
        f"from ftloop import load_classifier; load_classifier({str(folder)!r}).save('merged')"
    )


def _what_else(folder: Path) -> str:
    """Say what a folder without a model is, and the way out."""
    checkpoints = [each for each in _within(folder, "checkpoint-*") if re.fullmatch(r"checkpoint-\d+", each.name)]
    if checkpoints:
        newest = max(checkpoints, key=lambda each: int(each.name.rpartition("-")[2]))
        return f"{folder} is the folder of a run, and holds no model itself; give its newest checkpoint, {newest}"
    if (folder / MODULES).is_file():
        return f"{folder} is a folder of sentence-transformers, and no module in it is a model of transformers"
    models = [*_within(folder, "*"), *_within(folder, "snapshots/*")]
    if models:
        some = ", ".join(map(str, models[:3]))
        return f"{folder} is no model itself, and holds {'one' if len(models) == 1 else 'several'}; give {some}"
    for patterns, what, why in _OTHER_FORMS:
        if found := _first(folder, patterns):
            source = _name_in_config(folder)
            way = f"the model that it was made from{f', {source}' if source else ''}, or one with {WEIGHTS[0]}"
            return f"{folder} holds {what} ({found}), {why}; give {way}"
    if (folder / "config.json").is_file():
        return f"{folder} has no weights (none of {', '.join(WEIGHTS)}); add them, or give a folder that has them"
    if old := _first(folder, [f"{kind}_config.json" for kind in ("bert", "albert", "electra", "xlnet")]):
        kind = old.removesuffix("_config.json")
        return f'{folder} has {old} and no config.json; rename it, and write "model_type": "{kind}" into it'
    if any((folder / name).is_file() for name in WEIGHTS):
        return (
            f"{folder} is not a model folder (it has no config.json); copy that of the model which was trained there, "
            "with AutoConfig.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    if found := _first(folder, TOKENIZERS):
        return f"{folder} holds a tokenizer ({found}) and no model; {_WANTED}"
    if found := _first(folder, _DATA):
        return f"{folder} holds data ({found}) and no model; {_WANTED}"
    return f"{folder} is not a model folder (it has no config.json); {_WANTED}"


def lacks_model_type(folder: Path) -> bool:
    """Whether a folder's configuration does not say what the model is, as it did before transformers had many."""
    with suppress(UserError):
        return "model_type" not in read_json(folder / "config.json")
    return False


def _within(folder: Path, pattern: str) -> list[Path]:
    return [
        each for each in sorted(folder.glob(pattern)) if each.is_dir() and (holds_model(each) or holds_adapter(each))
    ]


def _first(folder: Path, patterns: Iterable[str]) -> str | None:
    found = (path.relative_to(folder) for pattern in patterns for path in sorted(folder.glob(pattern)))
    return next(map(str, found), None)


def no_tokenizer(folder: Path, files: Iterable[str], in_training: bool) -> UserError:
    """Return the error for a model without any of its tokenizer's `files`, as in the checkpoints of a Trainer that was
    not given the tokenizer. `in_training`: where a flag can name another."""
    beside, named = _first(folder.parent, files) is not None, _name_in_config(folder)
    source = str(folder.parent) if beside else named or "THAT_MODEL"
    where = f" (they lie in {source})" if beside else f" ({source}, says its config.json)" if named else ""
    flag = f"Give --tokenizer_name {quote(source)}, or copy" if in_training else "Copy"
    return UserError(
        f"{FLAG}: {folder} has no tokenizer (none of {', '.join(files)}). {flag} there those files of the model "
        f"that was trained{where}, or save them with this Python: from transformers import AutoTokenizer; "
        f"AutoTokenizer.from_pretrained({source!r}).save_pretrained({str(folder)!r})"
    )


def tokenizer_in(name_or_path: str) -> Path | None:
    """Return the folder of a tokenizer, which need hold no model, or None for a name on the hub. Raises: UserError."""
    folder = local_model_folder(name_or_path, "tokenizer_name")
    if folder is None or not lacks_tokenizer(folder):
        return folder
    if (folder / MODULES).is_file() and (within := _transformer(folder)) is not None:
        return within
    raise UserError(f"tokenizer_name: {folder} holds no tokenizer (none of {', '.join(TOKENIZERS)})")


def lacks_tokenizer(folder: Path) -> bool:
    return _first(folder, TOKENIZERS) is None


def _name_in_config(folder: Path) -> str | None:
    """The model that this one was made from, where its config.json names it, and not itself."""
    with suppress(UserError):
        name: Any = read_json(folder / "config.json").get("_name_or_path")
        if isinstance(name, str) and name and Path(name) != folder:
            return name
    return None
