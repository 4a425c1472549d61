"""Look once at what `prepare` is given, before anything is computed: a line for each problem says what is wanted."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset
from transformers import DataCollatorWithPadding, default_data_collator

from ftloop.batching.padding import Collator, is_padding_collator
from ftloop.config.train_config import SETTINGS, TrainConfig
from ftloop.data.cache import digest_rows
from ftloop.errors import UserError, summarize
from ftloop.models.published import that_of_quantized
from ftloop.models.weights import base_model, is_adapter
from ftloop.run.check_labels import config_of_classes, label_problems, other_ids
from ftloop.run.check_rows import LABELS, RowCheck, has_transform, head_problem, ready_rows, row_check
from ftloop.run.check_tokens import padding_problems, token_problems
from ftloop.run.optim import check_schedule
from ftloop.system.console import say
from ftloop.system.distributed import check_same_on_all_ranks
from ftloop.system.text import join_some, short_repr

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_arguments(config: Any, model: Any, padding_edges: Any, compute_loss_func: Any) -> None:
    """Raises: UserError for settings and arguments of another kind, or that do not go together."""
    if not isinstance(config, TrainConfig):
        raise UserError(f"config: a TrainConfig is wanted, with settings as in TrainingArguments, not {_a(config)}")
    if not isinstance(model, nn.Module):
        raise UserError(f"model: a model is wanted, as from_pretrained loads it, not {_a(model)}")
    if len(places := {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}) > 1:
        raise UserError(
            f"model: its device_map spreads it over {join_some(sorted(places), 8)}, and training takes a whole model "
            "on one device, each process its own: load it without device_map"
        )
    if config.several is not None:
        one = f"here it is one, with `{config.several[:-1]}`"
        raise UserError(f"{config.several}: the command trains several, each in a process of its own; {one}")
    if config.padding not in ("longest", "none") and padding_edges is None:
        raise UserError(
            f"padding: {config.padding} is what a data_collator does: give one (ftloop.batching.padding.collator makes "
            "it) and the lengths it pads to as padding_edges"
        )
    if compute_loss_func is not None:
        try:
            taken = compute_loss_func.forward if isinstance(compute_loss_func, nn.Module) else compute_loss_func
            arguments = inspect.signature(taken)
            arguments.bind("outputs", "labels", num_items_in_batch=1)
            if [*arguments.parameters][:2] == ["model", "inputs"]:
                raise TypeError("it has the arguments of Trainer.compute_loss, model and inputs")
        except TypeError as error:
            called = "(outputs, labels, num_items_in_batch=...), as by Trainer"
            raise UserError(
                f"compute_loss_func: is called with {called}, and does not take that ({error}); a loss of logits and "
                "labels: lambda outputs, labels, num_items_in_batch=None: loss(outputs.logits, labels)"
            ) from None
        # Trainer forgets about the smoothing.
        smoothing = config.label_smoothing_factor and not config.trainer_compat
        for name, value in {"label_smoothing_factor": smoothing, "class_weights": config.class_weights}.items():
            if value:
                raise UserError(
                    f"{name}: not with a compute_loss_func, which is the loss; do it there, or leave one out"
                )
    check_schedule(config)


def missing_labels_told(compute_loss: Any) -> Any:
    """The same loss of the user's own, which says that rows have no labels where it fails for want of them."""

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any) -> Any:
        try:
            return compute_loss(outputs, labels, num_items_in_batch=num_items_in_batch)
        except (TypeError, AttributeError, ValueError) as error:
            if labels is not None:
                raise
            fault = f"({type(error).__name__}: {summarize(error)})"
            missing = "labels are missing, which rows hold in their column label, labels or label_ids"
            raise UserError(f"compute_loss_func: {missing} {fault}") from error

    return loss


