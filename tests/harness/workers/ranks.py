"""Run alone: forks the processes of run after run, with something planted in one of them; or, by torchrun, be one.

python tests/harness/workers/ranks.py OUT.json FOLDER CASES.json
torchrun --nproc_per_node 2 tests/harness/workers/ranks.py --plant PLAN WORDS...

A case is a list of runs, one after the other, of the command in one output_dir. The processes of a run are started as
torchrun starts them, but from this process, which has imported everything, and ended by SIGTERM as soon as one has
failed, unless the case says that there is no launcher to do it.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # started by its path; forked, it finds all this done
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 3)]

# All that a run imports on its way, so that each of the forked ones finds it there.
import datasets
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch._dynamo  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert  # noqa: F401
from harness.output_dirs import what_is_left
from harness.patching import call_before, replace_everywhere

import ftloop.checkpoint.choose
import ftloop.data.labels
import ftloop.inference.classifier
import ftloop.job.fine_tune
import ftloop.job.finish
import ftloop.system.distributed
import ftloop.train
from ftloop.system.stopping import StopRequest

GRACE = 30.0  # seconds between SIGTERM and SIGKILL, as torchrun gives
TOO_LONG = 90.0


def main(output: str, folder: str, cases: str) -> None:
    found = {}
    for name, case in json.loads(Path(cases).read_text()).items():
        root = Path(folder) / name.replace(" ", "-")
        root.mkdir(parents=True)
        runs = [run_forked(root, number, run) for number, run in enumerate(case)]
        found[name] = {"runs": runs, "left": what_is_left(root / "out")}
    Path(output).write_text(json.dumps(found))


def run_forked(root: Path, number: int, run: dict[str, Any]) -> dict[str, Any]:
    """`statuses` and `seconds` of each process, and what all have `said`, in the order in which they said it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = root / f"{number}.log"
    machines: list[int] = run.get("machines", [0, 0])  # of each process
    started = time.monotonic()
    there: dict[int, int] = {}
    for rank, machine in enumerate(machines):
        pid = os.fork()
        if pid == 0:
            local = {"LOCAL_RANK": machines[:rank].count(machine), "LOCAL_WORLD_SIZE": machines.count(machine)}
            world = {"RANK": rank, "WORLD_SIZE": len(machines), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in (local | world).items()})
            # one cache for all cases, but where caches are what a case is about
            cache = root / f"cache-{machine}" if run.get("own_caches") else root.parent / "cache"
            child(root, log, cache, run)
        there[pid] = rank
    statuses, seconds, ended_at = [0] * len(machines), [0.0] * len(machines), None
    while there:
        pid, status = os.waitpid(-1, os.WNOHANG)
        now = time.monotonic()
        if pid:
            rank = there.pop(pid)
            statuses[rank], seconds[rank] = os.waitstatus_to_exitcode(status), now - started
            if status and ended_at is None and run.get("launcher", True):
                ended_at = now
                send(signal.SIGTERM, there)
            continue
        if (ended_at is not None and now > ended_at + GRACE) or now > started + TOO_LONG:
            send(signal.SIGKILL, there)
        time.sleep(0.005)
    return {"statuses": statuses, "seconds": seconds, "said": log.read_text()}


def send(number: int, pids: Any) -> None:
    for pid in pids:
        os.kill(pid, number)


def child(root: Path, log: Path, cache: Path, run: dict[str, Any]) -> NoReturn:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(root)
    code = 99
    try:
        datasets.config.HF_DATASETS_CACHE = cache
        for plan in run.get("plans", []):
            PLANS[plan](int(os.environ["RANK"]))
        code = ftloop.train.main(run["words"])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# --- what is planted -------------------------------------------------------------------------------------------------


def collating(do: Callable[[int], None]) -> None:
    """`do` before each batch that is put together."""
    calls: list[int] = []

    def make(real: Any) -> Any:
        def collator(*args: Any, **kwargs: Any) -> Any:
            collate = real(*args, **kwargs)

            def watched(examples: Any) -> Any:
                calls.append(1)
                do(len(calls))
                return collate(examples)

            return watched

        return collator

    replace_everywhere("batching.padding.collator", make)


def at(count: int, do: Callable[[], None]) -> Callable[[int], None]:
    return lambda number: do() if number == count else None


def fail() -> None:
    raise KeyError("planted")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(rank: int) -> None:
    """Each process its own, wherever something begins that is not the same work for all."""
    draw = random.Random(rank)

    def sleep(number: int) -> None:
        time.sleep(draw.choice([0, 0, 0, 0.01, 0.02, 0.1]))

    collating(sleep)
    for place in (
        "evaluation.evaluate",
        "checkpoint.save.save_checkpoint",
        "checkpoint.save._together",
        "models.weights.load_weights",
        "run.loaders.EvalLoaders.loader",
    ):
        call_before(place, sleep)


