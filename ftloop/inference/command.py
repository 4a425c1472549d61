"""Predict what the command line names: a few texts, or a file with any number of rows."""

from __future__ import annotations

import argparse
import codecs
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers.utils import logging

from ftloop.config.problem_type import ProblemType
from ftloop.data.columns import find_text_columns
from ftloop.data.csv_rows import check_names
from ftloop.data.decode import label_names, label_scores
from ftloop.data.dialect import mistaken_names
from ftloop.data.header_rows import head_of, marked_headers
from ftloop.data.readers import read_chunks
from ftloop.data.recognize import DELIMITERS
from ftloop.data.rows import Chunk, Row, value_at
from ftloop.data.sources import TEXTS, Source, make_reading
from ftloop.data.tokenization import check_max_length
from ftloop.data.values import as_text, way_to_text
from ftloop.errors import UserError
from ftloop.inference.classifier import (
    BatchBudget,
    Classifier,
    Prediction,
    RunSettings,
    class_names,
    compute_logits,
    encode,
    find_problem_type,
    load_classifier,
    read_run_settings,
)
from ftloop.inference.inputs import check_types, find_inputs
from ftloop.inference.scores import Scorer
from ftloop.inference.texts import Text, make_pairs
from ftloop.inference.writers import Added, Table, Write, find_output, make_table, writing
from ftloop.models.folder import naming
from ftloop.models.load import check_model
from ftloop.system.console import say
from ftloop.system.memory import has_gpu, keep_freed_memory
from ftloop.system.shell import quote
from ftloop.system.text import join_some, pluralize

MAX_LOGITS = 2**21
"""Logits of a chunk: with many classes it has fewer rows."""
MAX_FAULTS_SHOWN = 20
MAX_ROWS_SHOWN = 10
"""Rows that are named with a fault which they have all."""


def predict(args: argparse.Namespace, is_own_process: bool) -> None:
    """Raises: UserError for whatever the user can mend."""
    if is_own_process and not has_gpu():
        keep_freed_memory()
    with naming("model"):
        folder = check_model(args.model, adapters=True)
        if folder is None:
            raise UserError(f"model: no model folder at {args.model}")
        if args.input is None:
            _predict_texts(args, folder)
        else:
            _predict_file(args, folder)


def _load(args: argparse.Namespace, folder: Path, pair: bool) -> Classifier:
    logging.set_verbosity_error()  # what it would warn of is an error here
    classifier = load_classifier(args.model, max_seq_length=args.max_seq_length)
    check_max_length(classifier.tokenizer, classifier.tokenizer.model_max_length, pair)
    columns = read_run_settings(folder).text_columns
    if columns and len(columns) != 1 + pair:
        learned, given = ("pairs of texts", "single texts") if len(columns) == 2 else ("single texts", "pairs")
        learned = f"{learned} ({', '.join(columns)})"
        way = "without --pairs each is one of its own" if pair else "--pairs takes two and two"
        way = "--text_column_names names one or two columns" if args.input else way
        say("Warning", f"the run in {args.model} learned from {learned}, and these are {given}: {way}", sys.stderr)
        classifier.is_told = True
    return classifier


# Texts of the command line


def _predict_texts(args: argparse.Namespace, folder: Path) -> None:
    """Print predictions: to a terminal in words, else as a line of JSON each."""
    texts = make_pairs(args.texts, args.pairs)
    classifier = _load(args, folder, args.pairs)
    problem_type = find_problem_type(classifier.model.config)
    describe = _in_words if sys.stdout.isatty() else _as_json
    for text, prediction in zip(texts, classifier(texts), strict=True):
        print(describe(text, prediction, problem_type, args.all_probabilities))


def _as_json(text: Text, prediction: Prediction, problem_type: ProblemType, all_probabilities: bool) -> str:
    entry: dict[str, Any] = {"text": text, "label": prediction.label, "score": prediction.score}
    if problem_type == ProblemType.REGRESSION:
        entry = {"text": text, "label": prediction.score}
    elif problem_type == ProblemType.MULTI_LABEL:
        scores = [prediction.probabilities[name] for name in prediction.labels]
        entry |= {"label": prediction.labels, "score": scores}
    if all_probabilities and prediction.probabilities:
        entry["probabilities"] = prediction.probabilities
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    # The console of Windows, led into a file, is of an encoding that has not every character.
    return json.dumps(entry, ensure_ascii=codecs.lookup(encoding).name != "utf-8")


