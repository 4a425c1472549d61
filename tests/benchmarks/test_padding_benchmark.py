"""What `benchmarks/padding/measure.py` says of padding is what ftloop deals, computes and would save."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.command import CHECKOUT
from harness.files import needs_mrpc
from harness.models import tiny_bert
from harness.rows import tiny_rows, tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.padding import measure
from benchmarks.padding.advise import advise, text_lengths
from benchmarks.padding.rows import made_lengths
from benchmarks.padding.strategies import largest_batch, sample_steps, step_costs, strategies
from benchmarks.padding.tables import table
from ftloop import TrainConfig, prepare
from ftloop.batching.efficiency import Batches, ModelShape, batches_of
from ftloop.batching.order import TokenBudget
from ftloop.batching.padding import collator, padding_edges, row_lengths
from ftloop.run.micro_batches import num_rows

SHAPE = ModelShape(layers=6, hidden=384, intermediate=1536)
SIXTEEN = TrainConfig(per_device_train_batch_size=16, per_device_eval_batch_size=16)
MRPC_LIKE = np.clip(np.random.default_rng(0).normal(53, 13, 3668), 16, 103).astype(np.int32)
LONG_TAIL = made_lengths("long-tail", 4000, 42, 512)
NEAR_UNIFORM = made_lengths("near-uniform", 4000, 42, 512)


def tiny_config(tmp_path: Path, **settings: Any) -> TrainConfig:
    quiet = {"output_dir": str(tmp_path), "use_cpu": True, "disable_tqdm": True}
    return TrainConfig(**quiet | {"per_device_train_batch_size": 4} | settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batching": "sequential", "data_seed": 7},
        {"padding": "max_length"},
        {"padding": "multiple:8"},
        {"padding": "buckets:3"},
        {"padding": "none"},
        {"batching": "length_grouped", "gradient_accumulation_steps": 2},
        {"batching": "token_budget"},
        {"batching": "token_budget", "padding": "multiple:8", "max_tokens_per_batch": 90},
    ],
    ids=str,
)
def test_the_batches_told_from_the_lengths_are_those_that_a_run_deals(settings: dict[str, Any], tmp_path: Path) -> None:
    config, rows, limit = tiny_config(tmp_path, **settings), tiny_rows(45), 24
    lengths = row_lengths(rows)
    edges = padding_edges(config, limit, lengths)
    run = prepare(config, tiny_bert(), rows, data_collator=collator(tiny_tokenizer(), edges), padding_edges=edges)
    for epoch in (0, 1):
        told = batches_of(config, lengths, limit, epoch=epoch)
        run.train_loader.set_epoch(epoch)
        run.sampler.epoch = epoch
        dealt = list(run.train_loader)
        assert [num_rows(inputs) for inputs in dealt] == told.sizes.tolist()
        assert [inputs["input_ids"].shape[1] for inputs in dealt] == told.padded_to.tolist()
        for number, inputs in enumerate(dealt):
            ids = [
                row[mask.bool()].tolist()
                for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            ]
            assert ids == [rows[int(row)]["input_ids"] for row in told.rows_of(number)]
        computed = sum(inputs["input_ids"].numel() for inputs in dealt)
        real = sum(int(inputs["attention_mask"].sum()) for inputs in dealt)
        computed = real if config.padding == "none" else computed
        assert (told.computed_tokens, told.real_tokens) == (computed, real)
        assert told.padding_share == 1 - real / computed


def test_several_processes_have_a_batch_each_in_turn() -> None:
    config = replace(SIXTEEN, batching="token_budget")
    told = batches_of(config, MRPC_LIKE, 512, num_processes=2)
    budget = TokenBudget(MRPC_LIKE, round(16 * MRPC_LIKE.mean()), 2, config.seed)
    dealt = budget.of_epoch(0)
    for step in range(len(budget) - 1):
        for process in (0, 1):
            assert told.rows_of(2 * step + process).tolist() == dealt.of_process(step, process).tolist()


def test_rows_without_padding_take_the_operations_of_each_row() -> None:
    told = batches_of(replace(SIXTEEN, padding="none"), MRPC_LIKE, 512)
    each = [sum(SHAPE.training_flops(1, int(MRPC_LIKE[row])) for row in told.rows_of(batch)) for batch in range(3)]
    assert told.training_flops(SHAPE)[:3].tolist() == pytest.approx(each, rel=1e-12)
    rows, tokens = largest_batch(told)
    assert rows == 16
    assert abs(rows * tokens - max(int(MRPC_LIKE[told.rows_of(batch)].sum()) for batch in range(len(told)))) < 16


def test_rows_longer_than_the_limit_are_cut_and_counted() -> None:
    chosen = {each.name: each for each in strategies(SIXTEEN, LONG_TAIL, 512, SHAPE)}
    cut = chosen["global 128"]
    assert cut.rows_truncated == (LONG_TAIL > 128).sum()
    assert cut.rows_truncated > 100
    assert cut.batches.real_tokens == np.minimum(LONG_TAIL, 128).sum()
    assert cut.batches.computed_tokens == 4000 * 128
    assert all(each.rows_truncated == 0 for name, each in chosen.items() if name != "global 128")
    assert all(each.batches.real_tokens == LONG_TAIL.sum() for name, each in chosen.items() if name != "global 128")


def test_the_strategies_fit_the_longest_input_and_none_is_there_twice() -> None:
    names = [each.name for each in strategies(SIXTEEN, MRPC_LIKE, 512, SHAPE)]
    longest = MRPC_LIKE.max()
    assert names[:3] == ["global 512", f"global {longest}, the longest row", "global 128"]
    of_a_short_model = [each.name for each in strategies(SIXTEEN, np.minimum(MRPC_LIKE, 64), 64, SHAPE)]
    assert of_a_short_model[:2] == ["global 64, the longest row", "dynamic"]
    assert names[3:] == of_a_short_model[1:]


def test_flops_are_those_that_torch_counts_in_the_encoder() -> None:
    model = tiny_bert(attn_implementation="eager")
    shape = ModelShape.of(model.config)
    assert shape == ModelShape(layers=2, hidden=32, intermediate=64)
    rows, tokens = 3, 17
    ids = torch.randint(5, 100, (rows, tokens))
    with FlopCounterMode(display=False) as counted:
        model.bert.encoder(model.bert.embeddings(ids)).last_hidden_state.sum().backward()
    # Embeddings want a gradient too, so the backward pass is twice the forward pass without exception.
    assert counted.get_total_flops() == shape.training_flops(rows, tokens)


def test_a_mask_keeps_padding_from_the_result_and_saves_none_of_the_work() -> None:
    model = tiny_bert(attn_implementation="eager").eval()
    ids = torch.randint(5, 100, (3, 17))
    padded = torch.nn.functional.pad(ids, (0, 23))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 23))
    found = {}
    for name, inputs in {"short": {"input_ids": ids}, "padded": {"input_ids": padded, "attention_mask": mask}}.items():
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            logits = model(**inputs).logits
        found[name] = logits, counted.get_total_flops()
    # Sums over more numbers, the rest of them zeros.
    torch.testing.assert_close(found["padded"][0], found["short"][0], rtol=1e-5, atol=1e-6)
    shape = ModelShape.of(model.config)
    more = (shape.training_flops(3, 40) - shape.training_flops(3, 17)) / 3  # of forward and backward
    assert found["padded"][1] - found["short"][1] == more


def test_a_batch_costs_what_its_rows_cost_as_long_as_its_longest() -> None:
    lengths = np.array([3, 9, 4, 5, 6], np.int32)
    batches = Batches(np.array([1, 0, 3, 2, 4]), np.array([0, 2, 4, 5]), lengths, None)
    flops = batches.training_flops(SHAPE)
    assert flops.tolist() == [SHAPE.training_flops(2, 9), SHAPE.training_flops(2, 5), SHAPE.training_flops(1, 6)]
    assert largest_batch(batches) == (2, 9)


def test_a_step_of_several_processes_costs_what_its_largest_batch_does() -> None:
    lengths = np.array([3, 9, 4, 5, 6], np.int32)
    batches = Batches(np.arange(5), np.arange(6), lengths, None)
    cost, left_over = step_costs(batches, SHAPE, 2)
    assert cost.tolist() == [SHAPE.training_flops(1, 9), SHAPE.training_flops(1, 5)]
    assert left_over == SHAPE.training_flops(1, 6)


@pytest.mark.parametrize(("parts", "passes"), [(1, 1), (8, 3), (5, 2), (100, 2)])
def test_where_time_goes_with_cost_the_sample_gives_the_epoch_exactly(parts: int, passes: int) -> None:
    cost = np.random.default_rng(1).uniform(1, 9, 50)
    sample = sample_steps(cost, parts, passes, left_over=4.0)
    assert sample.steps.shape == (passes, min(parts, 50))
    # A sum of products in another order.
    assert sample.epoch(0.25 * cost[sample.steps]) == pytest.approx(0.25 * (cost.sum() + 4.0), rel=1e-12)


def test_every_part_of_the_epoch_is_sampled_by_other_steps_each_pass() -> None:
    cost = np.arange(1.0, 49.0)
    steps = sample_steps(cost, parts=4, passes=3).steps
    assert len(np.unique(steps)) == 12
    assert (steps // 12 == np.arange(4)).all()
    # Of equal costs each step stands for as many as its part has.
    assert sample_steps(np.ones(48), parts=4, passes=3).weights.tolist() == [[12.0] * 4] * 3


def test_advice_for_rows_of_nearly_one_length_is_to_change_nothing() -> None:
    found = advise(SIXTEEN, NEAR_UNIFORM, 512, SHAPE, eval_lengths=NEAR_UNIFORM[:400])
    assert found.flags == found.optional == ()
    assert found.flops_saved == found.tokens_saved == 0
    assert any("little padding to remove" in line for line in found.lines)


def test_advice_for_lengths_like_mrpcs_is_to_group_and_sort_them() -> None:
    found = advise(SIXTEEN, MRPC_LIKE, 512, SHAPE, eval_lengths=MRPC_LIKE[:400])
    assert found.flags == ("--batching length_grouped", "--per_device_train_batch_size 16", "--sort_eval")
    assert found.optional == ()
    now, then = (batches_of(replace(SIXTEEN, batching=b), MRPC_LIKE, 512) for b in ("random", "length_grouped"))
    assert found.tokens_saved == 1 - then.computed_tokens / now.computed_tokens
    assert found.flops_saved == 1 - then.training_flops(SHAPE).sum() / now.training_flops(SHAPE).sum()
    assert 0.25 < found.tokens_saved < found.flops_saved < 0.35  # attention grows with the square of the length


def test_advice_for_a_long_tail_is_a_token_budget_and_a_cut() -> None:
    found = advise(SIXTEEN, LONG_TAIL, 512, SHAPE)
    budget = round(16 * LONG_TAIL.mean())
    assert found.flags == ("--batching token_budget", f"--max_tokens_per_batch {budget}", "--sort_eval")
    assert found.flops_saved > found.tokens_saved > 0.6
    (cut,) = found.optional
    tokens = int(cut.removeprefix("--max_seq_length "))
    is_cut = tokens < LONG_TAIL
    assert found.rows_cut == is_cut.mean()
    assert 0.005 < found.rows_cut < 0.01
    assert found.flops_saved_with_optional > found.flops_saved
    assert any(f"truncate {found.rows_cut:.2%}" in line for line in found.lines)
    TrainConfig(batching="token_budget", max_tokens_per_batch=budget, max_seq_length=tokens)


def test_advice_where_padding_can_be_left_out_is_to_leave_it_out_as_a_run_says() -> None:
    for lengths in (MRPC_LIKE, LONG_TAIL):
        found = advise(SIXTEEN, lengths, 512, SHAPE, eval_lengths=lengths[:400], can_be_left_out=True)
        assert found.flags == ("--padding none",)
        now, then = (batches_of(replace(SIXTEEN, padding=each), lengths, 512) for each in ("longest", "none"))
        assert found.tokens_saved == 1 - then.computed_tokens / now.computed_tokens == now.padding_share
        assert any("the same rows meet in the same order" in line for line in found.lines)
        assert f"Flags     {found.flags[0]}" in found.lines
    assert advise(SIXTEEN, NEAR_UNIFORM, 512, SHAPE, can_be_left_out=True).flags == ()
    without = advise(replace(SIXTEEN, padding="none"), MRPC_LIKE, 512, SHAPE, can_be_left_out=True)
    assert without.flags == ()
    assert without.lines[-1] == "Flags     none: leave the settings as they are"


def test_advice_counts_rows_that_are_truncated_already() -> None:
    found = advise(SIXTEEN, np.append(MRPC_LIKE, [700, 900]).astype(np.int32), 103, SHAPE)
    assert "2 rows are truncated at 103" in found.lines[0]
    assert found.flags[0] == "--batching length_grouped"


def test_advice_starts_from_the_settings_given() -> None:
    to_the_limit = replace(SIXTEEN, padding="max_length", max_seq_length=512)
    found = advise(to_the_limit, MRPC_LIKE, 512, SHAPE)
    assert found.flags[:2] == ("--batching length_grouped", "--padding longest")
    assert found.tokens_saved > 0.85
    already = replace(SIXTEEN, batching="length_grouped", sort_eval=True)
    assert advise(already, MRPC_LIKE, 512, SHAPE).flags == ()


@pytest.mark.parametrize("columns", [1, 2])
def test_lengths_are_read_without_truncation(columns: int) -> None:
    tokenizer = tiny_tokenizer()
    texts = [[" ".join(["word1"] * n) for n in (1, 5, 90)], ["yes", "no no", ""]][:columns]
    expected = [[3, 7, 92], [5, 10, 93]][columns - 1]
    assert text_lengths(texts, tokenizer).tolist() == expected
    assert [len(ids) for ids in tokenizer(*texts)["input_ids"]] == expected


def test_the_advice_command_loads_no_weights(
    tiny_folder: Path, tmp_path: Path, own_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tiny_folder / "model").iterdir():
        (tmp_path / file.name).write_bytes(b"no weights" if file.name == "model.safetensors" else file.read_bytes())
    words = ["--train_file", str(tiny_folder / "train.jsonl"), "--model_name_or_path", str(tmp_path)]
    assert measure.main(["--advise", *words, "--per_device_train_batch_size", "4"]) == 0
    printed = capsys.readouterr().out
    assert "train.jsonl" in printed
    assert "2 layers, hidden 32, intermediate 64" in printed
    assert "29 rows, tokens: mean" in printed
    assert "Flags     --padding none\n" in printed  # 29 rows are too few for groups, and a BERT needs no padding


def test_a_mistake_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(["--advise", "--train_file", "nowhere.csv"]) == 2
    told = capsys.readouterr().err
    assert "nowhere.csv" in told
    assert "Traceback" not in told


def results(**more: Any) -> dict[str, dict[str, Any]]:
    spread = {"median": 0.5, "min": 0.25, "max": 1.0}
    row = {"padding_share": 0.3, "rows_truncated": 0, "batches": 9, "real_tokens_per_second": 10.4, "peak_bytes": None}
    row |= {"step_seconds": spread, "epoch_seconds": spread, "epoch_to_dynamic": dict.fromkeys(spread, 1.0)} | more
    slow = {"epoch_to_dynamic": {"median": 4.0, "min": 3.5, "max": 4.25}, "peak_bytes": 3 * 2**20}
    return {"dynamic": row, "global 512": row | slow}


def test_the_table_holds_every_strategy_against_dynamic_padding() -> None:
    head, dynamic, whole = table(results())
    assert dict(zip(head, dynamic, strict=True)) == {
        "strategy": "dynamic",
        "padding": "30.0%",
        "rows cut": "0",
        "batches": "9",
        "step, ms": "500 (250 to 1000)",
        "epoch, s": "0.5 (0.2 to 1.0)",
        "to dynamic": "1.00 (1.00 to 1.00)",
        "real tokens/s": "10",
        "peak, MiB": "not measured",
    }
    assert (whole[head.index("to dynamic")], whole[head.index("peak, MiB")]) == ("4.00 (3.50 to 4.25)", "3")
    waiting = {"wait_share": 0.125, "wait_seconds": {"median": 0.1, "min": 0.0, "max": 0.2}}
    assert table(results(**waiting))[1][-2:] == ["100 (0 to 200)", "12%"]


def test_without_matplotlib_there_is_a_message_and_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.padding.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert measure.draw({}, [], tmp_path / "padding.json") == []
    assert "pip install matplotlib" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


NAMES = ["global 64", "global 12, the longest row", "dynamic", "padding not computed", "dynamic, multiple of 8"]
NAMES += ["dynamic, 4 buckets", "length_grouped", "token_budget"]


def command(folder: Path, output: Path, *words: str, processes: int = 1) -> str:
    script = [
        str(CHECKOUT / "benchmarks/padding/measure.py"),
        "--steps",
        "2",
        "--passes",
        "2",
        "--output",
        str(output),
        *words,
    ]
    script += ["--train_file", str(folder / "train.jsonl"), "--model_name_or_path", str(folder / "model")]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *script, "--per_device_train_batch_size", "4"],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
def test_the_command_leaves_table_json_and_pictures(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    printed = command(tiny_folder, tmp_path / "padding.json")
    found = json.loads((tmp_path / "padding.json").read_text())
    assert list(found["strategies"]) == NAMES
    for name, row in found["strategies"].items():
        assert f"\n{name} " in printed
        assert row["real_tokens"] == found["strategies"]["dynamic"]["real_tokens"]
        assert row["padding_share"] == 1 - row["real_tokens"] / row["computed_tokens"]
        assert row["steps_timed"] == len(row["seconds_of_each"]) == 2
        assert 0 < row["step_seconds"]["min"] <= row["step_seconds"]["median"] <= row["step_seconds"]["max"]
        assert row["epoch_seconds"]["median"] > row["step_seconds"]["min"]
        assert row["peak_bytes"] >= row["bytes_before_the_first_step"] > 2**20
        assert "wait_share" not in row
    assert found["strategies"]["dynamic"]["epoch_to_dynamic"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert found["strategies"]["global 64"]["computed_tokens"] == 29 * 64
    assert found["conditions"]["command"].startswith("python benchmarks/padding/measure.py --steps 2")
    markdown = (tmp_path / "padding.md").read_text()
    for kind in ("lengths", "strategies", "batches"):
        assert (tmp_path / f"padding-{kind}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(padding-{kind}.png)" in markdown
    assert all(f"| {name} |" in markdown for name in NAMES)


@pytest.mark.slow
def test_two_processes_tell_how_long_they_wait_for_each_other(tiny_folder: Path, tmp_path: Path) -> None:
    printed = command(tiny_folder, tmp_path / "padding.json", "--no_memory", processes=2)
    found = json.loads((tmp_path / "padding.json").read_text())
    assert found["conditions"]["processes"] == 2
    assert "wait per step, ms" in printed
    assert printed.count("wait: each sampled batch") == 1  # one process speaks
    for row in found["strategies"].values():
        assert 0 < row["wait_seconds"]["median"] <= row["wait_seconds"]["max"]
        assert row["wait_share"] > 0


@pytest.mark.slow
@needs_mrpc
def test_mrpc_has_the_padding_it_is_known_for(capsys: pytest.CaptureFixture[str], own_cache: None) -> None:
    assert measure.main(["--advise"]) == 0
    printed = capsys.readouterr().out
    assert "3668 rows, tokens: mean 53.2, median 53, p95 74, p99 83, max 103" in printed
    assert "29.8% of the tokens are padding" in printed
    assert printed.endswith("Flags     --padding none\n")
