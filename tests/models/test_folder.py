"""What a folder that was given as a model is said to be, and that the way out works when it is followed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness.labels import PAIR
from harness.models import tiny_bert
from harness.rows import tiny_tokenizer

import ftloop
from ftloop.errors import UserError
from ftloop.inference.__main__ import main as predict_main
from ftloop.inference.classifier import load_classifier
from ftloop.models.folder import place_of_model
from ftloop.models.load import check_model, load_model, load_tokenizer
from ftloop.train import main

vars(ftloop).pop("train", None)  # so that `from ftloop import train` is the function again, for other tests


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_bert().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def fault(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        check_model(str(folder))
    return str(caught.value).removeprefix(f"model_name_or_path: {folder} ")


def test_the_folder_of_a_run_names_its_newest_checkpoint_with_a_model(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (500, 1000):
        shutil.copytree(model, run / f"checkpoint-{step}")
    (run / "checkpoint-1500").mkdir()  # without weights
    newest = fault(run).rpartition(", ")[2]
    assert newest == str(run / "checkpoint-1000")
    load_model(newest, PAIR)


def test_the_flag_that_gave_the_folder_is_named(tmp_path: Path, stderr_of: Any) -> None:
    said = f"{tmp_path} is not a model folder (it has no config.json)"
    assert stderr_of(predict_main, ["--model", str(tmp_path), "a"]).startswith(f"error: model: {said}")
    words = ["--output_dir", str(tmp_path / "out"), "--model_name_or_path", str(tmp_path)]
    assert stderr_of(main, words).startswith(f"error: model_name_or_path: {said}")
    with pytest.raises(UserError, match=r"^model_dir: .* is not a model folder"):
        load_classifier(tmp_path)


def test_a_checkpoint_without_tokenizer_is_mended_by_what_is_said(model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoint-500"
    tiny_bert().save_pretrained(checkpoint)
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_name_or_path": str(model)}))
    with pytest.raises(UserError, match="has no tokenizer") as told:
        load_tokenizer(str(checkpoint))
    exec(str(told.value).split("says its config.json), or save them with this Python: ")[1])
    assert load_tokenizer(str(checkpoint)).get_vocab() == load_tokenizer(str(model)).get_vocab()


def test_the_transformer_of_sentence_transformers_is_taken_and_said(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sbert"
    shutil.copytree(model, folder / "0_BERT")
    (folder / "config.json").write_text('{"__version__": "1.0.0"}')
    modules = [{"path": "1_Pooling", "type": "a.Pooling"}, {"path": "0_BERT", "type": "sentence_transformers.BERT"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert check_model(str(folder)) == folder / "0_BERT"
    assert load_model(str(folder), PAIR)[1] == []
    assert str(folder / "0_BERT") in place_of_model(str(folder))
    assert place_of_model(str(model)) == ""
    shutil.rmtree(folder / "0_BERT")
    assert "folder of sentence-transformers, and no module" in fault(folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.json", "onnx/model.onnx", "tokenizer.json"], "holds the model for ONNX alone (onnx/model.onnx)"),
        (["config.json", "tf_model.h5"], "holds weights of TensorFlow alone (tf_model.h5)"),
        (["bert_config.json", "vocab.txt", "bert_model.ckpt.index"], "holds weights of TensorFlow alone"),
        (["config.json", "flax_model.msgpack"], "holds weights of Flax alone (flax_model.msgpack)"),
        (
            ["tokenizer.json", "tokenizer_config.json"],
            "holds a tokenizer (tokenizer.json) and no model; a model folder",
        ),
        (["train.csv"], "holds data (train.csv) and no model; a model folder holds config.json, the weights"),
        (["model.safetensors"], "is not a model folder (it has no config.json); copy that of the model"),
        ([], "is not a model folder (it has no config.json); a model folder holds"),
    ],
)
def test_what_else_a_folder_is(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert fault(tmp_path).startswith(said)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1234\n"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.safetensors", POINTER, "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"),
        ("pytorch_model.bin", POINTER, "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"),
        ("pytorch_model.bin", b"<!DOCTYPE html><html>", "is a page of the web, not the file itself; download that"),
        ("pytorch_model.bin", b"PK\x03\x04abc", "is cut off after 7 bytes; download it again"),
        ("tokenizer.json", POINTER, "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"),
        ("tokenizer.json", b"", "is empty; download it again"),
    ],
)
def test_a_file_that_a_download_left_in_the_place_of_another_is_named(
    model: Path, stderr_of: Any, name: str, content: bytes, told: str
) -> None:
    if name == "pytorch_model.bin":
        (model / "model.safetensors").unlink()
    (model / name).write_bytes(content)
    assert stderr_of(predict_main, ["--model", str(model), "a"]).startswith(f"error: model: {model / name} {told}")
    words = ["--output_dir", str(model.parent / "out"), "--train_file", "none.csv", "--model_name_or_path", str(model)]
    assert f"model_name_or_path: {model / name} {told}" in stderr_of(main, words)


def test_a_part_of_the_weights_that_is_missing_is_named_and_what_is_not_read_may_be_a_pointer(model: Path) -> None:
    for name in ("pytorch_model.bin", "spiece.model", "vocab.txt"):
        (model / name).write_bytes(POINTER)
    load_model(str(model), PAIR)
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(UserError, match=r"model-00002-of-00002.safetensors is missing, one of the parts"):
        load_model(str(model), PAIR)


def test_torchs_advice_to_run_what_a_file_holds_is_not_passed_on(model: Path) -> None:
    (model / "model.safetensors").unlink()
    for content in (b"x" * 100, pickle.dumps(print, 2)):
        (model / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match="it is no file of weights alone: ") as told:
            load_model(str(model), PAIR)
        assert "weights_only" not in str(told.value)


def test_the_folder_that_a_model_lies_in_is_named(model: Path) -> None:
    assert fault(model.parent) == f"is no model itself, and holds one; give {model}"
    with pytest.raises(UserError, match=rf"model\.safetensors is a file; give the folder that it lies in, {model}$"):
        check_model(str(model / "model.safetensors"))


def test_a_bert_of_the_old_pages_is_mended_by_what_is_said(model: Path, tmp_path: Path) -> None:
    """`bert_config.json`, which names no model_type."""
    facts = json.loads((model / "config.json").read_text())
    del facts["model_type"]
    (model / "config.json").unlink()
    (model / "bert_config.json").write_text(json.dumps(facts))
    with pytest.raises(
        UserError, match=r'bert_config.json and no config.json; rename it, and write "model_type": "bert"'
    ):
        check_model(str(model))
    old = (model / "bert_config.json").rename(model / "config.json")
    (model / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=r'config.json has no model_type, .*such as "model_type": "bert"'):
        load_tokenizer(str(model.rename(tmp_path / "folder")))
    (tmp_path / "tokenizer.json").rename(tmp_path / "folder" / "tokenizer.json")
    (tmp_path / "folder" / old.name).write_text(json.dumps(facts | {"model_type": "bert"}))
    load_tokenizer(str(tmp_path / "folder"))
