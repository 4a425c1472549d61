"""The same job with several seeds: trained one after the other, and what their results say together.

python -m ftloop.seeds DIR    the table of DIR/seed-1, DIR/seed-2, ..., as `--seeds` leaves them; also into seeds.json
python -m ftloop.seeds A B    whether the runs of B are better than those of A, seed by seed
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ftloop.config import TrainConfig
from ftloop.durable import read_manifest, retried, write_text
from ftloop.errors import ExitCode, UserError, tell
from ftloop.outcome import Outcome, read_outcome
from ftloop.stopping import SIGNALS, Stop

SEEDS = "seeds.json"
SETS = {"eval": "validation", "test": "test"}
GO_ON = "the same command with --resume_from_checkpoint last goes on"
# What torchrun tells the one process it has started: each seed's own would look for its companions.
_OF_TORCHRUN = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
}


def train_seeds(config: TrainConfig, words: list[str], stop: Stop) -> ExitCode:
    """Train the command `words` once for each seed, in a process of its own, into `seed-N` of its output_dir; then the
    table. The first that does not reach its end is the end of all: a mistake is every seed's.

    Returns: an exit code, that of the seed that ended otherwise than well.
    Raises: UserError where several processes were started, each of which would train all seeds.
    """
    assert config.seeds is not None
    root, names = Path(config.output_dir), ", ".join(map(str, config.seeds))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"seeds: {os.environ['WORLD_SIZE']} processes were started for one training. Start one for each seed, with "
            f"--seed N --output_dir {root}/seed-N, then read python -m ftloop.seeds {root}"
        )
    for place, seed in enumerate(config.seeds, 1):
        print(f"\nSeed      {seed}, {place} of {len(config.seeds)} ({names}): {_folder(root, seed)}", flush=True)
        code = _train_one(_command(config, words, seed, stop), stop)
        if code != ExitCode.DONE:
            return _left(config.seeds, place, code, stop)
    runs = read_seeds(root)
    path, text = root / SEEDS, json.dumps(summary(runs), indent=2) + "\n"
    retried(path.name, partial(write_text, path, text), print)
    print("\n" + table(runs), flush=True)
    return ExitCode.DONE


def _folder(root: Path, seed: int) -> Path:
    return root / f"seed-{seed}"


def _command(config: TrainConfig, words: list[str], seed: int, stop: Stop) -> list[str]:
    """The same words, and after them, where they win, what is this seed's own."""
    own: dict[str, Any] = {"seeds": "none", "seed": seed, "output_dir": _folder(Path(config.output_dir), seed)}
    if config.logging_dir is not None:
        own["logging_dir"] = _folder(Path(config.logging_dir), seed)
    if stop.deadline is not None:
        own["max_train_seconds"] = max(math.floor(stop.deadline - time.monotonic()), 1)
    script = Path(__file__).with_name("train.py")
    return [
        sys.executable,
        str(script),
        *words,
        *(word for name, value in own.items() for word in (f"--{name}", str(value))),
    ]


def _train_one(command: list[str], stop: Stop) -> int:
    """The exit code of one training; a signal to this process is passed on to it, once.

    So it has a process group of its own: from a terminal a Ctrl-C reaches all of a group, and a second one, passed on,
    would end it at once.
    """
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: Any) -> None:
        stop.request(signal.Signals(number).name)
        if process is not None:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for name in SIGNALS if (number := getattr(signal, name, None))}
    try:
        if stop.reason is not None:
            return ExitCode.STOPPED
        kept = [name for name in os.environ if name not in _OF_TORCHRUN and not name.startswith("TORCHELASTIC_")]
        environment = {name: os.environ[name] for name in kept}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, process_group=0)
        if stop.reason is not None:  # asked while it was being started
            process.send_signal(signal.SIGTERM)
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _left(seeds: list[int], place: int, code: int, stop: Stop) -> ExitCode:
    """Say where the seeds were left, below what the one that was left has said itself."""
    done = ", ".join(map(str, seeds[: place - 1])) or "none"
    where = f"seed {seeds[place - 1]}, {place} of {len(seeds)}; complete: {done}"
    stopped = code == ExitCode.STOPPED or (code < 0 and stop.reason is not None)  # the latter: it had hardly begun
    if stopped:
        print(f"Stopped   in {where}; {GO_ON}", file=sys.stderr, flush=True)
        return ExitCode.STOPPED
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}, as said above"
    print(f"error: {where}: it {ended}; {GO_ON} with it", file=sys.stderr, flush=True)
    return ExitCode.FAILED if code < 0 else next((known for known in ExitCode if known == code), ExitCode.FAULT)


# --- what the runs say together --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedRuns:
    """The finished runs of one job, by seed in rising order."""

    folder: Path
    outcomes: dict[int, Outcome]
    left_out: dict[str, str]
    """Folders of other runs, and why they are not counted."""

    def scores(self) -> dict[str, dict[int, float]]:
        """By name (`eval_loss`, `test_accuracy`, ...), of each seed; only what all of them have."""
        each = {seed: _scores(outcome.results) for seed, outcome in self.outcomes.items()}
        first = next(iter(each.values()))
        names = [name for name in first if all(name in scores for scores in each.values())]
        return {name: {seed: scores[name] for seed, scores in each.items()} for name in names}


def _scores(results: dict[str, Any]) -> dict[str, float]:
    """Loss and metrics of validation and test, without the timings; the loss first."""
    timings = ("runtime", "samples_per_second", "steps_per_second")
    names = [
        name
        for prefix in SETS
        for name in sorted(results, key=lambda name: not name.startswith(f"{prefix}_loss"))
        if name.startswith(f"{prefix}_") and not name.removesuffix("_mm").endswith(timings)
    ]
    return {name: float(results[name]) for name in names if isinstance(results[name], (int, float))}


