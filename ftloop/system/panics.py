"""Panics of the tokenizers library, on a tokenizer.json that makes no sense: no Exception, so nobody catches them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftloop.errors import UserError, summarize


@contextmanager
def panics_told(tokenizer: object) -> Iterator[None]:
    """Have a panic end in a UserError that names the tokenizer: `tokenizer` is one, its folder, or its name."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        name = getattr(tokenizer, "name_or_path", tokenizer)
        raise UserError(f"model_name_or_path: the tokenizer of {name} fails ({summarize(error)})") from error
