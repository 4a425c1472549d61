"""Loops that everybody knows, each held against transformers.Trainer on the same job, then mended until it is its run.

    python benchmarks/fidelity/famous_loops.py          records, compares, mends, and prints the table
        --only course          one of them
        --show                 also what `ftloop compare` says at each step
        --write                also writes the table into docs/famous-loops.md

The loops are written anew from what is publicly known of them, with the choices that their authors made; what has no
bearing on the numbers is left out. A choice is undone once `ftloop compare` has named it. The model is a tiny BERT with
dropout, the rows are made up: what is shown is which choices make another run, not how good a run is. Exit code 1: a
loop does not become Trainer's run.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState
from torch.optim import AdamW
from torch.utils.data import DataLoader, RandomSampler
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from benchmarks.common import ROOT
from ftloop.compare import Comparison, Recorder, also_different, compare, explain, read, record
from ftloop.compare.description import describe

PAGE = ROOT / "docs" / "famous-loops.md"
BEGIN, END = "<!-- written by benchmarks/fidelity/famous_loops.py -->\n", "<!-- end -->\n"
VOCABULARY = 120
SEED = 42  # Trainer's
NO_SEED = 7
"""Stands for none in the loops that set none, so that they can be repeated."""

Row = dict[str, Any]
Rows = list[Row]
Mended = set[str]


@dataclass(frozen=True)
class Job:
    """What a loop is given."""

    folder: Path
    """The pretrained model's."""
    train_rows: Rows
    eval_rows: Rows

    def model(self, peft: bool = False) -> Any:
        """The head is new, so it is drawn."""
        model = AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=2)
        return _with_adapter(model) if peft else model


Loop = Callable[[Job, Path, Mended], None]


@dataclass(frozen=True)
class Famous:
    """A loop, and the arguments with which one would ask Trainer for the same job."""

    title: str
    loop: Loop
    arguments: dict[str, Any] = field(default_factory=dict)
    peft: bool = False


def pad(rows: Rows) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {
        name: torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in rows])
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    return batch | {"labels": torch.tensor([row["label"] for row in rows])}


# --- the loops ---


def course(job: Job, file: Path, mended: Mended) -> None:
    """The Hugging Face course, chapter 3: "A full training loop"."""
    set_seed(SEED if mended & {"seed", "initial-weights"} else NO_SEED)
    shuffle = Shuffle(job.train_rows, mended)
    loader = DataLoader(job.train_rows, batch_size=8, collate_fn=pad, **shuffle.options)
    model = job.model()
    model(**next(iter(loader)))  # to see what it makes of one batch
    optimizer = adamw(model, 5e-5, mended)
    epochs = 3
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, epochs * len(loader))
    if "not-reseeded" in mended:
        set_seed(SEED)
    with Recorder(file, model, optimizer) as recorder:
        model.train()
        for epoch in range(epochs):
            shuffle.begin(epoch)
            for batch in loader:
                recorder.before_forward(batch)
                loss = model(**batch).loss
                loss.backward()
                recorder.after_backward(loss)
                clip(model, mended)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


def nlp_example(job: Job, file: Path, mended: Mended) -> None:
    """Accelerate's examples/nlp_example.py, with the accumulation that it has for a batch larger than fits."""
    accelerator = accelerate(mended)
    set_seed(SEED)
    accumulation = 2
    loader = DataLoader(job.train_rows, shuffle=True, collate_fn=pad, batch_size=8, drop_last="drop-last" not in mended)
    eval_loader = DataLoader(job.eval_rows, shuffle=False, collate_fn=pad, batch_size=32)
    model = job.model()
    optimizer = adamw(model, 2e-5, mended)
    epochs = 3
    updates = (len(loader) * epochs) // accumulation
    if "schedule-length" in mended:
        updates = math.ceil(len(loader) / accumulation) * epochs
    scheduler = get_linear_schedule_with_warmup(optimizer, 4, updates)
    if "not-reseeded" in mended:
        set_seed(SEED)
    model, optimizer, loader, eval_loader, scheduler = accelerator.prepare(
        model, optimizer, loader, eval_loader, scheduler
    )
    with Recorder(file, model, optimizer) as recorder:
        for _ in range(epochs):
            model.train()
            last = len(loader) - 1
            for step, batch in enumerate(loader):
                recorder.before_forward(batch)
                loss = model(**batch).loss
                if "accumulation" not in mended:
                    loss = loss / accumulation
                accelerator.backward(loss)
                recorder.after_backward(loss)
                is_due = step % accumulation == 0
                if "step-modulo" in mended:
                    is_due = (step + 1) % accumulation == 0 or step == last
                if is_due:
                    clip(model, mended)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
            recorder.log(evaluate(model, eval_loader))


