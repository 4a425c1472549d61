"""`padding=none` computes what the padded run computes: logits, loss and, without dropout, every gradient."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.command import arguments
from harness.faults import SmallMemory
from harness.models import ARCHITECTURES, TWO_TOKEN_TYPES, build, tiny_bert, tiny_lora
from harness.rows import VOCABULARY, pad, tiny_rows, tiny_tokenizer
from harness.side_by_side import QUIET, Job, run_ftloop
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    GPT2Config,
    GPT2ForSequenceClassification,
    XLMRobertaConfig,
)

import ftloop
from ftloop import TrainConfig, UserError, evaluate, predict, prepare, updates
from ftloop.models import unpadding
from ftloop.models.speedups import speed_up
from ftloop.models.unpadding import (
    Packing,
    attend_by_row,
    attend_in_groups,
    attend_padded,
    can_unpad,
    check_unpadding,
    unpad,
)
from ftloop.train import main

vars(ftloop).pop("train", None)  # so that `from ftloop import train` is the function again, for other tests

TOLERANCE = 1e-6
"""Of the largest number, in fp32: products of other shapes add up in another order."""
ROBERTAS = {"xlm-roberta": XLMRobertaConfig, "camembert": CamembertConfig}
"""Architectures whose code is RoBERTa's."""
ALL = [*ARCHITECTURES, *ROBERTAS]
LENGTHS = {"uneven": (9, 1, 30, 17, 2), "one token": (1, 1, 1), "equal": (12, 12), "one row": (7,)}


def batch(lengths: tuple[int, ...], architecture: str = "bert", seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = max(lengths)
    mask = (torch.arange(cells) < torch.tensor(lengths)[:, None]).long()
    tokens = torch.randint(5, VOCABULARY, (len(lengths), cells), generator=generator)
    labels = torch.arange(len(lengths)) % 2
    inputs = {"input_ids": tokens * mask, "attention_mask": mask, "labels": labels}
    if architecture in TWO_TOKEN_TYPES:
        inputs["token_type_ids"] = (torch.arange(cells) >= cells // 2).long() * mask
    return inputs


def without_dropout(architecture: str) -> nn.Module:
    if architecture in ROBERTAS:
        torch.manual_seed(42)
        config = ROBERTAS[architecture](**ARCHITECTURES["roberta"]().to_diff_dict() | {"model_type": architecture})
        model = AutoModelForSequenceClassification.from_config(config).train()
    else:
        model = build(architecture).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).detach())


def gradients(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    output = model(**inputs)
    output.loss.backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("architecture", ALL)
def test_logits_loss_and_every_gradient_are_those_of_the_padded_run(
    architecture: str, lengths: tuple[int, ...]
) -> None:
    padded, packed = without_dropout(architecture), without_dropout(architecture)
    unpad(packed)
    inputs = batch(lengths, architecture)
    wanted, wanted_gradients = gradients(padded, inputs)
    got, got_gradients = gradients(packed, inputs)
    assert relative(got.logits, wanted.logits) < TOLERANCE
    assert relative(got.loss, wanted.loss) < TOLERANCE
    assert got_gradients.keys() == wanted_gradients.keys()
    for name, wanted_gradient in wanted_gradients.items():
        assert relative(got_gradients[name], wanted_gradient) < TOLERANCE, name


def test_every_architecture_it_is_for_is_tried() -> None:
    """DeBERTa-v3 is deberta-v2 by its model_type."""
    assert set(unpadding.ARCHITECTURES) <= set(ALL)


@pytest.mark.parametrize("architecture", ALL)
def test_no_padding_reaches_what_is_computed_token_by_token(architecture: str) -> None:
    """Half of the cells are padding: every product after the attention sees the tokens alone, forward and backward."""
    model = without_dropout(architecture)
    unpad(model)
    seen: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and any(part in name for part in ("intermediate", "ffn", "lin1", "mlp.Wi")):
            module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: tuple(args[0].shape[:2])}))
    model(**batch(LENGTHS["uneven"], architecture))
    assert seen
    assert set(seen.values()) == {(1, sum(LENGTHS["uneven"]))}


