"""What to try next, from what a run has left: its losses, its evaluations, its predictions, its data.

A false alarm costs a user more than silence does. So there is advice only where the evidence is there, and every
threshold is where nobody would argue, not where it may begin; each stands beside the reason for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import FALLING
from ftloop.data.contradictions import are_many
from ftloop.report.outcome import FinishedRun, read_finished_run, read_predictions
from ftloop.system.text import pluralize

MIN_LOG_LINES = 4  # fewer do not show a course
LEARNED_NOTHING = 0.95  # of the loss of a model that ignores the texts: dropout and chance make up for the rest
UNSTABLE = 1.1  # times the loss of equal shares: worse than knowing nothing
MIN_REACH = 1e-3  # how far AdamW can have moved a weight; those of a pretrained transformer are about 0.04 in size
LOW_RATE, HIGH_RATE = 1e-5, 1e-4  # pretrained transformers are fine-tuned with 2e-5 to 5e-5 ...
LARGE = 10_000_000  # ... from so many parameters on; a smaller model may want ten times that, and so may what ...
WHOLE = 0.5  # ... trains less than this share of its parameters: an adapter, or a head on a frozen body
FAR_TOO_HIGH = 1e-3  # twenty times the highest of these rates; of a smaller model ten times that: no text need be wrong
OVERFITTED = 1.1  # times the best validation loss ...
OVERFITTED_BY = 0.05  # ... and so much above it: a loss of 0.01 that becomes 0.012 is no overfitting
MIN_ROWS = 20  # of the validation set, and so many that ...
MANY_ROWS = 100  # that two models are held against each other on
MIN_OTHERS = 5  # ... are of another class than the one predicted: fewer are missed by chance, but for these few, ...
FEW_ROWS, FEW_OTHERS = 10, 2  # ... where the validation loss, too, is that of a model that ignores the texts
TRUNCATED = 0.5  # of the rows
SAVED = 0.2  # of the computing, by less padding


@dataclass(frozen=True)
class Advice:
    topic: str
    text: str
    """The evidence with its numbers, then what to try, with a flag and a value."""


def advise(run: FinishedRun) -> list[Advice]:
    evidence = RunEvidence(run)
    return [Advice(topic, text) for topic, check in CHECKS.items() if (text := check(evidence))]


def advice_lines(folder: str | Path) -> Iterator[str]:
    """Yield the console's lines about a finished run. Best effort: never raises."""
    try:
        yield from (f"Advice    {advice.text}" for advice in advise(read_finished_run(folder)))
    except Exception as error:
        yield f"Advice    none: {folder} could not be read as expected ({type(error).__name__}: {error})"


# --- the evidence ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassCounts:
    """Rows of the validation set at the end of training, by label and by predicted class, and how many are right."""

    support: np.ndarray
    predicted: np.ndarray
    right: int

    @property
    def rows(self) -> int:
        return int(self.support.sum())

    @property
    def beats_the_majority(self) -> bool:
        share = float(self.support.max()) / self.rows
        return self.right / self.rows > share + 1.96 * math.sqrt(share * (1 - share) / self.rows)


