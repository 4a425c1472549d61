"""Finish a job: evaluate the final model, write its predictions, and leave what is known of the run for reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ftloop.checkpoint.save import save_model
from ftloop.config.reproduce import ftloop_command
from ftloop.config.train_config import TrainConfig
from ftloop.errors import UserError, summarize
from ftloop.evaluation import evaluate, predict
from ftloop.inference.classifier import classify
from ftloop.job.bag_of_words import describe, score_bag_of_words
from ftloop.job.console import format_scores, print_next_steps
from ftloop.job.inputs import Inputs
from ftloop.job.prediction_files import keeps_predictions, save_predictions, save_unlabelled
from ftloop.job.results import (
    ALL_RESULTS,
    PREDICTIONS,
    record_complete,
    results_text,
    save_facts,
    save_metrics,
)
from ftloop.report.advice import advice_lines
from ftloop.report.model_card import write_card
from ftloop.report.outcome import MERGED, REPORT, read_finished_run
from ftloop.run.run import Run
from ftloop.system.atomic import save_text
from ftloop.system.console import say, write
from ftloop.system.distributed import destroy_group, main_process_first, new_cpu_group
from ftloop.system.launcher import is_main_process
from ftloop.system.manifest import DECISION, read_json


def evaluate_and_predict(run: Run, inputs: Inputs) -> None:
    """Evaluate the final model on the labelled sets and predict the others; say what comes next."""
    data = inputs.data
    if run.is_main:
        remove_stale_results(run)
    labelled = [name for name in data.test if data.has_labels(data.test[name])]
    _final_evaluation(run, inputs, list(data.validation), "eval")
    if isinstance(run.eval_dataset, dict):
        metrics = evaluate(run)
        say("Evaluated", format_scores(run, metrics))
        save_metrics(run, "eval", metrics | {"epoch": run.state.epoch})
    _final_evaluation(run, inputs, labelled, "test")
    for name in data.test:
        if name not in labelled:
            _write_predictions(run, inputs, name)
    if run.config.lora_merge:
        with _limit_of_run(run):
            save_model(run, Path(run.config.output_dir) / MERGED, merge=True)
    # A launcher that sees one process fail ends the others, and one that has left may fail at its exit.
    group = new_cpu_group(run.accelerator)
    with main_process_first(run.accelerator, group, "samples, the model card and the report"):
        if run.is_main:
            _write_up(run, inputs)
    destroy_group(group)


@contextmanager
def _limit_of_run(run: Run) -> Iterator[None]:
    """Have the tokenizer say to how many tokens the run has cut its texts, in a folder without a manifest that does."""
    tokenizer, wanted = run.processing_class, run.config.max_seq_length
    limit = getattr(tokenizer, "model_max_length", None)
    if tokenizer is None or limit is None or wanted is None:
        yield
        return
    tokenizer.model_max_length = wanted
    try:
        yield
    finally:
        tokenizer.model_max_length = limit


def _write_up(run: Run, inputs: Inputs) -> None:
    """What the main process alone does at the end."""
    words = _words_alone(inputs)
    _predict_samples(run, inputs)
    save_facts(run, inputs, words)
    write_card(run)
    record_complete(run)
    for line in advice_lines(run.config.output_dir):
        write(line)
    report_at_the_end(run.config, run.board)
    say("Results", f"{run.config.output_dir}: the model, all_results.json, trainer_state.json")
    print_next_steps(run.config, len(inputs.data.text_columns) == 2, run.unwrapped_model)


def _words_alone(inputs: Inputs) -> dict[str, Any]:
    """Say how far the words alone get; that they could not be tried is no reason to fail."""
    try:
        words = score_bag_of_words(inputs)
    except Exception as error:
        words = {"left_out": f"{type(error).__name__}: {summarize(error)}"}
    told = describe(words, inputs.data.labels, len(inputs.data.train))
    if told:
        say("Words", told)
    return words


def announce_finished(config: TrainConfig) -> None:
    """Say that output_dir holds this run, complete; make its report if it is asked for and not there."""
    if not is_main_process():
        return
    say("Finished", f"already: {config.output_dir} holds this run, complete")
    if config.report and not (Path(config.output_dir) / REPORT).exists():
        report_at_the_end(config)
    facts: dict[str, Any] = {}
    with suppress(UserError):
        facts = read_finished_run(config.output_dir).facts
    print_next_steps(config, pairs=len(facts.get("data", {}).get("text_columns", [])) == 2)


def remove_stale_results(run: Run) -> None:
    """Remove the results of an earlier model in this folder: on sets that no longer exist they would pass for this
    one's."""
    root = Path(run.config.output_dir)
    for name in (*PREDICTIONS, "eval_results.json", "test_results.json", DECISION):
        (root / name).unlink(missing_ok=True)
    path = root / ALL_RESULTS
    with suppress(UserError):  # broken: `save_metrics` says so
        results = read_json(path) if path.is_file() else {}
        current = {name: value for name, value in results.items() if not name.startswith(("eval_", "test_"))}
        if current != results:
            save_text(path, results_text(current))


