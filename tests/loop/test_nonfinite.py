"""A loss or gradient that is not finite: kept from the weights, named with its rows and parameters, or left out."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from harness.command import python
from harness.faults import (
    ARGUMENTS,
    NAN,
    POISON,
    PoisonedBert,
    poisoned_bert,
    poisoned_both,
    poisoned_gradient,
    poisoned_loss,
    poisoned_rows,
)
from harness.faults import poisoned_run as prepared
from harness.fp16 import fp16_on_the_cpu
from harness.models import tiny_bert
from harness.rows import pad, tiny_pairs, tiny_tokenizer
from harness.side_by_side import weights_digest
from harness.waits import WaitsCounted
from transformers import Trainer, TrainingArguments

from ftloop import TrainConfig, UserError, load_checkpoint, nonfinite, save_checkpoint, train, updates
from ftloop.errors import TrainingError
from ftloop.nonfinite import MAX_OVERFLOWS, MAX_QUOTED, _replay, choose_optimizer_step
from ftloop.run.micro_batches import MicroBatch, rows_of_update
from ftloop.run.run import Run


def row_of(folder: Path, update: int, **arguments: Any) -> int:
    """A training row that this update of the first epoch sees."""
    return rows_of_update(prepared(folder, **arguments), update)[1]


def stopped(run: Run) -> str:
    with pytest.raises(TrainingError) as caught:
        train(run)
    return str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"gradient_accumulation_steps": 3, "dataloader_drop_last": True},
        {"seed": 7, "gradient_accumulation_steps": 2},
        {"data_seed": 7},
    ],
    ids=str,
)
def test_the_rows_of_an_update_are_those_its_micro_batches_hold(arguments: dict[str, Any], tmp_path: Path) -> None:
    from ftloop import training_step

    seen: list[list[int]] = []

    def watched(run: Run, micro_batch: MicroBatch) -> torch.Tensor:
        inputs = micro_batch.inputs
        rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        seen.extend(row[mask.bool()].tolist() for row, mask in rows)
        return training_step(run, micro_batch)

    run = prepared(tmp_path, **arguments)
    tokens = poisoned_rows()["input_ids"]
    checked = 0
    for update in updates(run, watched):
        rows = rows_of_update(run, update.global_step)
        assert [tokens[row] for row in rows] == seen
        assert len(rows) == update.rows
        checked += 1
        seen.clear()
    assert checked == run.plan.max_steps >= 4


@pytest.mark.parametrize("poison", [poisoned_loss, poisoned_gradient, poisoned_both])
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_training_stops_within_the_logging_window_before_any_save_with_the_weights_from_before(
    optim: str, poison: Any, tmp_path: Path
) -> None:
    """Update 6 is not finite: it is told before update 8 is saved, and not when update 10 is logged."""
    arguments = {"optim": optim, "logging_steps": 10, "save_strategy": "steps", "save_steps": 4}
    row = row_of(tmp_path / "0", 6)
    run = prepared(tmp_path / "out", row, model=poisoned_bert(poison), **arguments)
    message = stopped(run)
    assert message.startswith("update 6 of 16: the loss or the gradient is not finite")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-4"]
    assert run.state.global_step == (8 if optim == "adamw_torch_fused" else 5), "where the host looks anyway, it stops"
    before = prepared(tmp_path / "before", row, **arguments | {"save_strategy": "no"})
    for update in updates(before):
        if update.global_step == 5:
            break
    assert weights_digest(run.model) == weights_digest(before.model)


def test_the_message_names_rows_parameters_checkpoint_and_remedies(tmp_path: Path) -> None:
    row = row_of(tmp_path / "0", 6)
    arguments = {"logging_steps": 8, "save_strategy": "steps", "save_steps": 2}
    run = prepared(tmp_path / "out", row, model=poisoned_bert(poisoned_gradient), **arguments)
    message = stopped(run)
    loss = r"\(loss 0\.\d+\)"
    assert f"its 4 rows, from 1, of which these lead to it: {row + 1}\n" in message
    assert re.search(rf"\n  row {row + 1} {loss}: 'tokens (\d+ ){{2}}{POISON} ", message), message
    assert message.count("row ") == 1
    assert "parameters whose gradient is not finite: classifier.bias\n" in message
    assert f"the newest good checkpoint: {tmp_path / 'out' / 'checkpoint-4'}\n" in message
    for flag in ("--learning_rate below 0.001", "--max_grad_norm below 1", "--on_nonfinite skip"):
        assert flag in message
    assert "--bf16" not in message, "there is no fp16 to leave"


def test_a_row_whose_loss_alone_is_not_finite_is_told_by_its_loss(tmp_path: Path) -> None:
    row = row_of(tmp_path / "0", 3)
    message = stopped(prepared(tmp_path / "out", row, model=poisoned_bert(poisoned_loss)))
    assert f"row {row + 1} (loss inf): " in message
    assert "parameters whose gradient" not in message
    assert f"no checkpoint in {tmp_path / 'out'} yet" in message


def test_rows_are_quoted_as_they_were_read_shortened(tmp_path: Path) -> None:
    row = row_of(tmp_path / "0", 3)
    run = prepared(tmp_path / "out", row)
    run.source_rows = Dataset.from_list([{"text": f"text {i} {'long ' * 50}", "label": "a"} for i in range(29)])
    message = stopped(run)
    assert f"row {row + 1} (loss nan): text 'text {row} long " in message
    quoted = re.search(r"text '(.*)', label 'a'", message)
    assert quoted is not None
    assert len(quoted[1]) == MAX_QUOTED + 3
    decoded = prepared(tmp_path / "decoded", row)
    decoded.processing_class = tiny_tokenizer()
    assert re.search(rf"row {row + 1} \(loss nan\): '(word\d+|yes|no) ", stopped(decoded))


def test_where_the_rows_are_finite_one_by_one_that_is_said_and_all_are_named(tmp_path: Path) -> None:
    """Not finite only in company."""

    class Sociable(PoisonedBert):
        def forward(self, input_ids: torch.Tensor, labels: Any = None, **kwargs: Any) -> Any:
            outputs = super().forward(input_ids, labels=labels, **kwargs)
            alone = len(input_ids) == 1 or self.training is False
            outputs.loss = outputs.loss if alone else outputs.loss * NAN
            return outputs

    model = Sociable(tiny_bert().config)
    run = prepared(tmp_path, model=model)
    message = stopped(run)
    rows = ", ".join(str(row + 1) for row in rows_of_update(run, 1))
    assert "not reproduced row by row with the weights as they are now" in message
    assert f"its 4 rows, from 1: {rows}\n" in message


def test_rows_that_cannot_be_tried_alone_do_not_hide_what_happened(tmp_path: Path) -> None:
    class NeverAlone(PoisonedBert):
        def forward(self, input_ids: torch.Tensor, labels: Any = None, **kwargs: Any) -> Any:
            if len(input_ids) == 1:
                raise ValueError("more than one row, please")
            return super().forward(input_ids, labels=labels, **kwargs)

    row = row_of(tmp_path / "0", 3)
    message = stopped(prepared(tmp_path, row, model=NeverAlone(tiny_bert().config)))
    assert message.startswith("update 3 of 16")
    assert "could not be tried one by one (ValueError('more than one row, please'))" in message


def test_weights_that_were_broken_before_are_named(tmp_path: Path) -> None:
    model = poisoned_bert()
    with torch.no_grad():
        model.classifier.weight[0, 0] = NAN
    message = stopped(prepared(tmp_path, model=model))
    assert "weights that were not finite before it: classifier.weight\n" in message
    assert re.search(r"parameters whose gradient is not finite: (\S+, ){4}\S+ and \d+ more", message)


def test_trying_the_rows_draws_no_random_number(tmp_path: Path) -> None:
    run = prepared(tmp_path, 5)
    before = torch.get_rng_state()
    losses, gradients = _replay(run, range(8))
    assert list(losses) == [5]
    assert gradients
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in run.model.parameters())


def waits_per_update(run: Run) -> list[int]:
    with WaitsCounted() as waits:
        counts = [waits.taken()[0] for _ in updates(run)]
    assert len(counts) == 6
    return counts[1:-1]  # in the first an iterator draws its seed; at the end the flag is read


def test_by_default_no_update_waits_for_the_host_and_skip_waits_once(tmp_path: Path) -> None:
    waits = {}
    arguments = {"model": tiny_bert(), "gradient_accumulation_steps": 3, "max_steps": 6, "num_train_epochs": 1}
    arguments |= {"logging_steps": 100, "per_device_train_batch_size": 1}
    for name, more in {
        "Trainer's": {"trainer_compat": True},
        "raise": {},
        "ignore": {"on_nonfinite": "ignore"},
        "skip": {"on_nonfinite": "skip"},
        "raise, not fused": {"optim": "adamw_torch"},
    }.items():
        waits[name] = waits_per_update(prepared(tmp_path, **arguments | more))
    plain = waits["Trainer's"]
    assert waits["raise"] == plain
    assert waits["ignore"] == plain
    assert waits["skip"] == [count + 1 for count in plain]
    fetched_by_foreach = waits["raise, not fused"][0] - plain[0] - 1  # of its own step counters, by AdamW
    assert waits["raise, not fused"] == [count + 1 + fetched_by_foreach for count in plain]


def test_between_log_lines_nothing_is_read_and_at_them_it_is(tmp_path: Path) -> None:
    run = prepared(tmp_path, row_of(tmp_path, 2), logging_steps=4)
    steps = []
    with pytest.raises(TrainingError, match="update 2 of 16"):
        steps.extend(update.global_step for update in updates(run))
    assert steps == [1, 2, 3], "in a loop body of the user's own too"


def test_a_body_of_the_users_own_is_told_at_the_end_at_the_latest(tmp_path: Path) -> None:
    run = prepared(tmp_path, row_of(tmp_path, 2), logging_steps=500, max_steps=3)
    with pytest.raises(TrainingError, match="update 2 of 3"):
        list(updates(run))


@pytest.mark.parametrize("due", ["an evaluation", "an epoch's log line", "the first log line"])
def test_it_is_looked_at_wherever_the_host_waits_anyway(due: str, tmp_path: Path) -> None:
    arguments, stops_at = {
        "an evaluation": ({"logging_steps": 500, "eval_strategy": "steps", "eval_steps": 3}, 3),
        "an epoch's log line": ({"logging_strategy": "epoch", "logging_steps": 500}, 8),
        "the first log line": ({"logging_first_step": True, "logging_steps": 500}, 1),
    }[due]
    run = prepared(tmp_path / "out", row_of(tmp_path, 1), **arguments)
    stopped(run)
    assert run.state.global_step == stops_at
    assert not run.state.log_history


def test_a_request_to_stop_saves_nothing_that_is_not_finite(tmp_path: Path) -> None:
    run = prepared(tmp_path / "out", row_of(tmp_path / "0", 1), logging_steps=500)
    run.stop.request("a test")
    assert stopped(run).startswith("update 1 of 16")
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_broken_checkpoint_is_not_named_as_good(tmp_path: Path) -> None:
    run = prepared(tmp_path / "out", row_of(tmp_path / "0", 6), save_strategy="steps", save_steps=2)

    def break_the_newest(*_: Any) -> None:
        (tmp_path / "out" / "checkpoint-4" / "model.safetensors").write_bytes(b"")

    run.model.register_forward_hook(lambda *_: break_the_newest() if run.state.global_step == 5 else None)
    assert f"the newest good checkpoint: {tmp_path / 'out' / 'checkpoint-2'}\n" in stopped(run)


def test_skipped_updates_count_and_move_neither_weights_nor_schedule_nor_the_logged_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = row_of(tmp_path / "0", 6)
    run = prepared(tmp_path, row, on_nonfinite="skip", logging_steps=4)
    rates, digests, losses = [], [], []
    for update in updates(run):
        rates.append(update.learning_rate)
        losses.append(update.loss.item())
        digests.append(weights_digest(run.model))
    bad = [step for step, loss in enumerate(losses, start=1) if not math.isfinite(loss)]
    assert len(bad) == 2, "once in each epoch"
    assert bad[0] == 6
    assert [step for step in range(2, 17) if digests[step - 1] == digests[step - 2]] == bad
    done = [sum(other not in bad for other in range(1, step)) for step in range(1, 17)]
    assert rates == pytest.approx([1e-3 * (16 - before) / 16 for before in done])
    assert run.state.global_step == 16

    told = prepared(tmp_path, row, on_nonfinite="skip", logging_steps=4)
    result = train(told)
    lines = [entry for entry in told.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in lines] == [4, 8, 12, 16]
    for entry in lines:
        here = [losses[s - 1] for s in range(entry["step"] - 3, entry["step"] + 1) if s not in bad]
        assert entry["loss"] == pytest.approx(sum(here) / len(here), rel=1e-6)  # float32 sums
        assert entry.get("nonfinite_updates", 0) == sum(step <= entry["step"] for step in bad)
    finite = [loss for loss in losses if math.isfinite(loss)]
    assert result.training_loss == pytest.approx(sum(finite) / 14, rel=1e-6)
    assert result.metrics["nonfinite_updates"] == 2
    printed = capsys.readouterr().out
    assert re.search(r"Update 8/16: loss=\S+, .*, nonfinite_updates=1\n", printed)
    assert "nonfinite_updates" not in printed[: printed.index("Update 8/16")]
    first_epoch = [loss for loss in losses[:8] if math.isfinite(loss)]
    shown = re.search(r"Epoch 1/2: loss=(\S+)", printed)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(sum(first_epoch) / 7, abs=1e-4)


def test_a_window_without_a_finite_update_has_no_mean(tmp_path: Path) -> None:
    run = prepared(tmp_path, row_of(tmp_path, 2), on_nonfinite="skip")
    train(run)
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert [math.isnan(loss) for loss in losses[:4]] == [False, True, False, False]
    none = prepared(tmp_path, *range(29), on_nonfinite="skip")
    assert math.isnan(train(none).training_loss)
    assert weights_digest(none.model) == weights_digest(poisoned_bert())


@pytest.mark.parametrize("mode", ["raise", "skip", "ignore"])
@pytest.mark.parametrize("optim", ["adamw_torch_fused", pytest.param("adamw_torch", marks=pytest.mark.slow)])
def test_a_run_of_finite_numbers_is_the_same_in_every_bit_whatever_is_asked(
    optim: str, mode: str, tmp_path: Path
) -> None:
    """Against trainer_compat, where nothing is looked at and the parity tests hold Trainer's own bits."""
    traces = []
    for arguments in ({"trainer_compat": True}, {"on_nonfinite": mode}):
        run = prepared(tmp_path, model=tiny_bert(), optim=optim, **arguments)
        result = train(run)
        state = run.optimizer.state_dict()["state"].values()
        moments = [[each[name].tolist() for name in ("step", "exp_avg", "exp_avg_sq")] for each in state]
        traces.append((weights_digest(run.model), moments, run.state.log_history[:-1], result.training_loss))
    assert traces[0] == traces[1]


