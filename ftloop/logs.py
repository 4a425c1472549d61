"""What a training says: the log history, the console with its progress bar, and trackers."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ftloop.run.meter import store_flos
from ftloop.run.state import Phase
from ftloop.system.console import say, write
from ftloop.system.scalars import is_number, is_timing

SHORT = 10.0  # seconds: no estimate is made of a run that takes no longer

if TYPE_CHECKING:
    from ftloop.run.run import Run


class Logs:
    """Attached to one call of `train()`. Only the main process prints and writes; all keep the same history."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.bar = tqdm(
            total=run.plan.max_steps,
            initial=run.state.global_step,
            desc="Training",
            unit="update",
            disable=True if not run.is_main else run.config.disable_tqdm,
        )
        self.trackers: Any = None
        if run.is_main and (run.config.tensorboard or run.config.trackers):
            from ftloop.run.trackers import Trackers  # only where one is asked for

            self.trackers = Trackers(run)
        self.began = self.epoch_began = time.monotonic()
        self.first_step = run.state.global_step
        self.untimed = 10 if run.config.torch_compile else 1  # updates that make what is not made again, as graphs
        self.first_done: float | None = None  # when these were done
        self.estimated = False

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        if self.trackers is not None:
            self.trackers.close()

    def record(self, values: dict[str, Any]) -> None:
        """Append to the log history and send to the trackers. Mirrors: Trainer.log."""
        state = self.run.state
        if state.global_step == self.first_step:  # an evaluation before the start is not the first epoch's
            self.epoch_began = time.monotonic()
        values = values | {"epoch": state.epoch}
        state.log_history.append(values | {"step": state.global_step})
        if self.trackers is not None:
            self.trackers.record(values)

    def losses(self) -> None:
        """Log the mean loss of the updates since the last log line: the one place where the host waits for it.

        Mirrors: Trainer._maybe_log_save_evaluate, its first part.
        """
        run, state, meter = self.run, self.run.state, self.run.meter
        total = run.accelerator.gather(meter.since_log).mean().item()
        updates, counted = state.global_step - meter.logged_at - meter.skipped_since_log, run.counters.nonzero()
        values = {
            "loss": total / updates if updates else math.nan,
            "grad_norm": None if meter.grad_norm is None else float(meter.grad_norm),
            "learning_rate": meter.learning_rate,
        }
        meter.since_log.zero_()
        meter.skipped_since_log = 0
        meter.logged_sum += total
        meter.logged_at = state.global_step
        store_flos(run)
        self.record(values | counted)
        if self.trackers is not None:
            self.trackers.record_throughput()
        if self.bar.disable and run.is_main:
            shown = ", ".join(f"{name}={value:.4g}" for name, value in values.items() if value is not None)
            shown += "".join(f", {name}={count}" for name, count in counted.items())
            write(f"Update {state.global_step}/{state.max_steps}: {shown}")
        else:
            postfix: dict[str, Any] = {"loss": f"{values['loss']:.4f}", "lr": f"{meter.learning_rate:.2e}"}
            self.bar.set_postfix(postfix | counted)

    def evaluation(self, metrics: dict[str, Any], phase: Phase) -> None:
        """Record an evaluation, each data set by itself. Between epochs it gets a line; else it is in the epoch's.

        Mirrors: Trainer.evaluate, its log.
        """
        part: dict[str, Any] = {}
        rates = {f"{prefix}_runtime": f"{prefix}_steps_per_second" for prefix in self.run.eval_sets()}
        ends = {rate if rate in metrics else runtime for runtime, rate in rates.items()}  # of no time none
        for name, value in metrics.items():
            part[name] = value
            if name in ends:
                self.record(part)
                part = {}
        if phase == Phase.UPDATE:
            state = self.run.state
            write(f"Update {state.global_step}/{state.max_steps}: {self._format(metrics)}")

    def epoch(self, metrics: dict[str, float]) -> None:
        """Print an epoch's line: the mean loss of its updates and the last evaluation's metrics, if there is one."""
        run, state, meter = self.run, self.run.state, self.run.meter
        updates = state.global_step - meter.epoch_began_at
        if updates:  # none when this epoch's checkpoint came from elsewhere and holds no sum
            total = run.accelerator.gather(meter.since_epoch).mean().item()
            updates -= meter.skipped_since_epoch
            loss = {"loss": total / updates if updates else math.nan}
            self.bar.set_postfix({"loss": f"{loss['loss']:.4f}"})
            time_taken = self._time_of_epoch()
            write(f"Epoch {math.ceil(state.epoch)}/{state.num_train_epochs}: {self._format(metrics, loss)}{time_taken}")

    def _format(self, metrics: dict[str, float], first: dict[str, float] | None = None) -> str:
        loss = {name: metrics[name] for name in ("eval_loss",) if name in metrics}
        return format_numbers({**(first or {}), **loss, **scores(metrics, self.run.compute_metrics)})

    def best(self) -> None:
        state = self.run.state
        folder = Path(state.best_model_checkpoint or "").name
        say("Best", f"{folder}, {self.run.config.metric_for_best_model}={state.best_metric:.4f}")

    def stopped_early(self) -> None:
        state, patience = self.run.state, self.run.config.early_stopping_patience
        if state.global_step < state.max_steps:
            metric = self.run.config.metric_for_best_model
            say("Stopped", f"early: {patience} evaluation(s) without a better {metric}")

    def advance(self) -> None:
        """Move the progress bar to where the run is; if none is in view, say once how long the rest will take."""
        state, now = self.run.state, time.monotonic()
        self.bar.update(state.global_step - self.bar.n)
        if self.first_done is None and state.global_step >= self.first_step + self.untimed:
            self.first_done = now
        done, left = self._updates_timed(), self._seconds_left(now)
        if not self.estimated and (done >= 10 or (done >= 3 and now - (self.first_done or now) >= 2.0)):
            self.estimated = True
            if left >= SHORT and (self.bar.disable or not sys.stderr.isatty()):
                updates = state.max_steps - state.global_step
                say("Time", f"about {tqdm.format_interval(left)} for the {updates} updates left")

    def _updates_timed(self) -> int:
        return self.run.state.global_step - self.first_step - self.untimed

    def _seconds_left(self, now: float) -> float:
        """Estimate as tqdm does, by the mean time of the updates timed; 0 if it is not known."""
        each = (now - (self.first_done or now)) / max(self._updates_timed(), 1)
        return each * (self.run.state.max_steps - self.run.state.global_step)

    def _time_of_epoch(self) -> str:
        """Say what the epoch took here, and what is left, evaluations and saves included; nothing of a short run."""
        now = time.monotonic()
        took, left, self.epoch_began = now - self.epoch_began, self._seconds_left(now), now
        if now - self.began + left < SHORT:
            return ""
        return f" ({tqdm.format_interval(took)}{f'; about {tqdm.format_interval(left)} left' if left else ''})"


def format_numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.4f}" for name, value in values.items())


def scores(metrics: dict[str, float], compute_metrics: Any, prefix: str = "eval") -> dict[str, float]:
    """Return the metrics a person reads, by the titles of their function: without prefix, loss and timings."""
    titles = getattr(compute_metrics, "titles", {})
    short = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
    return {titles.get(k, k): v for k, v in short.items() if k != "loss" and not is_timing(k) and is_number(v)}
