"""Run: everything one training run holds, put together in the order that keeps its random numbers Trainer's."""

from __future__ import annotations

import atexit
import inspect
import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
    parse_flag_from_env,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, SequentialSampler
from tqdm.auto import tqdm
from transformers.trainer_utils import enable_full_determinism, seed_worker, set_seed

from ftloop.config import TrainConfig
from ftloop.data import digest_rows
from ftloop.errors import UserError
from ftloop.fast import speed_up
from ftloop.freeze import freeze
from ftloop.metrics import ComputeMetrics, PreprocessLogits
from ftloop.model import dropout_settings
from ftloop.optim import check_schedule, create_optimizer, create_scheduler
from ftloop.padding import Collator, collator, padded_lengths, row_lengths
from ftloop.plan import TrainingPlan, make_plan
from ftloop.ranks import check_alike, check_launched
from ftloop.sampling import BudgetSampler, OrderSampler, RowOrder, TokenBudget, longest_first, order_rows
from ftloop.state import LossMeter, Mishaps, TrainerState, begin
from ftloop.stopping import Stop, outlive_the_signal
from ftloop.weights import class_weights, settle_problem_type

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer
    from torch.utils.data import Dataset
    from transformers import PreTrainedTokenizerBase

Inputs = dict[str, Any]

# Settings that may be others in another process: what they name lies on its machine, or they change nothing.
OF_A_MACHINE = {
    *("train_file", "validation_file", "test_file", "model_name_or_path", "output_dir", "logging_dir", "record"),
    *("overwrite_cache", "preprocessing_num_workers", "disable_tqdm", "traceback", "resume_from_checkpoint"),
}

MANY_ROWS = 1_000_000  # to order so many takes a noticeable part of a second

# What Accelerate may be asked for by its config file, a flag of `accelerate launch` or a plugin, all of which end in
# the environment, and what nothing here would do. On the CPU it would train by plain DDP, and not say so.
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}


