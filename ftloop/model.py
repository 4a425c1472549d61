"""The pretrained model with a new classification head, and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.config import TrainConfig
from ftloop.data import Labels
from ftloop.errors import UserError, first_line
from ftloop.facts import known, rows_of
from ftloop.hub import local_model_folder, unavailable

if TYPE_CHECKING:
    from datasets import Dataset
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
        raise UserError(
            "no model: name one with --model_name_or_path (a folder, or a name on the hub), or start from a recipe"
        )
    folder = local_model_folder(name_or_path)
    if folder is None:
        return None
    if not (folder / "config.json").is_file():
        raise UserError(f"model_name_or_path: {folder} is not a model folder (it has no config.json)")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise UserError(f"model_name_or_path: {folder} has no weights (none of {', '.join(WEIGHTS)})")
    return folder


def _load(auto_class: Any, name_or_path: str, what: str, **settings: Any) -> Any:
    """`from_pretrained` of a folder or of the hub, which runs nothing that lies there.

    `trust_remote_code=False`: without it, transformers asks on the console whether to run the code that a `config.json`
    names. Weights are read from safetensors; where there are only `.bin` files, with `weights_only`, so that a pickle
    in one of them can make tensors and nothing else.
    Raises: UserError, whatever it is that a file there has made a library stumble over.
    """
    folder = check_model(name_or_path)
    try:
        return auto_class.from_pretrained(folder or name_or_path, trust_remote_code=False, **settings)
    except Exception as error:
        if folder is None:
            raise unavailable(f"{what} {name_or_path}", error) from error
        fault = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"model_name_or_path: {what} {folder} could not be loaded ({fault})") from error


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Raises: UserError when neither the folder, the hub nor the cache has it, or it cannot pad."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer, name_or_path, "the tokenizer of")
    folder = check_model(name_or_path)
    try:
        int(tokenizer.model_max_length)
        # Not by a call of the tokenizer, which would leave its mark in what `save_pretrained` writes.
        (tokenizer.backend_tokenizer.encode if tokenizer.is_fast else tokenizer)("a text", "another")
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        fault = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"model_name_or_path: the tokenizer of {folder or name_or_path} fails ({fault})") from error
    # Without these files transformers makes a tokenizer that knows no word, and says nothing.
    files = list(tokenizer.vocab_files_names.values())
    if folder is not None and files and not any((folder / name).is_file() for name in ["tokenizer.json", *files]):
        raise UserError(f"model_name_or_path: {folder} has no tokenizer (none of {', '.join(files)})")
    if tokenizer.pad_token is None:
        raise UserError(f"model_name_or_path: the tokenizer of {folder or name_or_path} has no padding token; set one")
    return tokenizer


def load_model(
    name_or_path: str, labels: Labels, train_config: TrainConfig | None = None
) -> tuple[PreTrainedModel, list[str]]:
    """The model with a head for `labels`, in float32, and the names of the weights that are new; with the dropout that
    `train_config` asks for.

    The new head is drawn from the global random generator: seed it first.
    Raises: UserError when neither the folder, the hub nor the cache has it, or more than the head would be new.
    """
    from transformers import AutoConfig

    config = _load(
        AutoConfig,
        name_or_path,
        "the configuration of",
        num_labels=labels.count,
        id2label=dict(enumerate(labels.names or ("LABEL_0",))),
        label2id={name: id for id, name in enumerate(labels.names or ("LABEL_0",))},
        # Not that of an earlier fine-tuning; elsewhere the model finds its own from the labels.
        problem_type="multi_label_classification" if labels.multi_label else None,
    )
    for name, value in dropout_settings(train_config, config).items():
        setattr(config, name, value)
    # A head for another number of labels is replaced.
    model, new = load_weights(name_or_path, config=config, ignore_mismatched_sizes=True)
    body = f"{model.base_model_prefix}."
    # A pooler is part of no pretraining without a next sentence.
    lost = [name for name in new if name.startswith(body) and ".pooler." not in name]
    if lost:
        raise UserError(
            f"model_name_or_path: the weights of {name_or_path} are not those of its config.json: "
            f"{lost[0]}{f' and {len(lost) - 1} others' if len(lost) > 1 else ''} would be drawn at random"
        )
    return model, new


# What the architectures call them in their configuration; the first that is there is taken.
_CLASSIFIER_DROPOUT = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "summary_last_dropout")
_HIDDEN_DROPOUT = (
    ("hidden_dropout_prob",),
    ("hidden_dropout",),
    ("embedding_dropout", "mlp_dropout"),  # ModernBERT
    ("resid_pdrop", "embd_pdrop"),  # GPT-2
    ("dropout",),  # DistilBERT, BART, XLNet
    ("dropout_rate",),  # T5
)


def dropout_settings(config: TrainConfig | None, model_config: Any) -> dict[str, float]:
    """`classifier_dropout` and `hidden_dropout` under the names that the architecture has for them.

    Raises: UserError where it has none.
    """
    settings: dict[str, float] = {}
    problems = []
    family = getattr(model_config, "model_type", None) or type(model_config).__name__
    if config is not None and config.classifier_dropout is not None:
        name = next((name for name in _CLASSIFIER_DROPOUT if hasattr(model_config, name)), None)
        if family in ("deberta", "deberta-v2"):
            name = "cls_dropout"  # read where it is there, and not in the configuration by default
        if name is None:
            problems.append(f"classifier_dropout: {family} has no such setting; leave it out")
        else:
            settings[name] = config.classifier_dropout
    if config is not None and config.hidden_dropout is not None:
        names = next((names for names in _HIDDEN_DROPOUT if all(hasattr(model_config, n) for n in names)), None)
        if names is None:
            problems.append(f"hidden_dropout: {family} has no such setting; leave it out")
        else:
            settings |= dict.fromkeys(names, config.hidden_dropout)
    if problems:
        raise UserError(*problems)
    return settings


def load_weights(name_or_path: str, **settings: Any) -> tuple[PreTrainedModel, list[str]]:
    """The model, in float32, and the names of the weights that are new. Raises: UserError when it cannot be loaded."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model, report = _load(
        AutoModelForSequenceClassification,
        name_or_path,
        "the model",
        # float32 whatever the file holds: half-precision training keeps float32 weights and casts in autocast.
        dtype=torch.float32,
        weights_only=True,
        output_loading_info=True,
        **settings,
    )
    replaced = [str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"]]
    return model, sorted({*report["missing_keys"], *replaced})


def check_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase, encoded: Mapping[str, Dataset]) -> None:
    """Raises: UserError when a row holds a token that the model does not know: an index error in mid-training, and on a
    GPU one that does not say so."""
    vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", None)
    for name, rows in encoded.items():
        largest = max(known(rows_of(rows), "largest token", partial(_largest_token, rows)), tokenizer.pad_token_id)
        if vocabulary is not None and largest >= vocabulary:
            raise UserError(
                f"model_name_or_path: the tokenizer gives the {name} set token {largest}, and the model knows only "
                f"{vocabulary}; they do not belong together"
            )


def _largest_token(rows: Dataset) -> int:
    import pyarrow.compute as pc

    return int(pc.max(pc.list_flatten(rows.with_format("arrow")[:]["input_ids"])).as_py() or 0)


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


def load_shape(name_or_path: str) -> PreTrainedModel:
    """A model of that configuration without weights, on torch's meta device: it has a shape, and computes nothing.

    Raises: UserError when neither the folder, the hub nor the cache has the configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = _load(AutoConfig, name_or_path, "the configuration of")
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model
