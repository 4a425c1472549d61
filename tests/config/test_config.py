"""Configuration: the same names, defaults and checks from Python, the command line and a recipe."""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.command import CHECKOUT
from torch._inductor import list_mode_options
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ftloop.config.command_line import check_words, parse_args, recipe_in_words
from ftloop.config.recipe import SHIPPED
from ftloop.config.setting import SCORES, Setting
from ftloop.config.train_config import SETTINGS, TrainConfig
from ftloop.config.unknown import HINTS
from ftloop.errors import UserError

# Fields whose default is None in TrainingArguments and gets its meaning only in __post_init__.
RESOLVED_LATER = {
    "output_dir": "None becomes trainer_output",
    "gradient_checkpointing": "None becomes False",
}
THEIRS = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
NOT_IMPLEMENTED = sorted(THEIRS.keys() - SETTINGS.keys() - HINTS.keys())


def problems(*argv: Any, **settings: Any) -> list[str]:
    """What is wrong with a command line, or with settings from Python."""
    with pytest.raises(UserError) as caught:
        parse_args([str(word) for word in argv]) if argv else TrainConfig(**settings)
    return list(caught.value.problems)


def problem(*argv: Any, **settings: Any) -> str:
    (only,) = problems(*argv, **settings)
    return only


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_every_default_is_that_of_the_installed_training_arguments() -> None:
    shared = [name for name in SETTINGS if name in THEIRS and name not in RESOLVED_LATER]
    assert len(shared) > 40
    ours = TrainConfig()
    assert {name: getattr(ours, name) for name in shared} == {name: THEIRS[name] for name in shared}
    resolved = TrainingArguments()
    for name in RESOLVED_LATER:
        assert THEIRS[name] is None
        assert getattr(ours, name) == getattr(resolved, name)


def test_the_default_metric_is_the_loss_as_in_training_arguments(tmp_path: Path) -> None:
    given: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    for metric in (None, "f1", "eval_loss"):
        ours = TrainConfig(metric_for_best_model=metric, **given)
        theirs = TrainingArguments(output_dir=str(tmp_path), metric_for_best_model=metric, **given)
        assert ours.metric_for_best_model == theirs.metric_for_best_model
        assert ours.metric_rises == theirs.greater_is_better
    assert TrainConfig().metric_for_best_model is None


def test_the_config_is_frozen_and_keeps_no_list_or_mapping_of_the_callers() -> None:
    texts, extra = ["a"], {"num_cycles": 2}
    config = TrainConfig(sample_texts=texts, lr_scheduler_type="cosine", lr_scheduler_kwargs=extra)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    texts.append("b")
    extra["num_cycles"] = 3
    assert config.sample_texts == ["a"]
    assert config.lr_scheduler_kwargs == {"num_cycles": 2}


def test_a_config_can_be_made_again_from_its_dictionary() -> None:
    config = parse_args(["demo", "--save_steps", "0.25", "--max_seq_length", "64"])
    assert TrainConfig(**config.to_dict()) == config


def test_an_empty_command_line_is_the_guide() -> None:
    config = parse_args([])
    assert config == parse_args(["guide"])
    assert (config.model_name_or_path, config.task_name) == ("bert-base-uncased", "mrpc")
    assert (config.learning_rate, config.num_train_epochs, config.metric_for_best_model) == (5e-5, 3, "accuracy")


def test_flags_without_a_recipe_start_from_the_defaults() -> None:
    assert parse_args(["--seed", "7"]) == TrainConfig(seed=7)


def test_every_shipped_recipe_is_a_valid_configuration() -> None:
    assert {"guide", "demo"} <= SHIPPED.keys()
    for name in SHIPPED:
        parse_args([name])


def test_a_recipe_is_found_by_name_and_by_path_and_flags_override_it(recipe: Any) -> None:
    path = recipe("learning_rate: 1e-3\nseed: 3\n")
    assert parse_args([str(path)]) == TrainConfig(learning_rate=1e-3, seed=3)
    assert parse_args([str(path), "--seed=4"]) == TrainConfig(learning_rate=1e-3, seed=4)
    assert parse_args(["guide", "--learning_rate", "1e-3"]).learning_rate == 1e-3
    assert parse_args(["guide", "--sample_texts", "none"]).sample_texts is None
    assert parse_args(["guide", "--task_name", "None"]).task_name is None


