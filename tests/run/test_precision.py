"""`mixed_precision: auto`: what fits the machine is chosen, said and kept on resume; what is asked for stays."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness.command import TRAIN_PY, run
from harness.prepared_runs import prepared

from ftloop.config.command_line import parse_args
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, UserError
from ftloop.run import precision
from ftloop.run.precision import bf16_warning, relative_time, settle_precision
from ftloop.train import main

SLOW, FAST = 7.9, 0.5


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def takes(times: float) -> None:
        monkeypatch.setattr(precision, "relative_time", lambda half, device: times)

    return takes


@pytest.mark.parametrize(("times", "is_bf16"), [(FAST, True), (0.89, True), (0.91, False), (SLOW, False)])
def test_bf16_is_chosen_where_it_is_faster_and_said(
    machine: Any, capsys: pytest.CaptureFixture[str], times: float, is_bf16: bool
) -> None:
    machine(times)
    before = torch.get_rng_state()
    settled = settle_precision(TrainConfig(mixed_precision="auto"))
    assert (settled.bf16, settled.fp16, settled.mixed_precision) == (is_bf16, False, None)
    said = f"Precision {'bf16' if is_bf16 else 'fp32'}, chosen for this cpu: products in bf16 take {times:.2g} times"
    assert capsys.readouterr().out.startswith(said)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gpu_without_bf16_units_gets_fp16(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(FAST)
    monkeypatch.setattr(precision, "_device", lambda config: "cuda")
    for is_native in (True, False):
        monkeypatch.setattr(precision, "has_native_bf16", lambda is_native=is_native: is_native)
        settled = settle_precision(TrainConfig(mixed_precision="auto"))
        assert (settled.bf16, settled.fp16) == (is_native, not is_native)


def test_what_is_asked_for_outright_stays(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(SLOW)
    assert parse_args(["fast"]).mixed_precision == "auto"
    assert settle_precision(parse_args(["fast", "--bf16"])).bf16
    assert not settle_precision(parse_args(["fast", "--mixed_precision", "no"])).bf16
    assert settle_precision(parse_args(["fast", "--mixed_precision", "bf16"])).bf16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert settle_precision(TrainConfig(mixed_precision="auto")) == TrainConfig()  # the launcher's is taken later
    with pytest.raises(UserError, match="conflicts with bf16; choose one"):
        TrainConfig(mixed_precision="no", bf16=True)
    with pytest.raises(UserError, match="no conflicts with the launcher's --mixed_precision bf16"):
        precision.make_accelerator(TrainConfig(mixed_precision="no"))


def test_bf16_asked_for_where_it_is_slow_is_warned_of(machine: Any) -> None:
    machine(SLOW)
    assert bf16_warning("cpu") == (
        "bf16 is slow on this cpu: products in bf16 take 7.9 times as long as in fp32; --mixed_precision auto, which "
        "computes in fp32 here, is faster"
    )
    machine(FAST)
    assert bf16_warning("cpu") is None


def test_the_time_is_a_share_of_fp32s() -> None:
    assert 0 < relative_time("bf16", "cpu") < math.inf


def test_what_the_first_product_starts_is_not_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first on a GPU loads cuBLAS, here for longer than the whole measurement."""
    clock, calls = [0.0], list[torch.dtype]()

    def product(x: torch.Tensor, weight: torch.Tensor) -> None:
        clock[0] += (0.1 if x.dtype == torch.bfloat16 else 0.2) + (2 * precision.SECONDS if x.dtype not in calls else 0)
        calls.append(x.dtype)

    monkeypatch.setattr(precision, "linear", product)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert relative_time.__wrapped__("bf16", "cpu") == pytest.approx(0.5)


@pytest.mark.parametrize("is_determined", [True, False])
def test_full_determinism_comes_before_the_products_that_choose(
    is_determined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuBLAS reads the variable at the first product of a process: set later, every deterministic one fails."""
    seen: list[str | None] = []

    def takes(half: str, device: str) -> float:
        seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        return FAST

    monkeypatch.setattr(precision, "relative_time", takes)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert settle_precision(TrainConfig(mixed_precision="auto", full_determinism=is_determined)).bf16
    assert seen == [":16:8" if is_determined else ":4096:8"]


def test_a_run_made_in_python_is_settled_too(machine: Any, tmp_path: Path) -> None:
    machine(FAST)
    run = prepared(tmp_path, mixed_precision="auto")
    assert (run.config.bf16, run.accelerator.mixed_precision) == (True, "bf16")


def test_the_command_says_it_and_a_resume_keeps_it(
    machine: Any, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def words(out: str, *more: str) -> list[str]:
        files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
        flags = ["--model_name_or_path", str(tiny_folder / "model"), "--output_dir", str(tmp_path / out), "--use_cpu"]
        return [*flags, *files, "--resume_from_checkpoint", "last", "--save_steps", "2", *more]

    machine(SLOW)
    assert main([*words("auto", "--mixed_precision", "auto"), "--max_steps", "2"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Precision fp32, chosen for this cpu" in said
    assert "Device    cpu, fp32" in said
    assert "Warning" not in said
    machine(FAST)
    assert main([*words("auto", "--mixed_precision", "auto"), "--max_steps", "4"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Precision" not in said
    assert "Device    cpu, fp32" in said
    assert not json.loads((tmp_path / "auto" / "ftloop_manifest.json").read_text())["config"]["bf16"]

    machine(SLOW)
    assert main([*words("asked", "--bf16"), "--max_steps", "1"]) == ExitCode.DONE
    assert "Warning   bf16 is slow on this cpu" in capsys.readouterr().out


@pytest.mark.slow
def test_the_main_process_decides_for_all(tiny_folder: Path, tmp_path: Path) -> None:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
    flags = ["--model_name_or_path", str(tiny_folder / "model"), "--output_dir", str(tmp_path), "--max_steps", "1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", TRAIN_PY]
    words = [*launcher, *flags, *files, "--mixed_precision", "auto"]
    said = run(*words, ACCELERATE_USE_CPU="true").stdout
    assert said.count("Precision ") == 1
    assert "2 processes" in said
