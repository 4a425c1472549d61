"""Say what the first updates do, on the console, while they do it: with this run's own rows and numbers.

It changes no bit of the run: it draws nothing, looks at what is there, and waits for the device to do so. Two ways in:

    python ftloop/train.py demo --explain 2

    with explain(run, 2) as step:       # from Python; `updates(run, step)` does it too
        train(run, step)
"""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ftloop.errors import UserError
from ftloop.loop import TrainingStep
from ftloop.loop import training_step as usual_step
from ftloop.rng import rng_state
from ftloop.run import Inputs, Run, num_rows
from ftloop.state import Control, after_epoch, after_update

INDENT = 10  # a topic of 9 characters and a space, as on all of the console
NARROWEST, WIDEST = 60, 120
CURVE = 48  # characters
SHOWN_ROWS = (8, 4, 4, 4)  # drawn of an update's first micro-batches; of further ones only the numbers are told
SHOWN_GRADIENTS = 3
SHOWN_MICRO_BATCHES = 8  # of those whose losses are written out as a sum
MOST_WORDS = 2**29  # that are made again to count how many were drawn: two seconds
BLOCK = 624  # words that the Mersenne Twister makes at a time


@dataclass(frozen=True)
class Marks:
    """What is drawn with."""

    token: str = "█"
    second: str = "▓"
    padding: str = "░"
    levels: str = "▁▂▃▄▅▆▇█"
    here: str = "▲"
    rule: str = "─"
    cut: str = "…"


ASCII = Marks("#", "=", ".", "_.-:=+*#", "^", "-", "...")


@dataclass
class MicroBatch:
    """One that has been through forward and backward."""

    rows: int
    """That count: with trainer_compat and several processes it may hold more."""
    divisor: float
    share: Tensor
    """Its part of the update's loss. `auto_micro_batch` may still write another number into it."""
    words: dict[str, int | None]
    """That each generator has made in it; None: not to be counted."""


@dataclass
class Happening:
    """The update under way."""

    number: int
    """What `global_step` will be after it."""
    epoch: int
    index: int
    """In its epoch."""
    size: int
    """Micro-batches."""
    rows: int
    """Distinct ones, over all processes."""
    words_before: dict[str, int | None] = field(default_factory=dict)
    micro_batches: list[MicroBatch] = field(default_factory=list)
    norm: float = math.nan
    """Of the gradient before clipping."""
    learning_rate: float = math.nan
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Before the optimizer's step, on the CPU; only while it steps."""

    @property
    def loss(self) -> float:
        """Added up as the loop adds it."""
        shares = [micro_batch.share for micro_batch in self.micro_batches]
        return float(sum(shares[1:], start=shares[0]))

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


