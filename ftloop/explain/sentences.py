"""Describe each part of an update in sentences with its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ftloop.explain.drawing import Console, Glyphs, cell_of_step, sparkline
from ftloop.run.check_rows import ready_rows
from ftloop.run.micro_batches import Inputs, num_rows
from ftloop.run.optim import create_scheduler
from ftloop.run.run import Run
from ftloop.run.state import due_after_epoch, due_after_update
from ftloop.system.gradients import named_gradients, total_norm
from ftloop.system.text import join_some, pluralize

MAX_NAMES = 3  # of parameters
MAX_TERMS = 8  # of a sum over micro-batches that is written out
CURVE_CELLS = 48


@dataclass
class FinishedMicroBatch:
    """A micro-batch that has been through forward and backward."""

    rows: int  # that count; with trainer_compat and several processes it may hold more
    divisor: float
    share: Tensor  # of the update's loss; `auto_micro_batch` may still write another number into it

    @property
    def loss(self) -> float:
        """The loss before it was divided."""
        return float(self.share) * (self.divisor if self.divisor != math.inf else 1.0)


@dataclass
class UpdateInProgress:
    """The update that is being narrated."""

    number: int  # global_step after it
    epoch: int
    index: int  # in its epoch, from 0
    size: int  # number of its micro-batches
    rows: int  # number of its distinct rows, over all processes
    random_moved_before: set[str]  # random generators that moved between the previous update and this one
    random_moved: set[str] = field(default_factory=set)  # random generators that moved in forward and backward
    micro_batches: list[FinishedMicroBatch] = field(default_factory=list)
    norm: float = math.nan  # of the gradient before clipping
    learning_rate: float = math.nan
    weights: dict[str, Tensor] = field(default_factory=dict)  # a copy on the CPU, only while the optimizer steps

    @property
    def loss(self) -> float:
        return float(sum(micro_batch.share for micro_batch in self.micro_batches))

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def describe_run(console: Console, run: Run, number: int) -> None:
    """Describe what is known before the first update."""
    plan, config, glyphs = run.plan, run.config, console.glyphs
    console.write("")
    console.say("Explain", f"the next {pluralize(number, 'update')} of {plan.max_steps}")
    console.say("Model", "; ".join(facts_of_the_model(run)))
    describe_optimizer(console, run)
    schedule = f"{type(run.scheduler).__name__}, your own, from {run.scheduler.get_last_lr()[0]:g}"
    if follows_settings(run):
        warmup = f"after {pluralize(plan.warmup_steps, 'update')} of warmup" if plan.warmup_steps else "no warmup"
        schedule = f"{config.lr_scheduler_type}, peak {run.scheduler.base_lrs[0]:g}, {warmup}"
    console.say("Schedule", f"{schedule}, {pluralize(plan.max_steps, 'update')} in all")
    if curve := schedule_curve(run, glyphs):
        console.line(curve)
    size = f"up to {plan.budget.max_tokens} tokens" if plan.budget else f"{plan.per_device_train_batch_size} rows"
    processes = f" on each of {plan.num_processes} processes" if plan.num_processes > 1 else ""
    micro_batches = pluralize(plan.gradient_accumulation_steps, "micro-batch", "micro-batches")
    forward = f"{micro_batches} of {size}{processes}: forward to a loss and backward to gradients, which add up."
    console.say(
        "An update",
        forward,
        f"Then once: clip, one step of {kind_of_optimizer(run)}, the next learning rate, gradients cleared",
    )
    example: Any = next(iter(ready_rows(run.train_dataset)), None)
    types = example.get("token_type_ids") if hasattr(example, "get") else None
    second = f" {glyphs.second} token of its second text," if types is not None and any(types) else ""
    computed = "not computed" if config.padding == "none" else "computed and masked"
    padding = f"{glyphs.token} token,{second} {glyphs.padding} padding, which is {computed}"
    console.say("Rows", "are numbered as in the training set, from 1;", padding)


def facts_of_the_model(run: Run) -> Iterator[str]:
    model, accelerator = run.unwrapped_model, run.accelerator
    config, parameters = getattr(model, "config", None), dict(model.named_parameters())
    names = {"num_hidden_layers": "layers", "hidden_size": "hidden units", "num_attention_heads": "heads"}
    shape = [f"{getattr(config, name)} {what}" for name, what in names.items() if getattr(config, name, None)]
    yield ": ".join(filter(None, [type(model).__name__, ", ".join(shape)]))
    yield f"{sum(p.numel() for p in parameters.values()):,} parameters in {len(parameters)} tensors"
    if head := head_parameters(run):
        yield f"the head on top of the pretrained model: {join_some(head, MAX_NAMES)}"
    drops = sorted({module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p})
    yield f"dropout {', '.join(f'{p:g}' for p in drops)}" if drops else "no dropout"
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters.values()})
    mixed = {"bf16": ", matrix products in bfloat16 (autocast)", "fp16": ", matrix products in float16 (autocast)"}
    yield f"weights in {_and(dtypes)} on {accelerator.device}{mixed.get(accelerator.mixed_precision, '')}"
    if accelerator.scaler is not None:
        yield f"losses scaled by {accelerator.scaler.get_scale():g}, so that float16 gradients do not vanish"


def describe_optimizer(console: Console, run: Run) -> None:
    """Say what the optimizer does with which parameters. One of the user's own may have none of AdamW's settings."""
    groups: Any = [group for group in run.optimizer.param_groups if group["params"]]
    first, said = groups[0], kind_of_optimizer(run)
    if "fused" in first:
        said += f" ({'fused, one kernel for all tensors' if first['fused'] else 'not fused'})"
    if "betas" in first:
        said += f", betas {' and '.join(f'{beta:g}' for beta in first['betas'])}"
    for name, what in {"momentum": "momentum", "eps": "epsilon"}.items():
        if first.get(name) and isinstance(first[name], (int, float)):
            said += f", {what} {first[name]:g}"
    console.say("Optimizer", said)
    names = {id(p): name for name, p in run.unwrapped_model.named_parameters()}
    kinds = {"frozen": [p for p in run.unwrapped_model.parameters() if not p.requires_grad]}
    for group in groups:
        decay = f"decay {group['weight_decay']:g}" if group.get("weight_decay") else "no decay"
        kinds[decay] = kinds.get(decay, []) + group["params"]
    rows = []
    for kind, members in kinds.items():
        if members:
            example = ".".join(names.get(id(members[0]), "").split(".")[-2:])
            tensors = f"{len(members)} tensors, such as {example}"
            rows.append((kind, tensors, f"{sum(p.numel() for p in members):>11,} parameters"))
    console.table(rows)


def describe_title(console: Console, run: Run, update: UpdateInProgress) -> None:
    plan, rule = run.plan, console.glyphs.rule
    title = f"{rule * 2} Update {update.number} of {plan.max_steps} "
    place = f" epoch {update.epoch + 1} of {plan.num_train_epochs}, its update {update.index + 1}"
    place += f" of {plan.updates_per_epoch} {rule * 2}"
    console.write("")
    console.write(f"{title:{rule}<{console.width - len(place)}}{place}")


def describe_micro_batch(console: Console, run: Run, update: UpdateInProgress, inputs: Inputs) -> None:
    """Describe the loss and the gradient of a micro-batch after its backward pass."""
    rows, norm = num_rows(inputs), unscaled_norm(run)
    loss = f"loss {_number(update.micro_batches[-1].loss)}, mean of its {pluralize(rows, 'row')}"
    console.say("", f"{loss}; backward: gradient norm now {_number(norm)}")
    rows_at_once = run.counters.micro_batch_rows
    if run.config.auto_micro_batch and rows_at_once is not None and rows_at_once < rows:
        split = f"split: it did not fit into memory, so the model gets {pluralize(rows_at_once, 'row')} at a time;"
        console.say("", split, "losses and gradients of the parts add up to those of the whole")


def describe_gradients(console: Console, run: Run, update: UpdateInProgress, num_items: Tensor | None) -> None:
    """Describe the loss of the update and the gradient after its last micro-batch."""
    console.say("Loss", sum_of_losses(run, update, num_items))
    if run.accelerator.num_processes > 1:
        mean = "of this process; the update's is the mean over all, and so is its gradient:"
        console.say("", mean, "they were exchanged in the last backward pass")
    update.norm = unscaled_norm(run)
    norms = {name: float(gradient.norm()) for name, gradient in named_gradients(run.unwrapped_model).items()}
    if broken := nonfinite(norms):
        console.say("Gradient", f"not finite in {broken}")
        return
    console.say("Gradient", f"norm {_number(update.norm)}; its square is the sum over {len(norms)} tensors. Largest:")
    total = math.sqrt(sum(norm**2 for norm in norms.values())) or 1.0
    scale = update.norm / total  # fp16's is still in them
    largest = sorted(norms, key=lambda name: -norms[name])[:MAX_NAMES]
    console.table([("", n, f"{_number(norms[n] * scale)}  {(norms[n] / total) ** 2:.0%} of the sum") for n in largest])


def describe_clipping(console: Console, run: Run, update: UpdateInProgress) -> None:
    limit = run.config.max_grad_norm
    if not math.isfinite(update.norm):
        text = "cannot repair what is not finite"
    elif not limit:
        text = "none, because max_grad_norm is 0"
    elif update.norm <= limit:
        text = f"none: {_number(update.norm)} is within max_grad_norm {limit:g}"
    else:
        text = f"to max_grad_norm {limit:g}: gradients multiplied by {limit / (update.norm + 1e-6):.4f}"
    after = total_norm(named_gradients(run.unwrapped_model).values())
    console.say("Clipping", f"{text}; norm after it {_number(after)}")


def describe_learning_rate(console: Console, run: Run, update: UpdateInProgress) -> None:
    plan, rate, warmup, share = run.plan, update.learning_rate, "", ""
    # Behind the update's number where updates were skipped; a schedule of the user's own need not count.
    step = int(getattr(run.scheduler, "last_epoch", update.number - 1))
    if follows_settings(run):
        peak = run.scheduler.base_lrs[0]
        warmup = f", warming up ({step + 1} of {plan.warmup_steps})" if step < plan.warmup_steps else ""
        share = f": {100 * rate / peak:.3g}% of the peak" if peak else ""
    console.say("Rate", f"{rate:.4g}, update {update.number} of {plan.max_steps}{warmup}{share}")
    if curve := schedule_curve(run, console.glyphs):
        console.line(curve)
        console.line(" " * cell_of_step(step, plan.max_steps, len(curve)) + console.glyphs.marker)
    groups: Any = run.optimizer.param_groups
    for group in groups if kind_of_optimizer(run) == "AdamW" else ():  # others add it to the gradient
        if (decay := group["weight_decay"]) and (tensors := len(group["params"])):
            console.say("Decay", f"{tensors} tensors shrink by rate x {decay:g} = {rate * decay:.3g} of their value")


def describe_weights(console: Console, run: Run, update: UpdateInProgress) -> None:
    changes, norms = parameter_deltas(run, update.weights)
    moved, update.weights = sum(change > 0 for change in changes.values()), {}
    if broken := nonfinite(changes):
        console.say("Weights", f"no longer finite in {broken}")
        return
    if not moved:
        console.say("Weights", f"none moved: {why_none_moved(run, update)}")
        return
    console.say("Weights", f"{moved} of {len(changes)} tensors moved; largest change relative to their norm:")
    relative = {name: changes[name] / norm for name, norm in norms.items() if norm}
    # Vectors apart: biases begin at 0, and near it a small step is many times what was there.
    matrices = [name for name, p in run.unwrapped_model.named_parameters() if p.ndim > 1 and name in relative]
    head = set(head_parameters(run))
    kinds = {
        "matrix": matrices,
        "vector": [name for name in relative if name not in matrices],
        "head": [name for name in matrices if name in head],
    }
    largest = {kind: max(names, key=relative.__getitem__) for kind, names in kinds.items() if names}
    console.table([(kind, name, f"{relative[name]:.3%}") for kind, name in largest.items()])


def describe_random_states(console: Console, update: UpdateInProgress) -> None:
    """Say which random generators moved: dropout draws, and so does creating an iterator of a loader."""
    parts = []
    if before := sorted(update.random_moved_before):
        parts.append(f"{_and(before)} before the forward passes (a new iterator draws a number)")
    if within := sorted(update.random_moved):
        dropout = " (dropout)" if {"CPU", "GPU"} & update.random_moved else ""
        parts.append(f"{_and(within)} in the forward passes{dropout}")
    console.say("Random", f"generators that moved: {', '.join(parts)}" if parts else "no generator moved")


def describe_next(console: Console, run: Run, update: UpdateInProgress) -> None:
    ends_epoch, due = due_after(run, update)
    parts = [f"epoch {update.epoch + 1} is over"] if ends_epoch else []
    parts += [f"due now: {', '.join(due)}"] if due else []
    is_last = update.number >= run.plan.max_steps
    parts.append("that was the last update" if is_last else f"{'then ' if parts else ''}update {update.number + 1}")
    console.say("Next", "; ".join(parts))


def why_none_moved(run: Run, update: UpdateInProgress) -> str:
    if run.accelerator.scaler is not None and not math.isfinite(update.norm):
        return "a gradient overflowed in float16, so the scaler skips this update and lowers its scale"
    if update.is_finite and update.learning_rate == 0:
        return "the learning rate is 0"
    if update.is_finite and not int(run.counters.first_nonfinite):
        return "no gradient reached them"
    ends = "; training stops before it logs or saves" if run.config.on_nonfinite == "raise" else ""
    return f"the loss or gradient is not finite (on_nonfinite={run.config.on_nonfinite}{ends})"


def unscaled_norm(run: Run) -> float:
    """Return the gradient norm without fp16's scale, which is still in the gradients before clipping."""
    scale = 1.0 if run.accelerator.scaler is None else float(run.accelerator.scaler.get_scale())
    return total_norm(named_gradients(run.unwrapped_model).values()) / scale


