"""A run that one process takes up again: after a loop of one's own, after an exception, beside another run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from harness.models import tiny_bert
from harness.prepared_runs import ARGUMENTS, prepared
from harness.rows import pad, tiny_rows
from harness.side_by_side import Job, weights_digest
from transformers import TrainingArguments

from ftloop import Run, TrainConfig, UserError, evaluate, finish, prepare, save_checkpoint, train, updates
from ftloop.errors import TrainingError
from ftloop.run.accelerator import make_accelerator
from ftloop.system.stopping import Stopped


def logged(run: Run, name: str) -> list[tuple[int, Any]]:
    return [(entry["step"], entry[name]) for entry in run.state.log_history if name in entry]


@pytest.mark.parametrize("saved", [False, True], ids=["continued", "saved and resumed"])
def test_updates_of_a_loop_of_ones_own_count_in_what_is_logged_after_it(
    saved: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"logging_steps": 4, "eval_strategy": "epoch"}
    whole = prepared(tmp_path / "whole", tiny_bert(dropout=0.0), **settings)
    result = train(whole)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    mine = prepared(tmp_path / "mine", tiny_bert(dropout=0.0), **settings)
    for update in updates(mine):
        if update.global_step == 6:
            break
    if saved:
        save_checkpoint(mine)
        mine = prepared(tmp_path / "mine", tiny_bert(dropout=0.0), resume_from_checkpoint="last", **settings)
    ended = train(mine)
    assert ended.training_loss == pytest.approx(result.training_loss, rel=1e-6)
    (step, first), *rest = logged(mine, "loss")
    theirs = dict(logged(whole, "loss"))
    assert (step, first) == (8, pytest.approx((theirs[4] + theirs[8]) / 2, rel=1e-6)), "all that was not logged yet"
    assert rest == [pair for pair in theirs.items() if pair[0] > 8]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")] == lines


def interrupted(times: list[int]) -> Any:
    """Metrics that fail at these calls, counted from 1, as a Ctrl-C in a notebook's cell makes them."""
    calls = []
    metrics = Job().metrics

    def compute(evaluated: Any) -> Any:
        calls.append(1)
        if len(calls) in times:
            raise KeyboardInterrupt
        return metrics(evaluated)

    return compute


@pytest.mark.parametrize("at", [1, 2])
def test_what_an_exception_has_cut_off_after_an_update_is_done_when_the_run_is_taken_up(
    at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "spread"}
    whole = prepared(tmp_path / "whole", **settings)
    train(whole)
    mine = prepared(tmp_path / "mine", **settings)
    mine.compute_metrics = interrupted([at])
    with pytest.raises(KeyboardInterrupt):
        train(mine)
    assert "Trained" not in capsys.readouterr().out
    train(mine)
    assert "Trained" not in capsys.readouterr().out, "it was not complete"
    assert logged(mine, "eval_spread")[:at] == logged(whole, "eval_spread")[:at]
    assert [step for step, _ in logged(mine, "eval_spread")] == [8, 16]
    saved = [sorted(folder.name for folder in run.glob("checkpoint-*")) for run in tmp_path.iterdir()]
    assert saved[0] == saved[1]
    train(mine)
    assert "Trained   already" in capsys.readouterr().out
    assert len(logged(mine, "train_runtime")) == 1, "nothing was trained that could be timed"


def test_what_a_loop_of_ones_own_has_left_undone_is_not_made_up_for(tmp_path: Path) -> None:
    """A checkpoint of an update that was not evaluated yet is resumed by a body that never evaluates."""
    mine = prepared(tmp_path, eval_strategy="steps", eval_steps=5)
    for update in updates(mine):
        if update.global_step == 5:
            save_checkpoint(mine, "none")
            break
    again = prepared(tmp_path, eval_strategy="steps", eval_steps=5, resume_from_checkpoint="last")
    for update in updates(again):
        if update.global_step == 7:
            break
    train(again)
    assert [step for step, _ in logged(again, "eval_spread")] == [10, 15, 16]


def test_numbers_that_are_not_finite_are_not_saved_by_a_loop_of_ones_own(tmp_path: Path) -> None:
    run = prepared(tmp_path, logging_steps=500)
    for update in updates(run):
        if update.global_step == 2:
            with torch.no_grad():
                run.unwrapped_model.classifier.bias.fill_(float("nan"))
        if update.global_step == 5:
            break
    with pytest.raises(TrainingError, match=r"^update 3: the loss or the gradient is not finite, and what comes after"):
        save_checkpoint(run)
    with pytest.raises(TrainingError, match=r"^update 3 of 16: the loss or the gradient is not finite; training stops"):
        finish(run)
    assert list(tmp_path.iterdir()) == []
    ignored = prepared(tmp_path, logging_steps=500, on_nonfinite="ignore")
    next(updates(ignored))
    ignored.counters.first_nonfinite += 1
    assert save_checkpoint(ignored).is_dir()


