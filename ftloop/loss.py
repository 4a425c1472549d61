"""The loss of one micro-batch, and by what it is divided so that every row of an update counts once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_pt_utils import LabelSmoother

from ftloop.errors import UserError
from ftloop.run import Inputs, Run
from ftloop.weights import weighted_loss


def forward(run: Run, model: Any, inputs: Inputs, num_items: Tensor | None = None) -> tuple[Tensor, Any]:
    """Loss of a batch, a scalar, the mean over its rows; and the model's outputs.

    With `class_weights` a row's loss is multiplied by the weight of its class, in `eval_loss` too, which so can be held
    against the training's, as with label smoothing.
    `num_items` is given only with trainer_compat: the labels of the whole update over all processes, which Trainer
    hands to models that accept loss kwargs, before it multiplies their loss by the number of processes.
    Mirrors: Trainer.compute_loss.
    """
    inputs = dict(inputs)
    smoothing = run.config.label_smoothing_factor
    weights = run.class_weights
    labels = inputs.pop("labels", None) if smoothing or weights is not None else None
    if num_items is not None:
        inputs["num_items_in_batch"] = num_items
    outputs = model(**inputs)
    if labels is not None and weights is not None:
        loss = weighted_loss(outputs["logits"] if isinstance(outputs, dict) else outputs[0], labels, weights, smoothing)
    elif labels is not None:
        loss = LabelSmoother(smoothing)(outputs, labels, num_items_in_batch=num_items)
    elif isinstance(outputs, dict) and "loss" not in outputs:
        raise UserError(f"the model gave no loss, only {', '.join(outputs)}, from {', '.join(inputs)}: labels missing?")
    else:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
    if num_items is not None and run.config.average_tokens_across_devices:
        loss = loss * run.accelerator.num_processes
    return loss, outputs


def count_items(run: Run, batch_samples: list[Inputs]) -> Tensor | None:
    """Labels of an update over all processes; None unless trainer_compat and the model accepts loss kwargs.

    Mirrors: Trainer._get_num_items_in_batch.
    """
    if not (run.config.trainer_compat and run.accepts_loss_kwargs and "labels" in batch_samples[0]):
        return None
    count = sum((inputs["labels"] != -100).sum() for inputs in batch_samples)
    assert isinstance(count, Tensor)
    if run.config.average_tokens_across_devices and run.accelerator.num_processes > 1:
        count = run.accelerator.gather(count.to(run.accelerator.device)).sum()
    return count.to(run.accelerator.device, torch.float32)


def loss_divisor(run: Run, rows: int, rows_in_window: int, window_size: int, num_items: Tensor | None) -> float:
    """By what the mean loss of a micro-batch of `rows` rows is divided before its backward pass.

    The gradients of an update are summed over its micro-batches and averaged over W processes, so a row counts
    1 / `rows_in_window` when its micro-batch's mean is weighted by rows * W / rows_in_window. With equal micro-batches
    the divisor is exactly their number. Class weights change nothing in that: a weighted row's loss is a row's loss.

    Differs: with trainer_compat, as Trainer: nothing where the model accepts loss kwargs (so k micro-batches give k
    times the loss), else the number of micro-batches whatever their rows.
    """
    if run.config.trainer_compat:
        return 1.0 if num_items is not None else float(window_size)
    return rows_in_window / (rows * run.accelerator.num_processes) if rows else math.inf
