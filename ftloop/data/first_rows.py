"""Labels that the first training rows lack where `max_train_samples` takes these alone: of a sorted file, most."""

from __future__ import annotations

from itertools import groupby

from datasets import Dataset

from ftloop.data.scan import MAX_SHOWN, distinct_values, has_lists
from ftloop.data.values import plain_spelling
from ftloop.system.text import join_some, short_repr

SHUFFLE = "shuffle the rows of the training file, as pandas' .sample(frac=1) does"


def labels_left_out(train: Dataset, read: Dataset, column: str) -> str | None:
    """Say which labels of the rows that were `read` the first of them, `train`, have not, why, and what to do; None
    where they have all."""
    if len(train) == len(read):
        return None
    taken, known = _labels(train, column), _labels(read, column)
    if taken == known:
        return None
    lacking = join_some([short_repr(label) for label in known if label not in taken], MAX_SHOWN)
    rows = [label if isinstance(label, list) else [label] for label in read[column]]
    left, enough = {*known}, 0
    while left:
        left -= {plain_spelling(label) for label in rows[enough] if label}
        enough += 1
    is_sorted = not has_lists(read, column) and len(list(groupby(rows))) == len(distinct_values(read, column))
    cause = f"as the rows {'are' if is_sorted else 'may be'} sorted by class"
    return (
        f"the first {len(train)} training rows, which --max_train_samples takes, have {len(taken)} of {len(known)} "
        f"labels, not {lacking}, {cause}: {SHUFFLE}, raise it to {enough} or more, with which all occur, or leave it "
        "out"
    )


def _labels(dataset: Dataset, column: str) -> dict[str, None]:
    """Return the labels, by whichever of their spellings, in the order of their first rows."""
    return dict.fromkeys(plain_spelling(label) for label in distinct_values(dataset, column) if label and label.strip())
