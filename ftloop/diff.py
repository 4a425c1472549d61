"""Two recordings read and held against each other: everything in which they differ, in the order it happened."""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ftloop.errors import UserError
from ftloop.record import FORMAT, rank_file

Line = dict[str, Any]

# In the order in which things happen within one update.
STAGES = (
    "rows",
    "order",
    "padding",
    "random state",
    "loss",
    "gradient",
    "clipping",
    "learning rate",
    "weights",
    "log",
    "evaluation",
    "checkpoint",
    "end",
)
TRAINING = ("rows", "loss", "gradient", "clipping", "learning rate", "weights")
UNCOMPARED = {"epoch"}  # of a log line: it follows from the rows, which say more
DRIFTING = ("loss", "grad_norm", "learning_rate")


@dataclass
class Recorded:
    """One recording as it was read: all its processes together."""

    path: Path
    headers: list[Line]
    """Of each process: the first, or that of its last resume where it has no other."""
    updates: dict[int, list[Line]]
    """By global step: the line of each process."""
    logs: dict[tuple[int, str], Line]
    """By global step and kind (`loss`, `evaluation`, `summary`); of process 0. Timings are left out."""
    checkpoints: set[int]
    final_weights: str | None
    """None when the recording was cut short."""
    resumed_at: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def header(self) -> Line:
        return self.headers[0]

    @property
    def processes(self) -> int:
        return len(self.headers)

    def kinds(self) -> set[str]:
        """What of the things that need not be recorded is there."""
        kinds = {"evaluation" if kind == "evaluation" else "log" for _, kind in self.logs}
        return kinds | ({"checkpoint"} if self.checkpoints else set())

    def loss(self, update: int) -> float:
        """Of an update: its micro-batches' shares added up, the mean over processes."""
        lines = self.updates[update]
        return sum(micro["loss"] for line in lines for micro in line["micro_batches"]) / len(lines)

    def curve(self, name: str) -> dict[int, float]:
        """`loss`, `grad_norm` (before clipping) or `learning_rate` (of the first group) by update."""
        value: Callable[[int], float | None] = {
            "loss": self.loss,
            "grad_norm": lambda update: self.updates[update][0]["micro_batches"][-1]["grad_norm"],
            "learning_rate": lambda update: (self.updates[update][0].get("lr") or [None])[0],
        }[name]
        return {update: found for update in self.updates if (found := value(update)) is not None}


@dataclass(frozen=True)
class Parting:
    """One difference between two runs, A's value and B's."""

    update: int
    stage: str
    what: str
    a: Any
    b: Any
    process: int = 0
    micro_batch: int | None = None

    @property
    def ratio(self) -> float | None:
        """A's value over B's, where that means something."""
        numbers = [isinstance(value, (int, float)) and math.isfinite(value) for value in (self.a, self.b)]
        return self.a / self.b if all(numbers) and self.b else None


@dataclass
class Comparison:
    """Two recordings, and everything in which they differ, in the order it happened."""

    a: Recorded
    b: Recorded
    updates: list[int]
    """Those in both recordings."""
    partings: list[Parting]
    notes: list[str]

    @property
    def same(self) -> bool:
        return not self.partings

    @property
    def first(self) -> Parting:
        return self.partings[0]

    @property
    def felt(self) -> Parting | None:
        """The first difference in what the weights come from; logs may differ and the training not."""
        return next((each for each in self.partings if each.stage in TRAINING), None)

    def drift(self, name: str) -> tuple[int, float, float] | None:
        """Where a curve is furthest apart from the first difference on: update, absolute and relative difference."""
        a, b = self.a.curve(name), self.b.curve(name)
        apart = [(abs(a[u] - b[u]), u) for u in self.updates if u >= self.first.update and u in a and u in b]
        apart = [pair for pair in apart if math.isfinite(pair[0])]
        if not apart:
            return None
        largest, update = max(apart)
        return update, largest, largest / max(abs(a[update]), abs(b[update]), 1e-300)


def read(file: str | Path) -> Recorded:
    """Read a recording with the files of its other processes. A last line that was cut off is left out, which `notes`
    says.

    Raises: UserError naming the file, and the line, that is not what it should be.
    """
    path = Path(file)
    first = _read_file(path)
    processes = first.header["processes"]
    ranks = [first]
    for rank in range(1, processes):
        other = rank_file(path, rank)
        if not other.is_file():
            raise UserError(f"{path}: recorded by {processes} processes, and {other.name} of process {rank} is missing")
        ranks.append(_read_file(other))
        if ranks[-1].header["rank"] != rank or ranks[-1].header["processes"] != processes:
            raise UserError(f"{other}: is not of process {rank} of the {processes} that recorded {path.name}")
    whole = set.intersection(*[set(each.updates) for each in ranks])
    first.updates = {update: [each.updates[update][0] for each in ranks] for update in sorted(whole)}
    first.headers = [each.header for each in ranks]
    first.notes = [note for each in ranks for note in each.notes]
    return first


