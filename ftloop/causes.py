"""Why two runs part: the known causes, each with the evidence that it takes. Without evidence nothing is said.

A cause looks at the first difference of a comparison, at its stage alone, and tells what it found, or nothing. The
traps are those that hand-written loops fall into when they are held against `transformers.Trainer`.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import xxhash

from ftloop.diff import Comparison, Line, Parting, Recorded

EXACT = 1e-6
"""Relative. A factor between two float32 losses comes out this well."""
LAST_DIGITS = 1e-5
"""Relative. What another order of summation does to one update; a wrong formula does more."""


@dataclass(frozen=True)
class Cause:
    """`name` is for programs and tests, `text` says what was found and what it means."""

    name: str
    text: str


@dataclass(frozen=True)
class Case:
    """The first difference as one side sees it: `x` is one run, `y` the other. Every cause is tried both ways."""

    comparison: Comparison
    first: Parting
    x: Recorded
    y: Recorded
    x_name: str
    y_name: str

    @property
    def update(self) -> int:
        return self.first.update

    @property
    def ratio(self) -> float | None:
        """The value of `x` over that of `y`."""
        ratio = self.first.ratio
        return ratio if ratio is None or self.x is self.comparison.a else (1 / ratio if ratio else None)

    @property
    def values(self) -> tuple[Any, Any]:
        pair = (self.first.a, self.first.b)
        return pair if self.x is self.comparison.a else pair[::-1]

    def line(self, side: Recorded, update: int | None = None, process: int | None = None) -> Line:
        lines = side.updates[self.update if update is None else update]
        return lines[self.first.process if process is None else process]

    def micro(self, side: Recorded) -> Line:
        found: Line = self.line(side)["micro_batches"][self.first.micro_batch or 0]
        return found

    def argument(self, side: Recorded, name: str) -> Any:
        return side.header.get("arguments", {}).get(name)


Known = Callable[[Case], Iterator[Cause]]
CAUSES: dict[str, list[Known]] = {}


def at(*stages: str) -> Callable[[Known], Known]:
    """A cause of a difference at one of these stages."""

    def register(known: Known) -> Known:
        for stage in stages:
            CAUSES.setdefault(stage, []).append(known)
        return known

    return register


def explain(comparison: Comparison) -> list[Cause]:
    """The causes for which the evidence is there, the surest first; none means unknown."""
    if comparison.same:
        return []
    a, b, first = comparison.a, comparison.b, comparison.first
    found: dict[str, Cause] = {}
    for known in CAUSES.get(first.stage, []):
        for x, y, names in ((a, b, ("A", "B")), (b, a, ("B", "A"))):
            for cause in known(Case(comparison, first, x, y, *names)):
                found.setdefault(cause.name, cause)
        if found:  # causes are listed the most specific first
            return list(found.values())
    return []


# --- before training, and which rows ---------------------------------------------------------------------------------


@at("weights")
def other_initial_weights(case: Case) -> Iterator[Cause]:
    if case.update == 0:
        yield Cause(
            "initial-weights",
            "The models are not the same before training: other pretrained weights, or a head drawn from another "
            "random state. Seed right before the model is built, and again before training. (A run that is resumed "
            "says "
            "so with global_step.)",
        )


@at("rows")
def other_inputs(case: Case) -> Iterator[Cause]:
    if case.first.what == "inputs of the model" and case.x is case.comparison.a:
        told = [", ".join(sorted(set(x) - set(y))) or "none" for x, y in (case.values, case.values[::-1])]
        yield Cause("inputs", f"The model is called with other inputs: only in A {told[0]}; only in B {told[1]}.")


@at("rows")
def steps_after_the_first_micro_batch(case: Case) -> Iterator[Cause]:
    x, y = (case.line(side)["micro_batches"] for side in (case.x, case.y))
    first = case.update == min(case.comparison.updates) and x[0]["rows"] == y[0]["rows"]
    if first and len(x) == 1 < len(y) and _usual_window(case.x) == len(y):
        yield Cause(
            "step-modulo",
            f"{case.x_name} makes its first update after one micro-batch, {case.y_name} after {len(y)}: "
            f"`step % {len(y)} == 0` where `(step + 1) % {len(y)} == 0` is meant.",
        )


@at("rows")
def the_last_window(case: Case) -> Iterator[Cause]:
    """`y` steps at the end of an epoch with the few micro-batches that are left."""
    x, y = (case.line(side)["micro_batches"] for side in (case.x, case.y))
    usual = _usual_window(case.y)
    if len(y) >= usual:
        return
    if len(x) == usual and [m["rows"] for m in x[: len(y)]] == [m["rows"] for m in y]:
        yield Cause(
            "window-carried",
            f"The epoch ends with {len(y)} of {usual} micro-batches. {case.y_name} makes an update of them; "
            f"{case.x_name} goes on accumulating into the next epoch.",
        )
    elif case.update + 1 in case.y.updates and _rows(case.x, case.update) == _rows(case.y, case.update + 1):
        yield Cause(
            "window-dropped",
            f"The epoch ends with {len(y)} of {usual} micro-batches. {case.y_name} makes an update of them; "
            f"{case.x_name} never does, and its rows are lost.",
        )


@at("rows")
def another_number_of_rows(case: Case) -> Iterator[Cause]:
    """In every update but an epoch's last, so it is no accident."""
    x, y = (
        Counter(len(_rows(side, update)) for update in side.updates).most_common(1)[0][0] for side in (case.x, case.y)
    )
    if case.x is case.comparison.a and x != y and case.update == min(case.comparison.updates):
        windows = [_usual_window(side) for side in (case.x, case.y)]
        yield Cause(
            "rows-per-update",
            f"An update of A has {x} rows in {windows[0]} micro-batch(es) on each of {case.x.processes} process(es), "
            "one "
            f"of B {y} rows in {windows[1]}.",
        )


