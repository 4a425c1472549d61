"""Texts in which special tokens are written, such as `</s>` in HTML: there they are text, and not the tokens."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pyarrow.compute as pc
from tokenizers import Tokenizer

from ftloop.data.cache import cached, dataset_key
from ftloop.system.panics import panics_told

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Nothing that a text holds: U+FDD0 and U+FDD1 are no characters.
HIDDEN = "\ufdd0{}\ufdd1"


def encode_texts(tokenizer: Any, columns: Sequence[Sequence[Any]], **settings: Any) -> tuple[Any, list[bool], int]:
    """Call the tokenizer with texts, one list of them or two.

    A special token by which a tokenizer frames, pads or masks texts is text where somebody has written it: an end token
    amid a text would be taken for its end. Rows without one are tokenized by a plain call. A special token that was
    added to a tokenizer for what it says in texts, such as a marker of names, stays one.

    Returns: what the tokenizer gives, by name; whether each row was cut; and how many rows hold a special token.
    Raises: UserError for a tokenizer that panics.
    """
    with panics_told(tokenizer):
        encoded = tokenizer(*columns, **settings)
        inputs, cut = dict(encoded), _are_cut(tokenizer, columns, encoded, settings)
    holds = _finder(framing_tokens(tokenizer))
    rows = [row for row, texts in enumerate(zip(*columns, strict=True)) if any(map(holds, texts))]
    if rows:
        of_rows = [[texts[row] for row in rows] for texts in columns]
        literal = _literal(tokenizer)
        settings["split_special_tokens"] = tokenizer.split_special_tokens or literal is tokenizer
        again = literal(*of_rows, **settings)
        cut_again = _are_cut(literal, of_rows, again, settings)
        for number, row in enumerate(rows):
            for name in inputs:
                inputs[name][row] = again[name][number]
            cut[row] = cut_again[number]
    return inputs, cut, len(rows)


def _are_cut(tokenizer: Any, columns: Sequence[Sequence[Any]], encoded: Any, settings: dict[str, Any]) -> list[bool]:
    """Tell of each row whether it was cut. A fast tokenizer keeps what it cut off, and one that is written in Python
    does not: a row of as many tokens as there may be is tokenized whole, to see.
    """
    if encoded.encodings:
        return [bool(row.overflowing) for row in encoded.encodings]
    lengths = list(map(len, encoded["input_ids"]))
    limit = settings.get("max_length") or tokenizer.model_max_length
    full = [row for row, length in enumerate(lengths) if length >= limit]
    if not full:
        return [False] * len(lengths)
    whole = settings | {"truncation": False, "max_length": None, "verbose": False}
    of_rows = ([texts[row] for row in full] for texts in columns)
    lengths_whole = dict(zip(full, map(len, tokenizer(*of_rows, **whole)["input_ids"]), strict=True))
    return [lengths_whole.get(row, length) > length for row, length in enumerate(lengths)]


def framing_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return special tokens as they are written: those with a part to play, and whatever else frames a text; none that
    may be a word or a mark, such as a padding token `!`.
    """
    names = {str(token) for token in tokenizer.special_tokens_map.values()}
    if tokenizer.is_fast:
        empty = tokenizer.backend_tokenizer.encode("")
        names |= {token for token, added in zip(empty.tokens, empty.special_tokens_mask, strict=True) if added}
    return sorted(name for name in names if len(name) > 2 and not name.isalnum())


def count_special(dataset: Dataset, columns: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the rows that hold a special token in a text."""
    tokens = framing_tokens(tokenizer)
    return cached(dataset_key(dataset), f"special tokens {tokens} {columns}", partial(_count, dataset, columns, tokens))


def _count(dataset: Dataset, columns: Sequence[str], tokens: list[str]) -> int:
    holds, count = _finder(tokens), 0
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(batch_size=100_000):
        # Most texts hold no such mark, and are not looked at any further.
        marked = [pc.match_substring(table[name], mark) for name in columns for mark in _marks(tokens)]
        rows = table.filter(functools.reduce(pc.or_, marked)) if marked else table.slice(length=0)
        count += sum(
            any(map(holds, texts)) for texts in zip(*(rows[name].to_pylist() for name in columns), strict=True)
        )
    return count


def _marks(tokens: Sequence[str]) -> set[str]:
    """Return characters one of which is in every text that holds a token, such as `<` or `[`."""
    return {next(character for character in token if not character.isalnum()) for token in tokens}


def _finder(tokens: Sequence[str]) -> Callable[[str], bool]:
    """Make a test of whether a text holds a token, in any case of letters: a tokenizer that lowers them may take
    `[sep]` for its own.
    """
    marks, pattern = _marks(tokens), re.compile("|".join(map(re.escape, tokens)), re.IGNORECASE)
    return lambda text: any(mark in text for mark in marks) and pattern.search(text) is not None


_BACKENDS: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()


def _literal(tokenizer: Any) -> Any:
    """Make a tokenizer of the same tokens to which its framing tokens are text.

    `split_special_tokens` does not suffice for a fast one: it also splits tokens that were added for what they say, and
    a unigram model still finds the others among its pieces. A tokenizer that is written in Python, or has a part
    that is, is returned itself.
    """
    if not tokenizer.is_fast:
        return tokenizer
    key = (len(tokenizer), framing_tokens(tokenizer))
    if tokenizer not in _BACKENDS or _BACKENDS[tokenizer][0] != key:
        try:
            _BACKENDS[tokenizer] = (key, _hidden(tokenizer.backend_tokenizer.to_str(), key[1]))
        except Exception:  # the library has no class for what it cannot read or write
            return tokenizer
    literal = copy(tokenizer)
    literal._tokenizer = _BACKENDS[tokenizer][1]
    return literal


def _hidden(tokenizer_json: str, tokens: Sequence[str]) -> Tokenizer:
    """Rename tokens, in their places, to what stands in no text."""
    whole = json.loads(tokenizer_json)
    names = {token: HIDDEN.format(token) for token in tokens}
    exactly = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)  # or it may still be found
    for added in whole["added_tokens"]:
        if added["content"] in names:
            added |= {"content": names[added["content"]], **exactly}
    model = whole["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): id for token, id in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if _merged(pair) not in names]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return Tokenizer.from_str(json.dumps(whole))


def _merged(pair: str | list[str]) -> str:
    return "".join(pair.split(" ") if isinstance(pair, str) else pair)