def _read_file(path: Path) -> Recorded:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from None
    lines = text.split("\n")
    cut = lines.pop()  # what follows the last line end: nothing, unless the recording was killed
    recorded = Recorded(path, [], {}, {}, set(), None)
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if number == 1 and (not isinstance(entry, dict) or "ftloop_record" not in entry):
                raise UserError(f"{path}: not a recording (its first line lacks ftloop_record); see ftloop.record")
            _take(recorded, entry)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: line {number} is not of a recording ({error!r})") from None
    if not recorded.headers:
        raise UserError(f"{path}: not a recording: it is empty, or was cut off in its first line")
    last = max(recorded.updates, default=recorded.header["global_step"])
    if cut:
        recorded.notes.append(f"{path.name}: the last line is cut off; used up to update {last}")
    if recorded.final_weights is None:
        recorded.notes.append(f"{path.name}: has no end, the run was cut short or still goes on; used up to {last}")
    return recorded


def _take(recorded: Recorded, entry: Line) -> None:
    """Put one line where it belongs. What a resumed run did again takes the place of what was there."""
    if "ftloop_record" in entry:
        if entry["ftloop_record"] != FORMAT:
            raise UserError(
                f"{recorded.path}: recorded in format {entry['ftloop_record']}, this is ftloop for format {FORMAT}; "
                "record it again"
            )
        for name in ("processes", "rank", "model", "optimizer", "weights", "global_step", "seed"):
            entry[name]
        if entry["global_step"]:
            recorded.resumed_at.add(entry["global_step"])
            # What the run had done beyond the checkpoint, it does again.
            recorded.updates = {u: line for u, line in recorded.updates.items() if u <= entry["global_step"]}
            recorded.logs = {key: values for key, values in recorded.logs.items() if key[0] <= entry["global_step"]}
        recorded.headers = recorded.headers or [entry]
        recorded.final_weights = None
    elif "update" in entry:
        for name in ("rows", "inputs", "batch", "rng", "loss", "grad", "grad_norm"):
            [micro[name] for micro in entry["micro_batches"]]
        recorded.updates[operator.index(entry["update"])] = [entry]
    elif "log" in entry:
        values = {name: value for name, value in entry["log"].items() if not is_timing(name)}
        # Several data sets are evaluated one after the other, and a loop may log in several calls.
        recorded.logs.setdefault((entry["step"], _kind(values)), {}).update(values)
    elif "checkpoint" in entry:
        recorded.checkpoints.add(entry["checkpoint"])
    elif "end" in entry:
        recorded.final_weights = entry["weights"]
    else:
        raise KeyError("update")


def _kind(values: Line) -> str:
    if "train_loss" in values:
        return "summary"
    return "evaluation" if any(name.startswith("eval_") for name in values) else "loss"


def is_timing(name: str) -> bool:
    return name.endswith(("_runtime", "_per_second"))


def compare(a: Recorded, b: Recorded) -> Comparison:
    """Everything in which two recordings differ.

    Raises: UserError when they are of different models or numbers of processes.
    """
    for what, values in {
        "model": [f"{r.header['model']['class']} with {r.header['model']['parameters']:,} parameters" for r in (a, b)],
        "number of processes": [str(r.processes) for r in (a, b)],
    }.items():
        if values[0] != values[1]:
            raise UserError(f"{a.path} and {b.path}: not the same {what} ({values[0]}; {values[1]}); record the same")
    notes = [*a.notes, *b.notes]
    for x, y in ((a, b), (b, a)):
        notes += [f"{x.path.name} recorded no {kind}s: not compared" for kind in sorted(y.kinds() - x.kinds())]
    logged = [{step for step, kind in each.logs if kind == "loss"} for each in (a, b)]
    if all(logged) and logged[0] != logged[1]:
        notes.append(f"they log after other updates; the {len(logged[0] & logged[1])} log lines in both are compared")
    for kind in ("loss", "evaluation"):
        names = [{name for (_, k), values in each.logs.items() if k == kind for name in values} for each in (a, b)]
        for side, alone in ((a, names[0] - names[1]), (b, names[1] - names[0])):
            if all(names) and (told := sorted(alone - UNCOMPARED)):
                notes.append(f"{side.path.name} alone logs {', '.join(told)}: not compared")
    begin = max(min(r.updates, default=1) for r in (a, b))
    updates = [update for update in a.updates if update in b.updates]
    if not updates and (a.updates or b.updates):
        raise UserError(f"{a.path} and {b.path}: have no update in common")
    if begin > 1:
        notes.append(f"compared from update {begin}, where the later one begins")
    partings: list[Parting] = []
    if begin == 1:
        partings += _differ(0, "weights", "before training", a.header["weights"], b.header["weights"])
        partings += _after(a, b, 0)
    for update in updates:
        partings += _update(update, a.updates[update], b.updates[update])
        partings += _after(a, b, update, summary=begin == 1)
    if a.final_weights and b.final_weights:
        last = max([0, *a.updates, *b.updates])
        partings += _differ(last, "end", "number of updates", max(a.updates, default=0), max(b.updates, default=0))
        partings += _differ(last, "end", "weights left by the run", a.final_weights, b.final_weights)
    return Comparison(a, b, updates, partings, notes)