def test_ignore_trains_on_says_nan_and_counts(tmp_path: Path) -> None:
    row = row_of(tmp_path / "0", 6)
    run = prepared(tmp_path, row, on_nonfinite="ignore", logging_steps=4)
    train(run)
    lines = [entry for entry in run.state.log_history if "loss" in entry]
    assert [math.isnan(entry["loss"]) for entry in lines] == [False, True, True, True]
    assert [entry.get("nonfinite_updates") for entry in lines] == [None, 3, 7, 11], "all from update 6 on"
    assert any(parameter.isnan().any() for parameter in run.model.parameters())


@pytest.mark.parametrize("poison", [poisoned_loss, poisoned_both])
def test_with_trainer_compat_nothing_is_guarded(poison: Any, tmp_path: Path) -> None:
    row = row_of(tmp_path / "0", 3)
    run = prepared(tmp_path, row, model=poisoned_bert(poison), trainer_compat=True, max_steps=6)
    train(run)
    model = poisoned_bert(poison)
    args = TrainingArguments(output_dir=str(tmp_path), **ARGUMENTS | {"max_steps": 6})
    trainer = Trainer(model=model, args=args, train_dataset=poisoned_rows(row), data_collator=pad)
    trainer.train()
    assert weights_digest(run.model) == weights_digest(model)
    said = [[entry.get("loss"), str(entry.get("grad_norm"))] for entry in run.state.log_history]
    assert said == [[entry.get("loss"), str(entry.get("grad_norm"))] for entry in trainer.state.log_history]
    assert "nonfinite_updates" not in str(run.state.log_history)


