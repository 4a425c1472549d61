"""What a run says: the log history, the console with its progress bar, and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ftloop.checkpoint import store_flos
from ftloop.durable import read_json, retried, write_text
from ftloop.errors import UserError
from ftloop.pace import TIMINGS, Pace, time_line
from ftloop.run import Run
from ftloop.state import TRAINER_STATE

ALL_RESULTS = "all_results.json"


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
        self.writer = _summary_writer(run) if run.is_main and run.config.tensorboard else None
        self.pace = Pace(time.monotonic(), run.state.global_step, run.plan.max_steps)
        self.throughput = _throughput(run) if self.writer is not None else None

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()

    def record(self, values: dict[str, Any]) -> None:
        """Append to the log history and send to TensorBoard. Mirrors: Trainer.log."""
        state = self.run.state
        self.pace.not_yet(time.monotonic())
        state.control.should_log = False
        values = values | {"epoch": state.epoch}
        state.log_history.append(values | {"step": state.global_step})
        if self.writer is not None:
            write_scalars(self.writer, values, state.global_step)
        if self.throughput is not None:
            self.throughput.leave_out(values.get("eval_runtime", 0.0))

    def losses(self) -> None:
        """Log the mean loss of the updates since the last log line: the one place where the host waits for it.

        Mirrors: Trainer._maybe_log_save_evaluate, its first part.
        """
        run, state, meter = self.run, self.run.state, self.run.meter
        total = run.accelerator.gather(meter.window).mean().item()
        updates, counted = state.global_step - meter.logged_at - meter.left_out_of_window, run.mishaps.counted()
        values = {
            "loss": total / updates if updates else math.nan,
            "grad_norm": None if meter.grad_norm is None else float(meter.grad_norm),
            "learning_rate": meter.learning_rate,
        }
        meter.window.zero_()
        meter.left_out_of_window = 0
        meter.total += total
        meter.logged_at = state.global_step
        store_flos(run)
        self.record(values | counted)
        if self.throughput is not None:  # to TensorBoard alone: the history is Trainer's
            write_scalars(self.writer, self.throughput.tell(), state.global_step)
        if self.bar.disable and run.is_main:
            shown = ", ".join(f"{name}={value:.4g}" for name, value in values.items() if value is not None)
            shown += "".join(f", {name}={count}" for name, count in counted.items())
            print(f"Update {state.global_step}/{state.max_steps}: {shown}", flush=True)
        else:
            postfix: dict[str, Any] = {"loss": f"{values['loss']:.4f}", "lr": f"{meter.learning_rate:.2e}"}
            self.bar.set_postfix(postfix | counted, refresh=False)

    def evaluation(self, metrics: dict[str, Any], phase: str) -> None:
        """Record an evaluation; between epochs it gets a line, at their end the epoch's line tells it."""
        self.record(metrics)
        if phase == "update":
            state = self.run.state
            shown = {"eval_loss": metrics["eval_loss"]} if "eval_loss" in metrics else {}
            self.say(f"Update {state.global_step}/{state.max_steps}: {format_numbers(shown | scores(metrics))}")

    def epoch(self, metrics: dict[str, float] | None) -> None:
        """One line for an epoch: the mean loss of its updates and the last evaluation's metrics, if there is one."""
        run, state, meter = self.run, self.run.state, self.run.meter
        updates = state.global_step - meter.epoch_began_at
        if updates:  # none when this epoch's checkpoint came from elsewhere and holds no sum
            total, updates = run.accelerator.gather(meter.epoch).mean().item(), updates - meter.left_out_of_epoch
            metrics = metrics or {}
            shown = {"loss": total / updates if updates else math.nan}
            shown |= {"eval_loss": metrics["eval_loss"]} if "eval_loss" in metrics else {}
            shown |= scores(metrics)
            took = self.pace.end_of_epoch(time.monotonic(), state.global_step)
            self.say(f"Epoch {math.ceil(state.epoch)}/{state.num_train_epochs}: {format_numbers(shown)}{took}")
        meter.epoch.zero_()
        meter.left_out_of_epoch = 0
        meter.epoch_began_at = state.global_step

    def best(self) -> None:
        state = self.run.state
        folder = Path(state.best_model_checkpoint or "").name
        self.say(f"Best      {folder}, {self.run.config.metric_for_best_model}={state.best_metric:.4f}")

    def stopped_early(self) -> None:
        state, patience = self.run.state, self.run.config.early_stopping_patience
        if state.global_step < state.max_steps:
            metric = self.run.config.metric_for_best_model
            self.say(f"Stopped   early: {patience} evaluation(s) without a better {metric}")

    def advance(self) -> None:
        """Move the progress bar to where the run is; without one before one's eyes, say once how long it will take."""
        step, max_steps = self.run.state.global_step, self.run.state.max_steps
        self.bar.update(step - self.bar.n)
        each = self.pace.advance(time.monotonic(), step)
        if each is not None and (self.bar.disable or not sys.stderr.isatty()):
            strategies = {"evaluation": self.run.config.eval_strategy, "saving": self.run.config.save_strategy}
            line = time_line(each, max_steps - step, [what for what, when in strategies.items() if when != "no"])
            if line is not None:
                self.say(line)

    def say(self, line: str) -> None:
        if self.run.is_main:
            self.bar.write(line)


