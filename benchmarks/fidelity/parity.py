"""The same job by transformers.Trainer and by ftloop, one after the other in this process, compared bit for bit.

    python benchmarks/fidelity/parity.py                    the whole job: fp32 and bf16, accumulation 1 and 3
    python benchmarks/fidelity/parity.py --rows 300         the first 300 rows of each set, one epoch
    python benchmarks/fidelity/parity.py --fuzz 200         tiny models under random configurations (fuzz.py says more)

The data is GLUE MRPC where FTLOOP_MRPC_DIR names a folder with its train, validation and test.jsonl, else the built-in
sentence pairs. The Trainer side is the script a user writes by the guide; the ftloop side is the command line. The
model is all-MiniLM-L6-v2, and once more the same weights in the form that bert-base-uncased has, `old-names`: there
without the return to the best checkpoint, for which Trainer leaves such a model's LayerNorms as they are.
Both are recorded and held against each other by `ftloop.compare`. Exit code 1 when any bit differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # read once, when CUDA starts
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path[:0] = [str(Path(__file__).resolve().parents[2] / part) for part in ("", "tests")]
import torch
from datasets import Dataset
from harness.models import with_old_names
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.common import RESULTS, conditions
from ftloop.compare import Comparison, compare, draw, read, record
from ftloop.compare.description import describe
from ftloop.compare.differences import CURVES
from ftloop.compare.digests import digest_tensors
from ftloop.config.train_config import TrainConfig
from ftloop.data.demo import demo_rows
from ftloop.errors import UserError
from ftloop.job.fine_tune import fine_tune
from ftloop.system.hub import PACKAGED_MODEL, local_model_folder
from ftloop.system.scalars import is_timing


@dataclass
class Side:
    """Results of one side beside what is recorded."""

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
        "fp16": precision == "fp16",
        "full_determinism": torch.cuda.is_available(),  # else kernels may add in another order each time
        "report_to": "none",
        "disable_tqdm": True,
    }


OLD_NAMES = "old-names"


def write_old_names(model_dir: str, folder: Path) -> str:
    """Write a model in the form of bert-base-uncased: old LayerNorm names, heads of a pretraining."""
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    return str(with_old_names(folder, AutoModelForSequenceClassification.from_pretrained(model_dir)))


def read_split(mrpc: str | None, split: str, rows: int | None) -> Dataset:
    if mrpc is None:
        table = demo_rows(split)
    else:
        table = [json.loads(line) for line in (Path(mrpc) / f"{split}.jsonl").read_text("utf-8").splitlines()]
    return Dataset.from_list(table[:rows])


def trainer_side(
    model_dir: str, mrpc: str | None, rows: int | None, args: dict[str, Any], recording: Path | None = None
) -> Side:
    """The guide's own script, and one line that records it."""
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
    if recording is not None:
        record(trainer, recording)
    seconds = trainer.train().metrics["train_runtime"]
    best = trainer.state.best_global_step, trainer.state.best_metric
    test = untimed(trainer.evaluate(sets["test"], metric_key_prefix="test"))
    return Side(best, test, digest_tensors(model.state_dict()), seconds)


def ftloop_side(
    model: str, mrpc: str | None, rows: int | None, args: dict[str, Any], recording: Path | None = None
) -> Side:
    """`ftloop/train.py --task_name ...`; where Trainer sums over micro-batches, with `--trainer_compat`."""
    compat = args["gradient_accumulation_steps"] > 1
    source: dict[str, Any] = {"task_name": "demo"}
    if mrpc is not None:
        files = {f"{split}_file": str(Path(mrpc) / f"{split}.jsonl") for split in ("train", "validation", "test")}
        source = {"task_name": "mrpc"} | files
    limits = {f"max_{split}_samples": rows for split in ("train", "eval", "predict")}
    own = {"model_name_or_path": model, "trainer_compat": compat, "record": recording and str(recording)}
    run = fine_tune(TrainConfig(**own, **source, **limits, **args))
    assert run is not None
    seconds = json.loads((Path(args["output_dir"]) / "train_results.json").read_text())["train_runtime"]
    test = untimed(json.loads((Path(args["output_dir"]) / "test_results.json").read_text()))
    best = run.state.best_global_step, run.state.best_metric
    return Side(best, test, digest_tensors(run.unwrapped_model.state_dict()), seconds)


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not is_timing(name)}


