"""End a run that was prepared in Python as the command ends one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any

import datasets
import numpy as np
from accelerate.utils import send_to_device
from transformers import PretrainedConfig

from ftloop.batching.padding import row_lengths
from ftloop.checkpoint.save import save_model
from ftloop.checkpoint.trainer_state import TRAINER_STATE
from ftloop.config.problem_type import ProblemType
from ftloop.data.columns import DEFAULT_PAIRS, find_text_columns
from ftloop.data.extra_columns import DatasetColumns
from ftloop.data.find_labels import with_positive
from ftloop.data.labels import Labels, label_ids
from ftloop.data.load import TextData
from ftloop.errors import UserError
from ftloop.evaluation import evaluate
from ftloop.inference.classifier import class_names, find_problem_type
from ftloop.inference.texts import make_pairs
from ftloop.job.console import format_scores
from ftloop.job.finish import evaluate_and_predict, remove_stale_results
from ftloop.job.inputs import Inputs, measure_padding
from ftloop.job.results import record_complete, record_trained, save_metrics, save_state
from ftloop.nonfinite import raise_if_nonfinite
from ftloop.run.check_inputs import forward_arguments
from ftloop.run.check_rows import LABELS
from ftloop.run.run import Run
from ftloop.system.console import say
from ftloop.system.text import join_some

NO_LIMIT = 100_000  # tokens; a tokenizer without a limit has a larger one
# What the model does not take of a tokenizer's output: no columns of somebody's data.
MADE_BY_TOKENIZERS = (
    "special_tokens_mask",
    "token_type_ids",
    "offset_mapping",
    "overflow_to_sample_mapping",
    "overflowing_tokens",
    "num_truncated_tokens",
    "length",
)


class _Unsaid(UserError):
    """Nothing says what the rows' texts or the model's classes are."""


def finish(run: Run, test_dataset: datasets.Dataset | None = None) -> None:
    """Leave in output_dir what the command leaves of a trained run: the model, results, the predictions of each row,
    the model card, and with `report` the report. Every process calls it.

    The evaluation set and `test_dataset`, which need not have labels, are evaluated with the model as it is now. The
    texts are those that the data sets hold beside the tokens, in the columns `text_column_names`, in one or two of text
    alone, or in those with the usual names; where they hold none, what the tokenizer makes of the tokens.
    Where nothing reads these, what is written of single texts is left out, which a line says.
    Raises: UserError where it is not clear which they are, or `test_dataset` has no rows; the model and the results of
    the training are saved by then. TrainingError, with nothing saved, where the training's numbers were not finite.
    """
    raise_if_nonfinite(run)
    _name_classes(run)
    files = save_model(run)
    trained: dict[str, Any] = next((entry for entry in reversed(run.state.log_history) if "train_runtime" in entry), {})
    if not trained and run.config.needs_metric:
        left = "the best checkpoint or early stopping, which the settings ask for, was left to the body of the loop"
        say("Warning", f"updates(run) only trains: {left}, where train(run) sees to it")
    save_metrics(run, "train", {name: value for name, value in trained.items() if name != "step"})
    save_state(run)
    record_trained(run, [*files, "train_results.json", TRAINER_STATE])
    try:
        inputs = _inputs(run, test_dataset)
    except _Unsaid as missing:
        say(
            "Left out",
            f"predictions of each row, model card and report: {missing.problems[0].removeprefix('finish: ')}",
        )
        _only_evaluate(run, test_dataset)
    else:
        evaluate_and_predict(run, inputs)


def _name_classes(run: Run) -> None:
    """Give a model whose classes have the names that transformers makes up those of the training set."""
    config = getattr(run.unwrapped_model, "config", None)
    features = getattr(run.train_dataset, "features", None) or {}
    names = next((getattr(features[name], "names", None) for name in LABELS if name in features), None) or []
    made_up = {id: f"LABEL_{id}" for id in range(len(names))}
    if isinstance(config, PretrainedConfig) and names and config.id2label == made_up:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: id for id, name in enumerate(names)}
        say("Labels", f"named as in the training set, LABEL_0 is {names[0]!r}: {join_some(names, 10)}")


def _only_evaluate(run: Run, test_dataset: Any) -> None:
    if run.is_main:
        remove_stale_results(run)
    for split, rows in {"eval": run.eval_dataset, "test": test_dataset}.items():
        if rows is not None:
            metrics = evaluate(run, rows, metric_key_prefix=split)
            say("Evaluated", f"{split}: {format_scores(run, metrics, split)}")
            save_metrics(run, split, metrics | {"epoch": run.state.epoch})
    record_complete(run)
    say("Results", f"{run.config.output_dir}: the model, all_results.json, trainer_state.json")


def _inputs(run: Run, test_dataset: Any) -> Inputs:
    """What the command would have read before it trained."""
    model: Any = run.unwrapped_model
    config, tokenizer = run.config, run.processing_class
    if hasattr(test_dataset, "__len__") and not len(test_dataset):
        raise UserError("test_dataset: has no rows; leave it out")
    if not isinstance(getattr(model, "config", None), PretrainedConfig):
        raise _Unsaid(f"finish: {type(model).__name__} has no config, a PretrainedConfig, that names its labels")
    kind = find_problem_type(model.config)
    names = () if kind == ProblemType.REGRESSION else tuple(class_names(model.config))
    numbers = {} if kind == ProblemType.MULTI_LABEL else {str(id): id for id in range(len(names))}  # as the rows have
    labels = Labels(names, numbers | {name: id for id, name in enumerate(names)}, kind)
    labels = with_positive(labels, config.positive_label)
    sets: dict[str, Any] = {"train": run.train_dataset}
    if run.eval_dataset is not None and not isinstance(run.eval_dataset, dict):
        sets["validation"] = run.eval_dataset
    if test_dataset is not None:
        run.eval_loaders.factory.check(test_dataset, "test_dataset")
        sets["test"] = test_dataset
    given = {name: rows for name, rows in sets.items() if not isinstance(rows, datasets.Dataset)}
    sets |= {name: _as_table(rows, run.eval_loaders.factory.collate) for name, rows in given.items()}
    columns = _text_columns(config.text_column_names, sets)
    texts = sets
    if not columns:
        columns, texts = _decoded(tokenizer, sets)
    read = {name: _as_read(rows, columns, labels, name) for name, rows in texts.items()}
    inputs = {*forward_arguments(model), *LABELS, *MADE_BY_TOKENIZERS}
    lengths = _lengths(sets["train"], run.train_loader.collate_fn)
    limit: int = config.max_seq_length or getattr(tokenizer, "model_max_length", None) or NO_LIMIT
    longest = limit if limit < NO_LIMIT else int(lengths.max())
    return Inputs(
        config=config,
        data=TextData(
            train=read["train"],
            validation={name: rows for name, rows in read.items() if name == "validation"},
            test={name: rows for name, rows in read.items() if name == "test"},
            text_columns=columns,
            label_column="label",
            labels=labels,
            metrics=None,
            extra={name: DatasetColumns(rows.with_format(None), columns, tuple(inputs)) for name, rows in sets.items()},
        ),
        tokenizer=tokenizer,
        model=model,
        new_weights=[],
        encoded=sets,
        given=given,
        truncated=dict.fromkeys(sets),
        max_length=longest,
        samples=make_pairs(config.sample_texts or [], pairs=len(columns) == 2),
        padding=measure_padding(config, model, tokenizer, lengths, longest, run.accelerator.num_processes),
    )


def _as_table(rows: Any, collate: Any) -> datasets.Dataset:
    """The rows of a data set of another class, such as the Dataset of PyTorch that tutorials write. Those whose values
    have no names are read as the collator names them."""

    def named(row: Any) -> dict[str, Any]:
        if isinstance(row, Mapping):
            return {name: np.asarray(value).tolist() for name, value in row.items()}
        return {name: np.asarray(value)[0].tolist() for name, value in collate([row]).items() if np.ndim(value)}

    read = (named(rows[row]) for row in range(len(rows)))
    return datasets.Dataset.from_list(list(read)).with_format("torch")


def _text_columns(wanted: list[str] | None, sets: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns that hold the texts; none where no column holds any.

    Raises: UserError where it is not clear which they are.
    """
    in_all = [name for name in sets["train"].column_names if all(name in rows.column_names for rows in sets.values())]
    texts = [
        name
        for name in in_all
        if getattr(sets["train"].features[name], "dtype", "") in ("string", "large_string")
        and not name.casefold().startswith("label")  # what a class is called stands beside its number
    ]
    if wanted is None and len(texts) > 2:
        with suppress(UserError):
            return find_text_columns(None, None, texts, "")
    found = texts if wanted is None else wanted
    if len(found) > 2 or not set(found) <= set(in_all):
        has = f"of the columns {join_some(in_all, 10)} those with text are {join_some(texts, 10) or 'none'}"
        raise UserError(f"finish: {has}; name one or two: TrainConfig(text_column_names=[...])")
    return tuple(found)


