"""What a compiled run has saved is continued by one that is not, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import TorchDynamoPlugin
from harness.cross_resume import RESUME_ARGUMENTS as ARGUMENTS
from harness.cross_resume import assert_continues
from harness.models import tiny_bert, tiny_lora
from harness.side_by_side import Job, run_ftloop
from safetensors import safe_open
from torch._dynamo.utils import counters

BEST = ARGUMENTS | {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
COMPILED = {"torch_compile": True}


@pytest.fixture
def same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile with dynamo alone, which takes the model apart and puts it together again, and changes no bit."""

    def compiler(config: Any) -> TorchDynamoPlugin:
        return TorchDynamoPlugin(backend="eager" if config.torch_compile else None)

    monkeypatch.setattr("ftloop.run.accelerator._compiler", compiler)


@pytest.mark.usefixtures("same_kernels")
@pytest.mark.parametrize(
    ("then", "now", "model"),
    [
        (COMPILED, {}, tiny_bert),
        *(pytest.param(*case, tiny_bert, marks=pytest.mark.slow) for case in (({}, COMPILED), (COMPILED, COMPILED))),
        *(pytest.param(*case, tiny_lora, marks=pytest.mark.slow) for case in (({}, COMPILED), (COMPILED, {}))),
    ],
)
def test_compiled_or_not_a_checkpoint_is_continued_to_the_same_bits(
    then: dict[str, Any], now: dict[str, Any], model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, moments, best model: under the names and in the order of the model that the user brought."""
    torch._dynamo.reset()
    job = Job(model=model)
    whole = run_ftloop(job, tmp_path / "whole", **BEST)
    saved = run_ftloop(job, tmp_path / "saved", **BEST | then)
    assert saved.weights == whole.weights
    name = "model.safetensors" if model is tiny_bert else "adapter_model.safetensors"
    with safe_open(tmp_path / "saved" / "checkpoint-2" / name, "pt") as file:
        assert not [key for key in file.keys() if "_orig_mod" in key]  # noqa: SIM118 - it is no mapping
    torch._dynamo.reset()
    counters.clear()
    for step in (2, 3):
        capsys.readouterr()
        checkpoint = tmp_path / "saved" / f"checkpoint-{step}"
        resumed = run_ftloop(job, tmp_path / f"{step}", resume=str(checkpoint), **BEST | now)
        assert_continues(resumed, whole)
        assert resumed.history == whole.history
        changed = f"torch_compile ({bool(then)} then, {bool(now)} now): from here on no longer the bits"
        assert (changed in capsys.readouterr().out) == (then != now)
    assert bool(counters["frames"]["total"]) == bool(now)