@pytest.mark.parametrize("first_token_only", [False, True])
def test_with_the_other_speed_ups_it_is_the_same_too(first_token_only: bool) -> None:
    padded, packed = without_dropout("bert"), without_dropout("bert")
    speed_up(packed, fast_dropout=True, first_token_only=first_token_only)
    unpad(packed, fast_dropout=True)
    for lengths in LENGTHS.values():
        wanted, wanted_gradients = gradients(padded, batch(lengths))
        got, got_gradients = gradients(packed, batch(lengths))
        assert relative(got.logits, wanted.logits) < TOLERANCE
        for name, wanted_gradient in wanted_gradients.items():
            assert relative(got_gradients[name], wanted_gradient) < TOLERANCE, name
        padded.zero_grad()
        packed.zero_grad()


@pytest.mark.parametrize("fast_dropout", [False, True])
def test_attention_drops_out_in_training_alone(fast_dropout: bool) -> None:
    model = tiny_bert(dropout=0.0)
    for layer in model.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    unpad(model, fast_dropout)
    inputs = batch(LENGTHS["uneven"])
    twice = [model.train()(**inputs).logits for _ in range(2)]
    assert not torch.equal(*twice)
    twice = [model.eval()(**inputs).logits for _ in range(2)]
    assert torch.equal(*twice)
    assert relative(twice[0], tiny_bert(dropout=0.0).eval()(**inputs).logits) < TOLERANCE


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("first_alone", [False, True])
def test_rows_attend_in_groups_and_padded_to_one_length_as_they_do_one_by_one(
    first_alone: bool, window: int | None
) -> None:
    """The ways that are taken in bf16 on a CPU and on a GPU give what the way in fp32 on a CPU gives."""
    packing = replace(Packing.of(batch(LENGTHS["uneven"])["attention_mask"]), window=window)
    query, key, value = (torch.randn(1, 2, sum(LENGTHS["uneven"]), 8, dtype=torch.float64) for _ in range(3))
    if first_alone:
        query = packing.first(query.transpose(1, 2)).transpose(1, 2)
    for each in (query, key, value):
        each.requires_grad_()
    by_row = attend_by_row(packing, query, key, value, 0.3, 0.0, False)
    assert by_row.shape == query.shape
    weight = torch.randn_like(by_row)
    wanted = [by_row, *torch.autograd.grad((by_row * weight).sum(), [query, key, value])]
    for ours in (
        attend_in_groups(packing, query, key, value, 0.3, 0.0, False),
        attend_padded(packing, query, key, value, 0.3, 0.0),
    ):
        found = [ours, *torch.autograd.grad((ours * weight).sum(), [query, key, value])]
        for got, want in zip(found, wanted, strict=True):
            assert torch.allclose(got, want, rtol=1e-11, atol=1e-13)
    if window is not None:
        everything = attend_by_row(replace(packing, window=None), query, key, value, 0.3, 0.0, False)
        assert not torch.allclose(everything, by_row)


def test_a_query_of_padding_far_from_every_token_is_compared_with_itself() -> None:
    """Compared with nothing, it would have no number, and kernels differ in what they make of that."""
    packing = replace(Packing.of(batch((2, 12))["attention_mask"]), window=3)
    mask = packing.mask(12)
    assert mask.any(dim=-1).all()
    alone = mask[0, 0, 8].nonzero().flatten()
    assert alone.tolist() == [8]
    assert mask[0, 0, 1].nonzero().flatten().tolist() == [0, 1], "no padding where there is a token"


def test_what_is_packed_comes_back_where_it_was() -> None:
    packing = Packing.of(batch(LENGTHS["uneven"])["attention_mask"])
    x = torch.randn(5, 30, 3)
    packed = packing.pack(x)
    assert packed.shape == (1, 59, 3)
    assert torch.equal(packing.pad(packed), x * packing.mask(30)[:, 0, :1].transpose(1, 2))
    assert torch.equal(packing.first(packed)[0], x[:, 0])


@pytest.mark.parametrize("mask", [None, torch.ones(8, 8, dtype=torch.bool).tril().expand(2, 1, 8, 8)])
def test_without_a_mask_of_cells_every_cell_is_a_token(mask: Tensor | None) -> None:
    packed = without_dropout("bert").eval()
    unpad(packed)
    inputs: dict[str, Any] = batch((8, 8)) | {"attention_mask": mask}
    wanted = without_dropout("bert").eval()(**inputs).logits
    assert relative(packed(**inputs).logits, wanted) < TOLERANCE


