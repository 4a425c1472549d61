"""The losses of docs/guides/your-own-loss.md, as printed there: they keep the rule, and are what they say."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert
from harness.pages import BOOK, blocks
from harness.rows import pad, tiny_rows

from ftloop import TrainConfig, prepare, updates
from ftloop.run.run import Run

FOCAL, DISTILLING = blocks(BOOK["guides/your-own-loss.md"], "python")
ROWS = 29  # in micro-batches of 4: the last has one row


def step_of(block: str, run: Run) -> Callable[..., Any]:
    names: dict[str, Any] = {"run": run, "teacher": tiny_bert(seed=7)}
    exec(block.partition("\ntrain(run, ")[0], names)
    step: Callable[..., Any] = next(value for name, value in names.items() if name.endswith("_step"))
    return step


def prepared(tmp_path: Path, model: Any = None, **sizes: Any) -> Run:
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, num_train_epochs=2, learning_rate=1e-3, **sizes)
    return prepare(config, model or tiny_bert(dropout=0.0), tiny_rows(ROWS, seed=1), data_collator=pad)


@pytest.mark.parametrize("block", [FOCAL, DISTILLING], ids=["focal", "distilling"])
def test_a_loss_of_the_guide_keeps_k_micro_batches_one_batch(block: str, tmp_path: Path) -> None:
    split = prepared(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    whole = prepared(tmp_path, per_device_train_batch_size=12)
    steps = (step_of(block, split), step_of(block, whole))
    done = 0
    for one, other in zip(updates(split, steps[0]), updates(whole, steps[1]), strict=True):
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=2e-6)
        assert float(one.grad_norm or 0) == pytest.approx(float(other.grad_norm or 0), rel=2e-6)
        done += 1
    assert done == 2 * math.ceil(ROWS / 12)


@pytest.mark.parametrize(
    ("block", "given"), [(FOCAL, {"gamma": 0.0}), (DISTILLING, {"share": 0.0})], ids=["focal", "distilling"]
)
def test_the_guides_losses_are_cross_entropy_at_their_ends(block: str, given: dict[str, float], tmp_path: Path) -> None:
    plain, other = (prepared(tmp_path, per_device_train_batch_size=8) for _ in range(2))
    step = step_of(block, other)
    losses = [update.loss.item() for update in updates(plain)]
    assert [update.loss.item() for update in updates(other, lambda *words: step(*words, **given))] == pytest.approx(
        losses, rel=1e-5
    )


@pytest.mark.parametrize("setting", [{"label_smoothing_factor": 0.3}, {"class_weights": "balanced"}], ids=str)
def test_a_step_of_ones_own_has_the_weights_of_the_settings_or_says_that_it_has_not(
    setting: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def of_the_model(run: Run, micro_batch: Any) -> Any:
        loss = run.model(**micro_batch.inputs).loss / micro_batch.divisor
        run.accelerator.backward(loss)
        return loss.detach()

    expected, plain = ([update.loss.item() for update in updates(prepared(tmp_path, **s))] for s in (setting, {}))
    run = prepared(tmp_path, **setting)
    step = step_of(DISTILLING, run)
    from_forward = [update.loss.item() for update in updates(run, lambda *words: step(*words, share=0.0))]
    assert from_forward == expected != plain
    focal = prepared(tmp_path, **setting)
    next(updates(focal, step_of(FOCAL, focal)))
    assert "Warning" not in capsys.readouterr().out, "neither has the model compute its loss"
    run = prepared(tmp_path, **setting)
    assert [update.loss.item() for update in updates(run, of_the_model)] == plain
    (line,) = capsys.readouterr().out.splitlines()
    (name,) = setting
    assert line.startswith(f"Warning   {name}: the loss that this step has the model compute does not have it; ")
    copied = pickle.loads(pickle.dumps(focal.unwrapped_model))
    for again in (prepared(tmp_path, copied), prepared(tmp_path, focal.unwrapped_model)):
        assert next(updates(again, of_the_model)).global_step == 1
    assert capsys.readouterr().out == "", "a run after it, of the same model, has no such setting"


def test_the_guides_losses_are_their_formulas(tmp_path: Path) -> None:
    rows = pad([tiny_rows(ROWS, seed=1)[i] for i in range(ROWS)])
    with torch.no_grad():
        outputs, theirs = tiny_bert(dropout=0.0)(**rows), tiny_bert(seed=7).eval()(**rows)
    p = outputs.logits.double().softmax(-1)
    right = p[torch.arange(ROWS), rows["labels"]]
    focal = float((-((1 - right) ** 2) * right.log()).mean())
    q, soft = (theirs.logits.double() / 2).softmax(-1), (outputs.logits.double() / 2).log_softmax(-1)
    distilled = 0.5 * float(outputs.loss) + 0.5 * 4 * float((q * (q.log() - soft)).sum(-1).mean())
    for block, expected in ((FOCAL, focal), (DISTILLING, distilled)):
        fresh = prepared(tmp_path, per_device_train_batch_size=ROWS)
        first = next(updates(fresh, step_of(block, fresh)))
        assert first.loss.item() == pytest.approx(expected, rel=1e-5)
