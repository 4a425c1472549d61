"""ftloop and transformers.Trainer side by side: time, memory, and what the fast recipe gains and costs.

    python benchmarks/speed/throughput.py   every row; hours on two cores
        --rows loop-cost first-update
        --continue                          goes on with what an earlier call has left undone
        --continue --report                 runs nothing more, and writes what is there
        --quick                             few rows and updates: to see that it works

Each run is a process of its own: `python ftloop/train.py ...` against benchmarks/fidelity/trainer_script.py, the script
a user writes, with the same arguments. Sides alternate, and their order is turned round at every repeat. A row's ratio
is that of the medians, ftloop's to Trainer's; min and max are of the ratios within a repeat. Before anything is timed,
each side has tokenized the data and cached it. The data is GLUE MRPC where FTLOOP_MRPC_DIR names a folder with its
train, validation and test.jsonl, else the built-in sentence pairs.

Finished runs are kept as lines of JSON beside the result, which is written anew from them after every run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, ROOT, device, has_gpu, machine, versions
from benchmarks.speed.throughput_rows import EXTRA, FULL, GUIDE, PLAIN, QUICK, ROWS, WHOLE, Row
from benchmarks.speed.throughput_runs import Bench


def measure(bench: Bench, rows: list[str], repeats: int, seeds: list[int], report: Callable[[], None]) -> None:
    """Every variant that the rows need, in turn."""
    variants: dict[str, None] = {}
    for name in rows:
        if name == EXTRA:
            variants |= dict.fromkeys(("matmul-fp32", "matmul-bf16"))
        elif not name.startswith("cuda") or has_gpu():
            row = ROWS[name]
            variants |= dict.fromkeys((*row.needs, row.theirs, row.ours))
    over_seeds = [name for name in variants if name.split("-")[0] in WHOLE]
    repeated = [name for name in variants if name not in over_seeds]
    for names, numbers in ((repeated, list(range(repeats))), (over_seeds, seeds)):
        for turn, number in enumerate(numbers):
            for name in names if turn % 2 == 0 else names[::-1]:  # neither side is always the first
                bench.run(name, number)
                report()


def judged(bench: Bench, row: Row) -> dict[str, Any]:
    """A row's figures, or why there are none."""
    told: dict[str, Any] = {"what": row.told, "ours": row.ours, "theirs": row.theirs, "value": row.value}
    told["target"] = row.target
    ours, theirs = (_values(bench, side, row.value) for side in (row.ours, row.theirs))
    both = sorted(ours.keys() & theirs.keys())
    if row.same_accuracy:  # over the runs of a busy machine too, which have no times
        told["accuracy"] = {score: _paired(bench, row, score) for score in ("accuracy", "f1")}
    if not both:
        gpu = row.name.startswith("cuda") and not has_gpu()
        return told | {"not_measured": "no CUDA GPU" if gpu else "no finished pair of runs"}
    told["n"] = len(both)
    for side, values in (("ftloop", ours), ("trainer", theirs)):
        used = [values[number] for number in both]
        told[side] = {"median": statistics.median(used), "min": min(used), "max": max(used), "all": used}
    ratios = [ours[number] / theirs[number] for number in both]
    told["ratio"] = told["ftloop"]["median"] / told["trainer"]["median"]
    told["ratio_min"], told["ratio_max"] = min(ratios), max(ratios)
    told["reached"] = told["ratio"] <= row.target
    if row.same_weights:
        weights = [set(bench.values(side, "weights").values()) for side in (row.ours, row.theirs, *row.needs)]
        if len(set.union(*weights)) != 1:
            told |= {"void": "the sides did not end in the same weights", "reached": False}
    for name in ("syncs_per_micro_batch", "peak_mb"):
        if row.name.startswith("cuda"):
            told[name] = {side: [*bench.values(side, name).values()] for side in (row.ours, row.theirs)}
    return told


def _values(bench: Bench, variant: str, value: str) -> dict[int, float]:
    if value != "ms_above_bare":
        return bench.values(variant, value)
    bare = bench.values("loop-bare", "ms_per_step")
    return {number: ms - bare[number] for number, ms in bench.values(variant, "ms_per_step").items() if number in bare}