def _decoded(tokenizer: Any, sets: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return names for one column of texts, or two where the rows are pairs; and the sets with these, read from the
    tokens. Raises: UserError where nothing can read them.
    """
    if tokenizer is None or any("input_ids" not in rows.column_names for rows in sets.values()):
        way = "keep the texts beside the tokens, or give prepare the tokenizer as processing_class, which reads these"
        raise _Unsaid(f"finish: the columns {join_some(sets['train'].column_names, 10)} hold no texts; {way}")
    say("Texts", "the data sets hold none beside the tokens: as the tokenizer reads these, to where they were cut")
    tokens = {name: rows.with_format(None).select_columns("input_ids") for name, rows in sets.items()}
    texts = {name: [_parts(tokenizer, row["input_ids"]) for row in rows] for name, rows in tokens.items()}
    pairs = max(map(len, texts["train"]), default=0) == 2
    columns = DEFAULT_PAIRS[0] if pairs else ("text",)
    for name, rows in sets.items():
        rows = rows.remove_columns([column for column in columns if column in rows.column_names])  # of other types
        for place, column in enumerate(columns):
            taken = slice(place, place + 1) if pairs else slice(None)
            rows = rows.add_column(column, [" ".join(parts[taken]) for parts in texts[name]])
        sets = sets | {name: rows}
    return columns, sets


def _parts(tokenizer: Any, ids: list[int]) -> list[str]:
    """Return what stands between the tokens that end a text."""
    ends = {tokenizer.sep_token_id, tokenizer.eos_token_id}
    parts = (list(part) for is_end, part in groupby(ids, ends.__contains__) if not is_end)
    return [text for part in parts if (text := tokenizer.decode(part, skip_special_tokens=True).strip())]


def _lengths(rows: datasets.Dataset, collate: Any) -> np.ndarray:
    """Return the tokens of each row, which may be the collator's making."""
    if "input_ids" in rows.column_names:
        return row_lengths(rows, quiet=True)
    return np.array([send_to_device(collate([row]), "cpu")["input_ids"].shape[-1] for row in rows], np.int32)


def _as_read(rows: datasets.Dataset, columns: tuple[str, ...], labels: Labels, name: str) -> datasets.Dataset:
    """The texts, and the label by its name, as in the files that the command reads."""
    texts = rows.with_format(None).select_columns(list(columns))
    if not {"label", "labels"} & set(rows.column_names):
        return texts
    ids = label_ids(rows)
    if labels.regression:
        return texts.add_column("label", ids.tolist())
    if labels.multi_label:
        return texts.add_column("label", [[labels.names[i] for i in np.flatnonzero(row)] for row in ids])
    if (ids >= labels.count).any():
        highest = f"the {name} set has the label {ids.max()}"
        told = f"finish: {highest}, and the model's config names {labels.count} classes"
        if name == "train":
            raise _Unsaid(f"{told}: num_labels is not set")
        raise UserError(f"{told}; filter such rows out")
    outside = ids < 0
    if outside.any():
        raise UserError(f"finish: row {int(outside.argmax()) + 1} of the {name} set has no class; filter such rows out")
    return texts.add_column("label", np.asarray(labels.names, object)[ids].tolist())
