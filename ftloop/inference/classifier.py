"""A fine-tuned model asked for predictions: `load_classifier`, `classify`.

Texts are tokenized, sorted by length and packed into batches of about as many tokens, so that no one has to choose a
batch size and next to nothing of what is computed is padding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from transformers import PretrainedConfig
from transformers.utils import logging

from ftloop.config.problem_type import ProblemType
from ftloop.data.decision import PLAIN, Decision, read_decision, write_decision
from ftloop.data.decode import label_names
from ftloop.data.special_tokens import encode_texts
from ftloop.errors import TrainingError, UserError, summarize
from ftloop.inference.texts import Text, checked_texts, listed_texts
from ftloop.models.adapters import load_adapter
from ftloop.models.damage import check_files
from ftloop.models.folder import naming
from ftloop.models.load import check_model, head_of_another_task, load_tokenizer, load_weights, longest_input
from ftloop.models.match import added_tokens, embedding_sizes, match, set_padding_token, takes
from ftloop.models.published import that_of_own_code
from ftloop.models.weights import holds_adapter
from ftloop.system.console import say
from ftloop.system.gpu import check_kernels
from ftloop.system.manifest import DECISION, RUN_FACTS, read_json, read_manifest
from ftloop.system.out_of_memory import is_out_of_memory, memory_told
from ftloop.system.text import join_some

TOKENS_PER_BATCH = {"cpu": 2**11, "cuda": 2**16}
"""Padding included. More gain nothing on a CPU: a core is busy, and what it works on no longer fits its cache."""
PADDING_PER_BATCH = {"cpu": 2**6, "cuda": 2**12}
"""Tokens that take about as long as another batch would."""
ROWS_PER_CALL = 1024
"""Rows tokenized per call, to bound the tokenizer's memory: it keeps much more of each than its tokens."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one text or pair."""

    label: str
    """The most likely class, or the one that a fitted decision chooses; for regression `LABEL_0`."""
    score: float
    """Its probability; for regression the predicted number."""
    labels: tuple[str, ...]
    """Labels with a probability above 0.5, or above their fitted thresholds, perhaps none, for a model with several
    labels a row; else `label` alone."""
    probabilities: dict[str, float]
    """Probability of every class, in the model's order; empty for regression."""


class _ModelAndTokenizer(NamedTuple):
    model: Any
    tokenizer: Any


