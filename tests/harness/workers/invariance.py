"""Run in several processes, forked or by torchrun: updates of the same rows, split over these processes. Process 0
writes what it found.

torchrun --nproc_per_node 2 tests/harness/workers/invariance.py OUT.json FOLDER CASE [CASE ...]
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path; forked, it finds all this done
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 3)]

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows

from ftloop import TrainConfig, evaluate, load_checkpoint, predict, prepare, save_checkpoint, updates
from ftloop.run.micro_batches import rows_of_update

# (processes, rows of a micro-batch, micro-batches of an update): 16 rows each
SPLITS = ((1, 16, 1), (2, 8, 1), (4, 4, 1), (1, 8, 2), (2, 4, 2))
UPDATES, SAVED_AT = 20, 7
EVAL_ROWS = 17
COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 17, 18)


def rows_of_three_lengths(count: int) -> Dataset:
    """4, 8 and 16 tokens, so that half of a token budget holds half as many rows of each."""
    drawn = [row for row in tiny_rows(12 * count, seed=3) if len(row["input_ids"]) >= 16]
    columns = ("input_ids", "token_type_ids", "attention_mask")
    cut = [
        {name: row[name][: 4 << (index % 3)] for name in columns} | {"label": row["label"]}
        for index, row in enumerate(drawn[:count])
    ]
    assert len(cut) == count
    return Dataset.from_list(cut)


def prepared(root: Path, split: tuple[int, int, int], batching: str, **settings: Any) -> Any:
    processes, rows, micro_batches = split
    assert processes == dist_size()
    arguments: dict[str, Any] = {"batching": batching, "per_device_train_batch_size": rows}
    if batching == "token_budget":
        arguments["max_tokens_per_batch"] = 16 * rows
    if batching == "random, unpadded":
        arguments |= {"batching": "random", "padding": "none"}
    config = TrainConfig(
        output_dir=str(root),
        gradient_accumulation_steps=micro_batches,
        per_device_eval_batch_size=3,
        max_steps=UPDATES,
        learning_rate=1e-3,
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
        **settings,
    )
    train_rows, eval_rows = rows_of_three_lengths(75), rows_of_three_lengths(EVAL_ROWS)
    return prepare(config, tiny_bert(dropout=0.0), train_rows, eval_rows, data_collator=pad)


def train_on(run: Any) -> dict[str, Any]:
    """Train. Returns: every update's loss over all processes, gradient norm and rows; then what has been learned."""
    made = []
    for update in updates(run):
        loss = run.accelerator.gather(update.loss.reshape(1)).mean()
        rows = sorted(rows_of_update(run, update.global_step))
        made.append({"loss": float(loss), "norm": float(update.grad_norm), "rows": rows, "counted": update.rows})
    return {
        "updates": made,
        "weights": weights_of(run),
        "eval_loss": evaluate(run)["eval_loss"],
        "logits": predict(run, run.eval_dataset).predictions.tolist(),
    }


def invariance(root: Path) -> list[dict[str, Any]]:
    """Every split for so many processes, in every order of rows."""
    splits = [split for split in SPLITS if split[0] == dist_size()]
    orders = ("random", "length_grouped", "token_budget", "random, unpadded")
    return [
        {"split": split, "batching": batching} | train_on(prepared(root / f"{split}-{batching}", split, batching))
        for split, batching in itertools.product(splits, orders)
    ]


def weighted(root: Path, **settings: Any) -> list[dict[str, Any]]:
    """Every split for so many processes, with class weights."""
    settings = settings or {"class_weights": {"LABEL_0": 0.4, "LABEL_1": 3.0}}
    splits = [split for split in SPLITS if split[0] == dist_size()]
    return [{"split": split} | train_on(prepared(root / f"{split}", split, "random", **settings)) for split in splits]


def frozen(root: Path) -> list[dict[str, Any]]:
    """The same with parts that are not trained, recomputed in the backward pass."""
    return weighted(root / "frozen", freeze_embeddings=True, freeze_layers=1, gradient_checkpointing=True)


def saved(root: Path) -> list[dict[str, Any]]:
    """A token budget's run to its end, and a checkpoint on its way."""
    found = []
    for split in [each for each in SPLITS if each[0] == dist_size() > 1 and each[2] == 1]:
        run = prepared(root / "saved" / str(split[1]), split, "token_budget")
        for update in updates(run):
            if update.global_step == SAVED_AT:
                save_checkpoint(run, "epoch")
        found.append({"split": split, "weights": weights_of(run)})
    return found


def resumed(root: Path) -> list[dict[str, Any]]:
    """The same from that checkpoint on, by half as many processes with two micro-batches instead of one."""
    found = []
    for split in [each for each in SPLITS if each[0] == dist_size() and each[2] == 2]:
        run = prepared(root / "resumed" / str(split[1]), split, "token_budget")
        load_checkpoint(run, root / "saved" / str(split[1]) / f"checkpoint-{SAVED_AT}")
        first_rows = next(updates(run)).rows
        for _ in updates(run):
            pass
        found.append({"split": split, "first_rows": first_rows, "weights": weights_of(run)})
    return found


def weights_of(run: Any) -> list[float]:
    weights: list[float] = torch.cat(
        [weight.detach().reshape(-1) for weight in run.unwrapped_model.parameters()]
    ).tolist()
    return weights


def counts(root: Path) -> list[dict[str, Any]]:
    """Rows numbered by their labels, evaluated in batches of 3 over all processes."""
    rows = tiny_rows(max(COUNTS), seed=4).remove_columns("label").add_column("label", np.arange(max(COUNTS)) * 1.0)
    found = []
    for sort_eval in (False, True):
        config = TrainConfig(
            output_dir=str(root), per_device_eval_batch_size=3, sort_eval=sort_eval, use_cpu=True, disable_tqdm=True
        )
        model = tiny_bert(num_labels=1, dropout=0.0, problem_type="regression")
        run = prepare(config, model, data_collator=pad)
        for count in COUNTS:
            each = predict(run, rows.select(range(count)))
            with torch.no_grad():
                alone = [model(**pad([rows[row]])) for row in range(count)]
            found.append(
                {
                    "count": count,
                    "labels": each.label_ids.tolist(),  # type: ignore[union-attr]
                    "predictions": each.predictions.reshape(-1).tolist(),
                    "alone": [float(outputs.logits) for outputs in alone],
                    "loss": each.metrics["test_loss"],
                    "loss_alone": sum(float(outputs.loss) for outputs in alone) / count,
                }
            )
    return found


def dist_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def main(words: list[str]) -> int:
    output, folder, *cases = words
    known = {
        "invariance": invariance,
        "weighted": weighted,
        "frozen": frozen,
        "saved": saved,
        "resumed": resumed,
        "counts": counts,
    }
    found = {case: known[case](Path(folder)) for case in cases}
    if os.environ.get("RANK", "0") == "0":
        Path(output).write_text(json.dumps(found))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
