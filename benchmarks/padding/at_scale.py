"""What changes at 8, 64 and 1,000 GPUs, on paper: the tables of the walkthrough, from assumptions that are named.

    python benchmarks/padding/at_scale.py                                 prints them
    python benchmarks/padding/at_scale.py --teraflops 300 --rows 32       with other assumptions

Nothing here is run on a GPU. Batches are those of `ftloop.batching.efficiency.batches_of`, with the lengths of MRPC
(results/mrpc_lengths.json); steps are counted by `ftloop.run.plan.make_plan`; the rest is arithmetic.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from benchmarks.common import RESULTS
from ftloop.batching.efficiency import ModelShape, batches_of
from ftloop.config.train_config import TrainConfig
from ftloop.run.plan import make_plan
from ftloop.system.rng import rng_state
from ftloop.system.stopping import EXCHANGE_SECONDS, MOST_LEFT_OUT

LENGTHS = RESULTS / "mrpc_lengths.json"
BERT_BASE = ModelShape(layers=12, hidden=768, intermediate=3072)
MODELS = {"all-MiniLM-L6-v2": 22.7e6, "bert-base": 109.5e6, "bert-large": 335.1e6, "one of 1.5 billion": 1.5e9}
"""Parameters."""
GPUS = (1, 8, 64, 1000)
ENOUGH_STEPS = 100
"""Steps over which waiting is averaged where rows are plenty."""


def _assumed(value: Any, what: str) -> Any:
    return field(default=value, metadata={"help": what})


@dataclass(frozen=True)
class Assumptions:
    rows: int = _assumed(16, "rows of a GPU's micro-batch")
    accumulation: int = _assumed(8, "micro-batches of an update, where gradients are accumulated")
    epochs: int = _assumed(3, "epochs")
    warmup: float = _assumed(0.1, "share of the updates that warm up")
    learning_rate: float = _assumed(5e-5, "learning rate on one GPU")
    teraflops: float = _assumed(100.0, "TFLOP/s that a GPU reaches in training")
    nvlink: float = _assumed(300.0, "GB/s between the GPUs of a machine over NVLink, in one direction")
    pcie: float = _assumed(25.0, "GB/s between the GPUs of a machine over PCIe")
    ethernet: float = _assumed(12.5, "GB/s between two machines, each with one link of 100 Gbit/s")
    gpus_per_machine: int = _assumed(8, "GPUs of a machine")
    message: float = _assumed(0.05, "ms that a small message takes from one process to the next")
    noise: float = _assumed(0.05, "standard deviation of the time a GPU takes for the same work, as a share of it")
    gpu_years: float = _assumed(5.0, "years of one GPU between two failures")
    disk: float = _assumed(500.0, "MB/s at which one process writes a checkpoint, digests it and syncs it")
    tokenized: float = _assumed(6000.0, "pairs of texts that one process tokenizes in a second")
    walked: float = _assumed(7.5, "million rows whose order one process walks through in a second")
    card: float = _assumed(80.0, "GB of a GPU's memory")
    kept_for_activations: float = _assumed(0.25, "share of it kept for activations and what the libraries take")


@dataclass(frozen=True)
class Scale:
    """One number of GPUs, all else as assumed."""

    gpus: int
    given: Assumptions
    lengths: np.ndarray

    @property
    def config(self) -> TrainConfig:
        given = self.given
        return TrainConfig(
            per_device_train_batch_size=given.rows, num_train_epochs=given.epochs, warmup_ratio=given.warmup
        )

    @property
    def rows_per_update(self) -> int:
        return self.gpus * self.given.rows

    @cached_property
    def plan(self) -> Any:
        batches = math.ceil(len(self.lengths) / self.given.rows)
        return make_plan(self.config, len(self.lengths), math.ceil(batches / self.gpus), self.gpus)

    @cached_property
    def compute_ms(self) -> float:
        """Forward and backward of a random micro-batch of MRPC by bert-base."""
        flops = batches_of(self.config, self.lengths, 512).training_flops(BERT_BASE)
        return float(flops.mean()) / (self.given.teraflops * 1e12) * 1e3

    @property
    def exchanged_bytes(self) -> float:
        """Bytes that a GPU sends, and receives, of bert-base's float32 gradients in a ring."""
        return 2 * (self.gpus - 1) / self.gpus * 4 * MODELS["bert-base"]

    def exchange_ms(self, gigabytes: float) -> float:
        return self.exchanged_bytes / (gigabytes * 1e9) * 1e3

    def efficiency(self, accumulation: int, over_pcie: bool = False) -> float:
        """Share of an update in which a GPU computes. The exchange goes on during the last backward pass, two thirds of
        a micro-batch's time; the rest of it is waited for, and so is, in some updates, that of the request to stop.
        """
        within = self.given.pcie if over_pcie else self.given.nvlink
        exchange = self.exchange_ms(within if self.gpus <= self.given.gpus_per_machine else self.given.ethernet)
        computed = accumulation * self.compute_ms
        update = computed + max(0.0, exchange - self.compute_ms * 2 / 3)
        updates_between = min(MOST_LEFT_OUT + 1, max(1.0, EXCHANGE_SECONDS * 1e3 / update))
        return computed / (update + self.stop_ms / updates_between)

    @property
    def stop_ms(self) -> float:
        """One number passed round a ring, twice."""
        return 2 * (self.gpus - 1) * self.given.message

    def evaluation(self, examples: int) -> tuple[int, int]:
        """Rounds of batches, and rows computed only to fill the last round."""
        batches = math.ceil(examples / self.given.rows)
        rounds = math.ceil(batches / self.gpus)
        return rounds, 0 if self.gpus == 1 else rounds * self.rows_per_update - examples

    def waiting(self, batching: str, copies: int) -> float | None:
        """Share of the GPUs' time in which they wait for the one with the longest batch, over the full steps of the
        first epoch of MRPC's rows so many times over. None: not one full step.
        """
        config = TrainConfig(per_device_train_batch_size=self.given.rows, batching=batching)
        batches = batches_of(config, np.tile(self.lengths, copies), 512, self.gpus)
        flops = batches.training_flops(BERT_BASE)
        steps = len(flops) // self.gpus
        if not steps:
            return None
        of_step = flops[: steps * self.gpus].reshape(steps, self.gpus)
        return 1 - float(of_step.sum() / (of_step.max(axis=1).sum() * self.gpus))

    @property
    def enough_copies(self) -> int:
        """Lengths like MRPC's, of so many rows that every GPU has enough batches."""
        return max(1, math.ceil(ENOUGH_STEPS * self.rows_per_update / len(self.lengths)))

    @property
    def slowest(self) -> float:
        """Share by which the slowest GPU takes longer than one on average: the expected largest of normal numbers."""
        normal, grid = NormalDist(), np.linspace(-8, 8, 4001)
        below = np.array([normal.cdf(x) for x in grid]) ** self.gpus
        largest = float((grid[:-1] + grid[1:]) @ np.diff(below) / 2)
        return self.given.noise * largest

    @property
    def failure_seconds(self) -> float:
        return self.given.gpu_years * 365 * 86400 / self.gpus

    @property
    def save_interval(self) -> float:
        """Young's: seconds between two saves that lose the least in saves and in work done twice."""
        return math.sqrt(2 * save_seconds("bert-base", self.given) * self.failure_seconds)

    def lost(self, interval: float) -> float:
        """Share of the time lost to a save every `interval` seconds, and to half of that done twice at a failure."""
        return save_seconds("bert-base", self.given) / interval + interval / 2 / self.failure_seconds

    def hours(self, rows: float, accumulation: int) -> float:
        """Hours of training on so many rows, for all epochs."""
        micro_batches = rows * self.given.epochs / self.rows_per_update
        return micro_batches * self.compute_ms / self.efficiency(accumulation) / 3.6e6


