"""Several processes (gloo): Trainer's bits on request; by default every row once, however the rows are split."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from harness.command import launch
from harness.config_space import AXES, describe, in_processes
from harness.models import tiny_bert
from harness.side_by_side import BASE, Job, Trace, run_ftloop

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("processes", [2, 3])
def test_in_several_processes_every_configuration_is_trainers_run(
    processes: int, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    found = launch(processes, tmp_path, "matrix", torchrun=True)["matrix"]
    assert [each["choice"] for each in found] == in_processes(processes)
    ran: Counter[str] = Counter()
    different = []
    for each in found:
        choice, outcomes = each["choice"], each["outcomes"]
        ran.update(f"{axis}={choice[axis]}" for axis in AXES)
        ran.update({"configurations": 1, "updates": outcomes[0]["updates"]})
        ran.update({"resumed runs": int(outcomes[0]["resumed_at"] is not None)})
        different += [
            f"process {rank}: {outcome['difference']}\n    benchmarks/fidelity/parity.py --choice {describe(choice)}"
            for rank, outcome in enumerate(outcomes)
            if outcome["difference"] is not None
        ]
    record_property("ran", dict(ran))
    assert not different, "\n".join(different)


def test_by_default_the_loss_is_the_mean_over_rows_however_they_are_split(tmp_path: Path) -> None:
    """1 x 8, 2 x 4 and 4 x 2 rows per update; the last round of 29 rows is filled with rows that count nothing."""
    runs = {processes: Trace(**launch(processes, tmp_path, "rows")["rows"]) for processes in (1, 2, 4)}
    one = runs[1]
    assert len(one.history) == 2 * 4 + 2 + 1
    for processes in (2, 4):
        for ours, theirs in zip(runs[processes].history, one.history, strict=True):
            assert ours["step"] == theirs["step"]
            for name in ("loss", "grad_norm", "eval_loss"):
                if name in theirs:
                    # float32 sums in another order, carried on by AdamW over 8 updates
                    assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (processes, name)


@pytest.mark.parametrize("processes", [2, 3])
def test_grouped_rows_are_dealt_once_and_counted_once_in_several_processes(processes: int, tmp_path: Path) -> None:
    """29 rows: the last round is not full, and one process may have no row in it."""
    found = launch(processes, tmp_path, "batching")["batching"]
    assert found.keys() == {"length_grouped", "token_budget"}
    for kind, each in found.items():
        rows = [row for update in each["rows"] for row in update]
        assert sorted(rows) == sorted([*range(29)] * 2), kind
        assert len(each["losses"]) >= 4
        for expected, loss in each["losses"]:
            assert loss == pytest.approx(expected, rel=1e-5), kind  # float32, in another order
        assert len(each["resumed"]) >= 3
        assert all(history and weights for history, weights in each["resumed"]), kind
        assert len(each["evaluations"]) == 2


def test_a_resumed_run_of_two_processes_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, resumed = launch(2, tmp_path, "resume")["resume"]
    assert len(resumed) == 4
    for step, trace in resumed.items():
        assert trace["history"] == whole["history"], step
        assert trace["weights"] == whole["weights"], step
        assert trace["train_loss"] == whole["train_loss"], step


def test_another_number_of_processes_goes_on_at_the_right_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many rows in an update, saved by one process and continued by two, and the other way round."""
    plain = Job(lambda: tiny_bert(dropout=0.0))
    root = tmp_path / "2" / "split"
    arguments = BASE | {"save_strategy": "steps", "save_steps": 1, "logging_steps": 2, "per_device_train_batch_size": 8}
    whole = run_ftloop(plain, root / "one", **arguments)
    two, resumed_by_two = (Trace(**trace) for trace in launch(2, tmp_path, "split")["split"])
    resumed_by_one = run_ftloop(plain, root / "back", resume=str(root / "two" / "checkpoint-3"), **arguments)
    assert "num_processes (2 then, 1 now): from here on no longer the bits" in capsys.readouterr().out
    assert len(resumed_by_one.updates) == len(resumed_by_two.updates) == len(whole.updates) - 3
    for resumed, saver in ((resumed_by_one, two), (resumed_by_two, whole)):
        assert len(resumed.history) == len(saver.history)
        for ours, theirs in zip(resumed.history, saver.history, strict=True):
            assert ours["step"] == theirs["step"]
            for name in ("loss", "grad_norm", "eval_loss", "train_loss"):
                if name in theirs:
                    # float32 sums in another order, carried on by AdamW over 5 updates
                    assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (ours, name)


def test_evaluating_before_training_does_not_let_the_processes_part(tmp_path: Path) -> None:
    """Trainer's `evaluate()` before `train()` leaves the model unwrapped, and each process trains its own."""
    digests = launch(2, tmp_path, "evaluate_first")["evaluate_first"]
    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_a_nonfinite_row_of_one_process_stops_or_is_skipped_by_all(tmp_path: Path) -> None:
    """Its gradient is finite, so that without a word from process 1 the others would go on without it."""
    found = launch(2, tmp_path, "nonfinite")["nonfinite"]
    row = found["row"]
    for mode in ("raise", "skip"):
        first, second = found[mode]
        assert first["weights"] == second["weights"], "the processes have not parted"
        assert first["updates"] == second["updates"]
        assert first["history"] == second["history"]
    told, short = (each["message"] for each in found["raise"])
    assert told.startswith("update 3 of 8: the loss or the gradient is not finite")
    assert f"its 8 rows, from 1, of which these lead to it: {row + 1}\n" in told
    assert short == told.splitlines()[0]
    lines = json.loads(found["skip"][0]["history"])
    assert [line["nonfinite_updates"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert found["skip"][0]["updates"] == 8


def test_auto_micro_batch_is_refused_with_the_reason(tmp_path: Path) -> None:
    refusal = launch(2, tmp_path, "memory")["memory"]
    assert "auto_micro_batch: works on one process, not on 2" in refusal
    assert "--gradient_accumulation_steps" in refusal
