"""Train the same job once for each seed, or once for each fold."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from ftloop.config.reproduce import ftloop_command
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, UserError, summarize
from ftloop.system.atomic import retry_once
from ftloop.system.console import say, write
from ftloop.system.shell import quote
from ftloop.system.signals import signals_to_handle
from ftloop.system.stopping import StopRequest
from ftloop.system.streams import let_readers_go

CONTROL_C_EXIT = 0xC000013A
"""Of a process that a Ctrl-C has ended before Python could handle it, on Windows."""
RESUMES = "the same command with --resume_from_checkpoint last continues"
# What torchrun tells the one process it has started: each training's own would look for its companions.
TORCHRUN_VARIABLES = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
}


def train_several(config: TrainConfig, words: list[str], stop: StopRequest) -> ExitCode:
    """Train the command `words` once for each seed or fold, in a process of its own, into `seed-N` or `fold-N` of its
    output_dir, and print the table. The first that does not reach its end is the last: a mistake is that of all.

    Returns: an exit code, that of the training that did not end well.
    Raises: UserError where several processes were started, each of which would train all of them.
    """
    kind, numbers = _series(config)
    root, names = Path(config.output_dir), ", ".join(map(str, numbers))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        flags = f"--{kind} N --output_dir {quote(f'{root}/{kind}-N')}"
        flags += f" beside --folds {config.folds}" if kind == "fold" else ""
        raise UserError(
            f"{kind}s: {os.environ['WORLD_SIZE']} processes were started for one training. Start one for each {kind}, "
            f"with {flags}, then read {ftloop_command('seeds', root)}"
        )
    for place, number in enumerate(numbers, 1):
        write("")
        say(kind.capitalize(), f"{number}, {place} of {len(numbers)} ({names}): {root / f'{kind}-{number}'}")
        code = _train_one(_command(config, words, number, stop), stop)
        if code != ExitCode.DONE:
            return _report_unfinished(kind, numbers, place, code, stop)
    from ftloop.seeds.summary import read_seeds  # SciPy, which a training does without
    from ftloop.seeds.together import write_together

    text = retry_once("the table", partial(write_together, read_seeds(root, kind, numbers)))
    for line in ("", *text.split("\n")):
        write(line)
    _report_together(config, root, kind)
    return ExitCode.DONE


def _series(config: TrainConfig) -> tuple[str, list[int]]:
    if config.seeds is not None:
        return "seed", config.seeds
    assert config.folds is not None
    return "fold", list(range(1, config.folds + 1))


def _command(config: TrainConfig, words: list[str], number: int, stop: StopRequest) -> list[str]:
    """Return the same words, and after them, where they win, what is this training's own."""
    kind, _ = _series(config)
    own: dict[str, Any] = {"seeds": "none"} if kind == "seed" else {}
    own |= {kind: number, "output_dir": Path(config.output_dir) / f"{kind}-{number}"}
    if config.logging_dir is not None:
        own["logging_dir"] = Path(config.logging_dir) / f"{kind}-{number}"
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
        code = process.wait()
        is_ended = stop.reason is not None and sys.platform == "win32" and code == ExitCode.BUG
        return ExitCode.STOPPED if is_ended else code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report_unfinished(kind: str, numbers: list[int], place: int, code: int, stop: StopRequest) -> ExitCode:
    """Say at which seed or fold it ended, below what that one has said itself."""
    done = ", ".join(map(str, numbers[: place - 1])) or "none"
    where = f"{kind} {numbers[place - 1]}, {place} of {len(numbers)}; complete: {done}"
    is_killed = code < 0 or code == CONTROL_C_EXIT
    if code == ExitCode.STOPPED or (is_killed and stop.reason is not None):  # the latter: it had hardly begun
        say("Stopped", f"in {where}; {RESUMES}", sys.stderr)
        return ExitCode.STOPPED
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}, as said above"
    print(f"error: {where}: it {ended}; {RESUMES} with it", file=sys.stderr, flush=True)
    return ExitCode.FAILED if code < 0 else next((known for known in ExitCode if known == code), ExitCode.BUG)


def _report_together(config: TrainConfig, root: Path, kind: str) -> None:
    """Make the page of all that `report` asks for, or say how it is made. All is complete without: a failure is said,
    and not raised."""
    if not config.report:
        say("Next", ftloop_command("report", root))
        return
    try:
        from ftloop.report.outcome import REPORT
        from ftloop.report.report import write_report
        from ftloop.report.together import make_joint_report

        say("Report", write_report(make_joint_report(root, kind, root / REPORT), root / REPORT))
    except Exception as error:
        again = ftloop_command("report", root, "--traceback")
        say("Report", f"could not be made ({type(error).__name__}: {summarize(error)}); try {again}")
