"""Faults that hand-written training loops have, each planted in a copy of ftloop: what the fuzz has to find.

The number is that of the trap. A fault is a replacement of source text that occurs exactly once, which a test holds.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ftloop"


@dataclass(frozen=True)
class Fault:
    """One trap, and how ftloop falls into it."""

    trap: int
    what: str
    changes: tuple[tuple[str, str, str], ...]
    """File, old text, new text."""


FAULTS: dict[str, Fault] = {
    "divided-loss": Fault(
        1,
        "divides the loss by the accumulation, which Trainer does not for heads that take kwargs",
        (
            (
                "run/trainer_compat.py",
                "return 1.0 if num_items is not None or self.own_loss else float(window_size)",
                "return float(window_size)",
            ),
        ),
    ),
    "mean-over-processes": Fault(
        2,
        "leaves the mean over processes, which Trainer multiplies by their number",
        (("loss.py", "loss = loss * run.accelerator.num_processes", "pass"),),
    ),
    "plain-sampler": Fault(
        3,
        "shuffles by the global generator",
        (
            (
                "run/loaders.py",
                "    sampler=sampler,\n",
                "    sampler=__import__('torch').utils.data.RandomSampler(dataset),\n",
            ),
        ),
    ),
    "no-second-seed": Fault(
        4,
        "does not seed again once the model is built",
        (("run/prepare.py", "    seed_everything(config)\n    accelerator = ", "    accelerator = "),),
    ),
    "no-set-epoch": Fault(
        5,
        "deals every epoch in the first one's order",
        (("run/micro_batches.py", "run.sampler.epoch = epoch", "pass"),),
    ),
    "evaluation-draws-twice": Fault(
        6,
        "makes two iterators per evaluation",
        (
            (
                "evaluation.py",
                "    loader = run.eval_loaders.loader(dataset)\n",
                "    next(iter(loader := run.eval_loaders.loader(dataset)))\n",
            ),
        ),
    ),
    "evaluation-draws-nothing": Fault(
        6,
        "leaves the random state as it was before an evaluation",
        (
            (
                "evaluation.py",
                "    order = ",
                "    torch.random.set_rng_state(before)\n    order = ",
            ),
            (
                "evaluation.py",
                "    loader = run.eval_loaders.loader(dataset)\n",
                "    before = torch.random.get_rng_state()\n    loader = run.eval_loaders.loader(dataset)\n",
            ),
        ),
    ),
    "seed-by-process": Fault(
        7,
        "gives each process a seed of its own",
        (
            ("run/prepare.py", "from datetime import timedelta\n", "import os\nfrom datetime import timedelta\n"),
            ("run/prepare.py", "set_seed(config.seed)\n", 'set_seed(config.seed + int(os.environ.get("RANK", "0")))\n'),
        ),
    ),
    "prepared-schedule": Fault(
        8,
        "has Accelerate prepare the schedule, which then steps once per process",
        (
            (
                "run/prepare.py",
                "create_scheduler(stepped, config, plan.warmup_steps, plan.max_steps)",
                "accelerator.prepare(create_scheduler(stepped, config, plan.warmup_steps, plan.max_steps))",
            ),
        ),
    ),
    "unfused-adamw": Fault(
        9,
        "takes AdamW without its fused kernel",
        (("run/optim.py", 'fused=True if config.optim == "adamw_torch_fused" else None', "fused=None"),),
    ),
    "decay-on-all": Fault(
        10,
        "decays biases and normalisation too",
        (("run/optim.py", '"weight_decay": 0.0}', '"weight_decay": config.weight_decay}'),),
    ),
    "no-clipping": Fault(
        11,
        "does not clip the gradient",
        (("loop.py", "run.config.max_grad_norm or math.inf", "math.inf"),),
    ),
    "no-no-sync": Fault(
        12,
        "exchanges gradients at every micro-batch",
        (("loop.py", "with nullcontext() if is_last else run.accelerator.no_sync(run.model):", "with nullcontext():"),),
    ),
    "no-unused-parameters": Fault(
        12,
        "tells DDP that no parameter goes unused",
        (
            (
                "run/accelerator.py",
                "find_unused = not config.gradient_checkpointing",
                "find_unused = False",
            ),
        ),
    ),
    "learning-rate-of-the-next": Fault(
        13,
        "logs the learning rate after the schedule has stepped",
        (
            (
                "loop.py",
                "            learning_rate = run.scheduler.get_last_lr()[0]\n"
                "            if stepped:\n"
                "                run.scheduler.step()\n",
                "            if stepped:\n"
                "                run.scheduler.step()\n"
                "            learning_rate = run.scheduler.get_last_lr()[0]\n",
            ),
        ),
    ),
    "float64-loss": Fault(
        14,
        "adds up the logged loss in float64",
        (
            (
                "run/meter.py",
                "torch.zeros((), device=device), torch.zeros((), device=device)",
                "*torch.zeros(2, device=device, dtype=torch.float64)",
            ),
        ),
    ),
    "mean-of-batch-means": Fault(
        14,
        "takes for eval_loss the mean of the batches' means",
        (
            (
                "evaluation.py",
                "run.rules.mean_eval_loss(losses.to_numpy())",
                "run.rules.mean_eval_loss(losses.to_numpy()[::batch_size])",
            ),
        ),
    ),
    "random-state-before-the-fetch": Fault(
        15,
        "restores the random state before it fetches, where the run resumes in mid-epoch",
        (
            (
                "run/micro_batches.py",
                "    plan, loader = run.plan, run.train_loader\n",
                "    plan, loader = run.plan, run.train_loader\n    restore_rng(run)\n",
            ),
        ),
    ),
    "random-state-after-the-iterator": Fault(
        15,
        "restores the random state after it fetches, where the run resumes at an epoch's beginning",
        (
            (
                "run/micro_batches.py",
                "    elif not skip and (epoch == 0 or not workers_persist(run)):\n        restore_rng(run)\n",
                "",
            ),
        ),
    ),
    "fixed-divisor": Fault(
        16,
        "divides by the accumulation in a shorter last window too",
        (
            (
                "run/micro_batches.py",
                "rules.divisor(rows, window_rows, len(batches), processes, num_items)",
                "rules.divisor(rows, window_rows, plan.gradient_accumulation_steps, processes, num_items)",
            ),
        ),
    ),
    "stops-at-the-modulus": Fault(
        17,
        "neither evaluates nor saves at the last update where it is not due by count",
        (
            ("run/state.py", "(step % plan.eval_steps == 0 or is_last)", "step % plan.eval_steps == 0"),
            ("run/state.py", "(step % plan.save_steps == 0 or is_last)", "step % plan.save_steps == 0"),
        ),
    ),
    "workers-do-not-persist": Fault(
        18,
        "takes persistent workers for neutral, and does not keep them",
        (("run/loaders.py", "persistent_workers=config.dataloader_persistent_workers", "persistent_workers=False"),),
    ),
}


def plant(name: str, folder: Path) -> Path:
    """Copy ftloop into `folder` with the fault in it. Returns: the folder to import from.

    Raises: ValueError where the text to be replaced does not occur exactly once.
    """
    shutil.copytree(PACKAGE, folder / "ftloop", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in FAULTS[name].changes:
        path = folder / "ftloop" / file
        source = path.read_text(encoding="utf-8")
        if source.count(old) != 1:
            raise ValueError(f"{name}: {file} holds {source.count(old)} times {old!r}")
        path.write_text(source.replace(old, new), encoding="utf-8")
    return folder
