"""A column by which an annotation tool says that a row is not to be used, as Prodigy's `answer`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ftloop.data.csv_rows import escapes_quotes
from ftloop.data.files import cached_of_file, column_names
from ftloop.data.readers import read_rows
from ftloop.data.sources import TABLES, Source
from ftloop.data.values import is_missing
from ftloop.errors import UserError
from ftloop.system.shell import quote
from ftloop.system.text import pluralize


class _Column(NamedTuple):
    refusing: frozenset[str]
    """Values of rows that are not to be used, in lower case."""
    others: frozenset[str]
    """All other values that the tool writes: a column with any other is something else."""
    beside: frozenset[str] = frozenset()
    """Columns of which one shows that the tool wrote the file, where the name alone may be that of a feature."""


_CANCELLED = frozenset(("true", "1", "1.0")), frozenset(("false", "0", "0.0", ""))
_COLUMNS = {
    "answer": _Column(frozenset(("reject", "ignore")), frozenset(("accept",))),
    "was_cancelled": _Column(*_CANCELLED),
    "cancelled": _Column(*_CANCELLED, frozenset(("annotator", "annotation_id", "lead_time"))),
}
"""Prodigy's, and Label Studio's for what annotators skipped."""


def refused_warnings(files: Mapping[str, Sequence[Source]], read: Collection[str]) -> list[str]:
    """Return what to say of each set where a column beside those that are `read` says that rows are not to be used."""
    warnings = []
    for split, sources in files.items():
        for column in (name for name in _COLUMNS if name not in read):
            found = {source: counts for source in sources if (counts := _refused(source, column))}
            if not found:
                continue
            counts = sum((Counter(each) for each in found.values()), Counter[Any]())
            refused = [value for value in counts if _refuses(column, value)]
            told = ", ".join(f"{value} {count}" for value, count in counts.items())
            rows = pluralize(sum(counts[value] for value in refused), "row")
            use = "trained on" if split == "train" else "predicted and scored"
            first, more = next(iter(found)), len(found) - 1
            told = f"{first.name}: column {column} marks {rows} as not to be used ({told}), and all are {use}"
            told += f", as in {pluralize(more, 'other file')}" if more else ""
            warnings.append(f"{told}; {_way(first, column, [value for value in found[first] if value in refused])}")
    return warnings


def _refused(source: Source, column: str) -> dict[Any, int] | None:
    """Count the values of a column; None where it refuses no row, or is something else by its name or its values."""
    names = column_names([source])
    beside = _COLUMNS[column].beside
    if column not in names or (beside and beside.isdisjoint(names)):
        return None
    pairs = cached_of_file(source, f"refused by {column}", partial(_count, source, column))
    return None if pairs is None else dict(pairs)


def _count(source: Source, column: str) -> list[tuple[Any, int]] | None:
    """Return values with their counts, in pairs: as keys of JSON, in which the cache keeps them, all would be texts."""
    counts: Counter[Any] = Counter()
    try:
        for row in read_rows(source, [column]):
            value = row.values.get(column)
            if is_missing(value):
                continue
            if not isinstance(value, (str, int, float)) or not _is_known(column, value):
                return None
            counts[value] += 1
    except UserError:  # of a column that is not read otherwise, or of a row, which is told when it is read
        return None
    return [*counts.items()] if any(_refuses(column, value) for value in counts) else None


def _is_known(column: str, value: Any) -> bool:
    return _refuses(column, value) or str(value).strip().lower() in _COLUMNS[column].others


def _refuses(column: str, value: Any) -> bool:
    return str(value).strip().lower() in _COLUMNS[column].refusing


def _way(source: Source, column: str, refused: Sequence[Any]) -> str:
    """Return the command that makes a file without these rows; for a form that needs more than a line, what to do."""
    path, name, script = _literal(str(source.path)), _literal(column), None
    values = f"[{', '.join(map(_literal, refused))}]"
    made = None if source.path is None else source.path.with_name(f"{source.path.stem}_kept{source.path.suffix}")
    is_plain = source.compression is None and source.reading.encoding is None
    if made is None or not is_plain:
        script = None
    elif source.format in TABLES:
        if (
            source.reading.column_names is None
            and len(source.delimiter) == 1
            and source.delimiter != "\t"
            and not escapes_quotes(source)
        ):
            how = f"sep={_literal(source.delimiter)}"
            read = f"pd.read_csv({path}, dtype=str, keep_default_na=False, {how})"
            write = f"to_csv({_literal(str(made))}, index=False, {how})"
            script = f"import pandas as pd; d = {read}; d[~d[{name}].isin({values})].{write}"
    elif source.format == "parquet":
        read, write = f"pd.read_parquet({path})", f"to_parquet({_literal(str(made))}, index=False)"
        script = f"import pandas as pd; d = {read}; d[~d[{name}].isin({values})].{write}"
    elif source.format in ("json", "jsonl") and not source.is_document:
        kept = f'l for l in open({path}, "rb") if l.strip() and json.loads(l).get({name}) not in {values}'
        script = f'import json; open({_literal(str(made))}, "wb").writelines({kept})'
    if made is None or script is None:
        return f"leave them out of the file, as pandas' d[~d[{name}].isin({values})] does of a frame d"
    return f"in a shell, this makes {made.name} without them: python -c {quote(script)}"


def _literal(value: Any) -> str:
    """Return a value as Python reads it, texts in double quotes, as the shell takes single ones around all."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
