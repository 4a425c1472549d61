"""The forms in which people have a model: `guide` trains each, returns to its best checkpoint, resumes and predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness.command import weights
from harness.models import tiny_bert, tiny_split_or_joined, with_old_names
from harness.rows import tiny_tokenizer
from harness.zoo import write_member
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from ftloop.errors import ExitCode
from ftloop.inference.classifier import load_classifier
from ftloop.models.load import load_weights
from ftloop.train import main

FILE = "model.safetensors"


def old_names(folder: Path) -> None:
    with_old_names(folder, tiny_bert())


def bin_with_old_names(folder: Path) -> None:
    with_old_names(folder, tiny_bert())
    torch.save(load_file(folder / FILE), folder / "pytorch_model.bin")
    (folder / FILE).unlink()


def shards(folder: Path) -> None:
    tiny_bert().save_pretrained(folder, max_shard_size="40kB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def shards_with_old_names(folder: Path) -> None:
    with_old_names(folder, tiny_bert())
    named, index = list(load_file(folder / FILE).items()), {}
    for number, part in enumerate((named[::2], named[1::2]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file(dict(part), folder / shard, metadata={"format": "pt"})
        index |= dict.fromkeys(dict(part), shard)
    (folder / f"{FILE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / FILE).unlink()


def body_without_heads(folder: Path) -> None:
    tiny_bert().bert.save_pretrained(folder)


def head_of_another_size(folder: Path) -> None:
    tiny_bert(num_labels=5).save_pretrained(folder)


def tied_weights(folder: Path) -> None:
    write_member(folder, "bart")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": None, "num_labels": 3}))


def compiled(folder: Path) -> None:
    tiny_bert().save_pretrained(folder)
    save_file(
        {f"_orig_mod.{name}": each for name, each in load_file(folder / FILE).items()},
        folder / FILE,
        metadata={"format": "pt"},
    )


def compiled_with_old_names(folder: Path) -> None:
    old_names(folder)
    save_file(
        {f"_orig_mod.{name}": each for name, each in load_file(folder / FILE).items()},
        folder / FILE,
        metadata={"format": "pt"},
    )


def data_parallel(folder: Path) -> None:
    """Names as DataParallel of a compiled module gives them, in a `.bin` file."""
    tiny_bert().save_pretrained(folder)
    named = load_file(folder / FILE)
    torch.save({f"module._orig_mod.{name}": each for name, each in named.items()}, folder / "pytorch_model.bin")
    (folder / FILE).unlink()


def split_experts(folder: Path) -> None:
    tiny_split_or_joined("mixtral").save_pretrained(folder)


def joined_projections(folder: Path) -> None:
    tiny_split_or_joined("nomic_bert").save_pretrained(folder)


NEW_HEAD = "; new: classifier.bias, classifier.weight)"
FORMS: dict[Callable[[Path], None], str] = {
    old_names: NEW_HEAD,
    bin_with_old_names: NEW_HEAD,
    shards: ")",
    shards_with_old_names: NEW_HEAD,
    body_without_heads: NEW_HEAD,
    head_of_another_size: NEW_HEAD,
    tied_weights: ")",
    compiled: ")",
    compiled_with_old_names: NEW_HEAD,
    data_parallel: ")",
    split_experts: ")",
    joined_projections: ")",
}
"""And how the line `Model` ends: all else is the folder's."""


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("of_body", [False, True])
def test_names_of_what_a_model_was_wrapped_in_when_it_was_saved_change_no_bit(
    prefix: str, of_body: bool, tmp_path: Path
) -> None:
    model = tiny_bert(3)
    (model.bert if of_body else model).save_pretrained(tmp_path)
    named = load_file(tmp_path / FILE)
    torch.save({f"{prefix}{name}": each for name, each in named.items()}, tmp_path / "pytorch_model.bin")
    (tmp_path / FILE).unlink()
    loaded, new = load_weights(str(tmp_path), num_labels=3)
    assert new == (["classifier.bias", "classifier.weight"] if of_body else [])
    own = {name: each for name, each in loaded.state_dict().items() if name not in new}
    assert all(torch.equal(each, model.state_dict()[name]) for name, each in own.items())
    loaded.save_pretrained(tmp_path)
    assert load_file(tmp_path / FILE).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "write", [pytest.param(f, id=f.__name__, marks=[] if f is compiled else [pytest.mark.slow]) for f in FORMS]
)
def test_a_model_in_this_form_trains_returns_to_its_best_and_resumes(
    write: Callable[[Path], None], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    write(model)
    if write is not tied_weights:
        tiny_tokenizer().save_pretrained(model)
    words = ["guide", "--model_name_or_path", str(model), "--learning_rate", "1e-3", "--use_cpu"]
    words += [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
    # The worst is taken for the best, so that it is not the last one.
    words += ["--metric_for_best_model", "loss", "--greater_is_better", "true", "--save_total_limit", "9"]
    assert main([*words, "--output_dir", str(out)]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert next(line for line in said.splitlines() if line.startswith("Model  ")).endswith(FORMS[write])
    best, last = out / said.split("Best      ")[1].split(",")[0], out / "checkpoint-6"
    assert best != last

    trained, kept, newest = (AutoModelForSequenceClassification.from_pretrained(each) for each in (out, best, last))
    pairs = list(zip(*(each.state_dict().items() for each in (trained, kept, newest)), strict=True))
    assert all(torch.equal(a, b) for (_, a), (_, b), _ in pairs), "whatever names they were saved under"
    moved = [name for (name, a), _, (_, c) in pairs if not torch.equal(a, c)]
    assert len(moved) > 0.8 * len(pairs)
    assert not any(name.startswith(("_orig_mod", "module")) for name in load_file(out / FILE))
    if isinstance(trained, BertForSequenceClassification):
        assert "bert.embeddings.LayerNorm.weight" in moved

    again = tmp_path / "again"
    assert main([*words, "--output_dir", str(again), "--resume_from_checkpoint", str(out / "checkpoint-4")]) == 0
    assert weights(again) == weights(out)
    rows = [("yes word1", "word2"), ("no word3", "word4")]
    answers = load_classifier(str(out))(rows)
    assert all(torch.tensor(answer.score).isfinite() for answer in answers)
