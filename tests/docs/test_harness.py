"""What the workers and benchmarks replace in ftloop, by a name in a string, is there."""

from __future__ import annotations

import pkgutil
import re

import pytest
from harness import patching
from harness.command import CHECKOUT, WORKERS

import ftloop.system.rng
import ftloop.system.text
from benchmarks.speed.large_data_run import STEPS


def test_every_function_that_is_replaced_by_its_name_is_there() -> None:
    places = {place for functions in STEPS.values() for place in functions}
    for file in [*WORKERS.glob("*.py"), CHECKOUT / "benchmarks" / "speed" / "large_data_run.py"]:
        source = file.read_text(encoding="utf-8")
        places |= set(re.findall(r'(?:replace_everywhere|call_before|at_call)\(\s*"([\w.]+)"', source))
        places |= set(re.findall(r'^ {8}"([\w.]+)",$', source, re.MULTILINE))
    assert len(places) > 25
    for place in places:
        assert callable(pkgutil.resolve_name(f"ftloop.{place}")), place


def test_a_function_is_replaced_wherever_it_has_been_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = ftloop.system.rng.rng_state
    monkeypatch.setattr(ftloop.system.rng, "rng_state", real)
    monkeypatch.setattr(ftloop.system.text, "under_another_name", real, raising=False)
    patching.call_before("system.rng.rng_state", calls.append)
    ftloop.system.rng.rng_state()
    ftloop.system.text.under_another_name()  # type: ignore[attr-defined]
    assert calls == [1, 2]
    patching.replace_everywhere("system.rng.rng_state", lambda watched: real)
    assert ftloop.system.rng.rng_state is ftloop.system.text.under_another_name is real  # type: ignore[attr-defined]
