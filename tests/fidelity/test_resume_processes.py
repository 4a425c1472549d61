"""Two processes: either side continues the other's run, after every update, in fp32 and bf16."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from harness.command import WORKERS, launch
from harness.cross_resume import TWO_PROCESSES, assert_continues
from harness.side_by_side import Trace, assert_same_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("resume")
    return launch(2, folder, worker=WORKERS / "resume.py")


every_case = pytest.mark.parametrize(
    ("name", "precision"), [(name, precision) for precision in ("fp32", "bf16") for name in TWO_PROCESSES]
)


def whole_runs(found: dict[str, Any], name: str, precision: str) -> dict[str, Trace]:
    return {side: Trace(**trace) for side, trace in found[f"{name}, {precision}"]["whole"].items()}


def resumed_runs(found: dict[str, Any], name: str, precision: str, direction: str) -> dict[int, Trace]:
    """By the update resumed after."""
    resumed = found[f"{name}, {precision}"]["resumed"]
    assert [int(step) for step in resumed] == TWO_PROCESSES[name].saved_at
    if any(runs[direction] is None for runs in resumed.values()):
        pytest.skip(f"Trainer of transformers {transformers.__version__} cannot resume several processes on the CPU")
    return {int(step): Trace(**runs[direction]) for step, runs in resumed.items()}


@every_case
def test_trainer_falls_short_of_its_own_run_at_its_known_exceptions_alone(
    name: str, precision: str, found: dict[str, Any]
) -> None:
    whole = whole_runs(found, name, precision)["trainer"]
    for step, resumed in resumed_runs(found, name, precision, "trainer -> trainer").items():
        exception = TWO_PROCESSES[name].exceptions.get(step)
        if exception is None:
            assert_continues(resumed, whole)
        else:
            assert exception(resumed, whole, step), f"update {step} is no exception any more"


@every_case
@pytest.mark.parametrize("direction", ["trainer -> ftloop", "ftloop -> trainer", "ftloop -> ftloop"])
def test_with_trainer_compat_either_side_resumes_the_others_run(
    direction: str, name: str, precision: str, found: dict[str, Any]
) -> None:
    whole = whole_runs(found, name, precision)
    assert_same_run(whole["trainer"], whole["ftloop"])
    resumed_here = resumed_runs(found, name, precision, direction)
    for step, resumed in resumed_here.items():
        if step not in TWO_PROCESSES[name].exceptions:
            assert_continues(resumed, whole["trainer"])
    for step, trainers_own in resumed_runs(found, name, precision, "trainer -> trainer").items():
        assert len(resumed_here[step].losses) == len(trainers_own.losses)
        assert_continues(resumed_here[step], trainers_own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_by_default_ftloop_resumes_trainers_run_exactly(precision: str, found: dict[str, Any]) -> None:
    whole = whole_runs(found, "equal micro-batches", precision)["trainer"]
    for resumed in resumed_runs(found, "equal micro-batches", precision, "trainer -> default").values():
        assert_continues(resumed, whole)
        assert resumed.train_loss == whole.train_loss


@every_case
def test_by_default_ftloop_resumes_its_own_run_exactly(name: str, precision: str, found: dict[str, Any]) -> None:
    whole = whole_runs(found, name, precision)["default"]
    for resumed in resumed_runs(found, name, precision, "default -> default").values():
        assert_continues(resumed, whole)
        assert resumed.train_loss == whole.train_loss
