"""Rows of json and jsonl files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice, product
from typing import Any

from ftloop.data.encoding import undecodable
from ftloop.data.rows import Row
from ftloop.data.sources import Source
from ftloop.data.values import is_utf8
from ftloop.errors import UserError, summarize
from ftloop.system.shell import quote
from ftloop.system.strict_json import read_json
from ftloop.system.text import join_some, short_repr

WANTED = 'a list of objects is wanted, or an object a line: DataFrame.to_json(path, orient="records", lines=True)'


MANY_TEXTS = 4
"""So many texts and nothing else in one object, which has no column that is known, have names and are no row."""


def told_of_no_columns(source: Source) -> str | None:
    """Return what to say of a file that is one object on a line and holds a text for each name, or a conversation a
    line; None for any other."""
    if not source.is_file or source.is_document:
        return None
    with source.open() as file, source.text(file) as text:
        try:
            rows = list(islice(read_lines(source, text), 2))
        except UserError:
            return None
    if len(rows) == 1 and _is_by_name(rows[0].values):
        return f"{source.name}: {_describe(rows[0].values)}, and {WANTED}"
    return _told_of_conversations(source, rows[0].values) if rows else None


def _told_of_conversations(source: Source, row: dict[str, Any]) -> str | None:
    """Say that each line is a conversation, as chat models are tuned with, and give the command that makes a text and a
    label of its last two messages; None of any other line."""
    for (column, value), (who, what) in product(row.items(), (("role", "content"), ("from", "value"))):
        if _is_list_of(value, dict) and len(value) > 1 and all({who, what} <= message.keys() for message in value):
            told = (
                f"{source.name}: {short_repr(column)} holds a conversation, and columns of texts and labels are wanted"
            )
            made = source.name.removesuffix(".jsonl") + ".rows.jsonl"
            lines = f'for line in open({json.dumps(source.name)}, "rb") if line.strip()'
            chats = f"(json.loads(line)[{json.dumps(column)}] {lines})"
            pair = f'{{"text": chat[-2]["{what}"], "label": chat[-1]["{what}"]}}'
            command = f"python -c {quote(f'import json; [print(json.dumps({pair})) for chat in {chats}]')}"
            way = f"this makes {made} of the last two messages of each, which is read: {command} > {quote(made)}"
            return f"{told}; {way}" if not source.compression else told
    return None


def _is_by_name(values: dict[str, Any]) -> bool:
    return len(values) >= MANY_TEXTS and all(isinstance(value, str) for value in values.values())


def read_lines(source: Source, text: TextIOWrapper) -> Iterator[Row]:
    """Read an object a line. Raises: UserError where nothing more can be decoded."""
    number = 0
    try:
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield _line_row(number, line, source.reading.encoding)
    except UnicodeError as error:  # surrogates stand for single bytes; UTF-16 and others end at a bad one
        raise source.error(number + 1, f"not {text.encoding} from here on ({summarize(error)})") from None


def _line_row(number: int, line: str, encoding: str | None) -> Row:
    if not is_utf8(line):
        return Row(number, {}, undecodable(line, encoding))
    try:
        return _json_row(number, read_json(line))
    except json.JSONDecodeError as error:
        if _is_utf16(line):
            return Row(number, {}, undecodable(line, encoding))
        ways = {"{": "; an object stands on one line", "[": "; one list of rows has the ending .json"}
        way = ways.get(line.strip(), "")
        return Row(number, {}, f"not JSON ({error.msg}, character {error.colno}){way}")
    except ValueError as error:
        return Row(number, {}, f"not JSON ({error})")


def _is_utf16(text: str) -> bool:
    """Whether a text of JSON, which begins in ASCII, was decoded as what it is not."""
    return text[:4].count("\0") == 2


def read_document(source: Source, text: TextIOWrapper) -> Iterator[Row]:
    """Read a list of objects, or of texts alone, all at once. Raises: UserError when it is none."""
    try:
        content = text.read()
    except UnicodeError as error:
        raise UserError(f"{source.name}: not {text.encoding} ({summarize(error)})") from None
    is_utf16 = _is_utf16(content)
    if is_utf16 or not is_utf8(content):
        bad = 0 if is_utf16 else next(place for place, line in enumerate(content.split("\n")) if not is_utf8(line))
        raise UserError(f"{source.name}, line {bad + 1}: {undecodable(content, source.reading.encoding)}")
    try:
        records = read_json(content)
    except json.JSONDecodeError as error:
        way = "; several objects stand on one line each" if error.msg == "Extra data" else ""
        raise UserError(f"{source.name}, line {error.lineno}: not JSON ({error.msg}){way}") from None
    except ValueError as error:
        raise UserError(f"{source.name}: not JSON ({error})") from None
    if isinstance(records, dict) and (_is_list_of(records.get("data"), dict) or records.get("data") == []):
        records = records["data"]
    elif _is_list_of(records, str):
        records = [{"text": record} for record in records]
    elif not isinstance(records, list) or _is_list_of(records, list):
        told = _way_of_sets(source, records) if isinstance(records, dict) else None
        raise UserError(f"{source.name}: {told or f'{_describe(records)}, and {WANTED}'}")
    return (_json_row(number, record) for number, record in enumerate(records, start=1))


def _way_of_sets(source: Source, content: dict[str, Any]) -> str | None:
    """Say that an object holds the rows of each set under its name, as objects or as texts with their labels, and give
    the command that makes a file of each; None where it holds something else.
    """
    rows = [row for value in content.values() if isinstance(value, list) for row in value]
    are_pairs = all(_is_list_of(row, str) and len(row) == 2 for row in rows)
    are_rows = bool(rows) and (are_pairs or _is_list_of(rows, dict)) and all(map(_is_list, content.values()))
    if not are_rows or source.compression or not all(re.fullmatch(r"[\w.-]+", name) for name in content):
        return None
    made = "rows"
    if are_pairs:  # labels come again and again
        first, second = ({row[place] for row in rows} for place in (0, 1))
        names = ["text", "label"] if len(first) > len(second) else ["label", "text"]
        made = f"[dict(zip({json.dumps(names)}, row)) for row in rows]"
    start = source.name.removesuffix(".json") + "_"
    each = f'for name, rows in json.load(open({json.dumps(source.name)}, "rb")).items()'
    code = f'import json; [json.dump({made}, open({json.dumps(start)} + name + ".json", "w")) {each}]'
    files = join_some([f"{start}{name}.json" for name in content], 5)
    which = "which is read" if len(content) == 1 else "which are read"
    told = f"rows are wanted, and it holds lists of rows by name; this makes {files} of it, {which}"
    return f"{told}: python -c {quote(code)}"


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _describe(content: Any) -> str:
    """Name the form of a document that is no list of objects, by the words of pandas where it has one for it."""
    if isinstance(content, list):
        return 'it is a list of lists (pandas\' orient="values"), which names no columns'
    if {"columns", "data"} <= content.keys():
        return 'it is pandas\' orient="split"'
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        if all(name.isdigit() for value in values for name in value):
            return 'it is pandas\' orient="columns"'
        return f'it is an object of {len(values)} rows by their names, as pandas\' orient="index" has them'
    if values and all(_is_list_of(value, dict) for value in values):
        return f"it holds lists of rows ({join_some(list(map(short_repr, content)), 5)}): a file for each"
    if values and all(isinstance(value, list) for value in values):
        return 'it is a list for each column (orient="list")'
    if _is_by_name(content):
        first = json.dumps({"id": next(iter(content)), "text": "..."})
        return f"it is one object of {len(content)} texts by their names, each of which would be a row, such as {first}"
    return "it is a single object"


def _json_row(number: int, record: Any) -> Row:
    if isinstance(record, dict):
        return Row(number, record)
    way = ', and a text is {"text": "..."}' if isinstance(record, str) else ""
    return Row(number, {}, f"expected an object of columns, found {type(record).__name__}{way}")
