"""Models that come with code of their own: no command runs it, and each message names the Python that works."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from harness.models import tiny_bert
from harness.rows import tiny_pairs, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, dynamic_module_utils

from ftloop import TrainConfig, UserError, classify, finish, load_classifier, prepare, train
from ftloop.config.command_line import parse_args
from ftloop.data.labels import Labels
from ftloop.inference.__main__ import main as predict
from ftloop.loss import logits_of
from ftloop.models.load import load_model, load_tokenizer
from ftloop.models.published import own_code_problem
from ftloop.models.weights import load_weights

PAIR = Labels(("no", "yes"), {"no": 0, "yes": 1})
CODE = """
from transformers import BertConfig, BertForSequenceClassification

class OwnConfig(BertConfig):
    model_type = "own"

class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""
AUTO_MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def made(folder: Path, model_type: str, auto_map: dict[str, str]) -> str:
    tiny_bert().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "own.py").write_text(CODE.replace('"own"', repr(model_type)))
    change(folder / "config.json", model_type=model_type, auto_map=auto_map)
    return str(folder)


def problem(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers puts code that is trusted."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()


@pytest.mark.usefixtures("modules")
def test_the_way_that_the_message_names_trains_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = made(tmp_path / "model", "own", AUTO_MAP)
    told = problem(load_model, name, PAIR)
    assert told.startswith(f"model_name_or_path: {name} comes with code of its own (auto_map in its files)")
    assert problem(load_classifier, name).startswith(f"model_dir: {name} comes with code of its own")

    model_line, tokenizer_line = re.findall(r"((?:model|tokenizer) = \w+\.from_pretrained\(.*?\))", told)
    assert "num_labels=2" in model_line
    names: dict[str, Any] = {}
    exec(f"from transformers import *\n{model_line}\n{tokenizer_line}", names)
    model, tokenizer = names["model"], names["tokenizer"]
    rows = Dataset.from_list(tiny_pairs(9)).map(lambda row: tokenizer(row["sentence1"], row["sentence2"]))
    config = TrainConfig(output_dir="out", num_train_epochs=1, use_cpu=True, disable_tqdm=True)
    run = prepare(config, model, rows, rows, processing_class=tokenizer)
    train(run)
    capsys.readouterr()
    finish(run)
    said = capsys.readouterr().out
    card = Path("out/README.md").read_text()
    for text in (said, card):
        assert "ftloop predict --model" not in text
        assert "from ftloop import classify" in text
    pairs = [("yes word1", "word2")]
    found = classify(model, tokenizer, pairs)
    loaded = eval(
        re.search(r"it is loaded again by (.*)", said)[1],
        {"AutoModelForSequenceClassification": AutoModelForSequenceClassification},
    )  # type: ignore[index]
    assert classify(loaded.eval(), AutoTokenizer.from_pretrained("out"), pairs) == found
    capsys.readouterr()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]  # type: ignore[index]
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    assert "Prediction(label=" in capsys.readouterr().out


def test_weights_that_may_be_those_of_the_code_are_told_with_it(tmp_path: Path) -> None:
    name = made(tmp_path, "bert", AUTO_MAP)
    assert load_model(name, PAIR)[1] == [], "transformers has the architecture, and needs no code"
    weights = load_file(tmp_path / "model.safetensors")
    save_file({f"own.{key}": value for key, value in weights.items()}, tmp_path / "model.safetensors")
    told = problem(load_model, name, PAIR)
    assert "would be randomly initialised; it comes with code of its own" in told
    assert "num_labels=2, trust_remote_code=True" in told
    assert "; it comes with code of its own" in problem(load_classifier, name)
    change(tmp_path / "config.json", auto_map={})
    assert problem(load_model, name, PAIR).endswith("would be randomly initialised")
    assert "code" not in problem(load_classifier, name)


def test_code_without_a_classifier_is_no_way(tmp_path: Path) -> None:
    name = made(tmp_path, "own_body", {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})
    told = problem(load_model, name, PAIR)
    assert told.endswith("that code has no AutoModelForSequenceClassification either: take another model")


def test_a_tokenizer_with_code_of_its_own_and_a_model_of_the_hub(tmp_path: Path) -> None:
    name = made(tmp_path, "bert", AUTO_MAP)
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    change(tmp_path / "tokenizer_config.json", **own)
    (tmp_path / "tokenizer.json").unlink()
    told = problem(load_tokenizer, name)
    assert "comes with code of its own" in told
    assert "tokenizer = AutoTokenizer.from_pretrained(" in told
    asks = ValueError("... Please pass the argument `trust_remote_code=True` to allow custom code to be run.")
    assert "a/b comes with code of its own" in str(own_code_problem("a/b", None, asks))
    unknown = ValueError("`new` but Transformers does not recognize this architecture.")
    assert own_code_problem("a/b", None, unknown) is None
    change(tmp_path / "config.json", auto_map={})
    change(tmp_path / "tokenizer_config.json", auto_map={})
    assert own_code_problem(name, tmp_path, OSError("something else")) is None


