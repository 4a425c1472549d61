"""Where a run can be killed or lied to: its file operations, as kill_shim.c logs them, and their stages."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("open", "create", "write", "fsync", "rename", "delete", "mkdir", "truncate", "link")


@dataclass(frozen=True)
class Kill:
    """`before`, in the `middle` of (half of a write's bytes are written), or `after` operation `at` of process `rank`;
    or, `seconds`, so long after the run's start."""

    when: str
    at: float
    rank: int = 0

    def __str__(self) -> str:
        return f"{self.when}:{self.at:g}" + (f"@{self.rank}" if self.rank else "")

    @classmethod
    def parse(cls, text: str) -> Kill:
        """Read back what `str()` gives. Raises: ValueError."""
        match = re.fullmatch(r"(before|middle|after|seconds):([0-9.]+)(?:@(\d+))?", text)
        if match is None:
            raise ValueError(f"{text!r} is no kill; before:N, middle:N, after:N and seconds:S are, @RANK may follow")
        return cls(match[1], float(match[2]), int(match[3] or 0))

    def order(self) -> dict[str, Any]:
        if self.when == "seconds":
            return {"seconds": self.at, "rank": self.rank}
        return {"operation": int(self.at), "when": self.when, "rank": self.rank}


@dataclass(frozen=True)
class Fault:
    """Operations that fail with `error`: from number `operation` of process `rank` on, the next `times` of these kinds
    on files with `path` in their path."""

    error: int
    operation: int
    kinds: tuple[str, ...]
    times: int = 10**9
    path: str = ""
    rank: int = 0

    def order(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"kinds": sum(1 << KINDS.index(kind) for kind in self.kinds)}


@dataclass(frozen=True)
class Operation:
    """Something done to a file below the output_dir. `size`: of a write, in bytes."""

    number: int
    kind: str
    path: str
    to: str
    size: int

    def __str__(self) -> str:
        return f"{self.number} {self.kind} {self.path}{f' -> {self.to}' if self.to else ''}"


def read_operations(log: Path) -> list[Operation]:
    if not log.exists():  # killed before the shim was armed
        return []
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    return [Operation(int(number), kind, path, to, int(size)) for number, kind, path, to, size in lines]


def stages(operations: Iterable[Operation], is_resumed: bool) -> list[str]:
    """Tell what each operation belongs to by its path: a save, the rotation after it, the final save, the result
    files, the beginning of a resumed run, or else. One on the output_dir itself belongs to what was done before."""
    found: list[str] = []
    has_begun = not is_resumed
    for operation in operations:
        path, before = operation.path, found[-1] if found else "elsewhere"
        stage = before
        if path.startswith(".staging-checkpoint-"):
            stage = "save"
        elif path.startswith("checkpoint-") and operation.kind not in ("open", "delete", "rename"):
            stage = "save"  # in place, as Trainer does it
        elif path.startswith((".deleted-", "checkpoint-")) and operation.kind != "open":
            stage = "rotation"
        elif re.search(r"(_results|trainer_state)\.json|_predictions\.tsv", path):
            stage = "result files"
        elif operation.kind not in ("open", "delete") and path != "." and "lock" not in path:
            stage = "final save"
        has_begun = has_begun or (stage != "rotation" and stage != before and operation.kind in ("create", "mkdir"))
        found.append(stage if has_begun else "resume")
    return found


def stage_of_kill(kill: Kill, operations: list[Operation], is_resumed: bool, planned: list[Operation]) -> str:
    """Name where a kill hit and what was just being done: `save: half write`. `planned`: the operations of a run of the
    same beginning that nobody killed; they tell of a moment whether it was in the midst of a save."""
    if kill.when == "seconds":
        around = [checkpoint_of(operation) for operation in planned[max(len(operations) - 1, 0) :][:2]]
        in_a_save = len(operations) > 0 and len(around) == 2 and around[0] == around[1] is not None
        where = "in a save" if in_a_save else "elsewhere"
        return f"random moment: {'in a later run' if is_resumed or not planned else where}"
    found = stages(operations, is_resumed)
    assert operations, "killed at an operation that is not in the log"
    assert operations[-1].number == kill.at, f"killed at {kill.at:g}, and the log ends with {operations[-1]}"
    state = {"before": "before", "middle": "half", "after": "completed"}[kill.when]
    return f"{found[-1]}: {state} {operations[-1].kind}"


def checkpoint_of(operation: Operation) -> str | None:
    match = re.search(r"checkpoint-\d+", operation.path)
    return match and match[0]


def kill_points(operations: Sequence[Operation], many: int = 4, reads: bool = False, rank: int = 0) -> list[Kill]:
    """After every operation that changes something (or with `reads` opens a file), and in the middle of every write.

    What a kill after one leaves is what a kill before the next leaves, so `before` is only added where it differs: at
    the first. Of more than `many` writes one after the other into one file, the first, the middle one and the last.
    """
    changing = [operation for operation in operations if reads or operation.kind != "open"]
    points = [Kill("before", changing[0].number, rank)] if changing else []
    for position, operation in enumerate(changing):
        if operation.kind == "write":
            same = run_of_writes(changing, position)
            if len(same) > many and operation not in (same[0], same[len(same) // 2], same[-1]):
                continue
            if operation.size > 1:
                points.append(Kill("middle", operation.number, rank))
        points.append(Kill("after", operation.number, rank))
    return points


def table(kills: Counter[str]) -> list[str]:
    """A line for each stage: how many kills, and just before, in the middle of, or after what."""
    lines = []
    for stage in sorted({name.partition(":")[0] for name in kills}):
        states = {name.partition(": ")[2]: count for name, count in kills.items() if name.startswith(f"{stage}:")}
        detail = ", ".join(f"{state} {count}" for state, count in sorted(states.items()))
        lines.append(f"{stage:<15}{sum(states.values()):>5}   {detail}")
    return lines


def run_of_writes(operations: Sequence[Operation], position: int) -> list[Operation]:
    """The writes into the same file around this one with no other operation between them."""
    path = operations[position].path
    first = last = position
    while first > 0 and operations[first - 1].kind == "write" and operations[first - 1].path == path:
        first -= 1
    while last + 1 < len(operations) and operations[last + 1].kind == "write" and operations[last + 1].path == path:
        last += 1
    return list(operations[first : last + 1])


def one_save(operations: Sequence[Operation], step: int) -> list[Operation]:
    """Return the operations of one save: from the first on its staging folder up to the next save."""
    mine = [i for i, operation in enumerate(operations) if operation.path.startswith(f".staging-checkpoint-{step}")]
    assert mine, f"no save of checkpoint-{step}"
    later = [
        i
        for i, operation in enumerate(operations)
        if i > mine[-1] and operation.path.startswith(".staging-") and operation.kind == "mkdir"
    ]
    return list(operations[mine[0] : later[0] if later else len(operations)])
