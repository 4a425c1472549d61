"""Random configurations, each run by Trainer and by ftloop and compared bit for bit: `parity.py --fuzz N --seed S`.

    python benchmarks/fidelity/parity.py OPTIONS

    --fuzz 200 --seed 1               200 draws, in one, two and three processes
    --fuzz 1 --seed 1 --draw 17       draw 17 of seed 1 once more
    --choice accumulation=3 mode=...  this configuration (tests/harness/config_space.py lists the axes)
    --fuzz 60 --seed 1 --plant all    after how many draws each planted fault is found

Exit code 1 when any bit differs, or when a planted fault is not found.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from harness.config_space import AXES, Choice, describe, draw, parse

from benchmarks.fidelity.planted_bugs import FAULTS, plant

NO_FAULT = "none"
THREADS = os.environ.get("OMP_NUM_THREADS", "1")  # of each process: tiny models are fastest on one


def fuzz(argv: list[str], conditions: dict[str, Any]) -> int:
    """The command: everything that begins with `--fuzz` or `--choice`. Returns: the exit code."""
    given = _parser().parse_args(argv)
    choices = _choices(given)
    faults = list(FAULTS) if given.plant == ["all"] else given.plant or [NO_FAULT]
    if unknown := set(faults) - {NO_FAULT, *FAULTS}:
        raise SystemExit(f"--plant: {', '.join(unknown)} is none of all, {', '.join(FAULTS)}")
    found = run(choices, faults)
    result = _faults_found(found, faults, len(choices)) if given.plant else _draws_run(found, choices, given.seed)
    if given.output is not None:
        conditions = conditions | {"threads": int(THREADS)}
        given.output.write_text(json.dumps({"conditions": conditions} | result, indent=2) + "\n")
    return 0 if result["passed"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parity.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fuzz", type=int, metavar="N", default=1, help="how many draws")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--draw", type=int, metavar="K", default=0, help="begin at this draw")
    parser.add_argument(
        "--choice", nargs="*", metavar="AXIS=VALUE", help="this configuration; what is left out is plain"
    )
    parser.add_argument("--plant", nargs="+", metavar="FAULT", help="plant these faults (or all) and look for them")
    parser.add_argument("--output", type=Path, help="where the result goes, as JSON")
    return parser


def _choices(given: argparse.Namespace) -> dict[int, Choice]:
    """The configurations by the number of their draw, which does not depend on how many are drawn."""
    if given.choice is not None:
        try:
            return {0: parse(" ".join(given.choice))}
        except ValueError as error:
            raise SystemExit(f"--choice: {error}") from None
    first = given.draw
    return {k: draw(random.Random(f"{given.seed}/{k}")) for k in range(first, first + given.fuzz)}


def run(choices: dict[int, Choice], faults: list[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return what came of each draw under each fault; under a fault, draws end with the first that finds it."""
    found: dict[str, dict[int, dict[str, Any]]] = {fault: {} for fault in faults}
    with tempfile.TemporaryDirectory() as folder:
        packages = {fault: str(ROOT if fault == NO_FAULT else plant(fault, Path(folder) / fault)) for fault in faults}
        for processes in AXES["processes"]:
            draws = {k: choice for k, choice in choices.items() if choice["processes"] == processes}
            # What fewer processes have found by an earlier draw is not looked for again.
            jobs = [
                {"fault": fault, "package": packages[fault], "draws": {k: c for k, c in draws.items() if k < limit}}
                for fault in faults
                for limit in [_first_found(found[fault]) if fault != NO_FAULT else math.inf]
            ]
            if any(job["draws"] for job in jobs):
                for line in _launch(int(processes), jobs, Path(folder) / f"processes-{processes}"):
                    found[line["fault"]][line["draw"]] = line["outcome"]
    return found


def _first_found(outcomes: dict[int, dict[str, Any]]) -> float:
    return min((k for k, outcome in outcomes.items() if _differs(outcome)), default=math.inf)


def _differs(outcome: dict[str, Any]) -> bool:
    return outcome["difference"] is not None


