"""Files and folders that are whole or not there; a folder that one run alone may use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness.command import CHECKOUT

from ftloop import SaveError, UserError
from ftloop.system.atomic import commit_folder, remove_partial_saves, retry_once, write_text
from ftloop.system.lock import LOCK, lock_folder
from ftloop.system.manifest import MANIFEST, file_digests, read_manifest, verify_files, write_manifest


def staged(root: Path, text: str) -> Path:
    folder = root / ".staging-it"
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


def test_a_staged_folder_takes_the_place_of_one_that_is_there(tmp_path: Path) -> None:
    for text in ("old", "new"):
        commit_folder(staged(tmp_path, text), tmp_path / "it")
        assert (tmp_path / "it" / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_replaced_folder_comes_back_after_death_between_the_renames(tmp_path: Path) -> None:
    commit_folder(staged(tmp_path, "old"), tmp_path / "it")
    os.replace(tmp_path / "it", tmp_path / ".replaced-it")
    staged(tmp_path, "new")
    remove_partial_saves(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert (tmp_path / "it" / "file").read_text() == "old"


def test_a_file_in_the_way_of_a_folder_is_set_aside_not_lost(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("somebody's own")
    commit_folder(staged(tmp_path, "new"), tmp_path / "it")
    assert (tmp_path / "broken-it").read_text() == "somebody's own"
    assert (tmp_path / "it" / "file").read_text() == "new"


@pytest.mark.parametrize("name", [".staging-it", ".deleted-it", ".it.partial"])
def test_leftovers_go_whether_they_are_files_or_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("a file")
    remove_partial_saves(tmp_path)
    (tmp_path / name / "below").mkdir(parents=True)
    if not name.endswith("partial"):
        remove_partial_saves(tmp_path)
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
def test_a_full_disk_is_told_where_torch_keeps_the_reason_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SaveError, match=r"checkpoint-8 could not be saved, twice: .* as on a full disk"):
        retry_once("checkpoint-8", lambda: torch.save({"weight": torch.ones(100_000)}, "/dev/full"))
    assert "checkpoint-8 failed (a file could not be written whole" in capsys.readouterr().out


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file", "half \ud800")
    assert (tmp_path / "file").read_text() == "old"


def test_a_manifest_tells_every_kind_of_fault(tmp_path: Path) -> None:
    for name in ("flipped", "longer", "missing", "whole"):
        (tmp_path / name).write_text("some text")
    write_manifest(tmp_path, {"files": file_digests(tmp_path)})
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert verify_files(tmp_path, manifest["files"]) == []
    (tmp_path / "flipped").write_text("some tex\x75")
    (tmp_path / "longer").write_text("some text more")
    (tmp_path / "missing").unlink()
    assert verify_files(tmp_path, manifest["files"]) == [
        "flipped is not what was written (its sha256 differs)",
        "longer has 14 bytes instead of 9",
        "missing is missing",
    ]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 200_000, b"null"])
def test_a_manifest_that_is_none_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=MANIFEST):
        read_manifest(tmp_path)


def test_any_flipped_bit_of_a_manifest_is_seen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    write_manifest(tmp_path, {"files": file_digests(tmp_path), "seed": 42})
    written = (tmp_path / MANIFEST).read_bytes()
    for position in range(len(written)):
        flipped = bytearray(written)
        flipped[position] ^= 1
        (tmp_path / MANIFEST).write_bytes(flipped)
        try:
            found = read_manifest(tmp_path)
        except UserError:
            continue
        # white space and the like: what it says is what was written
        (tmp_path / MANIFEST).write_bytes(written)
        assert found == read_manifest(tmp_path), position


def test_a_write_that_fails_is_tried_once_more_and_no_oftener(capsys: pytest.CaptureFixture[str]) -> None:
    tries: list[str] = []

    def fails() -> None:
        tries.append("")
        raise OSError(28, "No space left on device")

    with pytest.raises(SaveError, match=r"it could not be saved, twice: .*No space left on device"):
        retry_once("it", fails)
    assert len(tries) == 2
    assert capsys.readouterr().out.count("Saving    it failed (") == 1


def hold(folder: Path, then: str) -> subprocess.Popen[str]:
    """A process of its own that holds the folder, says so, and does something."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom ftloop.system.lock import lock_folder\n"
        f"with lock_folder(Path({str(folder)!r})):\n    print('held', flush=True)\n    {then}\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=str(CHECKOUT), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_is_refused_and_one_whose_run_was_killed_is_not(tmp_path: Path) -> None:
    process = hold(tmp_path, "time.sleep(60)")
    with pytest.raises(UserError, match=rf"another run is using .*\(process {process.pid} on "), lock_folder(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lock_folder(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_children_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path: Path) -> None:
    then = "pid = os.fork()\n    if pid: print(pid, flush=True)\n    time.sleep(60)"
    process = hold(tmp_path, then)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.kill(child, 0)  # it lives
    with lock_folder(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)


def test_a_folder_made_for_the_lock_is_gone_when_nothing_was_put_into_it(tmp_path: Path) -> None:
    with pytest.raises(UserError), lock_folder(tmp_path / "new" / "below"):
        raise UserError("something else")
    assert not (tmp_path / "new").exists()
    with lock_folder(tmp_path / "new" / "below"):
        (tmp_path / "new" / "below" / "file").touch()
    assert (tmp_path / "new" / "below" / "file").exists()
