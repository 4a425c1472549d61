"""Where the log goes besides console and files: TensorBoard, and experiment trackers by Accelerate's interface."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

from ftloop.errors import UserError, summarize
from ftloop.run.throughput import Throughput
from ftloop.system.console import say
from ftloop.system.scalars import tagged, write_scalars
from ftloop.system.shell import quote

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from ftloop.run.run import Run

PROJECTS = {
    "wandb": "WANDB_PROJECT",
    "trackio": "TRACKIO_PROJECT",
    "comet_ml": "COMET_PROJECT_NAME",
    "mlflow": "MLFLOW_EXPERIMENT_NAME",
    "clearml": "CLEARML_PROJECT",
    "swanlab": "SWANLAB_PROJECT",
}
"""The variable of the environment that names a tracker's project, as Trainer's callbacks read it ..."""
PROJECT = "huggingface"  # ... and its name without one, Trainer's
RUN_NAMES = {"wandb": "name", "trackio": "name", "mlflow": "run_name"}
"""What a tracker calls the name of a run."""


class Trackers:
    """All that one training is reported to. In the main process alone."""

    def __init__(self, run: Run) -> None:
        """Raises: UserError for a tracker that cannot be started."""
        self.run, self.throughput = run, Throughput.of(run)
        self.board = _tensorboard(run) if run.config.tensorboard else None
        names = [name for name in run.config.trackers if name != "tensorboard"]
        self.others = {name: _started(run, name) for name in names}

    def record(self, values: dict[str, Any]) -> None:
        """Send a line of the log. An evaluation's time is no time of training."""
        self.throughput.exclude(sum(values.get(f"{prefix}_runtime", 0.0) for prefix in self.run.eval_sets()))
        self._send(values)

    def record_throughput(self) -> None:
        """Send padding and tokens a second since the last line; the history, which is Trainer's, is without."""
        self._send(self.throughput.measure())

    def _send(self, values: dict[str, Any]) -> None:
        step = self.run.state.global_step
        self._on_board(lambda board: write_scalars(board, values, step))
        for name, tracker in list(self.others.items()):
            try:
                tracker.log(tagged(values) | {"train/global_step": step}, step=step)
            except Exception as error:  # a server that is gone is no reason to lose a training
                del self.others[name]
                why = f"{type(error).__name__}: {summarize(error)}"
                say("Tracker", f"{name} failed, and nothing more is sent to it ({why})")

    def _on_board(self, write: Callable[[Any], None]) -> None:
        """Write to TensorBoard, and no more after what cannot be written: its disk may be full, and no other's."""
        try:
            if self.board is not None:
                write(self.board)
        except Exception as error:
            self.board = self.run.board = None
            why = f"{type(error).__name__}: {summarize(error)}"
            say("Tracker", f"tensorboard failed, and nothing more is written to it ({why})")

    def close(self) -> None:
        self._on_board(lambda board: board.close())
        for name, tracker in self.others.items():
            try:
                tracker.finish()
            except Exception as error:
                say("Tracker", f"{name} could not be closed ({type(error).__name__}: {summarize(error)})")


def _started(run: Run, name: str) -> GeneralTracker:
    """Start a tracker and give it the settings. Mirrors: Accelerator.init_trackers, for each by itself: one that is the
    user's accelerator's own stays as it is."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    project = os.environ.get(PROJECTS.get(name, "")) or PROJECT
    folder = [run.config.logging_dir or run.config.output_dir] if kind.requires_logging_directory else []
    given = {RUN_NAMES[name]: Path(run.config.output_dir).resolve().name} if name in RUN_NAMES else {}
    plain = {
        key: value if isinstance(value, (str, int, float, bool)) or value is None else json.dumps(value)
        for key, value in run.config.to_dict().items()
    }
    try:
        tracker: GeneralTracker = kind(project, *folder, **given)
        tracker.start()
        tracker.store_init_configuration(plain)
    except Exception as error:
        told = f"{type(error).__name__}: {summarize(error)}"
        raise UserError(f"report_to: {name} could not be started ({told}); mend that, or leave it out") from error
    return tracker


def _tensorboard(run: Run) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # only where it is asked for: its import takes a second

    stamp = f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}"
    folder = run.config.logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR")
    run.board = os.path.expanduser(folder or os.path.join(run.config.output_dir, "runs", stamp))
    say("TensorBoard", f"tensorboard --logdir {quote(run.board)}")
    writer = SummaryWriter(log_dir=run.board)
    writer.add_text("args", json.dumps(run.config.to_dict(), indent=2))
    model: Any = run.unwrapped_model
    if isinstance(getattr(model, "config", None), PretrainedConfig):
        writer.add_text("model_config", model.config.to_json_string())
    return writer
