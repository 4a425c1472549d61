"""Results of looking at every row of a data set or a file, kept in the cache of `datasets`: a start on cached data then
need not look again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ftloop.version import __version__

# `datasets` is imported within functions: prediction comes by here, and would take a second longer to start.

T = TypeVar("T")
Key = tuple[Any, ...]
MAX_RESULT = 2**20  # bytes; to read a larger one, such as millions of labels, is no faster than to compute it again


def digest_rows(dataset: Any) -> dict[str, Any]:
    """Return the number of rows and a digest of all values in their order, for a `datasets.Dataset`; None for any other
    data set, whose rows may be made when they are asked for.
    """
    if not hasattr(dataset, "with_format"):
        return {"rows": len(dataset), "digest": None}
    return {"rows": len(dataset), "digest": cached(dataset_key(dataset), "digest", lambda: _digest(dataset))}


def _digest(dataset: Any) -> str:
    digest = xxhash.xxh3_128()
    for table in dataset.with_format("arrow").iter(batch_size=10_000):
        for name in table.column_names:
            digest.update(name.encode())
            _add_values(digest, table[name].combine_chunks())  # rows may lie in the shards of several processes
    return str(digest.hexdigest())


def _add_values(digest: Any, values: Any) -> None:
    """Add the values of an Arrow array, however it is laid out in memory."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        _add_values(digest, pc.list_value_length(values))
        _add_values(digest, values.flatten())
    elif pa.types.is_primitive(values.type) and not values.null_count:
        digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)))
    else:
        digest.update(repr(values.to_pylist()).encode("utf-8", "surrogatepass"))


def dataset_key(dataset: Any) -> Key | None:
    """Identify the rows of a `datasets.Dataset` in files; None for any other, about which nothing is kept.

    The fingerprint tells which rows they are, the files' sizes and times that nobody has made them anew.
    """
    files = [Path(file["filename"]) for file in getattr(dataset, "cache_files", ())]
    if not files or not _is_mapped(dataset) or not all(file.is_file() for file in files):  # one may have been deleted
        return None
    return (dataset._fingerprint, *map(file_key, files))


def _is_mapped(dataset: Any) -> bool:
    """Whether all of it is in the files: rows, or a choice of them, made in memory may have any fingerprint."""
    from datasets.table import ConcatenationTable, MemoryMappedTable

    table = dataset.data
    parts = [part for row in table.blocks for part in row] if isinstance(table, ConcatenationTable) else [table]
    return dataset._indices is None and all(isinstance(part, MemoryMappedTable) for part in parts)


def file_key(path: str | Path) -> Key:
    """Identify a file as it is now. A copy may keep the time of its contents, but not that of its own last change."""
    stat = os.stat(path)
    return (os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def cached(key: Key | None, name: str, compute: Callable[[], T]) -> T:
    """Return `compute()`, or its result at an earlier start: a number, a text, or lists and dictionaries of them."""
    if key is None:
        return compute()
    import datasets

    text = json.dumps([__version__, name, key])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    path = Path(datasets.config.HF_DATASETS_CACHE) / "ftloop" / f"{digest}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        known: T = json.loads(path.read_text("utf-8"))["found"]
        return known
    result = compute()
    text = json.dumps({"what": name, "found": result})
    if len(text) <= MAX_RESULT:
        partial = path.with_name(f"{digest}.{os.getpid()}.partial")
        with suppress(OSError):  # a full disk, a cache that others own: then it is computed each time
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, "utf-8")
            os.replace(partial, path)
    return result
