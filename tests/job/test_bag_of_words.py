"""What words alone tell: found where labels hang on words, and left out, with the reason, where nothing can be said."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.job import bag_of_words
from ftloop.job.bag_of_words import describe, score_bag_of_words

TWO = Labels(("ham", "spam"), {})
WORDS = ("red", "green", "blue")


def inputs(labels: Labels, learned: Any, texts: list[Any], scored: int = 40, pairs: bool = False) -> Any:
    """Rows of which the first `scored` are the validation and the test set as well."""
    columns = ("a", "b") if pairs else ("a",)
    values = {name: [text[i] if pairs else text for text in texts] for i, name in enumerate(columns)}
    rows = Dataset.from_dict(values | {"label": learned})
    part = rows.select(range(scored))
    data = SimpleNamespace(
        train=rows,
        validation={"validation": part},
        test={"test": part},
        labels=labels,
        metrics=None,
        text_columns=columns,
        has_labels=lambda dataset: True,
    )
    return SimpleNamespace(data=data, encoded={"train": rows, "validation": part, "test": part})


def planted(count: int, rows: int = 120) -> tuple[list[int], list[str]]:
    draw = random.Random(0)
    ids = [draw.randrange(count) for _ in range(rows)]
    return ids, [f"it is {draw.choice(('a', 'the'))} {WORDS[id]} thing" for id in ids]


def test_labels_that_hang_on_a_word_are_found_and_nothing_is_drawn() -> None:
    ids, texts = planted(2)
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    found = score_bag_of_words(inputs(TWO, ids, texts))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    assert found == {"rows": 120, "sets": {name: {"accuracy": 1.0, "f1": 1.0} for name in ("validation", "test")}}
    assert found == score_bag_of_words(inputs(TWO, ids, texts))
    told = "alone (TF-IDF with logistic regression on the same rows): validation accuracy=1.0000, f1(spam)=1.0000; test"
    assert describe(found, TWO, 120).startswith(told)


def test_labels_that_no_word_tells_are_not_found() -> None:
    draw = random.Random(0)
    _, texts = planted(3)
    found = score_bag_of_words(inputs(TWO, [draw.randrange(2) for _ in texts], texts))
    assert found["sets"]["test"]["accuracy"] < 0.75


def test_of_a_pair_it_sees_what_the_texts_share() -> None:
    draw = random.Random(0)
    drawn = [draw.choices(WORDS, k=2) for _ in range(200)]
    same = [int(a == b) for a, b in drawn]
    found = score_bag_of_words(inputs(TWO, same, [tuple(each) for each in drawn], pairs=True))
    assert found["sets"]["validation"]["accuracy"] == 1.0


def test_several_labels_and_numbers() -> None:
    ids, texts = planted(3)
    several = Labels(WORDS, {}, ProblemType.MULTI_LABEL)
    hot = np.eye(3, dtype=np.float32)[ids].tolist()
    assert score_bag_of_words(inputs(several, hot, texts))["sets"]["test"]["f1"] == 1.0
    number = Labels((), {}, ProblemType.REGRESSION)
    found = score_bag_of_words(inputs(number, [float(id) for id in ids], texts))
    assert found["sets"]["test"]["pearson"] > 0.95
    assert "ridge regression" in describe(found, number, 120)


@pytest.mark.parametrize(
    ("labels", "ids", "texts", "reason"),
    [
        (TWO, [1] * 50, ["some words"] * 50, "the rows it would be trained on have one label"),
        (TWO, [0, 1] * 25, ["好", "坏"] * 25, "the texts hold no words between spaces"),
        (Labels(tuple(map(str, range(200))), {}), list(range(200)) * 4, ["word"] * 800, "200 classes would take"),
    ],
)
def test_what_cannot_be_tried_is_left_out_with_the_reason(
    labels: Labels, ids: list[int], texts: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if labels.count == 200:
        monkeypatch.setattr(bag_of_words, "MAX_WORK", 40_000)
    found = score_bag_of_words(inputs(labels, ids, texts))
    assert reason in found["left_out"]
    assert describe(found, labels, len(ids)) == f"(TF-IDF with logistic regression) not tried: {found['left_out']}"


def test_many_rows_are_thinned_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_of_words, "MAX_ROWS", 60)
    ids, texts = planted(2)
    found = score_bag_of_words(inputs(TWO, ids, texts))
    assert found["rows"] == 60
    assert "on 60 of the rows)" in describe(found, TWO, 120)


def test_without_a_labelled_set_nothing_is_said() -> None:
    ids, texts = planted(2)
    given = inputs(TWO, ids, texts)
    given.data.has_labels = lambda dataset: False
    assert score_bag_of_words(given) == {}
    assert describe({}, TWO, 120) == ""


def test_rows_of_two_classes_in_turn_are_not_all_of_one_in_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every second row one class would be left out."""
    monkeypatch.setattr(bag_of_words, "MAX_ROWS", 60)
    ids = [0, 1] * 60
    texts = [f"it is a {WORDS[id]} thing" for id in ids]
    trained_on: list[Any] = []
    fitted = bag_of_words._fitted
    monkeypatch.setattr(
        bag_of_words,
        "_fitted",
        lambda features, true, labels: trained_on.append(true) or fitted(features, true, labels),
    )
    found = score_bag_of_words(inputs(TWO, ids, texts))
    assert found["rows"] == 60
    assert 15 < trained_on[0].sum() < 45
    assert found == score_bag_of_words(inputs(TWO, ids, texts))
