"""Look at the tokens that `prepare` is given.

One that the model does not know is an index error in mid-training, which on a GPU does not even say so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from transformers import DataCollatorWithPadding, PreTrainedModel

from ftloop.batching.padding import is_padding_collator, row_lengths
from ftloop.data.scan import largest_number
from ftloop.models.load import count_positions, position_table
from ftloop.models.match import embedding_sizes
from ftloop.models.weights import base_model
from ftloop.run.column_values import column_chunks, is_list


def token_problems(dataset: Any, columns: Collection[str], model: Any) -> Iterator[str]:
    """Yield what is wrong with tokens that go to a model of transformers as they stand in the rows."""
    vocabulary, types = _sizes(model)
    if "input_ids" in columns and (found := _first_beyond(dataset, "input_ids", vocabulary)):
        yield f"row {found[0]} has the token {found[1]}, and {_known(vocabulary)}"
    if "input_ids" in columns and (found := _first_longer(dataset, _most_positions(model))):
        usable = count_positions(base_model(model))
        way = f"tokenize with truncation=True, max_length={usable}"
        yield f"row {found[0]} has {found[1]} tokens, and the model takes only {usable}: {way}"
    if "token_type_ids" in columns and (found := _first_beyond(dataset, "token_type_ids", types)):
        way = "tokenize with return_token_type_ids=False, or take the tokenizer that belongs to the model"
        yield f"row {found[0]} has the token type {found[1]}, and the model knows only {types}: {way}"


def padding_problems(dataset: Any, columns: Collection[str], model: Any, collate: Any) -> Iterator[str]:
    """Yield that rows of several lengths would be padded with no token, or one that the model does not know."""
    vocabulary, _ = _sizes(model)
    padding = _padding_token(collate)
    if "input_ids" in columns and (padding is None or padding >= vocabulary):
        lengths = row_lengths(dataset, quiet=True)
        if len(lengths) == 0 or lengths.min() == lengths.max():
            return
        if padding is None:
            way = "tokenizer.pad_token = tokenizer.eos_token, or another of its tokens, gives it one"
            yield f"its rows differ in length, and the tokenizer has no padding token: {way}"
        else:
            yield f"its batches are padded with the token {padding}, and {_known(vocabulary)}"


def _known(vocabulary: float) -> str:
    way = "model.resize_token_embeddings(len(tokenizer)), where tokens were added to the tokenizer"
    return f"the model knows only {vocabulary}: {way}; else take the tokenizer that belongs to the model"


def _sizes(model: Any) -> tuple[float, float]:
    """Return how many tokens and token types a model of transformers knows; of another nothing is known."""
    model = base_model(model)
    if isinstance(model, PreTrainedModel):
        with suppress(NotImplementedError):  # by a class of the user's own
            return embedding_sizes(model)
    return math.inf, math.inf


def _most_positions(model: Any) -> float:
    """Return how many tokens no row may have more of. Where positions begin behind the padding's, padding needs none,
    and other tokens have a few less: not looked at here."""
    model = base_model(model)
    table = position_table(model) if isinstance(model, PreTrainedModel) else None
    return math.inf if table is None else table.num_embeddings


def _padding_token(collate: Any) -> int | None:
    """Return the token a collator pads with; -1 where that is not known, and None where its tokenizer has none."""
    if is_padding_collator(collate):
        token = getattr(collate.keywords["tokenizer"], "pad_token_id", -1)
    elif type(collate) is DataCollatorWithPadding:
        token = getattr(collate.tokenizer, "pad_token_id", -1)
    else:
        token = getattr(collate, "pad_token_id", None) or -1
    return token if token is None or isinstance(token, int) else -1


def _first_longer(dataset: Any, limit: float) -> tuple[int, int] | None:
    """Return the first row, counted from 1, with more tokens, and how many."""
    for start, values in column_chunks(dataset, "input_ids") if limit < math.inf else ():
        if is_list(values.type):
            lengths = pc.list_value_length(values)
            place = pc.index(pc.greater(lengths, int(limit)), True).as_py()
            if place >= 0:
                return start + place + 1, lengths[place].as_py()
    return None


def _first_beyond(dataset: Any, column: str, size: float) -> tuple[int, int] | None:
    """Return the first row, counted from 1, with a number that is no index of a table of this size, and this number."""
    if size == math.inf:
        return None
    if hasattr(dataset, "select_columns"):
        with suppress(pa.ArrowException):  # lists of something else
            if largest_number(dataset, column) < size:
                return None
    for start, values in column_chunks(dataset, column):
        if not is_list(values.type) or not pa.types.is_integer(values.type.value_type):
            return None
        numbers = pc.list_flatten(values)
        place = pc.index(pc.greater_equal(numbers, int(size)), True).as_py()
        if place >= 0:
            return start + pc.list_parent_indices(values)[place].as_py() + 1, numbers[place].as_py()
    return None
