"""How long Trainer and ftloop take for the very same run, alternating in this process.

    python benchmarks/throughput.py                 600 rows of training, one epoch, 3 runs of each side
    python benchmarks/throughput.py --repeats 5 --rows 1200

Both sides run with the same arguments, threads, logging, evaluation and saving; what is timed is `train()`. Reported
are medians with minimum and maximum, and the ratio of the medians (below 1: ftloop is faster). The final weights of
both sides must be the same bytes, or the comparison is void.
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

from parity import PACKAGED_MODEL, RESULTS, arguments, conditions, ftloop_side, local_model_folder, trainer_side


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json")
    given = parser.parse_args()
    mrpc = os.environ.get("FTLOOP_MRPC_DIR")
    model_dir = str(local_model_folder(PACKAGED_MODEL))
    table: dict[str, Any] = {}
    for precision in given.precision:
        seconds: dict[str, list[float]] = {"Trainer": [], "ftloop": []}
        weights = set()
        for repeat in range(given.repeats):
            with tempfile.TemporaryDirectory() as folder:
                args = arguments(precision, 1, 1.0, f"{folder}/trainer") | {"logging_steps": 50}
                sides = {
                    "Trainer": lambda args=args: trainer_side(model_dir, mrpc, given.rows, args),
                    "ftloop": lambda args=args, folder=folder: ftloop_side(
                        mrpc, given.rows, args | {"output_dir": f"{folder}/ftloop"}
                    ),
                }
                order = list(sides) if repeat % 2 == 0 else list(sides)[::-1]  # neither is always the warm one
                for name in order:
                    done = sides[name]()
                    seconds[name].append(done.seconds)
                    weights.add(done.weights)
        if len(weights) != 1:
            print(f"{precision}: the two sides did not end in the same weights; no comparison")
            return 1
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        table[precision] = {
            "seconds": seconds,
            "ratio_of_medians": medians["ftloop"] / medians["Trainer"],
            "ratio_min": min(seconds["ftloop"]) / max(seconds["Trainer"]),
            "ratio_max": max(seconds["ftloop"]) / min(seconds["Trainer"]),
        }
        for name, values in seconds.items():
            print(f"{precision:<5} {name:<8} {medians[name]:7.1f} s  (min {min(values):.1f}, max {max(values):.1f})")
        row = table[precision]
        print(
            f"{precision:<5} ratio    {row['ratio_of_medians']:7.3f}    "
            f"({row['ratio_min']:.3f} to {row['ratio_max']:.3f}), n={given.repeats}"
        )
    given.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"conditions": conditions() | {"data": "MRPC" if mrpc else "built-in pairs", "rows": given.rows}} | table
    result["conditions"]["command"] = " ".join(["python", "benchmarks/throughput.py", *sys.argv[1:]])
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