def test_the_flag_is_answered_with_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for told in (
        problem(parse_args, ["--trust_remote_code", "true"]),
        problem(lambda: TrainConfig(trust_remote_code=True)),  # type: ignore[call-arg]
    ):
        assert told.startswith("trust_remote_code: leave it out: ftloop runs no code that comes with a model")
        assert "give it to prepare" in told
    with pytest.raises(SystemExit):
        predict(["--model", str(tmp_path), "--trust_remote_code", "true", "A text."])
    assert "--trust_remote_code: leave it out: ftloop runs no code" in capsys.readouterr().err


Bert: Any = type(tiny_bert())


class OwnHead(Bert):  # type: ignore[misc]
    """Somebody's own class, which the commands would take for BERT's."""


class Plain(torch.nn.Module):
    """A class of torch's alone, as notebooks have them: it takes two arguments, and gives logits."""

    def __init__(self, config: Any = None, num_labels: int = 2) -> None:
        super().__init__()
        if config is not None:
            self.config = config
        self.body = tiny_bert().bert
        self.head = torch.nn.Linear(self.body.config.hidden_size, num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(input_ids, attention_mask=attention_mask)[0][:, 0])
        return logits


def with_another_head() -> Any:
    model = tiny_bert()
    hidden = model.config.hidden_size
    model.classifier = torch.nn.Sequential(torch.nn.Linear(hidden, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    return model


def with_a_layer_less() -> Any:
    model = tiny_bert()
    model.bert.encoder.layer = model.bert.encoder.layer[:1]
    return model


def finished(model: Any, folder: Path, classes: int = 2, **settings: Any) -> Any:
    rows = Dataset.from_list([row | {"label": number % classes} for number, row in enumerate(tiny_pairs(9))])
    rows = rows.map(lambda row: tiny_tokenizer()(row["sentence1"], row["sentence2"]))
    given = {"output_dir": str(folder), "num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}
    config = TrainConfig(**given | settings)

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits_of(outputs), labels)

    run = prepare(config, model, rows, rows, processing_class=tiny_tokenizer(), compute_loss_func=loss)
    train(run)
    finish(run)
    return run.model


@dataclasses.dataclass(frozen=True)
class Sizes:
    num_classes: int = 2


@pytest.mark.parametrize("config", [{"num_classes": 2}, Sizes(), SimpleNamespace(num_classes=2)], ids=str)
def test_a_config_of_ones_own_is_left_as_it_is(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no PretrainedConfig: nothing is written into it, and TensorBoard gets nothing of it."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    before = copy.deepcopy(config)
    model = finished(Plain(config), tmp_path, report_to="tensorboard")
    assert model.config == before
    assert "Plain has no config, a PretrainedConfig, that names its labels" in capsys.readouterr().out
    assert [*(tmp_path / "board").iterdir()]
    with pytest.raises(UserError, match=r"attn_implementation: Plain has no set_attn_implementation\(\)"):
        finished(Plain(config), tmp_path / "other", attn_implementation="eager")


INTO_MODEL = "it is loaded again by load_weights(model, "


@pytest.mark.parametrize(
    ("build", "way"),
    [
        (tiny_bert, None),
        (lambda: OwnHead(tiny_bert().config), "it is loaded again by OwnHead.from_pretrained("),
        (lambda: Plain(tiny_bert().config), INTO_MODEL),
        (with_another_head, INTO_MODEL),
        (with_a_layer_less, INTO_MODEL),
    ],
    ids=["transformers", "own class", "torch", "another head", "a layer less"],
)
def test_after_a_class_of_ones_own_no_command_is_named_that_loads_another(
    build: Callable[[], Any], way: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the Python that is named loads what was trained."""
    trained = finished(build(), tmp_path)
    said, card = capsys.readouterr().out, (tmp_path / "README.md").read_text()
    assert ("ftloop predict --model" in said) == (way is None)
    assert ("import pipeline" in card) == (way is None)
    if way is not None:
        assert way in said
        assert way.removeprefix("it is loaded again by ") in card
    if way == INTO_MODEL:
        again = build()
        load_weights(again, str(tmp_path))
        texts = [("a b", "c"), ("b", "a")]
        assert classify(again, tiny_tokenizer(), texts) == classify(trained, tiny_tokenizer(), texts)


def test_a_class_of_ones_own_that_names_no_classes_is_finished_without_what_needs_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, config in enumerate((None, tiny_bert().config)):
        fault = "num_labels is not set" if config else "has no config"
        model = finished(Plain(config, num_labels=3), tmp_path / str(number), classes=3)
        said = capsys.readouterr().out
        assert "Left out" in said
        assert fault in said
        assert (tmp_path / str(number) / "all_results.json").is_file()
        with pytest.raises(UserError, match=fault):
            classify(model, tiny_tokenizer(), ["a b"])
