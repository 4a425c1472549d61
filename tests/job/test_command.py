"""The command as users type it: every launcher, any working directory, bad input; with real processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness.command import CHECKOUT, TRAIN_PY, arguments, python, run, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> tuple[Path, str]:
    """The job by `python ftloop/train.py`: its output folder and what it printed."""
    output_dir = tiny_folder / "plain"
    return output_dir, python(*arguments(tiny_folder, output_dir)).stdout


def test_the_job_leaves_every_file_and_prints_every_step(tiny_folder: Path, plain: tuple[Path, str]) -> None:
    output_dir, printed = plain
    names = {path.name for path in output_dir.iterdir()}
    results = {f"{name}_results.json" for name in ("all", "train", "eval", "test")}
    assert results | {"trainer_state.json", "model.safetensors", "config.json", "tokenizer.json"} <= names
    test = json.loads((output_dir / "test_results.json").read_text())
    assert {"test_loss", "test_accuracy", "test_f1", "test_runtime", "test_samples_per_second"} <= test.keys()
    together = json.loads((output_dir / "all_results.json").read_text())
    assert together["test_f1"] == test["test_f1"]
    assert {"train_loss", "eval_accuracy", "eval_f1"} <= together.keys()
    for line in (
        "Epoch 1/3: loss=",
        "Epoch 3/3: loss=",
        "accuracy=",
        "f1(equivalent)=",
        "Baseline  always",
        "Predicted ",
    ):
        assert line in printed
    assert printed.count("Predicted ") == 2
    assert printed.startswith("Recipe    ")
    state = json.loads((output_dir / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == 6


def test_the_model_left_behind_loads_in_a_pipeline_with_its_labels(plain: tuple[Path, str]) -> None:
    from transformers import pipeline

    from ftloop.inference.classifier import classify, load_classifier

    output_dir, _ = plain
    classifier = pipeline("text-classification", model=str(output_dir))
    pairs = [("yes word1", "word2 word3"), ("no word4", "word5")]
    theirs = classifier([{"text": a, "text_pair": b} for a, b in pairs])
    ours = classify(*load_classifier(output_dir), pairs)
    assert [found["label"] for found in theirs] == [found.label for found in ours]
    assert {found.label for found in ours} <= {"equivalent", "not_equivalent"}
    assert [found["score"] for found in theirs] == pytest.approx([found.score for found in ours], abs=1e-5)


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "ftloop.train"],
        ["-m", "accelerate.commands.launch", "--cpu", TRAIN_PY],
        ["-m", "accelerate.commands.launch", "--cpu", "-m", "ftloop.train"],
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", TRAIN_PY],
    ],
    ids=["python -m", "accelerate launch", "accelerate launch -m", "torchrun"],
)
def test_every_launcher_makes_the_same_run(
    launcher: list[str], tiny_folder: Path, plain: tuple[Path, str], tmp_path: Path
) -> None:
    run(sys.executable, *launcher, *arguments(tiny_folder, tmp_path / "out"), ACCELERATE_USE_CPU="true")
    assert weights(tmp_path / "out") == weights(plain[0])


def test_it_runs_from_any_folder_and_installed_or_not(
    tiny_folder: Path, plain: tuple[Path, str], tmp_path: Path
) -> None:
    """A copy of the package alone, away from the checkout, by path: nothing of ours is on the search path."""
    shutil.copytree(CHECKOUT / "ftloop", tmp_path / "elsewhere" / "ftloop")
    script = tmp_path / "elsewhere" / "ftloop" / "train.py"
    run(sys.executable, str(script), *arguments(tiny_folder, tmp_path / "out"), cwd=tmp_path)
    assert weights(tmp_path / "out") == weights(plain[0])
    output = run(sys.executable, "-c", "import ftloop; print(ftloop.__file__)", cwd=tmp_path / "elsewhere").stdout
    assert str(tmp_path) in output


def test_two_processes_train_by_torchrun_and_only_the_first_prints(tiny_folder: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", TRAIN_PY]
    done = run(*launcher, *arguments(tiny_folder, tmp_path / "out"))
    assert "2 processes" in done.stdout
    assert done.stdout.count("Epoch 1/3") == 1
    assert len(list((tmp_path / "out").glob("*/rng_state_1.pth"))) == 2
    again = run(*launcher, *arguments(tiny_folder, tmp_path / "again"))
    assert weights(tmp_path / "again") == weights(tmp_path / "out")
    assert again.stdout.count("Epoch 1/3") == 1


def test_a_stopped_run_goes_on_with_the_same_command_and_last(
    tiny_folder: Path, plain: tuple[Path, str], tmp_path: Path
) -> None:
    words = [*arguments(tiny_folder, tmp_path / "out"), "--save_total_limit", "5"]
    python(*words)
    for name in ("checkpoint-4", "checkpoint-6"):
        shutil.rmtree(tmp_path / "out" / name)
    (tmp_path / "out" / "model.safetensors").unlink()
    printed = python(*words, "--resume_from_checkpoint", "last").stdout
    assert "Resuming  after update 2 of 6" in printed
    assert weights(tmp_path / "out") == weights(plain[0])


def test_last_starts_afresh_where_there_is_no_checkpoint(
    tiny_folder: Path, plain: tuple[Path, str], tmp_path: Path
) -> None:
    python(*arguments(tiny_folder, tmp_path / "out"), "--resume_from_checkpoint", "last")
    assert weights(tmp_path / "out") == weights(plain[0])


def test_the_launchers_mixed_precision_is_honoured(tiny_folder: Path, tmp_path: Path) -> None:
    by_launcher = python(*arguments(tiny_folder, tmp_path / "a"), ACCELERATE_MIXED_PRECISION="bf16").stdout
    by_flag = python(*arguments(tiny_folder, tmp_path / "b"), "--bf16").stdout
    assert "bf16" in by_launcher
    assert "bf16" in by_flag
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_idle_cores_are_pointed_out(tiny_folder: Path, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only: none can lie idle")
    printed = python(*arguments(tiny_folder, tmp_path / "out"), "--max_steps", "1").stdout
    assert "--num_cpu_threads_per_process" in printed


def test_a_test_set_without_labels_is_predicted_and_written(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"label": -1} for line in (tiny_folder / "test.jsonl").read_text().splitlines()]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    python(*arguments(tiny_folder, tmp_path / "out"), "--test_file", str(tmp_path / "test.jsonl"), "--max_steps", "2")
    lines = (tmp_path / "out" / "test_predictions.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction\tscore"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(i) for i in range(11)]
    assert all(0.5 <= float(line.split("\t")[2]) <= 1 for line in lines[1:])
    assert not (tmp_path / "out" / "test_results.json").exists()


def test_predictions_keep_the_places_that_their_rows_have_in_the_test_file(tiny_folder: Path, tmp_path: Path) -> None:
    """So that they can be put beside its rows, though some were left out."""
    rows = [json.loads(line) for line in (tiny_folder / "test.jsonl").read_text().splitlines()]
    rows = [{"sentence1": row["sentence1"], "sentence2": row["sentence2"] * (n != 3)} for n, row in enumerate(rows)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ("--test_file", str(tmp_path / "test.jsonl"), "--drop_empty_texts", "--max_steps", "1")
    python(*arguments(tiny_folder, tmp_path / "out"), *settings)
    lines = (tmp_path / "out" / "test_predictions.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == [str(place) for place in range(11) if place != 3]


@pytest.mark.parametrize(
    ("environment", "asked"), [({"HF_HUB_OFFLINE": "1"}, 0), ({}, 1)], ids=["HF_HUB_OFFLINE", "a silent hub"]
)
def test_without_a_hub_the_bare_command_soon_says_what_to_do(
    environment: dict[str, str], asked: int, tmp_path: Path
) -> None:
    """Soon: the hub is asked once. The libraries' own retries take half a minute and more."""
    calls: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=hang_up_on_all, args=(silent, calls), daemon=True).start()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "HF_"))}
        clean |= {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "empty")}
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", TRAIN_PY]
        done = subprocess.run(
            launcher, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=clean | environment
        )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "make demo" in errors[0]
    assert "--train_file" in errors[0]
    assert not (tmp_path / "runs").exists()
    assert len(calls) == asked


