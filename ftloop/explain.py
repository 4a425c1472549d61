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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ftloop.errors import UserError
from ftloop.loop import TrainingStep
from ftloop.loop import training_step as usual_step
from ftloop.rng import rng_state, words_drawn
from ftloop.run import Inputs, Run, num_rows
from ftloop.state import Control, after_epoch, after_update
from ftloop.words import counted, listed, printable

INDENT = 10  # a topic of 9 characters and a space, as on all of the console
NARROWEST, WIDEST = 60, 120
CURVE = 48  # characters
SHOWN_ROWS = (8, 4, 4, 4)  # drawn of an update's first micro-batches; of further ones only the numbers are told
SHOWN_NAMES = 3  # of parameters
MOST_NUMBERS = 32  # of rows that are not drawn
SHOWN_MICRO_BATCHES = 8  # of those whose losses are written out as a sum


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


@dataclass(frozen=True)
class Page:
    """The console, as wide as it is. Lines go out above the progress bars."""

    write: Callable[[str], None]
    width: int
    marks: Marks

    @staticmethod
    def of(run: Run) -> Page:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        width = min(max(shutil.get_terminal_size((100, 24)).columns, NARROWEST), WIDEST)
        return Page(run.say, width, Marks() if can_show("".join(vars(Marks()).values()), encoding) else ASCII)

    @property
    def room(self) -> int:
        """For text, beside the topic."""
        return self.width - INDENT

    def say(self, topic: str, *sentences: str) -> None:
        """A topic and its text, wrapped."""
        for i, line in enumerate(textwrap.wrap(" ".join(sentences), self.room, break_on_hyphens=False)):
            self.write(f"{topic if i == 0 else '':<{INDENT - 1}} {line}")

    def line(self, text: str) -> None:
        """One that is not wrapped but cut. Texts and labels come in these, and no escape sequence in them is obeyed."""
        self.write(f"{'':<{INDENT}}{self.cut(printable(text), self.room)}".rstrip())

    def cut(self, text: str, room: int, keep_end: bool = False) -> str:
        if len(text) <= room:
            return text
        kept = max(room - len(self.marks.cut), 0)
        return f"{self.marks.cut}{text[len(text) - kept :]}" if keep_end else f"{text[:kept]}{self.marks.cut}"

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """What, the name of a parameter, and a number of it."""
        first, last = (max((len(row[i]) for row in rows), default=0) for i in (0, 2))
        room = self.room - first - last - 4
        names = [self.cut(name, room, keep_end=True) for _, name, _ in rows]
        width = max(map(len, names), default=0)
        for (what, _, number), name in zip(rows, names, strict=True):
            self.line(f"{what:<{first}}  {name:<{width}}  {number}" if first else f"{name:<{width}}  {number}")


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
        narrator.look_for_one_left_out()
    finally:
        narrator.detach()


