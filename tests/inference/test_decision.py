"""What `ftloop calibrate` has left beside a model is decided by: from Python, on the command line, and in scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.models import tiny_bert, tiny_tokenizer
from scipy.special import expit, softmax

from ftloop import load_classifier
from ftloop.errors import ExitCode, UserError
from ftloop.inference.__main__ import main
from ftloop.system.manifest import DECISION

TEXTS = [f"word{i} word{i + 7} word{3 * i}" for i in range(30)]
NAMES = {0: "no", 1: "yes"}


def model_folder(folder: Path, problem_type: str | None = None) -> Path:
    model = tiny_bert(2, problem_type=problem_type, id2label=NAMES)
    model.classifier.weight.data *= 50
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def decide(folder: Path, **values: Any) -> None:
    (folder / DECISION).write_text(json.dumps({"labels": ["no", "yes"], "thresholds": None} | values))


def test_labels_and_probabilities_follow_the_decision(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    plain = load_classifier(folder)(TEXTS)
    logits = np.log([list(each.probabilities.values()) for each in plain])
    ordered = sorted(each.probabilities["yes"] for each in plain)
    decide(folder, temperature=2.0)
    scaled = load_classifier(folder)(TEXTS)
    shares = softmax(logits / 2, axis=1)
    np.testing.assert_allclose([list(each.probabilities.values()) for each in scaled], shares, atol=1e-5)
    assert [each.label for each in scaled] == [each.label for each in plain]
    threshold = float(np.sort(shares[:, 1])[20] + np.sort(shares[:, 1])[21]) / 2
    decide(folder, temperature=2.0, thresholds=[1 - threshold, threshold])
    found = load_classifier(folder)(TEXTS)
    assert sum(each.label == "yes" for each in found) == 9
    assert all(each.score == each.probabilities[each.label] and each.labels == (each.label,) for each in found)
    assert ordered[0] < ordered[-1]


def test_of_several_labels_each_has_its_threshold(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "multi_label_classification")
    plain = load_classifier(folder)(TEXTS)
    decide(folder, temperature=3.0, thresholds=[0.6, 0.3])
    found = load_classifier(folder)(TEXTS)
    for before, after in zip(plain, found, strict=True):
        odds = np.array(list(before.probabilities.values()))
        shares = expit(np.log(odds / (1 - odds)) / 3)
        np.testing.assert_allclose(list(after.probabilities.values()), shares, atol=1e-4)
        expected = [NAMES[i] for i, (share, least) in enumerate(zip(shares, (0.6, 0.3), strict=True)) if share > least]
        assert list(after.labels) == expected


def test_the_command_says_and_writes_what_was_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model_folder(tmp_path / "model")
    data = tmp_path / "in.csv"
    data.write_text("text,label\n" + "".join(f"{text},yes\n" for text in TEXTS))
    words = ["--model", str(folder), "--input", str(data), "--output", str(tmp_path / "out.jsonl")]
    decide(folder, temperature=2.0, thresholds=[1.0, 0.0])  # always yes
    assert main([*words, "--label_column_name", "label"]) == ExitCode.DONE
    told = capsys.readouterr()
    assert f"Decision  temperature 2, threshold of yes 0 ({folder / DECISION})\n" in told.err
    assert "accuracy=1.0000" in told.out
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["predicted_label"] for row in rows} == {"yes"}
    (folder / DECISION).write_text("{")
    with pytest.raises(UserError, match="not readable"):
        load_classifier(folder)


def test_a_model_that_is_saved_again_takes_its_decision_along(tmp_path: Path) -> None:
    folder, other = model_folder(tmp_path / "model"), tmp_path / "other"
    decide(folder, temperature=2.0, thresholds=[0.7, 0.3])
    decided = load_classifier(folder)
    decided.save(other)
    assert load_classifier(other).decision == decided.decision
    (folder / DECISION).unlink()
    load_classifier(folder).save(other)
    assert not (other / DECISION).exists()
