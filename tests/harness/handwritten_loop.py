"""A training loop as somebody else might write it, on Accelerate, recorded by three calls.

Without a fault it makes Trainer's run, bit for bit. With one, or several joined by ` + `, it makes the mistakes of that
name: those of which `ftloop.compare.causes` knows the traces.
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

from ftloop.compare import Recorder, replay

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
    replayed: Path | None = None,
) -> None:
    """`eval_steps` None evaluates at the end of each epoch, 0 never. `resume` is a checkpoint of update `resume_at`;
    `replayed` a recording whose rows are dealt.
    """
    faults = set(fault.split(" + "))
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=True,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler="plain shuffle" not in faults, data_seed=42),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters="no search for unused" not in faults)],
    )
    seed = 43 if "other seed" in faults else 42
    set_seed(seed)
    model: Any = job.model()
    if "another head" in faults:
        torch.nn.init.normal_(model.classifier.weight, std=0.02)
    if "no reseed" not in faults:
        set_seed(seed, device_specific="device specific seeds" in faults)
    processes = accelerator.num_processes
    train_rows, eval_rows = job.data()
    if "other labels" in faults:
        train_rows = train_rows.map(lambda row: {"label": 1 - row["label"]})
    options: dict[str, Any] = {"batch_size": 4, "collate_fn": Padding(faults)}
    options |= {"num_workers": workers, "persistent_workers": "persistent workers" in faults}
    options |= {"drop_last": "drop last" in faults}
    if "rows dealt singly" in faults:
        order = torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(seed))  # of the first epoch
        shuffled = train_rows.select(order.tolist())
        loader: Any = DataLoader(shuffled, sampler=DistributedSampler(shuffled, shuffle=False), **options)
    elif replayed is not None:
        rows = replay(replayed, train_rows, options["collate_fn"])
        loader = accelerator.prepare(DataLoader(train_rows, batch_sampler=rows, collate_fn=options["collate_fn"]))
    else:
        loader = accelerator.prepare(DataLoader(train_rows, shuffle="no shuffle" not in faults, **options))
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], NO_DECAY))
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": 0.01},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.01 * ("decay on everything" in faults)},
    ]
    eps = 1e-6 if "another epsilon" in faults else 1e-8
    plain = AdamW(groups, lr=learning_rate, eps=eps, fused=None if "unfused" in faults else True)
    model, optimizer = (model, plain) if "no DDP" in faults else accelerator.prepare(model, plain)
    per_epoch = -(-len(train_rows) // (4 * accelerator.num_processes * accumulation))
    total = per_epoch * epochs
    scheduler: Any = get_scheduler("linear", optimizer, num_warmup_steps=warmup, num_training_steps=total)
    if "prepared scheduler" in faults:
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
    if "evaluates first" in faults:
        _evaluate(accelerator, model, eval_rows, faults, True)
    accepts = getattr(accelerator.unwrap_model(model), "accepts_loss_kwargs", True)
    model.zero_grad()
    carried: list[Rows] = []
    for epoch in range(step // per_epoch, epochs):
        batches = loader
        skipped = (step - epoch * per_epoch) * accumulation
        if skipped > 0 and "rows not skipped" not in faults:
            batches = skip_first_batches(loader, skipped)
        if "no set_epoch" not in faults and hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        if "peeks at the loader" in faults and epoch > 0:
            next(iter(DataLoader(train_rows, **options)))
        if rng is not None and "random state before the iterator" in faults:
            torch.set_rng_state(rng)
        for window in _windows(batches, accumulation, faults, carried):
            if rng is not None and not faults & {"random state before the iterator", "random state forgotten"}:
                torch.set_rng_state(rng)
            rng = None
            for i, inputs in enumerate(window):
                is_last = i == len(window) - 1
                divisor = 1.0
                if any(each.startswith("divides by accumulation") for each in faults) or not accepts:
                    divisor = accumulation if faults & {"divides by accumulation", "fixed divisor"} else len(window)
                left = any(each.endswith("leaves the mean") and not each.startswith("evaluation") for each in faults)
                factor = processes if accepts and not left else 1
                sync = contextlib.nullcontext() if is_last or "no no_sync" in faults else accelerator.no_sync(model)
                with sync:
                    recorder.before_forward(inputs)
                    if "never back to training mode" not in faults or step == 0:
                        model.train()
                    loss = model(**inputs).loss * factor / divisor
                    loss.backward()
                    recorder.after_backward(loss)
                if "nan" in faults and step == 1:
                    loss = loss * float("nan")
                window_loss += loss.item()
                total_loss += loss.detach()
                if "scheduler per micro-batch" in faults and not is_last:
                    scheduler.step()
            limit = float("inf") if "no clipping" in faults else 0.5 if "another max_grad_norm" in faults else 1.0
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), limit)
            if "scheduler first" in faults:
                scheduler.step()
            if "zero_grad first" in faults:
                model.zero_grad()
            optimizer.step()
            rate = scheduler.get_last_lr()[0]
            if "scheduler first" not in faults:
                scheduler.step()
            if "learning rate logged late" in faults:
                rate = scheduler.get_last_lr()[0]
            if "norm logged late" in faults:
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                grad_norm = torch.nn.utils.get_total_norm(grads)
            if "no zero_grad" not in faults:
                model.zero_grad()
            step += 1
            if step % logging_steps == 0:
                mean = accelerator.gather(total_loss).mean().item() / (step - last_logged)
                if "losses added in Python" in faults:
                    mean = window_loss / (step - last_logged)
                if "loss rounded" in faults:
                    mean = round(mean, 4)
                if "last loss logged" in faults:
                    mean = loss.item()
                recorder.log({"loss": mean, "learning_rate": rate, "grad_norm": float(grad_norm)})
                total_loss -= total_loss
                window_loss, last_logged = 0.0, step
            if eval_steps and (step % eval_steps == 0 or (step == total and "no final evaluation" not in faults)):
                recorder.log(_evaluate(accelerator, model, eval_rows, faults, accepts))
        if eval_steps is None:
            recorder.log(_evaluate(accelerator, model, eval_rows, faults, accepts))
    recorder.close()


def _windows(batches: Any, accumulation: int, faults: set[str], carried: list[Rows]) -> Iterator[list[Rows]]:
    """The micro-batches of each update; never read past the end, as Trainer."""
    iterator, left = iter(batches), len(batches)
    if "steps after the first micro-batch" in faults:
        yield [next(iterator)]
        left -= 1
    window = carried[:]
    joined = len(carried) if "last window joins the next" in faults else 0
    carried.clear()
    while left:
        window.append(next(iterator))
        left -= 1
        is_whole = len(window) == accumulation + joined
        if is_whole or (left == 0 and not any(each.startswith("last window") for each in faults)):
            yield window
            window, joined = [], 0
    if faults & {"last window carried on", "last window joins the next"}:
        carried += window


def _evaluate(accelerator: Accelerator, model: Any, rows: Any, faults: set[str], accepts: bool) -> dict[str, float]:
    """Trainer's: a new loader, batch losses repeated for their rows, the float32 mean."""
    if "evaluation without an iterator" in faults:
        loader: Any = [pad(list(rows)[start : start + 4]) for start in range(0, len(rows), 4)]
    else:
        loader = accelerator.prepare(DataLoader(rows, batch_size=4, collate_fn=pad))
    inner = accelerator.unwrap_model(model)
    inner.eval()
    losses, correct, count = [], 0, 0
    factor = accelerator.num_processes if accepts and not any("leaves the mean" in each for each in faults) else 1
    for inputs in loader:
        with torch.no_grad():
            outputs = inner(**inputs)
        loss, hits = (outputs.loss * factor).repeat(4), (outputs.logits.argmax(-1) == inputs["labels"]).long()
        if not isinstance(loader, list):
            loss, hits = accelerator.gather_for_metrics((loss, hits))
        losses.append(loss[: len(hits)].numpy())
        correct, count = correct + int(hits.sum()), count + len(hits)
    mean = float(np.concatenate(losses).mean())
    if "mean of batch means" in faults:
        mean = float(np.mean([each.mean() for each in losses]))
    return {"eval_loss": mean, "eval_accuracy": correct / count}


class Padding:
    """To the longest row of the batch, on the right; or otherwise."""

    def __init__(self, faults: set[str]) -> None:
        self.faults = faults

    def __call__(self, examples: list[dict[str, Any]]) -> Rows:
        batch = pad(examples)
        width = batch["input_ids"].shape[1]
        wider = 24 if "global padding" in self.faults else width
        if "padding to a multiple" in self.faults:
            wider = -(-wider // 8) * 8
        batch = {n: v if v.ndim == 1 else torch.nn.functional.pad(v, (0, wider - width)) for n, v in batch.items()}
        if "padding on the left" in self.faults:
            shifts = (wider - batch["attention_mask"].sum(1)).tolist()
            for name, value in batch.items():
                if value.ndim > 1:
                    batch[name] = torch.stack([row.roll(shift) for row, shift in zip(value, shifts, strict=True)])
        return batch
