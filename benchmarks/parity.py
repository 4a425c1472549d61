"""The same job by transformers.Trainer and by ftloop, one after the other in this process, compared bit for bit.

    python benchmarks/parity.py                    the whole job: fp32 and bf16, accumulation 1 and 3
    python benchmarks/parity.py --rows 300         the first 300 rows of each set, one epoch

The data is GLUE MRPC where FTLOOP_MRPC_DIR names a folder with its train, validation and test.jsonl, else the built-in
sentence pairs. The Trainer side is the script a user writes by the guide; the ftloop side is the command line.
Exit code 1 when any bit differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import accelerate
import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ftloop.config import TrainConfig
from ftloop.demo_data import demo_rows
from ftloop.hub import PACKAGED_MODEL, local_model_folder
from ftloop.run import Run
from ftloop.train import fine_tune

LOGGED = ("loss", "grad_norm", "learning_rate")
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Side:
    """What one side did."""

    updates: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    best: tuple[Any, Any]
    test: dict[str, float]
    weights: str
    seconds: float


def arguments(precision: str, accumulation: int, epochs: float, output_dir: str) -> dict[str, Any]:
    """The guide's, for both sides; one log line per update."""
    return {
        "output_dir": output_dir,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "f1",
        "logging_steps": 1,
        "seed": 42,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": precision == "bf16",
        "report_to": "none",
        "disable_tqdm": True,
    }


def read_split(mrpc: str | None, split: str, rows: int | None) -> Dataset:
    if mrpc is None:
        table = demo_rows(split)
    else:
        table = [json.loads(line) for line in (Path(mrpc) / f"{split}.jsonl").read_text("utf-8").splitlines()]
    return Dataset.from_list(table[:rows])