def glue_no_trainer(job: Job, file: Path, mended: Mended) -> None:
    """transformers' run_glue_no_trainer.py, with --seed 42 --weight_decay 0.01 --gradient_accumulation_steps 4."""
    accelerator = accelerate(mended)
    set_seed(SEED)
    accumulation, epochs = 4, 3
    model = job.model()
    loader = DataLoader(job.train_rows, shuffle=True, collate_fn=pad, batch_size=8)
    eval_loader = DataLoader(job.eval_rows, collate_fn=pad, batch_size=8)
    no_decay = ["bias", "LayerNorm.weight"]
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if not any(each in n for each in no_decay)], "weight_decay": 0.01},
        {"params": [p for n, p in named if any(each in n for each in no_decay)], "weight_decay": 0.0},
    ]
    optimizer: Any = AdamW(groups, lr=5e-5, fused="fused" in mended or None)
    updates = epochs * math.ceil(len(loader) / accumulation)
    scheduler: Any = get_linear_schedule_with_warmup(optimizer, 0, updates)
    if "not-reseeded" in mended:
        set_seed(SEED)
    model, optimizer, loader, eval_loader, scheduler = accelerator.prepare(
        model, optimizer, loader, eval_loader, scheduler
    )
    with Recorder(file, model, optimizer) as recorder:
        for _ in range(epochs):
            model.train()
            left = len(loader)
            for step, batch in enumerate(loader):
                recorder.before_forward(batch)
                loss = model(**batch).loss
                if "accumulation" not in mended:
                    loss = loss / accumulation
                accelerator.backward(loss)
                recorder.after_backward(loss)
                count = step + 1 if "step-modulo" in mended else step
                if count % accumulation == 0 or step == left - 1:
                    clip(model, mended)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
            recorder.log(evaluate(model, eval_loader))


def peft_notebook(job: Job, file: Path, mended: Mended) -> None:
    """PEFT's example of LoRA for sequence classification on MRPC, which trains without Trainer."""
    set_seed(SEED if mended & {"seed", "initial-weights"} else NO_SEED)
    shuffle = Shuffle(job.train_rows, mended)
    loader = DataLoader(job.train_rows, collate_fn=pad, batch_size=8, **shuffle.options)
    eval_loader = DataLoader(job.eval_rows, shuffle=False, collate_fn=pad, batch_size=8)
    model = job.model(peft=True)
    optimizer = adamw(model, 3e-4, mended)
    epochs = 4
    warmup = 0.06 * (len(loader) * epochs)
    if "schedule-kind" in mended:
        warmup = math.ceil(warmup)
    scheduler = get_linear_schedule_with_warmup(optimizer, warmup, len(loader) * epochs)
    if "not-reseeded" in mended:
        set_seed(SEED)
    with Recorder(file, model, optimizer) as recorder:
        for epoch in range(epochs):
            model.train()
            shuffle.begin(epoch)
            for batch in loader:
                recorder.before_forward(batch)
                loss = model(**batch).loss
                loss.backward()
                recorder.after_backward(loss)
                clip(model, mended)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            recorder.log(evaluate(model, eval_loader))