class Narrator:
    """Attached to one training: at its training step, and before and after its optimizer's."""

    def __init__(self, run: Run, number: int, step: TrainingStep) -> None:
        self.run, self.left, self.page = run, number, Page.of(run)
        self._step = step
        self._update: Happening | None = None
        self._has_begun = False
        self._random: dict[str, Any] | None = rng_state(False)
        optimizer: Any = getattr(run.optimizer, "optimizer", run.optimizer)  # the one Accelerate has wrapped
        self._handles = [
            optimizer.register_step_pre_hook(self._before_optimizer),
            optimizer.register_step_post_hook(self._after_optimizer),
        ]

    def training_step(self, run: Run, inputs: Inputs, divisor: float, num_items: Tensor | None) -> Tensor:
        self.look_for_one_left_out()
        if self.left == 0:
            return self._step(run, inputs, divisor, num_items)
        update = self._update = self._update or self._begin()
        say_batch(self.page, run, update, inputs)
        rows, before = rows_of_micro_batch(run, update.number, len(update.micro_batches)), rng_state(False)
        share = self._step(run, inputs, divisor, num_items)
        update.micro_batches.append(MicroBatch(len(rows), divisor, share, words_drawn(before, rng_state(False))))
        say_backward(self.page, run, update, num_rows(inputs))
        if len(update.micro_batches) == update.size:
            update.norm = norm_of_gradients(run)
            say_loss(self.page, run, update, num_items)
            say_gradient(self.page, run, update)
        return share

    def look_for_one_left_out(self) -> None:
        """Of an update for which the optimizer took no step, nobody has told the end."""
        if self._update is not None and self._update.number <= self.run.state.global_step:
            self.page.say("Weights", f"none moved: {why_none_moved(self.run, self._update)}")
            self._end()

    def detach(self) -> None:
        self._update = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self) -> Happening:
        run, plan = self.run, self.run.plan
        if not self._has_begun:
            self._has_begun = True
            self.left = min(self.left, plan.max_steps - run.state.global_step)
            if run.resumed_from is not None:
                self._random = None  # since then the loop has put the checkpoint's in place
            introduce(self.page, run, self.left)
        number = run.state.global_step + 1
        epoch, index = divmod(number - 1, plan.updates_per_epoch)
        before = {} if self._random is None else words_drawn(self._random, rng_state(False))
        update = Happening(number, epoch, index, plan.window_size(index), plan.rows_in_window(epoch, index), before)
        say_title(self.page, run, update)
        return update

    def _before_optimizer(self, *_: Any) -> None:
        update, run = self._update, self.run
        if update is None or len(update.micro_batches) < update.size:
            return
        groups: Any = run.optimizer.param_groups
        update.learning_rate = float(groups[0]["lr"])
        say_clipping(self.page, run, update)
        say_rate(self.page, run, update)
        parameters = run.unwrapped_model.named_parameters()
        update.weights = {name: p.detach().to("cpu", copy=True) for name, p in parameters if p.requires_grad}

    def _after_optimizer(self, *_: Any) -> None:
        update = self._update
        if update is None or not update.weights:
            return
        say_weights(self.page, self.run, update, how_far_moved(self.run, update.weights))
        update.weights = {}
        say_random(self.page, update)
        say_next(self.page, self.run, update)
        self._end()

    def _end(self) -> None:
        self._update = None
        self._random = rng_state(False)
        self.left -= 1
        if self.left == 0:
            self.page.write("")
            self.page.say("Explain", "done: from here on it trains in silence. More in ftloop/README.md")


def introduce(page: Page, run: Run, number: int) -> None:
    """What is known before the first update."""
    plan, config, marks = run.plan, run.config, page.marks
    page.write("")
    what = "next update" if number == 1 else f"next {number} updates"
    page.say("Explain", f"the {what} of {plan.max_steps}, as {'it happens' if number == 1 else 'they happen'}")
    page.say("Model", "; ".join(about_the_model(run)))
    say_groups(page, run)
    warmup = f"after {counted(plan.warmup_steps, 'update')} of warmup" if plan.warmup_steps else "no warmup"
    rates = f"{config.lr_scheduler_type}, peak {config.learning_rate:g}, {warmup}"
    page.say("Schedule", f"{rates}, {counted(plan.max_steps, 'update')} in all")
    page.line(curve(run, marks))
    size = f"up to {plan.budget.max_tokens} tokens" if plan.budget else f"{plan.per_device_train_batch_size} rows"
    processes = f" on each of {plan.num_processes} processes" if plan.num_processes > 1 else ""
    several = plan.gradient_accumulation_steps > 1
    page.say(
        "An update",
        f"{counted(plan.gradient_accumulation_steps, 'micro-batch', 'micro-batches')} of {size}{processes}:",
        f"{'each goes' if several else 'it goes'} forward to a loss and backward to",
        f"gradients{', which add up. Then once' if several else '. Then'}: clip, one step of AdamW, the next learning",
        "rate, gradients cleared",
    )
    example: Any = run.train_dataset[0]
    types = example.get("token_type_ids") if hasattr(example, "get") else None
    second = f"{marks.second} token of its second text, " if types is not None and any(types) else ""
    page.say(
        "Rows",
        f"have their numbers in the training set, from 1; {marks.token} token,",
        f"{second}{marks.padding} padding, which is computed and masked",
    )


