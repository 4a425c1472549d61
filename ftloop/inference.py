"""A fine-tuned model asked for predictions: `load_classifier`, `classify`.

Texts are tokenized, sorted by length and packed into batches of about as many tokens, so that no one has to choose a
batch size and next to nothing of what is computed is padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ftloop.config import shown
from ftloop.durable import FACTS, read_json, read_manifest
from ftloop.errors import TrainingError, UserError, first_line

if TYPE_CHECKING:
    import torch

TOKENS_PER_BATCH = {"cpu": 2**11, "cuda": 2**16}
"""Padding included. More gain nothing on a CPU: a core is busy, and what it works on fits its cache no longer."""
PADDING_PER_BATCH = {"cpu": 2**6, "cuda": 2**12}
"""Tokens, about as many as take the time that another batch would."""
ROWS_AT_ONCE = 1024
"""That are tokenized; a tokenizer keeps much more of each than its tokens."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one text or pair."""

    label: str
    """The most likely class; for regression `LABEL_0`."""
    score: float
    """Its probability; for regression the predicted number."""
    labels: tuple[str, ...]
    """Of a model with several labels a row: those with a probability above 0.5, perhaps none. Else `label` alone."""
    probabilities: dict[str, float]
    """Of every class, in the model's order; none for regression."""


Text = str | Sequence[str]


class Classifier(NamedTuple):
    """A model and its tokenizer, to be called with texts or with pairs of texts."""

    model: Any
    tokenizer: Any

    def __call__(self, texts: str | Sequence[Text]) -> list[Prediction]:
        """As `classify`; one text alone is a list of one."""
        return classify(self.model, self.tokenizer, [texts] if isinstance(texts, str) else texts)


def load_classifier(
    model_dir: str | Path, device: str | torch.device | None = None, max_seq_length: int | None = None
) -> Classifier:
    """The model and tokenizer that a run left in its output_dir, on a GPU where there is one.

    `max_seq_length`: in tokens; by default that of the run, else the limit of the tokenizer or the model. It becomes
    the tokenizer's limit.
    Raises: UserError when the folder holds no model, or one without a trained head.
    """
    import torch
    from transformers.utils import logging

    from ftloop.model import check_model, load_tokenizer, load_weights, longest_input

    folder = check_model(str(model_dir))
    if folder is None:
        raise UserError(f"no model folder at {model_dir}")
    logging.disable_progress_bar()
    model, new = load_weights(str(model_dir))
    if new:
        raise UserError(f"{model_dir} holds no fine-tuned classifier: its weights lack {', '.join(new[:5])}")
    kind_of(model.config)
    tokenizer: Any = load_tokenizer(str(model_dir))
    wanted = trained_with(folder).max_seq_length if max_seq_length is None else max_seq_length
    tokenizer.model_max_length = longest_input(model, tokenizer, wanted)
    classifier: Any = model
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Classifier(classifier.to(device).eval(), tokenizer)


@dataclass(frozen=True)
class Trained:
    """What a run was told about its data, where it has left that."""

    text_column_names: list[str] | None = None
    task_name: str | None = None
    max_seq_length: int | None = None
    label_delimiter: str | None = None
    text_columns: tuple[str, ...] = ()
    """Those it has read, named or not."""


def trained_with(folder: Path) -> Trained:
    """From the manifest of an output_dir or a checkpoint. Of one that is damaged nothing is known."""
    with suppress(UserError):
        config = (read_manifest(folder) or {}).get("config", {})
        names, length = config.get("text_column_names"), config.get("max_seq_length")
        task, delimiter = config.get("task_name"), config.get("label_delimiter")
        return Trained(
            names
            if isinstance(names, list) and 1 <= len(names) <= 2 and all(isinstance(n, str) for n in names)
            else None,
            task if isinstance(task, str) else None,
            length if isinstance(length, int) else None,
            delimiter if isinstance(delimiter, str) else None,
            _text_columns(folder),
        )
    return Trained()


def _text_columns(folder: Path) -> tuple[str, ...]:
    facts = read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
    data = facts.get("data")
    columns = data.get("text_columns") if isinstance(data, dict) else None
    return tuple(map(str, columns)) if isinstance(columns, list) else ()


