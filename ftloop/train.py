"""The command: `accelerate launch ftloop/train.py [RECIPE] [--flags]`. Wiring only, in the order things happen."""

from __future__ import annotations

import gc
import io
import os
import sys
import time
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    # Run as a file, sys.path starts with this folder: `ftloop` would not be found, and our module names would shadow
    # top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ftloop.allocator import keep_freed_memory
from ftloop.config import TrainConfig, parse_args
from ftloop.errors import ExitCode, UserError, part, tell
from ftloop.hub import use_cache_if_hub_is_silent
from ftloop.stopping import Stop, Stopped, listening, signals_wait

if TYPE_CHECKING:
    from ftloop.loop import TrainResult
    from ftloop.run import Run


def main(argv: list[str] | None = None) -> int:
    """Returns: an ExitCode. Only a fault of ours has a traceback; `--traceback` shows one for every error."""
    if argv is None:
        code = _main(sys.argv[1:], is_own_process=True)
        part(code)
        return code
    return _main(argv, is_own_process=False)


def _main(words: list[str], is_own_process: bool) -> ExitCode:
    from ftloop.durable import in_use

    if is_own_process:
        gc.disable()  # until _collect_garbage
        if os.environ.get("LOCAL_RANK", "0") != "0":  # torch's own warnings, the same in all processes of a machine
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console that cannot show a label ends no run
    stop, started = Stop(), time.monotonic()
    show_traceback, ddp_timeout = "--traceback" in words, None
    try:
        with listening(stop):
            try:
                config = parse_args(words)
                show_traceback, ddp_timeout = config.traceback, config.ddp_timeout
                if config.max_train_seconds is not None:
                    stop.deadline = started + config.max_train_seconds
                if config.keep_freed_memory:
                    keep_freed_memory()
                use_cache_if_hub_is_silent(config)
                with in_use(Path(config.output_dir)) if _is_main() else nullcontext():
                    if config.seeds is not None:
                        from ftloop.seeds import train_seeds

                        return train_seeds(config, words, stop)
                    fine_tune(config, stop)
            except (Stopped, KeyboardInterrupt) as stopped:
                with signals_wait():
                    return _stopped(stop, stopped)
    except Exception as error:
        return tell(error, show_traceback, ddp_timeout, stop.reason == "SIGTERM")
    return ExitCode.DONE


