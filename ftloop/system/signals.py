"""What SIGTERM, SIGINT, SIGUSR1 and SIGHUP do: ask a run to stop where it can be resumed (stopping.py); before
training, where nothing would be lost, end it at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from multiprocessing.context import BaseContext
from typing import Any

from ftloop.errors import ExitCode
from ftloop.system.launcher import is_main_process
from ftloop.system.stopping import StopRequest
from ftloop.system.streams import let_readers_go

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")  # the last two do not exist on Windows
WORKER_GRACE_SECONDS = 60


def signals_to_handle() -> list[int]:
    """Return the numbers of those signals, but of the end of the terminal where `nohup` has it ignored."""
    numbers = {name: getattr(signal, name) for name in SIGNALS if hasattr(signal, name)}
    return [n for name, n in numbers.items() if name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]


class OnSignal(Enum):
    """What a signal does to the run."""

    ENDS_AT_ONCE = "nothing would be lost: KeyboardInterrupt is raised"
    WAITS_FOR_SAFE_POINT = "the stop request is looked at regularly: the run goes on until then"


class SignalHandler:
    """Handle those signals while it is entered: each requests `stop` instead of ending the process. In another thread
    than the main one, which alone may handle signals, it does nothing.
    """

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.on_signal = OnSignal.ENDS_AT_ONCE
        self._interrupted = False

    def __enter__(self) -> SignalHandler:
        self._process = os.getpid()
        is_main = threading.current_thread() is threading.main_thread()
        self._streams = sys.stdout, sys.stderr
        self._before = {number: signal.signal(number, self) for number in signals_to_handle() if is_main}
        return self

    def __exit__(self, *exception: object) -> None:
        sys.stdout, sys.stderr = self._streams
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals wait for a safe point within."""
        self.on_signal = OnSignal.WAITS_FOR_SAFE_POINT
        try:
            yield
        finally:
            self.on_signal = OnSignal.ENDS_AT_ONCE

    def __call__(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return _end_child(number)
        name, again = signal.Signals(number).name, self.stop.reason is not None
        self.stop.request(name)
        let_readers_go()
        is_second, self._interrupted = self._interrupted, self._interrupted or number == signal.SIGINT
        if number == signal.SIGINT and is_second:
            _write(f"\nStopped   at once by a second {name}; what had been saved is whole\n")
            os._exit(ExitCode.INTERRUPTED)
        if self.on_signal is OnSignal.ENDS_AT_ONCE:
            raise KeyboardInterrupt  # the one exception that no library below takes for an error of its own
        if not again:
            _write(f"\nStopping  by {name}, where the run can be resumed; a second Ctrl-C ends it at once\n")
        return None


def _end_child(number: int) -> None:
    """Handle a signal in a process that this one has forked, and that it ends itself: by SIGTERM, not by those signals
    that reach all processes of a terminal."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


class _Worker(multiprocessing.Process):
    def start(self) -> None:
        with _signals_held():
            super().start()


class WorkerContext(BaseContext):
    """Start a loader's workers as multiprocessing does by default, and let no Ctrl-C end them before
    `ignore_signals_in_worker` runs in them: one that is not forked has to start Python and import torch first.
    """

    Process = _Worker

    def get_context(self, method: Any = None) -> Any:
        return multiprocessing.get_context(method)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let a process that is started within get none of the signals yet; this one gets them a moment later."""
    if sys.platform == "win32":  # where a Ctrl-C is ignored, and by what is started too, but not kept for later
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, True)
        try:
            yield
        finally:
            ctypes.windll.kernel32.SetConsoleCtrlHandler(None, False)
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals_to_handle())
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals_in_worker(worker_id: int) -> None:
    """Let a loader's worker outlive a SIGTERM sent to all processes by a minute, in which the update is finished with
    its batches. Ended by its own process alone, it ends by itself long before. A `worker_init_fn`.
    """
    del worker_id
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
        for number in (signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [getattr(signal, name) for name in SIGNALS])


def _write(text: str) -> None:
    """Write to stderr past Python's buffers, which the signal may have found in use; from one process."""
    if is_main_process():
        with suppress(OSError):
            os.write(2, text.encode())
