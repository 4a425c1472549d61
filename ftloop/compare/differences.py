"""Read two recordings and list everything in which they differ, in the order in which it happened."""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ftloop.compare.recorder import FORMAT, rank_file
from ftloop.errors import UserError
from ftloop.system.scalars import is_timing
from ftloop.system.text import pluralize

Line = dict[str, Any]

# Stages in the order in which they happen within one update.
BATCH_STAGES = ("rows", "order", "padding", "random state")
STEP_STAGES = ("loss", "gradient", "clipping", "learning rate", "weights")
STAGES = (*BATCH_STAGES, *STEP_STAGES, "log", "evaluation", "checkpoint", "end")
TRAINING_STAGES = ("rows", *STEP_STAGES)

CURVES = ("loss", "grad_norm", "learning_rate")
NOT_COMPARED = {"epoch"}  # of a log line: it follows from the rows, which say more

# Stage, what differs, the field that is compared and the one that is shown.
MICRO_BATCH_VALUES = (
    ("padding", "shape of the batch", "batch", "shape"),
    ("random state", "cpu generator before the forward pass", "cpu", "cpu"),
    ("random state", "cuda generator before the forward pass", "cuda", "cuda"),
    ("loss", "loss of the micro-batch", "loss", "loss"),
    ("gradient", "norm of the gradient after the backward pass", "grad", "grad_norm"),
)
STEP_VALUES = (
    ("clipping", "norm of the gradient that the optimizer got", "clipped", "clipped_norm"),
    ("learning rate", "learning rate of this update", "rates", "rate"),
    ("weights", "norm of the weights after it", "weights", "weights_norm"),
)
PARAMETERS = {"grad": "grads", "weights": "parameters"}  # where a full recording holds each tensor's digest

HEADER_FIELDS = {"processes", "rank", "model", "optimizer", "weights", "global_step", "seed"}
MICRO_BATCH_FIELDS = {"rows", "inputs", "batch", "rng", "loss", "grad", "grad_norm"}


@dataclass
class Recording:
    """One recording as it was read, all its processes together."""

    path: Path
    headers: list[Line] = field(default_factory=list)
    """First header of each process."""
    updates: dict[int, list[Line]] = field(default_factory=dict)
    """Line of each process, by global step."""
    logs: dict[tuple[int, str], Line] = field(default_factory=dict)
    """Values logged by process 0, without timings, by global step and kind (`loss`, `evaluation`, `summary`)."""
    checkpoints: set[int] = field(default_factory=set)
    final_weights: str | None = None
    """Digest of the weights at the end; None when the recording was cut short."""
    resumed_at: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    name: str = ""
    """`A` or `B` within a comparison."""

    def __str__(self) -> str:
        return self.name

    @property
    def header(self) -> Line:
        return self.headers[0]

    @property
    def processes(self) -> int:
        return len(self.headers)

    def optional_kinds(self) -> set[str]:
        """Which of the things that need not be recorded were recorded."""
        kinds = {"evaluation" if kind == "evaluation" else "log" for _, kind in self.logs}
        return kinds | ({"checkpoint"} if self.checkpoints else set())

    def rows(self, update: int) -> list[str]:
        """Return the digests of the update's rows, over all processes and micro-batches."""
        return [row for line in self.updates[update] for micro in line["micro_batches"] for row in micro["rows"]]

    def loss(self, update: int) -> float:
        """Return the sum of the shares of the update's micro-batches, averaged over the processes."""
        lines = self.updates[update]
        return sum(micro["loss"] for line in lines for micro in line["micro_batches"]) / len(lines)

    def curve(self, name: str) -> dict[int, float]:
        """Return `loss`, `grad_norm` (before clipping) or `learning_rate` (of the first group) by update."""
        value: Callable[[int], float | None] = {
            "loss": self.loss,
            "grad_norm": lambda update: self.updates[update][0]["micro_batches"][-1]["grad_norm"],
            "learning_rate": lambda update: (self.updates[update][0].get("lr") or [None])[0],
        }[name]
        return {update: number for update in self.updates if (number := value(update)) is not None}


