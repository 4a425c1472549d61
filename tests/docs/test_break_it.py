"""The exercises of the walkthrough's "Break it" are what they say: their lines, their tests, their figures."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.command import CHECKOUT
from harness.pages import BOOK

from benchmarks.fidelity.break_it import EXERCISES, RESULT, apply, places
from benchmarks.fidelity.break_it_curves import told, told_chance


def test_each_line_is_there_once_and_its_change_is_python_that_differs(tmp_path: Path) -> None:
    assert len({exercise.name for exercise in EXERCISES}) == len(EXERCISES) >= 10
    for exercise in EXERCISES:
        assert len(places(exercise)) == 1, exercise.name
        source = (CHECKOUT / exercise.file).read_text(encoding="utf-8")
        copy = tmp_path / exercise.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source, encoding="utf-8")
        apply(exercise, tmp_path)
        changed = copy.read_text(encoding="utf-8")
        lines = list(zip(source.splitlines(), changed.splitlines(), strict=True))
        assert sum(was != is_now for was, is_now in lines) == 1, exercise.name
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), exercise.name


def test_each_test_named_is_there() -> None:
    for exercise in EXERCISES:
        file, _, name = exercise.test.partition("::")
        tree = ast.parse((CHECKOUT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name.partition("[")[0] in functions, exercise.name


def test_the_walkthrough_has_each_exercise_with_its_measured_figures() -> None:
    introduction, *parts = re.split(r"^## ", BOOK["walkthrough/break-it.md"], flags=re.MULTILINE)
    parts += re.split(r"^## ", BOOK["walkthrough/break-it-more.md"], flags=re.MULTILINE)[1:]
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    runs = result["runs"]
    assert told_chance(runs) in " ".join(introduction.split())
    assert [part.partition("\n")[0].split("`")[1] for part in parts] == [exercise.name for exercise in EXERCISES]
    for exercise, part in zip(EXERCISES, parts, strict=True):
        diff = f"```diff\n# {exercise.file}\n-{exercise.before}\n+{exercise.after}\n```"
        assert diff in part, exercise.name
        quoted = f'"{exercise.test}"' if "[" in exercise.test else exercise.test
        assert f"\npytest {quoted}\n" in part, exercise.name
        assert f"*Measured:* {told(exercise, runs)}" in " ".join(part.split()), exercise.name
        assert f"**{exercise.lesson[0].upper()}{exercise.lesson[1:]}.**" in " ".join(part.split()), exercise.name
        done = result["exercises"][exercise.name]
        assert {name: done[name] for name in vars(exercise)} == vars(exercise), "measured with this very change"


def script(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=900
    )


@pytest.mark.slow
def test_each_change_turns_its_test_red() -> None:
    done = script("benchmarks/fidelity/break_it.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(EXERCISES)} of {len(EXERCISES)} changes turn their test red" in done.stdout
    for exercise in EXERCISES:
        assert f"{exercise.name} " in done.stdout


# In place of the exercises one that changes nothing, one that breaks off, and one whose line is not there.
NOT_AS_PROMISED = """
import sys
from dataclasses import replace
from benchmarks.fidelity import break_it
exercise = next(each for each in break_it.EXERCISES if each.name == "schedule-per-micro-batch")
break_it.EXERCISES[:] = [
    replace(exercise, name="harmless", after="_ = run.scheduler.step()"),
    replace(exercise, name="crash", after="run.scheduler.stride()"),
    replace(exercise, name="nowhere", before="run.scheduler.stride()"),
]
sys.exit(break_it.main())
"""


@pytest.mark.slow
def test_an_exercise_that_does_not_do_what_it_promises_is_told() -> None:
    done = script("-c", NOT_AS_PROMISED)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT AS PROMISED: the test passes" in done.stdout
    assert "NOT AS PROMISED: no assertion failed, exit code 1" in done.stdout
    assert "NOT AS PROMISED: ftloop/loop.py has 0 lines 'run.scheduler.stride()'" in done.stdout
    assert "0 of 3 changes turn their test red" in done.stdout
