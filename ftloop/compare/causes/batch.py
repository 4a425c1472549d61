"""Causes of a different micro-batch: its rows, their order, their padding, and the random state it meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

import torch

from ftloop.compare.causes.case import Case, Cause, cause_of, differing_arguments, usual_window, whatever_the_rows
from ftloop.compare.differences import Recording
from ftloop.compare.digests import digest_state


@cause_of("weights")
def initial_weights(case: Case) -> Iterator[Cause]:
    if case.update == 0:
        yield case.cause("initial-weights")


@cause_of("rows")
def inputs_of_the_model(case: Case) -> Iterator[Cause]:
    if case.first.what == "inputs of the model":
        mine, theirs = map(set, case.values)
        names = [", ".join(sorted(only)) or "none" for only in (mine - theirs, theirs - mine)]
        yield case.cause("inputs", mine=names[0], theirs=names[1])


@cause_of("rows")
def steps_after_the_first_micro_batch(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(case.rows_of)
    if case.is_first_update and len(mine) == 1 < len(theirs) == usual_window(case.suspect):
        yield case.cause("step-modulo", window=len(theirs))


@cause_of("rows")
def last_window_of_an_epoch(case: Case) -> Iterator[Cause]:
    """The reference steps at the end of an epoch with the few micro-batches that are left."""
    mine, theirs = case.both(case.rows_of)
    left, window = len(theirs), usual_window(case.reference)
    if left < window <= len(mine) and mine[:left] == theirs:
        yield case.cause("window-carried", left=left, window=window)
    elif left < window and is_one_update_ahead(case):
        yield case.cause("window-dropped", left=left, window=window)


@whatever_the_rows("rows")
@cause_of("rows")
def rows_per_update(case: Case) -> Iterator[Cause]:
    """The largest updates are compared: an epoch's last, or a window that begins too early, is a smaller one."""
    mine, theirs = case.both(lambda side: max(len(side.rows(update)) for update in side.updates))
    if mine != theirs and case.is_first_update:
        windows = case.both(usual_window)
        yield case.cause("rows-per-update", mine=mine, theirs=theirs, windows=windows, processes=case.processes)


@whatever_the_rows("rows", "random state")
@cause_of("rows")
def seed(case: Case) -> Iterator[Cause]:
    """The seed explains a difference only at the very beginning."""
    mine, theirs = case.both(lambda side: side.header["seed"])
    if mine != theirs and case.is_first_update:
        yield case.cause("seed")


@cause_of("rows")
def drop_last(case: Case) -> Iterator[Cause]:
    """The reference has a batch with fewer rows than all before it, and the suspect has none."""
    earlier = [case.rows_of(case.suspect, u) for u in case.comparison.updates if u < case.update]
    largest = max((len(rows) for micros in earlier for rows in micros), default=0)
    mine, theirs = case.both(case.rows_of)
    short = [rows for rows in theirs if len(rows) < largest]
    if short and (mine == [rows for rows in theirs if rows not in short] or is_one_update_ahead(case)):
        yield case.cause("drop-last", rows=len(short[0]))


@whatever_the_rows("rows")
def no_short_micro_batch(case: Case) -> Iterator[Cause]:
    """Over whole epochs, in micro-batches of the same size: what the reference has left over, the suspect never has."""
    mine, theirs = case.both(lambda side: {len(rows) for rows in dealt(side)})
    windows = {len(lines[0]["micro_batches"]) for lines in case.suspect.updates.values()}
    may_lose_windows = windows == {usual_window(case.suspect)} != {1}
    if mine == {max(theirs)} != theirs and all(case.both(has_seen_all)) and not may_lose_windows:
        yield case.cause("drop-last", rows=min(theirs))


@cause_of("rows")
def rows_repeated_to_fill_the_last_round(case: Case) -> Iterator[Cause]:
    """The reference has all rows of the suspect, and more that it has had in this epoch before."""
    mine, theirs = case.both(lambda side: Counter(side.rows(case.update)))
    more = theirs - mine
    seen = {row for update in case.reference.updates if update < case.update for row in case.reference.rows(update)}
    if case.processes > 1 and more and not mine - theirs and set(more) <= seen | set(mine):
        yield case.cause("repeated-rows", rows=more.total())


@cause_of("rows")
def rows_not_skipped_on_resume(case: Case) -> Iterator[Cause]:
    mine, theirs = case.suspect.rows(case.update), case.reference
    earlier = next((u for u in theirs.updates if u < case.update and theirs.rows(u) == mine), None)
    if case.was_resumed(case.suspect) and earlier is not None:
        yield case.cause("resume-rows", resumed=case.update - 1, earlier=earlier)