@dataclass
class Run:
    """One run. Made by `prepare`; read by the loop, by evaluation and by checkpoints.

    The parts from `train_loader` on are there only with a training set.
    """

    config: TrainConfig
    accelerator: Accelerator
    model: nn.Module
    """As prepared: on its device, with autocast in its forward, wrapped by DDP with several processes."""
    eval_dataset: Dataset[Any] | None
    processing_class: PreTrainedTokenizerBase | None
    data_collator: Collator
    compute_metrics: ComputeMetrics | None
    preprocess_logits_for_metrics: PreprocessLogits | None
    state: TrainerState
    meter: LossMeter
    mishaps: Mishaps
    accepts_loss_kwargs: bool
    """Whether Trainer takes the model's loss for one already divided by the items of the whole update."""
    columns: frozenset[str]
    """What `forward` takes, and the names of the label column."""
    flos_per_token: int
    """Floating point operations of forward and backward for one token, by Trainer's estimate."""

    train_dataset: Dataset[Any] = None  # type: ignore[assignment]
    train_loader: Any = None
    """A DataLoader as Accelerate prepares it, with `set_epoch`."""
    row_order: RowOrder = None  # type: ignore[assignment]
    """In which an epoch's rows are dealt."""
    sampler: OrderSampler | BudgetSampler = None  # type: ignore[assignment]
    """Which deals them."""
    plan: TrainingPlan = None  # type: ignore[assignment]
    optimizer: AcceleratedOptimizer = None  # type: ignore[assignment]
    scheduler: LRScheduler = None  # type: ignore[assignment]

    class_weights: Tensor | None = None
    """What each class counts in the loss, by id; None: all the same."""
    padding_edges: tuple[int, ...] | None = None
    """The lengths to which `data_collator` pads; None: to each batch's longest row."""
    board: str | None = None
    """The folder of TensorBoard's event files, of a run that has written some."""
    source_rows: Dataset[Any] | None = None
    """The training rows as they were read, texts and label, to be quoted where one of them has to be named."""
    update_so_far: list[Any] = field(default_factory=list)
    """Micro-batches of the update under way; `auto_micro_batch` may have to do them once more."""
    current_flos: float = 0.0
    """This process's, since they were last added to the state."""
    eval_loaders: dict[int, tuple[Any, DataLoader[Any]]] = field(default_factory=dict)
    """By `id` of the data set, which is kept beside it so that the id stays its own. Only with persistent workers."""
    eval_orders: dict[int, tuple[Any, np.ndarray]] = field(default_factory=dict)
    """Kept likewise, with `sort_eval`."""
    rng_to_restore: dict[str, Any] | None = None
    """Of the checkpoint resumed from; the loop restores it at the one right moment."""
    resumed_from: Path | None = None
    """The checkpoint that was loaded."""
    saved_at: int | None = None
    """`global_step` of the newest checkpoint in output_dir that this run has saved or was resumed from."""
    phase: str = "epoch"
    """How far the update just made has been seen to: `none`; `update`; `epoch`, when its epoch's end has been too."""
    phases_due: tuple[str, ...] = ()
    """What the checkpoint resumed from still owes its last update: `update`, `epoch`."""
    stop: Stop = field(default_factory=Stop)
    """Whether the run is to be left where it can be taken up again."""

    @cached_property
    def unwrapped_model(self) -> nn.Module:
        """The user's own model, with autocast still in its forward."""
        # Asked to keep torch.compile's wrapper, Accelerate would take DDP out of the model that trains.
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @cached_property
    def data_digests(self) -> dict[str, dict[str, Any]]:
        """What tells other data from the same, for a checkpoint."""
        sets = {"train": self.train_dataset, "eval": self.eval_dataset}
        return {name: digest_rows(dataset) for name, dataset in sets.items() if dataset is not None}

    def say(self, line: str) -> None:
        """A line on the console, above the progress bars; once, however many processes there are."""
        if self.is_main:
            tqdm.write(line)
            sys.stdout.flush()


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Device, precision and processes. Draws no random numbers.

    Raises: UserError when the device cannot do what was asked, or the launcher asks for something else.
    Mirrors: Trainer.create_accelerator_and_postprocess.
    """
    precision = mixed_precision(config)
    check_launched()
    # Accelerate's state is a singleton; a second run in one process may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    handlers: list[Any] = [
        # find_unused_parameters changes the buckets and so, from 3 processes on, the bits.
        DistributedDataParallelKwargs(find_unused_parameters=not config.gradient_checkpointing),
        InitProcessGroupKwargs(timeout=timedelta(seconds=config.ddp_timeout)),
    ]
    accelerator = Accelerator(
        # Said outright, because without it torchrun's processes do not find each other on a machine without GPU.
        cpu=config.use_cpu or not torch.accelerator.is_available(),
        mixed_precision=precision,
        # The loop accumulates by itself, and Accelerate must not divide the loss a second time.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dataloader_config=DataLoaderConfiguration(
            even_batches=True,
            split_batches=False,
            non_blocking=config.dataloader_pin_memory,  # a copy from pinned memory runs while the GPU computes
        ),
        dynamo_plugin=_compiler(config),
        kwargs_handlers=handlers,
    )
    if config.auto_micro_batch and accelerator.num_processes > 1:
        raise UserError(
            f"auto_micro_batch: works on one process, not on {accelerator.num_processes}: the others would wait in the "
            "exchange of gradients for one that has to begin its update again; use a smaller "
            "--per_device_train_batch_size with more --gradient_accumulation_steps"
        )
    if config.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
    return accelerator


def _compiler(config: TrainConfig) -> TorchDynamoPlugin:
    """With `torch_compile`: where batches are padded to a few lengths, a graph for each, which later ones find ready;
    else one for all shapes, as torch makes it at the second.
    """
    if not config.torch_compile:
        return TorchDynamoPlugin(backend=None)
    kind, _, number = config.padding.partition(":")
    if kind not in ("buckets", "max_length"):
        return TorchDynamoPlugin(backend="inductor")
    import torch._dynamo

    # For each length, and one above the training set's: whole batches and the last one. No evaluation is compiled.
    shapes = 2 * (int(number or 1) + 1)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, shapes)
    return TorchDynamoPlugin(backend="inductor", dynamic=False)


def mixed_precision(config: TrainConfig) -> str:
    """`no`, `fp16` or `bf16`: ours, or the launcher's where ours does not say.

    Raises: UserError on a conflict, and for what the device cannot do.
    """
    problems = _refused()
    accumulation = int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    if accumulation not in (1, config.gradient_accumulation_steps):
        problems.append(
            f"gradient_accumulation_steps: {config.gradient_accumulation_steps} conflicts with the launcher's "
            f"--gradient_accumulation_steps {accumulation}; give one of them"
        )
    asked = "fp16" if config.fp16 else "bf16" if config.bf16 else "no"
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if launched not in ("no", "fp16", "bf16"):
        problems.append(f"the launcher's --mixed_precision {launched} is not implemented; use fp16 or bf16")
    elif "no" not in (asked, launched) and asked != launched:
        problems.append(f"{asked}: conflicts with the launcher's --mixed_precision {launched}; give one of them")
    precision = launched if asked == "no" else asked
    cuda = torch.cuda.is_available() and not (config.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if precision == "fp16" and not cuda:
        problems.append("fp16: needs a CUDA device, and there is none in use; --bf16 works on the CPU too")
    if precision == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        problems.append("bf16: this GPU cannot do it; use --fp16")
    if config.tf32 and not (cuda and torch.cuda.get_device_capability() >= (8, 0)):
        problems.append("tf32: needs an Ampere or newer GPU")
    if problems:
        raise UserError(*problems)
    return precision


def _refused(accelerator: Accelerator | None = None) -> list[str]:
    """What is asked for and not done here, by the environment or by an accelerator of the user's own."""
    asked = {variable for variable in REFUSED if parse_flag_from_env(variable)}
    if accelerator is not None:
        asked |= {f"ACCELERATE_USE_{accelerator.distributed_type.value}"} & REFUSED.keys()
        if accelerator.parallelism_config is not None:
            asked.add("ACCELERATE_USE_PARALLELISM_CONFIG")
    return [
        f"Accelerate is asked for {feature} (by its config file, a flag of accelerate launch, {variable} or a plugin), "
        "which ftloop does not do: it trains by DDP, with the whole model on each device; leave it out, or "
        "take --multi_gpu (distributed_type: MULTI_GPU)"
        for variable, feature in REFUSED.items()
        if variable in asked
    ]


