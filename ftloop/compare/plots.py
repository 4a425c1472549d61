"""Plot two recorded runs over each other: as a picture, or as TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path

from ftloop.compare.differences import CURVES, Comparison
from ftloop.errors import UserError
from ftloop.system.scalars import write_scalars

TITLES = {"loss": "loss of the update", "grad_norm": "gradient norm, before clipping", "learning_rate": "learning rate"}


def draw(comparison: Comparison, path: Path) -> None:
    """Draw loss, gradient norm and learning rate of both runs, and the difference A - B below each.

    Raises: UserError without matplotlib, or when nothing can be written at `path`.
    """
    try:
        from matplotlib.figure import Figure  # optional
    except ImportError:
        raise UserError("png: needs matplotlib: pip install matplotlib (the extra `plots`)") from None
    a, b = comparison.a, comparison.b
    first = None if comparison.same else comparison.first
    verdict = "the same run" if first is None else f"different from update {first.update} on: {first.stage}"
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, height_ratios=(3, 1))
    runs = f"A {a.path.name} ({a.header['by']})   B {b.path.name} ({b.header['by']})"
    figure.suptitle(f"{runs}:   {verdict}", parse_math=False)  # a file's name may hold dollars
    for (above, below), name in zip(axes.T, CURVES, strict=True):
        x, y = a.curve(name), b.curve(name)
        above.plot(list(x), list(x.values()), color="tab:orange", linewidth=4, alpha=0.5, label="A")
        above.plot(list(y), list(y.values()), color="black", linewidth=0.9, label="B")
        above.set_title(TITLES[name])
        gaps = {update: x[update] - y[update] for update in comparison.updates if update in x and update in y}
        below.plot(list(gaps), list(gaps.values()), color="tab:red", linewidth=1)
        below.set(xlabel="update", ylabel="A - B")
        if not any(gaps.values()):
            below.set(ylim=(-1, 1), yticks=[0])
        for axis in (above, below):
            if first is not None and first.update:
                axis.axvline(first.update, color="tab:blue", linewidth=1, linestyle=":")
    axes[0, 0].legend()
    try:
        if path.is_dir():
            raise OSError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"png: {path} cannot be written ({error})") from None


def write_tensorboard(comparison: Comparison, folder: Path) -> None:
    """Write each recording as a run in `folder`, A-... and B-..., with Trainer's tags, so that TensorBoard overlays
    them.

    Raises: UserError when nothing can be written there, or such runs exist already.
    """
    from torch.utils.tensorboard import SummaryWriter  # takes long to import, and few ask for it

    for recording in (comparison.a, comparison.b):
        run = folder / f"{recording}-{recording.path.stem}"
        if run.exists():
            raise UserError(f"tensorboard: {run} exists and would show two curves in one; choose another folder")
        try:
            writer = SummaryWriter(log_dir=str(run))
        except OSError as error:
            raise UserError(f"tensorboard: {folder} cannot be written ({error.strerror})") from None
        for name in CURVES:
            for update, value in recording.curve(name).items():
                writer.add_scalar(f"train/{name}", value, update)
        for (step, kind), values in sorted(recording.logs.items()):
            if kind == "evaluation":
                write_scalars(writer, values, step)
        writer.close()
