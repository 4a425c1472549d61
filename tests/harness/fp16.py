"""fp16 without a GPU, and a model whose gradients overflow in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from harness.cross_resume import EVALUATED_BY_EPOCH, PLAIN, Case, forgets_the_evaluation
from harness.models import tiny_bert
from harness.side_by_side import Job, Trace
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

FIRST_SCALE = 65536.0


@contextmanager
def fp16_on_the_cpu(scale: float = FIRST_SCALE) -> Iterator[None]:
    """Every Accelerator made here, by Trainer too, computes in fp16 as on a GPU: torch's gradient scaler and autocast
    work on the CPU as well, where Accelerate leaves both out."""
    make = Accelerator.__init__

    def make_with_scaler(accelerator: Accelerator, *args: Any, **kwargs: Any) -> None:
        make(accelerator, *args, **kwargs)
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accelerator, "__init__", make_with_scaler)
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


class LoudBert(BertForSequenceClassification):
    """Its loss is so large that gradients overflow in fp16 until the scale has come down."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        outputs = super().forward(**rows, labels=labels, **kwargs)
        if outputs.loss is not None:
            outputs.loss = 100 * outputs.loss
        return outputs


def loud_bert() -> LoudBert:
    model = LoudBert(tiny_bert().config)
    model.load_state_dict(tiny_bert().state_dict())
    return model


LOUD = Case(
    Job(loud_bert),
    PLAIN | EVALUATED_BY_EPOCH | {"num_train_epochs": 4, "warmup_steps": 0},
    list(range(1, 13)),
    dict.fromkeys([3, 6, 9, 12], forgets_the_evaluation),
)


def scale_at(folder: Path, step: int) -> float:
    """The gradient's scale in a checkpoint."""
    scaler = torch.load(folder / f"checkpoint-{step}" / "scaler.pt", weights_only=False)
    return float(scaler["scale"])


def skipped_updates(folder: Path) -> list[int]:
    """Updates of LOUD after which the scale is half of what it was; the weights have to be those from before."""
    scales = [FIRST_SCALE, *(scale_at(folder, step) for step in LOUD.saved_at)]
    skipped = [step for step in LOUD.saved_at if scales[step] < scales[step - 1]]
    before = loud_bert().state_dict()
    for step in LOUD.saved_at:
        after = load_file(folder / f"checkpoint-{step}" / "model.safetensors")
        moved = any(not torch.equal(before[name], tensor) for name, tensor in after.items())
        assert moved == (step not in skipped), step
        before = after
    assert 0 < len(skipped) < len(LOUD.saved_at), "some updates overflow, and some do not"
    return skipped


def learning_rates(trace: Trace) -> dict[int, float]:
    return {entry["step"]: entry["learning_rate"] for entry in trace.history if "learning_rate" in entry}


def rates_of_a_schedule_that_waits(skipped: list[int]) -> dict[int, float]:
    rates, done = {}, 0
    for step in LOUD.saved_at:
        rates[step] = 1e-3 * (12 - done) / 12
        done += step not in skipped
    return rates


def without_counts(trace: Trace) -> Trace:
    """Trainer does not count overflows."""

    def plain(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in entry.items() if name != "overflows"} for entry in history]

    checkpoints = {}
    for folder, files in trace.checkpoints.items():
        state = json.loads(files["trainer_state.json"])
        state["log_history"] = plain(state["log_history"])
        checkpoints[folder] = files | {"trainer_state.json": json.dumps(state, sort_keys=True)}
    return replace(trace, history=plain(trace.history), checkpoints=checkpoints)
