"""End a run that was prepared in Python as the command ends one."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np

from ftloop.batching.padding import row_lengths
from ftloop.checkpoint.save import save_model
from ftloop.checkpoint.trainer_state import TRAINER_STATE
from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels, label_ids
from ftloop.data.load import TextData
from ftloop.errors import UserError
from ftloop.inference.classifier import class_names, find_problem_type
from ftloop.inference.texts import make_pairs
from ftloop.job.finish import evaluate_and_predict
from ftloop.job.inputs import Inputs, measure_padding
from ftloop.job.results import record_trained, save_metrics, save_state
from ftloop.run.run import Run
from ftloop.system.console import say
from ftloop.system.text import join_some

NO_LIMIT = 100_000  # tokens; a tokenizer without a limit has a larger one


def finish(run: Run, test_dataset: datasets.Dataset | None = None) -> None:
    """Leave in output_dir what the command leaves of a trained run: the model, results, the predictions of each row,
    the model card, and with `report` the report. Every process calls it.

    The evaluation set and `test_dataset`, which need not have labels, are evaluated with the model as it is now. The
    data sets have to hold their texts too, beside the tokens: in the columns `text_column_names`, or in one or two of
    text alone.
    Raises: UserError where they do not; the model and the results of the training are saved by then.
    """
    files = save_model(run)
    trained: dict[str, Any] = next((entry for entry in reversed(run.state.log_history) if "train_runtime" in entry), {})
    if not trained and run.config.needs_metric:
        left = "the best checkpoint or early stopping, which the settings ask for, was left to the body of the loop"
        say("Warning", f"updates(run) only trains: {left}, where train(run) sees to it")
    save_metrics(run, "train", {name: value for name, value in trained.items() if name != "step"})
    save_state(run)
    record_trained(run, [*files, "train_results.json", TRAINER_STATE])
    evaluate_and_predict(run, _inputs(run, test_dataset))


def _inputs(run: Run, test_dataset: Any) -> Inputs:
    """What the command would have read before it trained."""
    model: Any = run.unwrapped_model
    config, tokenizer = run.config, run.processing_class
    if getattr(model, "config", None) is None:
        raise UserError(f"finish: {type(model).__name__} has no config that names its labels; evaluate and predict do")
    kind = find_problem_type(model.config)
    names = () if kind == ProblemType.REGRESSION else tuple(class_names(model.config))
    labels = Labels(names, {name: id for id, name in enumerate(names)}, kind)
    sets: dict[str, Any] = {"train": run.train_dataset}
    if run.eval_dataset is not None and not isinstance(run.eval_dataset, dict):
        sets["validation"] = run.eval_dataset
    if test_dataset is not None:
        run.eval_loaders.factory.check(test_dataset, "test_dataset")
        sets["test"] = test_dataset
    columns = _text_columns(config.text_column_names, sets)
    read = {name: _as_read(rows, columns, labels, name) for name, rows in sets.items()}
    lengths = row_lengths(run.train_dataset, quiet=True)
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
        ),
        tokenizer=tokenizer,
        model=model,
        new_weights=[],
        encoded=sets,
        truncated=dict.fromkeys(sets),
        max_length=longest,
        samples=make_pairs(config.sample_texts or [], pairs=len(columns) == 2),
        padding=measure_padding(config, model, tokenizer, lengths, longest, run.accelerator.num_processes),
    )


def _text_columns(wanted: list[str] | None, sets: dict[str, Any]) -> tuple[str, ...]:
    """Raises: UserError where it is not clear which columns hold the texts."""
    for name, rows in sets.items():
        if not isinstance(rows, datasets.Dataset):
            kind = type(rows).__name__
            raise UserError(f"finish: the {name} set is a {kind}; it reads a datasets.Dataset, from_list makes one")
    in_all = [name for name in sets["train"].column_names if all(name in rows.column_names for rows in sets.values())]
    texts = [
        name for name in in_all if getattr(sets["train"].features[name], "dtype", "") in ("string", "large_string")
    ]
    found = texts if wanted is None else wanted
    if not 1 <= len(found) <= 2 or not set(found) <= set(in_all):
        has = f"of the columns {join_some(in_all, 10)} those with text are {join_some(texts, 10) or 'none'}"
        way = "keep the texts beside the tokens, and where they are more than two columns, name them"
        raise UserError(f"finish: {has}; {way}: TrainConfig(text_column_names=[...])")
    return tuple(found)


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
    outside = (ids < 0) | (ids >= labels.count)
    if outside.any():
        raise UserError(f"finish: row {int(outside.argmax()) + 1} of the {name} set has no class; filter such rows out")
    return texts.add_column("label", np.asarray(labels.names, object)[ids].tolist())