@at("rows")
def other_seed(case: Case) -> Iterator[Cause]:
    """Only at the very beginning: later the seed is no explanation."""
    seeds = case.x.header["seed"], case.y.header["seed"]
    if seeds[0] != seeds[1] and case.update <= min(case.comparison.updates, default=0):
        yield Cause("seed", f"{case.x_name} was seeded with {seeds[0]}, {case.y_name} with {seeds[1]}.")


@at("rows")
def drop_last(case: Case) -> Iterator[Cause]:
    """`y` has, where the runs part, a batch with fewer rows than all before it, and `x` has none."""
    sizes = {
        len(m["rows"])
        for u in case.comparison.updates
        if u < case.update
        for m in case.line(case.x, u)["micro_batches"]
    }
    short = [m for m in case.line(case.y)["micro_batches"] if sizes and len(m["rows"]) < max(sizes)]
    others = [m["rows"] for m in case.line(case.y)["micro_batches"] if m not in short]
    mine = [m["rows"] for m in case.line(case.x)["micro_batches"]]
    dropped = mine == others or (
        case.update + 1 in case.y.updates and _rows(case.x, case.update) == _rows(case.y, case.update + 1)
    )
    if short and dropped:
        yield Cause(
            "drop-last",
            f"{case.x_name} drops the epoch's last batch of {len(short[0]['rows'])} rows (drop_last); {case.y_name} "
            "trains on it.",
        )


@at("rows")
def rows_repeated_to_fill_the_last_round(case: Case) -> Iterator[Cause]:
    """`y` has all rows of `x`, and more that it has had in this epoch before."""
    mine, theirs = (Counter(_rows(side, case.update)) for side in (case.x, case.y))
    more = theirs - mine
    before = {row for update in case.y.updates if update < case.update for row in _rows(case.y, update)}
    if case.x.processes > 1 and more and not mine - theirs and set(more) <= before | set(mine):
        yield Cause(
            "repeated-rows",
            "The last round of the epoch is short. Accelerate fills it with rows of the epoch's beginning: "
            f"{case.y_name} "
            f"trains on {more.total()} row(s) a second time, {case.x_name} does not.",
        )


@at("rows")
def rows_not_skipped_on_resume(case: Case) -> Iterator[Cause]:
    if case.update - 1 not in case.x.resumed_at:
        return
    mine = _rows(case.x, case.update)
    for earlier in (u for u in case.y.updates if u < case.update):
        if _rows(case.y, earlier) == mine:
            yield Cause(
                "resume-rows",
                f"{case.x_name} was resumed after update {case.update - 1} and trains again on the rows of update "
                f"{earlier}: the part of the epoch that was done is not skipped.",
            )
            return


@at("rows")
def every_epoch_in_the_same_order(case: Case) -> Iterator[Cause]:
    begin = min(case.x.updates)
    repeated = _first_repeat(case.x)
    if repeated is None or _first_repeat(case.y) is not None:
        return
    if case.update == repeated:
        yield Cause(
            "set-epoch",
            f"From update {repeated} on {case.x_name} sees its rows in the order of update {begin} on, an epoch ago; "
            f"{case.y_name} does not. Call `set_epoch(epoch)` on the loader before each epoch: Accelerate's own count "
            "does not move when the loader is not read to its very end.",
        )
    elif case.update == begin:
        yield Cause(
            "not-shuffled", f"{case.x_name} sees its rows in the same order in every epoch: it does not shuffle."
        )


@at("rows")
def seeds_in_the_arguments(case: Case) -> Iterator[Cause]:
    yield from _arguments(case, "seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps")


@at("rows")
def another_sampler(case: Case) -> Iterator[Cause]:
    """The same rows over the epoch, and another order from the first update on."""
    updates = case.comparison.updates
    if case.x is case.comparison.b or case.update != min(updates):
        return
    seen: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for update in updates:
        for rows, side in zip(seen, (case.x, case.y), strict=True):
            rows.update(_rows(side, update))
        if seen[0] == seen[1]:
            yield Cause(
                "sampler",
                f"The same rows, seen in another order from the start (equal sets after {update} updates): another "
                "shuffle. Trainer's is torch.randperm seeded with seed + epoch, which Accelerate gives with "
                "DataLoaderConfiguration(use_seedable_sampler=True); its own default is a shuffle from the global "
                "generator.",
            )
            return


@at("rows")
def other_data(case: Case) -> Iterator[Cause]:
    if case.x is case.comparison.b:
        return
    known = [{row for update in side.updates for row in _rows(side, update)} for side in (case.x, case.y)]
    shared = len(known[0] & known[1])
    # Parts of an epoch have few rows in common under another shuffle too.
    if shared < 0.5 * min(map(len, known)) and all(_has_seen_all(side) for side in (case.x, case.y)):
        yield Cause(
            "data",
            f"Of {len(known[0])} and {len(known[1])} different rows, {shared} are in both runs: other data, or other "
            "token ids or labels for it (tokenizer, truncation, max_seq_length, label names).",
        )