def hang_up_on_all(server: socket.socket, calls: list[Any]) -> None:
    with suppress(OSError):  # closed: the test is over
        while True:
            connection, caller = server.accept()
            calls.append(caller)
            connection.close()


def bad(tiny_folder: Path, tmp_path: Path, *words: str) -> str:
    """What a run that must fail says; nothing may be left behind."""
    output_dir = tmp_path / "out"
    done = python(*arguments(tiny_folder, output_dir), *words, expect=2)
    assert not output_dir.exists(), "something was half written"
    assert "Traceback" not in done.stderr
    assert "Epoch" not in done.stdout
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith("error: "))


def test_bad_input_is_told_before_any_training(tiny_folder: Path, tmp_path: Path) -> None:
    """One process start each; the finer points of every message are held by the unit tests."""
    (tmp_path / "broken.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "label": 0}\n{"sentence1": \n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "one.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "label": 0}\n' * 3)
    (tmp_path / "weightless").mkdir()
    shutil.copy(tiny_folder / "model" / "config.json", tmp_path / "weightless")
    cases = {
        ("--train_file", str(tmp_path / "none.jsonl")): "train_file: no such file",
        ("--train_file", str(tmp_path / "empty.jsonl")): "is empty",
        ("--train_file", str(tmp_path / "broken.jsonl")): "broken.jsonl, line 2: not JSON",
        ("--train_file", str(tmp_path / "one.jsonl")): "at least two",
        ("--text_column_names", "title"): "no column 'title'",
        ("--model_name_or_path", str(tmp_path / "weightless")): "no weights",
        ("--fp16",): "--bf16",
        ("--metric_for_best_model", "bleu"): "none of this data's: loss, accuracy, f1",
        ("--sample_texts", "one"): "not pairs",
        ("--output_dir", str(tmp_path / "broken.jsonl" / "below")): "cannot be written",
        ("--eval_strategy", "steps"): "must match",
        ("--seed", "x", "--per_device_train_batch_size", "0"): "seed: 'x' is not a whole number",
    }
    for words, expected in cases.items():
        assert expected in bad(tiny_folder, tmp_path, *words), words
    several = bad(tiny_folder, tmp_path, "--seed", "x", "--per_device_train_batch_size", "0", "--lerning_rate", "1")
    assert several.count("error: ") == 3


