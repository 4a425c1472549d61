"""ftloop called from Python, as people do: loops taken up again, metrics of any kind, models of their own, threads."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.models import tiny_bert
from harness.output_dirs import difference, what_is_left
from harness.prepared_runs import ARGUMENTS, prepared
from harness.rows import pad, tiny_rows
from harness.side_by_side import weights_digest
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR

from ftloop import (
    TrainConfig,
    UserError,
    evaluate,
    finish,
    load_checkpoint,
    predict,
    prepare,
    save_checkpoint,
    save_model,
    train,
    updates,
)
from ftloop.models.weights import load_weights
from ftloop.system.manifest import MANIFEST
from ftloop.train import main


def test_a_loop_of_ones_own_goes_on_where_the_configuration_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = prepared(tmp_path / "whole")
    assert len(list(updates(whole))) == 16
    broken_off = prepared(tmp_path / "mine", resume_from_checkpoint="last")  # nothing is there: it starts afresh
    for update in updates(broken_off):
        if update.global_step == 5:
            save_checkpoint(broken_off)
        if update.global_step == 6:
            break
    again = prepared(tmp_path / "mine", resume_from_checkpoint="last")
    assert [update.global_step for update in updates(again)] == [*range(6, 17)]
    assert "Resuming  after update 5 of 16" in capsys.readouterr().out
    assert weights_digest(again.model) == weights_digest(whole.model)
    with pytest.raises(UserError, match=r"no checkpoint at .*checkpoint-7; .*mine has checkpoint-5; or say `last`"):
        next(updates(prepared(tmp_path / "mine", resume_from_checkpoint=str(tmp_path / "mine" / "checkpoint-7"))))
    with pytest.raises(UserError, match=r"mine is a run's folder; its newest checkpoint is .*checkpoint-5"):
        next(updates(prepared(tmp_path / "mine", resume_from_checkpoint=str(tmp_path / "mine"))))
    capsys.readouterr()
    assert next(updates(prepared(tmp_path / "mine"))).global_step == 1, "not asked for, a loop of one's own starts anew"
    assert "mine holds checkpoints (checkpoint-5 is the newest), which this run replaces" in capsys.readouterr().out


def test_a_loop_of_ones_own_is_warned_of_a_finished_run_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert next(updates(prepared(tmp_path))).global_step == 1
    train(prepared(tmp_path / "other"))
    assert "Warning" not in capsys.readouterr().out
    (tmp_path / MANIFEST).write_text("{}")
    assert next(updates(prepared(tmp_path))).global_step == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")]
    assert f"output_dir: {tmp_path} holds a finished run, which this run replaces where it saves; choose" in line


@pytest.mark.parametrize("own_loop", [True, False])
def test_a_finished_run_that_is_taken_up_from_python_is_loaded_and_not_trained_again(
    own_loop: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop that saves nothing leaves no checkpoint, a limit of one with the best model an early one."""
    by_epoch: dict[str, Any] = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    by_epoch |= {"metric_for_best_model": "accuracy", "save_total_limit": 1}
    arguments = {"learning_rate": 0.05} if own_loop else by_epoch
    first = prepared(tmp_path, **arguments)
    if own_loop:
        assert len(list(updates(first))) == 16
    else:
        result = train(first)
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]
    finish(first)
    digest, left = weights_digest(first.model), what_is_left(tmp_path)
    capsys.readouterr()

    again = prepared(tmp_path, resume_from_checkpoint="last", **arguments)
    if own_loop:
        assert list(updates(again)) == []
    else:
        assert (again_result := train(again)).global_step == 16
        assert again_result.training_loss == result.training_loss
    assert weights_digest(again.model) == digest
    said = f"Trained   already: {tmp_path} holds the final model, of update 16; it is loaded\n"
    assert capsys.readouterr().out.count(said) == 1
    finish(again)
    for changing in ("trainer_state.json", MANIFEST):  # they hold the second start
        left.pop(changing)
    assert difference(left, {name: each for name, each in what_is_left(tmp_path).items() if name in left}) is None
    results = json.loads((tmp_path / "train_results.json").read_text())
    assert own_loop or results["train_runtime"] == first.state.log_history[-1]["train_runtime"]

    other = prepared(tmp_path, resume_from_checkpoint="last", seed=7, **arguments)
    with pytest.raises(UserError, match=r"seed \(42 then, 7 now\).*(Choose another --output_dir|resume with the same)"):
        next(updates(other))


