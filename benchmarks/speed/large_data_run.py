"""What large_data.py has done in a process of its own: python benchmarks/speed/large_data_run.py JOB.json RESULT.json

`make`: rows and a tiny model. `train`: ftloop's command, with a clock around its steps. `plan`: the functions that put
rows in order, each in a fork. `evaluate`: `ftloop.evaluate` of many rows. Times are of `time.monotonic()`, the same
clock in all processes, so that they can be held against the memory that large_data.py has seen meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from harness.patching import replace_everywhere

from benchmarks.speed.large_data import CLASSES, anonymous, of_process

PIECE = 50_000  # rows that are made at once
RECORD_BATCH = 1000  # rows that `datasets` writes at once
# Steps of a start: which functions are timed under which name, wherever they are called from.
STEPS = {
    "reading": ("data.load.load_text_data",),
    "model": ("models.load.load_tokenizer", "models.load.load_model"),
    "tokenizing": ("data.tokenization.tokenize",),
    "token check": ("models.load.check_token_ids",),
    "lengths": ("batching.padding.row_lengths",),
    "order": ("batching.order.make_row_order",),
    "preparing": ("run.prepare.prepare",),
    "padding told": ("job.console.announce_padding",),
    "checkpoint": ("checkpoint.save.save_checkpoint",),
    "digest": ("data.cache.digest_rows",),
    "evaluation": ("evaluation.evaluate", "evaluation.predict"),
}


def make(folder: str, train_rows: list[int], validation_rows: int, token_rows: list[int], seed: int) -> dict[str, Any]:
    """Files of rows, of texts and of tokens, where they are not there yet, and the model."""
    from harness.models import tiny_bert
    from harness.rows import tiny_tokenizer

    root = Path(folder)
    for rows in train_rows:
        _unless_there(root / f"train-{rows}-seed-{seed}.parquet", lambda path, rows=rows: write_texts(path, rows, seed))
    validation = root / f"validation-{validation_rows}-seed-{seed}.parquet"
    _unless_there(validation, lambda path: write_texts(path, validation_rows, seed + 1))
    for rows in token_rows:
        _unless_there(root / f"tokens-{rows}-seed-{seed}.arrow", lambda path, rows=rows: write_tokens(path, rows, seed))
    tiny_tokenizer().save_pretrained(root / "model")
    tiny_bert().save_pretrained(root / "model")
    return {}


def _unless_there(path: Path, write: Callable[[Path], None]) -> None:
    if not path.is_file():
        begun = path.with_suffix(".begun")
        write(begun)
        begun.replace(path)


def pieces(rows: int, seed: int) -> Iterator[tuple[int, Any]]:
    """Yield how many rows to make at a time, and what to draw them from; more rows change none of the first."""
    import numpy as np

    for start in range(0, rows, PIECE):
        yield min(PIECE, rows - start), np.random.default_rng([seed, start])


def write_texts(path: Path, rows: int, seed: int) -> None:
    """Sentence pairs, each of a few to some dozens of words, as parquet; the second's first word tells the label."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from harness.rows import WORDS

    words = pa.array(WORDS[5:])
    schema = pa.schema([("sentence1", pa.string()), ("sentence2", pa.string()), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for count, draw in pieces(rows, seed):
            columns: list[Any] = []
            for _ in range(2):
                lengths = np.clip(draw.lognormal(np.log(11), 0.5, PIECE), 2, 40).astype(np.int32)
                starts = np.append(0, np.cumsum(lengths)).astype(np.int32)
                ids = draw.integers(0, len(words), starts[-1])
                texts = pc.binary_join(pa.ListArray.from_arrays(starts, words.take(pa.array(ids))), " ")
                columns.append(texts)
                labels = ids[starts[:-1]] % 2
            writer.write_table(pa.table([*columns, pa.array(labels)], schema=schema).slice(0, count))


def write_tokens(path: Path, rows: int, seed: int) -> None:
    """Rows as they are after tokenizing, as `datasets` caches them; with a label of each number of classes."""
    import numpy as np
    import pyarrow as pa
    from datasets import Features, List, Value
    from harness.rows import VOCABULARY

    features = Features({"input_ids": List(Value("int32")), "attention_mask": List(Value("int8"))})
    features |= {f"label_of_{classes}": Value("int64") for classes in CLASSES}
    schema = Features(features).arrow_schema
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for count, draw in pieces(rows, seed):
            lengths = np.clip(draw.lognormal(np.log(26), 0.4, PIECE), 7, 64).astype(np.int32)
            starts = np.append(0, np.cumsum(lengths)).astype(np.int32)
            ids = pa.array(draw.integers(5, VOCABULARY, starts[-1], dtype=np.int32))
            ones = pa.array(np.ones(starts[-1], np.int8))
            columns = [pa.ListArray.from_arrays(starts, values) for values in (ids, ones)]
            labels = [pa.array(draw.integers(0, classes, PIECE)) for classes in CLASSES]
            table = pa.table([*columns, *labels], schema=schema).slice(0, count)
            writer.write_table(table, max_chunksize=RECORD_BATCH)


class Clocks:
    """Clocks of the steps: when each began and ended, and what of that was not spent in a step within it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.within = [0.0]

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            self.within.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                ended = time.monotonic()
                alone = ended - began - self.within.pop()
                self.within[-1] += ended - began
                told = {"name": name, "began": began, "ended": ended, "alone": alone}
                self.steps.append(told | {"anonymous_after": anonymous()})

        return timed


def train(words: list[str]) -> dict[str, Any]:
    """`ftloop WORDS`, the command that `python ftloop/train.py WORDS` is too."""
    command: Any = import_module("ftloop.train")  # `from ftloop import train` would give the function
    clocks, updates_at = Clocks(), []

    def with_clocks(updates: Any) -> Any:
        def noted(*args: Any) -> Iterator[Any]:
            began = time.monotonic()
            for update in updates(*args):
                updates_at.append(time.monotonic())
                if len(updates_at) == 1:
                    told = {"name": "first update", "began": began, "ended": updates_at[0]}
                    clocks.steps.append(told | {"alone": updates_at[0] - began, "anonymous_after": anonymous()})
                yield update

        return noted

    def then_with_clocks(last_of_all: Any) -> Any:
        def called(*args: Any) -> Any:
            last_of_all(*args)
            for name, functions in STEPS.items():
                for function in functions:
                    replace_everywhere(function, partial(clocks.around, name))
            replace_everywhere("loop.updates", with_clocks)

        return called

    # What the command does before it imports the job: only then has it set the allocator as it wants it.
    replace_everywhere("config.offline.use_cache_if_hub_is_silent", then_with_clocks)
    sys.argv = ["ftloop", *words]
    code = command.main()
    if code:
        sys.exit(code)
    return {"steps": clocks.steps, "updates_at": updates_at}


def plan(tokens: str, rows_per_update: int, seed: int, repeats: int) -> dict[str, Any]:
    """Seconds and memory of each function, several times, each in a fork, which has computed nothing before."""
    import numpy as np
    from datasets import Dataset

    from ftloop.batching.efficiency import batches_of
    from ftloop.batching.order import length_grouped_rows, longest_first, random_rows
    from ftloop.batching.padding import bucket_edges, row_lengths
    from ftloop.batching.token_budget import TokenBudget, default_token_budget
    from ftloop.config.train_config import TrainConfig
    from ftloop.data.cache import _digest

    def columns(*names: str) -> Any:
        return Dataset.from_file(tokens).select_columns(list(names))

    def dealt(lengths: np.ndarray) -> int:
        budget = TokenBudget(lengths, default_token_budget(rows_per_update, lengths), 1, seed)
        budget.of_epoch(0)
        return len(budget)

    def padding_share(lengths: np.ndarray) -> float:
        config = TrainConfig(per_device_train_batch_size=rows_per_update, seed=seed)
        return batches_of(config, lengths, int(lengths.max())).padding_share

    done: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "row_lengths": (lambda: columns("input_ids"), lambda rows: len(row_lengths(rows, quiet=True))),
        "random_rows": (lambda: _lengths(tokens), lambda lengths: len(random_rows(len(lengths), seed, 0))),
        "length_grouped_rows": (
            lambda: _lengths(tokens),
            lambda lengths: len(length_grouped_rows(lengths, rows_per_update, seed, 0)),
        ),
        "TokenBudget, first epoch": (lambda: _lengths(tokens), dealt),
        "bucket_edges, 4": (lambda: _lengths(tokens), lambda lengths: bucket_edges(lengths, 4)),
        "longest_first": (lambda: _lengths(tokens), lambda lengths: len(longest_first(lengths))),
        "padding share": (lambda: _lengths(tokens), padding_share),
        "digest": (lambda: columns("input_ids", "attention_mask", "label_of_2"), _digest),
    }
    return {name: [_forked(*each) for _ in range(repeats)] for name, each in done.items()}


def _lengths(tokens: str) -> Any:
    from datasets import Dataset

    from ftloop.batching.padding import row_lengths

    return row_lengths(Dataset.from_file(tokens).select_columns("input_ids"), quiet=True)


def _forked(begin: Callable[[], Any], do: Callable[[Any], Any]) -> dict[str, Any]:
    """Seconds of `do`, and by how many bytes it made the process's anonymous memory grow, at most and in the end."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            given = begin()
            told: dict[str, Any] = {"before": anonymous(), "began": time.monotonic()}
            told["result"] = do(given)
            told |= {"ended": time.monotonic(), "after": anonymous()}
            os.write(write_end, json.dumps(told).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)  # what the fork has inherited is the parent's to end
    os.close(write_end)
    seen = []
    while (sample := of_process(child)) is not None:
        seen.append(sample)
        time.sleep(0.002)
    with open(read_end) as pipe:
        told = json.loads(pipe.read())
    os.waitpid(child, 0)
    peak = max([told["after"], *(s.anonymous for s in seen if told["began"] <= s.at <= told["ended"])])
    return {
        "seconds": told["ended"] - told["began"],
        "grew_at_most": peak - told["before"],
        "grew": told["after"] - told["before"],
        "result": told["result"],
    }


def evaluate(tokens: str, classes: int, batch: int) -> dict[str, Any]:
    """By the API, with the metrics that the command uses."""
    from datasets import Dataset
    from harness.models import tiny_bert
    from harness.rows import tiny_tokenizer

    import ftloop
    from ftloop.data.labels import Labels
    from ftloop.metrics import argmax_predictions, metrics_for

    rows = Dataset.from_file(tokens).select_columns(["input_ids", "attention_mask", f"label_of_{classes}"])
    rows = rows.rename_column(f"label_of_{classes}", "label")
    names = tuple(map(str, range(classes)))
    run = ftloop.prepare(
        ftloop.TrainConfig(use_cpu=True, disable_tqdm=True, per_device_eval_batch_size=batch),
        tiny_bert(classes),
        eval_dataset=rows,
        processing_class=tiny_tokenizer(),
        compute_metrics=metrics_for(Labels(names, {name: id for id, name in enumerate(names)})),
        preprocess_logits_for_metrics=argmax_predictions,
    )
    # What the first evaluation imports is not the rows'.
    ftloop.evaluate(run, rows.select(range(batch)))
    before, began = anonymous(), time.monotonic()
    metrics = ftloop.evaluate(run)
    ended = time.monotonic()
    return {"before": before, "after": anonymous(), "began": began, "ended": ended, "metrics": metrics}


if __name__ == "__main__":
    if sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit()
    job = json.loads(Path(sys.argv[1]).read_text())
    kind, result = job.pop("kind"), sys.argv[2]
    found = {"make": make, "train": train, "plan": plan, "evaluate": evaluate}[kind](**job)
    Path(result).write_text(json.dumps(found))
