"""The same job with several seeds: trained one after the other, and what their results say together.

python -m ftloop.seeds DIR    the table of DIR/seed-1, DIR/seed-2, ..., as `--seeds` leaves them; also into seeds.json
python -m ftloop.seeds A B    whether the runs of B are better than those of A, seed by seed
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ftloop.config import TrainConfig
from ftloop.durable import retried, write_text
from ftloop.errors import ExitCode, UserError, tell
from ftloop.reproduce import module_here
from ftloop.spread import read_seeds, summary, table
from ftloop.stopping import SIGNALS, Stop

SEEDS = "seeds.json"
GO_ON = "the same command with --resume_from_checkpoint last goes on"
# What torchrun tells the one process it has started: each seed's own would look for its companions.
_OF_TORCHRUN = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
}


def train_seeds(config: TrainConfig, words: list[str], stop: Stop) -> ExitCode:
    """Train the command `words` once for each seed, in a process of its own, into `seed-N` of its output_dir; then the
    table. The first that does not reach its end is the end of all: a mistake is every seed's.

    Returns: an exit code, that of the seed that ended otherwise than well.
    Raises: UserError where several processes were started, each of which would train all seeds.
    """
    assert config.seeds is not None
    root, names = Path(config.output_dir), ", ".join(map(str, config.seeds))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"seeds: {os.environ['WORLD_SIZE']} processes were started for one training. Start one for each seed, with "
            f"--seed N --output_dir {shlex.quote(f'{root}/seed-N')}, then read {module_here('seeds', root)}"
        )
    for place, seed in enumerate(config.seeds, 1):
        print(f"\nSeed      {seed}, {place} of {len(config.seeds)} ({names}): {_folder(root, seed)}", flush=True)
        code = _train_one(_command(config, words, seed, stop), stop)
        if code != ExitCode.DONE:
            return _left(config.seeds, place, code, stop)
    runs = read_seeds(root)
    path, text = root / SEEDS, json.dumps(summary(runs), indent=2) + "\n"
    retried(path.name, partial(write_text, path, text), print)
    print("\n" + table(runs), flush=True)
    return ExitCode.DONE


def _folder(root: Path, seed: int) -> Path:
    return root / f"seed-{seed}"


def _command(config: TrainConfig, words: list[str], seed: int, stop: Stop) -> list[str]:
    """The same words, and after them, where they win, what is this seed's own."""
    own: dict[str, Any] = {"seeds": "none", "seed": seed, "output_dir": _folder(Path(config.output_dir), seed)}
    if config.logging_dir is not None:
        own["logging_dir"] = _folder(Path(config.logging_dir), seed)
    if stop.deadline is not None:
        own["max_train_seconds"] = max(math.floor(stop.deadline - time.monotonic()), 1)
    script = Path(__file__).with_name("train.py")
    return [
        sys.executable,
        str(script),
        *words,
        *(word for name, value in own.items() for word in (f"--{name}", str(value))),
    ]


def _train_one(command: list[str], stop: Stop) -> int:
    """The exit code of one training; a signal to this process is passed on to it, once.

    So it has a process group of its own: from a terminal a Ctrl-C reaches all of a group, and a second one, passed on,
    would end it at once.
    """
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: Any) -> None:
        stop.request(signal.Signals(number).name)
        if process is not None:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for name in SIGNALS if (number := getattr(signal, name, None))}
    try:
        if stop.reason is not None:
            return ExitCode.STOPPED
        kept = [name for name in os.environ if name not in _OF_TORCHRUN and not name.startswith("TORCHELASTIC_")]
        environment = {name: os.environ[name] for name in kept}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, process_group=0)
        if stop.reason is not None:  # asked while it was being started
            process.send_signal(signal.SIGTERM)
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _left(seeds: list[int], place: int, code: int, stop: Stop) -> ExitCode:
    """Say where the seeds were left, below what the one that was left has said itself."""
    done = ", ".join(map(str, seeds[: place - 1])) or "none"
    where = f"seed {seeds[place - 1]}, {place} of {len(seeds)}; complete: {done}"
    stopped = code == ExitCode.STOPPED or (code < 0 and stop.reason is not None)  # the latter: it had hardly begun
    if stopped:
        print(f"Stopped   in {where}; {GO_ON}", file=sys.stderr, flush=True)
        return ExitCode.STOPPED
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}, as said above"
    print(f"error: {where}: it {ended}; {GO_ON} with it", file=sys.stderr, flush=True)
    return ExitCode.FAILED if code < 0 else next((known for known in ExitCode if known == code), ExitCode.FAULT)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ftloop.seeds",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="A", help="the output_dir of a command with --seeds")
    parser.add_argument("other", type=Path, metavar="B", nargs="?", help="another, to be held against it")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    given = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        runs = read_seeds(given.folder)
        if given.other is not None:
            from ftloop.paired import compare_seeds, describe

            print(describe(compare_seeds(runs, read_seeds(given.other))))
            return ExitCode.DONE
        write_text(runs.folder / SEEDS, json.dumps(summary(runs), indent=2) + "\n")
        print(table(runs))
    except Exception as error:
        return tell(error, given.traceback)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
