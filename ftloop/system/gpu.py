"""Whether this build of torch can compute on the GPU that is there."""

from __future__ import annotations

import re

import torch

from ftloop.errors import UserError


def check_kernels(device: torch.device, way_out: str) -> None:
    """Try a first kernel on a CUDA device: a build of torch holds code for some GPUs, and it may be for other ones.

    Raises: UserError with the builds that have it, or else `way_out`.
    """
    try:
        torch.ones(1, device=device) + 1
    except RuntimeError as error:
        if "no kernel image" not in str(error):
            raise
        major, minor = torch.cuda.get_device_capability(device)
        built_for = torch.cuda.get_arch_list()
        newest = max(map(int, re.findall(r"sm_(\d+)", " ".join(built_for))), default=0)
        other = "a newer CUDA" if 0 < newest < 10 * major + minor else "an older CUDA, such as cu126"
        raise UserError(
            f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(device)}, a GPU of compute "
            f"capability {major}.{minor}: it is built for {', '.join(built_for) or 'none'}; install a build of torch "
            f"for {other}, or {way_out}"
        ) from error