def check_inputs(
    config: TrainConfig,
    model: Any,
    train_dataset: Any,
    eval_dataset: Any,
    collate: Collator,
    compute_metrics: Any,
    compute_loss_func: Any,
) -> DataSetCheck:
    """Check what a run is to be made of. Returns: the check for data sets that come later.

    Raises: UserError with every problem.
    """
    columns = frozenset(forward_arguments(model)) | {*LABELS}
    is_plain = _keeps_labels(collate) and compute_loss_func is None
    pads = _keeps_labels(collate) and collate is not default_data_collator
    rows_check = row_check(model, is_plain) if _keeps_labels(collate) else None
    check = DataSetCheck(model, columns if config.remove_unused_columns else None, is_plain, pads, rows_check)
    sets = {"train_dataset": train_dataset}
    if isinstance(eval_dataset, dict) and "input_ids" not in eval_dataset:
        sets |= {f"eval_dataset[{name!r}]": rows for name, rows in eval_dataset.items()}
    else:
        sets |= {"eval_dataset": eval_dataset}
    evaluated = [rows for name, rows in sets.items() if name != "train_dataset"]
    if is_plain and (problem := head_problem(model, train_dataset, evaluated)):
        raise UserError(problem)
    problems = []
    for name, rows in sets.items():
        if rows is not None:
            is_train = name == "train_dataset"
            problems += check.problems(rows, name, needs_labels=is_train or compute_metrics is not None)
            size = config.per_device_train_batch_size if is_train else config.per_device_eval_batch_size
            if pads and not problems and size > 1:
                found = padding_problems(rows, column_names(rows) or (), model, collate)
                problems += [f"{name}: {problem}" for problem in found]
    if train_dataset is not None:
        problems += _evaluation_problems(config, eval_dataset, compute_metrics)
        if not problems and len(train_dataset) == 0:
            problems.append("the training set has no rows")
        _check_weights(model, config.fp16)
    if problems:
        raise UserError(*problems)
    return check


def _evaluation_problems(config: TrainConfig, eval_dataset: Any, compute_metrics: Any) -> Iterator[str]:
    """Yield what is asked of an evaluation and cannot come of it."""
    if config.eval_strategy == "no":
        return
    if eval_dataset is None or (isinstance(eval_dataset, dict) and not eval_dataset):
        yield f"eval_strategy is {config.eval_strategy}, but no eval_dataset was given"
        return
    for name, rows in (eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}).items():
        if hasattr(rows, "__len__") and len(rows) == 0:
            yield f"eval_dataset{f'[{name!r}]' if name else ''}: has no rows"
    metric = config.metric_for_best_model
    if metric is not None and isinstance(eval_dataset, dict):
        known = [f"{name}_" for name in eval_dataset]
        if not metric.removeprefix("eval_").startswith(tuple(known)):
            yield f"metric_for_best_model: {metric!r} is of no evaluation set; of one of them it is {known[0]}{metric}"
            return
    if metric is not None and compute_metrics is None and not metric.endswith(("loss", "runtime", "_per_second")):
        yield (
            f"metric_for_best_model: nothing computes {metric!r}: give prepare compute_metrics, a function from "
            "(predictions, label_ids) to named numbers; or leave it out, to go by the loss"
        )


def _check_weights(model: Any, fp16: bool) -> None:
    """Warn of weights in half precision, in which small updates are lost. Raises: UserError where they end the run,
    where none is trained, and for a quantized model without an adapter. Mirrors: validate_quantization_for_training.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(
            "the model: none of its parameters is trained; set requires_grad of those to learn, as the head's"
        )
    base = base_model(model)
    if getattr(base, "is_quantized", False) and not (
        is_adapter(model) or getattr(getattr(base, "hf_quantizer", None), "is_qat_trainable", False)
    ):
        fault = f"the model: it cannot be trained as a whole{that_of_quantized(base.config.quantization_config)}"
        raise UserError(f"{fault}, or train an adapter around it, with peft.get_peft_model")
    kinds = {p.dtype for p in model.parameters() if p.requires_grad} & {torch.float16, torch.bfloat16}
    for kind in kinds:
        name = str(kind).removeprefix("torch.")
        way = "load the model with dtype=torch.float32; bf16=True then computes in bfloat16 and keeps such weights"
        if kind == torch.float16 and fp16:
            raise UserError(f"fp16: the model's own weights are {name}, whose gradients cannot be unscaled: {way}")
        say("Warning", f"the model's own weights are {name}, in which small updates are lost: {way}")


def forward_arguments(model: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of the model's `forward`. Mirrors: Trainer._set_signature_columns_if_needed."""
    return inspect.signature(base_model(model).forward).parameters


def takes_labels(model: Any) -> bool:
    arguments = forward_arguments(model)
    return "labels" in arguments or _takes_any(arguments)