@pytest.mark.parametrize("keeps", [False, True])
def test_a_learning_rate_set_by_the_body_stays_under_a_constant_schedule_of_ones_own(
    keeps: bool, tmp_path: Path
) -> None:
    """Under ftloop's schedules it lasts one update. Both as docs/guides/python.md says."""

    def used_and_told(**arguments: Any) -> tuple[list[float], list[float]]:
        model, used, told = tiny_bert(), [], []
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        own: Any = {"optimizers": (optimizer, ConstantLR(optimizer, factor=1))} if keeps else {}
        config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | {"lr_scheduler_type": "constant"} | arguments)
        run = prepare(config, model, tiny_rows(29), data_collator=pad, **own)
        stepped = run.optimizer.optimizer
        stepped.register_step_pre_hook(lambda *_: used.append(stepped.param_groups[0]["lr"]))
        for update in updates(run):
            told.append(update.learning_rate)
            if update.global_step == 2:
                run.optimizer.param_groups[0]["lr"] = 5e-4
            if update.global_step == 9:
                save_checkpoint(run)
        return used, told

    assert used_and_told()[0] == [1e-3] * 2 + ([5e-4] * 14 if keeps else [5e-4] + [1e-3] * 13)
    used, told = used_and_told(resume_from_checkpoint="last")
    assert used == told == [5e-4 if keeps else 1e-3] * 7


def test_a_run_without_a_training_set_says_so_where_it_is_to_train_and_loads_what_another_has_left(
    tmp_path: Path,
) -> None:
    trained = prepared(tmp_path)
    next(updates(trained))
    checkpoint = save_checkpoint(trained)
    config = TrainConfig(output_dir=str(tmp_path / "out"), **ARGUMENTS)
    run = prepare(config, tiny_bert(seed=7), eval_dataset=tiny_rows(5), data_collator=pad)
    calls: list[Callable[[], Any]] = [lambda: train(run), lambda: next(updates(run)), lambda: finish(run)]
    for call in (*calls, lambda: load_checkpoint(run, checkpoint), lambda: save_checkpoint(run)):
        with pytest.raises(UserError, match=r"^train_dataset: this run was prepared without one.* a train_dataset"):
            call()
    assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(AttributeError, match="has no attribute 'metre'"):
        run.metre += 1  # type: ignore[attr-defined]
    load_weights(run.unwrapped_model, checkpoint)  # as the message says
    assert weights_digest(copy.deepcopy(run).model) == weights_digest(trained.model)
    assert evaluate(run)["eval_loss"] == evaluate(trained, tiny_rows(5))["eval_loss"]


def test_training_a_second_time_says_that_the_run_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepared(tmp_path)
    first = train(run)
    assert "Trained" not in capsys.readouterr().out
    digest = weights_digest(run.model)
    second = train(run)
    assert "Trained   already: this run is complete, at update 16; prepare another to go on" in capsys.readouterr().out
    assert (second.global_step, second.training_loss) == (first.global_step, first.training_loss)
    assert weights_digest(run.model) == digest


