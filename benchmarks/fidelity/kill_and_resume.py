"""Kill a run by SIGKILL, start it again by the same command, compare what is left with a run that nobody killed.

    python benchmarks/fidelity/kill_and_resume.py OPTIONS

    --number 200                    200 cases each of ftloop and of transformers.Trainer
    --number 1000 --side ftloop     ftloop alone (`make torture N=1000`)
    --job steps --kills after:310   this case once more, its files kept

A case kills once or, one in three, twice in a row: half of the kills at a file operation drawn from all those of the
run (after it, or with half of a write's bytes written), half at a moment of it. The job is tiny: a BERT of two layers,
12 updates, a save every second update, or every epoch, the last two, or the last, kept beside the best.

Counted are the cases that end in the same bytes in every file (timings and Trainer's pickled arguments aside), those
with the same final model and other files, those with another final model, and those that fail when they are resumed.
Exit code 1 when ftloop does not end in the same bytes every time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from harness.kill_harness import (
    JOBS,
    KillCase,
    Verdict,
    in_parallel,
    random_case,
    start_fork_servers,
    survive,
    uninterrupted,
)
from harness.kill_points import Kill, table

from benchmarks.common import conditions

SIDES = {"Trainer": ("trainer-steps", "trainer-epochs"), "ftloop": ("steps", "epochs")}
OUTCOMES = ("same bytes", "same model, other files", "another model", "failed when resumed")


def main() -> int:
    given = _parser().parse_args()
    if given.kills:
        return one_case(KillCase(given.job, tuple(map(Kill.parse, given.kills)), given.cold))
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, start_fork_servers(Path(folder)) as runs:
        for side in [given.side] if given.side else SIDES:
            for job in SIDES[side]:
                uninterrupted(runs, job)
            cases = [random_case(given.seed, k, runs, SIDES[side][k % 2]) for k in range(given.number)]
            verdicts = []
            for verdict in in_parallel(runs, partial(survive, runs), cases):
                verdicts.append(verdict)
                if (side == "ftloop" and verdict.wrong) or len(verdicts) % 100 == 0:
                    print(f"{side} {len(verdicts)}: {verdict if verdict.wrong else 'so far'}", flush=True)
            result[side] = summary(verdicts)
            show(side, result[side])
    if given.output is not None:
        told: dict[str, Any] = {"n": given.number, "seed": given.seed, "threads": 1}
        sides = f" --side {given.side}" if given.side else ""
        told["command"] = (
            f"python benchmarks/fidelity/kill_and_resume.py --number {given.number} --seed {given.seed}{sides}"
        )
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps({"conditions": conditions() | told} | result, indent=2) + "\n")
    lost = given.number - result["ftloop"]["outcomes"]["same bytes"] if "ftloop" in result else 0
    return 1 if lost else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=200, metavar="N", help="how many cases of each side")
    parser.add_argument("--seed", type=int, default=1, help="of the cases")
    parser.add_argument("--side", choices=list(SIDES), help="one side alone")
    parser.add_argument("--output", type=Path, help="where the result goes, as JSON")
    parser.add_argument("--job", choices=list(JOBS), default="steps", help="with --kills")
    parser.add_argument("--kills", nargs="+", metavar="KILL", help="before:K, middle:K, after:K or seconds:S, @RANK")
    parser.add_argument("--cold", action="store_true", help="with --kills: with an empty cache of data sets")
    return parser


def one_case(case: KillCase) -> int:
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    with start_fork_servers(folder) as runs:
        uninterrupted(runs, case.job)
        verdict = survive(runs, case, keep=True)
    print(f"{verdict}\n    kept in {folder}, beside the run that nobody killed")
    return 1 if verdict.wrong else 0


def outcome(verdict: Verdict) -> str:
    if verdict.wrong is None:
        return OUTCOMES[0]
    if any(verdict.last.exit_codes):
        return OUTCOMES[3]
    return OUTCOMES[1] if verdict.same_model else OUTCOMES[2]


def summary(verdicts: list[Verdict]) -> dict[str, Any]:
    """By the stage of the last kill, for it is what the last run had to cope with."""
    outcomes = {name: sum(outcome(verdict) == name for verdict in verdicts) for name in OUTCOMES}
    by_stage: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        stage = where(verdict)
        by_stage.setdefault(stage, Counter())[outcome(verdict)] += 1
    failures = Counter(exception(verdict) for verdict in verdicts if outcome(verdict) == OUTCOMES[3])
    examples: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.wrong is not None:
            kind = outcome(verdict) if outcome(verdict) != OUTCOMES[3] else exception(verdict)
            examples.setdefault(kind, f"{verdict.case}: {verdict.wrong[:300]}")
    return {
        "cases": len(verdicts),
        "kills": sum(len(verdict.stages) for verdict in verdicts),
        "outcomes": outcomes,
        "by_stage_of_the_last_kill": {stage: dict(counts) for stage, counts in sorted(by_stage.items())},
        "failures": dict(failures),
        "kills_by_stage": dict(Counter(stage for verdict in verdicts for stage in verdict.stages)),
        "examples": examples,
    }


def where(verdict: Verdict) -> str:
    """A moment in a save is in a save."""
    stage = verdict.stages[-1] if verdict.stages else "nowhere: run again after its end"
    if stage == "random moment: in a save":
        return "save"
    return stage if stage.startswith("random moment") else stage.partition(":")[0]


def exception(verdict: Verdict) -> str:
    """The type of the last exception that the resumed run shows."""
    names = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception))\b", verdict.last.stderr, flags=re.MULTILINE)
    clear = re.search(r"^error: ", verdict.last.stderr, flags=re.MULTILINE)
    return names[-1] if names else "a clear error" if clear else f"exit code {verdict.last.exit_codes}"


def show(side: str, told: dict[str, Any]) -> None:
    print(f"\n{side}: {told['cases']} cases, {told['kills']} kills")
    for line in table(Counter(told["kills_by_stage"])):
        print(f"  {line}")
    width = max(map(len, told["by_stage_of_the_last_kill"]))
    print(f"  {'last kill in':<{width}}  " + "  ".join(f"{name:>{len(name)}}" for name in OUTCOMES))
    for stage, counts in told["by_stage_of_the_last_kill"].items():
        print(f"  {stage:<{width}}  " + "  ".join(f"{counts.get(name, 0):>{len(name)}}" for name in OUTCOMES))
    print(f"  {'all':<{width}}  " + "  ".join(f"{told['outcomes'][name]:>{len(name)}}" for name in OUTCOMES))
    for name, count in told["failures"].items():
        print(f"  {name}: {count}")
    for kind, example in told["examples"].items():
        print(f"  e.g. {kind}: {example}")


if __name__ == "__main__":
    sys.exit(main())