def _in_words(text: Text, prediction: Prediction, problem_type: ProblemType, all_probabilities: bool) -> str:
    labels = [
        f"{name} ({prediction.probabilities[name]:.3f})" for name in prediction.labels if prediction.probabilities
    ]
    words = f"{prediction.score:.4g}" if problem_type == ProblemType.REGRESSION else " ".join(labels) or "none"
    if all_probabilities and prediction.probabilities:
        words += " of " + ", ".join(f"{name} {value:.3f}" for name, value in prediction.probabilities.items())
    return f"Predicted {words}: {text if isinstance(text, str) else '  |  '.join(text)}"


# Rows of a file


@dataclass
class Job:
    """Files to predict, and what has been counted so far."""

    sources: list[Source]
    text_columns: tuple[str, ...]
    table: Table
    strict: bool
    rows: int = 0
    bad: int = 0
    truncated: int = 0
    special: int = 0
    scorer: Scorer | None = None
    """Where the rows have labels to hold the predictions against."""
    faults: set[tuple[str, str]] = field(default_factory=set)
    """Those told, with the names of their files."""

    @property
    def name(self) -> str:
        return self.sources[0].name if len(self.sources) == 1 else f"the {len(self.sources)} files"

    def place(self, source: Source, row: Row) -> str:
        """Name a row within its file, and the file where there are several."""
        return f"{source.name}, {source.unit} {row.number}" if len(self.sources) > 1 else f"{source.unit} {row.number}"

    def tell_faults(self, source: Source, rows: Sequence[Row]) -> list[str]:
        """Return what to say of bad rows: each fault once, with the first rows that have it."""
        left = MAX_FAULTS_SHOWN - len(self.faults)
        if left < 0:
            return []
        found: dict[str, list[str]] = {}
        for row in rows:
            if row.error is not None and (source.name, row.error) not in self.faults:
                found.setdefault(row.error, []).append(str(row.number))
        self.faults |= {(source.name, fault) for fault in islice(found, left + 1)}
        units = {fault: source.unit if len(numbers) == 1 else f"{source.unit}s" for fault, numbers in found.items()}
        told = [
            f"{source.name}, {units[fault]} {join_some(numbers, MAX_ROWS_SHOWN)}: {fault}"
            for fault, numbers in islice(found.items(), left)
        ]
        return [*told, "and others, which are only counted"] if len(found) > left else told


def _read_chunks(sources: Sequence[Source]) -> Iterator[tuple[Source, Chunk]]:
    for source in sources:
        for chunk in read_chunks(source):
            yield source, chunk


def _predict_file(args: argparse.Namespace, folder: Path) -> None:
    settings = read_run_settings(folder)
    reading = make_reading(args.encoding, args.delimiter, args.column_names)
    with find_inputs(args.input, args.input_format, args.strict or bool(args.label_column_name), reading) as sources:
        output = find_output(args.output, args.output_format, sources)
        if output.format == "parquet":
            check_types(sources)
        chunks = _read_chunks(sources)
        source, first = next(chunks)
        columns = _text_columns(args, settings, source, first)
        classifier = _load(args, folder, pair=len(columns) == 2)
        config = classifier.model.config
        problem_type = find_problem_type(config)
        classes = class_names(config) if args.all_probabilities and problem_type != ProblemType.REGRESSION else []
        table = make_table(output.format, first, problem_type, classes, settings.label_delimiter or "|")
        job = Job(sources, columns, table, args.strict)
        if args.label_column_name:
            lacking = [name for name in args.label_column_name if name not in {*first.columns, *first.fields}]
            if lacking:
                has = ", ".join(first.columns)
                raise UserError(f"label_column_name: {source.name} has no column {', '.join(lacking)}, only {has}")
            job.scorer = Scorer.of(config, settings, args.label_column_name)
        if args.strict or job.scorer is not None:
            _check_every_row(job)
        added = [name for what, name in table.added.items() if what != "error"]
        say("Columns", f"{' + '.join(columns)} -> {', '.join(added)}", sys.stderr)
        if (headers := marked_headers(source, head_of(first.rows, columns))) is not None:
            say("Warning", headers, sys.stderr)
        if as_text := table.become_text(first.rows):
            told = f"lists and mappings as JSON: {join_some(as_text, 5)}; jsonl keeps values as they are"
            say("Columns", f"written to parquet as text, {told}", sys.stderr)
        with writing(output, table) as write:
            started = time.perf_counter()
            _predict_chunks(job, classifier, chain([(source, first)], chunks), write)
        say("Predicted", _summary(job, classifier, output.name, time.perf_counter() - started), sys.stderr)
        if job.scorer is not None:
            say("Scores", job.scorer.told(), sys.stderr if output.path is None else sys.stdout)


