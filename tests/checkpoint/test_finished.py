"""A run that is over, started again: what is left in output_dir is looked at before any checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness.output_dirs import difference, what_is_left

from ftloop import TrainConfig
from ftloop.checkpoint.finished import finished_run
from ftloop.errors import ExitCode
from ftloop.system.manifest import MANIFEST
from ftloop.train import main


def words(tiny_folder: Path, output_dir: Path) -> list[str]:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    options = ["--use_cpu", "--save_strategy", "epoch", "--eval_strategy", "epoch", "--num_train_epochs", "2"]
    options += ["--model_name_or_path", str(tiny_folder / "model"), "--resume_from_checkpoint", "last"]
    return [*options, *files, "--output_dir", str(output_dir)]


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("finished") / "out"
    assert main(words(tiny_folder, output_dir)) == ExitCode.DONE
    return output_dir


@pytest.fixture
def output_dir(finished: Path) -> Path:
    """As the run left it; in the same place, since the manifest holds it."""
    kept = finished.with_name("kept")
    if not kept.exists():
        shutil.copytree(finished, kept)
    shutil.rmtree(finished)
    shutil.copytree(kept, finished)
    return finished


def test_it_does_nothing_more_whatever_was_deleted(
    output_dir: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in output_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    before = {path: path.stat().st_mtime_ns for path in output_dir.rglob("*")}
    assert main(words(tiny_folder, output_dir)) == ExitCode.DONE
    assert {path: path.stat().st_mtime_ns for path in output_dir.rglob("*")} == before
    finished, following, *_ = capsys.readouterr().out.splitlines()
    assert finished == f"Finished  already: {output_dir} holds this run, complete"
    assert following.endswith(f' predict --model {output_dir} --pairs "A text." "Another one."')


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("model.safetensors", "model.safetensors is missing"),
        (MANIFEST, "not readable"),
        ("seed", "seed (42 then, 7 now)"),
    ],
)
def test_a_final_model_is_not_trained_over_where_there_is_no_checkpoint(
    broken: str, named: str, output_dir: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in output_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    if broken == MANIFEST:
        (output_dir / broken).write_text("{")
    elif broken != "seed":
        (output_dir / broken).unlink()
    before = what_is_left(output_dir)
    changed = ["--seed", "7"] if broken == "seed" else []
    assert main([*words(tiny_folder, output_dir), *changed]) == ExitCode.USER_ERROR
    assert what_is_left(output_dir) == before
    assert named in capsys.readouterr().err


def test_results_alone_are_made_again_without_training(
    output_dir: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in output_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    before = what_is_left(output_dir)
    (output_dir / "test_results.json").unlink()
    (output_dir / "all_results.json").write_text("{")
    assert main(words(tiny_folder, output_dir)) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Trained   already" in said
    left = what_is_left(output_dir)
    del before["all_results.json"], left["all_results.json"]  # what was in it of the training is gone
    assert difference(before, left) is None


def test_a_model_trained_on_other_rows_is_not_used(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same file, but its last row is another; found where the rows are read, for another test file."""
    lines = (tiny_folder / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    command = [*words(tiny_folder, tmp_path / "out"), "--train_file", str(tmp_path / "train.jsonl"), "--max_steps", "1"]
    assert main(command) == ExitCode.DONE
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:-1], lines[0]]))
    assert main([*command, "--test_file", str(tiny_folder / "validation.jsonl")]) == ExitCode.USER_ERROR
    assert "training data (29 rows, digest " in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["model.safetensors", MANIFEST])
def test_what_is_missing_or_broken_is_made_again(
    gone: str, output_dir: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = what_is_left(output_dir)
    (output_dir / gone).unlink()
    assert main(words(tiny_folder, output_dir)) == ExitCode.DONE
    assert difference(before, what_is_left(output_dir)) is None
    said = capsys.readouterr().out
    assert "Epoch 1/2" not in said, "it is made from the last checkpoint"


def test_another_test_file_is_evaluated_without_training(
    output_dir: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (tiny_folder / "test.jsonl").read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join(lines[:5]))
    for checkpoint in output_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    again = [*words(tiny_folder, output_dir), "--test_file", str(tmp_path / "other.jsonl")]
    assert main(again) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Trained   already" in said
    assert "Epoch" not in said
    assert "test 5 rows" in said
    assert main(again) == ExitCode.DONE
    assert "Finished  already" in capsys.readouterr().out


def test_more_epochs_go_on_from_the_last_checkpoint(
    output_dir: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(tiny_folder, output_dir), "--num_train_epochs", "3"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Resuming  after update 8 of 12" in said
    assert "num_train_epochs (2.0 then, 3.0 now): from here on no longer the bits" in said
    assert json.loads((output_dir / "trainer_state.json").read_text())["global_step"] == 12


def test_a_checkpoint_taken_for_an_output_dir_is_no_finished_run(output_dir: Path) -> None:
    config = TrainConfig(output_dir=str(output_dir / "checkpoint-8"), resume_from_checkpoint="last")
    assert finished_run(config) is None


def test_it_is_not_trained_over_without_being_asked(
    output_dir: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in output_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert main([*words(tiny_folder, output_dir), "--resume_from_checkpoint", "none"]) == ExitCode.USER_ERROR
    assert "holds a finished run" in capsys.readouterr().err


def test_what_an_earlier_model_scored_does_not_pass_for_this_ones(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "out"
    first = words(tiny_folder, output_dir)
    assert main([*first, "--max_steps", "2"]) == ExitCode.DONE
    assert (output_dir / "test_predictions.parquet").is_file()
    (output_dir / "new_predictions.parquet").write_text("the user's own")
    without_test = [word for word in first if not word.startswith("--test_file")]
    again = [*without_test, "--max_steps", "3", "--learning_rate", "1e-3", "--resume_with_changes"]
    assert main(again) == ExitCode.DONE
    left = {path.name for path in output_dir.iterdir()}
    assert {"validation_predictions.parquet", "new_predictions.parquet"} <= left
    assert not {"test_predictions.parquet", "test_results.json"} & left
    together = json.loads((output_dir / "all_results.json").read_text())
    assert "eval_accuracy" in together
    assert not [name for name in together if name.startswith("test_")]
    results = json.loads((output_dir / MANIFEST).read_text())["results"]
    assert not {"test_predictions.parquet", "new_predictions.parquet"} & results.keys()
    card = output_dir / "README.md"  # of the first model, and perhaps edited: it is kept, and named
    assert f"Card      {card} was there before and is kept; it does not describe this run" in capsys.readouterr().out