def about_the_model(run: Run) -> Iterator[str]:
    model, parameters = run.unwrapped_model, dict(run.unwrapped_model.named_parameters())
    shape = {"num_hidden_layers": "layers", "hidden_size": "wide", "num_attention_heads": "heads"}
    known = getattr(model, "config", None)
    told = [f"{getattr(known, name)} {what}" for name, what in shape.items() if getattr(known, name, None)]
    yield f"{type(model).__name__}{': ' if told else ''}{', '.join(told)}"
    yield f"{sum(p.numel() for p in parameters.values()):,} parameters in {len(parameters)} tensors"
    if head := above_the_pretrained(run):
        yield f"the head above the pretrained part: {listed(head, 3)}"
    drops = sorted({module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p})
    yield f"dropout {', '.join(f'{p:g}' for p in drops)}" if drops else "no dropout"
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in parameters.values()})
    mixed = {"bf16": "bfloat16", "fp16": "float16"}.get(run.accelerator.mixed_precision)
    products = f", matrix products in {mixed} (autocast)" if mixed else ""
    yield f"weights in {' and '.join(kinds)} on {run.accelerator.device}{products}"
    if run.accelerator.scaler is not None:
        yield f"losses scaled by {run.accelerator.scaler.get_scale():g}, so that float16 gradients do not vanish"


def say_groups(page: Page, run: Run) -> None:
    """What AdamW does with which parameters."""
    groups: Any = [group for group in run.optimizer.param_groups if group["params"]]
    kernel = "fused, one kernel for all tensors" if groups[0].get("fused") else "not fused"
    betas = " and ".join(f"{beta:g}" for beta in groups[0]["betas"])
    page.say("Optimizer", f"AdamW ({kernel}), betas {betas}, epsilon {groups[0]['eps']:g}")
    parameters = list(run.unwrapped_model.named_parameters())
    names = {id(p): name for name, p in parameters}
    kinds = {"frozen": [p for _, p in parameters if not p.requires_grad]}
    for group in groups:
        decay = f"decay {group['weight_decay']:g}" if group["weight_decay"] else "no decay"
        kinds[decay] = kinds.get(decay, []) + group["params"]
    told = [(kind, members, f"{sum(p.numel() for p in members):,}") for kind, members in kinds.items() if members]
    first, digits = (max(len(row[i]) for row in told) for i in (0, 2))
    for kind, members, numbers in told:
        example = ".".join(names.get(id(members[0]), "").split(".")[-2:])
        page.line(f"{kind:<{first}} {len(members):>4} tensors  {numbers:>{digits}} parameters  as {example}")


def say_title(page: Page, run: Run, update: Happening) -> None:
    plan, rule = run.plan, page.marks.rule
    title = f"{rule * 2} Update {update.number} of {plan.max_steps} "
    where = f" epoch {update.epoch + 1} of {plan.num_train_epochs}, its update {update.index + 1}"
    where += f" of {plan.updates_per_epoch} {rule * 2}"
    page.write("")
    page.write(f"{title}{rule * max(page.width - len(title) - len(where), 2)}{where}")


def say_batch(page: Page, run: Run, update: Happening, inputs: Inputs) -> None:
    """A micro-batch before it goes forward: which rows, how long, how much of it is padding."""
    index, processes, main = len(update.micro_batches), run.accelerator.num_processes, main_input(inputs)
    rows, ours = num_rows(inputs), rows_of_micro_batch(run, update.number, index)
    of = f" of process {run.accelerator.process_index} of {processes}" if processes > 1 else ""
    told = (
        f"{index + 1} of {update.size}{of}: {counted(rows, 'row')}, {main} {' x '.join(map(str, inputs[main].shape))}"
    )
    mask = kinds_of_token(inputs, main)
    if mask is not None:
        real, every = int((mask > 0).sum()), mask.size
        told += f", {real:,} tokens + {every - real:,} padding ({(every - real) / every:.1%})"
    page.say("Batch", told)
    labels = [label_name(run, value) for value in inputs["labels"]] if "labels" in inputs else [""] * rows
    numbers = [str(row + 1) for row in ours] + ["again"] * (rows - len(ours))  # with trainer_compat, to fill the round
    drawn = SHOWN_ROWS[index] if mask is not None and index < len(SHOWN_ROWS) else 0
    if mask is not None and drawn:
        draw_rows(page, mask[:drawn], numbers, labels)
    if rows > drawn:
        page.say("", f"{f'and {rows - drawn} more: ' if drawn else ''}rows {listed(numbers[drawn:], MOST_NUMBERS)}")
    if mask is not None:
        label = f" ({labels[0]})" if labels[0] else ""
        page.line(f"row {numbers[0]}{label}: {as_text(run, inputs[main][0].cpu()[torch.from_numpy(mask[0] > 0)])}")


