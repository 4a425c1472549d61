"""The command: `accelerate launch ftloop/train.py [RECIPE] [--flags]`. Parses, then imports the job."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file, sys.path starts with this folder: `ftloop` would not be found, and our module names would shadow
    # top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import ftloop.system.environment  # noqa: F401 - first: it says what is missing before that is imported
from ftloop.config.command_line import check_words, parse_args, recipe_in_words
from ftloop.config.offline import use_cache_if_hub_is_silent
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode
from ftloop.system.console import say
from ftloop.system.exit import exit_code, hard_exit, is_reported_elsewhere, report_error, report_stop
from ftloop.system.launcher import is_main_process, launched_local_rank
from ftloop.system.lock import lock_folder
from ftloop.system.memory import fast_start, has_gpu, keep_freed_memory
from ftloop.system.signals import SignalHandler
from ftloop.system.stopping import Stopped, StopRequest


def main(argv: list[str] | None = None) -> int:
    """Run the command. Only a bug has a traceback; `--traceback` shows one for every error. Returns: an ExitCode."""
    if argv is not None:
        return _main(argv)
    if launched_local_rank() != 0:  # torch's own warnings, the same in all processes of a machine
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    code = _main(sys.argv[1:], is_own_process=True)
    hard_exit(code)
    return code


def _main(words: list[str], is_own_process: bool = False) -> ExitCode:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console that cannot show a label ends no run
    stop, started = StopRequest(), time.monotonic()
    show_traceback, ddp_timeout = "--traceback" in words, None
    try:
        with SignalHandler(stop) as signals:
            try:
                words = check_words(words)
                config = parse_args(words)
                show_traceback, ddp_timeout = config.traceback, config.ddp_timeout
                if config.max_train_seconds is not None:
                    stop.deadline = started + config.max_train_seconds
                return _run(config, words, signals, is_own_process)
            except (Stopped, KeyboardInterrupt) as stopped:
                with signals.deferred():
                    return report_stop(stop, stopped)
    except Exception as error:
        if is_reported_elsewhere(error, told_to_end=stop.reason == "SIGTERM"):
            return exit_code(error)
        return report_error(error, show_traceback, ddp_timeout)


def _run(config: TrainConfig, words: list[str], signals: SignalHandler, is_own_process: bool) -> ExitCode:
    use_cache_if_hub_is_silent(config)
    with lock_folder(Path(config.output_dir)) if is_main_process() else nullcontext():
        if config.several is not None:
            from ftloop.job.seeds import train_several

            return train_several(config, words, signals.stop)
        if recipe := recipe_in_words(words):
            say("Recipe", recipe)
        with fast_start() if is_own_process else nullcontext():
            from ftloop.job.fine_tune import fine_tune  # torch and transformers: only now that the flags are right

        if config.keep_freed_memory and (config.use_cpu or not has_gpu()):
            keep_freed_memory()
        fine_tune(config, signals)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