def test_a_conflict_with_the_launcher_is_an_error(tiny_folder: Path, tmp_path: Path) -> None:
    done = python(*arguments(tiny_folder, tmp_path / "out"), "--bf16", expect=2, ACCELERATE_MIXED_PRECISION="fp16")
    assert "--mixed_precision fp16" in done.stderr
    done = python(*arguments(tiny_folder, tmp_path / "out"), expect=2, ACCELERATE_USE_FSDP="true")
    assert "FSDP" in done.stderr
    done = python(*arguments(tiny_folder, tmp_path / "out"), expect=2, ACCELERATE_USE_PARALLELISM_CONFIG="true")
    assert "parallelism" in done.stderr
    done = python(*arguments(tiny_folder, tmp_path / "out"), expect=2, ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4")
    assert "conflicts with the launcher's --gradient_accumulation_steps 4" in done.stderr


def test_torch_compile_trains_the_same_job_to_other_last_bits(
    tiny_folder: Path, plain: tuple[Path, str], tmp_path: Path
) -> None:
    python(*arguments(tiny_folder, tmp_path / "out"), "--torch_compile")
    losses = []
    for folder in (tmp_path / "out", plain[0]):
        losses.append(json.loads((folder / "all_results.json").read_text())["eval_loss"])
        assert "_orig_mod" not in str(json.loads((folder / "config.json").read_text()))
    # other kernels and, with dropout, another order of drawing
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_an_output_dir_with_checkpoints_is_not_trained_into(tiny_folder: Path, plain: tuple[Path, str]) -> None:
    before = sorted(path.name for path in plain[0].iterdir())
    done = python(*arguments(tiny_folder, plain[0]), expect=2)
    assert "--resume_from_checkpoint last" in done.stderr
    assert sorted(path.name for path in plain[0].iterdir()) == before
