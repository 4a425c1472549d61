"""What to try next, from what a run has left: its losses, its evaluations, its predictions, its data.

Only where the evidence is there. A false alarm costs a user more than silence does, so every threshold is where nobody
would argue, not where it may begin; each stands beside the reason for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ftloop.outcome import Outcome

ENOUGH_LINES = 4  # of the log; from fewer, a course cannot be read
LEARNED_NOTHING = 0.95  # of the loss that the classes' shares alone give: dropout and chance make up for the rest
UNSTABLE = 1.1  # times the loss of equal shares: worse than knowing nothing
TOO_SHORT = 1e-3  # how far AdamW can have moved a weight; those of a pretrained transformer are about 0.04 in size
LOW_RATE, RISKY_RATE = 1e-5, 1e-4  # below and above what pretrained transformers are fine-tuned with, 2e-5 to 5e-5 ...
LARGE = 10_000_000  # ... from so many parameters on; a smaller model may want ten times that
RISEN = 1.1  # times the best validation loss ...
RISEN_BY = 0.05  # ... and so much above it: a loss of 0.01 that becomes 0.012 is no overfitting
CONTRADICTED = 0.02  # of the training rows; one or two duplicates are in any data
NOISY = 1.5  # training loss to validation loss: dropout alone makes 1.1 to 1.2
SETTLED = 0.95  # of the training loss a quarter of the log before; while it falls, it lags behind validation's
MAJORITY = 0.75  # from here on accuracy looks good whatever a model does; MRPC has 0.67
RARE = 0.5  # of the share that equal classes would have
FEW = 5  # rows of a class in the validation set: fewer are missed by chance
MOST = 0.5  # of the rows are truncated
PADDING = 0.2  # of the computing would be saved
CLIPPED = 4.0  # times the limit, the median norm: AdamW, which divides by the gradient's size, makes little of less
CLIPPED_LINES = 10
NOISE = 0.08  # accuracy: such a set cannot tell a model from one that is 8 points better (MRPC's 408 rows: 0.05)
IMPROVING = 0.9  # of the validation loss before it


@dataclass(frozen=True)
class Advice:
    topic: str
    text: str
    """The evidence with its numbers, then what to try, with a flag and a value."""


def advise(outcome: Outcome) -> list[Advice]:
    evidence = Evidence(outcome)
    return [Advice(topic, text) for topic, look in LOOKED_AT.items() if (text := look(evidence))]


def told(folder: str | Path) -> Iterator[str]:
    """The console's lines about a finished run. They may lack, but never fail, a run that is complete."""
    from ftloop.outcome import read_outcome

    try:
        yield from (f"Advice    {advice.text}" for advice in advise(read_outcome(folder)))
    except Exception as error:
        yield f"Advice    none: {folder} could not be read as it was expected ({type(error).__name__}: {error})"


# --- the evidence ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logged:
    """A line of the log: means over the updates since the one before it."""

    after: int
    step: int
    loss: float
    grad_norm: float | None
    """Of the last of these updates."""
    learning_rate: float


@dataclass(frozen=True)
class ByClass:
    """Of the validation set, at the end; by class."""

    names: list[str]
    rows: np.ndarray
    predicted: np.ndarray
    right: np.ndarray

    @property
    def count(self) -> int:
        return int(self.rows.sum())

    @property
    def accuracy(self) -> float:
        return float(self.right.sum()) / self.count

    @property
    def majority(self) -> float:
        return float(self.rows.max()) / self.count


