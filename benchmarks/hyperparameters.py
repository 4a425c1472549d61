"""What the arguments do: batch size, learning rate, warmup, epochs and the rest, each changed alone, over seeds.

    python benchmarks/hyperparameters.py                         every choice, three seeds; 51 runs of some 50 seconds
    python benchmarks/hyperparameters.py --tables rate --seeds 1 2
    python benchmarks/hyperparameters.py --continue              goes on with what an earlier call has left undone
    python benchmarks/hyperparameters.py --quick                 few rows: to see that it works

Each run is ftloop's command with the recipe demo (all-MiniLM-L6-v2 on the built-in pairs) and one choice changed. The
scores are those of the last weights on the test set, beside what always naming the majority class scores. Seeds are the
outer loop, so that what is there after any number of runs is a table. Scores and memory do not suffer from a machine
that does other things too; times would, so none are given: the work is, in updates and in computed tokens.

Finished runs are kept as lines of JSON beside the result, which is written anew from them after every run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import FTLOOP, RESULTS, finish, machine, versions
from ftloop.data.demo import demo_rows

# The recipe demo with half its rows per update, which then takes two epochs, not three; three flags that make a run a
# third cheaper and are the same for all; and one evaluation, at the end.
CENTRE: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "batching": "length_grouped",
    "fast_dropout": "true",
    "first_token_only": "true",
    "sort_eval": "true",
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": "false",
    "max_eval_samples": 16,
    "logging_steps": 5,
    "disable_tqdm": "true",
}
QUICK: dict[str, Any] = {"max_train_samples": 32, "max_predict_samples": 32, "num_train_epochs": 1, "logging_steps": 1}


@dataclass(frozen=True)
class Choice:
    name: str
    changes: dict[str, Any] = field(default_factory=dict)


def rows_per_update(rows: int, micro_batches: int = 1) -> dict[str, Any]:
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}


THE_CENTRE = Choice("the centre")
TABLES: dict[str, list[Choice]] = {
    "rate": [
        *(Choice(f"rate {rate}", {"learning_rate": rate}) for rate in ("1e-5", "2e-5", "5e-5")),
        THE_CENTRE,
        *(Choice(f"rate {rate}", {"learning_rate": rate}) for rate in ("5e-4", "5e-3")),
    ],
    "batch": [
        Choice("4 rows", rows_per_update(4)),
        THE_CENTRE,
        Choice("16 rows", rows_per_update(16)),
        Choice("32 rows", rows_per_update(32)),
    ],
    "arguments": [
        THE_CENTRE,
        Choice("1 epoch", {"num_train_epochs": 1}),
        Choice("4 epochs", {"num_train_epochs": 4}),
        Choice("no warmup", {"warmup_ratio": 0}),
        Choice("no weight decay", {"weight_decay": 0}),
        Choice("label smoothing 0.1", {"label_smoothing_factor": 0.1}),
        Choice("2 x 4 rows", rows_per_update(4, 2)),
        Choice("4 x 2 rows", rows_per_update(2, 4)),
        Choice("bf16", {"bf16": "true"}),
    ],
}


def majority(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy and F1 of naming the more frequent class for every row."""
    ones = sum(row["label"] for row in rows) / len(rows)
    return {"accuracy": max(ones, 1 - ones), "f1": 2 * ones / (1 + ones) if ones >= 0.5 else 0.0}