def test_trainer_compat_and_skip_are_one_run_too_many(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on_nonfinite: skip is not what Trainer does"):
        TrainConfig(trainer_compat=True, on_nonfinite="skip")
    TrainConfig(trainer_compat=True, on_nonfinite="ignore")


@pytest.mark.parametrize("mode", ["skip", pytest.param("ignore", marks=pytest.mark.slow)])
def test_what_was_counted_and_left_out_survives_a_resume(mode: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"on_nonfinite": mode, "logging_steps": 5}
    poison = poisoned_both if mode == "skip" else poisoned_loss
    row = row_of(tmp_path / "0", 6)
    saving = arguments | {"save_strategy": "steps", "save_steps": 1}
    whole = prepared(tmp_path / "whole", row, model=poisoned_bert(poison), **saving)
    result = train(whole)
    assert result.metrics["nonfinite_updates"] == 2
    for step in (5, 6, 7, 10, 13):
        resumed = prepared(tmp_path / "resumed", row, model=poisoned_bert(poison), **arguments)
        load_checkpoint(resumed, tmp_path / "whole" / f"checkpoint-{step}")
        again = train(resumed)
        histories = [json.dumps(run.state.log_history[:-1], sort_keys=True) for run in (resumed, whole)]
        assert histories[0] == histories[1], step
        assert str(again.training_loss) == str(result.training_loss)
        assert again.metrics["nonfinite_updates"] == 2
        assert weights_digest(resumed.model) == weights_digest(whole.model)


def test_a_recording_tells_a_skipped_update_as_one_that_moved_nothing(tmp_path: Path) -> None:
    from ftloop.compare import read, record

    run = prepared(tmp_path, row_of(tmp_path, 3), on_nonfinite="skip", max_steps=5)
    with record(run, tmp_path / "run.jsonl") as recording:
        train(run, recording.training_step)
    recorded = {step: line for step, (line,) in read(tmp_path / "run.jsonl").updates.items()}
    assert list(recorded) == [1, 2, 3, 4, 5]
    assert [len(recorded[step]["micro_batches"]) for step in recorded] == [1] * 5
    assert recorded[3]["weights"] == recorded[2]["weights"]
    assert recorded[4]["weights"] != recorded[3]["weights"]


class Steep(PoisonedBert):
    """Its gradient is not finite in as many updates as `overflowing` says, from the first; its loss is."""

    overflowing = 0

    def forward(self, input_ids: torch.Tensor, labels: Any = None, **kwargs: Any) -> Any:
        outputs = super().forward(input_ids, labels=labels, **kwargs)
        if self.training and self.overflowing > 0:
            self.overflowing -= 1
            outputs.loss = poisoned_gradient(self, outputs.loss)
        return outputs


def steep(overflowing: int) -> Steep:
    model = Steep(tiny_bert().config)
    model.load_state_dict(tiny_bert().state_dict())
    model.overflowing = overflowing
    return model


def scaler_of(run: Run) -> torch.amp.GradScaler:
    assert run.accelerator.scaler is not None
    return run.accelerator.scaler


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_overflows_that_the_scaler_handles_are_counted_and_no_error(optim: str, tmp_path: Path) -> None:
    with fp16_on_the_cpu():
        run = prepared(tmp_path, model=steep(3), optim=optim, logging_steps=2, max_steps=8)
        result = train(run)
    assert scaler_of(run).get_scale() == 2**16 / 2**3
    lines = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["overflows"] for entry in lines] == [2, 3, 3, 3]
    assert result.metrics["overflows"] == 3
    assert "nonfinite_updates" not in str(run.state.log_history)
    assert run.counters.overflows_in_a_row == 0
    assert run.scheduler.last_epoch == 8 - 3, "the schedule waits"