def seed_everything(config: TrainConfig) -> None:
    """Seed Python, NumPy and torch; the same seed in every process. Mirrors: Trainer.__init__, first lines."""
    if config.full_determinism:
        enable_full_determinism(config.seed)
    else:
        set_seed(config.seed)


def prepare(
    config: TrainConfig,
    model: Any,
    train_dataset: Dataset[Any] | None = None,
    eval_dataset: Dataset[Any] | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    data_collator: Collator | None = None,
    compute_metrics: ComputeMetrics | None = None,
    accelerator: Accelerator | None = None,
    padding_edges: tuple[int, ...] | None = None,
    preprocess_logits_for_metrics: PreprocessLogits | None = None,
) -> Run:
    """Put a run together: seeded, the model on its device, the optimizer and the schedule made.

    Arguments are Trainer's: map-style data sets whose rows hold `input_ids` and the like and `label`, a tokenizer as
    `processing_class`, `compute_metrics` from an `EvalPrediction` to named numbers, `preprocess_logits_for_metrics`
    from a batch's logits and labels to what `compute_metrics` needs of them. Seed before you build the model
    (`set_seed(config.seed)`), as for Trainer: its new head is drawn then. Without a training set the run can evaluate
    and predict. `padding_edges`: the lengths to which `data_collator` pads, where that is not each batch's longest row;
    a token budget counts them.

    Raises: UserError when the configuration cannot be carried out.
    Mirrors: Trainer.__init__, then Trainer._prepare_for_training.
    """
    if config.seeds is not None:
        raise UserError("seeds: the command trains several, each in a process of its own; here it is one, with `seed`")
    if config.eval_strategy != "no" and train_dataset is not None and eval_dataset is None:
        raise UserError(f"eval_strategy is {config.eval_strategy}, but no eval_dataset was given")
    if config.padding != "longest" and padding_edges is None:
        raise UserError(
            f"padding: {config.padding} is what a data_collator does: give one (ftloop.padding.collator makes it) and "
            "the lengths it pads to as padding_edges"
        )
    check_schedule(config)
    if accelerator is not None and (problems := _refused(accelerator)):
        raise UserError(*problems)
    seed_everything(config)
    accelerator = accelerator or make_accelerator(config)
    # Before DDP wraps the model, and whether or not an evaluation comes first: Trainer's `evaluate()` before `train()`
    # leaves the model unwrapped, and its processes then train apart.
    model.to(accelerator.device)
    if config.attn_implementation is not None:
        model.set_attn_implementation(config.attn_implementation)
    _check_dropout(config, model)
    freeze(model, config)
    speed_up(model, config.fast_dropout and accelerator.device.type == "cpu", config.first_token_only)
    _align_config(model, processing_class)
    if config.gradient_checkpointing:
        if not hasattr(model, "gradient_checkpointing_enable"):
            raise UserError(f"gradient_checkpointing: {type(model).__name__} has no gradient_checkpointing_enable()")
        try:
            with warnings.catch_warnings():
                # Its name in transformers 6 is another; the oldest supported version has only this one.
                warnings.filterwarnings("ignore", message="`gradient_checkpointing_enable` is deprecated")
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as error:
            raise UserError(f"gradient_checkpointing: {error}") from error
    if train_dataset is not None and len(train_dataset) == 0:  # type: ignore[arg-type]
        raise UserError("the training set has no rows")
    run = Run(
        config=config,
        accelerator=accelerator,
        model=model,
        eval_dataset=eval_dataset,
        processing_class=processing_class,
        data_collator=data_collator or _default_collator(processing_class),
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        state=TrainerState(),
        meter=LossMeter.zero(accelerator.device, skip_non_finite=config.trainer_compat),
        mishaps=Mishaps.none(accelerator.device),
        accepts_loss_kwargs=_accepts_loss_kwargs(model),
        columns=frozenset(inspect.signature(model.forward).parameters) | {"label", "label_ids", "labels"},
        flos_per_token=6 * model.num_parameters(exclude_embeddings=True) if hasattr(model, "num_parameters") else 0,
    )
    if config.class_weights is not None:
        run.class_weights = class_weights(config, train_dataset, model).to(accelerator.device)
    if train_dataset is None:
        run.model = accelerator.prepare_model(model, evaluation_mode=True)
        return run
    if config.class_weights is not None:
        settle_problem_type(model, train_dataset)
    run.train_dataset, run.padding_edges = train_dataset, padding_edges
    _check_alike(run)
    budget = _order_rows(run, padding_edges)
    run.train_loader = train_loader(run)
    num_examples = len(train_dataset)  # type: ignore[arg-type]
    run.plan = make_plan(config, num_examples, len(run.train_loader), accelerator.num_processes, budget)
    check_schedule(config, run.plan.warmup_steps, run.plan.max_steps)
    run.model, run.optimizer = accelerator.prepare(model, create_optimizer(model, config))
    # Accelerate's optimizer is there for the scaler; where there is none, torch's own is stepped (guard.py).
    stepped = run.optimizer if accelerator.scaler is not None or config.trainer_compat else run.optimizer.optimizer
    run.scheduler = create_scheduler(stepped, config, run.plan.warmup_steps, run.plan.max_steps)
    run.stop.group = _stop_group(config, accelerator)
    begin(run.state, config, run.plan, accelerator.is_local_main_process, accelerator.is_main_process)
    return run


