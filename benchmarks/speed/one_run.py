"""What throughput.py and large_model.py measure inside a process of its own:
python benchmarks/speed/one_run.py JOB.json RESULT.json

`loop`: a tiny model, whose arithmetic takes so little that what a loop adds to it shows. `matmul`: the machine's peak.
`cuda`: a BERT with random weights, on a GPU where there is one. `model`, `large`: a large one, and how much memory its
training takes. Each is one side of one run; nothing is compared here.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
import torch
from datasets import Dataset
from harness.models import tiny_bert
from harness.rows import tiny_rows, tiny_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
    set_seed,
)
from transformers.utils import logging

import ftloop.loop
from benchmarks.common import peak_bytes
from ftloop import TrainConfig, prepare, train
from ftloop.batching.padding import collator, padding_edges, row_lengths
from ftloop.compare.digests import digest_tensors
from ftloop.data.labels import Labels
from ftloop.loop import training_step
from ftloop.models.load import load_model
from ftloop.run.optim import create_optimizer
from ftloop.system.memory import keep_freed_memory

QUIET: dict[str, Any] = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 500,
    "report_to": "none",
    "disable_tqdm": True,
}
ROWS_PER_STEP = 8  # of the tiny model
WARM_UP = 30


def loop(side: str, steps: int) -> dict[str, Any]:
    """Milliseconds per step of a tiny BERT, the median of three passes. `bare`: forward, backward, clip, step and
    schedule over tensors that are there already; Trainer and ftloop also fetch and collate their rows, and log.
    """
    passes = [_one_pass(side, steps) for _ in range(3)]
    weights = {digest for _, digest in passes}
    assert len(weights) == 1, "the same pass, other weights"
    return {"ms_per_step": statistics.median(seconds for seconds, _ in passes) / steps * 1e3, "weights": weights.pop()}


def _one_pass(side: str, steps: int) -> tuple[float, str]:
    rows, tokenizer, model = tiny_rows(steps * ROWS_PER_STEP), tiny_tokenizer(), tiny_bert()
    collate = DataCollatorWithPadding(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        args = QUIET | {"output_dir": folder, "use_cpu": True, "per_device_train_batch_size": ROWS_PER_STEP}
        args |= {"num_train_epochs": 1, "learning_rate": 1e-3}
        if side == "bare":
            return _bare_loop(model, rows, collate, TrainConfig(**args), steps), _digest(model)
        if side == "ftloop":
            run = prepare(TrainConfig(**args), model, rows, processing_class=tokenizer)  # with its own collator
            started = time.perf_counter()
            train(run)
        else:
            given: dict[str, Any] = {"train_dataset": rows, "processing_class": tokenizer, "data_collator": collate}
            trainer = Trainer(model=model, args=TrainingArguments(**args), **given)
            started = time.perf_counter()
            trainer.train()
        return time.perf_counter() - started, _digest(model)


def _digest(model: Any) -> str:
    return digest_tensors(model.state_dict())


def _bare_loop(model: Any, rows: Any, collate: Any, config: TrainConfig, steps: int) -> float:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed)).tolist()
    batches = [collate([rows[i] for i in order[k : k + ROWS_PER_STEP]]) for k in range(0, len(order), ROWS_PER_STEP)]
    optimizer = create_optimizer(model.train(), config)
    scheduler = get_scheduler("linear", optimizer, 0, steps)
    parameters = list(model.parameters())
    set_seed(config.seed)
    torch.empty((), dtype=torch.int64).random_()  # which a DataLoader's iterator draws: the same dropout, the same bits
    started = time.perf_counter()
    for inputs in batches:
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def matmul(precision: str, seconds: float) -> dict[str, Any]:
    """FLOP/s of the best of a few shapes of product, those of the model's layers and a large square one."""
    cuda = torch.cuda.is_available()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    shapes = [(1024, 384, 1536), (1024, 1536, 384), (2048, 2048, 2048)]
    if cuda:
        shapes = [(4096, 768, 3072), (8192, 8192, 8192)]
    best: dict[str, float] = {}
    for m, k, n in shapes:
        a, b = (torch.randn(*shape, device="cuda" if cuda else "cpu").to(dtype) for shape in ((m, k), (k, n)))
        fastest, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            for _ in range(10):
                torch.mm(a, b)
            if cuda:
                torch.cuda.synchronize()
            fastest = min(fastest, (time.perf_counter() - started) / 10)
        best[f"{m}x{k}x{n}"] = 2 * m * k * n / fastest
    return {"flops": max(best.values()), "by_shape": best}


