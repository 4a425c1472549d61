"""The GLUE tasks: their text columns, label names, metrics and evaluation splits. Mirrors: run_glue's task_to_keys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """The settings that a task name stands for. `label_names` is empty for regression."""

    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    validation_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)


_ENTAILS = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
_SAME = ("not_equivalent", "equivalent")

TASKS = {
    "cola": Task(("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
    "mnli": Task(
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        validation_splits=("validation_matched", "validation_mismatched"),
        test_splits=("test_matched", "test_mismatched"),
    ),
    "mrpc": Task(_PAIR, _SAME, ("accuracy", "f1")),
    "qnli": Task(("question", "sentence"), _ENTAILS),
    "qqp": Task(("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "rte": Task(_PAIR, _ENTAILS),
    "sst2": Task(("sentence",), ("negative", "positive")),
    "stsb": Task(_PAIR, (), ("pearson", "spearmanr")),
    "wnli": Task(_PAIR, ("not_entailment", "entailment")),
    # Not part of GLUE: the built-in pairs, in MRPC's shape.
    "demo": Task(_PAIR, _SAME, ("accuracy", "f1")),
}

EVALUATED = tuple(sorted({split for task in TASKS.values() for split in (*task.validation_splits, *task.test_splits)}))
