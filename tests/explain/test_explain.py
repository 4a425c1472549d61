"""--explain: what is said of the first updates is what happened in them, and the run stays the same in every bit."""

from __future__ import annotations

import json
import math
import random
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.command import CHECKOUT, python, weights
from harness.command import arguments as command_line
from harness.command import run as run_command
from harness.faults import POISON, SmallMemory, poisoned_bert, poisoned_rows
from harness.models import tiny_bert
from harness.rows import RowsThatDraw, pad, tiny_pairs, tiny_rows, tiny_tokenizer
from harness.side_by_side import BASE, QUIET, Job, weights_digest

import ftloop.explain.drawing
from ftloop import TrainConfig, UserError, load_checkpoint, prepare, train, training_step, updates
from ftloop.checkpoint.folders import find_checkpoint
from ftloop.compare import record
from ftloop.explain import explain
from ftloop.explain.batches import label_name, rows_of_micro_batch
from ftloop.explain.drawing import ASCII, Glyphs, cell_of_step, draw_tokens, glyphs_for, sparkline
from ftloop.run.micro_batches import MicroBatch
from ftloop.run.run import Run
from ftloop.system.rng import rng_state

ARGUMENTS: dict[str, Any] = QUIET | BASE | {"save_strategy": "no", "gradient_accumulation_steps": 3}
UPDATES = 6
"""Two epochs of 29 rows: 8 micro-batches of 4, the last of 1, in windows of 3, 3 and 2."""


def prepared(folder: Path, augmented: bool = False, **arguments: Any) -> Run:
    job = Job()
    config = TrainConfig(output_dir=str(folder), **ARGUMENTS | arguments)
    rows, eval_rows = job.data()
    rows = RowsThatDraw(rows) if augmented else rows
    return prepare(config, job.model(), rows, eval_rows, data_collator=pad, compute_metrics=job.metrics)


SAME = [
    pytest.param(False, {"trainer_compat": True}, id="trainer_compat"),
    pytest.param(True, {"bf16": True, "batching": "length_grouped"}, id="bf16, length_grouped, recorded"),
    pytest.param(False, {"augmented": True}, id="rows that are drawn"),
    pytest.param(False, {}, id="fp32", marks=pytest.mark.slow),
    pytest.param(False, {"bf16": True, "optim": "adamw_torch"}, id="bf16", marks=pytest.mark.slow),
    pytest.param(False, {"batching": "token_budget"}, id="token_budget", marks=pytest.mark.slow),
    pytest.param(True, {"eval_strategy": "steps", "eval_steps": 1}, id="evaluated, recorded", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("recorded", "arguments"), SAME)
def test_a_narrated_run_is_the_same_run(recorded: bool, arguments: dict[str, Any], tmp_path: Path) -> None:
    """An epoch with its remainder, its evaluation and one update more, which is not narrated."""
    found = []
    for narrated in (0, 3):
        run, step, file = prepared(tmp_path, max_steps=4, **arguments), training_step, tmp_path / f"{narrated}.jsonl"
        with ExitStack() as watching:
            if recorded:
                step = watching.enter_context(record(run, file, full=True)).training_step
            if narrated:
                step = watching.enter_context(explain(run, narrated, step))
            train(run, step)
        state = rng_state()
        states = state["cpu"].tolist(), state["python"], str(state["numpy"])
        updates_recorded = file.read_text().splitlines()[1:] if recorded else []
        updates_recorded = [line for line in updates_recorded if "runtime" not in line]
        found.append((weights_digest(run.model), states, without_timings(run.state.log_history), updates_recorded))
    assert run.state.global_step == 4
    assert (len(found[0][3]) > 4) == recorded
    assert found[0] == found[1]


def without_timings(history: list[dict[str, Any]]) -> str:
    return json.dumps([{k: v for k, v in e.items() if "runtime" not in k and "per_second" not in k} for e in history])


class Watched:
    """A run and, beside what is narrated, what is seen of it by other means."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.inputs, self.updates = run, [], []
        self.gradients: list[dict[str, float]] = []
        """Norm of each parameter's, before clipping and after it, in turn."""
        self.weights: list[dict[str, torch.Tensor]] = [self._weights()]
        hook = run.optimizer.optimizer.register_step_pre_hook(lambda *_: self._note_gradients())
        with explain(run, number, self._step) as step:
            for update in updates(run, step):
                self.updates.append(update)
                self.weights.append(self._weights())
        hook.remove()

    def _step(self, run: Run, micro_batch: MicroBatch) -> torch.Tensor:
        share = training_step(run, micro_batch)
        self.inputs.append((micro_batch.inputs, share.item() * micro_batch.divisor, run.state.global_step))
        if run.accelerator.sync_gradients:
            self._note_gradients()
        return share

    def _note_gradients(self) -> None:
        named = self.run.model.named_parameters()
        self.gradients.append({name: p.grad.square().sum().sqrt().item() for name, p in named})

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.run.model.named_parameters()}


