"""The architectures people fine-tune classifiers with, each small enough for tests, with dropout on, built offline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny import VOCABULARY
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
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

# DistilBERT and MPNet have no token types, ModernBERT neither; RoBERTa has one.
TWO_TOKEN_TYPES = frozenset({"bert", "albert", "electra", "deberta-v2"})


def build(architecture: str, num_labels: int = 2, seed: int = 42) -> nn.Module:
    """Seeded, so that every call builds the same weights."""
    config = ARCHITECTURES[architecture]()
    config.num_labels = num_labels
    set_seed(seed)
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    return model