def test_a_shipped_recipe_says_nothing_of_the_users_own_data(tmp_path: Path) -> None:
    own = ["--train_file", "mine.csv"]
    assert parse_args(["guide"]).task_name == "mrpc"
    assert parse_args(["guide"]).sample_texts
    for words in (own, ["--dataset_name", "some/data"], ["--task_name", "sst2"], [*own, "--task_name", "none"]):
        config = parse_args(["guide", *words])
        assert config.task_name == ("sst2" if "sst2" in words else None)
        assert config.sample_texts is None
    beside = parse_args(["guide", *own, "--task_name", "mrpc"])
    assert (beside.task_name, beside.sample_texts) == ("mrpc", parse_args(["guide"]).sample_texts)
    assert parse_args(["guide", *own, "--sample_texts", "a", "b"]).sample_texts == ["a", "b"]
    (tmp_path / "own.yaml").write_text("task_name: mrpc\nsample_texts: [a, b]")
    assert parse_args([str(tmp_path / "own.yaml"), *own]).sample_texts == ["a", "b"]


def test_what_holds_of_a_recipe_is_told(recipe: Any) -> None:
    told = recipe_in_words(["guide", "--learning_rate", "1e-4", "--train_file", "mine.csv"])
    assert told is not None
    assert told.startswith("guide: model_name_or_path bert-base-uncased, output_dir runs/guide, num_train_epochs 3, ")
    assert "load_best_model_at_end true, metric_for_best_model accuracy" in told
    assert not {"learning_rate", "task_name", "sample_texts"} & set(re.findall(r"\w+", told))
    assert "task_name mrpc" in str(recipe_in_words([]))
    path = recipe("seed: 3\nsample_texts: [a]\n")
    assert recipe_in_words([str(path)]) == f"{path}: seed 3"
    assert recipe_in_words([str(path), "--seed", "4"]) == f"{path}: nothing of it, as flags give all that it sets"
    assert recipe_in_words(["--seed", "4"]) is None


def test_a_path_may_begin_with_the_home_folder(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe("output_dir: ~/out")
    monkeypatch.setenv("HOME", str(path.parent))
    assert parse_args(["~/recipe.yaml"]).output_dir == f"{path.parent}/out"


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    assert problem("gide") == (
        "recipe 'gide': no such file, and not one of the shipped recipes (demo, fast, few, guide, stable); did you "
        "mean guide?"
    )


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "seed", "1: 2", "seed: [", "seed:\t1"])
def test_a_recipe_that_is_no_mapping_of_names_is_refused(recipe: Any, text: str) -> None:
    assert problem(recipe(text)).startswith("recipe ")


def test_a_recipe_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("output_dir: é".encode("latin-1"))
    assert "not readable as YAML" in problem(path)


def test_a_number_without_a_point_is_a_number_in_yaml_too(recipe: Any) -> None:
    config = parse_args([str(recipe("learning_rate: 5e-5\nwarmup_steps: 1e2\nsave_steps: 1e1\nmax_steps: 2e1"))])
    assert (config.learning_rate, config.warmup_steps, config.save_steps, config.max_steps) == (5e-5, 100, 10, 20)
    assert type(config.max_steps) is int


def test_yes_and_no_mean_what_they_say_in_yaml(recipe: Any) -> None:
    config = parse_args([str(recipe("save_strategy: no\nlogging_strategy: off\nbf16: yes\ntf32: no\ndata_seed: null"))])
    assert (config.save_strategy, config.logging_strategy) == ("no", "no")
    assert (config.bf16, config.tf32, config.data_seed) == (True, False, None)


@pytest.mark.parametrize("word", ["", "true", "True", "1", "yes"])
def test_a_switch_is_turned_on_with_and_without_a_value(word: str) -> None:
    assert parse_args(["--bf16", *([word] if word else []), "--seed", "1"]) == TrainConfig(bf16=True, seed=1)


@pytest.mark.parametrize("word", ["false", "False", "0", "no"])
def test_a_switch_is_turned_off_with_a_value(word: str) -> None:
    assert parse_args(["guide", "--load_best_model_at_end", word]).load_best_model_at_end is False


