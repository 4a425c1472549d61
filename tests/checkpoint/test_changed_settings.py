"""Going on with other arguments: what stays the same run, what gives other bits, and what is another run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
from harness.cross_resume import RESUME_ARGUMENTS as ARGUMENTS
from harness.rows import pad, tiny_tokenizer
from harness.side_by_side import Job, run_ftloop

from ftloop import Stopped, TrainConfig, UserError, loop, prepare, save_model, train
from ftloop.checkpoint.changed_settings import changed_settings, refuse_another_run
from ftloop.checkpoint.save import save_checkpoint
from ftloop.checkpoint.verify import checkpoint_problems
from ftloop.config.command_line import parse_args
from ftloop.config.setting import OnResume
from ftloop.config.train_config import SETTINGS
from ftloop.loop import training_step
from ftloop.run.run import Run
from ftloop.system.manifest import read_manifest

SAVED = 4
"""Update 4 of 6, in mid-epoch."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 updates that was cut off after the fourth."""
    root = tmp_path_factory.mktemp("saved")
    run_ftloop(Job(), root, **ARGUMENTS)
    for step in (5, 6):
        shutil.rmtree(root / f"checkpoint-{step}")
    return root


def go_on(saved: Path, tmp_path: Path, job: Job | None = None, **changed: Any) -> Any:
    checkpoint = str(saved / f"checkpoint-{SAVED}")
    return run_ftloop(
        job or Job(), tmp_path / "resumed", **ARGUMENTS | {"resume_from_checkpoint": checkpoint} | changed
    )


def test_every_setting_has_a_meaning_on_resume() -> None:
    assert {setting.on_resume for setting in SETTINGS.values()} == set(typing.get_args(OnResume))
    another_run = {"seed", "learning_rate", "model_name_or_path", "bf16", "trainer_compat", "label_smoothing_factor"}
    another_run |= {"class_weights", "freeze_embeddings", "freeze_layers", "classifier_dropout", "hidden_dropout"}
    assert {SETTINGS[name].on_resume for name in another_run} == {"refused", "never"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 7}, r"seed \(42 then, 7 now\)"),
        ({"data_seed": 7}, r"data_seed \(None then, 7 now\)"),
        ({"learning_rate": 1e-4}, r"learning_rate \(0\.001 then, 0\.0001 now\)"),
        ({"bf16": True, "weight_decay": 0.5}, r"weight_decay \(0\.0 then, 0\.5 now\), bf16 \(False then, True now\)"),
        ({"per_device_train_batch_size": 8}, r"per_device_train_batch_size \(4 then, 8 now\)"),
        ({"class_weights": "balanced"}, r"class_weights \(None then, balanced now\)"),
        ({"trainer_compat": True}, r"trainer_compat \(False then, True now\)"),
    ],
)
def test_what_would_be_another_run_is_refused_by_name(
    changed: dict[str, Any], named: str, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"{named}.*insist with --resume_with_changes"):
        go_on(saved, tmp_path, **changed)
    assert not list((tmp_path / "resumed").glob("*"))


@pytest.mark.parametrize("words", [["guide"], ["guide", "--metric_for_best_model", "loss"]])
def test_a_direction_that_an_earlier_version_worked_out_and_saved_is_no_change(words: list[str]) -> None:
    config = parse_args(words)
    fitted = dataclasses.replace(config, metric_for_best_model=words[-1] if words[1:] else "pearson")
    old = fitted.to_dict() | {"greater_is_better": fitted.metric_rises}
    old["from_recipe"] = config.from_recipe | {name: True for name in config.from_recipe if name.startswith("greater")}
    assert changed_settings(old, config) == {}
    other = dataclasses.replace(config, greater_is_better=not fitted.metric_rises, from_recipe={})
    assert changed_settings(old, other)["greater_is_better"] == (fitted.metric_rises, not fitted.metric_rises)


