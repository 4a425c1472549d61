"""The famous loops: what is named in them, that mending it makes Trainer's run, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from harness.command import CHECKOUT
from harness.pages import BOOK

from benchmarks.fidelity import famous_loops

PAGE = BOOK["famous-loops.md"]
TABLE = PAGE.split(famous_loops.BEGIN)[1].split(famous_loops.END)[0]


def test_the_page_tells_of_every_loop_by_causes_that_exist() -> None:
    texts = yaml.safe_load((CHECKOUT / "ftloop/compare/causes/texts.yaml").read_text(encoding="utf-8"))
    rows = [row.split(" | ") for row in TABLE.splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == [each.title for each in famous_loops.LOOPS.values()]
    for row in rows:
        told = set(row[2].replace("; then ", ", ").split(", "))
        assert len(told) > 4
        assert told <= {"fused", *texts}
        assert f"**{row[0].removeprefix('| ')}**" in PAGE.replace("s** loop", "s**")


def test_the_table_is_written_between_its_marks_alone() -> None:
    page = famous_loops.written(PAGE, "| new |\n")
    assert page == PAGE.replace(TABLE, "| new |\n")
    assert famous_loops.written(page, TABLE) == PAGE


def test_a_loop_that_does_not_become_trainers_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The course's loop, with a choice of its own that nothing names: a weight is nudged."""
    course = famous_loops.LOOPS["course"]

    def nudged(job: famous_loops.Job, file: Path, mended: famous_loops.Mended) -> None:
        clip = famous_loops.clip

        def nudge(model: famous_loops.Any, mended: famous_loops.Mended) -> None:
            clip(model, mended)
            model.classifier.bias.grad[0] += 0.125

        monkeypatch.setattr(famous_loops, "clip", nudge)
        course.loop(job, file, {*mended, "seed", "initial-weights", "not-reseeded", "sampler", "fused", "decay-groups"})
        monkeypatch.setattr(famous_loops, "clip", clip)

    monkeypatch.setitem(famous_loops.LOOPS, "course", famous_loops.Famous("Nudged", nudged, course.arguments))
    assert famous_loops.main(["--only", "course"]) == 1
    assert "| Nudged | update 1, clipping |" in (printed := capsys.readouterr().out)
    assert printed.endswith("differs at update 1 |\n")


@pytest.mark.slow
def test_every_loop_is_mended_to_trainers_bits_as_the_page_says() -> None:
    """After a change that another table comes of: `python benchmarks/fidelity/famous_loops.py --write`."""
    pytest.importorskip("peft", reason="PEFT is not installed: pip install ftloop[peft]")
    steps = famous_loops.run(list(famous_loops.LOOPS))
    assert famous_loops.table(steps) == TABLE
    assert all(each[-1].comparison.same for each in steps.values())
    assert all(len(each) > 2 for each in steps.values()), "each takes more than one look"
