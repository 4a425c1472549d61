"""The DataLoaders of a run."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, SequentialSampler
from transformers.trainer_utils import seed_worker

from ftloop.batching.order import OrderSampler, longest_first
from ftloop.batching.padding import Collator, row_lengths
from ftloop.batching.token_budget import BudgetSampler
from ftloop.errors import UserError
from ftloop.models.row_lengths import telling
from ftloop.run.check_inputs import DataSetCheck
from ftloop.run.check_labels import config_of_classes, label_problems
from ftloop.run.check_rows import LABELS, RowCheck, has_transform
from ftloop.run.fetches import DrawingFetches, Fetches
from ftloop.system.signals import WorkerContext, ignore_signals_in_worker

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from ftloop.config.train_config import TrainConfig


@dataclass(frozen=True)
class LoaderFactory:
    """Makes the DataLoaders of a run, whose rows it collates alike in training and evaluation."""

    config: TrainConfig
    accelerator: Accelerator
    collate: Collator
    columns: frozenset[str] | None
    """Arguments of the model's `forward`, and the names of the label column: all others are dropped. None: none are."""
    check: DataSetCheck

    def train(self, dataset: Dataset[Any], sampler: OrderSampler | BudgetSampler) -> DataLoader[Any]:
        """Batches of this process, in the order of `batching`. Mirrors: Trainer.get_train_dataloader."""
        rank, workers = self.accelerator.process_index, self.config.dataloader_num_workers
        begin_worker = partial(_begin_worker, num_workers=workers, rank=rank)
        if isinstance(sampler, BudgetSampler):
            return self.make(dataset, is_training=True, batch_sampler=sampler, worker_init_fn=begin_worker)
        return self.make(
            dataset,
            is_training=True,
            batch_size=self.config.per_device_train_batch_size,
            sampler=sampler,
            drop_last=self.config.dataloader_drop_last,
            worker_init_fn=begin_worker,
        )

    def make(self, dataset: Any, is_training: bool = False, **kind: Any) -> DataLoader[Any]:
        config, accelerator, collate = self.config, self.accelerator, self.collate
        if hasattr(dataset, "column_names") and hasattr(dataset, "remove_columns") and not has_transform(dataset):
            dropped = [name for name in dataset.column_names if self.columns is not None and name not in self.columns]
            dataset = dataset.remove_columns(dropped) if dropped else dataset
            collate = partial(_collate, collate=collate, dropped=dropped) if dropped else collate
        else:
            config_of_labels = config_of_classes(self.check.model) if self.check.reads_labels else None
            looks: dict[str, Any] = {"config": config_of_labels, "rows": self.check.rows}
            collate = partial(_collate_made_rows, collate=collate, columns=self.columns, **looks)
        if accelerator.device.type != "cpu" and accelerator.device_placement and not accelerator.dispatch_batches:
            collate = telling(collate)
        fetches = Fetches()
        if is_training and not self._draws_nothing(dataset):
            workers, persist = config.dataloader_num_workers, config.dataloader_persistent_workers
            dataset = fetches = DrawingFetches(dataset, collate, workers, persist)
            collate = fetches.collate
        loader: DataLoader[Any] = DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=config.dataloader_num_workers,
            multiprocessing_context=WorkerContext() if config.dataloader_num_workers else None,
            persistent_workers=config.dataloader_persistent_workers,
            prefetch_factor=config.dataloader_prefetch_factor,
            pin_memory=config.dataloader_pin_memory and accelerator.device.type == "cuda",
            **kind,
        )
        prepared: Any
        if "batch_sampler" in kind:  # which has assigned the rows to the processes already
            prepared = prepare_data_loader(
                loader,
                accelerator.device,
                num_processes=1,
                process_index=0,
                put_on_device=True,
                non_blocking=accelerator.non_blocking,
            )
        else:
            prepared = accelerator.prepare(loader)
        if config.dataloader_persistent_workers:
            atexit.register(_end_workers, weakref.ref(prepared))
        prepared.fetches = fetches
        return prepared  # type: ignore[no-any-return]

    def _draws_nothing(self, dataset: Any) -> bool:
        """Whether nothing is drawn where rows are fetched, or nobody asks: rows that lie ready, and a collator of ours
        or transformers'."""
        lie_ready = isinstance(dataset, datasets.Dataset) and not has_transform(dataset)
        return self.config.trainer_compat or (lie_ready and self.check.rows is not None)


