"""Two recorded runs are told apart at the update and the stage where they part, and the known traps by name."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from harness.handwritten_loop import handwritten_loop
from harness.models import long_head, tiny_bert
from harness.recordings import divided, record_ftloop, record_trainer
from harness.rows import pad
from harness.side_by_side import BASE, QUIET, Job, file_digest, run_ftloop, run_trainer, weights_digest

from ftloop import TrainConfig, UserError, prepare, train
from ftloop.compare import Comparison, Recorder, also_different, compare, explain, read, record
from ftloop.compare.__main__ import main
from ftloop.compare.description import describe
from ftloop.compare.recorder import check_recording, digest_inputs
from ftloop.run.run import Run

PLAIN, DIVIDED, STEEP = (Job(model, train_rows=17) for model in (tiny_bert, divided, long_head))
# 17 rows: 5 micro-batches of 4, the last of 1; with accumulation 3 the last window of an epoch has 2 of them.
K1 = ({}, {"accumulation": 1})
K3 = ({"gradient_accumulation_steps": 3}, {"accumulation": 3})
BY_STEPS = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"}
K1_STEPS = (BY_STEPS, {"eval_steps": 3})
NO_EVAL = {"eval_strategy": "no", "save_strategy": "no"}
K1_NO_EVAL = (NO_EVAL, {"eval_steps": 0})
K3_NO_EVAL = (K3[0] | NO_EVAL, K3[1] | {"eval_steps": 0})
K3_LONG = (K3[0] | {"num_train_epochs": 4}, K3[1] | {"epochs": 4})
ONE_WORKER = (NO_EVAL | {"dataloader_num_workers": 1}, {"eval_steps": 0, "workers": 1})

# The fault; the job, Trainer's arguments and the loop's; the update and the stage where they part; the cause.
# With the number of the row in section 10 of the list of traps, where it has one.
FAULTS: list[tuple[str, Job, Any, int, str, str]] = [
    ("divides by accumulation", PLAIN, K3, 1, "loss", "accumulation"),
    ("plain shuffle", PLAIN, K1, 1, "rows", "sampler"),
    ("no shuffle", PLAIN, K1, 1, "rows", "not-shuffled"),
    ("no reseed", PLAIN, K1, 1, "random state", "not-reseeded"),
    ("no set_epoch", PLAIN, K3, 3, "rows", "set-epoch"),
    ("evaluation without an iterator", PLAIN, K1_STEPS, 4, "random state", "evaluation-draw"),
    ("unfused", PLAIN, K1, 1, "weights", "fused"),
    ("decay on everything", PLAIN, K1, 1, "weights", "decay-groups"),
    ("no clipping", STEEP, K1, 1, "clipping", "no-clipping"),
    ("learning rate logged late", PLAIN, K3, 1, "log", "logged-after-step"),
    ("losses added in Python", PLAIN, ({"logging_steps": 4}, {"logging_steps": 4}), 4, "log", "log-precision"),
    ("mean of batch means", PLAIN, K1, 5, "evaluation", "evaluation-average"),
    ("fixed divisor", DIVIDED, K3, 2, "loss", "fixed-divisor"),
    ("no final evaluation", PLAIN, K1_STEPS, 10, "evaluation", "nothing-at-the-end"),
    ("persistent workers", PLAIN, ONE_WORKER, 6, "random state", "persistent-workers"),
    # those that are not in that section
    ("steps after the first micro-batch", PLAIN, K3, 1, "rows", "step-modulo"),
    ("last window carried on", PLAIN, K3_NO_EVAL, 2, "rows", "window-carried"),
    ("last window joins the next", PLAIN, K3_NO_EVAL, 2, "rows", "window-carried"),
    ("last window dropped", PLAIN, K3_NO_EVAL, 2, "rows", "window-dropped"),
    ("", PLAIN, (K1[0], K3[1]), 1, "rows", "rows-per-update"),
    ("drop last", PLAIN, K3_NO_EVAL, 2, "rows", "drop-last"),
    ("drop last", PLAIN, K1_NO_EVAL, 5, "rows", "drop-last"),
    ("zero_grad first", PLAIN, K1, 1, "clipping", "cleared-before-step"),
    ("another head", PLAIN, K1, 0, "weights", "initial-weights"),
    ("evaluates first", PLAIN, K1, 1, "random state", "iterator-draw"),
    ("peeks at the loader", PLAIN, K1_NO_EVAL, 6, "random state", "extra-iterator"),
    ("padding to a multiple", PLAIN, K1, 1, "padding", "padding-multiple"),
    ("padding on the left", PLAIN, K1, 1, "padding", "padding-side"),
    ("no zero_grad", PLAIN, K1, 2, "gradient", "zero-grad"),
    ("never back to training mode", PLAIN, K1_STEPS, 4, "loss", "eval-mode"),
    ("scheduler first", PLAIN, K1, 1, "learning rate", "scheduler-first"),
    ("scheduler per micro-batch", PLAIN, K3_LONG, 1, "learning rate", "scheduler-per-micro-batch"),
    ("last loss logged", PLAIN, ({"logging_steps": 4}, {"logging_steps": 4}), 4, "log", "logs-last-loss"),
    ("norm logged late", STEEP, K1, 1, "log", "logged-after-clipping"),
    ("another max_grad_norm", STEEP, K1, 1, "clipping", "max-grad-norm"),
    ("", PLAIN, (K1[0], K1[1] | {"learning_rate": 2e-3}), 1, "learning rate", "learning-rate"),
    ("", PLAIN, (K1[0], K1[1] | {"epochs": 3}), 2, "learning rate", "schedule-length"),
    ("another epsilon", PLAIN, K1, 1, "weights", "eps"),
    ("global padding", PLAIN, K1, 1, "padding", "padding-global"),
    ("other seed", PLAIN, K1, 1, "random state", "seed"),
    ("other labels", PLAIN, K1, 1, "rows", "data"),
    ("loss rounded", PLAIN, K1, 1, "log", "log-rounded"),
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trainer's recording of a job, made once."""
    made: dict[str, Path] = {}

    def recording(job: Job, arguments: dict[str, Any]) -> Path:
        key = repr((job, sorted(arguments.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("trainer") / "trainer.jsonl"
            record_trainer(job, made[key], **arguments)
        return made[key]

    return recording


def compared(a: Path, b: Path) -> Comparison:
    return compare(read(a), read(b))


@pytest.mark.parametrize(
    ("job", "case"),
    [
        (PLAIN, K1),
        pytest.param(PLAIN, K3, marks=pytest.mark.slow),
        (DIVIDED, K3),
        pytest.param(STEEP, K1, marks=pytest.mark.slow),
        (PLAIN, K1_STEPS),
    ],
)
def test_a_loop_of_ones_own_without_a_fault_is_trainers_run(job: Job, case: Any, theirs: Any, tmp_path: Path) -> None:
    """Without this, the faults below would not be what makes the runs part."""
    handwritten_loop(job, tmp_path / "mine.jsonl", **case[1])
    comparison = compared(theirs(job, case[0]), tmp_path / "mine.jsonl")
    assert comparison.same, describe(comparison)
    assert len(comparison.updates) == (4 if case is K3 else 10)
    assert "THE SAME RUN" in describe(comparison)


# Every other one is left to the slow tier, to keep the fast one fast.
@pytest.mark.parametrize(
    ("fault", "job", "case", "update", "stage", "cause"),
    [
        pytest.param(*f, id=f"{f[0]}-{f[3]}", marks=[pytest.mark.slow] if place % 2 else [])
        for place, f in enumerate(FAULTS)
    ],
)
def test_each_trap_is_found_where_it_is_and_named(
    fault: str, job: Job, case: Any, update: int, stage: str, cause: str, theirs: Any, tmp_path: Path
) -> None:
    handwritten_loop(job, tmp_path / "mine.jsonl", fault, **case[1])
    for files in ((theirs(job, case[0]), tmp_path / "mine.jsonl"), (tmp_path / "mine.jsonl", theirs(job, case[0]))):
        comparison = compared(*files)
        assert not comparison.same
        assert (comparison.first.update, comparison.first.stage) == (update, stage), describe(comparison)
        assert [each.name for each in explain(comparison)] == [cause], describe(comparison)
        # A shuffle of torch's draws a seed, and fewer updates make another schedule: nothing else is there to be told.
        follows = {"plain shuffle": {"iterator-draw"}, "": {"schedule-length"} if cause == "rows-per-update" else set()}
        assert {each.name for each in also_different(comparison)} == follows.get(fault, set()), describe(comparison)


def edited(source: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A recording with each of its lines changed by hand: for what no run on this machine can be made to do."""
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    for line in lines:
        edit(line)
    target.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return target


def names(comparison: Comparison) -> list[str]:
    return [cause.name for cause in explain(comparison)]


@pytest.mark.parametrize(
    ("fault", "cause", "tells"),
    [
        ("", None, ""),
        ("random state forgotten", "resume-rng", ""),
        ("random state before the iterator", "resume-rng", "wrong side of the iterator"),
        ("rows not skipped", "resume-rows", "of update 1"),
    ],
)
def test_a_resume_that_is_not_exact_is_explained(
    fault: str, cause: str | None, tells: str, theirs: Any, tmp_path: Path
) -> None:
    """The loop goes on from Trainer's checkpoint of update 1, in the middle of an epoch of 2."""
    whole = theirs(PLAIN, K3[0] | {"save_strategy": "steps", "save_steps": 1})
    checkpoint = whole.with_suffix("") / "checkpoint-1"
    handwritten_loop(PLAIN, tmp_path / "mine.jsonl", fault, resume=checkpoint, resume_at=1, **K3[1])
    comparison = compared(whole, tmp_path / "mine.jsonl")
    assert comparison.updates == [2, 3, 4]
    assert names(comparison) == ([] if cause is None else [cause])
    if cause is None:
        assert comparison.same
    else:
        assert comparison.first.update == 2
        assert tells in explain(comparison)[0].text


def test_trainer_hides_a_nan_and_ftloop_logs_it(theirs: Any, tmp_path: Path) -> None:
    def broken() -> Any:
        model = tiny_bert()
        with torch.no_grad():
            model.classifier.bias.fill_(float("nan"))
        return model

    record_ftloop(Job(broken), tmp_path / "ours.jsonl", on_nonfinite="ignore", **NO_EVAL)
    comparison = compared(theirs(Job(broken), NO_EVAL), tmp_path / "ours.jsonl")
    assert (comparison.first.update, comparison.first.stage, comparison.first.a) == (1, "log", 0.0)
    assert names(comparison) == ["nan-filter"]


def test_equal_weight_of_rows_and_of_micro_batches_are_told_apart(theirs: Any, tmp_path: Path) -> None:
    record_ftloop(PLAIN, tmp_path / "ours.jsonl", **K3[0])
    comparison = compared(theirs(DIVIDED, K3[0]), tmp_path / "ours.jsonl")
    assert (comparison.first.update, comparison.first.stage) == (2, "loss")
    assert names(comparison) == ["row-weighting"]


def test_padding_that_is_not_computed_leaves_rows_order_and_rate_and_is_named(theirs: Any, tmp_path: Path) -> None:
    """Without dropout what differs is rounding."""
    calm = Job(functools.partial(tiny_bert, dropout=0.0), train_rows=17)
    record_ftloop(calm, tmp_path / "ours.jsonl", padding="none")
    comparison = compared(theirs(calm, {}), tmp_path / "ours.jsonl")
    assert comparison.first.update == 1
    assert comparison.first.stage in ("loss", "gradient"), "the mean over 4 rows may round to the same"
    assert comparison.first.ratio == pytest.approx(1, abs=1e-6)
    stages = {difference.stage for difference in comparison.differences}
    assert stages.isdisjoint({"rows", "order", "padding", "random state", "learning rate"})
    assert names(comparison) == ["padding-none"]
    assert "B computes no padding (padding=none): its sums are in another order" in explain(comparison)[0].text


@pytest.mark.parametrize(
    ("arguments", "stage", "update", "cause"),
    [
        ({"data_seed": 7}, "rows", 1, "arguments"),
        ({"bf16": True}, "loss", 1, "arguments"),
        ({"label_smoothing_factor": 0.1}, "loss", 1, "arguments"),
        ({"lr_scheduler_type": "cosine"}, "learning rate", 2, "arguments"),
        ({"warmup_steps": 3}, "learning rate", 1, "arguments"),
        ({"weight_decay": 0.1}, "weights", 1, "decay-groups"),
        ({"adam_beta2": 0.98}, "weights", 1, "betas"),
        ({"eval_delay": 1.5}, "evaluation", 5, "arguments cadence"),
        ({"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}, "end", 10, "best-model"),
    ],
)
def test_different_arguments_are_evidence(
    arguments: dict[str, Any], stage: str, update: int, cause: str, theirs: Any, tmp_path: Path
) -> None:
    record_ftloop(PLAIN, tmp_path / "ours.jsonl", **arguments)
    comparison = compared(theirs(PLAIN, {}), tmp_path / "ours.jsonl")
    assert (comparison.first.update, comparison.first.stage) == (update, stage), describe(comparison)
    assert names(comparison) == cause.split(), describe(comparison)
    assert next(iter(arguments)) in explain(comparison)[0].text or "arguments" not in cause


def test_a_difference_that_fits_nothing_known_is_not_explained(theirs: Any, tmp_path: Path) -> None:
    """A weight is nudged before the third update: nothing in the recordings says why."""

    def nudge(run: Run, inputs: dict[str, Any], *others: Any) -> torch.Tensor:
        if run.state.global_step == 2:
            with torch.no_grad():
                run.unwrapped_model.classifier.weight[0, 0] += 0.125
        return recording.training_step(run, inputs, *others)

    train_rows, eval_rows = PLAIN.data()
    config = TrainConfig(output_dir=str(tmp_path / "out"), **QUIET | BASE | NO_EVAL)
    run = prepare(config, PLAIN.model(), train_rows, eval_rows, data_collator=pad, compute_metrics=PLAIN.metrics)
    with record(run, tmp_path / "ours.jsonl") as recording:
        train(run, nudge)
    comparison = compared(theirs(PLAIN, NO_EVAL), tmp_path / "ours.jsonl")
    assert (comparison.first.update, comparison.first.stage) == (3, "loss")
    assert explain(comparison) == []
    assert "unknown" in describe(comparison)


def test_last_digits_are_explained_only_by_a_known_other_machine(theirs: Any, tmp_path: Path) -> None:
    def nudged(line: dict[str, Any]) -> None:
        for micro in line.get("micro_batches", []):
            micro["loss"] *= 1 + 2e-7

    def elsewhere(line: dict[str, Any]) -> None:
        nudged(line)
        if "ftloop_record" in line:
            line["threads"] += 1

    def upgraded(line: dict[str, Any]) -> None:
        nudged(line)
        if "ftloop_record" in line:
            line["versions"] |= {"transformers": "4.40.2", "accelerate": "0.34.2"}

    def unsaid(line: dict[str, Any]) -> None:
        nudged(line)
        if "ftloop_record" in line:
            del line["versions"]["transformers"]

    whole = theirs(PLAIN, {})
    for edit in (nudged, unsaid):
        assert names(compared(whole, edited(whole, tmp_path / "nudged.jsonl", edit))) == []
    facts = "threads 1 and 2", f"transformers {transformers.__version__} and 4.40.2"
    for edit, fact in zip((elsewhere, upgraded), facts, strict=True):
        comparison = compared(whole, edited(whole, tmp_path / "elsewhere.jsonl", edit))
        assert names(comparison) == ["arithmetic"]
        assert f"and so do: {fact}. " in explain(comparison)[0].text


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (lambda value: round(value, 5), ["log-rounded"]),
        (lambda value: round(value, 3) + 0.001, []),
        (lambda value: round(value, 9), []),
    ],
    ids=["rounded", "few digits of another number", "too many digits"],
)
def test_a_rounded_log_is_known_by_the_digits_of_the_other(
    edit: Callable[[float], float], cause: list[str], theirs: Any, tmp_path: Path
) -> None:
    """Of the losses and the norm alone: a score or a learning rate has few digits without being rounded."""
    whole = theirs(PLAIN, {})
    for name in ("loss", "grad_norm", "learning_rate"):

        def written(line: dict[str, Any], name: str = name) -> None:
            if name in line.get("log", {}):
                line["log"][name] = edit(line["log"][name])

        comparison = compared(whole, edited(whole, tmp_path / f"{name}.jsonl", written))
        assert (comparison.first.stage, comparison.first.what) == ("log", name)
        assert comparison.first_in_training is None
        assert names(comparison) == ([] if name == "learning_rate" else cause), describe(comparison)


def test_a_rounded_evaluation_loss_is_not_called_another_average(theirs: Any, tmp_path: Path) -> None:
    def written(line: dict[str, Any]) -> None:
        if "eval_loss" in line.get("log", {}):
            line["log"]["eval_loss"] = round(line["log"]["eval_loss"], 4)

    whole = theirs(PLAIN, {})
    comparison = compared(whole, edited(whole, tmp_path / "rounded.jsonl", written))
    assert (comparison.first.stage, names(comparison)) == ("evaluation", ["log-rounded"])
    assert "B rounds the eval_loss that it logs to 4 digits, A does not" in explain(comparison)[0].text


def other_inputs(line: dict[str, Any]) -> None:
    for micro in line.get("micro_batches", []):
        micro["inputs"] = ["input_ids", "labels"]


def other_optimizer(line: dict[str, Any]) -> None:
    if "optimizer" in line:
        line["optimizer"]["class"] = "SGD"
    if "update" in line:
        line["weights"] = "others"


@pytest.mark.parametrize(
    ("edit", "cause", "text"),
    [
        (other_inputs, "inputs", "only in A attention_mask, token_type_ids; only in B none"),
        (other_optimizer, "optimizer", "A's optimizer is AdamW, B's SGD"),
    ],
)
def test_other_inputs_and_another_optimizer_are_named(
    edit: Callable[[dict[str, Any]], None], cause: str, text: str, theirs: Any, tmp_path: Path
) -> None:
    whole = theirs(PLAIN, {})
    comparison = compared(whole, edited(whole, tmp_path / "edited.jsonl", edit))
    assert names(comparison) == [cause]
    assert text in explain(comparison)[0].text


def test_a_schedule_that_waited_for_an_overflow_is_named(theirs: Any, tmp_path: Path) -> None:
    """As on a GPU under fp16: update 2 overflows on both sides, and only one of the schedules waits."""
    whole = theirs(PLAIN, NO_EVAL)
    rates = read(whole).curve("learning_rate")

    def overflowed(line: dict[str, Any]) -> None:
        if line.get("update") == 2:
            line["micro_batches"][-1]["grad_norm"] = float("inf")

    def waited(line: dict[str, Any]) -> None:
        overflowed(line)
        if line.get("update", 0) > 2:
            line["lr"] = [rates[line["update"] - 1]] * 2

    files = [edited(whole, tmp_path / f"{i}.jsonl", edit) for i, edit in enumerate((overflowed, waited))]
    comparison = compared(*files)
    assert (comparison.first.update, comparison.first.stage) == (3, "learning rate")
    assert names(comparison) == ["overflow-schedule"]


def test_a_random_state_that_nothing_draws_from_has_no_effect(theirs: Any, tmp_path: Path) -> None:
    """Without dropout the evaluation's random number makes no difference, and that is said."""
    calm = Job(functools.partial(tiny_bert, dropout=0.0))
    handwritten_loop(calm, tmp_path / "mine.jsonl", "evaluation without an iterator", eval_steps=3)
    comparison = compared(theirs(calm, BY_STEPS), tmp_path / "mine.jsonl")
    assert (comparison.first.update, comparison.first.stage, comparison.first_in_training) == (4, "random state", None)
    assert "has no effect on it" in describe(comparison)
    assert names(comparison) == ["evaluation-draw"]


def test_other_log_lines_do_not_make_another_training(theirs: Any, tmp_path: Path) -> None:
    handwritten_loop(PLAIN, tmp_path / "mine.jsonl", logging_steps=3)
    comparison = compared(theirs(PLAIN, {}), tmp_path / "mine.jsonl")
    assert {difference.what for difference in comparison.differences} == {"loss"}, (
        "which is then the mean over 3 updates"
    )
    assert comparison.first_in_training is None
    assert any("the runs log after different updates" in note for note in comparison.notes)


def test_an_evaluation_at_another_time_and_its_effect_are_named(theirs: Any, tmp_path: Path) -> None:
    handwritten_loop(PLAIN, tmp_path / "mine.jsonl", eval_steps=5)
    comparison = compared(theirs(PLAIN, BY_STEPS), tmp_path / "mine.jsonl")
    assert (comparison.first.update, comparison.first.stage) == (3, "evaluation")
    assert names(comparison) == ["cadence"]
    assert "A after updates 3, 6, 9, 10; B after updates 5, 10" in explain(comparison)[0].text
    assert "The training itself first differs at update 4, stage: loss" in describe(comparison)


def test_part_of_an_epoch_in_another_order_is_not_called_other_data(theirs: Any, tmp_path: Path) -> None:
    def is_early(line: str) -> bool:
        return json.loads(line).get("update", 0) < 3

    handwritten_loop(PLAIN, tmp_path / "mine.jsonl", "plain shuffle")
    for source, name in ((theirs(PLAIN, {}), "a.jsonl"), (tmp_path / "mine.jsonl", "b.jsonl")):
        (tmp_path / name).write_text("".join(filter(is_early, source.read_text().splitlines(keepends=True))))
    assert names(compared(tmp_path / "a.jsonl", tmp_path / "b.jsonl")) == []


# --- recording ---


@pytest.mark.parametrize(
    "full", [pytest.param(False, id="cheap", marks=pytest.mark.slow), pytest.param(True, id="full")]
)
def test_recording_changes_no_bit_of_a_run(full: bool, theirs: Any, tmp_path: Path) -> None:
    arguments = BASE | {"gradient_accumulation_steps": 3, "trainer_compat": True}
    plain = run_ftloop(PLAIN, tmp_path / "plain", **arguments)
    recorded = record_ftloop(PLAIN, tmp_path / "recorded.jsonl", full, **arguments)
    assert weights_digest(recorded.model) == plain.weights
    for folder, files in plain.checkpoints.items():
        there = tmp_path / "recorded" / folder
        assert {name: file_digest(there / name) for name in files} == files
    trainer = run_trainer(PLAIN, tmp_path / "trainer", **arguments)
    assert weights_digest(record_trainer(PLAIN, tmp_path / "theirs.jsonl", **K3[0]).model) == trainer.weights


def test_a_full_recording_names_the_tensors_that_differ(tmp_path: Path) -> None:
    handwritten_loop(PLAIN, tmp_path / "a.jsonl", full=True)
    handwritten_loop(PLAIN, tmp_path / "b.jsonl", "decay on everything", full=True)
    comparison = compared(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert comparison.first.stage == "weights"
    assert "LayerNorm.weight" in comparison.first.what
    assert "13 tensors differ" in comparison.first.what or "tensors differ" in comparison.first.what


def test_a_resumed_run_continues_its_recording(tmp_path: Path) -> None:
    """Cut off in the middle of a line, as by a kill: what is whole stays, what is done again takes its place."""
    arguments = {"save_strategy": "steps", "save_steps": 1}
    record_ftloop(PLAIN, tmp_path / "whole.jsonl", **arguments)
    record_ftloop(PLAIN, tmp_path / "ours.jsonl", **arguments)
    text = (tmp_path / "ours.jsonl").read_text()
    (tmp_path / "ours.jsonl").write_text(text[: text.index('"update": 7') + 40])
    for folder in (tmp_path / "ours").glob("checkpoint-*"):
        if int(folder.name.split("-")[1]) > 3:
            shutil.rmtree(folder)
    record_ftloop(PLAIN, tmp_path / "ours.jsonl", resume=tmp_path / "ours" / "checkpoint-3", **arguments)
    resumed = read(tmp_path / "ours.jsonl")
    assert resumed.resumed_at == {3}
    comparison = compare(read(tmp_path / "whole.jsonl"), resumed)
    assert comparison.same, describe(comparison)
    assert len(comparison.updates) == 10
    assert not comparison.notes


def test_padding_does_not_make_another_row() -> None:
    short = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.tensor([[1, 1, 1]])}
    right = {"input_ids": torch.tensor([[5, 6, 7, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    left = {"input_ids": torch.tensor([[0, 5, 6, 7]]), "attention_mask": torch.tensor([[0, 1, 1, 1]])}
    other = {"input_ids": torch.tensor([[5, 6, 8]]), "attention_mask": torch.tensor([[1, 1, 1]])}
    rows, batches, shapes = zip(*map(digest_inputs, (short, right, left, other)), strict=True)
    assert rows[0] == rows[1] == rows[2] != rows[3]
    assert len(set(batches)) == 4
    assert shapes == ([1, 3], [1, 4], [1, 4], [1, 3])


def test_the_three_calls_in_the_wrong_order_are_an_error(tmp_path: Path) -> None:
    model = tiny_bert()
    recorder = Recorder(tmp_path / "mine.jsonl", model, torch.optim.AdamW(model.parameters()))
    with pytest.raises(RuntimeError, match="before_forward"):
        recorder.after_backward(1.0)


def test_only_a_trainer_or_a_run_can_be_recorded_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="use Recorder"):
        record(tiny_bert(), tmp_path / "mine.jsonl")


def test_a_recording_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, why in ((tmp_path, "is a folder"), (tmp_path / "file" / "x.jsonl", "")):
        with pytest.raises(UserError, match=f"record: .*cannot be written.*{why}"):
            check_recording(place)
    check_recording(tmp_path / "new" / "x.jsonl")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="record_full: only together with --record"):
        TrainConfig(record_full=True)


def test_several_logs_of_one_update_are_all_compared(two: tuple[Path, Path], tmp_path: Path) -> None:
    for name, loss in (("a", 1.0), ("b", 2.0)):
        model = tiny_bert()
        with Recorder(tmp_path / f"{name}.jsonl", model, torch.optim.AdamW(model.parameters())) as recorder:
            recorder.log({"eval_loss": loss})
            recorder.log({"eval_accuracy": 0.5, f"eval_{name}": 1})
    comparison = compared(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert (comparison.first.what, comparison.first.a, comparison.first.b) == ("eval_loss", 1.0, 2.0)
    assert "only a.jsonl logs eval_a: not compared" in comparison.notes
    assert "THE RUNS DIFFER at update 0, stage: evaluation" in describe(comparison)


def test_a_submodule_named_module_is_not_taken_for_the_model(tmp_path: Path) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    model = Wrapper()
    Recorder(tmp_path / "mine.jsonl", model, torch.optim.SGD(model.parameters())).close()
    assert read(tmp_path / "mine.jsonl").header["model"]["tensors"] == 4


def test_an_old_recording_does_not_pass_for_a_new_one(tmp_path: Path) -> None:
    record_trainer(PLAIN, tmp_path / "a.jsonl", max_steps=1)
    record_trainer(PLAIN, tmp_path / "a.jsonl", num_train_epochs=0)
    assert not (tmp_path / "a.jsonl").exists()


def test_a_second_training_is_recorded_anew_and_no_hook_is_left(tmp_path: Path) -> None:
    trainer = record_trainer(PLAIN, tmp_path / "a.jsonl", max_steps=2)
    trainer.train()
    assert list(read(tmp_path / "a.jsonl").updates) == [1, 2]
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks


def test_gradients_cleared_before_backward_are_not_blamed(tmp_path: Path) -> None:
    """Both loops are right; a weight of the second is nudged before its third update."""
    for name in ("a", "b"):
        model, rows = tiny_bert(dropout=0.0), PLAIN.data()[0]
        optimizer = torch.optim.AdamW(model.parameters())
        with Recorder(tmp_path / f"{name}.jsonl", model, optimizer) as recorder:
            for update in range(4):
                inputs = pad(list(rows)[4 * update : 4 * update + 4])
                recorder.before_forward(inputs)
                loss = model(**inputs).loss
                if name == "b":
                    optimizer.zero_grad()
                loss.backward()
                recorder.after_backward(loss)
                if name == "b" and update == 2:
                    model.classifier.bias.grad.zero_()
                optimizer.step()
                if name == "a":
                    optimizer.zero_grad()
    comparison = compared(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert comparison.first.update == 3
    assert names(comparison) == []


def test_inputs_of_any_kind_are_recorded(tmp_path: Path) -> None:
    model = tiny_bert()
    with Recorder(tmp_path / "mine.jsonl", model, torch.optim.AdamW(model.parameters())) as recorder:
        positions = torch.arange(5)[None]
        ids = torch.ones(3, 5, dtype=torch.long)
        for inputs in (ids, (ids, ids), {"input_ids": ids, "position_ids": positions, "task": "x"}, {"task": "x"}):
            recorder.before_forward(inputs)
    assert read(tmp_path / "mine.jsonl").updates == {}


# --- the command ---


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("two")
    handwritten_loop(PLAIN, folder / "a.jsonl")
    handwritten_loop(PLAIN, folder / "b.jsonl", "another epsilon")
    return folder / "a.jsonl", folder / "b.jsonl"


def test_the_command_describes_draws_and_writes(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, two)
    assert main([a, a]) == 0
    assert "THE SAME RUN, 10 updates" in capsys.readouterr().out
    assert main([a, b, "--png", str(tmp_path / "x" / "both.png"), "--tensorboard", str(tmp_path / "board")]) == 1
    printed = capsys.readouterr().out
    assert "THE RUNS DIFFER at update 1, stage: weights" in printed
    assert "eps: A 1e-08; B 1e-06" in printed
    assert "Largest difference" in printed
    assert (tmp_path / "x" / "both.png").read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([a, b, "--tensorboard", str(tmp_path / "board")]) == 2
    assert "exists and would show" in capsys.readouterr().err
    assert main([str(tmp_path), b]) == 2
    assert "is a folder and" in capsys.readouterr().err
    for name in ("A-a", "B-b"):
        events = EventAccumulator(str(tmp_path / "board" / name)).Reload()
        assert {"train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"} <= set(events.Tags()["scalars"])
        assert len(events.Scalars("train/loss")) == 10


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "a.jsonl: not readable (No such file or directory)"),
        (lambda path: path.write_text(""), "a.jsonl: not a recording: it is empty"),
        (lambda path: path.write_text('{"ftloop_rec'), "a.jsonl: not a recording: it is empty, or was cut off"),
        (lambda path: path.write_text('{"loss": 1}\n'), "a.jsonl: not a recording (its first line lacks"),
        (lambda path: path.write_text("loss\n"), "a.jsonl: line 1 is not a line of a recording"),
        (lambda path: path.write_bytes(b"\xff\xfe\n"), "a.jsonl: not readable"),
        (lambda path: change(path, 0, ftloop_record=99), "recorded in format 99, this ftloop reads format 1"),
        (lambda path: change(path, 3, update="x"), "a.jsonl: line"),
        (
            lambda path: change(path, 0, processes=2),
            "recorded by 2 processes, and a.rank1.jsonl of process 1 is missing",
        ),
        (
            lambda path: change(path, 0, model={"class": "T5", "parameters": 7}),
            "not the same model (T5 with 7 parameters",
        ),
    ],
)
def test_what_cannot_be_compared_is_reported_in_one_line(
    spoil: Any, told: str, two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(two[0], tmp_path / "a.jsonl")
    spoil(tmp_path / "a.jsonl")
    assert main([str(tmp_path / "a.jsonl"), str(two[1])]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def change(path: Path, line: int, **values: Any) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = json.dumps(json.loads(lines[line]) | values) + "\n"
    path.write_text("".join(lines))


def test_recordings_of_different_numbers_of_processes_are_refused(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, name in enumerate(("a.jsonl", "a.rank1.jsonl")):
        shutil.copy(two[0], tmp_path / name)
        change(tmp_path / name, 0, processes=2, rank=rank)
    assert main([str(tmp_path / "a.jsonl"), str(two[1])]) == 2
    assert "not the same number of processes (2; 1)" in capsys.readouterr().err


def test_a_recording_continued_by_another_number_of_processes_is_refused(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As --record on one process, resumed with two of half the batch, leaves it."""
    lines = two[0].read_text().splitlines(keepends=True)
    half = next(number for number, line in enumerate(lines) if '"update": 6' in line)
    second = json.dumps(json.loads(lines[0]) | {"processes": 2, "global_step": 5}) + "\n"
    (tmp_path / "a.jsonl").write_text("".join([*lines[:half], second, *lines[half:]]))
    assert main([str(tmp_path / "a.jsonl"), str(two[1])]) == 2
    error = capsys.readouterr().err
    assert "a.jsonl: begun by 1 process and continued by 2 after update 5" in error
    assert error.count("\n") == 1


def test_a_file_name_with_a_dollar_is_drawn_as_it_is(two: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for source, name in zip(two, ("a__b$1.jsonl", "c__d$2.jsonl"), strict=True):
        shutil.copy(source, tmp_path / name)
    words = [str(tmp_path / "a__b$1.jsonl"), str(tmp_path / "c__d$2.jsonl"), "--png", str(tmp_path / "both.png")]
    assert main(words) == 1
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_a_recording_that_was_cut_off_is_used_up_to_there(two: tuple[Path, Path], tmp_path: Path) -> None:
    text = two[0].read_text()
    (tmp_path / "cut.jsonl").write_text(text[: text.index('"update": 7') + 40])
    comparison = compared(two[0], tmp_path / "cut.jsonl")
    assert comparison.same
    assert comparison.updates == list(range(1, 7))
    assert "cut.jsonl: the last line is incomplete; used up to update 6" in describe(comparison)
