"""What model folders are published with and cannot be used at once, and the way out."""

from __future__ import annotations

import copy
import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from ftloop.errors import UserError, summarize
from ftloop.models.weights import base_model, is_adapter
from ftloop.system.manifest import read_json
from ftloop.system.text import join_some

CLASSIFIER = "AutoModelForSequenceClassification"
WEIGHTS_INTO_MODEL = "load_weights(model, {})"
"""For a model that is built again by the code that built it for the training."""


def sentencepiece_problem(folder: Path | None, error: BaseException) -> str | None:
    """Tell what a tokenizer lacks that is published as sentencepiece's model alone, as DeBERTa-v3's is.

    transformers takes a model that it cannot read for one of tiktoken, and asks for that. None: it is another fault.
    """
    files = [] if folder is None else [path.name for path in sorted(folder.glob("*.model")) if _is_sentencepiece(path)]
    asks_for_it = re.search("sentencepiece|protobuf|tiktoken", str(error), re.IGNORECASE)
    if not asks_for_it or (folder is not None and not files):
        return None
    what = f"is a model of sentencepiece ({files[0]})" if files else "seems to be a model of sentencepiece"
    missing = [name for name in ("sentencepiece", "protobuf") if not _is_installed(name)]
    if missing:
        return f"{what} and needs {' and '.join(missing)} to be read: pip install 'ftloop[sentencepiece]'"
    return f"{what} and cannot be read: the file is damaged" if files else None


def own_code_problem(name: str, folder: Path | None, error: BaseException, num_labels: int | None = None) -> str | None:
    """Tell what to do with a model, or a tokenizer, that is made by code which lies beside it. None: it is another
    fault, as far as is known.
    """
    auto_map = _auto_map(folder)
    is_unknown = bool(auto_map) and "does not recognize this architecture" in str(error)
    if is_unknown or "trust_remote_code" in str(error):
        return f"{name} comes with {own_code(name, auto_map, num_labels)}"
    if not auto_map:
        return None
    fault = f"{type(error).__name__}: {summarize(error)}"
    return f"{name} could not be loaded ({fault}){that_of_own_code(name, auto_map, num_labels)}"


def _auto_map(folder: Path | None) -> dict[str, Any]:
    """Return what a folder's files say of code that lies there."""
    found: dict[str, Any] = {}
    for file in () if folder is None else ("config.json", "tokenizer_config.json"):
        with suppress(UserError):
            of_file = read_json(folder / file).get("auto_map")  # type: ignore[operator]
            found |= of_file if isinstance(of_file, dict) else {"AutoTokenizer": of_file} if of_file else {}
    return found


def that_of_own_code(name: str, auto_map: Any, num_labels: int | None = None) -> str:
    """Say of files that do not fit what transformers knows that they may be for the model's own code."""
    return f"; it comes with {own_code(name, auto_map, num_labels)}" if auto_map else ""


def that_of_quantized(quantization: Any) -> str:
    """Say that a model which does not load is quantized. `quantization`: what its configuration says of it."""
    if quantization is None:
        return ""
    how = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    return f"; its weights are quantized ({getattr(how, 'value', how)}), so give the model that they were made from"


def own_code(name: str, auto_map: Any = None, num_labels: int | None = None) -> str:
    """Say in a phrase that a model needs code of its own, and how to train it and to predict with it nevertheless."""
    why = "code of its own (auto_map in its files), and ftloop runs no code that comes with a model"
    if isinstance(auto_map, dict) and "AutoConfig" in auto_map and CLASSIFIER not in auto_map:
        return f"{why}; that code has no {CLASSIFIER} either: take another model"
    labels = "" if num_labels is None else f", num_labels={num_labels}"
    return (
        f"{why}. If you trust that code, load both in Python: model = {CLASSIFIER}.from_pretrained({name!r}{labels}, "
        f"trust_remote_code=True); tokenizer = AutoTokenizer.from_pretrained({name!r}, trust_remote_code=True). Then "
        "prepare(config, model, rows, processing_class=tokenizer) begins a run, and classify(model, tokenizer, texts) "
        "predicts (docs/guides/python.md)"
    )


def loading_in_python(model: Any) -> tuple[str, str] | None:
    """Return why no command can load a saved model, or would load another in its place, and the Python that loads it
    from the folder `{}`. None: it is what its class, one of transformers, makes of its configuration.
    """
    made_by = type(base_model(model))
    package = made_by.__module__.partition(".")[0]
    why = "which is no class of transformers"
    if package == TRANSFORMERS_DYNAMIC_MODULE_NAME:
        return why, f"{CLASSIFIER}.from_pretrained({{}}, trust_remote_code=True)"
    if package != "transformers" and hasattr(made_by, "from_pretrained"):
        return why, f"{made_by.__name__}.from_pretrained({{}})"
    if package == "transformers":
        parts = [] if is_adapter(model) else own_parts(model)
        if not parts:
            return None
        why = f"whose {join_some(parts, 3)} differ from what its class makes: from_pretrained would draw others"
    return why, WEIGHTS_INTO_MODEL


def own_parts(model: Any) -> list[str]:
    """Names of the weights in which a model differs from what its class makes of its configuration: another head has
    been put into it, or layers have been left out."""
    base = base_model(model)
    with torch.device("meta"):
        made = type(base)(copy.deepcopy(base.config))
    own, plain = ({name: weight.shape for name, weight in each.named_parameters()} for each in (base, made))
    return [name for name in own | plain if own.get(name) != plain.get(name)]


def _is_sentencepiece(path: Path) -> bool:
    """Whether it begins as such a file does; one of tiktoken's is text."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\n"
    except OSError:
        return False


def _is_installed(name: str) -> bool:
    try:
        return find_spec({"protobuf": "google.protobuf"}.get(name, name)) is not None
    except ModuleNotFoundError:  # not even `google`
        return False
