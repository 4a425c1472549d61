"""What TensorBoard gets at the end of a run: the report's figures, precision-recall curves, and the final numbers
beside the settings.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ftloop.logs import is_number, write_scalars
from ftloop.outcome import Outcome, read_predictions
from ftloop.pace import TIMINGS
from ftloop.scoring import SHOWN_CLASSES, Answers, probabilities, read_answers


def finish_board(folder: str, outcome: Outcome, report: dict[str, Any]) -> None:
    """Add to the event files in `folder`, at the last update. Figures only where matplotlib is there."""
    from torch.utils.tensorboard import SummaryWriter

    step = int(outcome.state.get("global_step", 0))
    with SummaryWriter(log_dir=folder) as writer:
        test = {name: value for name, value in outcome.results.items() if name.startswith("test_")}
        write_scalars(writer, test, step)
        for name in report["sets"]:
            data = outcome.facts["data"]
            table = read_predictions(outcome.predictions[name])
            _add_curves(writer, name, read_answers(table, data["kind"], data["labels"]), step)
        for name, image in _figures(report).items():
            writer.add_image(f"report/{name}", _pixels(image), step, dataformats="HWC")
        for advice in report["advice"]:
            writer.add_text(f"advice/{advice['topic']}", advice["text"], step)
        settings = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in report["settings"].items()
        }
        final = {
            name.replace("_", "/", 1): value
            for name, value in outcome.results.items()
            if name.startswith(("eval_", "test_"))
            and is_number(value)
            and not name.removesuffix("_mm").endswith(TIMINGS)
        }
        if settings and final:
            writer.add_hparams(settings, final, run_name=".", global_step=step)


def _add_curves(writer: Any, name: str, answers: Answers, step: int) -> None:
    """One for class 1 of two, or for each of few."""
    count, finite = len(answers.names), answers.is_finite
    if not 2 <= count <= SHOWN_CLASSES or not finite.any():
        return
    several = answers.kind == "multi_label"
    share = probabilities(answers)[finite]
    true = answers.true[finite]
    for index in [1] if count == 2 and not several else range(count):
        positive = true[:, index] if several else true == index
        writer.add_pr_curve(f"{name}/{answers.names[index]}", positive, share[:, index], step)


def _figures(report: dict[str, Any]) -> dict[str, bytes]:
    try:
        from ftloop.figures import draw_all
    except ImportError:
        return {}
    return draw_all(report, "light")


def _pixels(image: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
