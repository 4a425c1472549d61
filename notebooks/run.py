"""Run the notebook top to bottom: `python notebooks/run.py` does it in place (`make notebook`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "model_finetuning.ipynb"


def run_notebook(path: Path, folder: Path, timeout: float = 3600) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run in `folder`; an error in a cell is raised."""
    # Or else the kernel's debugger warns, in the first cell, that it has been frozen into Python.
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, resources=resources, record_timing=False).execute()
    for cell in code_cells(notebook):
        cell.outputs = _joined(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}  # not which version ran it, or every run is a change
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _joined(outputs: list[Any]) -> list[Any]:
    """What a cell has written in several pieces, as one; where it is cut is chance."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


if __name__ == "__main__":
    nbformat.write(run_notebook(NOTEBOOK, NOTEBOOK.parent), NOTEBOOK)
