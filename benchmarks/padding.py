"""What padding costs: how much of what is computed is padding, and what that takes, for each way to pad and to batch.

    python benchmarks/padding.py                        MRPC where FTLOOP_MRPC_DIR names it, else the built-in pairs
    python benchmarks/padding.py --train_file mine.csv --model_name_or_path FOLDER
    python benchmarks/padding.py --made long-tail       rows of random tokens, seeded; or near-uniform
    python benchmarks/padding.py --advise --train_file mine.csv    what suits these rows; nothing is trained
    torchrun --nproc_per_node 2 benchmarks/padding.py   also how long the processes wait for each other

Every setting of ftloop is a flag here too. The padding share is exact, over a whole epoch, from the lengths. Times are
of a sample of the epoch's steps; the table says how they were taken. Written are JSON, the table as Markdown and, with
matplotlib, three pictures, all beside each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np
import torch
import torch.distributed as dist
from padding_advice import advise, describe_lengths, text_lengths

from ftloop.config import TrainConfig, parse_args
from ftloop.errors import UserError, tell
from ftloop.hub import PACKAGED_MODEL
from ftloop.padding import Batches, ModelShape, batches_of, collator, row_lengths

RESULTS = Path(__file__).resolve().parent / "results"
MADE_ROWS = 4000
HOW = {
    "padding": "exact, over the first epoch, from the lengths of its rows",
    "step": "forward, backward, clipping and AdamW of one micro-batch as an update, dropout on; batches were collated "
    "before. The strategies take turns step by step in one process, after a step of each that is not counted. Median, "
    "minimum and maximum are over the sampled steps, whose batches differ in size",
    "epoch": "estimated: the steps of the epoch are sorted by their FLOPs and cut into equal parts; one step of each "
    "part is timed and stands for the FLOPs of its part. That is done in passes, each with other steps: median, "
    "minimum and maximum over the passes. To dynamic: its ratio to dynamic padding's in the same pass",
    "memory": "of a process of its own that makes two updates with the batch of the most tokens: its largest resident "
    "set, imports and model included (CUDA: largest allocation)",
    "wait": "each sampled batch once more without the exchange of gradients: from the end of a process's own forward "
    "and backward until all have come to a barrier; the mean over processes",
}


@dataclass
class Data:
    """Tokenized rows, as they would be trained on."""

    name: str
    dataset: Any
    lengths: np.ndarray
    max_length: int
    """The longest input: longer rows have been cut."""
    truncated: int
    tokenizer: Any
    labels: Any


@dataclass
class Strategy:
    """One way to pad and to batch; and what was measured of it."""

    name: str
    flags: str
    config: TrainConfig
    max_length: int
    batches: Batches
    rows_truncated: int
    sample: Sample
    seconds: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """Of each sampled step: passes x parts."""
    waited: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    peak_bytes: int | None = None
    bytes_before: int | None = None


@dataclass(frozen=True)
class Sample:
    """Steps of an epoch that are timed, and how many times its own time each of them stands for; passes x parts."""

    steps: np.ndarray
    weights: np.ndarray

    def epoch(self, seconds: np.ndarray) -> np.ndarray:
        """Of each pass the estimate for the whole epoch."""
        total: np.ndarray = (seconds * self.weights).sum(axis=1)
        return total


def sample_steps(cost: np.ndarray, parts: int, passes: int, left_over: float = 0.0) -> Sample:
    """The steps of an epoch, sorted by cost, cut into `parts` equal parts, and of each `passes` steps, evenly spread.

    A step stands for the cost of its part, and for its share of `left_over`, the cost of steps that cannot be timed.
    """
    groups = np.array_split(np.argsort(cost, kind="stable"), min(parts, len(cost)))
    places = [[group[int((k + 0.5) / passes * len(group))] for group in groups] for k in range(passes)]
    steps = np.array(places)
    weights = np.array([cost[group].sum() for group in groups]) / cost[steps] * (1 + left_over / cost.sum())
    return Sample(steps, weights)


def step_costs(batches: Batches, shape: ModelShape, processes: int) -> tuple[np.ndarray, float]:
    """FLOPs of each step of all processes, which is that of its largest batch; and of a last step that not every
    process has a batch for."""
    flops = batches.training_flops(shape)
    full = len(flops) // processes
    if not full:
        raise UserError(f"{len(flops)} batches are too few for {processes} processes; use more rows")
    rest = flops[full * processes :]
    return flops[: full * processes].reshape(full, processes).max(axis=1), float(rest.max(initial=0.0))


def strategies(
    base: TrainConfig,
    lengths: np.ndarray,
    limit: int,
    shape: ModelShape,
    processes: int = 1,
    parts: int = 8,
    passes: int = 3,
) -> list[Strategy]:
    """Those held against each other. `lengths` are cut at `limit`, the longest input of model and tokenizer."""
    plain: dict[str, Any] = {"batching": "random", "padding": "longest", "pad_to_max_length": False}
    plain |= {"max_tokens_per_batch": None, "max_seq_length": base.max_seq_length}
    longest = int(lengths.max())
    fixed = {min(512, limit): "", longest: ", the longest row", 128: ""}
    chosen: dict[str, dict[str, Any]] = {
        f"global {length}{what}": {"padding": "max_length", "max_seq_length": length}
        for length, what in fixed.items()
        if length <= limit
    }
    chosen |= {
        "dynamic": {},
        "dynamic, multiple of 8": {"padding": "multiple:8"},
        "dynamic, 4 buckets": {"padding": "buckets:4"},
        "length_grouped": {"batching": "length_grouped"},
        "token_budget": {"batching": "token_budget", "max_tokens_per_batch": base.max_tokens_per_batch},
    }
    made = []
    for name, changes in chosen.items():
        config = replace(base, **plain | changes)
        flags = " ".join(f"--{setting} {value}" for setting, value in changes.items() if value is not None)
        max_length = config.max_seq_length or limit
        batches = batches_of(config, lengths, max_length, processes)
        cost, left_over = step_costs(batches, shape, processes)
        sample = sample_steps(cost, parts, passes, left_over)
        truncated = int((lengths > max_length).sum())
        made.append(Strategy(name, flags, config, max_length, batches, truncated, sample))
    return made


def made_lengths(kind: str, rows: int, seed: int, limit: int) -> np.ndarray:
    """`long-tail`: log-normal around 45 tokens, the longest at the limit. `near-uniform`: 62 to 66 tokens."""
    draw = np.random.default_rng(seed)
    if kind == "near-uniform":
        return np.minimum(draw.integers(62, 67, rows), limit).astype(np.int32)
    return np.clip(draw.lognormal(np.log(45), 0.75, rows), 8, limit).astype(np.int32)


def made_rows(lengths: np.ndarray, vocabulary: int, seed: int) -> Any:
    """Rows of random tokens, with a random label of two."""
    from datasets import Dataset

    draw = np.random.default_rng(seed)
    ids = [draw.integers(vocabulary // 10, vocabulary, length).tolist() for length in lengths]
    masks = [[1] * int(length) for length in lengths]
    labels = draw.integers(0, 2, len(lengths)).tolist()
    return Dataset.from_dict({"input_ids": ids, "attention_mask": masks, "label": labels})


def configured(given: argparse.Namespace, rest: list[str]) -> TrainConfig:
    """ftloop's own configuration, with what this benchmark takes where a flag is not given."""
    words = {word.split("=")[0] for word in rest}
    default = ["--model_name_or_path", PACKAGED_MODEL, "--per_device_train_batch_size", "16"]
    default += ["--per_device_eval_batch_size", "16", "--use_cpu", "false" if torch.cuda.is_available() else "true"]
    taken = [
        w for name, value in zip(default[::2], default[1::2], strict=True) if name not in words for w in (name, value)
    ]
    if given.precision == "bf16":
        taken += ["--bf16"]
    if given.made is None and words.isdisjoint({"--train_file", "--task_name", "--dataset_name"}):
        mrpc = os.environ.get("FTLOOP_MRPC_DIR")
        taken += ["--task_name", "mrpc" if mrpc else "demo"]
        for split in ("train", "validation") if mrpc else ():
            taken += [f"--{split}_file", str(Path(mrpc) / f"{split}.jsonl")]
    return parse_args([*taken, *rest])


