"""A GPU for which this build of torch has no code is told before anything is loaded. Stand-ins take its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert

from ftloop import load_classifier
from ftloop.config.train_config import TrainConfig
from ftloop.errors import UserError
from ftloop.run.accelerator import make_accelerator
from ftloop.run.precision import settle_precision
from ftloop.system.gpu import check_kernels

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nSearch for `cudaErrorNoKernelImage'"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices on which a kernel was tried, four V100 under a build of torch for newer ones."""
    devices: list[str] = []

    def ones(size: int, device: torch.device) -> torch.Tensor:
        devices.append(str(device))
        raise RuntimeError(NO_KERNEL)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "compute_120"])
    return devices


def problem(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize("settings", [{}, {"bf16": True}, {"fp16": True}, {"tf32": True}], ids=str)
def test_training_says_which_gpus_torch_is_built_for_and_the_way_out(
    settings: dict[str, Any], tried: list[str]
) -> None:
    """Not that `--fp16` would do."""
    assert problem(make_accelerator, TrainConfig(**settings)) == (
        f"torch {torch.__version__} has no code for Tesla V100, a GPU of compute capability 7.0: it is built for "
        "sm_75, sm_90, compute_120; install a build of torch for an older CUDA, such as cu126, or stay on the CPU with "
        "--use_cpu"
    )
    assert tried == ["cuda"]


def test_the_choice_of_a_precision_says_it_too(tried: list[str]) -> None:
    assert "has no code for Tesla V100" in problem(settle_precision, TrainConfig(mixed_precision="auto"))
    assert not settle_precision(TrainConfig(mixed_precision="no")).bf16
    assert tried == ["cuda"]


def test_each_process_tries_the_gpu_of_its_own_number(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first one, each would take memory for nothing."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    for local_rank in ("2", "5"):  # the second with more processes than GPUs
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert "has no code" in problem(make_accelerator, TrainConfig())
    assert tried == ["cuda:2", "cuda:1"]


def test_on_the_cpu_no_gpu_is_tried(tried: list[str]) -> None:
    assert make_accelerator(TrainConfig(use_cpu=True)).device.type == "cpu"
    assert tried == []


def test_prediction_says_it_before_it_loads_the_model(
    tried: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bert().save_pretrained(tmp_path)
    monkeypatch.setattr("ftloop.inference.classifier.load_weights", lambda *_: pytest.fail("it was loaded"))
    for device, name in ((None, "cuda"), ("cuda:3", "cuda:3")):
        told = problem(load_classifier, tmp_path, device)
        assert told.endswith("or predict on the CPU, with CUDA_VISIBLE_DEVICES= (empty) in the environment")
        assert tried.pop() == name


def test_a_gpu_newer_than_the_build_wants_a_newer_one(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 3))
    assert "build of torch for a newer CUDA, or so" in problem(check_kernels, torch.device("cuda"), "so")


def test_another_fault_of_a_gpu_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(RuntimeError, match="device-side assert"):
        check_kernels(torch.device("cuda"), "")
