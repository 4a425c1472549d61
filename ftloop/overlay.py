"""Two recorded runs over each other: a picture, or TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path

from ftloop.diff import DRIFTING, Comparison
from ftloop.errors import UserError

TITLES = {"loss": "loss of the update", "grad_norm": "gradient norm, before clipping", "learning_rate": "learning rate"}


def draw(comparison: Comparison, path: Path) -> None:
    """Loss, gradient norm and learning rate of both runs, one over the other, and the difference A - B below each.

    Raises: UserError without matplotlib, or when nothing can be written at `path`.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("png: needs matplotlib: pip install matplotlib (the extra `plots`)") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    a, b = comparison.a, comparison.b
    figure, axes = pyplot.subplots(2, 3, sharex=True, height_ratios=(3, 1), figsize=(15, 5.5), layout="constrained")
    verdict = (
        "the same run" if comparison.same else f"part at update {comparison.first.update}: {comparison.first.stage}"
    )
    figure.suptitle(f"A {a.path.name} ({a.header['by']})   B {b.path.name} ({b.header['by']}):   {verdict}")
    for (above, below), name in zip(axes.T, DRIFTING, strict=True):
        curves = [each.curve(name) for each in (a, b)]
        above.plot(*_points(curves[0]), color="tab:orange", linewidth=4, alpha=0.5, label="A")
        above.plot(*_points(curves[1]), color="black", linewidth=0.9, label="B")
        above.set_title(TITLES[name])
        apart = {u: curves[0][u] - curves[1][u] for u in comparison.updates if u in curves[0] and u in curves[1]}
        below.plot(*_points(apart), color="tab:red", linewidth=1)
        below.set(xlabel="update", ylabel="A - B")
        if not any(apart.values()):
            below.set_ylim(-1, 1)
            below.set_yticks([0])
        for axis in (above, below):
            if not comparison.same and comparison.first.update:
                axis.axvline(comparison.first.update, color="tab:blue", linewidth=1, linestyle=":")
    axes[0, 0].legend()
    try:
        if path.is_dir():
            raise OSError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"png: {path} cannot be written ({error})") from None
    finally:
        pyplot.close(figure)


def _points(curve: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(curve), list(curve.values())


def write_tensorboard(comparison: Comparison, folder: Path) -> None:
    """Each recording becomes a run in `folder`, A-... and B-..., with Trainer's tags; so TensorBoard overlays them.

    Raises: UserError when nothing can be written there, or such runs are there already.
    """
    from torch.utils.tensorboard import SummaryWriter

    from ftloop.logs import write_scalars

    for name, recorded in (("A", comparison.a), ("B", comparison.b)):
        run = folder / f"{name}-{recorded.path.stem}"
        if run.exists():
            raise UserError(
                f"tensorboard: {run} is there already, and would show two curves in one; choose another folder"
            )
        try:
            writer = SummaryWriter(log_dir=str(run))
        except OSError as error:
            raise UserError(f"tensorboard: {folder} cannot be written ({error.strerror})") from None
        for curve in DRIFTING:
            for update, value in recorded.curve(curve).items():
                writer.add_scalar(f"train/{curve}", value, update)
        for (step, kind), values in sorted(recorded.logs.items()):
            if kind == "evaluation":
                write_scalars(writer, values, step)
        writer.close()
