"""`make gpu-check` goes on after a failure, ends what takes too long, and continues where it stopped."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness.command import benchmark

from benchmarks.fidelity import parity
from benchmarks.gpu_check import check
from benchmarks.gpu_check.steps import WAYS, Step, steps
from benchmarks.speed import large_model, throughput_rows, throughput_runs
from ftloop.config.train_config import SETTINGS

TIMED = """
import json, sys
job = json.load(open(sys.argv[1]))
json.dump({"ms_per_step": job["ms"], "peak_mb": 100.0, "syncs_per_micro_batch": 1.0}, open(sys.argv[2], "w"))
"""


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A call of the command with steps of our own."""

    def call(todo: list[Step], *words: str) -> tuple[int, dict[str, Any], str]:
        output = tmp_path / "found.json"
        monkeypatch.setattr(check, "ROOT", tmp_path)
        monkeypatch.setattr(check, "digest_of_code", lambda: "this")
        monkeypatch.setattr(check, "steps", lambda is_quick: todo)
        monkeypatch.setattr(sys, "argv", ["check.py", "--quick", "--output", str(output), *words])
        return check.main(), json.loads(output.read_text()), output.with_suffix(".md").read_text()

    return call


def step(name: str, code: str, limit: int = 30, **job: Any) -> Step:
    return Step(name, (sys.executable, "-c", code), limit, job or None)


def test_it_goes_on_after_what_fails_or_hangs_and_continues_there(
    quick: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counting = f"open({str(tmp_path / 'done')!r}, 'a').write('x'); print('as expected')"
    todo = [
        step("good", counting),
        step("bad", "print('nothing | came'); raise SystemExit(3)"),
        step(
            "hangs", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])", 1
        ),
        step("trainer-bf16", TIMED, ms=20.0),
        step("ftloop-bf16", TIMED, ms=18.0),
    ]
    code, found, table = quick(todo)
    assert code == 1
    assert {name: told["ok"] for name, told in found["steps"].items()} == {
        "good": True, "bad": False, "hangs": False, "trainer-bf16": True, "ftloop-bf16": True,
    }  # fmt: skip
    assert found["steps"]["hangs"]["failed"] == "not done after 1 s"
    assert found["steps"]["hangs"]["seconds"] < 20
    assert "| bad | exit code 3 |" in table
    assert "nothing / came" in table
    assert "| ftloop-bf16 | 18.00 (18.00 to 18.00) | 1 | 0.900 | 1 | 100 |" in table
    assert table.startswith(f"# {found['conditions']['device']}")
    assert (tmp_path / "runs" / "gpu-check-quick" / "bad.log").read_text() == "nothing | came\n"

    todo[1] = step("bad", "print('mended')")
    todo[2] = step("hangs", "print('mended')")
    code, found, _ = quick(todo)
    assert code == 0
    assert list(found["steps"]) == [each.name for each in todo]
    assert (tmp_path / "done").read_text() == "x", "what was well is not done again"
    quick(todo, "--again", "--only", "good")
    assert (tmp_path / "done").read_text() == "xx"
    with pytest.raises(SystemExit, match="--only: bda is none of good, bad"):
        quick(todo, "--only", "bda")
    assert "bad.log" in capsys.readouterr().out


@pytest.mark.parametrize(("visible", "first"), [(None, "0"), ("3,1", "3"), ("GPU-5e,GPU-7a", "GPU-5e"), ("", "")])
def test_every_step_sees_one_of_several_gpus(
    visible: str | None, first: str, quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer would take them all in one process, and the tests of one device would be skipped."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    code, found, _ = quick([step("sees", "import os; print('sees', repr(os.environ['CUDA_VISIBLE_DEVICES']))")])
    assert (code, found["steps"]["sees"]["said"]) == (0, f"sees {first!r}")


def test_tests_that_are_all_skipped_on_a_gpu_are_a_failure(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for is_there in (True, False):
        monkeypatch.setattr("benchmarks.gpu_check.steps.has_gpu", lambda is_there=is_there: is_there)
        tests = next(each for each in steps(quick=False) if each.name == "tests")
        for said, is_ok in {"31 skipped in 4.01s": not is_there, "30 passed, 1 skipped in 9.53s": True}.items():
            words = (sys.executable, "-c", f"print({said!r})")
            code, found, table = quick([replace(tests, words=words)], "--again")
            assert (code == 0) == found["steps"]["tests"]["ok"] == is_ok
            assert is_ok or "| tests | it says nothing of 'passed' |" in table


def test_without_a_gpu_it_says_what_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "has_gpu", lambda: False)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    with pytest.raises(SystemExit, match="no CUDA device here; --quick"):
        check.main()


def test_the_plan_takes_turns_and_has_settings_that_exist() -> None:
    todo = steps(quick=False)
    names = [each.name for each in todo]
    assert len(set(names)) == len(names)
    for precision in ("bf16", "fp16"):
        kinds = [name.partition("-")[0] for name in names if name.partition("-")[2].startswith(precision)]
        assert kinds == ["ftloop", "trainer", "trainer", "ftloop"] or kinds == [
            "trainer",
            "ftloop",
            "ftloop",
            "trainer",
        ]
    assert {name for settings in WAYS.values() for name in settings} <= SETTINGS.keys()
    assert [each.name for each in steps(quick=True)] == [name for name in names if not name.endswith("-2")]
    timed = [each.job for each in todo if each.job is not None and each.job.get("kind") == "cuda"]
    assert {job["steps"] for job in timed} == {400}


@pytest.mark.parametrize("is_there", [True, False])
def test_on_a_gpu_weights_are_compared_under_deterministic_kernels_alone(
    is_there: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else equal sides would seem to differ; and what a CPU keeps on paper is not what a GPU keeps."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    assert parity.arguments("fp32", 1, 1.0, "out")["full_determinism"] == is_there
    bench: Any = SimpleNamespace(model="model", short=["short"], whole=["whole"], sizes=throughput_rows.QUICK)
    assert ("--full_determinism" in throughput_runs._words(bench, "ftloop-plain-fp32", 0)) == is_there
    assert ("--full_determinism" in throughput_runs._words(bench, "trainer-bf16", 0)) == is_there
    assert "--full_determinism" not in throughput_runs._words(bench, "fast-ftloop", 1)
    figures = dict.fromkeys(("peak_mb", "loaded_mb", "libraries_mb", "seconds_per_update", "save_seconds"), 1.0)
    runs = {"fp32": {side: [figures | {"weights": side}] for side in ("trainer", "ftloop-plain")}}
    result: dict[str, Any] = {"runs": runs, "parameters": 1000}
    large_model.judge(large_model.QUICK, result)
    assert ("on_paper_mb" in result["cases"]["fp32"]) != is_there
    large_model.show(result)


@pytest.mark.slow
def test_a_part_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    names = ["environment", "faults", "launched", "two-processes", "trainer-bf16", "ftloop-bf16"]
    told, printed = benchmark("gpu_check/check", tmp_path / "found.json", "--only", *names)
    assert all(each["ok"] for each in told["steps"].values()), printed
    assert list(told["steps"]) == names
    assert len(told["steps"]["faults"]["found"]) == 6
    both = [told["steps"][f"{side}-bf16"]["found"] for side in ("trainer", "ftloop")]
    assert both[0]["weights"] == both[1]["weights"]