@at("order")
def rows_dealt_one_by_one(case: Case) -> Iterator[Cause]:
    processes = case.x.processes
    mine = [[m["rows"] for m in line["micro_batches"]] for line in case.x.updates[case.update]]
    theirs = [[m["rows"] for m in line["micro_batches"]] for line in case.y.updates[case.update]]
    if processes == 1 or {len(micro) for side in (mine, theirs) for micro in side} != {len(mine[0])}:
        return
    rounds = [[row for process in theirs for row in process[i]] for i in range(len(theirs[0]))]
    if all(mine[r][i] == rows[r::processes] for i, rows in enumerate(rounds) for r in range(processes)):
        yield Cause(
            "rows-dealt",
            f"{case.x_name} deals single rows to its processes in turn (DistributedSampler), {case.y_name} whole "
            "batches, as Accelerate does.",
        )


@at("order")
def other_micro_batches(case: Case) -> Iterator[Cause]:
    x, y = ([len(m["rows"]) for m in case.line(side)["micro_batches"]] for side in (case.x, case.y))
    if case.x is case.comparison.a and x != y:
        yield Cause(
            "micro-batches",
            f"The same rows in other micro-batches: {case.x_name} {x}, {case.y_name} {y}. Per-update losses agree "
            "where every row counts alike; bits do not.",
        )


@at("padding")
def padded_to(case: Case) -> Iterator[Cause]:
    widths = {
        id(side): [m["shape"][1] for lines in side.updates.values() for line in lines for m in line["micro_batches"]]
        for side in (case.x, case.y)
    }
    x, y = widths[id(case.x)], widths[id(case.y)]
    wider = len(x) == len(y) and all(p >= q for p, q in zip(x, y, strict=True)) and x != y
    multiple = next((m for m in (64, 32, 16, 8) if all(w % m == 0 for w in x)), None)
    if wider and len(set(x)) == 1 and len(set(y)) > 1:
        yield Cause(
            "padding-global", f"{case.x_name} pads every batch to {x[0]} tokens, {case.y_name} to its longest row."
        )
    elif wider and multiple is not None and any(w % multiple for w in y):
        yield Cause(
            "padding-multiple",
            f"{case.x_name} pads to a multiple of {multiple} tokens, {case.y_name} to the longest row of the batch.",
        )
    elif case.values[0] == case.values[1] and case.x is case.comparison.a:
        yield Cause(
            "padding-side", "The same rows in the same shape, but other padding: its side, its id, or another input."
        )


# --- the random state before a forward pass --------------------------------------------------------------------------


@at("random state")
def other_numbers_on_each_process(case: Case) -> Iterator[Cause]:
    def at_the_start(side: Recorded) -> list[str]:
        first = min(side.updates)
        return [line["micro_batches"][0]["rng"]["cpu"][0] for line in side.updates[first]]

    x, y = at_the_start(case.x), at_the_start(case.y)
    if len(set(x)) > 1 == len(set(y)):
        yield Cause(
            "device-specific-seed",
            f"The processes of {case.x_name} begin with different random states (set_seed(..., "
            "device_specific=True)?), "
            f"those of {case.y_name} with one and the same, as Trainer's do.",
        )


@at("random state")
def not_reseeded(case: Case) -> Iterator[Cause]:
    """`y` begins where its seed puts it, but for the draw of the first iterator (or more); `x` anywhere else."""
    if case.update != min(case.comparison.updates) or case.update - 1 in case.x.resumed_at | case.y.resumed_at:
        return
    draws = [_draws_since_seed(case.micro(side)["rng"]["cpu"][0], side.header["seed"]) for side in (case.x, case.y)]
    mine, theirs = draws
    if theirs is None:
        return
    if mine is None:
        yield Cause(
            "not-reseeded",
            f"{case.y_name} begins training {theirs} draw(s) after its seed {case.y.header['seed']}; {case.x_name} "
            "does "
            "not: something drew random numbers after it was seeded, as building a model does. Seed again "
            "before training.",
        )
    elif mine < theirs and case.x.header["seed"] == case.y.header["seed"]:
        yield Cause(
            "iterator-draw",
            f"Before the first forward pass {case.x_name} has drawn {mine} number(s) since its seed, {case.y_name} "
            f"{theirs}. Every iterator of a DataLoader draws one, an evaluation's too, but not with a generator of "
            "its own.",
        )
    elif case.x.header["seed"] != case.y.header["seed"] and case.x is case.comparison.a:
        seeds = f"{case.x.header['seed']} and {case.y.header['seed']}"
        yield Cause("seed", f"{case.x_name} and {case.y_name} begin from other seeds: {seeds}.")


@at("random state")
def resumed_with_another_state(case: Case) -> Iterator[Cause]:
    if case.update - 1 in case.x.resumed_at and case.update - 1 not in case.y.resumed_at:
        apart = _draws_apart(case)
        moment = (
            f" It is {abs(apart)} draw(s) of a DataLoader's iterator away: restored on the wrong side of the "
            "iterator's "
            "making. In mid-epoch that is before, at an epoch's beginning after."
            if apart
            else ""
        )
        yield Cause(
            "resume-rng",
            f"{case.x_name} was resumed after update {case.update - 1}, and its random state is not that of the run "
            "that "
            f"went on.{moment}",
        )