@dataclass(frozen=True)
class Evidence:
    outcome: Outcome

    @property
    def config(self) -> dict[str, Any]:
        return self.outcome.config

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.outcome.facts.get("data", {}))

    @property
    def train(self) -> dict[str, Any]:
        return dict(self.data.get("sets", {}).get("train", {}))

    @cached_property
    def classes(self) -> np.ndarray | None:
        """Training rows of each class, in the order of their ids; None where a row is not of exactly one."""
        counts = self.train.get("labels") if self.data.get("kind") == "classes" else None
        return np.array([counts[name] for name in self.data["labels"]], float) if counts and len(counts) > 1 else None

    @cached_property
    def logged(self) -> list[Logged]:
        lines, before = [], 0
        for each in self.outcome.history:
            if isinstance(each.get("loss"), float) and math.isfinite(each["loss"]):
                norm = each.get("grad_norm")
                lines.append(Logged(before, each["step"], each["loss"], norm, each.get("learning_rate") or 0.0))
                before = each["step"]
        return lines

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """That the training made, in order; the loss of each is a finite number."""
        found = [each for each in self.outcome.history if math.isfinite(each.get("eval_loss", math.nan))]
        return [each for each in found if each.get("step", 0) > 0]

    @cached_property
    def target(self) -> np.ndarray | None:
        """What a training row asks of each class in the mean, as it is weighed and smoothed: a model that gives each
        row the probabilities q has the loss -sum(target * log(q)).
        """
        if self.classes is None or not self.classes.sum():
            return None
        shares, count, given = self.classes / self.classes.sum(), len(self.classes), self.config.get("class_weights")
        weighed = shares
        if isinstance(given, dict):
            weighed = shares * np.array([float(given[name]) for name in self.data["labels"]])
        elif given:
            weighed = (shares > 0) / count  # balanced: all classes have the same weight in sum
        smoothing = float(self.config.get("label_smoothing_factor") or 0)
        return np.asarray((1 - smoothing) * weighed + smoothing * weighed.sum() / count)

    @cached_property
    def unlearned_loss(self) -> float | None:
        """Of a model that knows how frequent the classes are, or the mean, and nothing of the texts."""
        if self.data.get("kind") == "regression":
            return float(self.train["labels"]["std"]) ** 2 if self.train.get("labels") else None
        if self.target is None:
            return None
        there = self.target[self.target > 0]
        return float(-(there * np.log(there / there.sum())).sum()) or None

    @cached_property
    def answers(self) -> ByClass | None:
        kept = [name for name in self.outcome.predictions if name.startswith("validation")]
        if not kept or self.classes is None:
            return None
        found = _counted(self.outcome.predictions[min(kept)], self.data["labels"])
        return found if found.count else None

    @cached_property
    def metric(self) -> str:
        """What a person would judge by."""
        chosen = str(self.config.get("metric_for_best_model") or "").removeprefix("eval_")
        there = [name for name in ("f1", "accuracy", "pearson") if f"eval_{name}" in (self.evaluations or [{}])[-1]]
        return chosen if chosen and chosen != "loss" else next(iter(there), "")

    @property
    def epochs(self) -> float:
        return float(self.outcome.state.get("epoch") or 0)

    def ends(self, of: str) -> tuple[float, float]:
        """Mean of the first and of the last quarter of the log's lines."""
        values = [value for line in self.logged if (value := getattr(line, of)) is not None]
        quarter = max(len(values) // 4, 1)
        return float(np.mean(values[:quarter])), float(np.mean(values[-quarter:]))

    def training_loss(self, after: int, until: int) -> float | None:
        """Of the updates between two: of each line as much as lies there; where that is little, of the line before."""
        lying = [max(min(line.step, until) - max(line.after, after), 0) for line in self.logged]
        if sum(lying) < (until - after) / 2:
            return next((line.loss for line in reversed(self.logged) if line.step <= until), None)
        return float(np.average([line.loss for line in self.logged], weights=lying))


def _counted(path: Path, names: list[str]) -> ByClass:
    """Part by part: a set may have millions of rows."""
    import pyarrow.parquet as pq

    ids = {name: i for i, name in enumerate(names)}
    rows, predicted, right = (np.zeros(len(names), np.int64) for _ in range(3))
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(columns=["label", "prediction"]):
            is_right = np.equal(*(batch[column].to_numpy(zero_copy_only=False) for column in ("label", "prediction")))
            for column, counts, of in (
                ("label", rows, None),
                ("prediction", predicted, None),
                ("label", right, is_right),
            ):
                encoded = batch[column].dictionary_encode()
                known = np.array([ids[name] for name in encoded.dictionary.to_pylist()], np.int64)
                each = known[encoded.indices.to_numpy()]
                counts += np.bincount(each if of is None else each[of], minlength=len(names))
    return ByClass(names, rows, predicted, right)


# --- what is looked at -----------------------------------------------------------------------------------------------


def _training_loss(e: Evidence) -> str | None:
    """The training loss did not fall: which of the causes the evidence names."""
    if _rare_and_unlearned(e):
        return None  # that is the imbalance's
    constant = _constant_answer(e)
    if len(e.logged) < ENOUGH_LINES or e.unlearned_loss is None:
        return constant and f"{constant}. {_more_log_lines(e)}"
    unlearned, (first, late) = e.unlearned_loss, e.ends("loss")
    if late < LEARNED_NOTHING * unlearned or (e.answers is not None and _beats_the_majority(e.answers)):
        return None
    evidence = (
        f"The training loss did not fall: {first:.3g} at first, {late:.3g} at the end; without reading a text one"
    )
    evidence += f" has {unlearned:.3g}{f'. {constant}' if constant else ''}"
    peak = float(e.config.get("learning_rate") or max(line.learning_rate for line in e.logged))
    updates = e.logged[-1].step
    worst = 1.5 * unlearned
    if e.target is not None:
        worst = UNSTABLE * max(unlearned, float(e.target.sum()) * math.log(len(e.target)))
    norms = [line.grad_norm for line in e.logged if line.grad_norm is not None]
    lower = f"--learning_rate {_round(min(peak / 10, 2e-5))}" + _warmup(e)
    rose = late > 1.1 * first and late > UNSTABLE * unlearned
    if rose or (late > worst and e.target is not None):  # numbers far from 0 begin with a loss as high
        grown = e.ends("grad_norm") if len(norms) >= ENOUGH_LINES else (1.0, 1.0)
        norm = (
            f", and the gradient's norm grew from {grown[0]:.3g} to {grown[1]:.3g}" if grown[1] > 3 * grown[0] else ""
        )
        return f"{evidence}. It ended worse than unlearned{norm}: the learning rate, {peak:g}, is too high. Try {lower}"
    reach = updates * float(np.mean([line.learning_rate for line in e.logged]))
    if reach < TOO_SHORT:
        moved = f"{evidence}. {updates} updates at up to {peak:g} can have moved a weight by {reach:.1g} at most"
        if peak < LOW_RATE:
            return f"{moved}: the learning rate is too low. Try --learning_rate 5e-5"
        epochs = min(math.ceil(3 * TOO_SHORT / reach * max(e.epochs, 1)), 20)
        flag = f"--max_steps {10 * updates}" if e.config.get("max_steps", -1) > 0 else f"--num_train_epochs {epochs}"
        return f"{moved}: too few updates. Try {flag}, or more rows"
    if constant and peak > RISKY_RATE and e.outcome.facts.get("model", {}).get("parameters", 0) > LARGE:
        return f"{evidence}. So ends a learning rate too high for a pretrained model, and {peak:g} is high. Try {lower}"
    columns = " + ".join(e.data.get("text_columns", []))
    return (
        f"{evidence}, though {updates} updates at up to {peak:g} are enough to move every weight. Nothing was found in "
        f"{columns} that {e.data.get('label_column')} depends on: see whether the labels belong to these texts "
        f"(--text_column_names, --label_column_name); if they do, try --learning_rate {_round(peak * 2)} and "
        f"{_round(peak / 3)}"
    )


def _constant_answer(e: Evidence) -> str | None:
    """The predictions are all of one class, and the labels are not."""
    answers = e.answers
    if answers is None or answers.count < 20 or (answers.predicted > 0).sum() != 1:
        return None
    only = int(answers.predicted.argmax())
    if answers.count - int(answers.rows[only]) < FEW:
        return None
    share = answers.rows[only] / answers.count
    return (
        f"All {answers.count} predictions on validation are {answers.names[only]!r}, as {share:.0%} of its labels are"
    )


def _beats_the_majority(answers: ByClass) -> bool:
    p = answers.majority
    return answers.accuracy > p + 1.96 * math.sqrt(p * (1 - p) / answers.count)


def _warmup(e: Evidence) -> str:
    return "" if e.config.get("warmup_ratio") or e.config.get("warmup_steps") else " and --warmup_ratio 0.1"


def _labels(e: Evidence) -> str | None:
    """Labels that cannot all be right."""
    found = e.data.get("contradictions") or {}
    rows, of = found.get("rows", 0), found.get("of", 0)
    if of and rows >= 10 and rows >= CONTRADICTED * of:
        return (
            f"{rows} of {of} training rows ({rows / of:.0%}) have texts that stand there with another label too: no "
            "model can get all of these right. Look at them, and decide on one label or drop them"
            + ("; or try --label_smoothing_factor 0.1" if e.data.get("kind") == "classes" else "")
        )
    quarter, unlearned = len(e.logged) // 4, e.unlearned_loss
    is_weighed = e.config.get("label_smoothing_factor") or e.config.get("class_weights")
    if is_weighed or quarter < 2 or not e.evaluations or unlearned is None or e.answers is None:
        return None
    before, late = (float(np.mean([line.loss for line in e.logged[-n * quarter :][:quarter]])) for n in (2, 1))
    last = e.evaluations[-1]["eval_loss"]
    has_settled = late > max(SETTLED * before, 0.4 * unlearned)
    if has_settled and late > NOISY * last and _beats_the_majority(e.answers):
        return (
            f"The training loss has settled at {late:.3g} while the validation loss, of rows that were not trained on, "
            f"is {last:.3g}: part of the training labels seems to be wrong. Look at the training rows that the model "
            "gets wrong; or try --label_smoothing_factor 0.1"
        )
    return None


def _overfitting(e: Evidence) -> str | None:
    """The validation loss rises while the training loss falls."""
    if len(e.evaluations) < 2:
        return None
    losses = [each["eval_loss"] for each in e.evaluations]
    best = int(np.argmin(losses))
    last = len(losses) - 1
    if losses[last] < RISEN * losses[best] or losses[last] < losses[best] + RISEN_BY or best == last:
        return None
    at, end = e.evaluations[best], e.evaluations[last]
    then = e.training_loss(e.evaluations[best - 1]["step"] if best else 0, at["step"])
    now = e.training_loss(e.evaluations[last - 1]["step"], end["step"])
    if then is None or now is None or now > 0.9 * then:
        return None
    text = (
        f"Overfitting from epoch {_epoch(e.evaluations[best + 1])} on: since epoch {_epoch(at)} the validation loss "
        f"rose from {losses[best]:.3g} to {losses[last]:.3g} while the training loss fell from {then:.3g} to {now:.3g}"
    )
    name = f"eval_{e.metric}"
    if name in at and name in end:
        text += f", and {e.metric} went from {at[name]:.3g} to {end[name]:.3g}"
    step = e.outcome.state.get("best_global_step")
    loaded = bool(e.config.get("load_best_model_at_end"))
    kept = next((each for each in e.evaluations if each["step"] == step), None)
    if loaded and kept is not None:
        by = str(e.config.get("metric_for_best_model")).removeprefix("eval_")
        text += f". Kept was the best by {by}, of epoch {_epoch(kept)}"
        if kept is at:
            return f"{text}: nothing is lost but time. Try --num_train_epochs {math.ceil(at['epoch'])}"
        return f"{text}. Try --num_train_epochs {math.ceil(at['epoch'])}, or --metric_for_best_model loss"
    return (
        f"{text}. Kept was the last. Try --num_train_epochs {math.ceil(at['epoch'])}, or --load_best_model_at_end "
        "--eval_strategy epoch --save_strategy epoch, which keeps the best"
    )


def _epoch(evaluation: dict[str, Any]) -> str:
    return f"{evaluation['epoch']:.3g}"


def _rare_and_unlearned(e: Evidence) -> list[int]:
    """Classes that are rare in training, and of which no validation row is right."""
    answers, counts = e.answers, e.classes
    if answers is None or counts is None:
        return []
    rare = counts < RARE * counts.sum() / len(counts)
    return np.flatnonzero(rare & (answers.rows >= FEW) & (answers.right == 0)).tolist()


def _imbalance(e: Evidence) -> str | None:
    """What a majority hides."""
    answers, counts = e.answers, e.classes
    if answers is None or counts is None:
        return None
    missed = _rare_and_unlearned(e)
    share = counts.max() / counts.sum()
    text = f"{share:.0%} of the training rows are {answers.names[int(counts.argmax())]!r}"
    if missed:
        named = ", ".join(f"{answers.names[i]!r} ({counts[i]:.0f} training rows)" for i in missed[:3])
        more = f" and {len(missed) - 3} more classes" if len(missed) > 3 else ""
        rows = int(answers.rows[missed].sum())
        text += f", and of {named}{more} none of {rows} validation rows is right: recall 0"
    elif share >= MAJORITY and answers.accuracy <= answers.majority:
        text += (
            f", and an accuracy of {answers.accuracy:.3f} is no better than always saying so, {answers.majority:.3f}"
        )
    else:
        return None
    rarest = int(counts.argmin())
    if len(counts) == 2 and rarest == 0:
        judge = f"udge by the recall of {answers.names[0]!r}, since f1 is that of {answers.names[1]!r}"
    else:
        by_f1 = str(e.config.get("metric_for_best_model")).endswith("f1") or "eval_f1" not in e.outcome.results
        judge = f"udge by {'F1' if len(counts) == 2 else 'macro F1'}{'' if by_f1 else ' (--metric_for_best_model f1)'}"
    if e.config.get("trainer_compat"):
        return f"{text}. J{judge}, and find more rows of the rare classes"
    if e.config.get("class_weights"):
        return f"{text}, class weights or not. J{judge}, and find more rows of the rare classes"
    return f"{text}. Try --class_weights balanced, j{judge}, and find more rows of the rare classes"


def _truncation(e: Evidence) -> str | None:
    rows, cut = e.train.get("rows", 0), e.train.get("truncated", 0)
    if not rows or cut < MOST * rows:
        return None
    longest = e.data.get("longest_input")
    text = f"{cut} of {rows} training rows ({cut / rows:.0%}) are cut off at {longest} tokens: the rest is not read"
    if e.config.get("max_seq_length") is not None:
        return f"{text}. Try --max_seq_length {2 * e.config['max_seq_length']}, as far as the model allows"
    return f"{text}. Try a model with longer inputs (--model_name_or_path), or rows cut to what tells the label"


def _padding(e: Evidence) -> str | None:
    known = e.outcome.facts.get("padding", {})
    share, grouped = known.get("share"), known.get("length_grouped")
    if share is None or grouped is None or 1 - (1 - share) / (1 - grouped) < PADDING:
        return None
    if e.config.get("trainer_compat"):
        return None  # which refuses what would save it
    saved = 1 - (1 - share) / (1 - grouped)
    longest = "" if e.config.get("padding", "longest") == "longest" else " --padding longest"
    return (
        f"{share:.0%} of the computed tokens were padding; with rows of like lengths in a batch it would be "
        f"{grouped:.0%}, and {saved:.0%} less to compute. Try --batching length_grouped{longest}"
    )


def _clipping(e: Evidence) -> str | None:
    limit = e.config.get("max_grad_norm", 1.0)
    norms = [line.grad_norm for line in e.logged if line.grad_norm is not None]
    if not limit or len(norms) < CLIPPED_LINES or min(norms) <= limit or np.median(norms) < CLIPPED * limit:
        return None
    return (
        f"Clipped on every update: all {len(norms)} logged gradients were longer than --max_grad_norm {limit:g}, half "
        f"of them than {np.median(norms):.3g}, so that the limit decides how far an update goes, not the gradient. Try "
        f"--max_grad_norm {_round(float(np.median(norms)))}, or a lower --learning_rate{_warmup(e)}"
    )


def _more_log_lines(e: Evidence) -> str:
    """What would have told why a model did not learn, in a run of as many updates."""
    updates = int(e.outcome.state.get("global_step") or 0)
    every = min(updates // (2 * ENOUGH_LINES), 10)
    if every < 1:
        return f"{updates} update{'s' if updates != 1 else ''} are too few to say why: train longer"
    return f"Too little was logged to say why: --logging_steps {every} would"


def _validation_rows(e: Evidence) -> str | None:
    """So few rows that what is decided by them is decided by chance."""
    answers = e.answers
    if answers is None or (answers.predicted > 0).sum() < 2:  # the same answer to all has nothing of chance
        return None
    p = (answers.right.sum() + 2) / (answers.count + 4)  # Agresti's: a set where all are right has some noise too
    noise = 1.96 * math.sqrt(2 * p * (1 - p) / answers.count)
    if noise < NOISE:
        return None
    text = (
        f"Validation has {answers.count} rows: there the accuracy of two models that are equally good differs by up "
        f"to {100 * noise:.0f} points in 19 of 20 cases, less as far as they err on the same rows"
    )
    seen = [each["eval_accuracy"] for each in e.evaluations if "eval_accuracy" in each]
    if len(seen) > 1 and max(seen) > min(seen):
        apart = max(seen) - min(seen)
        which = "no more than chance" if apart < noise else "in good part chance"
        text += f"; this run's evaluations lie {100 * apart:.0f} apart, which may be {which}"
    return f"{text}. Try more validation rows, or --seeds 1,2,3,4,5 and judge by their mean"


def _more_epochs(e: Evidence) -> str | None:
    """Still improving when it ended: every evaluation better than the one before, the last clearly."""
    losses = [each["eval_loss"] for each in e.evaluations]
    unlearned, name = e.unlearned_loss, f"eval_{e.metric}"
    if len(losses) < 3 or unlearned is None or name not in e.evaluations[-1] or "mse" in name:
        return None
    before, last = (each.get(name, math.nan) for each in e.evaluations[-2:])
    falls = all(later < earlier for earlier, later in pairwise(losses))
    if not falls or losses[-1] > IMPROVING * losses[-2] or losses[-1] < 0.3 * unlearned or not last >= before + 0.01:
        return None
    longer = f"--num_train_epochs {2 * math.ceil(e.epochs)}"
    if e.config.get("max_steps", -1) > 0:
        longer = f"--max_steps {2 * e.config['max_steps']}"
    return (
        f"It ended while it was getting better: between the last two evaluations the validation loss fell from "
        f"{losses[-2]:.3g} to {losses[-1]:.3g}, and {e.metric} rose from {before:.3g} to {last:.3g}. Try {longer}"
    )


def _round(value: float) -> str:
    return f"{float(f'{value:.0e}'):g}"


LOOKED_AT: dict[str, Callable[[Evidence], str | None]] = {
    "training loss": _training_loss,
    "labels": _labels,
    "imbalance": _imbalance,
    "overfitting": _overfitting,
    "epochs": _more_epochs,
    "clipping": _clipping,
    "validation rows": _validation_rows,
    "truncation": _truncation,
    "padding": _padding,
}
