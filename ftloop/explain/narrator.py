"""Narrate the first updates of a run while they happen, with the run's own rows and numbers.

This changes no bit of the run: it draws no random numbers and only reads values, waiting for the device. Two ways:

    python ftloop/train.py demo --explain 2

    with explain(run, 2) as step:       # from Python; `updates(run, step)` works too
        train(run, step)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ftloop.errors import UserError
from ftloop.explain import sentences
from ftloop.explain.batches import describe_batch, rows_of_micro_batch
from ftloop.explain.drawing import Console
from ftloop.explain.sentences import FinishedMicroBatch, UpdateInProgress
from ftloop.loop import TrainingStep, training_step
from ftloop.run.micro_batches import MicroBatch
from ftloop.run.run import Run
from ftloop.system.rng import DEVICES, rng_state


@contextmanager
def explain(run: Run, number: int, step: TrainingStep = training_step) -> Iterator[TrainingStep]:
    """Wrap `step` in a training step that does the same and narrates the first `number` updates. Of several processes
    the main one narrates its own micro-batches. `step` may be a wrapper itself, as a recorder's.

    Raises: UserError for a number below 1.
    """
    if number < 1:
        raise UserError(f"explain: {number} must be greater than 0")
    if not run.is_main:
        yield step
        return
    narrator = Narrator(run, number, step)
    try:
        yield narrator.training_step
        narrator.finish_skipped_update()
    finally:
        narrator.detach()


class Narrator:
    """Watches one training at its training step, and before and after its optimizer's step."""

    def __init__(self, run: Run, number: int, step: TrainingStep) -> None:
        self.run, self.left, self.console = run, number, Console.of(run)
        self._step = step
        self._update: UpdateInProgress | None = None
        self._has_begun = False
        self._random: dict[str, Any] | None = random_states()
        optimizer: Any = getattr(run.optimizer, "optimizer", run.optimizer)  # the one Accelerate has wrapped
        self._handles = [
            optimizer.register_step_pre_hook(self._before_optimizer),
            optimizer.register_step_post_hook(self._after_optimizer),
        ]

    def training_step(self, run: Run, micro_batch: MicroBatch) -> Tensor:
        inputs, divisor, num_items = micro_batch.inputs, micro_batch.divisor, micro_batch.num_items
        self.finish_skipped_update()
        if self.left == 0:
            return self._step(run, micro_batch)
        update = self._update = self._update or self._begin()
        index = len(update.micro_batches)
        rows, before = rows_of_micro_batch(run, update.number, index), random_states()
        describe_batch(self.console, run, inputs, rows, index, update.size)
        share = self._step(run, micro_batch)
        update.random_moved |= moved_since(before)
        update.micro_batches.append(FinishedMicroBatch(len(rows), divisor, share))
        sentences.describe_micro_batch(self.console, run, update, inputs)
        if len(update.micro_batches) == update.size:
            sentences.describe_gradients(self.console, run, update, num_items)
        return share

    def finish_skipped_update(self) -> None:
        """Finish the narration of an update whose optimizer step was skipped."""
        if self._update is not None and self._update.number <= self.run.state.global_step:
            self.console.say("Weights", f"none moved: {sentences.why_none_moved(self.run, self._update)}")
            self._end()

    def detach(self) -> None:
        self._update = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self) -> UpdateInProgress:
        run, plan = self.run, self.run.plan
        if not self._has_begun:
            self._has_begun = True
            self.left = min(self.left, plan.max_steps - run.state.global_step)
            if run.resume is not None:
                self._random = None  # since then the loop has restored the checkpoint's
            sentences.describe_run(self.console, run, self.left)
        number = run.state.global_step + 1
        epoch, index = divmod(number - 1, plan.updates_per_epoch)
        random_moved = set() if self._random is None else moved_since(self._random)
        size, rows = plan.window_size(index), plan.rows_in_window(epoch, index)
        update = UpdateInProgress(number, epoch, index, size, rows, random_moved)
        sentences.describe_title(self.console, run, update)
        return update

    def _before_optimizer(self, *_: Any) -> None:
        update, run = self._update, self.run
        if update is None or len(update.micro_batches) < update.size:
            return
        groups: Any = run.optimizer.param_groups
        update.learning_rate = float(groups[0]["lr"])
        sentences.describe_clipping(self.console, run, update)
        sentences.describe_learning_rate(self.console, run, update)
        parameters = run.unwrapped_model.named_parameters()
        update.weights = {name: p.detach().to("cpu", copy=True) for name, p in parameters if p.requires_grad}

    def _after_optimizer(self, *_: Any) -> None:
        update = self._update
        if update is None or not update.weights:
            return
        sentences.describe_weights(self.console, self.run, update)
        sentences.describe_random_states(self.console, update)
        sentences.describe_next(self.console, self.run, update)
        self._end()

    def _end(self) -> None:
        self._update = None
        self._random = random_states()
        self.left -= 1
        if self.left == 0:
            self.console.write("")
            self.console.say("Explain", "done: training continues without comments. More in docs/walkthrough/epoch.md")


def random_states() -> dict[str, Any]:
    """Return the state of every random generator, comparable by ==."""
    state = rng_state()
    numpy = state["numpy"]
    states = {"CPU": state["cpu"].tolist(), "Python": state["python"], "NumPy": (numpy[1].tolist(), *numpy[2:])}
    for device in DEVICES:
        if device in state:
            states["GPU"] = state[device].tolist()
    return states


def moved_since(before: dict[str, Any]) -> set[str]:
    """Return the names of the generators whose state is another than before."""
    return {name for name, state in random_states().items() if state != before[name]}