@at("random state")
def the_training_loader_draws(case: Case) -> Iterator[Cause]:
    """At the start of an epoch, with no evaluation before it that could have drawn."""
    x, y = (case.argument(side, "dataloader_persistent_workers") for side in (case.x, case.y))
    apart = _draws_apart(case)
    if not apart or apart > 0 or not _epoch_begins(case) or (_evaluated_before(case) and not (x and not y)):
        return
    drawn = f"At the start of an epoch {case.x_name} drew {-apart} number(s) fewer than {case.y_name}: "
    if x is False:
        more = f"{case.y_name} makes more than one iterator of a DataLoader there, or draws as many otherwise."
        yield Cause("extra-iterator", f"{drawn}{more}")
    else:
        yield Cause(
            "persistent-workers",
            f"{drawn}its loader was not iterated anew. Workers that persist are reset, and a reset draws nothing "
            "(dataloader_persistent_workers).",
        )


@at("random state")
def the_evaluation_draws(case: Case) -> Iterator[Cause]:
    apart = _draws_apart(case)
    if apart is not None and apart < 0 and _evaluated_before(case):
        begins = _epoch_begins(case)
        yield Cause(
            "evaluation-draw",
            f"Equal until an evaluation after update {case.update - 1}; since then {case.x_name} has drawn {-apart} "
            f"number(s) fewer than {case.y_name}. Making an iterator of an evaluation's DataLoader draws one, even "
            "though nothing is shuffled: make a new one for every evaluation, and once; and draw nothing else there."
            + (
                " (An epoch begins here too: a training loader that is not iterated anew would look alike.)"
                if begins
                else ""
            ),
        )


# --- the loss --------------------------------------------------------------------------------------------------------


@at("loss", "gradient")
def not_in_training_mode(case: Case) -> Iterator[Cause]:
    x, y = case.micro(case.x)["training"], case.micro(case.y)["training"]
    # Where updates were equal in that same mode, it is not the mode.
    if not x and y and not _was_so_before(case, "training"):
        yield Cause(
            "eval-mode", f"{case.x_name}'s model is in evaluation mode, without dropout: model.train() is missing."
        )


@at("loss")
def fixed_divisor_in_the_last_window(case: Case) -> Iterator[Cause]:
    window, usual = len(case.line(case.x)["micro_batches"]), _usual_window(case.x)
    if case.ratio and window < usual and _is(case.ratio, window / usual):
        yield Cause(
            "fixed-divisor",
            f"The epoch's last update has {window} micro-batches instead of {usual}. {case.x_name} divides their "
            "losses "
            f"by {usual} all the same, {case.y_name} by {window}.",
        )


@at("loss", "gradient")
def scaled_by_accumulation_or_processes(case: Case) -> Iterator[Cause]:
    window, processes, ratio = len(case.line(case.x)["micro_batches"]), case.x.processes, case.ratio
    if ratio is None:
        return
    pairs = zip(case.line(case.x)["micro_batches"], case.line(case.y)["micro_batches"], strict=False)
    if case.first.stage == "loss" and not all(q["loss"] and _is(p["loss"] / q["loss"], ratio) for p, q in pairs):
        return  # not a factor on the whole update
    trainers = "transformers.Trainer" in (case.x.header["by"], case.y.header["by"])
    what = "loss" if case.first.stage == "loss" else "gradient"
    accumulation = Cause(
        "accumulation",
        f"{case.x_name}'s {what} is {window} times {case.y_name}'s, and an update has {window} micro-batches: "
        f"{case.y_name} divides by them, {case.x_name} does not."
        + " (transformers 5's Trainer does not for heads that take **kwargs, nearly all: #47688.)"
        * trainers,
    )
    world = Cause(
        "world-size",
        f"{case.x_name}'s {what} is {processes} times {case.y_name}'s, and there are {processes} processes: "
        f"{case.x_name} multiplies by them before DDP takes the mean."
        + " (transformers 5's Trainer does: #47688.)"
        * trainers,
    )
    if window == processes > 1 and _is(ratio, window):
        evaluation = _evaluation_ratio(case)
        if evaluation is None:
            yield from (accumulation, world)
        else:
            yield world if _is(evaluation, processes, 0.2) else accumulation
    elif window > 1 and _is(ratio, window):
        yield accumulation
    elif processes > 1 and _is(ratio, processes):
        yield world
    elif window > 1 and processes > 1 and _is(ratio, window * processes):
        yield Cause("accumulation-and-world-size", f"{accumulation.text} And: {world.text}")


@at("loss")
def rows_or_micro_batches_count_alike(case: Case) -> Iterator[Cause]:
    """`x` weighs each micro-batch by its rows, `y` alike: then the ratio is rows / mean rows."""
    x, y = ([m for line in side.updates[case.update] for m in line["micro_batches"]] for side in (case.x, case.y))
    sizes = [len(m["rows"]) for m in x]
    if len(set(sizes)) < 2 or any(not m["loss"] for m in y):
        return
    mean = sum(sizes) / len(sizes)
    # The first one alone has seen equal weights and dropout on both sides; the rest of the update has as well.
    if all(_is(p["loss"] / q["loss"], size / mean, LAST_DIGITS) for p, q, size in zip(x, y, sizes, strict=True)):
        yield Cause(
            "row-weighting",
            f"The update's micro-batches have {', '.join(map(str, sizes))} rows. {case.x_name} counts every row alike, "
            f"{case.y_name} every micro-batch.",
        )


@at("loss")
def arguments_of_the_loss(case: Case) -> Iterator[Cause]:
    yield from _arguments(case, "bf16", "fp16", "label_smoothing_factor", "class_weights", "problem_type")


# --- the gradient and what the optimizer gets ------------------------------------------------------------------------