def stopped_on_one(rank: int) -> None:
    if rank == 1:
        collating(at(9, lambda: os.kill(os.getpid(), signal.SIGUSR1)))


def late_on_one(rank: int) -> None:
    """Let max_train_seconds be over, by the clock of process 1, when it asks for the fifth time."""
    real, asked = StopRequest._time_is_up, []

    def time_is_up(stop: StopRequest) -> bool:
        asked.append(1)
        return real(stop) or (rank == 1 and len(asked) >= 5)

    StopRequest._time_is_up = time_is_up  # type: ignore[method-assign]


def metrics_that_differ(rank: int) -> None:
    """Better and better in process 0, worse and worse in process 1."""
    calls: list[int] = []

    def make(real: Any) -> Any:
        def metrics_for(*args: Any) -> Any:
            compute = real(*args)

            def computed(evaluated: Any) -> dict[str, float]:
                calls.append(1)
                return compute(evaluated) | {"accuracy": (-1) ** rank * len(calls) / 1000}

            return computed

        return metrics_for

    replace_everywhere("metrics.metrics_for", make)


def in_collator_of_one(rank: int) -> None:
    if rank == 1:
        collating(at(9, fail))


def in_collator_of_the_first(rank: int) -> None:
    if rank == 0:
        collating(at(9, fail))


def in_evaluation_of_one(rank: int) -> None:
    if rank == 1:
        call_before("evaluation._prediction_step", at(3, fail))


def in_saving_of_one(rank: int) -> None:
    if rank == 1:
        call_before("system.rng.rng_files", at(1, fail))


def killed_in_training(rank: int) -> None:
    if rank == 1:
        collating(at(9, die))


def said_early(rank: int) -> None:
    ftloop.system.distributed.QUIET_SECONDS = 1.0


def tokenizing(do: Callable[[], None]) -> None:
    call_before("data.tokenization._encode_batch", at(1, do))


def tokenized_slowly(rank: int) -> None:
    """Says who does it: longer than the others are ready to wait for anything else."""

    def slowly() -> None:
        print(f"process {rank} tokenizes", flush=True)
        time.sleep(9 if rank == 0 else 3)

    tokenizing(slowly)


def tried_slowly(rank: int) -> None:
    """The rows of an update that is not finite, one by one."""
    if rank == 0:
        call_before("nonfinite._replay", at(1, lambda: time.sleep(9)))


def killed_while_tokenizing(rank: int) -> None:
    if rank == 0:
        tokenizing(lambda: (time.sleep(2), die()))  # type: ignore[arg-type, return-value]


def elsewhere(rank: int) -> None:
    """What process 1 calls `out` is another folder."""
    ftloop.checkpoint.choose.SECONDS_TO_BE_SEEN = 1.0
    if rank == 1:
        os.mkdir("other")
        os.chdir("other")


def full_for_one(rank: int) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if rank == 1:
        call_before("data.load.load_text_data", at(1, fill))


def with_another_seed(rank: int) -> None:
    if rank == 1:
        replace_everywhere(
            "config.command_line.parse_args", lambda parse: lambda words: dataclasses.replace(parse(words), seed=7)
        )


def with_other_rows(rank: int) -> None:
    """Its label map is turned round: as many rows, of the same lengths."""
    if rank == 1:
        encode = ftloop.data.labels.Labels.encode
        ftloop.data.labels.Labels.encode = lambda self, raw: 1 - encode(self, raw)  # type: ignore[method-assign]


def failing_to_tokenize(rank: int) -> None:
    tokenizing(lambda: (print(f"process {rank} tokenizes", flush=True), fail()))  # type: ignore[arg-type, return-value]


PLANS = {
    plan.__name__: plan
    for plan in (
        *(sleeps, stopped_on_one, late_on_one, metrics_that_differ, in_collator_of_one, in_collator_of_the_first),
        *(in_evaluation_of_one, in_saving_of_one, killed_in_training, said_early, tokenized_slowly),
        *(tried_slowly, killed_while_tokenizing, failing_to_tokenize, full_for_one, elsewhere),
        *(with_another_seed, with_other_rows),
    )
}

if __name__ == "__main__":
    if sys.argv[1] == "--plant":
        PLANS[sys.argv[2]](int(os.environ["RANK"]))
        sys.exit(ftloop.train.main(sys.argv[3:]))
    main(*sys.argv[1:])
