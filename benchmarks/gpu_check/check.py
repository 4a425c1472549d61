"""What only a GPU can tell, on one device, in about ten minutes, without a network: `make gpu-check`.

    python benchmarks/gpu_check/check.py              goes on where an earlier call has stopped
        --again                                       does everything once more
        --only NAME ...                               these steps alone
        --quick                                       all of it with tiny models, also on a CPU, where nothing is
                                                      compiled and fp16 is bf16: to see that it works

It needs torch, transformers, accelerate and datasets (an image for GPUs may lack the last, with its dill and
multiprocess: nothing imports without it), and pytest for the step `tests`; no model and no data: weights are random and
rows have the lengths of GLUE MRPC's. Each step is a process of its own with a limit and a log; after one that fails the
next begins. What came out is written after each into a JSON file and, beside it, a table. Speed is measured in one pass
and waits for the device are counted in another; Trainer and ftloop take turns. Exit code 1 where a step has failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, ROOT, device, has_gpu, machine, versions
from benchmarks.gpu_check.steps import Step, steps
from benchmarks.gpu_check.tables import as_markdown


def run(step: Step, folder: Path) -> dict[str, Any]:
    """Do a step. Returns: whether it came out well, how long it took and what it found."""
    given, found, log = (folder / f"{step.name}.{end}" for end in ("job.json", "found.json", "log"))
    found.unlink(missing_ok=True)
    words = list(step.words)
    if step.job is not None:
        given.write_text(json.dumps(step.job))
        words += [str(given), str(found)]
    started = time.perf_counter()
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    # Of several GPUs Trainer would take all in one process, and the tests of one device none.
    one = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}
    with log.open("w") as said:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=os.environ | offline | one | step.environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=step.limit)
        finally:
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)  # it alone has this group, with what it has started
                process.wait()
    told: dict[str, Any] = {"ok": code == 0, "seconds": round(time.perf_counter() - started, 1)}
    if code is None:
        told["failed"] = f"not done after {step.limit} s"
    elif code:
        told["failed"] = f"exit code {code}"
    if found.is_file():
        told["found"] = json.loads(found.read_text())
    told["said"] = _last_line(log)
    if told["ok"] and step.says not in told["said"]:
        told |= {"ok": False, "failed": f"it says nothing of {step.says!r}"}
    return told


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200].replace(str(ROOT), ".") if lines else ""


def digest_of_code() -> str:
    files = sorted(path for folder in ("ftloop", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models and few updates")
    parser.add_argument("--again", action="store_true", help="leave nothing out that an earlier call has done")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="steps, by their names in the table")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu_check.json", help="beside it the table, .md")
    given = parser.parse_args()
    if not given.quick and not has_gpu():
        raise SystemExit("torch sees no CUDA device here; --quick runs all of it on a CPU")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with what has been started
    todo = steps(given.quick)
    unknown = sorted(set(given.only or ()) - {step.name for step in todo})
    if unknown:
        raise SystemExit(f"--only: {', '.join(unknown)} is none of {', '.join(step.name for step in todo)}")
    folder = ROOT / "runs" / ("gpu-check-quick" if given.quick else "gpu-check")
    folder.mkdir(parents=True, exist_ok=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    key = {**versions(), **machine(), **device(), "code": digest_of_code(), "quick": given.quick}
    result: dict[str, Any] = {"conditions": key, "steps": {}}
    if given.output.is_file() and not given.again:
        kept = json.loads(given.output.read_text())
        if kept.get("conditions") == key:
            result["steps"] = {name: told for name, told in kept["steps"].items() if told["ok"]}
    print(json.dumps(key, indent=1))
    for step in todo:
        if step.name in result["steps"] or (given.only and step.name not in given.only):
            continue
        print(f"{time.strftime('%H:%M:%S')} {step.name}: at most {step.limit} s", flush=True)
        told = result["steps"][step.name] = run(step, folder)
        if not told["ok"]:
            print(f"         {told['failed']}, see {folder / f'{step.name}.log'}: {told['said']}", flush=True)
        ordered = {each.name: result["steps"][each.name] for each in todo if each.name in result["steps"]}
        result["steps"] = ordered
        given.output.write_text(json.dumps(result, indent=2) + "\n")
    table = as_markdown(result, todo)
    given.output.with_suffix(".md").write_text(table)
    print(table)
    return int(not all(told["ok"] for told in result["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