def test_metrics_of_any_kind_are_in_the_log_and_in_the_checkpoints(tmp_path: Path) -> None:
    def compute_metrics(evaluated: Any) -> dict[str, Any]:
        return {
            "accuracy": np.float32(0.5),
            "confusion": np.array([[1, 2], [3, 4]]),
            "of class": {np.int64(1): torch.tensor([0.25, 0.5])},
            "best": np.bool_(True),
            "figure": Path("somewhere"),
        }

    run = prepared(tmp_path, eval_strategy="epoch", save_strategy="epoch", metric_for_best_model="accuracy")
    run.compute_metrics = compute_metrics  # type: ignore[assignment]
    train(run)
    log = json.loads((tmp_path / "checkpoint-16" / "trainer_state.json").read_text())["log_history"]
    (last,) = [entry for entry in log if "eval_accuracy" in entry and entry["step"] == 16]
    assert last["eval_confusion"] == [[1, 2], [3, 4]]
    assert last["eval_of class"] == {"1": [0.25, 0.5]}
    assert (last["eval_accuracy"], last["eval_best"], last["eval_figure"]) == (0.5, True, "somewhere")
    for given, said in (
        ({"accuracy": [0.5]}, r"'accuracy' is no number but \[0.5\]"),
        (0.5, "compute_metrics: gave 0.5"),
    ):
        run = prepared(tmp_path / "other", eval_strategy="epoch", metric_for_best_model="accuracy")
        run.compute_metrics = lambda evaluated, given=given: given  # type: ignore[misc,assignment]
        with pytest.raises(UserError, match=said):
            train(run)


class Tied(nn.Module):
    """Its output is computed with its embedding, and one more weight is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(120, 8)
        self.output = nn.Linear(8, 120, bias=False)
        self.output.weight = self.embedding.weight
        self.head = nn.Parameter(torch.randn(2, 120).T)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.output(self.embedding(input_ids).mean(1)) @ self.head
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return loss | {"logits": logits}


def test_tied_weights_of_a_model_of_ones_own_are_saved_and_resumed(tmp_path: Path) -> None:
    arguments = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    whole = prepared(tmp_path / "whole", Tied(), **arguments)
    train(whole)
    save_model(whole)
    resumed = prepared(tmp_path / "resumed", Tied(), **arguments)
    load_checkpoint(resumed, tmp_path / "whole" / "checkpoint-8")
    train(resumed)
    assert weights_digest(resumed.model) == weights_digest(whole.model)
    assert resumed.unwrapped_model.output.weight is resumed.unwrapped_model.embedding.weight  # type: ignore[union-attr]


def test_the_command_runs_in_a_thread(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Signals can be handled in the main thread alone; the run there goes on as ever."""
    files = {f"{name}_file": tiny_folder / f"{name}.jsonl" for name in ("train", "validation")}
    settings = files | {"model_name_or_path": tiny_folder / "model", "output_dir": tmp_path / "out", "max_steps": 1}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main([*words, "--use_cpu", "true"])))
    thread.start()
    thread.join()
    assert codes == [0], capsys.readouterr()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_step_of_ones_own_trains_with_dropout_after_an_evaluation(tmp_path: Path) -> None:
    """Whoever has left the model evaluating: the body, the step itself, or an evaluation that failed."""
    modes: list[bool] = []

    def step(run: Any, micro_batch: Any) -> Tensor:
        modes.append(all(module.training for module in run.model.modules()))
        loss = run.model(**micro_batch.inputs).loss / micro_batch.divisor
        run.accelerator.backward(loss)
        if len(modes) == 3:
            run.model.eval()
        return loss.detach()

    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | {"eval_strategy": "steps", "eval_steps": 2})
    run = prepare(config, tiny_bert(), tiny_rows(29), tiny_rows(5), data_collator=pad)
    train(run, step)
    assert modes == [True] * 16


@pytest.mark.parametrize("evaluates", ["epoch", "no"])
def test_a_trained_model_answers_without_dropout(evaluates: str, tmp_path: Path) -> None:
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | {"eval_strategy": evaluates})
    run = prepare(config, tiny_bert(), tiny_rows(29), tiny_rows(5), data_collator=pad)
    train(run)
    batch = pad([tiny_rows(5)[0]])
    once, again = (run.model(**batch).logits for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_leaves_the_model_in_the_mode_it_found(training: bool, tmp_path: Path) -> None:
    """Else a step of one's own that evaluates between two micro-batches would train the second without dropout."""
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS)
    run = prepare(config, tiny_bert(), tiny_rows(29), tiny_rows(5), data_collator=pad)
    run.model.train(training)
    evaluate(run)
    predict(run, tiny_rows(5))
    assert all(module.training == training for module in run.model.modules())
