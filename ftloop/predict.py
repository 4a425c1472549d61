"""Inference with a fine-tuned model: from Python, or `python -m ftloop.predict --model DIR TEXT [TEXT ...]`."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ftloop.config import plain_text
from ftloop.errors import ExitCode, UserError, tell


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

    Raises: UserError when the folder holds no model, or one without a trained head.
    """
    from transformers.utils import logging

    from ftloop.model import check_model, load_tokenizer, load_weights

    if check_model(str(model_dir)) is None:
        raise UserError(f"no model folder at {model_dir}")
    logging.disable_progress_bar()
    model, new = load_weights(str(model_dir))
    if new:
        raise UserError(f"{model_dir} holds no fine-tuned classifier: its weights lack {', '.join(new[:5])}")
    classifier: Any = model
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return classifier.to(device).eval(), load_tokenizer(str(model_dir))


def classify(
    model: Any, tokenizer: Any, texts: Sequence[Text], batch_size: int = 32, max_seq_length: int | None = None
) -> list[Prediction]:
    """The most likely class of each text, or of each pair of texts, in their order. The model is left as it was.

    `max_seq_length`: in tokens; by default the tokenizer's limit. Give the one used in training where there was one.
    Raises: UserError for tokens that the model does not know.
    """
    known = getattr(model.get_input_embeddings(), "num_embeddings", math.inf)
    was_training = model.training
    model.eval()
    found: list[Prediction] = []
    for start in range(0, len(texts), batch_size):
        rows = texts[start : start + batch_size]
        columns = [list(rows)] if isinstance(rows[0], str) else [list(column) for column in zip(*rows, strict=True)]
        inputs = tokenizer(*columns, truncation=True, max_length=max_seq_length, padding=True, return_tensors="pt")
        if int(inputs["input_ids"].max()) >= known:
            raise UserError(f"the tokenizer gives tokens beyond the {known} that the model knows; they do not match")
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
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    words = sys.argv[1:] if argv is None else list(argv)
    given = parser.parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console that cannot show a text ends nothing
    try:
        from transformers.utils import logging

        from ftloop.data import check_room
        from ftloop.model import longest_input

        logging.set_verbosity_error()  # what it would warn of is an error here
        texts = pair_up([_checked(text, "TEXT") for text in given.texts], given.pairs)
        model, tokenizer = load_classifier(_checked(given.model, "model"))
        max_length = longest_input(model, tokenizer, given.max_seq_length)
        check_room(tokenizer, max_length, pair=given.pairs)
        for text, found in zip(texts, classify(model, tokenizer, texts, max_seq_length=max_length), strict=True):
            print(json.dumps({"text": text} | asdict(found), ensure_ascii=False))
    except Exception as error:
        return tell(error, "--traceback" in words)
    return ExitCode.DONE


def _checked(word: str, what: str) -> str:
    try:
        return plain_text(word)
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
