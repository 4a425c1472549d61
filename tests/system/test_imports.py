"""What a library draws when it is imported in the midst of a run."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from ftloop.system.imports import import_without_drawing

SCORED = """
import random, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from ftloop.config.problem_type import ProblemType
from ftloop.data.labels import Labels
from ftloop.metrics import score
labels = Labels(("no", "yes"), {"no": 0, "yes": 1}, ProblemType.SINGLE_LABEL)
before = random.getstate()
assert score("f1", np.array([0, 1]), np.array([0, 1]), labels) == 1.0
print(random.getstate() == before)
"""


def test_a_library_that_draws_when_it_is_imported_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "draws_when_imported.py").write_text("import random\ndrawn = random.getrandbits(24)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = random.getstate()
    module = import_without_drawing("draws_when_imported")
    assert random.getstate() == before
    assert module.drawn == random.getrandbits(24), "it did draw"


def test_the_first_evaluation_of_a_process_draws_nothing(tmp_path: Path) -> None:
    """rich, which scikit-learn imports where it is installed, draws; here a stand-in of scikit-learn does."""
    done = subprocess.run(
        [sys.executable, "-c", SCORED, str(stand_in(tmp_path))],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.strip().endswith("True")


def stand_in(folder: Path) -> Path:
    package = folder / "sklearn"
    package.mkdir()
    (package / "__init__.py").write_text("")
    scores = "import random\nrandom.getrandbits(24)\ndef f1_score(*given, **settings):\n    import numpy as np\n"
    (package / "metrics.py").write_text(f"{scores}    return np.ones(2)\n")
    return folder
