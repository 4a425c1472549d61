"""The whole job around the loop: read, train, finish."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import transformers

from ftloop.batching.padding import collator
from ftloop.checkpoint.choose import choose_checkpoint
from ftloop.checkpoint.finished import finished_run, load_finished, saved_settings
from ftloop.checkpoint.folders import find_checkpoint
from ftloop.checkpoint.resume import load_checkpoint
from ftloop.checkpoint.save import save_model
from ftloop.checkpoint.trainer_state import TRAINER_STATE
from ftloop.compare.recorder import check_recording, record
from ftloop.config.train_config import TrainConfig
from ftloop.explain.narrator import explain
from ftloop.job.console import announce
from ftloop.job.finish import announce_finished, evaluate_and_predict
from ftloop.job.inputs import Inputs, read_inputs
from ftloop.job.results import record_trained, save_metrics, save_state
from ftloop.loop import TrainingStep, TrainResult, train, training_step
from ftloop.metrics import argmax_predictions, metrics_for
from ftloop.models.adapters import check_peft
from ftloop.models.damage import check_files
from ftloop.models.folder import tokenizer_in
from ftloop.models.load import check_model, load_config
from ftloop.models.unpadding import check_unpadding
from ftloop.run.accelerator import make_accelerator
from ftloop.run.optim import check_schedule
from ftloop.run.precision import settle_precision
from ftloop.run.prepare import prepare
from ftloop.run.run import Run
from ftloop.system.console import say
from ftloop.system.distributed import broadcast_from_main
from ftloop.system.launch_checks import launch_problem
from ftloop.system.launcher import is_main_process, launched_processes
from ftloop.system.row_numbers import note_rows
from ftloop.system.signals import SignalHandler
from ftloop.system.stopping import StopRequest
from ftloop.system.writable import check_writable

if TYPE_CHECKING:
    from accelerate import Accelerator


def fine_tune(config: TrainConfig, signals: SignalHandler | None = None) -> Run | None:
    """Do the whole job, from the files it reads to the files it leaves. What can fail for the user fails first.

    Returns: the run; None when output_dir holds it already, complete.
    """
    signals = signals or SignalHandler(StopRequest())
    quiet_libraries(config)
    config = settle_precision(config, saved_settings(config))
    accelerator, is_trained = find_finished(config)
    if accelerator is None:
        announce_finished(config)
        return None
    checkpoint = check_first(config, accelerator, is_trained)
    inputs = read_inputs(config, accelerator)
    run = build_run(accelerator, inputs, signals.stop)
    announce(run, inputs)
    if checkpoint is not None:
        load_checkpoint(run, checkpoint, is_whole=True)
    elif config.resume_from_checkpoint is not None and not is_trained:
        say("Resuming", f"nothing: no checkpoint in {config.output_dir} yet, starting afresh")
    with signals.deferred():
        train_and_save(run, is_trained)
        evaluate_and_predict(run, inputs)
    return run


def quiet_libraries(config: TrainConfig) -> None:
    """Turn off the libraries' tables and bars where ours say the same, and all bars without a terminal.

    What transformers would warn of (not Python's own warnings, which stay) is here a line of ours, or nothing that
    anybody has to mend: weights that are new or of another size are on the line `Model`, texts that are too long on
    `Lengths`, and heads of a pretraining are not used.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    bars = sys.stderr.isatty() if config.disable_tqdm is None else not config.disable_tqdm
    if not bars or not is_main_process():
        datasets.disable_progress_bars()


def find_finished(config: TrainConfig) -> tuple[Accelerator | None, bool]:
    """Look for this run in output_dir. Returns: the accelerator, None if it is complete; and whether it is trained.

    Several processes meet first, to go the same way; one answers before it starts what takes long.
    """
    accelerator = make_accelerator(config) if launched_processes() > 1 else None
    is_complete = finished_run(config) if is_main_process() else None
    is_complete = is_complete if accelerator is None else broadcast_from_main(accelerator, is_complete)
    if is_complete:
        return None, True
    return accelerator or make_accelerator(config), is_complete is not None


def check_first(config: TrainConfig, accelerator: Accelerator, is_trained: bool) -> Path | None:
    """Check what can be checked before anything is read. Returns: the checkpoint to resume from, if any."""
    folder = check_model(config.model_name_or_path)
    if folder is not None:
        check_files(folder)
    if config.tokenizer_name is not None:
        tokenizer_in(config.tokenizer_name)
    if config.padding == "none" and "padding" not in config.from_recipe and config.model_name_or_path is not None:
        check_unpadding(load_config(config.model_name_or_path))
    check_peft(config)
    check_schedule(config)
    find_checkpoint(config.output_dir, config.resume_from_checkpoint)
    if config.logging_dir is not None:
        check_writable(config.logging_dir, "logging_dir")
    if config.record is not None:
        check_recording(Path(config.record))
    problem = launch_problem(accelerator)
    if problem is not None:
        say("Processes", problem)
    return None if is_trained else choose_checkpoint(config, accelerator)


def build_run(accelerator: Accelerator, inputs: Inputs, stop: StopRequest) -> Run:
    data, encoded = inputs.data, inputs.encoded
    is_scored = bool(data.validation) or any(data.has_labels(rows) for rows in data.test.values())
    return prepare(
        inputs.config,
        inputs.model,
        encoded["train"],
        next((encoded[name] for name in data.validation), None),
        processing_class=inputs.tokenizer,
        data_collator=collator(inputs.tokenizer, inputs.padding.edges),
        # Without a set to score, scikit-learn is not imported; with one it is here, before prepare() seeds.
        compute_metrics=metrics_for(data.labels, data.metrics) if is_scored else None,
        accelerator=accelerator,
        padding_edges=inputs.padding.edges,
        preprocess_logits_for_metrics=argmax_predictions,
        source_rows=note_rows(data.train.select_columns([*data.text_columns, data.label_column]), data.train),
        stop=stop,
    )


def train_and_save(run: Run, is_trained: bool) -> None:
    """Train, unless the final model is there already, and save it with what is known of the training."""
    if is_trained:
        load_finished(run)
        return
    result = _train(run)
    files = save_model(run)
    save_metrics(run, "train", result.metrics | {"epoch": run.state.epoch})
    save_state(run)
    record_trained(run, [*files, "train_results.json", TRAINER_STATE])


def _train(run: Run) -> TrainResult:
    """Train; with `record` write down every update, with `explain` narrate the first ones."""
    step: TrainingStep = training_step
    with ExitStack() as watching:
        if run.config.record is not None:
            step = watching.enter_context(record(run, run.config.record, run.config.record_full)).training_step
        if run.config.explain is not None:
            step = watching.enter_context(explain(run, run.config.explain, step))
        return train(run, step)