def fabric(job: Job, file: Path, mended: Mended) -> None:
    """A loop as Lightning Fabric's documentation writes it, with its gradient accumulation; Fabric itself is not needed
    for what it computes."""
    set_seed(SEED)
    accumulation, epochs = 4, 3
    shuffle = Shuffle(job.train_rows, mended)
    model = job.model()
    optimizer = adamw(model, 1e-4, mended)
    loader = DataLoader(job.train_rows, batch_size=8, collate_fn=pad, **shuffle.options)
    updates = epochs * math.ceil(len(loader) / accumulation)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, updates) if "schedule-kind" in mended else None
    if "not-reseeded" in mended:
        set_seed(SEED)
    with Recorder(file, model, optimizer) as recorder:
        model.train()
        for epoch in range(epochs):
            shuffle.begin(epoch)
            for iteration, batch in enumerate(loader):
                is_accumulating = iteration % accumulation != 0
                if "step-modulo" in mended:
                    is_accumulating = (iteration + 1) % accumulation != 0
                if "window-carried" in mended:
                    is_accumulating = is_accumulating and iteration < len(loader) - 1
                recorder.before_forward(batch)
                loss = model(**batch).loss
                loss.backward()
                recorder.after_backward(loss)
                if not is_accumulating:
                    clip(model, mended)
                    optimizer.step()
                    if scheduler is not None:
                        scheduler.step()
                    optimizer.zero_grad()


EPOCHS_EVALUATED = {"eval_strategy": "epoch"}
LOOPS = {
    "course": Famous("The Hugging Face course", course, {"learning_rate": 5e-5}),
    "nlp-example": Famous(
        "Accelerate's `nlp_example`",
        nlp_example,
        EPOCHS_EVALUATED | {"learning_rate": 2e-5, "warmup_steps": 4, "gradient_accumulation_steps": 2},
    ),
    "glue-no-trainer": Famous(
        "`run_glue_no_trainer`",
        glue_no_trainer,
        EPOCHS_EVALUATED | {"learning_rate": 5e-5, "weight_decay": 0.01, "gradient_accumulation_steps": 4},
    ),
    "peft": Famous(
        "PEFT's LoRA on MRPC",
        peft_notebook,
        EPOCHS_EVALUATED | {"learning_rate": 3e-4, "num_train_epochs": 4, "warmup_steps": 0.06},
        peft=True,
    ),
    "fabric": Famous("Lightning Fabric's", fabric, {"learning_rate": 1e-4, "gradient_accumulation_steps": 4}),
}


# --- what they share: as they have it, and mended ---


class Shuffle:
    """torch's own shuffle, which takes its seed from the global generator; or Trainer's, seeded with seed + epoch."""

    def __init__(self, rows: Rows, mended: Mended) -> None:
        self.generator = torch.Generator() if "sampler" in mended else None
        sampler = RandomSampler(rows, generator=self.generator)
        self.options: dict[str, Any] = {"sampler": sampler} if self.generator else {"shuffle": True}

    def begin(self, epoch: int) -> None:
        if self.generator is not None:
            self.generator.manual_seed(SEED + epoch)


def accelerate(mended: Mended) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    seedable = DataLoaderConfiguration(use_seedable_sampler="sampler" in mended)
    return Accelerator(cpu=True, dataloader_config=seedable)


def adamw(model: Any, learning_rate: float, mended: Mended) -> Any:
    """As all of them have it but one: torch's, with its decay of 0.01 on every parameter. Trainer's default is none."""
    decay = {"weight_decay": 0.0} if "decay-groups" in mended else {}
    return AdamW(model.parameters(), lr=learning_rate, fused="fused" in mended or None, **decay)


def clip(model: Any, mended: Mended) -> None:
    """None of them does."""
    if "no-clipping" in mended:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def evaluate(model: Any, loader: Any) -> dict[str, float]:
    model.eval()
    right = count = 0
    for batch in loader:
        with torch.no_grad():
            logits = model(**batch).logits
        right, count = right + int((logits.argmax(-1) == batch["labels"]).sum()), count + len(logits)
    return {"eval_accuracy": right / count}


