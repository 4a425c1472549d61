"""`--help`, short, and `--help-all`; of several processes one prints."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ftloop.config.command_line import parse_args
from ftloop.config.recipe import SHIPPED
from ftloop.config.train_config import SETTINGS


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
    common = [name for name, setting in SETTINGS.items() if setting.common]
    assert 20 < len(common) < 40
    assert flags(text) == common
    assert f"--help-all lists all {len(SETTINGS)} settings." in text
    assert len(text.splitlines()) <= (102 if columns == "80" else 82)
    assert max(map(len, text.splitlines())) <= int(columns)
    for recipe in SHIPPED:
        assert re.search(rf"^  {recipe} +[A-Z]", text, re.MULTILINE), recipe
    of_recipe = shown(capsys, "demo", "-h")
    sets = re.search(r"\n\ndemo sets:\n(  \w+: .+\n)+", of_recipe)
    assert sets is not None
    assert of_recipe.replace(sets[0], "\n") == text
    assert "  load_best_model_at_end: true\n" in sets[0]


@pytest.mark.parametrize("columns", ["80", "100", "1"])
def test_the_whole_help_has_every_setting_once_with_its_default(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = shown(capsys, "--help-all")
    assert flags(text) == list(SETTINGS)
    assert max(map(len, text.splitlines())) <= max(int(columns), 80)
    flat = "".join(text.split())  # a line may end after a hyphen
    for setting in SETTINGS.values():
        assert "".join(setting.help.split()) in flat
    flat = " ".join(text.split())
    assert "--learning_rate N Peak learning rate. (default: 5e-05)" in flat
    assert "--eval_strategy CHOICE When to evaluate. One of no, steps, epoch. (default: no)" in flat
    assert "--bf16 [true|false] bfloat16 autocast. --fp16" in flat
    assert (
        "--keep_freed_memory [true|false] On glibc, keep freed memory: faster, the same bits. (default: true)" in flat
    )
    assert "it overrides num_train_epochs. (default: -1)" in flat
    assert "--lr_scheduler_kwargs JSON " in flat
    assert "--train_file PATH " in flat
    assert "--text_column_names TEXT [TEXT ...] One or two" in flat


def test_neither_help_nor_wrong_flags_wait_for_torch() -> None:
    code = "import sys\nfrom ftloop.config.command_line import parse_args\n"
    code += "try: parse_args(['--seed', 'x'])\nexcept ValueError: print(*{'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_of_several_processes_one_shows_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert "--help-all" in shown(capsys, "--help")
    monkeypatch.setenv("RANK", "1")
    assert shown(capsys, "--help") == ""
