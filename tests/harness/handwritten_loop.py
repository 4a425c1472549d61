"""A training loop as somebody else might write it, on Accelerate, recorded by three calls.

Without a fault it makes Trainer's run, bit for bit. With one it makes the mistake of that name: those of which
`ftloop.compare.causes` knows the traces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs, skip_first_batches
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from harness.rows import pad
from harness.side_by_side import Job
from safetensors.torch import load_file
from torch.optim import AdamW
from torch.utils.data import DataLoader, DistributedSampler
from transformers import get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

from ftloop.compare.recorder import Recorder

Rows = dict[str, torch.Tensor]
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def handwritten_loop(
    job: Job,
    file: Path,
    fault: str = "",
    *,
    accumulation: int = 1,
    learning_rate: float = 1e-3,
    warmup: int = 0,
    epochs: int = 2,
    logging_steps: int = 1,
    eval_steps: int | None = None,
    resume: Path | None = None,
    resume_at: int = 0,
    workers: int = 0,
    full: bool = False,
) -> None:
    """`eval_steps` None evaluates at the end of each epoch, 0 never. `resume` is a checkpoint of update `resume_at`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=True,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=fault != "plain shuffle", data_seed=42),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=fault != "no search for unused")],
    )
    seed = 43 if fault == "other seed" else 42
    set_seed(seed)
    model: Any = job.model()
    if fault == "another head":
        torch.nn.init.normal_(model.classifier.weight, std=0.02)
    if fault != "no reseed":
        set_seed(seed, device_specific=fault == "device specific seeds")
    processes = accelerator.num_processes
    train_rows, eval_rows = job.data()
    if fault == "other labels":
        train_rows = train_rows.map(lambda row: {"label": 1 - row["label"]})
    options: dict[str, Any] = {"batch_size": 4, "collate_fn": Padding(fault)}
    options |= {"num_workers": workers, "persistent_workers": fault == "persistent workers"}
    options |= {"drop_last": fault == "drop last"}
    if fault == "rows dealt singly":
        order = torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(seed))  # of the first epoch
        shuffled = train_rows.select(order.tolist())
        loader: Any = DataLoader(shuffled, sampler=DistributedSampler(shuffled, shuffle=False), **options)
    else:
        loader = accelerator.prepare(DataLoader(train_rows, shuffle=fault != "no shuffle", **options))
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], NO_DECAY))
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": 0.01},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.01 * (fault == "decay on everything")},
    ]
    eps = 1e-6 if fault == "another epsilon" else 1e-8
    plain = AdamW(groups, lr=learning_rate, eps=eps, fused=None if fault == "unfused" else True)
    model, optimizer = (model, plain) if fault == "no DDP" else accelerator.prepare(model, plain)
    per_epoch = -(-len(train_rows) // (4 * accelerator.num_processes * accumulation))
    total = per_epoch * epochs
    scheduler: Any = get_scheduler("linear", optimizer, num_warmup_steps=warmup, num_training_steps=total)
    if fault == "prepared scheduler":
        scheduler = accelerator.prepare(scheduler)
    rng = None
    if resume is not None:
        accelerator.unwrap_model(model).load_state_dict(load_file(resume / "model.safetensors"))
        optimizer.load_state_dict(torch.load(resume / "optimizer.pt"))
        scheduler.load_state_dict(torch.load(resume / "scheduler.pt"))
        rng = torch.load(resume / "rng_state.pth", weights_only=False)["cpu"]

    step, window_loss, last_logged = resume_at, 0.0, resume_at
    total_loss = torch.tensor(0.0)
    recorder = Recorder(file, model, optimizer, full=full, global_step=step)
    if fault == "evaluates first":
        _evaluate(accelerator, model, eval_rows, fault, True)
    accepts = getattr(accelerator.unwrap_model(model), "accepts_loss_kwargs", True)
    model.zero_grad()
    carried: list[Rows] = []
    for epoch in range(step // per_epoch, epochs):
        batches = loader
        skipped = (step - epoch * per_epoch) * accumulation
        if skipped > 0 and fault != "rows not skipped":
            batches = skip_first_batches(loader, skipped)
        if fault != "no set_epoch" and hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        if fault == "peeks at the loader" and epoch > 0:
            next(iter(DataLoader(train_rows, **options)))
        if rng is not None and fault == "random state before the iterator":
            torch.set_rng_state(rng)
        for window in _windows(batches, accumulation, fault, carried):
            if rng is not None and fault not in ("random state before the iterator", "random state forgotten"):
                torch.set_rng_state(rng)
            rng = None
            for i, inputs in enumerate(window):
                is_last = i == len(window) - 1
                divisor = 1.0
                if "divides by accumulation" in fault or not accepts:
                    divisor = accumulation if fault in ("divides by accumulation", "fixed divisor") else len(window)
                left = fault.endswith("leaves the mean") and not fault.startswith("evaluation")
                factor = processes if accepts and not left else 1
                sync = contextlib.nullcontext() if is_last or fault == "no no_sync" else accelerator.no_sync(model)
                with sync:
                    recorder.before_forward(inputs)
                    if fault != "never back to training mode" or step == 0:
                        model.train()
                    loss = model(**inputs).loss * factor / divisor
                    loss.backward()
                    recorder.after_backward(loss)
                if fault == "nan" and step == 1:
                    loss = loss * float("nan")
                window_loss += loss.item()
                total_loss += loss.detach()
                if fault == "scheduler per micro-batch" and not is_last:
                    scheduler.step()
            limit = float("inf") if fault == "no clipping" else 0.5 if fault == "another max_grad_norm" else 1.0
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), limit)
            if fault == "scheduler first":
                scheduler.step()
            if fault == "zero_grad first":
                model.zero_grad()
            optimizer.step()
            rate = scheduler.get_last_lr()[0]
            if fault != "scheduler first":
                scheduler.step()
            if fault == "learning rate logged late":
                rate = scheduler.get_last_lr()[0]
            if fault == "norm logged late":
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                grad_norm = torch.nn.utils.get_total_norm(grads)
            if fault != "no zero_grad":
                model.zero_grad()
            step += 1
            if step % logging_steps == 0:
                mean = accelerator.gather(total_loss).mean().item() / (step - last_logged)
                if fault == "losses added in Python":
                    mean = window_loss / (step - last_logged)
                if fault == "last loss logged":
                    mean = loss.item()
                recorder.log({"loss": mean, "learning_rate": rate, "grad_norm": float(grad_norm)})
                total_loss -= total_loss
                window_loss, last_logged = 0.0, step
            if eval_steps and (step % eval_steps == 0 or (step == total and fault != "no final evaluation")):
                recorder.log(_evaluate(accelerator, model, eval_rows, fault, accepts))
        if eval_steps is None:
            recorder.log(_evaluate(accelerator, model, eval_rows, fault, accepts))
    recorder.close()


