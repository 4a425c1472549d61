"""Kill a run, run the same command again, and compare what is left with what a run that nobody killed leaves.

The command is a black box: it is killed at file operations (shim.c counts them) or at moments, by SIGKILL, and judged
by the bytes in its output_dir alone. nursery.py forks the runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

Each = TypeVar("Each")
Done = TypeVar("Done")

TESTS = Path(__file__).resolve().parent
OUTPUT_DIR = "out"
MODEL = "model.safetensors"
UPDATES = 12
KINDS = ("open", "create", "write", "fsync", "rename", "delete", "mkdir", "truncate", "link")


# --- what is run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A command that trains, and what makes this one different from the others."""

    command: str
    """`module:function`, called with the list of words that follow a command's name."""
    flags: dict[str, str]
    processes: int = 1

    def words(self, data: Path) -> list[str]:
        """Paths are relative to the run's own folder, so that every run is told the same words."""
        files = {f"{split}_file": str(data / f"{split}.jsonl") for split in ("train", "validation", "test")}
        flags = {"model_name_or_path": str(data / "model"), **files, "output_dir": OUTPUT_DIR} | self.flags
        return [word for name, value in flags.items() for word in (f"--{name}", value)]


# 29 rows in batches of 4 are 8 micro-batches, in windows of 3: 3 updates an epoch, the last of a smaller window.
# A loss window of 5 lies across every save.
COMMON = {
    "num_train_epochs": "4",
    "per_device_train_batch_size": "4",
    "per_device_eval_batch_size": "4",
    "gradient_accumulation_steps": "3",
    "learning_rate": "1e-3",
    "warmup_steps": "2",
    "logging_steps": "5",
    "load_best_model_at_end": "true",
    "metric_for_best_model": "loss",
    "resume_from_checkpoint": "last",
}
BY_STEPS = {"eval_strategy": "steps", "eval_steps": "2", "save_strategy": "steps", "save_steps": "2"}
BY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch"}
FTLOOP, TRAINER = "ftloop.train:main", "trainer_script:main"
JOBS = {
    "steps": Job(FTLOOP, COMMON | BY_STEPS | {"save_total_limit": "2"}),
    "epochs": Job(FTLOOP, COMMON | BY_EPOCH | {"save_total_limit": "1"}),
    "processes": Job(FTLOOP, COMMON | BY_STEPS | {"save_total_limit": "2", "per_device_train_batch_size": "2"}, 2),
    "trainer-steps": Job(TRAINER, COMMON | BY_STEPS | {"save_total_limit": "2"}),
    "trainer-epochs": Job(TRAINER, COMMON | BY_EPOCH | {"save_total_limit": "1"}),
}


def write_data(folder: Path) -> Path:
    """The tiny model with its tokenizer, and rows for it."""
    from tiny import tiny_bert, tiny_pairs, tiny_tokenizer

    tiny_tokenizer().save_pretrained(folder / "model")
    tiny_bert().save_pretrained(folder / "model")
    for split, count in (("train", 29), ("validation", 13), ("test", 11)):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, tiny_pairs(count))) + "\n")
    return folder


# --- killing ---------------------------------------------------------------------------------------------------------


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
        """What `str()` gives. Raises: ValueError."""
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
    """From operation `operation` of process `rank` on, the next `times` operations of these kinds, on files with `path`
    in their path, fail with `error`."""

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


@dataclass(frozen=True)
class Ran:
    """One run of the command, by process."""

    statuses: list[int]
    operations: list[list[Operation]]
    stdout: str
    stderr: str
    seconds: float

    @property
    def exit_codes(self) -> list[int]:
        """Negative: the signal that ended the process."""
        return [os.waitstatus_to_exitcode(status) for status in self.statuses]

    def was_killed(self, rank: int) -> bool:
        status = self.statuses[rank]
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@dataclass
class Nursery:
    """nursery.py, running; its answers come in the order of the questions."""

    process: subprocess.Popen[str]

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the nursery has ended with {self.process.wait()}")
        return dict(json.loads(answer))


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compile_shim(folder: Path) -> Path:
    """Raises: CalledProcessError with the compiler's words."""
    library, cc = folder / "shim.so", compiler()
    assert cc is not None
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", str(library), str(TESTS / "shim.c"), "-ldl"], check=True)
    return library


@dataclass
class Ground:
    """A folder for runs, the data they read, and the nurseries that fork them, one run in each at a time."""

    folder: Path
    data: Path
    nurseries: SimpleQueue[Nursery]
    wholes: dict[str, Whole] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Whole:
    """The run that nobody killed."""

    ran: Ran
    left: dict[str, str]


@contextmanager
def ground(folder: Path, nurseries: int = 2) -> Iterator[Ground]:
    """Start the nurseries; end them."""
    shim = compile_shim(folder)
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), str(TESTS.parent / "benchmarks")])
    environment = os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    # A number of an operation means the same in every nursery only where sets have one order.
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(nurseries)
    ]
    try:
        (folder / "data").mkdir()
        made = Ground(folder, write_data(folder / "data"), SimpleQueue())
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "a nursery did not come up"
            made.nurseries.put(Nursery(process))
        yield made
    finally:
        for process in processes:
            process.communicate()  # closes its stdin, at which it ends


