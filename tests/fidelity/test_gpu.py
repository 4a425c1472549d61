"""On a GPU with deterministic kernels: Trainer's run, bit for bit, in fp32, bf16 and fp16, and resumed as well.

Without a CUDA device these are skipped: `python -m pytest -m gpu tests/fidelity/test_gpu.py` on a machine that has one;
of several, CUDA_VISIBLE_DEVICES=0 leaves one, for Trainer takes all in one process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.cross_resume import (
    CASES,
    EVALUATED_BY_EPOCH,
    SIDES,
    Case,
    assert_continues,
    assert_crossings_are_trainers,
    assert_default_continues,
)
from harness.fp16 import (
    FIRST_SCALE,
    LOUD,
    learning_rates,
    rates_of_a_schedule_that_waits,
    scale_at,
    skipped_updates,
    without_counts,
)
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import BASE, QUIET, Job, Trace, assert_same_run, weights_digest

from ftloop import TrainConfig, prepare, train, updates
from ftloop.errors import TrainingError
from ftloop.run.micro_batches import rows_of_update
from ftloop.run.run import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() != 1, reason="needs one visible CUDA device"),
]
# cuBLAS reads it when CUDA starts; the runs themselves set it too, which for the second one would be too late.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")

ON_GPU = {"use_cpu": False, "full_determinism": True}
PRECISIONS: dict[str, dict[str, bool]] = {"fp32": {}, "bf16": {"bf16": True}, "fp16": {"fp16": True}}
every_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)


@pytest.fixture(autouse=True)
def undetermined_again() -> Iterator[None]:
    """Nothing but the tests of this module pays for deterministic kernels, or fails for want of one."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.deterministic = before[1]


LOUD_ON_GPU = replace(LOUD, arguments=LOUD.arguments | {"fp16": True})


@dataclass
class Sides:
    theirs: Trace
    ours: Trace
    folder: Path

    def file(self, name: str, step: int, side: str = "trainer") -> Any:
        return torch.load(self.folder / side / f"checkpoint-{step}" / name, weights_only=False)


def both(case: Case, folder: Path, **arguments: Any) -> Sides:
    theirs = case.run("trainer", folder / "trainer", **ON_GPU, **arguments)
    ours = case.run("ftloop", folder / "ftloop", **ON_GPU, **arguments)
    assert torch.cuda.max_memory_allocated() > 0, "nothing was done on the GPU"
    return Sides(theirs, ours, folder)


@every_precision
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.01], ids=["seldom clipped", "always clipped"])
def test_trainer_compat_makes_the_stock_trainers_run_on_a_gpu(
    max_grad_norm: float, accumulation: int, precision: dict[str, bool], tmp_path: Path
) -> None:
    """29 rows, dropout on; with accumulation 3 the last update of an epoch has fewer micro-batches."""
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": accumulation}
    case = Case(Job(), sizes | EVALUATED_BY_EPOCH | {"max_grad_norm": max_grad_norm}, [])
    sides = both(case, tmp_path, trainer_compat=True, **precision)
    assert_same_run(sides.theirs, sides.ours)
    states = [sides.file("rng_state.pth", step)["cuda"] for step in (1, 2)]
    assert not torch.equal(*states), "dropout draws from the GPU's generator"
    if "fp16" in precision:
        assert scale_at(sides.folder / "trainer", 1) == FIRST_SCALE, "no overflow here"


@every_precision
@pytest.mark.parametrize("name", ["evaluated by epoch", "evaluated by epoch, accumulated"])
def test_where_trainer_has_no_defect_the_default_is_the_same_run_on_a_gpu(
    name: str, precision: dict[str, bool], tmp_path: Path
) -> None:
    sides = both(CASES[name], tmp_path, **precision)
    assert_same_run(sides.theirs, sides.ours)


@every_precision
def test_the_same_run_twice_is_the_same_run_on_a_gpu(precision: dict[str, bool], tmp_path: Path) -> None:
    """What the other tests take for granted: kernels without a choice of order."""
    case = CASES["evaluated by epoch"]
    first, second = (case.run("trainer", tmp_path / again, **ON_GPU, **precision) for again in ("first", "second"))
    assert_same_run(first, second)


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_trainer_compat_makes_the_stock_trainers_run_where_fp16_overflows(optim: str, tmp_path: Path) -> None:
    sides = both(LOUD_ON_GPU, tmp_path, trainer_compat=True, optim=optim)
    assert skipped_updates(sides.folder / "trainer")
    assert_same_run(sides.theirs, sides.ours)


def test_the_schedule_waits_for_fp16_overflows_and_trainers_does_not(tmp_path: Path) -> None:
    sides = both(LOUD_ON_GPU, tmp_path)
    assert learning_rates(sides.theirs) == pytest.approx(rates_of_a_schedule_that_waits([]))
    skipped = skipped_updates(sides.folder / "ftloop")
    assert skipped[0] == 1
    assert learning_rates(sides.ours) == pytest.approx(rates_of_a_schedule_that_waits(skipped))
    assert learning_rates(sides.ours) != pytest.approx(learning_rates(sides.theirs))


def test_with_unfused_adamw_trainers_schedule_waits_too(tmp_path: Path) -> None:
    sides = both(LOUD_ON_GPU, tmp_path, optim="adamw_torch")
    skipped = skipped_updates(sides.folder / "trainer")
    assert learning_rates(sides.theirs) == pytest.approx(rates_of_a_schedule_that_waits(skipped))
    assert_same_run(sides.theirs, without_counts(sides.ours))


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_overflows_are_counted_in_the_log_and_no_error(optim: str, tmp_path: Path) -> None:
    sides = both(LOUD_ON_GPU, tmp_path, optim=optim)
    skipped = skipped_updates(sides.folder / "ftloop")
    counts = {entry["step"]: entry.get("overflows", 0) for entry in sides.ours.history if "loss" in entry}
    assert counts == {step: sum(each <= step for each in skipped) for step in LOUD.saved_at}


