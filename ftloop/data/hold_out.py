"""Cut a validation set, or one of several folds, out of the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from ftloop.data.labels import Labels
from ftloop.data.remarks import Remark
from ftloop.errors import UserError
from ftloop.system.row_numbers import note_rows
from ftloop.system.text import join_some, pluralize, short_repr

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig

MAX_NAMED = 5
MAX_BINS = 10  # of numbers, of each of which every fold gets its share

Kinds = list[frozenset[int]]
"""What each row has of what training must not lose: its classes; of a number nothing."""


def check_validation_set(config: TrainConfig, validation: Collection[str], splits: Sequence[str]) -> list[Remark]:
    """Say that folds leave one out. Raises: UserError when there is none, or one that `validation_split` would."""
    if config.fold is not None:
        told = f"the validation set ({join_some([*validation], 2)}): each fold has its own"
        return [("Left out", told)] if validation else []
    if config.validation_split is not None and validation:
        has = f"the data set has a validation set ({', '.join(validation)})"
        raise UserError(f"validation_split: {has}; leave it out")
    if config.eval_strategy == "no" or config.validation_split is not None or validation:
        return []
    others = [name for name in splits if name != "train"]
    ways = ["give --validation_file"] if config.train_file else []
    ways += [f"name the split to use with --validation_split_name ({', '.join(others)})"] if others else []
    never = ["--eval_strategy no"]
    never += ["--load_best_model_at_end false"] if config.load_best_model_at_end else []
    never += ["--save_strategy epoch"] if config.save_strategy == "best" else []
    never += ["--early_stopping_patience none"] if config.early_stopping_patience is not None else []
    ways += ["hold out a tenth of the training rows with --validation_split 0.1"]
    raise UserError(
        f"eval_strategy is {config.eval_strategy}, but there is no validation set: {', '.join(ways)}, "
        f"or evaluate never with {' '.join(never)}"
    )


def hold_out(
    train: Dataset, label_column: str, labels: Labels, config: TrainConfig
) -> tuple[Dataset, Dataset, list[Remark]]:
    """Return the rows to train on and those to validate on, a share or a fold, each in their order, and on disk as
    other sets are; and what is to be said of them.

    Of each class about this share is held out, of numbers a share of all, or of each quantile. No label leaves with its
    last training row.
    Raises: UserError when that leaves nothing to validate on, in any of the folds.
    """
    kinds = _kinds(train, label_column, labels)
    if config.folds is not None and config.fold is not None:
        column = train.with_format("arrow")[:][label_column].to_pylist() if labels.regression else []
        strata = _quantiles([float(number) for number in column], config.folds) if labels.regression else kinds
        parts = fold_rows(kinds, strata, config.folds, config.split_seed)
        _check_folds(parts, len(train))
        rows, remarks = parts[config.fold - 1], _fold_remarks(kinds, labels, parts)
    else:
        assert config.validation_split is not None
        rows, remarks = _held_out_rows(kinds, config.validation_split, config.split_seed), []
    if not len(rows):
        raise UserError(
            f"validation_split: each of the {len(train)} training rows is the only one with its label, so none can be "
            "held out; give more rows, or a validation set"
        )
    rest = np.setdiff1d(np.arange(len(train)), rows)
    # An index in memory would hide from the cache which rows these are; so they are written.
    kept, held_out = (note_rows(train.select(part).flatten_indices(), train, part) for part in (rest, rows))
    return kept, held_out, remarks


def _kinds(train: Dataset, label_column: str, labels: Labels) -> Kinds:
    if labels.regression:
        return [frozenset()] * len(train)
    column = train.with_format("arrow")[:][label_column].to_pylist()
    if labels.multi_label:
        return [frozenset(labels.ids[name] for name in names) for names in column]
    return [frozenset((labels.ids[name],)) for name in column]


def _held_out_rows(kinds: Kinds, share: float, seed: int) -> np.ndarray:
    """Return the positions to hold out, in ascending order.

    Drawn at even distances from the rows in random order, those of a kind together: so of each kind there is its share.
    (scikit-learn's stratified split refuses a class of one row, and a share of fewer rows than there are classes.)
    """
    together = _together(kinds, seed)
    count = min(round(share * len(kinds)) or 1, len(kinds) - 1)
    return _without_last_rows(kinds, together[((np.arange(count) + 0.5) * len(kinds) / count).astype(int)])


def fold_rows(kinds: Kinds, strata: Sequence[Hashable], folds: int, seed: int) -> list[np.ndarray]:
    """Return the positions of each fold, in ascending order: the rows in random order, those of a stratum together, are
    dealt to the folds in turn. (scikit-learn's StratifiedKFold takes neither numbers nor rows with several labels.)
    """
    together = _together(strata, seed)
    return [_without_last_rows(kinds, together[first::folds]) for first in range(folds)]


def _quantiles(numbers: Sequence[float], folds: int) -> list[int]:
    """Return in which quantile each number lies; there are as many as give every fold a row of each."""
    count, places = max(min(len(numbers) // folds, MAX_BINS), 1), np.arange(len(numbers))
    found = np.empty_like(places)
    found[np.argsort(numbers, kind="stable")] = places * count // max(len(numbers), 1)
    return list(found.tolist())


def _together(strata: Sequence[Hashable], seed: int) -> np.ndarray:
    """Return the positions in random order, those of a stratum together."""
    shuffled = np.random.RandomState(seed).permutation(len(strata))  # a stream that no version of NumPy changes
    numbers: dict[Hashable, int] = {}
    order = [numbers.setdefault(strata[row], len(numbers)) for row in shuffled.tolist()]
    return np.asarray(shuffled[np.argsort(order, kind="stable")])


def _without_last_rows(kinds: Kinds, drawn: np.ndarray) -> np.ndarray:
    """Return those of the drawn positions with which no label leaves, in ascending order."""
    left = frozenset[int]().union(*{kinds[row] for row in np.setdiff1d(np.arange(len(kinds)), drawn).tolist()})
    kept = []
    for row in drawn.tolist():
        if kinds[row] <= left:
            kept.append(row)
        left |= kinds[row]  # where it is not kept, it is trained on
    return np.sort(np.array(kept, dtype=int))


def _check_folds(parts: list[np.ndarray], rows: int) -> None:
    empty = [str(number) for number, part in enumerate(parts, 1) if not len(part)]
    if empty:
        never = rows - sum(map(len, parts))
        why = f", of which {never} cannot be held out without the loss of a label" if never else ""
        raise UserError(
            f"folds: {pluralize(rows, 'training row')}{why}: of {len(parts)} folds {join_some(empty, MAX_NAMED)} would "
            "have none; give fewer folds, or more rows"
        )


def _fold_remarks(kinds: Kinds, labels: Labels, parts: list[np.ndarray]) -> list[Remark]:
    counts, folds = Counter(label for kind in kinds for label in kind), len(parts)
    rare = [f"{short_repr(labels.names[label])} {count}" for label, count in sorted(counts.items()) if count < folds]
    told = [f"fewer rows than folds, so that some have none of it: {join_some(rare, MAX_NAMED)}"] if rare else []
    if never := len(kinds) - sum(map(len, parts)):
        rows = "1 row is" if never == 1 else f"{never} rows are"
        told.append(f"{rows} trained on in every fold and never predicted: else a label would be lost")
    return [("Warning", text) for text in told]
