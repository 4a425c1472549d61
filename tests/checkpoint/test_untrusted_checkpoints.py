"""Checkpoints nobody trusts: no pickle that lies in one is run."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from harness.models import tiny_bert
from harness.untrusted import NAMES_IN_FOLDERS, planted, words_of

import ftloop
from ftloop import load_checkpoint, prepare
from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data
from ftloop.data.tokenization import tokenize
from ftloop.errors import ExitCode, UserError
from ftloop.models.load import load_tokenizer
from ftloop.system.manifest import MANIFEST, file_digests, read_manifest, write_manifest
from ftloop.train import main

vars(ftloop).pop("train", None)  # so that `from ftloop import train` is the function again, for other tests
pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of the command, with a checkpoint after each of its two updates."""
    output_dir = tmp_path_factory.mktemp("finished") / "out"
    assert main([*words_of(tiny_folder, output_dir), "--max_steps", "2"]) == ExitCode.DONE
    return output_dir


@pytest.mark.parametrize("form", ["pickle", pytest.param("zip", marks=pytest.mark.slow)])
def test_a_pickle_in_any_file_of_a_checkpoint_is_not_run(
    form: str,
    tiny_folder: Path,
    finished: Path,
    tmp_path: Path,
    tried: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    marker = tmp_path / "sprung"
    names = {path.name for path in (finished / "checkpoint-1").iterdir()} | {*NAMES_IN_FOLDERS}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
    data = load_text_data(TrainConfig(train_file=str(tiny_folder / "train.jsonl")))
    rows, _ = tokenize(data, data.train, load_tokenizer(str(tiny_folder / "model")), 64, TrainConfig(), "train")
    config = TrainConfig(output_dir=str(tmp_path / "loaded"), max_steps=2, use_cpu=True)
    run = prepare(config, tiny_bert(), rows, processing_class=load_tokenizer(str(tiny_folder / "model")))
    load_checkpoint(run, finished / "checkpoint-1")
    assert run.state.global_step == 1, "untouched, it can be resumed from"
    manifest = read_manifest(finished / "checkpoint-1")
    assert manifest is not None
    for name in sorted(names):
        tried["planted pickles"] += 1
        checkpoint = tmp_path / name / "checkpoint-1"
        shutil.copytree(finished / "checkpoint-1", checkpoint)
        (checkpoint / name).write_bytes(planted(marker, form))
        # Once as it is, once with a manifest that whoever planted it has written anew, once without, as Trainer's.
        for alike in ("as it is", "forged", "Trainer's"):
            if alike == "forged" and name != MANIFEST:
                write_manifest(checkpoint, manifest | {"files": file_digests(checkpoint)})
            if alike == "Trainer's":
                (checkpoint / MANIFEST).unlink()
                (checkpoint / "ftloop_state.json").unlink()
            with contextlib.suppress(UserError):
                load_checkpoint(run, checkpoint)
            assert not marker.exists(), (name, alike)


@pytest.mark.parametrize("name", ["optimizer.pt", pytest.param("all at once", marks=pytest.mark.slow)])
def test_the_command_runs_no_pickle_of_the_checkpoint_it_resumes(
    name: str,
    tiny_folder: Path,
    finished: Path,
    tmp_path: Path,
    tried: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    marker, output_dir = tmp_path / "sprung", tmp_path / "out"
    shutil.copytree(finished / "checkpoint-1", output_dir / "checkpoint-1")
    for planted_in in [name] if name != "all at once" else NAMES_IN_FOLDERS:
        tried["planted pickles"] += 1
        (output_dir / "checkpoint-1" / planted_in).write_bytes(planted(marker, "zip"))
    code = main([*words_of(tiny_folder, output_dir), "--max_steps", "2", "--resume_from_checkpoint", "last"])
    assert code in (ExitCode.DONE, ExitCode.USER_ERROR), (
        "started afresh or refused, as the loading of checkpoints has it"
    )
    assert "Traceback" not in capsys.readouterr().err
    assert not marker.exists()
