"""Prepare a run: everything made and seeded in the order that keeps its random numbers those of Trainer."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from accelerate import Accelerator
from transformers import default_data_collator
from transformers.trainer_utils import enable_full_determinism, set_seed

from ftloop.batching.order import OrderSampler, make_row_order
from ftloop.batching.padding import Collator, collator, padded_lengths, row_lengths
from ftloop.batching.token_budget import BudgetSampler
from ftloop.config.unknown import explains_trainers_arguments
from ftloop.data.class_weights import class_weights, settle_problem_type
from ftloop.models.transform import transform_model
from ftloop.run.accelerator import check_accelerator, make_accelerator
from ftloop.run.check_inputs import (
    accepts_loss_kwargs,
    check_arguments,
    check_inputs,
    check_same_on_all_processes,
    missing_labels_told,
    takes_labels,
)
from ftloop.run.evaluation_only import EvaluationOnly
from ftloop.run.loaders import EvalLoaders, LoaderFactory
from ftloop.run.meter import FaultCounters, LossMeter
from ftloop.run.optim import check_optimizers, check_schedule, create_scheduler, make_optimizer
from ftloop.run.plan import make_plan
from ftloop.run.precision import settle_precision
from ftloop.run.run import ComputeLoss, ComputeMetrics, PreprocessLogits, Run
from ftloop.run.state import TrainerState, init_from_plan
from ftloop.run.trainer_compat import AsTrainer, EveryRowOnce
from ftloop.system.console import say
from ftloop.system.distributed import new_cpu_group
from ftloop.system.out_of_memory import memory_told
from ftloop.system.stopping import StopRequest

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Dataset
    from transformers import PreTrainedTokenizerBase

    from ftloop.config.train_config import TrainConfig

MANY_ROWS = 1_000_000  # to order so many takes a noticeable part of a second


def seed_everything(config: TrainConfig) -> None:
    """Seed Python, NumPy and torch; the same seed in every process. Mirrors: Trainer.__init__, first lines."""
    if config.full_determinism:
        enable_full_determinism(config.seed)
    else:
        set_seed(config.seed)


@explains_trainers_arguments
def prepare(
    config: TrainConfig,
    model: Any,
    train_dataset: Dataset[Any] | None = None,
    eval_dataset: Dataset[Any] | dict[str, Dataset[Any]] | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    data_collator: Collator | None = None,
    compute_metrics: ComputeMetrics | None = None,
    accelerator: Accelerator | None = None,
    padding_edges: tuple[int, ...] | None = None,
    preprocess_logits_for_metrics: PreprocessLogits | None = None,
    source_rows: Dataset[Any] | None = None,
    stop: StopRequest | None = None,
    compute_loss_func: ComputeLoss | None = None,
    optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
) -> Run:
    """Put a run together: seeded, the model on its device, the optimizer and the schedule made.

    Arguments are Trainer's: map-style data sets whose rows hold `input_ids`, ... and `label` (`eval_dataset` may be a
    dict of several), a tokenizer as `processing_class`, `compute_metrics` from an `EvalPrediction` to named numbers,
    `preprocess_logits_for_metrics` from a batch's logits and labels to what `compute_metrics` needs,
    `compute_loss_func` from a model's outputs and the labels to the rows' mean loss, `optimizers`: one of the model's
    parameters, in groups as you like, and its schedule, or None for the configuration's. Seed before you build the
    model (`seed_everything(config)`): its new head is drawn then. `padding_edges`: the lengths to which `data_collator`
    pads, if not to each batch's longest row. `source_rows`: the training rows' texts, to quote. `stop`: how to stop it.

    Returns: the run. Without a training set it is an EvaluationRun, which can evaluate and predict.
    Raises: UserError when the configuration cannot be carried out.
    Mirrors: Trainer.__init__, then Trainer._prepare_for_training.
    """
    if data_collator is None:
        data_collator = default_data_collator if processing_class is None else collator(processing_class)
    check_arguments(config, model, padding_edges, compute_loss_func)
    config, padding_edges = settle_precision(config), () if config.padding == "none" else padding_edges
    check = check_inputs(config, model, train_dataset, eval_dataset, data_collator, compute_metrics, compute_loss_func)
    check_optimizers(model, optimizers)
    seed_everything(config)
    accelerator = make_accelerator(config) if accelerator is None else check_accelerator(accelerator, config)
    transform_model(config, model, accelerator.device, processing_class)
    rules = AsTrainer(compute_loss_func is not None) if config.trainer_compat else EveryRowOnce()
    loaders = LoaderFactory(config, accelerator, data_collator, check.columns, check)
    quiet = config.disable_tqdm if accelerator.is_main_process else True
    weights = None if config.class_weights is None else class_weights(config, train_dataset, model)
    shared: dict[str, Any] = {
        "config": config,
        "accelerator": accelerator,
        "rules": rules,
        "eval_dataset": eval_dataset,
        "eval_loaders": EvalLoaders(loaders, rules.drops_last_eval_batch, quiet),
        "processing_class": processing_class,
        "compute_metrics": compute_metrics,
        "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
        "compute_loss_func": compute_loss_func and missing_labels_told(compute_loss_func),
        "takes_labels": takes_labels(model),
        "accepts_loss_kwargs": accepts_loss_kwargs(model),
        "class_weights": None if weights is None else weights.to(accelerator.device),
        "state": TrainerState(),
        "counters": FaultCounters.zero(accelerator.device),
        "source_rows": source_rows,
        "stop": stop or StopRequest(),
    }
    if train_dataset is None:
        return cast("Run", EvaluationOnly(model=accelerator.prepare_model(model, evaluation_mode=True), **shared))
    if weights is not None:
        settle_problem_type(model, train_dataset)
    check_same_on_all_processes(config, accelerator, model, {"train": train_dataset}, eval_dataset)

    num_examples: int = len(train_dataset)  # type: ignore[arg-type]
    lengths = padded = None
    if config.batching in ("length_grouped", "token_budget"):
        lengths = row_lengths(train_dataset, quiet=quiet)
        padded = padded_lengths(lengths, padding_edges)
        if num_examples >= MANY_ROWS:
            say("Planning", f"the order of {num_examples} rows, anew in each epoch")
    row_order, budget = make_row_order(config, num_examples, accelerator.num_processes, lengths, padded)
    sampler: OrderSampler | BudgetSampler = OrderSampler(row_order, num_examples)
    if budget is not None:
        sampler = BudgetSampler(budget, accelerator.process_index)
    train_loader = loaders.train(train_dataset, sampler)
    plan = make_plan(config, num_examples, len(train_loader), accelerator.num_processes, budget)
    check_schedule(config, plan.warmup_steps, plan.max_steps, optimizers[1])
    given_optimizer, given_scheduler = optimizers
    with memory_told("the model", model.parameters()):  # DDP makes room for the gradients
        wrapped_model, optimizer = accelerator.prepare(model, make_optimizer(model, config, given_optimizer))
    # All accelerators of a process share one state, which the next run, and transformers' TrainingArguments, set anew.
    accelerator.state.__dict__ = dict(vars(accelerator.state))
    optimizer.accelerator_state = accelerator.state
    stepped = optimizer.optimizer if rules.checks_numbers else optimizer  # as nonfinite.py does
    run = Run(
        **shared,
        model=wrapped_model,
        train_dataset=train_dataset,
        train_loader=train_loader,
        row_order=row_order,
        sampler=sampler,
        padding_edges=padding_edges,
        plan=plan,
        optimizer=optimizer,
        scheduler=given_scheduler or create_scheduler(stepped, config, plan.warmup_steps, plan.max_steps),
        follows_settings=given_optimizer is None,
        meter=LossMeter.zero(accelerator.device, rules.hides_non_finite_losses),
        flos_per_token=6 * model.num_parameters(exclude_embeddings=True) if hasattr(model, "num_parameters") else 0,
    )
    run.stop.group = new_cpu_group(accelerator, timedelta(seconds=config.ddp_timeout))
    init_from_plan(run.state, config, plan, accelerator.is_local_main_process, accelerator.is_main_process)
    return run
