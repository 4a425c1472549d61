"""Every benchmark runs to its end and tells what it promises; its figures are not looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from harness.command import CHECKOUT, benchmark

from benchmarks.speed import large_data, large_data_run, throughput_rows, throughput_runs
from benchmarks.speed.throughput import judged


def test_every_script_finds_its_modules_from_any_folder() -> None:
    """Its folder comes first on the path, so the checkout is put there before anything of it is imported."""
    scripts = 0
    for path in sorted((CHECKOUT / "benchmarks").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        ours = re.search(r"^(from|import) (benchmarks|ftloop|harness)\b", source, re.MULTILINE)
        if "__main__" in source and ours is not None:
            scripts += 1
            assert "\nsys.path" in source[: ours.start()], path
    assert scripts > 10


def throughput(output: Path, *words: str) -> dict[str, Any]:
    told, printed = benchmark("speed/throughput", output, *words)
    for name in told["rows"]:
        assert name in printed
    return told


@pytest.mark.slow
def test_throughput_compares_both_sides_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    output = tmp_path / "throughput.json"
    told = throughput(output, "--rows", "identical-fp32", "memory-fp32", "loop-cost", "first-update", "cuda-fp16-16")
    assert told["rows"].pop("cuda-fp16-16").keys() >= {"not_measured"}
    for name, row in told["rows"].items():
        assert "void" not in row, name  # the weights of both sides are the same bytes
        assert {"ratio", "ratio_min", "ratio_max", "target", "reached", "n", "ftloop", "trainer"} <= row.keys()
        assert row["n"] == 1
        assert row["trainer"]["median"] > 0
    needed = {"python", "torch", "transformers", "device", "threads", "data", "command", "both_sides", "sizes"}
    assert needed <= told["conditions"].keys()
    assert all("python" in command or "one_run" in command for command in told["commands"].values())
    assert output.with_suffix(".png").stat().st_size > 0

    runs = output.with_suffix(".runs.jsonl")
    lines = runs.read_text().splitlines()
    assert {json.loads(line)["variant"] for line in lines} == {
        *("trainer-fp32", "ftloop-plain-fp32", "ftloop-fp32"),
        *("loop-bare", "loop-trainer", "loop-ftloop", "start-trainer", "start-ftloop"),
    }
    runs.write_text("\n".join(lines[1:]) + "\n")  # one is missing
    told = throughput(output, "--rows", "identical-fp32", "--continue")
    assert runs.read_text().splitlines()[: len(lines) - 1] == lines[1:]
    assert len(runs.read_text().splitlines()) == len(lines)
    assert told["rows"]["identical-fp32"]["ratio"] > 0

    runs.write_text("\n".join(lines[1:]) + "\n")
    told = throughput(output, "--rows", "memory-fp32", "first-update", "--continue", "--report")
    assert runs.read_text() == "\n".join(lines[1:]) + "\n", "nothing more was run"
    assert told["rows"]["memory-fp32"].keys() >= {"not_measured"}
    assert told["rows"]["first-update"]["n"] == 1


@pytest.mark.slow
def test_large_data_tells_where_a_start_spends_its_time_and_memory(tmp_path: Path) -> None:
    output = tmp_path / "large_data.json"
    words = ["--folder", str(tmp_path / "made"), "--sizes", "1000", "--eval_rows", "300"]
    told, printed = benchmark("speed/large_data", output, *words, "--batching", "random", "token_budget")
    starts = told["start"]
    assert [(row["start"], row["batching"]) for row in starts] == [
        *(("first", "random"), ("cached", "random"), ("cached", "token_budget"))
    ]
    for row in starts:
        assert row["seconds"].keys() == {*large_data.GROUPS, "rest"}
        assert all(seconds > 0 for seconds in row["seconds"].values())
        assert row["seconds_of_steps"].keys() == {*large_data_run.STEPS, "first update"}
        assert (
            row["whole_seconds"] > row["first_update_seconds"] + row["seconds_of_checkpoint"] > row["seconds"]["rest"]
        )
        assert row["seconds_of_checkpoint"] > row["seconds_of_digest"] > 0
        assert row["peak_resident_bytes"] > row["peak_anonymous_bytes"] > 50e6
        assert max(row["anonymous_bytes_in_steps"].values()) <= row["peak_anonymous_bytes"]
        assert row["checkpoint_bytes"] > 100e3
        assert row["cache_bytes"] == starts[0]["cache_bytes"] > 100e3
        assert row["cache_bytes_written"] == (row["cache_bytes"] if row["start"] == "first" else 0)

    found = {row["function"]: row for row in told["plan"]}
    assert all(row["rows"] == 1000 and row["seconds"] > 0 for row in found.values())
    assert found["row_lengths"]["result"] == found["length_grouped_rows"]["result"] == 1000
    assert 1000 / 16 <= found["TokenBudget, first epoch"]["result"] < 1000 / 8
    assert 0.1 < found["padding share"]["result"] < 0.9

    two, hundred = told["evaluate"]
    assert (two["rows"], two["classes"], hundred["rows"], hundred["classes"]) == (300, 2, 300, 100)
    assert two["metrics"]["eval_loss"] < 1 < 4 < hundred["metrics"]["eval_loss"]  # log 2 and log 100, untrained
    for part in large_data.PARTS:
        assert f"\n{part}\n" in printed

    kept = output.read_text()
    assert str(tmp_path) not in kept
    assert str(CHECKOUT) not in kept
    told, _ = benchmark(
        "speed/large_data", output, *words, "--cached", "--parts", "start", "--batching", "length_grouped"
    )
    assert told.keys() == {"conditions", "start"}
    assert [(row["start"], row["batching"]) for row in told["start"]] == [("cached", "length_grouped")]
    assert told["start"][0]["cache_bytes_written"] == 0


@pytest.mark.parametrize("write", [large_data_run.write_texts, large_data_run.write_tokens])
def test_rows_made_depend_on_their_seed_and_place_alone(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(large_data_run, "PIECE", 100)

    def made(rows: int, seed: int) -> list[dict[str, Any]]:
        write(tmp_path / "rows", rows, seed)
        if write is large_data_run.write_texts:
            return pq.read_table(tmp_path / "rows").to_pylist()
        return pa.ipc.open_stream(tmp_path / "rows").read_all().to_pylist()

    rows = made(250, 1)
    assert len(rows) == 250
    assert made(130, 1) == rows[:130]
    assert made(250, 2) != rows
    assert rows[:100] != rows[100:200]
    text = "input_ids" if "input_ids" in rows[0] else "sentence1"
    assert len({len(row[text]) for row in rows}) > 10


def test_time_in_a_step_within_a_step_counts_once() -> None:
    clocks = large_data_run.Clocks()
    inner = clocks.around("inner", lambda: sum(range(10_000)))
    outer = clocks.around("outer", lambda: [inner(), inner()])
    outer()
    outer()
    assert [step["name"] for step in clocks.steps] == ["inner", "inner", "outer"] * 2
    whole = sum(step["ended"] - step["began"] for step in clocks.steps if step["name"] == "outer")
    # Another order of the same sum.
    assert sum(step["alone"] for step in clocks.steps) == pytest.approx(whole, rel=1e-9)
    assert all(step["alone"] > 0 for step in clocks.steps)


def test_a_fork_tells_by_how_much_a_function_makes_memory_grow() -> None:
    def takes_and_keeps(size: int) -> int:
        kept.append(b"1" * size)
        for_a_moment = b"2" * (2 * size)
        return len(for_a_moment)

    kept: list[bytes] = []
    told = large_data_run._forked(lambda: 50_000_000, takes_and_keeps)
    assert kept == []
    assert told["result"] == 100_000_000
    # Some kilobytes of other things; and the kernel counts pages in groups.
    assert told["grew"] == pytest.approx(50e6, rel=0.05)
    assert told["grew_at_most"] == pytest.approx(150e6, rel=0.05)


@pytest.mark.slow
def test_choices_scores_each_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    """Four runs, then those of a second seed but for one that is there already."""
    output = tmp_path / "choices.json"
    told, printed = benchmark("hyperparameters", output, "--tables", "batch", "--seeds", "1")
    runs = output.with_suffix(".runs.jsonl")
    names = told["tables"]["batch"]
    assert sorted(names) == sorted(told["choices"])
    for name, row in told["choices"].items():
        assert f"| {name} | 1 | " in printed, name
        assert f"| {name} | 1 | " in output.with_suffix(".md").read_text()
        assert 0 <= row["accuracy"]["min"] == row["accuracy"]["max"] <= 1
        assert "--seed 1" in row["command"]
        assert "/" not in row["command"].removeprefix("python ftloop/train.py")  # it runs from any checkout
    assert [told["choices"][name]["updates"]["mean"] for name in names] == [8, 4, 2, 1]
    assert told["majority"]["accuracy"] == 0.625  # of the first 32 test rows
    assert {"python", "torch", "cpu", "threads", "test_rows", "settings", "command"} <= told["conditions"].keys()
    assert output.with_suffix(".png").stat().st_size > 0

    lines = [json.loads(line) for line in runs.read_text().splitlines()]
    runs.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *({**each, "seed": 2} for each in lines[1:])]))
    told, printed = benchmark("hyperparameters", output, "--tables", "batch", "--seeds", "1", "2", "--continue")
    assert [line[9:] for line in printed.splitlines() if ", seed " in line] == ["the centre, seed 2"]
    assert all(row["n"] == 2 for row in told["choices"].values())
    assert len(runs.read_text().splitlines()) == 8


def test_of_a_busy_machine_scores_count_and_times_do_not() -> None:
    row = throughput_rows.ROWS["fast-vs-guide"]
    runs = [
        (row.ours, 1, 0.81, 2.0),
        (row.theirs, 1, 0.80, 8.0),
        (row.ours, 2, 0.84, None),
        (row.theirs, 2, 0.80, None),
    ]
    bench = object.__new__(throughput_runs.Bench)
    bench.done = [
        {"variant": name, "number": seed, "accuracy": score, "f1": score} | ({"seconds": time} if time else {})
        for name, seed, score, time in runs
    ]
    told = judged(bench, row)
    assert (told["n"], told["ratio"]) == (1, 0.25)
    assert told["accuracy"]["f1"]["seeds"] == [1, 2]
    assert told["accuracy"]["f1"]["difference_of_means"] == pytest.approx(2.5)
    low, high = told["accuracy"]["f1"]["interval_95"]  # 2.5 -+ 12.706 (t with one degree) x 1.5
    assert (low, high) == pytest.approx((2.5 - 12.706 * 1.5, 2.5 + 12.706 * 1.5), abs=0.01)


def test_a_run_of_a_busy_machine_is_kept_without_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"seconds": 2.0, "train_seconds": 1.0, "peak_mb": 3.0, "accuracy": 0.8}
    monkeypatch.setattr(throughput_runs, "_command", lambda *_: dict(found))
    for busy, kept in ((True, {"peak_mb", "accuracy"}), (False, set(found))):
        bench = object.__new__(throughput_runs.Bench)
        bench.busy, bench.keys, bench.kept = busy, {"ftloop": {}}, tmp_path / f"{busy}.jsonl"
        bench.done, bench.commands = [], {"fast-ftloop": "fast"}
        bench.run("fast-ftloop", 1)
        line = json.loads(bench.kept.read_text())
        assert line.keys() & found.keys() == kept


def test_a_change_of_ftloop_leaves_the_runs_of_trainers_script_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = object.__new__(throughput_runs.Bench)
    bench.keys = {"ftloop": {"code": "new"}, "trainer": {"code": "old"}}
    assert [bench.key(name)["code"] for name in ("guide-trainer", "trainer-bf16", "start-trainer")] == ["old"] * 3
    assert [bench.key(name)["code"] for name in ("fast-ftloop", "ftloop-plain-fp32", "loop-trainer")] == ["new"] * 3
    both = [throughput_runs._digest_of_code(side) for side in ("ftloop", "trainer")]
    monkeypatch.setattr(throughput_runs, "ROOT", CHECKOUT / "tests")
    assert len({*both, throughput_runs._digest_of_code("trainer")}) == 3


@pytest.mark.slow
def test_the_recipes_are_scored_over_seeds_and_gone_on_with(tmp_path: Path) -> None:
    output = tmp_path / "recipes.json"
    told, printed = benchmark("recipes", output, "--recipes", "guide", "few")
    assert told["recipes"].keys() == {"guide", "few"}
    for recipe, found in told["recipes"].items():
        assert found["seeds"] == [1, 2]
        assert found["updates"] == [3, 3]
        assert f"ftloop train {recipe} --model_name_or_path" in found["command"]
        values = [run["test_accuracy"] for run in found["runs"].values()]
        assert found["together"]["test_accuracy"]["mean"] == pytest.approx(sum(values) / 2)
        low, mean, high = (100 * find(values) for find in (min, lambda both: sum(both) / 2, max))
        assert f"| {recipe} | 3 | {mean:.1f} % ({low:.1f} to {high:.1f}) |" in printed
        assert f"| {len(found['collapsed'])} of 2 |\n" in printed
    again, _ = benchmark("recipes", output, "--recipes", "guide", "few", "--continue")
    assert again["recipes"] == told["recipes"]
