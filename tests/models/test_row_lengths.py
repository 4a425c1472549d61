"""Told the lengths of a batch's rows, a model computes the same bits and asks its device for none of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from harness.models import ARCHITECTURES, build, tiny_bert, tiny_lora
from harness.rows import pad, tiny_rows, tiny_tokenizer
from harness.waits import WaitsCounted
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BatchEncoding, BertConfig, BertForSequenceClassification, DataCollatorWithPadding

from ftloop.job.from_python import _lengths
from ftloop.models.row_lengths import Told, ask_no_mask, known, telling
from ftloop.models.unpadding import ENCODERS, Packing, unpad
from ftloop.run.micro_batches import rows_between
from ftloop.run.trainer_compat import EveryRowOnce

ROWS = {
    "uneven": tiny_rows(5, seed=1),
    "equal": tiny_rows(1, seed=2).select([0, 0, 0]),
    "one of one token": tiny_rows(3, seed=1).map(
        lambda row, at: {name: x[:1] if at == 1 and name != "label" else x for name, x in row.items()},
        with_indices=True,
    ),
}


def told(rows: Any, collate: Any = pad) -> Any:
    """A batch as it arrives on its device, here the CPU."""
    return telling(collate)(list(rows)).to("cpu")


def results(model: Any, inputs: Any) -> tuple[Tensor, dict[str, Tensor], int]:
    """The logits, the gradients, and the waits of a forward pass."""
    waits = WaitsCounted(model)
    model.zero_grad()
    torch.manual_seed(3)  # for dropout
    with waits:
        output = model(**inputs)
    output.loss.backward()
    return output.logits, {name: p.grad.clone() for name, p in model.named_parameters()}, waits.taken()[1]


def mask_among(args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    return next((x for x in (*args, *given.values()) if isinstance(x, Tensor) and x.dtype == torch.bool), None)


def inputs_of(architecture: str, rows: Any) -> Any:
    inputs = told(rows)
    if architecture not in ("bert", "albert", "electra"):
        inputs.pop("token_type_ids")
    return inputs


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("architecture", [name for name in ENCODERS if name in ARCHITECTURES])
def test_a_ready_mask_or_none_gives_the_same_bits_and_no_wait(architecture: str, rows: Any) -> None:
    asking, being_told = build(architecture).train(), build(architecture).train()
    ask_no_mask(being_told)
    masks: list[Any] = []
    for model in (asking, being_told):
        encoder = getattr(model.base_model, ENCODERS[architecture])
        encoder.register_forward_pre_hook(
            lambda _, args, given: masks.append(mask_among(args, given)), with_kwargs=True
        )
    inputs = inputs_of(architecture, rows)
    wanted, wanted_gradients, waits = results(asking, inputs)
    assert waits == 1, "whether all of the mask is set"
    got, got_gradients, waits = results(being_told, inputs)
    assert waits == 0
    assert [mask is None for mask in masks] == [all(inputs["attention_mask"].flatten())] * 2
    if masks[0] is not None:
        assert torch.equal(*masks)
        assert masks[0].stride() == masks[1].stride()
    assert torch.equal(got, wanted)
    assert wanted_gradients.keys() == got_gradients.keys()
    assert all(torch.equal(got_gradients[name], wanted_gradients[name]) for name in wanted_gradients)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name in (*ENCODERS, "modernbert", "mpnet")])
def test_a_packed_batch_is_the_same_bits_when_its_lengths_are_told(
    architecture: str, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(architecture).train()
    unpad(model)
    inputs = inputs_of(architecture, rows)
    untold = {name: x.clone() for name, x in inputs.items()}
    wanted = results(model, untold)
    monkeypatch.setattr(torch, "stack", None)  # by which the lengths are read
    got = results(model, inputs)
    assert torch.equal(got[0], wanted[0])
    assert all(torch.equal(got[1][name], wanted[1][name]) for name in wanted[1])


def test_the_first_tokens_are_found_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = Packing.of(told(ROWS["uneven"])["attention_mask"])
    x = torch.randn(1, sum(packing.lengths), 3)
    starts = [sum(packing.lengths[:row]) for row in range(len(packing.lengths))]
    monkeypatch.setattr(torch, "tensor", None)  # it would be copied there, for which the host waits
    assert torch.equal(packing.first(x), x[:, starts])


def test_a_part_of_a_batch_knows_no_lengths_and_all_of_it_does() -> None:
    inputs = told(ROWS["uneven"])
    lengths = known(inputs["attention_mask"])
    assert lengths == tuple(len(row["input_ids"]) for row in ROWS["uneven"])
    assert known(EveryRowOnce().own_rows(inputs, 5, processes=2)["attention_mask"]) == lengths
    assert known(EveryRowOnce().own_rows(inputs, 4, processes=2)["attention_mask"]) is None
    model = tiny_bert()
    ask_no_mask(model)
    part = rows_between(inputs, 0, 3)
    assert torch.equal(results(model, part)[0], results(tiny_bert(), part)[0])


def test_an_adapters_model_is_told_too() -> None:
    model = tiny_lora(tiny_bert).eval()
    ask_no_mask(model.get_base_model())
    inputs = told(ROWS["uneven"])
    with WaitsCounted() as waits:
        model(**inputs)
    assert waits.taken() == (0, 0)


def test_a_decoder_makes_its_own_mask() -> None:
    config = BertConfig(
        vocab_size=120, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, is_decoder=True
    )
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(BertForSequenceClassification(config).eval())
    ask_no_mask(models[1])
    inputs = told(ROWS["uneven"])
    assert torch.equal(models[0](**inputs).logits, models[1](**inputs).logits)


def test_a_model_without_a_body_of_transformers_is_left_alone() -> None:
    model = torch.nn.Linear(2, 2)
    ask_no_mask(model)
    assert not model._forward_pre_hooks


def test_what_cannot_be_told_goes_as_it_is() -> None:
    rows = [{"input_ids": [5, 6]}, {"input_ids": [7, 8]}]
    assert isinstance(telling(pad)(rows), dict), "no mask"
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    assert isinstance(telling(DataCollatorWithPadding(tokenizer))(list(ROWS["uneven"])), BatchEncoding), "on the left"
    assert telling(tuple)([1, 2]) == (1, 2)


def test_a_batch_keeps_its_kind_and_is_pinned_with_all_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(ROWS["uneven"].remove_columns("label"))
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    for collate, kind in ((pad, dict), (DataCollatorWithPadding(tiny_tokenizer()), BatchEncoding)):
        batch = torch.utils.data._utils.pin_memory.pin_memory(telling(collate)(rows))
        assert isinstance(batch, Told)
        moved = batch.to("cpu", non_blocking=True)
        assert type(moved) is kind
        assert {id(x) for x in moved.values()} == {id(x) for x in pinned}
        assert known(moved["attention_mask"]) is not None
        pinned.clear()


def test_lengths_of_rows_that_the_collator_makes_are_read_from_its_batches() -> None:
    rows = Dataset.from_dict({"words": [[5, 6, 7], [8]]})
    collate = telling(lambda rows: pad([{"input_ids": row["words"], "attention_mask": row["words"]} for row in rows]))
    assert _lengths(rows, collate).tolist() == [3, 1]


def test_a_worker_sends_the_lengths_with_the_batch() -> None:
    (batch,) = DataLoader(ROWS["uneven"], batch_size=5, num_workers=1, collate_fn=telling(pad))
    assert batch.row_lengths == tuple(len(row["input_ids"]) for row in ROWS["uneven"])
