"""What padding costs: how much of what is computed is padding, and what that takes, for each way to pad and to batch.

    python benchmarks/padding/measure.py   MRPC where FTLOOP_MRPC_DIR names it, else the built-in pairs
        --train_file mine.csv --model_name_or_path FOLDER
        --made long-tail                   rows of random tokens, seeded; or near-uniform
        --advise --train_file mine.csv     what suits these rows; nothing is trained
    torchrun --nproc_per_node 2 benchmarks/padding/measure.py   also how long the processes wait for each other

Every setting of ftloop is a flag here too. The padding share is exact, over a whole epoch, from the lengths. Times are
of a sample of the epoch's steps; the table says how they were taken. Written are JSON, the table as Markdown and, with
matplotlib, three pictures, all beside each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.common import RESULTS, conditions
from benchmarks.padding.advise import advise, describe_lengths, text_lengths
from benchmarks.padding.rows import MADE_ROWS, Data, data_name, load_data, made_lengths
from benchmarks.padding.strategies import UNPADDED, Strategy, strategies
from benchmarks.padding.tables import HOW, as_markdown, figures, on_console, table
from benchmarks.padding.timing import collated, measure, peak_memory, prepared, report_peak
from ftloop.batching.efficiency import ModelShape
from ftloop.config.command_line import parse_args
from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data
from ftloop.job.fine_tune import quiet_libraries
from ftloop.job.inputs import padding_unneeded
from ftloop.models.load import load_shape, load_tokenizer, longest_input
from ftloop.models.unpadding import can_unpad
from ftloop.system.exit import report_error
from ftloop.system.hub import PACKAGED_MODEL


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


def advice(config: TrainConfig, made: str | None) -> None:
    """Print what suits the data. Reads the tokenizer and the model's configuration, and no weights."""
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
    unneeded = padding_unneeded(config, model, tokenizer)
    for line in advise(config, lengths, limit, shape, evaluated, processes, unneeded).lines:
        print(line)


def benchmark(config: TrainConfig, given: argparse.Namespace, words: list[str]) -> None:
    passes = min(given.passes, given.steps)
    data, shape = load_data(config, given.made)
    run = prepared(config, data, data.dataset)
    processes = run.accelerator.num_processes
    chosen = strategies(config, data.lengths, data.max_length, shape, processes, given.steps // passes, passes)
    unpadded = None
    if can_unpad(run.unwrapped_model, data.tokenizer):
        unpadded = prepared(replace(config, padding="none"), data, data.dataset)
    else:
        chosen = [strategy for strategy in chosen if strategy.name != UNPADDED]
    described = f"{data.name}: {describe_lengths(data.lengths)}, {data.truncated} of them cut at {data.max_length}"
    if run.is_main:
        print(f"Data      {described}", flush=True)
        for strategy in chosen:
            if strategy.rows_truncated:
                print(f"Truncated {strategy.rows_truncated} rows, by {strategy.name}", flush=True)
        if not given.no_memory:
            for strategy in chosen:
                peak_memory(strategy, words)
    measure(run, chosen, data, unpadded)
    if not run.is_main:
        return
    dynamic = next(strategy for strategy in chosen if strategy.name == "dynamic")
    rows = {strategy.name: figures(strategy, dynamic, shape, processes) for strategy in chosen}
    path = given.output or RESULTS / f"{file_stem(given, processes)}.json"
    told = conditions() | {
        "command": " ".join(["python" if processes == 1 else f"torchrun --nproc_per_node {processes}"])
        + " ".join(["", "benchmarks/padding/measure.py", *sys.argv[1:]]),
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
    return [whole, *(s for s in chosen if s.name in ("dynamic", "length_grouped", UNPADDED))]


def _first_batches(run: Any, strategy: Strategy, data: Data, count: int = 4) -> dict[str, Any]:
    """The attention masks of the first batches of the epoch."""
    inputs = [collated(run, strategy, batch, data) for batch in range(min(count, len(strategy.batches)))]
    masks = [batch["attention_mask"].cpu().numpy() for batch in inputs]
    if strategy.name == UNPADDED:
        masks = [packed(mask) for mask in masks]
    return {"name": strategy.name, "share": strategy.batches.padding_share, "masks": masks}


def packed(mask: np.ndarray) -> np.ma.MaskedArray[Any, Any]:
    """The tokens of a batch one behind the other, 1 and 2 in turn from row to row, in lines as long as its longest row;
    what is over is masked.
    """
    kinds, length = np.repeat(np.arange(len(mask)) % 2 + 1, mask.sum(axis=1)), mask.shape[1]
    lines = np.zeros((-(-len(kinds) // length), length), int)
    lines.flat[: len(kinds)] = kinds
    return np.ma.masked_equal(lines, 0)


def draw(result: dict[str, Any], batches: list[dict[str, Any]], path: Path) -> list[str]:
    """The pictures beside `path`. Returns: their names; none without matplotlib, and it is said."""
    try:
        from benchmarks.padding.plots import draw_batches, draw_lengths, draw_strategies
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
        quiet_libraries(config)
        if given.peak_of:
            report_peak(config, given.peak_of)
        elif given.advise:
            advice(config, given.made)
        else:
            benchmark(config, given, words)
    except Exception as error:
        return report_error(error, config.traceback if "config" in locals() else False)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