def one_run(choice: Choice, seed: int, base: dict[str, Any]) -> dict[str, Any]:
    """By ftloop's command; what is told of it is read from the files it leaves."""
    flags = base | choice.changes | {"seed": seed}
    words = [*FTLOOP, "demo", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
    with tempfile.TemporaryDirectory() as folder:
        _, peak_mb, _ = finish([*words, "--output_dir", folder], dict(os.environ))
        results, state = (
            json.loads((Path(folder) / name).read_text()) for name in ("all_results.json", "trainer_state.json")
        )
    return {
        "accuracy": results["test_accuracy"],
        "f1": results["test_f1"],
        "test_loss": results["test_loss"],
        "last_train_loss": [entry["loss"] for entry in state["log_history"] if "loss" in entry][-1],
        "updates": state["global_step"],
        "flos": results["total_flos"],
        "peak_mb": peak_mb,
        "command": shlex.join(["python", *words[1:]]),
    }


def summarized(done: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Return every choice's runs, and mean, minimum and maximum of their figures."""
    told = {}
    for name in names:
        runs = sorted((run for run in done if run["choice"] == name), key=lambda run: run["seed"])
        if not runs:
            continue
        told[name] = {"n": len(runs), "seeds": [run["seed"] for run in runs], "command": runs[0]["command"]}
        for key in ("accuracy", "f1", "test_loss", "last_train_loss", "updates", "flos", "peak_mb"):
            values = [run[key] for run in runs]
            told[name][key] = {"mean": statistics.mean(values), "min": min(values), "max": max(values), "all": values}
    return told


def finished(result: dict[str, Any]) -> dict[str, list[str]]:
    """The choices of each table that have been run, of the tables where there is something to compare."""
    found = {table: [name for name in names if name in result["choices"]] for table, names in result["tables"].items()}
    return {table: names for table, names in found.items() if len(names) > 1}


def tables(result: dict[str, Any]) -> str:
    """Write the tables as Markdown, the way the walkthrough has them."""
    parts = []
    centre = result["choices"].get(THE_CENTRE.name)
    for table, names in finished(result).items():
        lines = [
            f"| {table} | n | updates | computed tokens | memory | accuracy (min to max) | F1 | loss |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in names:
            told = result["choices"][name]
            mean = {key: told[key]["mean"] for key in ("updates", "flos", "peak_mb", "accuracy", "f1", "test_loss")}
            tokens = f"{mean['flos'] / centre['flos']['mean']:.2f}" if centre else ""
            low, high = (100 * told["accuracy"][end] for end in ("min", "max"))
            spread = f" ({low:.1f} to {high:.1f})" if told["n"] > 1 else ""
            cells = (name, told["n"], f"{mean['updates']:.0f}", tokens, f"{mean['peak_mb'] / 1000:.2f} GB")
            cells += (f"{100 * mean['accuracy']:.1f} %{spread}", f"{mean['f1']:.3f}", f"{mean['test_loss']:.3f}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        parts.append("\n".join(lines))
    baseline = result["majority"]
    parts.append(f"The majority class alone: {100 * baseline['accuracy']:.1f} %, F1 {baseline['f1']:.3f}.")
    return "\n\n".join(parts) + "\n"


def draw(result: dict[str, Any], path: Path) -> str | None:
    """Accuracy of every run, its choice's mean, and the baseline. Returns: what was in the way."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed (the extra `plots`)"
    told = finished(result)
    if not told:
        return "no picture: no two choices of a table are finished"
    heights = [len(names) for names in told.values()]
    figure = Figure(figsize=(7, 0.32 * sum(heights) + 1.2 * len(heights)), layout="constrained")
    axes_of = figure.subplots(len(told), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for (table, names), axes in zip(told.items(), axes_of, strict=True):
        for place, name in enumerate(names):
            accuracy = result["choices"][name]["accuracy"]
            axes.plot(accuracy["all"], [place] * len(accuracy["all"]), "o", color="tab:blue", alpha=0.6)
            axes.plot([accuracy["mean"]] * 2, [place - 0.35, place + 0.35], color="black")
        axes.axvline(result["majority"]["accuracy"], color="tab:red", linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_title(table, fontsize=9, loc="left")
    axes_of[-1].set_xlabel(
        "accuracy on the test set: a dot for each seed, black their mean; red: the majority class alone"
    )
    axes_of[-1].xaxis.label.set_size(8)
    figure.savefig(path, dpi=110)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="few rows")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="keep the runs that are there")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "choices.json", help="beside it: .runs.jsonl, .md, .png"
    )
    given = parser.parse_args()
    base = CENTRE | (QUICK if given.quick else {})
    # Not the code, as where times are compared: that a change of it leaves the training alone is what the tests hold.
    key = {"recipe": "demo", "settings": base, **versions()}
    kept = given.output.with_suffix(".runs.jsonl")
    kept.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in kept.read_text().splitlines()] if given.go_on and kept.is_file() else []
    if any(run["key"] != key for run in done):
        raise SystemExit(f"{kept}: runs of other settings or versions; leave --continue out")
    if not given.go_on:
        kept.write_text("")
    choices = {choice.name: choice for table in given.tables for choice in [THE_CENTRE, *TABLES[table]]}
    test_rows = demo_rows("test")[: base.get("max_predict_samples")]
    result: dict[str, Any] = {
        "conditions": {
            **key,
            **machine(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "test_rows": len(test_rows),
            "command": shlex.join(["python", "benchmarks/hyperparameters.py", *sys.argv[1:]]),
        },
        "majority": majority(test_rows),
        "tables": {table: [choice.name for choice in TABLES[table]] for table in given.tables},
    }
    for seed in given.seeds:
        for choice in choices.values():
            if not any(run["choice"] == choice.name and run["seed"] == seed for run in done):
                print(f"{time.strftime('%H:%M:%S')} {choice.name}, seed {seed}", flush=True)
                done.append({"choice": choice.name, "seed": seed, **one_run(choice, seed, base), "key": key})
                with kept.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
            result["choices"] = summarized(done, list(choices))
            given.output.write_text(json.dumps(result, indent=1) + "\n")
            given.output.with_suffix(".md").write_text(tables(result))
    print(tables(result))
    problem = draw(result, given.output.with_suffix(".png"))
    if problem:
        print(problem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
