"""Run by test_stopping.py: for each case, a forked child runs the command, gets a signal at a given point, and is run
again until it is done. Writes what each run ended with, and what is left at the end.

python tests/worker_signals.py OUT.json FOLDER CASES.json
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

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

# All that a run imports on its way, so that each of the forked ones finds it there.
import datasets
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch._dynamo  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert  # noqa: F401
from killing import what_is_left
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import ftloop.announce
import ftloop.checkpoint
import ftloop.data
import ftloop.inference
import ftloop.loop
import ftloop.resume
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


def at_call(module: Any, name: str) -> Callable[[int, Callable[[], None]], None]:
    """The signals come when the `count`-th call of a function begins."""

    def plant(count: int, send: Callable[[], None]) -> None:
        calls, real = [], getattr(module, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == count:
                send()
            return real(*args, **kwargs)

        setattr(module, name, watched)

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
    "reading": at_call(ftloop.data, "load_text_data"),
    "tokenizing": at_call(ftloop.data, "_tokenize_batch"),
    "forward": at_forward(training=True),
    "evaluation": at_forward(training=False),
    "saving": at_call(ftloop.checkpoint, "_save_optimizer"),
    "committing": at_call(ftloop.checkpoint, "put_in_place"),
    "rotating": at_call(ftloop.checkpoint, "delete_surplus"),
    "loading": at_call(ftloop.resume, "load_weights"),
    "loading the best": at_call(ftloop.loop, "load_weights"),
    "final save": at_call(ftloop.checkpoint, "_replace_model"),
    "record": at_call(ftloop.checkpoint, "record_complete"),
}

if __name__ == "__main__":
    main(*sys.argv[1:])
