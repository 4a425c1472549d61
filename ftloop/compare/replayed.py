"""Deal the rows of a recorded run to a loop of any kind, so that they are no difference between the two any more."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler, default_collate

from ftloop.compare.differences import Recording, read
from ftloop.compare.digests import digest_inputs, named_tensors
from ftloop.errors import UserError

Collate = Callable[[list[Any]], Any]
MicroBatches = list[list[str]]


class Replay(Sampler[list[int]]):
    """A batch sampler: each iteration deals one recorded epoch, micro-batch by micro-batch. It draws nothing.

    An epoch that was not dealt to its last micro-batch, as by a look at one batch, is dealt again.
    """

    def __init__(self, recording: Recording, places: dict[str, list[int]]) -> None:
        self.recording, self._places = recording, places
        counts = Counter({row: len(indices) for row, indices in places.items()})
        self.epochs = list(_epochs(recording, counts))
        """The rows' digests, by epoch and micro-batch."""
        self._next = 0

    def __len__(self) -> int:
        """The micro-batches of the epoch that is dealt next; after the last, of the last."""
        return len(self.epochs[min(self._next, len(self.epochs) - 1)])

    def __iter__(self) -> Iterator[list[int]]:
        if self._next == len(self.epochs):
            raise UserError(
                f"{self.recording.path}: all its {len(self.epochs)} epoch(s) have been dealt, and the loop asks for"
                " another: train as many, or record more"
            )
        dealt = Counter[str]()
        micro_batches = self.epochs[epoch := self._next]
        for place, rows in enumerate(micro_batches, 1):
            if place == len(micro_batches):
                self._next = epoch + 1  # here, since many a loop reads no further than the last one
            indices = []
            for row in rows:
                indices.append(self._places[row][dealt[row] % len(self._places[row])])
                dealt[row] += 1
            yield indices

    def set_random_state(self, update: int, process: int = 0) -> None:
        """Set the generators as they were before the first forward pass of this update, counted from 1.

        To be called right before it, and before `Recorder.before_forward`.
        Raises: UserError where the recording does not hold the state.
        """
        lines = self.recording.updates.get(update)
        if lines is None:
            raise UserError(f"{self.recording.path}: has no update {update}")
        states = lines[process].get("states")
        if states is None:
            raise UserError(
                f"{self.recording.path}: holds digests of the random states alone; record it with --record_full"
                " (from Python: record(..., full=True))"
            )
        for device, text in states.items():
            state = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
            if device == "cpu":
                torch.set_rng_state(state)
            elif torch.cuda.is_available():
                torch.cuda.set_rng_state(state)


def replay(file: str | Path, dataset: Any, collate_fn: Collate | None = None) -> Replay:
    """Return a batch sampler that deals the rows of a recording, of its processes in turn:

        rows = replay("theirs.jsonl", dataset, collate_fn)
        loader = DataLoader(dataset, batch_sampler=rows, collate_fn=collate_fn)

    `dataset` has `len()` and rows by number, tokenized. `collate_fn` makes of them what the model is called with: rows
    are found by the digests of that. None is torch's own.
    Raises: UserError where the recording cannot be read, is empty, or holds rows that the data set lacks.
    """
    recording = read(file)
    collate = collate_fn or default_collate
    places: dict[str, list[int]] = {}
    inputs: list[str] = []
    for index in range(len(dataset)):
        tensors = named_tensors(collate([dataset[index]]))
        inputs = inputs or sorted(tensors)
        for row in digest_inputs(tensors)[0]:
            places.setdefault(row, []).append(index)
    missing = [(update, row) for update in recording.updates for row in recording.rows(update) if row not in places]
    if missing or not recording.updates:
        raise UserError(_why(recording, missing, inputs))
    return Replay(recording, places)


def _why(recording: Recording, missing: list[tuple[int, str]], inputs: list[str]) -> str:
    if not recording.updates:
        return f"{recording.path}: holds no update, so there is nothing to deal"
    rows = {row for update in recording.updates for row in recording.rows(update)}
    first = recording.updates[missing[0][0]][0]["micro_batches"][0]
    reason = "other token ids or labels: is it the same data, tokenizer, length and label column?"
    if first["inputs"] != inputs:
        reason = (
            f"the model was called with {', '.join(first['inputs'])}, and collate_fn makes {', '.join(inputs)}: give"
            " the columns and the collate_fn that make the same"
        )
    return (
        f"{recording.path}: {len({row for _, row in missing})} of its {len(rows)} different rows are not in the data"
        f" set (first in update {missing[0][0]}); {reason}"
    )


def _epochs(recording: Recording, counts: Counter[str]) -> Iterator[MicroBatches]:
    """Yield the micro-batches of each epoch. Where the recording does not say when one begins, it does when a row
    comes again; with several processes, when all rows of a round do, since the last round is filled up with some.
    """
    epoch: MicroBatches = []
    number: int | None = None
    left = counts.copy()
    is_filled = False
    for lines in recording.updates.values():
        said = lines[0].get("epoch")
        for micros in zip(*[line["micro_batches"] for line in lines], strict=False):
            rounds = [micro["rows"] for micro in micros]
            rows = list(chain.from_iterable(rounds))
            again = [left[row] <= 0 for row in rows]
            begins = is_filled or (any(again) if len(lines) == 1 else all(again))
            if said is not None:
                begins = number is not None and math.ceil(said) > number
                number = math.ceil(said)
            if begins and epoch:
                yield epoch
                epoch, left, is_filled = [], counts.copy(), False
            epoch += rounds
            left.subtract(rows)
            is_filled = len(lines) > 1 and min(left[row] for row in rows) < 0
    if epoch:
        yield epoch
