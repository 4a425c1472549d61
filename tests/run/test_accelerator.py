"""What `prepare` asks Accelerate, DDP, the compiler and the GPU for. Stand-ins take the place of a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from torch.nn.parallel import DistributedDataParallel

from ftloop import TrainConfig
from ftloop.errors import ExitCode, UserError
from ftloop.job import console
from ftloop.run.accelerator import make_accelerator
from ftloop.run.precision import tf32_hint
from ftloop.system.exit import report_error
from ftloop.system.memory import has_gpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr("ftloop.run.accelerator.check_kernels", lambda *_: None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Accelerator is made with."""
    given: dict[str, Any] = {}

    class Recorded:
        num_processes = 1

        def __init__(self, **arguments: Any) -> None:
            given.update(arguments)

    monkeypatch.setattr("ftloop.run.accelerator.Accelerator", Recorded)
    return given


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"gradient_checkpointing": True}, False),
        ({"ddp_find_unused_parameters": False}, False),
        ({"ddp_find_unused_parameters": True, "gradient_checkpointing": True}, True),
    ],
    ids=str,
)
def test_ddp_looks_for_unused_parameters_as_trainer_does_or_as_it_is_told(
    settings: dict[str, bool], expected: bool, asked: dict[str, Any]
) -> None:
    make_accelerator(TrainConfig(use_cpu=True, **settings))  # type: ignore[arg-type]
    assert asked["kwargs_handlers"][0].find_unused_parameters == expected


def test_batches_are_copied_without_waiting_to_a_cuda_device_alone(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Apple's GPUs nothing is pinned, and a copy that is not waited for may be read too early."""

    def is_waited_for(**settings: Any) -> bool:
        make_accelerator(TrainConfig(**settings))
        return not asked["dataloader_config"].non_blocking

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert is_waited_for()  # another accelerator than CUDA's
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("ftloop.run.accelerator.check_kernels", lambda *_: None)
    assert not is_waited_for()
    assert is_waited_for(dataloader_pin_memory=False)
    assert is_waited_for(use_cpu=True)


def test_a_parameter_without_a_gradient_is_told_with_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By DDP itself, in a group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]))
        model.module.forward = lambda rows: model.module[0](rows)  # type: ignore[method-assign]
        model(torch.ones(1, 2)).sum().backward()
        with pytest.raises(RuntimeError) as caught:
            model(torch.ones(1, 2))
    finally:
        dist.destroy_process_group()
    assert report_error(caught.value, show_traceback=False) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "error: a parameter of the model got no gradient" in said
    assert "--ddp_find_unused_parameters true" in said


def test_the_compilers_mode_is_handed_over_and_turns_it_on(asked: dict[str, Any]) -> None:
    for padding in ("longest", "buckets:4"):
        config = TrainConfig(use_cpu=True, torch_compile_mode="reduce-overhead", padding=padding)
        assert config.torch_compile, "as TrainingArguments has it"
        make_accelerator(config)
        plugin = asked["dynamo_plugin"]
        assert (plugin.backend.value, plugin.mode) == ("INDUCTOR", "reduce-overhead")
        assert plugin.dynamic == (None if padding == "longest" else False)
    make_accelerator(TrainConfig(use_cpu=True, torch_compile=True))
    assert asked["dynamo_plugin"].mode == "default"
    with pytest.raises(UserError, match="torch_compile_mode"):
        TrainConfig(torch_compile_mode="fastest")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "graphs"),
    [
        ({}, 10),
        ({"gradient_accumulation_steps": 3}, 20),
        ({"auto_micro_batch": True, "per_device_train_batch_size": 8}, 40),
        ({"auto_micro_batch": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}, 80),
    ],
    ids=str,
)
def test_the_compiler_may_make_as_many_graphs_as_there_are_kinds_of_batches(
    settings: dict[str, Any], graphs: int, asked: dict[str, Any]
) -> None:
    """Beyond its limit it would go on without compiling, and warn once."""
    with torch._dynamo.config.patch(recompile_limit=8):
        make_accelerator(TrainConfig(use_cpu=True, torch_compile=True, padding="buckets:4", **settings))
        assert torch._dynamo.config.recompile_limit == graphs