def draw_rows(page: Page, mask: np.ndarray, numbers: Sequence[str], labels: Sequence[str]) -> None:
    """One line a row: where its tokens are and where padding."""
    tokens, number, label = mask.shape[1], max(map(len, numbers)), min(max(map(len, labels)), 20)
    counts = [f"{int((row > 0).sum()):>{len(str(tokens))}} of {tokens}" for row in mask]
    cells = min(tokens, page.room - len("row ") - number - len(counts[0]) - label - 6)
    for row, count, which, what in zip(mask, counts, numbers, labels, strict=False):
        page.line(f"row {which:>{number}}  {draw(row, cells, page.marks)}  {count}  {page.cut(what, label)}")


def say_backward(page: Page, run: Run, update: Happening, rows: int) -> None:
    """What came of a micro-batch."""
    told = f"loss {_number(whole_loss(update.micro_batches[-1]))}, mean of its {counted(rows, 'row')}"
    page.say("", f"{told}; backward: gradient norm now {_number(norm_of_gradients(run))}")
    at_once = run.mishaps.micro_batch_rows
    if run.config.auto_micro_batch and at_once is not None and at_once < rows:
        page.say(
            "",
            f"split: whole it did not fit into memory, so {counted(at_once, 'row')} at a time went through the model;",
            "losses and gradients of the parts add up to those of the whole",
        )


def say_loss(page: Page, run: Run, update: Happening, num_items: Tensor | None) -> None:
    page.say("Loss", combined(run, update, num_items))
    if run.accelerator.num_processes > 1:
        page.say(
            "",
            "of this process; the update's is the mean over all, and so is its gradient: they exchanged theirs in the",
            "last backward pass",
        )


def say_gradient(page: Page, run: Run, update: Happening) -> None:
    norms = {name: float(gradient.norm()) for name, gradient in gradients(run).items()}
    if broken := [name for name, norm in norms.items() if not math.isfinite(norm)]:
        page.say("Gradient", f"not finite in {len(broken)} of {len(norms)} tensors: {listed(broken, SHOWN_NAMES)}")
        return
    page.say("Gradient", f"norm {_number(update.norm)}; its square is the sum over {len(norms)} tensors. The largest:")
    total = math.sqrt(sum(norm**2 for norm in norms.values())) or 1.0
    scale = update.norm / total  # fp16's is still in them
    largest = sorted(norms, key=lambda name: -norms[name])[:SHOWN_NAMES]
    page.table([("", n, f"{_number(norms[n] * scale)}  {(norms[n] / total) ** 2:.0%} of the sum") for n in largest])


def say_clipping(page: Page, run: Run, update: Happening) -> None:
    limit, after = run.config.max_grad_norm, _number(float(get_total_norm(list(gradients(run).values()))))
    if not math.isfinite(update.norm):
        told = "cannot mend what is not finite"
    elif not limit:
        told = "none, by max_grad_norm 0"
    elif update.norm <= limit:
        told = f"none: {_number(update.norm)} is within max_grad_norm {limit:g}"
    else:
        told = f"to max_grad_norm {limit:g}: all times {limit / (update.norm + 1e-6):.4f}"
    page.say("Clipping", f"{told}, measured after it: {after}")


def say_rate(page: Page, run: Run, update: Happening) -> None:
    plan, rate, peak = run.plan, update.learning_rate, run.config.learning_rate
    step = int(run.scheduler.last_epoch)  # behind the update's number where updates were left out
    warmup = f", warming up ({step + 1} of {plan.warmup_steps})" if step < plan.warmup_steps else ""
    share = f": {100 * rate / peak:.3g}% of the peak" if peak else ""
    page.say("Rate", f"{rate:.4g}, update {update.number} of {plan.max_steps}{warmup}{share}")
    if shown := curve(run, page.marks):
        page.line(shown)
        page.line(" " * position(step, plan.max_steps, len(shown)) + page.marks.here)
    groups: Any = run.optimizer.param_groups
    for group in groups:
        if (decay := group["weight_decay"]) and group["params"]:
            shrink = f"shrink by rate x {decay:g} = {rate * decay:.3g} of themselves"
            page.say("Decay", f"{len(group['params'])} tensors {shrink}")


