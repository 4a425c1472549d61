"""A run to which a Ctrl-C comes, as a terminal sends it to all processes, while an epoch's worker is started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import dataloader

sys.path[:0] = [str(Path(__file__).resolve().parents[number]) for number in (3, 2)]
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows

from ftloop import TrainConfig, prepare, train
from ftloop.errors import FtloopError
from ftloop.system.signals import SignalHandler


def interrupt_in_epoch(number: int) -> None:
    iterator: Any = dataloader._MultiProcessingDataLoaderIter
    begin, begun = iterator.__init__, []

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        begun.append(self)
        if len(begun) == number:
            for process in (*(worker.pid for worker in self._workers), os.getpid()):
                os.kill(process, signal.SIGINT)

    iterator.__init__ = interrupted


if __name__ == "__main__":
    method, folder = sys.argv[1:]
    multiprocessing.set_start_method(method)
    interrupt_in_epoch(2)
    arguments: dict[str, Any] = {"per_device_train_batch_size": 4, "dataloader_num_workers": 1, "use_cpu": True}
    config = TrainConfig(output_dir=folder, num_train_epochs=3, save_strategy="epoch", disable_tqdm=True, **arguments)
    prepared = prepare(config, tiny_bert(), tiny_rows(20), data_collator=pad)
    try:
        with SignalHandler(prepared.stop) as handler, handler.deferred():
            train(prepared)
    except FtloopError as error:
        print(error)