def narrated_updates(text: str) -> list[dict[str, str]]:
    """Topic -> its text in one line, of each update; the micro-batches' as `Batch 1` and so on."""
    found = []
    for part in re.split(r"^── Update \d+ of \d+ .*$", text, flags=re.MULTILINE)[1:]:
        told: dict[str, str] = {}
        topic = ""
        for line in part.split("\nExplain ")[0].splitlines():
            if line[:9].strip():
                topic = line[:9].strip()
                topic += f" {len([name for name in told if name.startswith('Batch')]) + 1}" if topic == "Batch" else ""
            if line.strip():
                told[topic] = f"{told.get(topic, '')} {line[10:]}".strip()
        found.append(told)
    return found


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match is not None, (pattern, text)
    return float(match.group(1).replace(",", ""))


class Halving:
    """A schedule of the user's own, with no more than the loop needs."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] /= 2

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


OWN: list[tuple[Any, str]] = [
    (lambda p: (torch.optim.SGD(p, lr=0.1), None), "SGD (not fused)"),
    (lambda p: (torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1), None), "SGD (not fused), momentum 0.9"),
    (lambda p: (torch.optim.AdamW(p, lr=0.5), None), "AdamW (not fused), betas 0.9 and 0.999, epsilon 1e-08"),
    (lambda p: (torch.optim.Adafactor(p, lr=0.1), None), "Adafactor"),
    (lambda p: ((own := torch.optim.SGD(p, lr=0.1)), Halving(own)), "SGD (not fused)"),
]


@pytest.mark.parametrize(("make", "told"), OWN, ids=["SGD", "momentum", "AdamW", "Adafactor", "schedule"])
def test_an_optimizer_and_a_schedule_of_ones_own_are_told_as_they_are(
    make: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job()
    config = TrainConfig(output_dir=str(tmp_path), max_steps=3, **ARGUMENTS)
    model = job.model()
    optimizers = make(list(model.parameters()))
    run = prepare(config, model, *job.data(), data_collator=pad, optimizers=optimizers)
    with explain(run, 3) as step:
        train(run, step)
    printed = capsys.readouterr().out
    assert re.search(rf"^Optimizer +{re.escape(told)}$", printed, re.MULTILINE)
    assert f"one step of {told.split()[0]}," in " ".join(printed.split())
    shares = [float(share) for share in re.findall(r"([\d.]+)% of the peak", printed)]
    schedule = next(line for line in printed.splitlines() if line.startswith("Schedule"))
    if optimizers[1] is None:
        assert f"peak {optimizers[0].defaults['lr']:g}" in schedule
        assert max(shares) == 100
    else:
        assert "Halving, your own, from 0.1" in schedule
        assert re.findall(r"^Rate +([\d.]+)", printed, re.MULTILINE) == ["0.1", "0.05", "0.025"]
        assert not shares
        assert "warm" not in printed
    assert ("shrink by rate" in printed) == ("AdamW" in told)


def test_a_label_alone_in_its_list_is_the_class_of_its_number(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    assert [label_name(run, torch.tensor([number])) for number in (0, 1)] == ["LABEL_0", "LABEL_1"]


@pytest.mark.parametrize(
    "arguments",
    [{}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({"bf16": True}, {"trainer_compat": True}))],
    ids=str,
)
def test_the_narrated_numbers_are_those_of_the_run(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All to the digits shown."""
    monkeypatch.setenv("COLUMNS", "120")
    limit = 1.0 if "trainer_compat" in arguments else 0.4
    run = prepared(tmp_path, max_grad_norm=limit, warmup_steps=2, logging_steps=4, **arguments)
    capsys.readouterr()
    watched = Watched(run, UPDATES)
    told = narrated_updates(capsys.readouterr().out)
    assert len(told) == len(watched.updates) == UPDATES
    micro_batches = iter(watched.inputs)
    clipped = 0
    for said, update, before, after, weights_before, weights_after in zip(
        told,
        watched.updates,
        watched.gradients[0::2],
        watched.gradients[1::2],
        watched.weights,
        watched.weights[1:],
        strict=False,
    ):
        batches = [text for topic, text in said.items() if topic.startswith("Batch")]
        rows_of_update = 0
        for text in batches:
            inputs, loss, global_step = next(micro_batches)
            assert global_step == update.global_step - 1
            mask = inputs["attention_mask"]
            rows_of_update += len(mask)
            assert f"{len(mask)} row" in text
            assert f"input_ids {mask.shape[0]} x {mask.shape[1]}" in text
            assert number(r"([\d,]+) tokens \+", text) == mask.sum()
            assert number(r"\+ ([\d,]+) padding", text) == (mask == 0).sum()
            assert number(r"padding \(([\d.]+)%", text) == pytest.approx(
                100 * float((mask == 0).float().mean()), abs=0.05
            )
            pictures = re.findall(r"row +(\d+)  ([█░]+) +(\d+) of (\d+)  LABEL_(\d)", text)
            assert len(pictures) == len(mask)
            for (row, picture, real, of, label), ids, marks in zip(pictures, inputs["input_ids"], mask, strict=True):
                example = run.train_dataset[int(row) - 1]
                assert example["input_ids"] == ids[marks.bool()].tolist()
                assert int(label) == example["label"]
                assert (int(real), int(of)) == (marks.sum(), len(marks))
                assert picture == "".join("█" if mark else "░" for mark in marks)
            first = " ".join(map(str, inputs["input_ids"][0][mask[0].bool()].tolist()))
            assert f"(LABEL_{int(inputs['labels'][0])}): tokens {first}" in text
            assert number(r"loss ([\d.]+), mean", text) == pytest.approx(loss, abs=6e-5)
        norm, norm_after = (math.sqrt(sum(value**2 for value in norms.values())) for norms in (before, after))
        assert number(r"gradient norm now ([\d.]+)", batches[-1]) == pytest.approx(norm, abs=6e-5)

        sum_told, total = re.match(r"(.*?) = ([\d.]+):", said["Loss"]).groups()  # type: ignore[union-attr]
        assert float(total) == pytest.approx(update.loss.item(), abs=6e-5)
        assert eval(sum_told.replace("x", "*")) == pytest.approx(update.loss.item(), abs=2e-4)  # of rounded terms
        if "trainer_compat" not in arguments:
            assert f"1/{rows_of_update}" in said["Loss"]
            terms = [f"x {text.split(': ')[1].split(' row')[0]}/{rows_of_update}" for text in batches]
            assert re.findall(r"x \d+/\d+", said["Loss"]) == terms

        assert number(r"norm ([\d.]+)", said["Gradient"]) == pytest.approx(norm, abs=6e-5)
        assert norm == pytest.approx(float(update.grad_norm), rel=1e-5)
        largest = re.findall(r"(\S+) +([\d.]+)  (\d+)% of the sum", said["Gradient"])
        assert [name for name, _, _ in largest] == sorted(before, key=lambda name: -before[name])[:3]
        for name, shown, share in largest:
            assert float(shown) == pytest.approx(before[name], abs=6e-5)
            assert int(share) == pytest.approx(100 * (before[name] / norm) ** 2, abs=0.51)
        assert number(r"norm after it ([\d.]+)", said["Clipping"]) == pytest.approx(norm_after, abs=6e-5)
        if norm > limit:
            clipped += 1
            assert number(r"gradients multiplied by ([\d.]+)", said["Clipping"]) == pytest.approx(
                norm_after / norm, abs=1e-4
            )
            assert norm_after == pytest.approx(limit, rel=1e-4)
        else:
            assert said["Clipping"].startswith("none")

        rate = update.learning_rate
        assert said["Rate"].startswith(f"{rate:.4g}, update {update.global_step} of {UPDATES}")
        assert number(r": ([\d.]+)% of the peak", said["Rate"]) == pytest.approx(100 * rate / 1e-3, rel=1e-2)
        assert ("warming up" in said["Rate"]) == (update.global_step <= 2)
        assert number(r"= (\S+) of their value", said["Decay"]) == pytest.approx(rate * 0.01, rel=1e-2)

        relative = {
            name: ((weights_after[name] - weight).norm() / weight.norm()).item()
            for name, weight in weights_before.items()
            if weight.norm()
        }
        if rate == 0:
            assert said["Weights"] == "none moved: the learning rate is 0"
            assert not any(relative.values())
        else:
            assert said["Weights"].startswith("41 of 41 tensors moved")
            kinds = {
                "matrix": [name for name in relative if weight_of(run, name).ndim == 2],
                "vector": [name for name in relative if weight_of(run, name).ndim == 1],
                "head": ["classifier.weight"],
            }
            for kind, names in kinds.items():
                most = max(names, key=lambda name: relative[name])
                shown = number(rf"{kind} +{re.escape(most)} +([\d.]+)%", said["Weights"])
                assert shown == pytest.approx(100 * relative[most], rel=1e-3, abs=6e-4)

        begins = update.global_step in (1, 4)
        assert ("CPU before the forward passes" in said["Random"]) == begins, "the epoch's iterator"
        assert said["Random"].endswith("CPU in the forward passes (dropout)")
        assert not re.search("Python|NumPy", said["Random"])
        assert ("epoch 1 is over" in said["Next"]) == (update.global_step == 3)
        assert ("evaluation" in said["Next"]) == update.ends_epoch
        assert ("log line" in said["Next"]) == (update.global_step == 4)
    assert 0 < clipped < UPDATES
    assert next(micro_batches, None) is None


