"""`padding=none`: the encoder computes the tokens of a batch and none of its padding.

The batch arrives padded. Its tokens are packed one behind the other before the first layer, and padded again behind the
last one. In between every token is computed by itself, except in the attention, where a row is compared with itself
alone. So rows meet as they always did, and no code of a model is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from ftloop.errors import UserError
from ftloop.models.fast_dropout import attend
from ftloop.models.row_groups import RowGroups
from ftloop.models.row_lengths import keep, known

ENCODERS = {
    "albert": "encoder",
    "bert": "encoder",
    "camembert": "encoder",
    "distilbert": "transformer",
    "electra": "encoder",
    "roberta": "encoder",
    "xlm-roberta": "encoder",
}
"""Where an architecture has its layers, if it finds their attention in transformers' AttentionInterface."""
WHOLE = ("modernbert",)
"""Architectures that are packed before the embeddings: their layers take the position of each token beside it."""
OWN_ATTENTION = {"deberta-v2": "self", "mpnet": "attn"}
"""Architectures with an attention of their own, by the distance of tokens, and its name in a layer. It is given padded
rows; all else of the layer is packed."""
ARCHITECTURES = sorted([*ENCODERS, *WHOLE, *OWN_ATTENTION])

ON_THE_RIGHT = (
    "padding: none is for rows that are padded on the right, as the head reads their first token; set the tokenizer's "
    "padding_side to right, or use --padding longest"
)
NOT_TRACED = (
    "padding: none packs each batch by its own rows, which no trace or export can hold; export the plain model: "
    "AutoModelForSequenceClassification.from_pretrained(output_dir)"
)
ATTENTION = {False: "unpadded", True: "unpadded_fast_dropout"}
"""Names under which transformers finds `_attention`, by whether it drops out with `fast_dropout`."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the tokens of a padded batch are. It goes through the layers in the place of the attention mask."""

    lengths: tuple[int, ...]
    """Tokens of each row."""
    places: Tensor
    """The cell of each token, all cells of the batch counted row by row."""
    padded_to: int
    """Cells of each row."""
    window: int | None = None
    """How far apart two tokens may be to be compared; None: as far as they are."""

    @staticmethod
    def of(attention_mask: Tensor) -> Packing:
        """Read a mask of rows x cells. Raises: UserError where a row does not begin with a token, and in a trace."""
        # It would hold the lengths of this batch for all others.
        if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
            raise UserError(NOT_TRACED)
        mask = attention_mask.bool()
        lengths = known(attention_mask)
        if lengths is None:
            lengths, begins = torch.stack([mask.sum(dim=1), mask[:, 0]]).tolist()  # on a GPU, the one wait
            if not all(begins):
                raise UserError(ON_THE_RIGHT)
        places = torch.nonzero_static(mask.flatten(), size=sum(lengths)).flatten()
        return Packing(tuple(lengths), places, mask.shape[1])

    def pack(self, x: Tensor) -> Tensor:
        """From rows x cells x ... to 1 x tokens x ..."""
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def pad(self, x: Tensor) -> Tensor:
        """From 1 x tokens x ... to rows x cells x ..., with zeros as padding; from 1 x rows x ... to rows x 1 x ..."""
        if x.shape[1] != len(self.places):
            return x.transpose(0, 1)
        shape = len(self.lengths), self.padded_to
        return x.new_zeros(shape[0] * shape[1], *x.shape[2:]).index_copy(0, self.places, x[0]).unflatten(0, shape)

    def first(self, x: Tensor) -> Tensor:
        """From 1 x tokens x ... to 1 x rows x ...: the first token of each row."""
        cells = torch.arange(len(self.lengths), device=x.device) * self.padded_to
        return x.index_select(1, torch.searchsorted(self.places, cells))

    def mask(self, queries: int) -> Tensor:
        """Rows x 1 x queries x cells: whether a query, a cell each or the first alone, is compared with a cell."""
        cells = len(self.lengths) * self.padded_to
        tokens = torch.zeros(cells, dtype=torch.bool, device=self.places.device).index_fill(0, self.places, True)
        mask = self.compared(tokens.view(-1, 1, 1, self.padded_to), self.padded_to, queries)
        assert mask is not None
        return mask.expand(-1, 1, queries, -1)

    def compared(self, is_token: Tensor | None, cells: int, queries: int) -> Tensor | None:
        """Whether a query is compared with a cell: with a token within the window, or with itself, as what is compared
        with nothing has no number. None where all are.
        """
        if self.window is None or cells <= self.window:
            return is_token
        positions = torch.arange(cells, device=self.places.device)
        distance = (positions[:queries, None] - positions).abs()
        near = distance <= self.window
        return near if is_token is None else (is_token & near) | (distance == 0)


