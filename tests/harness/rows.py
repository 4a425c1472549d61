"""Rows of many lengths for tiny models, texts, and the tokenizer and collator for them. Nothing is downloaded."""

from __future__ import annotations

import random
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

VOCABULARY = 120
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", *(f"word{i}" for i in range(VOCABULARY - 7))]


def tiny_rows(count: int, num_labels: int = 2, seed: int = 0, regression: bool = False) -> Dataset:
    """Rows of 4 to 20 tokens whose label shows in their tokens, so that something can be learned."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randrange(num_labels)
        words = [draw.randrange(5, VOCABULARY) for _ in range(draw.randrange(4, 20))]
        words[1] = 5 + label
        rows.append(
            {
                "input_ids": words,
                "token_type_ids": [0] * len(words),
                "attention_mask": [1] * len(words),
                "label": label / 2 if regression else label,
            }
        )
    return Dataset.from_list(rows)


class RowsThatDraw(torch.utils.data.Dataset[Any]):
    """Makes its rows when they are asked for, drawing a word of each by Python's generator, and counts them."""

    def __init__(self, rows: Dataset) -> None:
        self.rows, self.reads = list(rows), 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        ids = self.rows[index]["input_ids"]
        return self.rows[index] | {"input_ids": [*ids[:-1], random.randrange(5, VOCABULARY)]}


class TinyTokenizer:
    """Pads as a tokenizer does; the rows are token ids already."""

    pad_token_id = 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        batch = {
            name: torch.tensor([example[name] + [0] * (longest - len(example[name])) for example in examples])
            for name in ("input_ids", "token_type_ids", "attention_mask")
            if name in examples[0]
        }
        if "label" in examples[0]:
            batch["labels"] = torch.tensor([example["label"] for example in examples])
        return batch


pad = TinyTokenizer()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words as tokens, single texts and pairs framed as BERT's are."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )


def tiny_pairs(count: int) -> list[dict[str, Any]]:
    """Text rows whose label is the first word of the first sentence."""
    return [
        {
            "sentence1": f"{'yes' if i % 3 else 'no'} word{i % 90}",
            "sentence2": " ".join(f"word{(i + k) % 90}" for k in range(1 + i % 7)),
            "label": int(i % 3 > 0),
        }
        for i in range(count)
    ]