def test_values_are_of_their_types_from_every_source(recipe: Any) -> None:
    wanted = TrainConfig(
        text_column_names=["a", "b"], lr_scheduler_kwargs={"lr_end": 1e-7}, greater_is_better=True, eval_steps=0.5
    )
    line = '--text_column_names a b --lr_scheduler_kwargs {"lr_end":1e-7} --greater_is_better --eval_steps .5'
    assert parse_args(line.split()) == wanted
    yaml = "text_column_names: [a, b]\nlr_scheduler_kwargs: {lr_end: 1.0e-7}\ngreater_is_better: true\neval_steps: .5"
    assert parse_args([str(recipe(yaml))]) == wanted
    assert TrainConfig(text_column_names="a").text_column_names == ["a"]  # type: ignore[arg-type]
    assert TrainConfig(output_dir=Path("x")).output_dir == "x"  # type: ignore[arg-type]


def test_an_enum_of_transformers_is_taken_for_the_word_it_stands_for() -> None:
    strategy = TrainConfig(eval_strategy=IntervalStrategy.EPOCH).eval_strategy  # type: ignore[arg-type]
    assert type(strategy) is str
    assert strategy == "epoch"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "many", "'many' is not a whole number"),
        ("seed", 1.5, "1.5 is not a whole number"),
        ("seed", True, "True is not a whole number"),
        ("seed", None, "None is not a whole number"),
        ("seed", [1], "[1] is not a whole number"),
        ("save_total_limit", "two", "'two' is not a whole number"),
        ("learning_rate", "fast", "'fast' is not a number"),
        ("learning_rate", "nan", "'nan' is not a finite number"),
        ("learning_rate", float("inf"), "inf is not a finite number"),
        ("learning_rate", False, "False is not a number"),
        ("bf16", "maybe", "'maybe' is neither true nor false"),
        ("bf16", 1, "1 is neither true nor false"),
        ("output_dir", 2024, "expected text, not 2024"),
        ("output_dir", "", "expected text, not ''"),
        ("optim", "adamw_trch", "'adamw_trch' is not one of adamw_torch_fused, adamw_torch; did you mean adamw_torch?"),
        ("lr_scheduler_type", "reduce_lr_on_plateau", "'reduce_lr_on_plateau' is not one of linear, cosine, "),
        ("text_column_names", [], "expected one or more texts, not []"),
        ("text_column_names", ["a", 1], "expected one or more texts, not ['a', 1]"),
        ("lr_scheduler_kwargs", [1], "expected a mapping, not [1]"),
        ("lr_scheduler_kwargs", "{1", "'{1' is not JSON"),
    ],
)
def test_an_ill_typed_value_from_python_is_told_with_what_was_expected(name: str, value: Any, message: str) -> None:
    assert problem(**{name: value}).startswith(f"{name}: {message}")


def test_a_number_too_large_for_a_float_is_a_problem_and_no_crash() -> None:
    assert "is not a whole number" in problem(seed=10**400)


def test_ill_typed_values_of_a_recipe_are_found_too(recipe: Any) -> None:
    found = problems(recipe("seed: many\nbf16: 3\noutput_dir: 5\neval_strategy: epock\nsample_texts: [1]"))
    assert [text.split(":")[0] for text in found] == ["output_dir", "sample_texts", "seed", "bf16", "eval_strategy"]
    assert found[-1] == "eval_strategy: 'epock' is not one of no, steps, epoch; did you mean epoch?"


def test_all_problems_are_reported_together() -> None:
    line = "guide --lerning_rate 1 --seed many --weight_decay -1 --fp16 --bf16 --push_to_hub --no_cuda --eval_steps x"
    assert problems(*line.split()) == [
        "lerning_rate: no such setting; did you mean learning_rate?",
        "push_to_hub: this TrainingArguments field is not implemented in ftloop; leave it out",
        "no_cuda: its name is --use_cpu",
        "seed: 'many' is not a whole number",
        "eval_steps: 'x' is not a number",
        "weight_decay: -1.0 must not be negative",
        "fp16 and bf16: choose one",
    ]


def test_no_problem_is_reported_of_an_ill_typed_values_default() -> None:
    settings = {"eval_strategy": "epock", "save_strategy": "epoch", "load_best_model_at_end": True, "weight_decay": -1}
    assert [text.split(":")[0] for text in problems(**settings)] == ["eval_strategy", "weight_decay"]