def data_name(config: TrainConfig, made: str | None) -> str:
    if made is not None:
        return f"made, {made}"
    if config.task_name == "demo":
        return "the built-in pairs"
    return config.task_name or Path(config.train_file or config.dataset_name or "").name


def load_data(config: TrainConfig, made: str | None) -> tuple[Data, ModelShape]:
    """Rows as ftloop itself loads them, or made ones; nothing of the model but its shape."""
    from ftloop.data import Labels, load_text_data, tokenize
    from ftloop.model import load_shape, load_tokenizer, longest_input

    assert config.model_name_or_path is not None
    tokenizer, model = load_tokenizer(config.model_name_or_path), load_shape(config.model_name_or_path)
    limit = longest_input(model, tokenizer, config.max_seq_length)
    name = data_name(config, made)
    if made is not None:
        lengths = made_lengths(made, config.max_train_samples or MADE_ROWS, config.seed, limit)
        rows = made_rows(lengths, model.config.vocab_size, config.seed)
        data = Data(name, rows, lengths, limit, 0, tokenizer, Labels(("0", "1"), {"0": 0, "1": 1}))
    else:
        texts = load_text_data(config)
        rows, truncated = tokenize(texts, texts.train, tokenizer, limit, config, "train")
        data = Data(name, rows, row_lengths(rows), limit, truncated, tokenizer, texts.labels)
    return data, ModelShape.of(model.config)


