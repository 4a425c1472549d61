"""The built-in demo data: its shape, that it never changes, and that counting common words does not solve it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ftloop.data.demo import SPLIT_SIZES, demo_rows

Row = dict[str, Any]

SPLITS = {split: demo_rows(split) for split in SPLIT_SIZES}
ALL_ROWS = [row for rows in SPLITS.values() for row in rows]
ALL_SENTENCES = [row[key] for row in ALL_ROWS for key in ("sentence1", "sentence2")]

DIGEST = "5297fe8705347a3837559468edf20350aa503da80b74c13ff3ae007b875b621f"


def words(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", sentence.lower())


def jaccard(row: Row) -> float:
    first, second = set(words(row["sentence1"])), set(words(row["sentence2"]))
    return len(first & second) / len(first | second)


def containment(row: Row) -> float:
    first, second = set(words(row["sentence1"])), set(words(row["sentence2"]))
    return len(first & second) / min(len(first), len(second))


def length_difference(row: Row) -> float:
    return abs(len(words(row["sentence1"])) - len(words(row["sentence2"])))


MEASURES: list[Callable[[Row], float]] = [jaccard, containment, length_difference]


def labels(split: str) -> np.ndarray:
    return np.array([row["label"] for row in SPLITS[split]])


def majority(split: str) -> float:
    return float(labels(split).mean())


def test_every_split_has_its_number_of_rows_and_the_columns_of_mrpc() -> None:
    for split, rows in SPLITS.items():
        assert len(rows) == SPLIT_SIZES[split]
        assert [row["idx"] for row in rows] == list(range(len(rows)))
        for row in rows:
            assert list(row) == ["sentence1", "sentence2", "label", "idx"]
            assert row["label"] in (0, 1)


def test_the_rows_are_the_same_on_every_machine() -> None:
    text = json.dumps(SPLITS, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == DIGEST


def test_a_truncated_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: '{"split": "test", "label": 1}')
    with pytest.raises(ValueError, match="holds 1 rows of test, not 300"):
        demo_rows("test")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(KeyError):
        demo_rows("dev")


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_about_two_thirds_of_the_pairs_are_paraphrases_in_every_split(split: str) -> None:
    assert 0.66 <= majority(split) <= 0.70


def test_no_pair_occurs_twice_in_either_order_within_or_across_splits() -> None:
    pairs = [frozenset((row["sentence1"], row["sentence2"])) for row in ALL_ROWS]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(pairs)) == len(pairs)


def test_the_sentences_are_as_long_as_those_of_a_newswire() -> None:
    lengths = np.array([len(sentence.split()) for sentence in ALL_SENTENCES])
    assert 15 <= lengths.mean() <= 24
    assert lengths.min() >= 7
    assert lengths.max() <= 40
    assert lengths.std() >= 3


def test_the_sentences_are_clean_english_on_the_surface() -> None:
    for sentence in ALL_SENTENCES:
        assert re.fullmatch(r"[A-Z].*[^.,]\.", sentence), sentence
        assert not re.search(r"[][<>{}|/_]|  | [,.]|,,", sentence), sentence
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiou81]", sentence), sentence


def test_some_paraphrases_deny_the_story_in_both_sentences() -> None:
    denial = re.compile(r"\b(denied|false|not true)\b")
    both = [row for row in ALL_ROWS if denial.search(row["sentence1"]) and denial.search(row["sentence2"])]
    assert sum(row["label"] for row in both) >= 10


def best_threshold_accuracy(measure: Callable[[Row], float]) -> float:
    """The best rule `measure >= threshold` or `measure < threshold` on train, scored on test."""
    train = np.array([measure(row) for row in SPLITS["train"]])
    test = np.array([measure(row) for row in SPLITS["test"]])
    rules = [(threshold, above) for threshold in np.unique(train) for above in (True, False)]
    threshold, above = max(rules, key=lambda rule: (((train >= rule[0]) == rule[1]) == labels("train")).mean())
    return float((((test >= threshold) == above) == labels("test")).mean())


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_no_threshold_on_word_overlap_beats_the_majority_class(measure: Callable[[Row], float]) -> None:
    assert abs(best_threshold_accuracy(measure) - majority("test")) <= 0.02


def test_a_classifier_on_word_overlap_does_not_beat_the_majority_class() -> None:
    table = {split: [[measure(row) for measure in MEASURES] for row in rows] for split, rows in SPLITS.items()}
    model = LogisticRegression().fit(table["train"], labels("train"))
    assert abs(model.score(table["test"], labels("test")) - majority("test")) <= 0.02


def test_pairs_that_are_no_paraphrases_share_as_many_words_as_paraphrases() -> None:
    overlaps = {label: np.mean([jaccard(row) for row in ALL_ROWS if row["label"] == label]) for label in (0, 1)}
    assert abs(overlaps[0] - overlaps[1]) <= 0.03
