"""Stop a run before its end so that it can be resumed: by a signal, by max_train_seconds, or by hand.

The request is looked at where a run can be left: after an update, and within an evaluation. Several processes agree
there, a few times a second, by a small exchange between their CPUs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from ftloop.errors import ExitCode, FtloopError

SLOW_DISK = 100e6  # bytes a second
EXCHANGE_SECONDS = 0.2
"""Between two exchanges of several processes, about: each takes a millisecond, an update of a small model ten."""
MOST_LEFT_OUT = 32
"""Looks without an exchange, at most: after so many updates that were fast the next may be slow."""


@dataclass
class Pace:
    """How often several processes exchange their requests at one place: as often as all of them agreed when they did
    so last, and so at the same looks."""

    left_out: int = 0
    """Looks without an exchange between the last two exchanges."""
    to_go: int = 0
    """Looks until the next exchange."""
    last: float | None = None
    """When the last exchange was, on `time.monotonic()`'s clock."""

    def proposed(self) -> int:
        """Looks to leave out next, by the clock of this process; at most twice as many as before."""
        now, last = time.monotonic(), self.last
        self.last = now
        if last is None:
            return 0
        each = (now - last) / (self.left_out + 1)
        return min(2 * self.left_out + 1, MOST_LEFT_OUT, int(EXCHANGE_SECONDS / max(each, 1e-9)))


class Stopped(FtloopError):
    """The run was left, on request, where it can be resumed."""

    exit_code = ExitCode.STOPPED


@dataclass
class StopRequest:
    """Whether a run is to stop. `request` may be called from anywhere: a signal, a thread, the body of a loop."""

    reason: str | None = None
    deadline: float | None = None
    """Time limit on `time.monotonic()`'s clock."""
    save_seconds: float = 0.0
    """Longest save so far; before the first one, an estimate for a slow disk."""
    group: Any = None
    """CPU group of the processes that have to agree; None for one process."""
    _longest: float = 0.0
    _asked_at: float | None = field(default=None, repr=False)
    _paces: dict[str, Pace] = field(default_factory=lambda: defaultdict(Pace), repr=False)

    def request(self, reason: str) -> None:
        self.reason = self.reason or reason

    def check(self, place: str = "update") -> None:
        """Every process calls it at the same place, as often as the others.

        Raises: Stopped, in all of them at the same call, when any has been asked to stop.
        """
        pace = self._paces[place]
        if pace.to_go > 0:
            pace.to_go -= 1
            return
        reason = self._agreed_reason(pace)
        if reason is not None:
            self.reason = reason
            raise Stopped(f"Stopped by {reason}")

    def wait_for_everyone(self) -> None:
        if self.group is not None:
            import torch.distributed as dist  # the command holds a StopRequest before it has imported torch

            dist.barrier(group=self.group)

    def _agreed_reason(self, pace: Pace) -> str | None:
        if self.reason is None and self._time_is_up():
            self.request("max_train_seconds")
        if self.group is None:
            return self.reason
        import torch
        import torch.distributed as dist

        numbers = torch.tensor([self.reason is not None, -pace.proposed()], dtype=torch.int32)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.group)
        is_asked, least = numbers.tolist()
        pace.left_out = pace.to_go = -least
        return (self.reason or "the request of another process") if is_asked else None

    def _time_is_up(self) -> bool:
        """Whether the limit could pass before the next time this is asked, and two saves, should one be retried."""
        now = time.monotonic()
        if self._asked_at is not None:
            self._longest = max(self._longest, now - self._asked_at)
        self._asked_at = now
        return self.deadline is not None and now + self._longest + 2 * self.save_seconds >= self.deadline
