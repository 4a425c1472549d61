"""What a shipped recipe chose and the user did not gives way to what the data have; what the user chose never does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.command import BIN, TRAIN_PY, python, run, weights
from harness.zoo import write_member
from transformers import AutoModelForSequenceClassification

from ftloop.config.command_line import parse_args
from ftloop.config.reproduce import reproducing_command
from ftloop.config.train_config import SETTINGS, TrainConfig
from ftloop.data.glue import TASKS
from ftloop.data.labels import Labels
from ftloop.errors import ExitCode, UserError
from ftloop.metrics import check_metric, fit_metric
from ftloop.models.load import load_tokenizer
from ftloop.models.transform import fit_speed_ups
from ftloop.system.manifest import MANIFEST
from ftloop.train import main


def classes(count: int, kind: str = "single_label_classification") -> Labels:
    names = tuple(map(str, range(count)))
    return Labels(names, {name: id for id, name in enumerate(names)}, kind)  # type: ignore[arg-type]


NUMBERS = classes(0, "regression")
OF_TASK = {
    task: (NUMBERS if not known.label_names else classes(len(known.label_names)), known.metrics)
    for task, known in TASKS.items()
}


@pytest.mark.parametrize("recipe", ["guide", "fast", "demo"])
def test_every_recipe_fits_every_task_and_kind_of_label(recipe: str) -> None:
    kinds = OF_TASK | {"numbers": (NUMBERS, None), "5": (classes(5), None)}
    kinds["several"] = (classes(3, "multi_label_classification"), None)
    chosen = {}
    for name, (labels, metrics) in kinds.items():
        config = fit_metric(parse_args([recipe]), labels, metrics)
        check_metric(config, labels, metrics)
        chosen[name] = config.metric_for_best_model
        assert config.metric_rises is (chosen[name] != "mse")
    own = parse_args([recipe]).metric_for_best_model
    assert chosen["mrpc"] == chosen["5"] == chosen["several"] == own
    assert (chosen["cola"], chosen["stsb"], chosen["sst2"]) == ("matthews_correlation", "pearson", "accuracy")
    assert chosen["numbers"] == "mse"


def test_a_small_error_is_the_best_in_trainers_run_too() -> None:
    """Its own rule takes every metric but a loss for one to be raised: by it, the worst would be kept."""
    fitted = fit_metric(parse_args(["guide", "--trainer_compat"]), NUMBERS, None)
    assert (fitted.metric_for_best_model, fitted.greater_is_better) == ("mse", False)
    by_hand = parse_args(["guide", "--trainer_compat", "--metric_for_best_model", "mse"])
    assert by_hand.metric_rises is True, "as Trainer has it"


@pytest.mark.parametrize("words", [["--metric_for_best_model", "f1"], ["--greater_is_better", "true"]])
def test_what_the_user_chose_does_not_give_way(words: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("metric_for_best_model: f1\n")
    for config in (parse_args(["guide", *words]), parse_args([str(own)]), TrainConfig(metric_for_best_model="f1")):
        with pytest.raises(UserError, match="is none of this data's: loss, mse"):
            check_metric(fit_metric(config, NUMBERS, None), NUMBERS, None)


@pytest.fixture
def words(tiny_folder: Path, tmp_path: Path) -> list[str]:
    rows: list[dict[str, Any]] = [{"sentence": f"{('no', 'yes')[i % 2]} word{i}", "label": i % 2} for i in range(24)]
    for name, part in (("train", rows[:16]), ("validation", rows[16:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = [f"--{name}_file={tmp_path / f'{name}.jsonl'}" for name in ("train", "validation")]
    model = ["--model_name_or_path", str(tiny_folder / "model"), "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    return [*model, *files, "--task_name", "cola", "--num_train_epochs", "2", "--save_total_limit", "9"]


def test_the_guide_trains_on_another_task_and_resumes(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stderr_of: Callable[..., str]
) -> None:
    out, resumed = tmp_path / "out", ["--resume_from_checkpoint", "last"]
    assert main(["guide", *words]) == ExitCode.DONE
    said = capsys.readouterr().out
    line = "Metric    matthews_correlation tells the best model: the recipe's accuracy is none of this data's "
    assert said.count(f"{line}(loss, matthews_correlation)\n") == 1
    assert "Best      checkpoint-" in said
    whole = weights(out)
    config = json.loads((out / MANIFEST).read_text())["config"]
    assert config["metric_for_best_model"] == "matthews_correlation"
    again = reproducing_command(config, 1, {"name": "cpu"})
    assert again[again.index("--metric_for_best_model") + 1] == "matthews_correlation", "no recipe is named there"
    assert parse_args(again[again.index("ftloop.train") + 1 :]).metric_for_best_model == "matthews_correlation"

    assert main(["guide", *words, *resumed]) == ExitCode.DONE
    assert "Finished  already" in capsys.readouterr().out, "before the data are read"

    for name in (MANIFEST, "model.safetensors", "checkpoint-2/trainer_state.json"):
        (out / name).unlink()
    assert main(["guide", *words, *resumed]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Broken    checkpoint-2" in said
    assert "Changed" not in said
    assert weights(out) == whole

    told = stderr_of(
        main, ["guide", *words, "--output_dir", str(tmp_path / "other"), "--metric_for_best_model", "accuracy"]
    )
    assert "metric_for_best_model: 'accuracy' is none of this data's: loss, matthews_correlation" in told


CANNOT = {"bert": (), "distilbert": ("first_token_only",), "gpt2": ("padding", "first_token_only")}


@pytest.mark.parametrize("architecture", CANNOT)
def test_the_fast_recipe_leaves_out_what_a_model_cannot_have(architecture: str, tmp_path: Path) -> None:
    write_member(tmp_path, architecture)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    fast = parse_args(["fast"])
    config, said = fit_speed_ups(fast, model, tokenizer)
    defaults = {name: SETTINGS[name].default for name in CANNOT[architecture]}
    assert config == replace(fast, **defaults)
    assert all(name in said for name in defaults) if defaults else said == ""
    for words in (["guide", "--padding", "none"], ["fast", "--padding", "none"]):
        config, _ = fit_speed_ups(parse_args(words), model, tokenizer)
        assert config.padding == "none", "the user's own"


def test_the_fast_recipe_trains_any_model_and_resumes(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stderr_of: Callable[..., str]
) -> None:
    write_member(tmp_path / "gpt2", "gpt2")
    words = ["fast", *words, "--model_name_or_path", str(tmp_path / "gpt2"), "--resume_from_checkpoint", "last"]
    assert main(words) == ExitCode.DONE
    said = capsys.readouterr().out
    line = "Recipe    without its padding none and first_token_only true, which gpt2 cannot have\n"
    assert said.count(line) == 1
    assert "each padded to its longest row" in said
    whole = weights(tmp_path / "out")
    assert main(words) == ExitCode.DONE
    assert "Finished  already" in capsys.readouterr().out
    for name in (MANIFEST, "model.safetensors", "checkpoint-2/trainer_state.json"):
        (tmp_path / "out" / name).unlink()
    assert main(words) == ExitCode.DONE
    assert "Changed" not in capsys.readouterr().out
    assert weights(tmp_path / "out") == whole
    assert "padding: none is known for albert" in stderr_of(main, [*words, "--padding", "none"])


def test_a_finished_run_of_the_users_own_metric_is_another(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, "--resume_from_checkpoint", "last"]
    assert main(["guide", *words, "--metric_for_best_model", "loss"]) == ExitCode.DONE
    assert main(["guide", *words]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Finished" not in said
    assert "metric_for_best_model (loss then, matthews_correlation now)" in said


@pytest.fixture
def one_file(words: list[str], tmp_path: Path) -> list[str]:
    """The same, with the validation rows held out of the training file."""
    train = tmp_path / "train.jsonl"
    train.write_text(train.read_text() + (tmp_path / "validation.jsonl").read_text())
    return [*(word for word in words if "validation_file" not in word), "--validation_split", "0.25"]


@pytest.mark.slow
def test_two_processes_hold_out_the_same_rows_and_take_the_same_metric(one_file: list[str], tmp_path: Path) -> None:
    launch = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", TRAIN_PY, "guide"]
    said = run(*launch, *one_file).stdout  # processes of other rows or settings refuse to train together
    assert said.count("Data      train 18, validation 6 rows\n") == 1
    assert said.count("Metric    matthews_correlation tells the best model") == 1
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["num_processes"] == 2


@pytest.mark.slow
def test_every_seed_is_judged_by_the_same_rows_and_metric(one_file: list[str], tmp_path: Path) -> None:
    said = python("guide", *one_file, "--seeds", "1,2").stdout
    runs = [json.loads((tmp_path / "out" / f"seed-{seed}" / MANIFEST).read_text()) for seed in (1, 2)]
    assert runs[0]["data"] == runs[1]["data"]
    assert [each["config"]["metric_for_best_model"] for each in runs] == ["matthews_correlation"] * 2
    assert "matthews_correlation" in said.split("Results")[-1], "the table of both"
