"""The encoding of a text: what a file says of itself, and the likely one where it is not UTF-8.

Guessed by our own few rules: charset_normalizer, made for whole pages, takes the pound sign of one row for a Polish
letter, and a line of KOI8-R for Japanese.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

MAX_BYTES = 2**16
"""What is enough of a text to guess by."""

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def find_codec(head: bytes, encoding: str | None) -> str:
    """Return the codec to read a file with: the user's encoding, or that of its byte order mark, else UTF-8."""
    if encoding is None:
        return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8-sig")
    return "utf-8-sig" if is_utf8_codec(encoding) else encoding


def is_utf8_codec(encoding: str | None) -> bool:
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def undecodable(text: str, encoding: str | None = None) -> str:
    """Return what to say of a text that could not be decoded: its bad bytes have become surrogates."""
    if not is_utf8_codec(encoding):
        return f"not {encoding}; name another --encoding, or save the file as UTF-8"
    likely = guess_encoding(_bytes(text))
    return f"not UTF-8 but, it seems, {likely}: give --encoding {likely}, or save the file as UTF-8"


def without_bad_bytes(text: str) -> str:
    return _bytes(text).decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    """Return the bytes of which a text was decoded; of a few codecs that make other surrogates, something like them."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def guess_encoding(content: bytes) -> str:
    """Return the likely encoding of a text that is not UTF-8. By the letters that a language uses most; what is one
    letter among ASCII is of the West.
    """
    content = content[:MAX_BYTES]
    if b"\0" in content:
        return "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
    runs = re.findall(rb"[\x80-\xff]+", content)
    if sum(map(len, runs)) >= 2 * len(runs) > 0:
        for encoding, least_share, is_usual in _CANDIDATES:
            try:
                text = codecs.getincrementaldecoder(encoding)().decode(content)  # its last letter may be cut
            except UnicodeDecodeError:
                continue
            letters = [letter for letter in text if not letter.isascii()]
            if sum(map(is_usual, letters)) >= least_share * len(letters):
                return encoding
    try:
        content.decode("windows-1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "windows-1252"


def _is_kana(letter: str) -> bool:
    return "\u3041" <= letter <= "\u30fe"


def _is_small_cyrillic(letter: str) -> bool:
    return "\u0430" <= letter <= "\u044f"


def _is_hangul(letter: str) -> bool:
    return "\uac00" <= letter <= "\ud7a3"


def _is_of_first_level(letter: str) -> bool:
    """Whether it is one of the 3755 characters of GB 2312 that nearly all of a Chinese text is made of."""
    code = letter.encode("gb18030")
    return len(code) == 2 and 0xB0 <= code[0] <= 0xD7 and code[1] >= 0xA1


def _is_usual_in_big5(letter: str) -> bool:
    return 0xA4 <= letter.encode("big5")[0] <= 0xC6


_CANDIDATES: tuple[tuple[str, float, Callable[[str], bool]], ...] = (
    ("shift_jis", 0.25, _is_kana),
    ("euc_jp", 0.25, _is_kana),
    ("windows-1251", 0.7, _is_small_cyrillic),
    ("koi8-r", 0.8, _is_small_cyrillic),
    ("euc_kr", 0.85, _is_hangul),
    ("gb18030", 0.75, _is_of_first_level),
    ("big5", 0.7, _is_usual_in_big5),
)
"""Encodings with the share of usual letters that a text in them has at least, in the order of trial."""
