"""Named numbers of the log: which of them are scores, and TensorBoard's tags for them."""

from __future__ import annotations

from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value can be drawn. A user's `compute_metrics` may return texts and lists too, for the history."""
    return isinstance(value, (int, float))


def to_plain(value: Any) -> Any:
    """Return numbers and lists in place of NumPy's and torch's, however deep: what JSON holds."""
    if isinstance(value, dict):
        return {name.item() if hasattr(name, "item") else name: to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def is_timing(name: str) -> bool:
    """Whether a number measures the speed of a training or an evaluation, and is no score. `_mm`: MNLI's second set."""
    return name.removesuffix("_mm").endswith(("runtime", "_per_second"))


def tagged(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers under Trainer's tags: `eval_x` becomes `eval/x`, `test_x` `test/x`, all else `train/x`."""
    parts = {name: name.partition("_") for name, value in values.items() if is_number(value)}
    tags = {name: f"{p}/{rest}" if p in ("eval", "test") else f"train/{name}" for name, (p, _, rest) in parts.items()}
    return {tag: values[name] for name, tag in tags.items()}


def write_scalars(writer: Any, values: dict[str, Any], global_step: int) -> None:
    """Write to TensorBoard."""
    for tag, value in tagged(values).items():
        writer.add_scalar(tag, value, global_step)
    writer.flush()
