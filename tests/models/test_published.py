"""Model folders in the forms in which they are published."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from harness.zoo import write_deberta_v3

from ftloop import TrainConfig, UserError
from ftloop.inference.classifier import load_classifier
from ftloop.job.fine_tune import fine_tune
from ftloop.models.load import load_tokenizer
from ftloop.models.published import sentencepiece_problem

pytest.importorskip("sentencepiece", reason="pip install 'ftloop[sentencepiece]'")
pytest.importorskip("google.protobuf", reason="pip install 'ftloop[sentencepiece]'")


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Act as if they were not installed, for us and for transformers, which looks by itself and caches what it saw."""
    find_spec = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in names else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setattr("ftloop.models.published.find_spec", found)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_a_tokenizer_of_sentencepiece_alone_is_trained_with_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None, quiet_data: None
) -> None:
    folder = write_deberta_v3(tmp_path / "model")
    rows = [{"text": f"{'yes' if i % 2 else 'no'} [SEP] word{i % 3}", "label": i % 2} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    quiet: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 1}
    quiet |= {"train_file": str(tmp_path / "train.jsonl"), "output_dir": str(tmp_path / "run")}
    fine_tune(TrainConfig(model_name_or_path=str(folder), **quiet))
    text = "yes [SEP] word1"
    score = load_classifier(tmp_path / "run")([text])[0].score
    without(monkeypatch, "sentencepiece", "google.protobuf")
    assert load_classifier(tmp_path / "run")([text])[0].score == score, "what is saved needs sentencepiece no more"


def test_without_sentencepiece_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_deberta_v3(tmp_path)
    without(monkeypatch, "sentencepiece")
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(folder))
    way_out = "to be read: pip install 'ftloop[sentencepiece]'"
    told = f"is a model of sentencepiece (spm.model) and needs sentencepiece {way_out}"
    assert str(caught.value) == f"model_name_or_path: the tokenizer of {folder} {told}"
    monkeypatch.undo()
    without(monkeypatch, "google.protobuf")
    asks_for_another = ValueError("`tiktoken` is required to read a `tiktoken` file.")
    assert sentencepiece_problem(folder, asks_for_another) == told.replace("needs sentencepiece", "needs protobuf")
    assert sentencepiece_problem(None, asks_for_another) == (
        f"seems to be a model of sentencepiece and needs protobuf {way_out}"
    )
    (folder / "spm.model").write_text("IQ== 0\n")
    assert sentencepiece_problem(folder, asks_for_another) is None, "it is one of tiktoken's"


def test_a_damaged_model_of_sentencepiece_is_called_that(tmp_path: Path) -> None:
    folder = write_deberta_v3(tmp_path)
    (folder / "spm.model").write_bytes((folder / "spm.model").read_bytes()[:100])
    with pytest.raises(
        UserError, match=r"is a model of sentencepiece \(spm\.model\) and cannot be read: the file is dam"
    ):
        load_tokenizer(str(folder))
