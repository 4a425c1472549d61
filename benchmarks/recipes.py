"""What the recipes guide, few and stable reach: the same rows, five seeds each, on 300 built-in rows and on MRPC.

    python benchmarks/recipes.py                    all three on the 300 rows
    python benchmarks/recipes.py --data mrpc        on MRPC, where FTLOOP_MRPC_DIR names its folder; hours on two cores
    python benchmarks/recipes.py --continue         goes on with what an earlier call has left undone
    python benchmarks/recipes.py --quick            few rows and two seeds: to see that it works

Each row of the table is `ftloop train RECIPE --seeds ...` with the packaged model, and with three flags that make a run
cheaper and are the same for all. Scores are those of the test set; where a recipe picks a checkpoint, it is by the
validation set. A seed whose model gives one answer to all rows has collapsed. Scores do not suffer from a machine that
does other things too, so none of the figures is a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import FTLOOP, RESULTS, ROOT, finish, machine, versions
from ftloop.report.outcome import SERIES
from ftloop.system.hub import PACKAGED_MODEL

RECIPES = ("guide", "few", "stable")
SAME = ["--mixed_precision", "auto", "--padding", "none", "--first_token_only", "--disable_tqdm"]
ROWS = {"built-in": 300, "mrpc": None}
QUICK = ["--max_train_samples", "24", "--max_eval_samples", "16", "--max_predict_samples", "16", "--max_steps", "3"]


def data_flags(data: str) -> list[str]:
    if data == "built-in":
        return ["--task_name", "demo", "--max_train_samples", str(ROWS[data])]
    folder = os.environ.get("FTLOOP_MRPC_DIR")
    if folder is None:
        raise SystemExit("--data mrpc: FTLOOP_MRPC_DIR names no folder with MRPC's train, validation and test.jsonl")
    files = [f"--{split}_file={Path(folder).resolve() / split}.jsonl" for split in ("train", "validation", "test")]
    return ["--task_name", "mrpc", *files]


def trained(recipe: str, data: str, seeds: list[int], quick: bool, go_on: bool) -> dict[str, Any]:
    """Train a recipe with every seed. Returns: what its seeds.json says, and the command."""
    folder = ROOT / "runs" / "recipes" / ("quick" if quick else data) / recipe
    if not go_on:
        shutil.rmtree(folder, ignore_errors=True)
    words = [recipe, "--model_name_or_path", PACKAGED_MODEL, *data_flags(data), *SAME, *(QUICK if quick else [])]
    words += ["--seeds", ",".join(map(str, seeds))]
    resumed = ["--resume_from_checkpoint", "last"] if folder.is_dir() else []
    finish([*FTLOOP, *words, *resumed, "--output_dir", str(folder)], dict(os.environ))
    told = json.loads((folder / SERIES["seed"]).read_text("utf-8"))
    updates = [
        json.loads((folder / f"seed-{seed}" / "trainer_state.json").read_text("utf-8"))["global_step"] for seed in seeds
    ]
    shown = [Path(word).name if data == "mrpc" and "_file=" in word else word for word in words]
    return {"command": shlex.join(["ftloop", "train", *shown]), "updates": updates} | told


def table(result: dict[str, Any]) -> str:
    lines = [
        "| recipe | updates | accuracy, mean (min to max) | deviation | F1, mean | collapsed seeds |",
        "|---|---|---|---|---|---|",
    ]
    for recipe, told in result["recipes"].items():
        accuracy, f1 = (told["together"][f"test_{score}"] for score in ("accuracy", "f1"))
        low, mean, high = (100 * accuracy[name] for name in ("min", "mean", "max"))
        updates = sorted({min(told["updates"]), max(told["updates"])})
        cells = (
            recipe,
            " to ".join(map(str, updates)),
            f"{mean:.1f} % ({low:.1f} to {high:.1f})",
            f"{100 * accuracy['std']:.1f}" if accuracy["std"] is not None else "",
            f"{f1['mean']:.3f}",
            f"{len(told['collapsed'])} of {len(told['seeds'])}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(ROWS), default="built-in")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--quick", action="store_true", help="few rows and two seeds")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="keep the seeds that are there")
    parser.add_argument("--output", type=Path, help="beside it: .md (benchmarks/results/recipes-DATA.json)")
    given = parser.parse_args()
    seeds = given.seeds[:2] if given.quick else given.seeds
    path = given.output or RESULTS / f"recipes-{given.data}.json"
    conditions = {**versions(), **machine(), "data": given.data, "train_rows": ROWS[given.data], "seeds": seeds}
    result: dict[str, Any] = {"conditions": conditions, "recipes": {}}
    for recipe in given.recipes:
        result["recipes"][recipe] = trained(recipe, given.data, seeds, given.quick, given.go_on)
        path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        path.with_suffix(".md").write_text(table(result), "utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
