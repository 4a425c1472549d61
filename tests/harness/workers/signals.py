"""Run by test_stopping.py: for each case, a forked child runs the command, gets a signal at a given point, and is run
again until it is done. Writes what each run ended with, and what is left at the end.

python tests/harness/workers/signals.py OUT.json FOLDER CASES.json
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path; forked, it finds all this done
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 3)]

# All that a run imports on its way, so that each of the forked ones finds it there.
import datasets
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch._dynamo  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert  # noqa: F401
from harness.output_dirs import what_is_left
from harness.patching import call_before
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import ftloop.inference.classifier
import ftloop.job.fine_tune
import ftloop.job.finish
import ftloop.train


def main(output: str, folder: str, cases: str) -> None:
    found = {}
    for name, case in json.loads(Path(cases).read_text()).items():
        root = Path(folder) / name.replace("/", "-")
        runs = []
        for number, plan in enumerate([*case["signals"], None]):
            runs.append(run_forked(root, number, case["argv"], plan))
            if runs[-1]["status"] == 0:
                break
        found[name] = {"runs": runs, "left": what_is_left(root / "out")}
    Path(output).write_text(json.dumps(found))


def run_forked(root: Path, number: int, argv: list[str], plan: dict[str, Any] | None) -> dict[str, Any]:
    root.mkdir(parents=True, exist_ok=True)
    log = root / f"{number}.log"
    pid = os.fork()
    if pid == 0:
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(root)
        os.setsid()  # its loader processes and it are a group of their own
        code = 99
        try:
            datasets.config.HF_DATASETS_CACHE = root.parent / "cache"
            if plan is not None:
                POINTS[plan["point"]](plan["count"], sender(plan["signals"], plan["to_all"]))
            code = ftloop.train.main(argv)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    return {"status": os.waitstatus_to_exitcode(status), "said": log.read_text()}


def sender(names: list[str], to_all: bool) -> Callable[[], None]:
    """`to_all`: to the loader's processes as well, as a terminal and schedulers do."""

    def send() -> None:
        for name in names:
            (os.killpg if to_all else os.kill)(os.getpid(), getattr(signal, name))

    return send


def at_call(place: str) -> Callable[[int, Callable[[], None]], None]:
    """The signals come when the `count`-th call of a function of ftloop begins."""

    def plant(count: int, send: Callable[[], None]) -> None:
        call_before(place, lambda number: send() if number == count else None)

    return plant


def at_forward(training: bool) -> Callable[[int, Callable[[], None]], None]:
    """The signals come when the model's `count`-th forward pass begins, in training or in evaluation."""

    def plant(count: int, send: Callable[[], None]) -> None:
        calls = []

        def watched(module: nn.Module, _: Any) -> None:
            if type(module).__name__ == "BertForSequenceClassification" and module.training == training:
                calls.append(1)
                if len(calls) == count:
                    send()

        register_module_forward_pre_hook(watched)

    return plant


POINTS = {
    "reading": at_call("data.load.load_text_data"),
    "tokenizing": at_call("data.tokenization._encode_batch"),
    "forward": at_forward(training=True),
    "evaluation": at_forward(training=False),
    "saving": at_call("checkpoint.save._save_optimizer"),
    "committing": at_call("system.atomic.commit_folder"),
    "rotating": at_call("checkpoint.folders.delete_surplus"),
    "loading": at_call("models.load.load_weights"),
    "loading the best": at_call("models.weights.load_weights"),
    "final save": at_call("checkpoint.save._replace_model"),
    "record": at_call("job.results.record_complete"),
}

if __name__ == "__main__":
    main(*sys.argv[1:])
