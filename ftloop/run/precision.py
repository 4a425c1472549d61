"""The precision that fits the machine: what `mixed_precision: auto` chooses, and whether bf16 pays here."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import parse_flag_from_env
from torch.nn.functional import linear

from ftloop.run.accelerator import check_device, make_accelerator
from ftloop.system.console import say
from ftloop.system.distributed import broadcast_from_main
from ftloop.system.launcher import is_main_process, launched_processes

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig

FASTER = 0.9
"""Half precision is chosen where a product takes at most this share of its time in fp32."""
SHAPE = (256, 768, 768)
"""Tokens and widths of the product that is timed: BERT-base's own."""
SECONDS = 0.3
"""Length of the measurement: other work on the machine leaves some of its products alone."""
NAMES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def settle_precision(config: TrainConfig, saved: dict[str, Any] | None = None) -> TrainConfig:
    """Replace `mixed_precision: auto` by what it comes to here: the precision of the run that is resumed, by its
    `saved` settings; else the launcher's; else half precision where the device multiplies faster in it than in fp32.

    The main process decides for all. Draws no random numbers; takes a few tenths of a second.
    """
    if config.mixed_precision != "auto":
        return config
    if config.bf16 or config.fp16:  # asked for outright, beside a recipe's auto
        return replace(config, mixed_precision=None)
    if config.full_determinism:  # cuBLAS reads it once, at the first product; as transformers' enable_full_determinism
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    chosen = _choose(config, saved) if is_main_process() else ""
    if launched_processes() > 1:
        chosen = broadcast_from_main(make_accelerator(config), chosen)
    return replace(config, mixed_precision=None, bf16=chosen == "bf16", fp16=chosen == "fp16")


def _choose(config: TrainConfig, saved: dict[str, Any] | None) -> str:
    """Return `no`, `bf16` or `fp16`, having said why."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if saved is not None:
        return next((name for name in NAMES if saved.get(name)), "no")
    if launched != "no":
        return "no"  # of ours; the launcher's stands
    check_device(config)
    device = _device(config)
    half = "fp16" if device == "cuda" and not has_native_bf16() else "bf16"
    times = relative_time(half, device)
    chosen = half if times <= FASTER else "no"
    say("Precision", f"{'fp32' if chosen == 'no' else chosen}, chosen for this {device}: {_in_words(half, times)}")
    return chosen


def bf16_warning(device: str) -> str | None:
    """Say that bf16 makes a run slower on a device; None where it does not."""
    times = relative_time("bf16", device)
    if times <= 1:
        return None
    way_out = "--fp16" if device == "cuda" else "--mixed_precision auto, which computes in fp32 here,"
    return f"bf16 is slow on this {device}: {_in_words('bf16', times)}; {way_out} is faster"


def tf32_hint(device: str) -> str | None:
    """Say that a GPU could multiply fp32 faster; None where there is nothing to say."""
    if device != "cuda" or torch.cuda.get_device_capability() < (8, 0):
        return None
    matmul = torch.backends.cuda.matmul
    # Older versions have the second name alone, and newer ones refuse it where the first has been used.
    if matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32:
        return None
    return "fp32 without TF32: --tf32 true multiplies several times faster on this GPU, to 10 bits of the 23"


def _in_words(half: str, times: float) -> str:
    return f"products in {half} take {times:.2g} times as long as in fp32"


def has_native_bf16() -> bool:
    """Whether the GPU multiplies in bf16 itself: torch emulates it on older ones, and says that they support it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def relative_time(half: str, device: str) -> float:
    """Return the time of a matrix product in half precision as a multiple of its time in fp32: the shortest of each, in
    turn."""
    rows, width, out = SHAPE
    best = {torch.float32: float("inf"), NAMES[half]: float("inf")}
    with torch.inference_mode():
        tensors = {
            dtype: (torch.full((rows, width), 0.5, dtype=dtype), torch.full((out, width), 0.5, dtype=dtype))
            for dtype in best
        }
        placed = {dtype: (x.to(device), weight.to(device)) for dtype, (x, weight) in tensors.items()}

        def multiply(dtype: torch.dtype) -> float:
            """Return the seconds of one product."""
            started = time.perf_counter()
            linear(*placed[dtype])
            if device != "cpu":
                torch.accelerator.synchronize()
            return time.perf_counter() - started

        for dtype in placed:
            multiply(dtype)  # the first loads cuBLAS, and may take longer than all of the measurement
        begun = time.perf_counter()
        while time.perf_counter() - begun < SECONDS:
            best = {dtype: min(shortest, multiply(dtype)) for dtype, shortest in best.items()}
    return best[NAMES[half]] / best[torch.float32]


def _device(config: TrainConfig) -> str:
    on_cpu = config.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    accelerator = None if on_cpu else torch.accelerator.current_accelerator()
    return "cpu" if accelerator is None else accelerator.type
