"""Describe a micro-batch: its rows, their lengths and their padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ftloop.explain.drawing import Console, draw_tokens
from ftloop.run.micro_batches import Inputs, num_rows
from ftloop.run.run import Run
from ftloop.system.row_numbers import row_numbers
from ftloop.system.text import join_some, pluralize

DRAWN_ROWS = (8, 4, 4, 4)  # of an update's first micro-batches; of further ones only the numbers are printed
MAX_ROW_NUMBERS = 32  # of rows that are not drawn
MAX_LABEL = 20  # characters


def describe_batch(console: Console, run: Run, inputs: Inputs, own_rows: list[int], index: int, size: int) -> None:
    """Describe the `index`-th of an update's `size` micro-batches before its forward pass: which rows, how long, how
    much of it is padding. Further rows than `own_rows` are repeated to fill the last round, with trainer_compat."""
    processes, main = run.accelerator.num_processes, main_input(inputs)
    process = f" of process {run.accelerator.process_index} of {processes}" if processes > 1 else ""
    shape, kinds = " x ".join(map(str, inputs[main].shape)), token_kinds(inputs, main)
    rows, padding = num_rows(inputs), ""
    if kinds is not None:
        tokens, cells = int((kinds > 0).sum()), kinds.size
        padding = f", {tokens:,} tokens + {cells - tokens:,} padding ({(cells - tokens) / cells:.1%})"
    console.say("Batch", f"{index + 1} of {size}{process}: {pluralize(rows, 'row')}, {main} {shape}{padding}")
    numbers = [*map(str, row_numbers(run.source_rows, own_rows))] + ["again"] * (rows - len(own_rows))
    labels = [label_name(run, value) for value in inputs["labels"]] if "labels" in inputs else [""] * rows
    drawn = DRAWN_ROWS[index] if kinds is not None and index < len(DRAWN_ROWS) else 0
    if kinds is not None and drawn:
        draw_rows(console, kinds[:drawn], numbers, labels)
    if rows > drawn:
        more = f"and {rows - drawn} more: " if drawn else ""
        console.say("", f"{more}rows {join_some(numbers[drawn:], MAX_ROW_NUMBERS)}")
    if kinds is not None:
        label = f" ({labels[0]})" if labels[0] else ""
        console.line(f"row {numbers[0]}{label}: {as_text(run, inputs[main][0].cpu()[torch.from_numpy(kinds[0] > 0)])}")


def draw_rows(console: Console, kinds: np.ndarray, numbers: Sequence[str], labels: Sequence[str]) -> None:
    """Draw one line per row: where its tokens are and where its padding is."""
    length, widest = kinds.shape[1], max(map(len, numbers))
    heads = [f"row {number:>{widest}}" for number in numbers]
    counts = [f"{int((row > 0).sum()):>{len(str(length))}} of {length}" for row in kinds]
    tails = [f"{n}  {console.truncate(label, MAX_LABEL)}" for n, label in zip(counts, labels, strict=False)]
    cells = min(length, console.text_width - max(map(len, heads)) - max(map(len, tails)) - 4)
    pictures = [draw_tokens(row, cells, console.glyphs) for row in kinds]
    console.table(list(zip(heads, pictures, tails, strict=False)))


def rows_of_micro_batch(run: Run, global_step: int, index: int) -> list[int]:
    """Return the training rows, from 0, of this process's `index`-th micro-batch of an update; none of them twice."""
    plan, process = run.plan, run.accelerator.process_index
    epoch, update = divmod(global_step - 1, plan.updates_per_epoch)
    step = update * plan.gradient_accumulation_steps + index
    if plan.budget is not None:
        assigned: list[int] = plan.budget.of_epoch(epoch).of_process(step, process).tolist()
        return assigned
    first = (step * plan.num_processes + process) * plan.per_device_train_batch_size
    rows: list[int] = run.row_order(epoch)[first : first + plan.rows_in_step(epoch, step, process)].tolist()
    return rows


def main_input(inputs: Inputs) -> str:
    tensors = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim]
    return next((name for name in ("input_ids", "inputs_embeds") if name in tensors), tensors[0])


def token_kinds(inputs: Inputs, main: str) -> np.ndarray | None:
    """Return, per row and token, 0 for padding, 1 for a token, 2 for one of the second text; None without a mask."""
    ids, mask, types = inputs[main], inputs.get("attention_mask"), inputs.get("token_type_ids")
    if main != "input_ids" or mask is None or mask.shape != ids.shape:
        return None
    kinds = (mask != 0).long()
    if types is not None and types.shape == ids.shape:
        kinds = kinds * (1 + (types == 1).long())
    array: np.ndarray = kinds.cpu().numpy()
    return array


def label_name(run: Run, value: Tensor) -> str:
    config = getattr(run.unwrapped_model, "config", None)
    names = getattr(config, "id2label", None) or {}
    if value.numel() == 1 and getattr(config, "problem_type", None) != "multi_label_classification":
        value = value.reshape(())
    if value.ndim:
        return ", ".join(str(names.get(i, i)) for i, on in enumerate(value.tolist()) if on) or "none"
    if value.is_floating_point():
        return f"{float(value):g}"
    return str(names.get(int(value), int(value)))


def as_text(run: Run, tokens: Tensor) -> str:
    """Return what the model reads: as text where there is a tokenizer, else the token ids."""
    decode = getattr(run.processing_class, "decode", None)
    return str(decode(tokens.tolist())) if decode is not None else f"tokens {' '.join(map(str, tokens.tolist()))}"