def weight_of(run: Run, name: str) -> torch.Tensor:
    return run.model.get_parameter(name)


def test_it_begins_with_groups_and_schedule_and_ends_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run = prepared(tmp_path, warmup_steps=2, logging_strategy="no", eval_strategy="no", max_steps=4)
    frozen = run.model.bert.embeddings.word_embeddings.weight
    frozen.requires_grad_(False)
    groups = run.optimizer.param_groups
    groups[0]["params"].remove(next(p for p in groups[0]["params"] if p is frozen))
    capsys.readouterr()
    with explain(run, 2) as step:
        train(run, step)
    text = capsys.readouterr().out
    beginning, end = text.split("── Update 1")[0], text.split("── Update 2")[1]
    said = " ".join(beginning.split())
    for group, what in zip(groups, ("decay 0.01", "no decay"), strict=True):
        told = re.search(rf"^ +{what} +(\d+) tensors, such as \S+ +([\d,]+) parameters", beginning, re.MULTILINE)
        assert told is not None
        assert int(told.group(1)) == len(group["params"]) > 10
        assert int(told.group(2).replace(",", "")) == sum(p.numel() for p in group["params"])
    assert re.search(rf"frozen +1 tensors, such as word_embeddings.weight +{frozen.numel():,} parameters", beginning)
    assert "betas 0.9 and 0.999, epsilon 1e-08" in said
    assert "linear, peak 0.001, after 2 updates of warmup, 4 updates in all" in said
    assert "3 micro-batches of 4 rows" in said
    assert "head on top of the pretrained model: classifier.weight, classifier.bias" in said
    assert "done: training continues without comments" in end
    assert [line[:8] for line in end.split("epoch.md")[1].splitlines()[1:]] == ["Epoch 1/", "Epoch 2/"]
    assert not run.optimizer.optimizer._optimizer_step_pre_hooks, "nothing is left attached"


