"""Random numbers that are drawn where batches are fetched, by a data set or a collator of the user's own that masks
tokens, say: a resumed run has to fetch what the run that was stopped would have fetched.

The generators' states in a checkpoint are not enough for that. In the process that trains, a batch is fetched before
the one ahead of it is trained on, so the next batch of a checkpoint was fetched already, and with other states. Workers
have generators of their own, seeded when an epoch begins, whose states nobody outside of them can read.
"""

from __future__ import annotations

import ctypes
import inspect
import multiprocessing
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from ftloop.batching.padding import Collator
from ftloop.system.console import say
from ftloop.system.rng import restore_rng_state

MAX_DEPTH, MAX_PARTS = 4, 100
"""How deep, and at how many parts of an object, is looked for a generator that it holds."""


class Fetches:
    """Fetches that draw nothing: there is nothing to be saved, and nothing to be restored."""

    other_workers = False
    """Whether something is drawn, and before the checkpoint it was by another number of workers."""

    def state(self) -> dict[str, Any] | None:
        """Return what a checkpoint holds of this process beside its generators; None where nothing is drawn."""
        return None

    def resume(self, folder: Path, rng_state: dict[str, Any]) -> None:
        """Take that out of the random states of a checkpoint."""
        rng_state.pop("fetches", None)

    def reads_again(self) -> bool:
        """Whether a resumed run reads the epoch from its beginning, for its workers to draw all they drew."""
        return False

    def begin_epoch(self, epoch: int, in_epoch: bool, restore: Callable[[], None]) -> None:
        """Called before an epoch's iterator is made. `in_epoch`: some of its updates are done. `restore` restores the
        checkpoint's generators, once."""

    def tell(self) -> None:
        """Called when a resumed run has fetched its first update: tell where these are other batches."""


class DrawingFetches(Fetches):
    """A data set and its collator as a loader takes them, of which it is not known that they draw nothing.

    Differs: Trainer resumes to other batches.
    """

    def __init__(self, dataset: Any, collate: Collator, workers: int, workers_persist: bool) -> None:
        self.dataset, self._collate = dataset, collate
        self._workers, self._workers_persist = workers, workers_persist
        # Set in whichever process draws.
        self._draws: Any = multiprocessing.RawValue(ctypes.c_bool) if workers else SimpleNamespace(value=False)
        self._own: dict[str, Any] | None = None  # generators that the data set or the collator holds, and their states
        self._before: dict[str, Any] | None = None  # states before the fetch under way
        # States before the last fetch; with workers, torch's before the epoch's iterator, which seeds them from it.
        self._state: dict[str, Any] | None = None
        self._folder: Path | None = None  # the checkpoint
        self._saved: dict[str, Any] | None = None  # `state()` of the run that saved it
        self._is_taken_up = True  # whether an epoch has begun since
        self._before_next: list[Callable[[], None]] = []  # to be done before the next fetches, one each
        self._inexact: str | None = None  # why these are other batches, where anything is drawn

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: Any) -> Any:
        return self.dataset[row]

    def __getattr__(self, name: str) -> Any:
        if "dataset" not in self.__dict__:  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets that is not forked."""
        return self.__dict__ | {"_state": None, "_saved": None, "_before_next": []}

    def __getitems__(self, rows: list[int]) -> Any:
        """Fetch the rows of a batch, as torch does."""
        if self._before_next:
            self._before_next.pop(0)()
        self._before = _states()
        if not self._workers:
            self._state = self._before
        together = getattr(self.dataset, "__getitems__", None)
        return together(rows) if together else [self.dataset[row] for row in rows]

    def collate(self, examples: list[Any]) -> Any:
        batch = self._collate(examples)
        before, self._before = self._before, None
        if before is not None:  # else nobody has fetched the rows for training
            if not self._draws.value and _differ(before, _states()):
                self._draws.value = True
            self._look_for_own_generators()
            if not self._workers:
                self.tell()
        return batch

    def _look_for_own_generators(self) -> None:
        """Find out whether generators that the data set or the collator holds are drawn from. In workers, whose copies
        are made anew in each epoch, these are like the others. Of this process no checkpoint holds them: a resumed run
        looks whether they have moved from its first fetch to the second."""
        if self._own is None:
            looks = self._workers or self._folder is not None
            self._own = dict(held_generators((self._collate, self.dataset))) if looks else {}
            if self._workers and self._own:
                self._draws.value = True
        elif self._own and not self._workers:
            now = dict(held_generators((self._collate, self.dataset)))
            moved = [name for name, state in now.items() if state != self._own.get(name)]
            self._own = {}
            if moved:
                self._draws.value = True
                self._inexact = f"and from a generator of their own, {moved[0]}, which no checkpoint holds"

    def state(self) -> dict[str, Any] | None:
        return {"workers": self._workers} | self._state if self._state and self._draws.value else None

    def resume(self, folder: Path, rng_state: dict[str, Any]) -> None:
        self._folder, self._saved, self._is_taken_up = folder, rng_state.pop("fetches", None), False
        self._own = None
        self._draws.value = self._saved is not None
        self.other_workers = self._saved is not None and not self._is_known()
        if self._is_known():
            self._state = {name: state for name, state in self._saved.items() if name != "workers"}

    def reads_again(self) -> bool:
        return self._workers > 0 and not self._is_taken_up and self._is_known()

    def _is_known(self) -> bool:
        return self._saved is not None and self._saved["workers"] == self._workers

    def begin_epoch(self, epoch: int, in_epoch: bool, restore: Callable[[], None]) -> None:
        is_whole = not in_epoch or self.reads_again()
        if not self._is_taken_up:
            self._take_up(epoch, in_epoch, restore)
            self._is_taken_up = True
        if self._workers and (epoch == 0 or not self._workers_persist):
            self._state = {"cpu": torch.get_rng_state()} if is_whole else None

    def _take_up(self, epoch: int, in_epoch: bool, restore: Callable[[], None]) -> None:
        assert self._folder is not None
        saved, folder = self._saved, self._folder.name
        if self._workers_persist and epoch > 0:
            self._inexact = "and by workers that persist (dataloader_persistent_workers), of which no checkpoint tells"
        elif saved is None and in_epoch:
            self._inexact = f"and {folder} does not hold what that takes"
        elif saved is not None and self.other_workers:
            then, now = saved["workers"], self._workers
            self._inexact = f"and by other workers than before {folder} (dataloader_num_workers {then} then, {now} now)"
        elif saved is not None and in_epoch and self._workers:
            torch.set_rng_state(saved["cpu"])
            say("Reading", "this epoch again from its beginning: workers draw random numbers where they fetch rows")
        elif saved is not None and in_epoch:
            self._before_next = [partial(restore_rng_state, saved), restore]
        self.tell()

    def tell(self) -> None:
        if self._inexact is not None and self._draws.value:
            drawn = "random numbers are drawn where training rows are fetched"
            way = "from here on no longer the bits of a run that was never stopped"
            say("Warning", f"{drawn}, {self._inexact}: {way}")
            self._inexact = None


def _states() -> dict[str, Any]:
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether any generator stands elsewhere."""
    (_, keys, *place), (_, other_keys, *other_place) = one["numpy"], other["numpy"]
    same = one["python"] == other["python"] and place == other_place and np.array_equal(keys, other_keys)
    return not (same and torch.equal(one["cpu"], other["cpu"]))