def run(
    ground: Ground,
    job: Job,
    folder: Path,
    name: str,
    kill: Kill | None = None,
    fault: Fault | None = None,
    clock: tuple[int, int] | None = None,
    cache: Path | None = None,
) -> Ran:
    """Run the command once in `folder`. `clock`: from that operation on, so many seconds are added to the time."""
    order: dict[str, Any] = {
        "command": job.command,
        "argv": job.words(ground.data),
        "processes": job.processes,
        "folder": str(folder),
        "name": name,
        "watched": str(folder / OUTPUT_DIR),
        "cache": str(cache or ground.folder / "cache"),
        "kill": kill and kill.order(),
        "fault": fault and fault.order(),
        "clock": clock and {"operation": clock[0], "seconds": clock[1]},
    }
    folder.mkdir(exist_ok=True)
    nursery = ground.nurseries.get()
    try:
        answer = nursery.ask(order)
    finally:
        ground.nurseries.put(nursery)
    ranks = range(job.processes)
    out, err = (
        "".join(path.read_text(errors="replace") for path in paths if path.exists())  # not if killed before it began
        for paths in ([folder / f"{name}.{rank}.{suffix}" for rank in ranks] for suffix in ("out", "err"))
    )
    logs = [folder / f"{name}.{rank}.operations" for rank in ranks]
    return Ran(answer["statuses"], [read_operations(log) for log in logs], out, err, answer["seconds"])


def read_operations(log: Path) -> list[Operation]:
    if not log.exists():  # killed before the shim was armed
        return []
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    return [Operation(int(number), kind, path, to, int(size)) for number, kind, path, to, size in lines]


def whole(ground: Ground, name: str) -> Whole:
    """The uninterrupted run of a job, made once. Call it before runs go side by side."""
    if name not in ground.wholes:
        folder = ground.folder / f"whole-{name}"
        run(ground, JOBS[name], ground.folder / f"warm-{name}", "warm")  # leaves its rows in the cache, as a killed run
        ran = run(ground, JOBS[name], folder, "whole")
        assert ran.exit_codes == [0] * JOBS[name].processes, ran.stdout + ran.stderr
        ground.wholes[name] = Whole(ran, what_is_left(folder / OUTPUT_DIR))
    return ground.wholes[name]


@dataclass(frozen=True)
class Case:
    """A job and the kills of its successive runs; it begins with an empty folder."""

    job: str
    kills: tuple[Kill, ...]
    cold: bool = False
    """With an empty cache of data sets: rows are read and tokenized anew."""

    def __str__(self) -> str:
        return f"--job {self.job} --kills {' '.join(map(str, self.kills))}" + (" --cold" if self.cold else "")


@dataclass(frozen=True)
class Verdict:
    """What came of a case. `wrong`: None when the run ended as if nobody had killed it."""

    case: Case
    stages: list[str]
    """Of every kill that hit."""
    wrong: str | None
    last: Ran = field(repr=False)
    same_model: bool = False
    """The final model has the right bytes, whatever else has not."""

    def __str__(self) -> str:
        return f"{self.case}\n    killed in: {', '.join(self.stages)}\n    {self.wrong}"


def survive(ground: Ground, case: Case, keep: bool = False) -> Verdict:
    """Run and kill, as often as the case says, then run to the end and compare."""
    job, expected = JOBS[case.job], ground.wholes[case.job]
    folder = ground.folder / re.sub(r"\W+", "-", f"case {case}")
    shutil.rmtree(folder, ignore_errors=True)
    cache = folder / "cache" if case.cold else None
    stages, saved, lost = [], 0, None
    for number, kill in enumerate(case.kills):
        is_resumed = newest(folder / OUTPUT_DIR) > 0
        ran = run(ground, job, folder, f"run-{number}", kill, cache=cache)
        if not ran.was_killed(kill.rank):
            # A moment after its end kills nothing; an operation that a run does not come to does not either.
            if ran.exit_codes == [0] * job.processes:
                break
            return Verdict(case, stages, f"run {number + 1}, not yet killed: {how_it_ended(ran)}", ran)
        planned = [] if number else expected.ran.operations[kill.rank]
        stages.append(stage_of_kill(kill, ran.operations[kill.rank], is_resumed, planned))
        saved = max([saved, *committed(ran.operations[0][:-1])])
        there = newest(folder / OUTPUT_DIR)
        if there < saved:  # a run that begins anew ends in the right bytes too
            lost = f"update {saved} was saved, and after kill {number + 1} the newest checkpoint is {there}"
    there = newest(folder / OUTPUT_DIR)
    last = run(ground, job, folder, "last", cache=cache)
    said = f"Resuming  after update {there} of {UPDATES}"
    if job.command == FTLOOP and 0 < there < UPDATES and said not in last.stdout:
        lost = f"checkpoint-{there} was there, and was not resumed from"
    found = what_is_left(folder / OUTPUT_DIR)
    wrong = lost or difference(expected.left, found)
    if last.exit_codes != [0] * job.processes:
        wrong = f"the resumed run {how_it_ended(last)}"
    if not keep:
        shutil.rmtree(folder)
    return Verdict(case, stages, wrong, last, found.get(MODEL) == expected.left[MODEL])