def _launch(processes: int, jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Run the jobs in so many processes. Raises: SystemExit when they do not come to their end."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    # Trainer reads where it runs from the environment.
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": THREADS}
    with open(folder / "stderr", "w+") as stderr:
        done = subprocess.run([*command, __file__, str(folder)], stderr=stderr, env=environment)
        stderr.seek(0)
        if done.returncode != 0:
            raise SystemExit(f"{processes} process(es) ended with {done.returncode}:\n{stderr.read()[-4000:]}")
    return [json.loads(line) for line in (folder / "found.jsonl").read_text().splitlines()]


def _draws_run(found: dict[str, dict[int, dict[str, Any]]], choices: dict[int, Choice], seed: int) -> dict[str, Any]:
    outcomes = found[NO_FAULT]
    different = {k: outcome for k, outcome in outcomes.items() if _differs(outcome)}
    counts = {axis: Counter(choice[axis] for choice in choices.values()) for axis in AXES}
    print(
        f"{len(outcomes)} draws, {sum(o['updates'] for o in outcomes.values())} updates, "
        f"{sum(o['resumed_at'] is not None for o in outcomes.values())} resumed runs, {len(different)} different"
    )
    return {
        "passed": not different and len(outcomes) == len(choices) > 0,
        "seed": seed,
        "draws": len(outcomes),
        "updates": sum(o["updates"] for o in outcomes.values()),
        "resumed": sum(o["resumed_at"] is not None for o in outcomes.values()),
        "different": [{"draw": k, "choice": describe(choices[k])} | outcome for k, outcome in different.items()],
        "counts": {axis: {value: counts[axis][value] for value in values} for axis, values in AXES.items()},
    }


def _faults_found(found: dict[str, dict[int, dict[str, Any]]], faults: list[str], draws: int) -> dict[str, Any]:
    table = {}
    for fault in sorted(faults, key=lambda name: FAULTS[name].trap):
        k = min((k for k, outcome in found[fault].items() if _differs(outcome)), default=None)
        outcome = found[fault].get(k, {}) if k is not None else {}
        after = "not found" if k is None else "BROKEN" if outcome.get("raised") else f"{k + 1} draws"
        print(f"trap {FAULTS[fault].trap:>2}  {fault:<32} {after:<10} {outcome.get('difference', '')}")
        needed = None if k is None else k + 1
        table[fault] = {"trap": FAULTS[fault].trap, "what": FAULTS[fault].what, "found_after": needed} | outcome
    # One that raises is planted where its text no longer fits: it would be found whatever the fuzz compares.
    missed = [fault for fault in faults if table[fault]["found_after"] is None or table[fault].get("raised")]
    print(f"{len(faults) - len(missed)} of {len(faults)} faults found in {draws} draws")
    return {"passed": not missed, "draws": draws, "faults": table}


def worker(folder: Path) -> None:
    """One of the processes of a launch. Process 0 says what it finds, and writes it down."""
    import torch.distributed as dist
    from transformers.utils import logging

    logging.set_verbosity_error()
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    theirs: dict[int, Any] = {}
    with open(folder / "found.jsonl", "w") as lines:
        for job in json.loads((folder / "jobs.json").read_text()):
            space_runs = _import_from(job["package"])
            for k, choice in sorted((int(k), choice) for k, choice in job["draws"].items()):
                started = time.time()
                outcome = _outcome(space_runs, choice, folder / str(k), k, theirs)
                outcomes: list[Any] = [outcome]
                if processes > 1:
                    outcomes = [None] * processes
                    dist.all_gather_object(outcomes, outcome)
                    outcome = next((each for each in outcomes if each["difference"] is not None), outcomes[0])
                if rank == 0:
                    # Trainer's side serves for every fault.
                    for side in ("ftloop", "resumed"):
                        space_runs.tidy(folder / str(k) / side)
                    print(_line(job["fault"], k, choice, outcome, time.time() - started), flush=True)
                    lines.write(json.dumps({"fault": job["fault"], "draw": k, "outcome": outcome}) + "\n")
                    lines.flush()
                if processes > 1:
                    dist.barrier()
                if job["fault"] != NO_FAULT and outcome["difference"] is not None:
                    break
    if dist.is_initialized():
        dist.destroy_process_group()


def _import_from(package: str) -> Any:
    """Return `harness.space_runs` with the ftloop that lies in that folder."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("ftloop", "harness")]:
        del sys.modules[name]
    sys.path.insert(0, package)
    try:
        space_runs = importlib.import_module("harness.space_runs")
    finally:
        sys.path.remove(package)
    assert Path(sys.modules["ftloop"].__file__ or "").is_relative_to(package)
    return space_runs


def _outcome(space_runs: Any, choice: Choice, folder: Path, k: int, theirs: dict[int, Any]) -> dict[str, Any]:
    def trainer(choice: Choice, folder: Path) -> Any:
        if k not in theirs:
            theirs[k] = space_runs.trainer_side(choice, folder)
        return theirs[k]

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return asdict(space_runs.compare(choice, folder, trainer))
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where is not None else ""
        return {"difference": f"{error!r} at {place}", "updates": 0, "resumed_at": None, "raised": True}


def _line(fault: str, k: int, choice: Choice, outcome: dict[str, Any], seconds: float) -> str:
    verdict = "same" if outcome["difference"] is None else "DIFFERENT"
    resumed = "" if outcome["resumed_at"] is None else f"  resumed at {outcome['resumed_at']}"
    line = f"draw {k:<4} {verdict}  {outcome['updates']} updates{resumed}  {seconds:.1f} s  {describe(choice)}"
    if fault != NO_FAULT:
        return f"{fault}: {line}"
    if outcome["difference"] is None:
        return line
    return f"{line}\n    {outcome['difference']}\n    python benchmarks/fidelity/parity.py --choice {describe(choice)}"


if __name__ == "__main__":
    if sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit()
    worker(Path(sys.argv[1]))