class _AfterWarmUp(TrainerCallback):
    """Compiled and warm: from here on updates are timed or, with `counts`, torch warns of whatever makes the host wait
    for the device. Not both at once: each warning takes time, and so the side that waits more would seem slower.
    """

    def __init__(self, updates: int, counts: bool) -> None:
        self.updates, self.counts, self.began = updates, counts, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.updates:
            _synchronize()
            if self.counts:
                torch.cuda.set_sync_debug_mode("warn")
            self.began = time.perf_counter()


FAST: dict[str, Any] = {"batching": "length_grouped", "torch_compile": True, "padding": "buckets:4"}
COUNTED = 30
"""Updates in which waits are counted."""


def cuda(
    side: str,
    precision: str,
    rows_per_step: int,
    lengths: list[int],
    steps: int,
    warm_up: int = WARM_UP,
    shape: dict[str, int] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A BERT with random weights and tokens, of real lengths; bert-base's by default. `settings` are ftloop's.
    `ftloop-fast`: batches of equal length, padded to a few lengths, compiled; the warm-up sees all of them, but where
    chance is against it. Without a GPU it runs on the CPU, and no waits are counted.
    """
    settings = (FAST if side == "ftloop-fast" else {}) | (settings or {})
    args = {"per_device_train_batch_size": rows_per_step, precision: True, "num_train_epochs": 1}
    model = {"shape": shape or {}, "lengths": lengths}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds, _, weights, peak = _updates(side, args, settings, steps, warm_up, False, **model)
    told = {"ms_per_step": seconds / (steps - warm_up) * 1e3, "peak_mb": peak / 1e6, "weights": weights}
    if torch.cuda.is_available():
        _, waits, _, _ = _updates(side, args, settings, warm_up + COUNTED, warm_up, True, **model)
        told["syncs_per_micro_batch"] = waits / COUNTED
    return told


def _updates(
    side: str,
    args: dict[str, Any],
    settings: dict[str, Any],
    steps: int,
    warm_up: int,
    counts: bool,
    shape: dict[str, int],
    lengths: list[int],
) -> tuple[float, int, str, int]:
    """Train so many steps. Returns: the seconds of those after the warm-up, the waits in them, a digest of the weights,
    and the most bytes that were held.
    """
    set_seed(42)
    model = BertForSequenceClassification(BertConfig(**shape))
    draw, tokenizer, rows_per_step = np.random.default_rng(0), tiny_tokenizer(), args["per_device_train_batch_size"]
    vocabulary = min(30_000, model.config.vocab_size)
    rows = Dataset.from_list(
        [
            {"input_ids": draw.integers(5, vocabulary, n).tolist(), "attention_mask": [1] * int(n), "label": int(n) % 2}
            for n in draw.choice(lengths, steps * rows_per_step)
        ]
    )
    timed = _AfterWarmUp(warm_up, counts)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=counts) as said:
        warnings.simplefilter("always" if counts else "ignore")
        args = QUIET | args | {"output_dir": folder, "use_cpu": not torch.cuda.is_available()}
        if torch.cuda.is_available():
            args |= {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2}
        job: Any
        if side == "trainer":
            job = Trainer(
                model=model,
                args=TrainingArguments(**args),
                train_dataset=rows,
                processing_class=tokenizer,
                data_collator=DataCollatorWithPadding(tokenizer),
                callbacks=[timed],
            )
            job.train()
        else:
            config = TrainConfig(**args, **settings)
            edges = padding_edges(config, 512, row_lengths(rows))
            job = prepare(config, model, rows, data_collator=collator(tokenizer, edges), padding_edges=edges)

            def step(*given: Any) -> Any:
                timed.on_step_begin(None, job.state, None)
                return training_step(*given)

            train(job, step)
        if counts:
            torch.cuda.set_sync_debug_mode("default")
        _synchronize()
        seconds = time.perf_counter() - timed.began
        waits = sum("called a synchronizing" in str(warning.message) for warning in said or [])
    return seconds, waits, _digest(model), peak_bytes(job)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_model(shape: dict[str, int], folder: str) -> dict[str, Any]:
    """A BERT of that shape with random weights, for `large` to load."""
    set_seed(42)
    model = BertForSequenceClassification(BertConfig(**shape))
    model.save_pretrained(folder)
    return {"parameters": model.num_parameters()}


def large(
    side: str, folder: str, settings: dict[str, Any], rows_per_update: int, length: int, updates: int
) -> dict[str, Any]:
    """Measure the memory that training takes, of rows that are all `length` tokens long; how much of it was taken when
    training began, and how much before there was a model.

    The model is loaded from its folder, as each side does it. `ftloop`: the allocator set as the command sets it;
    `ftloop-plain`: left as it is.
    """
    if side == "ftloop":
        keep_freed_memory()
    set_seed(42)
    draw, tokenizer = np.random.default_rng(0), tiny_tokenizer()
    tokens = draw.integers(5, tokenizer.vocab_size, (updates * rows_per_update, length)).tolist()
    mask = [1] * length
    rows = Dataset.from_list([{"input_ids": row, "attention_mask": mask, "label": row[0] % 2} for row in tokens])
    libraries = _resident_bytes()
    if side == "trainer":
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    else:
        model, _ = load_model(folder, Labels(("0", "1"), {"0": 0, "1": 1}))
    with tempfile.TemporaryDirectory() as output_dir:
        args = QUIET | {"output_dir": output_dir, "use_cpu": not torch.cuda.is_available(), "num_train_epochs": 1}
        args |= {"per_device_train_batch_size": rows_per_update} | settings
        given: dict[str, Any] = {"train_dataset": rows, "processing_class": tokenizer}
        if side == "trainer":
            # Else the same: both sides pad, and neither has anything to pad.
            job: Any = Trainer(
                model=model, args=TrainingArguments(**args), data_collator=DataCollatorWithPadding(tokenizer), **given
            )
            saving, begin = _timed(job, "_save_checkpoint"), job.train
        else:
            job = prepare(TrainConfig(**args), model, **given)
            saving, begin = _timed(ftloop.loop, "save_checkpoint"), lambda: train(job)
        loaded = peak_bytes(job)
        started = time.perf_counter()
        begin()
        seconds = time.perf_counter() - started - sum(saving)
        peak = peak_bytes(job)
    return {
        "peak_mb": peak / 1e6,
        "loaded_mb": loaded / 1e6,
        "libraries_mb": libraries / 1e6,
        "seconds_per_update": seconds / updates,
        "save_seconds": sum(saving),
        "weights": _digest(model),
    }


def _timed(owner: Any, name: str) -> list[float]:
    """The seconds of each call of a function from now on."""
    function, seconds = getattr(owner, name), []

    def timed(*given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds.append(time.perf_counter() - started)

    setattr(owner, name, timed)
    return seconds


def _resident_bytes() -> int:
    """Return the bytes held now; on a GPU, of its memory. 0 where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    if sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit()
    logging.set_verbosity_error()
    job = json.loads(Path(sys.argv[1]).read_text())
    kinds = {"loop": loop, "matmul": matmul, "cuda": cuda, "model": write_model, "large": large}
    kind = kinds[job.pop("kind")]
    Path(sys.argv[2]).write_text(json.dumps(kind(**job)))
