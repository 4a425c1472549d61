"""The loss of one batch, the mean over its rows; `run/trainer_compat.py` decides what it is divided by in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F
from transformers.trainer_pt_utils import LabelSmoother

from ftloop.errors import UserError

IGNORED = -100  # as a label, by torch's cross entropy

if TYPE_CHECKING:
    from ftloop.run.micro_batches import Inputs
    from ftloop.run.run import EvaluationRun


def forward(run: EvaluationRun, model: Any, inputs: Inputs, num_items: Tensor | None = None) -> tuple[Tensor, Any]:
    """Run the model on a batch. Returns: its loss, a scalar, the mean over its rows; and the model's outputs.

    Raises: UserError where nothing gives a loss.
    """
    loss, outputs = forward_without_loss(run, model, inputs, num_items)
    if loss is None:
        given = ", ".join(outputs) if isinstance(outputs, dict) else "logits"
        way = "labels are missing, which rows hold in their column label, labels or label_ids"
        if "labels" in inputs:
            way = "give prepare compute_loss_func, or train with a step of your own"
        raise UserError(f"the model gave no loss, only {given}, from {', '.join(inputs)}: {way}")
    return loss, outputs


def forward_without_loss(
    run: EvaluationRun, model: Any, inputs: Inputs, num_items: Tensor | None = None
) -> tuple[Tensor | None, Any]:
    """Do what `forward` does, but return None for a loss that nothing gives.

    With `class_weights` a row's loss is multiplied by the weight of its class. The same weights apply to `eval_loss`,
    so the two losses are comparable, as with label smoothing and with a loss of the user's own.
    `num_items` is given only with trainer_compat: the labels of the whole update over all processes, which Trainer
    hands to models that accept loss kwargs, before it multiplies their loss by the number of processes. Else a loss of
    the user's own gets the labels of this batch, and so is the batch's mean whether it divides by them or takes a mean.
    Mirrors: Trainer.compute_loss.
    """
    inputs = dict(inputs)
    labels = None if run.model_gives_loss else inputs.pop("labels", None)
    weights, smoothing = run.class_weights, run.config.label_smoothing_factor
    if num_items is not None and run.accepts_loss_kwargs:
        inputs["num_items_in_batch"] = num_items
    outputs = model(**inputs)
    loss: Tensor | None
    if run.compute_loss_func is not None:
        count = (labels != IGNORED).sum().float() if num_items is None and labels is not None else num_items
        loss = _checked(run.compute_loss_func(outputs, labels, num_items_in_batch=count))
    elif labels is not None and weights is not None:
        loss = weighted_loss(logits_of(outputs), labels, weights, smoothing)
    elif labels is not None and smoothing:
        loss = LabelSmoother(smoothing)({"logits": logits_of(outputs)}, labels, num_items_in_batch=num_items)
    else:
        loss = given_loss(outputs)
    if loss is not None and num_items is not None and run.config.average_tokens_across_devices:
        loss = loss * run.accelerator.num_processes
    return loss, outputs


def given_loss(outputs: Any) -> Tensor | None:
    """The loss among a model's outputs; None where they are logits, alone or before others."""
    if isinstance(outputs, dict):
        return outputs.get("loss")
    first = outputs if isinstance(outputs, Tensor) else outputs[0]
    is_loss = first.ndim == 0 or (first.ndim == 1 and first is not outputs and len(outputs) > 1)
    return first if is_loss else None


def logits_of(outputs: Any, after_loss: bool = False) -> Tensor:
    """The logits alone: everything else a model returns (hidden states, ...) is dropped."""
    logits = outputs
    if isinstance(outputs, dict):
        logits = outputs.get("logits")
    elif isinstance(outputs, (tuple, list)):
        logits = outputs[after_loss] if len(outputs) > after_loss else None
    if not isinstance(logits, Tensor) or not logits.ndim:
        given = ", ".join(outputs) if isinstance(outputs, dict) else "a loss alone"
        raise UserError(f"the model gives no logits, only {given}")
    return logits


def _checked(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise UserError(
            f"compute_loss_func: gave {what}; it has to give the mean over the rows, as a tensor of one number"
        )
    return loss.reshape(())


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """The loss of each row times the weight of its class, summed, and divided by the number of rows.

    Divided by rows, not by the sum of their weights as `CrossEntropyLoss(weight)` does: then a row counts the same
    whichever rows it meets, so that k micro-batches of b are one batch of k * b, on any number of processes and however
    memory splits it; a batch of a single class is weighted too; and over an epoch the mean is that of the weighted
    training set. A smoothed loss is weighted as a whole. With several labels a row (`labels` as wide as `logits`), each
    weight is that of the label where the row has it.
    """
    logits = logits.float()
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights)
    labels = labels.view(-1)
    per_row = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    loss: Tensor = (per_row * weights[labels]).mean()
    return loss
