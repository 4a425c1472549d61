"""What throughput.py compares: one row for each pair of variants, and how much of each is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The guide's job; for both sides.
GUIDE: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": "true",
    "metric_for_best_model": "accuracy",
    "logging_steps": 50,
    "disable_tqdm": "true",
}
# What ftloop tunes by itself without changing a bit, and Trainer does not; off where all else is to be equal.
PLAIN = {"keep_freed_memory": "false"}


@dataclass(frozen=True)
class Sizes:
    """Amount of work of a benchmark: in full, or `--quick`."""

    train_rows: int | None
    """Training rows of comparisons where one run is like another (None: all); the fast recipe's take all."""
    eval_rows: int | None
    epochs: int
    whole_train_rows: int | None
    whole_epochs: int
    loop_steps: int
    matmul_seconds: float
    cuda_steps: int


FULL = Sizes(600, 200, 1, None, 3, 1000, 3.0, 130)
QUICK = Sizes(48, 32, 1, 48, 1, 30, 0.2, 60)


@dataclass(frozen=True)
class Row:
    name: str
    ours: str
    theirs: str
    """Names of variants."""
    value: str
    """Figure of a finished run that is compared."""
    target: float
    """Ratio of ours to theirs, at most."""
    told: str
    same_weights: bool = False
    """The comparison is void unless both sides end in the same bytes."""
    same_accuracy: bool = False
    """Repeated over seeds, and accuracy and F1 of the best checkpoint on the test set compared too."""
    needs: tuple[str, ...] = ()
    """Other variants to be run."""


WHOLE = ("fast", "grouped", "guide", "best")
"""Kinds of runs over all rows and epochs, repeated over seeds; what other variants' names begin with is a short run."""


def _rows() -> list[Row]:
    rows = []
    for p in ("fp32", "bf16"):
        plain, ours, theirs = f"ftloop-plain-{p}", f"ftloop-{p}", f"trainer-{p}"
        same = "guide's arguments, all else equal: the whole command"
        rows.append(Row(f"identical-{p}", plain, theirs, "seconds", 1.0, same, same_weights=True))
        part = "of the same runs train(): in ftloop's, scikit-learn is imported too, in the script's it is before"
        rows.append(Row(f"train-{p}", plain, theirs, "train_seconds", 1.0, part, same_weights=True))
        as_used = "the same arguments, each as a user runs it: the whole command"
        rows.append(Row(f"defaults-{p}", ours, theirs, "seconds", 0.9, as_used, same_weights=True))
        rows.append(Row(f"memory-{p}", ours, theirs, "peak_mb", 1.0, "largest resident set of these runs"))
        rows.append(Row(f"memory-plain-{p}", plain, theirs, "peak_mb", 1.0, "the same, freed memory given back"))
        none = "the same rows per batch, padding not computed (--padding none): train()"
        rows.append(Row(f"unpadded-{p}", f"ftloop-unpadded-{p}", theirs, "train_seconds", 0.72, none))
    loop = ("loop-ftloop", "loop-trainer", "ms_above_bare", 0.35)
    rows.append(Row("loop-cost", *loop, "tiny model: ms per step above a bare loop", True, needs=("loop-bare",)))
    start = ("start-ftloop", "start-trainer", "first_update_seconds", 0.6)
    rows.append(Row("first-update", *start, "command to first finished update; tokens cached on both sides"))
    best = "Trainer in bf16 with train_sampling_strategy=group_by_length"
    for kind, recipe in (("fast", "fast recipe"), ("grouped", "fast recipe with rows grouped by length, and padded")):
        ours = f"{kind}-ftloop"
        for name, theirs, target, told in (
            (f"{kind}-vs-guide", "guide-trainer", 1 / 3.0, "the guide's job in Trainer, fp32"),
            (f"{kind}-vs-best", "best-trainer", 1 / 1.5, best),
        ):
            rows.append(Row(name, ours, theirs, "seconds", target, f"{recipe}: {told}", same_accuracy=True))
        for p, theirs, target in (("fp32", "guide-trainer", 1 / 2.5), ("bf16", "best-trainer", 1 / 1.3)):
            told = f"evaluation of the test set by the {recipe} and by Trainer in {p}; of the same runs"
            rows.append(Row(f"{kind}-evaluation-{p}", ours, theirs, "test_seconds", target, told))
    short = "fast recipe: the guide's job in Trainer, fp32, of the short runs: train()"
    rows.append(Row("fast-short", "short-fast-ftloop", "trainer-fp32", "train_seconds", 1 / 1.7, short))
    for p in ("fp16", "bf16"):
        for size in (16, 32):
            theirs, guides = f"cuda-trainer-{p}-{size}", f"cuda-trainer-fp16-{size}"
            told = f"GPU, bert-base's shape, {p}, {size} rows"
            rows.append(Row(f"cuda-{p}-{size}", f"cuda-ftloop-{p}-{size}", theirs, "ms_per_step", 0.9, told))
            fast = f"cuda-ftloop-fast-{p}-{size}"
            rows.append(
                Row(f"cuda-fast-{p}-{size}", fast, guides, "ms_per_step", 1 / 3.0, f"{told}, fast: Trainer fp16")
            )
    return rows


ROWS = {row.name: row for row in _rows()}
EXTRA = "arithmetic"  # no comparison of two: how far each side is from the machine's peak