def _text_columns(args: argparse.Namespace, settings: RunSettings, source: Source, first: Chunk) -> tuple[str, ...]:
    """Return the columns named by the user, else those of the run, else the usual ones."""
    named = args.text_column_names or settings.text_column_names
    learned = settings.text_columns if {*settings.text_columns} <= {*first.columns, *first.fields} else ()
    wanted = named or learned
    if not first.columns and not first.rows and source.format in ("json", "jsonl"):  # no row, and nothing to predict
        return tuple(named or ("text",))
    if source.format == TEXTS and not args.text_column_names:
        return first.columns
    if not first.columns:
        number, told = first.rows[0].number, str(first.rows[0].error)
        bad, is_plain = source.error(number, told), source.format == "jsonl" and told.startswith("not JSON")
        way = f"; for a text a line --input_format {TEXTS}" if is_plain else ""
        raise UserError(f"no row can be read; the first: {bad}{way}")
    check_names(first.columns, source.name)
    columns = [*first.columns, *first.fields]
    if not args.text_column_names and wanted and not set(wanted) <= set(columns):
        listing = f"{source.name} has {', '.join(columns)}"
        told = f"the run in {args.model} read {', '.join(wanted)}: {listing}; name with --text_column_names"
        raise UserError(f"{mistaken_names(source) or told}{_texts_way(first)}")
    try:
        return find_text_columns(wanted, settings.task_name, columns, source.name)
    except UserError as error:
        unsplit = [name for name in DELIMITERS if len(first.columns) == 1 and name in first.columns[0]]
        way = f" (or what separates its columns, with --delimiter {quote(unsplit[0])})" if unsplit else ""
        raise UserError(f"{mistaken_names(source) or f'{error}{way}'}{_texts_way(first)}") from None


def _texts_way(first: Chunk) -> str:
    return f"; for a text a line --input_format {TEXTS}" if first.header is not None and len(first.header) == 1 else ""


def _check_every_row(job: Job) -> None:
    """Read all labels, and with `strict` all rows, before anything is predicted. Raises: UserError that names the bad
    ones.
    """
    bad = 0
    told: list[str] = []
    for source, chunk in _read_chunks(job.sources):
        rows = []
        for row, _ in _rows_and_texts(job, chunk):
            if row.error is None and job.scorer is not None:
                try:
                    job.scorer.read(source, row)
                except UserError as error:
                    rows.append(replace(row, error=str(error)))
            elif row.error is not None and job.strict:
                rows.append(row)
        bad += len(rows)
        told += job.tell_faults(source, rows)
    if bad:
        raise UserError(*told, *([f"{job.name}: {bad} bad rows in all"] if bad > len(told) else []))


def _rows_and_texts(job: Job, chunk: Chunk) -> Iterator[tuple[Row, list[str]]]:
    """Yield rows with their texts, having noted what is wrong with them."""
    job.table.flag_bad_rows(chunk.rows)
    for row in chunk.rows:
        texts = []
        for name in job.text_columns:
            value = value_at(row.values, name)
            try:
                text = as_text(value, f"column {name}")
            except UserError as error:
                row.error = row.error or f"{error}{way_to_text(value, name)}"
                continue
            if text is None:
                row.error = row.error or f"column {name} has no value"
            else:
                texts.append(text)
        yield row, texts


