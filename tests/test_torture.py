"""A run killed by SIGKILL, wherever it may be, and started again by the same command ends in the same bytes.

Compared are all files below output_dir: the model, every file of every checkpoint left, states and results without
timings; and that nothing else is left. Each failure names the command that does it again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from killing import (
    JOBS,
    Case,
    Ground,
    Kill,
    Verdict,
    compiler,
    kill_points,
    one_save,
    random_case,
    run,
    stages,
    survive_all,
    whole,
)

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
    told = "\n".join(f"python benchmarks/torture.py {verdict}" for verdict in lost[:40])
    assert not lost, f"{len(lost)} of {len(verdicts)} did not end as if nobody had killed them:\n{told}"
    assert hit.total() >= at_least
    return hit


def in_stage(hit: Counter[str], stage: str) -> int:
    return sum(count for name, count in hit.items() if name.startswith(f"{stage}:"))


@pytest.mark.parametrize(("job", "step"), [("steps", 10), ("epochs", 12)])
def test_killed_at_every_operation_of_a_save_and_its_rotation(
    job: str, step: int, killing_ground: Ground, record_property: Tell
) -> None:
    """Of a checkpoint that is there at the end, so that it is seen to be whole. It is the last one by epochs: the final
    save and the result files come after it. Of more than four writes into one file after each other, at the first, the
    middle one and the last."""
    operations = one_save(whole(killing_ground, job).ran.operations[0], step)
    verdicts = survive_all(killing_ground, [Case(job, (kill,)) for kill in kill_points(operations)])
    hit = assert_survived(verdicts, at_least=60, tell=record_property)
    assert in_stage(hit, "save") >= 50, "of two jobs: 100 in a save"
    assert in_stage(hit, "rotation") >= 5
    for kind in ("completed create", "half write", "completed write", "completed fsync", "completed rename"):
        assert hit[f"save: {kind}"], kind
    assert hit["rotation: completed delete"]


def test_killed_at_every_operation_after_the_last_save(killing_ground: Ground, record_property: Tell) -> None:
    """The rotation of the last save, the final model and the result files."""
    operations = whole(killing_ground, "steps").ran.operations[0]
    found = stages(operations, is_resumed=False)
    last = max(number for number, stage in enumerate(found) if stage == "save")
    verdicts = survive_all(killing_ground, [Case("steps", (kill,)) for kill in kill_points(operations[last + 1 :])])
    hit = assert_survived(verdicts, at_least=50, tell=record_property)
    assert in_stage(hit, "final save") >= 5
    assert in_stage(hit, "result files") >= 30


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_once_or_twice(seed: int, killing_ground: Ground, record_property: Tell) -> None:
    for job in ("steps", "epochs"):
        whole(killing_ground, job)
    cases = [random_case(seed, number, killing_ground, ("steps", "epochs")[number % 2]) for number in range(40)]
    assert_survived(survive_all(killing_ground, cases), at_least=40, tell=record_property)


def test_killed_while_rows_are_read_and_tokenized(killing_ground: Ground, record_property: Tell) -> None:
    """Into an empty cache of data sets, which the second run finds half filled."""
    draw = random.Random(1)
    cases = [Case("steps", (Kill("seconds", round(draw.uniform(0.02, 0.5), 3)),), cold=True) for _ in range(8)]
    assert_survived(survive_all(killing_ground, cases), at_least=6, tell=record_property)


# What a killed run may leave for the next one to begin with; a fragment of the operation, and how to kill there.
LEFT_BEHIND = {
    "half a save": ("write .staging-checkpoint-10/optimizer.pt", "middle"),
    "a save not yet renamed": ("rename .staging-checkpoint-10 ", "before"),
    "half a rotation": ("delete .deleted-checkpoint-6/scheduler.pt", "after"),
    "half a final save": ("write .train_results.json", "middle"),
}


@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_killed_while_it_resumes(left: str, killing_ground: Ground, record_property: Tell) -> None:
    """At every operation before the first of the next save, reading included."""
    fragment, when = LEFT_BEHIND[left]
    operations = whole(killing_ground, "steps").ran.operations[0]
    first = Kill(when, next(operation.number for operation in operations if fragment in f"{operation} "))
    folder = killing_ground.folder / left.replace(" ", "-")
    assert run(killing_ground, JOBS["steps"], folder, "killed", first).was_killed(0)
    resumed = run(killing_ground, JOBS["steps"], folder, "resumed").operations[0]
    beginning = [o for o, stage in zip(resumed, stages(resumed, is_resumed=True), strict=True) if stage == "resume"]
    points = kill_points(beginning, reads=True)
    verdicts = survive_all(killing_ground, [Case("steps", (first, kill)) for kill in points])
    hit = assert_survived(verdicts, at_least=2 * len(points), tell=record_property)
    assert in_stage(hit, "resume") == len(points) >= 5


def test_one_of_two_processes_is_killed_and_the_other_ended(killing_ground: Ground, record_property: Tell) -> None:
    """In a save, and at moments; as torchrun does, the other gets SIGTERM and then SIGKILL."""
    ran, draw = whole(killing_ground, "processes").ran, random.Random(1)
    first = kill_points(one_save(ran.operations[0], 10))[::4]
    second = kill_points([operation for operation in ran.operations[1] if "checkpoint-10" in operation.path], rank=1)
    moments = [Kill("seconds", round(draw.uniform(0.1, 0.9) * ran.seconds, 3), rank) for rank in (0, 1, 0, 1, 0, 1)]
    cases = [Case("processes", (kill,)) for kill in [*first, *second, *moments]]
    hit = assert_survived(survive_all(killing_ground, cases), at_least=25, tell=record_property)
    assert second
    assert in_stage(hit, "save") >= 15
