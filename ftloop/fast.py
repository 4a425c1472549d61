"""What makes a step faster without changing what is learned: the same training, up to rounding and to which random
numbers are drawn. So each is asked for by name.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ftloop.errors import UserError

# Families whose attention is BERT's, and whose head reads the first token alone.
LIKE_BERT = ("bert", "camembert", "roberta", "xlm-roberta")
ATTENTION = "eager_fast_dropout"
"""The name under which transformers finds `_attention`."""

_AS_WIDE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def speed_up(model: Any, fast_dropout: bool, first_token_only: bool) -> None:
    """Change a model in place; the names of its weights stay as they are. Raises: UserError if it is not known how."""
    if fast_dropout:
        _replace_dropout(model)
    if first_token_only:
        _read_first_token_only(model)


def drop(x: Tensor, p: float, training: bool = True) -> Tensor:
    """As `F.dropout`, of the same distribution, but three to six times faster on a CPU: the mask is cut from a few
    random words instead of drawn number by number. Another random stream, from torch's own generator.

    `p` is rounded to a multiple of 2^-16 for numbers of 16 bits, 2^-32 for 32 bits.
    """
    if not training or p == 0 or x.device.type != "cpu" or not x.is_floating_point():
        return F.dropout(x, p, training)
    bits = 8 * x.element_size()
    if bits not in (16, 32, 64) or round(p * 2**bits) >= 2**bits:
        return F.dropout(x, p, training)
    result: Tensor = _Dropout.apply(x, p)
    return result


class _Dropout(torch.autograd.Function):
    """Keeps for the backward pass only the mask, as many bytes as the numbers have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = _mask(x, p)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - p)
        return _masked(x, mask, ctx.scale)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _masked(gradient, mask, ctx.scale), None


def _mask(x: Tensor, p: float) -> Tensor:
    """Integers as wide as the numbers of `x`: all bits set where one is kept, with probability 1 - p, else none.

    One draw gives 64 random bits, seen as four signed numbers of 16 bits or two of 32: each is uniform over its range.
    """
    width = 8 * x.element_size()
    words = torch.empty(-(-x.numel() * width // 64), dtype=torch.int64).random_(-(2**63), None)
    lanes = words.view(_AS_WIDE[x.element_size()])[: x.numel()].view(x.shape)
    return lanes.ge_(round(p * 2**width) - 2 ** (width - 1)).neg_()


def _masked(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    return (x * scale).view(mask.dtype).bitwise_and_(mask).view(x.dtype)  # vectorized, as no product with a bool is


class FastDropout(nn.Dropout):
    """`nn.Dropout`, its mask drawn by `drop`."""

    def forward(self, input: Tensor) -> Tensor:
        return drop(input, self.p, self.training)


def _replace_dropout(model: Any) -> None:
    """In every `nn.Dropout` of the model, and in the attention where that is BERT's; elsewhere it stays torch's own."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout and not child.inplace:
                setattr(module, name, FastDropout(child.p).train(child.training))
    if getattr(getattr(model, "config", None), "model_type", None) in LIKE_BERT:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import eager_mask

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
    """Attention as `eager` computes it, with our dropout. The heads are made contiguous and the mask is added in
    float32, because products of strided heads and sums of two types are slow on a CPU.
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    scores = torch.matmul(query, key.transpose(2, 3)).float() * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = drop(F.softmax(scores, dim=-1).to(value.dtype), dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def _read_first_token_only(model: Any) -> None:
    """Have the last layer compute the first token alone, from all tokens of the layer below."""
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in LIKE_BERT or not type(model).__name__.endswith("ForSequenceClassification"):
        known = ", ".join(LIKE_BERT)
        raise UserError(f"first_token_only: known for {known}, not for {family or type(model).__name__}; leave it out")
    layer = model.base_model.encoder.layer[-1]
    # A class of its own, and no function put over `forward`: gradient checkpointing wraps the forward of the class.
    layer.__class__ = type(type(layer).__name__, (type(layer),), {"forward": _first_token})


def _first_token(layer: Any, hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **kwargs: Any) -> Tensor:
    """One layer of BERT, its queries those of the first token. That is the family's cross-attention, whose weights have
    the same names: from the first token to all.
    """
    own = layer.attention.self
    name = type(own).__name__.replace("SelfAttention", "CrossAttention")
    cross_attention = getattr(sys.modules[type(own).__module__], name)
    first = hidden[:, :1]
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    attended, _weights = cross_attention.forward(own, first, hidden, mask)
    result: Tensor = layer.feed_forward_chunk(layer.attention.output(attended, first))
    return result
