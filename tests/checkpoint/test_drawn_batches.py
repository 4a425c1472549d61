"""A data set or a collator of the user's own that draws random numbers: a run that is resumed fetches the batches that
the run that was stopped would have fetched, or says at once that it does not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import side_by_side
from harness.cross_resume import RESUME_ARGUMENTS as ARGUMENTS
from harness.cross_resume import assert_continues
from harness.rows import pad
from harness.side_by_side import Job, Trace, assert_same_run, run_ftloop, run_trainer
from transformers.trainer_pt_utils import safe_globals

from ftloop.run.fetches import MAX_PARTS, held_generators

MASK = 4
SHARES: dict[str, Callable[[int], Any]] = {
    "torch": lambda count: torch.rand(count),
    "numpy": lambda count: torch.from_numpy(np.random.random(count)),
    "python": lambda count: torch.tensor([random.random() for _ in range(count)]),
}
WORKERS = {"dataloader_num_workers": 2}
PERSIST = WORKERS | {"dataloader_persistent_workers": True}
TOLD = "Warning   random numbers are drawn where training rows are fetched, "


@dataclass
class Masking:
    """A collator that masks tokens by random numbers."""

    shares: Callable[[int], Any]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad(examples)
        ids = batch["input_ids"]
        masked = (self.shares(ids.numel()).reshape(ids.shape) < 0.3) & (ids > MASK)
        return batch | {"input_ids": ids.masked_fill(masked, MASK)}


class OwnGenerator:
    """Random numbers of a generator that the collator holds."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(7)

    def __call__(self, count: int) -> torch.Tensor:
        return torch.from_numpy(self.generator.random(count))


class Shortened:
    """A data set, as tutorials write them, whose rows lose tokens by random numbers."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        kept = [i for i in range(len(self.rows[row]["input_ids"])) if i < 2 or random.random() < 0.8]
        example = self.rows[row]
        return {name: value if name == "label" else [value[i] for i in kept] for name, value in example.items()}


def masked_rows(rows: Any) -> Any:
    """A transform of `datasets`, which makes the rows of a batch together."""

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        ids = [[MASK if x > MASK and random.random() < 0.3 else x for x in row] for row in batch["input_ids"]]
        return batch | {"input_ids": ids}

    return rows.with_transform(transform)


@dataclass
class OtherRows(Job):
    rows: Callable[[Any], Any] = Shortened

    def data(self) -> tuple[Any, Any]:
        train_rows, eval_rows = super().data()
        return self.rows(train_rows), eval_rows


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Have runs draw by the named way; gives their job."""

    def begin(where: str) -> Job:
        if where in ("data set", "transform"):
            return OtherRows(rows=Shortened if where == "data set" else masked_rows)
        shares = OwnGenerator() if where == "own" else SHARES[where]
        monkeypatch.setattr(side_by_side, "pad", Masking(shares))
        return Job()

    return begin


def trained(job: Job, folder: Path, resume: Path | None = None, **arguments: Any) -> Trace:
    return run_ftloop(job, folder, resume=None if resume is None else str(resume), **ARGUMENTS | arguments)


def drawn_state(checkpoint: Path) -> Any:
    with safe_globals():
        return torch.load(checkpoint / "rng_state.pth", weights_only=True).get("fetches")


in_turn = pytest.mark.parametrize("workers", [{}, pytest.param(WORKERS, marks=pytest.mark.slow)], ids=["here", "two"])


