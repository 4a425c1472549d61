"""Batches that do not fit into memory: split, the update done over, and the run is the same; or told with remedies."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.command import CHECKOUT
from harness.command import run as run_command
from harness.faults import MESSAGE, SmallMemory
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import BASE, QUIET, Job, weights_digest
from torch import Tensor

from ftloop import TrainConfig, UserError, evaluate, load_checkpoint, predict, prepare, train, training_step, updates
from ftloop.compare import read, record
from ftloop.errors import TrainingError
from ftloop.loop import forward_backward
from ftloop.oom import train_in_memory
from ftloop.run.micro_batches import MicroBatch, num_rows
from ftloop.run.run import Run
from ftloop.system.out_of_memory import is_out_of_memory

ARGUMENTS: dict[str, Any] = QUIET | BASE | {"eval_strategy": "no", "save_strategy": "no", "auto_micro_batch": True}


def prepared(folder: Path, memory: SmallMemory | None = None, dropout: float = 0.0, **arguments: Any) -> Run:
    job = Job()
    train_rows, eval_rows = job.data()
    model = tiny_bert(dropout=dropout)
    if memory is not None:
        memory.of(model)
    config = TrainConfig(output_dir=str(folder), **ARGUMENTS | arguments)
    return prepare(config, model, train_rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)


def losses_of(run: Run) -> list[tuple[float, float]]:
    return [(update.loss.item(), float(update.grad_norm)) for update in updates(run)]  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_split_run_has_the_losses_of_the_unsplit_one(
    rows: int, accumulation: int, where: str, tmp_path: Path
) -> None:
    """Dropout off. Only the order of summing differs, and AdamW carries it on: to 1e-5 of the loss over 16 updates
    (measured: 1e-7), 1e-5 of the gradient norm."""
    memory = SmallMemory(rows=rows, where=where)
    arguments = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4}
    split = losses_of(prepared(tmp_path, memory, **arguments))
    whole = losses_of(prepared(tmp_path, **arguments | {"auto_micro_batch": False}))
    assert len(split) == len(whole) == {1: 16, 3: 6}[accumulation]
    halvings = {3: [4], 2: [4], 1: [4, 2]}[rows]
    assert [shape[0] for shape in memory.failures] == halvings, "found out once, then remembered"
    for ours, theirs in zip(split, whole, strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
        assert ours[1] == pytest.approx(theirs[1], rel=1e-5)


def test_a_run_whose_batches_fit_is_the_same_in_every_bit(tmp_path: Path) -> None:
    digests = []
    for auto in (True, False):
        run = prepared(tmp_path, dropout=0.1, auto_micro_batch=auto, gradient_accumulation_steps=3)
        train(run)
        digests.append((weights_digest(run.model), run.state.log_history[:-1]))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_what_had_fitted_is_done_over_to_the_same_bits_dropout_on(where: str, tmp_path: Path) -> None:
    """The first update's micro-batches have 68, 72 and 76 tokens, and the memory 75."""
    calls: list[tuple[int, float]] = []

    def watched(run: Run, micro_batch: MicroBatch) -> Tensor:
        loss = forward_backward(run, micro_batch)
        calls.append((num_rows(micro_batch.inputs), loss.item()))
        return loss

    memory = SmallMemory(tokens=75, where=where)
    run = prepared(tmp_path, memory, dropout=0.1, gradient_accumulation_steps=3, data_seed=44)
    update = next(updates(run, lambda *of: train_in_memory(of[0], watched, of[1])))
    assert memory.failures == [(4, 19)]
    assert [rows for rows, _ in calls] == [4, 4, 4, 4, 2, 2]
    assert calls[:2] == calls[2:4], "the same dropout"
    assert [loss.item() for loss in update.losses[:2]] == [loss for _, loss in calls[:2]]
    assert update.losses[2].item() == pytest.approx(sum(loss for _, loss in calls[4:]), rel=1e-6)