def advice(config: TrainConfig, made: str | None) -> None:
    """Print what suits the data. Reads the tokenizer and the model's configuration, and no weights."""
    from ftloop.data import load_text_data
    from ftloop.model import load_shape, load_tokenizer, longest_input

    assert config.model_name_or_path is not None
    tokenizer, model = load_tokenizer(config.model_name_or_path), load_shape(config.model_name_or_path)
    limit = longest_input(model, tokenizer, config.max_seq_length)
    evaluated = None
    if made is not None:
        lengths = made_lengths(made, config.max_train_samples or MADE_ROWS, config.seed, limit)
    else:
        data = load_text_data(config)
        sets = [data.train, *list(data.validation.values())[:1]]
        found = [text_lengths([list(rows[name]) for name in data.text_columns], tokenizer) for rows in sets]
        lengths, evaluated = found[0], found[1] if len(found) > 1 else None
    shape = ModelShape.of(model.config)
    print(
        f"Data      {data_name(config, made)}; {config.model_name_or_path}: {shape.layers} layers, "
        f"hidden {shape.hidden}, intermediate {shape.intermediate}; nothing is trained"
    )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for line in advise(config, lengths, limit, shape, evaluated, processes).lines:
        print(line)


def one_update(run: Any, inputs: Any) -> None:
    from ftloop.loop import training_step

    training_step(run, inputs, 1.0, None)
    run.accelerator.clip_grad_norm_(run.model.parameters(), run.config.max_grad_norm)
    run.optimizer.step()
    run.model.zero_grad()


def synchronize(run: Any) -> None:
    if run.accelerator.device.type == "cuda":
        torch.cuda.synchronize()


def collated(run: Any, strategy: Strategy, batch: int, data: Data) -> Any:
    """A batch of the epoch, as ftloop's collator makes it, on the run's device."""
    examples = [
        {name: v[: strategy.max_length] if isinstance(v, list) else v for name, v in data.dataset[int(row)].items()}
        for row in strategy.batches.rows_of(batch)
    ]
    inputs = collator(data.tokenizer, strategy.batches.edges)(examples)
    return {name: value.to(run.accelerator.device) for name, value in inputs.items() if name in run.columns}


def measure(run: Any, chosen: list[Strategy], data: Data) -> None:
    """Time the sampled steps, the strategies in turn, and fill in `seconds` and `waited`."""
    processes, rank = run.accelerator.num_processes, run.accelerator.process_index

    def batch_of(strategy: Strategy, step: int) -> Any:
        return collated(run, strategy, int(step) * processes + rank, data)

    for strategy in chosen:
        strategy.seconds = np.zeros(strategy.sample.steps.shape)
        strategy.waited = np.zeros(strategy.sample.steps.shape)
        one_update(run, batch_of(strategy, strategy.sample.steps[-1, -1]))  # of the largest steps; not counted
    draw = np.random.default_rng(0)
    passes, parts = np.max([strategy.sample.steps.shape for strategy in chosen], axis=0)
    for k in range(passes):
        # Not by size, so that the machine's slow moments do not hit the large ones alone.
        orders = [draw.permutation(strategy.sample.steps.shape[1]) for strategy in chosen]
        for turn in range(parts):
            for strategy, order in zip(chosen, orders, strict=True):
                if turn >= len(order):
                    continue
                place = k, order[turn]
                inputs = batch_of(strategy, strategy.sample.steps[place])
                strategy.seconds[place] = _seconds(run, inputs)
                if processes > 1:
                    strategy.waited[place] = _wait(run, inputs)
        if run.is_main:
            print(f"pass {k + 1} of {passes} timed", file=sys.stderr, flush=True)
    if processes > 1:
        for strategy in chosen:  # a step takes as long as it does where it is slowest
            strategy.seconds = _over_processes(strategy.seconds).max(axis=0)
            strategy.waited = _over_processes(strategy.waited).mean(axis=0)


