"""kill_shim.c, which the sweep stands on: it sees every operation, kills and lies where it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness.kill_harness import compile_shim, compiler
from harness.kill_points import Kill, Operation, kill_points, read_operations

pytestmark = pytest.mark.skipif(compiler() is None, reason="a C compiler is needed: the shim is in C")

PREPARE = """
import ctypes, errno, os, shutil, sys, time
shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
{arm}
shim.shim_watch(os.getcwd().encode() + b"/out", os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
os.mkdir("out")
"""
WORK = """
with open("out/a", "wb") as file:
    file.write(b"12345678")
with open("elsewhere", "wb") as file:
    file.write(b"not seen")
with open(os.getcwd() + "/out/a", "rb") as file:
    os.fsync(file.fileno())
os.replace("out/a", "out/b")
os.mkdir("out/folder")
shutil.copyfile("out/b", "out/folder/c")
os.truncate(os.open("out/folder/c", os.O_WRONLY), 3)
os.symlink("b", "out/link")
shutil.rmtree("out/folder")
os.unlink("out/link")
"""
SEEN = [
    "mkdir .",
    "create a",
    "write a",
    "open a",
    "fsync a",
    "rename a -> b",
    "mkdir folder",
    "open b",
    "create folder/c",
    "write folder/c",
    "write folder/c",  # a copy is over when nothing more is written
    "create folder/c",
    "truncate folder/c",
    "link link",
    "open folder",
    "delete folder/c",
    "delete folder",
    "delete link",
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


def run(shim: Path, folder: Path, arm: str = "", work: str = WORK) -> subprocess.CompletedProcess[str]:
    """In a process of its own; what it printed and how it ended."""
    return subprocess.run(
        [sys.executable, "-I", "-c", PREPARE.format(arm=arm) + work],
        cwd=folder,
        env=os.environ | {"LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def seen(folder: Path) -> list[str]:
    return [str(operation).partition(" ")[2] for operation in read_operations(folder / "log")]


def test_every_operation_below_the_folder_is_seen_and_none_beside_it(shim: Path, tmp_path: Path) -> None:
    assert run(shim, tmp_path).returncode == 0
    assert seen(tmp_path) == SEEN
    assert [operation.number for operation in read_operations(tmp_path / "log")] == list(range(1, len(SEEN) + 1))


@pytest.mark.parametrize(
    ("when", "content"), [(0, b""), (1, b"1234"), (2, b"12345678")], ids=["before", "half", "after"]
)
def test_it_kills_before_in_the_middle_of_and_after_a_write(
    when: int, content: bytes, shim: Path, tmp_path: Path
) -> None:
    done = run(shim, tmp_path, f"shim.shim_kill(ctypes.c_long(3), {when})")
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "a").read_bytes() == content
    assert seen(tmp_path) == SEEN[:3]


def test_it_kills_before_and_after_a_rename(shim: Path, tmp_path: Path) -> None:
    for when, name in ((0, "a"), (2, "b")):
        folder = tmp_path / name
        folder.mkdir()
        assert run(shim, folder, f"shim.shim_kill(ctypes.c_long(6), {when})").returncode == -signal.SIGKILL
        assert [path.name for path in (folder / "out").iterdir()] == [name]


def test_an_operation_fails_as_often_as_it_is_told_to_and_only_where(shim: Path, tmp_path: Path) -> None:
    """A write that fails has written half."""
    work = """
for name in ("a", "b", "a", "a"):
    try:
        os.write(os.open(f"out/{name}", os.O_WRONLY | os.O_CREAT), b"1234")
        print(name, "written")
    except OSError as error:
        print(name, errno.errorcode[error.errno], os.path.getsize(f"out/{name}"))
"""
    arm = 'shim.shim_fail(ctypes.c_long(1), 1 << 2, ctypes.c_long(2), errno.ENOSPC, b"a")'
    assert run(shim, tmp_path, arm, work).stdout.splitlines() == ["a ENOSPC 2", "b written", "a ENOSPC 2", "a written"]


def test_the_clock_jumps_at_the_operation_it_is_told_to(shim: Path, tmp_path: Path) -> None:
    work = """
before = time.time()
os.mkdir("out/folder")
print(-86410 < time.time() - before < -86390, time.monotonic() > 0)
"""
    arm = "shim.shim_shift_clock(ctypes.c_long(2), ctypes.c_long(-86400))"
    assert run(shim, tmp_path, arm, work).stdout == "True True\n"


def test_kill_points_are_every_change_and_both_sides_of_a_half_write() -> None:
    operations = [Operation(1, "mkdir", ".", "", 0), Operation(2, "open", "a", "", 0)]
    operations += [Operation(3, "write", "a", "", 10), Operation(4, "write", "a", "", 1)]
    expected = ["before:1", "after:1", "middle:3", "after:3", "after:4"]
    assert [str(kill) for kill in kill_points(operations)] == expected
    many = [Operation(number, "write", "a", "", 10) for number in range(1, 10)]
    assert [kill.at for kill in kill_points(many) if kill.when == "middle"] == [1, 5, 9]


@pytest.mark.parametrize("text", ["before:3", "middle:12@1", "after:1", "seconds:0.25"])
def test_a_kill_is_read_back_from_what_a_failure_says(text: str) -> None:
    assert str(Kill.parse(text)) == text