@pytest.mark.slow
def test_a_resumed_run_narrates_the_updates_that_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run gets its random state when its first batches are there already."""
    train(prepared(tmp_path, save_strategy="steps", save_steps=2, eval_strategy="no"))
    run = prepared(tmp_path, save_strategy="steps", save_steps=2, eval_strategy="no", resume_from_checkpoint="last")
    load_checkpoint(run, find_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-4")))
    capsys.readouterr()
    with explain(run, 9) as step:
        train(run, step)
    text = capsys.readouterr().out
    assert "the next 2 updates of 6" in text
    assert re.findall(r"^── Update (\d)", text, re.MULTILINE) == ["5", "6"]
    assert text.count("generators that moved: CPU in the forward passes") == 2, "none before: that state is unknown"


def test_padding_on_the_left_is_drawn_on_the_left_and_second_texts_apart() -> None:
    glyphs = glyphs_for("utf-8")
    assert draw_tokens(np.array([0, 0, 1, 2]), 4, glyphs) == "░░█▓"
    assert draw_tokens(np.array([1, 1, 1, 2, 2, 2, 0, 0]), 4, glyphs) == "█▓▓░"
    assert draw_tokens(np.array([1] * 30 + [0] * 10), 20, glyphs_for("ascii")) == "#" * 15 + "." * 5
    assert sparkline([0, 0.5, 1, 0.25], "12345678") == "1583"
    assert [cell_of_step(step, 4, 12) for step in range(4)] == [0, 3, 6, 9]
    assert [cell_of_step(step, 100, 50) for step in (0, 50, 99)] == [0, 25, 49]


def test_a_narrow_ascii_console_gets_ascii_and_no_escape_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: padded on the left, pairs of texts, narrow, one update of one micro-batch."""
    assert (glyphs_for("utf-8"), glyphs_for("latin-1")) == (Glyphs(), ASCII)
    monkeypatch.setattr(ftloop.explain.drawing, "glyphs_for", lambda encoding: glyphs_for("ascii"))
    monkeypatch.setenv("COLUMNS", "60")
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    texts = [(row["sentence1"], row["sentence2"]) for row in tiny_pairs(6)]
    rows = [{**tokenizer(*pair, return_token_type_ids=True)} | {"label": i % 2} for i, pair in enumerate(texts)]
    model = tiny_bert()
    model.config.id2label = {0: "no\x1b[2J", 1: "yes"}
    config = TrainConfig(output_dir=str(tmp_path), **QUIET, per_device_train_batch_size=6, max_steps=1)
    run = prepare(config, model, rows, processing_class=tokenizer)
    capsys.readouterr()
    with explain(run, 1) as step:
        list(updates(run, step))
    text = capsys.readouterr().out
    assert text.isascii()
    assert max(map(len, text.splitlines())) == 60
    assert "\x1b" not in text
    assert "no\\x1b[2J" in text
    longest = max(len(row["input_ids"]) for row in rows)
    drawn = re.findall(rf"row (\d)  (\S+) +(\d+) of {longest}", text)
    assert len(drawn) == 6
    for row, picture, real in drawn:
        types = rows[int(row) - 1]["token_type_ids"]
        assert picture == "." * (longest - len(types)) + "".join("=" if each else "#" for each in types)
        assert int(real) == len(types)
    assert "x 6/6 =" in " ".join(text.split())