@dataclass(frozen=True)
class RunEvidence:
    run: FinishedRun

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.run.facts.get("data", {}))

    @property
    def train(self) -> dict[str, Any]:
        return dict(self.data.get("sets", {}).get("train", {}))

    @cached_property
    def log(self) -> np.ndarray:
        """Lines x (update, mean loss of the updates since the line before, learning rate)."""
        lines = [line for line in self.run.history if math.isfinite(line.get("loss", math.nan))]
        return np.array([(line["step"], line["loss"], line.get("learning_rate") or 0) for line in lines]).reshape(-1, 3)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluations made during training, in order, with a finite loss."""
        finite = [line for line in self.run.history if math.isfinite(line.get("eval_loss", math.nan))]
        return [line for line in finite if line.get("step", 0) > 0]

    @cached_property
    def shares(self) -> np.ndarray | None:
        """The classes' shares of the training rows, by id; None where a row is not of exactly one class."""
        counts = self.train.get("labels") if self.data.get("problem_type") == ProblemType.SINGLE_LABEL else None
        if not counts or len(counts) < 2 or not any(counts.values()):
            return None
        return np.array([counts[name] for name in self.data["labels"]]) / sum(counts.values())

    @cached_property
    def unlearned_loss(self) -> float | None:
        """Loss of a model that knows how frequent the classes are, or the mean, and ignores the texts; None where the
        loss is another: with weighted classes or smoothed labels.
        """
        if self.data.get("problem_type") == ProblemType.REGRESSION:
            return float(self.train["labels"]["std"]) ** 2 if self.train.get("labels") else None
        if self.shares is None or self.run.config.get("class_weights") or self.run.config.get("label_smoothing_factor"):
            return None
        present = self.shares[self.shares > 0]
        return float(-(present * np.log(present)).sum()) or None

    @property
    def is_large(self) -> bool:
        return int(self.run.facts.get("model", {}).get("parameters", 0)) > LARGE

    @property
    def is_whole(self) -> bool:
        """Whether the model itself was trained, or nearly all of it, and no adapter."""
        model = self.run.facts.get("model", {})
        parameters = model.get("parameters", 0)
        return "adapter" not in model and model.get("trained_parameters", parameters) >= WHOLE * parameters

    @property
    def validates_as_unlearned(self) -> bool:
        """Whether the final model's loss on the validation set is no better than if it ignored the texts."""
        loss, unlearned = self.run.results.get("eval_loss"), self.unlearned_loss
        return loss is not None and unlearned is not None and not loss < LEARNED_NOTHING * unlearned

    @cached_property
    def validation(self) -> ClassCounts | None:
        sets = [name for name in self.run.predictions if name.startswith("validation")]
        if not sets or self.shares is None:
            return None
        table = read_predictions(self.run.predictions[min(sets)], ["label", "prediction"])
        cells = table.group_by(table.column_names).aggregate([([], "count_all")]).to_pylist()
        ids = {name: i for i, name in enumerate(self.data["labels"])}
        support, predicted = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        for cell in cells:
            support[ids[cell["label"]]] += cell["count_all"]
            predicted[ids[cell["prediction"]]] += cell["count_all"]
        right = sum(cell["count_all"] for cell in cells if cell["label"] == cell["prediction"])
        return ClassCounts(support, predicted, right) if cells else None

    def training_loss(self, after: int, until: int) -> float | None:
        """Return the mean loss of the updates between two, of each log line as much as lies there; where little does,
        the loss of the line before.
        """
        steps, losses, _ = self.log.T
        overlaps = np.clip(np.minimum(steps, until) - np.maximum(np.append(0, steps)[:-1], after), 0, None)
        if overlaps.sum() < (until - after) / 2:
            return next((float(loss) for loss in losses[steps <= until][::-1]), None)
        return float(np.average(losses, weights=overlaps))


# --- the checks ------------------------------------------------------------------------------------------------------