def _predict_chunks(job: Job, classifier: Classifier, chunks: Iterable[tuple[Source, Chunk]], write: Write) -> None:
    """Raises: UserError where not one row could be predicted."""
    budget = BatchBudget.of(classifier.model)
    max_rows = max(1, MAX_LOGITS // classifier.model.config.num_labels)
    with tqdm(desc="Predicting", unit=" rows", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        for source, chunk in chunks:
            bar.total = chunk.total_rows if len(job.sources) == 1 else None
            for part in chunk.split(max_rows):
                write(part, _predict_chunk(job, classifier, source, part, budget, bar))
    if job.rows and job.bad == job.rows:
        raise UserError(f"{job.name}: not one of its {job.rows} rows could be predicted")


def _predict_chunk(
    job: Job, classifier: Classifier, source: Source, chunk: Chunk, budget: BatchBudget, bar: Any
) -> Added:
    model, tokenizer = classifier
    numbers, texts = [], []
    for number, (row, of_row) in enumerate(_rows_and_texts(job, chunk)):
        if row.error is None:
            numbers.append(number)
            texts.append(of_row[0] if len(of_row) == 1 else of_row)
    true = [job.scorer.read(source, chunk.rows[number]) for number in numbers] if job.scorer else []
    logits = np.zeros((len(chunk.rows), model.config.num_labels), np.float32)
    if texts:
        encoded = encode(tokenizer, texts, None)
        for empty in np.flatnonzero(encoded.lengths == 0):
            chunk.rows[numbers[empty]].error = "no tokens in its text"
        for indices, values in compute_logits(model, tokenizer, encoded, budget):
            logits[np.take(numbers, indices)] = values
            bar.update(len(indices))
        job.truncated += encoded.truncated
        job.special += encoded.special
    if job.scorer is not None:
        kept = [place for place, number in enumerate(numbers) if chunk.rows[number].error is None]
        job.scorer.add([true[place] for place in kept], logits[[numbers[place] for place in kept]], classifier.decision)
    _report_bad_rows(job, source, chunk.rows, bar)
    job.rows += len(chunk.rows)
    errors = [row.error and f"{job.place(source, row)}: {row.error}" for row in chunk.rows]
    return _added_columns(job.table, classifier, errors, logits)


def _added_columns(table: Table, classifier: Classifier, errors: Sequence[str | None], logits: np.ndarray) -> Added:
    config, decision = classifier.model.config, classifier.decision
    problem_type, names = find_problem_type(config), class_names(config)
    shares, labels = decision.probabilities(problem_type, logits), decision.labels(problem_type, logits)
    columns: dict[str, Any] = {"label": label_names(problem_type, names, labels)}
    columns["score"] = label_scores(problem_type, labels, shares)
    for index, name in enumerate(names):
        if f"probability_{name}" in table.added:
            columns[f"probability_{name}"] = shares[:, index].tolist()
    if "probabilities" in table.added:
        columns["probabilities"] = [dict(zip(names, row, strict=True)) for row in shares.tolist()]
    columns["error"] = errors
    return {
        name: [
            value if error is None or what == "error" else None
            for error, value in zip(errors, columns[what], strict=True)
        ]
        for what, name in table.added.items()
    }


def _report_bad_rows(job: Job, source: Source, rows: Sequence[Row], bar: Any) -> None:
    """Print what is wrong with rows, up to so many faults. Raises: UserError with `strict`."""
    bad = [row for row in rows if row.error is not None]
    if bad and job.strict:
        raise source.error(bad[0].number, bad[0].error)
    bar.update(len(bad))
    job.bad += len(bad)
    for fault in job.tell_faults(source, bad):
        say("Bad row", fault, sys.stderr)


def _summary(job: Job, classifier: Classifier, output_name: str, seconds: float) -> str:
    count = f"{job.rows - job.bad} of {pluralize(job.rows, 'row')}" if job.bad else pluralize(job.rows, "row")
    rate = f" ({job.rows / seconds:.0f} rows/s)" if seconds else ""
    parts = [f"{count} into {output_name} in {seconds:.1f} s{rate}"]
    if job.bad:
        parts.append(f"the reason for the other {job.bad} is in {job.table.added['error']}")
    if job.truncated:
        parts.append(f"{job.truncated} truncated to {classifier.tokenizer.model_max_length} tokens")
    if job.special:
        parts.append(f"{job.special} with a special token in a text, which is read as text")
    return "; ".join(parts)
