"""Inference with a fine-tuned model: of texts on the command line, or of files with any number of rows.

python -m ftloop.predict --model DIR TEXT [TEXT ...]
python -m ftloop.predict --model DIR --input FILE --output FILE
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ftloop.allocator import keep_freed_memory
from ftloop.chunks import FORMATS, Chunk, Row, Source, chunks, find_source, texts_of
from ftloop.config import plain_text
from ftloop.data import find_text_columns
from ftloop.errors import ExitCode, UserError, tell
from ftloop.inference import (
    Budget,
    Classifier,
    Encoded,
    Prediction,
    Text,
    Trained,
    class_names,
    decide,
    encode,
    kind_of,
    load_classifier,
    logits_of,
    pair_up,
    probabilities_of,
    trained_with,
)
from ftloop.rows import check_names
from ftloop.tables import Added, Table, Write, find_output, make_table, writing
from ftloop.words import counted, printable

MOST_LOGITS = 2**21
"""Of a chunk: with many classes it has fewer rows."""
BAD_ROWS_LISTED = 20


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    given = _parser().parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console that cannot show a text ends nothing
    try:
        if argv is None:
            keep_freed_memory()
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # or a half-written file would be left beside
        _check_flags(given)
        _predict_texts(given) if given.input is None else _predict_file(given)
    except KeyboardInterrupt:
        _say("Stopped", "before the end")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # whoever reads what we write has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
    except Exception as error:
        return tell(error, "--traceback" in words)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ftloop.predict",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts; with --pairs, two for each prediction")
    parser.add_argument("--model", required=True, metavar="DIR", help="the output_dir of a run")
    parser.add_argument("--input", metavar="FILE", help="rows: csv, tsv, json, jsonl, parquet; - is standard input")
    parser.add_argument("--output", default="-", metavar="FILE", help="csv, tsv, jsonl, parquet; by default stdout")
    parser.add_argument("--input_format", choices=FORMATS, help="by default by the name's ending; of stdin jsonl")
    parser.add_argument("--output_format", choices=FORMATS, help="by default by the name's ending; of stdout jsonl")
    parser.add_argument(
        "--text_column_names",
        nargs="+",
        metavar="NAME",
        help="one or two; by default the run's own, or the usual names",
    )
    parser.add_argument("--all_probabilities", action="store_true", help="of every class, not the predicted one alone")
    parser.add_argument("--strict", action="store_true", help="a row that cannot be predicted is an error")
    parser.add_argument("--pairs", action="store_true", help="the texts of the command line are pairs")
    parser.add_argument("--max_seq_length", type=int, help="in tokens; by default the run's own, or the model's limit")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    return parser


def _check_flags(given: argparse.Namespace) -> None:
    problems = []
    if (given.input is None) == (not given.texts):
        problems.append("what is to be predicted? Give texts, or a file of them with --input FILE")
    if given.input is None:
        of_files = ("input_format", "output_format", "text_column_names", "strict")
        idle = [f"--{name}" for name in of_files if getattr(given, name)] + ["--output"] * (given.output != "-")
        if idle and given.texts:
            problems.append(f"{', '.join(idle)}: only with --input")
    elif given.pairs:
        problems.append("--pairs: of a file the columns say it, two of them with --text_column_names")
    if len(given.text_column_names or ()) > 2:
        problems.append("text_column_names: one or two columns")
    if len(set(given.text_column_names or ())) < len(given.text_column_names or ()):
        problems.append("text_column_names: one column is named twice")
    for name in ("model", "input", "output"):
        try:
            plain_text(getattr(given, name) or "")
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise UserError(*problems)


def _load(given: argparse.Namespace, pair: bool) -> Classifier:
    from transformers.utils import logging

    from ftloop.data import check_room
    from ftloop.model import check_model

    logging.set_verbosity_error()  # what it would warn of is an error here
    classifier = load_classifier(given.model, max_seq_length=given.max_seq_length)
    check_room(classifier.tokenizer, classifier.tokenizer.model_max_length, pair)
    folder = check_model(given.model)
    columns = trained_with(folder).text_columns if folder is not None else ()
    if columns and len(columns) != 1 + pair:
        read, there = ("pairs of texts", "single texts") if len(columns) == 2 else ("single texts", "pairs")
        _say("Warning", f"the run in {given.model} learned from {read} ({', '.join(columns)}), and these are {there}")
    return classifier


def _predict_texts(given: argparse.Namespace) -> None:
    """Of the command line: to a person in words, else a line of JSON each."""
    for text in given.texts:
        try:
            plain_text(text)
        except ValueError as error:
            raise UserError(f"TEXT: {error}") from None
    texts = pair_up(given.texts, given.pairs)
    classifier = _load(given, given.pairs)
    kind = kind_of(classifier.model.config)
    for text, found in zip(texts, classifier(texts), strict=True):
        entry: dict[str, Any] = {"text": text, "label": found.label, "score": found.score}
        if kind == "regression":
            entry = {"text": text, "label": found.score}
        elif kind == "multi_label":
            scores = [found.probabilities[name] for name in found.labels]
            entry |= {"label": found.labels, "score": scores}
        if given.all_probabilities and found.probabilities:
            entry["probabilities"] = found.probabilities
        print(_in_words(text, kind, found, given) if sys.stdout.isatty() else json.dumps(entry, ensure_ascii=False))


def _in_words(text: Text, kind: str, found: Prediction, given: argparse.Namespace) -> str:
    several = (
        " ".join(f"{name} ({found.probabilities[name]:.3f})" for name in found.labels) if found.probabilities else ""
    )
    said = f"{found.score:.4g}" if kind == "regression" else several or "none"
    if given.all_probabilities and found.probabilities:
        said += " of " + ", ".join(f"{name} {value:.3f}" for name, value in found.probabilities.items())
    return f"Predicted {said}: {text if isinstance(text, str) else '  |  '.join(text)}"


def _predict_file(given: argparse.Namespace) -> None:
    from ftloop.model import check_model

    folder = check_model(given.model)
    if folder is None:
        raise UserError(f"no model folder at {given.model}")
    trained = trained_with(folder)
    with find_source(given.input, given.input_format, read_twice=given.strict) as source:
        output = find_output(given.output, given.output_format, source)
        rows = chunks(source)
        first = next(rows)
        columns = _text_columns(given, trained, source, first)
        classifier = _load(given, pair=len(columns) == 2)
        config = classifier.model.config
        kind, names = kind_of(config), class_names(config)
        job = Job(
            source,
            columns,
            make_table(
                output.format,
                first,
                classes=names if given.all_probabilities and kind != "regression" else None,
                with_score=kind != "regression",
                several_labels=kind == "multi_label",
                label_delimiter=trained.label_delimiter or "|",
            ),
            given.strict,
        )
        if given.strict:
            _check_every_row(job)
        _say("Columns", f"{' + '.join(columns)} -> {', '.join(job.table.names.shown)}")
        with writing(output, job.table) as write:
            started = time.monotonic()
            _predict_chunks(job, classifier, chain([first], rows), write)
        _say("Predicted", _summary(job, classifier, output.name, time.monotonic() - started))


@dataclass
class Job:
    """A file to predict, and what has been seen of its rows so far."""

    source: Source
    text_columns: tuple[str, ...]
    table: Table
    strict: bool
    rows: int = 0
    bad: int = 0
    truncated: int = 0

    def place(self, row: Row) -> str:
        return f"{self.source.name}, {self.source.unit} {row.number}: {row.fault}"


def _say(topic: str, text: str) -> None:
    print(f"{topic:<9} {printable(text)}", file=sys.stderr, flush=True)


def _text_columns(given: argparse.Namespace, trained: Trained, source: Source, first: Chunk) -> tuple[str, ...]:
    """As named, else those of the run, else the usual ones."""
    if not first.columns and not first.rows and source.format in ("json", "jsonl"):  # no row, and nothing to predict
        return tuple(given.text_column_names or trained.text_column_names or ("text",))
    if not first.columns:
        row = first.rows[0]
        raise UserError(f"{source.name}: no row can be read; the first, {source.unit} {row.number}: {row.fault}")
    check_names(first.columns, source.name)
    named = given.text_column_names or trained.text_column_names
    if not given.text_column_names and named and not set(named) <= set(first.columns):
        there = f"{source.name} has {', '.join(first.columns)}"
        raise UserError(f"the run in {given.model} read {', '.join(named)}: {there}; name with --text_column_names")
    return find_text_columns(named, trained.task_name, first.columns, source.name)


def _check_every_row(job: Job) -> None:
    """Before anything is predicted. Raises: UserError that names the rows with a fault."""
    bad, listed = 0, []
    for chunk in chunks(job.source):
        for row, texts in _texts(job, chunk):
            if texts is None:
                bad += 1
                listed += [job.place(row)] * (bad <= BAD_ROWS_LISTED)
    if bad:
        more = [f"{job.source.name}: {bad - len(listed)} more rows"] if bad > len(listed) else []
        raise UserError(*listed, *more)


def _texts(job: Job, chunk: Chunk) -> Iterator[tuple[Row, list[str] | None]]:
    """Rows with their texts; None for one with a fault."""
    job.table.note_faults(chunk.rows)
    for row in chunk.rows:
        texts = texts_of(row, job.text_columns)
        yield row, texts if row.fault is None else None


def _predict_chunks(job: Job, classifier: Classifier, all_chunks: Iterable[Chunk], write: Write) -> None:
    """Raises: UserError where not one row could be predicted."""
    from tqdm import tqdm

    budget = Budget.of(classifier.model)
    most_rows = max(1, MOST_LOGITS // classifier.model.config.num_labels)
    with tqdm(desc="Predicting", unit=" rows", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        for chunk in all_chunks:
            bar.total = chunk.rows_in_all
            for part in chunk.in_parts(most_rows):
                write(part, _predict_chunk(job, classifier, part, budget, bar))
    if job.rows and job.bad == job.rows:
        raise UserError(f"{job.source.name}: not one of its {job.rows} rows could be predicted")


def _summary(job: Job, classifier: Classifier, where: str, seconds: float) -> str:
    count = f"{job.rows - job.bad} of {counted(job.rows, 'row')}" if job.bad else counted(job.rows, "row")
    told = [f"{count} into {where} in {seconds:.1f} s ({job.rows / seconds:.0f} rows/s)"]
    if job.bad:
        told.append(f"the {job.bad} others have their reason in {job.table.names.error}")
    if job.truncated:
        told.append(f"{job.truncated} cut to {classifier.tokenizer.model_max_length} tokens")
    return "; ".join(told)


def _predict_chunk(job: Job, classifier: Classifier, chunk: Chunk, budget: Budget, bar: Any) -> Added:
    model, tokenizer = classifier
    rows, texts = [], []
    for row, of_row in _texts(job, chunk):
        if of_row is not None:
            rows.append(row)
            texts.append(of_row[0] if len(of_row) == 1 else of_row)
    encoded = encode(tokenizer, texts, None) if texts else Encoded({}, np.zeros(0, int), 0)
    for row, length in zip(rows, encoded.lengths, strict=True):
        if not length:
            row.fault = "no tokens in its text"
    logits = np.empty((len(rows), model.config.num_labels), np.float32)
    for where, values in logits_of(model, tokenizer, encoded, budget) if texts else ():
        logits[where] = values
        bar.update(len(where))
    _tell_bad_rows(job, chunk.rows, bar)
    job.rows += len(chunk.rows)
    job.truncated += encoded.truncated
    kind = kind_of(model.config)
    found = probabilities_of(kind, logits[encoded.lengths > 0])
    labels, scores = decide(kind, class_names(model.config), found)
    return _at_good_rows(Added(labels, scores, found.tolist() if job.table.names.classes else None), chunk.rows)


def _tell_bad_rows(job: Job, rows: Sequence[Row], bar: Any) -> None:
    for row in rows:
        if row.fault is None:
            continue
        if job.strict:
            raise UserError(job.place(row))
        job.bad += 1
        if job.bad <= BAD_ROWS_LISTED:
            bar.write(f"Bad row   {job.place(row)}", file=sys.stderr)
        elif job.bad == BAD_ROWS_LISTED + 1:
            bar.write("Bad row   and more, which are counted only", file=sys.stderr)
    bar.update(sum(row.fault is not None for row in rows))


def _at_good_rows(found: Added, rows: Sequence[Row]) -> Added:
    """The same with None where a row has a fault."""

    def spread(values: Sequence[Any]) -> list[Any]:
        left = iter(values)
        return [next(left) if row.fault is None else None for row in rows]

    scores, probabilities = (None if each is None else spread(each) for each in (found.scores, found.probabilities))
    return Added(spread(found.labels), scores, probabilities)


if __name__ == "__main__":
    sys.exit(main())
