"""What the course of a run's losses says: that it did not learn, or not yet, learned too much by heart, or could go on.

Each check returns a line, the evidence with its numbers and then what to try, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ftloop.config.problem_type import ProblemType
from ftloop.report.evidence import SURE, Estimate, RunEvidence
from ftloop.report.outcome import FinishedRun
from ftloop.system.text import pluralize

MIN_LOG_LINES = 4  # fewer do not show a course
LEARNED_NOTHING = 0.95  # of the loss of a model that ignores the texts: dropout and chance make up for the rest
LEARNED = 0.8  # of it: the training rows were learned, whatever the validation set says
UNSTABLE = 1.1  # times the loss of equal shares: worse than knowing nothing
NOISY = 0.2  # of that loss: where the error is larger, the course shows nothing
MIN_REACH = 1e-3  # how far AdamW can have moved a weight; those of a pretrained transformer are about 0.04 in size
MIN_UPDATES = 200  # some tasks stay for a hundred where they began, and then are learned after all
LOW_RATE, HIGH_RATE = 1e-5, 1e-4  # pretrained transformers are fine-tuned with 2e-5 to 5e-5 ...
LARGE = 10_000_000  # ... from so many parameters on; a smaller model may want ten times that, and so may what ...
WHOLE = 0.5  # ... trains less than this share of its parameters: an adapter, or a head on a frozen body
FAR_TOO_HIGH = 1e-3  # twenty times the highest of these rates; of a smaller model ten times that: no text need be wrong
OVERFITTED = 1.1  # times the best validation loss ...
OVERFITTED_BY = 0.05  # ... and so much above it: a loss of 0.01 that becomes 0.012 is no overfitting
FELL = 0.95  # times the training loss before: what an epoch must at least have brought to promise more
MIN_ROWS = 20  # of the validation set, and so many that ...
MANY_ROWS = 100  # that two models are held against each other on
MIN_OTHERS = 5  # ... are of another class than the one predicted: fewer are missed by chance, but for these few, ...
FEW_ROWS, FEW_OTHERS = 10, 2  # ... where the validation loss, too, is that of a model that ignores the texts
MOST_EPOCHS = 20  # that are proposed to a run of fewer than half as many


def _not_learning(e: RunEvidence) -> str | None:
    """The training loss did not come below that of a model that ignores the texts, or not yet."""
    constant, unlearned = constant_prediction(e), e.unlearned_loss
    of_constant = None if constant is None or e.shows_learning else constant
    if len(e.log) < MIN_LOG_LINES:
        return of_constant and f"{of_constant}. {_far_too_high(e) or _more_log_lines(e.run)}"
    if unlearned is None:
        return of_constant and ". ".join(filter(None, (of_constant, _far_too_high(e) or _few_updates(e))))
    quarter = max(len(e.log) // 4, 1)
    first, last = e.loss_of(slice(quarter)), e.loss_of(slice(-quarter, None))
    is_above = last.mean - SURE * last.error > UNSTABLE * unlearned
    beside = f"{f'{of_constant}. ' if of_constant else ''}"
    has_fallen = first.mean - last.mean > SURE * math.hypot(first.error, last.error)
    if is_above and (e.still_falls or has_fallen) and not _far_too_high(e):
        left = (last.mean - unlearned) / max(first.mean - last.mean, 1e-9)
        # A rate that decays to 0 flattens any course at its end.
        course = "still falls" if e.still_falls else "has fallen, but not far enough"
        return (
            f"Not finished: the training loss {course}, {first.mean:.3g} at first and {last.mean:.3g} at the end. It "
            f"is above {unlearned:.3g}, that of {_ignorant(e)}. {beside}Try {longer_run(e, min(max(1 + left, 2), 5))}"
        )
    if e.shows_learning or last.mean < LEARNED_NOTHING * unlearned:
        return None
    if not is_above and SURE * last.error > NOISY * unlearned:
        return of_constant and ". ".join(filter(None, (of_constant, _far_too_high(e) or _few_updates(e))))
    if e.still_falls:
        return (
            f"Not finished: the training loss still falls, {first.mean:.3g} at first and {last.mean:.3g} at the end, "
            f"and is not yet clearly below {unlearned:.3g}, that of {_ignorant(e)}. {beside}Try {longer_run(e, 3)}"
        )
    return (
        f"The training loss did not fall clearly below {unlearned:.3g}, that of {_ignorant(e)}: {first.mean:.3g} at "
        f"first, {last.mean:.3g} at the end. {beside}{_why_not_learning(e, first, last, unlearned, is_above)}"
    )


def _ignorant(e: RunEvidence) -> str:
    """Name what the losses are held against."""
    is_number = e.data.get("problem_type") == ProblemType.REGRESSION
    return "always answering the mean" if is_number else "a model that ignores the texts"


def longer_run(e: RunEvidence, factor: float) -> str:
    """Return the flag for a longer run of this kind."""
    if e.run.config.get("max_steps", -1) > 0:
        return f"--max_steps {math.ceil(factor * e.updates)}"
    epochs = max(e.epochs, 1.0)
    return f"--num_train_epochs {min(math.ceil(factor * epochs), max(MOST_EPOCHS, math.ceil(2 * epochs)))}"


def _is_whole_and_large(e: RunEvidence) -> bool:
    return e.trains_at_least(WHOLE) and e.is_larger_than(LARGE)


def _of_size(e: RunEvidence, rate: float) -> float:
    """Return a learning rate that is meant for a whole large model, or ten times that for what is not."""
    return rate if _is_whole_and_large(e) else 10 * rate


def _why_not_learning(e: RunEvidence, first: Estimate, last: Estimate, unlearned: float, is_above: bool) -> str:
    """Name the cause that the evidence speaks for."""
    peak, updates = e.peak, e.updates
    warmup = "" if e.run.config.get("warmup_ratio") or e.run.config.get("warmup_steps") else " and --warmup_ratio 0.1"
    lower = f"Try --learning_rate {min(peak / 10, _of_size(e, 2e-5)):.1g}{warmup}"
    has_risen = last.mean - first.mean > SURE * math.hypot(first.error, last.error)
    if has_risen and last.mean > UNSTABLE * max(first.mean, unlearned):
        return f"It rose: the learning rate, {peak:g}, is probably too high. {lower}"
    if is_above and peak > _of_size(e, HIGH_RATE):
        return f"It stayed above: the learning rate, {peak:g}, is probably too high. {lower}"
    if far_too_high := _far_too_high(e):
        return far_too_high
    reach = updates * float(e.log[:, 2].mean())
    if reach < MIN_REACH:
        moved = f"{updates} updates at up to {peak:g} can have moved a weight by about {reach:.1g}"
        if peak < LOW_RATE:
            return f"{moved}: the learning rate is too low. Try --learning_rate 5e-5"
        return f"{moved}: too few updates. Try {longer_run(e, 3 * MIN_REACH / reach)}, or more rows"
    if constant_prediction(e) and peak > HIGH_RATE and _is_whole_and_large(e):
        return f"A learning rate too high for a pretrained model often ends so, and {peak:g} is high. {lower}"
    words = "Words alone predict the label better than that, so the texts tell it. " if e.words_tell else ""
    if few_updates := _few_updates(e):
        return f"{words}{few_updates}"
    usual = _of_size(e, HIGH_RATE)
    others = f"{peak * 2:.1g} and {peak / 3:.1g}" if peak * 2 <= usual else f"{peak / 3:.1g}"
    if words:
        return f"{words}Try --learning_rate {others}, or {longer_run(e, 3)}"
    nor, columns = ", nor by words alone" if e.words_tell is False else "", " + ".join(e.data.get("text_columns", []))
    return (
        f"{updates} updates at up to {peak:g} are enough to move every weight, but nothing was found in {columns} that "
        f"{e.data.get('label_column')} depends on{nor}: {_columns()}; if they do, try --learning_rate {others}"
    )


def _few_updates(e: RunEvidence) -> str | None:
    if not 0 < e.updates < MIN_UPDATES:
        return None
    longer = longer_run(e, min(max(MIN_UPDATES / e.updates, 2), 10))
    return f"{pluralize(e.updates, 'update')} may be too few. Try {longer}"


def _columns() -> str:
    return "check whether the labels belong to these texts (--text_column_names, --label_column_name)"


def _far_too_high(e: RunEvidence) -> str | None:
    """The learning rate alone explains it, and no log has to."""
    peak, most = float(e.run.config.get("learning_rate") or 0), FAR_TOO_HIGH * (1 if e.is_larger_than(LARGE) else 10)
    if not e.trains_at_least(WHOLE) or peak <= most:
        return None
    return (
        f"The learning rate, {peak:g}, is far above those with which a whole pretrained transformer is fine-tuned. Try "
        "--learning_rate 2e-5, and no more than 5e-5"
    )


def constant_prediction(e: RunEvidence) -> str | None:
    """The predictions are all of one class, and the labels are not."""
    found = e.validation
    if found is None or not found.is_single_label or (found.predicted > 0).sum() != 1:
        return None
    only = int(found.predicted.argmax())
    knows_nothing = found.loss.mean >= LEARNED_NOTHING * found.ignoring_loss
    rows, others = (FEW_ROWS, FEW_OTHERS) if knows_nothing else (MIN_ROWS, MIN_OTHERS)
    if found.rows < rows or found.rows - found.support[only] < others:
        return None
    name, share = e.data["labels"][only], found.support[only] / found.rows
    return f"All {found.rows} predictions on validation are {name!r}, as are {share:.0%} of its labels"


def _more_log_lines(run: FinishedRun) -> str:
    """Say what would have shown, in a run of as many updates, why the model did not learn."""
    updates = int(run.state.get("global_step") or 0)
    every = min(updates // (2 * MIN_LOG_LINES), 10)
    if every < 1:
        return f"{pluralize(updates, 'update is', 'updates are')} too few to say why: train longer"
    return f"Too little was logged to say why: --logging_steps {every} would"


def _overfitting(e: RunEvidence) -> str | None:
    """The validation loss rises, by more than chance, while the training loss falls."""
    losses, error = [each["eval_loss"] for each in e.evaluations], e.validation_error
    best, last = (losses.index(min(losses)), len(losses) - 1) if losses else (0, 0)
    if best == last or error is None:
        return None
    if losses[last] - losses[best] < max((OVERFITTED - 1) * losses[best], OVERFITTED_BY, SURE * error):
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
    metric = _judged_by(e, at, end)
    if metric is not None:
        text += f", and {metric} went from {at[f'eval_{metric}']:.3g} to {end[f'eval_{metric}']:.3g}"
        if end[f"eval_{metric}"] >= at[f"eval_{metric}"] and e.data.get("problem_type") != ProblemType.REGRESSION:
            text += ": the predictions are no worse, but more certain than they should be"
    chosen = str(e.run.config.get("metric_for_best_model") or "loss").removeprefix("eval_")
    shorter = _until(e, at)
    kept = next((each for each in e.evaluations if each["step"] == e.run.state.get("best_global_step")), None)
    if kept is None or not e.run.config.get("load_best_model_at_end"):
        flags = "--load_best_model_at_end --eval_strategy epoch --save_strategy epoch"
        ways = f"{shorter}, or {flags}" if shorter else flags
        return f"{text}. The last model was kept. Try {ways}, which keeps the best"
    text += f". The best model by {chosen}, of epoch {kept['epoch']:.3g}, was kept"
    if kept is at or chosen == "loss":
        return f"{text}: nothing is lost but time{f'. Try {shorter}' if shorter else ''}"
    return f"{text}. Try {f'{shorter}, or ' if shorter else ''}--metric_for_best_model loss"


def _judged_by(e: RunEvidence, at: dict[str, float], end: dict[str, float]) -> str | None:
    """Return the metric that the run chose, or a usual one, where both evaluations have it."""
    chosen = str(e.run.config.get("metric_for_best_model") or "loss").removeprefix("eval_")
    judged_by = [chosen] if chosen != "loss" else ["f1", "accuracy", "pearson"]
    return next((name for name in judged_by if f"eval_{name}" in at and f"eval_{name}" in end), None)


def _until(e: RunEvidence, at: dict[str, float]) -> str:
    """Return the flag for a run that ends there; empty where that is no shorter."""
    if e.run.config.get("max_steps", -1) > 0:
        return f"--max_steps {at['step']:.0f}" if at["step"] < e.updates else ""
    return f"--num_train_epochs {math.ceil(at['epoch'])}" if math.ceil(at["epoch"]) < e.epochs else ""


def _not_finished(e: RunEvidence) -> str | None:
    """Both losses still fall at the end, and the validation loss by more than chance."""
    losses, error = [each["eval_loss"] for each in e.evaluations], e.validation_error
    if len(losses) < 2 or error is None or losses[-1] > min(losses) or e.updates < (e.run.state.get("max_steps") or 0):
        return None
    if losses[-2] - losses[-1] < max(SURE * error, (1 - FELL) * losses[-2]):
        return None
    (at, end), since = e.evaluations[-2:], e.evaluations[-3]["step"] if len(losses) > 2 else 0
    then, now = e.training_loss(since, at["step"]), e.training_loss(at["step"], end["step"])
    if then is None or now is None or now > FELL * then:
        return None
    if e.validation is not None and e.validation.is_perfect:
        return None
    metric = _judged_by(e, at, end)
    went = "" if metric is None else f"; {metric} went from {at[f'eval_{metric}']:.3g} to {end[f'eval_{metric}']:.3g}"
    return (
        f"Not finished: from epoch {at['epoch']:.3g} to {end['epoch']:.3g} the training loss still fell, from "
        f"{then:.3g} to {now:.3g}, and so did the validation loss, from {losses[-2]:.3g} to {losses[-1]:.3g}{went}. "
        f"Try {longer_run(e, 2)}"
    )


def _above_constant(e: RunEvidence) -> str | None:
    """The validation loss is above that of a model that ignores the texts, by more than chance."""
    found = e.validation
    if found is None or found.rows < MIN_ROWS or not e.is_usual_loss or e.unlearned_loss is None:
        return None
    if found.gain.mean > -max(SURE * found.gain.error, (UNSTABLE - 1) * found.ignoring_loss):
        return None
    text = (
        f"The validation loss, {found.loss.mean:.3g}, is above {found.ignoring_loss:.3g}, that of {_ignorant(e)} "
        f"({found.rows} rows)"
    )
    quarter = max(len(e.log) // 4, 1)
    last = e.loss_of(slice(-quarter, None)) if len(e.log) else None
    if last is None or last.mean > UNSTABLE * e.unlearned_loss:
        longer = f"Try {longer_run(e, 3)}; --logging_steps 10 shows whether the training loss falls"
        return f"{text}. {_far_too_high(e) or longer}"
    if last.mean > LEARNED * e.unlearned_loss:
        return None
    text += f", while the training loss fell to {last.mean:.3g}"
    if found.shows_learning:
        text += ": it is overfitted, more certain than it is right. Try fewer epochs (--num_train_epochs), with "
        return f"{text}--eval_strategy epoch, which shows how many"
    text += ": it seems to have learned its training rows by heart"
    if found.rows < MANY_ROWS or e.words_tell:
        return f"{text}. Try more rows, or fewer epochs (--num_train_epochs)"
    return f"{text}, and nothing that holds for others. Try more rows, or {_columns()}"


COURSE: dict[str, Callable[[RunEvidence], str | None]] = {
    "training loss": _not_learning,
    "overfitting": _overfitting,
    "not finished": _not_finished,
    "validation loss": _above_constant,
}
"""What the losses say: the first that speaks is heard."""
