"""Cut a validation set out of the training rows."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from datasets import Dataset

from ftloop.data.labels import Labels
from ftloop.errors import UserError
from ftloop.system.row_numbers import note_rows


def hold_out(train: Dataset, label_column: str, labels: Labels, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return the rows to train on and those to validate on, each in their order, and on disk as other sets are.

    Of each class about this share is held out, of numbers a share of all; no label leaves with its last training row.
    Raises: UserError when that leaves nothing to validate on.
    """
    rows = _held_out_rows(_kinds(train, label_column, labels), share, seed)
    if not len(rows):
        raise UserError(
            f"validation_split: each of the {len(train)} training rows is the only one with its label, so none can be "
            "held out; give more rows, or a validation set"
        )
    rest = np.setdiff1d(np.arange(len(train)), rows)
    # An index in memory would hide from the cache which rows these are; so they are written.
    kept, held_out = (note_rows(train.select(part).flatten_indices(), train, part) for part in (rest, rows))
    return kept, held_out


def _kinds(train: Dataset, label_column: str, labels: Labels) -> list[frozenset[Hashable]]:
    """Return what each row has of what training must not lose: its classes; of a number nothing."""
    if labels.regression:
        return [frozenset()] * len(train)
    column = train.with_format("arrow")[:][label_column].to_pylist()
    if labels.multi_label:
        return [frozenset(labels.ids[name] for name in names) for names in column]
    return [frozenset((labels.ids[name],)) for name in column]


def _held_out_rows(kinds: list[frozenset[Hashable]], share: float, seed: int) -> np.ndarray:
    """Return the positions to hold out, in ascending order.

    Drawn at even distances from the rows in random order, those of a kind together: so of each kind there is its share.
    (scikit-learn's stratified split refuses a class of one row, and a share of fewer rows than there are classes.)
    """
    shuffled = np.random.RandomState(seed).permutation(len(kinds))  # a stream that no version of NumPy changes
    numbers: dict[frozenset[Hashable], int] = {}
    order = [numbers.setdefault(kinds[row], len(numbers)) for row in shuffled.tolist()]
    together = shuffled[np.argsort(order, kind="stable")]
    count = min(round(share * len(kinds)) or 1, len(kinds) - 1)
    drawn = together[((np.arange(count) + 0.5) * len(kinds) / count).astype(int)]
    left = frozenset().union(*{kinds[row] for row in np.setdiff1d(together, drawn).tolist()})
    kept = []
    for row in drawn:
        if kinds[row] <= left:
            kept.append(row)
        left |= kinds[row]  # where it is not kept, it is trained on
    return np.sort(np.array(kept, dtype=int))