def test_a_misspelt_yaml_key_is_answered_with_the_nearest_right_one(recipe: Any) -> None:
    path = recipe("lerning_rate: 1e-3\nnum_epochs: 3\n")
    assert problems(path) == [
        f"lerning_rate: no such setting; did you mean learning_rate? (in the recipe {path})",
        f"num_epochs: no such setting; did you mean num_train_epochs? (in the recipe {path})",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dev_file", "validation_file"),
        ("val-file", "validation_file"),
        ("eval_data", "validation_file"),
        ("train_data", "train_file"),
        ("test_path", "test_file"),
        ("valid_split", "validation_split"),
        ("eval_batch_size", "per_device_eval_batch_size"),
    ],
)
def test_a_set_by_another_word_is_answered_with_its_own_flag_and_not_another_sets(name: str, meant: str) -> None:
    assert problem(f"--{name}", "1") == f"{name}: no such setting; did you mean {meant}?"


def test_a_recipe_with_sections_is_answered_with_what_to_do(recipe: Any) -> None:
    path = recipe("training:\n  seed: 1\n")
    assert (
        problem(path) == f"training: a recipe has no sections; write what stands in it without (in the recipe {path})"
    )


def test_a_list_of_one_word_or_none_is_taken_as_training_arguments_takes_it(recipe: Any) -> None:
    assert TrainConfig(eval_strategy=["epoch"]).eval_strategy == "epoch"  # type: ignore[arg-type]
    assert TrainConfig(report_to="tensorboard").trackers == ["tensorboard"]  # type: ignore[arg-type]
    for none in ("none", ["none"], []):
        assert TrainConfig(report_to=none).trackers == []  # type: ignore[arg-type]
    assert parse_args([str(recipe("report_to: []"))]).report_to == "none"
    assert parse_args(["--report_to", "none"]).report_to == "none"


@pytest.mark.parametrize("flag", ["--learning", "--num_train", "--out", "--learning=1"])
def test_an_abbreviated_flag_is_an_error(flag: str) -> None:
    assert problem(flag, "1").startswith(f"{flag[2:].removesuffix('=1')}: no such setting")


def test_a_stray_word_is_an_error() -> None:
    for argv in (["guide", "demo"], ["--seed", "1", "2"], ["guide", "-x"]):
        assert "not understood" in problem(*argv)


def test_other_fields_of_training_arguments_are_said_to_be_missing() -> None:
    assert {"deepspeed", "fsdp", "push_to_hub", "neftune_noise_alpha"} <= set(NOT_IMPLEMENTED)
    assert problems(*(f"--{name}=1" for name in NOT_IMPLEMENTED)) == [
        f"{name}: this TrainingArguments field is not implemented in ftloop; leave it out" for name in NOT_IMPLEMENTED
    ]


def test_a_name_of_older_guides_is_answered_with_what_to_use(recipe: Any) -> None:
    assert problems(*(f"--{name}=1" for name in HINTS)) == [f"{name}: {hint}" for name, hint in HINTS.items()]
    path = recipe("".join(f"{name}: 1\n" for name in HINTS))
    assert problems(path) == [f"{name}: {hint} (in the recipe {path})" for name, hint in HINTS.items()]


def test_no_hint_names_a_setting_that_is_not_there() -> None:
    named = [
        word.strip(",;")
        for hint in HINTS.values()
        for word in hint.replace(SCORES, "").split()
        if word.startswith("--")
    ]
    assert len(named) >= 6
    assert {name.removeprefix("--") for name in named} <= SETTINGS.keys()


BAD_SIZES = {
    "num_train_epochs": (0, -1),
    "per_device_train_batch_size": (0, -8),
    "per_device_eval_batch_size": (0, -8),
    "gradient_accumulation_steps": (0, -1),
    "adam_epsilon": (0, -1e-8),
    "max_seq_length": (0, -1),
    "max_train_samples": (0, -1),
    "max_eval_samples": (0, -1),
    "max_predict_samples": (0, -1),
    "preprocessing_num_workers": (0, -1),
    "early_stopping_patience": (0, -1),
    "save_total_limit": (0, -1),
    "ddp_timeout": (0, -1),
    "learning_rate": (-1e-5,),
    "weight_decay": (-0.1,),
    "max_grad_norm": (-1,),
    "warmup_steps": (-1, -0.1),
    "warmup_ratio": (-0.1, 1.5),
    "eval_delay": (-1,),
    "dataloader_num_workers": (-1,),
    "early_stopping_threshold": (-0.1,),
    "seed": (-1, 2**32),
    "data_seed": (-1, 2**32),
    "adam_beta1": (1, -0.1),
    "adam_beta2": (1, -0.1),
    "label_smoothing_factor": (1, -0.1),
    "max_steps": (0, -2),
    "logging_steps": (0, -1, 1.5),
    "save_steps": (0, -1, 1.5),
    "eval_steps": (-1, 1.5),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_SIZES.items() for value in values])
