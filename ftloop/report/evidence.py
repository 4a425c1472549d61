"""What a finished run's files show: the course of its losses with their noise, and whether the validation set shows
that anything was learned. The advice rests on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ftloop.config.problem_type import ProblemType
from ftloop.report.outcome import REQUIRED, FinishedRun, read_predictions

if TYPE_CHECKING:
    from ftloop.report.predictions import Predictions

MIN_WINDOW = 4  # log lines that show whether a loss still falls
SURE = 2.0  # standard errors
NORMAL_95 = 1.96  # standard errors on each side of a mean that a 95 % interval reaches
ROW_SPREAD = 0.3  # of the loss of a model that ignores the texts: how far the losses of single rows lie apart at least
CHANCE = 0.01  # at which a ranking of the rows is taken for more than chance, divided by the number of rankings
OTHER_LOSS = 0.05  # by which the evaluated loss may differ from the cross-entropy or squared error of the predictions


class Estimate(NamedTuple):
    mean: float
    error: float
    """Standard error of the mean."""


@dataclass(frozen=True)
class Validation:
    """The final model's predictions of the validation set beside a model that ignores the texts."""

    predictions: Predictions
    ignoring: np.ndarray
    """What a model that ignores the texts says of each class or label, its share; or the mean of the numbers."""

    @property
    def rows(self) -> int:
        return len(self.predictions.labels)

    @property
    def is_single_label(self) -> bool:
        return self.predictions.problem_type == ProblemType.SINGLE_LABEL

    @cached_property
    def support(self) -> np.ndarray:
        return np.bincount(self.predictions.labels, minlength=len(self.predictions.names))

    @cached_property
    def predicted(self) -> np.ndarray:
        return np.bincount(self.predictions.predicted, minlength=len(self.predictions.names))

    @cached_property
    def losses(self) -> np.ndarray:
        return self.predictions.row_losses()

    @property
    def loss(self) -> Estimate:
        return _mean_of(self.losses)

    @cached_property
    def gain(self) -> Estimate:
        """How much lower the loss is than that of a model that ignores the texts, row by row."""
        labels, kind = self.predictions.labels, self.predictions.problem_type
        if kind == ProblemType.REGRESSION:
            ignoring = (labels - self.ignoring) ** 2
        elif kind == ProblemType.MULTI_LABEL:
            ignoring = -np.log(np.where(labels, self.ignoring, 1 - self.ignoring)).mean(axis=1)
        else:
            ignoring = -np.log(self.ignoring)[labels]
        return _mean_of(ignoring - self.losses)

    @property
    def ignoring_loss(self) -> float:
        """The loss of a model that ignores the texts, on these rows."""
        return self.gain.mean + self.loss.mean

    @property
    def is_perfect(self) -> bool:
        return bool(np.array_equal(self.predictions.predicted, self.predictions.labels))

    @property
    def beats_the_majority(self) -> bool:
        if not self.is_single_label:
            return False
        share = float(self.support.max()) / self.rows
        right = float((self.predictions.predicted == self.predictions.labels).mean())
        return right > share + SURE * math.sqrt(share * (1 - share) / self.rows)

    @cached_property
    def ranks_beyond_chance(self) -> bool:
        """Whether rows of a class, or with a higher number, are given a higher score than the others."""
        from scipy.stats import mannwhitneyu, spearmanr  # only where there is a set to look at

        if self.predictions.problem_type == ProblemType.REGRESSION:
            labels, predicted = self.predictions.labels, self.predictions.logits[:, 0]
            if self.rows < 3 or not np.ptp(labels) or not np.ptp(predicted):
                return False
            return bool(spearmanr(labels, predicted, alternative="greater").pvalue < CHANCE)
        tests = [
            float(mannwhitneyu(score[positive], score[~positive], alternative="greater").pvalue)
            for positive, score in self.predictions.one_vs_rest().values()
            if 0 < positive.sum() < len(positive)
        ]
        return bool(tests) and min(tests) < CHANCE / len(tests)

    @cached_property
    def shows_learning(self) -> bool:
        """Whether the model does better than one that ignores the texts, in any way, beyond chance."""
        return self.gain.mean > SURE * self.gain.error or self.beats_the_majority or self.ranks_beyond_chance


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

    @property
    def updates(self) -> int:
        return int(self.run.state.get("global_step") or (self.log[-1, 0] if len(self.log) else 0))

    @property
    def epochs(self) -> float:
        return float(self.run.state.get("epoch") or 0)

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return float(self.run.config.get("learning_rate") or (self.log[:, 2].max() if len(self.log) else 0))

    # --- a model that ignores the texts --------------------------------------------------------------------------

    @cached_property
    def ignoring(self) -> np.ndarray | None:
        """What it says: of each class or label its share of the training rows, or their mean; None if not known."""
        labels, rows = self.train.get("labels"), self.train.get("rows")
        if not labels or not rows:
            return None
        if self.data.get("problem_type") == ProblemType.REGRESSION:
            return np.array([labels["mean"]], float)
        counts = np.array([labels[name] for name in self.data["labels"]], float)
        # No class is impossible: one that happens not to be in the training set may be in another.
        return np.clip(counts / rows, 0.5 / rows, 1 - 0.5 / rows)

    @cached_property
    def unlearned_loss(self) -> float | None:
        """The training loss of a model that ignores the texts; None where the logged loss is another than the usual."""
        if self.ignoring is None or self._logs_another_loss or not self.is_usual_loss:
            return None
        shares = self.ignoring
        if self.data.get("problem_type") == ProblemType.REGRESSION:
            return float(self.train["labels"]["std"]) ** 2 or None
        if self.data.get("problem_type") == ProblemType.MULTI_LABEL:
            return float(-(shares * np.log(shares) + (1 - shares) * np.log1p(-shares)).mean()) or None
        present = np.array([self.train["labels"][name] for name in self.data["labels"]], float)
        present = present[present > 0] / present.sum()
        return float(-(present * np.log(present)).sum()) or None

    @property
    def _logs_another_loss(self) -> bool:
        config = self.run.config
        if config.get("class_weights") or config.get("label_smoothing_factor"):
            return True
        # Trainer's own logged loss is multiplied by these.
        parts = config.get("gradient_accumulation_steps", 1) * self.run.num_processes
        return bool(config.get("trainer_compat")) and parts > 1

    @cached_property
    def is_usual_loss(self) -> bool:
        """Whether the loss that was evaluated is that of the predictions: a run from Python may have one of its own."""
        evaluated = self.run.results.get("eval_loss")
        if evaluated is None or self.validation is None:
            return True
        return abs(evaluated - self.validation.loss.mean) <= OTHER_LOSS * max(evaluated, 0.1)

    @cached_property
    def row_spread(self) -> float:
        """Standard deviation of the losses of single rows, at the least, of a model that ignores the texts."""
        unlearned, shares = self.unlearned_loss, self.ignoring
        if unlearned is None or shares is None:
            return 0.0
        if self.data.get("problem_type") == ProblemType.REGRESSION:
            return math.sqrt(2) * unlearned
        if self.data.get("problem_type") == ProblemType.MULTI_LABEL:
            spread = np.sqrt((shares * (1 - shares) * np.log(shares / (1 - shares)) ** 2).sum()) / len(shares)
        else:
            spread = np.sqrt((shares * (np.log(shares) + unlearned) ** 2).sum())
        return max(float(spread), ROW_SPREAD * unlearned)

    # --- the course of the training loss -------------------------------------------------------------------------

    def loss_of(self, lines: slice) -> Estimate:
        """Return the mean loss over the updates of some log lines. Its error is that of the lines' scatter or, where
        that is larger, of so many rows as these updates had.
        """
        updates, losses = np.diff(self.log[:, 0], prepend=0)[lines], self.log[lines, 1]
        mean = float(np.average(losses, weights=updates))
        scatter = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 2 else 0.0
        rows, spread = updates.sum() * self.rows_per_update, self.row_spread
        if self.data.get("problem_type") == ProblemType.REGRESSION and self.unlearned_loss is not None:
            # Of numbers that are still guessed far off, the squares lie further apart.
            spread = math.sqrt(spread**2 + 4 * self.unlearned_loss * max(mean - self.unlearned_loss, 0))
        return Estimate(mean, max(scatter, spread / math.sqrt(rows)))

    @property
    def rows_per_update(self) -> float:
        config = self.run.config
        parts = config.get("gradient_accumulation_steps", 1) * self.run.num_processes
        planned = self.run.facts.get("plan", {}).get("rows_per_update")
        return float(planned or config.get("per_device_train_batch_size", 8) * parts)

    @cached_property
    def still_falls(self) -> bool:
        """Whether the training loss falls in the second half of its log lines, and by more than a trifle."""
        window = self.log[-max(MIN_WINDOW, len(self.log) // 2) :, 1]
        if len(window) < MIN_WINDOW:
            return False
        from scipy.stats import kendalltau

        half = len(window) // 2
        before, last = self.loss_of(slice(-len(window), -half)), self.loss_of(slice(-half, None))
        trend = kendalltau(np.arange(len(window)), window, alternative="less").pvalue
        return bool(trend < 0.05) and before.mean - last.mean > max(0.02 * before.mean, last.error)

    def training_loss(self, after: int, until: int) -> float | None:
        """Return the mean loss of the updates between two, of each log line as much as lies there; where little does,
        the loss of the line before.
        """
        steps, losses, _ = self.log.T
        overlaps = np.clip(np.minimum(steps, until) - np.maximum(np.append(0, steps)[:-1], after), 0, None)
        if overlaps.sum() < (until - after) / 2:
            return next((float(loss) for loss in losses[steps <= until][::-1]), None)
        return float(np.average(losses, weights=overlaps))

    # --- the validation set --------------------------------------------------------------------------------------

    @cached_property
    def validation(self) -> Validation | None:
        sets = [name for name in self.run.predictions if name.startswith("validation")]
        if not sets or self.ignoring is None:
            return None
        predictions = self._predictions_of(min(sets)).finite()
        return Validation(predictions, self.ignoring) if len(predictions.labels) else None

    def _predictions_of(self, name: str) -> Predictions:
        # Only now: a training without a labelled set does not wait for the import of scipy.
        from ftloop.report.predictions import parse_predictions

        table, data = read_predictions(self.run.predictions[name], REQUIRED), self.data
        return parse_predictions(table, data["problem_type"], data["labels"], data.get("positive"))

    @property
    def shows_learning(self) -> bool:
        return self.validation is not None and self.validation.shows_learning

    @cached_property
    def validation_error(self) -> float | None:
        """Standard error of a loss of the validation set, as far as it depends on which rows that has."""
        if self.validation is not None and self.is_usual_loss:
            return self.validation.loss.error
        rows = next((each["rows"] for name, each in self.data.get("sets", {}).items() if name[:5] == "valid"), 0)
        timed = self.evaluations[-1] if self.evaluations else {}
        rows = rows or round(timed.get("eval_runtime", 0) * timed.get("eval_samples_per_second", 0))
        # Losses of rows lie about as far apart as they are large.
        return timed["eval_loss"] / math.sqrt(rows) if rows and timed else None

    def metric_error(self, name: str, metric: str) -> float | None:
        """Standard error of a metric of a labelled set, by which rows that has; None: not known."""
        if name not in self.run.predictions:
            return None
        from ftloop.report.scoring import score_predictions

        scores = score_predictions(self._predictions_of(name), with_probabilities=False)["metrics"]
        interval = scores.get(metric, {"low": None})
        return None if interval["low"] is None else float(interval["high"] - interval["low"]) / (2 * NORMAL_95)

    @cached_property
    def words_tell(self) -> bool | None:
        """Whether words alone predict a labelled set better than a constant answer, beyond chance; None: not known."""
        sets, known = (self.run.facts.get("words") or {}).get("sets", {}), self.data.get("sets", {})
        for name, scores in sets.items():
            labels, rows = known.get(name, {}).get("labels"), known.get(name, {}).get("rows", 0)
            if not labels or not rows:
                continue
            if self.data.get("problem_type") == ProblemType.SINGLE_LABEL and scores.get("accuracy") is not None:
                share = max(labels.values()) / rows
                return bool(scores["accuracy"] > share + SURE * math.sqrt(share * (1 - share) / rows))
            correlation = scores.get("spearmanr", scores.get("pearson"))
            if self.data.get("problem_type") == ProblemType.REGRESSION and correlation is not None:
                return bool(correlation > SURE / math.sqrt(rows))
        return None

    # --- the model -----------------------------------------------------------------------------------------------

    def is_larger_than(self, parameters: int) -> bool:
        return int(self.run.facts.get("model", {}).get("parameters", 0)) > parameters

    def trains_at_least(self, share: float) -> bool:
        """Whether that share of the model itself was trained, and no adapter."""
        model = self.run.facts.get("model", {})
        parameters = model.get("parameters", 0)
        return "adapter" not in model and model.get("trained_parameters", parameters) >= share * parameters


def _mean_of(values: np.ndarray) -> Estimate:
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.inf
    return Estimate(float(values.mean()), spread / math.sqrt(len(values)))
