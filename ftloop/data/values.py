"""Turn the value of a cell into text or into names of labels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any, TypeGuard

from ftloop.data.probabilities import are_shares, have_fraction, numbers_of_classes, told_of
from ftloop.errors import UserError
from ftloop.system.text import short_repr

ONE = {"1", "1.0", "true"}
BITS = {"0", "0.0", "false"} | ONE
"""What the items of a vector are that says of each label whether a row has it."""

NULLS = frozenset(
    (r"\n", "null", "<null>", "(null)", "[null]", "#null!", "nil", "<nil>", "nan", "#nan", "nat", "<na>", "#na", "#n/a")
)
"""What databases, spreadsheets and pandas write where there is no value, in whatever case; no name of a class."""
DOUBTFUL_NULLS = frozenset(("none", "n/a", "na"))
"""What may say so, or be a class: an emotion, a country."""

LIST_BEGUN = re.compile(r"\s*(\[\s*['\"\d]|\{\s*['\"])")
"""How a list or a mapping begins that is written as text, and hardly ever a name."""

TAGS = "><"
"""What separates the names in `<a><b>`, as Stack Overflow writes the tags of a question."""

TRUTHS = {"true": True, "false": False, "1": True, "0": False}

KINDS: dict[type, str] = {dict: "a mapping", list: "a list", bool: "true or false"}
"""What values of JSON are called in messages."""


class BesideLists(UserError):
    """A text or number where the rows before hold lists."""


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # NaN is how pandas writes it


def is_null(label: str, nulls: Collection[str] = NULLS) -> bool:
    return label.strip().casefold() in nulls


def is_written(label: str | None) -> TypeGuard[str]:
    """Whether a label says more than that there is none."""
    return label is not None and bool(label.strip()) and not is_null(label)


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded: json can name half a surrogate pair, and undecodable bytes become such halves."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_number(text: str) -> str:
    """Return a whole number written with a point or blanks around it as it is without; any other text as it is."""
    written = re.fullmatch(r"\s*([+-]?\d+)(?:\.0*)?\s*", text)
    return text if written is None else "0" if written[1] == "-0" else written[1]


def plain_spelling(text: str) -> str:
    """Return a label as another file may write it too: 1 for 1.0, true for True; any other as it is."""
    folded = text.strip().lower()
    return folded if folded in ("true", "false") else plain_number(text)


def as_text(value: Any, where: str) -> str | None:
    """Return a value as text, None if it is missing. Raises: UserError for what is neither text nor number."""
    if isinstance(value, str):
        if is_utf8(value):
            return value
        raise UserError(f"{where} holds half a surrogate pair, which is not text")
    if is_missing(value):
        return None
    if isinstance(value, Decimal):  # of Arrow, as databases write numbers
        return format(value.normalize(), "f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isinf(value):
        raise UserError(f"{where} holds an infinite number")
    if isinstance(value, (int, float)):
        return repr(value)
    raise UserError(f"{where} holds {KINDS.get(type(value), type(value).__name__)}, not a text or a number")


def texts_within(value: Any) -> list[str] | None:
    """Return the list of texts that a mapping of one name holds, as Label Studio's `{"choices": ["a", "b"]}`, or that
    the value is itself; None for anything else, and for an empty one."""
    within = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
    are_texts = isinstance(within, list) and bool(within) and all(isinstance(each, str) for each in within)
    return within if are_texts and all(map(is_utf8, within)) else None


def as_label(value: Any, where: str) -> str | None:
    """Return a label as text, and a list of texts as JSON writes it: whether names beside it are lists of one is
    decided over all rows. Raises: UserError."""
    return as_text(value if texts_within(value) is None else json.dumps(value, ensure_ascii=False), where)


def way_to_text(value: Any, column: str) -> str:
    """Return how a column of such values becomes texts, to be said behind what `as_text` has against them."""
    if isinstance(value, bytes):
        return "; pandas' .str.decode('utf-8') makes texts of a column of them"
    if isinstance(value, dict) and (texts := [name for name, field in value.items() if isinstance(field, str)]):
        return f"; a field of it is named with a dot, such as {short_repr(f'{column}.{texts[0]}')}"
    if isinstance(value, list) and any(isinstance(each, str) and " " in each.strip() for each in value):
        return f"; pandas' .explode({column!r}) makes a row of each text of a list"
    return "; pandas' .str.join(' ') makes texts of a column of lists of words" if isinstance(value, list) else ""


def as_names(value: Any, where: str, delimiter: str | None) -> list[str] | None:
    """Return the names in a label that is a list, or a text to split at `delimiter`; None if it is missing. An empty
    text holds no name. Raises: UserError.
    """
    if is_missing(value):
        return None
    if isinstance(value, dict):
        names = [*(texts_within(value) or _true_names(value, where))]
    elif isinstance(value, list):
        names = [as_text(item, where) for item in value]
    elif delimiter is None:
        kind = KINDS.get(type(value), "a text" if isinstance(value, str) else "a number")
        raise BesideLists(f"{where} holds {kind}, where others hold a list of names")
    else:
        names = [*split_names(as_text(value, where) or "", delimiter)]
    numbers = None if isinstance(value, dict) else numbers_of_classes(value)
    is_list = isinstance(value, list) or str(value).lstrip().startswith("[")
    if numbers is not None and have_fraction(numbers) and (is_list or are_shares(numbers)):
        raise UserError(f"{where} {told_of(value)}")
    if isinstance(value, str) and is_cut(value, names):
        way = "take such brackets out of the file"
        if LIST_BEGUN.match(value):
            way = "leave it out, and such lists are read, and names beside them as lists of one"
        raise UserError(f"{where} holds {short_repr(value)}, which --label_delimiter cuts into pieces; {way}")
    is_vector = all(name in BITS for name in names)
    for number, name in enumerate(names):
        if not name:
            raise UserError(f"{where}: name {number + 1} of its list is empty")
        if name in names[:number] and not is_vector:
            raise UserError(f"{where}: {short_repr(name)} is there twice")
    return [name for name in names if name is not None]


def split_names(text: str, delimiter: str) -> list[str]:
    """Return the names in a text. One more delimiter may stand at its end, where each name is written with one, and
    then at its start too; at `><` they are those of tags such as `<a><b>`.
    """
    whole = text.strip()
    if delimiter == TAGS and whole[:1] + whole[-1:] == "<>":
        whole = whole[1:-1]
    names = [name.strip() for name in whole.split(delimiter)] if whole else []
    if len(names) > 1 and not names[-1]:
        return names[1:-1] if len(names) > 2 and not names[0] else names[:-1]
    return names


def is_cut(text: str, pieces: Sequence[str | None]) -> bool:
    """Whether a list in brackets was split between them, so that its pieces are no names."""
    first, whole = pieces[0] if pieces else None, text.strip()
    if first is None or len(pieces) < 2 or whole[0] + whole[-1] not in ("[]", "{}"):
        return False
    return any(first.count(begin) != first.count(end) for begin, end in ("[]", "{}"))


def _true_names(value: dict[Any, Any], where: str) -> list[str | None]:
    """Return the names that a mapping says are the row's labels, as spaCy's `cats` does with 1.0 and 0.0."""
    numbers = numbers_of_classes(value) or ()
    if any(0 < number < 1 for number in numbers) and all(0 <= number <= 1 for number in numbers):
        raise UserError(f"{where} {told_of(value)}")
    for name, said in value.items():
        if said not in (0, 1, None):
            told = f"{where} maps {short_repr(str(name))} to {short_repr(str(said))}"
            field = f"{where.partition('column ')[2]}.{name}"
            way = f"a field of it is named with a dot: {short_repr(field)}"
            raise UserError(f"{told}; 0 or 1 is wanted of each label, and {way}")
    return [as_text(name, where) for name, said in value.items() if said]
