"""Tiny models for tests, with dropout on, built offline: a BERT, and the architectures people fine-tune."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from harness.rows import VOCABULARY, tiny_pairs, tiny_tokenizer
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    set_seed,
)

SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,  # which the tests' collator pads with; RoBERTa and MPNet count positions from behind it
}
DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def tiny_bert(
    num_labels: int = 2, seed: int = 42, dropout: float = 0.1, **config: Any
) -> BertForSequenceClassification:
    """Seeded, so that every call builds the same weights."""
    set_seed(seed)
    settings = SIZE | dict.fromkeys(DROPOUT, dropout) | config
    return BertForSequenceClassification(BertConfig(**settings, num_labels=num_labels))


def tiny_split_or_joined(kind: str, seed: int = 42, **config: Any) -> PreTrainedModel:
    """Make a model whose weights transformers splits or joins as it saves them: a mixture of experts, or an encoder
    with its queries, keys and values in one."""
    more: dict[str, Any] = {"num_key_value_heads": 1} if kind in ("mixtral", "qwen3_moe", "jamba") else {}
    experts = {"mixtral": "num_local_experts", "qwen3_moe": "num_experts", "jamba": "num_experts"}
    more |= {experts[kind]: 4, "num_experts_per_tok": 2} if kind in experts else {}
    more |= {"use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4} if kind == "jamba" else {}
    more |= {"moe_intermediate_size": 16, "head_dim": 16} if kind == "qwen3_moe" else {}
    set_seed(seed)
    made: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(kind, **SIZE | more | config, num_labels=2)
    )
    return made


def long_head() -> BertForSequenceClassification:
    """Its gradients are large enough for clipping to act on all updates."""
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.weight.mul_(40)
    return model


def tiny_lora(model: Callable[[], nn.Module] = tiny_bert, **settings: Any) -> Any:
    """A LoRA adapter around a tiny model, the tiny BERT by default; PEFT is an optional dependency."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install ftloop[peft]")
    settings = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1} | settings
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return peft.get_peft_model(model(), peft.LoraConfig(**settings))


def write_tiny_folder(root: Path, old_names: bool = False) -> Path:
    """Write a tiny `model/` with its tokenizer, and `train`, `validation` and `test.jsonl` of pairs. With `old_names`,
    the model in the form of bert-base-uncased."""
    tiny_tokenizer().save_pretrained(root / "model")
    with_old_names(root / "model", tiny_bert()) if old_names else tiny_bert().save_pretrained(root / "model")
    for split, count in (("train", 29), ("validation", 13), ("test", 11)):
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, tiny_pairs(count))) + "\n")
    return root


SPECIAL: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 3}


def _distilbert() -> DistilBertConfig:
    return DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
        dropout=0.1,
        attention_dropout=0.1,
        seq_classif_dropout=0.1,
    )


def _modernbert() -> ModernBertConfig:
    dropouts = ("embedding_dropout", "mlp_dropout", "attention_dropout", "classifier_dropout")
    return ModernBertConfig(
        **SIZE | SPECIAL | dict.fromkeys(dropouts, 0.1), cls_token_id=2, sep_token_id=3, local_attention=8
    )


ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(**SIZE | DROPOUT),
    "distilbert": _distilbert,
    "roberta": lambda: RobertaConfig(**SIZE | DROPOUT | SPECIAL, type_vocab_size=1),
    "albert": lambda: AlbertConfig(**SIZE | DROPOUT | SPECIAL, embedding_size=16, classifier_dropout_prob=0.1),
    "electra": lambda: ElectraConfig(**SIZE | DROPOUT, embedding_size=16),
    "deberta-v2": lambda: DebertaV2Config(
        **SIZE | DROPOUT, type_vocab_size=2, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"]
    ),
    "modernbert": _modernbert,
    "mpnet": lambda: MPNetConfig(**SIZE | DROPOUT | SPECIAL),
}

OLD_NAMES = "bert-old-names"
"""Loaded from the form that bert-base-uncased has, under whose names transformers then saves it."""

# DistilBERT and MPNet have no token types, ModernBERT neither; RoBERTa has one.
TWO_TOKEN_TYPES = frozenset({"bert", OLD_NAMES, "albert", "electra", "deberta-v2"})


def build(architecture: str, num_labels: int = 2, seed: int = 42) -> nn.Module:
    """Seeded, so that every call builds the same weights."""
    if architecture == OLD_NAMES:
        return _build_from_old_names(num_labels, seed)
    config = ARCHITECTURES[architecture]()
    config.num_labels = num_labels
    set_seed(seed)
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    return model


def _build_from_old_names(num_labels: int, seed: int) -> nn.Module:
    with TemporaryDirectory() as folder:
        with_old_names(Path(folder), tiny_bert(seed=seed))
        set_seed(seed)  # the new head is drawn
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=num_labels)
        return model.train()


def with_old_names(folder: Path, model: PreTrainedModel) -> Path:
    """Save a model in the form bert-base-uncased has: old LayerNorm names, and the heads of a pretraining."""
    model.config.save_pretrained(folder)  # a model's own `save_pretrained` writes in the first process alone
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = {}
    for name, weight in model.state_dict().items():
        for new_name, old_name in old.items():
            name = name.replace(new_name, old_name)
        if not name.startswith("classifier."):
            weights[name] = weight
    size = model.config.hidden_size
    weights |= {"cls.seq_relationship.weight": torch.zeros(2, size), "cls.seq_relationship.bias": torch.zeros(2)}
    weights |= {"cls.predictions.transform.LayerNorm.gamma": torch.ones(size)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