@dataclass(frozen=True)
class Difference:
    """One difference between two runs, with the value of each."""

    update: int
    stage: str
    what: str
    a: Any
    b: Any
    process: int = 0
    micro_batch: int | None = None

    @property
    def ratio(self) -> float | None:
        """A's value divided by B's, where both are finite numbers."""
        numbers = [isinstance(value, (int, float)) and math.isfinite(value) for value in (self.a, self.b)]
        return self.a / self.b if all(numbers) and self.b else None


@dataclass
class Comparison:
    """Two recordings and everything in which they differ, in the order in which it happened."""

    a: Recording
    b: Recording
    updates: list[int]
    """Updates that both recordings have."""
    differences: list[Difference]
    notes: list[str]

    @property
    def same(self) -> bool:
        return not self.differences

    @property
    def first(self) -> Difference:
        return self.differences[0]

    @property
    def first_in_training(self) -> Difference | None:
        """The first difference that reaches the weights; runs may differ in their logs alone."""
        return next((each for each in self.differences if each.stage in TRAINING_STAGES), None)

    def drift(self, name: str) -> tuple[int, float, float] | None:
        """Return where a curve is furthest apart since the first difference: update, absolute and relative gap."""
        a, b = self.a.curve(name), self.b.curve(name)
        gaps = [(abs(a[u] - b[u]), u) for u in self.updates if u >= self.first.update and u in a and u in b]
        gap, update = max((pair for pair in gaps if math.isfinite(pair[0])), default=(0.0, None))
        if update is None:
            return None
        return update, gap, gap / max(abs(a[update]), abs(b[update]), 1e-300)


def read(file: str | Path) -> Recording:
    """Read a recording with the files of its other processes. An incomplete last line is ignored; `notes` says so.

    Raises: UserError naming the file, and the line, that is not what it should be.
    """
    path = Path(file)
    if path.is_dir():
        raise UserError(f"{path} is a folder, and no recording, which is a file that --record FILE writes in training")
    ranks = [_read_file(path)]
    processes = ranks[0].header["processes"]
    for rank in range(1, processes):
        other = rank_file(path, rank)
        if not other.is_file():
            raise UserError(f"{path}: recorded by {processes} processes, and {other.name} of process {rank} is missing")
        ranks.append(_read_file(other))
        if ranks[-1].header["rank"] != rank or ranks[-1].header["processes"] != processes:
            raise UserError(f"{other}: is not of process {rank} of the {processes} that recorded {path.name}")
    complete = set.intersection(*[set(each.updates) for each in ranks])
    return replace(
        ranks[0],
        headers=[each.header for each in ranks],
        updates={update: [each.updates[update][0] for each in ranks] for update in sorted(complete)},
        notes=[note for each in ranks for note in each.notes],
    )


def _read_file(path: Path) -> Recording:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from None
    *lines, incomplete = text.split("\n")  # nothing follows the last line end, unless the recording was killed
    recording = Recording(path)
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if number == 1 and (not isinstance(entry, dict) or "ftloop_record" not in entry):
                raise UserError(f"{path}: not a recording (its first line lacks ftloop_record); see ftloop.compare")
            _add_line(recording, entry)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: line {number} is not a line of a recording ({error!r})") from None
    if not recording.headers:
        raise UserError(f"{path}: not a recording: it is empty, or was cut off in its first line")
    last = max(recording.updates, default=recording.header["global_step"])
    if incomplete:
        recording.notes.append(f"{path.name}: the last line is incomplete; used up to update {last}")
    if recording.final_weights is None:
        recording.notes.append(f"{path.name}: has no end, the run was cut short or is still going; used up to {last}")
    return recording