def _check_dropout(config: TrainConfig, model: Any) -> None:
    """Raises: UserError for a model that was built with other dropout than is asked for; it cannot be put into it."""
    model_config = getattr(model, "config", None)
    for name, value in dropout_settings(config, model_config).items():
        if getattr(model_config, name, None) != value:
            raise UserError(
                f"{name}: the model was built with {getattr(model_config, name, None)}, not {value}: build it so, "
                "with ftloop.model.load_model or its own configuration"
            )


def _check_alike(run: Run) -> None:
    """Raises: UserError when the processes are not about to make one run of the same rows."""
    if run.accelerator.num_processes == 1:
        return
    settings = {name: value for name, value in run.config.to_dict().items() if name not in OF_A_MACHINE}
    data = {f"{name} data": digest for name, digest in run.data_digests.items()}
    labels = getattr(getattr(run.model, "config", None), "id2label", None)
    check_alike(settings | data | {"labels": labels})


def _stop_group(config: TrainConfig, accelerator: Accelerator) -> Any:
    """The processes once more, over their CPUs."""
    if accelerator.num_processes == 1:
        return None
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=config.ddp_timeout))


def _align_config(model: Any, processing_class: Any) -> None:
    """What Trainer writes into the model's configuration before training, and so into `config.json`."""
    if getattr(model, "config", None) is None:
        return
    model.config.use_cache = False
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        token = getattr(processing_class, name, None)
        if token is not None:
            setattr(model.config, name, token)


