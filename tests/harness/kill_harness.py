"""Kill a run, run the same command again, and compare what is left with what a run that nobody killed leaves.

The command is a black box: it is killed at file operations (kill_shim.c counts them) or at moments, by SIGKILL, and
judged by the bytes in its output_dir alone. fork_server.py forks the runs.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from harness.fork_server import ForkServer
from harness.kill_points import Fault, Kill, Operation, kill_points, read_operations, stage_of_kill
from harness.models import write_tiny_folder
from harness.output_dirs import difference, what_is_left

Each = TypeVar("Each")
Done = TypeVar("Done")

HARNESS = Path(__file__).resolve().parent
OUTPUT_DIR = "out"
MODEL = "model.safetensors"
UPDATES = 12


# --- what is run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KilledJob:
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
    "steps": KilledJob(FTLOOP, COMMON | BY_STEPS | {"save_total_limit": "2"}),
    "epochs": KilledJob(FTLOOP, COMMON | BY_EPOCH | {"save_total_limit": "1"}),
    "processes": KilledJob(
        FTLOOP, COMMON | BY_STEPS | {"save_total_limit": "2", "per_device_train_batch_size": "2"}, 2
    ),
    "adapter": KilledJob(
        FTLOOP,
        COMMON | BY_STEPS | {"save_total_limit": "2", "lora_r": "4", "lora_dropout": "0.1", "lora_merge": "true"},
    ),
    "trainer-steps": KilledJob(TRAINER, COMMON | BY_STEPS | {"save_total_limit": "2"}),
    "trainer-epochs": KilledJob(TRAINER, COMMON | BY_EPOCH | {"save_total_limit": "1"}),
}


# --- running it ------------------------------------------------------------------------------------------------------


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


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compile_shim(folder: Path) -> Path:
    """Raises: CalledProcessError with the compiler's words."""
    library, cc = folder / "shim.so", compiler()
    assert cc is not None
    subprocess.run(
        [cc, "-shared", "-fPIC", "-O1", "-o", str(library), str(HARNESS / "kill_shim.c"), "-ldl"], check=True
    )
    return library


@dataclass
class ForkedRuns:
    """A folder for runs, the data they read, and the servers that fork them, one run in each at a time."""

    folder: Path
    data: Path
    servers: SimpleQueue[ForkServer]
    uninterrupted: dict[str, Uninterrupted] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Uninterrupted:
    """The run that nobody killed, and what it left in its output_dir."""

    ran: Ran
    left: dict[str, str]


@contextmanager
def start_fork_servers(folder: Path, servers: int = 2) -> Iterator[ForkedRuns]:
    """Start the servers for runs below `folder`; end them."""
    # A number of an operation means the same in every fork server only where sets have one order.
    shim = str(compile_shim(folder))
    started = [ForkServer.start(LD_PRELOAD=shim, PYTHONHASHSEED="0") for _ in range(servers)]
    try:
        (folder / "data").mkdir()
        runs = ForkedRuns(folder, write_tiny_folder(folder / "data", old_names=True), SimpleQueue())
        for server in started:
            runs.servers.put(server)
        yield runs
    finally:
        for server in started:
            server.end()


def run(
    runs: ForkedRuns,
    job: KilledJob,
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
        "argv": job.words(runs.data),
        "processes": job.processes,
        "folder": str(folder),
        "name": name,
        "watched": str(folder / OUTPUT_DIR),
        "cache": str(cache or runs.folder / "cache"),
        "kill": kill and kill.order(),
        "fault": fault and fault.order(),
        "clock": clock and {"operation": clock[0], "seconds": clock[1]},
    }
    folder.mkdir(exist_ok=True)
    server = runs.servers.get()
    try:
        answer = server.ask(order)
    finally:
        runs.servers.put(server)
    ranks = range(job.processes)
    out, err = (
        "".join(path.read_text(errors="replace") for path in paths if path.exists())  # not if killed before it began
        for paths in ([folder / f"{name}.{rank}.{suffix}" for rank in ranks] for suffix in ("out", "err"))
    )
    logs = [folder / f"{name}.{rank}.operations" for rank in ranks]
    return Ran(answer["statuses"], [read_operations(log) for log in logs], out, err, answer["seconds"])