def _add_line(recording: Recording, entry: Line) -> None:
    """Add one line of the file. What a resumed run did again replaces what was there."""
    if "ftloop_record" in entry:
        version = entry["ftloop_record"]
        if version != FORMAT:
            raise UserError(
                f"{recording.path}: recorded in format {version}, this ftloop reads format {FORMAT}; record it again"
            )
        _check_fields(entry, HEADER_FIELDS)
        if recording.headers and (begun := recording.header["processes"]) != entry["processes"]:
            raise UserError(
                f"{recording.path}: begun by {pluralize(begun, 'process', 'processes')} and continued by "
                f"{entry['processes']} after update {entry['global_step']}, and its file holds only a part of the "
                "rows of one of the two; record the run with one number of processes from its start to its end"
            )
        if begin := entry["global_step"]:
            recording.resumed_at.add(begin)
            # What the run had done beyond the checkpoint, it does again.
            recording.updates = {u: line for u, line in recording.updates.items() if u <= begin}
            recording.logs = {key: values for key, values in recording.logs.items() if key[0] <= begin}
        recording.headers = recording.headers or [entry]
        recording.final_weights = None
    elif "update" in entry:
        for micro in entry["micro_batches"]:
            _check_fields(micro, MICRO_BATCH_FIELDS)
            micro |= {device: state for device, (state, _) in micro["rng"].items()}
        entry["rates"] = sorted(set(entry.get("lr", [])))  # groups may stand in another order, or be more of the same
        entry["rate"] = entry["rates"][0] if len(entry["rates"]) == 1 else entry.get("lr")
        recording.updates[operator.index(entry["update"])] = [entry]
    elif "log" in entry:
        values = {name: value for name, value in entry["log"].items() if not is_timing(name)}
        # Several data sets are evaluated one after the other, and a loop may log in several calls.
        recording.logs.setdefault((entry["step"], _log_kind(values)), {}).update(values)
    elif "checkpoint" in entry:
        recording.checkpoints.add(entry["checkpoint"])
    elif "end" in entry:
        recording.final_weights = entry["weights"]
    else:
        raise KeyError("update")


def _check_fields(entry: Line, fields: set[str]) -> None:
    if missing := sorted(fields - entry.keys()):
        raise ValueError(f"without {', '.join(missing)}")


def _log_kind(values: Line) -> str:
    if "train_loss" in values:
        return "summary"
    return "evaluation" if any(name.startswith("eval_") for name in values) else "loss"


def compare(a: Recording, b: Recording) -> Comparison:
    """Find everything in which two recordings differ.

    Raises: UserError when they are of different models or numbers of processes.
    """
    a, b = replace(a, name="A"), replace(b, name="B")
    for what, values in {
        "model": [f"{r.header['model']['class']} with {r.header['model']['parameters']:,} parameters" for r in (a, b)],
        "number of processes": [str(r.processes) for r in (a, b)],
    }.items():
        if values[0] != values[1]:
            raise UserError(f"{a.path} and {b.path}: not the same {what} ({values[0]}; {values[1]}); record the same")
    for one, other in ((a, b), (b, a)):
        if one.header.get("digests") == "sha256" != other.header.get("digests"):
            raise UserError(
                f"{one.path}: recorded without xxhash, {other.path} with it, so that no digest of the two is equal; "
                f"install xxhash where {one.path.name} was recorded, and record it again"
            )
    updates = [update for update in a.updates if update in b.updates]
    if not updates and (a.updates or b.updates):
        raise UserError(f"{a.path} and {b.path}: have no update in common")
    begin = max(min(r.updates, default=1) for r in (a, b))
    differences: list[Difference] = []
    if begin == 1:
        differences += _difference(0, "weights", "before training", a.header["weights"], b.header["weights"])
        differences += _compare_logs(a, b, 0)
    for update in updates:
        differences += _compare_update(update, a.updates[update], b.updates[update])
        differences += _compare_logs(a, b, update, with_summary=begin == 1)
    if a.final_weights and b.final_weights:
        last = max([0, *a.updates, *b.updates])
        differences += _difference(last, "end", "number of updates", *(max(r.updates, default=0) for r in (a, b)))
        differences += _difference(last, "end", "weights left by the run", a.final_weights, b.final_weights)
    return Comparison(a, b, updates, differences, _notes(a, b, begin))


def _notes(a: Recording, b: Recording, begin: int) -> list[str]:
    """Say what is not compared, and why."""
    notes = [*a.notes, *b.notes]
    for x, y in ((a, b), (b, a)):
        missing = sorted(y.optional_kinds() - x.optional_kinds())
        notes += [f"{x.path.name} recorded no {kind}s: not compared" for kind in missing]
    logged_a, logged_b = ({step for step, kind in each.logs if kind == "loss"} for each in (a, b))
    if logged_a and logged_b and logged_a != logged_b:
        notes.append(
            f"the runs log after different updates; their {len(logged_a & logged_b)} common lines are compared"
        )
    for kind in ("loss", "evaluation"):
        names = [{name for (_, k), values in each.logs.items() if k == kind for name in values} for each in (a, b)]
        for side, extra in ((a, names[0] - names[1]), (b, names[1] - names[0])):
            if all(names) and (shown := sorted(extra - NOT_COMPARED)):
                notes.append(f"only {side.path.name} logs {', '.join(shown)}: not compared")
    if begin > 1:
        notes.append(f"compared from update {begin}, where the later one begins")
    return notes


