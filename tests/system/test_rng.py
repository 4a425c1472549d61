"""The generators of several GPUs, saved and restored by other numbers of processes and machines. The GPUs are fakes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.fake_gpus import FakeGPUs
from harness.prepared_runs import prepared
from transformers.trainer_pt_utils import safe_globals, set_rng_state_for_device

from ftloop import Run, UserError, load_checkpoint, train, training_step
from ftloop.run.micro_batches import MicroBatch
from ftloop.system.rng import own_rng_state, restore_rng_state, rng_files, rng_state, save_rng_state


@dataclass(frozen=True)
class Layout:
    """Machines, processes on each, and GPUs that each process sees."""

    machines: int
    processes: int
    visible: int

    def gpus(self) -> list[FakeGPUs]:
        """What each process sees; its own GPU is the one of its place on its machine."""
        places = [local % self.visible for local in range(self.processes)] * self.machines
        return [FakeGPUs(self.visible, own) for own in places]


FOUR, TWO, ONE = Layout(1, 4, 4), Layout(1, 2, 2), Layout(1, 1, 1)
EIGHT, TWICE_FOUR, TWO_OF_FOUR = Layout(1, 8, 8), Layout(2, 4, 4), Layout(2, 2, 4)


def save(folder: Path, layout: Layout, as_trainer: bool = False) -> None:
    """Each process has drawn 100 times, and its rank."""
    everybody = layout.gpus()
    for rank, (gpus, name) in enumerate(zip(everybody, rng_files(len(everybody)), strict=True)):
        gpus.draw(100 + rank)
        with gpus.in_use():
            if as_trainer and len(everybody) > 1:
                torch.save(rng_state() | {"cuda": torch.cuda.get_rng_state_all()}, folder / name)
            else:
                save_rng_state(folder / name, distributed=len(everybody) > 1)


def load(file: Path) -> Any:
    with safe_globals():
        return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("before", "after", "as_trainer"),
    [
        *((FOUR, TWO, as_trainer) for as_trainer in (False, True)),
        *((TWICE_FOUR, EIGHT, as_trainer) for as_trainer in (False, True)),
        *((EIGHT, TWICE_FOUR, as_trainer) for as_trainer in (False, True)),
        *((TWO, FOUR, as_trainer) for as_trainer in (False, True)),
        *((FOUR, ONE, as_trainer) for as_trainer in (False, True)),
        (ONE, FOUR, False),
        (TWO_OF_FOUR, FOUR, False),
        (Layout(1, 4, 1), FOUR, False),  # each process sees its own GPU alone
    ],
    ids=str,
)
def test_each_process_finds_its_own_gpus_generator(
    before: Layout, after: Layout, as_trainer: bool, tmp_path: Path
) -> None:
    save(tmp_path, before, as_trainer)
    files = rng_files(len(before.gpus()))
    for rank, gpus in enumerate(after.gpus()):
        saver = rank % len(files)
        state = own_rng_state(load(tmp_path / files[saver]), saver)
        assert state is not None
        with gpus.in_use():
            restore_rng_state(state)
            assert torch.equal(rng_state()["cuda"], state["cuda"])
        assert gpus.drawn == [100 + saver if gpu == gpus.own else 0 for gpu in range(gpus.visible)]


@pytest.mark.parametrize("missing", ["python", "numpy", "cpu"])
def test_a_file_without_one_of_the_generators_is_no_state(missing: str) -> None:
    """A run on the CPU has no GPU's, and that is one."""
    state = {name: value for name, value in rng_state().items() if name != "cuda"}
    assert own_rng_state(state, 3) == state
    del state[missing]
    assert own_rng_state(state, 3) is None
    assert own_rng_state(list(state), 3) is None


def test_trainer_continues_from_what_several_processes_have_saved(tmp_path: Path) -> None:
    save(tmp_path, TWICE_FOUR)
    for rank, gpus in enumerate(TWICE_FOUR.gpus()):
        with gpus.in_use():
            set_rng_state_for_device("CUDA", torch.cuda, load(tmp_path / f"rng_state_{rank}.pth"), True)
        assert gpus.drawn[gpus.own] == 100 + rank