def _accepts_loss_kwargs(model: nn.Module) -> bool:
    """Mirrors: Trainer.__init__ (model_accepts_loss_kwargs)."""
    if hasattr(model, "accepts_loss_kwargs"):
        return bool(model.accepts_loss_kwargs)
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())


def _default_collator(processing_class: Any) -> Collator:
    from transformers import default_data_collator

    return default_data_collator if processing_class is None else collator(processing_class)


def _order_rows(run: Run, padding_edges: tuple[int, ...] | None) -> TokenBudget | None:
    """Settle in which order the run deals its rows; and for a token budget, in which batches."""
    count: int = len(run.train_dataset)  # type: ignore[arg-type]
    lengths = padded = None
    if run.config.batching in ("length_grouped", "token_budget"):
        lengths = row_lengths(run.train_dataset, quiet=run.config.disable_tqdm if run.is_main else True)
        padded = padded_lengths(lengths, padding_edges)
        if count >= MANY_ROWS:
            run.say(f"Planning  the order of {count} rows, anew in each epoch")
    run.row_order, budget = order_rows(run.config, count, run.accelerator.num_processes, lengths, padded)
    if budget is None:
        run.sampler = OrderSampler(run.row_order, count)
    else:
        run.sampler = BudgetSampler(budget, run.accelerator.process_index)
    return budget


def train_loader(run: Run) -> DataLoader[Any]:
    """Batches of this process, in the order of `batching`; the random one is `torch.randperm` seeded with seed + epoch.

    Mirrors: Trainer.get_train_dataloader.
    """
    config = run.config
    begin_worker = partial(_begin_worker, num_workers=config.dataloader_num_workers, rank=run.accelerator.process_index)
    if isinstance(run.sampler, BudgetSampler):
        return _loader(run, run.train_dataset, batch_sampler=run.sampler, worker_init_fn=begin_worker)
    return _loader(
        run,
        run.train_dataset,
        batch_size=config.per_device_train_batch_size,
        sampler=run.sampler,
        drop_last=config.dataloader_drop_last,
        worker_init_fn=begin_worker,
    )