@pytest.mark.parametrize("job", [Job(train_rows=28), Job(two_sentences=True)], ids=["fewer rows", "other rows"])
def test_other_data_is_another_run_whatever_its_file_is_called(job: Job, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training data \(29 rows, digest \w+ then, 2[89] rows, digest \w+ now\)"):
        go_on(saved, tmp_path, job)


def test_what_is_trained_cannot_change_on_the_way_whoever_insists(saved: Path, tmp_path: Path) -> None:
    for changed in ({"freeze_layers": 1}, {"freeze_embeddings": True, "resume_with_changes": True}):
        with pytest.raises(UserError, match=r"freeze_\w+ \(.* then, .* now\); what is trained cannot change"):
            go_on(saved, tmp_path, **changed)


def test_insisting_goes_on_with_the_new_values(saved: Path, tmp_path: Path) -> None:
    resumed = go_on(saved, tmp_path, learning_rate=5e-4, adam_beta1=0.8, resume_with_changes=True)
    # 6 updates, one of warmup: the rates of the last two are 2/5 and 1/5 of the new peak
    assert [update["learning_rate"] for update in resumed.updates] == pytest.approx([2e-4, 1e-4], rel=1e-12)


def test_what_leaves_the_training_alone_takes_effect_and_is_listed(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_ftloop(Job(), tmp_path / "whole", **ARGUMENTS)
    resumed = go_on(saved, tmp_path, logging_steps=1, save_steps=3, dataloader_num_workers=2)
    assert resumed.weights == whole.weights
    assert list(resumed.checkpoints) == ["checkpoint-6"]
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("Changed"))
    for name in ("logging_steps (500.0 then, 1.0 now)", "save_steps (1.0 then, 3.0 now)", "dataloader_num_workers"):
        assert name in line
    assert line.endswith("the training stays the same")


def test_another_cadence_of_evaluation_is_said_to_change_the_bits(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on(saved, tmp_path, eval_strategy="steps", eval_steps=1)
    said = capsys.readouterr().out
    assert "eval_strategy (epoch then, steps now)" in said
    assert "no longer the bits" in said


def test_another_log_interval_changes_the_bits_if_evaluations_follow_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS | {"eval_strategy": "steps", "logging_steps": 2}
    run_ftloop(Job(), tmp_path, **arguments)
    shutil.rmtree(tmp_path / "checkpoint-6")
    run_ftloop(Job(), tmp_path, **arguments | {"logging_steps": 3, "resume_from_checkpoint": "last"})
    assert "logging_steps (2.0 then, 3.0 now): from here on no longer the bits" in capsys.readouterr().out


def test_insisting_on_other_data_is_said_to_change_the_bits(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on(saved, tmp_path, Job(two_sentences=True), max_train_samples=99, resume_with_changes=True)
    said = capsys.readouterr().out
    assert "train data (others then, these now)" in said
    assert "max_train_samples" in said
    assert "the training stays the same" not in said


def test_more_epochs_are_the_longer_run_where_the_schedule_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = ARGUMENTS | {"lr_scheduler_type": "constant_with_warmup"}
    longer = constant | {"num_train_epochs": 3}
    whole = run_ftloop(Job(), tmp_path / "whole", **longer)
    run_ftloop(Job(), tmp_path / "shorter", **constant)
    resumed = run_ftloop(
        Job(), tmp_path / "on", **longer | {"resume_from_checkpoint": str(tmp_path / "shorter" / "checkpoint-6")}
    )
    assert resumed.weights == whole.weights
    assert resumed.history == whole.history
    assert "num_train_epochs (2.0 then, 3.0 now): the training stays the same" in capsys.readouterr().out


@pytest.mark.parametrize("eval_steps", [4, 0.5])
def test_more_updates_change_the_bits_after_an_evaluation_of_the_end(
    eval_steps: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last update is evaluated wherever it falls; a share of the updates falls elsewhere in a longer run."""
    arguments = ARGUMENTS | {"lr_scheduler_type": "constant", "eval_strategy": "steps", "eval_steps": eval_steps}
    run_ftloop(Job(), tmp_path, **arguments)
    run_ftloop(Job(), tmp_path, **arguments | {"num_train_epochs": 3, "resume_from_checkpoint": "last"})
    assert "num_train_epochs (2.0 then, 3.0 now): from here on no longer the bits" in capsys.readouterr().out


@pytest.mark.parametrize(
    "share", [{"warmup_ratio": 0.5, "warmup_steps": 0}, {"eval_strategy": "steps", "eval_steps": 0.5}]
)
def test_more_epochs_change_the_bits_where_a_setting_is_a_share_of_them(
    share: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS | {"lr_scheduler_type": "constant_with_warmup"} | share
    run_ftloop(Job(), tmp_path, **arguments)
    for step in (5, 6):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    run_ftloop(Job(), tmp_path, **arguments | {"num_train_epochs": 3, "resume_from_checkpoint": "last"})
    assert "num_train_epochs (2.0 then, 3.0 now): from here on no longer the bits" in capsys.readouterr().out


def test_more_epochs_under_a_linear_schedule_change_the_bits(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_ftloop(Job(), tmp_path / "whole", **ARGUMENTS | {"num_train_epochs": 3})
    resumed = go_on(saved, tmp_path, num_train_epochs=3)
    assert "num_train_epochs (2.0 then, 3.0 now): from here on no longer the bits" in capsys.readouterr().out
    # ... but from here on it follows the longer run's schedule
    rates = [update["learning_rate"] for update in resumed.updates]
    assert rates == [update["learning_rate"] for update in whole.updates][SAVED:]
    assert resumed.weights != whole.weights


def test_an_update_of_as_many_rows_may_be_split_otherwise(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = go_on(saved, tmp_path, per_device_train_batch_size=6, gradient_accumulation_steps=2)
    assert "per_device_train_batch_size (4 then, 6 now)" in capsys.readouterr().out
    assert len(resumed.updates) == 2
    with pytest.raises(UserError, match="gradient_accumulation_steps"):
        go_on(saved, tmp_path, gradient_accumulation_steps=2)


# --- whole or broken -------------------------------------------------------------------------------------------------


def broken(saved: Path, tmp_path: Path, *steps: int) -> Path:
    root = tmp_path / "run"
    shutil.copytree(saved, root)
    for step in steps:
        path = root / f"checkpoint-{step}" / "optimizer.pt"
        path.write_bytes(path.read_bytes()[:-1])
    return root


def test_a_broken_checkpoint_is_set_aside_and_the_one_before_it_taken(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_ftloop(Job(), tmp_path / "whole", **ARGUMENTS)
    root = broken(saved, tmp_path, 4, 3)
    resumed = run_ftloop(Job(), root, **ARGUMENTS | {"resume_from_checkpoint": "last"})
    said = capsys.readouterr().out
    assert "Broken    checkpoint-4: optimizer.pt has" in said
    assert "set aside as broken-checkpoint-3" in said
    assert "Resuming  after update 2" in said
    assert resumed.weights == whole.weights
    assert resumed.history == whole.history
    assert checkpoint_problems(root / "broken-checkpoint-4")
    assert not checkpoint_problems(root / "checkpoint-4")


def test_where_none_is_whole_all_are_named_and_none_is_touched(saved: Path, tmp_path: Path) -> None:
    """A disk that does not answer for a moment must not cost the run."""
    root = broken(saved, tmp_path, 1, 2, 3, 4)
    with pytest.raises(UserError) as told:
        run_ftloop(Job(), root, **ARGUMENTS | {"resume_from_checkpoint": "last"})
    assert [problem.split(":")[0] for problem in told.value.problems[:4]] == [
        str(root / f"checkpoint-{step}") for step in (4, 3, 2, 1)
    ]
    assert not list(root.glob("broken-*"))


def test_the_best_is_found_and_kept_where_both_have_been_moved(saved: Path, tmp_path: Path) -> None:
    """Under a lower limit than it was saved with, which is applied at once."""
    arguments = ARGUMENTS | {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    run_ftloop(Job(), tmp_path / "there", **arguments | {"metric_for_best_model": "spread"})
    shutil.rmtree(tmp_path / "there" / "checkpoint-6")
    (tmp_path / "there").rename(tmp_path / "here")
    best = json.loads((tmp_path / "here" / "checkpoint-5" / "trainer_state.json").read_text())["best_global_step"]
    resumed = run_ftloop(
        Job(),
        tmp_path / "here",
        **arguments | {"metric_for_best_model": "spread", "save_total_limit": 1, "resume_from_checkpoint": "last"},
    )
    assert resumed.best[1] is not None
    assert (tmp_path / "here" / f"checkpoint-{resumed.best[1]}").is_dir()
    assert resumed.best[1] in (best, 6)


def test_a_best_checkpoint_that_is_gone_is_told_while_it_can_be_put_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest checkpoint alone has been copied from another machine."""
    job = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "spread"}
    run_ftloop(Job(), tmp_path / "there", **ARGUMENTS | job)
    state = json.loads((tmp_path / "there" / "checkpoint-5" / "trainer_state.json").read_text())
    best = Path(state["best_model_checkpoint"])
    assert best.name != "checkpoint-5"
    (tmp_path / "copy").mkdir()
    (tmp_path / "there" / "checkpoint-5").rename(tmp_path / "copy" / "checkpoint-5")
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    named = {"resume_from_checkpoint": str(tmp_path / "copy" / "checkpoint-5")}
    told = (
        f"Warning   the best checkpoint so far, {best}, is neither there nor beside {tmp_path}/copy/checkpoint-5: stop"
    )
    capsys.readouterr()
    run_ftloop(Job(), tmp_path / "lost", **ARGUMENTS | job | named)
    assert told in capsys.readouterr().out
    (tmp_path / "elsewhere" / best.name).rename(tmp_path / "copy" / best.name)
    found = run_ftloop(Job(), tmp_path / "found", **ARGUMENTS | job | named)
    assert "neither there nor beside" not in capsys.readouterr().out
    assert found.best[1] in (state["best_global_step"], 6)


@pytest.mark.parametrize("at", ["during an update", "during the save of a model"])
def test_a_stop_saves_what_can_be_resumed_though_only_models_are_saved(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"save_only_model": True, "save_strategy": "epoch"}
    whole = run_ftloop(Job(), tmp_path / "whole", **ARGUMENTS | config)
    if at == "during an update":
        stopped_after(4, tmp_path / "stopped", **config)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "save_checkpoint", save_and_ask_to_stop)
            with pytest.raises(Stopped, match="by a whim after update 3, saved as checkpoint-3"):
                run_ftloop(Job(), tmp_path / "stopped", **ARGUMENTS | config)
    resumed = run_ftloop(Job(), tmp_path / "stopped", **ARGUMENTS | config | {"resume_from_checkpoint": "last"})
    assert resumed.weights == whole.weights
    left, wanted = ({path.name for path in (tmp_path / name).glob("checkpoint-*")} for name in ("stopped", "whole"))
    assert left == wanted, "what was of the schedule stays, and what was saved for the stop goes"


def save_and_ask_to_stop(run: Run, *due: Any, **settings: Any) -> Path:
    saved = save_checkpoint(run, *due, **settings)
    run.stop.request("a whim")
    return saved


def test_a_tokenizer_with_several_chat_templates_is_saved_whole(tmp_path: Path) -> None:
    """transformers puts them into a folder within."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    config = TrainConfig(output_dir=str(tmp_path), save_strategy="steps", save_steps=1, max_steps=2, use_cpu=True)
    run = prepare(config, Job().model(), Job().data()[0], data_collator=pad, processing_class=tokenizer)
    train(run)
    save_model(run)
    save_model(run)  # into a folder where it is already
    name = "additional_chat_templates/tool_use.jinja"
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        assert (folder / name).read_text() == "b"
    manifest = read_manifest(tmp_path / "checkpoint-2")
    assert manifest is not None
    assert name in manifest["files"]
    assert checkpoint_problems(tmp_path / "checkpoint-2") == []
    (tmp_path / "checkpoint-2" / name).write_text("c")
    assert any(name in problem for problem in checkpoint_problems(tmp_path / "checkpoint-2"))
    assert not [*tmp_path.glob(".staging-*")]


def test_a_broken_checkpoint_that_was_named_is_an_error_and_stays(saved: Path, tmp_path: Path) -> None:
    root = broken(saved, tmp_path, 4)
    with pytest.raises(UserError, match=r"checkpoint-4: is broken: optimizer\.pt has \d+ bytes instead of"):
        run_ftloop(Job(), root, **ARGUMENTS | {"resume_from_checkpoint": str(root / "checkpoint-4")})
    assert (root / "checkpoint-4").is_dir()


def stopped_after(step: int, folder: Path, **arguments: Any) -> None:
    config = TrainConfig(output_dir=str(folder), use_cpu=True, **ARGUMENTS | arguments)
    train_rows, eval_rows = Job().data()
    run = prepare(config, Job().model(), train_rows, eval_rows, data_collator=pad, compute_metrics=Job().metrics)

    def asks_to_stop(*args: Any) -> Any:
        if run.state.global_step == step - 1:
            run.stop.request("a whim")
        return training_step(*args)

    with pytest.raises(Stopped, match=f"by a whim after update {step}, saved as checkpoint-{step}"):
        train(run, asks_to_stop)


def test_a_time_limit_holds_from_python_too(tmp_path: Path) -> None:
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, max_steps=100_000, max_train_seconds=1)
    with pytest.raises(Stopped, match=r"by max_train_seconds after update \d+, saved as checkpoint-"):
        train(prepare(config, Job().model(), Job().data()[0], data_collator=pad))


# --- stopping by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_loop_body_or_a_training_step_can_ask_to_stop(step: int, tmp_path: Path) -> None:
    whole = run_ftloop(Job(), tmp_path / "whole", **ARGUMENTS | {"save_strategy": "no"})
    stopped_after(step, tmp_path / "stopped", save_strategy="no")
    resumed = run_ftloop(
        Job(), tmp_path / "stopped", **ARGUMENTS | {"save_strategy": "no", "resume_from_checkpoint": "last"}
    )
    assert resumed.weights == whole.weights
    assert resumed.history == whole.history


@pytest.mark.parametrize("batching", ["length_grouped", "token_budget"])
def test_other_padding_is_other_bits_but_another_run_for_a_token_budget(batching: str, tmp_path: Path) -> None:
    run_ftloop(Job(), tmp_path, **ARGUMENTS | {"batching": batching})
    config = TrainConfig(output_dir=str(tmp_path), use_cpu=True, **ARGUMENTS | {"batching": batching})
    padded = dataclasses.replace(config, padding="multiple:8")
    folder = sorted(tmp_path.glob("checkpoint-*"))[0]
    refuse_another_run(config, folder, 1)
    if batching == "length_grouped":
        refuse_another_run(padded, folder, 1)
        return
    with pytest.raises(UserError, match=r"padding \(longest then, multiple:8 now\)"):
        refuse_another_run(padded, folder, 1)
    with pytest.raises(UserError, match=r"num_processes \(1 then, 2 now\)"):
        refuse_another_run(dataclasses.replace(config, per_device_train_batch_size=2), folder, 2)
    # An update is made of as many batches of the same budget: saved by one process, it goes on in three.
    assert config.gradient_accumulation_steps == 3
    split = dataclasses.replace(config, gradient_accumulation_steps=1)
    refuse_another_run(split, folder, 3)
    way = (
        r"gradient_accumulation_steps \(3 then, 1 now\); resume with the same, or with --gradient_accumulation_steps 3"
    )
    with pytest.raises(UserError, match=way):
        refuse_another_run(split, folder, 1)
