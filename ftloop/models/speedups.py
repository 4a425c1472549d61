"""Opt-in speed-ups that change the random stream or rounding, but not the training objective."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.bert.modeling_bert import BertCrossAttention

from ftloop.errors import UserError
from ftloop.models.fast_dropout import FastDropout, attend
from ftloop.models.unpadding import Packing

# Families whose attention is BERT's, and whose head reads the first token alone.
LIKE_BERT = ("bert", "camembert", "roberta", "xlm-roberta")
ATTENTION = "eager_fast_dropout"
"""The name under which transformers finds `_attention`."""


def speed_up(model: Any, fast_dropout: bool, first_token_only: bool) -> None:
    """Change a model in place; the names of its weights stay as they are. Raises: UserError for an unknown family."""
    if fast_dropout:
        _replace_dropout(model)
    if first_token_only:
        _read_first_token_only(model)


def _replace_dropout(model: Any) -> None:
    """Replace every `nn.Dropout` of the model, and the attention where that is BERT's; elsewhere it stays torch's."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout and not child.inplace:
                setattr(module, name, FastDropout(child.p).train(child.training))
    if getattr(getattr(model, "config", None), "model_type", None) in LIKE_BERT:
        AttentionInterface.register(ATTENTION, _attention)
        AttentionMaskInterface.register(ATTENTION, eager_mask)
        model.set_attn_implementation(ATTENTION)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    dropout = dropout if module.training else 0.0
    attended, weights = attend(query, key, value, attention_mask, scaling, dropout)
    return attended.transpose(1, 2).contiguous(), weights


def check_first_token_only(model: Any) -> None:
    """Raises: UserError for a model whose last layer and head are not known to be BERT's."""
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in LIKE_BERT or not type(model).__name__.endswith("ForSequenceClassification"):
        known = ", ".join(LIKE_BERT)
        raise UserError(f"first_token_only: known for {known}, not for {family or type(model).__name__}; leave it out")


def _read_first_token_only(model: Any) -> None:
    """Have the last layer compute the first token alone, from all tokens of the layer below."""
    check_first_token_only(model)
    layer: Any = model.base_model.encoder.layer[-1]

    class FirstTokenLayer(type(layer)):  # type: ignore[misc]
        def forward(self, hidden: Tensor, attention_mask: Any = None, *_: Any, **kwargs: Any) -> Tensor:
            """Attend from the first token to all: BERT's cross-attention, whose weights have the same names."""
            mask = attention_mask
            if isinstance(mask, Packing):
                first = mask.first(hidden)
            else:
                first, mask = hidden[:, :1], None if mask is None else mask[:, :, :1]
            attended, _weights = BertCrossAttention.forward(self.attention.self, first, hidden, mask)
            result: Tensor = self.feed_forward_chunk(self.attention.output(attended, first))
            return result

    # Another class for this one layer keeps its weights and their names. A function in the place of its `forward` would
    # not do: gradient checkpointing wraps the forward of the class.
    layer.__class__ = FirstTokenLayer