def test_a_negative_zero_or_excessive_size_is_refused(name: str, value: float) -> None:
    settings = {name: value} | ({"eval_strategy": "steps"} if name == "eval_steps" else {})
    if name == "early_stopping_patience":
        settings |= {"eval_strategy": "epoch"}
    assert name in problem(**settings)
    assert str(value) in problem(**settings) or value == 2**32


def test_the_smallest_and_largest_sizes_are_taken() -> None:
    config = TrainConfig(
        max_grad_norm=0, weight_decay=0, learning_rate=0, seed=2**32 - 1, warmup_ratio=1, max_steps=1, save_steps=1
    )
    assert config.seed == 2**32 - 1


def test_evaluation_follows_logging_where_its_steps_are_not_given() -> None:
    assert TrainConfig(eval_strategy="steps", logging_steps=20).evaluation_interval == 20
    assert TrainConfig(eval_strategy="steps", logging_steps=20, eval_steps=0).evaluation_interval == 20  # as Trainer
    assert TrainConfig(eval_strategy="steps", logging_steps=20, eval_steps=5).evaluation_interval == 5


BEST: dict[str, Any] = {"load_best_model_at_end": True}


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "epoch", "save_strategy": "steps"},
        {"eval_strategy": "steps", "save_strategy": "epoch"},
        {"eval_strategy": "epoch", "save_strategy": "no"},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 20, "save_steps": 30},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 20, "save_steps": 10},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 0.2, "save_steps": 0.3},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 0.1, "save_steps": 100},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 100, "save_steps": 0.1},
    ],
)
def test_the_best_model_needs_a_checkpoint_wherever_it_is_evaluated(settings: dict[str, Any], tmp_path: Path) -> None:
    assert problem(**BEST, **settings).startswith("load_best_model_at_end: ")
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        TrainingArguments(output_dir=str(tmp_path), **BEST, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "epoch", "save_strategy": "epoch"},
        {"eval_strategy": "epoch", "save_strategy": "best"},
        {"eval_strategy": "steps", "save_strategy": "best", "eval_steps": 20, "save_steps": 30},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 20, "save_steps": 60},
        {"eval_strategy": "steps", "save_strategy": "steps", "logging_steps": 50},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.3},
    ],
)
def test_the_best_model_can_be_had_with_matching_strategies(settings: dict[str, Any], tmp_path: Path) -> None:
    assert TrainConfig(**BEST, **settings).needs_metric
    assert TrainingArguments(output_dir=str(tmp_path), **BEST, **settings).load_best_model_at_end


def test_a_share_of_the_updates_too_small_to_compare_is_no_crash() -> None:
    settings: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1e-7}
    assert TrainConfig(**BEST, **settings, save_steps=0.1).eval_steps == 1e-7


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"load_best_model_at_end": True, "save_strategy": "best"}, "eval_strategy"),
        ({"save_strategy": "best"}, "eval_strategy"),
        ({"early_stopping_patience": 2}, "eval_strategy"),
        ({"warmup_ratio": 0.1, "warmup_steps": 10}, "warmup_ratio and warmup_steps"),
        ({"text_column_names": ["a", "b", "c"]}, "text_column_names"),
        ({"dataset_name": "x", "task_name": "mrpc"}, "dataset_name"),
        ({"dataset_name": "x", "train_file": "a.csv"}, "dataset_name"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], named: str) -> None:
    assert named in problem(**settings)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
def test_cuda_graphs_are_refused_where_gradients_are_added_up(mode: str) -> None:
    """A graph's gradients lie in memory of its own, which its next replay writes over."""
    settings: dict[str, Any] = {"torch_compile_mode": mode}
    sums: list[dict[str, Any]] = [{"gradient_accumulation_steps": 2}, {"auto_micro_batch": True}]
    assert TrainConfig(**settings).torch_compile
    if not list_mode_options(mode).get("triton.cudagraphs"):
        assert [TrainConfig(**settings, **each).torch_compile_mode for each in sums] == [mode, mode]
        return
    for each, named in zip(sums, ("gradient_accumulation_steps 2", "auto_micro_batch"), strict=True):
        message = problem(**settings, **each)
        assert f"torch_compile_mode: {mode} takes CUDA graphs" in message
        assert f"not with {named}; default and max-autotune-no-cudagraphs take none" in message
    assert "with gradient_accumulation_steps 2 or auto_micro_batch;" in problem(**settings, **sums[0], **sums[1])


