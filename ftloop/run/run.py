"""What one run holds. `prepare()` makes it; the loop, evaluation and checkpoints read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ftloop.data.cache import digest_rows
from ftloop.run.state import Phase, ResumePoint, TrainerState
from ftloop.system.stopping import StopRequest

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer
    from torch.utils.data import Dataset
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from ftloop.batching.order import OrderSampler, RowOrder
    from ftloop.batching.token_budget import BudgetSampler
    from ftloop.config.train_config import TrainConfig
    from ftloop.run.loaders import EvalLoaders
    from ftloop.run.meter import FaultCounters, LossMeter
    from ftloop.run.plan import TrainingPlan
    from ftloop.run.trainer_compat import Rules

ComputeMetrics = Callable[["EvalPrediction"], dict[str, float]]
ComputeLoss = Callable[..., Tensor]
"""Computes the loss from a model's outputs, the labels and `num_items_in_batch`."""
PreprocessLogits = Callable[[Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class EvaluationRun:
    """What evaluation and prediction need. All there is without a training set."""

    config: TrainConfig
    accelerator: Accelerator
    model: nn.Module
    """The prepared model: on its device, with autocast in its forward, wrapped by DDP with several processes."""
    rules: Rules
    eval_dataset: Dataset[Any] | dict[str, Dataset[Any]] | None
    eval_loaders: EvalLoaders
    processing_class: PreTrainedTokenizerBase | None
    compute_metrics: ComputeMetrics | None
    preprocess_logits_for_metrics: PreprocessLogits | None
    compute_loss_func: ComputeLoss | None
    takes_labels: bool
    """Whether the model's `forward` does."""
    accepts_loss_kwargs: bool
    """Whether Trainer takes the model's loss as already divided by the items of the whole update."""
    class_weights: Tensor | None
    """Weight of each class in the loss, by id; None: all the same."""
    state: TrainerState
    counters: FaultCounters
    source_rows: Dataset[Any] | None = None
    """Training rows as they were read, texts and label, to quote one that has to be named."""
    board: str | None = None
    """Folder of the TensorBoard event files this run has written."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Whether the run has been asked to stop."""

    @cached_property
    def unwrapped_model(self) -> nn.Module:
        """The user's own model, with autocast still in its forward."""
        # Asked to keep torch.compile's wrapper, Accelerate would take DDP out of the model that trains.
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def model_gives_loss(self) -> bool:
        """Whether the labels go to the model, which computes the loss; else they are kept for whatever computes it."""
        is_other = self.config.label_smoothing_factor or self.class_weights is not None or self.compute_loss_func
        return self.takes_labels and not is_other

    def eval_sets(self, dataset: Any = None, prefix: str = "eval") -> dict[str, Any]:
        """The data sets to evaluate, the run's own by default, by the prefix of their metrics: of one data set this
        prefix, of a dict of them with each one's name behind it.
        """
        dataset = self.eval_dataset if dataset is None else dataset
        if isinstance(dataset, dict):
            return {f"{prefix}_{name}": rows for name, rows in dataset.items()}
        return {} if dataset is None else {prefix: dataset}

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process


@dataclass(kw_only=True)
class Run(EvaluationRun):
    """A training run, ready for its first update."""

    train_dataset: Dataset[Any]
    train_loader: Any
    """A DataLoader as Accelerate prepares it, with `set_epoch`."""
    row_order: RowOrder
    """Maps an epoch to its rows, in the order in which they are assigned to the processes."""
    sampler: OrderSampler | BudgetSampler
    """Yields those rows to the DataLoader."""
    padding_edges: tuple[int, ...] | None
    """Lengths to which batches are padded; None: each batch's longest row; none at all: padding is not computed."""
    plan: TrainingPlan
    optimizer: AcceleratedOptimizer
    scheduler: LRScheduler
    follows_settings: bool
    """Whether the optimizer was made from the configuration, so that a resumed one goes on with what that says now."""
    meter: LossMeter
    flos_per_token: int
    """Floating point operations of forward and backward for one token, by Trainer's estimate."""
    current_flos: float = 0.0
    """Operations of this process since they were last added to the state."""
    resume: ResumePoint | None = None
    phase: Phase = Phase.EPOCH
    """How far the last update has been seen to."""
    saved_at: int | None = None
    """`global_step` of the newest checkpoint in output_dir that this run has saved or was resumed from."""
    attempts: list[Any] = field(default_factory=list)
    """Micro-batches of the update under way, which `auto_micro_batch` may have to repeat."""

    @cached_property
    def data_digests(self) -> dict[str, dict[str, Any]]:
        """Digests of the data sets, which tell a checkpoint's data from others."""
        sets = {"train": self.train_dataset} | self.eval_sets()
        return {name: digest_rows(dataset) for name, dataset in sets.items()}