def _paired(bench: Bench, row: Row, score: str) -> dict[str, Any]:
    """A score of both sides over the same seeds, in points, and whether their difference is more than chance."""
    by_seed = [bench.values(side, score) for side in (row.ours, row.theirs)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    ours, theirs = ([100 * side[seed] for seed in seeds] for side in by_seed)
    told: dict[str, Any] = {"seeds": seeds, "ftloop": ours, "trainer": theirs}
    if not seeds:
        return told
    told["difference_of_means"] = statistics.mean(ours) - statistics.mean(theirs)
    told["within_one_point"] = abs(told["difference_of_means"]) <= 1
    if len(seeds) > 1 and ours != theirs:
        from scipy.stats import ttest_rel, wilcoxon

        paired = ttest_rel(ours, theirs)
        told["p_ttest_rel"] = float(paired.pvalue)
        told["interval_95"] = [float(end) for end in paired.confidence_interval()]
        told["p_wilcoxon"] = float(wilcoxon(ours, theirs).pvalue)
    return told


def arithmetic(bench: Bench) -> dict[str, Any]:
    """Return the share of the machine's peak in matrix products that each side's training reaches.

    Counted are the products that the job needs: forward and backward of the real tokens of the training rows, and the
    evaluations' forward; not padding, which is the sides' own waste, and nothing but products.
    """
    told: dict[str, Any] = {}
    config = json.loads((Path(bench.model) / "config.json").read_text())
    for variant in sorted({run["variant"] for run in bench.done if "train_seconds" in run}):
        whole = variant.split("-")[0] in WHOLE
        files, epochs = (bench.whole, bench.sizes.whole_epochs) if whole else (bench.short, bench.sizes.epochs)
        train, validation = (_product_flops(config, _lengths(bench, path)) for path in (files[1], files[3]))
        flops = epochs * (3 * train + validation)  # backward: two products for each of forward
        precision = next(run["precision"] for run in bench.done if run["variant"] == variant)
        peaks = bench.values(f"matmul-{precision}", "flops").values()
        seconds = statistics.median(bench.values(variant, "train_seconds").values())
        told[variant] = {"flops": flops, "flops_per_second": flops / seconds}
        if peaks:
            peak = max(peaks)
            told[variant] |= {"peak": peak, "of_peak": flops / seconds / peak, "least_seconds": flops / peak}
    return told


def _lengths(bench: Bench, path: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(bench.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return [len(each.ids) for each in tokenizer.encode_batch([(row["sentence1"], row["sentence2"]) for row in rows])]


def _product_flops(config: dict[str, Any], lengths: list[int]) -> float:
    """Of forward: per token and layer four products with hidden x hidden, two with hidden x intermediate, and two of
    the row's length in attention; per row the pooler.
    """
    hidden, between, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    per_token = layers * (4 * hidden * hidden + 2 * hidden * between)
    products = sum(n * per_token + layers * 2 * n * n * hidden + hidden * hidden for n in lengths)
    return 2.0 * products  # a multiplication and an addition each


def conditions(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    return {
        **versions(),
        **machine(),
        **device(),
        "data": "MRPC" if bench.mrpc else "built-in pairs",
        "sizes": vars(bench.sizes),
        "repeats": given.repeats,
        "seeds": given.seeds,
        "both_sides": GUIDE,
        "ftloop_plain": PLAIN,
        "command": shlex.join(["python", "benchmarks/speed/throughput.py", *sys.argv[1:]]),
    }


def show(result: dict[str, Any]) -> None:
    print(f"\n{'row':<23} {'ftloop':>10} {'Trainer':>10} {'ratio':>7}  {'min to max':<15} {'target':>7}   n")
    for name, row in result["rows"].items():
        if "not_measured" in row:
            print(f"{name:<23} not measured: {row['not_measured']}")
        else:
            ours, theirs = row["ftloop"]["median"], row["trainer"]["median"]
            verdict = row.get("void") or ("" if row["reached"] else "missed")
            print(
                f"{name:<23} {ours:>10.2f} {theirs:>10.2f} {row['ratio']:>7.3f}  "
                f"{row['ratio_min']:.3f} to {row['ratio_max']:.3f}  "
                f"{row['target']:>7.3f} {row['n']:>3}  {verdict}   {row['value']}"
            )
        for score, told in row.get("accuracy", {}).items():
            if not told["seeds"]:
                continue
            p = ", ".join(f"{key} {told[key]:.3f}" for key in ("p_ttest_rel", "p_wilcoxon") if key in told)
            if "interval_95" in told:
                p += ", 95 % interval {:+.2f} to {:+.2f}".format(*told["interval_95"])
            ours, theirs = (statistics.mean(told[side]) for side in ("ftloop", "trainer"))
            print(
                f"{'':<23} {score:<9} {ours:.2f} against {theirs:.2f}: {told['difference_of_means']:+.2f} points  {p}"
            )
    for variant, told in result["arithmetic"].items():
        if "of_peak" in told:
            print(
                f"{variant:<17} {told['flops_per_second'] / 1e9:.0f} GFLOP/s, {told['of_peak']:.1%} of the peak in "
                f"products ({told['peak'] / 1e9:.0f}), which would take {told['least_seconds']:.1f} s"
            )


def draw(result: dict[str, Any], path: Path) -> str | None:
    """Ratios with min and max, and the targets. Returns: what was in the way."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed (the extra `plots`)"
    rows = {name: row for name, row in result["rows"].items() if "ratio" in row and "void" not in row}
    if not rows:
        return "no picture: no row is finished"
    figure = Figure(figsize=(8, 0.45 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        low, high = (abs(row["ratio"] - row[end]) for end in ("ratio_min", "ratio_max"))
        error = [[low if row["ratio_min"] < row["ratio"] else 0], [high if row["ratio_max"] > row["ratio"] else 0]]
        axes.barh(place, row["ratio"], color="tab:green" if row["reached"] else "tab:orange", xerr=error, height=0.6)
        axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color="black")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{name} (n={row['n']})" for name, row in rows.items()])
    axes.invert_yaxis()
    axes.set_xlabel("ftloop / Trainer, medians with min and max; black: the target")
    told = result["conditions"]
    axes.set_title(f"{told['cpu']}, {told['threads']} threads, torch {told['torch']}, {told['data']}", fontsize=9)
    figure.savefig(path, dpi=120)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", choices=[*ROWS, EXTRA], help=f"of {', '.join([*ROWS, EXTRA])}"
    )
    parser.add_argument("--repeats", type=int, help="of rows that are not over seeds (5; with --quick 1)")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the fast recipe's rows (1 2 3 4 5; with --quick 1 2)")
    parser.add_argument("--quick", action="store_true", help="few rows and updates")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="keep the runs that are there")
    parser.add_argument("--report", action="store_true", help="with --continue: run nothing, write what is there")
    parser.add_argument("--busy", action="store_true", help="the machine does other work: keep scores, and no times")
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json", help="beside it: .runs.jsonl, .png")
    given = parser.parse_args()
    if given.report and not given.go_on:
        parser.error("--report is for runs that are kept: together with --continue")
    given.repeats = given.repeats or (1 if given.quick else 5)
    given.seeds = given.seeds or ([1, 2] if given.quick else [1, 2, 3, 4, 5])
    rows = given.rows or [*ROWS, EXTRA]
    sizes, kept = QUICK if given.quick else FULL, given.output.with_suffix(".runs.jsonl")
    bench = Bench(sizes, ROOT / "runs" / "throughput", kept, given.go_on, given.busy)
    result: dict[str, Any] = {"conditions": conditions(bench, given)}
    print(json.dumps(result["conditions"], indent=1))

    def report() -> None:
        result["rows"] = {name: judged(bench, ROWS[name]) for name in rows if name != EXTRA}
        result["arithmetic"] = arithmetic(bench) if EXTRA in rows else {}
        result["commands"] = bench.commands
        given.output.write_text(json.dumps(result, indent=2) + "\n")

    if not given.report:
        measure(bench, rows, given.repeats, given.seeds, report)
    report()
    show(result)
    problem = draw(result, given.output.with_suffix(".png"))
    if problem:
        print(problem)
    return 1 if any("void" in row for row in result["rows"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
