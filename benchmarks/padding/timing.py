"""Time sampled steps of each strategy, in turn, and measure the memory that its largest batch takes."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.common import peak_bytes
from benchmarks.padding.rows import Data, made_rows
from benchmarks.padding.strategies import Strategy, largest_batch
from ftloop.batching.padding import collator
from ftloop.config.train_config import TrainConfig
from ftloop.data.labels import Labels
from ftloop.loop import training_step
from ftloop.models.load import load_model, load_shape
from ftloop.run.accelerator import make_accelerator
from ftloop.run.micro_batches import MicroBatch
from ftloop.run.prepare import prepare, seed_everything

MEASURE = str(Path(__file__).with_name("measure.py"))


def prepared(config: TrainConfig, data: Data | None, rows: Any) -> Any:
    """An ftloop run, ready to train on these rows. Without `data`, whose tokenizer pads, they are equally long."""
    accelerator = make_accelerator(config)
    seed_everything(config)
    labels = data.labels if data is not None else Labels(("0", "1"), {"0": 0, "1": 1})
    model, _ = load_model(config.model_name_or_path or "", labels)
    tokenizer = data.tokenizer if data is not None else None
    # Which rows meet and what they are padded to has been settled before: batches are made by hand here.
    padding = "none" if config.padding == "none" else "longest"
    config = replace(config, batching="random", max_tokens_per_batch=None, padding=padding, pad_to_max_length=False)
    return prepare(config, model, rows, processing_class=tokenizer, accelerator=accelerator)


def one_update(run: Any, inputs: Any) -> None:
    training_step(run, MicroBatch(inputs, 0, 1.0, None, True))
    run.accelerator.clip_grad_norm_(run.model.parameters(), run.config.max_grad_norm)
    run.optimizer.step()
    run.model.zero_grad()


def synchronize(run: Any) -> None:
    if run.accelerator.device.type == "cuda":
        torch.cuda.synchronize()


def collated(run: Any, strategy: Strategy, batch: int, data: Data) -> Any:
    """A batch of the epoch, as ftloop's collator makes it, on the run's device."""
    examples = [
        {name: v[: strategy.max_length] if isinstance(v, list) else v for name, v in data.dataset[int(row)].items()}
        for row in strategy.batches.rows_of(batch)
    ]
    inputs = collator(data.tokenizer, strategy.batches.edges)(examples)
    taken = inspect.signature(run.unwrapped_model.forward).parameters
    return {name: value.to(run.accelerator.device) for name, value in inputs.items() if name in taken}


def measure(run: Any, chosen: list[Strategy], data: Data, unpadded: Any = None) -> None:
    """Time the sampled steps, the strategies in turn, and fill in `seconds` and `waited`. `unpadded`: the run that
    computes no padding.
    """
    processes, rank = run.accelerator.num_processes, run.accelerator.process_index

    def batch_of(strategy: Strategy, step: int) -> Any:
        return collated(run, strategy, int(step) * processes + rank, data)

    def run_of(strategy: Strategy) -> Any:
        return unpadded if strategy.config.padding == "none" else run

    for strategy in chosen:
        strategy.seconds = np.zeros(strategy.sample.steps.shape)
        strategy.waited = np.zeros(strategy.sample.steps.shape)
        one_update(run_of(strategy), batch_of(strategy, strategy.sample.steps[-1, -1]))  # largest; not counted
    draw = np.random.default_rng(0)
    passes, parts = np.max([strategy.sample.steps.shape for strategy in chosen], axis=0)
    for k in range(passes):
        # Not by size, so that the machine's slow moments do not hit the large ones alone.
        orders = [draw.permutation(strategy.sample.steps.shape[1]) for strategy in chosen]
        for turn in range(parts):
            for strategy, order in zip(chosen, orders, strict=True):
                if turn >= len(order):
                    continue
                place = k, order[turn]
                inputs = batch_of(strategy, strategy.sample.steps[place])
                strategy.seconds[place] = _seconds(run_of(strategy), inputs)
                if processes > 1:
                    strategy.waited[place] = _wait(run_of(strategy), inputs)
        if run.is_main:
            print(f"pass {k + 1} of {passes} timed", file=sys.stderr, flush=True)
    if processes > 1:
        for strategy in chosen:  # a step takes as long as it does where it is slowest
            strategy.seconds = _over_processes(strategy.seconds).max(axis=0)
            strategy.waited = _over_processes(strategy.waited).mean(axis=0)


def _seconds(run: Any, inputs: Any) -> float:
    _together(run)
    started = time.perf_counter()
    one_update(run, inputs)
    synchronize(run)
    return time.perf_counter() - started


def _wait(run: Any, inputs: Any) -> float:
    _together(run)
    with run.accelerator.no_sync(run.model):
        training_step(run, MicroBatch(inputs, 0, 1.0, None, True))
    synchronize(run)
    done = time.perf_counter()
    _together(run)
    waited = time.perf_counter() - done
    run.model.zero_grad()
    return waited


def _together(run: Any) -> None:
    synchronize(run)
    if run.accelerator.num_processes > 1:
        dist.barrier()
        synchronize(run)


def _over_processes(values: np.ndarray) -> np.ndarray:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, values)
    return np.stack(gathered)


def peak_memory(strategy: Strategy, words: list[str]) -> None:
    """Fill in `peak_bytes`, from a process of its own that makes updates with a batch of that size."""
    rows, tokens = largest_batch(strategy.batches)
    of_launcher = ("RANK", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC", "LOCAL_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(of_launcher)}
    words = [*words, "--padding", "none"] if strategy.config.padding == "none" else words
    done = subprocess.run(
        [sys.executable, MEASURE, *words, "--peak_of", f"{rows}x{tokens}"], env=env, capture_output=True, text=True
    )
    if done.returncode:
        print(f"{strategy.name}: peak memory not measured: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    strategy.peak_bytes, strategy.bytes_before = found["peak"], found["before"]


def report_peak(config: TrainConfig, size: str) -> None:
    rows, tokens = map(int, size.split("x"))
    vocabulary = load_shape(config.model_name_or_path or "").config.vocab_size
    config = replace(config, per_device_train_batch_size=rows)
    run = prepared(config, None, made_rows(np.full(rows, tokens), vocabulary, 0))
    inputs = next(iter(run.train_loader))
    before = peak_bytes(run)
    for _ in range(2):
        one_update(run, inputs)
    print(json.dumps({"before": before, "peak": peak_bytes(run)}))