@at("gradient")
def gradients_not_cleared(case: Case) -> Iterator[Cause]:
    x, y = (case.line(side)["micro_batches"][0].get("fresh") for side in (case.x, case.y))
    # A loop may clear them between forward and backward too; then they have been there in equal updates before.
    if x is False and y and not _was_so_before(case, "fresh"):
        yield Cause(
            "zero-grad",
            f"{case.x_name} begins the update with gradients of the one before: zero_grad() is missing, or comes "
            "before "
            "the step.",
        )


@at("gradient")
def exchanged_after_every_micro_batch(case: Case) -> Iterator[Cause]:
    if case.x.processes == 1:
        return

    def equal_on_all(side: Recorded, micro: int) -> bool:
        return len({line["micro_batches"][micro]["grad"] for line in side.updates[case.update]}) == 1

    here, last = case.first.micro_batch or 0, len(case.line(case.x)["micro_batches"]) - 1
    if here < last and equal_on_all(case.x, here) and not equal_on_all(case.y, here):
        yield Cause(
            "no-sync",
            f"{case.x_name}'s processes exchange gradients after micro-batch {here + 1} of {last + 1} already; "
            f"{case.y_name}'s only after the last: the forward and backward of the others belong under "
            "accelerator.no_sync(model).",
        )
    elif here == last and not equal_on_all(case.x, here) and equal_on_all(case.y, here):
        yield Cause(
            "not-exchanged",
            f"{case.x_name}'s processes keep gradients of their own: the model is not wrapped by DDP, or its forward "
            "is "
            "called past the wrapper. (Trainer's evaluate() before train() does this.)",
        )


@at("gradient")
def other_buckets(case: Case) -> Iterator[Cause]:
    x, y = (side.header.get("find_unused_parameters") for side in (case.x, case.y))
    if case.x.processes > 1 and case.x is case.comparison.a and None not in (x, y) and x != y:
        yield Cause(
            "find-unused-parameters",
            f"DDP was made with find_unused_parameters={x} in {case.x_name} and {y} in {case.y_name}: other buckets, "
            "and "
            "from three processes on another order of summation. Trainer's is True without gradient checkpointing.",
        )


@at("clipping")
def gradients_gone_before_the_step(case: Case) -> Iterator[Cause]:
    if case.values[0] == 0 and case.values[1]:
        yield Cause(
            "cleared-before-step",
            f"{case.x_name}'s gradients are gone when the optimizer steps, and it moves nothing: zero_grad() comes "
            "before "
            "step().",
        )


@at("clipping")
def clipped_or_not(case: Case) -> Iterator[Cause]:
    def clipped(side: Recorded) -> tuple[bool, float]:
        line = case.line(side)
        return line["clipped_norm"] < line["micro_batches"][-1]["grad_norm"] * (1 - EXACT), line["clipped_norm"]

    (x, _), (y, _) = clipped(case.x), clipped(case.y)
    limits = [_limit_of_clipping(case, side) for side in (case.x, case.y)]
    norm = limits[1]
    if not x and y and norm is not None:
        yield Cause(
            "no-clipping",
            f"{case.y_name} clips this gradient to a norm of {norm:.4g}, {case.x_name} does not. Trainer's "
            "max_grad_norm is "
            "1.0 unless it is said otherwise.",
        )
    elif x and y and case.x is case.comparison.a and limits[0] and norm and not _is(limits[0], norm, 1e-3):
        yield Cause("max-grad-norm", f"Clipped to other norms: A {limits[0]:.4g}, B {norm:.4g}.")


# --- learning rate and weights ---------------------------------------------------------------------------------------


@at("learning rate")
def schedule_runs_too_fast(case: Case) -> Iterator[Cause]:
    """Stepped after the optimizer, the first update still has the right one; before it, none has."""
    processes, steps = case.x.processes, _steps_until(case.x)
    wrapped = [lambda update: (update - 1) * processes + 1]
    each_micro_batch = [lambda update: steps[update - 1] + 1, lambda update: steps[update]]
    for mappings, factor, name, why in (
        (wrapped, processes, "prepared-scheduler", "processes: accelerator.prepare(scheduler) steps it once for each"),
        (
            each_micro_batch,
            _usual_window(case.x),
            "scheduler-per-micro-batch",
            "micro-batches per update: it is stepped after each",
        ),
    ):
        if factor > 1 and 0 in steps and any(_shifted(case, mapping) for mapping in mappings):
            yield Cause(
                name,
                f"{case.x_name}'s learning rate falls {factor} times as fast as {case.y_name}'s, and there are "
                f"{factor} "
                f"{why}.",
            )


@at("learning rate")
def schedule_waits_for_overflows(case: Case) -> Iterator[Cause]:
    """fp16: `y` holds its schedule back for an update that the gradient scaler skipped, `x` does not."""
    skipped = [u for u in case.comparison.updates if u < case.update and not math.isfinite(_norm(case.y, u))]
    if skipped and _shifted(case, lambda update: update + len(skipped)):
        yield Cause(
            "overflow-schedule",
            f"Updates {', '.join(map(str, skipped))} overflowed and were skipped. {case.y_name}'s schedule waited, "
            f"{case.x_name}'s ran on, as Trainer's does with the fused optimizer.",
        )


@at("learning rate")
def schedule_is_ahead(case: Case) -> Iterator[Cause]:
    if _shifted(case, lambda update: update + 1):
        yield Cause(
            "scheduler-first",
            f"{case.x_name}'s learning rate is one update ahead of {case.y_name}'s: its scheduler steps before the "
            "optimizer.",
        )


