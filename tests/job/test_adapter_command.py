"""The whole job with a LoRA adapter: train, best model, resume, final evaluation, prediction, card."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from harness.command import CHECKOUT, arguments
from harness.models import tiny_lora, write_tiny_folder
from harness.rows import tiny_pairs, tiny_tokenizer
from huggingface_hub import metadata_load
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ftloop import TrainConfig, finish, prepare, train
from ftloop.errors import ExitCode
from ftloop.inference.__main__ import main as predict
from ftloop.inference.classifier import load_classifier
from ftloop.train import main

pytest.importorskip("peft", reason="PEFT is not installed: pip install ftloop[peft]")

LORA = ["--lora_r", "4", "--lora_alpha", "16", "--lora_dropout", "0.1", "--lora_merge", "true"]
MORE = ["--use_cpu", "true", "--learning_rate", "1e-2", "--report_to", "none", "--resume_from_checkpoint", "last"]


def command(tiny_folder: Path, out: Path) -> list[str]:
    short = ["--per_device_train_batch_size", "4", "--num_train_epochs", "3", "--max_train_samples", "16"]
    return [*arguments(tiny_folder, out), *LORA, *MORE, *short, "--sample_texts", "yes word1", "word2"]


def test_the_whole_job_and_every_way_to_ask_its_adapter(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(tiny_folder, out)) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Adapter   LoRA of rank 4, scaled by 4, on query, value; " in said
    assert "Predicted " in said
    assert {"adapter_model.safetensors", "adapter_config.json"} < {path.name for path in out.iterdir()}
    assert not {"config.json", "model.safetensors"} & {path.name for path in out.iterdir()}
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tiny_folder / "model"
    )
    metadata = metadata_load(out / "README.md")
    assert metadata is not None
    assert metadata["library_name"] == "peft"
    card = (out / "README.md").read_text()
    assert (
        "holds a PEFT adapter alone (LoRA of rank 4, scaled by 4, on query, value), which is added to `model`" in card
    )
    assert str(tmp_path) not in card

    logits = np.stack(pq.read_table(out / "validation_predictions.parquet")["logits"].to_numpy())
    rows = [json.loads(line) for line in (tiny_folder / "validation.jsonl").read_text().splitlines()]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for folder in (out, out / "merged"):
        found = load_classifier(folder, device="cpu")([(row["sentence1"], row["sentence2"]) for row in rows])
        assert np.allclose([[*each.probabilities.values()] for each in found], shares, atol=1e-5), folder
    assert predict(["--model", str(out), "--pairs", "yes word1", "word2"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["label"] in ("equivalent", "not_equivalent")

    assert main(command(tiny_folder, out)) == ExitCode.DONE
    assert "Finished  already" in capsys.readouterr().out
    assert main([*command(tiny_folder, out), "--lora_r", "2"]) == ExitCode.USER_ERROR
    assert "lora_r (4 then, 2 now)" in capsys.readouterr().err


@pytest.mark.parametrize("merge", ["true", "false"])
def test_what_the_end_of_a_run_and_its_card_say_of_the_whole_model_works(
    merge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With three classes, where the base model's configuration says two: transformers cannot load the adapter."""
    write_tiny_folder(tmp_path)
    rows = [{"sentence": f"word{i % 7} {name}", "label": name} for i, name in enumerate(["good", "fair", "bad"] * 5)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    words = ["--model_name_or_path", "model", "--train_file", "rows.jsonl", "--output_dir", "it's mine"]
    assert main([*words, *LORA[:-1], merge, *MORE, "--max_steps", "2"]) == ExitCode.DONE
    said = capsys.readouterr().out
    with pytest.raises(ValueError, match="Could not load model"):
        pipeline("text-classification", model="it's mine")
    card = (tmp_path / "it's mine" / "README.md").read_text()
    assert ("give it the whole model, in `merged`" in card) == ("load_classifier(" not in said) == (merge == "true")
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 1 + (merge == "true")
    if merge == "false":
        (command,) = re.findall(r"^ {10}(.*load_classifier.*)$", said, re.MULTILINE)
        assert subprocess.run(command, shell=True).returncode == 0
        expected = by_pipeline("it's mine/merged")
        shutil.rmtree("it's mine/merged")
    capsys.readouterr()
    for block in blocks:
        exec(block, {})
    printed = capsys.readouterr().out
    (answer,) = load_classifier("it's mine", device="cpu")(["A text."])
    assert re.findall(r"label'?[=:] ?'(\w+)'", printed) == [answer.label] * len(blocks)
    assert by_pipeline("it's mine/merged") == pytest.approx(answer.probabilities, abs=1e-6)
    assert merge == "true" or expected == pytest.approx(answer.probabilities, abs=1e-6)


def by_pipeline(folder: str) -> dict[str, float]:
    (found,) = pipeline("text-classification", model=folder, top_k=None, device="cpu")(["A text."])
    return {each["label"]: each["score"] for each in found}


def test_a_run_that_died_after_its_model_was_saved_or_before_ends_in_the_same_bytes(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(command(tiny_folder, whole)) == ExitCode.DONE
    newest, older = sorted(whole.glob("checkpoint-*"), key=lambda folder: -int(folder.name.split("-")[1]))[:2]
    for folder in (newest, older):
        shutil.copytree(folder, cut / folder.name)
    weights = cut / newest.name / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert main(command(tiny_folder, cut)) == ExitCode.DONE
    said = capsys.readouterr().out
    assert f"Broken    {newest.name}: adapter_model.safetensors has " in said
    assert f"from {cut / older.name}" in said
    same = ("adapter_model.safetensors", "adapter_config.json", "merged/model.safetensors", "all_results.json")
    for name in same[:3]:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name

    manifest = json.loads((cut / "ftloop_manifest.json").read_text())
    (cut / "merged" / "model.safetensors").unlink()
    (cut / "eval_results.json").unlink()  # so that the results are made again, by the adapter that is there
    assert manifest["complete"]
    assert main(command(tiny_folder, cut)) == ExitCode.DONE
    assert "Trained   already" in capsys.readouterr().out
    for name in same[:3]:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_flags_of_lora_want_its_rank(capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path) -> None:
    words = [*arguments(tiny_folder, tmp_path), *LORA[2:], "--lora_target_modules", "query"]
    assert main(words) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    for name in ("lora_alpha", "lora_dropout", "lora_target_modules", "lora_merge"):
        assert f"{name}: only together with --lora_r" in said


def test_a_run_from_python_is_finished_with_its_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer, rows = tiny_tokenizer(), Dataset.from_list(tiny_pairs(13))
    rows = rows.map(lambda row: tokenizer(row["sentence1"], row["sentence2"]))
    model = tiny_lora(lambda: AutoModelForSequenceClassification.from_pretrained(tiny_folder / "model"))
    config = TrainConfig(output_dir=str(tmp_path), max_steps=2, eval_strategy="epoch", use_cpu=True, disable_tqdm=True)
    run = prepare(config, model, rows, rows, tokenizer)
    train(run)
    finish(run)
    assert "library_name: peft" in (tmp_path / "README.md").read_text()
    assert load_classifier(tmp_path, device="cpu")([("yes word1", "word2")])[0].label in ("LABEL_0", "LABEL_1")
    assert json.loads((tmp_path / "ftloop_run.json").read_text())["model"]["class"] == "BertForSequenceClassification"


def test_the_merged_model_cuts_texts_where_the_run_did(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*command(tiny_folder, out), "--max_seq_length", "9", "--max_steps", "1"]) == ExitCode.DONE
    limits = {folder: AutoTokenizer.from_pretrained(folder).model_max_length for folder in (out, out / "merged")}
    assert limits == {out: 64, out / "merged": 9}
    texts = [("yes word1 word2", "a few more words, which is said of a text")]
    one, other = (load_classifier(folder, device="cpu")(texts)[0].score for folder in limits)
    assert one == pytest.approx(other, abs=1e-6)
