"""What does not follow from the first difference between two recordings is told with it, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness.handwritten_loop import handwritten_loop
from harness.models import long_head, tiny_bert, tiny_lora
from harness.rows import pad
from harness.side_by_side import Job

from ftloop.compare import Comparison, Recorder, also_different, compare, explain, read
from ftloop.compare.causes.step import shape_of
from ftloop.compare.description import describe

PLAIN, STEEP = (Job(model, train_rows=17) for model in (tiny_bert, long_head))
SHUFFLED = {"iterator-draw"}
"""What torch's own shuffle, which makes the rows differ, draws."""


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recording of a loop without a fault, which is Trainer's run; made once for each job and its arguments."""
    made: dict[str, Path] = {}

    def recording(job: Job, **arguments: Any) -> Path:
        key = repr((job, arguments))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("right") / "right.jsonl"
            handwritten_loop(job, made[key], **arguments)
        return made[key]

    return recording


def compared(a: Path, b: Path) -> Comparison:
    return compare(read(a), read(b))


def names(causes: Any) -> set[str]:
    return {cause.name for cause in causes}


def test_five_faults_of_one_loop_are_told_at_once(right: Any, tmp_path: Path) -> None:
    """As in the loop of many a course: another shuffle, decay of every tensor, no clipping, a plain kernel."""
    faults = "plain shuffle + decay on everything + no clipping + unfused + another epsilon"
    handwritten_loop(STEEP, tmp_path / "mine.jsonl", faults, eval_steps=0)
    theirs, mine = right(STEEP, eval_steps=0), tmp_path / "mine.jsonl"
    for files in ((theirs, mine), (mine, theirs)):
        comparison = compared(*files)
        assert (comparison.first.update, comparison.first.stage) == (1, "rows")
        assert names(explain(comparison)) == {"sampler"}
        assert names(also_different(comparison)) == {"no-clipping", "fused", "eps", "decay-groups"} | SHUFFLED
        page = describe(comparison)
        first, also = page.split("Also different, whatever the rows:")
        assert "Likely cause:\n  sampler: The same rows" in first
        for cause in also_different(comparison):
            assert f"\n  {cause.name}: " in also
        assert "clips gradients to a norm of 1, " in also


@pytest.mark.parametrize(
    ("fault", "arguments", "told"),
    [
        ("another max_grad_norm", {}, {"max-grad-norm"}),
        ("zero_grad first", {}, {"cleared-before-step"}),
        ("padding to a multiple", {}, {"padding-multiple"}),
        ("global padding", {}, {"padding-global"}),
        ("drop last", {"eval_steps": 0}, {"drop-last"}),
        ("never back to training mode", {"eval_steps": 3}, {"eval-mode"}),
        ("norm logged late + learning rate logged late", {}, {"logged-after-clipping", "logged-after-step"}),
        ("no final evaluation", {"eval_steps": 3}, {"nothing-at-the-end"}),
    ],
)
def test_a_fault_is_told_though_the_rows_differ(
    fault: str, arguments: dict[str, Any], told: set[str], right: Any, tmp_path: Path
) -> None:
    handwritten_loop(STEEP, tmp_path / "mine.jsonl", f"plain shuffle + {fault}", **arguments)
    comparison = compared(right(STEEP, **arguments), tmp_path / "mine.jsonl")
    assert names(explain(comparison)) | names(also_different(comparison)) == {"sampler"} | told | SHUFFLED


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"learning_rate": 2e-3}, {"learning-rate"}),
        ({"epochs": 3}, {"schedule-length"}),
        ({"warmup": 4}, {"schedule-kind"}),
        ({"accumulation": 3}, {"rows-per-update", "schedule-length"}),
    ],
)
def test_a_schedule_is_told_apart_though_the_rows_differ(
    arguments: dict[str, Any], told: set[str], right: Any, tmp_path: Path
) -> None:
    handwritten_loop(PLAIN, tmp_path / "mine.jsonl", "plain shuffle", eval_steps=0, **arguments)
    comparison = compared(right(PLAIN, eval_steps=0), tmp_path / "mine.jsonl")
    assert names(explain(comparison)) | names(also_different(comparison)) == {"sampler"} | told | SHUFFLED