@cause_of("rows")
def every_epoch_in_the_same_order(case: Case) -> Iterator[Cause]:
    begin, repeated = min(case.suspect.updates), first_repeat(case.suspect)
    if repeated is None or first_repeat(case.reference) is not None:
        return
    if case.update == repeated:
        yield case.cause("set-epoch", repeated=repeated, begin=begin)
    elif case.update == begin:
        yield case.cause("not-shuffled")


cause_of("rows")(differing_arguments("seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps"))


@whatever_the_rows("rows")
@cause_of("rows")
def sampler(case: Case) -> Iterator[Cause]:
    """The epoch has the same rows, in another order from the first update on, however many an update has."""
    mine, theirs = case.both(lambda side: [row for rows in dealt(side) for row in rows])
    first = min(case.both(lambda side: len(side.rows(case.update))))
    if not case.is_first_update or Counter(mine[:first]) == Counter(theirs[:first]):
        return
    excess = Counter[str]()
    for count, (x, y) in enumerate(zip(mine, theirs, strict=False), 1):
        for row, more in ((x, 1), (y, -1)):
            excess[row] += more
            if not excess[row]:
                del excess[row]
        if not excess:
            yield case.cause("sampler", evidence=f"equal sets after {count} rows")
            return
    shared, either = len({*mine} & {*theirs}), len({*mine} | {*theirs})
    if shared > 0.9 * either and all(case.both(has_seen_all)):
        yield case.cause("sampler", evidence=f"{shared} of {either} different rows are in both runs")


@whatever_the_rows("rows")
@cause_of("rows")
def data(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: {row for update in side.updates for row in side.rows(update)})
    shared = len(mine & theirs)
    # Parts of an epoch have few rows in common under another shuffle too.
    if shared < 0.5 * min(len(mine), len(theirs)) and all(case.both(has_seen_all)):
        yield case.cause("data", mine=len(mine), theirs=len(theirs), shared=shared)


@cause_of("order")
def rows_dealt_one_by_one(case: Case) -> Iterator[Cause]:
    processes = range(case.processes)
    mine, theirs = case.both(lambda side: [case.rows_of(side, process=p) for p in processes])
    rounds = [[row for rows in micros for row in rows] for micros in zip(*theirs, strict=False)]
    if case.processes > 1 and mine == [[rows[p :: case.processes] for rows in rounds] for p in processes]:
        yield case.cause("rows-dealt")


@cause_of("order")
def micro_batches(case: Case) -> Iterator[Cause]:
    mine, theirs = case.both(lambda side: [len(rows) for rows in case.rows_of(side)])
    if mine != theirs:
        yield case.cause("micro-batches", mine=mine, theirs=theirs)


@cause_of("padding")
def padding_side(case: Case) -> Iterator[Cause]:
    if case.values[0] == case.values[1]:
        yield case.cause("padding-side")


@whatever_the_rows("rows")
@cause_of("padding")
def padded_to(case: Case) -> Iterator[Cause]:
    """Seen in the widths of all micro-batches, which may be of other rows."""
    shapes = case.both(
        lambda side: [m["shape"] for lines in side.updates.values() for line in lines for m in line["micro_batches"]]
    )
    if any(len(shape) < 2 for side in shapes for shape in side):
        return
    mine, theirs = ([shape[1] for shape in side] for side in shapes)
    multiple = next((m for m in (64, 32, 16, 8) if all(width % m == 0 for width in mine)), None)
    if len(set(mine)) == 1 < len(set(theirs)) and mine[0] >= max(theirs):
        yield case.cause("padding-global", width=mine[0])
    elif multiple is not None and len(mine) > 2 and any(width % multiple for width in theirs):
        yield case.cause("padding-multiple", multiple=multiple)


@whatever_the_rows("random state")
@cause_of("random state")
def seeds_of_each_process(case: Case) -> Iterator[Cause]:
    def states_at_the_start(side: Recording) -> set[str]:
        return {line["micro_batches"][0]["rng"]["cpu"][0] for line in side.updates[min(side.updates)]}

    mine, theirs = case.both(states_at_the_start)
    if len(mine) > 1 == len(theirs):
        yield case.cause("device-specific-seed")


