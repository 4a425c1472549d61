"""What recording costs: the same ftloop run without, with `--record` and with `--record_full`, alternating.

    python benchmarks/speed/recording.py                 300 rows of training, one epoch, 5 runs of each

What is timed is `train()`, evaluation and saving included. All runs must end in the same weights: recording changes no
bit. Reported are medians with minimum and maximum, and the ratio of the medians to the run without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, conditions
from benchmarks.fidelity.parity import arguments, ftloop_side

MODES: dict[str, dict[str, Any]] = {"none": {}, "cheap": {}, "full": {"record_full": True}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "recording.json")
    given = parser.parse_args()
    mrpc = os.environ.get("FTLOOP_MRPC_DIR")
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    weights, size = set(), {}
    for repeat in range(given.repeats):
        for mode in list(MODES) if repeat % 2 == 0 else list(MODES)[::-1]:  # none is always the warm one
            with tempfile.TemporaryDirectory() as folder:
                args = arguments("fp32", 1, 1.0, f"{folder}/out") | {"logging_steps": 50} | MODES[mode]
                file = None if mode == "none" else Path(folder) / "run.jsonl"
                done = ftloop_side(mrpc, given.rows, args, file)
                seconds[mode].append(done.seconds)
                weights.add(done.weights)
                size[mode] = file.stat().st_size if file else 0
    if len(weights) != 1:
        print("the runs did not end in the same weights: recording has changed one")
        return 1
    updates = -(-given.rows // 16)
    table = {
        mode: {
            "seconds": values,
            "milliseconds_per_update_above_none": 1e3
            * (statistics.median(values) - statistics.median(seconds["none"]))
            / updates,
            "ratio_of_medians": statistics.median(values) / statistics.median(seconds["none"]),
            "bytes_per_update": size[mode] / updates,
        }
        for mode, values in seconds.items()
    }
    for mode, row in table.items():
        values = seconds[mode]
        print(
            f"{mode:<6} {statistics.median(values):6.2f} s (min {min(values):.2f}, max {max(values):.2f})  ratio "
            f"{row['ratio_of_medians']:.3f}  {row['milliseconds_per_update_above_none']:+.1f} ms and "
            f"{row['bytes_per_update']:.0f} bytes per update, n={given.repeats}"
        )
    told = {"data": "MRPC" if mrpc else "built-in pairs", "rows": given.rows, "model": "all-MiniLM-L6-v2"}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps({"conditions": conditions() | told, **table}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