def test_each_random_generator_that_moves_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The third step draws as a user's own model might: the CPU's generator stays, without dropout."""

    def draws(run: Run, *others: Any) -> torch.Tensor:
        random.random()
        np.random.rand()
        return training_step(run, *others)

    texts = []
    for dropout, step in ((0.1, training_step), (0.0, training_step), (0.0, draws)):
        config = TrainConfig(output_dir=str(tmp_path), **QUIET, max_steps=1, per_device_train_batch_size=4)
        run = prepare(config, tiny_bert(dropout=dropout), tiny_rows(4), data_collator=pad)
        capsys.readouterr()
        with explain(run, 1, step) as narrated:
            list(updates(run, narrated))
        texts.append(narrated_updates(capsys.readouterr().out)[0]["Random"])
    before = "generators that moved: CPU before the forward passes (a new iterator draws a number)"
    within = [", CPU in the forward passes (dropout)", "", ", NumPy and Python in the forward passes"]
    assert texts == [f"{before}{text}" for text in within]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"on_nonfinite": "skip"}, r"none moved: the loss or gradient is not finite \(on_nonfinite=skip\)"),
        ({"on_nonfinite": "raise"}, r"none moved: .*on_nonfinite=raise; training stops before it logs or saves"),
        ({"on_nonfinite": "ignore"}, r"no longer finite in 41 of 41 tensors"),
        ({"trainer_compat": True}, r"no longer finite in 41 of 41 tensors"),
    ],
    ids=str,
)
def test_an_update_that_is_not_finite_is_reported(
    arguments: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = QUIET | {"per_device_train_batch_size": 29, "max_steps": 2, "logging_steps": 9} | arguments
    config = TrainConfig(output_dir=str(tmp_path), **settings)
    run = prepare(config, poisoned_bert(), poisoned_rows(5), data_collator=pad)
    assert any(POISON in row for row in run.train_dataset["input_ids"])
    with explain(run, 1) as step:
        loop = updates(run, step)
        next(loop)
        if arguments.get("on_nonfinite") == "skip":
            next(loop)  # no step was taken: it is told when the next update begins
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Gradient +not finite in 41 of 41 tensors: ", text)
    assert re.search(said, text)
    assert "without comments" in text
    assert "Update 2" not in text


@pytest.mark.slow
def test_a_micro_batch_that_is_split_counts_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second micro-batch is found not to fit; the first is done over, which changes nothing of it."""
    memory = SmallMemory(tokens=75)
    config = TrainConfig(output_dir=str(tmp_path), **ARGUMENTS | {"auto_micro_batch": True, "eval_strategy": "no"})
    run = prepare(config, memory.of(tiny_bert(dropout=0.1)), *Job().data(), data_collator=pad)
    capsys.readouterr()
    watched = Watched(run, 1)
    (told,) = narrated_updates(capsys.readouterr().out)
    assert memory.failures
    split = [topic for topic, text in told.items() if "split: it did not fit into memory" in text]
    assert split
    assert split[0] != "Batch 1"
    assert number(r"= ([\d.]+):", told["Loss"]) == pytest.approx(watched.updates[0].loss.item(), abs=6e-5)
    assert number(r"^norm ([\d.]+)", told["Gradient"]) == pytest.approx(float(watched.updates[0].grad_norm), abs=6e-5)