# --- Trainer, and the two held against each other ---


def record_trainer(famous: Famous, job: Job, file: Path) -> None:
    set_seed(SEED)
    trainer = Trainer(
        model=job.model(famous.peft),
        args=TrainingArguments(
            output_dir=str(file.with_suffix("")),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            remove_unused_columns=False,
            **famous.arguments,
        ),
        train_dataset=job.train_rows,
        eval_dataset=job.eval_rows,
        data_collator=pad,
        compute_metrics=lambda evaluated: {
            "accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())
        },
    )
    trainer.remove_callback(PrinterCallback)
    record(trainer, file)
    trainer.train()


@dataclass(frozen=True)
class Step:
    """A comparison, and the names of the causes that it has told."""

    comparison: Comparison
    causes: list[str]


def mend(famous: Famous, job: Job, folder: Path) -> Iterator[Step]:
    """Compare, undo what was named, and so on: until the runs are the same, or nothing new is named."""
    theirs, mine = folder / "trainer.jsonl", folder / "loop.jsonl"
    record_trainer(famous, job, theirs)
    mended: Mended = set()
    while True:
        famous.loop(job, mine, mended)
        comparison = compare(read(theirs), read(mine))
        causes = [cause.name for cause in [*explain(comparison), *also_different(comparison)]]
        yield Step(comparison, causes)
        if not set(causes) - mended:
            return
        mended |= set(causes)


def table_row(famous: Famous, steps: list[Step]) -> str:
    first, last = steps[0].comparison.first, steps[-1].comparison
    told = "; then ".join(", ".join(step.causes) for step in steps if step.causes)
    count = len(last.updates)
    end = f"the same bits, {count} of {count} updates" if last.same else f"differs at update {last.first.update}"
    return f"| {famous.title} | update {first.update}, {first.stage} | {told} | {end} |"


def table(steps: dict[str, list[Step]]) -> str:
    head = "| loop | first difference | causes by name | the mended loop |\n|---|---|---|---|\n"
    return head + "".join(f"{table_row(LOOPS[name], each)}\n" for name, each in steps.items())


def written(page: str, text: str) -> str:
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}"


def make_job(folder: Path) -> Job:
    """41 and 13 rows of 4 to 20 tokens: neither fills its last batch."""
    set_seed(0)
    # With weights this large there are gradients that clipping acts on, as a large model has them.
    config = BertConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config.update({"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.2})
    BertModel(config).save_pretrained(folder)
    draw = random.Random(0)
    rows = []
    for _ in range(54):
        ids = [draw.randrange(5, VOCABULARY) for _ in range(draw.randrange(4, 21))]
        label = draw.randrange(2)
        ids[1] = 5 + label
        rows.append({"input_ids": ids, "token_type_ids": [0] * len(ids), "attention_mask": [1] * len(ids)})
        rows[-1]["label"] = label
    return Job(folder, rows[:41], rows[41:])


def run(names: list[str], show: bool = False) -> dict[str, list[Step]]:
    """Compare and mend these loops."""
    set_verbosity_error()
    disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    results: dict[str, list[Step]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            job, results[name] = make_job(Path(folder) / "model"), []
            for step in mend(LOOPS[name], job, Path(folder)):
                results[name].append(step)
                if show:
                    print(f"## {name}\n{describe(step.comparison)}\n", flush=True)
    return results


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LOOPS)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(words)
    steps = run([arguments.only] if arguments.only else list(LOOPS), arguments.show)
    print(table(steps), end="")
    if arguments.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), table(steps)), encoding="utf-8")
    return int(not all(each[-1].comparison.same for each in steps.values()))


def _with_adapter(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.1))


if __name__ == "__main__":
    sys.exit(main())
