"""What a user writes with transformers.Trainer for the job that `python ftloop/train.py` does, to be killed and timed
alike: python benchmarks/fidelity/trainer_script.py --FLAG VALUE ...

It goes on from the last checkpoint if there is one, as Trainer's documentation and the run_glue script do it. It runs
on transformers from 4.40 on. Two flags are of its own: `--record FILE`, and `--accepts_loss_kwargs false`, which makes
Trainer divide the loss by the number of micro-batches.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

OURS = ("model_name_or_path", "train_file", "validation_file", "test_file", "resume_from_checkpoint")
OURS += ("record", "accepts_loss_kwargs")


def main(words: list[str]) -> int:
    """`words`: those of ftloop's command, each flag with one value."""
    flags = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    paths = {name: flags.pop(name) for name in OURS if name in flags}
    use_cpu = str(not torch.cuda.is_available()).lower()
    flags = {"report_to": "none", "use_cpu": use_cpu, "disable_tqdm": "true"} | flags
    if "eval_strategy" not in inspect.signature(TrainingArguments).parameters:  # before 4.41
        flags["evaluation_strategy"] = flags.pop("eval_strategy")
    given = [word for name, value in flags.items() for word in (f"--{name}", value)]
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(given)
    logging.disable_progress_bar()

    tokenizer = AutoTokenizer.from_pretrained(paths["model_name_or_path"])
    files = {split: paths[f"{split}_file"] for split in ("train", "validation", "test")}
    rows = load_dataset("json", data_files=files).map(
        lambda batch: tokenizer(batch["sentence1"], batch["sentence2"], truncation=True), batched=True
    )
    set_seed(args.seed)
    model = AutoModelForSequenceClassification.from_pretrained(paths["model_name_or_path"], num_labels=2)
    if paths.get("accepts_loss_kwargs") == "false":
        model.accepts_loss_kwargs = False
    is_new = "processing_class" in inspect.signature(Trainer).parameters  # from 4.46 on
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        **{"processing_class" if is_new else "tokenizer": tokenizer},
    )
    if "record" in paths:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from ftloop.compare import record

        record(trainer, paths["record"])
    there = Path(args.output_dir).is_dir() and get_last_checkpoint(args.output_dir)
    result = trainer.train(resume_from_checkpoint=True if there else None)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_metrics("test", trainer.evaluate(rows["test"], metric_key_prefix="test"))
    return 0


def compute_metrics(evaluated: Any) -> dict[str, float]:
    predicted = np.argmax(evaluated.predictions, axis=-1)
    return {
        "accuracy": accuracy_score(evaluated.label_ids, predicted),
        "f1": f1_score(evaluated.label_ids, predicted),
    }


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit()
    sys.exit(main(sys.argv[1:]))