def test_what_cannot_be_narrated_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="explain: 0 must be greater than 0"):
        TrainConfig(output_dir=str(tmp_path), explain=0)
    with pytest.raises(UserError, match="explain: -1 must be greater than 0"), explain(prepared(tmp_path), -1):
        raise AssertionError("not reached")


def test_the_rows_of_all_micro_batches_are_those_of_the_epoch(tmp_path: Path) -> None:
    """Of one process here; the share of one of two is held by the command's test below."""
    for arguments in ({}, {"batching": "token_budget", "max_tokens_per_batch": 60}):
        run = prepared(tmp_path, **arguments)
        for epoch in range(2):
            rows = []
            for index in range(run.plan.updates_per_epoch):
                update = epoch * run.plan.updates_per_epoch + index + 1
                for micro_batch in range(run.plan.window_size(index)):
                    rows += rows_of_micro_batch(run, update, micro_batch)
            assert rows == run.row_order(epoch).tolist()
            assert sorted(rows) == list(range(29))


@pytest.mark.slow
def test_the_command_narrates_and_leaves_the_same_files(tiny_folder: Path, tmp_path: Path) -> None:
    """Recorded at once; and once more from a checkpoint in mid-run."""
    found = []
    for name, more in (("plain", []), ("told", ["--explain", "2"])):
        words = [*command_line(tiny_folder, tmp_path / name), "--record", str(tmp_path / f"{name}.jsonl"), *more]
        printed = python(*words, "--save_total_limit", "9", COLUMNS="80", PYTHONIOENCODING="utf-8").stdout
        recorded = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        updates = [line for line in recorded if "update" in line]
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        found.append((weights(tmp_path / name), updates, without_timings(state["log_history"])))
    assert len(found[0][1]) == 6
    assert found[0] == found[1]
    assert re.findall(r"^── Update (\d) of 6", printed, re.MULTILINE) == ["1", "2"]
    assert max(len(line) for line in printed.split("Explain   the")[1].split("Explain   done")[0].splitlines()) == 80
    again = python(
        *command_line(tiny_folder, tmp_path / "again"),
        *("--explain", "1", "--resume_from_checkpoint", str(tmp_path / "told" / "checkpoint-4")),
        PYTHONIOENCODING="utf-8",
    ).stdout
    assert re.findall(r"^── Update (\d) of 6", again, re.MULTILINE) == ["5"]
    assert "before the forward passes" not in again
    assert weights(tmp_path / "again") == found[0][0]


