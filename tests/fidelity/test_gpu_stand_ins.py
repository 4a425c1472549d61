"""What only a GPU shows, shown without one: waits for the device, tensors on the wrong device, fp16.

`test_gpu.py` says the same on a GPU itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from harness.cross_resume import CASES, SIDES, assert_crossings_are_trainers, assert_default_continues
from harness.fp16 import (
    FIRST_SCALE,
    LOUD,
    fp16_on_the_cpu,
    learning_rates,
    rates_of_a_schedule_that_waits,
    scale_at,
    skipped_updates,
    without_counts,
)
from harness.meta_device import meta_device
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import BASE, QUIET, Job, assert_same_run, run_trainer
from harness.waits import WaitsCounted
from transformers import Trainer, TrainerCallback, TrainingArguments

from ftloop import Run, TrainConfig, evaluate, load_checkpoint, prepare, updates
from ftloop.system.row_buffer import RowBuffer

ARGUMENTS = {"gradient_accumulation_steps": 3, "logging_steps": 100, "num_train_epochs": 3}
OPTIMIZERS = ["adamw_torch_fused", "adamw_torch"]


@pytest.fixture
def on_meta() -> Iterator[Accelerator]:
    with meta_device() as accelerator:
        yield accelerator


def prepared(folder: Path, accelerator: Accelerator, **arguments: Any) -> Run:
    settings = QUIET | BASE | {"eval_strategy": "no", "save_strategy": "no"} | ARGUMENTS | arguments
    config = TrainConfig(output_dir=str(folder), **settings)
    return prepare(
        config, tiny_bert(), tiny_rows(29, seed=1), tiny_rows(13, seed=2), data_collator=pad, accelerator=accelerator
    )


def train_on(run: Run, count: int = 4) -> int:
    """Make some updates, of the first epoch and the second. Returns: how many."""
    done = 0
    for update in updates(run):
        assert update.loss.device.type == "meta"
        done += 1
        if done == count:
            break
    return done


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"on_nonfinite": "ignore"},
        {"class_weights": "balanced"},
        {"per_device_train_batch_size": 1},  # a row without padding
        {"first_token_only": True},
        {"padding": "none"},
        {"padding": "none", "first_token_only": True},
        {"dataloader_num_workers": 1},
    ],
    ids=str,
)
def test_nothing_of_an_update_or_an_evaluation_waits_for_the_device_or_is_left_on_another(
    arguments: dict[str, Any], on_meta: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, on_meta, **arguments)
    assert train_on(run) == 4
    for parameter, state in run.optimizer.state.items():
        assert {tensor.device for tensor in state.values()} == {parameter.device}
    read: list[torch.Tensor] = []

    def at_the_end(buffer: RowBuffer) -> Any:
        if buffer.values is None:
            return None
        read.append(buffer.values)
        return torch.zeros_like(buffer.values, device="cpu").numpy()

    monkeypatch.setattr(RowBuffer, "to_numpy", at_the_end)
    evaluate(run)
    assert [tensor.device.type for tensor in read] == ["meta"] * 3, "logits, labels and losses, read once each"


def test_a_wait_is_seen(on_meta: Accelerator, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        train_on(prepared(tmp_path, on_meta, on_nonfinite="skip"))


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("saved_by", ["ftloop", "trainer"])
@pytest.mark.parametrize(("saved", "resumed"), [OPTIMIZERS, OPTIMIZERS[::-1]], ids=["fused first", "fused second"])
def test_the_other_adamws_checkpoint_is_loaded_to_the_right_device(
    saved: str, resumed: str, saved_by: str, tmp_path: Path
) -> None:
    """The fused AdamW wants its `step` on the device; the other would wait there for each parameter's."""
    arguments = ARGUMENTS | {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "max_steps": 4}
    SIDES[saved_by](Job(), tmp_path, **BASE | arguments | {"optim": saved})
    with meta_device() as accelerator:
        arguments |= {"optim": resumed, "on_nonfinite": "ignore", "resume_with_changes": True}
        run = prepared(tmp_path / "resumed", accelerator, **arguments)
        load_checkpoint(run, tmp_path / "checkpoint-2")
        assert train_on(run, 1) == 1
        is_fused = resumed == "adamw_torch_fused"
        assert {state["step"].device.type for state in run.optimizer.state.values()} == {"meta" if is_fused else "cpu"}
        assert all(group["fused"] is (True if is_fused else None) for group in run.optimizer.param_groups)


@pytest.mark.parametrize(("saved", "resumed"), [OPTIMIZERS, OPTIMIZERS[::-1]], ids=["fused first", "fused second"])
def test_trainer_compat_goes_on_with_the_adamw_that_the_checkpoint_has(
    saved: str, resumed: str, tmp_path: Path
) -> None:
    """As Trainer does, whatever is asked."""
    arguments = BASE | ARGUMENTS | {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "max_steps": 4}
    run_trainer(Job(), tmp_path, **arguments | {"optim": saved})
    ends = [
        run(
            Job(),
            tmp_path / name,
            str(tmp_path / "checkpoint-2"),
            trainer_compat=True,
            **arguments | {"optim": resumed},
        )
        for name, run in SIDES.items()
    ]
    assert_same_run(*ends)


PRECISIONS: dict[str, dict[str, bool]] = {"fp32": {}, "bf16": {"bf16": True}, "fp16": {}}
COUNTED = BASE | {"save_strategy": "no", "eval_strategy": "no", "logging_steps": 100, "max_steps": 6}


