"""`--help`, short, and `--help-all`; of several processes one prints."""

from __future__ import annotations

import re

import pytest

from ftloop.config import RECIPES, SETTINGS, parse_args
from ftloop.usage import COMMON


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse_args(list(words))
    assert caught.value.code == 0
    return capsys.readouterr().out


def flags(text: str) -> list[str]:
    return re.findall(r"^  --(\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("columns", ["80", "100"])
def test_the_short_help_is_a_page_and_a_half_of_the_common_settings(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = shown(capsys, "--help")
    assert sorted(flags(text)) == sorted(COMMON)
    assert f"--help-all lists all {len(SETTINGS)} settings." in text
    assert len(text.splitlines()) <= (100 if columns == "80" else 80)
    assert max(map(len, text.splitlines())) <= int(columns)
    for recipe in RECIPES.glob("*.yaml"):
        assert re.search(rf"^  {recipe.stem} +[A-Z]", text, re.MULTILINE), recipe
    assert shown(capsys, "demo", "-h") == text


@pytest.mark.parametrize("columns", ["80", "100", "1"])
def test_the_whole_help_has_every_setting_once_with_its_default_and_its_words(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = shown(capsys, "--help-all")
    assert sorted(flags(text)) == sorted(SETTINGS)
    assert max(map(len, text.splitlines())) <= max(int(columns), 80)
    flat = " ".join(text.split())
    for setting in SETTINGS.values():
        assert setting.help in flat
    assert "--learning_rate 5e-05 Peak learning rate." in flat
    assert "--eval_strategy no When to evaluate. One of no, steps, epoch." in flat
    assert "--bf16 bfloat16 autocast." in flat
    assert "--keep_freed_memory true On glibc" in flat
    assert "--max_steps -1 " in flat
    assert "--eval_steps N " in flat
    assert "--train_file FILE " in flat
    assert "--text_column_names NAME ... One or two" in flat


def test_of_several_processes_one_shows_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert "--help-all" in shown(capsys, "--help")
    monkeypatch.setenv("RANK", "1")
    assert shown(capsys, "--help") == ""