def test_checkpointed_gradients_are_the_same() -> None:
    found = []
    for checkpointing in (False, True):
        model = tiny_bert(dropout=0.3).train()
        unpad(model, fast_dropout=True)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(1)
        found.append(gradients(model, batch(LENGTHS["uneven"]))[1])
    assert len(found[0]) > 30
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def calm() -> nn.Module:
    return tiny_bert(dropout=0.0)


ARGUMENTS: dict[str, Any] = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "save_strategy": "no"}


@pytest.mark.parametrize("batching", ["random", "length_grouped", "token_budget"])
def test_a_run_has_the_rows_and_to_rounding_the_losses_of_the_padded_one(batching: str, tmp_path: Path) -> None:
    """29 rows in windows of three batches of 4: the last window and the last batch of an epoch are short."""
    arguments = ARGUMENTS | {"batching": batching, "gradient_accumulation_steps": 3, "learning_rate": 1e-3}
    runs = [run_ftloop(Job(calm), tmp_path / p, **arguments, padding=p) for p in ("longest", "none")]
    padded, packed = ([update["losses"] for update in run.updates] for run in runs)
    assert [len(losses) for losses in packed] == [len(losses) for losses in padded]
    assert [x for losses in packed for x in losses] == pytest.approx([x for each in padded for x in each], rel=1e-5)
    assert [line["step"] for line in runs[0].history] == [line["step"] for line in runs[1].history]
    assert runs[0].weights != runs[1].weights, "another way to the same numbers"


@pytest.mark.parametrize("changed", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}], ids=str)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(changed: dict[str, Any], tmp_path: Path) -> None:
    arguments = ARGUMENTS | {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1, "padding": "none"} | changed
    arguments |= {"fast_dropout": True, "first_token_only": True} if "bf16" in changed else {}
    whole = run_ftloop(Job(), tmp_path / "whole", **arguments)
    for checkpoint in whole.checkpoints:
        resumed = run_ftloop(Job(), tmp_path / checkpoint, resume=str(tmp_path / "whole" / checkpoint), **arguments)
        assert resumed.losses == whole.losses[len(whole.losses) - len(resumed.losses) :]
        assert resumed.weights == whole.weights
    assert len(whole.checkpoints) > 1


def test_a_batch_that_does_not_fit_is_split_to_the_same_losses(tmp_path: Path) -> None:
    losses = []
    for memory in (None, SmallMemory(tokens=40)):
        model, rows = calm(), tiny_rows(29, seed=1)
        if memory is not None:
            memory.of(model)
        config = TrainConfig(output_dir=str(tmp_path), **QUIET | ARGUMENTS, padding="none", auto_micro_batch=True)
        run = prepare(config, model, rows, data_collator=pad)
        losses.append([update.loss.item() for update in updates(run)])
    assert memory is not None
    assert memory.failures
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluation_and_prediction_give_the_padded_ones_numbers(tmp_path: Path) -> None:
    rows, found = tiny_rows(13), []
    for padding in ("longest", "none"):
        config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, padding=padding)
        run = prepare(config, tiny_bert(), eval_dataset=rows, data_collator=pad)
        found.append((predict(run, rows).predictions, evaluate(run)["eval_loss"]))
    assert abs(found[0][0] - found[1][0]).max() < TOLERANCE
    assert found[0][1] == pytest.approx(found[1][1], rel=TOLERANCE)