class Classifier(_ModelAndTokenizer):
    """A model and its tokenizer, to be called with texts or with pairs of texts."""

    takes_pairs: bool | None = None
    """Whether it was trained on pairs; None where that is not known."""
    is_told = False
    """Whether it was said that texts were given for pairs, or pairs for texts."""
    decision = PLAIN
    """How probabilities and labels follow from the logits, as `ftloop calibrate` has left it."""

    def __call__(self, texts: str | Iterable[Text]) -> list[Prediction]:
        """Classify texts or pairs, in a list or whatever yields them, such as a column of a data frame; one text alone
        is a list of one, and so is a pair in a tuple where the model was trained on pairs.

        Raises: UserError for what is no text, and where it is not known what a tuple of two texts is.
        """
        if isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts):
            if self.takes_pairs is None:
                raise UserError("a tuple of two texts: one pair is [(text, other)], and two texts are [text, other]")
            alone: list[Any] = [texts]
            texts = alone if self.takes_pairs else list(texts)
        listed = listed_texts(texts)
        if listed and not self.is_told and self.takes_pairs == isinstance(listed[0], str):
            ways = ("single texts, and these are pairs", "pairs, and these are single texts: give [(text, other), ...]")
            say("Warning", f"the model was trained on {ways[bool(self.takes_pairs)]}", sys.stderr)
            self.is_told = True
        return classify(self.model, self.tokenizer, listed, decision=self.decision)

    def save(self, folder: str | Path) -> None:
        """Save both as `from_pretrained` reads them; of an adapter, the whole model with the adapter in its weights."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_decision(Path(folder), self.decision, class_names(self.model.config))


def load_classifier(
    model_dir: str | Path, device: str | torch.device | None = None, max_seq_length: int | None = None
) -> Classifier:
    """Load the model and tokenizer that a run left in its output_dir, on a GPU where there is one. A PEFT adapter is
    added to the weights of its base model.

    `max_seq_length`: in tokens; by default that of the run, else the limit of the tokenizer or the model. It becomes
    the tokenizer's limit.
    Raises: UserError when the folder holds no model, or one without a trained head.
    """
    with naming("model_dir"):
        return _load_classifier(str(model_dir), device, max_seq_length)


def _load_classifier(model_dir: str, device: str | torch.device | None, max_seq_length: int | None) -> Classifier:
    folder = check_model(model_dir, adapters=True)
    if folder is None:
        raise UserError(f"model_name_or_path: no model folder at {model_dir}")
    check_files(folder)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        check_kernels(device, "predict on the CPU, with CUDA_VISIBLE_DEVICES= (empty) in the environment")
    logging.disable_progress_bar()
    model: Any
    model, new = load_adapter(folder) if holds_adapter(folder) else load_weights(model_dir)
    if new:
        code = that_of_own_code(model_dir, getattr(model.config, "auto_map", None))
        raise UserError(f"{model_dir} holds no fine-tuned classifier: its weights lack {', '.join(new[:5])}{code}")
    saved_as = model.config.architectures
    if head_of_another_task(model, saved_as, new):
        raise UserError(f"{model_dir} holds no fine-tuned classifier of texts: it is a {saved_as[0]}")
    find_problem_type(model.config)
    has_tokenizer = not holds_adapter(folder) or (folder / "tokenizer_config.json").is_file()
    tokenizer: Any = load_tokenizer(model_dir if has_tokenizer else model.name_or_path, adapters=True)
    settings = read_run_settings(folder)
    wanted = settings.max_seq_length if max_seq_length is None else max_seq_length
    tokenizer.model_max_length = longest_input(model, tokenizer, wanted)
    match(model, tokenizer, model_dir, tokenizer.model_max_length)
    with memory_told("the model", model.parameters()):
        classifier = Classifier(model.to(device).eval(), tokenizer)
    if find_problem_type(model.config) != ProblemType.REGRESSION:
        names = class_names(model.config)
        classifier.decision = read_decision(folder, names)
        if classifier.decision != PLAIN:
            positive = names.index(settings.positive) if settings.positive in names else 1
            say("Decision", f"{classifier.decision.describe(names, positive)} ({folder / DECISION})", sys.stderr)
    classifier.takes_pairs = len(settings.text_columns) == 2 if settings.text_columns else None
    return classifier


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run; None where they are unknown."""

    text_column_names: list[str] | None = None
    task_name: str | None = None
    max_seq_length: int | None = None
    label_delimiter: str | None = None
    text_columns: tuple[str, ...] = ()
    """Columns it has read, named by the user or not."""
    positive: str | None = None
    """The class, of two, whose F1 is given."""
    numbers_are_ids: bool | None = None
    """Whether the run read the numbers of its classes as these."""


def read_run_settings(folder: Path) -> RunSettings:
    """Read the manifest of an output_dir or a checkpoint. Of a damaged one nothing is known."""

    def known(value: Any, wanted: type) -> Any:
        return value if isinstance(value, wanted) else None

    with suppress(UserError):
        config = (read_manifest(folder) or {}).get("config", {})
        names = known(config.get("text_column_names"), list)
        if names is not None and not (1 <= len(names) <= 2 and all(isinstance(name, str) for name in names)):
            names = None
        facts = read_json(folder / RUN_FACTS) if (folder / RUN_FACTS).is_file() else {}
        data = known(facts.get("data"), dict) or {}
        return RunSettings(
            names,
            known(config.get("task_name"), str),
            known(config.get("max_seq_length"), int),
            known(config.get("label_delimiter"), str),
            tuple(map(str, known(data.get("text_columns"), list) or ())),
            known(data.get("positive", config.get("positive_label")), str),
            known(data.get("numbers_are_ids"), bool),
        )
    return RunSettings()


def find_problem_type(config: Any) -> ProblemType:
    """Tell what a model predicts by its configuration. Raises: UserError for a model that predicts several numbers."""
    if config.problem_type == ProblemType.MULTI_LABEL:
        return ProblemType.MULTI_LABEL
    if config.num_labels == 1:
        return ProblemType.REGRESSION
    if config.problem_type == ProblemType.REGRESSION:
        raise UserError(f"the model predicts {config.num_labels} numbers a row; ftloop knows one")
    return ProblemType.SINGLE_LABEL


