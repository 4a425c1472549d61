"""Model folders nobody trusts: they end in a model or in one clear message, and nothing in them is run."""

from __future__ import annotations

import io
import json
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import tiny_bert
from harness.untrusted import DAMAGE, FORMS, NAMES_IN_FOLDERS, examples, few_and_many, planted
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from ftloop.config.train_config import TrainConfig
from ftloop.data.labels import Labels
from ftloop.data.load import load_text_data
from ftloop.data.special_tokens import encode_texts
from ftloop.data.tokenization import tokenize
from ftloop.errors import UserError
from ftloop.inference.classifier import classify, load_classifier
from ftloop.models.load import check_token_ids, load_model, load_tokenizer, longest_input
from ftloop.models.match import example

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")
PAIR = Labels(("no", "yes"), {"no": 0, "yes": 1})


def load_all(folder: Path) -> tuple[Any, Any]:
    """Whatever a run loads of a model folder before it trains."""
    tokenizer = load_tokenizer(str(folder))
    model, _ = load_model(str(folder), PAIR)
    longest_input(model, tokenizer, None)
    return model, tokenizer


def loads_or_is_told(folder: Path) -> bool:
    try:
        load_all(folder)
        load_classifier(folder)
        return True
    except UserError as error:
        (problem,) = error.problems
        assert str(folder) in problem
        assert "\n" not in problem
        return False


VALUES_OF_JSON = st.sampled_from([-1, 0, 1.5, 10**12, 2**63, "a", "(((", None, True, [], {}, [1], math.nan])
HUGE = {"num_hidden_layers"}  # a number of layers beyond reason would be built, layer by layer


@few_and_many(4, 120)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_setting_of_a_model_that_makes_no_sense_is_taken_or_told(
    name: str, count: int, model_folder: Path, tried: dict[str, int]
) -> None:
    whole = json.loads((model_folder / name).read_text())
    places = list(places_in(whole))
    assert loads_or_is_told(model_folder)

    @examples(count)
    @given(st.sampled_from(places), VALUES_OF_JSON)
    def holds(place: tuple[Any, ...], value: Any) -> None:
        if place[-1] in HUGE and value in (10**12, 2**63):
            return
        tried["model folders"] += 1
        changed = json.loads(json.dumps(whole))
        inner = changed
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
        (model_folder / name).write_text(json.dumps(changed))
        loads_or_is_told(model_folder)

    holds()


@pytest.mark.parametrize("template", ["single", "pair"])
def test_a_panic_of_the_tokenizers_library_is_told(template: str, model_folder: Path) -> None:
    whole = json.loads((model_folder / "tokenizer.json").read_text())
    whole["post_processor"][template][0]["SpecialToken"]["id"] = "a token of another tokenizer"
    (model_folder / "tokenizer.json").write_text(json.dumps(whole))
    assert not loads_or_is_told(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    texts = ("a text", "another")[: 2 if template == "pair" else 1]
    told = re.escape(f"the tokenizer of {model_folder} fails (no entry found for key)")
    with pytest.raises(UserError, match=told):
        encode_texts(tokenizer, [[text] for text in texts])
    with pytest.raises(UserError, match=told):
        example(tiny_bert(), tokenizer, texts)


def places_in(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value))[:40]:
        yield (*above, key)
        if isinstance(inner, (dict, list)):
            yield from places_in(inner, (*above, key))


@few_and_many(4, 120)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_damaged_file_of_a_model_folder_is_read_or_told(
    name: str, count: int, model_folder: Path, tried: dict[str, int]
) -> None:
    whole = (model_folder / name).read_bytes()

    @examples(count)
    @given(DAMAGE)
    def holds(damage: list[tuple[float, int, bytes]]) -> None:
        tried["model folders"] += 1
        content = whole
        for where, cut, put in damage:
            at = int(where**4 * len(content))  # more of it in the header of the weights
            content = content[:at] + put + content[at + cut :]
        (model_folder / name).write_bytes(content)
        loads_or_is_told(model_folder)

    holds()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""),
        ("config.json", b"[]"),
        ("config.json", b"null"),
        ("config.json", b"{}"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"model_type": "no-such-model"}'),
        ("config.json", b'{"model_type": ["bert"]}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 1000),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../../etc/passwd"}}'),
        ("model.safetensors.index.json", b"[]"),
        ("pytorch_model.bin", b"no such thing"),
        ("pytorch_model.bin.index.json", b'{"weight_map": {"a": "none.bin"}, "metadata": {}}'),
    ],
)
def test_a_model_folder_of_which_nothing_can_be_made_is_told(
    name: str, content: bytes, model_folder: Path, tried: dict[str, int]
) -> None:
    tried["model folders"] += 1
    if name.startswith(("pytorch", "model.safetensors.")):
        (model_folder / "model.safetensors").unlink()
    (model_folder / name).write_bytes(content)
    assert not loads_or_is_told(model_folder)


def test_a_model_folder_that_cannot_be_reached_is_told(tmp_path: Path, tried: dict[str, int]) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for folder in (tmp_path, loop, tmp_path / "none", "/dev/null", "n" * 300, "/" + "n" * 300, "~no-such-person/m"):
        tried["model folders"] += 1
        with pytest.raises(UserError):
            load_tokenizer(str(folder))


