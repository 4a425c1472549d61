"""A loss, an optimizer with its schedule, and several evaluation sets of the user's own: Trainer's run with the same,
bit for bit, resumed to the same bytes, and k micro-batches are still one batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from harness.cross_resume import assert_continues
from harness.models import tiny_bert
from harness.prepared_runs import ARGUMENTS
from harness.rows import pad, tiny_rows
from harness.side_by_side import BASE, Job, assert_same_run, run_ftloop, run_trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

from ftloop import TrainConfig, UserError, evaluate, prepare, train, updates
from ftloop.run.check_inputs import missing_labels_told


def summed(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Return the loss of Trainer's documentation: a sum, divided by the items of the whole update."""
    assert "loss" not in outputs
    return F.cross_entropy(outputs["logits"], labels, reduction="sum", label_smoothing=0.2) / num_items_in_batch


def mean(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    return F.cross_entropy(outputs["logits"], labels, label_smoothing=0.2)


def head_learns_faster(model: nn.Module) -> tuple[Any, Any]:
    head = [p for name, p in model.named_parameters() if name.startswith("classifier")]
    body = [p for name, p in model.named_parameters() if not name.startswith("classifier")]
    return AdamW([{"params": body, "lr": 1e-4}, {"params": head, "lr": 1e-2}], weight_decay=0.1), None


def head_alone(model: nn.Module) -> tuple[Any, Any]:
    """The body has gradients all the same, which count in the norm that clips."""
    return AdamW(model.classifier.parameters(), lr=1e-2), None  # type: ignore[union-attr,operator]


def with_its_schedule(model: nn.Module) -> tuple[Any, Any]:
    """One that moves the momentum too."""
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    return optimizer, OneCycleLR(optimizer, max_lr=0.1, total_steps=20)


BY_STEPS = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval_b_accuracy", "early_stopping_patience": 2}
CASES: dict[str, tuple[Job, dict[str, Any]]] = {
    "a loss that is a sum": (Job(loss=summed), {"gradient_accumulation_steps": 3}),
    "a loss that is a mean, smoothing beside it": (Job(loss=mean), {"label_smoothing_factor": 0.1}),
    "parameter groups": (Job(optimizers=head_learns_faster), {"gradient_accumulation_steps": 2, "warmup_steps": 3}),
    "an optimizer of a part": (Job(optimizers=head_alone), {"gradient_accumulation_steps": 2}),
    "an optimizer and its schedule": (Job(optimizers=with_its_schedule), {}),
    "several evaluation sets": (Job(eval_names=("a", "b", "a_b")), BY_STEPS | BEST | {"eval_on_start": True}),
}


@pytest.fixture(autouse=True)
def quiet_trainer(capfd: pytest.CaptureFixture[str]) -> None:
    """Trainer prints every log line; pytest shows them where a test fails."""


@pytest.mark.parametrize("name", CASES)
def test_trainer_makes_the_same_run_of_the_users_own_parts(name: str, tmp_path: Path) -> None:
    job, arguments = CASES[name]
    theirs = run_trainer(job, tmp_path / "trainer", **BASE | arguments)
    assert_same_run(theirs, run_ftloop(job, tmp_path / "ftloop", trainer_compat=True, **BASE | arguments))
    if job.eval_names:
        assert [n for entry in theirs.history for n in entry if n.endswith("_loss")][:3] == [
            "eval_a_loss",
            "eval_b_loss",
            "eval_a_b_loss",
        ]


def thawed_at_the_fifth_forward() -> nn.Module:
    model: Any = tiny_bert()
    model.bert.requires_grad_(False)
    forwards: list[nn.Module] = []

    def thaw(*_: Any) -> None:
        forwards.extend([model] if model.training else [])
        if len(forwards) == 5:
            model.bert.requires_grad_(True)

    model.register_forward_pre_hook(thaw)
    return model


def test_parts_that_are_thawed_while_training_are_trainers_run_too(tmp_path: Path) -> None:
    """Trainer's optimizer does not hold them either, but their gradients are cleared, and so do not add up."""
    job = Job(thawed_at_the_fifth_forward)
    theirs = run_trainer(job, tmp_path / "trainer", **BASE)
    assert_same_run(theirs, run_ftloop(job, tmp_path / "ftloop", trainer_compat=True, **BASE))
    assert_same_run(theirs, run_ftloop(job, tmp_path / "default", **BASE))


@pytest.mark.parametrize("name", CASES)
def test_they_are_resumed_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    job, arguments = CASES[name]
    arguments = BASE | arguments | BY_STEPS | {"label_smoothing_factor": 0.0}
    whole = run_ftloop(job, tmp_path / "whole", **arguments)
    for step in (2, 4):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        resumed = run_ftloop(job, tmp_path / f"{step}", resume=str(checkpoint), **arguments)
        assert_continues(resumed, whole)
        assert resumed.history == whole.history


@pytest.mark.parametrize("loss", [summed, mean])
def test_k_micro_batches_are_one_batch_with_a_loss_of_ones_own_too(loss: Any, tmp_path: Path) -> None:
    runs = []
    for size, k in ((4, 3), (12, 1)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": k}
        config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | sizes)
        rows = tiny_rows(29, seed=1)
        runs.append(prepare(config, tiny_bert(dropout=0.0), rows, rows, data_collator=pad, compute_loss_func=loss))
    pairs = zip(updates(runs[0]), updates(runs[1]), strict=True)
    losses = [(one.loss.item(), other.loss.item()) for one, other in pairs]
    assert len(losses) == 2 * 3
    assert [one for one, _ in losses] == pytest.approx([other for _, other in losses], rel=1e-5)
    assert evaluate(runs[0])["eval_loss"] == pytest.approx(evaluate(runs[1])["eval_loss"], rel=1e-4)


class Logits(nn.Module):
    """A model that takes no labels and gives its logits alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.EmbeddingBag(120, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embedding(input_ids)


class Pair(Logits):
    """Before something else; and the labels are not used."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.embedding(input_ids), self.embedding.weight


def step(run: Any, micro_batch: Any) -> Tensor:
    inputs = dict(micro_batch.inputs)
    labels = inputs.pop("labels")
    outputs = run.model(**inputs)
    loss = F.cross_entropy(outputs if isinstance(outputs, Tensor) else outputs[0], labels) / micro_batch.divisor
    run.accelerator.backward(loss)
    return loss.detach()


@pytest.mark.parametrize("model", [Logits, Pair])
def test_a_model_that_gives_logits_alone_is_evaluated_rightly(model: Any, tmp_path: Path) -> None:
    job, settings = Job(), ARGUMENTS | {"learning_rate": 0.1, "eval_strategy": "epoch", "num_train_epochs": 4}
    rows, eval_rows = job.data()
    config = TrainConfig(output_dir=str(tmp_path), **settings)
    run = prepare(config, model(), rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)
    with pytest.raises(UserError, match=r"gave no loss, only logits, from .*give prepare compute_loss_func"):
        train(run)
    run = prepare(config, model(), rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)
    train(run, step)
    with torch.no_grad():
        logits = torch.cat([run.unwrapped_model.embedding(pad([row])["input_ids"]) for row in eval_rows])
    metrics = evaluate(run)
    batches = [eval_rows.select(range(i, min(i + 4, 13))) for i in range(0, 13, 4)]
    with torch.no_grad():
        padded = torch.cat([run.unwrapped_model.embedding(pad(list(batch))["input_ids"]) for batch in batches])
    right = (padded.argmax(-1) == torch.tensor(eval_rows["label"])).float().mean().item()
    assert metrics["eval_accuracy"] == pytest.approx(right)
    assert len(logits) == 13
    assert "eval_loss" not in metrics

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return F.cross_entropy(outputs if isinstance(outputs, Tensor) else outputs[0], labels)

    with_loss = prepare(config, model(), rows, eval_rows, data_collator=pad, compute_loss_func=loss)
    train(with_loss)
    assert evaluate(with_loss)["eval_loss"] == pytest.approx(F.cross_entropy(padded, torch.tensor(eval_rows["label"])))


WITHOUT_LABELS = [{name: ids for name, ids in row.items() if name != "label"} for row in tiny_rows(8).to_list()]

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another model's": (
        {"optimizers": (AdamW(nn.Linear(2, 2).parameters()), None)},
        "optimizers: the optimizer holds parameters of another model",
    ),
    "one alone": ({"optimizers": AdamW(nn.Linear(2, 2).parameters())}, "optimizers: a tuple of two is wanted"),
    "without its argument": ({"compute_loss_func": lambda outputs, labels: 0}, "compute_loss_func: is called with"),
    "no tensor": ({"compute_loss_func": lambda outputs, labels, **_: 0.5}, r"compute_loss_func: gave 0\.5"),
    "no labels": (
        {"compute_loss_func": mean, "train_dataset": Dataset.from_list(WITHOUT_LABELS)},
        r"compute_loss_func: labels are missing, which rows hold in their column label, .*\(\w+Error: ",
    ),
    "no rows": ({"eval_dataset": [], "eval_strategy": "epoch"}, "eval_dataset: has no rows"),
    "a schedule alone": ({"optimizers": (None, object())}, "optimizers: a schedule belongs to an optimizer"),
    "smoothing too": ({"compute_loss_func": mean, "label_smoothing_factor": 0.1}, "label_smoothing_factor: not with a"),
    "a loss per row": ({"compute_loss_func": lambda outputs, labels, **_: outputs["logits"]}, r"a tensor of \(4, 2\)"),
    "no set's metric": (
        {"eval_dataset": {"a": tiny_rows(4)}, "eval_strategy": "epoch", "metric_for_best_model": "accuracy"},
        "metric_for_best_model: 'accuracy' is of no evaluation set; of one of them it is a_accuracy",
    ),
    "a set that is none": ({"eval_dataset": {"a": tiny_rows(4), "b": "dev.csv"}}, r"eval_dataset\['b'\]: 'dev.csv' is"),
    "columns": ({"eval_dataset": tiny_rows(4).to_dict()}, "eval_dataset: a dict of columns"),
}


@pytest.mark.parametrize("name", WRONG)
def test_parts_that_do_not_fit_are_told(name: str, tmp_path: Path) -> None:
    arguments, said = WRONG[name]
    settings = {key: value for key, value in arguments.items() if key in TrainConfig.__dataclass_fields__}
    others = {key: value for key, value in arguments.items() if key not in settings}
    with pytest.raises(UserError, match=said):
        train(
            prepare(
                TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | settings),
                tiny_bert(),
                **{"train_dataset": tiny_rows(8), "data_collator": pad} | others,
            )
        )


def test_what_fails_for_another_reason_than_missing_labels_is_told_as_that() -> None:
    """Out of memory, above all, which splits a micro-batch or is told with a way out."""

    def full(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        missing_labels_told(full)(None, None, None)