def prepared(folder: Path, model: Any, rows: Any, **arguments: Any) -> Run:
    config = TrainConfig(output_dir=str(folder), **QUIET | BASE | {"eval_strategy": "no", "use_cpu": False} | arguments)
    return prepare(config, model, rows, data_collator=pad)


def waits(run: Run) -> int:
    """Count how often the host waits for the device in the first 6 of 16 updates."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for update in updates(run):
                if update.global_step == 6:
                    break
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def test_by_default_no_update_waits_for_the_gpu_and_skip_and_fp16_wait_once(tmp_path: Path) -> None:
    arguments = {"save_strategy": "no", "logging_steps": 100}
    rows = tiny_rows(29, seed=1)
    plain = waits(prepared(tmp_path, tiny_bert(), rows, trainer_compat=True, **arguments))
    assert waits(prepared(tmp_path, tiny_bert(), rows, **arguments)) == plain
    assert waits(prepared(tmp_path, tiny_bert(), rows, on_nonfinite="skip", **arguments)) == plain + 6
    in_fp16 = waits(prepared(tmp_path, tiny_bert(), rows, trainer_compat=True, fp16=True, **arguments))
    assert waits(prepared(tmp_path, tiny_bert(), rows, fp16=True, **arguments)) == in_fp16 + 6


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_the_kernel_keeps_a_nan_from_the_weights_on_a_gpu(precision: dict[str, bool], tmp_path: Path) -> None:
    from harness.faults import poisoned_bert, poisoned_rows

    arguments = {"save_strategy": "no", "logging_steps": 8, "full_determinism": True} | precision
    row = rows_of_update(prepared(tmp_path, tiny_bert(), tiny_rows(29), **arguments), 6)[1]
    run = prepared(tmp_path, poisoned_bert(), poisoned_rows(row), **arguments)
    with pytest.raises(TrainingError, match=rf"update 6 of 16[^$]*which these lead to it: {row + 1}\n"):
        train(run)
    before = prepared(tmp_path, poisoned_bert(), poisoned_rows(row), **arguments)
    for update in updates(before):
        if update.global_step == 5:
            break
    assert weights_digest(run.model) == weights_digest(before.model)


def test_a_micro_batch_too_large_for_the_gpu_is_split_to_the_same_losses(tmp_path: Path) -> None:
    """The GPU is given half of what the whole micro-batch needs."""
    rows = tiny_rows(4096, seed=1)
    arguments = {"per_device_train_batch_size": 2048, "save_strategy": "no", "max_steps": 2}
    total = torch.cuda.get_device_properties(0).total_memory

    def losses(run: Run) -> list[float]:
        return [update.loss.item() for update in updates(run)]

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = losses(prepared(tmp_path, tiny_bert(dropout=0.0), rows, **arguments))
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(peak / 2 / total)
    try:
        with pytest.raises(TrainingError, match="a micro-batch of 2048 rows of 19 tokens did not fit into memory"):
            losses(prepared(tmp_path, tiny_bert(dropout=0.0), rows, **arguments))
        run = prepared(tmp_path, tiny_bert(dropout=0.0), rows, auto_micro_batch=True, **arguments)
        split = losses(run)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert run.counters.micro_batch_rows is not None
    assert run.counters.micro_batch_rows < 2048
    assert split == pytest.approx(whole, rel=1e-4)  # sums in another order


@every_precision
def test_either_side_continues_the_others_run_on_a_gpu(precision: dict[str, bool], tmp_path: Path) -> None:
    assert_crossings_are_trainers(CASES["evaluated by epoch, accumulated"], tmp_path, **ON_GPU, **precision)


@every_precision
@pytest.mark.parametrize("saved_by", SIDES)
def test_by_default_ftloop_continues_either_sides_run_on_a_gpu(
    saved_by: str, precision: dict[str, bool], tmp_path: Path
) -> None:
    assert_default_continues(CASES["evaluated by epoch, accumulated"], saved_by, tmp_path, **ON_GPU, **precision)


def test_either_side_continues_the_others_run_where_fp16_overflows(tmp_path: Path) -> None:
    """The scale, and how often it has not overflowed since, go on as they were."""
    assert_crossings_are_trainers(LOUD_ON_GPU, tmp_path, **ON_GPU)


def test_by_default_a_run_with_fp16_overflows_resumes_exactly(tmp_path: Path) -> None:
    assert_default_continues(LOUD_ON_GPU, "ftloop", tmp_path, **ON_GPU)


def test_it_is_the_gpus_generator_that_makes_a_resume_exact_there(tmp_path: Path) -> None:
    """A checkpoint without its state leads elsewhere, so that the resume tests above mean something."""
    case = CASES["evaluated by epoch"]
    whole = case.run("ftloop", tmp_path / "whole", **ON_GPU)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    resumed = case.run("ftloop", tmp_path / "resumed", resume=str(checkpoint), **ON_GPU)
    assert_continues(resumed, whole)
    state = torch.load(checkpoint / "rng_state.pth", weights_only=False)
    assert not torch.equal(state.pop("cuda"), torch.cuda.get_rng_state())
    torch.save(state, checkpoint / "rng_state.pth")
    lost = case.run("ftloop", tmp_path / "lost", resume=str(checkpoint), **ON_GPU)
    assert lost.weights != whole.weights