def classify(
    model: Any, tokenizer: Any, texts: Sequence[Text], max_seq_length: int | None = None, max_tokens: int | None = None
) -> list[Prediction]:
    """What the model says of each text, or of each pair of texts, in their order. The model is left as it was.

    `max_seq_length`: in tokens; by default the tokenizer's limit. `max_tokens` of a batch, padding included: by default
    what suits the device; halved where it does not fit into memory. Which texts meet in a batch changes the last digits
    of a score and no more.
    Raises: UserError for what is no text, and for tokens that the model does not know.
    """
    kind, names = kind_of(model.config), class_names(model.config)
    if not texts:
        return []
    encoded = encode(tokenizer, _checked_texts(texts), max_seq_length)
    if not encoded.lengths.all():
        raise UserError(f"text {int(encoded.lengths.argmin()) + 1} has no tokens")
    logits = np.empty((len(texts), len(names)), np.float32)
    for rows, values in logits_of(model, tokenizer, encoded, Budget.of(model, max_tokens)):
        logits[rows] = values
    found = probabilities_of(kind, logits)
    labels, _ = decide(kind, names, found)
    predictions = []
    for row, index, said in zip(found, found.argmax(axis=1).tolist(), labels, strict=True):
        each = {} if kind == "regression" else dict(zip(names, row.tolist(), strict=True))
        above = tuple(said) if kind == "multi_label" else (names[index],)
        predictions.append(Prediction(names[index], float(row[index]), above, each))
    return predictions


def pair_up(texts: Sequence[str], pairs: bool) -> list[Text]:
    """Single texts as they are; for pairs, each two after each other. Raises: UserError for an odd number."""
    if not pairs:
        return list(texts)
    if len(texts) % 2:
        raise UserError(f"pairs of texts are wanted, and {len(texts)} texts are not pairs")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _checked_texts(texts: Sequence[Text]) -> Sequence[Text]:
    width = 1 if isinstance(texts[0], str) else 2
    for number, text in enumerate(texts, start=1):
        is_text = isinstance(text, str) if width == 1 else isinstance(text, (list, tuple)) and len(text) == 2
        if not is_text or not all(isinstance(part, str) for part in text):
            wanted = "a text" if width == 1 else "a pair of texts"
            raise UserError(f"text {number} is not {wanted} as the first is: {shown(text)}")
    return texts


def class_names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def kind_of(config: Any) -> str:
    """`classes`, `multi_label` or `regression`, as a run's facts say it.

    Raises: UserError for a model that predicts several numbers.
    """
    if config.problem_type == "multi_label_classification":
        return "multi_label"
    if config.num_labels == 1:
        return "regression"
    if config.problem_type == "regression":
        raise UserError(f"the model predicts {config.num_labels} numbers a row; ftloop knows one")
    return "classes"


def probabilities_of(kind: str, logits: np.ndarray) -> np.ndarray:
    """Of all classes, as float32; for regression the number."""
    import torch

    values = torch.from_numpy(logits)
    if kind != "regression":
        values = values.sigmoid() if kind == "multi_label" else values.softmax(dim=-1)
    found: np.ndarray = values.numpy()
    return found


def decide(kind: str, names: Sequence[str], found: np.ndarray) -> tuple[list[Any], list[Any] | None]:
    """What `probabilities_of` rows say of each: the most likely class, or a list of all above 0.5 in the model's order;
    and the probability of each. Of a regression the number, and None."""
    if kind == "regression":
        return found.reshape(-1).tolist(), None
    if kind == "classes":
        return [names[index] for index in found.argmax(axis=1).tolist()], found.max(axis=1).tolist()
    above = [np.flatnonzero(row > 0.5) for row in found]
    labels = [[names[index] for index in indices.tolist()] for indices in above]
    return labels, [row[indices].tolist() for row, indices in zip(found, above, strict=True)]


# From texts to logits