def trainer_side(model_dir: str, mrpc: str | None, rows: int | None, args: dict[str, Any]) -> Side:
    """The guide's own script."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score

    def compute_metrics(evaluated: Any) -> dict[str, float]:
        predicted = np.argmax(evaluated.predictions, axis=-1)
        truth = evaluated.label_ids
        return {"accuracy": accuracy_score(truth, predicted), "f1": f1_score(truth, predicted)}

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    sets = {
        split: read_split(mrpc, split, rows).map(
            lambda batch: tokenizer(batch["sentence1"], batch["sentence2"], truncation=True), batched=True
        )
        for split in ("train", "validation", "test")
    }
    set_seed(args["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**args),
        train_dataset=sets["train"],
        eval_dataset=sets["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
    )
    seconds = trainer.train().metrics["train_runtime"]
    history = list(trainer.state.log_history)
    best = trainer.state.best_global_step, trainer.state.best_metric
    return side(history, best, trainer.evaluate(sets["test"], metric_key_prefix="test"), model, seconds)


def ftloop_side(mrpc: str | None, rows: int | None, args: dict[str, Any]) -> Side:
    """`ftloop/train.py --task_name ...`; where Trainer sums over micro-batches, with `--trainer_compat`."""
    compat = args["gradient_accumulation_steps"] > 1
    source: dict[str, Any] = {"task_name": "demo"}
    if mrpc is not None:
        files = {f"{split}_file": str(Path(mrpc) / f"{split}.jsonl") for split in ("train", "validation", "test")}
        source = {"task_name": "mrpc"} | files
    limits = {f"max_{split}_samples": rows for split in ("train", "eval", "predict")}
    run: Run = fine_tune(
        TrainConfig(model_name_or_path=PACKAGED_MODEL, trainer_compat=compat, **source, **limits, **args)
    )
    seconds = json.loads((Path(args["output_dir"]) / "train_results.json").read_text())["train_runtime"]
    test = json.loads((Path(args["output_dir"]) / "test_results.json").read_text())
    return side(
        run.state.log_history, (run.state.best_global_step, run.state.best_metric), test, run.unwrapped_model, seconds
    )


def side(history: list[dict[str, Any]], best: tuple[Any, Any], test: dict[str, float], model: Any, secs: float) -> Side:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    untimed = [{k: v for k, v in entry.items() if not is_timing(k)} for entry in history]
    return Side(
        updates=[entry for entry in untimed if "loss" in entry],
        evaluations=[entry for entry in untimed if "eval_loss" in entry],
        best=best,
        test={k: v for k, v in test.items() if not is_timing(k)},
        weights=digest.hexdigest(),
        seconds=secs,
    )


def is_timing(name: str) -> bool:
    return name.endswith(("_runtime", "_per_second"))


def compare(theirs: Side, ours: Side) -> dict[str, Any]:
    """Print both sides, and return the verdict."""
    pairs = list(zip(theirs.updates, ours.updates, strict=False))
    equal = sum(a == b for a, b in pairs)
    total = max(len(theirs.updates), len(ours.updates))
    first_difference = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    shown = sorted({0, 1, 2, *range(0, len(pairs), max(len(pairs) // 8, 1)), len(pairs) - 1} & set(range(len(pairs))))
    if first_difference is not None:
        shown = sorted({*shown, first_difference})
    print(f"\n{'update':>6}  {'value':<13} {'Trainer':>24} {'ftloop':>24} {'difference':>12}")
    for index in shown:
        for name in LOGGED:
            a, b = pairs[index][0][name], pairs[index][1][name]
            print(f"{index + 1 if name == 'loss' else '':>6}  {name:<13} {a!r:>24} {b!r:>24} {b - a:>12g}")
    print(f"\nupdates equal in every bit: {equal} of {total}")
    for a, b in zip(theirs.evaluations, ours.evaluations, strict=False):
        for name in sorted(key for key in a if key.startswith("eval_")):
            print(f"epoch {a['epoch']:g}  {name:<14} {a[name]!r:>22} {b.get(name)!r:>22}  {same(a[name], b.get(name))}")
    for name in sorted(theirs.test):
        print(
            f"test     {name:<14} {theirs.test[name]!r:>22} {ours.test.get(name)!r:>22}  "
            f"{same(theirs.test[name], ours.test.get(name))}"
        )
    print(f"best step, metric       {theirs.best!r} {ours.best!r}  {same(theirs.best, ours.best)}")
    print(
        f"final weights           sha256 {theirs.weights[:16]} {ours.weights[:16]}  "
        f"{same(theirs.weights, ours.weights)}"
    )
    print(
        f"seconds                 {theirs.seconds:.1f} {ours.seconds:.1f}  (of training, one run of each: no benchmark)"
    )
    verdict = {
        "updates": total,
        "updates_equal": equal,
        "evaluations_equal": theirs.evaluations == ours.evaluations,
        "test_equal": theirs.test == ours.test,
        "best_equal": theirs.best == ours.best,
        "weights_equal": theirs.weights == ours.weights,
        "evaluations": ours.evaluations,
        "test": ours.test,
    }
    verdict["same_run"] = equal == total > 0 and all(value for key, value in verdict.items() if key.endswith("_equal"))
    print("THE SAME RUN" if verdict["same_run"] else "NOT THE SAME RUN")
    return verdict


def picture(name: str, theirs: Side, ours: Side, folder: Path) -> None:
    """Both losses, one on the other, and their difference below. Without matplotlib: a message."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: pip install matplotlib (the extra `plots`)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = [[entry["loss"] for entry in each.updates] for each in (theirs, ours)]
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, height_ratios=(3, 1), figsize=(8, 5))
    above.plot(losses[0], color="tab:orange", linewidth=4, alpha=0.5, label="transformers.Trainer")
    above.plot(losses[1], color="black", linewidth=0.8, label="ftloop")
    above.set(ylabel="loss of the update", title=f"The same run: {name}")
    above.legend()
    below.plot([b - a for a, b in zip(*losses, strict=False)], color="tab:red")
    below.set(xlabel="update", ylabel="difference")
    figure.tight_layout()
    figure.savefig(folder / f"parity-{name.replace(', accumulation ', '-')}.png", dpi=110)
    pyplot.close(figure)


def same(a: Any, b: Any) -> str:
    return "equal" if a == b else "DIFFERENT"


def conditions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
        "command": " ".join(["python", "benchmarks/parity.py", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="only the first rows of each set, and one epoch")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--accumulation", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--output", type=Path, default=RESULTS / "parity.json", help="where the verdict goes")
    given = parser.parse_args()
    mrpc = os.environ.get("FTLOOP_MRPC_DIR")
    model_dir = str(local_model_folder(PACKAGED_MODEL))
    epochs = 1.0 if given.rows else 3.0
    print(f"data: {'MRPC' if mrpc else 'the built-in pairs (set FTLOOP_MRPC_DIR for MRPC)'}; {conditions()}")
    verdicts = {}
    for precision in given.precision:
        for accumulation in given.accumulation:
            name = f"{precision}, accumulation {accumulation}"
            print(f"\n=== {name} ===", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                args = arguments(precision, accumulation, epochs, f"{folder}/trainer")
                theirs = trainer_side(model_dir, mrpc, given.rows, args)
                ours = ftloop_side(mrpc, given.rows, args | {"output_dir": f"{folder}/ftloop"})
            verdicts[name] = compare(theirs, ours)
            given.output.parent.mkdir(parents=True, exist_ok=True)
            picture(name, theirs, ours, given.output.parent)
    result = {"conditions": conditions() | {"data": "MRPC" if mrpc else "built-in pairs"}, "runs": verdicts}
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(verdict["same_run"] for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
