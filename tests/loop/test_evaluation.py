"""Evaluation: every row once, in order; the loss is the mean over rows; nothing about the run changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import Job
from transformers import EvalPrediction
from transformers.modeling_outputs import SequenceClassifierOutput

from ftloop import Run, TrainConfig, UserError, evaluate, predict, prepare
from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.metrics import argmax_predictions, metrics_for
from ftloop.system.row_buffer import RowBuffer


def prepared(tmp_path: Path, model: Any = None, **arguments: Any) -> Run:
    shared: dict[str, Any] = {"per_device_eval_batch_size": 4, "use_cpu": True, "disable_tqdm": True}
    config = TrainConfig(output_dir=str(tmp_path), **shared | arguments)
    return prepare(config, model or tiny_bert(), data_collator=pad, compute_metrics=Job().metrics)


def logits_row_by_row(model: torch.nn.Module, rows: Any) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return np.concatenate([model(**pad([row])).logits.numpy() for row in rows.remove_columns("label")])


@pytest.mark.parametrize("count", [1, 3, 4, 13])
def test_every_row_is_predicted_once_and_in_order(count: int, tmp_path: Path) -> None:
    run, rows = prepared(tmp_path), tiny_rows(count, seed=5)
    found = predict(run, rows)
    # padding adds exact zeros to a masked sum, yet the sum runs in another order
    np.testing.assert_allclose(found.predictions, logits_row_by_row(run.model, rows), atol=1e-6)
    assert list(found.label_ids) == rows["label"]


def test_the_loss_is_the_mean_over_rows_not_over_batches(tmp_path: Path) -> None:
    run, rows = prepared(tmp_path), tiny_rows(13, seed=5)
    logits = torch.tensor(logits_row_by_row(run.model, rows))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(rows["label"])).item()
    assert evaluate(run, rows)["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_dropping_the_last_training_batch_leaves_no_row_unevaluated(tmp_path: Path) -> None:
    """Trainer applies dataloader_drop_last to evaluation too; trainer_compat follows it there."""
    rows = tiny_rows(13, seed=5)
    assert len(predict(prepared(tmp_path, dataloader_drop_last=True), rows).predictions) == 13
    compat = prepared(tmp_path, dataloader_drop_last=True, trainer_compat=True)
    assert len(predict(compat, rows).predictions) == 12


def test_names_carry_the_prefix_and_timings_are_trainers(tmp_path: Path) -> None:
    metrics = evaluate(prepared(tmp_path), tiny_rows(13), metric_key_prefix="test")
    assert set(metrics) == {
        "test_loss",
        "test_accuracy",
        "test_spread",
        "test_runtime",
        "test_samples_per_second",
        "test_steps_per_second",
    }


def test_without_labels_there_are_predictions_and_no_metrics(tmp_path: Path) -> None:
    found = predict(prepared(tmp_path), tiny_rows(7).remove_columns("label"))
    assert found.predictions.shape == (7, 2)
    assert found.label_ids is None
    assert set(found.metrics) == {"test_runtime", "test_samples_per_second", "test_steps_per_second"}


def test_bf16_logits_come_back_as_float32(tmp_path: Path) -> None:
    found = predict(prepared(tmp_path, bf16=True), tiny_rows(7))
    assert found.predictions.dtype == np.float32
    plain = predict(prepared(tmp_path), tiny_rows(7))
    assert not np.array_equal(found.predictions, plain.predictions)
    np.testing.assert_allclose(found.predictions, plain.predictions, atol=0.02)  # 8 bits of mantissa


def test_a_nan_loss_is_said_and_trainer_compat_drops_it_as_trainer_does(tmp_path: Path) -> None:
    class OneBadBatch(torch.nn.Module):
        """Its loss is NaN for batches that hold a row longer than 17 tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = tiny_bert()

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> SequenceClassifierOutput:
            outputs = self.bert(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
            outputs.loss = outputs.loss * (float("nan") if input_ids.shape[1] > 17 else 1.0)
            return outputs

    rows = tiny_rows(13, seed=5)
    lengths = [max(map(len, rows["input_ids"][i : i + 4])) > 17 for i in range(0, 13, 4)]
    assert any(lengths)
    assert not all(lengths)
    said = evaluate(prepared(tmp_path, OneBadBatch()), rows)["eval_loss"]
    assert said != said
    hidden = evaluate(prepared(tmp_path, OneBadBatch(), trainer_compat=True), rows)["eval_loss"]
    assert np.isfinite(hidden)


def test_a_model_that_returns_more_than_logits_is_evaluated_by_its_logits(tmp_path: Path) -> None:
    model = tiny_bert(output_hidden_states=True)
    assert predict(prepared(tmp_path, model), tiny_rows(5)).predictions.shape == (5, 2)


@pytest.mark.parametrize("num_labels", [1, 2, 5])
@pytest.mark.parametrize("sort_eval", [False, True])
def test_an_evaluation_keeps_what_its_metrics_need_and_scores_the_same(
    num_labels: int, sort_eval: bool, tmp_path: Path
) -> None:
    names = tuple(f"class {id}" for id in range(num_labels)) if num_labels > 1 else ()
    kind = ProblemType.SINGLE_LABEL if names else ProblemType.REGRESSION
    score = metrics_for(Labels(names, {name: id for id, name in enumerate(names)}, kind))
    rows = tiny_rows(45, max(num_labels, 2), seed=5, regression=num_labels == 1)
    seen: list[np.ndarray] = []

    def scored(evaluated: EvalPrediction) -> dict[str, float]:
        seen.append(evaluated.predictions)
        return score(evaluated)

    def metrics(preprocess: Any) -> tuple[dict[str, float], np.ndarray]:
        run = prepared(tmp_path, tiny_bert(num_labels), sort_eval=sort_eval)
        run.compute_metrics, run.preprocess_logits_for_metrics = scored, preprocess
        found, predicted = evaluate(run, rows), predict(run, rows, metric_key_prefix="eval")
        for name, value in found.items():
            if not name.endswith(("runtime", "per_second")):
                assert predicted.metrics[name] == value
        return {name: found[f"eval_{name}"] for name in (*score_names, "loss")}, predicted.predictions

    score_names = ("mse", "pearson", "spearmanr") if num_labels == 1 else ("accuracy", "f1")
    from_logits, logits = metrics(None)
    from_answers, same_logits = metrics(argmax_predictions)
    assert from_answers == from_logits
    assert logits.shape == (45, num_labels)
    assert (same_logits == logits).all(), "whoever asks for predictions gets logits"
    assert [kept.shape for kept in seen] == [(45, num_labels)] * 2 + [(45,)] * 2


def test_labels_that_are_whole_numbers_in_the_first_batch_keep_their_fractions_in_the_next() -> None:
    labels = RowBuffer(4)
    for batch in ([5, 3], [3.8, 0.5], [2, 1]):  # two more than were to be expected
        labels.add(torch.tensor(batch))
    assert labels.to_numpy() == pytest.approx([5, 3, 3.8, 0.5, 2, 1])


@pytest.mark.parametrize("given", [lambda logits, labels: (logits, labels), lambda logits, labels: logits.sum()])
def test_what_is_no_tensor_of_rows_is_refused_by_the_name_of_its_argument(given: Any, tmp_path: Path) -> None:
    run = prepared(tmp_path)
    run.preprocess_logits_for_metrics = given
    with pytest.raises(UserError, match=r"preprocess_logits_for_metrics: gave .* for 4 rows"):
        evaluate(run, tiny_rows(5))