def test_other_initial_weights_do_not_hide_the_rest(right: Any, tmp_path: Path) -> None:
    handwritten_loop(PLAIN, tmp_path / "mine.jsonl", "another head + plain shuffle + scheduler first + unfused")
    comparison = compared(right(PLAIN), tmp_path / "mine.jsonl")
    assert names(explain(comparison)) == {"initial-weights"}
    assert names(also_different(comparison)) == {"sampler", "scheduler-first", "fused"} | SHUFFLED


def test_an_evaluations_draw_is_told_beside_another_optimizer(right: Any, tmp_path: Path) -> None:
    """Nothing that is drawn depends on the weights."""
    handwritten_loop(PLAIN, tmp_path / "mine.jsonl", "unfused + evaluation without an iterator", eval_steps=3)
    comparison = compared(right(PLAIN, eval_steps=3), tmp_path / "mine.jsonl")
    assert names(explain(comparison)) == {"fused"}
    assert names(also_different(comparison)) == {"evaluation-draw"}


def of_its_own(file: Path, first: int = 0, model: Any = None, parameters: Any = None, autocast: bool = False) -> Path:
    """Record five updates on four rows each, from row `first` on."""
    model = model or tiny_bert(dropout=0.0)
    rows = list(PLAIN.data()[0])
    optimizer = torch.optim.AdamW(parameters(model) if parameters else model.parameters())
    with Recorder(file, model, optimizer) as recorder:
        for update in range(5):
            inputs = pad(rows[first + update : first + update + 4])
            recorder.before_forward(inputs)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = model(**inputs).loss
            loss.backward()
            recorder.after_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    return file


@pytest.mark.parametrize("first", [0, 3])
def test_another_precision_is_seen_within_the_forward_pass(first: int, tmp_path: Path) -> None:
    plain = of_its_own(tmp_path / "plain.jsonl")
    for name, told in (
        (
            of_its_own(tmp_path / "autocast.jsonl", first, autocast=True),
            "A computes in float32, B in bfloat16 (autocast).",
        ),
        (of_its_own(tmp_path / "half.jsonl", first, tiny_bert().bfloat16()), "A computes in float32, B in bfloat16."),
    ):
        comparison = compared(plain, name)
        causes = [*explain(comparison), *also_different(comparison)]
        assert told in {cause.text for cause in causes if cause.name == "precision"}


def test_a_recorded_model_is_left_without_hooks_and_can_be_copied_and_pickled_before(tmp_path: Path) -> None:
    import copy
    import io

    model = tiny_bert()
    with Recorder(tmp_path / "mine.jsonl", model, torch.optim.AdamW(model.parameters())):
        copy.deepcopy(model)
        torch.save(model, io.BytesIO())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_compiled_model_is_given_no_hook_that_would_compile_it_again(tmp_path: Path) -> None:
    model = tiny_bert()
    compiled = torch.compile(model)  # nothing is compiled before the first call
    with Recorder(tmp_path / "mine.jsonl", compiled, torch.optim.AdamW(model.parameters())):
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_is_frozen_is_no_difference_of_decay(tmp_path: Path) -> None:
    """PEFT's examples hand the optimizer all parameters, Trainer only those that are trained."""
    files = [
        of_its_own(tmp_path / "all.jsonl", 0, tiny_lora()),
        of_its_own(
            tmp_path / "trained.jsonl", 3, tiny_lora(), lambda m: [p for p in m.parameters() if p.requires_grad]
        ),
    ]
    comparison = compared(*files)
    assert not comparison.same
    assert names([*explain(comparison), *also_different(comparison)]) & {"decay-groups", "optimizer"} == set()


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ([4, 4, 4, 4], "stays at 4"),
        ([4, 3, 2, 1], "falls from 4 in a line to 0 after 4 updates"),
        ([0, 2, 4, 3, 2, 1], "rises until update 3, then falls from 4 in a line to 0 after 6 updates"),
        ([0, 2, 4, 4, 4], "rises until update 3, then stays at 4"),
        ([4, 4, 4, 4, 2, 2, 2, 2], "falls from 4 in steps, to 2 in update 8"),
        ([4, 3.9, 3.5, 2, 0.5, 0.1], "falls from 4 in a curve, to 0.1 in update 6"),
        ([4, 3, 2, 1, 0, 0], "falls from 4 in a line to 0 after 4 updates"),
        ([4, 3, 2], None),
    ],
)
def test_a_schedule_in_words(rates: list[float], words: str | None) -> None:
    assert shape_of(dict(enumerate(rates, 1))) == words