@pytest.fixture
def tf32() -> Iterator[None]:
    backends = torch.backends, torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    kept = [backend.fp32_precision for backend in backends]
    older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(older[0])
    torch.backends.cudnn.allow_tf32 = older[1]
    for backend, precision in zip(backends, kept, strict=True):
        backend.fp32_precision = precision


@pytest.mark.usefixtures("gpu", "tf32")
def test_tf32_is_set_as_trainer_sets_it_and_missed_where_it_is_off(asked: dict[str, Any]) -> None:
    """Each run has its own, whatever the one before it in the same process had."""
    for is_on in (True, False, True):
        torch.backends.cuda.matmul.fp32_precision = "ieee"  # as a compiled run leaves it
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        make_accelerator(TrainConfig(tf32=is_on))
        assert (torch.backends.cuda.matmul.fp32_precision == "tf32") == is_on
        assert (torch.backends.cudnn.conv.fp32_precision == "tf32") == is_on
        hint = tf32_hint("cuda")
        assert (hint is None) == is_on
        assert hint is None or "--tf32 true" in hint
    assert tf32_hint("cpu") is None


@pytest.mark.usefixtures("gpu", "tf32")
def test_the_compiler_can_ask_for_tf32_by_torchs_older_settings(asked: dict[str, Any]) -> None:
    """Which raise where they contradict the newer ones: the autotuner of torch.compile asks for all three."""
    for is_on in (True, False, True):
        make_accelerator(TrainConfig(tf32=is_on))
        assert torch.get_float32_matmul_precision() == ("high" if is_on else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == is_on
        assert torch.backends.mkldnn.matmul.fp32_precision == ("tf32" if is_on else "ieee")  # as Trainer's has it


def test_an_older_gpu_misses_no_tf32(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert tf32_hint("cuda") is None


def test_fast_dropout_is_refused_beside_the_compiler_on_a_cpu_alone(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"fast_dropout": True, "torch_compile": True}
    with pytest.raises(UserError, match="fast_dropout and torch_compile: choose one"):
        make_accelerator(TrainConfig(**both))  # type: ignore[arg-type]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    make_accelerator(TrainConfig(**both))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="fast_dropout and torch_compile: choose one"):
        make_accelerator(TrainConfig(use_cpu=True, **both))  # type: ignore[arg-type]


def test_what_does_nothing_on_a_gpu_is_said_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ftloop import prepare

    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, fast_dropout=True)
    run = prepare(config, tiny_bert(), tiny_rows(9), data_collator=pad)
    console.announce_plan(run)
    assert "fast_dropout is for CPUs" not in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    run.accelerator.state.device = torch.device("cuda")
    try:
        console.announce_plan(run)
    finally:
        run.accelerator.state.device = torch.device("cpu")
    said = capsys.readouterr().out
    assert "Device    NVIDIA A100, fp32" in said
    assert "fast_dropout is for CPUs: it does nothing on cuda" in said
    assert "fp32 without TF32: --tf32 true" in said


@pytest.mark.parametrize(("is_there", "flags", "kept"), [(True, [], 0), (True, ["--use_cpu"], 1), (False, [], 1)])
def test_freed_memory_is_kept_where_the_cpu_trains(
    is_there: bool, flags: list[str], kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    command = importlib.import_module("ftloop.train")  # the package has a function of this name
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr("ftloop.job.fine_tune.fine_tune", lambda *_: None)
    assert command.main(["--output_dir", str(tmp_path), *flags]) == ExitCode.DONE
    assert len(calls) == kept
    assert has_gpu() == is_there
