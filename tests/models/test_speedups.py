"""What makes a step faster, and that it leaves the training what it was."""

from __future__ import annotations

import copy
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.command import CHECKOUT
from harness.models import tiny_bert
from harness.rows import pad, tiny_rows
from harness.side_by_side import Job, run_ftloop
from torch import Tensor, nn
from transformers import (
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from ftloop import TrainConfig, UserError, predict, prepare
from ftloop.config.command_line import parse_args
from ftloop.models.fast_dropout import FastDropout, fast_dropout
from ftloop.models.speedups import ATTENTION, speed_up

TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
MANY = 4_000_003
"""Not a multiple of four, nor of two."""
FAST: dict[str, Any] = {"fast_dropout": True, "first_token_only": True}


def kept(p: float, dtype: torch.dtype, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return fast_dropout(torch.ones(MANY, dtype=dtype), p) != 0


def spread(p: float, count: int) -> float:
    """Six standard deviations of a share of `count`: beyond it by chance once in 500 million."""
    return 6 * (p * (1 - p) / count) ** 0.5


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_p(dtype: torch.dtype, p: float) -> None:
    # 16 bits know p to the nearest 2^-16
    assert abs((~kept(p, dtype)).double().mean().item() - p) < spread(p, MANY) + 2**-17


@pytest.mark.parametrize("dtype", TYPES)
def test_the_lanes_of_a_random_word_drop_equally_and_independently(dtype: torch.dtype) -> None:
    per_word = 8 // dtype.itemsize
    dropped = (~kept(0.3, dtype)[: MANY // 4 * 4]).double().view(-1, per_word)
    rows = len(dropped)
    assert ((dropped.mean(0) - 0.3).abs() < spread(0.3, rows) + 2**-17).all()
    centred = (dropped - dropped.mean(0)) / dropped.std(0)
    lanes = centred.T @ centred / rows - torch.eye(per_word)
    assert lanes.abs().max() < 6 / rows**0.5
    next_word = centred[1:].T @ centred[:-1] / rows
    assert next_word.abs().max() < 6 / rows**0.5


@pytest.mark.parametrize("dtype", TYPES)
def test_kept_numbers_are_divided_by_the_share_kept(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 31, dtype=dtype)
    y = fast_dropout(x, 0.25)
    was_kept = y != 0
    assert 0 < was_kept.sum() < x.numel()
    assert torch.equal(y[was_kept], (x * (1 / 0.75))[was_kept])
    assert (y.dtype, y.shape) == (x.dtype, x.shape)


def test_the_expectation_is_what_went_in() -> None:
    torch.manual_seed(0)
    x = torch.randn(50)
    mean = torch.stack([fast_dropout(x, 0.1) for _ in range(20_000)]).mean(0)
    assert ((mean - x).abs() <= 6 * x.abs() * (0.1 / 0.9 / 20_000) ** 0.5).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9])
def test_any_number_of_numbers_will_do(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(0)
    seen = torch.stack([fast_dropout(torch.ones(size, dtype=dtype), 0.5) != 0 for _ in range(40)])
    assert seen.shape == (40, size)
    assert seen.any(0).all()
    assert not seen.all(0).any()


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_without_dropout_or_training_everything_stays_and_nothing_is_drawn(p: float) -> None:
    x = torch.randn(9)
    before = torch.random.get_rng_state()
    assert torch.equal(fast_dropout(x, p, training=p == 0), x)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("p", [1.0, 0.9999999])
def test_where_nothing_is_kept_everything_is_zero(p: float) -> None:
    assert not fast_dropout(torch.randn(9).bfloat16(), p).any()


def test_the_same_seed_gives_the_same_mask_and_another_one_another() -> None:
    masks = [kept(0.5, torch.bfloat16, seed) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("strided", [False, True])
def test_the_gradient_is_the_mask_times_the_scale(dtype: torch.dtype, strided: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 11, dtype=dtype)
    x = (x.T if strided else x).requires_grad_()
    y = fast_dropout(x, 0.4)
    gradient = torch.randn(y.shape, dtype=dtype)
    y.backward(gradient)
    expected = torch.where(y != 0, gradient * (1 / 0.6), 0)
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
    assert x.grad.any()


def test_the_derivative_is_that_of_the_function() -> None:
    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return fast_dropout(x, 0.4)

    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(seeded, (x,))


def test_every_dropout_of_the_model_is_replaced_and_no_weight_renamed() -> None:
    model, before = tiny_bert(dropout=0.3), tiny_bert(dropout=0.3)
    speed_up(model, fast_dropout=True, first_token_only=True)
    of_torch = [name for name, module in before.named_modules() if type(module) is nn.Dropout]
    of_ours = [name for name, module in model.named_modules() if type(module) is FastDropout]
    assert len(of_torch) == 8
    assert of_ours == of_torch
    assert not [name for name, module in model.named_modules() if type(module) is nn.Dropout]
    assert list(model.state_dict()) == list(before.state_dict())
    assert {model.get_submodule(name).p for name in of_ours} == {0.3}
    assert "FastDropout(p=0.3, inplace=False)" in repr(model)


def test_a_module_in_evaluation_stays_there() -> None:
    model = tiny_bert().eval()
    speed_up(model, fast_dropout=True, first_token_only=False)
    assert not any(module.training for module in model.modules())


def a_batch() -> dict[str, Tensor]:
    """Rows of 3 to 9 tokens, and one of another length, padded; ids 5 and up are words to every family."""
    lengths = [9, 4, 7, 3]
    ids = torch.tensor(
        [[5 + (row * 7 + i) % 20 if i < length else 1 for i in range(9)] for row, length in enumerate(lengths)]
    )
    mask = torch.tensor([[int(i < length) for i in range(9)] for length in lengths])
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}


SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def of_family(family: str) -> Any:
    torch.manual_seed(5)
    if family == "bert":
        return tiny_bert(dropout=0.0)
    config, model = {
        "roberta": (RobertaConfig, RobertaForSequenceClassification),
        "xlm-roberta": (XLMRobertaConfig, XLMRobertaForSequenceClassification),
        "camembert": (CamembertConfig, CamembertForSequenceClassification),
    }[family]
    return model(config(**SIZES, num_hidden_layers=2, pad_token_id=1, bos_token_id=0, eos_token_id=2))


@pytest.mark.parametrize("attention", ["eager", "sdpa", "fast_dropout"])
@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("bert", 2),
        ("roberta", 2),
        ("roberta", 1),
        pytest.param("xlm-roberta", 2, marks=pytest.mark.slow),
        pytest.param("camembert", 2, marks=pytest.mark.slow),
    ],
)
def test_without_dropout_loss_and_gradients_are_the_same_to_rounding(family: str, layers: int, attention: str) -> None:
    """Products of other shapes add up in another order; our attention has its softmax in float32."""
    tolerance = {"rtol": 1e-4, "atol": 1e-7} if attention == "fast_dropout" else {"rtol": 1e-9, "atol": 1e-12}
    model = of_family(family).double().train()
    fast = copy.deepcopy(model)
    if attention != "fast_dropout":
        fast.set_attn_implementation(attention)
    speed_up(fast, fast_dropout=attention == "fast_dropout", first_token_only=True)
    outputs = [each(**a_batch()) for each in (model, fast)]
    for output in outputs:
        output.loss.backward()
    assert torch.allclose(outputs[0].logits, outputs[1].logits, **tolerance)
    theirs, ours = ({name: p.grad for name, p in each.named_parameters()} for each in (model, fast))
    compared = 0
    for name, gradient in theirs.items():
        assert (gradient is None) == (ours[name] is None), name
        if gradient is not None:
            assert torch.allclose(gradient, ours[name], **tolerance), name
            compared += int(gradient.any())
    assert compared > 15


def test_the_fast_recipe_is_the_guides_job_but_for_what_makes_it_fast() -> None:
    fast, guide = (parse_args([name]).to_dict() for name in ("fast", "guide"))
    changed = {name: value for name, value in fast.items() if value != guide[name]}
    assert changed == FAST | {
        "output_dir": "runs/fast",
        "mixed_precision": "auto",
        "padding": "none",
        "sort_eval": True,
        "per_device_eval_batch_size": 32,
    }


def test_attention_drops_too_and_only_in_training() -> None:
    model = tiny_bert(dropout=0.0)
    speed_up(model, fast_dropout=True, first_token_only=False)
    assert model.config._attn_implementation == ATTENTION
    for layer in model.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    batch = a_batch()
    twice = [model.train()(**batch).logits for _ in range(2)]
    assert not torch.equal(*twice)
    twice = [model.eval()(**batch).logits for _ in range(2)]
    assert torch.equal(*twice)
    assert torch.allclose(twice[0], tiny_bert(dropout=0.0).eval()(**batch).logits, atol=1e-6)


def test_a_family_whose_head_reads_more_is_refused_by_name() -> None:
    config = DistilBertConfig(vocab_size=30, dim=16, n_heads=2, n_layers=1, hidden_dim=24, max_position_embeddings=16)
    model = DistilBertForSequenceClassification(config)
    with pytest.raises(UserError, match=r"first_token_only: known for bert, .*, not for distilbert; leave it out"):
        speed_up(model, fast_dropout=True, first_token_only=True)
    attention = model.config._attn_implementation
    speed_up(model, fast_dropout=True, first_token_only=False)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("changed", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}], ids=str)
