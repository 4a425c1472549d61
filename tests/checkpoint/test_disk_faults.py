"""A disk that is full, a file that is broken, something in the way: the run goes on from the last good checkpoint and
says what was wrong, or stops with a clear error and the last good checkpoint intact.

"Intact" is shown by running the same command again: it must end in the bytes of the run that met no fault.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.kill_harness import (
    JOBS,
    OUTPUT_DIR,
    ForkedRuns,
    KillCase,
    Ran,
    compiler,
    in_parallel,
    run,
    survive,
    uninterrupted,
)
from harness.kill_points import Fault, Kill, Operation, one_save, stages
from harness.output_dirs import difference, what_is_left

from ftloop.errors import ExitCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler() is None, reason="a C compiler is needed: the shim that makes files fail is in C"),
]

STEPS = JOBS["steps"]
SET_ASIDE = "broken-checkpoint-"

# What fails, and with what: a full disk still deletes, a broken one still makes folders.
FAULTS = {
    "disk full": (errno.ENOSPC, ("create", "write", "mkdir")),
    "I/O error": (errno.EIO, ("create", "write", "fsync")),
    "permission lost": (errno.EACCES, ("create", "mkdir", "rename")),
}
AT_ONCE_OR_ALWAYS = pytest.mark.parametrize("times", [1, 10**9], ids=["once", "every time"])


def places(operations: list[Operation], kinds: tuple[str, ...]) -> list[Operation]:
    """The first operation of each of these kinds on each file."""
    found = {(operation.kind, operation.path): operation for operation in reversed(operations)}
    return sorted((each for (kind, _), each in found.items() if kind in kinds), key=lambda each: each.number)


def fresh(runs: ForkedRuns, name: str) -> Path:
    folder = runs.folder / f"fault {name}".replace(" ", "-").replace("/", "-")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def left(runs: ForkedRuns, folder: Path) -> str | None:
    """Return how what is left differs from what a run without a fault leaves, but for what was set aside."""
    found = what_is_left(folder / OUTPUT_DIR)
    found = {name: content for name, content in found.items() if not name.startswith(SET_ASIDE)}
    return difference(uninterrupted(runs, "steps").left, found)


def is_clear_error(ran: Ran, codes: tuple[ExitCode, ...], *words: str) -> str | None:
    """One `error:` line with these words, no traceback, one of these codes; else what is not so."""
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    if ran.exit_codes[0] not in codes:
        return f"exit code {ran.exit_codes[0]}, not {'or '.join(str(int(code)) for code in codes)}: {ran.stderr[-300:]}"
    if "Traceback" in ran.stderr or len(errors) != 1:
        return f"no clear error: {ran.stderr[-300:]}"
    missing = [word for word in words if word not in errors[0]]
    return f"the error does not say {missing}: {errors[0]}" if missing else None


def assert_all_well(wrong: list[str | None], at_least: int) -> None:
    told = [each for each in wrong if each is not None]
    assert not told, f"{len(told)} of {len(wrong)}:\n" + "\n".join(told)
    assert len(wrong) >= at_least


@AT_ONCE_OR_ALWAYS
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", ["save", "final save", "result files"])
def test_what_cannot_be_written_is_tried_again_and_then_stops_the_run(
    stage: str, fault: str, times: int, forked_runs: ForkedRuns
) -> None:
    """At the first operation of every kind on every file (every time: of every third): of the save of update 10, and of
    all that is written after the last one."""
    error, kinds = FAULTS[fault]
    operations = uninterrupted(forked_runs, "steps").ran.operations[0]
    if stage == "save":
        operations = one_save(operations, 10)
    found = stages(operations, is_resumed=False)
    mine = [operation for operation, where in zip(operations, found, strict=True) if where == stage]

    def outcome(place: Operation) -> str | None:
        folder = fresh(forked_runs, f"{fault} {times} {place}")
        # A full disk stays full for every kind; an error that comes once is of one operation.
        failing = Fault(error, place.number, kinds if times > 1 else (place.kind,), times)
        ran = run(forked_runs, STEPS, folder, "faulty", fault=failing)
        wrong = None
        if times == 1:
            wrong = None if ran.exit_codes == [0] else f"exit code {ran.exit_codes[0]}: {ran.stderr[-300:]}"
        else:
            # torch.save tells of a failed write, and keeps the reason to itself.
            reason = "" if place.path.endswith((".pt", ".pth")) else os.strerror(error)
            wrong = is_clear_error(ran, (ExitCode.SAVE_FAILED,), f"{OUTPUT_DIR}/", reason)
            if not (folder / OUTPUT_DIR / "checkpoint-8").is_dir() and stage == "save":
                wrong = "the checkpoint before is gone"
            again = run(forked_runs, STEPS, folder, "again")
            if again.exit_codes != [0]:
                wrong = f"not resumed, exit code {again.exit_codes[0]}: {again.stderr[-300:]}"
        wrong = wrong or left(forked_runs, folder)
        return None if wrong is None else f"{fault} at {place}: {wrong}"

    there = places(mine, kinds)[:: 1 if times == 1 else 3]
    assert_all_well(list(in_parallel(forked_runs, outcome, there)), at_least=2)


@AT_ONCE_OR_ALWAYS
def test_what_cannot_be_deleted_costs_nothing_but_room(times: int, forked_runs: ForkedRuns) -> None:
    """In the rotation of update 10: the run ends well, or stops with a clear error; either way nothing is lost."""
    operations = one_save(uninterrupted(forked_runs, "steps").ran.operations[0], 10)
    found = stages(operations, is_resumed=False)
    rotation = [operation for operation, where in zip(operations, found, strict=True) if where == "rotation"]

    def outcome(place: Operation) -> str | None:
        folder = fresh(forked_runs, f"rotation {times} {place}")
        failing = Fault(errno.EACCES, place.number, ("rename", "delete"), times)
        ran = run(forked_runs, STEPS, folder, "faulty", fault=failing)
        wrong = None if ran.exit_codes == [0] else is_clear_error(ran, (ExitCode.SAVE_FAILED,))
        again = run(forked_runs, STEPS, folder, "again")
        if again.exit_codes != [0]:
            wrong = f"not resumed, exit code {again.exit_codes[0]}: {again.stderr[-300:]}"
        wrong = wrong or left(forked_runs, folder)
        return None if wrong is None else f"at {place}: {wrong}"

    assert_all_well(list(in_parallel(forked_runs, outcome, places(rotation, ("rename", "delete")))), at_least=5)


@AT_ONCE_OR_ALWAYS
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_agree_on_a_save_that_fails(rank: int, times: int, forked_runs: ForkedRuns) -> None:
    """One of them cannot write its file, and neither waits for the other for ever."""
    job, expected = JOBS["processes"], uninterrupted(forked_runs, "processes")
    mine = [o for o in expected.ran.operations[rank] if o.kind == "write" and ".staging-checkpoint-10" in o.path]
    folder = fresh(forked_runs, f"processes {rank} {times}")
    failing = Fault(errno.ENOSPC, mine[0].number, ("write",), times, rank=rank)
    ran = run(forked_runs, job, folder, "faulty", fault=failing)
    if times == 1:
        assert ran.exit_codes == [0, 0], ran.stderr[-2000:]
    else:
        # process 1 leaves the telling to process 0 for a while, in which it is ended as a launcher would
        assert ran.exit_codes[0] == ExitCode.SAVE_FAILED, ran.stderr[-2000:]
        assert ran.exit_codes[1] in (ExitCode.SAVE_FAILED, -signal.SIGTERM)
        assert ran.stderr.count("error: ") == 1
        assert run(forked_runs, job, folder, "again").exit_codes == [0, 0]
    assert difference(expected.left, what_is_left(folder / OUTPUT_DIR)) is None


def truncate(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


def put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture(scope="module")
def stopped(forked_runs: ForkedRuns) -> Path:
    """Killed just before the save of update 10: checkpoint-6 and checkpoint-8 are there."""
    after = one_save(uninterrupted(forked_runs, "steps").ran.operations[0], 8)[-1].number
    folder = fresh(forked_runs, "stopped")
    assert run(forked_runs, STEPS, folder, "killed", Kill("before", after + 1)).was_killed(0)
    names = {path.name for path in (folder / OUTPUT_DIR).glob("checkpoint-*")}
    assert names == {"checkpoint-6", "checkpoint-8"}
    return folder


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove, put_a_folder_there])
def test_a_broken_checkpoint_is_named_set_aside_and_the_one_before_is_used(
    damage: Callable[[Path], None], stopped: Path, forked_runs: ForkedRuns
) -> None:
    """Each file of the newest checkpoint in turn."""

    def outcome(name: str) -> str | None:
        folder = fresh(forked_runs, f"{damage.__name__} {name}")
        shutil.copytree(stopped, folder)
        damage(folder / OUTPUT_DIR / "checkpoint-8" / name)
        ran = run(forked_runs, STEPS, folder, "resumed")
        said = ran.stdout + ran.stderr
        wrong = left(forked_runs, folder)
        if ran.exit_codes != [0]:
            wrong = f"exit code {ran.exit_codes[0]}: {ran.stderr[-300:]}"
        elif "checkpoint-8" not in said or name not in said or "Resuming  after update 6 of 12" not in said:
            wrong = f"does not say what was wrong, or did not use checkpoint-6: {said[:600]}"
        elif not (folder / OUTPUT_DIR / f"{SET_ASIDE}8").is_dir():
            wrong = "the broken checkpoint is not set aside"
        return None if wrong is None else f"{damage.__name__}, {name}: {wrong}"

    names = sorted(path.name for path in (stopped / OUTPUT_DIR / "checkpoint-8").iterdir())
    assert_all_well(list(in_parallel(forked_runs, outcome, names)), at_least=9)


def test_two_broken_checkpoints_are_both_named_and_left(stopped: Path, forked_runs: ForkedRuns) -> None:
    """None is whole: what to do is for a person to say, and a run begun anew in silence would be days lost."""
    folder = fresh(forked_runs, "both broken")
    shutil.copytree(stopped, folder)
    for step in (6, 8):
        flip_a_bit(folder / OUTPUT_DIR / f"checkpoint-{step}" / "optimizer.pt")
    before = what_is_left(folder / OUTPUT_DIR)
    ran = run(forked_runs, STEPS, folder, "resumed")
    assert ran.exit_codes == [ExitCode.USER_ERROR], ran.stderr[-2000:]
    assert difference(before, what_is_left(folder / OUTPUT_DIR)) in (None, ".ftloop.lock is missing")
    for step in (6, 8):
        assert f"checkpoint-{step}: is broken: optimizer.pt" in ran.stderr


def a_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way\n")


def a_folder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "junk.txt").write_text("in the way\n")


@pytest.mark.parametrize("put", [a_file, a_folder])
@pytest.mark.parametrize(
    "name", [".staging-checkpoint-8", "checkpoint-8", "model.safetensors", "train_results.json", "trainer_state.json"]
)
def test_what_is_in_the_way_is_cleared_or_set_aside_or_named(
    name: str, put: Callable[[Path], None], forked_runs: ForkedRuns
) -> None:
    """It is there before the run begins. After a clear error, the same command ends well once it is taken away."""
    expected = uninterrupted(forked_runs, "steps").left
    folder = fresh(forked_runs, f"{put.__name__} {name}")
    put(folder / OUTPUT_DIR / name)
    ran = run(forked_runs, STEPS, folder, "run")
    if ran.exit_codes != [0]:
        assert is_clear_error(ran, (ExitCode.USER_ERROR, ExitCode.SAVE_FAILED), name) is None, ran.stderr[-2000:]
        obstacle = folder / OUTPUT_DIR / name
        shutil.rmtree(obstacle) if obstacle.is_dir() else obstacle.unlink()
        ran = run(forked_runs, STEPS, folder, "again")
        assert ran.exit_codes == [0], ran.stderr[-2000:]
    found = {path: content for path, content in what_is_left(folder / OUTPUT_DIR).items() if "broken" not in path}
    assert difference(expected, found) is None


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES], ids=["I/O error", "permission lost"])
def test_a_checkpoint_that_cannot_be_read_is_passed_over_or_named(
    error: int, stopped: Path, forked_runs: ForkedRuns
) -> None:
    folder = fresh(forked_runs, f"unreadable {error}")
    shutil.copytree(stopped, folder)
    # once: the run that goes on from an older one writes, and reads, another checkpoint-8
    unreadable = Fault(error, 1, ("open",), times=1, path="checkpoint-8/optimizer.pt")
    ran = run(forked_runs, STEPS, folder, "resumed", fault=unreadable)
    assert "optimizer.pt" in ran.stdout + ran.stderr
    if ran.exit_codes != [0]:
        assert is_clear_error(ran, (ExitCode.USER_ERROR,), os.strerror(error)) is None, ran.stderr[-2000:]
        assert run(forked_runs, STEPS, folder, "again").exit_codes == [0]
    assert left(forked_runs, folder) is None


DAY = 86400


def test_a_clock_that_jumps_backwards_changes_nothing(forked_runs: ForkedRuns) -> None:
    """In the middle of a save, by a day."""
    operations = one_save(uninterrupted(forked_runs, "steps").ran.operations[0], 6)
    folder = fresh(forked_runs, "clock")
    clock = (operations[len(operations) // 2].number, -DAY)
    ran = run(forked_runs, STEPS, folder, "run", clock=clock)
    assert ran.exit_codes == [0], ran.stderr[-2000:]
    assert left(forked_runs, folder) is None


def test_resuming_under_a_clock_set_back_takes_the_newest_by_number(stopped: Path, forked_runs: ForkedRuns) -> None:
    """And an older checkpoint was touched in the future."""
    folder = fresh(forked_runs, "clock resumed")
    shutil.copytree(stopped, folder)
    for path in [folder / OUTPUT_DIR / "checkpoint-6", *(folder / OUTPUT_DIR / "checkpoint-6").iterdir()]:
        os.utime(path, (path.stat().st_mtime + DAY,) * 2)
    ran = run(forked_runs, STEPS, folder, "resumed", clock=(1, -DAY))
    assert ran.exit_codes == [0], ran.stderr[-2000:]
    assert "Resuming  after update 8 of 12" in ran.stdout
    assert left(forked_runs, folder) is None


def test_a_kill_after_a_failed_save_loses_nothing_either(forked_runs: ForkedRuns) -> None:
    """The first attempt at a save fails, the second is killed."""
    operations = one_save(uninterrupted(forked_runs, "steps").ran.operations[0], 10)
    place = next(o for o in operations if o.kind == "write" and "optimizer.pt" in o.path)
    folder = fresh(forked_runs, "failed and killed")
    failing = Fault(errno.ENOSPC, place.number, ("write",), times=1)
    kill = Kill("middle", place.number + (place.number - operations[0].number))
    assert run(forked_runs, STEPS, folder, "faulty", kill, fault=failing).was_killed(0)
    assert run(forked_runs, STEPS, folder, "again").exit_codes == [0]
    assert left(forked_runs, folder) is None


def test_the_harness_itself_tells_a_changed_run(forked_runs: ForkedRuns) -> None:
    """One bit of a file that is left, a file too many, and a run that does not come to its end are all told."""
    uninterrupted(forked_runs, "steps")
    verdict = survive(forked_runs, KillCase("steps", (Kill("after", 100),)), keep=True)
    assert verdict.wrong is None
    [folder] = forked_runs.folder.glob("case-job-steps-kills-after-100")
    flip_a_bit(folder / OUTPUT_DIR / "checkpoint-12" / "rng_state.pth")
    assert left(forked_runs, folder) == "checkpoint-12/rng_state.pth differs"
    a_folder(folder / OUTPUT_DIR / ".staging-checkpoint-9")
    assert left(forked_runs, folder) == ".staging-checkpoint-9 is left over; checkpoint-12/rng_state.pth differs"