def save_seconds(model: str, given: Assumptions) -> float:
    """Bytes of a checkpoint: each weight and AdamW's two means, four bytes each."""
    return 12 * MODELS[model] / (given.disk * 1e6)


def read_lengths() -> np.ndarray:
    counts = json.loads(LENGTHS.read_text())["rows"]
    return np.repeat(np.array([int(tokens) for tokens in counts], np.int32), list(counts.values()))


def rng_bytes() -> int:
    """Bytes of the file that each process writes into a checkpoint, on a CPU."""
    buffer = io.BytesIO()
    torch.save(rng_state(), buffer)
    return len(buffer.getvalue())


def assumptions(given: Assumptions) -> list[str]:
    lines = [[f"`{each.name}`", f"{getattr(given, each.name):g}", each.metadata["help"]] for each in fields(given)]
    return _markdown(["flag", "value", "what"], lines)


def by_gpus(given: Assumptions, lengths: np.ndarray) -> list[str]:
    scales = [Scale(gpus, given, lengths) for gpus in GPUS]
    table: list[tuple[str, list[str]]] = []

    def row(what: str, told: Any) -> None:
        table.append((what, [told(scale) for scale in scales]))

    def rate(value: float) -> str:
        return f"{value:.1e}".replace("e-0", "e-")

    row(f"rows of an update, {given.rows} a GPU", lambda s: f"{s.rows_per_update:,}")
    row("updates in an epoch of MRPC", lambda s: f"{s.plan.updates_per_epoch}")
    row(
        f"updates in {given.epochs} epochs, of them warmup ({_percent(given.warmup)})",
        lambda s: f"{s.plan.max_steps}, {s.plan.warmup_steps}",
    )
    row("learning rate by the linear rule", lambda s: rate(given.learning_rate * s.gpus))
    row("by the square root rule", lambda s: rate(given.learning_rate * math.sqrt(s.gpus)))
    row("a micro-batch computes, ms", lambda s: f"{s.compute_ms:.1f}")
    row("a GPU sends of the gradients, MB", lambda s: f"{s.exchanged_bytes / 1e6:.0f}")
    for name, speed in (("NVLink", given.nvlink), ("PCIe", given.pcie), ("100 Gbit/s Ethernet", given.ethernet)):
        row(f"that takes over {name}, ms", lambda s, speed=speed: f"{s.exchange_ms(speed):.1f}")
    row("exchange of the stop request, ms", lambda s: f"{s.stop_ms:.1f}")
    row("share of the time computing; NVLink in a machine, Ethernet between", lambda s: _percent(s.efficiency(1)))
    row("PCIe in a machine, Ethernet between", lambda s: _percent(s.efficiency(1, over_pcie=True)))
    accumulation = given.accumulation
    row(f"NVLink, {accumulation} micro-batches an update", lambda s: _percent(s.efficiency(accumulation)))
    row(f"PCIe, {accumulation} micro-batches an update", lambda s: _percent(s.efficiency(accumulation, over_pcie=True)))
    row(
        f"10 million rows, {given.epochs} epochs, {given.accumulation} micro-batches, hours",
        lambda s: f"{s.hours(1e7, given.accumulation):.3g}",
    )
    row("rounds of evaluation of 408 rows", lambda s: f"{s.evaluation(408)[0]}")
    row("rows computed to fill the last", lambda s: f"{s.evaluation(408)[1]:,}")
    for batching in ("random", "length_grouped", "token_budget"):
        row(f"waiting, `{batching}`, MRPC", lambda s, b=batching: _share(s.waiting(b, 1)))
    for batching in ("random", "length_grouped", "token_budget"):
        row(f"the same, rows in plenty, `{batching}`", lambda s, b=batching: _share(s.waiting(b, s.enough_copies)))
    row("the slowest GPU takes longer by", lambda s: _percent(abs(s.slowest)))
    row("a failure every", lambda s: _duration(s.failure_seconds))
    row("so a save every", lambda s: _duration(s.save_interval))
    row("lost to saves and failures", lambda s: _percent(s.lost(s.save_interval), 2))
    row(
        "GPU hours waiting while 1 million rows are tokenized", lambda s: f"{s.gpus * 1e6 / given.tokenized / 3600:.2f}"
    )
    heads = [f"{gpus:,} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS]
    return _markdown(["", *heads], [[what, *cells] for what, cells in table])


def by_model(given: Assumptions) -> list[str]:
    lines = []
    for name, parameters in MODELS.items():
        saved = f"{save_seconds(name, given):.1f} s"
        sizes = [f"{size * parameters / 1e9:.2f} GB" for size in (20, 4, 12)]
        lines.append([name, f"{parameters / 1e6:,.1f} million", *sizes, saved])
    heads = ["model", "parameters", "on every GPU, 20 bytes each", "exchanged, 4", "a checkpoint, 12", "saved in"]
    return _markdown(heads, lines)


def facts(given: Assumptions, lengths: np.ndarray) -> dict[str, str]:
    """Return what the page's sentences say, as they say it."""
    one, eight, some, thousand = (Scale(gpus, given, lengths) for gpus in GPUS)
    usable = given.card * (1 - given.kept_for_activations)
    save, failure = save_seconds("bert-base", given), thousand.failure_seconds
    tokenizing, machines = 1e6 / given.tokenized, math.ceil(1000 / given.gpus_per_machine)
    weights = 4 * MODELS["bert-base"]
    return {
        "job": f"{one.plan.max_steps} × {one.compute_ms:.1f} ms = {one.compute_ms * one.plan.max_steps / 1e3:.1f} s",
        "batches": f"{one.plan.updates_per_epoch} batches",
        "at_512": f"{len(lengths)} / 512 = {len(lengths) / 512:.2f}",
        "updates": f"{some.plan.max_steps} updates, {some.plan.warmup_steps} of them warmup",
        "sqrt": f"√8 × {given.learning_rate:g} = {given.learning_rate * math.sqrt(8):.1e}".replace("e-0", "e-"),
        "gradients": f"4 × {MODELS['bert-base'] / 1e6:.1f} million = {4 * MODELS['bert-base'] / 1e6:.0f} MB",
        "ethernet": f"{some.exchange_ms(given.ethernet) / some.compute_ms:.0f} times what a micro-batch computes",
        "stop": f"{thousand.stop_ms / thousand.compute_ms:.0f} times as long as a micro-batch",
        "filled": f"{some.evaluation(408)[1]} of {some.evaluation(408)[1] + 408:,} rows",
        "walk": f"{10 / given.walked:.1f} s",
        "epoch": f"{thousand.hours(1e7, given.accumulation) / given.epochs * 3600:.0f} s",
        "largest": f"{usable:g} GB / 20 bytes = {usable / 20:.2f} billion",
        "saving": f"{save:.1f} s × 1,000 = {1000 * save / 3600:.1f} GPU hours",
        "rng": f"1,000 × {rng_bytes() / 1e3:.0f} kB = {rng_bytes() / 1e3:.0f} MB",
        "young": f"√(2 × {save:.1f} s × {failure / 3600:.1f} h) = {_duration(thousand.save_interval)}",
        "hourly": _percent(thousand.lost(3600), 1),
        "waits": f"{_share(eight.waiting('random', 1))} at 8 GPUs, {_share(some.waiting('random', 1))} at 64",
        "sorted": f"{_share(some.waiting('length_grouped', 1))} of the time",
        "tokenize": f"{tokenizing:.0f} s, {1000 * tokenizing / 3600:.0f} hours of GPUs",
        "weights": f"{machines} × {weights / 1e6:.0f} MB = {machines * weights / 1e9:.0f} GB",
    }


def _share(value: float | None) -> str:
    return "–" if value is None else _percent(value, 1)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 20 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _markdown(heads: list[str], lines: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for each in fields(Assumptions):
        told = f"{each.metadata['help']} ({each.default:g})"
        parser.add_argument(f"--{each.name}", type=type(each.default), default=each.default, help=told)
    given = Assumptions(**vars(parser.parse_args()))
    lengths = read_lengths()
    print("\n".join([*assumptions(given), "", *by_gpus(given, lengths), "", *by_model(given), ""]))
    for name, told in facts(given, lengths).items():
        print(f"{name}: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