def held_generators(things: Any) -> Iterator[tuple[str, str]]:
    """Yield the random number generators that objects hold, with their states as text; not the ones that all share."""
    shared: Any = (random.random.__self__, np.random.mtrand._rand, torch.default_generator)  # type: ignore[attr-defined]
    seen = {id(each) for each in shared}

    def look(thing: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
        if id(thing) in seen or depth > MAX_DEPTH or isinstance(thing, random.SystemRandom):
            return
        seen.add(id(thing))
        if isinstance(thing, np.random.Generator):
            yield name, repr(thing.bit_generator.state)
        elif isinstance(thing, np.random.RandomState):
            yield name, repr(thing.get_state())
        elif isinstance(thing, torch.Generator):
            yield name, thing.get_state().numpy().tobytes().hex()
        elif isinstance(thing, random.Random):
            yield name, repr(thing.getstate())
        else:
            for part, value in _parts(thing)[:MAX_PARTS]:
                yield from look(value, part if part.isidentifier() else name, depth + 1)

    for thing in things:
        yield from look(thing, type(thing).__name__, 0)


def _parts(thing: Any) -> list[tuple[str, Any]]:
    """Return what an object is made of, by name."""
    if isinstance(thing, partial):
        return [("", thing.func), *(("", value) for value in thing.args), *thing.keywords.items()]
    if isinstance(thing, MethodType):
        return [("", thing.__self__), ("", thing.__func__)]
    if isinstance(thing, FunctionType):
        with suppress(ValueError):  # of a name that has no value yet
            used = inspect.getclosurevars(thing)
            parts = [*used.nonlocals.items(), *used.globals.items()]
            return [(name, value) for name, value in parts if not isinstance(value, (FunctionType, type))]
        return []
    if isinstance(thing, Mapping):
        with suppress(Exception):  # it may be a data base, of which no more is read than is looked at
            return [(str(name), value) for name, value in islice(thing.items(), MAX_PARTS)]
        return []
    if isinstance(thing, (list, tuple)):
        return [("", value) for value in thing[:MAX_PARTS]]
    if isinstance(thing, (type, torch.Tensor, np.ndarray)) or type(thing).__module__ == "builtins":
        return []
    return list(getattr(thing, "__dict__", {}).items())
