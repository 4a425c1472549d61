"""Two hosts, each in a network namespace of its own, joined by a cable that can be pulled: one run across both."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.command import TRAIN_PY
from harness.output_dirs import difference, what_is_left

pytestmark = pytest.mark.slow
UPDATES, SAVED_EVERY = 400, 40
TIMEOUT = 15
"""ddp_timeout, in seconds."""
PORT = "29400"  # nobody else is in these namespaces
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@dataclass(frozen=True)
class Host:
    namespace: str
    interface: str
    address: str

    def processes(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    def kill(self) -> None:
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    mark = f"{os.getpid() % 100000}"
    pair = tuple(Host(f"ftloop-{side}-{mark}", f"ft{side}{mark}", f"10.77.0.{i}") for i, side in enumerate("ab", 1))
    try:
        try:
            for host in pair:
                ip("netns", "add", host.namespace)
            a, b = pair
            ends = ["peer", "name", b.interface, "netns", b.namespace]
            ip("link", "add", a.interface, "netns", a.namespace, "type", "veth", *ends)
            for host in pair:
                ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.interface)
                ip("-n", host.namespace, "link", "set", "lo", "up")
                ip("-n", host.namespace, "link", "set", host.interface, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces are not permitted here: {getattr(error, 'stderr', None) or error}")
        yield a, b
    finally:
        for host in pair:
            host.kill()
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True)


def job(tiny_folder: Path) -> list[str]:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
    words = ["--model_name_or_path", str(tiny_folder / "model"), *files, "--output_dir", "out"]
    words += ["--max_steps", str(UPDATES), "--per_device_train_batch_size", "4", "--logging_steps", "40"]
    words += ["--eval_strategy", "steps", "--eval_steps", "200", "--save_steps", str(SAVED_EVERY)]
    words += ["--save_total_limit", "2", "--ddp_timeout", str(TIMEOUT), "--resume_from_checkpoint", "last"]
    return words


def environment() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "PYTHONPATH"))}
    return clean | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@dataclass(frozen=True)
class Launch:
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()


def start(hosts: tuple[Host, Host], folder: Path, name: str, words: list[str]) -> list[Launch]:
    """The command on both hosts, as one types it on each."""
    folder.mkdir(exist_ok=True)
    launches = []
    for i, host in enumerate(hosts):
        rendezvous = ["--rdzv_backend", "c10d", "--rdzv_id", name, "--rdzv_endpoint", f"{hosts[0].address}:{PORT}"]
        # said outright, because in a namespace no name belongs to an address; and no longer than the test may take
        rendezvous += ["--rdzv_conf", f"is_host={int(i == 0)},read_timeout=5", "--local_addr", host.address]
        command = [*TORCHRUN, "--nnodes", "2", "--nproc_per_node", "1", *rendezvous, TRAIN_PY, *words]
        log = folder / f"{name}-{i}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, *command],
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment() | {"GLOO_SOCKET_IFNAME": host.interface},
            )
        launches.append(Launch(process, log))
    return launches


def wait_for_checkpoint(folder: Path, step: int, launches: list[Launch]) -> None:
    """Raises: AssertionError when the run ends before; most of its updates must be left."""
    deadline = time.monotonic() + 120
    while not (folder / "out" / f"checkpoint-{step}").is_dir():
        codes = [launch.process.poll() for launch in launches]
        assert codes == [None, None], "\n".join(launch.said[-3000:] for launch in launches)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def told_of_lost_contact(said: str) -> bool:
    return "contact with another process was lost" in said and f"--ddp_timeout {TIMEOUT}" in said


@pytest.fixture(scope="module")
def on_one_host(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("one-host")
    command = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", TRAIN_PY, *job(tiny_folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return what_is_left(folder / "out")


def test_two_hosts_make_the_run_of_two_processes_of_one_host(
    hosts: tuple[Host, Host], on_one_host: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    launches = start(hosts, tmp_path, "whole", job(tiny_folder))
    assert [launch.process.wait(240) for launch in launches] == [0, 0], launches[0].said + launches[1].said
    assert sum("2 processes, 1 CPU thread each" in launch.said for launch in launches) == 1
    assert not any("Processes" in launch.said for launch in launches)
    assert difference(on_one_host, what_is_left(tmp_path / "out")) is None


def test_a_lost_host_ends_the_other_and_a_restart_makes_the_same_bytes(
    hosts: tuple[Host, Host], on_one_host: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    """First one host is killed with everything on it, then the cable is pulled, then the run ends."""
    first, second = hosts
    killed = start(hosts, tmp_path, "killed", job(tiny_folder))
    wait_for_checkpoint(tmp_path, 2 * SAVED_EVERY, killed)
    first.kill()
    began = time.monotonic()
    assert killed[1].process.wait(120) == 1, killed[1].said
    assert time.monotonic() - began < TIMEOUT + 20
    assert told_of_lost_contact(killed[1].said), killed[1].said
    assert "a fault in ftloop" not in killed[1].said

    cut = start(hosts, tmp_path, "cut", job(tiny_folder))
    wait_for_checkpoint(tmp_path, 5 * SAVED_EVERY, cut)
    ip("-n", second.namespace, "link", "set", second.interface, "down")
    began = time.monotonic()
    try:
        assert cut[0].process.wait(120) == 1, cut[0].said
        while not told_of_lost_contact(cut[1].said) and time.monotonic() - began < 120:
            time.sleep(0.1)
        # Its torchrun may wait for the first one's for minutes more.
        assert time.monotonic() - began < TIMEOUT + 45
        for launch in cut:
            assert told_of_lost_contact(launch.said), launch.said
            assert "a fault in ftloop" not in launch.said
    finally:
        second.kill()
        ip("-n", second.namespace, "link", "set", second.interface, "up")
    left = max(int(path.name.split("-")[1]) for path in (tmp_path / "out").glob("checkpoint-*"))
    assert 5 * SAVED_EVERY <= left < UPDATES, "it was not cut off on its way"

    again = start(hosts, tmp_path, "again", job(tiny_folder))
    assert [launch.process.wait(240) for launch in again] == [0, 0], again[0].said + again[1].said
    assert sum(f"from out/checkpoint-{left}" in launch.said for launch in again) == 1
    assert difference(on_one_host, what_is_left(tmp_path / "out")) is None