def uninterrupted(runs: ForkedRuns, name: str) -> Uninterrupted:
    """The run of a job that nobody kills, made once. Call it before runs go in parallel."""
    if name not in runs.uninterrupted:
        folder = runs.folder / f"whole-{name}"
        run(runs, JOBS[name], runs.folder / f"warm-{name}", "warm")  # leaves its rows in the cache, as a killed run
        ran = run(runs, JOBS[name], folder, "whole")
        assert ran.exit_codes == [0] * JOBS[name].processes, ran.stdout + ran.stderr
        runs.uninterrupted[name] = Uninterrupted(ran, what_is_left(folder / OUTPUT_DIR))
    return runs.uninterrupted[name]


# --- killing it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KillCase:
    """A job and the kills of its successive runs; it begins with an empty folder."""

    job: str
    kills: tuple[Kill, ...]
    cold: bool = False
    """Start with an empty cache of data sets: rows are read and tokenized anew."""

    def __str__(self) -> str:
        return f"--job {self.job} --kills {' '.join(map(str, self.kills))}" + (" --cold" if self.cold else "")


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case. `wrong`: None when the run ended as if nobody had killed it."""

    case: KillCase
    stages: list[str]
    """Stages in which the kills hit."""
    wrong: str | None
    last: Ran = field(repr=False)
    same_model: bool = False
    """The final model has the right bytes, whatever else has not."""

    def __str__(self) -> str:
        return f"{self.case}\n    killed in: {', '.join(self.stages)}\n    {self.wrong}"


def survive(runs: ForkedRuns, case: KillCase, keep: bool = False) -> Verdict:
    """Run and kill, as often as the case says, then run to the end and compare."""
    job, expected = JOBS[case.job], runs.uninterrupted[case.job]
    folder = runs.folder / re.sub(r"\W+", "-", f"case {case}")
    shutil.rmtree(folder, ignore_errors=True)
    cache = folder / "cache" if case.cold else None
    stages, saved, lost = [], 0, None
    for number, kill in enumerate(case.kills):
        is_resumed = newest(folder / OUTPUT_DIR) > 0
        ran = run(runs, job, folder, f"run-{number}", kill, cache=cache)
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
    last = run(runs, job, folder, "last", cache=cache)
    said = f"Resuming  after update {there} of {UPDATES}"
    if job.command == FTLOOP and 0 < there < UPDATES and said not in last.stdout:
        lost = f"checkpoint-{there} was there, and was not resumed from"
    found = what_is_left(folder / OUTPUT_DIR)
    wrong = lost or difference(expected.left, found)
    if last.exit_codes != [0] * job.processes:
        wrong = f"the resumed run {how_it_ended(last)}"
    if not keep:
        shutil.rmtree(folder)
    return Verdict(case, stages, wrong, last, found.get(MODEL) == expected.left.get(MODEL))


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


def survive_all(runs: ForkedRuns, cases: Sequence[KillCase]) -> list[Verdict]:
    for name in {case.job for case in cases}:
        uninterrupted(runs, name)
    return list(in_parallel(runs, partial(survive, runs), cases))


def in_parallel(runs: ForkedRuns, do: Callable[[Each], Done], things: Iterable[Each]) -> Iterator[Done]:
    """Do it with each, as many at a time as there are servers. Yields in the things' order."""
    with ThreadPoolExecutor(runs.servers.qsize()) as pool:
        yield from pool.map(do, things)


def random_case(seed: int, number: int, runs: ForkedRuns, job: str) -> KillCase:
    """One or two kills, each at an operation of the run or at a moment of it. The same for the same numbers."""
    draw, ran = random.Random(f"{seed}/{number}"), runs.uninterrupted[job].ran
    kills = []
    for _ in range(draw.choice((1, 1, 2))):
        rank = draw.randrange(JOBS[job].processes)
        points = kill_points(ran.operations[rank], rank=rank)
        if draw.random() < 0.5 and points:
            kills.append(draw.choice(points))
        else:
            kills.append(Kill("seconds", round(draw.uniform(0.02, 1.0) * ran.seconds, 3), rank))
    return KillCase(job, tuple(kills))
