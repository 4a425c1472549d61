"""The pretrained model with a new classification head, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from ftloop.data import Labels
from ftloop.errors import UserError
from ftloop.hub import local_model_folder, unavailable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def check_model(name_or_path: str | None) -> Path | None:
    """The folder of a local model, or None for a name on the hub.

    Raises: UserError when no model is named, the folder is not there, or it holds no weights.
    """
    if name_or_path is None:
        raise UserError("no model: name one with --model_name_or_path (a folder, or a name on the hub)")
    folder = local_model_folder(name_or_path)
    if folder is None:
        return None
    if not (folder / "config.json").is_file():
        raise UserError(f"model_name_or_path: {folder} is not a model folder (it has no config.json)")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise UserError(f"model_name_or_path: {folder} has no weights (none of {', '.join(WEIGHTS)})")
    return folder


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Raises: UserError when neither the folder, the hub nor the cache has it."""
    from transformers import AutoTokenizer

    folder = check_model(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder or name_or_path)
    except (OSError, ValueError) as error:
        if folder is None:
            raise unavailable(f"the tokenizer of {name_or_path}", error) from error
        raise UserError(f"model_name_or_path: {folder} has no usable tokenizer ({_first_line(error)})") from error
    # Without these files transformers makes a tokenizer that knows no word, and says nothing.
    files = list(tokenizer.vocab_files_names.values())
    if folder is not None and files and not any((folder / name).is_file() for name in ["tokenizer.json", *files]):
        raise UserError(f"model_name_or_path: {folder} has no tokenizer (none of {', '.join(files)})")
    return tokenizer


def load_model(name_or_path: str, labels: Labels) -> tuple[PreTrainedModel, list[str]]:
    """The model with a head for `labels`, in float32, and the names of the weights that are new.

    The new head is drawn from the global random generator: seed it first.
    Raises: UserError when neither the folder, the hub nor the cache has it.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = check_model(name_or_path)
    try:
        config = AutoConfig.from_pretrained(
            folder or name_or_path,
            num_labels=labels.count,
            id2label=dict(enumerate(labels.names or ("LABEL_0",))),
            label2id={name: id for id, name in enumerate(labels.names or ("LABEL_0",))},
            problem_type=None,  # that of an earlier fine-tuning; the model finds its own from the labels
        )
        # float32 whatever the file holds: half-precision training keeps float32 weights and casts in autocast.
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder or name_or_path,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head for another number of labels is replaced
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        if folder is None:
            raise unavailable(f"the model {name_or_path}", error) from error
        raise UserError(f"model_name_or_path: {folder} could not be loaded ({_first_line(error)})") from error
    replaced = [str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"]]
    return model, sorted({*report["missing_keys"], *replaced})


def longest_input(model: Any, tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int:
    """Tokens of the longest input: `wanted`, or the limit of the tokenizer or of the model, whichever is less.

    Raises: UserError when `wanted` is beyond the limit, or there is neither.
    """
    unlimited = 10**9  # tokenizers without a limit carry 1e30
    limits = [limit for limit in (tokenizer.model_max_length, _positions(model)) if limit is not None]
    limit = min((int(limit) for limit in limits if limit < unlimited), default=None)
    if wanted is not None:
        if limit is not None and wanted > limit:
            raise UserError(f"max_seq_length: {wanted} is longer than the {limit} tokens the model can take")
        return wanted
    if limit is None:
        raise UserError("max_seq_length: this tokenizer has no limit of its own; give one")
    return limit


def _positions(model: Any) -> int | None:
    """Positions the model knows. RoBERTa's count from behind the padding id, so two of its 514 are never used."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - unused
    return getattr(model.config, "max_position_embeddings", None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
