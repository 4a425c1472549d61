"""Run in several processes, forked or by torchrun: both sides in several processes. Process 0 writes what it found
to the file named first.

torchrun --nproc_per_node 2 tests/harness/workers/parity.py OUT.json FOLDER CASE [CASE ...]
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path; forked, it finds all this done
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 3)]

import torch
import torch.distributed as dist
from harness.config_space import in_processes
from harness.faults import poisoned_bert, poisoned_loss, poisoned_run
from harness.models import tiny_bert
from harness.rows import pad
from harness.side_by_side import BASE, Job, run_ftloop, weights_digest
from harness.space_runs import compare, tidy

from ftloop import TrainConfig, UserError, evaluate, prepare, train, updates
from ftloop.errors import TrainingError
from ftloop.run.micro_batches import rows_of_update

PLAIN = Job(lambda: tiny_bert(dropout=0.0))
SAVED_OFTEN = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 2}


def main(words: list[str]) -> int:
    output, folder, *cases = words
    found = {}
    for case in cases:
        root = Path(folder) / case
        if case == "matrix":
            found[case] = matrix(root)
        elif case == "rows":
            # One update is 8 rows whatever the number of processes; 29 rows leave rounds to be filled up.
            arguments = BASE | {"per_device_train_batch_size": 8 // dist_size()}
            found[case] = dataclasses.asdict(run_ftloop(PLAIN, root, **arguments))
        elif case == "split":
            # Of 8 rows again; `one` was saved by one process.
            arguments = BASE | SAVED_OFTEN | {"per_device_train_batch_size": 8 // dist_size()}
            whole = run_ftloop(PLAIN, root / "two", **arguments)
            resumed = run_ftloop(PLAIN, root / "on", resume=str(root / "one/checkpoint-3"), **arguments)
            found[case] = [dataclasses.asdict(whole), dataclasses.asdict(resumed)]
        elif case == "resume":
            arguments = BASE | {"gradient_accumulation_steps": 3, "logging_steps": 4}
            arguments |= {"save_strategy": "steps", "save_steps": 1}
            whole = run_ftloop(Job(), root / "whole", **arguments)
            resumed = {
                step: dataclasses.asdict(
                    run_ftloop(
                        Job(), root / f"resumed-{step}", resume=str(root / f"whole/checkpoint-{step}"), **arguments
                    )
                )
                for step in range(1, len(whole.checkpoints) + 1)
            }
            found[case] = [dataclasses.asdict(whole), resumed]
        elif case == "batching":
            found[case] = {kind: batching(root / kind, kind) for kind in ("length_grouped", "token_budget")}
        elif case == "nonfinite":
            found[case] = nonfinite(root)
        elif case == "memory":
            found[case] = refusal(root)
        elif case == "evaluate_first":
            found[case] = weights_of_all_processes(root)
        else:
            raise SystemExit(f"no case {case}")
    if int(os.environ.get("RANK", "0")) == 0:
        Path(output).write_text(json.dumps(found))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return 0


def matrix(root: Path) -> list[dict[str, Any]]:
    """Every choice made with so many processes: how it went in each of them."""
    found = []
    for choice in in_processes(dist_size()):
        outcome = dataclasses.asdict(compare(choice, root))
        outcomes: list[Any] = [None] * dist_size()
        dist.all_gather_object(outcomes, outcome)
        if dist.get_rank() == 0:
            tidy(root)
        dist.barrier()
        found.append({"choice": choice, "outcomes": outcomes})
    return found


def weights_of_all_processes(root: Path) -> list[str]:
    """After an evaluation, then training: digests of the weights, which have to be one and the same."""
    train_rows, eval_rows = Job().data()
    config = TrainConfig(output_dir=str(root), max_steps=3, use_cpu=True, save_strategy="no", disable_tqdm=True)
    run = prepare(config, tiny_bert(), train_rows, eval_rows, data_collator=pad, compute_metrics=Job().metrics)
    evaluate(run)
    train(run)
    digests: list[str] = [""] * dist_size()
    dist.all_gather_object(digests, weights_digest(run.unwrapped_model))
    return digests


def batching(root: Path, kind: str) -> dict[str, Any]:
    """Every update's loss, over all processes, beside the mean of its rows' losses, each row computed alone; and a run
    resumed after each update beside the whole one.
    """
    rows, eval_rows = PLAIN.data()
    arguments: dict[str, Any] = {"batching": kind, "sort_eval": True, "use_cpu": True, "learning_rate": 1e-3}
    arguments |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    config = TrainConfig(output_dir=str(root / "one"), save_strategy="no", disable_tqdm=True, **arguments)
    run = prepare(config, tiny_bert(dropout=0.0), rows, eval_rows, data_collator=pad)
    losses, seen = [], []

    def mean_of_rows(update: int) -> float:
        numbers = rows_of_update(run, update)
        seen.append(numbers)
        with torch.no_grad():
            return sum(float(run.unwrapped_model(**pad([rows[n]])).loss) for n in numbers) / len(numbers)

    expected = mean_of_rows(1)
    for update in updates(run):
        losses.append([expected, float(run.accelerator.gather(update.loss.reshape(1)).mean())])
        if update.global_step < run.plan.max_steps:
            expected = mean_of_rows(update.global_step + 1)
    saved_often = arguments | SAVED_OFTEN | {"eval_strategy": "epoch"}
    whole = run_ftloop(Job(), root / "whole", **saved_often)
    resumed = [
        run_ftloop(Job(), root / f"on-{step}", resume=str(root / f"whole/checkpoint-{step}"), **saved_often)
        for step in range(1, len(whole.checkpoints))
    ]
    return {
        "losses": losses,
        "rows": seen,
        "evaluations": [entry["eval_loss"] for entry in whole.history if "eval_loss" in entry],
        "resumed": [[each.history == whole.history, each.weights == whole.weights] for each in resumed],
    }


def nonfinite(root: Path) -> dict[str, Any]:
    """A row of process 1 whose loss, not its gradient, is infinite: how each process ends, by what is asked for."""
    row = rows_of_update(poisoned_run(root), 3)[5]  # of 8, the second four of which go to process 1
    found: dict[str, Any] = {"row": row}
    for mode in ("raise", "skip"):
        model = poisoned_bert(poisoned_loss)
        arguments = {"on_nonfinite": mode, "logging_steps": 4}
        run = poisoned_run(root / mode, row, model=model, **arguments)
        try:
            train(run)
            message = ""
        except TrainingError as error:
            message = str(error)
        outcome = {
            "message": message,
            "updates": run.state.global_step,
            "weights": weights_digest(run.unwrapped_model),
            "history": json.dumps([entry for entry in run.state.log_history if "loss" in entry]),
        }
        outcomes: list[Any] = [None] * dist_size()
        dist.all_gather_object(outcomes, outcome)
        found[mode] = outcomes
    return found


def refusal(root: Path) -> str:
    try:
        prepare(TrainConfig(output_dir=str(root), use_cpu=True, auto_micro_batch=True), tiny_bert(), Job().data()[0])
    except UserError as error:
        return str(error)
    return ""


def dist_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
