"""The layout of the package: who may import whom, and how much there is to read."""

from __future__ import annotations

import sys

import pytest
from harness import house


def test_imports_point_one_way_by_the_table_of_wings() -> None:
    assert len(house.imports()) > 200
    assert {house.wing(name) for name in house.files()} - {""} == house.MAY_IMPORT.keys()
    assert house.forbidden_imports() == []


def test_no_imports_go_in_a_circle() -> None:
    assert house.circles() == []


def test_a_forbidden_import_and_a_circle_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    known, before = house.imports(), house.forbidden_imports()
    planted = [house.Import("system.text", "run.plan", True, False), house.Import("errors", "loop", False, False)]
    monkeypatch.setattr(house, "imports", lambda: [*known, *planted])
    assert house.forbidden_imports() == [*before, "system.text imports run.plan", "errors imports loop"]
    assert any("errors -> loop" in circle for circle in house.circles())


def test_every_wing_says_in_a_sentence_what_it_promises() -> None:
    wings = [path for path in house.PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    assert len(wings) >= 13
    for folder in wings:
        text = (folder / "__init__.py").read_text(encoding="utf-8")
        assert text.startswith('"""'), folder
        assert text.split('"""')[1].rstrip().endswith((".", "`.")), folder


def test_nothing_of_ours_shadows_a_top_level_module() -> None:
    """Launched by path, `ftloop/` comes first on the module search path of every library that starts a process."""
    taken = set(sys.stdlib_module_names) | {"evaluate", "datasets", "tokenizers", "accelerate", "torch", "tqdm"}
    ours = {path.stem for path in house.PACKAGE.glob("*.py")} | {p.name for p in house.PACKAGE.iterdir() if p.is_dir()}
    assert len(ours) > 20
    assert not taken & ours


def test_what_the_loop_loads_and_what_owns_it_stays_small(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures reached; a change that grows one has to say why."""
    assert house.main() == 0
    figures = capsys.readouterr().out
    print(figures)
    loaded = house.loaded_by_the_loop()
    # With a loss, an optimizer, several evaluation sets and a loop of the user's own that is taken up again, a line or
    # two each in several files; with what a checkpoint holds of a model and of an adapter (models/weights.py); and with
    # the way out of a checkpoint of another trainer's that does not fit (checkpoint/resume.py).
    assert 10 < len(loaded) <= 37, figures
    assert sum(map(house.lines, loaded)) <= 3940, figures
    assert len(house.CORE) <= 10
    assert sum(house.lines(house.PACKAGE / name) for name in house.CORE) <= 1530, figures
    assert len(list(house.PACKAGE.glob("*.py"))) <= 12
    assert max(map(house.lines, house.files().values())) <= 400