def _differ(a: Any, b: Any) -> bool:
    return a != b and not (a != a and b != b)  # NaN is NaN


def _difference(update: int, stage: str, what: str, a: Any, b: Any) -> Iterator[Difference]:
    if _differ(a, b):
        yield Difference(update, stage, what, a, b)


def _compare_update(update: int, a: list[Line], b: list[Line]) -> Iterator[Difference]:
    """Yield the differences within one update; `a` and `b` hold a line of each process."""
    inputs = [sorted({name for line in side for m in line["micro_batches"] for name in m["inputs"]}) for side in (a, b)]
    yield from _difference(update, "rows", "inputs of the model", *inputs)
    rows_a, rows_b = ([[m["rows"] for m in line["micro_batches"]] for line in side] for side in (a, b))
    count_a, count_b = (Counter(row for line in rows for micro in line for row in micro) for rows in (rows_a, rows_b))
    if count_a != count_b:
        shared = (count_a & count_b).total()
        yield Difference(
            update, "rows", f"rows of the update (of which {shared} are the same)", count_a.total(), count_b.total()
        )
    elif rows_a != rows_b:
        sizes = [[[len(micro) for micro in line] for line in rows] for rows in (rows_a, rows_b)]
        yield Difference(update, "order", "rows per process and micro-batch", sizes[0], sizes[1])
    values = MICRO_BATCH_VALUES if rows_a == rows_b else MICRO_BATCH_VALUES[1:]  # other rows are padded otherwise
    for i, micros in enumerate(zip_longest(*[line["micro_batches"] for line in (*a, *b)])):
        yield from _compare_values(values, micros[: len(a)], micros[len(a) :], update, i)
    yield from _compare_values(STEP_VALUES, a, b, update)


def _compare_values(
    values: Sequence[tuple[str, ...]], a: Sequence[Line], b: Sequence[Line], update: int, micro_batch: int | None = None
) -> Iterator[Difference]:
    """Yield the differences stage by stage, and within a stage process by process."""
    for stage, what, key, shown in values:
        for process, (x, y) in enumerate(zip(a, b, strict=True)):
            if x and y and _differ(x.get(key), y.get(key)):
                digests = [line.get(PARAMETERS.get(key, ""), {}) for line in (x, y)]
                names = [name for name in digests[0] if digests[1] and digests[0][name] != digests[1].get(name)]
                where = f" ({len(names)} tensors differ, first {names[0]})" if names else ""
                yield Difference(update, stage, f"{what}{where}", x.get(shown), y.get(shown), process, micro_batch)


def _compare_logs(a: Recording, b: Recording, step: int, with_summary: bool = True) -> Iterator[Difference]:
    """Yield the differences in what is logged, evaluated and saved after an update. Kinds that one side never records
    are not compared; nor is the `summary` of a resumed run, which may be of its own updates alone.
    """
    evaluates = all(any(kind == "evaluation" for _, kind in side.logs) for side in (a, b))
    for kind in ("loss", "evaluation", "summary") if with_summary else ("loss", "evaluation"):
        stage = "evaluation" if kind == "evaluation" else "log"
        x, y = a.logs.get((step, kind)), b.logs.get((step, kind))
        if x is not None and y is not None:
            for name in x:
                if name in y and name not in NOT_COMPARED:
                    yield from _difference(step, stage, name, x[name], y[name])
        elif kind == "evaluation" and evaluates:
            yield from _difference(step, stage, "evaluation after it", *("there" if v else "none" for v in (x, y)))
    if a.checkpoints and b.checkpoints:
        saved = ("there" if step in side.checkpoints else "none" for side in (a, b))
        yield from _difference(step, "checkpoint", "checkpoint after it", *saved)