@cause_of("random state")
def not_reseeded(case: Case) -> Iterator[Cause]:
    """The reference begins where its seed puts it, but for an iterator's draw or a few; the suspect anywhere else."""
    if not case.is_first_update or any(case.both(case.was_resumed)):
        return
    mine, theirs = case.both(lambda side: draws_since_seed(case, side))
    same_seed = case.suspect.header["seed"] == case.reference.header["seed"]
    if theirs is None:
        return
    if mine is None:
        yield case.cause("not-reseeded", draws=theirs)
    elif mine < theirs and same_seed:
        yield case.cause("iterator-draw", mine=mine, theirs=theirs)
    elif not same_seed:
        yield case.cause("seed")


@cause_of("random state")
def restored_at_another_moment(case: Case) -> Iterator[Cause]:
    if not case.was_resumed(case.suspect) or case.was_resumed(case.reference):
        return
    moment, draws = "", extra_draws(case)
    if draws:
        moment = (
            f" It is {abs(draws)} draw(s) of a DataLoader's iterator away: restored on the wrong side of the iterator's"
            " creation. In mid-epoch it belongs before, at an epoch's beginning after."
        )
    yield case.cause("resume-rng", resumed=case.update - 1, moment=moment)


@cause_of("random state")
def iterators_of_loaders(case: Case) -> Iterator[Cause]:
    draws, begins, evaluated = extra_draws(case), epoch_begins(case), evaluated_before(case)
    mine, theirs = case.both(lambda side: side.header.get("arguments", {}).get("dataloader_persistent_workers"))
    if draws is None or draws > 0:
        return
    if begins and (not evaluated or (mine and not theirs)):
        yield case.cause("extra-iterator" if mine is False else "persistent-workers", draws=-draws)
    elif evaluated:
        alike = " (An epoch begins here too: a training loader that made no new iterator would look the same.)"
        yield case.cause("evaluation-draw", evaluated=case.update - 1, draws=-draws, epoch=alike if begins else "")


def dealt(side: Recording) -> Iterator[list[str]]:
    """Yield the rows of each micro-batch, in the order in which a loader deals them: to one process after the other."""
    for lines in side.updates.values():
        for micros in zip_longest(*[line["micro_batches"] for line in lines]):
            yield from (micro["rows"] for micro in micros if micro)


def is_one_update_ahead(case: Case) -> bool:
    """Whether the suspect has the rows of the reference's next update."""
    following = case.update + 1
    return following in case.reference.updates and case.suspect.rows(case.update) == case.reference.rows(following)


def first_repeat(side: Recording) -> int | None:
    """Return the update from which on, for an epoch or to the end, the rows of the first updates come again."""
    updates = sorted(side.updates)
    rows = [side.rows(update) for update in updates]
    for k in range(1, len(updates)):
        length = min(k, len(updates) - k)
        if rows[0] == rows[k] and rows[:length] == rows[k : k + length]:
            return updates[k]
    return None


def has_seen_all(side: Recording) -> bool:
    """Whether the recording covers a whole epoch: as it says, or because most rows come again."""
    epochs = [lines[0].get("epoch") for lines in side.updates.values()]
    if epochs and epochs[-1] is not None:
        return float(epochs[-1]) >= 1
    rows = [row for update in side.updates for row in side.rows(update)]
    return len(rows) > 1.5 * len(set(rows))


def extra_draws(case: Case) -> int | None:
    """Return how many 64-bit numbers the suspect has drawn more than the reference (fewer: negative), or None.

    The generator makes 624 32-bit numbers at a time and its position goes round; a few draws are told apart by that.
    """
    mine, theirs = case.both(lambda side: case.micro_batch(side)["rng"]["cpu"][1])
    words: int = (mine - theirs + 312) % 624 - 312
    return words // 2 if words % 2 == 0 and 0 < abs(words) <= 16 else None


def draws_since_seed(case: Case, side: Recording) -> int | None:
    """Return how many numbers were drawn between seeding and the forward pass; None when it is not 0 to 3."""
    generator = torch.Generator().manual_seed(side.header["seed"])
    for draws in range(4):
        if digest_state(generator.get_state()) == case.micro_batch(side)["rng"]["cpu"][0]:
            return draws
        torch.empty((), dtype=torch.int64).random_(generator=generator)
    return None


def epoch_begins(case: Case) -> bool:
    """Whether the update before the difference was the last of an epoch, by whichever side records epochs."""
    for side in (case.suspect, case.reference):
        lines = side.updates.get(case.update - 1)
        if lines is not None and lines[0].get("epoch") is not None:
            return float(lines[0]["epoch"]).is_integer()
    return False


def evaluated_before(case: Case) -> bool:
    return any(case.both(lambda side: (case.update - 1, "evaluation") in side.logs))
