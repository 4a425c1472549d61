"""`--tokenizer_name`: a tokenizer that does not lie in the model's folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness.command import python, weights
from harness.models import tiny_bert, write_tiny_folder
from transformers import AutoTokenizer, pipeline

import ftloop
from ftloop.config.offline import names_on_the_hub
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode
from ftloop.inference.__main__ import main as predict
from ftloop.report.outcome import read_finished_run
from ftloop.train import main

vars(ftloop).pop("train", None)  # so that `from ftloop import train` is the function again, for other tests

BOTH = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny folder as the working directory, with the tokenizer of `model/` moved into `words/`."""
    write_tiny_folder(tmp_path)
    shutil.copytree(tmp_path / "model", tmp_path / "whole")
    (tmp_path / "words").mkdir()
    for name in BOTH:
        (tmp_path / "model" / name).rename(tmp_path / "words" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(output_dir: str, *more: str, model: str = "model") -> list[str]:
    files = ["--train_file", "train.jsonl", "--validation_file", "validation.jsonl", "--output_dir", output_dir]
    settings = ["--max_steps", "4", "--save_steps", "2", "--use_cpu", "true", "--resume_from_checkpoint", "last"]
    return ["--model_name_or_path", model, *files, *settings, *more]


def test_the_run_is_that_of_a_model_with_its_tokenizer_and_needs_no_flag_afterwards(
    apart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("expected", model="whole")) == ExitCode.DONE
    assert main(words("out", "--tokenizer_name", "words")) == ExitCode.DONE
    assert weights(apart / "out") == weights(apart / "expected")
    for folder in ("out", "out/checkpoint-2"):
        for name in BOTH:
            assert (apart / folder / name).read_bytes() == (apart / "expected" / name).read_bytes(), (folder, name)
    assert read_finished_run(apart / "out").config["tokenizer_name"] == "words"
    assert "| `tokenizer_name` | `words` |" in (apart / "out" / "README.md").read_text()
    shutil.rmtree("words")
    answers = []
    for folder in ("out", "expected"):
        capsys.readouterr()
        assert predict(["--model", folder, "--pairs", "yes word1", "word2"]) == ExitCode.DONE
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert main(words("next", model="out")) == ExitCode.DONE


def test_a_run_goes_on_with_the_same_tokenizer_however_it_is_named(apart: Path, stderr_of: Any) -> None:
    assert main(words("out", "--tokenizer_name", "words")) == ExitCode.DONE
    whole = weights(apart / "out")

    def cut() -> None:
        shutil.rmtree(apart / "out" / "checkpoint-4")
        for path in (apart / "out").iterdir():
            if path.is_file():
                path.unlink()

    cut()
    shutil.copytree("words", "others")
    said = stderr_of(main, words("out", "--tokenizer_name", "others"))
    assert "saved by a run with other tokenizer_name (words then, others now); resume with the same" in said
    said = stderr_of(main, words("out", model="whole"))
    assert "tokenizer_name (words then, None now)" in said
    assert main(words("out", "--tokenizer_name", str(apart / "words"))) == ExitCode.DONE
    assert weights(apart / "out") == whole


def test_the_models_own_folder_is_the_same_as_no_flag(apart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("out", model="whole")) == ExitCode.DONE
    assert main(words("out", "--tokenizer_name", str(apart / "whole"), model="whole")) == ExitCode.DONE
    assert "Finished  already" in capsys.readouterr().out


def test_a_model_without_a_tokenizer_is_trained_by_the_flag_that_is_named(apart: Path, stderr_of: Any) -> None:
    shutil.copytree("model", "run/checkpoint-7")
    for name in BOTH:  # beside the checkpoint, as Trainer's save_model leaves it
        shutil.copy(f"words/{name}", "run")
    said = stderr_of(main, words("out", model="run/checkpoint-7"))
    assert said.startswith("error: model_name_or_path: run/checkpoint-7 has no tokenizer (none of ")
    (flag,) = re.findall(r"Give (--tokenizer_name \S+), or copy", said)
    assert main(words("out", *shlex.split(flag), model="run/checkpoint-7")) == ExitCode.DONE
    said = stderr_of(predict, ["--model", "run/checkpoint-7", "a", "b"])
    assert "has no tokenizer" in said
    assert "--tokenizer_name" not in said, "prediction has no such flag"


def write_vocabulary(folder: Path) -> None:
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(vocabulary, key=vocabulary.__getitem__)))