def accepts_loss_kwargs(model: Any) -> bool:
    """Mirrors: Trainer.__init__ (model_accepts_loss_kwargs)."""
    model = base_model(model)
    if hasattr(model, "accepts_loss_kwargs"):
        return bool(model.accepts_loss_kwargs)
    return _takes_any(forward_arguments(model))


def _takes_any(arguments: Mapping[str, inspect.Parameter]) -> bool:
    return any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments.values())


def check_same_on_all_processes(
    config: TrainConfig, accelerator: Accelerator, model: Any, sets: dict[str, Any], eval_dataset: Any
) -> None:
    """Raises: UserError when the processes are not about to make one run of the same rows."""
    if accelerator.num_processes > 1:
        shared = [name for name, setting in SETTINGS.items() if not setting.may_differ_between_processes]
        settings = {name: getattr(config, name) for name in shared}
        sets |= eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset}
        data = {f"{name} data": digest_rows(dataset) for name, dataset in sets.items() if dataset is not None}
        labels = getattr(getattr(model, "config", None), "id2label", None)
        check_same_on_all_ranks(settings | data | {"labels": labels})


@dataclass
class DataSetCheck:
    """Whether a data set is one that the model can be trained on or evaluated with."""

    model: Any
    columns: frozenset[str] | None
    """Those that are kept; None: all."""
    reads_labels: bool
    """Whether labels go to the model as they stand in the rows: neither a loss nor a collator of the user's own."""
    pads: bool = False
    """Whether a collator of ours or transformers' pads every column there is."""
    rows: RowCheck | None = None
    """What is asked of rows that go to the model as they stand; None: a collator of the user's own reads them."""
    class_names: list[str] | None = None
    """Names of the classes in the first data set whose labels are a ClassLabel."""
    seen: dict[int, Any] = field(default_factory=dict)
    """Data sets that were found right, by their `id`."""

    def __call__(self, dataset: Any, name: str) -> None:
        """Raises: UserError naming the data set, and the row or column."""
        if problems := self.problems(dataset, name):
            raise UserError(*problems)

    def problems(self, dataset: Any, name: str, needs_labels: bool = False) -> list[str]:
        """What is wrong with a data set, which is looked at once."""
        if id(dataset) in self.seen:
            return []
        problems = [f"{name}: {problem}" for problem in self._problems(dataset, needs_labels)]
        if not problems:
            self.seen[id(dataset)] = dataset
        return problems

    def _problems(self, dataset: Any, needs_labels: bool) -> Iterator[str]:
        wrong_kind = _wrong_kind(dataset)
        if wrong_kind is not None:
            yield wrong_kind
            return
        if self.rows is not None and (problem := self.rows.problem(ready_rows(dataset))):
            yield problem
            return
        columns = column_names(dataset)
        if columns is None:
            return
        if self.columns is not None and (problem := self._other_arguments(columns, self.columns)):
            yield problem
            return
        texts = [name for name in columns if _is_text(dataset, name)] if self.columns is None and self.pads else []
        if texts:
            what = f"the columns {join_some(texts, 6)} stay, texts of which no tensors can be made"
            yield f"with remove_unused_columns=False {what}: remove them, or give a data_collator that reads them"
            return
        if self.rows is not None:
            kept = columns if self.columns is None else self.columns & {*columns}
            yield from token_problems(dataset, kept, self.model)
        label = next((each for each in LABELS if each in columns), None)
        if not self.reads_labels:
            return
        if label is not None:
            yield from self._other_classes(dataset, label)
            yield from label_problems(dataset, label, config_of_classes(self.model))
        elif needs_labels and takes_labels(self.model):
            hidden = [each for each in getattr(dataset, "column_names", ()) if each in LABELS]
            way = "dataset.rename_column(name, 'label') makes one of yours"
            way = f"set_format hides {hidden[0]!r}" if hidden else way
            yield f"no column of labels ({', '.join(LABELS)}) among {join_some(list(columns), 10)}: {way}"

    def _other_arguments(self, columns: Sequence[str], taken: Collection[str]) -> str | None:
        """Return that the model's `forward` takes none of the columns, or wants more. A collator may add the mask."""
        arguments = forward_arguments(self.model)
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        wanted = [each for each, what in arguments.items() if each not in LABELS and what.kind not in several]
        given = {*columns, "attention_mask"}
        missing = [each for each in wanted if arguments[each].default is inspect.Parameter.empty and each not in given]
        what = f"columns {join_some(list(columns), 10)}"
        if not ({*columns} & {*taken}) - {*LABELS}:
            what = f"none of its {what} is an argument of {type(self.model).__name__}"
        elif missing and self.pads:
            what = f"its {what} hold no {join_some(missing, 6)}, arguments of {type(self.model).__name__}"
        else:
            return None
        way = "tokenize it, or, for a data_collator that needs them, set remove_unused_columns=False"
        if "input_ids" in columns:
            way = "name the arguments of forward as the columns, such as (self, input_ids, attention_mask, labels=None)"
        return f"{what}, which takes {join_some(wanted, 6) or 'none by name'}: {way}"

    def _other_classes(self, dataset: Any, label: str) -> Iterator[str]:
        """Yield that a data set numbers its classes otherwise than the first one: its ids would mean other classes."""
        names = getattr(getattr(dataset, "features", {}).get(label), "names", None)
        if names is None:
            return
        yield from other_ids(names, label, self.model)
        self.class_names = self.class_names or names
        if names != self.class_names:
            theirs, ours = join_some(names, 6), join_some(self.class_names, 6)
            mapping = "{name: id for id, name in enumerate(train_dataset.features[column].names)}"
            yield (
                f"its classes are {theirs}, and those of the first data set {ours}: one number would mean two classes; "
                f"dataset.align_labels_with_mapping({mapping}, column) numbers them alike, with column = {label!r}"
            )