def _differ(update: int, stage: str, what: str, a: Any, b: Any, *at: int) -> Iterator[Parting]:
    if a != b and not (a != a and b != b):  # NaN is NaN
        yield Parting(update, stage, what, a, b, *at)


def _update(update: int, a: list[Line], b: list[Line]) -> Iterator[Parting]:
    """The differences within one update; `a` and `b` hold a line of each process."""
    rows = [[[m["rows"] for m in line["micro_batches"]] for line in side] for side in (a, b)]
    given = [sorted({name for line in side for m in line["micro_batches"] for name in m["inputs"]}) for side in (a, b)]
    yield from _differ(update, "rows", "inputs of the model", given[0], given[1])
    counts = [Counter(row for process in side for micro in process for row in micro) for side in rows]
    if counts[0] != counts[1]:
        shared = (counts[0] & counts[1]).total()
        a_rows, b_rows = (count.total() for count in counts)
        yield Parting(update, "rows", f"rows of the update, {shared} in both", a_rows, b_rows)
    elif rows[0] != rows[1]:
        shape_a, shape_b = ([[len(micro) for micro in process] for process in side] for side in rows)
        yield Parting(update, "order", "rows per process and micro-batch", shape_a, shape_b)
    yield from _micro_batches(update, a, b, comparable=counts[0] == counts[1] and rows[0] == rows[1])
    processes = list(enumerate(zip(a, b, strict=True)))
    for process, (x, y) in processes:
        if x.get("clipped") != y.get("clipped"):
            what = "norm of the gradient that the optimizer got"
            yield Parting(update, "clipping", what, x.get("clipped_norm"), y.get("clipped_norm"), process)
    for process, (x, y) in processes:
        rates = [line.get("lr", []) for line in (x, y)]
        # Groups may stand in another order, or be more of the same.
        if sorted(rates[0]) != sorted(rates[1]) and set(rates[0]) != set(rates[1]):
            value_a, value_b = (rate[0] if len(set(rate)) == 1 else rate for rate in rates)
            yield Parting(update, "learning rate", "learning rate of this update", value_a, value_b, process)
    for process, (x, y) in processes:
        if x["weights"] != y["weights"]:
            what = f"norm of the weights after it{_first_parameter(x, y, 'parameters')}"
            yield Parting(update, "weights", what, x["weights_norm"], y["weights_norm"], process)


def _micro_batches(update: int, a: list[Line], b: list[Line], comparable: bool) -> Iterator[Parting]:
    """Micro-batch by micro-batch, and in each, stage by stage over the processes: the order in which they happen."""
    by_micro = zip_longest(*[line["micro_batches"] for line in a], *[line["micro_batches"] for line in b])
    for i, both in enumerate(by_micro):
        pairs = [(r, x, y) for r, (x, y) in enumerate(zip(both[: len(a)], both[len(a) :], strict=True)) if x and y]
        for process, x, y in pairs:
            if comparable and x["batch"] != y["batch"]:
                yield Parting(update, "padding", "shape of the batch", x["shape"], y["shape"], process, i)
        for process, x, y in pairs:
            for device in sorted(x["rng"].keys() | y["rng"].keys()):
                what = f"{device} generator before the forward pass"
                states = [m["rng"].get(device, ["none"])[0] for m in (x, y)]
                yield from _differ(update, "random state", what, *states, process, i)
        for process, x, y in pairs:
            yield from _differ(update, "loss", "loss of the micro-batch", x["loss"], y["loss"], process, i)
        for process, x, y in pairs:
            if x["grad"] != y["grad"]:
                what = f"norm of the gradient after the backward pass{_first_parameter(x, y, 'grads')}"
                yield Parting(update, "gradient", what, x["grad_norm"], y["grad_norm"], process, i)


def _first_parameter(a: Line, b: Line, key: str) -> str:
    """Its name, where both recordings are full."""
    names = [name for name in a.get(key, {}) if a[key][name] != b.get(key, {}).get(name)]
    return f" ({len(names)} tensors differ, first {names[0]})" if names and key in b else ""


def _after(a: Recorded, b: Recorded, step: int, summary: bool = True) -> Iterator[Parting]:
    """What is logged, evaluated and saved after an update. Kinds that one side never records are not compared; nor is
    the `summary` of a resumed run, which may be of its own updates alone.
    """
    for kind in ("loss", "evaluation", "summary") if summary else ("loss", "evaluation"):
        stage = "evaluation" if kind == "evaluation" else "log"
        x, y = a.logs.get((step, kind)), b.logs.get((step, kind))
        if x is not None and y is not None:
            for name in x:
                if name in y and name not in UNCOMPARED:
                    yield from _differ(step, stage, name, x[name], y[name])
        elif x is not y and kind == "evaluation" and all(any(k == kind for _, k in side.logs) for side in (a, b)):
            yield Parting(step, stage, "evaluation after it", "there" if x else "none", "there" if y else "none")
    if a.checkpoints and b.checkpoints and (step in a.checkpoints) != (step in b.checkpoints):
        word_a, word_b = ("there" if step in each.checkpoints else "none" for each in (a, b))
        yield Parting(step, "checkpoint", "checkpoint after it", word_a, word_b)