def of_our_updates(folder: Path, **arguments: Any) -> list[tuple[int, int]]:
    """Waits of each update: of the loop, and of the model."""
    model = tiny_bert()
    config = TrainConfig(output_dir=str(folder), **QUIET | COUNTED | arguments)
    run = prepare(config, model, tiny_rows(29), tiny_rows(13), data_collator=pad)
    with WaitsCounted(model) as waits:
        return [waits.taken() for _ in updates(run)]


def of_trainers_updates(folder: Path, **arguments: Any) -> list[tuple[int, int]]:
    model = tiny_bert()
    counts = []

    class Counting(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            counts.append(waits.taken())

    args = TrainingArguments(output_dir=str(folder), **QUIET | COUNTED | arguments)
    trainer = Trainer(model, args, pad, tiny_rows(29), tiny_rows(13), callbacks=[Counting()])
    with WaitsCounted(model) as waits:
        trainer.train()
    return counts


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_no_update_of_ours_waits_for_the_device_but_under_fp16_once(optim: str, precision: str, tmp_path: Path) -> None:
    """Trainer waits twice to see whether the loss is finite. On the CPU an AdamW that is not fused fetches each
    parameter's `step`, which is no wait on a GPU, as it is on the CPU there too.
    """
    arguments = PRECISIONS[precision] | {"optim": optim}
    with fp16_on_the_cpu() if precision == "fp16" else nullcontext():
        theirs = of_trainers_updates(tmp_path, **arguments)
        ours = of_our_updates(tmp_path, **arguments)
        compat = of_our_updates(tmp_path, trainer_compat=True, **arguments)
    # An iterator draws its seed in the first update, and at the end the flag is read.
    theirs, ours, compat = theirs[1:-1], ours[1:-1], compat[1:-1]
    is_fused = optim == "adamw_torch_fused"
    fetched = 0 if is_fused else len(list(tiny_bert().parameters()))
    waits = 1 if precision == "fp16" else 0 if is_fused else 1
    by_scaler = 1 if precision == "fp16" and not is_fused else 0
    in_model = ours[0][1]
    assert ours == [(fetched + waits, in_model)] * 4
    assert compat == [(fetched + by_scaler, in_model)] * 4
    assert theirs == [(fetched + 2 + by_scaler, 1)] * 4


def test_no_batch_of_an_evaluation_waits_for_the_device(tmp_path: Path) -> None:
    counts = []
    for rows in (4, 13):
        model = tiny_bert()
        config = TrainConfig(output_dir=str(tmp_path), **QUIET | COUNTED | {"per_device_eval_batch_size": rows})
        run = prepare(config, model, tiny_rows(29), tiny_rows(13), data_collator=pad)
        with WaitsCounted(model) as waits:
            evaluate(run)
        counts.append(waits.taken()[0])
    assert counts[0] == counts[1], "as many for 4 batches as for one"


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_fp16_with_overflows_is_trainers_run_and_its_schedule_waits(optim: str, tmp_path: Path) -> None:
    """Gradients are unscaled before they are clipped and their norm is logged; an update that overflows is skipped."""
    with fp16_on_the_cpu():
        theirs = LOUD.run("trainer", tmp_path / "trainer", optim=optim)
        compat = LOUD.run("ftloop", tmp_path / "compat", optim=optim, trainer_compat=True)
        ours = LOUD.run("ftloop", tmp_path / "ftloop", optim=optim)
    assert_same_run(theirs, compat)
    skipped = skipped_updates(tmp_path / "ftloop")
    assert skipped[0] == 1
    norms = {entry["step"]: entry["grad_norm"] for entry in ours.history if "grad_norm" in entry}
    assert {step for step, norm in norms.items() if norm in ("NaN", "Infinity")} == set(skipped)
    assert all(1 < norms[step] < 100 for step in norms if step not in skipped), "of gradients without the scale"
    counts = {entry["step"]: entry.get("overflows", 0) for entry in ours.history if "loss" in entry}
    assert counts == {step: sum(each <= step for each in skipped) for step in LOUD.saved_at}
    assert learning_rates(ours) == pytest.approx(rates_of_a_schedule_that_waits(skipped))
    if optim == "adamw_torch_fused":
        assert learning_rates(theirs) == pytest.approx(rates_of_a_schedule_that_waits([]))
    else:
        assert_same_run(theirs, without_counts(ours))


def test_accumulated_gradients_are_unscaled_once_in_fp16(tmp_path: Path) -> None:
    """Nothing overflows here, so the default is Trainer's run."""
    case = CASES["evaluated by epoch, accumulated"]
    with fp16_on_the_cpu():
        theirs, ours = (case.run(side, tmp_path / side) for side in ("trainer", "ftloop"))
    assert scale_at(tmp_path / "ftloop", 6) == FIRST_SCALE
    assert_same_run(theirs, ours)


def test_fp16_with_overflows_is_resumed_after_every_update_to_the_same_bits(tmp_path: Path) -> None:
    """The scale, and how often it has not overflowed since, go on as they were."""
    with fp16_on_the_cpu():
        assert_default_continues(LOUD, "ftloop", tmp_path)


@pytest.mark.slow
def test_either_side_continues_the_others_fp16_run_with_overflows(tmp_path: Path) -> None:
    with fp16_on_the_cpu():
        assert_crossings_are_trainers(LOUD, tmp_path)