def class_names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def classify(
    model: Any,
    tokenizer: Any,
    texts: str | Iterable[Text],
    max_seq_length: int | None = None,
    max_tokens: int | None = None,
    decision: Decision = PLAIN,
) -> list[Prediction]:
    """Classify each text, or each pair of texts, in their order. Model and tokenizer are left as they were; where
    the tokenizer has no padding token, its end token serves, and becomes that of the model's config.

    `max_seq_length`: in tokens; by default the tokenizer's limit. `max_tokens` of a batch, padding included: by default
    what suits the device; halved where it does not fit into memory. `decision`: how labels follow from the logits;
    by default the most likely class, or labels above one half. Which texts meet in a batch changes the last digits
    of a score and no more.
    Raises: UserError for what is no text, and for tokens that the model does not know.
    """
    if not isinstance(getattr(model, "config", None), PretrainedConfig):
        raise UserError(f"classify: {type(model).__name__} has no config, a PretrainedConfig, that names its labels")
    problem_type, names = find_problem_type(model.config), class_names(model.config)
    texts = listed_texts(texts)
    if not texts:
        return []
    # Few models take padding on the left; load_classifier has looked at both, and others may not have.
    if tokenizer.padding_side == "left" or tokenizer.pad_token_id is None:
        # A shallow copy shares the table of special tokens with the tokenizer, which is the user's.
        tokenizer = copy(tokenizer) if tokenizer.pad_token_id is not None else deepcopy(tokenizer)
        with naming("classify"):
            set_padding_token(tokenizer, "the model")
        match(model, tokenizer, "it", max_seq_length or tokenizer.model_max_length)
    encoded = encode(tokenizer, checked_texts(texts), max_seq_length)
    if not encoded.lengths.all():
        raise UserError(f"text {int(encoded.lengths.argmin()) + 1} has no tokens")
    logits = np.empty((len(texts), len(names)), np.float32)
    for rows, values in compute_logits(model, tokenizer, encoded, BatchBudget.of(model, max_tokens)):
        if values.shape[1] != len(names):
            given = f"{values.shape[1]} numbers a row, and its config names {len(names)} classes"
            raise UserError(f"classify: the model gives {given}: num_labels is not set")
        logits[rows] = values
    shares, chosen = decision.probabilities(problem_type, logits), decision.labels(problem_type, logits)
    labels = label_names(problem_type, names, chosen)
    one = chosen if problem_type == ProblemType.SINGLE_LABEL else shares.argmax(axis=1)
    predictions = []
    for row, best, predicted in zip(shares, one.tolist(), labels, strict=True):
        by_class = {} if problem_type == ProblemType.REGRESSION else dict(zip(names, row.tolist(), strict=True))
        above = tuple(predicted) if problem_type == ProblemType.MULTI_LABEL else (names[best],)
        predictions.append(Prediction(names[best], float(row[best]), above, by_class))
    return predictions