def test_the_guides_own_spellings_still_work() -> None:
    config = parse_args(["--warmup_ratio", "0.1", "--logging_dir", "runs/logs"])
    assert (config.warmup_ratio, config.logging_dir, config.warmup_steps) == (0.1, "runs/logs", 0)


def test_tensorboard_is_on_only_where_it_is_asked_for() -> None:
    assert not TrainConfig().tensorboard
    assert TrainConfig(report_to=["tensorboard"]).tensorboard
    assert TrainConfig(logging_dir="logs").tensorboard


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftloop.config.checks.find_spec", lambda name: None if name == "comet_ml" else object())
    assert TrainConfig(report_to=["wandb", "tensorboard", "wandb"]).trackers == ["wandb", "tensorboard"]
    assert "report_to: 'all' is not one of tensorboard, wandb, mlflow" in problem(report_to="all")
    assert TrainConfig(report_to="tensorboard,wandb").trackers == ["tensorboard", "wandb"]  # type: ignore[arg-type]
    assert "'none' is not one of" in problem(report_to=["none", "wandb"])
    assert "did you mean wandb?" in problem(report_to=["wanbd"])
    assert problem(report_to="comet_ml") == (
        "report_to: comet_ml is not installed; pip install comet-ml does that, or leave it out"
    )


def test_a_setting_is_written_down_in_one_place() -> None:
    """What is to be known about it stands on its field; nothing else in the package lists settings by name
    (but what may be the cause of a difference between two recordings)."""
    with pytest.raises(TypeError, match="on_resume"):
        Setting("name", int, 1, "A setting without a meaning on resume.", "group")  # type: ignore[call-arg]
    lists = []
    for path in {*(CHECKOUT / "ftloop").rglob("*.py")} - {*(CHECKOUT / "ftloop" / "compare").rglob("*.py")}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
                words = [each.value for each in node.elts if isinstance(each, ast.Constant)]
                lists += [(path.name, words)] * (sum(word in SETTINGS for word in words) > 2)
    assert lists == []
    assert all(SETTINGS[setting.needs].default in (None, 0) for setting in SETTINGS.values() if setting.needs)


def test_what_may_differ_between_processes_changes_no_training() -> None:
    differ = {name for name, setting in SETTINGS.items() if setting.may_differ_between_processes}
    assert {"train_file", "model_name_or_path", "output_dir", "preprocessing_num_workers", "traceback"} <= differ
    assert not {"seed", "learning_rate", "logging_steps", "max_train_samples", "task_name"} & differ
    assert all(SETTINGS[name].path or SETTINGS[name].is_free for name in differ)


def test_a_setting_whose_partner_is_missing_is_refused() -> None:
    needing = {setting.name: setting.needs for setting in SETTINGS.values() if setting.needs}
    assert {"record_full": "record", "validation_file": "train_file"}.items() <= needing.items()
    for name, other in needing.items():
        value = {bool: True, int: 1, float: 0.5}.get(SETTINGS[name].kind, "utf-8" if name == "encoding" else ";")
        told = problem(**{name: value})
        assert told.removesuffix(f"; {SCORES}") == f"{name}: only together with --{other}"
        assert told.endswith(SCORES) == (name in ("validation_file", "test_file"))


def test_no_help_text_promises_a_setting_that_is_not_there() -> None:
    assert SETTINGS.keys() | {"from_recipe"} == {field.name for field in dataclasses.fields(TrainConfig)}
    assert all(setting.help.endswith(".") or setting.help.endswith(")") for setting in SETTINGS.values())


@pytest.mark.parametrize(
    ("metric", "compat", "greater"),
    [("f1", False, True), ("eval_loss", False, False), ("mse", False, False), ("mse", True, True)],
)
def test_a_metric_is_to_rise_unless_it_is_a_loss_or_an_error(metric: str, compat: bool, greater: bool) -> None:
    """Trainer would keep the checkpoint of the largest `mse`; trainer_compat does."""
    config = TrainConfig(metric_for_best_model=metric, trainer_compat=compat)
    assert config.metric_rises is greater


