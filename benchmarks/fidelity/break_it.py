"""The exercises of the walkthrough's "Break it": one line of ftloop changed, and what comes of it.

    python benchmarks/fidelity/break_it.py   each change in a copy: its test passes before, and fails after
        --only same-order      one of them
        --curves               also trains a real model, with each change: 10 minutes
        --curves --continue    goes on with what an earlier call has left undone
        --curves --write       also writes the figures into the walkthrough

The model is all-MiniLM-L6-v2, the data are built-in sentence pairs. What the walkthrough says of a change was measured
by that. Exit code 1: an exercise does not do what it promises.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, ROOT

FORKS = multiprocessing.get_context("forkserver")
LIBRARIES = ["torch", "transformers", "transformers.trainer", "accelerate", "datasets", "pytest"]
SETTINGS = {
    "COLUMNS": "250",  # pytest then says in one line which assertion failed
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
RESULT = RESULTS / "break-it.json"


@dataclass(frozen=True)
class Exercise:
    """A change of one line. `before` and `after` are code alone: a comment behind it stays."""

    name: str
    file: str
    before: str
    after: str
    test: str
    lesson: str
    job: str = "plain"
    """Name of the job, in `JOBS`, that is trained to see it."""


EXERCISES = [
    Exercise(
        "no-zero-grad",
        "ftloop/loop.py",
        "                parameter.grad = None",
        "                pass",
        "tests/fidelity/test_parity.py::test_with_one_micro_batch_per_update_the_default_is_the_same_run[the base job]",
        "gradients add up until somebody clears them",
    ),
    Exercise(
        "sum-not-mean",
        "ftloop/loop.py",
        "loss = loss / micro_batch.divisor",
        "pass",
        "tests/loop/test_loop.py::test_k_micro_batches_are_one_batch_of_k_times_as_many_rows[2-two classes-24]",
        "a loss k times too large can train the same model",
    ),
    Exercise(
        "fixed-divisor",
        "ftloop/run/micro_batches.py",
        "divisor = rules.divisor(rows, window_rows, len(batches), processes, num_items)",
        "divisor = float(plan.gradient_accumulation_steps)",
        "tests/loop/test_loop.py::test_k_micro_batches_are_one_batch_of_k_times_as_many_rows[2-two classes-29]",
        "the last update of an epoch may be a short one",
    ),
    Exercise(
        "schedule-per-micro-batch",
        "ftloop/loop.py",
        "run.scheduler.step()",
        "[run.scheduler.step() for _ in losses]",
        "tests/loop/test_loop.py::test_an_update_says_what_was_done",
        "a schedule counts updates",
    ),
    Exercise(
        "no-warmup",
        "ftloop/run/optim.py",
        "num_warmup_steps=warmup_steps,",
        "num_warmup_steps=0,",
        "tests/loop/test_loop.py::test_an_update_says_what_was_done",
        "Adam's first steps are as long as any",
    ),
    Exercise(
        "decay-everything",
        "ftloop/run/optim.py",
        '{"params": [p for name, p in trainable if name not in decayed], "weight_decay": 0.0},',
        '{"params": [p for name, p in trainable if name not in decayed], "weight_decay": config.weight_decay},',
        "tests/run/test_optim.py::test_the_optimizer_is_trainers_group_by_group_and_in_its_order",
        "some faults no curve shows",
    ),
    Exercise(
        "no-second-seed",
        "ftloop/run/prepare.py",
        "seed_everything(config)",
        "pass",
        "tests/fidelity/test_parity.py::test_with_one_micro_batch_per_update_the_default_is_the_same_run[the base job]",
        "the same seed is not the same run",
    ),
    Exercise(
        "left-evaluating",
        "ftloop/loop.py",
        "run.model.train()",
        "pass",
        "tests/loop/test_loop.py::test_a_model_left_evaluating_trains_on_with_dropout",
        "a better training loss can be a fault",
    ),
    Exercise(
        "dropout-in-evaluation",
        "ftloop/evaluation.py",
        "model.eval()",
        "pass",
        "tests/loop/test_evaluation.py::test_every_row_is_predicted_once_and_in_order[13]",
        "an evaluation must not throw dice",
    ),
    Exercise(
        "same-order",
        "ftloop/run/micro_batches.py",
        "run.sampler.epoch = epoch",
        "pass",
        "tests/fidelity/test_parity.py::test_with_one_micro_batch_per_update_the_default_is_the_same_run[the base job]",
        "shuffled once is not shuffled every epoch",
    ),
    Exercise(
        "no-mask",
        "ftloop/loss.py",
        "inputs = dict(inputs)",
        'inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}',
        "tests/loop/test_evaluation.py::test_every_row_is_predicted_once_and_in_order[13]",
        "a fault can sleep until the data wake it",
    ),
    Exercise(
        "last-batch-counts-whole",
        "ftloop/evaluation.py",
        "gather = run.accelerator.gather_for_metrics",
        "gather = run.accelerator.gather",
        "tests/loop/test_evaluation.py::test_the_loss_is_the_mean_over_rows_not_over_batches",
        "a mean of means is not the mean",
    ),
    Exercise(
        "wrong-rows",
        "ftloop/evaluation.py",
        "rows[order] = evaluated",
        "rows[:] = evaluated",
        "tests/batching/test_order.py::test_sorted_evaluation_gives_back_the_rows_in_their_order",
        "every metric right, every prediction on another row",
        job="sorted",
    ),
    Exercise(
        "best-is-worst",
        "ftloop/config/train_config.py",
        "return not self.metric_for_best_model.endswith(falling)",
        "return True",
        "tests/config/test_config.py::test_a_metric_is_to_rise_unless_it_is_a_loss_or_an_error[eval_loss-False-False]",
        "the curves are not the model",
        job="best",
    ),
    Exercise(
        "random-state-lost",
        "ftloop/run/micro_batches.py",
        "restore_rng_state(run.resume.rng_state)",
        "pass",
        "tests/fidelity/test_resume.py::test_nothing_is_lost_wherever_the_run_stopped[1]",
        "resumed is not the same as uninterrupted",
        job="resumed",
    ),
    Exercise(
        "moments-lost",
        "ftloop/checkpoint/resume.py",
        "_restore(run.optimizer, folder / OPTIMIZER, settings=_groups(run) if follows else [])",
        "pass",
        "tests/fidelity/test_resume.py::test_nothing_is_lost_wherever_the_run_stopped[1]",
        "an optimizer has a memory",
        job="resumed",
    ),
    Exercise(
        "exchanged-every-time",
        "ftloop/loop.py",
        "with nullcontext() if is_last else run.accelerator.no_sync(run.model):",
        "with nullcontext():",
        "tests/loop/test_loop.py::test_gradients_are_exchanged_with_the_last_micro_batch_alone",
        "some faults only cost time",
    ),
]


# --- applying a change, and seeing its test fail


def copy_project(folder: Path) -> Path:
    """Copy what the tests need: a fresh copy for each change, so that no bytecode of another is taken for it."""
    for name in ("ftloop", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def code_of(line: str) -> str:
    return line.split("  # ")[0].rstrip()


def places(exercise: Exercise, root: Path = ROOT) -> list[int]:
    """Find the line to be changed in its file; by its indentation too, where `before` has one."""
    lines = (root / exercise.file).read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines) if exercise.before in (code_of(line), code_of(line).strip())]


def apply(exercise: Exercise, root: Path) -> None:
    """Raises: ValueError where the line does not occur exactly once."""
    found = places(exercise, root)
    if len(found) != 1:
        raise ValueError(f"{exercise.file} has {len(found)} lines {exercise.before!r}")
    path = root / exercise.file
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[found[0]] = lines[found[0]].replace(exercise.before, exercise.after)
    path.write_text("".join(lines), encoding="utf-8")


def in_copy(copy: Path, what: str, words: list[str]) -> tuple[int, str]:
    """Run pytest, or ftloop's command, in a process of its own that imports the copy's ftloop. Returns: its exit code
    and what it printed.

    The process is forked from one that has imported the libraries, and nothing of ftloop: that takes seconds.
    """
    output = copy.parent / f"{copy.name}.txt"
    process = FORKS.Process(target=_in_copy, args=(copy, what, words, output))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def _in_copy(copy: Path, what: str, words: list[str], output: Path) -> None:
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    if what == "pytest":
        import pytest

        code = int(pytest.main(["-p", "no:cacheprovider", "-x", "-q", *words]))
    else:
        from ftloop.train import main

        code = main(words)
    import ftloop

    if not Path(ftloop.__file__).samefile(copy / "ftloop" / "__init__.py"):
        print(f"ftloop was imported from {ftloop.__file__}")  # one that is installed as a link to a checkout
        code = 99
    sys.stdout.flush()
    sys.exit(code)


def failure(said: str) -> str | None:
    """The assertion that failed; None where something else went wrong, as it does in a change that is no Python."""
    lines = [line.partition(" - ")[2].strip(": ") for line in said.splitlines() if line.startswith("FAILED ")]
    return lines[0] if lines and lines[0].startswith(("assert", "AssertionError")) else None


def see_it_fail(exercise: Exercise, folder: Path) -> dict[str, str]:
    """Returns: `failed`, by which assertion; or `problem`, what kept the exercise from doing what it promises."""
    copy = copy_project(folder / exercise.name)
    try:
        apply(exercise, copy)
    except ValueError as error:
        return {"problem": str(error)}
    code, said = in_copy(copy, "pytest", [exercise.test])
    reason = failure(said)
    if code == 1 and reason is not None:
        return {"failed": reason}
    return {"problem": "the test passes" if code == 0 else f"no assertion failed, exit code {code}: {said[-500:]}"}


def see_all(exercises: list[Exercise], folder: Path, jobs: int) -> dict[str, dict[str, str]]:
    """All named tests pass in an unchanged copy, and each fails in its changed one."""
    tests = sorted({exercise.test for exercise in exercises})
    code, said = in_copy(copy_project(folder / "unchanged"), "pytest", tests)
    if code != 0:
        raise SystemExit(f"the tests do not pass in an unchanged copy:\n{said[-3000:]}")
    with ThreadPoolExecutor(jobs) as pool:
        seen = list(pool.map(lambda exercise: see_it_fail(exercise, folder), exercises))
    return {exercise.name: found for exercise, found in zip(exercises, seen, strict=True)}


def main() -> int:
    names = [exercise.name for exercise in EXERCISES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)}")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--curves", action="store_true", help="train a real model too, unchanged and changed")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="keep the curves that are there")
    parser.add_argument("--write", action="store_true", help="write the curves' figures into the walkthrough")
    parser.add_argument("--output", type=Path, default=RESULT, help="of the curves; beside it: .png")
    given = parser.parse_args()
    exercises = [exercise for exercise in EXERCISES if given.only is None or exercise.name in given.only]
    with tempfile.TemporaryDirectory(prefix="break-it-") as name:
        folder = Path(name).resolve()
        for variable in [each for each in os.environ if each.startswith("PYTEST")]:
            del os.environ[variable]  # of a pytest that has started this
        os.environ |= SETTINGS | {"HF_DATASETS_CACHE": str(folder / "cache")}
        FORKS.set_forkserver_preload(LIBRARIES)
        seen = see_all(exercises, folder, given.jobs)
        for exercise in exercises:
            outcome = seen[exercise.name]
            verdict = f"red, {outcome['failed']}" if "failed" in outcome else f"NOT AS PROMISED: {outcome['problem']}"
            print(f"{exercise.name:<25} {exercise.test.partition('::')[2]}\n{'':<25} {verdict}", flush=True)
        if given.curves:
            from benchmarks.fidelity.break_it_curves import curves  # which imports this file

            curves(exercises, seen, given, folder / "curves")
    kept_promise = sum("failed" in outcome for outcome in seen.values())
    print(f"{kept_promise} of {len(exercises)} changes turn their test red")
    return 0 if kept_promise == len(exercises) else 1


if __name__ == "__main__":
    sys.exit(main())
