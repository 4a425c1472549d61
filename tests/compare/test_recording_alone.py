"""A run is recorded where torch is all there is, and a Trainer without anything else of ftloop."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from harness.command import CHECKOUT, run
from harness.models import tiny_bert

from ftloop import UserError
from ftloop.compare import Recorder, Recording, compare, read
from ftloop.compare.digests import digest_tensors
from ftloop.system.gradients import total_norm

OF_TORCH = ["torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath"]
OF_TORCH += ["networkx", "jinja2", "markupsafe", "filelock", "fsspec"]
A_LOOP = """
import torch
from ftloop.compare import Recorder, record

model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
with Recorder("recorded.jsonl", model, optimizer) as recorder:
    for _ in range(2):
        inputs = {"input": torch.randn(4, 3)}
        recorder.before_forward(inputs)
        loss = model(**inputs).square().mean()
        loss.backward()
        recorder.after_backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        recorder.log({"loss": loss.item()})
"""
A_TRAINER = """
from ftloop.compare import record
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
model = BertForSequenceClassification(BertConfig(**sizes))
rows = [{"input_ids": [1, 2, 3], "labels": i % 2} for i in range(8)]
args = TrainingArguments("out", use_cpu=True, max_steps=2, save_strategy="no", report_to="none", disable_tqdm=True)
trainer = Trainer(model, args, train_dataset=rows)
record(trainer, "recorded.jsonl")
trainer.train()
"""
LOADED = """
import json, sys

print(json.dumps(sorted(name for name in sys.modules if name.startswith("ftloop"))))
"""


@pytest.fixture
def torch_alone(tmp_path: Path) -> Path:
    """A folder of installed packages that holds torch and what it needs, and nothing else, not even NumPy."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in OF_TORCH:
        origin = Path(importlib.util.find_spec(name).origin)  # type: ignore[union-attr,arg-type]
        package = origin.parent if origin.name == "__init__.py" else origin
        (folder / package.name).symlink_to(package)
    return folder


def recorded(tmp_path: Path, job: str, *words: str, packages: tuple[Path, ...] = ()) -> tuple[Recording, set[str]]:
    """The recording that a job makes in a process of its own, and the wings of ftloop that it has loaded."""
    path = ":".join(map(str, (*packages, CHECKOUT)))
    printed = run(sys.executable, *words, "-c", job + LOADED, cwd=tmp_path, PYTHONPATH=path).stdout
    loaded = json.loads(printed.splitlines()[-1])
    assert {"ftloop.compare.recorder", "ftloop.system.gradients"} <= set(loaded)
    recording = read(tmp_path / "recorded.jsonl")
    assert list(recording.updates) == [1, 2]
    assert recording.logs
    return recording, {name.split(".")[1] for name in loaded if "." in name}


def test_recording_needs_torch_alone(torch_alone: Path, tmp_path: Path) -> None:
    recording, wings = recorded(tmp_path, A_LOOP, "-S", packages=(torch_alone,))
    assert wings == {"compare", "errors", "system", "version"}
    assert recording.header["versions"].keys() == {"python", "torch"}
    assert recording.header["digests"] == "sha256"


@pytest.mark.slow
def test_recording_a_trainer_loads_no_other_wing(tmp_path: Path) -> None:
    recording, wings = recorded(tmp_path, A_TRAINER)
    assert wings == {"compare", "errors", "system", "version"}
    assert recording.header["versions"].keys() == {"python", "torch", "transformers", "accelerate"}
    assert recording.header["versions"]["transformers"] == transformers.__version__


def test_recordings_with_and_without_xxhash_are_not_compared(tmp_path: Path) -> None:
    model = tiny_bert()
    Recorder(tmp_path / "with.jsonl", model, torch.optim.SGD(model.parameters())).close()
    text = (tmp_path / "with.jsonl").read_text()
    assert text.count('"digests": "xxh3_64"') == 1
    (tmp_path / "without.jsonl").write_text(text.replace("xxh3_64", "sha256"))
    (tmp_path / "early.jsonl").write_text(text.replace('"digests": "xxh3_64", ', ""))
    for other in ("with", "early"):
        for files in (("without", other), (other, "without")):
            with pytest.raises(UserError, match=rf"without.jsonl: recorded without xxhash, .*{other}.jsonl with it"):
                compare(*(read(tmp_path / f"{name}.jsonl") for name in files))
    for a, b in (("with", "early"), ("without", "without")):
        assert compare(read(tmp_path / f"{a}.jsonl"), read(tmp_path / f"{b}.jsonl")).same


def test_digests_are_those_of_earlier_recordings() -> None:
    tensors = {
        "b": torch.arange(3),
        "a": torch.tensor([[0.5], [-1.0]]),
        "empty": torch.empty(0),
        "c": torch.tensor(True),
    }
    assert digest_tensors(tensors) == "7aa7508778b4095c"


def test_the_norm_of_an_older_torch_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(3, 5), torch.randn(7), torch.randn(())]
    norm = total_norm(tensors)
    monkeypatch.delattr(torch.nn.utils, "get_total_norm")
    assert total_norm(tensors) == norm > 0


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.compile])
def test_what_is_wrapped_around_a_model_is_not_recorded(wrap: type, tmp_path: Path) -> None:
    model = tiny_bert()
    for name, recorded in (("plain", model), ("wrapped", wrap(model)), ("twice", torch.nn.DataParallel(wrap(model)))):
        Recorder(tmp_path / f"{name}.jsonl", recorded, torch.optim.SGD(model.parameters())).close()
        header = read(tmp_path / f"{name}.jsonl").header
        assert header["model"]["class"] == "BertForSequenceClassification"
        assert header["weights"] == digest_tensors(model.state_dict())