def _final_evaluation(run: Run, inputs: Inputs, names: list[str], prefix: str) -> None:
    """Evaluate the model as it is now (the best one, if asked for), print and save, with its prediction of each row. A
    second set (MNLI's mismatched one) gets the suffix `_mm`, as in run_glue."""
    data, results = inputs.data, dict[str, float]()
    for suffix, name in zip(("", "_mm"), names, strict=False):
        rows = inputs.rows_to_predict(name)
        if keeps_predictions(rows, data.labels):
            predicted = predict(run, rows, metric_key_prefix=prefix)
            metrics = predicted.metrics
            if run.is_main:
                save_predictions(run, data, name, predicted)
        else:
            metrics = evaluate(run, rows, metric_key_prefix=prefix)
            size = f"{len(rows)} rows x {data.labels.count} classes"
            say("Skipped", f"predictions of {name} are not written: {size} are too many")
        say(name.capitalize(), format_scores(run, metrics, prefix))
        results |= {f"{key}{suffix}": value for key, value in metrics.items()}
    if results:
        save_metrics(run, prefix, results | {"epoch": run.state.epoch})


def _write_predictions(run: Run, inputs: Inputs, name: str) -> None:
    rows = inputs.rows_to_predict(name)
    logits = predict(run, rows).predictions
    if run.is_main:
        path = save_unlabelled(run, inputs.data, name, logits)
        say(name.capitalize(), f"{len(rows)} rows without labels, predicted into {path}")


def _predict_samples(run: Run, inputs: Inputs) -> None:
    predictions = classify(run.unwrapped_model, run.processing_class, inputs.samples, max_seq_length=inputs.max_length)
    for text, prediction in zip(inputs.samples, predictions, strict=True):
        sample = text if isinstance(text, str) else "  |  ".join(text)
        say("Predicted", f"{prediction.label} ({prediction.score:.3f}): {sample}")


def report_at_the_end(config: TrainConfig, board: str | None = None) -> None:
    """Make the report that `report` asks for, and add it to TensorBoard if the run wrote there. The run is complete
    without: a failure is said, and not raised.
    """
    if not config.report and board is None:
        return
    root = Path(config.output_dir)
    try:
        # Only now: it draws with matplotlib and computes with scipy, which no other run has to import.
        from ftloop.report.report import make_report, write_report

        outcome = read_finished_run(root)
        made = make_report(outcome)
        if config.report:
            say("Report", write_report(made, root / REPORT))
        if board is not None:
            from ftloop.report.tensorboard import write_final_results

            write_final_results(board, outcome, made)
    except Exception as error:
        again = ftloop_command("report", root, "--traceback")
        say("Report", f"could not be made ({type(error).__name__}: {summarize(error)}); try {again}")