def newest(output_dir: Path) -> int:
    """The update of the newest checkpoint, 0 where there is none."""
    return max((int(path.name.split("-")[1]) for path in output_dir.glob("checkpoint-*")), default=0)


def committed(operations: Iterable[Operation]) -> Iterator[int]:
    """The updates whose checkpoints were renamed into place."""
    for operation in operations:
        if operation.kind == "rename" and operation.to.startswith("checkpoint-"):
            yield int(operation.to.split("-")[1])


def how_it_ended(ran: Ran) -> str:
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"(error:|\w+(\.\w+)*(Error|Exception)\b)", line)]
    return f"ended with {ran.exit_codes}: {' | '.join((said or lines)[-3:])}"


def survive_all(ground: Ground, cases: Sequence[Case]) -> list[Verdict]:
    for name in {case.job for case in cases}:
        whole(ground, name)
    return list(side_by_side(ground, partial(survive, ground), cases))


def side_by_side(ground: Ground, do: Callable[[Each], Done], things: Iterable[Each]) -> Iterator[Done]:
    """Do it with each, as many at a time as there are nurseries. Yields in the things' order."""
    with ThreadPoolExecutor(ground.nurseries.qsize()) as pool:
        yield from pool.map(do, things)


# --- where a kill hit ------------------------------------------------------------------------------------------------


def stages(operations: Iterable[Operation], is_resumed: bool) -> list[str]:
    """What each operation belongs to, told by its path: a save, the rotation after it, the final save, the result
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
    """Where it hit and what was just being done: `save: half write`. `planned`: the operations of a run of the same
    beginning that nobody killed; they tell of a moment whether it was in the midst of a save."""
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
    """From the first operation on the staging folder of `checkpoint-<step>` up to the next save."""
    mine = [i for i, operation in enumerate(operations) if operation.path.startswith(f".staging-checkpoint-{step}")]
    assert mine, f"no save of checkpoint-{step}"
    later = [
        i
        for i, operation in enumerate(operations)
        if i > mine[-1] and operation.path.startswith(".staging-") and operation.kind == "mkdir"
    ]
    return list(operations[mine[0] : later[0] if later else len(operations)])


# --- what is left ----------------------------------------------------------------------------------------------------


HOLDS_TIMINGS = re.compile(r"(^|/)(trainer_state|\w+_results)\.json$")


def what_is_left(output_dir: Path) -> dict[str, str]:
    """Every file and folder with a digest of its bytes; from JSON files timings are left out, and from manifests the
    digests of files that hold timings. Trainer's pickled arguments are no part of its state."""
    paths = sorted(path for path in output_dir.rglob("*") if path.name != "training_args.bin")
    return {str(path.relative_to(output_dir)): "folder" if path.is_dir() else content(path) for path in paths}


def content(path: Path) -> str:
    if HOLDS_TIMINGS.search(path.name) or path.name == "ftloop_manifest.json":
        try:
            values = json.loads(path.read_text())
            values.pop("digest", None)  # a manifest's, of all that it says
            return json.dumps(without_timings(values), sort_keys=True)
        except (ValueError, AttributeError):
            return f"broken: {path.read_bytes()!r}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_timings(value: Any) -> Any:
    if isinstance(value, list):
        return [without_timings(each) for each in value]
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.endswith(("_runtime", "_per_second"))}
        return {k: "a digest" if HOLDS_TIMINGS.search(k) else without_timings(v) for k, v in kept.items()}
    return value


def difference(expected: dict[str, str], found: dict[str, str]) -> str | None:
    """All files that are too many, missing or other, of a folder only itself; None: there are none."""
    extra = [f"{name} is left over" for name in topmost(set(found) - set(expected))]
    missing = [f"{name} is missing" for name in topmost(set(expected) - set(found))]
    other = [f"{name} differs" for name in expected if name in found and expected[name] != found[name]]
    return "; ".join(extra + missing + other) or None


def topmost(names: set[str]) -> list[str]:
    return sorted(name for name in names if not any(str(above) in names for above in Path(name).parents))


def random_case(seed: int, number: int, ground: Ground, job: str) -> Case:
    """One or two kills, each at an operation of the run or at a moment of it. The same for the same numbers."""
    draw, ran = random.Random(f"{seed}/{number}"), ground.wholes[job].ran
    kills = []
    for _ in range(draw.choice((1, 1, 2))):
        rank = draw.randrange(JOBS[job].processes)
        points = kill_points(ran.operations[rank], rank=rank)
        if draw.random() < 0.5 and points:
            kills.append(draw.choice(points))
        else:
            kills.append(Kill("seconds", round(draw.uniform(0.02, 1.0) * ran.seconds, 3), rank))
    return Case(job, tuple(kills))