def test_one_process_saves_what_trainer_does(tmp_path: Path) -> None:
    save(tmp_path, ONE)
    state = load(tmp_path / "rng_state.pth")
    assert list(state) == ["python", "numpy", "cpu", "cuda"]
    assert state["cuda"].tolist() == torch.tensor([42, 100]).view(torch.uint8).tolist()


def test_a_run_on_the_cpu_asks_nothing_of_the_gpus_beside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their generators would start CUDA, in every process."""

    def start(*_: Any, **__: Any) -> Any:
        raise AssertionError("CUDA is started")

    with FakeGPUs(2, 0).in_use():
        cuda = rng_state()["cuda"]
    monkeypatch.setattr(torch.cuda, "_lazy_init", start)
    for name in ("get_rng_state", "get_rng_state_all", "set_rng_state", "set_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, start)
        monkeypatch.setattr(torch.cuda.random, name, start)
    assert "cuda" not in rng_state()
    restore_rng_state(rng_state() | {"cuda": cuda})  # of a run on a GPU


def test_a_run_goes_on_with_its_own_gpus_generator(tmp_path: Path) -> None:
    """Which draws 7 times in each micro-batch."""
    arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}

    def drawing_from(gpus: FakeGPUs) -> Any:
        def step(run: Run, micro_batch: MicroBatch) -> torch.Tensor:
            gpus.draw(7)
            return training_step(run, micro_batch)

        return step

    with FakeGPUs(4, 1).in_use() as gpus:
        train(prepared(tmp_path, **arguments), drawing_from(gpus))
        assert gpus.drawn == [0, 28, 0, 0]
    checkpoint = tmp_path / "checkpoint-2"
    with FakeGPUs(2, 0).in_use() as gpus:
        run = prepared(tmp_path / "resumed", **arguments)
        load_checkpoint(run, checkpoint)
        train(run, drawing_from(gpus))
        assert gpus.drawn == [28, 0]
    torch.save(load(checkpoint / "rng_state.pth") | {"cuda": []}, checkpoint / "rng_state.pth")
    with pytest.raises(UserError, match="no state of random number generators"):
        load_checkpoint(prepared(tmp_path / "again", **arguments), checkpoint, is_whole=True)


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_a_run_on_another_kind_of_device_goes_on_with_its_generator_too(kind: str, tmp_path: Path) -> None:
    """Trainer saves no state of these. It draws 7 times in each micro-batch."""
    arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}

    def step(run: Run, micro_batch: MicroBatch) -> torch.Tensor:
        gpus.draw(7)
        return training_step(run, micro_batch)

    with FakeGPUs(1, 0, kind=kind).in_use() as gpus:
        train(prepared(tmp_path, **arguments), step)
        assert gpus.drawn == [28]
    checkpoint = tmp_path / "checkpoint-2"
    assert list(load(checkpoint / "rng_state.pth")) == ["python", "numpy", "cpu", kind]
    with FakeGPUs(1, 0, kind=kind).in_use() as gpus:
        run = prepared(tmp_path / "resumed", **arguments)
        load_checkpoint(run, checkpoint)
        train(run, step)
        assert gpus.drawn == [28]
    run = prepared(tmp_path / "on the CPU", **arguments)
    load_checkpoint(run, checkpoint)
    train(run)
    assert kind not in load(tmp_path / "on the CPU" / "checkpoint-4" / "rng_state.pth")


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_several_processes_on_another_kind_of_device_each_find_their_own(kind: str, tmp_path: Path) -> None:
    for rank in range(2):
        with FakeGPUs(2, rank, kind=kind).in_use() as gpus:
            gpus.draw(100 + rank)
            save_rng_state(tmp_path / f"{rank}", distributed=True)
    for rank in range(2):
        with FakeGPUs(2, rank, kind=kind).in_use() as gpus:
            state = own_rng_state(load(tmp_path / f"{rank}"), rank)
            assert state is not None
            restore_rng_state(state)
            assert gpus.drawn[rank] == 100 + rank