def test_a_limit_of_time_is_that_of_the_training_alone(tmp_path: Path) -> None:
    run = prepared(tmp_path, max_train_seconds=1, eval_strategy="epoch", logging_steps=500)
    run.stop.save_seconds = 1.0  # as long as that: the time is up when the first update is done
    steps = []
    for _ in range(2):
        with pytest.raises(Stopped, match="Stopped by max_train_seconds after update"):
            train(run)
        steps.append(run.state.global_step)
    assert steps == [1, 2]
    assert "eval_loss" in evaluate(run)


@pytest.fixture
def fresh_state() -> Any:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("compat", [False, True])
def test_a_run_stays_as_it_was_prepared_whatever_is_made_beside_it(
    compat: bool, tmp_path: Path, fresh_state: None
) -> None:
    alone = prepared(tmp_path / "alone", trainer_compat=compat)
    result = train(alone)
    run = prepared(tmp_path / "beside", trainer_compat=compat)
    prepared(tmp_path / "other", bf16=True)
    TrainingArguments(output_dir=str(tmp_path / "arguments"), use_cpu=True)  # empties the state that all share
    assert train(run).training_loss == result.training_loss
    assert weights_digest(run.model) == weights_digest(alone.model)
    assert run.accelerator.mixed_precision == "no"


def test_an_accelerator_made_later_divides_no_gradient(tmp_path: Path, fresh_state: None) -> None:
    alone = [update.grad_norm for update in updates(prepared(tmp_path / "alone", max_steps=2))]
    run = prepared(tmp_path / "beside", max_steps=2)
    Accelerator(cpu=True, gradient_accumulation_steps=4)
    assert [update.grad_norm for update in updates(run)] == alone


def test_a_model_that_was_trained_in_bf16_is_prepared_anew_in_fp32(tmp_path: Path) -> None:
    model = tiny_bert()
    row = pad([tiny_rows(1)[0]])
    model.eval()
    plain = model(**row).logits
    for _ in range(2):
        run = prepared(tmp_path / "bf16", model, bf16=True)
        assert not torch.equal(run.model.eval()(**row).logits, plain)
    again = prepared(tmp_path / "fp32", model)
    assert torch.equal(again.model.eval()(**row).logits, plain)


@pytest.mark.parametrize(
    ("given", "settings", "told"),
    [
        ({}, {"bf16": True}, r"accelerator: has mixed_precision='no', and the settings say bf16; they must agree"),
        ({"mixed_precision": "bf16"}, {}, r"has mixed_precision='bf16', and the settings say fp32 \(neither bf16"),
        ({"gradient_accumulation_steps": 4}, {}, "has gradient_accumulation_steps=4, and the settings say 1"),
        ({"split_batches": True}, {}, "accelerator: has split_batches=True"),
        ({"even_batches": False}, {}, "accelerator: has even_batches=False"),
        ({}, {"torch_compile": True}, "torch_compile: is done by the accelerator that prepare makes; leave one of"),
    ],
)
def test_an_accelerator_that_does_something_else_than_the_settings_say_is_refused(
    given: dict[str, Any], settings: dict[str, Any], told: str, tmp_path: Path, fresh_state: None
) -> None:
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | settings)
    with pytest.raises(UserError, match=told), contextlib.redirect_stdout(None):
        prepare(config, tiny_bert(), tiny_rows(8), data_collator=pad, accelerator=made(given))


def made(given: dict[str, Any]) -> Accelerator:
    from accelerate.utils import DataLoaderConfiguration

    loading = {name: given[name] for name in ("split_batches", "even_batches") if name in given}
    others = {name: value for name, value in given.items() if name not in loading}
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**loading), **others)


@pytest.mark.parametrize("settings", [{}, {"bf16": True}, {"tf32": False}, {"torch_compile": True}])
@pytest.mark.parametrize("launched", ["no", "bf16"])
def test_an_accelerator_that_was_made_by_the_settings_is_taken(
    launched: str, settings: dict[str, Any], tmp_path: Path, fresh_state: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command does it, with and without a launcher that says the precision."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | settings)
    own = make_accelerator(config)
    assert prepare(config, tiny_bert(), tiny_rows(8), data_collator=pad, accelerator=own).accelerator is own


def test_an_accelerator_that_accumulates_as_the_settings_say_does_not_do_it_twice(
    tmp_path: Path, fresh_state: None
) -> None:
    settings = {"max_steps": 2, "gradient_accumulation_steps": 2}
    alone = [update.grad_norm for update in updates(prepared(tmp_path / "alone", **settings))]
    AcceleratorState._reset_state(reset_partial_state=True)
    config = TrainConfig(output_dir=str(tmp_path / "mine"), **ARGUMENTS | settings)
    own = Accelerator(cpu=True, gradient_accumulation_steps=2)
    rows, eval_rows = Job(train_rows=29).data()
    run = prepare(config, tiny_bert(), rows, eval_rows, data_collator=pad, accelerator=own)
    assert [update.grad_norm for update in updates(run)] == alone