def _keeps_labels(collate: Collator) -> bool:
    """Whether a row's label comes out of a collator as it was: one of the user's own may do anything."""
    return collate is default_data_collator or is_padding_collator(collate) or type(collate) is DataCollatorWithPadding


def column_names(dataset: Any) -> list[str] | None:
    """Columns of the rows, where they are known without making a row: not those of a transform or of a class."""
    if hasattr(dataset, "column_names") and hasattr(dataset, "select_columns"):
        return None if has_transform(dataset) else list(dataset.format["columns"])
    if isinstance(dataset, Subset):
        return column_names(dataset.dataset)
    if isinstance(dataset, (list, tuple)) and dataset and isinstance(dataset[0], Mapping):
        return list(dataset[0])
    return None


def _is_text(dataset: Any, column: str) -> bool:
    if hasattr(dataset, "features"):
        return getattr(dataset.features[column], "dtype", "") in ("string", "large_string")
    return isinstance(dataset[0][column], str)


def _a(value: Any) -> str:
    """Name the kind of a value: a dict, an IterableDataset."""
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"{'the class' if isinstance(value, type) else 'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def _wrong_kind(dataset: Any) -> str | None:
    kind = _a(dataset)
    if isinstance(dataset, (str, os.PathLike)):
        return f"{str(dataset)!r} is a path: load it, as with datasets.load_dataset, and give its rows"
    if isinstance(dataset, Mapping):
        some = join_some([short_repr(name) for name in dataset], 6)
        if all(hasattr(part, "column_names") for part in dataset.values()):
            return f"{kind} holds several data sets ({some}); give one of them"
        return f"{kind} of columns ({some}) is no list of rows; datasets.Dataset.from_dict makes one of it"
    if hasattr(dataset, "iloc"):
        return f"{kind} of pandas is no list of rows; datasets.Dataset.from_pandas makes one of it, to be tokenized"
    if isinstance(dataset, DataLoader):
        return (
            f"{kind} makes batches; give the data set that it reads, its .dataset: how batches are made, settings say"
        )
    is_stream = isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__getitem__")
    if is_stream or not hasattr(type(dataset), "__len__"):
        return (
            f"{kind} can only be read through: the order of an epoch needs rows by number and their count "
            "(__getitem__ and __len__); datasets.Dataset.from_list(list(rows)) keeps them, or load without streaming"
        )
    if isinstance(dataset, (list, tuple)) and dataset and isinstance(dataset[0], (str, int, float)):
        what = "texts" if isinstance(dataset[0], str) else "numbers"
        return f"its rows are {what}; a tokenizer makes rows of input_ids, attention_mask and label"
    return None
