"""Several processes exchange their stop requests a few times a second, and stop at the same look."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ftloop.system import stopping
from ftloop.system.stopping import EXCHANGE_SECONDS, MOST_LEFT_OUT, Stopped, StopRequest

PROCESSES = 3


class Exchange:
    """Stands for gloo: threads in place of processes, which all have to take part."""

    def __init__(self, processes: int) -> None:
        self.rounds, self.numbers = 0, [torch.zeros(0)] * processes
        self.barrier = threading.Barrier(processes, timeout=20)

    def all_reduce(self, tensor: torch.Tensor, op: Any, group: int) -> None:
        assert op == dist.ReduceOp.MAX
        self.numbers[group] = tensor.clone()
        self.barrier.wait()
        most = torch.stack(self.numbers).amax(0)
        self.barrier.wait()
        tensor.copy_(most)
        self.rounds += group == 0


def looks(
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[list[float]],
    place: str = "update",
    asked: dict[int, int] | None = None,
) -> tuple[list[int | None], list[int]]:
    """Let processes look after steps of so many seconds each, `asked` of one by its number at a step.

    Returns: the step after which each stopped, and the steps after which there was an exchange.
    """
    exchange, clock = Exchange(PROCESSES), threading.local()
    monkeypatch.setattr(dist, "all_reduce", exchange.all_reduce)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock.now)
    stopped: list[int | None] = [None] * PROCESSES
    exchanged: list[int] = []

    def process(number: int) -> None:
        clock.now = 100.0 * number
        stop = StopRequest(group=number)
        for step, taken in enumerate(seconds[number], start=1):
            clock.now += taken
            if (asked or {}).get(number) == step:
                stop.request("SIGTERM")
            before = exchange.rounds
            try:
                stop.check()
            except Stopped:
                stopped[number] = step
                return
            if number == 0 and exchange.rounds > before:
                exchanged.append(step)

    threads = [threading.Thread(target=process, args=(number,)) for number in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return stopped, exchanged


def gaps(steps: list[int]) -> set[int]:
    return {after - before for before, after in pairwise(steps)}


def test_fast_updates_exchange_now_and_then_and_slow_ones_always(monkeypatch: pytest.MonkeyPatch) -> None:
    _, every = looks(monkeypatch, [[1.0] * 20] * PROCESSES)
    assert every == list(range(1, 21))
    _, some = looks(monkeypatch, [[0.01] * 200] * PROCESSES)
    assert some[:6] == [1, 2, 4, 8, 16, 32], "twice as many as before are left out, at most"
    assert gaps(some[5:]) <= {20, 21}, "a fifth of a second"
    _, rare = looks(monkeypatch, [[1e-6] * 500] * PROCESSES)
    assert max(gaps(rare)) == MOST_LEFT_OUT + 1


def test_the_slowest_clock_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    _, some = looks(monkeypatch, [[0.001] * 100, [0.05] * 100, [0.002] * 100])
    assert gaps(some[4:]) <= {4, 5}


@pytest.mark.parametrize("process", range(PROCESSES))
def test_whoever_is_asked_all_stop_at_the_same_look(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3, 57):
        stopped, _ = looks(monkeypatch, [[0.01] * 100, [0.02] * 100, [0.015] * 100], asked={process: step})
        assert len(set(stopped)) == 1
        assert stopped[0] is not None
        assert step <= stopped[0] <= step + EXCHANGE_SECONDS / 0.01


def test_each_place_has_a_pace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of an evaluation say nothing of how long an update takes."""
    rounds = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op, group: rounds.append(tensor.tolist()))
    stop = StopRequest(group=object())
    for _ in range(50):
        stop.check("evaluation")
    assert len(rounds) < 10
    before = len(rounds)
    stop.check()
    assert len(rounds) == before + 1


def test_one_process_looks_at_its_own_request_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: pytest.fail("nobody is there to ask"))
    stop = StopRequest()
    for _ in range(10):
        stop.check()
    stop.request("SIGTERM")
    with pytest.raises(Stopped, match="SIGTERM"):
        stop.check()


def test_a_limit_is_kept_although_it_is_looked_at_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes between two exchanges is counted as what passes before the next."""
    now = [0.0]
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op, group: None)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    stop = StopRequest(group=object(), deadline=10.0)

    def train() -> None:
        while now[0] < 20.0:
            now[0] += 0.02
            stop.check()

    with pytest.raises(Stopped, match="max_train_seconds"):
        train()
    assert 9.0 < now[0] <= 10.0
