"""Texts in whatever form a caller has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any

from ftloop.data.columns import find_text_columns
from ftloop.errors import UserError
from ftloop.system.text import join_some, short_repr

Text = str | Sequence[str]
"""A text, or a pair of texts."""


def make_pairs(texts: Sequence[str], pairs: bool) -> list[Text]:
    """Return single texts as they are, or with `pairs` two at a time. Raises: UserError for an odd number."""
    if not pairs:
        return list(texts)
    if len(texts) % 2:
        raise UserError(f"pairs of texts are wanted, and {len(texts)} texts are not pairs")
    return list(zip(texts[::2], texts[1::2], strict=True))


def listed_texts(texts: Any) -> list[Any]:
    """Return a list of what came in another form: a text alone, a column of a data frame, an array, a generator.

    Raises: UserError for what holds no texts in an order.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (Mapping, Set)) or (hasattr(texts, "iloc") and not hasattr(texts, "tolist")):
        kind = type(texts).__name__
        if isinstance(texts, Mapping) and any(isinstance(value, str) for value in texts.values()):
            raise UserError(f"a {kind} is no list of texts; of a row give its texts: classifier([{_texts_of(texts)}])")
        raise UserError(f"a {kind} is no list of texts; give one, or a column: classifier(frame['text'])")
    listed = texts.tolist() if hasattr(texts, "tolist") else texts  # Python's own texts in place of NumPy's
    if not isinstance(listed, Iterable):
        raise UserError(f"texts are wanted, in a list, and not {short_repr(texts)}")
    return [listed] if isinstance(listed, str) else list(listed)


def checked_texts(texts: Sequence[Text]) -> Sequence[Text]:
    """Return texts, or pairs, as they are. Raises: UserError for what is no text, or not of the first one's form."""
    is_single = isinstance(texts[0], str)
    for number, text in enumerate(texts, start=1):
        parts = [text] if is_single else text if isinstance(text, (list, tuple)) and len(text) == 2 else [None]
        if not all(isinstance(part, str) for part in parts):
            if isinstance(text, Mapping) and text:
                way = f"give its texts: classifier([{_texts_of(text)} for row in rows])"
                raise UserError(f"text {number} is a mapping of {join_some(list(map(repr, text)), 6)}; {way}")
            if number == 1:
                raise UserError(f"text 1 is neither a text nor a pair of texts: {short_repr(text)}")
            wanted = "a text" if is_single else "a pair of texts"
            raise UserError(f"text {number} is not {wanted} as the first is: {short_repr(text)}")
    return texts


def _texts_of(row: Mapping[Any, Any]) -> str:
    """Write what takes the texts out of a row, going by their names: those of transformers' pipeline, or usual ones."""
    names: Sequence[str] = ("text", "text_pair") if {"text", "text_pair"} <= row.keys() else ("...",)
    if names == ("...",):
        with suppress(UserError):
            names = find_text_columns(None, None, [name for name in row if isinstance(name, str)], "")
    parts = [f"row[{name!r}]" for name in names]
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