def test_dropout_begins_where_the_update_began(tmp_path: Path) -> None:
    """A micro-batch that has to be split draws what it would have drawn had it been split from the start."""
    done = []
    for memory, known in ((SmallMemory(rows=2, where="backward"), None), (None, 2)):
        run = prepared(tmp_path, memory, dropout=0.1, gradient_accumulation_steps=2)
        run.counters.micro_batch_rows = known
        done.append((losses_of(run), weights_digest(run.model)))
    assert done[0] == done[1]


def test_the_split_is_told_once_logged_and_in_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = SmallMemory(rows=1)
    run = prepared(tmp_path / "whole", memory, save_strategy="steps", save_steps=4, logging_steps=4)
    train(run)
    printed = capsys.readouterr().out
    assert printed.count("Memory    ") == 1
    assert "Memory    update 1: 4 rows did not fit in memory; continuing with 1 at a time" in printed
    entries = [entry for entry in run.state.log_history if "micro_batch_rows" in entry]
    assert entries == [{"micro_batch_rows": 1, "epoch": 0, "step": 0}]
    own = json.loads((tmp_path / "whole" / "checkpoint-8" / "ftloop_state.json").read_text())
    assert own["mishaps"]["micro_batch_rows"] == 1

    afterwards = SmallMemory(rows=1)
    resumed = prepared(tmp_path / "resumed", afterwards, logging_steps=4)
    load_checkpoint(resumed, tmp_path / "whole" / "checkpoint-8")
    train(resumed)
    assert not afterwards.failures
    assert resumed.state.log_history[:-1] == run.state.log_history[:-1]
    assert weights_digest(resumed.model) == weights_digest(run.model)


def test_the_schedule_and_the_rows_of_an_update_stay(tmp_path: Path) -> None:
    done = {}
    for name, memory in (("whole", None), ("split", SmallMemory(rows=1, where="backward"))):
        run = prepared(tmp_path, memory, gradient_accumulation_steps=3, warmup_steps=2)
        done[name] = [
            (update.global_step, update.rows, update.learning_rate, update.epoch, len(update.losses))
            for update in updates(run)
        ]
    assert done["split"] == done["whole"]