def check_unpadding(model_config: Any, tokenizer: Any = None) -> None:
    """Raises: UserError for an architecture that `padding=none` does not know, from its configuration alone; and for a
    tokenizer that pads on the left.
    """
    family = getattr(model_config, "model_type", None) or type(model_config).__name__
    why = None
    if family not in ARCHITECTURES:
        why = f"known for {', '.join(ARCHITECTURES)}, not for {family}"
    elif getattr(model_config, "is_decoder", False):
        why = "not for a decoder, whose tokens are compared with those before them"
    elif getattr(model_config, "conv_kernel_size", 0):
        why = f"not for a {family} with a convolution over neighbouring tokens"
    elif getattr(tokenizer, "padding_side", "right") != "right":
        raise UserError(ON_THE_RIGHT)
    if why:
        raise UserError(f"padding: none is {why}; --batching length_grouped leaves little padding with any model")


def can_unpad(model: Any, tokenizer: Any) -> bool:
    """Whether `padding=none` is for them."""
    try:
        check_unpadding(getattr(model, "config", None), tokenizer)
    except UserError:
        return False
    return True


def unpad(model: Any, fast_dropout: bool = False) -> None:
    """Have a model compute no padding, by hooks that its `forward` runs through."""
    family, body = model.config.model_type, model.base_model
    if family in OWN_ATTENTION:
        _unpad_layers(body, OWN_ATTENTION[family])
        return
    name = ATTENTION[fast_dropout]
    AttentionInterface.register(name, partial(_attention, fast_dropout=fast_dropout))
    AttentionMaskInterface.register(name, _packing)
    model.set_attn_implementation(name)
    part = body if family in WHOLE else getattr(body, ENCODERS[family])
    if family in ENCODERS:
        body.register_forward_pre_hook(_keep_lengths, with_kwargs=True)
    part.register_forward_pre_hook(_pack_inputs if family in WHOLE else _pack_hidden, with_kwargs=True)
    part.register_forward_hook(_pad_hidden, with_kwargs=True)


