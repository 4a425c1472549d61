"""Load the pretrained model with a new classification head, and its tokenizer."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.cache import cached, dataset_key
from ftloop.data.labels import Labels
from ftloop.data.scan import largest_number
from ftloop.errors import UserError, summarize
from ftloop.models.damage import check_files
from ftloop.models.folder import lacks_model_type, lacks_tokenizer, model_in, no_tokenizer, tokenizer_in
from ftloop.models.match import added_tokens, embedding_sizes, example, set_padding_token
from ftloop.models.published import own_code_problem, sentencepiece_problem, that_of_own_code, that_of_quantized
from ftloop.models.weights import is_adapter, saved_config
from ftloop.system.console import say
from ftloop.system.hub import local_model_folder, unavailable
from ftloop.system.panics import panics_told
from ftloop.system.row_numbers import row_numbers
from ftloop.system.text import join_some, short_repr

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_model(name_or_path: str | None, adapters: bool = False) -> Path | None:
    """Return the folder of a local model, or None for a name on the hub. `adapters`: a folder with one will do.

    Raises: UserError when no model is named, the folder is not there, or it holds no model.
    """
    if name_or_path is None:
        raise UserError(
            "no model: name one with --model_name_or_path (a folder, or a name on the hub), or start from a recipe"
        )
    folder = local_model_folder(name_or_path)
    if folder is None:
        return None
    return model_in(folder, adapters)


def _load(
    auto_class: Any, name_or_path: str, what: str, adapters: bool = False, is_apart: bool = False, **settings: Any
) -> Any:
    """Call `from_pretrained` for a folder or a name on the hub, so that nothing that lies there is run.

    `trust_remote_code=False`: without it, transformers asks on the console whether to run the code that a `config.json`
    names. Weights are read from safetensors; where there are only `.bin` files, with `weights_only`, so that a pickle
    in one of them can make tensors and nothing else.
    Raises: UserError, whatever a library has stumbled over there.
    """
    folder = tokenizer_in(name_or_path) if is_apart else check_model(name_or_path, adapters)
    if folder is not None and auto_class is not AutoConfig:
        check_files(folder, weights=auto_class is not AutoTokenizer)
    try:
        return auto_class.from_pretrained(folder or name_or_path, trust_remote_code=False, **settings)
    except Exception as error:
        if auto_class is AutoTokenizer and (problem := sentencepiece_problem(folder, error)):
            raise UserError(f"model_name_or_path: the tokenizer of {folder or name_or_path} {problem}") from error
        if auto_class is AutoTokenizer and folder is not None and lacks_tokenizer(folder):
            raise no_tokenizer(folder, ["tokenizer.json", "vocab.txt"], in_training=not adapters) from error
        if problem := own_code_problem(str(folder or name_or_path), folder, error, settings.get("num_labels")):
            raise UserError(f"model_name_or_path: {problem}") from error
        if folder is None:
            raise unavailable(f"{what} {name_or_path}", error) from error
        if lacks_model_type(folder):
            raise UserError(
                f"model_name_or_path: {folder / 'config.json'} has no model_type, by which transformers knows what the "
                'model is; write it there, such as "model_type": "bert"'
            ) from error
        fault = f"({type(error).__name__}: {summarize(error)})"
        with suppress(UserError):  # not readable, and that was the fault
            fault += that_of_quantized(saved_config(folder).get("quantization_config"))
        raise UserError(f"model_name_or_path: {what} {folder} could not be loaded {fault}") from error


def load_tokenizer(name_or_path: str, adapters: bool = False, model_config: Any = None) -> PreTrainedTokenizerBase:
    """Load it; it pads with its end token where it has no padding token of its own. `adapters`: also that of a folder
    which holds a PEFT adapter. `model_config`: of the model that a tokenizer is for which lies apart from it.

    Raises: UserError when neither the folder, the hub nor the cache has it, or it cannot pad.
    """
    is_apart = model_config is not None
    folder = tokenizer_in(name_or_path) if is_apart else check_model(name_or_path, adapters)
    # Tells what the files are, where they do not say so. Of the hub, transformers would make do with it and no files.
    settings = {"config": model_config} if is_apart and folder is not None else {}
    with panics_told(folder or name_or_path):
        tokenizer: PreTrainedTokenizerBase = _load(
            AutoTokenizer, name_or_path, "the tokenizer of", adapters, is_apart, **settings
        )
        try:
            int(tokenizer.model_max_length)
            # Not by a call of the tokenizer, which would leave its mark in what `save_pretrained` writes.
            encode = tokenizer.backend_tokenizer.encode if tokenizer.is_fast else tokenizer
            encode("a text")
            encode("a text", "another")
        except Exception as error:
            fault = f"{type(error).__name__}: {summarize(error)}"
            raise UserError(f"model_name_or_path: the tokenizer of {folder or name_or_path} fails ({fault})") from error
    # Without these files transformers makes a tokenizer that knows no word, and says nothing.
    files = list(tokenizer.vocab_files_names.values())
    if folder is not None and files and not any((folder / name).is_file() for name in ["tokenizer.json", *files]):
        raise no_tokenizer(folder, files, in_training=not adapters)
    if files and len(tokenizer) <= len(tokenizer.all_special_tokens):
        way = "" if adapters else "; name that of another model with --tokenizer_name"
        raise UserError(f"model_name_or_path: the tokenizer of {folder or name_or_path} knows no word{way}")
    set_padding_token(tokenizer, str(folder or name_or_path))
    return tokenizer


def load_model(
    name_or_path: str, labels: Labels, train_config: TrainConfig | None = None
) -> tuple[PreTrainedModel, list[str]]:
    """Load the model with a head for `labels`, in float32, with the dropout that `train_config` asks for.

    Returns: the model and the names of the weights that are new.

    The new head is drawn from the global random generator: seed it first.
    Raises: UserError when neither the folder, the hub nor the cache has it, more than the head would be new, or it is
    quantized and no adapter is asked for.
    """
    config = _load(
        AutoConfig,
        name_or_path,
        "the configuration of",
        num_labels=labels.count,
        id2label=dict(enumerate(labels.names or ("LABEL_0",))),
        label2id={name: id for id, name in enumerate(labels.names or ("LABEL_0",))},
        # Not that of an earlier fine-tuning; elsewhere the model finds its own from the labels.
        problem_type=ProblemType.MULTI_LABEL.value if labels.multi_label else None,
    )
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None and (train_config is None or train_config.lora_r is None):
        fault = f"{name_or_path} cannot be trained as a whole{that_of_quantized(quantization)}"
        raise UserError(f"model_name_or_path: {fault}")
    for name, value in dropout_settings(train_config, config).items():
        setattr(config, name, value)
    # A head for another number of labels is replaced.
    model, new = load_weights(name_or_path, config=config, ignore_mismatched_sizes=True)
    if sys.platform == "win32":  # which replaces no file that is mapped into memory, and output_dir may be its folder
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    taken = head_of_another_task(model, config.architectures, new)
    if taken:
        say(
            "Head", f"{name_or_path} is a {config.architectures[0]}: its head, of another task, makes way for a new one"
        )
        _draw_anew(model, taken)
        new = sorted([*new, *taken])
    body = f"{model.base_model_prefix}."
    # A pooler is part of no pretraining without a next sentence.
    lost = [name for name in new if name.startswith(body) and ".pooler." not in name]
    if lost:
        raise UserError(
            f"model_name_or_path: the weights of {name_or_path} are not those of its config.json: "
            f"{lost[0]}{f' and {len(lost) - 1} others' if len(lost) > 1 else ''} would be randomly initialised"
            f"{that_of_own_code(name_or_path, getattr(config, 'auto_map', None), labels.count)}"
        )
    return model, new


WRAPPED = r"^(?:(?:module|_orig_mod)\.)+"
"""Before the names of weights that were saved from a module within (Distributed)DataParallel or torch.compile."""

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
    """Return `classifier_dropout` and `hidden_dropout` under the names that the architecture has for them.

    Raises: UserError where it has none.
    """
    settings: dict[str, float] = {}
    problems = []
    family = getattr(model_config, "model_type", None) or type(model_config).__name__
    if config is not None and config.classifier_dropout is not None:
        name = next((name for name in _CLASSIFIER_DROPOUT if hasattr(model_config, name)), None)
        if family in ("deberta", "deberta-v2"):
            name = "cls_dropout"  # read where it is there, and not in the configuration by default
        if name is None or family in ("gpt_neo", "gpt_neox"):  # whose head reads none
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
    """Load the model in float32, and return the names of the weights that are new. Raises: UserError if it fails."""
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
    if any(re.match(WRAPPED, name) for name in report["unexpected_keys"]) and "key_mapping" not in settings:
        model, new = load_weights(name_or_path, key_mapping={WRAPPED: ""}, **settings)
        # Transformers would save the model under these names again, and not find them the next time.
        used = getattr(model, "_weight_conversions", None) or []
        model._weight_conversions = [each for each in used if WRAPPED not in each.source_patterns]
        return model, new
    replaced = [str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"]]
    return model, sorted({*report["missing_keys"], *replaced})


def head_of_another_task(
    model: PreTrainedModel, architectures: Sequence[str] | None, new_weights: Collection[str]
) -> list[str]:
    """Return those weights of the last layer that were loaded only because they have the same names and shapes in the
    class that a model was saved as, the first of its `architectures`, as a tagger's have.
    """
    body, width = f"{model.base_model_prefix}.", model.config.num_labels
    last = [name for name, weight in model.named_parameters() if weight.shape[:1] == (width,)]
    last = [name for name in last if not name.startswith(body) and name not in new_weights]
    saved = architectures[0] if isinstance(architectures, list) and architectures else None
    if not last or not isinstance(saved, str) or not re.search(r"For(?!SequenceClassification)[A-Z]\w+$", saved):
        return []
    other: Any = getattr(transformers, saved, None)
    if getattr(other, "config_class", None) is not type(model.config):  # somebody's own class, or of another family
        return []
    with torch.device("meta"):
        names = {name for name, _ in other(copy.deepcopy(model.config)).named_parameters()}
    return [name for name in last if name in names]


def _draw_anew(model: PreTrainedModel, names: Collection[str]) -> None:
    """Initialise weights that were loaded as transformers does those that are missing."""
    for name in names:
        model.get_parameter(name)._is_hf_initialized = False  # type: ignore[attr-defined]  # by which it knows them
    for module in dict.fromkeys(name.rpartition(".")[0] for name in names):
        model._init_weights(model.get_submodule(module))


def embed_added_tokens(
    config: TrainConfig, model: Any, tokenizer: PreTrainedTokenizerBase, encoded: Mapping[str, Dataset], samples: Any
) -> str:
    """Give the model embeddings for tokens that were added to its tokenizer alone, where rows or samples hold some. As
    transformers draws them: about the mean of the others.

    Returns: what is to be said of it, if anything.
    Raises: UserError for an adapter, which would train none of them.
    """
    vocabulary, _ = embedding_sizes(model)
    largest = max((largest_number(rows, "input_ids") for rows in encoded.values()), default=0)
    for texts in samples:
        largest = max(largest, *example(model, tokenizer, [texts] if isinstance(texts, str) else texts)["input_ids"], 0)
    if max(largest, tokenizer.pad_token_id) < vocabulary:
        return ""
    tokens = added_tokens(model, tokenizer)
    if not tokens:
        return ""  # `check_token_ids` says what is wrong
    which = f"{join_some(tokens, 6)}, added to the tokenizer and not to the model's {vocabulary} embeddings"
    if is_adapter(model) and largest < vocabulary:
        raise UserError(
            f"lora_r: batches are padded with {tokenizer.pad_token}, added to the tokenizer and not to the model's "
            f"{vocabulary} embeddings, of which an adapter trains none; name one of the model's own tokens as "
            '"pad_token" in tokenizer_config.json'
        )
    if is_adapter(model):
        raise UserError(f"lora_r: the rows hold {which}, which an adapter does not train; train without --lora_r")
    model.resize_token_embeddings(len(tokenizer))
    return f"{which}: {len(tokens)} more are drawn, {'and frozen' if config.freeze_embeddings else 'to be learned'}"


def check_token_ids(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Mapping[str, Dataset],
    texts: Mapping[str, Dataset] | None = None,
) -> None:
    """`texts`: the columns of text of the same sets, to quote them.

    Raises: UserError when a row has no token, or a token or token type that the model does not know: an index error
    in mid-training, and on a GPU one that does not say so.
    """
    vocabulary, types = embedding_sizes(model)
    for name, rows in encoded.items():
        empty = cached(dataset_key(rows), "first row without tokens", partial(_first_without_tokens, rows))
        if empty:
            row = f"the {name} set, row {row_numbers(rows, [empty - 1])[0]}: no tokens"
            texts_of_row = [str(text) for text in texts[name][empty - 1].values()] if texts else []
            if any(text.strip() for text in texts_of_row):
                quoted = ", ".join(map(short_repr, texts_of_row))
                way = "leave the row out of the file, or take a model whose tokenizer knows such characters"
                raise UserError(f"{row}; this model's tokenizer makes none of its text {quoted}: {way}")
            way = "leave such rows out with --drop_empty_texts"
            raise UserError(f"{row}; its text is empty, and this model's tokenizer adds none of its own; {way}")
        largest = max(largest_number(rows, "input_ids"), tokenizer.pad_token_id)
        if largest >= vocabulary:
            raise UserError(
                f"model_name_or_path: the tokenizer gives the {name} set token {largest}, and the model knows only "
                f"{vocabulary}; they do not belong together: take the tokenizer that belongs to the model"
            )
        if (largest := largest_number(rows, "token_type_ids")) >= types:
            raise UserError(
                f"model_name_or_path: the tokenizer gives the {name} set token type {largest}, and the model knows "
                f"only {types}; take the tokenizer that belongs to the model, or have this one give none, with "
                '"model_input_names": ["input_ids", "attention_mask"] in its tokenizer_config.json'
            )


def _first_without_tokens(rows: Dataset) -> int:
    """Return its number, counted from 1; 0 where there is none."""
    lengths = pc.list_value_length(rows.with_format("arrow")[:]["input_ids"])
    return int(pc.index(lengths, pa.scalar(0, lengths.type)).as_py()) + 1


def longest_input(model: Any, tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int:
    """Return the tokens of the longest input: `wanted`, or the limit of the tokenizer or of the model, if that is less.

    Raises: UserError when `wanted` is beyond the limit, or there is neither.
    """
    limit = input_limit(model, tokenizer)
    if wanted is not None:
        if limit is not None and wanted > limit:
            raise UserError(f"max_seq_length: {wanted} is longer than the {limit} tokens the model can take")
        return wanted
    if limit is None:
        raise UserError("max_seq_length: this tokenizer has no limit of its own; give one")
    return limit


def input_limit(model: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the limit of the tokenizer or of the model, in tokens, whichever is less; None where neither has one."""
    unlimited = 10**9  # tokenizers without a limit carry 1e30
    limits = [
        limit for limit in (tokenizer.model_max_length, count_positions(model)) if isinstance(limit, (int, float))
    ]
    return min((int(limit) for limit in limits if 1 <= limit < unlimited), default=None)


def position_table(model: Any) -> Any:
    """Return the embedding of positions, beyond which a model cannot go; None where it has no such limit."""
    named = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    return next((module for module in named if hasattr(module, "num_embeddings")), None)


def count_positions(model: Any) -> int | None:
    """Count the model's positions. RoBERTa's begin behind the padding id, so two of its 514 are never used."""
    table = position_table(model)
    if table is not None:
        return int(table.num_embeddings) - (0 if table.padding_idx is None else table.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)  # -1 for XLNet, which has no limit


def load_config(name_or_path: str) -> Any:
    """Return a model's configuration as it was saved. Raises: UserError when folder, hub and cache have none."""
    return _load(AutoConfig, name_or_path, "the configuration of")


def load_shape(name_or_path: str) -> PreTrainedModel:
    """Make a model of that configuration without weights, on torch's meta device: it has a shape, and computes nothing.

    Raises: UserError when neither the folder, the hub nor the cache has the configuration.
    """
    config = load_config(name_or_path)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model