def eval_loader(run: Run, dataset: Dataset[Any]) -> DataLoader[Any]:
    """Batches of this process in the rows' order; with `sort_eval`, that of their lengths.

    Its iterator draws one random number, on which the training after it depends; but not that of a loader used before
    whose workers persist. So those loaders are kept, as Trainer keeps them.

    Differs: dataloader_drop_last does not leave rows unevaluated, but with trainer_compat.
    Mirrors: Trainer.get_eval_dataloader.
    """
    config = run.config
    if id(dataset) in run.eval_loaders:
        return run.eval_loaders[id(dataset)][1]
    order = eval_order(run, dataset)
    loader = _loader(
        run,
        dataset,
        batch_size=config.per_device_eval_batch_size,
        sampler=SequentialSampler(dataset) if order is None else OrderSampler(lambda _: order, len(order)),  # type: ignore[arg-type]
        drop_last=config.dataloader_drop_last and config.trainer_compat,
        worker_init_fn=outlive_the_signal,
    )
    if config.dataloader_persistent_workers:
        run.eval_loaders[id(dataset)] = dataset, loader
    return loader


def eval_order(run: Run, dataset: Any) -> np.ndarray | None:
    """The rows in the order in which they are evaluated; None: the data set's own."""
    if not run.config.sort_eval:
        return None
    if id(dataset) not in run.eval_orders:
        quiet = run.config.disable_tqdm if run.is_main else True
        run.eval_orders[id(dataset)] = dataset, longest_first(row_lengths(dataset, quiet=quiet))
    return run.eval_orders[id(dataset)][1]


def _begin_worker(worker_id: int, num_workers: int, rank: int) -> None:
    outlive_the_signal(worker_id)
    seed_worker(worker_id, num_workers=num_workers, rank=rank)


def _loader(run: Run, dataset: Any, **kind: Any) -> DataLoader[Any]:
    config, collate = run.config, run.data_collator
    if hasattr(dataset, "column_names") and hasattr(dataset, "remove_columns"):
        dataset = dataset.remove_columns([name for name in dataset.column_names if name not in run.columns])
    else:
        collate = partial(_collate_known_columns, collate=collate, columns=run.columns)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        collate_fn=collate,
        num_workers=config.dataloader_num_workers,
        persistent_workers=config.dataloader_persistent_workers,
        prefetch_factor=config.dataloader_prefetch_factor,
        pin_memory=config.dataloader_pin_memory and run.accelerator.device.type == "cuda",
        **kind,
    )
    prepared: DataLoader[Any]
    if "batch_sampler" in kind:  # which has dealt the rows to the processes already
        device = run.accelerator.device
        prepared = prepare_data_loader(
            loader,
            device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            non_blocking=run.accelerator.non_blocking,
        )
    else:
        prepared = run.accelerator.prepare(loader)
    if config.dataloader_persistent_workers:
        atexit.register(_end_workers, weakref.ref(prepared))
    return prepared


def _end_workers(loader: weakref.ref[Any]) -> None:
    """Of workers that persist, when Python ends. Ended by a SIGTERM, as multiprocessing would, they would first outlive
    it for a minute, and the end of the run would wait for them.
    """
    base = getattr(loader(), "base_dataloader", None)
    iterator = getattr(base, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()


def _collate_known_columns(examples: list[Any], collate: Collator, columns: frozenset[str]) -> Inputs:
    """Mirrors: transformers.trainer_utils.RemoveColumnsCollator."""
    if examples and isinstance(examples[0], Mapping):
        examples = [{name: value for name, value in example.items() if name in columns} for example in examples]
    return collate(examples)


def num_rows(inputs: Inputs) -> int:
    """Rows of a batch."""
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim)


def first_rows(inputs: Inputs, count: int) -> Inputs:
    """The first `count` rows of a batch."""
    return rows_between(inputs, 0, count)


def rows_between(inputs: Inputs, start: int, stop: int) -> Inputs:
    return {name: v[start:stop] if isinstance(v, Tensor) and v.ndim else v for name, v in inputs.items()}
