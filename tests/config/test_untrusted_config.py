"""Configurations nobody trusts: flags, values from Python and recipes end in a configuration or a clear message."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.untrusted import VALUES, examples, few_and_many, fresh
from hypothesis import given
from hypothesis import strategies as st

import ftloop
from ftloop.config.command_line import parse_args
from ftloop.config.train_config import SETTINGS, TrainConfig
from ftloop.errors import UserError
from ftloop.run.accelerator import mixed_precision
from ftloop.run.optim import check_schedule
from ftloop.run.plan import make_plan
from ftloop.train import main

vars(ftloop).pop("train", None)  # so that `from ftloop import train` is the function again, for other tests


def config_or_problems(make: Callable[[], TrainConfig]) -> TrainConfig | None:
    """A configuration that can be carried through to a plan and a schedule; or None, where a UserError has told why."""
    try:
        config = make()
        mixed_precision(config)
        check_schedule(config)
        for rows, processes in ((1, 1), (7, 2), (10**9, 8)):
            steps = math.ceil(rows / config.per_device_train_batch_size / processes)
            plan = make_plan(config, rows, steps, processes)
            check_schedule(config, plan.warmup_steps, plan.max_steps)
        return config
    except UserError as error:
        for problem in error.problems:
            assert problem
            assert len(problem) < 1000, "a message is no place for a file's content"
        return None


def test_numbers_beyond_reason_are_told_before_they_overflow_anything(tried: dict[str, int]) -> None:
    for name, setting in SETTINGS.items():
        if setting.type in (int, int | None, float, float | None):
            tried["configurations"] += 1
            with pytest.raises(UserError) as caught:
                TrainConfig(**{"eval_strategy": "steps", "dataloader_num_workers": 1, name: "1e308"})
            assert re.search(f"{name}\\b.* (too large|must)", str(caught.value))
    for name in ("dataloader_num_workers", "preprocessing_num_workers"):
        with pytest.raises(UserError, match=f"{name}: 1025 is too large"):
            TrainConfig(**{name: 1025})


ABSURD = st.sampled_from(
    ["0", "-1", "1e308", "-1e308", "1e-320", "nan", "inf", "9" * 400, "9" * 5000, "2147483648", "1e10", "0x10", "1_000",
     "", " ", "none", "true", "no", "~", "~no-such-person/x", "a\0b", "\udcff", "😀", "[" * 5000, "{}", '{"a": [1]}',
     '{"lr_end": NaN}', '{"num_cycles": 1e308}', '{"power": -1, "power": 2}', '{"\\ud800": 1}', "/", "..", "-", "last"]
)  # fmt: skip
NAMES = st.sampled_from(sorted(SETTINGS))


@few_and_many(30, 1000)
def test_any_command_line_is_a_configuration_or_is_told_what_is_wrong(count: int, tried: dict[str, int]) -> None:
    flags = st.tuples(NAMES | st.text(max_size=6), ABSURD | st.text(max_size=6), st.booleans())
    starts = st.sampled_from(
        [[], ["guide"], ["demo"], ["no-such"], ["-x"], ["--"], ["="], ["a\0b"], ["n" * 5000], ["~nobody-here"]]
    )

    @examples(count)
    @given(starts, st.lists(flags, max_size=4))
    def holds(start: list[str], given: list[tuple[str, str, bool]]) -> None:
        tried["configurations"] += 1
        words = [[f"--{name}={value}"] if joined else [f"--{name}", value] for name, value, joined in given]
        with contextlib.suppress(SystemExit):  # of --help, should it be drawn
            config_or_problems(lambda: parse_args([*start, *(word for pair in words for word in pair)]))

    holds()


@few_and_many(50, 1500)
def test_any_values_from_python_are_a_configuration_or_are_told(count: int, tried: dict[str, int]) -> None:
    anything = st.recursive(
        VALUES | st.binary(max_size=3) | ABSURD,
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(VALUES.filter(lambda key: key == key), inner, max_size=2)
        ),
        max_leaves=4,
    )

    @examples(count)
    @given(st.dictionaries(NAMES, anything, max_size=4))
    def holds(given: dict[str, Any]) -> None:
        tried["configurations"] += 1
        config = config_or_problems(lambda: TrainConfig(**given))
        if config is not None:
            assert TrainConfig(**config.to_dict()) == config

    holds()


RECIPE_LINES = [
    *("seed: 1", "seed: 1", "seed: [1]", "seed: {a: b}", "seed: 2001-01-01", "seed: 0o17", "seed: 1:30", "seed:\t1"),
    *("bf16: 1", "output_dir: 5", "lr_scheduler_kwargs: {1: 2}", "lr_scheduler_kwargs: {a: 1, a: 2}", "? [a]\n: 1"),
    *("a: &a [*a]", "b: &b {c: *b}", "seed: *b", "<<: {seed: 3}", "<<: 3", "<<: *b", "sample_texts: ['\\0', a]"),
    'sample_texts: ["\\ud800"]',
    *('output_dir: "a\\0b"', "max_steps: " + "9" * 5000, "seed: !!int ''", "seed: !!bool x"),
    *("seed: !!timestamp 2001-99-99", "seed: !!binary '*'", "seed: !!float x", "seed: !!set {a}", "seed: !!omap [1]"),
    *("seed: !!python/object/apply:os.system [touch MARKER]", "seed: !!python/name:os.system", "seed: !no-such x"),
    *("--- ", "...", "%YAML 9.9", "%TAG ! x", "@", "`", "{", "[", "&", "*", "|", ">", "- a", "\x07", "\ufeff", "\x85"),
    *("text_column_names: a", "text_column_names: [[a]]", "eval_strategy: no", "eval_strategy: [no]", "seed: .inf"),
    "seed: " + "[" * 1000,
    "k: " + "x" * 100_000,
]  # fmt: skip


@few_and_many(30, 500)
def test_any_recipe_is_a_configuration_or_is_told_what_is_wrong(
    count: int, tmp_path: Path, tried: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    @examples(count)
    @given(st.lists(st.sampled_from(RECIPE_LINES) | st.text(max_size=8), max_size=5) | st.binary(max_size=40))
    def holds(lines: list[str] | bytes) -> None:
        tried["configurations"] += 1
        content = lines if isinstance(lines, bytes) else "\n".join(lines).encode("utf-8", "surrogatepass")
        recipe = fresh(tmp_path, "recipe.yaml", content)
        config_or_problems(lambda: parse_args([str(recipe)]))
        assert os.listdir(tmp_path) == ["recipe.yaml"], "a recipe has run something"

    holds()


# A few lines that stand for 2**60 texts.
BOMB = b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 61))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"seed: 1\nbf16: yes\nseed: 2\n", "line 3: 'seed' is there twice"),
        (b"lr_scheduler_kwargs: {power: 1, power: 2}", "line 1: 'power' is there twice"),
        (b"seed: !!python/object/apply:os.mkdir [sprung]", "not readable as YAML"),
        (BOMB + b"seed: *a60\n", "seed: [[[[[["),
        (BOMB + b"output_dir: *a60\n", "output_dir: expected text, not [[[[[["),
        (BOMB + b"lr_scheduler_kwargs: {power: *a60}\n", "expected names with a number or a text each"),
        (b"lr_scheduler_kwargs: &a {power: *a}", "expected names with a number or a text each"),
        (b"\x00\x01\x02\xff", "not UTF-8"),
        (b"seed: " + b"[" * 1000, "not readable as YAML"),
        (b"output_dir: \"a\\0b\"", "holds a NUL"),
        (b"sample_texts: [\"\\ud83d\"]", "not"),
    ],
)  # fmt: skip
def test_a_recipe_that_is_a_trap_is_told(
    content: bytes, told: str, stderr_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: dict[str, int]
) -> None:
    tried["configurations"] += 1
    monkeypatch.chdir(tmp_path)
    printed = stderr_of(main, [str(fresh(tmp_path, "recipe.yaml", content))])
    assert told in printed
    assert "Traceback" not in printed
    assert len(printed) < 20_000
    assert not (tmp_path / "sprung").exists()


def test_a_recipe_that_is_no_file_is_told(stderr_of: Any, tmp_path: Path, tried: dict[str, int]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for recipe, told in {
        str(tmp_path): f"error: recipe {tmp_path}: is a folder\n",
        "/dev/null": "error: recipe /dev/null: is not a regular file\n",
        str(tmp_path / "pipe"): "is not a regular file",
        str(tmp_path / "loop"): "cannot be read (Too many levels of symbolic links)",
        "n" * 5000: "cannot be read (File name too long)",
        "a\0b": "cannot be read (embedded null byte)",
        "~no-such-person/recipe.yaml": "recipe: no such home folder",
        "": "is a folder",
    }.items():
        tried["configurations"] += 1
        assert told in stderr_of(main, [recipe])