def parameter_deltas(run: Run, before: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the norm of each parameter's change, and its norm before."""
    parameters = {name: p.detach().cpu() for name, p in run.unwrapped_model.named_parameters() if name in before}
    changes = {name: float((p - before[name]).float().norm()) for name, p in parameters.items()}
    return changes, {name: float(before[name].float().norm()) for name in parameters}


def nonfinite(norms: Mapping[str, float]) -> str:
    """Say how many of these are not finite, and which; empty for none."""
    broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
    return f"{len(broken)} of {len(norms)} tensors: {join_some(broken, MAX_NAMES)}" if broken else ""


def head_parameters(run: Run) -> list[str]:
    """Return the parameters of the head, where the model says which part is pretrained."""
    prefix = getattr(run.unwrapped_model, "base_model_prefix", "")
    names = [name for name, _ in run.unwrapped_model.named_parameters()]
    head = [name for name in names if not name.startswith(f"{prefix}.")]
    return head if prefix and len(head) < len(names) else []


def sum_of_losses(run: Run, update: UpdateInProgress, num_items: Tensor | None) -> str:
    """Write out, with numbers, how the losses of the micro-batches make the update's loss."""
    micro_batches, processes = update.micro_batches, run.accelerator.num_processes
    losses, total = [_number(micro_batch.loss) for micro_batch in micro_batches], _number(update.loss)
    if num_items is not None:
        multiplied = processes > 1 and run.config.average_tokens_across_devices
        times = f", each times the {processes} processes" if multiplied else ""
        return (
            f"{_sum(losses)} = {total}: added up undivided{times}, as in Trainer, which leaves that to the model and "
            f"tells it of the update's {int(num_items)} labels; BERT's head takes the mean of its own rows all the same"
        )
    if run.config.trainer_compat:
        terms = [f"{loss}/{len(losses)}" for loss in losses]
        return f"{_sum(terms)} = {total}: each micro-batch has the same weight, whatever its rows, as in Trainer"
    times, mean = (f"{processes} x ", " in the mean over the processes") if processes > 1 else ("", "")
    terms = [f"{loss} x {times}{m.rows}/{update.rows}" for loss, m in zip(losses, micro_batches, strict=True)]
    return f"{_sum(terms)} = {total}: each row counts 1/{update.rows}{mean}"


def due_after(run: Run, update: UpdateInProgress) -> tuple[bool, list[str]]:
    """Return whether the update ends its epoch, and what is to be done before the next one."""
    config, plan = run.config, run.plan
    steps_done = update.index * plan.gradient_accumulation_steps + update.size
    ends_epoch = steps_done == plan.steps_in_epoch
    epoch = update.epoch + steps_done / plan.steps_in_epoch
    dues = [due_after_update(config, plan, update.number)]
    if ends_epoch or update.number >= plan.max_steps:
        dues.append(due_after_epoch(config, epoch))
    evaluates, saves = any(due.evaluate for due in dues), any(due.save for due in dues)
    due = {
        "log line": any(due.log for due in dues),
        "evaluation": evaluates,
        "checkpoint": saves,
        "checkpoint if it is the best": evaluates and config.save_strategy == "best" and not saves,
    }
    return ends_epoch, [what for what, is_due in due.items() if is_due]


def kind_of_optimizer(run: Run) -> str:
    return type(getattr(run.optimizer, "optimizer", run.optimizer)).__name__


def follows_settings(run: Run) -> bool:
    """Whether the schedule is that of the settings, and not one of the user's own."""
    plan, scheduler = run.plan, run.scheduler
    optimizer = SGD([Tensor([0.0])], lr=1.0)
    of_settings: Any = create_scheduler(optimizer, run.config, plan.warmup_steps, plan.max_steps)
    steps = {0, 1, plan.warmup_steps, plan.max_steps // 2, plan.max_steps - 1}
    return isinstance(scheduler, LambdaLR) and all(
        scheduler.lr_lambdas[0](step) == of_settings.lr_lambdas[0](step) for step in steps
    )


def schedule_curve(run: Run, glyphs: Glyphs) -> str:
    """Draw the learning rate over the whole run; empty where its schedule cannot be asked."""
    rates, steps = getattr(run.scheduler, "lr_lambdas", None), run.plan.max_steps
    if not rates:
        return ""
    cells = steps * (CURVE_CELLS // steps) if steps <= CURVE_CELLS else CURVE_CELLS
    return sparkline([float(rates[0](cell * steps // cells)) for cell in range(cells)], glyphs.levels)


def _sum(terms: Sequence[str]) -> str:
    if len(terms) > MAX_TERMS:
        terms = [*terms[:3], f"({len(terms) - 4} more)", terms[-1]]
    return " + ".join(terms)


def _number(value: float) -> str:
    """Format with four decimals, or in scientific notation where they would not show the number."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3e}"
    return f"{value:.4f}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