def say_weights(page: Page, run: Run, update: Happening, moved: Mapping[str, tuple[float, float]]) -> None:
    if broken := [name for name, (change, _) in moved.items() if not math.isfinite(change)]:
        page.say("Weights", f"no longer finite in {len(broken)} of {len(moved)} tensors: {listed(broken, SHOWN_NAMES)}")
        return
    changed = sum(change > 0 for change, _ in moved.values())
    if not changed:
        page.say("Weights", f"none moved: {why_none_moved(run, update)}")
        return
    page.say("Weights", f"{changed} of {len(moved)} tensors moved; the most relative to their norm:")
    relative = {name: change / norm for name, (change, norm) in moved.items() if norm}
    # Vectors apart: biases begin at 0, and near it a small step is many times what was there.
    matrices = {name for name, p in run.unwrapped_model.named_parameters() if p.ndim > 1}
    kinds = {
        "matrix": [name for name in relative if name in matrices],
        "vector": [name for name in relative if name not in matrices],
        "head": [name for name in above_the_pretrained(run) if name in relative and name in matrices],
    }
    most = {kind: max(names, key=relative.__getitem__) for kind, names in kinds.items() if names}
    page.table([(kind, name, f"{relative[name]:.3%}") for kind, name in most.items()])


def say_random(page: Page, update: Happening) -> None:
    """How far the random generators went: dropout draws, and so does whoever makes an iterator of a loader."""
    before, within = update.words_before, [micro_batch.words for micro_batch in update.micro_batches]
    drawn = []
    for device in ("cpu", "cuda"):
        each = [_words(words[device]) for words in within if device in words]
        if not each:
            continue
        told = "words of 32 bits drawn on the CPU: " if device == "cpu" else "the GPU's offset moved by "
        if before.get(device, 0) != 0:
            told += (
                f"{_words(before[device])} before them{' (a new iterator takes 2)' if device == 'cpu' else ''}, then "
            )
        told += f"{_and(each) if len(each) <= SHOWN_MICRO_BATCHES else listed(each, SHOWN_MICRO_BATCHES)} "
        told += "by dropout" if any(words[device] for words in within) else "in the forward passes"
        drawn.append(told)
    others = [name for name in ("Python", "NumPy") if any(words.get(name.lower()) for words in (before, *within))]
    drawn.append(f"{_and(others)} drew too" if others else "Python and NumPy: none")
    page.say("Random", "; ".join(drawn))


def say_next(page: Page, run: Run, update: Happening) -> None:
    ends_epoch, due = due_after(run, update)
    told = [f"epoch {update.epoch + 1} is over"] if ends_epoch else []
    told += [f"due now: {', '.join(due)}"] if due else []
    is_last = update.number >= run.plan.max_steps
    told.append("that was the last update" if is_last else f"{'then ' if told else ''}update {update.number + 1}")
    page.say("Next", "; ".join(told))


def why_none_moved(run: Run, update: Happening) -> str:
    if run.accelerator.scaler is not None and not math.isfinite(update.norm):
        return "a gradient overflowed in float16, so the scaler leaves this update out and lowers its scale"
    if update.is_finite and update.learning_rate == 0:
        return "the learning rate is 0"
    if update.is_finite and not int(run.mishaps.first_nonfinite):
        return "no gradient reached them"
    ends = "; training stops before it logs or saves" if run.config.on_nonfinite == "raise" else ""
    return f"the loss or gradient is not finite (on_nonfinite={run.config.on_nonfinite}{ends})"


def gradients(run: Run) -> dict[str, Tensor]:
    parameters = run.unwrapped_model.named_parameters()
    return {name: p.grad.to_dense() for name, p in parameters if p.grad is not None}


def norm_of_gradients(run: Run) -> float:
    """By the function that `clip_grad_norm_` uses, without fp16's scale, which is still in them before it clips."""
    there = list(gradients(run).values())
    scale = 1.0 if run.accelerator.scaler is None else float(run.accelerator.scaler.get_scale())
    return float(get_total_norm(there)) / scale if there else 0.0