@dataclass(frozen=True)
class Encoded:
    """Texts as tokens, without padding."""

    inputs: dict[str, list[np.ndarray]]
    """As the model is called, for each text."""
    lengths: np.ndarray
    """In tokens."""
    truncated: int
    """Texts that were longer than the limit; not known of a tokenizer that is written in Python."""


@dataclass
class Budget:
    """What a batch holds at most."""

    tokens: int
    """Padding included; less from when on so many did not fit into memory."""
    padding: int

    @staticmethod
    def of(model: Any, tokens: int | None = None) -> Budget:
        kind = "cpu" if model.device.type == "cpu" else "cuda"
        return Budget(tokens or TOKENS_PER_BATCH[kind], PADDING_PER_BATCH[kind])

    def rows(self, lengths: np.ndarray) -> int:
        """How many of the first of these rows, which are sorted, the longest first; one at least."""
        first = lengths[: max(1, self.tokens // int(lengths[0]))]
        return int(np.searchsorted(np.cumsum(first[0] - first), self.padding, side="right"))


def encode(tokenizer: Any, texts: Sequence[Text], max_length: int | None) -> Encoded:
    inputs: dict[str, list[np.ndarray]] = {}
    truncated = 0
    for start in range(0, len(texts), ROWS_AT_ONCE):
        part = texts[start : start + ROWS_AT_ONCE]
        columns = [list(part)] if isinstance(part[0], str) else [list(column) for column in zip(*part, strict=True)]
        # A mask whatever the model's usual inputs are: the padding here would be read as text.
        given = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=True)
        if given.is_fast:
            truncated += sum(bool(row.overflowing) for row in given.encodings)
        for name, rows in given.items():
            inputs.setdefault(name, []).extend(np.asarray(row, np.int32) for row in rows)
    return Encoded(inputs, np.array([len(ids) for ids in inputs["input_ids"]]), truncated)


def logits_of(model: Any, tokenizer: Any, encoded: Encoded, budget: Budget) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches: which texts, and their logits, float32. Texts of one length meet and hardly need padding; the longest
    come first, so that what does not fit into memory shows at once. One without tokens is left out.

    Raises: UserError for tokens that the model does not know, and for logits that are not finite.
    """
    import torch

    known = getattr(model.get_input_embeddings(), "num_embeddings", math.inf)
    if max((ids.max() for ids in encoded.inputs["input_ids"] if len(ids)), default=0) >= known:
        raise UserError(f"the tokenizer gives tokens beyond the {known} that the model knows; they do not match")
    was_training = model.training
    model.eval()
    order = np.argsort(-encoded.lengths, kind="stable")[: np.count_nonzero(encoded.lengths)]
    lengths, done = encoded.lengths[order], 0
    try:
        while done < len(order):
            longest = int(lengths[done])
            rows = order[done : done + budget.rows(lengths[done:])]
            try:
                with torch.inference_mode():
                    logits = model(**_padded(encoded, rows, tokenizer, model.device)).logits.float().cpu().numpy()
            except RuntimeError as error:
                from ftloop.memory import is_out_of_memory

                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    told = f"one text of {longest} tokens did not fit into memory ({first_line(error)[:200]})"
                    raise TrainingError(f"{told}; what makes it smaller: --max_seq_length") from None
                budget.tokens = len(rows) * longest // 2
                logits = None
            if logits is None:  # here, where no traceback holds what did not fit
                _clear_cache()
                continue
            if not np.isfinite(logits).all():
                raise UserError(
                    "what the model gives is not finite: its weights are damaged, or it has not been trained well"
                )
            done += len(rows)
            yield rows, logits
    finally:
        model.train(was_training)


def _clear_cache() -> None:
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def _padded(encoded: Encoded, rows: np.ndarray, tokenizer: Any, device: Any) -> dict[str, Any]:
    import torch

    lengths = encoded.lengths[rows]
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    batch = {}
    for name, values in encoded.inputs.items():
        table = np.full((len(rows), lengths.max()), fill.get(name, 0), np.int64)
        for line, row, length in zip(table, rows, lengths, strict=True):
            line[slice(-length, None) if tokenizer.padding_side == "left" else slice(length)] = values[row]
        batch[name] = torch.from_numpy(table).to(device)
    return batch