# From texts to logits


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as tokens, without padding."""

    inputs: dict[str, list[np.ndarray]]
    """Arguments of the model, for each text."""
    lengths: np.ndarray
    """Tokens of each text."""
    truncated: int = 0
    """Texts that were longer than the limit."""
    special: int = 0
    """Texts or pairs in which a special token is written, and is read as text."""


@dataclass
class BatchBudget:
    """Limits of a batch."""

    tokens: int
    """Padding included; reduced once so many did not fit into memory."""
    padding: int

    @staticmethod
    def of(model: Any, tokens: int | None = None) -> BatchBudget:
        device = "cpu" if _device(model).type == "cpu" else "cuda"
        return BatchBudget(tokens or TOKENS_PER_BATCH[device], PADDING_PER_BATCH[device])

    def rows(self, lengths: np.ndarray) -> int:
        """Return how many of these rows, sorted with the longest first, make the next batch; one at least."""
        first = lengths[: max(1, self.tokens // int(lengths[0]))]
        return int(np.searchsorted(np.cumsum(first[0] - first), self.padding, side="right"))


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def encode(tokenizer: Any, texts: Sequence[Text], max_length: int | None) -> TokenizedTexts:
    inputs: dict[str, list[np.ndarray]] = {}
    truncated = special = 0
    for start in range(0, len(texts), ROWS_PER_CALL):
        part = texts[start : start + ROWS_PER_CALL]
        columns = [list(part)] if isinstance(part[0], str) else [list(column) for column in zip(*part, strict=True)]
        # A mask whatever the model's usual inputs are: the padding here would be read as text.
        settings = {"truncation": True, "max_length": max_length, "return_attention_mask": True}
        of_part, cut, holding = encode_texts(tokenizer, columns, **settings)
        truncated += sum(cut)
        special += holding
        for name, rows in of_part.items():
            inputs.setdefault(name, []).extend(np.asarray(row, np.int32) for row in rows)
    return TokenizedTexts(inputs, np.array([len(ids) for ids in inputs["input_ids"]]), truncated, special)


def compute_logits(
    model: Any, tokenizer: Any, encoded: TokenizedTexts, budget: BatchBudget
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches: the indices of their texts, and their logits, float32.

    Texts of one length meet and hardly need padding; the longest come first, so that what does not fit into memory
    shows at once. A text without tokens is skipped.
    Raises: UserError for tokens that the model does not know, and for logits that are not finite.
    """
    _check_ids(model, tokenizer, encoded)
    was_training = model.training
    model.eval()
    for name in [name for name in encoded.inputs if not takes(model, name)]:
        del encoded.inputs[name]
    order = np.argsort(-encoded.lengths, kind="stable")[: np.count_nonzero(encoded.lengths)]
    lengths, done = encoded.lengths[order], 0
    try:
        while done < len(order):
            longest = int(lengths[done])
            rows = order[done : done + budget.rows(lengths[done:])]
            logits = _forward(model, _padded(encoded, rows, tokenizer), longest)
            if logits is None:
                budget.tokens = len(rows) * longest // 2
                clear_device_cache(garbage_collection=True)
                continue
            if not np.isfinite(logits).all():
                raise UserError(
                    "what the model gives is not finite: its weights are damaged, or it has not been trained well"
                )
            done += len(rows)
            yield rows, logits
    finally:
        model.train(was_training)


def _check_ids(model: Any, tokenizer: Any, encoded: TokenizedTexts) -> None:
    vocabulary, types = embedding_sizes(model)
    is_padded = len(set(encoded.lengths.tolist())) > 1
    for name, known, what in (("input_ids", vocabulary, "tokens"), ("token_type_ids", types, "token types")):
        padding = tokenizer.pad_token_id or 0 if is_padded and what == "tokens" else 0
        if max((ids.max() for ids in encoded.inputs.get(name, []) if len(ids)), default=0) < known > padding:
            continue
        why = "they do not match"
        if what == "tokens" and (added := added_tokens(model, tokenizer)):
            why = f"{join_some(added, 6)} were added to it alone; train the model on with texts that hold them"
        raise UserError(f"the tokenizer gives {what} beyond the {known} that the model knows; {why}")


def _forward(model: Any, inputs: dict[str, Any], longest: int) -> np.ndarray | None:
    """Return the logits, None if the batch does not fit into memory. Raises: TrainingError if one row does not."""
    try:
        with torch.inference_mode():
            on_device = {name: values.to(_device(model)) for name, values in inputs.items()}
            outputs = model(**on_device)
            if isinstance(outputs, (dict, tuple)):  # a class of the user's own may give logits alone
                outputs = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
            logits: np.ndarray = outputs.float().cpu().numpy()
            return logits
    except (ValueError, IndexError) as error:
        raise UserError(
            f"the model cannot take what its tokenizer gives ({type(error).__name__}: {summarize(error)})"
        ) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(inputs["input_ids"]) > 1:
            return None
        message = f"one text of {longest} tokens did not fit into memory ({summarize(error)[:200]})"
        raise TrainingError(f"{message}; --max_seq_length makes it shorter") from None


def _padded(encoded: TokenizedTexts, rows: np.ndarray, tokenizer: Any) -> dict[str, Any]:
    lengths = encoded.lengths[rows]
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    batch = {}
    for name, values in encoded.inputs.items():
        table = np.full((len(rows), lengths.max()), fill.get(name, 0), np.int64)
        for line, row, length in zip(table, rows, lengths, strict=True):
            line[slice(-length, None) if tokenizer.padding_side == "left" else slice(length)] = values[row]
        batch[name] = torch.from_numpy(table)
    return batch
