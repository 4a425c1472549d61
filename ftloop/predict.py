"""Inference with a fine-tuned model: from Python, or `python -m ftloop.predict --model DIR TEXT [TEXT ...]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ftloop.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """What the model says of one text or pair."""

    label: str
    """The class's name; for regression `LABEL_0`."""
    score: float
    """The class's probability; for regression the predicted number."""


Text = str | Sequence[str]


def load_classifier(model_dir: str | Path, device: str | torch.device | None = None) -> tuple[Any, Any]:
    """The model and tokenizer that a run left in its output_dir, on a GPU where there is one.

    Raises: UserError when the folder holds no model.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    from ftloop.model import check_model

    folder = check_model(str(model_dir))
    if folder is None:
        raise UserError(f"no model folder at {model_dir}")
    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def classify(
    model: Any, tokenizer: Any, texts: Sequence[Text], batch_size: int = 32, max_seq_length: int | None = None
) -> list[Prediction]:
    """The most likely class of each text, or of each pair of texts, in their order. The model is left as it was.

    `max_seq_length`: in tokens; by default the tokenizer's limit. Give the one used in training where there was one.
    """
    was_training = model.training
    model.eval()
    found: list[Prediction] = []
    for start in range(0, len(texts), batch_size):
        rows = texts[start : start + batch_size]
        columns = [list(rows)] if isinstance(rows[0], str) else [list(column) for column in zip(*rows, strict=True)]
        inputs = tokenizer(*columns, truncation=True, max_length=max_seq_length, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs.to(model.device)).logits.float()
        if model.config.num_labels == 1:
            found += [Prediction(model.config.id2label[0], value.item()) for value in logits.reshape(-1)]
            continue
        best = logits.softmax(dim=-1).max(dim=-1)
        found += [
            Prediction(str(model.config.id2label[int(index)]), float(score))
            for score, index in zip(best.values, best.indices, strict=True)
        ]
    model.train(was_training)
    return found


def pair_up(texts: Sequence[str], pairs: bool) -> list[Text]:
    """Single texts as they are; for pairs, each two after each other. Raises: UserError for an odd number."""
    if not pairs:
        return list(texts)
    if len(texts) % 2:
        raise UserError(f"pairs of texts are wanted, and {len(texts)} texts are not pairs")
    return list(zip(texts[::2], texts[1::2], strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ftloop.predict", allow_abbrev=False, description=__doc__)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="texts; with --pairs, two for each prediction")
    parser.add_argument("--model", required=True, metavar="DIR", help="the output_dir of a run")
    parser.add_argument("--max_seq_length", type=int, help="in tokens; give the one used in training if there was one")
    parser.add_argument("--pairs", action="store_true", help="the model takes pairs of texts")
    given = parser.parse_args(argv)
    try:
        texts = pair_up(given.texts, given.pairs)
        model, tokenizer = load_classifier(given.model)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = classify(model, tokenizer, texts, max_seq_length=given.max_seq_length)
    for text, prediction in zip(texts, found, strict=True):
        print(json.dumps({"text": text} | asdict(prediction), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
