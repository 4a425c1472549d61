"""How long a run takes, from when its updates were done on the host: nothing here waits for a device."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

TIMINGS = ("runtime", "samples_per_second", "steps_per_second")
"""What an evaluation or a training says of its own speed, after a prefix: no score."""
SHORT = 10.0  # seconds: of a run that takes no longer nothing is foretold


@dataclass
class Pace:
    """Of one call of `train()`, from where it starts or is resumed. `now` is seconds of any one clock."""

    began: float
    step: int
    """The global_step it starts from."""
    max_steps: int
    epoch_began: float = 0.0
    first_done: float | None = None
    """When its first update was done: what is made ready in that one does not come again."""
    last_done: float = 0.0
    intervals: list[float] = field(default_factory=list)
    is_told: bool = False
    is_long: bool = False
    """Seen once, for all epochs: no line is without its time below others that have it."""

    def __post_init__(self) -> None:
        self.epoch_began = self.began

    def advance(self, now: float, step: int) -> float | None:
        """An update is done. Returns: seconds an update takes, once, as soon as that can be said.

        The median, because evaluations and saves lie between some of the updates, and are not meant.
        """
        if self.is_told or step == self.step:  # that one was done before the resume
            return None
        if self.first_done is None:
            self.first_done = now
        else:
            self.intervals.append(now - self.last_done)
        self.last_done = now
        count = len(self.intervals)
        self.is_told = count >= 10 or (count >= 3 and now - self.first_done >= 2.0)
        return statistics.median(self.intervals) if self.is_told else None

    def not_yet(self, now: float) -> None:
        """What was done until now, before the first update, is not the first epoch's."""
        if self.first_done is None:
            self.epoch_began = now

    def end_of_epoch(self, now: float, step: int) -> str:
        """What the epoch took, or what of it was done here, and what is left, evaluations and saves included; nothing
        of a short run."""
        took, self.epoch_began = now - self.epoch_began, now
        updates = step - self.step - 1
        left = 0.0
        if self.first_done is not None and updates > 0:
            left = (now - self.first_done) / updates * (self.max_steps - step)
        self.is_long = self.is_long or now - self.began + left >= SHORT
        if not self.is_long:
            return ""
        return f" ({duration(took)}{f'; about {roughly(left)} left' if left else ''})"


def time_line(each: float, updates: int, besides: list[str]) -> str | None:
    """What is said when it is known how long an update takes; None where there is no need to."""
    if each * updates < SHORT:
        return None
    number = f"{each:.2g}" if each < 10 else f"{each:.0f}"
    more = f", besides {' and '.join(besides)}" if besides else ""
    return f"Time      about {roughly(each * updates)} for the {updates} updates left ({number} s each){more}"


def roughly(seconds: float) -> str:
    """No more digits than an estimate is worth."""
    unit = 1 if seconds < 20 else 5 if seconds < 60 else 10
    return duration(unit * round(seconds / unit))


def duration(seconds: float) -> str:
    """Its two largest units: `41 s`, `1 min 22 s`, `2 h 5 min`, `1 d 3 h`."""
    whole = round(seconds)
    for large, size, small, unit in ((" d", 86400, " h", 3600), (" h", 3600, " min", 60), (" min", 60, " s", 1)):
        if whole >= size:
            rest = whole % size // unit
            return f"{whole // size}{large}" + (f" {rest}{small}" if rest else "")
    return f"{whole} s"