def test_a_resumed_fast_run_has_the_bits_of_an_uninterrupted_one(changed: dict[str, Any], tmp_path: Path) -> None:
    arguments = FAST | {"num_train_epochs": 2, "per_device_train_batch_size": 4, "save_steps": 3, "logging_steps": 1}
    whole = run_ftloop(Job(), tmp_path / "whole", **arguments | changed)
    last = sorted(whole.checkpoints, key=lambda name: int(name.split("-")[1]))[0]
    resumed = run_ftloop(Job(), tmp_path / "resumed", resume=str(tmp_path / "whole" / last), **arguments | changed)
    assert 0 < len(resumed.losses) < len(whole.losses)
    assert resumed.losses == whole.losses[-len(resumed.losses) :]
    assert resumed.weights == whole.weights
    slow = run_ftloop(Job(), tmp_path / "slow", **arguments | changed | dict.fromkeys(FAST, False))
    assert slow.weights != whole.weights


def test_checkpointed_gradients_see_the_same_masks() -> None:
    gradients, passes = [], []
    for checkpointing in (False, True):
        model = tiny_bert(dropout=0.3).train()
        speed_up(model, **FAST)
        model.bert.encoder.layer[-1].intermediate.register_forward_hook(
            lambda *_, made=checkpointing: passes.append(made)
        )
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(1)
        model(**a_batch()).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 30
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert passes == [False, True, True], "the last layer is computed once more, too"