@contextmanager
def explain(run: Run, number: int, step: TrainingStep = usual_step) -> Iterator[TrainingStep]:
    """A training step that does what `step` does, and narrates the first `number` updates. Of several processes the
    main one speaks, of its own micro-batches. `step` may be another one that watches, as a recording's.

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
        narrator.end()
    finally:
        narrator.detach()


class Narrator:
    """Attached to one training, at its training step and before and after its optimizer's."""

    def __init__(self, run: Run, number: int, step: TrainingStep) -> None:
        self.run, self.left, self._step = run, number, step
        self._random = rng_state(False)
        self._is_resumed = False
        self._update: Happening | None = None
        self._has_begun = False
        optimizer: Any = getattr(run.optimizer, "optimizer", run.optimizer)  # the one Accelerate has wrapped
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        self.marks = Marks() if _can_show("".join(vars(Marks()).values()), encoding) else ASCII
        self.width = min(max(shutil.get_terminal_size((100, 24)).columns, NARROWEST), WIDEST)

    def training_step(self, run: Run, inputs: Inputs, divisor: float, num_items: Tensor | None) -> Tensor:
        if self._update is not None and self._update.number <= run.state.global_step:
            self._say_left_out()
        if self.left == 0:
            return self._step(run, inputs, divisor, num_items)
        if not self._has_begun:
            self._introduce()
        if self._update is None:
            self._begin()
        assert self._update is not None
        update, index = self._update, len(self._update.micro_batches)
        self._say_rows(update, index, inputs)
        rows, before = len(rows_of_micro_batch(run, update.number, index)), rng_state(False)
        loss = self._step(run, inputs, divisor, num_items)
        update.micro_batches.append(MicroBatch(rows, divisor, loss, words_drawn(before, rng_state(False))))
        self._say_loss(update, num_rows(inputs))
        if len(update.micro_batches) == update.size:
            self._say_sum(update, num_items)
            self._say_gradient(update)
        return loss

    def end(self) -> None:
        """Of the training: what was left out last is told."""
        if self._update is not None and self._update.number <= self.run.state.global_step:
            self._say_left_out()

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._update = None

    # ------------------------------------------------------------------ what is looked at

    def _begin(self) -> None:
        run, plan = self.run, self.run.plan
        number = run.state.global_step + 1
        epoch, index = divmod(number - 1, plan.updates_per_epoch)
        update = Happening(number, epoch, index, plan.window_size(index), plan.rows_in_window(epoch, index))
        if not self._is_resumed:
            update.words_before = words_drawn(self._random, rng_state(False))
        self._is_resumed = False
        self._update = update
        where = f"epoch {epoch + 1} of {plan.num_train_epochs}, its update {index + 1} of {plan.updates_per_epoch}"
        rule = self.marks.rule
        title = f"{rule * 2} Update {number} of {plan.max_steps} "
        self.run.say("")
        self.run.say(f"{title}{rule * max(self.width - len(title) - len(where) - 4, 2)} {where} {rule}")

    def _before_step(self, *_: Any) -> None:
        update = self._update
        if update is None or len(update.micro_batches) < update.size:
            return
        optimizer: Any = self.run.optimizer
        update.learning_rate = float(optimizer.param_groups[0]["lr"])
        self._say_clipping(update)
        self._say_rate(update)
        update.weights = {name: p.detach().to("cpu", copy=True) for name, p in self._parameters() if p.requires_grad}

    def _after_step(self, *_: Any) -> None:
        update = self._update
        if update is None or not update.weights:
            return
        moved = self._moved(update.weights)
        update.weights = {}
        self._say_weights(update, moved)
        self._say_random(update)
        self._say_next(update)
        self._close_update()

    def _close_update(self) -> None:
        self._update = None
        self._random = rng_state(False)
        self.left -= 1
        if self.left == 0:
            self.run.say("")
            self._say("Explain", "done: from here on it trains in silence. More in ftloop/README.md")
            for handle in self._handles:
                handle.remove()

    def _parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.run.unwrapped_model.named_parameters())

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad.to_dense() for name, p in self._parameters() if p.grad is not None}

    def _moved(self, before: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Of each parameter: the norm of what was added to it, and its norm before."""
        moved = {}
        for name, parameter in self._parameters():
            if name in before:
                old = before[name].to(parameter.device)
                moved[name] = float((parameter.detach() - old).float().norm()), float(old.float().norm())
        return moved

    def _head(self) -> list[str]:
        """Parameters above the pretrained part, where the model tells which that is."""
        prefix = getattr(self.run.unwrapped_model, "base_model_prefix", "")
        names = [name for name, _ in self._parameters()]
        above = [name for name in names if not name.startswith(f"{prefix}.")]
        return above if prefix and len(above) < len(names) else []

    # ------------------------------------------------------------------ what is said

    def _say(self, topic: str, text: str) -> None:
        """A topic and its text, wrapped."""
        for i, line in enumerate(textwrap.wrap(_printable(text), self.width - INDENT) or [""]):
            self.run.say(f"{topic if i == 0 else '':<{INDENT - 1}} {line}")

    def _line(self, text: str) -> None:
        self.run.say(f"{'':<{INDENT}}{_printable(text)}"[: self.width])

    def _introduce(self) -> None:
        run, plan, config = self.run, self.run.plan, self.run.config
        self._has_begun = True
        # The loop has put the checkpoint's random state in place since this was attached.
        self._is_resumed = run.resumed_from is not None
        self.left = min(self.left, plan.max_steps - run.state.global_step)
        self.run.say("")
        one = self.left == 1
        self._say(
            "Explain",
            f"the {'next update' if one else f'next {self.left} updates'} of {plan.max_steps}, while "
            f"{'it happens' if one else 'they happen'}",
        )
        self._say("Model", self._model())
        self._say_groups()
        rates = f"{config.lr_scheduler_type}, peak {config.learning_rate:g}"
        warmup = f"after {_count(plan.warmup_steps, 'update')} of warmup" if plan.warmup_steps else "no warmup"
        self._say("Schedule", f"{rates}, {warmup}, {_count(plan.max_steps, 'update')} in all")
        self._line(self._curve())
        size = f"up to {plan.budget.max_tokens} tokens" if plan.budget else f"{plan.per_device_train_batch_size} rows"
        processes = f", on each of {plan.num_processes} processes" if plan.num_processes > 1 else ""
        self._say(
            "An update",
            f"{_count(plan.gradient_accumulation_steps, 'micro-batch', 'micro-batches')} of {size}"
            f"{processes}: each goes forward to a loss and backward to gradients, which add up. Then once: clip, "
            "one step of AdamW, the next learning rate, gradients cleared",
        )
        marks = self.marks
        second = f"{marks.second} token of its second text, " if self._has_pairs() else ""
        self._say(
            "Rows",
            "have their numbers in the training set, counted from 1; "
            f"{marks.token} token, {second}{marks.padding} padding, which is computed and masked",
        )

    def _has_pairs(self) -> bool:
        example: Any = self.run.train_dataset[0]
        types = example.get("token_type_ids") if hasattr(example, "get") else None
        return types is not None and any(types)

    def _model(self) -> str:
        run, model = self.run, self.run.unwrapped_model
        known: Any = getattr(model, "config", None)
        shape = [
            f"{getattr(known, name)} {what}"
            for name, what in (
                ("num_hidden_layers", "layers"),
                ("hidden_size", "wide"),
                ("num_attention_heads", "heads"),
            )
            if getattr(known, name, None)
        ]
        parameters = self._parameters()
        total = sum(p.numel() for _, p in parameters)
        told = [f"{type(model).__name__}{': ' if shape else ''}{', '.join(shape)}"]
        told.append(f"{total:,} parameters in {len(parameters)} tensors")
        head = self._head()
        if head:
            told.append(f"the head above the pretrained part: {_listed(head, 3)}")
        drops = sorted({m.p for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p})
        told.append(f"dropout {', '.join(f'{p:g}' for p in drops)}" if drops else "no dropout")
        kinds = sorted({str(p.dtype).removeprefix("torch.") for _, p in parameters})
        precision = f"weights in {' and '.join(kinds)} on {run.accelerator.device}"
        mixed = run.accelerator.mixed_precision
        if mixed in ("bf16", "fp16"):
            precision += f", matrix products in {'bfloat16' if mixed == 'bf16' else 'float16'} (autocast)"
        if run.accelerator.scaler is not None:
            precision += f", gradients scaled by {run.accelerator.scaler.get_scale():g} against underflow"
        return "; ".join([*told, precision])

    def _say_groups(self) -> None:
        optimizer: Any = self.run.optimizer
        groups = [group for group in optimizer.param_groups if group["params"]]
        first = groups[0]
        kernel = "fused, one kernel for all tensors" if first.get("fused") else "not fused"
        betas = " and ".join(f"{beta:g}" for beta in first["betas"])
        self._say("Optimizer", f"AdamW ({kernel}), betas {betas}, epsilon {first['eps']:g}")
        names = {id(p): name for name, p in self._parameters()}
        rows = [
            (
                f"decay {group['weight_decay']:g}" if group["weight_decay"] else "no decay",
                [names.get(id(p), "") for p in group["params"]],
                sum(p.numel() for p in group["params"]),
            )
            for group in groups
        ]
        frozen = [(name, p) for name, p in self._parameters() if not p.requires_grad]
        if frozen:
            rows.append(("frozen", [name for name, _ in frozen], sum(p.numel() for _, p in frozen)))
        kind, digits = max(len(what) for what, _, _ in rows), max(len(f"{numbers:,}") for _, _, numbers in rows)
        for what, members, numbers in rows:
            example = ".".join(members[0].split(".")[-2:])
            told = f"{what:<{kind}} {len(members):>4} tensors  {numbers:>{digits},} parameters  as {example}"
            self._line(self._cut(told, self.width - INDENT))

    def _say_rows(self, update: Happening, index: int, inputs: Inputs) -> None:
        run = self.run
        ours = rows_of_micro_batch(run, update.number, index)
        main = _main_input(inputs)
        rows, shape = num_rows(inputs), " x ".join(map(str, inputs[main].shape))
        of = (
            ""
            if run.accelerator.num_processes == 1
            else (
                f" of process {run.accelerator.process_index}; {_count(run.accelerator.num_processes - 1, 'other')} at it "
                "with rows of their own"
            )
        )
        told = f"{index + 1} of {update.size}{of}: {_count(rows, 'row')}, {main} {shape}"
        mask = _mask(inputs, main)
        if mask is not None:
            real, every = int((mask > 0).sum()), mask.size
            told += f", {real:,} tokens + {every - real:,} padding ({(every - real) / every:.1%})"
        self._say("Batch", told)
        labels = [_label(run, value) for value in inputs["labels"]] if "labels" in inputs else [""] * rows
        numbers = [str(row + 1) for row in ours] + ["again"] * (rows - len(ours))
        drawn = SHOWN_ROWS[index] if mask is not None and index < len(SHOWN_ROWS) else 0
        if mask is not None and drawn:
            for line in self._drawn(mask[:drawn], numbers, labels):
                self._line(line)
        if rows > drawn:
            self._say("", f"{f'and {rows - drawn} more: ' if drawn else ''}rows {_listed(numbers[drawn:], 32)}")
        text = _text(run, inputs, main, None if mask is None else mask[0] > 0)
        label = f" ({labels[0]})" if labels[0] else ""
        if text:
            self._line(self._cut(f"row {numbers[0]}{label}: {text}", self.width - INDENT))

    def _drawn(self, mask: np.ndarray, numbers: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
        """One line a row: where its tokens are and where padding."""
        tokens = mask.shape[1]
        number, count = max(map(len, numbers)), len(str(tokens))
        label = min(max(map(len, labels)), 20)
        cells = min(tokens, self.width - INDENT - len("row   ") - number - 2 * count - len("  of    ") - label)
        for row, which, what in zip(mask, numbers, labels, strict=False):
            picture = draw(row, cells, self.marks)
            told = f"row {which:>{number}}  {picture}  {int((row > 0).sum()):>{count}} of {tokens}"
            yield f"{told}  {self._cut(what, label)}".rstrip()

    def _say_loss(self, update: Happening, rows_there: int) -> None:
        run, last = self.run, update.micro_batches[-1]
        told = f"loss {_number(_whole(last))}, mean of its {_count(rows_there, 'row')}"
        self._say("", f"{told}; backward: gradient norm now {_number(self._norm())}")
        at_once = run.mishaps.micro_batch_rows
        if run.config.auto_micro_batch and at_once is not None and at_once < rows_there:
            self._say(
                "",
                f"split: whole it did not fit into memory, so {_count(at_once, 'row')} went through at a time; "
                "their gradients and losses add up to the whole's",
            )

    def _say_sum(self, update: Happening, num_items: Tensor | None) -> None:
        self._say("Loss", combined(self.run, update, num_items))
        if self.run.accelerator.num_processes > 1:
            self._say(
                "",
                "this process's; the update's is the mean over the processes, as its gradient, which they "
                "exchanged in the last backward pass",
            )

    def _norm(self) -> float:
        """Of all gradients as they are, the function that `clip_grad_norm_` uses, without fp16's scale."""
        gradients = list(self._gradients().values())
        scaler = self.run.accelerator.scaler
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        return float(get_total_norm(gradients)) / scale if gradients else 0.0

    def _say_gradient(self, update: Happening) -> None:
        update.norm = self._norm()
        norms = {name: float(gradient.norm()) for name, gradient in self._gradients().items()}
        broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
        self._say(
            "Gradient", f"norm {_number(update.norm)}; its square is the sum over {len(norms)} tensors. The largest:"
        )
        if broken:
            self._say("", f"not finite in {_count(len(broken), 'tensor')}: {_listed(broken, SHOWN_GRADIENTS)}")
            return
        total = math.sqrt(sum(norm**2 for norm in norms.values()))
        scale = update.norm / total if total else 1.0  # fp16's
        largest = sorted(norms, key=lambda name: -norms[name])[:SHOWN_GRADIENTS]
        names = self._aligned(largest)
        for name, shown in zip(largest, names, strict=True):
            share = (norms[name] / total) ** 2 if total else 0.0
            self._line(f"{shown}  {_number(norms[name] * scale)}  {share:.0%} of the sum")

    def _aligned(self, names: Sequence[str]) -> list[str]:
        room = self.width - INDENT - 30
        cut = [self._cut(name, room, keep_end=True) for name in names]
        width = max(map(len, cut), default=0)
        return [name.ljust(width) for name in cut]

    def _say_clipping(self, update: Happening) -> None:
        limit = self.run.config.max_grad_norm
        after = float(get_total_norm(list(self._gradients().values())))
        if not limit:
            told = "none (max_grad_norm 0)"
        elif not math.isfinite(update.norm):
            told = f"to max_grad_norm {limit:g} cannot mend what is not finite"
        elif update.norm <= limit:
            told = f"none: {_number(update.norm)} is within max_grad_norm {limit:g}"
        else:
            told = f"to max_grad_norm {limit:g}: all times {limit / (update.norm + 1e-6):.4f}"
        self._say("Clipping", f"{told}, measured after it: {_number(after)}")

    def _say_rate(self, update: Happening) -> None:
        run, plan, rate = self.run, self.run.plan, update.learning_rate
        peak, step = run.config.learning_rate, self._schedule_step()
        warmup = f", warming up ({step + 1} of {plan.warmup_steps})" if step < plan.warmup_steps else ""
        share = f": {100 * rate / peak:.3g}% of the peak" if peak else ""
        self._say("Rate", f"{rate:.4g}, update {update.number} of {plan.max_steps}{warmup}{share}")
        curve = self._curve()
        if curve:
            self._line(curve)
            self._line(" " * position(step, plan.max_steps, len(curve)) + self.marks.here)
        optimizer: Any = run.optimizer
        decays = [group for group in optimizer.param_groups if group["weight_decay"] and group["params"]]
        for group in decays:
            decay = group["weight_decay"]
            told = f"shrink by rate x {decay:g} = {rate * decay:.3g} of themselves"
            self._say("Decay", f"{len(group['params'])} tensors {told}")

    def _schedule_step(self) -> int:
        """Behind the update's number where updates were left out."""
        return int(self.run.scheduler.last_epoch)

    def _curve(self) -> str:
        """The learning rate over the whole run."""
        rates = getattr(self.run.scheduler, "lr_lambdas", None)
        steps = self.run.plan.max_steps
        if not rates:
            return ""
        cells = steps * max(CURVE // steps, 1) if steps <= CURVE else CURVE
        return sparkline([float(rates[0](cell * steps // cells)) for cell in range(cells)], self.marks.levels)

    def _say_weights(self, update: Happening, moved: dict[str, tuple[float, float]]) -> None:
        broken = [name for name, (change, _) in moved.items() if not math.isfinite(change)]
        changed = {name: change for name, (change, _) in moved.items() if change}
        if broken:
            self._say("Weights", f"no longer finite in {_count(len(broken), 'tensor')}: {_listed(broken, 3)}")
            return
        if not changed:
            why = (
                "the learning rate is 0, where a warmup begins" if update.learning_rate == 0 else self._why_not(update)
            )
            self._say("Weights", f"none moved: {why}")
            return
        self._say("Weights", f"{len(changed)} of {len(moved)} tensors moved; the most, by their own norm:")
        relative = {name: change / norm for name, (change, norm) in moved.items() if norm}
        shapes = {name: p.ndim for name, p in self._parameters()}
        # Biases begin at 0, and near it a small step is many times what was there.
        kinds = {
            "matrix": [name for name in relative if shapes[name] > 1],
            "vector": [name for name in relative if shapes[name] < 2],
            "head": [name for name in self._head() if name in relative and shapes[name] > 1],
        }
        most = [(kind, max(names, key=relative.__getitem__)) for kind, names in kinds.items() if names]
        for (kind, name), shown in zip(most, self._aligned([name for _, name in most]), strict=True):
            self._line(f"{kind:<7} {shown}  {relative[name]:.3%}")

    def _why_not(self, update: Happening) -> str:
        if self.run.accelerator.scaler is not None:
            return "a gradient overflowed in fp16, so the scaler left this update out and halves its scale"
        if update.is_finite and not int(self.run.mishaps.first_nonfinite):
            return "no gradient reached them"
        return f"the loss or gradient is not finite (on_nonfinite={self.run.config.on_nonfinite})"

    def _say_random(self, update: Happening) -> None:
        for kind in ("cpu", "cuda"):
            in_each = [micro_batch.words[kind] for micro_batch in update.micro_batches if kind in micro_batch.words]
            if not in_each:
                continue
            told = "words of 32 bits drawn on the CPU: " if kind == "cpu" else f"{kind.upper()} offset moved by: "
            before = update.words_before.get(kind, 0)
            if before or before is None:
                told += f"{_words(before)} before them{' (a new iterator takes 2)' if kind == 'cpu' else ''}, "
            each = [_words(words) for words in in_each]
            told += f"{_and(each) if len(each) <= SHOWN_MICRO_BATCHES else _listed(each, SHOWN_MICRO_BATCHES)} by "
            told += "dropout" if any(in_each) else "the forward passes"
            others = [name for name in ("python", "numpy") if self._moved_too(update, name)]
            if kind == "cpu":
                told += f"; {_and(others)} drew too" if others else "; Python and NumPy: none"
            self._say("Random", told)

    @staticmethod
    def _moved_too(update: Happening, generator: str) -> bool:
        each = [update.words_before, *(micro_batch.words for micro_batch in update.micro_batches)]
        return any(words.get(generator) for words in each)

    def _say_next(self, update: Happening) -> None:
        ends_epoch, due = due_after(self.run, update)
        told = [f"epoch {update.epoch + 1} is over"] if ends_epoch else []
        told += [f"due now: {', '.join(due)}"] if due else []
        is_last = update.number >= self.run.plan.max_steps
        told.append("that was the last update" if is_last else f"{'then ' if told else ''}update {update.number + 1}")
        self._say("Next", "; ".join(told))

    def _say_left_out(self) -> None:
        """No step was taken, so nobody has told."""
        assert self._update is not None
        self._say("Weights", f"update {self._update.number} was left out: {self._why_not(self._update)}")
        self._close_update()

    def _cut(self, text: str, room: int, keep_end: bool = False) -> str:
        if len(text) <= room:
            return text
        kept = max(room - len(self.marks.cut), 0)
        if keep_end:
            return f"{self.marks.cut}{text[len(text) - kept :]}"
        return f"{text[:kept]}{self.marks.cut}"


def rows_of_micro_batch(run: Run, global_step: int, index: int) -> list[int]:
    """The training rows, from 0, of this process's `index`-th micro-batch of an update; none twice."""
    plan, process = run.plan, run.accelerator.process_index
    epoch, update = divmod(global_step - 1, plan.updates_per_epoch)
    step = update * plan.gradient_accumulation_steps + index
    if plan.budget is not None:
        dealt: list[int] = plan.budget.of_epoch(epoch).of_process(step, process).tolist()
        return dealt
    first = (step * plan.num_processes + process) * plan.per_device_train_batch_size
    rows: list[int] = run.row_order(epoch)[first : first + plan.rows_in_step(epoch, step, process)].tolist()
    return rows


def combined(run: Run, update: Happening, num_items: Tensor | None) -> str:
    """How the losses of the micro-batches make the update's, with their numbers."""
    done, processes = update.micro_batches, run.accelerator.num_processes
    whole, together = [_number(_whole(micro_batch)) for micro_batch in done], _number(update.loss)
    divisors = {micro_batch.divisor for micro_batch in done}
    if num_items is not None:
        told = (
            f"added up, nothing divided, as Trainer does where forward takes **kwargs: the model is told of the "
            f"{int(num_items)} rows of the update and could divide by them, which heads like BERT's do not do"
        )
        return f"{_sum(whole)} = {together}: {told}"
    if len(done) == 1 and divisors == {1.0}:
        return f"{together}: one micro-batch is the whole update, each row counts 1/{update.rows}"
    if len(divisors) == 1 and divisors != {math.inf}:
        divided = [f"{loss}/{done[0].divisor:g}" for loss in whole]
        if run.config.trainer_compat:
            return (
                f"{_sum(divided)} = {together}: each micro-batch counts alike, however many rows it has, as in Trainer"
            )
        return f"{_sum(divided)} = {together}: equal sizes, each row counts 1/{update.rows}"
    times = f"{processes} x " if processes > 1 else ""
    weighed = [f"{loss} x {times}{m.rows}/{update.rows}" for loss, m in zip(whole, done, strict=True)]
    return f"{_sum(weighed)} = {together}: each row counts 1/{update.rows}"


def due_after(run: Run, update: Happening) -> tuple[bool, list[str]]:
    """Whether the update ends its epoch, and what is to be done before the next one."""
    config, plan = run.config, run.plan
    steps_done = update.index * plan.gradient_accumulation_steps + update.size
    epoch = update.epoch + steps_done / plan.steps_in_epoch
    state = replace(run.state, global_step=update.number, epoch=epoch, control=Control())
    after_update(config, plan, state)
    ends_epoch = steps_done == plan.steps_in_epoch
    if ends_epoch or state.control.should_training_stop:
        after_epoch(config, state)
    control = state.control
    due = ["log line"] if control.should_log else []
    due += ["evaluation"] if control.should_evaluate else []
    if control.should_save:
        due.append("checkpoint")
    elif control.should_evaluate and config.save_strategy == "best":
        due.append("checkpoint if it is the best")
    return ends_epoch, due


def words_drawn(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int | None]:
    """By how many numbers each generator has moved: of the CPU's in words of 32 bits, of a GPU's as its offset counts;
    of Python's and NumPy's, 1 where it has moved at all.
    """
    a, b = before["numpy"], after["numpy"]
    words: dict[str, int | None] = {
        "cpu": words_between(before["cpu"], after["cpu"]),
        "python": int(before["python"] != after["python"]),
        "numpy": int(a[2:] != b[2:] or not np.array_equal(a[1], b[1])),
    }
    if isinstance(before.get("cuda"), Tensor):
        words["cuda"] = _offset(after["cuda"]) - _offset(before["cuda"])
    return words


def words_between(before: Tensor, after: Tensor) -> int | None:
    """Numbers of 32 bits that torch's CPU generator has made between two of its states; None where the one does not
    follow from the other. It is a Mersenne Twister, as NumPy has one, which is moved on until it stands where torch's
    does. Where the state holds what is no promise of torch's; it only serves to narrate.
    """
    (key, position), (there, end) = _twister(before), _twister(after)
    if np.array_equal(key, there):
        return end - position if end >= position else None
    twister, goal = np.random.MT19937(), np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": BLOCK}}
    goal.state = {"bit_generator": "MT19937", "state": {"key": there, "pos": 0}}
    wanted = goal.random_raw(BLOCK)
    made = BLOCK - position
    blocks = 1
    while made < MOST_WORDS:
        several = twister.random_raw(BLOCK * blocks).reshape(blocks, BLOCK)
        for found in np.flatnonzero(several[:, 0] == wanted[0]):
            if np.array_equal(several[found], wanted):
                return made + int(found) * BLOCK + end
        made += blocks * BLOCK
        blocks = min(2 * blocks, 2048)
    return None


def _twister(state: Tensor) -> tuple[np.ndarray, int]:
    """The block of numbers that torch's generator is in, and how many of it have been given out."""
    held = state.numpy().tobytes()
    left = int.from_bytes(held[8:12], "little")
    return np.frombuffer(held, np.uint64, BLOCK, offset=24).astype(np.uint32), BLOCK + 1 - left


def _offset(state: Tensor) -> int:
    return int.from_bytes(state.numpy().tobytes()[8:16], "little")


def draw(row: np.ndarray, cells: int, marks: Marks) -> str:
    """A row's tokens in so many cells: 0 is padding, 1 a token, 2 one of the second text. Of a cell that stands for
    several, its middle one is drawn."""
    middles = ((np.arange(cells) + 0.5) * len(row) / cells).astype(int)
    return "".join((marks.padding, marks.token, marks.second)[row[i]] for i in middles)


def sparkline(values: Sequence[float], levels: str) -> str:
    top = max(values, default=0.0) or 1.0
    return "".join(levels[min(int(max(value, 0.0) / top * len(levels)), len(levels) - 1)] for value in values)


def position(step: int, steps: int, cells: int) -> int:
    """In which of so many cells a step of the schedule is; the first of them, where it has several."""
    return -(-step * cells // steps) if cells >= steps else step * cells // steps


def _main_input(inputs: Inputs) -> str:
    tensors = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim]
    return next((name for name in ("input_ids", "inputs_embeds") if name in tensors), tensors[0])


def _mask(inputs: Inputs, main: str) -> np.ndarray | None:
    """Per row and token: 0 padding, 1 a token, 2 one of the second text. None where there are no tokens to tell of."""
    ids, mask, types = inputs[main], inputs.get("attention_mask"), inputs.get("token_type_ids")
    if main != "input_ids" or ids.ndim != 2:
        return None
    marks = torch.ones(ids.shape, dtype=torch.int64)
    if types is not None and types.shape == ids.shape:
        marks += (types == 1).cpu()
    if mask is not None and mask.shape == ids.shape:
        marks *= (mask != 0).cpu()
    told: np.ndarray = marks.numpy()
    return told


def _label(run: Run, value: Tensor) -> str:
    names = getattr(getattr(run.unwrapped_model, "config", None), "id2label", None) or {}
    if value.ndim:
        return ", ".join(str(names.get(i, i)) for i, on in enumerate(value.tolist()) if on) or "none"
    if value.is_floating_point():
        return f"{float(value):g}"
    return _printable(str(names.get(int(value), int(value))))


def _text(run: Run, inputs: Inputs, main: str, is_real: np.ndarray | None) -> str:
    """The first row as the model gets it: as text where there is a tokenizer, else its numbers."""
    if main != "input_ids" or is_real is None:
        return ""
    ids = inputs[main][0].cpu()[torch.from_numpy(is_real)].tolist()
    decode = getattr(run.processing_class, "decode", None)
    return str(decode(ids)) if decode is not None else f"tokens {' '.join(map(str, ids))}"


def _whole(micro_batch: MicroBatch) -> float:
    """The loss before it was divided."""
    share, divisor = float(micro_batch.share), micro_batch.divisor
    return share * divisor if divisor != math.inf else share


def _sum(terms: Sequence[str]) -> str:
    if len(terms) > SHOWN_MICRO_BATCHES:
        terms = [*terms[:3], f"({len(terms) - 4} more)", terms[-1]]
    return " + ".join(terms)


def _number(value: float) -> str:
    """Four digits behind the point, or as many as it takes to show one."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3e}"
    return f"{value:.4f}"


def _words(count: int | None) -> str:
    return "uncounted" if count is None else f"{count:,}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _printable(text: str) -> str:
    """Texts come from files: one with an escape sequence in it is shown, and not obeyed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