def _seconds(run: Any, inputs: Any) -> float:
    _together(run)
    started = time.perf_counter()
    one_update(run, inputs)
    synchronize(run)
    return time.perf_counter() - started


def _wait(run: Any, inputs: Any) -> float:
    from ftloop.loop import training_step

    _together(run)
    with run.accelerator.no_sync(run.model):
        training_step(run, inputs, 1.0, None)
    synchronize(run)
    done = time.perf_counter()
    _together(run)
    waited = time.perf_counter() - done
    run.model.zero_grad()
    return waited


def _together(run: Any) -> None:
    synchronize(run)
    if run.accelerator.num_processes > 1:
        dist.barrier()
        synchronize(run)


def _over_processes(values: np.ndarray) -> np.ndarray:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, values)
    return np.stack(gathered)


def largest_batch(batches: Batches) -> tuple[int, int]:
    """Rows and tokens of each row; of the most tokens, then of the longest rows."""
    sizes, padded = batches.sizes, batches.padded_to.astype(np.int64)
    place = np.lexsort((padded, sizes * padded))[-1]
    return int(sizes[place]), int(padded[place])


def peak_memory(strategy: Strategy, words: list[str]) -> None:
    """Fill in `peak_bytes`, from a process of its own that makes updates with a batch of that size."""
    rows, tokens = largest_batch(strategy.batches)
    of_launcher = ("RANK", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC", "LOCAL_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(of_launcher)}
    done = subprocess.run(
        [sys.executable, __file__, *words, "--peak_of", f"{rows}x{tokens}"], env=env, capture_output=True, text=True
    )
    if done.returncode:
        print(f"{strategy.name}: peak memory not measured: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    strategy.peak_bytes, strategy.bytes_before = found["peak"], found["before"]


def report_peak(config: TrainConfig, size: str) -> None:
    from ftloop.model import load_shape

    rows, tokens = map(int, size.split("x"))
    vocabulary = load_shape(config.model_name_or_path or "").config.vocab_size
    config = replace(config, per_device_train_batch_size=rows)
    run = prepared(config, None, made_rows(np.full(rows, tokens), vocabulary, 0))
    inputs = next(iter(run.train_loader))
    before = peak_bytes(run)
    for _ in range(2):
        one_update(run, inputs)
    print(json.dumps({"before": before, "peak": peak_bytes(run)}))


def peak_bytes(run: Any) -> int:
    if run.accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # where ru_maxrss is handed on: a program begins with the peak of the one that started it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def prepared(config: TrainConfig, data: Data | None, rows: Any) -> Any:
    """An ftloop run, ready to train on these rows. Without `data`, whose tokenizer pads, they are equally long."""
    from ftloop.data import Labels
    from ftloop.model import load_model
    from ftloop.run import make_accelerator, prepare, seed_everything

    accelerator = make_accelerator(config)
    seed_everything(config)
    labels = data.labels if data is not None else Labels(("0", "1"), {"0": 0, "1": 1})
    model, _ = load_model(config.model_name_or_path or "", labels)
    tokenizer = data.tokenizer if data is not None else None
    # Which rows meet and what they are padded to has been settled before: batches are made by hand here.
    config = replace(config, batching="random", max_tokens_per_batch=None, padding="longest", pad_to_max_length=False)
    return prepare(config, model, rows, processing_class=tokenizer, accelerator=accelerator)


def figures(strategy: Strategy, dynamic: Strategy, shape: ModelShape, processes: int) -> dict[str, Any]:
    """What is written of a strategy."""
    batches, sample = strategy.batches, strategy.sample
    epoch = sample.epoch(strategy.seconds)
    rows, tokens = largest_batch(batches)
    told: dict[str, Any] = {
        "flags": strategy.flags,
        "padding_share": batches.padding_share,
        "computed_tokens": batches.computed_tokens,
        "real_tokens": batches.real_tokens,
        "rows_truncated": strategy.rows_truncated,
        "batches": len(batches),
        "largest_batch": [rows, tokens],
        "flops_to_dynamic": float(batches.training_flops(shape).sum() / dynamic.batches.training_flops(shape).sum()),
        "steps_timed": int(strategy.seconds.size),
        "seconds_of_each": strategy.seconds.tolist(),
        "step_seconds": spread(strategy.seconds),
        "epoch_seconds": spread(epoch),
        "epoch_to_dynamic": spread(epoch / dynamic.sample.epoch(dynamic.seconds)),
        "real_tokens_per_second": batches.real_tokens / statistics.median(epoch),
        "peak_bytes": strategy.peak_bytes,
        "bytes_before_the_first_step": strategy.bytes_before,
    }
    if processes > 1:
        told["wait_seconds"] = spread(strategy.waited)
        told["wait_share"] = float(sample.epoch(strategy.waited).sum() / epoch.sum())
    return told


def spread(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}


def table(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The rows of the printed table, its head first. A column that is not measured is left out."""
    several = "wait_share" in found["dynamic"]
    head = ["strategy", "padding", "rows cut", "batches", "step, ms", "epoch, s", "to dynamic", "real tokens/s"]
    lines = [[*head, "peak, MiB", *(["wait per step, ms", "share"] if several else [])]]
    for name, row in found.items():
        peak = row["peak_bytes"]
        line = [
            name,
            f"{row['padding_share']:.1%}",
            str(row["rows_truncated"]),
            str(row["batches"]),
            _spread(row["step_seconds"], 1e3, 0),
            _spread(row["epoch_seconds"], 1, 1),
            _spread(row["epoch_to_dynamic"], 1, 2),
            f"{row['real_tokens_per_second']:.0f}",
            "not measured" if peak is None else f"{peak / 2**20:.0f}",
        ]
        lines.append([*line, *([_spread(row["wait_seconds"], 1e3, 0), f"{row['wait_share']:.0%}"] if several else [])])
    return lines


def _spread(row: dict[str, float], unit: float, digits: int) -> str:
    median, least, most = (f"{row[key] * unit:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def on_console(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_markdown(result: dict[str, Any], lines: list[list[str]], stem: str, pictures: list[str]) -> str:
    """The section for results/README.md."""
    conditions = result["conditions"]
    versions = ", ".join(f"{name} {conditions[name]}" for name in ("python", "torch", "transformers", "accelerate"))
    told = [
        f"{result['data']['described']}. {conditions['model']}, {conditions['precision']}, batches of "
        f"{conditions['rows_per_batch']} rows, {conditions['where']}; {versions}. `{conditions['command']}`, "
        f"{conditions['steps']} steps timed of each. "
        f"[{stem}.json]({stem}.json)",
        "",
        "| " + " | ".join(lines[0]) + " |",
        "|" + "---|" * len(lines[0]),
        *("| " + " | ".join(line) + " |" for line in lines[1:]),
        "",
        *(f"* {name}: {text}." for name, text in result["how"].items()),
    ]
    told += ["", *(f"![{name}]({name})" for name in pictures)]
    return "\n".join(told) + "\n"


def benchmark(config: TrainConfig, given: argparse.Namespace, words: list[str]) -> None:
    from parity import conditions

    passes = min(given.passes, given.steps)
    data, shape = load_data(config, given.made)
    run = prepared(config, data, data.dataset)
    processes = run.accelerator.num_processes
    chosen = strategies(config, data.lengths, data.max_length, shape, processes, given.steps // passes, passes)
    described = f"{data.name}: {describe_lengths(data.lengths)}, {data.truncated} of them cut at {data.max_length}"
    if run.is_main:
        print(f"Data      {described}", flush=True)
        for strategy in chosen:
            if strategy.rows_truncated:
                print(f"Truncated {strategy.rows_truncated} rows, by {strategy.name}", flush=True)
        if not given.no_memory:
            for strategy in chosen:
                peak_memory(strategy, words)
    measure(run, chosen, data)
    if not run.is_main:
        return
    dynamic = next(strategy for strategy in chosen if strategy.name == "dynamic")
    rows = {strategy.name: figures(strategy, dynamic, shape, processes) for strategy in chosen}
    path = given.output or RESULTS / f"{file_stem(given, processes)}.json"
    told = conditions() | {
        "command": " ".join(["python" if processes == 1 else f"torchrun --nproc_per_node {processes}"])
        + " ".join(["", "benchmarks/padding.py", *sys.argv[1:]]),
        "model": config.model_name_or_path,
        "precision": given.precision,
        "rows_per_batch": config.per_device_train_batch_size,
        "processes": processes,
        "where": _where(run),
        "passes": passes,
        "steps": dynamic.seconds.size,
        "seed": config.seed,
    }
    how = {name: text for name, text in HOW.items() if processes > 1 or name != "wait"}
    counts = np.bincount(data.lengths)
    lengths = {int(length): int(counts[length]) for length in np.flatnonzero(counts)}
    about = {"name": data.name, "described": described, "rows": len(data.lengths), "rows_of_length": lengths}
    result = {"conditions": told, "data": about, "how": how, "strategies": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    pictures = draw(result, [_first_batches(run, strategy, data) for strategy in _pictured(chosen)], path)
    lines = table(rows)
    path.with_suffix(".md").write_text(as_markdown(result, lines, path.stem, pictures))
    print(f"\n{on_console(lines)}\n")
    for name, text in how.items():
        print(f"{name}: {text}.")
    print(f"\nWritten   {path}, {path.with_suffix('.md').name}{''.join(f', {name}' for name in pictures)}")


def _where(run: Any) -> str:
    processes, threads = run.accelerator.num_processes, torch.get_num_threads()
    if run.accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name()
    else:
        device = f"{threads} thread{'' if threads == 1 else 's'} on {platform.machine()} CPU"
    return device if processes == 1 else f"{processes} processes of {device}"


def file_stem(given: argparse.Namespace, processes: int) -> str:
    parts = ["padding", given.made, "bf16" if given.precision == "bf16" else None]
    return "-".join([*filter(None, parts), *([f"{processes}-processes"] if processes > 1 else [])])


def _pictured(chosen: list[Strategy]) -> list[Strategy]:
    """Global padding to the longest row: to 512 would be true too, and nothing of it could be seen."""
    whole = next((s for s in chosen if "the longest row" in s.name), chosen[0])
    return [whole, *(s for s in chosen if s.name in ("dynamic", "length_grouped"))]


def _first_batches(run: Any, strategy: Strategy, data: Data, count: int = 4) -> dict[str, Any]:
    """The attention masks of the first batches of the epoch."""
    inputs = [collated(run, strategy, batch, data) for batch in range(min(count, len(strategy.batches)))]
    masks = [batch["attention_mask"].cpu().numpy() for batch in inputs]
    return {"name": strategy.name, "share": strategy.batches.padding_share, "masks": masks}


def draw(result: dict[str, Any], batches: list[dict[str, Any]], path: Path) -> list[str]:
    """The pictures beside `path`. Returns: their names; none without matplotlib, and it is said."""
    try:
        from padding_pictures import draw_batches, draw_lengths, draw_strategies
    except ImportError:
        print("no pictures: they need matplotlib: pip install matplotlib (the extra `plots`)", file=sys.stderr)
        return []
    made = {kind: path.with_name(f"{path.stem}-{kind}.png") for kind in ("lengths", "strategies", "batches")}
    draw_lengths(result, made["lengths"])
    draw_strategies(result, made["strategies"])
    draw_batches(result, batches, made["batches"])
    return [picture.name for picture in made.values()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--advise", action="store_true", help="read the lengths only, and recommend flags")
    parser.add_argument("--made", choices=["long-tail", "near-uniform"], help="made rows in place of a data set")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=24, help="steps that are timed, of each strategy")
    parser.add_argument("--passes", type=int, default=3, help="over the epoch; each gives an estimate of its time")
    parser.add_argument("--no_memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--output", type=Path, help="the JSON file; the others are written beside it")
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)
    words = sys.argv[1:] if argv is None else argv
    given, rest = parser.parse_known_args(words)
    if min(given.steps, given.passes) < 1:
        parser.error("--steps and --passes must be at least 1")
    try:
        config = configured(given, rest)
        from ftloop.announce import quiet_libraries

        quiet_libraries(config)
        if given.peak_of:
            report_peak(config, given.peak_of)
        elif given.advise:
            advice(config, given.made)
        else:
            benchmark(config, given, words)
    except Exception as error:
        return tell(error, config.traceback if "config" in locals() else False)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