def _keep_lengths(body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Transformers would make another mask of it, of this type, which knows none."""
    mask: Any = kwargs.get("attention_mask")
    lengths = known(mask)
    return None if lengths is None else (args, kwargs | {"attention_mask": keep(mask.bool(), lengths)})


def _packing(*, attention_mask: Tensor | None = None, **_: Any) -> Packing | None:
    """What transformers asks for in the place of a mask of rows x 1 x cells x cells."""
    return None if attention_mask is None else Packing.of(attention_mask)


def _pack_hidden(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    packing = _given(args, kwargs)
    if packing is None:
        return None
    if args:
        return (packing.pack(args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": packing.pack(kwargs["hidden_states"])}


def _pack_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask, tokens = kwargs.get("attention_mask"), kwargs.get("input_ids")
    if not isinstance(mask, Tensor) or tokens is None:
        return None
    packing = Packing.of(mask)
    positions = torch.arange(packing.padded_to, device=tokens.device).expand_as(tokens)
    config: Any = model.config
    packings = {"full_attention": packing, "sliding_attention": replace(packing, window=config.sliding_window)}
    packed = {"input_ids": packing.pack(tokens), "position_ids": packing.pack(positions), "attention_mask": packings}
    return args, kwargs | packed


def _pad_hidden(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    packing = _given(args, kwargs)
    if packing is not None:
        output.last_hidden_state = packing.pad(output.last_hidden_state)
    return output


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packing | None:
    masks = kwargs.get("attention_mask")
    candidates = masks.values() if isinstance(masks, dict) else (*args, masks)
    return next((value for value in candidates if isinstance(value, Packing)), None)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    fast_dropout: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compare each row with itself, in the way that is fastest on a CPU for numbers of this size."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not isinstance(packing, Packing):  # no mask was given, or one that says which token sees which
        attended = F.scaled_dot_product_attention(query, key, value, packing, dropout_p=dropout, scale=scaling)
    elif query.device.type == "cpu":
        attend_rows = attend_in_groups if query.dtype.itemsize == 2 else attend_by_row
        attended = attend_rows(packing, query, key, value, scaling, dropout, fast_dropout)
    else:
        attended = attend_padded(packing, query, key, value, scaling, dropout)
    return attended.transpose(1, 2).contiguous(), None


def attend_by_row(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float, fast_dropout: bool
) -> Tensor:
    """All of 1 x heads x tokens x width, the queries perhaps of the first tokens alone."""
    lengths = packing.lengths
    per_row = lengths if query.shape[2] == len(packing.places) else (1,) * len(lengths)
    rows = []
    for q, k, v in zip(query.split(per_row, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True):
        near = packing.compared(None, k.shape[2], q.shape[2])
        if fast_dropout and dropout and near is None:
            rows.append(attend(q, k, v, None, scaling, dropout)[0])
        else:
            rows.append(F.scaled_dot_product_attention(q, k, v, near, dropout_p=dropout, scale=scaling))
    return torch.cat(rows, dim=2)


def attend_in_groups(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float, fast_dropout: bool
) -> Tensor:
    """The same, of rows of similar lengths at once."""
    groups = RowGroups.of(packing.lengths)
    of_queries = groups.tokens if query.shape[2] == len(packing.places) else groups.first_tokens
    spread = (
        places.spread(x[0].transpose(0, 1))
        for x, places in ((query, of_queries), (key, groups.tokens), (value, groups.tokens))
    )
    attended = []
    for rows, is_token, *parts in zip(groups.rows, groups.masks, *spread, strict=True):
        q, k, v = (x.unflatten(0, (rows, -1)).transpose(1, 2) for x in parts)  # rows x heads x cells x width
        mask = packing.compared(is_token, k.shape[2], q.shape[2])
        if fast_dropout and dropout:
            added = None if mask is None else torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo().min)
            out, _ = attend(q, k, v, added, scaling, dropout)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=scaling)
        attended.append(out.transpose(1, 2).flatten(0, 1))
    return of_queries.gather(attended).transpose(0, 1)[None]


def attend_padded(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float
) -> Tensor:
    """The same, of all rows at once, which a GPU does."""
    is_first_alone = query.shape[2] != len(packing.places)
    query, key, value = (packing.pad(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value))
    mask = packing.mask(query.shape[2])
    padded = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling).transpose(1, 2)
    return (padded.transpose(0, 1) if is_first_alone else packing.pack(padded)).transpose(1, 2)


def _unpad_layers(body: Any, attention: str) -> None:
    """Pack before the first layer and pad behind the last; around the attention in between, the other way."""
    packing: Packing | None = None

    def read(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal packing
        mask = kwargs.get("attention_mask")
        packing = None if mask is None else Packing.of(mask)

    def pack(_: nn.Module, args: tuple[Any, ...]) -> Any:
        return args if packing is None else (packing.pack(args[0]), *args[1:])

    def pad(_: nn.Module, args: tuple[Any, ...]) -> Any:
        return args if packing is None else (packing.pad(args[0]), *args[1:])

    layers = body.encoder.layer
    body.register_forward_pre_hook(read, with_kwargs=True)
    layers[0].register_forward_pre_hook(pack)
    for layer in layers:
        module = getattr(layer.attention, attention)
        module.register_forward_pre_hook(pad)
        module.register_forward_hook(lambda module, _, output: pack(module, output))
    layers[-1].register_forward_hook(lambda module, _, output: pad(module, output))