@at("learning rate")
def another_peak(case: Case) -> Iterator[Cause]:
    x, y = case.x.curve("learning_rate"), case.y.curve("learning_rate")
    ratios = [x[u] / y[u] for u in case.comparison.updates if u in x and u in y and y[u]]
    if case.x is case.comparison.a and len(ratios) > 2 and all(_is(ratio, ratios[0], 1e-9) for ratio in ratios):
        yield Cause("learning-rate", f"The schedules have one shape; A's learning rate is {ratios[0]:.6g} times B's.")


@at("learning rate")
def another_number_of_updates(case: Case) -> Iterator[Cause]:
    """Both fall linearly, from the same place to other ends."""
    ends = [_end_of_linear_decay(side.curve("learning_rate")) for side in (case.comparison.a, case.comparison.b)]
    begin = min(case.comparison.updates)
    alike = case.x.curve("learning_rate").get(begin) == case.y.curve("learning_rate").get(begin)
    if case.x is case.comparison.a and alike and None not in ends and ends[0] != ends[1]:
        yield Cause(
            "schedule-length",
            f"Both fall linearly: A's to 0 after {ends[0]} updates, B's after {ends[1]}. The schedules were made for "
            "other "
            "numbers of updates: another rounding, dropped batches, epochs, or micro-batches counted as updates.",
        )


@at("learning rate")
def arguments_of_the_schedule(case: Case) -> Iterator[Cause]:
    names = ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio")
    yield from _arguments(case, *names, "num_train_epochs", "max_steps")


@at("weights")
def other_optimizer(case: Case) -> Iterator[Cause]:
    """The gradients and the learning rate agree, so it is the optimizer that differs."""
    x, y = case.x.header["optimizer"], case.y.header["optimizer"]
    moved = [u for u in case.comparison.updates if any(case.line(case.x, u).get("lr") or [0])]
    if case.x is case.comparison.b or x == y or case.update != min(moved, default=0):
        return  # what makes no difference in the first update that moves makes none later
    if x["class"] != y["class"]:
        yield Cause("optimizer", f"A's optimizer is {x['class']}, B's {y['class']}.")
        return
    decays: list[Counter[float]] = [Counter(), Counter()]
    for decay, optimizer in zip(decays, (x, y), strict=True):
        for group in optimizer["groups"]:
            decay[group.get("weight_decay", 0)] += group["tensors"]
    if decays[0] != decays[1]:
        told = [
            ", ".join(f"{count} tensors with {decay:g}" for decay, count in sorted(each.items())) for each in decays
        ]
        yield Cause(
            "decay-groups",
            f"Weight decay: A {told[0]}; B {told[1]}. Trainer decays all but biases and normalisation weights.",
        )
    for name in ("fused", "eps", "betas", "amsgrad", "momentum"):
        values = [{str(g.get(name) or None) for g in o["groups"]} for o in (x, y)]
        if values[0] != values[1]:
            hint = " Trainer's AdamW is fused, on the CPU too (optim=adamw_torch_fused)." if name == "fused" else ""
            yield Cause(name, f"The optimizer's {name}: A {', '.join(values[0])}; B {', '.join(values[1])}.{hint}")


# --- what is logged, evaluated and saved -----------------------------------------------------------------------------


@at("log")
def learning_rate_logged_after_the_step(case: Case) -> Iterator[Cause]:
    following = case.x.updates.get(case.update + 1)
    ahead = following is not None and case.values[0] == following[0]["lr"][0]
    at_the_end = following is None and case.values[0] == 0  # a schedule that has come down
    if case.first.what == "learning_rate" and case.values[1] == case.line(case.y)["lr"][0] and (ahead or at_the_end):
        yield Cause(
            "logged-after-step",
            f"The learning rates used are equal. {case.x_name} logs that of the next update: it is read after "
            "scheduler.step().",
        )


@at("log")
def a_nan_is_hidden(case: Case) -> Iterator[Cause]:
    window = [loss for _, loss in _window(case, case.x)]
    hidden = any(not math.isfinite(loss) for loss in window) and math.isfinite(case.values[0])
    if case.first.what == "loss" and hidden and not math.isfinite(case.values[1]):
        yield Cause(
            "nan-filter",
            f"A loss of this log line was {next(x for x in window if not math.isfinite(x))}. {case.x_name} logs "
            f"{case.values[0]:g} (logging_nan_inf_filter), {case.y_name} says it.",
        )


@at("log")
def loss_added_up_in_another_precision(case: Case) -> Iterator[Cause]:
    """Both sums can be made again from the recorded losses, with one process."""
    if case.first.what != "loss" or case.x.processes > 1:
        return
    window = _window(case, case.x)
    updates = len({update for update, _ in window})
    single, double = 0.0, 0.0
    for _, loss in window:
        single = struct.unpack("f", struct.pack("f", single + loss))[0]
        double += loss
    if updates and case.values == (double / updates, single / updates):
        yield Cause(
            "log-precision",
            f"The losses are equal. {case.x_name} adds them up in Python floats (64 bits), {case.y_name} in a float32 "
            "tensor, as Trainer does.",
        )
    elif window and case.values[0] == window[-1][1] and len(window) > 1:
        yield Cause(
            "logs-last-loss",
            f"{case.x_name} logs the loss of the last micro-batch, {case.y_name} the mean over {updates} update(s).",
        )


