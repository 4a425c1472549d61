"""The Accelerator of a run: device, precision and processes."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    DynamoBackend,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
    parse_flag_from_env,
)

from ftloop.errors import UserError
from ftloop.system.console import say
from ftloop.system.distributed import gloo_told, let_gloo_end
from ftloop.system.gpu import check_kernels
from ftloop.system.launch_checks import check_gpus, check_launched, launcher_flag
from ftloop.system.launcher import environment_number, launched_local_rank, launched_processes

if TYPE_CHECKING:
    from ftloop.config.train_config import TrainConfig

# What Accelerate may be asked for by its config file, a flag of `accelerate launch` or a plugin, all of which end in
# the environment, and what nothing here would do. On the CPU it would train by plain DDP, and not say so.
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}


@gloo_told()
def make_accelerator(config: TrainConfig) -> Accelerator:
    """Device, precision and processes. Draws no random numbers.

    Raises: UserError when the device cannot do what was asked, or the launcher asks for something else.
    Mirrors: Trainer.create_accelerator_and_postprocess.
    """
    check_device(config)
    precision = mixed_precision(config)
    check_launched()
    if uses_cuda(config):
        check_gpus()
    _tell_of_launcher(config)
    # Accelerate's state is a singleton; a second run in one process may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    find_unused = config.ddp_find_unused_parameters
    if find_unused is None:  # as Trainer: it changes the buckets and so, from 3 processes on, the bits
        find_unused = not config.gradient_checkpointing
    handlers: list[Any] = [
        DistributedDataParallelKwargs(find_unused_parameters=find_unused),
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
            # A copy from pinned memory runs while the GPU computes; other devices may read what is not there yet.
            non_blocking=config.dataloader_pin_memory and uses_cuda(config),
        ),
        dynamo_plugin=_compiler(config),
        kwargs_handlers=handlers,
    )
    let_gloo_end(accelerator)
    _check_auto_micro_batch(config, accelerator)
    if config.tf32 is not None:
        _allow_tf32(config.tf32)
    return accelerator


def check_accelerator(accelerator: Accelerator, config: TrainConfig) -> Accelerator:
    """An accelerator that `prepare` was given, with TF32 as the settings say.

    Raises: UserError where it does something else than these.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    wanted = "fp16" if config.fp16 else "bf16" if config.bf16 else launched
    given, steps = accelerator.mixed_precision, accelerator.gradient_accumulation_steps
    problems = refused_features(accelerator)
    if given != wanted:
        setting = "fp32 (neither bf16 nor fp16)" if wanted == "no" else wanted
        problems.append(f"accelerator: has mixed_precision={given!r}, and the settings say {setting}; they must agree")
    if steps not in (1, config.gradient_accumulation_steps):
        problems.append(
            f"accelerator: has gradient_accumulation_steps={steps}, and the settings say "
            f"{config.gradient_accumulation_steps}, by which the loop goes; they must agree"
        )
    if accelerator.split_batches:
        problems.append("accelerator: has split_batches=True; per_device_train_batch_size counts the rows of a process")
    if not accelerator.even_batches:
        problems.append("accelerator: has even_batches=False; every process must have as many batches as the others")
    if config.torch_compile and accelerator.state.dynamo_plugin.backend == DynamoBackend.NO:
        problems.append("torch_compile: is done by the accelerator that prepare makes; leave one of them out")
    if problems:
        raise UserError(*problems)
    _check_auto_micro_batch(config, accelerator)
    if config.tf32 is not None:
        _allow_tf32(config.tf32)
    return accelerator


def _check_auto_micro_batch(config: TrainConfig, accelerator: Accelerator) -> None:
    if config.auto_micro_batch and accelerator.num_processes > 1:
        raise UserError(
            f"auto_micro_batch: works on one process, not on {accelerator.num_processes}: the others would wait in the "
            "exchange of gradients for one that has to begin its update again; use a smaller "
            "--per_device_train_batch_size with more --gradient_accumulation_steps"
        )


