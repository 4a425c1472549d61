"""Memory that does not suffice: how it shows, what takes it, and what to try."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftloop.errors import FtloopError, TrainingError, summarize

if TYPE_CHECKING:
    from torch import Tensor

# Beside torch's own words, for whichever device, those of the libraries below it, which want memory of their own when
# they are first used. Accelerate's should_reduce_batch_size knows five of these.
_NO_MEMORY = re.compile(
    r"out.of.((device|host|shared).)?memory|OutOfMemory|(can't|cannot|failed to) allocate|alloc(ation)?.failed"
    r"|not enough memory|insufficient memory|invalid buffer size|cudaErrorMemoryAllocation|ERROR_OUT_OF_RESOURCES"
    r"|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_NOT_INITIALIZED|CUDNN_STATUS_NOT_SUPPORTED\.",
    re.I,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory does not suffice: torch's, its libraries' or Python's own."""
    torch = sys.modules.get("torch")  # not imported: then it is not torch's
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    is_ours = isinstance(error, FtloopError)
    return isinstance(error, RuntimeError) and not is_ours and _NO_MEMORY.search(str(error)) is not None


@contextmanager
def memory_told(what: str, parameters: Iterable[Tensor]) -> Iterator[None]:
    """Tell where the memory does not suffice for `what`, of which nothing can be split. `parameters`: the model's.

    Raises: TrainingError with what takes the memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        uses = "" if "shared memory" in str(error) else f"\n  {_uses(parameters)}"
        problem = TrainingError(f"{describe(what, error)}{uses}")
        problem.is_of_one_process = True
        raise problem from error


def describe(what: str, error: Exception) -> str:
    """Say that the memory does not suffice for something, and where to look."""
    if "shared memory" in str(error):
        way = "--dataloader_num_workers 0, or a larger /dev/shm (docker run --shm-size)"
    else:
        way = "look at what else takes it (nvidia-smi for a GPU, free -h for the machine)"
    return f"{what} did not fit into memory ({summarize(error)[:200]})\n  what to try: {way}"


def _uses(parameters: Iterable[Tensor]) -> str:
    sizes = [(weight.numel() * weight.element_size() / 1e6, weight.requires_grad) for weight in parameters]
    weights, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    return (
        f"what it takes, whatever the batch: {weights:.0f} MB of weights, and in training {trained:.0f} MB of gradients"
        f" and, from the first update on, {2 * trained:.0f} MB of AdamW's own numbers; --lora_r 8 and --freeze_layers "
        "leave fewer weights to train"
    )