def read_seeds(folder: str | Path) -> SeedRuns:
    """What is there of the form `seed-N`. Unfinished runs, and those of other settings or data than most, are left out.

    Raises: UserError where none is left.
    """
    root = Path(folder)
    found = {int(path.name[5:]): path for path in root.glob("seed-*") if path.name[5:].isdigit()}
    if not found:
        raise UserError(f"{root}: no folder seed-N in it; name the output_dir of a command with --seeds")
    outcomes: dict[int, Outcome] = {}
    left_out = {}
    kinds: dict[int, dict[str, Any]] = {}
    for seed, path in sorted(found.items()):
        try:
            outcome, manifest = read_outcome(path), read_manifest(path) or {}
            if not manifest.get("complete", True) or not _scores(outcome.results):
                raise UserError(f"{path}: not finished")
            if outcome.config.get("seed", seed) != seed:
                raise UserError(f"{path}: trained with seed {outcome.config['seed']}")
        except UserError as error:
            left_out[path.name] = error.problems[0].removeprefix(f"{path}: ")
            continue
        outcomes[seed], kinds[seed] = outcome, _kind(outcome, manifest)
    if outcomes:
        texts = {seed: json.dumps(kind, sort_keys=True) for seed, kind in kinds.items()}
        most = Counter(texts.values()).most_common(1)[0][0]
        usual = next(kinds[seed] for seed, text in texts.items() if text == most)
        for seed in [seed for seed, text in texts.items() if text != most]:
            left_out[found[seed].name] = f"other {_differing(kinds[seed], usual)} than the rest"
            del outcomes[seed]
    if not outcomes:
        raise UserError(f"{root}: no finished run in it ({_told(left_out)})")
    return SeedRuns(root, outcomes, left_out)


def _kind(outcome: Outcome, manifest: dict[str, Any]) -> dict[str, Any]:
    """What has to be equal in runs that differ in their seed alone."""
    from ftloop.changes import FREE

    settings = {name: value for name, value in outcome.config.items() if name not in FREE | {"seed"}}
    return settings | {"the data": manifest.get("data")}


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))


def _told(left_out: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in sorted(left_out.items()))


@dataclass(frozen=True)
class Spread:
    """Of one score over the seeds. A single run has no deviation and no interval."""

    n: int
    mean: float
    std: float | None
    """Of single runs: divided by n - 1."""
    low: float | None
    high: float | None
    """The 95 % interval of the mean, by Student's t."""
    min: float
    max: float


def spread(values: Iterable[float]) -> Spread:
    import numpy as np

    each = np.asarray(list(values), np.float64)
    mean, n = float(each.mean()), len(each)
    if n == 1:
        return Spread(1, mean, None, None, None, mean, mean)
    std = float(each.std(ddof=1))
    half = t_quantile(n - 1) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half, float(each.min()), float(each.max()))


def t_quantile(degrees: float) -> float:
    """Within so many standard errors lies the truth in 95 of 100 cases."""
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


def summary(runs: SeedRuns) -> dict[str, Any]:
    """What seeds.json holds: of each run and of all together, nothing that another start would find different."""
    scores = runs.scores()
    seeds = list(runs.outcomes)
    together = {name: asdict(spread(values.values())) for name, values in scores.items()}
    return {
        "format": 1,
        "seeds": seeds,
        "left_out": runs.left_out,
        "runs": {str(seed): {name: _json(values[seed]) for name, values in scores.items()} for seed in seeds},
        "together": {name: {key: _json(value) for key, value in each.items()} for name, each in together.items()},
    }


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(runs: SeedRuns) -> str:
    scores = runs.scores()
    spreads = {name: spread(values.values()) for name, values in scores.items()}
    rows = [["", *(SETS[name.partition("_")[0]] for name in scores)], ["seed", *(n.partition("_")[2] for n in scores)]]
    rows += [[str(seed), *(_shown(values[seed]) for values in scores.values())] for seed in runs.outcomes]
    lines = {
        "mean": "mean",
        "deviation": "std",
        "95 % from": "low",
        "95 % to": "high",
        "lowest": "min",
        "highest": "max",
    }
    rows += [[told, *(_shown(getattr(each, name)) for each in spreads.values())] for told, name in lines.items()]
    n = len(runs.outcomes)
    said = [f"Seeds     {n} run{'s' if n > 1 else ''} in {runs.folder}", *aligned(rows)]
    said += ["one run has no deviation: train more seeds"] if n == 1 else [NOTE]
    if runs.left_out:
        said.append(f"Left out  {_told(runs.left_out)}")
    return "\n".join(said)


NOTE = "deviation: of single runs (n - 1); 95 %: where their mean lies, by Student's t, for these rows"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def aligned(rows: list[list[str]]) -> list[str]:
    """A table's lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ftloop.seeds",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="A", help="the output_dir of a command with --seeds")
    parser.add_argument("other", type=Path, metavar="B", nargs="?", help="another, to be held against it")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    given = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        runs = read_seeds(given.folder)
        if given.other is not None:
            from ftloop.paired import compare_seeds, describe

            print(describe(compare_seeds(runs, read_seeds(given.other))))
            return ExitCode.DONE
        write_text(runs.folder / SEEDS, json.dumps(summary(runs), indent=2) + "\n")
        print(table(runs))
    except Exception as error:
        return tell(error, given.traceback)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
