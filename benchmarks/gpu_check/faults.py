"""Faults that are told, on this device: python benchmarks/gpu_check/faults.py JOB.json FOUND.json

Too little memory (on a CPU a stand-in), a NaN, checkpoints that go from one device or optimizer to another. Each by
itself, on a tiny model; one that fails leaves the others to be tried.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
sys.path[:0] = [str(Path(__file__).resolve().parents[2] / part) for part in ("", "tests")]

import torch
from harness.faults import SmallMemory, poisoned_run
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import BASE, QUIET
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from benchmarks.common import has_gpu
from benchmarks.gpu_check.steps import on_device
from ftloop import Run, TrainConfig, evaluate, prepare, train, updates
from ftloop.errors import TrainingError
from ftloop.run.micro_batches import rows_of_update

CPU = not has_gpu()
ARGUMENTS: dict[str, Any] = QUIET | BASE | {"eval_strategy": "no", "save_strategy": "no", "use_cpu": CPU}


def prepared(folder: str, model: Any = None, rows: int = 29, **arguments: Any) -> Run:
    config = TrainConfig(output_dir=folder, **ARGUMENTS | arguments)
    return prepare(config, model or tiny_bert(), tiny_rows(rows, seed=1), tiny_rows(rows, seed=2), data_collator=pad)


@contextmanager
def memory_left(megabytes: float) -> Iterator[None]:
    """Leave this process so much of the device's memory beside what it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + megabytes * 1e6) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def told(what: str, do: Callable[[], Any]) -> str:
    """The message of a TrainingError that begins so. Raises: AssertionError where there is none."""
    said = "nothing"
    try:
        do()
    except TrainingError as error:
        said = str(error)
    if not said.startswith(what):
        raise AssertionError(f"told was {said}, and not {what}")
    return said.splitlines()[0]


def no_memory_for_adamw(folder: str) -> str:
    """400 MB of weights: there is room for them, for their gradients, and not for AdamW's numbers."""
    what = "training, outside of forward and backward"
    if CPU:
        run = prepared(folder)

        def fail(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        run.optimizer.optimizer.step = fail  # type: ignore[method-assign]
        return told(what, lambda: train(run))
    model = BertForSequenceClassification(BertConfig(vocab_size=1_500_000, hidden_size=64, num_hidden_layers=1))
    run = prepared(folder, model)
    with memory_left(700):
        return told(what, lambda: train(run))


def no_memory_to_evaluate(folder: str) -> str:
    if CPU:
        run = prepared(folder, SmallMemory(0, 0, only_training=False).of(tiny_bert()))
        return told("evaluation: a batch of", lambda: evaluate(run))
    run = prepared(folder, rows=4096, per_device_eval_batch_size=4096)
    with memory_left(8):
        return told("evaluation", lambda: evaluate(run))


def split_in_half_precision(folder: str) -> str:
    """auto_micro_batch in fp16, where the backward pass fails in the middle: losses as of the whole batch to 1e-2."""
    precision = {on_device("fp16"): True}

    def losses(**arguments: Any) -> list[float]:
        model = tiny_bert(dropout=0.0)
        if "auto_micro_batch" in arguments:
            SmallMemory(rows=2, where="backward").of(model)
        return [update.loss.item() for update in updates(prepared(folder, model, **precision, **arguments))]

    whole, split = losses(), losses(auto_micro_batch=True)
    most = max(abs(a - b) / abs(a) for a, b in zip(whole, split, strict=True))
    assert most < 1e-2, most
    return f"largest difference of a loss {most:.1e}"


def a_nan_is_kept_from_the_weights(folder: str) -> str:
    row = rows_of_update(prepared(folder), 6)[1]
    run = poisoned_run(Path(folder), row, use_cpu=CPU, logging_steps=8)
    said = told("update 6 of 16", lambda: train(run))
    assert all(weight.isfinite().all() for weight in run.model.parameters())
    return said


def a_checkpoint_goes_from_device_to_device(folder: str) -> str:
    """Updates 1 to 2 on this device, 3 to 4 on the CPU, 5 to 6 here."""
    for steps, use_cpu in ((2, CPU), (4, True), (6, CPU)):
        resumed = {"resume_from_checkpoint": "last"} if steps > 2 else {}
        saved = {"save_strategy": "steps", "save_steps": 2, "max_steps": steps, "use_cpu": use_cpu}
        run = prepared(folder, **saved, **resumed)
        train(run)
        assert run.state.global_step == steps
    return f"update {steps}, loss {run.state.log_history[-2]['loss']:.4f}"


def trainers_unfused_checkpoint_goes_on_fused(folder: str) -> str:
    args = ARGUMENTS | {"save_strategy": "steps", "save_steps": 2, "output_dir": folder}
    given = {"train_dataset": tiny_rows(29, seed=1), "data_collator": pad}
    Trainer(tiny_bert(), TrainingArguments(**args | {"max_steps": 2, "optim": "adamw_torch"}), **given).train()
    run = prepared(folder, max_steps=4, resume_from_checkpoint=f"{folder}/checkpoint-2", resume_with_changes=True)
    train(run)
    assert run.state.global_step == 4
    return f"update 4, {type(run.optimizer.optimizer).__name__} fused"


CHECKS = (
    no_memory_for_adamw,
    no_memory_to_evaluate,
    split_in_half_precision,
    a_nan_is_kept_from_the_weights,
    a_checkpoint_goes_from_device_to_device,
    trainers_unfused_checkpoint_goes_on_fused,
)


def main() -> int:
    found: dict[str, Any] = {}
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[check.__name__] = check(folder)
            except Exception as error:
                traceback.print_exc()
                found[check.__name__] = f"FAILED: {type(error).__name__}: {error}"[:500]
        print(check.__name__, "-", found[check.__name__], flush=True)
    Path(sys.argv[2]).write_text(json.dumps(found, indent=1))
    failed = [name for name, said in found.items() if said.startswith("FAILED")]
    print(f"{len(CHECKS) - len(failed)} of {len(CHECKS)} as expected{f'; not: {failed}' if failed else ''}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