def test_an_adapter_is_trained_without_padding(tmp_path: Path) -> None:
    losses: list[list[float]] = []
    shapes: dict[str, list[Any]] = {"longest": [], "none": []}
    for padding in ("longest", "none"):
        config = TrainConfig(output_dir=str(tmp_path), **QUIET | ARGUMENTS, padding=padding)
        model = tiny_lora(calm, lora_dropout=0.0)
        run = prepare(config, model, tiny_rows(29, seed=1), data_collator=pad)
        output: Any = model.base_model.model.bert.encoder.layer[0].output
        output.register_forward_hook(lambda *given, seen=shapes[padding]: seen.append(given[2].shape[:2]))
        losses.append([update.loss.item() for update in updates(run)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert {rows for rows, _ in shapes["longest"]} == {4, 1}
    assert {rows for rows, _ in shapes["none"]} == {1}


def test_it_is_saved_as_any_other(tmp_path: Path) -> None:
    packed = tiny_bert()
    unpad(packed)
    for model, name in ((tiny_bert(), "padded"), (packed, "packed")):
        model.save_pretrained(tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("padded", "packed")]
    assert files[0] == files[1]
    assert "model.safetensors" in files[0]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (GPT2Config(), "padding: none is known for albert, bert, .*, not for gpt2; --batching length_grouped"),
        (BertConfig(is_decoder=True), "not for a decoder"),
        (DebertaV2Config(conv_kernel_size=3), "not for a deberta-v2 with a convolution"),
        (None, "not for NoneType"),
    ],
)
def test_what_cannot_be_computed_without_padding_is_refused_by_name(config: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        check_unpadding(config)
    assert not can_unpad(type("Model", (), {"config": config}), None)


def test_rows_padded_on_the_left_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, padding="none")
    with pytest.raises(UserError, match="padding_side to right"):
        prepare(config, tiny_bert(), tiny_rows(5), processing_class=tokenizer)
    model = tiny_bert()
    unpad(model)
    inputs = {name: value.flip(1) for name, value in batch((3, 5)).items() if value.ndim == 2}
    with pytest.raises(UserError, match="padding_side to right"):
        model(**inputs)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"trainer_compat": True}, "padding: none is not with trainer_compat"),
        ({"torch_compile": True}, "padding and torch_compile"),
        ({"attn_implementation": "sdpa"}, "padding none brings its own attention"),
    ],
)
def test_what_does_not_go_with_it_is_told(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        TrainConfig(padding="none", **settings)


def test_an_architecture_it_is_not_for_is_refused_before_anything_is_read(stderr_of: Any, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=64, pad_token_id=0)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "model")
    words = ["--model_name_or_path", str(tmp_path / "model"), "--train_file", "nowhere.csv", "--padding", "none"]
    told = stderr_of(main, [*words, "--output_dir", str(tmp_path / "out")])
    assert told.startswith("error: padding: none is known for albert, bert")
    assert "nowhere.csv" not in told
    assert not (tmp_path / "out").exists()


def test_the_run_says_what_it_does_not_compute(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = arguments(tiny_folder, tmp_path / "out")
    for padding in ("none", "longest"):
        assert main([*words, "--padding", padding, "--max_steps", "1", "--output_dir", str(tmp_path / padding)]) == 0
        printed = capsys.readouterr().out
        share = re.search(r"([\d.]+%)", next(line for line in printed.splitlines() if line.startswith("Padding")))
        assert share is not None
        if padding == "none":
            assert f"Padding   random batches; their padding, {share[1]}, is not computed\n" in printed
        else:
            assert f"{share[1]} of the tokens are padding; --padding none computes none of it\n" in printed


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "modernbert"])
def test_no_trace_and_no_export_holds_the_lengths_of_one_batch_for_all(architecture: str) -> None:
    model, inputs = without_dropout(architecture), batch((5, 2, 7), architecture)
    unpad(model)
    given = inputs["input_ids"], inputs["attention_mask"]
    way = r"padding: none .*\.from_pretrained\(output_dir\)"
    with pytest.raises(UserError, match=way):
        torch.jit.trace(model, given, strict=False)
    with pytest.raises(UserError, match=way):
        torch.export.export(model, given)


@pytest.mark.parametrize("settings", [(True, False), (False, True)])
def test_the_other_speed_ups_are_traced_for_all_batches(settings: tuple[bool, bool]) -> None:
    model = without_dropout("bert").eval()
    speed_up(model, *settings)
    inputs, other = batch((5, 2, 7)), batch((3, 9))
    traced = torch.jit.trace(model, (inputs["input_ids"], inputs["attention_mask"]), strict=False)
    ours = traced(other["input_ids"], other["attention_mask"])["logits"]
    theirs = model(other["input_ids"], other["attention_mask"]).logits
    assert relative(ours, theirs) < 1e-6