def _compiler(config: TrainConfig) -> TorchDynamoPlugin:
    """The compiler of `torch_compile`: one graph for each of a few padded lengths, which later batches find ready; else
    one for all shapes, as torch makes it at the second shape.
    """
    if not config.torch_compile:
        return TorchDynamoPlugin(backend=None)
    kind, _, number = config.padding.partition(":")
    if kind not in ("buckets", "max_length"):
        return TorchDynamoPlugin(backend="inductor", mode=config.torch_compile_mode)
    import torch._dynamo

    # For each length, and one above the training set's: whole batches and the last one. No evaluation is compiled.
    shapes = 2 * (int(number or 1) + 1)
    if config.gradient_accumulation_steps > 1:
        shapes *= 2  # under DDP once more for micro-batches whose gradients are not exchanged yet
    if config.auto_micro_batch:
        shapes *= 1 + math.ceil(math.log2(config.per_device_train_batch_size))  # once more for each halving
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, shapes)
    return TorchDynamoPlugin(backend="inductor", mode=config.torch_compile_mode, dynamic=False)


def mixed_precision(config: TrainConfig) -> str:
    """`no`, `fp16` or `bf16`: ours, or the launcher's where ours does not say.

    Raises: UserError on a conflict, and for what the device cannot do.
    """
    problems = refused_features()
    accumulation = environment_number("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", 1)
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
    elif config.mixed_precision == "no" and launched != "no":
        problems.append(f"mixed_precision: no conflicts with the launcher's --mixed_precision {launched}")
    precision = launched if asked == "no" else asked
    cuda = uses_cuda(config)
    if precision == "fp16" and not cuda:
        problems.append("fp16: needs a CUDA device, and there is none in use; --bf16 works on the CPU too")
    if precision == "bf16" and cuda and not torch.cuda.is_bf16_supported():  # or emulated
        problems.append("bf16: this GPU cannot do it; use --fp16")
    if config.tf32 and not (cuda and torch.cuda.get_device_capability() >= (8, 0)):
        problems.append("tf32: needs an Ampere or newer GPU")
    if config.fast_dropout and config.torch_compile and (config.use_cpu or not torch.accelerator.is_available()):
        problems.append("fast_dropout and torch_compile: choose one; each dropout would break the compiled graph")
    if problems:
        raise UserError(*problems)
    return precision


def _tell_of_launcher(config: TrainConfig) -> None:
    """Warn of what `accelerate launch` hands to DeepSpeed alone, and of what it turns on without a word."""
    for flag, setting in {"gradient_accumulation_steps": "", "gradient_clipping": "max_grad_norm"}.items():
        name, given = setting or flag, launcher_flag(flag)
        ours = getattr(config, name)
        if given is not None and given not in (str(ours), f"{ours:g}"):
            say(
                "Warning",
                f"accelerate launch hands its --{flag} {given} to DeepSpeed alone, and this run has {name} {ours:g}; "
                f"give it to the run: --{name} {given} behind train.py, or TrainConfig({name}={given})",
            )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no" and not config.torch_compile:
        say(
            "Warning",
            f"the launcher's --dynamo_backend {backend} compiles the model, which is slow to start and changes the "
            "last bits; --torch_compile says so in the run's own settings, --dynamo_backend no leaves it out",
        )


def _allow_tf32(is_allowed: bool) -> None:
    """By torch's older settings, which its compiler still asks for and which must not contradict the newer ones, and
    then by the one that Trainer sets. Not by transformers' function, which is cached: in one process it does nothing
    the second time.

    Mirrors: transformers.utils.import_utils.enable_tf32.
    """
    every: Any = torch.backends
    torch.set_float32_matmul_precision("high" if is_allowed else "highest")
    every.cudnn.allow_tf32 = is_allowed
    if hasattr(every, "fp32_precision"):
        # Not the one of all alone: torch.compile leaves each with one of its own, which it then keeps.
        for backend in (every, every.cuda.matmul, every.cudnn.conv, every.cudnn.rnn):
            backend.fp32_precision = "tf32" if is_allowed else "ieee"


def check_device(config: TrainConfig) -> None:
    """Raises: UserError when torch has no code for the GPU that this process is to use."""
    if uses_cuda(config):
        number = f":{launched_local_rank() % torch.cuda.device_count()}" if launched_processes() > 1 else ""
        check_kernels(torch.device(f"cuda{number}"), "stay on the CPU with --use_cpu")


def uses_cuda(config: TrainConfig) -> bool:
    return torch.cuda.is_available() and not (config.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))


def refused_features(accelerator: Accelerator | None = None) -> list[str]:
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
