"""What there is: python benchmarks/gpu_check/environment.py JOB.json FOUND.json"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import ftloop  # fails here where a library is missing
from benchmarks.common import has_gpu, versions
from ftloop.run.precision import has_native_bf16


def main() -> int:
    found: dict[str, Any] = {**versions(), "ftloop": ftloop.__version__, "cuda": torch.version.cuda}
    if has_gpu():
        found |= {
            "device": torch.cuda.get_device_name(),
            "capability": list(torch.cuda.get_device_capability()),
            "devices": torch.cuda.device_count(),
            "native_bf16": has_native_bf16(),
            "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
            "nccl": torch.distributed.is_nccl_available(),
        }
    if shutil.which("nvidia-smi"):
        print(subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
    Path(sys.argv[2]).write_text(json.dumps(found, indent=1))
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
