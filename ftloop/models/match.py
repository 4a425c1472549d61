"""Make a tokenizer and a model go together: the padding token, the side to pad on, and rows that the model can take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftloop.errors import UserError, summarize
from ftloop.models.published import that_of_quantized
from ftloop.models.weights import base_model
from ftloop.system.panics import panics_told

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLES = (("A text of a few words.", "And another one, which is longer than the first."), ("A b", "A b c d"))
"""A short text and a longer one; others where rows of so many tokens are not wanted."""
SIDES = {"left": "right", "right": "left"}


def set_padding_token(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Pad with the end token where there is no padding token. Raises: UserError where there is no end token either."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"model_name_or_path: the tokenizer of {name} has no padding token, and no end token to pad with; "
                'name one of its tokens as "pad_token" in its tokenizer_config.json'
            )
        tokenizer.pad_token = tokenizer.eos_token


def set_side(tokenizer: PreTrainedTokenizerBase, **side: str) -> None:
    """Set `padding_side` or `truncation_side` so that it is saved too, which an attribute alone is not."""
    tokenizer.init_kwargs = tokenizer.init_kwargs | side  # a new one: a copy of a tokenizer shares it
    for name, value in side.items():
        setattr(tokenizer, name, value)


def align_special_tokens(model_config: Any, tokenizer: Any) -> None:
    """Give the model's configuration the tokenizer's special tokens; where it lists several end tokens, one more.

    Mirrors: align_special_tokens (transformers.trainer_utils).
    """
    config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        token, known = getattr(tokenizer, name, None), getattr(config, name, None)
        if isinstance(known, list) and name == "eos_token_id":
            token = None if token is None or token in known else [token, *known]
        if token is not None:
            setattr(config, name, token)


def match(model: Any, tokenizer: PreTrainedTokenizerBase, name: str, max_length: int, pair: bool = False) -> list[str]:
    """See to it that the company a row has in its batch changes no more than the last digits of what is said of it.

    GPT-2 counts positions from the first token, padding or not, and BERT reads the first token: both want padding on
    the right. XLNet reads the last token, and wants it on the left. So a short row is tried, alone and beside a longer
    one, padded on the tokenizer's side and where that will not do on the other, which then becomes the tokenizer's. The
    random state is left as it is.

    `pair`: whether rows are pairs of texts. `max_length`: of the longest row, in tokens.
    Returns: what is to be told of padding, a sentence each.
    Raises: UserError for a model that cannot take what the tokenizer gives.
    """
    align_special_tokens(model.config, tokenizer)
    told = []
    if tokenizer.pad_token is not None and tokenizer.pad_token == tokenizer.eos_token:
        told.append(f"with the end token {tokenizer.pad_token}, as the tokenizer has no padding token of its own")
    short, long = _examples(model, tokenizer, max_length, pair)
    filled = long | {"input_ids": [*long.get("input_ids", []), tokenizer.pad_token_id]} if long else long
    if not all(_is_known(model, row) for row in (short, filled)):  # it is said of the rows that hold it
        return told
    _check_end_token(model, tokenizer, short["input_ids"], name)
    side = tokenizer.padding_side
    try:
        with _evaluating(model):
            alone = _logits(model, [short])
            if not _is_same(alone, _logits(model, [_padded(short, long, tokenizer, side), long])):
                if _is_same(alone, _logits(model, [_padded(short, long, tokenizer, SIDES[side]), long])):
                    set_side(tokenizer, padding_side=SIDES[side])
                    told.append(f"on the {SIDES[side]}: on the {side}, as the tokenizer does, it changes the answers")
                else:
                    told.append("changes what this model answers: the rows that share a batch are not independent")
    except Exception as error:
        fault = f"{type(error).__name__}: {summarize(error)}"
        fault = f"({fault}){that_of_quantized(getattr(model.config, 'quantization_config', None))}"
        message = f"model_name_or_path: the model cannot take what the tokenizer of {name} gives {fault}"
        raise UserError(message) from error
    return told


Row = dict[str, list[int]]


def _examples(model: Any, tokenizer: Any, max_length: int, pair: bool) -> tuple[Row, Row]:
    """Return a row and a longer one, which have no token where none are short enough."""
    for texts in EXAMPLES:
        short, long = (example(model, tokenizer, (text, text) if pair else (text,)) for text in texts)
        if len(short["input_ids"]) < len(long["input_ids"]) <= max_length:
            return short, long
    return {}, {}


def example(model: Any, tokenizer: Any, texts: Sequence[str]) -> Row:
    """Return the model's inputs for one row. Not by a call of a fast tokenizer, which would leave its mark in what
    `save_pretrained` writes.
    """
    if tokenizer.is_fast:
        with panics_told(tokenizer):
            encoding = tokenizer.backend_tokenizer.encode(*texts)
        kept = [index for index, is_token in enumerate(encoding.attention_mask) if is_token]  # some come padded
        every = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        row = {name: [ids[index] for index in kept] for name, ids in every.items() if _gives(tokenizer, name)}
    else:
        row = {name: list(ids) for name, ids in tokenizer(*texts).items()}
    row["attention_mask"] = [1] * len(row["input_ids"])
    taken = inspect.signature(base_model(model).forward).parameters
    return {name: ids for name, ids in row.items() if name in taken}


def takes(model: Any, name: str) -> bool:
    """Whether a model's `forward` has an argument of that name; one of the user's own often has few."""
    arguments = inspect.signature(base_model(model).forward).parameters
    return name in arguments or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in arguments.values())


def _gives(tokenizer: Any, name: str) -> bool:
    return name == "input_ids" or name in tokenizer.model_input_names


def _is_known(model: Any, row: Row) -> bool:
    """Whether the model has an embedding for each token and token type; a row without tokens is none to try."""
    vocabulary, types = embedding_sizes(model)
    tokens, token_types = row.get("input_ids", []), row.get("token_type_ids", [])
    return bool(tokens) and max(tokens) < vocabulary and max(token_types, default=0) < types


def embedding_sizes(model: Any) -> tuple[float, float]:
    """Return how many tokens and token types the model knows; infinite where it has no limit, or does not take them."""
    try:
        vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", math.inf)
    except (NotImplementedError, AttributeError):  # CANINE has no table of tokens; a class of the user's own says none
        vocabulary = math.inf
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        return vocabulary, math.inf
    tables = [module for path, module in model.named_modules() if path.endswith("token_type_embeddings")]
    return vocabulary, min((getattr(table, "num_embeddings", math.inf) for table in tables), default=math.inf)


def added_tokens(model: Any, tokenizer: Any) -> list[str]:
    """Return the tokens that were added to the tokenizer and for which the model has no embedding, by id; empty where
    the tokenizer's own vocabulary goes beyond the model's."""
    names = {id: token for token, id in tokenizer.get_added_vocab().items()}
    vocabulary, _ = embedding_sizes(model)
    beyond = range(int(min(vocabulary, len(tokenizer))), len(tokenizer))
    return [names[id] for id in beyond] if all(id in names for id in beyond) else []


def _check_end_token(model: Any, tokenizer: Any, tokens: list[int], name: str) -> None:
    """Raises: UserError where the head reads a row at its end token, and the tokenizer adds none or pads with it."""
    end = getattr(model.config, "eos_token_id", None)  # MobileBERT and others have no such setting
    if not getattr(model.config, "is_encoder_decoder", False) or not isinstance(end, int):
        return
    token = tokenizer.convert_ids_to_tokens(end) if end < len(tokenizer) else None
    reads = f"model_name_or_path: {type(model).__name__} reads its answer at the end token ({token or 'token'}, {end})"
    if end not in tokens:
        raise UserError(
            f"{reads}, and the tokenizer of {name} adds none to a text; take the tokenizer that belongs to the model, "
            'or give its tokenizer.json a "post_processor" that adds it'
        )
    if end == tokenizer.pad_token_id:
        raise UserError(
            f'{reads}, and the tokenizer of {name} pads with it; name another of its tokens as "pad_token" in its '
            "tokenizer_config.json"
        )


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Leave the model as it was, BigBird too: once it has had a short row, it attends in full to all that follow."""
    was_training = model.training
    attention = [(part, part.attention_type) for part in model.modules() if hasattr(part, "set_attention_type")]
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for part, kind in attention:
                part.set_attention_type(kind)
            model.train(was_training)


def _padded(row: Row, longer: Row, tokenizer: Any, side: str) -> Row:
    padding = len(longer["input_ids"]) - len(row["input_ids"])
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    fillers = {name: [fill.get(name, 0)] * padding for name in row}
    return {name: fillers[name] + ids if side == "left" else ids + fillers[name] for name, ids in row.items()}


def _logits(model: Any, rows: list[Row]) -> Tensor:
    """Return the first row's."""
    batch = {name: torch.tensor([row[name] for row in rows], device=model.device) for name in rows[0]}
    logits: Tensor = model(**batch).logits
    return logits[0].float()


def _is_same(logits: Tensor, others: Tensor) -> bool:
    """Whether they differ in their last digits alone. Logits that are not finite are said of elsewhere."""
    return torch.allclose(logits, others, rtol=2e-4, atol=2e-5, equal_nan=True)
