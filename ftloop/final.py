"""What the final model is for: evaluated, its predictions written, and what is known of the run left for reports."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftloop.advice import told
from ftloop.announce import announce_next, format_scores
from ftloop.card import write_card
from ftloop.checkpoint import PREDICTIONS, record_complete
from ftloop.config import TrainConfig
from ftloop.durable import read_json, retried, write_text
from ftloop.errors import UserError, first_line
from ftloop.evaluation import evaluate, predict
from ftloop.inference import classify, decide, probabilities_of
from ftloop.logs import ALL_RESULTS, results_text, save_metrics
from ftloop.outcome import (
    REPORT,
    keeps_predictions,
    kind_of_labels,
    read_outcome,
    run_facts,
    save_facts,
    save_predictions,
)
from ftloop.reproduce import module_here
from ftloop.run import Run

if TYPE_CHECKING:
    from datasets import Dataset

    from ftloop.data import TextData


def use(
    run: Run, data: TextData, tokenized: dict[str, tuple[Dataset, int]], samples: list[Any], max_length: int
) -> None:
    """Evaluate it on the labelled sets and predict the others; then the run is complete, and says what comes next."""
    if run.is_main:
        _forget_other_results(run)
    encoded = {name: rows for name, (rows, _) in tokenized.items()}
    _final_evaluation(run, data, {name: encoded[name] for name in data.validation}, "eval")
    labelled = [name for name in data.test if data.has_labels(data.test[name])]
    _final_evaluation(run, data, {name: encoded[name] for name in labelled}, "test")
    for name in data.test:
        if not data.has_labels(data.test[name]):
            _write_predictions(run, encoded[name], name, data)
    _predict_samples(run, samples, max_length)
    if run.is_main:
        truncated = {name: cut for name, (_, cut) in tokenized.items()}
        save_facts(run, run_facts(run, data, encoded, truncated, max_length))
        write_card(run)
    record_complete(run)
    if run.is_main:
        for line in told(run.config.output_dir):
            print(line, flush=True)
        report_at_the_end(run.config, run.board)
    run.say(f"Results   {run.config.output_dir}: the model, all_results.json, trainer_state.json")
    if run.is_main:
        announce_next(run.config, pairs=len(data.text_columns) == 2)


def _forget_other_results(run: Run) -> None:
    """What an earlier model in this folder scored, on sets that there may be no more, would pass for this one's."""
    root = Path(run.config.output_dir)
    for name in (*PREDICTIONS, "eval_results.json", "test_results.json"):
        (root / name).unlink(missing_ok=True)
    together = root / ALL_RESULTS
    with suppress(UserError):  # broken: `save_metrics` says so
        known = read_json(together) if together.is_file() else {}
        kept = {name: value for name, value in known.items() if not name.startswith(("eval_", "test_"))}
        if kept != known:
            retried(together.name, lambda: write_text(together, results_text(kept)), run.say)


def _final_evaluation(run: Run, data: TextData, sets: dict[str, Dataset], prefix: str) -> None:
    """Evaluate the model as it is now (the best one, if asked for), print and save, with what it says of each row. A
    second set (MNLI's mismatched one) gets the suffix `_mm`, as in run_glue."""
    results: dict[str, float] = {}
    for suffix, (name, rows) in zip(("", "_mm"), sets.items(), strict=False):
        if keeps_predictions(rows, data.labels):
            predicted = predict(run, rows, metric_key_prefix=prefix)
            metrics = predicted.metrics
            if run.is_main:
                texts = (data.validation | data.test)[name].select_columns(list(data.text_columns))
                save_predictions(run, name, texts, data.labels, predicted)
        else:
            metrics = evaluate(run, rows, metric_key_prefix=prefix)
            run.say(f"Kept      no predictions of {name}: {len(rows)} rows x {data.labels.count} classes are too many")
        if run.is_main:
            loss = metrics[f"{prefix}_loss"]
            print(f"{name.capitalize():<9} loss={loss:.4f}, {format_scores(metrics, prefix)}", flush=True)
        results |= {f"{key}{suffix}": value for key, value in metrics.items()}
    if results:
        save_metrics(run, prefix, results | {"epoch": run.state.epoch})


def _write_predictions(run: Run, rows: Dataset, name: str, data: TextData) -> None:
    """A test set without labels: one line a row in `<name>_predictions.tsv`, in the rows' order. Between several labels
    of a row, and their probabilities, stands `label_delimiter`, or a bar."""
    logits = predict(run, rows).predictions
    if not run.is_main:
        return
    kind, delimiter = kind_of_labels(data.labels), run.config.label_delimiter or "|"
    labels, scores = decide(kind, data.labels.names, probabilities_of(kind, logits))
    if scores is None:
        lines = [[i, f"{value:.6g}"] for i, value in enumerate(labels)]
    elif kind == "multi_label":
        lines = [
            [i, delimiter.join(there), delimiter.join(f"{score:.6f}" for score in each)]
            for i, (there, each) in enumerate(zip(labels, scores, strict=True))
        ]
    else:
        lines = [[i, label, f"{score:.6f}"] for i, (label, score) in enumerate(zip(labels, scores, strict=True))]
    path = Path(run.config.output_dir) / f"{name}_predictions.tsv"
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")  # quotes a name with a tab or a line end in it
    table.writerows([["index", "prediction"] if scores is None else ["index", "prediction", "score"], *lines])
    retried(path.name, lambda: write_text(path, text.getvalue()), run.say)
    print(f"{name.capitalize():<9} {len(lines)} rows without labels, predicted into {path}", flush=True)


def _predict_samples(run: Run, samples: list[Any], max_length: int) -> None:
    if not run.is_main:
        return
    found = classify(run.unwrapped_model, run.processing_class, samples, max_seq_length=max_length)
    for text, prediction in zip(samples, found, strict=True):
        shown = text if isinstance(text, str) else "  |  ".join(text)
        print(f"Predicted {prediction.label} ({prediction.score:.3f}): {shown}", flush=True)


def report_at_the_end(config: TrainConfig, board: str | None = None) -> None:
    """With `report`, and for TensorBoard where the run wrote for it, what is worth seeing of the run. It is complete
    without, so that a failure here is told and no more.
    """
    if not config.report and board is None:
        return
    root = Path(config.output_dir)
    try:
        from ftloop.report import make_report, write_report

        outcome = read_outcome(root)
        made = make_report(outcome)
        if config.report:
            print(f"Report    {write_report(made, root / REPORT)}", flush=True)
        if board is not None:
            from ftloop.board import finish_board

            finish_board(board, outcome, made)
    except Exception as error:
        again = module_here("report", root, "--traceback")
        print(f"Report    could not be made ({type(error).__name__}: {first_line(error)}); try {again}", flush=True)
