"""What a run leaves beside the model: its facts, and what it said of each row."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from harness.rows import tiny_pairs

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.contradictions import count_contradictions
from ftloop.data.labels import Labels
from ftloop.errors import UserError
from ftloop.job.fine_tune import fine_tune
from ftloop.report import outcome
from ftloop.system.manifest import DECISION


def a_run(output_dir: Path) -> Any:
    return SimpleNamespace(config=TrainConfig(output_dir=str(output_dir)), say=print, is_main=True)


def fail(*_: Any) -> None:
    raise InterruptedError("after the training")


def test_a_finished_run_is_read_back_with_what_it_said_of_each_row(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tiny_pairs(30)
    rows[7] = {**rows[6], "label": 1 - rows[6]["label"]}
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = TrainConfig(
        model_name_or_path=str(tiny_folder / "model"),
        train_file=str(tmp_path / "train.jsonl"),
        validation_file=str(tiny_folder / "validation.jsonl"),
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        max_seq_length=8,
        disable_tqdm=True,
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / DECISION).write_text("{}")
    monkeypatch.setattr("ftloop.job.fine_tune.evaluate_and_predict", fail)
    with pytest.raises(InterruptedError):
        fine_tune(config)
    monkeypatch.undo()
    assert not (tmp_path / "out" / DECISION).exists(), "it was fitted to an earlier model"
    run = fine_tune(replace(config, resume_from_checkpoint="last"))
    assert run is not None
    config = run.config
    left = outcome.read_finished_run(tmp_path / "out")
    assert left.config == config.to_dict()
    assert left.facts is not None
    assert left.facts["data"]["numbers_are_ids"] is False, "0 and 1 are the names"
    assert left.history == run.state.log_history
    assert list(left.predictions) == ["validation"]
    table = outcome.read_predictions(left.predictions["validation"]).to_pylist()
    assert [row["sentence1"] for row in table] == [row["sentence1"] for row in tiny_pairs(13)]
    assert [row["label"] for row in table] == [str(row["label"]) for row in tiny_pairs(13)]
    logits = torch.tensor([row["logits"] for row in table])
    names = left.facts["data"]["labels"]
    assert [row["prediction"] for row in table] == [names[i] for i in logits.argmax(-1)]
    # float32 softmax by another order of operations
    assert [row["score"] for row in table] == pytest.approx(logits.softmax(-1).max(-1).values.tolist(), abs=1e-6)
    right = np.mean([row["prediction"] == row["label"] for row in table])
    assert left.results["eval_accuracy"] == right
    data = left.facts["data"]
    assert data["contradictions"] == {"rows": 2, "of": 30}
    assert data["sets"]["train"]["labels"] == {
        name: sum(str(row["label"]) == name for row in rows) for name in ("0", "1")
    }
    assert data["sets"]["train"]["truncated"] == sum(2 + len(row["sentence2"].split()) + 3 > 8 for row in rows)
    manifest = json.loads((tmp_path / "out" / "ftloop_manifest.json").read_text())
    assert {"ftloop_run.json", "validation_predictions.parquet"} <= manifest["results"].keys()


@pytest.mark.parametrize(
    ("labels", "raw", "rows"),
    [
        (Labels(("no", "yes"), {"0": 0, "no": 0, "1": 1, "yes": 1}), ["1", "yes", "no", "0", "0", "1"], 2),
        (Labels((), {}, ProblemType.REGRESSION), ["3", "3.0", "2.5", "4", "1", "2"], 0),
        (
            Labels(("a", "b"), {"a": 0, "first": 0, "b": 1}, ProblemType.MULTI_LABEL),
            [["a", "b"], ["b", "first"], ["a"], ["a", "a"], [], ["b"]],
            2,
        ),
    ],
)
def test_rows_contradict_by_class_and_not_by_how_it_is_written(labels: Labels, raw: list[Any], rows: int) -> None:
    train = Dataset.from_dict({"text": ["x", "x", "y", "y", "z", "z"], "label": raw})
    assert count_contradictions(train, ("text",), "label", labels) == {"rows": rows, "of": 6}


def test_a_folder_without_a_run_or_with_a_damaged_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        outcome.read_finished_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no run has ended here"):
        outcome.read_finished_run(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{}")
    assert outcome.read_finished_run(tmp_path).facts == {}
    for history in ("5", "[5]"):
        (tmp_path / "trainer_state.json").write_text(f'{{"log_history": {history}}}')
        with pytest.raises(UserError, match="no list of log lines"):
            outcome.read_finished_run(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "ftloop_run.json").write_text("{")
    with pytest.raises(UserError, match="not readable"):
        outcome.read_finished_run(tmp_path)
    (tmp_path / "test_predictions.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="not readable"):
        outcome.read_predictions(tmp_path / "test_predictions.parquet")
