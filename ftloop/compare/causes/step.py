"""Causes of a different step: losses, gradients, clipping, learning rates and the optimizer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from ftloop.compare.causes.case import (
    Case,
    Cause,
    cause_of,
    differing_arguments,
    is_close,
    usual_window,
    whatever_the_rows,
)
from ftloop.compare.differences import Line, Recording

LAST_DIGITS = 1e-5
"""Relative difference that another order of summation makes in one update; a wrong formula makes a larger one."""

SAME_ARITHMETIC = ("threads", "device", "torch", "transformers")
"""What two runs have to share for the same sums in the same order: transformers has the model's."""


@cause_of("loss", "gradient")
def not_in_training_mode(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: case.micro_batch(side)["training"])
    if not mine and theirs and not differed_before(case, "training"):
        yield case.cause("eval-mode")


@cause_of("loss")
def fixed_divisor_in_the_last_window(case: Case) -> Iterator[Cause]:
    window, usual = len(case.micro_batches(case.suspect)), usual_window(case.suspect)
    if case.ratio and window < usual and is_close(case.ratio, window / usual):
        yield case.cause("fixed-divisor", window=window, usual=usual)


@cause_of("loss", "gradient")
def scaled_by_accumulation_or_processes(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(case.micro_batches)
    what, window, processes, ratio = case.first.stage, len(mine), case.processes, case.ratio
    pairs = zip(mine, theirs, strict=False)
    if ratio is None:
        return
    if what == "loss" and not all(y["loss"] and is_close(x["loss"] / y["loss"], ratio) for x, y in pairs):
        return  # not a factor on the whole update
    factors = {"accumulation": window, "world-size": processes}
    names = [name for name, factor in factors.items() if factor > 1 and is_close(ratio, factor)]
    evaluation = evaluation_ratio(case)
    if len(names) == 2 and evaluation is not None:
        names = ["world-size" if is_close(evaluation, processes, 0.2) else "accumulation"]
    if min(window, processes) > 1 and is_close(ratio, window * processes):
        names = ["accumulation-and-world-size"]
    for name in names:
        yield case.cause(name, what=what, window=window, processes=processes)


@cause_of("loss")
def weight_of_rows_or_micro_batches(case: Case) -> Iterator[Cause]:
    """The suspect weighs each micro-batch by its rows, the reference all the same: the ratio is rows / mean rows."""
    mine, theirs = case.both(lambda side: [m for line in side.updates[case.update] for m in line["micro_batches"]])
    sizes = [len(micro["rows"]) for micro in mine]
    if len(set(sizes)) < 2 or any(not micro["loss"] for micro in theirs):
        return
    mean = sum(sizes) / len(sizes)
    triples = zip(mine, theirs, sizes, strict=True)
    # The first one alone has seen equal weights and dropout on both sides; the rest of the update has as well.
    if all(is_close(x["loss"] / y["loss"], size / mean, LAST_DIGITS) for x, y, size in triples):
        yield case.cause("row-weighting", sizes=", ".join(map(str, sizes)))


@cause_of("loss", "gradient", "evaluation")
def padding_that_is_not_computed(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: side.header.get("arguments", {}).get("padding"))
    if mine == "none" != theirs:
        yield case.cause("padding-none")


@whatever_the_rows("loss")
def never_in_training_mode(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(
        lambda side: {u: all(m["training"] for m in lines[0]["micro_batches"]) for u, lines in side.updates.items()}
    )
    if any(theirs[update] and not mine[update] for update in case.comparison.updates):
        yield case.cause("eval-mode")


settings_of_the_loss = differing_arguments("bf16", "fp16", "label_smoothing_factor", "class_weights", "problem_type")
cause_of("loss")(settings_of_the_loss)
whatever_the_rows("loss")(settings_of_the_loss)


@whatever_the_rows("loss")
@cause_of("loss")
def precision(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(precision_of)
    if mine and theirs and mine != theirs:
        yield case.cause("precision", mine=mine, theirs=theirs)


@cause_of("gradient")
def gradients_not_cleared(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: case.micro_batches(side)[0].get("fresh"))
    # A loop may clear them between forward and backward too; then they have been there in equal updates before.
    if mine is False and theirs and not differed_before(case, "fresh"):
        yield case.cause("zero-grad")


@cause_of("gradient")
def exchange_of_gradients(case: Case) -> Iterator[Cause]:
    here, last = case.first.micro_batch or 0, len(case.micro_batches(case.suspect)) - 1

    def is_exchanged(side: Recording) -> bool:
        return len({line["micro_batches"][here]["grad"] for line in side.updates[case.update]}) == 1

    mine, theirs = case.both(is_exchanged)
    if here < last and mine and not theirs:
        yield case.cause("no-sync", here=here + 1, last=last + 1)
    elif here == last and not mine and theirs:
        yield case.cause("not-exchanged")


@whatever_the_rows("gradient")
@cause_of("gradient")
def buckets_of_ddp(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: side.header.get("find_unused_parameters"))
    if case.processes > 1 and None not in (mine, theirs) and mine != theirs:
        yield case.cause("find-unused-parameters", mine=mine, theirs=theirs)


@whatever_the_rows("clipping")
@cause_of("clipping")
def cleared_before_the_step(case: Case) -> Iterator[Cause]:
    if case.values[0] == 0 and case.values[1]:
        yield case.cause("cleared-before-step")


@whatever_the_rows("clipping")
@cause_of("clipping")
def clipped_or_not(case: Case) -> Iterator[Cause]:
    """Seen in the norms before and after clipping of all updates."""
    my_limit, limit = case.both(lambda side: clipping_limit(case, side))
    mine = [lines[case.first.process] for lines in case.suspect.updates.values()]
    norms = [line["micro_batches"][-1]["grad_norm"] for line in mine]
    is_above = any(math.isfinite(norm) and norm > limit * 1.001 for norm in norms if limit)
    if limit and is_above and not any(map(is_clipped, mine)):
        yield case.cause("no-clipping", limit=limit)
    elif my_limit and limit and not is_close(my_limit, limit, 1e-3):
        yield case.cause("max-grad-norm", mine=my_limit, theirs=limit)


@cause_of("loss", "gradient", "evaluation")
def arithmetic(case: Case) -> Iterator[Cause]:
    """Checked last: the last digits differ, and so do the machines or their settings."""
    if case.ratio is None or not is_close(case.ratio, 1, LAST_DIGITS):
        return
    mine, theirs = case.both(
        lambda side: {name: (side.header | side.header["versions"]).get(name) for name in SAME_ARITHMETIC}
    )
    facts = [
        f"{name} {mine[name]} and {theirs[name]}"
        for name in mine
        if mine[name] != theirs[name] and None not in (mine[name], theirs[name])
    ]
    if facts:
        yield case.cause("arithmetic", facts="; ".join(facts))


@cause_of("learning rate")
def schedule_runs_too_fast(case: Case) -> Iterator[Cause]:
    """Stepped after the optimizer, the first update still has the right one; before it, none has."""
    processes, steps, window = case.processes, micro_batches_until(case), usual_window(case.suspect)
    if 0 not in steps:
        return
    if processes > 1 and is_shifted(case, lambda update: (update - 1) * processes + 1):
        yield case.cause("prepared-scheduler", factor=processes)
    after, before = (lambda update: steps[update - 1] + 1), (lambda update: steps[update])
    if window > 1 and (is_shifted(case, after) or is_shifted(case, before)):
        yield case.cause("scheduler-per-micro-batch", factor=window)


@cause_of("learning rate")
def schedule_waits_for_overflows(case: Case) -> Iterator[Cause]:
    """Under fp16 the reference holds its schedule back for an update that the gradient scaler skipped."""
    earlier = {u: lines[0]["micro_batches"][-1] for u, lines in case.reference.updates.items() if u < case.update}
    skipped = [u for u in case.comparison.updates if u in earlier and not math.isfinite(earlier[u]["grad_norm"])]
    if skipped and is_shifted(case, lambda update: update + len(skipped)):
        yield case.cause("overflow-schedule", skipped=", ".join(map(str, skipped)))


@cause_of("learning rate")
def schedule_is_ahead(case: Case) -> Iterator[Cause]:
    if is_shifted(case, lambda update: update + 1):
        yield case.cause("scheduler-first")


@cause_of("learning rate")
def peak_of_the_schedule(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: side.curve("learning_rate"))
    ratios = [mine[u] / theirs[u] for u in case.comparison.updates if u in mine and theirs.get(u)]
    if len(ratios) > 2 and all(is_close(ratio, ratios[0], 1e-9) for ratio in ratios):
        yield case.cause("learning-rate", ratio=ratios[0])


@cause_of("learning rate")
def length_of_the_schedule(case: Case) -> Iterator[Cause]:
    """Both fall linearly, from the same place to different ends."""
    curves = case.both(lambda side: side.curve("learning_rate"))
    mine, theirs = map(end_of_linear_decay, curves)
    begin = min(case.comparison.updates)
    if curves[0].get(begin) == curves[1].get(begin) and None not in (mine, theirs) and mine != theirs:
        yield case.cause("schedule-length", mine=mine, theirs=theirs)


cause_of("learning rate")(
    differing_arguments(
        *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"),
        *("num_train_epochs", "max_steps"),
    )
)


@cause_of("learning rate")
def kind_of_schedule(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: shape_of(side.curve("learning_rate")))
    if mine and theirs and mine != theirs:
        yield case.cause("schedule-kind", mine=mine, theirs=theirs)


@whatever_the_rows("weights")
@cause_of("weights")
def optimizer(case: Case) -> Iterator[Cause]:
    """What differs between the optimizers makes other weights of the same gradients and learning rate."""
    mine, theirs = case.both(lambda side: side.header["optimizer"])
    moved = [u for u in case.comparison.updates if any(case.line(case.suspect, u).get("lr") or [0])]
    if mine == theirs or case.update > min(moved, default=0):
        return  # what makes no difference in the first update that moves makes none later
    if mine["class"] != theirs["class"]:
        yield case.cause("optimizer", mine=mine["class"], theirs=theirs["class"])
        return
    decays = tensors_by_decay(mine), tensors_by_decay(theirs)
    if decays[0] != decays[1]:
        shown = [", ".join(f"{count} tensors with {decay:g}" for decay, count in sorted(d.items())) for d in decays]
        yield case.cause("decay-groups", mine=shown[0], theirs=shown[1])
    for name in ("fused", "foreach", "eps", "betas", "amsgrad", "momentum"):
        x, y = ({str(group.get(name) or None) for group in each["groups"]} for each in (mine, theirs))
        if x != y:
            hint = " Trainer's AdamW is fused, on the CPU too (optim=adamw_torch_fused)." if name == "fused" else ""
            values = f"{case.suspect} {', '.join(x)}; {case.reference} {', '.join(y)}"
            yield Cause(name, f"The optimizer's {name}: {values}.{hint}")


def differed_before(case: Case, name: str) -> bool:
    """Whether in an earlier, equal update too the suspect lacked what the reference had: then it is not the cause."""
    earlier = [update for update in case.comparison.updates if update < case.update]
    mine, theirs = case.both(lambda side: [case.line(side, u)["micro_batches"][0].get(name) for u in earlier])
    return any(x is False and y for x, y in zip(mine, theirs, strict=True))


def precision_of(side: Recording) -> str | None:
    """Return the type that most is computed in: autocast's, or that of the weights; None where it was not recorded."""
    first: Line = next((lines[0]["micro_batches"][0] for lines in side.updates.values()), {})
    kind: str | None = first.get("autocast") or side.header["model"].get("dtype")
    return f"{kind} (autocast)" if first.get("autocast") else kind


def is_clipped(line: Line) -> bool:
    norm = line.get("clipped_norm")
    return norm is not None and norm < line["micro_batches"][-1]["grad_norm"] * (1 - 1e-6)


def clipping_limit(case: Case, side: Recording) -> float | None:
    """Return the norm to which gradients are clipped; None when none is, or when they are not clipped to one norm."""
    lines = [lines[case.first.process] for lines in side.updates.values()]
    norms = [float(line["clipped_norm"]) for line in lines if is_clipped(line)]
    given = side.header.get("arguments", {}).get("max_grad_norm")
    if len(norms) < 2 and not (norms and given and is_close(norms[0], given, 1e-3)):
        return None
    return norms[0] if all(is_close(norm, norms[0], 1e-3) for norm in norms) else None


def evaluation_ratio(case: Case) -> float | None:
    """Return the ratio of the eval_loss in the first evaluation that both have."""
    mine, theirs = case.both(
        lambda side: {step: log.get("eval_loss") for (step, kind), log in side.logs.items() if kind == "evaluation"}
    )
    step = min(mine.keys() & theirs.keys(), default=-1)
    x, y = mine.get(step), theirs.get(step)
    return x / y if x and y else None


def tensors_by_decay(optimizer: dict[str, Any]) -> Counter[float]:
    """Count the tensors by their weight decay, however they are grouped."""
    tensors = Counter[float]()
    for group in optimizer["groups"]:
        tensors[group.get("weight_decay", 0)] += group["tensors"]
    return tensors


def micro_batches_until(case: Case) -> dict[int, int]:
    """Count the suspect's micro-batches up to the end of each update; 0 at 0, if recorded from the start."""
    updates = sorted(case.suspect.updates)
    steps = {updates[0] - 1: 0}
    for update in updates:
        steps[update] = steps[update - 1] + len(case.suspect.updates[update][0]["micro_batches"])
    return steps


def is_shifted(case: Case, other: Callable[[int], int]) -> bool:
    """Whether the suspect's learning rate at every update is the reference's at `other(update)`, as far as known."""
    mine, theirs = case.both(lambda side: side.curve("learning_rate"))
    pairs = [(mine[u], theirs[other(u)]) for u in mine if u >= case.update and other(u) in theirs]
    return len(pairs) > 1 and len({y for _, y in pairs}) > 1 and all(is_close(x, y, 1e-9) or x == y for x, y in pairs)


def shape_of(curve: dict[int, float]) -> str | None:
    """Return a schedule in words; None for one of fewer than four updates, or that does not begin with the run's."""
    updates = sorted(curve)
    if len(updates) < 4 or updates[0] != 1:
        return None
    peak = max(curve.values())
    top = next(update for update in updates if curve[update] == peak)
    warmup = f"rises until update {top}, then " if top > 1 else ""
    after = [curve[update] for update in updates if update >= top]
    end = end_of_linear_decay(curve)
    if after[0] == after[-1]:
        return f"{warmup}stays at {peak:g}"
    if end is not None and all(
        is_close(curve[u], peak * (end - u + 1) / (end - top + 1), 1e-3) for u in updates if top <= u <= end
    ):
        return f"{warmup}falls from {peak:g} in a line to 0 after {end} updates"
    falls = "in steps" if len(set(after)) < len(after) / 2 else "in a curve"
    return f"{warmup}falls from {peak:g} {falls}, to {after[-1]:g} in update {updates[-1]}"


def end_of_linear_decay(curve: dict[int, float]) -> int | None:
    """Return after how many updates a falling line reaches 0, where it may stay; None for any other curve."""
    updates = sorted(curve)
    while len(updates) > 1 and curve[updates[-1]] == curve[updates[-2]] == 0:
        updates.pop()
    updates = updates[-4:]
    if len(updates) < 4 or updates[-1] - updates[0] != 3:
        return None
    steps = [curve[u] - curve[u + 1] for u in updates[:-1]]
    if steps[0] <= 0 or not all(is_close(step, steps[0]) for step in steps):
        return None
    return round(updates[-1] - 1 + curve[updates[-1]] / steps[0])