@pytest.mark.slow
def test_the_first_of_two_processes_narrates_its_own_rows(tiny_folder: Path, tmp_path: Path) -> None:
    launcher = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(CHECKOUT / "ftloop" / "train.py"),
    )
    size = ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "3", "--num_train_epochs", "1")
    printed = ""
    for name, more in (("plain", ()), ("told", ("--explain", "9"))):
        words = (*command_line(tiny_folder, tmp_path / name), *size, *more)
        printed = run_command(sys.executable, *launcher, *words, COLUMNS="120", PYTHONIOENCODING="utf-8").stdout
    assert weights(tmp_path / "told") == weights(tmp_path / "plain")
    assert "── Update 1 of 2" in printed
    assert printed.count("── Update ") == 2
    assert "3 micro-batches of 4 rows on each of 2 processes" in printed
    assert "of process 0 of 2: 4 rows" in printed
    assert "of process 1" not in printed
    pairs = tiny_pairs(29)
    quoted = re.findall(r"^ +row (\d+) \((\w+)\): \[CLS\] (.*?) \[SEP\] (.*?) \[SEP\]$", printed, re.MULTILINE)
    assert len(quoted) == 4, "its micro-batches: 3 of the first update, 1 of the second"
    for row, label, first, second in quoted:
        example = pairs[int(row) - 1]
        names = ("not_equivalent", "equivalent")
        assert (example["sentence1"], example["sentence2"], names[example["label"]]) == (first, second, label)
    sums = [said["Loss"].split(":")[0] for said in narrated_updates(printed)]
    assert sums[0].count("x 2 x 4/24") == 3, "three micro-batches of 4 rows each, in both processes"
    assert "x 2 x 4/5" in sums[1], "the other process has one row, and gradients are averaged"
    for told in sums:
        terms, _, total = told.partition(" = ")
        assert eval(terms.replace("x", "*")) == pytest.approx(float(total or terms), abs=2e-4)
