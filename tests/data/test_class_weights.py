"""Class weights: how they are counted, what they do to the loss, and that an update is the same however it is split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from harness.command import WORKERS, launch
from harness.labels import SeveralLabels
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.workers.invariance import SPLITS
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from transformers.trainer_pt_utils import LabelSmoother

from ftloop import TrainConfig, UserError, evaluate, prepare, updates
from ftloop.config.command_line import parse_args
from ftloop.data.class_weights import class_weights, weight_problems
from ftloop.loss import weighted_loss

WORKER = WORKERS / "invariance.py"


def rows_of(labels: Any) -> Dataset:
    rows = tiny_rows(len(labels)).remove_columns("label")
    return rows.add_column("label", labels)


def balanced(labels: Any, count: int, **model: Any) -> torch.Tensor:
    return class_weights(TrainConfig(class_weights="balanced"), rows_of(labels), tiny_bert(count, **model))


def test_balanced_is_scikit_learns_and_its_mean_over_the_rows_is_one() -> None:
    labels = [0] * 11 + [1] * 3 + [2] * 7
    weights = balanced(labels, 3)
    assert weights.dtype == torch.float32
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert weights.tolist() == np.float32(wanted).tolist()
    assert float(weights[labels].mean()) == pytest.approx(1.0)


def test_balanced_weighs_each_of_several_labels_by_the_rows_without_it() -> None:
    hot = np.float32([[1, 1], [0, 1], [0, 1], [0, 0]])
    assert balanced(list(hot), 2).tolist() == pytest.approx([3.0, 1 / 3])


def test_weights_by_name_are_taken_in_the_order_of_the_labels(tmp_path: Path) -> None:
    model = tiny_bert(2, id2label={0: "no", 1: "yes"})
    config = TrainConfig(class_weights='{"yes": 3, "no": 0.5}')
    assert class_weights(config, rows_of([0, 1]), model).tolist() == [0.5, 3.0]
    assert class_weights(config, None, model).tolist() == [0.5, 3.0]
    assert model.config.problem_type is None  # that is run.prepare's to settle
    assert TrainConfig(class_weights={"yes": 3.0, "no": 0.5}) == config
    assert TrainConfig(class_weights="none").class_weights is None
    assert parse_args(["--class_weights", '{"yes": 3, "no": 0.5}']) == config
    assert parse_args(["--class_weights", "balanced"]).class_weights == "balanced"
    (tmp_path / "mine.yaml").write_text("class_weights:\n  'yes': 3\n  'no': 0.5\n")
    assert parse_args([str(tmp_path / "mine.yaml")]) == config


def test_the_loss_is_the_mean_of_weighted_row_losses() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(5, 3), torch.tensor([0, 2, 2, 1, 0]), torch.tensor([0.5, 2.0, 1.5])
    for smoothing in (0.0, 0.1):
        # A row alone is its own mean. Sums in another order: to rounding.
        each = [LabelSmoother(smoothing)({"logits": logits[i : i + 1]}, labels[i : i + 1]) for i in range(5)]
        wanted = sum(loss * weights[label] for loss, label in zip(each, labels, strict=True)) / 5
        assert float(weighted_loss(logits, labels, weights, smoothing)) == pytest.approx(float(wanted), rel=1e-6)
    hot = (torch.rand(5, 3) > 0.5).float()
    assert torch.equal(weighted_loss(logits, hot, weights), nn.BCEWithLogitsLoss(pos_weight=weights)(logits, hot))


def one_epoch(tmp_path: Path, rows: int, micro_batches: int, job: Any = None, **settings: Any) -> dict[str, Any]:
    """29 rows, of which a third have class 1: the last update and its micro-batches are shorter."""
    config = TrainConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=micro_batches,
        num_train_epochs=1,
        learning_rate=1e-3,
        use_cpu=True,
        disable_tqdm=True,
        **{"class_weights": "balanced"} | settings,
    )
    train_rows = rows_of([int(i % 3 == 0) for i in range(29)]) if job is None else job.data()[0]
    run = prepare(config, tiny_bert(2 if job is None else 3, dropout=0.0), train_rows, train_rows, data_collator=pad)
    made = [(float(update.loss), float(update.grad_norm or 0.0)) for update in updates(run)]
    weights = torch.cat([p.detach().reshape(-1) for p in run.unwrapped_model.parameters()])
    return {"updates": made, "weights": weights, "eval_loss": evaluate(run)["eval_loss"], "run": run}


@pytest.mark.parametrize(
    "job",
    [None, pytest.param(SeveralLabels(train_rows=29), marks=pytest.mark.slow)],
    ids=["one label", "several labels"],
)
def test_micro_batches_are_one_batch_with_weights_too(job: Any, tmp_path: Path) -> None:
    whole = one_epoch(tmp_path, 12, 1, job)
    assert len(whole["updates"]) == 3
    for rows, micro_batches in ((6, 2), (4, 3), (1, 12)):
        split = one_epoch(tmp_path, rows, micro_batches, job)
        # Sums in float32 in another order; measured as in test_same_update_however_split.py.
        assert np.array(split["updates"]) == pytest.approx(np.array(whole["updates"]), rel=1e-5)
        assert float((split["weights"] - whole["weights"]).norm() / whole["weights"].norm()) < 1e-6
    plain = one_epoch(tmp_path, 12, 1, job, class_weights=None)
    assert abs(plain["updates"][0][0] - whole["updates"][0][0]) > 1e-3, "weighted or not, it would be the same loss"
    assert plain["run"].unwrapped_model.config.problem_type == whole["run"].unwrapped_model.config.problem_type


def test_the_loss_of_an_evaluation_is_weighted_as_the_trainings_is(tmp_path: Path) -> None:
    found = one_epoch(tmp_path, 12, 1, per_device_eval_batch_size=29)
    run = found["run"]
    batch = pad([run.train_dataset[i] for i in range(29)])
    with torch.no_grad():
        logits = run.unwrapped_model.eval()(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
    each = nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
    wanted = float((each * run.class_weights[batch["labels"]]).mean())
    assert found["eval_loss"] == pytest.approx(wanted, rel=1e-6)  # rows meet in another order of sums


def test_equal_weights_are_none(tmp_path: Path) -> None:
    equal = one_epoch(tmp_path, 12, 1, class_weights={"LABEL_0": 1.0, "LABEL_1": 1})
    plain = one_epoch(tmp_path, 12, 1, class_weights=None)
    # The mean of products with 1 and cross_entropy's own mean differ in the last digit.
    assert np.array(equal["updates"]) == pytest.approx(np.array(plain["updates"]), rel=1e-6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("balancd", "class_weights: 'balancd' is not one of balanced; did you mean balanced?"),
        ('{"a": 1', "is not JSON"),
        ({"a": 0}, "class_weights: the weight of 'a' must be a number from 1e-30 to 1e30, not 0"),
        ({"a": "heavy"}, "class_weights: the weight of 'a' must be a number from 1e-30 to 1e30, not 'heavy'"),
        ({"a": float("nan")}, "class_weights: the weight of 'a' must be a number from 1e-30 to 1e30, not nan"),
        ({"a": 1e-300}, "class_weights: the weight of 'a' must be a number from 1e-30 to 1e30, not 1e-300"),
        ({"a": True}, "class_weights: the weight of 'a' must be a number from 1e-30 to 1e30, not True"),
        ({"a": [1]}, "expected names with a number or a text each"),
        (3, "class_weights: 3 is not one of balanced"),
    ],
)
def test_weights_that_are_none_are_told(given: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig(class_weights=given)
    assert told in str(caught.value)


def test_trainer_does_not_weigh() -> None:
    with pytest.raises(UserError, match="class_weights: not with trainer_compat"):
        TrainConfig(class_weights="balanced", trainer_compat=True)


def test_weights_that_do_not_fit_the_labels_are_told_by_name() -> None:
    given = TrainConfig(class_weights={"a": 1.0, "d": 2.0})
    assert weight_problems(given, ("a", "b", "c")) == [
        "class_weights: 'd' is none of the labels: 'a', 'b', 'c'",
        "class_weights: gives no weight to 'b', 'c'",
    ]
    for config in (given, TrainConfig(class_weights="balanced")):
        assert weight_problems(config, ()) == ["class_weights: only for classes, and these labels are numbers"]
    with pytest.raises(UserError, match="balanced has no weight for 'LABEL_1': no training row has this label"):
        balanced([0, 2, 2], 3)
    with pytest.raises(UserError, match="would weigh 'LABEL_0' with 0: every training row has this label"):
        balanced(list(np.float32([[1, 0], [1, 1]])), 2)
    with pytest.raises(UserError, match="these labels are numbers"):
        balanced([0.5, 1.5], 1)
    with pytest.raises(UserError, match="the training set has no column label, labels or label_ids"):
        class_weights(TrainConfig(class_weights="balanced"), rows_of([0, 1]).remove_columns("label"), tiny_bert(2))
    with pytest.raises(UserError, match="balanced is counted in a training set"):
        class_weights(TrainConfig(class_weights="balanced"), None, tiny_bert(2))


@pytest.mark.slow
def test_processes_make_one_update_with_weights_and_with_frozen_parts_too(tmp_path: Path) -> None:
    cases = ("weighted", "frozen")
    launched = [launch(n, tmp_path, *cases, worker=WORKER) for n in (1, 2)]
    for case in cases:
        each = [run for found in launched for run in found[case]]
        assert len(each) == sum(split[0] <= 2 for split in SPLITS) == 4
        whole = each[0]
        losses = [update["loss"] for update in whole["updates"]]
        assert max(losses) - min(losses) > 0.01, "something was learned, or this shows nothing"
        for other in each[1:]:
            # As measured in test_same_update_however_split.py, where all is trained and nothing weighted.
            assert [u["rows"] for u in other["updates"]] == [u["rows"] for u in whole["updates"]]
            for name in ("loss", "norm"):
                assert [u[name] for u in other["updates"]] == pytest.approx(
                    [u[name] for u in whole["updates"]], rel=5e-6
                )
            assert other["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-6)
            ours, theirs = np.asarray(other["weights"]), np.asarray(whole["weights"])
            assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) <= 3e-7
