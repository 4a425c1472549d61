"""The loop itself: what an update is, what a body may do, and that the code stays readable."""

from __future__ import annotations

import ast
import inspect
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert
from harness.prepared_runs import ARGUMENTS, prepared
from harness.rows import pad, tiny_rows
from harness.side_by_side import Job, run_ftloop, weights_digest

import ftloop
from ftloop import (
    Run,
    TrainConfig,
    UserError,
    evaluate,
    load_checkpoint,
    predict,
    prepare,
    save_model,
    train,
    training_step,
    updates,
)
from ftloop.run.micro_batches import MicroBatch


@dataclass(frozen=True)
class Kind:
    """Of loss."""

    num_labels: int = 2
    regression: bool = False
    label_smoothing_factor: float = 0.0

    def prepared(self, tmp_path: Path, rows: int, **sizes: int) -> Run:
        model = tiny_bert(self.num_labels, dropout=0.0)
        data = tiny_rows(rows, max(self.num_labels, 2), seed=1, regression=self.regression)
        config = TrainConfig(
            output_dir=str(tmp_path), label_smoothing_factor=self.label_smoothing_factor, **ARGUMENTS | sizes
        )
        return prepare(config, model, data, data_collator=pad)


KINDS = {
    "two classes": Kind(),
    "five classes": Kind(num_labels=5),
    "label smoothing": Kind(label_smoothing_factor=0.1),
    "five classes, label smoothing": Kind(num_labels=5, label_smoothing_factor=0.1),
    "regression": Kind(num_labels=1, regression=True),
}


# In batches of 4: none short; a micro-batch of one row beside others; an update of one row alone.
ROWS = (24, 29, 25)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        pytest.param(kind, rows, marks=[] if rows == 29 else [pytest.mark.slow])
        for kind in KINDS
        for rows in ROWS
        if rows == 29 or kind in ("two classes", "label smoothing")
    ],
)
@pytest.mark.parametrize("k", [2, 3])
def test_k_micro_batches_are_one_batch_of_k_times_as_many_rows(kind: str, k: int, rows: int, tmp_path: Path) -> None:
    """Remainders included: a row of a short micro-batch counts as much as any other. Without dropout."""
    split = KINDS[kind].prepared(tmp_path, rows, per_device_train_batch_size=4, gradient_accumulation_steps=k)
    whole = KINDS[kind].prepared(tmp_path, rows, per_device_train_batch_size=4 * k)
    start = flat_weights(split)
    seen, done = 0, 0
    for one, other in zip(updates(split), updates(whole), strict=True):
        assert one.rows == other.rows
        # float32 sums in another order: a few units in the last place, 2e-7 where these tests were written
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=2e-6)
        assert float(one.grad_norm) == pytest.approx(float(other.grad_norm), rel=2e-6)  # type: ignore[arg-type]
        # in proportion to how far training has moved them; AdamW makes more of small gradients' last places: 7e-6
        moved, apart = flat_weights(whole) - start, flat_weights(whole) - flat_weights(split)
        assert moved.norm() > 0
        assert apart.norm() < 7e-5 * moved.norm()
        seen += one.rows
        done += 1
    assert seen == 2 * rows
    assert done == 2 * math.ceil(rows / (4 * k))


def flat_weights(run: Run) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()]).double()


def test_a_body_may_evaluate_and_the_run_goes_on_as_trainers_would(tmp_path: Path) -> None:
    built_in = run_ftloop(Job(), tmp_path, eval_strategy="steps", eval_steps=3, **ARGUMENTS)
    run = prepared(tmp_path)
    by_hand = []
    for update in updates(run):
        if update.global_step % 3 == 0 or update.global_step == run.plan.max_steps:
            by_hand.append(evaluate(run)["eval_loss"])
    assert by_hand == [entry["eval_loss"] for entry in built_in.history if "eval_loss" in entry]
    assert weights_digest(run.model) == built_in.weights