def verdict(theirs: Side, ours: Side, found: Comparison, picture: Path) -> dict[str, Any]:
    """Print both sides and draw them: what `ftloop.compare` has found, and what is not in a recording."""
    updates = found.updates
    different = {difference.update for difference in found.differences}
    shown = {*updates[:3], *updates[:: max(len(updates) // 8, 1)], *updates[-1:], *sorted(different & set(updates))[:1]}
    curves = {name: (found.a.curve(name), found.b.curve(name)) for name in CURVES}
    print(f"\n{'update':>6}  {'value':<13} {'Trainer':>24} {'ftloop':>24} {'difference':>12}")
    for update in sorted(shown):
        for name, (a, b) in curves.items():
            number = update if name == "loss" else ""
            print(f"{number:>6}  {name:<13} {a[update]!r:>24} {b[update]!r:>24} {b[update] - a[update]:>12g}")
    evaluations = sorted(step for step, kind in found.a.logs if kind == "evaluation")
    for step in evaluations:
        a, b = (side.logs.get((step, "evaluation"), {}) for side in (found.a, found.b))
        for name in sorted(key for key in a if key.startswith("eval_")):
            print(f"update {step:<5} {name:<14} {a[name]!r:>22} {b.get(name)!r:>22}  {same(a[name], b.get(name))}")
    for name in sorted(theirs.test):
        a, b = theirs.test[name], ours.test.get(name)
        print(f"test         {name:<14} {a!r:>22} {b!r:>22}  {same(a, b)}")
    print(f"best step, metric       {theirs.best!r} {ours.best!r}  {same(theirs.best, ours.best)}")
    a, b = found.a.final_weights, found.b.final_weights
    print(f"weights left            {a} {b}  {same(a, b)}")
    print(f"seconds                 {theirs.seconds:.1f} {ours.seconds:.1f}  (recorded, one run of each: no benchmark)")
    print(f"\n{describe(found)}")
    try:
        draw(found, picture)
    except UserError as error:
        print(f"no picture: {error}")
    result = {
        "updates": len(updates),
        "updates_equal": sum(update not in different for update in updates),
        "recordings_equal": found.same,
        "test_equal": theirs.test == ours.test,
        "best_equal": theirs.best == ours.best,
        "weights_equal": theirs.weights == ours.weights,
        "evaluations": [found.b.logs[step, "evaluation"] for step in evaluations],
        "test": ours.test,
    }
    result["same_run"] = bool(updates) and all(value for key, value in result.items() if key.endswith("_equal"))
    if not result["same_run"]:
        print("NOT THE SAME RUN")
    return result


def same(a: Any, b: Any) -> str:
    return "equal" if a == b else "DIFFERENT"


def main() -> int:
    if any(word.startswith(("--fuzz", "--choice")) for word in sys.argv):
        from benchmarks.fidelity.fuzz import fuzz

        return fuzz(sys.argv[1:], conditions())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="only the first rows of each set, and one epoch")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--accumulation", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--output", type=Path, default=RESULTS / "parity.json", help="where the verdict goes")
    given = parser.parse_args()
    mrpc = os.environ.get("FTLOOP_MRPC_DIR")
    model_dir = str(local_model_folder(PACKAGED_MODEL))
    epochs = 1.0 if given.rows else 3.0
    print(f"data: {'MRPC' if mrpc else 'the built-in pairs (set FTLOOP_MRPC_DIR for MRPC)'}; {conditions()}")
    verdicts = {}
    runs = [("", precision, accumulation) for precision in given.precision for accumulation in given.accumulation]
    # How it is computed is held by these; by the other model, how it is read and saved.
    runs += [(OLD_NAMES, given.precision[0], given.accumulation[-1])]
    for form, precision, accumulation in runs:
        name = f"{form and f'{form}, '}{precision}, accumulation {accumulation}"
        print(f"\n=== {name} ===", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            args = arguments(precision, accumulation, epochs, f"{folder}/trainer")
            theirs_model, our_model = model_dir, PACKAGED_MODEL
            if form:
                theirs_model = our_model = write_old_names(model_dir, root / form)
                args["load_best_model_at_end"] = False
            theirs = trainer_side(theirs_model, mrpc, given.rows, args, root / "trainer.jsonl")
            args["output_dir"] = f"{folder}/ftloop"
            ours = ftloop_side(our_model, mrpc, given.rows, args, root / "ftloop.jsonl")
            found = compare(read(root / "trainer.jsonl"), read(root / "ftloop.jsonl"))
            picture = given.output.parent / f"parity-{form and f'{form}-'}{precision}-{accumulation}.png"
            verdicts[name] = verdict(theirs, ours, found, picture)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"conditions": conditions() | {"data": "MRPC" if mrpc else "built-in pairs"}, "runs": verdicts}
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(verdict["same_run"] for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
