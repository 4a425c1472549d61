"""A run killed by SIGKILL, wherever it may be, and started again by the same command ends in the same bytes.

Compared are all files below output_dir: the model, every file of every checkpoint left, states and results without
timings; and that nothing else is left. Each failure names the command that does it again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from harness.kill_harness import (
    JOBS,
    ForkedRuns,
    KillCase,
    Verdict,
    compiler,
    random_case,
    run,
    survive_all,
    uninterrupted,
)
from harness.kill_points import Kill, kill_points, one_save, stages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler() is None, reason="a C compiler is needed: the shim that kills is in C"),
]

Tell = Callable[[str, object], None]


def assert_survived(verdicts: list[Verdict], at_least: int, tell: Tell) -> Counter[str]:
    """Returns: how many kills hit in which stage."""
    hit = Counter(stage for verdict in verdicts for stage in verdict.stages)
    tell("kills", dict(hit))
    lost = [verdict for verdict in verdicts if verdict.wrong is not None]
    told = "\n".join(f"python benchmarks/fidelity/kill_and_resume.py {verdict}" for verdict in lost[:40])
    assert not lost, f"{len(lost)} of {len(verdicts)} did not end as if nobody had killed them:\n{told}"
    assert hit.total() >= at_least
    return hit


def in_stage(hit: Counter[str], stage: str) -> int:
    return sum(count for name, count in hit.items() if name.startswith(f"{stage}:"))


@pytest.mark.parametrize(("job", "step"), [("steps", 10), ("epochs", 12)])
def test_killed_at_every_operation_of_a_save_and_its_rotation(
    job: str, step: int, forked_runs: ForkedRuns, record_property: Tell
) -> None:
    """The checkpoint is there at the end, so that it is seen to be whole. It is the last one by epochs: the final
    save and the result files come after it. Of more than four writes into one file after each other, at the first, the
    middle one and the last."""
    operations = one_save(uninterrupted(forked_runs, job).ran.operations[0], step)
    verdicts = survive_all(forked_runs, [KillCase(job, (kill,)) for kill in kill_points(operations)])
    hit = assert_survived(verdicts, at_least=60, tell=record_property)
    assert in_stage(hit, "save") >= 50, "of two jobs: 100 in a save"
    assert in_stage(hit, "rotation") >= 5
    for kind in ("completed create", "half write", "completed write", "completed fsync", "completed rename"):
        assert hit[f"save: {kind}"], kind
    assert hit["rotation: completed delete"]


def test_killed_at_every_operation_after_the_last_save(forked_runs: ForkedRuns, record_property: Tell) -> None:
    """The rotation of the last save, the final model and the result files."""
    operations = uninterrupted(forked_runs, "steps").ran.operations[0]
    found = stages(operations, is_resumed=False)
    last = max(number for number, stage in enumerate(found) if stage == "save")
    verdicts = survive_all(forked_runs, [KillCase("steps", (kill,)) for kill in kill_points(operations[last + 1 :])])
    hit = assert_survived(verdicts, at_least=50, tell=record_property)
    assert in_stage(hit, "final save") >= 5
    assert in_stage(hit, "result files") >= 30


def test_killed_while_an_adapter_is_saved(forked_runs: ForkedRuns, record_property: Tell) -> None:
    """An adapter's checkpoints hold other files, and a merged model is saved beside the last."""
    pytest.importorskip("peft", reason="PEFT is not installed: pip install ftloop[peft]")
    operations = uninterrupted(forked_runs, "adapter").ran.operations[0]
    last = max(number for number, stage in enumerate(stages(operations, is_resumed=False)) if stage == "save")
    points = kill_points(one_save(operations, 10))[::8] + kill_points(operations[last + 1 :])[::8]
    hit = assert_survived(
        survive_all(forked_runs, [KillCase("adapter", (kill,)) for kill in points]), 25, record_property
    )
    assert in_stage(hit, "save") >= 5
    assert in_stage(hit, "result files") >= 3


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_once_or_twice(seed: int, forked_runs: ForkedRuns, record_property: Tell) -> None:
    """40 cases, and more where the machine was slower while the run was timed: a moment after the end kills nothing."""
    for job in ("steps", "epochs"):
        uninterrupted(forked_runs, job)
    verdicts: list[Verdict] = []
    while len(verdicts) < 40 or (sum(len(verdict.stages) for verdict in verdicts) < 40 and len(verdicts) < 120):
        numbers = range(len(verdicts), len(verdicts) + 40)
        cases = [random_case(seed, number, forked_runs, ("steps", "epochs")[number % 2]) for number in numbers]
        verdicts += survive_all(forked_runs, cases)
    assert_survived(verdicts, at_least=40, tell=record_property)


def test_killed_while_rows_are_read_and_tokenized(forked_runs: ForkedRuns, record_property: Tell) -> None:
    """Into an empty cache of data sets, which the second run finds half filled."""
    draw = random.Random(1)
    cases = [KillCase("steps", (Kill("seconds", round(draw.uniform(0.02, 0.5), 3)),), cold=True) for _ in range(8)]
    assert_survived(survive_all(forked_runs, cases), at_least=6, tell=record_property)


# What a killed run may leave for the next one to begin with; a fragment of the operation, and how to kill there.
LEFT_BEHIND = {
    "half a save": ("write .staging-checkpoint-10/optimizer.pt", "middle"),
    "a save not yet renamed": ("rename .staging-checkpoint-10 ", "before"),
    "half a rotation": ("delete .deleted-checkpoint-6/scheduler.pt", "after"),
    "half a final save": ("write .train_results.json", "middle"),
}


@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_killed_while_it_resumes(left: str, forked_runs: ForkedRuns, record_property: Tell) -> None:
    """Kills are tried at every operation before the first of the next save, reading included."""
    fragment, when = LEFT_BEHIND[left]
    operations = uninterrupted(forked_runs, "steps").ran.operations[0]
    first = Kill(when, next(operation.number for operation in operations if fragment in f"{operation} "))
    folder = forked_runs.folder / left.replace(" ", "-")
    assert run(forked_runs, JOBS["steps"], folder, "killed", first).was_killed(0)
    resumed = run(forked_runs, JOBS["steps"], folder, "resumed").operations[0]
    beginning = [o for o, stage in zip(resumed, stages(resumed, is_resumed=True), strict=True) if stage == "resume"]
    points = kill_points(beginning, reads=True)
    verdicts = survive_all(forked_runs, [KillCase("steps", (first, kill)) for kill in points])
    hit = assert_survived(verdicts, at_least=2 * len(points), tell=record_property)
    assert in_stage(hit, "resume") == len(points) >= 5


def test_one_of_two_processes_is_killed_and_the_other_ended(forked_runs: ForkedRuns, record_property: Tell) -> None:
    """Kills are tried in a save and at random moments; as torchrun does, the other gets SIGTERM and then SIGKILL."""
    ran, draw = uninterrupted(forked_runs, "processes").ran, random.Random(1)
    first = kill_points(one_save(ran.operations[0], 10))[::4]
    second = kill_points([operation for operation in ran.operations[1] if "checkpoint-10" in operation.path], rank=1)
    moments = [Kill("seconds", round(draw.uniform(0.1, 0.9) * ran.seconds, 3), rank) for rank in (0, 1, 0, 1, 0, 1)]
    cases = [KillCase("processes", (kill,)) for kill in [*first, *second, *moments]]
    hit = assert_survived(survive_all(forked_runs, cases), at_least=25, tell=record_property)
    assert second
    assert in_stage(hit, "save") >= 15
