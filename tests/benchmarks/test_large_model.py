"""What benchmarks/speed/large_model.py says that memory should take is what torch keeps, and what a run takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness.command import benchmark
from transformers import BertConfig, BertForSequenceClassification, set_seed

from benchmarks.speed import large_model

SIZES = large_model.Sizes(layers=3, hidden=64, intermediate=192, heads=4, vocabulary=50, rows=2, length=24, updates=2)


def bytes_kept(sizes: large_model.Sizes, bf16: bool, checkpointing: bool) -> int:
    """Count what a forward pass keeps for the backward pass, but for the weights themselves."""
    set_seed(0)
    model = BertForSequenceClassification(BertConfig(**sizes.shape)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that its place is not given to another
        return tensor

    tokens = torch.randint(5, 50, (sizes.rows, sizes.length))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens[:, 0] % 2)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("bf16", [False, True])
def test_a_layer_keeps_for_the_backward_pass_what_is_said_on_paper(bf16: bool) -> None:
    for sizes in (SIZES, replace(SIZES, rows=5, length=7, heads=8, intermediate=96)):
        of_one_layer = bytes_kept(sizes, bf16, False) - bytes_kept(replace(sizes, layers=2), bf16, False)
        assert of_one_layer == large_model.layer_bytes(sizes, sizes.rows, bf16)


@pytest.mark.parametrize("bf16", [False, True])
def test_with_checkpointing_a_layer_keeps_its_input_alone(bf16: bool) -> None:
    of_one_layer = bytes_kept(SIZES, bf16, True) - bytes_kept(replace(SIZES, layers=2), bf16, True)
    assert of_one_layer == 4 * SIZES.rows * SIZES.length * SIZES.hidden


def test_the_head_keeps_little_beside_what_is_said_on_paper() -> None:
    kept, on_paper = bytes_kept(SIZES, False, False), large_model.activation_bytes(SIZES, SIZES.rows, False, False)
    assert 0 <= kept - on_paper < 20 * SIZES.rows * (SIZES.length + SIZES.hidden)  # ids, masks; the pooled first tokens


def test_on_paper_accumulation_holds_gradients_while_activations_are_held() -> None:
    few, many = replace(SIZES, rows=4), replace(SIZES, rows=4000)
    assert large_model.bytes_on_paper(few, 10**6, {}) == 16 * 10**6  # the gradients are more than the activations
    all_rows = large_model.activation_bytes(many, 4000, False, False)
    assert large_model.bytes_on_paper(many, 10**6, {}) == 12 * 10**6 + all_rows
    a_quarter = large_model.activation_bytes(many, 1000, False, False)
    found = large_model.bytes_on_paper(many, 10**6, {"gradient_accumulation_steps": 4})
    assert found == 16 * 10**6 + a_quarter


@pytest.mark.slow
def test_large_model_runs_every_case_on_both_sides_and_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "large_model.json"

    told, said = benchmark("speed/large_model", output, "--cases", "all-three", "save")
    assert told["cases"].keys() == {"all-three", "save"}
    for name, case in told["cases"].items():
        assert name in said
        for side in large_model.SIDES:
            assert case[side]["peak_mb"] >= case[side]["loaded_mb"] >= case[side]["libraries_mb"] > 0
            assert case[side]["of_training_mb"] >= case["on_paper_mb"] > 0
            assert (case[side]["save_seconds"] > 0) == (name == "save")
    assert told["cases"]["save"]["same_weights"]
    assert not told["cases"]["all-three"]["same_weights"]  # Trainer's loss is as many times too large as it accumulates

    again, said = benchmark("speed/large_model", output, "--cases", "bf16", "--continue")
    assert said.count("(load") == len(large_model.SIDES)
    assert again["runs"].pop("bf16").keys() == set(large_model.SIDES)
    assert again["runs"] == told["runs"]
