"""Tokens that were added to a tokenizer and never to its model: the model gets embeddings for them, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness.rows import VOCABULARY
from safetensors.torch import load_file
from transformers import AutoTokenizer

import ftloop
from ftloop.inference.__main__ import main as predict_main
from ftloop.train import main

vars(ftloop).pop("train", None)  # so that `from ftloop import train` is the function again, for other tests
pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")
TABLE = "bert.embeddings.word_embeddings.weight"


@pytest.mark.parametrize("place", ["train", "validation", "sample"])
def test_the_model_gets_embeddings_for_them_saves_them_and_resumes(
    tiny_folder: Path, tmp_path: Path, stderr_of: Any, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    shutil.copytree(tiny_folder / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<user>", "<url>"])
    tokenizer.save_pretrained(tmp_path / "model")
    files = []
    for name in ("train", "validation"):
        rows = [json.loads(line) for line in (tiny_folder / f"{name}.jsonl").read_text().splitlines()]
        rows[0] |= {"sentence1": "<url> " + rows[0]["sentence1"]} if name == place else {}
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        files += [f"--{name}_file", str(tmp_path / f"{name}.jsonl")]
    words = ["--model_name_or_path", str(tmp_path / "model"), *files, "--max_steps", "4", "--save_steps", "2"]
    words += ["--sample_texts", "<url>", "a b"] if place == "sample" else []
    out = tmp_path / "out"
    assert main([*words, "--use_cpu", "--output_dir", str(out)]) == 0
    assert f"<user>, <url>, added to the tokenizer and not to the model's {VOCABULARY}" in capsys.readouterr().out
    weights = load_file(out / "model.safetensors")
    assert len(weights[TABLE]) == len(tokenizer) == json.loads((out / "config.json").read_text())["vocab_size"]
    assert predict_main(["--model", str(out), "--pairs", "<url> <user>", "a"]) == 0
    again = tmp_path / "again"
    resume = ["--resume_from_checkpoint", str(out / "checkpoint-2")]
    assert main([*words, "--use_cpu", "--output_dir", str(again), *resume]) == 0
    resumed = load_file(again / "model.safetensors")
    assert all((resumed[name] == weights[name]).all() for name in weights)
    said = stderr_of(predict_main, ["--model", str(tmp_path / "model"), "--pairs", "<url>", "a"])
    assert "<user>, <url> were added to it alone; train the model on" in said


def test_an_adapter_is_not_padded_with_a_token_that_its_model_does_not_know(
    tiny_folder: Path, tmp_path: Path, stderr_of: Any
) -> None:
    pytest.importorskip("peft", reason="PEFT is not installed: pip install ftloop[peft]")
    shutil.copytree(tiny_folder / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_special_tokens({"pad_token": "[A PADDING OF ITS OWN]"})
    tokenizer.save_pretrained(tmp_path / "model")
    words = ["--model_name_or_path", str(tmp_path / "model"), "--train_file", str(tiny_folder / "train.jsonl")]
    words += ["--lora_r", "2", "--max_steps", "1", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    said = stderr_of(main, words)
    assert "lora_r: batches are padded with [A PADDING OF ITS OWN], added to the tokenizer and not to" in said
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "[PAD]"}))
    assert main(words) == 0