@at("log")
def norm_logged_after_clipping(case: Case) -> Iterator[Cause]:
    if case.first.what == "grad_norm" and case.values[0] == case.line(case.x).get("clipped_norm"):
        yield Cause(
            "logged-after-clipping", f"{case.x_name} logs the gradient's norm after clipping, {case.y_name} before."
        )


@at("evaluation", "checkpoint")
def nothing_at_the_end(case: Case) -> Iterator[Cause]:
    last = max(case.comparison.updates)
    if case.update == last and case.values == ("none", "there") and last == max(case.x.updates):
        what = "evaluate" if case.first.stage == "evaluation" else "save"
        yield Cause(
            "nothing-at-the-end",
            f"{case.x_name} does not {what} after its last update, {case.y_name} does: by steps, Trainer does so "
            "there even "
            f"when {last} is no multiple.",
        )


@at("evaluation", "checkpoint")
def another_cadence(case: Case) -> Iterator[Cause]:
    if "none" not in case.values:
        return
    kind = {"evaluation": "eval", "checkpoint": "save"}[case.first.stage]
    yield from _arguments(case, f"{kind}_strategy", f"{kind}_steps", "eval_delay", "eval_on_start")
    if case.x is case.comparison.a:
        steps = [
            sorted(step for step, kind in side.logs if kind == "evaluation")
            if case.first.stage == "evaluation"
            else sorted(side.checkpoints)
            for side in (case.x, case.y)
        ]
        told = [", ".join(map(str, each[:5])) + (", ..." if len(each) > 5 else "") for each in steps]
        yield Cause(
            "cadence", f"{case.first.stage.capitalize()}s: A after updates {told[0]}; B after updates {told[1]}."
        )


@at("evaluation")
def evaluation_loss_scaled_or_averaged(case: Case) -> Iterator[Cause]:
    """The weights are equal, and so is every metric: then it is how the losses are put together."""
    x, y = (side.logs[case.update, "evaluation"] for side in (case.x, case.y) if "none" not in case.values)
    shared = [name for name in x if name in y and name not in ("eval_loss", "epoch")]
    others = [name for name in shared if x[name] != y[name]]
    if case.first.what != "eval_loss" or others or not case.ratio:
        return
    if case.x.processes > 1 and _is(case.ratio, case.x.processes):
        yield Cause(
            "world-size",
            f"{case.x_name}'s eval_loss is {case.x.processes} times {case.y_name}'s, as many as there are processes "
            "(transformers 5's Trainer multiplies by them: #47688).",
        )
    elif case.x is case.comparison.a and shared and _is(case.ratio, 1, 0.1):
        yield Cause(
            "evaluation-average",
            "Weights and metrics are equal, only eval_loss differs: it is averaged in another way. Trainer's is the "
            "float32 mean over rows; a mean of batch means weighs the rows of a short last batch more, and a sum in "
            "Python floats differs in the last digits.",
        )


@at("end")
def another_model_is_left(case: Case) -> Iterator[Cause]:
    last = max(case.y.updates, default=0)
    if case.first.what != "weights left by the run" or last not in case.y.updates:
        return
    went_back = [u for u in case.x.updates if u < last and case.line(case.x, u, 0)["weights"] == case.values[0]]
    if went_back and case.line(case.y, last, 0)["weights"] == case.values[1]:
        yield Cause(
            "best-model",
            f"{case.x_name} went back to the weights of update {went_back[-1]} at the end (load_best_model_at_end), "
            f"{case.y_name} kept the last.",
        )


@at("loss", "gradient", "evaluation")
def other_arithmetic(case: Case) -> Iterator[Cause]:
    """Last: a difference in the last digits, between two machines or settings that are known to differ."""
    if case.x is case.comparison.b or case.ratio is None or not _is(case.ratio, 1, LAST_DIGITS):
        return
    facts = {"threads": "threads", "device": "device"}
    told = [
        f"{word} {x} and {y}"
        for key, word in facts.items()
        for x, y in [(case.x.header[key], case.y.header[key])]
        if x != y
    ]
    torches = [side.header["versions"]["torch"] for side in (case.x, case.y)]
    told += [f"torch {torches[0]} and {torches[1]}"] if torches[0] != torches[1] else []
    if told:
        yield Cause(
            "arithmetic", f"The last digits differ, and so do: {'; '.join(told)}. Sums are then made in another order."
        )


# --- evidence --------------------------------------------------------------------------------------------------------


def _is(ratio: float, wanted: float, tolerance: float = EXACT) -> bool:
    return math.isclose(ratio, wanted, rel_tol=tolerance)


def _was_so_before(case: Case, name: str) -> bool:
    """Whether in an earlier, equal update too `x` had not what `y` had."""
    earlier = [update for update in case.comparison.updates if update < case.update]
    firsts = [[case.line(side, u)["micro_batches"][0] for side in (case.x, case.y)] for u in earlier]
    return any(x.get(name) is False and y.get(name) for x, y in firsts)


def _limit_of_clipping(case: Case, side: Recorded) -> float | None:
    """To what norm gradients are clipped; None when none is, or when what happens to them is no clipping to a norm."""
    lines = [lines[case.first.process] for lines in side.updates.values()]
    lines = [line for line in lines if line.get("clipped_norm") is not None]
    norms = [
        (line["micro_batches"][-1]["grad_norm"] / line["micro_batches"][-1].get("scale", 1), line) for line in lines
    ]
    clipped = [line["clipped_norm"] for norm, line in norms if line["clipped_norm"] < norm * (1 - EXACT)]
    given = case.argument(side, "max_grad_norm")
    if len(clipped) < 2 and not (clipped and given and _is(clipped[0], given, 1e-3)):
        return None
    return clipped[0] if all(_is(norm, clipped[0], 1e-3) for norm in clipped) else None