def test_a_body_may_stop(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    for update in updates(run):
        if update.global_step == 5:
            break
    assert run.state.global_step == 5


def test_a_run_left_by_its_body_is_continued_by_the_next_loop(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    steps = []
    for update in updates(run):
        steps.append(update.global_step)
        if update.ends_epoch:
            break
    steps += [update.global_step for update in updates(run)]
    assert steps == list(range(1, 17))


def test_an_update_says_what_was_done(tmp_path: Path) -> None:
    run = prepared(tmp_path, gradient_accumulation_steps=3, warmup_steps=2)
    done = list(updates(run))
    assert [update.global_step for update in done] == [1, 2, 3, 4, 5, 6]
    assert [update.rows for update in done] == [12, 12, 5, 12, 12, 5]
    assert [len(update.losses) for update in done] == [3, 3, 2, 3, 3, 2]
    assert [update.ends_epoch for update in done] == [False, False, True, False, False, True]
    assert [update.epoch for update in done] == [3 / 8, 6 / 8, 1.0, 1 + 3 / 8, 1 + 6 / 8, 2.0]
    assert [update.learning_rate for update in done] == [0.0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4]


def test_gradients_are_exchanged_with_the_last_micro_batch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other backward passes of an update run under `no_sync`; on one process too, where that changes nothing."""
    run = prepared(tmp_path, gradient_accumulation_steps=3)
    no_sync, kept_back = run.accelerator.no_sync, 0

    def watched(model: Any) -> Any:
        nonlocal kept_back
        kept_back += 1
        return no_sync(model)

    monkeypatch.setattr(run.accelerator, "no_sync", watched)
    seen = []
    for update in updates(run):
        seen.append((len(update.losses), kept_back))
        kept_back = 0
    assert seen == [(3, 2), (3, 2), (2, 1)] * 2


def test_another_training_step_can_be_given(tmp_path: Path) -> None:
    shapes = []

    def watched(run: Run, micro_batch: MicroBatch) -> torch.Tensor:
        shapes.append(tuple(micro_batch.inputs["input_ids"].shape))
        return training_step(run, micro_batch)

    run = prepared(tmp_path)
    train(run, watched)
    plain = prepared(tmp_path)
    train(plain)
    assert sum(rows for rows, _ in shapes) == 2 * 29
    assert weights_digest(run.model) == weights_digest(plain.model)


def test_a_nan_is_said_not_hidden(tmp_path: Path) -> None:
    """Trainer logs `loss: 0.0` here; trainer_compat does as well."""
    losses = {}
    for compat in (False, True):
        model = tiny_bert()
        with torch.no_grad():
            model.classifier.weight.fill_(float("nan"))
        run = prepared(tmp_path, model, trainer_compat=compat, max_steps=1, on_nonfinite="ignore")
        train(run)
        losses[compat] = run.state.log_history[0]["loss"]
    assert losses[False] != losses[False]
    assert losses[True] == 0.0


def test_losses_stay_on_the_device_between_log_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: waits.append(1) or item(tensor))
    run = prepared(tmp_path, logging_steps=100, gradient_accumulation_steps=2)
    count = 0
    for update in updates(run):
        count += len(update.losses)
    assert count == 16
    assert len(waits) == 2, "one for each epoch's iterator, whose base seed is a number of the CPU's; no loss, no norm"


def test_the_guides_line_ends_every_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = prepared(tmp_path, eval_strategy="epoch", logging_steps=5)
    result = train(run)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    evaluations = [entry for entry in run.state.log_history if "eval_accuracy" in entry]
    assert [line.split(":")[0] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    shown = [dict(part.split("=") for part in line.split(": ")[1].split(", ")) for line in lines]
    assert [list(values) for values in shown] == [["loss", "eval_loss", "accuracy", "spread"]] * 2
    assert [float(values["accuracy"]) for values in shown] == [round(e["eval_accuracy"], 4) for e in evaluations]
    assert sum(float(values["loss"]) for values in shown) / 2 == pytest.approx(result.training_loss, abs=1e-4)


def test_without_an_evaluation_the_line_has_the_loss_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(prepared(tmp_path))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    assert len(lines) == 2
    assert all(line.count("=") == 1 and "loss=" in line for line in lines)


def test_the_guides_steps_work_from_python(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    run = prepared(tmp_path, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    train(run)
    test_rows = tiny_rows(17, seed=3)
    metrics = evaluate(run, test_rows, metric_key_prefix="test")
    found = predict(run, test_rows)
    assert found.predictions.shape == (17, 2)
    assert found.metrics["test_accuracy"] == metrics["test_accuracy"]
    assert (found.label_ids == test_rows["label"]).all()
    assert predict(run, test_rows.remove_columns("label")).label_ids is None
    save_model(run)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert weights_digest(loaded) == weights_digest(run.unwrapped_model)


def test_a_model_of_the_users_own_can_be_trained(tmp_path: Path) -> None:
    class Bag(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.EmbeddingBag(120, 2)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            logits = self.embedding(input_ids)
            loss = {} if labels is None else {"loss": torch.nn.functional.cross_entropy(logits, labels)}
            return loss | {"logits": logits}

    arguments = {"learning_rate": 0.1, "num_train_epochs": 20, "save_strategy": "steps", "save_steps": 50}
    torch.manual_seed(0)
    run = prepared(tmp_path / "whole", Bag(), **arguments)
    result = train(run)
    assert result.global_step == 160
    assert run.state.log_history[0]["loss"] > 2 * run.state.log_history[-2]["loss"]
    assert predict(run, run.eval_dataset).metrics["test_accuracy"] > 0.5
    resumed = prepared(tmp_path / "resumed", Bag(), **arguments)
    load_checkpoint(resumed, tmp_path / "whole" / "checkpoint-100")
    train(resumed)
    assert weights_digest(resumed.model) == weights_digest(run.model)


def test_plain_lists_of_rows_train_as_datasets_do(tmp_path: Path) -> None:
    """Columns the model does not take are dropped for both, as Trainer does."""
    rows = tiny_rows(29, seed=1)
    from_list = [row | {"text": "not for the model"} for row in rows]
    digests = []
    for data in (rows, from_list):
        config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS)
        run = prepare(config, tiny_bert(), data, data_collator=pad)
        train(run)
        digests.append(weights_digest(run.model))
    assert digests[0] == digests[1]


def test_evaluating_first_changes_one_random_number_and_nothing_else(tmp_path: Path) -> None:
    first = prepared(tmp_path)
    evaluate(first)
    train(first)
    on_start = prepared(tmp_path, eval_on_start=True)
    train(on_start)
    assert weights_digest(first.model) == weights_digest(on_start.model)


def test_rotation_never_deletes_the_best_or_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(
        tmp_path,
        num_train_epochs=4,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="spread",
        greater_is_better=False,
        save_total_limit=1,
    )
    after_each_save = []
    save = ftloop.loop.save_checkpoint

    def watched(*args: Any) -> Any:
        saved = save(*args)
        steps = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))
        after_each_save.append((steps, run.state.global_step, run.state.best_global_step))
        return saved

    monkeypatch.setattr(ftloop.loop, "save_checkpoint", watched)
    train(run)
    assert len(after_each_save) == 4
    for steps, newest, best_step in after_each_save:
        assert steps == sorted({newest, best_step})
    best = f"checkpoint-{run.state.best_global_step}"
    assert run.state.best_global_step not in (8, 32)
    left = [path.name for path in tmp_path.glob("checkpoint-*")]
    assert left == [best], "with a limit of one, the best alone is left at the end"
    assert json.loads((tmp_path / best / "trainer_state.json").read_text())["best_model_checkpoint"].endswith(best)


def test_tensorboard_gets_trainers_tags(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = prepared(tmp_path, eval_strategy="epoch", logging_dir=str(tmp_path / "tb"))
    train(run)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/grad_norm", "train/learning_rate", "train/epoch", "train/train_loss"} <= tags
    assert {"eval/loss", "eval/accuracy", "eval/runtime", "eval/samples_per_second"} <= tags
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 17))
    assert [event.value for event in events.Scalars("eval/accuracy")] == pytest.approx(
        [entry["eval_accuracy"] for entry in run.state.log_history if "eval_accuracy" in entry]
    )


def test_nothing_reports_unless_asked(tmp_path: Path) -> None:
    train(prepared(tmp_path))
    assert not list(tmp_path.rglob("events.out*"))


def test_a_metric_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    run = prepared(tmp_path, eval_strategy="epoch", metric_for_best_model="bleu")
    with pytest.raises(UserError, match=r"'bleu' is none of .*accuracy"):
        train(run)


def test_an_evaluation_strategy_without_rows_to_evaluate_is_an_error(tmp_path: Path) -> None:
    config = TrainConfig(output_dir=str(tmp_path), eval_strategy="epoch", use_cpu=True)
    with pytest.raises(UserError, match="eval_dataset"):
        prepare(config, tiny_bert(), tiny_rows(8), data_collator=pad)


def test_an_evaluation_between_epochs_and_an_early_stop_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"metric_for_best_model": "accuracy", "early_stopping_patience": 1, "early_stopping_threshold": 1.0}
    train(prepared(tmp_path, eval_strategy="steps", eval_steps=3, logging_strategy="no", **arguments))
    printed = capsys.readouterr().out
    assert "Update 3/16: eval_loss=" in printed
    assert "Update 6/16: eval_loss=" in printed
    assert "Stopped   early: 1 evaluation(s) without a better accuracy" in printed


def test_a_schedule_that_the_runs_own_length_breaks_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="polynomial cannot be followed"):
        prepared(tmp_path, lr_scheduler_type="polynomial", warmup_steps=2, max_steps=2)


def test_metrics_that_are_no_numbers_do_not_stop_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = prepared(tmp_path, eval_strategy="epoch", logging_dir=str(tmp_path / "tb"))
    run.compute_metrics = lambda evaluated: {"accuracy": 0.5, "report": {"0": [1, 2]}, "note": None}  # type: ignore
    train(run)
    assert "Epoch 2/2: loss=" in capsys.readouterr().out
    assert run.state.log_history[-2]["eval_report"] == {"0": [1, 2]}


def test_rows_without_labels_are_told_by_what_the_model_gave(tmp_path: Path) -> None:
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS)
    run = prepare(config, tiny_bert(), tiny_rows(8).remove_columns("label"), data_collator=pad)
    with pytest.raises(UserError, match="no loss, only logits, from input_ids"):
        train(run)


def test_checkpoints_of_another_run_are_not_trained_over(tmp_path: Path) -> None:
    train(prepared(tmp_path, save_strategy="epoch"))
    with pytest.raises(UserError, match="holds checkpoints"):
        train(prepared(tmp_path, save_strategy="epoch"))


def test_a_collator_may_give_more_than_rows(tmp_path: Path) -> None:
    """Scalars in a batch pass through; so do several rows made of one example."""
    config = TrainConfig(output_dir=str(tmp_path), per_device_eval_batch_size=4, use_cpu=True, disable_tqdm=True)
    run = prepare(config, tiny_bert(), data_collator=lambda examples: pad(examples * 2))
    assert len(predict(run, tiny_rows(4)).predictions) == 4 * 2


def test_the_loop_fits_one_screen() -> None:
    def lines(function: Any) -> int:
        source = inspect.getsource(function)
        docstring = inspect.getdoc(function) or ""
        return len(source.splitlines()) - len(docstring.splitlines())

    assert lines(ftloop.loop.train) <= 45
    assert lines(ftloop.loop.updates) <= 25
    assert lines(ftloop.loop.training_step) + lines(ftloop.loop.forward_backward) <= 8


def test_training_never_touches_transformers_trainer() -> None:
    package = Path(ftloop.__file__).parent
    names = set()
    for path in package.rglob("*.py"):
        if path.stem in ("recorder", "trainer_callback"):
            continue  # they record anyone's Trainer
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert names, "transformers is imported somewhere"
    assert not {
        name for name in names if name.startswith("transformers.trainer.") or name.endswith((".Trainer", "Callback"))
    }


def test_a_model_left_evaluating_trains_on_with_dropout(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "a")
    train(plain)
    left, count = prepared(tmp_path / "b"), 0
    left.unwrapped_model.bert.eval()  # in part, and before the first update
    for _ in updates(left):
        left.unwrapped_model.eval()
        count += 1
    assert count == plain.state.max_steps
    assert weights_digest(left.unwrapped_model) == weights_digest(plain.unwrapped_model)


def test_random_numbers_are_drawn_where_the_walkthroughs_second_diagram_says(tmp_path: Path) -> None:
    """Of the global generator: the states around each part of an epoch are equal, or one number apart, or dropout's."""
    run = prepared(tmp_path, num_train_epochs=2, gradient_accumulation_steps=3)
    states: list[tuple[str, torch.Tensor]] = []

    def note(what: str) -> None:
        states.append((what, torch.get_rng_state()))

    def step(*arguments: Any) -> torch.Tensor:
        note("before forward")
        loss = training_step(*arguments)
        note("after backward")
        return loss

    def one_number_after(state: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            torch.empty((), dtype=torch.int64).random_()
            return torch.get_rng_state()

    note("epoch begins")
    for update in updates(run, step):
        note("yielded")
        if update.global_step == 2:
            evaluate(run)
            note("evaluated")
        note("epoch begins" if update.ends_epoch else "body done")
    seen = set()
    for (before, one), (after, two) in pairwise(states):
        seen.add(f"{before} -> {after}")
        if before == "epoch begins" or after == "evaluated":
            assert torch.equal(two, one_number_after(one)), (before, after)
        else:
            is_forward = before == "before forward"
            assert torch.equal(one, two) != is_forward, (before, after)
    assert seen == {
        "epoch begins -> before forward",
        "before forward -> after backward",
        "after backward -> before forward",
        "after backward -> yielded",
        "yielded -> body done",
        "yielded -> evaluated",
        "evaluated -> body done",
        "yielded -> epoch begins",
        "body done -> before forward",
    }
