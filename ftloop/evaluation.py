"""evaluate() and predict(): every row exactly once, in the data set's order, on any number of processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalPrediction, denumpify_detensorize, speed_metrics

from ftloop.errors import UserError
from ftloop.loss import forward_without_loss, logits_of
from ftloop.oom import predict_in_memory
from ftloop.run.micro_batches import Inputs, num_rows
from ftloop.run.plan import real_rows
from ftloop.system.console import say
from ftloop.system.distributed import broadcast_from_main
from ftloop.system.out_of_memory import memory_told
from ftloop.system.rng import restore_rng_state, rng_state
from ftloop.system.row_buffer import RowBuffer
from ftloop.system.scalars import to_plain
from ftloop.system.stopping import Stopped

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from ftloop.run.run import EvaluationRun


@dataclass(frozen=True)
class Predictions:
    """Mirrors: PredictionOutput."""

    predictions: np.ndarray
    """Logits, rows x classes (regression: rows x 1), float32."""
    label_ids: np.ndarray | None
    metrics: dict[str, float]


def evaluate(
    run: EvaluationRun,
    eval_dataset: Dataset[Any] | dict[str, Dataset[Any]] | None = None,
    metric_key_prefix: str = "eval",
) -> dict[str, float]:
    """Metrics over a data set (the run's own by default), each name with the prefix: `eval_loss`, `eval_accuracy`, ...
    Of a dict of data sets, those of each: `eval_<name>_loss`, ...

    Of each batch only what `preprocess_logits_for_metrics` leaves is kept, where the run has one; else its logits.
    `eval_loss` is the mean over rows; there is none where nothing gives a loss. Every process gets the same numbers.
    `train()` puts them into the log; called by hand, that is the caller's (Trainer logs them always).
    Differs: with trainer_compat and several processes, `eval_loss` is multiplied by their number, as Trainer's is.
    Mirrors: Trainer.evaluate.
    """
    sets = run.eval_sets(eval_dataset, metric_key_prefix)
    if not sets:
        raise UserError("evaluate: the run has no eval_dataset, and none was given")
    metrics: dict[str, float] = {}
    with _evaluating(run) as model:
        for prefix, rows in sets.items():
            evaluated = _evaluate(run, model, rows, prefix, keep_logits=False)
            metrics |= evaluated.metrics
            if evaluated.label_ids is None and run.is_main:
                say("Warning", f"{prefix}: its rows have no labels, so no loss and no metric; predict gives the logits")
    return metrics


def predict(run: EvaluationRun, test_dataset: Dataset[Any], metric_key_prefix: str = "test") -> Predictions:
    """Logits for every row and, where there are labels, the metrics.

    Differs: Trainer returns, instead of the logits, what `preprocess_logits_for_metrics` has made of them.
    Mirrors: Trainer.predict.
    """
    with _evaluating(run) as model:
        return _evaluate(run, model, test_dataset, metric_key_prefix, keep_logits=True)


@contextmanager
def _evaluating(run: EvaluationRun) -> Iterator[Any]:
    """Yield the model, and leave it in the mode it was in. On a stop request, restore the random state and raise: the
    evaluation is repeated after resuming.
    """
    model = run.unwrapped_model
    was_training = model.training
    model.eval()
    before, loaders = rng_state(), dict(run.eval_loaders.used)
    try:
        with memory_told("evaluation, outside of forward,", model.parameters()):
            yield model
    except Stopped:
        restore_rng_state(before)
        run.eval_loaders.used = loaders
        raise
    finally:
        model.train(was_training)


def _evaluate(run: EvaluationRun, model: Any, dataset: Any, prefix: str, keep_logits: bool) -> Predictions:
    """Mirrors: Trainer.evaluation_loop."""
    started, batch_size = time.time(), run.config.per_device_eval_batch_size
    preprocess = run.preprocess_logits_for_metrics
    gather = run.accelerator.gather_for_metrics
    loader = run.eval_loaders.loader(dataset)
    losses, logits, preprocessed, labels = (RowBuffer(len(dataset)) for _ in range(4))
    step_of = partial(_prediction_step, run, model)
    for step, inputs in enumerate(_progress(run, loader, prefix)):
        run.stop.check("evaluation")
        loss, batch_logits = predict_in_memory(run, step_of, inputs, _distinct_rows(run, len(dataset), inputs, step))
        # Gathering cuts off the rows that are in the last round only to make it even.
        if loss is not None:
            losses.add(gather(loss.repeat(batch_size)))
        if keep_logits or preprocess is None:
            logits.add(gather(batch_logits))
        if "labels" in inputs:
            labels.add(gather(inputs["labels"]))
            if preprocess is not None:
                preprocessed.add(gather(_checked(preprocess(batch_logits, inputs["labels"]), inputs["labels"])))
    order = run.eval_loaders.order(dataset)
    predictions, label_ids, decisive = (_in_order(rows.to_numpy(), order) for rows in (logits, labels, preprocessed))
    metrics: dict[str, Any] = {}
    if run.compute_metrics is not None and label_ids is not None:
        decisive = predictions if preprocess is None else decisive
        metrics = run.compute_metrics(EvalPrediction(predictions=decisive, label_ids=label_ids))
        if not isinstance(metrics, dict):
            raise UserError(f"compute_metrics: gave {metrics!r}; it has to give a dict, from names to numbers")
    if losses.count:
        metrics["loss"] = run.rules.mean_eval_loss(losses.to_numpy())
    metrics = to_plain(denumpify_detensorize(metrics))
    metrics = {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": v for name, v in metrics.items()}
    num_steps = -(-len(dataset) // (batch_size * run.accelerator.num_processes))
    metrics |= speed_metrics(prefix, started, num_samples=len(dataset), num_steps=num_steps)
    return Predictions(predictions, label_ids, broadcast_from_main(run.accelerator, metrics))  # they hold timings too


def _progress(run: EvaluationRun, loader: Any, prefix: str) -> Any:
    disable = run.config.disable_tqdm if run.is_main else True
    return tqdm(loader, desc="Evaluating" if prefix == "eval" else f"Evaluating {prefix}", leave=False, disable=disable)


def _prediction_step(run: EvaluationRun, model: Any, inputs: Inputs, rows: int) -> tuple[Tensor | None, Tensor]:
    """Mean loss over the first `rows` rows, and the logits of the whole batch. Mirrors: Trainer.prediction_step."""
    with torch.no_grad():
        if "labels" not in inputs:
            return None, logits_of(model(**inputs), after_loss=False)
        counted = run.rules.own_rows(inputs, rows, run.accelerator.num_processes)
        loss, outputs = forward_without_loss(run, model, counted, run.rules.num_items(run, [inputs]))
    logits = logits_of(outputs, after_loss=run.model_gives_loss and loss is not None)
    repeated = num_rows(inputs) - len(logits)
    if repeated > 0:  # as many rows on every process; these are cut off after gathering
        logits = torch.cat([logits, logits[-1:].expand(repeated, *logits.shape[1:])])
    return None if loss is None else loss.detach().mean(), logits.detach()


def _distinct_rows(run: EvaluationRun, num_examples: int, inputs: Inputs, step: int) -> int:
    """Rows of this batch that no other process or batch has."""
    batch_size, accelerator = run.config.per_device_eval_batch_size, run.accelerator
    real = real_rows(num_examples, batch_size, accelerator.num_processes, step, accelerator.process_index)
    return num_rows(inputs) if accelerator.num_processes == 1 else min(num_rows(inputs), real)


def _checked(preprocessed: Any, batch_labels: Tensor) -> Tensor:
    if not isinstance(preprocessed, Tensor) or preprocessed.shape[:1] != batch_labels.shape[:1]:
        what = f"a tensor of {tuple(preprocessed.shape)}" if isinstance(preprocessed, Tensor) else type(preprocessed)
        raise UserError(
            f"preprocess_logits_for_metrics: gave {what} for {len(batch_labels)} rows; it has to give one tensor with "
            "something for each row"
        )
    return preprocessed


def _in_order(evaluated: Any, order: np.ndarray | None) -> Any:
    """Rows evaluated in `order`, back in the data set's order."""
    if evaluated is None or order is None:
        return evaluated
    rows = np.empty_like(evaluated)
    rows[order] = evaluated
    return rows