def test_another_metric_by_replace_or_in_a_saved_recipe_has_its_own_direction(recipe: Any) -> None:
    """What followed from the first metric, that less is better, would keep the checkpoint of the lowest accuracy."""
    given: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    base = TrainConfig(**given)
    assert (base.metric_for_best_model, base.metric_rises) == ("loss", False)
    saved = yaml.safe_dump(base.to_dict()).replace("metric_for_best_model: loss", "metric_for_best_model: accuracy")
    for other in (replace(base, metric_for_best_model="accuracy"), parse_args([str(recipe(saved))])):
        assert (other.metric_for_best_model, other.metric_rises) == ("accuracy", True)
    assert replace(other, metric_for_best_model="loss") == base
    insists = replace(base, metric_for_best_model="accuracy", greater_is_better=False)
    assert replace(insists, metric_for_best_model="f1").metric_rises is False, "given, it stays"


def test_half_precision_is_taken_back_by_the_name_that_it_has() -> None:
    base = TrainConfig(mixed_precision="bf16")
    assert base == TrainConfig(bf16=True)
    assert replace(base, bf16=False) == TrainConfig()


@pytest.mark.parametrize(("given", "meant"), [(True, "last"), ("True", "last"), (False, None), ("false", None)])
def test_to_resume_from_true_is_to_resume_from_the_last_as_in_trainer(given: Any, meant: str | None) -> None:
    config: Any = {"resume_from_checkpoint": given}
    assert TrainConfig(**config).resume_from_checkpoint == meant


@pytest.mark.parametrize("dash", ["\u2013", "\u2014", "\u2212"])
def test_a_flag_with_a_typeset_dash_is_answered_with_the_typed_one(dash: str) -> None:
    with pytest.raises(UserError, match=r"a typographic dash, .*; write --output_dir$"):
        check_words(["guide", f"{dash}output_dir", "runs"])
    words = ["--sample_texts", f"{dash}well", f"{dash} yes"]
    assert check_words(words) == words


def test_a_script_with_windows_line_endings_and_a_blank_behind_a_backslash_are_told() -> None:
    """Each gives a right word's look to a wrong one: a folder `runs\\r`, a file ` `."""
    with pytest.raises(UserError) as caught:
        check_words(["--train_file", "a.csv", " ", "--output_dir", "runs\r"])
    blank, carriage_return = caught.value.problems
    assert blank.startswith("there is a lone blank after a.csv")
    assert carriage_return.startswith("'runs\\r' ends in a carriage return")
    assert check_words(["--delimiter", "\t"]) == ["--delimiter", "\t"]
    assert check_words(["--label_delimiter", " "]) == ["--label_delimiter", " "]


def test_the_flag_of_torchs_old_launcher_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_words(["--local-rank=1", "demo"]) == ["--local-rank=1", "demo"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert check_words(["--local-rank=1", "demo"]) == check_words(["--local_rank=1", "demo"]) == ["demo"]


def test_a_second_value_is_answered_with_the_flag_that_takes_one() -> None:
    assert (
        problem("--eval_strategy", "no", "all")
        == "'all': not understood after --eval_strategy no, which takes one value"
    )
    for words in (["1", "2"], ["1,2"]):
        assert problem("--seed", *words).endswith("; --seeds trains once for each of several")


def test_resuming_without_a_name_takes_the_last_checkpoint() -> None:
    assert parse_args(["--resume_from_checkpoint"]).resume_from_checkpoint == "last"
    assert problem("--resume") == "resume: its name is --resume_from_checkpoint"


def test_a_variable_in_a_recipes_path_is_told_and_not_taken_for_a_folders_name(recipe: Any, tmp_path: Path) -> None:
    path = recipe("output_dir: ${SCRATCH}/run\ntrain_file: [a.csv, $DATA/b.csv]\n")
    found = problems(path)
    assert [text.split(":")[0] for text in found] == ["output_dir", "train_file"]
    assert "${SCRATCH} is filled in where the shell sees it, --output_dir ..." in found[0]
    assert parse_args([str(path), "--output_dir", "runs", "--train_file", "b.csv"]).output_dir == "runs"
    (tmp_path / "a$b").mkdir()
    assert parse_args([str(recipe(f"output_dir: {tmp_path}/a$b\n"))]).output_dir.endswith("a$b")
