"""What is found out about all rows of a data set is found out once, and again when they are others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from harness.models import tiny_bert
from transformers import PreTrainedTokenizerFast

from ftloop import TrainConfig
from ftloop.data import cache as results
from ftloop.data import contradictions, files, incomplete_rows, load, scan, special_tokens, tokenization
from ftloop.data.cache import cached, dataset_key, file_key
from ftloop.models import load as model

LINES = ['{"sentence1": "a b", "sentence2": "c", "label": 1}', "", '{"sentence1": "d", "sentence2": "e f", "label": 0}']


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def counted(found: Any) -> tuple[list[int], Any]:
    calls: list[int] = []

    def find() -> Any:
        calls.append(1)
        return found

    return calls, find


def test_a_fact_about_a_file_is_found_once_until_the_file_is_another(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a")
    calls, find = counted([3, ["x", None]])
    assert [cached(file_key(path), "count", find) for _ in range(3)] == [[3, ["x", None]]] * 3
    assert len(calls) == 1
    assert cached(file_key(path), "another", find) == [3, ["x", None]]
    assert len(calls) == 2, "each fact for itself"
    path.write_text("b")
    os.utime(path, ns=(1, 1))
    cached(file_key(path), "count", find)
    assert len(calls) == 3, "as long, of another time"


def test_rows_that_another_version_has_read_are_read_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads = tmp_path / "rows.jsonl", list[str]()
    path.write_text('{"text": "a"}\n')
    read_rows = files.read_rows

    def counting(*args: Any) -> Any:
        reads.append("once")
        return read_rows(*args)

    monkeypatch.setattr(files, "read_rows", counting)
    for version, times in (("1", 1), ("1", 1), ("2", 2)):
        monkeypatch.setattr(files, "__version__", version)
        assert files.read_table(str(path), ["text"], None)["text"] == ["a"]
        assert len(reads) == times


def test_rows_in_memory_and_facts_too_large_are_found_each_time(tmp_path: Path, cache: Path) -> None:
    assert dataset_key(datasets.Dataset.from_dict({"label": [1, 2]})) is None
    assert dataset_key([1, 2]) is None
    calls, find = counted("x" * results.MAX_RESULT)
    for about in (None, ("rows",)):
        cached(about, "fact", find)
        cached(about, "fact", find)
    assert len(calls) == 4


def test_a_cache_that_is_broken_or_cannot_be_written_costs_only_time(tmp_path: Path, cache: Path) -> None:
    calls, find = counted(7)
    cached(("rows",), "fact", find)
    (kept,) = (cache / "ftloop").iterdir()
    for broken in ("", "{", '{"what": "fact"}'[:-1], "[]"):
        kept.write_text(broken)
        assert cached(("rows",), "fact", find) == 7
        assert json.loads(kept.read_text()) == {"what": "fact", "found": 7}, "and is mended"
    assert len(calls) == 5
    kept.unlink()
    (cache / "ftloop").rmdir()
    (cache / "ftloop").write_text("a file where the folder should be")
    assert cached(("rows",), "fact", find) == cached(("rows",), "fact", find) == 7
    assert len(calls) == 7


def test_a_second_start_looks_at_no_row_and_finds_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES * 3))
    config = TrainConfig(train_file=str(path), validation_file=str(path), max_train_samples=5, eval_strategy="no")

    def start() -> dict[str, Any]:
        found = load.load_text_data(config)
        encoded, truncated = tokenization.tokenize(found, found.train, word_tokenizer, 5, config, "train")
        return {
            "labels": found.labels,
            "rows_read": found.rows_read,
            "truncated": truncated,
            "special": special_tokens.count_special(found.train, found.text_columns, word_tokenizer),
            "known": model.check_token_ids(tiny_bert(), word_tokenizer, {"train": encoded}),
            "digest": results.digest_rows(encoded),
        }

    first = start()
    assert first["truncated"] == 5
    assert first["rows_read"]["train"] == 6, "blank lines are no rows"

    def looked(*_: Any, **__: Any) -> Any:
        raise AssertionError("a row was looked at")

    for module, name in (
        *((files, name) for name in ("read_columns", "read_rows")),
        (scan, "pc"),
        (incomplete_rows, "_count_empty"),
        (contradictions, "_count"),
        *((tokenization, name) for name in ("_count_true", "_encode_batch")),
        (results, "_digest"),
        (model, "_first_without_tokens"),
        (special_tokens, "_count"),
        (datasets.Dataset, "unique"),
    ):
        monkeypatch.setattr(module, name, looked)
    assert start() == first
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    path.write_text("\n".join(LINES * 4))
    again = start()
    assert again["rows_read"]["train"] == 8
    assert again["digest"] == first["digest"], "the first five rows are the same"


def test_rows_chosen_or_made_in_memory_are_looked_at_each_time(tmp_path: Path, cache: Path) -> None:
    """Two choices of rows may have the same fingerprint: of a function, `datasets` does not see what it refers to."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES * 3))
    in_files = files.read_table(str(path), ["sentence1"], "label")
    in_memory = datasets.Dataset.from_list(in_files.to_list())
    assert dataset_key(in_files) is not None
    assert dataset_key(in_files.select(range(3))) is not None
    assert dataset_key(datasets.concatenate_datasets([in_files, in_files])) is not None
    assert dataset_key(in_files.select([2, 0], keep_in_memory=True)) is None
    assert dataset_key(datasets.concatenate_datasets([in_files, in_memory])) is None
    Path(in_files.cache_files[0]["filename"]).unlink()
    assert dataset_key(in_files) is None


def test_another_file_of_the_same_size_and_time_is_read_again(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"sentence1": "a", "label": 0}\n')
    old = path.stat()
    assert files.read_table(str(path), ["sentence1"], "label")["label"][0] == "0"
    path.write_text('{"sentence1": "a", "label": 1}\n')
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert files.read_table(str(path), ["sentence1"], "label")["label"][0] == "1"


def test_the_digest_is_the_same_in_however_many_shards_the_rows_lie(tmp_path: Path) -> None:
    """As with preprocessing_num_workers, whose shards `datasets` reads again when one process asks."""
    columns = {"input_ids": [[1, 2], [3], [4, 5, 6]], "text": ["a", "b", "c"], "label": [0, 1, 0]}
    whole = datasets.Dataset.from_dict(columns)
    parts = datasets.concatenate_datasets([whole.select([0, 1]), whole.select([2])])
    assert len(parts.with_format("arrow")[:]["input_ids"].chunks) == 2
    assert results.digest_rows(parts) == results.digest_rows(whole)
    other = datasets.Dataset.from_dict(columns | {"input_ids": [[1], [2, 3], [4, 5, 6]]})
    assert results.digest_rows(other) != results.digest_rows(whole)
