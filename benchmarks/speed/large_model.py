"""How much memory a large model takes to train, by ftloop and by transformers.Trainer at the same settings.

    python benchmarks/speed/large_model.py                         bert-large's shape; 20 minutes or more on two cores
    python benchmarks/speed/large_model.py --cases fp32 bf16
    python benchmarks/speed/large_model.py --continue              goes on with what an earlier call has left undone
    python benchmarks/speed/large_model.py --quick                 a tiny shape: to see that it works

Each run is a process of its own, by one_run.py: it loads the same random weights from one folder, makes a few updates
of rows that are all equally long, and evaluates and saves nothing, but for the case `save`. Sides take turns, and their
order is turned round at every case. On a CPU the peak is that of the process's resident set, libraries included; on a
GPU it is torch.cuda.max_memory_allocated. Beside that of a CPU stands what it should be, on paper.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, device, finish, has_gpu, machine, versions

ACCUMULATION = 4
CASES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": True},
    "checkpointing": {"gradient_checkpointing": True},
    "bf16-checkpointing": {"bf16": True, "gradient_checkpointing": True},
    "accumulation": {"gradient_accumulation_steps": ACCUMULATION},
    "all-three": {"bf16": True, "gradient_checkpointing": True, "gradient_accumulation_steps": ACCUMULATION},
    "save": {"save_strategy": "steps"},
}
SIDES = ("trainer", "ftloop-plain", "ftloop")


@dataclass(frozen=True)
class Sizes:
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    rows: int
    """Rows of an update."""
    length: int
    """Tokens of each row."""
    updates: int
    """At least two: AdamW's state is made at the end of the first."""

    @property
    def shape(self) -> dict[str, int]:
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocabulary,
        }


FULL = Sizes(24, 1024, 4096, 16, 30522, 8, 128, 2)
QUICK = Sizes(2, 64, 256, 4, 500, 4, 16, 2)


def layer_bytes(sizes: Sizes, rows: int, bf16: bool) -> int:
    """Return the bytes one layer keeps for the backward pass of `rows` rows, on a CPU, with dropout.

    In float32: its input, query, key, value, attended values, the inputs of two norms and one norm's output, two
    dropout masks: ten numbers of `hidden` for each token; two of `intermediate` around the activation function; the
    mean and deviation of two norms; and for every pair of tokens and every head the softmax, its dropout mask and their
    product. In bf16 the attention and the norms' inputs and masks stay float32 or are kept in both, the rest is halved,
    and copies of the weight matrices in bf16 come on top.
    """
    tokens, hidden, between = rows * sizes.length, sizes.hidden, sizes.intermediate
    pairs = 3 * 4 * sizes.heads * tokens * sizes.length
    if not bf16:
        return 4 * tokens * (10 * hidden + 2 * between + 4) + pairs
    copies = 2 * (4 * hidden * hidden + 2 * hidden * between)
    return tokens * (4 * 5 * hidden + 2 * 7 * hidden + 2 * 2 * between + 4 * 4) + pairs + copies


def activation_bytes(sizes: Sizes, rows: int, bf16: bool, checkpointing: bool) -> int:
    """Return the bytes the model keeps, but for a little in its head.

    With checkpointing, layers keep their input, and one of them all.
    """
    one_width, one_layer = 4 * rows * sizes.length * sizes.hidden, layer_bytes(sizes, rows, bf16)
    layers = sizes.layers * one_width + one_layer if checkpointing else sizes.layers * one_layer
    return (
        layers + 3 * one_width
    )  # the embeddings' norm's input and dropout mask; what the last layer hands to the head


def bytes_on_paper(sizes: Sizes, parameters: int, settings: dict[str, Any]) -> int:
    """The least that an update can do with once AdamW has its state: what the libraries take is not in it.

    Twelve bytes a parameter stay: the weight and AdamW's two means. Four of the gradient come while the backward pass
    gives the activations back, so the larger of the two counts; but where gradients accumulate, they are there already.
    """
    micro_batches = settings.get("gradient_accumulation_steps", 1)
    is_checkpointing = settings.get("gradient_checkpointing", False)
    rows, bf16 = sizes.rows // micro_batches, settings.get("bf16", False)
    activations = activation_bytes(sizes, rows, bf16, is_checkpointing)
    if micro_batches > 1:
        return 16 * parameters + activations
    return 12 * parameters + max(activations, 4 * parameters)


