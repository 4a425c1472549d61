"""evaluate() and predict(): every row exactly once, in the data set's order, on any number of processes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalPrediction, denumpify_detensorize, speed_metrics

from ftloop.errors import UserError
from ftloop.loss import count_items, forward
from ftloop.memory import evaluated_within_memory
from ftloop.plan import real_rows
from ftloop.ranks import from_main
from ftloop.rng import restore_rng_state, rng_state
from ftloop.run import Inputs, Run, eval_loader, eval_order, first_rows, num_rows
from ftloop.stopping import EVERY_BATCHES, Stopped

if TYPE_CHECKING:
    from torch.utils.data import Dataset


@dataclass(frozen=True)
class Predictions:
    """Mirrors: PredictionOutput."""

    predictions: np.ndarray
    """Logits, rows x classes (regression: rows x 1), float32."""
    label_ids: np.ndarray | None
    metrics: dict[str, float]


def evaluate(run: Run, eval_dataset: Dataset[Any] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
    """Metrics over a data set (the run's own by default), each name with the prefix: `eval_loss`, `eval_accuracy`, ...

    Of each batch only what `preprocess_logits_for_metrics` leaves is kept, where the run has one; else its logits.
    `eval_loss` is the mean over rows. Every process gets the same numbers. `train()` puts them into the log; called by
    hand, that is the caller's (Trainer logs them always).
    Differs: with trainer_compat and several processes, `eval_loss` is multiplied by their number, as Trainer's is.
    Mirrors: Trainer.evaluate.
    """
    dataset = run.eval_dataset if eval_dataset is None else eval_dataset
    if dataset is None:
        raise UserError("evaluate: the run has no eval_dataset, and none was given")
    return _evaluation_loop(run, dataset, metric_key_prefix, keep_logits=False).metrics


def predict(run: Run, test_dataset: Dataset[Any], metric_key_prefix: str = "test") -> Predictions:
    """Logits for every row and, where there are labels, the metrics.

    Differs: Trainer gives, instead of the logits, what `preprocess_logits_for_metrics` has made of them.
    Mirrors: Trainer.predict.
    """
    return _evaluation_loop(run, test_dataset, metric_key_prefix, keep_logits=True)


def _evaluation_loop(run: Run, dataset: Any, prefix: str, keep_logits: bool) -> Predictions:
    """Left because the run is to stop, it leaves the random state as it found it, and is made again after a resume.

    Mirrors: Trainer.evaluation_loop.
    """
    before, loaders = rng_state(run.accelerator.use_distributed), dict(run.eval_loaders)
    try:
        return _evaluate_batches(run, dataset, prefix, keep_logits)
    except Stopped:
        restore_rng_state(before, run.accelerator.use_distributed)
        run.eval_loaders = loaders
        raise


def _evaluate_batches(run: Run, dataset: Any, prefix: str, keep_logits: bool) -> Predictions:
    started = time.time()
    batch_size = run.config.per_device_eval_batch_size
    loader = eval_loader(run, dataset)
    gather = run.accelerator.gather_for_metrics
    model = run.unwrapped_model.eval()
    preprocess = run.preprocess_logits_for_metrics
    losses, logits, preprocessed, labels = (_Rows(len(dataset)) for _ in range(4))
    bar = tqdm(
        loader,
        desc="Evaluating" if prefix == "eval" else f"Evaluating {prefix}",
        leave=False,
        disable=True if not run.is_main else run.config.disable_tqdm,
    )
    for step, inputs in enumerate(bar):
        if step % (1 if run.accelerator.num_processes == 1 else EVERY_BATCHES) == 0:
            run.stop.check()
        batch_labels = inputs.get("labels")
        loss, batch_logits = _prediction_step(run, model, inputs, _rows_here(run, len(dataset), inputs, step))
        # Gathering cuts off the rows that are in the last round only to make it even.
        if loss is not None:
            losses.add(gather(loss.repeat(batch_size)))
        if keep_logits or preprocess is None:
            logits.add(gather(batch_logits))
        if batch_labels is not None:
            labels.add(gather(batch_labels))
            if preprocess is not None:
                preprocessed.add(gather(_checked(preprocess(batch_logits, batch_labels), batch_labels)))

    order = eval_order(run, dataset)
    predictions, label_ids = _in_order(logits.to_numpy(), order), _in_order(labels.to_numpy(), order)
    metrics: dict[str, Any] = {}
    if run.compute_metrics is not None and label_ids is not None:
        decisive = predictions if preprocess is None else _in_order(preprocessed.to_numpy(), order)
        metrics = run.compute_metrics(EvalPrediction(predictions=decisive, label_ids=label_ids))
    if losses.count:
        metrics["loss"] = _mean_loss(run, losses.to_numpy())
    metrics = denumpify_detensorize(metrics)
    metrics = {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": v for name, v in metrics.items()}
    num_steps = -(-len(dataset) // (batch_size * run.accelerator.num_processes))
    metrics |= speed_metrics(prefix, started, num_samples=len(dataset), num_steps=num_steps)
    return Predictions(predictions, label_ids, from_main(run.accelerator, metrics))  # they hold timings too


@evaluated_within_memory
def _prediction_step(run: Run, model: Any, inputs: Inputs, rows: int) -> tuple[Tensor | None, Tensor]:
    """Mean loss over the first `rows` rows, and the logits of all rows of the batch.

    Mirrors: Trainer.prediction_step.
    """
    with torch.no_grad():
        if "labels" not in inputs:
            return None, _logits(model(**inputs), after_loss=False)
        counted = inputs if rows == num_rows(inputs) else first_rows(inputs, max(rows, 1))
        loss, outputs = forward(run, model, counted, count_items(run, [inputs]))
    logits = _logits(outputs, after_loss=not (run.config.label_smoothing_factor or run.config.class_weights))
    repeated = num_rows(inputs) - len(logits)
    if repeated > 0:  # as many rows on every process; these are cut off after gathering
        logits = torch.cat([logits, logits[-1:].expand(repeated, *logits.shape[1:])])
    return loss.detach().mean(), logits.detach()


def _rows_here(run: Run, num_examples: int, inputs: Inputs, step: int) -> int:
    """Rows of this batch that no other process or batch has. Trainer takes the repeated ones into its loss."""
    rows = num_rows(inputs)
    if run.config.trainer_compat or run.accelerator.num_processes == 1:
        return rows
    batch_size, processes = run.config.per_device_eval_batch_size, run.accelerator.num_processes
    return min(rows, real_rows(num_examples, batch_size, processes, step, run.accelerator.process_index))


def _logits(outputs: Any, after_loss: bool) -> Tensor:
    """Only these: everything else a model returns (hidden states, ...) is left."""
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[int(after_loss)]
    assert isinstance(logits, Tensor)
    return logits


@dataclass
class _Rows:
    """Some numbers of each row, in one tensor on the device, made with the first batch. A small tensor of each batch
    would lie between the large ones of the forward passes, and keep what is freed there from being used again: 1.2 MB
    a batch, measured."""

    size: int
    values: Tensor | None = None
    count: int = 0

    def add(self, batch: Tensor) -> None:
        end = self.count + len(batch)
        if self.values is None:
            self.values = batch.new_empty((max(self.size, end), *batch.shape[1:]))
        # Labels collated as they come are integers in one batch and have fractions in the next.
        self.values = self.values.to(torch.promote_types(self.values.dtype, batch.dtype))
        while end > len(self.values):  # a collator may make several rows of one
            self.values = torch.cat([self.values, torch.empty_like(self.values)])
        self.values[self.count : end] = batch
        self.count = end

    def to_numpy(self) -> Any:
        """float32 or integers; None where there were none."""
        if self.values is None:
            return None
        values = self.values[: self.count].cpu()
        return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def _checked(preprocessed: Any, batch_labels: Tensor) -> Tensor:
    if not isinstance(preprocessed, Tensor) or preprocessed.shape[:1] != batch_labels.shape[:1]:
        what = f"a tensor of {tuple(preprocessed.shape)}" if isinstance(preprocessed, Tensor) else type(preprocessed)
        raise UserError(
            f"preprocess_logits_for_metrics: gave {what} for {len(batch_labels)} rows; it has to give one tensor with "
            "something for each row"
        )
    return preprocessed


def _in_order(evaluated: Any, order: np.ndarray | None) -> Any:
    """Back in the data set's order."""
    if evaluated is None or order is None:
        return evaluated
    rows = np.empty_like(evaluated)
    rows[order] = evaluated
    return rows


def _mean_loss(run: Run, per_row: np.ndarray) -> float:
    """The float32 NumPy mean over rows of their batch's mean loss: any other way differs in the last digits."""
    finite = np.isfinite(per_row)
    if run.config.trainer_compat and finite.any():
        per_row = per_row[finite]  # logging_nan_inf_filter; without it a NaN is said, not hidden
    return float(per_row.mean().item())
