"""Stopping a run before its end, so that it can go on later: asked for by a signal, by max_train_seconds, or by hand.

The request is looked at where a run can be left: after an update, and within an evaluation. All processes agree there,
by one small exchange between their CPUs. Before training there is nothing to save, and the signal ends the run at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ftloop.errors import ExitCode, FtloopError

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
WORKER_GRACE_SECONDS = 60
SLOW_DISK = 100e6  # bytes a second
EVERY_BATCHES = 8


class Stopped(FtloopError):
    """The run has been left, on request, where it can be taken up again."""

    exit_code = ExitCode.STOPPED


@dataclass
class Stop:
    """Whether a run is to stop. `request` may be called from anywhere: a signal, a thread, the body of a loop."""

    reason: str | None = None
    deadline: float | None = None
    """On `time.monotonic()`'s clock."""
    save_seconds: float = 0.0
    """What a save takes at most, as far as is known; before the first, on a slow disk."""
    group: Any = None
    """Of the processes that have to agree, over their CPUs; None for one process."""
    _longest: float = 0.0
    _asked_at: float | None = field(default=None, repr=False)

    def request(self, reason: str) -> None:
        self.reason = self.reason or reason

    def check(self) -> None:
        """Every process calls it at the same place. Raises: Stopped in all of them when any has been asked to stop."""
        reason = self._agreed_reason()
        if reason is not None:
            self.reason = reason
            raise Stopped(f"Stopped   on {reason}")

    def wait_for_everyone(self) -> None:
        if self.group is not None:
            import torch.distributed as dist

            dist.barrier(group=self.group)

    def _agreed_reason(self) -> str | None:
        if self.reason is None and self._time_is_up():
            self.request("max_train_seconds")
        if self.group is None:
            return self.reason
        import torch
        import torch.distributed as dist

        asked = torch.tensor(self.reason is not None, dtype=torch.int32)
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.group)
        return (self.reason or "the request of another process") if asked.item() else None

    def _time_is_up(self) -> bool:
        """Whether the limit could pass before the next time this is asked, and two saves, should one be retried."""
        now = time.monotonic()
        if self._asked_at is not None:
            self._longest = max(self._longest, now - self._asked_at)
        self._asked_at = now
        return self.deadline is not None and now + self._longest + 2 * self.save_seconds >= self.deadline


class _Listener:
    """Takes the signals of this process, from `listen` on."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.waits = False
        """Whether somebody looks at `stop`, so that a signal may wait until then."""
        self.interrupted = False

    def __call__(self, number: int, frame: Any) -> None:
        name, again = signal.Signals(number).name, self.stop.reason is not None
        self.stop.request(name)
        is_second, self.interrupted = self.interrupted, self.interrupted or number == signal.SIGINT
        if number == signal.SIGINT and is_second:
            _write(f"\nStopped   at once on a second {name}; what had been saved is whole\n")
            os._exit(ExitCode.INTERRUPTED)
        if not self.waits:
            raise KeyboardInterrupt  # the one exception that no library below takes for an error of its own
        if not again:
            _write(f"\nStopping  on {name}, where the run can be taken up again; a second Ctrl-C ends it at once\n")


_listener: _Listener | None = None


@contextmanager
def listening(stop: Stop) -> Iterator[None]:
    """Let SIGTERM, SIGINT and SIGUSR1 request a stop, instead of ending the process."""
    global _listener
    _listener = _Listener(stop)
    signals = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, _listener) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _listener = None


@contextmanager
def signals_wait() -> Iterator[None]:
    """Within, the stop is looked at regularly: a signal need not end the run where it is."""
    listener = _listener
    if listener is None or listener.waits:
        yield
        return
    listener.waits = True
    try:
        yield
    finally:
        listener.waits = False


def _in_child() -> None:
    """Processes that this one forks follow it: they are ended by it, not by the signals that reach them all."""
    global _listener
    if _listener is not None:
        _listener = None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def outlive_the_signal(worker_id: int) -> None:
    """For a loader's worker: a SIGTERM sent to all processes leaves it a minute, in which the update is finished with
    its batches. Told to end by its own process alone, it ends by itself long before. Mirrors: a `worker_init_fn`.
    """
    del worker_id
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _write(text: str) -> None:
    """To stderr, past Python's buffers, which the signal may have found in use; from one process."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, text.encode())
