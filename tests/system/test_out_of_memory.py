"""Memory that does not suffice, wherever and in whichever words, is told so, with exit 3: it is no fault in ftloop."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from harness.models import tiny_bert
from harness.prepared_runs import prepared
from harness.rows import tiny_rows
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ftloop import TrainConfig, evaluate, load_classifier, prepare, train
from ftloop.errors import ExitCode, LostContact, TrainingError
from ftloop.system.exit import exit_code, report_error
from ftloop.system.out_of_memory import is_out_of_memory, memory_told
from ftloop.system.row_buffer import RowBuffer
from ftloop.train import main

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
WORDINGS = (
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
    "Triton Error [CUDA]: out of memory",
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    "HIP out of memory. Tried to allocate 20.00 MiB",
    "MPS backend out of memory (MPS allocated: 17.2 GB, other allocations: 1.2 GB, max allowed: 18.1 GB)",
    "Invalid buffer size: 20.00 GiB",
    "XPU out of memory. Tried to allocate 2.00 GiB",
    "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::268435456 (256)MB",
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9",
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
    "DataLoader worker (pid 5) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.",
)
OTHERS = (
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    LostContact("the main process failed (out of memory)"),
    TrainingError(FULL),
)


@pytest.mark.parametrize("wording", WORDINGS)
def test_every_wording_is_understood_and_told(wording: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = torch.AcceleratorError(wording) if wording.startswith("CUDA error") else RuntimeError(wording)
    assert is_out_of_memory(error)
    assert report_error(error, show_traceback=False) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert f"did not fit into memory ({wording.splitlines()[0][:200]})" in said
    assert ("--dataloader_num_workers 0" in said) == ("shared" in wording)
    assert "a fault in ftloop" not in said
    assert "Traceback" not in said


def test_of_other_kinds_too_and_what_is_none_is_left_alone() -> None:
    of_nccl = torch.distributed.DistBackendError(WORDINGS[7] + " connection closed by remote")
    for error in (
        torch.OutOfMemoryError(FULL),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        of_nccl,
    ):
        assert is_out_of_memory(error)
        assert exit_code(error) == ExitCode.FAILED
    for other in OTHERS:
        assert not is_out_of_memory(other), other
        with pytest.raises(type(other)) as caught, memory_told("it", []):
            raise other
        assert caught.value is other


def fail(*given: Any, **names: Any) -> Any:
    raise torch.OutOfMemoryError(FULL)


def in_optimizer(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.optimizer.optimizer, "step", fail)


def in_clipping(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", fail)


def in_copying_a_batch(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_BaseDataLoaderIter, "__next__", fail)


def in_keeping_what_was_evaluated(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowBuffer, "add", fail)


TRAINING = "training, outside of forward and backward (optimizer, clipping, copies),"


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (in_optimizer, TRAINING),
        (in_clipping, TRAINING),
        (in_copying_a_batch, TRAINING),
        (in_keeping_what_was_evaluated, "evaluation, outside of forward,"),
    ],
)
@pytest.mark.parametrize("auto_micro_batch", [False, True])
def test_beside_the_batches_it_is_told_with_what_takes_the_memory(
    place: Callable[..., None], what: str, auto_micro_batch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, auto_micro_batch=auto_micro_batch, eval_strategy="epoch")
    place(run, monkeypatch)
    with pytest.raises(TrainingError) as caught:
        evaluate(run) if place is in_keeping_what_was_evaluated else train(run)
    message = str(caught.value)
    assert message.startswith(f"{what} did not fit into memory ({FULL})\n  what to try: ")
    weights = sum(weight.numel() for weight in run.model.parameters()) * 4 / 1e6
    assert f"{weights:.0f} MB of weights, and in training {weights:.0f} MB of gradients" in message
    assert f"{2 * weights:.0f} MB of AdamW's own numbers; --lora_r 8 and --freeze_layers" in message
    assert caught.value.exit_code == ExitCode.FAILED
    assert caught.value.is_of_one_process


def test_a_model_that_does_not_fit_is_told(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python, in the command, in one that only evaluates, and asked for predictions."""
    monkeypatch.setattr(torch.nn.Module, "to", fail)
    for rows in (tiny_rows(9), None):
        with pytest.raises(TrainingError, match="the model did not fit into memory"):
            prepare(TrainConfig(output_dir=str(tmp_path), use_cpu=True), tiny_bert(), rows)
    with pytest.raises(TrainingError, match="the model did not fit into memory"):
        load_classifier(tiny_folder / "model")


def test_the_command_tells_it_too(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--train_file", str(tiny_folder / "train.jsonl")]
    words += ["--output_dir", str(tmp_path), "--use_cpu", "--max_steps", "1"]
    for place, what in (("torch.nn.Module.to", "the model"), ("ftloop.job.fine_tune.announce", "what was to be done")):
        with monkeypatch.context() as patched:
            patched.setattr(place, fail)
            assert main(words) == ExitCode.FAILED
        said = capsys.readouterr().err
        assert said.startswith(f"error: {what} did not fit into memory (CUDA out of memory.")
        assert "Traceback" not in said