@dataclass
class EvalLoaders:
    """The evaluation loaders of a run, and the order of the rows in them."""

    factory: LoaderFactory
    drops_last: bool
    quiet: bool | None
    """No progress bar while rows are measured; None: a bar where the console is a terminal."""
    used: dict[int, tuple[Any, DataLoader[Any]]] = field(default_factory=dict)
    """Loaders whose workers persist, by `id` of the data set, which is held beside its loader so that the id stays."""
    _orders: dict[int, tuple[Any, np.ndarray]] = field(default_factory=dict)

    def loader(self, dataset: Any) -> DataLoader[Any]:
        """Batches of this process in the order of the rows; with `sort_eval`, of their lengths.

        Its iterator draws one random number, on which the training after it depends; but not that of a loader used
        before whose workers persist. So those loaders are kept, as Trainer keeps them.

        Differs: dataloader_drop_last drops no row from an evaluation, except with trainer_compat.
        Mirrors: Trainer.get_eval_dataloader.
        """
        if id(dataset) in self.used:
            return self.used[id(dataset)][1]
        self.factory.check(dataset, "the data set to evaluate")
        config, order = self.factory.config, self.order(dataset)
        loader = self.factory.make(
            dataset,
            batch_size=config.per_device_eval_batch_size,
            sampler=SequentialSampler(dataset) if order is None else OrderSampler(lambda _: order, len(order)),
            drop_last=config.dataloader_drop_last and self.drops_last,
            worker_init_fn=ignore_signals_in_worker,
        )
        if config.dataloader_persistent_workers:
            self.used[id(dataset)] = dataset, loader
        return loader

    def order(self, dataset: Any) -> np.ndarray | None:
        """The rows in the order in which they are evaluated; None: the data set's own."""
        if not self.factory.config.sort_eval:
            return None
        if id(dataset) not in self._orders:
            self._orders[id(dataset)] = dataset, longest_first(row_lengths(dataset, quiet=self.quiet))
        return self._orders[id(dataset)][1]


def _begin_worker(worker_id: int, num_workers: int, rank: int) -> None:
    ignore_signals_in_worker(worker_id)
    seed_worker(worker_id, num_workers=num_workers, rank=rank)


def _end_workers(loader: weakref.ref[Any]) -> None:
    """End workers that persist when Python ends. Ended by a SIGTERM, as multiprocessing would, they would first outlive
    it for a minute, and the end of the run would wait for them.
    """
    base = getattr(loader(), "base_dataloader", None)
    iterator = getattr(base, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()


def _collate_made_rows(
    examples: list[Any], collate: Collator, columns: frozenset[str] | None, config: Any, rows: RowCheck | None
) -> dict[str, Any]:
    """Look at what nobody knew before the rows were made: on a GPU, torch would end without a word of a label.

    `config`: of the classes, where labels go to the model as they stand in the rows. `rows`: where these do.
    Mirrors: transformers.trainer_utils.RemoveColumnsCollator. Differs: for every mapping, not for a dict alone.
    Raises: UserError for a row or a label that the model does not take.
    """
    dropped: list[str] = []
    if rows is not None and (problem := rows.problem(examples)):
        raise UserError(f"data set: in a batch of it, {problem}")
    if columns is not None and examples and isinstance(examples[0], Mapping):
        dropped = [name for name in examples[0] if name not in columns]
        examples = [{name: value for name, value in example.items() if name in columns} for example in examples]
        label = next((name for name in LABELS if name in examples[0]), None)
        for problem in () if label is None else label_problems(examples, label, config):
            raise UserError(f"data set: in a batch of it, {problem}")
    return _collate(examples, collate, dropped)


def _collate(examples: list[Any], collate: Collator, dropped: list[str]) -> dict[str, Any]:
    """Raises: UserError where the collator asks for a column that was dropped."""
    try:
        return collate(examples)
    except KeyError as error:
        if error.args and error.args[0] in dropped:
            why = "it was dropped, as the model's forward does not take it; remove_unused_columns=False keeps it"
            raise UserError(f"data_collator: asks for the column {error.args[0]!r}: {why}") from error
        raise