def test_many_overflows_in_a_row_are_an_error_that_names_the_rows(tmp_path: Path) -> None:
    with fp16_on_the_cpu():
        run = prepared(tmp_path, model=steep(10**6), num_train_epochs=5, logging_steps=500)
        message = stopped(run)
    assert message.startswith(f"update {MAX_OVERFLOWS} of 40: the gradient overflowed, as in the 19 updates before it")
    rows = ", ".join(str(row + 1) for row in rows_of_update(run, MAX_OVERFLOWS))
    assert f"its 4 rows, from 1, of which these lead to it: {rows}\n" in message
    assert "parameters whose gradient is not finite: classifier.bias\n" in message
    assert "--bf16 in place of --fp16" in message


@pytest.mark.parametrize("mode", ["skip", "ignore"])
def test_asked_to_go_on_many_overflows_are_counted_only(mode: str, tmp_path: Path) -> None:
    with fp16_on_the_cpu():
        run = prepared(tmp_path, model=steep(25), num_train_epochs=4, logging_steps=500, on_nonfinite=mode)
        result = train(run)
    assert result.metrics["overflows"] == 25
    assert run.scheduler.last_epoch == 32 - 25


@pytest.mark.parametrize("mode", ["skip", "ignore"])
def test_a_scale_that_has_come_down_to_nothing_ends_training_whatever_is_asked(mode: str, tmp_path: Path) -> None:
    """Nothing would be learned any more: it never rises again."""
    with fp16_on_the_cpu(scale=2.0**-130):
        run = prepared(tmp_path, model=steep(10**6), num_train_epochs=4, logging_steps=500, on_nonfinite=mode)
        message = stopped(run)
    assert message.startswith("update 20 of 32: the gradient overflowed, as in the 19 updates before it")
    assert "on_nonfinite" not in message
    assert run.counters.overflows == 20
    assert run.scheduler.last_epoch == 0


