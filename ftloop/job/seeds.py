"""Train the same job once for each seed."""

from __future__ import annotations

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

from ftloop.config.reproduce import ftloop_command
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, UserError
from ftloop.system.atomic import retry_once, write_text
from ftloop.system.console import say, write
from ftloop.system.signals import signals_to_handle
from ftloop.system.stopping import StopRequest
from ftloop.system.streams import let_readers_go

RESUMES = "the same command with --resume_from_checkpoint last continues"
# What torchrun tells the one process it has started: each seed's own would look for its companions.
TORCHRUN_VARIABLES = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
}


def train_seeds(config: TrainConfig, words: list[str], stop: StopRequest) -> ExitCode:
    """Train the command `words` once for each seed, in a process of its own, into `seed-N` of its output_dir, and print
    the table. The first that does not reach its end is the last: a mistake is every seed's.

    Returns: an exit code, that of the seed that did not end well.
    Raises: UserError where several processes were started, each of which would train all seeds.
    """
    assert config.seeds is not None
    root, names = Path(config.output_dir), ", ".join(map(str, config.seeds))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"seeds: {os.environ['WORLD_SIZE']} processes were started for one training. Start one for each seed, with "
            f"--seed N --output_dir {shlex.quote(f'{root}/seed-N')}, then read {ftloop_command('seeds', root)}"
        )
    for place, seed in enumerate(config.seeds, 1):
        write("")
        say("Seed", f"{seed}, {place} of {len(config.seeds)} ({names}): {root / f'seed-{seed}'}")
        code = _train_one(_command(config, words, seed, stop), stop)
        if code != ExitCode.DONE:
            return _report_unfinished(config.seeds, place, code, stop)
    from ftloop.seeds.summary import SEEDS, read_seeds, summary, table  # SciPy, which a training does without

    runs = read_seeds(root)
    path, text = root / SEEDS, json.dumps(summary(runs), indent=2) + "\n"
    retry_once(path.name, partial(write_text, path, text))
    print("\n" + table(runs), flush=True)
    return ExitCode.DONE


def _command(config: TrainConfig, words: list[str], seed: int, stop: StopRequest) -> list[str]:
    """Return the same words, and after them, where they win, what is this seed's own."""
    own: dict[str, Any] = {"seeds": "none", "seed": seed, "output_dir": Path(config.output_dir) / f"seed-{seed}"}
    if config.logging_dir is not None:
        own["logging_dir"] = Path(config.logging_dir) / f"seed-{seed}"
    if stop.deadline is not None:
        own["max_train_seconds"] = max(math.floor(stop.deadline - time.monotonic()), 1)
    script = Path(__file__).resolve().parent.parent / "train.py"
    flags = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(script), *words, *flags]


def _train_one(command: list[str], stop: StopRequest) -> int:
    """Return the exit code of one training; a signal to this process is passed on to it, once.

    So it has a process group of its own: from a terminal a Ctrl-C reaches all of a group, and a second one, passed on,
    would end it at once.
    """
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: Any) -> None:
        stop.request(signal.Signals(number).name)
        let_readers_go()
        if process is not None and sys.platform != "win32":  # there a Ctrl-C reaches all of a console
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in signals_to_handle()}
    try:
        if stop.reason is not None:
            return ExitCode.STOPPED
        kept = [name for name in os.environ if name not in TORCHRUN_VARIABLES and not name.startswith("TORCHELASTIC_")]
        environment = {name: os.environ[name] for name in kept}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, process_group=0)
        if stop.reason is not None:  # requested while it was being started
            process.send_signal(signal.SIGTERM)
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report_unfinished(seeds: list[int], place: int, code: int, stop: StopRequest) -> ExitCode:
    """Say at which seed it ended, below what that one has said itself."""
    done = ", ".join(map(str, seeds[: place - 1])) or "none"
    where = f"seed {seeds[place - 1]}, {place} of {len(seeds)}; complete: {done}"
    if code == ExitCode.STOPPED or (code < 0 and stop.reason is not None):  # the latter: it had hardly begun
        say("Stopped", f"in {where}; {RESUMES}", sys.stderr)
        return ExitCode.STOPPED
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}, as said above"
    print(f"error: {where}: it {ended}; {RESUMES} with it", file=sys.stderr, flush=True)
    return ExitCode.FAILED if code < 0 else next((known for known in ExitCode if known == code), ExitCode.BUG)
