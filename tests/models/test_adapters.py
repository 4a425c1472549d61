"""PEFT adapters: what is trained and saved with them, what comes back, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import ARCHITECTURES, tiny_bert, tiny_lora
from harness.rows import pad, tiny_rows, tiny_tokenizer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoModelForSequenceClassification, set_seed

from ftloop import TrainConfig, UserError, load_classifier, prepare, save_model, train
from ftloop.data.labels import Labels
from ftloop.models.adapters import add_lora, merged
from ftloop.models.load import check_model, load_model
from ftloop.models.weights import save_weights

peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install ftloop[peft]")

NAMES = tuple("abcde")
LABELS = Labels(NAMES, {name: id for id, name in enumerate(NAMES)})
CONFIG = TrainConfig(lora_r=4, lora_target_modules=["all-linear"])


def trained_adapter(base: Path, folder: Path, config: TrainConfig = CONFIG) -> tuple[Any, torch.Tensor]:
    """A LoRA adapter for five classes around the body in a folder, all of it moved a little, saved; and its logits."""
    set_seed(1)
    model, new = load_model(str(base), LABELS)
    model = add_lora(config, model, new)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    folder.mkdir()
    save_weights(model, folder)
    tiny_tokenizer().save_pretrained(folder)
    set_seed(2)  # what is not saved would be drawn otherwise when it is loaded
    return model, logits_of(model)


def logits_of(model: Any) -> torch.Tensor:
    ids = torch.arange(5, 35).reshape(2, 15)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits


def bodies(root: Path, architecture: str) -> Path:
    """A model's body alone, as a pretraining leaves it: head, and pooler where it is another module, are new."""
    set_seed(3)
    model = AutoModelForSequenceClassification.from_config(ARCHITECTURES[architecture]())
    body = AutoModel.from_config(model.config)
    body.save_pretrained(root / "body")
    weights = load_file(root / "body" / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(kept, root / "body" / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer().save_pretrained(root / "body")
    return root / "body"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_new_is_trained_saved_and_back(
    architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = bodies(tmp_path, architecture)
    model, logits = trained_adapter(base, tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}, (
        "the head is trained"
    )
    assert sum(map(torch.numel, weights.values())) < sum(p.numel() for p in model.parameters()) / 2
    capsys.readouterr()
    classifier = load_classifier(tmp_path / "adapter", device="cpu")
    assert capsys.readouterr() == ("", ""), "nothing is said of a head that the adapter brings"
    assert torch.allclose(logits_of(classifier.model), logits, atol=1e-5)
    assert list(classifier("word1 word2")[0].probabilities) == [*NAMES]
    classifier.save(tmp_path / "merged")
    whole = load_classifier(tmp_path / "merged", device="cpu").model
    assert type(whole).__module__.startswith("transformers.")
    assert torch.equal(logits_of(whole), logits_of(classifier.model))


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
def test_of_pefts_own_files_alone_the_classes_have_numbers_and_the_tokenizer_is_the_base_models(
    architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of DistilBERT, PEFT saves pre_classifier beside the classifier, whose name ends alike."""
    _, logits = trained_adapter(bodies(tmp_path, architecture), tmp_path / "adapter")
    for name in ("ftloop_base_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "adapter" / name).unlink()
    capsys.readouterr()
    classifier = load_classifier(tmp_path / "adapter", device="cpu")
    assert "has no ftloop_base_config.json: the names of its classes are not known" in capsys.readouterr().err
    assert torch.allclose(logits_of(classifier.model), logits, atol=1e-5)
    assert list(classifier("word1")[0].probabilities) == [f"LABEL_{id}" for id in range(5)]


def test_a_part_that_was_drawn_and_not_saved_is_no_classifier(tmp_path: Path) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(bodies(tmp_path, "bert"))
    save_weights(tiny_lora(lambda: base), tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no fine-tuned classifier: its weights lack bert\.pooler\.dense\.bias"):
        load_classifier(tmp_path)


def test_an_adapter_is_refused_where_a_whole_model_is_wanted_and_the_way_out_works(tmp_path: Path) -> None:
    base = bodies(tmp_path, "bert")
    trained_adapter(base, tmp_path / "adapter")
    with pytest.raises(UserError, match="holds a PEFT adapter") as refused:
        check_model(str(tmp_path / "adapter"))
    assert str(base) in str(refused.value)
    code = str(refused.value).split("this Python writes: ")[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(code)
    assert load_model(str(tmp_path / "merged"), LABELS)[1] == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder, base: shutil.rmtree(base), "adapter for the base model .*body: no model folder"),
        (lambda folder, base: (folder / "adapter_model.safetensors").write_bytes(b"torn"), "no file of safetensors"),
        (lambda folder, base: (folder / "adapter_model.safetensors").unlink(), "could not be loaded"),
        (lambda folder, base: (folder / "adapter_config.json").write_text("{}"), "names no base model"),
        (lambda folder, base: (folder / "adapter_config.json").write_text("torn"), "not readable"),
        (lambda folder, base: rewrite(folder / "adapter_config.json", r=2), "not this model's weights"),
        (lambda folder, base: rewrite(folder / "adapter_config.json", peft_type="SONG"), "could not be loaded"),
        (lambda folder, base: rewrite(folder / "ftloop_base_config.json", model_type="song"), "could not be loaded"),
    ],
)
def test_a_damaged_adapter_or_a_missing_base_model_is_told(damage: Any, said: str, tmp_path: Path) -> None:
    base = bodies(tmp_path, "bert")
    trained_adapter(base, tmp_path / "adapter")
    damage(tmp_path / "adapter", base)
    with pytest.raises(UserError, match=said) as told:
        load_classifier(tmp_path / "adapter")
    if not base.exists():
        assert "base_model_name_or_path in " in str(told.value)


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("architecture", "targets", "said"),
    [
        (
            "distilbert",
            None,
            r"no default for distilbert; name some of q_lin, k_lin, v_lin, out_lin, lin1, lin2, or all",
        ),
        ("bert", ["query", "nope"], r"there is no nope; name some of query, key, value, dense, or all-linear"),
        ("bert", ["LayerNorm"], r"LayerNorm.* is not supported"),
    ],
)
def test_modules_that_cannot_be_targets_are_told_with_those_that_can(
    architecture: str, targets: list[str] | None, said: str, tmp_path: Path
) -> None:
    model, new = load_model(str(bodies(tmp_path, architecture)), LABELS)
    with pytest.raises(UserError, match=rf"^lora_target_modules: .*{said}"):
        add_lora(replace(CONFIG, lora_target_modules=targets), model, new)


def test_without_peft_the_flag_and_the_folder_say_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained_adapter(bodies(tmp_path, "bert"), tmp_path / "adapter")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^lora_r: LoRA is PEFT's, which is not installed: pip install peft"):
        add_lora(CONFIG, tiny_bert(), [])
    with pytest.raises(UserError, match="adapter of PEFT, which is not installed: pip install peft"):
        load_classifier(tmp_path / "adapter")


def prepared(model: nn.Module, **settings: Any) -> Any:
    return prepare(TrainConfig(use_cpu=True, disable_tqdm=True, **settings), model, tiny_rows(8), data_collator=pad)


def test_adapters_that_would_not_come_back_are_refused(tmp_path: Path) -> None:
    two = tiny_lora()
    two.add_adapter("other", peft.LoraConfig(task_type="SEQ_CLS", r=2))
    with pytest.raises(UserError, match="this model has default, other"):
        prepared(two)
    inside = tiny_bert()
    inside.add_adapter(peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(UserError, match=r"add_adapter\(\) has put an adapter into it.*get_peft_model"):
        prepared(inside)
    with pytest.raises(UserError, match=r"lora_r: the model has no adapter.*get_peft_model.*r=8"):
        prepared(tiny_bert(), lora_r=8)


def test_a_head_that_is_neither_trained_nor_saved_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tiny_lora())
    assert "Warning" not in capsys.readouterr().out
    prepared(tiny_lora(task_type=None, target_modules=["query"]))
    assert "Warning   classifier.weight, classifier.bias: neither trained nor saved" in capsys.readouterr().out


def test_a_merged_model_is_saved_from_python_and_the_run_stays_an_adapter(tmp_path: Path) -> None:
    run = prepared(tiny_lora(), output_dir=str(tmp_path), max_steps=2, learning_rate=1e-2, save_strategy="no")
    train(run)
    logits = logits_of(run.unwrapped_model)
    assert "adapter_model.safetensors" in save_model(run)
    assert "model.safetensors" in save_model(run, tmp_path / "merged", merge=True)
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_of(whole), logits, atol=1e-5)
    assert torch.equal(logits_of(run.unwrapped_model), logits)
    alone = copy.deepcopy(run.unwrapped_model).merge_and_unload().state_dict()
    saved = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in alone.items())
    prompts = peft.get_peft_model(tiny_bert(), peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(UserError, match=r"merge: .*PROMPT_TUNING"):
        save_model(prepared(prompts, output_dir=str(tmp_path / "prompts")), merge=True)


class CopiedToTheCpu(TorchDispatchMode):
    """Zeros for what is copied from the device `meta`, which has no values; and where the other results lie."""

    def __init__(self) -> None:
        super().__init__()
        self.places = set[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if function is torch.ops.aten._to_copy.default and named.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        result = function(*args, **named)
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.places.add(result.device.type)
        return result


def test_a_model_is_merged_on_the_cpu_and_its_device_gets_no_second_copy() -> None:
    """A GPU with room for the training may have none for the weights once more."""
    model = tiny_lora().to("meta")
    with CopiedToTheCpu() as seen:
        whole = merged(model)
    assert {weight.device.type for weight in whole.state_dict().values()} == seen.places == {"cpu"}
    assert {weight.device.type for weight in model.state_dict().values()} == {"meta"}
