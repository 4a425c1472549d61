"""What to try next, from what a run has left: its losses, its evaluations, its predictions, its data.

A false alarm costs a user more than silence does. So there is advice only where the evidence is there, beyond the noise
of the losses and of a small validation set, and every threshold, here and in `ftloop/report/course.py`, is where nobody
would argue, not where it may begin; each stands beside the reason for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import FALLING
from ftloop.data.contradictions import are_many
from ftloop.report.course import COURSE, MANY_ROWS, MIN_ROWS, constant_prediction, longer_run
from ftloop.report.evidence import SURE, RunEvidence
from ftloop.report.outcome import FinishedRun, read_finished_run

CALIBRATED = 50, 10  # rows, and rows of a class, from which `ftloop calibrate` fits a threshold
FREQUENT = 0.75  # share of the training rows from which a class crowds out the others
TRUNCATED = 0.5  # of the rows
SAVED = 0.2  # of the computing, by less padding


@dataclass(frozen=True)
class Advice:
    topic: str
    text: str
    """The evidence with its numbers, then what to try, with a flag and a value."""


def advise(run: FinishedRun) -> list[Advice]:
    evidence = RunEvidence(run)
    course = [Advice(topic, text) for topic, check in COURSE.items() if (text := check(evidence))]
    return course[:1] + [Advice(topic, text) for topic, check in CHECKS.items() if (text := check(evidence))]


def advice_lines(folder: str | Path) -> Iterator[str]:
    """Yield the console's lines about a finished run. Best effort: never raises."""
    try:
        yield from (f"Advice    {advice.text}" for advice in advise(read_finished_run(folder)))
    except Exception as error:
        yield f"Advice    none: {folder} could not be read as expected ({type(error).__name__}: {error})"


def _one_class(e: RunEvidence) -> str | None:
    """All predictions are of one class, but not for want of anything learned."""
    constant, found = constant_prediction(e), e.validation
    if constant is None or found is None or not found.shows_learning:
        return None
    told = f"{constant}, though its probabilities tell the classes apart better than chance"
    if e.ignoring is None or found.predicted @ e.ignoring < FREQUENT * found.rows:
        return f"{told}: it has only begun to learn. Try {longer_run(e, 2)}"
    ways = [longer_run(e, 2)]
    if not e.run.config.get("class_weights") and not e.run.config.get("trainer_compat"):
        ways.insert(0, "--class_weights balanced")
    if len(found.support) == 2 and found.rows >= CALIBRATED[0] and found.support.min() >= CALIBRATED[1]:
        ways.insert(0, "ftloop calibrate, which fits the threshold")
    return f"{told}: few rows are of the others. Try {', '.join(ways[:-1])}{' or ' if len(ways) > 1 else ''}{ways[-1]}"


def _no_labelled_set(e: RunEvidence) -> str | None:
    """Nothing but the training loss was measured."""
    sets = e.data.get("sets", {})
    if not sets or any(each.get("labels") is not None for name, each in sets.items() if name != "train"):
        return None
    if any(name.startswith(("eval_", "test_")) for line in e.run.history for name in line):
        return None
    return (
        "How good the model is remains unknown: no validation or test set has labels, and the training loss does not "
        "show it. Try --validation_split 0.1, or --validation_file"
    )


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


def _truncation(e: RunEvidence) -> str | None:
    rows, cut, longest = e.train.get("rows", 0), e.train.get("truncated") or 0, e.data.get("longest_input")
    if not rows or cut < TRUNCATED * rows:
        return None
    limit, is_set = e.data.get("input_limit"), e.run.config.get("max_seq_length") is not None
    remedy = "a model with longer inputs (--model_name_or_path), or rows cut to what tells the label"
    if longest is not None and is_set and (limit is None or longest < limit):
        more = 2 * longest if limit is None else min(2 * longest, limit)
        remedy = f"--max_seq_length {more}{', as far as the model allows' if limit is None else ''}"
    return (
        f"{cut} of {rows} training rows ({cut / rows:.0%}) are cut off at {longest} tokens: the rest is not read. "
        f"Try {remedy}"
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
    if model != words and not is_perfect and _may_be_chance(words - model, e.metric_error(name, metric)):
        told += f" ({rows} rows, of which this may be chance)"
    ways = "Try more epochs (--num_train_epochs), another model, or the simple one"
    return f"{told}. {'Take the simple one' if is_perfect else ways}"


def _may_be_chance(difference: float, error: float | None) -> bool:
    """Whether two scores are so near each other, as if these were of two sets: of one they are nearer."""
    return error is not None and abs(difference) < SURE * math.sqrt(2) * error


CHECKS: dict[str, Callable[[RunEvidence], str | None]] = {
    "one class": _one_class,
    "labels": _contradictory_labels,
    "truncation": _truncation,
    "padding": _padding,
    "words": _words_alone,
    "no labelled set": _no_labelled_set,
}