def test_overflows_in_a_row_are_counted_on_over_a_resume(tmp_path: Path) -> None:
    with fp16_on_the_cpu():
        first = prepared(tmp_path / "first", model=steep(10**6), num_train_epochs=5, logging_steps=500)
        for update in updates(first):
            if update.global_step == 12:
                save_checkpoint(first)
                break
        resumed = prepared(tmp_path / "resumed", model=steep(10**6), num_train_epochs=5, logging_steps=500)
        load_checkpoint(resumed, tmp_path / "first" / "checkpoint-12")
        assert stopped(resumed).startswith(f"update {MAX_OVERFLOWS} of 40")


def test_the_flag_is_left_to_no_kernel_that_ignores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's takes it and does not look at it: there the host looks before each step."""
    run = prepared(tmp_path)
    chosen = {}
    for device in ("cpu", "cuda", "mps", "xpu"):
        monkeypatch.setattr(run.accelerator.state, "device", torch.device(device))
        chosen[device] = choose_optimizer_step(run)
    assert chosen["cuda"] is chosen["cpu"]
    assert chosen["xpu"] is chosen["mps"] is not chosen["cpu"]
    run = prepared(tmp_path / "out", row := row_of(tmp_path / "0", 6))
    monkeypatch.setattr(nonfinite, "FLAG_IS_HEEDED_ON", ())
    assert stopped(run).startswith("update 6 of 16: the loss or the gradient is not finite")
    assert run.state.global_step == 5, "before the step, not at the next log line"
    before = prepared(tmp_path / "before", row)
    for update in updates(before):
        if update.global_step == 5:
            break
    assert weights_digest(run.model) == weights_digest(before.model)


@pytest.mark.slow
def test_the_command_quotes_the_rows_and_ends_with_its_own_exit_code(tiny_folder: Path, tmp_path: Path) -> None:
    """A learning rate that throws the weights so far off in the first update that the second overflows float32."""
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--train_file", str(tiny_folder / "train.jsonl")]
    words += ["--output_dir", str(tmp_path / "out"), "--use_cpu", "--learning_rate", "1e30", "--logging_steps", "3"]
    errors = python(*words, expect=3).stderr
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert "update 2 of 12: the loss or the gradient is not finite" in errors
    pairs = tiny_pairs(29)
    quoted = re.findall(r"row (\d+) \(loss \S+\): sentence1 '(.*)', sentence2 '(.*)', label '(.)'", errors)
    assert quoted
    for number, first, second, label in quoted:
        row = pairs[int(number) - 1]
        assert (first, second[:30], label) == (row["sentence1"], row["sentence2"][:30], str(row["label"]))
    assert not list((tmp_path / "out").glob("checkpoint-*"))