def _rows(side: Recorded, update: int) -> list[str]:
    return [row for line in side.updates[update] for micro in line["micro_batches"] for row in micro["rows"]]


def _usual_window(side: Recorded) -> int:
    return max(len(lines[0]["micro_batches"]) for lines in side.updates.values())


def _steps_until(side: Recorded) -> dict[int, int]:
    """How many micro-batches of a process there were up to the end of each update; 0 at 0, where it begins there."""
    updates = sorted(side.updates)
    steps = {updates[0] - 1: 0}
    for update in updates:
        steps[update] = steps[update - 1] + len(side.updates[update][0]["micro_batches"])
    return steps


def _norm(side: Recorded, update: int) -> float:
    return float(side.updates[update][0]["micro_batches"][-1]["grad_norm"])


def _has_seen_all(side: Recorded) -> bool:
    """Whether the recording goes over a whole epoch: as it says, or because most rows come again."""
    epochs = [line[0].get("epoch") for line in side.updates.values()]
    if epochs and epochs[-1] is not None:
        return float(epochs[-1]) >= 1
    rows = [row for update in side.updates for row in _rows(side, update)]
    return len(rows) > 1.5 * len(set(rows))


def _first_repeat(side: Recorded) -> int | None:
    """The update from which on, for as long as an epoch or to the end, the rows of the first ones come again."""
    updates = sorted(side.updates)
    start = _rows(side, updates[0])
    for k in range(1, len(updates)):
        if _rows(side, updates[k]) == start:
            length = min(k, len(updates) - k)
            if all(_rows(side, updates[i]) == _rows(side, updates[i + k]) for i in range(length)):
                return updates[k]
    return None


def _epoch_begins(case: Case) -> bool:
    """Whether the update before the difference was the last of an epoch, by whichever side tells epochs."""
    for side in (case.x, case.y):
        lines = side.updates.get(case.update - 1)
        if lines is not None and lines[0].get("epoch") is not None:
            return float(lines[0]["epoch"]).is_integer()
    return False


def _evaluated_before(case: Case) -> bool:
    return any((case.update - 1, "evaluation") in side.logs for side in (case.x, case.y))


def _draws_apart(case: Case) -> int | None:
    """How many 64-bit numbers `x` has drawn more than `y` (fewer: negative); None when that cannot be told.

    The generator makes 624 32-bit numbers at a time and its position goes round; a few draws are told apart by that.
    """
    x, y = (case.micro(side)["rng"]["cpu"][1] for side in (case.x, case.y))
    words = (x - y + 312) % 624 - 312
    return words // 2 if words % 2 == 0 and 0 < abs(words) <= 16 else None


@cache
def _states_after_seed(seed: int) -> tuple[str, ...]:
    generator = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(4):
        states.append(xxhash.xxh3_64_hexdigest(generator.get_state().numpy().tobytes()))
        torch.empty((), dtype=torch.int64).random_(generator=generator)
    return tuple(states)


def _draws_since_seed(digest: str, seed: int) -> int | None:
    states = _states_after_seed(seed)
    return states.index(digest) if digest in states else None


def _shifted(case: Case, other: Callable[[int], int]) -> bool:
    """Whether `x`'s learning rate at every update is `y`'s at `other(update)`, where there are enough to tell."""
    x, y = case.x.curve("learning_rate"), case.y.curve("learning_rate")
    pairs = [(x[u], y[other(u)]) for u in x if u >= case.update and other(u) in y]
    return len(pairs) > 1 and len({b for _, b in pairs}) > 1 and all(_is(a, b, 1e-9) or a == b for a, b in pairs)


def _end_of_linear_decay(curve: dict[int, float]) -> int | None:
    """After how many updates the line reaches 0; None where it is no falling line."""
    updates = sorted(curve)[-4:]
    if len(updates) < 4 or updates[-1] - updates[0] != 3:
        return None
    steps = [curve[u] - curve[u + 1] for u in updates[:-1]]
    if steps[0] <= 0 or not all(_is(step, steps[0]) for step in steps):
        return None
    return round(updates[-1] - 1 + curve[updates[-1]] / steps[0])


def _evaluation_ratio(case: Case) -> float | None:
    """Of the first evaluation in both."""
    for step, kind in sorted(case.x.logs):
        if kind == "evaluation" and (step, kind) in case.y.logs:
            x, y = (side.logs[step, kind].get("eval_loss") for side in (case.x, case.y))
            return x / y if x and y else None
    return None


def _window(case: Case, side: Recorded) -> list[tuple[int, float]]:
    """The recorded losses that this log line is about: update and loss of each micro-batch, of process 0."""
    earlier = [step for step, kind in side.logs if kind == "loss" and step < case.update]
    since = max(earlier, default=min(side.updates) - 1)
    updates = [update for update in side.updates if since < update <= case.update]
    return [(u, float(m["loss"])) for u in updates for m in side.updates[u][0]["micro_batches"]]


def _arguments(case: Case, *names: str) -> Iterator[Cause]:
    """Settings that both sides tell and that differ."""
    x, y = (side.header.get("arguments", {}) for side in (case.comparison.a, case.comparison.b))
    told = [f"{name} {x[name]} and {y[name]}" for name in names if name in x and name in y and x[name] != y[name]]
    if told:
        yield Cause("arguments", f"The arguments differ (A and B): {'; '.join(told)}.")