def how_far_moved(run: Run, before: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Of each parameter: the norm of what was added to it, and its norm before."""
    moved = {}
    for name, parameter in run.unwrapped_model.named_parameters():
        if name in before:
            old = before[name].to(parameter.device)
            moved[name] = float((parameter.detach() - old).float().norm()), float(old.float().norm())
    return moved


def above_the_pretrained(run: Run) -> list[str]:
    """Parameters of the head, where the model tells which part is pretrained."""
    prefix = getattr(run.unwrapped_model, "base_model_prefix", "")
    names = [name for name, _ in run.unwrapped_model.named_parameters()]
    above = [name for name in names if not name.startswith(f"{prefix}.")]
    return above if prefix and len(above) < len(names) else []


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
    whole, together = [_number(whole_loss(micro_batch)) for micro_batch in done], _number(update.loss)
    divisors = {micro_batch.divisor for micro_batch in done}
    if num_items is not None:
        multiplied = processes > 1 and run.config.average_tokens_across_devices
        times = f", each times the {processes} processes" if multiplied else ""
        return (
            f"{_sum(whole)} = {together}: added up undivided{times}, as in Trainer, which leaves that to the model and "
            f"tells it of the update's {int(num_items)} labels; BERT's head takes the mean of its own rows all the same"
        )
    counts = f"each row counts 1/{update.rows}{' in the mean over the processes' if processes > 1 else ''}"
    if divisors == {float(len(done))}:
        if len(done) == 1:
            return f"{together}: one micro-batch{' of each process' if processes > 1 else ''} is all of it, {counts}"
        alike = "each micro-batch counts alike, whatever its rows, as in Trainer"
        told = alike if run.config.trainer_compat else f"equal sizes, {counts}"
        return f"{_sum([f'{loss}/{len(done)}' for loss in whole])} = {together}: {told}"
    times = f"{processes} x " if processes > 1 else ""
    weighed = [f"{loss} x {times}{m.rows}/{update.rows}" for loss, m in zip(whole, done, strict=True)]
    return f"{_sum(weighed)} = {together}: {counts}"


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


def draw(row: np.ndarray, cells: int, marks: Marks) -> str:
    """A row's tokens in so many cells: 0 is padding, 1 a token, 2 one of the second text. Of a cell that stands for
    several, its middle one is drawn."""
    middles = ((np.arange(cells) + 0.5) * len(row) / cells).astype(int)
    return "".join((marks.padding, marks.token, marks.second)[row[i]] for i in middles)


def curve(run: Run, marks: Marks) -> str:
    """The learning rate over the whole run; empty where its schedule does not tell."""
    rates, steps = getattr(run.scheduler, "lr_lambdas", None), run.plan.max_steps
    if not rates:
        return ""
    cells = steps * (CURVE // steps) if steps <= CURVE else CURVE
    return sparkline([float(rates[0](cell * steps // cells)) for cell in range(cells)], marks.levels)


def sparkline(values: Sequence[float], levels: str) -> str:
    top = max(values, default=0.0) or 1.0
    return "".join(levels[min(int(max(value, 0.0) / top * len(levels)), len(levels) - 1)] for value in values)


def position(step: int, steps: int, cells: int) -> int:
    """In which of so many cells a step of the schedule is; the first of them, where it has several."""
    return -(-step * cells // steps) if cells >= steps else step * cells // steps


def main_input(inputs: Inputs) -> str:
    tensors = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim]
    return next((name for name in ("input_ids", "inputs_embeds") if name in tensors), tensors[0])


def kinds_of_token(inputs: Inputs, main: str) -> np.ndarray | None:
    """Per row and token: 0 padding, 1 a token, 2 one of the second text. None where no mask tells."""
    ids, mask, types = inputs[main], inputs.get("attention_mask"), inputs.get("token_type_ids")
    if main != "input_ids" or mask is None or mask.shape != ids.shape:
        return None
    kinds = (mask != 0).long()
    if types is not None and types.shape == ids.shape:
        kinds = kinds * (1 + (types == 1).long())
    told: np.ndarray = kinds.cpu().numpy()
    return told


def label_name(run: Run, value: Tensor) -> str:
    names = getattr(getattr(run.unwrapped_model, "config", None), "id2label", None) or {}
    if value.ndim:
        return ", ".join(str(names.get(i, i)) for i, on in enumerate(value.tolist()) if on) or "none"
    if value.is_floating_point():
        return f"{float(value):g}"
    return str(names.get(int(value), int(value)))


def as_text(run: Run, tokens: Tensor) -> str:
    """What the model reads: as text where there is a tokenizer, else its numbers."""
    decode = getattr(run.processing_class, "decode", None)
    return str(decode(tokens.tolist())) if decode is not None else f"tokens {' '.join(map(str, tokens.tolist()))}"


def whole_loss(micro_batch: MicroBatch) -> float:
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


def can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
