"""TF-IDF with logistic regression on the rows of a run: what words alone tell, in seconds and without a GPU. A
fine-tuned transformer that is no better has not paid for itself."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.trainer_utils import EvalPrediction

from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels, label_ids
from ftloop.job.inputs import Inputs
from ftloop.logs import format_numbers
from ftloop.metrics import metric_titles, metrics_for
from ftloop.system.imports import import_without_drawing
from ftloop.system.text import nan_to_none

if TYPE_CHECKING:
    from datasets import Dataset

MAX_ROWS = 10_000  # of the training set ...
MAX_WORK = 100_000  # ... and no more than this many times the number of classes: some seconds on one core
MIN_ROWS_PER_CLASS = 10  # on average; below that the bound leaves too few to say anything
MAX_CHARACTERS = 1_000  # of a text
MAX_SCORED = 50_000  # rows of a set


def score_bag_of_words(inputs: Inputs) -> dict[str, Any]:
    """Train it on the training set and score it on each labelled set, by the metrics of the data.

    Returns: `sets`, the metrics of each set, and `rows`, how many it was trained on; or `left_out`, why there are none;
    nothing where there is no labelled set. The same for the same rows, and the run's random states stay as they are.
    """
    data, labels = inputs.data, inputs.data.labels
    scored = {name: rows for name, rows in (data.validation | data.test).items() if data.has_labels(rows)}
    scored = {name: rows for name, rows in scored.items() if 0 < len(rows) <= MAX_SCORED}
    rows = min(len(data.train), MAX_ROWS, MAX_WORK // labels.count)
    if not scored:
        return {}
    if rows < len(data.train) and rows < MIN_ROWS_PER_CLASS * labels.count:
        return {"left_out": f"{labels.count} classes would take it too long"}
    # Not every second row or the like: files may have one class in these.
    chosen = np.sort(np.random.RandomState(0).permutation(len(data.train))[:rows])
    true = label_ids(inputs.encoded["train"])[chosen]
    if not labels.regression and len(np.unique(true, axis=0)) < 2:
        return {"left_out": "the rows it would be trained on have one label"}
    texts = _texts(data.train.select(chosen), data.text_columns)
    features = _Features()
    try:
        fitted = features.fit(texts)
    except ValueError:  # no word of two letters in any row, as in Chinese without spaces or in ids
        return {"left_out": "the texts hold no words between spaces"}
    model = _fitted(fitted, true, labels)
    sets, compute_metrics = {}, metrics_for(labels, data.metrics)
    for name, dataset in scored.items():
        predicted = model.predict(features.of(_texts(dataset, data.text_columns)))
        sets[name] = compute_metrics(EvalPrediction(predicted, label_ids(inputs.encoded[name])))
    return {"sets": nan_to_none(sets), "rows": len(chosen)}


def describe(found: dict[str, Any], labels: Labels, train_rows: int) -> str:
    """Write what `score_bag_of_words` has found as a person reads it; empty where that is nothing."""
    kind = f"TF-IDF with {'ridge' if labels.regression else 'logistic'} regression"
    if "left_out" in found:
        return f"({kind}) not tried: {found['left_out']}"
    if not found:
        return ""
    titles = metric_titles(labels)
    sets = [
        f"{name} {format_numbers({titles.get(key, key): value for key, value in metrics.items() if value is not None})}"
        for name, metrics in found["sets"].items()
    ]
    rows = "the same rows" if found["rows"] == train_rows else f"{found['rows']} of the rows"
    return f"alone ({kind} on {rows}): {'; '.join(sets)}"


def _texts(rows: Dataset, columns: tuple[str, ...]) -> list[list[str]]:
    table = rows.select_columns(list(columns)).with_format("arrow")[:]
    return [[(text or "")[:MAX_CHARACTERS] for text in table[name].to_pylist()] for name in columns]


class _Features:
    """TF-IDF of words and of pairs of neighbouring words; of two texts that of each, their distance and product."""

    def __init__(self) -> None:
        vectorizer: Any = import_without_drawing("sklearn.feature_extraction.text").TfidfVectorizer
        self.words = vectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=50_000)

    def fit(self, texts: list[list[str]]) -> Any:
        self.words.fit([text for column in texts for text in column])
        return self.of(texts)

    def of(self, texts: list[list[str]]) -> Any:
        from scipy.sparse import hstack

        parts = [self.words.transform(column) for column in texts]
        if len(parts) == 2:
            a, b = parts
            parts += [abs(a - b), a.multiply(b)]
        return hstack(parts).tocsr()


def _fitted(features: Any, true: np.ndarray, labels: Labels) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    model: Any = Ridge(solver="lsqr") if labels.regression else LogisticRegression(C=10)
    if labels.problem_type == ProblemType.MULTI_LABEL:
        model = OneVsRestClassifier(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 100 steps that may not suffice: it need not be the last digit
        return model.fit(features, true)