@pytest.mark.parametrize("left", ["tokenizer.json", "vocab.txt"])
def test_what_a_bare_vocabulary_means_is_told_by_the_model(left: str, apart: Path) -> None:
    write_vocabulary(apart / "words")
    for path in (apart / "words").iterdir():
        if path.name != left:
            path.unlink()
    assert main(words("out", "--tokenizer_name", "words")) == ExitCode.DONE
    ids = AutoTokenizer.from_pretrained("out")("yes word1")["input_ids"]
    assert ids == AutoTokenizer.from_pretrained("whole")("yes word1")["input_ids"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model", "tokenizer_name: model holds no tokenizer (none of tokenizer.json, vocab.txt, "),
        ("./nowhere", "tokenizer_name: no tokenizer folder at ./nowhere"),
        (
            "words/tokenizer.json",
            "tokenizer_name: words/tokenizer.json is a file; give the folder that it lies in, words",
        ),
        ("some/tokenizer", "the tokenizer of some/tokenizer could not be loaded: the hub does not respond"),
        ("broken", "tokenizer_name: the tokenizer of broken could not be loaded ("),
        ("larger", "tokenizer_name: the tokenizer gives the train set token 121, and the model knows only 120; they"),
    ],
)
def test_a_tokenizer_that_cannot_be_taken_is_told_by_its_flag(
    name: str, said: str, apart: Path, stderr_of: Any
) -> None:
    for folder in ("broken", "larger"):
        shutil.copytree("words", folder)
    (apart / "broken" / "tokenizer.json").write_text("{")
    path = apart / "larger" / "tokenizer.json"
    path.write_text(re.sub(r'("word1": )\d+', r"\g<1>121", path.read_text()))
    assert stderr_of(main, words("out", "--tokenizer_name", name)).startswith(f"error: {said}")
    assert not (apart / "out").exists()


def test_the_transformer_of_sentence_transformers_has_the_tokenizer(apart: Path) -> None:
    shutil.copytree("whole", "sbert/0_Transformer")
    (apart / "sbert" / "modules.json").write_text('[{"path": "0_Transformer", "type": "a.Transformer"}]')
    assert main(words("out", "--tokenizer_name", "sbert")) == ExitCode.DONE


def test_a_model_of_the_hub_without_a_tokenizer_is_told(apart: Path) -> None:
    """Transformers makes one that knows no word, and says nothing."""
    snapshot = apart / "home" / "hub" / "models--some--model" / "snapshots" / ("0" * 40)
    shutil.copytree("model", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    home, more = str(apart / "home"), ("--tokenizer_name", str(apart / "words"))
    files = [word if not word.endswith(".jsonl") else str(apart / word) for word in words(str(apart / "out"))]
    files[files.index("model")] = "some/model"
    said = python(*files, expect=ExitCode.USER_ERROR, HF_HOME=home).stderr
    assert said.startswith(
        "error: model_name_or_path: the tokenizer of some/model knows no word; name that of another "
    )
    python(*files, *more, HF_HOME=home)


def test_a_tokenizer_of_the_hub_is_named_among_what_is_fetched(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path)
    config = TrainConfig(model_name_or_path=str(tmp_path), tokenizer_name="some/tokenizer", train_file="a.csv")
    assert names_on_the_hub(config) == ["the tokenizer some/tokenizer"]
    assert names_on_the_hub(TrainConfig(tokenizer_name=str(tmp_path), train_file="a.csv")) == []


UNLIMITED = 1000000000000000019884624838656
"""What transformers gives a tokenizer whose files name no limit, and saves."""


@pytest.mark.parametrize(
    ("limit", "compat", "saved"),
    [(None, "false", 64), (512, "false", 64), (40, "false", 40), (None, "true", UNLIMITED), (512, "true", 512)],
)
def test_a_tokenizer_is_saved_with_the_limit_of_the_model(
    limit: int | None, compat: str, saved: int, apart: Path
) -> None:
    """So that `pipeline` cuts long texts; under trainer_compat it is saved as Trainer does."""
    path = apart / "whole" / "tokenizer_config.json"
    settings = {name: value for name, value in json.loads(path.read_text()).items() if name != "model_max_length"}
    path.write_text(json.dumps(settings | ({} if limit is None else {"model_max_length": limit})))
    more = ("--trainer_compat", compat, "--max_seq_length", "16")
    assert main(words("out", *more, model="whole")) == ExitCode.DONE
    for folder in ("out", "out/checkpoint-2"):
        found = json.loads((apart / folder / "tokenizer_config.json").read_text())["model_max_length"]
        assert found == saved, folder
    if saved <= 64:
        classify = pipeline("text-classification", model="out", device="cpu")
        assert len(classify("yes " * 500, truncation=True)) == 1