def _windows(batches: Any, accumulation: int, fault: str, carried: list[Rows]) -> Iterator[list[Rows]]:
    """The micro-batches of each update; never read past the end, as Trainer."""
    iterator, left = iter(batches), len(batches)
    if fault == "steps after the first micro-batch":
        yield [next(iterator)]
        left -= 1
    window = carried[:]
    carried.clear()
    while left:
        window.append(next(iterator))
        left -= 1
        if len(window) == accumulation or (left == 0 and not fault.startswith("last window")):
            yield window
            window = []
    if fault == "last window carried on":
        carried += window


def _evaluate(accelerator: Accelerator, model: Any, rows: Any, fault: str, accepts: bool) -> dict[str, float]:
    """Trainer's: a new loader, batch losses repeated for their rows, the float32 mean."""
    if fault == "evaluation without an iterator":
        loader: Any = [pad(list(rows)[start : start + 4]) for start in range(0, len(rows), 4)]
    else:
        loader = accelerator.prepare(DataLoader(rows, batch_size=4, collate_fn=pad))
    inner = accelerator.unwrap_model(model)
    inner.eval()
    losses, correct, count = [], 0, 0
    factor = accelerator.num_processes if accepts and "leaves the mean" not in fault else 1
    for inputs in loader:
        with torch.no_grad():
            outputs = inner(**inputs)
        loss, hits = (outputs.loss * factor).repeat(4), (outputs.logits.argmax(-1) == inputs["labels"]).long()
        if not isinstance(loader, list):
            loss, hits = accelerator.gather_for_metrics((loss, hits))
        losses.append(loss[: len(hits)].numpy())
        correct, count = correct + int(hits.sum()), count + len(hits)
    mean = float(np.concatenate(losses).mean())
    if fault == "mean of batch means":
        mean = float(np.mean([each.mean() for each in losses]))
    return {"eval_loss": mean, "eval_accuracy": correct / count}


class Padding:
    """To the longest row of the batch, on the right; or otherwise."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __call__(self, examples: list[dict[str, Any]]) -> Rows:
        batch = pad(examples)
        width = batch["input_ids"].shape[1]
        wider = {"global padding": 24, "padding to a multiple": -(-width // 8) * 8}.get(self.fault, width)
        batch = {n: v if v.ndim == 1 else torch.nn.functional.pad(v, (0, wider - width)) for n, v in batch.items()}
        if self.fault == "padding on the left":
            shifts = (wider - batch["attention_mask"].sum(1)).tolist()
            for name, value in batch.items():
                if value.ndim > 1:
                    batch[name] = torch.stack([row.roll(shift) for row, shift in zip(value, shifts, strict=True)])
        return batch
