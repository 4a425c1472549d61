"""The space of configurations on which ftloop is held against Trainer: axes, what excludes what, and choices from it.

A choice names one value on every axis. `covering_array` makes choices in which every two values that can occur
together do; `draw` makes one at random; `describe` writes one down so that `parse` reads it back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

Choice = dict[str, str]
Pair = frozenset[tuple[str, str]]


def _switch(**on: Any) -> dict[str, dict[str, Any]]:
    return {"off": {}, "on": on}


def _each(name: str, *values: Any) -> dict[str, dict[str, Any]]:
    return {str(value): {name: value} for value in values}


def _schedule(name: str, **kwargs: Any) -> dict[str, dict[str, Any]]:
    return {name: {"lr_scheduler_type": name} | ({"lr_scheduler_kwargs": kwargs} if kwargs else {})}


# The arguments each value stands for; where there are none, `space_runs.resolve` gives it its meaning. The first value
# of an axis is the one that a description leaves out.
AXES: dict[str, dict[str, dict[str, Any]]] = {
    "processes": {"1": {}, "2": {}, "3": {}},
    "mode": {"compat": {"trainer_compat": True}, "default": {}},
    # Whether Trainer takes the model's loss for one already divided by the items of the update: nearly all heads.
    "head": {"takes-kwargs": {}, "plain": {}},
    "architecture": {
        "bert": {},
        "bert-old-names": {},
        "distilbert": {},
        "roberta": {},
        "albert": {},
        "electra": {},
        "deberta-v2": {},
        "modernbert": {},
        "mpnet": {},
    },
    "sentences": {"one": {}, "two": {}},
    "labels": {"2": {}, "5": {}, "regression": {}},
    # By process: 4 rows a batch; 8 batches, the last of one row; 5 batches, so a short last window; 6, and no tail.
    "rows": {"short-batch": {}, "short-window": {}, "even": {}},
    "accumulation": _each("gradient_accumulation_steps", 1, 2, 3),
    "precision": {"fp32": {}, "bf16": {"bf16": True}},
    "length": {"2-epochs": {"num_train_epochs": 2}, "1.5-epochs": {"num_train_epochs": 1.5}, "max-steps": {}},
    "schedule": {
        **_schedule("linear"),
        **_schedule("cosine"),
        **_schedule("cosine_with_restarts", num_cycles=2),
        **_schedule("polynomial", power=2.0, lr_end=1e-6),
        **_schedule("constant"),
        **_schedule("constant_with_warmup"),
        **_schedule("inverse_sqrt"),
        **_schedule("cosine_with_min_lr", min_lr=1e-5),
        **_schedule("cosine_warmup_with_min_lr", min_lr_rate=0.1, warmup_lr_rate=0.2),
        **_schedule("warmup_stable_decay", num_decay_steps=2, min_lr_ratio=0.1),
    },
    "warmup": {"none": {}, "2": {"warmup_steps": 2}, "share": {"warmup_steps": 0.1}},
    "decay": _each("weight_decay", 0.01, 0.0),
    "clipping": _each("max_grad_norm", 1.0, 0.0, 0.01),
    "smoothing": _each("label_smoothing_factor", 0.0, 0.1),
    "optimizer": _each("optim", "adamw_torch_fused", "adamw_torch"),
    "recompute": _switch(gradient_checkpointing=True),
    "averaging": {"on": {}, "off": {"average_tokens_across_devices": False}},
    "evaluation": {
        "epoch": {"eval_strategy": "epoch"},
        "no": {"eval_strategy": "no"},
        "every-2": {"eval_strategy": "steps", "eval_steps": 2},
        "share": {"eval_strategy": "steps", "eval_steps": 0.4},
    },
    "on-start": _switch(eval_on_start=True),
    "delay": {"off": {}, "on": {}},
    "saving": {
        "epoch": {"save_strategy": "epoch"},
        "no": {"save_strategy": "no"},
        "every-2": {"save_strategy": "steps", "save_steps": 2},
        "every-3": {"save_strategy": "steps", "save_steps": 3},
        "best": {"save_strategy": "best"},
    },
    "load-best": _switch(load_best_model_at_end=True),
    "limit": {"none": {}, "1": {"save_total_limit": 1}, "2": {"save_total_limit": 2}},
    "content": {"whole": {}, "model": {"save_only_model": True}},
    "metric": {
        "none": {},
        "accuracy": {"metric_for_best_model": "accuracy"},  # with ties
        "loss": {"metric_for_best_model": "loss"},
        "falling": {"metric_for_best_model": "spread", "greater_is_better": False},
    },
    "stopping": _switch(early_stopping_patience=1),
    "logging": {
        "1": {"logging_steps": 1},
        "4": {"logging_steps": 4},
        "epoch": {"logging_strategy": "epoch"},
        "no": {"logging_strategy": "no"},
    },
    "first-step": _switch(logging_first_step=True),
    "drop-last": _switch(dataloader_drop_last=True),
    "workers": {
        "0": {},
        "2": {"dataloader_num_workers": 2},
        "persistent": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    },
    "seed": _each("seed", 42, 7),
    "data-seed": {"none": {}, "11": {"data_seed": 11}},
    # Whose checkpoint from the middle of the run ftloop continues, to end in the same bits.
    "resume": {"no": {}, "own": {}, "trainers": {}},
}

# What several processes can make another run of: every pair of these, and a draw of the rest, is held to Trainer.
# Each count of processes is launched once, and two or three of them share the cores: so not every value.
IN_SEVERAL_PROCESSES: dict[int, dict[str, tuple[str, ...]]] = {
    2: {
        "mode": ("compat", "default"),
        "head": ("takes-kwargs", "plain"),
        "architecture": ("bert", "bert-old-names", "distilbert", "roberta", "deberta-v2", "modernbert"),
        "rows": ("short-batch", "short-window", "even"),
        "accumulation": ("1", "2", "3"),
        "precision": ("fp32", "bf16"),
        "schedule": ("linear", "cosine", "polynomial", "constant_with_warmup", "warmup_stable_decay"),
        "clipping": ("1.0", "0.0", "0.01"),
        "smoothing": ("0.0", "0.1"),
        "averaging": ("on", "off"),
        "recompute": ("off", "on"),
        "evaluation": ("epoch", "no", "every-2"),
        "saving": ("epoch", "no", "every-3", "best"),
        "logging": ("1", "4", "epoch"),
        "drop-last": ("off", "on"),
        "resume": ("no", "own", "trainers"),
    },
    3: {
        "mode": ("compat", "default"),
        "architecture": ("bert", "electra", "mpnet"),
        "rows": ("short-batch", "short-window", "even"),
        "accumulation": ("1", "2", "3"),
        "precision": ("fp32", "bf16"),
        "clipping": ("1.0", "0.01"),
        "smoothing": ("0.0", "0.1"),
        "evaluation": ("epoch", "every-2"),
        "saving": ("epoch", "every-3", "best"),
        "logging": ("1", "4"),
        "drop-last": ("off", "on"),
        "resume": ("no", "own"),
    },
}

RESUMED = ("own", "trainers")

# What cannot occur together, and why.
IMPOSSIBLE: list[tuple[str, Mapping[str, tuple[str, ...]]]] = [
    # By default ftloop differs from Trainer on purpose: it counts every row of an update once.
    ("Trainer sums micro-batches", {"mode": ("default",), "head": ("takes-kwargs",), "accumulation": ("2", "3")}),
    ("Trainer sums processes", {"mode": ("default",), "head": ("takes-kwargs",), "processes": ("2", "3")}),
    (
        "Trainer counts a row of a short batch for more",
        {"mode": ("default",), "rows": ("short-batch",), "accumulation": ("2", "3"), "drop-last": ("off",)},
    ),
    (
        "Trainer trains on repeated rows, and evaluates them",
        {"mode": ("default",), "rows": ("short-batch",), "processes": ("2", "3")},
    ),
    (
        "Trainer leaves rows unevaluated",
        {"mode": ("default",), "rows": ("short-batch",), "drop-last": ("on",)},
    ),
    ("Trainer keeps the last LayerNorms", {"architecture": ("bert-old-names",), "load-best": ("on",)}),
    # What neither side does.
    ("smoothing needs classes", {"labels": ("regression",), "smoothing": ("0.1",)}),
    ("these classes cannot recompute", {"architecture": ("albert", "mpnet"), "recompute": ("on",)}),
    ("the best needs an evaluation", {"evaluation": ("no",), "load-best": ("on",)}),
    ("the best needs an evaluation", {"evaluation": ("no",), "saving": ("best",)}),
    ("patience needs an evaluation", {"evaluation": ("no",), "stopping": ("on",)}),
    ("the best needs a metric", {"metric": ("none",), "saving": ("best",)}),
    ("patience needs a metric", {"metric": ("none",), "stopping": ("on",)}),
    ("the best step needs a checkpoint", {"load-best": ("on",), "saving": ("no", "every-3")}),
    (
        "strategies must match",
        {"load-best": ("on",), "evaluation": ("epoch",), "saving": ("every-2",)},
    ),
    ("strategies must match", {"load-best": ("on",), "evaluation": ("every-2", "share"), "saving": ("epoch",)}),
    ("multiples must match", {"load-best": ("on",), "evaluation": ("share",), "saving": ("every-2",)}),
    # Forked from a process that has gloo's threads, a worker now and then never comes to life, on either side.
    ("workers may hang", {"processes": ("2", "3"), "workers": ("2", "persistent")}),
    # There is no checkpoint to resume from, or Trainer itself does not resume exactly.
    ("nothing to resume from", {"resume": RESUMED, "saving": ("no",)}),
    ("nothing to resume from", {"resume": RESUMED, "content": ("model",)}),
    ("nothing to resume from", {"resume": RESUMED, "limit": ("1",)}),
    ("Trainer's patience starts anew", {"resume": RESUMED, "mode": ("compat",), "stopping": ("on",)}),
    ("Trainer resumes to other bits", {"resume": RESUMED, "mode": ("compat",), "workers": ("persistent",)}),
    # DDP sorts its buckets anew after the first backward pass of a process where no parameter can go unused: from three
    # processes on, in which the order of a sum shows, the first update after a resume is then summed otherwise.
    ("buckets are sorted anew", {"resume": RESUMED, "recompute": ("on",), "processes": ("3",)}),
]

_ABOUT: dict[str, list[Mapping[str, tuple[str, ...]]]] = {
    axis: [excluded for _, excluded in IMPOSSIBLE if axis in excluded] for axis in AXES
}

# How often `draw` takes each value, where not alike: what costs more, less often.
WEIGHTS = {
    "processes": (7, 2, 1),
    "mode": (3, 2),
    "load-best": (1, 3),
    "workers": (3, 1, 2),
    "resume": (2, 1, 1),
    "stopping": (3, 1),
}


def is_allowed(partial: Choice, axis: str) -> bool:
    """Whether the value on `axis` can stand beside the others chosen so far."""
    return not any(all(partial.get(name) in values for name, values in each.items()) for each in _ABOUT[axis])


def complete(partial: Choice, preferred: Callable[[str, Choice], Iterable[str]]) -> Choice | None:
    """A choice on all axes that holds `partial`; values in the order preferred. None: there is none."""
    axis = next((axis for axis in AXES if axis not in partial), None)
    if not all(is_allowed(partial, name) for name in partial):
        return None
    if axis is None:
        return partial
    open_axes = [name for name in AXES if name not in partial and _ABOUT[name]]
    for value in preferred(axis, partial):
        wider = partial | {axis: value}
        # Looking one axis ahead finds a dead end where it begins, not twenty axes later.
        if all(any(is_allowed(wider | {name: v}, name) for v in AXES[name]) for name in open_axes if name != axis):
            whole = complete(wider, preferred)
            if whole is not None:
                return whole
    return None


def pairs(choice: Choice) -> set[Pair]:
    return {frozenset(two) for two in combinations(choice.items(), 2)}


def covering_array(fixed: Choice, seed: int = 0, only: Mapping[str, Iterable[str]] | None = None) -> list[Choice]:
    """Choices in which every possible pair of values occurs; the same ones every time.

    `fixed` holds for all. With `only`, the pairs are those of these axes and values, and the rest is drawn.
    """
    random_ = random.Random(seed)
    wanted = only or {axis: AXES[axis] for axis in AXES if axis not in fixed}
    values = [[(axis, value) for value in wanted[axis]] for axis in wanted]
    missing = [frozenset((a, b)) for first, second in combinations(values, 2) for a in first for b in second]
    random_.shuffle(missing)
    uncovered, choices = set(missing), []

    def most_new_pairs(axis: str, partial: Choice) -> list[str]:
        def gain(value: str) -> int:
            return sum(frozenset(((axis, value), other)) in uncovered for other in partial.items())

        return sorted(_drawn(axis, random_), key=gain, reverse=True)

    for pair in missing:
        if pair in uncovered and (choice := complete(fixed | dict(pair), most_new_pairs)) is not None:
            choices.append(choice)
            uncovered -= pairs(choice)
    return choices


def in_processes(count: int) -> list[Choice]:
    """The choices made with so many processes."""
    if count == 1:
        return covering_array({"processes": "1"})
    return covering_array({"processes": str(count)}, only=IN_SEVERAL_PROCESSES[count])


def draw(random_: random.Random, **fixed: str) -> Choice:
    """One choice at random."""
    # Drawn last, these would be what the other axes have left of them.
    first = {axis: _drawn(axis, random_)[0] for axis in ("processes", "mode", "resume") if axis not in fixed}
    choice = complete(fixed | first, lambda axis, _: _drawn(axis, random_))
    assert choice is not None, f"{fixed} cannot be"
    return choice


def _drawn(axis: str, random_: random.Random) -> list[str]:
    """All values of an axis, the likelier earlier."""
    values = list(AXES[axis])
    weights = WEIGHTS.get(axis, (1,) * len(values))
    keys = {value: random_.random() ** (1 / weight) for value, weight in zip(values, weights, strict=True)}
    return sorted(values, key=keys.__getitem__, reverse=True)


def describe(choice: Choice) -> str:
    """Name what is not the first value of its axis; `benchmarks/fidelity/parity.py --choice` runs it again."""
    return " ".join(f"{axis}={choice[axis]}" for axis, values in AXES.items() if choice[axis] != next(iter(values)))


def parse(text: str) -> Choice:
    """Raises: ValueError for what is not there, or cannot be together."""
    choice = {axis: next(iter(values)) for axis, values in AXES.items()}
    for word in text.split():
        axis, _, value = word.partition("=")
        if value not in AXES.get(axis, {}):
            raise ValueError(f"{word}: the axes are {', '.join(AXES)}; of {axis}: {', '.join(AXES.get(axis, {}))}")
        choice[axis] = value
    for reason, excluded in IMPOSSIBLE:
        if all(choice[axis] in values for axis, values in excluded.items()):
            raise ValueError(f"{reason}: {' '.join(f'{axis}={choice[axis]}' for axis in excluded)}")
    return choice
