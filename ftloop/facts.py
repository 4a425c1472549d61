"""What has been found out about all rows of a data set, or about a file, kept in the cache of `datasets`: a start on
cached data then need not look at every row again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LARGEST = 2**20  # bytes of a fact; to read more, such as millions of numbers to learn, is no faster than to find it
About = tuple[Any, ...]


def rows_of(dataset: Any) -> About | None:
    """The rows of a `datasets.Dataset` in files; None for any other, about which nothing is kept.

    Its fingerprint tells which rows they are, the files' sizes and times that nobody has made them anew.
    """
    files = [Path(file["filename"]) for file in getattr(dataset, "cache_files", ())]
    if not files or not _is_mapped(dataset) or not all(file.is_file() for file in files):  # one may have been deleted
        return None
    return (dataset._fingerprint, *map(file_of, files))


def _is_mapped(dataset: Any) -> bool:
    """Whether all of it is in the files: rows, or a choice of them, made in memory may have any fingerprint."""
    from datasets.table import ConcatenationTable, MemoryMappedTable

    table = dataset.data
    parts = [part for row in table.blocks for part in row] if isinstance(table, ConcatenationTable) else [table]
    return dataset._indices is None and all(isinstance(part, MemoryMappedTable) for part in parts)


def file_of(path: str | Path) -> About:
    """A file as it is now. A copy may keep the time of its contents, but not that of its own last change."""
    stat = os.stat(path)
    return (os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def known(about: About | None, what: str, find: Callable[[], T]) -> T:
    """`find()`, or what it gave at an earlier start; a number, a text, or lists and dictionaries of them."""
    if about is None:
        return find()
    import datasets

    import ftloop

    text = json.dumps([ftloop.__version__, what, about])
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    path = Path(datasets.config.HF_DATASETS_CACHE) / "ftloop" / f"{key}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept: T = json.loads(path.read_text("utf-8"))["found"]
        return kept
    found = find()
    text = json.dumps({"what": what, "found": found})
    if len(text) <= LARGEST:
        partial = path.with_name(f"{key}.{os.getpid()}.partial")
        with suppress(OSError):  # a full disk, a cache that others own: then it is found anew each time
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, "utf-8")
            os.replace(partial, path)
    return found