def test_a_fast_model_is_saved_as_any_other(tmp_path: Path) -> None:
    plain, fast = tiny_bert(), tiny_bert()
    speed_up(fast, **FAST)
    for model, name in ((plain, "plain"), (fast, "fast")):
        model.save_pretrained(tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("plain", "fast")]
    assert files[0] == files[1]
    assert "model.safetensors" in files[0]
    BertForSequenceClassification.from_pretrained(tmp_path / "fast")


def test_predictions_are_the_same_to_rounding(tmp_path: Path) -> None:
    """Products of other shapes add up in another order."""
    rows = tiny_rows(13)
    logits = []
    for settings in ({}, FAST):
        config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, **settings)
        logits.append(predict(prepare(config, tiny_bert(), data_collator=pad), rows).predictions)
    assert abs(logits[0] - logits[1]).max() < 1e-6
    assert logits[0].shape == (13, 2)


def test_the_attention_asked_for_is_the_one_used(tmp_path: Path) -> None:
    for asked in ("eager", "sdpa"):
        model = tiny_bert()
        prepare(TrainConfig(output_dir=str(tmp_path), use_cpu=True, attn_implementation=asked), model)
        assert model.config._attn_implementation == asked


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fast_dropout": True, "attn_implementation": "sdpa"}, "fast_dropout brings its own attention"),
        ({"fast_dropout": True, "trainer_compat": True}, "not with trainer_compat"),
        ({"first_token_only": True, "trainer_compat": True}, "not with trainer_compat"),
        ({"attn_implementation": "flash"}, "'flash' is not one of eager, sdpa"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        TrainConfig(**settings)


ASKS_THE_ALLOCATOR = """
import ctypes, importlib, sys
import torch
command = importlib.import_module("ftloop.train")

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Figures(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in NAMES]

ask = ctypes.CDLL(None).mallinfo
ask.restype = Figures

def fine_tune(config, *_):
    before = ask()
    blocks = [torch.zeros(10_000_000) for _ in range(3)]
    held = ask()
    del blocks
    print("mapped", held.hblks - before.hblks, "given back", held.arena - ask().arena)

importlib.import_module("ftloop.job.fine_tune").fine_tune = fine_tune
sys.exit(command.main(sys.argv[1:]))
"""

TRAINS_TWICE = """
import importlib, sys
command = importlib.import_module("ftloop.train")
root, *words = sys.argv[1:]
for flag in ("false", "true"):
    code = command.main([*words, "--output_dir", f"{root}/{flag}", "--keep_freed_memory", flag])
    assert code == 0, code
"""


def python(code: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
@pytest.mark.parametrize(("flags", "mapped"), [([], 0), (["--keep_freed_memory", "false"], 3)], ids=["kept", "not"])
def test_the_command_keeps_freed_memory_unless_told_otherwise(flags: list[str], mapped: int, tmp_path: Path) -> None:
    """Blocks of 40 MB, above any size that glibc would keep by itself."""
    told = python(ASKS_THE_ALLOCATOR, "--output_dir", str(tmp_path), *flags)
    assert told.split() == ["mapped", str(mapped), "given", "back", "0"]


@pytest.mark.slow
def test_kept_memory_changes_no_bit(tiny_folder: Path, tmp_path: Path) -> None:
    """They run in one process: what glibc has been told it cannot be told back."""
    files = [f"--{split}_file={tiny_folder / split}.jsonl" for split in ("train", "validation")]
    words = ["--model_name_or_path", str(tiny_folder / "model"), *files, "--max_steps", "4", "--use_cpu"]
    python(TRAINS_TWICE, str(tmp_path), *words)
    without, kept = ((tmp_path / flag / "model.safetensors").read_bytes() for flag in ("false", "true"))
    assert without == kept
    assert without != (tiny_folder / "model" / "model.safetensors").read_bytes()
