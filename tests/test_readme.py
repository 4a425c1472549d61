"""What the READMEs show is what the code is."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import datasets
import pytest
import torch
from tiny import pad, tiny_bert, tiny_pairs, tiny_rows
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import ftloop.loop
from ftloop.compare import read

CHECKOUT = Path(__file__).resolve().parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
WALKTHROUGH = (CHECKOUT / "ftloop" / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_loop_quoted_is_the_loop() -> None:
    assert inspect.getsource(ftloop.loop.updates).strip() == python_blocks()[0].strip()


def test_the_python_example_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As printed, but for the names of the model and the data set, which would need the hub."""
    rows = {name: datasets.Dataset.from_list(tiny_pairs(count)) for name, count in SIZES.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: datasets.DatasetDict(rows))
    monkeypatch.chdir(tmp_path)
    example, body = python_blocks()[1:3]
    assert example.count("bert-base-uncased") == 2
    names: dict[str, object] = {}
    exec(example.replace("bert-base-uncased", str(tiny_folder / "model")), names)
    printed = capsys.readouterr().out
    assert "Epoch 3/3" in printed
    assert "'test_accuracy'" in printed
    assert "(11, 2)" in printed
    assert (tmp_path / "runs" / "python" / "model.safetensors").is_file()
    exec(body, names)  # a run that is over yields no more updates


def test_the_three_calls_of_a_loop_of_ones_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = tiny_rows(8)
    model = tiny_bert()
    args = TrainingArguments(output_dir="out", use_cpu=True, max_steps=1, save_strategy="no", disable_tqdm=True)
    names: dict[str, object] = {
        "trainer": Trainer(model=tiny_bert(), args=args, train_dataset=rows, data_collator=pad),
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "loader": DataLoader(rows, batch_size=4, collate_fn=pad),
    }
    block = python_blocks()[3]
    assert block.count("...  ") == 1
    exec(block.replace("...  ", "optimizer.step(); optimizer.zero_grad()  "), names)
    names["trainer"].train()  # type: ignore[attr-defined]
    assert [list(read(tmp_path / f"{who}.jsonl").updates) for who in ("theirs", "mine")] == [[1], [1, 2]]


SIZES = {"train": 29, "validation": 13, "test": 11}


def test_every_file_in_the_tree_is_there_and_every_module_is_in_the_tree() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    named = set(re.findall(r"(\w+\.py)", tree))
    there = {path.name for folder in ("ftloop", "benchmarks") for path in (CHECKOUT / folder).glob("*.py")}
    assert named == there - {"__init__.py"}


def test_every_flag_named_is_a_setting() -> None:
    from ftloop.config import SETTINGS

    of_others = {
        "num_cpu_threads_per_process",
        "num_processes",
        "nproc_per_node",
        "nnodes",
        "rdzv_backend",
        "rdzv_id",
        "rdzv_endpoint",
        "config_file",
        "nodes",
        "ntasks",
        "gpus",
        "cpus",
        "multi_gpu",
        "cpu",
        "help",
        "model",
        "pairs",
        "png",
        "tensorboard",
        "fuzz",
        "seed",
        "plant",
        "choice",
        "signal",
        "requeue",
        "number",
        "advise",
        "set",
        "output",
    }
    flags = set(re.findall(r"--(\w+)", README + WALKTHROUGH)) - of_others
    assert {"train_file", "trainer_compat", "resume_from_checkpoint"} <= flags
    assert flags - {"strict"} <= set(SETTINGS)


def test_every_name_in_the_walkthrough_exists() -> None:
    tests = {
        node.name
        for path in (CHECKOUT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    files = {path.name for path in (CHECKOUT / "tests").glob("*.py")}
    modules = {path.stem: path for path in (CHECKOUT / "ftloop").glob("*.py")}
    looked_up = 0
    for name in re.findall(r"`([\w.]+)`", WALKTHROUGH):
        module, _, function = name.partition(".")
        if name.startswith("test_"):
            assert name in (files if name.endswith(".py") else tests), name
            looked_up += 1
        elif module in modules and function and "." not in function:
            assert re.search(rf"(def|class) {function}\b", modules[module].read_text(encoding="utf-8")), name
            looked_up += 1
    assert looked_up > 40


def test_every_cause_that_can_be_named_is_planted_by_a_test_and_told_in_the_walkthrough() -> None:
    source = (CHECKOUT / "ftloop" / "causes.py").read_text(encoding="utf-8")
    causes = {"seed", "data", "fused", "eps", "betas", "arithmetic"}
    causes |= set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source))
    assert len(causes) > 40
    tests = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests").glob("test_compare*.py"))
    for cause in causes:
        assert re.search(rf"[|, ]{cause}[|,;. ]", WALKTHROUGH), cause
        assert re.search(rf'["\s]{cause}["\s]', tests), cause


def test_every_link_leads_somewhere_and_nothing_is_left_to_fill_in() -> None:
    pages = [CHECKOUT / "README.md", CHECKOUT / "ftloop" / "README.md", *(CHECKOUT / "benchmarks").rglob("*.md")]
    links = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"^[A-Z_]{5,}$", text, re.MULTILINE), page
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                links += 1
                assert (page.parent / target).exists(), (page, target)
    assert links >= 4