@in_turn
@pytest.mark.parametrize(
    "where",
    ["torch", "data set", *(pytest.param(each, marks=pytest.mark.slow) for each in ("numpy", "python", "transform"))],
)
def test_a_resumed_run_draws_what_the_interrupted_one_would_have(
    where: str, workers: dict[str, Any], draw: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After every update; update 3 ends an epoch."""
    job = draw(where)
    whole = trained(job, tmp_path / "whole", **workers)
    assert len(whole.updates) == 6
    for step in (1, 2, 3, 4, 5):
        resumed = trained(job, tmp_path / f"{step}", tmp_path / "whole" / f"checkpoint-{step}", **workers)
        assert_continues(resumed, whole)
        assert resumed.history == whole.history
    assert TOLD not in capsys.readouterr().out


@pytest.mark.parametrize("workers", [{}, WORKERS], ids=["here", "two"])
def test_so_does_one_that_is_resumed_twice_within_an_epoch(
    workers: dict[str, Any], draw: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = draw("torch")
    whole = trained(job, tmp_path / "whole", **workers)
    once = trained(job, tmp_path / "once", tmp_path / "whole" / "checkpoint-1", **workers)
    twice = trained(job, tmp_path / "twice", tmp_path / "once" / "checkpoint-2", **workers)
    assert_continues(once, whole)
    assert_continues(twice, whole)
    out = capsys.readouterr().out
    assert TOLD not in out
    assert out.count("Reading   this epoch again from its beginning: workers draw random numbers") == 2 * bool(workers)


def test_evaluations_and_logs_between_the_fetches_change_nothing(draw: Callable[..., Job], tmp_path: Path) -> None:
    """An evaluation draws a number, and by this collator many; after update 1 one is due when the run is taken up."""
    job = draw("torch")
    arguments = {"eval_strategy": "steps", "eval_steps": 1, "gradient_accumulation_steps": 1, "max_steps": 9}
    whole = trained(job, tmp_path / "whole", **arguments)
    assert len(whole.updates) == 9
    for step in (1, 7):  # 7: all but the last batch of the epoch, which was fetched already
        resumed = trained(job, tmp_path / f"{step}", tmp_path / "whole" / f"checkpoint-{step}", **arguments)
        assert_continues(resumed, whole)


def test_watching_the_fetches_changes_no_bit_of_trainers_run(draw: Callable[..., Job], tmp_path: Path) -> None:
    job = draw("torch")
    arguments = {"gradient_accumulation_steps": 1, "save_strategy": "no"}
    theirs = run_trainer(job, tmp_path / "trainer", **ARGUMENTS | arguments)
    assert_same_run(theirs, trained(job, tmp_path / "ours", **arguments))


def test_where_nothing_is_drawn_checkpoints_hold_nothing_of_it(tmp_path: Path) -> None:
    trained(Job(), tmp_path)  # whose collator is one of the user's own too
    assert drawn_state(tmp_path / "checkpoint-2") is None


def test_a_checkpoint_of_trainers_is_told_at_the_first_resume_and_so_is_the_second(
    draw: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = draw("numpy")
    run_trainer(job, tmp_path / "whole", **ARGUMENTS)
    told = "and checkpoint-1 does not hold what that takes: from here on no longer the bits of a run that was never"
    trained(job, tmp_path / "once", tmp_path / "whole" / "checkpoint-1")
    assert capsys.readouterr().out.count(f"{TOLD}{told}") == 1
    trained(job, tmp_path / "at an epoch's end", tmp_path / "whole" / "checkpoint-3")
    assert TOLD not in capsys.readouterr().out
    trained(job, tmp_path / "by workers", tmp_path / "whole" / "checkpoint-1", **WORKERS)
    assert capsys.readouterr().out.count(f"{TOLD}{told}") == 1
    trained(job, tmp_path / "again", tmp_path / "by workers" / "checkpoint-2", **WORKERS)
    assert capsys.readouterr().out.count(f"{TOLD}and checkpoint-2 does not hold") == 1


@pytest.mark.parametrize(
    ("then", "now"), [({}, WORKERS), pytest.param(WORKERS, {}, marks=pytest.mark.slow)], ids=["none then", "none now"]
)
def test_another_number_of_workers_is_told(
    then: dict[str, Any],
    now: dict[str, Any],
    draw: Callable[..., Job],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = draw("python")
    trained(job, tmp_path / "whole", **then, max_steps=4)
    for step in (1, 3):
        capsys.readouterr()
        folder = tmp_path / "whole" / f"checkpoint-{step}"
        trained(job, tmp_path / f"{step}", folder, **now, max_steps=4)
        numbers = f"(dataloader_num_workers {len(then) * 2} then, {len(now) * 2} now)"
        out = capsys.readouterr().out
        assert f"{TOLD}and by other workers than before checkpoint-{step} {numbers}" in out
        assert (
            "dataloader_num_workers" in out.partition("Changed ")[2].partition(": from here on no longer the bits")[0]
        )


@pytest.mark.slow
def test_workers_that_persist_are_exact_in_the_first_epoch_and_told_after_it(
    draw: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = draw("torch")
    whole = trained(job, tmp_path / "whole", **PERSIST)
    assert_continues(trained(job, tmp_path / "2", tmp_path / "whole" / "checkpoint-2", **PERSIST), whole)
    assert TOLD not in capsys.readouterr().out
    for step in (3, 4):
        trained(job, tmp_path / f"{step}", tmp_path / "whole" / f"checkpoint-{step}", **PERSIST)
        assert f"{TOLD}and by workers that persist (dataloader_persistent_workers)" in capsys.readouterr().out


def test_a_generator_that_the_collator_holds_is_told_in_this_process_and_exact_in_workers(
    draw: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(draw("own"), tmp_path / "whole")
    assert TOLD not in capsys.readouterr().out
    for step in (1, 3):
        trained(draw("own"), tmp_path / f"{step}", tmp_path / "whole" / f"checkpoint-{step}")
        told = f"{TOLD}and from a generator of their own, generator, which no checkpoint holds"
        assert capsys.readouterr().out.count(told) == 1
    whole = trained(draw("own"), tmp_path / "by workers", **WORKERS)
    resumed = trained(draw("own"), tmp_path / "resumed", tmp_path / "by workers" / "checkpoint-2", **WORKERS)
    assert_continues(resumed, whole)
    assert TOLD not in capsys.readouterr().out


def test_a_generator_is_found_wherever_it_is_held_and_the_shared_ones_are_not_ones_own() -> None:
    mine = random.Random(1)

    def enclosed(examples: Any) -> Any:
        return mine.random()

    class Held:
        def __init__(self, value: Any) -> None:
            self.inner = {"generators": [value]}

        def collate(self, examples: Any) -> Any:
            return examples

    shared = (random.seed.__self__, np.random.mtrand._rand, torch.default_generator)  # type: ignore[attr-defined]
    for generator in (np.random.default_rng(), np.random.RandomState(1), torch.Generator(), random.Random()):
        held = Held(generator)
        for thing in (held, held.collate, partial(print, held), generator):
            assert len([*held_generators([thing])]) == 1, thing
    assert [name for name, _ in held_generators([enclosed])] == ["mine"]
    for generator in shared:
        assert not [*held_generators([Held(generator)])]
    assert not [*held_generators([Masking(SHARES["numpy"]), pad, Shortened([{"input_ids": [1, 2]}])])]


def test_of_a_data_base_that_is_a_mapping_no_more_is_read_than_is_looked_at() -> None:
    class DataBase(Mapping[int, str]):
        read = 0

        def __len__(self) -> int:
            return 10**5

        def __iter__(self) -> Iterator[int]:
            return iter(range(len(self)))

        def __getitem__(self, key: int) -> str:
            self.read += 1
            if self.is_closed:
                raise OSError("closed")
            return "a text"

        is_closed = False

    rows = DataBase()
    assert not [*held_generators([Shortened(rows)])]
    assert 0 < rows.read <= MAX_PARTS
    rows.is_closed = True
    assert not [*held_generators([Shortened(rows)])]


def test_a_generator_that_begins_anew_with_each_row_is_not_told(
    draw: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is held, and stands where it stood: what is drawn depends on the rows alone."""

    class Seeded:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(3)

        def __call__(self, count: int) -> torch.Tensor:
            shares = torch.rand(count, generator=self.generator.manual_seed(count))
            self.generator.manual_seed(3)
            return shares

    monkeypatch.setattr(side_by_side, "pad", Masking(Seeded()))
    whole = trained(Job(), tmp_path / "whole")
    assert_continues(trained(Job(), tmp_path / "2", tmp_path / "whole" / "checkpoint-2"), whole)
    assert TOLD not in capsys.readouterr().out


def test_a_data_set_is_still_told_of_each_epoch(tmp_path: Path) -> None:
    """As Accelerate tells one that has `set_epoch`."""
    told: list[int] = []

    class Counting(Shortened):
        def set_epoch(self, epoch: int) -> None:
            told.append(epoch)

    trained(OtherRows(rows=Counting), tmp_path, save_strategy="no")
    assert set(told) == {0, 1}