def one_run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    given, result = folder / "job.json", folder / "result.json"
    given.write_text(json.dumps(job))
    finish([sys.executable, "benchmarks/speed/one_run.py", str(given), str(result)], dict(os.environ))
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def measure(
    sizes: Sizes, names: list[str], sides: tuple[str, ...], repeats: int, result: dict[str, Any], output: Path
) -> None:
    """Every run that is not there yet; the result is written anew after each."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job: dict[str, Any] = {"shape": sizes.shape, "folder": str(folder / "model")}
        result["parameters"] = one_run({"kind": "model"} | job, folder)["parameters"]
        del job["shape"]
        job |= {"kind": "large", "rows_per_update": sizes.rows, "length": sizes.length, "updates": sizes.updates}
        for number in range(repeats):
            for turn, name in enumerate(names):
                for side in sides if (turn + number) % 2 == 0 else sides[::-1]:
                    runs = result["runs"].setdefault(name, {}).setdefault(side, [])
                    if len(runs) > number:
                        continue
                    settings = dict(CASES[name])
                    micro_batches = settings.get("gradient_accumulation_steps", 1)
                    settings |= {"per_device_train_batch_size": sizes.rows // micro_batches}
                    if name == "save":
                        settings |= {"save_steps": sizes.updates}
                    load = os.getloadavg()[0]
                    print(f"{time.strftime('%H:%M:%S')} {name}, {side} (load {load:.1f})", flush=True)
                    found = one_run(job | {"side": side, "settings": settings}, folder)
                    runs.append(found | {"load_before": load})
                    judge(sizes, result)
                    output.write_text(json.dumps(result, indent=2) + "\n")


def judge(sizes: Sizes, result: dict[str, Any]) -> None:
    """Fill in the medians of each case, and what memory should take."""
    result["cases"] = {}
    for name in (name for name in CASES if any(result["runs"].get(name, {}).values())):
        runs = {side: found for side, found in result["runs"][name].items() if found}
        told: dict[str, Any] = {"settings": CASES[name]}
        if not has_gpu():  # whose attention keeps other things, and whose kernels may add in another order each time
            weights = {run["weights"] for side in runs.values() for run in side}
            told["on_paper_mb"] = bytes_on_paper(sizes, result["parameters"], CASES[name]) / 1e6
            told["same_weights"] = len(weights) == 1
        for side, found in runs.items():
            told[side] = {
                value: statistics.median(run[value] for run in found)
                for value in ("peak_mb", "loaded_mb", "libraries_mb", "seconds_per_update", "save_seconds")
            }
            told[side]["of_training_mb"] = statistics.median(run["peak_mb"] - run["libraries_mb"] for run in found)
        for side in SIDES[1:]:
            if side in told and "trainer" in told:
                told[side]["to_trainer"] = told[side]["peak_mb"] / told["trainer"]["peak_mb"]
        result["cases"][name] = told


def show(result: dict[str, Any]) -> None:
    parameters = result["parameters"]
    print(f"\n{parameters / 1e6:.1f} M parameters; 16 bytes for each: {16 * parameters / 1e6:.0f} MB. Peaks, in MB")
    print(
        f"{'case':<19} {'side':<13} {'peak':>6} {'to Trainer':>10} {'of training':>14} {'on paper':>9} {'s/update':>9}"
    )
    for name, told in result["cases"].items():
        for side in (side for side in SIDES if side in told):
            of_side = told[side]
            ratio = f"{of_side['to_trainer']:.3f}" if "to_trainer" in of_side else ""
            on_paper = f"{told['on_paper_mb']:.0f}" if "on_paper_mb" in told else "-"
            saved = f"  saved in {of_side['save_seconds']:.1f} s" if of_side["save_seconds"] else ""
            print(
                f"{name:<19} {side:<13} {of_side['peak_mb']:>6.0f} {ratio:>10} {of_side['of_training_mb']:>14.0f} "
                f"{on_paper:>9} {of_side['seconds_per_update']:>9.2f}{saved}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="NAME", choices=CASES, help=f"of {', '.join(CASES)}")
    on_gpu = SIDES[:2]  # the allocator's setting is for the CPU's memory
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=on_gpu if has_gpu() else SIDES)
    parser.add_argument("--repeats", type=int, default=1, help="(1) memory is much the same in every run")
    parser.add_argument("--quick", action="store_true", help="a tiny shape")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="keep the runs that are there")
    parser.add_argument("--output", type=Path, default=RESULTS / "large_model.json")
    given = parser.parse_args()
    sizes = QUICK if given.quick else FULL
    given.output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"conditions": {**versions(), **machine(), **device(), "sizes": vars(sizes)}, "runs": {}}
    result["conditions"]["memory"] = (
        "torch.cuda.max_memory_allocated" if has_gpu() else "peak resident set of the process, libraries included"
    )
    if given.go_on and given.output.is_file():
        kept = json.loads(given.output.read_text())
        if kept["conditions"] != result["conditions"]:
            raise SystemExit(f"{given.output}: made under other conditions; leave --continue out")
        result["runs"] = kept["runs"]
    result["command"] = shlex.join(["python", "benchmarks/speed/large_model.py", *sys.argv[1:]])
    names = [name for name in CASES if name in (given.cases or CASES)]
    print(json.dumps(result["conditions"], indent=1))
    measure(sizes, names, tuple(given.sides), given.repeats, result, given.output)
    judge(sizes, result)
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