def _stopped(stop: Stop, stopped: BaseException) -> ExitCode:
    if _is_main():
        where = stopped if isinstance(stopped, Stopped) else f"Stopped   on {stop.reason} before training"
        print(f"{where}; the same command with --resume_from_checkpoint last goes on", file=sys.stderr, flush=True)
    if isinstance(stopped, Stopped):
        stop.wait_for_everyone()  # a launcher ends the others as soon as one has left
    return ExitCode.STOPPED


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def fine_tune(config: TrainConfig, stop: Stop | None = None) -> Run | None:
    """The whole job, from the files it reads to the files it leaves. What can fail for the user fails first.

    Returns: the run; None when output_dir holds it already, complete.
    """
    from ftloop.announce import (
        announce_data,
        announce_model,
        announce_next,
        announce_padding,
        announce_plan,
        quiet_libraries,
        with_baseline,
    )
    from ftloop.checkpoint import find_checkpoint
    from ftloop.data import label_ids, load_text_data, tokenize
    from ftloop.durable import check_writable
    from ftloop.inference import pair_up
    from ftloop.metrics import answers, check_metric, metrics_for
    from ftloop.model import check_model, check_token_ids, load_model, load_tokenizer, longest_input
    from ftloop.optim import check_schedule
    from ftloop.padding import collator, padding_edges, row_lengths
    from ftloop.ranks import from_main, in_turns, leave, too_few, waiting_group
    from ftloop.resume import choose_checkpoint, finished_run, load_checkpoint
    from ftloop.run import make_accelerator, prepare, seed_everything

    quiet_libraries(config)
    # Several processes meet first, to go the same way; one answers before it starts what takes long.
    accelerator = make_accelerator(config) if os.environ.get("WORLD_SIZE", "1") != "1" else None
    is_complete = finished_run(config) if _is_main() else None
    is_complete = is_complete if accelerator is None else from_main(accelerator, is_complete)
    if is_complete:
        if _is_main():
            from ftloop.outcome import REPORT, read_outcome

            print(f"Finished  already: {config.output_dir} holds this run, complete", flush=True)
            if config.report and not (Path(config.output_dir) / REPORT).exists():
                from ftloop.final import report_at_the_end

                report_at_the_end(config)
            facts: dict[str, Any] = {}
            with suppress(UserError):
                facts = read_outcome(config.output_dir).facts
            announce_next(config, pairs=len(facts.get("data", {}).get("text_columns", [])) == 2)
        return None
    check_model(config.model_name_or_path)
    check_schedule(config)
    find_checkpoint(config.output_dir, config.resume_from_checkpoint)
    if config.logging_dir is not None:
        check_writable(config.logging_dir, "logging_dir")
    if config.record is not None:
        from ftloop.record import check_recording

        check_recording(Path(config.record))
    accelerator = accelerator or make_accelerator(config)
    group = waiting_group(accelerator)
    missing = too_few(accelerator)
    if missing is not None and _is_main():
        print(f"Processes {missing}", flush=True)
    is_trained = is_complete is not None
    checkpoint = None if is_trained else choose_checkpoint(config, accelerator)
    assert config.model_name_or_path is not None

    with in_turns(accelerator, group, "reading the data"):
        data = load_text_data(config)
        tokenizer = load_tokenizer(config.model_name_or_path)
    check_metric(config, data.labels, data.metrics)
    samples = pair_up(config.sample_texts or [], pairs=len(data.text_columns) == 2)
    seed_everything(config)  # the new head is drawn here
    model, new_weights = load_model(config.model_name_or_path, data.labels, config)
    max_length = longest_input(model, tokenizer, config.max_seq_length)
    once = config if accelerator.is_local_main_process else replace(config, overwrite_cache=False)  # on each machine
    with in_turns(accelerator, group, "tokenizing the data"):
        sets = {"train": data.train} | data.validation | data.test
        tokenized = {name: tokenize(data, rows, tokenizer, max_length, once, name) for name, rows in sets.items()}
        encoded = {name: rows for name, (rows, _) in tokenized.items()}
        check_token_ids(model, tokenizer, encoded)
    leave(group)
    validation = {name: encoded[name] for name in data.validation}
    lengths = row_lengths(encoded["train"], quiet=True)
    edges = padding_edges(config, max_length, lengths)

    run = prepare(
        config,
        model,
        encoded["train"],
        next(iter(validation.values()), None),
        processing_class=tokenizer,
        data_collator=collator(tokenizer, edges),
        compute_metrics=metrics_for(data.labels, data.metrics),
        accelerator=accelerator,
        padding_edges=edges,
        preprocess_logits_for_metrics=answers,
    )
    run.source_rows = data.train.select_columns([*data.text_columns, data.label_column])
    if stop is not None:
        stop.group, run.stop = run.stop.group, stop
    if run.is_main:
        announce_model(run, config.model_name_or_path, new_weights)
        announce_data(run, data, {name: cut for name, (_, cut) in tokenized.items()}, max_length)
        announce_padding(run, lengths, max_length)
        announce_plan(run)
        for name, rows in list(validation.items())[:1]:
            run.compute_metrics = with_baseline(run, data.labels, name, label_ids(rows))
    if checkpoint is not None:
        load_checkpoint(run, checkpoint, is_whole=True)
    elif config.resume_from_checkpoint is not None and not is_trained:
        run.say(f"Resuming  nothing: no checkpoint in {config.output_dir} yet, starting afresh")
    if stop is not None:
        _collect_garbage()
    with signals_wait():
        _train_and_save(run, is_trained)
        from ftloop.final import use  # only now: it imports what no training needs

        use(run, data, tokenized, samples, max_length)
    return run


def _collect_garbage() -> None:
    """From here on, in the command's own process. What a start makes are a million objects that stay: to look through
    them for garbage, again and again, is a sixth of its time, so that it is not done then, nor ever to these.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _train_and_save(run: Run, is_trained: bool) -> None:
    """Train, unless the final model is there already, and save it with what is known of the training."""
    from ftloop.changes import check_same_data
    from ftloop.checkpoint import record_trained, save_model
    from ftloop.logs import save_metrics, save_state
    from ftloop.resume import load_weights
    from ftloop.state import TRAINER_STATE, TrainerState

    root = Path(run.config.output_dir)
    if is_trained:
        run.say(f"Trained   already: {root} holds the final model; what is left is to evaluate it")
        load_weights(run, root)
        run.state = TrainerState.from_json(root / TRAINER_STATE)
        check_same_data(run, root)
        return
    result = _train(run)
    files = save_model(run)
    save_metrics(run, "train", result.metrics | {"epoch": run.state.epoch})
    save_state(run)
    record_trained(run, [*files, "train_results.json", TRAINER_STATE])


def _train(run: Run) -> TrainResult:
    """Train; with `record` write down every update, with `explain` narrate the first ones."""
    from ftloop.loop import TrainingStep, train, training_step

    step: TrainingStep = training_step
    with ExitStack() as watching:
        if run.config.record is not None:
            from ftloop.record import record

            step = watching.enter_context(record(run, run.config.record, run.config.record_full)).training_step
        if run.config.explain is not None:
            from ftloop.explain import explain

            step = watching.enter_context(explain(run, run.config.explain, step))
        return train(run, step)


if __name__ == "__main__":
    sys.exit(main())