@pytest.mark.parametrize("other", ["distilbert", "gpt2"])
def test_weights_of_another_architecture_are_refused(other: str, model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    for changed in (config | {"model_type": other}, config | {"hidden_size": 16}, config | {"num_hidden_layers": 3}):
        (model_folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"not those of its config\.json: .* would be randomly initialised"):
            load_model(str(model_folder), PAIR)


def test_a_missing_pooler_and_head_are_new_as_after_pretraining(model_folder: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not re.search("pooler|classifier", name)}
    save_file(kept, model_folder / "model.safetensors", metadata={"format": "pt"})
    _, new = load_model(str(model_folder), PAIR)
    assert new == sorted(weights.keys() - kept.keys())
    with pytest.raises(UserError, match=r"holds no fine-tuned classifier: its weights lack bert\.pooler\.dense\.bias"):
        load_classifier(model_folder)


def test_tokens_that_the_model_does_not_know_are_refused(model_folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    smaller = tiny_bert().bert.embeddings.word_embeddings.num_embeddings - 20
    config = json.loads((model_folder / "config.json").read_text()) | {"vocab_size": smaller}
    (model_folder / "config.json").write_text(json.dumps(config))
    weights = load_file(model_folder / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name][:smaller].clone()}, model_folder / "model.safetensors", {"format": "pt"})
    model, tokenizer = load_all(model_folder)
    data = load_text_data(TrainConfig(train_file=str(tiny_folder / "train.jsonl")))
    rows, _ = tokenize(data, data.train, tokenizer, 64, TrainConfig(), "train")
    check_token_ids(model, tokenizer, {"train": rows})
    with pytest.raises(UserError, match="the tokenizer gives tokens beyond the 100"):
        classify(model, tokenizer, ["yes word112"])
    (tmp_path / "far.jsonl").write_text("".join(f'{{"text": "word{row}", "label": {row % 2}}}\n' for row in range(113)))
    data = load_text_data(TrainConfig(train_file=str(tmp_path / "far.jsonl")))
    rows, _ = tokenize(data, data.train, tokenizer, 64, TrainConfig(), "train")
    with pytest.raises(UserError, match="the tokenizer gives the train set token 119, and the model knows only 100"):
        check_token_ids(model, tokenizer, {"train": rows})


@pytest.mark.parametrize("form", FORMS)
def test_the_trap_springs_where_it_is_unpickled(form: str, tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    torch.load(io.BytesIO(planted(tmp_path / "sprung", form)), weights_only=False) if form != "pickle" else (
        pickle.loads(planted(tmp_path / "sprung", form))
    )
    assert (tmp_path / "sprung").is_dir()


NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin", "model.safetensors.index.json")


@pytest.mark.parametrize(
    "name",
    [*NEEDED, "all others", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES_IN_FOLDERS if n not in NEEDED)],
)
def test_a_pickle_in_a_model_folder_is_not_run(
    name: str, model_folder: Path, tmp_path: Path, tried: dict[str, int]
) -> None:
    marker = tmp_path / "sprung"
    if name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (model_folder / "model.safetensors").unlink()
    for form in FORMS:
        for planted_in in [name] if name != "all others" else set(NAMES_IN_FOLDERS) - {*NEEDED}:
            tried["planted pickles"] += 1
            (model_folder / planted_in).write_bytes(planted(marker, form))
        loaded = loads_or_is_told(model_folder)
        assert not marker.exists()
        assert not (loaded and name in NEEDED), "what is needed and is no model is told"


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize(
    "shard", ["shard.bin", *(pytest.param(f"shard{n}", marks=pytest.mark.slow) for n in (".safetensors", ".pt", ""))]
)
def test_a_pickle_that_an_index_of_weights_points_to_is_not_run(
    index: str, shard: str, model_folder: Path, tmp_path: Path, tried: dict[str, int]
) -> None:
    marker = tmp_path / "sprung"
    names = load_file(model_folder / "model.safetensors")
    (model_folder / "model.safetensors").unlink()
    (model_folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))
    for form in FORMS:
        tried["planted pickles"] += 1
        (model_folder / shard).write_bytes(planted(marker, form))
        assert not loads_or_is_told(model_folder)
        assert not marker.exists()


def test_weights_in_a_bin_file_that_holds_tensors_alone_are_taken(model_folder: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    torch.save(weights, model_folder / "pytorch_model.bin")
    (model_folder / "model.safetensors").unlink()
    assert torch.equal(load_model(str(model_folder), PAIR)[0].classifier.weight, weights["classifier.weight"])


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_code_that_a_model_folder_names_is_neither_run_nor_asked_about(
    model_type: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: dict[str, int]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    tried["planted code"] += 1
    (model_folder / "evil.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n"
        "from transformers import BertConfig as Config, BertForSequenceClassification as Model\n"
        "from transformers import BertTokenizerFast as Tokenizer\n"
    )
    config = json.loads((model_folder / "config.json").read_text())
    kinds = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForSequenceClassification": "evil.Model"}
    (model_folder / "config.json").write_text(json.dumps(config | {"model_type": model_type, "auto_map": kinds}))
    assert loads_or_is_told(model_folder) == (model_type == "bert"), "a known architecture needs no code of the folder"
    tokenizer = json.loads((model_folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}}
    (model_folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    loads_or_is_told(model_folder)
    assert not asked
    assert not (tmp_path / "sprung").exists()