def _not_learning(e: RunEvidence) -> str | None:
    """The training loss did not fall."""
    constant, unlearned = _constant_prediction(e), e.unlearned_loss
    if len(e.log) < MIN_LOG_LINES:
        return constant and f"{constant}. {_far_too_high(e) or _more_log_lines(e.run)}"
    if unlearned is None:
        return constant and ". ".join(filter(None, (constant, _far_too_high(e))))
    losses, quarter = e.log[:, 1], max(len(e.log) // 4, 1)
    first, last = losses[:quarter].mean(), losses[-quarter:].mean()
    if last < LEARNED_NOTHING * unlearned or (e.validation is not None and e.validation.beats_the_majority):
        return None
    evidence = (
        f"The training loss did not fall clearly below {unlearned:.3g}, that of a model that ignores the texts: "
        f"{first:.3g} at first, {last:.3g} at the end. {f'{constant}. ' if constant else ''}"
    )
    return evidence + _why_not_learning(e, unlearned, first, last, constant is not None)


def _why_not_learning(e: RunEvidence, unlearned: float, first: float, last: float, is_constant: bool) -> str:
    """Name the cause that the evidence speaks for."""
    rates = e.log[:, 2]
    peak = float(e.run.config.get("learning_rate") or rates.max())
    updates, columns = int(e.log[-1, 0]), " + ".join(e.data.get("text_columns", []))
    warmup = "" if e.run.config.get("warmup_ratio") or e.run.config.get("warmup_steps") else " and --warmup_ratio 0.1"
    lower = f"Try --learning_rate {min(peak / 10, 2e-5):.1g}{warmup}"
    rose = last > 1.1 * first and last > UNSTABLE * unlearned
    # Of numbers far from 0 a loss as high as that is only where it began.
    if e.shares is not None:
        rose = rose or last > UNSTABLE * math.log(len(e.shares))
    if rose:
        return f"It ended worse than unlearned: the learning rate, {peak:g}, is too high. {lower}"
    if far_too_high := _far_too_high(e):
        return far_too_high
    reach = updates * float(rates.mean())
    if reach < MIN_REACH:
        moved = f"{updates} updates at up to {peak:g} can have moved a weight by {reach:.1g} at most"
        if peak < LOW_RATE:
            return f"{moved}: the learning rate is too low. Try --learning_rate 5e-5"
        epochs = min(math.ceil(3 * MIN_REACH / reach * max(float(e.run.state.get("epoch") or 0), 1)), 20)
        flag = (
            f"--max_steps {10 * updates}" if e.run.config.get("max_steps", -1) > 0 else f"--num_train_epochs {epochs}"
        )
        return f"{moved}: too few updates. Try {flag}, or more rows"
    if is_constant and peak > HIGH_RATE and e.is_whole and e.is_large:
        return f"A learning rate too high for a pretrained model ends so, and {peak:g} is high. {lower}"
    usual = HIGH_RATE if e.is_whole and e.is_large else 10 * HIGH_RATE
    others = f"{peak * 2:.1g} and {peak / 3:.1g}" if peak * 2 <= usual else f"{peak / 3:.1g}"
    return (
        f"{updates} updates at up to {peak:g} are enough to move every weight, but nothing was found in {columns} that "
        f"{e.data.get('label_column')} depends on: check whether the labels belong to these texts "
        f"(--text_column_names, --label_column_name); if they do, try --learning_rate {others}"
    )


def _far_too_high(e: RunEvidence) -> str | None:
    """The learning rate alone explains it, and no log has to."""
    peak = float(e.run.config.get("learning_rate") or 0)
    if not e.is_whole or peak <= FAR_TOO_HIGH * (1 if e.is_large else 10):
        return None
    return (
        f"The learning rate, {peak:g}, is far above those with which a whole pretrained transformer is fine-tuned. Try "
        "--learning_rate 2e-5, and no more than 5e-5"
    )


def _constant_prediction(e: RunEvidence) -> str | None:
    """The predictions are all of one class, and the labels are not."""
    counts = e.validation
    if counts is None or (counts.predicted > 0).sum() != 1:
        return None
    only = int(counts.predicted.argmax())
    rows, others = (FEW_ROWS, FEW_OTHERS) if e.validates_as_unlearned else (MIN_ROWS, MIN_OTHERS)
    if counts.rows < rows or counts.rows - counts.support[only] < others:
        return None
    name, share = e.data["labels"][only], counts.support[only] / counts.rows
    return f"All {counts.rows} predictions on validation are {name!r}, as are {share:.0%} of its labels"


def _more_log_lines(run: FinishedRun) -> str:
    """Say what would have shown, in a run of as many updates, why the model did not learn."""
    updates = int(run.state.get("global_step") or 0)
    every = min(updates // (2 * MIN_LOG_LINES), 10)
    if every < 1:
        return f"{pluralize(updates, 'update is', 'updates are')} too few to say why: train longer"
    return f"Too little was logged to say why: --logging_steps {every} would"


def _contradictory_labels(e: RunEvidence) -> str | None:
    counts = e.data.get("contradictions") or {}
    rows, total = counts.get("rows", 0), counts.get("of", 0)
    if not are_many(rows, total):
        return None
    single_label = e.data.get("problem_type") == ProblemType.SINGLE_LABEL
    smoothing = "; or try --label_smoothing_factor 0.1" if single_label else ""
    return (
        f"{rows} of {total} training rows ({rows / total:.0%}) have texts that also occur with another label: no model "
        f"can get all of these right. Look at them, and decide on one label or drop them{smoothing}"
    )


def _overfitting(e: RunEvidence) -> str | None:
    """The validation loss rises while the training loss falls."""
    losses = [each["eval_loss"] for each in e.evaluations]
    best, last = (int(np.argmin(losses)), len(losses) - 1) if losses else (0, 0)
    if best == last or losses[last] < max(OVERFITTED * losses[best], losses[best] + OVERFITTED_BY):
        return None
    at, end = e.evaluations[best], e.evaluations[last]
    then = e.training_loss(e.evaluations[best - 1]["step"] if best else 0, at["step"])
    now = e.training_loss(e.evaluations[last - 1]["step"], end["step"])
    if then is None or now is None or now > 0.9 * then:
        return None
    text = (
        f"Overfitting from epoch {e.evaluations[best + 1]['epoch']:.3g} on: since epoch {at['epoch']:.3g} the "
        f"validation loss rose from {losses[best]:.3g} to {losses[last]:.3g} while the training loss fell from "
        f"{then:.3g} to {now:.3g}"
    )
    chosen = str(e.run.config.get("metric_for_best_model") or "loss").removeprefix("eval_")
    judged_by = [chosen] if chosen != "loss" else ["f1", "accuracy", "pearson"]
    metric = next((name for name in judged_by if f"eval_{name}" in at and f"eval_{name}" in end), None)
    if metric is not None:
        text += f", and {metric} went from {at[f'eval_{metric}']:.3g} to {end[f'eval_{metric}']:.3g}"
    shorter = f"Try --num_train_epochs {math.ceil(at['epoch'])}"
    kept = next((each for each in e.evaluations if each["step"] == e.run.state.get("best_global_step")), None)
    if kept is None or not e.run.config.get("load_best_model_at_end"):
        flags = "--load_best_model_at_end --eval_strategy epoch --save_strategy epoch"
        return f"{text}. The last model was kept. {shorter}, or {flags}, which keeps the best"
    text += f". The best model by {chosen}, of epoch {kept['epoch']:.3g}, was kept"
    if kept is at:
        return f"{text}: nothing is lost but time. {shorter}"
    return f"{text}. {shorter}, or --metric_for_best_model loss"


def _truncation(e: RunEvidence) -> str | None:
    rows, cut, longest = e.train.get("rows", 0), e.train.get("truncated") or 0, e.run.config.get("max_seq_length")
    if not rows or cut < TRUNCATED * rows:
        return None
    remedy = "a model with longer inputs (--model_name_or_path), or rows cut to what tells the label"
    if longest is not None:
        remedy = f"--max_seq_length {2 * longest}, as far as the model allows"
    return (
        f"{cut} of {rows} training rows ({cut / rows:.0%}) are cut off at {e.data.get('longest_input')} tokens: the "
        f"rest is not read. Try {remedy}"
    )


def _padding(e: RunEvidence) -> str | None:
    known = e.run.facts.get("padding", {})
    share, grouped = known.get("share"), known.get("length_grouped")
    if share is None or e.run.config.get("trainer_compat"):  # which refuses what would save it
        return None
    if known.get("can_be_left_out") and share >= SAVED:
        return f"{share:.0%} of the computed tokens were padding. Try --padding none: the same rows, and no padding"
    if grouped is None:
        return None
    saved = 1 - (1 - share) / (1 - grouped)
    if saved < SAVED:
        return None
    longest = "" if e.run.config.get("padding", "longest") == "longest" else " --padding longest"
    return (
        f"{share:.0%} of the computed tokens were padding; grouping rows by length would cut padding to {grouped:.0%} "
        f"and computing by {saved:.0%}. Try --batching length_grouped{longest}"
    )


def _words_alone(e: RunEvidence) -> str | None:
    """Whether a model of words, trained in seconds, does as well on the set that decides: the test set, where it has
    labels, and of so many rows that it is hardly by chance, or where the words alone are always right."""
    sets = (e.run.facts.get("words") or {}).get("sets", {})
    name = next((each for each in ("test", "validation") if each in sets), None)
    rows, prefix = (0, "") if name is None else (e.data["sets"][name]["rows"], "test" if name == "test" else "eval")
    if name is None or rows < MIN_ROWS:
        return None
    wanted = str(e.run.config.get("metric_for_best_model") or "").removeprefix("eval_")
    metric = wanted if wanted in sets[name] else next(iter(sets[name]))
    words, model = sets[name][metric], e.run.results.get(f"{prefix}_{metric}")
    if words is None or model is None or not math.isfinite(model):
        return None
    if (model < words) if metric.endswith(FALLING) else (model > words):
        return None
    has = ", the same as this model" if model == words else f", and this model {model:.4g}"
    is_perfect = words == (0.0 if metric.endswith(FALLING) else 1.0)
    if rows < MANY_ROWS and not is_perfect:
        return None
    told = f"Words alone (TF-IDF with a linear model, seconds on a CPU) reach {metric} {words:.4g} on {name}{has}"
    ways = "Try more epochs (--num_train_epochs), another model, or the simple one"
    return f"{told}. {'Take the simple one' if is_perfect else ways}"


CHECKS: dict[str, Callable[[RunEvidence], str | None]] = {
    "training loss": _not_learning,
    "labels": _contradictory_labels,
    "overfitting": _overfitting,
    "truncation": _truncation,
    "padding": _padding,
    "words": _words_alone,
}
