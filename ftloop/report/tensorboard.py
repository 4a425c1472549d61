"""Write to TensorBoard at the end of a run: the report's figures, precision-recall curves, and the final scores beside
the settings.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ftloop.report.outcome import FinishedRun
from ftloop.report.predictions import load_predictions
from ftloop.system.scalars import is_number, is_timing, write_scalars


def write_final_results(log_dir: str, run: FinishedRun, report: dict[str, Any]) -> None:
    """Add to the event files in `log_dir`, at the last update. Figures only where matplotlib is there."""
    from torch.utils.tensorboard import SummaryWriter  # imports torch, which nothing else here needs

    step = int(run.state.get("global_step", 0))
    with SummaryWriter(log_dir=log_dir) as writer:
        write_scalars(writer, {name: value for name, value in run.results.items() if name.startswith("test_")}, step)
        for name in report["sets"]:
            _, predictions = load_predictions(run, name)
            for label, (positive, score) in predictions.finite().one_vs_rest().items():
                if len(score):
                    writer.add_pr_curve(f"{name}/{label}", positive, score, step)
        for name, image in _figures(report).items():
            writer.add_image(f"report/{name}", image, step, dataformats="HWC")
        for advice in report["advice"]:
            writer.add_text(f"advice/{advice['topic']}", advice["text"], step)
        settings = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in report["settings"].items()
        }
        final = {
            name.replace("_", "/", 1): value
            for name, value in run.results.items()
            if name.startswith(("eval_", "test_")) and is_number(value) and not is_timing(name)
        }
        if settings and final:
            writer.add_hparams(settings, final, run_name=".", global_step=step)


def _figures(report: dict[str, Any]) -> dict[str, np.ndarray]:
    try:
        from PIL import Image  # matplotlib is optional, and brings Pillow

        from ftloop.report.plots import draw_all
    except ImportError:
        return {}
    images = draw_all(report, "light")
    return {name: np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for name, image in images.items()}