def format_numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.4f}" for name, value in values.items())


def scores(metrics: dict[str, float], prefix: str = "eval") -> dict[str, float]:
    """The metrics a person reads: without the prefix, the loss and the timings."""
    short = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
    return {name: value for name, value in short.items() if name not in {"loss", *TIMINGS} and is_number(value)}


def is_number(value: Any) -> bool:
    """A user's `compute_metrics` may return reports and lists too; they go into the history alone."""
    return isinstance(value, (int, float))


def _summary_writer(run: Run) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    stamp = f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}"
    folder = run.config.logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR")
    folder = os.path.expanduser(folder or os.path.join(run.config.output_dir, "runs", stamp))
    writer = SummaryWriter(log_dir=folder)
    run.board = folder
    print(f"Watch     tensorboard --logdir {shlex.quote(folder)}", flush=True)
    writer.add_text("args", json.dumps(run.config.to_dict(), indent=2))
    model: Any = run.unwrapped_model
    if getattr(model, "config", None) is not None:
        writer.add_text("model_config", model.config.to_json_string())
    return writer


def _throughput(run: Run) -> Any:
    from ftloop.throughput import Throughput

    return Throughput.of(run)


def write_scalars(writer: Any, values: dict[str, Any], global_step: int) -> None:
    """Under Trainer's tags: `eval_x` becomes `eval/x`, `test_x` becomes `test/x`, all else `train/x`."""
    for name, value in values.items():
        part, _, rest = name.partition("_")
        tag = f"{part}/{rest}" if part in ("eval", "test") else f"train/{name}"
        if is_number(value):
            writer.add_scalar(tag, value, global_step)
    writer.flush()


def save_metrics(run: Run, split: str, metrics: dict[str, Any]) -> None:
    """Write `<split>_results.json` and add to `all_results.json`. Mirrors: Trainer.save_metrics."""
    if not run.is_main:
        return
    root = Path(run.config.output_dir)
    together = root / ALL_RESULTS
    before: dict[str, Any] = {}
    try:
        before = read_json(together) if together.is_file() else {}
    except UserError as error:
        run.say(f"Broken    {error}; it is begun anew")
    for path, values in ((root / f"{split}_results.json", metrics), (together, before | metrics)):
        retried(path.name, partial(write_text, path, results_text(values)), run.say)


def results_text(values: dict[str, Any]) -> str:
    """As Trainer writes them."""
    return json.dumps(values, indent=4, sort_keys=True) + "\n"


def save_state(run: Run) -> None:
    """Write `trainer_state.json` into the output_dir. Mirrors: Trainer.save_state."""
    if run.is_main:
        path, text = Path(run.config.output_dir) / TRAINER_STATE, run.state.to_json(run.config)
        retried(path.name, partial(write_text, path, text), run.say)