def test_an_update_broken_off_by_hand_leaves_nothing_behind(tmp_path: Path) -> None:
    """The next one begins with its own first micro-batch, and that is what a split does over."""
    arguments = {"gradient_accumulation_steps": 3}
    memory = SmallMemory()
    run = prepared(tmp_path, memory, **arguments)
    calls = []

    def interrupted(*given: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return training_step(*given)

    with pytest.raises(KeyboardInterrupt):
        next(updates(run, interrupted))
    memory.rows = 2
    assert losses_of(run) == losses_of(prepared(tmp_path, SmallMemory(rows=2), **arguments))


def test_where_not_even_one_row_fits_its_length_is_told(tmp_path: Path) -> None:
    run = prepared(tmp_path, SmallMemory(rows=0))
    with pytest.raises(TrainingError) as caught:
        train(run)
    message = str(caught.value)
    assert message.startswith("update 1: a micro-batch of 1 row of ")
    assert "--max_seq_length, --bf16 or --fp16, --gradient_checkpointing" in message
    assert "--auto_micro_batch" not in message
    assert "CUDA out of memory. Tried to allocate 2.00 GiB" in message


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_without_the_flag_the_error_names_it_the_batch_and_the_remedies(where: str, tmp_path: Path) -> None:
    longest = max(map(len, tiny_rows(29, seed=1)["input_ids"]))
    memory = SmallMemory(tokens=4 * longest - 1, where=where)
    run = prepared(tmp_path, memory, auto_micro_batch=False, gradient_accumulation_steps=2)
    with pytest.raises(TrainingError) as caught:
        train(run)
    message = str(caught.value)
    assert message.startswith(
        f"update {run.state.global_step + 1}: a micro-batch of 4 rows of {longest} tokens did not"
    )
    assert "--per_device_train_batch_size below 4 with as many times more --gradient_accumulation_steps" in message
    for flag in ("--auto_micro_batch", "--max_seq_length", "--bf16", "--fp16", "--gradient_checkpointing"):
        assert flag in message
    assert caught.value.exit_code == 3


def test_of_a_token_budget_the_error_names_the_budget_and_no_remedy_that_is_refused(tmp_path: Path) -> None:
    run = prepared(tmp_path, SmallMemory(tokens=10), auto_micro_batch=False, batching="token_budget")
    with pytest.raises(TrainingError) as caught:
        train(run)
    assert run.plan.budget is not None
    assert f"what to try: a --max_tokens_per_batch below {run.plan.budget.max_tokens}\n" in str(caught.value)
    assert "--auto_micro_batch" not in str(caught.value)


def test_another_runtime_error_is_left_alone(tmp_path: Path) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    for auto in (True, False):
        run = prepared(tmp_path, auto_micro_batch=auto)
        with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
            next(updates(run, lambda *of: train_in_memory(of[0], broken, of[1])))
        assert type(caught.value) is RuntimeError


def test_what_torch_says_without_memory_is_understood() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError(MESSAGE))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_an_evaluation_batch_that_does_not_fit_is_split_to_the_same_results(
    rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of 5, 5 and 3 rows, whose parts are not all alike."""
    memory = SmallMemory(rows=rows, only_training=False)
    run = prepared(tmp_path, memory, per_device_eval_batch_size=5)
    plain = prepared(tmp_path, per_device_eval_batch_size=5)
    whole, split = predict(plain, run.eval_dataset), predict(run, run.eval_dataset)
    # Matrix products of other shapes: their last digits.
    np.testing.assert_allclose(split.predictions, whole.predictions, rtol=1e-4, atol=1e-6)
    assert (split.label_ids == whole.label_ids).all()
    assert split.metrics["test_loss"] == pytest.approx(whole.metrics["test_loss"], rel=1e-6)
    halvings = {1: [5, 3, 2], 2: [5, 3], 3: [5]}[rows]
    assert [shape[0] for shape in memory.failures] == halvings
    assert (
        f"Memory    evaluation: 5 rows did not fit in memory; continuing with {rows} at a time"
        in capsys.readouterr().out
    )
    assert run.state.log_history == [{"eval_batch_rows": rows, "epoch": 0, "step": 0}]
    assert (run.counters.eval_batch_rows, run.counters.micro_batch_rows) == (rows, None), "training has its own"
    evaluate(run)
    assert [shape[0] for shape in memory.failures] == halvings
    assert predict(run, tiny_rows(7).remove_columns("label")).predictions.shape == (7, 2)


@pytest.mark.slow
def test_the_limits_of_training_and_evaluation_are_kept_apart_over_a_resume(tmp_path: Path) -> None:
    memory = SmallMemory(rows=2, only_training=False)
    arguments = {"per_device_eval_batch_size": 6, "eval_strategy": "epoch"}
    run = prepared(tmp_path / "whole", memory, save_strategy="epoch", per_device_train_batch_size=4, **arguments)
    train(run)
    assert [shape[0] for shape in memory.failures] == [4, 6, 3]
    afterwards = SmallMemory(rows=2, only_training=False)
    resumed = prepared(tmp_path / "resumed", afterwards, **arguments)
    load_checkpoint(resumed, tmp_path / "whole" / "checkpoint-8")
    train(resumed)
    assert not afterwards.failures
    assert weights_digest(resumed.model) == weights_digest(run.model)


def test_without_the_flag_an_evaluation_names_its_own_batch_size(tmp_path: Path) -> None:
    run = prepared(tmp_path, SmallMemory(rows=2, only_training=False), auto_micro_batch=False)
    with pytest.raises(TrainingError) as caught:
        evaluate(run)
    message = str(caught.value)
    assert message.startswith("evaluation: a batch of 4 rows of ")
    assert "--per_device_eval_batch_size below 4" in message
    assert "--auto_micro_batch" in message
    assert "train_batch_size" not in message
    assert "--gradient_checkpointing" not in message


def test_one_row_too_long_to_evaluate_is_told(tmp_path: Path) -> None:
    run = prepared(tmp_path, SmallMemory(rows=0, only_training=False))
    with pytest.raises(TrainingError, match=r"evaluation: a batch of 1 row of \d+ tokens did not fit"):
        evaluate(run)


@pytest.mark.slow
def test_it_works_with_gradient_checkpointing_and_bf16(tmp_path: Path) -> None:
    """In bf16 sums in another order part sooner: 8 bits of mantissa."""
    for arguments, tolerance in (({"gradient_checkpointing": True}, 1e-5), ({"bf16": True}, 2e-2)):
        split = losses_of(prepared(tmp_path, SmallMemory(rows=1, where="backward"), **arguments))
        whole = losses_of(prepared(tmp_path, auto_micro_batch=False, **arguments))
        assert [loss for loss, _ in split] == pytest.approx([loss for loss, _ in whole], rel=tolerance)


def test_it_is_refused_with_trainer_compat_and_auto_find_batch_size_is_answered() -> None:
    with pytest.raises(UserError, match="auto_micro_batch: not with trainer_compat"):
        TrainConfig(auto_micro_batch=True, trainer_compat=True)
    from ftloop.config.command_line import parse_args

    with pytest.raises(UserError, match="--auto_micro_batch splits"):
        parse_args(["guide", "--auto_find_batch_size"])


def recorded(folder: Path, memory: SmallMemory | None) -> Iterator[Any]:
    run = prepared(folder, memory, gradient_accumulation_steps=3, num_train_epochs=1)
    with record(run, folder / "run.jsonl") as recording:
        train(run, recording.training_step)
    for line in read(folder / "run.jsonl").updates.values():
        yield line[0]


def test_a_recording_of_a_split_run_has_the_micro_batches_of_the_loop(tmp_path: Path) -> None:
    """Each once, whole, with its random state before and the gradient after it, however often it was done."""
    whole = list(recorded(tmp_path / "whole", None))
    split = list(recorded(tmp_path / "split", SmallMemory(tokens=75, where="backward")))
    assert len(whole) == len(split) == 3
    compared = 0
    for a, b in zip(whole, split, strict=True):
        for one, other in zip(a["micro_batches"], b["micro_batches"], strict=True):
            assert [one[name] for name in ("rows", "shape", "batch", "rng")] == [
                other[name] for name in ("rows", "shape", "batch", "rng")
            ]
            assert one.get("fresh") == other.get("fresh")
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)  # summed in another order
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
            compared += 1
    assert compared == 8


SMALL = """
import sys
sys.path.insert(0, sys.argv[1])
from harness.faults import SmallMemory
import ftloop.models.load, ftloop.train
load = ftloop.models.load.load_model
def load_small(*given):
    model, new = load(*given)
    return SmallMemory(rows=2).of(model), new
ftloop.models.load.load_model = load_small
sys.exit(ftloop.train.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_the_command_splits_and_without_the_flag_ends_with_its_own_exit_code(tiny_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SMALL, str(CHECKOUT / "tests")]
    command += ["--model_name_or_path", str(tiny_folder / "model"), "--train_file", str(tiny_folder / "train.jsonl")]
    command += ["--use_cpu", "--max_steps", "2", "--output_dir"]
    without = run_command(*command, str(tmp_path / "without"), expect=3)
    assert without.stderr.startswith("error: update 1: a micro-batch of 8 rows of ")
    elsewhere = run_command(*command, str(tmp_path / "without"), expect=3, RANK="1")
    assert elsewhere.stderr.startswith("error in process 1: update 1: "), (
        "told by the process it happened in, whichever it is"
    )
    with_it = run_command(*command, str(tmp_path / "with"), "--auto_micro_batch")
    assert "Memory    update 1: 8 rows did not fit in memory; continuing with 2 at a time" in with_it.stdout
